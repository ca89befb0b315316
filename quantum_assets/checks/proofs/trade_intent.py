"""Proofs of the asset ``trade_intent``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from quantum_assets.checks import reference
from quantum_assets.checks.common import calc_only_imports, compare, contract, fresh, lifetime, misformatted, recomputation
from quantum_assets.checks.evidence import PLANS_LOOKED_AT, Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_assets.checks.proofs.harvest_proposal import action_consistent, kill_score_range
from quantum_core.contracts.labels import PLANNER
from quantum_core.contracts.schema import ContractError
from quantum_core.contracts.tables import HARVEST_PROPOSAL, INTENT_TTL_SEC, LAST_INTENT, PENDING_INTENT, RISK_PROPOSAL

EXPIRING_SEC = 5.0  # an intent may expire while it is looked at
BEGINNINGS = ("first", "due changed")  # causes of an intent that need not differ from the one before it


proof = Prover(LAST_INTENT.asset)


def pending(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Give the pending intents of our symbols by id, decoded; those that break their contract are what its proof is for."""
    found = {}
    for intent_id, record in evidence.intents.items():
        if record.fields.get("symbol") in evidence.symbols and not isinstance(row := _decoded(record.fields), str):
            found[intent_id] = row
    return found


def _decoded(fields: Mapping[str, str]) -> dict[str, Any] | str:
    """Decode a pending intent; what is wrong with it comes as text."""
    try:
        row = PENDING_INTENT.decode({name.encode(): text.encode() for name, text in fields.items()})
    except ContractError as error:
        return str(error)
    return misformatted(PENDING_INTENT, row, fields) or row


def pending_contract(evidence: Evidence) -> Finding:
    """Every pending intent has all its fields, each in its format, as they were written."""
    failing = {
        record.fields.get("symbol", intent_id): f"{intent_id}: {odd}"
        for intent_id, record in evidence.intents.items()
        if isinstance(odd := _decoded(record.fields), str)
    }
    wanted = f"{len(PENDING_INTENT.by_name)} fields, each in its format"
    return Finding(f"{len(evidence.intents)} pending", wanted, len(evidence.intents), failing)


def pending_lifetime(evidence: Evidence) -> Finding:
    """No intent can be acted on for longer than five minutes."""
    failing = {}
    for intent_id, record in evidence.intents.items():
        if not 0 <= record.ttl_ms <= INTENT_TTL_SEC * 1000:
            told = "no lifetime: it would stay for ever" if record.ttl_ms < 0 else f"{record.ttl_ms / 1000:.0f} s"
            failing[record.fields.get("symbol", intent_id)] = f"{intent_id}: {told}"
    for intent_id, row in pending(evidence).items():
        if row["expires_at"] - row["created_at"] != timedelta(seconds=INTENT_TTL_SEC):
            failing[row["symbol"]] = f"{intent_id}: made {row['created_at']}, said to expire {row['expires_at']}"
    longest = max((record.ttl_ms for record in evidence.intents.values()), default=0) / 1000
    return Finding(f"longest {longest:.0f} s", f"> 0 and <= {INTENT_TTL_SEC} s", len(evidence.intents), failing)


def due_intended(evidence: Evidence) -> Finding:
    """What the proposals ask for was intended, what they do not ask for is not; simpler proofs come first."""
    elsewhere = {**action_consistent(evidence).failing, **kill_score_range(evidence).failing}
    lasts, failing, judged, due = evidence.rows(LAST_INTENT), {}, 0, 0
    for symbol, harvest, risk in _proposals(evidence):
        last, wanted = lasts.get(symbol), reference.intent(harvest, risk)
        if symbol in elsewhere or last is None:
            continue
        if last["computed_at_utc"] < max(harvest["published_at_utc"], risk["published_at_utc"]):
            continue  # they are of the next evaluation; how long ago the last one was is proven by ``fresh``
        judged += 1
        due += wanted is not None
        if odd := _unintended(evidence, last, wanted):
            failing[symbol] = odd
    return Finding(f"{due} due", "an intent for each, and none beside", judged, failing)


def _proposals(evidence: Evidence) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    harvests, risks = evidence.rows(HARVEST_PROPOSAL), evidence.rows(RISK_PROPOSAL)
    for symbol in evidence.open_positions:
        if symbol in harvests and symbol in risks:
            yield symbol, harvests[symbol], risks[symbol]


def _unintended(evidence: Evidence, last: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> str:
    """Say how what was last intended differs from what is wanted."""
    if wanted is None:
        return f"{last['intent_id']} is said to be due, the proposals ask for nothing" if last["due"] else ""
    if not last["due"]:
        return f"{wanted['harvest_action']} is proposed, nothing is intended"
    if reference.intent_changed(last, wanted, eps_pct=evidence.settings.change_eps_pct):
        return f"{last['intent_id']} is about {last['harvest_action']} {last['reason_codes']}, no longer what is proposed"
    if _ought_to_be_pending(evidence, last) and last["intent_id"] not in evidence.intents:
        return f"intended at {last['published_at_utc']}, but {last['intent_id']} is not pending"
    return ""


def _ought_to_be_pending(evidence: Evidence, last: Mapping[str, Any]) -> bool:
    return bool(evidence.now - last["published_at_utc"].timestamp() < INTENT_TTL_SEC - EXPIRING_SEC)


def one_per_change(evidence: Evidence) -> Finding:
    """Every pending intent is the last of its symbol or was replaced by it, and asks for something else than the one before."""
    lasts, rows, failing = evidence.rows(LAST_INTENT), pending(evidence), {}
    of_symbol: dict[str, set[str]] = defaultdict(set)
    for intent_id, row in rows.items():
        of_symbol[row["symbol"]].add(intent_id)
    for symbol, ids in of_symbol.items():
        link = lasts[symbol]["intent_id"] if symbol in lasts else ""
        if link not in ids and symbol in lasts and _ought_to_be_pending(evidence, lasts[symbol]):
            continue  # the chain cannot be followed; ``due_intended`` or ``pending_contract`` says so
        while link in ids:
            ids = ids - {link}
            row, before = rows[link], rows.get(rows[link]["replaces"])
            same = before is not None and not reference.intent_changed(before, row, eps_pct=evidence.settings.change_eps_pct)
            if same and row["cause"] not in BEGINNINGS:
                failing[symbol] = f"{link} ({row['cause']}) asks for the same as {row['replaces']}, which it replaced"
            link = row["replaces"]
        if ids:
            failing[symbol] = f"{', '.join(sorted(ids))}: neither last intended nor replaced since"
    most = max((len(ids) for ids in of_symbol.values()), default=0)
    return Finding(f"at most {most} pending of a symbol", "one per change of its proposals", len(rows), failing)


def recomputed(evidence: Evidence) -> Finding:
    """The id follows from what an intent says of itself, and the rest from the proposals it was made from while they stand."""
    wanted = {symbol: reference.intent(harvest, risk) for symbol, harvest, risk in _proposals(evidence)}
    return recomputation(_recomputed(intent_id, row, wanted.get(row["symbol"])) for intent_id, row in pending(evidence).items())


def _recomputed(intent_id: str, row: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> tuple[str, str, float]:
    mismatch, largest = "", 0.0
    if wanted is not None and wanted["proposals_digest"] == row["proposals_digest"]:
        mismatch, largest = compare(
            row, {name: value for name, value in wanted.items() if name != "proposal_time"}
        )  # renewed since
    if (again := reference.intent_id(row["symbol"], row)) != intent_id:
        mismatch = f"recomputed the id is {again}"
    return row["symbol"], f"{intent_id}: {mismatch}" if mismatch else "", largest


def plans_as_intended(evidence: Evidence) -> Finding:
    """Made in shadow mode an intent has no plan; made in plan mode it has one (two after a crash in a cluster), for the same."""
    plans = defaultdict(list)
    for entry in evidence.plans:
        plans[entry.fields.get("plan_id", "")].append(entry.fields)
    seen_from = evidence.plans[0].time if len(evidence.plans) >= PLANS_LOOKED_AT else 0.0
    rows, failing, asked = pending(evidence), {}, 0
    for intent_id, row in rows.items():
        mine = plans.get(intent_id, [])
        asked += len(mine)
        if row["mode"] == "shadow":
            violation = f"{len(mine)} plans, made in shadow mode" if mine else ""
        elif not mine:
            violation = "no plan, made in plan mode" if row["created_at"].timestamp() > seen_from else ""
        elif len(mine) > 1 and not evidence.keys.cluster:
            violation = f"{len(mine)} plans"
        else:
            violation = _other_plan(row, mine[0])
        if violation:
            failing[row["symbol"]] = f"{intent_id}: {violation}"
    return Finding(f"{asked} plans of {len(rows)} intents", "none in shadow mode, one each in plan mode", len(rows), failing)


def _other_plan(row: Mapping[str, Any], plan: Mapping[str, str]) -> str:
    action = "CLOSE" if row["sl_breached"] else row["harvest_action"]
    wanted = {"symbol": row["symbol"], "action": action, "decision": "EXECUTE", "reduceOnly": "true"}
    wanted |= {"source": PLANNER, "data_source": row["source"]}
    wrong = [f"{name} {plan.get(name)}, not {text}" for name, text in wanted.items() if plan.get(name) != text]
    return f"its plan says {', '.join(wrong)}" if wrong else ""


PROOFS = (
    calc_only_imports(LAST_INTENT.asset),
    contract(LAST_INTENT, lambda evidence: evidence.open_positions),
    lifetime(LAST_INTENT),
    fresh(LAST_INTENT.asset),
    proof("pending_contract", "Every pending intent has all its fields, each in its format, unchanged since.", pending_contract),
    proof("pending_lifetime", "No intent lives longer than five minutes.", pending_lifetime),
    proof("due_intended", "What the proposals ask for is intended, and nothing else.", due_intended),
    proof("one_per_change", "A change of the proposals makes one intent, a renewal none.", one_per_change),
    proof("recomputed", "Recomputed plainly, every intent has its id and says what the proposals say.", recomputed),
    proof("plans_as_intended", "Only in plan mode an intent has a plan, one that asks for the same.", plans_as_intended),
)
