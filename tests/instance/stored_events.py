"""Events as a run of the loop stores them, with times and ids of the test's choosing."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation, AssetCheckEvaluationPlanned
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    StepMaterializationData,
    StepSuccessData,
)
from dagster._core.events.log import EventLogEntry

SYMBOLS = ("AAA", "BBB", "CCC")
MARKET, RISK = dg.AssetKey("market_state"), dg.AssetKey(["book", "risk"])
CHECK = dg.AssetCheckKey(MARKET, "finite")


def entry(kind: str, run_id: str, at: float, *, step: str | None = None, data: Any = None) -> EventLogEntry:
    """Build one event."""
    event = DagsterEvent(kind, "cycle", step_key=step, event_specific_data=data, message=f"{kind} of {run_id}")
    return EventLogEntry(None, 20, "", run_id, at, step_key=step, job_name="cycle", dagster_event=event)


def said(run_id: str, at: float, text: str) -> EventLogEntry:
    """Build one line a program has logged."""
    return EventLogEntry(None, 20, text, run_id, at, step_key="market_state", job_name="cycle", dagster_event=None)


def planned(run_id: str, at: float, asset: dg.AssetKey, symbol: str | None) -> EventLogEntry:
    """Build the announcement of a materialization."""
    data = AssetMaterializationPlannedData(asset, partition=symbol)
    return entry("ASSET_MATERIALIZATION_PLANNED", run_id, at, data=data)


def materialized(run_id: str, at: float, asset: dg.AssetKey, symbol: str | None, **tags: str) -> EventLogEntry:
    """Build a materialization with metadata and tags."""
    metadata = {"sigma": dg.MetadataValue.float(at / 7), "published_because": "changed"}
    event = dg.AssetMaterialization(asset, partition=symbol, metadata=metadata, tags={"dagster/data_version": f"v{at}", **tags})
    return entry("ASSET_MATERIALIZATION", run_id, at, step=asset.path[-1], data=StepMaterializationData(event, []))


def observed(run_id: str, at: float, asset: dg.AssetKey, symbol: str | None) -> EventLogEntry:
    """Build an observation."""
    event = dg.AssetObservation(asset, partition=symbol, tags={"dagster/data_version": f"o{at}"})
    return entry("ASSET_OBSERVATION", run_id, at, step=asset.path[-1], data=AssetObservationData(event))


def check_planned(run_id: str, at: float, check: dg.AssetCheckKey = CHECK) -> EventLogEntry:
    """Build the announcement of a check."""
    data = AssetCheckEvaluationPlanned(asset_key=check.asset_key, check_name=check.name)
    return entry("ASSET_CHECK_EVALUATION_PLANNED", run_id, at, step="market_state", data=data)


def checked(
    run_id: str, at: float, *, passed: bool, check: dg.AssetCheckKey = CHECK, partition: str | None = None
) -> EventLogEntry:
    """Build the result of a check."""
    data = AssetCheckEvaluation(asset_key=check.asset_key, check_name=check.name, passed=passed, metadata={}, partition=partition)
    return entry("ASSET_CHECK_EVALUATION", run_id, at, step="market_state", data=data)


def cycle(run_id: str, at: float, *, symbols: Sequence[str] = SYMBOLS, succeeds: bool = True) -> list[list[EventLogEntry]]:
    """Build the events of one run of the loop, batch by batch."""
    start = [[entry("PIPELINE_STARTING", run_id, at)], [entry("PIPELINE_START", run_id, at + 0.1)]]
    steps: list[list[EventLogEntry]] = []
    for number, asset in enumerate((MARKET, RISK)):
        name, begin = asset.path[-1], at + 0.2 + number / 10
        steps += [
            [entry("STEP_START", run_id, begin, step=name)],
            [said(run_id, begin, f"{name} speaks")],
            [materialized(run_id, begin + place / 100, asset, symbol) for place, symbol in enumerate(symbols)],
            [entry("STEP_SUCCESS", run_id, begin + 0.05, step=name, data=StepSuccessData(duration_ms=50.0))],
        ]
    return [*start, *steps, [entry("PIPELINE_SUCCESS" if succeeds else "PIPELINE_FAILURE", run_id, at + 0.5)]]
