"""Coins of a micro-priced token are held by the trillion: a size counts by what it is worth."""

import pytest

from quantum_core.contracts.tables import HARVEST_PROPOSAL, POSITION
from resources.governor.plan import parse_plan
from resources.inputs.position_parsing import parse_position
from resources.inputs.position_snapshots import InvalidPositionError
from tests.governor.desk import Desk
from tests.world import hash_of

SYMBOL = "BABYUSDT"


def plan(**more: object):
    fields = {"plan_id": "p", "symbol": SYMBOL, "action": "CLOSE", "decision": "EXECUTE", **more}
    return parse_plan("1-0", {name.encode(): str(value).encode() for name, value in fields.items()})


@pytest.mark.parametrize("factor", [1e-12, 1e-10, 1.0, 1e12])
def test_a_close_is_permitted_whatever_the_unit_of_price(store, factor):
    """Above 1e12 coins every close was ``invalid_plan:qty``: nobody could leave the position."""
    desk = Desk(store)
    desk.ready(SYMBOL)
    prices = dict.fromkeys(("entry_price", "current_price", "peak_price", "trough_price"), 100.0 * factor)
    desk.put(POSITION, SYMBOL, **prices, qty=32 / factor)
    desk.put(HARVEST_PROPOSAL, SYMBOL, position_qty=32 / factor, risk_unit=factor, cost_est=factor)
    desk.plan("close", SYMBOL, "FULL_CLOSE_PROPOSED", qty=32 / factor, price=100 * factor)
    judged = _judged(desk)
    assert judged["reason"] == ""
    permit = hash_of(store, "permit", "close")
    assert float(permit["computed_qty"]) == pytest.approx(32 / factor, rel=1e-12)
    assert float(permit["computed_notional"]) == pytest.approx(3200, rel=1e-12)


def _judged(desk: Desk) -> dict[str, str]:
    """Decide, and again where the machine was so busy that the evidence had grown old."""
    for _ in range(5):
        desk.decide()
        if hash_of(desk.store, "permit", "close"):
            return {"reason": ""}
        if block := hash_of(desk.store, "block", "close"):
            return block
    return {"reason": "undecided"}


@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"qty": "32000000000000"}, ""),
        ({"qty": "3.2e13", "price": "1e-10"}, ""),
        ({"close_qty": "3.2e13", "price": "1e-10"}, ""),
        ({"qty": 1e24, "price": 1e-24}, ""),
        ({"qty": 1e24, "price": 1e-8}, "qty"),  # worth more than all there is
        ({"close_qty": 3.2e13, "price": 1e5}, "close_qty"),
        ({"qty": 1e25}, "qty"),
        ({"price": 1e25}, "price"),
        ({"qty": "1e400"}, "qty"),
        ({"qty": "nan"}, "qty"),
        ({"qty": -1e13}, "qty"),
    ],
)
def test_a_size_is_refused_when_it_cannot_be(fields, invalid):
    """A number that no market has is a fault of the writer, by name."""
    assert plan(**fields).invalid == invalid


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"entry_price": "1e-25"}, "entry_price=1e-25"),
        ({"mark_price": "5e-324"}, "mark_price=5e-324"),
        ({"mark_price": "1e300"}, "mark_price=1e300"),
        ({"quantity": "1e-300"}, "quantity=1e-300"),
        ({"quantity": "1e30"}, "quantity=1e30"),
        ({"entry_price": "1e-24", "mark_price": "1.01e-24", "quantity": "1e24"}, ""),
        ({"entry_price": "9e23", "mark_price": "1e24", "quantity": "1e-24"}, ""),
    ],
)
def test_a_position_beyond_all_prices_is_refused_by_name(fields, named):
    """What is computed from it would be no number any more: R of a denormal is one over nothing."""
    given = {"side": "LONG", "entry_price": "1.0", "mark_price": "1.01", "quantity": "2", **fields}
    if not named:
        assert parse_position(SYMBOL, given, "redis_hash").side == "LONG"
        return
    with pytest.raises(InvalidPositionError, match=named):
        parse_position(SYMBOL, given, "redis_hash")
