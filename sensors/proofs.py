"""When the proof pack runs: every PROOF_INTERVAL_SEC, right after a cycle, when nothing is half-way."""

from dataclasses import dataclass

import dagster as dg
import redis

from quantum_assets.checks.pack import PROOFS
from quantum_assets.checks.proofs.inputs import INPUTS
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.settings import Settings
from resources.inputs.foreign import number_or_none
from resources.instance.dagster_internals import AssetJob, storage_id
from resources.instance.launcher import has_warm_workers
from resources.store.lease import other_holder, standing_by_for
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from sensors.overdue import SLOWER, TICK_INTERVAL_SEC, goes_first, still_running

PROOFS_JOB_NAME = "proofs"
JUST_ENDED_SEC = 6.0  # since a cycle: the next one is at least one tick away
PATIENCE_SEC = 10.0  # so long a due pack waits for a cycle to end
SLACK_SEC = 2.0  # ticks come in steps of 5 s
COLD_INTERVAL_SEC = 300  # at least, without warm workers: the pack's interpreter takes its time from the cycle's


def proofs_job(settings: Settings) -> AssetJob:
    """Build the job of the proof pack."""
    proofs = [*PROOFS, *(one.proof for one in INPUTS)]
    keys = [dg.AssetCheckKey(dg.AssetKey(settings.asset_path(proof.asset)), proof.name) for proof in proofs]
    return dg.define_asset_job(
        PROOFS_JOB_NAME, selection=dg.AssetSelection.checks(*keys), description="Judge every proof over all symbols."
    )


@dataclass(frozen=True)
class Seen:
    """What a tick saw, in seconds.

    Attributes
    ----------
    since_requested
        Since the pack was last requested, ``None`` before the first time.
    since_cycle
        Since a cycle last ended, ``None`` before the first one.
    """

    since_requested: float | None
    since_cycle: float | None


def decide_proofs(seen: Seen, interval_sec: float) -> str:
    """Say why the pack does not run now; empty when it does."""
    if seen.since_cycle is None:
        return "no cycle has ended yet: there is nothing to prove"
    just_ended = -CLOCK_SKEW_SEC <= seen.since_cycle <= JUST_ENDED_SEC
    if seen.since_requested is None and not just_ended:
        return "waiting for the first cycle: what stands was published before this start"
    if seen.since_requested is None:
        return ""
    # A clock set back since must not end the proofs; nor may they take the cores from the first cycle after it.
    due_since = seen.since_requested - interval_sec + SLACK_SEC if seen.since_requested >= 0 else 0.0
    if due_since < 0:
        return f"due in {-due_since:.0f} s"
    if not just_ended and due_since < PATIENCE_SEC:
        return "due when a cycle has ended"
    return ""


def _skip(context: dg.SensorEvaluationContext, reason: str, cursor: str | None = None) -> dg.SensorResult:
    cursor = cursor or context.cursor  # without a word about it the cursor would be lost
    return dg.SensorResult(skip_reason=reason, cursor=cursor)


def proofs_sensor(store: RedisStore) -> dg.SensorDefinition:
    """Build the sensor that requests the pack."""
    interval_sec = store.settings.proof_interval_sec

    @dg.sensor(
        name="proofs",
        job_name=PROOFS_JOB_NAME,
        minimum_interval_seconds=TICK_INTERVAL_SEC,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {interval_sec} s, after a cycle: judge every proof over all symbols. "
        f"With plain `dagster dev` every {max(interval_sec, COLD_INTERVAL_SEC)} s: {SLOWER}.",
    )
    def proofs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            if holder := other_holder(store, storage_id(context.instance), renew=False):
                return _skip(context, standing_by_for(holder, "runs the loop"))
            running, _ = still_running(context.instance, [PROOFS_JOB_NAME], store, context.log)
            if running:
                return _skip(context, f"the previous one (run {running[0].run_id}) is still running")
            (beat,) = store.run("looking for the last cycle", [("GET", store.keys.of("heartbeat", "cycle"))])
        except (RedisUnavailableError, redis.ResponseError) as error:
            return _skip(context, f"read failed: {error}")
        now, requested = store.clock().timestamp(), number_or_none(context.cursor or "")
        ended = number_or_none(beat.decode(errors="replace")) if isinstance(beat, bytes) else None
        ages = Seen(*(None if moment is None else now - moment for moment in (requested, ended)))
        warm = has_warm_workers(context.instance)
        spacing_sec = interval_sec if warm else max(interval_sec, COLD_INTERVAL_SEC)
        if reason := decide_proofs(ages, spacing_sec):
            set_back = requested is not None and requested > now  # then due as of now, and patience counts
            cursor = repr(now - spacing_sec + SLACK_SEC) if set_back else None
            return _skip(context, reason if warm else f"{reason}; {SLOWER}", cursor)
        if not warm and (first := goes_first(context.instance, PROOFS_JOB_NAME, store.clock())):
            return _skip(context, first)
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=None)], cursor=repr(now))

    return proofs
