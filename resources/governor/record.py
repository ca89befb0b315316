"""The record of decisions. A plan is decided once: a permit or a block, never both, never neither.

``lua/decide.lua`` counts a plan against the limits and writes all that follows; here its argument is put together, and what its
answers call for is done: the governor disarms itself, entries are acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from quantum_core.contracts.schema import DIGEST, ContractError, stamps
from quantum_core.contracts.tables import BLOCK, EVENTS_STREAM_MAXLEN, NO_SYMBOL, PERMIT, SEEN_TTL_SEC
from quantum_core.kernels.governor.gates import (
    BURST,
    DISARMED,
    ERROR,
    GATE_OF,
    GUARDED,
    KILLED,
    SWITCHES,
    gate_reason,
    is_closing,
)
from quantum_core.kernels.governor.limits import BURST_SEC, HOUR_SEC, GovernorLimits
from quantum_core.kernels.governor.risk_guard import GUARDS
from resources.governor.account import utc_date
from resources.governor.limits import COUNTED_IN, LIMITS, QTY, USD, amount_of, counts_of, limits_of, limits_of_closes
from resources.governor.permit import permit_text
from resources.governor.plan import CLOSING, OPENING, Decision, Plan, kind_of
from resources.governor.queue import PlanQueue
from resources.governor.switches import count_faults, disarm, disarm_scope, scopes_of
from resources.store.redis_store import UnreadableKeyError, flat
from resources.store.transport.scripts import Script

# As their keys follow each other in the script; what is disarmed has two of them, all and by scope.
SHUTTING = tuple(reason for gate in SWITCHES if (reason := gate.reason) != GUARDED for _ in range(2 if reason == DISARMED else 1))
ERRORS, BURSTS = "errors", "bursts"  # what a planner or symbol is disarmed for
ERROR_MAX = 200  # characters of an error on record
DECIDED_WITHIN_SEC = 10.0  # of being taken; what was judged by older evidence, because its host hung, is judged again
DECIDED, LATE = 1, 2  # what the script answers first; 0: decided before

DECIDE = Script(__file__, "decide")

log = logging.getLogger("quantum.plans")


class Recorder:
    """Records decisions on plans taken from a queue.

    Parameters
    ----------
    queue
        Where the plans came from, and are acknowledged.
    """

    def __init__(self, queue: PlanQueue) -> None:
        self.queue = queue
        self.store = queue.store

    def record(self, decisions: Sequence[Decision], *, cycle_id: str, now: datetime) -> list[Decision | None]:
        """Count each plan against the limits, write its permit or block with its event, then acknowledge the entries.

        Every command may be the last one of this process: whoever reclaims the entries repeats all of them, and what was done
        before is found done.

        Parameters
        ----------
        decisions
            Of plans of the queue.
        cycle_id
            For the records.
        now
            When they were judged: what is counted, stamped and disarmed is so at this moment.

        Returns
        -------
        list
            The decision as it was recorded, ``None`` for a plan that was decided before and stays as it was, and for one whose
            permit would rest on evidence older than DECIDED_WITHIN_SEC: that one stays pending and is judged again.
        """
        replies = self.store.run(
            "recording decisions", [self._command_or_refusal(decision, cycle_id, now) for decision in decisions]
        )
        failed = [row for row, reply in enumerate(replies) if isinstance(reply, Exception)]
        if failed:  # what cannot be counted is no: one symbol's bad key stops neither its own plans nor those of others
            commands = [
                self._record_command(_refused(decisions[row], str(replies[row])), cycle_id, now, counted=False) for row in failed
            ]
            for row, reply in zip(failed, self.store.run("refusing what cannot be counted", commands), strict=True):
                replies[row] = reply
        broken = [reply for reply in replies if isinstance(reply, Exception)]
        late = [decision for decision, reply in zip(decisions, replies, strict=True) if reply == [LATE]]
        for decision in late:
            log.warning("plan %s was judged more than %g s ago and is judged again", decision.plan.plan_id, DECIDED_WITHIN_SEC)
        decided = [
            (decision, reply)
            for decision, reply in zip(decisions, replies, strict=True)
            if isinstance(reply, list) and reply != [LATE]
        ]
        self._disarm_if_due([(decision.plan, reply[1].decode()) for decision, reply in decided], now)
        self.queue.acknowledge_decided([decision.plan for decision, _ in decided])
        if broken:
            raise UnreadableKeyError(self.store.keys.of("stream_governor_events"), "the record of decisions", broken[0])
        return [
            replace(decision, reason=reply[1].decode(), counts=counts_of(reply[2:])) if reply[0] == DECIDED else None
            for decision, reply in zip(decisions, replies, strict=True)
        ]

    def _command_or_refusal(self, decision: Decision, cycle_id: str, now: datetime) -> tuple[Any, ...]:
        try:
            return self._record_command(decision, cycle_id, now)
        except ContractError as error:  # a permit that cannot be written is none
            return self._record_command(_refused(decision, str(error)), cycle_id, now)

    def _disarm_if_due(self, outcomes: Sequence[tuple[Plan, str]], now: datetime) -> None:
        """Disarm after a burst of openings, or after many plans that nobody could evaluate.

        Those of the planner that is at fault, else those of the symbol; all of them where errors come from everywhere.
        """
        faults = [
            (BURSTS if reason == BURST else ERRORS, next(iter(scopes_of(plan.symbol, plan.source)), ""), plan.plan_id)
            for plan, reason in outcomes
            if reason == ERROR or (reason == BURST and not is_closing(plan.action, reduce_only=plan.reduce_only))
        ]
        limits = self.store.profile.theta(GovernorLimits)
        if not faults or not limits.auto_disarm:
            return
        try:
            counts, scopes_with_errors = count_faults(self.store, faults, now)
        except UnreadableKeyError as error:  # unknown means no
            disarm(self.store, f"{ERRORS} and {BURSTS} cannot be counted: {error}", now=now)
            return
        allowed = {BURSTS: limits.bursts_to_disarm, ERRORS: limits.errors_to_disarm}
        first: dict[tuple[str, str], str] = {}
        for (kind, scope, plan_id), count in zip(faults, counts, strict=True):
            if count >= allowed[kind]:
                first.setdefault((kind, scope), plan_id)
        most = {(kind, scope): count for (kind, scope, _), count in zip(faults, counts, strict=True)}  # the last is the highest
        for (kind, scope), plan_id in first.items():
            count = most[kind, scope]
            cause = f"{BURST}: plan {plan_id}" if kind == BURSTS else f"{count} plans of today could not be evaluated"
            disarm_scope(self.store, scope, cause, plans=count, now=now)
        if scopes_with_errors >= limits.errors_to_disarm and any(kind == ERRORS for kind, _, _ in faults):
            disarm(self.store, f"plans of {scopes_with_errors} planners or symbols could not be evaluated today", now=now)

    def _record_command(self, decision: Decision, cycle_id: str, now: datetime, *, counted: bool = True) -> tuple[Any, ...]:
        plan, keys = decision.plan, self.store.keys
        kind = kind_of(plan)
        limits, made_with = limits_of(self.store, plan.symbol), self.store.profile.stamp_of(plan.symbol)
        profile_fields = dict(zip(("profile", "profile_name"), made_with, strict=True))
        theta = limits_of_closes(limits) if kind == CLOSING else limits
        granted, today = COUNTED_IN[kind]
        unit, amount = amount_of(decision)
        slot = plan.symbol or NO_SYMBOL
        seen_key, permit_key, block_key = (keys.of(name, plan.plan_id, slot) for name in ("seen_plan", "permit", "block"))
        redis_keys = [
            seen_key,
            permit_key,
            block_key,
            keys.of(granted, slot) if counted else f"{seen_key}|uncounted",
            f"{keys.of(today, slot)}:{utc_date(now)}:{unit}" if counted else f"{seen_key}|uncounted",
            keys.of("stream_governor_events", slot),
        ]
        extra_guards = self.store.settings.risk_guards_extra
        guards, switches = (*GUARDS, *extra_guards), (*SHUTTING, *(f"{GUARDED}{guard}" for guard in extra_guards))
        if counted and not keys.cluster and kind == OPENING:
            redis_keys += [keys.of(one) for one in ("kill", "disarmed", "disarmed_scopes")]
            redis_keys += [keys.of("guard_active", guard) for guard in guards]
        reasons = {decision.reason, decision.reason_beyond, *switches, *LIMITS} - {""}
        blocks = {reason: _encoded_block(reason, int(now.timestamp())) for reason in reasons}
        block = {**blocks[KILLED], **stamps(BLOCK, plan.symbol, blocks[KILLED], cycle_id, now, made_with)}
        del block["reason"], block[DIGEST]
        permit: Mapping[str, str] = {}
        if decision.permit is not None:
            encoded = PERMIT.encode(decision.permit)
            permit = {**encoded, **stamps(PERMIT, plan.symbol, encoded, cycle_id, now, made_with)}
        daily = theta.max_notional_per_day_usd if unit == USD else theta.max_qty_per_day
        arguments = {
            "entry_id": plan.entry_id,
            "now": repr(now.timestamp()),
            "taken_at": repr(plan.taken_at),
            "decided_within_sec": DECIDED_WITHIN_SEC,
            "counted": counted,
            "reason": decision.reason,
            "reason_beyond": decision.reason_beyond,
            "amount": "" if amount is None else repr(amount),
            "per_hour": theta.max_exec_per_hour,
            "per_burst": theta.max_exec_per_5min,
            "per_day": repr(daily),
            "hour_sec": HOUR_SEC,
            "burst_sec": BURST_SEC,
            "limits": LIMITS,
            "switches": switches,
            "scopes": scopes_of(plan.symbol, plan.source),
            "permit": permit_text(permit) if permit and self.store.settings.permit_format == "json" else flat(permit),
            "block": flat(block),
            "event": flat({**self._event(decision, cycle_id, now, unit, amount), **profile_fields}),
            "digests": {reason: _block_digest(reason, int(now.timestamp())) for reason in reasons},
            "gates": {reason: GATE_OF[gate] for reason in reasons if (gate := gate_reason(reason)) in GATE_OF},
            "seen_ttl_sec": SEEN_TTL_SEC,
            "permit_ttl_sec": PERMIT.ttl_sec,
            "block_ttl_sec": BLOCK.ttl_sec,
            "events_maxlen": EVENTS_STREAM_MAXLEN,
        }
        return DECIDE(redis_keys, orjson.dumps(arguments))

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


@lru_cache(maxsize=64)
def _encoded_block(reason: str, timestamp: int) -> dict[str, str]:
    return BLOCK.encode({"reason": reason, "timestamp": timestamp})


@lru_cache(maxsize=64)
def _block_digest(reason: str, timestamp: int) -> str:
    return BLOCK.digest(_encoded_block(reason, timestamp))


def _refused(decision: Decision, error: str) -> Decision:
    return replace(decision, reason=ERROR, permit=None, reason_beyond="", facts={**decision.facts, "error": error[:ERROR_MAX]})
