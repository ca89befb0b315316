"""``quantum watch``: the dead-man watcher, a process of its own that needs neither Dagster nor the workers nor Redis to alert."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from quantum_core.alert_catalogue import KINDS
from quantum_core.freshness import Condition, Evaluation, Limits, SymbolSigns, Vital, VitalSigns, evaluate
from quantum_core.logs import log_to_stderr
from quantum_core.settings import load_settings
from quantum_ops.alerts.host_signs import HostSigns
from quantum_ops.alerts.incidents import NAMES_MAX, Ledger, Message, Policy, messages_of, wrong_now
from quantum_ops.alerts.sinks import Outbox, SinkState, from_json, sinks, to_json
from quantum_ops.alerts.trading_signs import TradingSignsReader
from quantum_ops.alerts.trading_watch import NOTHING_DECIDED, Decided, TradingWatch
from quantum_ops.alerts.unusable import Guarded
from quantum_ops.alerts.words import Trouble, severity_of
from quantum_ops.cli import EXIT_FAILED
from quantum_ops.cli.answers import JSON, Answers
from resources.store.redis_store import RedisStore, RedisUnavailableError
from resources.store.vital_signs import VitalSignsReader

EVERY_SEC = 5.0
LOOK_SEC = 1.0  # as soon after a cycle or a decision it evaluates before its time
ALIVE_SEC = 15.0  # an evaluation older than three intervals means that the watcher hangs
ACTIVE_TTL_SEC = 30  # what a dead watcher left behind must not pass for the present
HEARTBEAT_TTL_SEC = 86400
STOP_WITHIN_SEC = 4.0  # for deliveries under way; the supervisor kills after 8
STATE_FILE = "watch.json"
UNDELIVERED = "undelivered"

log = logging.getLogger("quantum.watch")


@click.command()
@click.option("--once", is_flag=True, help="Evaluate once, print what is wrong, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print alerts (with --once: everything wrong) as JSON on stdout.")
def watch(*, once: bool, as_json: bool) -> None:
    """Watch freshness, heartbeats, proofs, stops, switches, guards and refused closes every 5 s, and alert.

    \b
    quantum watch                 the watcher of the stack; quantum up starts it
    quantum watch --once          what is wrong right now

    Alerts go to the stream quantum:stream:alerts and, by severity, to ALERT_URLS, ALERT_URLS_WARN and ALERT_URLS_INFO;
    http://127.0.0.1:WATCH_PORT/healthz reports how the watcher itself is. Kinds of alerts: quantum alerts kinds. Exit codes:
    0 stopped as asked, or nothing wrong; 1 something is wrong, or WATCH_PORT is taken; 2 wrong settings; 3 Redis away (only
    with --once: without it, that is an alert).
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
    """Evaluates, alerts, and remembers what it has reported.

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
        self.reader, self.trading_reader = VitalSignsReader(store), TradingSignsReader(store)
        self.limits = Limits.of(store.settings)
        self.state_file = store.settings.quantum_home / STATE_FILE
        self._guarded = Guarded(RedisUnavailableError)
        self._unsaved = ""  # why the last state could not be written
        stored = _stored(self.state_file)
        policy, active = Policy.of(store.settings), Ledger.from_json(stored["active"])
        self.ledger = Ledger(policy, store.clock().timestamp(), active, stored["cleared"])
        self.trading = TradingWatch(stored["trading"])
        queues = stored["queues"]
        self.outboxes = [
            Outbox(sink, store.clock, map(from_json, queues.get(sink.identity, ())), delivered=self._save)
            for sink in sinks(store.settings, store.clock)
        ]
        self._counted: Counter[str] = Counter()  # of what was delivered and given up
        self._saving = threading.Lock()
        self._remembered = self._state()
        self._newest: list[str] = []
        self._host = HostSigns(store.settings.quantum_home)
        self._condition = ""  # what Redis is, since it answered that it cannot be used
        self._round: dict[str, Any] = {"status": "blind", "evaluated_at": None, "incidents": []}

    def run(self, stop: threading.Event) -> None:
        """Watch until told to stop."""
        self.state_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for outbox in self.outboxes:
            outbox.start()
        due = time.monotonic()
        while not stop.is_set():
            self._host.look(self.store.clock().timestamp(), time.monotonic())
            self._guarded.call("what this round has read", None, self.round)  # the next one tries again; healthz tells
            due = max(due + EVERY_SEC, time.monotonic())
            while not stop.wait(min(LOOK_SEC, max(due - time.monotonic(), 0))) and time.monotonic() < due:
                if self._something_new():
                    due = time.monotonic()
        deadline = time.monotonic() + STOP_WITHIN_SEC
        for outbox in self.outboxes:
            outbox.stop(max(deadline - time.monotonic(), 0))
        self._save()

    def round(self) -> None:
        """Evaluate once and alert."""
        now = self.store.clock().timestamp()
        evaluation, decided = self._poll(now)
        beside = {**self._host.troubles(now), **undelivered([outbox.state() for outbox in self.outboxes])}
        decided = replace(decided, troubles={**decided.troubles, **beside})
        readable = evaluation is not None
        if self._condition:  # it can be read, and what it holds stands still
            evaluation, decided = None, NOTHING_DECIDED
        messages = self.ledger.observe(evaluation, now, decided, condition=self._condition)
        self._remembered = self._state()
        with self._saving:
            self._write(messages)  # before they are delivered, with the cursors of the streams: what is lost then was not read
            for outbox in self.outboxes:
                outbox.put(messages)
        for message in messages:
            log.warning("%s %s: %s", message.event, message.alert, message.title)
            self.say(message)
        incidents = _summary(self.ledger, now)
        status = "blind" if evaluation is None else "alerting" if incidents else "ok"
        if readable:
            self._leave_word(now, incidents)
        self._round = {"status": status, "evaluated_at": now, "incidents": incidents}

    def _something_new(self) -> bool:
        """Tell whether a cycle has ended, or something was decided or switched, since the last look."""
        of = self.store.keys.of
        streams = (of("stream_governor_events"), of("stream_risk_events"))
        commands = [
            ("GET", of("heartbeat", "cycle")),
            ("GET", of("kill")),
            *(("XREVRANGE", name, "+", "-", "COUNT", 1) for name in streams),
        ]
        try:
            newest = [str(reply) for reply in self.store.run("looking for news", commands)]
        except RedisUnavailableError:  # the next round handles it
            return False
        changed, self._newest = newest != self._newest, newest
        return changed

    def _poll(self, now: float) -> tuple[Evaluation | None, Decided]:
        """Read and judge; what cannot be used of one half leaves the other half as it is."""
        try:
            signs = self._guarded.call("what freshness is judged by", None, self._vital_signs)
            symbols = signs.symbols if signs else ()
            decided = self._guarded.call("what was decided", None, self._decided, symbols, now)
        except RedisUnavailableError as error:
            log.debug("%s", error)
            self._condition = error.condition
            return None, NOTHING_DECIDED
        if decided is None:  # nothing is known of it, so that nothing of it is over
            decided = Decided(unsure=frozenset(self.ledger.active))
        if signs is None:
            return Evaluation((), ()), replace(decided, unsure=decided.unsure | self.ledger.active.keys())
        return evaluate(signs, self.limits, now), decided

    def _vital_signs(self) -> VitalSigns | None:
        return self.reader.read()

    def _decided(self, symbols: Sequence[SymbolSigns], now: float) -> Decided | None:
        memory = self.trading.memory
        permits = {plan_id: str(permit["symbol"]) for plan_id, permit in memory.permits.items()}
        trading = self.trading_reader.read(memory.cursors, refused=memory.refused, permits=permits)
        return self.trading.observe(trading, symbols, now, stop_age_sec=self.limits.proposal_sec)

    def _state(self) -> dict[str, Any]:
        """Give what a successor must know of what was raised and read."""
        return {"active": self.ledger.to_json(), "cleared": self.ledger.cleared, "trading": self.trading.to_json()}

    def report(self) -> tuple[dict[str, Any], bool]:
        """Report how the watcher is, and whether it is alive."""
        evaluated_at = self._round["evaluated_at"]
        age = None if evaluated_at is None else self.store.clock().timestamp() - evaluated_at
        states = [asdict(outbox.state()) for outbox in self.outboxes]
        report = {**self._round, "not_saved": self._unsaved, "age_sec": None if age is None else round(age, 1), "sinks": states}
        return report, age is not None and age < ALIVE_SEC

    def _leave_word(self, now: float, incidents: list[dict[str, Any]]) -> None:
        of = self.store.keys.of
        commands: list[tuple[Any, ...]] = [
            ("SET", of("heartbeat", "watch"), f"{now:.0f}", "EX", HEARTBEAT_TTL_SEC),
            ("SET", of("alerts_active"), json.dumps(incidents), "EX", ACTIVE_TTL_SEC),
        ]
        counts = self._deliveries()
        commands += [("HINCRBY", of("counts_alerts"), name, times) for name, times in (counts - self._counted).items()]
        self._condition = ""
        try:
            self.store.run("leaving word of the watcher", commands)
        except RedisUnavailableError as error:  # the next round tells
            self._condition = error.condition
            log.debug("%s", error)
        else:
            self._counted = counts

    def _deliveries(self) -> Counter[str]:
        """Count what became of messages since the start, by recipient."""
        counts: Counter[str] = Counter()
        for state in (outbox.state() for outbox in self.outboxes):
            name = state.name.replace(":", " ")  # a colon parts the names of counts
            counts[f"delivered:{name}"] += state.delivered
            counts[f"attempt_failed:{name}"] += state.failures
            counts[f"given_up:{name}"] += state.given_up
        return counts

    def _save(self) -> None:
        with self._saving:
            self._write()

    def _write(self, coming: Sequence[Message] = ()) -> None:
        """Write what a successor must know: what was raised and read, and what is not delivered yet."""
        queues = {
            outbox.sink.identity: [to_json(message) for message in (*outbox.undelivered(), *outbox.taken(coming))]
            for outbox in self.outboxes
        }
        written = self.state_file.with_suffix(".new")
        try:
            written.write_text(json.dumps({**self._remembered, "queues": queues}))
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


def undelivered(states: Sequence[SinkState]) -> dict[str, Trouble]:
    """Name the recipients that alerts have not reached, as an alert of its own."""
    lost = [state for state in states if state.lost]
    if not lost:
        return {}
    who = ", ".join(state.name for state in lost)
    what = f"Alerts do not reach {who}: {lost[0].lost}"
    kind = KINDS[UNDELIVERED]
    since = min(state.lost_at for state in lost)
    return {UNDELIVERED: Trouble(UNDELIVERED, "warning", what, since, "", "", kind.look, UNDELIVERED, "alerts do not reach all")}


def _stored(path: Path) -> dict[str, Any]:
    """Read what a predecessor left; what cannot be read is named, and forgotten."""
    nothing: dict[str, Any] = {"active": [], "queues": {}, "cleared": {}, "trading": {}}
    try:
        stored = {**nothing, **json.loads(path.read_text())}  # older versions know less
        Ledger.from_json(stored["active"])
        TradingWatch(stored["trading"])
        for queue in stored["queues"].values():
            list(map(from_json, queue))
        stored["cleared"] = {str(alert): float(at) for alert, at in stored["cleared"].items()}
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s cannot be read (%s: %s); alerts that last are raised again", path, type(error).__name__, error)
        return nothing
    return {name: stored[name] for name in nothing}


def _summary(ledger: Ledger, now: float) -> list[dict[str, Any]]:
    """Give the active alerts, the worst first, as ``quantum:alerts:active`` and ``/healthz`` have them."""
    messages = ledger.standing(now)
    names = ("alert", "kind", "severity", "level", "title", "since", "symbols", "well_since")
    return [{name: getattr(message, name) for name in names} for message in messages]


def _say_as_json(message: Message) -> None:
    click.echo(json.dumps(to_json(message)))


def _look_once(store: RedisStore, *, as_json: bool) -> None:
    now = store.clock().timestamp()
    signs, limits, policy = VitalSignsReader(store).read(), Limits.of(store.settings), Policy.of(store.settings)
    evaluation = evaluate(signs, limits, now)
    trading = TradingSignsReader(store).read({})
    decided = TradingWatch().observe(trading, signs.symbols, now, stop_age_sec=limits.proposal_sec, patient=False)
    troubles = wrong_now(evaluation, now, decided)
    aging = [vital for vital in (*evaluation.heartbeats, *evaluation.vitals) if vital.condition is Condition.AGING]
    if as_json:
        wrong = [{**asdict(trouble), "severity": severity_of(trouble, policy.severities)} for trouble in troubles]
        click.echo(json.dumps({"evaluated_at": now, "wrong": wrong, "aging": [vital._asdict() for vital in aging]}, indent=2))
    else:
        universe = len(store.settings.symbols)
        for message in messages_of("raised", troubles, now, policy.severities, universe):
            click.echo(f"{message.severity}: {message.title}\n{message.text}\n")
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
