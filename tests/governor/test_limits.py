"""Gates 7 to 9: counted in the script that decides a plan, so that no two governors can both be the last one allowed."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quantum_assets.governor_permit import decide_plans
from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.world import hash_of, run_cycle, write_candles, write_plan, write_position

SYMBOL = "BTCUSDT"
CHEAP = {"qty": 0.001, "price": 1.0}


def outcome(store: RedisStore, plan_id: str, **fields: Any) -> str:
    """Decide one plan; give the reason it was refused for, empty for a permit."""
    write_plan(store, plan_id, SYMBOL, **{"action": "CLOSE", **CHEAP, **fields})
    decide_plans(store, cycle_id="c1")
    block, permit = hash_of(store, "block", plan_id), hash_of(store, "permit", plan_id)
    assert bool(block) != bool(permit)
    return block.get("reason", "")


def test_the_third_permit_in_five_minutes_and_the_fourth_in_an_hour_are_refused(store, clock) -> None:
    """The hourly limit is looked at first, as the specification orders them."""
    assert [outcome(store, f"p{number}") for number in range(3)] == ["", "", "burst_limit_exceeded"]
    clock.advance(299)
    assert outcome(store, "p3") == "burst_limit_exceeded"
    clock.advance(1)
    assert outcome(store, "p4") == ""
    assert outcome(store, "p5") == "hourly_limit_exceeded"
    clock.advance(3300)
    assert outcome(store, "p6") == ""  # the first two are an hour old


def test_what_was_refused_counts_against_no_limit(store, clock) -> None:
    """Else a planner that asks too often shuts itself out for ever."""
    for number in range(9):
        outcome(store, f"p{number}")
    clock.advance(300)
    assert outcome(store, "late") == ""
    assert store.client.llen("quantum:governor:exec:BTCUSDT:close") == 3


@pytest.mark.parametrize(
    ("first", "second", "reason"), [(4000, 1000, ""), (4000, 1000.01, "daily_limit_exceeded"), (5001, 1, "")]
)
def test_the_day_has_a_total_in_dollars(store, clock, first, second, reason) -> None:
    """Exactly the limit is within it; a plan that is refused does not use it up."""
    assert outcome(store, "p0", qty=1, price=first) == ("" if first <= 5000 else "daily_limit_exceeded")
    assert outcome(store, "p1", qty=1, price=second) == reason
    clock.advance(12 * 3600)  # the next UTC day
    assert outcome(store, "p2", qty=1, price=4000) == ""


def test_without_a_price_the_day_has_a_total_of_its_own_in_coins(store) -> None:
    """Dollars and coins are never added up."""
    assert outcome(store, "p0", qty=1, price=5000) == ""
    assert outcome(store, "p1", qty=0.021, price="") == "daily_limit_exceeded"
    assert outcome(store, "p2", qty=0.02, price="") == ""
    keys = sorted(key.decode().rpartition(":")[2] for key in store.client.keys("quantum:governor:daily:*"))
    assert keys == ["qty", "usd"]


def test_a_close_of_unknown_size_passes_and_is_counted(store) -> None:
    """What reduces risk is not refused for want of a number."""
    assert [outcome(store, f"p{number}", qty="", price="") for number in range(3)] == ["", "", "burst_limit_exceeded"]


@pytest.mark.parametrize(("key", "value"), [("exec", "x"), ("daily", "x")])
def test_counts_that_cannot_be_read_grant_nothing_and_hold_up_nobody(store, clock, key, value) -> None:
    """Unknown means no; and one symbol's bad key once kept all plans waiting for ever."""
    name = {
        "exec": "quantum:governor:exec:BTCUSDT:close",
        "daily": f"quantum:governor:daily:BTCUSDT:close:{clock.now.date()}:usd",
    }[key]
    store.client.set(name, value)
    write_plan(store, "other", "ETHUSDT", "CLOSE", **CHEAP)
    assert outcome(store, "p0") == "evaluation_error"
    assert hash_of(store, "permit", "other")["granted"] == "true"
    assert store.client.xpending("quantum:stream:apply.plan", "governor")["pending"] == 0


def test_a_plan_cannot_talk_its_size_down(store, instance) -> None:
    """A price of a cent, or a quantity of nought beside the real one, once passed any daily total."""
    write_position(store, SYMBOL, mark=100_000.0, quantity=50)
    write_candles(store, SYMBOL, [100_000.0] * 300)
    run_cycle(store, instance)
    assert outcome(store, "p0", qty=50, price=0.01) == "daily_limit_exceeded"
    assert outcome(store, "p1", qty=0, close_qty=50) == "daily_limit_exceeded"


def test_an_invented_plan_earns_no_permit_on_live_data(store) -> None:
    """The example feed on a real server must not open anything."""
    assert outcome(store, "p0", source="example") == "synthetic_data"


def test_governors_that_decide_at_once_never_grant_more_than_the_limit(store, clock, server_url) -> None:
    """Two hosts run the governor by mistake; the count and the permit are one step."""
    for number in range(200):
        write_plan(store, f"p{number}", f"S{number % 10}USDT", "CLOSE", **CHEAP)
    stores = [RedisStore(load_settings(redis_url=server_url), clock) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: decide_plans(one, cycle_id="c1"), stores * 3))
    events = [fields for _, fields in store.client.xrange("quantum:stream:governor.events")]
    events = [fields for fields in events if fields[b"event"] != b"AUTO_DISARM"]
    assert Counter(fields[b"plan_id"] for fields in events).most_common(1)[0][1] == 1
    assert len(events) == 200
    granted = Counter(fields[b"symbol"] for fields in events if fields[b"event"] == b"PERMIT")
    assert set(granted.values()) == {2}
    for one in stores:
        one.client.close()
