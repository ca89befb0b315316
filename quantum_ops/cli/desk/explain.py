"""``quantum explain``: why one plan was permitted or refused, from the records alone."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import load_settings

JUDGED_BY = (  # what a decision rests on, in the order of the gates
    "closing",
    "unreadable",
    "trouble",
    "error",
    "kill_switch",
    "thrown_meanwhile",
    "disarmed",
    "disarm_scope",
    "plan_source",
    "risk_guard",
    "unknown_symbol",
    "market_state_age_sec",
    "market_close_age_sec",
    "harvest_proposal_age_sec",
    "position_age_sec",
    "flat",
    "position_unknown",
    "position_conflict",
    "price_collar",
    "position_inconsistent",
    "close_exceeds_position",
    "market_state_cycle_id",
    "harvest_proposal_cycle_id",
    "position_cycle_id",
    "sources",
    "non_live",
    "kill_score",
    "counted_as",
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
)


@click.command()
@click.argument("plan_id")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def explain(plan_id: str, *, as_json: bool) -> None:
    """Show why PLAN_ID was permitted or refused, from the records alone, and decide it again from them.

    \b
    quantum explain plan-17
    quantum explain plan-17 --json

    Exit codes: 0 decided once, and again the same; 1 not decided (yet), decided more than once, or its record does not lead to
    its outcome; 2 wrong settings; 3 Redis away.
    """
    from quantum_ops.desk.overview import read_openings
    from resources.governor.decisions import IncompleteRecordError, decided_again, gates_judged, limits_met, look_up
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings())
    case = look_up(store, plan_id)
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
    limits: list[dict[str, Any]] = []
    if event is not None:
        with suppress(IncompleteRecordError):  # of a plan that could not be read nothing was counted
            limits = [
                {**asdict(limit), "passes_at": limit.passes_at if math.isfinite(limit.passes_at) else None}
                for limit in limits_met(store, event)
            ]
    record: dict[str, Any] = {
        "plan_id": plan_id,
        "plan": case.plan,
        "event": event,
        "permit": case.permit,
        "block": case.block,
        "gates": [{"number": n, "reason": r, "state": s} for n, r, s in gates_judged(event or {})],
        "limits": limits,
        "blocked_now": read_openings(store).blocked,
        "decided_again": again,
        "trouble": trouble,
    }
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        _print(record, store.clock().timestamp())
    if trouble:
        sys.exit(EXIT_FAILED)


def _outcome(reason: str) -> str:
    return f"a block: {reason}" if reason else "a permit"


def limit_line(limit: Mapping[str, Any], now: float) -> str:
    """Say count against limit, as they were at the decision, and when the same plan would be within it."""
    from quantum_core.display import duration_text, moment_text

    unit = {"usd": " USD", "qty": " units"}.get(limit["unit"], "")
    line = f"{limit['what']}: {limit['count']:,.6g} of {limit['allowed']:,.6g}{unit}"
    if unit:
        line += ", this plan: " + ("size unknown" if limit["adds"] is None else f"{limit['adds']:,.6g}{unit}")
    if limit["passes_at"] is None:
        return f"{line}; the same plan never passes this limit"
    if limit["passes_at"] <= now:
        return f"{line}; the same plan is within this limit now"
    wait = duration_text(limit["passes_at"] - now)
    return f"{line}; the same plan is within this limit at {moment_text(limit['passes_at'])}, in {wait}"


def facts_of(event: Mapping[str, str]) -> list[tuple[str, str]]:
    """List what a decision rests on, for people; each of its limits is a fact of its own."""
    facts = [(name, fact_text(name, event[name])) for name in JUDGED_BY if event.get(name)]
    with suppress(ValueError, AttributeError):
        facts += [(f"limit {name}", str(value)) for name, value in json.loads(event.get("theta", "")).items()]
    return facts


def fact_text(name: str, recorded: str) -> str:
    """Write one recorded fact for people: ages as durations, amounts rounded."""
    from quantum_core.display import duration_text, price_text
    from resources.inputs.foreign import number_or_none

    number = number_or_none(recorded)
    if number is None or "." not in recorded:
        return recorded
    return duration_text(number) if name.endswith("_age_sec") else price_text(number)


def _print(record: Mapping[str, Any], now: float) -> None:
    from quantum_core.display import moment_text, reason_text
    from quantum_ops.cli.layout import Column, console, paragraph, records, say
    from resources.inputs.foreign import number_or_none

    event = record["event"]
    if event is None:
        say(f"{record['plan_id']}: {record['trouble']}.")
        return
    when = number_or_none(event.get("timestamp_epoch")) or 0.0
    out = console()
    whose = f"{event.get('symbol') or 'no symbol'} {event.get('action', '')}"
    outcome = f"{_outcome(event.get('reason', ''))}, at {moment_text(when)}, cycle {event.get('cycle_id', '')}"
    out.print(paragraph(out, f"{record['plan_id']} ({whose}): {outcome}"))
    for limit in record["limits"]:
        out.print(paragraph(out, f"  {limit_line(limit, now)}"))
    if record["limits"] and record["blocked_now"] and event.get("closing") != "1":
        out.print(paragraph(out, f"  Openings are blocked now all the same: {'; '.join(record['blocked_now'])}"))
    if record["gates"]:
        states = {"open": "passed", "SHUT": "FAILED"}
        gates = [
            (str(one["number"]), one["reason"], reason_text(one["reason"]), states.get(one["state"], one["state"]))
            for one in record["gates"]
        ]
        columns = (Column("gate"), Column("reason"), Column("blocks when"), Column("", colours={"FAILED": "red"}))
        out.print(records(out, columns, gates, title="Gates, in this order"))
    out.print(
        records(out, (Column("judged by"), Column("value")), facts_of(event), title="As recorded; --json has full precision")
    )
    alive = "permit" if record["permit"] else "block" if record["block"] else None
    click.echo(f"Its {alive} still stands." if alive else "Its permit or block has expired; the record above remains.")
    if record["trouble"]:
        say(record["trouble"], style="bold red")
    else:
        say(f"Decided again from the record: {_outcome(record['decided_again'])}, the same.")
