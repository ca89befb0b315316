"""The price of lineage: the product beside one plain asyncio process that publishes the same, in the same run.

First both compute the same inputs at the same times, one after the other, and everything they publish is compared field by
field: hashes and stream entries, fingerprints included, so that the two do the same work; a difference ends the benchmark. Then
the product runs as it does live, with its own World; between its cycles the plain process (``benchmarks/naked_process.py``)
computes one for the same symbols on a server of its own. Each pair gives one ratio of latency; CPU and memory are of all
processes and the server of each, the product's idle time included. About 20 minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from asyncio import Runner
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import psutil

from benchmarks.cycle import figures
from benchmarks.live import PROJECT, Live, World, running
from benchmarks.naked_process import TABLES, Naked
from benchmarks.report import main, say, spread
from quantum_core.settings import Settings, load_settings
from resources.instance.home import open_instance
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME
from tests.servers import valkey
from tests.world import run_cycle

LEFT_OUT, LIMIT_SEC_PER_CYCLE, START_SEC = 4, 40, 120
QUIET_SEC = 2.0  # after the product's cycle, so that its last writes are done
LATER = timedelta(seconds=65)  # what was published is renewed at this age
SAME_ASSETS = frozenset(table.asset for table in TABLES) | {"capital_efficiency"}
SHOWN = 10  # differences that are named


class Case(NamedTuple):
    """So many symbols."""

    symbols: int
    pairs: int


CASES, SHORT_CASES = (Case(3, 30), Case(566, 60)), (Case(3, 3),)


def measure(*, short: bool) -> dict[str, Any]:
    """Compare what both publish, then measure them."""
    cases = SHORT_CASES if short else CASES
    compared = {str(case.symbols): compare(case.symbols) for case in cases}
    return {"compared": compared, "cases": [measure_case(case) for case in cases]}


# --- The same inputs -----------------------------------------------------------------------------------------------------------


class Twice(World):
    """Writes everything to a second server, too."""

    beside: RedisStore

    def send(self, commands: Iterable[Sequence[Any]]) -> None:
        """Send the same commands to both."""
        both = list(commands)
        super().send(both)
        pipeline = self.beside.client.pipeline(transaction=False)
        for command in both:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        pipeline.execute()


class Moment:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Give the time."""
        return self.now


def compare(count: int) -> dict[str, int]:
    """Let both publish the same inputs several times over, and compare after each time.

    Returns
    -------
    dict
        Hashes, fields and stream entries compared, and publications by asset.

    Raises
    ------
    SystemExit
        They differ, or an asset was never published: then nothing was compared.
    """
    clock, total = Moment(), {"hashes": 0, "fields": 0, "entries": 0}
    published = dict.fromkeys((table.asset for table in TABLES), 0)
    with valkey() as ours, valkey() as theirs, tempfile.TemporaryDirectory() as folder, Runner() as runner:
        settings, beside = (settings_for(count, one.connection_url, folder, enable_stream="true") for one in (ours, theirs))
        store = RedisStore(settings, clock)
        world = Twice(store)
        world.beside = RedisStore(beside, clock)
        world.fill()
        plain = Naked(beside)
        with home_of(folder) as instance, closing(store.client), closing(world.beside.client):
            try:
                for step in steps(world, clock):
                    assert run_cycle(store, instance).success
                    cycle_id = f"t{clock().timestamp():.6f}"  # as run_cycle makes it
                    for asset, number in runner.run(plain.cycle(clock(), cycle_id, evaluate=True)).items():
                        published[asset] += number
                    found = differences(store, world.beside)
                    if found.wrong:
                        named = "\n".join(found.wrong[:SHOWN])
                        sys.exit(f"naked: after {step} the two differ in {len(found.wrong)} places:\n{named}")
                    total = {name: number + getattr(found, name) for name, number in total.items()}
            finally:
                runner.run(plain.client.aclose())
    if never := [asset for asset, number in published.items() if not number]:
        sys.exit(f"naked: nothing was compared of {', '.join(never)}")
    say(f"{count} symbols: {total} compared, no difference")
    return {**total, **published}


def steps(world: World, clock: Moment) -> Iterator[str]:
    """Change the inputs in each way that is told apart: new, unchanged, moved, a new candle, old."""
    clock.now = datetime.now(UTC)
    yield "the first cycle"
    clock.now += timedelta(seconds=1)
    yield "a cycle in which nothing changed"
    for name, renewed in (("moved prices", world.renewed), ("prices moved again", world.renewed), ("a new candle", 0.0)):
        world.renewed = renewed
        world.move()
        clock.now = max(datetime.now(UTC), clock.now + timedelta(seconds=1))
        yield name
    clock.now += LATER
    yield "a minute without news"


class Compared(NamedTuple):
    """What was compared, and each difference in words."""

    hashes: int
    fields: int
    entries: int
    wrong: list[str]


def differences(ours: RedisStore, theirs: RedisStore) -> Compared:
    """Compare everything published under the tables' keys and streams; the clock and the id of the cycle are the same."""
    hashes = fields = entries = 0
    wrong: list[str] = []
    for table in TABLES:
        for symbol in ours.settings.symbols:
            key = ours.keys.of(table.key, symbol)
            pair = [store.client.hgetall(key) for store in (ours, theirs)]
            hashes, fields = hashes + 1, fields + len(pair[0])
            wrong += unequal(key, *pair)
            if not pair[0]:
                wrong.append(f"{key}: the product has published nothing")
            lives = [store.client.ttl(key) for store in (ours, theirs)]
            if abs(lives[0] - lives[1]) > LATER.total_seconds():
                wrong.append(f"{key}: lifetime {lives[0]} and {lives[1]} s")
        for name in table.stream.keys if table.stream is not None else ():
            key = ours.keys.of(name)
            logs = [entries_of(store, key) for store in (ours, theirs)]
            full = table.stream is not None and max(store.client.xlen(key) for store in (ours, theirs)) >= table.stream.maxlen
            for symbol in sorted(logs[0].keys() | logs[1].keys()):
                pair = [log.get(symbol, []) for log in logs]
                entries += min(map(len, pair))
                if len(pair[0]) != len(pair[1]) and not full:  # the server cuts off whole nodes, and their order differs
                    wrong.append(f"{key} of {symbol!r}: {len(pair[0])} and {len(pair[1])} entries")
                for back, both in enumerate(zip(*pair, strict=False), start=1):
                    wrong += unequal(f"{key} of {symbol!r}, entry {back} from the end", *both)
    return Compared(hashes, fields, entries, wrong)


def entries_of(store: RedisStore, key: str) -> dict[bytes, list[Mapping[bytes, bytes]]]:
    """Read a stream by symbol, newest first: a run of the product takes the symbols in any order."""
    by_symbol: dict[bytes, list[Mapping[bytes, bytes]]] = {}
    for _, body in store.client.xrevrange(key):
        by_symbol.setdefault(body[b"symbol"], []).append(body)
    return by_symbol


def unequal(name: str, ours: Mapping[bytes, bytes], theirs: Mapping[bytes, bytes]) -> list[str]:
    """Name the fields in which two mappings differ."""
    both = sorted(ours.keys() | theirs.keys())
    return [f"{name} {one!r}: {ours.get(one)!r} and {theirs.get(one)!r}" for one in both if ours.get(one) != theirs.get(one)]


# --- Side by side --------------------------------------------------------------------------------------------------------------


def measure_case(case: Case) -> dict[str, Any]:
    """Alternate cycles of the two."""
    with running("product", case.symbols) as live, plain_process(case.symbols) as plain:
        live.look(LEFT_OUT, START_SEC + LEFT_OUT * LIMIT_SEC_PER_CYCLE)
        plain.cycle()  # reads all candles
        first, before = live.look(0, 0), plain.cpu_sec()
        answers: list[dict[str, Any]] = []
        done, peak_mb = first.cycles, 0.0
        for turn in range(case.pairs):
            look = live.look(done + 1, LIMIT_SEC_PER_CYCLE)
            done, peak_mb = look.cycles, max(peak_mb, look.peak_pss_mb)
            time.sleep(QUIET_SEC)
            answers.append(plain.cycle())
            if turn % 10 == 0:
                say(f"{live.name}: pair {turn + 1} of {case.pairs}")
        last, used = live.look(0, 0), plain.cpu_sec() - before
        product = {**figures(live, first, last, case.symbols), "same_assets_sec": spread(same_assets(live, first.cycles))}
        memory_mb = plain.pss_mb()
    missed = [one["published"] for one in answers if one["published"]["allocation_target"] != case.symbols]
    assert not missed, missed
    naked = {
        "cycles": len(answers),
        "latency_sec": spread(one["latency_sec"] for one in answers),
        "cpu_sec_per_cycle": round(used / len(answers), 4),
        "peak_pss_mb": round(memory_mb),
    }
    product["peak_pss_mb"] = round(peak_mb)
    say(f"{case.symbols} symbols: product {product}, naked {naked}")
    return {"symbols": case.symbols, "product": product, "naked": naked, "ratio": ratio_of(product, naked)}


def ratio_of(product: dict[str, Any], naked: dict[str, Any]) -> dict[str, float]:
    """Say how many times the plain process's cost the product's is."""
    p50, p95 = (product["latency_sec"][name] / naked["latency_sec"][name] for name in ("p50", "p95"))
    same = product["same_assets_sec"]["p50"] / naked["latency_sec"]["p50"]
    cpu = product["cpu_sec_per_cycle"] / naked["cpu_sec_per_cycle"]
    memory = product["peak_pss_mb"] / naked["peak_pss_mb"]
    ratios = {"latency_p50": p50, "latency_p95": p95, "latency_p50_of_same_assets": same, "cpu": cpu, "memory": memory}
    return {name: round(value, 2) for name, value in ratios.items()}


def same_assets(live: Live, skip: int) -> Iterator[float]:
    """Give the seconds from each tick to the last materialization of those assets that the plain process publishes, too."""
    job = dg.RunsFilter(job_name=CYCLE_JOB_NAME, statuses=[dg.DagsterRunStatus.SUCCESS])
    begun = {run_id: tick.timestamp for tick in live.ticks() for run_id in tick.run_ids}
    for record in islice(live.instance.get_run_records(job, ascending=True), skip, None):
        made = [
            entry.timestamp
            for entry in live.instance.all_logs(record.dagster_run.run_id)
            if (event := entry.dagster_event) is not None
            and event.is_step_materialization
            and event.asset_key is not None
            and event.asset_key.path[-1] in SAME_ASSETS
        ]
        if (tick := begun.get(record.dagster_run.run_id)) is not None:  # retention keeps the newest ticks only
            yield max(made) - tick


@dataclass
class Plain:
    """The plain process and its server."""

    process: psutil.Popen
    server: psutil.Process

    def cycle(self) -> dict[str, Any]:
        """Let it compute one cycle, and give its answer."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the plain process has ended with {self.process.wait()}"
        return dict(json.loads(line))

    def cpu_sec(self) -> float:
        """Give the CPU seconds of both so far."""
        return sum(sum(one.cpu_times()[:2]) for one in (self.process, self.server))

    def pss_mb(self) -> float:
        """Give the memory of both."""
        return float(sum(one.memory_full_info().pss for one in (self.process, self.server)) / 1e6)


@contextmanager
def plain_process(count: int) -> Iterator[Plain]:
    """Run the plain process with a world and a server of its own."""
    with valkey() as redis_server, tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        settings = settings_for(count, redis_server.connection_url, folder)
        store = RedisStore(settings)
        world = World(store)
        world.fill()
        environment = {
            "PATH": os.environ["PATH"],
            "QUANTUM_HOME": folder,
            "REDIS_URL": redis_server.connection_url,
            "SYMBOLS": ",".join(settings.symbols),
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "benchmarks.naked_process"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = psutil.Popen(command, env=environment, cwd=PROJECT, **pipes)
        moving = pool.submit(world.run)
        try:
            yield Plain(process, psutil.Process(int(store.client.info("server")["process_id"])))
        finally:
            world.stopped.set()
            process.communicate()  # the end of its input ends it
        moving.result()  # raises what has stopped the world
        store.client.close()


def settings_for(count: int, url: str, folder: str, **more: str) -> Settings:
    """Give the settings of so many symbols."""
    symbols = ",".join(f"S{number:04d}USDT" for number in range(count))
    return load_settings(redis_url=url, symbols=symbols, quantum_home=Path(folder), **more)


@contextmanager
def home_of(folder: str) -> Iterator[dg.DagsterInstance]:
    """Open an instance in a folder; what that exports goes again with it."""
    before = dict(os.environ)
    try:
        with open_instance(load_settings(quantum_home=Path(folder))) as instance:
            yield instance
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    main("naked", __doc__, measure)
