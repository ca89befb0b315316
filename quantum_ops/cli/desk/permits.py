"""``quantum permits``: what the governor decided last, and why openings are blocked now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from quantum_core.contracts.reading import printable
from quantum_core.settings import load_settings

if TYPE_CHECKING:
    from quantum_ops.desk.standing import Openings


UNITS = {"usd": "USD", "qty": "units"}  # of the day's total


@click.command()
@click.option("--symbol", help="Only this one; default: every symbol that had a plan.")
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True, help="Decisions shown.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def permits(symbol: str | None, count: int, *, as_json: bool) -> None:
    """Show the last decisions of the governor, newest first; above them kill switch, disarming and risk guards.

    \b
    quantum permits
    quantum permits --symbol BTCUSDT --count 20 --json

    Exit codes: 0 shown; 2 wrong usage or settings; 3 Redis away. Events that cannot be read are an empty list, and named.
    """
    from quantum_ops.cli.layout import console, paragraph
    from quantum_ops.desk.standing import openings
    from resources.governor.events import last_decisions, last_kill, newest_events
    from resources.governor.guards import read_guards
    from resources.governor.switches import read_switches
    from resources.store.profiles import bring_up_to_date
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings())
    bring_up_to_date(store)  # its limits decide what is too old
    switches, guards, stream = read_switches(store), read_guards(store), store.keys.of("stream_governor_events")
    events, unreadable = newest_events(store)
    decisions, killed = last_decisions(events, symbol=symbol, count=count), last_kill(events) if switches.set_by_kill else {}
    if as_json:
        standing = {"guards": [{"guard_type": one, **guards.said[one]} for one in guards.live], "guard_trouble": guards.trouble}
        report = {
            "kill": switches.killed,
            "killed": killed,
            "disarmed": switches.disarmed,
            "disarm": dict(switches.disarm),
            "scopes": {scope: dict(said) for scope, said in switches.scopes.items()},
            "switch_trouble": switches.trouble,
            **standing,
            "decisions": decisions,
            "unreadable": unreadable,
        }
        click.echo(json.dumps(report, indent=2))
        return
    out = console()
    for line in standing_lines(openings(switches, guards, killed)):
        out.print(paragraph(out, line))
    if unreadable:
        click.echo(printable(f"The decisions cannot be read: {unreadable}"), err=True)
    elif not decisions:
        click.echo(f"No decision{f' for {symbol}' if symbol else ''} in {stream}.")
    else:
        _print(decisions)


def standing_lines(standing: Openings) -> list[str]:
    """Say whether openings are blocked, then by what and how each of it ends."""
    if not standing.blocked and standing.details:
        return ["Openings are armed, but not all of them:", *(f"  {line}" for line in standing.details)]
    if not standing.blocked:
        return ["Openings are armed: no kill switch, no disarming, no risk guard."]
    return ["Openings are BLOCKED:", *(f"  {line}" for line in standing.details)]


def amount_text(amount: float | None, unit: str) -> str:
    """Write what was permitted today, with its unit where the record has one."""
    from quantum_core.display import price_text

    return "" if amount is None else f"{price_text(amount)} {UNITS.get(unit, unit)}".rstrip()


def _print(decisions: Sequence[Mapping[str, Any]]) -> None:
    from quantum_core.display import moment_text
    from quantum_ops.cli.layout import Column, console, records
    from resources.governor.limits import COUNTS

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
            *("" if one[name] is None else f"{one[name]:g}" for name in COUNTS[:2]),
            amount_text(one["day_total"], one["unit"]),
        )
        for one in decisions
    ]
    out = console()
    out.print(
        records(
            out,
            columns,
            rows,
            title="Decisions, newest first; counts are those of its kind (openings, closes) before the decision",
        )
    )
