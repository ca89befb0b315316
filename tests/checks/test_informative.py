"""Numbers that say nothing are found: on the bundled candles those of locked-v1, and none of crypto-1m."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from quantum_core.informative import EVALUATIONS_MIN, Hours, add, facts_of, says_nothing
from quantum_core.kernels.columns import Market, Position
from quantum_core.kernels.market.market_state import STATE_COLUMNS, MarketStateTheta, market_state
from quantum_core.kernels.proposals.harvest import HarvestTheta, harvest
from quantum_core.kernels.proposals.stops import StopsTheta, stops
from quantum_core.profiles.files import load, parse
from quantum_core.profiles.profile import LOCKED
from resources.store.informative import KEY, count_evaluations
from tests.world import SAMPLE

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
START = datetime(2026, 1, 22, tzinfo=UTC).timestamp()
EVERY_SEC = 200  # so that the sample, which has seven hours, fills a day
HELD = 60


def day_of(symbol: str, profile_name: str) -> Hours:
    """Count what a profile says along the bundled candles of a symbol, with a position of an hour at each."""
    profile = load(profile_name)
    closes = pl.read_csv(SAMPLE / f"{symbol}_1m.csv")["Close"].to_numpy().astype(float)
    windows = sliding_window_view(closes, profile.candles_required)
    state = market_state(windows, theta=profile.theta(MarketStateTheta))
    market = Market(state.sigma, state.ts, state.p_trend, state.p_mr, state.p_chop)
    entry, price, rows = windows[:, -1 - HELD], windows[:, -1], len(windows)
    nothing = np.full(rows, np.nan)
    position = Position(
        is_long=np.full(rows, fill_value=True),
        entry_price=entry,
        current_price=price,
        peak_price=windows[:, -HELD:].max(axis=1),
        trough_price=windows[:, -HELD:].min(axis=1),
        age_sec=np.full(rows, HELD * 60.0),
        unrealized_pnl=price - entry,
        current_sl=nothing,
        qty=nothing,
    )
    risk = stops(market, position, profile.theta(StopsTheta))
    take = harvest(market, position, risk.stop_dist_pct, profile.theta(HarvestTheta))
    parts = ("k_regime_flip", "k_sigma_spike", "k_ts_drop", "k_age_penalty")
    hours: Hours = {}
    for row in range(rows):
        at = START + row * EVERY_SEC
        rows_by_asset = {
            "market_state": {name: getattr(state, name)[row] for name in STATE_COLUMNS},
            "risk_proposal": {name: getattr(risk, name)[row] for name in ("stop_dist_pct", "tp_dist_pct", "trail_gap_pct")},
            "harvest_proposal": {name: getattr(take, name)[row] for name in ("harvest_action", "kill_score", *parts)},
        }
        for asset, values in rows_by_asset.items():
            add(hours, asset, facts_of(asset, {"symbol": symbol, **values}, profile), at)
    return hours


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_locked_v1_says_nothing_on_one_minute_candles_and_crypto_1m_does(symbol: str) -> None:
    """Its stops are their floor, its regime never changes, its positions of an hour are all to be closed."""
    locked, fitting = (day_of(symbol, name) for name in ("locked-v1", "crypto-1m"))
    found = {asset: [one.parameter for one in says_nothing(locked, asset)] for asset in ("market_state", "risk_proposal")}
    assert "market_state.regime.score" in found["market_state"]
    assert {"stops.sl_min_pct", "stops.tp_min_pct"} <= set(found["risk_proposal"])
    for asset in ("market_state", "risk_proposal", "harvest_proposal"):
        assert says_nothing(fitting, asset) == [], asset


def test_an_action_that_is_always_the_same_is_named_with_its_cause() -> None:
    """What kills every position of an hour on minutes is the regime flip."""
    (close, *rest) = says_nothing(day_of("BTCUSDT", "locked-v1"), "harvest_proposal")
    facts = {one.fact: one for one in (close, *rest)}
    assert "the harvest action is FULL_CLOSE_PROPOSED" in facts
    assert facts["the kill score names regime_flip"].parameter == "harvest.k_regime_flip"


def test_a_share_says_nothing_before_there_are_enough_evaluations() -> None:
    """A desk that has just started is not told that its numbers are all the same."""
    hours: Hours = {}
    for number in range(EVALUATIONS_MIN - 1):
        add(hours, "risk_proposal", ["n", "stop_at_floor"], START + 60 * number)
    assert says_nothing(hours, "risk_proposal") == []
    add(hours, "risk_proposal", ["n", "stop_at_floor"], START + 60 * EVALUATIONS_MIN)
    (found,) = says_nothing(hours, "risk_proposal")
    assert (found.share, found.evaluations, found.since_hour) == (1.0, EVALUATIONS_MIN, int(START // 3600))


def test_what_is_older_than_a_day_or_ahead_of_the_clock_is_forgotten() -> None:
    """A profile that fits since yesterday is not blamed for the one before, nor after a clock was set back."""
    hours: Hours = {int(START // 3600) + 5: {"risk_proposal": Counter(n=500, stop_at_floor=500)}}
    add(hours, "risk_proposal", ["n"], START)
    assert list(hours) == [int(START // 3600)]
    add(hours, "risk_proposal", ["n"], START + 25 * 3600)
    assert list(hours) == [int(START // 3600) + 25]


def test_each_evaluation_is_counted_once_and_survives_a_restart(make_store) -> None:
    """The pack looks twice, and `quantum prove` may look beside it; the counters are in Redis, not in a process."""
    row = {"symbol": "BTCUSDT", "stop_dist_pct": 0.005, "tp_dist_pct": 0.02, "trail_gap_pct": 0.006}

    def counted(at: float, **more: float) -> Counter[str]:
        rows = {"risk_proposal": {"BTCUSDT": {**row, **more, "last_update_epoch": at}}}
        hours = count_evaluations(make_store(), rows, ["BTCUSDT"], LOCKED)["BTCUSDT"]
        return sum((one["risk_proposal"] for one in hours.values()), Counter())

    assert counted(START) == counted(START) == {"n": 1, "stop_at_floor": 1}
    assert counted(START + 10, stop_dist_pct=0.006) == {"n": 2, "stop_at_floor": 1}
    assert counted(START + 3600) == {"n": 3, "stop_at_floor": 2}


def test_a_stop_at_its_floor_is_blamed_on_what_decides_it() -> None:
    """Raising multiples of sigma that are not used would change nothing."""
    profile = parse('name = "tails"\n[stops]\ntail_stop = true\n', "tails.toml")
    row = {"symbol": "BTCUSDT", "stop_dist_pct": 0.005, "tp_dist_pct": 0.02, "trail_gap_pct": 0.006}
    assert facts_of("risk_proposal", {**row, "tail_move": 0.004}, profile) == ["n", "tail_stop_at_floor"]
    assert facts_of("risk_proposal", {**row, "tail_move": None}, profile) == ["n", "stop_at_floor"]
    assert facts_of("risk_proposal", {**row, "tail_move": 0.004}, LOCKED) == ["n", "stop_at_floor"]


def test_counters_that_cannot_be_read_count_nothing_and_stop_nobody(make_store) -> None:
    """One bad key is its symbol's trouble; a bad hour is forgotten."""
    store = make_store()
    rows = {
        "allocation_target": {
            one: {"symbol": one, "reason": "ok", "multiplier": 1.5, "last_update_epoch": START} for one in ("BTCUSDT", "ETHUSDT")
        }
    }
    store.client.set(store.keys.of(KEY, "BTCUSDT"), "x")
    store.client.hset(store.keys.of(KEY, "ETHUSDT"), mapping={"1": "{half", "junk": "x"})
    found = count_evaluations(store, rows, ["BTCUSDT", "ETHUSDT"], LOCKED)
    assert found["BTCUSDT"] == {}
    assert found["ETHUSDT"] == {int(START // 3600): {"allocation_target": {"n": 1, "multiplier:1.5000": 1}}}


def test_what_another_profile_gave_says_nothing_of_this_one(make_store) -> None:
    """Whoever changed the profile because its numbers said nothing begins anew."""
    store, row = make_store(), {"symbol": "BTCUSDT", "stop_dist_pct": 0.005, "tp_dist_pct": 0.02, "trail_gap_pct": 0.006}

    def counted(at: float, name: str) -> Counter[str]:
        rows = {"risk_proposal": {"BTCUSDT": {**row, "last_update_epoch": at}}}
        hours = count_evaluations(store, rows, ["BTCUSDT"], load(name))["BTCUSDT"]
        return sum((one["risk_proposal"] for one in hours.values()), Counter())

    counted(START - 3600, "locked-v1")
    assert counted(START, "locked-v1") == {"n": 2, "stop_at_floor": 2}
    assert counted(START + 60, "crypto-1m") == {"n": 1}
    assert counted(START + 120, "crypto-1m") == {"n": 2}
