"""The history keys as the feed writes them: closed candles of one symbol, all of an answer or none.

Each carries the label of its exchange, market and length: candles of two of them in one history would be invented prices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quantum_feed.ohlcv import Candle
from resources.store.redis_store import RedisStore

KEPT = 1500  # candles per symbol, as many as the replay keeps; more when MARKETSTATE_WINDOW_SIZE needs them
MARGIN = 30  # candles kept beyond MARKETSTATE_WINDOW_SIZE
TTL_SEC = 7 * 86400  # of a symbol nobody feeds any more; how old candles are is judged by their own time

# KEYS[1] sorted set of candles by opening time
# ARGV[1] lifetime in s, ARGV[2] candles kept, ARGV[3] 1 to take over what another writer has labelled, ARGV[4] a time,
# ARGV[5] our label as it stands in each member, then times and members
# returns candles there are now from that time on; raises, having written nothing, on another type or another writer's label
STORE_LUA = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('FOREIGN ' .. KEYS[1] .. ' is a ' .. kind) end
local newest = redis.call('ZRANGE', KEYS[1], -1, -1)[1]
local foreign = newest and not string.find(newest, ARGV[5], 1, true)
if foreign and ARGV[3] ~= '1' then
  return redis.error_reply('FOREIGN ' .. KEYS[1] .. ' holds candles of another writer, market or length (no ' .. ARGV[5] .. ')')
end
if foreign then redis.call('DEL', KEYS[1]) end
for index = 6, #ARGV, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[1], ARGV[index], ARGV[index])
  redis.call('ZADD', KEYS[1], ARGV[index], ARGV[index + 1])
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[2] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[1])
return redis.call('ZCOUNT', KEYS[1], ARGV[4], '+inf')
"""


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
    command = ("EVAL", STORE_LUA, 1, key, TTL_SEC, kept, int(take_over), since_ms, f'"feed":{json.dumps(label)}', *members)
    (reply,) = store.run("storing candles", [command])
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
