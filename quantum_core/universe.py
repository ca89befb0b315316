"""Which symbols there are, in which blocks they are computed, and what is of the account as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from quantum_core.contracts.legs import underlying

CHALLENGER_ASSETS = (  # with CHALLENGER
    "challenger_market_state",
    "challenger_risk_proposal",
    "challenger_harvest_proposal",
    "challenger_position_size",
)
ACCOUNT_ASSETS = frozenset({"equity", "risk_guard"})  # of the account as a whole, hence without partitions


def shards(symbols: Sequence[str], count: int) -> list[Sequence[str]]:
    """Split symbols into at most ``count`` contiguous blocks of nearly equal size; legs of one symbol stay together."""
    markets = [underlying(symbol) for symbol in symbols]
    edges = [round(index * len(symbols) / count) for index in range(count + 1)]
    edges = [edge + (0 < edge < len(markets) and markets[edge - 1] == markets[edge]) for edge in edges]
    return [symbols[first:last] for first, last in pairwise(edges) if last > first]
