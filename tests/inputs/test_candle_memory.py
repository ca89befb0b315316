"""Candles without a time: the only sign of a dead writer is that nothing changes."""

import json
from dataclasses import replace

import dagster as dg
import numpy as np
import pytest

from definitions import assemble
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import MARKET_STATE
from quantum_core.freshness import Evaluation
from quantum_ops.alerts.incidents import Ledger, Policy
from quantum_ops.doctor.diagnosis import _candle_troubles
from resources.inputs.candle_memory import MEMORY_TTL_SEC, without_unchanged
from resources.inputs.candles import CandleReader
from resources.store.failures import read_failures
from resources.store.redis_store import RedisStore
from tests.world import random_closes, write_candles

SYMBOL = "BTCUSDT"
LIMIT_SEC = 420  # 2 x 60 + 300
CLOSES = random_closes(1, 302)


@pytest.fixture
def world(make_store) -> RedisStore:
    store = make_store(symbols=(SYMBOL,))
    write(store, CLOSES[:300])
    return store


def write(store: RedisStore, closes) -> None:
    key = store.keys.of("candles_zset", SYMBOL)
    store.client.delete(key)
    store.client.rpush(key, *map(str, closes))


def look(store: RedisStore, *, remember: bool = True) -> str:
    (reading,) = without_unchanged(store, CandleReader(store).read([SYMBOL]), remember=remember)
    return reading.reason if reading.state is State.FAILED else str(reading.state)


def evaluate(store: RedisStore, instance: dg.DagsterInstance) -> str:
    """Evaluate the asset itself, and give why it could not be computed."""
    job = assemble(store).resolve_implicit_global_asset_job_def()
    job.execute_in_process(
        instance=instance, partition_key=SYMBOL, asset_selection=[dg.AssetKey("market_state")], raise_on_error=False
    )
    failure = read_failures(store, ["market_state"])["market_state"].get(SYMBOL)
    return failure.why if failure is not None else ""


def test_candles_without_a_time_that_do_not_change_give_no_state(world):
    """Sigma of the same closes was renewed for ever, and nobody was told."""
    assert look(world) == "present"
    world.clock.advance(LIMIT_SEC)
    assert look(world) == "present"
    world.clock.advance(1)
    assert look(world) == f"candles_unchanged: no time, and nothing has changed for 421 s (candles:{SYMBOL}:1m)"
    write(world, CLOSES[1:301])
    assert look(world) == "present"
    world.clock.advance(LIMIT_SEC)
    assert look(world) == "present"


@pytest.mark.parametrize("change", ["one more", "the running one"])
def test_whatever_a_writer_changes_is_a_sign_of_life(world, change):
    for step in range(4):
        assert look(world) == "present"
        world.clock.advance(LIMIT_SEC - 20)
        write(world, CLOSES[:301] if change == "one more" and step % 2 == 0 else [*CLOSES[:299], 100 + step])


def test_objects_and_ranks_without_a_time_are_judged_alike(world):
    key = world.keys.of("candles_zset", SYMBOL)
    for members in ({"c": close, "v": 1} for close in CLOSES), CLOSES:
        world.client.delete(key)
        texts = [json.dumps(one if isinstance(one, dict) else float(one)) for one in members]
        world.client.zadd(key, {text: rank for rank, text in enumerate(dict.fromkeys(texts))})
        assert look(world) == "present"
        world.clock.advance(LIMIT_SEC + 1)
        assert look(world).startswith("candles_unchanged")


def test_candles_with_a_time_leave_no_memory(world):
    """Theirs is judged by the time; and what is not read costs nothing."""
    world.client.flushdb()
    write_candles(world, SYMBOL, CLOSES[:300])
    assert look(world) == "present"
    assert not world.client.exists(world.keys.of("candle_memory", SYMBOL))


@pytest.mark.parametrize("stored", ["", "{", "[]", "1", '{"digest": 1}', None, "another type"])
def test_a_memory_that_cannot_be_read_begins_anew_and_is_replaced(world, stored):
    """It must neither stop the evaluation nor hide a dead writer for longer than the limit."""
    key = world.keys.of("candle_memory", SYMBOL)
    if stored == "another type":
        world.client.rpush(key, "x")
    elif stored is not None:
        world.client.set(key, stored)
    assert look(world) == "present"
    world.clock.advance(LIMIT_SEC + 1)
    assert look(world).startswith("candles_unchanged")
    assert 0 < world.client.ttl(key) <= MEMORY_TTL_SEC


@pytest.mark.parametrize("since", ["nan", "1e300", "-1", '"x"'])
def test_a_memory_of_an_impossible_time_begins_now(world, since):
    look(world)
    key = world.keys.of("candle_memory", SYMBOL)
    stored = json.loads(world.client.get(key))
    world.client.set(key, f'{{"digest": "{stored["digest"]}", "unchanged_since": {since}}}')
    assert look(world) == "present"
    world.clock.advance(LIMIT_SEC + 1)
    assert look(world).startswith("candles_unchanged")


def test_a_memory_of_more_than_a_day_does_not_fade(world):
    """A writer that is dead for days must not look alive once a day."""
    for _ in range(3):
        look(world)
        assert world.client.ttl(world.keys.of("candle_memory", SYMBOL)) == MEMORY_TTL_SEC
        world.clock.advance(40_000)
        world.client.expire(world.keys.of("candle_memory", SYMBOL), 100)
    assert look(world).startswith("candles_unchanged: no time, and nothing has changed for 120000 s")


def test_whoever_only_looks_notes_nothing(world):
    assert look(world, remember=False) == "present"
    assert not world.client.exists(world.keys.of("candle_memory", SYMBOL))
    look(world)
    world.clock.advance(LIMIT_SEC + 1)
    assert _candle_troubles([SYMBOL], world)[0].startswith(f"{SYMBOL}: candles_unchanged")


def test_a_dead_list_is_alerted_as_no_candles(world, instance):
    """From the list to the alert, by the asset itself; the state that is there opens nothing meanwhile."""
    assert evaluate(world, instance) == ""
    (state,) = world.read(MARKET_STATE, [SYMBOL])
    assert state.value is not None
    assert state.value["ts_timestamp"] == 0
    world.clock.advance(LIMIT_SEC + 1)
    assert evaluate(world, instance).startswith("candles_unchanged: no time, and nothing has changed for 421 s")
    ledger, told, now = Ledger(Policy(), 0.0), [], world.clock().timestamp()
    failures = {SYMBOL: {asset: found[SYMBOL] for asset, found in read_failures(world, ["market_state"]).items()}}
    for second in range(0, 120, 5):
        fresh = {SYMBOL: {asset: replace(one, at=now + second) for asset, one in failures[SYMBOL].items()}}
        told += ledger.observe(Evaluation((), (), failures=fresh), now + second)
    assert told[0].event == "raised"
    assert "no candles" in told[0].title.lower() or "candles of all" in told[0].title.lower()
    assert "candles_unchanged" in told[0].text


def test_the_asset_remembers_between_processes(world, instance):
    """Each run is a process of its own: what one noted counts for the next."""
    evaluate(world, instance)
    stored = json.loads(world.client.get("quantum:candle:memory:BTCUSDT"))
    assert stored["unchanged_since"] == world.clock().timestamp()
    assert np.isfinite(stored["unchanged_since"])
