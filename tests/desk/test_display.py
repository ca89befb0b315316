"""Numbers and codes as people read them."""

import pytest

from quantum_core.display import (
    duration_text,
    failure_text,
    number_text,
    percent_text,
    price_text,
    prices_text,
    reason_text,
    stamp_text,
)
from quantum_core.kernels.governor.gates import GATES


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (97_123.4567, "97,123.5"), (0.00001234, "0.00001234"), (105.0, "105"), (105.5, "105.50"), (2895.126, "2,895.13"), (1e-9, "0.000000001"),
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


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("candles_stale: 430 s > 420 s", "no new candles (7 min 10 s old, limit 7 min)"),
        ("market_state_stale: 190 s > 180 s", "the market state is not renewed (3 min 10 s old, limit 3 min)"),
        ("position_invalid: entry_price=nan", "entry price of the position is not a number"),
        (
            "candles_unchanged: no time, and nothing has changed for 430 s",
            "no candles (no time, and nothing has changed for 430 s)",
        ),
        ("too_few_candles: 12", "too few candles (12)"),
        ("harvest_proposal_unreadable: digest: edited", "harvest proposal unreadable (digest: edited)"),
        ("market_inactive", "the market is inactive"),
    ],
)
def test_a_recorded_reason_reads_in_words_and_keeps_its_detail(why, text) -> None:
    """The desk shows it to people who do not know our codes."""
    assert failure_text(why) == text


def test_prices_of_one_market_share_their_decimals() -> None:
    """1.6216 beside 1.61349 looks like another order of magnitude."""
    assert prices_text(1.6216, 1.61349, None) == ["1.62160", "1.61349", "–"]
    assert prices_text(113_677.0, 98_123.5) == ["113,677.0", "98,123.5"]
    assert prices_text(None, None) == ["–", "–"]


def test_a_stamp_reads_like_every_other_time() -> None:
    assert stamp_text("2026-01-22T13:00:00.033692+00:00") == "2026-01-22 13:00:00 UTC"
    assert stamp_text("an unknown time") == "an unknown time"
