"""The governor's newest events as people ask for them: the last decisions, and who set the kill switch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantum_core.contracts.tables import EVENTS_STREAM_MAXLEN
from resources.governor.limits import COUNTS
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import RedisStore, texts

DECISIONS = {"PERMIT": "permit", "BLOCK": "block"}  # other events of the stream are switches


def is_decision(event: Mapping[str, str]) -> bool:
    """Whether an event is a decision of the governor: other programs write to the same stream, with events of their own."""
    return (
        event.get("event", "") in ("", *DECISIONS) and event.get("granted") in ("0", "1", "true", "false") and "plan_id" in event
    )


def newest_events(store: RedisStore, count: int = EVENTS_STREAM_MAXLEN) -> tuple[list[tuple[bytes, Any]], str]:
    """Read the governor's events, newest first, or say why they cannot be read."""
    stream = store.keys.of("stream_governor_events")
    (reply,) = store.run("reading decisions", [("XREVRANGE", stream, "+", "-", "COUNT", count)])
    return ([], f"{stream}: {reply}") if isinstance(reply, Exception) else (reply, "")


def last_decisions(entries: Iterable[tuple[bytes, Any]], *, symbol: str | None, count: int) -> list[dict[str, Any]]:
    """Select the newest decisions.

    Parameters
    ----------
    entries
        Of the governor's events, newest first.
    symbol
        Only this one.
    count
        At most so many.

    Returns
    -------
    list of dict
        Newest first: symbol, time (epoch s), plan_id, action, outcome, reason, the counts before the decision, and the unit of
        the day's total (usd or qty).
    """
    decisions: list[dict[str, Any]] = []
    for entry_id, raw in entries:
        fields = texts(raw)
        whose = fields.get("symbol", "")
        if fields.get("event") not in DECISIONS or symbol not in (None, whose):
            continue
        if len(decisions) == count:
            break
        decisions.append(
            {
                "symbol": whose,
                "time": number_or_none(fields.get("timestamp_epoch")) or int(entry_id.partition(b"-")[0]) / 1000,
                "plan_id": fields.get("plan_id", ""),
                "action": fields.get("action", ""),
                "outcome": DECISIONS[fields["event"]],
                "reason": fields.get("reason", ""),
                **{name: number_or_none(fields.get(name)) for name in COUNTS},
                "unit": fields.get("unit", ""),
            }
        )
    return decisions


def last_kill(entries: Iterable[tuple[bytes, Any]]) -> dict[str, str]:
    """Find who first set the kill switch as it stands, why and when, among the governor's events, newest first.

    That is the last kill that did not find it set by ours. A planner or symbol that was armed ends no kill switch.

    Returns
    -------
    dict
        by, reason, at; empty when there is no record of it: another program set it, or the record is no longer kept.
    """
    from quantum_core.display import moment_text

    kill: dict[str, str] = {}
    for entry_id, raw in entries:
        fields = texts(raw)
        if fields.get("event") == "ARMED" and not fields.get("scope"):
            break
        if fields.get("event") == "KILL":
            at = moment_text(int(entry_id.partition(b"-")[0]) / 1000)
            kill = {"by": fields.get("by", "?"), "reason": fields.get("reason", "?"), "at": at}
            if "standing" not in fields:
                break
    return kill
