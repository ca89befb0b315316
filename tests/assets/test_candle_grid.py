"""From candles as they lie in Redis to a market state or a name: what is off the grid gives none."""

import json
import math

import numpy as np
import pytest

from quantum_assets.market_state import market_state_frame
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import MARKET_STATE
from quantum_core.profiles.profile import LOCKED
from resources.inputs.candle_series import grid_theta_of
from resources.inputs.candles import CandleReader
from tests.world import random_closes, write_candles

SYMBOL = "BTCUSDT"
MINUTE_MS = 60_000


def state_of(store, **settings):
    settings_now = store.settings.model_copy(update=settings)
    frame = market_state_frame(CandleReader(store).read([SYMBOL]), grid_theta_of(settings_now, LOCKED), settings_now.ticks)
    (row,) = frame.iter_rows(named=True)
    return row


def write(store, minutes, *, closes=None, **more):
    """Write candles that closed so many minutes ago."""
    now_ms = int(store.clock().timestamp() * 1000)
    closes = random_closes(1, len(minutes)) if closes is None else closes
    key = store.keys.of("candles_quantum", SYMBOL)
    store.client.delete(key)
    store.client.zadd(
        key,
        {
            json.dumps(
                {"open_time": (t := now_ms - round((ago + 1) * MINUTE_MS)), "close": close, "close_time": t + 59_999, **more}
            ): t
            for ago, close in zip(minutes, closes, strict=True)
        },
    )


@pytest.mark.parametrize(
    ("ago", "reason"),
    [
        (np.arange(300)[::-1] / 15, "candles_spacing: 4.0 s, want 60 s (300 candles from quantum:candles:BTCUSDT)"),
        (np.arange(300)[::-1] * 5, "candles_spacing: 300.0 s, want 60 s (300 candles from quantum:candles:BTCUSDT)"),
        (np.delete(np.arange(500)[::-1], np.arange(250, 430)), "candles_gap: 180 min (300 candles from quantum:candles:BTCUSDT)"),
        (np.delete(np.arange(320)[::-1], np.arange(5, 320, 15)), "candles_sparse: 18 of 275 minutes missing (299 candles"),
    ],
)
def test_candles_off_the_grid_give_no_state_and_the_name(store, ago, reason):
    """Each of these earned permits."""
    write(store, ago)
    row = state_of(store)
    assert (row["state"], row["why"][: len(reason)]) == (State.FAILED, reason)


def test_what_is_published_of_a_grid_with_holes(store):
    """A reader of the state sees what it rests on."""
    write(store, np.delete(np.arange(320)[::-1], [200, 250, 251]))
    row = state_of(store)
    assert (row["state"], row["gap_count"], row["gap_max_sec"], row["filled"], row["market_inactive"]) == (
        "present",
        2,
        120,
        0,
        False,
    )
    filled = state_of(store, candle_fill="flat")
    assert (filled["filled"], filled["gap_count"], filled["buffer_size"]) == (3, 2, 303)
    assert MARKET_STATE.encode({**row, "regime": "chop"})["gap_count"] == "2"


@pytest.mark.parametrize("bad", [math.nan, None, 0, -1, math.inf, "", "N/A"])
def test_one_bad_minute_of_300_is_a_missing_minute(store, bad):
    """It cost five hours without a state."""
    closes = random_closes(1, 300)
    write(store, np.arange(300)[::-1], closes=[*closes[:150], bad, *closes[151:]])
    row = state_of(store)
    assert (row["state"], row["buffer_size"], row["gap_count"], row["gap_max_sec"]) == ("present", 299, 1, 60)


@pytest.mark.parametrize(
    ("count", "name"), [(300, "price_nan: 300 candles"), (100, "price_nan: 100 of 300"), (20, "price_nan: 20 of 300")]
)
def test_a_window_full_of_bad_minutes_is_refused_by_their_name(store, count, name):
    """Too few candles would send the operator looking for another fault."""
    closes = random_closes(1, 300)
    spoilt = set(np.random.default_rng(1).choice(300, count, replace=False).tolist())
    write(store, np.arange(300)[::-1], closes=[None if row in spoilt else close for row, close in enumerate(closes)])
    row = state_of(store)
    assert row["state"] == State.FAILED
    assert row["why"].startswith(name)


def test_bare_closes_have_a_state_but_no_time_that_could_be_trusted(store):
    """The layout is documented: stops go on, and nothing is opened."""
    store.client.rpush(store.keys.of("candles_zset", SYMBOL), *map(str, random_closes(1, 300)))
    row = state_of(store)
    assert (row["state"], row["ts_timestamp"], row["gap_count"], row["gap_max_sec"]) == ("present", 0, None, None)


def test_a_candle_without_a_time_among_others_takes_the_trust_from_all(store):
    """Where it belongs nobody knows; the newest one's time must not vouch for it."""
    now_ms = int(store.clock().timestamp() * 1000)
    members = [{"t": now_ms - (300 - row) * MINUTE_MS, "c": close} for row, close in enumerate(random_closes(1, 300))]
    members[150].pop("t")
    store.client.rpush(store.keys.of("candles_zset", SYMBOL), *map(json.dumps, members))
    assert state_of(store)["ts_timestamp"] == 0


def test_a_dead_market_is_inactive_and_a_coarse_tick_is_told(store):
    """Flat, no volume: sigma 1e-6 looked calm."""
    write(store, np.arange(300)[::-1], closes=[1.678] * 300, volume=0)
    row = state_of(store)
    assert (row["state"], row["market_inactive"], row["tick_pct"]) == ("present", True, None)
    write(store, np.arange(300)[::-1], closes=[0.00041 + 0.00001 * (row % 2) for row in range(300)], volume=1)
    row = state_of(store)
    assert row["market_inactive"] is False
    assert row["tick_pct"] == pytest.approx(0.024, rel=0.02)
    assert state_of(store, tick_sizes=("BTCUSDT=0.0000042",))["tick_pct"] == pytest.approx(0.01, rel=1e-6)


def test_a_grid_from_the_example_feed_and_the_tests_own_world_is_even(store):
    """Replayed candles end now, off the full minute: a constant offset is no fault."""
    store.clock.advance(17.3)
    write_candles(store, SYMBOL, random_closes(1, 300))
    assert (state_of(store)["state"], state_of(store)["gap_count"]) == ("present", 0)
