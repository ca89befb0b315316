"""``quantum status``: what is missing is told apart from what is not due."""

from datetime import UTC, datetime

import dagster as dg
import pytest
from click.testing import CliRunner

from quantum_assets.cli.status import status
from resources.redis_store import RedisStore
from resources.settings import load_settings
from tests.world import real_closes, run_cycle, write_candles, write_efficiency, write_position, write_target

SYMBOL = "SOLUSDT"


@pytest.mark.parametrize(("removed", "code"), [(False, 0), (True, 1)])
def test_nothing_intended_is_no_trouble_and_a_memory_that_is_gone_is(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch, *, removed: bool, code: int
) -> None:
    """Most positions ask for nothing most of the time."""
    store = RedisStore(load_settings(redis_url=valkey_url, symbols=SYMBOL), lambda: datetime.now(UTC))
    store.client.flushdb()
    closes = real_closes(SYMBOL, 400)  # a trend: nothing is proposed
    write_candles(store, SYMBOL, closes)
    write_position(store, SYMBOL, entry=closes[-1], mark=closes[-1])
    write_target(store, SYMBOL)
    write_efficiency(store, SYMBOL)
    with dg.instance_for_test() as instance:
        run_cycle(store, instance)
    if removed:
        store.client.delete(store.keys.of("trade_intent_last", SYMBOL))
    store.client.close()
    monkeypatch.setenv("REDIS_URL", valkey_url)
    done = CliRunner().invoke(status, ["--symbols", SYMBOL, "--json"])
    assert done.exit_code == code, done.output
    assert '"asset": "trade_intent"' in done.output
    assert ('"harvest_action": "NONE"' in done.output) or removed
