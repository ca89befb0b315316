"""What Dagster's own pages show of single symbols: failed partitions, the check `fresh`, observations of inputs."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from definitions import assemble
from quantum_assets.checks.proof import RENEWED_AFTER_SEC
from quantum_assets.shared.partitions import desk_link, symbol_partitions
from quantum_assets.shared.shown_states import Due, decide
from quantum_core.settings import load_settings
from resources.instance.dagster_internals import FAILED_SYMBOLS_JOB
from resources.instance.home import prepare_home
from resources.instance.retention import prune
from resources.io_manager import ONCE_TAG, remedy_of
from resources.shown import Shown
from resources.store.failures import read_failures
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME, FAST_FAMILY, cycle_tags
from tests.world import QUIET, hash_of, real_closes, recorded, run_cycle, write_candles, write_position, write_world

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
OF_PROPOSALS = ("risk_proposal", "harvest_proposal")


@pytest.fixture
def world(store: RedisStore) -> RedisStore:
    """Three symbols after two cycles: the second stop in force is news once."""
    write_world(store)
    return store


def failed(instance: dg.DagsterInstance, asset: str) -> set[str]:
    """Name the partitions that the Partitions page shows as failed."""
    partitions = symbol_partitions(SYMBOLS)
    status = get_and_update_asset_status_cache_value(instance, dg.AssetKey(asset), partitions)
    if status is None:
        return set()
    assert not status.deserialize_in_progress_partition_subsets(partitions).get_partition_keys()
    return set(status.deserialize_failed_partition_subsets(partitions).get_partition_keys())


def records(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """List the runs that only record failures, newest first."""
    return list(instance.get_runs(dg.RunsFilter(job_name=FAILED_SYMBOLS_JOB)))


def cycles(store: RedisStore, instance: dg.DagsterInstance, count: int = 1) -> dg.ExecuteInProcessResult:
    """Run cycles ten seconds apart; writers of candles and positions go on for the symbols that have some."""
    for _ in range(count):
        store.clock.advance(10)
        result = run_cycle(store, instance)
        assert result.success
    return result


def kill(store: RedisStore, symbol: str) -> None:
    """Delete the candles of a symbol and what was computed from them."""
    write_candles(store, symbol, [])
    store.client.delete(store.keys.of("market_state", symbol))


def revive(store: RedisStore, symbol: str) -> None:
    write_candles(store, symbol, real_closes(symbol))


def checks(instance: dg.DagsterInstance, asset: str, name: str) -> list[tuple[bool, str]]:
    """Give the results of a check, oldest first: whether it passed, and its severity."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), name)
    executions = instance.event_log_storage.get_asset_check_execution_history(key, limit=50)
    return [(one.evaluation.passed, one.evaluation.severity.value) for one in reversed(executions) if one.evaluation]


def observations(instance: dg.DagsterInstance, asset: str) -> list[tuple[str, Mapping[str, object]]]:
    """Give the observations of an input, oldest first."""
    found = instance.fetch_observations(dg.AssetKey(asset), limit=100).records
    return [
        (one.asset_observation.partition, {name: value.value for name, value in one.asset_observation.metadata.items()})
        for one in reversed(found)
    ]


def test_a_symbol_that_cannot_be_computed_is_a_failed_partition_and_the_others_and_the_cycle_are_not(world, instance) -> None:
    """Candles of one symbol once were away for minutes, and every page of Dagster was green."""
    run_cycle(world, instance)
    kill(world, "BTCUSDT")
    result = cycles(world, instance)
    assert result.success
    for asset in ("market_state", *OF_PROPOSALS):
        assert failed(instance, asset) == {"BTCUSDT"}, asset
    assert failed(instance, "allocation_target") == set()
    (record,) = records(instance)
    assert record.status is dg.DagsterRunStatus.FAILURE
    assert record.tags["quantum/cycle_run"] == result.run_id
    assert record.tags["quantum/symbols"] == "BTCUSDT"


def test_the_reason_is_in_the_run_the_partition_leads_to_step_by_step(world, instance) -> None:
    """One click from the partition: the cause first, and what follows from it with its own step."""
    run_cycle(world, instance)
    kill(world, "BTCUSDT")
    cycles(world, instance)
    planned = instance.event_log_storage.get_latest_planned_materialization_info(dg.AssetKey("risk_proposal"), "BTCUSDT")
    (record,) = records(instance)
    assert planned.run_id == record.run_id
    logs = instance.all_logs(record.run_id)
    (ended,) = [one for one in logs if one.dagster_event_type is dg.DagsterEventType.RUN_FAILURE]
    assert ended.dagster_event.message == "market_state cannot be computed: BTCUSDT: candles_missing"
    errors = {
        one.step_key: one.dagster_event.step_failure_data.error.message
        for one in logs
        if one.dagster_event_type is dg.DagsterEventType.STEP_FAILURE
    }
    assert errors["risk_proposal"] == "risk_proposal cannot be computed: BTCUSDT: candles_missing\n"


@pytest.mark.slow
def test_a_partition_is_green_with_the_next_success_although_nothing_has_changed(world, instance) -> None:
    """The rate limit suppresses what has not changed; the page must not stay red for it."""
    run_cycle(world, instance)
    cycles(world, instance, 2)
    candles = world.client.zrange(world.keys.of("candles_history", "BTCUSDT"), 0, -1, withscores=True)
    write_candles(world, "BTCUSDT", [])
    world.clock.advance(60)  # the market state is due again
    write_position(world, "BTCUSDT", entry=1, mark=1, side="LONG")
    cycles(world, instance)
    assert failed(instance, "market_state") == {"BTCUSDT"}
    world.client.zadd(world.keys.of("candles_history", "BTCUSDT"), dict(candles))
    result = cycles(world, instance)
    assert ("market_state", "BTCUSDT") in recorded(instance, result)
    assert failed(instance, "market_state") == set()


@pytest.mark.slow
def test_a_symbol_may_begin_with_an_underscore(make_store, instance) -> None:
    """Its record was taken for that of a check, and made again in every cycle."""
    write_world(make_store(symbols="BTCUSDT"))
    store = make_store(symbols="_ODD,BTCUSDT")
    write_position(store, "_ODD")
    cycles(store, instance)
    before = len(records(instance))
    cycles(store, instance, 2)
    assert (before > 0, len(records(instance))) == (True, before)


def test_a_proposal_in_the_user_interface_names_its_symbol_and_its_real_distance(world, instance) -> None:
    """The overview of an asset shows its last materialization, whichever symbol that was of."""
    run_cycle(world, instance)
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("risk_proposal"), asset_partitions=["BTCUSDT"])
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    metadata = record.asset_materialization.metadata
    assert metadata["symbol"].value == "BTCUSDT"
    published = hash_of(world, "risk_proposal", "BTCUSDT")
    distance = 1 - float(published["proposed_sl"]) / float(published["position_current_price"])
    assert metadata["stop_distance_from_mark"].value == pytest.approx(distance)


@pytest.mark.parametrize(
    ("why", "named"),
    [
        ("market_state_stale: 328 s > 180 s", "the candles, from which"),
        ("candles_missing: no key", "the candles,"),
        ("position_stale: snapshot", "the snapshot of the position"),
        ("odd", "the named input,"),
    ],
)
def test_a_run_that_fails_names_the_input_to_mend(why: str, named: str) -> None:
    """Nobody outside writes a market state."""
    assert remedy_of({"ETHUSDT": why}).startswith(f"Fix {named}")


def test_the_desk_is_linked_only_where_our_web_server_serves_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain `dagster dev` answered with its timeline."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert desk_link().value == "/desk is a page of `quantum up`; plain `dagster dev` has none"
    prepare_home(load_settings(quantum_home=tmp_path))
    assert desk_link().value == "/desk"


@pytest.mark.slow
def test_one_record_is_made_of_a_failure_however_many_cycles_it_lasts(world, instance) -> None:
    """An hour of twenty dead symbols must not fill the list of runs, nor the event log."""
    run_cycle(world, instance)
    kill(world, "BTCUSDT")
    cycles(world, instance, 8)
    assert len(records(instance)) == 1
    assert failed(instance, "market_state") == {"BTCUSDT"}
    kill(world, "ETHUSDT")
    cycles(world, instance, 2)
    assert len(records(instance)) == 2
    assert failed(instance, "market_state") == {"BTCUSDT", "ETHUSDT"}


@pytest.mark.slow
def test_a_symbol_that_flaps_is_recorded_once_a_minute_at_most(world, instance) -> None:
    """A writer in trouble deletes and writes its key all the time."""
    run_cycle(world, instance)
    for _ in range(6):  # two minutes
        kill(world, "BTCUSDT")
        cycles(world, instance)
        revive(world, "BTCUSDT")
        cycles(world, instance)
    assert failed(instance, "market_state") == set()
    assert len(records(instance)) <= 2


@pytest.mark.slow
def test_between_two_evaluations_of_its_market_state_a_dead_symbol_stays_failed_for_one_reason(world, instance) -> None:
    """Market states are computed once a minute: the older hash is young for a while, and then gone; neither is news."""
    run_cycle(world, instance)
    write_candles(world, "BTCUSDT", [])
    cycles(world, instance)
    made, why, stop = len(records(instance)), reasons(world), hash_of(world, "risk_proposal", "BTCUSDT")
    assert (made, set(why)) == (1, {"BTCUSDT"})
    for number in range(18):  # three minutes: beyond the age of the last state
        if number % 6 == 5:
            cycles(world, instance)
            continue
        world.clock.advance(10)
        run_cycle(world, instance, assets=FAST_FAMILY)
        assert reasons(world) == why
    assert len(records(instance)) == made
    assert hash_of(world, "risk_proposal", "BTCUSDT")["published_at_utc"] == stop["published_at_utc"]


def reasons(store: RedisStore) -> dict[str, str]:
    """Say why each symbol has no new risk proposal."""
    return {symbol: one.code for symbol, one in read_failures(store, ["risk_proposal"])["risk_proposal"].items()}


@pytest.mark.slow
def test_a_symbol_for_which_nothing_is_due_any_more_is_not_failed(world, instance) -> None:
    """Its position was closed while its candles were away: no materialization will ever follow."""
    run_cycle(world, instance)
    world.client.hset(world.keys.of("raw_position", "BTCUSDT"), "side", "UP")
    cycles(world, instance)
    assert failed(instance, "risk_proposal") == {"BTCUSDT"}
    world.client.delete(world.keys.of("raw_position", "BTCUSDT"))
    write_position(world, "BTCUSDT", side="FLAT", quantity=0)
    cycles(world, instance)
    assert failed(instance, "risk_proposal") == set()
    assert failed(instance, "risk_proposal") == set()  # from the cache


def test_a_run_somebody_asked_for_fails_itself_and_leaves_no_record_beside_it(world, instance) -> None:
    """One symbol by hand: as it always was, and the loop's next success turns it green."""
    run_cycle(world, instance)
    kill(world, "BTCUSDT")
    job = assemble(world).resolve_implicit_global_asset_job_def()
    alone = job.get_subset(asset_selection={dg.AssetKey("market_state")}, asset_check_selection=set())
    result = alone.execute_in_process(instance=instance, partition_key="BTCUSDT", raise_on_error=False, run_config=QUIET)
    assert not result.success
    assert records(instance) == []
    assert failed(instance, "market_state") == {"BTCUSDT"}
    revive(world, "BTCUSDT")
    cycles(world, instance)
    assert failed(instance, "market_state") == set()


def test_retention_keeps_the_failure_while_it_lasts(world, instance) -> None:
    """A symbol that died two days ago is still dead."""
    run_cycle(world, instance)
    kill(world, "BTCUSDT")
    cycles(world, instance)
    prune(instance, older_than=datetime.now(UTC) + timedelta(hours=1), pause_sec=0)
    instance.event_log_storage.wipe_asset_cached_status(dg.AssetKey("market_state"))
    assert failed(instance, "market_state") == {"BTCUSDT"}
    (record,) = records(instance)
    words = " ".join(one.user_message for one in instance.all_logs(record.run_id))
    assert "market_state of BTCUSDT cannot be computed: candles_missing" in words


@pytest.mark.slow
def test_the_check_fresh_is_a_warning_and_then_a_failure_at_the_limits_of_the_watcher_and_green_at_once(world, instance) -> None:
    """It is the badge of the asset: of the oldest symbol, not of the newest."""
    run_cycle(world, instance)
    world.client.hset(world.keys.of("raw_position", "BTCUSDT"), "side", "UP")  # the proposals of it grow old
    cycles(world, instance, 3)  # 30 s old: that is still fresh
    assert checks(instance, "risk_proposal", "fresh") == []
    cycles(world, instance)
    assert checks(instance, "risk_proposal", "fresh") == [(False, "WARN")]
    cycles(world, instance, 2)
    assert checks(instance, "risk_proposal", "fresh") == [(False, "WARN")]
    cycles(world, instance)
    assert checks(instance, "risk_proposal", "fresh") == [(False, "WARN"), (False, "ERROR")]
    cycles(world, instance, 3)
    world.clock.advance(20)  # a minute after it failed, or later, the check is green at once
    world.client.hset(world.keys.of("raw_position", "BTCUSDT"), "side", "LONG")
    cycles(world, instance)
    assert checks(instance, "risk_proposal", "fresh")[2:] == [(True, "ERROR")]
    cycles(world, instance, 2)
    assert len(checks(instance, "risk_proposal", "fresh")) == 3


@pytest.mark.slow
def test_inputs_are_observed_per_symbol_when_their_state_changes_and_the_check_names_who_cannot_be_used(world, instance) -> None:
    """The root of the graph shows the fault."""
    run_cycle(world, instance)
    first = observations(instance, "candles")
    assert {symbol for symbol, _ in first} == set(SYMBOLS)
    assert first[0][1]["count"] == 300
    assert first[0][1]["source"] == "candles"
    assert float(first[0][1]["age_sec"]) >= 0
    assert {symbol for symbol, _ in observations(instance, "raw_positions")} == set(SYMBOLS)
    kill(world, "BTCUSDT")
    cycles(world, instance, 3)
    news = observations(instance, "candles")[3:]
    assert news == [("BTCUSDT", {"state": "failed", "reason": "candles_missing"})]
    assert checks(instance, "candles", "usable") == [(False, "ERROR")]
    revive(world, "BTCUSDT")
    cycles(world, instance)
    assert observations(instance, "candles")[4:] == []  # 40 s after it failed: another change waits for the minute
    world.clock.advance(20)
    cycles(world, instance, 2)
    assert [symbol for symbol, _ in observations(instance, "candles")[4:]] == ["BTCUSDT"]
    assert checks(instance, "candles", "usable") == [(False, "ERROR"), (True, "ERROR")]


@pytest.mark.slow
def test_the_check_fresh_of_the_risk_guard_fails_while_its_state_cannot_be_written(world, instance) -> None:
    """Nothing is opened without it; it has no symbols, and is judged as a whole."""
    run_cycle(world, instance)
    assert checks(instance, "risk_guard", "fresh") == []
    key = world.keys.of("risk_guard")
    world.client.delete(key)
    world.client.set(key, "junk")
    cycles(world, instance, 2)
    assert checks(instance, "risk_guard", "fresh") == [(False, "ERROR")]
    world.client.delete(key)
    world.clock.advance(60)
    cycles(world, instance, 2)
    assert checks(instance, "risk_guard", "fresh") == [(False, "ERROR"), (True, "ERROR")]


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "shown"), [("enforce", [(False, "ERROR")]), ("shadow", []), ("external", [])])
def test_the_check_fresh_of_the_efficiency_is_recorded_where_we_write_it(make_store, instance, mode, shown) -> None:
    """Another producer's hash is not ours to keep fresh, and a shadow writes none."""
    store = make_store(efficiency_mode=mode)
    write_world(store)
    run_cycle(store, instance)
    key = store.keys.of("capital_efficiency", "BTCUSDT")
    store.client.delete(key)
    store.client.set(key, "junk")
    cycles(store, instance)
    assert checks(instance, "capital_efficiency", "fresh") == shown


@pytest.mark.slow
def test_a_step_reads_the_failures_of_its_asset_once(world, instance) -> None:
    """At 566 failing symbols one read is 100 kB."""
    run_cycle(world, instance)
    kill(world, "BTCUSDT")
    cycles(world, instance)
    world.clock.advance(10)
    with world.client.monitor() as monitor:
        run_cycle(world, instance)
        world.client.echo("the end")
        commands = list(iter(lambda: monitor.next_command()["command"], "ECHO the end"))
    reads = Counter(one.split()[1] for one in commands if one.startswith("HGETALL quantum:failures:"))
    assert reads == dict.fromkeys(reads, 1)
    assert "quantum:failures:market_state" in reads


def test_what_another_cycle_has_recorded_is_not_recorded_by_a_single_one(world, instance) -> None:
    """`quantum once` may run under other settings."""
    kill(world, "BTCUSDT")
    job = assemble(world).resolve_job_def(CYCLE_JOB_NAME)
    tags = {**cycle_tags(SYMBOLS, "once"), ONCE_TAG: "true"}
    assert job.execute_in_process(instance=instance, tags=tags, run_config=QUIET).success
    assert records(instance) == []
    assert hash_of(world, "shown", "market_state") == {}


def shown(at: float, code: str = "candles_missing", *, red: bool = True, storage: str = "here") -> Shown:
    return Shown(at, code, failed=red, storage=storage)


@pytest.mark.parametrize(
    ("before", "why", "expected"),
    [
        (None, "candles_missing", Due({"S": "candles_missing"})),
        (shown(990), "candles_missing", Due()),
        (shown(990), "candles_stale: 430 s", Due()),  # another reason within the minute
        (shown(930), "candles_stale: 430 s", Due({"S": "candles_stale: 430 s"})),
        (shown(990, red=False), "candles_missing", Due()),  # it flaps
        (shown(930, red=False), "candles_missing", Due({"S": "candles_missing"})),
        (shown(990, storage="there"), "candles_missing", Due({"S": "candles_missing"})),
        (shown(1000 - RENEWED_AFTER_SEC), "candles_missing", Due({"S": "candles_missing"})),
        (shown(2000), "candles_missing", Due({"S": "candles_missing"})),  # the clock was set back
        (shown(990), None, Due(recovered=("S",))),
        (shown(990, red=False), None, Due()),
        (shown(930, red=False), None, Due(forgotten=("S",))),
        (None, None, Due()),
    ],
)
def test_what_is_recorded_of_a_symbol_is_what_differs_from_what_is_shown(before, why, expected) -> None:
    known, failures = ({"S": before} if before else {}), ({"S": why} if why else {})
    assert decide(known, ["S"], failures, now=1000, storage="here", spacing_sec=60) == expected
