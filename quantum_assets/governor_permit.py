"""Asset ``governor_permit``: decides waiting plans and keeps one state row per symbol."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl

from quantum_assets.allocation_target import hint_rows as efficiency_rows
from quantum_assets.shared.order import DECISIONS_LAST
from quantum_assets.shared.partitions import OWNERS, symbols_of_run
from quantum_assets.shared.rows import assemble, without_result
from quantum_core.contracts.tables import GOVERNOR_STATE
from quantum_core.kernels.governor.gates import GATE_OF, gate_reason
from quantum_core.kernels.governor.permit_hint import PermitHintTheta
from resources.calc_only import require_calc_only
from resources.governor.decisions import INVALID
from resources.governor.judge import judge
from resources.governor.limits import counted_in_windows, grants
from resources.governor.permit import permit_hints
from resources.governor.plan import PLAN_MAX_AGE_SEC, Decision
from resources.governor.queue import PlanQueue
from resources.governor.record import Recorder
from resources.inputs.foreign import read_efficiency
from resources.instance.range_tags import EVENT_TAG
from resources.io_manager import cycle_id_of, of_the_loop
from resources.recorder.tape import tape_of
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
    op_tags=DECISIONS_LAST,
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
    hint, granted, stored = read_efficiency(store, symbols), grants(store, symbols), store.read(GOVERNOR_STATE, symbols)
    newest = decided_of(decided, symbols)
    previous = [last_decision(one.value or {}) for one in stored]
    if (tape := tape_of(store)) is not None:
        tape.note(now=now.timestamp(), decided=newest)
        tape.take("efficiency_hints", dict(zip(symbols, efficiency_rows(hint), strict=True)))
        tape.take("grants", {one: {"times": json.dumps(times)} for one, times in zip(symbols, granted, strict=True)})
        tape.take("last_decisions", dict(zip(symbols, previous, strict=True)))
    moment = now.timestamp()
    hints = permit_hints(hint, moment, store.profile.by_row(PermitHintTheta, symbols))
    rows = [
        {"symbol": symbol, **state_row(one, before, times, newest.get(symbol), moment)}
        for symbol, one, before, times in zip(symbols, hints, previous, granted, strict=True)
    ]
    return states_frame(symbols, rows)


def decided_of(decided: Sequence[Decision], symbols: Collection[str]) -> dict[str, dict[str, Any]]:
    """Give what a row needs to know of the decisions of each symbol: how many there are, and the newest."""
    by_symbol: dict[str, dict[str, Any]] = {}
    for decision in decided:
        if decision.plan.symbol in symbols:
            by_symbol[decision.plan.symbol] = {
                "count": by_symbol.get(decision.plan.symbol, {"count": 0})["count"] + 1,
                "plan_id": decision.plan.plan_id,
                "granted": decision.granted,
                "reason": decision.reason,
                "evidence": {**decision.facts, **decision.counts},
            }
    return by_symbol


def last_decision(row: Mapping[str, Any]) -> dict[str, Any]:
    """Take out of a row what it keeps of the last decision; nothing was decided where there is none."""
    return {
        name: row.get(name, None if name == "last_decision_epoch" else "")
        for name in ("last_plan_id", "last_decision", "last_reason", "last_decision_epoch", "last_gate", "last_evidence")
    }


def state_row(
    hint: Mapping[str, Any],
    previous: Mapping[str, Any],
    granted: Mapping[str, Sequence[float]],
    decided: Mapping[str, Any] | None,
    now: float,
) -> dict[str, Any]:
    """Build one row. Pure.

    Parameters
    ----------
    hint
        Of its efficiency.
    previous
        See :func:`last_decision`.
    granted
        See :func:`resources.governor.limits.grants`.
    decided
        See :func:`decided_of`; ``None`` where nothing was.
    now
        Epoch s.
    """
    evaluated = 0 if decided is None else decided["count"]
    row = {**hint, **previous, "plans_evaluated": evaluated, **counted_in_windows(granted, now)}
    if decided is not None:
        row |= {
            "last_plan_id": decided["plan_id"],
            "last_decision": "PERMIT" if decided["granted"] else "BLOCK",
            "last_reason": decided["reason"],
            "last_decision_epoch": now,
            "last_gate": str(GATE_OF.get(gate_reason(decided["reason"]), "")),
            "last_evidence": json.dumps(decided["evidence"], separators=(",", ":")),
        }
    return row


def states_frame(symbols: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Lay out the rows of some symbols."""
    schema = {name: GOVERNOR_STATE.by_name[name].codec.dtype for name in rows[0]} if rows else {}
    return assemble(symbols, pl.DataFrame(rows, schema=schema).to_dict(), without_result([]))
