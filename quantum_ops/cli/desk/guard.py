"""``quantum guard``: which guards of the account block openings, and how a named person ends one. Needs nothing but Redis."""

from __future__ import annotations

import json
import sys

import click

from quantum_core.contracts.reading import printable
from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import load_settings
from quantum_ops.cli.desk.switches import in_words

RELEASES_SHOWN = 5


@click.group()
def guard() -> None:
    """List the guards of the account, or release one before its time."""


@guard.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def list_guards(*, as_json: bool) -> None:
    """List the guards that block openings, what each waits for, and the last releases.

    \b
    quantum guard list
    quantum guard list --json

    Exit codes: 0 listed; 1 the guards cannot be relied on, which blocks openings; 2 wrong usage or settings; 3 Redis away.
    """
    from quantum_ops.desk.standing import openings
    from resources.governor.guards import read_guards, releases
    from resources.governor.switches import Switches
    from resources.store.profiles import bring_up_to_date
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings())
    bring_up_to_date(store)  # its limits decide what is too old
    guards, released = read_guards(store), releases(store, RELEASES_SHOWN)
    if as_json:
        report = {
            "guards": [
                {"guard_type": one, **guards.said[one], "pending": guards.said[one].get("pending") == "True"}
                for one in guards.live
            ],
            "trouble": guards.trouble,
            "released": released,
        }
        click.echo(json.dumps(report, indent=2))
    else:
        lines = openings(Switches(killed=False, disarmed=False), guards, {}).details
        from quantum_ops.cli.layout import say

        for line in lines or ("No risk guard is active.",):
            say(line)
        for event in released:
            by_whom = f"{event.get('by', '?')}: {event.get('reason', '?')}"
            say(f"Released at {event['at']}: {event.get('guard_type', '?')} ({event.get('released', '?')}) by {by_whom}")
    if guards.trouble:
        sys.exit(EXIT_FAILED)


@guard.command()
@click.argument("guard_type", metavar="TYPE")
@click.option("--name", required=True, help="Who answers for it; recorded with the event.")
@click.option("--reason", required=True, help="Why; recorded with the event.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
def release(guard_type: str, name: str, reason: str, *, as_json: bool) -> None:
    """End one guard before its time. Refused while its condition holds by current readings, or while nobody knows.

    \b
    quantum guard release EMERGENCY_FLATTEN \\
        --name "Ada Lovelace" --reason "a wrong equity was reported"

    Only this guard ends, and new readings may activate it again. The release is recorded in quantum:stream:risk.events.

    Exit codes: 0 released; 1 it stays, and why; 2 unknown TYPE, no name or reason, or wrong settings; 3 Redis away.
    """
    from resources.governor.guards import read_guards
    from resources.governor.switches import NotReleasedError
    from resources.governor.switches import release as end_guard
    from resources.store.profiles import bring_up_to_date
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings())
    bring_up_to_date(store)  # its limits decide whether the condition holds
    guards_before = read_guards(store)  # a server lost afterwards would read as if nothing had been released
    try:
        released = in_words(lambda: end_guard(store, guard_type, name=name, reason=reason))
    except NotReleasedError as error:
        if as_json:
            click.echo(json.dumps({"released": None, "why": str(error)}, indent=2))
        click.echo(f"Nothing was released: {printable(str(error))}.", err=True)
        sys.exit(EXIT_FAILED)
    remaining = [one for one in guards_before.live if one != guard_type]
    if as_json:
        click.echo(
            json.dumps(
                {"released": guard_type, "said": released, "guards": remaining, "trouble": guards_before.trouble}, indent=2
            )
        )
        return
    click.echo(f"Released: {guard_type} ({printable(released.get('reason', 'no reason on record'))}).")
    if remaining:
        click.echo(printable(f"Openings stay blocked by risk guards: {', '.join(remaining)}. See: quantum guard list"))
    elif guards_before.trouble:
        click.echo(f"The risk guards cannot be relied on: {printable(guards_before.trouble)}")
