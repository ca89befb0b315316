"""The history keys as the feed writes them: closed candles of one symbol, all of an answer or none.

Each carries the label of its exchange, market and length: candles of two of them in one history would be prices no market had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quantum_feed.ohlcv import Candle
from resources.store.redis_store import RedisStore
from resources.store.transport.scripts import Script

KEPT = 1500  # candles per symbol, as many as the replay keeps; more when MARKETSTATE_WINDOW_SIZE needs them
MARGIN = 30  # candles kept beyond MARKETSTATE_WINDOW_SIZE
TTL_SEC = 7 * 86400  # of a symbol nobody feeds any more; how old candles are is judged by their own time

STORE_CANDLES = Script(__file__, "store_candles")


class ForeignCandlesError(RuntimeError):
    """The key carries another writer's candles; they are left alone."""


def store_candles(
    store: RedisStore, symbol: str, candles: Mapping[int, Candle], *, label: str, since_ms: int, take_over: bool = False
) -> int:
    """Write candles of one symbol, those of the same time are replaced; give how many there are now from ``since_ms`` on.

    Raises
    ------
    ForeignCandlesError
        Somebody else's candles stand there; nothing was written.
    RedisUnavailableError
        The server is away; nothing was written.
    """
    members: list[Any] = []
    kept, interval_ms = _kept(store), store.settings.candle_interval_sec * 1000
    for opened, (open_, high, low, close, volume) in sorted(candles.items())[-kept:]:
        body = {"open_time": opened, "open": open_, "high": high, "low": low, "close": close, "volume": volume}
        member = {**body, "close_time": opened + interval_ms - 1, "is_closed": True, "source": "exchange", "feed": label}
        members += [opened, json.dumps(member, separators=(",", ":"))]
    key = store.keys.of("candles_history", symbol)
    options = {
        "ttl_sec": TTL_SEC,
        "kept": kept,
        "take_over": take_over,
        "since_ms": str(since_ms),
        "label": f'"feed":{json.dumps(label)}',
    }
    (reply,) = store.run("storing candles", [STORE_CANDLES([key], json.dumps(options), *members)])
    if isinstance(reply, Exception):
        raise ForeignCandlesError(str(reply).removeprefix("FOREIGN "))
    return int(reply)


def known_candles(store: RedisStore, symbols: Sequence[str], label: str) -> dict[str, dict[int, Candle]]:
    """Read what stands there of ours, so that a restart asks for what is missing only."""
    kept = _kept(store)
    keys = [store.keys.of("candles_history", symbol) for symbol in symbols]
    replies = store.run("reading candles", [("ZRANGE", key, -kept, -1) for key in keys])
    return {
        symbol: {} if isinstance(reply, Exception) else dict(filter(None, (_ours(member, label) for member in reply)))
        for symbol, reply in zip(symbols, replies, strict=True)
    }


def _kept(store: RedisStore) -> int:
    return max(KEPT, store.settings.marketstate_window_size + MARGIN)


def _ours(member: bytes, label: str) -> tuple[int, Candle] | None:
    try:
        body = json.loads(member)
        if body["feed"] != label:
            return None
        open_, high, low, close = (float(body[name]) for name in ("open", "high", "low", "close"))
        volume = body["volume"]
        return int(body["open_time"]), (open_, high, low, close, None if volume is None else float(volume))
    except (ValueError, TypeError, KeyError):
        return None
