"""The risk guard in real cycles: one account beside many symbols, guards that live for their time, each announced once."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import dagster as dg
import pytest

from definitions import assemble
from quantum_core.contracts.schema import COMMON
from quantum_core.contracts.tables import RISK_GUARD
from quantum_core.kernels.governor.risk_guard import assess
from quantum_core.settings import load_settings
from resources.governor.account import read_account
from resources.governor.guards import enforce
from resources.instance.home import open_instance
from resources.store.redis_store import RedisStore
from tests.world import QUIET, hash_of, materialized, real_closes, recorded, run_cycle, write_candles, write_equity

GUARD = "quantum:risk:guard_active:"
EVENTS = "quantum:stream:risk.events"
ASSET = dg.AssetKey("risk_guard")


def state(store: RedisStore) -> dict[str, str]:
    return hash_of(store, "risk_guard", "account")


def events(store: RedisStore) -> list[dict[str, str]]:
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in store.client.xrange(EVENTS)]


def materializations(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> list[str | None]:
    return [partition for asset, partition in recorded(instance, result) if asset == ASSET.path[-1]]


def test_one_account_is_judged_once_in_a_cycle_of_many_symbols(store, instance) -> None:
    """Dagster runs an asset without partitions inside a run over a range, and nobody invents a partition for it."""
    write_equity(store)
    for symbol in store.settings.symbols:
        write_candles(store, symbol, real_closes(symbol))
    result = run_cycle(store, instance)
    assert result.success
    assert materializations(instance, result) == [None]
    assert instance.get_latest_materialization_event(ASSET) is not None
    assert materialized(instance, "risk_guard") == set()
    assert materialized(instance, "governor_permit") == set(store.settings.symbols)
    fields = state(store)
    assert set(fields) == {field.name for field in (*COMMON, *RISK_GUARD.fields)}
    assert (fields["status"], fields["guards"], fields["equity"], fields["drawdown"]) == ("ok", "", "10000.0", "0.0")
    assert 0 < store.client.ttl("quantum:risk:guard:state") <= 600


def test_it_is_judged_before_the_governor_decides(store, instance) -> None:
    """A permit of this cycle must not rest on the account of the last."""
    write_equity(store)
    order = [event.step_key for event in run_cycle(store, instance).all_events if event.is_step_success]
    assert order.index("risk_guard") < order.index("governor_permit")


def test_the_products_own_storage_records_it_without_a_partition(store, tmp_path) -> None:
    """The loop's materializations take a shorter way into the event log than Dagster's."""
    write_equity(store)
    with open_instance(load_settings(quantum_home=tmp_path / "own")) as instance:
        run_cycle(store, instance)
        (record,) = instance.fetch_materializations(ASSET, limit=5).records
    assert record.partition_key is None
    assert record.asset_materialization.metadata["status"].value == "ok"
    assert record.asset_materialization.metadata["equity"].value == 10_000.0


def test_it_is_materialized_alone_without_a_partition(store, instance) -> None:
    """What an operator does from the user interface."""
    write_equity(store)
    job = assemble(store).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, asset_selection=[ASSET], run_config=QUIET)
    assert materializations(instance, result) == [None]
    assert state(store)["status"] == "ok"


@pytest.mark.slow
def test_a_materialization_only_when_guards_or_errors_change_or_after_a_minute(store, instance, clock) -> None:
    """Freshness goes on, the history stays short."""
    write_equity(store)
    assert len(materializations(instance, run_cycle(store, instance))) == 1
    clock.advance(10)
    write_equity(store, equity=9_900.0)
    assert materializations(instance, run_cycle(store, instance)) == []
    told = state(store)
    assert (told["last_update_epoch"], told["equity"]) == (str(int(clock.now.timestamp())), "9900.0")
    clock.advance(10)
    store.client.set("quantum:risk:consecutive_losses", 3)
    assert len(materializations(instance, run_cycle(store, instance))) == 1  # a guard
    clock.advance(10)
    store.client.hdel("quantum:equity:current", "peak")
    assert len(materializations(instance, run_cycle(store, instance))) == 1  # an error
    clock.advance(10)
    assert materializations(instance, run_cycle(store, instance)) == []
    clock.advance(60)
    assert len(materializations(instance, run_cycle(store, instance))) == 1


def test_an_emergency_is_announced_as_the_specification_writes_it(store, instance, clock) -> None:
    """Field by field: programs that are not ours read these."""
    write_equity(store, equity=7_830.0)
    run_cycle(store, instance)
    first, began = repr(clock.now.timestamp()), clock.now
    waiting = json.loads(store.client.get(f"{GUARD}EMERGENCY_FLATTEN"))
    assert waiting == {
        "guard_type": "EMERGENCY_FLATTEN",
        "reason": "EMERGENCY_FLATTEN drawdown=21.7% > 10.0%",
        "activated_at": began.isoformat(),
        "expires_at": (began + timedelta(seconds=70)).isoformat(),
        "source": "risk_guard",
        "pending": True,
        "confirm_sec": 10,
    }
    assert 60 < store.client.ttl(f"{GUARD}EMERGENCY_FLATTEN") <= 70
    assert [(event["event"], event["guard_type"], event["confirm_sec"]) for event in events(store)] == [
        ("RISK_GUARD_PENDING", "DRAWDOWN", "10"),
        ("RISK_GUARD_PENDING", "EMERGENCY_FLATTEN", "10"),
    ]
    told = state(store)
    assert (told["guards"], told["pending"], told["status"]) == ("DRAWDOWN,EMERGENCY_FLATTEN",) * 2 + ("blocked",)
    clock.advance(10)
    write_equity(store, equity=7_830.0)
    run_cycle(store, instance)
    now = clock.now
    readings = {"first_reading": first, "reading": repr(now.timestamp())}
    guard = json.loads(store.client.get(f"{GUARD}EMERGENCY_FLATTEN"))
    assert guard == {
        "guard_type": "EMERGENCY_FLATTEN",
        "reason": "EMERGENCY_FLATTEN drawdown=21.7% > 10.0%",
        "activated_at": now.isoformat(),
        "expires_at": (now + timedelta(seconds=14_400)).isoformat(),
        "source": "risk_guard",
    }
    assert 14_390 < store.client.ttl(f"{GUARD}EMERGENCY_FLATTEN") <= 14_400
    assert 3_590 < store.client.ttl(f"{GUARD}DRAWDOWN") <= 3_600
    cycle_id, timestamp = f"t{now.timestamp():.6f}", str(int(now.timestamp()))
    assert events(store)[2:] == [
        {
            "event": "RISK_GUARD_ACTIVATED", "guard_type": "DRAWDOWN", "reason": "DRAWDOWN drawdown=21.7% > 8.0%",
            "duration_sec": "3600", "timestamp": timestamp, "cycle_id": cycle_id, **readings,
        },
        {
            "event": "RISK_GUARD_ACTIVATED", "guard_type": "EMERGENCY_FLATTEN",
            "reason": "EMERGENCY_FLATTEN drawdown=21.7% > 10.0%", "duration_sec": "14400", "timestamp": timestamp,
            "cycle_id": cycle_id, **readings,
        },
        {
            "event": "EMERGENCY_FLATTEN_REQUESTED", "reason": "drawdown_breach", "timestamp": timestamp, "cycle_id": cycle_id,
            **readings,
        },
    ]  # fmt: skip
    assert (state(store)["guards"], state(store)["pending"]) == ("DRAWDOWN,EMERGENCY_FLATTEN", "")


@pytest.mark.slow
def test_a_live_guard_is_not_announced_twice_and_a_new_one_is(store, instance, clock) -> None:
    """Who flattens on the event must not flatten every ten seconds."""
    for _ in range(4):
        write_equity(store, equity=8_900.0)
        run_cycle(store, instance)
        clock.advance(10)
    assert len(events(store)) == 5
    store.client.delete(f"{GUARD}DRAWDOWN")  # as if its hour were over; the server's clock is not the test's
    for _ in range(3):
        write_equity(store, equity=8_900.0)
        run_cycle(store, instance)
        clock.advance(10)
    told = [(event["event"], event["guard_type"]) for event in events(store)[5:]]
    assert told == [("RISK_GUARD_PENDING", "DRAWDOWN"), ("RISK_GUARD_ACTIVATED", "DRAWDOWN")]


@pytest.mark.slow
def test_a_guard_outlives_the_breach_it_was_set_for(store, instance, clock) -> None:
    """A recovery of a minute is no reason to open again."""
    for equity in (9_100.0, 9_100.0, 10_000.0):
        write_equity(store, equity=equity)
        run_cycle(store, instance)
        clock.advance(10)
    told = state(store)
    assert (told["status"], told["guards"], told["triggered"], told["drawdown"]) == ("blocked", "DRAWDOWN", "", "0.0")


def test_evaluations_at_once_announce_a_guard_once(store, server_url, clock) -> None:
    """Two hosts run the loop by mistake."""
    stores = [RedisStore(load_settings(redis_url=server_url), clock) for _ in range(4)]
    outcomes = []
    for _ in range(2):
        write_equity(store, equity=8_000.0)
        account = read_account(store)
        found = assess(account.account)
        with ThreadPoolExecutor(4) as pool:
            outcomes += pool.map(lambda one: enforce(one, account, found, cycle_id="c1"), stores * 5)  # noqa: B023 - used at once
        clock.advance(10)
    assert [event["event"] for event in events(store)].count("RISK_GUARD_PENDING") == 2
    assert len(events(store)) == 5
    assert sum(len(one.announced) for one in outcomes) == 2
    assert {one.live for one in outcomes} == {("DRAWDOWN", "EMERGENCY_FLATTEN")}
    for one in stores:
        one.client.close()


def test_a_stale_equity_blocks_without_an_event_until_it_is_fresh_again(store, instance, clock) -> None:
    """The writer died and came back: nobody needs to be told twice a day, and nobody must wait for a lifetime to end."""
    write_equity(store, age_sec=301)
    run_cycle(store, instance)
    first = json.loads(store.client.get(f"{GUARD}EQUITY_STALE"))
    assert first["reason"] == "EQUITY_STALE age=301s > 300s"
    assert 0 < store.client.ttl(f"{GUARD}EQUITY_STALE") <= 60
    store.client.expire(f"{GUARD}EQUITY_STALE", 5)
    clock.advance(10)
    run_cycle(store, instance)
    renewed = json.loads(store.client.get(f"{GUARD}EQUITY_STALE"))
    assert renewed["activated_at"] == first["activated_at"]
    assert datetime.fromisoformat(renewed["expires_at"]) == clock.now + timedelta(seconds=60)
    assert store.client.ttl(f"{GUARD}EQUITY_STALE") > 50
    assert (state(store)["status"], state(store)["guards"]) == ("blocked", "EQUITY_STALE")
    write_equity(store)
    run_cycle(store, instance)
    assert store.client.exists(f"{GUARD}EQUITY_STALE") == 0
    assert (state(store)["status"], state(store)["guards"]) == ("ok", "")
    assert events(store) == []


def test_without_an_equity_nothing_is_opened(store, instance) -> None:
    """A feed that never started is as stale as one that stopped."""
    run_cycle(store, instance)
    assert state(store)["reason"] == "EQUITY_STALE no equity"
    assert (state(store)["status"], state(store)["equity"], state(store)["errors"]) == ("blocked", "", "")


def test_a_missing_peak_is_an_error_and_blocks_nothing_by_a_default(store, instance) -> None:
    """It is the governor that says no to what is not known; no invented drawdown says yes or no for it."""
    write_equity(store)
    store.client.hdel("quantum:equity:current", "peak")
    assert run_cycle(store, instance).success
    told = state(store)
    assert (told["status"], told["errors"], told["guards"], told["peak"], told["drawdown"]) == ("error", "peak", "", "", "")
    assert told["reason"] == "peak cannot be used: quantum:equity:current: peak is missing"
    assert store.client.keys(f"{GUARD}*") == []
    assert store.client.hget("quantum:equity:current", "peak") is None


@pytest.mark.slow
def test_an_unusable_equity_neither_removes_nor_renews_what_stood(store, instance, clock) -> None:
    """Unknown is not fresh."""
    write_equity(store, age_sec=400)
    run_cycle(store, instance)
    before = store.client.get(f"{GUARD}EQUITY_STALE")
    store.client.hset("quantum:equity:current", "equity", "abc")
    clock.advance(10)
    run_cycle(store, instance)
    assert store.client.get(f"{GUARD}EQUITY_STALE") == before
    assert state(store)["errors"] == "equity"


def test_with_shards_the_account_is_judged_in_the_first_run_only(make_store) -> None:
    """Four runs would judge it four times at once."""
    store = make_store(symbols="AAUSDT,BBUSDT,CCUSDT", shards=3)
    definitions = assemble(store)
    with dg.instance_for_test() as instance:
        cursor = json.dumps({"shards": dict.fromkeys(store.settings.symbols, 0)})  # all of them are due
        context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
        requests = definitions.resolve_sensor_def("cycle")(context).run_requests
    assert [ASSET in request.asset_selection for request in requests] == [True, False, False]
    assert all(dg.AssetKey("governor_permit") in request.asset_selection for request in requests)
