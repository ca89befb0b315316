"""The product with its proof pack beside the loop: cadence, growth to 2000 symbols, cost of the pack. About 18 minutes."""

import os
import tempfile
import time
from typing import Any

from benchmarks.cycle import Case, growth, measure_case
from benchmarks.live import World
from benchmarks.report import main, say, spread
from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.pack import PROOFS, run
from quantum_core.settings import load_settings
from resources.instance.home import open_instance
from resources.store.redis_store import RedisStore
from tests.servers import valkey
from tests.world import run_cycle

CASES = (
    Case("product", 3, 31, 4, 20),
    Case("product", 566, 31, 3, 30),
    Case("product", 2000, 13, 2, 60, left_out=8),  # beyond the first minute: every worker child has read all candles once
)
PACK_SYMBOLS, PACK_RUNS, PACK_RUNS_IF_SHORT = 566, 5, 2


def measure(*, short: bool) -> dict[str, Any]:
    """Measure all of it."""
    results = [measure_case(case, case.cycles_if_short if short else case.cycles) for case in CASES]
    return {"configurations": results, "growth": growth(results), "pack": pack(PACK_RUNS_IF_SHORT if short else PACK_RUNS)}


def pack(runs: int) -> dict[str, Any]:
    """Judge the whole pack over many symbols in this process, after a cycle; `quantum once` is left out."""
    with valkey() as server, tempfile.TemporaryDirectory() as home:
        symbols = ",".join(f"S{number:04d}USDT" for number in range(PACK_SYMBOLS))
        store = RedisStore(load_settings(redis_url=server.connection_url, symbols=symbols, quantum_home=home))
        World(store).fill()
        wall, cpu, failing = [], [], set()
        with open_instance(store.settings) as instance:
            run_cycle(store, instance)
            for _ in range(runs):
                run_cycle(store, instance)
                began, used = time.perf_counter(), time.process_time()
                verdicts = run(lambda: Evidence(store, instance, hurried=True), look_again_sec=0)
                wall.append(time.perf_counter() - began)
                cpu.append(time.process_time() - used)
                failing = {one.proof.title for one in verdicts if not one.passed}
    say(f"pack: {wall} s, failing {failing}")
    return {
        "symbols": PACK_SYMBOLS,
        "proofs": len(PROOFS),
        "wall_sec": spread(wall),
        "cpu_sec": spread(cpu),
        "looks": 2,  # without workers process_alive and one_cycle fail here, so that each run looks twice
        "failing": sorted(failing),
    }


if __name__ == "__main__":
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    main("growth", __doc__, measure)
