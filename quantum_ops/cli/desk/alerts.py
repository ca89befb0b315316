"""``quantum alerts``: try the sinks, and list what is being alerted."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from quantum_core.alert_catalogue import SEVERITIES, page
from quantum_core.exit_codes import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_USAGE
from quantum_core.settings import load_settings


@click.group()
def alerts() -> None:
    """Try the alert sinks, or list what is wrong now.

    \b
    quantum alerts test     one message to every sink
    quantum alerts list     the alerts that are not over
    quantum alerts kinds    every kind: what it means, where to look
    """


@alerts.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def test(*, as_json: bool) -> None:
    """Send one test message to the stream of alerts and to every address, and report what became of each.

    The addresses are those of ALERT_URLS, ALERT_URLS_WARN and ALERT_URLS_INFO; beside each stand the severities it takes.

    Exit codes: 0 all delivered; 1 some not; 2 ALERT_URLS is empty or an entry is no Apprise URL; 3 Redis away.
    """
    from quantum_ops.alerts.sinks import DeliveryError, WrongAlertUrlError, sinks, trial_message
    from resources.store.redis_store import RedisStore
    from resources.store.transport.unavailable import RedisUnavailableError

    settings = load_settings()
    store = RedisStore(settings)
    message = trial_message(store.clock())
    outcome: list[dict[str, Any]] = []
    codes = {0 if settings.alert_urls else EXIT_USAGE}
    for sink in sinks(settings, store.clock):
        error = ""
        try:
            sink.deliver(message)
        except DeliveryError as trouble:
            error = str(trouble)
            away = isinstance(trouble.__cause__, RedisUnavailableError)
            wrong = isinstance(trouble, WrongAlertUrlError)
            codes.add(EXIT_INFRASTRUCTURE if away else EXIT_USAGE if wrong else EXIT_FAILED)
        taken = [severity for severity in SEVERITIES if severity in sink.severities]
        outcome.append({"sink": sink.name, "severities": taken, "delivered": not error, "error": error})
    if as_json:
        click.echo(json.dumps(outcome, indent=2))
    else:
        from quantum_ops.cli.layout import say

        for row in outcome:
            became = "delivered" if row["delivered"] else f"FAILED: {row['error']}"
            say(f"{row['sink']} ({', '.join(row['severities'])}): {became}")
    if not settings.alert_urls:
        click.echo("ALERT_URLS names no sink: pages reach nobody but readers of the stream.", err=True)
    # Settings first: they are what the reader of this has to fix, and the rest may follow from them.
    sys.exit(next((code for code in (EXIT_USAGE, EXIT_INFRASTRUCTURE, EXIT_FAILED) if code in codes), 0))


@alerts.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def list_active(*, as_json: bool) -> None:
    """List the alerts that are not over, as the watcher last reported them.

    Exit codes: 0 none; 1 some, or no watcher has reported in the last 30 s; 3 Redis away.
    """
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings())
    (reply,) = store.run("reading alerts", [("GET", store.keys.of("alerts_active"))])
    try:
        active = None if reply is None else json.loads(reply)
    except (TypeError, ValueError):  # another type of key, or something else in it
        active = None
    if as_json:
        click.echo(json.dumps(active, indent=2))
    elif active is None:
        click.echo("No watcher has reported in the last 30 s. Start it: quantum watch", err=True)
    elif not active:
        click.echo("No alerts.", err=True)
    else:
        from quantum_core.display import moment_text
        from quantum_ops.cli.layout import say

        for alert in active:
            severity = alert.get("severity") or alert["level"]
            say(f"{severity:<4}  since {moment_text(alert['since'])}  {alert['title']}", hang=6)
    if active is None or active:
        sys.exit(EXIT_FAILED)


@alerts.command()
def kinds() -> None:
    """Print the catalogue of alerts as Markdown: meaning, severity, first look and fix of each kind."""
    from quantum_ops.cli.layout import show_page

    show_page(page())
