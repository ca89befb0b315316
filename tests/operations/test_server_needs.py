"""A server that lacks what we need is refused before anything starts, with a list; one that has it is not."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from quantum_assets.checks.evidence import PACKAGES
from quantum_core.contracts.roles import BROKER, GOVERNOR, PROPOSALS
from quantum_core.settings import load_settings
from quantum_ops.doctor.diagnosis import diagnose
from quantum_ops.doctor.server_needs import COMMANDS, ServerUnfitError, require_server
from resources.store.redis_store import RedisStore
from tests.commands import run_command
from tests.servers import PROGRAMS, server_of, url_of, with_passwords

OLD_SERVER = os.environ.get("OLD_REDIS_SERVER", "")  # path of a Redis 6
OURS = PACKAGES
OLD_COMMANDS = {  # as old as the others of their kind, which are asked for; DEBUG is a level of the log
    *("MULTI", "EXEC", "DISCARD", "PING", "INFO", "DEBUG", "LLEN", "RPUSH", "STRLEN", "PEXPIRE"),
    *("ZCARD", "ZCOUNT", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE"),
}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def poor(tmp_path: Path) -> Iterator[str]:
    """A server without two commands, as managed ones rename or remove some."""
    renamed = ("--rename-command", "EVAL_RO", "", "--rename-command", "XAUTOCLAIM", "")
    with server_of("redis", tmp_path, *renamed) as port:
        yield f"redis://127.0.0.1:{port}"


@pytest.mark.parametrize("command", [("up", "--port", "65111"), ("once",), ("serve", "worker")])
def test_a_server_without_a_command_ends_it_with_3_and_the_list(poor, tmp_path, command) -> None:
    """`quantum up` started, and every candle was unreadable: unknown command."""
    done = run_command(*command, environment={"REDIS_URL": poor, "QUANTUM_HOME": str(tmp_path), "WATCH_PORT": "0"})
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[1:] == ["  XAUTOCLAIM: unknown command", "  EVAL_RO: unknown command"]
    assert not (tmp_path / "history").exists()


def test_the_doctor_names_the_same(poor) -> None:
    (found,) = [one for one in diagnose(load_settings(redis_url=poor)) if one.what == "commands"]
    assert (found.level, found.seen) == ("fail", "XAUTOCLAIM: unknown command; EVAL_RO: unknown command")


def test_commands_that_a_user_may_not_use_are_named(tmp_path) -> None:
    """A managed server hands out users who may do less than they look."""
    with server_of("redis", tmp_path) as port:
        redis.Redis(port=port).execute_command("ACL SETUSER u on >p ~* &* +@all -eval_ro -xautoclaim -config")
        store = RedisStore(load_settings(redis_url=f"redis://u:p@127.0.0.1:{port}"))
        with pytest.raises(ServerUnfitError, match=r"XAUTOCLAIM: not permitted to this user\n  EVAL_RO: not permitted"):
            require_server(store)
        store.client.close()


def test_the_shipped_users_have_every_command(tmp_path) -> None:
    users = with_passwords(tmp_path)
    with server_of("redis", tmp_path, "--aclfile", str(users)) as port:
        addresses = {"redis_url": url_of(PROPOSALS, port), "governor_redis_url": url_of(GOVERNOR, port)}
        settings = load_settings(**addresses, celery_broker_url=url_of(BROKER, port))
        store = RedisStore(settings)
        require_server(store)
        levels = {one.what: one.level for one in diagnose(settings) if one.what.startswith("commands")}
        assert levels == dict.fromkeys(("commands", "commands of the governor", "commands of the broker"), "ok")
        store.client.close()


def test_being_examined_changes_nothing(store) -> None:
    """It asks for every command that writes."""
    require_server(store)
    assert store.client.dbsize() == 0


def test_every_command_of_the_product_is_asked_for(store) -> None:
    """A command that a later version adds would be missed again."""
    there = {name.decode().upper() for name in store.run("listing", [("COMMAND", "LIST")])[0]}
    written = "".join(path.read_text() for folder in OURS for path in (ROOT / folder).rglob("*.py"))
    used = set(re.findall(r"""call\('([A-Z_]+)'|\(\s*"([A-Z_]+)",""", written))
    asked = {name for pair in used for name in pair} & there
    assert asked - COMMANDS.keys() - OLD_COMMANDS - {"CLIENT"} == set()  # the bell may be refused: quantum doctor says so


def test_a_sentinel_is_no_server(tmp_path) -> None:
    """Its address was taken for that of a Redis."""
    config = tmp_path / "sentinel.conf"
    config.write_text("")
    with server_of("redis", tmp_path, str(config), "--sentinel") as port:
        store = RedisStore(load_settings(redis_url=f"redis://127.0.0.1:{port}"))
        with pytest.raises(ServerUnfitError, match=r"a Sentinel, which only names servers: redis\+sentinel://"):
            require_server(store)
        store.client.close()


def test_a_replica_is_refused_at_the_start_by_name(tmp_path) -> None:
    with server_of("redis", tmp_path, "--replicaof", "127.0.0.1", "1") as port:
        environment = {"REDIS_URL": f"redis://127.0.0.1:{port}", "QUANTUM_HOME": str(tmp_path), "WATCH_PORT": "0"}
        done = run_command("up", "--port", "65111", environment=environment)
        assert done.returncode == 3
        assert "is a read-only replica and cannot be used while starting" in done.stderr


@pytest.mark.skipif(not OLD_SERVER, reason="OLD_REDIS_SERVER names no Redis 6")
def test_a_server_that_is_too_old_is_refused_with_its_version(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(PROGRAMS, "old", OLD_SERVER)
    with server_of("old", tmp_path) as port:
        store = RedisStore(load_settings(redis_url=f"redis://127.0.0.1:{port}"))
        with pytest.raises(
            ServerUnfitError, match=r"Redis 6\S+ is too old: Redis 7 or Valkey is needed\n  EVAL_RO: unknown command"
        ):
            require_server(store)
        store.client.close()
