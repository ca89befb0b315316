"""Users of Redis: each role may do its own work and nothing else, on a real Redis and a real Valkey that load the shipped list."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from quantum_core.contracts.roles import ADDERS, ADMIN, BROKER, FEED, GOVERNOR, OPERATOR, PROPOSALS, READER, WATCH, WRITERS, acl
from quantum_core.contracts.tables import Keys
from quantum_core.profiles.files import load as load_profile
from quantum_core.settings import load_settings
from quantum_ops.alerts.trading.signs import TradingSignsReader
from quantum_ops.doctor.diagnosis import diagnose
from resources.governor.switches import arm, kill
from resources.store.profiles import history as profile_history
from resources.store.profiles import profile_now
from resources.store.profiles import use as use_profile
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from tests.servers import ACL_FILE, as_user, need, server_of, url_of, with_passwords
from tests.world import real_closes, run_cycle, write_candles, write_equity, write_plan, write_position, write_target

ROLES = [line.split()[1] for line in ACL_FILE.read_text().splitlines() if line.startswith("user quantum-")]
HOLES = {"permit": "p-1", "block": "p-1", "seen_plan": "p-1", "heartbeat": "worker", "guard_active": "DRAWDOWN"}
HARMLESS = {"info"}  # of the commands that Redis calls dangerous: figures of the server
DELETES = "return redis.call('DEL', KEYS[1])"
ADDS = "return redis.call('XADD', KEYS[1], '*', 'field', 'x')"
WRITES_OF_ALL_KINDS: tuple[tuple[Any, ...], ...] = (
    ("SET", "KEY", "x"),
    ("SETEX", "KEY", 10, "x"),
    ("GETDEL", "KEY"),
    ("GETEX", "KEY", "EX", 10),
    ("APPEND", "KEY", "x"),
    ("INCRBYFLOAT", "KEY", 1),
    ("HSET", "KEY", "field", "x"),
    ("HDEL", "KEY", "field"),
    ("XADD", "KEY", "*", "field", "x"),
    ("XADD", "KEY", "MAXLEN", 1, "*", "field", "x"),
    ("XTRIM", "KEY", "MAXLEN", 0),
    ("XGROUP", "CREATE", "KEY", "other", "0", "MKSTREAM"),
    ("LPUSH", "KEY", "x"),
    ("LPOP", "KEY"),
    ("SADD", "KEY", "x"),
    ("ZADD", "KEY", 1, "x"),
    ("EXPIRE", "KEY", 1),
    ("PERSIST", "KEY"),
    ("RENAME", "KEY", "KEY"),
    ("COPY", "KEY", "KEY"),
    ("EVAL", DELETES, 1, "KEY"),
    ("EVAL", ADDS, 1, "KEY"),
    ("DEL", "KEY"),
    ("UNLINK", "KEY"),
)


class Server(NamedTuple):
    """A server with the shipped users."""

    port: int
    admin: redis.Redis


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start it; the operator has given every user a password."""
    folder = tmp_path_factory.mktemp(request.param)
    with server_of(request.param, folder, "--aclfile", str(with_passwords(folder))) as port, as_user(ADMIN, port) as admin:
        yield Server(port, admin)


def replies(client: redis.Redis, commands: list[tuple[Any, ...]]) -> list[Any]:
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        return pipe.execute(raise_on_error=False)


def refused(reply: Any) -> bool:
    """Tell a refusal for want of rights from every other error."""
    words = ("The user executing the script can't", "ACL failure in script", "command not allowed")
    return isinstance(reply, redis.exceptions.NoPermissionError) or any(one in str(reply) for one in words)


def test_the_shipped_list_is_what_the_key_templates_give() -> None:
    """A key that was added must not be open to everybody, nor to nobody."""
    assert ACL_FILE.read_text() == acl(Keys())
    assert WRITERS.keys() == Keys().templates().keys()


def test_nobody_gets_in_before_the_operator_has_given_passwords(tmp_path: Path) -> None:
    """A placeholder that works is a password everybody knows."""
    with server_of("redis", tmp_path, "--aclfile", str(ACL_FILE)) as port:
        once: dict[str, Any] = {"port": port, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
        for user in ({}, *({"username": role, "password": ""} for role in ROLES)):
            with redis.Redis(**once, **user) as client, pytest.raises(redis.exceptions.AuthenticationError):
                client.ping()


def test_the_doctor_finds_no_fault_with_the_shipped_users(server: Server) -> None:
    """What it asks must be allowed to whom it runs as."""
    addresses = {"redis_url": url_of(PROPOSALS, server.port), "governor_redis_url": url_of(GOVERNOR, server.port)}
    found = {one.what: one for one in diagnose(load_settings(**addresses, celery_broker_url=url_of(BROKER, server.port)))}
    of_redis = ("redis", "clock", "broker", f"rights of {PROPOSALS}", f"rights of {GOVERNOR}", "stacks", "our keys")
    assert {name: found[name].seen for name in of_redis if found[name].level != "ok"} == {}


def test_the_documented_commands_give_every_user_a_password_of_its_own(tmp_path: Path) -> None:
    """The guide is what an operator types; its first block is run here as it stands, in another folder."""
    guide = (ACL_FILE.parents[2] / "docs" / "security.md").read_text()
    (tmp_path / "redis").mkdir()
    block = guide.split("```sh\n")[1].split("```")[0]
    script = block.replace("/etc/", f"{tmp_path}/").replace(" -o redis -g redis", "")
    need("openssl")

    def run() -> dict[str, str]:
        subprocess.run(["bash", "-euc", script], cwd=ACL_FILE.parents[2], check=True)
        return {file.stem: file.read_text().strip() for file in (tmp_path / "quantum" / "secrets").iterdir()}

    urls = run()
    assert run() == urls  # once more after an upgrade: whoever has an address keeps it
    assert {f"quantum-{name}" for name in urls} == set(ROLES)
    assert len(set(urls.values())) == len(ROLES)
    with server_of("redis", tmp_path, "--aclfile", str(tmp_path / "redis" / "users.acl")) as port:
        for url in urls.values():
            address = url.replace("rediss://", "redis://").replace("localhost:6379", f"127.0.0.1:{port}")
            with redis.Redis.from_url(address, protocol=2) as client:
                assert client.ping()


def test_a_script_under_the_wrong_user_is_refused_in_words_that_help(server: Server) -> None:
    """Redis 7.0 says something else inside a script than outside; to publish nothing for want of a right is no symbol's fault."""
    store = RedisStore(load_settings(redis_url=url_of(PROPOSALS, server.port)))
    with pytest.raises(RedisUnavailableError, match="The user of that address may not do this"):
        store.run("writing candles", [("EVAL", ADDS, 1, store.keys.of("candles_history", "BTCUSDT"))])


def test_the_watcher_signs_for_itself_only(server: Server) -> None:
    """Who could sign for a dead part could hide that it is dead."""
    with as_user(WATCH, server.port) as watch:
        own, others, cycles = replies(
            watch,
            [("SET", f"quantum:heartbeat:{part}", 1, "EX", 60) for part in ("watch", "worker")]
            + [("LPUSH", "quantum:heartbeat:cycles:BTCUSDT", 1)],
        )
    assert own is True
    assert refused(others)
    assert refused(cycles)


def test_the_watcher_may_read_what_was_decided(server: Server) -> None:
    """A watcher that may not read the switches would see Redis as away."""
    kill(RedisStore(load_settings(redis_url=url_of(OPERATOR, server.port))), reason="wrong prices", by="test")
    watch = RedisStore(load_settings(redis_url=url_of(WATCH, server.port)))
    signs = TradingSignsReader(watch).read({}, refused=["BTCUSDT"], permits={"p-1": "BTCUSDT"})
    assert signs.killed
    assert signs.entries[-1].fields["reason"] == "wrong prices"
    watch.client.close()


def test_only_an_operator_puts_a_profile_in_force_and_all_of_ours_see_it(server: Server) -> None:
    """Who proposes or decides must not choose the limits it is held to."""
    server.admin.flushall()
    roles = (PROPOSALS, GOVERNOR, WATCH, READER, OPERATOR)
    for role in roles[:-1]:
        refused_one = RedisStore(load_settings(redis_url=url_of(role, server.port)))
        with pytest.raises(RedisUnavailableError, match="may not do this"):
            use_profile(refused_one, load_profile("crypto-1m"), by="mallory", reason="more room")
        refused_one.client.close()
    stores = {role: RedisStore(load_settings(redis_url=url_of(role, server.port))) for role in roles}
    assert server.admin.exists("quantum:profile:history") == 0
    use_profile(stores[OPERATOR], load_profile("crypto-1m"), by="ada", reason="minutes")
    for store in stores.values():
        assert [one.by for one in profile_history(store)] == ["ada"]
        assert profile_now(store, requesting=store is stores[PROPOSALS]).profile.name == "crypto-1m"
        store.client.close()


@pytest.mark.parametrize("program", ["redis", "valkey"])
def test_what_was_written_under_the_shipped_users_outlives_a_restart_of_the_server(program: str, tmp_path: Path) -> None:
    """A server repeats transactions of its append-only file under the rights of `default`, and drops what those do not allow."""
    users = with_passwords(tmp_path)
    options = ("--aclfile", str(users), "--appendonly", "yes")
    with server_of(program, tmp_path, *options) as port:
        store = RedisStore(load_settings(redis_url=url_of(OPERATOR, port)))
        kill(store, reason="wrong prices", by="test")
        with as_user(PROPOSALS, port) as proposals, proposals.pipeline(transaction=True) as pipe:
            pipe.hset("quantum:position:tracked:BTCUSDT", "peak_price", 1).hset(
                "quantum:marketstate:BTCUSDT", "sigma", 1
            ).execute()
        with as_user(GOVERNOR, port) as governor:
            script = "redis.call('LPUSH', KEYS[1], 1) redis.call('SET', KEYS[2], 1)"
            governor.eval(script, 2, "quantum:governor:exec:BTCUSDT", "quantum:governor:seen:p1")
        with as_user(ADMIN, port) as admin:
            before = sorted(admin.keys("*"))
    with server_of(program, tmp_path, *options) as port, as_user(ADMIN, port) as admin:
        assert sorted(admin.keys("*")) == before
        assert len(before) >= 6
        assert b"quantum:kill" in before


def test_what_decides_and_what_proposes_are_apart() -> None:
    """The table of writers is the one place where this could be given away by mistake, so its core is said a second time here."""
    deciding = {
        "permit",
        "block",
        "governor_state",
        "permits_granted",
        "permitted_today",
        "seen_plan",
        "risk_guard",
        "guard_active",
    }
    deciding |= {
        "kill",
        "disarmed",
        "disarm",
        "governor_errors",
        "stream_governor_events",
        "stream_risk_events",
        "guard_readings",
    }
    proposing = {"market_state", "risk_proposal", "harvest_proposal", "allocation_target", "position", "trade_intent_last"}
    written = {role: {name for name, writers in WRITERS.items() if role in writers} for role in ROLES}
    assert written[PROPOSALS] & deciding == set()
    assert written[GOVERNOR] & (proposing | {"kill"}) == set()
    assert written[READER] == written[BROKER] == set()
    assert written[PROPOSALS] & {"base_target", "raw_position", "equity", "daily_pnl", "consecutive_losses"} == set()
    assert [role for role in ROLES if "kill" in written[role]] == [OPERATOR]


@pytest.mark.parametrize("role", [role for role in ROLES if role != ADMIN])
def test_a_role_writes_its_own_keys_and_no_others(server: Server, role: str) -> None:
    """Every way to write, delete, rename or expire, straight and from a script, on a key of every template."""
    keys = Keys()
    with as_user(role, server.port) as client:
        for name, writers in WRITERS.items():
            key = keys.of(name, HOLES.get(name, "BTCUSDT")) + (":2026-01-22:usd" if name == "permitted_today" else "")
            server.admin.delete(key)
            server.admin.set(key, "1")
            found = replies(client, [tuple(key if part == "KEY" else part for part in one) for one in WRITES_OF_ALL_KINDS])
            if role in writers:
                unwanted = [one for one, reply in zip(WRITES_OF_ALL_KINDS, found, strict=True) if refused(reply)]
                assert unwanted == [], key
            elif role in ADDERS.get(name, ()):
                done = [one[:3] for one, reply in zip(WRITES_OF_ALL_KINDS, found, strict=True) if not refused(reply)]
                # and XADD can trim: no list can forbid it
                assert done == [("XADD", "KEY", "*"), ("XADD", "KEY", "MAXLEN"), ("EVAL", ADDS, 1)], key
            else:
                assert [one for one, reply in zip(WRITES_OF_ALL_KINDS, found, strict=True) if not refused(reply)] == [], key
                assert server.admin.get(key) == b"1", key


@pytest.mark.parametrize("role", [role for role in ROLES if role != ADMIN])
def test_nobody_but_the_admin_can_run_what_harms_the_server(server: Server, role: str) -> None:
    """All commands that this very server counts as dangerous or administrative, with as many arguments as they want."""
    names = {
        name.decode()
        for category in ("dangerous", "admin")
        for name in server.admin.execute_command("COMMAND LIST", "FILTERBY", "ACLCAT", category)
    } | {"script|flush", "script|load", "function|load", "function|flush", "fcall", "keys", "flushall", "flushdb"}
    told = server.admin.execute_command("COMMAND INFO", *sorted(names))
    with as_user(role, server.port) as client:
        tried = 0
        for name, about in zip(sorted(names), list(told.values()) if isinstance(told, dict) else told, strict=True):
            arity = abs(about["arity"] if isinstance(about, dict) else about[1])
            words = name.upper().split("|")
            if name in HARMLESS or _is_container(about) or (role, name) == (BROKER, "script|load"):
                continue
            command = (*words, *["1"] * max(arity - len(words), 0))
            (reply,) = replies(client, [command])
            assert refused(reply), (command, reply)
            tried += 1
        assert tried > 60


def _is_container(about: Any) -> bool:
    return bool(about["subcommands"] if isinstance(about, dict) else about[9])


def test_a_reader_reads_everything_and_the_feed_and_the_broker_only_their_own(server: Server) -> None:
    """What a dashboard shows must not need more than a reader's address."""
    server.admin.flushall()
    keys = [Keys().of(name, "BTCUSDT") for name in WRITERS]
    with as_user(READER, server.port) as reader, as_user(FEED, server.port) as feed, as_user(BROKER, server.port) as broker:
        assert replies(reader, [("GET", key) for key in keys]) == [None] * len(keys)
        assert refused(replies(feed, [("GET", Keys().of("permit", "p-1"))])[0])
        assert replies(broker, [("LPUSH", "quantum:celery:quantum", "x")]) == [1]
        assert refused(replies(broker, [("LPUSH", "quantum:heartbeat:cycles:BTCUSDT", "x")])[0])
        assert refused(replies(broker, [("GET", "quantum:kill")])[0])


def test_a_script_of_the_governor_may_name_the_kill_switch_but_not_clear_it(server: Server) -> None:
    """The script that decides reads it together with everything else; who could decide and clear it would answer to nobody."""
    server.admin.set("quantum:kill", "1")
    with (
        as_user(GOVERNOR, server.port) as governor,
        as_user(PROPOSALS, server.port) as proposals,
        as_user(OPERATOR, server.port) as operator,
    ):
        for client in (governor, proposals):
            assert client.eval("return redis.call('GET', KEYS[1])", 1, "quantum:kill") == b"1"
            assert refused(replies(client, [("EVAL", DELETES, 1, "quantum:kill")])[0])
            assert refused(replies(client, [("EVAL", "return redis.call('FLUSHALL')", 0)])[0])
        assert operator.eval(DELETES, 1, "quantum:kill") == 1


def test_a_cycle_runs_under_role_users_and_nothing_is_denied(server: Server, tmp_path: Path) -> None:
    """Rights that are too narrow stop the loop at three in the morning; the server's own list of denials says so first."""
    server.admin.flushall()
    server.admin.acl_log_reset()
    settings = load_settings(
        redis_url=url_of(PROPOSALS, server.port),
        governor_redis_url=url_of(GOVERNOR, server.port),
        quantum_home=tmp_path,
        intent_mode="plan",
        enable_stream=True,
        efficiency_mode="enforce",
    )
    store = RedisStore(settings)
    admin = RedisStore(load_settings(redis_url=url_of(ADMIN, server.port)))
    for symbol in settings.symbols:
        closes = real_closes(symbol)
        write_candles(admin, symbol, closes)
        write_position(admin, symbol, entry=closes[-1] * 0.9, mark=closes[-1])
        write_target(admin, symbol)
    write_equity(admin, equity=8_000)
    write_plan(admin, "p-1", "BTCUSDT")
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_cycle(store, instance).success
    assert server.admin.acl_log() == []
    assert server.admin.exists("quantum:permit:p-1", "quantum:governor:block:p-1") == 1
    assert server.admin.exists("quantum:risk:guard_active:DRAWDOWN") == 1
    assert server.admin.xlen("quantum:stream:apply.plan") > 1
    operator = RedisStore(load_settings(redis_url=url_of(OPERATOR, server.port)))
    assert kill(operator, reason="trial", by="Ada").unrecorded == ""
    assert "kill" in arm(operator, name="Ada", reason="over")
    assert server.admin.acl_log() == []
    for one in (store, admin, operator):
        one.client.close()
