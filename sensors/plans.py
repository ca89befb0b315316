"""When plans are decided: as soon as one waits, without waiting for the next cycle."""

from dataclasses import dataclass

import dagster as dg
import redis

from quantum_core.profiles.profile import ProfileError
from quantum_core.settings import Settings
from resources.governor.queue import Waiting, waiting_plans
from resources.instance.dagster_internals import DEFER_ASSET_EVENTS_TAG, AssetJob, storage_id
from resources.instance.launcher import has_warm_workers
from resources.instance.range_tags import range_tags
from resources.io_manager import CYCLE_TAG
from resources.store.lease import other_holder, standing_by_for
from resources.store.profiles import profile_now
from resources.store.redis_store import RedisStore, UnreadableKeyError
from resources.store.transport.unavailable import RedisUnavailableError
from sensors.overdue import SLOWER, TICK_INTERVAL_SEC, place_tags, still_running

PLANS_JOB_NAME = "plans"


def plans_job(settings: Settings) -> AssetJob:
    """Build the job that decides plans."""
    permits = dg.AssetSelection.assets(settings.asset_path("governor_permit"))
    return dg.define_asset_job(PLANS_JOB_NAME, selection=permits.without_checks(), description="Decide the plans that wait.")


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
        job_name=PLANS_JOB_NAME,
        minimum_interval_seconds=TICK_INTERVAL_SEC,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="When a plan is written, and every 5 s: decide the plans that wait. "
        f"With plain `dagster dev` each cycle decides them instead: {SLOWER}.",
    )
    def plans(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            if holder := other_holder(store, storage_id(context.instance), renew=False):
                return dg.SensorResult(skip_reason=standing_by_for(holder, "decides"))
            if not has_warm_workers(context.instance):
                return dg.SensorResult(skip_reason=f"plans are decided in each cycle: {SLOWER}")
            running, _ = still_running(context.instance, [PLANS_JOB_NAME], store, context.log)
            waiting, profile = waiting_plans(store), profile_now(store, requesting=True)
        except (RedisUnavailableError, UnreadableKeyError, ProfileError, redis.ResponseError) as error:
            return dg.SensorResult(skip_reason=f"read failed: {error}")
        decision = decide_plans_due(waiting, store.settings.symbols, unfinished=running[0].run_id if running else None)
        if isinstance(decision, str):
            return dg.SensorResult(skip_reason=decision)
        of_ours = {DEFER_ASSET_EVENTS_TAG: "true", CYCLE_TAG: "true"}
        tags = {**range_tags(decision.symbols), **of_ours, **place_tags(store), **profile.tags()}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=None, tags=tags)])

    return plans
