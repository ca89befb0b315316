"""Evidence is asked for once a week, when there are days to measure, and never beside the compaction of one."""

from datetime import timedelta

import dagster as dg
import pytest

from definitions import assemble
from resources.recorder.archive import Position
from resources.recorder.reading import archive_of
from sensors.evidence import AGAIN_SEC, WEEK_SEC, Seen, decide_evidence
from sensors.history import COMPACTION_JOB_NAME, EVIDENCE_JOB_NAME
from tests.assets.test_evidence_asset import FIRST, KEY, record


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Seen(0, None, None), "fewer than 2 recorded days"),
        (Seen(2, None, None), ""),
        (Seen(7, WEEK_SEC - 1, WEEK_SEC), "measured 7.0 days ago"),
        (Seen(7, WEEK_SEC, WEEK_SEC + 60), ""),
        (Seen(7, None, AGAIN_SEC - 1), "came to nothing"),
        (Seen(7, WEEK_SEC + 60, 60), "came to nothing"),
        (Seen(7, None, AGAIN_SEC), ""),
        (Seen(7, -5.0, -60.0), ""),
    ],
)
def test_it_is_due_once_a_week_and_after_a_failure_once_a_day(seen: Seen, reason: str) -> None:
    """A run that fails within a minute must not be asked for every ten."""
    said = decide_evidence(seen)
    assert (reason in said) if reason else not said


def tick(store, instance, cursor: str | None = None, sensor: str = "evidence") -> dg.SensorResult:
    definitions = assemble(store)
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    return definitions.resolve_sensor_def(sensor)(context)


def test_one_run_is_requested_and_the_next_a_week_after_its_report(store, instance) -> None:
    assert "fewer than 2 recorded days" in tick(store, instance).skip_reason.skip_message
    record(store, 2, minutes=3)
    first = tick(store, instance)
    assert len(first.run_requests) == 1
    assert "came to nothing" in tick(store, instance, first.cursor).skip_reason.skip_message
    instance.report_runless_asset_event(dg.AssetMaterialization(KEY))
    measured_at = instance.get_latest_materialization_event(KEY).timestamp
    store.clock.advance(measured_at - store.clock().timestamp() + 3 * 86_400)
    later = tick(store, instance, first.cursor)
    assert "measured 3.0 days ago" in later.skip_reason.skip_message
    assert later.cursor == first.cursor
    store.clock.advance(4 * 86_400 + 1)
    assert len(tick(store, instance, later.cursor).run_requests) == 1


@pytest.mark.parametrize(("job", "said"), [(EVIDENCE_JOB_NAME, "measuring"), (COMPACTION_JOB_NAME, "compacting")])
def test_of_the_two_that_may_take_long_one_runs_at_a_time(store, instance, job, said) -> None:
    """The other spare worker judges proofs and answers clicks."""
    record(store, 2, minutes=3)
    archive = archive_of(store.settings)
    archive.write({}, Position(flush=9, day=str(FIRST + timedelta(days=3))))  # the day before is over, and to be compacted
    run = instance.create_run_for_job(assemble(store).resolve_job_def(job), status=dg.DagsterRunStatus.STARTED)
    for sensor in ("evidence", "history"):
        assert tick(store, instance, sensor=sensor).skip_reason.skip_message == f"run {run.run_id} is still {said}"
    instance.report_run_failed(run)
    for sensor in ("evidence", "history"):
        assert len(tick(store, instance, sensor=sensor).run_requests) == 1
