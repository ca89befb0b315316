"""What is new of candles and positions, read so often that it must cost next to nothing.

One round trip brings, for every symbol, the newest members of its candles and the few fields of its position that are not a mark.
Only where those bytes differ from the last time are candles and positions read and judged as the cycle reads them. What was read
last is kept by this process alone: a new process reads everything once. When something is worth a cycle is decided in
:mod:`sensors.events`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from quantum_core.contracts.legs import WORDS, leg_of, underlying
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ContractError
from quantum_core.contracts.tables import CANDLE_KEYS, MARKET_STATE, POSITION
from quantum_core.kernels import CLOCK_SKEW_SEC
from resources.inputs.candles import CandleReader
from resources.inputs.foreign import number_or_none
from resources.inputs.position_parsing import AMOUNT_NAMES
from resources.inputs.position_snapshots import Flat, RawPosition
from resources.inputs.positions import PositionReader
from resources.store.redis_store import RedisStore

NOT_MARKS = ("symbol", "side", *WORDS, *AMOUNT_NAMES, "entry_price")  # fields of a snapshot that make another position of it
TRACKED = ("side", "entry_price", "qty", "held")  # the same of a tracked position
NEWEST_MEMBERS = 2  # the candle that runs, and the one before it
TEXT_BYTES = 256  # looked at of a string, at either end
PROBES = {"zset": 1, "list": 2, "string": 2}  # commands for a key of candles
NOT_HELD = ""  # of a symbol without a position


class Inputs(NamedTuple):
    """What a cycle computes from; ``None`` where it cannot be read.

    Attributes
    ----------
    candle
        When the newest closed candle closed, epoch s.
    position
        Side, entry and size, see :func:`held_as`.
    """

    candle: int | None = None
    position: str | None = None


@dataclass
class _Known:
    """What was last read of one symbol."""

    candle_bytes: Any = None
    candle_key: str = ""  # where the candles are; empty as long as they have to be looked for
    kind: str = "zset"  # type of that key
    position_bytes: Any = None
    inputs: Inputs = field(default_factory=Inputs)


_KNOWN: WeakKeyDictionary[RedisStore, dict[str, _Known]] = WeakKeyDictionary()


def held_as(side: str, entry_price: str, qty: str) -> str:
    """Name a position by what makes it another one, in the texts of its table."""
    return f"{side} {entry_price} {qty}"


def read_inputs(store: RedisStore, symbols: Sequence[str]) -> dict[str, Inputs]:
    """Read the newest candle and the position of every symbol.

    Parameters
    ----------
    store
        Server, key names, settings and clock. What it last read is kept beside it.
    symbols
        Symbols and legs.

    Returns
    -------
    dict
        By symbol. One round trip where nothing has changed since the last call, but for candles in one JSON string.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    every = _KNOWN.setdefault(store, {})
    known = {symbol: every.setdefault(symbol, _Known()) for symbol in symbols}
    replies = iter(
        store.run("looking for news", [probe for symbol in symbols for probe in _probes(store, symbol, known[symbol])])
    )
    now, interval_sec = store.clock().timestamp(), store.settings.candle_interval_sec
    candles, positions = [], []
    for symbol, memory in known.items():
        members = [next(replies) for _ in range(PROBES[memory.kind] if memory.candle_key else 0)]
        fields = [next(replies) for _ in _position_keys(store, symbol)]
        if _may_be_new(memory, members, now, interval_sec):
            candles.append(symbol)
        if memory.position_bytes != fields:
            memory.position_bytes = fields
            positions.append(symbol)
    for candle in CandleReader(store).read(candles, window=1) if candles else ():
        memory = known[candle.symbol]
        key = candle.value.key if candle.value is not None else memory.candle_key if any(memory.candle_bytes or ()) else ""
        if key != memory.candle_key:
            text = key == store.keys.of("candles_json", store.settings.candles_of(candle.symbol))
            memory.candle_key, memory.kind, memory.candle_bytes = key, "string" if text else "zset", None
        newest = int(candle.value.newest_epoch_sec) if candle.value is not None else None
        memory.inputs = memory.inputs._replace(candle=newest)
    for snapshot in PositionReader(store).snapshots(positions) if positions else ():
        known[snapshot.symbol].inputs = known[snapshot.symbol].inputs._replace(position=_shown(snapshot))
    return {symbol: memory.inputs for symbol, memory in known.items()}


def read_answered(store: RedisStore, symbols: Sequence[str]) -> dict[str, Inputs]:
    """Read what the published market states and the tracked positions were computed from.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    of = store.keys.of
    states = [("HGET", of(MARKET_STATE.key, symbol), "ts_timestamp") for symbol in symbols]
    tracked = [("HMGET", of(POSITION.key, symbol), *TRACKED) for symbol in symbols]
    replies = store.run("looking for what is known", [*states, *tracked])
    answered = {}
    for symbol, used, row in zip(symbols, replies[: len(symbols)], replies[len(symbols) :], strict=True):
        candle = number_or_none(used.decode(errors="replace")) if isinstance(used, bytes) else None
        position = None
        if not isinstance(row, Exception):
            side, entry, qty, held = ((part or b"").decode(errors="replace") for part in row)
            position = held_as(side, entry, qty) if held == "1" else NOT_HELD
        answered[symbol] = Inputs(int(candle) if candle is not None and math.isfinite(candle) else None, position)
    return answered


class NewsFilter:
    """Which writes to raw data are news to a cycle: a mark that moves or a candle that still runs is none.

    Parameters
    ----------
    store
        Server, key names and symbols.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._symbols: defaultdict[bytes, list[str]] = defaultdict(list)
        self._last: dict[str, Inputs] = {}
        for symbol in store.settings.symbols:
            candles = [store.keys.of(name, store.settings.candles_of(symbol)) for name in CANDLE_KEYS]
            for key in (*_position_keys(store, symbol), *candles):
                self._symbols[key.encode()].append(symbol)

    def is_news(self, keys: Collection[bytes]) -> bool:
        """Return whether the symbols of these keys have other inputs than when they were last asked for; at first they have.

        Raises
        ------
        RedisUnavailableError
            The server is away.
        """
        symbols = list(dict.fromkeys(symbol for key in keys for symbol in self._symbols.get(key, ())))
        if not symbols:
            return False
        found = read_inputs(self._store, symbols)
        before = {symbol: self._last.get(symbol) for symbol in symbols}
        self._last |= found
        return before != found


def _probes(store: RedisStore, symbol: str, known: _Known) -> Iterator[tuple[Any, ...]]:
    """Give the commands that bring a symbol's newest members, by the type of its key, and what its position says."""
    key = known.candle_key
    if known.kind == "zset" and key:
        yield "ZRANGE", key, -NEWEST_MEMBERS, -1
    elif known.kind == "list" and key:  # nobody knows which end of it is the newest
        yield "LRANGE", key, -NEWEST_MEMBERS, -1
        yield "LRANGE", key, 0, NEWEST_MEMBERS - 1
    elif key:
        yield "GETRANGE", key, 0, TEXT_BYTES
        yield "GETRANGE", key, -TEXT_BYTES, -1
    for name in _position_keys(store, symbol):
        yield "HMGET", name, *NOT_MARKS


def _position_keys(store: RedisStore, symbol: str) -> tuple[str, ...]:
    """Name the hashes that show a symbol; a leg may be shown under its own key, or under its symbol's."""
    own = store.keys.of("raw_position", symbol)
    return (own, store.keys.of("raw_position", underlying(symbol))) if leg_of(symbol) else (own,)


def _may_be_new(known: _Known, replies: list[Any], now: float, interval_sec: float) -> bool:
    """Return whether there may be another closed candle: as long as one runs, only its own member changes."""
    before, known.candle_bytes = known.candle_bytes, replies
    if not replies or replies == before:
        return not replies
    if any(isinstance(one, Exception) for one in replies):
        known.kind, known.candle_bytes = "list" if known.kind == "zset" else "zset", None
        return True
    runs = known.inputs.candle is not None and now < known.inputs.candle + interval_sec - CLOCK_SKEW_SEC
    return not runs or known.kind == "string" or before is None or _older(before) != _older(replies)


def _older(replies: list[Any]) -> list[Any]:
    """Leave out the newest member: the last at one end, the first at the other."""
    return [reply[:-1] if row == 0 else reply[1:] for row, reply in enumerate(replies)]


def _shown(snapshot: Reading[RawPosition | Flat]) -> str | None:
    position = snapshot.value
    if isinstance(position, RawPosition):
        try:
            entry, qty = (POSITION.by_name[name].codec.encode(getattr(position, name)) for name in ("entry_price", "qty"))
        except ContractError:  # the cycle says so of it
            return None
        return held_as(position.side, entry, qty)
    return None if snapshot.state is State.FAILED else NOT_HELD
