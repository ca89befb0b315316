"""What other programs write: efficiency hashes, attribution, base targets, executions. Read as text, trusted with nothing.

Positions and candles have readers of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from quantum_core.contracts.legs import underlying
from quantum_core.contracts.reading import Reading, State, is_plain
from quantum_core.contracts.tables import TRACKED_TTL_SEC
from quantum_core.kernels.capital.efficiency_hint import (
    CLOCK_AHEAD_SEC,
    CLOCK_FIELDS,
    EfficiencyHint,
    Unreadable,
    epoch_sec,
    parse_efficiency,
)
from quantum_core.kernels.epochs import SEC_MIN
from resources.store.redis_store import RedisStore, UnreadableKeyError, texts

INPUT_STALE_SEC = 300  # docs/spec.md#6-efficiency-and-targets: attribution and base targets older than this are flagged
EXECUTIONS_READ_MAX = 1000  # entries per stream and evaluation; the rest follows in the next one
SIGNED = ("performance_factor",)  # writers give -1 to 1, and losing is a score, not a fault; the kernel clips it to [0, 1]
TRADE_ID_FIELDS = ("trade_id", "tradeId", "exec_id", "execId", "execution_id", "fill_id", "fillId")
NO_ID = (  # in small letters: what stands where a writer has no id
    *("", "-1", "0x0", "none", "null", "nil", "nan", "nat", "<na>", "n/a", "na", "undefined", "unknown", "false", "true"),
    *("[]", "{}", "()", "[object object]"),
)
NO_TIME = ("", "none", "null", "nil", "nat", "<na>", "undefined")
_ZEROS = re.compile(r"[-.0]*")  # 0, 0.0, -, the UUID of nought
_ROUNDED = re.compile(r"-?\d(\.\d+e\+?|e\+)\d+", re.IGNORECASE)  # an id that went through a float: many trades share it
_WHOLE = re.compile(r"(-?\d+)\.0+")
FILL_TIME_FIELDS = (
    *("trade_time", "tradeTime", "exec_time", "execTime", "execution_time", "transact_time", "transactTime", "fill_time"),
    *("filled_at", "executed_at", "timestamp", "ts", "ts_utc", "ts_epoch", "time"),
)
EXACT_BELOW = 2.0**53  # a larger number of JSON, read as a float, is rounded
WITH_PROFIT, WITHOUT_PROFIT = "=", "~"  # before the id of a trade: a report without profit may come first
TRADE_ID_MAX = 100  # characters; a longer one, or one that cannot be written, is replaced by its digest
FILLS_KEPT_MAX = 1000  # trades remembered per symbol
PNL_FIELDS = ("pnl_usd", "realized_pnl", "pnl")  # first parseable wins


@dataclass(frozen=True, slots=True)
class Scored:
    """One number with its confidence, as another program wrote it.

    Attributes
    ----------
    status
        ``ok``, ``stale`` (both with numbers), ``missing`` or ``error`` (without).
    value, confidence
        NaN unless there are numbers.
    source
        The writer's own ``source`` field, e.g. ``example``; empty when it has none.
    epoch
        The writer's clock, epoch s; ``None`` without numbers.
    """

    status: str
    value: float = math.nan
    confidence: float = math.nan
    mode: str = ""
    source: str = ""
    epoch: float | None = None

    def row(self) -> dict[str, Any]:
        """Lay it out as columns, for the recorder; ``dataclasses.asdict`` takes ten times as long, looking for nested values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def cap(self) -> float:
        """The target that caps a position; NaN unless it is in force (mode enforce) and fresh."""
        return self.value if self.status == "ok" and self.mode.strip().lower() == "enforce" else math.nan


@dataclass(frozen=True, slots=True)
class Execution:
    """One fill.

    Attributes
    ----------
    entry_id
        Its stream entry.
    pnl_usd
        Profit, USD.
    trade
        Identity of the trade among those of its symbol, after WITH_PROFIT or WITHOUT_PROFIT; empty when its writer gives no id.
    at
        When it was traded, by its own time, and never after its entry was written, nor after now, epoch s; ``None`` when that
        cannot be read.
    """

    entry_id: tuple[int, int]
    pnl_usd: float
    trade: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Fills:
    """What one execution stream held: fills by symbol, oldest first, and the last entry read, whosever it was."""

    by_symbol: Mapping[str, Sequence[Execution]]
    read_to: tuple[int, int]


def read_texts(store: RedisStore, key: str, symbols: Sequence[str]) -> list[Mapping[str, str] | Unreadable | None]:
    """Read one foreign hash per symbol as text: ``None`` when missing, ``UNREADABLE`` when the read failed."""
    return [_text(reading) for reading in store.read_raw(key, symbols)]


def read_efficiency(store: RedisStore, symbols: Sequence[str]) -> EfficiencyHint:
    """Read the efficiency hashes of many symbols, whoever wrote them."""
    return parse_efficiency(read_texts(store, "capital_efficiency", symbols))


def read_scored(
    store: RedisStore, key: str, value_field: str, symbols: Sequence[str], now: datetime | None = None
) -> list[Scored]:
    """Read attribution or base targets: a value, its confidence and its age, per symbol.

    Parameters
    ----------
    key
        ``attribution`` or ``base_target``.
    value_field
        ``performance_factor`` or ``target_usd``.
    now
        What their age is measured from; the store's clock unless a decision has a moment of its own.
    """
    at = (now or store.clock()).timestamp()
    return [_scored(fields, value_field, at) for fields in read_texts(store, key, symbols)]


def read_executions(store: RedisStore, after: Mapping[str, tuple[int, int]]) -> dict[str, Fills]:
    """Read the fills that came after the given entry ids.

    Parameters
    ----------
    after
        Stream key name to the last entry already folded in.

    Returns
    -------
    dict
        Stream key name to what it held. Entries without symbol or parseable profit are left out, but counted as read.

    Raises
    ------
    UnreadableKeyError
        Something else than a stream stands under a key.
    """
    commands = [
        ("XRANGE", store.keys.of(name), f"({milliseconds}-{sequence}", "+", "COUNT", EXECUTIONS_READ_MAX)
        for name, (milliseconds, sequence) in after.items()
    ]
    now = store.clock().timestamp()  # an entry may have an id of the future
    fills_by_stream: dict[str, Fills] = {}
    for name, reply in zip(after, store.run("reading executions", commands), strict=True):
        if isinstance(reply, Exception):
            raise UnreadableKeyError(store.keys.of(name), "a stream of executions", reply)
        by_symbol: dict[str, list[Execution]] = {}
        fills_by_stream[name] = Fills(by_symbol, parse_entry_id(reply[-1][0].decode()) if reply else after[name])
        for raw_id, raw_fields in reply:
            fields = _payload(raw_fields)
            pnl = next((number for field in PNL_FIELDS if (number := number_or_none(fields.get(field))) is not None), None)
            if pnl is not None and fields.get("symbol"):
                entry_id = parse_entry_id(raw_id.decode())
                fill = Execution(entry_id, pnl, _trade(fields, pnl), _traded_at(fields, min(entry_id[0] / 1000, now)))
                by_symbol.setdefault(underlying(str(fields["symbol"])), []).append(fill)
    return fills_by_stream


def fills_unreadable(store: RedisStore, symbols: Sequence[str]) -> dict[str, str]:
    """Name the symbols under whose key of counted fills something else stands, each with why."""
    keys = [store.keys.of("efficiency_fills", symbol) for symbol in symbols]
    kinds = store.run("looking at counted fills", [("TYPE", key) for key in keys])
    wrong = (
        (symbol, key, kind) for symbol, key, kind in zip(symbols, keys, kinds, strict=True) if kind not in (b"none", b"zset")
    )
    return {symbol: f"{key}: {kind if isinstance(kind, Exception) else f'is a {kind.decode()}'}" for symbol, key, kind in wrong}


def fills_counted(store: RedisStore, trades: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Name those of these trades, by symbol, that were counted before; see :func:`fills_unreadable`."""
    asked = {symbol: names for symbol, names in trades.items() if names}
    commands = [("ZMSCORE", store.keys.of("efficiency_fills", symbol), *names) for symbol, names in asked.items()]
    replies = store.run("looking for fills that were counted", commands) if commands else []
    return {
        symbol: frozenset(name for name, score in zip(names, reply, strict=True) if score is not None)
        for (symbol, names), reply in zip(asked.items(), replies, strict=True)
        if not isinstance(reply, Exception)
    }


def keep_fills(store: RedisStore, trades: Mapping[str, Sequence[str]]) -> None:
    """Remember trades as counted, the newest FILLS_KEPT_MAX of each symbol."""
    now = repr(store.clock().timestamp())
    commands: list[tuple[Any, ...]] = []
    for symbol, names in trades.items():
        if names:
            key = store.keys.of("efficiency_fills", symbol)
            commands.append(("ZADD", key, *(part for name in names for part in (now, name))))
            commands += [("ZREMRANGEBYRANK", key, 0, -FILLS_KEPT_MAX - 1), ("EXPIRE", key, TRACKED_TTL_SEC)]
    if commands:
        store.run("keeping which fills were counted", commands)


def _trade(fields: Mapping[str, Any], pnl: float) -> str:
    trade = next((text for name in TRADE_ID_FIELDS if (text := _id(fields.get(name)))), "")
    if len(trade) > TRADE_ID_MAX or not trade.isprintable():
        trade = hashlib.blake2s(trade.encode(errors="replace")).hexdigest()
    return f"{WITHOUT_PROFIT if pnl == 0 else WITH_PROFIT}{trade}" if trade else ""


def _id(value: Any) -> str:
    """Give the id of a trade as text; empty where it is none, or shared by many trades."""
    text = str(value).strip(" \t\r\n'\"")
    if whole := _WHOLE.fullmatch(text):
        text = whole[1] if abs(float(text)) < EXACT_BELOW else ""
    return "" if text.lower() in NO_ID or _ZEROS.fullmatch(text) or _ROUNDED.fullmatch(text) else text


def _traded_at(fields: Mapping[str, Any], written: float) -> float | None:
    name = next((name for name in FILL_TIME_FIELDS if str(fields.get(name, "")).strip().lower() not in NO_TIME), None)
    if name is None:
        return written
    try:
        at = epoch_sec(str(fields[name]))
    except (ValueError, OverflowError):
        return None
    return min(at, written) if at >= SEC_MIN else None


def parse_entry_id(text: str) -> tuple[int, int]:
    """Split a stream entry id into milliseconds and sequence."""
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence or 0)


def number_or_none(value: Any) -> float | None:
    """Read a finite number out of text or bytes, else ``None``; no digit groups, no digits of other scripts."""
    if isinstance(value, bool) or (isinstance(value, str | bytes) and not is_plain(value)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def epoch_of(fields: Mapping[str, str]) -> float | None:
    """Read the writer's clock (``ts``, ``timestamp`` or ``ts_utc``; number or ISO 8601), in epoch seconds."""
    for name in CLOCK_FIELDS:
        if name in fields:
            try:
                epoch = epoch_sec(fields[name])
            except ValueError:
                return None
            return epoch if math.isfinite(epoch) else None
    return None


def _text(reading: Reading[dict[bytes, bytes]]) -> Mapping[str, str] | Unreadable | None:
    if reading.state is State.ABSENT:
        return None
    if reading.value is None:
        return Unreadable.UNREADABLE
    try:
        return {name.decode(): value.decode() for name, value in reading.value.items()}
    except UnicodeDecodeError:
        return Unreadable.UNREADABLE


def _scored(fields: Mapping[str, str] | Unreadable | None, value_field: str, now: float) -> Scored:
    if fields is None:
        return Scored("missing")
    if isinstance(fields, Unreadable):
        return Scored("error")
    value, confidence, ts = number_or_none(fields.get(value_field)), number_or_none(fields.get("confidence")), epoch_of(fields)
    if (
        value is None
        or (value < 0 and value_field not in SIGNED)
        or confidence is None
        or ts is None
        or ts - now > CLOCK_AHEAD_SEC
    ):
        return Scored("error")
    status = "stale" if now - ts > INPUT_STALE_SEC else "ok"
    return Scored(status, value, min(max(confidence, 0.0), 1.0), fields.get("mode", ""), fields.get("source", ""), ts)


def json_of(text: str | bytes) -> Any:
    """Decode JSON with NaN and Infinity in it: Python writes them into fields, some of which nobody needs."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _payload(raw_fields: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {**texts(raw_fields)}
    if "payload" in fields:
        try:
            inner = json_of(fields["payload"])
        except (ValueError, RecursionError):
            return fields
        if isinstance(inner, dict):
            return {**fields, **inner}
    return fields
