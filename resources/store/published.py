"""What a process knows of what was published and read: one table per store, for all steps that need it.

A row outlives its run: while its hash holds the same bytes it is not decoded again. What a run has read, what it could not
publish, and its candles are of that run: the next one begins without them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantum_core.contracts.schema import Table

if TYPE_CHECKING:
    import polars as pl

SHARED_SEC = 3.0  # a step that runs later than this after another reads for itself


@dataclass(frozen=True, slots=True)
class Shared:
    """What one step has read for all of its run.

    Attributes
    ----------
    began
        When it was read, monotonic s.
    of
        What was asked for: symbols of a table, the window of candles.
    value
        What was read.
    """

    began: float
    of: Any
    value: Any

    @property
    def is_recent(self) -> bool:
        """Whether it is still of the moment of the run."""
        return time.monotonic() - self.began <= SHARED_SEC


@dataclass
class OfRun:
    """What the steps of one run share.

    Attributes
    ----------
    run_id
        Whose.
    frames
        Tables as they were read, by asset.
    without
        State and reason of the symbols that the run could not publish, by asset.
    candles
        Readings of candles, by the symbol that names their key.
    """

    run_id: str = ""
    frames: dict[str, Shared] = field(default_factory=dict)
    without: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    candles: dict[str, Shared] = field(default_factory=dict)

    def frame(self, asset: str, symbols: Sequence[str]) -> pl.DataFrame | None:
        """Give a table as another step has read it for these symbols; ``None`` where none has a moment ago."""
        known = self.frames.get(asset)
        return known.value if known is not None and known.of == symbols and known.is_recent else None


class Published:
    """The last row of each table and symbol, with the bytes it was decoded from; and what the steps of a run share.

    Parameters
    ----------
    symbols
        The symbols that are remembered; a row of any other is decoded each time.
    """

    def __init__(self, symbols: Collection[str]) -> None:
        self._symbols = frozenset(symbols)
        self._rows: dict[tuple[str, str], tuple[Mapping[bytes, bytes], dict[str, Any]]] = {}
        self._run = OfRun()

    def of_run(self, run_id: str) -> OfRun:
        """Give what the steps of a run share; another run's is forgotten."""
        if self._run.run_id != run_id:
            self._run = OfRun(run_id)
        return self._run

    def decode(self, table: Table, symbol: str, raw: Mapping[bytes, bytes]) -> dict[str, Any]:
        """Decode a hash; what still holds the bytes decoded last is not decoded again (five steps read each).

        Raises
        ------
        ContractError
            The hash breaks the table's contract.
        """
        last = self._rows.get((table.key, symbol))
        if last is not None and last[0] == raw:
            return last[1]
        values = table.decode(raw) if last is None else table.redecode(raw, *last)
        if symbol in self._symbols:
            self._rows[table.key, symbol] = (raw, values)
        return values

    def keep(self, table: Table, symbol: str, written: Mapping[str, str]) -> dict[str, Any]:
        """Give the row as it will read back, and remember it for the steps that read it next."""
        values = table.reread(written)
        if symbol in self._symbols:
            self._rows[table.key, symbol] = ({name.encode(): text.encode() for name, text in written.items()}, values)
        return values
