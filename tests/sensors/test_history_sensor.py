"""One day after the other is requested, when it is over, where there is an archive."""

from datetime import date, timedelta

import dagster as dg
import polars as pl

from definitions import assemble
from resources.recorder.archive import Position
from resources.recorder.reading import archive_of
from sensors.history import COMPACTION_JOB_NAME
from tests.world import QUIET

FIRST = date(2026, 1, 22)


def tick(store, instance) -> dg.SensorResult:
    definitions = assemble(store)
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    return definitions.resolve_sensor_def("history")(context)


def record(store, *days: date) -> None:
    archive = archive_of(store.settings)
    for day in days:
        rows = pl.DataFrame({"symbol": ["BTCUSDT"], "seq": [1]})
        archive.write({"market_state": rows}, Position(flush=archive.position().flush + 1, day=str(day)))


def requested(result: dg.SensorResult) -> list[str]:
    return [request.partition_key for request in result.run_requests or ()]


def test_without_an_archive_nothing_is_requested(store, instance) -> None:
    assert "nothing is recorded" in tick(store, instance).skip_reason.skip_message


def test_the_open_day_is_left_alone(store, instance) -> None:
    record(store, FIRST)
    assert "every day that is over" in tick(store, instance).skip_reason.skip_message


def test_days_are_requested_in_order_one_at_a_time(store, instance) -> None:
    """Two workers that compact two days at once would make two chains."""
    record(store, *(FIRST + timedelta(days=number) for number in range(3)))
    store.clock.advance(3 * 86_400)
    assert requested(tick(store, instance)) == ["2026-01-22"]
    job = assemble(store).resolve_job_def(COMPACTION_JOB_NAME)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert f"run {run.run_id} is still compacting" in tick(store, instance).skip_reason.skip_message
    instance.report_run_failed(run)
    assert requested(tick(store, instance)) == ["2026-01-22"]
    for day in ("2026-01-22", "2026-01-23"):
        assert requested(tick(store, instance)) == [day]
        assert job.execute_in_process(instance=instance, partition_key=day, run_config=QUIET).success
    assert requested(tick(store, instance)) == []


def test_a_damaged_position_is_a_reason_not_a_crash(store, instance) -> None:
    record(store, FIRST, FIRST + timedelta(days=1))
    (archive_of(store.settings).root / "position.json").write_text("{")
    assert "is damaged" in tick(store, instance).skip_reason.skip_message
