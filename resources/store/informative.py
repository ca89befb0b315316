"""Counters of what evaluations gave, one small hash per symbol; see :mod:`quantum_core.informative`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from quantum_core.informative import KEPT_HOURS, Hours, add, facts_of
from quantum_core.profiles.profile import Profile
from resources.store.redis_store import RedisStore, flat, texts

KEY = "informative"
TTL_SEC = (KEPT_HOURS + 2) * 3600
PROFILE = "profile"  # field: fingerprint of the parameters the counters are of
SEEN = "seen:"  # fields that say which evaluation was counted last, by asset; the others are hours


def count_evaluations(
    store: RedisStore, rows_by_asset: Mapping[str, Mapping[str, Mapping[str, Any]]], symbols: Sequence[str], profile: Profile
) -> dict[str, Hours]:
    """Count the newest evaluation of each symbol, unless it was counted before, and give all that is kept.

    Parameters
    ----------
    store
        Where counters are kept.
    rows_by_asset
        Decoded rows by asset and symbol, with their stamps.
    symbols
        Whose.
    profile
        In force.

    Returns
    -------
    dict
        Counters by symbol; of one whose key cannot be read none.
    """
    keys = [store.keys.of(KEY, symbol) for symbol in symbols]
    replies = store.run("reading counters of evaluations", [("HGETALL", key) for key in keys])
    hours_by_symbol: dict[str, Hours] = {}
    commands: list[tuple[Any, ...]] = []
    for symbol, key, reply in zip(symbols, keys, replies, strict=True):
        if isinstance(reply, Exception):
            hours_by_symbol[symbol] = {}
            continue
        fields, fingerprint = texts(reply), profile.fingerprint_of(symbol)
        by_other_profile = fields.get(PROFILE) not in (None, fingerprint)  # what another profile gave says nothing of this one
        fields = {} if by_other_profile else fields
        hours, last_counted = _hours(fields), {one: text for one, text in fields.items() if one.startswith(SEEN)}
        changed: dict[str, str] = {}
        for asset, rows in rows_by_asset.items():
            row, mark = rows.get(symbol), f"{SEEN}{asset}"
            if row is None or last_counted.get(mark) == str(row["last_update_epoch"]):
                continue
            changed[mark] = str(row["last_update_epoch"])
            if facts := facts_of(asset, row, profile):
                add(hours, asset, facts, row["last_update_epoch"])
        hours_by_symbol[symbol] = hours
        if changed:
            expired = [one for one in fields if one.isdigit() and int(one) not in hours]
            newest = max(hours, default=None)
            if newest is not None:
                changed[str(newest)] = orjson.dumps(hours[newest]).decode()
            commands += [("DEL", key)] if by_other_profile else []
            commands += [("HSET", key, PROFILE, fingerprint, *flat(changed)), ("EXPIRE", key, TTL_SEC)]
            commands += [("HDEL", key, *expired)] if expired else []
    if commands:
        store.run("counting evaluations", commands)
    return hours_by_symbol


def _hours(fields: Mapping[str, str]) -> Hours:
    hours: Hours = {}
    for name, text in fields.items():
        if (hour := _hour(name)) is None:
            continue
        try:
            counts = orjson.loads(text)
            hours[hour] = {asset: Counter({fact: int(count) for fact, count in one.items()}) for asset, one in counts.items()}
        except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):  # an hour that is no longer known
            continue
    return hours


def _hour(name: str) -> int | None:
    return int(name) if name.isdigit() else None
