"""Sigma says how far the next close may be: each return is counted once, and a share that is no chance is found."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binom, chi2, norm
from scipy.stats import t as student_t

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding
from quantum_assets.checks.proofs.informative import coverage
from quantum_core.contracts.reading import Reading
from quantum_core.coverage import BEYOND, BEYOND_MIN, COVERAGE, EXCEEDANCE, P_MIN, Share, holm, kupiec, share_of
from quantum_core.informative import Hours, N, add
from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.profiles.files import load
from quantum_core.profiles.profile import LOCKED, Profile
from quantum_lab.coverage import kupiec as of_the_lab
from resources.inputs.candle_series import Candles
from resources.store.informative import count_evaluations
from resources.store.redis_store import RedisStore
from tests.world import run_cycle, with_evidence, write_candles, write_world

SYMBOL = "BTCUSDT"
START = 1_769_083_200.0  # epoch s, a whole hour
MINUTE_MS = 60_000
SIGMA = 0.001
RETURNS_MIN = round(BEYOND_MIN / EXCEEDANCE)
NORMAL = MarketStateTheta().vol
LIMIT = 1.959963984540054 * SIGMA  # two-sided 5 % of a normal variable


def series(closes: list[float], *, without: tuple[int, ...] = ()) -> dict[str, Reading[Candles]]:
    """Give candles of whole minutes since START, some of them missing."""
    rows = [row for row in range(len(closes)) if row not in without]
    times = np.array([int(START * 1000) + row * MINUTE_MS for row in rows], dtype=np.int64)
    prices = np.array([closes[row] for row in rows])
    newest = float(times[-1] + MINUTE_MS - 1) / 1000
    return {SYMBOL: Reading.present(SYMBOL, Candles(times, prices, prices, prices, "candles", "key", 0, newest, prices))}


def state(minute: int, close: float, **changes: object) -> dict[str, dict[str, dict[str, object]]]:
    """Give the state published of a candle, ten seconds after it closed."""
    closed = START + 60 * (minute + 1)
    fields = {"regime": "CHOP", "spike_proxy": 1.0, "ts": 0.1, "p_trend": 0.2, "p_mr": 0.2, "p_chop": 0.6}
    row = {
        **fields, "symbol": SYMBOL, "sigma": SIGMA, "close": close, "ts_timestamp": int(closed - 0.001), "source": "candles",
        "market_inactive": False, "last_update_epoch": closed + 10, **changes,
    }  # fmt: skip
    return {"market_state": {SYMBOL: row}}


def look(store: RedisStore, rows, candles, profile=LOCKED) -> tuple[int, int]:
    """Let the pack look once; give how many returns were judged so far, and how many were beyond."""
    share = share_of(count_evaluations(store, rows, [SYMBOL], profile, candles)[SYMBOL], profile.theta(MarketStateTheta).vol)
    return share.judged, share.beyond


def moved(*returns: float) -> list[float]:
    """Give closes with these returns between them."""
    return [float(price) for price in 100 * np.exp(np.cumsum([0.0, *returns]))]


def test_a_forecast_is_judged_by_the_close_of_the_very_next_candle_once(make_store) -> None:
    """The pack looks up to three times a minute, from several processes, and states come every ten seconds."""
    closes = moved(LIMIT * 1.001, -LIMIT * 1.001, LIMIT * 0.999, 0.0)
    judged = []
    for minute in range(len(closes)):
        for again in range(3):
            rows = state(minute, closes[minute], last_update_epoch=START + 60 * (minute + 1) + 10 * again)
            judged.append(look(make_store(), rows, series(closes[: minute + 1])))
    assert judged == [(0, 0)] * 3 + [(1, 1)] * 3 + [(2, 2)] * 3 + [(3, 2)] * 3 + [(4, 2)] * 3


def test_what_was_known_at_the_candle_counts_and_not_what_came_after(make_store) -> None:
    """A pack that comes late judges the candle after the forecast, not all that has passed since."""
    store, closes = make_store(), moved(0.0, LIMIT * 5, LIMIT * 5)
    assert look(store, state(0, closes[0]), series(closes[:1])) == (0, 0)
    assert look(store, state(3, closes[3], sigma=1.0), series(closes)) == (1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "synthetic"},
        {"market_inactive": True},
        {"ts_timestamp": 0},
        {"close": 99.0},
        {"sigma": 0.0},
    ],
    ids=lambda one: next(iter(one)),
)
def test_a_state_that_forecasts_nothing_is_not_judged(make_store, changes) -> None:
    """Synthetic prices, a market that stands still, candles without times, and a close that is not on record."""
    store, closes = make_store(), moved(LIMIT * 2, LIMIT * 2)
    assert look(store, state(0, **{"close": closes[0], **changes}), series(closes[:1])) == (0, 0)
    assert look(store, state(1, closes[1]), series(closes[:2])) == (0, 0)
    assert look(store, state(2, closes[2]), series(closes)) == (1, 1)


def test_a_return_over_a_gap_is_not_counted(make_store) -> None:
    """It is one of two minutes."""
    store, closes = make_store(), moved(LIMIT, LIMIT, LIMIT * 2)
    assert look(store, state(0, closes[0]), series(closes[:1])) == (0, 0)
    assert look(store, state(2, closes[2]), series(closes[:3], without=(1,))) == (0, 0)
    assert look(store, state(3, closes[3]), series(closes, without=(1,))) == (1, 1)


def test_another_profile_begins_anew_and_a_spoiled_field_is_no_forecast(make_store) -> None:
    """Whoever changed the profile because sigma was too narrow is not blamed for the day before."""
    store, closes = make_store(), moved(LIMIT * 2, LIMIT * 2, LIMIT * 2)
    look(store, state(0, closes[0]), series(closes[:1]))
    assert look(store, state(1, closes[1]), series(closes[:2])) == (1, 1)
    assert look(store, state(2, closes[2]), series(closes[:3]), load("crypto-1m")) == (0, 0)
    store.client.hset(store.keys.of("informative", SYMBOL), "forecast", "1 2 x")
    assert look(store, state(3, closes[3]), series(closes), load("crypto-1m")) == (0, 0)


@pytest.mark.parametrize(
    ("vol", "tail_move", "limit"),
    [
        ({"tail": "student_t", "step_df": 4.0, "step_scale": 1.1}, 0.5, 1.1 * student_t.isf(0.025, 4) * 0.5**0.5 * SIGMA),
        ({"tail": "historical", "tail_exceedance": 0.01, "tail_horizon": 4}, 0.006, 0.003),
        ({"tail": "historical", "tail_exceedance": 0.01}, None, norm.isf(0.005) * SIGMA),
    ],
    ids=["of the next candle", "of single returns", "published before there was a tail"],
)
def test_a_profile_with_a_tail_is_judged_by_what_it_says_of_the_next_candle(make_store, vol, tail_move, limit) -> None:
    """The tail over an hour is another one: sigma changes on the way."""
    store, profile = make_store(), LOCKED.changed({"market_state": {"vol": vol}})
    closes = moved(limit * 1.001, limit * 0.999, 0.0)
    shares = [
        look(store, state(minute, closes[minute], tail_move=tail_move), series(closes[: minute + 1]), profile)
        for minute in range(3)
    ]
    assert shares == [(0, 0), (1, 1), (2, 1)]


def test_a_tail_of_another_exceedance_is_judged_by_it() -> None:
    """One return in a hundred beyond is right for a tail of 1 %, and five in a hundred are not; it takes longer to say so."""
    profile = LOCKED.changed({"market_state": {"vol": {"tail": "historical", "tail_exceedance": 0.01}}})
    one, five = (np.arange(1440) % every == 0 for every in (100, 20))
    assert found({"S0": five[:1199]}, profile).judged == 0
    assert set(found({"S0": one, "S1": five}, profile).failing) == {"S1"}
    assert set(found({"S0": one, "S1": five}).failing) == {"S0"}
    assert Share(1200, 12, 0.01).enough


def test_what_is_judged_costs_no_round_trip_of_its_own(make_store) -> None:
    """566 symbols are read and written at once, with the counters that were there before."""
    store, closes, asked = make_store(), moved(LIMIT * 2), []
    store.run = lambda doing, commands: asked.append(doing) or RedisStore.run(store, doing, commands)
    look(store, state(0, closes[0]), series(closes[:1]))
    assert look(store, state(1, closes[1]), series(closes)) == (1, 1)
    assert asked == ["reading counters of evaluations", "counting evaluations"] * 2


def test_published_states_are_judged_by_published_candles(make_store, instance, tmp_path) -> None:
    """The whole way: two cycles, a candle apart, and what the pack counts of them."""
    store = make_store(symbols="BTCUSDT,ETHUSDT", profile=with_evidence(tmp_path))
    write_world(store)
    candles = {symbol: Evidence(store).candles[symbol].value for symbol in store.settings.symbols}
    run_cycle(store, instance)
    assert [share_of(hours, NORMAL).judged for hours in Evidence(store).evaluations.values()] == [0, 0]
    store.clock.advance(60)
    for symbol, up in (("BTCUSDT", 1.2), ("ETHUSDT", 1.0)):
        closes = candles[symbol].close.tolist()
        write_candles(store, symbol, [*closes, closes[-1] * up])
    run_cycle(store, instance)
    shares = {symbol: share_of(hours, NORMAL) for symbol, hours in Evidence(store).evaluations.items()}
    assert {symbol: (one.judged, one.beyond) for symbol, one in shares.items()} == {"BTCUSDT": (1, 1), "ETHUSDT": (1, 0)}
    finding = coverage(Evidence(store))
    assert (finding.judged, finding.failing) == (0, {})
    assert finding.observed == "too few returns to expect 12 beyond the quantile (240 at 5%): at most 1"


# --- the test of a day ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returns", "exceedance", "accepted"),
    [
        (255, 0.01, (1, 6)),  # published as N < 7; the ratio of none is 5.13, above the 3.84 of the table
        (510, 0.01, (2, 10)),
        (1000, 0.01, (5, 16)),
        (255, 0.05, (7, 20)),
        (510, 0.05, (17, 35)),
        (1000, 0.05, (38, 64)),
    ],
)
def test_kupiec_accepts_what_its_author_published(returns: int, exceedance: float, accepted: tuple[int, int]) -> None:
    """Kupiec (1995), table of non-rejection regions at 95 % confidence."""
    exceedances = np.arange(returns + 1)
    held = exceedances[kupiec(np.full(returns + 1, returns), exceedances, exceedance) >= 0.05]
    assert (held.min(), held.max()) == accepted


def test_kupiec_is_the_likelihood_ratio_of_two_binomials() -> None:
    """A second way to the same p-value, no return beyond and all of them among them."""
    returns, exceedances = np.array([240, 240, 1440, 1440, 300]), np.array([0, 12, 100, 40, 300])
    best = binom.logpmf(exceedances, returns, exceedances / returns)
    p_values = chi2.sf(2 * (best - binom.logpmf(exceedances, returns, 0.05)), 1)
    assert_allclose(kupiec(returns, exceedances, 0.05), p_values, rtol=1e-9, atol=1e-12)  # logpmf cancels to about 1e-12


@pytest.mark.parametrize(("returns", "exceedances"), [(240, 0), (240, 12), (1440, 100), (1440, 40), (300, 300)])
def test_the_proof_and_the_lab_test_coverage_alike(returns: int, exceedances: int) -> None:
    """What a report of history accepts must not be condemned live."""
    assert_allclose(kupiec([returns], [exceedances], 0.05), [of_the_lab(returns, exceedances, 0.05).p], rtol=1e-9, atol=1e-12)


def test_holm_corrects_as_by_hand() -> None:
    """Smallest times four, next times three, never below the one before."""
    assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], rtol=1e-12)
    assert_allclose(holm([0.6, 0.9]), [1.0, 1.0])


def found(beyond_by_symbol: dict[str, np.ndarray], profile: Profile = LOCKED) -> Finding:
    """Judge a day of returns, each beyond the quantile or not."""
    evaluations: dict[str, Hours] = {}
    for symbol, beyond in beyond_by_symbol.items():
        hours = evaluations.setdefault(symbol, {})
        for hour, start in enumerate(range(0, len(beyond), 60)):
            chunk = beyond[start : start + 60]
            add(hours, COVERAGE, [N] * len(chunk) + [BEYOND] * int(chunk.sum()), START + 3600 * hour)
    return coverage(SimpleNamespace(evaluations=evaluations, in_force=SimpleNamespace(profile=profile)))


@pytest.mark.parametrize(("symbols", "minutes", "days"), [(1, 1440, 600), (1, RETURNS_MIN, 600), (25, 720, 80)])
def test_on_returns_with_the_right_sigma_it_is_red_on_one_day_in_a_hundred(symbols: int, minutes: int, days: int) -> None:
    """However the symbols move together: a third of each return is the market's."""
    rng, red = np.random.default_rng(7), 0
    for _ in range(days):
        market = rng.normal(size=minutes)
        returns = np.sqrt(2 / 3) * rng.normal(size=(symbols, minutes)) + np.sqrt(1 / 3) * market
        beyond = np.abs(returns) > norm.isf(0.025)
        red += bool(found({f"S{number}": row for number, row in enumerate(beyond)}).failing)
    assert red <= binom.ppf(0.999, days, 0.0115)  # 0.0115: exact size of the test at 240 returns, where it is largest


@pytest.mark.parametrize(("symbols", "minutes"), [(1, RETURNS_MIN), (50, RETURNS_MIN), (3, 1440)])
def test_on_returns_twice_as_wide_or_half_as_wide_every_symbol_is_named(symbols: int, minutes: int) -> None:
    """Stops that are hit three times as often as they say, or never, are found on the first day."""
    rng = np.random.default_rng(3)
    returns = rng.normal(size=(symbols, minutes))
    names = [f"S{number}" for number in range(symbols)]
    wide = found(dict(zip(names, np.abs(2 * returns) > norm.isf(0.025), strict=True)))
    assert set(wide.failing) == set(names)
    assert "too narrow" in wide.failing["S0"]
    half = found(dict(zip(names, np.abs(returns / 2) > norm.isf(0.025), strict=True)))
    assert set(half.failing) == set(names)
    assert "too wide" in half.failing["S0"]


def test_fewer_returns_than_are_needed_are_not_judged() -> None:
    """A share of 100 % of ten returns says nothing; beside it another symbol is judged."""
    few = found({"S0": np.ones(RETURNS_MIN - 1, dtype=bool)})
    assert (few.judged, few.failing) == (0, {})
    both = found({"S0": np.ones(RETURNS_MIN - 1, dtype=bool), "S1": np.ones(RETURNS_MIN, dtype=bool)})
    assert (both.judged, set(both.failing)) == (1, {"S1"})
    assert f"p >= {P_MIN}" in both.threshold


def test_legs_of_one_market_are_judged_as_one() -> None:
    """They have the same returns; twice the tests would be twice the correction."""
    beyond = np.ones(RETURNS_MIN, dtype=bool)
    assert set(found({"BTCUSDT.LONG": beyond, "BTCUSDT.SHORT": beyond}).failing) == {"BTCUSDT"}
