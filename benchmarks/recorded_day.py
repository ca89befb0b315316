"""A day of 3 symbols and an hour of 566 on record and computed again: size of the archive, CPU of recording, speed of a rerun.

Time is a virtual clock that goes on by ten seconds per cycle, so that a day takes minutes. What runs is the product: its assets
read from and publish to a real server, each step leaves its record there, and the recorder reads them, writes and commits files
once a virtual minute, and compacts the day. Left out are Dagster around the steps, and the time of the server, which is real: no
key expires, and entries of streams have real ids, which is why decisions are computed again apart from the rerun.

3 symbols are the bundled replay at a candle per minute, with marks that move in every cycle; 566 are the world of
``benchmarks.cycle``, in which every proposal of every symbol is due in every cycle. Then cycles with and without the recorder, in
turns in one process, with Dagster around them. About 35 minutes on a machine that does nothing else; a case that takes more than
an hour ends there, and says how many cycles it has.
"""

import gc
import inspect
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import dagster as dg
import numpy as np
import polars as pl

from benchmarks.live import PROJECT, World
from benchmarks.recorder import DAY_SEC, SETTLED
from benchmarks.report import main, say, spread
from definitions import ASSETS, EFFICIENCY_WRITES, assemble
from quantum_assets.shared.shown_states import ShownStates
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_core.settings import load_settings
from quantum_ops.processes.recorder import Recorder
from quantum_ops.recordings.example_feed import SAMPLE_DIR, ExampleWorld, load_candles
from resources.governor.decisions import IncompleteRecordError, decided_again
from resources.instance.home import open_instance, prepare_home
from resources.io_manager import CYCLE_ID_TAG, IntentIOManager, RedisIOManager, _marked, _slot, _unpublished
from resources.recorder.archive import SORTED_BY, Archive
from resources.recorder.tails import TABLE_OF
from resources.recorder.tape import tape_of
from resources.store.failures import record_failures
from resources.store.redis_store import RedisStore
from resources.store.transport.breaker import CircuitBreaker
from sensors.cycle import CYCLE_JOB_NAME, FAST_FAMILY, SLOW_FAMILY, cycle_tags
from tests.servers import valkey

CYCLE_SEC, MINUTE_SEC = 10, 60
BEGAN = datetime(2026, 1, 22, 0, 0, 3, tzinfo=UTC)  # long before the server's time: nothing may be dated ahead of that
WANDER = 0.0003  # of a mark from one cycle to the next, as a share of the price
SAY_EVERY_SEC = 60.0
AT_LIMIT = 5000  # symbols a deployment is made for
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Case(NamedTuple):
    """So many symbols, on record for so many cycles, or as many as begin within a time."""

    symbols: int
    cycles: int
    limit_sec: float = 3600


class Beside(NamedTuple):
    """So many symbols, and pairs of cycles with and without the recorder; those that are left out first."""

    symbols: int
    pairs: int
    left_out: int = 6


CASES, SHORT_CASES = (Case(3, DAY_SEC // CYCLE_SEC), Case(566, 3600 // CYCLE_SEC)), (Case(3, 30),)
BESIDE, SHORT_BESIDE = (Beside(3, 120), Beside(566, 48)), (Beside(3, 3, 1),)


def measure(*, short: bool) -> dict[str, Any]:
    """Measure all cases."""
    return {
        "recorded": [measure_case(case) for case in (SHORT_CASES if short else CASES)],
        "beside": [measure_beside(case) for case in (SHORT_BESIDE if short else BESIDE)],
    }


# The world and its clock.


class Clock:
    """A clock that goes on when it is asked to."""

    def __init__(self) -> None:
        self.time = BEGAN

    def __call__(self) -> datetime:
        """Give its time."""
        return self.time

    def advance(self, seconds: float) -> None:
        """Go on."""
        self.time += timedelta(seconds=seconds)


class Moves(Protocol):
    """What other programs write."""

    def move(self) -> None:
        """Write what has changed in the ten seconds before now."""


class MovingExample(ExampleWorld):
    """The bundled replay with a candle per minute, and marks that wander in between."""

    rng: np.random.Generator = np.random.default_rng(7)
    begun: int = -1
    marks: Mapping[str, float]

    def move(self) -> None:
        """Play the next candle in the first cycle of a minute, in the others move the marks."""
        now = self.store.clock()
        minute = int(now.timestamp()) // MINUTE_SEC
        if minute != self.begun:
            self.begun = minute
            self.step()
            self.marks = {symbol: float(frame["close"][self.shown - 1]) for symbol, frame in self.candles.items()}
            return
        self.marks = {symbol: mark * float(np.exp(self.rng.normal(0, WANDER))) for symbol, mark in self.marks.items()}
        commands = [one for symbol, mark in self.marks.items() for one in self._examples_of(symbol, mark, now)]
        self.store.run("moving the example", commands)


def store_of(url: str, symbols: int, home: Path, clock: Clock, **settings: object) -> RedisStore:
    """Open a store of so many symbols on a virtual clock; 3 are those of the bundled replay."""
    names = "" if symbols == 3 else ",".join(f"S{number:04d}USDT" for number in range(symbols))
    chosen = {"symbols": names} if names else {}
    made = load_settings(redis_url=url, quantum_home=home, recorder_flush_sec=600, **chosen, **settings)
    prepare_home(made)
    return RedisStore(made, clock)


def world_of(store: RedisStore) -> Moves:
    """Begin the world of a store."""
    if len(store.settings.symbols) == 3:
        return MovingExample(store, load_candles(SAMPLE_DIR, store.settings.markets, store.settings.candle_interval_sec))
    world = World(store)
    world.fill()
    return world


# Cycles without Dagster.


class Cycles:
    """The steps of a cycle: each asset's own function, between what its IO manager reads and what it does with Redis."""

    def __init__(self, store: RedisStore) -> None:
        self.store, self.count, self.minute = store, 0, -1
        governor, shown = store.as_governor(), ShownStates(store)
        writes = EFFICIENCY_WRITES[store.settings.efficiency_mode]
        self.managers = {
            "redis_io": RedisIOManager(store, PUBLISHED_TABLES, shown),
            "governor_io": RedisIOManager(governor, PUBLISHED_TABLES, shown),
            "efficiency_io": RedisIOManager(store, PUBLISHED_TABLES, shown, writes),
            "intent_io": IntentIOManager(store, PUBLISHED_TABLES, shown),
        }
        self.given = {"store": store, "governor": governor}
        self.assets = {asset.key.to_user_string(): asset for asset in ASSETS}
        self.recording: dict[str, float] = {}  # CPU seconds of leaving records, by asset

    def run(self) -> None:
        """Run one cycle; the market state is computed in the first one of a minute, with its new candle."""
        self.count += 1
        for one in {*self.given.values()}:
            one._breaker = CircuitBreaker()  # noqa: SLF001 - it counts ten seconds, in which here hundreds of cycles pass
        symbols, now = self.store.settings.symbols, self.store.clock().timestamp()
        run = SimpleNamespace(tags=cycle_tags(symbols, f"c{int(now)}-{self.count}"), run_id=f"r{self.count}")
        log = SimpleNamespace(info=_silent, warning=_silent)
        context = SimpleNamespace(run=run, partition_keys=list(symbols), log=log)
        minute = int(now) // MINUTE_SEC
        for name in (*(SLOW_FAMILY if minute != self.minute else ()), *FAST_FAMILY):
            self._step(name, context)
        self.minute = minute

    def _step(self, name: str, context: Any) -> None:
        """Do what the IO manager does around an asset, but for what Dagster is shown."""
        function: Any = self.assets[name].op.compute_fn
        manager = self.managers[str(self.assets[name].op.outs["result"].io_manager_key)]
        table, run, store = PUBLISHED_TABLES[name], context.run, manager.store
        inputs = {
            one: self._input(manager, one, context) for one in function.decorated_fn.__annotations__ if one in PUBLISHED_TABLES
        }
        wanted = inspect.signature(function.decorated_fn).parameters
        given = {one: value for one, value in {"context": context, **self.given}.items() if one in wanted}
        frame = function.decorated_fn(**inputs, **given)
        rows = list(frame.filter(pl.col("state") == State.PRESENT).iter_rows(named=True))
        shared = store.published.of_run(run.run_id)
        shared.frames.pop(name, None)
        cycle_id, now = run.tags[CYCLE_ID_TAG], store.clock()
        outcomes = manager._write(table, rows, cycle_id, now)  # noqa: SLF001 - what it does between reading and showing
        if (tape := tape_of(store)) is not None:
            slot = _slot(table, run.tags, frame)
            began = time.process_time()
            tape.record(table, frame, outcomes, slot=slot, cycle_id=cycle_id, run_id=run.run_id, now=now)
            self.recording[name] = self.recording.get(name, 0.0) + time.process_time() - began
        failures = dict(frame.filter(pl.col("state") == State.FAILED).select("symbol", "why").iter_rows())
        failures |= {one.symbol: one.error for one in outcomes if one.error}
        record_failures(store, name, frame["symbol"].to_list(), failures, cycle_id)
        shared.without[name] = _unpublished(frame)

    def _input(self, manager: RedisIOManager, name: str, context: Any) -> pl.DataFrame:
        shared = manager.store.published.of_run(context.run.run_id)
        frame = manager._read_once(shared, PUBLISHED_TABLES[name], context.partition_keys)  # noqa: SLF001 - as above
        return _marked(frame, shared.without.get(name, {}))


def _silent(*_: object) -> None:
    """Log nothing: Dagster is not there."""


# On record, compacted, and computed again.


@dataclass
class Spent:
    """CPU seconds of this process, all its threads, by what they were spent for; and the time by the wall."""

    cpu_sec: dict[str, float] = field(default_factory=dict)
    wall_sec: dict[str, float] = field(default_factory=dict)

    def on(self, what: str, work: Callable[[], Any]) -> Any:
        """Do something, and note what it took."""
        cpu, wall = time.process_time(), time.monotonic()
        result = work()
        self.cpu_sec[what] = self.cpu_sec.get(what, 0.0) + time.process_time() - cpu
        self.wall_sec[what] = self.wall_sec.get(what, 0.0) + time.monotonic() - wall
        return result


def measure_case(case: Case) -> dict[str, Any]:
    """Put cycles on record, compact their day, and compute them again."""
    with tempfile.TemporaryDirectory() as folder, valkey() as server:
        clock, spent = Clock(), Spent()
        store = store_of(server.connection_url, case.symbols, Path(folder), clock)
        recorder = Recorder(store)
        case, recording = live(case, store, recorder, spent)
        open_day = files_of(recorder.archive)
        clock.time = BEGAN.replace(hour=0) + timedelta(days=1, seconds=2 * MINUTE_SEC)
        spent.on("recorder", lambda: settle(recorder))
        manifest = spent.on("compaction", lambda: recorder.archive.compact(BEGAN.date()))
        ended = threading.Event()
        ended.set()
        recorder.run(ended)  # lets go of its folder
        result = {
            "symbols": case.symbols,
            "cycles": case.cycles,
            "gaps": len(manifest["gaps"]),
            "open_day": open_day,
            "day": {"files": len(manifest["tables"]), "bytes": sum(one["bytes"] for one in manifest["tables"].values())},
            "sizes": sizes(recorder.archive, case),
            "cpu_sec": {name: round(value, 2) for name, value in spent.cpu_sec.items()},
            "recording_cpu_ms_per_cycle": {
                name: round(1e3 * seconds / case.cycles, 2)
                for name, seconds in sorted(recording.items(), key=lambda one: -one[1])
            },
            "wall_sec": {name: round(value, 1) for name, value in spent.wall_sec.items()},
            "rerun": again(recorder.archive, Path(folder), case),
        }
    say(f"{case.symbols} symbols: {result}")
    return result


def live(case: Case, store: RedisStore, recorder: Recorder, spent: Spent) -> tuple[Case, dict[str, float]]:
    """Let the cycles pass; the recorder reads after each, and commits once a minute.

    Returns
    -------
    tuple
        The case as it came to be, and the CPU seconds of leaving records by asset.
    """
    gc.collect()
    gc.freeze()  # as a worker does: modules are there for good
    ends = time.monotonic() + case.limit_sec
    recorder.round()  # somebody records
    world, cycles, said = world_of(store), Cycles(store), time.monotonic()
    for number in range(case.cycles):
        world.move()
        spent.on("cycles", cycles.run)
        if number % (MINUTE_SEC // CYCLE_SEC) == MINUTE_SEC // CYCLE_SEC - 1 or number == case.cycles - 1:
            spent.on("recorder", lambda: settle(recorder))
        else:
            spent.on("recorder", recorder.round)
        store.clock.advance(CYCLE_SEC)  # type: ignore[attr-defined]  # a clock of ours
        if time.monotonic() - said > SAY_EVERY_SEC:
            said = time.monotonic()
            say(f"{case.symbols} symbols: {number + 1} of {case.cycles} cycles, CPU {spent.cpu_sec}")
        if time.monotonic() > ends:
            spent.on("recorder", lambda: settle(recorder))
            return case._replace(cycles=number + 1), cycles.recording
    return case, cycles.recording


def settle(recorder: Recorder) -> None:
    """Let the recorder read all there is, and commit it."""
    while recorder.round():
        pass
    recorder.flush()
    if recorder.trouble:
        message = f"the recorder has trouble: {recorder.trouble}"
        raise RuntimeError(message)


def files_of(archive: Archive) -> dict[str, int]:
    """Count the files of the day that is open, and their bytes."""
    paths = list(archive.root.glob("*/date=*/part-*.parquet"))
    return {"files": len(paths), "bytes": sum(path.stat().st_size for path in paths)}


def sizes(archive: Archive, case: Case) -> dict[str, Any]:
    """Give rows and bytes of each table of the compacted day, and reckon them to a day and to the most symbols.

    Rows of the first minute are left out of what is reckoned: in it every window of candles is written whole.
    """
    manifest, after = archive.manifest(BEGAN.date()), BEGAN + SETTLED
    seconds = case.cycles * CYCLE_SEC - SETTLED.total_seconds()
    tables, total = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, written in manifest["tables"].items():
            rows = archive.read(name, [BEGAN.date()]).collect()
            own_time = name in TABLE_OF.values()  # entries of streams have the server's time
            kept = rows if own_time else rows.filter(pl.col("at") >= after)
            per_day = 0.0
            if len(kept):
                path = Path(folder) / f"{name}.parquet"
                kept.sort([one for one in SORTED_BY if one in kept.columns], nulls_last=True).write_parquet(
                    path, compression="zstd"
                )
                per_day = path.stat().st_size * DAY_SEC / (seconds + own_time * SETTLED.total_seconds())
            tables[name] = {"rows": written["rows"], "bytes": written["bytes"], "mb_per_day": round(per_day / 1e6, 3)}
            total += per_day
    return {
        "mb_per_day": round(total / 1e6, 1),
        "mb_per_day_at_5000": round(total / case.symbols * AT_LIMIT / 1e6),
        "tables": dict(sorted(tables.items(), key=lambda one: -one[1]["bytes"])),
    }


def again(archive: Archive, home: Path, case: Case) -> dict[str, Any]:
    """Compute everything again by the command an operator has, with a process per core; and the decisions."""
    end = BEGAN + timedelta(seconds=case.cycles * CYCLE_SEC)
    command = [sys.executable, "-m", "quantum_ops.cli", "rerun", "--json"]
    command += ["--from", f"{BEGAN:%Y-%m-%dT%H:%M:%S}", "--to", f"{end:%Y-%m-%dT%H:%M:%S}"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "HOME": str(home), "QUANTUM_HOME": str(home)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if not done.stdout:
        raise RuntimeError(done.stderr[-4000:])
    outcome = json.loads(done.stdout)
    return {
        "rows": outcome["rows"],
        "steps": outcome["steps"],
        "differing": outcome["differing"],
        "left_out": sum(outcome["skipped"].values()),
        "why_left_out": sorted(outcome["skipped"]),
        "first_differences": outcome["differences"][:3],
        "seconds": round(seconds, 1),
        "cpu_sec": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "times_real_time": round(case.cycles * CYCLE_SEC / seconds, 1),
        "cores": os.cpu_count(),
        "decisions": decisions(archive),
    }


def decisions(archive: Archive) -> dict[str, int]:
    """Decide all plans of the day again, each from its own record; their times are the server's, which no rerun asks for."""
    found = {"compared": 0, "differing": 0, "left_out": 0}
    for event in archive.read("decisions", [BEGAN.date()]).collect().iter_rows(named=True):
        fields = {name: value for name, value in event.items() if isinstance(value, str)}
        if "plan_id" not in fields or "theta" not in fields:
            continue
        try:
            reason = decided_again(fields)
        except IncompleteRecordError:
            found["left_out"] += 1
            continue
        found["compared"] += 1
        found["differing"] += reason != fields.get("reason", "")
    return found


# With and without, in turns.


class Side:
    """A deployment in this process: a server's worth of keys, an instance, a world; with Dagster around its steps."""

    def __init__(self, stack: ExitStack, symbols: int, folder: Path, *, recorded: bool) -> None:
        self.clock = Clock()
        server = stack.enter_context(valkey())
        self.store = store_of(server.connection_url, symbols, folder, self.clock, recorder=recorded)
        self.instance = stack.enter_context(open_instance(self.store.settings))
        self.recorder = Recorder(self.store) if recorded else None
        if self.recorder is not None:
            self.recorder.round()
        self.world = world_of(self.store)
        self.jobs = {
            full: assemble(self.store)
            .resolve_job_def(CYCLE_JOB_NAME)
            .get_subset(
                asset_selection={dg.AssetKey(one) for one in ((*SLOW_FAMILY, *FAST_FAMILY) if full else FAST_FAMILY)},
                asset_check_selection=set(),
            )
            for full in (False, True)
        }
        self.cycles = 0
        self.cpu_sec: list[float] = []
        self.wall_sec: list[float] = []
        self.recorder_cpu_sec: list[float] = []

    def turn(self) -> None:
        """Run a cycle, and note what it took; then let the recorder read, and commit once a minute."""
        self.world.move()
        full = self.cycles % (MINUTE_SEC // CYCLE_SEC) == 0
        self.cycles += 1
        tags = cycle_tags(self.store.settings.symbols, f"c{self.cycles}")
        cpu, wall = time.process_time(), time.perf_counter()
        self.jobs[full].execute_in_process(instance=self.instance, tags=tags, run_config=QUIET)
        self.wall_sec.append(time.perf_counter() - wall)
        self.cpu_sec.append(time.process_time() - cpu)
        if self.recorder is not None:
            cpu = time.process_time()
            settle(self.recorder) if self.cycles % (MINUTE_SEC // CYCLE_SEC) == 0 else self.recorder.round()
            self.recorder_cpu_sec.append(time.process_time() - cpu)
        self.clock.advance(CYCLE_SEC)


def measure_beside(case: Beside) -> dict[str, Any]:
    """Run cycles with and without the recorder in turns; which of the two goes first changes each time."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides = [Side(stack, case.symbols, Path(folder) / name, recorded=name == "with") for name in ("without", "with")]
        for pair in range(case.left_out + case.pairs):
            for side in sides if pair % 2 else sides[::-1]:
                side.turn()
        without, recorded = sides
        kept = slice(case.left_out, None)
        own = recorded.recorder_cpu_sec[kept]
        result = {
            "symbols": case.symbols,
            "pairs": case.pairs,
            **{
                name: {"cpu_sec": spread(side.cpu_sec[kept]), "latency_sec": spread(side.wall_sec[kept])}
                for name, side in (("without", without), ("with", recorded))
            },
            "recorder_cpu_sec_per_cycle": round(sum(own) / len(own), 4),
            "ratio": {
                "cpu_of_cycle": ratio(recorded.cpu_sec[kept], without.cpu_sec[kept]),
                "latency": ratio(recorded.wall_sec[kept], without.wall_sec[kept]),
            },
        }
    say(f"{case.symbols} symbols, with and without: {result}")
    return result


def ratio(ours: list[float], others: list[float]) -> dict[str, float]:
    """Compare two rows of figures, by their medians, and pair by pair."""
    pairs = [one / other for one, other in zip(ours, others, strict=True)]
    return {"of_medians": round(median(ours) / median(others), 3), "median_of_pairs": round(median(pairs), 3)}


if __name__ == "__main__":
    main("recorded_day", __doc__, measure)
