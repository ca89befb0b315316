"""The document says of generated markets what is true of them, and says the same of the same candles."""

import json

import numpy as np
import pytest

from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.profiles.files import load
from quantum_core.profiles.profile import Profile
from quantum_lab.bands import band_multiples
from quantum_lab.candles import CandleHistory
from quantum_lab.coverage import coverage
from quantum_lab.evidence import LEVELS, Sample, canonical, evidence, horizon_candles, sha256_of
from quantum_lab.regimes import Accuracy, accuracy
from quantum_lab.states import states_of
from quantum_lab.tables import markdown
from quantum_lab.volatility import ahead

SIGMA = 5e-4  # of one-minute returns
SHORT = {  # a market state of 65 candles: a third of the time
    "market_state": {
        "vol": {"window": 64},
        "trend": {"windows": [16, 32, 64]},
        "regime": {"window": 64},
    }
}


def history(returns: np.ndarray, symbol: str = "BTCUSDT") -> CandleHistory:
    """One-minute candles with these returns."""
    close = 30_000 * np.exp(np.cumsum(returns))
    times = 1_700_000_040_000 + 60_000 * np.arange(len(close))
    return CandleHistory(symbol, 60.0, times, close, close, close, close, np.ones(len(close)))


def garch(n: int, seed: int, df: float, alpha: float = 0.05, beta: float = 0.93) -> tuple[np.ndarray, np.ndarray]:
    """Returns of a GARCH(1,1) with Student-t shocks of unit variance, and the sigma that was known before each."""
    shocks = np.random.default_rng(seed).standard_t(df, n) * np.sqrt((df - 2) / df)
    variance, returns, sigmas = 1.0, np.empty(n), np.empty(n)
    for row in range(n):
        sigmas[row] = np.sqrt(variance)
        returns[row] = sigmas[row] * shocks[row]
        variance = 1 - alpha - beta + alpha * returns[row] ** 2 + beta * variance
    return SIGMA * returns, SIGMA * sigmas


def with_tail(tail: str, df: float = 5.0) -> MarketStateTheta:
    return MarketStateTheta().override({"vol": {"tail": tail, "tail_df": df, "step_df": df}})


@pytest.mark.parametrize("df", [4.0, 5.0, 10.0])
@pytest.mark.parametrize("level", LEVELS)
def test_the_true_tail_covers_what_it_says(df: float, level: float) -> None:
    """Known parameters, 40,000 returns: within half a point, not rejected; the normal band at 1 % is, and by more than chance."""
    returns, sigmas = garch(40_000, 11, df)
    moves, sigma = ahead(returns, 1), np.append(sigmas[1:], np.nan)
    closes = history(returns).close
    true, normal = (
        coverage(moves, band_multiples(closes, theta, level, 1) * sigma, level)
        for theta in (with_tail("student_t", df), MarketStateTheta())
    )
    assert abs(true.share - level) < 0.005
    assert true.kupiec.p > 0.01
    if level == 0.01:
        assert normal.kupiec.p < 1e-6
        assert normal.share > level


def test_the_historical_tail_is_of_the_returns_before_and_no_later_one() -> None:
    """Constant volatility, so that its EWMA is wide by the estimate's own noise: thinner than a point below 5 %, never above it."""
    returns = SIGMA * np.random.default_rng(12).standard_normal(12_000)
    closes = history(returns).close
    multiples = band_multiples(closes, with_tail("historical"), 0.05, 1)
    found = coverage(ahead(returns, 1), multiples * SIGMA, 0.05)
    assert 0.035 < found.share < 0.05
    other = closes.copy()
    other[4000:] *= 2
    np.testing.assert_array_equal(band_multiples(other, with_tail("historical"), 0.05, 1)[:4000], multiples[:4000])
    assert np.isnan(multiples[: MarketStateTheta().vol.window]).all()


def switching(n: int, length: int, seed: int, drift: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of drift, in sigmas a candle, of an Ornstein-Uhlenbeck price and of a walk, and which of them each candle is in."""
    rng = np.random.default_rng(seed)
    returns, truth = np.empty(n), np.empty(n, dtype=object)
    for start in range(0, n, length):
        kind, noise = ("trend", "mr", "chop")[rng.integers(3)], SIGMA * rng.standard_normal(length)
        stretch = noise.copy()
        if kind == "trend":
            stretch += rng.choice([-1, 1]) * drift * SIGMA  # .5: eight standard deviations of a walk over the window
        if kind == "mr":
            level = 0.0
            for row in range(length):
                stretch[row] = noise[row] - 0.4 * level
                level += stretch[row]
        returns[start : start + length], truth[start : start + length] = stretch, kind
    return returns, truth


def recognised(name: str, measure: str = "scale") -> Accuracy:
    """How well a profile recognises the stretches once its window lies within one of them."""
    returns, truth = switching(6000, 600, 13)
    theta = load(name).theta(MarketStateTheta).override({"regime": {"measure": measure}})
    labels = states_of(history(returns), theta).regime
    settled = np.arange(len(labels)) % 600 >= theta.candles_required
    return accuracy(np.where(settled, labels, None), truth)


@pytest.mark.slow
def test_regimes_that_are_there_are_recognised_and_a_profile_that_sees_none_is_named() -> None:
    """Known truth: by significance most of it is found; by scale locked-v1 finds no reversion, and a third of the trends."""
    significant, locked = recognised("locked-v1", "significance"), recognised("locked-v1")
    assert significant.balanced > 0.6, significant
    assert locked.balanced < significant.balanced - 0.2, (locked, significant)
    assert locked.recall["mr"] == 0


def small(seed: int = 14, n: int = 1500) -> Sample:
    return Sample(f"walk-{seed}", history(garch(n, seed, 5.0)[0]), ("00" * 32,))


def document(*samples: Sample, profiles: tuple[str, ...] = ("locked-v1",)) -> dict:
    short: list[Profile] = [load(one).changed(SHORT) for one in profiles]
    return evidence(samples, short, horizon_sec=600)


def test_equal_candles_give_equal_bytes_and_another_candle_another_hash() -> None:
    """The hash is of the content, and the content of nothing but candles, profiles and versions."""
    first, again = document(small()), document(small())
    assert canonical(first) == canonical(again)
    assert first["sha256"] == sha256_of(json.loads(canonical(first))["content"])
    changed = small()
    changed.history.close[700] *= 1.0001
    assert document(changed)["sha256"] != first["sha256"]


def test_the_document_has_every_part_of_every_file_and_profile() -> None:
    """JSON without NaN, sorted; the page in the same order."""
    made = document(small(), small(15), profiles=("locked-v1", "crypto-1m"))
    content = json.loads(canonical(made))["content"]
    assert [(one["sample"], one["profile"]) for one in content["results"]] == [
        (f"walk-{seed}", name) for seed in (14, 15) for name in ("locked-v1", "crypto-1m")
    ]
    for one in content["results"]:
        assert {"sigma", "ewma", "garch", "har"} == set(one["forecasts"]["one step"]["models"])
        assert [(band["span"], band["nominal"]) for band in one["coverage"]] == [
            ("one step", 0.05), ("one step", 0.01), ("horizon", 0.05), ("horizon", 0.01)
        ]  # fmt: skip
        assert sum(one["regime"]["persistence"]["shares"]) == pytest.approx(1, abs=1e-5)
        assert one["forecasts"]["one step"]["missing"] == {}
    assert content["versions"]["arch"] != "not installed"
    text = markdown(made)
    for wanted in ("## What it says of locked-v1", "## What it cannot say", "GARCH(1,1)", made["sha256"], "walk-15"):
        assert wanted in text
    assert "nan" not in text.lower().replace("signific", "")


def test_without_the_extra_the_rest_stands_and_the_document_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GARCH is no reason for no evidence."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    made = document(small())
    assert "garch" not in made["content"]["results"][0]["forecasts"]["one step"]["models"]
    assert any("make lab" in one for one in made["content"]["limitations"])
    assert "| GARCH(1,1) | – |" in markdown(made)


def test_a_walk_is_called_chance_and_thin_tails_are_called_thin() -> None:
    """Words follow the figures: t shocks leave a normal band too often, and nothing predicts a walk."""
    made = document(Sample("walk", history(garch(6000, 16, 3.0)[0])))
    said = " ".join(made["content"]["summary"]["locked-v1"])
    assert "Its tails are too thin" in said
    assert "no better than chance" in said
    assert "worse than quoting the base rate in 1 of 1 file" in said


def test_too_few_candles_are_named_and_no_verdict() -> None:
    """Sixty candles have no state."""
    made = document(small(n=60))
    assert made["content"]["results"][0]["states"] == 0
    assert "Nothing can be said" in made["content"]["summary"]["locked-v1"][0]
    assert "Too few candles" in " ".join(made["content"]["limitations"])
    assert "Too few candles." in markdown(made)


def test_a_verdict_on_tails_says_what_it_is_of() -> None:
    """Of 900 candles the next one was tested often enough, and the hour was not."""
    said = document(small(n=900))["content"]["summary"]["locked-v1"]
    (tails,) = [at for at, line in enumerate(said) if line.startswith("Its tails")]
    assert said[tails + 1].startswith("That is of the next candle")
    long = document(Sample("walk", history(garch(6000, 16, 3.0)[0])))["content"]["summary"]["locked-v1"]
    assert not any(line.startswith("That is of the next candle") for line in long)


@pytest.mark.parametrize("horizon_sec", [90, 60, 0])
def test_a_horizon_is_a_whole_number_of_candles(horizon_sec: float) -> None:
    """One candle is the other span already."""
    history_of_minutes = small(n=10).history
    assert horizon_candles(history_of_minutes, 3600) == 60
    with pytest.raises(ValueError, match="whole numbers from 2"):
        horizon_candles(history_of_minutes, horizon_sec)


def test_a_gap_is_no_return() -> None:
    """A candle after a hole has moved for longer than a candle."""
    whole = small(n=200).history
    part = CandleHistory(
        "BTCUSDT",
        60.0,
        *(np.delete(getattr(whole, name), slice(50, 53)) for name in ("open_time_ms", "open", "high", "low", "close", "volume")),
    )
    returns = part.returns
    assert np.isnan(returns[[0, 50]]).all()
    assert np.isfinite(np.delete(returns, [0, 50])).all()
