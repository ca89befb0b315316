"""The account's guards: exactly at each limit, a moment beyond it, and what cannot be judged at all."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_assets.checks import reference
from quantum_core.kernels.governor.risk_guard import GUARDS, MISSING_AGE_SEC, Account, RiskGuardTheta, assess
from quantum_core.kernels.theta import ThetaError

HEALTHY = Account(equity=10_000.0, peak=10_000.0, age_sec=1.0, daily_pnl=0.0, consecutive_losses=0.0)
NONE = Account(equity=math.nan, peak=math.nan, age_sec=MISSING_AGE_SEC, daily_pnl=0.0, consecutive_losses=0.0)


def found(**changes: float) -> tuple[str, ...]:
    return tuple(one.guard for one in assess(dataclasses.replace(HEALTHY, **changes)).triggered)


BOUNDARIES = [
    ("healthy", {}, ()),
    ("equity exactly as old as it may be", {"age_sec": 300.0}, ()),
    ("a moment older", {"age_sec": 300.001}, ("EQUITY_STALE",)),
    ("a clock ahead by what two hosts may differ", {"age_sec": -5.0}, ()),
    ("a clock further ahead", {"age_sec": -5.001}, ("EQUITY_STALE",)),
    ("nothing left", {"equity": 0.0}, ("EQUITY_STALE", "EMERGENCY_FLATTEN")),
    ("less than nothing", {"equity": -1.0}, ("EQUITY_STALE", "EMERGENCY_FLATTEN")),
    ("nothing left, an hour ago", {"equity": 0.0, "age_sec": 3600.0}, ("EQUITY_STALE",)),
    ("nothing left, and no peak", {"equity": 0.0, "peak": math.nan}, ("EQUITY_STALE", "EMERGENCY_FLATTEN")),
    ("a withdrawal", {"equity": 6_000.0, "net_transfers": -4_000.0}, ()),
    ("a withdrawal and a loss", {"equity": 5_500.0, "net_transfers": -4_000.0}, ("DRAWDOWN",)),
    ("a deposit", {"equity": 14_000.0, "net_transfers": 4_000.0}, ()),
    ("a loss behind a deposit", {"equity": 10_000.0, "net_transfers": 4_000.0}, ("DRAWDOWN", "EMERGENCY_FLATTEN")),
    ("a peak that rose with the equity", {"peak": 11_000.0, "equity": 11_000.0, "peak_known": 9_000.0}, ()),
    ("a loss of exactly its limit", {"daily_pnl": -250.0}, ()),
    ("a cent more", {"daily_pnl": -250.01}, ("DAILY_LOSS",)),
    ("a profit of any size", {"daily_pnl": 9_999.0}, ()),
    ("a drawdown of exactly its limit", {"equity": 9_200.0}, ()),
    ("a cent more", {"equity": 9_199.99}, ("DRAWDOWN",)),
    ("exactly the limit of the emergency", {"equity": 9_000.0}, ("DRAWDOWN",)),
    ("a cent more", {"equity": 8_999.99}, ("DRAWDOWN", "EMERGENCY_FLATTEN")),
    ("a limit that floats cannot hit", {"equity": 2.76, "peak": 3.0}, ()),
    ("an equity above its peak", {"equity": 10_001.0}, ()),
    ("two losses in a row", {"consecutive_losses": 2.0}, ()),
    ("three: from here on, not beyond", {"consecutive_losses": 3.0}, ("CONSEC_LOSS",)),
    ("all at once", {"equity": 8_000.0, "daily_pnl": -300.0, "consecutive_losses": 4.0}, GUARDS[1:]),
]


@pytest.mark.parametrize(("changes", "guards"), [row[1:] for row in BOUNDARIES], ids=[row[0] for row in BOUNDARIES])
def test_a_guard_holds_beyond_its_limit_and_not_at_it(changes, guards) -> None:
    """Strict comparisons, but for the count of losses: an operator who reads "10 %" must find exactly 10 % allowed."""
    assert found(**changes) == guards


@pytest.mark.parametrize(
    ("changes", "guard", "reason", "duration_sec"),
    [
        ({"equity": 7_830.0}, "EMERGENCY_FLATTEN", "EMERGENCY_FLATTEN drawdown=21.7% > 10.0%", 14_400),
        ({"equity": 9_100.0}, "DRAWDOWN", "DRAWDOWN drawdown=9.0% > 8.0%", 3_600),
        ({"daily_pnl": -310.0}, "DAILY_LOSS", "DAILY_LOSS loss=3.1% > 2.5%", 86_400),
        ({"consecutive_losses": 4.0}, "CONSEC_LOSS", "CONSEC_LOSS losses=4 >= 3", 3_600),
        ({"age_sec": 412.0}, "EQUITY_STALE", "EQUITY_STALE age=412s > 300s", 60),
        ({"age_sec": -30.0}, "EQUITY_STALE", "EQUITY_STALE ahead=30s > 5s", 60),
        ({"equity": -3.5}, "EMERGENCY_FLATTEN", "EMERGENCY_FLATTEN equity=-3.5 <= 0", 14_400),
    ],
)
def test_reasons_and_durations_are_those_of_the_specification(changes, guard, reason, duration_sec) -> None:
    """Consumers match these words."""
    last = assess(dataclasses.replace(HEALTHY, **changes)).triggered[-1]
    assert (last.guard, last.reason, last.duration_sec) == (guard, reason, duration_sec)


def test_an_equity_nobody_writes_is_stale_and_no_error() -> None:
    """The writer has not started: a state that blocks, not a fault of ours."""
    assessment = assess(NONE)
    assert [(one.guard, one.reason) for one in assessment.triggered] == [("EQUITY_STALE", "EQUITY_STALE no equity")]
    assert assessment.unusable == ()
    assert math.isnan(assessment.drawdown)


@pytest.mark.parametrize(
    ("changes", "unusable"),
    [
        ({"peak": math.nan}, ("peak",)),
        ({"peak": 0.0}, ("peak",)),
        ({"peak": -1.0}, ("peak",)),
        ({"peak": math.inf}, ("peak",)),
        ({"equity": math.nan}, ("equity",)),
        ({"equity": -math.inf}, ("equity",)),
        ({"age_sec": math.nan}, ("equity",)),
        ({"daily_pnl": math.nan}, ("daily_pnl",)),
        ({"consecutive_losses": math.nan}, ("consecutive_losses",)),
        ({"consecutive_losses": -1.0}, ("consecutive_losses",)),
        ({"consecutive_losses": 3.5}, ("consecutive_losses",)),
        ({"peak": math.nan, "daily_pnl": math.nan}, ("peak", "daily_pnl")),
        ({"net_transfers": math.nan, "equity": 1.0}, ("net_transfers",)),
        ({"net_transfers": math.inf}, ("net_transfers",)),
        ({"net_transfers": -10_000.0}, ("net_transfers",)),
        ({"net_transfers": -2_000.0}, ("peak",)),
        ({"peak": 100_000.0, "peak_known": 10_000.0}, ("peak",)),
    ],
)
def test_an_input_that_cannot_be_used_is_named_and_never_filled_in(changes, unusable) -> None:
    """A missing peak once became the equity of the moment: a drawdown of nought, for ever."""
    assessment = assess(dataclasses.replace(HEALTHY, **changes))
    assert assessment.unusable == unusable
    assert assessment.triggered == ()


def test_what_needs_no_unusable_input_is_judged_all_the_same() -> None:
    """One bad field must not switch the other guards off."""
    assert found(peak=math.nan, daily_pnl=-300.0, consecutive_losses=3.0) == ("DAILY_LOSS", "CONSEC_LOSS")
    assert found(equity=math.nan, consecutive_losses=3.0) == ("CONSEC_LOSS",)


def test_old_numbers_ask_for_nothing_but_call_themselves_old() -> None:
    """An emergency of an hour ago may be over; openings are blocked anyway."""
    assert found(age_sec=3600.0, equity=5_000.0, daily_pnl=-5_000.0) == ("EQUITY_STALE",)


def test_limits_are_parameters_within_bounds() -> None:
    """Nobody switches a guard off with a negative duration."""
    strict = RiskGuardTheta(drawdown_max=0.01)
    assert [one.guard for one in assess(dataclasses.replace(HEALTHY, equity=9_800.0), strict).triggered] == ["DRAWDOWN"]
    with pytest.raises(ThetaError):
        RiskGuardTheta(drawdown_sec=0)


def test_what_is_known_not_to_hold_is_told_from_what_is_not_known() -> None:
    """A guard that waits for a second reading ends with what is known only."""
    assert assess(HEALTHY).judged == GUARDS
    assert assess(NONE).judged == ("EQUITY_STALE", "CONSEC_LOSS")
    for changes, unknown in (
        ({"age_sec": 400.0}, {"DAILY_LOSS", "DRAWDOWN", "EMERGENCY_FLATTEN"}),
        ({"equity": math.nan}, {"EQUITY_STALE", "DAILY_LOSS", "DRAWDOWN", "EMERGENCY_FLATTEN"}),
        ({"equity": 0.0}, {"DAILY_LOSS", "DRAWDOWN"}),
        ({"peak": math.nan}, {"DRAWDOWN", "EMERGENCY_FLATTEN"}),
        ({"net_transfers": math.nan}, {"DRAWDOWN", "EMERGENCY_FLATTEN"}),
        ({"peak": 1e6, "peak_known": 1e4}, {"DRAWDOWN", "EMERGENCY_FLATTEN"}),
        ({"daily_pnl": math.nan}, {"DAILY_LOSS"}),
        ({"consecutive_losses": math.nan}, {"CONSEC_LOSS"}),
    ):
        assert set(GUARDS) - set(assess(dataclasses.replace(HEALTHY, **changes)).judged) == unknown, changes


CENTS = st.integers(-100_000_00, 100_000_00).map(lambda cents: cents / 100)


@given(
    equity=CENTS, peak=CENTS, daily_pnl=CENTS, age=st.integers(-10, 310), losses=st.integers(-1, 5), transfers=st.just(0.0) | CENTS,
    known=st.just(math.nan) | CENTS,
)  # fmt: skip
def test_the_second_implementation_finds_the_same(equity, peak, daily_pnl, age, losses, transfers, known) -> None:
    """Fractions of whole cents on one side, floats on the other: neither knows the other's rounding."""
    assessment = assess(Account(equity, peak, float(age), daily_pnl, float(losses), transfers, known))
    row = {
        "equity": equity, "peak": None if "peak" in assessment.unusable else peak, "daily_pnl": daily_pnl,
        "equity_age_sec": float(age), "net_transfers": None if "net_transfers" in assessment.unusable else transfers,
        "consecutive_losses": None if losses < 0 else losses, "errors": list(assessment.unusable),
    }  # fmt: skip
    wanted = reference.risk_guards(row)
    assert [one.guard for one in assessment.triggered] == wanted["triggered"]
    for share, expected in ((assessment.drawdown, wanted["drawdown"]), (assessment.daily_loss, wanted["daily_loss"])):
        assert math.isnan(share) if expected is None else share == pytest.approx(expected, rel=1e-9, abs=1e-15)
