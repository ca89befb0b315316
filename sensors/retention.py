"""When old runs are deleted: every ten minutes, on a worker, beside the cycle."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from quantum_core.display import duration_text
from resources.instance.launcher import has_warm_workers
from resources.instance.retention import prune, prune_to_fit
from resources.store.redis_store import RedisStore
from sensors.overdue import end_untaken, unfinished_runs
from sensors.proofs import PROOFS_JOB_NAME

RETENTION_JOB_NAME = "retention"
EVERY_SEC = 600
STARTED = "started"  # cursor of a sensor that has ticked before
PROOFS_KEPT = timedelta(hours=3)  # a run of the pack is 0.6 MB, a day of them as much as the whole loop; the newest results stay


@dg.op
def delete_old_runs(context: dg.OpExecutionContext, store: dg.ResourceParam[RedisStore]) -> None:
    """Delete runs older than RUN_RETENTION_HOURS, or than fit into RUN_RETENTION_MAX_GB; what is the latest of its kind stays."""
    wanted = timedelta(hours=store.settings.run_retention_hours)
    proofs_kept = min(wanted, PROOFS_KEPT)
    prune(context.instance, older_than=store.clock() - proofs_kept, job_name=PROOFS_JOB_NAME)
    limit_gb = store.settings.run_retention_max_gb
    kept, result = prune_to_fit(context.instance, now=store.clock(), keep=wanted, max_bytes=limit_gb * 1e9)
    if kept < wanted:
        context.log.warning(
            f"the event log has reached RUN_RETENTION_MAX_GB={limit_gb}: "
            f"runs are kept for {duration_text(kept.total_seconds())}, not {duration_text(wanted.total_seconds())}"
        )
    context.log.info(f"runs of the last {duration_text(kept.total_seconds())} are kept; {result.words}")


@dg.job(name=RETENTION_JOB_NAME, description="Keep the instance's disk use bounded.")
def retention_job() -> None:
    """Delete what is old."""
    delete_old_runs()


@dg.sensor(
    name="retention",
    job_name=RETENTION_JOB_NAME,
    minimum_interval_seconds=EVERY_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Every ten minutes: delete runs older than RUN_RETENTION_HOURS, and give up runs that nobody has begun.",
)
def retention_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request a run, unless one is at it; without warm workers the first one leaves the start to the first cycle."""
    end_untaken(context.instance, datetime.now(UTC), context.log)
    if unfinished_runs(context.instance, [RETENTION_JOB_NAME]):
        return dg.SensorResult(skip_reason="the previous one is still running", cursor=context.cursor)
    if context.cursor is None and not has_warm_workers(context.instance):
        return dg.SensorResult(skip_reason="ten minutes after the start", cursor=STARTED)
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=None)], cursor=context.cursor or STARTED)
