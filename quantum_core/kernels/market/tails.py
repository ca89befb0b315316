"""How far a price may move: the multiple of sigma beyond which only a given share of moves lies, up and down together.

Here belong the multiples, and the winsorised returns they share with sigma. Sigma itself is of ``market_state.py``; what is done
with a move stays out.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.columns import Floats, across

if TYPE_CHECKING:
    from quantum_core.kernels.market.market_state import VolTheta

EWMA_SEED_RETURNS = 10  # returns whose variance starts the EWMA recursion (docs/spec.md#2-market-state-kernel-p0)
TAIL_KINDS = ("none", "student_t", "historical")


def winsorised(returns: Floats, theta: "VolTheta") -> Floats:
    """Move the returns of each row beyond its quantiles to them; shape (n_symbols, n), quantiles the same in all rows."""
    low, high = np.quantile(returns, [theta.winsor_q_low, theta.winsor_q_high], axis=1)
    clipped: Floats = np.clip(returns, low[:, None], high[:, None])
    return clipped


def tail_move(
    returns: Floats, sigma: Floats, theta: "VolTheta", *, eps: float, exceedance: npt.ArrayLike | None = None
) -> Floats:
    """Give the move over the horizon of a profile that is exceeded with a given probability.

    Parameters
    ----------
    returns, theta, eps
        As `tail_multiple` takes them.
    sigma : float64 array, shape (n_symbols,)
        Volatility of the market state, log return per candle.
    exceedance : float or array, optional
        As `tail_multiple` takes it; by default that of `theta`.

    Returns
    -------
    float64 array, shape (n_symbols,) or (k, n_symbols)
        Log return, >= 0, up or down; NaN without a tail.

    References
    ----------
    docs/spec.md#2-market-state-kernel-p0
    """
    asked = theta.tail_exceedance if exceedance is None else exceedance
    move: Floats = sigma * np.sqrt(theta.tail_horizon) * tail_multiple(asked, returns, theta, eps=eps)
    return move


def tail_multiple(exceedance: npt.ArrayLike, returns: Floats, theta: "VolTheta", *, eps: float) -> Floats:
    """Give the sigmas beyond which a return lies with a given probability, up and down together.

    Parameters
    ----------
    exceedance : float or array of shape (n_symbols,), (k, 1) or (k, n_symbols)
        Probability, in (0, 1].
    returns : float64 array, shape (n_symbols, vol.window)
        Log returns up to and including time t, oldest first; read by ``historical`` only.
    theta : VolTheta
        Volatility parameters, with one `tail` and the same quantiles for all rows.
    eps : float
        Added where a zero would divide.

    Returns
    -------
    float64 array, shape (n_symbols,) or (k, n_symbols)
        Multiple, >= 0, `tail_scale` included; NaN without a tail.
    """
    n_symbols = len(returns)
    asked = np.broadcast_to(exceedance, np.broadcast_shapes(np.shape(exceedance), (n_symbols,)))
    if theta.tail == "student_t":
        multiple = student_t_multiple(asked, theta.tail_df)
    elif theta.tail == "historical":
        multiple = historical_multiple(asked, standardised(returns, theta, eps=eps))
    else:
        return np.full(asked.shape, np.nan)
    return theta.tail_scale * multiple


def step_multiple(exceedance: float, theta: "VolTheta") -> float:
    """Give the sigmas that the next return exceeds, up or down, with a given probability: what live coverage is judged by.

    It is the normal quantile where the tail is not ``student_t``. Moves over a horizon have a tail of their own, see
    `tail_multiple`, because sigma changes on the way.
    """
    if theta.tail != "student_t":
        from scipy.special import ndtri

        return float(-ndtri(exceedance / 2))
    return float(theta.step_scale * student_t_multiple(exceedance, theta.step_df))


def student_t_multiple(exceedance: npt.ArrayLike, df: npt.ArrayLike) -> Floats:
    """Give the quantile of Student's t at unit variance that is exceeded, up or down, with a given probability; df > 2."""
    from scipy.special import stdtrit  # commands need the parameters, and no scipy

    quantile: Floats = -stdtrit(df, np.asarray(exceedance) / 2) * np.sqrt((np.asarray(df) - 2) / df)
    return np.maximum(quantile, 0.0) + 0.0  # at a probability of 1 it is 0.0, never -0.0


def historical_multiple(exceedance: Floats, moves: Floats) -> Floats:
    """Give the linear-interpolated quantile of each row of `moves` that the share `exceedance` of it lies beyond.

    Parameters
    ----------
    exceedance : float64 array, shape (n_symbols,) or (k, n_symbols)
        Share, in (0, 1].
    moves : float64 array, shape (n_symbols, m)
        Standardised moves, m >= 1.
    """
    ordered = np.sort(moves, axis=1)
    rows, last = np.arange(len(moves)), moves.shape[1] - 1
    place = (1 - exceedance) * last
    below = place.astype(np.intp)
    low, high = ordered[rows, below], ordered[rows, np.minimum(below + 1, last)]
    quantile: Floats = low + (high - low) * (place - below)
    return quantile


def standardised(returns: Floats, theta: "VolTheta", *, eps: float) -> Floats:
    """Divide each return by the sigma that was known before it.

    Parameters
    ----------
    returns : float64 array, shape (n_symbols, vol.window)
        Log returns, oldest first.
    theta : VolTheta
        Volatility parameters; lambda and floor may differ from row to row.
    eps : float
        Added where a zero would divide.

    Returns
    -------
    float64 array, shape (n_symbols, vol.window - EWMA_SEED_RETURNS)
        ``|r_i| / s_{i-1}``, s the EWMA sigma of the winsorised returns before r_i, never below the floor. The returns that start
        the recursion are left out: their sigma was known only after them. The returns themselves are not winsorised.

    References
    ----------
    Barone-Adesi, G., Giannopoulos, K. and Vosper, L. (1999), VaR without correlations for portfolios of derivative securities.
    Journal of Futures Markets 19, 583-602.
    """
    rw = winsorised(returns, theta)
    known = np.empty_like(rw)
    variance = rw[:, :EWMA_SEED_RETURNS].var(axis=1)
    for at in range(rw.shape[1]):
        known[:, at] = variance
        variance = theta.ewma_lambda * variance + (1 - theta.ewma_lambda) * rw[:, at] ** 2
    sigma = np.maximum(across(theta.sigma_floor), np.sqrt(known))
    moves: Floats = np.abs(returns) / (sigma + across(eps))
    return moves[:, EWMA_SEED_RETURNS:]
