"""Candles are read once for all steps of a run, and never kept beyond it."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from quantum_core.contracts.legs import leg_of, underlying
from quantum_core.contracts.reading import State
from resources.inputs.candles import CandleReader, CandlesOfRun
from resources.store.redis_store import RedisStore
from tests.world import real_closes, run_cycle, write_candles, write_position

SYMBOL = "BTCUSDT"
COLUMNS = ("open_time_ms", "high", "low", "close", "volume")


@contextmanager
def keys_asked(store: RedisStore, key: str) -> Iterator[Counter[str]]:
    """Count the commands of a time that name keys of a kind, by symbol."""
    names = {store.keys.of(key, symbol): symbol for symbol in store.settings.markets}
    counted: Counter[str] = Counter()
    with store.client.monitor() as monitor:
        yield counted
        store.client.echo("the end")
        for command in iter(lambda: monitor.next_command()["command"], "ECHO the end"):
            if command.partition(" ")[0] in ("EVAL_RO", "EVALSHA_RO"):  # what it asks of the server is one command of ours
                counted.update(symbol for name, symbol in names.items() if f" {name} " in command)


def close_another(store: RedisStore, symbol: str, close: float) -> None:
    """Close one more minute after those that are there."""
    key = store.keys.of("candles_history", symbol)
    ((newest, score),) = store.client.zrange(key, -1, -1, withscores=True)
    opened = int(score) + 60_000
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    store.client.zadd(
        key, {json.dumps({**json.loads(newest), **prices, "open_time": opened, "close_time": opened + 59_999}): opened}
    )


@pytest.mark.parametrize("hedged", ["", SYMBOL], ids=["one way", "hedged"])
def test_a_cycle_asks_for_the_candles_of_each_symbol_once(make_store, clock, instance, monkeypatch, hedged: str) -> None:
    """Market state, positions and challenger judge the same market, and none of them pays for reading it again."""
    monkeypatch.setattr("resources.store.published.SHARED_SEC", 1e9)  # a machine that stands still for seconds is no finding
    store = make_store(symbols="BTCUSDT,ETHUSDT", hedge_symbols=hedged, challenger="crypto-1m")
    for symbol in store.settings.symbols:
        closes = real_closes(underlying(symbol))
        write_candles(store, symbol, closes)
        write_position(store, symbol, side=leg_of(symbol) or "LONG", entry=closes[-1], mark=closes[-1])
    for _ in range(2):  # positions that are new, and such as were up to date a moment ago
        with keys_asked(store, "candles_history") as counted:
            assert run_cycle(store, instance).success
        assert counted == {"BTCUSDT": 1, "ETHUSDT": 1}
        assert store.client.hget(store.keys.of("position", store.settings.symbols[0]), "last_candle_ms") != b"0"
        clock.advance(60)
        for symbol in store.settings.markets:
            close_another(store, symbol, real_closes(symbol)[-1])


def test_the_newest_of_a_longer_window_are_those_a_step_would_have_read(store: RedisStore) -> None:
    write_candles(store, SYMBOL, real_closes(SYMBOL))
    steps = CandlesOfRun(store, "run")
    (whole,) = steps.read([SYMBOL])
    (given,), (alone,) = steps.read([SYMBOL], window=4), CandleReader(store).read([SYMBOL], window=4)
    assert whole.value is not None
    assert given.value is not None
    assert alone.value is not None
    assert len(whole.value.close) == 300
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(given.value, name), getattr(alone.value, name))
    assert given.value.newest_epoch_sec == alone.value.newest_epoch_sec


def test_another_run_reads_anew_and_so_does_a_late_step(store: RedisStore, clock, monkeypatch) -> None:
    """What a step sees is of the moment of its cycle: it is never handed candles of another one."""
    write_candles(store, SYMBOL, real_closes(SYMBOL))
    monkeypatch.setattr("resources.store.published.SHARED_SEC", 1e9)
    first = CandlesOfRun(store, "first")
    before = first.read([SYMBOL])[0].value
    clock.advance(60)
    close_another(store, SYMBOL, 90_000.0)
    assert first.read([SYMBOL])[0].value is before
    late = CandlesOfRun(store, "second").read([SYMBOL])[0].value
    assert before is not None
    assert late is not None
    assert late.newest_epoch_sec == before.newest_epoch_sec + 60
    clock.advance(60)
    close_another(store, SYMBOL, 90_001.0)
    monkeypatch.setattr("resources.store.published.SHARED_SEC", -1.0)
    (later,) = CandlesOfRun(store, "second").read([SYMBOL])
    assert later.value is not None
    assert later.value.close[-1] == 90_001.0


def test_a_window_that_cannot_be_read_leaves_shorter_ones_to_be_read(store: RedisStore) -> None:
    """A position is tracked by its newest candles, whatever is wrong with those of hours ago."""
    write_candles(store, SYMBOL, real_closes(SYMBOL))
    key = store.keys.of("candles_history", SYMBOL)
    oldest = store.client.zrange(key, 0, 20, withscores=True)
    store.client.zremrangebyrank(key, 0, 20)
    store.client.zadd(key, {f"junk {number}": score for number, (_, score) in enumerate(oldest)})
    steps = CandlesOfRun(store, "run")
    assert steps.read([SYMBOL])[0].state is State.FAILED
    (newest,) = steps.read([SYMBOL], window=4)
    assert newest.value is not None
    assert newest.value.close.tolist() == real_closes(SYMBOL)[-4:]


def test_each_name_has_its_own_prices_where_they_are_generated(make_store) -> None:
    """MARKETSTATE_SOURCE=synthetic: what is judged by the candles of another symbol has prices of its own all the same."""
    store = make_store(symbols="BTCUSDT,ETHUSDT", candles_from="ETHUSDT=BTCUSDT", marketstate_source="synthetic")
    bitcoin, ether = (one.value for one in CandlesOfRun(store, "run").read(["BTCUSDT", "ETHUSDT"]))
    assert bitcoin is not None
    assert ether is not None
    assert bitcoin.close.tolist() != ether.close.tolist()
