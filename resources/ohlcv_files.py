"""Candles from files: CSV with a header, Binance klines without one, or Parquet.

Here belong the layouts and the row checks. A malformed row is named and left out, never repaired; what share of them
is too many is for the caller to say.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

COLUMNS = ("open_time_ms", "open", "high", "low", "close", "volume")
TIME_NAMES = ("time", "timestamp", "date", "datetime", "open_time", "open time", "open_time_ms")
KLINE_MIN_FIELDS = 6  # open_time, open, high, low, close, volume, then fields we do not read
EPOCH_MS_MIN = 1e11  # a smaller epoch number is seconds (1e11 s is the year 5138, 1e11 ms is 1973)
EPOCH_US_MIN = 1e14  # a larger one is microseconds, as in Binance files from 2025 on
SCHEMA = {name: pl.Int64 if name == "open_time_ms" else pl.Float64 for name in COLUMNS}


class OhlcvFileError(Exception):
    """A file cannot be read as candles; the text says what to do."""


@dataclass(frozen=True)
class MalformedRow:
    """One row left out."""

    line: int  # line of the file, 1-based; for Parquet the row
    reason: str


@dataclass(frozen=True)
class OhlcvFile:
    """Candles of one file."""

    frame: pl.DataFrame  # COLUMNS; times UTC epoch ms, sorted and unique
    malformed: list[MalformedRow]
    duplicates: int  # rows left out because their open time had been seen


def read_ohlcv(path: Path) -> OhlcvFile:
    """Read candles from a CSV or Parquet file.

    Parameters
    ----------
    path : Path
        ``.parquet`` is read as Parquet, anything else as CSV. A header has time, timestamp, date or open_time, and
        open, high, low, close, volume in any case and order. Without a header the columns are those of Binance
        klines. Times are ISO 8601 or epoch s, ms or us; naive times are UTC.

    Returns
    -------
    OhlcvFile
        Sorted candles, rows left out by line number and reason, and the number of duplicates; the first row of an
        open time counts.

    Raises
    ------
    OhlcvFileError
        If the file cannot be opened, is empty, or its columns are not recognised.
    """
    malformed: list[MalformedRow] = []
    candles: dict[int, tuple[float, ...]] = {}
    duplicates = 0
    try:
        rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
        for line, cells in rows:
            try:
                open_time_ms, *numbers = _candle(cells)
            except ValueError as error:
                malformed.append(MalformedRow(line, str(error)))
                continue
            if open_time_ms in candles:
                duplicates += 1
            else:
                candles[int(open_time_ms)] = tuple(numbers)
    except (OSError, UnicodeDecodeError, csv.Error, pl.exceptions.PolarsError) as error:
        message = f"{path} cannot be read ({error}): give an existing CSV or Parquet file with candles"
        raise OhlcvFileError(message) from error
    frame = pl.DataFrame([(time, *rest) for time, rest in sorted(candles.items())], schema=SCHEMA, orient="row")
    return OhlcvFile(frame, malformed, duplicates)


def _csv_rows(path: Path) -> Iterator[tuple[int, Sequence[Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        first = next((row for row in reader if row), None)
        if first is None:
            message = f"{path} is empty: give a file with candles"
            raise OhlcvFileError(message)
        if _is_number(first[0]):
            if len(first) < KLINE_MIN_FIELDS:
                message = f"{path} has no header and {len(first)} columns: klines have {KLINE_MIN_FIELDS} or more"
                raise OhlcvFileError(message)
            order = list(range(KLINE_MIN_FIELDS))
            yield reader.line_num, first
        else:
            order = _order(path, first)
        for row in reader:
            if row:
                yield reader.line_num, [row[i] if i < len(row) else "" for i in order]


def _parquet_rows(path: Path) -> Iterator[tuple[int, Sequence[Any]]]:
    frame = pl.read_parquet(path)
    order = _order(path, frame.columns)
    yield from enumerate(frame.select([frame.columns[i] for i in order]).iter_rows(), start=1)


def _order(path: Path, header: Sequence[str]) -> list[int]:
    names = [name.strip().lower() for name in header]
    time = next((name for name in TIME_NAMES if name in names), None)
    missing = [name for name in COLUMNS[1:] if name not in names] + ([] if time else [f"one of {', '.join(TIME_NAMES)}"])
    if missing or time is None:
        message = f"{path} lacks the columns {', '.join(missing)}: name them in the first line (found {', '.join(names)})"
        raise OhlcvFileError(message)
    return [names.index(name) for name in (time, *COLUMNS[1:])]


def _candle(cells: Sequence[Any]) -> tuple[float, ...]:
    open_, high, low, close, volume = (
        _number(name, cell) for name, cell in zip(COLUMNS[1:], cells[1:KLINE_MIN_FIELDS], strict=True)
    )
    if min(open_, high, low, close) <= 0:
        message = f"a price is not positive: open {open_:g}, high {high:g}, low {low:g}, close {close:g}"
        raise ValueError(message)
    if high < max(open_, low, close) or low > min(open_, close):
        message = f"high and low do not enclose the candle: open {open_:g}, high {high:g}, low {low:g}, close {close:g}"
        raise ValueError(message)
    if volume < 0:
        message = f"volume is negative: {volume:g}"
        raise ValueError(message)
    return (_epoch_ms(cells[0]), open_, high, low, close, volume)


def _number(name: str, cell: object) -> float:
    if not _is_number(cell) or not math.isfinite(float(str(cell))):
        message = f"{name} is not a finite number: {cell!r}"
        raise ValueError(message)
    return float(str(cell))


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


def _epoch_ms(cell: object) -> int:
    if _is_number(cell):
        epoch = float(str(cell))
        if not math.isfinite(epoch) or epoch < 0:
            message = f"time is not an epoch number: {cell!r}"
            raise ValueError(message)
        return round(epoch * 1000 if epoch < EPOCH_MS_MIN else epoch / 1000 if epoch >= EPOCH_US_MIN else epoch)
    moment = cell
    if not isinstance(moment, datetime):
        text = moment.isoformat() if isinstance(moment, date) else str(moment).strip()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            message = f"time is neither ISO 8601 nor an epoch number: {cell!r}"
            raise ValueError(message) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)
