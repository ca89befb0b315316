"""What the exporter shows: counts that survive every restart, and one reading of everything for both of its ports.

Counts live in Redis. Publications are counted by who publishes (``resources.store.counts``). Decisions and runs are counted
by the exporter, from the governor's events and from Dagster's records, behind a cursor that is stored with the counts in one
script: a crash anywhere counts nothing twice, and two exporters do not either. Formatting is prometheus-client's.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import dagster as dg

from quantum_core.contracts.tables import ALLOCATION_TARGET, GOVERNOR_STATE
from quantum_core.freshness import BELL, Limits, StoredProof, Vital, evaluate
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.governor.gates import GATE_OF
from quantum_core.kernels.governor.risk_guard import GUARDS
from quantum_core.universe import shards
from resources.governor.decisions import INVALID
from resources.governor.events import is_decision
from resources.governor.guards import read_guards
from resources.governor.queue import waiting_plans
from resources.governor.switches import read_switches
from resources.inputs.foreign import number_or_none
from resources.instance.launcher import heartbeat_parts
from resources.instance.retention import FINISHED
from resources.recorder.state import RecorderState, read_state
from resources.store.profiles import bring_up_to_date
from resources.store.redis_store import RedisStore, UnreadableKeyError, epoch_of, flat, texts
from resources.store.transport.scripts import Script
from resources.store.transport.unavailable import RedisUnavailableError
from resources.store.vital_signs import VitalSignsReader

BUCKETS_SEC = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 10.0, 15.0, 30.0, 60.0)  # of a cycle that is due every 10 s
PARTS_OF_A_CYCLE = ("waiting", "running", "total")  # for a worker; on it; from request to end
REASONS_P29 = ("ok", "missing_eff", "stale_eff", "low_conf", "redis_error")
SHOWN = {
    ALLOCATION_TARGET.asset: ("multiplier", "eff_confidence", "eff_score"),
    GOVERNOR_STATE.asset: ("eff_factor", "permits_hour", "permits_5min", "closes_hour", "closes_5min"),
}
EFF_ACTIONS = ("NONE", "DOWNSIZE")
OTHER = "other"  # label of every reason that is none of ours: text from Redis must not make series
INVALID_PLAN = "invalid_plan"  # whatever the field
RUNS_AT_ONCE, EVENTS_AT_ONCE = 500, 5_000  # folded in one collection; more are folded in the next ones
OVERLAP_SEC = 60.0  # a run's end is seen late by a reader of another transaction; runs of so long ago are looked at again
COUNTS = {name: f"counts_{name}" for name in ("published", "decided", "ran", "alerts")}
CURSOR, RECENT = "_cursor", "_recent"

FOLD = Script(__file__, "fold")


@dataclass(frozen=True)
class Look:
    """Everything at one moment; what could not be read is absent, never old.

    Attributes
    ----------
    at
        When, epoch s.
    took_sec
        How long the look took.
    redis_up, dagster_up
        Whether they answered.
    vitals, proofs
        The age of everything that is due, and the proofs' verdicts.
    allocations, permits
        Rows by symbol: multiplier, score and confidence; efficiency factor and permits in the windows.
    published, decided, ran, alerts
        Counts, by field of their hash; ``None`` when they cannot be read.
    beats
        Seconds since each part was heard of, the watcher and the queues of shards included; infinite for one that never was, or
        so long ago that its sign has lapsed.
    switches
        ``killed``, ``disarmed``, each guard, and ``unconfirmed`` for any that waits for a second reading, 0 or 1.
    scopes_disarmed
        Planners and symbols that are disarmed one by one.
    plans_waiting
        Plans nobody has decided; ``None`` when nobody knows.
    cycle_gaps_sec
        By number of the shard: between the ends of its last two cycles, or since the last one where that is longer.
    interval_sec
        PUBLISH_INTERVAL_SEC.
    recorder
        How the recorder is; ``None`` where none has ever run.
    """

    at: float
    took_sec: float
    redis_up: bool
    dagster_up: bool
    vitals: Sequence[Vital] = ()
    proofs: Sequence[StoredProof] = ()
    allocations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    permits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    published: Mapping[str, float] | None = None
    decided: Mapping[str, float] | None = None
    ran: Mapping[str, float] | None = None
    alerts: Mapping[str, float] | None = None
    beats: Mapping[str, float] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)
    scopes_disarmed: int = 0
    plans_waiting: int | None = None
    cycle_gaps_sec: Mapping[str, float] = field(default_factory=dict)
    interval_sec: int = 0
    recorder: RecorderState | None = None


class Collector:
    """Looks, and keeps the counts up to date.

    Parameters
    ----------
    store
        Redis.
    instance
        Dagster's records; ``None`` as long as their storage could not be opened.
    """

    def __init__(self, store: RedisStore, instance: dg.DagsterInstance | None) -> None:
        self.store, self.instance = store, instance
        self.signs = VitalSignsReader(store, SHOWN)

    def look(self) -> Look:
        """Look once; neither Redis nor Dagster being away is an error here."""
        began, now = time.monotonic(), self.store.clock().timestamp()
        try:
            dagster_up = self.instance is not None and fold_runs(self.store, self.instance, _server_time(self.store))
            readings = self._read_signs(now)
        except RedisUnavailableError:
            answers = self.instance is not None and dagster_answers(self.instance)
            return Look(now, time.monotonic() - began, redis_up=False, dagster_up=answers)
        return Look(now, time.monotonic() - began, redis_up=True, dagster_up=dagster_up, **readings)

    def _read_signs(self, now: float) -> dict[str, Any]:
        store, of = self.store, self.store.keys.of
        fold_decisions(store)
        parts = [*heartbeat_parts(store.settings.shards), *([BELL] if store.settings.events else ())]
        firsts = [block[0] for block in shards(store.settings.symbols, store.settings.shards)]
        commands = [("GET", of("heartbeat", part)) for part in parts]
        replies = store.run("reading heartbeats", [*commands, *(("LRANGE", of("cycles", first), 0, 1) for first in firsts)])
        beats, ends = replies[: len(parts)], replies[len(parts) :]
        signs = self.signs.read()
        evaluation = evaluate(signs, Limits.of(store.settings), now)
        allocations, permits = ({one.symbol: one.numbers[asset] for one in signs.symbols} for asset in SHOWN)
        bring_up_to_date(self.store)  # its limits decide what is too old
        switches, guards = read_switches(store), read_guards(store)
        recorder = read_state(store)
        try:
            waiting: int | None = waiting_plans(store).count
        except UnreadableKeyError:
            waiting = None
        return {
            "vitals": evaluation.vitals,
            "proofs": evaluation.proofs,
            "allocations": allocations,
            "permits": permits,
            **{name: counts_in(store, key) for name, key in COUNTS.items()},
            "beats": {part: _age_sec(beat, now) for part, beat in zip(parts, beats, strict=True)},
            "switches": {
                "killed": switches.killed,
                "disarmed": switches.disarmed,
                **{guard: guard in guards.live for guard in GUARDS},
                "unconfirmed": any(said.get("pending") == "True" for said in guards.said.values()),
            },
            "scopes_disarmed": len(switches.scopes),
            "plans_waiting": waiting,
            "cycle_gaps_sec": {str(shard): _gap_sec(reply, now) for shard, reply in enumerate(ends)},
            "interval_sec": store.settings.publish_interval_sec,
            "recorder": recorder if recorder.at is not None else None,
        }


def _server_time(store: RedisStore) -> float:
    (reply,) = store.run("asking for the time", [("TIME",)])
    return store.clock().timestamp() if isinstance(reply, Exception) else epoch_of(reply)


def _epoch(reply: Any) -> float:
    """Read a time; what is missing or no number was endlessly long ago, so that its absence is reported."""
    epoch = number_or_none(reply) if isinstance(reply, bytes) else None
    return -math.inf if epoch is None else epoch


def _age_sec(reply: Any, now: float) -> float:
    """Give the age of a heartbeat, s; infinite when it is from the future."""
    age = now - _epoch(reply)
    return age if age >= -CLOCK_SKEW_SEC else math.inf


def _gap_sec(reply: Any, now: float) -> float:
    ends = reply if isinstance(reply, list) and reply else [None]
    if _age_sec(ends[0], now) == math.inf:
        return math.inf
    return max(after - before for after, before in pairwise([now, *map(_epoch, ends)]))


def counts_in(store: RedisStore, key: str) -> dict[str, float] | None:
    """Read one hash of counts; fields that are none are left out. ``None`` when something else stands there: that is not 0."""
    (reply,) = store.run("reading counts", [("HGETALL", store.keys.of(key))])
    if isinstance(reply, Exception):
        return None
    found = {name: number_or_none(text) for name, text in texts(reply).items() if not name.startswith("_")}
    return {name: number for name, number in found.items() if number is not None}


# --- decisions ------------------------------------------------------------------------------------------------------------------


def fold_decisions(store: RedisStore) -> int:
    """Count the governor's decisions since the last time, per symbol and reason; give how many.

    Raises
    ------
    RedisUnavailableError
        The server is away; they are counted next time.
    """
    key, stream = store.keys.of("counts_decided"), store.keys.of("stream_governor_events")
    (cursor,) = store.run("reading a cursor", [("HGET", key, CURSOR)])
    before = cursor.decode(errors="replace") if isinstance(cursor, bytes) else ""
    after = f"({before}" if before else "-"
    (entries,) = store.run("reading decisions", [("XRANGE", stream, after, "+", "COUNT", EVENTS_AT_ONCE)])
    if isinstance(entries, Exception) or isinstance(cursor, Exception) or not entries:
        return 0
    counts: Counter[str] = Counter()
    for _, raw in entries:
        counts.update(_counted(texts(raw), store.settings.symbols))
    return _fold(store, key, before, entries[-1][0].decode(), "", counts) * counts.total()


def _counted(event: Mapping[str, str], symbols: Iterable[str]) -> list[str]:
    if not is_decision(event):  # a switch, or an event of another program
        return []
    symbol = event.get("symbol", "")
    symbol = symbol if symbol in symbols else OTHER
    if event.get("granted") in ("1", "true"):
        action, reason = event.get("eff_action", ""), event.get("eff_reason", "")
        hint = f"eff:{action if action in EFF_ACTIONS else OTHER}:{reason if reason in REASONS_P29 else OTHER}"
        return [f"allow:{symbol}", hint]
    return [f"block:{symbol}:{block_reason(event.get('reason', ''))}"]


def block_reason(reason: str) -> str:
    """Give the label of a block's reason: one of a closed set."""
    if reason.startswith(INVALID):
        return INVALID_PLAN
    return reason if reason in GATE_OF else OTHER


# --- runs -----------------------------------------------------------------------------------------------------------------------


def fold_runs(store: RedisStore, instance: dg.DagsterInstance, now: float) -> bool:
    """Count the runs that have ended since the last time, and how long cycles took; return whether Dagster answered.

    Runs that ended before the first time are not counted. Now is by a clock that all exporters have in common, epoch s.

    Raises
    ------
    RedisUnavailableError
        Redis is away; they are counted next time.
    """
    key = store.keys.of("counts_ran")
    (reply,) = store.run("reading a cursor", [("HMGET", key, CURSOR, RECENT)])
    if isinstance(reply, Exception):
        return dagster_answers(instance)
    stored_cursor = reply[0].decode(errors="replace") if reply[0] is not None else ""
    recent: dict[str, float] = _recent(reply[1])
    since = number_or_none(stored_cursor)
    first_time = since is None or since > now + OVERLAP_SEC  # or our clock was ahead: what ended by it is noted, and not counted
    since = now if since is None else min(since, now)
    run_filter = dg.RunsFilter(
        statuses=list(FINISHED), updated_after=datetime.fromtimestamp(since, UTC) - timedelta(seconds=OVERLAP_SEC)
    )
    limit = None if first_time else RUNS_AT_ONCE + len(recent)  # what is noted must be all there is
    try:
        records = instance.get_run_records(run_filter, order_by="update_timestamp", ascending=True, limit=limit)
    except Exception:  # noqa: BLE001 - whatever the storage raises means the same here
        return False
    new = [] if first_time else [one for one in records if one.dagster_run.run_id not in recent]
    counts: Counter[str] = Counter()
    for record in new:
        counts.update(_ran(record))
    cursor = min(max([since, *(one.update_timestamp.timestamp() for one in records)]), now)  # a worker's clock may be ahead
    recent |= {one.dagster_run.run_id: one.update_timestamp.timestamp() for one in records}
    still_recent = {run_id: at for run_id, at in recent.items() if at >= cursor - 2 * OVERLAP_SEC}
    if new or first_time:
        _fold(store, key, stored_cursor, repr(cursor), json.dumps(still_recent), counts)
    return True


def dagster_answers(instance: dg.DagsterInstance) -> bool:
    """Ask Dagster's storage for anything."""
    try:
        instance.get_run_records(limit=1)
    except Exception:  # noqa: BLE001 - whatever the storage raises means the same here
        return False
    return True


def _recent(reply: Any) -> dict[str, float]:
    try:
        return {str(run_id): float(at) for run_id, at in json.loads(reply or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _ran(record: dg.RunRecord) -> dict[str, float]:
    run = record.dagster_run
    counts: dict[str, float] = {f"run:{run.job_name}:{run.status.value}": 1}
    if run.job_name == "cycle" and record.start_time and record.end_time:
        created = record.create_timestamp.timestamp()
        waited = max(record.start_time - created, 0.0)
        spans = (waited, record.end_time - record.start_time, record.end_time - created)
        for part, sec in zip(PARTS_OF_A_CYCLE, spans, strict=True):
            bucket = next((limit for limit in BUCKETS_SEC if sec <= limit), "+Inf")
            counts |= {f"bucket:{part}:{bucket}": 1, f"sum:{part}": sec}
    return counts


def _fold(store: RedisStore, key: str, before: str, after: str, recent: str, counts: Mapping[str, float]) -> int:
    added = flat({name: repr(float(amount)) for name, amount in counts.items()})
    (reply,) = store.run("counting", [FOLD([key], before, after, recent, *added)])
    return 0 if isinstance(reply, Exception) else int(reply)
