"""When evidence is measured: once a week, on a worker, beside the cycle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from quantum_assets.recorded.evidence import DAYS_MIN, EVIDENCE, judged_days
from quantum_core.settings import Settings
from resources.inputs.foreign import number_or_none
from resources.instance.dagster_internals import AssetJob
from resources.recorder.reading import archive_of
from resources.store.redis_store import RedisStore
from sensors.history import EVERY_SEC, EVIDENCE_JOB_NAME, why_wait

WEEK_SEC = timedelta(days=7).total_seconds()
AGAIN_SEC = timedelta(days=1).total_seconds()  # after a request that came to nothing


@dataclass(frozen=True)
class Seen:
    """What a tick saw.

    Attributes
    ----------
    days
        Compacted days that can be judged.
    since_measured, since_requested
        Seconds since the last report, and since one was requested; ``None`` before the first time.
    """

    days: int
    since_measured: float | None
    since_requested: float | None


def decide_evidence(seen: Seen) -> str:
    """Say why nothing is measured now; empty when it is. A clock that was set back makes neither time count."""
    if not seen.days:
        return f"fewer than {DAYS_MIN} recorded days have been compacted"
    if seen.since_measured is not None and 0 <= seen.since_measured < WEEK_SEC:
        return f"measured {seen.since_measured / 86_400:.1f} days ago; once a week"
    if seen.since_requested is not None and 0 <= seen.since_requested < AGAIN_SEC:
        return "the last request came to nothing; once a day until one does"
    return ""


def evidence_job(settings: Settings) -> AssetJob:
    """Build the job that measures."""
    return dg.define_asset_job(
        EVIDENCE_JOB_NAME,
        selection=dg.AssetSelection.assets(settings.asset_path(EVIDENCE)).without_checks(),
        description="Measure what the numbers of the profile in force were worth in the last recorded days.",
    )


def evidence_sensor(store: RedisStore) -> dg.SensorDefinition:
    """Build the sensor that requests it."""
    archive, key = archive_of(store.settings), dg.AssetKey(store.settings.asset_path(EVIDENCE))

    @dg.sensor(
        name=EVIDENCE,
        job_name=EVIDENCE_JOB_NAME,
        minimum_interval_seconds=EVERY_SEC,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Once a week, when enough is recorded: measure what the numbers of the profile in force were worth.",
    )
    def evidence(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now, last = store.clock().timestamp(), context.instance.get_latest_materialization_event(key)
        moments = (last.timestamp if last is not None else None, number_or_none(context.cursor or ""))
        ages = [None if moment is None else now - moment for moment in moments]
        reason = decide_evidence(Seen(len(judged_days(archive)), *ages)) or why_wait(store, context.instance, EVIDENCE_JOB_NAME)
        if reason:
            return dg.SensorResult(skip_reason=reason, cursor=context.cursor)
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=None)], cursor=repr(now))

    return evidence
