"""The bell wakes whom it should, when it should, on real servers; and the daemon's loop goes round as it is told."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import redis
from dagster._daemon import daemon as daemons
from dagster._daemon import sensor as stock_daemon

from quantum_core.contracts.tables import Keys
from quantum_core.settings import Settings, load_settings
from resources.instance.bell import AGAIN_SEC, FORGOTTEN_SEC, GRID_SEC, WAITING_SEC, WAKES, Bell, prefixes
from resources.instance.sensor_daemon import Turns, wake_by_the_bell
from resources.store.transport.unavailable import RedisUnavailableError
from tests.waiting import wait_for


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["valkey_url", "redis_url"])
def server(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """Give an empty server."""
    with redis.Redis.from_url(request.getfixturevalue(request.param)) as client:
        client.flushall()
        yield client


def settings_of(server: redis.Redis) -> Settings:
    at = server.connection_pool.connection_kwargs
    return load_settings(redis_url=f"redis://{at.get('host', 'localhost')}:{at['port']}/0")


@pytest.fixture
def bell(server: redis.Redis) -> Iterator[Bell]:
    """Give a bell that hears, and has woken everybody once."""
    bell = Bell(settings_of(server))
    wait_for("the bell's own heartbeat", lambda: bell.listen(time.monotonic() + 0.02) or heard(server) > 0)
    wait_for("the first ring", lambda: taken_by(bell) == set(WAKES))
    yield bell
    bell._give_up("the test is over")


def heard(server: redis.Redis) -> float:
    """Give the heartbeat as it stands."""
    return float(server.get("quantum:heartbeat:bell") or 0)


def taken_by(bell: Bell, sec: float = 0.4) -> set[str]:
    """Listen for a while, and take whoever is to be woken."""
    woken, until = set(), time.monotonic() + sec
    while time.monotonic() < until:
        bell.listen(until)
        woken |= {sensor for sensor in WAKES if bell.is_due(sensor) and bell.take(sensor)}
    return woken


KEYS = Keys()
WRITES: dict[str, tuple[Callable[[redis.Redis], Any], set[str]]] = {
    "a plan": (lambda server: server.xadd("quantum:stream:apply.plan", {"plan_id": "p"}), {"plans"}),
    "the kill switch": (lambda server: server.set(KEYS.of("kill"), 1), {"plans"}),
    "a scope disarmed": (lambda server: server.hset("quantum:governor:disarm:scopes", "symbol:A", "x"), {"plans"}),
    "a candle in a sorted set": (lambda server: server.zadd("quantum:history:ohlcv:A:1m", {"{}": 1}), {"cycle"}),
    "a candle in a list": (lambda server: server.rpush("quantum:candles:A", "{}"), {"cycle"}),
    "candles in a string": (lambda server: server.set("quantum:candles:A:1m", "[]"), {"cycle"}),
    "a position": (lambda server: server.hset("quantum:state:positions:A", "side", "LONG"), {"cycle"}),
    "a leg": (lambda server: server.hset("quantum:state:positions:A:LONG", "side", "LONG"), {"cycle"}),
    "the end of an event cycle": (lambda server: server.set("quantum:bell:cycle", 1), {"cycle"}),
    "a proposal": (lambda server: server.hset("quantum:risk:proposal:A", "x", 1), set()),
    "another heartbeat": (lambda server: server.set("quantum:heartbeat:worker", 1), set()),
    "everything deleted": (lambda server: server.flushall(), {"plans", "cycle"}),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_wakes_the_sensor_that_reads_it_and_no_other(bell: Bell, server: redis.Redis, write: str) -> None:
    make, woken = WRITES[write]
    bell._woken.clear()
    make(server)
    assert taken_by(bell) == woken


CERTAIN = ("a plan", "the end of an event cycle", "everything deleted")


@pytest.mark.parametrize("write", ["candles in a string", "a position", "a leg", *CERTAIN])
def test_raw_data_without_news_wakes_nobody_and_everything_else_does(bell: Bell, server: redis.Redis, write: str) -> None:
    """A mark that moves must not cost a tick; what is no raw data has its tick whatever the filter says."""
    asked: list[bytes] = []

    def nothing_new(keys: Collection[bytes]) -> bool:
        asked.extend(keys)
        return False

    bell._is_news = nothing_new
    bell._woken.clear()
    make, woken = WRITES[write]
    make(server)
    assert taken_by(bell) == (woken if write in CERTAIN else set())
    assert bool(asked) is (write not in CERTAIN)
    asked.clear()
    make(server)  # what was dismissed is heard of again
    taken_by(bell)
    assert bool(asked) is (write not in CERTAIN)


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), RedisUnavailableError("redis://x", "looking", OSError("gone"))])
def test_who_cannot_tell_whether_there_is_news_wakes_the_sensor(bell: Bell, server: redis.Redis, error: Exception) -> None:
    """Which then says what is wrong."""

    def fails(_: Collection[bytes]) -> bool:
        raise error

    bell._is_news = fails
    server.hset("quantum:state:positions:A", "side", "LONG")
    assert taken_by(bell) == {"cycle"}


@pytest.mark.parametrize("cluster", [False, True])
def test_no_prefix_is_the_beginning_of_another(cluster) -> None:
    """The server refuses all of them then."""
    names = list(prefixes(Keys(cluster=cluster)))
    assert names
    assert not [(one, other) for one in names for other in names if one != other and other.startswith(one)]


def test_a_connection_that_is_cut_is_made_again_and_wakes_everybody(bell: Bell, server: redis.Redis, caplog) -> None:
    """What was written in between was not heard."""
    server.client_kill_filter(_type="normal", skipme=True)
    server.xadd("quantum:stream:apply.plan", {"plan_id": "p"})
    assert taken_by(bell, 3 * AGAIN_SEC) == {"plans", "cycle"}
    assert caplog.text.count("the bell is silent") == 1
    assert caplog.text.count("the bell rings again") == 1


def test_a_server_that_names_no_writes_any_more_is_noticed(bell: Bell, server: redis.Redis, caplog) -> None:
    """The connection answers, as through a proxy that swallows what nobody asked for."""
    before = heard(server)
    bell._ask("CLIENT", "TRACKING", "OFF")
    bell._probe_at = 0
    wait_for("the bell to notice", lambda: bell.listen(time.monotonic() + 0.1) or "names no writes" in caplog.text)
    bell._woken.clear()
    wait_for("its heartbeat", lambda: bool(taken_by(bell, 0.1)) or heard(server) > before)
    assert "the bell rings again" in caplog.text


def test_a_bell_that_may_not_listen_says_why_and_keeps_nobody_waiting(server: redis.Redis, caplog) -> None:
    server.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "&*", "+@all", "-client")
    port = server.connection_pool.connection_kwargs["port"]
    bell = Bell(load_settings(redis_url=f"redis://deaf:secret@localhost:{port}/0"))
    began = time.monotonic()
    assert not bell.listen(began + 0.3)
    assert time.monotonic() - began >= 0.3  # no busy loop
    assert "permissions" in caplog.text
    assert heard(server) == 0
    server.execute_command("ACL", "DELUSER", "deaf")


def test_plans_that_the_running_decision_has_not_taken_ring_again(bell: Bell, server: redis.Redis) -> None:
    """The tick that the plan rang for has said that a run is deciding, and nothing else would ask before the grid."""
    server.xgroup_create("quantum:stream:apply.plan", "governor", "0", mkstream=True)
    server.xadd("quantum:stream:apply.plan", {"plan_id": "p"})
    assert taken_by(bell, WAITING_SEC / 2) == {"plans"}
    assert taken_by(bell, 2 * WAITING_SEC) == {"plans"}
    server.xreadgroup("governor", "me", {"quantum:stream:apply.plan": ">"})
    taken_by(bell, 1.5 * WAITING_SEC)
    assert taken_by(bell, 3 * WAITING_SEC) == set()


# --- without a server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def silent(clock: Clock) -> Bell:
    """Give a bell by a clock of the test."""
    return Bell(load_settings(redis_url="redis://localhost:1/0"), monotonic=clock)


def test_rings_close_together_wake_once_and_not_sooner_than_the_gap(silent: Bell, clock: Clock) -> None:
    wake = WAKES["cycle"]
    silent.ring("cycle")
    clock.now += wake.debounce_sec / 2
    silent.ring("cycle")
    assert not silent.is_due("cycle")
    clock.now += wake.debounce_sec / 2
    assert silent.take("cycle")
    assert not silent.take("cycle")
    silent.ring("cycle")
    clock.now += silent._gap_sec["cycle"] - 0.01
    assert not silent.is_due("cycle")
    clock.now += 0.02
    assert silent.is_due("cycle")


def test_a_ring_that_nobody_takes_is_forgotten(silent: Bell, clock: Clock) -> None:
    """Its sensor is stopped: the daemon must not go round for ever."""
    silent.ring("plans", at_once=True)
    silent.postpone(0.1)
    assert not silent.is_due("plans")
    clock.now += 0.1
    assert silent.is_due("plans")
    clock.now += FORGOTTEN_SEC
    silent.postpone(0.1)
    clock.now += 10
    assert not silent.is_due("plans")


def test_a_ring_of_raw_data_is_not_let_go_once_something_certain_has_rung(silent: Bell, clock: Clock) -> None:
    """Neither in the order of the rings, nor when the sensor has been asked meanwhile."""
    silent._is_news = lambda _: False
    for rings in ((b"key", b""), (b"", b"key")):
        for written in rings:
            silent.ring("cycle", written=written)
        clock.now += 1
        assert silent.listen(clock.now)
        assert silent.take("cycle")
    silent.ring("cycle", written=b"key")
    assert silent.take("cycle")
    silent.ring("cycle", written=b"key")
    clock.now += 1
    assert not silent.is_due("cycle")
    assert not silent.listen(clock.now)
    assert not silent.take("cycle")
    silent.ring("cycle", written=b"key")
    silent.ring("plans")
    clock.now += 1
    assert silent.listen(clock.now)
    assert (silent.take("plans"), silent.take("cycle")) == (True, False)


class Sensor:
    """What the daemon asks about a sensor."""

    def __init__(self, name: str, interval_sec: int = 3) -> None:
        self.name, self.min_interval_seconds = name, interval_sec


def asked(turns: Turns, name: str, *, by_a_tick: bool = False) -> bool:
    """Ask as the loop does, or as the thread of a tick does; the stock answer is that it is too soon."""
    answers: list[bool] = []
    ask = threading.Thread(target=lambda: answers.append(turns.is_under_min_interval(lambda *_: True, None, Sensor(name))))
    if by_a_tick:
        ask.start()
        ask.join()
    else:
        ask.run()
    return not answers[0]


def test_a_ring_lets_its_sensor_through_until_its_tick_has_begun(silent: Bell, clock: Clock) -> None:
    """A tick that still runs keeps the loop from starting the next one: the ring must not be lost with it."""
    turns = Turns(threading.Event(), silent)
    turns._of_grid = False
    assert not asked(turns, "plans")
    silent.ring("plans")
    clock.now += 0.01
    assert asked(turns, "plans")
    assert asked(turns, "plans")  # the tick before still runs
    assert not asked(turns, "cycle")
    assert asked(turns, "plans", by_a_tick=True)
    assert not asked(turns, "plans", by_a_tick=True)
    assert not asked(turns, "plans")


def test_on_the_grid_all_short_sensors_are_asked_and_long_ones_by_their_own_interval(silent: Bell) -> None:
    turns = Turns(threading.Event(), silent)
    assert asked(turns, "cycle")
    assert asked(turns, "plans")
    assert turns.is_under_min_interval(lambda *_: True, None, Sensor("retention", 30))
    assert not turns.is_under_min_interval(lambda *_: False, None, Sensor("retention", 30))


class Stopwatch(Bell):
    """A bell in whose time listening takes as long as it is asked to, or until the test rings."""

    def __init__(self, clock: Clock, rings: list[float]) -> None:
        super().__init__(load_settings(redis_url="redis://localhost:1/0"), monotonic=clock)
        self.clock, self.rings = clock, rings

    def listen(self, until: float) -> bool:
        if self.rings and self.rings[0] <= until:
            self.clock.now = max(self.clock.now, self.rings.pop(0))
            self.ring("plans", at_once=True)
            return True
        self.clock.now = until
        return False


def test_rings_do_not_shift_the_grid() -> None:
    """The cadence of the cycle hangs on it."""
    clock = Clock()
    turns = Turns(threading.Event(), Stopwatch(clock, [1001.0, 1004.9, 1007.0]), monotonic=clock)
    times = []
    for _ in range(6):
        turns.wait(GRID_SEC)
        times.append((round(clock.now - 1000, 2), turns._of_grid))
        turns.bell.take("plans")
        clock.now += 0.01
    assert times == [(1.0, False), (4.9, False), (5.0, True), (7.0, False), (10.0, True), (15.0, True)]


def test_a_turn_that_took_long_goes_back_to_the_grid() -> None:
    clock = Clock()
    turns = Turns(threading.Event(), Stopwatch(clock, []), monotonic=clock)
    clock.now += 12
    turns.wait(GRID_SEC)
    assert (clock.now, turns._of_grid) == (1015.0, True)


def test_the_daemon_ends_while_it_listens() -> None:
    event = threading.Event()
    event.set()
    assert Turns(event, Stopwatch(Clock(), [])).wait(GRID_SEC)


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test end what the product changes for the life of its process."""
    changed = (stock_daemon, "is_under_min_interval"), (daemons, "execute_sensor_iteration_loop"), (daemons, "time")
    for module, name in changed:
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.mark.usefixtures("stock")
def test_the_stock_loop_uses_the_event_only_to_wait_and_ticks_get_threads(monkeypatch: pytest.MonkeyPatch, silent: Bell) -> None:
    """An upgrade that changes the loop must not go unnoticed."""
    given: list[Any] = []
    monkeypatch.setattr(stock_daemon, "execute_sensor_iteration", lambda *_, **named: given.append(named) or iter(()))
    monkeypatch.setattr(Turns, "__getattr__", lambda _, name: pytest.fail(f"the loop asks its event for {name}"), raising=False)
    waits: list[float] = []
    monkeypatch.setattr(Turns, "wait", lambda _, rest: waits.append(rest))
    wake_by_the_bell(silent)
    loop = daemons.execute_sensor_iteration_loop(None, logging.getLogger(), threading.Event())
    for _ in zip(range(6), loop, strict=False):
        pass
    assert waits
    assert stock_daemon.MIN_INTERVAL_LOOP_TIME == GRID_SEC
    assert given[0]["threadpool_executor"] is not None


@pytest.mark.usefixtures("stock")
def test_without_events_the_daemon_waits_as_it_always_did(monkeypatch: pytest.MonkeyPatch) -> None:
    event, waited = threading.Event(), []
    monkeypatch.setattr(event, "wait", waited.append)
    Turns(event, None).wait(3600.0)
    Turns(event, None).wait(2.0)
    assert waited == [GRID_SEC, 2.0]
    assert Turns(event, None).is_under_min_interval(lambda *_: True, None, Sensor("plans"))
