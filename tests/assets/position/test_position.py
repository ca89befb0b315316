"""What the asset ``position`` keeps from one cycle to the next, and what must not pass from one position to another."""

import pytest

from quantum_assets.position import position_frame
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import POSITION, RISK_PROPOSAL
from resources.inputs.candles import CandleReader
from resources.inputs.positions import PositionReader
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from tests.world import hash_of, write_candles, write_position

SYMBOL = "BTCUSDT"
TRACKED = "quantum:position:tracked:BTCUSDT"
PROPOSAL = {
    "proposed_tp": 120.0, "stop_dist_pct": 0.01, "tp_dist_pct": 0.02, "trail_gap_pct": 0.01, "reason_codes": ["regime_chop"],
    "ts": 0.1, "sigma": 0.01, "p_trend": 0.2, "p_mr": 0.3, "p_chop": 0.5, "position_side": "LONG", "position_age_sec": 1.0,
    "position_current_price": 105.0, "position_entry_price": 100.0, "position_source": "redis_hash", "sl_breached": False,
    "position_peak_price": 105.0, "position_trough_price": 105.0, "position_current_sl": None, "data_source": "candles",
}  # fmt: skip


def evaluate(store: RedisStore) -> dict[str, object]:
    """Evaluate the asset once and keep its rows, as the IO manager does."""
    frame = position_frame([SYMBOL], store=store, candle_reader=CandleReader(store), position_reader=PositionReader(store))
    publish(store, POSITION, [row for row in frame.to_dicts() if row["state"] == State.PRESENT], cycle_id="t")
    return frame.to_dicts()[0]


def propose(store: RedisStore, stop: float, **more: object) -> None:
    """Publish a proposal as the asset ``risk_proposal`` does."""
    (outcome,) = publish(store, RISK_PROPOSAL, [{"symbol": SYMBOL, **PROPOSAL, "proposed_sl": stop, **more}], cycle_id="t")
    assert outcome.published, outcome


def hold(store: RedisStore, **fields: object) -> None:
    """Replace the snapshot."""
    store.client.delete(store.keys.of("raw_position", SYMBOL))
    write_position(store, SYMBOL, **fields)


def test_a_stop_once_tracked_outlives_its_proposal(store, clock):
    """A proposal lives for a hundred seconds, a position for days."""
    hold(store)
    evaluate(store)
    propose(store, 99.0)
    clock.advance(10)
    assert evaluate(store)["current_sl"] == 99
    store.client.delete(store.keys.of("risk_proposal", SYMBOL))
    clock.advance(10)
    assert evaluate(store)["current_sl"] == 99


@pytest.mark.parametrize("damage", ["type", "field"])
def test_an_unreadable_proposal_is_not_taken_for_no_stop(store, clock, damage):
    """A failed read must not loosen a stop; the symbol fails by name until the proposal can be read or is gone."""
    hold(store)
    evaluate(store)
    key = store.keys.of("risk_proposal", SYMBOL)
    if damage == "type":
        store.client.set(key, "x")
    else:
        propose(store, 99.0)
        store.client.hset(key, "proposed_sl", "nan")
    clock.advance(10)
    row = evaluate(store)
    assert (row["state"], str(row["why"])[:25]) == (State.FAILED, "risk_proposal_unreadable:")
    assert hash_of(store, "position", SYMBOL)["peak_price"] == "105.0"


def test_an_unreadable_proposal_is_no_matter_where_it_does_not_count(make_store):
    """SL_RATCHET=actual knows no proposals, and the first evaluation of a position has none."""
    store = make_store()
    store.client.set(store.keys.of("risk_proposal", SYMBOL), "x")
    hold(store)
    assert evaluate(store)["state"] == State.PRESENT
    actual = make_store(sl_ratchet="actual")
    hold(actual)
    evaluate(actual)
    assert evaluate(actual)["state"] == State.PRESENT


@pytest.mark.parametrize("opened_known", [False, True])
def test_a_position_entered_again_at_the_same_price_inherits_nothing(store, clock, opened_known):
    """Same side and entry, but the stop was made for the position before."""
    hold(store)
    evaluate(store)
    propose(store, 104.0)
    clock.advance(10)
    assert evaluate(store)["current_sl"] == 104
    hold(store, side="FLAT", quantity=0)
    clock.advance(10)
    evaluate(store)
    hold(store, mark=100.5, **({"created_at": clock.now.timestamp()} if opened_known else {}))
    clock.advance(10)
    for _ in range(2):
        row = evaluate(store)
        assert (row["current_sl"], row["peak_price"]) == (None, 100.5)
        clock.advance(10)


def test_an_opening_time_that_moves_loosens_nothing(store, clock):
    """Some writers date a position by its last update: each began a new position, without a stop."""
    hold(store, created_at=clock.now.timestamp() - 500)
    evaluate(store)
    propose(store, 104.0)
    for _ in range(3):
        clock.advance(10)
        hold(store, mark=104.5, entry=100.4, created_at=clock.now.timestamp() - 1)
        row = evaluate(store)
        assert (row["current_sl"], row["peak_price"]) == (104, 105)


def test_a_proposal_survives_the_loss_of_the_kept_state(store, clock):
    """When the opening time says that it was made for this position, it counts."""
    hold(store, created_at=clock.now.timestamp() - 500)
    evaluate(store)
    propose(store, 99.0)
    store.client.delete(TRACKED)
    clock.advance(10)
    assert evaluate(store)["current_sl"] == 99


@pytest.mark.parametrize("field", ["ts_epoch", "created_at"])
def test_a_snapshot_from_the_future_is_refused(store, clock, field):
    """It would be fresh for ever; and no proposal would ever be younger than a position opened in the future."""
    hold(store, **{field: clock.now.timestamp() + 60})
    assert evaluate(store)["state"] == State.PRESENT
    hold(store, **{field: clock.now.timestamp() + 61})
    row = evaluate(store)
    assert (row["state"], str(row["why"])[:19]) == (State.FAILED, "position_in_future:")


def test_a_snapshot_without_a_clock_is_tracked_but_has_no_date(store):
    """Proposals are computed; the governor, which asks for its age, opens nothing on it."""
    hold(store, ts_epoch="")
    row = evaluate(store)
    assert (row["state"], row["position_ts_epoch"]) == (State.PRESENT, 0)


def test_a_garbage_stop_is_named_and_not_kept(store, clock, caplog):
    """One such stop was in force for the rest of the position's life."""
    hold(store)
    evaluate(store)
    propose(store, 99.0)
    clock.advance(10)
    hold(store, current_sl=999_999, current_tp=-4)
    row = evaluate(store)
    assert (row["state"], row["current_sl"], row["current_tp"]) == (State.PRESENT, 99, None)
    assert row["why"] == "stop_ignored: current_sl=999999.0 current_tp=-4.0"
    assert "BTCUSDT: stop_ignored: current_sl=999999.0" in caplog.text


def test_letting_go_of_what_is_gone_leaves_no_half_hash(store):
    """A hash with three fields and no lifetime would fail its symbol for ever."""
    hold(store)
    evaluate(store)
    reader = PositionReader(store)
    store.client.delete(store.keys.of("raw_position", SYMBOL))
    found = reader.snapshots([SYMBOL])

    class Late:
        def snapshots(self, _symbols, _now):
            store.client.delete(TRACKED)  # expires between the two reads
            return found

    position_frame([SYMBOL], store=store, candle_reader=CandleReader(store), position_reader=Late())
    assert not store.client.exists(TRACKED)


def test_a_position_nobody_shows_any_more_is_marked(store):
    """It is kept for its return and not acted on."""
    hold(store)
    evaluate(store)
    store.client.delete(store.keys.of("raw_position", SYMBOL))
    assert evaluate(store)["state"] == State.ABSENT
    kept = hash_of(store, "position", SYMBOL)
    assert (kept["held"], kept["peak_price"]) == ("0", "105.0")


def test_letting_go_that_is_refused_is_named(store, monkeypatch):
    """A position that stays marked as held would be acted on."""
    hold(store)
    evaluate(store)
    store.client.delete(store.keys.of("raw_position", SYMBOL))
    run = store.run

    def refusing(doing, commands):
        replies = run(doing, commands)
        return [ValueError("READONLY") for _ in replies] if doing.startswith("letting go") else replies

    monkeypatch.setattr(store, "run", refusing)
    frame = position_frame([SYMBOL], store=store, candle_reader=CandleReader(store), position_reader=PositionReader(store))
    row = frame.to_dicts()[0]
    assert (row["state"], row["why"]) == (State.FAILED, f"position_not_let_go: {TRACKED}: READONLY")


def test_flat_clears_kept_state_that_cannot_be_read(store):
    """Else the next position would be blocked by the garbage of the last one."""
    hold(store)
    evaluate(store)
    store.client.hset(TRACKED, "peak_price", "nan")
    hold(store, side="FLAT", quantity=0)
    assert evaluate(store)["why"] == "flat"
    assert not store.client.exists(TRACKED)


def test_flat_leaves_a_key_of_another_type_alone_and_names_it(store):
    """Somebody else's key under our name is not ours to delete."""
    store.client.set(TRACKED, "x")
    hold(store, side="FLAT", quantity=0)
    row = evaluate(store)
    assert row["state"] == State.FAILED
    assert str(row["why"]).startswith(f"position_not_let_go: {TRACKED}: WRONGTYPE")
    assert store.client.get(TRACKED) == b"x"


def test_invented_candles_do_not_judge_a_real_position(make_store):
    """MARKETSTATE_SOURCE=synthetic lives at another price level."""
    store = make_store(marketstate_source="synthetic")
    hold(store, entry=113_000.0, mark=113_500.0)
    row = evaluate(store)
    assert (row["current_price"], row["collared"]) == (113_500, False)


def test_a_first_mark_far_from_the_candles_moves_no_stop(store):
    """From the candles in Redis to the row: the bad tick is held back."""
    write_candles(store, SYMBOL, [104.0] * 5)
    hold(store, mark=1000.0)
    row = evaluate(store)
    assert (row["current_price"], row["peak_price"], row["collared_price"]) == (104, 104, 1000)


@pytest.mark.parametrize("memory", ["", "{", "[]", '{"kept": {}}', '{"kept": {"LONG": {"left_at": "x"}}}'])
def test_a_memory_that_cannot_be_read_costs_no_stop_and_opens_nothing(store, clock, memory):
    """Nobody knows whether sides alternate; the next cycle does again."""
    hold(store)
    evaluate(store)
    propose(store, 99.0)
    clock.advance(10)
    store.client.set("quantum:position:memory:BTCUSDT", memory)
    row = evaluate(store)
    assert (row["state"], row["current_sl"], row["inconsistent"]) == (State.PRESENT, 99, True)
    assert row["trouble"].startswith("position_inconsistent: quantum:position:memory:BTCUSDT cannot be read: ")
    assert evaluate(store)["trouble"] == ""


def test_candles_in_other_units_leave_the_stop_to_the_marks(store):
    """R was -200 and a close of 530 USD counted as 0.53."""
    write_candles(store, SYMBOL, [0.0000105] * 5)
    hold(store, entry=0.0105, mark=0.0106)
    row = evaluate(store)
    assert (row["current_price"], row["collared"], row["inconsistent"]) == (0.0106, False, True)
    assert "other units? See PRICE_SCALES and CANDLES_FROM" in row["trouble"]


def test_scaled_candles_of_another_symbol_judge_a_position(make_store):
    """A contract on 1000 coins beside the candles of one."""
    store = make_store(price_scales=(f"{SYMBOL}=1000",), candles_from=(f"{SYMBOL}=PEPEUSDT",))
    write_candles(store, "PEPEUSDT", [0.0000105] * 4 + [0.0000107])
    hold(store, entry=0.0105, mark=0.0106, created_at=1)
    row = evaluate(store)
    assert (row["trouble"], row["last_close"], row["collared"]) == ("", pytest.approx(0.0107), False)


def test_sides_in_turn_are_named_through_redis(store, clock):
    """From the hash of the writer to the row the governor reads, an empty row included."""
    stops = []
    for mark in (105.0, 104.9, 104.8):
        hold(store, mark=mark)
        stops.append(evaluate(store)["current_sl"])
        if stops == [None]:
            propose(store, 104.0)
        clock.advance(10)
        hold(store, side="SHORT", position_amt=0, quantity=0)
        assert evaluate(store)["state"] == State.ABSENT
        kept = hash_of(store, "position", SYMBOL)
        assert (kept["held"], float(kept["conflict_until_epoch"]) > clock.now.timestamp()) == ("0", True)
        assert store.read(POSITION, [SYMBOL])[0].state is State.PRESENT
        clock.advance(10)
    assert stops == [None, 104, 104]
    assert kept["trouble"].startswith("position_conflict: ")
