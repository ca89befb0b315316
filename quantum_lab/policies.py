"""What decides about positions in a backtest: the proposals of a profile, and the nulls that have nothing but a stop.

Here belongs asking the kernels what they would have proposed. What becomes of it is :mod:`quantum_lab.execution`'s.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.columns import REGIMES, Floats, Position
from quantum_core.kernels.market.grid import Times
from quantum_core.kernels.position.tracking import Tracked, TrackingTheta, track
from quantum_core.kernels.position.tracking_rows import NewBars, TrackedRows, track_rows
from quantum_core.kernels.proposals.harvest import HarvestProposal, HarvestTheta, harvest
from quantum_core.kernels.proposals.stops import StopProposal, StopsTheta, stops
from quantum_lab.candles import CandleHistory
from quantum_lab.execution import ACTIONS, Entries, Held, Orders, Rows
from quantum_lab.states import States

WINDOW = 300  # candles a position is judged by at first sight, as live
ATR_CANDLES = 22  # of the chandelier stop (LeBeau)


class Snapshot(NamedTuple):
    """A position as its writer would have given it at a close."""

    side: str
    entry_price: float
    current_price: float
    unrealized_pnl: float
    qty: float | None
    ts_epoch: float | None
    current_sl: float | None
    opened_at_epoch: float | None
    peak_price: float | None = None
    trough_price: float | None = None
    age_sec: float | None = None
    current_tp: float | None = None
    position_source: str = "backtest"


class Bars(NamedTuple):
    """Closed candles."""

    open_time_ms: Times
    high: Floats
    low: Floats
    close: Floats


@dataclass
class Seen:
    """What was counted over all positions and closes at which something was proposed.

    Attributes
    ----------
    closes
        Positions times closes.
    without_state
        Of those, without a market state: what stood before stands on.
    at_stop_floor, at_target_floor
        Of those with one, where the distance is the smallest there is.
    actions, regimes
        How often each was proposed, and each was the most probable.
    """

    closes: int = 0
    without_state: int = 0
    at_stop_floor: int = 0
    at_target_floor: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    regimes: Counter[str] = field(default_factory=Counter)

    def add(self, other: Seen) -> None:
        """Add what was counted of other positions."""
        for one in fields(self):
            value = getattr(self, one.name)
            value += getattr(other, one.name)  # counters are changed where they are
            setattr(self, one.name, value)


class Proposed(NamedTuple):
    """Everything computed at one moment, for those of the positions that had a state."""

    rows: Rows  # of the positions held
    position: Position
    stops: StopProposal
    harvest: HarvestProposal


class ProfilePolicy:
    """Decides by the kernels that run live, with the parameters of one profile.

    The desk it represents does what is proposed: the stop that is placed is the proposed one, or that of the profit lock where it
    is tighter; the target is the proposed one. Where there is no market state nothing is proposed, and what is placed stays.

    Parameters
    ----------
    history, states
        Candles, and the state at each close.
    entries
        The positions.
    stops_theta, harvest_theta, tracking_theta
        Parameters, scalars.

    Attributes
    ----------
    seen
        What was counted.
    first_distance
        Distance of the first stop from the mark, share of price, NaN where there was no state; shape (n,).
    """

    def __init__(
        self,
        history: CandleHistory,
        states: States,
        entries: Entries,
        *,
        stops_theta: StopsTheta,
        harvest_theta: HarvestTheta,
        tracking_theta: TrackingTheta,
    ) -> None:
        n = len(entries)
        self.history, self.states, self.entries = history, states, entries
        self.stops_theta, self.harvest_theta, self.tracking_theta = stops_theta, harvest_theta, tracking_theta
        self.seen = Seen()
        self.first_distance = np.full(n, np.nan)
        self.tracked = TrackedRows.empty(n)
        self.placed, self.target, self.proposed = (np.full(n, np.nan) for _ in range(3))
        self._known = states.has_state

    def decide(self, held: Held) -> Orders:
        """Track the positions, propose, and give what stands."""
        self._track(held)
        action = np.zeros(len(held.trade), dtype=np.int8)
        made = self.propose(held)
        if made is not None:
            trades = held.trade[made.rows]
            d = made.position.direction
            proposed, lock = made.stops.proposed_sl, made.harvest.new_sl_proposed
            self.proposed[trades] = proposed
            self.placed[trades] = np.where(d * (lock - proposed) > 0, lock, proposed)
            self.target[trades] = made.stops.proposed_tp
            action[made.rows] = _codes(made.harvest)
            self._count(held, made)
        self.seen.closes += len(held.trade)
        self.seen.without_state += len(held.trade) - (0 if made is None else len(made.rows))
        return Orders(self.placed[held.trade], self.target[held.trade], action)

    def propose(self, held: Held) -> Proposed | None:
        """Ask the kernels, of the positions as they are tracked; ``None`` where no position has a state."""
        known = held.candle >= 0
        known[known] = self._known[held.candle[known]]
        rows: Rows = np.flatnonzero(known)
        if not len(rows):
            return None
        trades = held.trade[rows]
        market = self.states.market(held.candle[rows])
        position = self._position(trades, held.now_ms[rows], held.share[rows])
        risk = stops(market, position, self.stops_theta, mark_price=held.mark[rows])
        taken = harvest(market, position, risk.stop_dist_pct, self.harvest_theta)
        return Proposed(rows, position, risk, taken)

    def _position(self, trades: Rows, now_ms: Times, share: Floats) -> Position:
        entries, kept = self.entries, self.tracked
        is_long, paid = entries.is_long[trades], entries.paid[trades]
        qty = entries.qty[trades] * share
        current = kept.current_price[trades]
        return Position(
            is_long=is_long,
            entry_price=paid,
            current_price=current,
            peak_price=kept.peak_price[trades],
            trough_price=kept.trough_price[trades],
            age_sec=np.maximum(now_ms / 1000 - entries.opened_at_ms[trades] / 1000, 0.0),
            unrealized_pnl=(current - paid) * np.where(is_long, 1.0, -1.0) * qty,
            current_sl=kept.current_sl[trades],
            qty=qty,
        )

    def _count(self, held: Held, made: Proposed) -> None:
        seen, markets = self.seen, held.candle[made.rows]
        if held.entering:
            self.first_distance[held.trade[made.rows]] = made.stops.stop_dist_pct
        seen.at_stop_floor += int(np.count_nonzero(made.stops.stop_dist_pct <= self.stops_theta.sl_min_pct))
        seen.at_target_floor += int(np.count_nonzero(made.stops.tp_dist_pct <= self.stops_theta.tp_min_pct))
        seen.actions.update(dict(zip(ACTIONS, np.bincount(_codes(made.harvest), minlength=len(ACTIONS)).tolist(), strict=True)))
        states = self.states
        most = np.argmax([states.p_trend[markets], states.p_mr[markets], states.p_chop[markets]], axis=0)
        seen.regimes.update(dict(zip(REGIMES, np.bincount(most, minlength=len(REGIMES)).tolist(), strict=True)))

    def _track(self, held: Held) -> None:
        """Move what is kept of the positions on: the plain case of all at once, the others one by one."""
        history, trades, candle = self.history, held.trade, held.candle
        theta = self.tracking_theta
        if held.entering:
            before = np.where(candle >= 0, history.close[candle], np.nan)
            plain = np.abs(held.mark / before - 1) <= theta.collar_pct
            rows = trades[plain]
            self.tracked.put(
                rows,
                TrackedRows(
                    current_price=held.mark[plain],
                    peak_price=held.mark[plain],
                    trough_price=held.mark[plain],
                    current_sl=np.full(len(rows), np.nan),
                    collared_price=np.full(len(rows), np.nan),
                    collared_candle_ms=np.zeros(len(rows), dtype=np.int64),
                    last_candle_ms=history.open_time_ms[candle[plain]],
                    last_close=history.close[candle[plain]],
                ),
            )
        else:
            plain = history.open_time_ms[candle] >= self.entries.opened_at_ms[trades]
            plain &= ~np.isnan(self.tracked.last_close[trades])
            rows, at = trades[plain], candle[plain]
            bars = NewBars(history.open_time_ms[at], history.high[at], history.low[at], history.close[at])
            after = track_rows(
                self.tracked.take(rows),
                bars,
                is_long=self.entries.is_long[rows],
                given_sl=self.placed[rows],
                last_proposed_sl=self.proposed[rows],
                theta=theta,
            )
            self.tracked.put(rows, after)
        for row in np.flatnonzero(~plain).tolist():
            self._track_alone(held, row)

    def _track_alone(self, held: Held, row: int) -> None:
        trade, candle = int(held.trade[row]), int(held.candle[row])
        entries, part = self.entries, slice(max(candle + 1 - WINDOW, 0), candle + 1)
        history, now = self.history, held.now_ms[row] / 1000
        side, paid, mark = ("LONG" if entries.is_long[trade] else "SHORT"), float(entries.paid[trade]), float(held.mark[row])
        qty = float(entries.qty[trade] * held.share[row])
        profit = (mark - paid) * (1 if side == "LONG" else -1) * qty
        opened_at = float(entries.opened_at_ms[trade] / 1000)
        snapshot = Snapshot(side, paid, mark, profit, qty, now, _or_none(self.placed[trade]), opened_at)
        state = track(
            None if held.entering else self._state(trade, snapshot),
            snapshot,
            Bars(history.open_time_ms[part], history.high[part], history.low[part], history.close[part]),
            last_proposed_sl=_or_none(self.proposed[trade]),
            now=now,
            theta=self.tracking_theta,
        )
        self.tracked.put(np.array([trade], dtype=np.intp), TrackedRows.of([state]))

    def _state(self, trade: int, snapshot: Snapshot) -> Tracked:
        kept = {one.name: getattr(self.tracked, one.name)[trade].item() for one in fields(TrackedRows)}
        unknown = {name: _or_none(kept[name]) for name in ("current_sl", "collared_price", "last_close")}
        opened_at = snapshot.opened_at_epoch or 0.0
        rest = {
            **dict.fromkeys(("age_sec", "position_ts_epoch", "conflict_until_epoch"), 0.0),
            **dict.fromkeys(("current_tp", "contracts", "mark_price")),
            **dict.fromkeys(("carried", "leftover", "trouble"), ""),
            **dict.fromkeys(("opened_at_epoch", "tracked_since_epoch"), opened_at),
            **{name: getattr(snapshot, name) for name in ("side", "entry_price", "unrealized_pnl", "qty", "position_source")},
        }
        return Tracked.from_row(
            {**rest, **kept, **unknown, "collared": unknown["collared_price"] is not None, "inconsistent": False}
        )


class FixedStop:
    """Keeps the stop of the entry, or none: a null.

    Parameters
    ----------
    stop
        By trade, quote units, NaN for none.
    """

    def __init__(self, stop: Floats) -> None:
        self.stop = stop

    def decide(self, held: Held) -> Orders:
        """Give the stop of the entry."""
        return _only(self.stop[held.trade])


class Chandelier:
    """Trails the stop at a multiple of the average true range behind the best price: a null.

    Parameters
    ----------
    history, entries
        Candles and positions.
    multiple
        Average true ranges between the best price and the stop, which never loosens.

    References
    ----------
    LeBeau, C., the chandelier exit; Wilder, J. W. (1978), New Concepts in Technical Trading Systems (true range).
    """

    def __init__(self, history: CandleHistory, entries: Entries, multiple: float) -> None:
        self.history, self.entries, self.multiple = history, entries, multiple
        self.atr = average_true_range(history)
        self.best = entries.mark.copy()
        self.stop = np.full(len(entries), np.nan)

    def decide(self, held: Held) -> Orders:
        """Move the stops on."""
        trades, candle, d = held.trade, held.candle, self.entries.direction[held.trade]
        if not held.entering:
            counts = self.history.open_time_ms[candle] >= self.entries.opened_at_ms[trades]
            extreme = np.where(d > 0, self.history.high[candle], self.history.low[candle])
            reached = np.where(counts, extreme, held.mark)
            self.best[trades] = d * np.maximum(d * self.best[trades], d * reached)
        stop = self.best[trades] - d * self.multiple * self.atr[candle]
        self.stop[trades] = d * np.fmax(d * self.stop[trades], d * stop)
        return _only(self.stop[trades])


def average_true_range(history: CandleHistory, candles: int = ATR_CANDLES) -> Floats:
    """Average the true range over the last candles, fewer at the beginning; shape (n,), quote units."""
    before = np.concatenate([history.open[:1], history.close[:-1]])
    true_range = np.maximum(history.high, before) - np.minimum(history.low, before)
    summed = np.concatenate([[0.0], np.cumsum(true_range)])
    ends = np.arange(1, len(history) + 1)
    starts = np.maximum(ends - candles, 0)
    average: Floats = (summed[ends] - summed[starts]) / (ends - starts)
    return average


def _only(stop: Floats) -> Orders:
    return Orders(stop, np.full(len(stop), np.nan), np.zeros(len(stop), dtype=np.int8))


def _codes(proposal: HarvestProposal) -> npt.NDArray[np.int8]:
    codes = np.zeros(len(proposal.harvest_action), dtype=np.int8)
    for code, action in enumerate(ACTIONS):
        codes[np.asarray(proposal.harvest_action == action, dtype=np.bool_)] = code
    return codes


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
