"""Regimes by significance: a random walk is chop, and what no random walk shows is named."""

from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from quantum_core.kernels.market import synthetic
from quantum_core.kernels.market.market_state import MarketStateTheta, huber_slope, market_state, ols_slope
from quantum_core.kernels.market.significance import WALK_SLOPE, ols_slope_sd, persistence_z, variance_ratio_z
from quantum_core.kernels.market.theil_sen import theil_sen

SIGNIFICANCE = MarketStateTheta().override({"regime": {"measure": "significance"}})
WINDOWS, WEIGHTS = SIGNIFICANCE.trend.windows, SIGNIFICANCE.trend.weights
SLOPES = {"theil_sen": theil_sen, "huber": lambda y: huber_slope(y, 1e-12), "ols": ols_slope}


def mixed(slope, paths):
    return sum(weight * slope(paths[:, -window:]) for window, weight in zip(WINDOWS, WEIGHTS, strict=True))


def regimes(returns, theta=SIGNIFICANCE):
    return market_state(100 * np.exp(np.cumsum(returns, axis=1)), theta=theta).regime


@pytest.mark.parametrize(("windows", "weights"), [((2,), (1.0,)), ((7, 7), (1.0, 3.0)), ((5, 64, 33), (0.5, 2.0, 0.1))])
def test_the_deviation_of_a_slope_is_that_of_its_weights_of_the_steps(windows, weights):
    """Each step alone, through the slopes themselves: their weighted sum is the slope of any path."""
    steps = np.tri(max(windows), k=-1)[:, : max(windows) - 1].T  # row t rises by 1 at step t
    of_step = sum(w * ols_slope(steps[:, -n:]) for n, w in zip(windows, weights, strict=True)) / sum(weights)
    assert_allclose(ols_slope_sd(windows, weights), np.sqrt((of_step**2).sum()), rtol=1e-12)


@pytest.mark.parametrize(("method", "walks"), [("theil_sen", 2000), ("huber", 500), ("ols", 2000)])
def test_the_other_slopes_of_random_walks_deviate_as_the_constants_say(method, walks):
    """Simulated on the same walks, of which both slopes see the same: their ratio is known to two thousandths."""
    paths = np.cumsum(np.random.default_rng(8).standard_normal((walks, max(WINDOWS))), axis=1)
    ratio = mixed(SLOPES[method], paths).std() / mixed(ols_slope, paths).std()
    assert ratio == pytest.approx(WALK_SLOPE[method], abs=0.01)
    # A standard deviation of 500 draws is known to 3 %, of 2000 to 1.6 %.
    assert mixed(SLOPES[method], paths).std() == pytest.approx(WALK_SLOPE[method] * ols_slope_sd(WINDOWS, WEIGHTS), rel=0.1)


@pytest.mark.parametrize("signs", [(1, 1, 1, -1, -1, 0), (1, 1, 1, 1, 1, -1), (0, 0, 0, 0, 1, 1), (1, -1, 0, 1, -1, 0)])
def test_persistence_is_compared_with_all_orders_of_the_same_signs(signs):
    """Its mean over all of them is 0, whatever the shares of the signs, and no order is called farther off than it is."""
    orders = np.array(list(permutations(signs)), dtype=float)
    z = persistence_z(orders, (orders[:, 1:] == orders[:, :-1]).mean(axis=1), 1e-12)
    assert z.mean() == pytest.approx(0, abs=1e-12)
    assert 0 < z.std() <= 1


def test_a_window_of_one_sign_says_nothing_about_persistence():
    """A perfect trend is what drift is judged by; its signs have only one order."""
    assert persistence_z(np.ones((1, 50)), np.ones(1), 1e-12) == 0


@pytest.mark.parametrize("k", [2, 5, 30])
def test_the_variance_ratio_is_judged_as_published_where_variance_is_constant(k):
    """Lo and MacKinlay's statistic for independent returns of one variance is the limit of the robust one."""
    n = 4000
    returns = np.random.default_rng(9).standard_normal((300, n))
    sums = np.cumsum(np.pad(returns, ((0, 0), (1, 0))), axis=1)
    ratio = (sums[:, k:] - sums[:, :-k]).var(axis=1) / (k * returns.var(axis=1))
    published = (ratio - 1) / np.sqrt(2 * (2 * k - 1) * (k - 1) / (3 * k * n))
    # Of a number of deviation 1: variances are estimated, and the ratio counts the returns at both ends less often.
    assert np.sqrt(np.mean((variance_ratio_z(returns, k) - published) ** 2)) < 0.15
    assert published.std() > 0.9


def test_a_burst_of_variance_is_no_significance():
    """Of such walks the simple statistic calls a third significant at 2 standard deviations, the robust one less than a twentieth."""
    rng = np.random.default_rng(10)
    returns = rng.standard_normal((4000, 256)) * np.exp(np.cumsum(rng.normal(0, 0.2, (4000, 256)), axis=1))
    robust = variance_ratio_z(returns, 5)
    sums = np.lib.stride_tricks.sliding_window_view(returns, 5, axis=1).sum(axis=2)
    simple = (sums.var(axis=1) / (5 * returns.var(axis=1)) - 1) / np.sqrt(2 * 9 * 4 / (15 * 256))
    assert np.mean(np.abs(robust) > 2) < 0.06
    assert np.mean(np.abs(simple) > 2) > 0.25


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: rng.standard_normal(shape),
        lambda rng, shape: rng.standard_t(3, shape),
        lambda rng, shape: rng.standard_t(4, shape) * np.exp(np.cumsum(rng.normal(0, 0.1, shape), axis=1)),
        lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.5),
    ],
    ids=["normal", "fat tails", "changing variance", "half without a move"],
)
@pytest.mark.parametrize("scale", [1e-5, 1e-2])
def test_a_random_walk_is_chop_whatever_its_returns_are(draw, scale):
    """By scale every market of minutes is chop; by significance what no random walk shows is not, and random walks are."""
    found = regimes(scale * draw(np.random.default_rng(11), (1500, 300)))
    assert np.mean(found == "chop") > 0.97


@pytest.mark.parametrize("seed", range(8))
def test_synthetic_paths_are_recognised_by_significance(seed):
    paths = [make(300, seed=seed) for make in (synthetic.trend, synthetic.mean_revert, synthetic.chop)]
    assert market_state(np.stack(paths), theta=SIGNIFICANCE).regime.tolist() == ["trend", "mr", "chop"]


def test_a_weaker_trend_and_a_slower_reversion_are_found_the_more_often_the_clearer_they_are():
    rng, shape = np.random.default_rng(12), (500, 300)
    noise = rng.standard_normal(shape)
    trends = [np.mean(regimes(0.001 * (noise + drift)) == "trend") for drift in (0.0, 0.2, 0.4, 0.8)]
    reverting = []
    for keep in (0.95, 0.7, 0.4):
        level = np.zeros((shape[0], shape[1] + 1))
        for at in range(shape[1]):
            level[:, at + 1] = keep * level[:, at] + noise[:, at]
        reverting.append(np.mean(regimes(0.001 * np.diff(level, axis=1)) == "mr"))
    assert trends == sorted(trends)
    assert reverting == sorted(reverting)
    assert (trends[0], trends[-1]) == (pytest.approx(0.015, abs=0.015), pytest.approx(1, abs=0.01))
    assert reverting[-1] > 0.95


def test_nothing_that_moves_once_is_significant():
    """A halted market, a single step and a bad tick that is taken back, at every place of the window: one event is chance."""
    flat, step, tick = np.zeros((1, 299)), np.eye(299) * 0.05, np.eye(299) * 0.05 - np.eye(299, k=1) * 0.05
    for k in (2, 5, 30, 60):
        assert_array_equal(variance_ratio_z(flat, k), [0.0])
        assert np.abs(variance_ratio_z(np.concatenate([step, tick]), k)).max() < 1.05
        theta = SIGNIFICANCE.override({"regime": {"vr_k": k}})
        assert set(regimes(np.concatenate([flat, step[::7], tick[::7]]), theta)) == {"chop"}


def test_significance_leaves_the_other_columns_as_they_are():
    closes = 100 * np.exp(np.cumsum(0.001 * np.random.default_rng(13).standard_normal((3, 300)), axis=1))
    plain, other = market_state(closes), market_state(closes, theta=SIGNIFICANCE)
    for name in ("sigma", "mu", "ts", "dp", "vr", "spike_proxy"):
        assert_array_equal(getattr(other, name), getattr(plain, name))
