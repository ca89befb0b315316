"""A batch of plans is decided at one moment: what is judged, counted, stamped and disarmed names the same one."""

from collections.abc import Callable
from datetime import datetime, timedelta

from quantum_assets.governor_permit import decide_plans
from resources.governor.permit import read_permit
from resources.governor.switches import read_switches
from resources.store.redis_store import RedisStore
from tests.conftest import START
from tests.governor.desk import Desk

SYMBOL, OTHER = "BTCUSDT", "ETHUSDT"


class TickingClock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> datetime:
        self.reads += 1
        return START + timedelta(seconds=self.reads)


def test_the_clock_is_read_once_for_a_batch_of_plans(make_store: Callable[..., RedisStore]) -> None:
    """A plan judged at one second and counted at the next may be fresh by the one and too old by the other."""
    desk = Desk(make_store(symbols=f"{SYMBOL},{OTHER}", position_absent="flat", allow_synthetic=True))
    desk.ready(SYMBOL, OTHER)
    for number in range(3):  # the third is a burst, which disarms its planner
        desk.plan(f"open-{number}", SYMBOL, source="harvest_brain")
    desk.store.client.set(f"quantum:governor:exec:{OTHER}:close", "no list")
    desk.plan("uncountable", OTHER, "CLOSE")
    clock = TickingClock()
    store = RedisStore(desk.store.settings, clock)
    decided = decide_plans(store, cycle_id="c1")
    assert [one.reason for one in decided] == ["", "", "burst_limit_exceeded", "evaluation_error"]
    assert clock.reads == 1
    moment = START + timedelta(seconds=1)
    assert {float(event["timestamp_epoch"]) for event in desk.events()} == {moment.timestamp()}
    assert {event["event"] for event in desk.events()} == {"PERMIT", "BLOCK", "AUTO_DISARM"}
    assert read_permit(desk.store, SYMBOL, "open-0")["created_at"] == moment
    assert set(desk.store.client.lrange(f"quantum:governor:exec:{SYMBOL}", 0, -1)) == {repr(moment.timestamp()).encode()}
    assert read_switches(desk.store).scopes["source:harvest_brain"]["at"] == moment.isoformat()
    store.client.close()
