"""Counts of what became of each asset's symbols, kept in Redis by who publishes, for the exporter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from quantum_core.contracts.tables import ALLOCATION_TARGET
from resources.store.publication import Publication
from resources.store.redis_store import RedisStore


def count_publications(
    store: RedisStore, asset: str, outcomes: Sequence[Publication], rows: Mapping[str, Mapping[str, Any]], failed: int
) -> None:
    """Add what became of one asset's symbols to the counts; a crash before this loses them, never doubles them.

    Parameters
    ----------
    store
        Where they are counted.
    asset
        The asset.
    outcomes, rows
        What was published and what was not, and the values by symbol.
    failed
        Symbols without a value.

    Raises
    ------
    RedisUnavailableError
        The server is away; the run fails visibly, its publications stand.
    """
    counts = Counter(
        {
            f"published:{asset}": sum(outcome.published for outcome in outcomes),
            f"unchanged:{asset}": sum(not outcome.published and not outcome.error for outcome in outcomes),
            f"failed:{asset}": failed,
        }
    )
    if asset == ALLOCATION_TARGET.asset:
        counts["loops"] = 1
        counts.update(f"proposed:{rows[outcome.symbol]['reason']}" for outcome in outcomes if not outcome.error)
    key = store.keys.of("counts_published")
    store.run("counting", [("HINCRBY", key, name, times) for name, times in counts.items() if times])
