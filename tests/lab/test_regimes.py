"""What regimes are worth is measured so that chance is called chance, and a known truth is found."""

import numpy as np
import pytest
from arch.unitroot import VarianceRatio

from quantum_core.kernels.columns import REGIMES
from quantum_lab.regimes import (
    accuracy,
    brier,
    outcomes,
    persistence,
    rank_correlation,
    sign_flipped,
    variance_ratios,
)


def named(text: str) -> np.ndarray:
    """A series of regimes: t, m, c, and - for none."""
    return np.array([{"t": "trend", "m": "mr", "c": "chop", "-": None}[one] for one in text], dtype=object)


def test_shares_dwell_and_transitions_are_those_counted_by_hand() -> None:
    """A candle without a state ends a run and is no transition."""
    found = persistence(named("ttcc-cmttt"))
    assert found.shares == pytest.approx((5 / 9, 1 / 9, 3 / 9))
    assert found.dwell == pytest.approx((2.5, 1.0, 1.5))
    assert found.dwell_independent == pytest.approx((9 / 4, 9 / 8, 3 / 2))
    np.testing.assert_allclose(found.transitions, [[3 / 4, 0, 1 / 4], [1, 0, 0], [0, 1 / 2, 1 / 2]])
    assert np.isnan(persistence(named("--")).shares).all()
    assert np.isnan(persistence(named("cc")).transitions[0]).all()


def test_regimes_drawn_anew_last_as_long_as_they_should() -> None:
    """1 / (1 - share): within 5 % at 20,000 candles."""
    drawn = np.random.default_rng(1).choice(np.array(REGIMES, dtype=object), 20_000, p=[0.2, 0.3, 0.5])
    found = persistence(drawn)
    np.testing.assert_allclose(found.dwell, found.dwell_independent, rtol=0.05)


def test_signs_of_a_coin_keep_sizes_and_no_direction() -> None:
    """A trend has none left; sizes and their order stay."""
    returns = np.full(2000, 0.001)
    returns[5] = np.nan
    flipped = sign_flipped(returns, np.random.default_rng(2))
    np.testing.assert_array_equal(np.abs(flipped), returns)
    assert abs(np.nanmean(flipped)) < 1e-4


@pytest.mark.parametrize("k", [2, 5])
def test_variance_ratios_are_those_of_arch(k: int) -> None:
    """Lo and MacKinlay (1988): overlapping, unbiased, robust."""
    returns = np.random.default_rng(3).standard_t(5, 400)
    ratio, z = variance_ratios(returns, 256, k)
    for row in (0, 57, 143):
        theirs = VarianceRatio(np.concatenate([[0.0], np.cumsum(returns[row + 1 : row + 257])]), lags=k, trend="c")
        np.testing.assert_allclose((ratio[row], z[row]), (theirs.vr, theirs.stat), rtol=1e-9)
    assert np.isnan(ratio[144:]).all()
    assert np.isnan(variance_ratios(np.zeros(300), 256, k)[1]).all()


def test_outcomes_are_the_truth_on_generated_series() -> None:
    """Nothing on white noise in 95 % of windows, a trend on momentum, reversion on an oscillation."""
    rng = np.random.default_rng(4)
    noise = rng.standard_normal(20_000)
    for strength, column in ((0.0, 2), (0.35, 0), (-0.35, 1)):
        returns = noise.copy()
        for row in range(1, len(returns)):
            returns[row] += strength * returns[row - 1]
        outcome = outcomes(variance_ratios(returns, 256, 5)[1])
        shares = np.nanmean(outcome, axis=0)
        assert shares[column] > (0.9 if column == 2 else 0.95), strength
        assert np.isnan(outcome[-256:]).all()
        assert np.nansum(outcome, axis=1)[0] == 1


def test_a_perfect_forecast_a_useless_one_and_the_base_rate() -> None:
    """0 and skill 1; a wrong one up to 2; quoting the base rate has skill 0."""
    outcome = np.eye(3)[np.random.default_rng(5).integers(0, 3, 3000)]
    perfect, wrong = brier(outcome, outcome, apart=10), brier(np.roll(outcome, 1, axis=1), outcome, apart=10)
    assert (perfect.score, perfect.skill) == (0, 1)
    assert perfect.p < 0.004  # 298 shifts that count
    assert (wrong.score, wrong.p) == (2, 1)
    quoted = brier(np.tile(outcome.mean(axis=0), (3000, 1)), outcome, apart=10)
    assert quoted.skill == pytest.approx(0, abs=1e-12)
    assert quoted.p == 1


def smooth(rng: np.random.Generator, n: int, window: int) -> np.ndarray:
    """A series as autocorrelated as anything that comes from overlapping windows."""
    return np.convolve(rng.standard_normal(n + window), np.ones(window) / np.sqrt(window), "valid")[:n]


@pytest.mark.slow
def test_chance_is_called_chance_though_windows_overlap() -> None:
    """Unrelated series of windows of 100: at 5 % rejected about one time in twenty, and not half the time as by independent rows."""
    rng = np.random.default_rng(6)
    ranks, scores = [], []
    for _ in range(300):
        first, second = smooth(rng, 20_000, 100), smooth(rng, 20_000, 100)
        ranks.append(rank_correlation(first, second, apart=200).p < 0.05)
        chance = 1 / (1 + np.exp(-first))
        outcome = np.stack([second > 0.5, second < -0.5, np.abs(second) <= 0.5], axis=1).astype(float)
        scores.append(brier(np.stack([chance, (1 - chance) / 2, (1 - chance) / 2], axis=1), outcome, apart=200).p < 0.05)
    for rejected in (ranks, scores):
        assert abs(np.mean(rejected) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 300)


def test_a_series_that_predicts_is_found() -> None:
    """A rank correlation of some .3 among the same overlapping windows."""
    rng = np.random.default_rng(7)
    later = smooth(rng, 20_000, 100)
    found = rank_correlation(0.5 * later + smooth(rng, 20_000, 100), later, apart=200)
    assert found.rho > 0.3
    assert found.p < 0.02  # 98 shifts that count


def test_a_shift_is_what_it_says() -> None:
    """The sum over all shifts by hand."""
    rng = np.random.default_rng(8)
    first, second = rng.standard_normal(50), rng.standard_normal(50)
    ranked = [np.argsort(np.argsort(one)) - 24.5 for one in (first, second)]
    all_shifts = np.array([abs(ranked[0] @ np.roll(ranked[1], shift)) for shift in range(50)])
    as_good = np.mean(all_shifts[5:46] >= all_shifts[0] - 1e-9)
    expected = (1 + as_good * 41 / 5) / (1 + 41 / 5)  # 41 shifts, of which those 5 apart count
    assert rank_correlation(first, second, apart=5).p == pytest.approx(expected)


def test_too_few_windows_are_no_verdict() -> None:
    """NaN, and not a p-value of nothing."""
    few = np.arange(10.0)
    assert np.isnan(rank_correlation(few, few, apart=6).p)
    assert np.isnan(rank_correlation(few[:2], few[:2], apart=1).rho)
    assert np.isnan(rank_correlation(few, np.ones(10), apart=1).rho)
    assert np.isnan(brier(np.full((5, 3), np.nan), np.ones((5, 3)), apart=1).score)


def test_accuracy_is_balanced_over_what_was_true() -> None:
    """Naming everything chop is right half the time here, and knows nothing."""
    found = accuracy(named("cccc-c"), named("cctmcc"))
    assert found.share == 0.6
    assert found.balanced == pytest.approx(1 / 3)
    assert found.recall == {"chop": 1.0, "mr": 0.0, "trend": 0.0}
