"""The pictures: what they say, and that it can be read."""

import base64
import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from quantum_assets.shared.charts import (
    CANDLES_WANTED,
    FONT,
    INK,
    LEVEL_COLORS,
    PAPER,
    SHOWN_CANDLES,
    apart,
    as_data_uri,
    as_markdown,
    as_png,
    legible,
    states_along,
    symbol_figure,
)
from quantum_core.kernels.market.market_state import market_state
from tests.world import random_closes

LEVELS = {"target": 103.0, "current": 101.0, "entry": 100.9, "stop": 100.6}
AA_CONTRAST = 4.5  # WCAG 2.2, contrast of text


def walk(count: int = CANDLES_WANTED) -> np.ndarray:
    return np.array(random_closes(7, count))


def minutes(count: int = CANDLES_WANTED) -> np.ndarray:
    return np.datetime64("2026-01-22T12:00") - np.arange(count)[::-1].astype("timedelta64[m]")


def draw(closes: np.ndarray, levels: dict[str, float] | None = None, symbol: str = "BTCUSDT") -> Figure:
    return symbol_figure(symbol, minutes(len(closes)), closes, levels or {}, "LONG")


def texts(figure: Figure) -> list:
    return [text for panel in figure.axes for text in panel.texts]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in texts(figure))


def test_every_level_regime_and_sigma_is_labelled_where_it_is() -> None:
    """A legend would send the eye to and fro; a number beside its line does not."""
    said = words(draw(walk(), LEVELS))
    for label in ("target 103 (+1.98%)", "current 101", "entry 100.9 (-0.10%)", "stop 100.6 (-0.40%)", "sigma", "bps"):
        assert label in said
    state = market_state(walk()[None])
    for name, share in (("trend", state.p_trend), ("mean-reverting", state.p_mr), ("chop", state.p_chop)):
        assert f"{name} {share[0]:.0%}" in said


@pytest.mark.parametrize("levels", [LEVELS, dict.fromkeys(LEVELS, 100.0)])
def test_no_label_covers_another(levels) -> None:
    """A stop right below the entry is the usual case, and the one that matters."""
    figure = draw(walk(), levels)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = {text.get_text(): Text.get_window_extent(text, renderer) for text in texts(figure)}  # without their leaders
    overlapping = [pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])]
    assert overlapping == []
    assert max(box.x1 for box in boxes.values()) <= figure.bbox.width


def test_text_can_be_read_on_any_page() -> None:
    """The user interface has a light and a dark theme; a picture cannot know which, so it brings its ground along."""
    assert draw(walk()).get_facecolor()[3] == 1
    for color in (INK, *LEVEL_COLORS.values()):
        assert contrast(color, PAPER) >= AA_CONTRAST, color


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours as WCAG 2.2 defines it."""

    def luminance(color: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_the_last_state_drawn_is_that_of_the_newest_candle() -> None:
    """A picture that lags behind the published numbers would contradict them."""
    closes = walk()
    ends, state = states_along(closes)
    assert ends[-1] == len(closes) - 1
    assert ends[0] >= len(closes) - SHOWN_CANDLES
    assert state.sigma[-1] == market_state(closes[None]).sigma[0]


@pytest.mark.parametrize(
    ("closes", "said"),
    [
        (walk(100), "no state: too_few_candles"),
        (np.append(walk(300), np.nan), "no state: price_nan"),
        (np.full(300, np.nan), "no state: price_nan"),
        (walk(1), "no state: too_few_candles"),
        (walk(257), "no state yet"),
        (np.full(300, 100.0), "sigma 0.01 bps"),
    ],
)
def test_a_history_too_short_or_unusable_says_so_instead_of_a_state(closes, said) -> None:
    """An empty panel leaves the reader guessing."""
    figure = draw(closes, LEVELS)
    assert as_png(figure)
    assert said in words(figure)


def test_times_that_nobody_knows_are_numbers_of_candles() -> None:
    """Bare numbers in a list are accepted as candles, and have no time."""
    figure = symbol_figure("BTCUSDT", np.arange(-299, 1), walk(300), LEVELS)
    assert figure.axes[-1].get_xlabel() == "candle"
    assert as_png(figure)


def test_a_name_is_text_and_never_a_formula() -> None:
    """Between two dollars matplotlib reads TeX, and raises on what is none."""
    assert as_png(draw(walk(), symbol="A$\\frac$"))


@pytest.mark.parametrize("symbol", ["币安人生USDT", "kPEPE", "é-ß", "😀USDT", "x" * 40, "\U000e0001USDT", "币" * 36 + "USDT"])
def test_a_name_of_any_script_is_drawn_or_spelt(symbol: str) -> None:
    """A row of boxes is any name; matplotlib warns of them, and warnings are errors here."""
    figure = draw(walk(), symbol=symbol)
    assert as_png(figure)
    title = figure.texts[0]
    text, families = legible(symbol)
    assert title.get_text() == text
    spelt = text.encode().decode("unicode_escape") if "\\" in text else text
    assert spelt == symbol
    assert families[0] == FONT
    box = title.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert box.x1 <= figure.bbox.width


def test_a_picture_carries_itself_into_the_page_and_is_the_same_each_time() -> None:
    """No file beside it that could be lost, and no date inside it that would change a hash."""
    uri = as_data_uri(draw(walk(), LEVELS))
    assert base64.b64decode(uri.removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
    assert re.fullmatch(r"!\[BTCUSDT\]\(data:image/png;base64,[A-Za-z0-9+/=]+\)", as_markdown(draw(walk(), LEVELS), "BTCUSDT"))
    assert uri == as_data_uri(draw(walk(), LEVELS))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_labels_move_apart_in_order_and_stay_below_the_top(heights) -> None:
    """A label that changes places with its neighbour names the wrong line."""
    placed = apart(heights, gap=0.1)
    ranked = [placed[index] for index in np.argsort(heights, kind="stable")]
    assert all(above - below >= 0.1 - 1e-9 for below, above in pairwise(ranked))
    assert max(placed) <= 1
