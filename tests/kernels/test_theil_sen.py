"""The fast Theil-Sen slope is the exact one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from scipy.stats import theilslopes

from quantum_assets.kernels.theil_sen import theil_sen


def brute_force(row):
    i, j = np.triu_indices(len(row), 1)
    return np.median((row[j] - row[i]) / (j - i))


@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 40)), elements=st.integers(-3, 3)))
def test_ties_on_a_tick_grid_are_exact(y):
    """Prices move in ticks: equal slopes come in thousands, and a bit of difference would move the median."""
    assert_array_equal(theil_sen(y), [brute_force(row) for row in y])


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 33)), elements=st.floats(-1e6, 1e6, width=32)))
def test_any_series_gives_the_median_of_all_pairwise_slopes(y):
    """Odd and even numbers of points and of slopes take different ways through the circle."""
    assert_array_equal(theil_sen(y), [brute_force(row) for row in y])


def test_many_symbols_give_what_scipy_gives_one_by_one():
    """More rows than one block holds, in the windows of the live kernel."""
    y = np.cumsum(np.random.default_rng(5).normal(0, 0.001, (40, 256)), axis=1)
    for window in (64, 128, 256):
        assert_array_equal(theil_sen(y[:, -window:]), [theilslopes(row[-window:])[0] for row in y])


def test_a_row_does_not_depend_on_the_rows_beside_it():
    """A symbol computed alone must equal itself in a batch, to the bit: proofs recompute single symbols."""
    y = np.random.default_rng(6).normal(size=(30, 101))
    assert_array_equal(theil_sen(y), np.concatenate([theil_sen(y[[i]]) for i in range(30)]))


@pytest.mark.parametrize("shape", [(5,), (3, 1)])
def test_a_series_without_pairs_is_refused(shape):
    """One point has no slope; a silent NaN would travel far."""
    with pytest.raises(ValueError, match=r"y has shape"):
        theil_sen(np.zeros(shape))
