"""Event log storages that write a cycle in few transactions, made on Dagster's private API of event logs.

Checked on dagster 1.13.27 and dagster-postgres 0.29.27. Stock storage builds an engine and opens the database anew for every
call, reflects tables and columns before it writes an asset event, and stores each event in two transactions. Here a process
keeps one engine per database, asks about the schema once, and stores any number of events in one transaction with the answers
to every read unchanged: ``tests/instance/test_event_log.py`` compares them with the stock storages and fails when an upgrade
changes either side.

Single events are not held back to be written together: it would save 10 ms of a cycle (0.3 ms each, stock storage 2.5 ms), and
cost the last lines of a run whose process is killed, the ones that show why.

What is kept or deleted, and when, is decided in ``resources/instance/retention.py``; this module only knows how to delete.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import dagster as dg
import sqlalchemy as db
from dagster._config import StringSource  # StringSource and Field are what stock storages describe their configuration with
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite import consolidated_sqlite_event_log
from dagster._core.storage.event_log.sqlite.consolidated_sqlite_event_log import (
    SQLITE_EVENT_LOG_FILENAME,
    ConsolidatedSqliteEventLogStorage,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sql import get_alembic_config, stamp_alembic_rev
from dagster._serdes import ConfigurableClassData, serialize_value
from dagster_postgres.event_log.event_log import PostgresEventLogStorage
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from watchdog.events import FileSystemEvent, PatternMatchingEventHandler
from watchdog.observers import Observer

from resources.instance.engines import (
    Database,
    remembered,
    sqlite_connection,
    sqlite_database,
    sqlite_transaction,
)
from resources.instance.instance_storage import PooledPostgres

MAINTENANCE_TIMEOUT_SEC = 0.2  # maintenance never makes the cycle wait longer than this for a lock
ORDER_LOCK = 0x7175616E74756D  # PostgreSQL advisory lock, the letters of "quantum": see BatchedPostgresEventLogStorage
PAGE_BYTES = 16 * 1024  # events are 1 to 2 KB each: in pages of 4 KiB a quarter of the file is empty
SELECT_CHUNK = 500  # values per IN list
HISTORY = "history"  # folder inside the instance folder, where the run storage's file is, too
RUNLESS = ""  # run_id of events that belong to no run

# An event of the first kind says nothing any more once one of the second kinds exists for its asset and partition.
SUPERSEDED_BY = {
    "ASSET_MATERIALIZATION": ("ASSET_MATERIALIZATION",),
    "ASSET_OBSERVATION": ("ASSET_OBSERVATION",),
    "ASSET_MATERIALIZATION_PLANNED": ("ASSET_MATERIALIZATION_PLANNED", "ASSET_MATERIALIZATION"),
    "FRESHNESS_STATE_CHANGE": ("FRESHNESS_STATE_CHANGE",),
}
AnyEventLog = SqlEventLogStorage  # Dagster's own event logs, and ours
RUN_STATUS_TYPES = frozenset(kind.value for kind in EVENT_TYPE_TO_PIPELINE_RUN_STATUS)

_events = SqlEventLogStorageTable.c
_checks = AssetCheckExecutionsTable.c


class StoredEvent(NamedTuple):
    """Where an event is stored, and of what it speaks."""

    id: int
    kind: str | None
    asset_key: str | None
    partition: str | None


class Made(NamedTuple):
    """One materialization: the partition (none for an asset of the account), and its metadata as plain numbers and words."""

    symbol: str | None
    metadata: Mapping[str, float | str]


class LatestChecks(NamedTuple):
    """The check executions that must stay, and the events that led to them."""

    row_ids: frozenset[int]
    event_ids: frozenset[int]


class EventLogConfigError(ValueError):
    """An event log storage was used before it knew where its database is."""


# --- writing -----------------------------------------------------------------------------------------------------------------


class BatchedEventLogStorage(SqlEventLogStorage):
    """What both databases share: one transaction per batch, inside which stock methods find the open connection."""

    _upsert: Callable[..., Any]
    _row_without_values: bool  # whether an asset event that says nothing about its asset still makes it known

    @property
    def _thread(self) -> threading.local:
        return cast("threading.local", self.__dict__.setdefault("_thread_state", threading.local()))

    @abstractmethod
    def database(self) -> Database:
        """Give what this process knows of it."""

    @abstractmethod
    def _insert(self, conn: Connection, rows: list[dict[str, Any]]) -> list[int]: ...

    @abstractmethod
    def _fresh_connection(self) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _fresh_transaction(self, events: Sequence[EventLogEntry]) -> AbstractContextManager[Connection]: ...

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        current = getattr(self._thread, "connection", None)
        if current is not None:
            yield current
            return
        with self._fresh_connection() as conn:
            yield conn

    def run_connection(self, run_id: str | None = None) -> Any:  # noqa: ARG002 - one database holds all runs
        """Give a connection, inside the transaction this thread has open if there is one."""
        return self._connect()

    def index_connection(self) -> Any:
        """Give a connection, inside the transaction this thread has open if there is one."""
        return self._connect()

    @contextmanager
    def index_transaction(self) -> Iterator[Connection]:
        """Give a connection in a transaction, inside the one this thread has open if there is one."""
        current = getattr(self._thread, "connection", None)
        if current is not None:
            yield current
            return
        with self._fresh_transaction(()) as conn:
            yield conn

    @contextmanager
    def _transaction(self, events: Sequence[EventLogEntry] = ()) -> Iterator[Connection]:
        with self._fresh_transaction(events) as conn:
            self._thread.connection = conn
            try:
                yield conn
            finally:
                self._thread.connection = None

    def store_event(self, event: EventLogEntry) -> None:
        """Store one event and what follows from it, in one transaction."""
        self.store_event_batch([event])

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events and what follows from them, all or none, in one transaction and one insert per table.

        Parameters
        ----------
        events
            Events of any kind, asset and run, oldest first; each gets the id it would have got alone.
        """
        if not events:
            return
        rows = [self._event_to_row(event) for event in events]  # the costly part, before anybody waits for the lock
        with self._transaction(events) as conn:
            ids = self._insert(conn, rows)
            of_assets = [(event, event_id) for event, event_id in zip(events, ids, strict=True) if _is_asset_event(event)]
            if of_assets:
                self._store_asset_event_tags(conn, *zip(*of_assets, strict=True))
                self._store_assets(conn, of_assets)
            for event, event_id in zip(events, ids, strict=True):
                if event.is_dagster_event and event.dagster_event_type in ASSET_CHECK_EVENTS:
                    self.store_asset_check_event(event, event_id)

    def store_materializations(self, first: EventLogEntry, last: EventLogEntry, made: Sequence[Made]) -> None:
        """Store materializations of one asset by one step, in one transaction, as ``store_event_batch`` would.

        Parameters
        ----------
        first, last
            Entries of the first and of the last one, without tags.
        made
            All of them, in order.
        """
        row = self._event_to_row(first)
        texts = _serialized(first, made)
        if texts[0] != row["event"]:  # Dagster has changed its format: slower, but right
            texts = [serialize_value(_with(first, one)) for one in made]
        rows = [{**row, "event": text, "partition": one.symbol} for text, one in zip(texts, made, strict=True)]
        with self._transaction([last]) as conn:
            self._store_assets(conn, [(last, self._insert(conn, rows)[-1])])

    def _store_assets(self, conn: Connection, events: Sequence[tuple[EventLogEntry, int]]) -> None:
        # Stock updates an asset's row event by event. Each kind of event sets its own columns, so that the newest event of
        # each kind, applied in order, leaves the same row. Sorted: two writers must lock rows in one order.
        newest: dict[str, dict[Any, tuple[EventLogEntry, int]]] = {}
        for event, event_id in events:
            key = cast("dg.AssetKey", event.get_dagster_event().asset_key).to_string()
            kinds = newest.setdefault(key, {})
            kinds.pop(event.dagster_event_type, None)
            kinds[event.dagster_event_type] = (event, event_id)
        has_times = self.has_asset_key_col("last_materialization_timestamp")
        for key in sorted(newest):
            values: dict[str, Any] = {}
            for event, event_id in newest[key].values():
                values |= self._get_asset_entry_values(event, event_id, has_times)
            if values or self._row_without_values:
                insert = self._upsert(AssetKeyTable).values(asset_key=key, **values)
                columns = [AssetKeyTable.c.asset_key]
                conn.execute(
                    insert.on_conflict_do_update(index_elements=columns, set_=values)
                    if values
                    else insert.on_conflict_do_nothing(index_elements=columns)
                )

    def _store_asset_event(self, conn: Connection, event: EventLogEntry, event_id: int) -> None:
        if _is_asset_event(event):
            self._store_assets(conn, [(event, event_id)])

    # --- what is known of the schema

    def has_table(self, table_name: str) -> bool:
        """Whether a table exists, asking the database until it does."""
        known = self.database().tables
        if table_name not in known:
            with self._connect() as conn:
                if not conn.dialect.has_table(conn, table_name):
                    return False
            known.add(table_name)
        return True

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        known = self.database().columns
        if column_name not in known:
            known.update(column["name"] for column in db.inspect(conn).get_columns(AssetKeyTable.name))
        return column_name in known

    def has_asset_key_col(self, column_name: str) -> bool:
        """Whether the asset table has a column, asking the database until it does."""
        return column_name in self.database().columns or super().has_asset_key_col(column_name)

    has_secondary_index = remembered(SqlEventLogStorage.has_secondary_index)

    # --- deleting, for resources.instance.retention

    def events_of_run(
        self, run_id: str, *, before: datetime | None = None, after_id: int = 0, limit: int = -1
    ) -> list[StoredEvent]:
        """List a run's events without their content, oldest first.

        Parameters
        ----------
        run_id
            The run; ``RUNLESS`` for the events of none.
        before
            Only events older than this.
        after_id
            Only events stored after this one.
        limit
            At most so many; -1 for all.
        """
        query = db.select(_events.id, _events.dagster_event_type, _events.asset_key, _events.partition)
        query = query.where(_events.run_id == run_id, _events.id > after_id).order_by(_events.id)
        if before is not None:
            query = query.where(_events.timestamp < before.astimezone(UTC).replace(tzinfo=None))
        if limit >= 0:
            query = query.limit(limit)
        with self._connect() as conn:
            return [StoredEvent(*row) for row in conn.execute(query)]

    def superseded(self, event_ids: Collection[int]) -> set[int]:
        """Name those of the events that a newer one of their asset and partition has made history."""
        found: set[int] = set()
        with self._connect() as conn:
            for chunk in chunks(sorted(event_ids), SELECT_CHUNK):
                for query in self._superseded_queries(chunk):
                    found.update(conn.scalars(query))
        return found

    @staticmethod
    def _superseded_queries(event_ids: Sequence[int]) -> Iterator[Any]:
        newer = SqlEventLogStorageTable.alias("newer")
        partitions = (  # two queries: an index serves "equal" and serves "is null", but not "equal or both null"
            (_events.partition.is_not(None), newer.c.partition == _events.partition),
            (_events.partition.is_(None), newer.c.partition.is_(None)),
        )
        for kind, partition in itertools.product(SUPERSEDED_BY, partitions):
            same = (newer.c.asset_key == _events.asset_key, newer.c.dagster_event_type.in_(SUPERSEDED_BY[kind]))
            exists = db.exists().where(*same, newer.c.id > _events.id, partition[1])
            yield db.select(_events.id).where(_events.id.in_(event_ids), _events.dagster_event_type == kind, partition[0], exists)

    def latest_checks(self) -> LatestChecks:
        """Find the newest and the newest completed execution of each check and partition."""
        newest = db.select(db.func.max(_checks.id)).group_by(_checks.asset_key, _checks.check_name, _checks.partition)
        completed = [status.value for status in COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES]
        row_ids: set[int] = set()
        event_ids: set[int] = set()
        with self._connect() as conn:
            row_ids.update(conn.scalars(newest))
            row_ids.update(conn.scalars(newest.where(_checks.execution_status.in_(completed))))
            for chunk in chunks(sorted(row_ids), SELECT_CHUNK):
                event_ids.update(conn.scalars(db.select(_checks.evaluation_event_storage_id).where(_checks.id.in_(chunk))))
        return LatestChecks(frozenset(row_ids), frozenset(event_ids))

    def check_rows(self, *, before: datetime, after_id: int, limit: int) -> list[int]:
        """List the ids of check executions older than a time, oldest first."""
        old = _checks.evaluation_event_timestamp < before.astimezone(UTC).replace(tzinfo=None)
        query = db.select(_checks.id).where(_checks.id > after_id, old).order_by(_checks.id).limit(limit)
        with self._connect() as conn:
            return list(conn.scalars(query))

    def delete_check_rows(self, row_ids: Sequence[int]) -> None:
        """Delete check executions, in one short transaction."""
        with self._transaction() as conn:
            conn.execute(AssetCheckExecutionsTable.delete().where(_checks.id.in_(row_ids)))

    def delete_event_rows(self, event_ids: Sequence[int]) -> None:
        """Delete events and their tags, in one short transaction."""
        with self._transaction() as conn:
            conn.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(event_ids)))
            conn.execute(SqlEventLogStorageTable.delete().where(_events.id.in_(event_ids)))

    @abstractmethod
    def size_bytes(self) -> int:
        """Give the bytes in use; 0 where nobody has to care."""

    @abstractmethod
    def give_back_space(self, *, pages: int) -> int:
        """Return free space to the file system, a little at a time.

        Parameters
        ----------
        pages
            At most so many.

        Returns
        -------
        int
            Bytes given back; 0 when there is nothing more to give, or when the database is busy with something better.
        """


def runs_with_latest(log: SqlEventLogStorage) -> set[str]:
    """Name the runs to which a latest materialization, observation or check result belongs, in any of Dagster's event logs.

    Stock storages delete a run as a whole only, so that these runs stay.
    """
    newest = db.select(db.func.max(_events.id))
    newest = newest.where(_events.asset_key.is_not(None), _events.dagster_event_type.in_([*SUPERSEDED_BY]))
    newest = newest.group_by(_events.asset_key, _events.partition, _events.dagster_event_type)
    checked = db.select(db.func.max(_checks.id)).group_by(_checks.asset_key, _checks.check_name, _checks.partition)
    done = [status.value for status in COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES]
    completed = checked.where(_checks.execution_status.in_(done))
    with log.index_connection() as conn:
        runs = set(conn.scalars(db.select(_events.run_id).where(_events.id.in_(newest))))
        for latest in (checked, completed):
            runs.update(conn.scalars(db.select(_checks.run_id).where(_checks.id.in_(latest))))
    return runs


def delete_shard(log: SqlEventLogStorage, run_id: str) -> None:
    """Delete the file in which stock SQLite keeps the events of one run; deleting the run leaves it, empty."""
    if isinstance(log, SqliteEventLogStorage):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{log.path_for_shard(run_id)}{suffix}").unlink(missing_ok=True)


def _is_asset_event(event: EventLogEntry) -> bool:
    dagster_event = event.dagster_event
    return dagster_event is not None and dagster_event.event_type in ASSET_EVENTS and dagster_event.asset_key is not None


def _has_consequences(event: EventLogEntry) -> bool:
    return _is_asset_event(event) or (event.is_dagster_event and event.dagster_event_type in ASSET_CHECK_EVENTS)


def _with(pattern: EventLogEntry, one: Made) -> EventLogEntry:
    event = pattern.get_dagster_event()
    asset = dg.AssetMaterialization(cast("dg.AssetKey", event.asset_key), partition=one.symbol, metadata=one.metadata)
    return pattern._replace(dagster_event=event._replace(event_specific_data=StepMaterializationData(asset)))


def _serialized(pattern: EventLogEntry, made: Sequence[Made]) -> list[str]:
    """Serialize entries that differ from the pattern in partition and metadata only: the rest of the text is made once."""
    content = json.loads(serialize_value(pattern))
    content["dagster_event"]["event_specific_data"]["materialization"] |= {"partition": HOLE, "metadata_entries": HOLE}
    first, middle, last = json.dumps(content).split(json.dumps(HOLE))
    if not first.endswith('"metadata_entries": ') or not middle.endswith('"partition": '):
        return [""] * len(made)  # not the order this was written for; the caller takes the long way
    return [f"{first}{_metadata_entries(one.metadata)}{middle}{_partition(one)}{last}" for one in made]


HOLE = "\x00"  # in no text of Dagster's
_quoted = json.encoder.encode_basestring_ascii


def _partition(one: Made) -> str:
    return "null" if one.symbol is None else _quoted(one.symbol)


def _metadata_entries(metadata: Mapping[str, float | str]) -> str:
    return "[" + ", ".join([_metadata_entry(label, value) for label, value in metadata.items()]) + "]"


def _metadata_entry(label: str, value: float | str) -> str:
    data = (
        f'"TextMetadataEntryData", "text": {_quoted(value)}'
        if isinstance(value, str)
        else f'"FloatMetadataEntryData", "value": {json.dumps(value)}'
    )
    entry = f'"description": null, "entry_data": {{"__class__": {data}}}, "label": {_quoted(label)}'
    return f'{{"__class__": "EventMetadataEntry", {entry}}}'


def chunks(values: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cut a sequence into pieces of at most ``size``."""
    return (values[start : start + size] for start in range(0, len(values), size))


# --- SQLite ------------------------------------------------------------------------------------------------------------------


class _WriteAheadHandler(PatternMatchingEventHandler):
    """Stock watches the main file, which with connections kept open changes only at a checkpoint."""

    def __init__(self, storage: BatchedSqliteEventLogStorage) -> None:
        path = str(storage.path)
        super().__init__(patterns=[path, f"{path}-wal"])
        self._storage = storage

    def on_modified(self, event: FileSystemEvent) -> None:  # noqa: ARG002 - watchdog's API
        """Notify the watchers of runs."""
        self._storage.on_modified()  # type: ignore[no-untyped-call]


class BatchedSqliteEventLogStorage(BatchedEventLogStorage, ConsolidatedSqliteEventLogStorage):
    """All events of an instance in one SQLite file, written in batches.

    Parameters
    ----------
    base_dir
        Folder of the file; by default ``history`` in the folder of the instance that uses the storage.
    inst_data
        How Dagster rebuilds the storage in another process.

    Notes
    -----
    Events are visible to other processes when ``store_event`` or ``store_event_batch`` returns, and in the order of their ids:
    ids are given while the only writer holds the lock.
    """

    _upsert = staticmethod(sqlite.insert)
    _row_without_values = False

    def __init__(self, base_dir: str | None = None, inst_data: ConfigurableClassData | None = None) -> None:
        self._path: Path | None = None
        if base_dir is not None:
            self._open(base_dir, inst_data)
        else:
            self._inst_data = inst_data
            SqlEventLogStorage.__init__(self)  # type: ignore[no-untyped-call,arg-type]

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Accept a folder, or nothing."""
        return {"base_dir": dg.Field(StringSource, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Build the storage for an instance."""
        return cls(inst_data=inst_data, **config_value)

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Learn the instance's folder, where the database is unless configured otherwise."""
        if self._path is None:
            self._open(str(Path(instance.root_directory) / HISTORY), self._inst_data)
        super().register_instance(instance)

    def _open(self, base_dir: str, inst_data: ConfigurableClassData | None) -> None:
        path = Path(base_dir).resolve() / f"{SQLITE_EVENT_LOG_FILENAME}.db"
        if not path.exists():
            _create_sqlite_event_log(path)
        self._path = path
        ConsolidatedSqliteEventLogStorage.__init__(self, str(path.parent), inst_data)

    @property
    def path(self) -> Path:
        """The file."""
        if self._path is None:
            msg = "no folder for the event log: give base_dir, or use the storage through a DagsterInstance"
            raise EventLogConfigError(msg)
        return self._path

    def database(self) -> Database:
        """Give what this process knows of it."""
        return sqlite_database(self.path)

    def _fresh_connection(self) -> AbstractContextManager[Connection]:
        return sqlite_connection(self.database())

    def _fresh_transaction(self, events: Sequence[EventLogEntry]) -> AbstractContextManager[Connection]:  # noqa: ARG002
        return sqlite_transaction(self.database())

    def _insert(self, conn: Connection, rows: list[dict[str, Any]]) -> list[int]:
        last = conn.scalar(db.select(db.func.max(_events.id))) or 0
        ids = list(range(last + 1, last + 1 + len(rows)))  # what SQLite itself would give, while nobody else can write
        conn.execute(SqlEventLogStorageTable.insert(), [{"id": event_id, **row} for event_id, row in zip(ids, rows, strict=True)])
        return ids

    def watch(self, run_id: str, cursor: str | None, callback: Callable[..., Any]) -> None:
        """Call back with each new event of a run."""
        if self._obs is None:
            observer = Observer()
            observer.schedule(_WriteAheadHandler(self), str(self.path.parent))
            observer.start()
            self._obs = cast("Any", observer)
        self._watchers[run_id][callback] = cursor

    def dispose(self) -> None:
        """Stop watching. The engine stays: the next run of this process uses it."""
        if self._path is not None:
            super().dispose()  # type: ignore[no-untyped-call]

    def size_bytes(self) -> int:
        """Give the bytes of the pages in use."""
        with closing(sqlite3.connect(self.path, timeout=MAINTENANCE_TIMEOUT_SEC)) as conn:
            return (_pragma(conn, "page_count") - _pragma(conn, "freelist_count")) * _pragma(conn, "page_size")

    def give_back_space(self, *, pages: int) -> int:
        """Cut free pages off the file's end, unless somebody holds the lock for long; at the end, cut the log as well."""
        given_back = 0
        with (
            suppress(sqlite3.OperationalError),  # locked: next time
            closing(sqlite3.connect(self.path, timeout=MAINTENANCE_TIMEOUT_SEC, isolation_level=None)) as conn,
        ):
            free, size = _pragma(conn, "freelist_count"), _pragma(conn, "page_size")
            conn.executescript(f"PRAGMA incremental_vacuum({pages:d})")  # execute() stops at the first page of it
            given_back = (free - _pragma(conn, "freelist_count")) * size
            conn.execute(f"PRAGMA wal_checkpoint({'PASSIVE' if given_back else 'TRUNCATE'})").fetchall()
        return given_back


def _pragma(conn: sqlite3.Connection, name: str) -> int:
    return int(conn.execute(f"PRAGMA {name}").fetchone()[0])


def _create_sqlite_event_log(path: Path) -> None:
    """Create the file completely or not at all: all processes of a deployment start at once, on an empty folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="event_log-") as folder:
        stock = ConsolidatedSqliteEventLogStorage(folder)
        new = Path(stock.get_db_path())  # type: ignore[no-untyped-call]
        with closing(sqlite3.connect(new, isolation_level=None)) as conn:
            conn.execute("PRAGMA journal_mode=DELETE")  # with a write-ahead log the size of pages is fixed
            conn.execute(f"PRAGMA page_size={PAGE_BYTES}")
            conn.execute("PRAGMA auto_vacuum=INCREMENTAL")  # both take effect with the next line, and cannot be set later
            conn.execute("VACUUM")
            conn.execute("PRAGMA journal_mode=WAL")
        engine = db.create_engine(f"sqlite:///{new}", poolclass=db.pool.NullPool)
        with engine.begin() as connection:  # stock stamps without a commit, and the stamp is lost
            stamp_alembic_rev(get_alembic_config(consolidated_sqlite_event_log.__file__), connection)
        with suppress(FileExistsError):  # another process was faster
            os.link(new, path)


# --- PostgreSQL --------------------------------------------------------------------------------------------------------------


class BatchedPostgresEventLogStorage(PooledPostgres, BatchedEventLogStorage, PostgresEventLogStorage):
    """Dagster's PostgreSQL event log with kept connections, and batches for every kind of event.

    Notes
    -----
    PostgreSQL gives ids before a transaction is visible, so that a reader who remembers the highest id it has seen could miss
    the events of a slower writer. Transactions with asset events, which sensors read by id, therefore queue at an advisory
    lock: their ids become visible in order. Stock storage's NOTIFY is left out; nothing listens to it any more.
    """

    _upsert = staticmethod(postgresql.insert)
    _row_without_values = True

    def _fresh_connection(self) -> AbstractContextManager[Connection]:
        return self.connect()

    @contextmanager
    def _fresh_transaction(self, events: Sequence[EventLogEntry]) -> Iterator[Connection]:
        with self._fresh_connection() as conn:
            if len(events) == 1 and not _has_consequences(events[0]):
                yield conn  # one statement needs no transaction
                return
            real = conn.execution_options(isolation_level="READ COMMITTED")
            with real.begin():
                if any(map(_is_asset_event, events)):
                    real.execute(db.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ORDER_LOCK})
                yield real

    def _insert(self, conn: Connection, rows: list[dict[str, Any]]) -> list[int]:
        insert = SqlEventLogStorageTable.insert().returning(_events.id, sort_by_parameter_order=True)
        return list(conn.scalars(insert, rows))

    def size_bytes(self) -> int:
        """Leave the disk of a database server to whoever runs it."""
        return 0

    def give_back_space(self, *, pages: int) -> int:  # noqa: ARG002 - autovacuum does it
        """Leave the space to PostgreSQL's autovacuum."""
        return 0
