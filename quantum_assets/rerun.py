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
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import polars as pl

from quantum_assets.allocation_target import allocation_frame
from quantum_assets.harvest_proposal import harvest_frame
from quantum_assets.market_state import market_state_frame
from quantum_assets.position import Inputs, judge_snapshots, memory_of, tracked_frame
from quantum_assets.position_size import no_equity, size_frame
from quantum_assets.risk_proposal import risk_frame
from quantum_assets.rows import assemble, shared_by_legs, without_result
from quantum_assets.trade_intent import GONE, both_proposals, intent_frame
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ACCOUNT, Table, publication_due
from quantum_core.contracts.tables import POSITION, PUBLISHED_TABLES
from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint
from quantum_core.kernels.governor.risk_guard import Account
from quantum_core.kernels.position.tracking import TrackingTheta
from quantum_core.profiles.profile import Profile, from_body
from quantum_core.settings import Settings, load_settings
from resources.governor.account import AccountReading
from resources.governor.decisions import IncompleteRecordError, decided_again
from resources.inputs.candle_series import Candles, grid_theta_of
from resources.inputs.foreign import Scored
from resources.inputs.position_snapshots import Flat, snapshot_of
from resources.instance.range_tags import EVENT_TAG, covered
from resources.recorder.archive import Archive
from resources.recorder.series import COLUMNS, Series
from resources.recorder.tape import CANDLE_READINGS, CANDLES, WITHOUT_RESULT, as_read, packages

LOOK_BACK = timedelta(days=1)  # a published row that stands may be of the day before
BY_SYMBOL = (
    "raw_positions",
    "position_memory",
    "position_bars",
    "base_targets",
    "efficiency_hints",
    "account",
)  # recorded on change
UNKNOWN = ("value", "confidence")  # of a target that cannot be read, NaN
RAN_WITH = ("versions", "settings", "parameters")
NOT_AGAIN = ("capital_efficiency", "risk_guard", "governor_permit")
DIGESTED = ("risk_proposal", "harvest_proposal")  # an intent names the proposals it rests on
KEPT_MAX = 100  # differences; the count is always exact
CHUNK = timedelta(hours=1)


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


class NotRecordedError(LookupError):
    """An input of a step is not in the archive."""


@dataclass(frozen=True)
class Step:
    """One record."""

    seq: int
    asset: str
    cycle_id: str
    run_id: str
    at: datetime
    facts: Mapping[str, Any]
    tables: Mapping[str, pl.DataFrame]


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
        Time after which no further step is begun; ``Outcome.ended`` tells how far it went.

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
    records = archive.read("records")
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
        query = archive.read(table, _days(start, end))
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


class Replayed:
    """What a step finds: rows as they stood, inputs as they were read, and what cannot be computed.

    Parameters
    ----------
    profile
        Replaces the recorded parameters.
    """

    def __init__(self, profile: Profile | None = None) -> None:
        self._profile_wanted = profile
        self.settings: Settings | None = None
        self.profile: Profile | None = profile
        self._profile_then, self._versions = "", dict[str, str]()
        self._settings_given: dict[str, Any] = {}
        self.inputs: dict[str, dict[str, dict[str, Any]]] = {table: {} for table in BY_SYMBOL}
        self.series: dict[str, Series] = {}
        self.latest: dict[str, pl.DataFrame] = {}
        self.published: dict[str, dict[str, dict[str, Any]]] = {asset: {} for asset in PUBLISHED_TABLES}
        self.without: dict[str, dict[str, tuple[str, str, str]]] = {asset: {} for asset in PUBLISHED_TABLES}
        self.evaluated: dict[str, dict[str, int]] = {asset: {} for asset in PUBLISHED_TABLES}
        self.released: set[str] = set()

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
                self._publish(contract, news.group_by("symbol", maintain_order=True).last())
                if contract.kept_current:
                    self._publish(contract, rows.group_by("symbol", maintain_order=True).last())
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
        contract = PUBLISHED_TABLES.get(step.asset)
        if contract is None:
            return
        if step.asset in NOT_AGAIN:
            outcome.skip(f"{step.asset}: not computed again")
            self._apply(contract, step, self._symbols(step) if self.settings else ())
            return
        try:
            symbols = self._symbols(step)
            frame = getattr(self, f"_{step.asset}")(step, symbols)
        except NotRecordedError as error:
            outcome.skip(f"{step.asset}: {error}")
            self._apply(contract, step, self._symbols(step) if self.settings else ())
            return
        outcome.steps += 1
        for difference in self._compare(contract, step, frame, outcome):
            outcome.add(difference)
        self._apply(contract, step, symbols)

    # What each asset computes, from what stands.

    def _market_state(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        settings, profile = self._in_force()
        rows = step.tables.get(CANDLE_READINGS)
        if rows is None:
            message = "its candles are not recorded"
            raise NotRecordedError(message)
        readings = {row["symbol"]: self._reading(row) for row in rows.iter_rows(named=True)}
        grid, ticks = grid_theta_of(settings, profile), settings.ticks
        return shared_by_legs(
            symbols, lambda names: market_state_frame([readings[one] for one in names], grid, ticks, profile=profile)
        )

    def _position(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        settings, profile = self._in_force()
        raw, memories = self.inputs["raw_positions"], self.inputs["position_memory"]
        missing = [symbol for symbol in symbols if symbol not in raw or symbol not in memories]
        if missing:
            message = "its snapshots are not recorded yet"
            raise NotRecordedError(message)
        now = step.facts["now"]
        rows = {symbol: self._tracked(symbol) for symbol in symbols}
        proposals = self.published["risk_proposal"]
        inputs = Inputs(
            now,
            [snapshot_of(symbol, raw[symbol]) for symbol in symbols],
            rows,
            {one: memory_of(json.loads(memories[one]["memory"]), now) for one in symbols if memories[one]["memory"]},
            {one: memories[one]["forgotten"] for one in symbols if memories[one]["forgotten"]},
            {
                one: proposals[one]
                for one in symbols
                if one in proposals and profile.theta(TrackingTheta, one).sl_ratchet == "proposed"
            },
            {},
        )
        shown = judge_snapshots(inputs, settings)
        frame, _ = tracked_frame(
            symbols, inputs, shown, {symbol: self._bars(symbol) for symbol in shown.cases}, settings, profile
        )
        self._let_go(inputs, shown.doubtful)
        return frame

    def _risk_proposal(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        _, profile = self._in_force()
        return risk_frame(self.loaded("market_state", symbols, step), self.loaded("position", symbols, step), profile)

    def _harvest_proposal(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        _, profile = self._in_force()
        names = ("market_state", "position", "risk_proposal")
        market, position, risk = (self.loaded(name, symbols, step) for name in names)
        return harvest_frame(market, position, risk, profile)

    def _allocation_target(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        _, profile = self._in_force()
        now, hints = step.facts["now"], self.inputs["efficiency_hints"]

        def proposed(names: Sequence[str]) -> pl.DataFrame:
            if any(one not in hints for one in names):
                message = "its efficiencies are not recorded yet"
                raise NotRecordedError(message)
            columns = {
                one.name: np.array(
                    [hints[name][one.name] if hints[name][one.name] is not None else math.nan for name in names],
                    dtype=object if one.name == "state" else float,
                )
                for one in fields(EfficiencyHint)
            }
            return allocation_frame(names, EfficiencyHint(**columns), self._targets(names), now, profile)

        return shared_by_legs(symbols, proposed)

    def _position_size(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        settings, profile = self._in_force()
        row = self.inputs["account"].get(ACCOUNT)
        if row is None:
            message = "the account is not recorded yet"
            raise NotRecordedError(message)
        numbers = {one.name: math.nan if row[one.name] is None else row[one.name] for one in fields(Account)}
        account = AccountReading(Account(**numbers), {}, row["ts_epoch"], row["source"] or "", row["note"] or "")
        if why := no_equity(account, profile):
            return assemble(symbols, {"symbol": []}, without_result([(one, State.ABSENT, why) for one in symbols]))
        market, allocation = (self.loaded(name, symbols, step) for name in ("market_state", "allocation_target"))
        return size_frame(market, allocation, self._targets(symbols), account, profile, settings)

    def _trade_intent(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        settings, _ = self._in_force()
        names = ("position", "risk_proposal", "harvest_proposal")
        rows, rest = both_proposals(*(self.loaded(name, symbols, step) for name in names))
        last = self.published["trade_intent"]
        kept: list[Reading[dict[str, Any]]] = [
            Reading.present(one, last[one]) if one in last else Reading.absent(one, "missing") for one in rows["symbol"]
        ]
        frame = intent_frame(symbols, rows, rest, kept, change_eps_pct=settings.change_eps_pct)
        asked = dict(frame.filter(pl.col("state") == State.PRESENT).select("symbol", "due").iter_rows())
        asked |= dict.fromkeys(rest.filter(pl.col("why").is_in(GONE))["symbol"], False)
        for symbol in asked.keys() & last.keys():  # renewed by every evaluation, which is no publication
            last[symbol]["due"] = asked[symbol]
        return frame

    # What stands.

    def loaded(self, asset: str, symbols: Sequence[str], step: Step) -> pl.DataFrame:
        """Give the frame of an asset as a step of that moment has read it: every field, ``state`` and ``why``."""
        settings, _ = self._in_force()
        table = PUBLISHED_TABLES[asset]
        order = pl.DataFrame({"symbol": list(symbols)}, schema={"symbol": pl.String})
        latest = self.latest.get(asset)
        empty = {"symbol": pl.String, **{name: item.codec.dtype for name, item in table.by_name.items() if name != "symbol"}}
        rows = order.join(
            pl.DataFrame(schema=empty) if latest is None else latest, on="symbol", how="left", maintain_order="left"
        )
        limit = settings.marketstate_max_age_sec if asset == "market_state" else settings.proposal_max_age_sec
        now, evaluated, without = step.at.timestamp(), self.evaluated[asset], self.without[asset]
        states, reasons, stands = [], [], self.published[asset]
        held = rows[table.presence].to_list() if table.presence else [True] * len(rows)
        for symbol, present in zip(symbols, held, strict=True):
            state, why = str(State.PRESENT), ""
            if symbol in evaluated and symbol not in stands:
                message = f"the {asset} it rests on is not recorded"
                raise NotRecordedError(message)
            if symbol not in evaluated:
                state, why = str(State.ABSENT), f"{table.key}_missing"
            elif now - evaluated[symbol] > limit:
                state, why = str(State.FAILED), f"{asset}_stale: {now - evaluated[symbol]:.0f} s > {limit} s"
            elif not present:
                state, why = str(State.ABSENT), f"no_{asset}"
            if symbol in without:
                said, reason, cycle = without[symbol]
                if cycle == step.cycle_id or said == State.FAILED:
                    state, why = said, reason
            states.append(state)
            reasons.append(why)
        return rows.with_columns(state=pl.Series(states, dtype=pl.String), why=pl.Series(reasons, dtype=pl.String))

    def _in_force(self) -> tuple[Settings, Profile]:
        if self.settings is None or self.profile is None:
            message = "settings and parameters are not recorded yet"
            raise NotRecordedError(message)
        return self.settings, self.profile

    def _symbols(self, step: Step) -> Sequence[str]:
        settings, _ = self._in_force()
        return covered(settings.symbols, {EVENT_TAG: step.facts["symbols"]}, settings.symbols) if step.facts["symbols"] else ()

    def _targets(self, symbols: Sequence[str]) -> list[Scored]:
        rows = self.inputs["base_targets"]
        if any(symbol not in rows for symbol in symbols):
            message = "its targets are not recorded yet"
            raise NotRecordedError(message)
        return [Scored(**_with_nan(rows[symbol])) for symbol in symbols]

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

    def _bars(self, symbol: str) -> Any:
        count = self.inputs["position_bars"].get(symbol, {}).get("count")
        if count is None or (count and symbol not in self.series):
            message = "its candles are not recorded yet"
            raise NotRecordedError(message)
        if not count:
            return None
        return SimpleNamespace(**dict(zip(COLUMNS, self.series[symbol].tail(count), strict=True)))

    def _tracked(self, symbol: str) -> Reading[dict[str, Any]]:
        row = self.published["position"].get(symbol)
        if row is None or symbol in self.released:
            return Reading.absent(symbol, "position_missing")
        return Reading.present(symbol, row)

    def _let_go(self, inputs: Inputs, doubtful: Mapping[str, Any]) -> None:
        """Do what the live asset does to the kept rows of symbols that show no position."""
        rows = self.published["position"]
        for reading in inputs.raw:
            symbol = reading.symbol
            if symbol not in rows:
                continue
            if isinstance(reading.value, Flat) and symbol not in doubtful:
                self.released.add(symbol)
            elif reading.state is State.ABSENT or symbol in doubtful:
                kept = {**rows[symbol], **(doubtful[symbol].row() if symbol in doubtful else {}), "held": False}
                rows[symbol] = kept

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
            self._publish(table, rows)

    def _publish(self, table: Table, rows: pl.DataFrame) -> None:
        """Let published rows stand."""
        stamped = rows.rename({"at": "published_at_utc"}).drop("seq", strict=False)
        if table.asset in DIGESTED:
            digests = [table.digest(table.encode(row)) for row in stamped.iter_rows(named=True)]
            stamped = stamped.with_columns(digest=pl.Series(digests, dtype=pl.String))
        last = self.published.setdefault(table.asset, {})
        for row in stamped.iter_rows(named=True):
            symbol = row["symbol"]
            if row["cause"] == "unchanged" and symbol in last:  # kept current: it is no publication
                row["published_at_utc"] = last[symbol]["published_at_utc"]
            last[symbol] = row
            self.evaluated[table.asset][symbol] = int(row["published_at_utc"].timestamp())
            if table is POSITION:
                self.released.discard(symbol)
        before = self.latest.get(table.asset)
        if before is None:
            self.latest[table.asset] = stamped
        else:
            kept = before.filter(~pl.col("symbol").is_in(stamped["symbol"].implode()))
            self.latest[table.asset] = pl.concat([kept, stamped], how="diagonal_relaxed")

    # Comparing.

    def _compare(self, table: Table, step: Step, frame: pl.DataFrame, outcome: Outcome) -> Iterator[Difference]:
        _, profile = self._in_force()
        present = frame.filter(pl.col("state") == State.PRESENT)
        computed = as_read(table, present)
        recorded = step.tables.get(step.asset)
        causes = self._causes(table, step, present, computed)
        written = {} if recorded is None else dict(zip(recorded["symbol"], recorded["cause"], strict=True))
        outcome.rows += len(present)

        def differs(symbol: str, name: str, before: Any, after: Any) -> Difference:
            reason = self._reason(profile)
            return Difference(step.seq, step.cycle_id, step.asset, symbol, name, _text(before), _text(after), reason, step.at)

        different: set[str] = set()
        if recorded is not None:
            joined = recorded.join(computed, on="symbol", how="left", suffix="_again", maintain_order="left")
            unequal = joined.filter(pl.any_horizontal(_unequal(item.name, joined) for item in table.fields))
            for row in unequal.iter_rows(named=True):
                names = (item.name for item in table.fields)
                name = next(one for one in names if _bits(row[one]) != _bits(row[f"{one}_again"]))
                different.add(row["symbol"])
                yield differs(row["symbol"], name, row[name], row[f"{name}_again"])
        for symbol in {*causes, *written} - different:
            if (before := written.get(symbol)) != (after := causes.get(symbol)):
                yield differs(symbol, "cause", before, after)

    def _reason(self, profile: Profile) -> str:
        """Say what is known to be another than then."""
        if self._profile_wanted is not None:
            return f"computed with profile {profile.name}, published with {self._profile_then}"
        then = self._versions
        others = [f"{name} was {then[name]}, is {now}" for name, now in packages().items() if then.get(name, now) != now]
        return "; ".join(others)

    def _causes(self, table: Table, step: Step, present: pl.DataFrame, computed: pl.DataFrame) -> dict[str, str]:
        """Say which of the computed rows are publications, and why."""
        settings, profile = self._in_force()
        if table.asset == "trade_intent":
            rows = present.select("symbol", "cause", "due", "replaces").iter_rows()
            return {
                symbol: cause or ("unchanged" if due else "nothing due")
                for symbol, cause, due, replaces in rows
                if cause is not None or replaces is None
            }
        if not table.rate_limited:
            return dict.fromkeys(computed["symbol"], "first")
        last, causes = self.published[table.asset], {}
        ttl = table.ttl_sec if table.ttl_intervals_of is None else 10 * int(getattr(settings, table.ttl_intervals_of))
        for row in computed.iter_rows(named=True):
            symbol = row["symbol"]
            stands = last.get(symbol)
            if (symbol in self.released and table is POSITION) or (
                stands is not None and step.at.timestamp() - self.evaluated[table.asset].get(symbol, 0) > ttl
            ):
                stands = None
            row["profile"] = profile.fingerprint_of(symbol)
            cause = publication_due(
                table,
                stands,
                row,
                now=step.at,
                change_eps_pct=settings.change_eps_pct,
                max_age_sec=settings.max_publish_age_sec,
            )
            if cause is not None:
                causes[symbol] = cause
            elif table.kept_current:
                causes[symbol] = "unchanged"
        return causes


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


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None and name in UNKNOWN else value for name, value in row.items()}


def _unequal(name: str, joined: pl.DataFrame) -> pl.Expr:
    """Compare bit by bit: numbers as they are (no field may be NaN), lists as their text."""
    before, after = pl.col(name), pl.col(f"{name}_again")
    if isinstance(joined.schema[name], pl.List):
        before, after = before.list.join(","), after.list.join(",")
    return before.ne_missing(after)


def _bits(value: Any) -> Any:
    return (math.copysign(1, value), value) if isinstance(value, float) else value


def _text(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _days(start: datetime, end: datetime) -> list[date]:
    first, last = start.astimezone(UTC).date(), end.astimezone(UTC).date()
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _collected(archive: Archive, table: str, days: Sequence[date], where: pl.Expr) -> pl.DataFrame:
    query = archive.read(table, [day for day in archive.days(table) if day in days])
    return query.filter(where).sort("seq", maintain_order=True).collect() if "seq" in query.collect_schema() else pl.DataFrame()


def _between(archive: Archive, table: str, start: datetime, end: datetime) -> pl.DataFrame:
    days = set(_days(start, end))
    query = archive.read(table, [day for day in archive.days(table) if day in days])
    if "at" not in query.collect_schema():
        return pl.DataFrame()
    return query.filter(pl.col("at").is_between(start, end, closed="left")).collect()
