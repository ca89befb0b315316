"""The fast Theil-Sen slope is the exact one."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from quantum_core.kernels.market import theil_sen as kernel
from quantum_core.kernels.market.theil_sen import theil_sen

# Rows as short and as few as hypothesis makes them go through the search too.
always_search = patch.multiple(kernel, FEW_POINTS=7, FEW_ROWS=1)
never_search = patch.multiple(kernel, FEW_POINTS=10**6)


def brute_force(y):
    i, j = np.triu_indices(y.shape[1], 1)
    return np.array([np.median((row[j] - row[i]) / (j - i)) for row in y]) + 0.0


def assert_exact(y):
    """Equal to brute force in every bit, whichever way it is found."""
    expected = brute_force(y).tobytes()
    assert theil_sen(y).tobytes() == expected
    with always_search:
        assert theil_sen(y).tobytes() == expected
    with never_search:
        assert theil_sen(y).tobytes() == expected


@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 40)), elements=st.integers(-3, 3)))
def test_ties_on_a_tick_grid_are_exact(y):
    """Prices move in ticks: equal slopes come in thousands, and a bit of difference would move the median."""
    assert_exact(y)


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 33)), elements=st.floats(-1e6, 1e6, width=32)))
def test_any_series_gives_the_median_of_all_pairwise_slopes(y):
    """Odd and even numbers of points and of slopes take different ways through the circle."""
    assert_exact(y)


RNG = np.random.default_rng(3)
WALK = np.cumsum(RNG.normal(0, 0.001, (40, 256)), axis=1)
SERIES = {
    "random walks": WALK,
    "log prices on a grid of 2 basis points": np.log(np.round(np.exp(WALK) * 5000) / 5000),
    "log prices on a grid of 10 basis points": np.log(np.round(np.exp(WALK) * 1000) / 1000),
    "prices that rarely move": np.cumsum(RNG.normal(0, 0.001, WALK.shape) * (RNG.random(WALK.shape) < 0.1), axis=1),
    "constant prices": np.full(WALK.shape, 4.2),
    "an exact line": np.outer(RNG.integers(-9, 9, 40), np.arange(256.0)),
    "a line in floating point": np.outer(RNG.normal(size=40), np.arange(256)) + 11.1,
    "two prices in turn": np.resize([1.1, 1.2], WALK.shape),
    "a single jump": np.where(np.arange(256) < RNG.integers(0, 256, (40, 1)), 7.7, 8.8),
    "half the slopes equal": np.where(np.arange(256) < 181, 1.1, WALK),
    "noise around a line": np.arange(256) * 0.001 + RNG.normal(0, 0.001, WALK.shape),
    "curves": np.sin(np.arange(256) / 20 + RNG.normal(size=(40, 1))) + RNG.normal(0, 1e-6, WALK.shape),
    "wild jumps": np.cumsum(RNG.standard_cauchy(WALK.shape), axis=1),
    "coin tosses": np.cumsum(RNG.choice([-1.0, 1.0], WALK.shape), axis=1),
    "far from zero": WALK + 1e9,
    "the last bits of a large number": 1e16 + RNG.integers(0, 9, WALK.shape),
    "huge": WALK * 1e300,
    "tiny": WALK * 1e-300,
    "below the smallest normal number": WALK * 1e-318,
    "all kinds at once": np.where(np.arange(40)[:, None] % 3, WALK * 10.0 ** np.arange(-300, 300, 15)[:, None], 5.5),
}


@pytest.mark.parametrize("y", SERIES.values(), ids=SERIES.keys())
def test_every_kind_of_series_is_exact(y):
    """Odd and even counts of slopes, one window with the search and one without, a width that fills no run."""
    for window in (64, 65, 131, 256):
        assert_exact(y[:, -window:])


def test_more_rows_than_a_block_are_exact():
    """The rows that fill whole blocks, those left over, and the constant ones among them that the search misses."""
    y = np.cumsum(np.random.default_rng(4).normal(size=(2 * kernel.BLOCK_ROWS + 5, 70)), axis=1)
    y[::7] = 0.0
    assert_exact(y)


def test_many_symbols_give_what_scipy_gives_one_by_one():
    """The windows of the live kernel."""
    from scipy.stats import theilslopes  # a second of imports, which not every test worker need pay

    for window in (64, 128, 256):
        assert_array_equal(theil_sen(WALK[:, -window:]), [theilslopes(row[-window:])[0] for row in WALK])


def test_random_walks_are_searched_and_not_partitioned():
    """If the search missed its rows the answers would stay right and only the speed would be gone."""
    y = np.cumsum(np.random.default_rng(8).normal(size=(200, 256)), axis=1)
    with patch.object(kernel, "_partition", wraps=kernel._partition) as partition:
        theil_sen(y)
    (rest,) = partition.call_args.args
    assert len(rest) < kernel.FEW_ROWS


@given(st.integers(1, 90), st.integers(0, 99))
def test_inversions_are_counted(n, seed):
    """Up to one run, several runs, and numbers of points between powers of two."""
    order = np.argsort(np.random.default_rng(seed).random((3, n)), axis=1)
    i, j = np.triu_indices(n, 1)
    assert_array_equal(kernel._inversions(order), (order[:, i] > order[:, j]).sum(axis=1))


def test_a_row_does_not_depend_on_the_rows_beside_it():
    """A symbol computed alone must equal itself in a batch, to the bit: proofs recompute single symbols."""
    y = np.random.default_rng(6).normal(size=(30, 101))
    alone = np.concatenate([theil_sen(y[[i]]) for i in range(30)])
    assert_array_equal(theil_sen(y), alone)
    y[::4] = 0.0
    y[2::4, 50] = np.nan
    assert_array_equal(theil_sen(y)[1::2], alone[1::2])


def test_no_symbols_have_no_slopes():
    """An empty universe is not an error."""
    assert theil_sen(np.empty((0, 128))).shape == (0,)


@pytest.mark.parametrize("shape", [(5,), (3, 1)])
def test_a_series_without_pairs_is_refused(shape):
    """One point has no slope; a silent NaN would travel far."""
    with pytest.raises(ValueError, match=r"y has shape"):
        theil_sen(np.zeros(shape))
