"""Closed candles of many symbols, whoever wrote them, in one round trip.

Here belong the five layouts of spec section 5 and what makes a candle malformed, stale or from the future. What a bad price
means stays with the kernels: NaN, zero and negative prices are handed on so that they can be named. Missing candles are never
replaced by invented ones.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from quantum_assets.contracts.reading import Reading
from quantum_assets.contracts.tables import CANDLE_KEYS
from quantum_assets.kernels.synthetic import synthetic_closes
from resources.redis_store import RedisStore

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Source = Literal["candles", "replay", "synthetic"]

BATCH_SYMBOLS = 128  # more symbols are read in batches, so that reading and parsing overlap
SLACK_MEMBERS = 20  # read beyond the window, for duplicates and the unclosed candle
REREAD_FACTOR = 4  # a window that came out short although the key holds more is read again, this much longer
MALFORMED_SHARE_MAX = 0.01  # spec section 13
STALE_INTERVALS, STALE_MARGIN_SEC = 2, 300  # spec section 5
SCORE_SEC_MIN, SCORE_SEC_MAX = 1e9, 4.2e9  # 2001 to 2103: a score outside is a rank, not a time
EPOCH_MS_MIN = 1e11  # a smaller epoch number is seconds
EPOCH_US_MIN = 1e14  # a larger one is microseconds

ACCEPTED_TYPES = {
    "candles_zset": "zset,list",
    "candles_quantum": "zset,list",
    "candles_klines": "zset,list",
    "candles_history": "zset",
    "candles_json": "string",
}
TIME_NAMES = ("open_time", "t", "time", "timestamp", "ts")
CLOSED_NAMES = ("is_closed", "x")
OPEN_FLAGS = (False, "false", "False", "0")  # equal to 0 too
_NOT_JSON = object()  # stands where a member could not be decoded
LEAST_LIVE: Mapping[str, Source] = {"synthetic": "synthetic", "example": "replay", "replay": "replay"}  # worst first

# KEYS    the candle keys of one symbol, first hit wins
# ARGV[1] newest members wanted; ARGV[2..] the types accepted for each key, comma-separated
# returns {} when no key exists; {key, type} when the first one that exists has a type that is not accepted for it; else
#         {key, type, members joined by the separator, how many, scores by commas (sorted set only), members in the key}
# One joined text instead of a reply per member: decoding 300 replies per symbol would cost more than all the rest.
SEPARATOR = b"\t\t ,"  # white space to JSON, and nothing a writer puts inside a member
NEWEST_LUA = """
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' then
    if not string.find(',' .. ARGV[i + 1] .. ',', ',' .. kind .. ',', 1, true) then return {KEYS[i], kind} end
    if kind == 'string' then return {KEYS[i], kind, redis.call('GET', KEYS[i]), 1, '', 1} end
    local members, scores, count = {}, {}, 0
    if kind == 'list' then
      members = redis.call('LRANGE', KEYS[i], -tonumber(ARGV[1]), -1)
      count = redis.call('LLEN', KEYS[i])
    else
      local flat = redis.call('ZRANGE', KEYS[i], -tonumber(ARGV[1]), -1, 'WITHSCORES')
      for j = 1, #flat / 2 do
        members[j] = flat[2 * j - 1]
        scores[j] = flat[2 * j]
      end
      count = redis.call('ZCARD', KEYS[i])
    end
    return {KEYS[i], kind, table.concat(members, '\\t\\t ,'), #members, table.concat(scores, ','), count}
  end
end
return {}
"""


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """Closed candles of one symbol, oldest first.

    Attributes
    ----------
    open_time_ms
        int64, shape (n,), epoch ms; 0 where unknown. Strictly increasing when all are known.
    high, low, close
        float64, shape (n,), quote units; high and low equal close where unknown. Prices as written, NaN and worse included.
    source
        ``replay`` when any member says so, ``synthetic`` when the prices are generated.
    key
        The Redis key they were read from.
    malformed
        Members left out.
    newest_epoch_sec
        Close time of the newest candle when known, else its open time; 0 when neither is.
    """

    open_time_ms: Times
    high: Floats
    low: Floats
    close: Floats
    source: Source
    key: str
    malformed: int
    newest_epoch_sec: float


@dataclass(frozen=True, slots=True)
class _Columns:
    """Decoded members in the order of the key, before duplicates and order are seen to."""

    open_time_ms: Times
    close_time_ms: Times
    high: Floats
    low: Floats
    close: Floats
    sources: frozenset[str]

    def take(self, rows: npt.NDArray[Any] | slice) -> _Columns:
        return _Columns(
            self.open_time_ms[rows],
            self.close_time_ms[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.sources,
        )


class UnreadableError(ValueError):
    """What a key holds cannot be read as candles; the text says why."""


class CandleReader:
    """Reads candles by the settings of a store.

    Parameters
    ----------
    store
        Server, key names, clock and settings.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.interval_sec = store.settings.candle_interval_sec

    def read(self, symbols: Sequence[str], window: int | None = None) -> list[Reading[Candles]]:
        """Read the newest closed candles of every symbol.

        Parameters
        ----------
        symbols
            Symbols, in the order of the result.
        window
            Candles wanted, at most; MARKETSTATE_WINDOW_SIZE when not given.

        Returns
        -------
        list of Reading
            ``absent`` with ``candles_missing`` when no key holds any; ``failed`` with ``candles_unreadable``,
            ``candles_stale`` or ``candles_in_future``, each followed by the detail. One round trip, and a second one for
            symbols whose newest members are mostly duplicates.

        Raises
        ------
        RedisUnavailableError
            The server is away.

        References
        ----------
        Spec sections 5 and 13.
        """
        window = window or self.store.settings.marketstate_window_size
        now = self.store.clock().timestamp()
        if self.store.settings.marketstate_source == "synthetic":
            return [Reading.present(symbol, self._synthetic(symbol, window, now)) for symbol in symbols]
        readings, short = self._read_members(symbols, window, window + SLACK_MEMBERS, now)
        if short:
            again, _ = self._read_members([symbols[row] for row in short], window, REREAD_FACTOR * window, now)
            for row, reading in zip(short, again, strict=True):
                readings[row] = reading
        return readings

    def _read_members(
        self, symbols: Sequence[str], window: int, wanted: int, now: float
    ) -> tuple[list[Reading[Candles]], list[int]]:
        """Read ``wanted`` members per symbol; also give the rows that came out short although their key holds more."""
        readings: list[Reading[Candles]] = []
        short: list[int] = []
        for row, (symbol, reply) in enumerate(zip(symbols, self._replies(symbols, wanted), strict=True)):
            try:
                candles = self._decode(reply, window)
            except UnreadableError as error:
                readings.append(Reading.failed(symbol, f"candles_unreadable: {error}"))
                continue
            readings.append(self._judge(symbol, candles, now))
            if candles is not None and len(candles.close) < window and wanted < int(reply[5]):
                short.append(row)
        return readings, short

    def _replies(self, symbols: Sequence[str], wanted: int) -> Iterator[Any]:
        keys = self.store.keys
        accepted = [ACCEPTED_TYPES[name] for name in CANDLE_KEYS]
        commands = [
            ("EVAL", NEWEST_LUA, len(CANDLE_KEYS), *(keys.of(name, symbol) for name in CANDLE_KEYS), wanted, *accepted)
            for symbol in symbols
        ]
        if len(commands) <= BATCH_SYMBOLS:
            yield from self.store.run("reading candles", commands)
            return
        batches = [commands[start : start + BATCH_SYMBOLS] for start in range(0, len(commands), BATCH_SYMBOLS)]
        with ThreadPoolExecutor(1) as pool:  # the server works on the next batch while this one is parsed
            for replies in pool.map(partial(self.store.run, "reading candles"), batches):
                yield from replies

    def _decode(self, reply: Any, window: int) -> Candles | None:
        if isinstance(reply, Exception):
            raise UnreadableError(str(reply))
        if not reply:
            return None
        key, kind = reply[0].decode(), reply[1].decode()
        if len(reply) == 2:  # the script's answer when the type is wrong
            message = f"{key} is a {kind}"
            raise UnreadableError(message)
        members = _json_array(key, reply[2]) if kind == "string" else _members(reply[2], int(reply[3]))
        columns, malformed = _columns(members, reply[4])
        judged = min(int(reply[5]), self.store.settings.marketstate_window_size) if kind != "string" else len(members)
        if malformed > MALFORMED_SHARE_MAX * max(judged, 1):
            message = f"{malformed} of {len(members)} members of {key} are malformed"
            raise UnreadableError(message)
        columns = _in_order(columns).take(slice(-window, None))
        if not len(columns.close):
            return None
        newest_ms = int(columns.close_time_ms[-1]) or int(columns.open_time_ms[-1])
        source: Source = next((label for word, label in LEAST_LIVE.items() if word in columns.sources), "candles")
        return Candles(
            open_time_ms=columns.open_time_ms,
            high=columns.high,
            low=columns.low,
            close=columns.close,
            source=source,
            key=key,
            malformed=malformed,
            newest_epoch_sec=newest_ms / 1000,
        )

    def _judge(self, symbol: str, candles: Candles | None, now: float) -> Reading[Candles]:
        if candles is None:
            return Reading.absent(symbol, "candles_missing")
        if candles.newest_epoch_sec:
            ahead = candles.open_time_ms[-1] / 1000 - now
            if ahead > self.interval_sec:
                return Reading.failed(symbol, f"candles_in_future: {ahead:.0f}s ({candles.key})")
            age = now - candles.newest_epoch_sec
            if age > STALE_INTERVALS * self.interval_sec + STALE_MARGIN_SEC:
                return Reading.failed(symbol, f"candles_stale: {age:.0f}s ({candles.key})")
        return Reading.present(symbol, candles)

    def _synthetic(self, symbol: str, window: int, now: float) -> Candles:
        last_index = math.floor(now / self.interval_sec)
        close = synthetic_closes(symbol, window, last_index)
        # Candle i closes at i intervals, so that the newest one is closed.
        open_time_ms = np.arange(last_index - window, last_index, dtype=np.int64) * (self.interval_sec * 1000)
        return Candles(open_time_ms, close, close, close, "synthetic", "synthetic", 0, last_index * self.interval_sec)


def _members(joined: bytes, count: int) -> list[Any]:
    """Decode all members at once, or one by one when one of them is not JSON; those become ``_NOT_JSON``."""
    members: list[Any] = []
    with contextlib.suppress(orjson.JSONDecodeError):
        members = orjson.loads(b"[%b]" % joined)
    if len(members) == count:
        return members
    members = []
    for text in joined.split(SEPARATOR):
        try:
            members.append(_loads(text))
        except (ValueError, RecursionError):
            members.append(_NOT_JSON)
    return members


def _json_array(key: str, text: bytes) -> list[Any]:
    try:
        members = _loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{key} is not JSON: {error}"
        raise UnreadableError(message) from None
    if not isinstance(members, list):
        message = f"{key} is not a JSON array"
        raise UnreadableError(message)
    return members


def _loads(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)  # NaN and Infinity tokens, which the kernel is to name, are no JSON to orjson


def _columns(members: list[Any], scores: bytes) -> tuple[_Columns, int]:
    """Turn decoded members into columns, closed candles only; also count the malformed ones."""
    try:
        return _uniform_columns(members, scores), 0
    except (KeyError, TypeError, IndexError, ValueError, OverflowError):
        pass  # not all alike: look at each one
    times = _score_times(scores, len(members))
    rows, malformed, sources = [], 0, set()
    for member, score_ms in zip(members, times.tolist(), strict=True):
        try:
            row = _one_candle(member, score_ms)
        except (KeyError, TypeError, ValueError, OverflowError):
            malformed += 1
            continue
        if row is not None:
            rows.append(row)
            if isinstance(member, dict):
                sources.add(str(member.get("source", "")))
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    opened, closed = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    return _Columns(opened, closed, table[:, 2], table[:, 3], table[:, 4], frozenset(sources)), malformed


def _uniform_columns(members: list[Any], scores: bytes) -> _Columns:
    """Read members that are all objects with the same fields and plain numbers; raise when one is not."""
    first = members[0]
    if type(first) is not dict or len(set(map(len, members))) > 1:
        raise TypeError
    close = _first_name(first, "close", "c")
    high, low = _first_name(first, "high", "h"), _first_name(first, "low", "l")
    opened, closed_at = _first_name(first, *TIME_NAMES), _first_name(first, "close_time")
    closed_flag = _first_name(first, *CLOSED_NAMES)
    if close is None:
        raise KeyError

    def numbers(name: str) -> Floats:
        return np.array(_plain(members, name), dtype=np.float64)

    prices = numbers(close)
    count = len(members)
    columns = _Columns(
        _plain_times(members, opened) if opened is not None else _score_times(scores, count),
        _plain_times(members, closed_at) if closed_at is not None else np.zeros(count, dtype=np.int64),
        numbers(high) if high is not None else prices,
        numbers(low) if low is not None else prices,
        prices,
        frozenset([str(member["source"]) for member in members]) if "source" in first else frozenset(),
    )
    if closed_flag is not None:
        flags = [member[closed_flag] for member in members]
        if flags.count(True) < count:
            columns = columns.take(np.array([flag not in OPEN_FLAGS for flag in flags]))
    return columns


def _plain(members: list[Any], name: str) -> list[float]:
    values = [member[name] for member in members]
    if not set(map(type, values)) <= {float, int}:
        raise TypeError
    return values


def _plain_times(members: list[Any], name: str) -> Times:
    values = _plain(members, name)
    if min(values) >= EPOCH_MS_MIN and max(values) < EPOCH_US_MIN:
        return np.array(values, dtype=np.int64)
    return _epoch_ms(np.array(values, dtype=np.float64))


def _one_candle(member: Any, score_ms: int) -> tuple[float, float, float, float, float] | None:
    """Read one member: open and close time in ms (0 unknown), high, low, close; ``None`` when it is not closed yet."""
    if not isinstance(member, dict):
        if member is None:
            raise TypeError
        price = _price(member)
        return score_ms, 0, price, price, price
    flag = _first_name(member, *CLOSED_NAMES)
    if flag is not None and member[flag] in OPEN_FLAGS:
        return None
    close = _price(member["close"] if "close" in member else member["c"])
    high, low = _first_name(member, "high", "h"), _first_name(member, "low", "l")
    opened, closed_at = _first_name(member, *TIME_NAMES), _first_name(member, "close_time")
    return (
        _one_epoch_ms(member[opened]) if opened is not None else score_ms,
        _one_epoch_ms(member[closed_at]) if closed_at is not None else 0,
        _price(member[high]) if high is not None else close,
        _price(member[low]) if low is not None else close,
        close,
    )


def _first_name(member: Mapping[str, Any], *names: str) -> str | None:
    return next((name for name in names if name in member), None)


def _price(value: Any) -> float:
    """Read a price as it stands; ``null`` is how some writers spell NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _one_epoch_ms(value: Any) -> int:
    return int(_epoch_ms(np.array([_price(value)]))[0])


def _epoch_ms(epoch: Floats) -> Times:
    """Turn epoch s, ms or us into ms."""
    if not (np.isfinite(epoch) & (epoch >= 0)).all():
        raise ValueError
    factor = np.where(epoch < EPOCH_MS_MIN, 1000.0, np.where(epoch >= EPOCH_US_MIN, 0.001, 1.0))
    times: Times = np.rint(epoch * factor).astype(np.int64)
    return times


def _score_times(scores: bytes, count: int) -> Times:
    """Read the scores of a sorted set as open times; 0 where a score is no plausible time, or there are no scores."""
    if not scores:
        return np.zeros(count, dtype=np.int64)
    epoch = np.array([float(score) for score in scores.split(b",")])
    seconds = (epoch >= SCORE_SEC_MIN) & (epoch <= SCORE_SEC_MAX)
    milliseconds = (epoch >= 1000 * SCORE_SEC_MIN) & (epoch <= 1000 * SCORE_SEC_MAX)
    return np.select([seconds, milliseconds], [epoch * 1000, epoch], 0.0).astype(np.int64)


def _in_order(columns: _Columns) -> _Columns:
    """Restore the order and drop duplicates by open time, the last one written wins.

    Candles without a time stand where the key has them: only when every time is known can the order be judged.
    """
    times = columns.open_time_ms
    if len(times) < 2 or (np.diff(times) > 0).all():
        return columns
    if (times > 0).all():
        columns = columns.take(np.argsort(times, kind="stable"))
        times = columns.open_time_ms
        return columns.take(np.append(times[1:] != times[:-1], True))
    last_of = {time: row for row, time in enumerate(times.tolist())}
    keep = [row for row, time in enumerate(times.tolist()) if time == 0 or last_of[time] == row]
    return columns.take(np.array(keep))
