"""What proofs are judged by: the live Redis, read once for all symbols, each part when a proof first asks for it.

A part that cannot be read raises, and every proof that needs it has then failed: a check that could not be evaluated is no pass.
Nothing is judged here, and nothing is written but by :meth:`Evidence.single_cycle`, which really runs one, and the counters of
:meth:`Evidence.evaluations`.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from quantum_core.contracts.legs import underlying
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ContractError, Table
from quantum_core.contracts.tables import (
    BLOCK,
    EVENTS_STREAM_MAXLEN,
    HARVEST_PROPOSAL,
    NO_SYMBOL,
    PENDING_INTENT,
    PERMIT,
    POSITION,
    PUBLISHED,
    RISK_PROPOSAL,
)
from quantum_core.freshness import Evaluation, Limits, evaluate
from quantum_core.informative import ASSETS as COUNTED_ASSETS
from quantum_core.informative import Hours
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.governor.limits import GovernorLimits, GovernorTheta
from quantum_core.kernels.governor.risk_guard import GUARDS
from quantum_core.profiles.files import ProfileFileError, load, shipped
from quantum_core.profiles.in_force import DoesNotFitError, in_force
from quantum_core.profiles.profile import LOCKED, Profile, ProfileError
from quantum_core.settings import load_settings
from quantum_core.universe import shards
from resources.governor.limits import COUNTED_IN, theta_of
from resources.governor.permit import permit_fields
from resources.governor.plan import OTHER_PERMITS
from resources.inputs.candle_series import Candles
from resources.inputs.candles import CandleReader
from resources.instance.launcher import has_warm_workers, heartbeat_parts
from resources.store.failures import read_failures
from resources.store.informative import count_evaluations
from resources.store.profiles import InForce, history, profile_now
from resources.store.redis_store import RedisStore, UnreadableKeyError, pairs, texts
from resources.store.vital_signs import VitalSignsReader

SOURCE_ROOT = Path(__file__).resolve().parents[2]
# All but the feed, which never meets them.
PACKAGES = ("quantum_core", "resources", "quantum_lab", "quantum_assets", "sensors", "quantum_ops")
OF_NO_SYMBOL = ("stream_plans", "stream_risk_events")  # one stream, in a cluster, too
DECISIONS = ("PERMIT", "BLOCK")  # of the governor's events; the others are switches
SPARE_CANDLES = 60  # read beyond the window: a state may be some candles old, and must still be found
ENTRIES_PER_SYMBOL, ENTRIES_SPARE = 8, 100  # of a stream: a value is published at least every minute, at most every 10 s
PLANS_LOOKED_AT = 500
SCAN_CALLS_MAX, SCAN_COUNT = 200, 1000  # a server that is not ours alone is not searched for ever
SINGLE_CYCLE_EVERY_SEC = 600  # an interpreter of its own costs seconds
SINGLE_CYCLE_WITHIN_SEC = 20  # three times what it takes; the whole pack is ended after a minute
FAILURE_REMEMBERED_SEC = 30  # so that the second look does not try again
AGAIN_AFTER_SEC = 120  # a machine too busy for one try is not asked for the next at once
TIMED_OUT = -1  # exit code of a try that did not end in time
MATERIALIZATIONS_MAX = 500


class Entry(NamedTuple):
    """One stream entry: server time in s, its fields as text, and its id."""

    time: float
    fields: dict[str, str]
    entry_id: str


class Record(NamedTuple):
    """A permit, block or intent as it stands: its fields as text, its lifetime in ms (-1 without one)."""

    fields: dict[str, str]
    ttl_ms: int


class Module(NamedTuple):
    """What the source of a module names.

    Attributes
    ----------
    imports
        What it imports, dotted, wherever in the file it does so.
    attributes
        What it takes of a name, as ``sys.path``, and of anything else, as ``.path``.
    """

    imports: frozenset[str]
    attributes: frozenset[str]


class SingleCycle(NamedTuple):
    """What ``quantum once`` did when it was last tried, epoch s."""

    at: float
    exit_code: int
    last_line: str
    timed_out_at: float = 0.0  # when a later try did not end in time, which says more about the load than about it


class Evidence:
    """What one run of the pack has read.

    Parameters
    ----------
    store
        Server, settings and clock.
    instance
        The Dagster instance, where there is one; proofs that need its records fail without it.
    source_root
        Folder of the product's own modules.
    hurried
        Whether somebody waits for the answer, or asks with settings of his own: `quantum once`, which takes seconds and
        publishes, is then not tried; the result of the pack's last try stands for it.
    universe
        All symbols of the deployment, where only some of them are judged: a cycle is that of a shard of these.
    """

    def __init__(
        self,
        store: RedisStore,
        instance: dg.DagsterInstance | None = None,
        source_root: Path = SOURCE_ROOT,
        *,
        hurried: bool = False,
        universe: Sequence[str] = (),
    ) -> None:
        self.store, self.settings, self.keys = store, store.settings, store.keys
        self.symbols: Sequence[str] = store.settings.symbols
        self._universe = universe if set(self.symbols) <= set(universe) else self.symbols
        self.now = store.clock().timestamp()
        self.source_root = source_root
        self._instance, self._hurried = instance, hurried
        self._profiles: dict[tuple[str, str], list[Profile]] = {}
        self._parameters: dict[str, dict[str, dict[str, Any]]] = {}

    # --- hashes ----------------------------------------------------------------------------------------------------------

    @cached_property
    def _hashes(self) -> Mapping[tuple[str, str], tuple[Any, int]]:
        """Every hash with its lifetime, in one round trip."""
        subjects = [(table, symbol) for table in PUBLISHED for symbol in table.subjects(self.symbols)]
        names = [self.keys.of(table.key, symbol) for table, symbol in subjects]
        replies = self.store.run(
            "collecting evidence", (command for name in names for command in (("HGETALL", name), ("PTTL", name)))
        )
        both = zip(replies[::2], replies[1::2], strict=True)
        return {(table.asset, symbol): pair for (table, symbol), pair in zip(subjects, both, strict=True)}

    def raw(self, table: Table) -> dict[str, dict[str, str]]:
        """Give the hashes of a table that are there, as text; unreadable ones are left out (see :meth:`rows`)."""
        found = {}
        for symbol in table.subjects(self.symbols):
            reply, _ = self._hashes[table.asset, symbol]
            if reply and not isinstance(reply, Exception):
                found[symbol] = texts(reply)
        return found

    def readings(self, table: Table) -> dict[str, Reading[dict[str, Any]]]:
        """Decode the hashes of a table, in three states."""
        return self._readings[table.asset]

    @cached_property
    def _readings(self) -> Mapping[str, dict[str, Reading[dict[str, Any]]]]:
        return {
            table.asset: {symbol: self._reading(table, symbol) for symbol in table.subjects(self.symbols)} for table in PUBLISHED
        }

    def _reading(self, table: Table, symbol: str) -> Reading[dict[str, Any]]:
        reply, _ = self._hashes[table.asset, symbol]
        if isinstance(reply, Exception):
            return Reading.failed(symbol, f"unreadable: {reply}")
        if not reply:
            return Reading.absent(symbol, "missing")
        try:
            return Reading.present(symbol, table.decode(pairs(reply)))
        except ContractError as error:
            return Reading.failed(symbol, str(error))

    def rows(self, table: Table) -> dict[str, dict[str, Any]]:
        """Give the decoded rows of a table that keep their contract; the others are what its ``contract`` proof is for."""
        return {symbol: one.value for symbol, one in self.readings(table).items() if one.value is not None}

    def lifetimes_ms(self, table: Table) -> dict[str, int]:
        """Give the time to live of each hash that is there; -1 without one."""
        return {symbol: int(self._hashes[table.asset, symbol][1]) for symbol in self.raw(table)}

    @cached_property
    def evaluations(self) -> Mapping[str, Hours]:
        """Counters of what the evaluations of each symbol gave; the newest are counted, unless they have been before."""
        tables = [table for table in PUBLISHED if table.asset in COUNTED_ASSETS]
        of_open = {symbol: row for symbol, row in self.rows(POSITION).items() if row["held"]}
        rows = {table.asset: self.rows(table) for table in tables}
        for asset in (RISK_PROPOSAL.asset, HARVEST_PROPOSAL.asset):  # of a position that is closed the last row stands a while
            rows[asset] = {symbol: row for symbol, row in rows[asset].items() if symbol in of_open}
        return count_evaluations(self.store, rows, self.symbols, self.in_force.profile, self.candles)

    @cached_property
    def open_positions(self) -> list[str]:
        """Symbols that hold a position now: proposals are due for them."""
        return [symbol for symbol, row in self.rows(POSITION).items() if row["held"]]

    # --- profiles --------------------------------------------------------------------------------------------------------

    @cached_property
    def in_force(self) -> InForce:
        """The profile in force now.

        Raises
        ------
        ProfileError
            The record of uses cannot be read, and nobody remembers what it said.
        """
        return profile_now(self.store)

    @cached_property
    def _other_profiles(self) -> list[Profile]:
        """Profiles that a row may name besides the one in force: shipped ones, and what was ever put in force."""
        profiles = []
        for name in shipped():
            with suppress(ProfileFileError, DoesNotFitError):
                profiles.append(in_force(load(name), self.settings))
        for use in history(self.store):
            with suppress(ProfileError, DoesNotFitError):
                profiles.append(in_force(use.profile(), self.settings))
        return profiles

    def profiles_of(self, row: Mapping[str, Any], symbol: str) -> list[Profile]:
        """Give the profiles whose parameters of a symbol are those a row names: usually one, none where nobody knows them.

        They may differ in the parameters of other symbols. A row that names none was published by an older version, or by
        another program: it is judged by the specification, with the settings.
        """
        fingerprint = row.get("profile") or ""
        key = fingerprint, underlying(symbol)
        if key not in self._profiles:
            self._profiles[key] = self._search(fingerprint, symbol)
        return self._profiles[key]

    def _search(self, fingerprint: str, symbol: str) -> list[Profile]:
        if not fingerprint:
            return [in_force(LOCKED, self.settings)]
        for likely in (self.in_force.profile, self.settings.own_profile):
            if likely.fingerprint_of(symbol) == fingerprint:
                return [likely]
        return [one for one in self._other_profiles if one.fingerprint_of(symbol) == fingerprint]

    def profile_of(self, row: Mapping[str, Any], symbol: str) -> Profile | None:
        """Give the profile a row was computed with; ``None`` where nobody knows it."""
        return next(iter(self.profiles_of(row, symbol)), None)

    def parameters_of(self, row: Mapping[str, Any], symbol: str) -> dict[str, dict[str, Any]] | None:
        """Give the parameters a row was computed with, by section; ``None`` where nobody knows them."""
        profile = self.profile_of(row, symbol)
        if profile is None:
            return None
        fingerprint = profile.fingerprint_of(symbol)
        if fingerprint not in self._parameters:
            self._parameters[fingerprint] = profile.parameters(symbol)
        return self._parameters[fingerprint]

    def limits_of(self, row: Mapping[str, Any], symbol: str) -> GovernorTheta:
        """Give the limits a decision was made by; those in force where nobody knows them."""
        profile = self.profile_of(row, symbol) if row.get("profile") else None
        return theta_of(self.settings, (profile or self.in_force.profile).theta(GovernorLimits, symbol))

    # --- candles, streams, records ---------------------------------------------------------------------------------------

    @cached_property
    def candles(self) -> Mapping[str, Reading[Candles]]:
        """Closed candles of each symbol: a window, and some more."""
        window = self.settings.marketstate_window_size + SPARE_CANDLES
        return {one.symbol: one for one in CandleReader(self.store).read(self.symbols, window=window)}

    def stream(self, name: str, count: int | None = None) -> list[Entry]:
        """Give the newest entries of a stream, oldest first.

        Raises
        ------
        UnreadableKeyError
            Something else stands under the key.
        """
        wanted = count or ENTRIES_PER_SYMBOL * len(self.symbols) + ENTRIES_SPARE
        of_all = not self.keys.cluster or name in OF_NO_SYMBOL
        keys = {self.keys.of(name)} if of_all else {self.keys.of(name, symbol) for symbol in (*self.symbols, NO_SYMBOL)}
        entries: list[Entry] = []
        for key, reply in zip(
            keys, self.store.run(f"reading {name}", [("XREVRANGE", key, "+", "-", "COUNT", wanted) for key in keys]), strict=True
        ):
            if isinstance(reply, Exception):
                raise UnreadableKeyError(key, "a stream", reply)
            entries += [Entry(int(name.split(b"-")[0]) / 1000, texts(fields), name.decode()) for name, fields in reversed(reply)]
        return entries

    @cached_property
    def plans(self) -> list[Entry]:
        """The newest plans."""
        return self.stream("stream_plans", PLANS_LOOKED_AT)

    @cached_property
    def decisions(self) -> list[Entry]:
        """The newest decisions of the governor."""
        events = self.stream("stream_governor_events", EVENTS_STREAM_MAXLEN)
        return [entry for entry in events if entry.fields.get("event") in DECISIONS]

    @cached_property
    def granted(self) -> Mapping[tuple[str, str], int]:
        """Permits of each symbol and kind (opening, closing) within the hour, as the governor itself counts them."""
        asked = [(symbol, kind) for symbol in self.symbols for kind in COUNTED_IN]
        keys = [self.keys.of(COUNTED_IN[kind][0], symbol) for symbol, kind in asked]
        replies = self.store.run("counting permits", [("LRANGE", key, 0, -1) for key in keys])
        lists = [() if isinstance(reply, Exception) else reply for reply in replies]
        return {one: sum(self.now - float(text) < 3600 for text in mine) for one, mine in zip(asked, lists, strict=True)}

    @cached_property
    def permits(self) -> Mapping[str, Record]:
        """Every permit there is, by plan."""
        return self._records(PERMIT)

    @cached_property
    def blocks(self) -> Mapping[str, Record]:
        """Every block there is, by plan."""
        return self._records(BLOCK)

    @cached_property
    def guards(self) -> Mapping[str, tuple[Any, int]]:
        """Every live guard of the account: what it holds (or why that cannot be read), and its lifetime in ms, -1 without one."""
        names = [self.keys.of("guard_active", guard) for guard in GUARDS]
        replies = self.store.run("reading guards", [one for name in names for one in (("GET", name), ("PTTL", name))])
        both = zip(GUARDS, replies[::2], replies[1::2], strict=True)
        return {guard: (reply, int(ttl_ms)) for guard, reply, ttl_ms in both if reply is not None}

    @cached_property
    def risk_events(self) -> list[Entry]:
        """What the risk guard has announced, oldest first."""
        return self.stream("stream_risk_events", EVENTS_STREAM_MAXLEN)

    @cached_property
    def intents(self) -> Mapping[str, Record]:
        """Every pending intent there is, by id, whosever symbol it is of."""
        return self._records(PENDING_INTENT)

    def _records(self, table: Table) -> dict[str, Record]:
        pattern = self.keys.of(table.key, "*", slot="*")
        before = len(self.keys.of(table.key, "", slot="")) if not self.keys.cluster else 0
        others = tuple(self.keys.of(PERMIT.key, one).encode() for one in OTHER_PERMITS)
        names = sorted(name for name in set(self._scan(pattern)) if not name.startswith(others))
        reads = ("HGETALL", "PTTL", "GET") if table is PERMIT else ("HGETALL", "PTTL")  # a permit may be a string
        replies = self.store.run(f"reading {table.key}", [(read, name) for name in names for read in reads])
        records = {}
        every = len(reads)
        for at, name in enumerate(names):
            reply, ttl_ms, *text = replies[at * every : (at + 1) * every]
            plan_id = (name[before:] if not self.keys.cluster else name.rpartition(b"}:")[2]).decode(errors="replace")
            if text and (fields := permit_fields(reply, *text)):
                records[plan_id] = Record(texts(fields), int(ttl_ms))
            elif isinstance(reply, Exception):
                records[plan_id] = Record({"unreadable": str(reply)}, int(ttl_ms))
            elif reply:  # else it has expired since
                records[plan_id] = Record(texts(reply), int(ttl_ms))
        return records

    def _scan(self, pattern: str) -> Iterator[bytes]:
        cursor = b"0"
        for _ in range(SCAN_CALLS_MAX):
            (reply,) = self.store.run(f"looking for {pattern}", [("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)])
            cursor, names = reply[0], reply[1]
            yield from names
            if int(cursor) == 0:
                return
        msg = f"{SCAN_CALLS_MAX * SCAN_COUNT} keys searched for {pattern} without an end; give the product a database of its own"
        raise TimeoutError(msg)

    # --- other hashes and marks ------------------------------------------------------------------------------------------

    def foreign(self, key: str) -> dict[str, Reading[dict[bytes, bytes]]]:
        """Read a hash of another program, per symbol, as it stands."""
        return {one.symbol: one for one in self.store.read_raw(key, self.symbols)}

    @cached_property
    def heartbeats(self) -> Mapping[str, float]:
        """Seconds since each part was last heard of; parts never heard of are left out.

        Raises
        ------
        UnreadableKeyError
            Something else stands under a key: whether the part was ever heard of is not known.
        """
        parts = heartbeat_parts(self.settings.shards)
        replies = self.store.run("reading heartbeats", [("GET", self.keys.of("heartbeat", part)) for part in parts])
        for part, reply in zip(parts, replies, strict=True):
            if isinstance(reply, Exception):
                raise UnreadableKeyError(self.keys.of("heartbeat", part), "a time", reply)
        return {part: self.now - float(reply) for part, reply in zip(parts, replies, strict=True) if isinstance(reply, bytes)}

    @property
    def cold(self) -> bool:
        """Whether each run starts an interpreter of its own, as with plain ``dagster dev``, which brings no watcher either."""
        return self._instance is not None and not has_warm_workers(self._instance)

    @cached_property
    def freshness(self) -> Evaluation:
        """How old everything that is due is."""
        return evaluate(VitalSignsReader(self.store).read(), Limits.of(self.settings), self.now)

    @cached_property
    def cycles(self) -> list[list[float]]:
        """When the last cycles of each shard with a symbol to be judged ended, epoch s, newest first."""
        judged = set(self.symbols)
        blocks = [block for block in shards(self._universe, self.settings.shards) if judged.intersection(block)]
        keys = [self.keys.of("cycles", block[0]) for block in blocks]
        replies = self.store.run("reading cycles", [("LRANGE", key, 0, -1) for key in keys])
        for key, reply in zip(keys, replies, strict=True):
            if isinstance(reply, Exception):
                raise UnreadableKeyError(key, "a list of times", reply)
        return [[float(text) for text in reply] for reply in replies]

    @cached_property
    def materializations(self) -> Mapping[str, list[tuple[float, str]]]:
        """When and why the newest harvest proposals of each symbol were materialized, newest first.

        Raises
        ------
        RuntimeError
            There is no instance to ask.
        """
        if self._instance is None:
            msg = "no Dagster instance was given"
            raise RuntimeError(msg)
        limit = min(4 * len(self.symbols), MATERIALIZATIONS_MAX)
        key = dg.AssetKey(self.store.settings.asset_path(HARVEST_PROPOSAL.asset))
        records = self._instance.fetch_materializations(key, limit=limit).records
        causes: dict[str, list[tuple[float, str]]] = {}
        for record in records:
            event = record.asset_materialization
            if event is not None and event.partition is not None and event.partition in self.symbols:
                cause = event.metadata.get("published_because")
                causes.setdefault(event.partition, []).append((record.timestamp, str(cause.value) if cause else ""))
        return causes

    @cached_property
    def single_cycle(self) -> SingleCycle:
        """Try ``quantum once`` in a process of its own, or remember how it went a few minutes ago.

        Raises
        ------
        RuntimeError
            It may not be tried now, and nobody remembers.
        """
        key, last = self.keys.of("single_cycle"), None
        (reply,) = self.store.run("looking for the last single cycle", [("GET", key)])
        if isinstance(reply, bytes):
            with suppress(ValueError, TypeError):
                last = SingleCycle(**json.loads(reply))
                remembered_sec = SINGLE_CYCLE_EVERY_SEC if last.exit_code == 0 else FAILURE_REMEMBERED_SEC
                busy = 0 <= self.now - last.timed_out_at < AGAIN_AFTER_SEC
                if self._hurried or busy or -CLOCK_SKEW_SEC <= self.now - last.at < remembered_sec:
                    return last
        if self._hurried:
            msg = "the pack has not tried `quantum once` in the last 20 minutes; look whether its sensor `proofs` runs"
            raise RuntimeError(msg)
        tried = self._try_single_cycle()
        lifetime: tuple[Any, ...] = ("EX", 2 * SINGLE_CYCLE_EVERY_SEC)
        if tried.exit_code == TIMED_OUT and last is not None and last.exit_code == 0:  # stands until it expires
            tried, lifetime = last._replace(timed_out_at=tried.at), ("KEEPTTL", "XX")
        self.store.run("remembering the single cycle", [("SET", key, json.dumps(tried._asdict()), *lifetime)])
        return tried

    def _try_single_cycle(self) -> SingleCycle:
        failing = read_failures(self.store, [table.asset for table in PUBLISHED])
        named = {symbol for by_symbol in failing.values() for symbol in by_symbol}
        symbol = next((one for one in self.symbols if one not in named), self.symbols[0])  # others have alerts
        once = [sys.executable, "-m", "quantum_ops.cli", "once", "--symbols", symbol]
        tether = [sys.executable, "-m", "quantum_ops.processes.tether", str(os.getpid())]  # it must not outlive a killed worker
        command = [*tether, *once]
        environment = {**os.environ, "QUANTUM_HOME": str(self.settings.quantum_home)}
        if load_settings().url != self.settings.url:  # else it stands in the environment, in a file or a credential already
            environment["REDIS_URL"] = self.settings.url
        try:
            done = subprocess.run(
                command, cwd="/", env=environment, capture_output=True, text=True, timeout=SINGLE_CYCLE_WITHIN_SEC, check=False
            )
        except subprocess.TimeoutExpired:
            return SingleCycle(self.store.clock().timestamp(), TIMED_OUT, f"did not end within {SINGLE_CYCLE_WITHIN_SEC} s")
        lines = done.stderr.strip().splitlines()
        return SingleCycle(self.now, done.returncode, lines[-1][-300:] if lines else "")

    # --- the product's own modules ---------------------------------------------------------------------------------------

    @cached_property
    def modules(self) -> Mapping[str, Module]:
        """What every module of the code location names, by dotted name."""
        files = [path for package in PACKAGES for path in sorted((self.source_root / package).rglob("*.py"))]
        files.append(self.source_root / "definitions.py")
        return {_dotted(path.relative_to(self.source_root)): _module(path.read_text()) for path in files}


@lru_cache(maxsize=512)
def _module(source: str) -> Module:
    """Parse a module once for all runs of this process; the trees of all modules would be 70 MB."""
    imports: set[str] = set()
    attributes: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports.update({node.module, *(f"{node.module}.{name.name}" for name in node.names)})
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            imports.add(str(getattr(node.args[0], "value", "")))
        elif isinstance(node, ast.Attribute):
            attributes.add(f"{node.value.id}.{node.attr}" if isinstance(node.value, ast.Name) else f".{node.attr}")
    return Module(frozenset(imports), frozenset(attributes))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_present(reading: Reading[Any]) -> bool:
    """Return whether something was read."""
    return reading.state is State.PRESENT
