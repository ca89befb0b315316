"""Asset ``governor_permit``: decides waiting plans and keeps one state row per symbol."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl

from quantum_assets.shared.partitions import OWNERS, symbols_of_run
from quantum_assets.shared.rows import assemble, without_result
from quantum_core.contracts.tables import GOVERNOR_STATE
from quantum_core.kernels.governor.gates import GATE_OF, gate_reason
from resources.calc_only import require_calc_only
from resources.governor.decisions import INVALID
from resources.governor.judge import judge
from resources.governor.limits import granted_in_windows
from resources.governor.permit import hint_rows
from resources.governor.plan import PLAN_MAX_AGE_SEC, Decision
from resources.governor.queue import PlanQueue
from resources.governor.record import Recorder
from resources.instance.range_tags import EVENT_TAG
from resources.io_manager import cycle_id_of, of_the_loop
from resources.store.profiles import take_profile
from resources.store.publication import publish
from resources.store.redis_store import RedisStore

PLANS_PER_EVENT = 100  # of a run's log: an event for each took longer than deciding them
CYCLES_KEPT = 6  # recent times of cycles, for the proof of the cadence


@dg.asset(
    deps=[
        "market_state",
        "position",
        "harvest_proposal",
        "allocation_target",
        "capital_efficiency",
        "trade_intent",
        "risk_guard",
        "plans",
        "base_targets",
        "raw_positions",
    ],
    group_name="governor",
    kinds={"redis"},
    owners=OWNERS,
    io_manager_key="governor_io",
    description=(
        "Decides every waiting plan exactly once: a permit of 60 s or a block with the first gate that failed. Plans that open "
        "risk need fresh, readable, live data; unknown means no. Efficiency only hints at a smaller size, it never blocks."
    ),
)
def governor_permit(
    context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore], governor: dg.ResourceParam[RedisStore]
) -> pl.DataFrame:
    """Decide plans, then write the state row of every symbol of the run."""
    tags = context.run.tags
    take_profile(governor, tags)
    symbols = symbols_of_run(context, store.settings)
    decided = decide_plans(governor, cycle_id=cycle_id_of(context.run))
    for first in range(0, len(decided), PLANS_PER_EVENT):
        context.log.info("\n".join(map(_outcome, decided[first : first + PLANS_PER_EVENT])))
    if of_the_loop(context.run) and EVENT_TAG not in tags:  # a scheduled cycle of all symbols, and this its last step
        _write_heartbeat(store, symbols)
    now = governor.clock()
    others = sorted({one.plan.symbol for one in decided if one.plan.symbol} - set(symbols))
    if others:  # their plans waited in the same stream: update their rows, too
        rows = state_frame(governor, others, decided, now).iter_rows(named=True)
        publish(governor, GOVERNOR_STATE, list(rows), cycle_id=cycle_id_of(context.run))
    return state_frame(governor, symbols, decided, now)


def _outcome(decision: Decision) -> str:
    plan = decision.plan
    return f"plan {plan.plan_id} {plan.symbol} {plan.action}: {'permit' if decision.granted else f'block {decision.reason}'}"


def _write_heartbeat(store: RedisStore, symbols: Sequence[str]) -> None:
    now, cycles = store.clock().timestamp(), store.keys.of("cycles", symbols[0])
    store.run(
        "leaving a sign of life",
        [("SET", store.keys.of("heartbeat", "cycle"), now), ("LPUSH", cycles, now), ("LTRIM", cycles, 0, CYCLES_KEPT - 1)],
    )


def decide_plans(store: RedisStore, *, cycle_id: str) -> list[Decision]:
    """Take all waiting plans, decide and record them.

    A run for some symbols decides the plans of all: plans wait in one stream, and whoever takes one must decide it.

    Returns
    -------
    list of Decision
        Those decided by this call; plans decided before are only acknowledged.
    """
    require_calc_only()
    queue = PlanQueue(store)
    taken = queue.take()
    now = store.clock()  # the one moment of all that follows
    oldest = now.timestamp() - PLAN_MAX_AGE_SEC
    plans = [plan if plan.invalid or plan.written_at >= oldest else replace(plan, invalid="timestamp") for plan in taken]
    ignored = [plan for plan in plans if plan.decision not in ("", "EXECUTE")]
    queue.acknowledge(ignored)
    wrong = [Decision(plan, f"{INVALID}{plan.invalid}") for plan in plans if plan.invalid and plan not in ignored]
    due = [plan for plan in plans if not plan.invalid and plan.decision == "EXECUTE"]
    decisions = [*wrong, *(judge(store, due, now) if due else [])]
    if not decisions:
        return []
    return [one for one in Recorder(queue).record(decisions, cycle_id=cycle_id, now=now) if one is not None]


def state_frame(store: RedisStore, symbols: Sequence[str], decided: Sequence[Decision], now: datetime) -> pl.DataFrame:
    """Build the governor's row of every symbol: hints now, and the latest decision, kept from the row before."""
    hints, granted = hint_rows(store, symbols, now), granted_in_windows(store, symbols, now.timestamp())
    stored = store.read(GOVERNOR_STATE, symbols)
    rows = []
    for reading, hint, counts in zip(stored, hints, granted, strict=True):
        decisions = [decision for decision in decided if decision.plan.symbol == reading.symbol]
        previous: Mapping[str, Any] = reading.value or {}
        row = {
            "symbol": reading.symbol,
            **hint,
            "last_plan_id": previous.get("last_plan_id", ""),
            "last_decision": previous.get("last_decision", ""),
            "last_reason": previous.get("last_reason", ""),
            "last_decision_epoch": previous.get("last_decision_epoch"),
            "last_gate": previous.get("last_gate", ""),
            "last_evidence": previous.get("last_evidence", ""),
            "plans_evaluated": len(decisions),
            **counts,
        }
        if decisions:
            newest = decisions[-1]
            row |= {
                "last_plan_id": newest.plan.plan_id,
                "last_decision": "PERMIT" if newest.granted else "BLOCK",
                "last_reason": newest.reason,
                "last_decision_epoch": now.timestamp(),
                "last_gate": str(GATE_OF.get(gate_reason(newest.reason), "")),
                "last_evidence": json.dumps({**newest.facts, **newest.counts}, separators=(",", ":")),
            }
        rows.append(row)
    schema = {name: GOVERNOR_STATE.by_name[name].codec.dtype for name in rows[0]} if rows else {}
    return assemble(symbols, pl.DataFrame(rows, schema=schema).to_dict(), without_result([]))
