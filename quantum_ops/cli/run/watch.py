"""``quantum watch``: the command around the dead-man watcher, a process of its own; or one evaluation, printed."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace

import click

from quantum_core.display import number_of
from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.freshness import Condition, Limits, Vital, evaluate
from quantum_core.logs import log_to_stderr
from quantum_core.settings import load_settings
from quantum_ops.alerts.findings import wrong_now
from quantum_ops.alerts.incidents import Policy
from quantum_ops.alerts.profile_signs import profile_troubles
from quantum_ops.alerts.recorder_signs import recorder_troubles
from quantum_ops.alerts.sinks import to_json
from quantum_ops.alerts.trading.signs import TradingSignsReader
from quantum_ops.alerts.trading.watch import TradingWatch
from quantum_ops.alerts.watcher import Watcher
from quantum_ops.alerts.words import NAMES_MAX, Message, messages_of, severity_of
from quantum_ops.processes.health_server import HealthServer
from resources.store.redis_store import RedisStore
from resources.store.vital_signs import VitalSignsReader

log = logging.getLogger("quantum.watch")


@click.command()
@click.option("--once", is_flag=True, help="Evaluate once, print what is wrong, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print alerts (with --once: everything wrong) as JSON on stdout.")
def watch(*, once: bool, as_json: bool) -> None:
    """Watch freshness, heartbeats, proofs, stops, switches, guards and refused closes every 5 s, and alert.

    \b
    quantum watch                 the deployment's watcher; quantum up starts it
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


def _say_as_json(message: Message) -> None:
    click.echo(json.dumps(to_json(message)))


def _look_once(store: RedisStore, *, as_json: bool) -> None:
    now = store.clock().timestamp()
    signs, limits, policy = VitalSignsReader(store).read(), Limits.of(store.settings), Policy.of(store.settings)
    evaluation = evaluate(signs, limits, now)
    trading = TradingSignsReader(store).read({})
    decided = TradingWatch().observe(trading, signs.symbols, now, stop_age_sec=limits.proposal_sec, patient=False)
    beside = {**profile_troubles(store, now), **recorder_troubles(store, now)}
    decided = replace(decided, troubles={**decided.troubles, **beside})
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
            symbols = number_of(len(store.settings.symbols), "symbol")
            click.echo(f"Nothing is wrong: {len(evaluation.vitals)} clocks of {symbols} are fresh.")
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
