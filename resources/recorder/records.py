"""A record: what one step of a cycle leaves in Redis for the recorder, as one entry of a stream.

Here belong the form of an entry, how it is appended, and how it is read. Which rows a step records is
:mod:`resources.recorder.tape`'s, and what becomes of them :mod:`resources.recorder.archive`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, NamedTuple

import orjson
import polars as pl

from quantum_core.contracts.tables import RECORDER_STREAM_MAXLEN
from resources.store.redis_store import RedisStore
from resources.store.transport.scripts import Script

RECORD = Script(__file__, "record")
TABLE_PREFIX = "t:"  # of a field whose value is the rows of a table
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # it names a folder
WRITABLE_MAX = 1000  # types of a table's columns that were found to be such as files can have; ours are some fifty
_WRITABLE: set[tuple[pl.DataType, ...]] = set()
RESERVED = frozenset({"records", "gaps", "manifests", "decisions", "plans", "risk_events", "alerts", "profiles", "switches"})


class Record(NamedTuple):
    """What one step leaves.

    Attributes
    ----------
    asset
        The step.
    slot
        Whose memory it continues, e.g. ``<asset>:<first symbol of the shard>``.
    cycle_id, run_id
        Of the step.
    at
        When it took its inputs, epoch s.
    facts
        What else is known of the step, as JSON takes it.
    tables
        Name of a table to its rows. The recorder's own tables (:data:`RESERVED`) are refused.
    full
        Whether the tables have everything there is, not what changed since the last record of this process.
    """

    asset: str
    slot: str
    cycle_id: str
    run_id: str
    at: float
    facts: Mapping[str, Any]
    tables: Mapping[str, pl.DataFrame]
    full: bool


class UnreadableRecordError(ValueError):
    """An entry of the stream is no record; its number, where it has one, is lost."""


def append(store: RedisStore, record: Record, *, token: str) -> bool:
    """Append a record to the stream.

    Parameters
    ----------
    store
        Where the stream is.
    record
        What is appended.
    token
        Of this process and its UTC day: who has another one continues nothing of ours.

    Returns
    -------
    bool
        False when it was refused: it continues what another process has recorded, and must be sent again in full.

    Raises
    ------
    ValueError
        A table has no name that can be a folder, or one of the recorder's own.
    RedisUnavailableError
        The server is away.
    redis.ResponseError
        The server refuses it, having written nothing.
    """
    if wrong := [name for name in record.tables if name in RESERVED or not TABLE_NAME.fullmatch(name)]:
        message = f"{wrong} cannot be recorded: a table is lower-case letters, digits and _, and none of {sorted(RESERVED)}"
        raise ValueError(message)
    entry: list[str | bytes] = [
        *("asset", record.asset, "slot", record.slot, "full", str(int(record.full))),
        *("cycle_id", record.cycle_id, "run_id", record.run_id),
        *("at", repr(float(record.at)), "facts", orjson.dumps(record.facts)),
    ]
    for name, frame in record.tables.items():
        entry += [TABLE_PREFIX + name, encoded(frame)]
    keys = [store.keys.of(name) for name in ("stream_recorder", "recorder_writers", "recorder_seq")]
    call = RECORD(keys, token, record.slot, str(int(record.full)), RECORDER_STREAM_MAXLEN, *entry)
    (reply,) = store.run("recording a step", [call])
    if isinstance(reply, Exception):
        raise reply
    return bool(reply)


def encoded(frame: pl.DataFrame) -> bytes:
    """Give rows as one Arrow IPC stream."""
    buffer = BytesIO()
    frame.write_ipc_stream(buffer, compression="zstd")
    return buffer.getvalue()


class Read(NamedTuple):
    """A record as it is read from the stream: its number, its row in the table ``records``, and its tables."""

    seq: int
    row: dict[str, Any]
    tables: dict[str, pl.DataFrame]
    at: datetime


def read(fields: Mapping[bytes, bytes]) -> Read:
    """Read one entry; every table gets the columns ``seq``, ``cycle_id`` and ``at`` (UTC), which replace any of these names.

    Raises
    ------
    UnreadableRecordError
        It is no record. ``seq`` may still be read by :func:`seq_of`.
    """
    seq = seq_of(fields)
    if seq is None:
        message = f"seq is {fields.get(b'seq')!r:.60}"
        raise UnreadableRecordError(message)
    try:
        at = datetime.fromtimestamp(float(fields[b"at"]), UTC)
        texts = {name: fields[name.encode()].decode() for name in ("asset", "slot", "cycle_id", "run_id", "facts")}
        stamps = (pl.lit(seq, pl.Int64).alias("seq"), pl.lit(texts["cycle_id"]).alias("cycle_id"), at_column(at))
        tables = {name: frame.with_columns(*stamps) for name, frame in _tables(fields)}
    except UnreadableRecordError:
        raise
    except (KeyError, ValueError, OverflowError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        message = f"{type(error).__name__}: {str(error)[:200]}"
        raise UnreadableRecordError(message) from None
    row = {"seq": seq, "at": at, **texts, "full": fields.get(b"full") == b"1"}
    return Read(seq, row, tables, at)


def seq_of(fields: Mapping[bytes, bytes]) -> int | None:
    """Give the number of a record; ``None`` where there is none."""
    text = fields.get(b"seq", b"")
    return int(text) if re.fullmatch(rb"[1-9][0-9]{0,14}", text) else None


def at_column(at: datetime) -> pl.Expr:
    """Give one moment as a column, microseconds UTC: from a number, which is built four times as fast as from a datetime."""
    return pl.lit((at - EPOCH) // timedelta(microseconds=1), pl.Int64).cast(pl.Datetime("us", "UTC")).alias("at")


def _tables(fields: Mapping[bytes, bytes]) -> Iterator[tuple[str, pl.DataFrame]]:
    for field, value in fields.items():
        if field.startswith(TABLE_PREFIX.encode()):
            name = field.removeprefix(TABLE_PREFIX.encode()).decode()
            if name in RESERVED or not TABLE_NAME.fullmatch(name):
                message = f"no table is called {name!r:.60}"
                raise UnreadableRecordError(message)
            frame = pl.read_ipc_stream(BytesIO(value))
            _check_types(frame)
            yield name, frame


def _check_types(frame: pl.DataFrame) -> None:
    """Raise where a type is one that files cannot have: that must not be found out when they are written."""
    types = tuple(frame.dtypes)
    if types not in _WRITABLE:  # writing takes as long as all the rest of reading a table of few rows
        frame.clear().write_parquet(BytesIO())
        if len(_WRITABLE) >= WRITABLE_MAX:
            _WRITABLE.clear()
        _WRITABLE.add(types)
