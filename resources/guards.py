"""The account's guards in Redis: what they are judged by, how they are set and announced, and what stands now.

Whether a guard is due is decided in ``quantum_assets/kernels/risk_guard.py``; when, by the asset. Nothing here imports Dagster:
the governor and the commands read guards through :func:`read_guards`, also when Dagster is down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from quantum_assets.contracts.labels import label_of
from quantum_assets.contracts.schema import ACCOUNT, CLOCK_SKEW_SEC, ContractError
from quantum_assets.contracts.tables import EVENTS_STREAM_MAXLEN, RISK_GUARD
from quantum_assets.freshness import EPOCH_MAX
from quantum_assets.kernels.efficiency_hint import epoch_sec
from quantum_assets.kernels.risk_guard import (
    CONSECUTIVE_LOSSES,
    DAILY_PNL,
    EMERGENCY_FLATTEN,
    EQUITY,
    EQUITY_STALE,
    GUARDS,
    MISSING_AGE_SEC,
    PEAK,
    Account,
    Assessment,
    Triggered,
)
from resources.foreign import number_or_none
from resources.redis_store import RedisStore, flat, pairs, texts

OURS = "risk_guard"  # ``source`` of every guard set here; an EQUITY_STALE of another source is neither renewed nor removed
CLOCK = "last_update_ts"
USD_MAX = 1e15  # a larger account is a fault, and what is computed from it must stay finite
EVENTS = "events"  # the stream of risk events, where it is named as unusable
ACTIVATED, FLATTEN_REQUESTED = "RISK_GUARD_ACTIVATED", "EMERGENCY_FLATTEN_REQUESTED"
SEARCH, DAILY_PNL_NAMES = "search", "daily_pnl_names"  # what is unusable when keys cannot be searched, or have names nobody reads
SCAN_COUNT = 1000  # places of the server's table of keys looked at in one command, below 1 ms
SCANS, SCANS_FIRST = 10, 300  # commands of one evaluation; of those until the first search is complete, which blocks openings
FOUND_MAX = 100  # keys found and kept; more are a fault
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
SHOWN_MAX = 80  # characters of what stands in the place of a number

# KEYS[1] guard, KEYS[2] stream of risk events
# ARGV[1] guard as JSON, ARGV[2] its lifetime in s, ARGV[3] cap of the stream,
# ARGV[4] JSON: events, each a flat list of fields and values
# returns 1, or 0 when the guard lives already, whoever set it; raises, having written nothing, when the stream is of another type
ANNOUNCE_LUA = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' is a ' .. kind) end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
for _, event in ipairs(cjson.decode(ARGV[4])) do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(event))
end
return 1
"""

# KEYS[1] guard
# ARGV[1] guard as JSON, empty when its condition is over, ARGV[2] its lifetime in s, ARGV[3] source of the guards that are ours
# returns 1 when it was set, renewed (since when it stands is kept) or removed, 0 when there was nothing to do or it is not ours
RENEW_LUA = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  if ARGV[1] == '' then return 0 end
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
  return 1
end
if kind ~= 'string' then return 0 end
local readable, standing = pcall(cjson.decode, redis.call('GET', KEYS[1]))
if not readable or type(standing) ~= 'table' or standing.source ~= ARGV[3] then return 0 end
if ARGV[1] == '' then return redis.call('DEL', KEYS[1]) end
local renewed = cjson.decode(ARGV[1])
renewed.activated_at = standing.activated_at or renewed.activated_at
redis.call('SET', KEYS[1], cjson.encode(renewed), 'EX', ARGV[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class AccountReading:
    """The account as others wrote it.

    Attributes
    ----------
    account
        Its numbers, NaN where one is missing or no number.
    seen
        What stands where each input ought to be, in words, for the input that turns out to be unusable.
    ts_epoch
        The writer's clock, epoch s; ``None`` where there is none.
    source
        The writer's own label, e.g. ``example``.
    note
        What is worth a warning, in words, and blocks nothing; empty when there is nothing.
    """

    account: Account
    seen: Mapping[str, str]
    ts_epoch: float | None = None
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Enforced:
    """What became of the guards in one evaluation.

    Attributes
    ----------
    live
        Guards that live now, whoever set them, in the order of ``GUARDS``.
    announced
        Those that this evaluation brought to life and announced.
    errors
        What could not be read or written, and why: ``guard:<TYPE>`` or ``events``.
    """

    live: tuple[str, ...]
    announced: tuple[Triggered, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GuardReading:
    """What stands against openings now.

    Attributes
    ----------
    live
        Guards that stand, in the order of spec section 8: by a key of their own (also one that cannot be read), or because their
        condition held when last evaluated.
    trouble
        Why the guards cannot be relied on, in words: a key that cannot be read, or a risk guard that was not evaluated lately or
        could not judge the account. Empty when they can.
    said
        What each of them says of itself (guard_type, reason, activated_at, expires_at); empty for one that has no such text.
    account
        What the writer of the account says of itself, when last evaluated; empty when it says nothing.
    """

    live: tuple[str, ...]
    trouble: str = ""
    said: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    account: str = ""


@dataclass(frozen=True, slots=True)
class Searched:
    """What the search for keys that nobody reads by name came to.

    Attributes
    ----------
    guards
        Types of the guards found that live now and are neither of ``GUARDS`` nor of RISK_GUARDS_EXTRA.
    errors
        Why it cannot be relied on, and hashes of daily profit under a name that is no day's.
    """

    guards: tuple[str, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)


def look_for_more(store: RedisStore) -> Searched:
    """Search the server for guards and hashes of daily profit under names that nobody reads, a bounded part in each evaluation.

    A cursor and what was found are kept in Redis. A server of up to SCANS x SCAN_COUNT keys is searched as a whole in each
    evaluation, a larger one over several; what was found counts until it is gone.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    key, today = store.keys.of("guards_found"), store.clock()
    (reply,) = store.run("reading what was found", [("HGETALL", key)])
    if isinstance(reply, Exception):
        return Searched((), {SEARCH: f"{key}: {reply}"})
    kept: dict[bytes, bytes] = pairs(reply)
    cursor, completed = kept.pop(b"cursor", b"0"), kept.pop(b"completed", b"")
    found = set(kept)
    for _ in range(SCANS if completed else SCANS_FIRST):
        (reply,) = store.run("searching guards", [("SCAN", cursor, "MATCH", "quantum:risk:[gd]*", "COUNT", SCAN_COUNT)])
        if isinstance(reply, Exception):
            return Searched((), {SEARCH: f"SCAN: {reply}"})
        cursor, names = reply
        found |= set(names)
        if cursor == b"0":
            completed = str(int(today.timestamp())).encode()
            break
    guards, days = _unread(store, found, today)
    asked = [*guards, *days]
    counts = store.run("looking at what was found", [("EXISTS", name) for name in asked])
    standing = [name for name, count in zip(asked, counts, strict=True) if count != 0]
    fields = [b"cursor", cursor, b"completed", completed, *(part for name in standing[:FOUND_MAX] for part in (name, b"1"))]
    written = [("MULTI",), ("DEL", key), ("HSET", key, *fields), ("EXEC",)]
    *_, outcome = store.run("keeping what was found", written)
    errors = {}
    if not completed:
        errors[SEARCH] = "the first search of the server's keys is not complete"
    if len(standing) > FOUND_MAX:
        errors[SEARCH] = f"more than {FOUND_MAX} keys with names nobody reads"
    if isinstance(outcome, Exception):
        errors[SEARCH] = f"{key}: {outcome}"
    if wrong := [_shown_name(name) for name in standing if name in days]:
        errors[DAILY_PNL_NAMES] = f"{', '.join(wrong[:3])}: neither today's nor a day past (UTC, YYYY-MM-DD)"
    return Searched(tuple(guards[name] for name in standing if name in guards), errors)


def _prefix(store: RedisStore, template: str) -> bytes:
    return store.keys.templates()[template].partition("{")[0].rstrip(":").encode()


def _unread(store: RedisStore, found: Collection[bytes], now: datetime) -> tuple[dict[bytes, str], list[bytes]]:
    """Sort out which of these keys nobody reads by name: guards with their types, and hashes of daily profit."""
    of = store.keys.of
    read = {of("guard_active", guard).encode() for guard in (*GUARDS, *store.settings.risk_guards_extra)}
    guard, day = _prefix(store, "guard_active"), _prefix(store, "daily_pnl")
    left = sorted(set(found) - read)
    end = of("guard_active", "|").partition("|")[2].encode()
    guards = {name: _shown_name(name.removeprefix(guard).removesuffix(end)) for name in left if name.startswith(guard)}
    last = utc_date(now + timedelta(seconds=CLOCK_SKEW_SEC))
    return guards, [
        name
        for name in left
        if name.startswith(day) and not _is_day(name.removeprefix(day + b":").decode(errors="replace"), last)
    ]


def _is_day(text: str, last: str) -> bool:
    """Tell whether a text is a date as keys are named after, not after the last one."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return bool(_DAY.fullmatch(text)) and text <= last


def _shown_name(name: bytes) -> str:
    return re.sub(r"[^A-Za-z0-9_.:/-]", "?", name.decode(errors="replace").removeprefix(":"))[:SHOWN_MAX] or "?"


def read_guards(store: RedisStore) -> GuardReading:
    """Read the five guards, those of RISK_GUARDS_EXTRA, those found and the risk guard's own state.

    In one round trip, or two when guards were found that nobody knows: these live while their key exists, whatever it holds.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    known = (*GUARDS, *store.settings.risk_guards_extra)
    names = [store.keys.of("guard_active", guard) for guard in known]
    state, search = store.keys.of(RISK_GUARD.key), store.keys.of("guards_found")
    commands = [*(("GET", name) for name in names), ("HKEYS", search), ("HGETALL", state)]
    *guards, kept, reply = store.run("reading guards", commands)
    found = dict(zip(known, guards, strict=True))
    if isinstance(kept, Exception):
        names, guards = [*names, search], [*guards, kept]
    elif others := _unread(store, kept, store.clock())[0]:
        replies = store.run("reading guards that were found", [("GET", name) for name in others])
        found |= {guard: reply for guard, reply in zip(others.values(), replies, strict=True) if reply is not None}
    broken = [f"guard_unreadable: {name}: {one}" for name, one in zip(names, guards, strict=True) if isinstance(one, Exception)]
    triggered, trouble, account = _last_state(store, state, reply)
    live = tuple(guard for guard, standing in found.items() if standing is not None or guard in triggered)
    told = "; ".join([*broken, *filter(None, [trouble])])
    return GuardReading(live, told, {guard: guard_said(found[guard]) for guard in live}, account)


def _last_state(store: RedisStore, key: str, reply: Any) -> tuple[Sequence[str], str, str]:
    """Read the guards whose condition held when last evaluated, why that evaluation cannot be relied on, and the account's label.

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
    return row["triggered"], _state_trouble(store, row), row["equity_source"]


def _state_trouble(store: RedisStore, row: Mapping[str, Any]) -> str:
    age, limit = store.clock().timestamp() - row["last_update_epoch"], store.settings.gov_max_data_age_sec
    if age > limit:
        return f"risk_guard_stale: {age:.0f} s > {limit} s"
    if age < -CLOCK_SKEW_SEC:
        return f"risk_guard_in_future: {-age:.0f} s ahead of the clock"
    return f"risk_guard_error: {row['reason']}" if row["status"] == "error" else ""


def guard_said(reply: Any) -> dict[str, str]:
    """Read what a guard says of itself; empty when it is not the JSON of a guard."""
    try:
        said = orjson.loads(reply)
    except (orjson.JSONDecodeError, TypeError):
        return {}
    return {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}


def read_account(store: RedisStore) -> AccountReading:
    """Read equity, profit of this UTC day and consecutive losses, in one round trip.

    No hash of the day's profit, or no count of losses, means that there were none yet today: both writers begin with the first
    trade. A hash without its field is a writer's fault, and its number is not usable.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    now, of = store.clock(), store.keys.of
    names = (of("equity"), of("daily_pnl", utc_date(now)), of("consecutive_losses"))
    equity, pnl, losses = store.run("reading the account", [("HGETALL", names[0]), ("HGETALL", names[1]), ("GET", names[2])])
    worth, profit = _fields(equity), _fields(pnl)
    epoch = _epoch(worth.get(CLOCK))
    missing = not isinstance(equity, Exception) and not worth
    account = Account(
        equity=_usd(worth.get("equity")),
        peak=_usd(worth.get("peak")),
        age_sec=MISSING_AGE_SEC if missing else now.timestamp() - epoch,
        daily_pnl=_usd(profit.get("pnl")) if profit or isinstance(pnl, Exception) or store.settings.daily_pnl_required else 0.0,
        consecutive_losses=0.0 if losses is None else _usd(_text(losses)),
    )
    note = "" if profit or isinstance(pnl, Exception) else f"{names[1]} is missing: the profit of today counts as 0"
    seen = {
        EQUITY: f"{names[0]}: {_shown(equity, worth, 'equity', CLOCK)}",
        PEAK: f"{names[0]}: {_shown(equity, worth, 'peak', *(('equity',) if 'peak' in worth else ()))}",
        DAILY_PNL: f"{names[1]}: {_shown(pnl, profit, 'pnl')}",
        CONSECUTIVE_LOSSES: f"{names[2]}: {losses if isinstance(losses, Exception) else repr(_text(losses))}",
    }
    return AccountReading(account, seen, epoch if math.isfinite(epoch) else None, label_of(worth.get("source", "")), note)


def utc_date(now: datetime) -> str:
    """Give the day that keys of a day are named after."""
    return now.astimezone(UTC).date().isoformat()


def _fields(reply: Any) -> dict[str, str]:
    return {} if isinstance(reply, Exception) else texts(reply)


def _text(reply: Any) -> str | None:
    return reply.decode(errors="replace")[:SHOWN_MAX] if isinstance(reply, bytes) else None


def _usd(text: str | None) -> float:
    number = number_or_none(text)
    return math.nan if number is None or abs(number) > USD_MAX else number


def _epoch(text: str | None) -> float:
    if text is None or not text.isascii():
        return math.nan
    try:
        epoch = epoch_sec(text)
    except ValueError:
        return math.nan
    return epoch if 0 <= epoch < EPOCH_MAX else math.nan


def _shown(reply: Any, fields: Mapping[str, str], *names: str) -> str:
    if isinstance(reply, Exception):
        return str(reply)
    return ", ".join(f"{name} is {repr(fields[name][:SHOWN_MAX]) if name in fields else 'missing'}" for name in names)


def enforce(store: RedisStore, assessment: Assessment, *, cycle_id: str) -> Enforced:
    """Bring guards whose condition holds to life, announce those that were not alive, and look which live now.

    Parameters
    ----------
    assessment
        What follows from the account. EQUITY_STALE is renewed while it holds, never announced, and removed as soon as the equity
        is known to be fresh; all others live for their duration, whatever becomes of the account.
    cycle_id
        For the events.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    now, of = store.clock(), store.keys.of
    stale = next((one for one in assessment.triggered if one.guard == EQUITY_STALE), None)
    announced = [one for one in assessment.triggered if one.guard != EQUITY_STALE]
    commands: list[tuple[Any, ...]] = [_announcement(store, one, now, cycle_id) for one in announced]
    if stale is not None or assessment.equity_fresh:
        guard, lifetime = ("", 0) if stale is None else (_guard_text(stale, now), stale.duration_sec)
        commands.append(("EVAL", RENEW_LUA, 1, of("guard_active", EQUITY_STALE), guard, lifetime, OURS))
    known = (*GUARDS, *store.settings.risk_guards_extra)
    names = [of("guard_active", guard) for guard in known]
    replies = store.run("setting guards", [*commands, *(("GET", name) for name in names)])
    written, found = replies[: len(commands)], replies[len(commands) :]
    errors = {
        f"guard:{guard}": f"{name}: {reply}"
        for guard, name, reply in zip(known, names, found, strict=True)
        if isinstance(reply, Exception)
    }
    if unwritten := next((reply for reply in written if isinstance(reply, Exception)), None):
        errors[EVENTS] = str(unwritten)
    return Enforced(
        live=tuple(guard for guard, reply in zip(known, found, strict=True) if reply is not None),
        announced=tuple(one for one, reply in zip(announced, written, strict=False) if reply == 1),
        errors=errors,
    )


def _announcement(store: RedisStore, one: Triggered, now: datetime, cycle_id: str) -> tuple[Any, ...]:
    moment = {"timestamp": str(int(now.timestamp())), "cycle_id": cycle_id}
    activated = {"event": ACTIVATED, "guard_type": one.guard, "reason": one.reason, "duration_sec": str(one.duration_sec)}
    events: Sequence[Mapping[str, str]] = [{**activated, **moment}]
    if one.guard == EMERGENCY_FLATTEN:
        events = [*events, {"event": FLATTEN_REQUESTED, "reason": "drawdown_breach", **moment}]
    keys = (store.keys.of("guard_active", one.guard), store.keys.of("stream_risk_events"))
    told = orjson.dumps([flat(event) for event in events])
    return ("EVAL", ANNOUNCE_LUA, len(keys), *keys, _guard_text(one, now), one.duration_sec, EVENTS_STREAM_MAXLEN, told)


def _guard_text(one: Triggered, now: datetime) -> bytes:
    expires = now + timedelta(seconds=one.duration_sec)
    said = {
        "guard_type": one.guard,
        "reason": one.reason,
        "activated_at": now.isoformat(),
        "expires_at": expires.isoformat(),
        "source": OURS,
    }
    return orjson.dumps(said)


def guard_state(
    account: AccountReading, assessment: Assessment, enforced: Enforced, searched: Searched = Searched()
) -> dict[str, Any]:
    """Lay out one evaluation as the row of its table."""
    numbers, unusable = account.account, frozenset(assessment.unusable)
    errors = {name: account.seen[name] for name in assessment.unusable} | dict(enforced.errors) | dict(searched.errors)
    live = [*enforced.live, *searched.guards]
    reasons = [one.reason for one in assessment.triggered] + [f"{name} cannot be used: {why}" for name, why in errors.items()]
    worth = unusable if numbers.age_sec != MISSING_AGE_SEC else {EQUITY, PEAK}
    return {
        "symbol": ACCOUNT,
        "status": "error" if errors else "blocked" if live else "ok",
        "guards": live,
        "triggered": [one.guard for one in assessment.triggered],
        "errors": list(errors),
        "reason": "; ".join(reasons) or account.note,
        "equity": None if EQUITY in worth else numbers.equity,
        "peak": None if PEAK in worth else numbers.peak,
        "drawdown": None if {EQUITY, PEAK} & worth else _finite(assessment.drawdown),
        "daily_pnl": None if DAILY_PNL in unusable else numbers.daily_pnl,
        "daily_loss": None if EQUITY in worth else _finite(assessment.daily_loss),
        "consecutive_losses": None if CONSECUTIVE_LOSSES in unusable else int(numbers.consecutive_losses),
        "equity_ts_epoch": account.ts_epoch,
        "equity_age_sec": _finite(numbers.age_sec),
        "equity_source": account.source,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
