"""Freshness: what is due, and from which second on it is too old."""

import math
from dataclasses import replace

import pytest

from quantum_core.failure import Failure
from quantum_core.freshness import (
    ASSETS,
    CANDLES,
    PARTS,
    Condition,
    Limits,
    Sign,
    SymbolSigns,
    VitalSigns,
    evaluate,
    next_crossing,
)
from quantum_core.settings import load_settings

NOW = 1_769_083_200.0
LIMITS = Limits()
LIMIT_OF = {"market_state": 180, CANDLES: 420, "worker": 20, "daemon": 30, "cycle": 60}


def signs(age: float = 0, *, held: bool | None = True, has_base_target: bool = True, **clocks: Sign) -> VitalSigns:
    """Everything is ``age`` seconds old, but for the clocks given."""
    same = Sign(NOW - age)
    every = dict.fromkeys((*ASSETS, CANDLES), same) | clocks
    symbol = SymbolSigns("BTCUSDT", every, held, has_base_target)
    return VitalSigns([symbol], {part: clocks.get(part, same) for part in PARTS})


def conditions(seen: VitalSigns, limits: Limits = LIMITS) -> dict[str, Condition]:
    evaluation = evaluate(seen, limits, NOW)
    return {vital.thing: vital.condition for vital in (*evaluation.vitals, *evaluation.heartbeats)}


@pytest.mark.parametrize("thing", ["market_state", "position", "risk_proposal", "harvest_proposal", "trade_intent",
                                   "allocation_target", "governor_permit", CANDLES, *PARTS])  # fmt: skip
def test_a_thing_exactly_at_its_limit_is_not_stale_and_a_moment_later_it_is(thing):
    """The limit is what operators were promised; an alert at the limit itself would be a false one every cycle."""
    limit = LIMIT_OF.get(thing, 60)
    assert conditions(signs(**{thing: Sign(NOW - limit)}))[thing] in (Condition.FRESH, Condition.AGING)
    assert conditions(signs(**{thing: Sign(NOW - limit - 0.001)}))[thing] is Condition.STALE


@pytest.mark.parametrize(
    ("thing", "age", "expected"),
    [
        ("risk_proposal", 30, Condition.FRESH),
        ("risk_proposal", 30.001, Condition.AGING),
        ("market_state", 179, Condition.FRESH),
        (CANDLES, 419, Condition.FRESH),
        ("worker", 10, Condition.FRESH),
        ("worker", 11, Condition.AGING),
        ("cycle", 31, Condition.AGING),
        ("position", -5, Condition.FRESH),
        ("position", -5.001, Condition.AHEAD),
        ("worker", -6, Condition.AHEAD),
        (CANDLES, -60, Condition.FRESH),
        (CANDLES, -61, Condition.AHEAD),
    ],
)
def test_between_fresh_and_stale_there_is_a_warning_and_before_it_the_future(thing, age, expected):
    """A clock ahead of ours looks fresh for as long as it is ahead: that is a fault of its own."""
    assert conditions(signs(**{thing: Sign(NOW - age)}))[thing] is expected


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        (Sign(), Condition.MISSING),
        (Sign(trouble="WRONGTYPE"), Condition.UNREADABLE),
        (Sign(trouble="candles_in_future: 90s (klines)"), Condition.AHEAD),
    ],
)
def test_missing_and_unreadable_are_not_stale(sign, expected):
    """The three have different causes, and different people to call."""
    assert conditions(signs(**{CANDLES: sign}))[CANDLES] is expected


@pytest.mark.parametrize(
    ("held", "due"),
    [
        (True, {"position", "risk_proposal", "harvest_proposal", "trade_intent"}),
        (False, set()),
        (None, {"position"}),
    ],
)
def test_proposals_are_due_only_while_a_position_is_held(held, due):
    """A flat symbol without proposals is as it should be."""
    assert conditions(signs(held=held)).keys() & {"position", "risk_proposal", "harvest_proposal", "trade_intent"} == due


@pytest.mark.parametrize(
    ("has_base_target", "limits", "due"),
    [
        (True, Limits(), {"allocation_target", CANDLES}),
        (False, Limits(), {CANDLES}),
        (False, Limits(efficiency_due=True), {"capital_efficiency", CANDLES}),
        (False, Limits(candles_due=False), set()),
    ],
)
def test_what_nobody_was_to_write_is_not_missed(has_base_target, limits, due):
    """An alert for a hash that ought not to exist teaches operators to ignore alerts."""
    found = conditions(signs(has_base_target=has_base_target), limits)
    assert found.keys() & {"allocation_target", "capital_efficiency", CANDLES} == due
    assert {"market_state", "governor_permit"} <= found.keys()


def test_candles_without_a_time_are_not_judged():
    """Bare closes are an accepted layout; nothing can be said of their age."""
    symbol = SymbolSigns("BTCUSDT", {"market_state": Sign(NOW)})
    assert CANDLES not in conditions(VitalSigns([symbol], {}))


def test_the_limits_are_those_of_the_settings():
    """Operators change them in one place."""
    settings = load_settings(
        candle_interval_sec=300, candle_stale_margin_sec=100, marketstate_max_age_sec=900, proposal_max_age_sec=50,
        worker_max_silence_sec=7, efficiency_mode="enforce", marketstate_source="synthetic",
    )  # fmt: skip
    assert Limits.of(settings) == Limits(
        market_state_sec=900, candles_sec=700, worker_sec=7, proposal_sec=50, candle_ahead_sec=300,
        efficiency_due=True, candles_due=False,
    )  # fmt: skip


def test_a_part_never_heard_of_is_missing():
    """Whether that is an alert depends on how long one has waited, which is not decided here."""
    assert conditions(VitalSigns([], {})) == dict.fromkeys(PARTS, Condition.MISSING)


@pytest.mark.parametrize(
    ("clocks", "crosses_in"),
    [
        ({}, 20.0),  # the worker is silent for 20 s at most
        ({"worker": Sign(NOW - 17)}, 3.0),
        ({"worker": Sign(NOW - 20)}, 0.0),  # exactly at its limit, so a moment from now
        ({"worker": Sign(NOW - 21)}, 30.0),  # what has crossed does not cross again: the daemon is next
        ({"worker": Sign(NOW), "risk_proposal": Sign(NOW - 58.5)}, 1.5),
        ({"worker": Sign(NOW + 6), CANDLES: Sign(NOW - 419)}, 1.0),  # what is ahead of the clock is wrong already
    ],
)
def test_it_is_known_when_the_next_thing_crosses_its_limit(clocks, crosses_in):
    """A watcher that looks every 5 s says so up to 5 s late."""
    evaluation = evaluate(signs(**clocks), LIMITS, NOW)
    at = next_crossing(evaluation, NOW, failing_sec=60)
    assert at - NOW == pytest.approx(crosses_in)
    later = evaluate(signs(**clocks), LIMITS, at + 0.001)
    before = {(one.thing, one.condition) for one in (*evaluation.vitals, *evaluation.heartbeats)}
    after = {(one.thing, one.condition) for one in (*later.vitals, *later.heartbeats)}
    assert [thing for thing, condition in sorted(after - before) if condition is Condition.STALE] != []


def test_a_symbol_that_cannot_be_computed_crosses_its_limit_too():
    """Nothing of it need be old."""
    failure = Failure("BTCUSDT", "no_candles", since=NOW - 58, at=NOW - 1, cycle_id="c1")
    evaluation = evaluate(replace(signs(), failures={"BTCUSDT": {"market_state": failure}}), LIMITS, NOW)
    assert next_crossing(evaluation, NOW, failing_sec=60) == NOW + 2
    assert next_crossing(evaluate(VitalSigns([], {}), LIMITS, NOW), NOW, failing_sec=60) == math.inf
