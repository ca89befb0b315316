"""Asset ``governor_permit``: decides waiting plans and keeps one state row per symbol."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.partitions import OWNERS
from quantum_assets.rows import assemble, without_result
from quantum_core.contracts.labels import is_live
from quantum_core.contracts.legs import leg_of, legs_of
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import CLOCK_SKEW_SEC
from quantum_core.contracts.tables import (
    GOVERNOR_STATE,
    HARVEST_PROPOSAL,
    HINT_FIELDS,
    MARKET_STATE,
    PERMIT,
    POSITION,
)
from quantum_core.kernels.governor import (
    AFTER_COUNTING,
    BEFORE_COUNTING,
    ERROR,
    GATE_OF,
    Evidence,
    decide,
    gate_reason,
    is_closing,
)
from quantum_core.kernels.intent import CLOSED_SHARE
from quantum_core.kernels.permit_hint import PermitHintTheta, permit_hint
from resources.calc_only import require_calc_only
from resources.governor.decisions import FLAGS, INVALID, JUDGED
from resources.governor.guards import read_guards
from resources.governor.plans import BURST_SEC, HOUR_SEC, PLAN_MAX_AGE_SEC, Decision, Plan, PlanQueue, theta_of
from resources.governor.switches import Switches, read_switches
from resources.inputs.foreign import Scored, number_or_none, read_efficiency, read_scored
from resources.inputs.positions import Flat, PositionReader, RawPosition
from resources.io_manager import cycle_id_of, of_the_loop
from resources.store.redis_store import RedisStore, RedisUnavailableError

EVIDENCE = (MARKET_STATE, HARVEST_PROPOSAL, POSITION)
TROUBLE_MAX = 500  # characters of what could not be read
CYCLES_KEPT = 6  # times of the last ones, for the proof of the cadence
log = logging.getLogger("quantum.governor")

SIZE_SLACK = 1 + 1e-6  # a size that went through text and back is no larger one


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
    symbols = list(context.partition_keys)
    decided = decide_plans(governor, cycle_id=cycle_id_of(context.run))
    for one in decided:
        outcome = "permit" if one.granted else f"block {one.reason}"
        context.log.info(f"plan {one.plan.plan_id} {one.plan.symbol} {one.plan.action}: {outcome}")
    if of_the_loop(context.run):  # the last step of a cycle of the loop
        _leave_a_sign_of_life(store, symbols)
    others = sorted({one.plan.symbol for one in decided if one.plan.symbol} - set(symbols))
    if others:  # their plans waited in the same stream; their rows say so, though this run is not theirs
        rows = state_frame(governor, others, decided).iter_rows(named=True)
        governor.publish(GOVERNOR_STATE, list(rows), cycle_id=cycle_id_of(context.run))
    return state_frame(governor, symbols, decided)


def _leave_a_sign_of_life(store: RedisStore, symbols: Sequence[str]) -> None:
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
    oldest = store.clock().timestamp() - PLAN_MAX_AGE_SEC
    plans = [plan if plan.invalid or plan.written_at >= oldest else replace(plan, invalid="timestamp") for plan in queue.take()]
    ignored = [plan for plan in plans if plan.decision not in ("", "EXECUTE")]
    queue.acknowledge(ignored)
    wrong = [Decision(plan, f"{INVALID}{plan.invalid}") for plan in plans if plan.invalid and plan not in ignored]
    due = [plan for plan in plans if not plan.invalid and plan.decision == "EXECUTE"]
    decisions = [*wrong, *(judge(store, due) if due else [])]
    if not decisions:
        return []
    return [one for one in queue.record(decisions, cycle_id=cycle_id) if one is not None]


def judge(store: RedisStore, plans: Sequence[Plan], *, recorded: bool = True) -> list[Decision]:
    """Judge plans; what makes the judgement itself fail is that plan's fault and blocks it, never the others.

    Parameters
    ----------
    store, plans
        Where, and which.
    recorded
        False when only the gates are asked: the decisions carry no permit and no facts, and must not be recorded.

    Raises
    ------
    RedisUnavailableError
        The server is away; the plans stay pending and are judged when it is back.
    """
    try:
        return _judge(store, plans, recorded=recorded)
    except RedisUnavailableError:
        raise
    except Exception as error:
        if len(plans) > 1:
            half = len(plans) // 2
            return [part for some in (plans[:half], plans[half:]) for part in judge(store, some, recorded=recorded)]
        log.exception("plan %s cannot be evaluated", plans[0].plan_id)
        closing = is_closing(plans[0].action, reduce_only=plans[0].reduce_only)
        return [Decision(plans[0], ERROR, facts={"closing": str(int(closing)), "error": type(error).__name__})]


def _judge(store: RedisStore, plans: Sequence[Plan], *, recorded: bool) -> list[Decision]:
    siblings = {plan.symbol: [leg for leg in legs_of(plan.symbol) if leg != plan.symbol] for plan in plans if leg_of(plan.symbol)}
    symbols = sorted({plan.symbol for plan in plans}.union(*siblings.values()))
    snapshots = {one.symbol: one for one in PositionReader(store).snapshots(symbols)}
    known = {table.asset: dict(zip(symbols, store.read(table, symbols), strict=True)) for table in EVIDENCE}
    targets = dict(zip(symbols, read_scored(store, "base_target", "target_usd", symbols), strict=True))
    found = [
        Found(
            {asset: rows[plan.symbol] for asset, rows in known.items()},
            snapshots[plan.symbol],
            targets[plan.symbol],
            [(snapshots[leg], known[POSITION.asset][leg]) for leg in siblings.get(plan.symbol, ())],
        )
        for plan in plans
    ]
    shut = _shut(store)
    evidence = _evidence(store, plans, found, shut)
    theta = theta_of(store.settings)
    before, beyond = decide(evidence, theta, BEFORE_COUNTING), decide(evidence, theta, AFTER_COUNTING)
    if not recorded:
        return [Decision(plan, now, reason_beyond=later) for plan, now, later in zip(plans, before, beyond, strict=True)]
    limits = json.dumps(asdict(theta), separators=(",", ":"))
    hints = dict(zip(symbols, hint_rows(store, symbols), strict=True))
    permits = [_permit(store, plan, known["position"], hints[plan.symbol]) for plan in plans]
    return [
        Decision(plan, reason, permit, _facts(evidence, row, plan, found[row], shut, limits), later)
        for row, (plan, reason, permit, later) in enumerate(zip(plans, before, permits, beyond, strict=True))
    ]


@dataclass(frozen=True)
class Found:
    """What is known of the symbol of one plan: its rows by asset, its position as it is told now, and its P2.9 target.

    Of a leg also the other one, whose notional counts against the same target: its position as told now, and as tracked.
    """

    rows: Mapping[str, Reading[dict[str, Any]]]
    snapshot: Reading[RawPosition | Flat]
    target: Scored
    siblings: Sequence[tuple[Reading[RawPosition | Flat], Reading[dict[str, Any]]]] = ()

    @property
    def flat(self) -> Flat | None:
        """What says that there is no position."""
        return self.snapshot.value if isinstance(self.snapshot.value, Flat) else None

    def needed(self, *, closing: bool) -> Mapping[str, Reading[dict[str, Any]]]:
        """Give the rows a plan is judged by.

        An opening from flat has no position and no harvest proposal, and what is left of the last ones says nothing; closing
        needs none to be proposed.
        """
        unneeded = {HARVEST_PROPOSAL.asset} if closing else {HARVEST_PROPOSAL.asset, POSITION.asset} if self.flat else set()
        return {asset: row for asset, row in self.rows.items() if asset not in unneeded}

    def tracked(self, name: str, default: Any) -> Any:
        """Give a field of the tracked position."""
        row = self.rows[POSITION.asset].value
        return default if row is None else row[name]

    def labels(self, *, closing: bool) -> set[str]:
        """Give what the writers of these rows say of themselves."""
        labels = _labels(self.needed(closing=closing))
        return labels if self.flat is None else labels | {self.flat.position_source}


@dataclass(frozen=True)
class Shut:
    """What shuts all openings at once, why any of it cannot be known (empty when all of it could be read), and whose account."""

    killed: bool
    switches: Switches
    guard: str
    trouble: str
    account: str

    def labels(self, *, closing: bool) -> set[str]:
        """Give what the writer of the account says of itself: openings rest on its guards, closings do not."""
        return {self.account} if self.account and not closing else set()


def _shut(store: RedisStore) -> Shut:
    switches, guards = read_switches(store), read_guards(store)
    trouble = "; ".join(filter(None, (switches.trouble, guards.trouble)))
    return Shut(switches.killed, switches, next(iter(guards.live), ""), trouble, guards.account)


def _facts(evidence: Evidence, row: int, plan: Plan, found: Found, shut: Shut, limits: str) -> dict[str, str]:
    """Say what one plan was judged by, so that the record alone tells why; counts are added by whoever counts."""
    closing = bool(evidence.closing[row])
    rows = found.needed(closing=closing)
    cycles = {f"{asset}_cycle_id": str(one.value["cycle_id"]) for asset, one in rows.items() if one.value is not None}
    readings: list[Reading[Any]] = [*rows.values(), found.snapshot]
    unread = [one.reason for one in readings if one.state is State.FAILED]
    return {
        **{name: str(int(getattr(evidence, name)[row])) for name in FLAGS},
        **{name: _number(getattr(evidence, name)[row]) for name in JUDGED},
        "disarm_scope": shut.switches.scope_against(plan.symbol, plan.source),
        "risk_guard": str(evidence.risk_guard[row]),
        "sources": ",".join(sorted(found.labels(closing=closing) | shut.labels(closing=closing) | ({plan.data_source} - {""}))),
        "trouble": "; ".join(filter(None, (*unread, shut.trouble)))[:TROUBLE_MAX] if evidence.unreadable[row] else "",
        "theta": limits,
        **cycles,
    }


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


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
            "last_gate": last.get("last_gate", ""),
            "last_evidence": last.get("last_evidence", ""),
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
                "last_gate": str(GATE_OF.get(gate_reason(newest.reason), "")),
                "last_evidence": json.dumps({**newest.facts, **newest.counts}, separators=(",", ":")),
            }
        rows.append(row)
    schema = {name: GOVERNOR_STATE.by_name[name].codec.dtype for name in rows[0]} if rows else {}
    return assemble(symbols, pl.DataFrame(rows, schema=schema).to_dict(), without_result([]))


def _granted(store: RedisStore, symbols: Sequence[str], now: float) -> list[dict[str, int]]:
    """Count the openings and the closes of each symbol in the windows of the limits."""
    kinds = {"permits": "permits_granted", "closes": "closes_granted"}
    replies = store.run(
        "counting permits", [("LRANGE", store.keys.of(key, one), 0, -1) for one in symbols for key in kinds.values()]
    )
    lists = [() if isinstance(reply, Exception) else reply for reply in replies]  # what cannot be read grants nothing anyway
    times = [[number_or_none(text) for text in one] for one in lists]
    ages = [[now - when for when in mine if when is not None] for mine in times]
    return [
        {
            f"{kind}_{window}": sum(age < span for age in mine)
            for kind, mine in zip(kinds, both, strict=True)
            for window, span in (("hour", HOUR_SEC), ("5min", BURST_SEC))
        }
        for both in zip(ages[::2], ages[1::2], strict=True)
    ]


def _evidence(store: RedisStore, plans: Sequence[Plan], found: Sequence[Found], shut: Shut) -> Evidence:
    """Gather what each plan is judged by before permits are counted; the counts are left unknown."""
    now = store.clock().timestamp()
    closing = np.array([is_closing(plan.action, reduce_only=plan.reduce_only) for plan in plans], dtype=bool)
    both = list(zip(found, closing.tolist(), strict=True))
    failed = np.array(
        [any(row.state is State.FAILED for row in one.needed(closing=closes).values()) for one, closes in both], dtype=bool
    )
    of_openings = np.array([one.snapshot.state is State.FAILED or one.target.status == "error" for one in found], dtype=bool)
    flat = np.array([one.flat is not None for one in found], dtype=bool)

    def ages(asset: str, clock: str = "last_update_epoch") -> Any:
        return np.array([_age_sec(one.rows[asset], clock, now) for one in found])

    def age_of_position(one: Found) -> float:  # of the snapshot: a dead writer makes no new ones
        if one.flat is None:
            return _age_sec(one.rows["position"], "position_ts_epoch", now)
        return math.nan if one.flat.ts_epoch is None else now - one.flat.ts_epoch

    def everywhere(value: object, dtype: Any = bool) -> Any:
        return np.full(len(plans), value, dtype=dtype)

    position_age_sec = np.array([age_of_position(one) for one in found])
    absent = np.array([one.snapshot.state is State.ABSENT for one in found], dtype=bool)
    conflict = [one.tracked("conflict_until_epoch", 0.0) > now for one in found]
    unknown = everywhere(math.nan, float)
    return Evidence(
        closing=closing,
        unreadable=failed | (~closing & (of_openings | bool(shut.trouble))),
        kill_switch=everywhere(shut.killed),
        disarmed=np.array([bool(shut.switches.scope_against(plan.symbol, plan.source)) for plan in plans], dtype=bool),
        risk_guard=everywhere(shut.guard, object),
        market_state_age_sec=ages("market_state"),
        market_close_age_sec=ages("market_state", clock="ts_timestamp"),  # an evaluation of old candles is no news
        market_inactive=np.array([_is_inactive(one.rows["market_state"]) for one in found], dtype=bool),
        harvest_proposal_age_sec=ages("harvest_proposal"),
        position_age_sec=position_age_sec,
        flat=flat,
        position_unknown=absent & np.isnan(position_age_sec),
        position_conflict=np.array(conflict, dtype=bool),
        price_collar=np.array([one.flat is None and one.tracked("collared", default=False) for one in found], dtype=bool),
        position_inconsistent=np.array(
            [one.flat is None and one.tracked("inconsistent", default=False) for one in found], dtype=bool
        ),
        close_exceeds_position=np.array(
            [
                closes and not doubtful and _exceeds(plan, one, now, store.settings.gov_max_data_age_sec)
                for plan, (one, closes), doubtful in zip(plans, both, conflict, strict=True)
            ],
            dtype=bool,
        ),
        unknown_symbol=np.array([plan.symbol not in store.settings.symbols for plan in plans], dtype=bool),
        non_live=np.array(
            [
                not all(map(is_live, (plan.source, plan.data_source, *one.labels(closing=closes), *shut.labels(closing=closes))))
                for plan, (one, closes) in zip(plans, both, strict=True)
            ],
            dtype=bool,
        ),
        kill_score=np.array([_kill_score(plan, one) for plan, one in zip(plans, found, strict=True)]),
        permits_hour=unknown,
        permits_5min=unknown,
        day_total=unknown,
        amount=unknown,
        in_usd=everywhere(value=False),
        position_notional_usd=np.array(
            [
                _gross_usd(one, now, store.settings.gov_max_data_age_sec, inverse=store.settings.contract_of(plan.symbol).inverse)
                for plan, one in zip(plans, found, strict=True)
            ]
        ),
        target_usd=np.array([_cap_usd(one.target) for one in found]),
    )


def _is_inactive(reading: Reading[dict[str, Any]]) -> bool:
    return reading.value is not None and bool(reading.value["market_inactive"])


def _gross_usd(found: Found, now: float, max_age_sec: float, *, inverse: bool) -> float:
    """Give the notional of a symbol's position, of both legs together; NaN when that of one is not known."""
    total = 0.0 if found.flat else _notional_usd(found.rows[POSITION.asset], inverse=inverse)
    for snapshot, tracked in found.siblings:
        flat = snapshot.value if isinstance(snapshot.value, Flat) else None
        clock = flat.ts_epoch if flat is not None else None if tracked.value is None else tracked.value["position_ts_epoch"]
        known = snapshot.value is not None and clock is not None and -CLOCK_SKEW_SEC <= now - clock <= max_age_sec
        total += math.nan if not known else 0.0 if flat is not None else _notional_usd(tracked, inverse=inverse)
    return total


def _exceeds(plan: Plan, found: Found, now: float, max_age_sec: float) -> bool:
    """Tell whether a closing plan asks for more than is held: executed, the rest would open the other side.

    What is not known (no snapshot, one that is old or cannot be read, a size that is not given) refuses no close: a writer of
    positions that is down must not keep anybody in a position.
    """
    snapshot = found.snapshot.value
    if snapshot is None or (snapshot.ts_epoch is not None and now - snapshot.ts_epoch > max_age_sec):
        return False
    if isinstance(snapshot, Flat):
        return True
    return plan.qty is not None and snapshot.contracts is not None and plan.qty > snapshot.contracts * SIZE_SLACK


def _notional_usd(reading: Reading[dict[str, Any]], *, inverse: bool = False) -> float:
    row = reading.value
    if row is None or row["qty"] is None or row["current_price"] is None:
        return math.nan
    return abs(float(row["qty"])) * float(row["entry_price"] if inverse else row["current_price"])


def _cap_usd(target: Scored) -> float:
    """Give the target that caps a position; NaN unless it is in force (mode enforce) and fresh."""
    return target.value if target.status == "ok" and target.mode.strip().lower() == "enforce" else math.nan


def _age_sec(reading: Reading[dict[str, Any]], clock: str, now: float) -> float:
    row = reading.value
    if row is None or row.get("held") is False or row.get("ts_timestamp") == 0 or not row[clock]:  # no clock: age unknown
        return math.nan
    return now - float(row[clock])


def _labels(row: Mapping[str, Reading[dict[str, Any]]]) -> set[str]:
    values = [reading.value for reading in row.values() if reading.value is not None]
    return {str(value[label]) for value in values for label in ("source", "data_source", "position_source") if label in value}


def _kill_score(plan: Plan, found: Found) -> float:
    harvest = None if found.flat else found.rows["harvest_proposal"].value
    scores = [plan.kill_score, None if harvest is None else harvest["kill_score"]]
    return max((score for score in scores if score is not None), default=math.nan)


def _permit(
    store: RedisStore, plan: Plan, positions: Mapping[str, Reading[dict[str, Any]]], hint: Mapping[str, Any]
) -> dict[str, Any]:
    position = positions[plan.symbol].value
    known = [price for price in (plan.price, position["current_price"] if position is not None else None) if price]
    price = max(known, default=None)  # a plan cannot talk its size down
    qty = plan.qty or None
    contract = store.settings.contract_of(plan.symbol)
    if qty is None and position is not None and position["qty"] and is_closing(plan.action, reduce_only=plan.reduce_only):
        # of unknown share: perhaps all of it; kept before sizes were kept as written, it is in base units
        held = position["contracts"] if position["contracts"] is not None else position["qty"]
        qty = CLOSED_SHARE.get(plan.action, 1.0) * abs(held)
    return {
        "granted": "true",
        "plan_id": plan.plan_id,
        "decision": "EXECUTE",
        "computed_qty": qty,
        "computed_notional": contract.notional(qty, price) if qty is not None and price is not None else None,
        "created_at": store.clock(),
        "consumed": "false",
        **hint,
    }
