"""``quantum permits``: what the governor decided last, symbol by symbol, and what stands against openings now."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from quantum_assets.contracts.reading import printable
from resources.settings import load_settings

if TYPE_CHECKING:
    from resources.guards import GuardReading
    from resources.switches import Switches

DECISIONS = {"PERMIT": "permit", "BLOCK": "block"}  # other events of the stream are switches
COUNTS = ("permits_hour", "permits_5min", "day_total")


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
    from quantum_assets.contracts.tables import EVENTS_STREAM_MAXLEN
    from resources.guards import read_guards
    from resources.redis_store import RedisStore
    from resources.switches import read_switches

    store = RedisStore(load_settings())
    switches, guards, stream = read_switches(store), read_guards(store), store.keys.of("stream_governor_events")
    (reply,) = store.run("reading decisions", [("XREVRANGE", stream, "+", "-", "COUNT", EVENTS_STREAM_MAXLEN)])
    unreadable = f"{stream}: {reply}" if isinstance(reply, Exception) else ""
    events = [] if unreadable else reply
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


def last_decisions(entries: Iterable[tuple[bytes, Any]], *, symbol: str | None, count: int) -> list[dict[str, Any]]:
    """Select the newest decisions of each symbol.

    Parameters
    ----------
    entries
        Of the governor's events, newest first.
    symbol
        Only this one.
    count
        At most so many per symbol.

    Returns
    -------
    list of dict
        By symbol, newest first: symbol, time (epoch s), plan_id, action, outcome, reason, and the counts before the decision.
    """
    from resources.foreign import number_or_none
    from resources.redis_store import texts

    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry_id, raw in entries:
        fields = texts(raw)
        whose = fields.get("symbol", "")
        if fields.get("event") not in DECISIONS or symbol not in (None, whose) or len(found[whose]) == count:
            continue
        found[whose].append(
            {
                "symbol": whose,
                "time": number_or_none(fields.get("timestamp_epoch")) or int(entry_id.partition(b"-")[0]) / 1000,
                "plan_id": fields.get("plan_id", ""),
                "action": fields.get("action", ""),
                "outcome": DECISIONS[fields["event"]],
                "reason": fields.get("reason", ""),
                **{name: number_or_none(fields.get(name)) for name in COUNTS},
            }
        )
    return [one for whose in sorted(found) for one in found[whose]]


def last_kill(entries: Iterable[tuple[bytes, Any]]) -> dict[str, str]:
    """Find who first set the kill switch since it was last armed, why and when, among the governor's events, newest first.

    Returns
    -------
    dict
        by, reason, at; empty when there is no record of it: another program set it, or the record is no longer kept.
    """
    from quantum_assets.incidents import moment_text
    from resources.redis_store import texts

    found: dict[str, str] = {}
    for entry_id, raw in entries:
        fields = texts(raw)
        if fields.get("event") == "ARMED":
            break
        if fields.get("event") == "KILL":
            at = moment_text(int(entry_id.partition(b"-")[0]) / 1000)
            found = {"by": fields.get("by", "?"), "reason": fields.get("reason", "?"), "at": at}
    return found


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
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from quantum_assets.incidents import moment_text

    table = Table(title="Decisions, newest first; counts are those before the decision", title_justify="left")
    for heading in ("symbol", "time", "plan", "action", "outcome", "reason", "in 1 h", "in 5 min", "today"):
        table.add_column(heading, justify="right" if heading in ("in 1 h", "in 5 min", "today") else "left")
    shown = ""
    for one in decisions:
        if shown and one["symbol"] != shown:
            table.add_section()
        colour = "green" if one["outcome"] == "permit" else "red"
        words = [printable(one[name]) for name in ("plan_id", "action")]
        table.add_row(
            "" if one["symbol"] == shown else escape(printable(one["symbol"])),
            moment_text(one["time"]),
            *(escape(word) for word in words),
            f"[{colour}]{one['outcome']}[/]",
            escape(printable(one["reason"])),
            *("" if one[name] is None else f"{one[name]:g}" for name in COUNTS),
        )
        shown = one["symbol"]
    Console().print(table)
