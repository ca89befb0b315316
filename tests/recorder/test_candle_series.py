"""What of a window of candles is new: the short way for the usual window gives what comparing every candle gives."""

import numpy as np
import pytest

from resources.recorder.series import Columns, Series

MINUTE_MS, LENGTH = 60_000, 12


def window(rng: np.random.Generator, first: int, length: int, prices: np.ndarray) -> Columns:
    times = (np.arange(first, first + length, dtype=np.int64) + 1) * MINUTE_MS
    volumes = np.where(prices[first : first + length] % 3 == 0, np.nan, 1.0)
    columns = [times, *(prices[first : first + length] + one for one in (1.0, -1.0, 0.0)), volumes]
    kept = rng.random(length) > rng.choice([0.0, 0.2])  # now and then candles are missing
    return tuple(column[kept] for column in columns)


def known_of(some: Columns) -> Series:
    series = Series(longest=LENGTH)
    series.replace(some)
    return series


@pytest.mark.parametrize("seed", range(60))
def test_the_usual_window_gives_the_same_news_as_any(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candle recorded twice, or left out, would be found only by a rerun."""
    rng = np.random.default_rng(seed)
    prices = rng.integers(90, 110, 40).astype(float)
    first = int(rng.integers(0, 5))
    series = known_of(window(rng, first, LENGTH, prices))
    moved = first + int(rng.integers(0, LENGTH + 3))
    if rng.random() < 0.3:  # one is corrected
        prices[int(rng.integers(moved, moved + LENGTH))] += 0.5
    later = window(rng, moved, LENGTH, prices)
    short = series.news(later)
    monkeypatch.setattr(Series, "_newer", lambda *_: 0)
    whole = series.news(later)
    assert (short is None) == (whole is None)
    for ours, others in zip(short or (), whole or (), strict=True):
        np.testing.assert_array_equal(ours, others)


def test_the_next_candle_alone_is_news() -> None:
    rng = np.random.default_rng(1)
    columns = [(np.arange(1, LENGTH + 2, dtype=np.int64)) * MINUTE_MS, *(rng.random(LENGTH + 1) for _ in range(4))]
    series = known_of(tuple(column[:-1] for column in columns))
    later = tuple(column[1:] for column in columns)
    news = series.news(later)
    assert news is not None
    assert [column.tolist() for column in news] == [column[-1:].tolist() for column in later]
    series.add(news)
    assert series.holds(later)
