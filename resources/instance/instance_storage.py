"""Dagster's run and schedule storages on one engine per process. Nothing else is changed; events are in event_log.py.

Checked on dagster 1.13.27 and dagster-postgres 0.29.27: stock storages open the database for every call, and read all of
Dagster's schema migrations from disk whenever an instance is opened, which a warm worker does for every run.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import dagster as dg
from dagster._config import StringSource
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import create_db_conn_string
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config, retry_pg_connection_fn
from sqlalchemy.engine import Connection, Engine

from resources.instance.engines import (
    Database,
    postgres_address,
    postgres_database,
    remembered,
    sqlite_connection,
    sqlite_database,
)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for the processes that are creating a database in the same folder: a deployment starts all of them at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".creating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _PooledSqlite:
    """A SQLite storage in the folder of the instance that uses it, unless ``base_dir`` names another one."""

    _stock: ClassVar[Any]
    _folder: ClassVar[str]  # where stock storage has it, below the instance folder
    _file: ClassVar[str]
    _conn_string: str

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Accept a folder, or nothing."""
        return {"base_dir": dg.Field(StringSource, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Build the storage for an instance."""
        build = cast("Callable[..., Self]", cls)
        storage = build("", inst_data)
        if "base_dir" in config_value:
            storage.open_in(Path(config_value["base_dir"]))
        return storage

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Learn the instance's folder."""
        if not self._conn_string:
            self.open_in(Path(instance.root_directory) / self._folder)
        super().register_instance(instance)  # type: ignore[misc]

    def open_in(self, folder: Path) -> None:
        """Open the file in a folder, creating it when it is not there."""
        path = folder.resolve() / f"{self._file}.db"
        if not path.exists() or self._file not in sqlite_database(path).checked:
            with _alone(path.parent):
                self._stock.from_local(str(path.parent))
            sqlite_database(path).checked.add(self._file)
        self._conn_string = create_db_conn_string(str(path.parent), self._file)

    def database(self) -> Database:
        """Give what this process knows of it."""
        return sqlite_database(Path(self._conn_string.removeprefix("sqlite:///")))

    def connect(self) -> AbstractContextManager[Connection]:
        """Give a connection in a transaction."""
        return sqlite_connection(self.database())


class PooledSqliteRunStorage(_PooledSqlite, SqliteRunStorage):  # type: ignore[misc]
    """Dagster's SQLite run storage with connections kept open."""

    _stock, _folder, _file = SqliteRunStorage, "history", "runs"
    has_run_stats_index_cols = remembered(SqliteRunStorage.has_run_stats_index_cols)
    has_backfill_id_column = remembered(SqliteRunStorage.has_backfill_id_column)


class PooledSqliteScheduleStorage(_PooledSqlite, SqliteScheduleStorage):  # type: ignore[misc]
    """Dagster's SQLite schedule storage with connections kept open."""

    _stock, _folder, _file = SqliteScheduleStorage, "schedules", "schedules"
    has_built_index = remembered(SqliteScheduleStorage.has_built_index)
    has_instigators_table = remembered(SqliteScheduleStorage.has_instigators_table)
    _has_instigators_table = remembered(SqliteScheduleStorage._has_instigators_table)  # noqa: SLF001


class PooledPostgres:
    """A PostgreSQL storage that keeps its connections, and looks for its tables once per process."""

    postgres_url: str
    _token_provider: Any
    _engine: Engine
    _webserver_engine: Engine | None = None

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Build the storage for an instance."""
        url, provider = postgres_address(pg_url_from_config(config_value)), get_token_provider_from_config(config_value)
        checked = postgres_database(url, provider).checked
        create = config_value.get("should_autocreate_tables", True) and cls.__name__ not in checked
        storage = cast("Callable[..., Self]", cls)(
            url, should_autocreate_tables=create, inst_data=inst_data, token_provider=provider
        )
        checked.add(cls.__name__)
        return storage

    def database(self) -> Database:
        """Give what this process knows of it."""
        return postgres_database(self.postgres_url, self._token_provider)

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        """Use the engine with time limits that stock storage builds for the webserver."""
        super().optimize_for_webserver(statement_timeout, pool_recycle, max_overflow)  # type: ignore[misc]
        self._webserver_engine = self._engine

    def connect(self, run_id: str | None = None) -> AbstractContextManager[Connection]:  # noqa: ARG002 - Dagster's API
        """Give a connection; each statement is a transaction of its own unless one is begun."""
        engine = self._webserver_engine or self.database().engine
        return retry_pg_connection_fn(engine.connect)


class PooledPostgresRunStorage(PooledPostgres, PostgresRunStorage):
    """Dagster's PostgreSQL run storage with connections kept open."""

    has_run_stats_index_cols = remembered(PostgresRunStorage.has_run_stats_index_cols)
    has_backfill_id_column = remembered(PostgresRunStorage.has_backfill_id_column)


class PooledPostgresScheduleStorage(PooledPostgres, PostgresScheduleStorage):
    """Dagster's PostgreSQL schedule storage with connections kept open."""

    has_built_index = remembered(PostgresScheduleStorage.has_built_index)
    has_instigators_table = remembered(PostgresScheduleStorage.has_instigators_table)
    _has_instigators_table = remembered(PostgresScheduleStorage._has_instigators_table)  # noqa: SLF001
