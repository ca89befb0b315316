"""The challenger's rows and counters: under keys of their own, with a lifetime, read by nobody who decides anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantum_core.comparison import COMPARED
from quantum_core.contracts.schema import ContractError, Table, stamps
from quantum_core.informative import HOUR_SEC, KEPT_HOURS, Hours
from quantum_core.profiles.in_force import in_force
from quantum_core.profiles.profile import Profile, from_body
from resources.store.redis_store import RedisStore, flat, pairs, texts

KEY = "shadow"
MODE = ("mode", "shadow")  # a field of every row, so that nobody takes it for a proposal
COUNTS_TTL_SEC = (KEPT_HOURS + 2) * 3600
RUNNING = "challenger"  # stands for profile, asset and symbol in the key that says which one runs


def shadow_key(store: RedisStore, profile: Profile, asset: str, symbol: str) -> str:
    """Name the key of one row of a challenger."""
    return store.keys.of(KEY, f"{profile.name}:{asset}:{symbol}")


def write_shadow(
    store: RedisStore, table: Table, rows: Sequence[Mapping[str, Any]], profile: Profile, cycle_id: str
) -> dict[str, str]:
    """Write rows of a challenger, each a hash with a lifetime; give what could not be written, by symbol."""
    now, failed = store.clock(), {}
    written: list[str] = []

    def commands() -> Iterator[tuple[Any, ...]]:
        for row in rows:
            symbol = str(row["symbol"])
            try:
                encoded = table.encode(row)
            except ContractError as error:
                failed[symbol] = f"contract_broken: {error}"
                continue
            marks = stamps(table, symbol, encoded, cycle_id, now, profile.stamp_of(symbol))
            key = shadow_key(store, profile, table.asset, symbol)
            written.extend((symbol, symbol))
            yield ("HSET", key, *flat({**encoded, **marks}), *MODE)
            yield ("EXPIRE", key, store.ttl_sec(table))

    replies = store.run(f"writing the challenger's {table.asset}", commands())
    refused = {symbol: f"write_refused: {reply}" for symbol, reply in zip(written, replies, strict=True) if _failed(reply)}
    return failed | refused


def read_shadow(store: RedisStore, table: Table, profile: Profile, symbols: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read rows of a challenger; what is missing or cannot be read is left out."""
    replies = store.run(
        f"reading the challenger's {table.asset}",
        [("HGETALL", shadow_key(store, profile, table.asset, symbol)) for symbol in symbols],
    )
    rows = {}
    for symbol, reply in zip(symbols, replies, strict=True):
        if reply and not _failed(reply):
            try:
                rows[symbol] = table.decode(pairs(reply))
            except ContractError:
                continue
    return rows


def note_challenger(store: RedisStore, profile: Profile) -> None:
    """Leave which profile is the challenger, for those who compare without its setting."""
    store.run("naming the challenger", [("SET", store.keys.of(KEY, RUNNING), profile.text(), "EX", COUNTS_TTL_SEC)])


def running_challenger(store: RedisStore) -> Profile | None:
    """Give the challenger that was computed last; ``None`` where there was none in the last day."""
    (reply,) = store.run("looking for the challenger", [("GET", store.keys.of(KEY, RUNNING))])
    if not isinstance(reply, bytes):
        return None
    try:
        return in_force(from_body(json.loads(reply)), store.settings)
    except (ValueError, RecursionError):
        return None


def add_comparisons(store: RedisStore, profile: Profile, facts: Mapping[str, Mapping[str, int]]) -> None:
    """Add to the counters of some symbols, by champion and hour: what one champion gave says nothing of the next."""
    hour = int(store.clock().timestamp() // HOUR_SEC)
    commands: list[tuple[Any, ...]] = []
    for symbol, counts in facts.items():
        key = shadow_key(store, profile, COMPARED, symbol)
        champion = store.profile.fingerprint_of(symbol)
        commands += [("HINCRBY", key, f"{champion}:{hour}:{name}", count) for name, count in counts.items() if count]
        commands.append(("HDEL", key, *(f"{champion}:{hour - KEPT_HOURS}:{name}" for name in counts)))
        commands.append(("EXPIRE", key, COUNTS_TTL_SEC))
    if commands:
        store.run("counting comparisons", commands)


def read_comparisons(store: RedisStore, profile: Profile, symbols: Sequence[str]) -> dict[str, Hours]:
    """Read the counters of some symbols beside the champion of now; empty where a key cannot be read, or has none."""
    replies = store.run("reading comparisons", [("HGETALL", shadow_key(store, profile, COMPARED, symbol)) for symbol in symbols])
    oldest = int(store.clock().timestamp() // HOUR_SEC) - KEPT_HOURS
    by_symbol: dict[str, Hours] = {symbol: {} for symbol in symbols}
    for symbol, reply in zip(symbols, replies, strict=True):
        for field, text in ({} if _failed(reply) else texts(reply)).items():
            champion, _, rest = field.partition(":")
            hour, _, name = rest.partition(":")
            if (
                champion == store.profile.fingerprint_of(symbol)
                and hour.isdigit()
                and int(hour) > oldest
                and text.lstrip("-").isdigit()
            ):
                counts = by_symbol[symbol].setdefault(int(hour), {}).setdefault(COMPARED, Counter())
                counts[name] += int(text)
    return by_symbol


def _failed(reply: Any) -> bool:
    return isinstance(reply, Exception)
