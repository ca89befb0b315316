"""Computes recorded steps again, and names the first difference of each row.

The recorded inputs go through the same functions as live; neither Redis nor Dagster is asked. Each step begins with what was
recorded before it, not with what was computed again, so that one difference is one, and not the beginning of many.

That is also why steps can be computed together, many at a time (:mod:`quantum_assets.replay.together`): each takes what it rests
on when its turn comes, and is computed and compared later. Decisions are computed again, each from its own record.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from quantum_assets.replay.recorded_steps import between, collected, cycle_time, days_of, last_of, steps_of
from quantum_assets.replay.standing import BY_SYMBOL, NotRecordedError, Standing, Step, causes_of
from quantum_assets.replay.together import MARK, Case, together
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ACCOUNT, Table
from quantum_core.contracts.tables import GOVERNOR_STATE, POSITION, PUBLISHED_TABLES
from quantum_core.profiles.profile import Profile, from_body
from quantum_core.settings import Settings, load_settings
from resources.governor.decisions import IncompleteRecordError, decided_again
from resources.inputs.candle_series import Candles
from resources.instance.range_tags import EVENT_TAG, covered
from resources.recorder.archive import Archive
from resources.recorder.series import COLUMNS, Series
from resources.recorder.tape import CANDLE_READINGS, CANDLES, WITHOUT_RESULT, as_read, packages

__all__ = ["Difference", "NotRecordedError", "Outcome", "Step", "cycle_time", "rerun", "steps_of"]

LOOK_BACK = timedelta(days=1)  # a published row that stands may be of the day before
RAN_WITH = ("versions", "settings", "parameters")
KEPT_MAX = 100  # differences; the count is always exact
CHUNK = timedelta(hours=1)
STAMPS = ("seq", "cycle_id", "at", "symbol")
ROWS_MAX = 4000  # of steps that wait to be computed together
OVERLAP = timedelta(hours=1)  # longer than any run lasts

Row = dict[str, Any]


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
        state.settle(outcome)
        _decide_again(archive, start, until, outcome)
        start = until
    if first:
        message = f"nothing was recorded before {end:%Y-%m-%d %H:%M} in {archive.root}"
        raise NotRecordedError(message)
    return outcome


class Pending(NamedTuple):
    """A step whose inputs are taken, and what its publications are judged by: it is computed with many others.

    Attributes
    ----------
    step, case
        The step, and what it computes from.
    versions, ran_with
        Of the packages then, and name of the profile then.
    stands
        Rows that its publications are judged by.
    unknown
        Symbols of which no row was known.
    superseded
        Symbols of which another run has published something meanwhile.
    written
        Why each row was published, by symbol.
    """

    step: Step
    case: Case
    stands: Mapping[str, Row | None]
    unknown: frozenset[str]
    superseded: frozenset[str]
    written: Mapping[str, str]


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
        self._pending: dict[str, list[Pending]] = {}
        self._waiting = 0
        self._last_written: dict[str, datetime] = {}  # when each cycle has published last

    def begin(self, archive: Archive, first: Step) -> None:
        """Bring everything to where it stood before a step."""
        days = days_of(first.at - LOOK_BACK, first.at)
        before = pl.col("seq") < first.seq
        for table in (*RAN_WITH, *BY_SYMBOL):
            self._take(table, last_of(collected(archive, table, days, before)))
        candles = collected(archive, CANDLES, days, before)
        for _, part in candles.partition_by("seq", as_dict=True, maintain_order=True).items() if len(candles) else ():
            self._merge(part)
        for asset, contract in PUBLISHED_TABLES.items():
            rows = collected(archive, asset, days, before)
            if len(rows):
                self.stand(contract, last_of(rows.filter(pl.col("cause") != "unchanged")))
                if contract.kept_current:
                    self.stand(contract, last_of(rows))
        for row in last_of(collected(archive, WITHOUT_RESULT, days, before), "symbol", "asset"):
            self._without(row, "")

    def compute(self, step: Step, outcome: Outcome) -> None:
        """Take the inputs of one step, and go on with what was recorded; it is computed by :meth:`settle` at the latest."""
        if not step.tables.keys().isdisjoint(RAN_WITH):
            self.settle(outcome)  # with what was in force until then
        for table in (*RAN_WITH, *BY_SYMBOL):
            if table in step.tables:
                self._take(table, step.tables[table].rows())
        if CANDLES in step.tables:
            self._merge(step.tables[CANDLES].frame)
        self._began.setdefault(step.cycle_id, step.at)
        contract = PUBLISHED_TABLES.get(step.asset)
        if contract is None:
            return
        rows = step.tables[step.asset].rows() if step.asset in step.tables else []
        symbols: Sequence[str] = ()
        try:
            symbols = (ACCOUNT,) if contract.of_account else self._symbols(step)
            self._pend(contract, step, symbols, rows)
        except NotRecordedError as error:
            outcome.skip(f"{step.asset}: {error}")
        self._apply(contract, step, symbols, rows)
        if self._waiting > ROWS_MAX:
            self.settle(outcome)

    def _pend(self, table: Table, step: Step, symbols: Sequence[str], rows: Sequence[Row]) -> None:
        case = self.case(step, symbols)
        last = self.published[table.asset]
        written = {row["symbol"]: row["cause"] for row in rows}
        superseded = self._superseded(step, symbols)
        if table is GOVERNOR_STATE:  # who decides plans of other symbols writes their rows, too, and records none of them
            decided = (one for one in symbols if one in last and last[one]["last_plan_id"] != case.last[one]["last_plan_id"])
            superseded = superseded.union(decided)
        pending = Pending(
            step,
            case,
            self.standing_of(table, step, symbols),
            frozenset(one for one in {*symbols, *written} if one not in last),
            superseded,
            written,
        )
        self._pending.setdefault(table.asset, []).append(pending)
        self._waiting += len(symbols)

    def settle(self, outcome: Outcome) -> None:
        """Compute the steps that wait, and compare them."""
        waiting, self._pending, self._waiting = self._pending, {}, 0
        differences: list[Difference] = []
        for asset, pending in waiting.items():
            settings, profile = self._in_force()
            frame = together(asset, [one.case for one in pending], settings, profile)
            differences += self._compare(PUBLISHED_TABLES[asset], pending, frame, outcome)
            outcome.steps += len(pending)
        for difference in sorted(differences, key=lambda one: one.seq):
            outcome.add(difference)

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
        return {row["symbol"]: self._reading(row) for row in rows.rows()}

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

    def _take(self, table: str, rows: Sequence[Row]) -> None:
        if not rows:
            return
        named = {row["symbol"]: {name: value for name, value in row.items() if name not in STAMPS} for row in rows}
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

    def _apply(self, table: Table, step: Step, symbols: Sequence[str], rows: Sequence[Row]) -> None:
        without = self.without.setdefault(step.asset, {})
        for row in step.tables[WITHOUT_RESULT].rows() if WITHOUT_RESULT in step.tables else ():
            self._without(row, step.cycle_id)
        evaluated, epoch = self.evaluated[step.asset], int(step.at.timestamp())
        for symbol in symbols:  # nothing was recorded of them because nothing has changed
            if symbol in without:
                without[symbol] = (*without[symbol][:2], step.cycle_id)
            else:
                evaluated[symbol] = epoch
        self.stand(table, rows)
        if rows:
            self._last_written[step.cycle_id] = step.at

    # Comparing.

    def _compare(self, table: Table, pending: Sequence[Pending], frame: pl.DataFrame, outcome: Outcome) -> Iterator[Difference]:
        settings, profile = self._in_force()
        present = frame.filter(pl.col("state") == State.PRESENT)
        computed = as_read(table, present)
        outcome.rows += len(present)
        stands = {one.case.label(symbol): row for one in pending for symbol, row in one.stands.items()}
        moments = {one.case.label(symbol): one.step.at for one in pending for symbol in one.case.symbols}
        causes = causes_of(table, present, computed, moments, stands, settings, profile)
        unequal = {label: rest for label, *rest in _unequal(table, _recorded(table, pending), computed)}
        labels, reason = set(present["symbol"]), self._reason(profile)
        for one in pending:
            step, label = one.step, one.case.label
            left_out = {symbol for symbol in one.superseded if label(symbol) in labels}
            if left_out:
                outcome.skip(f"{step.asset}: another run published what it rests on meanwhile", len(left_out))
            found = {symbol: cause for symbol in one.case.symbols if (cause := causes.get(label(symbol))) is not None}
            blind = _blind(table, one, found) - left_out if one.unknown else set()
            if blind:
                outcome.skip(f"{step.asset}: what stood before it is not recorded", len(blind))
            left_out |= blind
            for symbol in sorted({*one.written, *found} - left_out):
                if (different := unequal.get(label(symbol))) is None and one.written.get(symbol) != found.get(symbol):
                    different = ["cause", one.written.get(symbol), found.get(symbol)]
                if different is not None:
                    name, before, after = different
                    yield Difference(
                        step.seq, step.cycle_id, step.asset, symbol, name, _text(before), _text(after), reason, step.at
                    )

    def _superseded(self, step: Step, symbols: Sequence[str]) -> frozenset[str]:
        """Name the symbols of which another run has published something since this one began: nobody knows which of it was read.

        Cycles of a shard never overlap; a cycle on request overlaps them.
        """
        began, mine = self._began[step.cycle_id], step.cycle_id
        if not any(at >= began for cycle, at in self._last_written.items() if cycle != mine):
            self._last_written = {cycle: at for cycle, at in self._last_written.items() if cycle == mine or at >= began - OVERLAP}
            return frozenset()
        return frozenset(
            symbol
            for rows in self.published.values()
            for symbol in symbols
            if (row := rows.get(symbol)) is not None and row["cycle_id"] != mine and row["written_at"] >= began
        )

    def _reason(self, profile: Profile) -> str:
        """Say what is known to be another than then."""
        if self._profile_wanted is not None:
            return f"computed with profile {profile.name}, published with {self._profile_then}"
        then = self._versions
        others = [f"{name} was {then[name]}, is {now}" for name, now in packages().items() if then.get(name, now) != now]
        return "; ".join(others)


def _decide_again(archive: Archive, start: datetime, end: datetime, outcome: Outcome) -> None:
    events = between(archive, "decisions", start, end)
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


def _blind(table: Table, one: Pending, causes: Mapping[str, str]) -> set[str]:
    """Name the symbols whose row before this one was published before the recorder began, so that nobody knows it."""
    unknown = one.unknown & {*causes, *one.written}
    if table is POSITION:  # every row is moved on from the one before
        return {symbol for symbol in unknown if one.written.get(symbol) != "first"}
    return {symbol for symbol in unknown if one.written.get(symbol) != causes.get(symbol)}


def _recorded(table: Table, pending: Sequence[Pending]) -> pl.DataFrame:
    """Give what was published in some steps, by label."""
    parts = [one.step.tables[table.asset] for one in pending if table.asset in one.step.tables]
    if not parts:
        return pl.DataFrame()
    frame: pl.DataFrame = pl.concat([part.frame for part in parts], how="diagonal_relaxed")
    return frame.with_columns(symbol=pl.format("{}" + MARK + "{}", "seq", "symbol"))


def _unequal(table: Table, recorded: pl.DataFrame, computed: pl.DataFrame) -> Iterator[tuple[str, str, Any, Any]]:
    """Give the first field of each recorded row that differs bit by bit: label, field, and both values."""
    if not len(recorded):
        return
    types = {item.name: item.codec.dtype for item in table.fields if item.name in recorded.columns}
    was = recorded.select("symbol", *(pl.col(name).cast(dtype) for name, dtype in types.items()))
    again = was.select("symbol").join(computed, on="symbol", how="left", maintain_order="left")
    differing = _differing(was.select(list(types)), again.select(list(types)))
    found = np.zeros(len(was), dtype=bool)
    for name, mask in differing.items():
        for row in np.flatnonzero(mask & ~found).tolist():
            yield was["symbol"][row], name, was[name][row], again[name][row]
        found |= mask


def _differing(was: pl.DataFrame, again: pl.DataFrame) -> dict[str, npt.NDArray[np.bool_]]:
    """Say where two frames of the same columns differ, numbers bit by bit: 0.0 is not -0.0."""
    both = was.select(pl.all().name.suffix(":was")).hstack(again)
    numbers = [name for name, dtype in was.schema.items() if dtype.is_float()]
    mask = both.select(
        pl.col(f"{name}:was").is_null() != pl.col(name).is_null()
        if name in numbers
        else pl.col(name).ne_missing(pl.col(f"{name}:was"))
        for name in was.columns
    )
    masks = {name: column.to_numpy() for name, column in zip(was.columns, mask.get_columns(), strict=True)}
    bits = [frame.select(pl.col(numbers).fill_null(0.0)) for frame in (was, again)]
    for name, before, after in zip(numbers, *(frame.get_columns() for frame in bits), strict=True):
        masks[name] = masks[name] | (before.to_numpy().view(np.int64) != after.to_numpy().view(np.int64))
    return masks


def _text(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
