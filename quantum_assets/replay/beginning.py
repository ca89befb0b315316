"""What stood when a computation begins in the middle of what was recorded: nobody has recorded it as such, but it follows.

A row is recorded when it is published. That it was found unchanged since, that a position was let go, that an intent is not due
any more, and which run had begun, follows from the steps themselves. So the last step of each symbol is gone through again before
the first one that is compared. Here belongs from which record on, and what can be read off the records before that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import orjson
import polars as pl

from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.contracts.tables import PUBLISHED_TABLES

REMEMBERED = ("position", "trade_intent")  # whose last step has changed what no row says
NOT_EVALUATED = timedelta(minutes=10)  # what has had no step for so long is not gone through again

Row = dict[str, Any]


class Before:
    """The records before a moment.

    Parameters
    ----------
    records
        Of the hour before, in any order.
    symbols_of
        Gives the symbols of a record's range.
    """

    def __init__(self, records: pl.DataFrame, symbols_of: Callable[[str], Sequence[str]]) -> None:
        newest_first = records.sort("seq", descending=True) if len(records) else records
        self._rows: list[Row] = newest_first.rows(named=True)
        self._symbols_of = symbols_of

    def until(self, seq: int) -> Before:
        """Give the records before an earlier one."""
        earlier = Before(pl.DataFrame(), self._symbols_of)
        earlier._rows = [row for row in self._rows if row["seq"] < seq]
        return earlier

    def last_steps(
        self, asset: str, symbols: Collection[str], limits: Mapping[str, float] | None = None, since: datetime | None = None
    ) -> dict[str, Row]:
        """Give the last record of an asset for each symbol that has one, for some only below a number."""
        limits = limits or {}
        missing, found = set(symbols), dict[str, Row]()
        for row in self._rows:
            if not missing or (since is not None and row["at"] < since):
                break
            if row["asset"] == asset:
                of_it = [one for one in missing.intersection(self._covered(row)) if row["seq"] < limits.get(one, math.inf)]
                found |= dict.fromkeys(of_it, row)
                missing.difference_update(of_it)
        return found

    def go_through_from(self, first: Mapping[str, Any], symbols: Collection[str]) -> int:
        """Give the number from which on records are gone through again before the first one that is compared."""
        since = first["at"] - NOT_EVALUATED
        cycles = {first["cycle_id"]}
        for asset in REMEMBERED:
            cycles |= {row["cycle_id"] for row in self.last_steps(asset, symbols, since=since).values()}
        numbers = (row["seq"] for row in self._rows if row["cycle_id"] in cycles and row["at"] >= since)
        return int(min(numbers, default=first["seq"]))

    def cycles(self) -> dict[str, tuple[datetime, datetime]]:
        """Give when each cycle had its first and its last record."""
        times: dict[str, tuple[datetime, datetime]] = {}
        for row in self._rows:
            begun, ended = times.get(row["cycle_id"], (row["at"], row["at"]))
            times[row["cycle_id"]] = min(begun, row["at"]), max(ended, row["at"])
        return times

    def hole(self) -> int:
        """Give the number after the last one that is missing; 0 where none is."""
        after = ((later["seq"], row["seq"]) for later, row in pairwise(self._rows))
        return next((later for later, seq in after if seq != later - 1), 0)

    def whole_since(self, hole: int) -> set[str]:
        """Name the slots that have recorded everything since a number."""
        return {row["slot"] for row in self._rows if row["seq"] >= hole and row["full"]}

    def _covered(self, row: Row) -> Sequence[str]:
        table = PUBLISHED_TABLES.get(row["asset"])
        if table is not None and table.of_account:
            return (ACCOUNT,)
        return self._symbols_of(orjson.loads(row["facts"])["symbols"])


def without_since(rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Give since which record each asset and symbol has had no result, of those that have none now.

    Parameters
    ----------
    rows
        Of ``without_result``.
    """
    if not len(rows):
        return {}
    fine = pl.col("state") == State.PRESENT
    last_fine = rows.filter(fine).group_by("asset", "symbol").agg(pl.col("seq").max().alias("fine"))
    began = (
        rows.filter(~fine)
        .join(last_fine, on=["asset", "symbol"], how="left")
        .filter(pl.col("fine").is_null() | (pl.col("seq") > pl.col("fine")))
        .group_by("asset", "symbol")
        .agg(pl.col("seq").min())
    )
    since: dict[str, dict[str, int]] = {}
    for asset, symbol, seq in began.iter_rows():
        since.setdefault(asset, {})[symbol] = seq
    return since
