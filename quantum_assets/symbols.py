"""The partition of every asset is the symbol; this is the one place that says so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import dagster as dg

from quantum_assets.contracts.legs import underlying
from resources.dagster_internals import RANGE_TAGS

OWNERS = ["team:quant"]
DESK = "/desk"  # page of all symbols, of our web server; `quantum up` and `quantum serve` put no path prefix before it
ACCOUNT_ASSETS = frozenset({"equity", "risk_guard"})  # of the account as a whole, hence without partitions


def partitioned_by_symbol(
    assets: Sequence[dg.AssetsDefinition],
    external: Sequence[dg.AssetSpec],
    symbols: Sequence[str],
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Partition everything but the assets of the account by symbol; many symbols are one run, never one run each.

    No asset has a freshness policy: Dagster's are satisfied by a materialization of any symbol, and would show an asset as fresh
    while a symbol is dead. How old an asset is, that of its oldest symbol, is said by its check ``fresh``.

    Parameters
    ----------
    assets, external
        Definitions and specs as their modules declare them, without partitions.
    symbols
        The partition keys, in the order of SYMBOLS.
    """
    partitions = symbol_partitions(symbols)

    def by_symbol(spec: dg.AssetSpec) -> dg.AssetSpec:
        of_account = spec.key.to_user_string() in ACCOUNT_ASSETS
        if of_account:
            return spec
        return spec.replace_attributes(partitions_def=partitions, metadata={**spec.metadata, "desk": desk_link()})

    def in_one_run(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
        of_account = asset.key.to_user_string() in ACCOUNT_ASSETS
        return asset if of_account else asset.with_attributes(backfill_policy=dg.BackfillPolicy.single_run())

    return [*map(by_symbol, external), *(in_one_run(asset.map_asset_specs(by_symbol)) for asset in assets)]


def desk_link() -> dg.MetadataValue[str]:
    """Link to the desk where our web server runs; plain `dagster dev` has no such page, and would show its timeline."""
    installed = Path(os.environ.get("DAGSTER_HOME", ""), "dagster.yaml")
    with suppress(OSError):
        if "WarmRunLauncher" in installed.read_text():
            return dg.MetadataValue.url(DESK)
    return dg.MetadataValue.text(f"{DESK} is a page of `quantum up`; plain `dagster dev` has none")


def symbol_partitions(symbols: Sequence[str]) -> dg.StaticPartitionsDefinition:
    """Give the partitions: one per symbol, in the order of SYMBOLS."""
    return dg.StaticPartitionsDefinition(list(symbols))


def shards(symbols: Sequence[str], count: int) -> list[Sequence[str]]:
    """Split symbols into at most ``count`` contiguous blocks of nearly equal size; legs of one symbol stay together."""
    markets = [underlying(symbol) for symbol in symbols]
    edges = [round(index * len(symbols) / count) for index in range(count + 1)]
    edges = [edge + (0 < edge < len(markets) and markets[edge - 1] == markets[edge]) for edge in edges]
    return [symbols[first:last] for first, last in pairwise(edges) if last > first]


def range_tags(symbols: Sequence[str]) -> dict[str, str]:
    """Tag a run so that it covers the symbols from the first to the last."""
    return dict(zip(RANGE_TAGS, (symbols[0], symbols[-1]), strict=True))


def symbols_of(tags: Mapping[str, str], symbols: Sequence[str]) -> Sequence[str]:
    """Give the symbols a run with such tags covers."""
    first, last = (symbols.index(tags[name]) for name in RANGE_TAGS)
    return symbols[first : last + 1]
