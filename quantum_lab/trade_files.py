"""Trades of a desk from files: CSV by the names of columns, and the exports of freqtrade.

Here belong the layouts. What has no place in the candles is for :mod:`quantum_lab.entries` to say.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from quantum_core.display import number_of
from quantum_lab.entries import NAMED_MAX, TRADES

SPELLINGS: Mapping[str, tuple[str, ...]] = {  # letters and digits only, in the order of preference
    "symbol": ("symbol", "pair", "ticker", "market"),
    "side": ("side", "direction", "positionside"),
    "entry_ms": ("entrytime", "opentime", "opendate", "openedat", "entrydate", "opentimestamp", "time"),
    "entry_price": ("entryprice", "openrate", "openprice", "entry", "price"),
    "qty": ("qty", "quantity", "amount", "size"),
    "exit_ms": ("exittime", "closetime", "closedate", "closedat", "exitdate", "closetimestamp"),
    "exit_price": ("exitprice", "closerate", "closeprice", "exit"),
}
SIZE_MAX = 1e15  # base units; what is larger is a mistake, and its profit no number
NEEDED = ("symbol", "side", "entry_ms", "entry_price")
LONG_WORDS, SHORT_WORDS = ("long", "buy", "l", "b"), ("short", "sell", "s")
EPOCH_MS_MAX = 253_402_300_799_999  # the end of the year 9999; what is later is no time
SECONDS_BELOW, MICROSECONDS_FROM = 1e11, 1e14  # an epoch number between them is in ms
SECONDS_MIN = 3e8  # of 1979; a smaller number is a date like 20250806, or none
SEPARATORS = ",;\t"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip and zstd
UNREADABLE = (  # a zip may be cut, damaged, encrypted or packed in a way that Python does not know
    *(OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile),
    *(pl.exceptions.PolarsError, orjson.JSONDecodeError, UnicodeDecodeError),
)


class TradeFileError(ValueError):
    """A file of trades cannot be used; the text says what to do."""


@dataclass(frozen=True, eq=False)
class TradeFile:
    """Trades as read.

    Attributes
    ----------
    trades
        Columns of TRADES.
    malformed
        Rows left out.
    named
        The first of them, by row and reason.
    remarks
        What else is to be known of them.
    """

    trades: pl.DataFrame
    malformed: int = 0
    named: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_trades(path: Path) -> TradeFile:
    """Read the trades of a desk.

    Parameters
    ----------
    path
        CSV with a header (symbol, side, entry time and price; size and exit where known; names as in SPELLINGS), times epoch s,
        ms or us, or ISO 8601 (UTC where no zone is given); or a backtest that freqtrade has exported, JSON or zip.

    Raises
    ------
    TradeFileError
        It cannot be read, lacks a column, or holds no usable trade.
    """
    remarks: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            rows = _freqtrade(_json_in_zip(path), path, remarks)
        elif path.read_bytes()[:64].lstrip()[:1] in (b"{", b"["):
            rows = _freqtrade(path.read_bytes(), path, remarks)
        else:
            rows = _csv(path)
    except UNREADABLE as error:
        message = f"{path} cannot be read as trades ({str(error).partition(chr(10))[0]}): give CSV or an export of freqtrade"
        raise TradeFileError(message) from error
    return _judged(path, rows, remarks)


def _csv(path: Path) -> list[dict[str, Any]]:
    frame = pl.read_csv(path, infer_schema=False, separator=_separator(path))
    keys: dict[str, str] = {}
    for name in frame.columns:
        key = re.sub("[^a-z0-9]", "", re.sub(r"_duplicated_\d+$", "", name.lower()))  # as Polars names the second of a name
        if key in keys and any(key in names for names in SPELLINGS.values()):
            message = f"{path} names the column {keys[key]} more than once: leave one of them out"
            raise TradeFileError(message)
        keys[key] = name
    at = {column: keys[one] for column, names in SPELLINGS.items() for one in reversed(names) if one in keys}
    if missing := [column for column in NEEDED if column not in at]:
        lacks = ", ".join(column.replace("_ms", " time").replace("_", " ") for column in missing)
        found = ", ".join(frame.columns)
        message = f"{path} lacks the columns {lacks}: known names are {_names(missing)} (found {found})"
        raise TradeFileError(message)
    return frame.select(pl.col(name).alias(column) for column, name in at.items()).to_dicts()


def _separator(path: Path) -> str:
    """Give what stands between two names of the header, most often."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(UTF_16):
        message = f"{path} is UTF-16: save it as UTF-8"
        raise TradeFileError(message)
    return "," if head.startswith(PACKED) else max(SEPARATORS, key=head.partition(b"\n")[0].decode(errors="replace").count)


def _names(columns: Iterable[str]) -> str:
    return "; ".join(" ".join(SPELLINGS[column]) for column in columns)


def _json_in_zip(path: Path) -> bytes:
    """Give the result among the members of an export; beside it are the configuration and the strategy's parameters."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json") and b'"trades"' in (content := archive.read(name)):
                return content
    message = f"{path} holds no JSON with trades: give the zip that freqtrade has exported"
    raise TradeFileError(message)


def _freqtrade(content: bytes, path: Path, remarks: list[str]) -> list[dict[str, Any]]:
    """Take the trades of all strategies out of freqtrade's result."""
    body = orjson.loads(content)
    strategies = body.get("strategy", {}) if isinstance(body, dict) else {}
    by_name = {
        name: one["trades"]
        for name, one in (strategies.items() if isinstance(strategies, dict) else ())
        if isinstance(one, dict) and isinstance(one.get("trades"), list)
    }
    if len(by_name) > 1:
        remarks.append(f"{path} has trades of {', '.join(f'{name} {len(one)}' for name, one in by_name.items())}: all are taken")
    lists: list[Any] = list(by_name.values())
    if not lists:
        lists = [body if isinstance(body, list) else body.get("trades")]
    trades = [trade for one in lists if isinstance(one, list) for trade in one if isinstance(trade, dict)]
    if not trades:
        message = f"{path} has no trades: give the result that freqtrade writes with --export trades, not what lies beside it"
        raise TradeFileError(message)
    return [
        {
            "symbol": str(trade.get("pair", "")),
            "side": "short" if trade.get("is_short") else "long",
            "entry_ms": trade.get("open_timestamp") or trade.get("open_date"),
            "entry_price": trade.get("open_rate"),
            "qty": trade.get("amount"),
            "exit_ms": trade.get("close_timestamp") or trade.get("close_date"),
            "exit_price": trade.get("close_rate"),
        }
        for trade in trades
    ]


def _judged(path: Path, rows: list[dict[str, Any]], remarks: list[str]) -> TradeFile:
    good: list[dict[str, Any]] = []
    named: list[str] = []
    malformed = 0
    for number, row in enumerate(rows, start=1):
        try:
            good.append(_trade(row))
        except ValueError as error:
            malformed += 1
            named += [f"{path} trade {number}: {error}"] if len(named) < NAMED_MAX else []
    if not good:
        message = f"{path} holds no usable trade" + (f": {named[0]}" if named else "")
        raise TradeFileError(message)
    trades = pl.DataFrame(good, schema=TRADES, orient="row").unique(maintain_order=True)
    if len(trades) < len(good):
        remarks.append(f"{path}: {number_of(len(good) - len(trades), 'trade')} there twice, taken once")
    if halves := sum(_given(row, "exit_ms") != _given(row, "exit_price") for row in rows):
        remarks.append(f"{path}: {number_of(halves, 'trade')} with the time or the price of an exit only: its exit is unknown")
    return TradeFile(trades, malformed, named, remarks)


def _given(row: Mapping[str, Any], name: str) -> bool:
    return row.get(name) not in (None, "")


def _trade(row: Mapping[str, Any]) -> dict[str, Any]:
    symbol = re.sub(r":.*|[^A-Za-z0-9]", "", str(row["symbol"] or "")).upper()  # BTC/USDT:USDT is the future of BTC/USDT
    word = str(row["side"]).strip().lower()
    if word not in (*LONG_WORDS, *SHORT_WORDS):
        message = f"side {row['side']!r} is neither long nor short"
        raise ValueError(message)
    if not symbol:
        message = "no symbol"
        raise ValueError(message)
    closed = _given(row, "exit_ms") and _given(row, "exit_price")
    entry_ms, exit_ms = _epoch_ms(row["entry_ms"]), _epoch_ms(row["exit_ms"]) if closed else None
    if exit_ms is not None and exit_ms < entry_ms:
        message = f"exit {row['exit_ms']} is before the entry {row['entry_ms']}"
        raise ValueError(message)
    return {
        "symbol": symbol,
        "side": "LONG" if word in LONG_WORDS else "SHORT",
        "entry_ms": entry_ms,
        "entry_price": _positive("entry price", row["entry_price"]),
        "qty": _size(row.get("qty")),
        "exit_ms": exit_ms,
        "exit_price": _positive("exit price", row["exit_price"]) if closed else None,
    }


def _size(text: Any) -> float:
    """Understand a size; its sign says nothing beside the side, and without one it is 1."""
    size = 1.0 if text in (None, "") else abs(_number("size", text))
    if not 0 < size <= SIZE_MAX:
        message = f"size {text!r}: accepted are numbers other than 0, at most {SIZE_MAX:g}"
        raise ValueError(message)
    return size


def _number(name: str, value: Any) -> float:
    try:
        number = _plain_float(value)
    except (TypeError, ValueError):
        message = f"{name} {value!r} is no number"
        raise ValueError(message) from None
    if not abs(number) < float("inf"):
        message = f"{name} {value!r} is no number"
        raise ValueError(message)
    return number


def _positive(name: str, value: Any) -> float:
    number = _number(name, value)
    if number <= 0:
        message = f"{name} {number:g} is not positive"
        raise ValueError(message)
    return number


def _plain_float(value: Any) -> float:
    """Understand a number as other programs write it: Python also takes 1_000 and the digits of other scripts."""
    if isinstance(value, str) and (not value.isascii() or "_" in value):
        raise ValueError(value)
    return float(value)


def _epoch_ms(value: Any) -> int:
    try:
        number = _plain_float(value)
    except (TypeError, ValueError):
        try:
            moment = datetime.fromisoformat(str(value).strip())
        except ValueError:
            message = f"time {value!r} is neither epoch nor ISO 8601"
            raise ValueError(message) from None
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    epoch_ms = number * 1000 if number < SECONDS_BELOW else number / 1000 if number >= MICROSECONDS_FROM else number
    if not 1000 * SECONDS_MIN <= epoch_ms <= EPOCH_MS_MAX:
        message = f"time {value!r} is neither epoch nor ISO 8601"
        raise ValueError(message)
    return round(epoch_ms)
