"""``quantum once``: the exit code tells the truth, in a process of its own as in this one."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.commands import run_command
from tests.proxy import CuttingProxy
from tests.world import (
    hash_of,
    materialized,
    real_closes,
    write_candles,
    write_world,
)

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


@pytest.fixture
def live(valkey_url: str, tmp_path: Path) -> RedisStore:
    """A filled world under the real clock, because the command has no other."""
    store = RedisStore(load_settings(redis_url=valkey_url, quantum_home=tmp_path / "home"), lambda: datetime.now(UTC))
    store.client.flushdb()
    write_world(store)
    return store


def settings_of(store: RedisStore) -> dict[str, str]:
    return {"REDIS_URL": store.settings.url, "QUANTUM_HOME": str(store.settings.quantum_home)}


def quantum(store: RedisStore, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it with the settings of a store."""
    return run_command(*arguments, environment=settings_of(store) | variables)


def process(store: RedisStore, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it as a user does, in a process of its own."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **settings_of(store), **variables}
    command = [sys.executable, "-m", "quantum_ops.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False, cwd="/")


def test_one_cycle_exits_with_0_and_leaves_a_real_run(live: RedisStore) -> None:
    """The proof pack calls it, and so do operators."""
    import dagster as dg

    done = process(live, "once", "--json")
    assert done.returncode == 0, done.stderr
    assert "Single cycle complete" in done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["success"]
    of_account = outcome["assets"].pop("risk_guard")
    assert (of_account["evaluated"], of_account["published"]) == (1, 1)
    assert {asset: counts["evaluated"] for asset, counts in outcome["assets"].items()} == dict.fromkeys(outcome["assets"], 3)
    intended = outcome["assets"]["trade_intent"].pop("published")  # only what is due is intended
    assert intended == len(list(live.client.scan_iter("quantum:trade_intent:pending:*")))
    assert {counts.get("published", 3) for counts in outcome["assets"].values()} == {3}
    assert len(outcome["assets"]) == 9
    with dg.DagsterInstance.from_config(str(live.settings.quantum_home)) as instance:
        assert instance.get_run_by_id(outcome["run_id"]).is_success
        assert materialized(instance, "risk_proposal") == set(SYMBOLS)


@pytest.mark.slow
def test_a_symbol_that_fails_is_named_and_the_exit_code_is_1(live: RedisStore) -> None:
    """A script must notice without reading logs."""
    write_candles(live, "ETHUSDT", real_closes("ETHUSDT")[:100])
    done = quantum(live, "once")
    assert done.returncode == 1
    assert "market_state ETHUSDT: too_few_candles" in done.stderr
    assert "Published proposal for BTCUSDT" in done.stderr
    assert hash_of(live, "risk_proposal", "ETHUSDT") == {}


def test_synthetic_positions_are_computed_on_request_and_labelled(live: RedisStore) -> None:
    """For a first look without an execution side."""
    live.client.delete(*(f"quantum:state:positions:{symbol}" for symbol in SYMBOLS))
    done = quantum(live, "once", "--symbols", "BTCUSDT", "--position-source", "synthetic")
    assert done.returncode == 0, done.stderr
    proposal = hash_of(live, "risk_proposal", "BTCUSDT")
    assert (proposal["position_source"], proposal["data_source"]) == ("synthetic", "synthetic")
    assert float(proposal["position_entry_price"]) == 100


def test_wrong_settings_exit_with_2_before_anything_starts(live: RedisStore) -> None:
    """All of them in one message."""
    done = process(live, "once", SYMBOLS="", P31_SCALE="-1")
    assert done.returncode == 2
    assert "SYMBOLS" in done.stderr
    assert "P31_SCALE" in done.stderr
    assert not live.settings.quantum_home.exists()


def test_an_unreachable_server_exits_with_3_and_is_named(live: RedisStore) -> None:
    """Infrastructure trouble is not the symbols' fault."""
    done = process(live, "once", REDIS_URL="redis://127.0.0.1:1")
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("cut_after", [9_000, 20_000, 30_000])
def test_a_server_lost_in_mid_cycle_exits_with_3_and_leaves_no_half_hash(live: RedisStore, cut_after: int) -> None:
    """Whatever was published is whole; the rest is missing."""
    from quantum_core.contracts.reading import State
    from quantum_core.contracts.tables import PUBLISHED_TABLES

    with CuttingProxy(live.settings.url, cut_after) as proxy:
        done = quantum(live, "once", REDIS_URL=proxy.url)
        assert done.returncode == 3, done.stderr
        assert proxy.url in done.stderr
    for asset, table in PUBLISHED_TABLES.items():
        if asset != "capital_efficiency":
            assert all(reading.state is not State.FAILED for reading in live.read(table, table.subjects(SYMBOLS)))
