"""One stack runs the loop, and an overtaken cycle publishes nothing."""

import json
import shutil
import time
from datetime import timedelta

import dagster as dg
import pytest
import redis
from celery import Celery

from definitions import assemble
from quantum_core.contracts.tables import MARKET_STATE
from quantum_core.settings import load_settings
from resources.instance.dagster_internals import storage_id
from resources.instance.launcher import celery_arguments, keep_apart
from resources.store.lease import (
    LEASE_SEC,
    OvertakenError,
    other_holder,
    other_host,
    owner,
    require_newest,
    standing_by,
)
from sensors.cycle import CYCLE_JOB_NAME, cycle_tags, cycles_of
from sensors.plans import PLANS_JOB_NAME
from sensors.proofs import PROOFS_JOB_NAME
from tests.world import hash_of, real_closes, run_cycle, write_candles, write_position


@pytest.fixture(params=["valkey_url", "redis_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Both servers: the lease is their script."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def two(make_store, tmp_path):
    """Two stacks on one server, each with an instance folder of its own."""
    return make_store(), make_store(quantum_home=tmp_path / "second")


def tick(store, instance, sensor="cycle"):
    definitions = assemble(store)
    return definitions.resolve_sensor_def(sensor)(dg.build_sensor_context(instance=instance, definitions=definitions))


def test_of_two_stacks_one_holds_the_lease_and_the_other_is_told_by_whom(two) -> None:
    first, second = two
    assert other_holder(first, "one") == ""
    assert other_holder(second, "one") == owner(first.settings, "one")
    assert other_holder(first, "one") == ""
    assert 0 < first.client.pttl(first.keys.of("lease")) <= LEASE_SEC * 1000


def test_a_stack_that_restarts_keeps_its_lease_and_one_that_died_loses_it(two, make_store) -> None:
    """A restarted daemon goes on at once; the other one takes over when the lease has lapsed."""
    first, second = two
    other_holder(first, "one")
    assert other_holder(make_store(), "one") == ""
    first.client.pexpire(first.keys.of("lease"), 1)
    time.sleep(0.01)
    assert other_holder(second, "one") == ""
    assert other_holder(first, "one") == owner(second.settings, "one")


def test_only_the_holder_requests_anything(two) -> None:
    """Cycles, plans and proofs: two of each would publish everything twice."""
    first, second = two
    with dg.instance_for_test() as one, dg.instance_for_test() as another:
        (request,) = tick(first, one).run_requests
        for sensor in ("cycle", "plans", "proofs"):
            result = tick(second, another, sensor)
            assert not result.run_requests
            assert owner(first.settings, storage_id(one)) in result.skip_reason.skip_message
        newest = first.client.hgetall(first.keys.of("newest_cycles"))
    assert newest == {symbol.encode(): request.tags["quantum/cycle_id"].encode() for symbol in first.settings.symbols}


@pytest.mark.parametrize(("sensor", "job"), [("cycle", CYCLE_JOB_NAME), ("plans", PLANS_JOB_NAME), ("proofs", PROOFS_JOB_NAME)])
def test_a_stand_by_on_the_same_storage_whose_clock_is_ahead_fails_no_run_of_the_holder(two, sensor, job, instance) -> None:
    """To its clock every run of the other one is overdue."""
    first, second = two
    other_holder(first, storage_id(instance))
    run = instance.create_run_for_job(assemble(first).resolve_job_def(job), status=dg.DagsterRunStatus.STARTED)
    second.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=3600)
    result = tick(second, instance, sensor)
    assert "standing by" in result.skip_reason.skip_message
    assert instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.STARTED


def test_the_daemon_of_a_second_host_on_the_same_storage_waits_for_the_end_of_the_lease(two) -> None:
    """Two of them would take each other's ticks: Dagster keeps the time of the last one in the storage."""
    first, second = two
    assert other_host(second, "one") == ""  # nobody holds it
    other_holder(first, "one")
    assert other_host(first, "one") == ""  # it holds it itself
    assert other_host(second, "another") == ""  # its own storage, its own ticks
    assert other_host(second, "one") == owner(first.settings, "one")


def test_containers_that_share_an_instance_folder_are_one_stack(two, monkeypatch) -> None:
    """Each has a host name of its own; the daemon must not take the lease of its own code server for another host's."""
    first, second = two
    other_holder(first, "one")
    for stack in two:
        monkeypatch.setattr("socket.gethostname", lambda: "daemon")
        owner.cache_clear()
        assert bool(other_host(stack, "one")) == (stack is second)


def test_a_copy_of_an_instance_folder_on_the_same_machine_is_another_stack(tmp_path) -> None:
    """Two containers have one kernel, and a volume that was copied keeps its path."""
    home, kept = tmp_path / "q", tmp_path / "kept"
    home.mkdir()
    settings = load_settings(quantum_home=home)
    first = owner(settings, "one")
    owner.cache_clear()
    assert owner(settings, "one") == first
    home.rename(kept)
    shutil.copytree(kept, home)
    owner.cache_clear()
    assert owner(settings, "one") != first


def test_cycles_of_two_stacks_never_have_the_same_id(two) -> None:
    """Two clocks in the same second: the mark of the newest cycle must tell them apart."""
    first, second = two
    assert cycles_of(first.settings, 1e9)[0].cycle_id != cycles_of(second.settings, 1e9)[0].cycle_id


def test_a_dagster_dev_beside_the_stack_stands_by_although_its_settings_are_the_same(store) -> None:
    """It has an instance of its own, whose sensors are on from the start."""
    assert other_holder(store, "one") == ""
    assert other_holder(store, "two") == owner(store.settings, "one")


def test_a_stack_that_stands_by_leaves_no_sign_of_life_of_the_daemon(two, instance) -> None:
    """It would hide that the one that holds the lease has hung."""
    first, second = two
    other_holder(first, "one")
    tick(second, instance)
    assert first.client.get(first.keys.of("heartbeat", "daemon")) is None


@pytest.mark.slow
def test_only_the_sensor_that_requests_cycles_holds_the_lease(two) -> None:
    """A stack whose cycle sensor is off would else hold the loop, and never run it, for ever."""
    first, second = two
    with dg.instance_for_test() as one, dg.instance_for_test() as another:
        for sensor in ("plans", "proofs"):
            tick(first, one, sensor)
            assert not first.client.exists(first.keys.of("lease"))
        assert tick(second, another).run_requests
        second.client.pexpire(second.keys.of("lease"), 1000)
        tick(second, another, "plans")
        assert second.client.pttl(second.keys.of("lease")) <= 1000


@pytest.mark.slow
def test_a_tick_that_cannot_look_leaves_the_lease_to_a_stand_by(two, monkeypatch) -> None:
    first, second = two
    with dg.instance_for_test() as one, dg.instance_for_test() as another:
        with monkeypatch.context() as broken:
            broken.setattr("sensors.cycle.look", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                tick(first, one)
        assert not first.client.exists(first.keys.of("lease"))
        assert tick(second, another).run_requests


def test_a_second_stack_is_told_of_until_it_is_gone(two) -> None:
    first, second = two
    other_holder(first, "one")
    assert standing_by(first) == ()
    other_holder(second, "one")
    assert standing_by(first) == [owner(second.settings, "one"), owner(first.settings, "one")]
    first.client.delete(first.keys.of("lease"))
    other_holder(second, "one")
    assert standing_by(first) == ()  # it is the only one now


def test_nobody_takes_over_while_the_lease_cannot_be_read(two, instance) -> None:
    """Unknown means no: what stands there is somebody's."""
    first, _ = two
    first.client.hset(first.keys.of("lease"), "a", "b")
    with pytest.raises(redis.ResponseError):
        other_holder(first, "one")
    result = tick(first, instance)
    assert not result.run_requests
    assert "WRONGTYPE" in result.skip_reason.skip_message


def test_an_overtaken_cycle_publishes_nothing(store, clock, instance) -> None:
    """Its worker hung, or was cut off, while a newer cycle ran; what it still has in hand is old."""
    for symbol in store.settings.symbols:
        write_candles(store, symbol, real_closes(symbol))
        write_position(store, symbol)
    assert run_cycle(store, instance).success
    before = hash_of(store, MARKET_STATE.key, "BTCUSDT")
    entries = store.client.xlen(store.keys.of("stream_market_state"))
    clock.advance(70)
    store.client.hset(store.keys.of("newest_cycles"), "BTCUSDT", "c-newer")
    run = run_cycle(store, instance, raise_on_error=False)
    assert not run.success
    assert "overtaken by c-newer" in str([event.event_specific_data for event in run.all_events if event.is_step_failure])
    assert hash_of(store, MARKET_STATE.key, "BTCUSDT") == before
    assert store.client.xlen(store.keys.of("stream_market_state")) == entries


def test_the_newest_cycle_of_each_symbol_and_one_nobody_announced_may_publish(store) -> None:
    """After Redis has lost its memory the loop goes on; and shards do not overtake each other."""
    require_newest(store, ["BTCUSDT", "ETHUSDT"], "c1")
    other_holder(store, "one", {"BTCUSDT": "c2", "ETHUSDT": "c2", "SOLUSDT": "c1"})
    require_newest(store, ["BTCUSDT", "ETHUSDT"], "c2")
    require_newest(store, ["SOLUSDT"], "c1")
    with pytest.raises(OvertakenError, match="c1 was overtaken by c2"):
        require_newest(store, ["BTCUSDT", "ETHUSDT"], "c1")


def test_a_stack_with_other_symbols_overtakes_the_runs_it_shares_symbols_with(make_store, clock, instance) -> None:
    """Two stacks by mistake are seldom set up alike; the first symbol of a shard would tell nothing."""
    hung, other = (make_store(symbols=names) for names in ("AAUSDT,BBUSDT,CCUSDT", "BBUSDT"))
    (request,) = tick(hung, instance).run_requests
    for symbol in hung.settings.symbols:
        write_candles(hung, symbol, real_closes("BTCUSDT"))
        write_position(hung, symbol)
    clock.advance(1)
    hung.client.delete(hung.keys.of("lease"))  # it lapsed while the first stack hung
    assert tick(other, instance).run_requests
    job = assemble(hung).resolve_job_def(CYCLE_JOB_NAME)
    run = job.execute_in_process(instance=instance, tags=request.tags, raise_on_error=False)
    assert not run.success
    assert not hung.client.exists(hung.keys.of("stream_market_state"))


def test_only_the_shard_that_was_given_up_is_requested_before_its_time(make_store, instance) -> None:
    """One host is cut off: its shard is asked for again, the others keep their ten seconds."""
    store = make_store(symbols="AAUSDT,BBUSDT,CCUSDT,DDUSDT", shards=2)
    definitions = assemble(store)
    job = definitions.resolve_job_def(CYCLE_JOB_NAME)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=cycle_tags(("CCUSDT", "DDUSDT"), "c0"))
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=61)
    cursor = json.dumps({"shards": dict.fromkeys(("AAUSDT", "CCUSDT"), store.clock().timestamp() - 5)})
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    result = definitions.resolve_sensor_def("cycle")(context)
    (request,) = result.run_requests
    assert request.tags["dagster/asset_partition_range_start"] == "CCUSDT"
    assert json.loads(result.cursor)["shards"] == json.loads(cursor)["shards"]
    assert store.client.hkeys(store.keys.of("newest_cycles")) == [b"CCUSDT", b"DDUSDT"]


def test_two_instances_on_one_broker_keep_their_runs_apart() -> None:
    """A worker that took another instance's run would not find it, and the run would be lost."""
    prefixes = []
    for _ in range(2):
        arguments = celery_arguments(load_settings())
        del arguments["default_queue"]
        app = Celery("apart", set_as_current=False, **arguments)
        with dg.instance_for_test() as instance:
            keep_apart(app, instance)
            keep_apart(app, instance)
        prefixes.append(app.conf.broker_transport_options["global_keyprefix"])
    assert prefixes[0] != prefixes[1]


@pytest.mark.parametrize("sensor", ["cycle", "plans", "proofs"])
def test_what_is_no_lease_is_named_and_does_not_stand_for_ever(store, instance, sensor) -> None:
    """`SET quantum:lease garbage` stopped the loop until somebody found the key."""
    key = store.keys.of("lease")
    store.client.set(key, "garbage")
    told = tick(store, instance, sensor).skip_reason.skip_message
    assert told.startswith(f"standing by: the lease {key} holds something that is no lease ('garbage'); delete it")
    assert 0 < store.client.pttl(key) <= 60_000
    store.client.pexpire(key, 1)
    while store.client.exists(key):
        pass
    assert other_holder(store, "one") == ""


@pytest.mark.parametrize("lifetime", [None, 86_400])
def test_a_key_that_would_outlive_every_lease_is_given_a_minute(two, lifetime) -> None:
    """Also one that names a stack, and one of another type."""
    first, _ = two
    first.client.set(first.keys.of("lease"), "name:/home:boot:storage", ex=lifetime)
    assert other_holder(first, "one", renew=False) == "name:/home:boot:storage"
    assert 0 < first.client.pttl(first.keys.of("lease")) <= 60_000
    first.client.delete(first.keys.of("lease"))
    first.client.hset(first.keys.of("lease"), "a", "b")
    with pytest.raises(redis.ResponseError):
        other_holder(first, "one", renew=False)
    assert 0 < first.client.pttl(first.keys.of("lease")) <= 60_000
