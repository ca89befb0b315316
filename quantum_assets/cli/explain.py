"""``quantum explain``: why one plan was permitted or refused, from the records alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from quantum_assets.cli import EXIT_FAILED
from quantum_assets.contracts.reading import printable
from resources.settings import load_settings

JUDGED_BY = (  # what a decision rests on, in the order of the gates
    "closing",
    "unreadable",
    "trouble",
    "error",
    "kill_switch",
    "thrown_meanwhile",
    "disarmed",
    "risk_guard",
    "market_state_age_sec",
    "harvest_proposal_age_sec",
    "position_age_sec",
    "market_state_cycle_id",
    "harvest_proposal_cycle_id",
    "position_cycle_id",
    "sources",
    "non_live",
    "kill_score",
    "permits_hour",
    "permits_5min",
    "day_total",
    "unit",
    "notional",
    "qty",
    "permits_hour_after",
    "permits_5min_after",
    "day_total_after",
    "position_notional_usd",
    "target_usd",
    "theta",
)


@click.command()
@click.argument("plan_id")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def explain(plan_id: str, *, as_json: bool) -> None:
    """Tell why PLAN_ID was permitted or refused, from the records alone, and decide it again from them.

    \b
    quantum explain plan-17
    quantum explain plan-17 --json

    Exit codes: 0 decided once, and again the same; 1 not decided (yet), decided more than once, or its record does not lead to
    its outcome; 2 wrong settings; 3 Redis away.
    """
    from resources.decisions import IncompleteRecordError, decided_again, gates_judged, look_up
    from resources.redis_store import RedisStore

    case = look_up(RedisStore(load_settings()), plan_id)
    event = case.events[-1] if case.events else None
    again, trouble = None, ""
    if event is None:
        trouble = "waits to be decided" if case.plan is not None else "no such plan is on record"
    else:
        try:
            again = decided_again(event)
        except IncompleteRecordError as error:
            trouble = f"cannot be decided again: {error}"
        else:
            if again != event.get("reason"):
                trouble = f"decided again from its record it would be {_outcome(again)}"
        if len(case.events) > 1:
            trouble = f"decided {len(case.events)} times; {trouble}".rstrip("; ")
    told: dict[str, Any] = {
        "plan_id": plan_id,
        "plan": case.plan,
        "event": event,
        "permit": case.permit,
        "block": case.block,
        "gates": [{"number": n, "reason": r, "state": s} for n, r, s in gates_judged(event or {})],
        "decided_again": again,
        "trouble": trouble,
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        _print(told)
    if trouble:
        sys.exit(EXIT_FAILED)


def _outcome(reason: str) -> str:
    return f"a block: {reason}" if reason else "a permit"


def _print(told: Mapping[str, Any]) -> None:
    from rich import markup
    from rich.console import Console
    from rich.table import Table

    from quantum_assets.incidents import moment_text
    from resources.foreign import number_or_none

    def escape(text: str) -> str:
        return markup.escape(printable(text))

    console = Console()
    event = told["event"]
    if event is None:
        console.print(f"{escape(told['plan_id'])}: {escape(told['trouble'])}.", highlight=False)
        return
    when = number_or_none(event.get("timestamp_epoch")) or 0.0
    console.print(
        f"{escape(told['plan_id'])} ({escape(event.get('symbol') or 'no symbol')} {escape(event.get('action', ''))}): "
        f"[bold]{escape(_outcome(event.get('reason', '')))}[/bold], at {moment_text(when)}, "
        f"cycle {escape(event.get('cycle_id', ''))}",
        highlight=False,
    )
    gates = Table("gate", "reason of a block", "", title="In this order")
    for one in told["gates"]:
        gates.add_row(str(one["number"]), one["reason"], one["state"])
    if told["gates"]:
        console.print(gates)
    facts = Table("judged by", "value", title="As recorded")
    for name in JUDGED_BY:
        if event.get(name):
            facts.add_row(name, escape(event[name]))
    console.print(facts)
    alive = "permit" if told["permit"] else "block" if told["block"] else None
    console.print(f"Its {alive} still stands." if alive else "Its permit or block has expired; the record above remains.")
    if told["trouble"]:
        console.print(f"[bold red]{escape(told['trouble'])}[/bold red]", highlight=False)
    else:
        console.print(f"Decided again from the record: {escape(_outcome(told['decided_again']))}, the same.", highlight=False)
