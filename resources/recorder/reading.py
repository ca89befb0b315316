"""What the archive says: the values of one symbol over time, and everything as it stood at one moment.

A row is written when something was published or has changed, and stands until the next one of its symbol. Queries read the days
they need and no other. Here belongs what a row means; where files are is :mod:`resources.recorder.archive`'s, and what people see
of it the commands'. Times are aware UTC.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from quantum_core.contracts.legs import underlying
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.contracts.tables import OF_UNDERLYING, PUBLISHED, PUBLISHED_TABLES
from quantum_core.profiles.profile import ProfileError, flat_parameters, from_body
from quantum_core.settings import Settings
from resources.governor.plan import PLAN_MAX_AGE_SEC
from resources.recorder.archive import GAPS, Archive, Fault
from resources.recorder.lifetimes import (
    DUE,
    INTENT_DUE,
    USED_SETTINGS,
    Rules,
    Span,
    code_of,
    ended_spans,
    evaluated,
    silent_spans,
    with_endings,
)

ASSETS = tuple(table.asset for table in PUBLISHED)
CANDLES, RAW_POSITIONS, WITHOUT_RESULT = "candles", "raw_positions", "without_result"
SWITCHES, PLANS, DECISIONS = "switches", "plans", "decisions"
PARAMETERS = "parameters"
COMPUTED_WITH = (PARAMETERS, "versions", "settings")  # of the deployment: their "symbol" names a profile, a package, a setting
INTENTS, RECORDS = "trade_intent", "records"
INPUTS = ("account", "base_targets", "efficiency_hints", "position_memory", "position_bars", "candle_readings", INTENT_DUE)
STANDING = frozenset({*ASSETS, RAW_POSITIONS, *INPUTS})  # a row of a symbol follows the one before it; of others it is an event
TABLES = (
    *ASSETS,
    *INPUTS,
    *COMPUTED_WITH,
    *(CANDLES, RAW_POSITIONS, WITHOUT_RESULT, SWITCHES, PLANS, DECISIONS, "risk_events", "alerts", "profiles", RECORDS, GAPS),
)
DAYS_BACK = 2  # where a day has no row yet: while an asset is computed it is published at least once a minute
EVERY_DAY = 36_500  # days back of what is written when it changes: a switch may be a month old
RECENT = timedelta(hours=1)  # decisions and gaps so near to a moment are part of what is shown of it
TIME = pl.Datetime("us", "UTC")
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Moment:
    """Everything as it stood at one moment.

    Attributes
    ----------
    at
        The moment.
    rows
        Symbol to asset to the row that was published last: all its columns, ``at`` being when the step took its inputs.
    without
        Symbol to asset to the row of ``without_result``, where the asset had no result: what was published before does not stand.
    positions, candles
        Symbol to its last raw position, and to its newest candle.
    guard
        The last row of the risk guard.
    switches
        Name to value: kill, disarmed, guards; empty where it is gone, and of what was never written there is none.
    plans
        Plans that were younger than PLAN_MAX_AGE_SEC and not decided, oldest first.
    decisions
        Those of the hour before, newest first.
    gaps
        What was lost within an hour before or after: there, what stands may not have stood.
    expired
        Symbol to asset to ``evaluated_at`` and ``lifetime_sec``, where its lifetime was over and no later evaluation is recorded:
        what was published, or said to be missing, before did not stand any more. The account's are under its own name.
    silence
        ``after`` and ``until``, where nothing at all is recorded between; empty where something is, without ``until`` at the end.
    archive_until
        Time of the last record.
    ends_known
        Whether it was recorded when an intent ended; older versions did not.
    """

    at: datetime
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    without: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    positions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    candles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    guard: Mapping[str, Any] | None = None
    switches: Mapping[str, Any] = field(default_factory=dict)
    plans: Sequence[Mapping[str, Any]] = ()
    decisions: Sequence[Mapping[str, Any]] = ()
    gaps: Sequence[Mapping[str, Any]] = ()
    expired: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    silence: Mapping[str, datetime] = field(default_factory=dict)
    archive_until: datetime | None = None
    ends_known: bool = True


def archive_of(settings: Settings) -> Archive:
    """Give the archive of an installation; nothing is opened or made."""
    return Archive(settings.recorder_address)


def remove_old_days(archive: Archive, settings: Settings) -> list[date]:
    """Remove the files of days beyond RECORDER_DAYS or RECORDER_MAX_GB, and name these days; manifests stay."""
    return archive.prune(settings.recorder_days, settings.recorder_max_gb * 1e9)


class Reader:
    """Asks one archive.

    Parameters
    ----------
    archive
        Which.

    Attributes
    ----------
    unreadable
        Files that were left out because they are no Parquet: an answer without them is not whole.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._faults: list[Fault] = []
        self._asked: dict[str, set[tuple[date, date]]] = {}

    @property
    def unreadable(self) -> Sequence[Fault]:
        """Give each file that was left out, once."""
        return tuple(dict.fromkeys(self._faults))

    def incomplete(self) -> Sequence[Fault]:
        """Name what is missing of the tables and days that were asked for, or does not belong there."""
        return tuple(dict.fromkeys(self.archive.incomplete({table: sorted(spans) for table, spans in self._asked.items()})))

    def covered(self) -> tuple[datetime, datetime] | None:
        """Give the times of the first and the last row of any asset; ``None`` while there is none."""
        days = self.archive.days()
        first = next((times[0] for day in days if (times := self._times(day))), None)
        last = next((times[1] for day in reversed(days) if (times := self._times(day))), None)
        return None if first is None or last is None else (first, last)

    def symbols(self, days: Collection[date] | None = None) -> list[str]:
        """Name the symbols of which any asset has a row, on some days or on any."""
        names: set[str] = set()
        for asset in ASSETS:
            wanted = [day for day in self.archive.days(asset) if days is None or day in days]
            frame = self._read(asset, wanted)
            if "symbol" in frame.collect_schema():
                names.update(frame.select(pl.col("symbol").unique()).collect()["symbol"].drop_nulls())
        return sorted(names - {ACCOUNT})

    def columns(self, table: str, start: datetime, end: datetime) -> list[str]:
        """Name the columns a table has on the days from one time to another."""
        return self._read(table, self._days(table, start, end)).collect_schema().names()

    def between(self, table: str, start: datetime, end: datetime, symbols: Collection[str] = ()) -> pl.LazyFrame:
        """Query the rows of a table whose inputs were taken from ``start`` to ``end``, both inclusive, oldest first.

        Parameters
        ----------
        table
            Any of the archive.
        start, end
            Aware UTC.
        symbols
            Only of these; of all when none is given. A leg shares the rows of its symbol where it shares the key.

        Returns
        -------
        polars.LazyFrame
            Without any column where the archive has no such rows on these days.
        """
        frame = self._read(table, self._days(table, start, end))
        columns = frame.collect_schema().names()
        if "at" not in columns:
            return frame
        within = pl.col("at").is_between(start, end)
        if symbols and "symbol" in columns:
            within &= pl.col("symbol").is_in(names_in(table, symbols))
        return frame.filter(within).sort([name for name in ("at", "seq") if name in columns], maintain_order=True)

    def last(
        self,
        table: str,
        moment: datetime,
        *,
        by: Sequence[str] = ("symbol",),
        symbols: Collection[str] = (),
        days_back: int = DAYS_BACK,
        newest: str = "at",
    ) -> pl.DataFrame:
        """Give the last row of each key at or before a moment; days before are read only for the keys that are missing.

        Parameters
        ----------
        table, moment, symbols
            As of :meth:`between`.
        by
            Columns of the key.
        days_back
            Days before that of the moment in which a row still counts.
        newest
            Column by which the last one is the newest.

        Returns
        -------
        polars.DataFrame
            Without any column where there is no row.
        """
        names = names_in(table, symbols) if symbols else frozenset()
        today, missing = moment.date(), set(names)
        days = [day for day in self.archive.days(table) if -1 <= (today - day).days <= days_back]
        recent = [day for day in days if day >= today]  # what was taken before midnight may be written after it
        found: list[pl.DataFrame] = []
        until = today + timedelta(days=1)
        for group in [recent, *([day] for day in reversed(days) if day < today)]:
            frame = self._read(table, group)
            until = self._ask(table, min([*group, today]), until)
            columns = frame.collect_schema().names()
            if "at" not in columns or not {*by} <= {*columns}:
                continue
            counts = pl.col("at") <= moment
            if names and "symbol" in columns:
                counts &= pl.col("symbol").is_in(names)
            order = list(dict.fromkeys([newest, *(name for name in ("at", "seq") if name in columns)]))
            rows = frame.filter(counts).sort(order, maintain_order=True).unique(by, keep="last", maintain_order=True).collect()
            known = pl.concat([one.select(by) for one in found]) if found else rows.select(by).clear()
            found.append(rows.join(known, on=by, how="anti", maintain_order="left"))
            missing -= {*rows["symbol"]} if names and "symbol" in columns else set()
            if names and [*by] == ["symbol"] and not missing:
                break
        else:
            self._ask(table, today - timedelta(days=days_back), until)
        return pl.concat(found, how="diagonal_relaxed") if found else pl.DataFrame()

    def standing(self, columns: Sequence[tuple[str, str]], symbol: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Give columns of several assets side by side, at every time at which one of them may have changed.

        Parameters
        ----------
        columns
            Asset and name of each.
        symbol
            Of which symbol.
        start, end
            As of :meth:`between`.

        Returns
        -------
        polars.DataFrame
            ``at``, then one column per pair, named ``asset.column``. A value stands from its row until the next; while the asset
            has no result, or when its lifetime is over and nobody has evaluated it again, there is none. The first row is what
            stood at ``start``. Without rows where none was written between: whether anybody published then, nobody knows.
        """
        assets = list(dict.fromkeys(asset for asset, _ in columns))
        frames = {asset: self._with_the_one_before(asset, symbol, start, end) for asset in assets}
        states = {asset: self._states(asset, symbol, start, end) for asset in assets}
        times = [frame.select("at") for frame in (*frames.values(), *states.values()) if frame.width]
        if not times:
            return pl.DataFrame(schema=[("at", TIME), *((f"{asset}.{name}", pl.Null) for asset, name in columns)])
        changes = pl.concat(times)
        stood = pl.DataFrame({"at": [start]}, schema={"at": TIME}).filter((changes["at"] < start).any())
        grid = changes.filter(pl.col("at") >= start)
        ended = self._ended({asset: times_in(frames[asset], states[asset]) for asset in assets}, symbol, start, end)
        ends = pl.DataFrame({"at": [one for spans in ended.values() for one, _ in spans if one >= start]}, schema={"at": TIME})
        grid = pl.concat([stood, grid, ends]).unique().sort("at") if len(grid) else grid
        for asset in assets:
            wanted = [name for of, name in columns if of == asset]
            frame, state = frames[asset], states[asset]
            have = [name for name in wanted if name in frame.columns]
            values = frame.select("at", *(pl.col(name).alias(f"{asset}.{name}") for name in have)) if frame.width else None
            grid = grid.join_asof(values, on="at") if values is not None else grid
            missing = [name for name in wanted if name not in have]
            grid = grid.with_columns(pl.lit(None).alias(f"{asset}.{name}") for name in missing)
            if state.width:
                lost = pl.col("state").fill_null(State.PRESENT) != str(State.PRESENT)
                kept = [pl.when(~lost).then(pl.col(f"{asset}.{name}")).alias(f"{asset}.{name}") for name in wanted]
                grid = grid.join_asof(state.select("at", "state"), on="at").with_columns(kept).drop("state")
            grid = _without_ended(grid, [f"{asset}.{name}" for name in wanted], ended.get(asset, ()))
        return grid.select("at", *(f"{asset}.{name}" for asset, name in columns))

    def _ended(
        self, known: Mapping[str, Sequence[datetime]], symbol: str, start: datetime, end: datetime
    ) -> dict[str, list[Span]]:
        """Give when the lifetime of each asset was over; nothing where no step is recorded, since nobody knows then.

        Parameters
        ----------
        known
            Asset to times at which it was evaluated for certain: it has written rows.
        """
        rules = self.rules(end)
        steps = self.steps(start - rules.longest, end)
        if not len(steps):
            return {}
        unwritten = self._unwritten(end, rules)
        ended = {}
        for asset, times in known.items():
            table = PUBLISHED_TABLES[asset]
            every = sorted({*times, *evaluated(steps, table, names_in(asset, [symbol]), rules)})
            spans = ended_spans(every, rules.lifetime(table), end + _TICK)
            ended[asset] = [span for span in spans if span[1] <= end or end - span[0] > unwritten]
        return ended

    def rules(self, moment: datetime) -> Rules:
        """Give the settings that say how long rows stand, as they were recorded at a moment."""
        rows = self.last("settings", moment, symbols=USED_SETTINGS, days_back=EVERY_DAY)
        return Rules.of(rows.to_dicts())

    def steps(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Give the steps that are recorded of a time: ``at``, ``asset``, and whom they evaluated (``symbols``, as ranges)."""
        frame = self.between(RECORDS, start, end)
        if not {"at", "asset", "facts"} <= {*frame.collect_schema()}:
            return pl.DataFrame(schema={"at": TIME, "asset": pl.String, "symbols": pl.String})
        ranges = pl.col("facts").str.json_path_match("$.symbols").fill_null("").alias("symbols")
        return frame.select("at", "asset", ranges).collect()

    def intents(self, start: datetime, end: datetime, symbols: Collection[str] = ()) -> pl.DataFrame:
        """Give the intents of a time, and when each ended."""
        rows = self.between(INTENTS, start, end, symbols).collect()
        before = self.last(INTENTS, start - _TICK, symbols=symbols)
        frames = [one for one in (before, rows) if one.width]
        due = self.between(INTENT_DUE, start, end, symbols).collect()
        every = with_endings(pl.concat(frames, how="diagonal_relaxed"), due) if frames else rows
        return every.filter(pl.col("at") >= start) if every.width else every

    def silences(self, start: datetime, end: datetime) -> list[Span]:
        """Give from when to when nothing at all was recorded, of the times that reach into this one; nothing without records."""
        edges = [one for one in (self._step_beside(start, before=True), self._step_beside(end, before=False)) if one is not None]
        times = sorted({*self.steps(start, end)["at"].to_list(), *edges})
        if not times:
            return []
        rules = self.rules(end)
        ends = [end] if end - times[-1] > rules.silent + rules.unwritten else []
        times = [*([start] if times[0] > start else ()), *times, *ends]
        return [span for span in silent_spans(times, rules.silent) if span[0] < end and span[1] > start]

    def _step_beside(self, moment: datetime, *, before: bool) -> datetime | None:
        """Give the time of the last record at or before a moment, or of the first one after it."""
        at = pl.col("at")
        days = self.archive.days(RECORDS)
        last = (moment + timedelta(days=1)).date()  # what was taken before midnight may be written after it
        near = [day for day in reversed(days) if day <= last] if before else [day for day in days if day >= moment.date()]
        for day in near:
            frame = self._read(RECORDS, [day])
            if "at" in frame.collect_schema():
                found = frame.filter(at <= moment if before else at > moment).select(at.max() if before else at.min()).collect()
                if (time := found.item()) is not None:
                    return time.astimezone(UTC)  # type: ignore[no-any-return]  # a datetime, by its schema
        return None

    def computed_with(self, table: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Give the versions or settings that stood at ``start``, and each change until ``end``: ``at``, ``name``, ``value``.

        Every process records them anew when it begins; what has not changed is left out.
        """
        rows = self._in_force(table, start, end, by=["symbol"])
        return rows.select("at", pl.col("symbol").alias("name"), "value") if rows.width else rows

    def parameters(self, symbol: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Give the parameters of a symbol that were in force at ``start``, and each change until ``end``.

        Returns
        -------
        polars.DataFrame
            ``at``, ``profile_name``, ``fingerprint`` of the symbol's parameters, and each of them by its dotted path; ``trouble``
            where the product of today cannot read what was recorded.
        """
        recorded = self._in_force(PARAMETERS, start, end, by=[])
        rows = []
        for at, name, text in recorded.select("at", "symbol", "text").iter_rows() if recorded.width else ():
            try:
                profile = from_body(json.loads(text))
            except (ProfileError, ValueError) as error:
                rows.append({"at": at, "profile_name": name, "fingerprint": None, "trouble": str(error)})
            else:
                own = {"at": at, "profile_name": name, "fingerprint": profile.fingerprint_of(symbol)}
                rows.append(own | flat_parameters(profile, symbol))
        return pl.DataFrame(rows, infer_schema_length=None, strict=False)

    def _in_force(self, table: str, start: datetime, end: datetime, *, by: Sequence[str]) -> pl.DataFrame:
        """Give what stood at a time, and later rows that differ from the one before, of each key or of all."""
        stood = self.last(table, start - _TICK, by=by or ("symbol",), days_back=EVERY_DAY)
        if stood.width and not by:
            stood = stood.sort("at", "seq").tail(1)
        frames = [one for one in (stood, self.between(table, start, end).collect()) if one.width]
        if not frames:
            return pl.DataFrame()
        rows = pl.concat(frames, how="diagonal_relaxed")
        what = pl.struct(pl.col("symbol", *(name for name in ("value", "text") if name in rows.columns)))
        before = what.shift().over(by) if by else what.shift()
        return rows.sort("at", "seq", maintain_order=True).filter(what.ne_missing(before))

    def candles(self, symbol: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Give the candles that opened from ``start`` to ``end``, each once as it was read last, oldest first.

        A window that was recorded whole begins the series anew: of what was read before it, nothing stands from its first candle
        on. A replay gives all of its candles other times whenever it adds one.

        Returns
        -------
        polars.DataFrame
            ``open_time_ms``, ``high``, ``low``, ``close``, ``volume``, ``source``, ``key``; without columns where none is kept.
        """
        frame = self._read(CANDLES, self._days(CANDLES, start, end))
        if "open_time_ms" not in frame.collect_schema():
            return pl.DataFrame()
        opened = pl.col("open_time_ms").is_between(int(start.timestamp() * 1000), int(end.timestamp() * 1000))
        of_symbol = frame.filter(pl.col("symbol").is_in(names_in(CANDLES, [symbol])))
        rows = of_symbol.sort("at", "seq", maintain_order=True).collect()
        if "whole" in rows.columns:
            rows = rows.filter(~superseded(rows))
        last = rows.filter(opened).unique("open_time_ms", keep="last").sort("open_time_ms")
        return last.select("open_time_ms", "high", "low", "close", "volume", "source", "key")

    def prices_read(self, symbol: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Give the newest close of each reading of candles, by the time it was recorded; the first is the one before ``start``.

        Returns
        -------
        polars.DataFrame
            ``at``, ``close`` and ``source``; without columns where none is kept.
        """
        before = self.last(CANDLES, start - _TICK, symbols=[symbol])
        rows = self.between(CANDLES, start, end, [symbol]).collect()
        frames = [one for one in (before, rows) if one.width]
        if not frames:
            return pl.DataFrame()
        every = pl.concat(frames, how="diagonal_relaxed").sort("at", "seq", "open_time_ms")
        return every.group_by("seq", maintain_order=True).last().select("at", "close", "source")

    def at(self, moment: datetime, symbols: Sequence[str] = ()) -> Moment:
        """Give everything as it stood at a moment, of some symbols or of all that had a row that day or the day before."""
        names = list(symbols) or self.symbols({moment.date(), moment.date() - timedelta(days=1)})
        rows: dict[str, dict[str, Mapping[str, Any]]] = {symbol: {} for symbol in names}
        for asset in ASSETS:
            if PUBLISHED_TABLES[asset].of_account:
                continue
            for symbol, row in by_symbol(asset, names, self.last(asset, moment, symbols=names).to_dicts()).items():
                rows[symbol][asset] = row
        due = {row["symbol"]: row for row in self._since(INTENT_DUE, ("symbol",), names, moment)}
        without: dict[str, dict[str, Mapping[str, Any]]] = {symbol: {} for symbol in names}
        for row in self._since(WITHOUT_RESULT, ("symbol", "asset"), (), moment):
            for symbol in by_symbol(row["asset"], names, [row]) if row["state"] != State.PRESENT else ():
                without[symbol][row["asset"]] = row
        for symbol, row in due.items():
            self._end_intent(rows.get(symbol, {}), without.get(symbol, {}), row)
        if not symbols:
            rows = {symbol: found for symbol, found in rows.items() if found or without[symbol]}
            without = {symbol: without[symbol] for symbol in rows}
        positions = self.last(RAW_POSITIONS, moment, symbols=names, days_back=EVERY_DAY)
        candles = self.last(CANDLES, moment, symbols=names, newest="open_time_ms")
        switches = self.last(SWITCHES, moment, by=("name",), days_back=EVERY_DAY)
        guard = next(iter(self.last("risk_guard", moment).to_dicts()), None)
        return Moment(
            at=moment,
            rows=rows,
            without=without,
            positions=by_symbol(RAW_POSITIONS, names, positions.to_dicts()),
            candles=by_symbol(CANDLES, names, candles.to_dicts()),
            guard=guard,
            switches={row["name"]: row["value"] for row in switches.to_dicts()},
            plans=self.open_plans(moment),
            decisions=self._dicts(DECISIONS, moment - RECENT, moment)[::-1],
            gaps=self.gaps(moment - RECENT, moment + RECENT),
            expired=self._expired(rows, without, guard, moment),
            silence=self._silence(moment),
            archive_until=self.reaches(),
            ends_known=all(symbol in due for symbol, found in rows.items() if INTENTS in found),
        )

    def _silence(self, moment: datetime) -> dict[str, datetime]:
        """Give the records beside a moment, when they are so far from each other that nobody recorded between."""
        after, until = (self._step_beside(moment, before=before) for before in (True, False))
        rules = self.rules(moment)
        silent = rules.silent if until is not None else rules.silent + rules.unwritten
        if after is None or not after < moment or (until or moment) - after <= silent:
            return {}
        return {"after": after} if until is None else {"after": after, "until": until}

    def _unwritten(self, moment: datetime, rules: Rules) -> timedelta:
        """Give how long before a moment records may be missing that are not written yet: none where there are later ones."""
        return rules.unwritten if self._step_beside(moment, before=False) is None else timedelta()

    def reaches(self) -> datetime | None:
        """Give the time of the last record, or of the last row where records are not kept; ``None`` of an empty archive."""
        covered = self.covered()
        last = self._step_beside(datetime.max.replace(tzinfo=UTC) - timedelta(days=2), before=True)
        times = [one for one in (last, covered[1] if covered is not None else None) if one is not None]
        return max(times) if times else None

    def _since(self, table: str, by: Sequence[str], symbols: Collection[str], moment: datetime) -> list[dict[str, Any]]:
        """Give the last rows of a table, each with the time since when it says so: it is written again when a process begins."""
        rows = self.last(table, moment, by=by, symbols=symbols, days_back=EVERY_DAY).to_dicts()
        sought = {tuple(row[name] for name in by): row for row in rows if row.get("state") != State.PRESENT}
        latest = {key: _what(row) for key, row in sought.items()}
        for day in reversed(self.archive.days(table)):
            if not sought or day > moment.date() + timedelta(days=1):
                continue
            frame = self._read(table, [day]).filter(pl.col("at") <= moment, pl.col("symbol").is_in([key[0] for key in sought]))
            for row in frame.sort("at", "seq", descending=True).collect().iter_rows(named=True):
                key = tuple(row[name] for name in by)
                if key in sought and _what(row) == latest[key]:
                    sought[key]["at"] = row["at"]
                else:
                    sought.pop(key, None)
        return rows

    @staticmethod
    def _end_intent(rows: dict[str, Mapping[str, Any]], without: dict[str, Mapping[str, Any]], due: Mapping[str, Any]) -> None:
        """Let an intent say whether it was still due, as its row in Redis does; one that was not is none."""
        intent = rows.get(INTENTS)
        if intent is None or due[DUE] == intent[DUE] or due["at"] < intent["at"]:
            return
        rows[INTENTS] = {**intent, DUE: due[DUE]}
        if not due[DUE]:
            ended = {"state": str(State.ABSENT), "why": f"no_{INTENTS}"}
            without.setdefault(INTENTS, {**due, "asset": INTENTS, **ended})

    def _expired(
        self,
        rows: Mapping[str, Mapping[str, Mapping[str, Any]]],
        without: Mapping[str, Mapping[str, Mapping[str, Any]]],
        guard: Mapping[str, Any] | None,
        moment: datetime,
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Name what had outlived its lifetime at a moment: nobody has evaluated it since. Without records nobody knows."""
        rules = self.rules(moment)
        if self._step_beside(moment, before=True) is None:
            return {}
        day = self.steps(moment - timedelta(days=DAYS_BACK), moment)
        unwritten = self._unwritten(moment, rules)
        steps = day.group_by("asset", "symbols").agg(pl.col("at").max())
        shown = {
            symbol: [{asset: row["at"] for asset, row in of.items()} for of in (rows[symbol], without[symbol])] for symbol in rows
        }
        if guard is not None:
            shown[ACCOUNT] = [{"risk_guard": guard["at"]}]
        expired: dict[str, dict[str, dict[str, Any]]] = {}
        for symbol, found in shown.items():
            for asset in dict.fromkeys(asset for of in found for asset in of):
                table = PUBLISHED_TABLES[asset]
                known = [of[asset] for of in found if asset in of]
                last = max([*known, *evaluated(steps, table, names_in(asset, [symbol]), rules)])
                if moment - last > (lifetime := rules.lifetime(table)) + unwritten:
                    over = {"evaluated_at": last, "lifetime_sec": lifetime.total_seconds()}
                    expired.setdefault(symbol, {})[asset] = over
        return expired

    def open_plans(self, moment: datetime) -> list[dict[str, Any]]:
        """Give the plans that nobody had decided at a moment, and that could still be decided, oldest first."""
        since = moment - timedelta(seconds=PLAN_MAX_AGE_SEC)
        decided = {row.get("plan_id") for row in self._dicts(DECISIONS, since, moment)}
        return [plan for plan in self._dicts(PLANS, since, moment) if plan.get("plan_id") not in decided]

    def gaps(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Give what was lost between two times; a gap without a time counts on the whole day it was found."""
        frame = self._read(GAPS, self._days(GAPS, start, end))
        columns = frame.collect_schema().names()
        if "at" in columns:
            since = pl.coalesce("since", "at") if "since" in columns else pl.col("at")  # of one without a beginning: 1970
            frame = frame.filter(pl.col("at").is_null() | ((pl.col("at") >= start) & (since <= end)))
        return frame.collect().to_dicts() if columns else []

    def gap_spans(self, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
        """Give from when to when records are missing, of the gaps that say so."""
        found = [(gap.get("since"), gap.get("at")) for gap in self.gaps(start, end)]
        return [(first, last) for first, last in found if isinstance(first, datetime) and isinstance(last, datetime)]

    def _dicts(self, table: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
        frame = self.between(table, start, end)
        return frame.collect().to_dicts() if frame.collect_schema() else []

    def _with_the_one_before(self, asset: str, symbol: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Give the rows of one symbol and the one that stood at the start; of those of one time the last."""
        before = self.last(asset, start - _TICK, symbols=[symbol])
        rows = self.between(asset, start, end, [symbol]).collect()
        frames = [one for one in (before, rows) if one.width]
        if not frames:
            return pl.DataFrame()
        both = pl.concat(frames, how="diagonal_relaxed")
        if asset == INTENTS and len(both):
            first = min(both["at"].min(), start)  # type: ignore[type-var]  # times
            both = with_endings(both, self.between(INTENT_DUE, first, end, [symbol]).collect())  # type: ignore[arg-type]
        return both.unique("at", keep="last", maintain_order=True).sort("at")

    def _states(self, asset: str, symbol: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Give since when an asset had a result of a symbol, or none: ``at``, ``state``, ``why``."""
        before = self.last(WITHOUT_RESULT, start - _TICK, by=("symbol", "asset"), days_back=EVERY_DAY)
        rows = self.between(WITHOUT_RESULT, start, end).collect()
        frames = [one for one in (before, rows) if one.width]
        if not frames:
            return pl.DataFrame()
        both = pl.concat(frames, how="diagonal_relaxed")
        own = both.filter((pl.col("asset") == asset) & pl.col("symbol").is_in(names_in(asset, [symbol])))
        return own.unique("at", keep="last").sort("at").select("at", "state", "why")

    def _read(self, table: str, days: Sequence[date]) -> pl.LazyFrame:
        return _timed(self.archive.read(table, days, self._faults))

    def _ask(self, table: str, first: date, last: date) -> date:
        """Note that an answer rests on a table from one day until another; give the day before them."""
        self._asked.setdefault(table, set()).add((first, last))
        return first - timedelta(days=1)

    def _days(self, table: str, start: datetime, end: datetime) -> list[date]:
        """Name the days whose files may hold rows of a time: what was taken before midnight is written after it."""
        self._ask(table, start.date(), end.date() + timedelta(days=1))
        return [day for day in self.archive.days(table) if start.date() <= day <= end.date() + timedelta(days=1)]

    def _times(self, day: date) -> tuple[datetime, datetime] | None:
        """Give the times of the first and the last row of any asset on one day."""
        found: list[datetime] = []
        for asset in ASSETS:
            frame = self._read(asset, [day])
            if "at" in frame.collect_schema():
                ends = frame.select(pl.min("at").alias("first"), pl.max("at").alias("last")).collect().row(0)
                found += [one.astimezone(UTC) for one in ends if one is not None]
        return (min(found), max(found)) if found else None


def _what(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Give what a row of ``without_result`` or of ``intent_due`` says, but for numbers in its reason."""
    return row.get("state"), code_of(row.get("why")), row.get(DUE)


def _without_ended(grid: pl.DataFrame, names: Sequence[str], ended: Iterable[Span]) -> pl.DataFrame:
    """Take values away where their lifetime was over."""
    for first, after in ended:
        over = pl.col("at").is_between(first, after, closed="left")
        grid = grid.with_columns(pl.when(~over).then(pl.col(name)).alias(name) for name in names)
    return grid


def times_in(*frames: pl.DataFrame) -> list[datetime]:
    """Give the times of the rows of some frames."""
    return [at for frame in frames if frame.width for at in frame["at"].to_list()]


def superseded(candles: pl.DataFrame) -> pl.Series:
    """Say of each recorded candle of a symbol whether a later window begins at or before it; rows are in the order of records."""
    first_of_later = math.inf
    begins: dict[int, float] = {}
    windows = candles.filter(pl.col("whole")).group_by("seq").agg(pl.col("open_time_ms").min()).sort("seq", descending=True)
    first = dict(windows.iter_rows())
    for seq in sorted(set(candles["seq"]), reverse=True):
        begins[seq] = first_of_later
        first_of_later = min(first_of_later, first.get(seq, math.inf))
    later = candles["seq"].replace_strict(begins, return_dtype=pl.Float64)
    return candles["open_time_ms"] >= later


def names_in(table: str, symbols: Collection[str]) -> frozenset[str]:
    """Name whom a table has rows of, of some symbols: a leg shares those of its symbol where it shares the key."""
    if table == "account" or ((published := PUBLISHED_TABLES.get(table)) is not None and published.of_account):
        return frozenset({ACCOUNT})
    shared = table == CANDLES or table in OF_UNDERLYING
    return frozenset(symbols) | (frozenset(map(underlying, symbols)) if shared else frozenset())


def by_symbol(table: str, symbols: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Sort the rows of a table by symbol: its own one, else that of the symbol whose leg it is."""
    found = {str(row["symbol"]): row for row in rows}
    named = {symbol: next((one for one in (symbol, *names_in(table, [symbol])) if one in found), None) for symbol in symbols}
    return {symbol: found[name] for symbol, name in named.items() if name is not None}


def _timed(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Give every row of a frame its time: ``at`` where the recorder wrote one, else that of its entry in a stream."""
    schema = frame.collect_schema()
    if isinstance(schema.get("at"), pl.Datetime):
        return frame.with_columns(pl.col("at").cast(TIME))
    if "entry_id" not in schema:
        return frame
    entered_ms = pl.col("entry_id").str.split("-").list.first().cast(pl.Int64, strict=False)
    return frame.with_columns(pl.from_epoch(entered_ms, "ms").dt.replace_time_zone("UTC").cast(TIME).alias("at"))
