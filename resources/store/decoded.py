"""Rows that were decoded before: what still holds the same bytes is not decoded again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from quantum_core.contracts.schema import Table


class DecodedRows:
    """The last row of each table and symbol, with the bytes it was decoded from.

    Parameters
    ----------
    symbols
        The symbols that are remembered; a row of any other is decoded each time.
    """

    def __init__(self, symbols: Collection[str]) -> None:
        self._symbols = frozenset(symbols)
        self._rows: dict[tuple[str, str], tuple[Mapping[bytes, bytes], dict[str, Any]]] = {}

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
