"""Which results of checks Dagster's pages show as those of now. Its private API for that is used here only; dagster 1.13.27."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord, AssetCheckExecutionRecordStatus

Judge = Callable[[str, str | None, float], bool | None]  # check, its partition, when it was stored, to whether it is of now


def judge_check_results(judge: Judge) -> None:
    """Let ``judge`` say in this process whether a result is that of now; where it says ``None``, Dagster does."""
    stock = AssetCheckExecutionRecord.targets_latest_materialization

    async def targets_latest(record: AssetCheckExecutionRecord, loading_context: Any) -> bool:
        judged = judge(record.key.name, record.partition, record.create_timestamp)
        if judged is None:
            return await stock(record, loading_context)
        return judged or (record.status is AssetCheckExecutionRecordStatus.PLANNED and await stock(record, loading_context))

    AssetCheckExecutionRecord.targets_latest_materialization = targets_latest  # type: ignore[assignment, method-assign]
