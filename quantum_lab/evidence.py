"""Evidence: what sigma, regimes and stops of a profile were worth on candles of the past, as one document with a hash.

The document is a function of candles, profiles, horizon and the versions of the libraries: no clock, no chance, floats rounded.
Here belongs what is measured. What it means in words is :mod:`quantum_lab.findings`'s; tables are :mod:`quantum_lab.tables`'.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from quantum_core.kernels.columns import REGIMES, Bools, Floats
from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.profiles.profile import Profile
from quantum_lab.backtest import BacktestError, Plan, backtest
from quantum_lab.bands import band_multiples
from quantum_lab.candles import CandleHistory
from quantum_lab.coverage import Coverage, coverage
from quantum_lab.entries import entry_rule
from quantum_lab.findings import limitations_of, summary_of
from quantum_lab.regimes import (
    brier,
    outcomes,
    persistence,
    rank_correlation,
    sign_flipped,
    variance_ratios,
)
from quantum_lab.states import States, states_of
from quantum_lab.volatility import (
    EWMA_LAMBDA,
    HAR_WINDOWS,
    GarchFit,
    NotInstalledError,
    Refits,
    ahead,
    diebold_mariano,
    ewma_variance,
    garch_fits,
    garch_variance,
    har_variance,
    mincer_zarnowitz,
    qlike,
)

SCHEMA = 1
LEVELS = (0.05, 0.01)  # shares of moves that should leave the band, both sides together
TRAIN_SHARE = 0.3  # of the returns of a file, before the first forecast that is fitted
REFIT_SHARE = 0.2  # of them, between two fits
TRAIN_MIN = 300  # returns
JUDGED_MIN = 100  # forecasts below which no loss is given
YEAR_MIN = 1000  # candles of a calendar year below which it has no row of its own
NULL_SEED = 20  # of the signs of the series without direction
NULL_CANDLES = 10_000  # of a file, from its beginning, whose signs are those of a coin: some hundred runs of each regime
DIGITS = 6  # significant, of every number: what differs behind them is rounding of another processor
LIBRARIES = ("numpy", "scipy", "polars", "arch")
SPANS = ("one step", "horizon")
HOLD_HORIZONS = 4  # after which a position of the standard grid is closed
STOP_FIGURES = (  # of the backtest
    *("trades", "expectancy_R", "before_costs_R", "win_rate", "profit_factor", "max_drawdown_R", "stop_out_rate"),
    *("stopped_then_new_extreme", "median_risk_pct", "at_stop_floor", "at_target_floor", "actions"),
)

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Sample:
    """Candles to be judged on.

    Attributes
    ----------
    name
        How it is shown: of a file, its name.
    history
        The candles.
    sha256
        Of the file, or of each; empty where there is none.
    """

    name: str
    history: CandleHistory
    sha256: tuple[str, ...] = ()


def evidence(
    samples: Sequence[Sample],
    profiles: Sequence[Profile],
    *,
    horizon_sec: float,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure profiles on candles.

    Parameters
    ----------
    samples
        Candles, each judged for itself; at least one.
    profiles
        Which; at least one. Parameters of single symbols count for their symbol.
    horizon_sec
        How far ahead, s, beside one step: a whole number of candles of every sample, at least 2.
    cache
        Folder in which market states are kept between calls.
    progress
        Called with what is done next.

    Returns
    -------
    dict
        ``content``, and ``sha256`` of it as :func:`canonical` writes it. Equal inputs and libraries give equal bytes.

    Raises
    ------
    ValueError
        The horizon is no whole number of candles of a sample, or nothing was given.
    """
    if not samples or not profiles:
        msg = f"{len(samples)} samples and {len(profiles)} profiles: at least one of each is needed"
        raise ValueError(msg)
    horizons = [horizon_candles(one.history, horizon_sec) for one in samples]
    results = []
    for sample, horizon in zip(samples, horizons, strict=True):
        if progress is not None:
            progress(f"{sample.name}: forecasts of EWMA, GARCH and HAR")
        rivals = Rivals.of(sample.history.returns, horizon)
        for profile in profiles:
            if progress is not None:
                progress(f"{sample.name}: {profile.name}")
            results.append(_judged(sample, profile, rivals, cache))
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "horizon_sec": horizon_sec,
        "method": {
            "levels": LEVELS,
            "ewma_lambda": EWMA_LAMBDA,
            "har_windows": HAR_WINDOWS,
            "train_share": TRAIN_SHARE,
            "refit_share": REFIT_SHARE,
            "hold_horizons": HOLD_HORIZONS,
            "null_seed": NULL_SEED,
            "null_candles": NULL_CANDLES,
        },
        "versions": versions(),
        "samples": [_described(one, horizon) for one, horizon in zip(samples, horizons, strict=True)],
        "profiles": [_profile(one) for one in profiles],
        "results": results,
    }
    content = rounded(content)
    content["summary"] = {one.name: summary_of(content, one.name) for one in profiles}
    content["limitations"] = limitations_of(content)
    return {"content": content, "sha256": sha256_of(content)}


def horizon_candles(history: CandleHistory, horizon_sec: float) -> int:
    """Give the horizon in candles.

    Raises
    ------
    ValueError
        It is no whole number of them, or less than two.
    """
    candles = horizon_sec / history.interval_sec
    if candles < 2 or not math.isclose(candles, round(candles)):
        msg = f"a horizon of {horizon_sec:g} s is {candles:g} candles of {history.symbol}: accepted are whole numbers from 2"
        raise ValueError(msg)
    return round(candles)


def canonical(content: Mapping[str, Any]) -> str:
    """Write content so that equal content gives equal bytes: sorted keys, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(content: Mapping[str, Any]) -> str:
    """Give the hash a document carries."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def rounded(value: Any) -> Any:
    """Give a value as JSON has it: floats with DIGITS digits, none for NaN, dataclasses and tuples as what they hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: rounded(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def versions() -> dict[str, str]:
    """Name what computes; a library that is not installed is named as such."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True, eq=False)
class Rivals:
    """What sigma is compared with, on one sample: forecasts by span and name, what was realised, and why one is missing."""

    returns: Floats
    horizon: int
    forecasts: Mapping[str, Mapping[str, Floats]]
    missing: Mapping[str, str]

    @classmethod
    def of(cls, returns: Floats, horizon: int) -> Rivals:
        """Compute them."""
        known = int(np.isfinite(returns).sum())
        refits = Refits(max(TRAIN_MIN, round(TRAIN_SHARE * known)), max(1, round(REFIT_SHARE * known)))
        ewma = ewma_variance(returns)
        forecasts: dict[str, dict[str, Floats]] = {"one step": {"ewma": ewma}, "horizon": {"ewma": horizon * ewma}}
        missing: dict[str, str] = {}
        fits: tuple[GarchFit, ...] = ()
        try:
            fits = garch_fits(returns, refits)
        except NotInstalledError as error:
            missing["garch"] = str(error)
        for span, steps in zip(SPANS, (1, horizon), strict=True):
            if fits:
                forecasts[span]["garch"] = garch_variance(returns, fits, steps)
            forecasts[span]["har"] = har_variance(returns, refits, steps)
        return cls(returns, horizon, forecasts, missing)

    def steps(self, span: str) -> int:
        """Give the candles of a span."""
        return 1 if span == "one step" else self.horizon


def _judged(sample: Sample, profile: Profile, rivals: Rivals, cache: Path | None) -> dict[str, Any]:
    history = sample.history
    theta = profile.theta(MarketStateTheta, history.symbol)
    states = states_of(history, theta, required=profile.candles_required, cache=cache)
    return {
        "sample": sample.name,
        "profile": profile.name,
        "states": int(states.has_state.sum()),
        "forecasts": {span: _forecasts(states.sigma, rivals, span) for span in SPANS},
        "coverage": _coverages(sample, states, theta, rivals),
        "regime": _regime(sample, states, theta, rivals.horizon, cache),
        "stops": stops_and_harvest(history, profile, rivals.horizon * history.interval_sec, cache),
    }


def _forecasts(sigma: Floats, rivals: Rivals, span: str) -> dict[str, Any]:
    """Compare the forecasts of a span on the candles that all of them have."""
    steps = rivals.steps(span)
    realised = ahead(rivals.returns**2, steps)
    every = {"sigma": steps * sigma**2, **rivals.forecasts[span]}
    missing = dict(rivals.missing)
    judged = np.isfinite(realised)
    for name, forecast in list(every.items()):
        if np.count_nonzero(judged & np.isfinite(forecast)) < JUDGED_MIN:
            missing[name] = f"less than {JUDGED_MIN} forecasts: too few candles"
            del every[name]
    rows = judged & np.all([np.isfinite(one) for one in every.values()], axis=0) if every else judged & False
    if np.count_nonzero(rows) < JUDGED_MIN or "sigma" not in every:
        return {"windows": 0, "models": {}, "missing": missing}
    lags = None if steps == 1 else 2 * steps  # windows that overlap share returns
    losses = {name: qlike(forecast[rows], realised[rows]) for name, forecast in every.items()}
    models = {
        name: {
            "qlike": float(loss.mean()),
            "against_ewma": None if name == "ewma" else diebold_mariano(loss, losses["ewma"], lags),
            "mincer_zarnowitz": mincer_zarnowitz(every[name][rows], realised[rows], lags),
        }
        for name, loss in losses.items()
    }
    return {"windows": int(np.count_nonzero(rows)), "models": models, "missing": missing}


def _coverages(sample: Sample, states: States, theta: MarketStateTheta, rivals: Rivals) -> list[dict[str, Any]]:
    found = []
    years = _years(sample.history)
    for span in SPANS:
        steps = rivals.steps(span)
        moves = ahead(sample.history.returns, steps)
        for level in LEVELS:
            multiple = band_multiples(sample.history.close, theta, level, steps)
            limits = multiple * math.sqrt(steps) * states.sigma
            known = np.isfinite(moves) & np.isfinite(limits)
            beyond = np.abs(moves) > limits
            by_year = {
                year: {"windows": int(np.count_nonzero(rows & known)), "share": float(beyond[rows & known].mean())}
                for year, rows in years.items()
                if np.count_nonzero(rows & known) >= YEAR_MIN
            }
            sigmas = float(np.median(multiple[known])) if known.any() else math.nan
            whole: Coverage = coverage(moves, limits, level, steps)
            found.append({"span": span, "sigmas": sigmas, "by_year": by_year, **rounded(whole)})
    return found


def _years(history: CandleHistory) -> dict[str, Bools]:
    years = history.open_time_ms.astype("datetime64[ms]").astype("datetime64[Y]")
    return {str(year): years == year for year in np.unique(years)}


def _regime(sample: Sample, states: States, theta: MarketStateTheta, horizon: int, cache: Path | None) -> dict[str, Any]:
    regime = theta.regime
    probabilities = np.stack([states.p_trend, states.p_mr, states.p_chop], axis=1)
    _, z = variance_ratios(sample.history.returns, regime.window, max(2, regime.vr_k))
    size = np.abs(ahead(sample.history.returns, horizon))
    apart = theta.candles_required + max(regime.window, horizon)
    return {
        "names": REGIMES,
        "persistence": persistence(states.regime),
        "without_direction": persistence(_without_direction(sample, theta, cache).regime),
        "brier": brier(probabilities, outcomes(z), apart=apart),
        "trend_and_size": rank_correlation(states.p_trend, size, apart=apart),
        "trend_and_size_in_sigmas": rank_correlation(states.p_trend, size / states.sigma, apart=apart),
    }


def _without_direction(sample: Sample, theta: MarketStateTheta, cache: Path | None) -> States:
    """Compute the states of the same candles with returns whose signs are those of a coin."""
    history = sample.history.slice(0, NULL_CANDLES)
    steps = np.diff(np.log(history.close), prepend=np.log(history.close[0]))
    close = history.close[0] * np.exp(np.cumsum(sign_flipped(steps, np.random.default_rng(NULL_SEED))))
    flipped = dataclasses.replace(history, open=close, high=close, low=close, close=close)
    return states_of(flipped, theta, cache=cache)


def stops_and_harvest(history: CandleHistory, profile: Profile, horizon_sec: float, cache: Path | None) -> dict[str, Any] | None:
    """Backtest the standard grid: a long and a short position each horizon, closed after HOLD_HORIZONS of them at the latest.

    Returns
    -------
    dict or None
        STOP_FIGURES of :func:`quantum_lab.outcome.summary_of` and ``nulls``: mean R of each, the difference of the profile to it,
        its interval and p-value. ``None`` where no entry has a place in the candles.
    """
    plan = Plan([profile], entry_rule(f"every:{horizon_sec:.0f}s"), hold_max_sec=HOLD_HORIZONS * horizon_sec, seed=NULL_SEED)
    try:
        summary = backtest([history], plan, cache=cache).results[0].summary
    except BacktestError:
        return None
    return {name: summary.get(name) for name in (*STOP_FIGURES, "nulls")}


def _described(sample: Sample, horizon: int) -> dict[str, Any]:
    history = sample.history
    return {
        "name": sample.name,
        "symbol": history.symbol,
        "interval_sec": history.interval_sec,
        "horizon_candles": horizon,
        "candles": len(history),
        "first": _moment(int(history.open_time_ms[0])),
        "last": _moment(int(history.open_time_ms[-1])),
        "missing": int(history.missing.sum()),
        "left_out": dict(history.left_out),
        "notes": history.notes,
        "digest": history.digest,
        "sha256": sample.sha256,
    }


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "version": profile.version,
        "fingerprint": profile.fingerprint,
        "candle_interval_sec": profile.candle_interval_sec,
        "tail": profile.theta(MarketStateTheta).vol.tail,
    }


def _moment(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
