"""Pictures of the desk's pages, as SVG inside the page: they follow its colours, light or dark, and cost no library.

Here belongs drawing only. Every text drawn is escaped here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from quantum_core.display import REGIMES, percent_text, price_text, prices_text

WIDTH, PRICE_HEIGHT, REGIME_HEIGHT, GAP = 980, 300, 54, 26
LEFT, RIGHT, TOP, BOTTOM = 8, 168, 10, 24
HEIGHT = TOP + PRICE_HEIGHT + GAP + REGIME_HEIGHT + BOTTOM
LABEL_PX = 16  # height of a label; closer, and two of them touch
GRID_LINES = 4
HOLD_SEC = 600.0  # a published state holds for so long; after that it is unknown
STEPS_SEC = (60, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)  # between labels of the time axis
TIME_LABELS_MAX = 9


class Point(NamedTuple):
    """One published proposal: when, and the price it was made at, its stop and its target."""

    epoch: float
    price: float | None
    stop: float | None
    target: float | None


class Mix(NamedTuple):
    """One published market state: when, and the probabilities of its regimes."""

    epoch: float
    trend: float
    mr: float
    chop: float


class Level(NamedTuple):
    """A price worth a line and a label."""

    name: str
    value: float


def price_chart(
    prices: Sequence[tuple[float, float]],
    proposals: Sequence[Point],
    mixes: Sequence[Mix],
    levels: Sequence[Level],
    *,
    since: float,
    until: float,
) -> str:
    """Draw the price with the path of stop and target, and below it the regimes.

    Parameters
    ----------
    prices
        Epoch s and price, oldest first.
    proposals, mixes
        As published, oldest first.
    levels
        Drawn at the right: what holds now. The one called ``price`` is what distances are measured from.
    since, until
        Time shown, epoch s.

    Returns
    -------
    str
        An SVG element, or an empty text when there is no price to draw.
    """
    prices = [(epoch, price) for epoch, price in prices if since <= epoch <= until and math.isfinite(price)]
    if not prices or until <= since:
        return ""
    proposals = [point for point in proposals if point.epoch <= until]
    shown = [point for point in proposals if point.epoch >= since]
    values = [price for _, price in prices] + [level.value for level in levels]
    values += [value for point in shown for value in (point.stop, point.target) if value is not None]
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    low, high = low - air, high + air

    def x(epoch: float) -> float:
        return LEFT + (max(epoch, since) - since) / (until - since) * (WIDTH - LEFT - RIGHT)

    def y(price: float) -> float:
        return TOP + (high - price) / (high - low) * PRICE_HEIGHT

    grid, ticks = _grid(low, high, y)
    drawn = [
        grid,
        _time_axis(since, until, x),
        _steps("target", [(point.epoch, point.target) for point in proposals], until, since, x, y),
        _steps("stop", [(point.epoch, point.stop) for point in proposals], until, since, x, y),
        f'<polyline class="price" points="{" ".join(f"{x(epoch):.1f},{y(price):.1f}" for epoch, price in prices)}"/>',
        ticks,  # over the lines, which would strike them out
        _labels(levels, y),
        _ribbon(mixes, since, until, x),
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="price with stop and target, regimes below">'
        f"{''.join(drawn)}</svg>"
    )


def shares_bar(shares: Sequence[tuple[str, float]]) -> str:
    """Draw probabilities as one bar; ``shares`` are regime names and values that add up to 1."""
    at, parts = 0.0, []
    for name, share in shares:
        parts.append(f'<rect class="{html.escape(name)}" x="{100 * at:.2f}" width="{100 * share:.2f}" height="8"/>')
        at += share
    return f'<svg class="shares" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'


def _grid(low: float, high: float, y: Callable[[float], float]) -> tuple[str, str]:
    """Draw lines at round prices, and what they are called."""
    step = _round_step((high - low) / GRID_LINES)
    first = math.ceil(low / step)
    lines, ticks = [], []
    for number in range(first, math.floor(high / step) + 1):
        at = y(number * step)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        ticks.append(f'<text class="tick" x="{LEFT}" y="{at - 3:.1f}">{price_text(number * step)}</text>')
    return "".join(lines), "".join(ticks)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step)


def _time_axis(since: float, until: float, x: Callable[[float], float]) -> str:
    step = next((step for step in STEPS_SEC if (until - since) / step <= TIME_LABELS_MAX), STEPS_SEC[-1])
    texts = []
    for number in range(math.ceil(since / step), math.floor(until / step) + 1):
        minutes = number * step // 60
        text = f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"
        texts.append(f'<text class="tick" x="{x(number * step):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{text}</text>')
    return "".join(texts) + f'<text class="tick" x="{WIDTH - RIGHT + 12}" y="{HEIGHT - 6}">UTC</text>'


def _steps(
    name: str,
    path: Sequence[tuple[float, float | None]],
    until: float,
    since: float,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> str:
    """Draw a level that holds until the next one; none of it is a gap."""
    pieces: list[list[str]] = [[]]
    for (epoch, value), (following, _) in zip(path, [*path[1:], (until, None)], strict=False):
        if value is None or following < since:
            pieces.append([])
            continue
        pieces[-1] += [f"{x(epoch):.1f},{y(value):.1f}", f"{x(following):.1f},{y(value):.1f}"]
    return "".join(f'<polyline class="{name}" points="{" ".join(piece)}"/>' for piece in pieces if piece)


def _labels(levels: Sequence[Level], y: Callable[[float], float]) -> str:
    """Label the levels at the right, from above to below, none upon another."""
    price = next((level.value for level in levels if level.name == "price"), None)
    ordered = sorted(levels, key=lambda level: -level.value)
    heights: list[float] = []
    for level in ordered:
        heights.append(max(y(level.value), heights[-1] + LABEL_PX if heights else TOP + LABEL_PX / 2))
    for index in range(len(heights) - 1, -1, -1):  # back up from the lower edge
        below = heights[index + 1] - LABEL_PX if index + 1 < len(heights) else TOP + PRICE_HEIGHT
        heights[index] = min(heights[index], below)
    drawn = []
    texts = prices_text(*(level.value for level in ordered))
    for level, height, text in zip(ordered, heights, texts, strict=True):
        name, at = html.escape(level.name), y(level.value)
        away = f" {percent_text(level.value / price - 1, signed=True)}" if price and level.name != "price" else ""
        if level.name in ("entry", "profit lock"):
            drawn.append(f'<line class="entry" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        edge = WIDTH - RIGHT
        drawn.append(f'<path class="lead" d="M{edge} {at:.1f}L{edge + 10} {height:.1f}"/>')
        drawn.append(
            f'<text class="label {name.split()[0]}" x="{edge + 13}" y="{height + 4:.1f}">'
            f"{name} {text}<tspan>{away}</tspan></text>"
        )
    return "".join(drawn)


def _ribbon(mixes: Sequence[Mix], since: float, until: float, x: Callable[[float], float]) -> str:
    """Draw the probabilities of the regimes over time, as stacked areas."""
    top = TOP + PRICE_HEIGHT + GAP
    drawn = [f'<rect class="empty" x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{REGIME_HEIGHT}"/>']
    for mix, following in zip(mixes, [*mixes[1:], None], strict=False):
        end = min(following.epoch if following else until, mix.epoch + HOLD_SEC, until)
        if end < since or end <= mix.epoch:
            continue
        at = float(top)
        for name in REGIMES:
            height = REGIME_HEIGHT * getattr(mix, name)
            left = x(mix.epoch)
            drawn.append(
                f'<rect class="{name}" x="{left:.1f}" y="{at:.1f}" width="{x(end) - left + 0.3:.1f}" height="{height:.1f}"/>'
            )
            at += height
    for row, (name, words) in enumerate(REGIMES.items()):
        at, edge = top + 13 + row * 18, WIDTH - RIGHT + 13
        drawn.append(f'<rect class="{name}" x="{edge}" y="{at - 8}" width="9" height="9" rx="2"/>')
        drawn.append(f'<text class="tick" x="{edge + 15}" y="{at}">{words}</text>')
    return "".join(drawn)
