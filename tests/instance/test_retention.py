"""Old runs go, what the user interface needs of them stays, and the file stops growing."""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.events import DagsterEventType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData, TickData, TickStatus

from resources.instance import retention
from resources.instance.event_log import BatchedSqliteEventLogStorage
from resources.instance.retention import LEAST_KEPT, PruneResult, RetentionError, prune, prune_to_fit
from tests.instance.stored_events import (
    CHECK,
    MARKET,
    RISK,
    SYMBOLS,
    check_planned,
    checked,
    cycle,
    materialized,
    observed,
    planned,
)

NOW = datetime(2026, 1, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The product's instance in a folder of its own."""
    monkeypatch.setenv("QUANTUM_HOME", str(tmp_path))
    shutil.copy(PROJECT / "dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def run(
    instance: dg.DagsterInstance, name: str, at: datetime, symbols: tuple[str, ...] = SYMBOLS, *, finishes: bool = True
) -> None:
    """Let a run of the loop have happened."""
    instance._run_storage.add_run(dg.DagsterRun("cycle", run_id=name, status=dg.DagsterRunStatus.STARTED))  # names, not UUIDs
    batches = cycle(name, at.timestamp(), symbols=symbols)
    for batch in batches if finishes else batches[:-1]:
        if len(batch) == 1:
            instance.handle_new_event(batch[0])  # also moves the run's status, at the event's time
        else:
            instance.event_log_storage.store_event_batch(batch)
    folder = Path(instance.root_directory) / "storage" / name / "compute_logs"
    folder.mkdir(parents=True)
    (folder / "step.out").write_text("x")


def pruned(instance: dg.DagsterInstance, now: datetime = NOW, **options: int) -> PruneResult:
    return prune(instance, older_than=now - DAY, pause_sec=0, **options)


def run_ids(instance: dg.DagsterInstance) -> set[str]:
    return {found.run_id for found in instance.get_runs()}


def test_an_old_run_is_deleted_with_all_it_left(instance: dg.DagsterInstance) -> None:
    """Events, tags, record and log folder: nothing may grow for ever."""
    run(instance, "old", NOW - 2 * DAY)
    run(instance, "new", NOW)
    result = pruned(instance)
    assert (result.runs, result.thinned_runs, result.complete) == (1, 0, True)
    assert run_ids(instance) == {"new"}
    assert instance.all_logs("old") == []
    assert len(instance.all_logs("new")) == 15
    assert [path.name for path in (Path(instance.root_directory) / "storage").iterdir()] == ["new"]
    with closing(sqlite3.connect(log_of(instance).path)) as conn:
        assert conn.execute("select count(*) from asset_event_tags").fetchone() == (6,)


def test_each_partition_keeps_its_latest_materialization_whatever_its_age(instance: dg.DagsterInstance) -> None:
    """A symbol that publishes rarely must not look as if it had never been published."""
    run(instance, "older", NOW - 3 * DAY)
    run(instance, "old", NOW - 2 * DAY, ("AAA", "BBB"))
    run(instance, "new", NOW, ("AAA",))
    before = seen(instance)
    result = pruned(instance)
    assert (result.runs, result.thinned_runs) == (0, 2)
    assert seen(instance) == before
    assert run_ids(instance) == {"older", "old", "new"}, "the link from a materialization to its run must not be dead"
    assert len(instance.fetch_materializations(MARKET, limit=100).records) == 3
    assert {event.dagster_event_type for event in instance.all_logs("old")} == {
        DagsterEventType.RUN_STARTING,
        DagsterEventType.RUN_START,
        DagsterEventType.RUN_SUCCESS,
        DagsterEventType.ASSET_MATERIALIZATION,
    }


def seen(instance: dg.DagsterInstance) -> dict[str, object]:
    """What the user interface shows of the assets' present state."""
    log = instance.event_log_storage
    return {
        "latest": {asset: instance.get_latest_materialization_event(asset) for asset in (MARKET, RISK)},
        "ids": log.get_latest_storage_id_by_partition(MARKET, DagsterEventType.ASSET_MATERIALIZATION),
        "versions": log.get_latest_tags_by_partition(MARKET, DagsterEventType.ASSET_MATERIALIZATION, ["dagster/data_version"]),
        "observations": log.get_latest_storage_id_by_partition(MARKET, DagsterEventType.ASSET_OBSERVATION),
        "partitions": instance.get_materialized_partitions(MARKET),
        "records": instance.get_asset_records([MARKET, RISK]),
        "checks": log.get_latest_asset_check_execution_by_key([CHECK]),
        "check partitions": log.get_asset_check_partition_info([CHECK]),
        "check history": log.get_asset_check_execution_history(CHECK, limit=1),
    }


def test_an_asset_without_partitions_keeps_its_latest_materialization(instance: dg.DagsterInstance) -> None:
    """Null is not equal to null in SQL; these are looked up in another way."""
    run(instance, "older", NOW - 3 * DAY, ())
    run(instance, "old", NOW - 2 * DAY, ())
    instance.event_log_storage.store_event(materialized("older", (NOW - 3 * DAY).timestamp(), RISK, None))
    instance.event_log_storage.store_event(materialized("old", (NOW - 2 * DAY).timestamp(), RISK, None))
    instance.event_log_storage.store_event(materialized("old", (NOW - 2 * DAY).timestamp() + 1, RISK, None))
    run(instance, "new", NOW, ("AAA",))
    pruned(instance)
    latest = instance.fetch_materializations(
        dg.AssetRecordsFilter(RISK, before_timestamp=(NOW - DAY).timestamp()), limit=9
    ).records
    assert [record.timestamp for record in latest] == [(NOW - 2 * DAY).timestamp() + 1]


def test_the_latest_results_of_a_check_stay(instance: dg.DagsterInstance) -> None:
    """A check that is only planned has a last completed result besides, and the badge shows that one."""
    for name, days in (("oldest", 4), ("older", 3), ("old", 2)):
        at = NOW - days * DAY
        run(instance, name, at, ())
        events = [check_planned(name, at.timestamp())] + [checked(name, at.timestamp() + 1, passed=True)] * (name != "old")
        for event in events:
            instance.event_log_storage.store_event(event)
    run(instance, "new", NOW)
    before = seen(instance)
    result = pruned(instance)
    assert (result.runs, result.thinned_runs, result.check_results) == (1, 2, 1)
    assert seen(instance) == before
    history = instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=9)
    assert [record.run_id for record in history] == ["old", "older"]
    assert DagsterEventType.ASSET_CHECK_EVALUATION in {event.dagster_event_type for event in instance.all_logs("older")}


def test_an_announcement_that_was_never_kept_is_remembered(instance: dg.DagsterInstance) -> None:
    """The partition stays shown as failed until it is materialized."""
    run(instance, "old", NOW - 2 * DAY, ("AAA",))
    for symbol in ("AAA", "BBB"):
        instance.event_log_storage.store_event(planned("old", (NOW - 2 * DAY).timestamp(), MARKET, symbol))
    run(instance, "new", NOW, ("AAA", "CCC"))
    pruned(instance)
    attempts = instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(MARKET)
    assert {symbol: run_id for symbol, (run_id, _) in attempts.items()} == {"BBB": "old"}


def test_an_unfinished_run_is_left_alone_however_old(instance: dg.DagsterInstance) -> None:
    """Whether it is stuck is for the overdue sensor to decide."""
    run(instance, "stuck", NOW - 9 * DAY, finishes=False)
    run(instance, "new", NOW)
    assert pruned(instance).runs == 0
    assert len(instance.all_logs("stuck")) == 14


def test_events_of_no_run_are_pruned_too(instance: dg.DagsterInstance) -> None:
    """Reported materializations would grow for ever otherwise."""
    for days in (5, 4, 3, 0):
        instance.event_log_storage.store_event(observed("", (NOW - days * DAY).timestamp(), MARKET, "AAA"))
    instance.event_log_storage.store_event(observed("", (NOW - 3 * DAY).timestamp(), MARKET, "BBB"))
    before = seen(instance)
    assert pruned(instance).events == 3
    assert seen(instance) == before


def test_pruning_twice_changes_nothing_more(instance: dg.DagsterInstance) -> None:
    """It runs again and again, over runs it has thinned before."""
    run(instance, "old", NOW - 2 * DAY)
    run(instance, "new", NOW, ("AAA",))
    pruned(instance)
    before = seen(instance)
    again = pruned(instance, batch_runs=1)
    assert (again.runs, again.thinned_runs, again.events) == (0, 1, 0)
    assert seen(instance) == before


@pytest.mark.slow
@pytest.mark.parametrize("step", ["delete_event_rows", "events_of_run", "delete_events"])
def test_an_interruption_anywhere_is_made_good_by_the_next_call(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The process may be killed between any two transactions."""
    for number in range(6):
        run(instance, f"old{number}", NOW - 2 * DAY + timedelta(seconds=10 * number))
    run(instance, "new", NOW)
    log, calls = instance.event_log_storage, iter(range(100))
    real: Callable[..., object] = getattr(log, step)

    def interrupted(*args: object, **kwargs: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(log, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            pruned(instance)
    pruned(instance)
    assert run_ids(instance) == {"new"}
    with closing(sqlite3.connect(log_of(instance).path)) as conn:
        assert {row[0] for row in conn.execute("select distinct run_id from event_logs")} == {"new"}


def test_old_ticks_are_purged(instance: dg.DagsterInstance) -> None:
    """A tick every ten seconds is eight thousand a day."""
    sensor = instance.add_instigator_state(sensor_state())
    for at in (NOW - 2 * DAY, NOW):
        instance.create_tick(
            TickData(
                sensor.instigator_origin_id,
                "cycle",
                sensor.instigator_type,
                TickStatus.SUCCESS,
                at.timestamp(),
                run_ids=[],
                selector_id=sensor.selector_id,
            )
        )
    pruned(instance)
    left = instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id)
    assert [tick.timestamp for tick in left] == [NOW.timestamp()]


def sensor_state() -> InstigatorState:
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="definitions"), location_name="quantum")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "cycle")
    return InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())


def test_a_call_can_be_bounded(instance: dg.DagsterInstance) -> None:
    """The first call after a long time without would take minutes."""
    for number in range(5):
        run(instance, f"old{number}", NOW - 2 * DAY + timedelta(seconds=10 * number))
    run(instance, "new", NOW)
    first = pruned(instance, batch_runs=2, max_runs=2)
    assert (first.runs, first.complete) == (2, False)
    assert run_ids(instance) == {"old2", "old3", "old4", "new"}, "oldest first"


@pytest.mark.slow
def test_the_loop_goes_on_while_it_is_pruned(instance: dg.DagsterInstance) -> None:
    """Neither writer may fail, and the loop's events are all there."""
    for number in range(60):
        run(instance, f"old{number}", NOW - 2 * DAY + timedelta(seconds=10 * number))
    stop, stored = threading.Event(), []

    def loop() -> None:
        while not stop.is_set():
            name = f"live{len(stored)}"
            instance.event_log_storage.store_event_batch(
                [materialized(name, NOW.timestamp(), MARKET, symbol) for symbol in SYMBOLS]
            )
            stored.append(name)

    live = threading.Thread(target=loop)
    live.start()
    try:
        result = pruned(instance)
    finally:  # else the thread outlives the failure, and pytest never ends
        stop.set()
        live.join()
    assert result.runs + result.thinned_runs == 60
    assert stored
    assert all(len(instance.all_logs(name)) == 3 for name in stored)


@pytest.mark.slow
def test_the_file_stops_growing_and_gives_space_back(instance: dg.DagsterInstance) -> None:
    """Three days of a loop that makes a run every half hour, pruned every six hours: flat after the first day."""
    sizes: list[int] = []
    start, empty = NOW - 3 * DAY, size_of(instance)
    for number in range(144):
        now = start + timedelta(minutes=30 * number)
        run(instance, f"run{number:03}", now)
        if number % 12 == 11:
            pruned(instance, now)
            sizes.append(size_of(instance) - empty)
    first_day, last_day = max(sizes[3:6]), max(sizes[-4:])
    assert last_day <= first_day * 1.1, sizes
    assert len(run_ids(instance)) <= 49 + 12
    result = pruned(instance, NOW + 5 * DAY)
    assert result.freed_bytes > 0
    assert size_of(instance) - empty < last_day / 3
    assert instance.get_materialized_partitions(MARKET) == set(SYMBOLS)


def size_of(instance: dg.DagsterInstance) -> int:
    return sum(path.stat().st_size for path in Path(instance.root_directory).rglob("event_log.db*"))


def log_of(instance: dg.DagsterInstance) -> BatchedSqliteEventLogStorage:
    log = instance.event_log_storage
    assert isinstance(log, BatchedSqliteEventLogStorage)
    return log


@pytest.mark.slow
def test_a_log_too_large_keeps_less(instance: dg.DagsterInstance) -> None:
    """Hundreds of symbols write 90 GB a day: the disk must not fill up because the day is not over."""
    for number in range(48):
        run(instance, f"run{number:02}", NOW - timedelta(minutes=30 * (48 - number)))
    half = log_of(instance).size_bytes() / 2
    kept, _ = prune_to_fit(instance, now=NOW, keep=DAY, max_bytes=half)
    assert log_of(instance).size_bytes() <= half
    assert LEAST_KEPT < kept < DAY
    assert "run47" in run_ids(instance)
    assert prune_to_fit(instance, now=NOW, keep=DAY, max_bytes=0)[0] == LEAST_KEPT
    assert instance.get_materialized_partitions(MARKET) == set(SYMBOLS)


def test_space_is_not_taken_back_while_somebody_holds_the_lock(instance: dg.DagsterInstance) -> None:
    """Maintenance waits for the loop, never the loop for maintenance."""
    run(instance, "old", NOW - 2 * DAY)
    with closing(sqlite3.connect(log_of(instance).path, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        assert log_of(instance).give_back_space(pages=10) == 0
        conn.execute("ROLLBACK")


def test_a_foreign_event_log_is_refused_by_name() -> None:
    """Nothing may be deleted from a storage that cannot say what is the latest."""
    with pytest.raises(RetentionError, match="object cannot be pruned"):
        prune(SimpleNamespace(event_log_storage=object()), older_than=NOW)


@pytest.mark.slow
def test_a_stock_event_log_loses_old_runs_and_keeps_those_with_a_latest_of_their_kind() -> None:
    """Plain `dagster dev` has no event log of ours, and its disk fills up all the same."""
    with dg.instance_for_test() as stock:
        run(stock, "first", NOW - 3 * DAY)
        run(stock, "second", NOW - 2 * DAY, symbols=SYMBOLS[:1])
        run(stock, "unfinished", NOW - 2 * DAY, symbols=SYMBOLS[:1], finishes=False)
        run(stock, "third", NOW - 2 * DAY + timedelta(hours=1), symbols=SYMBOLS[:1])
        result = pruned(stock)
        assert run_ids(stock) == {"first", "unfinished", "third"}  # the first one has the latest of the other symbols
        assert (result.runs, result.complete) == (1, True)
        assert stock.get_materialized_partitions(MARKET) == set(SYMBOLS)
        left = {path.name for path in Path(stock.root_directory).rglob("second*")}
        assert left == set()
        kept, _ = prune_to_fit(stock, now=NOW, keep=DAY, max_bytes=0)
        assert kept == DAY  # nobody knows how large it is


def test_only_finished_runs_are_looked_for() -> None:
    """The three states a run never leaves."""
    assert all(dg.DagsterRun("job", run_id="r", status=status).is_finished for status in retention.FINISHED)


@pytest.mark.slow
def test_the_same_holds_on_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: Callable[[], str]) -> None:
    """Other indexes, other types, other deletes."""
    monkeypatch.setenv("QUANTUM_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_url())
    shutil.copy(PROJECT / "deploy" / "postgres" / "dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for name, days, symbols in (
            ("oldest", 4, SYMBOLS),
            ("older", 3, SYMBOLS),
            ("old", 2, ("AAA", "BBB")),
            ("new", 0, ("AAA",)),
        ):
            at = NOW - days * DAY
            run(instance, name, at, symbols)
            instance.event_log_storage.store_event(check_planned(name, at.timestamp()))
            instance.event_log_storage.store_event(checked(name, at.timestamp() + 1, passed=True))
        before = seen(instance)
        result = pruned(instance)
        assert (result.runs, result.thinned_runs, result.check_results) == (1, 2, 3)
        assert seen(instance) == before
        assert run_ids(instance) == {"older", "old", "new"}
        assert pruned(instance).events == 0


def test_runs_of_one_job_can_be_kept_for_less_long(instance: dg.DagsterInstance) -> None:
    """A day of proof runs takes as much disk as the loop itself; its own runs stay."""
    run(instance, "old", NOW - 2 * DAY)
    assert prune(instance, older_than=NOW - DAY, job_name="another", pause_sec=0).runs == 0
    assert "old" in run_ids(instance)


def test_a_new_event_log_has_large_pages_and_gives_space_back(instance: dg.DagsterInstance) -> None:
    """Both can only be chosen when the file is made."""
    with closing(sqlite3.connect(log_of(instance).path)) as conn:
        assert conn.execute("PRAGMA page_size").fetchone()[0] == 16384
        assert conn.execute("PRAGMA auto_vacuum").fetchone()[0] == 2  # incremental
        assert conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
