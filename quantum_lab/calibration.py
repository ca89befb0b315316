"""A profile from recorded candles, by rules that can be read: scales come from the data, multiples from the published ones.

Here belong the rules, each a function from measurements to parameters. What is measured of a finished profile is
:mod:`quantum_lab.judgement`; the search over named parameters, files and printed pages stay out. What no rule touches keeps the
value of locked-v1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

from quantum_core.kernels.columns import Floats
from quantum_core.kernels.market.market_state import MarketStateTheta, VolTheta, volatility
from quantum_core.kernels.market.significance import CHOP_LEVEL, drift_z, variance_ratio_z
from quantum_core.kernels.market.tails import student_t_multiple
from quantum_core.kernels.proposals.stops import StopsTheta
from quantum_core.profiles.profile import LOCKED, Profile
from quantum_lab.candles import CandleHistory
from quantum_lab.states import BLOCK, Progress, States, return_windows, states_of, usable_rows, weighed_again
from quantum_lab.volatility import ahead

LAMBDAS = (0.90, 0.94, 0.96, 0.98)
WINSOR = ((0.01, 0.99), (0.0, 1.0))  # as published, and not at all
SPIKE_CENTERS = (1.2, 5.0)  # as published, and beyond every proxy: the plain EWMA
DF_BOUNDS = (2.1, 200.0)  # of a t distribution; the upper end is as good as normal
LEVELS = (0.05, 0.01)  # two-sided exceedances at which tails are matched
PUBLISHED = MarketStateTheta()
BISECTIONS = 40
WEIGHT_MAX = 50.0  # of a score
SHARE_TOLERANCE = 0.02
SEGMENT = 5_000  # candles; of one minute three and a half days
SEGMENTS_MIN = 4
EVERY = 5  # neighbouring windows say the same: estimators and scores are compared on every fifth candle
TP_OVER_SL = 1.5  # floor of the target over that of the stop: what is left after one more round trip


class CalibrationError(ValueError):
    """No profile can be made of these candles; the text says why, and what would do."""


@dataclass(frozen=True)
class Rules:
    """What a calibration is asked for: stated targets, none of them searched for.

    Attributes
    ----------
    horizon
        Candles over which a decision is meant to hold.
    cost_bps
        Cost of a round trip, basis points of the price.
    trend_share, mr_share
        Shares of time in which a trend, and mean reversion, are to be the most probable regime.
    full_close_share
        Share of time in which the trend is to count as lost.
    calm_share
        Share of time in which sigma is to be below its reference.
    """

    horizon: int
    cost_bps: float = 8.0
    trend_share: float = 0.15
    mr_share: float = 0.15
    full_close_share: float = 0.03
    calm_share: float = 0.95


def sigma_of(history: CandleHistory, theta: VolTheta, *, every: int = 1) -> Floats:
    """Give sigma at the close of every so many candles, shape (n,), as the market state has it; NaN at all others."""
    sigma = np.full(len(history), np.nan)
    rows = usable_rows(history, theta.window + 1)[::every]
    if not len(rows):
        return sigma
    windows = return_windows(history.close, theta.window, PUBLISHED.eps)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        sigma[block] = volatility(windows[block - theta.window], theta, PUBLISHED.eps)[0]
    return sigma


def _interval_of(histories: Sequence[CandleHistory]) -> int:
    intervals = {round(history.interval_sec) for history in histories}
    if len(intervals) != 1:
        message = f"candles of {', '.join(f'{one} s' for one in sorted(intervals)) or 'no'} length: give those of one interval"
        raise CalibrationError(message)
    return intervals.pop()


def volatility_rule(histories: Sequence[CandleHistory], horizon: int, progress: Progress | None = None) -> VolTheta:
    """Choose how sigma is estimated: such that a stated exceedance holds most evenly over weeks and markets.

    The choices are ``LAMBDAS``, ``WINSOR`` and ``SPIKE_CENTERS``. In every segment of ``SEGMENT`` candles, 5 % of the moves in
    units of sigma exceed some quantile; chosen is the sigma of which these quantiles differ least, one candle and the horizon
    ahead together. A loss like QLIKE is decided by the few largest moves, and chooses another one on every sample.

    Raises
    ------
    CalibrationError
        There are fewer than two segments.
    """
    choices = [
        VolTheta(ewma_lambda=decay, winsor_q_low=low, winsor_q_high=high, spike_center=center)
        for decay, (low, high), center in product(LAMBDAS, WINSOR, SPIKE_CENTERS)
    ]
    spreads = []
    for number, theta in enumerate(choices, 1):
        sigmas = [sigma_of(history, theta, every=EVERY) for history in histories]
        spreads.append(sum(_spread(histories, sigmas, steps) for steps in (1, horizon)))
        if progress is not None:
            progress(number, len(choices))
    return choices[int(np.argmin(spreads))]


def _spread(histories: Sequence[CandleHistory], sigmas: Sequence[Floats], steps: int) -> float:
    quantiles = []
    for history, sigma in zip(histories, sigmas, strict=True):
        moves = np.abs(ahead(history.returns, steps)) / sigma
        parts = [part[np.isfinite(part)] for part in np.array_split(moves, max(1, len(moves) // SEGMENT))]
        quantiles += [np.quantile(part, 1 - LEVELS[0]) for part in parts if len(part) >= SEGMENT // EVERY // 2]
    if len(quantiles) < SEGMENTS_MIN:
        message = f"{len(quantiles)} segments of {SEGMENT} candles: a calibration needs {SEGMENTS_MIN}, give longer histories"
        raise CalibrationError(message)
    return float(np.std(np.log(quantiles)))


def standardised(history: CandleHistory, sigma: Floats, steps: int) -> Floats:
    """Give the move over the next candles in units of sigma times the root of their number, known values only, any order."""
    z = ahead(history.returns, steps) / (sigma * math.sqrt(steps))
    known: Floats = z[np.isfinite(z)]
    return known


@dataclass(frozen=True)
class Tail:
    """A Student t distribution of unit variance times a factor: how far moves go beyond what a normal sigma says."""

    df: float
    scale: float

    def quantile(self, exceedance: float) -> float:
        """Give what the absolute move exceeds with this probability, in sigmas."""
        return self.scale * float(student_t_multiple(exceedance, self.df))


def tail_rule(samples: Sequence[Floats]) -> Tail:
    """Fit a tail to standardised moves: it has their two-sided quantiles at ``LEVELS``, each sample weighing the same.

    Parameters
    ----------
    samples : sequence of float64 arrays
        Standardised moves of each history, without NaN.

    Raises
    ------
    CalibrationError
        There are too few moves for a quantile of the smaller level.
    """
    needed = math.ceil(20 / min(LEVELS))
    if not samples or min(map(len, samples)) < needed:
        message = f"tails need {needed} moves of each history: there are {min(map(len, samples), default=0)}"
        raise CalibrationError(message)
    sizes = np.concatenate([np.abs(one) for one in samples])
    weights = np.concatenate([np.full(len(one), 1 / len(one)) for one in samples])
    outer, inner = np.quantile(sizes, 1 - np.array(LEVELS), weights=weights, method="inverted_cdf")

    def too_thin(df: float) -> float:
        near, far = stats.t.ppf(1 - np.array(LEVELS) / 2, df)
        return float(far / near - inner / outer)

    low, high = DF_BOUNDS
    df = low if too_thin(low) <= 0 else high if too_thin(high) >= 0 else float(optimize.brentq(too_thin, low, high, xtol=1e-3))
    unit = Tail(round(df, 2), 1.0)
    return Tail(unit.df, round(outer / unit.quantile(LEVELS[0]), 4))


def significances(history: CandleHistory, states: States, theta: MarketStateTheta) -> Floats:
    """Give the z values of drift and variance ratio at every ``EVERY``-th state, shape (2, n)."""
    rows = np.flatnonzero(states.has_state)[::EVERY]
    if not len(rows):
        return np.empty((2, 0))
    windows = return_windows(history.close, theta.regime.window, theta.eps)
    parts = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        returns = windows[block - theta.regime.window]
        parts.append(np.stack([drift_z(returns, states.mu[block], theta), variance_ratio_z(returns, theta.regime.vr_k)]))
    return np.concatenate(parts, axis=1)


def regime_rule(samples: Sequence[Floats], rules: Rules) -> dict[str, Any]:
    """Weigh the scores so that trend and mean reversion have their stated shares, each history counting the same.

    Directional persistence has no weight: its level is that of the book's bounce, another one in every market and year (on the
    recorded years its z moves by .8 while that of drift and variance ratio stays), and shares would not hold out of sample.

    Parameters
    ----------
    samples : sequence of float64 arrays, shape (2, n)
        What :func:`significances` gives of each history.

    Raises
    ------
    CalibrationError
        The shares cannot be reached.
    """
    drift, ratio = np.concatenate(samples, axis=1)
    weights = np.concatenate([np.full(one.shape[1], 1 / (one.shape[1] * len(samples))) for one in samples])
    trend, reversion = drift + np.maximum(ratio, 0), np.maximum(-ratio, 0)

    def shares_of(weight: float, level: float) -> tuple[float, float]:
        mr = weight * reversion - drift
        trending, reverting = (trend >= mr) & (trend >= level), (mr > trend) & (mr >= level)
        return float(weights[trending].sum()), float(weights[reverting].sum())

    def bisected(falls: Callable[[float], float], target: float, low: float, high: float) -> float:
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if falls(middle) > target else (low, middle)
        return (low + high) / 2

    def level_for(weight: float) -> float:
        return bisected(lambda level: shares_of(weight, level)[0], rules.trend_share, 0.0, WEIGHT_MAX)

    weight = bisected(lambda weight: -shares_of(weight, level_for(weight))[1], -rules.mr_share, 0.0, WEIGHT_MAX)
    level = level_for(weight)
    found_trend, found_mr = shares_of(weight, level)
    if max(abs(found_trend - rules.trend_share), abs(found_mr - rules.mr_share)) > SHARE_TOLERANCE:
        message = (
            f"no weights give a trend in {rules.trend_share:.0%} and mean reversion in {rules.mr_share:.0%} of the time "
            f"(nearest: {found_trend:.0%} and {found_mr:.0%}): ask for other shares"
        )
        raise CalibrationError(message)
    score = {"a2": 0.0, "b1": round(weight, 4), "b3": 0.0, "c1": round(level / CHOP_LEVEL, 4)}
    return {"measure": "significance", "score": score}


def stops_rule(rules: Rules) -> dict[str, Any]:
    """Scale the published multiples to the horizon, and put the floors where the cost of a round trip is."""
    root, cost, published = math.sqrt(rules.horizon), rules.cost_bps / 10_000, StopsTheta()

    def scaled(multiples: Any) -> dict[str, float]:
        return {name: round(getattr(multiples, name) * root, 4) for name in ("trend", "mr", "chop")}

    return {
        "sl_min_pct": round(cost, 6),
        "tp_min_pct": round(TP_OVER_SL * cost, 6),
        **{name: scaled(getattr(published, name)) for name in ("k_sl", "k_tp", "k_trail")},
    }


def harvest_rule(states: Sequence[States], rules: Rules) -> dict[str, Any]:
    """Put the references of the kill score where the data has them: sigma of a calm market, a usual trend, a lost one."""

    def quantile(name: str, share: float) -> float:
        known = [getattr(one, name)[one.has_state] for one in states]
        weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in known])
        return float(np.quantile(np.concatenate(known), share, weights=weights, method="inverted_cdf"))

    return {
        "cost_bps": rules.cost_bps,
        "sigma_ref": float(f"{quantile('sigma', rules.calm_share):.4g}"),
        "ts_ref": float(f"{quantile('ts', 0.5):.4g}"),
        "trend_min": float(f"{quantile('p_trend', rules.full_close_share):.4g}"),
    }


def calibrated(
    histories: Sequence[CandleHistory], rules: Rules, name: str, *, cache: Path | None = None, progress: Progress | None = None
) -> Profile:
    """Make a profile of recorded candles by all rules.

    Parameters
    ----------
    histories
        Candles of one interval; each counts the same, whatever its length.
    rules
        What is asked for.
    name
        Of the profile.
    cache
        Folder that keeps market states.
    progress
        Called as steps are done.

    Raises
    ------
    CalibrationError
        The histories have different intervals, or too few candles.
    """
    interval_sec = _interval_of(histories)
    vol = volatility_rule(histories, rules.horizon, progress)
    sigmas = [sigma_of(history, vol) for history in histories]
    step, ahead_ = (
        tail_rule([standardised(history, sigma, steps) for history, sigma in zip(histories, sigmas, strict=True)])
        for steps in (1, rules.horizon)
    )
    changes: dict[str, Any] = {
        "vol": {
            **{one: getattr(vol, one) for one in ("ewma_lambda", "winsor_q_low", "winsor_q_high", "spike_center")},
            "tail": "student_t",
            "tail_horizon": rules.horizon,
            "tail_df": ahead_.df,
            "tail_scale": ahead_.scale,
            "step_df": step.df,
            "step_scale": step.scale,
        },
        "trend": {"horizon": rules.horizon},
        "regime": {"measure": "significance"},
    }
    theta = PUBLISHED.override(changes)
    before = [states_of(history, theta, cache=cache) for history in histories]
    changes["regime"] = regime_rule([significances(*pair, theta) for pair in zip(histories, before, strict=True)], rules)
    theta = PUBLISHED.override(changes)
    states = [weighed_again(*pair, theta, cache=cache) for pair in zip(histories, before, strict=True)]
    profile = dataclasses.replace(LOCKED, name=name, note="", candle_interval_sec=interval_sec)
    return profile.changed({"market_state": changes, "stops": stops_rule(rules), "harvest": harvest_rule(states, rules)})
