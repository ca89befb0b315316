"""One database engine per database and process, for Dagster's storages. What is stored, and how, is theirs.

Stock storage builds an engine and opens the database anew for every call: about 2.5 ms on SQLite, more on PostgreSQL.
"""

from __future__ import annotations

import atexit
import os
import re
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster_postgres.utils import create_pg_engine
from sqlalchemy.engine import Connection, Engine

BUSY_TIMEOUT_SEC = 30  # a writer waits this long for another one, as in Dagster's event log
WAL_KEPT_BYTES = 16 * 1024 * 1024  # the write-ahead file is cut back to this after a checkpoint
WAL_PAGES = 2048  # of 16 KiB, before a writer itself must copy them back; a cycle of 566 symbols writes 700
POOL_SIZE = 4  # connections kept open per process and database; more are opened when needed and closed after use
POSTGRES_LIFELINE = {  # a host that was cut off gives up after 11 s; by itself a call would hang for a quarter of an hour
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
IDLE_IN_TRANSACTION_MS = 5_000  # a host that was cut off or paused within a transaction gives its locks back after this
OPEN_DATABASES = 16  # engines kept per process: a worker has three, a test session hundreds over time


@dataclass
class Database:
    """An open database of this process, and what is known of its schema. Tables and columns come, they never go.

    Attributes
    ----------
    engine
        Its engine.
    tables, columns
        Those that were found to exist.
    checked
        Storages that have made sure, in this process, that their tables exist.
    answered
        Other questions about the schema whose answer was yes.
    """

    engine: Engine
    tables: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    checked: set[str] = field(default_factory=set)
    answered: set[tuple[str, ...]] = field(default_factory=set)


def remembered(stock: Callable[..., bool]) -> Callable[..., bool]:
    """Ask whether the schema has something until it has it: tables, columns and migrations come, they never go.

    Stock storages ask the database for the names of all its tables or columns, some ten times per tick of a sensor.

    Parameters
    ----------
    stock
        Method of a stock storage; the storage that gets the result in its place has a method ``database``.
    """

    @wraps(stock)
    def ask(storage: Any, *of: Any) -> bool:
        known, question = storage.database().answered, (stock.__qualname__, *(word for word in of if isinstance(word, str)))
        if question not in known and stock(storage, *of):
            known.add(question)
        return question in known

    return ask


class Databases:
    """The databases this process has open. A forked child starts with none.

    Notes
    -----
    SQLite's locks do not survive a fork while its record of them does: a child that opened the same file next to inherited
    connections would believe in locks it does not hold, and another process could remove the write-ahead file under it. Idle
    connections are therefore closed before a fork. What another thread is using just then is never touched by the child, not
    even to close it; a process must not fork while one of its threads stores events.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[Any, ...], Database] = OrderedDict()
        self._inherited: list[object] = []

    def get(self, key: tuple[Any, ...], build: Callable[[], Engine]) -> Database:
        """Give a database, opening it when this process has not yet done so."""
        with self._lock:
            database = self._open.get(key)
            if database is None:
                database = self._open[key] = Database(build())
                while len(self._open) > OPEN_DATABASES:
                    self._open.popitem(last=False)[1].engine.dispose()
            self._open.move_to_end(key)
            return database

    def close_idle(self) -> None:
        """Close every connection that is not in use; it is opened again when needed."""
        for database in list(self._open.values()):
            database.engine.dispose()

    def checkpoint(self) -> None:
        """Copy what the write-ahead files hold back to the databases: after a run, so that none waits for it in its middle."""
        for key, database in list(self._open.items()):
            if key[0] == "sqlite":
                with suppress(db.exc.OperationalError), database.engine.connect() as conn:  # busy: the next one does it
                    conn.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def forget(self) -> None:
        """Begin anew in a forked child."""
        self._inherited.append(self._open)
        self._open = OrderedDict()
        self._lock = threading.Lock()


DATABASES = Databases()
os.register_at_fork(before=DATABASES.close_idle, after_in_child=DATABASES.forget)
atexit.register(DATABASES.close_idle)


def sqlite_database(path: Path) -> Database:
    """Give the SQLite database of a file; a file that was replaced is another one."""
    inode = path.stat().st_ino if path.exists() else 0
    return DATABASES.get(("sqlite", str(path), inode), lambda: _sqlite_engine(path))


def _sqlite_engine(path: Path) -> Engine:
    engine = db.create_engine(
        f"sqlite:///{path}",
        poolclass=db.pool.QueuePool,
        pool_size=POOL_SIZE,
        max_overflow=-1,
        pool_use_lifo=True,
        connect_args={"timeout": BUSY_TIMEOUT_SEC, "check_same_thread": False},
    )

    @db.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        # With a write-ahead log, NORMAL loses nothing when a process is killed, and the last transactions when the machine
        # loses power; what it saves is a sync to disk for every event.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")

    return engine


@contextmanager
def sqlite_connection(database: Database) -> Iterator[Connection]:
    """Give a connection whose first write begins a transaction, as stock storage does."""
    with database.engine.connect() as conn, conn.begin():
        yield conn


@contextmanager
def sqlite_transaction(database: Database) -> Iterator[Connection]:
    """Give the only connection that can write until it is given back.

    Notes
    -----
    A transaction that reads first and then turns to writing fails at once, without waiting, when somebody else has written in
    between; one that begins IMMEDIATE waits for its turn.
    """
    with sqlite_connection(database) as conn:
        conn.exec_driver_sql("BEGIN IMMEDIATE")
        yield conn


def postgres_address(url: str) -> str:
    """Name the driver that dagster-postgres installs: SQLAlchemy 2.1 takes another one for a plain ``postgresql://``."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", url)


def postgres_database(url: str, token_provider: Any = None) -> Database:
    """Give the PostgreSQL database of an address."""

    def build() -> Engine:
        engine = create_pg_engine(
            url,
            token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=POOL_SIZE,
            max_overflow=-1,
            pool_use_lifo=True,
            pool_pre_ping=True,  # the server may have been restarted since
            connect_args=POSTGRES_LIFELINE,
        )

        @db.event.listens_for(engine, "connect")
        def bound(connection: Any, _: object) -> None:
            # The server hears nothing of a client that was cut off: its transaction, and the lock in which all hosts queue to
            # store events, would last until TCP gives up, two hours by default, and no cycle of any host would end.
            with connection.cursor() as cursor:
                cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
            connection.commit()

        return engine

    return DATABASES.get(("postgresql", url), build)
