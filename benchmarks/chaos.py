"""kill -9 of random parts of the live stack at random moments: how soon the loop goes on, and that nothing it leaves is wrong.

``python -m benchmarks.chaos --symbols 566 --kills 40 --seed 1 --json FILE``. Runs ``quantum up`` with its embedded Valkey and
every stream switched on; raw data comes from a thread that outlives the kills. At the end every successful cycle must be in the
flight recorder's archive, once. Exit code 1 when anything is violated.
"""

import argparse
import http.client
import json
import math
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import psutil
import redis
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.live import MOVE_EVERY_SEC, World
from benchmarks.report import head, say, spread
from quantum_core.contracts.schema import ContractError, Table
from quantum_core.contracts.tables import BLOCK, EFFICIENCY_STATE, PERMIT, POSITION, PUBLISHED_TABLES, RISK_PROPOSAL, Keys
from quantum_core.settings import Settings, load_settings
from resources.instance.launcher import SPARE_WORKERS
from resources.io_manager import CYCLE_ID_TAG
from resources.recorder.archive import Archive
from resources.recorder.state import read_state
from resources.store.redis_store import RedisStore, pairs
from resources.store.transport.unavailable import RedisUnavailableError
from sensors.cycle import CYCLE_JOB_NAME, EVENT_JOB_NAME
from sensors.overdue import UNFINISHED
from tests.servers import free_port

PARTS = {  # words of the command line; a worker child is a child of the worker
    "worker": "quantum_ops.processes.warm_worker",
    "worker child": "quantum_ops.processes.warm_worker",
    "daemon": "resources.instance.sensor_daemon",
    "code server": "dagster api grpc",
    "webserver": "quantum_ops.desk.webserver",
    "watch": "quantum_ops.cli watch",
    "recorder": "quantum_ops.cli recorder",
    "valkey": "valkey-server",
}
OURS = (*(table for asset, table in PUBLISHED_TABLES.items() if asset != "capital_efficiency"), EFFICIENCY_STATE)
EVERY_CYCLE = ("position", "risk_proposal", "harvest_proposal", "allocation_target", "risk_guard", "governor_permit")
STREAMS = ("market_state", "risk_proposal", "harvest_proposal", "capital_efficiency", "allocation_target")
MOMENTS = ("any time", "in a cycle", "hand-over")  # the last: between the daemon's request and the worker's first word
HAND_OVER_SEC = 0.1
TIMES = ("back", "resume", "resumed", "gap")
RESUMES_WITHIN_SEC = 15.0  # what is promised, counted from the part being back
GIVE_UP_SEC = 120.0  # a stack that has not resumed by then does not resume
STUCK_SEC = 60  # an unfinished run, or an undecided plan, of this age is stuck
AOF_MAY_LOSE_SEC = 2.0  # appendfsync everysec: while the disk syncs, a write is put off by at most two seconds
GONE_WITHIN_SEC = 15.0  # after the supervisor was killed
SAMPLE_SIZE = 12  # symbols whose hashes must be fresh
PLANS_LOOKED_AT = 24
ROW = ("seq", "cycle_id", "symbol")  # of a published row in the archive
BEFORE = "before this archive began"  # the gap of an archive that begins after the first records
POLL_SEC = 0.05
FLUSH_SEC = 2  # of the recorder: so that kills meet flushes


class DidNotHappenError(RuntimeError):
    """The stack did not do in time what it must; the trial ends here."""


def wait_until(what: str, check: Callable[[], Any], within_sec: float = GIVE_UP_SEC, poll_sec: float = POLL_SEC) -> Any:
    """Wait for a true answer and give it back.

    Raises
    ------
    DidNotHappenError
        None came in time.
    """
    deadline = time.monotonic() + within_sec
    while not (answer := check()):
        if time.monotonic() > deadline:
            msg = f"waited {within_sec:.0f} s for {what}"
            raise DidNotHappenError(msg)
        time.sleep(poll_sec)
    return answer


def settled(look: Callable[[], list[str]], within_sec: float = 5.0) -> list[str]:
    """Give what a look finds once it finds nothing, or when time is up: something may just be starting."""
    with suppress(DidNotHappenError):
        wait_until("a clean look", lambda: not look(), within_sec)
    return look()


class Market(World):
    """Raw data of many symbols for as long as the server answers: prices drift, sizes change, entries stay, and plans come in."""

    restless = True

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store)
        self.drift = np.ones(len(self.symbols))
        self.plans: dict[str, float] = {}

    def marks(self) -> list[float]:
        """Give the price of each symbol now."""
        return [float(price) for price in self.base * self.drift]

    def move(self) -> None:
        """Move every mark by about .2 %, change the size of one position, which starts an event cycle, and add a plan."""
        self.drift *= np.exp(self.rng.normal(0, 0.002, len(self.drift)))
        super().move()
        # The pack's own try of `quantum once` is a cycle beside the loop by design; here cycles must not overlap.
        tried = json.dumps({"at": time.time() - MOVE_EVERY_SEC, "exit_code": 0, "last_line": "kept out by the trial"})
        self.store.run("keeping the single cycle out", [("SET", self.store.keys.of("single_cycle"), tried)])
        plan_id, symbol = f"chaos-{len(self.plans)}", self.symbols[len(self.plans) % len(self.symbols)]
        plan = ("plan_id", plan_id, "symbol", symbol, "action", "PARTIAL_25", "decision", "EXECUTE", "qty", 0.001)
        self.store.run("planning", [("XADD", self.store.keys.of("stream_plans"), "*", *plan)])
        self.plans[plan_id] = time.time()

    def run(self) -> None:
        """Move until told to stop; a server that is away is tried again at the next move."""
        while not self.stopped.wait(MOVE_EVERY_SEC):
            with suppress(RedisUnavailableError):
                self.move()


@dataclass(frozen=True)
class Entry:
    """One stream entry as it was seen: stream, symbol (or plan), server time in s; of a risk proposal also side and stop."""

    stream: str
    symbol: str
    time: float
    side: str = ""
    stop: float = math.nan


class Listener:
    """Reads every stream as it grows: the capped ones forget within two cycles."""

    def __init__(self, keys: Keys) -> None:
        self.assets = {keys.of(f"stream_{asset}"): asset for asset in STREAMS} | {keys.of("stream_governor_events"): "plan"}
        self.last: dict[Any, Any] = dict.fromkeys(self.assets, "0-0")
        self.entries: list[Entry] = []
        self.stopped = threading.Event()
        self.client = redis.Redis()

    def run(self) -> None:
        """Listen until told to stop; while the server is away nothing is written either."""
        while not self.stopped.is_set():
            try:
                self.listen()
            except redis.RedisError:
                self.stopped.wait(0.2)

    def listen(self) -> None:
        """Take what is new in any stream, waiting half a second for it."""
        reply: Any = self.client.xread(self.last, count=2000, block=500)
        for name, entries in reply or ():
            asset = self.assets[name.decode()]
            for entry_id, fields in entries:
                name_of = b"plan_id" if asset == "plan" else b"symbol"
                if name_of not in fields:
                    continue  # of the governor's events the switches are of no plan
                who = fields[name_of].decode()
                proposed = (fields[b"position_side"].decode(), float(fields[b"proposed_sl"])) if asset == "risk_proposal" else ()
                self.entries.append(Entry(asset, who, int(entry_id.split(b"-")[0]) / 1000, *proposed))
            self.last[name.decode()] = entries[-1][0]


@dataclass
class Kill:
    """One kill and what followed.

    Attributes
    ----------
    at
        Epoch seconds; the other times are seconds after it.
    moment
        One of MOMENTS.
    during
        State of the cycle that was hit (``STARTED`` ...), or ``between cycles``.
    alive, back
        When the new process existed, and when it was ready.
    resumed
        When a cycle requested after the kill and finished after ``back`` had succeeded, its hashes in place.
    resume
        From ``back`` to ``resumed``.
    gap
        From the last success before the kill to the first one after it.
    load
        Of the machine, mean of a minute: others on it make everything slower.
    lost_runs
        How the runs of the loop ended that did not succeed meanwhile.
    log
        What the stack said, when something was slow or wrong.
    """

    part: str
    at: float
    moment: str
    during: str
    alive: float = math.nan
    back: float = math.nan
    resumed: float = math.nan
    gap: float = math.nan
    load: float = math.nan
    lost_runs: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def resume(self) -> float:
        """Seconds from the part being back to the loop having resumed."""
        return self.resumed - self.back

    def line(self) -> str:
        """Describe it in one line."""
        slow = "  SLOW" if self.resume > RESUMES_WITHIN_SEC else ""
        wrong = f"  {len(self.violations)} VIOLATED: {self.violations[0]}" if self.violations else ""
        times = f"alive {self.alive:4.1f} back {self.back:4.1f} resumed {self.resume:4.1f} s later, {self.resumed:4.1f} s after"
        lost = f"gap {self.gap:4.1f} lost runs {len(self.lost_runs)} load {self.load}"
        return f"{self.part:12s} {self.moment:10s} {self.during:14s} {times} the kill, {lost}{slow}{wrong}"


class Stack:
    """One ``quantum up`` with its records and its server."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.home, self.port = settings, settings.quantum_home, free_port()
        self.log = self.home / "up.log"
        self.began = time.time()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "QUANTUM_HOME": str(self.home),
            "SYMBOLS": ",".join(settings.symbols),
            "ENABLE_STREAM": str(settings.enable_stream),
            "EFFICIENCY_MODE": settings.efficiency_mode,
            "OPENBLAS_NUM_THREADS": "1",
            "WATCH_PORT": "0",
            "RECORDER_FLUSH_SEC": str(FLUSH_SEC),
        }
        command = [sys.executable, "-m", "quantum_ops.cli", "up", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.root = psutil.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[1], start_new_session=True
            )
        wait_until("the embedded Valkey", self.answers)
        self.store = RedisStore(settings)
        wait_until("the instance", lambda: (self.home / "workspace.yaml").exists())
        self.instance = dg.DagsterInstance.from_config(str(self.home))

    def answers(self) -> bool:
        """Ask the server whether it serves; one that is still loading its file does not."""
        if not self.settings.embedded_url_file.exists():
            return False
        try:
            with redis.Redis.from_url(self.settings.url, socket_timeout=1, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def running(self, part: str) -> list[psutil.Process]:
        """Find the processes of a part, oldest first; one that still waits to be started is none."""
        found = [
            one for one in children(self.root) if PARTS[part] in words(one) and "quantum_ops.processes.tether" not in words(one)
        ]
        if part == "worker child":
            found = [child for worker in found for child in children(worker)]
        return sorted(found, key=lambda one: one.create_time())

    def ready(self, part: str, killed: float, log_from: int) -> bool:
        """Tell whether the new process of a part does its work."""
        if part == "valkey":
            return self.answers()
        if part == "worker":
            return re.search(rb"worker \| .*@.* ready\.", self.log_since(log_from)) is not None
        if part == "recorder":
            return (read_state(self.store).at or 0.0) > killed
        if part == "daemon":
            beat = self.instance.get_daemon_heartbeats().get("SENSOR")
            return beat is not None and beat.timestamp > killed
        if part == "code server":
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(self.home / "code.sock")) == 0
        if part == "webserver":
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/server_info", timeout=2) as page:
                    return bool(page.status == http.HTTPStatus.OK)
            except (OSError, http.client.HTTPException):
                return False
        return True

    def log_since(self, position: int) -> bytes:
        """Read what the stack has printed since a position."""
        with self.log.open("rb") as log:
            log.seek(position)
            return log.read()

    def cycles(
        self, *statuses: dg.DagsterRunStatus, after: float | None = None, limit: int | None = 20, job: str = CYCLE_JOB_NAME
    ) -> list[dg.RunRecord]:
        """List cycles of all symbols, newest first; event cycles where their job is named."""
        created = datetime.fromtimestamp(after, UTC) if after is not None else None
        wanted = dg.RunsFilter(job_name=job, statuses=list(statuses) or None, created_after=created)
        return list(self.instance.get_run_records(wanted, limit=limit))

    def publishers(self, after: float | None = None) -> list[dg.RunRecord]:
        """List every run that publishes, of all symbols or of those of an event."""
        return [record for job in (CYCLE_JOB_NAME, EVENT_JOB_NAME) for record in self.cycles(after=after, limit=None, job=job)]

    def resumed(self, killed: float, back: float) -> float | None:
        """Give the time at which the loop had resumed, ``None`` while it has not."""
        done = [one for one in self.cycles(dg.DagsterRunStatus.SUCCESS, after=killed) if (one.end_time or 0) >= back]
        if not done:
            return None
        began = int(done[-1].start_time or 0)
        sample = self.settings.symbols[:: max(len(self.settings.symbols) // SAMPLE_SIZE, 1)]
        for asset in EVERY_CYCLE:
            for reading in self.store.read(PUBLISHED_TABLES[asset], PUBLISHED_TABLES[asset].subjects(sample)):
                if reading.value is None or reading.value["last_update_epoch"] < began:
                    return None
        return done[-1].end_time

    def stop(self, by: signal.Signals) -> int:
        """End ``quantum up``; give its exit code."""
        self.instance.dispose()
        self.root.send_signal(by)
        try:
            return int(self.root.wait(40))
        except psutil.TimeoutExpired as error:
            msg = f"quantum up did not end within {error.seconds} s"
            raise DidNotHappenError(msg) from None


def words(process: psutil.Process) -> str:
    """Give a command line; empty for a process that has just gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def children(process: psutil.Process, *, recursive: bool = False) -> list[psutil.Process]:
    """List the living children of a process; none when it has just gone."""
    with suppress(psutil.NoSuchProcess):
        return [one for one in process.children(recursive=recursive) if one.status() != psutil.STATUS_ZOMBIE]
    return []


def family(home: Path) -> dict[int, str]:
    """Find every process of the stack wherever it hangs in the process tree; Valkey hides its environment, not its folder."""
    commands = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mine = process.cwd() == str(home / "valkey") or process.environ().get("QUANTUM_HOME") == str(home)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                commands[process.pid] = words(process)
    return commands


def unsupervised(stack: Stack) -> list[str]:
    """Name processes outside the supervised tree, and parts that run more or less often than they must."""
    mine = family(stack.home)
    tree = {stack.root.pid, *(one.pid for one in children(stack.root, recursive=True))}
    orphans = [f"orphan: {pid} {mine[pid]}" for pid in mine.keys() - tree if psutil.pid_exists(pid)]
    expected = dict.fromkeys(PARTS, 1) | {"worker child": stack.settings.shards + SPARE_WORKERS}
    counts = {part: len(stack.running(part)) for part in PARTS}
    return orphans + [f"{counts[part]} x {part}" for part in PARTS if counts[part] != expected[part]]


def stuck(stack: Stack, older_than_sec: float = STUCK_SEC) -> list[str]:
    """Name old unfinished runs, of any job."""
    now, found = time.time(), []
    for record in stack.instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED))):
        run, age = record.dagster_run, now - record.create_timestamp.timestamp()
        if age > older_than_sec:
            found.append(f"stuck: {run.job_name} {run.run_id} {run.status.value} for {age:.0f} s")
    return found


def doubled(entries: Sequence[Entry], records: Sequence[dg.RunRecord]) -> list[str]:
    """Name what a stream holds twice for one symbol and cycle, entries of no cycle, and cycles that overlap or share an id.

    The entries of the proposal streams carry no cycle id: each belongs to the run that had started last, of whichever job that
    publishes.
    """
    runs = sorted((one for one in records if one.start_time), key=lambda one: one.start_time or 0)
    ids = Counter(one.dagster_run.tags.get(CYCLE_ID_TAG) for one in runs)
    violations = [f"cycle id {name} on {count} runs" for name, count in ids.items() if count > 1]
    violations += [
        f"overlap: run {first.dagster_run.run_id} had not ended when {then.dagster_run.run_id} {then.dagster_run.tags} began"
        for first, then in pairwise(runs)
        if (first.end_time or math.inf) > (then.start_time or 0)
    ]
    proposals = [one for one in entries if one.stream != "plan"]
    places = np.searchsorted([one.start_time or 0 for one in runs], [one.time for one in proposals], side="right") - 1
    published: Counter[tuple[str, str, str]] = Counter()
    for entry, place in zip(proposals, places.tolist(), strict=True):
        if place < 0 or entry.time > (runs[place].end_time or math.inf):
            violations.append(f"outside any cycle: {entry.stream} {entry.symbol} at {entry.time}")
        else:
            published[entry.stream, entry.symbol, runs[place].dagster_run.run_id] += 1
    violations += [
        f"doubled: {count} x {stream} {symbol} by run {run}" for (stream, symbol, run), count in published.items() if count > 1
    ]
    plans = Counter(one.symbol for one in entries if one.stream == "plan")
    return violations + [f"doubled: plan {name} decided {count} times" for name, count in plans.items() if count > 1]


def misrecorded(archive: Archive, cycles: Iterable[tuple[str, float, float]], valkey_killed: Sequence[float]) -> list[str]:
    """Name what the archive has lost or doubled.

    Parameters
    ----------
    archive
        Of a stack whose recorder has written everything.
    cycles
        Id, begin and end (epoch s) of each cycle that has succeeded.
    valkey_killed
        When Valkey was killed, epoch s: what it may have lost with that is nobody's fault.
    """
    faults, violations = list(archive.verify()), list[str]()
    records, gaps = (archive.read(table, None, faults).collect() for table in ("records", "gaps"))
    for table, keys in (("records", ("seq", "cycle_id", "asset")), *((asset, ROW) for asset in PUBLISHED_TABLES)):
        rows = archive.read(table, None, faults).collect()
        if rows.width:
            violations += [
                f"archive: {table} twice: {row}" for row in rows.filter(rows.select(keys).is_duplicated()).select(keys).rows()
            ]

    def forgiven(begin: float, end: float) -> bool:
        return any(begin - RESUMES_WITHIN_SEC <= at <= end + AOF_MAY_LOSE_SEC for at in valkey_killed)

    for gap in gaps.iter_rows(named=True):
        at = gap["at"].timestamp()
        if gap["what"] != BEFORE and not forgiven(at - RESUMES_WITHIN_SEC, at):
            violations.append(f"archive: gap {gap['from_seq']} to {gap['to_seq']} at {gap['at']:%H:%M:%S}: {gap['what']}")
    violations += [f"archive: {fault.file} {fault.what}" for fault in dict.fromkeys(faults)]
    if records.is_empty():
        return [*violations, "archive: no record at all"]
    first = records["at"].min().timestamp()  # type: ignore[union-attr]  # a time
    known = {name: set(group["asset"]) for (name,), group in records.group_by("cycle_id")}
    for name, begin, end in cycles:
        missing = [asset for asset in EVERY_CYCLE if asset not in known.get(name, ())]
        if begin > first and missing and not forgiven(begin, end):
            violations.append(f"archive: lost: {', '.join(missing)} of cycle {name}")
    return violations


@dataclass
class Watermark:
    """A number that may only move one way, and when it did: (epoch s, value times direction)."""

    direction: int
    moves: list[tuple[float, float]] = field(default_factory=list)
    forgiven: int = 0

    def fell_behind(self, when: float, value: float, valkey_killed: float) -> float | None:
        """Take the value that stood at a time; give the one it fell behind, unless a killed Valkey may have lost that."""
        signed = value * self.direction
        if not self._below(signed):
            if not self.moves or signed > self.moves[-1][1]:
                self.moves.append((when, signed))
            return None
        self.moves = [move for move in self.moves if not valkey_killed - AOF_MAY_LOSE_SEC <= move[0] <= valkey_killed]
        floor = self.moves[-1][1] * self.direction if self._below(signed) else None
        self.moves.append((when, signed))
        self.forgiven += floor is None
        return floor

    def _below(self, signed: float) -> bool:
        return bool(self.moves) and signed < self.moves[-1][1] - 1e-9 * abs(self.moves[-1][1])


class Judge:
    """Holds what was seen before against what stands now."""

    def __init__(self) -> None:
        self.marks: dict[tuple[str, str], Watermark] = {}
        self.opened: dict[str, float] = {}
        self.heard = 0
        self.valkey_killed = 0.0

    def hashes(self, stack: Stack, plans: Iterable[str] = (), *, complete: bool) -> list[str]:
        """Read every published and kept hash: exactly its fields, its digest, a known cycle, a lifetime; peaks and stops kept.

        Parameters
        ----------
        stack
            Where they live.
        plans
            Plans whose permits and blocks are read too, where there are any.
        complete
            Whether every symbol must have every hash.
        """
        wanted = [(table, name) for table in OURS for name in table.subjects(stack.settings.symbols)]
        wanted += [(table, plan_id) for table in (PERMIT, BLOCK) for plan_id in plans]
        with redis.Redis.from_url(stack.settings.url, socket_timeout=20) as client:
            pipeline: Any = client.pipeline(transaction=False)
            for table, name in wanted:
                pipeline.execute_command("HGETALL", stack.store.keys.of(table.key, name))
                pipeline.execute_command("PTTL", stack.store.keys.of(table.key, name))
            replies = pipeline.execute()
        runs = stack.instance.get_runs()  # after the hashes: a run may have begun meanwhile
        cycles = {run.tags.get(CYCLE_ID_TAG) for run in runs} | {run.run_id for run in runs}
        violations = []
        for (table, name), reply, ttl_ms in zip(wanted, replies[::2], replies[1::2], strict=True):
            raw, where = pairs(reply), f"{table.key} {name}"
            if not raw:
                violations += [f"missing: {where}"] if complete and table in OURS else []
                continue
            if unexpected := {key.decode() for key in raw} ^ set(table.by_name):
                violations.append(f"torn: {where}: {sorted(unexpected)}")
            try:
                row = table.decode(raw)
            except ContractError as error:
                violations.append(f"torn: {where}: {error}")
                continue
            if row["cycle_id"] not in cycles:
                violations.append(f"torn: {where}: no record of cycle {row['cycle_id']}")
            if not row["published_at_utc"].timestamp() <= row["computed_at_utc"].timestamp() < row["last_update_epoch"] + 1:
                violations.append(f"torn: {where}: its clocks disagree")
            if not 0 < ttl_ms <= stack.store.ttl_sec(table) * 1000:
                violations.append(f"lifetime: {where}: {ttl_ms} ms")
            violations += self._kept(table, name, row)
        return violations

    def stops(self, entries: Sequence[Entry]) -> list[str]:
        """Check the stops published since the last look, in their order."""
        new, self.heard = entries[self.heard :], len(entries)
        found = (self._see("proposed stop", one.symbol, one.side, one.time, one.stop) for one in new if one.side)
        return [what for what in found if what]

    def _kept(self, table: Table, symbol: str, row: dict[str, Any]) -> list[str]:
        if table is RISK_PROPOSAL:
            when = row["published_at_utc"].timestamp()
            violations = [self._see("proposed stop", symbol, row["position_side"], when, row["proposed_sl"])]
        elif table is POSITION:
            side, when = row["side"], row["computed_at_utc"].timestamp()
            violations = [self._see("peak", symbol, side, when, row["peak_price" if side == "LONG" else "trough_price"])]
            if row["current_sl"] is not None:
                violations.append(self._see("stop in force", symbol, side, when, row["current_sl"]))
            before = self.opened.get(symbol, row["opened_at_epoch"])
            self.opened[symbol] = row["opened_at_epoch"]
            violations.append(f"forgotten: {symbol} opened at {before}" if before != row["opened_at_epoch"] else "")
        else:
            violations = []
        return [what for what in violations if what]

    def _see(self, what: str, symbol: str, side: str, when: float, value: float) -> str:
        mark = self.marks.setdefault((what, symbol), Watermark(1 if side == "LONG" else -1))
        before = mark.fell_behind(when, value, self.valkey_killed)
        return f"loosened: {what} of {symbol} was {before}, is {value}" if before is not None else ""


class Trial:
    """Stack, raw data and listener of one measurement, and the verdicts on it."""

    def __init__(self, home: Path, symbols: int, seed: int, wait_sec: float) -> None:
        self.settings = load_settings(
            quantum_home=home.resolve(),
            symbols=",".join(f"S{number:04d}USDT" for number in range(symbols)),
            enable_stream=True,
            efficiency_mode="shadow",  # computed and kept by us, while the hash stays another's
            redis_url="",
            redis_host="",
        )
        self.rng = np.random.default_rng(seed)
        self.wait_sec = wait_sec
        self.market = Market(RedisStore(self.settings))
        self.listener = Listener(self.settings.keys)
        self.threads = [threading.Thread(target=one.run, daemon=True) for one in (self.market, self.listener)]
        self.judge = Judge()
        self.kills: list[Kill] = []
        self.violations: list[str] = []
        self.first_cycle_sec: list[float] = []
        self.event_cycles = self.recorded = 0

    @contextmanager
    def running(self) -> Iterator[Stack]:
        """Start everything, wait for the first whole cycle, and leave no process behind."""
        stack: Stack | None = None
        try:
            stack = Stack(self.settings)
            self.market.store = RedisStore(self.settings)
            self.listener.client = redis.Redis.from_url(self.settings.url, socket_timeout=5, socket_connect_timeout=1)
            if not self.market.plans:
                self.market.fill()
                for thread in self.threads:
                    thread.start()
            resumed = wait_until("the first cycle", lambda: stack.resumed(stack.began, stack.began))
            self.first_cycle_sec.append(round(resumed - stack.began, 2))
            self.violations += self.check(stack)
            yield stack
        finally:
            for pid in family(self.settings.quantum_home):
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
            if stack is not None:
                stack.root.wait(STUCK_SEC)  # takes its exit code, so that the interpreter does not count it as forgotten

    def close(self) -> None:
        """End the threads."""
        for one in (self.market, self.listener):
            one.stopped.set()

    def check(self, stack: Stack) -> list[str]:
        """Look at everything that must hold whenever the loop runs."""
        found = self.judge.stops(self.listener.entries)
        found += self.judge.hashes(stack, list(self.market.plans)[-PLANS_LOOKED_AT:], complete=True)
        return found + settled(lambda: unsupervised(stack)) + stuck(stack)

    def wait_for(self, moment: str, stack: Stack) -> None:
        """Wait for a random time, or for the next cycle to be requested and a random part of its way."""
        if moment == "any time":
            time.sleep(self.rng.uniform(0, self.wait_sec))
            return
        last = stack.cycles(dg.DagsterRunStatus.SUCCESS, limit=1)[0]
        takes = (last.end_time or 0) - last.create_timestamp.timestamp()
        wait_until("the next cycle", lambda: stack.cycles(*UNFINISHED, limit=1), poll_sec=0.005)
        time.sleep(self.rng.uniform(0, takes if moment == "in a cycle" else HAND_OVER_SEC))

    def kill(self, stack: Stack, part: str, moment: str) -> Kill:
        """Kill one part and follow what happens until the loop has resumed."""
        self.wait_for(moment, stack)
        old = wait_until(f"a {part} to kill", lambda: stack.running(part))
        log_from = stack.log.stat().st_size
        at = time.time()
        old[0].kill()
        hit = stack.cycles(*UNFINISHED, limit=1)
        kill = Kill(part, at, moment, hit[0].dagster_run.status.value if hit else "between cycles")
        self.kills.append(kill)
        if part == "valkey":
            self.judge.valkey_killed = at

        def reborn() -> bool:
            now = stack.running(part)
            return len(now) >= len(old) and now[-1] not in old

        try:
            wait_until(f"a new {part}", reborn)
            kill.alive = time.time() - at
            wait_until(f"the {part} to be ready", lambda: stack.ready(part, at, log_from))
            kill.back = time.time() - at
            if part == "valkey":  # as its file has it, before anything is written again
                kill.violations += self.judge.stops(self.listener.entries) + self.judge.hashes(stack, complete=False)
            kill.resumed = wait_until("the loop to resume", lambda: stack.resumed(at, at + kill.back)) - at
            kill.violations += self.check(stack)
            self.tell_runs(stack, kill)
        finally:
            self.violations += [f"kill {len(self.kills)}, {part}: {what}" for what in kill.violations]
            if kill.violations or not kill.resume <= RESUMES_WITHIN_SEC:
                kill.log = notable(stack.log_since(log_from))
        return kill

    def tell_runs(self, stack: Stack, kill: Kill) -> None:
        """Add the gap between successes, and the runs that failed meanwhile."""
        records = sorted(stack.publishers(kill.at - GIVE_UP_SEC), key=lambda record: record.create_timestamp)
        cycles = [record for record in records if record.dagster_run.job_name == CYCLE_JOB_NAME]
        ends = sorted(record.end_time for record in cycles if record.dagster_run.is_success and record.end_time)
        before = [end for end in ends if end <= kill.at]
        after = [end for end in ends if end > kill.at]
        kill.load = round(os.getloadavg()[0], 1)
        kill.gap = after[0] - before[-1] if before else math.nan
        for record in records:
            run, ended = record.dagster_run, (record.end_time or 0) - kill.at
            if run.status is dg.DagsterRunStatus.FAILURE and ended > 0:
                logs = stack.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
                why = logs[-1].dagster_event.message if logs and logs[-1].dagster_event else None
                requested = record.create_timestamp.timestamp() - kill.at
                kill.lost_runs.append(f"requested {requested:+.1f} s, failed {ended:+.1f} s: {(why or '')[:200]}")

    def conclude(self, stack: Stack) -> None:
        """Check what can only be told at the end: streams and plans."""
        self.violations += doubled(list(self.listener.entries), stack.publishers())
        self.event_cycles = len(stack.cycles(dg.DagsterRunStatus.SUCCESS, limit=None, job=EVENT_JOB_NAME))
        self.violations += settled(self.undecided)
        self.violations += [f"the harness's own {one.name} has died" for one in self.threads if not one.is_alive()]

    def misrecorded(self, stack: Stack, until: float) -> list[str]:
        """Let the recorder write what is there, and compare the archive with the cycles that had ended by then."""
        archive = Archive(self.settings.recorder_address)
        state = read_state(stack.store)
        wanted = state.seq + state.waiting
        wait_until("the recorder to write everything", lambda: archive.position().seq >= wanted)
        done = [
            (str(one.dagster_run.tags.get(CYCLE_ID_TAG)), one.start_time or 0.0, one.end_time or 0.0)
            for one in stack.cycles(dg.DagsterRunStatus.SUCCESS, limit=None)
        ]
        self.recorded = archive.read("records").collect().height
        killed = [one.at for one in self.kills if one.part == "valkey"]
        return misrecorded(archive, [one for one in done if one[2] < until], killed)

    def undecided(self) -> list[str]:
        """Name plans without a decision; one that a killed Valkey may have lost is none."""
        decided = {one.symbol for one in self.listener.entries if one.stream == "plan"}
        killed = [one.at for one in self.kills if one.part == "valkey"]
        return [
            f"undecided: plan {name} of {datetime.fromtimestamp(when, UTC):%H:%M:%S}"
            for name, when in list(self.market.plans.items())
            if name not in decided and time.time() - when > STUCK_SEC
            if not any(0 <= at - when <= AOF_MAY_LOSE_SEC for at in killed)
        ]

    def left(self) -> list[str]:
        """Name every process that is still there."""
        return [f"left behind: {pid} {command}" for pid, command in family(self.settings.quantum_home).items()]


def notable(log: bytes) -> list[str]:
    """Keep the lines of a log that tell what happened."""
    telling = re.compile(r"ERROR|WARN|Error|ready\.|Started|lost|failed|Launching|Connected|cycle_sensor|not started", re.ASCII)
    return [line[:300] for line in log.decode(errors="replace").splitlines() if telling.search(line)][:100]


def drawn(parts: Sequence[str], kills: int, rng: np.random.Generator) -> list[str]:
    """Draw the parts to kill, each equally often, in random order."""
    rounds = [rng.permutation(list(parts)) for _ in range(-(-kills // len(parts)))]
    return [str(part) for one in rounds for part in one][:kills]


def measure(
    home: Path, *, symbols: int, kills: int, seed: int, moments: Sequence[str], parts: Sequence[str], wait_sec: float = 10.0
) -> dict[str, Any]:
    """Kill parts at random, each in turn at each kind of moment; then stop, start again and kill ``quantum up`` itself.

    Returns
    -------
    dict
        ``violations`` and ``slow`` (texts; empty is good), ``summary`` per part, ``kills`` one by one, and more figures.
    """
    trial = Trial(home, symbols, seed, wait_sec)
    figures: dict[str, Any] = {}
    try:
        with trial.running() as stack:
            for number, part in enumerate(drawn(parts, kills, trial.rng)):
                kill = trial.kill(stack, part, moments[number // len(parts) % len(moments)])
                say(f"{number + 1:3d} {kill.line()}")
            quiet = time.time()
            wait_until("a quiet cycle", lambda: stack.resumed(quiet, quiet))
            trial.violations += trial.check(stack)
            trial.conclude(stack)
            began = time.time()
            code = stack.stop(signal.SIGINT)
            figures["sigint_to_end_sec"] = round(time.time() - began, 2)
            trial.violations += trial.left() + ([f"quantum up ended with {code}"] if code else [])
        stopped = time.time()
        with trial.running() as stack:
            trial.conclude(stack)
            trial.violations += trial.misrecorded(stack, stopped)
            began = time.time()
            stack.stop(signal.SIGKILL)
            trial.violations += settled(trial.left, GONE_WITHIN_SEC)
            figures["supervisor_killed_to_nothing_left_sec"] = round(time.time() - began, 2)
    except DidNotHappenError as error:
        trial.violations.append(str(error))
    trial.close()
    done = [kill for kill in trial.kills if kill.resumed > 0]
    return {
        "symbols": symbols,
        "seed": seed,
        "violations": trial.violations,
        "slow": [f"{kill.part}: {kill.resume:.1f} s" for kill in done if kill.resume > RESUMES_WITHIN_SEC],
        "within_a_cycle": sum(kill.during != "between cycles" for kill in done),
        "lost_runs": sum(len(kill.lost_runs) for kill in done),
        "start_to_first_cycle_sec": trial.first_cycle_sec,
        **figures,
        "event_cycles": trial.event_cycles,
        "stream_entries": dict(Counter(one.stream for one in trial.listener.entries)),
        "plans": len(trial.market.plans),
        "steps_recorded": trial.recorded,
        "values_lost_with_valkey": sum(mark.forgiven for mark in trial.judge.marks.values()),
        "summary": {
            part: {
                name: spread([getattr(kill, name) for kill in done if kill.part == part or part == "all"], 2) for name in TIMES
            }
            for part in ("all", *PARTS)
        },
        "kills": [
            {name: value if value == value else None for name, value in {**asdict(kill), "resume": kill.resume}.items()}
            for kill in trial.kills
        ],
    }


def show(result: dict[str, Any]) -> None:
    """Print the table and what was violated."""
    titles = ("part", "kills", "kill to back", "back to resumed", "kill to resumed", "success to success")
    grid = Grid(*titles, title="p50 / p95 / max, s")
    for part, row in result["summary"].items():
        times = [" / ".join(f"{values[name]:.1f}" for name in ("p50", "p95", "max")) if values else "" for values in row.values()]
        grid.add_row(part, str(row["back"].get("count", 0)), *times)
    console = Console(width=130)
    console.print(grid)
    long = ("violations", "slow", "summary", "kills")
    console.print({name: value for name, value in result.items() if name not in long})
    for text in (*result["violations"], *(f"slower than {RESUMES_WITHIN_SEC:.0f} s: {one}" for one in result["slow"])):
        console.print(f"VIOLATED {text}", style="red", markup=False, highlight=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=566)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--moments", nargs="+", choices=MOMENTS, default=list(MOMENTS))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--home", type=Path, help="instance folder, kept; default: a temporary one")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    before = head()
    with tempfile.TemporaryDirectory() as folder:
        home = chosen.home or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        result = measure(
            home, symbols=chosen.symbols, kills=chosen.kills, seed=chosen.seed, moments=chosen.moments, parts=chosen.parts
        )
    show(result)
    if chosen.json:
        chosen.json.write_text(json.dumps({**before, **result}, indent=1) + "\n")
    sys.exit(bool(result["violations"] or result["slow"]))


if __name__ == "__main__":
    main()
