"""The stream of plans and the record of decisions. A plan is decided once: a permit or a block, never both, never neither."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from quantum_core.contracts.codecs import CodecError
from quantum_core.contracts.labels import label_of
from quantum_core.contracts.legs import LEGS, ONE_WAY, SEPARATOR, LegError, leg_named, leg_of, underlying
from quantum_core.contracts.schema import CLOCK_SKEW_SEC, DIGEST, ContractError, stamps
from quantum_core.contracts.tables import BLOCK, EVENTS_STREAM_MAXLEN, NO_SYMBOL, PERMIT, PERMIT_TTL_SEC, SEEN_TTL_SEC
from quantum_core.kernels import NUMBER_MAX
from quantum_core.kernels.governor import (
    BURST,
    COUNTED,
    DISARMED,
    ERROR,
    GATE_OF,
    GUARDED,
    KILLED,
    SWITCHES,
    GovernorTheta,
    gate_reason,
    is_closing,
)
from quantum_core.kernels.risk_guard import GUARDS
from quantum_core.settings import Settings
from resources.governor.guards import USD_MAX, utc_date
from resources.governor.switches import count_faults, disarm, disarm_scope, scopes_of
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import RedisStore, UnreadableKeyError, epoch_of, flat, pairs, texts

GROUP = "governor"
PLANS_READ_MAX = 1000  # new entries per evaluation
RECLAIM_IDLE_MS = 15_000  # an entry another governor took and left undecided for so long is taken over
REQUIRED = ("plan_id", "symbol", "action", "decision")
NUMBERS = ("kill_score", "qty", "close_qty", "price", "confidence")
PLAN_ID_MAX = 128  # characters
_PLAN_ID = re.compile(r"[\w.:-]+", re.ASCII)
OTHER_PERMITS = ("p26:", "p33:")  # begin the permits of other programs beside the governor's, under quantum:permit:
_SYMBOL = re.compile(r"[\w-]{2,40}")
_ACTION = re.compile(r"[\w -]{1,64}", re.ASCII)  # it is shown on terminals

LIMITS = tuple(gate.reason for gate in COUNTED)
# As their keys follow each other in the script; what is disarmed has two of them, all and by scope.
SHUTTING = tuple(reason for gate in SWITCHES if (reason := gate.reason) != GUARDED for _ in range(2 if reason == DISARMED else 1))
OPENING, CLOSING = "opening", "closing"  # kinds of plans, each with counts of its own
COUNTED_IN = {OPENING: ("permits_granted", "permitted_today"), CLOSING: ("closes_granted", "closed_today")}
CLOSE_LATE_SEC = 60  # beyond its interval, before the newest close is too old to open anything
PLAN_MAX_AGE_SEC = SEEN_TTL_SEC / 2  # an older plan may have been decided, and its marker be gone
HOUR_SEC, BURST_SEC = 3600, 300
USD, QTY = "usd", "qty"  # notional where a price is known, else size: never added up
COUNTS = ("permits_hour", "permits_5min", "day_total", "permits_hour_after", "permits_5min_after", "day_total_after")
ERRORS, BURSTS = "errors", "bursts"  # what a planner or symbol is disarmed for
ERROR_MAX = 200  # characters of an error on record
DECIDED_WITHIN_SEC = 10.0  # of being taken; what was judged by older evidence, because its host hung, is judged again
DECIDED, LATE = 1, 2  # what the script answers first; 0: decided before

log = logging.getLogger("quantum.plans")

# KEYS[1] seen marker of the plan, KEYS[2] its permit, KEYS[3] its block, KEYS[4] permits of the symbol and of the plan's kind,
#         opening or closing (list of epoch s, newest first), KEYS[5] what the symbol was permitted today of that kind, KEYS[6]
#         event stream; only for plans that open risk KEYS[7] kill switch, KEYS[8] mark of the disarmed governor, KEYS[9] scopes
#         that are disarmed (hash), KEYS[10..] risk guards: what was activated since the evidence was read counts (in a cluster
#         they are in other slots, and left out)
# ARGV[1] stream entry id, ARGV[2] lifetime of the marker, ARGV[3] now, epoch s, ARGV[4] reason of a gate before the limits or
#         empty, ARGV[5..7] permits allowed in an hour and in five minutes, amount allowed in a day, ARGV[8] amount of the plan,
#         ARGV[9], ARGV[10] lifetimes of permit and block, ARGV[11] cap of the event stream, ARGV[12] reason of a gate after the
#         limits or empty, ARGV[13] JSON: permit (one string, or fields and values, flat), block (flat), digests (of the block, by
#         reason), event (flat), limits and switches (their reasons, in order), gates (number by reason), ARGV[14] 0 to refuse a
#         plan although its marker or the counts of its symbol are of another type, else 1, ARGV[15] when the plan was taken, by
#         the server's clock, epoch s, ARGV[16] age of that with which it may still be granted, ARGV[17..] scopes the plan lies in
# returns {1, reason or empty, then permits in the hour, in five minutes and amount today, before and after}; {0, reason or empty}
#         of the decision that was made before, the reason only if it was this very entry's; {2}, having written nothing, when it
#         would be granted by older evidence; raises, having written nothing, when a key is of another type or holds something
#         else than numbers
DECIDE_LUA = """
local wanted = {'string', nil, nil, 'list', 'string', 'stream', 'string'}  -- permit and block are replaced, a guard is any key
local kinds = {}
for i = 1, #KEYS do
  kinds[i] = redis.call('TYPE', KEYS[i]).ok
  local forgiven = i == 1 and ARGV[14] == '0'
  if wanted[i] and not forgiven and kinds[i] ~= wanted[i] and kinds[i] ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kinds[i])
  end
end
local seen = kinds[1] == 'string' and redis.call('GET', KEYS[1])
if seen then
  local entry, before = string.match(seen, '^(.-)|(.*)$')
  if entry then return {0, entry == ARGV[1] and before or ''} end
  if ARGV[14] == '1' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is no marker of a decision') end
end
local now, hour, burst = tonumber(ARGV[3]), 0, 0
for _, text in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do
  local when = tonumber(text)
  if not when or when ~= when or when == -math.huge then
    return redis.error_reply('WRONGTYPE ' .. KEYS[4] .. ' holds something else than times')
  end
  if now - when < 3600 then hour = hour + 1 end
  if now - when < 300 then burst = burst + 1 end
end
local today = redis.call('GET', KEYS[5]) or '0'
local day, amount, reason = tonumber(today), tonumber(ARGV[8]), ARGV[4]
if not day or not string.match(today, '^%d+%.?%d*$') then  -- what Lua takes for a number, INCRBYFLOAT may not
  return redis.error_reply('WRONGTYPE ' .. KEYS[5] .. ' holds something else than an amount')
end
local said = cjson.decode(ARGV[13])
local thrown = ''
for i = 7, #KEYS do
  local on = reason == '' and kinds[i] ~= 'none'
  if on and i == 7 then
    local kill = redis.call('GET', KEYS[i])
    on = kill ~= '' and kill ~= '0'
  elseif on and i == 9 and kinds[i] == 'hash' then
    on = false
    for scope = 17, #ARGV do on = on or redis.call('HEXISTS', KEYS[i], ARGV[scope]) == 1 end
  end
  if on then reason, thrown = said.switches[i - 6], said.switches[i - 6] end
end
if reason == '' then
  if hour >= tonumber(ARGV[5]) then reason = said.limits[1]
  elseif burst >= tonumber(ARGV[6]) then reason = said.limits[2]
  elseif not amount or not (day + amount <= tonumber(ARGV[7])) then reason = said.limits[3]
  else reason = ARGV[12] end
end
local time = redis.call('TIME')
if reason == '' and not (time[1] + time[2] / 1e6 - ARGV[15] <= tonumber(ARGV[16])) then return {2} end
local hour_after, burst_after, today_after = hour, burst, today
if reason == '' then  -- a script that fails half-way is not undone: counts first, the permit last
  today_after = redis.call('INCRBYFLOAT', KEYS[5], ARGV[8])
  redis.call('EXPIRE', KEYS[5], 172800)
  redis.call('LPUSH', KEYS[4], ARGV[3])
  redis.call('LTRIM', KEYS[4], 0, 99)
  redis.call('EXPIRE', KEYS[4], 86400)
  hour_after, burst_after = hour + 1, burst + 1
end
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[11], '*', 'event', reason == '' and 'PERMIT' or 'BLOCK',
  'granted', reason == '' and '1' or '0', 'reason', reason, 'gate', tostring(said.gates[reason] or ''),
  'permits_hour', hour, 'permits_5min', burst, 'day_total', today,
  'permits_hour_after', hour_after, 'permits_5min_after', burst_after, 'day_total_after', today_after,
  'thrown_meanwhile', thrown, unpack(said.event))
redis.call('SET', KEYS[1], ARGV[1] .. '|' .. reason, 'EX', ARGV[2])
redis.call('DEL', KEYS[2], KEYS[3])
if reason == '' then
  if type(said.permit) == 'string' then
    redis.call('SET', KEYS[2], said.permit, 'EX', ARGV[9])
  else
    redis.call('HSET', KEYS[2], unpack(said.permit))
    redis.call('EXPIRE', KEYS[2], ARGV[9])
  end
else
  redis.call('HSET', KEYS[3], 'reason', reason, 'digest', said.digests[reason], unpack(said.block))
  redis.call('EXPIRE', KEYS[3], ARGV[10])
end
return {1, reason, hour, burst, today, hour_after, burst_after, today_after}
"""

# KEYS[1] stream of plans, KEYS[2..] seen marker of each plan; ARGV[1] group, ARGV[2..] stream entry ids, in the same order
# acknowledges the entries whose decision this server has: one that was promoted meanwhile may lack the last ones, and an entry
# that is acknowledged there is never decided; returns how many have none
ACKNOWLEDGE_LUA = """
local undecided = 0
for i = 2, #KEYS do
  local marked = redis.call('TYPE', KEYS[i]).ok == 'string' and string.find(redis.call('GET', KEYS[i]), '|', 1, true)
  if marked then redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) else undecided = undecided + 1 end
end
return undecided
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
        What the plan says of itself: who planned it, or e.g. ``example``.
    taken_at
        When it was taken from the stream to be judged, epoch s, by the server's clock.
    data_source
        What it says of the data it rests on; ours do, whose source is ``quantum``.
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
    taken_at: float = 0.0
    data_source: str = ""

    @property
    def written_at(self) -> float:
        """When it was written, epoch s, by the server's clock."""
        return int(self.entry_id.partition("-")[0]) / 1000


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
    reason_beyond
        First gate that is shut among those after the limits.
    counts
        What the limits were counted to, before and after, see COUNTS; empty until it is recorded.
    """

    plan: Plan
    reason: str
    permit: Mapping[str, Any] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    reason_beyond: str = ""
    counts: Mapping[str, str] = field(default_factory=dict)

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
    plans = [parse_plan(entry_id.decode(), fields, store.settings.hedge_symbols) for entry_id, fields in new]
    return Waiting(len(plans) + int(group.get("pending", 0)), frozenset(plan.symbol for plan in plans))


def _as_text(row: Any) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in pairs(row).items()}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


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
        self.theta = theta_of(store.settings)

    def take(self) -> list[Plan]:
        """Take over what a dead governor left undecided, then everything new, oldest first."""
        time, taken, new = self._ask()
        if isinstance(new, Exception) and "NOGROUP" in str(new):
            self.store.run("creating the plan group", [("XGROUP", "CREATE", self.stream, GROUP, "0", "MKSTREAM")])
            time, taken, new = self._ask()
        if isinstance(taken, Exception) and "NOGROUP" in str(taken):
            taken = (b"0-0", ())  # another governor made the group between the two questions: nobody has left anything yet
        for reply in (time, taken, new):
            if isinstance(reply, Exception):
                raise UnreadableKeyError(self.stream, "a stream of plans", reply)
        entries = [*taken[1], *(entry for _, rows in (new or ()) for entry in rows)]
        taken_at = epoch_of(time)
        hedged = self.store.settings.hedge_symbols
        return [
            replace(parse_plan(entry_id.decode(), fields, hedged), taken_at=taken_at) for entry_id, fields in entries if fields
        ]

    def _ask(self) -> list[Any]:
        return self.store.run(
            "reading plans",
            [
                ("TIME",),
                ("XAUTOCLAIM", self.stream, GROUP, self.consumer, RECLAIM_IDLE_MS, "0-0", "COUNT", PLANS_READ_MAX),
                ("XREADGROUP", "GROUP", GROUP, self.consumer, "COUNT", PLANS_READ_MAX, "STREAMS", self.stream, ">"),
            ],
        )

    def record(self, decisions: Sequence[Decision], *, cycle_id: str) -> list[Decision | None]:
        """Count each plan against the limits, write its permit or block with its event, then acknowledge the entries.

        Every command may be the last one of this process: whoever reclaims the entries repeats all of them, and what was done
        before is found done.

        Returns
        -------
        list
            The decision as it was recorded, ``None`` for a plan that was decided before and stays as it was, and for one whose
            permit would rest on evidence older than DECIDED_WITHIN_SEC: that one stays pending and is judged again.
        """
        now = self.store.clock()
        replies = self.store.run("recording decisions", [self._command_or_refusal(one, cycle_id, now) for one in decisions])
        failed = [row for row, reply in enumerate(replies) if isinstance(reply, Exception)]
        if failed:  # what cannot be counted is no: one symbol's bad key stops neither its own plans nor those of others
            commands = [
                self._record_command(_refused(decisions[row], str(replies[row])), cycle_id, now, counted=False) for row in failed
            ]
            for row, reply in zip(failed, self.store.run("refusing what cannot be counted", commands), strict=True):
                replies[row] = reply
        broken = [reply for reply in replies if isinstance(reply, Exception)]
        late = [one for one, reply in zip(decisions, replies, strict=True) if reply == [LATE]]
        for one in late:
            log.warning("plan %s was judged more than %g s ago and is judged again", one.plan.plan_id, DECIDED_WITHIN_SEC)
        both = [
            (one, reply) for one, reply in zip(decisions, replies, strict=True) if isinstance(reply, list) and reply != [LATE]
        ]
        self._disarm_if_due([(one.plan, reply[1].decode()) for one, reply in both])
        self._acknowledge_decided([one.plan for one, _ in both])
        if broken:
            raise UnreadableKeyError(self.store.keys.of("stream_governor_events"), "the record of decisions", broken[0])
        return [
            replace(one, reason=reply[1].decode(), counts=_counts(reply[2:])) if reply[0] == DECIDED else None
            for one, reply in zip(decisions, replies, strict=True)
        ]

    def _command_or_refusal(self, decision: Decision, cycle_id: str, now: datetime) -> tuple[Any, ...]:
        try:
            return self._record_command(decision, cycle_id, now)
        except ContractError as error:  # a permit that cannot be written is none
            return self._record_command(_refused(decision, str(error)), cycle_id, now)

    def _disarm_if_due(self, outcomes: Sequence[tuple[Plan, str]]) -> None:
        """Shut openings after a burst of openings, or after many plans nobody could evaluate.

        Those of the planner that is at fault, else those of the symbol; all of them where errors come from everywhere.
        """
        faults = [
            (BURSTS if reason == BURST else ERRORS, next(iter(scopes_of(plan.symbol, plan.source)), ""), plan.plan_id)
            for plan, reason in outcomes
            if reason == ERROR or (reason == BURST and not is_closing(plan.action, reduce_only=plan.reduce_only))
        ]
        settings = self.store.settings
        if not faults or not settings.gov_auto_disarm:
            return
        try:
            counts, scopes_with_errors = count_faults(self.store, faults)
        except UnreadableKeyError as error:  # unknown means no
            disarm(self.store, f"{ERRORS} and {BURSTS} cannot be counted: {error}")
            return
        allowed = {BURSTS: settings.gov_bursts_to_disarm, ERRORS: settings.gov_errors_to_disarm}
        first: dict[tuple[str, str], str] = {}
        for (kind, scope, plan_id), count in zip(faults, counts, strict=True):
            if count >= allowed[kind]:
                first.setdefault((kind, scope), plan_id)
        most = {(kind, scope): count for (kind, scope, _), count in zip(faults, counts, strict=True)}  # the last is the highest
        for (kind, scope), plan_id in first.items():
            count = most[kind, scope]
            cause = f"{BURST}: plan {plan_id}" if kind == BURSTS else f"{count} plans of today could not be evaluated"
            disarm_scope(self.store, scope, cause, plans=count)
        if scopes_with_errors >= settings.gov_errors_to_disarm and any(kind == ERRORS for kind, _, _ in faults):
            disarm(self.store, f"plans of {scopes_with_errors} planners or symbols could not be evaluated today")

    def acknowledge(self, plans: Sequence[Plan]) -> None:
        """Tell the group that these entries need no governor any more."""
        if plans:
            self.store.run("acknowledging plans", [("XACK", self.stream, GROUP, *(plan.entry_id for plan in plans))])

    def _acknowledge_decided(self, plans: Sequence[Plan]) -> None:
        """Tell the group the same of plans that were decided, as far as the server still knows it."""
        keys = self.store.keys
        if not plans or keys.cluster:  # the markers are in other slots there
            self.acknowledge(plans)
            return
        markers = [keys.of("seen_plan", plan.plan_id, plan.symbol or NO_SYMBOL) for plan in plans]
        entries = [plan.entry_id for plan in plans]
        command = ("EVAL", ACKNOWLEDGE_LUA, 1 + len(markers), self.stream, *markers, GROUP, *entries)
        (undecided,) = self.store.run("acknowledging plans", [command])
        if isinstance(undecided, Exception):
            raise UnreadableKeyError(self.stream, "a stream of plans", undecided)
        if undecided:
            log.warning("%d plans stay pending: Redis has changed places since they were decided", undecided)

    def _record_command(self, decision: Decision, cycle_id: str, now: datetime, *, counted: bool = True) -> tuple[Any, ...]:
        plan, keys = decision.plan, self.store.keys
        kind = kind_of(plan)
        theta = self.theta.of_closes() if kind == CLOSING else self.theta
        granted, today = COUNTED_IN[kind]
        unit, amount = _amount(decision)
        slot = plan.symbol or NO_SYMBOL
        seen, permit_key, block_key = (keys.of(name, plan.plan_id, slot) for name in ("seen_plan", "permit", "block"))
        names = [
            seen,
            permit_key,
            block_key,
            keys.of(granted, slot) if counted else f"{seen}|uncounted",
            f"{keys.of(today, slot)}:{utc_date(now)}:{unit}" if counted else f"{seen}|uncounted",
            keys.of("stream_governor_events", slot),
        ]
        extra = self.store.settings.risk_guards_extra
        guards, switches = (*GUARDS, *extra), (*SHUTTING, *(f"{GUARDED}{guard}" for guard in extra))
        if counted and not keys.cluster and kind == OPENING:
            names += [keys.of(one) for one in ("kill", "disarmed", "disarmed_scopes")]
            names += [keys.of("guard_active", guard) for guard in guards]
        reasons = {decision.reason, decision.reason_beyond, *switches, *LIMITS} - {""}
        blocks = {reason: _encoded_block(reason, int(now.timestamp())) for reason in reasons}
        block = {**blocks[KILLED], **stamps(BLOCK, plan.symbol, blocks[KILLED], cycle_id, now)}
        del block["reason"], block[DIGEST]
        permit: Mapping[str, str] = {}
        if decision.permit is not None:
            encoded = PERMIT.encode(decision.permit)
            permit = {**encoded, **stamps(PERMIT, plan.symbol, encoded, cycle_id, now)}
        said = {
            "permit": permit_text(permit) if permit and self.store.settings.permit_format == "json" else flat(permit),
            "block": flat(block),
            "digests": {reason: _block_digest(reason, int(now.timestamp())) for reason in reasons},
            "event": flat(self._event(decision, cycle_id, now, unit, amount)),
            "limits": LIMITS,
            "switches": switches,
            "gates": {reason: GATE_OF[gate] for reason in reasons if (gate := gate_reason(reason)) in GATE_OF},
        }
        daily = theta.max_notional_per_day_usd if unit == USD else theta.max_qty_per_day
        limits = (
            theta.max_exec_per_hour,
            theta.max_exec_per_5min,
            repr(daily),
            "" if amount is None else repr(amount),
        )
        lifetimes = (PERMIT.ttl_sec, BLOCK.ttl_sec, EVENTS_STREAM_MAXLEN)
        moment = repr(now.timestamp())
        first = (plan.entry_id, SEEN_TTL_SEC, moment, decision.reason)
        return (
            "EVAL",
            DECIDE_LUA,
            len(names),
            *names,
            *first,
            *limits,
            *lifetimes,
            decision.reason_beyond,
            orjson.dumps(said),
            int(counted),
            repr(plan.taken_at),
            DECIDED_WITHIN_SEC,
            *scopes_of(plan.symbol, plan.source),
        )

    @staticmethod
    def _event(decision: Decision, cycle_id: str, now: datetime, unit: str, amount: float | None) -> dict[str, str]:
        plan, permit = decision.plan, decision.permit or {}
        return {
            "plan_id": plan.plan_id,
            "symbol": plan.symbol,
            "action": plan.action,
            "timestamp": str(int(now.timestamp())),
            "timestamp_epoch": repr(now.timestamp()),
            "cycle_id": cycle_id,
            "counted_as": kind_of(plan),
            "plan_source": plan.source,
            "notional": repr(amount) if unit == USD and amount is not None else "",
            "qty": repr(amount) if unit == QTY and amount is not None else "",
            "unit": unit,
            **{name: str(permit[name]) for name in ("eff_action", "eff_reason") if name in permit},
            **decision.facts,
        }


def read_permit(store: RedisStore, symbol: str, plan_id: str) -> dict[str, Any] | None:
    """Read a permit as whoever acts on it must: anything but a whole, unused permit of this plan and minute is none.

    A server that failed over to an older copy of the data may hold a permit that was used or has run out, or none at all.

    Returns
    -------
    dict or None
        The decoded permit.
    """
    plan_id = booked_id(plan_id)
    key = store.keys.of(PERMIT.key, plan_id, symbol)
    raw = permit_fields(*store.run("reading a permit", [("HGETALL", key), ("GET", key)]))
    if not raw:
        return None
    try:
        row = PERMIT.decode(raw)
    except ContractError:
        return None
    age = (store.clock() - row["created_at"]).total_seconds()
    own = row["plan_id"] == plan_id and row["symbol"] == symbol
    return row if own and row["consumed"] == "false" and -CLOCK_SKEW_SEC <= age < PERMIT_TTL_SEC else None


def permit_text(fields: Mapping[str, str]) -> str:
    """Write a permit as one JSON string (PERMIT_FORMAT=json): the fields of the hash, with the types JSON has.

    true and false for ``granted`` and ``consumed``, numbers for numbers, null for what is empty.
    """
    typed: dict[str, Any] = dict(fields)
    for name, text in fields.items():
        item = PERMIT.by_name.get(name)
        if name in ("granted", "consumed"):
            typed[name] = text == "true"
        elif item is not None and item.codec.kind in (int, float, bool):
            typed[name] = number_or_none(text) if item.codec.kind is float else int(text)
    return orjson.dumps(typed).decode()


def permit_fields(as_hash: Any, as_string: Any) -> dict[bytes, bytes]:
    """Give the fields of a permit, whichever of its two forms stands there; empty when neither does.

    Parameters
    ----------
    as_hash, as_string
        Replies to HGETALL and GET of its key.
    """
    if not isinstance(as_hash, Exception):
        return pairs(as_hash)
    if not isinstance(as_string, bytes):
        return {}
    try:
        typed = orjson.loads(as_string)
        return {name.encode(): _permit_value(name, value).encode() for name, value in typed.items()}
    except (orjson.JSONDecodeError, CodecError, AttributeError, TypeError, ValueError):
        return {}


def _permit_value(name: str, value: Any) -> str:
    """Write one JSON value of a permit as the hash has it, which is what its digest was made of."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        codec = PERMIT.by_name[name].codec if name in PERMIT.by_name else None
        return "" if value is None else str(value).lower() if codec is None or codec.kind is str else codec.encode(value)
    return PERMIT.by_name[name].codec.encode(value) if name in PERMIT.by_name else str(value)


def kind_of(plan: Plan) -> str:
    """Tell by which counts a plan is limited: those of openings or those of closes."""
    return CLOSING if is_closing(plan.action, reduce_only=plan.reduce_only) else OPENING


def theta_of(settings: Settings) -> GovernorTheta:
    """Take the limits of the gates from the settings.

    Closes have the limits of openings unless they are given their own; that nothing may be opened does not mean that nothing may
    be closed: then they have those that openings have by default.
    """
    plain, (hourly, burst) = GovernorTheta(), (settings.gov_max_closes_per_hour, settings.gov_max_closes_per_5min)
    if hourly is None and not settings.gov_max_exec_per_hour:
        hourly = plain.max_exec_per_hour
    if burst is None and not settings.gov_max_exec_per_5min:
        burst = plain.max_exec_per_5min
    theta = GovernorTheta(
        max_data_age_sec=settings.gov_max_data_age_sec,
        max_close_age_sec=max(settings.gov_max_data_age_sec, settings.candle_interval_sec + CLOSE_LATE_SEC),
        kill_score_critical=settings.gov_kill_score_critical,
        allow_synthetic=settings.allow_synthetic,
        max_exec_per_hour=settings.gov_max_exec_per_hour,
        max_exec_per_5min=settings.gov_max_exec_per_5min,
        max_notional_per_day_usd=settings.gov_max_reduce_notional_per_day_usd,
        max_qty_per_day=settings.gov_max_reduce_qty_per_day,
        max_closes_per_hour=hourly,
        max_closes_per_5min=burst,
        max_close_notional_per_day_usd=settings.gov_max_close_notional_per_day_usd,
        max_close_qty_per_day=settings.gov_max_close_qty_per_day,
    )
    return theta.resolved()  # a record names the numbers it was judged by


@lru_cache(maxsize=64)
def _encoded_block(reason: str, timestamp: int) -> dict[str, str]:
    return BLOCK.encode({"reason": reason, "timestamp": timestamp})


@lru_cache(maxsize=64)
def _block_digest(reason: str, timestamp: int) -> str:
    return BLOCK.digest(_encoded_block(reason, timestamp))


def _refused(decision: Decision, error: str) -> Decision:
    return replace(decision, reason=ERROR, permit=None, reason_beyond="", facts={**decision.facts, "error": error[:ERROR_MAX]})


def _counts(reply: Sequence[Any]) -> dict[str, str]:
    return {name: one.decode() if isinstance(one, bytes) else str(one) for name, one in zip(COUNTS, reply, strict=True)}


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


def parse_plan(entry_id: str, raw: Any, hedged: Collection[str] = ()) -> Plan:
    """Read one stream entry; the first field that is missing or malformed is named in ``invalid``.

    Parameters
    ----------
    hedged
        HEDGE_SYMBOLS: a plan for one of them names a leg, which is the plan's symbol then.
    """
    fields = texts(raw)
    said = fields.get("reduceOnly", "false").lower()
    reduce_only = said in ("true", "1")
    if not fields.get("action") and reduce_only:  # planners leave out what it says already
        fields["action"] = "CLOSE"
    of_leg, misnamed = "", ""
    if hedged and underlying(fields.get("symbol", "")) in hedged:
        of_leg, misnamed = _leg_of_plan(fields, reduce_only=reduce_only)
        fields["symbol"] = of_leg or underlying(fields["symbol"])
    invalid = next((name for name in REQUIRED if not fields.get(name)), "")
    plan_id, symbol = fields.get("plan_id", ""), fields.get("symbol", "")
    booked = booked_id(plan_id)
    if not invalid and not booked:
        invalid = "plan_id"
    if not invalid and not (of_leg or _SYMBOL.fullmatch(symbol)):
        invalid = "symbol"
    if not invalid and not _ACTION.fullmatch(fields["action"]):
        invalid = "action"
    numbers = {name: number_or_none(fields[name]) for name in NUMBERS if fields.get(name)}
    if not invalid:
        invalid = next((name for name, number in numbers.items() if number is None or not 0 <= number <= NUMBER_MAX), "")
    qty, price = numbers.get("qty") or numbers.get("close_qty"), numbers.get("price") or None
    if not invalid and qty is not None and price is not None and qty * price > USD_MAX:  # trillions only of what is cheap
        invalid = "qty" if numbers.get("qty") else "close_qty"
    if not invalid and said not in ("true", "false", "1", "0", ""):
        invalid = "reduceOnly"
    invalid = invalid or misnamed
    return Plan(
        entry_id=entry_id,
        plan_id=booked or f"entry-{entry_id}",
        symbol=symbol if of_leg or _SYMBOL.fullmatch(symbol) else "",
        action=fields.get("action", "").upper() if _ACTION.fullmatch(fields.get("action", "")) else "",
        decision=fields.get("decision", "")[:32],
        reduce_only=reduce_only,
        kill_score=numbers.get("kill_score"),
        qty=qty,
        price=price,
        invalid=invalid,
        source=label_of(fields.get("source", "")),
        data_source=label_of(fields.get("data_source", "")),
    )


def booked_id(plan_id: str) -> str:
    """Give the id under which a plan is decided: its own, with what is no letter of ASCII, digit or ``_.:-`` escaped as in a URL.

    Two ids never share one, and none is that of another program's permit. Empty for an id that is empty, longer than PLAN_ID_MAX
    characters, has characters that cannot be seen, or is no text.
    """
    if not 0 < len(plan_id) <= PLAN_ID_MAX or not plan_id.isprintable() or "\N{REPLACEMENT CHARACTER}" in plan_id:
        return ""
    escaped = plan_id if _PLAN_ID.fullmatch(plan_id) else quote(plan_id, safe=":")
    return escaped.replace(":", "%3A", 1) if escaped.startswith(OTHER_PERMITS) else escaped


def _leg_of_plan(fields: Mapping[str, str], *, reduce_only: bool) -> tuple[str, str]:
    """Give the name of the leg a plan for a hedged symbol is for, and the field by which nobody can know it (else empty).

    The leg stands in the symbol or in positionSide. In hedge mode it is the side of the order that opens or closes a leg: an
    order of the other side would do the opposite of what the plan is judged by.
    """
    symbol = fields["symbol"]
    market = underlying(symbol)
    try:
        named = leg_named(fields)
    except LegError as error:
        return "", error.field
    told = {one for one in (named, leg_of(symbol)) if one}
    if len(told) != 1 or ONE_WAY in told:
        return "", "positionSide"
    (leg,) = told
    action, side = fields.get("action", "").upper(), fields.get("side", "").strip().upper()
    other = LEGS[1 - LEGS.index(leg)]
    closing = is_closing(action, reduce_only=reduce_only)
    order = "BUY" if (leg == "LONG") != closing else "SELL"
    wrong = "action" if other in re.split(r"[^A-Z]+", action) else "side" if side not in ("", leg, order) else ""
    return f"{market}{SEPARATOR}{leg}", wrong
