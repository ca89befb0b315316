"""What is kept of a position since entry, and the collar that keeps one bad tick out of it."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_core.contracts.tables import POSITION
from quantum_core.kernels.position.tracking import FIELDS, Tracked, TrackingTheta, implausible, track

NOW = 1_769_083_200.0
MINUTE = 60_000
T0 = int(NOW * 1000) - 10 * MINUTE
ACTUAL = TrackingTheta(sl_ratchet="actual")


@dataclass(frozen=True)
class Snapshot:
    """A position as a reader gives it."""

    side: str = "LONG"
    entry_price: float = 100.0
    current_price: float = 102.0
    unrealized_pnl: float = 4.0
    qty: float | None = 2.0
    ts_epoch: float | None = NOW
    peak_price: float | None = None
    trough_price: float | None = None
    age_sec: float | None = None
    opened_at_epoch: float | None = NOW - 3600
    current_sl: float | None = None
    current_tp: float | None = None
    position_source: str = "redis_hash"


@dataclass(frozen=True)
class Bars:
    """Candles as a reader gives them."""

    open_time_ms: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray


def bars(*rows: tuple[float, float, float], first_ms: int = T0, step_ms: int = MINUTE) -> Bars:
    """Candles of (high, low, close), a minute apart."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    times = first_ms + step_ms * np.arange(len(rows), dtype=np.int64)
    return Bars(times if step_ms else np.zeros(len(rows), dtype=np.int64), *table.T)


def closes(*prices: float, first_ms: int = T0) -> Bars:
    return bars(*((price, price, price) for price in prices), first_ms=first_ms)


def move(previous: Tracked | None = None, snapshot: Snapshot = Snapshot(), candles: Bars | None = None, **more) -> Tracked:
    return track(previous, snapshot, candles, **({"last_proposed_sl": None, "now": NOW} | more))


def test_the_kept_fields_are_those_of_the_wire_table():
    """A field that is kept but not written would be forgotten at every restart."""
    assert {field.name for field in POSITION.fields} - {POSITION.presence} == set(FIELDS)


@pytest.mark.parametrize("side", ["LONG", "SHORT"])
def test_peak_and_trough_grow_with_marks_and_candles_and_never_shrink(side):
    """The trailing stop hangs on the peak of a LONG and the trough of a SHORT."""
    one = move(snapshot=Snapshot(side=side), candles=bars((103, 101, 102)))
    assert (one.peak_price, one.trough_price, one.last_candle_ms) == (103, 101, T0)
    two = move(one, Snapshot(side=side, current_price=99.0), bars((103, 101, 102), (104, 100, 101)))
    assert (two.peak_price, two.trough_price, two.current_price) == (104, 99, 99)
    three = move(two, Snapshot(side=side, current_price=100.0), bars((103, 101, 102), (104, 100, 101)))
    assert (three.peak_price, three.trough_price) == (104, 99)


def test_a_snapshot_that_knows_its_own_extremes_is_believed():
    """A writer that watched every tick knows more than candles do."""
    kept = move(snapshot=Snapshot(peak_price=107.1, trough_price=98.0))
    assert (kept.peak_price, kept.trough_price) == (107.1, 98.0)


def test_candles_from_before_the_position_do_not_count():
    """A high from before entry would put the stop where the position never was."""
    candles = bars((109, 95, 102), (103, 101, 102))
    kept = move(snapshot=Snapshot(opened_at_epoch=(T0 + MINUTE) / 1000), candles=candles)
    assert (kept.peak_price, kept.trough_price) == (103, 101)


def test_a_position_first_seen_without_a_date_starts_now():
    """Nothing is known of it before."""
    kept = move(snapshot=Snapshot(opened_at_epoch=None), candles=bars((109, 95, 102)))
    assert (kept.peak_price, kept.trough_price, kept.age_sec, kept.opened_at_epoch) == (102, 102, 0, NOW)
    later = move(kept, Snapshot(opened_at_epoch=None), now=NOW + 70)
    assert (later.age_sec, later.opened_at_epoch) == (70, NOW)


def test_another_side_starts_anew():
    """Peak and stop of the last position have nothing to say about the next one."""
    before = move(snapshot=Snapshot(peak_price=109.0, current_sl=97.0))
    after = move(before, Snapshot(opened_at_epoch=None, side="SHORT"), now=NOW + 10)
    assert (after.peak_price, after.current_sl, after.age_sec, after.tracked_since_epoch) == (102, None, 0, NOW + 10)


@pytest.mark.parametrize(
    "change", [{"entry_price": 101.0}, {"qty": 2.1}, {"opened_at_epoch": NOW + 10}, {"opened_at_epoch": None, "age_sec": 0.0}]
)
def test_the_same_side_is_the_same_position_whatever_else_has_moved(change):
    """An add of 5 %, a fill in pieces, an entry adjusted by funding or an update's time as opening time loosened the stop."""
    before = move(snapshot=Snapshot(peak_price=109.0, current_sl=97.0))
    after = move(before, replace(Snapshot(), **change), now=NOW + 10)
    assert (after.peak_price, after.current_sl, after.age_sec, after.tracked_since_epoch) == (109, 97, 3610, NOW)
    assert (after.entry_price, after.qty) == (change.get("entry_price", 100), change.get("qty", 2))


def test_one_bad_mark_moves_nothing():
    """One bad tick must not ratchet a stop through the market."""
    before = move(candles=closes(102))
    held = move(before, Snapshot(current_price=150.0, unrealized_pnl=100.0), closes(102))
    assert (held.collared, held.collared_price, held.collared_candle_ms) == (True, 150, T0)
    assert (held.current_price, held.peak_price, held.trough_price) == (102, 102, 102)
    assert held.unrealized_pnl == pytest.approx(4.0)  # not the writer's 100, reckoned with the bad mark
    after = move(held, Snapshot(), closes(102))
    assert (after.collared, after.collared_price, after.peak_price) == (False, None, 102)


def test_the_candle_of_the_moment_does_not_confirm_a_mark_but_the_next_one_does():
    """Confirmation must come from a price made later."""
    jumped = Snapshot(current_price=115.0)
    before = move(candles=closes(102))
    held = move(before, jumped, closes(102))
    assert move(held, jumped, closes(102)).collared
    confirmed = move(held, jumped, closes(102, 114))
    assert (confirmed.collared, confirmed.current_price, confirmed.peak_price) == (False, 115, 115)


def test_one_bad_candle_moves_nothing_and_two_are_a_market():
    """Feeds print bad candles too."""
    before = move(candles=closes(102))
    held = move(before, Snapshot(), closes(102, 150))
    assert (held.collared, held.collared_price, held.peak_price, held.last_close) == (True, 150, 102, 150)
    refuted = move(held, Snapshot(), closes(102, 150, 103))
    assert (refuted.collared, refuted.peak_price) == (False, 103)
    confirmed = move(held, Snapshot(current_price=151.0), closes(102, 150, 151))
    assert (confirmed.collared, confirmed.peak_price) == (False, 151)


def test_a_wick_beyond_the_collar_of_its_own_close_does_not_count():
    """A candle whose high is a bad tick closes where the market is."""
    kept = move(move(candles=closes(102)), Snapshot(), bars((102, 102, 102), (150, 60, 103)))
    assert (kept.peak_price, kept.trough_price) == (103, 102)


def test_a_mark_is_still_followed_when_candles_cannot_be_read():
    """The candle feed being down is no reason to lose a peak."""
    kept = move(move(candles=closes(102)), Snapshot(current_price=104.0), None)
    assert (kept.peak_price, kept.last_candle_ms, kept.last_close) == (104, T0, 102)


@pytest.mark.parametrize("opened", [NOW - 3600, None])
def test_a_first_mark_far_from_the_candles_is_held_back(opened):
    """The first snapshot can be the bad tick; nothing may rest on it that the candles do not confirm."""
    first = Snapshot(current_price=1000.0, unrealized_pnl=1800.0, opened_at_epoch=opened)
    kept = move(snapshot=first, candles=closes(101, 102, 103))
    assert (kept.collared, kept.collared_price) == (True, 1000)
    accepted = (103, 103, 101) if opened else (102, 102, 102)  # candles from before the position only say where the market was
    assert (kept.current_price, kept.peak_price, kept.trough_price) == accepted
    assert kept.unrealized_pnl == pytest.approx(2 * (accepted[0] - 100))
    after = move(kept, Snapshot(opened_at_epoch=opened), closes(101, 102, 103))
    assert (after.collared, after.current_price, after.peak_price) == (False, 102, accepted[1])


@pytest.mark.parametrize("bad", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("opened", [NOW - 3600, None])
def test_one_bad_candle_at_first_sight_moves_nothing(bad, opened):
    """No close is believed only because it is the first, or the newest."""
    prices = [102.0] * 5
    prices[bad] = 1000.0
    kept = move(snapshot=Snapshot(opened_at_epoch=opened), candles=closes(*prices))
    assert (kept.current_price, kept.peak_price, kept.trough_price) == (102, 102, 102)


@pytest.mark.parametrize("prices", [(1000.0, 102.0), (102.0, 1000.0)])
def test_of_two_first_candles_the_mark_says_which_is_bad(prices):
    """Two candles alone cannot outvote each other."""
    kept = move(candles=closes(*prices))
    assert (kept.current_price, kept.peak_price, kept.trough_price) == (102, 102, 102)


@pytest.mark.parametrize("side", ["LONG", "SHORT"])
def test_a_first_mark_without_candles_gives_way_to_the_candles(side):
    """Else one bad tick during an outage of the candles would hold a stop beyond the market for ever."""
    bad = move(snapshot=Snapshot(side=side, current_price=1000.0))
    assert (bad.current_price, bad.peak_price) == (1000, 1000)
    after = move(bad, Snapshot(side=side), closes(102, 103), last_proposed_sl=990.0)
    assert (after.current_price, after.peak_price, after.trough_price, after.current_sl) == (102, 103, 102, None)


@pytest.mark.parametrize(("side", "stop"), [("LONG", 124.0), ("SHORT", 126.0)])
def test_a_position_opened_after_a_jump_is_measured_by_the_newest_close(side, stop):
    """Its stop was that of the price before the jump, crossed at once, and dropped again with the next candle."""
    jumped = Snapshot(side=side, current_price=125.0, entry_price=125.0, opened_at_epoch=None)
    first = move(snapshot=jumped, candles=closes(100, 100, 100, 125, 125))
    assert (first.current_price, first.collared, first.last_close) == (125, False, 125)
    after = move(first, jumped, closes(100, 100, 100, 125, 125, 125.5), last_proposed_sl=stop)
    assert after.current_sl == stop


def test_candles_that_agree_leave_what_was_tracked_without_them():
    """Starting over is for marks the candles refute."""
    before = move(snapshot=Snapshot(current_price=105.0), last_proposed_sl=99.0)
    after = move(before, Snapshot(), closes(102, 103), last_proposed_sl=98.0)
    assert (after.peak_price, after.current_sl) == (105, 99)


def test_a_bad_mark_while_adding_is_held_back():
    """Adding to a position is the moment a bad tick was believed at once."""
    before = move(snapshot=Snapshot(peak_price=109.0), candles=closes(102), last_proposed_sl=97.0)
    more = Snapshot(entry_price=101.0, current_price=300.0, opened_at_epoch=None)
    held = move(before, more, closes(102))
    assert (held.collared, held.current_price, held.peak_price, held.trough_price, held.current_sl) == (True, 102, 109, 102, 97)
    after = move(held, replace(more, current_price=101.5), closes(102))
    assert (after.collared, after.current_price, after.peak_price, after.trough_price) == (False, 101.5, 109, 101.5)


@pytest.mark.parametrize("opened", [NOW - 3599, NOW - 5, NOW])
def test_a_later_opening_time_loosens_nothing(opened):
    """Some writers date a position by its last update. One opened again unseen at worst has a stop that is too tight."""
    before = move(snapshot=Snapshot(current_price=108.0), candles=closes(108), last_proposed_sl=106.0)
    after = move(before, Snapshot(current_price=107.0, opened_at_epoch=opened), closes(108))
    assert (after.peak_price, after.current_sl, after.age_sec) == (108, 106, 3600)


@pytest.mark.parametrize(("steps", "accepted"), [((86.0, 73.0), 73.0), ((86.0, 73.0, 62.0), 73.0), ((115.0, 140.0), 140.0)])
def test_a_second_candle_in_the_same_direction_confirms_a_cascade(steps, accepted):
    """At 14 % a minute no candle was ever near the one before: the price stood still for five minutes."""
    state, prices = move(candles=closes(100.0)), [100.0]
    for price in steps:
        prices.append(price)
        state = move(state, Snapshot(current_price=price), closes(*prices))
    assert (state.current_price, state.collared) == (accepted, steps[-1] != accepted)


def test_a_second_candle_in_the_other_direction_confirms_nothing():
    """Two bad prints are no market."""
    state = move(move(candles=closes(100.0)), Snapshot(current_price=100.0), closes(100, 150, 60))
    assert (state.current_price, state.collared_price) == (100, 60)


@pytest.mark.parametrize(
    ("side", "stop", "target"), [("LONG", 999_999.0, 1.0), ("LONG", -5.0, -5.0), ("SHORT", 1.0, 999_999.0), ("SHORT", 0.0, 0.0)]
)
def test_a_stop_or_target_that_cannot_rest_there_is_ignored_and_named(side, stop, target):
    """One garbage stop was ratcheted and stayed in force for the life of the position."""
    before = move(snapshot=Snapshot(side=side), candles=closes(102), last_proposed_sl=101.0)
    garbage = Snapshot(side=side, current_sl=stop, current_tp=target)
    after = move(before, garbage, closes(102))
    assert (after.current_sl, after.current_tp) == (101, None)
    assert implausible(garbage, after.current_price, 0.10) == (f"current_sl={stop}", f"current_tp={target}")


@pytest.mark.parametrize(("side", "stop", "target"), [("LONG", 103.0, 101.0), ("SHORT", 101.0, 103.0)])
def test_a_stop_just_crossed_is_still_the_stop(side, stop, target):
    """The market may have crossed it a moment ago; that is no garbage."""
    kept = move(snapshot=Snapshot(side=side, current_sl=stop, current_tp=target))
    assert (kept.current_sl, kept.current_tp) == (stop, target)
    assert implausible(Snapshot(side=side, current_sl=stop, current_tp=target), 102.0, 0.10) == ()


def test_a_snapshot_without_a_clock_has_an_unknown_age():
    """It was dated now, and so was fresh for ever."""
    assert move(snapshot=Snapshot(ts_epoch=None)).position_ts_epoch == 0


def test_an_invented_position_lives_in_no_market():
    """Its prices are those of the contract, whatever the candles of its symbol say."""
    kept = move(snapshot=Snapshot(position_source="synthetic"), candles=closes(113_000, 113_010))
    assert (kept.current_price, kept.peak_price, kept.collared) == (102, 102, False)


def test_candle_times_that_move_backwards_are_followed():
    """A replay that starts over must not stop the tracking, nor a price held back from being settled."""
    day_old = Snapshot(opened_at_epoch=NOW - 86400)
    before = move(snapshot=day_old, candles=closes(102, 103))
    held = move(before, replace(day_old, current_price=130.0), closes(102, 103))
    again = move(held, day_old, closes(101, 102, first_ms=T0 - 100 * MINUTE))
    assert again.last_candle_ms == T0 - 99 * MINUTE
    after = move(again, day_old, bars((102, 102, 102), (105, 101, 103), first_ms=T0 - 99 * MINUTE))
    assert (after.last_candle_ms, after.peak_price, after.collared) == (T0 - 98 * MINUTE, 105, False)


def test_candles_without_times_count_when_their_newest_close_changes():
    """Without times nothing else tells that a candle is new."""
    before = move(candles=bars((102, 102, 102), step_ms=0))
    same = move(before, Snapshot(), bars((108, 90, 102), step_ms=0))
    assert (same.peak_price, same.last_candle_ms) == (102, 0)
    fresh = move(before, Snapshot(), bars((102, 102, 102), (106, 101, 103), step_ms=0))
    assert fresh.peak_price == 106


@pytest.mark.parametrize("price", [np.nan, 0.0, -1.0, np.inf])
def test_a_price_that_cannot_be_is_no_price(price):
    """Such candles are named by the market state; here they only must do no harm."""
    kept = move(move(candles=closes(102)), Snapshot(), bars((102, 102, 102), (price, price, price), (price, price, 103)))
    assert (kept.peak_price, kept.trough_price, kept.last_close) == (103, 102, 103)


@pytest.mark.parametrize(("side", "tighter", "looser"), [("LONG", 99.0, 97.0), ("SHORT", 105.0, 108.0)])
def test_the_stop_in_force_is_the_tighter_of_the_last_two(side, tighter, looser):
    """A proposal counts as followed; it never loosens one made before."""
    one = move(snapshot=Snapshot(side=side), last_proposed_sl=looser)
    assert one.current_sl == looser
    two = move(one, Snapshot(side=side), last_proposed_sl=tighter)
    assert two.current_sl == tighter
    for nothing_better in (looser, None, np.nan):
        assert move(two, Snapshot(side=side), last_proposed_sl=nothing_better).current_sl == tighter


def test_a_looser_real_stop_loosens_nothing_and_actual_knows_no_other():
    """SL_RATCHET=actual trusts only stops that rest at the exchange; else a stop never loosens."""
    before = move(last_proposed_sl=99.0)
    assert move(before, Snapshot(current_sl=95.0), last_proposed_sl=99.0).current_sl == 99.0
    assert move(before, Snapshot(current_sl=99.5), last_proposed_sl=99.0).current_sl == 99.5
    assert move(before, Snapshot(), last_proposed_sl=99.0, theta=ACTUAL).current_sl is None
    assert move(before, Snapshot(current_sl=95.0), last_proposed_sl=99.0, theta=ACTUAL).current_sl == 95.0


def test_a_clock_that_steps_back_leaves_no_position_tracked_since_later_than_now():
    """What is proposed from then on would be of before the position, and the stop that was proposed last be forgotten."""
    ahead = replace(move(), tracked_since_epoch=NOW + 137)
    assert move(ahead).tracked_since_epoch == NOW
    assert move(replace(ahead, tracked_since_epoch=NOW - 5)).tracked_since_epoch == NOW - 5


def test_age_follows_the_snapshot_and_is_never_negative():
    """The age feeds the kill score; a clock that runs ahead must not make it negative."""
    assert move(snapshot=Snapshot(opened_at_epoch=NOW - 50)).age_sec == 50
    assert move(snapshot=Snapshot(opened_at_epoch=None, age_sec=40.0, ts_epoch=NOW - 5)).age_sec == 45
    assert move(snapshot=Snapshot(opened_at_epoch=None, age_sec=40.0, ts_epoch=None)).age_sec == 40
    assert move(snapshot=Snapshot(opened_at_epoch=NOW + 50)).age_sec == 0


def test_a_row_survives_the_wire():
    """State is kept in Redis, as text."""
    kept = move(candles=closes(102), last_proposed_sl=99.1)
    encoded = POSITION.encode({**kept.row(), "held": True})
    decoded = {field.name: field.codec.decode(encoded[field.name]) for field in POSITION.fields}
    assert Tracked.from_row(decoded) == kept


prices = st.floats(50, 200)


@given(marks=st.lists(prices, min_size=2, max_size=12), candles=st.lists(prices, min_size=1, max_size=12))
def test_no_single_price_beyond_the_collar_ever_moves_the_extremes(marks, candles):
    """The promise of the collar: without a new candle, prices move only to prices near the last accepted one."""
    kept = move(snapshot=Snapshot(current_price=marks[0]), candles=closes(candles[0]))
    states = [kept]
    for count, mark in enumerate(marks[1:], start=1):
        # No new candle: nothing can confirm anything.
        kept = move(kept, Snapshot(current_price=mark), closes(candles[0]), now=NOW + count)
        states.append(kept)
    for before, after in pairwise(states):
        assert after.trough_price <= after.current_price <= after.peak_price
        assert after.peak_price >= before.peak_price
        assert after.trough_price <= before.trough_price
        assert abs(after.current_price / before.current_price - 1) <= 0.10 + 1e-12  # the collar, and rounding
        if after.peak_price > before.peak_price:
            assert after.peak_price <= before.current_price * (1.10 + 1e-12)
