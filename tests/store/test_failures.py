"""Failures: what cannot be computed is recorded with its reason and since when, and is gone with the first success."""

from quantum_core.failure import Failure
from resources.store.failures import read_failures, record_failures

ASSET = "market_state"
KEY = f"quantum:failures:{ASSET}"


def test_a_failure_keeps_when_it_began_while_its_detail_changes(store, clock) -> None:
    """An age in the reason grows in every cycle; the failure is the same."""
    began = clock.now.timestamp()
    first = record_failures(store, ASSET, ["BTCUSDT", "ETHUSDT"], {"BTCUSDT": "candles_stale: 430 s > 420 s"}, "c1")
    assert first == {"BTCUSDT": Failure("BTCUSDT", "candles_stale: 430 s > 420 s", began, began, "c1")}
    clock.advance(10)
    again = record_failures(store, ASSET, ["BTCUSDT", "ETHUSDT"], {"BTCUSDT": "candles_stale: 440 s > 420 s"}, "c2")
    expected = Failure("BTCUSDT", "candles_stale: 440 s > 420 s", began, began + 10, "c1")
    assert again == {"BTCUSDT": expected}
    assert read_failures(store, [ASSET]) == {ASSET: again}


def test_another_code_is_another_failure(store, clock) -> None:
    record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_stale: 430 s"}, "c1")
    clock.advance(10)
    failing = record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_missing"}, "c2")
    now = clock.now.timestamp()
    assert failing == {"BTCUSDT": Failure("BTCUSDT", "candles_missing", now, now, "c2")}


def test_a_success_removes_the_failure(store) -> None:
    record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_missing"}, "c1")
    assert record_failures(store, ASSET, ["BTCUSDT"], {}, "c2") == {}
    assert read_failures(store, [ASSET]) == {ASSET: {}}


def test_another_shards_symbols_are_left_alone(store) -> None:
    record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_missing"}, "c1")
    assert list(record_failures(store, ASSET, ["ETHUSDT"], {}, "c2")) == ["BTCUSDT"]
    assert list(read_failures(store, [ASSET])[ASSET]) == ["BTCUSDT"]


def test_what_somebody_else_wrote_there_is_replaced(store) -> None:
    """It decides nothing, and must never stop a cycle."""
    store.client.set(KEY, "junk")
    assert read_failures(store, [ASSET]) == {ASSET: {}}
    record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_missing"}, "c1")
    assert list(read_failures(store, [ASSET])[ASSET]) == ["BTCUSDT"]
    store.client.hset(KEY, mapping={"ETHUSDT": "junk", "SOLUSDT": '{"why": 1}'})
    assert list(read_failures(store, [ASSET])[ASSET]) == ["BTCUSDT"]
