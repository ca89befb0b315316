"""What is known of a symbol that an asset cannot be computed for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """One symbol that an asset could not be computed for.

    Attributes
    ----------
    symbol
        The symbol.
    why
        The reason in full: a code, optionally followed by ``: detail``.
    since, at
        When it began with this code, and when it was last evaluated; epoch s.
    cycle_id
        Cycle in which it began.
    """

    symbol: str
    why: str
    since: float
    at: float
    cycle_id: str

    @property
    def code(self) -> str:
        """The machine-readable part of the reason; ages and values beside it change in every cycle."""
        return self.why.partition(":")[0]
