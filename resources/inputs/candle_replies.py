"""Replies that were parsed before: the next one holds mostly the same candles, and only the new ones are parsed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from resources.inputs.candle_columns import SEPARATOR, Columns, columns_of, decoded_members
from resources.inputs.candle_series import Candles


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """What a reply was parsed to, so that the next one, mostly the same candles, need not be parsed whole.

    Only replies without any malformed or unclosed member are kept, as they were read: any member that has changed since is
    noticed, because all of them are compared.
    """

    key: bytes
    text: bytes
    scores: list[bytes]
    columns: Columns
    window: int
    candles: Candles
    latest_ms: int
    until_ms: float  # when the oldest candle that runs by our clock has closed: then there is one more

    @classmethod
    def of(
        cls, reply: Any, columns: Columns, window: int, candles: Candles, *, latest_ms: int, until_ms: float, timed: bool
    ) -> ParsedReply:
        """Remember a reply and what it was parsed to; ``timed`` when its scores were not needed."""
        return cls(reply[0], reply[2], [] if timed else _scores(reply), columns, window, candles, latest_ms, until_ms)

    @property
    def timed(self) -> bool:
        """Whether every member states its own time, so that scores need not be asked for."""
        return not self.scores

    def is_of(self, reply: Any, window: int, now_ms: float) -> bool:
        """Whether a reply holds the same, and no candle has closed since."""
        same = window == self.window and reply[0] == self.key and reply[2] == self.text and _scores(reply) == self.scores
        return same and now_ms < self.until_ms

    def goes_on(self, reply: Any, interval_ms: int) -> Columns | None:
        """Give the columns of a reply that continues this one; ``None`` when it must be parsed whole."""
        key, text, scores = reply[0], reply[2], _scores(reply)
        if key != self.key or self.columns.rank is not None:
            return None
        if text == self.text and scores == self.scores:
            return self.columns
        begin = self.text.find(text[: text.find(SEPARATOR) + len(SEPARATOR)])
        overlap, appended = self.text[begin:], text[len(self.text) - begin :]
        dropped = self.text.count(SEPARATOR, 0, begin)
        overlap_count = len(self.columns.close) - dropped
        new = int(reply[3]) - overlap_count
        after_a_separator = begin == 0 or self.text.endswith(SEPARATOR, 0, begin)
        if begin < 0 or new < 1 or not after_a_separator or not text.startswith(overlap) or not appended.startswith(SEPARATOR):
            return None
        tail = appended[len(SEPARATOR) :]
        if self.scores[dropped:] != scores[:overlap_count] or tail.count(SEPARATOR) != new - 1:
            return None
        added, malformed = columns_of(decoded_members(key.decode(), tail, new), b",".join(scores[overlap_count:]), interval_ms)
        if malformed or len(added.close) != new or added.labels != self.columns.labels or len(added.labels) > 1:
            return None  # a label of a member that has left must not stay behind
        return self.columns.take(slice(dropped, None)).followed_by(added)


def _scores(reply: Any) -> list[bytes]:
    return reply[4].split(b",") if reply[4] else []


def joined(reply: Any) -> Any:
    """Join the members in a reply of the script to one text."""
    if isinstance(reply, list) and len(reply) > 1:
        reply[2] = SEPARATOR.join(chain.from_iterable(reply[2]))
    return reply
