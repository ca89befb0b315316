"""Candles of one symbol as they become known: each recorded once, and any window of them given again exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

COLUMNS = ("open_time_ms", "high", "low", "close", "volume")
SPARE = 2  # so many windows are kept: a window may begin earlier than the last one did

Column = npt.NDArray[Any]
Columns = tuple[Column, ...]  # one array for each of COLUMNS, of one length, oldest candle first


@dataclass(eq=False)
class Series:
    """All candles of a symbol that were recorded and may be asked for again.

    Attributes
    ----------
    columns
        In the order of COLUMNS: int64 epoch ms, strictly increasing; float64 quote units; volume NaN where unknown.
    source, key
        Where they come from, see :class:`resources.inputs.candle_series.Candles`.
    longest
        Longest window so far.
    """

    columns: Columns = tuple(np.empty(0, dtype=np.int64 if name == "open_time_ms" else np.float64) for name in COLUMNS)
    source: str = ""
    key: str = ""
    longest: int = 0

    def tail(self, count: int) -> Columns:
        """Give the newest candles."""
        first = max(len(self.columns[0]) - count, 0)
        return tuple(column[first:] for column in self.columns)

    def holds(self, window: Columns) -> bool:
        """Say whether a window is what :meth:`tail` gives."""
        return _equal(self.tail(len(window[0])), window)

    def news(self, window: Columns) -> Columns | None:
        """Give the candles of a window that are not known as they are there; ``None`` when merging them would not give it.

        Candles without a time cannot be merged.
        """
        times = window[0]
        if not len(times) or times[0] <= 0:
            return None
        if newer := self._newer(window):
            return tuple(column[-newer:] for column in window)
        known = np.searchsorted(self.columns[0], times)
        inside = known < len(self.columns[0])
        row = np.where(inside, known, 0)
        same = inside.copy()
        if inside.any():
            for mine, theirs in zip(self.columns, window, strict=True):
                same &= _equal_each(mine[row], theirs)
        news = tuple(column[~same] for column in window)
        merged = _merge(self.columns, news)
        first = max(len(merged[0]) - len(times), 0)
        return news if _equal(tuple(column[first:] for column in merged), window) else None

    def _newer(self, window: Columns) -> int:
        """Count the last candles of a window that follow on what is known, where all before them are its end; else 0."""
        times, mine = window[0], self.columns[0]
        before = int(np.searchsorted(times, mine[-1], side="right")) if len(mine) else 0
        same = before and _equal(self.tail(before), tuple(column[:before] for column in window))
        return len(times) - before if same else 0

    def add(self, news: Columns) -> None:
        """Merge candles in: of one time the newer version stays."""
        self._keep(_merge(self.columns, news))

    def replace(self, window: Columns) -> None:
        """Begin anew with a window."""
        self._keep(window)

    def _keep(self, columns: Columns) -> None:
        first = max(len(columns[0]) - SPARE * max(self.longest, 1), 0)
        self.columns = tuple(column[first:] for column in columns)


def columns_of(candles: Any) -> Columns:
    """Take the columns out of an object that has them as attributes."""
    return tuple(getattr(candles, name) for name in COLUMNS)


def _merge(old: Columns, new: Columns) -> Columns:
    if not len(new[0]):
        return old
    if not len(old[0]) or new[0][0] > old[0][-1]:
        return tuple(np.concatenate(pair) for pair in zip(old, new, strict=True))
    kept = ~np.isin(old[0], new[0])
    joined = [np.concatenate((before[kept], after)) for before, after in zip(old, new, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return tuple(column[order] for column in joined)


def _equal(some: Columns, others: Columns) -> bool:
    return all(len(a) == len(b) and bool(_equal_each(a, b).all()) for a, b in zip(some, others, strict=True))


def _equal_each(some: Column, others: Column) -> npt.NDArray[np.bool_]:
    """Compare bit by bit: NaN equals NaN."""
    equal = some == others
    if some.dtype == np.float64 and not equal.all():
        equal |= np.isnan(some) & np.isnan(others)
    return np.asarray(equal)
