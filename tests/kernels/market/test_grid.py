"""The grid of candles: what is refused by which name, and a second implementation that walks minute by minute."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_assets.checks import reference
from quantum_core.kernels.market.grid import DEFAULTS, Grid, GridTheta, Series, grids

MINUTE_MS = 60_000
START_MS = 1_769_083_200_000
FLAT = GridTheta(fill=True)


def series(minutes, *, volume=1.0, close=None) -> Series:
    """Candles at these minutes, which may be fractions."""
    times = np.array([round(START_MS + minute * MINUTE_MS) for minute in minutes], dtype=np.int64)
    closes = 100 + 0.01 * (np.arange(len(times)) % 7) if close is None else np.full(len(times), float(close))
    return Series(times, closes, np.full(len(times), float(volume)) if np.isscalar(volume) else np.asarray(volume, dtype=float))


def judged(one: Series, theta: GridTheta = DEFAULTS) -> Grid:
    (grid,) = grids([one], theta)
    return grid


def test_an_even_grid_is_taken_as_it_is():
    """The usual case: every close, no hole."""
    grid = judged(series(range(300)))
    assert (len(grid.closes), grid.gap_count, grid.gap_max_sec, grid.filled, grid.inactive, grid.reason) == (
        300,
        0,
        0,
        0,
        False,
        "",
    )
    assert grid.tick_pct == pytest.approx(0.01 / 100.05, rel=1e-3)


@pytest.mark.parametrize(
    ("minutes", "reason"),
    [
        (np.arange(300) / 15, "candles_spacing: 4.0 s, want 60 s"),
        (np.arange(300) * 5, "candles_spacing: 300.0 s, want 60 s"),
        (np.arange(300) * 2, "candles_spacing: 120.0 s, want 60 s"),
        (np.arange(300) * 1.11, "candles_spacing: 66.6 s, want 60 s"),
        (np.arange(300) * 0.89, "candles_spacing: 53.4 s, want 60 s"),
        (np.concatenate([np.arange(150) / 2, 75 + np.arange(150)]), "candles_spacing"),  # halves, then wholes
        (np.concatenate([np.arange(100) * 5, 500 + np.arange(200)]), "candles_sparse: "),
        (np.concatenate([np.arange(200) * 5, 1000 + np.arange(100)]), "candles_sparse: "),
        (np.arange(300) + 0.4 * (np.arange(300) % 3 == 1), "candles_spacing"),  # jitter of 24 s
        (np.concatenate([np.arange(250), 430 + np.arange(70)]), "candles_gap: 180 min"),
        (np.concatenate([[-525_600], np.arange(256)]), "candles_gap: 525599 min"),
        (np.concatenate([np.arange(100), 106 + np.arange(200)]), "candles_gap: 6 min"),
        (np.delete(np.arange(320), np.arange(5, 320, 15)), "candles_sparse"),
    ],
)  # fmt: skip
def test_a_grid_that_is_off_is_named(minutes, reason):
    """Each gave a sigma of something else, and permits."""
    assert judged(series(minutes)).reason.startswith(reason)


@pytest.mark.parametrize(
    ("minutes", "gaps", "longest_sec"),
    [
        (np.concatenate([np.arange(100), 105 + np.arange(200)]), 1, 300),  # exactly GAP_MAX_INTERVALS
        (np.concatenate([[-525_600], np.arange(299)]), 0, 0),  # a candle a year old in front
        (np.concatenate([np.arange(40), 200 + np.arange(260)]), 0, 0),  # what is left suffices
        (np.delete(np.arange(310), np.arange(60, 300, 25)), 10, 60),  # 10 of 267
        (np.arange(300) + 17.3, 0, 0),  # a constant offset is none
        (np.arange(300) * 1.05, 0, 0),  # within the tolerance
        (np.arange(300) + 0.005 * np.sin(np.arange(300)), 0, 0),  # a few hundred ms of jitter
    ],
)
def test_what_a_grid_may_be(minutes, gaps, longest_sec):
    """Real feeds are not perfect, and must not be refused for that."""
    grid = judged(series(minutes))
    assert (grid.reason, grid.gap_count, grid.gap_max_sec, grid.filled) == ("", gaps, longest_sec, 0)
    assert len(grid.closes) >= 257


def test_an_exchange_without_candles_for_minutes_without_trades_needs_the_fill():
    """300 candles that span 689 minutes: refused by name, or filled and counted."""
    rng = np.random.default_rng(4)
    steps = rng.choice([1, 2, 3, 4], size=299, p=[0.4, 0.2, 0.2, 0.2])
    one = series(np.append(0, np.cumsum(steps)))
    assert judged(one).reason.startswith("candles_sparse")
    grid = judged(one, FLAT)
    assert (grid.reason, len(grid.closes)) == ("", int(steps.sum()) + 1)
    assert 0.4 < grid.filled / 257 < 0.7


def test_five_minute_candles_are_not_filled_to_minutes():
    """The fill is for minutes without trades, not for candles of another length."""
    assert judged(series(np.arange(300) * 5), FLAT).reason == "candles_spacing: 300.0 s, want 60 s"


def test_a_long_hole_is_not_filled():
    """Three hours nobody saw are not three flat hours."""
    minutes = np.concatenate([np.arange(250), 430 + np.arange(70)])
    assert judged(series(minutes), FLAT).reason == "candles_gap: 180 min"


def test_few_candles_are_no_fault_of_the_grid():
    """The kernel names them."""
    assert judged(series(range(100))).reason == ""
    assert len(judged(series([])).closes) == 0
    assert judged(series([0, 999])).reason.startswith("candles_gap")


def test_unknown_times_cannot_be_judged():
    """Nothing is said of their grid, and whoever opens must not trust it."""
    one = series(range(300))
    grid = judged(one._replace(open_time_ms=np.zeros(300, dtype=np.int64)))
    assert (grid.reason, grid.gap_count, grid.gap_max_sec) == ("", None, None)
    mixed = one.open_time_ms.copy()
    mixed[100] = 0
    assert judged(one._replace(open_time_ms=mixed)).gap_count is None


@pytest.mark.parametrize("holed", [False, True])
@pytest.mark.parametrize("factor", [0.01, 0.19, 5.1, 100.0, 1e9])
@pytest.mark.parametrize(("wrong", "named"), [((100,), 0), ((299,), 0), ((80, 200), 4), ((100, 101, 102), 0), ((100, 298), 4)])
def test_closes_of_several_units_are_no_market(wrong, named, factor, *, holed):
    """A tenth of the closes in cents gave sigma 2.07, a stop below zero, and a permit from flat; a split is one jump."""
    one = series([*range(5), *range(6, 301)] if holed else range(300))
    one.close[list(wrong)] *= factor
    reason = judged(one).reason
    assert reason == (f"candles_units: {named} closes are 5 times the one before, or a fifth of it" if named else "")


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_closes_that_differ_by_rounding_alone_are_one(unit):
    """A market that is dead looked alive where its closes had been computed; the finest tick is much coarser."""
    one = series(range(300))
    rounding = one._replace(close=unit * (43_000 + 1e-7 * (np.arange(300) % 2)))
    assert judged(rounding).inactive
    assert not judged(one._replace(close=unit * (43_000 + 0.01 * (np.arange(300) % 2)))).inactive


@pytest.mark.parametrize(
    ("volume", "close", "inactive"),
    [
        (1.0, None, False), (0.0, None, True), (1.0, 1.678, True), (0.0, 1.678, True), (math.nan, 1.678, True), (math.nan, None, False),
        ([0.0] * 240 + [1.0] + [0.0] * 59, None, True),  # one trade in five hours
        ([1.0] * 240 + [0.0] * 60, None, True), ([1.0] * 241 + [0.0] * 59, None, False),
        ([1.0] * 299 + [math.nan], None, False),
    ],
)  # fmt: skip
def test_a_market_nobody_trades_in_is_inactive(volume, close, inactive):
    """A delisted market looked calm: sigma 1e-6, and permits."""
    assert judged(series(range(300), volume=volume, close=close)).inactive is inactive
    holed = series([*range(5), *range(6, 301)], volume=volume, close=close)
    assert judged(holed).inactive is inactive


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from([1] * 40 + [2, 3, 6, 9]), min_size=270, max_size=310),
    offset=st.integers(0, 59_999),
    jitter=st.integers(0, 900),
    fill=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_second_implementation_agrees(steps, offset, jitter, fill, seed):
    """Minute by minute in plain Python, what is published of the grid comes out the same."""
    rng = np.random.default_rng(seed)
    times = START_MS + offset + np.append(0, np.cumsum(steps)) * MINUTE_MS + rng.integers(0, jitter + 1, len(steps) + 1)
    closes = np.round(100 + rng.normal(0, 1, len(times)), 2)
    volumes = rng.choice([0.0, 1.0], len(times))
    grid = judged(Series(times, closes, volumes), GridTheta(fill=fill))
    plain = reference.grid(
        times.tolist(), closes.tolist(), volumes.tolist(), interval_sec=60, fill=fill, gap_max=5, inactive_candles=60
    )
    if grid.reason or len(grid.closes) < 257:
        return
    np.testing.assert_array_equal(grid.closes[-257:], plain["closes"][-257:])
    for name, mine in (("gap_count", grid.gap_count), ("gap_max_sec", grid.gap_max_sec), ("filled", grid.filled)):
        assert mine == plain[name], name
    assert grid.inactive == plain["market_inactive"]
    assert grid.tick_pct == pytest.approx(plain["tick_pct"], rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=0, max_size=400), st.booleans())
def test_no_grid_crashes_or_hides_what_is_missing(steps, fill):
    """Whatever the spacings: a state comes from a sound grid, or there is a name, or too few closes."""
    times = START_MS + np.cumsum(np.array(steps, dtype=np.int64)) * 20_000
    grid = judged(series((times - START_MS) / MINUTE_MS), GridTheta(fill=fill))
    if not grid.reason and len(grid.closes) >= 257 and not fill:
        newest = np.diff(times[-257:]) / MINUTE_MS
        assert np.count_nonzero(np.abs(newest - 1) <= 0.1) >= 0.9 * len(newest)


def test_symbols_are_judged_as_if_each_were_alone():
    """One bad symbol never stops or changes another."""
    several = [series(range(300)), series(np.arange(300) * 5), series(range(10)), series(range(257), volume=0)]
    for alone, together in zip([judged(one) for one in several], grids(several), strict=True):
        np.testing.assert_array_equal(alone.closes, together.closes)
        assert alone[1:5] == together[1:5]
        assert alone.reason == together.reason
