"""What a search owes for having looked often: published numbers, and what pure luck gives."""

import math

import numpy as np
import pytest

from quantum_lab.overfitting import (
    deflated_sharpe,
    expected_maximum,
    overfitting_probability,
    probabilistic_sharpe,
    walk_forward,
)
from quantum_lab.search import deflated_by_block


@pytest.mark.parametrize(("candidates", "published"), [(100, 0.9004), (46, 0.9505)])
def test_the_deflated_sharpe_ratio_of_its_paper(candidates, published):
    """Bailey and Lopez de Prado (2014), numerical example: 2.5 a year, 1,250 days of 250 a year, variance of candidates 1/2."""
    luckiest = expected_maximum(candidates, math.sqrt(0.5 / 250))
    found = probabilistic_sharpe(2.5 / math.sqrt(250), luckiest, 1250, skewness=-3, kurtosis=10)
    assert found == pytest.approx(published, abs=6e-4)


def test_the_benchmark_of_the_paper_is_met():
    assert expected_maximum(100, math.sqrt(0.5 / 250)) == pytest.approx(0.1132, abs=1e-4)


def test_the_best_of_worthless_trials_is_not_believed():
    """A Sharpe ratio that looks significant alone is what a hundred worthless candidates give."""
    rng = np.random.default_rng(3)
    believed = []
    for _ in range(60):
        results = rng.standard_normal((250, 50))
        best = int(np.argmax(results.mean(axis=0) / results.std(axis=0)))
        believed.append(deflated_sharpe(results, best) > 0.95)
    assert np.mean(believed) <= 0.1


def overlapping(rng, edge=0.0, n=1500, held=24, candidates=12):
    """Give results of trades entered every hour and held for a day, so that each meets most of the candles of the one before."""
    steps = rng.standard_normal((n + held, candidates)) / np.sqrt(held)
    sums = np.cumsum(steps, axis=0)
    results = sums[held:] - sums[:-held]
    results[:, 3] += edge
    return results, 3_600_000 * np.arange(n), 3600.0 * held


def test_trades_that_overlap_are_not_believed_for_being_many():
    """Each hour's trade held for a day is one observation in a day, not 24: taken for that, luck is believed in most searches."""
    rng = np.random.default_rng(8)
    by_trade, by_block = [], []
    for _ in range(60):
        results, at_ms, longest_sec = overlapping(rng)
        best = int(np.argmax(results.mean(axis=0)))
        by_trade.append(deflated_sharpe(results, best) > 0.95)
        by_block.append(deflated_by_block(results, at_ms, longest_sec, best) > 0.95)
    assert np.mean(by_block) <= 0.1
    assert np.mean(by_trade) > np.mean(by_block)


def test_an_edge_of_trades_that_overlap_is_believed():
    results, at_ms, longest_sec = overlapping(np.random.default_rng(9), edge=1.5)
    assert deflated_by_block(results, at_ms, longest_sec, 3) > 0.95


def test_a_few_blocks_of_time_tell_nothing():
    results, at_ms, longest_sec = overlapping(np.random.default_rng(9), edge=1.5, n=7 * 72)
    assert math.isnan(deflated_by_block(results, at_ms, longest_sec, 3))


def test_a_real_edge_is_believed():
    rng = np.random.default_rng(4)
    results = rng.standard_normal((1000, 20))
    results[:, 7] += 0.25
    assert deflated_sharpe(results, 7) > 0.99


def test_luck_does_not_last():
    rng = np.random.default_rng(5)
    found = [overfitting_probability(rng.standard_normal((400, 20))) for _ in range(30)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


def test_an_edge_lasts():
    rng = np.random.default_rng(6)
    results = rng.standard_normal((400, 20))
    results[:, 3] += 0.4
    assert overfitting_probability(results) < 0.02


def test_nothing_is_said_of_one_trial():
    assert math.isnan(overfitting_probability(np.ones((100, 1))))
    assert math.isnan(deflated_sharpe(np.ones((100, 2)), 0))


def test_no_trade_is_open_in_training_and_test():
    """A trade that is still open when the test begins knows the prices of the test."""
    rng = np.random.default_rng(7)
    begin = np.sort(rng.uniform(0, 1000, 500))
    end = begin + rng.exponential(30, 500)
    made = walk_forward(begin, end, folds=4, embargo=5)
    assert len(made) == 4
    for fold in made:
        assert end[fold.train].max() + 5 < begin[fold.test].min() + 1e-9
    tested = np.concatenate([fold.test for fold in made])
    assert sorted(tested) == list(np.flatnonzero(begin >= begin[made[0].test].min()))


@pytest.mark.parametrize(
    "call",
    [lambda: walk_forward(np.ones(2), np.ones(3), folds=1, embargo=0), lambda: overfitting_probability(np.ones((9, 2)), 3)],
)
def test_a_wrong_call_is_named(call):
    with pytest.raises(ValueError, match="expected"):
        call()
