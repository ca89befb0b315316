"""What the recorder reads beside records: other streams, each entry a row of text, and how switches and guards stand.

Streams may hold anything, and anybody may have written it: an entry is cut, never refused. Here belongs how they become rows;
when they are read is the recorder's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import polars as pl

from quantum_core.contracts.tables import NO_SYMBOL, Keys
from resources.governor.guards import read_guards
from resources.governor.switches import read_switches
from resources.store.redis_store import RedisStore
from resources.store.transport.scripts import Script

TAIL = Script(__file__, "tail", read_only=True)
BEGINNING = "0-0"
TABLE_OF = {  # kind of a stream to the table of its entries
    "stream_governor_events": "decisions",
    "stream_plans": "plans",
    "stream_risk_events": "risk_events",
    "stream_alerts": "alerts",
    "profiles": "profiles",
}
ENTRIES, ENTRIES_BYTES = 500, 4 << 20  # of one stream that are read at a time
FIELDS_MAX, VALUE_BYTES_MAX = 64, 64 << 10  # of one entry that are kept; what we write has 30 fields, and values of some hundred
COLUMNS_MAX = 128  # of one table: later names are kept in REST
REST = "rest"  # column of what has none of its own: JSON
OWN = ("entry_id", "at", "stream", REST, "cut", "seq", "cycle_id")  # columns of ours; a field of such a name gets a _ behind it
SWITCHES_MAX = 500  # rows; disarmed scopes are at most 50, guards a handful
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_ID = re.compile(rb"([0-9]{1,15})-([0-9]{1,19})")

SCHEMA_OF_SWITCHES = {"name": pl.String, "value": pl.String, "at": pl.Datetime("us", "UTC")}


class Entry(NamedTuple):
    """One entry as far as it was read: its id, fields and values, and whether something was cut off."""

    id: str
    fields: dict[bytes, bytes]
    cut: bool


class Tail(NamedTuple):
    """What a stream has behind an id: its entries, and whether it was begun anew, with ids before that one."""

    entries: list[Entry]
    anew: bool


def tail(reply: Any, after: str) -> Tail:
    """Read the answer of the script to a call with this id."""
    last, rows = reply
    entries = []
    for entry_id, size, count, *flat in rows:
        kept = sum(map(len, flat))
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        entries.append(Entry(entry_id.decode(), fields, kept < int(size) or len(flat) < 2 * int(count)))
    return Tail(entries, bool(last) and order_of(last.decode()) < order_of(after))


def order_of(entry_id: str) -> tuple[int, int]:
    """Give an id as two numbers, which compare as ids do."""
    first, _, second = entry_id.partition("-")
    return int(first), int(second)


def after(entry_id: str) -> str:
    """Give the least id after this one."""
    first, second = order_of(entry_id)
    return f"{first}-{second + 1}"


def moment_of(entry_id: str) -> datetime | None:
    """Give the time in an id, UTC; ``None`` where it is none that a calendar has."""
    try:
        return datetime.fromtimestamp(order_of(entry_id)[0] / 1e3, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def streams(keys: Keys, symbols: Iterable[str]) -> dict[str, str]:
    """Map each stream that is read beside records to its table; in a cluster also those of each symbol."""
    names = ("", *symbols, NO_SYMBOL) if keys.cluster else ("",)
    return {
        keys.of(kind, name): table for kind, table in TABLE_OF.items() for name in names if not name or kind.startswith("stream_")
    }


class Rows:
    """Makes rows of the entries of streams, with the same columns for as long as the process lives."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[str, None]] = {}

    def of(self, table: str, stream: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Give one row of text for each entry, with its id, its time, its stream, and whether something was cut off."""
        columns = self._columns.setdefault(table, {})
        rows = []
        for entry in entries:
            row: dict[str, Any] = {}
            rest: dict[str, str] = {}
            for raw_name, raw in entry.fields.items():
                name, text = raw_name.decode(errors="replace"), raw.decode(errors="replace")
                name = f"{name}_" if name in OWN else name
                known = name in columns or (len(columns) < COLUMNS_MAX and _PLAIN_NAME.fullmatch(name))
                if known and name not in row:
                    columns[name] = None
                    row[name] = text
                else:
                    rest[name] = text
            row |= {"entry_id": entry.id, "at": moment_of(entry.id), "stream": stream, "cut": entry.cut}
            rows.append({**row, REST: orjson.dumps(rest).decode() if rest else None})
        return rows


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Give the rows of one table as a frame: text, but for the time and the flag."""
    schema: dict[str, Any] = {"entry_id": pl.String, "at": pl.Datetime("us", "UTC"), "stream": pl.String, "cut": pl.Boolean}
    schema |= {name: pl.String for row in rows for name in row if name not in schema}
    return pl.DataFrame(list(rows), schema=schema)


def read_standing(store: RedisStore) -> dict[str, str]:
    """Read how switches, disarmed scopes and guards stand: name to value; one that is gone has no value.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    switches, guards = read_switches(store), read_guards(store)
    standing = {
        "kill": ("set_by_kill" if switches.set_by_kill else "set") if switches.killed else "",
        "disarmed": _json(switches.disarm) if switches.disarmed else "",
        "trouble": "; ".join(_codes(switches.trouble) + _codes(guards.trouble))[:VALUE_BYTES_MAX],
    }
    standing |= {f"disarmed:{scope}"[:200]: _json(said) for scope, said in switches.scopes.items()}
    standing |= {f"guard:{guard}"[:200]: _json(guards.said.get(guard, {})) for guard in guards.live}
    return dict(list(standing.items())[:SWITCHES_MAX])


def changes(before: Mapping[str, str] | None, now: Mapping[str, str], at: datetime) -> list[dict[str, Any]]:
    """Give a row for each value that differs; all of them where nothing is known of before."""
    known = {} if before is None else before
    rows = [{"name": name, "value": value, "at": at} for name, value in now.items() if known.get(name) != value]
    return rows + [{"name": name, "value": "", "at": at} for name in known if name not in now]


def _codes(trouble: str) -> list[str]:
    """Give the names of what cannot be read, without what changes every second."""
    return [part.partition(": ")[0] for part in trouble.split("; ") if part]


def _json(said: Mapping[str, str]) -> str:
    return orjson.dumps({str(name): str(value) for name, value in said.items()}).decode()[:VALUE_BYTES_MAX]
