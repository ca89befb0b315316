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
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from quantum_assets.replay.beginning import REMEMBERED, Before, without_since
from quantum_assets.replay.recorded_steps import (
    Walk,
    between,
    collected,
    cycle_time,
    days_of,
    last_of,
    last_rows,
    steps_in,
    steps_of,
)
from quantum_assets.replay.standing import BY_SYMBOL, NotRecordedError, Standing, Step, causes_of
from quantum_assets.replay.together import MARK, Case, together
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ACCOUNT, Table
from quantum_core.contracts.tables import GOVERNOR_STATE, POSITION, PUBLISHED_TABLES, RISK_PROPOSAL
from quantum_core.kernels.position.identity import FLAT
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
ROWS_MAX = 40_000  # of steps that wait to be computed together
OVERLAP = timedelta(hours=1)  # longer than any run lasts
LATE_SEC = 3.0  # a lifetime begins when the server writes, which is later than the record says
SHOWN = frozenset({  # fields of a position that are as its snapshot and the candles show them, whatever stop was proposed
    "side", "entry_price", "current_price", "peak_price", "trough_price", "age_sec", "unrealized_pnl", "qty", "opened_at_epoch",
    "position_source", "position_ts_epoch", "last_candle_ms", "last_close", "mark_price", "contracts",
})  # fmt: skip
RESTS_ON: Mapping[str, Sequence[str]] = {  # other assets whose last rows an asset is computed from
    "risk_proposal": ("market_state", "position"),
    "harvest_proposal": ("market_state", "position", "risk_proposal"),
    "position_size": ("market_state", "allocation_target"),
    "trade_intent": ("position", "risk_proposal", "harvest_proposal"),
}

OF_THE_PROFILE = frozenset({"profile", "profile_name"})  # differ with any other parameters, and so do causes

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
    fields: tuple[str, ...] = ()  # with other parameters all that differ, else the first


@dataclass
class Outcome:
    """What came of computing a time again.

    Attributes
    ----------
    steps, rows, decisions
        How many were compared.
    differing
        Rows and decisions that differ; ``differences`` has the first of them.
    rows_of, changed
        Rows that differ, by asset; and of these by field.
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
    rows_of: Counter[str] = field(default_factory=Counter)
    changed: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    skipped: dict[str, int] = field(default_factory=dict)
    began: datetime | None = None
    ended: datetime | None = None

    def add(self, difference: Difference) -> None:
        """Count a difference, and keep it while there are few."""
        self.differing += 1
        self.rows_of[difference.asset] += 1
        self.changed[difference.asset].update(difference.fields or (difference.name,))
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
        self.rows_of.update(other.rows_of)
        for asset, counts in other.changed.items():
            self.changed[asset].update(counts)
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
    outcome, state, walk = Outcome(), Replayed(profile), Walk(archive, start, end)
    last_moment = time.monotonic() + budget_sec
    if walk.first is None:
        message = f"nothing was recorded before {end:%Y-%m-%d %H:%M} in {archive.root}"
        raise NotRecordedError(message)
    state.begin(archive, walk)
    for begin, until, steps in walk.parts(CHUNK):
        reached = until
        for step in steps:
            judged = walk.contains(step.at)
            state.compute(step, outcome, judged=judged)
            if judged:
                outcome.began, outcome.ended = outcome.began or step.at, step.at
            if time.monotonic() > last_moment:
                reached = step.at
                break
        state.settle(outcome)
        _decide_again(archive, begin, reached, outcome)
        if time.monotonic() > last_moment:
            break
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
    judged
        Whether it is compared; a step that is not changes what stands only.
    unknown, cause_unknown
        Symbols of which what they are computed from, or what decides whether they are published, is not recorded.
    stop_unknown
        Symbols of which the stop last proposed is not recorded: what a snapshot shows does not rest on it.
    superseded
        Symbols of which another run has published something meanwhile.
    written
        Why each row was published, by symbol.
    """

    step: Step
    case: Case
    stands: Mapping[str, Row | None]
    judged: bool
    unknown: frozenset[str]
    cause_unknown: frozenset[str]
    stop_unknown: frozenset[str]
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
        self._known: dict[str, set[str]] = {asset: set() for asset in PUBLISHED_TABLES}  # symbols of which is known what stands
        self._whole: set[str] | None = None  # slots that have recorded everything since records were lost; None: none were
        self._reached = 0  # number of the last record
        self._last_now: dict[str, float] = {}  # of the position of each symbol, when it was last evaluated
        self._undecided: set[str] = set()  # symbols whose position may have been let go before the first record
        self._symbols_in: dict[str, Sequence[str]] = {}  # a range of symbols

    def begin(self, archive: Archive, walk: Walk) -> None:
        """Bring everything to where it stood before the first record of a time."""
        first = walk.first
        assert first is not None  # noqa: S101 - narrows
        days, earlier = days_of(first["at"] - LOOK_BACK, first["at"]), walk.before(first["seq"], first["at"])
        self._take("settings", last_rows(archive, "settings", days, pl.col("seq") < first["seq"]))
        records = Before(earlier, self._symbols_of)
        from_seq = records.go_through_from(first, self.settings.symbols) if self.settings is not None else first["seq"]
        records = records.until(from_seq)
        self._stood(archive, days, records, pl.col("seq") < from_seq)
        for step in steps_in(archive, earlier.filter(pl.col("seq") >= from_seq), days) if from_seq < first["seq"] else ():
            self.compute(step, Outcome(), judged=False)
        self.settle(Outcome())

    def _stood(self, archive: Archive, days: Sequence[date], records: Before, before: pl.Expr) -> None:
        """Take what records say of what stood."""
        for table in (*RAN_WITH, *BY_SYMBOL):
            self._take(table, last_rows(archive, table, days, before))
        self._merge_all(collected(archive, CANDLES, days, before))
        for asset, contract in PUBLISHED_TABLES.items():
            self.stand(contract, last_rows(archive, asset, days, before & (pl.col("cause") != "unchanged")))
            if contract.kept_current:
                self.stand(contract, last_rows(archive, asset, days, before))
        without = collected(archive, WITHOUT_RESULT, days, before)
        for row in last_of(without, "symbol", "asset"):
            self._without(row, "")
        times = records.cycles()
        self._began = {cycle: begun for cycle, (begun, _) in times.items()}
        self._last_written = {cycle: ended for cycle, (_, ended) in times.items()}
        self._known_since(records, last_of(without, "symbol", "asset"))
        since = without_since(without)
        for asset, contract in PUBLISHED_TABLES.items():
            symbols = (ACCOUNT,) if contract.of_account else self.settings.symbols if self.settings is not None else ()
            for symbol, step in records.last_steps(asset, symbols, since.get(asset)).items():
                self.evaluated[asset][symbol] = int(step["at"].timestamp())
            for symbol, step in records.last_steps(asset, self.without[asset]).items():
                self.without[asset][symbol] = (*self.without[asset][symbol][:2], step["cycle_id"])
        self._positions_stood(archive, days, records, before)
        for row in self.published["trade_intent"].values():
            row["due"] = None  # until an evaluation has renewed it

    def _known_since(self, records: Before, without: Sequence[Row]) -> None:
        """Note what is known, and what is not any more because records were lost since."""
        hole = records.hole()
        for asset, rows in self.published.items():
            self._known[asset] = {symbol for symbol, row in rows.items() if row["seq"] >= hole}
        for row in without:
            if row["seq"] >= hole and row["state"] != State.PRESENT:  # that there is a result does not say which
                self._known[row["asset"]].add(row["symbol"])
        recorded = any(self.published.values())
        self._whole = None if recorded and not hole else records.whole_since(hole)

    def _positions_stood(self, archive: Archive, days: Sequence[date], records: Before, before: pl.Expr) -> None:
        """Mark the kept rows that no source has shown since, and those that may have been let go."""
        rows, raw = self.published["position"], collected(archive, "raw_positions", days, before)
        steps = records.last_steps("position", rows)
        self._last_now = {symbol: orjson.loads(step["facts"]).get("now", math.inf) for symbol, step in steps.items()}
        for one in raw.filter(pl.col("state") == State.ABSENT).select("symbol", "seq").iter_rows() if len(raw) else ():
            if one[0] in rows and one[1] > rows[one[0]]["seq"]:
                rows[one[0]] = {**rows[one[0]], "held": False}
        self._undecided = {one for one, row in rows.items() if one not in steps or row["seq"] < steps[one]["seq"]}

    def compute(self, step: Step, outcome: Outcome, *, judged: bool = True) -> None:
        """Take the inputs of one step, and go on with what was recorded; it is computed by :meth:`settle` at the latest."""
        self._follow(step)
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
            if judged or step.asset in REMEMBERED:
                self._pend(contract, step, symbols, rows, judged=judged)
        except NotRecordedError as error:
            if judged:
                outcome.skip(f"{step.asset}: {error}")
        self._apply(contract, step, symbols, rows)
        if self._waiting > ROWS_MAX:
            self.settle(outcome)

    def _follow(self, step: Step) -> None:
        """Forget what is known where records are missing before a step."""
        if self._reached and step.seq != self._reached + 1:
            self._whole = set()
            for known in self._known.values():
                known.clear()
        self._reached = step.seq
        if self._whole is not None and step.full:
            self._whole.add(step.slot)

    def _pend(self, table: Table, step: Step, symbols: Sequence[str], rows: Sequence[Row], *, judged: bool) -> None:
        last = self.published[table.asset]
        written = {row["symbol"]: row["cause"] for row in rows}
        unknown, cause_unknown = self._unknown(table, step, symbols, written)
        stop_unknown = self._stop_unknown(step, symbols) if table is POSITION else frozenset()
        cause_unknown |= stop_unknown
        case = self.case(step, symbols)
        if table is POSITION:
            unknown, cause_unknown = (one | self._undecided.intersection(symbols) for one in (unknown, cause_unknown))
        superseded = self._superseded(step, symbols)
        if table is GOVERNOR_STATE:  # who decides plans of other symbols writes their rows, too, and records none of them
            decided = (one for one in symbols if one in last and last[one]["last_plan_id"] != case.last[one]["last_plan_id"])
            superseded = superseded.union(decided)
        stands = self.standing_of(table, step, symbols)
        pending = Pending(step, case, stands, judged, unknown, cause_unknown, stop_unknown, superseded, written)
        self._pending.setdefault(table.asset, []).append(pending)
        self._waiting += len(symbols)

    def _unknown(
        self, table: Table, step: Step, symbols: Sequence[str], written: Mapping[str, str]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Name the symbols whose values, and whose reason to be published, rest on what nobody has recorded."""
        names = frozenset(symbols).union(written)
        if self._whole is not None and step.slot not in self._whole:
            return names, names
        unknown: frozenset[str] = frozenset()
        for asset in RESTS_ON.get(table.asset, ()):
            unknown |= names - self._known[asset]
        own = frozenset(one for one in names - self._known[table.asset] if written.get(one) != "first")
        if table.asset == "trade_intent":
            last = self.published[table.asset]
            own |= {one for one in symbols if one in last and last[one]["due"] is None}
        if table.asset in REMEMBERED:  # it is moved on from the row before
            unknown |= own
        return unknown, unknown | own

    def _stop_unknown(self, step: Step, symbols: Sequence[str]) -> frozenset[str]:
        """Name the symbols of which nobody has recorded whether a stop was proposed, or whether it still stood."""
        now = step.facts.get("now", math.inf)
        known = self._known[RISK_PROPOSAL.asset]
        return frozenset(one for one in symbols if one not in known or self.expires(RISK_PROPOSAL, one, now))

    def expires(self, table: Table, symbol: str, now: float) -> bool:
        """Say whether a row is so near to the end of its lifetime that only the server knew whether it was there."""
        evaluated = self.evaluated[table.asset].get(symbol)
        return evaluated is not None and abs(now - evaluated - self.lifetime_sec(table)) <= LATE_SEC

    def _position(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        """Let go first of what the steps before the first record have let go of, by what the key is remembered to have shown."""
        for symbol in self._undecided.intersection(symbols) if self._undecided else ():
            self._decide(symbol, self.inputs["position_memory"].get(symbol, {}).get("memory", ""))
        taken = super()._position(step, symbols)
        self._last_now |= dict.fromkeys(symbols, step.facts["now"])
        return taken

    def _decide(self, symbol: str, memory: str) -> None:
        shown = orjson.loads(memory) if memory else {}
        if shown.get("label") == FLAT:
            ended = shown["conflict_until"]
            if ended > self._last_now.get(symbol, -math.inf) and ended > shown["since"]:
                return  # in conflict; not before another reading is known whether it was let go
            self.released.add(symbol)
        self._undecided.discard(symbol)

    def settle(self, outcome: Outcome) -> None:
        """Compute the steps that wait, and compare them."""
        waiting, self._pending, self._waiting = self._pending, {}, 0
        differences: list[Difference] = []
        for asset, pending in waiting.items():
            settings, profile = self._in_force()
            frame = together(asset, [one.case for one in pending], settings, profile)
            differences += self._compare(PUBLISHED_TABLES[asset], pending, frame, outcome)
            outcome.steps += sum(one.judged for one in pending)
        for difference in sorted(differences, key=lambda one: one.seq):
            outcome.add(difference)

    # What it reads from records.

    def _symbols(self, step: Step) -> Sequence[str]:
        self._in_force()
        return self._symbols_of(step.facts["symbols"])

    def _symbols_of(self, ranges: str) -> Sequence[str]:
        if self.settings is None or not ranges:
            return ()
        if ranges not in self._symbols_in:
            try:
                self._symbols_in[ranges] = covered(self.settings.symbols, {EVENT_TAG: ranges}, self.settings.symbols)
            except ValueError:  # of other settings, before these
                return ()
        return self._symbols_in[ranges]

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
            self._symbols_in = {}
        elif table == "versions":
            self._versions = {name: row["value"] for name, row in named.items()}
        elif table == "parameters":
            name, row = next(reversed(named.items()))
            recorded, self._profile_then = from_body(json.loads(row["text"])), name
            self.profile = self._profile_wanted or recorded
        else:
            self.inputs[table] |= named

    def _merge(self, candles: pl.DataFrame) -> None:
        by_symbol = candles.sort("symbol", maintain_order=True)
        columns = [by_symbol[name].to_numpy() for name in COLUMNS]
        sources, keys, whole = (by_symbol[name].to_list() for name in ("source", "key", "whole"))
        first = 0
        for count, symbol in by_symbol["symbol"].rle().struct.unnest().iter_rows():
            end = first + count
            series = self.series.setdefault(symbol, Series(longest=5000))
            series.source, series.key = sources[end - 1], keys[end - 1]
            take = series.replace if any(whole[first:end]) else series.add
            take(tuple(column[first:end] for column in columns))
            first = end

    def _merge_all(self, candles: pl.DataFrame) -> None:
        """Take many records of candles as one: of one time the newest version, since the last record of a whole window."""
        if not len(candles):
            return
        began = pl.col("seq").filter("whole").max().over("symbol").fill_null(-1)
        since = candles.with_columns(pl.col("source", "key").last().over("symbol"), began=began).filter(pl.col("seq") >= began)
        self._merge(since.filter(pl.col("seq") == pl.col("began")))
        later = since.filter(pl.col("seq") > pl.col("began")).unique(["symbol", "open_time_ms"], keep="last", maintain_order=True)
        self._merge(later.sort("open_time_ms"))

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
            if row["state"] != State.PRESENT:
                self._known[row["asset"]].add(row["symbol"])
        evaluated, epoch = self.evaluated[step.asset], int(step.at.timestamp())
        for symbol in symbols:  # nothing was recorded of them because nothing has changed
            if symbol in without:
                without[symbol] = (*without[symbol][:2], step.cycle_id)
            else:
                evaluated[symbol] = epoch
        self.stand(table, rows)
        self._known[step.asset].update(row["symbol"] for row in rows)
        if rows:
            self._last_written[step.cycle_id] = step.at

    # Comparing.

    def _compare(self, table: Table, pending: Sequence[Pending], frame: pl.DataFrame, outcome: Outcome) -> Iterator[Difference]:
        settings, profile = self._in_force()
        judged = [one for one in pending if one.judged]
        if not judged:
            return
        present = frame.filter(pl.col("state") == State.PRESENT)
        if len(judged) < len(pending):
            wanted = [one.case.label(symbol) for one in judged for symbol in one.case.symbols]
            pending, present = judged, present.filter(pl.col("symbol").is_in(wanted))
        computed = as_read(table, present)
        stands = {one.case.label(symbol): row for one in pending for symbol, row in one.stands.items()}
        moments = {one.case.label(symbol): one.step.at for one in pending for symbol in one.case.symbols}
        causes = causes_of(table, present, computed, moments, stands, settings, profile)
        asked = self._profile_wanted is not None  # what others would have given: whose name they have is no answer
        left = OF_THE_PROFILE if asked else frozenset[str]()
        unequal = {label: rest for label, *rest in _unequal(table, _recorded(table, pending), computed, left)}
        labels, reason = set(present["symbol"]), self._reason(profile)
        for one in pending:
            step, label = one.step, one.case.label
            outcome.rows += sum(label(symbol) in labels for symbol in one.case.symbols)
            left_out = {symbol for symbol in one.superseded if label(symbol) in labels}
            if left_out:
                outcome.skip(f"{step.asset}: another run published what it rests on meanwhile", len(left_out))
            found = {symbol: cause for symbol in one.case.symbols if (cause := causes.get(label(symbol))) is not None}
            blind = 0
            for symbol in sorted({*one.written, *found} - left_out):
                different, unknown = unequal.get(label(symbol)), one.unknown
                if different is None and not asked and one.written.get(symbol) != found.get(symbol):
                    different, unknown = [("cause",), one.written.get(symbol), found.get(symbol)], one.cause_unknown
                rests_on_stop = different is not None and symbol in one.stop_unknown and different[0][0] not in SHOWN
                if different is not None and (symbol in unknown or rests_on_stop):
                    blind += 1
                elif different is not None:
                    names, *values = different
                    before, after = map(_text, values)
                    fields = names if asked else names[:1]
                    yield Difference(
                        step.seq, step.cycle_id, step.asset, symbol, names[0], before, after, reason, step.at, fields
                    )
            if blind:
                outcome.skip(f"{step.asset}: what stood before it is not recorded", blind)

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


def _recorded(table: Table, pending: Sequence[Pending]) -> pl.DataFrame:
    """Give what was published in some steps, by label."""
    parts = [one.step.tables[table.asset] for one in pending if table.asset in one.step.tables]
    if not parts:
        return pl.DataFrame()
    frame: pl.DataFrame = pl.concat([part.frame for part in parts], how="diagonal_relaxed")
    return frame.with_columns(symbol=pl.format("{}" + MARK + "{}", "seq", "symbol"))


def _unequal(
    table: Table, recorded: pl.DataFrame, computed: pl.DataFrame, left: Collection[str]
) -> Iterator[tuple[str, tuple[str, ...], Any, Any]]:
    """Give the fields of each recorded row that differ bit by bit, but for some: label, fields, and both values of the first."""
    if not len(recorded):
        return
    types = {item.name: item.codec.dtype for item in table.fields if item.name in recorded.columns and item.name not in left}
    was = recorded.select("symbol", *(pl.col(name).cast(dtype) for name, dtype in types.items()))
    again = was.select("symbol").join(computed, on="symbol", how="left", maintain_order="left")
    differing = _differing(was.select(list(types)), again.select(list(types)))
    fields: dict[int, list[str]] = {}
    for name, mask in differing.items():
        for row in np.flatnonzero(mask).tolist():
            fields.setdefault(row, []).append(name)
    for row, names in fields.items():
        yield was["symbol"][row], tuple(names), was[names[0]][row], again[names[0]][row]


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
