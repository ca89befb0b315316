"""The words of what was decided: switches, guards, refused closes, crossed stops, waiting plans, permits.

Pure. When each of them is a trouble is judged in ``quantum_ops.alerts.trading.watch``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from quantum_core.alert_catalogue import KINDS
from quantum_core.contracts.tables import PERMIT_TTL_SEC
from quantum_core.display import clock_text, duration_text, price_text, until_text
from quantum_core.freshness import EPOCH_MAX, SymbolSigns
from quantum_core.kernels.governor.gates import BURST, EXCEEDS
from quantum_core.kernels.governor.limits import BURST_SEC, CLOSE_LIMITS, HOUR_SEC
from quantum_core.kernels.governor.risk_guard import (
    CONSEC_LOSS,
    DAILY_LOSS,
    DRAWDOWN,
    EMERGENCY_FLATTEN,
    EQUITY_STALE,
    RiskGuardTheta,
)
from quantum_ops.alerts.trading.decided import BACKLOG, BLOCKED, DISARM, KILL, Change, Entry
from quantum_ops.alerts.words import CLOSE, DOUBT, GUARD, PERMIT, SCOPE, STOP, Level, Trouble

PLAN_WAIT_SEC = 30.0  # a plan that has waited for longer is a backlog; they are decided within seconds otherwise
DAY_SEC = 86400
EQUITY_STALE_SEC = RiskGuardTheta().equity_stale_sec
LIMIT_MAX = 1e15  # a larger limit is junk
GUARD_WORDS = {
    EQUITY_STALE: "Equity is not renewed",
    DAILY_LOSS: "Loss of the day is above its limit",
    DRAWDOWN: "Drawdown is above its limit",
    EMERGENCY_FLATTEN: "Drawdown is above the emergency limit",
    CONSEC_LOSS: "Too many losses in a row",
}
BLOCK_WORDS = {
    "risk_guard_error": "Account cannot be judged",
    "risk_guard_stale": "Risk guard is not evaluated",
    "risk_guard_missing": "Risk guard was never evaluated",
    "risk_guard_unreadable": "State of the risk guard cannot be read",
    "risk_guard_in_future": "Risk guard is dated in the future",
    "guard_unreadable": "A guard cannot be read",
}


def guard_changes(entry: Entry) -> list[Change]:
    """Say what an event of a guard began or ended."""
    fields, event = entry.fields, entry.fields.get("event", "")
    guard = fields.get("guard_type", "?")
    guard_fields = {"reason": fields.get("reason", "")}
    if event == "RISK_GUARD_ACTIVATED":
        return [Change(GUARD + guard, guard_trouble(guard, guard_fields, entry.at))]
    if event == "RISK_GUARD_PENDING":
        guard_fields |= {"pending": "True", "confirm_sec": fields.get("confirm_sec", "")}
        return [Change(GUARD + guard, guard_trouble(guard, guard_fields, entry.at))]
    if event == "RISK_GUARD_RECOVERED":
        return [Change(GUARD + guard, ended=fields.get("reason", "?"))]
    if event == "RISK_GUARD_RELEASED":
        return [Change(GUARD + guard, ended=f"released by {fields.get('by', '?')}: {fields.get('reason', '?')}")]
    return []


def _trouble(
    alert: str, kind: str, what: str, since: float, *, limit: str = "", likely: str = "", look: str = "", seen: str = ""
) -> Trouble:
    level: Level = "failure" if KINDS[kind].severity == "page" else "warning"
    return Trouble(alert, level, what, since, limit, likely, look or KINDS[kind].look, kind, what, seen)


def who_of(entry: Entry) -> dict[str, Any]:
    """Give who did it, why and when, from the event's own fields."""
    return {"by": entry.fields.get("by", "?"), "reason": entry.fields.get("reason", "?"), "at": entry.at}


def kill_trouble(kill: Mapping[str, Any], now: float) -> Trouble:
    """Say that the kill switch is set, by whom and why."""
    who = f"by {kill['by']}: {kill['reason']}" if kill else "without a record of who and why"
    return _trouble(KILL, KILL, f"Kill switch set {who}; no openings for any symbol", kill.get("at", now))


def burst_text(fields: Mapping[str, str]) -> str:
    """Say how many permits the symbol of the plan that was one too many had, and the limit: whichever planner used them up."""
    limit, used = _limits(fields).get("max_exec_per_5min"), _number(fields.get("permits_5min"))
    if limit is None or used is None:
        return f"too many plans of {fields.get('symbol', '?')} within 5 minutes"
    return f"{fields.get('symbol', '?')} had {used:g} of {limit:g} permits in 5 minutes, from any planner"


def disarm_trouble(disarm: Mapping[str, str], now: float, bursts: Mapping[str, str], *, itself: bool) -> Trouble:
    """Say that the governor is disarmed: by itself and for what, or without a record."""
    since = epoch_of(disarm.get("at", "")) or now
    if not itself:
        return _trouble(DISARM, "disarmed", "Governor disarmed without a record of why; no openings for any symbol", since)
    return _trouble(
        DISARM, "auto_disarm", f"Governor disarmed itself: {_cause(disarm, bursts)}; no openings for any symbol", since
    )


def _cause(disarm: Mapping[str, str], bursts: Mapping[str, str]) -> str:
    code, _, plan = disarm.get("cause", "?").partition(": plan ")
    if code == BURST:
        return f"{bursts.get(plan, 'too many plans within 5 minutes')} (plan {plan})"
    return disarm.get("cause", "?")


def scope_trouble(scope: str, fields: Mapping[str, str], now: float, bursts: Mapping[str, str], refused: int) -> Trouble:
    """Say which planner or symbol is disarmed, for how many plans, and how many were refused for it since."""
    source = scope.startswith("source:")
    whose = f"{'planner' if source else 'symbol'} {scope.partition(':')[2]}"
    count, cause = _number(fields.get("plans")), _cause(fields, bursts)
    plans = "" if not count or "plans of today" in cause else f", {count:,.0f} {'plan' if count == 1 else 'plans'} too many"
    since = f", {refused:,} refused since" if refused else ""
    title = f"Disarmed for {whose}{plans}{since}: {cause}; no openings {'by' if source else 'of'} it, others pass"
    look = "quantum permits" if source else f"quantum permits --symbol {scope.partition(':')[2]}"
    return _trouble(SCOPE + scope, "scope_disarmed", title, epoch_of(fields.get("at", "")) or now, look=look)


def guard_trouble(guard: str, fields: Mapping[str, str], now: float) -> Trouble:
    """Say which guard is active or pending, why, and until when."""
    reason = fields.get("reason", "").removeprefix(guard).strip()
    words, until = GUARD_WORDS.get(guard, f"Guard {guard} is active"), epoch_of(fields.get("expires_at", ""))
    ends = f" until {until_text(until, now)}" if until and guard != EQUITY_STALE else ""
    if guard == EQUITY_STALE and (age := re.fullmatch(r"age=(\d{1,9})s(?: > (\d{1,9})s)?", reason)) and until:
        last_written = until - EQUITY_STALE_SEC - float(age[1])  # it is renewed for so long by each evaluation
        words, reason = (
            f"Equity is not written since {clock_text(last_written)}",
            f"limit {duration_text(float(age[2]))}" if age[2] else "",
        )
        ends = " until it is written again"
    level: Level = "failure"
    if fields.get("pending") == "True":
        level, confirmed_in = "warning", f"{fields.get('confirm_sec') or '?'} s"  # so that its confirmation is news
        ends = f": confirming in {confirmed_in} unless it recovers"
        if guard == EMERGENCY_FLATTEN:
            share = re.match(r"drawdown=(\d+(?:\.\d+)?)%", reason)
            words, reason = f"Equity fell {float(share[1]):.3g} %" if share else "Equity is 0 or less", ""
            ends = f": confirming, executor to flatten in {confirmed_in} unless it recovers"
        words, reason, ends = f"{words}{f' ({reason})' if reason else ''}{ends}", "", ""
    title = f"{words}{f' ({reason})' if reason else ''}; no openings for any symbol{ends} (guard {guard})"
    set_by = f"set by {fields['source']}" if fields.get("source") else ""
    since = epoch_of(fields.get("activated_at", "")) or now
    return replace(_trouble(GUARD + guard, "guard", title, since, seen=set_by), level=level)


def blocked_trouble(why: str, since: float) -> Trouble:
    """Say why openings are blocked altogether."""
    code, _, detail = why.partition(": ")
    words = BLOCK_WORDS.get(code)
    cause = (
        f"{words}{f': {detail}' if detail and code != 'risk_guard_missing' else ''}"
        if words
        else f"A switch cannot be read: {why}"
    )
    return _trouble(BLOCKED, BLOCKED, f"{cause}; no openings for any symbol", since)


def stop_trouble(signs: SymbolSigns, since: float) -> Trouble:
    """Say that a stop is crossed, since when, at which price."""
    stop = signs.stop
    assert stop is not None  # noqa: S101 - the caller has looked
    beyond = "above" if stop.side == "SHORT" else "below"
    price, limit = price_text(stop.price), price_text(stop.stop)
    where = "at" if price == limit else beyond
    what = f"{stop.side} stop {limit} crossed: price {price} is {where} it since {clock_text(since)}; the position is still open"
    likely = "the executor has not closed it, or the mark is wrong"
    look = f"quantum status --symbols {signs.symbol}"
    return _trouble(STOP + signs.symbol, "stop_crossed", what, since, limit=f"stop {limit}", likely=likely, look=look)


def doubt_trouble(signs: SymbolSigns, since: float) -> Trouble:
    """Say what is wrong with a position."""
    what = f"{signs.trouble}; no openings"
    look = f"quantum status --symbols {signs.symbol}"
    return _trouble(DOUBT + signs.symbol, "position_doubtful", what, since, look=look)


def refused_trouble(symbol: str, refused: Mapping[str, Any]) -> Trouble:
    """Say that closes of a symbol are refused, why, and when one would pass."""
    count = f", {refused['count']} refused so far" if refused["count"] > 1 else ""
    until = refused["until"]
    passes = f"; would pass after {clock_text(until + 59)}" if until else ""  # not a minute too early
    what = f"Close of {symbol} refused: {refused['text']}{passes} (plan {refused['plan_id']}{count})"
    seen = ", ".join(filter(None, (refused["action"], f"gate {refused['gate']} {refused['reason']}".replace("gate  ", ""))))
    look = f"quantum explain {refused['plan_id']}"
    return _trouble(CLOSE + symbol, "close_refused", what, refused["at"], limit=refused["limit"], look=look, seen=seen)


def refusal_of(entry: Entry, granted: Sequence[float]) -> tuple[str, str, float]:
    """Say why a close was refused, against which limit, and when it would pass (0: nobody knows)."""
    fields, reason, at = entry.fields, entry.fields.get("reason", ""), entry.at
    limits = _limits(fields)
    # Closes have limits of their own.
    limits = {**limits, **{name: limits[of_close] for name, of_close in CLOSE_LIMITS.items() if of_close in limits}}
    if reason == "hourly_limit_exceeded":
        return _count_refusal(fields.get("permits_hour"), limits.get("max_exec_per_hour"), "an hour", granted, HOUR_SEC)
    if reason == BURST:
        return _count_refusal(fields.get("permits_5min"), limits.get("max_exec_per_5min"), "5 minutes", granted, BURST_SEC)
    if reason == "daily_limit_exceeded":
        return _daily_refusal(fields, limits, at)
    if reason == EXCEEDS:
        return "it is larger than the position, or there is none", "the size that is held", 0.0
    if reason == "synthetic_data":
        return f"its data is not live ({fields.get('sources', '?')})", "live data", 0.0
    if reason.startswith("invalid_plan:"):
        return f"field {reason.partition(':')[2]} of the plan is not valid", "a valid plan", 0.0
    if reason == "evaluation_error":
        why = fields.get("trouble") or fields.get("error") or "see its record"
        return f"an input cannot be read ({why})", "readable inputs", 0.0
    return reason.replace("_", " "), "", 0.0


def _count_refusal(
    used: str | None, limit: float | None, window: str, granted: Sequence[float], window_sec: float
) -> tuple[str, str, float]:
    if limit is None:
        return f"the limit of permits in {window} is reached, its record does not say which", "", 0.0
    during = "this hour" if window == "an hour" else f"in {window}"
    limited = f"{limit:g} permits in {window}"
    return f"{used or '?'} of {limit:g} permits {during} are used", limited, _room_at(granted, int(limit), window_sec)


def _daily_refusal(fields: Mapping[str, str], limits: Mapping[str, float], at: float) -> tuple[str, str, float]:
    usd = fields.get("unit") == "usd"
    limit = limits.get("max_notional_per_day_usd" if usd else "max_qty_per_day")
    unit = "USD" if usd else "units"
    if limit is None:
        return "the limit of a day is reached, its record does not say which", "", 0.0
    amount, total = _number(fields.get("notional" if usd else "qty")), _number(fields.get("day_total"))
    limited = f"{price_text(limit)} {unit} a day"
    if amount is None or total is None:
        return f"its size is not known, limit {limited}", limited, 0.0
    text = f"{price_text(total)} + {price_text(amount)} {unit} exceed {limited}"
    return text, limited, 0.0 if amount > limit else (at // DAY_SEC + 1) * DAY_SEC


def _limits(fields: Mapping[str, str]) -> Mapping[str, float]:
    """Read the limits of a decision; what is no number of a limit is left out."""
    try:
        limits = json.loads(fields.get("theta", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(limits, dict):
        return {}
    numbers = {name: _number(str(value)) for name, value in limits.items() if isinstance(value, int | float)}
    return {name: number for name, number in numbers.items() if number is not None and 0 <= number < LIMIT_MAX}


def _room_at(granted: Sequence[float], limit: int, window_sec: float) -> float:
    """Give the time when the window has room for one more, epoch s; 0 when that is not known."""
    return granted[limit - 1] + window_sec if 0 < limit <= len(granted) else 0.0


def backlog_trouble(waiting: int, since: float, now: float) -> Trouble:
    """Say how many plans wait, and for how long."""
    plans = "1 plan waits" if waiting == 1 else f"{waiting} plans wait"
    what = f"{plans} for a decision, the oldest for {now - since:.0f} s; no permits meanwhile"
    likely = "the job `plans` does not run, or the governor cannot read its inputs"
    return _trouble(BACKLOG, BACKLOG, what, since, limit=f"{PLAN_WAIT_SEC:g} s", likely=likely)


def unused_trouble(symbol: str, unused: Mapping[str, Any]) -> Trouble:
    """Say that nobody used a permit while it lasted."""
    what = f"Permit for {symbol} expired unused (plan {unused['plan_id']}, granted at {clock_text(unused['at'])})"
    likely = "the executor was down or too slow, or decided against the plan"
    look = f"quantum explain {unused['plan_id']}"
    limit = f"{PERMIT_TTL_SEC} s"
    return _trouble(PERMIT + symbol, "permit_unused", what, unused["at"], limit=limit, likely=likely, look=look)


def epoch_of(moment: object) -> float:
    """Read a time; 0 where it is none."""
    try:
        epoch = datetime.fromisoformat(str(moment)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return epoch if 0 <= epoch < EPOCH_MAX else 0.0


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
