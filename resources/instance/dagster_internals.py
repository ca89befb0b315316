"""The only place that touches Dagster's private API for asset events, ticks and a storage's identity. Checked on dagster 1.13.27.

In a run over many symbols Dagster marks every requested partition as materialized, also those that published nothing. The
run tag ``dagster/defer_asset_events`` leaves all asset events to us; then one event per symbol really published is written.
``tests/resources/test_dagster_internals.py`` fails when an upgrade changes any of this.

Each event passes some twenty layers of Dagster (0.4 ms), which at 2,000 events was half of a cycle. The loop's events, alike
but for their partition and metadata, therefore go to the event log as one batch made from one pattern.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    DagsterEventBatchMetadata,
    DagsterEventType,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.context.output import OutputContext
from dagster._core.execution.plan.objects import ErrorSource, StepFailureData
from dagster._core.nux import get_has_seen_nux, set_nux_seen
from dagster._core.scheduler.instigation import InstigatorState, InstigatorType, SensorInstigatorData
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.tags import EXTERNALLY_MANAGED_ASSETS_TAG, MAX_RETRIES_TAG
from dagster._daemon import daemon as daemons
from dagster._daemon import sensor as sensor_daemon
from dagster_shared.error import SerializableErrorInfo

from resources.instance.event_log import BatchedEventLogStorage, Made

RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")  # a run's first and last partition
DEFER_ASSET_EVENTS_TAG = EXTERNALLY_MANAGED_ASSETS_TAG
FAILED_SYMBOLS_JOB = "failed_symbols"  # name of the runs that only record failures; there is no such job to launch
NEVER_RETRIED = {MAX_RETRIES_TAG: "0"}
MESSAGE_CHARS_MAX = 2000

AHEAD_SEC = 5.0  # beyond what synchronised clocks differ by, and what a correction of one moves it

log = logging.getLogger("quantum.daemon")

_storage_ids: dict[str, str] = {}  # an instance is opened for every run; its storage stays


def storage_id(instance: dg.DagsterInstance) -> str:
    """Name the instance's run storage: the same on all hosts that share it, and for ever."""
    root = instance.root_directory
    if root not in _storage_ids:
        _storage_ids[root] = cast("SqlRunStorage", instance.run_storage).get_run_storage_id()
    return _storage_ids[root]


def ignore_future_ticks() -> None:
    """Let the daemon of this process take a sensor for due whose last tick lies in the future; that tick resets it.

    Dagster asks whether the last tick is long enough ago. When the clock is set back by an hour, the answer is no for an hour.
    """
    stock, named = sensor_daemon.get_elapsed, False

    def get_elapsed(state: InstigatorState) -> float | None:
        nonlocal named
        elapsed = stock(state)
        if elapsed is None or elapsed >= 0:
            named = named and elapsed is not None and elapsed < AHEAD_SEC  # all sensors are reset within some seconds
            return elapsed
        if elapsed < -AHEAD_SEC and not named:
            named = True
            log.warning("the clock was set back: the last tick lies %.0f s ahead; sensors go on from now", -elapsed)
        return None

    sensor_daemon.get_elapsed = get_elapsed
    _bound_pauses()


class _BoundedWait:
    """The event that ends the daemon's loop; a pause that was reckoned across a step of the clock is not slept."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def wait(self, timeout: float) -> bool:
        """Wait, no longer than the loop ever pauses."""
        return self.event.wait(min(timeout, sensor_daemon.MIN_INTERVAL_LOOP_TIME))


def _bound_pauses() -> None:
    """Keep the daemons from sleeping for an hour because the clock was set back while they were at work.

    The loop over sensors pauses for five seconds less what it took by the clock; the others wait by the clock.
    """
    stock = sensor_daemon.execute_sensor_iteration_loop

    def loop(context: Any, logger: Any, shutdown_event: threading.Event, *arguments: Any, **named: Any) -> Any:
        return stock(context, logger, _BoundedWait(shutdown_event), *arguments, **named)  # type: ignore[arg-type]

    vars(daemons)["execute_sensor_iteration_loop"] = loop
    vars(daemons)["time"] = SimpleNamespace(time=time.monotonic, sleep=time.sleep)


def ticks_ahead(instance: dg.DagsterInstance, now: float) -> dict[str, float]:
    """List sensors whose last tick lies in the future, and by how many seconds."""
    return {state.instigator_name: _last_tick(state) - now for state in _ahead(instance, now)}


def forget_future_ticks(now: float) -> None:
    """Reset the sensors whose last tick lies in the future, where Dagster's own daemon runs: with plain ``dagster dev``.

    Of that one only the code server is ours, and as long as every sensor is skipped nobody asks it anything. So it happens when
    that loads: at the start of ``dagster dev``, and when the code location is reloaded. Without DAGSTER_HOME each start has a new
    one, which remembers no ticks.
    """
    is_code_server = "grpc" in sys.argv  # `dagster api grpc`; a run loads the same modules, in a process of its own
    if not (os.environ.get("DAGSTER_IS_DEV_CLI") and os.environ.get("DAGSTER_HOME") and is_code_server):
        return
    try:
        with dg.DagsterInstance.get() as instance:
            for state in _ahead(instance, now):
                data = cast("SensorInstigatorData", state.instigator_data)
                none = data._replace(last_tick_timestamp=None, last_tick_start_timestamp=None)
                instance.update_instigator_state(state.with_data(none))
                log.warning("the clock was set back: the last tick of %s lay ahead; it goes on from now", state.instigator_name)
    except Exception:
        log.exception("sensors whose last tick lies ahead could not be reset")  # they wait, and all else works


def _ahead(instance: dg.DagsterInstance, now: float) -> list[InstigatorState]:
    states = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    return [state for state in states if _last_tick(state) - now > AHEAD_SEC]


def _last_tick(state: InstigatorState) -> float:
    data = state.instigator_data
    if not isinstance(data, SensorInstigatorData):
        return 0.0
    return max(data.last_tick_timestamp or 0.0, data.last_tick_start_timestamp or 0.0)


def dismiss_welcome() -> None:
    """Keep Dagster's newsletter dialog from a page that ``dagster dev`` opens where no dagster.yaml of ours turns it off.

    It is what a click on "close" does: a file in DAGSTER_HOME, or in the user's own ``~/.dagster``.
    """
    if os.environ.get("DAGSTER_IS_DEV_CLI") and not get_has_seen_nux():  # type: ignore[no-untyped-call]
        set_nux_seen()  # type: ignore[no-untyped-call]


def take_over_asset_events(context: OutputContext) -> None:
    """Leave the asset events of this run's steps to us, also when whoever launched it did not set the tag.

    Dagster reads the tag from the run in memory after each output, so that a run started from the user interface, too, marks
    only published symbols as materialized.
    """
    tags = cast("dict[str, str]", context.step_context.dagster_run.tags)
    tags[DEFER_ASSET_EVENTS_TAG] = "true"


def materialize(context: OutputContext, made: Sequence[Made], *, shown: bool) -> Iterator[DagsterEvent]:
    """Record one materialization of the output's asset per symbol, in one transaction.

    Parameters
    ----------
    context
        Of the output.
    made
        Symbols and what is said of them.
    shown
        Whether somebody may watch the run's log on a console; the loop's runs are read from the event log only.

    Yields
    ------
    DagsterEvent
        Those that Dagster itself has yet to pass on.
    """
    storage = context.step_context.instance.event_log_storage
    if not shown and made and isinstance(storage, BatchedEventLogStorage):
        storage.store_materializations(_entry(context, made[0]), _entry(context, made[-1]), made)
        return
    batch_id, last = str(uuid.uuid4()), len(made) - 1
    for index, one in enumerate(made):
        yield DagsterEvent.asset_materialization(
            context.step_context, _materialization(context, one), DagsterEventBatchMetadata(batch_id, index == last)
        )


def check_evaluation(
    asset: str,
    name: str,
    *,
    passed: bool,
    severity: dg.AssetCheckSeverity,
    metadata: Mapping[str, Any],
    description: str | None = None,
    partition: str | None = None,
) -> AssetCheckEvaluation:
    """Build the result of a check, of one symbol in a run over many, too: Dagster's own results cannot name a partition."""
    return AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset),
        check_name=name,
        passed=passed,
        metadata=metadata,
        severity=severity,
        description=description,
        partition=partition,
    )


def fail_partitions(context: OutputContext, failures: Mapping[str | None, str], tags: Mapping[str, str]) -> str:
    """Mark partitions of the output's asset as failed, while the step's own run goes on and succeeds for the others.

    Dagster calls a partition failed when its newest planned materialization belongs to a failed run and no materialization
    follows. One such run is recorded per run that found failures, never launched; all steps of it add to the same one.

    Parameters
    ----------
    context
        Of the output.
    failures
        Partition (none for an asset of the account) to the reason.
    tags
        Of the run that is recorded.

    Returns
    -------
    str
        Id of the recorded run.
    """
    step, instance = context.step_context, context.step_context.instance
    asset = context.asset_key.to_user_string()
    run_id = str(uuid.uuid5(uuid.UUID(step.run_id), FAILED_SYMBOLS_JOB))
    named = "; ".join(f"{partition or asset}: {why}" for partition, why in failures.items())
    run, first = instance.get_run_by_id(run_id), False
    if run is None:  # failed from the beginning: a process killed half-way leaves nothing that looks unfinished
        failed = dg.DagsterRunStatus.FAILURE
        run = instance.add_run(dg.DagsterRun(FAILED_SYMBOLS_JOB, run_id, status=failed, tags={**tags, **NEVER_RETRIED}))
        first = True
    entries = [
        _step_entry(
            context,
            DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
            AssetMaterializationPlannedData(context.asset_key, partition),
            f"{asset} of {partition or 'the account'} cannot be computed: {why}",
            run,
        )
        for partition, why in failures.items()
    ]
    error = SerializableErrorInfo(f"{asset} cannot be computed: {named}\n", [], "SymbolsFailed")
    failure = StepFailureData(error, None, ErrorSource.USER_CODE_ERROR)  # type: ignore[no-untyped-call]
    entries.append(_step_entry(context, DagsterEventType.STEP_FAILURE, failure, f"{asset}: {len(failures)} failed.", run))
    instance.event_log_storage.store_event_batch(entries)
    if first:
        instance.report_run_failed(run, f"{asset} cannot be computed: {named[:MESSAGE_CHARS_MAX]}")
    return run_id


def settle_partitions(context: OutputContext, partitions: Sequence[str | None]) -> None:
    """End the failure of partitions for which nothing is due any more, hence no materialization will follow.

    The run that found that plans them; when it ends without having failed they are what they were before. Dagster adds up its
    cached status from materializations only, so that it must count anew.
    """
    planned = DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    storage = context.step_context.instance.event_log_storage
    storage.store_event_batch(
        [
            _step_entry(
                context, planned, AssetMaterializationPlannedData(context.asset_key, partition), "Nothing is due any more."
            )
            for partition in partitions
        ]
    )
    storage.wipe_asset_cached_status(context.asset_key)


def observe(context: OutputContext, observations: Sequence[dg.AssetObservation]) -> None:
    """Record observations of other assets, beside what the step's own asset is given, in one transaction."""
    kind = DagsterEventType.ASSET_OBSERVATION
    context.step_context.instance.event_log_storage.store_event_batch(
        [_step_entry(context, kind, AssetObservationData(one), one.description or "Observed.") for one in observations]
    )


def record_checks(context: OutputContext, evaluations: Sequence[AssetCheckEvaluation]) -> None:
    """Record results of checks that the step has judged beside its own work."""
    kind = DagsterEventType.ASSET_CHECK_EVALUATION
    context.step_context.instance.event_log_storage.store_event_batch(
        [_step_entry(context, kind, one, f"Asset check {one.check_name} of {one.asset_key.path[-1]}.") for one in evaluations]
    )


def _materialization(context: OutputContext, one: Made) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(context.asset_key, partition=one.symbol, metadata=one.metadata)


def _entry(context: OutputContext, one: Made) -> EventLogEntry:
    """Build the entry that Dagster's logging would have made of the event."""
    data = StepMaterializationData(_materialization(context, one))
    message = f"Materialized value {context.asset_key.path[-1]}."
    return _step_entry(context, DagsterEventType.ASSET_MATERIALIZATION, data, message)


def _step_entry(
    context: OutputContext, kind: DagsterEventType, data: Any, message: str, run: dg.DagsterRun | None = None
) -> EventLogEntry:
    """Build an event of the output's step, in its own run or in another one."""
    step = context.step_context
    job_name = run.job_name if run is not None else step.job_name
    event = DagsterEvent(
        event_type_value=kind.value,
        job_name=job_name,
        step_handle=step.step.handle,
        node_handle=step.step.node_handle,
        step_kind_value=step.step.kind.value,
        logging_tags=step.event_tags,
        event_specific_data=data,
        message=message,
        pid=os.getpid(),
    )
    return EventLogEntry(  # type: ignore[no-untyped-call]
        level=logging.ERROR if kind is DagsterEventType.STEP_FAILURE else logging.DEBUG,
        user_message=message,
        run_id=run.run_id if run is not None else step.run_id,
        timestamp=time.time(),
        step_key=step.step.key,
        job_name=job_name,
        dagster_event=event,
        error_info=None,
    )
