"""Numbers and codes as people read them."""

import pytest

from quantum_assets.display import duration_text, number_text, percent_text, price_text, reason_text
from quantum_assets.kernels.governor import GATES


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (97_123.4567, "97,123.5"), (0.00001234, "0.00001234"), (105.0, "105.00"), (2895.126, "2,895.13"), (1e-9, "0.000000001"),
        (123_456_789.4, "123,456,789"), (-0.5, "-0.5"), (0.0, "0"), (None, "–"), (float("nan"), "–"), (float("inf"), "–"),
    ],
)  # fmt: skip
def test_a_price_keeps_six_digits_whatever_its_magnitude(price, text) -> None:
    """A column of 0.00001234 and 97,123.5 is readable; an exponent in it is not."""
    assert price_text(price) == text


def test_shares_and_times_carry_their_unit() -> None:
    assert percent_text(0.01234) == "1.23 %"
    assert percent_text(-0.000001, signed=True) == "0.00 %"
    assert number_text(2.5, signed=True) == "+2.50"
    assert [duration_text(seconds) for seconds in (42, 90, 3700, 90_000)] == ["42 s", "1 min 30 s", "1 h 1 min", "1 d 1 h"]


def test_every_gate_reads_in_words() -> None:
    """An operator who sees a code has to look it up at the worst moment."""
    assert [gate.reason for gate in GATES if reason_text(gate.reason) == gate.reason] == []
    assert reason_text("risk_guard_DRAWDOWN") == "risk guard DRAWDOWN"
    assert reason_text("of_another_program: detail") == "of_another_program: detail"
