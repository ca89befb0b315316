"""Proofs of the assets ``position`` and ``risk_proposal``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

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
from quantum_assets.checks.evidence import TIMED_OUT, Evidence
from quantum_assets.checks.proof import Finding, Prover, Severity
from quantum_core.contracts.labels import is_live
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import PROBABILITY_EPS
from quantum_core.contracts.tables import MARKET_STATE, POSITION, RISK_PROPOSAL
from quantum_core.kernels.position.tracking import TrackingTheta
from quantum_core.kernels.proposals.stops import StopsTheta
from resources.inputs.positions import PositionReader

PRICE_EPS = 1e-8  # docs/spec.md#3-stops-kernel-p1: of a price of 1 or more; below, a share of it
PRICE_ROUNDING = 1e-15  # of a price, which above 1e7 is more
LATE_FACTOR = 2.0  # a gap of two intervals is a cycle that did not happen
PRINTED_PROBABILITY = 1e-6


proof, of_position = Prover(RISK_PROPOSAL.asset), Prover(POSITION.asset)


def recomputed(evidence: Evidence) -> Finding:
    """Stop and target follow from the inputs the proposal repeats; what a simpler proof has found is left to that."""
    return recomputed_by_profile(
        evidence,
        RISK_PROPOSAL,
        lambda _, row, parameters: compare(row, reference.stops(row, parameters["stops"])),
        distances(evidence).failing,
    )


def tightens(evidence: Evidence) -> Finding:
    """No stop is looser than the one last proposed for the same position: same side, never flat in between."""
    positions, settings, judged, without_stop = evidence.rows(POSITION), evidence.settings, 0, 0
    failing: dict[str, str] = {}
    for symbol, row in evidence.rows(RISK_PROPOSAL).items():
        tracked = positions.get(symbol)
        if tracked is None or not tracked["held"] or tracked["side"] != row["position_side"]:
            continue
        profile = evidence.profile_of(tracked, symbol) or evidence.in_force.profile
        ratchet, monotonic = profile.theta(TrackingTheta, symbol).sl_ratchet, profile.theta(StopsTheta, symbol).monotonic_sl
        if not monotonic:
            continue
        unpublished = settings.change_eps_pct if ratchet == "actual" else 0.0  # a smaller move of theirs is no news
        in_force, published = tracked["current_sl"], row["published_at_utc"].timestamp()
        if in_force is None:
            since = tracked["tracked_since_epoch"] or tracked["opened_at_epoch"]
            lost = ratchet == "proposed" and since <= published < tracked["last_update_epoch"]  # whole s: not this cycle's
            judged, without_stop = judged + lost, without_stop + (not lost)
            failing |= {symbol: f"{row['proposed_sl']} was proposed, and no stop is kept to compare with"} if lost else {}
            continue
        judged += 1
        loosened = (in_force - row["proposed_sl"]) * (1 if row["position_side"] == "LONG" else -1)
        tolerance = max(PRICE_EPS * min(1.0, in_force), PRICE_ROUNDING * in_force)
        if loosened > tolerance + unpublished * in_force:
            failing[symbol] = f"{row['position_side']} stop {row['proposed_sl']} is looser than {in_force}"
    observed = f"{judged - len(failing)} of {judged}" if judged else "nothing to judge"
    return Finding(
        f"{observed}{f', {without_stop} without a stop in force' if without_stop else ''}",
        "never looser than the stop in force",
        judged,
        failing,
    )


def _of_open_positions(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Give the proposals made now: of a position that was closed the last one stands for a while, and nobody renews it."""
    held = set(evidence.open_positions)
    return {symbol: row for symbol, row in evidence.rows(RISK_PROPOSAL).items() if symbol in held}


def right_side(evidence: Evidence) -> Finding:
    """The price has not yet crossed the stop."""
    rows, failing = _of_open_positions(evidence), {}
    for symbol, row in rows.items():
        below = row["proposed_sl"] < row["position_current_price"]
        if row["sl_breached"] or below != (row["position_side"] == "LONG"):
            failing[symbol] = f"{row['position_side']} at {row['position_current_price']}, stop {row['proposed_sl']}: crossed"
    return Finding(f"{len(failing)} crossed", "LONG: stop below the price, SHORT: above", len(rows), failing)


def distances(evidence: Evidence) -> Finding:
    """No stop or target is closer than the minimum of the profile it was computed with."""
    rows, failing, least_stops, least_targets = evidence.rows(RISK_PROPOSAL), {}, set(), set()
    for symbol, row in rows.items():
        if (parameters := evidence.parameters_of(row, symbol)) is None:
            continue  # ``recomputed`` says so
        stop, target = (parameters["stops"][name] for name in ("sl_min_pct", "tp_min_pct"))
        least_stops.add(stop)
        least_targets.add(target)
        minima = {"stop_dist_pct": stop, "trail_gap_pct": stop, "tp_dist_pct": target}
        if odd := [f"{name} {row[name]}" for name, least in minima.items() if not row[name] >= least]:
            failing[symbol] = ", ".join(odd)
    closest = min((row["stop_dist_pct"] for row in rows.values()), default=None)
    allowed = f"stop and trail >= {_percent(least_stops)}, target >= {_percent(least_targets)}"
    return Finding("no stop" if closest is None else f"closest stop {closest:.4%}", allowed, len(rows), failing)


def _percent(shares: Iterable[float]) -> str:
    return " or ".join(f"{100 * one:g}%" for one in sorted(shares)) or "its minimum"


def p_trend_truthful(evidence: Evidence) -> Finding:
    """The trend probability used is the market state's, which an old publisher lost."""
    states, failing, judged, farthest = evidence.rows(MARKET_STATE), {}, 0, 0.0
    for symbol, row in _of_open_positions(evidence).items():
        state = states.get(symbol)
        if state is None:
            continue
        judged += 1
        difference = abs(row["p_trend"] - state["p_trend"])
        farthest = max(farthest, difference)
        if difference > PROBABILITY_EPS + PRINTED_PROBABILITY:  # a smaller change alone is no reason to publish
            failing[symbol] = f"used {row['p_trend']}, the market state says {state['p_trend']}"
    return Finding(f"largest difference {farthest:.6f}", f"<= {PROBABILITY_EPS}", judged, failing)


def no_synthetic_position(evidence: Evidence) -> Finding:
    """No proposal is made for a synthetic position."""
    rows, settings = evidence.rows(RISK_PROPOSAL), evidence.settings
    invented = [] if settings.allow_synthetic and settings.position_source == "synthetic" else ["synthetic"]
    if not settings.allow_synthetic:
        invented += ["example", "replay"]
    failing = {
        symbol: f"position_source {source}"
        for symbol, source in ((one, row["position_source"]) for one, row in rows.items())
        if source in invented or not (settings.allow_synthetic or is_live(source))
    }
    also = "" if settings.allow_synthetic else " or another label not known to be live"
    return Finding(f"{len(failing)} invented", f"none from {', '.join(invented) or 'anywhere else'}{also}", len(rows), failing)


def cadence(evidence: Evidence) -> Finding:
    """Cycles of each shard follow each other at the interval of the settings."""
    limit = LATE_FACTOR * evidence.settings.publish_interval_sec + 1  # a cycle does not always take equally long
    if evidence.cold:  # a cycle follows when the one before has ended, and proposals are not old before this
        limit = max(limit, evidence.settings.proposal_warn_age_sec)
    every_gap: list[float] = []
    failing: dict[str, str] = {}
    for shard, ends in enumerate(evidence.cycles):
        gaps = [after - before for after, before in pairwise([evidence.now, *ends])]
        failing |= {f"shard {shard}, {ago} cycles ago": f"{gap:.1f} s" for ago, gap in enumerate(gaps) if gap > limit}
        if not gaps:
            failing[f"shard {shard}"] = "no cycle has ever ended"
        every_gap += gaps
    observed = f"longest of the last {len(every_gap)} gaps {max(every_gap, default=0):.1f} s"
    return Finding(observed, f"<= {limit:.0f} s", len(every_gap), failing)


def one_cycle(evidence: Evidence) -> Finding:
    """`quantum once` evaluates a cycle and says so."""
    tried = evidence.single_cycle
    ago = f"{max(evidence.now - tried.at, 0):.0f} s ago"
    failing = {} if tried.exit_code == 0 else {"quantum once": f"exit code {tried.exit_code}: {tried.last_line}"}
    late = f"; a try {max(evidence.now - tried.timed_out_at, 0):.0f} s ago did not end in time" if tried.timed_out_at else ""
    severity: Severity | None = "WARN" if tried.exit_code == TIMED_OUT else None  # load is no fault, never ending is one
    return Finding(f"exit code {tried.exit_code}, tried {ago}{late}", "exit code 0", 1, failing, severity)


def no_collared_price(evidence: Evidence) -> Finding:
    """No price waits for the next candle to confirm it."""
    rows = evidence.rows(POSITION)
    failing = {s: f"{row['collared_price']} waits for a candle" for s, row in rows.items() if row["held"] and row["collared"]}
    collars = {evidence.in_force.profile.theta(TrackingTheta, symbol).collar_pct for symbol in evidence.symbols}
    limit = f"within {_percent(collars)} of the one before"
    return Finding(f"{len(failing)} held back", limit, len(rows), failing)


def readable(evidence: Evidence) -> Finding:
    """Every position that is there can be read: one that never could would be missed by nobody."""
    readings = PositionReader(evidence.store).read(evidence.symbols)
    failing = {one.symbol: one.reason for one in readings if one.state is State.FAILED}
    for one in readings:
        if one.state is State.PRESENT and one.symbol not in evidence.open_positions:
            failing[one.symbol] = "open, but not tracked: no stop is proposed for it"
    held = sum(one.state is State.PRESENT for one in readings)
    return Finding(f"{held} open", "all readable and tracked", len(readings), failing)


PROOFS = (
    of_position("readable", "Every open position can be read and is tracked.", readable),
    contract(POSITION, lambda _: ()),
    lifetime(POSITION),
    fresh(POSITION.asset),
    of_position(
        "no_collared_price",
        "No price jumped so far that it must wait for confirmation before it moves a stop.",
        no_collared_price,
        "WARN",
    ),
    calc_only_imports(RISK_PROPOSAL.asset),
    market_state_present(RISK_PROPOSAL.asset),
    contract(RISK_PROPOSAL, lambda evidence: evidence.open_positions),
    lifetime(RISK_PROPOSAL),
    fresh(RISK_PROPOSAL.asset),
    proof("recomputed", "Recomputed plainly from the inputs it repeats, every proposal comes out as published.", recomputed),
    proof("tightens", "No stop is looser than the one last proposed for the position.", tightens),
    proof("right_side", "No stop has been crossed by the price.", right_side, "WARN"),
    proof("distances", "Stops, trails and targets keep their minimum distance.", distances),
    proof("p_trend_truthful", "The trend probability used is the market state's.", p_trend_truthful),
    proof("no_synthetic_position", "No proposal is made for a synthetic position.", no_synthetic_position),
    proof("cadence", "Cycles follow each other at PUBLISH_INTERVAL_SEC.", cadence, "WARN", per_symbol=False),
    proof(
        "one_cycle", "`quantum once` evaluates one cycle and exits with 0 (tried every ten minutes).", one_cycle, per_symbol=False
    ),
)
