"""What the user interface shows beside Dagster's own pages."""

import asyncio
import time
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord, AssetCheckExecutionRecordStatus

from quantum_assets.checks.proof import SOUND
from quantum_ops.desk import webserver
from resources.instance.check_results import judge_check_results


@pytest.mark.parametrize(
    ("name", "partition", "age_sec", "current"),
    [
        ("recomputed", None, 100, True),
        ("recomputed", None, 200, False),
        ("fresh", None, 200, False),
        (SOUND, None, 200, False),
        (SOUND, "BTCUSDT", 200, True),
        ("a check of somebody else", None, 200, True),
    ],
)
def test_a_result_is_shown_until_the_next_one_is_due_and_no_longer(monkeypatch, name, partition, age_sec, current) -> None:
    """Assets are materialized six times between two runs of the pack; and when all has stopped nothing may stay green for ever."""

    async def stock(*_: object) -> bool:
        return True  # nothing was materialized since

    monkeypatch.setattr(AssetCheckExecutionRecord, "targets_latest_materialization", stock)
    judge_check_results(webserver.targets_latest)
    record = SimpleNamespace(
        key=dg.AssetCheckKey(dg.AssetKey("risk_proposal"), name),
        partition=partition,
        status=AssetCheckExecutionRecordStatus.SUCCEEDED,
        create_timestamp=time.time() - age_sec,
    )
    assert asyncio.run(AssetCheckExecutionRecord.targets_latest_materialization(record, None)) is current


OWN = {"host": "localhost:3000"}
SENT = {**OWN, "content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "word"),
    [
        ("GET", "/assets", OWN, ""),
        ("GET", "/assets", {"host": "[::1]:3000"}, ""),
        ("GET", "/assets", {"host": "quantum.example"}, ""),
        ("POST", "/graphql", SENT, ""),
        ("POST", "/graphql", {**SENT, "origin": "http://localhost:3000"}, ""),
        ("POST", "/graphql", {**SENT, "content-type": "application/json; charset=utf-8"}, ""),
        ("GET", "/graphql", {**OWN, "accept": "text/html"}, ""),
        ("GET", "/assets", {"host": "rebound.evil"}, "WEB_HOSTS"),
        ("GET", "/assets", {"host": "localhost.evil"}, "WEB_HOSTS"),
        ("GET", "/assets", {"host": "[broken"}, "WEB_HOSTS"),
        ("GET", "/assets", {}, "WEB_HOSTS"),
        ("POST", "/graphql", {**SENT, "origin": "https://evil.example"}, "another site"),
        ("POST", "/graphql", {**SENT, "origin": "null"}, "another site"),
        ("GET", "/graphql", {**OWN, "accept": "image/*"}, "POST"),
        ("POST", "/graphql", {**OWN, "content-type": "text/plain; application/json"}, "POST"),
        ("POST", "/prefix/graphql", {**OWN, "content-type": "application/x-www-form-urlencoded"}, "POST"),
        ("websocket", "/graphql", {**OWN, "origin": "https://evil.example"}, "another site"),
        ("websocket", "/graphql", {**OWN, "origin": "http://localhost:3000"}, ""),
    ],
)
def test_what_other_sites_make_a_browser_send_is_refused(method, path, headers, word) -> None:
    """A page that is merely visited could otherwise launch, stop and delete runs: Dagster executes a mutation that comes as a GET."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "websocket" if method == "websocket" else "http", "method": method, "path": path, "headers": raw}
    why = webserver.refusal(scope, {*webserver.LOOPBACK, "quantum.example"})
    assert word in why
    assert bool(why) == bool(word)
