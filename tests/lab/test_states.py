"""The states of a history are those that live has at each candle, whatever was kept of them before."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from quantum_core.kernels.market.grid import GridTheta, Series, grids
from quantum_core.kernels.market.market_state import COMPUTED, STATE_COLUMNS, MarketStateTheta, VolTheta, market_state
from quantum_lab import states as lab_states
from quantum_lab.candles import CandleHistory, CandlesError, history_of
from quantum_lab.states import states_of, weighed_again

SHORT = MarketStateTheta().override({"vol": {"window": 96}, "regime": {"window": 96}, "trend": {"windows": [24, 48, 96]}})


def walk(length: int, seed: int = 1, interval_ms: int = 60_000) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.001 * rng.standard_normal(length)))
    opened = np.concatenate([[100.0], close[:-1]])
    return pl.DataFrame(
        {
            "open_time_ms": 1_700_000_040_000 + interval_ms * np.arange(length),
            "open": opened,
            "high": np.maximum(opened, close) * 1.0003,
            "low": np.minimum(opened, close) / 1.0003,
            "close": close,
            "volume": np.ones(length),
        }
    )


def alone(history: CandleHistory, row: int, theta: MarketStateTheta) -> list[float]:
    """What live computes at the close of one candle, from the newest 300 candles."""
    required = theta.candles_required
    part = slice(max(0, row + 1 - required - 43), row + 1)
    (grid,) = grids(
        [Series(history.open_time_ms[part], history.close[part], history.volume[part])],
        GridTheta(history.interval_sec, required=required),
    )
    if grid.reason or len(grid.closes) < required:
        return [np.nan] * len(STATE_COLUMNS)
    state = market_state(grid.closes[None, :], theta=theta)
    return [float(getattr(state, name)[0]) for name in STATE_COLUMNS]


@pytest.mark.parametrize("hole", [0, 3, 6])
def test_every_state_is_the_one_live_has(hole: int) -> None:
    """Few missing candles are bridged, more of them leave no state until the window is full again: as live, bit for bit."""
    frame = walk(300)
    frame = pl.concat([frame[:120], frame[120 + hole :]])
    history = history_of("BTCUSDT", frame)
    states = states_of(history, SHORT)
    expected = np.array([alone(history, row, SHORT) for row in range(len(history))]).T
    for name, column in zip(STATE_COLUMNS, expected, strict=True):
        np.testing.assert_array_equal(getattr(states, name), column)
    assert (~states.has_state[:96]).all()
    assert bool(states.has_state[121]) == (hole <= 5)


def test_more_jumps_than_are_winsorised_leave_no_state() -> None:
    frame = walk(300)
    unit = pl.int_range(pl.len()).is_between(100, 110) | pl.int_range(pl.len()).is_between(120, 122)
    frame = frame.with_columns(
        (pl.col(name) * pl.when(unit).then(10).otherwise(1)).alias(name) for name in ("open", "high", "low", "close")
    )
    history = history_of("BTCUSDT", frame)
    states = states_of(history, SHORT)
    np.testing.assert_array_equal(states.sigma, [alone(history, row, SHORT)[0] for row in range(len(history))])
    assert history.jumps.sum() == 4
    assert states.has_state[108]
    assert not states.has_state[124]
    assert "jump" in " ".join(history.notes)


def test_a_later_candle_changes_no_state_before_it() -> None:
    frame = walk(400)
    other = pl.concat([frame[:200], walk(200, seed=2).with_columns(pl.col("open_time_ms") + 200 * 60_000)])
    first, second = (states_of(history_of("BTCUSDT", one), SHORT) for one in (frame, other))
    np.testing.assert_array_equal(first.p_trend[:200], second.p_trend[:200])
    assert (first.p_trend[201:] != second.p_trend[201:]).any()


def test_scores_of_other_weights_give_the_states_of_these_weights(tmp_path: Path) -> None:
    """Bit for bit, also around a hole; and what is kept is what a backtest asks for, under its own name."""
    frame = walk(400)
    history = history_of("BTCUSDT", pl.concat([frame[:120], frame[126:]]))
    first, second = (
        SHORT.override({"regime": {"measure": "significance", "score": {"c1": level, "b1": weight, "a2": 0.0}}})
        for level, weight in ((1.0, 1.0), (0.3, 1.7))
    )
    before, after = states_of(history, first), states_of(history, second)
    again = weighed_again(history, before, second, cache=tmp_path)
    assert (before.p_trend[-1], before.p_mr[-1]) != (after.p_trend[-1], after.p_mr[-1])
    for name in COMPUTED:
        np.testing.assert_array_equal(getattr(again, name), getattr(after, name))
    (kept,) = tmp_path.iterdir()
    states_of(history, second, cache=tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_scores_by_scale_are_not_weighed_again() -> None:
    """They read what states do not keep to the bit."""
    history = history_of("BTCUSDT", walk(200))
    with pytest.raises(ValueError, match="only scores by significance"):
        weighed_again(history, states_of(history, SHORT), SHORT)


@pytest.mark.slow
def test_two_processes_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_of("BTCUSDT", walk(1000))
    one = states_of(history, SHORT, workers=1)
    monkeypatch.setattr(lab_states, "PARALLEL_FROM", 1)
    monkeypatch.setattr(lab_states, "BLOCK", 100)
    two = states_of(history, SHORT)
    for name in STATE_COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


class TestKept:
    """States are computed once; what was kept is used only where it is what would be computed."""

    def test_kept_states_are_not_computed_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        history = history_of("BTCUSDT", walk(150))
        first = states_of(history, SHORT, cache=tmp_path)
        monkeypatch.setattr(lab_states, "block_states", None)
        again = states_of(history, SHORT, cache=tmp_path)
        for name in STATE_COLUMNS:
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name))

    def test_other_parameters_or_candles_have_files_of_their_own(self, tmp_path: Path) -> None:
        history = history_of("BTCUSDT", walk(150))
        states_of(history, SHORT, cache=tmp_path)
        states_of(history, SHORT.override({"vol": {"ewma_lambda": 0.9}}), cache=tmp_path)
        states_of(history.slice(0, 149), SHORT, cache=tmp_path)
        assert len(list(tmp_path.glob("states-*.parquet"))) == 3

    @pytest.mark.parametrize("damage", ["cut", "changed", "another's"])
    def test_a_damaged_file_is_named_and_computed_again(
        self, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        history = history_of("BTCUSDT", walk(150))
        first = states_of(history, SHORT, cache=tmp_path)
        (file,) = tmp_path.glob("states-*.parquet")
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-20])
        elif damage == "another's":
            states_of(history, SHORT.override({"vol": {"ewma_lambda": 0.9}}), cache=tmp_path)
            (other,) = set(tmp_path.glob("states-*.parquet")) - {file}
            other.replace(file)
        else:
            frame = pl.read_parquet(file).with_columns(sigma=pl.col("sigma") * 2)
            frame.write_parquet(file, metadata=pl.read_parquet_metadata(file))
        with caplog.at_level(logging.WARNING, "quantum.lab"):
            again = states_of(history, SHORT, cache=tmp_path)
        np.testing.assert_array_equal(first.sigma, again.sigma)
        assert file.name in caplog.text
        caplog.clear()
        states_of(history, SHORT, cache=tmp_path)
        assert not caplog.text


class TestHistory:
    """What is no candle is left out by name, never repaired."""

    def test_rows_that_are_no_candles_are_counted_by_reason(self) -> None:
        frame = walk(50)
        rows = [
            frame,
            frame[3:4],
            frame[7:8].with_columns(close=pl.col("close") * 1.0001),
            frame[9:10].with_columns(pl.col("open_time_ms") + 10_000_000, close=pl.lit(float("nan"))),
            frame[9:10].with_columns(pl.col("open_time_ms") + 20_000_000, high=pl.col("low") / 2),
        ]
        history = history_of("BTCUSDT", pl.concat(rows))
        assert history.left_out == {"duplicate": 1, "contradiction": 2, "no_price": 1, "not_enclosed": 1}
        assert len(history) == 49
        assert (np.diff(history.open_time_ms) > 0).all()

    def test_candles_without_a_wick_on_one_side_are_named(self) -> None:
        frame = walk(50)
        assert history_of("BTCUSDT", frame).notes == ()
        flat_top = history_of("BTCUSDT", frame.with_columns(high=pl.max_horizontal("open", "close")))
        assert any(note.startswith("one-sided") for note in flat_top.notes)

    def test_of_candles_without_a_range_none_has_one(self) -> None:
        flat = history_of(
            "BTCUSDT", walk(50).with_columns(pl.lit(100.0).alias(name) for name in ("open", "high", "low", "close"))
        )
        assert any(note.startswith("one-sided: of 0 candles with a range 0 go above") for note in flat.notes)

    def test_a_hole_is_named_with_its_length(self) -> None:
        frame = walk(50)
        history = history_of("BTCUSDT", pl.concat([frame[:20], frame[40:]]))
        assert history.missing[20] == 20
        assert "20 before" in " ".join(history.notes)

    def test_without_candles_there_is_no_history(self) -> None:
        with pytest.raises(CandlesError, match="0 usable candles"):
            history_of("BTCUSDT", walk(50)[:0])


def test_a_window_below_the_theta_is_never_used() -> None:
    history = history_of("BTCUSDT", walk(400))
    theta = MarketStateTheta(vol=VolTheta(window=300))
    assert int(np.flatnonzero(states_of(history, theta, required=257).has_state)[0]) == 300
