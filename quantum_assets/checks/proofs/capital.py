"""Proofs of the assets ``capital_efficiency`` and ``allocation_target``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import isclose
from typing import Any

import numpy as np

from quantum_assets.checks import reference
from quantum_assets.checks.common import (
    calc_only_imports,
    compare,
    contract,
    fresh,
    lifetime,
    recomputed_by_profile,
    unknown_profile,
)
from quantum_assets.checks.evidence import Evidence, is_present
from quantum_assets.checks.proof import Finding, Proof, Prover
from quantum_core.contracts.legs import by_underlying, underlying
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import COMMON
from quantum_core.contracts.tables import ALLOCATION_STREAM_MAXLEN, ALLOCATION_TARGET, CAPITAL_EFFICIENCY
from quantum_core.kernels.capital.allocation import AllocationTheta, allocation
from quantum_core.kernels.capital.efficiency_hint import Unreadable, parse_efficiency
from resources.store.redis_store import texts

PRINTED_CONFIDENCE = 0.51e-3
PRINTED_MULTIPLIER, PRINTED_USD = 0.51e-4, 0.0051
OUR_STAMPS = {item.name for item in COMMON} - {"symbol"}
CASES = (  # docs/spec.md#6-efficiency-and-targets, at now = 1000: efficiency hash -> multiplier, reason
    (None, 1.0, "missing_eff"),
    ({"efficiency_score": "0.9", "confidence": "0.9", "ts": "399"}, 1.0, "stale_eff"),
    ({"efficiency_score": "0.9", "confidence": "0.64", "ts": "1000"}, 1.0, "low_conf"),
    (Unreadable.UNREADABLE, 1.0, "redis_error"),
    ({"efficiency_score": "0.9", "confidence": "0.9", "ts": "1000"}, 1.4, "ok"),
)


proof, of_efficiency = Prover(ALLOCATION_TARGET.asset), Prover(CAPITAL_EFFICIENCY.asset)


def if_ours(shared: Proof) -> Proof:
    """Judge the hash only where we write it: with EFFICIENCY_MODE=enforce. Another producer's is foreign, see ``readable``."""

    def judge(evidence: Evidence) -> Finding:
        mode = evidence.settings.efficiency_mode
        if mode != "enforce":
            return Finding(f"not published by us (EFFICIENCY_MODE={mode})", "judged with EFFICIENCY_MODE=enforce", 0)
        return shared.judge(evidence)

    return replace(shared, judge=judge)


def efficiency_recomputed(evidence: Evidence) -> Finding:
    """Score, pressure and weight follow from the inputs that are published with them."""

    def judge(_: str, row: dict[str, Any], parameters: Mapping[str, Any]) -> tuple[str, float]:
        mismatch, largest = compare(row, reference.efficiency(row, parameters["efficiency"]))
        allowed = row["p30_conf"] * (parameters["efficiency"]["flagged_confidence"] if row["stale_flags"] else 1)
        if not mismatch and row["confidence"] > allowed and not isclose(row["confidence"], allowed):
            mismatch = f"confidence {row['confidence']!r}, its inputs allow {allowed!r} at most"
        return mismatch, largest

    return recomputed_by_profile(evidence, CAPITAL_EFFICIENCY, judge)


def readable(evidence: Evidence) -> Finding:
    """Efficiency that is there can be read; that it is missing only makes hints neutral."""
    hashes = evidence.foreign(CAPITAL_EFFICIENCY.key)
    failing = {symbol: one.reason for symbol, one in hashes.items() if one.state is State.FAILED}
    present = [symbol for symbol, one in hashes.items() if is_present(one)]
    hint = parse_efficiency([texts(hashes[symbol].value) for symbol in present])
    for symbol, state in zip(present, hint.state, strict=True):
        if state != "present":
            failing[symbol] = "no finite score and confidence in [0, 1] with a clock"
    return Finding(f"{len(present)} of {len(hashes)} there", "what is there is readable", len(hashes), failing)


def reason_cases(evidence: Evidence) -> Finding:  # noqa: ARG001 - a proof about the kernel as it is loaded
    """Missing, stale, not confident, unreadable and trusted efficiency: five cases, five answers."""
    hint = parse_efficiency([fields for fields, _, _ in CASES])
    found = allocation(hint, np.full(len(CASES), 1000.0), 1000.0, AllocationTheta())
    failing = {}
    for row, (_, multiplier, reason) in enumerate(CASES):
        seen = (round(float(found.multiplier[row]), 9), str(found.reason[row]))
        if seen != (multiplier, reason):
            failing[reason] = f"gives {seen[0]} {seen[1]}, not {multiplier} {reason}"
    return Finding(
        f"{len(CASES) - len(failing)} of {len(CASES)}",
        "missing, stale, low confidence, unreadable: 1.0; .9: 1.4",
        len(CASES),
        failing,
    )


def live_target_untouched(evidence: Evidence) -> Finding:
    """The target that is in force bears no mark of ours."""
    hashes, failing = evidence.foreign("base_target"), {}
    for symbol, one in hashes.items():
        if ours := sorted(OUR_STAMPS & texts(one.value or {}).keys()):
            failing[symbol] = f"carries our fields {', '.join(ours)}"
    return Finding(f"{sum(map(is_present, hashes.values()))} targets", "no field of ours", len(hashes), failing)


def multiplier_bounds(evidence: Evidence) -> Finding:
    """No multiplier leaves its bounds."""
    rows, failing, allowed = evidence.rows(ALLOCATION_TARGET), {}, set()
    for symbol, row in rows.items():
        if (parameters := evidence.parameters_of(row, symbol)) is None:
            continue  # ``recomputed`` says so
        low, high = min(parameters["allocation"]["min_mult"], 1.0), max(parameters["allocation"]["max_mult"], 1.0)
        allowed.add(f"in [{low}, {high}]")
        if not low <= row["multiplier"] <= high:
            failing[symbol] = f"multiplier {row['multiplier']}"
    values = [row["multiplier"] for row in rows.values()]
    observed = f"{min(values, default=1.0)} to {max(values, default=1.0)}"
    return Finding(observed, " or ".join(sorted(allowed)) or "in its bounds", len(rows), failing)


def recomputed(evidence: Evidence) -> Finding:
    """Multiplier and target follow from the score and base that are published with them."""
    rows, failing, largest = evidence.rows(ALLOCATION_TARGET), {}, 0.0
    elsewhere = multiplier_bounds(evidence).failing
    for symbol, row in rows.items():
        if symbol in elsewhere:
            continue
        if (parameters := evidence.parameters_of(row, symbol)) is None:
            failing[symbol] = unknown_profile(row)
            continue
        p = parameters["allocation"]
        trusted, scored = row["reason"] == "ok", row["reason"] in ("ok", "low_conf", "stale_eff")
        expected, confidence = 1.0, row["eff_confidence"]
        if scored and confidence is not None and row["reason"] != "stale_eff":
            above = confidence - p["min_confidence"]
            if above < -PRINTED_CONFIDENCE if trusted else above > PRINTED_CONFIDENCE:
                failing[symbol] = f"reason {row['reason']} at confidence {confidence}"
                continue
        if trusted:
            expected = reference.multiplier(row["eff_score"], p)
        step = PRINTED_MULTIPLIER * (1 + abs(p["scale"]))  # the score is rounded, too
        target = row["base_target"] * row["multiplier"]
        largest = max(largest, abs(row["multiplier"] - expected))
        inconsistent = row["eff_stale"] != (row["reason"] not in ("ok", "low_conf")) or scored != (row["eff_score"] is not None)
        if abs(row["multiplier"] - expected) > step or inconsistent:
            failing[symbol] = f"multiplier {row['multiplier']}, reason {row['reason']}: recomputed {expected:.4f}"
        elif (
            abs(row["proposed_target"] - target) > PRINTED_USD * (1 + row["multiplier"]) + PRINTED_MULTIPLIER * row["base_target"]
        ):
            failing[symbol] = f"proposed_target {row['proposed_target']}, recomputed {target:.2f}"
    return Finding(f"largest difference {largest:.1e}", "equal as printed", len(rows), failing)


def _printed(row: Mapping[str, Any]) -> float:
    """Give by how much a target may differ from base x multiplier: all three are rounded as they are printed."""
    return float(PRINTED_USD * (1 + row["multiplier"]) + PRINTED_MULTIPLIER * row["base_target"])


def one_entry_per_evaluation(evidence: Evidence) -> Finding:
    """The stream has one entry per symbol and evaluation: an old publisher matched its own output and doubled them."""
    rows = evidence.rows(ALLOCATION_TARGET)
    entries = [entry.fields for entry in evidence.stream("stream_allocation_target")]
    counts = Counter((fields["symbol"], fields["cycle_id"]) for fields in entries if {"symbol", "cycle_id"} <= fields.keys())
    named = by_underlying(rows)
    failing = {
        symbol: f"{count} entries of cycle {cycle}"
        for (market, cycle), count in counts.items()
        if count > 1
        for symbol in named.get(market, ())
    }
    for symbol, row in rows.items():
        if (
            (underlying(symbol), row["cycle_id"]) not in counts
            and symbol not in failing
            and len(rows) <= ALLOCATION_STREAM_MAXLEN
        ):
            failing[symbol] = f"no entry of cycle {row['cycle_id']}"
    return Finding(f"at most {max(counts.values(), default=0)}", "exactly 1 per symbol and evaluation", len(rows), failing)


def shadow_only(evidence: Evidence) -> Finding:
    """Everything proposed says that it is a proposal, under a key of its own."""
    failing = {s: f"mode {f.get('mode')}" for s, f in evidence.raw(ALLOCATION_TARGET).items() if f.get("mode") != "shadow"}
    for fields in (entry.fields for entry in evidence.stream("stream_allocation_target")):
        if fields.get("mode") != "shadow":
            failing[fields.get("symbol", "")] = f"stream entry with mode {fields.get('mode')}"
    judged = len(evidence.raw(ALLOCATION_TARGET))
    return Finding(f"{judged - len(failing)} of {judged}", "mode shadow in hash and stream", judged, failing)


def based(evidence: Evidence) -> list[str]:
    """Symbols that have a base target: a proposal is due for them."""
    return [symbol for symbol, one in evidence.foreign("base_target").items() if is_present(one)]


PROOFS = (
    of_efficiency("readable", "Every efficiency hash that is there can be read.", readable, "WARN"),
    calc_only_imports(CAPITAL_EFFICIENCY.asset),
    if_ours(contract(CAPITAL_EFFICIENCY, lambda evidence: evidence.symbols)),
    if_ours(lifetime(CAPITAL_EFFICIENCY)),
    if_ours(fresh(CAPITAL_EFFICIENCY.asset)),
    if_ours(
        of_efficiency(
            "recomputed", "Recomputed plainly, score, pressure and weight come out as published.", efficiency_recomputed
        )
    ),
    calc_only_imports(ALLOCATION_TARGET.asset),
    contract(ALLOCATION_TARGET, based),
    lifetime(ALLOCATION_TARGET),
    fresh(ALLOCATION_TARGET.asset),
    proof("reason_cases", "The five reasons of the proposer give their five answers.", reason_cases, per_symbol=False),
    proof("live_target_untouched", "The live target bears no mark of ours.", live_target_untouched),
    proof("multiplier_bounds", "Every multiplier keeps its bounds.", multiplier_bounds),
    proof("recomputed", "Recomputed plainly, every multiplier and target comes out as published.", recomputed),
    proof("one_entry_per_evaluation", "Every evaluation is in the stream exactly once.", one_entry_per_evaluation),
    proof("shadow_only", "Every proposal says that it is a shadow.", shadow_only),
)
