"""When plans are decided: as soon as one waits, without waiting for the next cycle."""

from dataclasses import dataclass

import dagster as dg
import redis

from resources.governor.plans import Waiting, waiting_plans
from resources.instance.dagster_internals import DEFER_ASSET_EVENTS_TAG, storage_id
from resources.instance.launcher import has_warm_workers
from resources.instance.range_tags import range_tags
from resources.io_manager import CYCLE_TAG
from resources.store.lease import other_holder, standing_by_for
from resources.store.redis_store import RedisStore, RedisUnavailableError, UnreadableKeyError
from sensors.overdue import SLOWER, place_tags, still_running

PLANS_JOB_NAME = "plans"
TICK_INTERVAL_SEC = 3  # less than the daemon's own 5 s, so that no tick is missed

PLANS_JOB = dg.define_asset_job(
    PLANS_JOB_NAME,
    selection=dg.AssetSelection.assets("governor_permit").without_checks(),
    description="Decide the plans that wait.",
)


@dataclass(frozen=True)
class Decide:
    """Decide the plans of these symbols."""

    symbols: tuple[str, ...]


def decide_plans_due(waiting: Waiting, symbols: tuple[str, ...], *, unfinished: str | None) -> Decide | str:
    """Decide whether a run is due; else say why not.

    Parameters
    ----------
    waiting
        What the stream holds that nobody has decided.
    symbols
        All symbols, in order. Plans for others are decided too (and refused), in the run of the first symbol.
    unfinished
        Id of a run of this job that has not finished.
    """
    if not waiting.count:
        return "no plan waits"
    if unfinished is not None:
        return f"{waiting.count} plans wait, run {unfinished} is deciding"
    named = tuple(symbol for symbol in symbols if symbol in waiting.symbols)
    return Decide(named or symbols[:1])


def plans_sensor(store: RedisStore) -> dg.SensorDefinition:
    """Build the sensor that requests a decision whenever a plan waits."""

    @dg.sensor(
        name="plans",
        job=PLANS_JOB,
        minimum_interval_seconds=TICK_INTERVAL_SEC,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every 5 s: decide the plans that wait. With plain `dagster dev` each cycle decides them instead: {SLOWER}.",
    )
    def plans(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            if other := other_holder(store, storage_id(context.instance), renew=False):
                return dg.SensorResult(skip_reason=standing_by_for(other, "decides"))
            if not has_warm_workers(context.instance):
                return dg.SensorResult(skip_reason=f"plans are decided in each cycle: {SLOWER}")
            running, _ = still_running(context.instance, PLANS_JOB_NAME, store, context.log)
            waiting = waiting_plans(store)
        except (RedisUnavailableError, UnreadableKeyError, redis.ResponseError) as error:
            return dg.SensorResult(skip_reason=f"read failed: {error}")
        decision = decide_plans_due(waiting, store.settings.symbols, unfinished=running[0].run_id if running else None)
        if isinstance(decision, str):
            return dg.SensorResult(skip_reason=decision)
        tags = {**range_tags(decision.symbols), DEFER_ASSET_EVENTS_TAG: "true", CYCLE_TAG: "true", **place_tags(store)}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=None, tags=tags)])

    return plans
