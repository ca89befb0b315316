"""What regime probabilities are worth: how long a regime lasts beyond what overlapping windows give, and whether it predicts.

A regime is judged by the variance ratio of the returns that follow, and by the size of the move that follows. Tests shift one
series against the other in a circle: that keeps the autocorrelation of both, and what they have to do with each other is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from quantum_core.kernels.columns import REGIMES, Bools, Floats, Labels

SIGNIFICANT = 1.959963984540054  # two-sided 5 % of a standard normal variable
BLOCK_WINDOWS = 2048  # windows whose variance ratio is computed at a time: 4 MB of returns
TIE = 1e-9  # relative: statistics no further apart are equal, whatever the order in which sums were rounded


@dataclass(frozen=True)
class Persistence:
    """How often each regime is, and how long it lasts; every tuple in the order of REGIMES.

    Attributes
    ----------
    shares
        Share of candles with a state.
    dwell
        Mean length of a run, candles; NaN of a regime that never is.
    dwell_independent
        Mean run length if every candle drew its regime anew with these shares: 1 / (1 - share).
    transitions
        Share of next regimes (columns) by regime now (rows); NaN in the row of a regime that has no next candle.
    """

    shares: tuple[float, ...]
    dwell: tuple[float, ...]
    dwell_independent: tuple[float, ...]
    transitions: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Skill:
    """A score beside that of knowing nothing but the base rate, and how often a shifted series does as well.

    Attributes
    ----------
    score, base
        Brier scores, in [0, 2]: of the probabilities, and of the base rates of these very outcomes.
    skill
        1 - score / base; above 0 is better than the base rate. NaN where all outcomes are one.
    outcome_shares
        How often each outcome was, in the order of REGIMES.
    p
        Share of circular shifts whose score is as good or better: small means that the probabilities follow the outcomes.
    windows
        How many were judged.
    """

    score: float
    base: float
    skill: float
    outcome_shares: tuple[float, ...]
    p: float
    windows: int


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation, and the two-sided share of circular shifts with one as large."""

    rho: float
    p: float
    windows: int


@dataclass(frozen=True)
class Accuracy:
    """Labels against a known truth.

    Attributes
    ----------
    share
        Share of candles with the right label.
    balanced
        Mean over the true labels of the share that was recognised: 1/k knows nothing.
    recall
        True label to the share recognised.
    """

    share: float
    balanced: float
    recall: dict[str, float]


def persistence(labels: Labels) -> Persistence:
    """Describe how regimes follow each other.

    Parameters
    ----------
    labels : object array, shape (n,)
        A regime of each candle, ``None`` without a state: that ends a run, and is no transition.

    Returns
    -------
    Persistence
        NaN throughout where no candle has a state.
    """
    code = np.full(len(labels), -1)
    for number, name in enumerate(REGIMES):
        code[labels == name] = number
    known = code >= 0
    counts = np.bincount(code[known], minlength=len(REGIMES))
    begins = known & (code != np.concatenate([[-1], code[:-1]]))
    runs = np.bincount(code[begins], minlength=len(REGIMES))
    both = known[:-1] & known[1:]
    steps = np.zeros((len(REGIMES), len(REGIMES)))
    np.add.at(steps, (code[:-1][both], code[1:][both]), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / counts.sum()
        dwell = counts / np.where(runs, runs, np.nan)
        independent = 1 / (1 - shares)
        matrix = steps / steps.sum(axis=1, keepdims=True)
    return Persistence(
        tuple(shares.tolist()), tuple(dwell.tolist()), tuple(independent.tolist()), tuple(tuple(row) for row in matrix.tolist())
    )


def sign_flipped(returns: Floats, rng: np.random.Generator) -> Floats:
    """Give returns of the same sizes in the same order with signs of a fair coin.

    Their volatility is as clustered as before, and there is neither trend nor reversion left: what a regime still shows on them,
    it shows by chance and by windows that overlap. Returns near 0 and NaN stay.
    """
    flipped: Floats = returns * rng.choice([-1.0, 1.0], len(returns))
    return flipped


def variance_ratios(returns: Floats, window: int, k: int) -> tuple[Floats, Floats]:
    """Compute the variance ratio of the returns after each candle, and its statistic.

    Parameters
    ----------
    returns : float64 array, shape (n,)
        Log returns, NaN where there is none.
    window : int
        Returns per ratio, > k.
    k : int
        Returns per sum, >= 2.

    Returns
    -------
    ratio, z : float64 arrays, shape (n,)
        Row t: of returns t + 1 to t + window, unbiased, sums overlapping; z is robust to heteroscedasticity and standard normal
        for a series without autocorrelation. NaN where a return is unknown, or all are equal.

    References
    ----------
    Lo, A. W. and MacKinlay, A. C. (1988), Stock market prices do not follow random walks. Review of Financial Studies 1, 41-66.
    """
    ratio, z = np.full(len(returns), np.nan), np.full(len(returns), np.nan)
    if len(returns) <= window:
        return ratio, z
    windows = sliding_window_view(returns[1:], window)
    for start in range(0, len(windows), BLOCK_WINDOWS):
        rows = slice(start, min(start + BLOCK_WINDOWS, len(windows)))
        ratio[rows], z[rows] = _variance_ratio(windows[rows], k)
    return ratio, z


def _variance_ratio(x: Floats, k: int) -> tuple[Floats, Floats]:
    n = x.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = x - x.mean(axis=1, keepdims=True)
        squares = centred**2
        total = squares.sum(axis=1)
        sums = np.cumsum(np.concatenate([np.zeros((len(x), 1)), centred], axis=1), axis=1)
        of_k = ((sums[:, k:] - sums[:, :-k]) ** 2).sum(axis=1) / (k * (n - k + 1) * (1 - k / n))
        ratio: Floats = of_k / (total / (n - 1))
        spread = np.zeros(len(x))
        for lag in range(1, k):
            delta = (squares[:, lag:] * squares[:, :-lag]).sum(axis=1) / total**2
            spread += (2 * (k - lag) / k) ** 2 * delta
        z: Floats = (ratio - 1) / np.sqrt(spread)
    constant = ~(total > 0)
    ratio[constant], z[constant] = np.nan, np.nan
    return ratio, z


def outcomes(z: Floats, threshold: float = SIGNIFICANT) -> Floats:
    """Say what the window after each candle was, as a triple of 0 and 1 in the order of REGIMES, shape (n, 3).

    trend: its variance ratio is significantly above 1. mr: significantly below. chop: neither. NaN where it is unknown.
    """
    triple = np.stack([z > threshold, z < -threshold, np.abs(z) <= threshold], axis=1).astype(np.float64)
    triple[~np.isfinite(z)] = np.nan
    return triple


def brier(probabilities: Floats, outcome: Floats, *, apart: int) -> Skill:
    """Score regime probabilities by what followed.

    Parameters
    ----------
    probabilities, outcome : float64 arrays, shape (n, k)
        Rows with a NaN in either are left out.
    apart : int
        Smallest circular shift that counts: candles a window of either side spans.

    References
    ----------
    Brier, G. W. (1950), Verification of forecasts expressed in terms of probability. Monthly Weather Review 78, 1-3.
    """
    known = np.isfinite(probabilities).all(axis=1) & np.isfinite(outcome).all(axis=1)
    p, o = probabilities[known], outcome[known]
    n = len(p)
    if not n:
        return Skill(np.nan, np.nan, np.nan, (np.nan,) * outcome.shape[1], np.nan, 0)
    shares = o.mean(axis=0)
    score, base = float(((p - o) ** 2).sum(axis=1).mean()), float(((shares - o) ** 2).sum(axis=1).mean())
    # Only the product of both depends on the shift: the larger, the better the score.
    products = sum(_circular_products(p[:, column], o[:, column]) for column in range(p.shape[1]))
    skill = 1 - score / base if base > 0 else np.nan
    return Skill(score, base, skill, tuple(shares.tolist()), _shift_p(np.asarray(products), apart), n)


def rank_correlation(values: Floats, later: Floats, *, apart: int) -> RankCorrelation:
    """Correlate the ranks of two series, and test it by circular shifts.

    Parameters
    ----------
    values, later : float64 arrays, shape (n,)
        Rows with a NaN in either are left out.
    apart : int
        Smallest shift that counts, as in :func:`brier`.
    """
    from scipy.stats import rankdata

    known = np.isfinite(values) & np.isfinite(later)
    if np.count_nonzero(known) < 3:
        return RankCorrelation(np.nan, np.nan, int(np.count_nonzero(known)))
    first, second = (rankdata(one[known]) for one in (values, later))
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first @ first) * (second @ second)))
    if scale == 0:
        return RankCorrelation(np.nan, np.nan, len(first))
    products = _circular_products(first, second)
    return RankCorrelation(float(first @ second) / scale, _shift_p(np.abs(products), apart), len(first))


def accuracy(labels: Labels, truth: Labels) -> Accuracy:
    """Compare labels with the truth they were generated from; candles without a label are left out."""
    known = np.array([one is not None for one in labels])
    right: Bools = labels[known] == truth[known]
    recall = {str(name): float(right[truth[known] == name].mean()) for name in sorted(set(truth[known].tolist()))}
    return Accuracy(float(right.mean()), float(np.mean([*recall.values()])), recall)


def _circular_products(first: Floats, second: Floats) -> Floats:
    """Give the sums of products of one series with the other one shifted by 0, 1, ..., n - 1 in a circle."""
    n = len(first)
    products: npt.NDArray[np.float64] = np.fft.irfft(np.fft.rfft(first) * np.conj(np.fft.rfft(second)), n)
    return products


def _shift_p(products: Floats, apart: int) -> float:
    """Give the share of shifts that do as well as none, the unshifted series counted among them; NaN without any shift.

    Neighbouring shifts are nearly one: only those a window apart count as drawn anew, and no p-value is smaller than they allow.
    """
    shifted = products[apart : len(products) - apart + 1]
    if not len(shifted):
        return np.nan
    as_good = np.count_nonzero(shifted >= products[0] - TIE * abs(products[0])) / len(shifted)
    independent = len(shifted) / apart
    return float((1 + as_good * independent) / (1 + independent))
