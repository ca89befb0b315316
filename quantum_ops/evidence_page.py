"""Evidence as one page that can be filed: plain words first, pictures, tables, and the hash of its own content.

The page needs nothing but itself, and equal documents give equal pages. What is measured is :mod:`quantum_lab.evidence`'s.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantum_assets.shared.charts import GRID, INK, PAPER, REGIME_COLORS, SIGMA_COLOR, as_data_uri
from quantum_lab.tables import MODELS, SPAN_WORDS, Section, Table, sections_of
from quantum_ops.sealed_page import sealed_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_INCHES = 0.32  # of a picture, for each file
MODEL_COLORS = {"sigma": SIGMA_COLOR, "garch": "#1f6fb2", "har": "#2a9d8f"}
MARKERS = {"sigma": "o", "garch": "s", "har": "^"}
BOLD, CODE = re.compile(r"\*\*(.+?)\*\*"), re.compile(r"`(.+?)`")

STYLE = "td{white-space:nowrap}h3{margin:1.4rem 0 .4rem;font-size:1rem}.wide{overflow-x:auto}"


def page(document: Mapping[str, Any]) -> str:
    """Write the page of a document of :func:`quantum_lab.evidence.evidence`."""
    content = document["content"]
    names = ", ".join(one["name"] for one in content["profiles"])
    parts = []
    for section in sections_of(document):
        parts.append(_section(section))
        if section.title.startswith("Figures of "):
            parts.append(_pictures(content, section.title.removeprefix("Figures of ")))
    stamp = f"{names} · {len(content['samples'])} files · horizon {content['horizon_sec']:g} s"
    return sealed_page("Evidence", html.escape(f"Evidence: {names}"), html.escape(stamp), "\n".join(parts), STYLE)


def _section(section: Section) -> str:
    level = section.level
    texts = [_text(sentence) for sentence in section.sentences]
    said = (
        f"<ul>{''.join(f'<li>{text}</li>' for text in texts)}</ul>" if len(texts) > 1 else "".join(f"<p>{t}</p>" for t in texts)
    )
    return f"<h{level}>{_text(section.title)}</h{level}>\n{said}\n" + "\n".join(map(_table, section.tables))


def _table(table: Table) -> str:
    if not table.rows:
        return "<p>Too few candles.</p>"
    head = "".join(f"<th>{_text(name)}</th>" for name in table.headings)
    rows = "\n".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'


def _text(value: str) -> str:
    """Escape a text, and set what is bold or code in markdown."""
    text = html.escape(" ".join(value.split()).encode("utf-8", "replace").decode())
    return CODE.sub(r"<code>\1</code>", BOLD.sub(r"<b>\1</b>", text))


def _pictures(content: Mapping[str, Any], profile: str) -> str:
    results = [one for one in content["results"] if one["profile"] == profile and one["states"]]
    if not results:
        return ""
    drawn = {
        "Share of moves beyond the band, and what was wanted": coverage_figure(results),
        "QLIKE beside EWMA(.94): left of the line is better": losses_figure(results),
        "Mean length of a regime: filled on these returns, hollow with signs of a coin": dwell_figure(results),
    }
    figures = [
        f'<figure><img alt="{_text(title)}" src="{as_data_uri(figure)}"><figcaption>{_text(title)}</figcaption></figure>'
        for title, figure in drawn.items()
    ]
    return f'<div class="charts">{"".join(figures)}</div>'


def coverage_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the share beyond each band of each file."""
    figure, panel = _figure(results)
    for number, (span, words) in enumerate(SPAN_WORDS.items()):
        for row, result in enumerate(results):
            for one in result["coverage"]:
                if one["span"] == span and one["share"] is not None:
                    color = SIGMA_COLOR if one["nominal"] == max(b["nominal"] for b in result["coverage"]) else "#1f6fb2"
                    filled = color if number == 0 else PAPER
                    panel.plot(one["share"] * 100, row, "o", markerfacecolor=filled, markeredgecolor=color)
                    panel.axvline(one["nominal"] * 100, color=color, linewidth=0.8, linestyle=(0, (4, 3)))
        panel.plot([], [], "o", markerfacecolor=INK if number == 0 else PAPER, markeredgecolor=INK, label=words)
    panel.set_xlabel("% beyond the band", color=INK)
    panel.set_xlim(left=0)
    panel.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def losses_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how each model's loss differs from that of EWMA, one step ahead."""
    figure, panel = _figure(results)
    panel.axvline(0, color=INK, linewidth=0.8)
    for name, color in MODEL_COLORS.items():
        points = [
            (result["forecasts"]["one step"]["models"][name]["against_ewma"]["mean_difference"], row)
            for row, result in enumerate(results)
            if name in result["forecasts"]["one step"]["models"]
        ]
        if points:
            across, along = zip(*points, strict=True)
            panel.plot(across, along, MARKERS[name], color=color, label=MODELS[name])
    panel.set_xlabel("QLIKE minus that of EWMA(.94), next candle", color=INK)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def dwell_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how long each regime lasts, and how long it lasts on returns without direction."""
    figure, panel = _figure(results)
    for row, result in enumerate(results):
        regime = result["regime"]
        for number, name in enumerate(regime["names"]):
            for part, filled in (("persistence", True), ("without_direction", False)):
                dwell, color = regime[part]["dwell"][number], REGIME_COLORS[name]
                if dwell is not None:
                    panel.plot(dwell, row, "o", markerfacecolor=color if filled else PAPER, markeredgecolor=color)
    for name, color in REGIME_COLORS.items():
        panel.plot([], [], "o", color=color, label=name)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("{x:g}")
    panel.set_xlabel("candles", color=INK)
    panel.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _figure(results: Sequence[Mapping[str, Any]]) -> tuple[Figure, Axes]:
    """Give an empty picture with one line for each file, the first one on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 1.6 + ROW_INCHES * len(results)), facecolor=PAPER)
    figure.set_layout_engine("constrained")
    panel = figure.subplots()
    panel.set_facecolor(PAPER)
    panel.grid(visible=True, axis="both", color=GRID, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)
    panel.tick_params(colors=INK, length=0, labelsize=8)
    panel.set_yticks(range(len(results)), [result["sample"] for result in results], parse_math=False)
    panel.set_ylim(len(results) - 0.5, -0.5)
    return figure, panel
