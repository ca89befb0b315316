"""The comparison with the plain process finds differences: without that its ratios would be of two different works."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import naked
from benchmarks.naked import compare, differences, settings_for
from benchmarks.naked_process import Naked, Row
from quantum_core.contracts.schema import Table
from resources.store.redis_store import RedisStore

ENTRY = {"symbol": "S0000USDT", "sigma": "0.1"}


@pytest.fixture
def pair(valkey_url: str, tmp_path: Path) -> Iterator[tuple[RedisStore, RedisStore]]:
    """Two stores of one symbol, each with a database of its own, and in both the same."""
    stores = [RedisStore(settings_for(1, f"{valkey_url}/{number}", str(tmp_path))) for number in (8, 9)]
    for store in stores:
        store.client.flushdb()
        for table in naked.TABLES:
            store.client.hset(store.keys.of(table.key, "S0000USDT"), mapping={"digest": "d", "cycle_id": "c"})
        store.client.xadd(store.keys.of("stream_market_state"), ENTRY)
    yield stores[0], stores[1]
    for store in stores:
        store.client.flushdb()
        store.client.close()


def test_what_is_equal_differs_nowhere_and_is_counted(pair) -> None:
    found = differences(*pair)
    assert found == (len(naked.TABLES), 2 * len(naked.TABLES), 1, [])


@pytest.mark.parametrize("row", [0, 1])
def test_one_field_of_one_hash_is_named(pair, row: int) -> None:
    pair[row].client.hset(pair[row].keys.of("position", "S0000USDT"), "digest", "another")
    (named,) = differences(*pair).wrong
    assert "digest" in named
    assert "another" in named


def test_a_hash_that_is_missing_on_both_sides_is_no_agreement(pair) -> None:
    for store in pair:
        store.client.delete(store.keys.of("position_size", "S0000USDT"))
    (named,) = differences(*pair).wrong
    assert "published nothing" in named


def test_an_entry_that_only_one_has_appended_is_named(pair) -> None:
    pair[1].client.xadd(pair[1].keys.of("stream_market_state"), ENTRY)
    (named,) = differences(*pair).wrong
    assert "1 and 2 entries" in named


@pytest.mark.slow
def test_a_plain_process_that_proposes_another_stop_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio to a process that computes something else says nothing."""

    class Looser(Naked):
        async def publish(self, table: Table, rows: list[Row]) -> None:
            await super().publish(table, [{**one, "proposed_sl": one.get("proposed_sl", 1) * 1.0001} for one in rows])

    monkeypatch.setattr(naked, "Naked", Looser)
    with pytest.raises(SystemExit, match="after the first cycle the two differ"):
        compare(3)
