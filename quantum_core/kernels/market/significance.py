"""Regimes by significance: how far drift, persistence and variance ratio are beyond what a random walk shows in the same windows.

Here belong the three z values and the scores made of them. Their use is of ``market_state.py``.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from quantum_core.kernels.columns import Floats

if TYPE_CHECKING:
    from quantum_core.kernels.market.market_state import MarketStateTheta

CHOP_LEVEL = 5.0  # score of chop at c1 = 1: of random walks, 98 in 100 stay below it (docs/decisions/0027)
# Deviation of a slope of random walks over that of least squares: 1.006 to 1.013 (tests/kernels/market/test_significance.py)
WALK_SLOPE: Mapping[str, float] = {"ols": 1.0, "theil_sen": 1.01, "huber": 1.01}


def significance_scores(returns: Floats, mu: Floats, dp: Floats, theta: "MarketStateTheta") -> tuple[Floats, Floats, Floats]:
    """Score trend, mean reversion and chop in standard deviations of what a random walk shows.

    Parameters
    ----------
    returns : float64 array, shape (n_symbols, regime.window)
        Log returns up to and including time t, oldest first.
    mu : float64 array, shape (n_symbols,)
        Drift of the market state, log return per candle.
    dp : float64 array, shape (n_symbols,)
        Share of neighbouring returns with equal sign.
    theta : MarketStateTheta
        Parameters, with the same windows, weights and method for all rows.

    Returns
    -------
    tuple of three float64 arrays, shape (n_symbols,)
        Scores of trend, mr and chop. Chop is a level: what nothing significant falls short of.

    References
    ----------
    docs/spec.md#2-market-state-kernel-p0, docs/decisions/0027-significance-and-tails.md
    """
    score = theta.regime.score
    z_ts = drift_z(returns, mu, theta)
    z_dp = persistence_z(returns, dp, theta.eps)
    z_vr = variance_ratio_z(returns, theta.regime.vr_k)
    s_trend = score.a1 * z_ts + score.a2 * z_dp + score.a3 * np.maximum(z_vr, 0)
    s_mr = score.b1 * np.maximum(-z_vr, 0) - score.b2 * z_ts - score.b3 * z_dp
    return s_trend, s_mr, np.broadcast_to(score.c1 * CHOP_LEVEL, s_trend.shape)


def drift_z(returns: Floats, mu: Floats, theta: "MarketStateTheta") -> Floats:
    """Compare the size of the drift with that of random walks over the same windows.

    Parameters
    ----------
    returns, mu, theta
        As `significance_scores` takes them.

    Returns
    -------
    float64 array, shape (n_symbols,)
        >= 0. A step is the standard deviation of the returns, at least the floor of sigma: what a halted market rounds to is no
        drift.
    """
    walk = WALK_SLOPE[theta.trend.method] * ols_slope_sd(theta.trend.windows, theta.trend.weights)
    step = np.maximum(theta.vol.sigma_floor, returns.std(axis=1))
    z: Floats = np.abs(mu) / (step * walk + theta.eps)
    return z


def ols_slope_sd(windows: Sequence[int], weights: Sequence[float]) -> float:
    """Give the standard deviation of the weighted least-squares slopes of a random walk of unit steps.

    Parameters
    ----------
    windows : sequence of int
        Points per slope, all up to the newest one; >= 2.
    weights : sequence of float
        Weight per slope, normalised to 1 here.

    Returns
    -------
    float
        Exact. A slope over n points is a weighted sum of the n - 1 steps between them, step t of weight
        6 t (n - t) / (n (n^2 - 1)); the windows overlap, so the weights of each step are added before they are squared.
    """
    of_step = np.zeros(max(windows) - 1)
    for n, weight in zip(windows, weights, strict=True):
        t = np.arange(1, n)
        of_step[len(of_step) + 1 - n :] += weight / sum(weights) * 6 * t * (n - t) / (n * (n * n - 1.0))
    return float(np.sqrt((of_step**2).sum()))


def persistence_z(returns: Floats, dp: Floats, eps: float) -> Floats:
    """Compare directional persistence with that of the same signs in any order.

    Parameters
    ----------
    returns : float64 array, shape (n_symbols, n)
        Returns, n >= 2.
    dp : float64 array, shape (n_symbols,)
        Share of neighbouring returns with equal sign.
    eps : float
        Added where a zero would divide: a window of one sign is as persistent as any order of it.

    Returns
    -------
    float64 array, shape (n_symbols,)
        The mean over all orders is exact. The standard deviation is that of n - 1 independent pairs, never below that over all
        orders.

    References
    ----------
    Mood, A. M. (1940), The distribution theory of runs. Annals of Mathematical Statistics 11, 367-392.
    """
    n = returns.shape[1]
    sign = np.sign(returns)
    expected = (sum((sign == one).sum(axis=1) ** 2 for one in (-1, 0, 1)) - n) / (n * (n - 1))
    z: Floats = (dp - expected) / (np.sqrt(expected * (1 - expected) / (n - 1)) + eps)
    return z


def variance_ratio_z(returns: Floats, k: int) -> Floats:
    """Compare the variance ratio over k returns with that of uncorrelated returns, whatever their variance does.

    Parameters
    ----------
    returns : float64 array, shape (n_symbols, n)
        Returns, n > k.
    k : int
        Returns per sum, >= 1.

    Returns
    -------
    float64 array, shape (n_symbols,)
        Heteroscedasticity-robust statistic of the ratio written as the sum of autocorrelations it is, each less its mean over all
        orders of the returns; its variance is never below that of returns of one variance, which a single large return would
        make vanish. 0 where nothing moves, and for k = 1.

    References
    ----------
    Lo, A. W. and MacKinlay, A. C. (1988), Stock market prices do not follow random walks. Review of Financial Studies 1, 41-66.
    """
    n = returns.shape[1]
    d = returns - returns.mean(axis=1, keepdims=True)
    squares = (d * d).sum(axis=1)
    excess, variance, constant = np.zeros(len(d)), np.zeros(len(d)), 0.0
    for lag in range(1, k):
        weight, products = 2 * (k - lag) / k, d[:, lag:] * d[:, :-lag]
        excess += weight * (products.sum(axis=1) + squares * (n - lag) / (n * (n - 1)))
        variance += weight**2 * (products * products).sum(axis=1)
        constant += weight**2 * (n - lag) / (n * n)
    spread = np.sqrt(np.maximum(variance, constant * squares * squares))
    z: Floats = np.divide(excess, spread, out=np.zeros(len(d)), where=spread > 0)
    return z
