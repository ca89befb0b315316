"""Tails: the move of a profile is exceeded as often as it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from quantum_core.kernels.columns import Market
from quantum_core.kernels.market.market_state import MarketStateTheta, market_state
from quantum_core.kernels.market.tails import standardised, student_t_multiple, tail_move, tail_multiple
from quantum_core.kernels.proposals.stops import StopsTheta, stop_distance, stops
from tests.kernels.test_golden import column, published_position

EPS = MarketStateTheta().eps


def theta_of(**vol):
    return MarketStateTheta().override({"vol": vol})


def closes_of(returns):
    return 100 * np.exp(np.cumsum(returns, axis=1))


def test_student_quantiles_are_those_of_the_tables():
    """Two-sided 5 % and 1 % points of t with 5 degrees of freedom, and of the normal variable it becomes."""
    # Printed with three decimals.
    assert_allclose(student_t_multiple([0.05, 0.01], 5.0) / np.sqrt(3 / 5), [2.571, 4.032], rtol=0, atol=5e-4)
    assert_allclose(student_t_multiple([0.05, 0.01], 1e6), [1.960, 2.576], rtol=0, atol=5e-4)
    assert student_t_multiple(1.0, 5.0) == 0.0


def test_student_multiples_are_of_unit_variance():
    """A multiple of sigma, not of the scale parameter: that share of returns of standard deviation 1 lies beyond it."""
    draws = np.random.default_rng(1).standard_t(5, 400_000) * np.sqrt(3 / 5)
    # Four standard errors of a share of 5 % of 400,000.
    assert np.mean(np.abs(draws) > student_t_multiple(0.05, 5.0)) == pytest.approx(0.05, abs=4 * np.sqrt(0.0475 / 400_000))


@given(seed=st.integers(0, 2**16), exceedance=st.floats(0.005, 1), df=st.floats(2.1, 30))
@settings(max_examples=30, deadline=None)
def test_the_historical_multiple_leaves_that_share_of_the_window_beyond_it(seed, exceedance, df):
    returns = 0.001 * np.random.default_rng(seed).standard_t(df, (3, 256))
    vol = theta_of(tail="historical").vol
    moves = standardised(returns, vol, eps=EPS)
    beyond = (moves > tail_multiple(exceedance, returns, vol, eps=EPS)[:, None]).mean(axis=1)
    assert_allclose(beyond, exceedance, rtol=0, atol=1 / moves.shape[1])


def test_each_return_is_divided_by_the_sigma_known_before_it():
    """A later return must not change an earlier one: but for the quantiles of winsorising, nothing is known in advance."""
    vol = theta_of(winsor_q_low=0.0, winsor_q_high=1.0).vol
    returns = 0.001 * np.random.default_rng(2).standard_normal((2, 256))
    later = returns.copy()
    later[:, 200:] *= 7
    assert_array_equal(standardised(later, vol, eps=EPS)[:, :190], standardised(returns, vol, eps=EPS)[:, :190])
    known = returns[0, :10].var()
    for x in returns[0, :10]:
        known = 0.94 * known + 0.06 * x * x
    assert_allclose(standardised(returns, vol, eps=EPS)[0, 0], abs(returns[0, 10]) / np.sqrt(known), rtol=1e-8)  # eps over sigma


@pytest.mark.parametrize("kind", ["student_t", "historical"])
def test_several_exceedances_at_once_are_each_alone(kind):
    """The evidence asks one profile for 5 % and 1 %."""
    returns = 0.001 * np.random.default_rng(3).standard_t(4, (5, 256))
    vol, sigma = theta_of(tail=kind, tail_horizon=60, tail_scale=1.1).vol, np.linspace(0.001, 0.002, 5)
    both = tail_move(returns, sigma, vol, eps=EPS, exceedance=[[0.05], [0.01]])
    assert_array_equal(both, [tail_move(returns, sigma, vol, eps=EPS, exceedance=one) for one in (0.05, 0.01)])
    assert_array_equal(both[0], tail_move(returns, sigma, vol, eps=EPS))
    assert np.all(both[1] > both[0])
    assert_array_equal(tail_multiple(0.01, returns, theta_of().vol, eps=EPS), np.full(5, np.nan))


@pytest.mark.parametrize(("kind", "draw"), [("student_t", "t"), ("historical", "t"), ("historical", "clustered")])
def test_the_next_move_exceeds_the_tail_move_as_often_as_asked(kind, draw):
    """What the numbers are for. Sigma is the EWMA alone: the blend with MAD is of another size on fat tails (tail_scale)."""
    rng = np.random.default_rng(4)
    returns = rng.standard_t(5, (4000, 301)) * np.sqrt(3 / 5) * 0.001
    if draw == "clustered":
        returns *= np.exp(np.cumsum(rng.normal(0, 0.05, returns.shape), axis=1))
    state = market_state(closes_of(returns[:, :-1]), theta=theta_of(tail=kind, ewma_lambda=0.97, spike_center=1e3))
    share = np.mean(np.abs(returns[:, -1]) > state.tail_move)
    # Standard error .0034; an EWMA of 33 returns is itself off by a tenth, which adds a few tenths of a per cent.
    assert share == pytest.approx(0.05, abs=0.015)


def test_without_a_tail_there_is_no_move_and_a_flat_market_has_one_of_zero():
    closes = closes_of(0.001 * np.random.default_rng(5).standard_normal((2, 300)))
    assert np.isnan(market_state(closes).tail_move).all()
    flat = np.full((1, 300), 5.0)
    assert market_state(flat, theta=theta_of(tail="historical")).tail_move == 0
    assert market_state(flat, theta=theta_of(tail="student_t")).tail_move > 0  # of the floor of sigma


def test_horizon_and_scale_are_factors():
    closes = closes_of(0.001 * np.random.default_rng(6).standard_normal((3, 300)))
    for kind in ("student_t", "historical"):
        one, hour = (
            market_state(closes, theta=theta_of(tail=kind, tail_horizon=h, tail_scale=s)) for h, s in ((1, 1.0), (60, 1.5))
        )
        assert_allclose(hour.tail_move, one.tail_move * np.sqrt(60) * 1.5, rtol=1e-15)


def test_drift_over_a_horizon_is_compared_with_sigma_over_it():
    """Of a candle it is, to the bit, what is published; over h candles drift grows by h, and sigma by its root."""
    closes = closes_of(0.001 * np.random.default_rng(7).standard_normal((3, 300)))
    one, hour = (market_state(closes, theta=MarketStateTheta().override({"trend": {"horizon": h}})) for h in (1, 60))
    assert_array_equal(one.ts, np.abs(one.mu) / (one.sigma + EPS))
    assert_allclose(hour.ts, np.sqrt(60) * one.ts, rtol=1e-15)


def test_a_tail_stop_is_the_tail_move_where_there_is_one():
    """Target and trail stay; without a tail move the mixture counts, and the floor always does."""
    rows = [0.0114, 0.2454, 0.3719, 0.0758, 0.5523]
    market = Market(*(np.full(3, value) for value in rows), column(0.02, np.nan, 0.001))
    mixed, tail = stop_distance(market), stop_distance(market, StopsTheta(tail_stop=True))
    assert tail.tolist() == [0.02, mixed[1], 0.005]
    assert_array_equal(stop_distance(market, StopsTheta(tail_stop=np.array([False, True, True]))), [mixed[0], mixed[1], 0.005])
    one = market.take(np.array([0]))
    plain, wide = stops(one, published_position()), stops(one, published_position(), StopsTheta(tail_stop=True))
    assert (plain.trail_gap_pct, plain.proposed_tp) == (wide.trail_gap_pct, wide.proposed_tp)
    assert wide.stop_dist_pct == 0.02


def test_columns_without_a_tail_move_have_none():
    market = Market(*(np.full(2, value) for value in (0.01, 0.2, 0.3, 0.3, 0.4)))
    assert np.isnan(market.tail_move).all()
    assert market.take(np.array([True, False])).faults() == [None]
    with pytest.raises(ValueError, match="tail_move is -1"):
        stop_distance(Market(*(np.full(1, value) for value in (0.01, 0.2, 0.3, 0.3, 0.4)), column(-1.0)))
