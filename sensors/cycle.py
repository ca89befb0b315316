"""When the assets are computed: one run per cycle, for all symbols, and none while the previous one is still running."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from quantum_assets.symbols import range_tags
from resources.dagster_internals import DEFER_ASSET_EVENTS_TAG
from resources.io_manager import CYCLE_ID_TAG, CYCLE_TAG
from resources.settings import Settings

CYCLE_JOB_NAME = "cycle"
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)

CYCLE_JOB = dg.define_asset_job(
    CYCLE_JOB_NAME,
    selection=dg.AssetSelection.groups("market", "proposals", "capital", "governor"),
    description="One evaluation of every asset for every symbol.",
)


@dataclass(frozen=True)
class Request:
    """Start a cycle."""

    cycle_id: str


@dataclass(frozen=True)
class Skip:
    """Start nothing, and why."""

    reason: str


def cycle_tags(settings: Settings, cycle_id: str) -> dict[str, str]:
    """Give the tags of a run of the loop: all symbols, our own asset events, one id for everything it writes."""
    return {
        **range_tags(settings.symbols),
        DEFER_ASSET_EVENTS_TAG: "true",
        CYCLE_TAG: "true",
        CYCLE_ID_TAG: cycle_id,
    }


def decide_cycle(*, now_epoch: float, unfinished_run: str | None) -> Request | Skip:
    """Decide whether a cycle is due.

    Parameters
    ----------
    now_epoch
        Time of the tick, epoch seconds.
    unfinished_run
        Id of a cycle that has not finished.
    """
    if unfinished_run is not None:
        return Skip(f"late: the previous cycle (run {unfinished_run}) is still running")
    return Request(cycle_id=f"c{int(now_epoch)}")


def cycle_sensor(settings: Settings, clock: Callable[[], datetime]) -> dg.SensorDefinition:
    """Build the sensor that requests a cycle every PUBLISH_INTERVAL_SEC."""

    @dg.sensor(
        name="cycle",
        job=CYCLE_JOB,
        minimum_interval_seconds=settings.publish_interval_sec,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {settings.publish_interval_sec} s: one run for all symbols, unless the previous one still runs.",
    )
    def cycle(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        running = context.instance.get_runs(dg.RunsFilter(job_name=CYCLE_JOB_NAME, statuses=list(UNFINISHED)), limit=1)
        decision = decide_cycle(
            now_epoch=clock().timestamp(),
            unfinished_run=running[0].run_id if running else None,
        )
        if isinstance(decision, Skip):
            return dg.SkipReason(decision.reason)
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=None, tags=cycle_tags(settings, decision.cycle_id))])

    return cycle
