"""``quantum watch``: the dead-man watcher, a process of its own that needs neither Dagster nor the workers nor Redis to alert."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from quantum_assets.cli import EXIT_FAILED
from quantum_assets.cli.answers import JSON, Answers
from quantum_assets.freshness import Condition, Evaluation, Limits, Vital, evaluate
from quantum_assets.incidents import NAMES_MAX, Incident, Ledger, Message, Policy, messages_of, wrong_now
from resources.alert_sinks import Outbox, from_json, sinks, to_json
from resources.logs import log_to_stderr
from resources.redis_store import RedisStore, RedisUnavailableError
from resources.settings import load_settings
from resources.vital_signs import VitalSignsReader

EVERY_SEC = 5.0
ALIVE_SEC = 15.0  # an evaluation older than three intervals means that the watcher hangs
ACTIVE_TTL_SEC = 30  # what a dead watcher left behind must not pass for the present
HEARTBEAT_TTL_SEC = 86400
STOP_WITHIN_SEC = 4.0  # for deliveries under way; the supervisor kills after 8
STATE_FILE = "watch.json"

log = logging.getLogger("quantum.watch")


@click.command()
@click.option("--once", is_flag=True, help="Evaluate once, print what is wrong, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print alerts (with --once: everything wrong) as JSON on stdout.")
def watch(*, once: bool, as_json: bool) -> None:
    """Watch freshness, heartbeats and proofs every 5 s, and alert.

    \b
    quantum watch                 the watcher of the stack; quantum up starts it
    quantum watch --once          what is wrong right now

    Alerts go to the stream quantum:stream:alerts and to every ALERT_URLS entry; http://127.0.0.1:WATCH_PORT/healthz tells how
    the watcher itself is. Exit codes: 0 stopped as asked, or nothing wrong; 1 something is wrong, or WATCH_PORT is taken;
    2 wrong settings; 3 Redis away (only with --once: without it, that is an alert).
    """
    settings = load_settings()
    store = RedisStore(settings)
    if once:
        _look_once(store, as_json=as_json)
        return
    log_to_stderr(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watcher = Watcher(store, say=_say_as_json if as_json else lambda _: None)
    try:
        health = HealthServer(settings.watch_port, watcher.report)
    except OSError as error:
        click.echo(f"WATCH_PORT {settings.watch_port} cannot be used ({error.strerror}). Does another watcher run?", err=True)
        sys.exit(EXIT_FAILED)
    log.info("healthz on http://127.0.0.1:%d/healthz", health.server_port)
    threading.Thread(target=health.serve_forever, daemon=True, name="healthz").start()
    watcher.run(stop)
    health.shutdown()
    health.server_close()


class Watcher:
    """Evaluates, alerts, and remembers what it has told.

    Parameters
    ----------
    store
        Where the signs are read from, whose clock and settings count.
    say
        Called with each message, beside the sinks.
    """

    def __init__(self, store: RedisStore, say: Callable[[Message], None] = lambda _: None) -> None:
        self.store = store
        self.say = say
        self.reader = VitalSignsReader(store)
        self.limits = Limits.of(store.settings)
        self.state_file = store.settings.quantum_home / STATE_FILE
        self._unsaved = ""  # why the last state could not be written
        stored = _stored(self.state_file)
        self.ledger = Ledger(Policy.of(store.settings), store.clock().timestamp(), Ledger.from_json(stored["active"]))
        queues = stored["queues"]
        self.outboxes = [
            Outbox(sink, store.clock, map(from_json, queues.get(sink.identity, ())), delivered=self._save)
            for sink in sinks(store.settings, store.clock)
        ]
        self._saving = threading.Lock()
        self._active: list[dict[str, Any]] = self.ledger.to_json()
        self._round: dict[str, Any] = {"status": "blind", "evaluated_at": None, "incidents": []}

    def run(self, stop: threading.Event) -> None:
        """Watch until told to stop."""
        self.state_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for outbox in self.outboxes:
            outbox.start()
        due = time.monotonic()
        while not stop.is_set():
            self.round()
            due = max(due + EVERY_SEC, time.monotonic())
            stop.wait(due - time.monotonic())
        deadline = time.monotonic() + STOP_WITHIN_SEC
        for outbox in self.outboxes:
            outbox.stop(max(deadline - time.monotonic(), 0))
        self._save()

    def round(self) -> None:
        """Evaluate once and alert."""
        now = self.store.clock().timestamp()
        try:
            evaluation: Evaluation | None = evaluate(self.reader.read(), self.limits, now)
        except RedisUnavailableError as error:
            log.debug("%s", error)
            evaluation = None
        messages = self.ledger.observe(evaluation, now)
        self._active = self.ledger.to_json()
        with self._saving:
            self._write(messages)  # before they are delivered: a watcher killed between would tell them a second time
            for outbox in self.outboxes:
                outbox.put(messages)
        for message in messages:
            log.warning("%s %s: %s", message.event, message.alert, message.title)
            self.say(message)
        incidents = _summary(self.ledger.active.values(), now)
        status = "blind" if evaluation is None else "alerting" if incidents else "ok"
        if evaluation is not None:
            self._leave_word(now, incidents)
        self._round = {"status": status, "evaluated_at": now, "incidents": incidents}

    def report(self) -> tuple[dict[str, Any], bool]:
        """Tell how the watcher is, and whether it is alive."""
        evaluated_at = self._round["evaluated_at"]
        age = None if evaluated_at is None else self.store.clock().timestamp() - evaluated_at
        states = [asdict(outbox.state()) for outbox in self.outboxes]
        report = {**self._round, "not_saved": self._unsaved, "age_sec": None if age is None else round(age, 1), "sinks": states}
        return report, age is not None and age < ALIVE_SEC

    def _leave_word(self, now: float, incidents: list[dict[str, Any]]) -> None:
        of = self.store.keys.of
        commands = [
            ("SET", of("heartbeat", "watch"), f"{now:.0f}", "EX", HEARTBEAT_TTL_SEC),
            ("SET", of("alerts_active"), json.dumps(incidents), "EX", ACTIVE_TTL_SEC),
        ]
        try:
            self.store.run("leaving word of the watcher", commands)
        except RedisUnavailableError as error:  # the next round tells
            log.debug("%s", error)

    def _save(self) -> None:
        with self._saving:
            self._write()

    def _write(self, coming: Sequence[Message] = ()) -> None:
        """Write what a successor must know: what was told, and what is not delivered yet."""
        queues = {
            outbox.sink.identity: [to_json(message) for message in (*outbox.undelivered(), *coming)] for outbox in self.outboxes
        }
        written = self.state_file.with_suffix(".new")
        try:
            written.write_text(json.dumps({"active": self._active, "queues": queues}))
            written.chmod(0o600)
            written.replace(self.state_file)
        except OSError as error:  # a full disk is when alerts are needed most; all a restart then costs is a second telling
            if not self._unsaved:
                log.warning("cannot save %s: %s", self.state_file, error)
            self._unsaved = str(error)
        else:
            self._unsaved = ""


class HealthServer(ThreadingHTTPServer):
    """Serves /healthz on 127.0.0.1.

    Parameters
    ----------
    port
        TCP port; 0 chooses a free one.
    report
        Gives the report, and whether all is well with the watcher.
    """

    daemon_threads = True

    def __init__(self, port: int, report: Callable[[], tuple[dict[str, Any], bool]]) -> None:
        super().__init__(("127.0.0.1", port), _HealthHandler)
        self.report = report


class _HealthHandler(Answers):
    server: HealthServer

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        if self.path != "/healthz":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        report, alive = self.server.report()
        self.answer(json.dumps(report).encode(), JSON, HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE)


def _stored(path: Path) -> dict[str, Any]:
    """Read what a predecessor left; what cannot be read is named, and forgotten."""
    try:
        stored = json.loads(path.read_text())
        Ledger.from_json(stored["active"])
        for queue in stored["queues"].values():
            list(map(from_json, queue))
    except FileNotFoundError:
        return {"active": [], "queues": {}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s cannot be read (%s: %s); alerts that last are raised again", path, type(error).__name__, error)
        return {"active": [], "queues": {}}
    return {"active": stored["active"], "queues": stored["queues"]}


def _summary(incidents: Iterable[Incident], now: float) -> list[dict[str, Any]]:
    troubles = [incident.trouble for incident in incidents]
    names = ("alert", "level", "title", "since", "symbols")
    return [{name: getattr(message, name) for name in names} for message in messages_of("raised", troubles, now)]


def _say_as_json(message: Message) -> None:
    click.echo(json.dumps(to_json(message)))


def _look_once(store: RedisStore, *, as_json: bool) -> None:
    now = store.clock().timestamp()
    evaluation = evaluate(VitalSignsReader(store).read(), Limits.of(store.settings), now)
    troubles = wrong_now(evaluation, now)
    aging = [vital for vital in (*evaluation.heartbeats, *evaluation.vitals) if vital.condition is Condition.AGING]
    if as_json:
        wrong = [asdict(trouble) for trouble in troubles]
        click.echo(json.dumps({"evaluated_at": now, "wrong": wrong, "aging": [vital._asdict() for vital in aging]}, indent=2))
    else:
        for message in messages_of("raised", troubles, now):
            click.echo(f"{message.level}: {message.title}\n{message.text}\n")
        _print_aging(aging)
        if not troubles:
            click.echo(f"Nothing is wrong: {len(evaluation.vitals)} clocks of {len(store.settings.symbols)} symbols are fresh.")
    if troubles:
        sys.exit(EXIT_FAILED)


def _print_aging(aging: Sequence[Vital]) -> None:
    by_thing: defaultdict[str, list[Vital]] = defaultdict(list)
    for vital in aging:
        by_thing[vital.thing].append(vital)
    for thing, ones in by_thing.items():
        oldest = max(one.age_sec or 0.0 for one in ones)
        names = ", ".join(one.symbol for one in ones[:NAMES_MAX])
        click.echo(f"aging: {thing} {oldest:.0f} s{f' ({len(ones)}: {names})' if names else ''}")
