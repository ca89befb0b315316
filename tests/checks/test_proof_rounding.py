"""Proofs compare what is printed: as much as rounding can differ, and no more, is no finding."""

from types import SimpleNamespace

import pytest

from quantum_assets.checks.proofs import capital
from quantum_core.profiles.profile import LOCKED


@pytest.mark.parametrize(("proposed", "holds"), [(1067.07, True), (1067.17, True), (1067.06, False), (1067.18, False)])
def test_a_target_may_differ_by_the_rounding_of_all_three_numbers(proposed, holds):
    """772.0951 x 1.38206 is 1067.07, the two as they are printed give 1067.12: the proof was red now and then."""
    row = {"base_target": 772.1, "multiplier": 1.3821, "proposed_target": proposed, "eff_score": 0.8821, "eff_confidence": 0.9}
    row |= {"eff_stale": False, "reason": "ok"}
    parameters = LOCKED.parameters("BTCUSDT")
    evidence = SimpleNamespace(rows=lambda _: {"BTCUSDT": row}, parameters_of=lambda *_: parameters)
    assert (not capital.recomputed(evidence).failing) == holds
