"""The same assets on stock Dagster, for comparison: default launcher, default event log, a plain sensor.

BENCH_EXECUTOR=multiprocess is Dagster's default executor; in_process the cheaper one.
"""

import os

import dagster as dg

from definitions import assemble
from quantum_assets.symbols import range_tags
from resources.redis_store import RedisStore
from resources.settings import load_settings
from sensors.cycle import CYCLE_JOB

store = RedisStore(load_settings())
INTERVAL_SEC = int(os.environ.get("BENCH_INTERVAL_SEC", "10"))
UNFINISHED = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


@dg.sensor(job=CYCLE_JOB, minimum_interval_seconds=INTERVAL_SEC, default_status=dg.DefaultSensorStatus.RUNNING)
def plain(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request one run for all symbols, unless one runs."""
    if context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=1):
        return dg.SkipReason("running")
    return dg.RunRequest(run_key=None, tags=range_tags(store.settings.symbols))


def _definitions() -> dg.Definitions:
    executor = dg.multiprocess_executor if os.environ.get("BENCH_EXECUTOR") == "multiprocess" else dg.in_process_executor
    full = assemble(store, executor)
    return dg.Definitions(assets=full.assets, jobs=[CYCLE_JOB], sensors=[plain], executor=executor, resources=full.resources)


defs = _definitions()
