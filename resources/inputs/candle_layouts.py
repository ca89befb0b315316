"""The layouts of candles that writers have: one table of what a candle's fields are called and where an array has them.

Here belongs what one decoded member means: its fields, its clock, whether it says that it is closed. Reading keys, order,
repeats and age stay with :mod:`resources.inputs.candles`. A name that looks like a closed-flag and is not in the table is a
fault by name: a running candle must not pass for a closed one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from quantum_core.contracts.labels import may_say_not_live, not_live_by_field
from quantum_core.contracts.reading import is_plain
from quantum_core.kernels.epochs import SEC_MAX, per_sec_of

OPEN_INTERVALS_MAX = 2  # a candle closes at most this many intervals after it opened

# Names are compared as letters only, in lower case: closeTime, close_time and CloseTime are one. Single letters keep their case.
OPENED = (
    *("opentime", "opentimems", "opentimestamp", "openat", "openedat", "start", "starttime", "startat", "starttimestamp"),
    *("begin", "begintime", "beginat", "beginsat", "startedat", "intervalbegin", "intervalstart", "periodstart", "candlestart"),
    *("timeopen", "opents", "tsopen", "startts", "tsstart", "bucket", "t"),
)
EVENT = ("time", "timestamp", "ts", "date", "datetime")  # the opening time only where no name above says it; else the version's
CLOSED_AT = (
    *("closetime", "closetimems", "closetimestamp", "closeat", "stop", "stoptime", "end", "endtime", "endat", "endtimestamp"),
    *("intervalend", "periodend", "candleend", "timeclose", "closets", "tsclose", "endts", "tsend", "T"),
)
CLOSE, HIGH, LOW = ("close", "closeprice", "c"), ("high", "highprice", "h"), ("low", "lowprice", "l")
VOLUME = ("volume", "vol", "basevolume", "volumebase", "basetokenvolume", "v")
INTERVAL = ("interval", "timeframe", "period", "resolution", "i")
SAYS_CLOSED = frozenset(
    (
        *("isclosed", "closed", "x", "w", "confirm", "confirmed", "isconfirmed", "isconfirm", "final", "isfinal", "finalized"),
        *("complete", "iscomplete", "completed", "iscompleted", "finished", "isfinished", "done", "isdone"),
        *("candleclosed", "klineclosed", "barclosed", "isbarclosed", "iscandleclosed", "isklineclosed"),
    )
)
SAYS_RUNNING = frozenset(
    (
        *("isopen", "unclosed", "isunclosed", "running", "isrunning", "partial", "ispartial", "incomplete", "isincomplete"),
        *("unconfirmed", "unfinished", "inprogress", "isinprogress", "forming", "isforming"),
    )
)
_FLAG_LIKE = re.compile(r"closed|final|complet|confirm|finish|done|running|partial|progress|forming|isopen|islast|isclose$")
_NO_FLAG = re.compile(r"(price|volume|vol|qty|quantity|time|at|timestamp|ms|id|count|pnl)$")  # finalPrice is a number
STATE_OF_CANDLE = ("candlestatus", "candlestate", "klinestatus", "klinestate", "barstatus", "barstate")
STATE = ("status", "state", *STATE_OF_CANDLE)
CLOSED_WORDS = frozenset(("closed", "final", "complete", "completed", "confirmed", "done"))
RUNNING_WORDS = frozenset(("open", "running", "partial", "unclosed", "incomplete", "unconfirmed", "forming"))
DIGITS = frozenset(("0", "1", "0.0", "1.0"))
YES = CLOSED_WORDS | {"true", "1", "1.0", "yes", "y", "t", "on"}
NO = RUNNING_WORDS | {"false", "0", "0.0", "no", "n", "f", "off"}
NO_PRICE = frozenset(("", "null", "none", "n/a", "na", "nan", "-", "--"))  # how writers spell that there was no trade
CLOSE_NAMES = frozenset(("close", "c"))  # who has one is no envelope
ENVELOPES = ("k", "data", "kline", "candle", "ohlcv")  # a stream's message around the candle
_LENGTH = re.compile(r"(\d{1,4})\s*(s|sec|m|min|h|hr|hour|d|day|w|week)", re.IGNORECASE)
_UNIT_SEC = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Row(NamedTuple):
    """One candle. Times in epoch ms, 0 where unknown; ``version`` is the event's time, 0 where unknown; prices as written."""

    opened_ms: int
    closed_ms: int
    high: float
    low: float
    close: float
    volume: float
    version: float
    flagged: bool


@dataclass(frozen=True, slots=True)
class Names:
    """What the fields of an object are called; empty where it has none."""

    close: str
    opened: str
    closed_at: str
    high: str
    low: str
    volume: str
    version: str
    interval: str
    says_closed: tuple[str, ...]
    says_running: tuple[str, ...]
    state: tuple[str, ...]

    @property
    def timed(self) -> bool:
        """Whether a candle says its time itself."""
        return bool(self.opened or self.closed_at)


class Places(NamedTuple):
    """Where an array has its fields; -1 where it has none. The opening time is always the first.

    ccxt has open, high, low, close and Coinbase low, high, open, close: high and close stand alike in both, and the low is the
    lesser of the two others.
    """

    volume: int
    closed_at: int = -1
    says_closed: int = -1
    high: int = 2
    close: int = 4
    others: tuple[int, int] = (1, 3)  # the lesser of them is the low


ARRAYS = {  # by length
    5: Places(volume=-1),  # time and prices only (CoinGecko)
    6: Places(volume=5),  # ccxt, Coinbase
    7: Places(volume=5),  # Bybit, Bitget
    8: Places(volume=6),  # Kraken: time, prices, VWAP, volume, count
    9: Places(volume=5, says_closed=8),  # OKX: ... confirm
    11: Places(volume=5, closed_at=6),  # Binance without the last field
    12: Places(volume=5, closed_at=6),  # Binance
}
OF_EIGHT = 8  # three houses have as many
GATE = Places(
    volume=6, says_closed=7, high=3, close=2, others=(5, 4)
)  # time, quote volume, close, high, low, open, volume, closed
MEXC = Places(volume=5, closed_at=6)  # time, prices, volume, closing time, quote volume


class FlagError(ValueError):
    """A member says something of being closed, or of its length, that is not understood; the text names it."""


def unwrapped(member: Any) -> tuple[Any, list[Any], bool]:
    """Take a candle out of a stream's message; also give the labels of both, and whether the message says that the candle runs.

    Raises
    ------
    FlagError
        The message says something of its candle being closed that is not understood.
    """
    labels: list[Any] = []
    runs = False
    for _ in range(3):  # a combined stream wraps twice
        if not isinstance(member, dict):
            break
        labels.append(member.get("source"))
        if label_names := label_fields(tuple(member)):
            labels.append(not_live_by_field({name: str(member[name]) for name in label_names}))
        wrapped = (
            [] if CLOSE_NAMES & member.keys() else [member[one] for one in ENVELOPES if isinstance(member.get(one), dict | list)]
        )
        if not wrapped:
            break
        runs |= _says_running(member)
        member = wrapped[0]
        if isinstance(member, list) and len(member) == 1:
            (member,) = member
    return member, labels, runs


@lru_cache(maxsize=1024)
def label_fields(fields: tuple[Any, ...]) -> tuple[str, ...]:
    """Name the fields beside ``source`` that can say of data that it is not live."""
    return tuple(field for field in fields if may_say_not_live(field))


def _says_running(message: dict[str, Any]) -> bool:
    closed, running, state = _flags_of_message(tuple(message))
    return (
        False in [says_closed(name, message[name]) for name in closed]
        or True in [says_closed(name, message[name]) for name in running]
        or False in [_state(message[name]) for name in state]
    )


@lru_cache(maxsize=1024)
def _flags_of_message(fields: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """Name the fields of a message that say whether its candle is closed, runs, or both in words.

    A single letter may be anything there, and a state without the candle's name is that of the market.
    """
    words = [(field, name) for field in fields if len(name := _plain(field)) > 1]
    return (
        [field for field, name in words if name in SAYS_CLOSED],
        [field for field, name in words if name in SAYS_RUNNING],
        [field for field, name in words if name in STATE_OF_CANDLE],
    )


@lru_cache(maxsize=1024)
def names_of(fields: tuple[str, ...]) -> Names:
    """Find what the fields of an object are called.

    Raises
    ------
    KeyError
        There is no close.
    FlagError
        A name looks like a closed-flag and is none we know.
    """
    field_by_name: dict[str, str] = {}
    for field in fields:
        field_by_name.setdefault(_plain(field), field)

    def first(*accepted: str) -> str:
        return next((field_by_name[name] for name in accepted if name in field_by_name), "")

    close, opened, event = first(*CLOSE), first(*OPENED), first(*EVENT)
    if not close:
        raise KeyError
    unknown_flags = [field for name, field in field_by_name.items() if _looks_like_flag(name)]
    if unknown_flags:
        message = f"{unknown_flags[0]!r} looks like a closed-flag and is not understood"
        raise FlagError(message)
    return Names(
        close=close,
        opened=opened or event,
        closed_at=first(*CLOSED_AT),
        high=first(*HIGH),
        low=first(*LOW),
        volume=first(*VOLUME),
        version=event if opened else "",
        interval=first(*INTERVAL),
        says_closed=tuple(field for field in fields if _plain(field) in SAYS_CLOSED),  # one name in two spellings says two things
        says_running=tuple(field for field in fields if _plain(field) in SAYS_RUNNING),
        state=tuple(field for field in fields if _plain(field) in STATE),
    )


def _plain(field: str) -> str:
    return field if len(field) == 1 else re.sub("[^a-z]", "", field.lower())


def _looks_like_flag(name: str) -> bool:
    known = name in SAYS_CLOSED or name in SAYS_RUNNING or name in CLOSED_AT or name in OPENED
    return not known and bool(_FLAG_LIKE.search(name)) and not _NO_FLAG.search(name)


def says_closed(name: str, value: Any) -> bool | None:
    """Read a closed-flag; ``None`` where the writer leaves it empty.

    Raises
    ------
    FlagError
        It is neither yes nor no.
    """
    if value is True or value is False or value is None:
        return value
    word = value.strip().lower() if isinstance(value, str) else str(int(value)) if value in (0, 1) else ""
    if word in YES:
        return True
    if word in NO:
        return False
    message = f"closed-flag {name}={value!r} is not understood"
    raise FlagError(message)


def _state(value: Any) -> bool | None:
    """Read a state in words; any other than those of a candle may be that of the market, and says nothing."""
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in CLOSED_WORDS else False if word in RUNNING_WORDS else None


def check_length(value: Any, interval_ms: int) -> None:
    """Refuse a candle that says it is of another length; a number without a unit may be minutes or seconds, and says nothing.

    Raises
    ------
    FlagError
        It is.
    """
    found = _LENGTH.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return
    unit = "M" if found[2] == "M" else found[2][0].lower()
    if unit == "M" or int(found[1]) * _UNIT_SEC[unit] * 1000 != interval_ms:
        message = f"candles of {value!r}, want {interval_ms / 1000:g} s"
        raise FlagError(message)


def row_of(member: Any, score_ms: int, interval_ms: int) -> Row | None:
    """Read one member; ``None`` when it is not closed yet.

    Raises
    ------
    FlagError
        It says something of being closed that is not understood.
    KeyError, TypeError, IndexError, ValueError, OverflowError
        It is malformed.
    """
    if isinstance(member, dict):
        return _of_object(member, score_ms, interval_ms)
    if isinstance(member, list):
        return _of_array(member, interval_ms)
    if member is None:
        raise TypeError
    close = price(member)
    return Row(score_ms, 0, close, close, close, math.nan, 0.0, flagged=False)


def _of_object(member: dict[str, Any], score_ms: int, interval_ms: int) -> Row | None:
    field_names = names_of(tuple(member))
    closed_flags = [says_closed(name, member[name]) for name in field_names.says_closed]
    closed_flags += [
        None if (running := says_closed(name, member[name])) is None else not running for name in field_names.says_running
    ]
    closed_flags += [_state(member[name]) for name in field_names.state]
    if False in closed_flags:
        return None
    if field_names.interval:
        check_length(member[field_names.interval], interval_ms)
    opened_ms = one_epoch_ms(member[field_names.opened]) if field_names.opened else score_ms
    closed_at = member[field_names.closed_at] if field_names.closed_at else None
    closed_ms = one_epoch_ms(closed_at) if closed_at is not None else 0
    if closed_ms and not opened_ms:
        opened_ms = closed_ms - interval_ms
    if closed_ms and not 0 <= closed_ms - opened_ms <= OPEN_INTERVALS_MAX * interval_ms:
        raise ValueError
    close = price(member[field_names.close])
    return Row(
        opened_ms,
        closed_ms,
        price(member[field_names.high]) if field_names.high else close,
        price(member[field_names.low]) if field_names.low else close,
        close,
        volume(member[field_names.volume]) if field_names.volume else math.nan,
        _version(member[field_names.version]) if field_names.version else 0.0,
        flagged=True in closed_flags,
    )


def _places(member: list[Any], interval_ms: int) -> Places:
    """Locate the fields of an array: by its length, and of eight by a word at the end, or a closing time before it."""
    if len(member) != OF_EIGHT:
        return ARRAYS[len(member)]
    if isinstance(member[GATE.says_closed], bool) or str(member[GATE.says_closed]).strip().lower() in (YES | NO) - DIGITS:
        return GATE
    try:
        after = one_epoch_ms(member[MEXC.closed_at]) - one_epoch_ms(member[0])
    except ValueError:  # a volume
        return ARRAYS[OF_EIGHT]
    return MEXC if 0 <= after <= OPEN_INTERVALS_MAX * interval_ms else ARRAYS[OF_EIGHT]


def _of_array(member: list[Any], interval_ms: int) -> Row | None:
    places = _places(member, interval_ms)
    flag = says_closed("confirm", member[places.says_closed]) if places.says_closed >= 0 else None
    if flag is False:
        return None
    opened_ms = one_epoch_ms(member[0])
    closed_ms = one_epoch_ms(member[places.closed_at]) if places.closed_at >= 0 else opened_ms + interval_ms
    high, close = price(member[places.high]), price(member[places.close])
    others = [price(member[place]) for place in places.others]
    low = min(others)
    third = others[1]
    if high < low or (third > close and third >= max(others[0], high) and close <= low):  # open, close, high, low
        raise ValueError
    if not 0 <= closed_ms - opened_ms <= OPEN_INTERVALS_MAX * interval_ms:
        raise ValueError
    size = volume(member[places.volume]) if places.volume >= 0 else math.nan
    return Row(opened_ms, closed_ms, high, low, close, size, 0.0, flagged=flag is True)


def price(value: Any) -> float:
    """Read a price as it stands; ``null`` and an empty text are how some writers spell NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, str):
        if value.strip().lower() in NO_PRICE:
            return math.nan
        if not is_plain(value):
            raise ValueError
    return float(value)


def volume(value: Any) -> float:
    """Read a volume; NaN where it is none: nothing but the check for dead markets needs it."""
    try:
        return price(value)
    except (TypeError, ValueError):
        return math.nan


def _version(value: Any) -> float:
    try:
        return float(one_epoch_ms(value))
    except (TypeError, ValueError, OverflowError):
        return 0.0


def one_epoch_ms(value: Any) -> int:
    """Read one time: epoch s, ms, us or ns, or ISO 8601 (UTC where it names no zone)."""
    if isinstance(value, str) and "-" in value[1:] and ":" in value:
        moment = datetime.fromisoformat(value.strip())
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return int(epoch_ms(np.array([price(value)]))[0])


def epoch_ms(epoch: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Turn epoch s, ms, us or ns into ms.

    Raises
    ------
    ValueError
        One of them is no time in any unit.
    """
    if not ((epoch > 0) & (epoch <= SEC_MAX * 1e9)).all():  # NaN is not either
        raise ValueError
    times: npt.NDArray[np.int64] = np.rint(epoch * (1e3 / per_sec_of(epoch))).astype(np.int64)
    return times


def uniform_arrays(members: Sequence[list[Any]], interval_ms: int) -> npt.NDArray[np.float64]:
    """Read arrays of one length and plain numbers: the fields of :class:`Row` without the flag as columns, shape (n, 7).

    Raises
    ------
    KeyError, TypeError, ValueError
        They are not alike, not plain numbers, or one of them is malformed: to be read one by one.
    """
    places = ARRAYS[len(members[0])]
    if (
        len(members[0]) == OF_EIGHT
        or places.says_closed >= 0
        or any({int, float} != set(map(type, one)) | {int, float} for one in members)
    ):
        raise TypeError
    table = np.array(members, dtype=np.float64)
    opened = epoch_ms(table[:, 0]).astype(np.float64)
    closed = epoch_ms(table[:, places.closed_at]) if places.closed_at >= 0 else opened + interval_ms
    high, close, other_prices = table[:, places.high], table[:, places.close], table[:, places.others]
    low, length_ms = other_prices.min(axis=1), closed - opened
    third = other_prices[:, 1]
    other_order = (third > close) & (third >= np.maximum(other_prices[:, 0], high)) & (close <= low)
    if ((high < low) | other_order).any() or not np.isfinite(close).all():
        raise ValueError
    if not ((length_ms >= 0) & (length_ms <= OPEN_INTERVALS_MAX * interval_ms)).all():
        raise ValueError
    size = table[:, places.volume] if places.volume >= 0 else np.full(len(table), np.nan)
    return np.column_stack([opened, closed, high, low, close, size, np.zeros(len(table))])
