"""Proofs of the asset ``governor_permit``."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from datetime import UTC, date, datetime

from quantum_assets.checks import reference
from quantum_assets.checks.common import calc_only_imports, contract, fresh, lifetime, unknown_profile
from quantum_assets.checks.evidence import Entry, Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_core.contracts.labels import is_live
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.contracts.tables import (
    ALLOCATION_REASONS,
    BLOCK_TTL_SEC,
    EVENTS_STREAM_MAXLEN,
    GOVERNOR_STATE,
    PERMIT,
    PERMIT_TTL_SEC,
    SEEN_TTL_SEC,
)
from resources.governor.decisions import ADDED, IncompleteRecordError, judged_by, rests_on_nothing
from resources.governor.plan import CLOSING, OPENING, parse_plan
from resources.inputs.foreign import number_or_none, read_efficiency

AGES = ("market_state_age_sec", "market_close_age_sec", "harvest_proposal_age_sec", "position_age_sec")
DECISIONS_JUDGED = 500  # newest ones
UNDECIDED_SEC = 60.0  # the plans' sensor looks every 5 s; a plan this old was forgotten
EXPIRING_SEC = 5.0  # a record may expire while it is looked at
HOUR_SEC, BURST_SEC = 3600, 300
PRINTED_FACTOR = 0.51e-4


proof = Prover(GOVERNOR_STATE.asset)


def every_plan_decided(evidence: Evidence) -> Finding:
    """Each plan to be executed has one decision, and the record that goes with it."""
    decided = defaultdict(list)
    for entry in evidence.decisions:
        decided[entry.fields.get("plan_id", "")].append(entry)
    failing, judged = {}, 0
    for when, fields, entry_id in evidence.plans:
        plan_id = parse_plan(entry_id, {name.encode(): value.encode() for name, value in fields.items()}).plan_id
        if fields.get("decision", "").strip().upper() not in ("", "EXECUTE"):
            continue
        judged += 1
        outcomes = decided.get(plan_id, [])
        if len(outcomes) > 1 and outcomes[-1].time - outcomes[-2].time < SEEN_TTL_SEC:
            failing[plan_id] = f"decided {len(outcomes)} times"
        elif not outcomes and evidence.now - when > UNDECIDED_SEC:
            failing[plan_id] = f"undecided for {evidence.now - when:.0f} s"
    for plan_id, outcomes in decided.items():
        if len(outcomes) == 1 and (odd := _record_missing(evidence, plan_id, outcomes[0])):
            failing[plan_id] = odd
    for plan_id in evidence.permits:
        if not any(entry.fields.get("event") == "PERMIT" for entry in decided.get(plan_id, [])):
            failing[plan_id] = "a permit nobody decided"
    return Finding(
        f"{judged} plans, {len(evidence.permits)} permits", "one permit or block per plan, and its record", judged, failing
    )


def _record_missing(evidence: Evidence, plan_id: str, entry: Entry) -> str:
    """Say which record a decision has not left, or which one stands there besides."""
    granted, age = entry.fields.get("event") == "PERMIT", evidence.now - entry.time
    lives = (PERMIT_TTL_SEC if granted else BLOCK_TTL_SEC) - EXPIRING_SEC
    if granted and evidence.store.settings.permit_format == "json":  # whoever uses it deletes it
        lives = 0
    if granted and plan_id in evidence.blocks:
        return "a permit and a block"
    if not granted and plan_id in evidence.permits:
        return "blocked, and yet there is a permit"
    if age < lives and plan_id not in (evidence.permits if granted else evidence.blocks):
        return f"decided {age:.0f} s ago, but there is no {'permit' if granted else 'block'}"
    return ""


def _permits_counted(evidence: Evidence) -> dict[tuple[str, str], list[Entry]]:
    """Give the permits on record by symbol and kind, whatever they were counted as.

    Those of before closes had limits of their own count as openings, as they did and do.
    """
    found: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in evidence.decisions:
        if entry.fields.get("event") == "PERMIT":
            apart = "counted_as" in entry.fields and entry.fields.get("closing") == "1"
            found[entry.fields.get("symbol", ""), CLOSING if apart else OPENING].append(entry)
    return found


def permit_as_decided(evidence: Evidence) -> Finding:
    """Each permit says what was decided, a minute ago at most: an edited or repeated one is nobody's."""
    events = {entry.fields.get("plan_id", ""): entry for entry in evidence.decisions if entry.fields.get("event") == "PERMIT"}
    failing = {}
    for plan_id, record in evidence.permits.items():
        if plan_id not in events:
            continue  # every_plan_decided says so
        event, fields = events[plan_id], record.fields
        amount = fields.get("computed_notional") or fields.get("computed_qty", "")
        granted = {item.name: fields.get(item.name, "") for item in PERMIT.fields}
        if granted["consumed"] == "true":  # by its executor, who marks it so
            granted["consumed"] = "false"
        if (digest := fields.get("digest")) != PERMIT.digest(granted):
            failing[plan_id] = f"edited since it was granted (digest {digest})"
        elif fields.get("symbol") != event.fields.get("symbol"):
            failing[plan_id] = f"of {fields.get('symbol')}, decided for {event.fields.get('symbol')}"
        elif (amount or "0.0") != (event.fields.get("notional") or event.fields.get("qty") or "0.0"):  # unknown counts nothing
            failing[plan_id] = f"for {amount}, decided for {event.fields.get('notional') or event.fields.get('qty')}"
        elif evidence.now - event.time > PERMIT_TTL_SEC + EXPIRING_SEC:
            failing[plan_id] = f"decided {evidence.now - event.time:.0f} s ago"
    return Finding(
        f"{len(evidence.permits)} permits", "as decided, and not older than they may live", len(evidence.permits), failing
    )


def limits_hold(evidence: Evidence) -> Finding:
    """Counted again from the records, no symbol was given more openings, or more closes, than their limits allow."""
    failing, most = {}, 0
    counted = _permits_counted(evidence)
    for (symbol, kind), granted in evidence.granted.items():
        recorded = len(counted.get((symbol, kind), ()))
        if granted > recorded and len(evidence.decisions) < EVENTS_STREAM_MAXLEN:
            failing[symbol] = f"{granted} permits ({kind}) were counted within the hour, {recorded} are on record"
    for (symbol, kind), entries in counted.items():
        times = [float(entry.fields.get("timestamp_epoch", entry.time)) for entry in entries]
        days: dict[tuple[date, str], float] = defaultdict(float)
        for when, entry in zip(times, entries, strict=True):
            theta = evidence.limits_of(entry.fields, symbol)  # of its time: a limit made smaller since was not broken
            theta = theta.of_closes() if kind == CLOSING else theta
            for span, limit in ((HOUR_SEC, theta.max_exec_per_hour), (BURST_SEC, theta.max_exec_per_5min)):
                granted = sum(0 <= when - start < span for start in times)
                most = max(most, granted if span == HOUR_SEC else 0)
                if granted > limit:
                    failing[symbol] = f"{granted} permits ({kind}) within {span} s, limit {limit}"
            unit = "usd" if number_or_none(entry.fields.get("notional", "")) is not None else "qty"
            amount = number_or_none(entry.fields.get("notional" if unit == "usd" else "qty", "")) or 0.0
            day = datetime.fromtimestamp(when, UTC).date()
            days[day, unit] += amount
            total, most_a_day = days[day, unit], theta.max_notional_per_day_usd if unit == "usd" else theta.max_qty_per_day
            if total > most_a_day * (1 + 1e-9):
                failing[symbol] = f"{total:g} {unit} ({kind}) on {day}, limit {most_a_day:g}"
    opens = evidence.limits_of({}, ACCOUNT)
    closes = opens.of_closes()
    hourly, burst = (
        f"{getattr(opens, name)} openings, {getattr(closes, name)} closes" for name in ("max_exec_per_hour", "max_exec_per_5min")
    )
    allowed = f"<= {hourly} per hour; {burst} per 5 min; and the daily totals"
    return Finding(f"most within an hour {most}", allowed, len(evidence.symbols), failing)


def hints_recomputed(evidence: Evidence) -> Finding:
    """The governor's row hints what the efficiency it names calls for, and that is the efficiency of its symbol."""
    rows, failing = evidence.rows(GOVERNOR_STATE), {}
    symbols = list(evidence.symbols)
    now = read_efficiency(evidence.store, symbols)
    for position, symbol in enumerate(symbols):
        if (row := rows.get(symbol)) is None:
            continue
        if (parameters := evidence.parameters_of(row, symbol)) is None:
            failing[symbol] = unknown_profile(row)
            continue
        p, trusted = parameters["permit_hint"], not row["eff_stale"]
        expected = reference.permit_hint(row["eff_score"] if trusted else None, p)
        off = abs(row["eff_factor"] - expected["eff_factor"]) > PRINTED_FACTOR / p["downsize_threshold"]
        other_action = (
            row["eff_action"] != expected["eff_action"] or abs(row["extra_cooldown_sec"] - expected["extra_cooldown_sec"]) > 1
        )
        if off or other_action or row["downsize_factor"] != row["eff_factor"] or trusted != (row["eff_reason"] == "ok"):
            failing[symbol] = f"{row['eff_action']} {row['eff_factor']} {row['extra_cooldown_sec']} s, recomputed {expected}"
            continue
        unchanged = now.state[position] == "present" and now.ts[position] < row["last_update_epoch"]
        if unchanged and trusted and abs(float(now.score[position]) - row["eff_score"]) > PRINTED_FACTOR:
            failing[symbol] = f"score {row['eff_score']}, its efficiency says {now.score[position]}"
    return Finding(f"{len(rows) - len(failing)} of {len(rows)}", "equal as printed", len(rows), failing)


def no_permit_from_bad_data(evidence: Evidence) -> Finding:
    """Whoever was allowed to open risk was allowed on data that was there, fresh and live."""
    settings, failing, judged = evidence.settings, {}, 0
    for entry in (one for entries in _permits_counted(evidence).values() for one in entries):
        fields = {**ADDED, **entry.fields}
        judged += 1
        if not settings.allow_synthetic and not all(map(is_live, fields.get("sources", "").split(","))):
            failing[fields["plan_id"]] = f"granted on {fields['sources']}"
        if not settings.allow_synthetic and not is_live(fields.get("plan_source", "")):
            failing[fields["plan_id"]] = f"granted to {fields['plan_source']}"
        if fields.get("closing") == "1":
            continue
        theta = evidence.limits_of(fields, fields.get("symbol", ""))
        limits = dict.fromkeys(AGES, theta.max_data_age_sec) | {"market_close_age_sec": theta.max_close_age_sec}
        for name, limit in limits.items():
            age = number_or_none(fields.get(name, ""))
            due = name != "harvest_proposal_age_sec" or fields["flat"] != "1"
            if due and (age is None or not math.isfinite(age) or age > limit):
                failing[fields["plan_id"]] = f"granted with {name} {fields.get(name) or 'unknown'}"
        if fields["position_unknown"] == "1":
            failing[fields["plan_id"]] = "granted although no source showed the position"
        for name in ("position_conflict", "price_collar", "position_inconsistent"):
            if fields[name] == "1":
                failing[fields["plan_id"]] = f"granted in spite of {name}"
    limit = evidence.limits_of({}, ACCOUNT).max_data_age_sec
    return Finding(f"{judged} permits", f"openings: every input <= {limit:.0f} s old, live", judged, failing)


def decisions_recomputed(evidence: Evidence) -> Finding:
    """Every decision follows from what its own record says it was judged by, gate after gate."""
    failing, judged = {}, 0
    for entry in evidence.decisions[-DECISIONS_JUDGED:]:
        event = entry.fields
        judged += 1
        plan_id, reason = event.get("plan_id", ""), event.get("reason", "")
        if (event["event"] == "PERMIT") != (reason == ""):
            failing[plan_id] = f"{event['event']} with reason {reason!r}"
        if rests_on_nothing(event):
            continue
        try:
            wanted = reference.governor(*judged_by(event))
        except IncompleteRecordError as error:
            failing[plan_id] = str(error)
            continue
        if wanted != reason:
            failing[plan_id] = f"{reason or 'permitted'}, recomputed {wanted or 'a permit'}"
    return Finding(f"{judged} decisions", "each as its record leads to", judged, failing)


def permit_lifetime(evidence: Evidence) -> Finding:
    """No permit outlives its minute."""
    lifetimes = {plan_id: record.ttl_ms for plan_id, record in evidence.permits.items()}
    failing = {
        plan_id: "no lifetime: it would be valid for ever" if ms < 0 else f"{ms / 1000:.0f} s"
        for plan_id, ms in lifetimes.items()
        if not 0 <= ms <= PERMIT_TTL_SEC * 1000
    }
    return Finding(
        f"longest {max(lifetimes.values(), default=0) / 1000:.0f} s", f"<= {PERMIT_TTL_SEC} s", len(lifetimes), failing
    )


def hints_never_block(evidence: Evidence) -> Finding:
    """No plan was refused for its symbol's efficiency."""
    hints = {*ALLOCATION_REASONS, "DOWNSIZE"}
    blocks = [entry.fields for entry in evidence.decisions if entry.fields.get("event") == "BLOCK"]
    failing = {one.get("plan_id", ""): f"blocked: {one.get('reason')}" for one in blocks if one.get("reason") in hints}
    reasons = Counter(one.get("reason", "").partition(":")[0] for one in blocks)
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3)) or "no blocks"
    return Finding(told, "no block for a hint", len(blocks), failing)


PROOFS = (
    calc_only_imports(GOVERNOR_STATE.asset),
    contract(GOVERNOR_STATE, lambda evidence: evidence.symbols),
    lifetime(GOVERNOR_STATE),
    fresh(GOVERNOR_STATE.asset),
    proof(
        "every_plan_decided", "Every plan to be executed has exactly one permit or block.", every_plan_decided, per_symbol=False
    ),
    proof("limits_hold", "Counted again from the records, the limits hold.", limits_hold),
    proof("hints_recomputed", "Recomputed plainly from the efficiency, the hints come out as published.", hints_recomputed),
    proof(
        "no_permit_from_bad_data",
        "No permit rests on missing, stale or synthetic data.",
        no_permit_from_bad_data,
        per_symbol=False,
    ),
    proof(
        "decisions_recomputed",
        "Decided again plainly from its own record, every decision comes out as it was made.",
        decisions_recomputed,
        per_symbol=False,
    ),
    proof("permit_lifetime", "No permit lives longer than a minute.", permit_lifetime, per_symbol=False),
    proof("permit_as_decided", "Every permit says what was decided, and is of its minute.", permit_as_decided, per_symbol=False),
    proof("hints_never_block", "No plan is refused for a hint.", hints_never_block, per_symbol=False),
)
