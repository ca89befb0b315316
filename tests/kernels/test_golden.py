"""The kernels answer as the published vectors and the examples of the specification say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from quantum_core.kernels.capital.efficiency_hint import parse_efficiency
from quantum_core.kernels.columns import Market, Position
from quantum_core.kernels.governor.permit_hint import permit_hint
from quantum_core.kernels.proposals.harvest import harvest
from quantum_core.kernels.proposals.stops import stops
from tests.kernels.golden import COMMANDS, RTOL, cases, golden_errors


def column(*values):
    return np.array(values, dtype=np.float64)


def published_position(**changes):
    values = {
        "is_long": np.array([True]),
        "entry_price": column(100.0),
        "current_price": column(105.0),
        "peak_price": column(107.1),
        "trough_price": column(98.0),
        "age_sec": column(3600.0),
        "unrealized_pnl": column(5.0),
        "current_sl": column(102.0),
        "qty": column(np.nan),
    }
    return Position(**(values | changes))


def test_every_golden_vector_is_met():
    """Consumers read these numbers: a difference would be a changed contract. The errors are printed with -s."""
    errors = golden_errors()
    print("largest relative error per golden file:", errors)  # noqa: T201 shown by pytest -s
    assert set(errors) == set(COMMANDS)
    assert max(errors.values()) <= RTOL
    assert all(len(cases(name)) >= 20 for name in COMMANDS)


def test_the_published_stop_is_reproduced():
    """The proposal of 2026-01-22, computed without p_trend, as an operator saw it."""
    market = Market(column(0.0113984), column(0.245439), column(0.0), column(0.075824), column(0.55227))
    proposal = stops(market, published_position())
    # Published with four decimals of price and seven of distance.
    assert_allclose(proposal.proposed_sl, 106.0847, rtol=0, atol=5e-5)
    assert_allclose(proposal.proposed_tp, 106.1004, rtol=0, atol=5e-5)
    assert_allclose(proposal.stop_dist_pct, 0.0069864, rtol=0, atol=5e-8)
    assert_allclose(proposal.trail_gap_pct, 0.0094799, rtol=0, atol=5e-8)
    assert proposal.reason_codes == [("trail_active", "sl_tightening", "regime_chop", "sl_breached")]


def test_the_true_trend_probability_widens_the_published_stop():
    """The old publisher lost p_trend; with it the distances are those of the specification."""
    market = Market(column(0.0113984), column(0.245439), column(0.371906), column(0.075824), column(0.55227))
    proposal = stops(market, published_position())
    # Published with eight decimals.
    assert_allclose(proposal.stop_dist_pct, 0.01334511, rtol=0, atol=5e-9)
    assert_allclose(proposal.trail_gap_pct, 0.01456686, rtol=0, atol=5e-9)
    assert_allclose(proposal.tp_dist_pct, 0.02203943, rtol=0, atol=5e-9)


def test_the_published_r_and_break_even_stop_are_reproduced():
    """Entry 100, pnl 5 and a stop of 2 % are R 2.45 after 10 bps of cost, and lock the stop at 100.2."""
    market = Market(column(0.01), column(0.3), column(0.8), column(0.1), column(0.1))
    proposal = harvest(market, published_position(current_sl=column(98.0)), column(0.02))
    # Exact decimals in the specification; the tolerance is a few roundings.
    assert_allclose(proposal.R_net, 2.45, rtol=1e-14)
    assert_allclose(proposal.new_sl_proposed, 100.2, rtol=1e-14)
    assert proposal.harvest_action.tolist() == ["PARTIAL_25"]


@pytest.mark.parametrize(
    ("score", "factor", "cooldown"),
    [
        ("0", "0.2500", "120"),
        ("0.2", "0.4444", "96"),
        ("0.35", "0.7778", "78"),
        ("0.4", "0.8889", "72"),
        ("0.4499", "0.9998", "66"),
        ("0.45", "1.0000", "0"),
        ("0.1125", "0.2500", "106"),
    ],
)
def test_the_published_downsize_table_is_reproduced(score, factor, cooldown):
    """The last row is a tie of 106.5 seconds: half goes to the even second."""
    hint = parse_efficiency([{"efficiency_score": score, "confidence": "0.9", "ts": "1000"}])
    fields = permit_hint(hint, 1000.0).fields()[0]
    assert (fields["eff_factor"], fields["extra_cooldown_sec"]) == (factor, cooldown)
    assert fields["downsize_factor"] == fields["eff_factor"]
