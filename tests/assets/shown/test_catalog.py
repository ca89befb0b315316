"""What Dagster's catalog shows of each asset follows its contract."""

import json

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_representation.external_data import RepositorySnap

from definitions import ASSETS, assemble
from quantum_assets.shared.catalog import INPUTS, KERNELS, SECTIONS, version_of
from quantum_assets.shared.external import EXTERNAL_ASSETS
from quantum_core.contracts.schema import COMMON
from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_core.kernels.market import theil_sen
from quantum_core.kernels.proposals import stops
from quantum_core.settings import load_settings
from quantum_core.settings.shown import in_force
from resources.store.redis_store import RedisStore
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


def test_every_asset_shows_the_parameters_it_is_computed_with(make_store, tmp_path) -> None:
    """Those of PROFILE, beside those of the specification, and what one symbol has for itself."""
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\n[stops]\ntp_min_pct = 0.02\n[symbols.ETHUSDT.stops]\nsl_min_pct = 0.002\n')
    graph = assemble(make_store(symbols="BTCUSDT,ETHUSDT", profile=str(own))).resolve_asset_graph()
    nodes = {node.key.to_user_string(): node.metadata.get("parameters") for node in graph.asset_nodes}
    assert {name for name, shown in nodes.items() if shown is not None} == set(SECTIONS)
    shown = [one.data for one in nodes["risk_proposal"].records]
    of = {(one["parameter"], one["symbols"]): (one["value"], one["locked-v1"]) for one in shown}
    assert of["stops.tp_min_pct", "all"] == ("0.02", "0.01")
    assert of["stops.sl_min_pct", "all"] == ("0.005", "0.005")
    assert of["stops.sl_min_pct", "ETHUSDT"] == ("0.002", "0.005")
    assert ("stops.tp_min_pct", "ETHUSDT") not in of


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


def test_resources_show_the_settings_in_force_and_no_secret() -> None:
    """On Dagster's page of resources: which server, every setting, what an IO manager writes; a password nowhere."""
    address = "redis://desk:pa55word@127.0.0.1:1/3"
    store = RedisStore(load_settings(redis_url=address, max_publish_age_sec=42, alert_urls="json://user:t0ken@127.0.0.1/x"))
    shown = {one.name: one for one in RepositorySnap.from_def(assemble(store).get_repository_def()).resources}
    values = {name: json.loads(text) for name, text in shown["settings"].configured_values.items()}
    assert values == in_force(store.settings)
    assert values["MAX_PUBLISH_AGE_SEC"] == "42"
    assert json.loads(shown["store"].configured_values["server"]).endswith("127.0.0.1:1/3")
    assert values["ALERT_URLS"] == "(hidden)"
    assert json.loads(shown["efficiency_io"].configured_values["writes"]) == "nothing"
    everything = "".join(text for one in shown.values() for text in one.configured_values.values())
    assert "pa55word" not in everything
    assert "t0ken" not in everything
