"""Market state: robust volatility, drift, trend strength and regime probabilities from close prices.

Here belongs the market-state formula and the named reasons for which a symbol gets no state. Tails beyond sigma are
``tails.py``, regimes by significance ``significance.py``. Reading candles, judging their age and publishing the result stay out.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.columns import Bools, Floats, Labels, across, most_probable, regime_softmax
from quantum_core.kernels.market.significance import significance_scores
from quantum_core.kernels.market.tails import EWMA_SEED_RETURNS, TAIL_KINDS, tail_move, winsorised
from quantum_core.kernels.market.theil_sen import theil_sen
from quantum_core.kernels.theta import Theta, ThetaError, parameter

MAD_TO_SIGMA = 1.4826  # standard deviation of a normal variable over its median absolute deviation
HUBER_K = 1.345  # tuning constant with 95 % efficiency under normal errors (Huber 1981)
HUBER_MAX_ITERATIONS = 200  # IRLS contracts linearly; a row that needs more moves by less than its tolerance
HUBER_TOLERANCE = 1e-10  # change of the fitted line over the window, in residual scales, at which a row is done

STATE_COLUMNS = ("sigma", "mu", "ts", "p_trend", "p_mr", "p_chop", "dp", "vr", "spike_proxy")  # a number in every state
COMPUTED = (*STATE_COLUMNS, "tail_move")
NO_STATE_REASONS = ("too_few_candles", "price_nan", "price_infinite", "price_zero", "price_negative")


@dataclasses.dataclass(frozen=True)
class VolTheta(Theta):
    """Volatility parameters."""

    window: int = parameter(256, "returns used", low=EWMA_SEED_RETURNS + 1, high=100_000)
    winsor_q_low: float = parameter(0.01, "returns below this quantile are moved to it", low=0, high=1)
    winsor_q_high: float = parameter(0.99, "returns above this quantile are moved to it", low=0, high=1)
    ewma_lambda: float = parameter(0.94, "weight of the previous variance (RiskMetrics 1996)", low=0, high=1)
    sigma_floor: float = parameter(1e-6, "smallest sigma, log return", low=0)
    spike_proxy_cap: float = parameter(5.0, "largest spike proxy", low=0)
    spike_center: float = parameter(1.2, "spike proxy at which both estimators weigh the same")
    spike_scale: float = parameter(0.3, "width of the blend between the estimators", low=1e-6)
    tail: str = parameter("none", "what the tail move is made of", choices=TAIL_KINDS, added=True)
    tail_exceedance: float = parameter(
        0.05, "probability that a move is beyond the tail move, up or down", low=1e-6, high=1, added=True
    )
    tail_horizon: int = parameter(1, "candles of the tail move", low=1, high=100_000, added=True)
    tail_df: float = parameter(5.0, "degrees of freedom of student_t", low=2.01, high=1e6, added=True)
    tail_scale: float = parameter(1.0, "factor of the tail move", low=1e-6, high=1e6, added=True)
    step_df: float = parameter(5.0, "degrees of freedom of student_t one candle ahead", low=2.01, high=1e6, added=True)
    step_scale: float = parameter(1.0, "factor of sigma one candle ahead, where there is a tail", low=1e-6, high=1e6, added=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in self.per_row("winsor_q_low", "winsor_q_high"):
            if low > high:
                raise ThetaError(path="winsor_q_low", seen=low, accepted=f"at most winsor_q_high {high}")


@dataclasses.dataclass(frozen=True)
class TrendTheta(Theta):
    """Drift parameters."""

    windows: tuple[int, ...] = parameter((64, 128, 256), "log prices per slope", low=2, high=100_000)
    weights: tuple[float, ...] = parameter((0.5, 0.3, 0.2), "weight per slope, normalised to 1", low=0)
    method: str = parameter("theil_sen", "slope estimator", choices=("theil_sen", "huber", "ols"))
    horizon: int = parameter(1, "candles over which drift is compared with sigma", low=1, high=100_000, added=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for windows, weights in self.per_row("windows", "weights"):
            if len(weights) != len(windows) or sum(weights) <= 0:
                accepted = f"{len(windows)} weights (one per window) with a sum > 0"
                raise ThetaError(path="weights", seen=weights, accepted=accepted)


@dataclasses.dataclass(frozen=True)
class ScoreTheta(Theta):
    """Weights of the regime scores."""

    a1: float = parameter(1.0, "trend: trend strength")
    a2: float = parameter(1.0, "trend: directional persistence")
    a3: float = parameter(1.0, "trend: distance of the variance ratio from 1")
    b1: float = parameter(1.0, "mr: distance of the variance ratio from 1")
    b2: float = parameter(1.0, "mr: trend strength")
    b3: float = parameter(1.0, "mr: directional persistence")
    c1: float = parameter(1.0, "chop: lack of persistence")
    c2: float = parameter(1.0, "chop: lack of trend strength")
    c3: float = parameter(1.0, "chop: distance of the variance ratio from 1")


@dataclasses.dataclass(frozen=True)
class RegimeTheta(Theta):
    """Regime parameters."""

    window: int = parameter(256, "returns used", low=2, high=100_000)
    vr_k: int = parameter(5, "returns per sum of the variance ratio (Lo and MacKinlay 1988)", low=1, high=100_000)
    softmax_temp: float = parameter(1.0, "temperature of the regime probabilities", low=1e-6)
    score: ScoreTheta = ScoreTheta()
    measure: str = parameter("scale", "what the scores are made of", choices=("scale", "significance"), added=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for vr_k, window in self.per_row("vr_k", "window"):
            if vr_k >= window:
                raise ThetaError(path="vr_k", seen=vr_k, accepted=f"less than window {window}")


@dataclasses.dataclass(frozen=True)
class MarketStateTheta(Theta):
    """Parameters of the market-state kernel, defaults of docs/spec.md#2-market-state-kernel-p0."""

    eps: float = parameter(1e-12, "added where a zero would divide; to a price below 1 as a share", low=1e-300, high=1e-3)
    vol: VolTheta = VolTheta()
    trend: TrendTheta = TrendTheta()
    regime: RegimeTheta = RegimeTheta()

    @property
    def candles_required(self) -> int:
        """Closes without which there is no state: the longest window (of columns, of all rows) and one more."""
        longest = [int(np.max(window)) for window in (self.vol.window, self.regime.window)]
        longest += [int(window) for (windows,) in self.trend.per_row("windows") for window in windows]
        return max(longest) + 1

    def alike(self, n_rows: int) -> list[tuple[npt.NDArray[np.intp], "MarketStateTheta"]]:
        """Split rows into those that share eps, windows, quantiles and methods, with their parameters: one group, as a rule."""
        shapes = (
            (self, ("eps",)),
            (self.vol, ("window", "winsor_q_low", "winsor_q_high", "tail")),
            (self.trend, ("windows", "weights", "method")),
            (self.regime, ("window", "vr_k", "measure")),
        )
        every = np.arange(n_rows)
        keys = [list(theta.per_row(*names)) for theta, names in shapes]
        if all(len(each) == 1 for each in keys):
            return [(every, self)]
        rows_by_key: dict[Any, list[int]] = {}
        for row in range(n_rows):
            rows_by_key.setdefault(tuple(each[row if len(each) > 1 else 0] for each in keys), []).append(row)
        return [(rows, self.take(rows)) for rows in map(np.array, rows_by_key.values())]


@dataclasses.dataclass(frozen=True)
class MarketState:
    """Market state per symbol; every number of a row without a state is NaN and its reason is named."""

    sigma: Floats  # robust volatility per candle, log return, >= sigma_floor
    mu: Floats  # robust drift per candle, log return
    ts: Floats  # trend strength |mu| / sigma, >= 0, times the root of the horizon
    p_trend: Floats  # probabilities, in [0, 1], of sum 1
    p_mr: Floats
    p_chop: Floats
    dp: Floats  # directional persistence, in [0, 1]
    vr: Floats  # variance ratio, >= 0
    spike_proxy: Floats  # in [0, spike_proxy_cap]
    tail_move: Floats  # log return over the tail's horizon, >= 0; NaN without a tail
    reason: tuple[str | None, ...]  # None where there is a state, else one of NO_STATE_REASONS

    @property
    def has_state(self) -> Bools:
        """Rows that carry a state, shape (n_symbols,)."""
        return np.array([reason is None for reason in self.reason], dtype=bool)

    @property
    def regime(self) -> Labels:
        """Most probable regime per row, lower case; meaningless where there is no state."""
        return most_probable(self.p_trend, self.p_mr, self.p_chop)


def closes_matrix(series: Sequence[npt.ArrayLike]) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Align close series of unequal length on the right, one per row.

    Parameters
    ----------
    series : sequence of 1-d arrays
        Close prices per symbol, oldest first.

    Returns
    -------
    closes : float64 array, shape (n_symbols, longest)
        Newest close in the last column, NaN on the left where a series is shorter.
    counts : int array, shape (n_symbols,)
        Closes per symbol.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in series]
    counts = np.array([len(row) for row in rows], dtype=np.intp)
    closes = np.full((len(rows), max(counts, default=0)), np.nan)
    for padded, row in zip(closes, rows, strict=True):
        padded[closes.shape[1] - len(row) :] = row
    return closes, counts


def market_state(
    closes: Floats,
    counts: npt.NDArray[np.intp] | None = None,
    theta: MarketStateTheta = MarketStateTheta(),
) -> MarketState:
    """Compute the market state of many symbols.

    Parameters
    ----------
    closes : float64 array, shape (n_symbols, width)
        Close prices up to and including time t, oldest first, right aligned.
    counts : int array, shape (n_symbols,), optional
        Valid closes per row; cells left of the last `counts` are padding and never read. Default: all of them.
    theta : MarketStateTheta
        Parameters, each a scalar or of shape (n_symbols,).

    Returns
    -------
    MarketState
        Columns of shape (n_symbols,), of time t. A row with fewer than `theta.candles_required` closes, or with any
        close that is NaN, infinite, zero or negative, is NaN with a named reason; it does not change a bit of the
        other rows.

    Raises
    ------
    ValueError
        If `closes` is not a matrix, or `counts` does not fit it.

    References
    ----------
    docs/spec.md#2-market-state-kernel-p0
    """
    if closes.ndim != 2:
        message = f"closes has shape {closes.shape}: expected (n_symbols, width)"
        raise ValueError(message)
    n_symbols, width = closes.shape
    if counts is None:
        counts = np.full(n_symbols, width)
    if counts.shape != (n_symbols,) or np.any((counts < 0) | (counts > width)):
        message = f"counts is {counts}: expected {n_symbols} integers from 0 to {width}"
        raise ValueError(message)

    columns = np.full((len(COMPUTED), n_symbols), np.nan)
    reason: Labels = np.full(n_symbols, None, dtype=object)
    for rows, of_rows in theta.alike(n_symbols):
        required = of_rows.candles_required
        reason[rows] = _no_state_reasons(closes[rows], counts[rows], required)
        well = np.array([why is None for why in reason[rows]], dtype=bool)
        if well.any():
            used, theta_used = closes[rows[well], -required:], of_rows.take(well)
            columns[:, rows[well]] = _states(log_prices(used, theta_used.eps), theta_used)
    return MarketState(**dict(zip(COMPUTED, columns, strict=True)), reason=tuple(reason))


def log_prices(closes: Floats, eps: float) -> Floats:
    """Give the logarithms that returns are taken of; below a price of 1 `eps` is a share of it: its unit must not matter."""
    logarithms: Floats = np.log(closes + eps * np.minimum(1.0, closes))
    return logarithms


def _no_state_reasons(closes: Floats, counts: npt.NDArray[np.intp], required: int) -> tuple[str | None, ...]:
    given = np.arange(closes.shape[1]) >= closes.shape[1] - counts[:, None]
    troubles = [
        counts < required,
        *(np.any(given & bad, axis=1) for bad in (np.isnan(closes), np.isinf(closes), closes == 0, closes < 0)),
    ]
    return tuple(None if why == "none" else str(why) for why in np.select(troubles, NO_STATE_REASONS, default="none"))


def _states(log_price: Floats, theta: MarketStateTheta) -> Floats:
    returns = np.diff(log_price, axis=1)
    w = returns[:, -theta.vol.window :]
    sigma, spike_proxy = volatility(w, theta.vol, theta.eps)
    mu = _drift(log_price, theta.trend, theta.eps)
    ts = np.abs(mu) * np.sqrt(theta.trend.horizon) / (sigma + theta.eps)
    tail = np.full_like(sigma, np.nan) if theta.vol.tail == "none" else tail_move(w, sigma, theta.vol, eps=theta.eps)

    k, score = theta.regime.vr_k, theta.regime.score
    r = returns[:, -theta.regime.window :]
    sign = np.sign(r)
    dp = (sign[:, 1:] == sign[:, :-1]).mean(axis=1)
    rolling_sum = sum((r[:, i : r.shape[1] - k + 1 + i] for i in range(1, k)), start=r[:, : r.shape[1] - k + 1])
    vr = rolling_sum.var(axis=1) / (k * r.var(axis=1) + theta.eps)
    if theta.regime.measure == "significance":
        scores = significance_scores(r, mu, dp, theta)
    else:
        off_walk = np.abs(vr - 1)
        s_trend = score.a1 * ts + score.a2 * dp - score.a3 * off_walk
        s_mr = score.b1 * off_walk - score.b2 * ts - score.b3 * np.abs(dp)
        s_chop = score.c1 * (1 - np.abs(dp)) + score.c2 * (1 - np.minimum(ts, 1)) - score.c3 * off_walk
        scores = (s_trend, s_mr, s_chop)
    p_trend, p_mr, p_chop = regime_softmax(scores, theta.regime.softmax_temp)
    return np.stack([sigma, mu, ts, p_trend, p_mr, p_chop, dp, vr, spike_proxy, tail])


def volatility(w: Floats, theta: VolTheta, eps: float) -> tuple[Floats, Floats]:
    """Give sigma and the spike proxy of each row of returns, shape (n_symbols, vol.window), oldest first."""
    from scipy.special import expit  # commands need the parameters, and no scipy

    rw = winsorised(w, theta)

    # The recursion v = lambda v + (1 - lambda) x^2 written out as the weighted sum it is.
    decay = across(theta.ewma_lambda) ** np.arange(rw.shape[1] - 1, -1, -1)
    seed = theta.ewma_lambda ** rw.shape[1] * rw[:, :EWMA_SEED_RETURNS].var(axis=1)
    sigma_ewma = np.sqrt(seed + (across(1 - theta.ewma_lambda) * decay * rw**2).sum(axis=1))
    sigma_mad = MAD_TO_SIGMA * np.median(np.abs(rw - np.median(rw, axis=1, keepdims=True)), axis=1)

    spike_proxy = np.clip(sigma_mad / (sigma_ewma + eps), 0, theta.spike_proxy_cap)
    b = expit((spike_proxy - theta.spike_center) / theta.spike_scale)
    return np.maximum(theta.sigma_floor, (1 - b) * sigma_ewma + b * sigma_mad), spike_proxy


def _drift(log_price: Floats, theta: TrendTheta, eps: float) -> Floats:
    slope: Callable[[Floats], Floats] = {
        "theil_sen": theil_sen,
        "huber": lambda y: huber_slope(y, eps),
        "ols": ols_slope,
    }[theta.method]
    weights = np.array(theta.weights) / sum(theta.weights)
    mu = np.zeros(len(log_price))
    for window, weight in zip(theta.windows, weights, strict=True):
        mu += weight * slope(log_price[:, -window:])
    return mu


def ols_slope(y: Floats) -> Floats:
    """Least-squares slope of each row of `y`, shape (n_symbols, n), against x = 0, ..., n-1."""
    x = np.arange(y.shape[1]) - (y.shape[1] - 1) / 2
    slope: Floats = (x * y).sum(axis=1) / (x * x).sum()
    return slope


def huber_slope(y: Floats, scale_min: float) -> Floats:
    """Huber M-estimate of the slope of each row, by iteratively reweighted least squares.

    Parameters
    ----------
    y : float64 array, shape (n_symbols, n)
        One finite series per row, n >= 2.
    scale_min : float
        Smallest residual scale, unit of `y`: a row whose residuals are all zero stays where it is.

    Returns
    -------
    float64 array, shape (n_symbols,)
        Slope per step. The residual scale is 1.4826 times their median absolute deviation, renewed at each step, so
        that the linear zone is really entered. A row stops by its own tolerance, whatever the others do.

    References
    ----------
    Huber, P. J. (1981), Robust Statistics, chapter 7.
    """
    x = np.arange(y.shape[1]) - (y.shape[1] - 1) / 2
    slope = ols_slope(y)
    level = y.mean(axis=1)
    active = np.arange(len(y))
    for _ in range(HUBER_MAX_ITERATIONS):
        rows = y[active]
        residual = rows - level[active, None] - slope[active, None] * x
        mad = np.median(np.abs(residual - np.median(residual, axis=1, keepdims=True)), axis=1)
        scale = np.maximum(MAD_TO_SIGMA * mad, scale_min)[:, None]
        weight = HUBER_K * scale / np.maximum(np.abs(residual), HUBER_K * scale)
        total = weight.sum(axis=1)
        x_mean = (weight * x).sum(axis=1) / total
        y_mean = (weight * rows).sum(axis=1) / total
        x_off = x - x_mean[:, None]
        new_slope = (weight * x_off * rows).sum(axis=1) / (weight * x_off * x_off).sum(axis=1)
        new_level = y_mean - new_slope * x_mean
        moved = np.abs(new_slope - slope[active]) * y.shape[1] + np.abs(new_level - level[active])
        slope[active], level[active] = new_slope, new_level
        active = active[moved > HUBER_TOLERANCE * scale[:, 0]]
        if not active.size:
            break
    return slope
