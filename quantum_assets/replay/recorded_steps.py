"""The steps of a recorded time, in their order, each with the rows it has recorded.

Here belongs how rows of an archive are found and read; what they mean for a step that is computed again is
:mod:`quantum_assets.replay.rerun`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import orjson
import polars as pl

from quantum_assets.replay.standing import NotRecordedError, Step
from quantum_core.contracts.tables import PUBLISHED_TABLES
from resources.recorder.archive import Archive

ASTRAY = timedelta(hours=1)  # so far a moment may lie from those of the records around it: longer than any run lasts
WRITTEN_WITHIN = timedelta(hours=1)  # what was taken before midnight stands among the files of the day after
AHEAD = 2048  # rows that are read at once into dictionaries: polars takes as long for one as for many
WRITTEN_AS = {"seq": pl.Int64(), "at": pl.Datetime("us", "UTC"), "cycle_id": pl.String(), "symbol": pl.String()}

Row = dict[str, Any]


class TableRows:
    """The rows of one table in a time, by the number of their record.

    Parameters
    ----------
    frame
        With the column ``seq``, sorted by it.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        numbers, firsts = np.unique(frame["seq"].to_numpy(), return_index=True)
        ends = [*firsts[1:].tolist(), len(frame)]
        self.bounds = dict(zip(numbers.tolist(), zip(firsts.tolist(), ends, strict=True), strict=True))
        self._ahead: list[Row] = []
        self._from = 0

    def rows(self, first: int, end: int) -> list[Row]:
        """Give rows as dictionaries, which are the caller's; each may be taken once, in their order."""
        if not self._from <= first <= end <= self._from + len(self._ahead):
            self._from = first
            self._ahead = self.frame.slice(first, max(end - first, AHEAD)).rows(named=True)
        return self._ahead[first - self._from : end - self._from]


class Part(NamedTuple):
    """The rows of one table that one record has."""

    table: TableRows
    first: int
    end: int

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a frame."""
        return self.table.frame.slice(self.first, self.end - self.first)

    @property
    def symbols(self) -> set[str]:
        """Whose rows they are."""
        return {*self.frame["symbol"]}

    def rows(self) -> list[Row]:
        """Give the rows as dictionaries, once."""
        return self.table.rows(self.first, self.end)


class Walk:
    """The records of a time in the order of their numbers, with those between them that were taken before or after it.

    Two processes that record at once, or a clock that was set back, give later numbers to earlier moments. Who follows what stood
    must meet every record once, and in order, whatever its moment says.

    Parameters
    ----------
    archive
        Where they are.
    start, end
        The time.
    """

    def __init__(self, archive: Archive, start: datetime, end: datetime) -> None:
        self._archive, self._start, self._end = archive, start, end
        self._days = days_of(start - ASTRAY, end + WRITTEN_WITHIN)
        near = pl.col("at").is_between(start - ASTRAY, end + ASTRAY)
        self.records = collected(archive, "records", self._days, near)
        within = self.records.filter(self._within()) if len(self.records) else self.records
        self.first: Row | None = within.row(0, named=True) if len(within) else None
        if self.first is not None:
            self.records = self.records.filter(pl.col("seq").is_between(self.first["seq"], within["seq"][-1]))

    def _within(self, until: datetime | None = None) -> pl.Expr:
        return pl.col("at").is_between(self._start, until or self._end, closed="left")

    def parts(self, length: timedelta) -> Iterator[tuple[datetime, datetime, Iterator[Step]]]:
        """Cut the time into parts: their times, and the records that follow those of the part before."""
        start, reached = self._start, -1
        while start < self._end:
            until = min(start + length, self._end)
            own = self.records.filter(self._within(until)) if self.first is not None else self.records
            part, reached = (reached, max(reached, own["seq"][-1])) if len(own) else (reached, reached)
            new = pl.col("seq").is_between(part, reached, closed="right")
            yield start, until, steps_in(self._archive, self.records.filter(new) if len(own) else own, self._days)
            start = until

    def before(self, first: int, at: datetime) -> pl.DataFrame:
        """Give the records of the hour before one, oldest first."""
        since = pl.col("at").is_between(at - ASTRAY, at + ASTRAY)
        return collected(self._archive, "records", days_of(at - ASTRAY, at), since & (pl.col("seq") < first))

    def contains(self, at: datetime) -> bool:
        """Say whether a moment is in the time that was asked for."""
        return self._start <= at < self._end


def steps_of(archive: Archive, start: datetime, end: datetime) -> Iterator[Step]:
    """Give the records of a time in their order, with their rows (:class:`Part`, by table)."""
    for _, _, steps in Walk(archive, start, end).parts(end - start):
        yield from (step for step in steps if start <= step.at < end)


def steps_in(archive: Archive, records: pl.DataFrame, days: Sequence[date]) -> Iterator[Step]:
    """Give some records with their rows, in the order of their numbers."""
    if not len(records):
        return
    low, high = records["seq"].min(), records["seq"].max()
    tables: dict[str, TableRows] = {}
    for table in archive.tables():
        if table in ("records", "gaps"):
            continue
        frame = collected(archive, table, days, pl.col("seq").is_between(low, high))
        if len(frame):
            tables[table] = TableRows(frame)
    for record in records.sort("seq").iter_rows(named=True):
        seq = record["seq"]
        parts = {name: Part(table, *table.bounds[seq]) for name, table in tables.items() if seq in table.bounds}
        yield Step(
            seq,
            record["asset"],
            record["cycle_id"],
            record["run_id"],
            record["at"],
            orjson.loads(record["facts"]),
            parts,
            record.get("slot", ""),
            record.get("full", True),
        )


def cycle_time(archive: Archive, cycle_id: str) -> tuple[datetime, datetime]:
    """Give the time from the first to the last record of a cycle.

    Raises
    ------
    NotRecordedError
        There is none.
    """
    records = _read(archive, "records")
    found = (
        records.filter(pl.col("cycle_id") == cycle_id).select("at").collect()
        if "at" in records.collect_schema()
        else pl.DataFrame()
    )
    if not len(found):
        message = f"no cycle {cycle_id} is recorded in {archive.root}"
        raise NotRecordedError(message)
    return found["at"].min(), found["at"].max() + timedelta(microseconds=1)  # type: ignore[return-value, operator]  # times


def last_rows(archive: Archive, table: str, days: Sequence[date], where: pl.Expr, *by: str) -> list[Row]:
    """Give the last row of each symbol, or of each key of some columns, of the records that fulfil a condition.

    Which rows these are is asked first: of a day of many symbols, one row in thousands is the last one.
    """
    query = _read(archive, table, days)
    if "seq" not in query.collect_schema():
        return []
    keys, found = list(by or ("symbol",)), query.filter(where)
    last = found.group_by(keys).agg(pl.col("seq").max()).collect()
    rows = found.filter(pl.col("seq").is_in(last["seq"].unique().implode())).join(last.lazy(), on=[*keys, "seq"], how="semi")
    return rows.collect().sort("seq", maintain_order=True).unique(keys, keep="last", maintain_order=True).rows(named=True)


def last_of(frame: pl.DataFrame, *by: str) -> list[Row]:
    """Give the last row of each symbol, or of each key of some columns."""
    return frame.group_by(by or "symbol", maintain_order=True).last().rows(named=True) if len(frame) else []


def days_of(start: datetime, end: datetime) -> list[date]:
    """Give the UTC dates from one moment to another."""
    first, last = start.astimezone(UTC).date(), end.astimezone(UTC).date()
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def collected(archive: Archive, table: str, days: Sequence[date], where: pl.Expr) -> pl.DataFrame:
    """Read the rows of a table that records have written, in the order of these; without columns where there are none."""
    query = _read(archive, table, days)
    return query.filter(where).sort("seq", maintain_order=True).collect() if "seq" in query.collect_schema() else pl.DataFrame()


def between(archive: Archive, table: str, start: datetime, end: datetime) -> pl.DataFrame:
    """Read the rows of a table from one moment until before another."""
    query = _read(archive, table, days_of(start, end))
    if "at" not in query.collect_schema():
        return pl.DataFrame()
    return query.filter(pl.col("at").is_between(start, end, closed="left")).collect()


def _read(archive: Archive, table: str, days: Sequence[date] | None = None) -> pl.LazyFrame:
    """Read a table; what has other types than the recorder writes is not of the recorder."""
    query = archive.read(table, days)
    schema: Mapping[str, Any] = query.collect_schema()
    if any(name in schema and schema[name] != dtype for name, dtype in WRITTEN_AS.items()):
        message = f"{table}: a file of it has other columns than the recorder writes"
        raise ValueError(message)
    if "seq" in schema and table in PUBLISHED_TABLES:  # a field that was added since
        lacking = [item for item in PUBLISHED_TABLES[table].fields if item.before is not ... and item.name not in schema]
        return query.with_columns(pl.lit(item.before, item.codec.dtype).alias(item.name) for item in lacking)
    return query
