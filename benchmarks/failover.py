"""Kill the master of Redis under three Sentinels, time and again, while cycles run and plans are decided.

``python -m benchmarks.failover --kills 20``. Two servers, three sentinels and one ``quantum up`` of a few symbols; with
``--governors`` two governors and the writer of their inputs alone, which a busy machine keeps up with. After each kill the
killed server comes back as a replica. Replication is asynchronous: what the dead master had confirmed and not passed on is
lost, and counted. Everything else is judged by what the promoted server knows: each plan decided once, no limit exceeded on a
recount. Permits are consumed by an executor that goes by plan ids; what one without a memory would honour twice is counted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import psutil
import redis

from benchmarks.chaos import DidNotHappenError, Market, family, wait_until
from benchmarks.report import say, spread
from quantum_assets.governor_permit import decide_plans
from quantum_core.contracts.tables import PERMIT_TTL_SEC
from quantum_core.kernels.governor.limits import BURST_SEC, HOUR_SEC
from quantum_core.settings import Settings, load_settings
from quantum_ops.processes.console import LOG_FILE
from resources.governor.queue import GROUP
from resources.store.redis_store import RedisStore, UnreadableKeyError, texts
from resources.store.transport.unavailable import RedisUnavailableError
from sensors.cycle import CYCLE_JOB_NAME
from tests.governor.desk import Desk
from tests.servers import free_port, listens, need

SERVICE = "quantum"
DOWN_AFTER_MS = 1000
FAILOVER_TIMEOUT_MS = 5000
RESUMES_WITHIN_SEC = 15.0
PLAN_EVERY_SEC = 0.5
GOVERN_EVERY_SEC = 0.1
FIRST_CYCLE_SEC = 240
DECIDED_WITHIN_SEC = 150  # a plan that a governor took and could not record is taken over after 15 s, as often as need be
LAST_LINES = 60
LIMITS = {"GOV_MAX_EXEC_PER_HOUR": "40", "GOV_MAX_EXEC_PER_5MIN": "8", "GOV_MAX_REDUCE_NOTIONAL_PER_DAY_USD": "1000000000"}


class Servers:
    """Two servers and three sentinels, each in a folder of its own.

    Parameters
    ----------
    folder
        Where their folders are made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [free_port(), free_port()]
        self.sentinels = [free_port() for _ in range(3)]
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Servers:
        self.start(self.ports[0])
        self.start(self.ports[1], self.ports[0])
        for port in self.sentinels:
            config = self.folder / f"sentinel-{port}.conf"
            config.write_text(
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}\n"
            )
            self._run(port, str(config), "--sentinel")
        wait_until("the sentinels to know each other", self.ready, 60)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    @property
    def url(self) -> str:
        """Address that asks the sentinels."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/{SERVICE}/0"

    def start(self, port: int, master: int | None = None) -> None:
        """Start one server, as a replica if a master is named."""
        self._run(port, *(("--replicaof", "127.0.0.1", str(master)) if master else ()))

    def _run(self, port: int, *options: str) -> None:
        folder = self.folder / str(port)
        folder.mkdir(exist_ok=True)
        config = [one for one in options if one.endswith(".conf")]
        rest = [one for one in options if one not in config]
        plain = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        kept = [] if config else ["--save", "", "--appendonly", "yes", "--repl-diskless-sync-delay", "0"]
        command = [need("redis-server"), *config, *plain, *kept, *rest]
        with (self.folder / f"{port}.log").open("ab") as log:
            self.running[port] = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(f"port {port}", lambda: listens(port), 20)

    def ready(self) -> bool:
        """Tell whether every sentinel sees both others and a replica that follows."""
        for port in self.sentinels:
            with redis.Redis(port=port, socket_timeout=2) as client:
                state = client.sentinel_master(SERVICE)
            if state["num-other-sentinels"] < 2 or state["num-slaves"] < 1 or not state["is_master"] or state["is_sdown"]:
                return False
        return self.follows()

    def master(self) -> int:
        """Give the port of the master as most sentinels have it."""
        named: Counter[int] = Counter()
        for port in self.sentinels:
            with suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=2) as client:
                named[int(client.sentinel_get_master_addr_by_name(SERVICE)[1])] += 1
        return named.most_common(1)[0][0]

    def follows(self) -> bool:
        """Tell whether the other server is a replica of the master, with a link to it."""
        master = self.master()
        (other,) = set(self.ports) - {master}
        try:
            with redis.Redis(port=other, socket_timeout=2) as client:
                state = client.info("replication")
        except redis.RedisError:
            return False
        linked = state.get("master_link_status") == "up" and state.get("master_port") == master
        return state["role"] == "slave" and linked

    def promoted(self, killed: int) -> bool:
        """Tell whether the other server takes writes as the master."""
        if self.master() == killed:
            return False
        with suppress(redis.RedisError), redis.Redis(port=self.master(), socket_timeout=2) as client:
            return bool(client.info("replication")["role"] == "master")
        return False


class Planner(Market):
    """The market, and two plans a second: closing ones, and one in four that opens."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store)
        self.mine = RedisStore(store.settings)
        self.sent: dict[str, float] = {}

    def plan(self) -> None:
        """Send plans until told to stop; one that was not confirmed is not counted as sent."""
        for number in itertools.count():
            if self.stopped.wait(PLAN_EVERY_SEC):
                return
            plan_id, symbol = f"failover-{number}", self.symbols[number % len(self.symbols)]
            action = "OPEN_LONG" if number % 4 == 0 else "PARTIAL_25"
            plan = ("plan_id", plan_id, "symbol", symbol, "action", action, "decision", "EXECUTE", "qty", 0.001)
            with suppress(RedisUnavailableError):
                self.mine.run("planning", [("XADD", self.store.keys.of("stream_plans"), "*", *plan)])
                self.sent[plan_id] = time.time()


class Executor:
    """Honours permits once by their plan id, as the documentation demands; counts what one without a memory would do again."""

    def __init__(self, store: RedisStore, planner: Planner) -> None:
        self.store, self.planner = store, planner
        self.honoured: dict[str, tuple[str, int]] = {}  # plan id -> when the permit was made, number of the failover
        self.failovers = 0
        self.unmarked = 0  # permits that show up as not consumed after they were: the mark was lost in the failover
        self.again = 0  # permits of another making under a plan id that was honoured: the decision was lost

    def run(self) -> None:
        """Poll until told to stop."""
        while not self.planner.stopped.wait(0.1):
            with suppress(RedisUnavailableError):
                self.poll()

    def poll(self) -> None:
        """Look at the permits of recent plans, and consume them."""
        recent = [name for name, when in list(self.planner.sent.items()) if time.time() - when < 2 * PERMIT_TTL_SEC]
        for plan_id, reading in zip(recent, self.store.read_raw("permit", recent), strict=True):
            if reading.value is None:
                continue
            permit = texts(reading.value)
            if permit.get("consumed") == "true":
                continue
            made = permit["created_at"]
            if (before := self.honoured.get(plan_id)) is not None:
                self.unmarked += before[0] == made
                self.again += before[0] != made
            else:
                self.honoured[plan_id] = made, self.failovers
            self.store.run("consuming a permit", [("HSET", self.store.keys.of("permit", plan_id), "consumed", "true")])


class Trial:
    """Servers, deployment, planner and executor of one measurement."""

    def __init__(self, folder: Path, symbols: int, seed: int, *, whole: bool) -> None:
        self.folder, self.count, self.whole = folder, symbols, whole
        self.rng = np.random.default_rng(seed)
        self.lost_plans: set[str] = set()
        self.kills: list[dict[str, float]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start everything, wait for the first cycle, and leave nothing behind."""
        home = self.folder / "home"
        home.mkdir()
        with Servers(self.folder) as self.servers:
            names = ",".join(f"S{number:04d}USDT" for number in range(self.count))
            self.settings: Settings = load_settings(quantum_home=home, symbols=names, redis_url=self.servers.url)
            self.store = RedisStore(self.settings)
            self.planner = Planner(RedisStore(self.settings))
            self.executor = Executor(RedisStore(self.settings), self.planner)
            self.log = home / "up.log"
            self.log.touch()
            work = [self.planner.plan, self.executor.run]
            with self.deployment(home, names) if self.whole else self.governors():
                try:
                    wait_until("the first cycle", lambda: self.cycled_after(0), FIRST_CYCLE_SEC)
                except DidNotHappenError as error:
                    error.add_note(self.what_waits())
                    raise
                threads = [threading.Thread(target=one) for one in (*work, *([self.planner.run] if self.whole else []))]
                for thread in threads:
                    thread.start()
                try:
                    yield
                finally:
                    self.planner.stopped.set()
                    for thread in threads:
                        thread.join()

    @contextmanager
    def deployment(self, home: Path, names: str) -> Iterator[None]:
        """Run ``quantum up``."""
        environment = {
            **{name: os.environ[name] for name in ("PATH", "LD_PRELOAD") if name in os.environ},
            "HOME": str(home),
            "QUANTUM_HOME": str(home),
            "SYMBOLS": names,
            "REDIS_URL": self.servers.url,
            "WATCH_PORT": "0",
            "OPENBLAS_NUM_THREADS": "1",
            **LIMITS,
        }
        self.planner.fill()
        command = [sys.executable, "-m", "quantum_ops.cli", "up", "--port", str(free_port())]
        with self.log.open("ab") as log:
            root = psutil.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[1])
        try:
            yield
            root.send_signal(signal.SIGTERM)
            root.wait(60)
        finally:
            for pid in family(home):
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
            with suppress(psutil.TimeoutExpired):
                root.wait(20)

    @contextmanager
    def governors(self) -> Iterator[None]:
        """Run two governors, and who writes what they look at."""
        over = threading.Event()
        limited = self.settings.model_copy(update={name.lower(): float(value) for name, value in LIMITS.items()})

        def again(step: Callable[[RedisStore], object]) -> None:
            store = RedisStore(limited)
            while not over.wait(GOVERN_EVERY_SEC):
                with suppress(RedisUnavailableError, UnreadableKeyError, redis.RedisError):
                    step(store)

        def write(store: RedisStore) -> None:
            Desk(store).ready(*limited.symbols)
            now = store.clock().timestamp()
            store.run("ending a cycle", [("SET", store.keys.of("heartbeat", "cycle"), now)])

        steps = (write, *[lambda store: decide_plans(store, cycle_id="c1")] * 2)
        threads = [threading.Thread(target=again, args=(step,)) for step in steps]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def cycled_after(self, when: float) -> float | None:
        """Give when a cycle ended that the master knows of, if that is after a moment."""
        with suppress(RedisUnavailableError):
            (beat,) = self.store.run("looking for a cycle", [("GET", self.store.keys.of("heartbeat", "cycle"))])
            if isinstance(beat, bytes) and float(beat) > when:
                return float(beat)
        return None

    def what_waits(self) -> str:
        """Say what the workers did so far and where their requests are: now and then no worker takes any."""
        lines = [f"the log ends with\n{self.log.read_text()[-3000:]}", "of the workers it has"]
        everything = (self.settings.quantum_home / LOG_FILE).read_text().splitlines()
        lines += [line for line in everything if " worker | " in line][-LAST_LINES:]
        for port in self.servers.ports:
            with redis.Redis(port=port, socket_timeout=5) as client:
                role = client.info("replication")["role"]
                waiting = {key: client.llen(key) for key in client.scan_iter("quantum:celery:*", _type="list")}
                takers = [one["age"] for one in client.client_list() if one["cmd"] == "brpop"]
            lines.append(f"port {port}, {role}: waiting {waiting}, takers connected for {takers} s")
        return "\n".join(lines)

    def requested_after(self, when: float) -> float:
        """Give when the first cycle was requested after a moment; how long it takes then is the machine's matter."""
        wanted = dg.RunsFilter(job_name=CYCLE_JOB_NAME, created_after=datetime.fromtimestamp(when, UTC))
        with dg.DagsterInstance.from_config(str(self.settings.quantum_home)) as instance:
            records = instance.get_run_records(wanted, ascending=True, limit=1)
        return records[0].create_timestamp.timestamp() if records else when  # the one that had been requested went on

    def kill(self) -> None:
        """Kill the master, wait for promotion and for the next cycle, and bring the dead one back as a replica."""
        time.sleep(self.rng.uniform(0, 8))
        old = self.servers.master()
        known = set(self.planner.sent)
        at = time.time()
        self.servers.running[old].kill()
        self.servers.running[old].wait()
        wait_until("a promotion", lambda: self.servers.promoted(old), 60, 0.02)
        promoted = time.time()
        self.executor.failovers += 1
        with redis.Redis(port=self.servers.master(), socket_timeout=5) as client:
            entries: Any = client.xrange(self.store.keys.of("stream_plans"))
        there = {fields[b"plan_id"].decode() for _, fields in entries}
        self.lost_plans |= known - there
        ended = wait_until("the next cycle", lambda: self.cycled_after(promoted), 120)
        requested = self.requested_after(promoted) - promoted if self.whole else 0.0
        self.kills.append({"promoted": promoted - at, "requested": requested, "resumed": ended - promoted})
        load = os.getloadavg()[0]
        took = f"cycle requested {requested:.1f} s and ended {ended - promoted:.1f} s later, load {load:.0f}"
        say(f"kill {len(self.kills)}: promoted after {promoted - at:.1f} s, {took}")
        self.servers.start(old, self.servers.master())
        wait_until("the replica", self.servers.follows, 60)

    def judge(self) -> tuple[list[str], dict[str, Any]]:
        """Recount what the master knows."""
        client = redis.Redis(port=self.servers.master(), socket_timeout=5)
        of = self.store.keys.of
        plans = {fields[b"plan_id"].decode(): entry_id for entry_id, fields in client.xrange(of("stream_plans"))}
        events = [
            (int(name.split(b"-")[0]) / 1000, texts(fields)) for name, fields in client.xrange(of("stream_governor_events"))
        ]
        decided = Counter(event["plan_id"] for _, event in events if event.get("event") in ("PERMIT", "BLOCK"))
        violations = [f"{name}: decided {decided[name]} times" for name in plans if decided[name] != 1]
        granted: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # openings and closes have limits of their own
        for when, event in events:
            if event.get("event") == "PERMIT":
                granted[event["symbol"], event["counted_as"]].append(when)
        for window, limit in ((HOUR_SEC, "GOV_MAX_EXEC_PER_HOUR"), (BURST_SEC, "GOV_MAX_EXEC_PER_5MIN")):
            for (symbol, kind), times in granted.items():
                worst = max(sum(0 <= one - other < window for other in times) for one in times)
                if worst > int(LIMITS[limit]):
                    violations.append(f"{symbol}: {worst} permits of {kind} plans within {window} s, {limit}={LIMITS[limit]}")
        undone = plans.keys() - decided.keys()
        for name in undone:  # which of the two it is tells the cause
            waiting = client.xpending_range(of("stream_plans"), GROUP, plans[name], plans[name], 1)
            told = f"pending, {waiting[0]}" if waiting else "acknowledged, or never taken"
            violations.append(f"{name}: undecided and {told}")
        figures = {
            "plans sent": len(self.planner.sent),
            "plans the master knows": len(plans),
            "decided": len(decided),
            "undecided": len(undone),
            "permits": sum(map(len, granted.values())),
            "plans lost with a master": len(self.lost_plans),
            "permits honoured": len(self.executor.honoured),
            "consumed marks lost": self.executor.unmarked,
            "decisions lost and made again": self.executor.again,
        }
        client.close()
        return violations, figures


def deaths(shown: Path, every_line: Path) -> list[str]:
    """Name each process of ours that died, with the last it said."""
    dead = re.findall(r"(\S+) died \(.*", shown.read_text(errors="replace"))
    lines = every_line.read_text(errors="replace").splitlines() if dead else []
    return [f"{name} died:\n" + "\n".join([one for one in lines if f" {name} | " in one][-LAST_LINES:]) for name in dead]


def measure(kills: int, symbols: int = 8, seed: int = 1, *, whole: bool = True) -> dict[str, Any]:
    """Run the trial; ``violations`` and ``slow`` (empty is good), and the figures."""
    with tempfile.TemporaryDirectory(prefix="failover-") as folder:
        trial = Trial(Path(folder).resolve(), symbols, seed, whole=whole)
        with trial.running():
            for _ in range(kills):
                trial.kill()
            trial.planner.stopped.set()  # no more plans; those that wait are still decided
            with suppress(DidNotHappenError):
                wait_until("the last plans", lambda: not trial.judge()[0], DECIDED_WITHIN_SEC, 1)
            violations, figures = trial.judge()
        died = deaths(trial.log, trial.folder / "home" / LOG_FILE)
    resumed = [one["resumed"] for one in trial.kills]
    return {
        "violations": violations,
        "slow": [f"kill {row + 1}: {sec:.1f} s" for row, sec in enumerate(resumed) if sec > RESUMES_WITHIN_SEC],
        "promoted, s": spread([one["promoted"] for one in trial.kills]),
        "next cycle requested after promotion, s": spread([one["requested"] for one in trial.kills]),
        "next cycle ended after promotion, s": spread(resumed),
        "deaths of our processes": died,
        **figures,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--symbols", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--governors", action="store_true")
    options = parser.parse_args()
    result = measure(options.kills, options.symbols, options.seed, whole=not options.governors)
    for name, value in result.items():
        say(f"{name}: {value}")
    sys.exit(bool(result["violations"] or result["slow"]))


if __name__ == "__main__":
    main()
