"""Proofs of the asset ``harvest_proposal``."""

from __future__ import annotations

from itertools import pairwise

from quantum_assets.checks import reference
from quantum_assets.checks.common import (
    calc_only_imports,
    compare,
    contract,
    fresh,
    lifetime,
    market_state_present,
    recomputed_by_profile,
)
from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import HARVEST_PROPOSAL, RISK_PROPOSAL

KILL_SCORE_MIN = 0.5  # docs/spec.md#4-harvest-kernel-p2: a sigmoid of what is never negative
MAX_AGE = "max age"  # cause of a publication that nothing but its age made due


proof = Prover(HARVEST_PROPOSAL.asset)


def risk_proposal_or_flag(evidence: Evidence) -> Finding:
    """R rests on a published stop distance, or says that it does not."""
    readings, failing = evidence.readings(RISK_PROPOSAL), {}
    rows = evidence.rows(HARVEST_PROPOSAL)
    for symbol, row in rows.items():
        if row["fallback_stop"] != (row["stop_dist_pct"] is None):
            failing[symbol] = f"fallback_stop {row['fallback_stop']}, stop_dist_pct {row['stop_dist_pct']}"
        elif not row["fallback_stop"] and readings[symbol].state is not State.PRESENT:
            failing[symbol] = f"no fallback flagged, but the risk proposal is {readings[symbol].reason}"
    fallbacks = sum(row["fallback_stop"] for row in rows.values())
    return Finding(f"{fallbacks} with the fallback", "a readable risk proposal, or fallback_stop=1", len(rows), failing)


def action_consistent(evidence: Evidence) -> Finding:
    """The action is the one R and K call for."""
    rows, failing, called_for = evidence.rows(HARVEST_PROPOSAL), {}, set()
    for symbol, row in rows.items():
        if (parameters := evidence.parameters_of(row, symbol)) is None:
            continue  # ``recomputed`` says so
        p = parameters["harvest"]
        called_for.add(f"by R {p['T1_R']:g}, {p['T2_R']:g}, {p['T3_R']:g}; K >= {p['kill_threshold']:g} closes all")
        killed = row["kill_score"] >= p["kill_threshold"]
        wanted = "FULL_CLOSE_PROPOSED" if killed else reference.partial_action(row["R_net"], p)
        if row["harvest_action"] != wanted:
            failing[symbol] = f"{row['harvest_action']} at R {row['R_net']:.4f}, K {row['kill_score']:.4f}: should be {wanted}"
    acting = sum(row["harvest_action"] != "NONE" for row in rows.values())
    return Finding(f"{acting} act", " or ".join(sorted(called_for)) or "as R and K call for", len(rows), failing)


def kill_score_range(evidence: Evidence) -> Finding:
    """K is a sigmoid of a sum that is never negative."""
    rows = evidence.rows(HARVEST_PROPOSAL)
    scores = [row["kill_score"] for row in rows.values()]
    failing = {s: f"K {row['kill_score']}" for s, row in rows.items() if not KILL_SCORE_MIN <= row["kill_score"] < 1}
    return Finding(f"{min(scores, default=0.5):.4f} to {max(scores, default=0.5):.4f}", "in [.5, 1)", len(rows), failing)


def recomputed(evidence: Evidence) -> Finding:
    """Action, R and K follow from the inputs the proposal repeats; what a simpler proof has found is left to that."""
    return recomputed_by_profile(
        evidence,
        HARVEST_PROPOSAL,
        lambda _, row, parameters: compare(row, reference.harvest(row, parameters["harvest"])),
        {**action_consistent(evidence).failing, **kill_score_range(evidence).failing},
    )


def rate_limited(evidence: Evidence) -> Finding:
    """Publications are neither overdue nor renewed for no reason."""
    settings, rows, failing = evidence.settings, evidence.rows(HARVEST_PROPOSAL), {}
    overdue_sec = settings.max_publish_age_sec + 2 * settings.publish_interval_sec
    oldest = 0.0
    for symbol, row in rows.items():
        age = row["last_update_epoch"] - row["published_at_utc"].timestamp()
        oldest = max(oldest, age)
        if age > overdue_sec:
            failing[symbol] = f"published {age:.0f} s before it was last evaluated"
    for symbol, made in evidence.materializations.items():
        for (after, cause), (before, _) in pairwise(made):
            if cause == MAX_AGE and after - before < settings.max_publish_age_sec / 2:
                failing[symbol] = f"renewed for its age after {after - before:.1f} s"
    limit = f"renewed after {settings.max_publish_age_sec} s, not much earlier or later"
    return Finding(f"oldest publication {oldest:.0f} s", limit, len(rows), failing)


PROOFS = (
    calc_only_imports(HARVEST_PROPOSAL.asset),
    market_state_present(HARVEST_PROPOSAL.asset),
    contract(HARVEST_PROPOSAL, lambda evidence: evidence.open_positions),
    lifetime(HARVEST_PROPOSAL),
    fresh(HARVEST_PROPOSAL.asset),
    proof("risk_proposal_or_flag", "R rests on a published stop distance, or says that it does not.", risk_proposal_or_flag),
    proof("action_consistent", "The action is the one that R_net and the kill score call for.", action_consistent),
    proof("kill_score_range", "The kill score is in [.5, 1).", kill_score_range),
    proof("recomputed", "Recomputed plainly from the inputs it repeats, every proposal comes out as published.", recomputed),
    proof("rate_limited", "Publications keep the rate limit.", rate_limited, "WARN"),
)
