"""What a search over parameters must answer for: folds that do not leak, and how much of its best result is luck.

Here belong walk-forward folds, the deflated Sharpe ratio and the probability of backtest overfitting. What is searched, and what
a trade is, stays out: returns come in as numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
from scipy import stats

from quantum_core.kernels.columns import Floats

EULER = 0.5772156649015329
BLOCKS = 10  # of the time, in the combinatorial test: 252 splits, each half as long as the whole
MOMENTS_MIN = 3  # results without which skewness and kurtosis mean nothing


@dataclass(frozen=True)
class Fold:
    """One step of a walk forward: positions in the sequence of trades, both sorted, never overlapping in time."""

    train: npt.NDArray[np.intp]
    test: npt.NDArray[np.intp]


def walk_forward(begin: Floats, end: Floats, *, folds: int, embargo: float) -> list[Fold]:
    """Split trades into folds whose training lies wholly before their test.

    Parameters
    ----------
    begin, end : float64 arrays, shape (n,)
        When each trade was entered and left, any unit of time; ``end`` >= ``begin``.
    folds : int
        Test periods, of equal length in time, >= 1. The first ``1 / (folds + 1)`` of the time is training only.
    embargo : float
        Time between the last exit of the training and the first entry of the test, same unit, >= 0.

    Returns
    -------
    list of Fold
        A trade that is still open ``embargo`` before the test begins belongs to neither (purged). A fold in which nothing is left
        on one side is left out.

    Raises
    ------
    ValueError
        If the arrays differ in length, ``folds`` < 1 or ``embargo`` < 0.

    References
    ----------
    Lopez de Prado, M. (2018), Advances in Financial Machine Learning, chapter 7.
    """
    if begin.shape != end.shape or folds < 1 or embargo < 0:
        message = f"begin {begin.shape}, end {end.shape}, folds {folds}, embargo {embargo}: expected equal shapes, >= 1, >= 0"
        raise ValueError(message)
    if not len(begin):
        return []
    edges = np.linspace(begin.min(), np.nextafter(begin.max(), np.inf), folds + 2)
    made = []
    for low, high in pairwise(edges[1:]):
        train = np.flatnonzero(end < low - embargo)
        test = np.flatnonzero((begin >= low) & (begin < high))
        if len(train) and len(test):
            made.append(Fold(train, test))
    return made


def expected_maximum(candidates: int, spread: float) -> float:
    """Sharpe ratio that the best of some worthless candidates has on average.

    Parameters
    ----------
    candidates : int
        Independent candidates, >= 1.
    spread : float
        Standard deviation of their Sharpe ratios, per observation.

    References
    ----------
    Bailey, D. H. and Lopez de Prado, M. (2014), The deflated Sharpe ratio, equation 1. J. Portfolio Management 40, 94-107.
    """
    if candidates < 2:
        return 0.0
    first, second = stats.norm.ppf([1 - 1 / candidates, 1 - 1 / (candidates * math.e)])
    return float(spread * ((1 - EULER) * first + EULER * second))


def probabilistic_sharpe(sharpe: float, benchmark: float, n: int, skewness: float, kurtosis: float) -> float:
    """Probability that the true Sharpe ratio is beyond a benchmark.

    Parameters
    ----------
    sharpe, benchmark : float
        Per observation, not annualised.
    n : int
        Observations, >= 2.
    skewness, kurtosis : float
        Of the observations; a normal distribution has 0 and 3.

    References
    ----------
    Bailey and Lopez de Prado (2012), The Sharpe ratio efficient frontier, equation 11. J. Risk 15(2), 3-44.
    """
    variance = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    return float(stats.norm.cdf((sharpe - benchmark) * math.sqrt(n - 1) / math.sqrt(max(variance, np.finfo(float).tiny))))


def deflated_sharpe(results: Floats, chosen: int) -> float:
    """Probability that the chosen candidate is better than the luckiest of as many worthless ones.

    Parameters
    ----------
    results : float64 array, shape (n_observations, n_candidates)
        One column per candidate of the search, every candidate that was looked at; no NaN.
    chosen : int
        Column that was chosen.

    Returns
    -------
    float
        In [0, 1]; NaN with fewer than 3 observations or where the chosen candidate never varies.

    Notes
    -----
    All candidates count as independent, which they are not: the result is on the careful side.
    """
    own = results[:, chosen]
    if len(own) < MOMENTS_MIN or not own.std():
        return math.nan
    spread = results.std(axis=0, ddof=1)
    sharpes = np.divide(results.mean(axis=0), spread, out=np.zeros(results.shape[1]), where=spread > 0)
    luckiest = expected_maximum(results.shape[1], float(sharpes.std(ddof=1)) if len(sharpes) > 1 else 0.0)
    return probabilistic_sharpe(
        float(sharpes[chosen]), luckiest, len(own), float(stats.skew(own)), float(stats.kurtosis(own, fisher=False))
    )


def overfitting_probability(results: Floats, blocks: int = BLOCKS) -> float:
    """Probability that the candidate which is best in one half of the time is below the median of all in the other.

    Parameters
    ----------
    results : float64 array, shape (n_observations, n_candidates)
        In the order of time, one column per candidate; no NaN.
    blocks : int
        Even number of blocks of equal length; each half of them is once the half in which the best is chosen.

    Returns
    -------
    float
        In [0, 1]; about .5 where all candidates are worthless. NaN with fewer than two of them or fewer observations than blocks.

    Raises
    ------
    ValueError
        If ``blocks`` is odd or < 2.

    References
    ----------
    Bailey, Borwein, Lopez de Prado and Zhu (2017), The probability of backtest overfitting. J. Comput. Finance 20(4), 39-69.
    """
    if blocks < 2 or blocks % 2:
        message = f"blocks is {blocks}: expected an even number >= 2"
        raise ValueError(message)
    n_observations, n_candidates = results.shape
    if n_candidates < 2 or n_observations < blocks:
        return math.nan
    parts = np.array_split(results, blocks)
    sums, squares, counts = (
        np.stack([part.sum(axis=0) for part in parts]),
        np.stack([(part**2).sum(axis=0) for part in parts]),
        np.array([len(part) for part in parts]),
    )

    def sharpes(chosen: list[int]) -> Floats:
        n = counts[chosen].sum()
        mean = sums[chosen].sum(axis=0) / n
        variance = squares[chosen].sum(axis=0) / n - mean**2
        ratio: Floats = np.divide(mean, np.sqrt(np.maximum(variance, 0)), out=np.zeros(n_candidates), where=variance > 0)
        return ratio

    below = []
    for inside in combinations(range(blocks), blocks // 2):
        outside = [block for block in range(blocks) if block not in inside]
        best = int(np.argmax(sharpes(list(inside))))
        rank = stats.rankdata(sharpes(outside))[best] / (n_candidates + 1)
        below.append(rank <= 0.5)  # a logit of the rank at or below zero
    return float(np.mean(below))
