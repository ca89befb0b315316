"""The batched event logs give the answers of the stock ones, survive forks and kills, and find their place by themselves."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.event_api import AssetRecordsFilter, PartitionKeyFilter
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.event_log.base import EventLogCursor
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster_postgres import PostgresEventLogStorage

from resources.instance.event_log import BatchedPostgresEventLogStorage, BatchedSqliteEventLogStorage, EventLogConfigError
from tests.instance.stored_events import (
    CHECK,
    MARKET,
    RISK,
    SYMBOLS,
    check_planned,
    checked,
    cycle,
    entry,
    materialized,
    observed,
    planned,
    said,
)
from tests.waiting import wait_for

T0 = 1_769_083_200.0  # 2026-01-22 12:00 UTC
WIPED = dg.AssetKey("wiped")
ASSETS = (MARKET, RISK, WIPED, dg.AssetKey("never"))
PROJECT = Path(__file__).resolve().parents[2]

# --- the same story for every storage ---------------------------------------------------------------------------------------


def single_run(run_id: str, at: float) -> list[list[EventLogEntry]]:
    """A run from the user interface: planned, checked, and with everything in one batch that can come in one."""
    unpartitioned = dg.AssetCheckKey(RISK, "bounded")
    return [
        [planned(run_id, at, MARKET, symbol) for symbol in SYMBOLS]
        + [check_planned(run_id, at), check_planned(run_id, at, unpartitioned)],
        [
            materialized(run_id, at + 1, MARKET, "BBB", **{"dagster/partition": "BBB"}),
            observed(run_id, at + 2, MARKET, "BBB"),
            materialized(run_id, at + 3, RISK, None),
            checked(run_id, at + 4, passed=True),
            said(run_id, at + 5, "between"),
            checked(run_id, at + 6, passed=False, check=unpartitioned),
            planned(run_id, at + 7, RISK, "AAA"),
            materialized(run_id, at + 7.5, RISK, "BBB"),
        ],
        [checked(run_id, at + 8, passed=False, check=dg.AssetCheckKey(MARKET, "unplanned"), partition="CCC")],
        [observed(run_id, at + 9, WIPED, None)],
    ]


def tell(storage: SqlEventLogStorage) -> Iterator[None]:
    """Two cycles, a failed one, a run from the user interface, a wipe, a life after it, and a deleted run; pause at each."""
    story = [
        *cycle("first", T0),
        *cycle("second", T0 + 10, symbols=("CCC", "AAA")),
        *cycle("failed", T0 + 20, symbols=("AAA",), succeeds=False),
        *single_run("ui", T0 + 30),
        [materialized("ui", T0 + 40, WIPED, symbol) for symbol in SYMBOLS],
        [checked("", T0 + 41, passed=True, check=dg.AssetCheckKey(WIPED, "gone"))],
        *cycle("deleted", T0 + 50),
    ]
    for batch in story:
        yield store(storage, batch)
    yield storage.wipe_asset(WIPED)
    yield store(storage, [materialized("second", T0 + 2000, WIPED, "BBB"), planned("second", T0 + 2001, WIPED, "CCC")])
    yield storage.delete_events("deleted")
    yield store(storage, [materialized("", T0 + 2002, MARKET, "CCC")])


def store(storage: SqlEventLogStorage, batch: list[EventLogEntry]) -> None:
    """Store as the instance does: one alone, more as a batch; stock PostgreSQL refuses to batch most kinds."""
    refuses = type(storage) is PostgresEventLogStorage
    if len(batch) == 1 or refuses:
        for event in batch:
            storage.store_event(event)
    else:
        storage.store_event_batch(batch)


def answers(storage: SqlEventLogStorage) -> dict[str, Any]:
    """Ask everything the user interface and the sensors ask."""
    return {**of_assets(storage), **of_runs(storage), **of_checks(storage), **of_tables(storage)}


def of_assets(storage: SqlEventLogStorage) -> dict[str, Any]:
    # An asset's row number is left out: PostgreSQL spends one for every event of the asset, and ours writes once per batch.
    given: dict[str, Any] = {
        "keys": storage.all_asset_keys(),
        "records": [record.asset_entry for record in storage.get_asset_records(ASSETS)],
    }
    given["latest"] = storage.get_latest_materialization_events(ASSETS)
    for asset in ASSETS:
        name = asset.to_user_string()
        some = AssetRecordsFilter(asset_key=asset, asset_partitions=["BBB", "CCC"], after_timestamp=T0 + 5)
        given |= {
            f"{name} known": storage.has_asset_key(asset),
            f"{name} partitions": storage.get_materialized_partitions(asset),
            f"{name} partitions after 9": storage.get_materialized_partitions(asset, after_cursor=9),
            f"{name} materializations": storage.fetch_materializations(asset, limit=100),
            f"{name} some materializations": storage.fetch_materializations(some, limit=100, ascending=True),
            f"{name} observations": storage.fetch_observations(asset, limit=100),
            f"{name} tags": storage.get_event_tags_for_asset(asset),
            f"{name} filtered tags": storage.get_event_tags_for_asset(
                asset, filter_tags={"dagster/data_version": f"v{T0 + 0.2}"}
            ),
            f"{name} attempts": storage.get_latest_asset_partition_materialization_attempts_without_materializations(asset),
            f"{name} planned": storage.get_latest_planned_materialization_info(asset),
            f"{name} updated": storage.get_updated_data_version_partitions(asset, SYMBOLS, 9),
            f"{name} pages": list(pages(storage, asset)),
        }
        for kind in (DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_OBSERVATION):
            given[f"{name} {kind} ids"] = storage.get_latest_storage_id_by_partition(asset, kind)
            given[f"{name} {kind} versions"] = storage.get_latest_tags_by_partition(asset, kind, ["dagster/data_version"])
    return given


def pages(storage: SqlEventLogStorage, asset: dg.AssetKey) -> Iterator[Any]:
    """Read materializations as a sensor does, two at a time."""
    cursor: str | None = None
    while True:
        page = storage.fetch_materializations(asset, limit=2, cursor=cursor, ascending=True)
        yield page
        if not page.has_more:
            return
        cursor = page.cursor


def of_runs(storage: SqlEventLogStorage) -> dict[str, Any]:
    given: dict[str, Any] = {"maximum id": storage.get_maximum_record_id(), "all": storage.get_logs_for_all_runs_by_log_id()}
    for run_id in ("first", "second", "failed", "ui", "deleted", "unknown"):
        first_page = storage.get_records_for_run(run_id, limit=3)
        given |= {
            f"{run_id} records": storage.get_records_for_run(run_id),
            f"{run_id} first page": first_page,
            f"{run_id} second page": storage.get_records_for_run(run_id, cursor=first_page.cursor, limit=3),
            f"{run_id} offset": storage.get_records_for_run(run_id, cursor=EventLogCursor.from_offset(2).to_string()),
            f"{run_id} newest": storage.get_records_for_run(run_id, limit=2, ascending=False),
            f"{run_id} steps": storage.get_records_for_run(run_id, of_type={DagsterEventType.STEP_START}),
            f"{run_id} stats": storage.get_stats_for_run(run_id),
            f"{run_id} step stats": storage.get_step_stats_for_run(run_id),
            f"{run_id} partitions": storage.get_asset_partitions_for_run(run_id),
        }
    for kind in (DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE):
        given[f"{kind} changes"] = storage.fetch_run_status_changes(kind, limit=10)
    return given


def of_checks(storage: SqlEventLogStorage) -> dict[str, Any]:
    keys = [CHECK, dg.AssetCheckKey(RISK, "bounded"), dg.AssetCheckKey(MARKET, "unplanned"), dg.AssetCheckKey(WIPED, "gone")]
    given: dict[str, Any] = {"partition info": storage.get_asset_check_partition_info(keys)}
    for key in keys:
        history = storage.get_asset_check_execution_history(key, limit=10)
        given[f"{key} history"] = [record._replace(create_timestamp=0.0) for record in history]
        in_ccc = storage.get_asset_check_execution_history(key, limit=10, partition_filter=PartitionKeyFilter(key="CCC"))
        given[f"{key} of CCC"] = [record._replace(create_timestamp=0.0) for record in in_ccc]
    latest = storage.get_latest_asset_check_execution_by_key(keys)
    given["latest checks"] = {key: record._replace(create_timestamp=0.0) for key, record in latest.items()}
    return given


def of_tables(storage: SqlEventLogStorage) -> dict[str, Any]:
    """The rows themselves, so that also what nobody reads today is the same."""
    queries = {
        "event_logs": 'select id, run_id, dagster_event_type, timestamp, step_key, asset_key, "partition" from event_logs order by id',
        "asset_keys": "select asset_key, last_materialization, last_run_id, asset_details, wipe_timestamp, "
        "last_materialization_timestamp, cached_status_data from asset_keys order by id",
        "asset_event_tags": "select event_id, asset_key, key, value, event_timestamp from asset_event_tags order by event_id, key",
        "checks": 'select id, asset_key, check_name, "partition", run_id, execution_status, evaluation_event_storage_id, '
        "materialization_event_storage_id from asset_check_executions order by id",
    }
    with storage.index_connection() as conn:
        return {name: [tuple(row) for row in conn.execute(db.text(query))] for name, query in queries.items()}


@pytest.fixture
def _wiped_at_a_known_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagster._core.storage.event_log.sql_event_log.get_current_timestamp", lambda: T0 + 1000)


def compare(stock: SqlEventLogStorage, ours: SqlEventLogStorage) -> None:
    for _ in zip(tell(stock), tell(ours), strict=True):
        assert of_tables(ours) == of_tables(stock)
    expected, given = answers(stock), answers(ours)
    assert given.keys() == expected.keys()
    for question, answer in expected.items():
        assert given[question] == answer, question
    assert expected["keys"], "the story left nothing to compare"


@pytest.fixture
def ours(tmp_path: Path) -> BatchedSqliteEventLogStorage:
    """An empty log."""
    return BatchedSqliteEventLogStorage(str(tmp_path / "ours"))


# --- SQLite -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("_wiped_at_a_known_time")
def test_every_answer_is_the_one_of_the_stock_sqlite_storage(tmp_path: Path, ours: BatchedSqliteEventLogStorage) -> None:
    """The user interface and the sensors must not notice which storage they read."""
    compare(ConsolidatedSqliteEventLogStorage(str(tmp_path / "stock")), ours)


def test_the_versions_are_the_ones_this_was_checked_on() -> None:
    """Whoever upgrades reads resources/instance/event_log.py and resources/instance/instance_storage.py again."""
    assert (version("dagster"), version("dagster-postgres")) == ("1.13.27", "0.29.27")


def test_a_wiped_log_is_empty_and_can_be_written_again(ours: BatchedSqliteEventLogStorage) -> None:
    """`dagster run wipe` goes through the same connections."""
    store(ours, [materialized("r", T0, MARKET, "AAA")])
    ours.wipe()
    assert ours.all_asset_keys() == []
    store(ours, [materialized("r", T0, MARKET, "BBB")])
    assert ours.get_materialized_partitions(MARKET) == {"BBB"}


def test_a_batch_that_fails_leaves_nothing(ours: BatchedSqliteEventLogStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster then stores the events one by one; half a batch would be stored twice."""
    monkeypatch.setattr(ours, "store_asset_check_event", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ours.store_event_batch([materialized("r", T0, MARKET, "AAA"), checked("r", T0, passed=True)])
    assert ours.get_maximum_record_id() is None
    assert ours.all_asset_keys() == []


def test_an_instance_keeps_its_events_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The yaml names no folder, so that it is the same file on every machine and for every instance."""
    monkeypatch.setenv("QUANTUM_HOME", str(tmp_path))
    shutil.copy(PROJECT / "dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.event_log_storage.store_event(materialized("r", T0, MARKET, "AAA"))
        reference = instance.get_ref()
    with dg.DagsterInstance.from_ref(reference) as again:
        assert again.get_materialized_partitions(MARKET) == {"AAA"}
        assert again.get_runs() == []
        assert again.all_instigator_state() == []
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.db")) == [
        "history/event_log.db",
        "history/runs.db",
        "schedules/schedules.db",
    ]


def test_a_log_without_folder_and_instance_says_what_is_missing() -> None:
    """Not an attribute error from somewhere inside Dagster."""
    with pytest.raises(EventLogConfigError, match="give base_dir"):
        BatchedSqliteEventLogStorage().get_maximum_record_id()


def test_the_file_can_give_space_back_and_is_stamped_with_its_schema(ours: BatchedSqliteEventLogStorage) -> None:
    """Incremental vacuum must be chosen at creation; without the stamp a later migration would start from nothing."""
    with closing(sqlite3.connect(ours.path)) as conn:
        assert conn.execute("pragma auto_vacuum").fetchone() == (2,)
        assert conn.execute("pragma journal_mode").fetchone() == ("wal",)
        assert len(conn.execute("select version_num from alembic_version").fetchall()) == 1


def test_threads_write_at_the_same_time_without_losing_an_event(ours: BatchedSqliteEventLogStorage) -> None:
    """Webserver and daemon work with thread pools."""

    def write(name: str) -> None:
        for _ in range(20):
            store(ours, [materialized(name, T0, MARKET, symbol) for symbol in SYMBOLS])

    threads = [threading.Thread(target=write, args=(f"run{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ours.get_maximum_record_id() == 8 * 20 * 3
    assert all(len(ours.get_logs_for_run(f"run{number}")) == 60 for number in range(8))


@pytest.mark.slow
def test_a_watcher_hears_of_an_event_of_another_process(ours: BatchedSqliteEventLogStorage) -> None:
    """The run page is live; with connections kept open only the write-ahead file changes."""
    heard = threading.Event()
    ours.watch("r", None, lambda *_: heard.set())
    run_python("log.store_event(entry('STEP_START', 'r', 0.0, step='s'))", ours.path.parent)
    assert heard.wait(10)
    ours.dispose()


@pytest.mark.slow
def test_several_processes_can_create_the_log_at_once(tmp_path: Path) -> None:
    """The whole stack starts on an empty folder at the same moment."""
    line = "log.store_event(materialized('r', 0.0, MARKET, 'AAA'))"
    running = [start_python(line, tmp_path) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert BatchedSqliteEventLogStorage(str(tmp_path)).get_maximum_record_id() == 4


@pytest.mark.slow
def test_a_forked_child_writes_on_connections_of_its_own(tmp_path: Path) -> None:
    """Workers fork after the storage was used; SQLite locks and PostgreSQL sockets must not be shared."""
    lines = """
        from resources.instance.engines import DATABASES
        log.store_event(entry("STEP_START", "parent", 0.0, step="s"))
        children = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                assert not DATABASES._open, "the parent's connections"
                for turn in range(20):
                    log.store_event_batch([materialized(f"child{number}", float(turn), MARKET, symbol) for symbol in "ABC"])
                os._exit(0 if len(log.get_logs_for_run(f"child{number}")) == 60 else 1)
            children.append(child)
        for turn in range(20):
            log.store_event(entry("STEP_START", "parent", 0.0, step="s"))
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        assert log.get_maximum_record_id() == 21 + 3 * 60
    """
    run_python(lines, tmp_path)


@pytest.mark.slow
def test_a_killed_writer_leaves_all_of_a_batch_or_nothing(tmp_path: Path) -> None:
    """A cycle of which half the symbols are recorded would look like a cycle of half the symbols."""
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    line = "for turn in range(10**6): log.store_event_batch([materialized(f'{os.getpid()}-{turn}', 0.0, MARKET, str(n)) for n in range(200)])"
    for delay_sec in (0.05, 0.11, 0.17):
        writer = start_python(line, tmp_path)
        before = storage.get_maximum_record_id() or 0
        wait_for("another event", lambda before=before: (storage.get_maximum_record_id() or 0) > before)
        time.sleep(delay_sec)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(10)
    with storage.index_connection() as conn:
        sizes = [row[0] for row in conn.execute(db.text("select count(*) from event_logs group by run_id"))]
        tags = conn.execute(db.text("select count(*) from asset_event_tags")).scalar()
    assert set(sizes) == {200}
    assert tags == sum(sizes)
    record = storage.get_asset_records([MARKET])[0].asset_entry.last_materialization_record
    assert record is not None
    assert record.storage_id == storage.get_maximum_record_id()


def start_python(lines: str, folder: Path) -> subprocess.Popen[bytes]:
    head = (
        "import os, sys\nfrom resources.instance.event_log import BatchedSqliteEventLogStorage\n"
        "from tests.instance.stored_events import *\nlog = BatchedSqliteEventLogStorage(sys.argv[1])\n"
    )
    return subprocess.Popen([sys.executable, "-c", head + textwrap.dedent(lines), str(folder)], cwd=PROJECT)


def run_python(lines: str, folder: Path) -> None:
    assert start_python(lines, folder).wait(60) == 0


# --- PostgreSQL -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("_wiped_at_a_known_time")
def test_every_answer_is_the_one_of_the_stock_postgresql_storage(postgres_url: Callable[[], str]) -> None:
    """The same contract on the database for several machines."""
    compare(PostgresEventLogStorage(postgres_url()), BatchedPostgresEventLogStorage(postgres_url()))


@pytest.mark.slow
def test_an_instance_on_postgresql_is_configured_by_one_variable(
    tmp_path: Path, postgres_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file in deploy/ is used as it is."""
    monkeypatch.setenv("QUANTUM_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_url().replace("+psycopg2", ""))  # as everybody writes it
    shutil.copy(PROJECT / "deploy" / "postgres" / "dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.event_log_storage.store_event_batch([materialized("r", T0, MARKET, symbol) for symbol in SYMBOLS])
        reference = instance.get_ref()
    with dg.DagsterInstance.from_ref(reference) as again:
        again.optimize_for_webserver(statement_timeout=5000, pool_recycle=3600, max_overflow=4)
        assert again.get_materialized_partitions(MARKET) == set(SYMBOLS)
        assert again.get_runs() == []
        assert again.all_instigator_state() == []
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.slow
def test_ids_become_visible_in_their_order_on_postgresql(postgres_url: Callable[[], str]) -> None:
    """A sensor that remembers the highest id it has seen must not miss the events of a slower writer."""
    storage = BatchedPostgresEventLogStorage(postgres_url())
    missed: list[int] = []
    done = threading.Event()

    def write(name: str) -> None:
        for turn in range(30):
            storage.store_event_batch(
                [materialized(name, T0 + turn, asset, symbol) for symbol in SYMBOLS for asset in (RISK, MARKET)]
            )

    def read() -> None:
        seen: set[int] = set()
        while not done.is_set():
            with storage.index_connection() as conn:
                ids = set(conn.execute(db.text("select id from event_logs")).scalars())
            missed.extend(new for new in ids - seen if seen and new < max(seen))
            seen |= ids

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(f"run{number}",)) for number in range(4)]
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert missed == []
    assert storage.get_maximum_record_id() == 4 * 30 * 6


@pytest.mark.slow
def test_a_kept_connection_to_a_restarted_postgresql_is_replaced(postgres_url: Callable[[], str]) -> None:
    """The loop goes on after the database was restarted."""
    storage = BatchedPostgresEventLogStorage(postgres_url())
    storage.store_event(entry("STEP_START", "r", T0, step="s"))
    with storage.index_connection() as conn:
        conn.execute(
            db.text(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()"
            )
        )
    storage.store_event(entry("STEP_START", "r", T0, step="t"))
    assert len(storage.get_logs_for_run("r")) == 2


@pytest.mark.slow
def test_a_host_that_is_cut_off_within_a_transaction_stops_no_other_host(postgres_url: Callable[[], str]) -> None:
    """It held the lock in which all hosts queue: for two hours nothing of any symbol was published."""
    url = postgres_url()
    storage = BatchedPostgresEventLogStorage(url)
    engine = db.create_engine(url, isolation_level="AUTOCOMMIT")

    def waits() -> bool:
        with engine.connect() as conn:
            query = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            return bool(conn.execute(db.text(query)).scalar())

    def is_cut_off_in_the_middle() -> None:
        with storage._transaction([materialized("cut", T0, RISK, "BBB")]):
            other.start()
            wait_for("the other host to queue", waits)
            wait_for("the other host's events", lambda: not other.is_alive())

    other = threading.Thread(target=storage.store_event_batch, args=([materialized("other", T0, RISK, "AAA")],))
    with pytest.raises(db.exc.OperationalError):
        is_cut_off_in_the_middle()
    assert [event.run_id for event in storage.get_logs_for_run("other")] == ["other"]
