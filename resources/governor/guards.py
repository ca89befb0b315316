"""The account's guards in Redis: what they are judged by, how they are set and announced, and what stands now.

Whether a guard is due is decided in ``quantum_core/kernels/risk_guard.py``; when, by the asset. Nothing here imports Dagster:
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

from quantum_core.contracts.labels import is_live, label_of, not_live_by_field
from quantum_core.contracts.schema import ACCOUNT, CLOCK_SKEW_SEC, ContractError
from quantum_core.contracts.tables import EVENTS_STREAM_MAXLEN, RISK_GUARD, TRACKED_TTL_SEC
from quantum_core.freshness import EPOCH_MAX
from quantum_core.kernels.efficiency_hint import epoch_sec
from quantum_core.kernels.risk_guard import (
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
    Account,
    Assessment,
    RiskGuardTheta,
    Triggered,
    near_peak,
    peak_rose,
)
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import RedisStore, flat, pairs, texts

OURS = "risk_guard"  # ``source`` of every guard set here; an EQUITY_STALE of another source is neither renewed nor removed
CLOCK = "last_update_ts"
USD_MAX = 1e15  # a larger account is a fault, and what is computed from it must stay finite
EVENTS = "events"  # the stream of risk events, where it is named as unusable
ACTIVATED, FLATTEN_REQUESTED = "RISK_GUARD_ACTIVATED", "EMERGENCY_FLATTEN_REQUESTED"
PENDING, RECOVERED, RELEASED = "RISK_GUARD_PENDING", "RISK_GUARD_RECOVERED", "RISK_GUARD_RELEASED"
WITHIN_LIMIT = "a newer reading is within its limit"
PENDING_SEC = 60  # lifetime of a guard that waits for a second reading, renewed by each evaluation
FORGET_SEC = RiskGuardTheta().equity_max_age_sec  # a reading that has become stale is confirmed by none
NEEDS = {DAILY_LOSS: DAILY_PNL, CONSEC_LOSS: CONSECUTIVE_LOSSES}  # what is 0 while nobody has written it, and ends no guard so
CURRENT_PEAK = "current_peak"  # field of what is kept between readings
SEARCH, DAILY_PNL_NAMES = "search", "daily_pnl_names"  # what is unusable when keys cannot be searched, or have names nobody reads
EVENTS_READ = 500  # entries of the stream of risk events looked through for releases
SCAN_COUNT = 1000  # places of the server's table of keys looked at in one command, below 1 ms
SCANS, SCANS_FIRST = 10, 300  # commands of one evaluation; of those until the first search is complete, which blocks openings
FOUND_MAX = 100  # keys found and kept; more are a fault
SEARCHED = "quantum:risk:[gGdD]*"  # guards and hashes of daily profit, however their writers spell them
LIKE_GUARD, LIKE_DAY = ("guardactive",), ("dailypnl", "dailyprofit", "dailyloss")  # letters that such a key begins with
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
SHOWN_MAX = 80  # characters of what stands in the place of a number

ANNOUNCED, WAITS, WITHIN = 1, 2, 3  # replies of the scripts

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

# KEYS[1] guard, KEYS[2] stream of risk events, KEYS[3] what is kept between readings
# ARGV[1] JSON: guard, source of the guards that are ours, holds (yes, no or unknown), ts (the writer's clock) and now as text,
#         confirm_sec, forget_sec, cap of the stream, kept_sec; waiting and active: the guard before and after a second reading,
#         with waiting_sec and active_sec; events, each a flat list: waiting, recovered, and a list of them: activated
# returns 1 when a second reading has confirmed it, 2 while it waits for one, 3 when a newer reading was within the limit, 0 when
# there was nothing to do or the guard lives already, whoever set it; raises, having written nothing, when a key has another type
CONFIRM_LUA = """
for number, wanted in pairs({[2] = 'stream', [3] = 'hash'}) do
  local kind = redis.call('TYPE', KEYS[number]).ok
  if kind ~= wanted and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[number] .. ' is a ' .. kind) end
end
local a = cjson.decode(ARGV[1])
local ts, now = tonumber(a.ts), tonumber(a.now)
local function announce(event)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', a.cap, '*', unpack(event))
end
local kind, standing = redis.call('TYPE', KEYS[1]).ok, nil
if kind == 'string' then
  local readable, guard = pcall(cjson.decode, redis.call('GET', KEYS[1]))
  if readable and type(guard) == 'table' and guard.source == a.source and guard.pending == true then standing = guard end
end
if kind ~= 'none' and not standing then
  redis.call('HDEL', KEYS[3], a.guard)
  return 0
end
-- first reading beyond the limit (the writer's clock, when it was evaluated), last one, since when the guard stands
local kept = redis.call('HGET', KEYS[3], a.guard) or ''
local first, first_at, last, since = string.match(kept, '^(%S+) (%S+) (%S+) (%S+)$')
local known = first ~= nil and now >= tonumber(first_at) and now - tonumber(last) <= a.forget_sec
if a.holds ~= 'yes' and first == nil then return 0 end
if a.holds == 'no' and ts > tonumber(last) then
  redis.call('DEL', KEYS[1])
  redis.call('HDEL', KEYS[3], a.guard)
  announce(a.events.recovered)
  return 3
end
if a.holds == 'yes' then
  if not known or ts < tonumber(first) then
    first, first_at, last = a.ts, a.now, a.ts
  elseif ts - tonumber(first) >= a.confirm_sec and now - tonumber(first_at) >= a.confirm_sec then
    redis.call('SET', KEYS[1], cjson.encode(a.active), 'EX', a.active_sec)
    redis.call('HDEL', KEYS[3], a.guard)
    for _, event in ipairs(a.events.activated) do
      for _, part in ipairs({'first_reading', first, 'reading', a.ts}) do table.insert(event, part) end
      announce(event)
    end
    return 1
  end
  if ts > tonumber(last) then last = a.ts end
  if not since then announce(a.events.waiting) end
  since = since or a.waiting.activated_at
else
  a.waiting.reason = standing and standing.reason or a.waiting.reason
end
a.waiting.activated_at = since
redis.call('SET', KEYS[1], cjson.encode(a.waiting), 'EX', a.waiting_sec)
redis.call('HSET', KEYS[3], a.guard, table.concat({first, first_at, last, since}, ' '))
redis.call('EXPIRE', KEYS[3], a.kept_sec)
return 2
"""

# KEYS[1] what is kept between readings
# ARGV[1] field of the peak, ARGV[2] peak, ARGV[3] 1 when it rose by more than one reading may raise it, ARGV[4] 1 when the equity
# is near it, ARGV[5] the writer's clock, ARGV[6] now, ARGV[7] seconds until a second reading confirms it, ARGV[8] lifetime
# The field holds the peak known, and of a jump that waits: peak, the writer's clock and when it was evaluated.
# returns 1
PEAK_LUA = """
local known, jump, ts, at = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S+) (%S+) (%S+) (%S+)$')
local rose = ARGV[3] == '1' and known ~= nil
if rose and ARGV[4] == '1' and jump ~= '-' and tonumber(ARGV[5]) >= tonumber(ts) and tonumber(ARGV[6]) >= tonumber(at) then
  if tonumber(ARGV[5]) - tonumber(ts) >= tonumber(ARGV[7]) and tonumber(ARGV[6]) - tonumber(at) >= tonumber(ARGV[7]) then
    rose = false
  end
elseif rose and ARGV[4] == '1' then
  jump, ts, at = ARGV[2], ARGV[5], ARGV[6]
elseif rose then
  jump, ts, at = '-', '-', '-'
end
if not rose then known, jump, ts, at = ARGV[2], '-', '-', '-' end
redis.call('HSET', KEYS[1], ARGV[1], table.concat({known, jump, ts, at}, ' '))
redis.call('EXPIRE', KEYS[1], ARGV[8])
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
    absent
        Inputs that nobody has written, and that count as 0.
    """

    account: Account
    seen: Mapping[str, str]
    ts_epoch: float | None = None
    source: str = ""
    note: str = ""
    absent: frozenset[str] = frozenset()


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
    """What stands against openings now.

    Attributes
    ----------
    live
        Live guards, in the order of docs/spec.md#8-risk-guard: by a key of their own (also one that cannot be read), or because
        their condition held when last evaluated.
    trouble
        Why the guards cannot be relied on, in words: a key that cannot be read, or a risk guard that was not evaluated lately or
        could not judge the account. Empty when they can.
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
        (reply,) = store.run("searching guards", [("SCAN", cursor, "MATCH", SEARCHED, "COUNT", SCAN_COUNT)])
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
    guards = {
        name: _shown_name(name.removeprefix(guard).removesuffix(end))
        for name in left
        if name.startswith(guard) or _letters(name).startswith(LIKE_GUARD)
    }
    last = utc_date(now + timedelta(seconds=CLOCK_SKEW_SEC))
    return guards, [
        name
        for name in left
        if (name.startswith(day) or _letters(name).startswith(LIKE_DAY))
        and not _is_day(name.removeprefix(day + b":").decode(errors="replace"), last)
    ]


def _letters(name: bytes) -> str:
    """Give the letters of a key after ``quantum:risk:``, in lower case."""
    return re.sub("[^a-z]", "", name.decode(errors="replace").removeprefix("quantum:risk:").lower())


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


def releases(store: RedisStore, count: int) -> list[dict[str, str]]:
    """Read the last releases of guards, newest first, each with when it was recorded (``at``); none where they cannot be read.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    (reply,) = store.run("reading releases", [("XREVRANGE", store.keys.of("stream_risk_events"), "+", "-", "COUNT", EVENTS_READ)])
    rows = [] if isinstance(reply, Exception) else [(name.decode(), texts(fields)) for name, fields in reply]
    told = [{"at": _moment(name), **fields} for name, fields in rows if fields.get("event") == RELEASED]
    return told[:count]


def _moment(entry_id: str) -> str:
    return datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC).isoformat(timespec="seconds")


def _last_state(store: RedisStore, key: str, reply: Any) -> tuple[Sequence[str], str, str]:
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
    return [*row["triggered"], *row["pending"]], _state_trouble(store, row), row["equity_source"]


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
    names = (of("equity"), of("daily_pnl", utc_date(now)), of("consecutive_losses"), of("guard_readings"))
    asked = [("HGETALL", names[0]), ("HGETALL", names[1]), ("GET", names[2]), ("HGET", names[3], CURRENT_PEAK)]
    equity, pnl, losses, kept = store.run("reading the account", asked)
    worth, profit = _fields(equity), _fields(pnl)
    epoch = _epoch(worth.get(CLOCK))
    missing = not isinstance(equity, Exception) and not worth
    account = Account(
        equity=_usd(worth.get("equity")),
        peak=_usd(worth.get("peak")),
        age_sec=MISSING_AGE_SEC if missing else now.timestamp() - epoch,
        daily_pnl=_usd(profit.get("pnl")) if profit or isinstance(pnl, Exception) or store.settings.daily_pnl_required else 0.0,
        consecutive_losses=0.0 if losses is None else _usd(_text(losses)),
        net_transfers=_usd(worth[NET_TRANSFERS]) if NET_TRANSFERS in worth else 0.0,
        peak_known=_usd((_text(kept) or "").partition(" ")[0]),
    )
    note = "" if profit or isinstance(pnl, Exception) else f"{names[1]} is missing: the profit of today counts as 0"
    seen = {
        EQUITY: f"{names[0]}: {_shown(equity, worth, 'equity', CLOCK)}",
        PEAK: f"{names[0]}: {_peak_shown(equity, worth, account)}",
        NET_TRANSFERS: f"{names[0]}: {_shown(equity, worth, NET_TRANSFERS, 'peak')}",
        DAILY_PNL: f"{names[1]}: {_shown(pnl, profit, 'pnl')}",
        CONSECUTIVE_LOSSES: f"{names[2]}: {losses if isinstance(losses, Exception) else repr(_text(losses))}",
    }
    absent = frozenset(
        name for name, reply in ((DAILY_PNL, profit or pnl), (CONSECUTIVE_LOSSES, losses)) if not reply and reply != b""
    )
    label = label_of(worth.get("source", ""))
    label = label if not is_live(label) else not_live_by_field(worth) or label
    return AccountReading(account, seen, epoch if math.isfinite(epoch) else None, label, note, absent)


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


def _peak_shown(reply: Any, fields: Mapping[str, str], account: Account) -> str:
    beside = [name for name in ("equity", NET_TRANSFERS) if "peak" in fields and name in fields]
    words = _shown(reply, fields, "peak", *beside)
    if not peak_rose(account) or near_peak(account):
        return words
    return f"{words}: it was {account.peak_known:.10g}, and no two readings of the equity bear the rise out"


def _shown(reply: Any, fields: Mapping[str, str], *names: str) -> str:
    if isinstance(reply, Exception):
        return str(reply)
    return ", ".join(f"{name} is {repr(fields[name][:SHOWN_MAX]) if name in fields else 'missing'}" for name in names)


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
    holding = {one.guard: one for one in assessment.triggered}
    commands = [_confirmation(store, guard, account, assessment, now, cycle_id) for guard in CONFIRMED]
    if CONSEC_LOSS in holding:
        commands.append(_announcement(store, holding[CONSEC_LOSS], now, cycle_id))
    scripts = len(commands)
    stale = holding.get(EQUITY_STALE)
    if stale is not None or assessment.equity_fresh:
        guard, lifetime = ("", 0) if stale is None else (_guard_text(stale, now), stale.duration_sec)
        commands.append(("EVAL", RENEW_LUA, 1, of("guard_active", EQUITY_STALE), guard, lifetime, OURS))
    commands += _peak_kept(store, account, assessment, now)
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
    became = dict(zip((*CONFIRMED, CONSEC_LOSS), written[:scripts], strict=False))
    return Enforced(
        live=tuple(guard for guard, reply in zip(known, found, strict=True) if reply is not None),
        announced=tuple(one for guard, one in holding.items() if became.get(guard) == ANNOUNCED),
        errors=errors,
        pending=tuple(guard for guard in GUARDS if became.get(guard) == WAITS),
        recovered=tuple(guard for guard in GUARDS if became.get(guard) == WITHIN),
    )


def _confirmation(
    store: RedisStore, guard: str, account: AccountReading, assessment: Assessment, now: datetime, cycle_id: str
) -> tuple[Any, ...]:
    """Build the command that brings one guard of ``CONFIRMED`` up to date."""
    duration = RiskGuardTheta().duration_sec[guard]
    unknown = Triggered(guard, f"{guard} waits for a newer reading", duration)
    one = next((one for one in assessment.triggered if one.guard == guard), None)
    known = guard in assessment.judged and NEEDS.get(guard) not in account.absent
    holds = "yes" if one else "no" if known else "unknown"
    one, confirm_sec = one or unknown, store.settings.guard_confirm_sec
    event = {"guard_type": guard, "reason": one.reason}
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
        "forget_sec": FORGET_SEC,
        "cap": EVENTS_STREAM_MAXLEN,
        "kept_sec": TRACKED_TTL_SEC,
        "waiting": {**_guard(one, now, waiting_sec), "pending": True, "confirm_sec": confirm_sec},
        "waiting_sec": waiting_sec,
        "active": _guard(one, now, duration),
        "active_sec": duration,
        "events": {
            "waiting": flat({"event": PENDING, **event, "confirm_sec": str(confirm_sec), **moment}),
            "recovered": flat({"event": RECOVERED, "guard_type": guard, "reason": WITHIN_LIMIT, **moment}),
            "activated": [flat(one) for one in activated],
        },
    }
    keys = (store.keys.of("guard_active", guard), store.keys.of("stream_risk_events"), store.keys.of("guard_readings"))
    return ("EVAL", CONFIRM_LUA, len(keys), *keys, orjson.dumps(case))


def _peak_kept(store: RedisStore, account: AccountReading, assessment: Assessment, now: datetime) -> list[tuple[Any, ...]]:
    """Build the command that keeps the peak; none where the account, or its peak for another reason than a jump, is unusable."""
    numbers = account.account
    rose, near = peak_rose(numbers), near_peak(numbers)
    doubtful = rose and not near  # is kept, too: it ends the wait for a second reading near the peak
    if not assessment.equity_fresh or NET_TRANSFERS in assessment.unusable or (PEAK in assessment.unusable and not doubtful):
        return []
    clocks = (repr(account.ts_epoch), repr(now.timestamp()), store.settings.guard_confirm_sec, TRACKED_TTL_SEC)
    key = store.keys.of("guard_readings")
    return [("EVAL", PEAK_LUA, 1, key, CURRENT_PEAK, repr(numbers.peak), int(rose), int(near), *clocks)]


def _announcement(store: RedisStore, one: Triggered, now: datetime, cycle_id: str) -> tuple[Any, ...]:
    moment = {"timestamp": str(int(now.timestamp())), "cycle_id": cycle_id}
    activated = {"event": ACTIVATED, "guard_type": one.guard, "reason": one.reason, "duration_sec": str(one.duration_sec)}
    keys = (store.keys.of("guard_active", one.guard), store.keys.of("stream_risk_events"))
    told = orjson.dumps([flat({**activated, **moment})])
    return ("EVAL", ANNOUNCE_LUA, len(keys), *keys, _guard_text(one, now), one.duration_sec, EVENTS_STREAM_MAXLEN, told)


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
    account: AccountReading, assessment: Assessment, enforced: Enforced, searched: Searched = Searched()
) -> dict[str, Any]:
    """Lay out one evaluation as the row of its table."""
    numbers, unusable = account.account, frozenset(assessment.unusable)
    errors = {name: account.seen[name] for name in assessment.unusable} | dict(enforced.errors) | dict(searched.errors)
    live = [*enforced.live, *searched.guards]
    reasons = [one.reason for one in assessment.triggered] + [f"{name} cannot be used: {why}" for name, why in errors.items()]
    worth = unusable if numbers.age_sec != MISSING_AGE_SEC else {EQUITY, PEAK, NET_TRANSFERS}
    return {
        "symbol": ACCOUNT,
        "status": "error" if errors else "blocked" if live else "ok",
        "guards": live,
        "pending": list(enforced.pending),
        "triggered": [one.guard for one in assessment.triggered],
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


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
