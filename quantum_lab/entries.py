"""Which positions a backtest opens: a grid, a random draw, or the trades of a desk.

Here belongs deciding where in the candles a position begins, and naming those that have no place there. Files of trades are read
by :mod:`quantum_lab.trade_files`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import polars as pl

from quantum_core.display import number_of
from quantum_core.kernels.columns import Bools, Floats
from quantum_lab.candles import CandleHistory
from quantum_lab.execution import BPS, Costs, Entries, Rows

Side = Literal["both", "long", "short"]
SIDES: Mapping[str, tuple[bool, ...]] = {"both": (True, False), "long": (True,), "short": (False,)}
EVERY = re.compile(r"every:(.+)")
DURATION = re.compile(r"(\d{1,6})([smhd])")
RANDOM = re.compile(r"random:(\d+)")
UNIT_SEC = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
UTC_TIMES = "Times without a zone are UTC."
PRICE_OUTSIDE = 1e-4  # share of the price by which it may be beyond high or low: rounding
PRICE_OFF_MAX = 0.10  # an entry further outside its candle is of another market or unit; the price collar of live
NAMED_MAX = 5  # trades left out that are named; the counts are exact
TRADES = pl.Schema(  # of a desk; times epoch ms, the last two null where it has not closed
    [
        *(("symbol", pl.String), ("side", pl.String), ("entry_ms", pl.Int64), ("entry_price", pl.Float64), ("qty", pl.Float64)),
        *(("exit_ms", pl.Int64), ("exit_price", pl.Float64)),
    ]
)


class EntriesError(ValueError):
    """Entries cannot be understood; the text says what is accepted."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Positions to open in one history.

    Attributes
    ----------
    entries
        Those that have a place in the candles.
    own_exit_candle, own_exit_price
        Where the desk itself closed, -1 and NaN where that is not known; shape (n,).
    left_out
        How many have none, by reason.
    named
        The first of them, in words.
    """

    entries: Entries
    own_exit_candle: Rows
    own_exit_price: Floats
    left_out: dict[str, int] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)

    def take(self, rows: Bools) -> Chosen:
        """Give some of the positions."""
        return Chosen(self.entries.take(rows), self.own_exit_candle[rows], self.own_exit_price[rows], self.left_out, self.named)


@dataclass(frozen=True)
class EntryRule:
    """Entries that are made up: every so many seconds, or so many at random.

    Attributes
    ----------
    every_sec
        Distance of a grid, s; 0 for random ones.
    count
        How many at random, per symbol.
    side
        Which sides are opened at each entry of a grid; of random ones both are drawn.
    seed
        Of the draw.
    """

    every_sec: int = 0
    count: int = 0
    side: Side = "both"
    seed: int = 1

    def choose(self, history: CandleHistory, usable: Bools, costs: Costs) -> Chosen:
        """Choose entries at the open of candles whose predecessor has just closed.

        Parameters
        ----------
        history
            Candles.
        usable
            Candles at whose close a stop can be proposed, shape (n,).
        costs
            The entry pays the slippage.
        """
        interval_ms = round(1000 * history.interval_sec)
        follows = np.zeros(len(history), dtype=np.bool_)
        follows[1:] = np.diff(history.open_time_ms) == interval_ms
        candles = np.flatnonzero(follows)
        if self.every_sec:
            candles = candles[history.open_time_ms[candles] % (1000 * self.every_sec) == 0]
        ready = usable[candles - 1]
        left_out = {"no_state": int(np.count_nonzero(~ready))} if not ready.all() else {}
        candles = candles[ready]
        sides = np.array(SIDES[self.side])
        if self.every_sec:
            left_out = {reason: count * len(sides) for reason, count in left_out.items()}
            candle, is_long = np.repeat(candles, len(sides)), np.tile(sides, len(candles))
        else:
            rng = np.random.default_rng(self.seed)
            candle = np.sort(rng.choice(candles, size=min(self.count, len(candles)), replace=False))
            is_long = rng.choice(sides, size=len(candle))
            left_out = {"no_candle": self.count - len(candle)} if len(candle) < self.count else {}
        mark = history.open[candle]
        paid = mark * (1 + np.where(is_long, 1.0, -1.0) * costs.slippage_bps * BPS)
        made = Entries(candle, is_long, mark, paid, history.open_time_ms[candle], np.ones(len(candle)))
        return Chosen(made, np.full(len(candle), -1), np.full(len(candle), np.nan), left_out)


def entry_rule(text: str, *, side: Side = "both", seed: int = 1) -> EntryRule:
    """Understand ``every:15m`` and ``random:500``.

    Raises
    ------
    EntriesError
        It is neither.
    """
    if match := EVERY.fullmatch(text):
        return EntryRule(every_sec=seconds_of(match[1]), side=side, seed=seed)
    if (match := RANDOM.fullmatch(text)) and int(match[1]):
        return EntryRule(count=int(match[1]), side=side, seed=seed)
    message = f"entries {text!r}: accepted are every:15m (s, m, h, d) and random:500"
    raise EntriesError(message)


def seconds_of(text: str) -> int:
    """Understand a time like 15m.

    Raises
    ------
    EntriesError
        It is none.
    """
    if (match := DURATION.fullmatch(text)) and (seconds := int(match[1]) * UNIT_SEC[match[2]]):
        return seconds
    message = f"time {text!r}: accepted are 90s, 15m, 4h, 1d and the like"
    raise EntriesError(message)


def place(trades: pl.DataFrame, history: CandleHistory, usable: Bools) -> Chosen:
    """Find the candles in which the trades of a desk begin.

    Parameters
    ----------
    trades
        Of the symbol, with the columns of TRADES.
    history, usable
        As of :meth:`EntryRule.choose`.

    Returns
    -------
    Chosen
        Left out are trades ``before_candles`` and ``after_candles``, ``in_hole`` (no candle at that time), those whose price is
        more than 10 % outside the candle (``price_off``), and those before which no state is known (``no_state``): there is no
        first stop.
    """
    interval_ms = round(1000 * history.interval_sec)
    times, entered = history.open_time_ms, trades["entry_ms"].to_numpy()
    candle = np.searchsorted(times, entered, side="right") - 1
    at = np.clip(candle, 0, None)
    price = trades["entry_price"].to_numpy()
    beyond = _outside(price, history, at)
    ready = (at > 0) & usable[at - 1] & (np.diff(times, prepend=times[0])[at] == interval_ms)
    faults = (
        ("before_candles", entered < times[0]),
        ("after_candles", entered >= times[-1] + interval_ms),
        ("in_hole", entered >= times[at] + interval_ms),
        ("price_off", beyond > PRICE_OFF_MAX),
        ("no_state", ~ready),
    )
    reason = np.select([fault for _, fault in faults], np.arange(len(faults)), default=-1)
    left_out = {name: count for code, (name, _) in enumerate(faults) if (count := int(np.count_nonzero(reason == code)))}
    named = [
        f"{history.symbol} {row['side']} of {_moment(row['entry_ms'])} at {row['entry_price']:g}: {faults[code][0]}"
        for row, code in zip(trades.iter_rows(named=True), reason.tolist(), strict=True)
        if code >= 0
    ][:NAMED_MAX]
    if outside := int(np.count_nonzero((reason < 0) & (beyond > PRICE_OUTSIDE))):
        kept = int(np.count_nonzero(reason < 0))
        are = "is outside its candle" if outside == 1 else "are outside their candle"
        named.insert(
            0, f"{history.symbol}: {outside} of {number_of(kept, 'entry price')} {are}: is the time zone right? {UTC_TIMES}"
        )
    is_long = (trades["side"] == "LONG").to_numpy()
    own_exit, own_price = _own_exits(trades, history)
    if unknown := int(np.count_nonzero((reason < 0) & (own_exit < 0) & trades["exit_ms"].is_not_null().to_numpy())):
        are = "is after the candles or far from its price" if unknown == 1 else "are after the candles or far from their prices"
        named.insert(0, f"{history.symbol}: {number_of(unknown, 'exit')} {are}: taken as unknown")
    made = Entries(candle, is_long, price, price, entered, trades["qty"].to_numpy())
    return Chosen(made, own_exit, own_price, left_out, named).take(reason < 0)


def _own_exits(trades: pl.DataFrame, history: CandleHistory) -> tuple[Rows, Floats]:
    """Find the candles and prices of the desk's exits; -1 and NaN of those that are unknown, after the candles, or far off."""
    times, exit_ms = history.open_time_ms, trades["exit_ms"].fill_null(-1).to_numpy()
    candle = np.searchsorted(times, exit_ms, side="right") - 1
    at = np.clip(candle, 0, None)
    price = trades["exit_price"].fill_null(np.nan).to_numpy()
    within = (exit_ms >= 0) & (exit_ms < times[-1] + round(1000 * history.interval_sec))
    known = within & ~(_outside(price, history, at) > PRICE_OFF_MAX)
    return np.where(known, candle, -1), np.where(known, price, np.nan)


def _outside(price: Floats, history: CandleHistory, at: Rows) -> Floats:
    """Give by what share prices are beyond the high or low of their candles; below 0 within, NaN of an unknown price."""
    share: Floats = np.maximum(price / history.high[at] - 1, 1 - price / history.low[at])
    return share


def _moment(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):%Y-%m-%d %H:%M}"
