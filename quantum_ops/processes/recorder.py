"""``quantum recorder``: takes records out of Redis and writes them to the archive, each once, however often it is killed.

One round reads what is new into a buffer; every RECORDER_FLUSH_SEC the buffer is written and committed, and only what is
committed is taken out of Redis. Beside records it reads the streams of :mod:`resources.recorder.tails`, in a cluster those of
each symbol, too, and how switches and guards stand. What a file is belongs to :mod:`resources.recorder.archive`.

One recorder writes at a time: a lock on the folder excludes a second one on the same folder, a lease in Redis one that writes
elsewhere. Whoever has not both is on standby.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import redis

from quantum_core.contracts.reading import printable
from resources.recorder import storage
from resources.recorder.archive import GAPS, Archive, DamagedPositionError, Position, day_of, first_line, joined, system_answer
from resources.recorder.reading import remove_old_days
from resources.recorder.records import Read, UnreadableRecordError, read, seq_of
from resources.recorder.tails import (
    BEGINNING,
    ENTRIES,
    ENTRIES_BYTES,
    FIELDS_MAX,
    SCHEMA_OF_SWITCHES,
    TAIL,
    VALUE_BYTES_MAX,
    Entry,
    Rows,
    after,
    changes,
    frame_of,
    moment_of,
    read_standing,
    streams,
    tail,
)
from resources.store.redis_store import RedisStore, flat
from resources.store.transport.unavailable import RedisUnavailableError

POLL_SEC = 1.0  # between two rounds that read everything there was
REPORT_SEC = 2.0  # between two reports of how the recorder is
PRUNE_SEC = 3600.0  # between two removals of days beyond RECORDER_DAYS and RECORDER_MAX_GB
CHECK_SEC = 600.0  # between two polls for files that are missing or do not belong there
NAMED_MAX = 5  # of them
LEASE_SEC = 30
KEPT, TAKEN = "kept", "taken"
HEARTBEAT_TTL_SEC = 86400
FLUSH_BYTES = 32 << 20  # of buffered rows that are written before their time
BUFFER_BYTES_MAX = 2 * FLUSH_BYTES  # from which nothing more is read while the disk takes nothing: the stream keeps it
RECORDS_AT_ONCE, RECORDS_BYTES = 200, 8 << 20  # of the stream that are read at a time
RECORD_FIELDS, RECORD_VALUE_BYTES = 256, 32 << 20  # of one record; beyond it is no record of ours
STREAMS_AT_ONCE = 16
MIDNIGHT_GRACE_SEC = 60.0  # so long what is no record waits for the first record of the new day
NOT_REMOVED: tuple[type[Exception], ...] = (ValueError, *storage.TROUBLES)  # what keeps old days where they are
RECORDS, SWITCHES = "records", "switches"  # tables of its own, beside gaps
MOMENT = pl.Datetime("us", "UTC")
RECORD_SCHEMA = {
    "seq": pl.Int64,
    "at": MOMENT,
    "asset": pl.String,
    "slot": pl.String,
    "cycle_id": pl.String,
    "run_id": pl.String,
    "facts": pl.String,
    "full": pl.Boolean,
}
GAP_SCHEMA = {
    "from_seq": pl.Int64,
    "to_seq": pl.Int64,
    "from_entry": pl.String,
    "to_entry": pl.String,
    "since": MOMENT,
    "at": MOMENT,
    "what": pl.String,
}
SCHEMAS: Mapping[str, Any] = {RECORDS: RECORD_SCHEMA, GAPS: GAP_SCHEMA, SWITCHES: SCHEMA_OF_SWITCHES}

log = logging.getLogger("quantum.recorder")


class StandbyError(RuntimeError):
    """Another recorder writes."""


LEFT_FOR_THE_NEXT: tuple[type[Exception], ...] = (RedisUnavailableError, StandbyError, *storage.TROUBLES)


class NotWrittenError(OSError):
    """The disk, or the object store, takes nothing; nothing was committed, and what is buffered stays."""


@dataclass
class Buffer:
    """What was read and is not committed yet, and the position that it leads to."""

    position: Position
    frames: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    size: int = 0
    gaps: int = 0

    def add_row(self, table: str, row: dict[str, Any]) -> None:
        """Add a row of a table of the recorder's own."""
        self.rows.setdefault(table, []).append(row)
        self.size += sum(len(value) if isinstance(value, str) else 8 for value in row.values())

    def add_record(self, record: Read) -> None:
        """Add a record with its tables."""
        self.add_row(RECORDS, record.row)
        for table, frame in record.tables.items():
            self.frames.setdefault(table, []).append(frame)
            self.size += int(frame.estimated_size())

    def advance(self, stream: str, entry_id: str, seq: int | None = None) -> None:
        """Note that an entry of a stream was read."""
        reached = {**self.position.streams, stream: entry_id}
        self.position = replace(self.position, streams=reached, seq=self.position.seq if seq is None else seq)

    def tables(self) -> dict[str, pl.DataFrame]:
        """Join the rows of each table; those of a record that do not fit to the ones before become a gap."""
        tables = {}
        for table, frames in self.frames.items():
            tables[table], misfits = joined(frames)
            for frame in (frames[place] for place in misfits):
                seq, at = (int(frame["seq"][0]), frame["at"][0]) if len(frame) else (self.position.seq, None)
                self.add_row(GAPS, gap(seq, seq, "", "", at=at, what=f"rows of {table} have columns of other types"))
                self.gaps += 1
            self.frames[table] = [tables[table]]
        for table, rows in self.rows.items():
            tables[table] = pl.DataFrame(rows, schema=SCHEMAS[table]) if table in SCHEMAS else frame_of(rows)
        return tables


def gap(from_seq: int, to_seq: int, from_entry: str, to_entry: str, *, at: datetime | None, what: str) -> dict[str, Any]:
    """Give a row of the table ``gaps``: records of these numbers are not in the archive."""
    since = moment_of(from_entry) if from_entry else None
    named = {"from_seq": from_seq, "to_seq": to_seq, "from_entry": from_entry, "to_entry": to_entry}
    return {**named, "since": since, "at": at, "what": what}


class Recorder:
    """Reads, writes, and remembers nothing that is not in the archive.

    Parameters
    ----------
    store
        Where records are, whose clock and settings count.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store, settings, of = store, store.settings, store.keys.of
        self.archive = Archive(settings.recorder_address)
        self.owner = f"{socket.gethostname()}:{self.archive.root.resolve()}"  # the same after a restart: it goes on at once
        self.stream = of("stream_recorder")
        self.others = streams(store.keys, settings.symbols)
        self.trouble = ""
        self.buffer = Buffer(Position())
        self.committed = Position()
        self.day_bytes = self.earlier_bytes = 0  # of the day that is written, and of those before it
        self._rows = Rows()
        self._lock: ExitStack | None = None
        self._standing: dict[str, str] | None = None
        self._renew_writers = self._failed = False
        self._flushed = self._polled = self._reported = self._pruned = self._checked = -math.inf
        self._damaged = ""

    def run(self, stop: threading.Event) -> None:
        """Record until the event is set.

        Raises
        ------
        DamagedPositionError
            See :meth:`resources.recorder.archive.Archive.position`.
        """
        try:
            while not stop.is_set():
                busy = self.round()
                stop.wait(0 if busy else POLL_SEC)
        except DamagedPositionError as error:
            self._say(str(error))
            raise
        finally:
            self._end()

    def once(self) -> Position:
        """Write what is there, and give how far that is.

        Raises
        ------
        StandbyError
            Another recorder writes.
        RedisUnavailableError
            The server is away.
        OSError
            The disk takes nothing.
        DamagedPositionError
            See :meth:`resources.recorder.archive.Archive.position`.
        """
        try:
            self._take()
            while self._read() or self.buffer.size >= FLUSH_BYTES:
                if self.buffer.size >= FLUSH_BYTES:
                    self.flush()
            self.flush()
            self._check()
            return self.committed
        finally:
            self._end()

    def round(self) -> bool:
        """Read once, write when it is time; give whether there is more to read at once. Troubles are named and retried."""
        more = False
        try:
            self._take()
            more = self._read()
            if self._is_time():
                self.flush()
            self._prune()
            self._check()
            self._say(self.trouble if self._failed else "")
        except StandbyError as other:
            self._drop()
            self._say(f"on standby: {other}")
            return False
        except RedisUnavailableError as error:
            self._say(str(error))
            return False
        except redis.ResponseError as error:
            self._say(f"{self.stream} cannot be read: {error}")
        except storage.TROUBLES as error:
            more = False
            what, answer, line = f"{self.archive.root} cannot be written", system_answer(error), first_line(error)
            cause = f"{answer}: {what} ({line})" if answer else f"{what}: {line}"  # a title may end before a wrapped cause
            self._say(f"{cause}; Redis keeps what is not written")
        self._report()
        return more

    def _take(self) -> None:
        """Take or renew lease and lock; begin where the archive ends.

        Raises
        ------
        StandbyError
            Another recorder has one of them.
        """
        lease = self._lease()
        if not lease:
            other = f"the recorder of {self._holder()} has {self.store.keys.of('recorder_lease')}"
            raise StandbyError(other)
        if self._lock is not None and lease == KEPT:
            return
        lock = self._lock or self._locked()
        try:
            committed = self.archive.position()
            self.archive.remove_uncommitted()  # what a killed one has left
            self._measure(committed.day)
        except BaseException:
            lock.close()
            self._lock = None
            raise
        self._lock, self.committed, self.buffer, self._standing = lock, committed, Buffer(committed), None
        self._trim()
        log.info("records to %s from number %d on", self.archive.root, committed.seq + 1)

    def _locked(self) -> ExitStack:
        held = ExitStack()
        try:
            held.enter_context(storage.lock(self.archive.root))
        except storage.LockedError as error:
            raise StandbyError(str(error)) from None
        return held

    def _lease(self) -> str:
        """Take or renew the lease; give whether it was kept or taken anew, nothing when another one has it."""
        key = self.store.keys.of("recorder_lease")
        take = ("SET", key, self.owner, "EX", LEASE_SEC, "NX")
        holder, taken = self.store.run("taking the recorder's lease", [("GET", key), take])
        if holder == self.owner.encode():
            self.store.run("renewing the recorder's lease", [("EXPIRE", key, LEASE_SEC)])
            return KEPT
        return TAKEN if taken == b"OK" else ""

    def _holder(self) -> str:
        (holder,) = self.store.run("reading the recorder's lease", [("GET", self.store.keys.of("recorder_lease"))])
        return printable(holder.decode(errors="replace"))[:200] if isinstance(holder, bytes) else "something that is no lease"

    def _read(self) -> bool:
        """Read records, and when there are no more the rest; give whether there is more."""
        if self.buffer.size >= BUFFER_BYTES_MAX:
            return False
        if self._read_records():
            return True
        if time.monotonic() - self._polled < POLL_SEC:
            return False
        self._roll(self.store.clock())
        more = self._read_others()
        self._polled = -math.inf if more else time.monotonic()
        return more

    def _read_records(self) -> bool:
        reached = self.buffer.position.streams.get(self.stream, BEGINNING)
        call = TAIL([self.stream], reached, RECORDS_AT_ONCE, RECORDS_BYTES, RECORD_FIELDS, RECORD_VALUE_BYTES)
        (reply,) = self.store.run("reading records", [call])
        if isinstance(reply, Exception):
            raise reply
        found = tail(reply, reached)
        if found.anew:
            self._lost(self.buffer.position.seq + 1, self.buffer.position.seq, reached, "", "the stream was begun anew")
            self.buffer.advance(self.stream, BEGINNING)
        for entry in found.entries:
            self._add(entry)
        self._ask_anew()
        return bool(found.entries or found.anew)

    def _ask_anew(self) -> None:
        """After a gap, let every process record everything: what it remembers to have recorded may be what was lost."""
        if self._renew_writers:
            self.store.run("asking for everything anew", [("DEL", self.store.keys.of("recorder_writers"))])
            self._renew_writers = False

    def _add(self, entry: Entry) -> None:
        """Add one record; the first one of a new day when the day before is written."""
        position = self.buffer.position
        try:
            if entry.cut:
                raise UnreadableRecordError("it is too large")  # noqa: EM101, TRY003, TRY301
            record = read(entry.fields)
        except UnreadableRecordError as error:
            self._unreadable(entry, str(error))
            return
        day = str(day_of(min(record.at, self.store.clock()), position))
        self._begin(day)
        self._missing(record.seq, entry)
        self.buffer.add_record(record)
        self.buffer.advance(self.stream, entry.id, record.seq)

    def _begin(self, day: str) -> None:
        """Let a day begin, when the one before is written."""
        if day == self.buffer.position.day:
            return
        self.flush()
        self.buffer.position = replace(self.buffer.position, day=day)
        self.earlier_bytes += self.day_bytes
        self._standing, self.day_bytes = None, 0

    def _missing(self, seq: int, entry: Entry) -> None:
        """Note the numbers that are missing before this one."""
        last, reached = self.buffer.position.seq, self.buffer.position.streams.get(self.stream, BEGINNING)
        if seq <= last:
            self._lost(last + 1, seq - 1, reached, entry.id, "numbers begin anew: Redis was emptied, or restored from a copy")
        elif seq > last + 1:
            what = "taken out of Redis before they were read" if last else "before this archive began"
            self._lost(last + 1, seq - 1, reached, entry.id, what)

    def _unreadable(self, entry: Entry, why: str) -> None:
        seq = seq_of(entry.fields)
        last, reached = self.buffer.position.seq, self.buffer.position.streams.get(self.stream, BEGINNING)
        number = seq if seq == last + 1 else None  # who leaves garbage is believed no other number
        self._lost(number or last, number or last, reached, entry.id, f"an entry is no record: {printable(why)}")
        self.buffer.advance(self.stream, entry.id, number)

    def _lost(self, from_seq: int, to_seq: int, from_entry: str, to_entry: str, what: str) -> None:
        at = (moment_of(to_entry) if to_entry else None) or self.store.clock()
        if not self.buffer.position.day:
            self._begin(str(self.store.clock().date()))
        self.buffer.add_row(GAPS, gap(from_seq, to_seq, from_entry, to_entry, at=at, what=what))
        self.buffer.gaps += 1
        self._renew_writers = True
        log.warning("gap: records %d to %d: %s", from_seq, to_seq, what)

    def _roll(self, now: datetime) -> None:
        """Let a new day begin that has no record yet."""
        position = self.buffer.position
        self._begin(str(day_of(now - timedelta(seconds=MIDNIGHT_GRACE_SEC) if position.day else now, position)))

    def _read_others(self) -> bool:
        names, more = list(self.others), False
        for first in range(0, len(names), STREAMS_AT_ONCE):
            if self.buffer.size < FLUSH_BYTES:
                more |= self._read_streams(names[first : first + STREAMS_AT_ONCE])
        standing = read_standing(self.store)
        for row in changes(self._standing, standing, self.store.clock()):
            self.buffer.add_row(SWITCHES, row)
        self._standing = standing
        return more

    def _read_streams(self, names: Sequence[str]) -> bool:
        more = False
        reached = {name: self.buffer.position.streams.get(name, BEGINNING) for name in names}
        calls = [TAIL([name], reached[name], ENTRIES, ENTRIES_BYTES, FIELDS_MAX, VALUE_BYTES_MAX) for name in names]
        for name, reply in zip(names, self.store.run("reading streams", calls), strict=True):
            if isinstance(reply, Exception):
                log.debug("%s cannot be read: %s", name, reply)
                continue
            found = tail(reply, reached[name])
            for row in self._rows.of(self.others[name], name, found.entries):
                self.buffer.add_row(self.others[name], row)
            if found.entries:
                self.buffer.advance(name, found.entries[-1].id)
            elif found.anew:
                self.buffer.advance(name, BEGINNING)
            more |= bool(found.entries or found.anew)
        return more

    def _is_time(self) -> bool:
        return self.buffer.size >= FLUSH_BYTES or time.monotonic() - self._flushed >= self.store.settings.recorder_flush_sec

    def flush(self) -> None:
        """Write and commit what is buffered.

        Raises
        ------
        NotWrittenError
            See there; it is tried again.
        StandbyError
            The lease was lost: another recorder reads the same entries.
        RedisUnavailableError
            The server is away, so that nobody knows whose the lease is.
        """
        self._flushed = time.monotonic()
        if not self.buffer.rows and not self.buffer.frames:
            return
        self._ask_anew()
        tables = self.buffer.tables()
        position = replace(self.buffer.position, flush=self.committed.flush + 1)
        if self._lease() != KEPT:  # meanwhile another one may have read the same entries, and written them
            message = f"the lease had lapsed, or went to the recorder of {self._holder()}"
            raise StandbyError(message)
        try:
            size = self.archive.write(tables, position)
        except storage.SupersededError as error:
            raise StandbyError(str(error)) from error
        except storage.TROUBLES as error:
            self._failed = True
            raise NotWrittenError(first_line(error)) from error
        self._failed = False
        self.committed, self.day_bytes = position, self.day_bytes + size
        gaps = self.buffer.gaps
        self.buffer = Buffer(position)
        self._trim(("HINCRBY", self.store.keys.of("recorder_state"), "gaps", gaps))

    def _trim(self, *more: tuple[Any, ...]) -> None:
        """Take out of Redis what is committed."""
        reached = self.committed.streams.get(self.stream)
        trim = [("XTRIM", self.stream, "MINID", after(reached))] if reached else []
        for reply in self.store.run("taking out what is written", [*trim, *more]):
            if isinstance(reply, Exception):
                log.warning("what is written cannot be taken out of Redis: %s", reply)

    def _prune(self) -> None:
        if time.monotonic() - self._pruned < PRUNE_SEC:
            return
        self._pruned = time.monotonic()
        try:
            for day in remove_old_days(self.archive, self.store.settings):
                log.info("%s is beyond RECORDER_DAYS or RECORDER_MAX_GB, its files were removed", day)
            self._measure(self.committed.day)
        except NOT_REMOVED as error:
            log.warning("old days cannot be removed: %s", error)

    def _check(self) -> None:
        """Look for what is missing in the archive or does not belong there; of an object store for the latter, by listing it."""
        if time.monotonic() - self._checked < (PRUNE_SEC if storage.is_remote(self.archive.root) else CHECK_SEC):
            return
        self._checked = time.monotonic()
        find = self.archive.strays if storage.is_remote(self.archive.root) else self.archive.incomplete
        try:
            faults = [f"{fault.file} {fault.what}" for fault in find()]
        except storage.TROUBLES as error:
            log.warning("the files of the archive cannot be listed: %s", first_line(error))
            return
        more = [f"and {len(faults) - NAMED_MAX} more"] if len(faults) > NAMED_MAX else []
        damaged = "; ".join([*faults[:NAMED_MAX], *more])
        if damaged and damaged != self._damaged:
            log.warning("%s", damaged)
        self._damaged = damaged

    def _measure(self, now: str) -> None:
        """Add up what the day that is written takes, and those before it."""
        sizes = {str(day): self.archive.bytes_of(day) for day in self.archive.days()}
        self.day_bytes = sizes.pop(now, 0)
        self.earlier_bytes = sum(sizes.values())

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.log(logging.WARNING if trouble else logging.INFO, "%s", trouble or "goes on")
        self.trouble = trouble

    def _report(self) -> None:
        if time.monotonic() - self._reported < REPORT_SEC:
            return
        self._reported = time.monotonic()
        of, now = self.store.keys.of, f"{self.store.clock().timestamp():.3f}"
        state = {
            "owner": self.owner,
            "folder": str(self.archive.root),
            "at": now,
            "trouble": self.trouble,
            "damaged": self._damaged,
            "seq": str(self.committed.seq),
            "day": self.committed.day,
            "bytes": str(self.day_bytes),
            "free_bytes": "" if (free := storage.free_bytes(self.archive.root)) is None else str(free),
            "archive_bytes": str(self.earlier_bytes + self.day_bytes),
            "max_bytes": str(self.store.settings.recorder_max_gb * 1e9),
            "buffered_bytes": str(self.buffer.size),
        }
        commands: list[tuple[Any, ...]] = [
            ("HSET", of("recorder_state"), *flat(state)),
            ("SET", of("heartbeat", "recorder"), now, "EX", HEARTBEAT_TTL_SEC),
        ]
        try:
            self.store.run("reporting how the recorder is", commands)
        except RedisUnavailableError as error:
            self._say(str(error))

    def _drop(self) -> None:
        """Forget what is not committed: whoever writes now reads it, too."""
        self.buffer = Buffer(self.committed)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _end(self) -> None:
        """Write what is buffered, if that can be, and let the next recorder begin at once."""
        self._reported = -math.inf
        if self._lock is None:
            if self.trouble:
                self._report()
            return
        try:
            self.flush()
            self._report()
            self.store.run("leaving the recorder's lease", [("DEL", self.store.keys.of("recorder_lease"))])
        except LEFT_FOR_THE_NEXT as error:
            log.warning("not everything is written, the next recorder does it: %s", error)
        finally:
            self._drop()
