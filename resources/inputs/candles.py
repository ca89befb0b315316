"""The candle keys of many symbols, whoever wrote them, read in one round trip and judged.

Here belong the keys of docs/spec.md#5-sources, how deep they are read, and what makes candles stale or from the future. What a
member means is in :mod:`resources.inputs.candle_layouts`, which of them count in :mod:`resources.inputs.candle_selection`. A
minute without a price (NaN, zero, negative, infinite), or with two versions of which the newer is unknown, is left out and
counted; whether enough is left is judged by ``kernels.grid``. Missing candles are never replaced by synthetic ones here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import orjson

from quantum_core.contracts.legs import underlying
from quantum_core.contracts.reading import Reading
from quantum_core.contracts.tables import CANDLE_KEYS
from quantum_core.freshness import STALE_INTERVALS
from resources.inputs.candle_columns import (
    MALFORMED,
    Columns,
    UnreadableError,
    all_timed,
    columns_of,
    decoded_array,
    decoded_members,
    falls,
)
from resources.inputs.candle_replies import ParsedReply, joined
from resources.inputs.candle_selection import closed_by, in_order, priced, repeats, rises, source_of
from resources.inputs.candle_series import Candles, synthetic_candles, usual_trouble
from resources.store.published import Shared
from resources.store.redis_store import RedisStore
from resources.store.transport.scripts import Script

BATCH_SYMBOLS = 128  # more symbols are read in batches, so that reading and parsing overlap
SHORT_WINDOW = 100  # shorter ones, whose length varies, share what was parsed before
SLACK_MEMBERS = 20  # at most so many are read beyond the window, for duplicates and the unclosed candle
REREAD_FACTOR = 4  # a window that came out short although the key holds more is read again, this much longer
MALFORMED_SHARE_MAX = 0.01  # docs/spec.md#13-bad-input
REREADS_MAX = 3  # rounds of a window that came out short: running updates may fill a key
REREAD_BLIND_FACTOR = 16  # so many times more where none that was read had closed
REREAD_MARGIN = 1.2  # more members than the share of closed candles asks for
KEY_BYTES_MAX = 2_000_000  # a window of candles is far below 0.1 MB
CHUNK_MEMBERS = 128  # fetched at a time inside the server, so that an oversized key is noticed early

ACCEPTED_TYPES = {
    "candles_zset": "zset,list",
    "candles_quantum": "zset,list",
    "candles_klines": "zset,list",
    "candles_history": "zset",
    "candles_json": "string",
}
DECODING = (*MALFORMED, ArithmeticError, AttributeError, RecursionError)  # what one symbol's data can raise at worst

NEWEST = Script(__file__, "newest", read_only=True)


_PARSED: WeakKeyDictionary[RedisStore, dict[tuple[str, int], ParsedReply]] = WeakKeyDictionary()
_NEWEST_FIRST: WeakKeyDictionary[RedisStore, set[str]] = WeakKeyDictionary()


class _ScoresWantedError(ValueError):
    """Two members of one time, and only their scores show which is newer."""


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
            return [
                Reading.present(symbol, synthetic_candles(symbol, window, now=now, interval_sec=self.interval_sec))
                for symbol in symbols
            ]
        self._now_ms = 1000 * now
        decoded = self._read_members(symbols, window, window + min(window, SLACK_MEMBERS))
        self._turn_lists(symbols, decoded, window)
        reread_count = max(REREAD_FACTOR * window, window + SLACK_MEMBERS)
        for _ in range(REREADS_MAX):
            short = [row for row, one in enumerate(decoded) if one.is_short(window)]
            if not short:
                break
            rereads = self._read_members([symbols[row] for row in short], window, reread_count)
            for row, reread in zip(short, rereads, strict=True):  # what is too large to be read whole is judged by what was read
                decoded[row] = reread if not reread.trouble else decoded[row]._replace(in_key=0)
            reread_count = max((one.members_needed(window) for one in rereads), default=reread_count)
        return [self._judge(symbol, one, now) for symbol, one in zip(symbols, decoded, strict=True)]

    def _turn_lists(self, symbols: Sequence[str], decoded: list[_Decoded], window: int) -> None:
        """Read lists from their other end whose newest candle is not where it was looked for."""
        turned = [row for row, one in enumerate(decoded) if one.turned]
        if not turned:
            return
        names = [symbols[row] for row in turned]
        self._newest_first.symmetric_difference_update(names)
        again = self._read_members(names, window, window + min(window, SLACK_MEMBERS))
        for row, reread in zip(turned, again, strict=True):
            if reread.latest_ms > decoded[row].latest_ms:
                decoded[row] = reread
            else:  # one that was corrected, and no list with the newest first
                self._newest_first.symmetric_difference_update([symbols[row]])

    def _read_members(self, symbols: Sequence[str], window: int, wanted: int) -> list[_Decoded]:
        """Read ``wanted`` members per symbol."""
        decoded: list[_Decoded] = []
        names = [(symbol, window if window > SHORT_WINDOW else 0) for symbol in symbols]
        for name, reply in zip(names, self._replies(names, wanted), strict=True):
            try:
                try:
                    parsed = self._decode(name, reply, window)
                    untimed = not parsed.timed and reply[1] == b"zset" and not reply[4]
                except _ScoresWantedError:
                    parsed, untimed = _Decoded(trouble="candles_unreadable: two of one time, and no scores"), True
                if untimed and self._parsed.pop(name, None):
                    (reply,) = self._replies([name], wanted)  # a member has come whose score is needed
                    parsed = self._decode(name, reply, window)
                decoded.append(parsed)
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
            arguments = {
                "wanted": wanted,
                "bytes_max": KEY_BYTES_MAX,
                "chunk": CHUNK_MEMBERS,
                "scores": last is None or not last.timed,
                "newest_first": name[0] in self._newest_first,
                "types": types,
            }
            commands.append(NEWEST(keys, orjson.dumps(arguments)))
        if len(commands) <= BATCH_SYMBOLS:
            yield from map(joined, self.store.run("reading candles", commands))
            return
        batches = [commands[start : start + BATCH_SYMBOLS] for start in range(0, len(commands), BATCH_SYMBOLS)]
        with ThreadPoolExecutor(1) as pool:  # the server works on the next batch while this one is parsed
            for replies in pool.map(partial(self.store.run, "reading candles"), batches):
                yield from map(joined, replies)

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
        rising = columns is not None and rises(columns.open_time_ms)
        if columns is None or (not rising and repeats(columns.open_time_ms)):
            columns, malformed, timed = self._parse(reply)
        ordered, contradicted = (columns, 0) if rising else in_order(columns)
        if not len(ordered.close):
            trouble = f"candles_contradict: {contradicted} candles ({key})" if contradicted else ""
            return _Decoded(trouble=trouble, looked_at=looked_at, in_key=in_key)
        turned = kind == "list" and looked_at < in_key and falls(columns.open_time_ms) != (name[0] in self._newest_first)
        latest_ms = int(ordered.close_time_ms[-1]) or int(ordered.open_time_ms[-1])
        ordered, newest_ms, until_ms = closed_by(self._now_ms, ordered, self.interval_sec * 1000)
        ordered, left_out = priced(ordered)
        if contradicted:
            left_out["candles_contradict"] = contradicted
        ordered = ordered.take(slice(-window, None))
        has_times = rising or bool((ordered.open_time_ms > 0).all())
        candles = Candles(
            open_time_ms=ordered.open_time_ms,
            high=ordered.high,
            low=ordered.low,
            close=ordered.close,
            source=source_of(ordered.labels),
            key=key,
            malformed=malformed,
            newest_epoch_sec=newest_ms / 1000,
            volume=ordered.volume,
            left_out=left_out,
            members=looked_at,
        )
        if not malformed and len(columns.close) == looked_at and kind != "string" and not turned:
            kept_by_score = columns.rank is not None or not timed
            self._parsed[name] = ParsedReply.of(
                reply, columns, window, candles, latest_ms=latest_ms, until_ms=until_ms, timed=not kept_by_score
            )
        return _Decoded(candles, latest_ms=latest_ms, timed=has_times, turned=turned, looked_at=looked_at, in_key=in_key)

    def _parse(self, reply: Any) -> tuple[Columns, int, bool]:
        """Give the columns, the number of malformed members, and whether every member states its own time."""
        key, kind, interval_ms = reply[0].decode(), reply[1].decode(), self.interval_sec * 1000
        members = decoded_array(key, reply[2]) if kind == "string" else decoded_members(key, reply[2], int(reply[3]))
        columns, malformed = columns_of(members, reply[4], interval_ms)
        judged = min(int(reply[5]), self.store.settings.marketstate_window_size) if kind != "string" else len(members)
        if malformed > MALFORMED_SHARE_MAX * max(judged, 1):
            cause = f": {columns.fault}" if columns.fault else ""
            message = f"{malformed} of {len(members)} members of {key} are malformed{cause}"
            raise UnreadableError(message)
        if repeats(columns.open_time_ms):
            if kind == "zset" and not reply[4]:
                raise _ScoresWantedError
            columns, _ = columns_of(members, reply[4], interval_ms, ranked=True)
        return columns, malformed, all_timed(members)

    def _judge(self, symbol: str, decoded: _Decoded, now: float) -> Reading[Candles]:
        candles = decoded.candles
        if decoded.trouble:
            return Reading.failed(symbol, decoded.trouble)
        if candles is None:
            return Reading.absent(symbol, _missing(decoded))
        ahead = max(decoded.latest_ms / 1000, candles.newest_epoch_sec) - now
        if ahead > self.interval_sec:
            return Reading.failed(symbol, f"candles_in_future: {ahead:.0f}s ({candles.key})")
        if not len(candles.close):
            if not candles.left_out:  # one that runs, and no other
                return Reading.absent(symbol, _missing(decoded))
            return Reading.failed(symbol, f"{usual_trouble(candles)}: {sum(candles.left_out.values())} candles ({candles.key})")
        age = now - candles.newest_epoch_sec
        if candles.newest_epoch_sec and age > STALE_INTERVALS * self.interval_sec + self.store.settings.candle_stale_margin_sec:
            return Reading.failed(symbol, f"candles_stale: {age:.0f}s ({candles.key})")
        return Reading.present(symbol, candles)


class CandlesOfRun(CandleReader):
    """Reads the candles of each key once for all steps of a run, so that they judge the same market at one moment.

    A step that asks for fewer candles is given the newest of those that another has read. It reads for itself where that was
    more than SHARED_SEC ago, and where a shorter window may fare better: the longer one cannot be read, or has synthetic
    candles in it.

    Parameters
    ----------
    store
        See :class:`CandleReader`.
    run_id
        Whose readings are shared.
    """

    def __init__(self, store: RedisStore, run_id: str) -> None:
        super().__init__(store)
        self._run_id = run_id

    def read(self, symbols: Sequence[str], window: int | None = None) -> list[Reading[Candles]]:
        """See :meth:`CandleReader.read`."""
        if self.store.settings.marketstate_source == "synthetic":  # of each name its own, and nothing is read
            return super().read(symbols, window)
        window = window or self.store.settings.marketstate_window_size
        shared = self.store.published.of_run(self._run_id).candles
        markets = [underlying(self.store.settings.candles_of(symbol)) for symbol in symbols]
        unread = {
            market: symbol
            for market, symbol in zip(markets, symbols, strict=True)
            if market not in shared or not _serves(shared[market], window)
        }
        if unread:
            began = time.monotonic()
            readings = super().read(list(unread.values()), window)
            shared |= {market: Shared(began, window, one) for market, one in zip(unread, readings, strict=True)}
        return [_newest_of(shared[market].value, symbol, window) for market, symbol in zip(markets, symbols, strict=True)]


def _serves(shared: Shared, window: int) -> bool:
    """Say whether a window of candles is as good as reading another one."""
    candles: Candles | None = shared.value.value
    longer = shared.of > window and candles is not None and candles.source != "synthetic"
    return shared.is_recent and (longer or shared.of == window)


def _newest_of(reading: Reading[Candles], symbol: str, window: int) -> Reading[Candles]:
    """Give the newest candles of a reading to one of the symbols that are judged by it."""
    candles = reading.value
    if candles is not None and len(candles.close) > window:
        newest = {name: getattr(candles, name)[-window:] for name in ("open_time_ms", "high", "low", "close", "volume")}
        candles = replace(candles, **newest)
    return Reading(symbol, reading.state, candles, reading.reason)


def _missing(one: _Decoded) -> str:
    return f"candles_missing: none of {one.looked_at} has closed" if one.looked_at else "candles_missing"
