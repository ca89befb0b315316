"""The only place that touches Dagster's private API for asset events. Checked on dagster 1.13.27.

In a run over many symbols Dagster marks every requested partition as materialized, also those that published nothing. The
run tag ``dagster/defer_asset_events`` leaves all asset events to us; then one event per symbol really published is written.
``tests/resources/test_dagster_internals.py`` fails when an upgrade changes any of this.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import cast

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata
from dagster._core.execution.context.output import OutputContext
from dagster._core.storage.tags import EXTERNALLY_MANAGED_ASSETS_TAG

DEFER_ASSET_EVENTS_TAG = EXTERNALLY_MANAGED_ASSETS_TAG


def take_over_asset_events(context: OutputContext) -> None:
    """Leave the asset events of this run's steps to us, also when whoever launched it did not set the tag.

    Dagster reads the tag from the run in memory after each output, so that a run started from the user interface, too, marks
    only published symbols as materialized.
    """
    tags = cast("dict[str, str]", context.step_context.dagster_run.tags)
    tags[DEFER_ASSET_EVENTS_TAG] = "true"


def materialization_events(context: OutputContext, materializations: Sequence[dg.AssetMaterialization]) -> Iterator[DagsterEvent]:
    """Turn materializations into the events of one batch, which the event log stores in one transaction."""
    batch_id = str(uuid.uuid4())
    last = len(materializations) - 1
    for index, materialization in enumerate(materializations):
        yield DagsterEvent.asset_materialization(
            context.step_context, materialization, DagsterEventBatchMetadata(batch_id, index == last)
        )
