"""One fault, one incident, its cause in the first words: real cycles, the real watcher, faults as they happen to operators.

Time is the test's own. Redis that restarts is in ``tests/alerts/test_watch.py``.
"""

import json
import math
from collections.abc import Callable

import dagster as dg
import pytest

from quantum_ops.alerts.watcher import Watcher
from quantum_ops.alerts.words import Message
from resources.store.redis_store import RedisStore
from tests.world import real_closes, run_cycle, write_candles, write_equity, write_position, write_world

pytestmark = pytest.mark.slow


class World:
    """A running product: inputs that are renewed, a cycle every ten seconds, the watcher every five."""

    def __init__(self, store: RedisStore, instance: dg.DagsterInstance) -> None:
        self.store, self.instance = store, instance
        self.said: list[Message] = []
        self.candle_age_sec: float | None = None  # of the last one, once the feed has stopped
        self.without_candles: set[str] = set()
        self.entry: dict[str, float] = {}
        self.working = True
        write_world(store)
        self.watcher = Watcher(store, say=self.said.append)
        self.watcher.state_file.path.parent.mkdir(parents=True, exist_ok=True)

    def run(self, seconds: int) -> list[tuple[str, str]]:
        """Let time pass; give what was raised and cleared."""
        before = len(self.said)
        for _ in range(seconds // 10):
            self._inputs()
            if self.working:
                run_cycle(self.store, self.instance)
                self._beat("worker")
            self._beat("daemon")
            for _ in range(2):
                self.store.clock.advance(5)
                self.watcher.round()
        return [(message.event, message.title) for message in self.said[before:]]

    def _beat(self, part: str) -> None:
        self.store.client.set(self.store.keys.of("heartbeat", part), self.store.clock().timestamp())

    def _inputs(self) -> None:
        now = self.store.clock().timestamp()
        self.store.client.hset(self.store.keys.of("proofs"), "_run", json.dumps({"finished_at": now}))
        write_equity(self.store)
        if self.candle_age_sec is not None:
            self.candle_age_sec += 10
        for symbol in self.store.settings.symbols:
            closes = real_closes(symbol)
            write_position(self.store, symbol, entry=self.entry.get(symbol, closes[-1] * 0.99), mark=closes[-1])
            if symbol in self.without_candles:
                self.store.client.delete(self.store.keys.of("candles_history", symbol))
            else:
                write_candles(self.store, symbol, closes, last_age_sec=self.candle_age_sec or 0)


@pytest.fixture
def world(store: RedisStore, instance: dg.DagsterInstance) -> World:
    """A product that has been healthy for a while."""
    world = World(store, instance)
    assert world.run(80) == []
    return world


def spoil_entry(world: World) -> None:
    world.entry["ETHUSDT"] = math.nan


def stop_feed(world: World) -> None:
    world.candle_age_sec = 340  # a few minutes ago: the test does not wait for them


def delete_candles(world: World) -> None:
    world.without_candles.add("BTCUSDT")


def kill_worker(world: World) -> None:
    world.working = False


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (spoil_entry, "ETHUSDT: entry price of the position is not a number since 12:"),
        (stop_feed, "Candles of all 3 symbols stopped at 11:"),
        (delete_candles, "BTCUSDT: no candles since 12:0"),
        (kill_worker, "Worker silent since 12:01 UTC; no new numbers and no permits"),
    ],
)
def test_a_fault_is_one_incident_whose_title_begins_with_its_cause(
    world: World, fault: Callable[[World], None], cause: str
) -> None:
    """Whoever reads the first sixty characters on a lock screen knows what to repair."""
    fault(world)
    said = world.run(130)
    assert [event for event, _ in said] == ["raised"], said
    assert said[0][1][:60].startswith(cause[:60])
