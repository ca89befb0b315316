"""The partition of every asset is the symbol; this is the one place that says so."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import dagster as dg

from quantum_core.settings import Settings
from quantum_core.universe import ACCOUNT_ASSETS
from resources.instance.range_tags import covered

OWNERS = ["team:quant"]
DESK = "/desk"  # page of all symbols, of our web server; `quantum up` and `quantum serve` put no path prefix before it


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


def symbols_of_run(context: dg.AssetExecutionContext, settings: Settings) -> list[str]:
    """Give the symbols that a run computes: all of its partitions, or in an event cycle those that have changed."""
    return list(covered(context.partition_keys, context.run.tags, settings.symbols))


def under_prefix(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec], checks: Sequence[dg.AssetChecksDefinition], settings: Settings
) -> tuple[Sequence[dg.AssetsDefinition | dg.AssetSpec], Sequence[dg.AssetChecksDefinition]]:
    """Put ASSET_PREFIX before the keys of assets and of what they and their checks refer to."""
    if not settings.asset_prefix:
        return assets, checks
    specs = [spec for one in assets for spec in ([one] if isinstance(one, dg.AssetSpec) else one.specs)]
    keys = {spec.key: dg.AssetKey(settings.asset_path(spec.key.to_user_string())) for spec in specs}

    def placed(one: dg.AssetsDefinition) -> dg.AssetsDefinition:
        return one.with_attributes(asset_key_replacements=keys)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # one per definition that is built anew
        warnings.simplefilter("ignore", dg.PreviewWarning)  # as where checks of a partition are defined
        return (
            [one.replace_attributes(key=keys[one.key]) if isinstance(one, dg.AssetSpec) else placed(one) for one in assets],
            [dg.AssetChecksDefinition(**placed(one).get_attributes_dict()) for one in checks],
        )


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
