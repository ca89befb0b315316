"""Harvest proposals: how much of a position to take home, and when to give it up.

Here belongs the harvest formula. The stop distance comes from the risk proposal of the same cycle; how it got there
stays out.
"""

import dataclasses

import numpy as np

from quantum_core.kernels.columns import (
    Bools,
    Floats,
    Labels,
    Market,
    Position,
    ReasonCodes,
    reason_codes,
    require_sound,
)
from quantum_core.kernels.theta import Theta, ThetaError, parameter

RISK_UNIT_MIN = 1e-9  # price units, below 1 a share of the entry; keeps R finite (docs/spec.md#4-harvest-kernel-p2)
FLIP_NON_TREND_MIN = 0.5  # p_mr + p_chop above which a lost trend counts as a regime flip (docs/spec.md#4-harvest-kernel-p2)
SIGMA_SPIKE_NAMED = 0.5  # a kill names its component only above these three (docs/spec.md#4-harvest-kernel-p2)
TS_DROP_NAMED = 0.2
AGE_PENALTY_NAMED = 0.5


@dataclasses.dataclass(frozen=True)
class HarvestTheta(Theta):
    """Parameters of the harvest kernel, defaults of docs/spec.md#4-harvest-kernel-p2."""

    fallback_stop_pct: float = parameter(0.02, "stop distance when the risk proposal has none", low=0, high=1)
    cost_bps: float = parameter(10.0, "round-trip cost, basis points of entry", low=0)
    T1_R: float = parameter(2.0, "R from which a quarter is taken")
    T2_R: float = parameter(4.0, "R from which a half is taken")
    T3_R: float = parameter(6.0, "R from which three quarters are taken")
    u1: float = parameter(0.0, "utility of the first tranche, audit only")
    u2: float = parameter(0.0, "utility of the second tranche, audit only")
    u3: float = parameter(0.0, "utility of the third tranche, audit only")
    softmax_temp: float = parameter(1.0, "temperature of the tranche weights", low=1e-6)
    lock_R: float = parameter(1.5, "R from which profit is locked", low=0)  # noqa: N815 published parameter name
    be_plus_pct: float = parameter(0.002, "locked stop beyond break-even, fraction of entry", low=0, high=1)
    lock_mode: str = parameter("be_plus", "where the locked stop goes", choices=("be_plus", "lock_r"))
    trend_min: float = parameter(0.3, "p_trend below which the trend is lost", low=0, high=1)
    sigma_ref: float = parameter(0.01, "sigma of a calm market, per candle", low=1e-12)
    sigma_spike_cap: float = parameter(2.0, "largest sigma spike counted", low=0)
    ts_ref: float = parameter(0.3, "trend strength of a healthy trend", low=0)
    ts_drop_cap: float = parameter(0.5, "largest loss of trend strength counted", low=0)
    max_age_sec: float = parameter(86_400.0, "age at which the age penalty is full, seconds", low=1)
    k_regime_flip: float = parameter(1.0, "weight of a regime flip", low=0)
    k_sigma_spike: float = parameter(0.5, "weight of a sigma spike", low=0)
    k_ts_drop: float = parameter(0.5, "weight of a trend strength drop", low=0)
    k_age_penalty: float = parameter(0.3, "weight of age", low=0)
    kill_threshold: float = parameter(0.6, "kill score from which the whole position is proposed closed", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for tranches in self.per_row("T1_R", "T2_R", "T3_R"):
            if list(tranches) != sorted(tranches):
                raise ThetaError(path="T1_R", seen=tranches, accepted="T1_R <= T2_R <= T3_R")


@dataclasses.dataclass(frozen=True)
class HarvestProposal:
    """Proposals per symbol; prices in price units, R in units of risk, the rest dimensionless."""

    harvest_action: Labels
    new_sl_proposed: Floats  # NaN when none
    R_net: Floats
    risk_unit: Floats
    cost_est: Floats
    kill_score: Floats
    k_regime_flip: Floats
    k_sigma_spike: Floats
    k_ts_drop: Floats
    k_age_penalty: Floats
    tranche_weights: Floats  # shape (n, 3), rows sum to 1
    fallback_used: Bools
    reason_codes: ReasonCodes


def harvest(
    market: Market,
    position: Position,
    stop_dist_pct: Floats,
    theta: HarvestTheta = HarvestTheta(),
) -> HarvestProposal:
    """Propose a harvest action and a kill score per open position.

    Parameters
    ----------
    market, position : Market, Position
        Columns of shape (n,). `unrealized_pnl` is a total where `qty` is a non-zero number, else per unit.
    stop_dist_pct : float64 array, shape (n,)
        Stop distance of the risk proposal, fraction of price; NaN and 0 mean there is none: `fallback_stop_pct` is
        used and `fallback_used` set.
    theta : HarvestTheta
        Parameters.

    Returns
    -------
    HarvestProposal
        `kill_score` is in [.5, 1): a sigmoid of a non-negative sum. `new_sl_proposed` is NaN where no stop is due.

    Raises
    ------
    ValueError
        If a row breaks the rules of `Market` or `Position`, or `stop_dist_pct` is negative, infinite or misshapen.

    References
    ----------
    docs/spec.md#4-harvest-kernel-p2
    """
    from scipy.special import expit, softmax  # commands need the parameters, and no scipy

    require_sound(market=market, position=position)
    if stop_dist_pct.shape != (len(market),) or np.any(np.isinf(stop_dist_pct) | (stop_dist_pct < 0)):
        message = f"stop_dist_pct is {stop_dist_pct}: expected {len(market)} fractions of price >= 0, or NaN for none"
        raise ValueError(message)
    d = position.direction
    entry = position.entry_price

    fallback_used = np.isnan(stop_dist_pct) | (stop_dist_pct == 0)
    stop = np.where(fallback_used, theta.fallback_stop_pct, stop_dist_pct)
    risk_unit = np.maximum(entry * stop, RISK_UNIT_MIN * np.minimum(1.0, entry))
    cost_est = theta.cost_bps / 10_000 * entry
    sized = np.isfinite(position.qty) & (position.qty != 0)
    with np.errstate(over="ignore"):  # a profit beyond all numbers, of a size that is none: R is infinite, and no reader takes it
        pnl_per_unit = position.unrealized_pnl / np.where(sized, np.abs(position.qty), 1.0)
        r_net = (pnl_per_unit - cost_est) / risk_unit
    tier = (r_net >= theta.T1_R).astype(int) + (r_net >= theta.T2_R) + (r_net >= theta.T3_R)

    lock_distance = np.where(np.equal(theta.lock_mode, "lock_r"), theta.lock_R * stop, theta.be_plus_pct)
    lock_sl = entry * (1 + d * lock_distance)
    not_tighter = d * (lock_sl - position.current_sl) <= 0
    locked = (r_net >= theta.lock_R) & ~not_tighter

    regime_flip = (market.p_trend < theta.trend_min) & (market.p_chop + market.p_mr > FLIP_NON_TREND_MIN)
    sigma_spike = np.clip(market.sigma / theta.sigma_ref - 1, 0, theta.sigma_spike_cap)
    ts_drop = np.clip(theta.ts_ref - market.ts, 0, theta.ts_drop_cap)
    age_penalty = np.clip(position.age_sec / theta.max_age_sec, 0, 1)
    kill_score = expit(
        theta.k_regime_flip * regime_flip
        + theta.k_sigma_spike * sigma_spike
        + theta.k_ts_drop * ts_drop
        + theta.k_age_penalty * age_penalty
    )
    kill = kill_score >= theta.kill_threshold

    actions = np.array(["NONE", "PARTIAL_25", "PARTIAL_50", "PARTIAL_75"], dtype=object)[tier]
    codes = np.array(["", "harvest_partial_25", "harvest_partial_50", "harvest_partial_75"], dtype=object)[tier]
    utilities = [np.broadcast_to(u / theta.softmax_temp, len(market)) for u in (theta.u1, theta.u2, theta.u3)]
    return HarvestProposal(
        harvest_action=np.where(kill, "FULL_CLOSE_PROPOSED", actions),
        new_sl_proposed=np.where(locked, lock_sl, np.nan),
        R_net=r_net,
        risk_unit=risk_unit,
        cost_est=cost_est,
        kill_score=kill_score,
        k_regime_flip=regime_flip.astype(np.float64),
        k_sigma_spike=sigma_spike,
        k_ts_drop=ts_drop,
        k_age_penalty=age_penalty,
        tranche_weights=softmax(np.stack(utilities, axis=1), axis=1),
        fallback_used=fallback_used,
        reason_codes=reason_codes(
            (tier > 0, codes),
            (locked, "profit_lock"),
            (kill, "kill_score_triggered"),
            (kill & regime_flip, "regime_flip"),
            (kill & (sigma_spike > SIGMA_SPIKE_NAMED), "sigma_spike"),
            (kill & (ts_drop > TS_DROP_NAMED), "ts_drop"),
            (kill & (age_penalty > AGE_PENALTY_NAMED), "age_penalty"),
        ),
    )
