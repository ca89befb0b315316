"""Trade intents: when one is due, for what, and what its id is made of."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_assets.checks import reference
from quantum_core.kernels.proposals.intent import Proposals, intent_id, intents
from tests.conftest import START

ACTIONS = ("NONE", "PARTIAL_25", "PARTIAL_50", "PARTIAL_75", "FULL_CLOSE_PROPOSED")
prices = st.floats(0.01, 1e6)


def proposals(action: str = "PARTIAL_25", *, breached: bool = False, k: float = 0.55, new_sl: float = np.nan, sl: float = 99.0):
    return Proposals(np.array([action], dtype=object), np.array([breached]), np.array([k]), np.array([new_sl]), np.array([sl]))


@pytest.mark.parametrize(
    ("action", "breached", "due", "plan_action"),
    [
        ("NONE", False, False, "NONE"),
        ("NONE", True, True, "CLOSE"),
        ("PARTIAL_25", False, True, "PARTIAL_25"),
        ("FULL_CLOSE_PROPOSED", False, True, "FULL_CLOSE_PROPOSED"),
        ("PARTIAL_25", True, True, "CLOSE"),
    ],
)
def test_an_action_or_a_crossed_stop_is_due_an_intent(action, breached, due, plan_action) -> None:
    """A quarter is not enough once the stop has been crossed."""
    found = intents(proposals(action, breached=breached))
    assert (bool(found.due[0]), found.plan_action[0]) == (due, plan_action)


@pytest.mark.parametrize(("new_sl", "stop"), [(np.nan, 99.0), (100.2, 100.2)])
def test_the_stop_is_that_of_the_profit_lock_or_else_the_proposed_one(new_sl, stop) -> None:
    """The specification's order."""
    assert intents(proposals(new_sl=new_sl)).stop_loss[0] == stop


def test_no_symbols_are_no_trouble() -> None:
    """A book that is flat everywhere is evaluated like any other."""
    empty = np.array([])
    found = intents(Proposals(np.array([], dtype=object), empty.astype(bool), empty, empty, empty))
    assert len(found.due) == len(found.stop_loss) == 0


@pytest.mark.parametrize("change", [{"k": 1.5}, {"sl": 0.0}, {"new_sl": -1.0}])
def test_a_row_that_makes_no_sense_is_refused_by_name(change) -> None:
    """Nothing is intended on a number no kernel accepts."""
    with pytest.raises(ValueError, match="proposals row 0"):
        intents(proposals(**change))


def test_the_id_is_the_hash_of_the_five_texts_that_are_documented() -> None:
    """Another program can name the intent of a proposal without asking us."""
    text = "BTCUSDT|PARTIAL_25|0.574443|100.2|2026-01-22T12:00:00+00:00"
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert intent_id("BTCUSDT", "PARTIAL_25", 0.57444251, 100.2, "2026-01-22T12:00:00+00:00") == expected
    assert len(expected) == 16


@given(action=st.sampled_from(ACTIONS), k=st.floats(0, 1), new_sl=prices | st.none())
def test_two_implementations_give_the_same_id(action, k, new_sl) -> None:
    """What proves the ids shares no line with what makes them."""
    row = {"harvest_action": action, "confidence": k, "new_sl_proposed": new_sl, "proposal_time": START}
    assert intent_id("BTCUSDT", action, k, new_sl, START.isoformat()) == reference.intent_id("BTCUSDT", row)


@pytest.mark.parametrize(
    "other",
    [
        ("ETHUSDT", "PARTIAL_25", 0.55, 100.2, "t"),
        ("BTCUSDT", "PARTIAL_50", 0.55, 100.2, "t"),
        ("BTCUSDT", "PARTIAL_25", 0.550001, 100.2, "t"),
        ("BTCUSDT", "PARTIAL_25", 0.55, 100.3, "t"),
        ("BTCUSDT", "PARTIAL_25", 0.55, None, "t"),
        ("BTCUSDT", "PARTIAL_25", 0.55, 100.2, "u"),
    ],
)
def test_each_of_the_five_makes_another_id(other) -> None:
    """Two intents under one id would be one plan."""
    assert intent_id(*other) != intent_id("BTCUSDT", "PARTIAL_25", 0.55, 100.2, "t")
