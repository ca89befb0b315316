"""What was decided, as the watcher polls it: switches, guards, events since its last poll, waiting plans, permits.

It must not import Dagster: the watcher that reads it lives on when Dagster does not. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from quantum_core.contracts.tables import NO_SYMBOL, PERMIT
from quantum_ops.alerts.trading.decided import Entry, TradingSigns
from resources.governor.guards import read_guards
from resources.governor.permit import permit_fields
from resources.governor.queue import GROUP
from resources.governor.switches import Switches, switch_commands, switches_said
from resources.inputs.foreign import number_or_none, parse_entry_id
from resources.store.redis_store import RedisStore, pairs, texts

EVENTS_READ_MAX = 2000  # entries per stream and read; more follow in the next read of the same poll
START = "0-0"


class TradingSignsReader:
    """Reads what was decided, from cursors the caller keeps.

    Parameters
    ----------
    store
        Where from, and whose clock counts.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        of = store.keys.of
        self.governor = of("stream_governor_events")
        decisions = {self.governor, of("stream_risk_events")}
        if store.keys.cluster:
            decisions |= {of("stream_governor_events", symbol) for symbol in (*store.settings.symbols, NO_SYMBOL)}
        self.streams = [self.governor, *sorted(decisions - {self.governor})]
        self.plans = of("stream_plans")

    def read(
        self, cursors: Mapping[str, str], *, refused: Collection[str] = (), permits: Mapping[str, str] | None = None
    ) -> TradingSigns:
        """Read once.

        Parameters
        ----------
        cursors
            Stream to the last entry that was read; empty: from the newest EVENTS_READ_MAX on.
        refused
            Symbols whose last closes are asked for, beside those with a refused plan among the events.
        permits
            Plan to symbol of the permits that are asked for, beside those among the events.

        Raises
        ------
        RedisUnavailableError
            The server is away.
        """
        switches, entries, read_to = self._switches_and_events(cursors)
        guards = read_guards(self.store)  # after the events: a guard one of them announces lives
        watched = dict(permits or {}) | {
            entry.fields["plan_id"]: entry.fields.get("symbol", "")
            for entry in entries
            if entry.fields.get("event") == "PERMIT" and "plan_id" in entry.fields
        }
        blocked = {entry.fields.get("symbol", "") for entry in entries if entry.fields.get("event") == "BLOCK"}
        consumed, granted, waiting, oldest = self._details(watched, sorted({*refused, *blocked} - {""}))
        return TradingSigns(
            killed=switches.killed,
            kill_recorded=switches.set_by_kill,
            disarmed=switches.disarmed,
            disarm=switches.disarm,
            scopes=switches.scopes,
            switch_trouble=switches.trouble,
            guards=guards.said,
            guard_trouble=guards.trouble,
            entries=entries,
            cursors=read_to,
            waiting=waiting,
            waiting_since=oldest,
            permits=consumed,
            granted=granted,
        )

    def _switches_and_events(self, cursors: Mapping[str, str]) -> tuple[Switches, list[Entry], dict[str, str]]:
        """Read the switches and their events at one moment: else a switch could look set after the event that cleared it."""
        latest = [("XREVRANGE", name, "+", "-", "COUNT", 1 if cursors else EVENTS_READ_MAX) for name in self.streams]
        events = [("XRANGE", name, f"({cursors.get(name, START)}", "+", "COUNT", EVENTS_READ_MAX) for name in self.streams]
        gets = switch_commands(self.store)
        commands: list[tuple[Any, ...]] = [*latest, *events[1:], ("MULTI",), *gets, events[0], ("EXEC",)]
        replies = self.store.run("reading switches and their events", commands)
        newest = dict(zip(self.streams, replies, strict=False))
        executed = replies[-1]
        if isinstance(executed, Exception):
            executed = [executed] * (len(gets) + 1)
        *switches, governor = executed
        rows_of = dict(zip(self.streams, [governor, *replies[len(latest) : len(latest) + len(events) - 1]], strict=True))
        entries: list[Entry] = []
        read_to: dict[str, str] = {}
        for name in self.streams:
            cursor, last = cursors.get(name, START), newest[name]
            rows = rows_of[name]
            if not cursors:  # the first poll of all: what is on may have been explained recently
                rows = last if isinstance(last, Exception) else [*reversed(last), *_after(rows, last)]
            elif _restarted(last, cursor):  # emptied, and written anew by a server whose clock was set back
                (rows,) = self.store.run("reading events anew", [("XRANGE", name, "-", "+", "COUNT", EVENTS_READ_MAX)])
            if isinstance(rows, Exception):  # another type of key: nothing can be read, and the states still are
                read_to[name] = cursor
                continue
            entries += [Entry(entry_id.decode(), texts(raw)) for entry_id, raw in rows]
            read_to[name] = rows[-1][0].decode() if rows else cursor
        return switches_said(self.store, switches), sorted(entries, key=lambda entry: parse_entry_id(entry.id)), read_to

    def _details(
        self, watched: Mapping[str, str], refused: Sequence[str]
    ) -> tuple[dict[str, str], dict[str, list[float]], int, float | None]:
        of = self.store.keys.of
        keys = [of(PERMIT.key, plan, symbol or NO_SYMBOL) for plan, symbol in watched.items()]
        permits = [command for key in keys for command in (("HGETALL", key), ("GET", key))]
        grants = [("LRANGE", of("closes_granted", symbol), 0, -1) for symbol in refused]
        *replies, groups = self.store.run("reading permits", [*permits, *grants, ("XINFO", "GROUPS", self.plans)])
        both = zip(watched, replies[: len(permits) : 2], replies[1 : len(permits) : 2], strict=True)
        consumed = {plan: _text(permit_fields(as_hash, text).get(b"consumed")) for plan, as_hash, text in both}
        granted = {
            symbol: [] if isinstance(reply, Exception) else [at for one in reply if (at := number_or_none(one)) is not None]
            for symbol, reply in zip(refused, replies[len(permits) :], strict=True)
        }
        rows = [] if isinstance(groups, Exception) else [{_text(n): v for n, v in pairs(row).items()} for row in groups]
        return consumed, granted, *self._waiting(next((row for row in rows if _text(row["name"]) == GROUP), {}))

    def _waiting(self, group: Mapping[str, Any]) -> tuple[int, float | None]:
        """Count the plans nobody has decided, and give the time when the oldest was written."""
        after = _text(group.get("last-delivered-id", START))
        new, pending = self.store.run(
            "looking for waiting plans",
            [
                ("XRANGE", self.plans, f"({after}", "+", "COUNT", EVENTS_READ_MAX),
                ("XPENDING", self.plans, GROUP),
            ],
        )
        ids = [] if isinstance(new, Exception) else [entry_id for entry_id, _ in new]
        oldest = ids[:1]
        count = len(ids)
        if not isinstance(pending, Exception) and pending and pending[0]:
            count += int(pending[0])
            oldest.append(pending[1])
        return count, min((parse_entry_id(_text(one))[0] / 1000 for one in oldest), default=None)


def _after(rows: Any, newest_first: Any) -> list[Any]:
    """Give what was written between the two reads of the first poll."""
    if isinstance(rows, Exception) or not newest_first:
        return [] if isinstance(rows, Exception) else list(rows)
    last = parse_entry_id(newest_first[0][0].decode())
    return [row for row in rows if parse_entry_id(row[0].decode()) > last]


def _restarted(last: Any, cursor: str) -> bool:
    """Return whether a stream ends before the entry that was read last."""
    if isinstance(last, Exception) or not last:
        return False
    return parse_entry_id(last[0][0].decode()) < parse_entry_id(cursor)


def _text(value: Any) -> str:
    return (
        value.decode(errors="replace")
        if isinstance(value, bytes)
        else ""
        if value is None or isinstance(value, Exception)
        else str(value)
    )
