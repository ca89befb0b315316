"""Hedge mode: the long and the short side of one symbol are partitions of their own, ``BTCUSDT.LONG`` and ``BTCUSDT.SHORT``.

Here belong the names of legs and which leg the fields of a writer mean. Which symbols are hedged is a setting (HEDGE_SYMBOLS).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

LEGS = ("LONG", "SHORT")
ONE_WAY = "BOTH"  # the whole position of a symbol, in an account that is not hedged
SEPARATOR = "."  # no symbol has one
_SIDES = {"LONG": "LONG", "SHORT": "SHORT", "BOTH": ONE_WAY, "NET": ONE_WAY}
_NUMBERS = {"1": "LONG", "2": "SHORT", "0": ONE_WAY}
WORDS = {  # fields that name the side of a position, as exchanges spell them, and their values in capitals
    "positionSide": _SIDES,
    "position_side": _SIDES,
    "posSide": _SIDES,
    "positionIdx": _NUMBERS,
    "position_idx": _NUMBERS,
}


class LegError(ValueError):
    """Fields that name no leg there is, or two; ``field`` and ``value`` are the first that cannot be used."""

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"{field}={value}")
        self.field, self.value = field, value


def underlying(name: str) -> str:
    """Give the symbol of a leg, and any other name as it is: ``BTCUSDT`` of ``BTCUSDT.LONG``."""
    symbol, separator, leg = name.rpartition(SEPARATOR)
    return symbol if separator and symbol and leg in LEGS else name


def leg_of(name: str) -> str:
    """Give the side of a leg, ``LONG`` or ``SHORT``; empty for the name of a symbol."""
    return name.rpartition(SEPARATOR)[2] if underlying(name) != name else ""


def legs_of(symbol: str) -> tuple[str, ...]:
    """Give the names of both legs of a symbol, or of the symbol of a leg."""
    return tuple(f"{underlying(symbol)}{SEPARATOR}{leg}" for leg in LEGS)


def underlyings(names: Sequence[str]) -> list[str]:
    """Give the symbols of many names, each once, in their order."""
    return list(by_underlying(names))


def by_underlying(names: Iterable[str]) -> dict[str, list[str]]:
    """Give the names of each symbol: its own, or those of its legs."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(underlying(name), []).append(name)
    return found


def with_legs(names: Sequence[str], hedged: Collection[str]) -> tuple[str, ...]:
    """Put both legs of each hedged symbol in its place; a leg that is named stands for itself."""
    return tuple(part for name in names for part in (legs_of(name) if name in hedged else (name,)))


def leg_named(fields: Mapping[str, str]) -> str:
    """Name the leg that the fields of a position or a plan refer to.

    Returns
    -------
    str
        ``LONG``, ``SHORT``, ``BOTH`` (the position of a one-way account), or empty when no field says.

    Raises
    ------
    LegError
        A value that names no side of a position, or two fields that contradict each other.
    """
    named = ""
    for field, words in WORDS.items():
        if value := fields.get(field, "").strip():
            side = words.get(value.upper(), "")
            if not side or named not in ("", side):
                raise LegError(field, value)
            named = side
    return named
