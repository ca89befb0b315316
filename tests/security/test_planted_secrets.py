"""The whole stack as it is meant to be run: TLS, users by role, PostgreSQL; and none of its secrets anywhere it puts something out."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import pytest
import redis
import sqlalchemy as db

from quantum_core.contracts.roles import ADMIN, BROKER, FEED, GOVERNOR, OPERATOR, PROPOSALS, READER, WATCH
from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.servers import ACL_FILE, PASSWORD, certificates, free_port, server_of, shipped_config, url_of, with_passwords
from tests.stack.test_units import UNITS
from tests.stack.test_units import unit as read_unit
from tests.stack.test_up import command_of, family
from tests.waiting import wait_for
from tests.world import (
    SAMPLE,
    write_plan,
    write_world,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ALERT_TOKEN, POSTGRES_PASSWORD = "planted-a1e7-token", "planted-9057-gres"
PLANTED = re.compile("planted-[0-9a-f]{4}|" + "|".join(one.encode().hex() for one in (PASSWORD, ALERT_TOKEN, POSTGRES_PASSWORD)))
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
GIVEN_UP = "Not started after"  # what the sensor says of a request that no worker took
PARTS_AS_UNITS = ("code", "daemon", "worker", "webserver", "watch", "exporter", "recorder")
RUNS = "{runsOrError{... on Runs{results{runId status tags{key value} runConfigYaml}}} instance{info runLauncher{name}}}"
EVENTS = "query E($id: ID!){logsForRun(runId: $id, limit: 1000){... on EventConnection{events{__typename ... on MessageEvent{message}}}}}"


class Stack(NamedTuple):
    """A running stack and what it said."""

    home: Path
    ports: tuple[int, int, int]
    redis_port: int
    ca: Path
    admin: RedisStore
    postgres: str
    said: Path
    environment: dict[str, str]

    def quantum(self, role: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one command under one role's address."""
        environment = {**self.environment, "REDIS_URL": url_of(role, self.redis_port, "rediss"), **variables}
        command = [sys.executable, "-m", "quantum_ops.cli", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False, cwd="/")

    def ask(self, query: str, **variables: str) -> str:
        """Ask the user interface's GraphQL."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[0]}/graphql", body, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=30).read().decode()  # noqa: S310 - our own server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[Stack]:
    """Start everything once."""
    folder, home = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("home")
    ca = certificates(folder)
    with_passwords(folder)
    engine = db.create_engine(f"{postgres_server}/postgres", isolation_level="AUTOCOMMIT", poolclass=db.NullPool)
    with engine.connect() as conn:
        conn.execute(db.text(f"CREATE ROLE planted LOGIN PASSWORD '{POSTGRES_PASSWORD}'"))
        conn.execute(db.text("CREATE DATABASE planted OWNER planted"))
    port, watch_port, metrics_port = free_port(), free_port(), free_port()
    with server_of("redis", folder, *shipped_config(folder)) as redis_port:
        for role in (PROPOSALS, GOVERNOR, BROKER, READER, WATCH):
            (folder / f"{role.removeprefix('quantum-')}.url").write_text(url_of(role, redis_port, "rediss") + "\n")
        postgres = postgres_server.replace("quantum@", f"planted:{POSTGRES_PASSWORD}@").replace("+psycopg2", "") + "/planted"
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME")},
            "QUANTUM_HOME": str(home / "q"),
            "REDIS_CA_FILE": str(ca),
            "DAGSTER_POSTGRES_URL": postgres,
            "ALERT_URLS": f"json://user:{ALERT_TOKEN}@127.0.0.1:{free_port()}/{ALERT_TOKEN}",
            "INTENT_MODE": "plan",
            "LOG_LEVEL": "DEBUG",
            "WATCH_PORT": str(watch_port),
            "EXPORTER_ALLOCATION_PORT": str(free_port()),
            "EXPORTER_GOVERNOR_PORT": str(metrics_port),
        }
        (home / "q").mkdir()
        (home / "q" / "dagster.yaml").write_text((ACL_FILE.parents[1] / "postgres" / "dagster.yaml").read_text())
        admin = RedisStore(load_settings(redis_url=url_of(ADMIN, redis_port, "rediss"), redis_ca_file=str(ca)))
        write_world(admin)
        said = home / "units.log"
        processes = []
        with said.open("wb") as log:
            for unit in PARTS_AS_UNITS:
                command, credentials = as_systemd_would(unit, folder, port)
                variables = {**environment, "CREDENTIALS_DIRECTORY": str(credentials)}
                processes.append(
                    subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd="/", start_new_session=True)
                )
        governing = {
            "GOVERNOR_REDIS_URL": url_of(GOVERNOR, redis_port, "rediss"),
            "CELERY_BROKER_URL": url_of(BROKER, redis_port, "rediss"),
        }
        try:
            yield Stack(home, (port, watch_port, metrics_port), redis_port, ca, admin, postgres, said, environment | governing)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:  # as systemd does; a process left behind would fail tests of others
                    process.kill()
                    process.wait(30)
            for child in family(home):
                child.kill()


def as_systemd_would(unit: str, secrets: Path, port: int) -> tuple[list[str], Path]:
    """Give the command of a shipped unit, and a folder with the credentials its shipped drop-in asks for, and no others."""
    options = read_unit(UNITS / f"quantum-{unit}.service")["Service"]["ExecStart"].split()[1:]
    told = (UNITS / "users" / f"quantum-{unit}.service.d" / "redis-user.conf").read_text()
    credentials = secrets / unit
    credentials.mkdir()
    for name, file in re.findall(r"^LoadCredential=(\w+):/etc/quantum/secrets/(\S+)$", told, re.MULTILINE):
        shutil.copy(secrets / file, credentials / name)
    arguments = [str(port) if one == "3000" else one for one in options if not one.startswith("$")]
    return [sys.executable, "-m", "quantum_ops.cli", *arguments], credentials


def everything_in(server: redis.Redis) -> Iterator[str]:
    """Give every key with its whole value, the broker's own included."""
    for key in server.scan_iter(count=1000):
        kind = server.type(key).decode()
        read: dict[str, Any] = {
            "string": server.get, "hash": server.hgetall, "set": server.smembers, "stream": server.xrange,
            "list": lambda name: server.lrange(name, 0, -1), "zset": lambda name: server.zrange(name, 0, -1, withscores=True),
        }  # fmt: skip
        yield f"{key!r} {read[kind](key) if kind in read else ''!r}"


def test_the_stack_works_under_role_users_over_tls_and_gives_no_secret_away(running: Stack, tmp_path: Path) -> None:
    """One look at a log, a report or a ticket must not hand over the keys of the desk."""
    server = running.admin.client
    wait_for("the workers", lambda: server.exists("quantum:heartbeat:worker") == 1, 60)
    wait_for("the first proofs of the loop", lambda: server.hget("quantum:proofs", "_run") is not None, 200)
    single_cycle = json.loads(server.get("quantum:proofs:single_cycle"))
    assert single_cycle["exit_code"] == 0, single_cycle
    wait_for("a permit or block under the governor's user", lambda: server.exists("quantum:stream:governor.events") == 1)
    wait_for("the loop's own signs of life", lambda: server.llen("quantum:heartbeat:cycles:BTCUSDT") > 2)
    write_plan(running.admin, "plan-of-the-trial", "BTCUSDT")
    write_world(running.admin)
    report = tmp_path / "evidence.html"
    outputs: dict[str, str] = {}
    wanted = {0}

    def say(role: str, *arguments: str, codes: set[int] = wanted, **variables: str) -> None:
        done = running.quantum(role, *arguments, **variables)
        outputs[f"{role} {' '.join(arguments)} {sorted(variables)}"] = done.stdout + done.stderr
        assert done.returncode in codes, (arguments, done.stdout[-1500:], done.stderr[-1500:])
        assert "NOPERM" not in done.stdout + done.stderr

    say(PROPOSALS, "once", "--json")
    say(PROPOSALS, "prove", "--report", str(report), "--json", codes={0, 1})
    say(READER, "status")
    say(READER, "settings")
    say(READER, "settings", "--json")
    say(READER, "status", "--json")
    say(READER, "permits", "--json")
    say(READER, "explain", "plan-of-the-trial", "--json", codes={0, 1})
    say(OPERATOR, "kill", "--reason", "trial")
    say(OPERATOR, "arm", "--name", "Ada", "--reason", "over", "--json")
    say(WATCH, "watch", "--once", "--json", codes={0, 1})
    say(WATCH, "alerts", "test", codes={1})
    say(READER, "alerts", "list", "--json", codes={0, 1})
    say(FEED, "replay", str(SAMPLE / "BTCUSDT_1m.csv"), "--speed", "0", "--json", codes={0, 1, 2})
    let_a_request_go_by(running)
    denied = [entry for entry in server.acl_log() if entry["username"] != "default"]
    assert denied == []

    wrong = url_of(READER, running.redis_port, "rediss").replace(PASSWORD, "planted-0bad")
    away = url_of(READER, 1, "rediss")
    other = tmp_path / "other"
    other.mkdir()
    for url in (wrong, away):
        for arguments in (("once", "--json"), ("status",), ("kill", "--reason", "x"), ("prove", "--json"), ("watch", "--once")):
            say(READER, *arguments, codes={1, 3}, REDIS_URL=url, GOVERNOR_REDIS_URL="", CELERY_BROKER_URL="")
    say(READER, "status", codes={3}, REDIS_CA_FILE=str(certificates(other, name="other")))
    for variables in ({"REDIS_URL": wrong + ":x:y"}, {"GOVERNOR_REDIS_URL": away}, {"SHARDS": "0"}):
        say(READER, "status", codes={2}, **variables)
    say(
        PROPOSALS,
        "once",
        codes={1, 3},
        DAGSTER_POSTGRES_URL=running.postgres.replace("gres@", "gres-wrong@").replace("/planted", "/none"),
    )

    runs = running.ask(RUNS)
    outputs["graphql runs"] = runs
    for run in json.loads(runs)["data"]["runsOrError"]["results"][:20]:
        outputs[f"graphql events {run['runId']}"] = running.ask(EVENTS, id=run["runId"])
    outputs["graphql error"] = graphql_error(running)
    for path in ("/", "/server_info", "/dagit_info"):
        outputs[path] = fetch(f"http://127.0.0.1:{running.ports[0]}{path}")
    for port, path in zip(running.ports[1:], ("/healthz", "/metrics"), strict=True):
        outputs[path] = fetch(f"http://127.0.0.1:{port}{path}")
    assert "quantum_dagster_up 1.0" in outputs["/metrics"]
    outputs["report"] = report.read_text()
    outputs["titles"] = "\n".join(f"{one.name()} {command_of(one)}" for one in family(running.home))
    outputs["redis"] = "\n".join(everything_in(server))
    outputs["postgres"] = subprocess.run(
        ["pg_dump", running.postgres], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    outputs["log"] = running.said.read_text()
    for file in running.home.rglob("*"):
        if file.is_file():
            outputs[str(file)] = file.read_bytes().decode(errors="replace")
    assert "STEP_SUCCESS" in outputs["postgres"]
    assert "Published proposal for BTCUSDT" in outputs["log"]
    assert "quantum:celery:" in outputs["redis"]
    leaks = {name: PLANTED.search(text) for name, text in outputs.items() if PLANTED.search(text)}
    assert {name: context_of(outputs[name], found) for name, found in leaks.items() if found} == {}
    assert [entry for entry in server.acl_log() if entry["username"] not in ("default", READER)] == []


def let_a_request_go_by(running: Stack) -> None:
    """Freeze the workers until the sensor gives a cycle up, which it tells them: a right that is needed on bad days only."""
    told = running.said.read_text().count(GIVEN_UP)
    workers = [one for one in family(running.home) if "celery" in command_of(one)]
    for one in workers:
        one.suspend()
    wait_for("a cycle to be given up", lambda: running.said.read_text().count(GIVEN_UP) > told, 60)
    for one in workers:
        one.resume()


def context_of(text: str, found: re.Match[str]) -> str:
    return text[max(found.start() - 200, 0) : found.end() + 100]


def graphql_error(running: Stack) -> str:
    try:
        return running.ask("{ nothing { of_this } }")
    except HTTPError as error:
        return error.read().decode()


def fetch(url: str) -> str:
    deadline = time.monotonic() + 30
    while True:
        try:
            return urllib.request.urlopen(url, timeout=10).read().decode()  # noqa: S310 - our own server
        except HTTPError as error:
            return error.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_the_planted_secrets_are_found_where_they_are(running: Stack) -> None:
    """A search that finds nothing must be able to find something: the environment of the processes holds them, and only that."""
    environments = [str(one.environ()) for one in family(running.home)]
    assert any(PLANTED.search(text) for text in environments)
