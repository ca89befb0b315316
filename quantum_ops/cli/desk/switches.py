"""``quantum kill`` and ``quantum arm``: stop every opening at once, and let a named person end that. Needs nothing but Redis."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable
from typing import TypeVar

import click

from quantum_core.contracts.reading import printable
from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import load_settings

NOBODY = "unknown"  # a login name cannot always be found, and a kill must not wait for it
T = TypeVar("T")


@click.command()
@click.option("--reason", required=True, help="Why; recorded with the event.")
@click.option("--name", help="Who; default: the login name.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
def kill(reason: str, name: str | None, *, as_json: bool) -> None:
    """Set the kill switch: from now on no plan that opens risk gets a permit. Plans that reduce risk pass, within their limits.

    \b
    quantum kill --reason "exchange reports wrong prices"

    Permits that were granted already live for at most a minute.

    Exit codes: 0 the switch is set; 1 it is set, but that could not be recorded; 2 no reason, or wrong settings; 3 Redis away.
    """
    from resources.governor.switches import kill as set_switch
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings())
    outcome = in_words(lambda: set_switch(store, reason=reason, by=name or _login_name()))
    if as_json:
        report = {"kill": True, "changed": outcome.changed, "key": store.keys.of("kill"), "unrecorded": outcome.unrecorded}
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(
            f"The kill switch {store.keys.of('kill')} is set{'' if outcome.changed else ', as it was before'}. "
            "No plan that opens risk gets a permit; plans that reduce it pass, within their limits."
        )
        click.echo('Undo: quantum arm --name "YOUR NAME" --reason "WHY"')
    if outcome.unrecorded:
        click.echo(f"The event could not be recorded: {printable(outcome.unrecorded)}", err=True)
        sys.exit(EXIT_FAILED)


@click.command()
@click.option("--name", required=True, help="Who answers for it; recorded with the event.")
@click.option("--reason", required=True, help="Why; recorded with the event.")
@click.option("--source", default="", help="Only what is disarmed of this planner, as its plans name it in `source`.")
@click.option("--symbol", default="", help="Only what is disarmed of this symbol.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
def arm(name: str, reason: str, source: str, symbol: str, *, as_json: bool) -> None:
    """Clear the kill switch and the disarming of the governor, and forget today's errors. Risk guards stay: quantum guard.

    With --source or --symbol only that planner or symbol is armed; kill switch and a disarming of all stay as they are.

    \b
    quantum arm --name "Ada Lovelace" --reason "prices are right again"
    quantum arm --name "Ada Lovelace" --reason "fixed" --source harvest_brain

    Exit codes: 0 armed; 1 it could not be recorded, nothing was cleared; 2 no name or reason, or wrong settings; 3 Redis away.
    """
    from quantum_core.contracts.labels import label_of
    from resources.governor.guards import read_guards
    from resources.governor.switches import arm as end_switches
    from resources.governor.switches import read_switches, scopes_of
    from resources.store.redis_store import RedisStore, UnreadableKeyError

    scopes = scopes_of(symbol.strip(), label_of(source))
    if len(scopes) > 1:
        msg = "--source and --symbol: one of them, or none for all"
        raise click.UsageError(msg)
    scope = "".join(scopes)
    store = RedisStore(load_settings())
    guards = read_guards(store)  # before: a server lost afterwards would read as if nothing had been armed
    try:
        cleared = in_words(lambda: end_switches(store, name=name, reason=reason, scope=scope))
    except UnreadableKeyError as error:
        click.echo(f"Nothing was cleared. {printable(str(error))}", err=True)
        sys.exit(EXIT_FAILED)
    if as_json:
        click.echo(json.dumps({"cleared": cleared, "guards": guards.live, "trouble": guards.trouble}, indent=2))
        return
    click.echo(f"Armed{f' ({printable(scope)})' if scope else ''}. Cleared: {', '.join(cleared) or 'nothing stood'}.")
    switches = read_switches(store) if scope else None
    if switches and (switches.killed or switches.disarmed):
        click.echo("Openings stay blocked by the kill switch or the disarming of all. See: quantum permits")
    if guards.live:
        click.echo(f"Openings stay blocked by risk guards: {', '.join(guards.live)}. See: quantum guard list")
    elif guards.trouble:
        click.echo(f"The risk guards cannot be relied on: {printable(guards.trouble)}")
    click.echo('Undo: quantum kill --reason "WHY"')


def in_words(call: Callable[[], T]) -> T:
    """Give what a call gives; what it refuses of what was typed is wrong usage."""
    try:
        return call()
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user has no name, and which of these says so depends on the version
        return NOBODY
