"""A new candle or another position starts a cycle for its symbols at once, and nothing else does."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import pytest

from definitions import assemble
from resources.inputs.news import Inputs, NewsFilter, held_as, read_answered, read_inputs
from resources.instance.range_tags import EVENT_TAG, RANGE_TAGS, TAG_CHARS_MAX, covered, event_tags, symbols_of
from resources.io_manager import CYCLE_ID_TAG
from resources.store.awaited import ring_if_awaited
from resources.store.lease import OvertakenError
from sensors.cycle import (
    CYCLE_JOB_NAME,
    EVENT_JOB_NAME,
    RING_SLACK_SEC,
    cycle_tags,
    due_in_sec,
    in_step,
)
from sensors.events import OF_CANDLE, OF_POSITION, Event, Wait, decide_event
from tests.conftest import START
from tests.world import (
    QUIET,
    hash_of,
    materialized,
    real_closes,
    recorded,
    write_candles,
    write_position,
    write_world,
)

FIRST, SECOND, THIRD = SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
LONG, SHORT = held_as("LONG", "100.0", "2.0"), held_as("SHORT", "100.0", "2.0")
OLD, NEW = 1_000, 1_060

DECISIONS = [
    ("nothing is known to be new", Inputs(NEW, LONG), None, Inputs(), None),
    ("a newer candle than was used", Inputs(NEW, LONG), Inputs(OLD, LONG), Inputs(), Event(candles=(FIRST,))),
    ("a candle of a symbol that has no state", Inputs(NEW, ""), Inputs(None, ""), Inputs(), Event(candles=(FIRST,))),
    ("the same candle", Inputs(OLD, LONG), Inputs(OLD, LONG), Inputs(), None),
    ("an older candle than was used", Inputs(OLD, LONG), Inputs(NEW, LONG), Inputs(), None),
    ("a candle that was asked for, and changed nothing worth publishing", Inputs(NEW, ""), Inputs(OLD, ""), Inputs(NEW), None),
    ("a newer one than was asked for", Inputs(NEW + 60, ""), Inputs(OLD, ""), Inputs(NEW), Event(candles=(FIRST,))),
    ("candles that cannot be read", Inputs(None, LONG), Inputs(OLD, LONG), Inputs(), None),
    ("another side", Inputs(OLD, SHORT), Inputs(OLD, LONG), Inputs(), Event(positions=(FIRST,))),
    ("another size", Inputs(OLD, LONG), Inputs(OLD, held_as("LONG", "100.0", "3.0")), Inputs(), Event(positions=(FIRST,))),
    ("another entry", Inputs(OLD, LONG), Inputs(OLD, held_as("LONG", "99.0", "2.0")), Inputs(), Event(positions=(FIRST,))),
    ("opened", Inputs(OLD, LONG), Inputs(OLD, ""), Inputs(), Event(positions=(FIRST,))),
    ("closed", Inputs(OLD, ""), Inputs(OLD, LONG), Inputs(), Event(positions=(FIRST,))),
    ("a position that was asked for and cannot be tracked", Inputs(OLD, SHORT), Inputs(OLD, LONG), Inputs(None, SHORT), None),
    ("a position that cannot be read", Inputs(OLD, None), Inputs(OLD, LONG), Inputs(), None),
    ("a tracked position that cannot be read", Inputs(OLD, LONG), Inputs(OLD, None), Inputs(), None),
    ("both", Inputs(NEW, SHORT), Inputs(OLD, LONG), Inputs(), Event((FIRST,), (FIRST,))),
]


@pytest.mark.parametrize(
    ("inputs", "answered", "asked", "decision"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS]
)
def test_an_event_is_what_no_cycle_has_answered_and_none_was_asked_for(inputs, answered, asked, decision) -> None:
    """What cannot be published is asked for once, not every two seconds."""
    known = {} if answered is None else {FIRST: answered}
    decided = decide_event(SYMBOLS, {FIRST: inputs}, answered=known, asked={FIRST: asked}, unfinished=None, since_last_sec=100)
    assert decided == decision


WAITS = [
    ("free", None, 2.0, Event),
    ("a run is unfinished", "r1", 100, Wait),
    ("too soon", None, 1.5, Wait),
    ("set back", None, -9, Event),
]


@pytest.mark.parametrize(("unfinished", "since_sec", "kind"), [row[1:] for row in WAITS], ids=[row[0] for row in WAITS])
def test_an_event_waits_for_the_run_of_its_shard_and_for_two_seconds(unfinished, since_sec, kind) -> None:
    """Two runs at once would publish out of order; and a burst must not be a run for each candle."""
    inputs, answered = {SECOND: Inputs(NEW, LONG)}, {SECOND: Inputs(OLD, LONG)}
    decided = decide_event(SYMBOLS, inputs, answered=answered, asked={}, unfinished=unfinished, since_last_sec=since_sec)
    assert isinstance(decided, kind)
    assert getattr(decided, "run_id", None) == unfinished


SHARD = tuple(f"S{number:03d}USDT" for number in range(300))
BURSTS = [
    ("one symbol", 1, 0, 0.0, False),
    ("fewer than a burst has", 9, 0, 0.0, False),
    ("a burst that has begun", 10, 0, 0.0, True),
    ("that has grown", 20, 10, 0.4, True),
    ("that has not", 20, 20, 0.4, False),
    ("that was let grow", 20, 10, 0.6, False),
    ("all there are", 300, 10, 0.0, False),
    ("set back", 10, 0, -9, False),
]


@pytest.mark.parametrize(("count", "before", "waited_sec", "grows"), [row[1:] for row in BURSTS], ids=[row[0] for row in BURSTS])
def test_a_burst_is_let_grow_for_half_a_second(count, before, waited_sec, grows) -> None:
    """Started with its first symbols, its cycle would keep the rest waiting for two seconds."""
    answered = dict.fromkeys(SHARD, Inputs(OLD, LONG))
    inputs = answered | dict.fromkeys(SHARD[:count], Inputs(NEW, LONG))
    event = Event(SHARD[:count])
    decided = decide_event(
        SHARD, inputs, answered=answered, asked={}, unfinished=None, since_last_sec=9, before=before, waited_sec=waited_sec
    )
    assert decided == (Wait(event, grows=True) if grows else event)


TURNS = [
    ("it ends before the turn", 1.0, 0.8, False),
    ("a little after", 0.75, 0.8, False),
    ("later", 0.6, 0.8, True),
    ("nobody knows what it takes", 0.4, 0.0, False),
    ("it takes long", 2.4, 40.0, True),
    ("it takes very long", 2.6, 40.0, False),
]


@pytest.mark.parametrize(("until_turn_sec", "held"), [(0.9, True), (1.1, False)])
def test_a_burst_is_not_left_to_the_turn_as_long_before(until_turn_sec, held) -> None:
    """Many symbols would wait for it."""
    answered = dict.fromkeys(SHARD, Inputs(OLD, LONG))
    event = Event(SHARD[:50])
    decided = decide_event(
        SHARD,
        answered | dict.fromkeys(event.candles, Inputs(NEW, LONG)),
        answered=answered,
        asked={},
        unfinished=None,
        since_last_sec=9,
        waited_sec=1,
        until_turn_sec=until_turn_sec,
        takes_sec=5,
    )
    assert decided == (Wait(event, for_turn=True) if held else event)


@pytest.mark.parametrize(("until_turn_sec", "takes_sec", "held"), [row[1:] for row in TURNS], ids=[row[0] for row in TURNS])
def test_an_event_that_would_run_into_the_turn_of_the_cadence_is_left_to_it(until_turn_sec, takes_sec, held) -> None:
    """The cycle of all symbols answers it as well, and would else begin late."""
    inputs, answered = {SECOND: Inputs(NEW, LONG)}, {SECOND: Inputs(OLD, LONG)}
    decided = decide_event(
        SYMBOLS,
        inputs,
        answered=answered,
        asked={},
        unfinished=None,
        since_last_sec=9,
        until_turn_sec=until_turn_sec,
        takes_sec=takes_sec,
    )
    assert decided == (Wait(Event((SECOND,)), for_turn=True) if held else Event((SECOND,)))


def test_symbols_with_candles_and_positions_are_one_event() -> None:
    """In the order of the shard, wherever they stand in it; candles need more assets than positions."""
    inputs = {FIRST: Inputs(NEW, LONG), SECOND: Inputs(OLD, LONG), THIRD: Inputs(OLD, SHORT)}
    answered = dict.fromkeys(SYMBOLS, Inputs(OLD, LONG))
    event = decide_event(SYMBOLS, inputs, answered=answered, asked={}, unfinished=None, since_last_sec=9)
    assert event == Event((FIRST,), (THIRD,))
    assert event.symbols == {FIRST, THIRD}
    assert event.assets == OF_CANDLE
    assert Event(positions=(FIRST,)).assets == OF_POSITION


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("A", "A"), ("AC", "A,C"), ("ABC", "A..C"), ("BCE", "B..C,E"), ("ABCDE", "A..E"), ("E", "E"),
    ],
)  # fmt: skip
def test_a_tag_names_the_symbols_of_an_event(changed, named) -> None:
    """Dagster's range is contiguous; ours need not be, and comes back as it was."""
    tags = event_tags("ABCDE", set(changed))
    assert tags[EVENT_TAG] == named
    assert (tags[RANGE_TAGS[0]], tags[RANGE_TAGS[1]]) == ("A", "E")
    assert "".join(symbols_of(tags, "0ABCDE9")) == changed
    assert covered("EDCBA", tags, "0ABCDE9") == sorted(changed, reverse=True)


def test_more_symbols_than_a_tag_can_name_are_the_whole_shard() -> None:
    """PostgreSQL refuses a run whose tag is too long for its index."""
    symbols = [f"SYMBOL{number:03d}USDT.LONG" for number in range(566)]
    tags = event_tags(symbols, set(symbols[::2]))
    assert tags[EVENT_TAG] == f"{symbols[0]}..{symbols[-1]}"
    few = event_tags(symbols, set(symbols[::20]))
    assert symbols_of(few, symbols) == symbols[::20]
    assert len(few[EVENT_TAG]) <= TAG_CHARS_MAX


# --- the cadence beside events


@pytest.mark.parametrize(
    ("since_sec", "waited", "last_off_sec", "counts_as", "off_sec"),
    [
        (10, False, 0, 10, 0),  # in time
        (10.16, False, 0, 10.01, 0),  # a tick of the grid that was a little late moves it by a hair: clocks drift apart
        (9.84, False, 0, 9.99, 0),  # and so does a ring
        (11.2, True, 1.2, 10, 0),  # it waited for an event
        (12.0, False, 0, 10, 2.0),  # a busy machine, or another grid
        (12.0, False, 2.1, 11.9, 0),  # twice: the grid is another one
        (12.0, False, 0.5, 10.4, 0),
        (14.4, False, 4.4, 14.3, 0),
        (15.16, False, 0, 10.01, 0),  # half an interval late: the other half of the shards has this turn
        (20.1, True, 0, 20, 0),
        (47, False, 2, 41.9, 0),
        (-3600, False, 0, -3600, 0),  # the clock was set back
    ],
)
def test_a_turn_stays_where_it_is_whatever_rings(since_sec, waited, last_off_sec, counts_as, off_sec) -> None:
    """Or every ring a little early would make the next cycle earlier still, and one slow tick the next cycle late."""
    requested, off = in_step(1e9, 1e9 + since_sec, 10, waited=waited, last_off_sec=last_off_sec)
    assert requested - 1e9 == pytest.approx(counts_as)
    assert off == pytest.approx(off_sec)


def cadence(ticks) -> list[float]:
    """Give when cycles are requested by ticks at these moments, none of which finds anything in its way."""
    begun, requested, off = [], 0.0, 0.0
    for now in ticks:
        if due_in_sec(requested, now, 10, RING_SLACK_SEC) <= 0:
            begun.append(max(now, requested + 10))  # a little before its turn, a tick waits for it
            requested, off = in_step(requested, now, 10, waited=False, last_off_sec=off)
    return begun


@pytest.mark.parametrize("phase_sec", [0.0, 0.3, 0.5, 1.0, 2.5, 4.0, 4.4, 4.6, 4.7, 4.8, 4.99])
@pytest.mark.parametrize("rings_per_sec", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("step_sec", [4.9998, 5.0, 5.0002])
def test_cycles_keep_ten_seconds_on_any_grid_beside_any_rings(phase_sec, rings_per_sec, step_sec) -> None:
    """The grid begins anywhere when the daemon is started anew, its clock drifts, and ticks come some milliseconds late."""
    random = np.random.default_rng(7)
    grid = phase_sec + step_sec * np.arange(2000) + random.exponential(0.03, 2000).clip(max=0.3)
    rings = random.uniform(0, 10_000, int(10_000 * rings_per_sec))
    every = np.diff(cadence(np.sort(np.concatenate([grid, rings]))))
    gaps = every[50:]  # once it has found the grid
    assert every.max() < 15
    assert np.quantile(gaps, 0.99) <= 10.2
    assert gaps.max() <= 10.3
    assert gaps.min() >= 9.7
    assert gaps.mean() == pytest.approx(10, abs=0.02)


def test_one_slow_tick_makes_one_cycle_late_and_not_the_next() -> None:
    """A machine that was busy for a second has not moved the grid: the next tick of it must be in time."""
    ticks = 5.0 * np.arange(200)
    ticks[20::16] += 1.0
    gaps = np.diff(cadence(ticks))
    assert gaps.max() == pytest.approx(11, abs=0.1)


# --- the sensor, and a run


def tick(store, instance, cursor=None) -> dg.SensorResult:
    """Ask the sensor once."""
    definitions = assemble(store)
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    return definitions.resolve_sensor_def("cycle")(context)


def run_event(store, instance, request, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    """Execute what the sensor has requested."""
    job = assemble(store).resolve_job_def(request.job_name)
    job = job.get_subset(asset_selection=set(request.asset_selection), asset_check_selection=set(request.asset_check_keys))
    return job.execute_in_process(instance=instance, tags=request.tags, run_config=QUIET, raise_on_error=raise_on_error)


@pytest.fixture
def cursor(store, instance) -> str:
    """The sensor's cursor a few seconds after a cycle of all symbols has ended, with nothing new."""
    write_world(store)
    (request,) = (result := tick(store, instance)).run_requests
    run_event(store, instance, request)
    store.clock.advance(3)
    result = tick(store, instance, result.cursor)
    assert not result.run_requests
    assert result.skip_reason.skip_message.startswith("not due")
    return result.cursor


def test_only_the_first_and_the_third_symbol_of_three_are_computed_when_only_they_have_changed(store, instance, cursor) -> None:
    """Dagster's range has the second between them: nothing of it is computed, published, materialized, counted or failed."""
    before = {asset: hash_of(store, asset, SECOND) for asset in (*OF_CANDLE[:5], "governor_state")}
    write_candles(store, FIRST, [*real_closes(FIRST)[1:], real_closes(FIRST)[-1] * 1.01])
    write_position(store, THIRD, side="SHORT", entry=100.0, mark=99.0)
    store.client.set(store.keys.of("raw_position", SECOND), "not a hash")  # it would fail, if it were computed
    counted = store.client.hgetall(store.keys.of("counts_published"))
    store.clock.advance(1)
    (request,) = tick(store, instance, cursor).run_requests
    assert request.job_name == EVENT_JOB_NAME
    assert request.tags[EVENT_TAG] == f"{FIRST},{THIRD}"
    assert [key.to_user_string() for key in request.asset_selection] == list(OF_CANDLE)
    newest = {name.decode(): value.decode() for name, value in store.client.hgetall(store.keys.of("newest_cycles")).items()}
    assert newest[FIRST] == newest[THIRD] == request.tags[CYCLE_ID_TAG] != newest[SECOND]
    result = run_event(store, instance, request)
    assert result.success
    made = recorded(instance, result)
    assert {symbol for _, symbol in made} == {FIRST, THIRD}
    assert {("risk_proposal", THIRD), ("harvest_proposal", THIRD), ("market_state", FIRST)} <= set(made)
    assert hash_of(store, "risk_proposal", THIRD)["position_side"] == "SHORT"
    assert hash_of(store, "harvest_proposal", THIRD)["position_side"] == "SHORT"
    assert {asset: hash_of(store, asset, SECOND) for asset in before} == before
    assert not store.client.exists(store.keys.of("failures", "position"))
    after = store.client.hgetall(store.keys.of("counts_published"))
    evaluated = sum(
        int(after.get(f"{one}:position".encode(), 0)) - int(counted.get(f"{one}:position".encode(), 0))
        for one in ("published", "unchanged")
    )
    assert evaluated == 2
    assert after.get(b"loops") == counted.get(b"loops")


def test_an_event_cycle_is_no_cycle_of_all_symbols(store, instance, cursor) -> None:
    """Heartbeat and list of cycles say that all symbols of the shard have been computed; after an event they must not."""
    beats = [("GET", store.keys.of("heartbeat", "cycle")), ("LRANGE", store.keys.of("cycles", FIRST), 0, -1)]
    before = store.run("reading", beats)
    write_position(store, FIRST, side="SHORT", entry=100.0, mark=99.0)
    store.clock.advance(1)
    (request,) = tick(store, instance, cursor).run_requests
    run_event(store, instance, request)
    assert store.run("reading", beats) == before
    assert before[0] is not None


def test_a_failed_event_run_shows_no_symbol_as_failed(store, instance, cursor) -> None:
    """A run whose range has a symbol it does not compute must not mark that one, whatever becomes of it."""
    write_position(store, FIRST, side="SHORT", entry=100.0, mark=99.0)
    store.clock.advance(1)
    (request,) = tick(store, instance, cursor).run_requests
    job = assemble(store).resolve_job_def(EVENT_JOB_NAME)
    run = instance.create_run_for_job(job, asset_selection=set(request.asset_selection), tags=request.tags)
    instance.report_run_failed(run, "killed")
    planned = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED).records
    assert planned == []
    assert materialized(instance, "risk_proposal") == {*SYMBOLS}


def test_marks_that_move_start_nothing(store, instance, cursor) -> None:
    """Every mark of every position is another one every second."""
    closes = real_closes(FIRST)
    write_position(store, FIRST, entry=closes[-1] * 0.99, mark=closes[-1] * 1.01)
    store.clock.advance(1)
    assert not tick(store, instance, cursor).run_requests


@pytest.mark.parametrize("by", [EVENT_JOB_NAME, CYCLE_JOB_NAME])
def test_a_position_that_comes_back_is_another_one_each_time(store, instance, cursor, by) -> None:
    """Whichever run has answered the change before."""
    for turn, side in enumerate(("SHORT", "LONG", "SHORT", "LONG")):
        write_position(store, FIRST, side=side, entry=100.0, mark=101.0)
        store.clock.advance(3)
        if turn % 2 and by == CYCLE_JOB_NAME:
            cursor = json.dumps({**json.loads(cursor), "shards": {}})
        (request,) = (result := tick(store, instance, cursor)).run_requests
        assert request.job_name == (by if turn % 2 else EVENT_JOB_NAME)
        run_event(store, instance, request)
        assert hash_of(store, "position", FIRST)["side"] == side
        store.clock.advance(1)
        result = tick(store, instance, result.cursor)
        assert not result.run_requests
        cursor = json.dumps({**json.loads(result.cursor), "shards": {FIRST: store.clock().timestamp() - 2}})


def test_a_position_that_no_cycle_tracks_is_asked_for_once_though_it_comes_and_goes(store, instance, cursor) -> None:
    """Two writers under one key would cause a cycle every two seconds."""
    write_position(store, FIRST, entry=100.0, mark=101.0)
    requests = []
    for side in ("LONG", "SHORT", "LONG", "SHORT", "LONG"):
        fields = {"side": side, "entry_price": "100.0", "quantity": "2.0"}
        store.client.hset(store.keys.of("raw_position", FIRST), mapping=fields)
        store.client.hset(store.keys.of("position", FIRST), mapping={"side": "LONG", "entry_price": "100.0", "qty": "2.0"})
        store.clock.advance(2)
        result = tick(store, instance, json.dumps({**json.loads(cursor), "shards": {FIRST: store.clock().timestamp() - 2}}))
        requests.append(len(result.run_requests or ()))
    assert requests == [0, 1, 0, 0, 0]


def test_what_no_cycle_can_publish_is_asked_for_once(store, instance, cursor) -> None:
    """A symbol that cannot be computed must not cause a cycle every two seconds."""
    write_candles(store, SECOND, real_closes(SECOND)[:100])  # too few
    store.clock.advance(2)
    write_candles(store, SECOND, real_closes(SECOND)[:100])
    (request,) = (result := tick(store, instance, cursor)).run_requests
    assert request.tags[EVENT_TAG] == SECOND
    run_event(store, instance, request)
    for _ in range(2):
        store.clock.advance(1)
        result = tick(store, instance, result.cursor)
        assert not result.run_requests


def test_a_change_during_a_run_is_answered_when_that_ends(store, instance, cursor) -> None:
    """The worker that ends it rings, because somebody waits; of a run that nobody waits for it does not."""
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=cycle_tags(SYMBOLS, "c1"))
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=1)
    cursor = json.dumps({**json.loads(cursor), "shards": {FIRST: store.clock().timestamp() - 3}})
    assert not ring_if_awaited(store, run.run_id)
    write_position(store, FIRST, side="SHORT", entry=100.0, mark=99.0)
    result = tick(store, instance, cursor)
    assert not result.run_requests
    assert "1 changed symbols wait" in result.skip_reason.skip_message
    instance.report_run_failed(run)
    assert ring_if_awaited(store, run.run_id)
    assert store.client.exists(store.keys.of("events_waiting"))
    assert not ring_if_awaited(store, run.run_id)
    cursor = json.dumps({**json.loads(result.cursor), "shards": {FIRST: store.clock().timestamp() - 3}})
    assert tick(store, instance, cursor).run_requests


def test_a_run_that_ends_while_the_sensor_decides_keeps_nobody_waiting(store, instance, cursor, monkeypatch) -> None:
    """It would ring no more: the change would wait for the grid."""
    job = assemble(store).resolve_job_def(EVENT_JOB_NAME)
    tags = {**cycle_tags(SYMBOLS, "c1"), **event_tags(SYMBOLS, {SECOND})}
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=1)
    cursor = json.dumps({**json.loads(cursor), "shards": {FIRST: store.clock().timestamp() - 3}})
    write_position(store, FIRST, side="SHORT", entry=100.0, mark=99.0)

    def ends_meanwhile(one, run_ids) -> None:
        assert (one, list(run_ids)) == (store, [run.run_id])
        instance.report_run_canceled(run)

    monkeypatch.setattr("sensors.cycle.await_end", ends_meanwhile)
    (request,) = tick(store, instance, cursor).run_requests
    assert request.tags[EVENT_TAG] == FIRST


def test_a_due_cycle_that_waits_for_an_event_is_not_late_and_keeps_its_turn(store, instance, cursor) -> None:
    """It begins as soon as the event's run has ended, and the one after it ten seconds after its turn."""
    job = assemble(store).resolve_job_def(EVENT_JOB_NAME)
    tags = {**cycle_tags(SYMBOLS, "c1"), **event_tags(SYMBOLS, {SECOND})}
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp + timedelta(seconds=1)
    turn = store.clock().timestamp()
    cursor = json.dumps({**json.loads(cursor), "shards": {FIRST: turn - 10}})
    result = tick(store, instance, cursor)
    assert not result.run_requests
    assert '"late": 0' in result.cursor
    instance.report_run_canceled(run)
    assert ring_if_awaited(store, run.run_id)
    store.clock.advance(1.5)
    result = tick(store, instance, result.cursor)
    assert result.run_requests[0].job_name == CYCLE_JOB_NAME
    assert json.loads(result.cursor)["shards"][FIRST] == pytest.approx(turn)


@pytest.mark.parametrize("newer", ["event", "cadence"])
def test_an_older_run_publishes_nothing_once_a_newer_one_of_the_same_symbol_was_requested(store, instance, cursor, newer) -> None:
    """A cycle that hung must not put yesterday's side back, though the newer run was of one symbol only; nor the other way."""
    (full,) = tick(store, instance, json.dumps({**json.loads(cursor), "shards": {}})).run_requests
    assert full.job_name == CYCLE_JOB_NAME
    write_position(store, SECOND, side="SHORT", entry=100.0, mark=99.0)
    store.clock.advance(1)
    (event,) = tick(store, instance, cursor).run_requests
    assert event.job_name == EVENT_JOB_NAME
    older, later = (full, event) if newer == "event" else (event, full)
    if newer == "cadence":
        (later,) = tick(store, instance, json.dumps({**json.loads(cursor), "shards": {}})).run_requests
    published = hash_of(store, "position", SECOND)
    result = run_event(store, instance, older, raise_on_error=False)
    assert not result.success
    assert OvertakenError.__name__ in str([one.step_failure_data.error for one in result.all_events if one.is_step_failure])
    assert hash_of(store, "position", SECOND) == published
    assert run_event(store, instance, later).success
    assert hash_of(store, "position", SECOND)["side"] == "SHORT"


def test_an_event_run_that_was_killed_is_replaced_by_a_cycle_at_the_next_tick(store, instance, cursor) -> None:
    """What it was to answer is noted as asked for: nobody would ask again before the next turn."""
    write_position(store, FIRST, side="SHORT", entry=100.0, mark=99.0)
    store.clock.advance(1)
    (request,) = (result := tick(store, instance, cursor)).run_requests
    job = assemble(store).resolve_job_def(EVENT_JOB_NAME)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=request.tags)
    instance.report_run_failed(run, "Its worker process was lost.")
    store.clock.advance(1)
    (replaced,) = (result := tick(store, instance, result.cursor)).run_requests
    assert replaced.job_name == CYCLE_JOB_NAME
    store.clock.advance(1)
    assert not tick(store, instance, result.cursor).run_requests


def test_a_second_event_waits_two_seconds_and_has_the_bell_rung_for_it(store, instance, cursor) -> None:
    """The grid may come just after a ring: without another ring the change would wait for the next turn of it."""
    write_position(store, FIRST, side="SHORT", entry=100.0, mark=99.0)
    store.clock.advance(1)
    (request,) = (result := tick(store, instance, cursor)).run_requests
    run_event(store, instance, request)
    write_position(store, SECOND, side="SHORT", entry=100.0, mark=99.0)
    store.clock.advance(1)
    result = tick(store, instance, result.cursor)
    assert not result.run_requests
    assert store.client.exists(store.keys.of("events_postponed"))
    store.clock.advance(1)
    (request,) = tick(store, instance, result.cursor).run_requests
    assert request.tags[EVENT_TAG] == SECOND


def test_a_change_shortly_before_the_turn_is_answered_by_it_when_the_last_event_took_longer(store, instance, cursor) -> None:
    """And by an event cycle while there is time for one."""
    job, started = assemble(store).resolve_job_def(EVENT_JOB_NAME), dg.DagsterRunStatus.STARTED
    tags = {**cycle_tags(SYMBOLS, "c1"), **event_tags(SYMBOLS, {SECOND})}
    run = instance.create_run_for_job(job, status=started, tags=tags)
    began = instance.get_run_record_by_id(run.run_id).create_timestamp.timestamp()
    ended = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job.name)
    instance.run_storage.handle_run_event(run.run_id, ended, datetime.fromtimestamp(began + 0.8, UTC))
    write_position(store, FIRST, side="SHORT", entry=100.0, mark=99.0)
    for until_turn_sec, requested in ((0.5, []), (0.9, [EVENT_JOB_NAME])):
        store.client.delete(store.keys.of("events_postponed"))
        shards = {FIRST: store.clock().timestamp() - 10 + until_turn_sec}
        result = tick(store, instance, json.dumps({**json.loads(cursor), "shards": shards}))
        assert [one.job_name for one in result.run_requests or ()] == requested
        assert not store.client.exists(store.keys.of("events_postponed"))  # the turn comes by itself


def test_a_tick_a_little_before_its_turn_waits_for_it_and_the_turn_follows_when_it_came(
    store, instance, cursor, monkeypatch
) -> None:
    """A ring must not start a cycle early: the gap to the next one would be longer than ten seconds by as much."""
    turn, waited = store.clock().timestamp(), []
    early = json.dumps({**json.loads(cursor), "shards": {FIRST: turn - 9.84}})

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        store.clock.advance(seconds)

    monkeypatch.setattr("sensors.cycle.sleep", sleep)
    result = tick(store, instance, early)
    assert waited == [pytest.approx(0.16)]
    assert result.run_requests[0].job_name == CYCLE_JOB_NAME
    assert json.loads(result.cursor)["shards"][FIRST] == pytest.approx(turn + 0.15)


def test_without_events_and_on_a_standby_nothing_is_answered(make_store, instance) -> None:
    """EVENTS=off is the grid alone."""
    store = make_store(events=False)
    write_world(store)
    (request,) = (result := tick(store, instance)).run_requests
    run_event(store, instance, request)
    write_position(store, FIRST, side="SHORT", entry=100.0, mark=99.0)
    store.clock.advance(3)
    assert not tick(store, instance, result.cursor).run_requests
    other = make_store()
    other.client.set(other.keys.of("lease"), "another:host:boot:storage", px=9000)
    assert "standing by" in tick(other, instance, result.cursor).skip_reason.skip_message


def test_each_shard_answers_its_own_symbols_on_its_own_queue(make_store, instance) -> None:
    """One shard's events must not wait for another's run."""
    symbols = ("AAUSDT", "BBUSDT", "CCUSDT", "DDUSDT")
    store = make_store(symbols=",".join(symbols), shards=2)
    for symbol in symbols:
        write_position(store, symbol)
    cursor = json.dumps({"shards": dict.fromkeys(("AAUSDT", "CCUSDT"), store.clock().timestamp() - 3)})
    requests = tick(store, instance, cursor).run_requests
    assert [one.tags[EVENT_TAG] for one in requests] == ["AAUSDT..BBUSDT", "CCUSDT..DDUSDT"]
    assert [one.tags["dagster-celery/queue"] for one in requests] == ["quantum-0", "quantum-1"]


def test_of_a_hedged_symbol_only_the_leg_that_has_changed_is_computed(make_store, instance) -> None:
    """Candles are of both, a position is of one."""
    store = make_store(symbols=("BTCUSDT", "ETHUSDT"), hedge_symbols="BTCUSDT")
    long, short, other = store.settings.symbols
    write_candles(store, long, real_closes("BTCUSDT"))
    write_candles(store, other, real_closes("ETHUSDT"))
    for leg in (long, short):
        write_position(store, leg, side=leg.rpartition(".")[2])
    (request,) = (result := tick(store, instance)).run_requests
    run_event(store, instance, request)
    store.clock.advance(3)
    result = tick(store, instance, result.cursor)
    assert not result.run_requests
    write_position(store, short, side="SHORT", entry=111.0)
    (request,) = (result := tick(store, instance, result.cursor)).run_requests
    assert request.tags[EVENT_TAG] == short
    assert {symbol for _, symbol in recorded(instance, run_event(store, instance, request))} == {short}
    store.clock.advance(2)
    write_candles(store, long, real_closes("BTCUSDT")[1:])
    (request,) = tick(store, instance, result.cursor).run_requests
    assert request.tags[EVENT_TAG] == f"{long}..{short}"


# --- what is read


def test_only_what_has_changed_is_read_again(store) -> None:
    """An idle tick over all symbols must cost next to nothing: one round trip."""
    write_world(store)
    for _ in range(2):  # where the candles are is found out first
        read_inputs(store, SYMBOLS)
    done = store.client.info("commandstats")
    first = read_inputs(store, SYMBOLS)
    after = store.client.info("commandstats")
    calls = {name: row["calls"] - done.get(name, {"calls": 0})["calls"] for name, row in after.items()}
    assert {name: count for name, count in calls.items() if count} == {"cmdstat_zrange": 3, "cmdstat_hmget": 3, "cmdstat_info": 1}
    assert first[FIRST].candle == int(START.timestamp()) - 1
    assert first[FIRST].position.startswith("LONG ")


@pytest.mark.parametrize("kind", ["zset", "list", "list newest first", "string"])
def test_a_new_candle_is_found_however_candles_are_stored(store, kind) -> None:
    """And one that still runs is none."""
    start_ms = int(START.timestamp()) * 1000

    def candle(minute: int, close: float, **more: object) -> str:
        opened = start_ms + minute * 60_000
        return json.dumps(
            {"open_time": opened, "close": close, "high": close, "low": close, "close_time": opened + 59_999, **more}
        )

    def write(*candles: str) -> None:
        key = store.keys.of({"zset": "candles_history", "string": "candles_json"}.get(kind, "candles_zset"), FIRST)
        store.client.delete(key)
        if kind == "zset":
            store.client.zadd(key, {one: json.loads(one)["open_time"] for one in candles})
        elif kind == "string":
            store.client.set(key, f"[{','.join(candles)}]")
        else:
            store.client.rpush(key, *(reversed(candles) if "first" in kind else candles))

    history = [candle(minute, 100 + minute) for minute in range(-40, 0)]
    write(*history, candle(0, 100))
    store.clock.advance(10)
    (closed,) = {read_inputs(store, [FIRST])[FIRST].candle for _ in range(2)}
    assert closed == int(START.timestamp()) - 1
    write(*history, candle(0, 101))
    assert read_inputs(store, [FIRST])[FIRST].candle == closed
    store.clock.advance(52)
    write(*history, candle(0, 102), candle(1, 103))
    assert read_inputs(store, [FIRST])[FIRST].candle == closed + 60


def test_of_what_is_written_only_what_a_cycle_is_started_for_is_news(store) -> None:
    """Marks move every second, of hundreds of symbols: each would cost a tick."""
    write_world(store)
    news, of = NewsFilter(store), store.keys.of
    position, candles = of("raw_position", FIRST).encode(), of("candles_history", FIRST).encode()
    assert news.is_news([position, candles])  # nothing is known yet
    assert news.is_news([of("raw_position", SECOND).encode()])
    assert not news.is_news([position, candles])
    store.client.hset(position, mapping={"mark_price": "1.5", "unrealized_pnl": "2", "ts_epoch": "3"})
    assert not news.is_news([position])
    store.client.hset(position, "quantity", "7")
    assert not news.is_news([of("raw_position", "OTHERUSDT").encode(), of("raw_position", SECOND).encode(), candles[:-1]])
    assert news.is_news([position])
    store.clock.advance(60)
    write_candles(store, FIRST, real_closes(FIRST))
    assert news.is_news([candles])
    assert not news.is_news([candles])
    store.client.delete(position)
    assert news.is_news([position])


def test_a_leg_and_who_is_judged_by_anothers_candles_have_news_by_the_keys_that_show_them(make_store) -> None:
    store = make_store(symbols=("BTCUSDT", "ETHUSDT"), hedge_symbols=("BTCUSDT",), candles_from=("ETHUSDT=XBTUSD",))
    news, of = NewsFilter(store), store.keys.of
    long = "BTCUSDT.LONG"
    for key, symbol in (("raw_position", long), ("raw_position", "BTCUSDT"), ("candles_history", "XBTUSD")):
        assert news.is_news([of(key, symbol).encode()])
        assert not news.is_news([of(key, symbol).encode()])
    write_position(store, long, side="LONG")
    assert news.is_news([of("raw_position", long).encode()])
    write_candles(store, "XBTUSD", real_closes("BTCUSDT"))
    assert news.is_news([of("candles_history", "XBTUSD").encode()])


def test_a_failed_read_is_no_change(store) -> None:
    """It must look neither like a closed position nor like a new one."""
    write_position(store, FIRST)
    assert read_inputs(store, [FIRST, SECOND]) == {FIRST: Inputs(None, held_as("LONG", "100.0", "2.0")), SECOND: Inputs(None, "")}
    store.client.delete(store.keys.of("raw_position", FIRST))
    store.client.set(store.keys.of("raw_position", FIRST), "text")
    store.client.set(store.keys.of("position", FIRST), "text")
    assert read_inputs(store, [FIRST])[FIRST].position is None
    assert read_answered(store, [FIRST])[FIRST] == Inputs(None, None)
