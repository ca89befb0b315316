"""Judges plans: gathers what is known of each at one moment, and asks the gates. Unknown means no.

Here belongs the evidence. The gates are ``quantum_core/kernels/governor/gates.py``; the limits are counted when a decision is
recorded (``lua/decide.lua``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from quantum_core.contracts.labels import is_live
from quantum_core.contracts.legs import leg_of, legs_of
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, POSITION, POSITION_SIZE
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.governor.gates import AFTER_COUNTING, BEFORE_COUNTING, ERROR, Evidence, decide, is_closing
from quantum_core.kernels.governor.limits import GovernorLimits, GovernorTheta
from resources.governor.decisions import FLAGS, JUDGED
from resources.governor.guards import read_guards
from resources.governor.limits import limits_of, limits_text
from resources.governor.permit import hint_rows, permit_row
from resources.governor.plan import Decision, Plan
from resources.governor.switches import Switches, read_switches
from resources.inputs.foreign import Scored, read_scored
from resources.inputs.position_snapshots import Flat, RawPosition
from resources.inputs.positions import PositionReader
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError

EVIDENCE = (MARKET_STATE, HARVEST_PROPOSAL, POSITION)
TROUBLE_MAX = 500  # characters of what could not be read
SIZE_SLACK = 1 + 1e-6  # a size that went through text and back is no larger one

log = logging.getLogger("quantum.governor")


def judge(store: RedisStore, plans: Sequence[Plan], now: datetime, *, recorded: bool = True) -> list[Decision]:
    """Judge plans; what makes the judgement itself fail is that plan's fault and blocks it, never the others.

    Parameters
    ----------
    store, plans
        Where, and which.
    now
        The moment all of them are judged at.
    recorded
        False when only the gates are asked: the decisions carry no permit and no facts, and must not be recorded.

    Raises
    ------
    RedisUnavailableError
        The server is away; the plans stay pending and are judged when it is back.
    """
    try:
        return _judge(store, plans, now, recorded=recorded)
    except RedisUnavailableError:
        raise
    except Exception as error:
        if len(plans) > 1:
            half = len(plans) // 2
            return [
                part
                for half_of_plans in (plans[:half], plans[half:])
                for part in judge(store, half_of_plans, now, recorded=recorded)
            ]
        log.exception("plan %s cannot be evaluated", plans[0].plan_id)
        closing = is_closing(plans[0].action, reduce_only=plans[0].reduce_only)
        return [Decision(plans[0], ERROR, facts={"closing": str(int(closing)), "error": type(error).__name__})]


def _judge(store: RedisStore, plans: Sequence[Plan], now: datetime, *, recorded: bool) -> list[Decision]:
    siblings = {plan.symbol: [leg for leg in legs_of(plan.symbol) if leg != plan.symbol] for plan in plans if leg_of(plan.symbol)}
    symbols = sorted({plan.symbol for plan in plans}.union(*siblings.values()))
    snapshots = {one.symbol: one for one in PositionReader(store).snapshots(symbols, now)}
    rows_by_asset = {table.asset: dict(zip(symbols, store.read(table, symbols), strict=True)) for table in EVIDENCE}
    targets = dict(zip(symbols, read_scored(store, "base_target", "target_usd", symbols, now), strict=True))
    findings = [
        Found(
            {asset: rows[plan.symbol] for asset, rows in rows_by_asset.items()},
            snapshots[plan.symbol],
            targets[plan.symbol],
            [(snapshots[leg], rows_by_asset[POSITION.asset][leg]) for leg in siblings.get(plan.symbol, ())],
        )
        for plan in plans
    ]
    shut = _shut(store, now)
    evidence = _evidence(store, plans, findings, shut, now.timestamp())
    by_plan = [limits_of(store, plan.symbol) for plan in plans]
    theta = GovernorTheta.by_row(by_plan)
    reasons, reasons_beyond = decide(evidence, theta, BEFORE_COUNTING), decide(evidence, theta, AFTER_COUNTING)
    if not recorded:
        return [
            Decision(plan, reason, reason_beyond=reason_beyond)
            for plan, reason, reason_beyond in zip(plans, reasons, reasons_beyond, strict=True)
        ]
    hints = dict(zip(symbols, hint_rows(store, symbols, now), strict=True))
    tracked = rows_by_asset[POSITION.asset]
    sizes = _sizes(store, symbols, now.timestamp())
    permits = [
        permit_row(store, plan, tracked[plan.symbol].value, hints[plan.symbol], now, sizes.get(plan.symbol)) for plan in plans
    ]
    return [
        Decision(plan, reason, permit, _facts(evidence, row, plan, findings[row], shut, by_plan[row]), reason_beyond)
        for row, (plan, reason, permit, reason_beyond) in enumerate(zip(plans, reasons, permits, reasons_beyond, strict=True))
    ]


def _sizes(store: RedisStore, symbols: Sequence[str], now: float) -> dict[str, float]:
    """Give the size proposed for each symbol, where there is a fresh one: a hint, which no gate reads."""
    limit = store.max_age_sec(POSITION_SIZE)
    rows = [one.value for one in store.read(POSITION_SIZE, symbols) if one.value is not None]
    return {row["symbol"]: row["size_usd"] for row in rows if -CLOCK_SKEW_SEC <= now - row["last_update_epoch"] <= limit}


@dataclass(frozen=True)
class Found:
    """What is known of the symbol of one plan: its rows by asset, its position as reported now, and its P2.9 target.

    Of a leg also the other one, whose notional counts against the same target: its position as reported now, and as tracked.
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
        """Give what the writers of these rows, and of the snapshot as it is now, say of themselves."""
        shown = None if closing and self.flat is None else self.snapshot.value  # a close is judged by the row
        return _labels(self.needed(closing=closing)) | (set() if shown is None else {shown.position_source})


@dataclass(frozen=True)
class Shut:
    """What blocks all openings at once, why any of it is unknown (empty when all of it could be read), and whose account."""

    killed: bool
    switches: Switches
    guard: str
    trouble: str
    account: str

    def labels(self, *, closing: bool) -> set[str]:
        """Give what the writer of the account says of itself: openings rest on its guards, closings do not."""
        return {self.account} if self.account and not closing else set()


def _shut(store: RedisStore, now: datetime) -> Shut:
    switches, guards = read_switches(store), read_guards(store, now)
    trouble = "; ".join(filter(None, (switches.trouble, guards.trouble)))
    return Shut(switches.killed, switches, next(iter(guards.live), ""), trouble, guards.account)


def _facts(evidence: Evidence, row: int, plan: Plan, found: Found, shut: Shut, limits: GovernorTheta) -> dict[str, str]:
    """Give the evidence that one plan was judged by, so that the record alone explains it; whoever counts adds the counts."""
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
        "theta": limits_text(limits),
        **cycles,
    }


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _evidence(store: RedisStore, plans: Sequence[Plan], findings: Sequence[Found], shut: Shut, now: float) -> Evidence:
    """Gather what each plan is judged by before permits are counted; the counts are left unknown."""
    closing = np.array([is_closing(plan.action, reduce_only=plan.reduce_only) for plan in plans], dtype=bool)
    with_closing = list(zip(findings, closing.tolist(), strict=True))
    failed = np.array(
        [any(row.state is State.FAILED for row in finding.needed(closing=closes).values()) for finding, closes in with_closing],
        dtype=bool,
    )
    of_openings = np.array(
        [finding.snapshot.state is State.FAILED or finding.target.status == "error" for finding in findings], dtype=bool
    )
    flat = np.array([finding.flat is not None for finding in findings], dtype=bool)

    def ages(asset: str, clock: str = "last_update_epoch") -> Any:
        return np.array([_age_sec(finding.rows[asset], clock, now) for finding in findings])

    def age_of_position(finding: Found) -> float:  # of the snapshot: a dead writer makes no new ones
        if finding.flat is None:
            return _age_sec(finding.rows["position"], "position_ts_epoch", now)
        return math.nan if finding.flat.ts_epoch is None else now - finding.flat.ts_epoch

    def max_age_sec(plan: Plan) -> float:
        return store.profile.theta(GovernorLimits, plan.symbol).max_data_age_sec

    def everywhere(value: object, dtype: Any = bool) -> Any:
        return np.full(len(plans), value, dtype=dtype)

    position_age_sec = np.array([age_of_position(finding) for finding in findings])
    absent = np.array([finding.snapshot.state is State.ABSENT for finding in findings], dtype=bool)
    conflict = [finding.tracked("conflict_until_epoch", 0.0) > now for finding in findings]
    unknown = everywhere(math.nan, float)
    return Evidence(
        closing=closing,
        unreadable=failed | (~closing & (of_openings | bool(shut.trouble))),
        kill_switch=everywhere(shut.killed),
        disarmed=np.array([bool(shut.switches.scope_against(plan.symbol, plan.source)) for plan in plans], dtype=bool),
        risk_guard=everywhere(shut.guard, object),
        market_state_age_sec=ages("market_state"),
        market_close_age_sec=ages("market_state", clock="ts_timestamp"),  # an evaluation of old candles is no news
        market_inactive=np.array([_is_inactive(finding.rows["market_state"]) for finding in findings], dtype=bool),
        harvest_proposal_age_sec=ages("harvest_proposal"),
        position_age_sec=position_age_sec,
        flat=flat,
        position_unknown=absent & np.isnan(position_age_sec),
        position_conflict=np.array(conflict, dtype=bool),
        price_collar=np.array(
            [finding.flat is None and finding.tracked("collared", default=False) for finding in findings], dtype=bool
        ),
        position_inconsistent=np.array(
            [finding.flat is None and finding.tracked("inconsistent", default=False) for finding in findings], dtype=bool
        ),
        close_exceeds_position=np.array(
            [
                closes and not doubtful and _exceeds(plan, finding, now, max_age_sec(plan))
                for plan, (finding, closes), doubtful in zip(plans, with_closing, conflict, strict=True)
            ],
            dtype=bool,
        ),
        unknown_symbol=np.array([plan.symbol not in store.settings.symbols for plan in plans], dtype=bool),
        non_live=np.array(
            [
                not all(
                    map(is_live, (plan.source, plan.data_source, *finding.labels(closing=closes), *shut.labels(closing=closes)))
                )
                for plan, (finding, closes) in zip(plans, with_closing, strict=True)
            ],
            dtype=bool,
        ),
        kill_score=np.array([_kill_score(plan, finding) for plan, finding in zip(plans, findings, strict=True)]),
        permits_hour=unknown,
        permits_5min=unknown,
        day_total=unknown,
        amount=unknown,
        in_usd=everywhere(value=False),
        position_notional_usd=np.array(
            [
                _gross_usd(finding, now, max_age_sec(plan), inverse=store.settings.contract_of(plan.symbol).inverse)
                for plan, finding in zip(plans, findings, strict=True)
            ]
        ),
        target_usd=np.array([finding.target.cap for finding in findings]),
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
    """Whether a closing plan asks for more than is held, or would close the other side: executed, it would open one.

    What is not known (no snapshot, one that is old or cannot be read, a size that is not given) refuses no close: a writer of
    positions that is down must not keep anybody in a position.
    """
    snapshot = found.snapshot.value
    if snapshot is None or (snapshot.ts_epoch is not None and now - snapshot.ts_epoch > max_age_sec):
        return False
    if isinstance(snapshot, Flat):
        return True
    if plan.closes - {snapshot.side}:  # of a side that nobody holds
        return True
    return plan.most is not None and snapshot.contracts is not None and plan.most > snapshot.contracts * SIZE_SLACK


def _notional_usd(reading: Reading[dict[str, Any]], *, inverse: bool = False) -> float:
    row = reading.value
    if row is None or row["qty"] is None or row["current_price"] is None:
        return math.nan
    return abs(float(row["qty"])) * float(row["entry_price"] if inverse else row["current_price"])


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
