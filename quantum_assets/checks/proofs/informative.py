"""Proofs that numbers say something: none is nearly always its floor, its cap or the same, and sigma is as wide as returns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Proof, Prover
from quantum_core.contracts.legs import underlying
from quantum_core.contracts.tables import MARKET_STATE
from quantum_core.coverage import BEYOND_MIN, EXCEEDANCE, P_MIN, Share, corrected_p, share_of
from quantum_core.informative import ASSETS, EVALUATIONS_MIN, HOUR_SEC, SHARE_MAX, judged, says_nothing
from quantum_core.kernels.market.market_state import MarketStateTheta

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


def coverage(evidence: Evidence) -> Finding:
    """Of each symbol, no more and no fewer returns of the last day were beyond the quantile of sigma than chance allows.

    Kupiec's test of each symbol, its p-value corrected for the number of symbols (Holm): that any of 566 right ones fails has the
    probability P_MIN, however they move together. All returns as one sample would be tested as if the market were many.
    """
    profile = evidence.in_force.profile
    shares = {
        underlying(symbol): share_of(hours, profile.theta(MarketStateTheta, symbol).vol)
        for symbol, hours in evidence.evaluations.items()
    }
    enough = {symbol: share for symbol, share in shares.items() if share.enough}
    expected = f"the share that the profile says, within chance: Kupiec p >= {P_MIN:g}, corrected for {len(enough)} symbols"
    if not enough:
        most = max((share.judged for share in shares.values()), default=0)
        needed = f"{BEYOND_MIN / EXCEEDANCE:.0f} at {EXCEEDANCE:.0%}"
        return Finding(f"too few returns to expect {BEYOND_MIN} beyond the quantile ({needed}): at most {most}", expected, 0)
    p_values = dict(zip(enough, corrected_p(list(enough.values())).tolist(), strict=True))
    failing = {symbol: _width(enough[symbol], p) for symbol, p in sorted(p_values.items(), key=lambda one: one[1]) if p < P_MIN}
    whole = Share(sum(one.judged for one in enough.values()), sum(one.beyond for one in enough.values()))
    observed = f"{len(failing)} of {len(enough)} out of band; of all {whole.judged} returns {whole.value:.1%} beyond the quantile"
    return Finding(observed, expected, len(enough), failing)


def _width(share: Share, p: float) -> str:
    width = "narrow, stops are nearer than it says" if share.value > share.exceedance else "wide, stops are farther than it says"
    return (
        f"{share.value:.1%} of {share.judged} returns beyond the quantile, {share.exceedance:.2%} are to be (p {p:.1g}): "
        f"sigma is too {width}; market_state.vol decides; see docs/profiles.md#sigma-out-of-its-band"
    )


PROOFS = (
    *map(_proof, ASSETS),
    Prover(MARKET_STATE.asset, group=NAME, per_symbol=False)(
        "coverage",
        "Sigma says how far the next close may be: of the last day's returns, as many were beyond its quantile as it says.",
        coverage,
        "WARN",
    ),
)
