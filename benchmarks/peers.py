"""The product beside others that could do its work: a polling daemon, Prefect, Bytewax and Pathway. About 20 minutes.

``python -m benchmarks.peers``. Each peer is a small program in ``benchmarks/peer_programs`` that calls the plain process of
``benchmarks/naked_process.py`` at its own trigger: the same kernels, inputs and tables, on a server of its own. The product runs
anew beside each; candles are written to the two in turn, at random moments, and each is answered when the state that knows it
and proposals computed after it can be read. Then the process that computes is killed with SIGKILL, candles come meanwhile, and
what follows is looked at. Packages are installed for the run into temporary environments; a peer that cannot be installed or
does not answer is named with the reason. Left out are the governor, the guard, proofs and alerts, which no peer has.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import dagster as dg
import numpy as np
import psutil

from benchmarks.chaos import DidNotHappenError, wait_until
from benchmarks.live import PROJECT, STOP_WITHIN_SEC, Live, World, running
from benchmarks.naked import settings_for
from benchmarks.report import main, say, spread
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, RISK_PROPOSAL
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from tests.servers import free_port, valkey

SYMBOLS = 3
CANDLES, CANDLES_IF_SHORT = 12, 2
MOVE = 0.03  # of a candle's price; beyond 10 % it would be held back as a fault
PAUSE_SEC = 2.0  # at least, between candles of one system: event cycles of a shard are so far apart
START_SEC, ANSWER_SEC, INSTALL_SEC = 120.0, 60.0, 900
POLL_SEC = 0.01  # of what is waited for; more often, and the store gives up on its server
BEFORE_KILL_SEC = 4.0  # at most, after an answer
MEANWHILE, MEANWHILE_EVERY_SEC = 2, 1.5  # candles after a kill
TWICE_SEC = 55.0  # an unchanged state is published again after a minute; sooner, it was written twice
SETTINGS = {"enable_stream": "true"}
SHARED = ("numpy", "scipy", "orjson", "redis", "hiredis", "pydantic-settings", "cryptography")  # what the plain process imports


class Patience(NamedTuple):
    """How long to wait after a kill: for it to go on without help, and then for what it would write twice (a whole cycle)."""

    alone_sec: float = 25.0
    settled_sec: float = 12.0


SHORT = Patience(2.0, 3.0)
LEFT_OUT = {
    "Temporal": "its server is a program of its own, and no package of the index",
    "Windmill": "its server is a program of its own with PostgreSQL, and no package of the index",
}


class Peer(NamedTuple):
    """One peer.

    Attributes
    ----------
    package
        Pinned, as pip takes it; empty when it needs none.
    trigger, leaves
        In words: what starts a cycle, and what is left of its lineage.
    command
        Words of its program after the interpreter; ``{home}`` and ``{port}`` are filled in.
    before, beside
        Commands of the same form: one run once, one that keeps running as its server.
    grid_sec
        The spacing of its own grid; candles come at random moments of it.
    candles
        Measured, of a full run.
    per_cycle
        Its cycle runs in a process of its own, to be killed beside the one that starts it.
    """

    package: str
    trigger: str
    leaves: str
    command: tuple[str, ...]
    before: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    grid_sec: float = 2.0
    candles: int = CANDLES
    per_cycle: bool = False


PROGRAMS = "benchmarks.peer_programs"
PREFECT_SERVER = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "{port}")
PEERS = {
    "polling daemon": Peer("", "looks every 5 s", "a log line per cycle", ("-m", f"{PROGRAMS}.polling"), grid_sec=5.0),
    "Prefect, flow in a loop": Peer(
        "prefect==3.9.1",
        "a flow run every 5 s, in one process",
        "run records with parameters, states and logs; not which candles were read or what was written",
        ("-m", f"{PROGRAMS}.prefect_flow", "loop"),
        beside=PREFECT_SERVER,
        grid_sec=5.0,
    ),
    "Prefect, served": Peer(
        "prefect==3.9.1",
        "a schedule of 10 s, a process per flow run",
        "run records with parameters, states and logs; not which candles were read or what was written",
        ("-m", f"{PROGRAMS}.prefect_flow", "serve"),
        beside=PREFECT_SERVER,
        grid_sec=10.0,
        candles=6,
        per_cycle=True,
    ),
    "Bytewax": Peer(
        "bytewax==0.21.1",
        "a candle (keyspace notification), else every 10 s",
        "none; the state of its step in its recovery store, and a line of output",
        ("-m", "bytewax.run", f"{PROGRAMS}.bytewax_flow:flow", "-r", "{home}", "-s", "1", "-b", "0"),
        before=("-m", "bytewax.recovery", "{home}", "1"),
    ),
    "Pathway": Peer(
        "pathway==0.33.0",
        "a candle (keyspace notification), else every 10 s",
        "none; a log line per cycle",
        ("-m", f"{PROGRAMS}.pathway_flow"),
    ),
}
PRODUCT_LEAVES = "run records, a materialization of each published value, observations of the inputs read"


class System(Protocol):
    """What runs: the product or a peer."""

    name: str
    home: Path
    store: RedisStore
    world: World

    def family(self) -> list[psutil.Process]:
        """List its processes, without the Redis server."""


@dataclass
class Running:
    """A peer that runs, and how it is started again."""

    name: str
    peer: Peer
    home: Path
    store: RedisStore
    world: World
    start: Callable[[], psutil.Popen]
    process: psutil.Popen
    beside: Sequence[psutil.Popen]

    def family(self) -> list[psutil.Process]:
        """List its processes, without the Redis server."""
        return [one for root in (self.process, *self.beside) for one in tree(root)]


def measure(*, short: bool) -> dict[str, Any]:
    """Measure every peer beside the product, then kill the product."""
    peers = {name: peer for name, peer in PEERS.items() if not (short and peer.package)}
    count, patience = (CANDLES_IF_SHORT, SHORT) if short else (0, Patience())
    results: dict[str, Any] = {}
    product: dict[str, Any] = {"trigger": "a candle, else every 10 s", "leaves": PRODUCT_LEAVES}
    with tempfile.TemporaryDirectory() as folder:
        for name, peer in peers.items():
            python = environment(peer.package, Path(folder))
            if python.reason:
                results[name] = {"not_run": python.reason}
                continue
            with running("product", SYMBOLS, **SETTINGS) as live:
                live.look(1 if short else 2, START_SEC)
                try:
                    results[name] = beside_product(live, name, peer, python.path, count or peer.candles, patience)
                except (DidNotHappenError, OSError, psutil.Error) as error:
                    if not peer.package:
                        raise  # it needs nothing that could be missing
                    results[name] = {"not_run": f"it was started, and then: {error}"}
                say(f"{name}: {results[name]}")
                product["left"] = {
                    "run_records": live.instance.get_runs_count(),
                    "materializations_of_harvest_proposal": materializations(live),
                }
        if not short:
            with running("product", SYMBOLS, **SETTINGS) as live:
                live.look(2, START_SEC)
                product["kills"] = kills_of_product(live)
    return {"symbols": SYMBOLS, "product": product, "peers": results, "left_out": LEFT_OUT}


# --- environments and processes


class Python(NamedTuple):
    """An interpreter, or why there is none."""

    path: str
    reason: str = ""


def environment(package: str, folder: Path) -> Python:
    """Make an environment with one package and what the plain process imports, in the versions of this one."""
    if not package:
        return Python(sys.executable)
    home = folder / package.partition("=")[0]
    if (python := home / "bin" / "python").exists():
        return Python(str(python))  # of another peer
    shared = [f"{name}=={version(name)}" for name in SHARED]
    commands = (
        [sys.executable, "-m", "venv", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package, *shared],
    )
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SEC, check=False)
        except subprocess.TimeoutExpired:
            return Python("", f"{package} was not installed within {INSTALL_SEC} s")
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            return Python("", f"{package} cannot be installed: {' '.join(errors)[:300]}")
    say(f"{package}: installed")
    return Python(str(python))


def tree(root: psutil.Process) -> list[psutil.Process]:
    """List a process and all below it."""
    with suppress(psutil.NoSuchProcess):
        return [*root.children(recursive=True), root]
    return []


@contextmanager
def peer_running(name: str, peer: Peer, python: str) -> Iterator[Running]:
    """Run a peer with a world and a server of its own."""
    with valkey() as redis_server, tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        settings = settings_for(SYMBOLS, redis_server.connection_url, folder, **SETTINGS)
        store, port = RedisStore(settings), free_port()
        world = World(store)
        world.fill()
        log = stack.enter_context((Path(folder) / "log").open("wb"))
        variables = {
            "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
            **dict.fromkeys(("HOME", "QUANTUM_HOME", "PREFECT_HOME"), folder),
            "PYTHONPATH": str(PROJECT),
            "REDIS_URL": redis_server.connection_url,
            "SYMBOLS": ",".join(settings.symbols),
            "OPENBLAS_NUM_THREADS": "1",
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            **{one.upper(): value for one, value in SETTINGS.items()},
        }

        def start(words: Sequence[str]) -> psutil.Popen:
            command = [python, *(one.format(home=folder, port=port) for one in words)]
            return psutil.Popen(command, env=variables, stdout=log, stderr=log, cwd=PROJECT)

        started: list[psutil.Popen] = []
        moving = pool.submit(world.run)
        try:
            if peer.before:
                started.append(start(peer.before))
                if started[-1].wait(START_SEC):
                    msg = f"{peer.before[1]} ended: {ending(Path(folder))}"
                    raise DidNotHappenError(msg)
            if peer.beside:
                started.append(start(peer.beside))
                wait_until(f"the server of {name}", lambda: listening(started[-1], port), START_SEC)
            servers = [one for one in started if one.poll() is None]
            system = Running(name, peer, Path(folder), store, world, lambda: start(peer.command), start(peer.command), servers)
            try:
                yield system
            except DidNotHappenError as error:
                msg = f"{error}; its log ends with: {ending(Path(folder))}"
                raise DidNotHappenError(msg) from error
            finally:
                started.append(system.process)
        finally:
            world.stopped.set()
            end(started)
        moving.result()  # raises what has stopped the world
        store.client.close()


def ending(home: Path) -> str:
    """Give the end of a log in one line."""
    return " ".join((home / "log").read_text(errors="replace")[-600:].split())


def listening(process: psutil.Popen, port: int) -> bool:
    """Tell whether a process listens on a port; raise when it has ended."""
    if process.poll() is not None:
        msg = f"its server ended with {process.returncode}"
        raise DidNotHappenError(msg)
    with suppress(psutil.Error):
        return any(one.laddr.port == port for each in tree(process) for one in each.net_connections() if one.status == "LISTEN")
    return False


def end(started: Sequence[psutil.Popen]) -> None:
    """End programs and all below them, the newest first."""
    for process in reversed(started):
        family = tree(process)
        for signal_ in (signal.SIGTERM, signal.SIGKILL):
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(signal_)
            _, family = psutil.wait_procs(family, timeout=STOP_WITHIN_SEC)
        with suppress(psutil.Error):
            process.wait()


# --- candles


def beside_product(live: Live, name: str, peer: Peer, python: str, count: int, patience: Patience) -> dict[str, Any]:
    """Write candles to a peer and to the product in turn; then kill the peer."""
    with peer_running(name, peer, python) as system:
        rng = np.random.default_rng(5)
        began = time.monotonic()
        wait_until(f"the first proposals of {name}", lambda: alive_and(system, lambda: stands(system)), START_SEC)
        ready_sec = time.monotonic() - began
        took: dict[str, list[float]] = {"product": [], "peer": []}
        memory: dict[str, list[float]] = {"product": [], "peer": []}
        both = {"product": live, "peer": system}
        window, before = time.monotonic(), {which: cpu_sec(program) for which, program in both.items()}
        for turn in range(count):
            for which, program in both.items():
                time.sleep(float(rng.uniform(*(PAUSE_SEC / 2, PAUSE_SEC) if which == "product" else (0, peer.grid_sec))))
                took[which].append(by_product(live, turn, rng) if which == "product" else answered(program, turn % SYMBOLS, rng))
                memory[which].append(pss_mb(program))
        minutes = (time.monotonic() - window) / 60
        used = {which: (cpu_sec(program) - before[which]) / minutes for which, program in both.items()}
        figures = {
            which: {
                "candle_sec": spread(took[which]),
                "cpu_sec_per_minute": round(used[which], 2),
                "memory_mb": round(max(memory[which])),
                "states_written_twice": written_twice(program, time.time() - 60 * minutes),
            }
            for which, program in both.items()
        }
        return {
            "package": peer.package,
            "trigger": peer.trigger,
            "leaves": peer.leaves,
            "left": left_by(system),
            "start_sec": round(ready_sec, 1),
            "minutes": round(minutes, 2),
            "load_after": round(os.getloadavg()[0], 2),
            **figures["peer"],
            "product_meanwhile": figures["product"],
            "ratio_to_product": ratios(figures["peer"], figures["product"]),
            "kills": kills_of(system, patience, rng),
        }


def ratios(peer: Mapping[str, Any], product: Mapping[str, Any]) -> dict[str, float]:
    """Say how many times the product's cost a peer's is, in the same minutes."""
    latency = {name: peer["candle_sec"][name] / product["candle_sec"][name] for name in ("p50", "p95")}
    rest = {name: peer[name] / product[name] for name in ("cpu_sec_per_minute", "memory_mb")}
    return {name: round(value, 3) for name, value in {**latency, **rest}.items()}


def alive_and(system: Running, holds: Callable[[], bool]) -> bool:
    """Ask something of a peer that has not ended."""
    if system.process.poll() is not None:
        msg = f"its program ended with {system.process.returncode}"
        raise DidNotHappenError(msg)
    return holds()


def stands(system: System) -> bool:
    """Tell whether there are proposals of every symbol."""
    return all(knows(system, row, 0) for row in range(SYMBOLS))


def knows(system: System, row: int, closed: int) -> bool:
    """Tell whether the state of a symbol knows a candle and both proposals were computed after it.

    Not every candle makes a proposal due; one that is not published anew says by its stamp that it was computed again. A server
    that does not answer shows none.
    """
    symbol, store = system.world.symbols[row], system.store
    with suppress(RedisUnavailableError):
        state, *proposals = (store.read(table, [symbol])[0].value for table in (MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL))
        if state is not None and state["ts_timestamp"] >= closed:
            return all(one is not None and one["computed_at_utc"] >= state["published_at_utc"] for one in proposals)
    return False


def write(system: System, row: int, rng: np.random.Generator) -> int:
    """Write a closed candle of one symbol; give the second it closed in.

    It lies on no grid of minutes: the kernels refuse a symbol from about seven of these on, so each system gets few.
    """
    world, now_ms = system.world, int(time.time() * 1000)
    price = world.marks()[row] * float(1 + rng.uniform(-MOVE, MOVE))
    world.send([world.candle(world.symbols[row], now_ms, price)])
    return (now_ms - 1) // 1000


def answered(system: System, row: int, rng: np.random.Generator) -> float:
    """Write a closed candle, and give the seconds until the proposals that rest on it can be read."""
    began = time.monotonic()
    closed = write(system, row, rng)
    wait_until(f"proposals of {system.name} on a candle", lambda: knows(system, row, closed), ANSWER_SEC, POLL_SEC)
    return time.monotonic() - began


def by_product(live: Live, turn: int, rng: np.random.Generator) -> float:
    """Let the product answer a candle; a peer is not to be blamed when it does not.

    Raises
    ------
    SystemExit
        It did not.
    """
    try:
        return answered(live, turn % SYMBOLS, rng)
    except DidNotHappenError as error:
        sys.exit(f"peers: {error}; its log ends with: {ending(live.home)}")


def cpu_sec(system: System) -> float:
    """Give the CPU seconds so far of all its processes, with those that have ended.

    Without the Redis server: what measures asks that again and again, and longest where an answer comes late.
    """
    total = 0.0
    for process in system.family():
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def pss_mb(system: System) -> float:
    """Give the proportional memory of all its processes, without the Redis server."""
    total = 0.0
    for process in system.family():
        with suppress(psutil.Error):
            total += process.memory_full_info().pss / 1e6
    return total


# --- kill -9


def kills_of(system: Running, patience: Patience, rng: np.random.Generator) -> dict[str, Any]:
    """Kill what computes, and where that is another process what starts it."""

    def start_again() -> list[psutil.Process]:
        system.process = system.start()
        return [system.process]

    def run_of_a_cycle() -> list[psutil.Process]:
        return [one for one in tree(system.process) if one.pid != system.process.pid]

    kills = {}
    if system.peer.per_cycle:
        kills["what computes"] = kill(
            system, 0, lambda: wait_until("a cycle's process", run_of_a_cycle, START_SEC), start_again, patience, rng
        )
    kills["its program"] = kill(system, 1, lambda: [system.process], start_again, patience, rng)
    return kills


def kills_of_product(live: Live) -> dict[str, Any]:
    """Kill the worker that computes; then all of ``quantum up`` by its first process."""
    rng, started = np.random.default_rng(6), []
    command, variables = live.root.cmdline(), live.root.environ()

    def worker() -> list[psutil.Process]:
        return [one for one in live.family() if "quantum_ops.processes.warm_worker" in one.cmdline()]

    def start_again() -> list[psutil.Process]:
        with (live.home / "log").open("ab") as log:
            started.append(psutil.Popen(command, env=variables, stdout=log, stderr=log, cwd=PROJECT))
        return started

    def nothing() -> list[psutil.Process]:
        return []

    try:
        return {
            "what computes": kill(live, 0, worker, nothing, Patience(), rng),
            "its program": kill(live, 1, lambda: [live.root], start_again, Patience(), rng),
        }
    finally:
        for process in started:
            process.send_signal(signal.SIGINT)
            _, left = psutil.wait_procs(tree(process), timeout=STOP_WITHIN_SEC)
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def kill(
    system: System,
    row: int,
    victims: Callable[[], list[psutil.Process]],
    start_again: Callable[[], object],
    patience: Patience,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Kill processes after an answered candle of every symbol, write candles meanwhile, and look at what follows.

    Returns
    -------
    dict
        Whether it went on without help, the seconds until the proposals rest on the newest candle (from that one, or from the
        second start), how many of the candles written meanwhile got a state of their own, and the states written twice.
    """
    system.world.frozen = True  # no other candle, so that a state said again is one written twice
    now = [write(system, one, rng) for one in range(SYMBOLS)]
    wait_until(f"{system.name} to answer", lambda: all(knows(system, one, closed) for one, closed in enumerate(now)), ANSWER_SEC)
    time.sleep(float(rng.uniform(0, BEFORE_KILL_SEC)))
    killed_at = time.time()
    for one in victims():
        with suppress(psutil.NoSuchProcess):
            one.kill()
    closed = []
    for _ in range(MEANWHILE):
        time.sleep(MEANWHILE_EVERY_SEC)
        closed.append(write(system, row, rng))

    def caught_up() -> bool:
        return knows(system, row, closed[-1])

    alone, began = True, time.monotonic()
    try:
        wait_until("it to go on", caught_up, patience.alone_sec)
        seconds = time.monotonic() - began
    except DidNotHappenError:
        alone, began = False, time.monotonic()
        start_again()
        wait_until(f"{system.name}, started again, to catch up", caught_up, START_SEC, POLL_SEC)
        seconds = time.monotonic() - began
    time.sleep(patience.settled_sec)
    system.world.frozen = False
    known = {int(fields[b"timestamp"]) for _, symbol, fields in entries(system) if symbol == system.world.symbols[row]}
    return {
        "goes_on_alone": alone,
        "caught_up_sec": round(seconds, 1),
        "candles_meanwhile": MEANWHILE,
        "with_a_state_of_their_own": sum(one in known for one in closed),
        "states_written_twice": written_twice(system, killed_at),
    }


def entries(system: System) -> list[tuple[float, str, Mapping[bytes, bytes]]]:
    """Read the stream of market states: when, symbol, fields."""
    stream = system.store.client.xrange(system.store.keys.of("stream_market_state"))
    return [(int(name.partition(b"-")[0]) / 1000, fields[b"symbol"].decode(), fields) for name, fields in stream]


def written_twice(system: System, since: float) -> int:
    """Count the states that a symbol's last entry already said, less than a minute before."""
    last: dict[str, tuple[float, tuple[bytes, ...]]] = {}
    count = 0
    for at, symbol, fields in entries(system):
        said = (fields[b"timestamp"], fields[b"sigma"], fields[b"mu"], fields[b"regime"])
        before = last.get(symbol)
        count += before is not None and at >= since and said == before[1] and at - before[0] < TWICE_SEC
        last[symbol] = at, said
    return count


# --- what is left


def left_by(system: Running) -> dict[str, int]:
    """Count what a peer has left of its cycles: lines of its log, flow runs of Prefect's database."""
    lines = (system.home / "log").read_text(errors="replace").count("published ")
    database = system.home / "prefect.db"
    return {"log_lines": lines, **({"run_records": flow_runs(database)} if database.exists() else {})}


def flow_runs(database: Path) -> int:
    """Count Prefect's completed flow runs."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'").fetchone()[0])


def materializations(live: Live) -> int:
    """Count the materializations of harvest proposals that the product's log has."""
    key = dg.AssetKey("harvest_proposal")
    return len(live.instance.fetch_materializations(key, limit=10_000).records)


if __name__ == "__main__":
    main("peers", __doc__, measure)
