"""The search for guards and hashes of daily profit under names that nobody reads: a misspelt guard must not be overlooked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.governor.risk_guard import GUARDS
from resources.governor.account import SHOWN_MAX, utc_date
from resources.store.redis_store import RedisStore, pairs

SEARCH, DAILY_PNL_NAMES = "search", "daily_pnl_names"  # what is unusable when keys cannot be searched, or have names nobody reads
SCAN_COUNT = 1000  # places of the server's table of keys looked at in one command, below 1 ms
SCANS, SCANS_FIRST = 10, 300  # commands of one evaluation; of those until the first search is complete, which blocks openings
FOUND_MAX = 100  # keys found and kept; more are a fault
# Guards and hashes of daily profit, however their writers spell them (?gua, ?pnl, ?ofi, ?oss), and as few of our keys as can be
SEARCHED = "[qQ]*[^aAiIpP][gGoOpP][fFnNsSuU][aAiIlLsS]*"
_WORDS_OF_PROFIT = re.compile(  # letters and digits of a key that names an account's profit and nothing else, like a symbol's
    r"quantum(?:pnl|profits?|loss(?:es)?|daily|days?|todays?|intraday|date|utc|and|risk|guard|accounts?|acct|portfolio|wallet|equity"
    r"|state|stats|metrics|current|total|net|reali[sz]ed|usd[tc]?|(?<=\d)[dhtwz]|\d)*"
)
_OF_A_DAY = re.compile(r"daily|day|24h|1d|\d{6}")
_PROFIT = re.compile(r"pnl|profit|loss")
SHOWN_NAMES = 3  # of keys in a message
LIKE_GUARD, LIKE_DAY = ("guardactive",), ("dailypnl", "dailyprofit", "dailyloss")  # letters that such a key begins with
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


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


NOTHING_FOUND = Searched()


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
    found_before: dict[bytes, bytes] = pairs(reply)
    cursor, completed = found_before.pop(b"cursor", b"0"), found_before.pop(b"completed", b"")
    key_names = set(found_before)
    for _ in range(SCANS if completed else SCANS_FIRST):
        (reply,) = store.run("searching guards", [("SCAN", cursor, "MATCH", SEARCHED, "COUNT", SCAN_COUNT)])
        if isinstance(reply, Exception):
            return Searched((), {SEARCH: f"SCAN: {reply}"})
        cursor, scanned = reply
        key_names |= set(scanned)
        if cursor == b"0":
            completed = str(int(today.timestamp())).encode()
            break
    guards, days = unread(store, key_names, today)
    unread_names = [*guards, *days]
    counts = store.run("looking at what was found", [("EXISTS", name) for name in unread_names])
    standing = [name for name, count in zip(unread_names, counts, strict=True) if count != 0]
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
        further = f" and {len(wrong) - SHOWN_NAMES} more" if len(wrong) > SHOWN_NAMES else ""
        right = store.keys.of("daily_pnl", utc_date(today))
        errors[DAILY_PNL_NAMES] = (
            f"{', '.join(wrong[:SHOWN_NAMES])}{further}: neither today's nor a day past (UTC, YYYY-MM-DD); today's is {right}"
        )
    return Searched(tuple(guards[name] for name in standing if name in guards), errors)


def _prefix(store: RedisStore, template: str) -> bytes:
    return store.keys.templates()[template].partition("{")[0].rstrip(":").encode()


def unread(store: RedisStore, found: Collection[bytes], now: datetime) -> tuple[dict[bytes, str], list[bytes]]:
    """Sort out which of these keys nobody reads by name: guards with their types, and hashes of daily profit."""
    of = store.keys.of
    read = {of("guard_active", guard).encode() for guard in (*GUARDS, *store.settings.risk_guards_extra)}
    guard, day = _prefix(store, "guard_active"), _prefix(store, "daily_pnl")
    unread_names = sorted(set(found) - read)
    end = of("guard_active", "|").partition("|")[2].encode()
    guards = {
        name: _shown_name(name.removeprefix(guard).removesuffix(end))
        for name in unread_names
        if name.startswith(guard) or _letters(name).startswith(LIKE_GUARD)
    }
    last = utc_date(now + timedelta(seconds=CLOCK_SKEW_SEC))
    return guards, [
        name
        for name in unread_names
        if (name.startswith(day) or _letters(name).startswith(LIKE_DAY) or _is_profit_of_a_day(name))
        and not _is_day(name.removeprefix(day + b":").decode(errors="replace"), last)
    ]


def _letters(name: bytes) -> str:
    """Give the letters of a key after ``quantum:risk:``, in lower case."""
    return re.sub("[^a-z]", "", name.decode(errors="replace").removeprefix("quantum:risk:").lower())


def _is_profit_of_a_day(name: bytes) -> bool:
    """Whether all words of a key are words that name an account's profit of a day, in any order and spelling."""
    text = re.sub("[^a-z0-9]", "", name.decode(errors="replace").lower())
    return bool(_WORDS_OF_PROFIT.fullmatch(text) and _PROFIT.search(text) and _OF_A_DAY.search(text))


def _is_day(text: str, last: str) -> bool:
    """Whether a text is a date in the form used in key names, and not later than the last one."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return bool(_DAY.fullmatch(text)) and text <= last


def _shown_name(name: bytes) -> str:
    return re.sub(r"[^A-Za-z0-9_.:/-]", "?", name.decode(errors="replace").removeprefix(":"))[:SHOWN_MAX] or "?"
