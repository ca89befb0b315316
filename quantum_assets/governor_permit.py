"""Asset ``governor_permit``: decides waiting plans and keeps one state row per symbol."""

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.contracts.reading import Reading, State
from quantum_assets.contracts.tables import (
    GOVERNOR_STATE,
    HARVEST_PROPOSAL,
    HINT_FIELDS,
    MARKET_STATE,
    PERMIT,
    POSITION,
)
from quantum_assets.kernels.governor import NON_LIVE, Evidence, GovernorTheta, decide, is_closing
from quantum_assets.kernels.permit_hint import PermitHintTheta, permit_hint
from quantum_assets.rows import assemble, without_result
from quantum_assets.symbols import OWNERS
from resources.calc_only import require_calc_only
from resources.foreign import number_or_none, read_efficiency
from resources.io_manager import CYCLE_ID_TAG, ONCE_TAG, cycle_id_of
from resources.plans import BURST_SEC, HOUR_SEC, Decision, Plan, PlanQueue
from resources.positions import PositionReader
from resources.redis_store import RedisStore

EVIDENCE = (MARKET_STATE, HARVEST_PROPOSAL, POSITION)
CYCLES_KEPT = 6  # times of the last ones, for the proof of the cadence
CLOSED_SHARE = {"FULL_CLOSE_PROPOSED": 1.0, "CLOSE": 1.0, "PARTIAL_75": 0.75, "PARTIAL_50": 0.5, "PARTIAL_25": 0.25}


@dg.asset(
    deps=["market_state", "position", "harvest_proposal", "allocation_target", "capital_efficiency", "trade_intent", "plans"],
    group_name="governor",
    kinds={"redis"},
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "Decides every waiting plan exactly once: a permit of 60 s or a block with the first gate that failed. Plans that open "
        "risk need fresh, readable, live data; unknown means no. Efficiency only hints at a smaller size, it never blocks."
    ),
)
def governor_permit(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> pl.DataFrame:
    """Decide plans, then write the state row of every symbol of the run."""
    symbols = list(context.partition_keys)
    decided = decide_plans(store, cycle_id=cycle_id_of(context.run))
    for one in decided:
        outcome = "permit" if one.granted else f"block {one.reason}"
        context.log.info(f"plan {one.plan.plan_id} {one.plan.symbol} {one.plan.action}: {outcome}")
    if CYCLE_ID_TAG in context.run.tags and ONCE_TAG not in context.run.tags:  # the last step of a cycle of the loop
        _leave_a_sign_of_life(store)
    others = sorted({one.plan.symbol for one in decided if one.plan.symbol} - set(symbols))
    if others:  # their plans waited in the same stream; their rows say so, though this run is not theirs
        rows = state_frame(store, others, decided).iter_rows(named=True)
        store.publish(GOVERNOR_STATE, list(rows), cycle_id=cycle_id_of(context.run))
    return state_frame(store, symbols, decided)


def _leave_a_sign_of_life(store: RedisStore) -> None:
    now, cycles = store.clock().timestamp(), store.keys.of("cycles")
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
    plans = queue.take()
    ignored = [plan for plan in plans if plan.decision not in ("", "EXECUTE")]
    queue.acknowledge(ignored)
    wrong = [Decision(plan, f"invalid_plan:{plan.invalid}") for plan in plans if plan.invalid and plan not in ignored]
    due = [plan for plan in plans if not plan.invalid and plan.decision == "EXECUTE"]
    decisions = [*wrong, *(judge(store, due) if due else [])]
    if not decisions:
        return []
    return [one for one in queue.record(decisions, cycle_id=cycle_id) if one is not None]


def judge(store: RedisStore, plans: Sequence[Plan]) -> list[Decision]:
    """Put every plan through the gates; what passes gets the fields of its permit."""
    symbols = sorted({plan.symbol for plan in plans})
    unreadable_now = {one.symbol for one in PositionReader(store).read(symbols) if one.state is State.FAILED}
    known = {table.asset: dict(zip(symbols, store.read(table, symbols), strict=True)) for table in EVIDENCE}
    settings = store.settings
    theta = GovernorTheta(
        max_data_age_sec=settings.gov_max_data_age_sec,
        kill_score_critical=settings.gov_kill_score_critical,
        allow_synthetic=settings.allow_synthetic,
    )
    permits = [
        _permit(store, plan, known["position"], hint) for plan, hint in zip(plans, _hints_of(store, plans, symbols), strict=True)
    ]
    evidence = _evidence(store, plans, known, unreadable_now)
    return [
        Decision(plan, reason, permit, _facts(evidence, row, {asset: rows[plan.symbol] for asset, rows in known.items()}))
        for row, (plan, reason, permit) in enumerate(zip(plans, decide(evidence, theta), permits, strict=True))
    ]


def _hints_of(store: RedisStore, plans: Sequence[Plan], symbols: Sequence[str]) -> list[dict[str, Any]]:
    hints = dict(zip(symbols, hint_rows(store, symbols), strict=True))
    return [hints[plan.symbol] for plan in plans]


def _facts(evidence: Evidence, row: int, known: Mapping[str, Reading[dict[str, Any]]]) -> dict[str, str]:
    """Say what one plan was judged by."""
    ages = ("market_state_age_sec", "harvest_proposal_age_sec", "position_age_sec")
    cycles = {f"{asset}_cycle_id": str(one.value["cycle_id"]) for asset, one in known.items() if one.value is not None}
    return {
        "closing": str(int(evidence.closing[row])),
        "sources": ",".join(sorted(_labels(known))),
        **{name: _number(getattr(evidence, name)[row]) for name in (*ages, "kill_score")},
        **cycles,
    }


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def hint_rows(store: RedisStore, symbols: Sequence[str]) -> list[dict[str, Any]]:
    """Compute the eight efficiency hints per symbol, as the wire table decodes them."""
    settings = store.settings
    hint = permit_hint(
        read_efficiency(store, symbols),
        store.clock().timestamp(),
        PermitHintTheta(
            downsize_threshold=settings.p31_downsize_threshold,
            min_factor=settings.p31_min_factor,
            max_extra_cooldown_sec=float(settings.p31_max_extra_cooldown_sec),
            min_confidence=settings.p31_min_conf,
            max_age_sec=settings.p31_eff_ttl_sec,
        ),
    )
    codecs = {name: PERMIT.by_name[name].codec for name in HINT_FIELDS}
    return [{name: codecs[name].decode(text) for name, text in fields.items()} for fields in hint.fields()]


def state_frame(store: RedisStore, symbols: Sequence[str], decided: Sequence[Decision]) -> pl.DataFrame:
    """Build the governor's row of every symbol: hints now, and the last decision ever."""
    now = store.clock().timestamp()
    kept = store.read(GOVERNOR_STATE, symbols)
    rows = []
    for reading, hint, granted in zip(kept, hint_rows(store, symbols), _granted(store, symbols, now), strict=True):
        mine = [one for one in decided if one.plan.symbol == reading.symbol]
        last: Mapping[str, Any] = reading.value or {}
        row = {
            "symbol": reading.symbol,
            **hint,
            "last_plan_id": last.get("last_plan_id", ""),
            "last_decision": last.get("last_decision", ""),
            "last_reason": last.get("last_reason", ""),
            "last_decision_epoch": last.get("last_decision_epoch"),
            "plans_evaluated": len(mine),
            **granted,
        }
        if mine:
            newest = mine[-1]
            row |= {
                "last_plan_id": newest.plan.plan_id,
                "last_decision": "PERMIT" if newest.granted else "BLOCK",
                "last_reason": newest.reason,
                "last_decision_epoch": now,
            }
        rows.append(row)
    schema = {name: GOVERNOR_STATE.by_name[name].codec.dtype for name in rows[0]} if rows else {}
    return assemble(symbols, pl.DataFrame(rows, schema=schema).to_dict(), without_result([]))


def _granted(store: RedisStore, symbols: Sequence[str], now: float) -> list[dict[str, int]]:
    """Count the permits of each symbol in the windows of the limits."""
    replies = store.run("counting permits", [("LRANGE", store.keys.of("permits_granted", one), 0, -1) for one in symbols])
    lists = [() if isinstance(reply, Exception) else reply for reply in replies]  # what cannot be read grants nothing anyway
    times = [[number_or_none(text.decode(errors="replace")) for text in one] for one in lists]
    ages = [[now - when for when in mine if when is not None] for mine in times]
    return [
        {"permits_hour": sum(age < HOUR_SEC for age in mine), "permits_5min": sum(age < BURST_SEC for age in mine)}
        for mine in ages
    ]


def _evidence(
    store: RedisStore,
    plans: Sequence[Plan],
    known: Mapping[str, Mapping[str, Reading[dict[str, Any]]]],
    unreadable_now: Set[str],
) -> Evidence:
    now = store.clock().timestamp()
    (kill,) = store.run("reading the kill switch", [("GET", store.keys.of("kill"))])
    closing = np.array([is_closing(plan.action, reduce_only=plan.reduce_only) for plan in plans], dtype=bool)
    found = [{asset: rows[plan.symbol] for asset, rows in known.items()} for plan in plans]
    failed = np.array([any(one.state is State.FAILED for one in row.values()) for row in found], dtype=bool)
    raw_failed = np.array([plan.symbol in unreadable_now for plan in plans], dtype=bool)

    def ages(asset: str, clock: str = "last_update_epoch") -> Any:
        return np.array([_age_sec(row[asset], clock, now) for row in found])

    return Evidence(
        closing=closing,
        unreadable=failed | (~closing & (raw_failed | isinstance(kill, Exception))),
        kill_switch=np.full(len(plans), not isinstance(kill, Exception) and kill not in (None, b"", b"0")),
        market_state_age_sec=ages("market_state"),
        harvest_proposal_age_sec=ages("harvest_proposal"),
        position_age_sec=ages("position", clock="position_ts_epoch"),  # of the snapshot: a dead writer makes no new ones
        non_live=np.array(
            [_non_live(row) or plan.source in NON_LIVE for plan, row in zip(plans, found, strict=True)], dtype=bool
        ),
        kill_score=np.array([_kill_score(plan, row["harvest_proposal"]) for plan, row in zip(plans, found, strict=True)]),
    )


def _age_sec(reading: Reading[dict[str, Any]], clock: str, now: float) -> float:
    row = reading.value
    if row is None or row.get("held") is False or row.get("ts_timestamp") == 0 or not row[clock]:  # no clock: age unknown
        return math.nan
    return now - float(row[clock])


def _labels(row: Mapping[str, Reading[dict[str, Any]]]) -> set[str]:
    values = [reading.value for reading in row.values() if reading.value is not None]
    return {str(value[label]) for value in values for label in ("source", "data_source", "position_source") if label in value}


def _non_live(row: Mapping[str, Reading[dict[str, Any]]]) -> bool:
    return bool(_labels(row) & set(NON_LIVE))


def _kill_score(plan: Plan, harvest: Reading[dict[str, Any]]) -> float:
    scores = [plan.kill_score, harvest.value["kill_score"] if harvest.value is not None else None]
    return max((score for score in scores if score is not None), default=math.nan)


def _permit(
    store: RedisStore, plan: Plan, positions: Mapping[str, Reading[dict[str, Any]]], hint: Mapping[str, Any]
) -> dict[str, Any]:
    position = positions[plan.symbol].value
    known = [price for price in (plan.price, position["current_price"] if position is not None else None) if price]
    price = max(known, default=None)  # a plan cannot talk its size down
    qty = plan.qty or None
    if qty is None and position is not None and position["qty"] and (share := CLOSED_SHARE.get(plan.action)) is not None:
        qty = share * abs(position["qty"])
    return {
        "granted": "true",
        "plan_id": plan.plan_id,
        "decision": "EXECUTE",
        "computed_qty": qty,
        "computed_notional": qty * price if qty is not None and price is not None else None,
        "created_at": store.clock(),
        "consumed": "false",
        **hint,
    }
