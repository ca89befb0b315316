"""Coverage: how often returns leave the band a volatility gives, and whether that is as often, and as scattered, as it should be.

Here belong the tests of Kupiec and Christoffersen and the counting of windows. Which band a profile gives, the caller decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantum_core.coverage import kupiec_ratio
from quantum_core.kernels.columns import Bools, Floats


@dataclass(frozen=True)
class LikelihoodRatio:
    """A likelihood ratio and its p-value; NaN where nothing could be judged."""

    statistic: float
    p: float


@dataclass(frozen=True)
class Coverage:
    """Exceedances of one band.

    Attributes
    ----------
    nominal
        Share that was wanted.
    share
        Share of all windows.
    windows, exceedances
        Windows that do not overlap, which the tests judge, and how many of them left the band.
    kupiec
        Hypothesis: the share is the nominal one.
    independence
        Hypothesis: an exceedance is as likely after an exceedance as after none.
    conditional
        Both at once.
    """

    nominal: float
    share: float
    windows: int
    exceedances: int
    kupiec: LikelihoodRatio
    independence: LikelihoodRatio
    conditional: LikelihoodRatio


def kupiec(windows: int, exceedances: int, nominal: float) -> LikelihoodRatio:
    """Test whether exceedances are as frequent as they should be (unconditional coverage, one degree of freedom).

    Parameters
    ----------
    windows, exceedances : int
        How many, and how many of them left the band.
    nominal : float
        Share wanted, in (0, 1).

    Raises
    ------
    ValueError
        More exceedances than windows, or a share outside of (0, 1).

    References
    ----------
    Kupiec, P. (1995), Techniques for verifying the accuracy of risk measurement models. J. of Derivatives 3(2), 73-84.
    """
    if not 0 <= exceedances <= windows or not 0 < nominal < 1:
        msg = f"{exceedances} exceedances of {windows} windows at {nominal}: accepted are 0 to {windows}, and a share in (0, 1)"
        raise ValueError(msg)
    if not windows:
        return LikelihoodRatio(np.nan, np.nan)
    return _tested(float(kupiec_ratio(windows, exceedances, nominal)), 1)


def independence(hits: Bools) -> LikelihoodRatio:
    """Test whether exceedances come in clusters, against a first-order Markov chain (one degree of freedom).

    Parameters
    ----------
    hits : bool array, shape (n,)
        Whether each window left the band, in the order of time; windows must not overlap.

    Returns
    -------
    LikelihoodRatio
        Of the n - 1 transitions; statistic 0 where there is no exceedance before the last window.

    References
    ----------
    Christoffersen, P. (1998), Evaluating interval forecasts. International Economic Review 39, 841-862.
    """
    if len(hits) < 2:
        return LikelihoodRatio(np.nan, np.nan)
    n00, n01, n10, n11 = transitions(hits)
    chain = _log_likelihood(n00 + n01, n01, n01 / max(n00 + n01, 1)) + _log_likelihood(n10 + n11, n11, n11 / max(n10 + n11, 1))
    steps, hit = n00 + n01 + n10 + n11, n01 + n11
    return _tested(max(2 * (chain - _log_likelihood(steps, hit, hit / steps)), 0.0), 1)


def conditional_coverage(hits: Bools, nominal: float) -> LikelihoodRatio:
    """Test frequency and independence at once: the sum of both statistics (two degrees of freedom).

    References
    ----------
    Christoffersen (1998), as :func:`independence`.
    """
    both = kupiec(len(hits), int(hits.sum()), nominal).statistic + independence(hits).statistic
    return _tested(both, 2)


def transitions(hits: Bools) -> tuple[int, int, int, int]:
    """Count steps from none to none, none to one, one to none and one to one."""
    before, after = hits[:-1], hits[1:]
    pairs = ((~before, ~after), (~before, after), (before, ~after), (before, after))
    n00, n01, n10, n11 = (int(np.count_nonzero(first & second)) for first, second in pairs)
    return n00, n01, n10, n11


def coverage(moves: Floats, limits: Floats, nominal: float, horizon: int = 1) -> Coverage:
    """Count how often moves leave their band, and test it.

    Parameters
    ----------
    moves : float64 array, shape (n,)
        Row t: log return over the ``horizon`` candles after candle t; NaN where unknown.
    limits : float64 array, shape (n,)
        Row t: half width of the band as it was known at candle t; NaN where there was none.
    nominal : float
        Share of moves that should leave the band on either side.
    horizon : int
        Candles of a move. Windows that overlap share returns: the share counts them all, the tests every ``horizon``-th.
    """
    known = np.isfinite(moves) & np.isfinite(limits)
    left = np.abs(moves) > limits
    apart = without_overlap(known, horizon)
    hits = left[apart]
    n, x = len(hits), int(hits.sum())
    share = float(left[known].mean()) if known.any() else np.nan
    return Coverage(nominal, share, n, x, kupiec(n, x, nominal), independence(hits), conditional_coverage(hits, nominal))


def without_overlap(known: Bools, horizon: int) -> Bools:
    """Choose known rows at least ``horizon`` apart, the first one first."""
    if horizon == 1:
        return known.copy()
    chosen = np.zeros(len(known), dtype=np.bool_)
    free_from = 0
    for row in np.flatnonzero(known).tolist():
        if row >= free_from:
            chosen[row], free_from = True, row + horizon
    return chosen


def _log_likelihood(n: int, x: int, p: float) -> float:
    from scipy.special import xlog1py, xlogy

    return float(xlogy(x, p) + xlog1py(n - x, -p))


def _tested(statistic: float, freedom: int) -> LikelihoodRatio:
    from scipy.stats import chi2

    return LikelihoodRatio(statistic, float(chi2.sf(statistic, freedom)))
