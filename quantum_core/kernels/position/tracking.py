"""What no writer of positions supplies: peak, trough, age and stop in force, kept since entry, and the price collar.

Here belongs how one position's kept state moves with a new snapshot and new candles. Reading, storing and the clock stay out;
so does the stop formula, whose last proposal comes in as a number.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.columns import Floats
from quantum_core.kernels.theta import Theta, parameter

REFERENCE_CLOSES = 5  # two bad ones among them do not move their median


class Snapshot(Protocol):
    """What a position reader gives; prices finite and > 0 (stop and target: finite), ``None`` where the writer says nothing."""

    @property
    def side(self) -> str: ...  # noqa: D102 - the fields are those of the position reader
    @property
    def entry_price(self) -> float: ...  # noqa: D102
    @property
    def current_price(self) -> float: ...  # noqa: D102
    @property
    def unrealized_pnl(self) -> float: ...  # noqa: D102
    @property
    def qty(self) -> float | None: ...  # noqa: D102
    @property
    def ts_epoch(self) -> float | None: ...  # noqa: D102
    @property
    def peak_price(self) -> float | None: ...  # noqa: D102
    @property
    def trough_price(self) -> float | None: ...  # noqa: D102
    @property
    def age_sec(self) -> float | None: ...  # noqa: D102
    @property
    def opened_at_epoch(self) -> float | None: ...  # noqa: D102
    @property
    def current_sl(self) -> float | None: ...  # noqa: D102
    @property
    def current_tp(self) -> float | None: ...  # noqa: D102
    @property
    def position_source(self) -> str: ...  # noqa: D102


class Bars(Protocol):
    """Closed candles, oldest first, arrays of one length; open time 0 where unknown."""

    @property
    def open_time_ms(self) -> npt.NDArray[np.int64]: ...  # noqa: D102 - the fields are those of the candle reader
    @property
    def high(self) -> Floats: ...  # noqa: D102
    @property
    def low(self) -> Floats: ...  # noqa: D102
    @property
    def close(self) -> Floats: ...  # noqa: D102


class Bar(NamedTuple):
    """One candle."""

    open_time_ms: int
    high: float
    low: float
    close: float


@dataclasses.dataclass(frozen=True)
class TrackingTheta(Theta):
    """Parameters of tracking, defaults of docs/spec.md#5-sources."""

    collar_pct: float = parameter(0.10, "price jump that waits for the next candle, share", low=1e-9, high=1)
    sl_ratchet: str = parameter(
        "proposed", "which stop counts as in force: our last proposal too, or the placed one only", choices=("proposed", "actual")
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Tracked:
    """Kept state of one open position; the fields are those of the wire table ``position``."""

    side: str
    entry_price: float
    current_price: float  # last accepted mark; last accepted close while the mark is held back
    peak_price: float
    trough_price: float
    age_sec: float
    unrealized_pnl: float
    qty: float | None
    current_sl: float | None
    current_tp: float | None
    opened_at_epoch: float
    position_source: str
    position_ts_epoch: float  # 0 when the snapshot has no clock: its age is unknown
    last_candle_ms: int  # open time of the newest candle seen, 0 before the first
    last_close: float | None  # its close, accepted or not; None while the extremes rest on nothing a candle has judged
    collared: bool
    collared_price: float | None
    collared_candle_ms: int
    mark_price: float | None  # the writer's, also while it is held back; None of a state kept before this field
    contracts: float | None
    tracked_since_epoch: float  # 0 of a state kept before this field
    carried: str
    leftover: str
    conflict_until_epoch: float
    inconsistent: bool
    trouble: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Take the fields out of a decoded row."""
        return cls(**{name: row[name] for name in FIELDS})

    def row(self) -> dict[str, Any]:
        """Give the fields by name."""
        return {name: getattr(self, name) for name in FIELDS}


FIELDS = tuple(field.name for field in dataclasses.fields(Tracked))


def continues(previous: Tracked, snapshot: Snapshot) -> bool:
    """Whether a snapshot continues the tracked position: the same side, never flat in between.

    Adding to a position, a fill in pieces, an entry rounded or adjusted by funding, and an opening time that is really the time
    of the update all leave it the same: to start anew would loosen its stop. What is kept ends when the position is flat.
    """
    return snapshot.side == previous.side


def implausible(snapshot: Snapshot, price: float, collar_pct: float) -> tuple[str, ...]:
    """Name the stop and target of a snapshot that cannot rest there: not positive, or crossed by more than the collar."""
    upwards = 1 if snapshot.side == "LONG" else -1
    given = (("current_sl", snapshot.current_sl, upwards), ("current_tp", snapshot.current_tp, -upwards))
    return tuple(
        f"{name}={value}"
        for name, value, side in given
        if value is not None and not (value > 0 and side * (value / price - 1) <= collar_pct)
    )


def track(
    previous: Tracked | None,
    snapshot: Snapshot,
    bars: Bars | None,
    *,
    last_proposed_sl: float | None,
    now: float,
    theta: TrackingTheta = TrackingTheta(),
) -> Tracked:
    """Move the kept state of one position on to now.

    Parameters
    ----------
    previous : Tracked or None
        State after the last evaluation; ignored when it belongs to another position.
    snapshot : Snapshot
        The position as its writer gives it now.
    bars : Bars or None
        Closed candles; those newer than the last merged one and opened since entry are merged. None when unreadable.
    last_proposed_sl : float or None
        Stop last proposed for this very position; None or NaN when there is none. Dropped, like the kept one, when the first
        candles refute the marks both rest on.
    now : float
        Epoch seconds.
    theta : TrackingTheta
        Collar and ratchet.

    Returns
    -------
    Tracked
        With ``collared`` while a jump waits for the next candle: until a later candle closes within the collar of the held
        price, it moves neither price, peak, trough nor stop. A high or low counts only within the collar of its own close or
        of the price accepted before it. At first sight the candles are the measure of the mark, and the median of a few of
        them that of the first; without candles the mark stands until some come. A second candle beyond the collar in the same
        direction confirms the move, too. The stop in force never loosens while the position continues.

    References
    ----------
    docs/spec.md#5-sources, "Position tracking (ours)".
    """
    if snapshot.position_source == "synthetic":  # a synthetic position has no market
        bars = None
    if previous is not None and not continues(previous, snapshot):
        previous = None
    opened_at = _opened_at(previous, snapshot, now)
    newest = _newest(bars)
    new_bars = list(_new_bars(bars, previous, opened_at))
    judged = previous is not None and previous.last_close is not None
    reference = math.nan if judged else _reference(bars, new_bars, snapshot.current_price)
    walk = _Walk(theta.collar_pct, previous)
    refuted = False
    if previous is None:
        if not new_bars and newest is not None and walk.near(snapshot.current_price, newest.close):
            reference = newest.close  # opened after a jump: mark and newest close agree, the median is of before
        walk.start_from(reference)
    elif previous.last_close is None:  # so far nothing but marks, and now they may be judged
        of_marks = not previous.last_candle_ms  # no candle has ever had a say
        refuted = of_marks and not math.isnan(reference) and not walk.near(previous.current_price, reference)
        if refuted or (previous.collared and previous.peak_price == previous.trough_price):
            walk.start_from(reference if refuted else previous.current_price)
    if newest is not None:
        walk.start_over_from(newest)
        for bar in new_bars:
            walk.meet_candle(bar)
        walk.see(newest)
    walk.meet_mark(snapshot, first=previous is None)
    walk.settle()
    direction = 1 if snapshot.side == "LONG" else -1
    implausible_fields = {part.partition("=")[0] for part in implausible(snapshot, walk.price, theta.collar_pct)}
    given_sl, given_tp = (
        None if name in implausible_fields else getattr(snapshot, name) for name in ("current_sl", "current_tp")
    )
    held_mark = walk.price != snapshot.current_price
    return Tracked(
        side=snapshot.side,
        entry_price=snapshot.entry_price,
        current_price=walk.price,
        peak_price=walk.peak,
        trough_price=walk.trough,
        age_sec=max(now - opened_at, 0.0),
        # A profit computed from a mark that is held back would let that mark bypass the collar.
        unrealized_pnl=(walk.price - snapshot.entry_price) * direction * (snapshot.qty or 1.0)
        if held_mark
        else snapshot.unrealized_pnl,
        qty=snapshot.qty,
        current_sl=_stop_in_force(
            None if refuted else previous, given_sl, None if refuted else last_proposed_sl, direction, theta
        ),
        current_tp=given_tp,
        opened_at_epoch=opened_at,
        position_source=snapshot.position_source,
        position_ts_epoch=snapshot.ts_epoch or 0.0,
        last_candle_ms=walk.last_candle_ms,
        last_close=walk.last_close,
        collared=walk.held is not None,
        collared_price=walk.held,
        collared_candle_ms=walk.held_candle_ms,
        mark_price=snapshot.current_price,
        contracts=None,
        tracked_since_epoch=_tracked_since(previous, now),
        carried=previous.carried if previous else "",
        leftover=previous.leftover if previous else "",
        conflict_until_epoch=previous.conflict_until_epoch if previous else 0.0,
        inconsistent=False,
        trouble="",
    )


class _Walk:
    """Price, peak and trough on their way from the previous state to now, and the price held back."""

    def __init__(self, collar_pct: float, previous: Tracked | None) -> None:
        self.collar_pct = collar_pct
        self.price = previous.current_price if previous else math.nan  # last accepted mark or close
        self.peak = previous.peak_price if previous else -math.inf
        self.trough = previous.trough_price if previous else math.inf
        self.held = previous.collared_price if previous and previous.collared else None
        self.held_candle_ms = previous.collared_candle_ms if previous else 0
        self.last_candle_ms = previous.last_candle_ms if previous else 0
        self.last_close = previous.last_close if previous else None

    def near(self, price: float, reference: float | None) -> bool:
        return reference is not None and abs(price / reference - 1) <= self.collar_pct

    def goes_on(self, close: float) -> bool:
        """Whether a close beyond the collar is on the same side of the accepted price as the close that is held back."""
        return self.held is not None and (close > self.price) == (self.held > self.price)

    def accept(self, price: float, *extremes: float) -> None:
        inside = [extreme for extreme in extremes if self.near(extreme, price) or self.near(extreme, self.price)]
        self.peak = max(self.peak, price, *inside)
        self.trough = min(self.trough, price, *inside)
        self.price = price

    def start_from(self, price: float) -> None:
        """Measure by this price, and let the extremes begin with the next one accepted."""
        self.price, self.peak, self.trough = price, -math.inf, math.inf
        if self.near(price, self.held):
            self.held, self.held_candle_ms = None, 0

    def settle(self) -> None:
        """Give extremes to a walk that has accepted nothing yet; they are forgotten as soon as it does."""
        if math.isinf(self.peak):
            self.peak = self.trough = self.price
            self.last_close = None

    def hold(self, price: float, candle_ms: int) -> None:
        self.held, self.held_candle_ms = price, candle_ms

    def start_over_from(self, newest: Bar) -> None:
        """Follow candles whose times have moved back (a replay from the start), else none would ever be newer."""
        if newest.open_time_ms < self.last_candle_ms:
            self.last_candle_ms = newest.open_time_ms
            self.held_candle_ms = min(self.held_candle_ms, newest.open_time_ms)

    def meet_candle(self, bar: Bar) -> None:
        later = bar.open_time_ms > self.held_candle_ms or not bar.open_time_ms
        confirms = later and (self.near(bar.close, self.held) or self.goes_on(bar.close))
        if math.isnan(self.price) or self.near(bar.close, self.price) or confirms:
            self.accept(bar.close, bar.high, bar.low)
            self.held, self.held_candle_ms = None, 0
        else:
            self.hold(bar.close, bar.open_time_ms)

    def see(self, newest: Bar) -> None:
        self.last_candle_ms = newest.open_time_ms
        self.last_close = newest.close

    def meet_mark(self, snapshot: Snapshot, *, first: bool) -> None:
        mark = snapshot.current_price
        reported_extremes = [price for price in (snapshot.peak_price, snapshot.trough_price) if price is not None]
        if first and (math.isnan(self.price) or self.near(mark, self.price)):
            self.peak = max(self.peak, mark, *reported_extremes)  # of the time before, the writer knows more than we do
            self.trough = min(self.trough, mark, *reported_extremes)
            self.price = mark
            if self.held != self.last_close:
                self.held, self.held_candle_ms = None, 0
        elif self.near(mark, self.price):
            self.accept(mark, *reported_extremes)
            if self.held != self.last_close:  # it was a mark that was held back, and marks have come back by themselves
                self.held, self.held_candle_ms = None, 0
        elif not self.near(mark, self.held):
            self.hold(mark, self.last_candle_ms)


def _opened_at(previous: Tracked | None, snapshot: Snapshot, now: float) -> float:
    """Give when the position was opened: the earliest time reported so far, because some writers report that of an update."""
    if snapshot.opened_at_epoch is not None:
        reported_at = snapshot.opened_at_epoch
    elif snapshot.age_sec is not None:
        reported_at = (snapshot.ts_epoch or now) - snapshot.age_sec
    else:
        reported_at = now
    return reported_at if previous is None else min(reported_at, previous.opened_at_epoch)


def _tracked_since(previous: Tracked | None, now: float) -> float:
    """Give since when a position is tracked: never after now, or nothing proposed once a clock has stepped back would count."""
    return now if previous is None else min(previous.tracked_since_epoch or previous.opened_at_epoch, now)


def _newest(bars: Bars | None) -> Bar | None:
    """Give the newest candle whose close is a price."""
    if bars is None or not len(bars.close):
        return None
    last = _bar(bars, -1)
    if last is not None:
        return last
    rows = np.flatnonzero(np.isfinite(bars.close) & (bars.close > 0))
    return _bar(bars, int(rows[-1])) if len(rows) else None


def _reference(bars: Bars | None, new_bars: Sequence[Bar], mark: float) -> float:
    """Give the price level a walk begins at, NaN without candles: the median of a few closes about its first candle.

    Closes from before the position count here: they say where the market was, not how far it went. The mark has the casting
    vote.
    """
    if bars is None:
        return math.nan
    fit = np.flatnonzero(np.isfinite(bars.close) & (bars.close > 0))
    if not len(fit):
        return math.nan
    since_ms = new_bars[0].open_time_ms if new_bars else 0
    first = int(np.searchsorted(bars.open_time_ms[fit], since_ms)) if since_ms else len(fit)
    start = max(min(first, len(fit) - REFERENCE_CLOSES), 0)
    votes = bars.close[fit[start : start + REFERENCE_CLOSES]].tolist()
    return float(sorted(votes if len(votes) % 2 else [*votes, mark])[len(votes) // 2])


def _new_bars(bars: Bars | None, previous: Tracked | None, opened_at: float) -> Iterator[Bar]:
    """Give the candles to merge, oldest first: newer than the last one seen, and opened since entry.

    Without times only the newest can be recognised as new, by its close.
    """
    newest = _newest(bars)
    if bars is None or newest is None:
        return
    if not newest.open_time_ms:
        if previous is not None and newest.close != previous.last_close:
            yield newest
        return
    since_ms = opened_at * 1000
    seen_ms = previous.last_candle_ms if previous else 0
    rows = np.flatnonzero(bars.open_time_ms > seen_ms) if newest.open_time_ms > seen_ms else ()
    for row in rows:
        bar = _bar(bars, int(row))
        if bar is not None and bar.open_time_ms >= since_ms:
            yield bar


def _bar(bars: Bars, row: int) -> Bar | None:
    """Take one candle; ``None`` when its close is no price, and the close for a high or low that is none."""
    close = float(bars.close[row])
    if not 0 < close < math.inf:
        return None
    high, low = (float(value) for value in (bars.high[row], bars.low[row]))
    return Bar(
        int(bars.open_time_ms[row]),
        high if 0 < high < math.inf else close,
        low if 0 < low < math.inf else close,
        close,
    )


def _stop_in_force(
    previous: Tracked | None,
    given_sl: float | None,
    last_proposed_sl: float | None,
    direction: int,
    theta: TrackingTheta,
) -> float | None:
    """Give the tightest stop there ever was: a looser one of the writer does not loosen what was proposed."""
    if theta.sl_ratchet == "actual":
        return given_sl
    stops = (given_sl, previous.current_sl if previous else None, last_proposed_sl)
    known = [stop for stop in stops if stop is not None and math.isfinite(stop)]
    return max(known, key=lambda stop: direction * stop, default=None)  # the tighter one
