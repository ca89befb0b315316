"""Dagster's private API for asset events, ticks and a storage's identity. Checked on dagster 1.13.27.

The private API for storages, the launcher, the daemon and results of checks is used in the modules of this package that are named
after them; outside of ``resources/instance`` nothing uses it.

In a run over many symbols Dagster marks every requested partition as materialized, also those that published nothing. The
run tag ``dagster/defer_asset_events`` leaves all asset events to us; then one event per symbol really published is written.
``tests/instance/test_dagster_internals.py`` fails when an upgrade changes any of this.

Each event passes some twenty layers of Dagster (0.4 ms), which at 2,000 events was half of a cycle. The cycle's events, alike
but for their partition and metadata, therefore go to the event log as one batch made from one pattern.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    DagsterEventBatchMetadata,
    DagsterEventType,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.context.data_version_cache import DataVersionCache
from dagster._core.execution.context.output import OutputContext
from dagster._core.execution.plan.objects import ErrorSource, StepFailureData
from dagster._core.nux import get_has_seen_nux, set_nux_seen
from dagster._core.scheduler.instigation import InstigatorState, InstigatorType, SensorInstigatorData
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.tags import EXTERNALLY_MANAGED_ASSETS_TAG, MAX_RETRIES_TAG
from dagster_shared.error import SerializableErrorInfo

from resources.instance.event_log import BatchedEventLogStorage, Made

AssetJob = UnresolvedAssetJobDefinition
DEFER_ASSET_EVENTS_TAG = EXTERNALLY_MANAGED_ASSETS_TAG
FAILED_SYMBOLS_JOB = "failed_symbols"  # name of the runs that only record failures; there is no such job to launch
NEVER_RETRIED = {MAX_RETRIES_TAG: "0"}
MESSAGE_CHARS_MAX = 2000

AHEAD_SEC = 5.0  # beyond what synchronised clocks differ by, and what a correction of one moves it

log = logging.getLogger("quantum.daemon")

_storage_ids: dict[str, str] = {}  # an instance is opened for every run; its storage stays


def name_of(key: dg.AssetKey) -> str:
    """Name an asset as the contract does, without ASSET_PREFIX."""
    return key.path[-1]


def storage_id(instance: dg.DagsterInstance) -> str:
    """Name the instance's run storage: the same on all hosts that share it, and for ever.

    Dagster makes it where there is none, and gives each of two processes that do so at once a name of its own; the first that was
    written is what everybody reads from then on. One who kept the other would wait at queues that nobody fills.
    """
    root = instance.root_directory
    if root not in _storage_ids:
        storage = cast("SqlRunStorage", instance.run_storage)
        storage.get_run_storage_id()
        _storage_ids[root] = storage.get_run_storage_id()
    return _storage_ids[root]


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


def _leave_out_versions(cache: DataVersionCache, asset_keys: Sequence[dg.AssetKey]) -> None:
    """Look for the versions of a step's inputs only where Dagster records materializations that carry them: not in our runs.

    It reads the newest event of every input, and of each of its partitions: a quarter of the time of a decision.
    """
    if DEFER_ASSET_EVENTS_TAG in cache._context.dagster_run.tags:  # noqa: SLF001 - private API has its place here
        cache.input_asset_version_info |= dict.fromkeys(asset_keys)
    else:
        _stock_versions(cache, asset_keys)


_VERSIONS = "_fetch_input_asset_version_info"
_stock_versions = getattr(DataVersionCache, _VERSIONS)
setattr(DataVersionCache, _VERSIONS, _leave_out_versions)


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
        Whether somebody may watch the run's log on a console; the cycle's runs are read from the event log only.

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
    asset: Sequence[str],
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
    asset = name_of(context.asset_key)
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
        [_step_entry(context, kind, one, f"Asset check {one.check_name} of {name_of(one.asset_key)}.") for one in evaluations]
    )


def _materialization(context: OutputContext, one: Made) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(context.asset_key, partition=one.symbol, metadata=one.metadata)


def _entry(context: OutputContext, one: Made) -> EventLogEntry:
    """Build the entry that Dagster's logging would have made of the event."""
    data = StepMaterializationData(_materialization(context, one))
    message = f"Materialized value {name_of(context.asset_key)}."
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
