"""When a recorded day is compacted: once it is over, on a worker, beside the cycle."""

import dagster as dg
import redis

from quantum_assets.checks.proofs.history import PROOFS
from quantum_assets.recorded.history import HISTORY
from quantum_core.settings import Settings
from resources.instance.dagster_internals import AssetJob, storage_id
from resources.instance.launcher import has_warm_workers
from resources.recorder.archive import compactable
from resources.recorder.reading import archive_of
from resources.store.lease import other_holder, standing_by_for
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from sensors.overdue import goes_first, unfinished_runs

COMPACTION_JOB_NAME = "compaction"  # not "history": Dagster gives the step of the asset that name
EVIDENCE_JOB_NAME = "measurement"  # of sensors/evidence.py: one of the two at a time, so that a spare worker is left
STILL = {COMPACTION_JOB_NAME: "compacting", EVIDENCE_JOB_NAME: "measuring"}
EVERY_SEC = 600


def compaction_job(settings: Settings) -> AssetJob:
    """Build the job that compacts a day, and verifies the archive with it."""
    path = settings.asset_path(HISTORY)
    proofs = [dg.AssetCheckKey(dg.AssetKey(path), proof.name) for proof in PROOFS]
    return dg.define_asset_job(
        COMPACTION_JOB_NAME,
        selection=dg.AssetSelection.assets(path).without_checks() | dg.AssetSelection.checks(*proofs),
        description="Compact one recorded day, and verify the archive.",
    )


def why_wait(store: RedisStore, instance: dg.DagsterInstance, job_name: str) -> str:
    """Say why a run that no cycle waits for is not requested now; empty when it is."""
    running = [record.dagster_run for record in unfinished_runs(instance, list(STILL))]
    if running:
        return f"run {running[0].run_id} is still {STILL[running[0].job_name]}"
    try:
        if holder := other_holder(store, storage_id(instance), renew=False):
            return standing_by_for(holder, "runs the loop")
    except (RedisUnavailableError, redis.ResponseError) as error:
        return f"read failed: {error}"
    return "" if has_warm_workers(instance) else goes_first(instance, job_name, store.clock())


def history_sensor(store: RedisStore) -> dg.SensorDefinition:
    """Build the sensor that requests the compaction of days that are over, one after the other."""
    archive = archive_of(store.settings)

    @dg.sensor(
        name=HISTORY,
        job_name=COMPACTION_JOB_NAME,
        minimum_interval_seconds=EVERY_SEC,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Every ten minutes: compact the oldest recorded day that is over and not compacted yet. "
        "One at a time and in order, for each manifest names the one before it.",
    )
    def history(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if not archive.days():
            return dg.SensorResult(skip_reason=f"nothing is recorded in {archive.root}")
        try:
            due = compactable(archive)
        except ValueError as error:  # the archive's position is damaged
            return dg.SensorResult(skip_reason=str(error))
        if not due:
            return dg.SensorResult(skip_reason="every day that is over has been compacted")
        if reason := why_wait(store, context.instance, COMPACTION_JOB_NAME):
            return dg.SensorResult(skip_reason=reason)
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=None, partition_key=str(due[0]))])

    return history
