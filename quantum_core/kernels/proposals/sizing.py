"""Position size proposals: how large a position may be, and with how much leverage, before one is opened.

Here belongs the sizing formula. The stop distance is that of the stops kernel; where equity, multiplier and target come
from, and whether they are fresh, stays out.
"""

import dataclasses
import math

import numpy as np

from quantum_core.kernels.columns import (
    NOT_NEGATIVE_OR_NONE,
    PRICE,
    Columns,
    Floats,
    Labels,
    Market,
    ReasonCodes,
    most_probable,
    reason_codes,
    require_sound,
)
from quantum_core.kernels.theta import Theta, parameter


@dataclasses.dataclass(frozen=True)
class SizingTheta(Theta):
    """Parameters of the sizing kernel, defaults of docs/spec.md#15-position-size."""

    risk_fraction: float = parameter(0.005, "loss at the stop, fraction of equity", low=0, high=1)
    target_vol_daily: float = parameter(0.02, "volatility of a position over a day, fraction of equity", low=1e-12, high=10)
    w_trend: float = parameter(1.0, "share of the size in a trend", low=0, high=10)
    w_mr: float = parameter(0.75, "share of the size when mean-reverting", low=0, high=10)
    w_chop: float = parameter(0.5, "share of the size in chop", low=0, high=10)
    leverage_base: float = parameter(1.0, "leverage without a trend", low=1e-6, high=1000)
    leverage_gain: float = parameter(2.0, "relative rise of leverage per unit of ts x p_trend", low=0)
    leverage_cap: float = parameter(3.0, "largest leverage", low=1, high=1000)
    equity_cap: float = parameter(1.0, "largest size, multiple of equity", low=0, high=1000)


@dataclasses.dataclass(frozen=True)
class SizingInputs(Columns):
    """What a size rests on beside the market state; a symbol without a fresh, positive equity has no row."""

    equity_usd: Floats = dataclasses.field(metadata=PRICE)  # of the account, the same for all its symbols
    price: Floats = dataclasses.field(metadata=PRICE)  # latest mark or close, USD per unit
    stop_dist_pct: Floats = dataclasses.field(metadata=PRICE)  # `stop_distance` of the stops kernel, fraction of price
    multiplier: Floats = dataclasses.field(metadata=NOT_NEGATIVE_OR_NONE)  # of the efficiency, NaN when none is fresh
    target_usd: Floats = dataclasses.field(metadata=NOT_NEGATIVE_OR_NONE)  # largest size by allocation, NaN when none is in force


@dataclasses.dataclass(frozen=True)
class SizeProposal:
    """Proposals per symbol."""

    size_usd: Floats  # notional, >= 0
    size_qty: Floats  # the same in units of the symbol
    leverage_max: Floats  # in [1, leverage_cap]
    stop_dist_pct: Floats  # as given
    risk_usd: Floats  # what may be lost at the stop, before weights, multiplier and caps
    binding: Labels  # which bound decided: stop, volatility, equity_cap or target; the first wins a tie
    reason_codes: ReasonCodes


def sizing(
    market: Market,
    inputs: SizingInputs,
    theta: SizingTheta = SizingTheta(),
    *,
    candles_per_day: float,
) -> SizeProposal:
    """Propose the largest size and leverage per symbol.

    Parameters
    ----------
    market : Market
        Market state, shape (n,) columns, in the rows of `inputs`; of the same time t as the price.
    inputs : SizingInputs
        Equity, price, stop distance, efficiency multiplier and target. A multiplier of NaN counts as 1, a target of NaN
        limits nothing.
    theta : SizingTheta
        Parameters.
    candles_per_day : float
        Seconds of a day over the length of the candles that sigma is of.

    Returns
    -------
    SizeProposal
        Columns of shape (n,). No NaN. `size_usd` is in [0, equity_usd x equity_cap].

    Raises
    ------
    ValueError
        If a row breaks the rules of `Market` or `SizingInputs` (the text names row, column and value), or
        `candles_per_day` is not finite and > 0.

    References
    ----------
    docs/spec.md#15-position-size
    """
    require_sound(market=market, inputs=inputs)
    if not 0 < candles_per_day < math.inf:
        message = f"candles_per_day is {candles_per_day}: must be finite and > 0"
        raise ValueError(message)
    has_multiplier = ~np.isnan(inputs.multiplier)
    risk_usd = inputs.equity_usd * theta.risk_fraction
    by_stop = risk_usd / inputs.stop_dist_pct
    by_cap = inputs.equity_usd * theta.equity_cap
    with np.errstate(divide="ignore", over="ignore"):  # an infinite size or leverage is one that another bound decides
        by_volatility = inputs.equity_usd * theta.target_vol_daily / (market.sigma * np.sqrt(candles_per_day))
        weight = market.mix(theta.w_trend, theta.w_mr, theta.w_chop)
        scaled = np.minimum(by_stop, by_volatility) * weight * np.where(has_multiplier, inputs.multiplier, 1.0)
        leverage = theta.leverage_base * (1 + theta.leverage_gain * (market.ts * market.p_trend))

    # Comparisons with NaN are False: without a target nothing is capped by it.
    over_cap = scaled > by_cap
    capped = np.where(over_cap, by_cap, scaled)
    over_target = inputs.target_usd < capped
    size_usd = np.where(over_target, inputs.target_usd, capped)
    by_risk = np.where(by_volatility < by_stop, "volatility", "stop")
    binding: Labels = np.where(over_target, "target", np.where(over_cap, "equity_cap", by_risk)).astype(object)

    return SizeProposal(
        size_usd=size_usd,
        size_qty=size_usd / inputs.price,
        leverage_max=np.clip(leverage, 1.0, theta.leverage_cap),
        stop_dist_pct=inputs.stop_dist_pct,
        risk_usd=risk_usd,
        binding=binding,
        reason_codes=reason_codes(
            (np.ones(len(market), dtype=bool), "bound_" + binding),
            (np.ones(len(market), dtype=bool), "regime_" + most_probable(market.p_trend, market.p_mr, market.p_chop)),
            (~has_multiplier, "no_fresh_efficiency"),
            (leverage > theta.leverage_cap, "leverage_capped"),
            (size_usd == 0, "size_zero"),
        ),
    )
