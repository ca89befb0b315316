"""Failures: what cannot be computed is recorded with its reason and since when, and is gone with the first success."""

from resources.failures import Changes, Failure, read_failures, record_failures

ASSET = "market_state"
KEY = f"quantum:failures:{ASSET}"


def test_a_failure_keeps_when_it_began_while_its_detail_changes(store, clock) -> None:
    """An age in the reason grows in every cycle; the failure is the same."""
    began = clock.now.timestamp()
    first = record_failures(store, ASSET, ["BTCUSDT", "ETHUSDT"], {"BTCUSDT": "candles_stale: 430 s > 420 s"}, "c1")
    assert first == Changes([Failure("BTCUSDT", "candles_stale: 430 s > 420 s", began, began, "c1")], [])
    clock.advance(10)
    again = record_failures(store, ASSET, ["BTCUSDT", "ETHUSDT"], {"BTCUSDT": "candles_stale: 440 s > 420 s"}, "c2")
    assert again == Changes([], [])
    expected = Failure("BTCUSDT", "candles_stale: 440 s > 420 s", began, began + 10, "c1")
    assert read_failures(store, [ASSET]) == {ASSET: {"BTCUSDT": expected}}


def test_another_code_is_another_failure(store, clock) -> None:
    record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_stale: 430 s"}, "c1")
    clock.advance(10)
    changes = record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_missing"}, "c2")
    assert [(one.code, one.since, one.cycle_id) for one in changes.begun] == [("candles_missing", clock.now.timestamp(), "c2")]


def test_a_success_removes_the_failure_and_is_named_once(store) -> None:
    record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_missing"}, "c1")
    assert record_failures(store, ASSET, ["BTCUSDT"], {}, "c2") == Changes([], ["BTCUSDT"])
    assert record_failures(store, ASSET, ["BTCUSDT"], {}, "c3") == Changes([], [])
    assert read_failures(store, [ASSET]) == {ASSET: {}}


def test_another_shards_symbols_are_left_alone(store) -> None:
    record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_missing"}, "c1")
    record_failures(store, ASSET, ["ETHUSDT"], {}, "c2")
    assert list(read_failures(store, [ASSET])[ASSET]) == ["BTCUSDT"]


def test_what_somebody_else_wrote_there_is_replaced(store) -> None:
    """It decides nothing, and must never stop a cycle."""
    store.client.set(KEY, "junk")
    assert read_failures(store, [ASSET]) == {ASSET: {}}
    record_failures(store, ASSET, ["BTCUSDT"], {"BTCUSDT": "candles_missing"}, "c1")
    assert list(read_failures(store, [ASSET])[ASSET]) == ["BTCUSDT"]
    store.client.hset(KEY, mapping={"ETHUSDT": "junk", "SOLUSDT": '{"why": 1}'})
    assert list(read_failures(store, [ASSET])[ASSET]) == ["BTCUSDT"]
