"""Rows of an exchange, judged: which are candles, which have closed, which are missing. Pure; times are opening times in ms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Sequence[Any]
Candle = tuple[float, float, float, float, float | None]  # open, high, low, close, volume; some exchanges give no volume


@dataclass(frozen=True)
class Judged:
    """What an answer of the exchange holds.

    Attributes
    ----------
    candles
        Opening time to candle; of several for one time the last.
    rejected
        What was wrong with a row, and how many were.
    unclosed
        Rows whose time has not passed by the exchange's clock.
    """

    candles: Mapping[int, Candle]
    rejected: Mapping[str, int] = field(default_factory=dict)
    unclosed: int = 0


def judge(rows: Iterable[Row], *, exchange_ms: int, interval_ms: int) -> Judged:
    """Sort the rows of one answer.

    Parameters
    ----------
    rows
        As ccxt gives them: time in ms, open, high, low, close, volume; in any order.
    exchange_ms
        The exchange's own time, not ours: a candle has closed when that says so.
    interval_ms
        Length of a candle.
    """
    candles: dict[int, Candle] = {}
    rejected: dict[str, int] = {}
    unclosed = 0
    for row in rows:
        if reason := fault(row, interval_ms):
            rejected[reason] = rejected.get(reason, 0) + 1
        elif row[0] + interval_ms > exchange_ms:
            unclosed += 1
        else:
            opened, *prices, volume = row[:6]
            candles[int(opened)] = (*map(float, prices), None if volume is None else float(volume))  # type: ignore[assignment]
    return Judged(candles, rejected, unclosed)


def fault(row: Row, interval_ms: int) -> str:
    """Say why a row is no candle; empty when it is one."""
    if len(row) < 6:
        return "not_numbers"
    opened, open_, high, low, close, volume = numbers = [*row[:5], 0.0 if row[5] is None else row[5]]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        return "not_numbers"
    if not all(map(math.isfinite, numbers)):
        return "not_finite"
    if min(open_, high, low, close) <= 0 or volume < 0:
        return "not_positive"
    if not low <= min(open_, close) <= max(open_, close) <= high:
        return "inconsistent"
    return "misaligned" if opened % interval_ms or opened <= 0 else ""


def wanted(*, exchange_ms: int, interval_ms: int, count: int) -> range:
    """Give the opening times of the newest ``count`` candles that have closed by the exchange's clock."""
    end = exchange_ms // interval_ms * interval_ms
    return range(end - count * interval_ms, end, interval_ms)


def pages(missing: Sequence[int], *, interval_ms: int, page: int) -> list[tuple[int, int]]:
    """Split missing times into requests: first time, and how many candles from there on.

    A request covers at most ``page`` candles; times that are close together share one.
    """
    requests: list[tuple[int, int]] = []
    for time in sorted(missing):
        if requests and time < requests[-1][0] + page * interval_ms:
            first = requests[-1][0]
            requests[-1] = first, (time - first) // interval_ms + 1
        else:
            requests.append((time, 1))
    return requests


def stretches(times: Iterable[int], *, interval_ms: int) -> list[tuple[int, int, int]]:
    """Join times that follow each other: first, last, and how many, oldest first."""
    spans: list[tuple[int, int, int]] = []
    for time in sorted(times):
        if spans and time == spans[-1][1] + interval_ms:
            spans[-1] = spans[-1][0], time, spans[-1][2] + 1
        else:
            spans.append((time, time, 1))
    return spans


def corrections(known: Mapping[int, Candle], new: Mapping[int, Candle]) -> list[int]:
    """List the times whose candle was written before with other numbers."""
    return sorted(time for time, candle in new.items() if time in known and known[time] != candle)
