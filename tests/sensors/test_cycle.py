"""When a cycle starts, for what, and when it does not."""

import json
from datetime import timedelta

import dagster as dg
import pytest

from definitions import assemble
from resources.io_manager import CYCLE_ID_TAG
from resources.store.profiles import profile_now
from sensors.cycle import (
    CYCLE_JOB_NAME,
    FAST_FAMILY,
    SLOW_FAMILY,
    Request,
    Seen,
    Skip,
    cycle_tags,
    decide_cycle,
    due_in_sec,
    in_its_turn,
)
from sensors.overdue import UNFINISHED, overdue
from tests.conftest import START
from tests.world import real_closes, run_cycle, write_candles

NOW = 1_769_083_200.0
ALL = (*SLOW_FAMILY, *FAST_FAMILY)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")

DUE = [
    ("never evaluated", Seen(None, None, NOW), ALL),
    ("just evaluated, no new candle", Seen(NOW - 10, NOW - 30, NOW - 30), FAST_FAMILY),
    ("a new candle", Seen(NOW - 10, NOW - 30, NOW - 1), ALL),
    ("its interval has passed", Seen(NOW - 60, NOW - 70, NOW - 70), ALL),
    ("its interval has nearly passed and the next tick would be too late", Seen(NOW - 58, NOW - 70, NOW - 70), ALL),
    ("its interval has not passed", Seen(NOW - 57, NOW - 70, NOW - 70), FAST_FAMILY),
    ("no candle can be read", Seen(NOW - 10, NOW - 30, None), FAST_FAMILY),
]


@pytest.mark.parametrize(("seen", "assets"), [row[1:] for row in DUE], ids=[row[0] for row in DUE])
def test_market_state_is_due_on_a_new_candle_or_after_its_interval(seen, assets) -> None:
    """And the ten-second family always."""
    quiet = Seen(NOW - 10, NOW - 30, NOW - 30)
    decision = decide_cycle([quiet, seen], now_epoch=NOW, market_state_interval_sec=60, unfinished=None)
    assert decision == Request(assets)


NEWS = [
    ("a new candle first seen since", Seen(NOW - 10, NOW - 30, NOW - 1), NOW, ALL),
    ("a new candle that was judged and changed too little", Seen(NOW - 10, NOW - 30, NOW - 15), NOW - 11, FAST_FAMILY),
    ("a new candle whose evaluation failed", Seen(NOW - 20, NOW - 30, NOW - 15), NOW - 11, ALL),
]


@pytest.mark.parametrize(("seen", "candles_since", "assets"), [row[1:] for row in NEWS], ids=[row[0] for row in NEWS])
def test_a_candle_is_news_until_it_was_judged(seen, candles_since, assets) -> None:
    """Whether it changed the published state or not."""
    quiet = Seen(NOW - 10, NOW - 30, NOW - 30)
    decision = decide_cycle(
        [quiet, seen], now_epoch=NOW, market_state_interval_sec=60, unfinished=None, candles_since=candles_since
    )
    assert decision == Request(assets)


CANNOT_BE_COMPUTED = [
    ("never", Seen(None, None, None), NOW - 11, FAST_FAMILY),
    ("not since long ago", Seen(NOW - 3600, NOW - 3610, None), NOW - 11, FAST_FAMILY),
    ("with candles that have stopped", Seen(NOW - 3600, NOW - 3610, NOW - 3500), NOW - 11, FAST_FAMILY),
    ("and its candles came back", Seen(NOW - 3600, NOW - 3610, NOW - 1), NOW, ALL),
    ("and it has its first candles", Seen(None, None, NOW - 1), NOW, ALL),
    ("and its state is of the future", Seen(NOW + 3600, NOW, NOW), NOW - 11, ALL),
]


@pytest.mark.parametrize(
    ("seen", "candles_since", "assets"), [row[1:] for row in CANNOT_BE_COMPUTED], ids=[row[0] for row in CANNOT_BE_COMPUTED]
)
def test_a_symbol_that_cannot_be_computed_does_not_have_all_others_computed_in_every_cycle(seen, candles_since, assets) -> None:
    """It is asked for with its shard, and at once when candles changed."""
    quiet = Seen(NOW - 10, NOW - 30, NOW - 30)
    decision = decide_cycle(
        [quiet, seen], now_epoch=NOW, market_state_interval_sec=60, unfinished=None, candles_since=candles_since
    )
    assert decision == Request(assets)


def test_where_no_symbol_can_be_computed_every_cycle_tries() -> None:
    """Nothing is saved by waiting."""
    dead = Seen(NOW - 3600, NOW - 3610, None)
    decision = decide_cycle([dead, Seen()], now_epoch=NOW, market_state_interval_sec=60, unfinished=None, candles_since=NOW - 11)
    assert decision == Request(ALL)


def test_nothing_is_requested_while_the_previous_cycle_runs() -> None:
    """Two cycles at once would publish out of order."""
    decision = decide_cycle([Seen()], now_epoch=NOW, market_state_interval_sec=60, unfinished="abc")
    assert isinstance(decision, Skip)
    assert "abc" in decision.reason


@pytest.mark.parametrize(
    ("since_sec", "due"),
    [(0, False), (4.99, False), (5.01, False), (7.9, False), (8, True), (9.99, True), (10.01, True), (500, True), (-3600, True)],
)
def test_a_cycle_is_due_ten_seconds_after_the_last_request_whatever_the_daemon_thinks(since_sec, due) -> None:
    """A restarted daemon counts its unfinished tick as a new one; and a clock set back must not stop the loop for an hour."""
    assert (due_in_sec(1e9, 1e9 + since_sec, 10) <= 0) is due


@pytest.mark.parametrize(
    ("since_sec", "counts_as"), [(9.8, 0), (10, 0), (11.9, 0), (15, -5), (13, -3), (20.1, 0), (47, -7), (-3600, 0), (-3597, -3)]
)
def test_a_late_shard_goes_back_to_its_turn(since_sec, counts_as) -> None:
    """Whatever happened meanwhile: shards that drift into one turn want the same cores at once."""
    assert in_its_turn(1e9 - since_sec, 1e9, 10) - 1e9 == pytest.approx(counts_as)


@pytest.mark.parametrize(
    ("age_sec", "started", "late"), [(60, True, False), (61, True, True), (8, False, False), (9, False, True)]
)
def test_a_run_is_overdue_after_a_minute_and_a_request_after_a_cycle(age_sec, started, late) -> None:
    """Its worker was killed and tells nobody, or nobody ever took it."""
    assert (overdue(START - timedelta(seconds=age_sec), START, started=started) is not None) is late


def tick(store, instance, cursor=None):
    definitions = assemble(store)
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    return definitions.resolve_sensor_def("cycle")(context)


def test_the_sensor_is_on_from_the_start_and_covers_all_symbols(store, instance) -> None:
    """Nobody must remember to switch the loop on."""
    sensor = assemble(store).resolve_sensor_def("cycle")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds < 5  # the daemon's own step
    (request,) = tick(store, instance).run_requests
    cycle_id = request.tags[CYCLE_ID_TAG]
    assert cycle_id.startswith(f"c{int(store.clock().timestamp())}-")
    assert request.tags == {**cycle_tags(SYMBOLS, cycle_id), **profile_now(store).tags()}
    assert {key.to_user_string() for key in request.asset_selection} == set(ALL)


def test_after_a_cycle_only_the_fast_family_is_requested(store, instance) -> None:
    """The market state of a minute is not computed six times."""
    for symbol in SYMBOLS:
        write_candles(store, symbol, real_closes(symbol))
    run_cycle(store, instance)
    store.clock.advance(10)
    (request,) = tick(store, instance).run_requests
    assert {key.to_user_string() for key in request.asset_selection} == set(FAST_FAMILY)
    write_candles(store, "ETHUSDT", real_closes("ETHUSDT"))
    (request,) = tick(store, instance).run_requests
    assert {key.to_user_string() for key in request.asset_selection} == set(ALL)


def test_a_candle_that_changes_nothing_worth_publishing_is_judged_once(store, instance) -> None:
    """In a calm market every cycle would compute the market state of all symbols, because one of them was not published."""
    closes = {symbol: real_closes(symbol) for symbol in SYMBOLS}
    for symbol in SYMBOLS:
        write_candles(store, symbol, closes[symbol])
    run_cycle(store, instance)
    used = store.client.hget(store.keys.of("market_state", "ETHUSDT"), "ts_timestamp")
    store.clock.advance(10)
    cursor = tick(store, instance).cursor
    for symbol in SYMBOLS:  # the same closes once more, a moment newer
        write_candles(store, symbol, closes[symbol])
    store.clock.advance(10)
    result = tick(store, instance, cursor)
    assert {key.to_user_string() for key in result.run_requests[0].asset_selection} == set(ALL)
    store.client.delete(store.keys.of("newest_cycles"))  # this run stands for the one just requested
    run_cycle(store, instance)
    assert store.client.hget(store.keys.of("market_state", "ETHUSDT"), "ts_timestamp") == used
    store.clock.advance(10)
    result = tick(store, instance, result.cursor)
    assert {key.to_user_string() for key in result.run_requests[0].asset_selection} == set(FAST_FAMILY)


def test_a_failed_read_skips_with_its_reason_and_is_counted(make_store, instance) -> None:
    """It must never look like "nothing to do"."""
    store = make_store()
    gone = make_store(redis_url="redis://127.0.0.1:1")
    result = tick(gone, instance)
    assert "read failed" in result.skip_reason.skip_message
    assert "127.0.0.1:1" in result.skip_reason.skip_message
    assert '"failed_reads": 1' in result.cursor
    assert store is not gone


@pytest.mark.parametrize("status", sorted(set(UNFINISHED) - {dg.DagsterRunStatus.QUEUED}, key=str))  # queued needs a remote job
def test_the_sensor_is_late_for_every_state_of_an_unfinished_run(store, status, instance) -> None:
    """A run that has not started is as unfinished as one that has."""
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    run = instance.create_run_for_job(job, status=status, tags=cycle_tags(SYMBOLS, "c1"))
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=5)
    result = tick(store, instance)
    assert result.run_requests == []
    assert "late" in result.skip_reason.skip_message
    assert '"late": 1' in result.cursor


def test_a_run_that_never_finishes_is_failed_and_the_loop_goes_on(store, instance) -> None:
    """Nothing in Dagster does this by itself."""
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=cycle_tags(SYMBOLS, "c1"))
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=61)
    result = tick(store, instance)
    assert instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE
    assert len(result.run_requests) == 1
    assert '"ended": 1' in result.cursor


def test_each_shard_has_its_own_run_queue_and_lateness(make_store, instance) -> None:
    """One lost worker must not stop the symbols of the others."""
    store = make_store(symbols="AAUSDT,BBUSDT,CCUSDT,DDUSDT", shards=2)
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=cycle_tags(("AAUSDT", "BBUSDT"), "c1"))
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=5)
    asked_before = json.dumps({"shards": dict.fromkeys(("AAUSDT", "CCUSDT"), store.clock().timestamp() - 10)})
    (request,) = (result := tick(store, instance, asked_before)).run_requests
    store.clock.advance(5)
    instance.report_run_failed(instance.get_run_by_id(run.run_id))
    (late,) = (result := tick(store, instance, result.cursor)).run_requests
    store.clock.advance(5)
    assert len(tick(store, instance, result.cursor).run_requests) == 2  # both in their turn again
    assert late.tags["dagster/asset_partition_range_start"] == "AAUSDT"  # at the next tick: it does not wait for a whole cycle
    assert request.tags["dagster/asset_partition_range_start"] == "CCUSDT"
    assert request.tags["dagster/asset_partition_range_end"] == "DDUSDT"
    assert request.tags["dagster-celery/queue"] == "quantum-1"


def test_shards_begin_in_turns_and_each_keeps_its_ten_seconds(make_store, instance) -> None:
    """All of them at one moment would want the same cores, the same database and the same Redis."""
    store = make_store(symbols="AAUSDT,BBUSDT,CCUSDT,DDUSDT", shards=4)
    begun, cursor = [], None
    for _ in range(5):
        result = tick(store, instance, cursor)
        begun.append([request.tags["dagster/asset_partition_range_start"] for request in result.run_requests or ()])
        cursor = result.cursor
        store.clock.advance(5)
    one, other = ["AAUSDT", "CCUSDT"], ["BBUSDT", "DDUSDT"]
    assert begun == [one, other, one, other, one]


def test_a_lost_cycle_is_replaced_at_the_tick_that_notices(store, instance) -> None:
    """Five seconds of a stale stop are five seconds too many."""
    first = tick(store, instance)
    assert "not due" in tick(store, instance, first.cursor).skip_reason.skip_message
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=cycle_tags(SYMBOLS, "c1"))
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=61)
    cursor = json.dumps({"shards": {"BTCUSDT": store.clock().timestamp() - 1}})
    assert len(tick(store, instance, cursor).run_requests) == 1


def test_a_cycle_that_failed_with_its_server_is_replaced_at_the_next_tick_and_only_once(store, instance) -> None:
    """It waited for its turn: five seconds more without a cycle after each failover. A cycle that always fails must wait."""
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    replaced = []
    for status in (
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
    ):
        instance.create_run_for_job(job, status=status, tags=cycle_tags(SYMBOLS, "c1"))
        cursor = json.dumps({"shards": {"BTCUSDT": store.clock().timestamp() - 1}})
        replaced.append(len(tick(store, instance, cursor).run_requests or ()))
    assert replaced == [1, 0, 0, 1]


@pytest.mark.parametrize(("status", "lost"), [(dg.DagsterRunStatus.STARTING, True), (dg.DagsterRunStatus.STARTED, False)])
def test_what_nobody_had_begun_is_lost_with_the_server_that_held_its_queue(store, instance, monkeypatch, status, lost) -> None:
    """The promoted server has no such message: to wait for a worker to take it was 10 s without a cycle."""
    monkeypatch.setattr(type(store), "place", "127.0.0.1:1")
    (request,) = (result := tick(store, instance)).run_requests
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    run = instance.create_run_for_job(job, status=status, tags=request.tags)
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=1)
    cursor = json.dumps({**json.loads(result.cursor), "shards": {"BTCUSDT": store.clock().timestamp() - 1}})
    assert not tick(store, instance, cursor).run_requests
    monkeypatch.setattr(type(store), "place", "127.0.0.1:2")
    assert bool(tick(store, instance, cursor).run_requests) is lost
    assert (instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE) is lost
