"""Forecasts of variance and how they are compared: EWMA, GARCH(1,1), HAR; QLIKE, Mincer-Zarnowitz, Diebold-Mariano.

Every forecast stands at the candle after which it could have been made: row t uses returns up to t and is of the returns after t.
What the product forecasts comes from its own kernel and stays out; so do files and words.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from quantum_core.kernels.columns import Floats

EWMA_LAMBDA = 0.94  # RiskMetrics 1996
EWMA_SEED = 10  # returns whose mean square starts the recursion
HAR_WINDOWS = (12, 60, 264)  # candles: the 1 : 5 : 22 of Corsi's days, in twelves, so that noise of a single candle is averaged
TINY = 1e-300  # smallest variance; below it a logarithm ends


class NotInstalledError(RuntimeError):
    """A forecast needs the extra `lab`; the text says how to install it."""


@dataclass(frozen=True)
class Refits:
    """When parameters of a forecast are estimated: on the first ``train`` returns, then on all so far after each ``every``."""

    train: int
    every: int

    def spans(self, n: int) -> Iterator[tuple[int, slice]]:
        """Give of each fit how many returns it has seen, and the rows that are forecast with it, all of them later."""
        for start in range(self.train, n, self.every):
            yield start, slice(start, min(start + self.every, n))


@dataclass(frozen=True)
class Regression:
    """Mincer-Zarnowitz: realised = intercept + slope * forecast; an unbiased forecast has 0 and 1.

    Attributes
    ----------
    intercept, slope
        Estimates, the intercept in units of variance.
    intercept_error, slope_error
        Their standard errors, robust to heteroscedasticity and autocorrelation.
    r_squared
        Share of the variation explained.
    p_unbiased
        p-value of the joint hypothesis that the intercept is 0 and the slope 1 (Wald, chi-squared with 2 degrees of freedom).
    """

    intercept: float
    slope: float
    intercept_error: float
    slope_error: float
    r_squared: float
    p_unbiased: float


@dataclass(frozen=True)
class Comparison:
    """Diebold-Mariano: mean difference of two losses (below 0: the first is smaller), its statistic and two-sided p-value."""

    mean_difference: float
    statistic: float
    p: float


def ahead(values: Floats, n: int) -> Floats:
    """Sum the ``n`` values after each row.

    Parameters
    ----------
    values : float64 array, shape (n_rows,)
        NaN where unknown.
    n : int
        Values per sum, >= 1.

    Returns
    -------
    float64 array, shape (n_rows,)
        Row t: the sum of rows t + 1 to t + n; NaN where one of them is NaN or not there yet.
    """
    sums = np.full(len(values), np.nan)
    if len(values) > n:
        sums[:-n] = sliding_window_view(values[1:], n).sum(axis=1)
    return sums


def ewma_variance(returns: Floats, decay: float = EWMA_LAMBDA) -> Floats:
    """Forecast the variance of the next return by exponential weights.

    Parameters
    ----------
    returns : float64 array, shape (n,)
        Log returns, NaN where there is none (before the first candle, after a gap).
    decay : float
        Weight of the variance before, in (0, 1).

    Returns
    -------
    float64 array, shape (n,)
        Row t: variance of return t + 1; NaN where return t is NaN and for the first EWMA_SEED returns.

    References
    ----------
    J.P. Morgan/Reuters (1996), RiskMetrics Technical Document, 4th ed., chapter 5.
    """
    x, out = _known(returns)
    if len(x) > EWMA_SEED:
        start = float(np.mean(x[:EWMA_SEED] ** 2))
        out[np.flatnonzero(np.isfinite(returns))[EWMA_SEED:]] = _recursion((1 - decay) * x[EWMA_SEED:] ** 2, decay, start)
    return out


@dataclass(frozen=True)
class GarchFit:
    """Parameters of GARCH(1,1), mean zero, and the known returns forecast with them: all later than those it was fitted on.

    Attributes
    ----------
    rows
        Which, counted among the returns that are known.
    omega, alpha, beta
        v[t + 1] = omega + alpha r[t]^2 + beta v[t]; omega in units of the returns squared.
    start
        Variance before the first return.
    """

    rows: slice
    omega: float
    alpha: float
    beta: float
    start: float


def garch_fits(returns: Floats, refits: Refits) -> tuple[GarchFit, ...]:
    """Estimate GARCH(1,1) by Gaussian quasi-maximum likelihood, anew as often as asked for.

    Parameters
    ----------
    returns : float64 array, shape (n,)
        Log returns, NaN where there is none.
    refits : Refits
        When the parameters are estimated, in known returns.

    Raises
    ------
    NotInstalledError
        Without the extra `lab`.

    References
    ----------
    Bollerslev, T. (1986), Generalized autoregressive conditional heteroskedasticity. J. of Econometrics 31, 307-327.
    """
    if importlib.util.find_spec("arch") is None:
        msg = "GARCH(1,1) needs the package arch, which is not installed (`make lab`)"
        raise NotInstalledError(msg)
    x, _ = _known(returns)
    return tuple(GarchFit(rows, *garch_fit(x[:seen]), float(np.mean(x[:seen] ** 2))) for seen, rows in refits.spans(len(x)))


def garch_fit(returns: Floats) -> tuple[float, float, float]:
    """Estimate omega, alpha and beta by the package arch; omega in the units of the returns squared."""
    from arch.univariate import GARCH, ZeroMean

    scale = float(np.std(returns)) or 1.0  # the optimiser wants variances near 1
    fitted = ZeroMean(returns / scale, volatility=GARCH(p=1, q=1), rescale=False).fit(disp="off", show_warning=False)
    omega, alpha, beta = (float(one) for one in fitted.params)
    return omega * scale**2, alpha, beta


def garch_variance(returns: Floats, fits: Sequence[GarchFit], horizon: int = 1) -> Floats:
    """Forecast the variance of the next returns by GARCH(1,1).

    Parameters
    ----------
    returns : float64 array, shape (n,)
        Log returns, NaN where there is none.
    fits : sequence of GarchFit
        From :func:`garch_fits` of the same returns.
    horizon : int
        Candles ahead, >= 1.

    Returns
    -------
    float64 array, shape (n,)
        Row t: variance of the sum of returns t + 1 to t + horizon; NaN before the first fit.
    """
    x, out = _known(returns)
    forecast = np.full(len(x), np.nan)
    for fit in fits:
        next_variance = _recursion(fit.omega + fit.alpha * x[: fit.rows.stop] ** 2, fit.beta, fit.start)[fit.rows]
        forecast[fit.rows] = garch_sum(next_variance, fit.omega, fit.alpha + fit.beta, horizon)
    out[np.isfinite(returns)] = forecast
    return out


def garch_sum(next_variance: Floats, omega: float, persistence: float, horizon: int) -> Floats:
    """Add up the variances GARCH expects of the next ``horizon`` returns, given that of the next one."""
    if persistence >= 1 - 1e-9:  # integrated: variances grow by omega
        return horizon * next_variance + omega * horizon * (horizon - 1) / 2
    long_run = omega / (1 - persistence)
    return horizon * long_run + (next_variance - long_run) * (1 - persistence**horizon) / (1 - persistence)


def har_variance(returns: Floats, refits: Refits, horizon: int = 1, windows: Sequence[int] = HAR_WINDOWS) -> Floats:
    """Forecast the variance of the next returns from mean squared returns over windows of several lengths, by least squares.

    Parameters
    ----------
    returns : float64 array, shape (n,)
        Log returns, NaN where there is none.
    refits : Refits
        When the weights are estimated, in known returns.
    horizon : int
        Candles ahead, >= 1; weights are those of the horizon itself.
    windows : sequence of int
        Candles of each window.

    Returns
    -------
    float64 array, shape (n,)
        Row t: variance of the sum of returns t + 1 to t + horizon; NaN before the first fit and the longest window. Never below
        the calmest longest window before the fit.

    References
    ----------
    Corsi, F. (2009), A simple approximate long-memory model of realized volatility. J. of Financial Econometrics 7, 174-196.
    """
    x, out = _known(returns)
    longest = max(windows)
    if len(x) <= longest + horizon:
        return out
    squares = x**2
    means = np.stack([np.concatenate([np.full(w - 1, np.nan), sliding_window_view(squares, w).mean(axis=1)]) for w in windows])
    regressors = np.stack([np.ones(len(x)), *means], axis=1)
    # A target must not reach over a gap: it is taken from the whole series, then to the rows that have a return.
    target = ahead(returns**2, horizon)[np.isfinite(returns)]
    forecast = np.full(len(x), np.nan)
    for seen, rows in refits.spans(len(x)):
        past = slice(0, max(seen - horizon, 0))  # later targets are not over yet
        learnt = np.flatnonzero(np.isfinite(target[past]) & np.isfinite(means[:, past]).all(axis=0))
        if len(learnt) > len(windows) + 1:
            unit = float(squares[:seen].mean()) or 1.0
            weights, *_ = np.linalg.lstsq(regressors[learnt] / [1, *[unit] * len(windows)], target[learnt] / unit, rcond=None)
            floor = horizon * float(means[-1, longest - 1 : seen].min())
            forecast[rows] = np.maximum(regressors[rows] / [1, *[unit] * len(windows)] @ weights * unit, floor)
    out[np.isfinite(returns)] = forecast
    return out


def qlike(forecast: Floats, realised: Floats) -> Floats:
    """Give the quasi-likelihood loss of each forecast of a variance: log h + x / h.

    Parameters
    ----------
    forecast, realised : float64 arrays of one shape
        Variances > 0, and what they were: >= 0, any unbiased proxy.

    Returns
    -------
    float64 array
        Smaller is better; differences rank forecasts correctly also with a noisy proxy. It has no scale of its own.

    References
    ----------
    Patton, A. J. (2011), Volatility forecast comparison using imperfect volatility proxies. J. of Econometrics 160, 246-256.
    """
    h = np.maximum(forecast, TINY)
    loss: Floats = np.log(h) + realised / h
    return loss


def mincer_zarnowitz(forecast: Floats, realised: Floats, lags: int | None = None) -> Regression:
    """Regress what was realised on its forecast.

    Parameters
    ----------
    forecast, realised : float64 arrays, shape (n,)
        Finite; n >= 8.
    lags : int, optional
        Autocovariances in the errors; default :func:`newey_west_lags`.

    Raises
    ------
    ValueError
        Too few rows, or a forecast that never changes.

    References
    ----------
    Mincer, J. and Zarnowitz, V. (1969), The evaluation of economic forecasts. NBER. Newey, W. and West, K. (1987), A simple,
    positive semi-definite, heteroskedasticity and autocorrelation consistent covariance matrix. Econometrica 55, 703-708.
    """
    from scipy.stats import chi2

    n = len(forecast)
    unit = float(np.mean(realised)) if n else 0.0  # variances of minutes are some 1e-7: without a unit nothing is conditioned
    if n < 8 or np.ptp(forecast) == 0 or unit <= 0:
        msg = f"{n} forecasts that differ by {np.ptp(forecast) if n else 0:g}: nothing to regress"
        raise ValueError(msg)
    x, y = np.stack([np.ones(n), forecast / unit], axis=1), realised / unit
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    residual = y - x @ beta
    covariance = inverse @ long_run_covariance(x * residual[:, None], lags) @ inverse * n
    away = beta - [0, 1]
    p = float(chi2.sf(away @ np.linalg.solve(covariance, away), 2))
    errors = np.sqrt(np.diag(covariance))
    r_squared = 1 - float(residual @ residual) / float(((y - y.mean()) ** 2).sum())
    return Regression(beta[0] * unit, beta[1], errors[0] * unit, errors[1], r_squared, p)


def diebold_mariano(loss: Floats, other: Floats, lags: int | None = None) -> Comparison:
    """Compare two series of losses of the same candles.

    Parameters
    ----------
    loss, other : float64 arrays, shape (n,)
        Finite; n >= 2.
    lags : int, optional
        Autocovariances of the difference that count; default :func:`newey_west_lags`.

    References
    ----------
    Diebold, F. X. and Mariano, R. S. (1995), Comparing predictive accuracy. J. of Business & Economic Statistics 13, 253-263.
    """
    from scipy.stats import norm

    difference = loss - other
    mean = float(difference.mean())
    error = float(np.sqrt(long_run_covariance((difference - mean)[:, None], lags)[0, 0] / len(difference)))
    if error == 0:  # the same forecast twice
        return Comparison(mean, 0.0, 1.0)
    return Comparison(mean, mean / error, 2 * float(norm.sf(abs(mean / error))))


def newey_west_lags(n: int) -> int:
    """Choose the number of autocovariances for ``n`` rows: 4 (n / 100)^(2/9), rounded down (Newey and West 1994)."""
    return int(4 * (n / 100) ** (2 / 9))


def long_run_covariance(moments: Floats, lags: int | None = None) -> Floats:
    """Estimate the covariance of sqrt(n) times the mean of moments, shape (n, k), of mean zero; Bartlett weights."""
    n = len(moments)
    lags = newey_west_lags(n) if lags is None else lags
    total: Floats = moments.T @ moments / n
    for lag in range(1, min(lags, n - 1) + 1):
        cross = moments[lag:].T @ moments[:-lag] / n
        total = total + (1 - lag / (lags + 1)) * (cross + cross.T)
    return total


def _known(returns: Floats) -> tuple[Floats, Floats]:
    """Give the returns there are, and a column of NaN to be filled at their rows."""
    return returns[np.isfinite(returns)], np.full(len(returns), np.nan)


def _recursion(news: Floats, decay: float, start: float) -> Floats:
    """Compute v[t] = news[t] + decay v[t - 1], with v[-1] = start."""
    from scipy.signal import lfilter

    filtered: npt.NDArray[np.float64] = lfilter([1.0], [1.0, -decay], news, zi=np.array([decay * start]))[0]
    return filtered
