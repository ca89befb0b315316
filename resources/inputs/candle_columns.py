"""Members of a key, decoded and laid out as columns; members that are no candle are counted.

What one member means is in :mod:`resources.inputs.candle_layouts`; which of the columns' rows count is
:mod:`resources.inputs.candle_selection`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from quantum_core.contracts.reading import printable
from quantum_core.kernels.epochs import MS_MIN, SEC_MAX, SEC_MIN, US_MIN, per_sec_of
from resources.inputs.candle_layouts import (
    OPEN_INTERVALS_MAX,
    FlagError,
    Row,
    check_length,
    epoch_ms,
    label_fields,
    names_of,
    row_of,
    says_closed,
    uniform_arrays,
    unwrapped,
)
from resources.inputs.candle_series import Floats, Times

SHOWN_CHARS = 120  # of a member that is malformed
SEPARATOR = b"\t\t ,"  # white space to JSON; joins the members, so that they are decoded, and compared, at once
NOT_JSON = object()  # stands where a member could not be decoded
MALFORMED = (KeyError, TypeError, IndexError, ValueError, OverflowError)  # what reading one member can raise


class UnreadableError(ValueError):
    """What a key holds cannot be read as candles; the text says why."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Decoded members in the order of the key, before duplicates and order are handled."""

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

    def take(self, rows: npt.NDArray[Any] | slice) -> Columns:
        """Give the rows named by position, mask or slice."""
        return Columns(
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

    def followed_by(self, newer: Columns) -> Columns:
        """Append columns with the same labels."""
        return Columns(
            np.concatenate([self.open_time_ms, newer.open_time_ms]),
            np.concatenate([self.close_time_ms, newer.close_time_ms]),
            np.concatenate([self.high, newer.high]),
            np.concatenate([self.low, newer.low]),
            np.concatenate([self.close, newer.close]),
            np.concatenate([self.volume, newer.volume]),
            self.flagged and newer.flagged,
            self.labels,
        )


def decoded_members(key: str, joined: bytes, count: int) -> list[Any]:
    """Decode all members at once, or one by one when one of them is not JSON; those become ``NOT_JSON``."""
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
        return NOT_JSON


def decoded_array(key: str, text: bytes) -> list[Any]:
    """Decode a string that is a JSON array; raise UnreadableError when it is none."""
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


def all_timed(members: list[Any]) -> bool:
    """Whether every member states its own time, so that scores are not needed."""
    kinds = set(map(type, members))
    if kinds != {dict}:
        return kinds == {list}
    try:
        return all(names_of(fields).timed for fields in set(map(tuple, members)))
    except MALFORMED:
        return False


def columns_of(members: list[Any], scores: bytes, interval_ms: int, *, ranked: bool = False) -> tuple[Columns, int]:
    """Turn decoded members into columns, closed candles only; also count the malformed ones.

    ``ranked`` adds what distinguishes versions of one candle: says closed, time of the version, and score, else place in the key.
    """
    if not ranked:
        try:
            return uniform_columns(members, scores, interval_ms), 0
        except MALFORMED:
            pass  # not all alike: look at each one
    times = score_times(scores, len(members)).tolist()
    rows: list[Row | None] = []
    faults: list[str] = []
    example = ""
    malformed = 0
    labels: set[str] = set()
    for member, score_ms in zip(members, times, strict=True):
        try:
            inner, sources, runs = unwrapped(member)
            row = None if runs else row_of(inner, score_ms, interval_ms)
        except MALFORMED as error:
            malformed += 1
            faults += [str(error)] if isinstance(error, FlagError) else []
            example = example or f"one is {_member_text(member)}"
            rows.append(None)
            continue
        rows.append(row)
        if row is not None:
            labels |= _labels(sources)
    valid = [place for place, row in enumerate(rows) if row is not None]
    table = np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, 8)
    opened, closed, (high, low, close, volume, version, flagged) = table[:, 0], table[:, 1], table[:, 2:].T
    rank = None
    if ranked:
        written = np.array([float(one) for one in scores.split(b",")] if scores else range(len(members)), dtype=np.float64)[valid]
        rank = np.column_stack([flagged, version, -written if not scores and falls(opened) else written])
    return Columns(
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


def _member_text(member: Any) -> str:
    return "no JSON" if member is NOT_JSON else printable(member)[:SHOWN_CHARS]


def uniform_columns(members: list[Any], scores: bytes, interval_ms: int) -> Columns:
    """Read members that are all objects with the same fields, or arrays of one length, of plain numbers; raise when not."""
    first = members[0]
    if type(first) is list:
        table = uniform_arrays(members, interval_ms)
        opened, closed = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        high, low, close, volume = table[:, 2:6].T
        return Columns(opened, closed, high, low, close, volume, flagged=False, labels=frozenset())
    return _uniform_objects(members, first, scores, interval_ms)


def _uniform_objects(members: list[Any], first: Any, scores: bytes, interval_ms: int) -> Columns:
    if type(first) is not dict or len(set(map(tuple, members))) > 1:  # the fields of one are looked for in all
        raise TypeError
    field_names = names_of(tuple(first))
    if field_names.says_running or field_names.state or len(field_names.says_closed) > 1 or label_fields(tuple(first)):
        raise TypeError
    if field_names.interval:
        for length in {member[field_names.interval] for member in members}:
            check_length(length, interval_ms)

    def numbers(name: str) -> Floats:
        return np.array(_plain(members, name), dtype=np.float64)

    prices = numbers(field_names.close)
    count = len(members)
    columns = Columns(
        _plain_times(members, field_names.opened) if field_names.opened else score_times(scores, count),
        _plain_times(members, field_names.closed_at) if field_names.closed_at else np.zeros(count, dtype=np.int64),
        numbers(field_names.high) if field_names.high else prices,
        numbers(field_names.low) if field_names.low else prices,
        prices,
        numbers(field_names.volume) if field_names.volume else np.full(count, np.nan),
        flagged=bool(field_names.says_closed),
        labels=_labels({member["source"] for member in members}) if "source" in first else frozenset(),
    )
    if field_names.opened and not (columns.open_time_ms > 0).all():
        raise ValueError
    if field_names.closed_at and not _belongs(columns.open_time_ms, columns.close_time_ms, interval_ms):
        raise ValueError
    return _without_running(columns, members, field_names.says_closed[0]) if field_names.says_closed else columns


def _without_running(columns: Columns, members: list[Any], flag: str) -> Columns:
    flags = [member[flag] for member in members]
    if flags.count(True) == len(flags):
        return columns
    said = [says_closed(flag, one) for one in flags]
    if None in said:
        raise TypeError
    return columns.take(np.array(said, dtype=np.bool_))


def _belongs(opened_ms: Times, closed_ms: Times, interval_ms: int) -> bool:
    """Whether the close times can be those of the candles, all of whose opening times are known."""
    after = closed_ms - opened_ms
    return bool(opened_ms.all() and ((after >= 0) & (after <= OPEN_INTERVALS_MAX * interval_ms)).all())


def falls(times: npt.NDArray[Any]) -> bool:
    """Whether members are in order of time, newest first."""
    return len(times) > 1 and bool((times > 0).all()) and int(np.sign(np.diff(times)).sum()) < 0


def _labels(sources: Iterable[Any]) -> frozenset[str]:
    return frozenset("" if source is None else str(source).strip().lower() for source in sources)


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


def score_times(scores: bytes, count: int) -> Times:
    """Read the scores of a sorted set as open times; 0 where a score is no plausible time, or there are no scores."""
    if not scores:
        return np.zeros(count, dtype=np.int64)
    epoch = np.array([float(score) for score in scores.split(b",")])
    units = per_sec_of(epoch)
    fits = (epoch >= SEC_MIN * units) & (epoch <= SEC_MAX * units)  # outside it is a rank, not a time
    times = np.zeros(count, dtype=np.int64)
    times[fits] = np.rint(epoch[fits] * (1e3 / units[fits]))
    return times
