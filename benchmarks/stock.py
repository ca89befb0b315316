"""The same assets on stock Dagster, for comparison: default launcher, default event log, a plain sensor.

BENCH_EXECUTOR=multiprocess is Dagster's default executor; in_process the cheaper one. CYCLE_TAG makes the IO manager record what
is published and nothing else, as in the product, so that both sides store the same materializations.
"""

import os

import dagster as dg

from definitions import assemble
from quantum_core.settings import load_settings
from resources.instance.range_tags import range_tags
from resources.io_manager import CYCLE_TAG
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME, cycle_job
from sensors.overdue import UNFINISHED

store = RedisStore(load_settings())


@dg.sensor(
    job_name=CYCLE_JOB_NAME,
    minimum_interval_seconds=store.settings.publish_interval_sec,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def cycle(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request one run for all symbols, unless one runs."""
    if context.instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)), limit=1):
        return dg.SkipReason("running")
    return dg.RunRequest(run_key=None, tags={**range_tags(store.settings.symbols), CYCLE_TAG: "true"})


def _definitions() -> dg.Definitions:
    executor = dg.multiprocess_executor if os.environ.get("BENCH_EXECUTOR") == "multiprocess" else dg.in_process_executor
    full = assemble(store, executor)
    return dg.Definitions(
        assets=full.assets, jobs=[cycle_job(store.settings)], sensors=[cycle], executor=executor, resources=full.resources
    )


defs = _definitions()
