"""Counters of what evaluations gave, one small hash per symbol; see :mod:`quantum_core.informative`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from quantum_core.contracts.reading import Reading
from quantum_core.contracts.tables import MARKET_STATE
from quantum_core.coverage import COVERAGE, forecast_by, forecast_of
from quantum_core.coverage import facts_of as facts_of_forecast
from quantum_core.informative import HOUR_SEC, KEPT_HOURS, Hours, add, facts_of
from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.profiles.profile import Profile
from resources.inputs.candle_series import Candles
from resources.store.redis_store import RedisStore, flat, texts

KEY = "informative"
TTL_SEC = (KEPT_HOURS + 2) * 3600
PROFILE = "profile"  # field: fingerprint of the parameters the counters are of
SEEN = "seen:"  # fields that say which evaluation was counted last, by asset; the others are hours
FORECAST = "forecast"  # field: what the newest state counted says of the next close, until that is there


def count_evaluations(
    store: RedisStore,
    rows_by_asset: Mapping[str, Mapping[str, Mapping[str, Any]]],
    symbols: Sequence[str],
    profile: Profile,
    candles: Mapping[str, Reading[Candles]] | None = None,
) -> dict[str, Hours]:
    """Count the newest evaluation of each symbol, unless it was counted before, and give all that is kept.

    A state says how far the next close may be. That is kept until a later state has come, and judged then, once, by the close of
    the very next candle: states come at least as often as candles, or the candles between are left out.

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
    candles
        Closed candles by symbol; without them no forecast is judged.

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
        hours_by_symbol[symbol] = hours = _hours(fields)
        rows = {asset: rows[symbol] for asset, rows in rows_by_asset.items() if symbol in rows}
        facts, changed = _news(fields, rows, (candles or {}).get(symbol), profile, store.settings.candle_interval_sec * 1000)
        for asset, names, at in facts:
            add(hours, asset, names, at)
        if changed:
            expired = [one for one in fields if one.isdigit() and int(one) not in hours]
            of_hours = {int(at // HOUR_SEC) for _, _, at in facts} & hours.keys()
            changed |= {str(hour): orjson.dumps(hours[hour]).decode() for hour in of_hours}
            commands += [("DEL", key)] if by_other_profile else []
            commands += [("HSET", key, PROFILE, fingerprint, *flat(changed)), ("EXPIRE", key, TTL_SEC)]
            commands += [("HDEL", key, *expired)] if expired else []
    if commands:
        store.run("counting evaluations", commands)
    return hours_by_symbol


def _news(
    fields: Mapping[str, str],
    rows: Mapping[str, Mapping[str, Any]],
    candles: Reading[Candles] | None,
    profile: Profile,
    interval_ms: int,
) -> tuple[list[tuple[str, list[str], float]], dict[str, str]]:
    """Find what is to be counted (asset, names of facts, epoch s) of the rows of a symbol, and the fields that remember it."""
    facts, changed = [], {}
    for asset, row in rows.items():
        mark, at = f"{SEEN}{asset}", row["last_update_epoch"]
        if fields.get(mark) != str(at):
            changed[mark] = str(at)
            facts += [(asset, names, at)] if (names := facts_of(asset, row, profile)) else []
    state = rows.get(MARKET_STATE.asset)
    if state is None or candles is None or candles.value is None:
        return facts, changed
    times, closes = candles.value.open_time_ms, candles.value.close
    last = forecast_of(fields.get(FORECAST))
    now = forecast_by(state, profile.theta(MarketStateTheta, state["symbol"]).vol, times, closes)
    if now is not None and (last is None or now.open_time_ms > last.open_time_ms):
        changed[FORECAST] = now.text
        judged = facts_of_forecast(last, times, closes, interval_ms) if last is not None else []
        facts += [(COVERAGE, judged, state["last_update_epoch"])] if judged else []
    return facts, changed


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
