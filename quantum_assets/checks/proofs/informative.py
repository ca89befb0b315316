"""Proofs that numbers say something: none of them is nearly always its floor, its cap or the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Proof, Prover
from quantum_core.informative import ASSETS, EVALUATIONS_MIN, HOUR_SEC, SHARE_MAX, judged, says_nothing

NAME = "informative"


def _judge(asset: str) -> Callable[[Evidence], Finding]:
    def judge(evidence: Evidence) -> Finding:
        counted = {symbol: hours for symbol, hours in evidence.evaluations.items() if judged(hours, asset)}
        failing = {}
        for symbol, hours in counted.items():
            if found := says_nothing(hours, asset):
                first = found[0]
                since = datetime.fromtimestamp(first.since_hour * HOUR_SEC, UTC)
                failing[symbol] = (
                    f"{first.fact} in {first.share:.1%} of {first.evaluations} evaluations, since {since:%d %b %H:00} UTC: "
                    f"{first.parameter} decides; {first.remedy}"
                )
        observed = f"{len(failing)} of {len(counted)} say nothing" if counted else f"fewer than {EVALUATIONS_MIN} evaluations yet"
        return Finding(observed, f"nothing the same in more than {SHARE_MAX:.0%} of evaluations", len(counted), failing)

    return judge


def _proof(asset: str) -> Proof:
    return Prover(asset, group=NAME, per_symbol=False)(
        NAME, "No number is nearly always its floor, its cap or the same: one that is says nothing.", _judge(asset), "WARN"
    )


PROOFS = tuple(map(_proof, ASSETS))
