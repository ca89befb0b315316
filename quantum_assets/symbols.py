"""The partition of every asset is the symbol; this is the one place that says so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import dagster as dg

OWNERS = ["team:quant"]
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def partitioned_by_symbol(
    assets: Sequence[dg.AssetsDefinition], external: Sequence[dg.AssetSpec], symbols: Sequence[str]
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Partition everything by symbol; many symbols are one run, never one run each.

    Parameters
    ----------
    assets, external
        Definitions and specs as their modules declare them, without partitions.
    symbols
        The partition keys, in the order of SYMBOLS.
    """
    partitions = dg.StaticPartitionsDefinition(list(symbols))

    def by_symbol(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(partitions_def=partitions)

    return [
        *map(by_symbol, external),
        *(asset.map_asset_specs(by_symbol).with_attributes(backfill_policy=dg.BackfillPolicy.single_run()) for asset in assets),
    ]


def shards(symbols: Sequence[str], count: int) -> list[Sequence[str]]:
    """Split symbols into at most ``count`` contiguous blocks of nearly equal size."""
    edges = [round(index * len(symbols) / count) for index in range(count + 1)]
    return [symbols[first:last] for first, last in pairwise(edges) if last > first]


def range_tags(symbols: Sequence[str]) -> dict[str, str]:
    """Tag a run so that it covers the symbols from the first to the last."""
    return dict(zip(RANGE_TAGS, (symbols[0], symbols[-1]), strict=True))
