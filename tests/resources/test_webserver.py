"""What the user interface shows beside Dagster's own pages."""

import asyncio
import json
import time
from types import SimpleNamespace

import dagster as dg
import pytest

from quantum_assets.checks.proof import SOUND
from resources import webserver
from resources.redis_store import RedisStore


@pytest.fixture
def shown(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> RedisStore:
    """The webserver reads its settings from the environment, as in production."""
    monkeypatch.setenv("REDIS_URL", store.settings.url)
    return store


def test_an_alert_is_named_in_red_before_what_is_played(shown: RedisStore) -> None:
    """Whoever opens the page sees within seconds which symbol is stale."""
    shown.client.set(shown.keys.of("banner"), "EXAMPLE DATA")
    shown.client.set(shown.keys.of("alerts_active"), "[]")
    assert webserver.banner() == (webserver.AMBER, "EXAMPLE DATA")
    shown.client.set(shown.keys.of("alerts_active"), json.dumps([{"title": "ETHUSDT is stale"}, {"title": "worker is silent"}]))
    assert webserver.banner() == (webserver.RED, "ETHUSDT is stale; worker is silent | EXAMPLE DATA")


@pytest.mark.usefixtures("shown")
def test_a_watcher_that_is_dead_is_no_silence() -> None:
    """Its list of alerts expires with it, and an empty strip would say that all is well."""
    assert webserver.banner()[0] == webserver.RED
    assert "watcher" in webserver.banner()[1]


def test_alerts_that_cannot_be_read_are_no_silence(shown: RedisStore) -> None:
    """An empty strip means that all is well."""
    shown.client.set(shown.keys.of("alerts_active"), "{")
    assert webserver.banner()[0] == webserver.RED
    assert "cannot be read" in webserver.banner()[1]


def test_a_redis_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page itself is still served."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert "does not answer" in webserver.banner()[1]


@pytest.mark.parametrize(
    ("name", "age_sec", "current"), [("recomputed", 100, True), ("recomputed", 200, False), (SOUND, 200, True)]
)
def test_a_result_is_shown_until_the_next_one_is_due(monkeypatch, name, age_sec, current) -> None:
    """Assets are materialized six times between two runs of the pack; a pack that has stopped must not stay green."""

    async def stock(*_: object) -> bool:
        return False

    monkeypatch.setattr(webserver, "stock_targets_latest", stock)
    record = SimpleNamespace(key=dg.AssetCheckKey(dg.AssetKey("risk_proposal"), name), create_timestamp=time.time() - age_sec)
    assert asyncio.run(webserver.targets_latest(record, None)) is current
