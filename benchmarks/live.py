"""A live system to measure: its world (what other programs write to Redis) and its processes, the product's or stock ones."""

import json
import os
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import numpy as np
import psutil
import redis
from dagster._core.scheduler.instigation import InstigatorTick

from benchmarks.report import say
from quantum_core.settings import load_settings
from resources.instance.home import prepare_home
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from sensors.cycle import CYCLE_JOB_NAME
from tests.servers import free_port, valkey

Configuration = Literal["stock", "stock in-process", "product"]
PROJECT = Path(__file__).resolve().parents[1]
MOVE_EVERY_SEC, CANDLE_EVERY_SEC = 5.0, 60.0
STEPS, STEP = 23, 0.002  # marks step through a saw: at any two ticks they differ by .2 % or more, so that proposals are due
DRIFT = 0.0003  # of the prices per candle; small beside a step, which it must not undo
POLL_SEC, SAMPLE_MEMORY_EVERY, SAY_EVERY_SEC = 0.5, 10, 30.0
STOP_WITHIN_SEC = 40


class World:
    """Candles, positions, targets and efficiency of all symbols of a store, and the account, kept fresh."""

    calm = False  # marks stay where they are: no stop is crossed, and nothing but what a trial does raises an alert
    restless = False  # with each move one position changes its size, which starts an event cycle

    def __init__(self, store: RedisStore) -> None:
        self.store, self.symbols = store, store.settings.symbols
        self.rng = np.random.default_rng(7)
        self.base = np.exp(self.rng.uniform(0, 8, len(self.symbols)))
        self.entry = self.base.copy()
        self.quantities: dict[str, float] = {}  # of positions, where it is not 1
        self.moves = 0
        self.renewed = 0.0
        self.muted: set[str] = set()  # symbols whose position is not written
        self.frozen = False  # no candle is written
        self.dead: set[str] = set()  # symbols of which no candle is written
        self.account_age_sec = 0  # as its clock says
        self.stopped = threading.Event()

    def now(self) -> float:
        """Give the time of the store's clock, epoch s."""
        return self.store.clock().timestamp()

    def marks(self) -> list[float]:
        """Give the price of each symbol now."""
        step = 0.0 if self.calm else STEP * (self.moves % STEPS - STEPS // 2)
        return [float(price) for price in self.base * (1 + step)]

    def side(self, row: int) -> str:
        """Give the side of a symbol's position: every other one is short."""
        return "LONG" if row % 2 else "SHORT"

    def candle(self, symbol: str, closed_ms: int, price: float) -> tuple[str, str, int, str]:
        """Build the command that adds one closed candle."""
        opened = closed_ms - 60_000
        body = {"open_time": opened, "open": price, "high": price, "low": price, "close": price, "volume": 1.0}
        member = json.dumps({**body, "close_time": closed_ms - 1, "is_closed": True})
        return ("ZADD", self.store.keys.of("candles_history", symbol), opened, member)

    def backfill(self, row: int, now_ms: int, last_price: float, volatility: float = 0.001) -> None:
        """Write all 300 candles of one symbol anew, at once, the last of them closed now: the grid stays whole."""
        symbol = self.symbols[row]
        walk = last_price * np.exp(-np.cumsum(self.rng.normal(0, volatility, 299)))[::-1]
        closes = enumerate([last_price, *reversed(walk.tolist())])
        candles = [self.candle(symbol, now_ms - back * 60_000, price) for back, price in closes]
        self.send([("DEL", self.store.keys.of("candles_history", symbol)), *candles], at_once=True)

    def fill(self) -> None:
        """Write 300 candles of each symbol, and everything else once."""
        now_ms = int(self.now() * 1000)
        for row, symbol in enumerate(self.symbols):
            walk = self.base[row] * np.exp(np.cumsum(self.rng.normal(0, 0.001, 300)))
            closes = enumerate(reversed(walk.tolist()))
            self.send(self.candle(symbol, now_ms - back * 60_000, price) for back, price in closes if back)
            self.base[row] = walk[-1]
        self.entry = self.base.copy()
        self.renew(now_ms)
        self.move()

    def move(self) -> None:
        """Move every mark; once a minute write a candle and renew the rest."""
        self.moves += 1
        if self.restless:
            self.quantities[str(self.rng.choice(self.symbols))] = round(self.rng.uniform(0.5, 2), 3)
        of, now = self.store.keys.of, int(self.now())
        commands = []
        for row, (symbol, mark) in enumerate(zip(self.symbols, self.marks(), strict=True)):
            if symbol in self.muted:
                continue
            fields = ("symbol", symbol, "side", self.side(row), "quantity", self.quantities.get(symbol, 1))
            prices = ("entry_price", float(self.entry[row]), "mark_price", mark, "ts_epoch", now)
            commands.append(("HSET", of("raw_position", symbol), *fields, *prices))
        self.send(commands)
        if self.now() - self.renewed >= CANDLE_EVERY_SEC:
            self.base *= np.exp(self.rng.normal(0, DRIFT, len(self.base)))
            self.renew(now * 1000)

    def renew(self, now_ms: int) -> None:
        """Write a candle, a target and an efficiency of each symbol, and the account."""
        of, now = self.store.keys.of, now_ms // 1000
        commands: list[tuple[object, ...]] = []
        for symbol, mark in zip(self.symbols, self.marks(), strict=True):
            if not self.frozen and symbol not in self.dead:
                commands.append(self.candle(symbol, now_ms, mark))
            commands.append(("HSET", of("base_target", symbol), "target_usd", 1000, "confidence", 0.9, "timestamp", now))
            commands.append(("HSET", of("capital_efficiency", symbol), "efficiency_score", 0.7, "confidence", 0.9, "ts", now))
        commands.append(("HSET", of("equity"), "equity", 10_000, "peak", 10_000, "last_update_ts", now - self.account_age_sec))
        self.send(commands)
        self.renewed = self.now()

    def kill(self, symbols: Iterable[str]) -> None:
        """Delete the candles of some symbols, and write them no more."""
        self.dead |= set(symbols)
        self.store.client.delete(*(self.store.keys.of("candles_history", symbol) for symbol in self.dead))

    def run(self) -> None:
        """Move until told to stop; a move the server was too slow for is left out."""
        while not self.stopped.wait(MOVE_EVERY_SEC):
            try:
                self.move()
            except RedisUnavailableError as error:
                say(f"a move of the world was lost: {error}")

    def send(self, commands: Iterable[Sequence[Any]], *, at_once: bool = False) -> None:
        """Send many commands together, as one transaction if asked to, without the limits on time the product sets itself.

        Raises
        ------
        RedisUnavailableError
            The server is away, or does not answer within a second.
        """
        pipeline = self.store.client.pipeline(transaction=at_once)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        try:
            pipeline.execute()
        except (redis.RedisError, OSError) as error:
            raise RedisUnavailableError(self.store.settings.redis_address, "feeding", error) from error


@dataclass(frozen=True)
class Sample:
    """A look at a live system.

    Attributes
    ----------
    cycles
        Finished so far.
    cpu_sec
        CPU seconds of all its processes so far, the Redis server and those that have ended included.
    stored_bytes
        What its databases and other files hold, without free pages.
    peak_pss_mb
        Greatest proportional memory of all its processes since the last look.
    """

    cycles: int
    cpu_sec: float
    stored_bytes: int
    peak_pss_mb: float


@dataclass(frozen=True)
class Live:
    """A running system."""

    name: str
    home: Path
    store: RedisStore
    world: World
    instance: dg.DagsterInstance
    root: psutil.Popen
    server: psutil.Process

    def family(self) -> list[psutil.Process]:
        """List its processes, without the Redis server."""
        with suppress(psutil.NoSuchProcess):
            return [*self.root.children(recursive=True), self.root]
        return []

    def look(self, cycles: int, limit_sec: float) -> Sample:
        """Wait for so many finished cycles in total, but no longer than a limit, and look."""
        deadline, reported, peak, turn = time.monotonic() + limit_sec, time.monotonic(), 0.0, 0
        while (done := self._finished()) < cycles and self.root.is_running() and time.monotonic() < deadline:
            if turn % SAMPLE_MEMORY_EVERY == 0:
                peak = max(peak, self._pss_mb())
            if time.monotonic() - reported > SAY_EVERY_SEC:
                reported = time.monotonic()
                say(f"{self.name}: {done} of {cycles} cycles")
            turn += 1
            time.sleep(POLL_SEC)
        if done < cycles:
            say(f"{self.name}: only {done} of {cycles} cycles; its log ends with\n{(self.home / 'log').read_text()[-3000:]}")
        return Sample(done, self._cpu_sec(), self._stored_bytes(), peak)

    def ticks(self, sensor: str = "cycle") -> list[InstigatorTick]:
        """List all ticks of a sensor, oldest first."""
        states = [state for state in self.instance.all_instigator_state() if state.instigator_name == sensor]
        ticks = [tick for one in states for tick in self.instance.get_ticks(one.instigator_origin_id, one.selector_id)]
        return sorted(ticks, key=lambda tick: tick.timestamp)

    def _finished(self) -> int:
        return self.instance.get_runs_count(dg.RunsFilter(job_name=CYCLE_JOB_NAME, statuses=[dg.DagsterRunStatus.SUCCESS]))

    def _cpu_sec(self) -> float:
        total = 0.0
        for process in (*self.family(), self.server):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()  # a parent's has those of the children it has seen end
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def _pss_mb(self) -> float:
        total = 0.0
        for process in (*self.family(), self.server):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss / 1e6
        return total

    def _stored_bytes(self) -> int:
        total = 0
        for file in self.home.rglob("*"):
            if file.suffix == ".db":  # files grow in steps, and late: what counts is the pages in use
                with closing(sqlite3.connect(file)) as conn:
                    pages, free, size = (conn.execute(f"PRAGMA {name}").fetchone()[0] for name in PAGES)
                total += (pages - free) * size
            elif file.is_file() and not file.name.endswith(("-wal", "-shm")) and file.name != "log":
                total += file.stat().st_size
        return total


PAGES = ("page_count", "freelist_count", "page_size")


@contextmanager
def running(configuration: Configuration, count: int, **settings: object) -> Iterator[Live]:
    """Run one configuration for so many symbols, with a world and a Redis server of its own; further settings by name."""
    symbols = ",".join(f"S{number:04d}USDT" for number in range(count))
    with valkey() as redis_server, tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        home = Path(folder)
        store = RedisStore(load_settings(redis_url=redis_server.connection_url, symbols=symbols, quantum_home=home))
        world = World(store)
        world.fill()
        if configuration == "product":
            prepare_home(store.settings)
            command = ["quantum_ops.cli", "up", "--port", str(free_port())]
        else:
            (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
            command = ["dagster._daemon", "run", "-m", "benchmarks.stock"]
        environment = {
            "PATH": os.environ["PATH"],
            **dict.fromkeys(("HOME", "QUANTUM_HOME", "DAGSTER_HOME"), folder),
            "REDIS_URL": redis_server.connection_url,
            "SYMBOLS": symbols,
            "BENCH_EXECUTOR": "multiprocess" if configuration == "stock" else "in_process",
            "OPENBLAS_NUM_THREADS": "1",
            "WATCH_PORT": "0",
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        server = psutil.Process(int(store.client.info("server")["process_id"]))
        with dg.DagsterInstance.from_config(folder) as instance, (home / "log").open("wb") as log:
            root = psutil.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log, cwd=PROJECT)
            live = Live(f"{configuration}, {count} symbols", home, store, world, instance, root, server)
            say(f"{live.name}: started")
            moving = pool.submit(world.run)
            try:
                yield live
            finally:
                world.stopped.set()
                _stop(live.family(), root)
            moving.result()  # raises what has stopped the world


def _stop(family: Sequence[psutil.Process], root: psutil.Popen) -> None:
    root.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(family, timeout=STOP_WITHIN_SEC)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    root.wait()
