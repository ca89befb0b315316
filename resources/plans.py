"""The stream of plans and the record of decisions. A plan is decided once: a permit or a block, never both, never neither."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quantum_assets.contracts.schema import stamps
from quantum_assets.contracts.tables import BLOCK, PERMIT, SEEN_TTL_SEC
from resources.foreign import number_or_none
from resources.redis_store import RedisStore, UnreadableKeyError, flat, pairs

GROUP = "governor"
PLANS_READ_MAX = 1000  # new entries per evaluation
RECLAIM_IDLE_MS = 15_000  # an entry another governor took and left undecided for so long is taken over
EVENTS_MAXLEN = 10_000
REQUIRED = ("plan_id", "symbol", "action", "decision")
NUMBERS = ("kill_score", "qty", "close_qty", "price", "confidence")
NUMBER_MAX = 1e12  # a larger size or price is a fault, and their product must stay finite
_PLAN_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_SYMBOL = re.compile(r"[\w-]{2,40}")

# KEYS[1] seen marker of the plan, KEYS[2] its permit or block, KEYS[3] event stream (absent in a cluster: another slot)
# ARGV[1] stream entry id, ARGV[2] lifetime of the marker, ARGV[3] lifetime of the record, ARGV[4] cap of the stream,
# ARGV[5] count of record values, the record's fields and values, then the event's fields and values
# returns 1, or 0 when the plan was decided before; raises, having written nothing, when a key is of another type
DECIDE_LUA = """
local wanted = {'string', 'hash', 'stream'}
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= wanted[i] and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then return 0 end
local last = 5 + tonumber(ARGV[5])
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], unpack(ARGV, 6, last))
redis.call('EXPIRE', KEYS[2], ARGV[3])
if KEYS[3] then redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, last + 1)) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan as read from the stream.

    Attributes
    ----------
    entry_id
        Stream entry.
    invalid
        Name of the first field that is missing or malformed; empty when the plan can be evaluated.
    qty, price
        Size in base units (absolute) and price in quote units, ``None`` when not given.
    """

    entry_id: str
    plan_id: str
    symbol: str
    action: str = ""
    decision: str = ""
    reduce_only: bool = False
    kill_score: float | None = None
    qty: float | None = None
    price: float | None = None
    invalid: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one plan: granted with the permit's fields, or refused with a reason."""

    plan: Plan
    reason: str
    permit: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Plans nobody has decided: how many (taken and left undecided included), and for which symbols as far as they are new."""

    count: int
    symbols: frozenset[str] = frozenset()


def waiting_plans(store: RedisStore) -> Waiting:
    """Look at the stream without taking anything from it.

    Raises
    ------
    UnreadableKeyError
        Something else than a stream stands under the key.
    """
    stream = store.keys.of("stream_plans")
    (groups,) = store.run("looking for plans", [("XINFO", "GROUPS", stream)])
    if isinstance(groups, Exception) and "no such key" not in str(groups):
        raise UnreadableKeyError(stream, "a stream of plans", groups)
    group = next((row for row in map(_as_text, [] if isinstance(groups, Exception) else groups) if row["name"] == GROUP), {})
    after = group.get("last-delivered-id", "0-0")
    (new,) = store.run("looking for plans", [("XRANGE", stream, f"({after}", "+", "COUNT", PLANS_READ_MAX)])
    plans = [parse_plan(entry_id.decode(), fields) for entry_id, fields in new]
    return Waiting(len(plans) + int(group.get("pending", 0)), frozenset(plan.symbol for plan in plans))


def _as_text(row: Any) -> dict[str, str]:
    return {
        (name.decode() if isinstance(name, bytes) else str(name)): value.decode() if isinstance(value, bytes) else str(value)
        for name, value in pairs(row).items()
    }


class PlanQueue:
    """Reads plans through a consumer group and records decisions.

    Parameters
    ----------
    store
        Where stream and records live.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.stream = store.keys.of("stream_plans")
        self.consumer = f"{socket.gethostname()}-{os.getpid()}"

    def take(self) -> list[Plan]:
        """Take over what a dead governor left undecided, then everything new, oldest first."""
        taken, new = self._ask()
        if isinstance(new, Exception) and "NOGROUP" in str(new):
            self.store.run("creating the plan group", [("XGROUP", "CREATE", self.stream, GROUP, "0", "MKSTREAM")])
            taken, new = self._ask()
        for reply in (taken, new):
            if isinstance(reply, Exception):
                raise UnreadableKeyError(self.stream, "a stream of plans", reply)
        entries = [*taken[1], *(entry for _, rows in (new or ()) for entry in rows)]
        return [parse_plan(entry_id.decode(), fields) for entry_id, fields in entries if fields]

    def _ask(self) -> list[Any]:
        return self.store.run(
            "reading plans",
            [
                ("XAUTOCLAIM", self.stream, GROUP, self.consumer, RECLAIM_IDLE_MS, "0-0", "COUNT", PLANS_READ_MAX),
                ("XREADGROUP", "GROUP", GROUP, self.consumer, "COUNT", PLANS_READ_MAX, "STREAMS", self.stream, ">"),
            ],
        )

    def record(self, decisions: Sequence[Decision], *, cycle_id: str) -> list[bool]:
        """Write each decision with its event, then acknowledge the entries; a plan decided before stays as it was.

        Returns
        -------
        list of bool
            Whether this call decided the plan.
        """
        now = self.store.clock()
        replies = self.store.run("recording decisions", [self._record_command(one, cycle_id, now) for one in decisions])
        if self.store.keys.cluster:
            new = [one for one, reply in zip(decisions, replies, strict=True) if reply == 1]
            events = ("XADD", self.store.keys.of("stream_governor_events"), "MAXLEN", "~", EVENTS_MAXLEN, "*")
            self.store.run("recording events", [(*events, *flat(self._event(one, cycle_id, now))) for one in new])
        broken = [reply for reply in replies if isinstance(reply, Exception)]
        decided = [one for one, reply in zip(decisions, replies, strict=True) if not isinstance(reply, Exception)]
        self.acknowledge([one.plan for one in decided])
        if broken:
            raise UnreadableKeyError(self.store.keys.of("stream_governor_events"), "the record of decisions", broken[0])
        return [reply == 1 for reply in replies]

    def acknowledge(self, plans: Sequence[Plan]) -> None:
        """Tell the group that these entries need no governor any more."""
        if plans:
            self.store.run("acknowledging plans", [("XACK", self.stream, GROUP, *(plan.entry_id for plan in plans))])

    def _record_command(self, decision: Decision, cycle_id: str, now: datetime) -> tuple[Any, ...]:
        plan, keys = decision.plan, self.store.keys
        table = BLOCK if decision.permit is None else PERMIT
        row = {"reason": decision.reason, "timestamp": int(now.timestamp())} if decision.permit is None else decision.permit
        encoded = table.encode(row)
        record = {**encoded, **stamps(table, plan.symbol, encoded, cycle_id, now)}
        names = [keys.of("seen_plan", plan.plan_id), keys.of(table.key, plan.plan_id)]
        if not keys.cluster:
            names.append(keys.of("stream_governor_events"))
        values, event = flat(record), flat(self._event(decision, cycle_id, now))
        limits = (SEEN_TTL_SEC, table.ttl_sec, EVENTS_MAXLEN, len(values))
        return ("EVAL", DECIDE_LUA, len(names), *names, plan.entry_id, *limits, *values, *event)

    @staticmethod
    def _event(decision: Decision, cycle_id: str, now: datetime) -> dict[str, str]:
        plan, granted = decision.plan, decision.permit is not None
        return {
            "event": "PERMIT" if granted else "BLOCK",
            "plan_id": plan.plan_id,
            "symbol": plan.symbol,
            "action": plan.action,
            "granted": "1" if granted else "0",
            "reason": decision.reason,
            "timestamp": str(int(now.timestamp())),
            "cycle_id": cycle_id,
        }


def parse_plan(entry_id: str, raw: Any) -> Plan:
    """Read one stream entry; the first field that is missing or malformed is named in ``invalid``."""
    fields = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in pairs(raw).items()}
    invalid = next((name for name in REQUIRED if not fields.get(name)), "")
    plan_id, symbol = fields.get("plan_id", ""), fields.get("symbol", "")
    if not invalid and not _PLAN_ID.fullmatch(plan_id):
        invalid = "plan_id"
    if not invalid and not _SYMBOL.fullmatch(symbol):
        invalid = "symbol"
    numbers = {name: number_or_none(fields[name]) for name in NUMBERS if fields.get(name)}
    if not invalid:
        invalid = next((name for name, number in numbers.items() if number is None or not 0 <= number <= NUMBER_MAX), "")
    reduce_only = fields.get("reduceOnly", "false").lower()
    if not invalid and reduce_only not in ("true", "false", "1", "0", ""):
        invalid = "reduceOnly"
    return Plan(
        entry_id=entry_id,
        plan_id=plan_id if _PLAN_ID.fullmatch(plan_id) else f"entry-{entry_id}",
        symbol=symbol if _SYMBOL.fullmatch(symbol) else "",
        action=fields.get("action", "")[:64].upper(),
        decision=fields.get("decision", "")[:32],
        reduce_only=reduce_only in ("true", "1"),
        kill_score=numbers.get("kill_score"),
        qty=numbers["qty"] if "qty" in numbers else numbers.get("close_qty"),
        price=numbers.get("price") or None,
        invalid=invalid,
    )
