"""In a Redis Cluster the keys of one symbol share a slot; here a server in cluster mode refuses what does not."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantum_core.settings import load_settings
from resources.governor.decisions import decided_again, look_up
from resources.governor.permit import read_permit
from resources.store.redis_store import RedisStore
from tests.conftest import Clock
from tests.governor.desk import Desk
from tests.servers import free_port, valkey

SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture
def desk(clock: Clock, tmp_path: Path) -> Iterator[Desk]:
    """A desk on a cluster of one server, which has all slots and still refuses scripts across them."""
    with valkey(config={"cluster-enabled": "yes", "cluster-port": free_port()}) as server:
        settings = load_settings(
            redis_url=server.connection_url, quantum_home=tmp_path, symbols=",".join(SYMBOLS), key_template="cluster"
        )
        store = RedisStore(settings, clock)
        store.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 20
        while "cluster_state:ok" not in str(store.client.execute_command("CLUSTER", "INFO")).replace("': '", ":"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Desk(store)
        store.client.close()


def test_plans_are_decided_and_recorded_in_a_cluster(desk: Desk) -> None:
    """One script over two slots is refused there, and nothing would ever be decided."""
    store = desk.store
    desk.ready(*SYMBOLS)
    desk.plan("p1", "BTCUSDT")
    for number in range(3):
        desk.plan(f"c{number}", "ETHUSDT", "CLOSE")
        desk.plan(f"o{number}", "ETHUSDT")
    desk.plan("bad", "", "CLOSE")
    desk.decide()
    assert read_permit(store, "BTCUSDT", "p1") is not None
    assert store.client.exists("quantum:permit:{BTCUSDT}:p1")
    assert store.client.hget("quantum:governor:block:{ETHUSDT}:c2", "reason") == b"burst_limit_exceeded"
    assert store.client.hget("quantum:governor:block:{-}:bad", "reason") == b"invalid_plan:symbol"
    case = look_up(store, "c2")
    assert [decided_again(event) for event in case.events] == ["burst_limit_exceeded"]
    for key in ("quantum:governor:exec:{ETHUSDT}", "quantum:governor:exec:{ETHUSDT}:close"):
        assert store.client.llen(key) == 2
    assert store.client.hkeys(store.keys.of("disarmed_scopes")) == [b"symbol:ETHUSDT"]
    desk.plan("p2", "ETHUSDT")
    desk.plan("p3", "BTCUSDT")
    desk.plan("p4", "ETHUSDT", "CLOSE", source="harvest_brain")
    desk.decide()
    assert store.client.hget("quantum:governor:block:{ETHUSDT}:p2", "reason") == b"disarmed"
    assert read_permit(store, "BTCUSDT", "p3") is not None
    assert store.client.hget("quantum:governor:block:{ETHUSDT}:p4", "reason") == b"burst_limit_exceeded"
