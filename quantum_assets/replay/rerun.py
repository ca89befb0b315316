"""Computes recorded steps again, and names the first difference of each row.

The recorded inputs go through the same functions as live; neither Redis nor Dagster is asked. Each step begins with what was
recorded before it, not with what was computed again, so that one difference is one, and not the beginning of many.

Not computed again, and counted as such: ``capital_efficiency`` (its averages rest on every fill since the first), ``risk_guard``
and the rows of ``governor_permit`` (their counters are the server's). Decisions are, each from its own record.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from typing import Any

import orjson
import polars as pl

from quantum_assets.replay.standing import BY_SYMBOL, NotRecordedError, Standing, Step
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import POSITION, PUBLISHED_TABLES
from quantum_core.profiles.profile import Profile, from_body
from quantum_core.settings import Settings, load_settings
from resources.governor.decisions import IncompleteRecordError, decided_again
from resources.inputs.candle_series import Candles
from resources.instance.range_tags import EVENT_TAG, covered
from resources.recorder.archive import Archive
from resources.recorder.series import COLUMNS, Series
from resources.recorder.tape import CANDLE_READINGS, CANDLES, WITHOUT_RESULT, as_read, packages

__all__ = ["Difference", "NotRecordedError", "Outcome", "Step", "rerun", "steps_of"]

LOOK_BACK = timedelta(days=1)  # a published row that stands may be of the day before
RAN_WITH = ("versions", "settings", "parameters")
NOT_AGAIN = ("capital_efficiency", "risk_guard", "governor_permit")
KEPT_MAX = 100  # differences; the count is always exact
CHUNK = timedelta(hours=1)
WRITTEN_AS = {"seq": pl.Int64(), "at": pl.Datetime("us", "UTC"), "cycle_id": pl.String(), "symbol": pl.String()}


@dataclass(frozen=True)
class Difference:
    """The first field in which a row computed again is not the one that was published."""

    seq: int
    cycle_id: str
    asset: str
    symbol: str
    name: str
    recorded: str
    computed: str
    reason: str = ""
    at: datetime | None = None


@dataclass
class Outcome:
    """What came of computing a time again.

    Attributes
    ----------
    steps, rows, decisions
        How many were compared.
    differing
        Rows and decisions that differ; ``differences`` has the first of them.
    skipped
        Steps that were not computed again, by asset and reason.
    began, ended
        First and last record.
    """

    steps: int = 0
    rows: int = 0
    decisions: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    began: datetime | None = None
    ended: datetime | None = None

    def add(self, difference: Difference) -> None:
        """Count a difference, and keep it while there are few."""
        self.differing += 1
        if len(self.differences) < KEPT_MAX:
            self.differences.append(difference)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count a step that is not computed again."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def include(self, other: Outcome) -> None:
        """Add what came of a later time."""
        for name in ("steps", "rows", "decisions", "differing"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.differences += other.differences[: KEPT_MAX - len(self.differences)]
        for reason, count in other.skipped.items():
            self.skip(reason, count)
        self.began, self.ended = self.began or other.began, other.ended or self.ended


def rerun(
    archive: Archive,
    start: datetime,
    end: datetime,
    *,
    profile: Profile | None = None,
    budget_sec: float = math.inf,
) -> Outcome:
    """Compute everything again that was recorded from one moment until before another.

    Parameters
    ----------
    archive
        Where the records are.
    start, end
        Aware UTC.
    profile
        Parameters to compute with; those that were in force when not given.
    budget_sec
        Time after which no further step is begun; ``Outcome.ended`` shows how far it went.

    Raises
    ------
    NotRecordedError
        Nothing was recorded then.
    ValueError
        A file of the archive cannot be read.
    """
    outcome, state = Outcome(), Replayed(profile)
    first, last_moment = True, time.monotonic() + budget_sec
    while start < end and time.monotonic() < last_moment:
        until = min(start + CHUNK, end)
        for step in steps_of(archive, start, until):
            if first:
                state.begin(archive, step)
                first = False
            state.compute(step, outcome)
            outcome.began, outcome.ended = outcome.began or step.at, step.at
            if time.monotonic() > last_moment:
                until = step.at
                break
        _decide_again(archive, start, until, outcome)
        start = until
    if first:
        message = f"nothing was recorded before {end:%Y-%m-%d %H:%M} in {archive.root}"
        raise NotRecordedError(message)
    return outcome


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


def steps_of(archive: Archive, start: datetime, end: datetime) -> Iterator[Step]:
    """Give the records of a time in their order, with their rows."""
    records = _between(archive, "records", start, end)
    if not len(records):
        return
    numbers = records["seq"]
    low, high = numbers.min(), numbers.max()
    rows = {}
    for table in archive.tables():
        if table in ("records", "gaps"):
            continue
        query = _read(archive, table, _days(start, end))
        if "seq" in query.collect_schema():
            frame = query.filter(pl.col("seq").is_between(low, high)).sort("seq", maintain_order=True).collect()
            rows[table] = {key[0]: part for key, part in frame.partition_by("seq", as_dict=True, maintain_order=True).items()}
    for record in records.sort("seq").iter_rows(named=True):
        tables = {table: parts[record["seq"]] for table, parts in rows.items() if record["seq"] in parts}
        yield Step(
            record["seq"],
            record["asset"],
            record["cycle_id"],
            record["run_id"],
            record["at"],
            orjson.loads(record["facts"]),
            tables,
        )


class Replayed(Standing):
    """What stood while steps were recorded, and what cannot be computed again.

    Parameters
    ----------
    profile
        Replaces the recorded parameters.
    """

    def __init__(self, profile: Profile | None = None) -> None:
        super().__init__(profile=profile)
        self._profile_wanted = profile
        self._profile_then, self._versions = "", dict[str, str]()
        self._began: dict[str, datetime] = {}  # a cycle, by its id
        self._settings_given: dict[str, Any] = {}
        self.series: dict[str, Series] = {}

    def begin(self, archive: Archive, first: Step) -> None:
        """Bring everything to where it stood before a step."""
        days = _days(first.at - LOOK_BACK, first.at)
        before = pl.col("seq") < first.seq
        for table in (*RAN_WITH, *BY_SYMBOL):
            rows = _collected(archive, table, days, before)
            if len(rows):
                self._take(table, rows.group_by("symbol", maintain_order=True).last())
        candles = _collected(archive, CANDLES, days, before)
        for _, part in candles.partition_by("seq", as_dict=True, maintain_order=True).items() if len(candles) else ():
            self._merge(part)
        for asset, contract in PUBLISHED_TABLES.items():
            rows = _collected(archive, asset, days, before)
            if len(rows):
                news = rows.filter(pl.col("cause") != "unchanged")
                self.stand(contract, news.group_by("symbol", maintain_order=True).last())
                if contract.kept_current:
                    self.stand(contract, rows.group_by("symbol", maintain_order=True).last())
        rest = _collected(archive, WITHOUT_RESULT, days, before)
        if len(rest):
            for row in rest.group_by("symbol", "asset", maintain_order=True).last().iter_rows(named=True):
                self._without(row, "")

    def compute(self, step: Step, outcome: Outcome) -> None:
        """Compute one step again, compare it, and go on with what was recorded."""
        for table in (*RAN_WITH, *BY_SYMBOL):
            if table in step.tables:
                self._take(table, step.tables[table])
        if CANDLES in step.tables:
            self._merge(step.tables[CANDLES])
        self._began.setdefault(step.cycle_id, step.at)
        contract = PUBLISHED_TABLES.get(step.asset)
        if contract is None:
            return
        if step.asset in NOT_AGAIN:
            outcome.skip(f"{step.asset}: not computed again")
            self._apply(contract, step, self._symbols(step) if self.settings else ())
            return
        try:
            symbols = self._symbols(step)
            frame = self.frame(step, symbols)
        except NotRecordedError as error:
            outcome.skip(f"{step.asset}: {error}")
            self._apply(contract, step, self._symbols(step) if self.settings else ())
            return
        outcome.steps += 1
        for difference in self._compare(contract, step, frame, outcome):
            outcome.add(difference)
        self._apply(contract, step, symbols)

    # What it reads from records.

    def _symbols(self, step: Step) -> Sequence[str]:
        settings, _ = self._in_force()
        return covered(settings.symbols, {EVENT_TAG: step.facts["symbols"]}, settings.symbols) if step.facts["symbols"] else ()

    def readings(self, step: Step) -> Mapping[str, Reading[Candles]]:
        """Give the candles a market state was computed from, by symbol."""
        rows = step.tables.get(CANDLE_READINGS)
        if rows is None:
            message = "its candles are not recorded"
            raise NotRecordedError(message)
        return {row["symbol"]: self._reading(row) for row in rows.iter_rows(named=True)}

    def bars(self, symbol: str) -> Any:
        """Give as many candles as the position was judged by; None where there were none."""
        count = self.inputs["position_bars"].get(symbol, {}).get("count")
        if count is None or (count and symbol not in self.series):
            message = "its candles are not recorded yet"
            raise NotRecordedError(message)
        if not count:
            return None
        return SimpleNamespace(**dict(zip(COLUMNS, self.series[symbol].tail(count), strict=True)))

    def _reading(self, row: Mapping[str, Any]) -> Reading[Candles]:
        symbol, state = row["symbol"], State(row["state"])
        if state is not State.PRESENT:
            return Reading(symbol, state, None, row["why"])
        series = self.series.get(symbol)
        if series is None or len(series.columns[0]) < row["count"]:
            message = "its candles are not recorded yet"
            raise NotRecordedError(message)
        columns = dict(zip(COLUMNS, series.tail(row["count"]), strict=True))
        return Reading.present(
            symbol,
            Candles(
                **columns,
                source=series.source,  # type: ignore[arg-type]  # as it was recorded
                key=series.key,
                malformed=row["malformed"],
                newest_epoch_sec=row["newest_epoch_sec"],
                left_out=orjson.loads(row["left_out"]) if row["left_out"] else {},
                members=row["members"],
            ),
        )

    # What a record changes.

    def _take(self, table: str, rows: pl.DataFrame) -> None:
        named = {row.pop("symbol"): row for row in rows.drop("seq", "cycle_id", "at", strict=False).iter_rows(named=True)}
        if table == "settings":
            self._settings_given |= {name: json.loads(row["value"]) for name, row in named.items()}
            known = Settings.model_fields.keys()
            given = {name: value for name, value in self._settings_given.items() if name in known}
            self.settings = load_settings(**given)
        elif table == "versions":
            self._versions = {name: row["value"] for name, row in named.items()}
        elif table == "parameters":
            name, row = next(reversed(named.items()))
            recorded, self._profile_then = from_body(json.loads(row["text"])), name
            self.profile = self._profile_wanted or recorded
        else:
            self.inputs[table] |= named

    def _merge(self, candles: pl.DataFrame) -> None:
        for (symbol,), part in candles.partition_by("symbol", as_dict=True, maintain_order=True).items():
            series = self.series.setdefault(str(symbol), Series(longest=5000))
            series.source, series.key = part["source"][-1], part["key"][-1]
            columns = tuple(part[name].to_numpy() for name in COLUMNS)
            if part["whole"].any():
                series.replace(columns)
            else:
                series.add(columns)

    def _without(self, row: Mapping[str, Any], cycle_id: str) -> None:
        known = self.without[row["asset"]]
        if row["state"] == State.PRESENT:
            known.pop(row["symbol"], None)
        else:
            known[row["symbol"]] = (row["state"], row["why"], cycle_id)

    def _apply(self, table: Table, step: Step, symbols: Sequence[str]) -> None:
        without = self.without.setdefault(step.asset, {})
        for row in step.tables.get(WITHOUT_RESULT, pl.DataFrame()).iter_rows(named=True):
            self._without(row, step.cycle_id)
        for symbol in symbols:  # nothing was recorded of them because nothing has changed
            if symbol in without:
                without[symbol] = (*without[symbol][:2], step.cycle_id)
            else:
                self.evaluated[step.asset][symbol] = int(step.at.timestamp())
        rows = step.tables.get(step.asset)
        if rows is not None:
            self.stand(table, rows)

    # Comparing.

    def _compare(self, table: Table, step: Step, frame: pl.DataFrame, outcome: Outcome) -> Iterator[Difference]:
        _, profile = self._in_force()
        present = frame.filter(pl.col("state") == State.PRESENT)
        computed = as_read(table, present)
        recorded = step.tables.get(step.asset)
        causes = self.causes(table, step, present, computed)
        written = {} if recorded is None else dict(zip(recorded["symbol"], recorded["cause"], strict=True))
        outcome.rows += len(present)

        def differs(symbol: str, name: str, before: Any, after: Any) -> Difference:
            reason = self._reason(profile)
            return Difference(step.seq, step.cycle_id, step.asset, symbol, name, _text(before), _text(after), reason, step.at)

        left_out = self._overtaken(step, present["symbol"].to_list())
        if left_out:
            outcome.skip(f"{step.asset}: another run published what it rests on meanwhile", len(left_out))
        blind = self._blind(table, causes, written) - left_out
        if blind:
            outcome.skip(f"{step.asset}: what stood before it is not recorded", len(blind))
        left_out |= blind
        if recorded is not None:
            for symbol, name, published, found in _unequal(table, recorded, computed):
                if symbol not in left_out:
                    left_out.add(symbol)
                    yield differs(symbol, name, published, found)
        for symbol in {*causes, *written} - left_out:
            if (before := written.get(symbol)) != (after := causes.get(symbol)):
                yield differs(symbol, "cause", before, after)

    def _blind(self, table: Table, causes: Mapping[str, str], written: Mapping[str, str]) -> set[str]:
        """Name the symbols whose row before this one was published before the recorder began, so that nobody knows it."""
        unknown = {*causes, *written} - self.published[table.asset].keys()
        if table is POSITION:  # every row is moved on from the one before
            return {symbol for symbol in unknown if written.get(symbol) != "first"}
        return {symbol for symbol in unknown if written.get(symbol) != causes.get(symbol)}

    def _overtaken(self, step: Step, symbols: Sequence[str]) -> set[str]:
        """Name the symbols of which another run has published something since this one began: nobody knows which of it was read.

        Cycles of a shard never overlap; a cycle on request overlaps them.
        """
        began, mine = self._began[step.cycle_id], step.cycle_id
        return {
            symbol
            for rows in self.published.values()
            for symbol in symbols
            if (row := rows.get(symbol)) is not None and row["cycle_id"] != mine and row["written_at"] >= began
        }

    def _reason(self, profile: Profile) -> str:
        """Say what is known to be another than then."""
        if self._profile_wanted is not None:
            return f"computed with profile {profile.name}, published with {self._profile_then}"
        then = self._versions
        others = [f"{name} was {then[name]}, is {now}" for name, now in packages().items() if then.get(name, now) != now]
        return "; ".join(others)


def _decide_again(archive: Archive, start: datetime, end: datetime, outcome: Outcome) -> None:
    events = _between(archive, "decisions", start, end)
    for event in events.iter_rows(named=True) if "plan_id" in events.columns else ():
        fields_given = {name: value for name, value in event.items() if isinstance(value, str)}
        if "plan_id" not in fields_given or "event" not in fields_given or "theta" not in fields_given:
            continue
        try:
            again = decided_again(fields_given)
        except IncompleteRecordError as error:
            outcome.skip(f"decision: {error}")
            continue
        outcome.decisions += 1
        if again != fields_given.get("reason", ""):
            outcome.add(
                Difference(
                    0,
                    fields_given.get("cycle_id", ""),
                    "decision",
                    fields_given["plan_id"],
                    "reason",
                    fields_given.get("reason", ""),
                    again,
                )
            )


def _unequal(table: Table, recorded: pl.DataFrame, computed: pl.DataFrame) -> Iterator[tuple[str, str, Any, Any]]:
    """Give the first field of each recorded row that differs bit by bit: symbol, field, and both values."""
    names = [item.name for item in table.fields]
    again, nothing = dict(zip(computed["symbol"], computed.select(names).rows(), strict=True)), (None,) * len(names)
    for symbol, was in zip(recorded["symbol"], recorded.select(names).rows(), strict=True):
        is_now = again.get(symbol, nothing)
        if was != is_now or 0.0 in was:  # 0.0 equals -0.0, which reads otherwise
            unequal = (pair for pair in zip(names, was, is_now, strict=True) if _bits(pair[1]) != _bits(pair[2]))
            for name, published, found in islice(unequal, 1):
                yield symbol, name, published, found


def _bits(value: Any) -> Any:
    return (math.copysign(1, value), value) if isinstance(value, float) else value


def _text(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _days(start: datetime, end: datetime) -> list[date]:
    first, last = start.astimezone(UTC).date(), end.astimezone(UTC).date()
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _read(archive: Archive, table: str, days: Sequence[date] | None = None) -> pl.LazyFrame:
    """Read a table; what has other types than the recorder writes is not of the recorder."""
    query = archive.read(table, days)
    schema = query.collect_schema()
    if any(name in schema and schema[name] != dtype for name, dtype in WRITTEN_AS.items()):
        message = f"{table}: a file of it has other columns than the recorder writes"
        raise ValueError(message)
    if "seq" in schema and table in PUBLISHED_TABLES:  # a field that was added since
        lacking = [item for item in PUBLISHED_TABLES[table].fields if item.before is not ... and item.name not in schema]
        return query.with_columns(pl.lit(item.before, item.codec.dtype).alias(item.name) for item in lacking)
    return query


def _collected(archive: Archive, table: str, days: Sequence[date], where: pl.Expr) -> pl.DataFrame:
    query = _read(archive, table, days)
    return query.filter(where).sort("seq", maintain_order=True).collect() if "seq" in query.collect_schema() else pl.DataFrame()


def _between(archive: Archive, table: str, start: datetime, end: datetime) -> pl.DataFrame:
    query = _read(archive, table, _days(start, end))
    if "at" not in query.collect_schema():
        return pl.DataFrame()
    return query.filter(pl.col("at").is_between(start, end, closed="left")).collect()
