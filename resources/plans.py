"""The stream of plans and the record of decisions. A plan is decided once: a permit or a block, never both, never neither."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from quantum_assets.contracts.schema import DIGEST, stamps
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

LIMITS = ("hourly_limit_exceeded", "burst_limit_exceeded", "daily_limit_exceeded")  # gates 7 to 9, in their order
HOUR_SEC, BURST_SEC = 3600, 300
USD, QTY = "usd", "qty"  # notional where a price is known, else size: never added up

# KEYS[1] seen marker of the plan, KEYS[2] its permit, KEYS[3] its block, KEYS[4] permits of the symbol (list of epoch s, newest
#         first), KEYS[5] what the symbol was permitted today, KEYS[6] event stream
# ARGV[1] stream entry id, ARGV[2] lifetime of the marker, ARGV[3] now, epoch s, ARGV[4] reason of an earlier gate or empty,
#         ARGV[5..7] permits allowed in an hour and in five minutes, amount allowed in a day, ARGV[8] amount of the plan,
#         ARGV[9], ARGV[10] lifetimes of permit and block, ARGV[11] cap of the event stream,
#         ARGV[12] JSON: permit, block (fields and values, flat), digests (of the block, by reason), event (flat)
# returns {1, reason or empty, permits before in the hour, in five minutes, amount before today}, or {0} when the plan was decided
#         before; raises, having written nothing, when a key is of another type or holds something else than numbers
DECIDE_LUA = """
local wanted = {'string', 'hash', 'hash', 'list', 'string', 'stream'}
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= wanted[i] and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
local now, hour, burst = tonumber(ARGV[3]), 0, 0
for _, text in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do
  local when = tonumber(text)
  if not when then return redis.error_reply('WRONGTYPE ' .. KEYS[4] .. ' holds ' .. text) end
  if now - when < 3600 then hour = hour + 1 end
  if now - when < 300 then burst = burst + 1 end
end
local today = redis.call('GET', KEYS[5]) or '0'
local day, amount, reason = tonumber(today), tonumber(ARGV[8]), ARGV[4]
if not day then return redis.error_reply('WRONGTYPE ' .. KEYS[5] .. ' holds ' .. today) end
if reason == '' then
  if hour >= tonumber(ARGV[5]) then reason = 'hourly_limit_exceeded'
  elseif burst >= tonumber(ARGV[6]) then reason = 'burst_limit_exceeded'
  elseif not amount or not (day + amount <= tonumber(ARGV[7])) then reason = 'daily_limit_exceeded' end
end
local said = cjson.decode(ARGV[12])
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('DEL', KEYS[2], KEYS[3])
if reason == '' then
  redis.call('HSET', KEYS[2], unpack(said.permit))
  redis.call('EXPIRE', KEYS[2], ARGV[9])
  redis.call('LPUSH', KEYS[4], ARGV[3])
  redis.call('LTRIM', KEYS[4], 0, 99)
  redis.call('EXPIRE', KEYS[4], 86400)
  redis.call('INCRBYFLOAT', KEYS[5], ARGV[8])
  redis.call('EXPIRE', KEYS[5], 172800)
else
  redis.call('HSET', KEYS[3], 'reason', reason, 'digest', said.digests[reason], unpack(said.block))
  redis.call('EXPIRE', KEYS[3], ARGV[10])
end
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[11], '*', 'event', reason == '' and 'PERMIT' or 'BLOCK',
  'granted', reason == '' and '1' or '0', 'reason', reason, 'permits_hour', hour, 'permits_5min', burst, 'day_total', today,
  unpack(said.event))
return {1, reason, hour, burst, today}
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
    source
        What the plan says of itself, e.g. ``example``.
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
    source: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one plan: granted with the permit's fields, or refused with a reason.

    Attributes
    ----------
    plan
        The plan.
    reason
        First gate that is shut; empty when all before the limits are open. The limits themselves are counted when it is recorded.
    permit
        Fields of the permit, if it comes to that.
    facts
        What it was judged by, for the record, as text.
    """

    plan: Plan
    reason: str
    permit: Mapping[str, Any] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def granted(self) -> bool:
        """Whether no gate is shut."""
        return not self.reason


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
        if isinstance(taken, Exception) and "NOGROUP" in str(taken):
            taken = (b"0-0", ())  # another governor made the group between the two questions: nobody has left anything yet
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

    def record(self, decisions: Sequence[Decision], *, cycle_id: str) -> list[Decision | None]:
        """Count each plan against the limits, write its permit or block with its event, then acknowledge the entries.

        Returns
        -------
        list
            The decision as it was recorded, ``None`` for a plan that was decided before and stays as it was.
        """
        now = self.store.clock()
        replies = self.store.run("recording decisions", [self._record_command(one, cycle_id, now) for one in decisions])
        failed = [row for row, reply in enumerate(replies) if isinstance(reply, Exception)]
        if failed:  # what cannot be counted is no: one symbol's bad key stops neither its own plans nor those of others
            refused = [replace(decisions[row], reason="evaluation_error") for row in failed]
            commands = [self._record_command(one, cycle_id, now, counted=False) for one in refused]
            for row, reply in zip(failed, self.store.run("refusing what cannot be counted", commands), strict=True):
                replies[row] = reply
        broken = [reply for reply in replies if isinstance(reply, Exception)]
        self.acknowledge([one.plan for one, reply in zip(decisions, replies, strict=True) if not isinstance(reply, Exception)])
        if broken:
            raise UnreadableKeyError(self.store.keys.of("stream_governor_events"), "the record of decisions", broken[0])
        return [
            replace(one, reason=reply[1].decode()) if reply[0] else None for one, reply in zip(decisions, replies, strict=True)
        ]

    def acknowledge(self, plans: Sequence[Plan]) -> None:
        """Tell the group that these entries need no governor any more."""
        if plans:
            self.store.run("acknowledging plans", [("XACK", self.stream, GROUP, *(plan.entry_id for plan in plans))])

    def _record_command(self, decision: Decision, cycle_id: str, now: datetime, *, counted: bool = True) -> tuple[Any, ...]:
        plan, settings, of = decision.plan, self.store.settings, self.store.keys.of
        unit, amount = _amount(decision)
        names = (
            of("seen_plan", plan.plan_id),
            of(PERMIT.key, plan.plan_id),
            of(BLOCK.key, plan.plan_id),
            of("permits_granted", plan.symbol) if counted else of("seen_plan", plan.plan_id) + ":uncounted",
            of("permitted_today", plan.symbol) + f":{now.astimezone(UTC).date().isoformat()}:{unit}"
            if counted
            else of("seen_plan", plan.plan_id) + ":uncounted",
            of("stream_governor_events"),
        )
        blocks = {reason: self._block(plan, reason, cycle_id, now) for reason in {decision.reason, *LIMITS} if reason}
        block = {name: text for name, text in next(iter(blocks.values())).items() if name not in ("reason", DIGEST)}
        permit: Mapping[str, str] = {}
        if decision.permit is not None:
            encoded = PERMIT.encode(decision.permit)
            permit = {**encoded, **stamps(PERMIT, plan.symbol, encoded, cycle_id, now)}
        said = {
            "permit": flat(permit),
            "block": flat(block),
            "digests": {reason: fields[DIGEST] for reason, fields in blocks.items()},
            "event": flat(self._event(decision, cycle_id, now)),
        }
        daily = settings.gov_max_reduce_notional_per_day_usd if unit == USD else settings.gov_max_reduce_qty_per_day
        limits = (
            settings.gov_max_exec_per_hour,
            settings.gov_max_exec_per_5min,
            repr(daily),
            "" if amount is None else repr(amount),
        )
        lifetimes = (PERMIT.ttl_sec, BLOCK.ttl_sec, EVENTS_MAXLEN)
        moment = repr(now.timestamp())
        values = (plan.entry_id, SEEN_TTL_SEC, moment, decision.reason, *limits, *lifetimes, json.dumps(said))
        return ("EVAL", DECIDE_LUA, len(names), *names, *values)

    @staticmethod
    def _block(plan: Plan, reason: str, cycle_id: str, now: datetime) -> dict[str, str]:
        encoded = BLOCK.encode({"reason": reason, "timestamp": int(now.timestamp())})
        return {**encoded, **stamps(BLOCK, plan.symbol, encoded, cycle_id, now)}

    @staticmethod
    def _event(decision: Decision, cycle_id: str, now: datetime) -> dict[str, str]:
        plan = decision.plan
        unit, amount = _amount(decision)
        return {
            "plan_id": plan.plan_id,
            "symbol": plan.symbol,
            "action": plan.action,
            "timestamp": str(int(now.timestamp())),
            "timestamp_epoch": repr(now.timestamp()),
            "cycle_id": cycle_id,
            "notional": repr(amount) if unit == USD and amount is not None else "",
            "qty": repr(amount) if unit == QTY and amount is not None else "",
            **decision.facts,
        }


def _amount(decision: Decision) -> tuple[str, float | None]:
    """Give what a plan counts for today, and in which unit.

    A size nobody knows is ``None``, which no limit allows; but a close of unknown size counts nothing, because what reduces risk
    must not be refused for want of a number.
    """
    permit = decision.permit
    if permit is None:
        return QTY, None
    if permit["computed_notional"] is not None:
        return USD, permit["computed_notional"]
    qty = permit["computed_qty"]
    return QTY, 0.0 if qty is None and decision.facts.get("closing") == "1" else qty


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
        qty=numbers.get("qty") or numbers.get("close_qty"),
        price=numbers.get("price") or None,
        invalid=invalid,
        source=fields.get("source", "")[:32].lower(),
    )
