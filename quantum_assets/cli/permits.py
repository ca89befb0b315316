"""``quantum permits``: what the governor decided last, symbol by symbol, and what stands against openings now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from quantum_assets.contracts.reading import printable
from resources.settings import load_settings

if TYPE_CHECKING:
    from resources.guards import GuardReading
    from resources.switches import Switches


@click.command()
@click.option("--symbol", help="Only this one; default: every symbol that had a plan.")
@click.option("--count", type=click.IntRange(min=1), default=5, show_default=True, help="Decisions shown per symbol.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def permits(symbol: str | None, count: int, *, as_json: bool) -> None:
    """Show the last decisions of the governor per symbol, newest first; above them kill switch, disarming and risk guards.

    \b
    quantum permits
    quantum permits --symbol BTCUSDT --count 20 --json

    Exit codes: 0 shown; 2 wrong usage or settings; 3 Redis away. Events that cannot be read are an empty list, and named.
    """
    from resources.governor_events import last_decisions, last_kill, newest_events
    from resources.guards import read_guards
    from resources.redis_store import RedisStore
    from resources.switches import read_switches

    store = RedisStore(load_settings())
    switches, guards, stream = read_switches(store), read_guards(store), store.keys.of("stream_governor_events")
    events, unreadable = newest_events(store)
    decisions, killed = last_decisions(events, symbol=symbol, count=count), last_kill(events) if switches.killed else {}
    if as_json:
        standing = {"guards": [{"guard_type": one, **guards.said[one]} for one in guards.live], "guard_trouble": guards.trouble}
        told = {
            "kill": switches.killed,
            "killed": killed,
            "disarmed": switches.disarmed,
            "disarm": dict(switches.disarm),
            "switch_trouble": switches.trouble,
            **standing,
            "decisions": decisions,
            "unreadable": unreadable,
        }
        click.echo(json.dumps(told, indent=2))
        return
    for line in standing_lines(switches, killed, guards):
        click.echo(printable(line))
    if unreadable:
        click.echo(printable(f"The decisions cannot be read: {unreadable}"), err=True)
    elif not decisions:
        click.echo(f"No decision{f' for {symbol}' if symbol else ''} in {stream}.")
    else:
        _print(decisions)


def blocked_because(switches: Switches, guards: GuardReading, events: Callable[[], Iterable[tuple[bytes, Any]]]) -> list[str]:
    """Name everything that blocks all openings, in the order of the gates; empty when the governor is armed.

    Parameters
    ----------
    switches, guards
        As they were read.
    events
        Reads the governor's events, newest first; asked only for who set the kill switch.
    """
    from resources.governor_events import last_kill

    causes = []
    if switches.killed:
        killed = last_kill(events())
        causes.append(
            f"kill switch set by {killed['by']} ({killed['reason']})" if killed else "kill switch set, by whom is unknown"
        )
    if switches.disarmed:
        causes.append(f"governor disarmed ({switches.disarm.get('cause', 'why is unknown')})")
    causes += [f"risk guard {_guard_line(guard, guards.said[guard])}" for guard in guards.live]
    return [*causes, *(f"unknown: {trouble}" for trouble in (switches.trouble, guards.trouble) if trouble)]


def standing_lines(switches: Switches, killed: Mapping[str, str], guards: GuardReading) -> list[str]:
    """Say what stands against openings, and how it ends."""
    who = f"since {killed['at']}, by {killed['by']}: {killed['reason']}" if killed else "without a record of who and why"
    lines = [f"kill switch: {f'SET {who}' if switches.killed else 'not set'}"]
    since = f" since {switches.disarm.get('at', '?')}: {switches.disarm.get('cause', '?')}" if switches.disarm else ""
    lines.append(f"governor:    {f'DISARMED{since}' if switches.disarmed else 'armed'}")
    if switches.killed or switches.disarmed:
        lines.append('             ended by: quantum arm --name "YOUR NAME" --reason "WHY"')
    told = [_guard_line(one, guards.said[one]) for one in guards.live]
    lines += [f"risk guards: {told[0] if told else 'none'}", *(f"             {one}" for one in told[1:])]
    trouble = "; ".join(filter(None, [switches.trouble, guards.trouble]))
    return [*lines, *([f"trouble:     {trouble}"] if trouble else [])]


def _guard_line(guard: str, said: Mapping[str, str]) -> str:
    until = f", until {said['expires_at']}" if "expires_at" in said else ""
    return f"{said.get('reason', guard)}{until}"


def _print(decisions: Sequence[Mapping[str, Any]]) -> None:
    from quantum_assets.cli.layout import Column, console, records
    from quantum_assets.incidents import moment_text
    from resources.governor_events import COUNTS

    columns = (
        Column("symbol"),
        Column("time"),
        Column("plan"),
        Column("action"),
        Column("outcome", colours={"permit": "green", "block": "red"}),
        Column("reason"),
        *(Column(heading, right=True, labelled=True) for heading in ("in 1 h", "in 5 min", "today")),
    )
    rows = [
        (
            *(one["symbol"], moment_text(one["time"]), one["plan_id"], one["action"], one["outcome"], one["reason"]),
            *("" if one[name] is None else f"{one[name]:g}" for name in COUNTS),
        )
        for one in decisions
    ]
    out = console()
    out.print(records(out, columns, rows, title="Decisions, newest first; counts are those before the decision"))
