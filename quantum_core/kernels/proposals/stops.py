"""Stop loss and take profit proposals from market state and position.

Here belongs the stops formula. Where the inputs come from, how a proposal is published and when it is suppressed
stays out.
"""

import dataclasses

import numpy as np

from quantum_core.kernels.columns import (
    Bools,
    Floats,
    Market,
    Position,
    ReasonCodes,
    most_probable,
    reason_codes,
    require_sound,
)
from quantum_core.kernels.theta import Theta, parameter

EXTEND_P_TREND_MIN = 0.3  # the target is only stretched above this trend probability (docs/spec.md#3-stops-kernel-p1)
EXTEND_TS_MIN = 0.1  # and above this trend strength (docs/spec.md#3-stops-kernel-p1)
ROUNDING = 1e-15  # relative rounding error of a price; above 1e7 it exceeds eps


@dataclasses.dataclass(frozen=True)
class StopMultiples(Theta):
    """Stop distance in sigmas, per regime."""

    trend: float = parameter(1.5, "sigmas in a trend", low=0)
    mr: float = parameter(0.8, "sigmas when mean-reverting", low=0)
    chop: float = parameter(1.0, "sigmas in chop", low=0)


@dataclasses.dataclass(frozen=True)
class TargetMultiples(Theta):
    """Target distance in sigmas, per regime."""

    trend: float = parameter(2.5, "sigmas in a trend", low=0)
    mr: float = parameter(1.2, "sigmas when mean-reverting", low=0)
    chop: float = parameter(1.5, "sigmas in chop", low=0)


@dataclasses.dataclass(frozen=True)
class TrailMultiples(Theta):
    """Trailing gap in sigmas, per regime."""

    trend: float = parameter(1.2, "sigmas in a trend", low=0)
    mr: float = parameter(1.5, "sigmas when mean-reverting", low=0)
    chop: float = parameter(1.3, "sigmas in chop", low=0)


@dataclasses.dataclass(frozen=True)
class StopsTheta(Theta):
    """Parameters of the stops kernel, defaults of docs/spec.md#3-stops-kernel-p1."""

    sl_min_pct: float = parameter(0.005, "smallest stop and trail distance, fraction of price", low=0, high=1)
    tp_min_pct: float = parameter(0.01, "smallest target distance, fraction of price", low=0, high=1)
    k_sl: StopMultiples = StopMultiples()
    k_tp: TargetMultiples = TargetMultiples()
    k_trail: TrailMultiples = TrailMultiples()
    tp_extend_gain: float = parameter(0.5, "target stretch per unit of ts x p_trend", low=0)
    tp_extend_max: float = parameter(0.3, "largest target stretch", low=0)
    monotonic_sl: bool = parameter(default=True, meaning="a stop in force is never loosened")
    tail_stop: bool = parameter(default=False, meaning="the stop distance is the tail move, where there is one", added=True)
    eps: float = parameter(1e-8, "price difference that counts as none: price units, below a price of 1 a share of it", low=0)


@dataclasses.dataclass(frozen=True)
class StopProposal:
    """Proposals per symbol; prices in price units, distances as fractions (0.005 is 0.5 %).

    ``stop_dist_pct`` and ``tp_dist_pct`` are the formula's distances from the current price, ``trail_gap_pct`` that from the peak
    or trough; the proposed stop may be nearer.
    """

    proposed_sl: Floats
    proposed_tp: Floats
    stop_dist_pct: Floats
    tp_dist_pct: Floats
    trail_gap_pct: Floats
    tp_extension_factor: Floats
    sl_breached: Bools
    reason_codes: ReasonCodes


def stop_distance(market: Market, theta: StopsTheta = StopsTheta()) -> Floats:
    """Give the distance at which a stop is proposed, whether a position is open or not.

    Parameters
    ----------
    market : Market
        Market state, columns of shape (n,).
    theta : StopsTheta
        Parameters.

    Returns
    -------
    float64 array, shape (n,)
        Fraction of price, >= `sl_min_pct`. No NaN.

    Raises
    ------
    ValueError
        If a row breaks the rules of `Market`; the text names row, column and value.

    References
    ----------
    docs/spec.md#3-stops-kernel-p1
    """
    require_sound(market=market)
    move = market.mix(theta.k_sl.trend, theta.k_sl.mr, theta.k_sl.chop) * market.sigma
    if np.any(theta.tail_stop):
        move = np.where(theta.tail_stop & ~np.isnan(market.tail_move), market.tail_move, move)
    distance: Floats = np.maximum(theta.sl_min_pct, move)
    return distance


def stops(
    market: Market, position: Position, theta: StopsTheta = StopsTheta(), *, mark_price: Floats | None = None
) -> StopProposal:
    """Propose a stop loss and a take profit per open position.

    Parameters
    ----------
    market : Market
        Market state, shape (n,) columns, in the rows of `position`; of the same time t as the prices.
    position : Position
        Open positions; `current_sl` NaN means that no stop is in force.
    theta : StopsTheta
        Parameters.
    mark_price : float array, optional
        Marks as given, shape (n,), NaN where unknown. The price collar may hold one back from the current price; whether the stop
        was crossed is judged by both.

    Returns
    -------
    StopProposal
        Columns of shape (n,). No NaN. `stop_dist_pct` >= `sl_min_pct` and `tp_dist_pct` >= `tp_min_pct` always.
        `sl_breached` says that the price has already crossed the proposed stop, which is published unchanged.

    Raises
    ------
    ValueError
        If a row breaks the rules of `Market` or `Position`; the text names row, column and value.

    References
    ----------
    docs/spec.md#3-stops-kernel-p1
    """
    require_sound(market=market, position=position)
    d = position.direction
    current = position.current_price

    stop = stop_distance(market, theta)
    trail = np.maximum(theta.sl_min_pct, market.mix(theta.k_trail.trend, theta.k_trail.mr, theta.k_trail.chop) * market.sigma)
    stretch = np.minimum(theta.tp_extend_gain * np.clip(market.ts, 0, 1) * market.p_trend, theta.tp_extend_max)
    trending = (market.p_trend > EXTEND_P_TREND_MIN) & (market.ts > EXTEND_TS_MIN)
    ext = 1.0 + np.where(trending, stretch, 0.0)
    tp = np.maximum(theta.tp_min_pct, market.mix(theta.k_tp.trend, theta.k_tp.mr, theta.k_tp.chop) * market.sigma * ext)

    raw_sl = current * (1 - d * stop)
    trail_sl = np.where(position.is_long, position.peak_price, position.trough_price) * (1 - d * trail)
    sl = np.where(d * (trail_sl - raw_sl) > 0, trail_sl, raw_sl)

    # Comparisons with NaN are False: without a stop in force nothing tightens and nothing is kept.
    noise = np.maximum(theta.eps * np.minimum(1.0, current), ROUNDING * current)
    tightening = theta.monotonic_sl & (d * (sl - position.current_sl) > noise)
    stop_kept = theta.monotonic_sl & (d * (position.current_sl - sl) > noise)
    sl = np.where(stop_kept, position.current_sl, sl)
    breached = d * (sl - current) >= 0
    if mark_price is not None:
        breached |= d * (sl - mark_price) >= 0

    return StopProposal(
        proposed_sl=sl,
        proposed_tp=current * (1 + d * tp),
        stop_dist_pct=stop,
        tp_dist_pct=tp,
        trail_gap_pct=trail,
        tp_extension_factor=ext,
        sl_breached=breached,
        reason_codes=reason_codes(
            (d * (trail_sl - raw_sl) > noise, "trail_active"),
            (stop_kept, "sl_tightened_monotonic"),  # on the wire so: the stop in force was kept
            (tightening, "sl_tightening"),
            (np.ones(len(market), dtype=bool), "regime_" + most_probable(market.p_trend, market.p_mr, market.p_chop)),
            (ext > 1 + theta.eps, "tp_extended"),
            (breached, "sl_breached"),
        ),
    )
