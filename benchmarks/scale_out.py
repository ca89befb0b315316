"""Several hosts: databases, sensors and watcher on one, four worker hosts with a shard each; one is cut off and comes back.

``python -m benchmarks.scale_out``: 2,000 symbols for 30 cycles, then the third host loses its link in the middle of a cycle, for
100 s. About 13 minutes; needs root (network namespaces), PostgreSQL and redis-server. Hosts are namespaces of network and host
name on this machine, joined by a bridge, and share its cores: what they do for cadence and for safety is measured here, what more
cores do for throughput is not.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import redis
import sqlalchemy as db

from benchmarks.chaos import DidNotHappenError, wait_until
from benchmarks.live import PROJECT, World
from benchmarks.report import main, say, spread
from quantum_core.contracts.tables import MARKET_STATE, POSITION
from quantum_core.freshness import PARTS
from quantum_core.settings import load_settings
from quantum_core.universe import shards
from resources.instance.range_tags import RANGE_TAGS
from resources.io_manager import ONCE_TAG
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME

SHARDS, CUT = 4, 2  # hosts with workers, and the one that is cut off
SYMBOLS, CYCLES, CUT_SEC, AFTER_CYCLES = 2_000, 30, 100, 6
SHORT_SYMBOLS, SHORT_CYCLES, SHORT_CUT_SEC = 40, 4, 75  # longer than the 60 s after which a symbol is an alert
WAIT_SEC = 240
CORE, NETWORK = "qcore", "10.203.0"  # addresses within namespaces of this trial's own, seen by nobody else
REDIS_PORT, POSTGRES_PORT = 6379, 5432
STREAMS = {  # the one of allocation targets keeps less than one cycle of so many symbols
    "market_state": "stream_market_state",
    "risk_proposal": "stream_risk_proposal",
    "harvest_proposal": "stream_harvest_proposal",
}
BREATH = 0.0012
REST_SEC = 8.0  # after the last entry; its record follows within a second, on a busy machine too


def shell(command: str) -> None:
    """Run one command of the system."""
    subprocess.run(command.split(), check=True)


# --- hosts --------------------------------------------------------------------------------------------------------------------


@contextmanager
def network() -> Iterator[None]:
    """Make the namespaces, join them by a bridge in that of the core, and take them away again."""
    names = [CORE, *(f"qw{number}" for number in range(SHARDS))]
    try:
        for name in names:
            shell(f"ip netns add {name}")
            shell(f"ip -n {name} link set lo up")
        shell(f"ip -n {CORE} link add bridge type bridge")
        shell(f"ip -n {CORE} addr add {NETWORK}.1/24 dev bridge")
        shell(f"ip -n {CORE} link set bridge up")
        for number, name in enumerate(names[1:]):
            shell(f"ip -n {CORE} link add port{number} type veth peer name eth0 netns {name}")
            shell(f"ip -n {CORE} link set port{number} master bridge up")
            shell(f"ip -n {name} addr add {NETWORK}.{10 + number}/24 dev eth0")
            shell(f"ip -n {name} link set eth0 up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def on_host(name: str, command: Sequence[str]) -> list[str]:
    """Give the command that runs another one on a host, under a host name of its own."""
    return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name, *command]


@contextmanager
def started(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[psutil.Popen]:
    """Run a process, and end it and its children."""
    with log.open("ab") as output:
        process = psutil.Popen(list(command), env=environment, stdout=output, stderr=output, cwd=PROJECT, start_new_session=True)
        try:
            yield process
        finally:
            family = family_of(process)
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGTERM)
            for one in psutil.wait_procs(family, timeout=10)[1]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def family_of(process: psutil.Process) -> list[psutil.Process]:
    """List a process and all below it."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, psutil.Process]]:
    """Run PostgreSQL and Redis on this host."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    data = folder / "postgres"
    data.mkdir()
    shutil.chown(data, "postgres")
    account = ["runuser", "-u", "postgres", "--"]
    initialise = [str(programs / "initdb"), "-D", str(data / "data"), "-U", "quantum", "-A", "trust", "-E", "UTF8"]
    subprocess.run([*account, *initialise], check=True, stdout=subprocess.DEVNULL, cwd="/")
    with (data / "data" / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {NETWORK}.0/24 trust\n")
    options = ["-D", data / "data", "-k", data, "-h", f"{NETWORK}.1", "-p", POSTGRES_PORT, "-N", "300"]
    kept = folder / "redis"
    kept.mkdir()
    persistent = ["--bind", f"{NETWORK}.1", "--protected-mode", "no", "--appendonly", "yes", "--save", "", "--dir", str(kept)]
    with (
        started([*account, str(programs / "postgres"), *map(str, options)], folder / "postgres.log") as postgres,
        started(["redis-server", "--port", str(REDIS_PORT), *persistent], folder / "redis.log") as redis_server,
    ):
        for port in (REDIS_PORT, POSTGRES_PORT):
            seconds_until(f"port {port}", lambda port=port: answers(port), 60)  # type: ignore[misc]
        yield {"postgresql": postgres, "redis": redis_server}


def answers(port: int) -> bool:
    """Tell whether something listens."""
    with socket.socket() as probe:
        return probe.connect_ex((f"{NETWORK}.1", port)) == 0


def seconds_until(what: str, holds: Callable[[], bool], within_sec: float = WAIT_SEC) -> float:
    """Wait, and give the seconds it took.

    Raises
    ------
    DidNotHappenError
        It does not come about.
    """
    began = time.monotonic()
    wait_until(what, holds, within_sec)
    return time.monotonic() - began


# --- what is published --------------------------------------------------------------------------------------------------------


class Reader(threading.Thread):
    """Reads every stream as it grows: they keep only five cycles of so many symbols."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(daemon=True)
        self.assets = {store.keys.of(stream).encode(): asset for asset, stream in STREAMS.items()}
        self.client = redis.Redis.from_url(store.settings.url, socket_timeout=30)
        self.after: dict[Any, Any] = dict.fromkeys(self.assets, "0")
        self.last: dict[tuple[str, str], float] = {}  # asset and symbol to the time of its newest entry
        self.counted: Counter[tuple[str, str]] = Counter()  # entries per asset and symbol
        self.cycles: Counter[tuple[str, str]] = Counter()  # market states per symbol and cycle; other entries do not name theirs
        self.stopped = threading.Event()

    def run(self) -> None:
        """Read until stopped, or until the server is."""
        with suppress(redis.ConnectionError):
            while not self.stopped.is_set():
                for key, entries in self.client.xread(self.after, count=5_000, block=500):
                    self.after[key] = entries[-1][0]
                    for entry, fields in entries:
                        self._note(self.assets[key], fields, int(entry.partition(b"-")[0]) / 1000)

    def _note(self, asset: str, fields: dict[bytes, bytes], epoch: float) -> None:
        symbol = fields[b"symbol"].decode()
        self.last[asset, symbol] = epoch
        self.counted[asset, symbol] += 1
        if b"cycle_id" in fields:
            self.cycles[symbol, fields[b"cycle_id"].decode()] += 1

    def saw(self, asset: str, symbols: Sequence[str], since: float) -> bool:
        """Tell whether one of the symbols has got an entry since then."""
        return any(self.last.get((asset, symbol), 0) > since for symbol in symbols)


def runs_by_shard(instance: dg.DagsterInstance, blocks: Sequence[Sequence[str]]) -> list[list[dg.RunRecord]]:
    """List the runs of the loop per shard, oldest first."""
    of_block = {block[0]: shard for shard, block in enumerate(blocks)}
    found: list[list[dg.RunRecord]] = [[] for _ in blocks]
    for record in instance.get_run_records(dg.RunsFilter(job_name=CYCLE_JOB_NAME), ascending=True):
        tags = record.dagster_run.tags
        if ONCE_TAG not in tags:
            found[of_block[tags[RANGE_TAGS[0]]]].append(record)
    return found


def publications(postgres_url: str, reader: Reader) -> dict[str, Any]:
    """Compare what stands in the streams with what Dagster has recorded, per asset and symbol.

    An entry that no run has recorded, or a record without its entry, was doubled, lost or invented. A host that is cut off
    between the two may leave one asset of its symbols so.
    """
    query = db.text(
        "SELECT asset_key, partition, count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
        " AND partition IS NOT NULL GROUP BY 1, 2"
    )
    engine = db.create_engine(postgres_url)
    with engine.connect() as conn:
        rows = [(json.loads(asset_key)[0], symbol, times) for asset_key, symbol, times in conn.execute(query)]
    engine.dispose()
    recorded = Counter({(asset, symbol): times for asset, symbol, times in rows if asset in STREAMS})
    not_recorded = reader.counted - recorded
    return {
        "entries": reader.counted.total(),
        "materializations": recorded.total(),
        "entries_without_materialization": not_recorded.total(),
        "not_recorded": [[asset, symbol, entries] for (asset, symbol), entries in sorted(not_recorded.items())],
        "materializations_without_entry": (recorded - reader.counted).total(),
        "market_states_twice_in_a_cycle": sum(times - 1 for times in reader.cycles.values()),
    }


class BreathingWorld(World):
    """Marks rise and fall by BREATH: news in every cycle, but too little to cross a stop, which would rightly be told.

    There are three levels: two moves fall into one cycle, so that every second of two would always be the same.
    """

    def marks(self) -> list[float]:
        """Give the price of each symbol now."""
        return [float(price) for price in self.base * (1 + BREATH * (self.moves % 3 - 1))]


class Trial:
    """The running hosts, and the figures taken of them."""

    def __init__(self, folder: Path, count: int, stack: ExitStack) -> None:
        self.folder, self.count, self.stack = folder, count, stack
        self.redis_url = f"redis://{NETWORK}.1:{REDIS_PORT}/0"
        self.postgres_url = f"postgresql+psycopg2://quantum@{NETWORK}.1:{POSTGRES_PORT}/postgres"
        symbols = ",".join(f"S{number:04d}USDT" for number in range(count))
        self.processes = stack.enter_context(databases(folder))
        self.variables = {
            "PATH": os.environ["PATH"],
            "REDIS_URL": self.redis_url,
            "DAGSTER_POSTGRES_URL": self.postgres_url,
            "SYMBOLS": symbols,
            "SHARDS": str(SHARDS),
            "ENABLE_STREAM": "true",
            "OPENBLAS_NUM_THREADS": "1",
            "WATCH_PORT": "0",
        }
        home = self.home("core")
        os.environ.update({name: value for name, value in self.variables.items() if name.startswith("DAGSTER_")})
        self.store = RedisStore(load_settings(redis_url=self.redis_url, symbols=symbols, quantum_home=home, shards=SHARDS))
        self.blocks = shards(self.store.settings.symbols, SHARDS)
        self.world = BreathingWorld(self.store)
        self.world.fill()
        tried = json.dumps({"at": time.time(), "exit_code": 0, "last_line": "not tried in this trial"})
        self.store.client.set(self.store.keys.of("single_cycle"), tried)  # for ten minutes: it publishes between cycles
        self.reader = Reader(self.store)
        self.reader.start()
        stack.callback(self.reader.stopped.set)
        subprocess.run(
            [sys.executable, "-m", "resources.instance.home"],
            stdout=subprocess.DEVNULL,
            env=self.environment(home),
            check=True,
            cwd=PROJECT,
        )
        self.instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        moving = pool.submit(self.world.run)
        stack.callback(lambda: (self.world.stopped.set(), moving.result()))

    def home(self, host: str) -> Path:
        """Make the instance folder of a host."""
        home = self.folder / host
        home.mkdir(exist_ok=True)
        shutil.copy(PROJECT / "deploy" / "postgres" / "dagster.yaml", home)
        return home

    def environment(self, home: Path) -> dict[str, str]:
        """Give the variables of a host's processes."""
        return {**self.variables, **dict.fromkeys(("HOME", "QUANTUM_HOME", "DAGSTER_HOME"), str(home))}

    def start(self) -> None:
        """Start every process of every host."""
        quantum = [sys.executable, "-m", "quantum_ops.cli"]
        home = self.home("core")
        for name in ("code", "daemon", "webserver", "watch", "worker"):
            options = ["--queues", "quantum"] if name == "worker" else []
            self.run(f"core {name}", [*quantum, "serve", name, *options], home)
        for number in range(SHARDS):
            name = f"qw{number}"
            command = [*quantum, "serve", "worker", "--queues", f"quantum-{number}"]
            self.run(f"host {number} worker", on_host(name, command), self.home(name))

    def run(self, name: str, command: list[str], home: Path) -> None:
        """Start one."""
        log = home / f"{name.replace(' ', '-')}.log"
        self.processes[name] = self.stack.enter_context(started(command, log, self.environment(home)))

    def come_to_rest(self) -> None:
        """Start no further cycle, and wait for those in flight: between an entry and its record lies a moment."""
        for process in family_of(self.processes["core daemon"]):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        seconds_until("rest", lambda: time.time() - max(self.reader.last.values()) > REST_SEC)

    def finished(self) -> int:
        """Count the cycles that every shard has finished."""
        done = (dg.DagsterRunStatus.SUCCESS,)
        return min(sum(record.dagster_run.status in done for record in records) for records in self.runs())

    def runs(self) -> list[list[dg.RunRecord]]:
        """List the runs of the loop per shard."""
        return runs_by_shard(self.instance, self.blocks)

    def cpu_sec(self) -> dict[str, float]:
        """Give CPU seconds so far per process, its children included."""
        spent = {}
        for name, process in self.processes.items():
            total = 0.0
            for one in family_of(process):
                with suppress(psutil.NoSuchProcess):
                    times = one.cpu_times()
                    total += times.user + times.system
            spent[name] = total
        return spent

    def memory_mb(self) -> dict[str, float]:
        """Give proportional memory now per process, its children included."""
        held = {}
        for name, process in self.processes.items():
            total = 0.0
            for one in family_of(process):
                with suppress(psutil.Error):
                    total += one.memory_full_info().pss / 1e6
            held[name] = total
        return held

    def alerted(self) -> set[str]:
        """Name the symbols of which the watcher has told."""
        stored = self.store.client.get(self.store.keys.of("alerts_active"))
        return {symbol for alert in json.loads(stored or b"[]") for symbol in alert["symbols"]}

    def told(self) -> list[str]:
        """Give the newest messages of the watcher."""
        entries = self.store.client.xrevrange(self.store.keys.of("stream_alerts"), count=6)
        return [f"{fields[b'title'].decode()}: {fields[b'text'].decode()[:400]}" for _, fields in entries]

    def signs_of_life(self) -> dict[str, float]:
        """Give how long ago each part left one, in s."""
        left = {part: self.store.client.get(self.store.keys.of("heartbeat", part)) for part in (*PARTS, "watch")}
        return {part: round(time.time() - float(epoch or 0), 1) for part, epoch in left.items()}

    def published_since(self, symbols: Sequence[str], since: float) -> bool:
        """Tell whether all proposals of these symbols have been evaluated since then."""
        for table in (MARKET_STATE, POSITION):
            readings = self.store.read(table, symbols)
            if not all(one.value and one.value["last_update_epoch"] >= since for one in readings):
                return False
        return True


def steady(trial: Trial, cycles: int) -> dict[str, Any]:
    """Measure cadence per shard, and CPU and memory per process, with all hosts well."""
    begun, before = time.time(), trial.cpu_sec()
    first = trial.finished()
    seconds_until("steady cycles", lambda: trial.finished() >= first + cycles, WAIT_SEC + 15 * cycles)
    ended, after = time.time(), trial.cpu_sec()
    memory = trial.memory_mb()
    spent = {name: round(100 * (after[name] - before[name]) / (ended - begun), 1) for name in after}
    return {
        "shards": [shard_figures(records, begun, ended) for records in trial.runs()],
        "cpu_percent_of_a_core": {**spent, "all": round(sum(spent.values()), 1)},
        "memory_mb": {**{name: round(mb) for name, mb in memory.items()}, "all": round(sum(memory.values()))},
    }


def shard_figures(records: Sequence[dg.RunRecord], begun: float, ended: float) -> dict[str, Any]:
    """Give cadence and latency of one shard's cycles that began in a span of time."""
    within = [one for one in records if one.start_time and begun <= one.start_time <= ended]
    latency = [one.end_time - one.create_timestamp.timestamp() for one in within if one.end_time]
    starts = [one.start_time for one in within if one.start_time]
    statuses = Counter(str(one.dagster_run.status.value) for one in records if begun <= one.create_timestamp.timestamp() <= ended)
    return {
        "gap_sec": spread(later - earlier for earlier, later in pairwise(starts)),
        "tick_to_end_sec": spread(latency),
        "runs": dict(statuses),
    }


def cut_off(trial: Trial, cut_sec: float) -> dict[str, Any]:
    """Take the link of one host away in the middle of a cycle, and give it back."""
    symbols, others = trial.blocks[CUT], [s for shard, block in enumerate(trial.blocks) if shard != CUT for s in block]
    seconds_until("calm before the cut", lambda: not trial.alerted())
    now = time.time()
    seconds_until("the middle of a cycle", lambda: trial.reader.saw("risk_proposal", symbols, now))
    shell(f"ip link set port{CUT} down")
    cut, first_alert, most, strangers = time.time(), None, 0, set[str]()
    while time.time() < cut + cut_sec:
        told = trial.alerted()
        strangers |= told & set(others)
        if told & set(symbols) and first_alert is None:
            first_alert = time.time() - cut
        most = max(most, len(told & set(symbols)))
        time.sleep(0.5)
    cut_runs = trial.runs()
    shell(f"ip link set port{CUT} up")
    back = time.time()
    say("the host is back")
    say(f"{most} symbols alerted, {len(strangers)} of other hosts")
    if strangers or most < len(symbols):
        say(f"told: {trial.told()}")
        say(f"signs of life: {trial.signs_of_life()}")
    caught_up = seconds_until("the host to catch up", lambda: trial.published_since(symbols, back))
    cleared = seconds_until("the alerts to be cleared", lambda: not trial.alerted())
    return {
        "cut_sec": round(back - cut, 1),
        "symbols": len(symbols),
        "first_alert_after_sec": None if first_alert is None else round(first_alert, 1),
        "symbols_alerted": most,
        "symbols_of_others_alerted": len(strangers),
        "others": [shard_figures(runs, cut, back) for shard, runs in enumerate(cut_runs) if shard != CUT],
        "its_runs": shard_figures(cut_runs[CUT], cut - 5, back)["runs"],
        "caught_up_sec": round(caught_up, 1),
        "alerts_cleared_sec": round(caught_up + cleared, 1),
    }


def inside(*, short: bool) -> dict[str, Any]:
    """Run the trial on the core host."""
    count, cycles, cut_sec = (SHORT_SYMBOLS, SHORT_CYCLES, SHORT_CUT_SEC) if short else (SYMBOLS, CYCLES, CUT_SEC)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # PostgreSQL runs under another account
        trial = Trial(Path(folder), count, stack)
        trial.start()
        try:
            seconds_until("the first cycles", lambda: trial.finished() >= 2)
            seconds_until("calm", lambda: not trial.alerted())
            say("all hosts run")
            measured = steady(trial, cycles)
            say("steady cycles measured")
            measured["cut"] = cut_off(trial, cut_sec)
            done = trial.finished()
            seconds_until("cycles after the cut", lambda: trial.finished() >= done + (2 if short else AFTER_CYCLES))
            trial.come_to_rest()
        except DidNotHappenError:
            say(f"told: {trial.told()}")
            for log in Path(folder).rglob("*.log"):
                say(f"{log.name} ends with\n{log.read_text(errors='replace')[-1500:]}")
            raise
        measured["publications"] = publications(trial.postgres_url, trial.reader)
    return {"symbols": count, "cycles": cycles, **measured}


def measure(*, short: bool) -> dict[str, Any]:
    """Make the network, and run the trial on its core host."""
    with network(), tempfile.NamedTemporaryFile() as result:
        program = f"import json; from benchmarks.scale_out import inside; print(json.dumps(inside(short={short})))"
        command = on_host(CORE, [sys.executable, "-c", program])
        subprocess.run(command, check=True, stdout=result, cwd=PROJECT)
        return dict(json.loads(Path(result.name).read_text().splitlines()[-1]))


if __name__ == "__main__":
    main("scale_out", __doc__, measure)
