"""The account's guards in Redis: what they are judged by, how they are set and announced, and what stands now.

Whether a guard is due is decided in ``quantum_core/kernels/governor/risk_guard.py``; when, by the asset. Nothing here imports
Dagster: the governor and the commands read guards through :func:`read_guards`, also when Dagster is down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from quantum_core.contracts.schema import ACCOUNT, ContractError
from quantum_core.contracts.tables import EVENTS_STREAM_MAXLEN, RISK_GUARD, TRACKED_TTL_SEC
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.governor.limits import GovernorLimits
from quantum_core.kernels.governor.risk_guard import (
    CONFIRMED,
    CONSEC_LOSS,
    CONSECUTIVE_LOSSES,
    DAILY_LOSS,
    DAILY_PNL,
    EMERGENCY_FLATTEN,
    EQUITY,
    EQUITY_STALE,
    GUARDS,
    MISSING_AGE_SEC,
    NET_TRANSFERS,
    PEAK,
    Assessment,
    RiskGuardTheta,
    Triggered,
    assess,
    near_peak,
    peak_rose,
)
from resources.governor.account import CURRENT_PEAK, AccountReading
from resources.governor.guard_search import NOTHING_FOUND, Searched, unread
from resources.store.redis_store import RedisStore, flat, pairs, texts
from resources.store.transport.scripts import Script

OURS = "risk_guard"  # ``source`` of every guard set here; an EQUITY_STALE of another source is neither renewed nor removed
EVENTS = "events"  # the stream of risk events, where it is named as unusable
ACTIVATED, FLATTEN_REQUESTED = "RISK_GUARD_ACTIVATED", "EMERGENCY_FLATTEN_REQUESTED"
PENDING, RECOVERED, RELEASED = "RISK_GUARD_PENDING", "RISK_GUARD_RECOVERED", "RISK_GUARD_RELEASED"
WITHIN_LIMIT = "a newer reading is within its limit"
PENDING_SEC = 60  # lifetime of a guard that waits for a second reading, renewed by each evaluation
NEEDS = {DAILY_LOSS: DAILY_PNL, CONSEC_LOSS: CONSECUTIVE_LOSSES}  # what is 0 while nobody has written it, and ends no guard so
EVENTS_READ = 500  # entries of the stream of risk events looked through for releases

ANNOUNCED, WAITS, WITHIN = 1, 2, 3  # replies of the scripts

ANNOUNCE = Script(__file__, "announce")
CONFIRM = Script(__file__, "confirm")
KEEP_PEAK = Script(__file__, "keep_peak")
RENEW = Script(__file__, "renew")


@dataclass(frozen=True, slots=True)
class Enforced:
    """What became of the guards in one evaluation.

    Attributes
    ----------
    live
        Guards that live now, whoever set them, in the order of ``GUARDS``.
    announced
        Those that this evaluation announced: they live for their duration from now on.
    errors
        What could not be read or written, and why: ``guard:<TYPE>`` or ``events``.
    pending
        Those that live and wait for a second reading.
    recovered
        Those that waited for one, and ended with a newer reading within the limit.
    """

    live: tuple[str, ...]
    announced: tuple[Triggered, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardReading:
    """The guards that block openings now.

    Attributes
    ----------
    live
        Live guards, in the order of docs/spec.md#8-risk-guard: by a key of their own (also one that cannot be read), or because
        their condition held when last evaluated.
    trouble
        Why the guards cannot be relied on, in words: a key that cannot be read, or a risk guard that was not evaluated
        recently or could not judge the account. Empty when they can.
    said
        What each of them says of itself (guard_type, reason, activated_at, expires_at, pending while it waits for a second
        reading); empty for one that has no such text.
    account
        What the writer of the account says of itself, when last evaluated; empty when it says nothing.
    """

    live: tuple[str, ...]
    trouble: str = ""
    said: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    account: str = ""


def read_guards(store: RedisStore, now: datetime | None = None) -> GuardReading:
    """Read the five guards, those of RISK_GUARDS_EXTRA, those found and the risk guard's own state.

    In one round trip, or two when guards were found that nobody knows: these live while their key exists, whatever it holds.

    Parameters
    ----------
    store
        Where they are.
    now
        What they are judged at; the store's clock where nothing is decided by them.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    now = now or store.clock()
    guard_types = (*GUARDS, *store.settings.risk_guards_extra)
    keys = [store.keys.of("guard_active", guard) for guard in guard_types]
    state, search = store.keys.of(RISK_GUARD.key), store.keys.of("guards_found")
    commands = [*(("GET", key) for key in keys), ("HKEYS", search), ("HGETALL", state)]
    *guards, found_names, reply = store.run("reading guards", commands)
    reply_by_guard = dict(zip(guard_types, guards, strict=True))
    if isinstance(found_names, Exception):
        keys, guards = [*keys, search], [*guards, found_names]
    elif found_guards := unread(store, found_names, now)[0]:
        replies = store.run("reading guards that were found", [("GET", key) for key in found_guards])
        reply_by_guard |= {guard: reply for guard, reply in zip(found_guards.values(), replies, strict=True) if reply is not None}
    broken = [f"guard_unreadable: {key}: {one}" for key, one in zip(keys, guards, strict=True) if isinstance(one, Exception)]
    triggered, trouble, account = _last_state(store, state, reply, now)
    live = tuple(guard for guard, standing in reply_by_guard.items() if standing is not None or guard in triggered)
    troubles = "; ".join([*broken, *filter(None, [trouble])])
    return GuardReading(live, troubles, {guard: guard_said(reply_by_guard[guard]) for guard in live}, account)


def releases(store: RedisStore, count: int) -> list[dict[str, str]]:
    """Read the last releases of guards, newest first, each with when it was recorded (``at``); none where they cannot be read.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    (reply,) = store.run("reading releases", [("XREVRANGE", store.keys.of("stream_risk_events"), "+", "-", "COUNT", EVENTS_READ)])
    rows = [] if isinstance(reply, Exception) else [(name.decode(), texts(fields)) for name, fields in reply]
    released = [{"at": _moment(name), **fields} for name, fields in rows if fields.get("event") == RELEASED]
    return released[:count]


def _moment(entry_id: str) -> str:
    return datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC).isoformat(timespec="seconds")


def _last_state(store: RedisStore, key: str, reply: Any, now: datetime) -> tuple[Sequence[str], str, str]:
    """Read the guards that held or waited when last evaluated, why that cannot be relied on, and the account's label.

    A guard may lapse before the next evaluation finds that its condition still holds: it stands until then.
    """
    if isinstance(reply, Exception):
        return (), f"risk_guard_unreadable: {key}: {reply}", ""
    if not reply:
        return (), f"risk_guard_missing: {key}", ""
    try:
        row = RISK_GUARD.decode(pairs(reply))
    except ContractError as error:
        return (), f"risk_guard_unreadable: {key}: {error}", ""
    return [*row["triggered"], *row["pending"]], _state_trouble(store, row, now), row["equity_source"]


def _state_trouble(store: RedisStore, row: Mapping[str, Any], now: datetime) -> str:
    age, limit = now.timestamp() - row["last_update_epoch"], store.profile.theta(GovernorLimits).max_data_age_sec
    if age > limit:
        return f"risk_guard_stale: {age:.0f} s > {limit:.0f} s"
    if age < -CLOCK_SKEW_SEC:
        return f"risk_guard_in_future: {-age:.0f} s ahead of the clock"
    return f"risk_guard_error: {row['reason']}" if row["status"] == "error" else ""


def guard_said(reply: Any) -> dict[str, str]:
    """Read what a guard says of itself; empty when it is not the JSON of a guard."""
    try:
        fields = orjson.loads(reply)
    except (orjson.JSONDecodeError, TypeError):
        return {}
    return {str(name): str(value) for name, value in fields.items()} if isinstance(fields, dict) else {}


def enforce(store: RedisStore, account: AccountReading, assessment: Assessment, *, cycle_id: str) -> Enforced:
    """Bring guards whose condition holds to life, announce those that stand for their time, and look which live now.

    Parameters
    ----------
    account
        The reading that was judged.
    assessment
        What follows from it. EQUITY_STALE is renewed while it holds, never announced, and removed as soon as the equity is known
        to be fresh. A guard of ``CONFIRMED`` blocks from the first reading beyond its limit on, and waits: the second one that is
        newer by GUARD_CONFIRM_SEC, by the writer's clock and by ours, lets it live for its duration, whatever becomes of the
        account, and announces it; a newer reading within the limit ends it. The same reading seen again does neither, and an
        account that cannot be judged neither confirms nor ends anything.
    cycle_id
        For the events.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    now, of = store.clock(), store.keys.of
    holding = {triggered.guard: triggered for triggered in assessment.triggered}
    commands = [_confirmation(store, guard, account, assessment, now, cycle_id) for guard in CONFIRMED]
    if CONSEC_LOSS in holding:
        commands.append(_announcement(store, holding[CONSEC_LOSS], now, cycle_id))
    scripts = len(commands)
    stale = holding.get(EQUITY_STALE)
    if stale is not None or assessment.equity_fresh:
        guard, lifetime = ("", 0) if stale is None else (_guard_text(stale, now), stale.duration_sec)
        commands.append(RENEW.with_text([of("guard_active", EQUITY_STALE)], guard, lifetime, OURS))
    commands += _peak_kept(store, account, assessment, now)
    guard_types = (*GUARDS, *store.settings.risk_guards_extra)
    keys = [of("guard_active", guard) for guard in guard_types]
    replies = store.run("setting guards", [*commands, *(("GET", key) for key in keys)])
    written, guard_replies = replies[: len(commands)], replies[len(commands) :]
    errors = {
        f"guard:{guard}": f"{key}: {reply}"
        for guard, key, reply in zip(guard_types, keys, guard_replies, strict=True)
        if isinstance(reply, Exception)
    }
    if unwritten := next((reply for reply in written if isinstance(reply, Exception)), None):
        errors[EVENTS] = str(unwritten)
    became = dict(zip((*CONFIRMED, CONSEC_LOSS), written[:scripts], strict=False))
    return Enforced(
        live=tuple(guard for guard, reply in zip(guard_types, guard_replies, strict=True) if reply is not None),
        announced=tuple(triggered for guard, triggered in holding.items() if became.get(guard) == ANNOUNCED),
        errors=errors,
        pending=tuple(guard for guard in GUARDS if became.get(guard) == WAITS),
        recovered=tuple(guard for guard in GUARDS if became.get(guard) == WITHIN),
    )


def _confirmation(
    store: RedisStore, guard: str, account: AccountReading, assessment: Assessment, now: datetime, cycle_id: str
) -> tuple[Any, ...]:
    """Build the command that brings one guard of ``CONFIRMED`` up to date."""
    theta = store.profile.theta(RiskGuardTheta)
    duration = theta.duration_sec[guard]
    unknown = Triggered(guard, f"{guard} waits for a newer reading", duration)
    triggered = next((one for one in assessment.triggered if one.guard == guard), None)
    judged = guard in assessment.judged and NEEDS.get(guard) not in account.absent
    holds = "yes" if triggered else "no" if judged else "unknown"
    triggered, confirm_sec = triggered or unknown, store.settings.guard_confirm_sec
    event = {"guard_type": guard, "reason": triggered.reason}
    moment = {"timestamp": str(int(now.timestamp())), "cycle_id": cycle_id}
    activated = [{"event": ACTIVATED, **event, "duration_sec": str(duration), **moment}]
    if guard == EMERGENCY_FLATTEN:
        why = "equity_not_positive" if account.account.equity <= 0 else "drawdown_breach"
        activated.append({"event": FLATTEN_REQUESTED, "reason": why, **moment})
    waiting_sec = PENDING_SEC + confirm_sec
    case = {
        "guard": guard,
        "source": OURS,
        "holds": holds,
        "ts": repr(account.ts_epoch or 0.0),
        "now": repr(now.timestamp()),
        "confirm_sec": confirm_sec,
        "forget_sec": theta.equity_max_age_sec,  # a reading that has become stale is confirmed by none
        "cap": EVENTS_STREAM_MAXLEN,
        "kept_sec": TRACKED_TTL_SEC,
        "waiting": {**_guard(triggered, now, waiting_sec), "pending": True, "confirm_sec": confirm_sec},
        "waiting_sec": waiting_sec,
        "active": _guard(triggered, now, duration),
        "active_sec": duration,
        "events": {
            "waiting": flat({"event": PENDING, **event, "confirm_sec": str(confirm_sec), **moment}),
            "recovered": flat({"event": RECOVERED, "guard_type": guard, "reason": WITHIN_LIMIT, **moment}),
            "activated": [flat(one) for one in activated],
        },
    }
    keys = (store.keys.of("guard_active", guard), store.keys.of("stream_risk_events"), store.keys.of("guard_readings"))
    return CONFIRM.with_text(keys, orjson.dumps(case))


def _peak_kept(store: RedisStore, account: AccountReading, assessment: Assessment, now: datetime) -> list[tuple[Any, ...]]:
    """Build the command that keeps the peak; none where the account, or its peak for another reason than a jump, is unusable."""
    numbers = account.account
    rose, near = peak_rose(numbers), near_peak(numbers)
    doubtful = rose and not near  # is kept, too: it ends the wait for a second reading near the peak
    if not assessment.equity_fresh or NET_TRANSFERS in assessment.unusable or (PEAK in assessment.unusable and not doubtful):
        return []
    kept = {
        "field": CURRENT_PEAK,
        "peak": repr(numbers.peak),
        "rose": rose,
        "near": near,
        "ts": repr(account.ts_epoch),
        "now": repr(now.timestamp()),
        "confirm_sec": store.settings.guard_confirm_sec,
        "ttl_sec": TRACKED_TTL_SEC,
    }
    return [KEEP_PEAK.with_text([store.keys.of("guard_readings")], orjson.dumps(kept))]


def _announcement(store: RedisStore, triggered: Triggered, now: datetime, cycle_id: str) -> tuple[Any, ...]:
    moment = {"timestamp": str(int(now.timestamp())), "cycle_id": cycle_id}
    activated = {
        "event": ACTIVATED,
        "guard_type": triggered.guard,
        "reason": triggered.reason,
        "duration_sec": str(triggered.duration_sec),
    }
    keys = (store.keys.of("guard_active", triggered.guard), store.keys.of("stream_risk_events"))
    announced = {
        "guard": _guard_text(triggered, now).decode(),
        "ttl_sec": triggered.duration_sec,
        "maxlen": EVENTS_STREAM_MAXLEN,
        "events": [flat({**activated, **moment})],
    }
    return ANNOUNCE.with_text(keys, orjson.dumps(announced))


def _guard_text(one: Triggered, now: datetime) -> bytes:
    return orjson.dumps(_guard(one, now, one.duration_sec))


def _guard(one: Triggered, now: datetime, lifetime_sec: float) -> dict[str, Any]:
    return {
        "guard_type": one.guard,
        "reason": one.reason,
        "activated_at": now.isoformat(),
        "expires_at": (now + timedelta(seconds=lifetime_sec)).isoformat(),
        "source": OURS,
    }


def guard_state(
    account: AccountReading, assessment: Assessment, enforced: Enforced, searched: Searched = NOTHING_FOUND
) -> dict[str, Any]:
    """Lay out one evaluation as the row of its table."""
    numbers, unusable = account.account, frozenset(assessment.unusable)
    errors = {name: account.seen[name] for name in assessment.unusable} | dict(enforced.errors) | dict(searched.errors)
    live = [*enforced.live, *searched.guards]
    reasons = [triggered.reason for triggered in assessment.triggered] + [
        f"{name} cannot be used: {why}" for name, why in errors.items()
    ]
    worth = unusable if numbers.age_sec != MISSING_AGE_SEC else {EQUITY, PEAK, NET_TRANSFERS}
    return {
        "symbol": ACCOUNT,
        "status": "error" if errors else "blocked" if live else "ok",
        "guards": live,
        "pending": list(enforced.pending),
        "triggered": [triggered.guard for triggered in assessment.triggered],
        "errors": list(errors),
        "reason": "; ".join(reasons) or account.note,
        "equity": None if EQUITY in worth else numbers.equity,
        "peak": None if PEAK in worth else numbers.peak,
        "net_transfers": None if {EQUITY, NET_TRANSFERS} & worth else numbers.net_transfers,
        "drawdown": None if {EQUITY, PEAK, NET_TRANSFERS} & worth else _finite(assessment.drawdown),
        "daily_pnl": None if DAILY_PNL in unusable else numbers.daily_pnl,
        "daily_loss": None if EQUITY in worth else _finite(assessment.daily_loss),
        "consecutive_losses": None if CONSECUTIVE_LOSSES in unusable else int(numbers.consecutive_losses),
        "equity_ts_epoch": account.ts_epoch,
        "equity_age_sec": _finite(numbers.age_sec),
        "equity_source": account.source,
    }


def guard_facts(
    account: AccountReading, assessment: Assessment, enforced: Enforced, searched: Searched = NOTHING_FOUND
) -> dict[str, Any]:
    """Lay out what :func:`guard_state` takes from the server, for the recorder; see :func:`guard_state_again`."""
    return {
        "live": enforced.live,
        "pending": enforced.pending,
        "errors": dict(enforced.errors),
        "found": searched.guards,
        "search_errors": dict(searched.errors),
        "seen": {name: account.seen[name] for name in assessment.unusable},
    }


def guard_state_again(account: AccountReading, facts: Mapping[str, Any], theta: RiskGuardTheta) -> dict[str, Any]:
    """Judge a recorded account again, and lay it out beside what the server had said of the guards."""
    enforced = Enforced(tuple(facts["live"]), errors=facts["errors"], pending=tuple(facts["pending"]))
    searched = Searched(tuple(facts["found"]), facts["search_errors"])
    assessment = assess(account.account, theta)
    seen = {name: facts["seen"].get(name, "") for name in assessment.unusable}
    return guard_state(replace(account, seen=seen), assessment, enforced, searched)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
