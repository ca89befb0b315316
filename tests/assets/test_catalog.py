"""What Dagster's catalog shows of each asset follows its contract."""

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from definitions import ASSETS, assemble
from quantum_assets.catalog import INPUTS, KERNELS, version_of
from quantum_assets.external import EXTERNAL_ASSETS
from quantum_core.contracts.schema import COMMON
from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_core.kernels import stops, theil_sen
from tests.world import run_cycle, write_world


@pytest.fixture
def catalog(make_store):
    """The assets of the code location by name."""
    graph = assemble(make_store(riskproposal_prefix="desk:risk", symbols="BTCUSDT,ETHUSDT")).resolve_asset_graph()
    return {node.key.to_user_string(): node for node in graph.asset_nodes}


def test_every_asset_has_its_columns_its_key_and_its_source(catalog) -> None:
    """Type, unit and meaning of each field that programs read."""
    for name, table in PUBLISHED_TABLES.items():
        metadata = catalog[name].metadata
        columns = {column.name: column for column in metadata["dagster/column_schema"].columns}
        assert list(columns) == [item.name for item in (*COMMON, *table.fields)]
        assert all(column.type and column.description for column in columns.values())
        assert metadata["ttl_sec"] == table.ttl_sec
        assert catalog[name].tags["quantum/contract_version"] == str(table.schema)
        (reference,) = metadata["dagster/code_references"].code_references
        assert reference.file_path.endswith(f"quantum_assets/{name}.py")
    assert (
        "(quote)"
        in {c.name: c for c in catalog["risk_proposal"].metadata["dagster/column_schema"].columns}["proposed_sl"].description
    )


def test_a_renamed_key_is_shown_by_its_name(catalog) -> None:
    assert catalog["risk_proposal"].metadata["redis_key"] == "desk:risk:{symbol}"
    assert "quantum:stream:apply.plan" in catalog["plans"].metadata["redis_key"]


def test_what_others_write_is_described_as_it_is_read(catalog) -> None:
    assert set(INPUTS) == {spec.key.to_user_string() for spec in EXTERNAL_ASSETS}
    columns = {c.name: c for c in catalog["raw_positions"].metadata["dagster/column_schema"].columns}
    assert not columns["entry_price"].constraints.nullable
    assert columns["leverage"].constraints.nullable
    assert "also called" in columns["mark_price"].description


def test_the_version_of_the_code_is_that_of_the_kernels(catalog) -> None:
    """A kernel that changes makes another version, and only of its own asset."""
    computing = {asset.key.to_user_string() for asset in ASSETS} - {"symbol_chart"}
    assert set(KERNELS) == computing
    assert catalog["risk_proposal"].code_version == version_of([stops]) != version_of([theil_sen])
    assert len({catalog[name].code_version for name in computing}) == len(computing)


def test_a_version_does_not_mark_assets_as_outdated(make_store, instance) -> None:
    """A page that called every live number outdated would be a lie."""
    store = make_store(symbols="BTCUSDT,ETHUSDT")
    write_world(store)
    run_cycle(store, instance)
    resolver = CachingStaleStatusResolver(instance, assemble(store).resolve_asset_graph(), LoadingContextForTest(instance))
    for name in ("market_state", "risk_proposal", "harvest_proposal"):
        assert resolver.get_status(dg.AssetKey(name), "BTCUSDT") is StaleStatus.FRESH
    assert resolver.get_status(dg.AssetKey("symbol_chart"), "BTCUSDT") is StaleStatus.MISSING  # it can tell
