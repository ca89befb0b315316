"""How one value becomes text on the wire, and back. Strict both ways: a value that does not fit raises."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from quantum_core.kernels import HUGE, TINY

if TYPE_CHECKING:
    import polars as pl

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class CodecError(ValueError):
    """A value does not fit its wire format; the text says what was seen and what is accepted."""


@dataclass(frozen=True)
class Codec:
    """One wire format.

    Attributes
    ----------
    name
        As printed in the key reference, e.g. ``.8f``.
    kind
        Type of the decoded value; a list is one of text.
    encode, decode
        Value to text and text to value; both raise :class:`CodecError`.
    reread
        What ``decode`` gives for a text that ``encode`` has just written, without looking at it again.
    low, high
        Accepted range, inclusive; ``None`` where there is none.
    """

    name: str
    kind: type
    encode: Callable[[Any], str]
    decode: Callable[[str], Any]
    reread: Callable[[str], Any]
    low: float | None = None
    high: float | None = None

    @property
    def dtype(self) -> type[pl.DataType] | pl.DataType:
        """Polars type of the decoded column."""
        return _column_type(self.kind)


@cache
def _column_type(kind: type) -> type[pl.DataType] | pl.DataType:
    import polars as pl  # a quarter of a second, which a command that only reads hashes does not pay

    types: dict[type, type[pl.DataType] | pl.DataType] = {
        float: pl.Float64,
        int: pl.Int64,
        str: pl.String,
        bool: pl.Boolean,
        list: pl.List(pl.String),
        datetime: pl.Datetime("us", "UTC"),
    }
    return types[kind]


def _finite(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, str) and not _NUMBER.fullmatch(value):  # float() also takes 1_000 and digits of other scripts
        msg = f"{value!r} is not a number"
        raise CodecError(msg)
    try:
        number = float(value)
    except (TypeError, ValueError):
        msg = f"{value!r} is not a number"
        raise CodecError(msg) from None
    if not math.isfinite(number):
        msg = f"{value!r} is not finite"
        raise CodecError(msg)
    return number


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        msg = f"{value!r} is not a whole number"
        raise CodecError(msg) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        msg = f"{value!r} is not text"
        raise CodecError(msg)
    return value


def _shortest(value: Any) -> str:
    return repr(_finite(value))


def _iso(value: Any) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        msg = f"{value!r} is not a time with a zone"
        raise CodecError(msg)
    return value.astimezone(UTC).isoformat()


def _from_iso(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        msg = f"{text!r} is not an ISO 8601 time"
        raise CodecError(msg) from None
    if moment.tzinfo is None:  # older publishers wrote UTC without saying so
        moment = moment.replace(tzinfo=UTC)
    return moment


def fixed(digits: int) -> Codec:
    """Build the codec of a finite float with a fixed number of decimals.

    Parameters
    ----------
    digits
        Decimals after the point.
    """

    def encode(value: Any) -> str:
        return f"{_finite(value):.{digits}f}"

    return Codec(f".{digits}f", float, encode, _finite, float)


def within(codec: Codec, low: float | None = None, high: float | None = None) -> Codec:
    """Narrow a number's codec to a range, both ways: what no kernel accepts must not pass the border.

    Parameters
    ----------
    codec
        A codec of numbers.
    low, high
        Inclusive bounds; ``None`` for none.
    """

    def check(number: Any) -> Any:
        if (low is not None and number < low) or (high is not None and number > high):
            msg = f"{number!r} is outside [{'' if low is None else low}, {'' if high is None else high}]"
            raise CodecError(msg)
        return number

    return Codec(
        codec.name,
        codec.kind,
        lambda value: codec.encode(check(float(_finite(value)) if codec.kind is float else _integer(value))),
        lambda text: check(codec.decode(text)),
        codec.reread,
        low,
        high,
    )


def optional(codec: Codec) -> Codec:
    """Let the empty string stand for "none" in another codec."""

    def encode(value: Any) -> str:
        return "" if value is None else codec.encode(value)

    def decode(text: str) -> Any:
        return None if text == "" else codec.decode(text)

    def reread(text: str) -> Any:
        return None if text == "" else codec.reread(text)

    return Codec(f"{codec.name} or empty", codec.kind, encode, decode, reread, codec.low, codec.high)


def choice(*accepted: str) -> Codec:
    """Build the codec of a closed set of words."""

    def check(value: Any) -> str:
        if value not in accepted:
            msg = f"{value!r} is not one of {', '.join(accepted)}"
            raise CodecError(msg)
        return str(value)

    return Codec("|".join(accepted), str, check, check, str)


def _flag_in(text: str) -> bool:
    if text not in ("0", "1"):
        msg = f"{text!r} is not 0 or 1"
        raise CodecError(msg)
    return text == "1"


def _codes_out(value: Any) -> str:
    return ",".join(_text(code) for code in value)


def _codes_in(text: str) -> list[str]:
    return text.split(",") if text else []


INT64_MAX = 2**63 - 1

FLOAT = Codec("float (shortest)", float, _shortest, _finite, float)
INTEGER = within(Codec("int", int, lambda value: str(_integer(value)), _integer, int), -INT64_MAX, INT64_MAX)
COUNT = within(INTEGER, 0, INT64_MAX)
POSITIVE = within(FLOAT, TINY, HUGE)
SIZE = within(FLOAT, 0, HUGE)
AMOUNT = within(FLOAT, -HUGE, HUGE)
NOT_NEGATIVE = within(FLOAT, 0, 1e18)
SHARE = within(FLOAT, 0, 1)
TEXT = Codec("text", str, _text, _text, str)
FLAG = Codec("0/1", bool, lambda value: "1" if value else "0", _flag_in, _flag_in)
CODES = Codec("comma list", list, _codes_out, _codes_in, _codes_in)
TIME = Codec("ISO 8601 +00:00", datetime, _iso, _from_iso, datetime.fromisoformat)
EPOCH = within(Codec("epoch-s", int, lambda value: str(_integer(value)), _integer, int), 0, 2**40)


def _entry_ids(value: Any) -> str:
    if not _ENTRY_IDS.fullmatch(_text(value)):
        msg = f"{value!r} is not a list of stream entry ids"
        raise CodecError(msg)
    return str(value)


_ENTRY_IDS = re.compile(r"\d{1,18}-\d{1,18}(\|\d{1,18}-\d{1,18})*", re.ASCII)
ENTRY_IDS = Codec("ms-seq|ms-seq", str, _entry_ids, _entry_ids, str)
