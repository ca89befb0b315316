"""Market state: robust, bounded, and deaf to bad neighbours."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from quantum_core.kernels.market import synthetic
from quantum_core.kernels.market.market_state import (
    NO_STATE_REASONS,
    STATE_COLUMNS,
    MarketStateTheta,
    closes_matrix,
    huber_slope,
    market_state,
    ols_slope,
)


def walks(n_symbols, width=300, seed=0, scale=0.001):
    steps = np.random.default_rng(seed).normal(0, scale, (n_symbols, width))
    return 100 * np.exp(np.cumsum(steps, axis=1))


def table(state):
    return np.stack([getattr(state, name) for name in STATE_COLUMNS])


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-5, 0.2))
@settings(max_examples=40, deadline=None)
def test_probabilities_are_a_distribution_and_sigma_keeps_its_floor(seed, scale):
    """Consumers weigh by these probabilities; a sum other than 1 would scale every stop."""
    state = market_state(walks(4, seed=seed, scale=scale))
    probabilities = np.stack([state.p_trend, state.p_mr, state.p_chop])
    # Three quotients of one sum: each is rounded once.
    assert_allclose(probabilities.sum(axis=0), 1, rtol=0, atol=1e-15)
    assert np.all((probabilities >= 0) & (probabilities <= 1))
    assert np.all(state.sigma >= 1e-6)
    assert np.all((state.dp >= 0) & (state.dp <= 1))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [(np.nan, "price_nan"), (np.inf, "price_infinite"), (0.0, "price_zero"), (-1.0, "price_negative")],
)
def test_a_bad_price_silences_its_own_symbol_only(bad, reason):
    """One broken feed must not move a bit of another symbol's state."""
    closes = walks(7)
    clean = market_state(np.delete(closes, 3, axis=0))
    closes[3, 120] = bad
    state = market_state(closes)
    assert state.reason == (None, None, None, reason, None, None, None)
    assert reason in NO_STATE_REASONS
    assert np.isnan(table(state)[:, 3]).all()
    assert_array_equal(np.delete(table(state), 3, axis=1), table(clean))


def test_a_symbol_in_a_batch_is_the_symbol_alone():
    """The proofs recompute one symbol and compare it with what the whole cycle published."""
    for method in ("theil_sen", "huber", "ols"):
        theta = MarketStateTheta().override({"trend": {"method": method}})
        closes = walks(23, seed=4)
        alone = [table(market_state(closes[[i]], theta=theta)) for i in range(len(closes))]
        assert_array_equal(table(market_state(closes, theta=theta)), np.concatenate(alone, axis=1))


def test_too_few_candles_give_no_state_and_padding_is_never_read():
    """256 closes are not 257, and what stands left of a short series is nobody's price."""
    long, short = walks(2)
    closes, counts = closes_matrix([long, short[:256], short[-257:]])
    state = market_state(closes, counts)
    assert state.reason == (None, "too_few_candles", None)
    closes[2, : 300 - 257] = -1.0
    assert_array_equal(table(market_state(closes, counts)), table(state))


def test_nothing_at_all_is_an_empty_state():
    """A cycle without symbols is no error."""
    closes, counts = closes_matrix([])
    assert market_state(closes, counts).reason == ()


def test_the_weighted_sum_is_the_ewma_recursion():
    """Written out as one sum it must still be the recursion of the specification."""
    closes = walks(1, seed=9)
    theta = MarketStateTheta().override({"vol": {"winsor_q_low": 0.0, "winsor_q_high": 1.0}})
    r = np.diff(np.log(closes[0] + theta.eps))[-256:]
    v = r[:10].var()
    for x in r:
        v = 0.94 * v + 0.06 * x * x
    sigma_ewma = np.sqrt(v)
    mad = 1.4826 * np.median(np.abs(r - np.median(r)))
    b = 1 / (1 + np.exp(-(mad / (sigma_ewma + theta.eps) - 1.2) / 0.3))
    # 256 roundings against pairwise summation.
    assert_allclose(market_state(closes, theta=theta).sigma, (1 - b) * sigma_ewma + b * mad, rtol=1e-13)


def test_huber_leaves_the_quadratic_zone_where_it_should():
    """A tenth of wild points drags least squares off and leaves the M-estimate near the true slope."""
    rng = np.random.default_rng(2)
    y = 0.01 * np.arange(256) + rng.normal(0, 0.01, (5, 256))
    y[:, -25:] -= 1.0
    assert np.all(np.abs(ols_slope(y) - 0.01) > 1e-3)
    # The standard error of a slope over 256 points with noise .01 is 8e-6; contamination adds a bias of its order.
    assert np.all(np.abs(huber_slope(y, 1e-12) - 0.01) < 3e-4)


def test_huber_solves_its_normal_equations():
    """At the estimate the clipped residuals are orthogonal to level and slope: that is what an M-estimate means."""
    y = np.random.default_rng(3).standard_t(2, (6, 128)).cumsum(axis=1) / 100
    slope = huber_slope(y, 1e-12)
    x = np.arange(128) - 63.5
    for row, b in zip(y, slope, strict=True):
        level = np.median(row - b * x)
        for _ in range(500):
            residual = row - level - b * x
            scale = 1.4826 * np.median(np.abs(residual - np.median(residual)))
            psi = np.clip(residual / scale, -1.345, 1.345)
            level += scale * psi.mean()
        # The row stops when its line moves by less than 1e-10 scales; psi sums 128 points times |x| up to 64.
        assert abs((psi * x).sum()) < 1e-5


def test_a_constant_price_is_flat_by_every_method():
    """A halted market has sigma at its floor and no drift, not a division by zero."""
    for method in ("theil_sen", "huber", "ols"):
        state = market_state(np.full((2, 300), 5.0), theta=MarketStateTheta().override({"trend": {"method": method}}))
        # Least squares rounds a sum of 256 equal logs.
        assert_allclose(state.mu, 0, rtol=0, atol=1e-17)
        assert state.sigma.tolist() == [1e-6, 1e-6]


@pytest.mark.parametrize("seed", range(8))
def test_synthetic_paths_have_the_character_they_are_named_after(seed):
    """The regime replay proof stands on these three directions."""
    paths = [make(300, seed=seed) for make in (synthetic.trend, synthetic.mean_revert, synthetic.chop)]
    state = market_state(np.stack(paths))
    assert state.regime[0] == "trend"
    assert state.p_mr[1] > max(state.p_mr[0], state.p_mr[2])
    assert state.regime[2] == "chop"


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT", "SOLUSDT"])
def test_a_synthetic_symbol_continues_its_own_path(symbol):
    """A restart, or the next candle, must not tear the history apart, also where one leg ends."""
    last = 3 * synthetic.LEG_CANDLES + 5
    before, after = synthetic.synthetic_closes(symbol, 300, last), synthetic.synthetic_closes(symbol, 310, last + 10)
    assert_array_equal(after[:300], before)
    assert np.abs(np.diff(np.log(after))).max() < 10 * synthetic.NOISE
    with pytest.raises(ValueError, match="up to last_index"):
        synthetic.synthetic_closes(symbol, 5, 3)


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ({"volatility": {}}, "volatility"),
        ({"vol": {"windows": 3}}, "vol.windows"),
        ({"vol": {"window": "256"}}, "vol.window"),
        ({"vol": {"window": 256.0}}, "vol.window"),
        ({"vol": {"window": True}}, "vol.window"),
        ({"vol": {"ewma_lambda": 1.5}}, "vol.ewma_lambda"),
        ({"vol": {"ewma_lambda": float("nan")}}, "vol.ewma_lambda"),
        ({"vol": {"winsor_q_low": 0.9, "winsor_q_high": 0.1}}, "vol.winsor_q_low"),
        ({"vol": 5}, "vol"),
        ({"trend": {"method": "median"}}, "trend.method"),
        ({"trend": {"windows": [64, 0, 256]}}, r"trend.windows\[1\]"),
        ({"trend": {"windows": []}}, "trend.windows"),
        ({"trend": {"windows": [64]}}, "trend.weights"),
        ({"regime": {"score": {"d1": 1.0}}}, "regime.score.d1"),
        ({"regime": {"vr_k": 300}}, "regime.vr_k"),
    ],
)
def test_a_wrong_override_is_refused_with_its_path(override, path):
    """A misspelt parameter that is silently ignored would be believed to work."""
    with pytest.raises(ValueError, match=f"theta {path} is"):
        MarketStateTheta().override(override)


def test_an_override_changes_what_it_names_and_nothing_else():
    """A deep merge: siblings keep their defaults, an int passes for a float."""
    theta = MarketStateTheta().override({"regime": {"score": {"a1": 2}}, "trend": {"windows": [300, 64, 32]}})
    assert (theta.regime.score.a1, theta.regime.score.a2, theta.trend.windows) == (2.0, 1.0, (300, 64, 32))
    assert theta.candles_required == 301
    default = MarketStateTheta()
    assert dataclasses.replace(theta, regime=default.regime, trend=default.trend) == default


@pytest.mark.parametrize(
    ("closes", "counts"),
    [(np.ones(300), None), (np.ones((2, 300)), np.array([300])), (np.ones((1, 300)), np.array([301]))],
)
def test_a_misshapen_input_is_refused(closes, counts):
    """Shape errors are the caller's, not a symbol's."""
    with pytest.raises(ValueError, match=r"expected"):
        market_state(closes, counts)
