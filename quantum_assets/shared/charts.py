"""Pictures: how a price history and one symbol look, and the texts that carry a picture into a page.

Here belong figures and their encoding. Reading stays out, and so do formulas: the states along a history are the kernel's.
Every figure carries its own ground, because the page it lands on may be light or dark. matplotlib is imported where it is
used: it costs half a second that no other command should pay.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from quantum_core.kernels.columns import REGIMES, Floats
from quantum_core.kernels.market.market_state import MarketState, MarketStateTheta, market_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Level = Literal["target", "current", "entry", "stop"]
Times = npt.NDArray[Any]  # datetime64, or the numbers of the candles where no time is known

REGIME_COLORS = {"trend": "#2a9d8f", "mr": "#7b6fd0", "chop": "#e9b44c"}
REGIME_LABELS = {"trend": "trend", "mr": "mean-reverting", "chop": "chop"}
INK, PAPER, GRID = "#22303c", "#fbfaf7", "#dcd8cf"
SIGMA_COLOR = "#c8553d"
LEVEL_COLORS: Mapping[Level, str] = {"target": "#1f6fb2", "current": INK, "entry": "#646e78", "stop": "#b8432f"}
MARGIN_LABELLED = 0.12  # share of the chart without a state from which there is room to say so
SHOWN_CANDLES = 120  # of one symbol: two hours of one-minute candles
STATE_STEP = 4  # candles between two of its states: some 30 points, 10 ms
CANDLES_WANTED = MarketStateTheta().candles_required + SHOWN_CANDLES - 1  # so that there is a state at every candle shown
REGIME_HATCHES = {"trend": "", "mr": "///", "chop": "..."}  # of a picture that is also printed without colours
PAST_LINES: Mapping[str, tuple[str, Any, float]] = {  # level over time to colour, dashes and width
    "target": (LEVEL_COLORS["target"], (0, (6, 2)), 1.4),
    "peak": ("#8d99a5", "solid", 0.9),
    "entry": (LEVEL_COLORS["entry"], (0, (1, 2)), 1.3),
    "stop": (LEVEL_COLORS["stop"], "solid", 1.8),
}
PAST_MARKS = {
    "block": ("X", "#b8432f"),
    "permit": ("o", "#2a7a4f"),
    "harvest": ("v", INK),
}  # lane to marker and colour, from below
MARKS_NAMED = 10  # of a lane
MARK_ROWS_PT = (4, 13)  # heights above a mark at which its text may stand
MARK_CHAR_PX, MARK_GAP_PX = 6.0, 8.0  # width of a letter of such a text, and what stays free beside it
FONT = "DejaVu Sans"  # comes with matplotlib
TITLE_CHARS = 40  # of a title beside its note; a longer one is written smaller
LABEL_PX = 16  # height of a label with its air; closer, and two of them touch


def regime_figure(name: str, times: Times, closes: Floats, ends: npt.NDArray[np.intp], state: MarketState) -> Figure:
    """Draw a price history over its regimes, sigma, and the regime probabilities as stacked areas.

    Parameters
    ----------
    name
        Title.
    times, closes
        The candles, shape (n,), oldest first.
    ends
        Index of the newest candle of each state, ascending.
    state
        The states, one row per end, all of them known.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.6), facecolor=PAPER)
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.12)
    price, sigma, share = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.3, 1.5))
    _plain(price, sigma, share)
    at = times[ends]

    price.plot(times, closes, color=INK, linewidth=1.1)
    for label in REGIMES:
        price.fill_between(
            at,
            0,
            1,
            where=state.regime == label,
            transform=price.get_xaxis_transform(),
            color=REGIME_COLORS[label],
            alpha=0.16,
            linewidth=0,
            step="post",
        )
    price.set_ylabel("close", color=INK)
    title, families = legible(name)
    size = min(15.0, 15 * TITLE_CHARS / len(title))
    price.set_title(title, loc="left", color=INK, fontsize=size, fontweight="bold", fontfamily=families, pad=14, parse_math=False)
    price.set_title("background: most probable regime", loc="right", color=INK, fontsize=9, alpha=0.7)
    _draw_sigma(sigma, at, state.sigma)
    sigma.set_ylabel("sigma, bps", color=INK)
    _draw_shares(share, at, [state.p_trend, state.p_mr, state.p_chop])
    share.set_ylabel("regime probability", color=INK)
    _say_no_state_yet(share, times, ends[0])
    figure.align_ylabels()
    _time_axis(share, times)
    return figure


def symbol_figure(symbol: str, times: Times, closes: Floats, levels: Mapping[Level, float], note: str = "") -> Figure:
    """Draw one symbol: its last two hours with the levels of its position, regime probabilities and sigma.

    Parameters
    ----------
    symbol
        Title.
    times, closes
        The candles up to now, shape (n,), n >= 1, oldest first; CANDLES_WANTED of them show a state everywhere. Prices as
        written: where one is unusable, the state is missing and the reason is drawn.
    levels
        Prices to mark, in quote units; empty without a position.
    note
        Shown beside the title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), facecolor=PAPER)
    price, share, sigma = figure.subplots(
        3,
        1,
        sharex=True,
        # Fixed margins: a layout engine would take as long as all the rest.
        gridspec_kw={"height_ratios": (3, 1.2, 0.8), "left": 0.1, "right": 0.745, "top": 0.9, "bottom": 0.12, "hspace": 0.17},
    )
    _plain(price, share, sigma)
    title, families = legible(symbol)
    size = min(13.0, 13 * TITLE_CHARS / len(title))
    figure.text(0.02, 0.94, title, color=INK, fontsize=size, fontweight="bold", fontfamily=families, parse_math=False)
    figure.text(0.98, 0.94, note, color=INK, fontsize=8.5, alpha=0.8, ha="right", parse_math=False)
    shown = slice(-SHOWN_CANDLES, None)
    price.plot(times[shown], closes[shown], color=INK, linewidth=1.2)
    _draw_levels(price, closes[shown], levels)

    ends, state = states_along(closes)
    reason = state.reason[-1]
    if reason is None:
        # Each state holds for the candles since the one before, so that a single one can be seen, too.
        at = times[np.concatenate([[max(ends[0] - STATE_STEP, 0)], ends])]
        held = [np.concatenate([column[:1], column]) for column in (state.p_trend, state.p_mr, state.p_chop, state.sigma)]
        _draw_shares(share, at, held[:3], step="pre")
        _draw_sigma(sigma, at, held[3], step="pre")
        _label_right(sigma, {f"sigma {state.sigma[-1] * 1e4:.3g} bps": (state.sigma[-1] * 1e4 / sigma.get_ylim()[1], INK)})
        _say_no_state_yet(share, times[shown], ends[0] - len(times) + len(times[shown]))
    else:
        share.annotate(f"no state: {reason}", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=INK)
        share.set_yticks([])
        sigma.set_yticks([])
    sigma.locator_params(axis="y", nbins=2)
    _time_axis(sigma, times[shown])
    return figure


@dataclass(frozen=True)
class Past:
    """What one symbol had between two times; every series oldest first.

    Attributes
    ----------
    symbol, start, end
        Title, and the ends of the time axis (datetime64, UTC).
    times, closes
        Its candles, shape (n,), by the time of their close; n may be 0.
    as_read
        Each price is at the time of its reading, and holds until the next: of candles that have no times of their own.
    levels
        Name in PAST_LINES to times and prices, quote units; NaN where it had none. A price holds until the next time, and nobody
        knows what it was after the last.
    regimes
        Times and most probable regime, each until the next; empty where there was no state.
    marks
        Lane in PAST_MARKS to times and what happened.
    gaps
        First and last time of what was not recorded.
    """

    symbol: str
    start: np.datetime64
    end: np.datetime64
    times: Times
    closes: Floats
    as_read: bool = False
    levels: Mapping[str, tuple[Times, Floats]] = field(default_factory=dict)
    regimes: tuple[Times, Sequence[str]] = (np.array([], "datetime64[ms]"), ())
    marks: Mapping[str, tuple[Times, Sequence[str]]] = field(default_factory=dict)
    gaps: Sequence[tuple[np.datetime64, np.datetime64]] = ()


def past_figure(past: Past) -> Figure:
    """Draw what a symbol had over time: prices with stop, target, entry and peak over its regimes; below, what was decided."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(11, 6.4), facecolor=PAPER)
    margins = {"left": 0.08, "right": 0.8, "top": 0.88, "bottom": 0.09, "hspace": 0.08}
    price, lanes = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (4, 1), **margins})
    _plain(price, lanes)
    title, families = legible(past.symbol)
    size = min(13.0, 13 * TITLE_CHARS / len(title))
    figure.text(0.02, 0.94, title, color=INK, fontsize=size, fontweight="bold", fontfamily=families, parse_math=False)
    price.plot(past.times, past.closes, color=INK, linewidth=1.1, drawstyle="steps-post" if past.as_read else "default")
    _draw_past_levels(price, past)
    _draw_past_regimes(price, past)
    _draw_marks(lanes, past)
    for panel in (price, lanes):
        for first, last in past.gaps:
            panel.axvspan(first, last, facecolor=INK, alpha=0.4, linewidth=0)
    patches = [
        Patch(
            facecolor=REGIME_COLORS[one],
            edgecolor=INK,
            linewidth=0,
            alpha=0.4,
            hatch=REGIME_HATCHES[one],
            label=REGIME_LABELS[one],
        )
        for one in REGIMES
    ]
    patches += [Patch(facecolor=PAPER, edgecolor=INK, linewidth=0.6, label="no market state")]
    patches += [Patch(facecolor=INK, alpha=0.4, label="not recorded")] if past.gaps else []
    figure.legend(handles=patches, loc="upper right", ncols=len(patches), frameon=False, fontsize=8.5, labelcolor=INK)
    price.set_ylabel("price", color=INK)
    _time_axis(lanes, np.array([past.start, past.end]))
    return figure


def _draw_past_levels(panel: Axes, past: Past) -> None:
    read = past.closes[np.isfinite(past.closes)]
    labels = {f"{'price read' if past.as_read else 'close'} {read[-1]:,.6g}": (float(read[-1]), INK)} if len(read) else {}
    for name, (times, prices) in past.levels.items():
        color, dashes, width = PAST_LINES[name]
        panel.plot(times, prices, color=color, linestyle=dashes, linewidth=width, drawstyle="steps-post")
        if (known := prices[np.isfinite(prices)]).size:
            ended = "" if np.isfinite(prices[-1]) else " (ended)"
            labels[f"{name} {known[-1]:,.6g}{ended}"] = (float(known[-1]), color)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    low, high = panel.get_ylim()
    _label_right(panel, {text: ((value - low) / (high - low), color) for text, (value, color) in labels.items()})
    panel.set_ylim(low, high)


def _draw_past_regimes(panel: Axes, past: Past) -> None:
    """Shade each stretch of one regime once, with a hatch of its own: a day has thousands of states, and printers no colours."""
    times, regimes = past.regimes
    begins = [n for n in range(len(regimes)) if n == 0 or regimes[n] != regimes[n - 1]]
    for first, after in pairwise([*begins, len(regimes)]):
        if (regime := regimes[first]) in REGIME_COLORS:
            until = times[min(after, len(times) - 1)]
            color, hatch = REGIME_COLORS[regime], REGIME_HATCHES[regime]
            panel.axvspan(times[first], until, facecolor=color, edgecolor=INK, alpha=0.2, hatch=hatch, linewidth=0)


def _draw_marks(panel: Axes, past: Past) -> None:
    for height, (lane, (marker, color)) in enumerate(PAST_MARKS.items()):
        times, texts = past.marks.get(lane, (np.array([], "datetime64[ms]"), ()))
        panel.plot(times, np.full(len(times), height), marker=marker, color=color, linestyle="none", markersize=7, zorder=3)
        room_px = panel.get_position().width * panel.figure.bbox.width
        places_px = [float((one - past.start) / max(past.end - past.start, np.timedelta64(1, "ms"))) * room_px for one in times]
        named = rows_of_labels(places_px, texts)
        for number, row in list(named.items())[:MARKS_NAMED]:
            place: dict[str, Any] = {
                "xytext": (6, MARK_ROWS_PT[row]), "textcoords": "offset points", "annotation_clip": True, "fontsize": 7,
            }  # fmt: skip
            panel.annotate(texts[number], (times[number], height), color=INK, parse_math=False, **place)
    panel.set_ylim(-0.5, len(PAST_MARKS) - 0.2)
    panel.set_yticks(range(len(PAST_MARKS)), [*PAST_MARKS])


def rows_of_labels(places_px: Sequence[float], texts: Sequence[str]) -> dict[int, int]:
    """Give the row of each text beside its mark, lowest first, so that none is over another; those that fit nowhere have none.

    Parameters
    ----------
    places_px
        Where each begins, ascending.
    texts
        What each says.
    """
    rows, ends = {}, [-np.inf] * len(MARK_ROWS_PT)
    for number, (place, text) in enumerate(zip(places_px, texts, strict=True)):
        row = next((row for row, end in enumerate(ends) if place >= end), None)
        if row is not None:
            rows[number] = row
            ends[row] = place + len(text) * MARK_CHAR_PX + MARK_GAP_PX
    return rows


def states_along(closes: Floats) -> tuple[npt.NDArray[np.intp], MarketState]:
    """Compute the market state along the last SHOWN_CANDLES candles.

    Returns
    -------
    ends, state
        Index of the newest candle of each state, ascending; the last one is the newest candle. With too few candles there is
        one row, and it says so.
    """
    required = MarketStateTheta().candles_required
    newest = len(closes) - 1
    if newest + 1 < required:
        return np.array([newest]), market_state(closes[None])
    oldest = max(len(closes) - SHOWN_CANDLES, required - 1)
    ends = np.arange(newest, oldest - 1, -STATE_STEP)[::-1]
    return ends, market_state(sliding_window_view(closes, required)[ends - required + 1])


@cache
def legible(text: str) -> tuple[str, tuple[str, ...]]:
    """Give a text that can be drawn, and the fonts that have its characters.

    Names may have letters of any script, and the font that comes with matplotlib has no Chinese ones. Fonts of this machine are
    taken where they have them; a character that no font has is written as its code (``\\u5e01``), since a box would be any name.
    """
    from matplotlib.font_manager import fontManager

    missing = {char for char in text if ord(char) not in _glyphs(_path(FONT))}
    families = [FONT]
    others = {entry.name: entry.fname for entry in fontManager.ttflist if not entry.name.startswith(("DejaVu", "Last Resort"))}
    for name in sorted(others, key=lambda one: ("Sans" not in one, "CJK" not in one, one)) if missing else ():
        if had := {char for char in missing if ord(char) in _glyphs(others[name])}:
            families.append(name)
            missing -= had
        if not missing:
            break
    shown = "".join(char.encode("unicode_escape").decode() if char in missing else char for char in text)
    return shown or " ", tuple(families)


def _path(family: str) -> str:
    from matplotlib.font_manager import findfont

    return str(findfont(family))


@cache
def _glyphs(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a font that cannot be read has no glyphs
        return frozenset()


def as_png(figure: Figure) -> bytes:
    """Encode a figure; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return target.getvalue()


def as_data_uri(figure: Figure) -> str:
    """Give a figure as the address of an image that carries its own content."""
    return f"data:image/png;base64,{base64.b64encode(as_png(figure)).decode()}"


def as_markdown(figure: Figure, alt: str) -> str:
    """Give a figure as a markdown image, which Dagster's user interface shows."""
    return f"![{alt}]({as_data_uri(figure)})"


def _plain(*panels: Axes) -> None:
    for panel in panels:
        panel.set_facecolor(PAPER)
        panel.grid(visible=True, axis="y", color=GRID, linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.spines["bottom"].set_color(GRID)
        panel.tick_params(colors=INK, length=0, labelsize=9)


def _draw_levels(panel: Axes, closes: Floats, levels: Mapping[Level, float]) -> None:
    drawn = np.array([*closes, *levels.values()])
    drawn = drawn[np.isfinite(drawn)]
    low, high = (float(drawn.min()), float(drawn.max())) if drawn.size else (0.0, 1.0)
    air = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    low, high = low - air, high + air
    panel.set_ylim(low, high)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    panel.locator_params(axis="y", nbins=5)
    current = levels.get("current")
    labels = {}
    for name, value in levels.items():
        color = LEVEL_COLORS[name]
        if name != "current":
            panel.axhline(value, color=color, linewidth=1.1, linestyle=(0, (4, 3)))
        away = f" ({value / current - 1:+.2%})" if current and name != "current" else ""
        labels[f"{name} {value:,.6g}{away}"] = ((value - low) / (high - low), color)
    _label_right(panel, labels)


def _draw_sigma(panel: Axes, at: Times, sigma: Floats, step: Literal["pre"] | None = None) -> None:
    bps = sigma * 1e4
    panel.plot(at, bps, color=SIGMA_COLOR, linewidth=1.3, drawstyle="steps-pre" if step else "default")
    panel.fill_between(at, 0, bps, color=SIGMA_COLOR, alpha=0.14, linewidth=0, step=step)
    panel.set_ylim(0, np.nanmax(bps) * 1.15)


def _draw_shares(panel: Axes, at: Times, stack: Sequence[Floats], step: Literal["pre"] | None = None) -> None:
    from matplotlib.ticker import PercentFormatter

    panel.stackplot(at, stack, colors=[REGIME_COLORS[label] for label in REGIMES], alpha=0.85, linewidth=0, step=step)
    panel.set_ylim(0, 1)
    panel.set_yticks([0, 0.5, 1])
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    tops = np.cumsum([share[-1] for share in stack])
    _label_right(
        panel,
        {
            f"{REGIME_LABELS[label]} {share[-1]:.0%}": (float(top - share[-1] / 2), INK)
            for label, share, top in zip(REGIMES, stack, tops, strict=True)
        },
    )


def _label_right(panel: Axes, labels: Mapping[str, tuple[float, str]]) -> None:
    """Write each label beside the panel at its height (a share of the panel's) in its color; those too close move apart."""
    room = panel.get_position().height * panel.figure.bbox.height
    heights = apart([height for height, _ in labels.values()], gap=LABEL_PX / room)
    for (text, (height, color)), placed in zip(labels.items(), heights, strict=True):
        panel.annotate(
            text,
            (1, height),
            xycoords="axes fraction",
            xytext=(1.035, placed),
            textcoords="axes fraction",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)},
            va="center",
            color=color,
            fontsize=9,
        )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights in [0, 1] apart until neighbours are ``gap`` from each other, keeping their order and the top."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, dtype=np.float64)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    limit = 1.0
    for one in order[::-1]:
        placed[one] = min(placed[one], limit)
        limit = placed[one] - gap
    return [float(height) for height in placed]


def _say_no_state_yet(panel: Axes, times: Times, first: int) -> None:
    if first > len(times) * MARGIN_LABELLED:
        middle = times[0] + (times[first] - times[0]) / 2
        panel.annotate("no state yet", (middle, 0.5), ha="center", va="center", color=INK, fontsize=9, alpha=0.6)


def _time_axis(panel: Axes, times: Times) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if len(times) > 1:
        panel.set_xlim(times[0], times[-1])
    panel.set_xlabel("candle", color=INK, fontsize=9)
    if np.issubdtype(times.dtype, np.datetime64):
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        panel.xaxis.set_major_locator(locator)
        panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        panel.set_xlabel("UTC", color=INK, fontsize=9)
