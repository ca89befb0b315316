"""Tracking many positions at once gives what tracking each of them gives, bit for bit."""

import math
from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_core.kernels.position.tracking import Tracked, TrackingTheta, track
from quantum_core.kernels.position.tracking_rows import NewBars, TrackedRows, track_rows
from tests.kernels.test_tracking import T0, Bars, Snapshot

STEPS = st.sampled_from([1.0, 1.001, 0.999, 1.02, 0.97, 1.0999, 1.1001, 0.9, 0.88, 1.15, 1.3, 0.6, 3.0])
CANDLES = st.lists(st.tuples(STEPS, st.floats(1, 1.4), st.floats(0.7, 1), st.integers(1, 9)), min_size=1, max_size=12)
STOPS = st.lists(st.one_of(st.none(), st.floats(0.5, 1.6)), min_size=12, max_size=12)


def moved(previous: Tracked | None, candles: Bars, now: float, side: str, theta: TrackingTheta, given_sl, proposed_sl) -> Tracked:
    mark = float(candles.close[-1])
    snapshot = Snapshot(side=side, current_price=mark, current_sl=given_sl, ts_epoch=now, opened_at_epoch=T0 / 1000 + 60)
    return track(previous, snapshot, candles, last_proposed_sl=proposed_sl, now=now, theta=theta)


def same(rows: TrackedRows, state: Tracked) -> None:
    for one in fields(TrackedRows):
        value, expected = getattr(rows, one.name)[0], getattr(state, one.name)
        assert (expected is None and math.isnan(value)) or value == expected, (one.name, value, expected)
    assert math.isnan(rows.collared_price[0]) == (not state.collared)


@settings(max_examples=300, deadline=None)
@given(CANDLES, STOPS, STOPS, st.sampled_from(["LONG", "SHORT"]), st.sampled_from(["proposed", "actual"]))
def test_every_row_is_tracked_as_if_it_were_alone(candles, given_stops, proposed_stops, side, ratchet):
    """Jumps that are held, confirmed and refuted, missing candles and stops beyond the collar included."""
    theta = TrackingTheta(sl_ratchet=ratchet)
    times, high, low, close = [T0], [100.0], [100.0], [100.0]
    state = moved(None, Bars(*map(np.array, (times, high, low, close))), T0 / 1000 + 60, side, theta, None, None)
    rows = TrackedRows.of([state])
    for (step, up, down, minutes), given_ratio, proposed_ratio in zip(candles, given_stops, proposed_stops, strict=False):
        price = close[-1] * step
        times.append(times[-1] + 60_000 * minutes)
        close.append(price)
        high.append(price * up)
        low.append(price * down)
        given_sl, proposed_sl = (None if one is None else 100 * one for one in (given_ratio, proposed_ratio))
        bars = Bars(*(np.array(one) for one in (times, high, low, close)))
        state = moved(state, bars, times[-1] / 1000 + 60, side, theta, given_sl, proposed_sl)
        rows = track_rows(
            rows,
            NewBars(*(np.array([one[-1]]) for one in (times, high, low, close))),
            is_long=np.array([side == "LONG"]),
            given_sl=np.array([math.nan if given_sl is None else given_sl]),
            last_proposed_sl=np.array([math.nan if proposed_sl is None else proposed_sl]),
            theta=theta,
        )
        same(rows, state)


def test_rows_do_not_touch_each_other():
    """One row with a jump leaves the others as they are."""
    theta = TrackingTheta()
    start = TrackedRows.of(
        [moved(None, Bars(*(np.array([one]) for one in (T0, 100.0, 100.0, 100.0))), T0 / 1000 + 60, "LONG", theta, None, None)]
        * 3
    )
    none = np.full(3, math.nan)
    bars = NewBars(
        np.full(3, T0 + 60_000), np.array([101.0, 151.0, 102.0]), np.array([99.0, 149.0, 98.0]), np.array([100.5, 150.0, 100.0])
    )
    after = track_rows(start, bars, is_long=np.array([True, True, False]), given_sl=none, last_proposed_sl=none, theta=theta)
    assert after.peak_price.tolist() == [101, 100, 102]
    assert after.trough_price.tolist() == [99, 100, 98]
    assert after.current_price.tolist() == [100.5, 100, 100]
    assert after.collared_price[1] == 150
