"""Beside other code locations: every asset key begins with ASSET_PREFIX, everything else stays as it is."""

import dagster as dg
import pytest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from definitions import ASSETS, assemble
from quantum_assets.recorded.evidence import EVIDENCE
from quantum_assets.recorded.history import HISTORY
from quantum_assets.shared.external import EXTERNAL_ASSETS
from quantum_assets.shared.partitions import symbol_partitions
from quantum_core.settings import SettingsError, load_settings
from quantum_ops.desk import pages
from quantum_ops.desk.history import read_history
from quantum_ops.desk.overview import read_symbol
from resources.instance.range_tags import range_tags
from resources.store.redis_store import RedisStore
from sensors.cycle import Seen, cycles_of, requests_for
from sensors.plans import PLANS_JOB_NAME
from sensors.proofs import PROOFS_JOB_NAME
from tests.desk.test_desk import well
from tests.world import QUIET, hash_of, recorded, run_cycle, write_candles, write_plan, write_world

PREFIX = ("desk", "risk")


@pytest.fixture
def world(make_store) -> RedisStore:
    """A deployment under a prefix."""
    store = make_store(asset_prefix="/".join(PREFIX))
    write_world(store)
    return store


def test_every_key_begins_with_it_and_nothing_keeps_its_old_one(world) -> None:
    graph = assemble(world).resolve_asset_graph()
    names = {one.key.to_user_string() for one in (*ASSETS, *EXTERNAL_ASSETS)} | {EVIDENCE, HISTORY}
    assert graph.get_all_asset_keys() == {dg.AssetKey([*PREFIX, name]) for name in names}
    assert {tuple(key.asset_key.path[:-1]) for key in graph.asset_check_keys} == {PREFIX}
    assert graph.get(dg.AssetKey([*PREFIX, "risk_proposal"])).metadata["redis_key"] == "quantum:risk:proposal:{symbol}"


@pytest.mark.slow
def test_the_loop_the_plans_and_the_proofs_run_under_it(world, instance) -> None:
    """The same keys in Redis, materialized and checked under the longer names in Dagster."""
    write_plan(world, "plan-1", "BTCUSDT", "CLOSE", qty=0.001)
    result = run_cycle(world, instance)
    assert {asset for asset, _ in recorded(instance, result)} >= {"market_state", "risk_proposal", "governor_permit"}
    risk = dg.AssetKey([*PREFIX, "risk_proposal"])
    assert instance.get_materialized_partitions(risk) == set(world.settings.symbols)
    assert instance.get_materialized_partitions(dg.AssetKey("risk_proposal")) == set()
    assert float(hash_of(world, "risk_proposal", "BTCUSDT")["proposed_sl"]) > 0
    write_plan(world, "plan-2", "BTCUSDT", "CLOSE", qty=0.001)
    for name, tags in ((PLANS_JOB_NAME, range_tags(world.settings.symbols)), (PROOFS_JOB_NAME, {})):
        job = assemble(world).resolve_job_def(name)
        assert job.execute_in_process(instance=instance, run_config=QUIET, tags=tags).success
    assert world.client.hget("quantum:governor:state:BTCUSDT", "last_plan_id") == b"plan-2"
    (checked,) = instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(risk, "distances"), limit=1)
    assert checked.evaluation.passed


def test_a_symbol_that_cannot_be_computed_is_red_under_it(world, instance) -> None:
    run_cycle(world, instance)
    write_candles(world, "ETHUSDT", [])
    world.client.delete(world.keys.of("market_state", "ETHUSDT"))
    world.clock.advance(10)
    run_cycle(world, instance)
    partitions = symbol_partitions(world.settings.symbols)
    status = get_and_update_asset_status_cache_value(instance, dg.AssetKey([*PREFIX, "market_state"]), partitions)
    assert set(status.deserialize_failed_partition_subsets(partitions).get_partition_keys()) == {"ETHUSDT"}
    seen = instance.fetch_observations(dg.AssetKey([*PREFIX, "candles"]), limit=10).records
    assert "ETHUSDT" in {one.asset_observation.partition for one in seen}


def test_the_sensor_asks_for_assets_that_exist(world) -> None:
    cycles = cycles_of(world.settings, 1.0)
    seen = dict.fromkeys(world.settings.symbols, Seen())
    noted = {cycle.symbols[0]: (1, 0.0) for cycle in cycles}
    requests, _ = requests_for(cycles, seen, world.settings, now_epoch=1.0, busy={}, noted=noted, common_tags={})
    known = assemble(world).resolve_asset_graph()
    (request,) = requests
    assert set(request.asset_selection) <= known.get_all_asset_keys()
    assert set(request.asset_check_keys) <= set(known.asset_check_keys)


def test_the_page_of_a_symbol_reads_and_links_to_them(world, instance) -> None:
    run_cycle(world, instance)
    history = read_history(world, instance, "BTCUSDT")
    assert history.proposals
    page = pages.symbol_page(read_symbol(world, "BTCUSDT"), history, well(at=1.0), "", "n", world.settings.asset_path)
    assert 'href="/assets/desk/risk/risk_proposal?' in page


@pytest.mark.parametrize("wrong", ["desk/", "/desk", "a b", "a//b", "desk.risk"])
def test_a_prefix_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="ASSET_PREFIX"):
        load_settings(asset_prefix=wrong)
