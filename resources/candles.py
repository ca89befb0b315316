"""Closed candles of many symbols, whoever wrote them, in one round trip.

Here belong the five layouts of spec section 5 and what makes a candle malformed, stale or from the future. What a bad price
means stays with the kernels: NaN, zero and negative prices are handed on so that they can be named. Missing candles are never
replaced by invented ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import orjson

from quantum_assets.contracts.legs import underlying
from quantum_assets.contracts.reading import Reading
from quantum_assets.contracts.tables import CANDLE_KEYS
from quantum_assets.freshness import STALE_INTERVALS
from quantum_assets.kernels.synthetic import synthetic_closes
from resources.redis_store import RedisStore

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Source = Literal["candles", "replay", "synthetic"]

BATCH_SYMBOLS = 128  # more symbols are read in batches, so that reading and parsing overlap
SHORT_WINDOW = 100  # shorter ones, whose length varies, share what was parsed before
SLACK_MEMBERS = 20  # at most so many are read beyond the window, for duplicates and the unclosed candle
REREAD_FACTOR = 4  # a window that came out short although the key holds more is read again, this much longer
MALFORMED_SHARE_MAX = 0.01  # spec section 13
SCORE_SEC_MIN, SCORE_SEC_MAX = 1e9, 4.2e9  # 2001 to 2103: a score outside is a rank, not a time
EPOCH_MS_MIN = 1e11  # a smaller epoch number is seconds
EPOCH_US_MIN = 1e14  # a larger one is microseconds
OPEN_INTERVALS_MAX = 2  # a candle closes at most this many intervals after it opened
KEY_BYTES_MAX = 2_000_000  # a window of candles is well below 0.1 MB
CHUNK_MEMBERS = 128  # fetched at a time inside the server, so that an oversized key is noticed early

ACCEPTED_TYPES = {
    "candles_zset": "zset,list",
    "candles_quantum": "zset,list",
    "candles_klines": "zset,list",
    "candles_history": "zset",
    "candles_json": "string",
}
TIME_NAMES = ("open_time", "t", "time", "timestamp", "ts")
CLOSED_NAMES = ("is_closed", "x")
OPEN_WORDS = ("false", "0")
LIVE_LABELS = ("", "candles", "live", "exchange", "binance")  # any other label is not known to be live, so it is not
_NOT_JSON = object()  # stands where a member could not be decoded
MALFORMED = (KeyError, TypeError, IndexError, ValueError, OverflowError)  # what reading one member can raise
DECODING = (*MALFORMED, ArithmeticError, AttributeError, RecursionError)  # what one symbol's data can raise at worst

# KEYS    the candle keys of one symbol, first hit wins
# ARGV[1] newest members wanted, ARGV[2] bytes accepted, ARGV[3] members fetched at a time, ARGV[4] 1 when scores are wanted;
#         ARGV[5..] the types accepted for each key, comma-separated
# returns {} when no key exists; {complaint} when the first one that exists has a type that is not accepted for it, or is too
#         large; else {key, type, lists of members as they were fetched, how many in all, scores by commas (sorted set only),
#         members in the key}
# The lists go out as they are: joining 300 members takes the client 10 us, and Lua 400 us in which the server does nothing else.
SEPARATOR = b"\t\t ,"  # white space to JSON; joins the members, so that they are decoded, and compared, at once
NEWEST_LUA = """
local wanted, limit, chunk = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 1, #KEYS do
  local key, kind = KEYS[i], redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' then
    local large = {'larger than ' .. ARGV[2] .. ' bytes: ' .. key}
    if not string.find(',' .. ARGV[i + 4] .. ',', ',' .. kind .. ',', 1, true) then return {key .. ' is a ' .. kind} end
    if kind == 'string' then
      if redis.call('STRLEN', key) > limit then return large end
      return {key, kind, {{redis.call('GET', key)}}, 1, '', 1}
    end
    local list, chunks, bytes, n = kind == 'list', {}, 0, 0
    local count = redis.call(list and 'LLEN' or 'ZCARD', key)
    local first = math.max(count - wanted, 0)
    for from = first, count - 1, chunk do
      local members = redis.call(list and 'LRANGE' or 'ZRANGE', key, from, math.min(from + chunk, count) - 1)
      for j = 1, #members do bytes = bytes + #members[j] end
      if bytes > limit then return large end
      chunks[#chunks + 1], n = members, n + #members
    end
    local scores = {}
    if not list and ARGV[4] == '1' then
      local flat = redis.call('ZRANGE', key, first, count - 1, 'WITHSCORES')
      for j = 2, #flat, 2 do scores[j / 2] = flat[j] end
    end
    return {key, kind, chunks, n, table.concat(scores, ','), count}
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
        ``synthetic`` when any member says so or the prices are generated, ``replay`` when any member carries another label
        than those known to be live.
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
    labels: frozenset[str]  # what the members say of their source, in lower case

    def take(self, rows: npt.NDArray[Any] | slice) -> _Columns:
        return _Columns(
            self.open_time_ms[rows],
            self.close_time_ms[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.labels,
        )

    def followed_by(self, newer: _Columns) -> _Columns:
        return _Columns(
            np.concatenate([self.open_time_ms, newer.open_time_ms]),
            np.concatenate([self.close_time_ms, newer.close_time_ms]),
            np.concatenate([self.high, newer.high]),
            np.concatenate([self.low, newer.low]),
            np.concatenate([self.close, newer.close]),
            self.labels,
        )


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What a reply was parsed to, so that the next one, mostly the same candles, need not be parsed whole.

    Only replies whose members are all well-formed and closed are kept, as they were read: any member that has changed since is
    seen, because all of them are compared.
    """

    key: bytes
    text: bytes
    scores: list[bytes]
    columns: _Columns
    window: int
    candles: Candles

    @classmethod
    def of(cls, reply: Any, columns: _Columns, window: int, candles: Candles, *, timed: bool) -> _Parsed:
        return cls(reply[0], reply[2], [] if timed else _scores(reply), columns, window, candles)

    @property
    def timed(self) -> bool:
        """Whether every member tells its own time, so that scores need not be asked for."""
        return not self.scores

    def is_of(self, reply: Any, window: int) -> bool:
        return window == self.window and reply[0] == self.key and reply[2] == self.text and _scores(reply) == self.scores

    def goes_on(self, reply: Any, interval_ms: int) -> _Columns | None:
        """Give the columns of a reply that continues this one; ``None`` when it must be parsed whole."""
        key, text, scores = reply[0], reply[2], _scores(reply)
        if key != self.key:
            return None
        if text == self.text and scores == self.scores:
            return self.columns
        begin = self.text.find(text[: text.find(SEPARATOR) + len(SEPARATOR)])
        kept, rest = self.text[begin:], text[len(self.text) - begin :]
        dropped = self.text.count(SEPARATOR, 0, begin)
        known = len(self.columns.close) - dropped
        new = int(reply[3]) - known
        after_a_separator = begin == 0 or self.text.endswith(SEPARATOR, 0, begin)
        if begin < 0 or new < 1 or not after_a_separator or not text.startswith(kept) or not rest.startswith(SEPARATOR):
            return None
        tail = rest[len(SEPARATOR) :]
        if self.scores[dropped:] != scores[:known] or tail.count(SEPARATOR) != new - 1:
            return None
        added, malformed = _columns(_members(key.decode(), tail, new), b",".join(scores[known:]), interval_ms)
        if malformed or len(added.close) != new or added.labels != self.columns.labels or len(added.labels) > 1:
            return None  # a label of a member that has left must not stay behind
        return self.columns.take(slice(dropped, None)).followed_by(added)


def _scores(reply: Any) -> list[bytes]:
    return reply[4].split(b",") if reply[4] else []


_PARSED: WeakKeyDictionary[RedisStore, dict[tuple[str, int], _Parsed]] = WeakKeyDictionary()


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
        self._parsed = _PARSED.setdefault(store, {})  # by symbol and length of the window

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
        readings, short = self._read_members(symbols, window, window + min(window, SLACK_MEMBERS), now)
        if short:
            more = max(REREAD_FACTOR * window, window + SLACK_MEMBERS)
            again, _ = self._read_members([symbols[row] for row in short], window, more, now)
            for row, reading in zip(short, again, strict=True):
                readings[row] = reading
        return readings

    def _read_members(
        self, symbols: Sequence[str], window: int, wanted: int, now: float
    ) -> tuple[list[Reading[Candles]], list[int]]:
        """Read ``wanted`` members per symbol; also give the rows that came out short although their key holds more."""
        readings: list[Reading[Candles]] = []
        short: list[int] = []
        names = [(symbol, window if window > SHORT_WINDOW else 0) for symbol in symbols]
        for row, (symbol, name, reply) in enumerate(zip(symbols, names, self._replies(names, wanted), strict=True)):
            try:
                candles = self._decode(name, reply, window)
                untimed = candles is not None and reply[1] == b"zset" and not reply[4] and not candles.open_time_ms.all()
                if untimed and self._parsed.pop(name, None):
                    (reply,) = self._replies([name], wanted)  # a member without a time has come: now its score is needed
                    candles = self._decode(name, reply, window)
                readings.append(self._judge(symbol, candles, now))
            except DECODING as error:
                detail = str(error) if isinstance(error, UnreadableError) else f"{type(error).__name__}: {error}"
                readings.append(Reading.failed(symbol, f"candles_unreadable: {detail}"))
                continue
            if candles is not None and len(candles.close) < window and wanted < int(reply[5]):
                short.append(row)
        return readings, short

    def _replies(self, names: Sequence[tuple[str, int]], wanted: int) -> Iterator[Any]:
        of, types = self.store.keys.of, [ACCEPTED_TYPES[name] for name in CANDLE_KEYS]
        commands, whose = [], self.store.settings.candle_symbols
        for name in names:
            keys, last = [of(key, whose.get(underlying(name[0]), name[0])) for key in CANDLE_KEYS], self._parsed.get(name)
            options = (wanted, KEY_BYTES_MAX, CHUNK_MEMBERS, int(last is None or not last.timed))
            commands.append(("EVAL_RO", NEWEST_LUA, len(keys), *keys, *options, *types))
        if len(commands) <= BATCH_SYMBOLS:
            yield from map(_joined, self.store.run("reading candles", commands))
            return
        batches = [commands[start : start + BATCH_SYMBOLS] for start in range(0, len(commands), BATCH_SYMBOLS)]
        with ThreadPoolExecutor(1) as pool:  # the server works on the next batch while this one is parsed
            for replies in pool.map(partial(self.store.run, "reading candles"), batches):
                yield from map(_joined, replies)

    def _decode(self, name: tuple[str, int], reply: Any, window: int) -> Candles | None:
        if isinstance(reply, Exception):
            raise UnreadableError(str(reply))
        if not reply:
            return None
        if len(reply) == 1:  # the script's complaint
            raise UnreadableError(reply[0].decode())
        key = reply[0].decode()
        last = self._parsed.get(name)
        if last is not None and last.is_of(reply, window):
            return last.candles
        columns = last.goes_on(reply, self.interval_sec * 1000) if last is not None else None
        malformed, timed = 0, last is not None and last.timed
        if columns is None:
            columns, malformed, timed = self._parse(reply)
        ordered = _in_order(columns).take(slice(-window, None))
        if not len(ordered.close):
            return None
        newest_ms = int(ordered.close_time_ms[-1]) or int(ordered.open_time_ms[-1])
        candles = Candles(
            open_time_ms=ordered.open_time_ms,
            high=ordered.high,
            low=ordered.low,
            close=ordered.close,
            source=_source(ordered.labels),
            key=key,
            malformed=malformed,
            newest_epoch_sec=newest_ms / 1000,
        )
        if not malformed and len(columns.close) == int(reply[3]) and reply[1] != b"string":
            self._parsed[name] = _Parsed.of(reply, columns, window, candles, timed=timed)
        return candles

    def _parse(self, reply: Any) -> tuple[_Columns, int, bool]:
        """Give the columns, the number of malformed members, and whether every member tells its own time."""
        key, kind = reply[0].decode(), reply[1].decode()
        members = _json_array(key, reply[2]) if kind == "string" else _members(key, reply[2], int(reply[3]))
        columns, malformed = _columns(members, reply[4], self.interval_sec * 1000)
        judged = min(int(reply[5]), self.store.settings.marketstate_window_size) if kind != "string" else len(members)
        if malformed > MALFORMED_SHARE_MAX * max(judged, 1):
            message = f"{malformed} of {len(members)} members of {key} are malformed"
            raise UnreadableError(message)
        return columns, malformed, all(isinstance(one, dict) and _first_name(one, *TIME_NAMES) for one in members)

    def _judge(self, symbol: str, candles: Candles | None, now: float) -> Reading[Candles]:
        if candles is None:
            return Reading.absent(symbol, "candles_missing")
        if candles.newest_epoch_sec:
            ahead = candles.newest_epoch_sec - now
            if ahead > self.interval_sec:
                return Reading.failed(symbol, f"candles_in_future: {ahead:.0f}s ({candles.key})")
            age = now - candles.newest_epoch_sec
            if age > STALE_INTERVALS * self.interval_sec + self.store.settings.candle_stale_margin_sec:
                return Reading.failed(symbol, f"candles_stale: {age:.0f}s ({candles.key})")
        return Reading.present(symbol, candles)

    def _synthetic(self, symbol: str, window: int, now: float) -> Candles:
        last_index = math.floor(now / self.interval_sec)
        close = synthetic_closes(symbol, window, last_index)
        # Candle i closes at i intervals, so that the newest one is closed.
        open_time_ms = np.arange(last_index - window, last_index, dtype=np.int64) * (self.interval_sec * 1000)
        return Candles(open_time_ms, close, close, close, "synthetic", "synthetic", 0, last_index * self.interval_sec)


def _joined(reply: Any) -> Any:
    """Join the members in a reply of the script to one text."""
    if isinstance(reply, list) and len(reply) > 1:
        reply[2] = SEPARATOR.join(chain.from_iterable(reply[2]))
    return reply


def _members(key: str, joined: bytes, count: int) -> list[Any]:
    """Decode all members at once, or one by one when one of them is not JSON; those become ``_NOT_JSON``."""
    try:
        members: list[Any] = orjson.loads(b"[%b]" % joined)
    except orjson.JSONDecodeError:
        members = []
    if len(members) == count:
        return members
    texts = joined.split(SEPARATOR)
    if len(texts) != count:
        message = f"a member of {key} contains {SEPARATOR!r}, which joins members"
        raise UnreadableError(message)
    return [_member(text) for text in texts]


def _member(text: bytes) -> Any:
    try:
        return _loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


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


def _columns(members: list[Any], scores: bytes, interval_ms: int) -> tuple[_Columns, int]:
    """Turn decoded members into columns, closed candles only; also count the malformed ones."""
    try:
        return _uniform_columns(members, scores, interval_ms), 0
    except MALFORMED:
        pass  # not all alike: look at each one
    times = _score_times(scores, len(members))
    rows, malformed = [], 0
    labels: set[str] = set()
    for member, score_ms in zip(members, times.tolist(), strict=True):
        try:
            row = _one_candle(member, score_ms, interval_ms)
        except MALFORMED:
            malformed += 1
            continue
        if row is not None:
            rows.append(row)
            if isinstance(member, dict):
                labels |= _labels([member.get("source")])
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    opened, closed = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    return _Columns(opened, closed, table[:, 2], table[:, 3], table[:, 4], frozenset(labels)), malformed


def _uniform_columns(members: list[Any], scores: bytes, interval_ms: int) -> _Columns:
    """Read members that are all objects with the same fields and plain numbers; raise when one is not."""
    first = members[0]
    if type(first) is not dict or len(set(map(tuple, members))) > 1:  # the fields of one are looked for in all
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
        _labels({member["source"] for member in members}) if "source" in first else frozenset(),
    )
    if opened is not None and not (columns.open_time_ms > 0).all():
        raise ValueError
    if closed_at is not None and not _belongs(columns.open_time_ms, columns.close_time_ms, interval_ms).all():
        raise ValueError
    if closed_flag is not None:
        flags = [member[closed_flag] for member in members]
        if flags.count(True) < count:
            columns = columns.take(np.array([not _says_open(flag) for flag in flags]))
    return columns


def _belongs(opened_ms: Times, closed_ms: Times, interval_ms: int) -> npt.NDArray[np.bool_]:
    """Tell which close times can be those of the candles; where the open time is unknown, any."""
    after = closed_ms - opened_ms
    fits: npt.NDArray[np.bool_] = (opened_ms == 0) | ((after >= 0) & (after <= OPEN_INTERVALS_MAX * interval_ms))
    return fits


def _says_open(flag: Any) -> bool:
    return flag in OPEN_WORDS or flag == 0 or (isinstance(flag, str) and flag.strip().lower() in OPEN_WORDS)


def _labels(sources: Iterable[Any]) -> frozenset[str]:
    return frozenset("" if source is None else str(source).strip().lower() for source in sources)


def _source(labels: frozenset[str]) -> Source:
    if any("synthetic" in label for label in labels):
        return "synthetic"
    return "candles" if all(label in LIVE_LABELS for label in labels) else "replay"


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


def _one_candle(member: Any, score_ms: int, interval_ms: int) -> tuple[float, float, float, float, float] | None:
    """Read one member: open and close time in ms (0 unknown), high, low, close; ``None`` when it is not closed yet."""
    if not isinstance(member, dict):
        if member is None:
            raise TypeError
        price = _price(member)
        return score_ms, 0, price, price, price
    flag = _first_name(member, *CLOSED_NAMES)
    if flag is not None and _says_open(member[flag]):
        return None
    close = _price(member["close"] if "close" in member else member["c"])
    high, low = _first_name(member, "high", "h"), _first_name(member, "low", "l")
    opened, closed_at = _first_name(member, *TIME_NAMES), _first_name(member, "close_time")
    opened_ms = _one_epoch_ms(member[opened]) if opened is not None else score_ms
    closed_ms = _one_epoch_ms(member[closed_at]) if closed_at is not None else 0
    if closed_at is not None and opened_ms and not 0 <= closed_ms - opened_ms <= OPEN_INTERVALS_MAX * interval_ms:
        raise ValueError
    return (
        opened_ms,
        closed_ms,
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
    if isinstance(value, str) and ("_" in value or not value.isascii()):  # numbers to Python alone
        raise ValueError
    return float(value)


def _one_epoch_ms(value: Any) -> int:
    if isinstance(value, str) and "-" in value[1:] and ":" in value:
        moment = datetime.fromisoformat(value.strip())
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return int(_epoch_ms(np.array([_price(value)]))[0])


def _epoch_ms(epoch: Floats) -> Times:
    """Turn epoch s, ms or us into ms."""
    if not ((epoch > 0) & (epoch <= SCORE_SEC_MAX * 1e6)).all():  # beyond it is no time in any unit; NaN is not either
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
