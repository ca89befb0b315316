"""What the comparison with peers says of a peer is looked at, and a peer that cannot be had is named."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.naked import settings_for
from benchmarks.peers import environment, written_twice
from resources.store.redis_store import RedisStore

SAID = {"symbol": "S0000USDT", "timestamp": "100", "sigma": "0.1", "mu": "0", "regime": "trend", "cycle_id": "c"}


@pytest.fixture
def system(valkey_url: str, tmp_path: Path) -> Iterator[SimpleNamespace]:
    store = RedisStore(settings_for(1, f"{valkey_url}/8", str(tmp_path)))
    store.client.flushdb()
    yield SimpleNamespace(store=store)
    store.client.flushdb()
    store.client.close()


def say_at(system: SimpleNamespace, second: int, **changed: str) -> None:
    system.store.client.xadd(system.store.keys.of("stream_market_state"), {**SAID, **changed}, id=f"{second}000-*")


def test_a_state_said_again_by_another_cycle_is_written_twice(system) -> None:
    say_at(system, 1000)
    say_at(system, 1020, cycle_id="another")
    assert written_twice(system, since=1010) == 1


def test_what_was_said_again_before_is_not_counted(system) -> None:
    say_at(system, 1000)
    say_at(system, 1005)
    assert written_twice(system, since=1010) == 0


@pytest.mark.parametrize(
    ("second", "changed"),
    [(1060, {}), (1020, {"sigma": "0.2"}), (1020, {"timestamp": "160"}), (1020, {"symbol": "S0001USDT"})],
    ids=["renewed after a minute", "another sigma", "another candle", "another symbol"],
)
def test_news_and_renewals_are_not_written_twice(system, second: int, changed: dict[str, str]) -> None:
    say_at(system, 1000)
    say_at(system, second, **changed)
    assert written_twice(system, since=1010) == 0


@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_is_named_with_the_reason(tmp_path: Path) -> None:
    found = environment(str(tmp_path / "nothing"), tmp_path)
    assert not found.path
    assert "cannot be installed" in found.reason
    assert "nothing" in found.reason
