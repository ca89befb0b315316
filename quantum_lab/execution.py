"""What becomes of positions on candles: orders, fills and costs, by rules that are explicit and conservative.

Here belongs the way from orders to fills, for all positions of one age at once. Which orders a close asks for is a policy's
(:mod:`quantum_lab.policies`); what the results say is :mod:`quantum_lab.outcome`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.columns import Bools, Floats
from quantum_core.kernels.market.grid import Times
from quantum_core.kernels.proposals.intent import CLOSED_SHARE
from quantum_lab.candles import CandleHistory

Rows = npt.NDArray[np.intp]
Codes = npt.NDArray[np.int8]

ACTIONS = ("NONE", "PARTIAL_25", "PARTIAL_50", "PARTIAL_75", "FULL_CLOSE_PROPOSED")  # by code
FULL = len(ACTIONS) - 1
SHARES = np.array([CLOSED_SHARE.get(action, 0.0) for action in ACTIONS])  # of what is held, closed by an action
REASONS = ("stop", "target", "full_close", "time", "end", "unit_jump")  # of an exit, by code
STOP, TARGET, CLOSED, TIME, END, JUMP = range(len(REASONS))
BPS = 1e-4

Progress = Callable[[int, int], None]  # trades that are over, and all of them


@dataclass(frozen=True)
class Costs:
    """What each fill costs, basis points of its price: a fee, and slippage against the position (limit orders have it, too)."""

    fee_bps: float = 5.0
    slippage_bps: float = 2.0


@dataclass(frozen=True, eq=False)
class Entries:
    """Positions to open, columns of shape (n,).

    Attributes
    ----------
    candle
        Candle in which each is opened; the one before has closed.
    is_long
        Sides.
    mark
        Market price at the entry, quote units.
    paid
        Entry price, slippage included.
    opened_at_ms
        Epoch ms; of a position opened within a candle, that candle gives no fill and no extreme.
    qty
        Size, base units.
    """

    candle: Rows
    is_long: Bools
    mark: Floats
    paid: Floats
    opened_at_ms: Times
    qty: Floats

    def __len__(self) -> int:
        return len(self.candle)

    @property
    def direction(self) -> Floats:
        """+1 for LONG, -1 for SHORT."""
        return np.where(self.is_long, 1.0, -1.0)

    def take(self, rows: Rows | Bools) -> Entries:
        """Give some of the entries."""
        return Entries(*(getattr(self, one.name)[rows] for one in fields(self)))


@dataclass(frozen=True, eq=False)
class Held:
    """Positions at a moment of decision, columns of shape (n,).

    Attributes
    ----------
    trade
        Rows of the entries.
    candle
        Newest closed candle.
    now_ms
        The moment, epoch ms: the entry, or the close of that candle.
    mark
        Market price at that moment.
    share
        What is left of each position.
    entering
        Whether the moment is the entry.
    """

    trade: Rows
    candle: Rows
    now_ms: Times
    mark: Floats
    share: Floats
    entering: bool


@dataclass(frozen=True, eq=False)
class Orders:
    """What stands from a decision until the next, columns of shape (n,): stop and target, NaN for none, and an action by code."""

    stop: Floats
    target: Floats
    action: Codes


class Policy(Protocol):
    """Decides what stands."""

    def decide(self, held: Held) -> Orders:
        """Give the orders that stand until the next close."""


@dataclass(frozen=True, eq=False)
class Executed:
    """What became of each entry, columns of shape (n,); prices in quote units, profits per unit of the original size.

    Attributes
    ----------
    exit_candle
        Candle of the last fill.
    exit_price
        Price of the last fill, slippage included.
    reason
        Code of REASONS.
    pnl
        After costs.
    costs
        Fees and slippage of all fills, the entry's included.
    mae, mfe
        Largest move against and for the position while it was held, >= 0. The candle of an exit counts by its fill only.
    partials
        How many partial closes there were.
    both_hit
        Whether stop and target were hit in one candle, which counts as the stop.
    gapped
        Whether the candle of the exit opened beyond the stop.
    best
        Highest price of a LONG, lowest of a SHORT, while it was held.
    first_stop
        Stop of the entry, NaN for none.
    path
        Of the trades asked for: what stood before each candle.
    """

    exit_candle: Rows
    exit_price: Floats
    reason: Codes
    pnl: Floats
    costs: Floats
    mae: Floats
    mfe: Floats
    partials: npt.NDArray[np.int64]
    both_hit: Bools
    gapped: Bools
    best: Floats
    first_stop: Floats
    path: list[dict[str, Any]] = field(default_factory=list)


def execute(
    history: CandleHistory,
    entries: Entries,
    policy: Policy,
    costs: Costs,
    *,
    hold_max: int,
    traced: Collection[int] = (),
    progress: Progress | None = None,
) -> Executed:
    """Follow every position from its entry to its exit.

    Parameters
    ----------
    history
        Candles.
    entries
        Positions to open.
    policy
        Asked at each entry, and at the close of each candle for the positions that are still open.
    costs
        Of each fill.
    hold_max
        Candles whose time a position is held at most: it is closed at the first close at which that is over. Where candles are
        missing, these are fewer.
    traced
        Rows of entries whose path is kept.
    progress
        Called after each age.

    Returns
    -------
    Executed
        By these rules. What the close of candle t asks for acts in t+1. At its open: a stop beyond which it opens fills the
        whole position there; else a full close does; else a partial close takes its share of what is left, each tier once, and
        only one above those that were taken. Then the stop, if low (high of a SHORT) reaches it, fills at the stop, whatever
        else the candle did; then the target, if high (low) reaches it, fills at the target, also where the candle opens beyond
        it. A position that is open when the unit of the price changes ends at the close before it (``unit_jump``); one that is
        open after the last candle at its close (``end``).
    """
    run = _Run(history, entries, costs, {int(row) for row in traced}, last_candles(history, entries.candle, hold_max))
    rows: Rows = np.arange(len(entries))
    if len(rows):
        run.stand(rows, policy.decide(_at_entry(entries)))
        run.first_stop[:] = run.stop
    for age in range(hold_max):
        if not len(rows):
            break
        rows = run.step(rows, age)
        if len(rows):
            candle = entries.candle[rows] + age
            now_ms = history.open_time_ms[candle] + round(1000 * history.interval_sec)
            held = Held(rows, candle, now_ms, history.close[candle], run.share[rows], entering=False)
            run.stand(rows, policy.decide(held))
        if progress is not None:
            progress(len(entries) - len(rows), len(entries))
    return run.executed()


def last_candles(history: CandleHistory, candle: Rows, hold_max: int) -> Rows:
    """Give the candles at whose close positions have been held for a time, shape (n,); beyond the history where it ends before.

    Parameters
    ----------
    history
        Candles.
    candle
        Those in which the positions are opened.
    hold_max
        The time, in candles: where none is missing, the last is the one so many less one after the first.
    """
    interval_ms = round(1000 * history.interval_sec)
    over = history.open_time_ms[candle] + hold_max * interval_ms
    found: Rows = np.searchsorted(history.open_time_ms + interval_ms, over, side="left")
    return np.minimum(found, candle + hold_max - 1)  # candles closer to each other than they are long


def _at_entry(entries: Entries) -> Held:
    rows: Rows = np.arange(len(entries))
    return Held(rows, entries.candle - 1, entries.opened_at_ms, entries.mark, np.ones(len(entries)), entering=True)


class _Run:
    """Positions on their way."""

    def __init__(self, history: CandleHistory, entries: Entries, costs: Costs, traced: set[int], last: Rows) -> None:
        n = len(entries)
        self.last = last
        self.history, self.entries, self.costs = history, entries, costs
        self.d = entries.direction
        self.jumped = history.jumps
        self.share = np.ones(n)
        self.stop, self.target, self.first_stop = (np.full(n, np.nan) for _ in range(3))
        self.action, self.taken, self.reason = (np.zeros(n, dtype=np.int8) for _ in range(3))
        self.exit_candle: Rows = np.full(n, -1, dtype=np.intp)
        self.exit_price = np.full(n, np.nan)
        fee = costs.fee_bps * BPS * entries.paid
        self.pnl, self.paid_costs = -fee, fee + self.d * (entries.paid - entries.mark)
        self.mae, self.mfe = np.zeros(n), np.zeros(n)
        self.best = entries.mark.copy()
        self.partials = np.zeros(n, dtype=np.int64)
        self.both_hit, self.gapped = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self.traced = np.array(sorted(traced), dtype=np.intp)
        self.path: list[dict[str, Any]] = []

    def stand(self, rows: Rows, orders: Orders) -> None:
        """Let orders stand."""
        self.stop[rows], self.target[rows], self.action[rows] = orders.stop, orders.target, orders.action

    def step(self, rows: Rows, age: int) -> Rows:
        """Let one candle pass; give the positions that are open at its close."""
        history, entries = self.history, self.entries
        candle = entries.candle[rows] + age
        over = candle >= len(history)
        ended = rows[over]
        self._exit(ended, candle[over] - 1, history.close[-1], END)
        rows, candle = rows[~over], candle[~over]
        jumped = self.jumped[candle] & (candle > 0)
        self._exit(rows[jumped], candle[jumped] - 1, history.close[candle[jumped] - 1], JUMP)
        rows, candle = rows[~jumped], candle[~jumped]
        self._trace(rows, candle)
        within = entries.opened_at_ms[rows] > history.open_time_ms[candle] if age == 0 else np.zeros(len(rows), dtype=np.bool_)
        open_ = self._fill(rows[~within], candle[~within])
        rows = np.sort(np.concatenate([open_, rows[within]])) if within.any() else open_
        candle = entries.candle[rows] + age
        self._extremes(rows, candle, within=entries.opened_at_ms[rows] > history.open_time_ms[candle])
        timed = candle >= self.last[rows]
        self._exit(rows[timed], candle[timed], history.close[candle[timed]], TIME)
        return rows[~timed]

    def _fill(self, rows: Rows, candle: Rows) -> Rows:
        """Fill what stands in one candle; give the positions that are still open."""
        history = self.history
        opened, is_long, d = history.open[candle], self.entries.is_long[rows], self.d[rows]
        stop, target, action = self.stop[rows], self.target[rows], self.action[rows]

        gap = d * (opened - stop) <= 0  # comparisons with NaN are False: without a stop nothing is hit
        self.gapped[rows[gap]] = True
        self._exit(rows[gap], candle[gap], opened[gap], STOP)
        full = ~gap & (action == FULL)
        self._exit(rows[full], candle[full], opened[full], CLOSED)
        partial = ~gap & (action > self.taken[rows]) & (action < FULL)
        self._take(rows[partial], opened[partial], SHARES[action[partial]])
        self.taken[rows[partial]] = action[partial]
        self.partials[rows[partial]] += 1

        against = np.where(is_long, history.low[candle], history.high[candle])
        favourable = np.where(is_long, history.high[candle], history.low[candle])
        open_ = ~gap & ~full
        stopped = open_ & (d * (against - stop) <= 0)
        reached = open_ & (d * (favourable - target) >= 0)
        self.both_hit[rows[stopped & reached]] = True
        self._exit(rows[stopped], candle[stopped], stop[stopped], STOP)
        reached &= ~stopped
        self._exit(rows[reached], candle[reached], target[reached], TARGET)
        still_open: Rows = rows[open_ & ~stopped & ~reached]
        return still_open

    def _take(self, rows: Rows, price: Floats, closed: Floats) -> None:
        """Close a share of what is left."""
        d, size = self.d[rows], self.share[rows] * closed
        filled = price * (1 - d * self.costs.slippage_bps * BPS)
        fee = self.costs.fee_bps * BPS * filled
        self.pnl[rows] += size * (d * (filled - self.entries.paid[rows]) - fee)
        self.paid_costs[rows] += size * (fee + np.abs(price - filled))
        self.share[rows] -= size
        self.exit_price[rows] = filled

    def _exit(self, rows: Rows, candle: Rows, price: Floats | float, reason: int) -> None:
        if not len(rows):
            return
        prices = np.broadcast_to(np.asarray(price, dtype=np.float64), rows.shape)
        self._take(rows, prices, np.ones(len(rows)))
        self.exit_candle[rows], self.reason[rows] = candle, reason
        self._move(rows, prices, prices)

    def _extremes(self, rows: Rows, candle: Rows, *, within: Bools) -> None:
        """Note how far a candle went that was held to its close; one that was entered within counts by its close."""
        high, low, close = (getattr(self.history, name)[candle] for name in ("high", "low", "close"))
        is_long = self.entries.is_long[rows]
        best, worst = np.where(is_long, high, low), np.where(is_long, low, high)
        self._move(rows, np.where(within, close, best), np.where(within, close, worst))

    def _move(self, rows: Rows, best: Floats, worst: Floats) -> None:
        d, paid = self.d[rows], self.entries.paid[rows]
        self.mfe[rows] = np.maximum(self.mfe[rows], d * (best - paid))
        self.mae[rows] = np.maximum(self.mae[rows], d * (paid - worst))
        self.best[rows] = d * np.maximum(d * self.best[rows], d * best)

    def _trace(self, rows: Rows, candle: Rows) -> None:
        for row in self.traced[np.isin(self.traced, rows)].tolist() if len(self.traced) else ():
            self.path.append(
                {
                    "trade": row,
                    "candle": int(candle[np.searchsorted(rows, row)]),
                    "stop": float(self.stop[row]),
                    "target": float(self.target[row]),
                    "action": ACTIONS[self.action[row]],
                    "share": float(self.share[row]),
                }
            )

    def executed(self) -> Executed:
        """Give what became of all of them."""
        return Executed(
            self.exit_candle,
            self.exit_price,
            self.reason,
            self.pnl,
            self.paid_costs,
            self.mae,
            self.mfe,
            self.partials,
            self.both_hit,
            self.gapped,
            self.best,
            self.first_stop,
            self.path,
        )
