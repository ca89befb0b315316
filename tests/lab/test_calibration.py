"""A profile from candles: each rule against data whose answer is known, and what is written against what is read."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from quantum_core.kernels.market.market_state import MarketStateTheta, VolTheta
from quantum_core.profiles.files import load, parse
from quantum_core.profiles.profile import LOCKED
from quantum_lab.backtest import Backtest, ProfileResult
from quantum_lab.calibration import (
    CalibrationError,
    Rules,
    calibrated,
    regime_rule,
    sigma_of,
    standardised,
    stops_rule,
    tail_rule,
    volatility_rule,
)
from quantum_lab.candles import CandleHistory
from quantum_lab.judgement import cut, judge, made_from, rounded, verdict
from quantum_lab.search import Search, SearchError, candidates_of, search
from quantum_lab.states import states_of
from quantum_ops.cli.lab.calibrate import text_of
from tests.commands import run_command


def history(returns, *, symbol="BTCUSDT", interval_sec=60):
    """Give candles whose closes have these returns, with wicks on both sides."""
    close = 100 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
    open_ = np.concatenate([[100.0], close[:-1]])
    n = len(close)
    wick = np.random.default_rng(9).uniform(0, 0.0005, (2, n))
    high, low = np.maximum(open_, close) * (1 + wick[0]), np.minimum(open_, close) * (1 - wick[1])
    times = 1_700_000_000_000 // 60_000 * 60_000 + np.arange(n, dtype=np.int64) * 1000 * interval_sec
    return CandleHistory(symbol, interval_sec, times, open_, high, low, close, np.ones(n))


def walk(n=24_000, seed=1, sigma=0.0008):
    return history(np.random.default_rng(seed).standard_normal(n) * sigma)


def test_the_tail_of_a_known_distribution_is_found():
    rng = np.random.default_rng(2)
    unit = math.sqrt((5 - 2) / 5)
    tail = tail_rule([1.3 * unit * rng.standard_t(5, 400_000) for _ in range(2)])
    assert tail.df == pytest.approx(5, rel=0.1)
    assert tail.scale == pytest.approx(1.3, rel=0.02)
    fresh = np.abs(1.3 * unit * rng.standard_t(5, 400_000))
    assert np.mean(fresh > tail.quantile(0.05)) == pytest.approx(0.05, abs=0.002)
    assert np.mean(fresh > tail.quantile(0.01)) == pytest.approx(0.01, abs=0.001)


def test_a_normal_tail_stays_normal():
    tail = tail_rule([np.random.default_rng(3).standard_normal(400_000)])
    assert tail.df > 25
    assert tail.quantile(0.05) == pytest.approx(1.96, abs=0.02)


def test_every_history_weighs_the_same_in_a_tail():
    """Else the symbol with the longest file decides for all."""
    rng = np.random.default_rng(4)
    calm, wild = rng.standard_normal(300_000), 2 * rng.standard_normal(30_000)
    tail = tail_rule([calm, wild])
    shares = [np.mean(np.abs(sample) > tail.quantile(0.05)) for sample in (calm, wild)]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.003)


def test_too_few_moves_have_no_tail():
    with pytest.raises(CalibrationError, match="tails need 2000 moves of each history: there are 500"):
        tail_rule([np.ones(500)])


def test_regimes_get_their_stated_shares():
    rng = np.random.default_rng(5)
    samples = [np.stack([np.abs(rng.standard_normal(20_000)), rng.standard_normal(20_000) - shift]) for shift in (0.0, 0.5)]
    score = regime_rule(samples, Rules(60, trend_share=0.2, mr_share=0.1))["score"]
    drift, ratio = np.concatenate(samples, axis=1)
    trend, mr, chop = drift + np.maximum(ratio, 0), score["b1"] * np.maximum(-ratio, 0) - drift, score["c1"] * 5
    best = np.argmax([trend, mr, np.full_like(trend, chop)], axis=0)
    assert np.mean(best == 0) == pytest.approx(0.2, abs=0.01)
    assert np.mean(best == 1) == pytest.approx(0.1, abs=0.01)


def test_shares_that_cannot_be_reached_are_named():
    """Candles whose variance ratio is never below 1 revert to no mean, whatever their score weighs."""
    samples = [np.stack([np.ones(5000), np.ones(5000)])]
    with pytest.raises(CalibrationError, match="ask for other shares"):
        regime_rule(samples, Rules(60))


def test_multiples_are_the_published_ones_at_the_scale_of_the_horizon():
    rule = stops_rule(Rules(60, cost_bps=8.0))
    assert rule["k_sl"] == {"trend": 11.619, "mr": 6.1968, "chop": 7.746}
    assert (rule["sl_min_pct"], rule["tp_min_pct"]) == (0.0008, 0.0012)


@pytest.mark.slow
def test_a_sigma_that_follows_is_chosen_where_volatility_moves_fast():
    """The slow one is right where it never moves: on such data all are, and the steadiest is the one that averages most."""
    rng = np.random.default_rng(6)
    fast = np.where(np.arange(24_000) // 60 % 2, 0.0004, 0.0016) * rng.standard_normal(24_000)
    assert volatility_rule([history(fast)], 5).ewma_lambda < volatility_rule([walk()], 5).ewma_lambda


def test_sigma_is_that_of_the_market_state():
    candles, theta = walk(3_000), MarketStateTheta().override({"vol": {"ewma_lambda": 0.97, "winsor_q_low": 0.0}})
    sigma, states = sigma_of(candles, theta.vol), states_of(candles, theta)
    assert np.array_equal(sigma, states.sigma, equal_nan=True)


def test_no_return_spans_missing_candles():
    candles = walk(1_000)
    rows = np.delete(np.arange(len(candles)), np.arange(500, 510))
    holed = dataclasses.replace(
        candles, **{name: getattr(candles, name)[rows] for name in ("open_time_ms", "open", "high", "low", "close", "volume")}
    )
    assert np.flatnonzero(np.isnan(holed.returns)).tolist() == [0, 500]
    sigma = np.full(len(holed), 0.0008)
    assert len(standardised(holed, sigma, 60)) == len(holed) - 60 - 60


def test_the_last_part_is_judged_and_was_not_seen():
    candles = walk(2_000)
    first, last = cut([candles], 0.25)
    assert len(first[0]) + len(last[0]) == len(candles)
    assert first[0].open_time_ms[-1] < last[0].open_time_ms[0]
    names = made_from(first), made_from(last)
    assert names[0]["BTCUSDT"]["sha256"] != names[1]["BTCUSDT"]["sha256"]
    assert names[0]["BTCUSDT"]["candles"] == len(first[0])


def test_candles_of_two_lengths_make_no_profile():
    with pytest.raises(CalibrationError, match="60 s, 300 s"):
        calibrated([walk(500), history(np.zeros(500), symbol="ETHUSDT", interval_sec=300)], Rules(60), "desk")


def test_too_short_a_history_makes_no_profile():
    with pytest.raises(CalibrationError, match="give longer histories"):
        calibrated([walk(3_000)], Rules(60), "desk")


def judged(mean, low, high, nulls):
    """Give a backtest with these figures; nulls by name: mean difference and adjusted p."""
    found = {name: {"difference_R": {"mean": diff, "low": diff, "high": diff}, "p_holm": p} for name, (diff, p) in nulls.items()}
    summary = {"trades": 50, "expectancy_R": {"mean": mean, "low": low, "high": high}, "nulls": found}
    return Backtest([ProfileResult(LOCKED, None, summary)])


@pytest.mark.parametrize(
    ("tested", "good", "words"),
    [
        (judged(0.2, 0.1, 0.3, {"no_stop": (0.1, 0.01), "fixed_stop": (0.2, 0.001)}), True, "Recommended: "),
        (judged(0.2, -0.1, 0.5, {"no_stop": (0.1, 0.01)}), False, "Not recommended: "),
        (judged(0.2, 0.1, 0.3, {"no_stop": (0.1, 0.2)}), False, "no better than no_stop"),
        (judged(0.2, 0.1, 0.3, {"no_stop": (-0.1, 0.01)}), False, "worse than no_stop"),
        (judged(0.2, None, None, {"no_stop": (0.1, 0.01)}), False, "too few, or too close together"),
        (judged(0.2, 0.1, 0.3, {"no_stop": (0.1, None)}), False, "too few, or too close together"),
        (judged(0.2, 0.1, 0.3, {"no_stop": (0.1, 0.01), "fixed_stop": (0.1, None)}), False, "to compare it with fixed_stop."),
    ],
)
def test_only_what_beats_every_null_is_recommended(tested, good, words):
    recommended, text = verdict(tested)
    assert recommended is good
    assert words in text


def test_figures_are_plain_text_or_numbers():
    assert rounded({"a": 0.123456, "b": [float("nan"), 1], "c": "x"}) == {"a": 0.1235, "b": ["unknown", 1], "c": "x"}


def test_a_search_names_what_it_cannot_search():
    with pytest.raises(SearchError, match=r"stops\.k_sll is no number of a profile"):
        candidates_of(LOCKED, {"stops.k_sll": (1.0,)})
    with pytest.raises(SearchError, match=r"harvest\.lock_mode is no number"):
        candidates_of(LOCKED, {"harvest.lock_mode": (1.0,)})
    with pytest.raises(SearchError, match=r"stops\.k_sl\.chop would have factors of two names"):
        candidates_of(LOCKED, {"stops.k_sl": (0.7, 1.4), "stops.k_sl.chop": (0.5,)})
    with pytest.raises(SearchError, match="at most 200"):
        candidates_of(LOCKED, {"stops.k_sl": (0.5,) * 15, "stops.k_tp": (0.5,) * 15})


def test_the_first_trial_is_the_profile_as_it_is():
    candidates = candidates_of(LOCKED, {"stops.k_sl": (0.5, 2.0)})
    assert [candidate.factors["stops.k_sl"] for candidate in candidates] == [1.0, 0.5, 2.0]
    assert LOCKED.changed(candidates[0].changes).fingerprint == LOCKED.fingerprint
    assert LOCKED.changed(candidates[1].changes).parameters()["stops"]["k_sl"] == {"trend": 0.75, "mr": 0.4, "chop": 0.5}


def test_what_a_short_search_does_not_know_can_be_written():
    """With few blocks of time and no fold; JSON has no NaN, and the file of a profile no null."""
    (unchanged,) = candidates_of(LOCKED, {"stops.k_sl": (1.0,)})
    found = Search("expectancy", [unchanged], unchanged, None, None, math.nan, math.nan)
    body = json.loads(json.dumps(found.body(), allow_nan=False))
    assert (body["deflated_sharpe"], body["overfitting_probability"], body["out_of_sample_R"]) == (None, None, None)
    carried = dataclasses.replace(load("crypto-1m"), name="desk")
    written = text_of(dataclasses.replace(carried, evidence={"search": rounded(found.body())}))
    assert parse(written, "desk.toml").evidence["search"]["deflated_sharpe"] == "unknown"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give a profile calibrated on a random walk, and the candles kept back."""
    candles = walk()
    first, last = cut([candles], 0.15)
    cache = tmp_path_factory.mktemp("lab")
    return calibrated(first, Rules(60), "desk", cache=cache), first, last, cache


@pytest.mark.slow
def test_the_profile_of_a_random_walk_covers_as_stated_and_is_not_recommended(made):
    """Nothing can be earned on a random walk: a calibration that recommends something recommends luck."""
    profile, _, last, cache = made
    found = judge(profile, last, horizon=60, cache=cache)
    assert found["coverage"]["one_step_5pct"] == pytest.approx(0.05, abs=0.012)
    assert found["coverage"]["one_step_1pct"] == pytest.approx(0.01, abs=0.006)
    assert min(found["shares"][name] for name in ("trend", "mr", "chop")) >= 0.05
    assert found["shares"]["stop_at_floor"] <= 0.05
    assert not found["recommended"]
    assert found["verdict"].startswith("Not recommended")


@pytest.mark.slow
def test_what_is_written_is_what_is_read(made):
    profile, first, _, _ = made
    carried = dataclasses.replace(profile, evidence={"made_from": made_from(first), "fingerprint": profile.fingerprint})
    read = parse(text_of(carried), "desk.toml")
    assert read.fingerprint == profile.fingerprint == read.evidence["fingerprint"]
    assert read.evidence["made_from"]["BTCUSDT"]["candles"] == len(first[0])
    assert read.theta(MarketStateTheta).vol == profile.theta(MarketStateTheta).vol != VolTheta()


@pytest.mark.slow
def test_a_search_on_a_random_walk_is_refused(made):
    profile, first, _, cache = made
    found = search(
        first, profile, horizon=60, objective="expectancy", factors={"stops.k_sl": (0.7, 1.0, 1.4)}, folds=3, cache=cache
    )
    assert len(found.candidates) == 3
    assert found.refused
    assert found.body()["refused"] == found.refused


TWICE = ("--search", "stops.k_sl=2", "--search", "stops.k_sl=3")
OUTS = ("new.toml", "crypto-1m.toml", "no/new.toml", "old.toml", "a b.toml")
SAMPLE = Path(__file__).parents[2] / "quantum_assets" / "sample" / "BTCUSDT_1m.csv"


def call(home, *arguments):
    return run_command("calibrate", *map(str, arguments), environment={"QUANTUM_HOME": str(home), "COLUMNS": "80"})


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "new.toml"), 1, "give longer histories"),
        ((SAMPLE, "--interval", "5m", "--horizon", "60m", "--out", "new.toml"), 1, "60 s apart, and --interval is 300 s"),
        ((SAMPLE, "--interval", "1m", "--horizon", "90s", "--out", "new.toml"), 2, "is no multiple of --interval"),
        ((SAMPLE, "--interval", "1 minute", "--horizon", "60m", "--out", "new.toml"), 2, "accepted are times like 1m"),
        ((SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "old.toml"), 2, "exists: give another --out, or --force"),
        ((SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "a b.toml"), 2, "the name of a profile has letters"),
        ((SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "no/new.toml"), 2, "there is no folder"),
        (
            (SAMPLE, "--judge-on", SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "new.toml"),
            1,
            "700 candles of BTCUSDT to judge by",
        ),
        ((SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "crypto-1m.toml"), 2, "is a shipped profile"),
        ((SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "new.toml", "--cost-bps", "nan"), 2, "not a finite number"),
        (("no.csv", "--interval", "1m", "--horizon", "60m", "--out", "new.toml"), 2, "no.csv"),
        (
            (SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "new.toml", "--search", "stops.k_sl=2"),
            2,
            "needs --optimise",
        ),
        ((SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "new.toml", "--search", "stops.k_sl=x"), 2, "factors above 0"),
        (
            (SAMPLE, "--interval", "1m", "--horizon", "60m", "--out", "new.toml", "--optimise", "drawdown", *TWICE),
            2,
            "names a parameter twice",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_named_and_nothing_is_written(tmp_path, arguments, code, words):
    (tmp_path / "old.toml").write_text("mine")
    done = call(tmp_path, *(tmp_path / one if str(one) in OUTS else one for one in arguments))
    assert (done.returncode, words in " ".join(done.stderr.split())) == (code, True), done.stderr
    assert (tmp_path / "old.toml").read_text() == "mine"
    assert not (tmp_path / "new.toml").exists()


@pytest.mark.slow
def test_the_command_writes_a_profile_that_can_be_used_and_says_what_it_is_worth(tmp_path):
    candles = walk()
    rows = zip(candles.open_time_ms, candles.open, candles.high, candles.low, candles.close, candles.volume, strict=True)
    lines = ["open_time,open,high,low,close,volume", *(",".join(map(str, row)) for row in rows)]
    file, out = tmp_path / "BTCUSDT-1m.csv", tmp_path / "desk.toml"
    file.write_text("\n".join(lines))
    done = call(tmp_path, file, "--interval", "1m", "--horizon", "60m", "--held-out", "0.15", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    profile = load(str(out))
    assert profile.fingerprint == body["fingerprint"] == body["evidence"]["fingerprint"] == profile.evidence["fingerprint"]
    assert profile.evidence["verdict"].startswith("Not recommended")
    assert profile.candle_interval_sec == profile.evidence["interval_sec"] == 60
    shown = call(tmp_path, file, "--interval", "1m", "--horizon", "60m", "--held-out", "0.15", "--out", out, "--force")
    assert max(len(line) for line in shown.stdout.splitlines() if "/" not in line) <= 80  # a path is not cut
    assert "Not recommended" in shown.stdout
