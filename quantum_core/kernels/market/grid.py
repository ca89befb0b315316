"""The grid of candles: how far apart they are, what is missing, and whether the market trades at all.

Here belong spacing, holes, missing minutes, filling, inactivity and the tick, for all symbols at once; an even
grid costs no more than a comparison. Reading candles stays out, and so does what is computed from their closes.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.columns import Floats

Times = npt.NDArray[np.int64]

SPACING_TOLERANCE = 0.10  # share of the interval by which a candle may be off the grid
MISSING_SHARE_MAX = 0.05  # share of minutes that may be missing
SPACINGS_MIN = 8  # fewer say nothing about the usual one
SAME_CLOSE_REL = 1e-8  # closes no further apart are one: text, floats and units of price make as much, and no tick is so fine
JUMP_FACTOR = 5.0  # a close so many times the one before is in another unit, or the market has been split or has collapsed
JUMPS_MAX = 2  # so many are winsorised away; more are a list of mixed units, and its sigma is no market's
SINGLES_MIN = 0.10  # share of spacings of one interval from which minutes are missing, and candles are not longer


@dataclasses.dataclass(frozen=True)
class GridTheta:
    """What a grid must be."""

    interval_sec: float = 60.0  # s, length of a candle
    gap_max_intervals: int = 5  # missing candles in a row; a longer hole splits the window
    fill: bool = False  # whether missing minutes are filled with the last close and no volume
    inactive_candles: int = 60  # candles without volume, or with one close, after which a market is inactive
    required: int = 257  # closes a state needs


DEFAULTS = GridTheta()


class Grid(NamedTuple):
    """What became of the candles of one symbol.

    Attributes
    ----------
    closes
        Closes to compute from, filled ones included, oldest first.
    gap_count, gap_max_sec
        Holes among the newest ``required`` closes, and the length of the longest in s; ``None`` where the times are unknown.
    filled
        How many of those closes were filled.
    inactive
        No volume, or one close, for ``inactive_candles``; or, by volume, on average no trade in as many.
    tick_pct
        Smallest difference of two closes relative to the newest; NaN when all are one.
    reason
        Why they must not be computed from, empty when they may. Mixed units are judged among as many closes, too.
    lost
        Candles missing for that reason.
    """

    closes: Floats
    gap_count: int | None
    gap_max_sec: int | None
    filled: int
    inactive: bool
    tick_pct: float
    reason: str
    lost: int = 0


class Series(NamedTuple):
    """Candles of one symbol, oldest first, of shape (n,): opening times in ms (0 unknown), closes, volumes (NaN unknown)."""

    open_time_ms: Times
    close: Floats
    volume: Floats


def grids(series: Sequence[Series], theta: GridTheta = DEFAULTS) -> list[Grid]:
    """Judge the candles of many symbols.

    Parameters
    ----------
    series : sequence of Series
        One per symbol; known times strictly increasing, closes finite and > 0.
    theta : GridTheta
        What they must be.

    Returns
    -------
    list of Grid
        One per symbol, each as if it were alone. Too few candles without a hole are no fault of the grid: the reason is empty,
        and the closes are fewer than required. Where a time is unknown nothing is judged but inactivity.

    References
    ----------
    docs/spec.md#5-sources
    """
    whole = [row for row, one in enumerate(series) if len(one.close) >= theta.required]
    grid_by_row: dict[int, Grid] = {}
    if whole:
        times = np.stack([series[row].open_time_ms[-theta.required :] for row in whole])
        even = (np.diff(times, axis=1) == round(1000 * theta.interval_sec)).all(axis=1) & (times[:, 0] > 0)
        rows = [row for row, is_even in zip(whole, even.tolist(), strict=True) if is_even]
        if rows:
            closes = np.stack([series[row].close[-theta.required :] for row in rows])
            volumes = np.stack([series[row].volume[-theta.required :] for row in rows])
            judged = (_inactive(closes, volumes, theta), _ticks(closes), _jumps(closes))
            columns = zip(rows, *(one.tolist() for one in judged), strict=True)
            grid_by_row = {
                row: Grid(series[row].close, 0, 0, 0, inactive, tick, _mixed_units(jumps))
                for row, inactive, tick, jumps in columns
            }
    return [grid_by_row[row] if row in grid_by_row else _judge(one, theta) for row, one in enumerate(series)]


def _inactive(closes: Floats, volumes: Floats, theta: GridTheta) -> npt.NDArray[np.bool_]:
    """Judge rows of the newest closes and volumes."""
    newest = slice(-theta.inactive_candles, None)
    if closes.shape[1] < theta.inactive_candles:
        return np.zeros(len(closes), dtype=np.bool_)
    one_close = (np.abs(closes[:, newest] - closes[:, -1:]) <= SAME_CLOSE_REL * closes[:, -1:]).all(axis=1)
    untraded = (volumes[:, newest] == 0).all(axis=1)
    known = ~np.isnan(volumes).any(axis=1)
    rare = known & (np.count_nonzero(volumes > 0, axis=1) * theta.inactive_candles < volumes.shape[1])
    inactive: npt.NDArray[np.bool_] = one_close | untraded | rare
    return inactive


def _jumps(closes: Floats) -> npt.NDArray[np.int64]:
    """Count the closes in each row that are more than JUMP_FACTOR times the one before, or less than that share of it."""
    counts = np.zeros(len(closes), dtype=np.int64)
    wide = closes.max(axis=1, initial=0.0) > JUMP_FACTOR * closes.min(axis=1, initial=np.inf)
    steps = closes[wide, 1:] / closes[wide, :-1]
    counts[wide] = np.count_nonzero((steps > JUMP_FACTOR) | (steps < 1 / JUMP_FACTOR), axis=1)
    return counts


def _mixed_units(jumps: int) -> str:
    """Name closes of several units under one key; empty where they are of one."""
    return (
        f"candles_units: {jumps} closes are {JUMP_FACTOR:g} times the one before, or a fifth of it" if jumps > JUMPS_MAX else ""
    )


def _ticks(closes: Floats) -> Floats:
    steps = np.diff(np.sort(closes, axis=1), axis=1)
    smallest = np.where(steps > 0, steps, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(smallest), smallest / closes[:, -1], np.nan) if len(closes) else smallest


def _judge(series: Series, theta: GridTheta) -> Grid:
    """Judge one symbol whose grid is not even."""
    if not len(series.close):
        return Grid(series.close, None, None, 0, inactive=False, tick_pct=np.nan, reason="")
    if not (series.open_time_ms > 0).all():
        return _grid(series.close, series.volume, None, theta)
    steps, off_grid = _steps(series.open_time_ms, theta.interval_sec)
    if reason := _spacing_fault(series.open_time_ms, steps, off_grid, theta):
        return _grid(series.close, series.volume, steps, theta, reason)._replace(lost=int((steps - 1).sum()))
    missing = steps - 1
    splits = np.flatnonzero(missing > theta.gap_max_intervals)
    start = int(splits[-1]) + 1 if len(splits) else 0
    close, volume, steps, off_grid = series.close[start:], series.volume[start:], steps[start:], off_grid[start:]
    minutes = len(close) + int((steps - 1).sum()) if theta.fill else len(close)
    if minutes < theta.required and start:
        hole = int(missing[start - 1])
        reason = f"candles_gap: {hole * theta.interval_sec / 60:g} min"
        return _grid(close, volume, steps, theta, reason)._replace(lost=hole)
    if theta.fill:
        repeats = np.append(steps, 1)
        place = np.cumsum(repeats) - repeats
        real = np.zeros(int(repeats.sum()), dtype=np.bool_)
        real[place] = True
        return _grid(np.repeat(close, repeats), np.where(real, np.repeat(volume, repeats), 0.0), None, theta, real=real)
    newest = slice(-(theta.required - 1), None)
    lost = int((steps[newest] - 1).sum()) + int(np.count_nonzero(off_grid[newest]))
    span = len(steps[newest]) + 1 + int((steps[newest] - 1).sum())
    sparse = f"candles_sparse: {lost} of {span} minutes missing" if lost > MISSING_SHARE_MAX * span else ""
    return _grid(close, volume, steps, theta, sparse if len(close) >= theta.required else "")._replace(lost=lost)


def _steps(times: Times, interval_sec: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Give the intervals from each candle to the next, at least one, and which of them are no whole number of intervals."""
    intervals = np.diff(times) / (1000 * interval_sec)
    steps = np.maximum(np.rint(intervals), 1).astype(np.int64)
    return steps, np.abs(intervals - steps) > SPACING_TOLERANCE


def _spacing_fault(times: Times, steps: npt.NDArray[np.int64], off_grid: npt.NDArray[np.bool_], theta: GridTheta) -> str:
    """Name a usual spacing that is not the interval; empty when it is, or when there are too few candles to judge it."""
    newest = slice(-(theta.required - 1), None)
    spacings, steps, off_grid = np.diff(times)[newest] / 1000, steps[newest], off_grid[newest]
    if len(spacings) < SPACINGS_MIN:
        return ""
    usual = float(np.median(spacings))
    wrong = f"candles_spacing: {usual:.1f} s, want {theta.interval_sec:g} s"
    if np.count_nonzero(off_grid) > MISSING_SHARE_MAX * len(spacings):
        off = f"candles_spacing: {np.count_nonzero(off_grid)} of {len(spacings)} are no whole number of {theta.interval_sec:g} s"
        return wrong if abs(usual / theta.interval_sec - 1) > SPACING_TOLERANCE else off
    if abs(usual / theta.interval_sec - 1) <= SPACING_TOLERANCE:
        return ""
    if np.count_nonzero((steps == 1) & ~off_grid) < SINGLES_MIN * len(spacings):
        return wrong
    if theta.fill:
        return ""
    lost = int((steps - 1).sum())
    return f"candles_sparse: {lost} of {len(spacings) + 1 + lost} minutes missing"


def _grid(
    close: Floats,
    volume: Floats,
    steps: npt.NDArray[np.int64] | None,
    theta: GridTheta,
    reason: str = "",
    *,
    real: npt.NDArray[np.bool_] | None = None,
) -> Grid:
    newest = slice(-theta.required, None)
    closes, volumes = close[newest], volume[newest]
    filled = 0
    if real is not None:  # runs of filled closes are the holes
        edges = np.flatnonzero(np.diff(np.concatenate([[True], real[newest], [True]]).astype(np.int8)))
        holes, filled = edges[1::2] - edges[::2], int(np.count_nonzero(~real[newest]))
    elif steps is not None:
        missing = steps[-(theta.required - 1) :] - 1
        holes = missing[missing > 0]
    unknown = real is None and steps is None
    reason = reason or _mixed_units(int(_jumps(closes[None])[0]))
    longest = int(max(holes, default=0) * theta.interval_sec) if not unknown else None
    return Grid(
        close,
        None if unknown else len(holes),
        longest,
        filled,
        bool(_inactive(closes[None], volumes[None], theta)[0]),
        float(_ticks(closes[None])[0]),
        reason,
    )
