"""What Dagster's catalog shows of each asset beside its description: columns, keys, lifetime, version of its kernel, source file.

All of it comes from the contract tables and from the code itself, so that the catalog cannot say anything else than they do.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import cast

import dagster as dg

from quantum_core.contracts import inputs
from quantum_core.contracts.inputs import Input
from quantum_core.contracts.schema import COMMON, Table
from quantum_core.contracts.tables import PUBLISHED_TABLES, Keys
from quantum_core.kernels.capital import allocation, efficiency, efficiency_hint
from quantum_core.kernels.governor import gates, permit_hint, risk_guard
from quantum_core.kernels.market import grid, market_state, theil_sen
from quantum_core.kernels.position import identity, tracking
from quantum_core.kernels.proposals import harvest, intent, sizing, stops
from quantum_core.profiles.profile import LOCKED, Profile, flat_parameters

KERNELS: Mapping[str, Sequence[ModuleType]] = {
    "market_state": (market_state, theil_sen, grid),
    "position": (tracking, identity),
    "risk_proposal": (stops,),
    "harvest_proposal": (harvest,),
    "capital_efficiency": (efficiency,),
    "allocation_target": (allocation, efficiency_hint),
    "position_size": (sizing, stops),
    "risk_guard": (risk_guard,),
    "trade_intent": (intent,),
    "governor_permit": (gates, permit_hint),
}
INPUTS: Mapping[str, Sequence[Input]] = {
    "candles": (inputs.CANDLE,),
    "raw_positions": (inputs.POSITION,),
    "base_targets": (inputs.TARGET,),
    "attribution": (inputs.ATTRIBUTION,),
    "executions": (inputs.FILL,),
    "equity": (inputs.EQUITY, inputs.DAILY_PNL, inputs.LOSSES),
    "plans": (inputs.PLAN,),
}
SECTIONS: Mapping[str, Sequence[str]] = {  # of a profile, by the asset they are parameters of
    "market_state": ("market_state",),
    "position": ("tracking",),
    "risk_proposal": ("stops",),
    "harvest_proposal": ("harvest",),
    "capital_efficiency": ("efficiency",),
    "allocation_target": ("allocation",),
    "position_size": ("sizing",),
    "risk_guard": ("risk_guard",),
    "governor_permit": ("governor", "permit_hint"),
}
VERSION_CHARS = 12


def catalogued(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec], keys: Keys, profile: Profile
) -> Sequence[dg.AssetsDefinition | dg.AssetSpec]:
    """Give assets what their contracts say of them, and a reference to their source; one without a contract gets only that.

    Parameters
    ----------
    assets
        Those of ours, and the specs of what others write.
    keys
        The names of the keys under the settings in force.
    profile
        PROFILE with these settings, whose parameters are shown; what was put in force since is shown with each materialization.
    """

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        return _catalogued(spec, keys, profile)

    made = [described(one) if isinstance(one, dg.AssetSpec) else one.map_asset_specs(described) for one in assets]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # one per asset: the references may change with a new Dagster
        return cast("Sequence[dg.AssetsDefinition | dg.AssetSpec]", dg.with_source_code_references(made))


def version_of(modules: Sequence[ModuleType]) -> str:
    """Fingerprint the source of an asset's kernels: another version computes, or may compute, other numbers."""
    source = "\n".join(inspect.getsource(module) for module in modules)
    return hashlib.blake2s(source.encode()).hexdigest()[:VERSION_CHARS]


def _parameters(sections: Sequence[str], profile: Profile) -> dg.TableMetadataValue:
    """Lay out the parameters of an asset: those of all symbols, then what single symbols have for themselves."""
    locked, common = flat_parameters(LOCKED), flat_parameters(profile)

    def records(symbol: str, values: Mapping[str, object], base: Mapping[str, object]) -> list[dg.TableRecord]:
        return [
            dg.TableRecord({"parameter": path, "symbols": symbol, "value": str(value), "locked-v1": str(locked.get(path, ""))})
            for path, value in values.items()
            if path.partition(".")[0] in sections and base.get(path) != value
        ]

    own = [one for symbol in profile.symbols for one in records(symbol, flat_parameters(profile, symbol), common)]
    return dg.MetadataValue.table([*records("all", common, {}), *own])


def _columns_of(table: Table) -> dg.TableSchema:
    return dg.TableSchema([_column(item.name, item.codec.name, item.meaning, item.unit) for item in (*COMMON, *table.fields)])


def _columns_read(read: Sequence[Input]) -> dg.TableSchema:
    return dg.TableSchema(
        [
            _column(item.names[0], "text", item.meaning, also=item.names[1:], required=item.required)
            for one in read
            for item in one.fields
        ]
    )


def _column(
    name: str, kind: str, meaning: str, unit: str = "", also: Sequence[str] = (), *, required: bool = True
) -> dg.TableColumn:
    in_unit = f" ({unit})" if unit else ""
    other_names = f"; also called {', '.join(also)}" if also else ""
    return dg.TableColumn(name, kind, meaning + in_unit + other_names, dg.TableColumnConstraints(nullable=not required))


def _catalogued(spec: dg.AssetSpec, keys: Keys, profile: Profile) -> dg.AssetSpec:
    name, templates = spec.key.to_user_string(), keys.templates()
    metadata: dict[str, object] = {}
    tags: dict[str, str] = {}
    if table := PUBLISHED_TABLES.get(name):
        metadata = {
            "dagster/column_schema": _columns_of(table),
            "redis_key": templates[table.key],
            "ttl_sec": table.ttl_sec,
            **({"redis_stream": ", ".join(templates[key] for key in table.stream.keys)} if table.stream else {}),
        }
        tags = {"quantum/contract_version": str(table.schema)}
    elif read := INPUTS.get(name):
        metadata = {
            "dagster/column_schema": _columns_read(read),
            "redis_key": ", ".join(templates[key] for one in read for key in one.keys),
            "redis_type": "; ".join(one.kind for one in read),
        }
    if name in SECTIONS:
        metadata["parameters"] = _parameters(SECTIONS[name], profile)
    return spec.replace_attributes(
        metadata={**spec.metadata, **metadata},
        tags={**spec.tags, **tags},
        code_version=version_of(KERNELS[name]) if name in KERNELS else spec.code_version,
    )
