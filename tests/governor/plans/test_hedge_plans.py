"""Plans for hedged symbols: each names its leg, and is decided by that leg's evidence, limits and records."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_core.contracts.legs import LEGS as SIDES
from resources.governor.decisions import decided_again, look_up
from resources.governor.judge import judge
from resources.governor.plan import parse_plan
from resources.governor.queue import PlanQueue, waiting_plans
from tests.governor.desk import Desk
from tests.world import FIELD_PASSES, hash_of, write_position

LONG, SHORT = LEGS = ("BTCUSDT.LONG", "BTCUSDT.SHORT")


@pytest.fixture
def desk(make_store) -> Desk:
    """A desk with both legs open and everything in order."""
    desk = Desk(make_store(symbols="BTCUSDT,ETHUSDT", hedge_symbols="BTCUSDT"))
    desk.ready(LONG, SHORT, "ETHUSDT")
    for leg, side in ((LONG, "LONG"), (SHORT, "SHORT")):
        write_position(desk.store, leg, side=side, entry=99.0, mark=100.0)
    write_position(desk.store, "ETHUSDT", entry=99.0, mark=100.0)
    return desk


@pytest.mark.parametrize(
    ("symbol", "fields", "expected"),
    [
        (LONG, {}, LONG),
        ("BTCUSDT", {"positionSide": "LONG"}, LONG),
        ("BTCUSDT", {"position_side": "short"}, SHORT),
        ("BTCUSDT", {"posSide": "short", "positionIdx": "2"}, SHORT),
        (LONG, {"positionSide": "LONG", "side": "BUY"}, LONG),
        (SHORT, {"side": "SELL"}, SHORT),
        (SHORT, {"action": "OPEN_SHORT", "side": "short"}, SHORT),
        (LONG, {"action": "CLOSE", "side": "SELL"}, LONG),
        (SHORT, {"action": "PARTIAL_25", "side": "buy"}, SHORT),
        ("ETHUSDT", {"positionSide": "LONG", "side": "anything"}, "ETHUSDT"),
    ],
)
def test_a_plan_names_its_leg_and_is_recorded_under_it(desk, symbol, fields, expected) -> None:
    """In the symbol or beside it; for other symbols nothing of this counts."""
    desk.plan("p", symbol, fields.pop("action", "OPEN"), **fields)
    assert waiting_plans(desk.store).symbols == {expected}
    desk.decide()
    assert desk.outcome("p") == ""
    assert hash_of(desk.store, "permit", "p")["symbol"] == expected
    counted = [desk.store.client.llen(f"quantum:governor:exec:{expected}{kind}") for kind in ("", ":close")]
    assert sorted(counted) == [0, 1]
    assert look_up(desk.store, "p").permit["symbol"] == expected


@pytest.mark.parametrize(
    ("symbol", "fields", "reason"),
    [
        ("BTCUSDT", {}, "positionSide"),
        ("BTCUSDT", {"positionSide": "BOTH"}, "positionSide"),
        ("BTCUSDT", {"positionIdx": "0"}, "positionSide"),
        ("BTCUSDT", {"positionSide": "UP"}, "positionSide"),
        ("BTCUSDT", {"positionSide": "LONG", "position_side": "SHORT"}, "position_side"),
        ("BTCUSDT", {"side": "LONG"}, "positionSide"),
        (LONG, {"positionSide": "SHORT"}, "positionSide"),
        (LONG, {"positionSide": "BOTH"}, "positionSide"),
        ("BTCUSDT.BOTH", {}, "symbol"),
        ("ETHUSDT.LONG", {}, "symbol"),
        (LONG, {"side": "SELL"}, "side"),
        (LONG, {"action": "CLOSE", "side": "BUY"}, "side"),
        (SHORT, {"action": "REDUCE", "reduceOnly": "true", "side": "SELL"}, "side"),
        (LONG, {"side": "SHORT"}, "side"),
        (LONG, {"action": "OPEN_SHORT"}, "action"),
    ],
)
def test_a_plan_of_which_nobody_can_know_the_leg_is_refused_by_name(desk, symbol, fields, reason) -> None:
    """A close included: in hedge mode the wrong leg or the wrong side of the order opens risk."""
    desk.plan("p", symbol, fields.pop("action", "OPEN"), **fields)
    desk.decide()
    assert desk.outcome("p") == f"invalid_plan:{reason}"
    assert not any(desk.store.client.exists(f"quantum:governor:exec:{one}") for one in (*LEGS, "BTCUSDT"))


@pytest.mark.parametrize("word", ["None", "null", "NaN"])
def test_a_close_whose_symbol_names_its_leg_needs_no_position_side(desk, word) -> None:
    """None is no side of a position; an opening that says so is refused."""
    desk.plan("close", LONG, "CLOSE", positionSide=word)
    desk.plan("open", LONG, positionSide=word)
    desk.decide()
    assert (desk.outcome("close"), desk.outcome("open")) == ("", "invalid_plan:positionSide")


def test_limits_are_counted_per_leg(desk) -> None:
    """What one leg used up is not missing for the other."""
    for turn in range(3):
        desk.plan(f"long-{turn}", LONG)
        desk.decide()
    desk.plan("short", "BTCUSDT", positionSide="SHORT")
    desk.decide()
    assert [desk.outcome(one) for one in ("long-0", "long-1", "long-2")] == ["", "", "burst_limit_exceeded"]
    assert desk.outcome("short") == ""  # the burst has disarmed the other leg only
    assert desk.store.client.llen(f"quantum:governor:exec:{SHORT}") == 1
    desk.plan("close", SHORT, "CLOSE")
    desk.decide()
    assert desk.outcome("close") == ""


def test_a_leg_is_judged_by_its_own_evidence(desk) -> None:
    """The long leg's position is old, the short one's is not; a leg that is flat needs no proposal."""
    desk.store.client.delete(desk.store.keys.of("harvest_proposal", LONG))
    desk.plan("open-long", LONG)
    desk.plan("open-short", SHORT)
    desk.decide()
    assert (desk.outcome("open-long"), desk.outcome("open-short")) == ("stale_harvest_proposal", "")
    write_position(desk.store, LONG, side="FLAT")
    desk.plan("from-flat", LONG)
    desk.decide()
    assert desk.outcome("from-flat") == ""


@pytest.mark.parametrize(
    ("other", "target", "expected"),
    [
        ("open", 250.0, ""),  # 100 of each leg
        ("open", 150.0, "p29_allocation_cap"),
        ("flat", 150.0, ""),
        ("unknown", 1e9, "p29_allocation_cap"),
        ("stale", 1e9, "p29_allocation_cap"),
        ("unreadable", 1e9, "p29_allocation_cap"),
    ],
)
def test_the_target_of_a_symbol_caps_both_legs_together(desk, clock, other, target, expected) -> None:
    """P2.9 knows one target per symbol: what both legs hold counts, and what nobody knows is too much."""
    raw = desk.store.keys.of("raw_position", SHORT)
    if other == "flat":
        write_position(desk.store, SHORT, side="FLAT")
    if other == "unknown":
        desk.store.client.delete(raw, desk.store.keys.of("position", SHORT))
    if other == "unreadable":
        desk.store.client.hset(raw, "entry_price", "x")
    if other == "stale":
        clock.advance(130)
        desk.ready(LONG)
        write_position(desk.store, LONG, entry=99.0, mark=100.0)
    now = int(clock().timestamp())
    desk.store.client.hset(
        "quantum:allocation:target:BTCUSDT", mapping={"target_usd": target, "confidence": 1, "timestamp": now, "mode": "enforce"}
    )
    desk.plan("p", LONG)
    desk.plan("close", LONG, "PARTIAL_25")
    desk.decide()
    assert (desk.outcome("p"), desk.outcome("close")) == (expected, "")
    assert all(decided_again(event) == event["reason"] for event in desk.events())


FIELDS = st.fixed_dictionaries(
    {
        "symbol": st.sampled_from(["BTCUSDT", LONG, SHORT, "BTCUSDT.BOTH", "ETHUSDT", "ETHUSDT.LONG"]),
        "action": st.sampled_from(["OPEN", "OPEN_LONG", "OPEN_SHORT", "CLOSE", "CLOSE_LONG", "PARTIAL_50", "HEDGE"]),
    },
    optional={
        "positionSide": st.sampled_from(["LONG", "SHORT", "BOTH", "", "long", "UP"]),
        "position_side": st.sampled_from(["LONG", "SHORT", ""]),
        "positionIdx": st.sampled_from(["0", "1", "2", "x"]),
        "side": st.sampled_from(["BUY", "SELL", "LONG", "SHORT", "", "b"]),
        "reduceOnly": st.sampled_from(["true", "false", "1", ""]),
    },
)


@settings(max_examples=300 * FIELD_PASSES)
@given(FIELDS)
def test_no_plan_for_a_hedged_symbol_is_valid_without_exactly_one_leg(fields: dict[str, str]) -> None:
    """And none whose order would do the opposite of what it is judged by; other symbols are parsed as ever."""
    raw = {name.encode(): value.encode() for name, value in {"plan_id": "p", "decision": "EXECUTE", **fields}.items()}
    plan = parse_plan("1-0", raw, ("BTCUSDT",))
    if not fields["symbol"].startswith("BTC"):
        assert plan == parse_plan("1-0", raw)
        return
    if plan.invalid:
        return
    side = plan.symbol.partition(".")[2]
    named = {fields[name].upper() for name in ("positionSide", "position_side") if fields.get(name)}
    named |= {SIDES[int(fields["positionIdx"]) - 1]} if fields.get("positionIdx") in ("1", "2") else set()
    assert named | {fields["symbol"].partition(".")[2]} - {""} == {side}
    closing = plan.reduce_only or plan.action in ("CLOSE", "PARTIAL_50")
    assert fields.get("side", "") not in (("BUY", "SELL") if (side == "LONG") == closing else ("SELL", "BUY"))[:1]


def test_both_legs_can_be_judged_in_one_batch(desk) -> None:
    """Each plan by its own leg, in the order asked for."""
    for turn, leg in enumerate((SHORT, LONG, SHORT)):
        desk.plan(f"p{turn}", leg)
    plans = PlanQueue(desk.store).take()
    assert [one.plan.symbol for one in judge(desk.store, plans, desk.store.clock())] == [SHORT, LONG, SHORT]
