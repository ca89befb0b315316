"""The governor's decisions on record: find one, and decide it again from what its record says it was judged by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from quantum_core.contracts.tables import BLOCK, EVENTS_STREAM_MAXLEN, NO_SYMBOL, PERMIT
from quantum_core.kernels.governor.gates import DISARMED, GATES, GUARDED, KILLED, Evidence, decide, gate_reason
from quantum_core.kernels.governor.limits import BURST_SEC, HOUR_SEC, GovernorTheta
from resources.governor.account import utc_date
from resources.governor.limits import COUNTED_IN, COUNTS, LIMITS, USD
from resources.governor.permit import permit_fields
from resources.governor.plan import CLOSING, OPENING, booked_id, parse_plan
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import RedisStore, UnreadableKeyError, texts

FLAGS = (
    "closing",
    "unreadable",
    "kill_switch",
    "disarmed",
    "unknown_symbol",
    "non_live",
    "flat",
    "position_unknown",
    "position_conflict",
    "price_collar",
    "position_inconsistent",
    "close_exceeds_position",
    "market_inactive",
)  # of the evidence, on record
ADDED = {  # what older records lack: they were decided without, as if it had been this
    "unknown_symbol": "0",
    "flat": "0",
    "position_unknown": "0",
    "market_inactive": "0",
    "market_close_age_sec": "0",
    "position_conflict": "0",
    "price_collar": "0",
    "position_inconsistent": "0",
    "close_exceeds_position": "0",
}
JUDGED = (  # numbers of it that are known before permits are counted
    "market_state_age_sec",
    "market_close_age_sec",
    "harvest_proposal_age_sec",
    "position_age_sec",
    "kill_score",
    "position_notional_usd",
    "target_usd",
)
NUMBERS = (*JUDGED, *COUNTS)
INVALID = "invalid_plan:"


class IncompleteRecordError(ValueError):
    """A decision does not say what it was judged by."""


@dataclass(frozen=True)
class Case:
    """Everything that is on record of one plan.

    Attributes
    ----------
    plan_id
        The plan.
    plan
        Its entry, as long as the stream of plans has it.
    events
        Its decisions, oldest first: one, unless something is very wrong.
    permit, block
        The record that came of it, while it lives.
    """

    plan_id: str
    plan: Mapping[str, str] | None
    events: tuple[Mapping[str, str], ...]
    permit: Mapping[str, str] | None
    block: Mapping[str, str] | None


def look_up(store: RedisStore, plan_id: str) -> Case:
    """Gather what is on record of a plan, by its own id or by the one it was decided under.

    Raises
    ------
    UnreadableKeyError
        Something else than a stream stands where plans or decisions should.
    """
    streams = {store.keys.of("stream_plans"), store.keys.of("stream_governor_events")}
    if store.keys.cluster:
        streams |= {store.keys.of("stream_governor_events", symbol) for symbol in (*store.settings.symbols, NO_SYMBOL)}
    stream_keys = sorted(streams)
    replies = store.run(
        "looking up a plan",
        [("XREVRANGE", stream_key, "+", "-", "COUNT", EVENTS_STREAM_MAXLEN + 1000) for stream_key in stream_keys],
    )
    plan_ids = (booked_id(plan_id), plan_id)
    plan, events = None, []
    for stream_key, reply in zip(stream_keys, replies, strict=True):
        if isinstance(reply, Exception):
            raise UnreadableKeyError(stream_key, "a stream", reply)
        for entry_id, raw in reversed(reply):
            fields = texts(raw)
            if stream_key == store.keys.of("stream_plans"):
                plan = fields if parse_plan(entry_id.decode(), raw).plan_id in plan_ids else plan
            elif fields.get("plan_id") in plan_ids:
                events.append(fields)
    symbol = ((events[-1] if events else plan) or {}).get("symbol", "")  # the event names the leg, too
    booked = events[-1].get("plan_id", "") if events else plan_ids[0] or plan_id
    keys = [store.keys.of(table.key, booked, symbol or NO_SYMBOL) for table in (PERMIT, BLOCK)]
    as_hash, as_string, blocked = store.run("reading its records", [("HGETALL", keys[0]), ("GET", keys[0]), ("HGETALL", keys[1])])
    permit = texts(permit_fields(as_hash, as_string)) or None
    block = None if isinstance(blocked, Exception) else texts(blocked) or None
    return Case(plan_id, plan, tuple(events), permit, block)


def judged_by(event: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read out of a decision's record what it was judged by, and under which limits; numbers nobody knew are ``None``.

    Raises
    ------
    IncompleteRecordError
        The record lacks some of it.
    """
    event = {**ADDED, **event}
    missing = sorted({*FLAGS, *NUMBERS, "theta", "unit", "risk_guard"} - event.keys())
    if missing:
        msg = f"the record lacks {', '.join(missing)}"
        raise IncompleteRecordError(msg)
    try:
        limits = asdict(GovernorTheta(**json.loads(event["theta"])))
    except (ValueError, TypeError) as error:
        msg = f"theta: {error}"
        raise IncompleteRecordError(msg) from error
    amount = event.get("notional") if event["unit"] == USD else event.get("qty")
    case: dict[str, Any] = {
        **{name: event.get(name) == "1" for name in FLAGS},
        **{name: number_or_none(event[name]) for name in NUMBERS},
        "risk_guard": event["risk_guard"],
        "amount": number_or_none(amount),
        "in_usd": event["unit"] == USD,
    }
    thrown = event.get("thrown_meanwhile", "")
    case["kill_switch"] |= thrown == KILLED
    case["disarmed"] |= thrown == DISARMED
    if thrown.startswith(GUARDED):
        case["risk_guard"] = thrown.removeprefix(GUARDED)
    return case, limits


def decided_again(event: Mapping[str, str]) -> str:
    """Decide a plan again from its record alone.

    Returns
    -------
    str
        The reason its block ought to have, empty for a permit. Decisions of a plan that could not be read at all
        (``invalid_plan``) and of one whose evaluation itself failed rest on nothing but their reason.

    Raises
    ------
    IncompleteRecordError
        The record lacks what it was judged by.
    """
    if rests_on_nothing(event):
        return event["reason"]
    case, limits = judged_by(event)
    columns = {
        name: np.array([math.nan if value is None else value], dtype=object if name == "risk_guard" else None)
        for name, value in case.items()
    }
    return str(decide(Evidence(**columns), GovernorTheta(**limits))[0])


def rests_on_nothing(event: Mapping[str, str]) -> bool:
    """Whether a plan was refused because it, or its evaluation, was broken."""
    return event.get("reason", "").startswith(INVALID) or bool(event.get("error"))


def gates_judged(event: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """List every gate with its number, its reason and its state in words."""
    gates: list[tuple[int, str, str]] = []
    for gate in GATES if "theta" in event else ():  # a plan that could not be read met none of them
        if event.get("closing") == "1" and not gate.shuts_closings:
            state = "not asked of a closing plan"
        elif gate.reason == gate_reason(event.get("reason", "")):
            state = "SHUT"
        else:
            state = "open"
        reason = event.get("reason", "") if state == "SHUT" else gate.reason
        gates.append((gate.number, f"{reason}*" if reason == GUARDED else reason, state))
        if state == "SHUT":
            break
    return gates


@dataclass(frozen=True)
class Limit:
    """One limit of the governor as a plan met it.

    Attributes
    ----------
    reason
        Of the block when it is reached.
    what
        What is counted, in words.
    unit
        ``permits``, ``usd`` or ``qty``.
    count, allowed
        What was counted before the decision, and the limit.
    adds
        What the plan adds; ``None`` where nobody knows.
    passes_at
        When the same plan would be within the limit, epoch s: the moment of asking when it is already, infinite when it never
        would be.
    """

    reason: str
    what: str
    unit: str
    count: float
    allowed: float
    adds: float | None
    passes_at: float


def limits_met(store: RedisStore, event: Mapping[str, str]) -> list[Limit]:
    """Give count and limit of every limit a decision was judged by, and when the same plan would be within it.

    The counts are those on record; when it would pass follows from what has been permitted since.

    Raises
    ------
    IncompleteRecordError
        The record lacks some of it.
    RedisUnavailableError
        The server is away.
    """
    case, theta = judged_by(event)
    if case["closing"]:
        theta = asdict(GovernorTheta(**theta).of_closes())
    now, symbol, unit = store.clock(), event.get("symbol") or NO_SYMBOL, event["unit"]
    list_key, total_key = COUNTED_IN[CLOSING if case["closing"] else OPENING]
    today = f"{store.keys.of(total_key, symbol)}:{utc_date(now)}:{unit}"
    granted, total = store.run("counting permits", [("LRANGE", store.keys.of(list_key, symbol), 0, -1), ("GET", today)])
    times = [] if isinstance(granted, Exception) else [when for text in granted if (when := number_or_none(text)) is not None]
    amount = case["amount"]
    daily = float(theta["max_notional_per_day_usd"] if unit == USD else theta["max_qty_per_day"])
    midnight = datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), datetime.min.time(), UTC).timestamp()
    if amount is None or amount > daily:
        tomorrow = math.inf
    else:
        tomorrow = now.timestamp() if (number_or_none(total) or 0.0) + amount <= daily else midnight
    hourly, burst, day = LIMITS
    per_hour, per_burst = theta["max_exec_per_hour"], theta["max_exec_per_5min"]
    counts = [case[name] or 0.0 for name in COUNTS]
    return [
        Limit(hourly, "permits in 1 h", "permits", counts[0], per_hour, 1, _room_at(times, per_hour, HOUR_SEC, now.timestamp())),
        Limit(
            burst, "permits in 5 min", "permits", counts[1], per_burst, 1, _room_at(times, per_burst, BURST_SEC, now.timestamp())
        ),
        Limit(day, "permitted today (UTC)", unit, counts[2], daily, amount, tomorrow),
    ]


def _room_at(times: Sequence[float], allowed: int, window_sec: float, now: float) -> float:
    """Say when fewer than ``allowed`` of these times are within the window."""
    if allowed < 1:
        return math.inf
    newest = sorted(times, reverse=True)
    return max(now, newest[allowed - 1] + window_sec) if len(newest) >= allowed else now
