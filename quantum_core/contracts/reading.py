"""The three states of a read: present, absent, failed; and the size limits of what is read from Redis.

A failed read must never look like "nothing there": that is how a dead feed once passed for a flat book. Frames carry the
same three states in the columns ``state`` and ``why``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

VALUE_BYTES_MAX = 8_000_000  # one value, hash or list; the largest of ours, verdicts of all proofs, is a quarter of that
ENTRY_BYTES_MAX = 65_536  # one stream entry of others
LABEL_CHARS_MAX = 32  # what a writer says of itself, and is repeated


def printable(text: object) -> str:
    """Give text as one line a terminal and a log can be trusted with: no escapes, no line breaks, no reversed writing."""
    line = str(text)
    return line if line.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in line)


def is_plain(text: str | bytes) -> bool:
    """Whether a number is written as every language writes one: no digit groups (1_000), no digits of other scripts."""
    return "_" not in str(text) and text.isascii()


class State(enum.StrEnum):
    """What is known of one symbol's value."""

    PRESENT = "present"  # read, complete and valid
    ABSENT = "absent"  # read, and there is nothing due (no position, FLAT): not an error
    FAILED = "failed"  # unreadable, invalid, stale or incomplete: an error with a name


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """One symbol's value, or the named reason why there is none.

    Attributes
    ----------
    symbol
        The symbol it was read for.
    state
        See :class:`State`.
    value
        The value when present, else ``None``.
    reason
        Empty when present; else a short machine-readable code, optionally followed by ``: detail``.
    """

    symbol: str
    state: State
    value: T | None = None
    reason: str = ""

    @classmethod
    def present(cls, symbol: str, value: T) -> Reading[T]:
        """Wrap a value that was read whole and is valid."""
        return cls(symbol, State.PRESENT, value)

    @classmethod
    def absent(cls, symbol: str, reason: str) -> Reading[T]:
        """Say that the source answered and holds nothing for the symbol."""
        return cls(symbol, State.ABSENT, None, reason)

    @classmethod
    def failed(cls, symbol: str, reason: str) -> Reading[T]:
        """Say that nothing is known, and why."""
        return cls(symbol, State.FAILED, None, reason)
