"""Redis changes places: whoever holds a connection to the server that was the master lets go of it and asks for the address again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from quantum_core.settings import SettingsError, load_settings
from quantum_ops.alerts.watcher import EVERY_SEC, Watcher
from quantum_ops.doctor.diagnosis import diagnose
from resources.governor import queue
from resources.governor.queue import GROUP, PlanQueue
from resources.governor.record import Recorder
from resources.instance.launcher import celery_arguments
from resources.store.redis_store import RedisStore
from resources.store.transport import breaker, connection
from resources.store.transport.unavailable import RedisUnavailableError
from tests.governor.desk import Desk
from tests.proxy import Signpost
from tests.servers import free_port, server_of
from tests.waiting import wait_for

HASTY = ("--shutdown-timeout", "0")  # a master that is stopped otherwise waits for its replica
ASKED = "planted-of-sentinels"
SET = [("SET", "k", "v")]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Two servers, each in a folder of its own."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with server_of("redis", tmp_path / "a", *HASTY) as first, server_of("redis", tmp_path / "b", *HASTY) as second:
        yield first, second


@pytest.fixture
def one(tmp_path: Path) -> Iterator[redis.Redis]:
    """A server that a test may put into any state."""
    with server_of("redis", tmp_path, *HASTY) as port:
        yield redis.Redis(port=port)


def url_of(client: redis.Redis) -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}"


def demote(port: int, master: int) -> None:
    """Make a master a replica without closing what is connected to it, as some proxies and managed servers do."""
    redis.Redis(port=port).replicaof("127.0.0.1", master)


def test_an_address_that_leads_elsewhere_is_followed_without_a_restart(pair, monkeypatch) -> None:
    """Every process kept its connection to the demoted server, and no cycle ran until they were restarted by hand."""
    monkeypatch.setattr(breaker, "AWAY_SEC", 0.0)
    first, second = pair
    with Signpost(first) as address:
        store = RedisStore(load_settings(redis_url=address.url))
        assert store.run("writing", SET) == [b"OK"]
        demote(first, second)
        address.port = second
        with pytest.raises(RedisUnavailableError, match="is a read-only replica and cannot be used while writing"):
            store.run("writing", SET)
        assert store.run("writing", SET) == [b"OK"]
        assert redis.Redis(port=second).get("k") == b"v"
        store.client.close()


def test_who_only_reads_asks_for_the_address_again_from_time_to_time(pair, monkeypatch) -> None:
    """A replica answers reads: nothing tells an exporter that its server is no master any more."""
    first, second = pair
    redis.Redis(port=second).set("k", "new")
    with Signpost(first) as address:
        store = RedisStore(load_settings(redis_url=address.url))
        assert store.run("reading", [("GET", "k")]) == [None]
        address.port = second
        assert store.run("reading", [("GET", "k")]) == [None]
        monkeypatch.setattr(connection, "RECONNECT_SEC", 0.0)
        assert store.run("reading", [("GET", "k")]) == [b"new"]
        store.client.close()


@pytest.mark.slow
def test_a_decision_that_a_failover_lost_is_not_acknowledged_to_the_promoted_server(pair, clock, monkeypatch) -> None:
    """A governor that hung between recording and acknowledging left a plan without a decision, and nobody took it again."""
    first, second = pair
    promoted = redis.Redis(port=second)
    demote(second, first)
    with Signpost(first) as address:
        store = RedisStore(load_settings(redis_url=address.url, symbols="BTCUSDT"), clock)
        desk = Desk(store)
        desk.ready("BTCUSDT")
        desk.plan("p1", "BTCUSDT", "CLOSE")
        (plan,) = PlanQueue(store).take()
        wait_for(
            "the replica's group",
            lambda: promoted.exists(store.keys.of("stream_plans")) and promoted.xinfo_groups(store.keys.of("stream_plans")),
        )
        wait_for("the replica's pending entry", lambda: promoted.xpending(store.keys.of("stream_plans"), GROUP)["pending"] == 1)
        promoted.replicaof("NO", "ONE")

        def change_places(*_: object) -> None:
            monkeypatch.undo()
            address.port = second
            store.client.connection_pool.disconnect()

        monkeypatch.setattr(PlanQueue, "take", lambda _: [plan])
        monkeypatch.setattr(Recorder, "_disarm_if_due", change_places)  # between the two
        desk.decide()
        assert redis.Redis(port=first).exists(store.keys.of("permit", "p1"))
        assert (desk.outcome("p1"), desk.pending()) == (None, 1)
        monkeypatch.setattr(queue, "RECLAIM_IDLE_MS", 0)
        desk.decide()
        assert (desk.outcome("p1"), desk.pending(), len(desk.events())) == ("", 0, 1)
        store.client.close()


@pytest.mark.parametrize(
    ("made", "condition"),
    [
        ("REPLICAOF 127.0.0.1 1", "a read-only replica"),
        ("CONFIG SET maxmemory 1", "out of memory (maxmemory)"),
        ("CONFIG SET min-replicas-to-write 1", "without the replicas that min-replicas-to-write demands"),
    ],
)
def test_what_the_server_is_comes_first(one, made: str, condition: str) -> None:
    """The alert said that the sensor daemon is silent; nothing named the server."""
    one.execute_command(*made.split())
    for command in (SET[0], ("EVAL", "return redis.call('SET', KEYS[1], 'v')", 1, "k")):
        store = RedisStore(load_settings(redis_url=url_of(one)))
        with pytest.raises(RedisUnavailableError, match=r"^Redis at .* is .* and cannot be used while writing") as raised:
            store.run("writing", [command])
        assert raised.value.condition == condition
        store.client.close()


@pytest.mark.parametrize(
    ("answer", "condition"),
    [
        ("MOVED 3999 127.0.0.1:6381", "a server whose keys have moved to another"),
        ("CLUSTERDOWN The cluster is down", "part of a cluster that is down"),
        ("LOADING Redis is loading the dataset in memory", "a server that is still loading its data"),
        ("MASTERDOWN Link with MASTER is down", "a replica that has lost its master"),
    ],
)
def test_what_a_cluster_or_a_starting_server_answers_is_no_trouble_of_a_key(server_url, answer: str, condition: str) -> None:
    """MOVED was taken for a trouble of each key: every symbol was unreadable, and the connection stayed."""
    store = RedisStore(load_settings(redis_url=server_url))
    with pytest.raises(RedisUnavailableError) as raised:
        store.run("asking", [("EVAL", f"return redis.error_reply('{answer}')", 0)])
    assert raised.value.condition == condition
    store.client.close()


def test_a_watcher_on_a_read_only_replica_says_just_that_and_ends_it(one, clock, tmp_path, monkeypatch) -> None:
    """It can read there, and nothing it reads moves: the daemon looked silent, and was restarted in vain."""
    monkeypatch.setattr(breaker, "AWAY_SEC", 0.0)
    store = RedisStore(load_settings(redis_url=url_of(one), quantum_home=tmp_path), clock)
    told = []
    watcher = Watcher(store, say=told.append)
    one.replicaof("127.0.0.1", 1)
    for _ in range(20):
        clock.advance(EVERY_SEC)
        watcher.round()
    (raised,) = told
    assert raised.alert == "redis"
    assert "is a read-only replica since" in raised.title
    one.replicaof("NO", "ONE")

    def ended() -> bool:
        clock.advance(EVERY_SEC)
        watcher.round()
        return ("cleared", "redis") in [(message.event, message.alert) for message in told]

    wait_for("the alert to be cleared", ended)  # on a busy machine the store leaves a slow server alone for seconds
    store.client.close()


def test_the_broker_is_followed_too(pair) -> None:
    """Workers died of a ReadOnlyError, and what the daemon sent went on to the old master."""
    first, second = pair
    with Signpost(first) as address:
        arguments = celery_arguments(load_settings(redis_url=address.url))
        del arguments["default_queue"]
        sender = Celery("sender", set_as_current=False, **arguments)
        sender.send_task("t")
        demote(first, second)
        address.port = second
        with pytest.raises(OperationalError, match="a read-only replica"):
            sender.send_task("t")
        sender.send_task("t")
        assert redis.Redis(port=second).llen("quantum:celery:quantum") == 1
        sender.close()


def test_sentinels_name_the_master_to_store_broker_and_doctor(one, tmp_path) -> None:
    """Their addresses were taken for those of servers."""
    one.execute_command("ACL SETUSER u on >p@/1 ~* &* +@all")
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {url_of(one).rpartition(':')[2]} 1\nrequirepass {ASKED}\n")
    with server_of("redis", tmp_path, str(config), "--sentinel") as port:
        gone = free_port()
        named = {"redis_url": f"redis+sentinel://u:p%40%2F1@127.0.0.1:{gone},127.0.0.1:{port}/main/3"}
        apart = {"redis_url": "redis://u:p%40%2F1@any/3", "redis_sentinels": f"127.0.0.1:{gone},127.0.0.1:{port}"}
        for given in (named, {**apart, "redis_sentinel_service": "main"}):
            settings = load_settings(**given, redis_sentinel_password=ASKED, governor_redis_url=given["redis_url"])
            store = RedisStore(settings)
            assert store.run("writing", SET) == [b"OK"]
            assert store.client.client_info()["db"] == 3
            assert store.place == url_of(one).removeprefix("redis://")
            assert store.as_governor().run("asking", [("ACL", "WHOAMI")]) == [b"u"]
            assert "p%40" not in settings.redis_address
            arguments = celery_arguments(settings)
            del arguments["default_queue"]
            with Celery("sender", set_as_current=False, **arguments) as sender:
                sender.send_task("t")
            found = {finding.what: finding for finding in diagnose(settings)}
            assert (found["sentinels"].level, found["sentinels"].seen.partition(",")[0]) == ("fail", "1 of 2 answer")
            store.client.close()
        assert redis.Redis(port=one.connection_pool.connection_kwargs["port"], db=3).llen("quantum:celery:quantum") == 2
        wrong = RedisStore(load_settings(**{**named, "redis_url": named["redis_url"].replace("/main/", "/other/")}))
        with pytest.raises(RedisUnavailableError, match=r"No master found for 'other'\)\. .*know the service by that name"):
            wrong.run("writing", SET)


@pytest.mark.parametrize(
    "wrong",
    [
        {"redis_url": "redis+sentinel://a:1"},
        {"redis_url": "redis+sentinel://a:1,b:0/main"},
        {"redis_url": "redis+sentinel://u:secret/1@a:1/main"},
        {"redis_url": "redis+sentinel://a:1/main/x"},
        {"redis_url": "redis+sentinel://a:1/main", "redis_sentinels": "a:1"},
        {"redis_sentinels": "a:99999"},
        {"redis_sentinels": "a:1", "redis_sentinel_service": "no/name"},
        {"redis_url": "redis+sentinel://a:1/main", "governor_redis_url": "redis+sentinel://a:1/other"},
    ],
)
def test_an_address_of_sentinels_that_is_none_is_refused_without_its_password(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"accepted|must be the server") as raised:
        load_settings(**wrong)
    assert "secret" not in str(raised.value)
