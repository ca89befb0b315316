"""Candles of one symbol over a long time, judged before anything is computed from them.

Here belong what may be in them, and what is named of the rest. Layouts of files stay in the reader, and so does what the newest
candles must be for a live state (:mod:`quantum_core.kernels.market.grid`), whose limits count here, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from quantum_core.display import number_of
from quantum_core.kernels import HUGE, TINY
from quantum_core.kernels.columns import Bools, Floats
from quantum_core.kernels.market.grid import DEFAULTS, JUMP_FACTOR, Times

PRICES = ("open", "high", "low", "close")
COLUMNS = ("open_time_ms", *PRICES, "volume")
STEPS_MIN = 20  # between candles, before a second length is one
OTHER_LENGTH_MAX = 0.1  # share of the steps between candles that may have one other length
WICKS_MIN = 0.1  # share of the candles with a range that go beyond open and close on one side; fewer are no market's
NAMED_MAX = 3  # holes and jumps named; the counts are exact


class CandlesError(ValueError):
    """Nothing can be computed from these candles; the text says why."""


@dataclass(frozen=True, eq=False)
class CandleHistory:
    """Closed candles, oldest first; arrays of shape (n,), times strictly increasing, prices finite and > 0.

    Attributes
    ----------
    symbol
        Whose.
    interval_sec
        Length of a candle, s.
    open_time_ms
        int64, epoch ms.
    open, high, low, close
        float64, quote units; the high encloses from above, the low from below.
    volume
        float64, base units, NaN where unknown.
    left_out
        Rows that were left out, by reason.
    notes
        What is unusual about the rest, in words.
    """

    symbol: str
    interval_sec: float
    open_time_ms: Times
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.close)

    @property
    def missing(self) -> npt.NDArray[np.int64]:
        """Candles missing before each one, shape (n,); 0 before the first."""
        steps = np.rint(np.diff(self.open_time_ms) / (1000 * self.interval_sec)).astype(np.int64)
        return np.concatenate([np.zeros(min(1, len(self)), dtype=np.int64), np.maximum(steps - 1, 0)])

    @property
    def jumps(self) -> Bools:
        """Whether the close is so many times the one before, or such a share of it, that its unit has changed; shape (n,)."""
        ratio = np.ones(len(self))
        ratio[1:] = self.close[1:] / self.close[:-1]
        jumped: Bools = (ratio > JUMP_FACTOR) | (ratio < 1 / JUMP_FACTOR)
        return jumped

    @cached_property
    def returns(self) -> Floats:
        """Log return of each candle, shape (n,); NaN of the first one, after missing candles, and where the unit has changed."""
        returns = np.full(len(self), np.nan)
        returns[1:] = np.diff(np.log(self.close))
        returns[(self.missing > 0) | self.jumps] = np.nan
        return returns

    @property
    def digest(self) -> str:
        """32 hex digits over times, prices and volume: equal exactly where those are."""
        hashed = hashlib.blake2b(digest_size=16)
        for name in COLUMNS:
            hashed.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return hashed.hexdigest()

    def slice(self, start: int, stop: int) -> CandleHistory:
        """Give some of the candles; what was said of all of them is dropped."""
        part = slice(start, stop)
        return CandleHistory(self.symbol, self.interval_sec, *(getattr(self, name)[part] for name in COLUMNS))


def history_of(symbol: str, frame: pl.DataFrame, *, interval_sec: float | None = None) -> CandleHistory:
    """Judge the candles of one symbol.

    Parameters
    ----------
    symbol
        Whose.
    frame
        Columns ``open_time_ms``, ``open``, ``high``, ``low``, ``close``, ``volume``, in any order of rows; a volume may be null.
    interval_sec
        Length of a candle, s; by default the usual time between two.

    Returns
    -------
    CandleHistory
        Without rows that are no candle: ``no_price``, a time, or a price that is not finite, not > 0, or beyond what the kernels
        take; ``not_enclosed``, high or low inside the candle; ``duplicate``, the same row again; ``contradiction``, all rows of
        one time with different prices. Holes, jumps and one-sided candles are kept and named in ``notes``.

    Raises
    ------
    CandlesError
        A column is missing, fewer than two candles are left, or they are of two lengths.
    """
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        message = f"candles of {symbol} lack the columns {', '.join(missing)}"
        raise CandlesError(message)
    rows = frame.select(pl.col("open_time_ms").cast(pl.Int64), *(pl.col(name).cast(pl.Float64) for name in COLUMNS[1:]))
    kept, left_out = _kept(rows)
    if len(kept) < 2:
        message = f"{symbol} has {number_of(len(kept), 'usable candle')}{_counted(left_out)}: nothing can be computed"
        raise CandlesError(message)
    times = kept["open_time_ms"].to_numpy()
    if interval_sec is None:
        interval_sec = _interval_of(symbol, times)
    open_, high, low, close = (kept[name].to_numpy() for name in PRICES)
    volume = kept["volume"].fill_null(np.nan).to_numpy()
    history = CandleHistory(symbol, interval_sec, times, open_, high, low, close, volume, left_out)
    return replace(history, notes=tuple(_notes(history)))


def recorded_history(symbol: str, frame: pl.DataFrame, interval_sec: float) -> CandleHistory:
    """Judge the candles that the flight recorder has kept of one symbol.

    It keeps no open: that of a candle is the close before it, moved into its range where it is outside.

    Raises
    ------
    CandlesError
        As :func:`history_of`.
    """
    opened = pl.col("close").shift(1).fill_null(pl.col("close")).clip(pl.col("low"), pl.col("high"))
    return history_of(symbol, frame.with_columns(open=opened), interval_sec=interval_sec)


def _interval_of(symbol: str, times: Times) -> float:
    """Find the usual time between two candles; refuse what is candles of two lengths below each other."""
    steps, counts = np.unique(np.diff(times), return_counts=True)
    if counts.sum() < STEPS_MIN:
        return float(np.median(np.diff(times))) / 1000
    usual = steps[np.argmax(counts)]
    others = counts[(steps != usual)]
    if len(others) and others.max() > OTHER_LENGTH_MAX * counts.sum():
        second = steps[steps != usual][np.argmax(others)]
        message = f"candles of {symbol} are {usual / 1000:g} s and {second / 1000:g} s apart: give those of one length"
        raise CandlesError(message)
    return float(usual) / 1000


def _kept(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Leave out what is no candle; returns the rest, sorted, and the counts by reason."""
    left_out: dict[str, int] = {}

    def leave_out(reason: str, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        if len(after) < len(before):
            left_out[reason] = len(before) - len(after)
        return after

    priced = pl.all_horizontal(pl.col(name).is_between(TINY, HUGE) for name in PRICES) & (pl.col("open_time_ms") > 0)
    rows = leave_out("no_price", rows, rows.filter(priced.fill_null(value=False)))
    enclosed = (pl.col("high") >= pl.max_horizontal(PRICES)) & (pl.col("low") <= pl.min_horizontal(PRICES))
    rows = leave_out("not_enclosed", rows, rows.filter(enclosed))
    once = rows.unique(("open_time_ms", *PRICES), keep="first", maintain_order=True)
    rows = leave_out("duplicate", rows, once)
    return leave_out("contradiction", rows, rows.filter(pl.col("open_time_ms").is_unique())).sort("open_time_ms"), left_out


def _notes(history: CandleHistory) -> list[str]:
    notes = []
    missing = history.missing
    if holes := np.flatnonzero(missing > 0).tolist():
        long = [row for row in holes if missing[row] > DEFAULTS.gap_max_intervals]
        named = [f"{missing[row]} before {_moment(history, row)}" for row in long[:NAMED_MAX]]
        notes.append(
            f"gaps: {len(holes)}, {int(missing.sum())} candles missing; longer than {DEFAULTS.gap_max_intervals}, "
            f"after which there is no state: {len(long)}{_listed(named, len(long))}"
        )
    off_grid = np.diff(history.open_time_ms) % round(1000 * history.interval_sec) != 0
    if off_grid.any():
        notes.append(f"off the grid of {history.interval_sec:g} s: {np.count_nonzero(off_grid)} candles")
    if jumps := np.flatnonzero(history.jumps).tolist():
        named = [f"{history.close[row - 1]:g} to {history.close[row]:g} at {_moment(history, row)}" for row in jumps[:NAMED_MAX]]
        notes.append(f"closes that jump {JUMP_FACTOR:g} times: {len(jumps)}{_listed(named, len(jumps))}")
    top, bottom = np.maximum(history.open, history.close), np.minimum(history.open, history.close)
    ranged = int(np.count_nonzero(history.high > history.low))
    above, below = (int(np.count_nonzero(wick)) for wick in (history.high > top, history.low < bottom))
    if min(above, below) < WICKS_MIN * ranged or not ranged:
        notes.append(
            f"one-sided: of {ranged} candles with a range {above} go above open and close, {below} below; "
            "stops are hit less often than in a market"
        )
    return notes


def _moment(history: CandleHistory, row: int) -> str:
    return f"{datetime.fromtimestamp(int(history.open_time_ms[row]) / 1000, UTC):%Y-%m-%d %H:%M}"


def _listed(named: list[str], count: int) -> str:
    more = f" and {count - len(named)} more" if count > len(named) else ""
    return f" ({', '.join(named)}{more})" if named else ""


def _counted(left_out: Mapping[str, int]) -> str:
    return f" (left out: {', '.join(f'{reason} {count}' for reason, count in left_out.items())})" if left_out else ""
