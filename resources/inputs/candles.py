"""Closed candles of many symbols, whoever wrote them, in one round trip.

Here belong the keys of docs/spec.md#5-sources, order and repeats, and what makes candles stale or from the future; what a member
means is in :mod:`resources.inputs.candle_layouts`. A minute without a price (NaN, zero, negative, infinite), or with two
versions of which nobody can tell the newer, is left out and counted; whether enough is left is judged by ``kernels.grid``.
Missing candles are never replaced by invented ones here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import orjson

from quantum_core.contracts.reading import Reading, printable
from quantum_core.contracts.tables import CANDLE_KEYS
from quantum_core.freshness import STALE_INTERVALS
from quantum_core.kernels import NUMBER_MAX, NUMBER_MIN
from quantum_core.kernels.epochs import MS_MIN, US_MIN, per_sec_of
from quantum_core.kernels.synthetic import synthetic_closes
from resources.inputs.candle_layouts import (
    OPEN_INTERVALS_MAX,
    FlagError,
    Row,
    check_length,
    epoch_ms,
    names_of,
    row_of,
    says_closed,
    uniform_arrays,
    unwrapped,
)
from resources.store.redis_store import RedisStore

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Source = Literal["candles", "replay", "synthetic"]

BATCH_SYMBOLS = 128  # more symbols are read in batches, so that reading and parsing overlap
SHORT_WINDOW = 100  # shorter ones, whose length varies, share what was parsed before
SLACK_MEMBERS = 20  # at most so many are read beyond the window, for duplicates and the unclosed candle
REREAD_FACTOR = 4  # a window that came out short although the key holds more is read again, this much longer
MALFORMED_SHARE_MAX = 0.01  # docs/spec.md#13-bad-input
SCORE_SEC_MIN, SCORE_SEC_MAX = 1e9, 4.2e9  # 2001 to 2103: a score outside is a rank, not a time
REREADS_MAX = 3  # rounds of a window that came out short: running updates may fill a key
REREAD_BLIND_FACTOR = 16  # so many times more where none that was read had closed
REREAD_MARGIN = 1.2  # more members than the share of closed candles asks for
SHOWN_CHARS = 120  # of a member that is malformed
KEY_BYTES_MAX = 2_000_000  # a window of candles is well below 0.1 MB
CHUNK_MEMBERS = 128  # fetched at a time inside the server, so that an oversized key is noticed early

ACCEPTED_TYPES = {
    "candles_zset": "zset,list",
    "candles_quantum": "zset,list",
    "candles_klines": "zset,list",
    "candles_history": "zset",
    "candles_json": "string",
}
PRICE_TROUBLES = ("price_nan", "price_infinite", "price_zero", "price_negative", "price_out_of_range")  # as the kernel names them
LIVE_LABELS = ("", "candles", "live", "exchange", "binance")  # any other label is not known to be live, so it is not
_NOT_JSON = object()  # stands where a member could not be decoded
MALFORMED = (KeyError, TypeError, IndexError, ValueError, OverflowError)  # what reading one member can raise
DECODING = (*MALFORMED, ArithmeticError, AttributeError, RecursionError)  # what one symbol's data can raise at worst

# KEYS    the candle keys of one symbol, first hit wins
# ARGV[1] newest members wanted, ARGV[2] bytes accepted, ARGV[3] members fetched at a time, ARGV[4] 1 when scores are wanted,
#         ARGV[5] 1 when a list has its newest members at the head; ARGV[6..] the types accepted for each key, comma-separated
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
    if not string.find(',' .. ARGV[i + 5] .. ',', ',' .. kind .. ',', 1, true) then return {key .. ' is a ' .. kind} end
    if kind == 'string' then
      if redis.call('STRLEN', key) > limit then return large end
      return {key, kind, {{redis.call('GET', key)}}, 1, '', 1}
    end
    local list, chunks, bytes, n = kind == 'list', {}, 0, 0
    local count = redis.call(list and 'LLEN' or 'ZCARD', key)
    local head = list and ARGV[5] == '1'
    local first = head and 0 or math.max(count - wanted, 0)
    local last = head and math.min(wanted, count) or count
    for from = first, last - 1, chunk do
      local members = redis.call(list and 'LRANGE' or 'ZRANGE', key, from, math.min(from + chunk, last) - 1)
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
        float64, shape (n,), quote units, finite and > 0; high and low equal close where unknown.
    source
        ``synthetic`` when any member says so or the prices are generated, ``replay`` when any member carries another label
        than those known to be live.
    key
        The Redis key they were read from.
    malformed
        Members left out.
    newest_epoch_sec
        Close time of the newest candle when known, else its open time; 0 when neither is.
    volume
        float64, shape (n,), NaN where unknown.
    left_out
        Minutes left out: how many had no price (``price_nan`` and the like), or versions that contradict each other
        (``candles_contradict``).
    members
        Members that were looked at, running updates and repeats among them.
    """

    open_time_ms: Times
    high: Floats
    low: Floats
    close: Floats
    source: Source
    key: str
    malformed: int
    newest_epoch_sec: float
    volume: Floats
    left_out: Mapping[str, int] = field(default_factory=dict)
    members: int = 0


@dataclass(frozen=True, slots=True)
class _Columns:
    """Decoded members in the order of the key, before duplicates and order are seen to."""

    open_time_ms: Times
    close_time_ms: Times
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    flagged: bool  # every one of them says that it is closed
    labels: frozenset[str]  # what the members say of their source, in lower case
    rank: Floats | None = None  # shape (n, 3): says closed, time of the version, place or score; only where times repeat
    fault: str = ""  # why members were malformed, where it has a name

    def take(self, rows: npt.NDArray[Any] | slice) -> _Columns:
        return _Columns(
            self.open_time_ms[rows],
            self.close_time_ms[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.volume[rows],
            self.flagged,
            self.labels,
            None if self.rank is None else self.rank[rows],
            self.fault,
        )

    def followed_by(self, newer: _Columns) -> _Columns:
        return _Columns(
            np.concatenate([self.open_time_ms, newer.open_time_ms]),
            np.concatenate([self.close_time_ms, newer.close_time_ms]),
            np.concatenate([self.high, newer.high]),
            np.concatenate([self.low, newer.low]),
            np.concatenate([self.close, newer.close]),
            np.concatenate([self.volume, newer.volume]),
            self.flagged and newer.flagged,
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
    latest_ms: int
    until_ms: float  # when the oldest candle that runs by our clock has closed: then there is one more

    @classmethod
    def of(
        cls, reply: Any, columns: _Columns, window: int, candles: Candles, *, latest_ms: int, until_ms: float, timed: bool
    ) -> _Parsed:
        return cls(reply[0], reply[2], [] if timed else _scores(reply), columns, window, candles, latest_ms, until_ms)

    @property
    def timed(self) -> bool:
        """Whether every member tells its own time, so that scores need not be asked for."""
        return not self.scores

    def is_of(self, reply: Any, window: int, now_ms: float) -> bool:
        same = window == self.window and reply[0] == self.key and reply[2] == self.text and _scores(reply) == self.scores
        return same and now_ms < self.until_ms

    def goes_on(self, reply: Any, interval_ms: int) -> _Columns | None:
        """Give the columns of a reply that continues this one; ``None`` when it must be parsed whole."""
        key, text, scores = reply[0], reply[2], _scores(reply)
        if key != self.key or self.columns.rank is not None:
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
_NEWEST_FIRST: WeakKeyDictionary[RedisStore, set[str]] = WeakKeyDictionary()


class UnreadableError(ValueError):
    """What a key holds cannot be read as candles; the text says why."""


class _ScoresWantedError(ValueError):
    """Two members of one time, and only their scores can tell which is newer."""


class _Decoded(NamedTuple):
    """What the key of one symbol holds: candles (``None``: no key, or none that has closed), or why it cannot be read."""

    candles: Candles | None = None
    trouble: str = ""
    latest_ms: int = 0  # time of the newest member, also of one that has not closed
    timed: bool = True  # every candle has a time
    turned: bool = False  # a list whose newest member is at its other end
    looked_at: int = 0  # members
    in_key: int = 0

    def is_short(self, window: int) -> bool:
        closed = len(self.candles.close) if self.candles is not None else 0
        return closed < window and self.looked_at < self.in_key

    def members_needed(self, window: int) -> int:
        """Estimate how many members hold a window of closed candles."""
        if self.candles is None or not len(self.candles.close):
            return REREAD_BLIND_FACTOR * self.looked_at
        return math.ceil(REREAD_MARGIN * window * self.looked_at / len(self.candles.close))


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
        self._newest_first = _NEWEST_FIRST.setdefault(store, set())  # symbols whose list is read from its head
        self._now_ms = 0.0

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
            ``candles_stale`` or ``candles_in_future``, each followed by the detail, or, where no minute has a price at all,
            with what they have instead (``price_nan``, ``candles_contradict``). One round trip, and more for symbols whose newest
            members are mostly duplicates or running updates, or whose list has the newest first.

        Raises
        ------
        RedisUnavailableError
            The server is away.

        References
        ----------
        docs/spec.md#5-sources, docs/spec.md#13-bad-input
        """
        window = window or self.store.settings.marketstate_window_size
        now = self.store.clock().timestamp()
        if self.store.settings.marketstate_source == "synthetic":
            return [Reading.present(symbol, self._synthetic(symbol, window, now)) for symbol in symbols]
        self._now_ms = 1000 * now
        decoded = self._read_members(symbols, window, window + min(window, SLACK_MEMBERS))
        self._turn_lists(symbols, decoded, window)
        more = max(REREAD_FACTOR * window, window + SLACK_MEMBERS)
        for _ in range(REREADS_MAX):
            short = [row for row, one in enumerate(decoded) if one.is_short(window)]
            if not short:
                break
            again = self._read_members([symbols[row] for row in short], window, more)
            for row, one in zip(short, again, strict=True):  # what is too large to be read whole is judged by what was read
                decoded[row] = one if not one.trouble else decoded[row]._replace(in_key=0)
            more = max((one.members_needed(window) for one in again), default=more)
        return [self._judge(symbol, one, now) for symbol, one in zip(symbols, decoded, strict=True)]

    def _turn_lists(self, symbols: Sequence[str], decoded: list[_Decoded], window: int) -> None:
        """Read lists from their other end whose newest candle is not where it was looked for."""
        turned = [row for row, one in enumerate(decoded) if one.turned]
        if not turned:
            return
        names = [symbols[row] for row in turned]
        self._newest_first.symmetric_difference_update(names)
        again = self._read_members(names, window, window + min(window, SLACK_MEMBERS))
        for row, one in zip(turned, again, strict=True):
            if one.latest_ms > decoded[row].latest_ms:
                decoded[row] = one
            else:  # one that was corrected, and no list with the newest first
                self._newest_first.symmetric_difference_update([symbols[row]])

    def _read_members(self, symbols: Sequence[str], window: int, wanted: int) -> list[_Decoded]:
        """Read ``wanted`` members per symbol."""
        decoded: list[_Decoded] = []
        names = [(symbol, window if window > SHORT_WINDOW else 0) for symbol in symbols]
        for name, reply in zip(names, self._replies(names, wanted), strict=True):
            try:
                try:
                    one = self._decode(name, reply, window)
                    untimed = not one.timed and reply[1] == b"zset" and not reply[4]
                except _ScoresWantedError:
                    one, untimed = _Decoded(trouble="candles_unreadable: two of one time, and no scores"), True
                if untimed and self._parsed.pop(name, None):
                    (reply,) = self._replies([name], wanted)  # a member has come whose score is needed
                    one = self._decode(name, reply, window)
                decoded.append(one)
            except DECODING as error:
                detail = str(error) if isinstance(error, UnreadableError) else f"{type(error).__name__}: {error}"
                decoded.append(_Decoded(None, trouble=f"candles_unreadable: {detail}"))
        return decoded

    def _replies(self, names: Sequence[tuple[str, int]], wanted: int) -> Iterator[Any]:
        of, types = self.store.keys.of, [ACCEPTED_TYPES[name] for name in CANDLE_KEYS]
        commands = []
        for name in names:
            whose, last = self.store.settings.candles_of(name[0]), self._parsed.get(name)
            keys = [of(key, whose) for key in CANDLE_KEYS]
            head = int(name[0] in self._newest_first)
            options = (wanted, KEY_BYTES_MAX, CHUNK_MEMBERS, int(last is None or not last.timed), head)
            commands.append(("EVAL_RO", NEWEST_LUA, len(keys), *keys, *options, *types))
        if len(commands) <= BATCH_SYMBOLS:
            yield from map(_joined, self.store.run("reading candles", commands))
            return
        batches = [commands[start : start + BATCH_SYMBOLS] for start in range(0, len(commands), BATCH_SYMBOLS)]
        with ThreadPoolExecutor(1) as pool:  # the server works on the next batch while this one is parsed
            for replies in pool.map(partial(self.store.run, "reading candles"), batches):
                yield from map(_joined, replies)

    def _decode(self, name: tuple[str, int], reply: Any, window: int) -> _Decoded:
        if isinstance(reply, Exception):
            raise UnreadableError(str(reply))
        if not reply:
            return _Decoded()
        if len(reply) == 1:  # the script's complaint
            raise UnreadableError(reply[0].decode())
        key, kind = reply[0].decode(), reply[1].decode()
        looked_at, in_key = int(reply[3]), int(reply[5])
        last = self._parsed.get(name)
        if last is not None and last.is_of(reply, window, self._now_ms):
            return _Decoded(last.candles, latest_ms=last.latest_ms, looked_at=looked_at, in_key=in_key)
        columns = last.goes_on(reply, self.interval_sec * 1000) if last is not None else None
        malformed, timed = 0, last is not None and last.timed
        rising = columns is not None and _rises(columns.open_time_ms)
        if columns is None or (not rising and _repeats(columns.open_time_ms)):
            columns, malformed, timed = self._parse(reply)
        ordered, contradicted = (columns, 0) if rising else _in_order(columns)
        if not len(ordered.close):
            trouble = f"candles_contradict: {contradicted} candles ({key})" if contradicted else ""
            return _Decoded(trouble=trouble, looked_at=looked_at, in_key=in_key)
        turned = kind == "list" and looked_at < in_key and _falls(columns.open_time_ms) != (name[0] in self._newest_first)
        latest_ms = int(ordered.close_time_ms[-1]) or int(ordered.open_time_ms[-1])
        ordered, newest_ms, until_ms = self._closed(ordered)
        ordered, left_out = _priced(ordered)
        if contradicted:
            left_out["candles_contradict"] = contradicted
        ordered = ordered.take(slice(-window, None))
        all_timed = rising or bool((ordered.open_time_ms > 0).all())
        candles = Candles(
            open_time_ms=ordered.open_time_ms,
            high=ordered.high,
            low=ordered.low,
            close=ordered.close,
            source=_source(ordered.labels),
            key=key,
            malformed=malformed,
            newest_epoch_sec=newest_ms / 1000,
            volume=ordered.volume,
            left_out=left_out,
            members=looked_at,
        )
        if not malformed and len(columns.close) == looked_at and kind != "string" and not turned:
            kept_by_score = columns.rank is not None or not timed
            self._parsed[name] = _Parsed.of(
                reply, columns, window, candles, latest_ms=latest_ms, until_ms=until_ms, timed=not kept_by_score
            )
        return _Decoded(candles, latest_ms=latest_ms, timed=all_timed, turned=turned, looked_at=looked_at, in_key=in_key)

    def _parse(self, reply: Any) -> tuple[_Columns, int, bool]:
        """Give the columns, the number of malformed members, and whether every member tells its own time."""
        key, kind, interval_ms = reply[0].decode(), reply[1].decode(), self.interval_sec * 1000
        members = _json_array(key, reply[2]) if kind == "string" else _members(key, reply[2], int(reply[3]))
        columns, malformed = _columns(members, reply[4], interval_ms)
        judged = min(int(reply[5]), self.store.settings.marketstate_window_size) if kind != "string" else len(members)
        if malformed > MALFORMED_SHARE_MAX * max(judged, 1):
            cause = f": {columns.fault}" if columns.fault else ""
            message = f"{malformed} of {len(members)} members of {key} are malformed{cause}"
            raise UnreadableError(message)
        if _repeats(columns.open_time_ms):
            if kind == "zset" and not reply[4]:
                raise _ScoresWantedError
            columns, _ = _columns(members, reply[4], interval_ms, ranked=True)
        return columns, malformed, _all_timed(members)

    def _closed(self, ordered: _Columns) -> tuple[_Columns, int, float]:
        """Leave out candles that run by our clock and do not say that they are closed.

        Returns
        -------
        columns, newest_ms, until_ms
            The closed candles; the close of the newest (its opening where unknown); and when there will be one more.
        """
        count, interval_ms = len(ordered.close), self.interval_sec * 1000
        closed = count
        while (
            closed
            and not ordered.flagged
            and ordered.open_time_ms[closed - 1]
            and self._end_ms(ordered, closed - 1) > self._now_ms
        ):
            closed -= 1
        if not closed:
            return ordered.take(slice(0, 0)), 0, self._end_ms(ordered, 0)
        opened_ms, newest_ms = int(ordered.open_time_ms[closed - 1]), int(ordered.close_time_ms[closed - 1])
        if closed == count:
            return ordered, newest_ms or opened_ms, math.inf
        if not newest_ms:  # the next one runs: so this one has closed
            newest_ms = min(opened_ms + interval_ms, int(ordered.open_time_ms[closed]))
        return ordered.take(slice(closed)), newest_ms, self._end_ms(ordered, closed)

    def _end_ms(self, ordered: _Columns, row: int) -> int:
        return int(ordered.close_time_ms[row]) or int(ordered.open_time_ms[row]) + self.interval_sec * 1000

    def _judge(self, symbol: str, one: _Decoded, now: float) -> Reading[Candles]:
        candles = one.candles
        if one.trouble:
            return Reading.failed(symbol, one.trouble)
        if candles is None:
            return Reading.absent(symbol, _missing(one))
        ahead = max(one.latest_ms / 1000, candles.newest_epoch_sec) - now
        if ahead > self.interval_sec:
            return Reading.failed(symbol, f"candles_in_future: {ahead:.0f}s ({candles.key})")
        if not len(candles.close):
            if not candles.left_out:  # one that runs, and no other
                return Reading.absent(symbol, _missing(one))
            return Reading.failed(symbol, f"{usual_trouble(candles)}: {sum(candles.left_out.values())} candles ({candles.key})")
        age = now - candles.newest_epoch_sec
        if candles.newest_epoch_sec and age > STALE_INTERVALS * self.interval_sec + self.store.settings.candle_stale_margin_sec:
            return Reading.failed(symbol, f"candles_stale: {age:.0f}s ({candles.key})")
        return Reading.present(symbol, candles)

    def _synthetic(self, symbol: str, window: int, now: float) -> Candles:
        last_index = math.floor(now / self.interval_sec)
        close = synthetic_closes(symbol, window, last_index)
        # Candle i closes at i intervals, so that the newest one is closed.
        open_time_ms = np.arange(last_index - window, last_index, dtype=np.int64) * (self.interval_sec * 1000)
        traded = np.full(window, np.nan)
        return Candles(open_time_ms, close, close, close, "synthetic", "synthetic", 0, last_index * self.interval_sec, traded)


def _missing(one: _Decoded) -> str:
    return f"candles_missing: none of {one.looked_at} has closed" if one.looked_at else "candles_missing"


def usual_trouble(candles: Candles) -> str:
    """Name what most minutes were left out for; empty when none was."""
    return max(candles.left_out, key=candles.left_out.__getitem__, default="")


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
    except orjson.JSONDecodeError:  # NaN and Infinity tokens, which the kernel is to name; bytes that are no text in a field
        return json.loads(text.decode(errors="replace"))


def _all_timed(members: list[Any]) -> bool:
    """Tell whether every member says its time itself, so that scores are not needed."""
    kinds = set(map(type, members))
    if kinds != {dict}:
        return kinds == {list}
    try:
        return all(names_of(fields).timed for fields in set(map(tuple, members)))
    except MALFORMED:
        return False


def _columns(members: list[Any], scores: bytes, interval_ms: int, *, ranked: bool = False) -> tuple[_Columns, int]:
    """Turn decoded members into columns, closed candles only; also count the malformed ones.

    ``ranked`` adds what tells versions of one candle apart: says closed, time of the version, and score, else place in the key.
    """
    if not ranked:
        try:
            return _uniform_columns(members, scores, interval_ms), 0
        except MALFORMED:
            pass  # not all alike: look at each one
    times = _score_times(scores, len(members)).tolist()
    rows: list[Row | None] = []
    faults: list[str] = []
    example = ""
    malformed = 0
    labels: set[str] = set()
    for member, score_ms in zip(members, times, strict=True):
        try:
            inner, sources = unwrapped(member)
            row = row_of(inner, score_ms, interval_ms)
        except MALFORMED as error:
            malformed += 1
            faults += [str(error)] if isinstance(error, FlagError) else []
            example = example or f"one is {_shown(member)}"
            rows.append(None)
            continue
        rows.append(row)
        if row is not None:
            labels |= _labels(sources)
    kept = [place for place, row in enumerate(rows) if row is not None]
    table = np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, 8)
    opened, closed, (high, low, close, volume, version, flagged) = table[:, 0], table[:, 1], table[:, 2:].T
    rank = None
    if ranked:
        written = np.array([float(one) for one in scores.split(b",")] if scores else range(len(members)), dtype=np.float64)[kept]
        rank = np.column_stack([flagged, version, -written if not scores and _falls(opened) else written])
    return _Columns(
        opened.astype(np.int64),
        closed.astype(np.int64),
        high,
        low,
        close,
        volume,
        bool(len(flagged)) and bool(flagged.all()),
        frozenset(labels),
        rank,
        faults[0] if faults else example,
    ), malformed


def _shown(member: Any) -> str:
    return "no JSON" if member is _NOT_JSON else printable(member)[:SHOWN_CHARS]


def _uniform_columns(members: list[Any], scores: bytes, interval_ms: int) -> _Columns:
    """Read members that are all objects with the same fields, or arrays of one length, of plain numbers; raise when not."""
    first = members[0]
    if type(first) is list:
        table = uniform_arrays(members, interval_ms)
        opened, closed = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        high, low, close, volume = table[:, 2:6].T
        return _Columns(opened, closed, high, low, close, volume, flagged=False, labels=frozenset())
    return _uniform_objects(members, first, scores, interval_ms)


def _uniform_objects(members: list[Any], first: Any, scores: bytes, interval_ms: int) -> _Columns:
    if type(first) is not dict or len(set(map(tuple, members))) > 1:  # the fields of one are looked for in all
        raise TypeError
    names = names_of(tuple(first))
    if names.says_running or names.state or len(names.says_closed) > 1:
        raise TypeError
    if names.interval:
        for length in {member[names.interval] for member in members}:
            check_length(length, interval_ms)

    def numbers(name: str) -> Floats:
        return np.array(_plain(members, name), dtype=np.float64)

    prices = numbers(names.close)
    count = len(members)
    columns = _Columns(
        _plain_times(members, names.opened) if names.opened else _score_times(scores, count),
        _plain_times(members, names.closed_at) if names.closed_at else np.zeros(count, dtype=np.int64),
        numbers(names.high) if names.high else prices,
        numbers(names.low) if names.low else prices,
        prices,
        numbers(names.volume) if names.volume else np.full(count, np.nan),
        flagged=bool(names.says_closed),
        labels=_labels({member["source"] for member in members}) if "source" in first else frozenset(),
    )
    if names.opened and not (columns.open_time_ms > 0).all():
        raise ValueError
    if names.closed_at and not _belongs(columns.open_time_ms, columns.close_time_ms, interval_ms):
        raise ValueError
    return _without_running(columns, members, names.says_closed[0]) if names.says_closed else columns


def _without_running(columns: _Columns, members: list[Any], flag: str) -> _Columns:
    flags = [member[flag] for member in members]
    if flags.count(True) == len(flags):
        return columns
    said = [says_closed(flag, one) for one in flags]
    if None in said:
        raise TypeError
    return columns.take(np.array(said, dtype=np.bool_))


def _belongs(opened_ms: Times, closed_ms: Times, interval_ms: int) -> bool:
    """Tell whether the close times can be those of the candles, all of whose opening times are known."""
    after = closed_ms - opened_ms
    return bool(opened_ms.all() and ((after >= 0) & (after <= OPEN_INTERVALS_MAX * interval_ms)).all())


def _rises(times: Times) -> bool:
    """Tell whether all times are known and each is later than the one before."""
    return len(times) > 0 and bool(times[0] > 0) and bool((times[1:] > times[:-1]).all())


def _repeats(times: Times) -> bool:
    """Tell whether a known time is that of more than one member."""
    if len(times) < 2 or (np.diff(times) > 0).all():
        return False
    known = times[times > 0]
    return len(np.unique(known)) < len(known)


def _falls(times: npt.NDArray[Any]) -> bool:
    """Tell whether members stand newest first."""
    return len(times) > 1 and bool((times > 0).all()) and int(np.sign(np.diff(times)).sum()) < 0


def _priced(columns: _Columns) -> tuple[_Columns, dict[str, int]]:
    """Leave out minutes without a price, by name; a high or low that is none is the close."""
    left_out: dict[str, int] = {}
    close, high, low = columns.close, columns.high, columns.low
    if len(close) and not (close.min() >= NUMBER_MIN and close.max() <= NUMBER_MAX):
        out_of_range = (close < NUMBER_MIN) | (close > NUMBER_MAX)
        troubles = (np.isnan(close), np.isinf(close), close == 0, close < 0, out_of_range)
        kinds = np.select(troubles, PRICE_TROUBLES, default="")
        left_out = {str(kind): int(count) for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True) if kind}
        columns = columns.take((close >= NUMBER_MIN) & (close <= NUMBER_MAX))
        close, high, low = columns.close, columns.high, columns.low
    if len(close) and not (low.min() > 0 and high.min() > 0 and high.max() < math.inf and low.max() < math.inf):
        high, low = (np.where((one > 0) & (one < math.inf), one, close) for one in (high, low))
        columns = replace(columns, high=high, low=low)
    return columns, left_out


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
    if min(values) >= MS_MIN and max(values) < US_MIN:
        return np.array(values, dtype=np.int64)
    return epoch_ms(np.array(values, dtype=np.float64))


def _score_times(scores: bytes, count: int) -> Times:
    """Read the scores of a sorted set as open times; 0 where a score is no plausible time, or there are no scores."""
    if not scores:
        return np.zeros(count, dtype=np.int64)
    epoch = np.array([float(score) for score in scores.split(b",")])
    units = per_sec_of(epoch)
    fits = (epoch >= SCORE_SEC_MIN * units) & (epoch <= SCORE_SEC_MAX * units)
    times = np.zeros(count, dtype=np.int64)
    times[fits] = np.rint(epoch[fits] * (1e3 / units[fits]))
    return times


def _in_order(columns: _Columns) -> tuple[_Columns, int]:
    """Restore the order and keep the newest version of each candle; also count the candles of which nobody can tell the newer.

    One that says that it is closed is newer than one that says nothing, then counts the time of the version, then the score, or
    the place in a list. Two that differ and have all that in common contradict each other: under one score a sorted set has them
    in the order of their bytes. Candles without a time stand where the key has them: only when every time is known can the order
    be judged.
    """
    times, rank = columns.open_time_ms, columns.rank
    if len(times) < 2 or (np.diff(times) > 0).all():
        return columns, 0
    if not (times > 0).all():
        last_of = {time: row for row, time in enumerate(times.tolist())}
        return columns.take(np.array([row for row, time in enumerate(times.tolist()) if time == 0 or last_of[time] == row])), 0
    columns = columns.take(np.argsort(times, kind="stable") if rank is None else np.lexsort((*rank.T[::-1], times)))
    if rank is None:
        return columns, 0
    times, rank = columns.open_time_ms, columns.rank[:] if columns.rank is not None else rank
    prices = np.column_stack([columns.close, columns.high, columns.low])
    newest = np.append(times[1:] != times[:-1], True)
    group = np.append(0, np.cumsum(newest[:-1]))
    last = np.flatnonzero(newest)[group]  # row of the newest version of each row's candle
    same = (prices == prices[last]) | (np.isnan(prices) & np.isnan(prices[last]))
    contradicts = (rank == rank[last]).all(axis=1) & ~same.all(axis=1)
    doubtful = np.isin(group, group[contradicts])
    return columns.take(newest & ~doubtful), len(set(group[contradicts].tolist()))
