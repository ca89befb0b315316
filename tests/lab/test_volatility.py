"""Forecasts of variance and their tests agree with the packages arch and statsmodels, and never look ahead."""

import numpy as np
import pytest
import statsmodels.api as sm
from arch.univariate import GARCH, ZeroMean

from quantum_lab.volatility import (
    HAR_WINDOWS,
    NotInstalledError,
    Refits,
    ahead,
    diebold_mariano,
    ewma_variance,
    garch_fit,
    garch_fits,
    garch_variance,
    har_variance,
    mincer_zarnowitz,
    newey_west_lags,
    qlike,
)

REFITS = Refits(1000, 500)
SCALE = 5e-4  # of one-minute returns


def garch_path(n: int, seed: int, omega: float = 0.05, alpha: float = 0.08, beta: float = 0.87, df: float = 0) -> tuple:
    """Returns of a GARCH(1,1), and their true variances; normal, or Student-t of variance 1."""
    rng = np.random.default_rng(seed)
    shocks = rng.standard_normal(n) if not df else rng.standard_t(df, n) * np.sqrt((df - 2) / df)
    variance, returns = np.empty(n), np.empty(n)
    last = omega / (1 - alpha - beta)
    for row in range(n):
        variance[row] = last
        returns[row] = np.sqrt(last) * shocks[row]
        last = omega + alpha * returns[row] ** 2 + beta * last
    return SCALE * returns, SCALE**2 * variance


def forecasts(returns: np.ndarray) -> dict[str, np.ndarray]:
    fits = garch_fits(returns, REFITS)
    return {
        "ewma": ewma_variance(returns),
        "garch": garch_variance(returns, fits),
        "garch, 20 ahead": garch_variance(returns, fits, 20),
        "har": har_variance(returns, REFITS),
        "har, 20 ahead": har_variance(returns, REFITS, 20),
    }


def test_another_future_changes_no_forecast() -> None:
    """What is known at candle 2,200 decides the forecast made there, also of parameters that are fitted anew."""
    returns, _ = garch_path(3000, 1)
    other = returns.copy()
    other[2201:] = 10 * returns[2201:][::-1]
    of_other = forecasts(other)
    for name, forecast in forecasts(returns).items():
        np.testing.assert_array_equal(of_other[name][:2201], forecast[:2201], err_msg=name)
        assert np.isfinite(forecast[1500:2201]).all(), name


@pytest.mark.parametrize("horizon", [1, 20])
def test_garch_forecasts_are_those_of_arch(horizon: int) -> None:
    """The parameters of arch, filtered and summed over the horizon by arch itself."""
    returns, _ = garch_path(1500, 2)
    model = ZeroMean(returns[:1000] / SCALE, volatility=GARCH(), rescale=False)
    params = model.fit(disp="off").params.to_numpy()
    whole = ZeroMean(returns / SCALE, volatility=GARCH(), rescale=False).fix(params)
    theirs = whole.forecast(horizon=horizon, start=1400, reindex=False).variance.sum(axis=1).to_numpy() * SCALE**2
    ours = garch_variance(returns, garch_fits(returns, Refits(1000, 10_000)), horizon)[1400:]
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)  # the start of the recursion and the scale of the fit differ a little


def test_garch_finds_the_parameters_it_was_made_of() -> None:
    """20,000 returns: errors of the estimates are some .01."""
    returns, _ = garch_path(20_000, 3)
    omega, alpha, beta = garch_fit(returns)
    assert omega / SCALE**2 == pytest.approx(0.05, abs=0.02)
    assert (alpha, beta) == (pytest.approx(0.08, abs=0.015), pytest.approx(0.87, abs=0.03))


def test_the_true_model_has_the_smallest_loss() -> None:
    """On a GARCH path GARCH is better than EWMA and HAR, and nothing is better than the truth."""
    returns, variance = garch_path(12_000, 4)
    realised = ahead(returns**2, 1)
    truth = np.append(variance[1:], np.nan)
    rows = slice(2000, -1)
    refits = Refits(2000, 5000)
    models = {
        "ewma": ewma_variance(returns),
        "garch": garch_variance(returns, garch_fits(returns, refits)),
        "har": har_variance(returns, refits),
    }
    loss = {name: qlike(one[rows], realised[rows]) for name, one in {**models, "truth": truth}.items()}
    assert min(loss, key=lambda name: loss[name].mean()) == "truth"
    for other in ("ewma", "har"):
        compared = diebold_mariano(loss["garch"], loss[other])
        assert compared.mean_difference < 0
        assert compared.p < 0.05
    regression = mincer_zarnowitz(truth[rows], realised[rows])
    assert regression.p_unbiased > 0.01
    assert abs(regression.slope - 1) < 3 * regression.slope_error


def test_ewma_is_its_recursion() -> None:
    """The variance is .94 v + .06 r^2 after ten returns; over a gap the variance stays, and at the gap there is none."""
    returns, _ = garch_path(40, 5)
    returns[0], returns[20] = np.nan, np.nan
    expected, v = np.full(40, np.nan), np.mean(returns[1:11] ** 2)
    for row in range(11, 40):
        if row != 20:
            v = 0.94 * v + 0.06 * returns[row] ** 2
            expected[row] = v
    np.testing.assert_allclose(ewma_variance(returns), expected, rtol=1e-12)


@pytest.mark.parametrize("horizon", [1, 20])
def test_har_is_the_least_squares_of_statsmodels(horizon: int) -> None:
    """Target, windows and weights written out."""
    returns, _ = garch_path(1600, 6)
    squares = returns**2
    means = [np.convolve(squares, np.ones(w) / w)[: len(squares)] for w in HAR_WINDOWS]
    x = sm.add_constant(np.stack(means, axis=1) / SCALE**2)
    target = np.array([squares[t + 1 : t + 1 + horizon].sum() for t in range(1600)]) / SCALE**2
    learnt = slice(max(HAR_WINDOWS) - 1, 1000 - horizon)
    fitted = sm.OLS(target[learnt], x[learnt]).fit()
    ours = har_variance(returns, Refits(1000, 10_000), horizon)
    floor = horizon * means[-1][max(HAR_WINDOWS) - 1 : 1000].min()
    np.testing.assert_allclose(ours[1000:], np.maximum(fitted.predict(x[1000:]) * SCALE**2, floor), rtol=1e-6)


def test_sums_ahead_leave_the_present_out_and_stop_at_gaps() -> None:
    """Row t has the n values after t."""
    values = np.array([1.0, 2.0, 4.0, 8.0, np.nan, 16.0, 32.0, 64.0])
    np.testing.assert_array_equal(ahead(values, 2), [6, 12, np.nan, np.nan, 48, 96, np.nan, np.nan])
    assert np.isnan(ahead(values, 8)).all()


def test_robust_errors_are_those_of_statsmodels() -> None:
    """Newey-West with Bartlett weights, and the Wald test of intercept 0 and slope 1."""
    returns, variance = garch_path(3000, 7)
    realised, forecast = returns[1:] ** 2, variance[1:]
    lags = newey_west_lags(len(realised))
    fitted = sm.OLS(realised, sm.add_constant(forecast)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    ours = mincer_zarnowitz(forecast, realised)
    np.testing.assert_allclose((ours.intercept, ours.slope), fitted.params, rtol=1e-8)
    np.testing.assert_allclose((ours.intercept_error, ours.slope_error), fitted.bse, rtol=1e-6)
    assert ours.r_squared == pytest.approx(fitted.rsquared, rel=1e-8)
    wald = fitted.wald_test((np.eye(2), np.array([0.0, 1.0])), use_f=False, scalar=True)
    assert ours.p_unbiased == pytest.approx(float(wald.pvalue), rel=1e-6)


def test_diebold_mariano_is_a_regression_on_a_constant() -> None:
    """Its statistic is the t-value of the mean difference with the same robust errors."""
    rng = np.random.default_rng(8)
    first, second = rng.chisquare(1, 500), rng.chisquare(1, 500) + 0.1
    fitted = sm.OLS(first - second, np.ones(500)).fit(cov_type="HAC", cov_kwds={"maxlags": 12, "use_correction": False})
    ours = diebold_mariano(first, second, 12)
    np.testing.assert_allclose((ours.statistic, ours.p), (fitted.tvalues[0], fitted.pvalues[0]), rtol=1e-8)
    assert diebold_mariano(first, first).p == 1


def test_equal_forecasts_are_rejected_as_often_as_they_should_be() -> None:
    """Two forecasts with independent errors of one size: one series in twenty at 5 %, within 3 standard errors and some bias."""
    rng = np.random.default_rng(9)
    rejected = []
    for _ in range(400):
        truth = rng.chisquare(1, 1000)
        first, second = (qlike(np.exp(0.3 * rng.standard_normal(1000)), truth) for _ in range(2))
        rejected.append(diebold_mariano(first, second).p < 0.05)
    assert abs(np.mean(rejected) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 400) + 0.01


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the evidence stands without it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(NotInstalledError, match="make lab"):
        garch_fits(np.zeros(1000), REFITS)


def test_a_constant_forecast_is_no_regression() -> None:
    """Said, and not an infinite slope."""
    with pytest.raises(ValueError, match="nothing to regress"):
        mincer_zarnowitz(np.ones(100), np.arange(100.0))
