"""Efficiency hints on a permit: a smaller size and a longer pause for a symbol that wastes its capital.

Here belongs the downsize factor. A hint never blocks: whatever cannot be trusted leaves the permit as it is.
"""

import dataclasses

import numpy as np

from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint, TrustTheta, distrust
from quantum_core.kernels.columns import Bools, Floats, Labels
from quantum_core.kernels.theta import parameter


@dataclasses.dataclass(frozen=True)
class PermitHintTheta(TrustTheta):
    """Parameters of the permit hint, defaults of docs/spec.md#7-trade-intents-and-the-governor."""

    downsize_threshold: float = parameter(0.45, "score below which a permit is downsized", low=1e-6, high=1)
    min_factor: float = parameter(0.25, "smallest downsize factor", low=0, high=1)
    max_extra_cooldown_sec: float = parameter(120.0, "pause at score 0, seconds", low=0)


@dataclasses.dataclass(frozen=True)
class PermitHint:
    """Hints per symbol."""

    eff_score: Floats  # NaN unless the reason is ok
    eff_confidence: Floats  # NaN unless the reason is ok
    eff_stale: Bools  # True unless the reason is ok
    eff_factor: Floats  # in [min_factor, 1]
    eff_action: Labels  # NONE or DOWNSIZE
    eff_reason: Labels  # ok, missing_eff, stale_eff, low_conf or redis_error
    extra_cooldown_sec: Floats  # whole seconds >= 0

    def fields(self) -> list[dict[str, str]]:
        """Return the eight text fields of the permit, per symbol."""
        return [
            {
                "eff_score": "" if stale else f"{score:.4f}",
                "eff_confidence": "" if stale else f"{confidence:.3f}",
                "eff_stale": str(int(stale)),
                "eff_factor": f"{factor:.4f}",
                "eff_action": str(action),
                "eff_reason": str(reason),
                "downsize_factor": f"{factor:.4f}",
                "extra_cooldown_sec": f"{cooldown:.0f}",
            }
            for score, confidence, stale, factor, action, reason, cooldown in zip(
                self.eff_score,
                self.eff_confidence,
                self.eff_stale,
                self.eff_factor,
                self.eff_action,
                self.eff_reason,
                self.extra_cooldown_sec,
                strict=True,
            )
        ]


def permit_hint(hint: EfficiencyHint, now: float | Floats, theta: PermitHintTheta = PermitHintTheta()) -> PermitHint:
    """Derive size factor and extra cooldown from the efficiency of each symbol.

    Parameters
    ----------
    hint : EfficiencyHint
        Published efficiency per symbol, columns of shape (n,).
    now : float
        Epoch seconds the permit is for.
    theta : PermitHintTheta
        Parameters.

    Returns
    -------
    PermitHint
        Factor 1, action NONE and no cooldown unless the score is trusted and below the threshold. The cooldown is
        rounded half to even.

    References
    ----------
    docs/spec.md#7-trade-intents-and-the-governor
    """
    reason = distrust(hint, now, theta)
    ok = reason == "ok"
    downsize = ok & (hint.score < theta.downsize_threshold)
    factor = np.maximum(theta.min_factor, hint.score / theta.downsize_threshold)
    cooldown = np.rint((1 - hint.score) * theta.max_extra_cooldown_sec)
    return PermitHint(
        eff_score=np.where(ok, hint.score, np.nan),
        eff_confidence=np.where(ok, hint.confidence, np.nan),
        eff_stale=~ok,
        eff_factor=np.where(downsize, factor, 1.0),
        eff_action=np.where(downsize, "DOWNSIZE", "NONE").astype(object),
        eff_reason=reason,
        extra_cooldown_sec=np.where(downsize, cooldown, 0.0),
    )
