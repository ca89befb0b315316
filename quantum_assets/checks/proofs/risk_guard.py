"""Proofs of the asset ``risk_guard``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from quantum_assets.checks import reference
from quantum_assets.checks.common import FRESH, calc_only_imports, compare, contract, freshness_finding, lifetime, unknown_profile
from quantum_assets.checks.evidence import Entry, Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.contracts.tables import RISK_GUARD
from quantum_core.freshness import Sign, Vital
from quantum_core.freshness import judge as judge_clock
from quantum_core.kernels.governor.risk_guard import EMERGENCY_FLATTEN, EQUITY_STALE, RiskGuardTheta
from quantum_core.settings import Settings
from resources.governor.account import read_account
from resources.governor.guards import ACTIVATED, FLATTEN_REQUESTED, PENDING, PENDING_SEC, RELEASED, guard_said
from resources.inputs.foreign import number_or_none

EXPIRING_SEC = 5.0  # a guard may expire while it is looked at


proof = Prover(RISK_GUARD.asset, per_symbol=False)


def _row(evidence: Evidence) -> dict[str, Any] | None:
    return evidence.rows(RISK_GUARD).get(ACCOUNT)


def _durations_sec(evidence: Evidence) -> dict[str, int]:
    profile = evidence.profile_of(row, ACCOUNT) if (row := _row(evidence)) is not None else None
    return (profile or evidence.in_force.profile).theta(RiskGuardTheta).duration_sec


def _announced_for(activation: Entry, duration_sec: int) -> float:
    """Give for how long a guard was announced, s: by the parameters of its time."""
    told = number_or_none(activation.fields.get("duration_sec"))
    return duration_sec if told is None else told


def guard_vital(clock: Sign, settings: Settings, now: float) -> Vital:
    """Judge the age of the last evaluation of the account: it is due in every cycle, like the proposals."""
    limit, warn = settings.proposal_max_age_sec, min(settings.proposal_warn_age_sec, settings.proposal_max_age_sec)
    return judge_clock(RISK_GUARD.asset, ACCOUNT, clock, now, limit_sec=limit, warn_sec=warn)


def fresh(evidence: Evidence) -> Finding:
    """The account was judged a moment ago; one whose hash is missing is what the contract is for."""
    row = _row(evidence)
    if row is None:
        return Finding("no state that can be read", f"<= {evidence.settings.proposal_max_age_sec} s", 0)
    vital = guard_vital(Sign(float(row["last_update_epoch"])), evidence.settings, evidence.now)
    return freshness_finding(RISK_GUARD.asset, [vital])


def readable(evidence: Evidence) -> Finding:
    """Everything the guards are judged by can be used: what cannot be judged blocks nothing by itself."""
    row = _row(evidence)
    failing = {} if row is None else dict.fromkeys(row["errors"], row["reason"])
    return Finding(f"{len(failing)} unusable", "none", 0 if row is None else 1, failing)


def recomputed(evidence: Evidence) -> Finding:
    """The active guards follow from the numbers published with them, and these are the account's own."""
    row = _row(evidence)
    if row is None:
        return Finding("no state that can be read", "equal as published", 0)
    if (parameters := evidence.parameters_of(row, ACCOUNT)) is None:
        return Finding("not recomputed", "equal as published", 1, {ACCOUNT: unknown_profile(row)})
    wanted = reference.risk_guards(row, parameters["risk_guard"])
    mismatch, largest = compare(row, wanted)
    silent = [one for one in wanted["triggered"] if one not in row["guards"]]
    status = "error" if row["errors"] else "blocked" if row["guards"] else "ok"
    if not mismatch and silent and not row["errors"]:
        mismatch = f"{','.join(silent)} holds, and no such guard lives"
    if not mismatch and row["status"] != status:
        mismatch = f"status is {row['status']}, recomputed {status}"
    mismatch = mismatch or _other_account(evidence, row)
    observed = f"{','.join(wanted['triggered']) or 'no guard'} holds, largest relative difference {largest:.1e}"
    return Finding(observed, "equal as published", 1, {ACCOUNT: mismatch} if mismatch else {})


def _other_account(evidence: Evidence, row: dict[str, Any]) -> str:
    """Say where the numbers differ from those that stand there, unless these have been renewed since."""
    now = read_account(evidence.store)
    if now.ts_epoch is None or now.ts_epoch != row["equity_ts_epoch"]:
        return ""
    pairs = {"equity": now.account.equity, "peak": now.account.peak}
    return ", ".join(f"{name} {row[name]}, the account says {is_}" for name, is_ in pairs.items() if row[name] not in (None, is_))


def guard_lifetime(evidence: Evidence) -> Finding:
    """No guard outlives its duration: one for ever would block for ever."""
    lifetimes = {guard: ttl_ms for guard, (_, ttl_ms) in evidence.guards.items()}
    waiting_sec = PENDING_SEC + evidence.settings.guard_confirm_sec
    durations = _durations_sec(evidence)
    longest: dict[str, float] = {}
    for guard, (reply, _) in evidence.guards.items():
        announced = (_announced_for(one, 0) for one in _events(evidence, ACTIVATED, guard)[-1:])
        longest[guard] = waiting_sec if _waits(reply) else max([durations[guard], *announced])
    failing = {
        guard: "no lifetime: it would block for ever" if ms == -1 else f"{ms / 1000:.0f} s > {longest[guard]:.0f} s"
        for guard, ms in lifetimes.items()
        if ms == -1 or ms > longest[guard] * 1000
    }
    limits = ", ".join(f"{guard} {duration}" for guard, duration in durations.items())
    return Finding(f"{len(lifetimes)} live", f"seconds: {limits}", len(lifetimes), failing)


def announced_once(evidence: Evidence) -> Finding:
    """Each live guard has one announcement on record since it lives, of its activation or that it waits; EQUITY_STALE none."""
    failing = {}
    for guard, (reply, _) in evidence.guards.items():
        if guard == EQUITY_STALE:
            continue
        if (since := _activated_at(reply)) is None:
            failing[guard] = "does not say since when it stands"
            continue
        events = [one for one in _events(evidence, PENDING if _waits(reply) else ACTIVATED, guard) if _time(one) >= int(since)]
        if len(events) != 1:
            failing[guard] = f"announced {len(events)} times since {since:.0f}"
    return Finding(f"{len(evidence.guards)} live", "one activation each", len(evidence.guards), failing)


def standing(evidence: Evidence) -> Finding:
    """Nobody removes a guard before its time, but for a named person whose release is on record."""
    failing, judged = {}, 0
    for guard, duration in _durations_sec(evidence).items():
        released = max((one.time for one in _events(evidence, RELEASED, guard) if one.fields.get("by")), default=0.0)
        announced = [one for one in _events(evidence, ACTIVATED, guard) if one.time > released]
        left = [_time(one) + _announced_for(one, duration) - evidence.now for one in announced]
        judged += len(left)
        if guard not in evidence.guards and (longest := max(left, default=0.0)) > EXPIRING_SEC:
            failing[guard] = f"announced for {longest:.0f} s more, but it is gone"
    return Finding(f"{judged} announced", "live until its duration is over", judged, failing)


def flatten_confirmed(evidence: Evidence) -> Finding:
    """Since EMERGENCY_FLATTEN stands, a flatten was requested once, after two readings, and not at all while it waits."""
    reply, _ = evidence.guards.get(EMERGENCY_FLATTEN, (None, 0))
    since, apart = _activated_at(reply), float(evidence.settings.guard_confirm_sec)
    requests = [event for event in evidence.risk_events if event.fields.get("event") == FLATTEN_REQUESTED]
    requests = [event for event in requests if since is not None and _time(event) >= int(since)]
    wanted, violation = f"two readings, {apart:g} s apart", ""
    if requests and _waits(reply):
        violation = "requested before a second reading"
    elif len(requests) > 1:
        violation = f"requested {len(requests)} times since {since:.0f}"
    for event in requests[:1] if not violation else ():
        first, second = (number_or_none(event.fields.get(name)) for name in ("first_reading", "reading"))
        if first is None or second is None or second - first < apart:
            violation = f"requested after readings of {event.fields.get('first_reading')} and {event.fields.get('reading')}"
    return Finding(f"{len(requests)} requested", wanted, len(requests), {EMERGENCY_FLATTEN: violation} if violation else {})


def _waits(reply: Any) -> bool:
    return guard_said(reply).get("pending") == "True"


def _events(evidence: Evidence, event: str, guard: str) -> list[Entry]:
    events = evidence.risk_events
    return [one for one in events if one.fields.get("event") == event and one.fields.get("guard_type") == guard]


def _time(entry: Entry) -> float:
    told = number_or_none(entry.fields.get("timestamp"))
    return entry.time if told is None else told


def _activated_at(reply: Any) -> float | None:
    try:
        return datetime.fromisoformat(guard_said(reply)["activated_at"]).timestamp()
    except (KeyError, ValueError):
        return None


PROOFS = (
    calc_only_imports(RISK_GUARD.asset),
    contract(RISK_GUARD, lambda _: (ACCOUNT,)),
    lifetime(RISK_GUARD),
    proof(FRESH, "The account was judged within its limit of age; half of it is a warning.", fresh),
    proof("readable", "Equity, peak, daily profit and losses can be used, and guards and events be written.", readable),
    proof("recomputed", "Recomputed plainly from the account's numbers, the guards come out as published.", recomputed),
    proof("guard_lifetime", "No guard lives longer than its duration.", guard_lifetime),
    proof("announced_once", "Every live guard was announced exactly once.", announced_once),
    proof("standing", "No guard is removed before its time, but by a recorded release.", standing),
    proof("flatten_confirmed", "A flatten is requested once, and only after a second reading of the account.", flatten_confirmed),
)
