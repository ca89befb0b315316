"""Tracking of many positions at once, by one new candle each.

Here belongs what `track` (:mod:`quantum_core.kernels.position.tracking`) does in the plain case of a history: a position that has
been tracked before, one closed candle that opened since entry, and a mark that is its close. Everything else (the first
evaluation, marks between candles, candles without times) is for `track`, whose rules these are.
"""

import dataclasses
import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.columns import Bools, Floats
from quantum_core.kernels.position.tracking import Tracked, TrackingTheta


@dataclasses.dataclass(frozen=True, slots=True)
class TrackedRows:
    """What is kept of positions and moves with a candle, columns of shape (n,), named as in `Tracked`; NaN for none."""

    current_price: Floats
    peak_price: Floats
    trough_price: Floats
    current_sl: Floats
    collared_price: Floats
    collared_candle_ms: npt.NDArray[np.int64]
    last_candle_ms: npt.NDArray[np.int64]
    last_close: Floats

    @classmethod
    def of(cls, states: list[Tracked]) -> Self:
        """Lay single states out as columns; each has seen a candle."""
        rows = cls.empty(len(states))
        for one in dataclasses.fields(cls):
            values = [getattr(state, one.name) for state in states]
            getattr(rows, one.name)[:] = [math.nan if value is None else value for value in values]
        return rows

    @classmethod
    def empty(cls, n: int) -> Self:
        """Give rows of which nothing is kept."""
        prices: Any = {one.name: np.full(n, np.nan) for one in dataclasses.fields(cls)}
        times: Any = {name: np.zeros(n, dtype=np.int64) for name in prices if name.endswith("_ms")}
        return cls(**{**prices, **times})

    def take(self, rows: Bools | npt.NDArray[np.intp]) -> Self:
        """Give some of the rows."""
        return type(self)(*(getattr(self, one.name)[rows] for one in dataclasses.fields(self)))

    def put(self, rows: npt.NDArray[np.intp], others: Self) -> None:
        """Set some of the rows."""
        for one in dataclasses.fields(self):
            getattr(self, one.name)[rows] = getattr(others, one.name)


@dataclasses.dataclass(frozen=True, slots=True)
class NewBars:
    """One closed candle per position, columns of shape (n,): newer than the last one seen, prices finite and > 0."""

    open_time_ms: npt.NDArray[np.int64]
    high: Floats
    low: Floats
    close: Floats


def track_rows(
    previous: TrackedRows, bars: NewBars, *, is_long: Bools, given_sl: Floats, last_proposed_sl: Floats, theta: TrackingTheta
) -> TrackedRows:
    """Move the kept states of many positions on by one candle each.

    Parameters
    ----------
    previous
        States after the last evaluation; each has seen a candle.
    bars
        The new candles; the marks are their closes.
    is_long
        Sides.
    given_sl
        Stops that are placed, NaN for none.
    last_proposed_sl
        Stops last proposed, NaN for none.
    theta
        Collar and ratchet, scalars.

    Returns
    -------
    TrackedRows
        Bit for bit what `track` gives for each row.

    References
    ----------
    docs/spec.md#5-sources, "Position tracking (ours)".
    """

    def near(price: Floats, reference: Floats) -> Bools:
        close_by: Bools = np.abs(price / reference - 1) <= theta.collar_pct  # False where there is no reference
        return close_by

    price, held = previous.current_price, previous.collared_price
    is_held = ~np.isnan(held)
    goes_on = is_held & ((bars.close > price) == (held > price))
    confirms = (bars.open_time_ms > previous.collared_candle_ms) & (near(bars.close, held) | goes_on)
    accepted = near(bars.close, price) | confirms

    def extreme(value: Floats) -> Floats:
        return np.where(near(value, bars.close) | near(value, price), value, bars.close)

    peak = np.maximum(np.maximum(previous.peak_price, bars.close), extreme(bars.high))
    trough = np.minimum(np.minimum(previous.trough_price, bars.close), extreme(bars.low))
    current = np.where(accepted, bars.close, price)
    return TrackedRows(
        current_price=current,
        peak_price=np.where(accepted, peak, previous.peak_price),
        trough_price=np.where(accepted, trough, previous.trough_price),
        current_sl=_stops_in_force(previous.current_sl, given_sl, last_proposed_sl, current, is_long, theta),
        collared_price=np.where(accepted, np.nan, bars.close),
        collared_candle_ms=np.where(accepted, 0, bars.open_time_ms),
        last_candle_ms=bars.open_time_ms.copy(),
        last_close=bars.close.copy(),
    )


def _stops_in_force(kept: Floats, given: Floats, proposed: Floats, price: Floats, is_long: Bools, theta: TrackingTheta) -> Floats:
    """Give the tightest stop there ever was, without placed ones that cannot rest there."""
    side = np.where(is_long, 1.0, -1.0)
    plausible = (given > 0) & (side * (given / price - 1) <= theta.collar_pct)
    given = np.where(plausible, given, np.nan)
    if theta.sl_ratchet == "actual":
        return given
    signed = np.fmax(np.fmax(side * given, side * kept), side * proposed)
    return side * signed
