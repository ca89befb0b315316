"""What was read of files of candles: candles, malformed rows by name, duplicates and contradictions.

A malformed row is named and left out, never repaired; what share of them is too many says :data:`MALFORMED_SHARE_MAX`, and the
caller refuses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

COLUMNS = ("open_time_ms", "open", "high", "low", "close", "volume")
PRICES = COLUMNS[1:5]
SCHEMA = {name: pl.Int64 if name == "open_time_ms" else pl.Float64 for name in COLUMNS}
MALFORMED_SHARE_MAX = 0.01  # of the rows of one file; beyond it the file is not what it seems
MALFORMED_KEPT = 100  # malformed rows named; the count is always exact
ROWS_MAX = 20_000_000  # of one symbol: 38 years of minutes, about 2 GB
CELL_SHOWN = 40  # characters of a cell, a name or a cause in a message


class OhlcvFileError(Exception):
    """A file cannot be read as candles; the text says what to do."""


@dataclass(frozen=True)
class MalformedRow:
    """One row left out."""

    line: int  # line of the file, 1-based; for column files and JSON the row
    reason: str
    file: str = ""  # name of the file, and of the member of an archive


@dataclass
class FileRows:
    """What one file gave."""

    path: Path
    rows: int = 0  # with candles or malformed
    malformed: int = 0
    unclosed: int = 0  # left out because the file says that the candle was still running
    spacing_sec: float | None = None  # median of the times between its candles; unknown below two
    symbols: set[str] = field(default_factory=set)  # that its rows name, if they do
    hint: str = ""  # which other order of columns would fit

    @property
    def too_malformed(self) -> str:
        """Why the file is not to be used, or nothing."""
        if self.malformed <= MALFORMED_SHARE_MAX * self.rows:
            return ""
        share = f"{self.malformed} of {self.rows} rows of {self.path} are malformed, accepted: {MALFORMED_SHARE_MAX:.0%}"
        return f"{share}; {self.hint}" if self.hint else share


@dataclass(frozen=True)
class OhlcvFile:
    """Candles of one symbol, from one file or several."""

    frame: pl.DataFrame  # COLUMNS; times UTC epoch ms, sorted and unique
    malformed: list[MalformedRow]  # the first MALFORMED_KEPT
    duplicates: int  # rows left out because their open time had been seen, with the same prices
    malformed_count: int
    files: list[FileRows]


def short(text: object) -> str:
    """Give the first line of a text, printable and cut, for a message."""
    first = str(text).partition("\n")[0]
    shown = "".join(char if char.isprintable() else "?" for char in first[: 3 * CELL_SHOWN + 1])
    return shown if len(shown) <= 3 * CELL_SHOWN else shown[: 3 * CELL_SHOWN] + "..."


def cell(value: object) -> str:
    """Give a cell, cut, for a message."""
    shown = repr("" if value is None else value)
    return shown if len(shown) <= CELL_SHOWN else shown[:CELL_SHOWN] + "..."


class Rows:
    """Candles and malformed rows of one symbol, while they are read."""

    def __init__(self) -> None:
        self.files: list[FileRows] = []
        self.labels: list[str] = []  # by part: the file, and the member of an archive
        self.frames: list[pl.DataFrame] = []  # COLUMNS, line, part
        self.malformed: list[MalformedRow] = []
        self.first_frame = 0  # of the file being read
        self.parts: list[int] = []  # by part: index of its file

    def begin(self, path: Path) -> None:
        """Begin with a file."""
        self.files.append(FileRows(path))
        self.first_frame = len(self.frames)

    def part(self, label: str) -> None:
        """Begin with a part of it: the file itself, or a member of an archive."""
        self.labels.append(label)
        self.parts.append(len(self.files) - 1)

    def add(self, good: pl.DataFrame) -> None:
        """Take candles; more than ROWS_MAX raise OhlcvFileError."""
        self.files[-1].rows += good.height
        if good.height:
            self.frames.append(good.with_columns(pl.lit(len(self.labels) - 1, pl.UInt32).alias("part")))
        if sum(one.rows for one in self.files) > ROWS_MAX:
            message = f"{self.files[-1].path} brings more than {ROWS_MAX:,} rows: split them"
            raise OhlcvFileError(message)

    def leave_out(self, count: int, named: Iterable[tuple[int, str]]) -> None:
        """Count malformed rows and name the first, by line and reason."""
        self.files[-1].rows += count
        self.files[-1].malformed += count
        for line, reason in named:
            if len(self.malformed) >= MALFORMED_KEPT:
                return
            self.malformed.append(MalformedRow(line, reason, self.labels[-1]))

    def end(self) -> None:
        """End a file: its spacing is known."""
        if self.frames[self.first_frame :]:
            times = pl.concat([frame["open_time_ms"] for frame in self.frames[self.first_frame :]])
            spacing = times.diff().abs().median()
            self.files[-1].spacing_sec = spacing / 1000 if isinstance(spacing, float) else None

    def merged(self) -> OhlcvFile:
        """Sort what all files gave; leave out duplicates and name contradictions."""
        frame = pl.concat(self.frames) if self.frames else pl.DataFrame(schema={**SCHEMA, "line": pl.UInt32, "part": pl.UInt32})
        self.frames.clear()
        duplicates, steps = 0, frame["open_time_ms"].diff().drop_nulls()
        if not (steps > 0).all():
            frame = frame.reverse() if (steps < 0).all() else frame.sort("open_time_ms", maintain_order=True)
            same = frame["open_time_ms"].diff() == 0
            if same.any():
                times = frame.filter(same).select("open_time_ms").unique()
                twice = frame.join(times, on="open_time_ms", how="semi")
                against = self._contradictions(twice)
                frame = frame.unique("open_time_ms", keep="first", maintain_order=True).join(
                    against, on="open_time_ms", how="anti"
                )
                duplicates = twice.join(against, on="open_time_ms", how="anti").height
                duplicates -= times.join(against, on="open_time_ms", how="anti").height
        return OhlcvFile(frame.select(COLUMNS), self.malformed, duplicates, sum(one.malformed for one in self.files), self.files)

    def _contradictions(self, twice: pl.DataFrame) -> pl.DataFrame:
        """Name the rows of one time that have other prices; returns these times."""
        against = (
            twice.group_by("open_time_ms").agg(pl.struct(PRICES).n_unique().alias("versions")).filter(pl.col("versions") > 1)
        )
        against = against.select("open_time_ms")
        rows = twice.join(against, on="open_time_ms", how="semi")
        for part, count in rows.group_by("part").len().iter_rows():
            self.files[self.parts[part]].malformed += count
        seen: dict[int, dict[str, Any]] = {}
        for row in rows.head(20 * MALFORMED_KEPT).iter_rows(named=True):
            first = seen.setdefault(row["open_time_ms"], row)
            name = next((one for one in PRICES if row[one] != first[one]), None)
            if name is None or len(self.malformed) >= MALFORMED_KEPT:
                continue
            there = f"line {first['line']}" + (f" of {self.labels[first['part']]}" if first["part"] != row["part"] else "")
            at = datetime.fromtimestamp(row["open_time_ms"] / 1000, UTC)
            reason = f"contradicts {there}, of the same time {at:%Y-%m-%d %H:%M}: {name} {row[name]:g}, there {first[name]:g}"
            self.malformed.append(MalformedRow(row["line"], reason, self.labels[row["part"]]))
        return against
