"""Allocation target proposals: the base target scaled by how efficient the capital was.

Here belongs the multiplier. It is a proposal for the shadow key; the live target is never an output of this product.
"""

import dataclasses

import numpy as np

from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint, TrustTheta, distrust
from quantum_core.kernels.columns import Bools, Floats, Labels
from quantum_core.kernels.theta import ThetaError, parameter

NEUTRAL_SCORE = 0.5  # the score that leaves the base multiplier as it is (docs/spec.md#6-efficiency-and-targets)
KNOWN = ("ok", "low_conf", "stale_eff")  # reasons of an efficiency that can be read, trusted or not


@dataclasses.dataclass(frozen=True)
class AllocationTheta(TrustTheta):
    """Parameters of the allocation kernel, defaults of docs/spec.md#6-efficiency-and-targets."""

    base: float = parameter(1.0, "multiplier at the neutral score", low=0)
    scale: float = parameter(1.0, "multiplier per unit of score")
    min_mult: float = parameter(0.5, "smallest multiplier", low=0)
    max_mult: float = parameter(1.5, "largest multiplier", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for least, most in self.per_row("min_mult", "max_mult"):
            if least > most:
                raise ThetaError(path="min_mult", seen=least, accepted=f"at most max_mult {most}")


@dataclasses.dataclass(frozen=True)
class AllocationProposal:
    """Proposals per symbol."""

    multiplier: Floats  # 1 unless the reason is ok, else in [min_mult, max_mult]
    proposed_target: Floats  # USD
    eff_score: Floats  # as published, also where it is not trusted; NaN where it is missing or cannot be read
    eff_confidence: Floats  # the same
    eff_stale: Bools  # True where it is missing, stale or unreadable
    reason: Labels  # ok, missing_eff, stale_eff, low_conf or redis_error


def allocation(
    hint: EfficiencyHint,
    base_target: Floats,
    now: float | Floats,
    theta: AllocationTheta = AllocationTheta(),
) -> AllocationProposal:
    """Scale each base target by the efficiency of its symbol.

    Parameters
    ----------
    hint : EfficiencyHint
        Published efficiency per symbol, columns of shape (n,).
    base_target : float64 array, shape (n,)
        Target in USD, finite and >= 0.
    now : float or float64 array, shape (n,)
        Epoch seconds the proposal is for.
    theta : AllocationTheta
        Parameters.

    Returns
    -------
    AllocationProposal
        An efficiency that cannot be trusted leaves the target unchanged and is named in `reason`.

    Raises
    ------
    ValueError
        If `base_target` is negative, not finite or misshapen.

    References
    ----------
    docs/spec.md#6-efficiency-and-targets
    """
    if base_target.shape != (len(hint),) or not np.all(np.isfinite(base_target) & (base_target >= 0)):
        message = f"base_target is {base_target}: expected {len(hint)} finite numbers >= 0"
        raise ValueError(message)
    reason = distrust(hint, now, theta)
    ok, has_score = reason == "ok", np.isin(reason, KNOWN)
    scaled = np.clip(theta.base + theta.scale * (hint.score - NEUTRAL_SCORE), theta.min_mult, theta.max_mult)
    multiplier = np.where(ok, scaled, 1.0)
    return AllocationProposal(
        multiplier=multiplier,
        proposed_target=base_target * multiplier,
        eff_score=np.where(has_score, hint.score, np.nan),
        eff_confidence=np.where(has_score, hint.confidence, np.nan),
        eff_stale=~ok & (reason != "low_conf"),
        reason=reason,
    )
