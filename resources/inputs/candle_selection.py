"""Which rows count: order, the newest version of each candle, what has closed, what has a price, and whose they are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from quantum_core.kernels import NUMBER_MAX, NUMBER_MIN
from resources.inputs.candle_columns import Columns
from resources.inputs.candle_series import Source, Times

PRICE_TROUBLES = ("price_nan", "price_infinite", "price_zero", "price_negative", "price_out_of_range")  # as the kernel names them
LIVE_LABELS = ("", "candles", "live", "exchange", "binance")  # any other label is not known to be live, so it is not


def rises(times: Times) -> bool:
    """Whether all times are known and each is later than the one before."""
    return len(times) > 0 and bool(times[0] > 0) and bool((times[1:] > times[:-1]).all())


def repeats(times: Times) -> bool:
    """Whether a known time is that of more than one member."""
    if len(times) < 2 or (np.diff(times) > 0).all():
        return False
    known = times[times > 0]
    return len(np.unique(known)) < len(known)


def in_order(columns: Columns) -> tuple[Columns, int]:
    """Restore the order and keep the newest version of each candle; also count the candles whose newest version is undecided.

    One that says that it is closed is newer than one that says nothing, then counts the time of the version, then the score, or
    the place in a list. Two that differ and have all that in common contradict each other: under one score a sorted set has them
    in the order of their bytes. Candles without a time stand where the key has them: only when every time is known can the order
    be judged.
    """
    times, rank = columns.open_time_ms, columns.rank
    if len(times) < 2 or (np.diff(times) > 0).all():
        return columns, 0
    if not (times > 0).all():
        last_of = {time: row for row, time in enumerate(times.tolist())}
        return columns.take(np.array([row for row, time in enumerate(times.tolist()) if time == 0 or last_of[time] == row])), 0
    columns = columns.take(np.argsort(times, kind="stable") if rank is None else np.lexsort((*rank.T[::-1], times)))
    if rank is None:
        return columns, 0
    times, rank = columns.open_time_ms, columns.rank[:] if columns.rank is not None else rank
    prices = np.column_stack([columns.close, columns.high, columns.low])
    newest = np.append(times[1:] != times[:-1], True)
    group = np.append(0, np.cumsum(newest[:-1]))
    last = np.flatnonzero(newest)[group]  # row of the newest version of each row's candle
    same = (prices == prices[last]) | (np.isnan(prices) & np.isnan(prices[last]))
    contradicts = (rank == rank[last]).all(axis=1) & ~same.all(axis=1)
    doubtful = np.isin(group, group[contradicts])
    return columns.take(newest & ~doubtful), len(set(group[contradicts].tolist()))


def closed_by(now_ms: float, ordered: Columns, interval_ms: int) -> tuple[Columns, int, float]:
    """Leave out candles that run by our clock and do not say that they are closed.

    Returns
    -------
    columns, newest_ms, until_ms
        The closed candles; the close of the newest (its opening where unknown); and when there will be one more.
    """
    count = len(ordered.close)
    closed = count
    while (
        closed and not ordered.flagged and ordered.open_time_ms[closed - 1] and _end_ms(ordered, closed - 1, interval_ms) > now_ms
    ):
        closed -= 1
    if not closed:
        return ordered.take(slice(0, 0)), 0, _end_ms(ordered, 0, interval_ms)
    opened_ms, newest_ms = int(ordered.open_time_ms[closed - 1]), int(ordered.close_time_ms[closed - 1])
    if closed == count:
        return ordered, newest_ms or opened_ms, math.inf
    if not newest_ms:  # the next one runs: so this one has closed
        newest_ms = min(opened_ms + interval_ms, int(ordered.open_time_ms[closed]))
    return ordered.take(slice(closed)), newest_ms, _end_ms(ordered, closed, interval_ms)


def _end_ms(ordered: Columns, row: int, interval_ms: int) -> int:
    return int(ordered.close_time_ms[row]) or int(ordered.open_time_ms[row]) + interval_ms


def priced(columns: Columns) -> tuple[Columns, dict[str, int]]:
    """Leave out minutes without a price, by name; a high or low that is none is the close."""
    left_out: dict[str, int] = {}
    close, high, low = columns.close, columns.high, columns.low
    if len(close) and not (close.min() >= NUMBER_MIN and close.max() <= NUMBER_MAX):
        out_of_range = (close < NUMBER_MIN) | (close > NUMBER_MAX)
        troubles = (np.isnan(close), np.isinf(close), close == 0, close < 0, out_of_range)
        kinds = np.select(troubles, PRICE_TROUBLES, default="")
        left_out = {str(kind): int(count) for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True) if kind}
        columns = columns.take((close >= NUMBER_MIN) & (close <= NUMBER_MAX))
        close, high, low = columns.close, columns.high, columns.low
    if len(close) and not (low.min() > 0 and high.min() > 0 and high.max() < math.inf and low.max() < math.inf):
        high, low = (np.where((one > 0) & (one < math.inf), one, close) for one in (high, low))
        columns = replace(columns, high=high, low=low)
    return columns, left_out


def source_of(labels: frozenset[str]) -> Source:
    """Name the source that the members' labels say."""
    if any("synthetic" in label for label in labels):
        return "synthetic"
    return "candles" if all(label in LIVE_LABELS for label in labels) else "replay"
