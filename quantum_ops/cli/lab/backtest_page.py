"""A backtest as one HTML page that needs nothing beside it: figures, equity, excursions and the paths of chosen trades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from quantum_assets.shared.charts import GRID, INK, LEVEL_COLORS, PAPER, as_data_uri
from quantum_lab.backtest import Backtest, ProfileResult
from quantum_lab.candles import CandleHistory
from quantum_lab.nulls import NULLS
from quantum_ops.cli.lab.backtest_shown import ROWS, candles_text, left_out_texts, made_of, notes_of
from quantum_ops.sealed_page import sealed_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AROUND = 20  # candles shown before and after a trade
SCATTERED_MAX = 3000  # trades drawn as points
COLORS = ("#1f6fb2", "#b8432f", "#2a9d8f", "#7b6fd0", "#e9b44c", "#646e78")
STYLE = (
    "td{white-space:nowrap}th:not(:first-child),td:not(:first-child){text-align:right}.wide{overflow-x:auto}"
    ".left td:not(:first-child){text-align:left}"
)


def page_of(done: Backtest, histories: Sequence[CandleHistory], body: Mapping[str, Any]) -> str:
    """Write the page.

    Parameters
    ----------
    done, histories
        The result and its candles.
    body
        Its figures, as of :func:`quantum_ops.cli.lab.backtest_shown.figures`.
    """
    by_symbol = {one.symbol: one for one in histories}
    parts = [
        *(f"<p>{escape(_candles(one))}</p>" for one in body["candles"]),
        *(f"<p>{escape(text)}</p>" for text in (*made_of(body), *left_out_texts(body), *body["entries"]["named"])),
        _figures(body["profiles"]),
        "<h2>Profile minus null, R per trade, paired</h2>",
        _against(body["profiles"]),
        f"<ul>{''.join(f'<li>{escape(name)}: {escape(what)}</li>' for name, what in NULLS.items())}</ul>",
        *(f"<p>{escape(text)}</p>" for text in notes_of(body)),
        "<h2>Sum of R</h2>",
        _image(_equity(done.results), "Sum of R over time"),
        "<h2>Excursions</h2>",
        _image(_excursions(done.results), "Largest move for and against each trade"),
    ]
    for result in done.results:
        parts += [f"<h2>Stop path of chosen trades, {escape(result.profile.name)}</h2>", *_paths(result, by_symbol)]
    parts += ["<h2>Made with</h2>", _made_with(body)]
    names = ", ".join(one["name"] for one in body["profiles"])
    stamp = f"{names} · {', '.join(one['symbol'] for one in body['candles'])}"
    return sealed_page("Backtest", escape(f"Backtest: {names}"), escape(stamp), "\n".join(parts), STYLE)


def _candles(one: Mapping[str, Any]) -> str:
    return "; ".join((candles_text(one), *one["notes"]))


def _made_with(body: Mapping[str, Any]) -> str:
    """Name everything that makes the same figures again."""
    rows = [
        *((f"candles of {one['symbol']}, digest", one["digest"]) for one in body["candles"]),
        *((f"profile {one['name']}, fingerprint", one["fingerprint"]) for one in body["profiles"]),
        ("seed", str(body["seed"])),
        *body["versions"].items(),
    ]
    cells = "\n".join(f"<tr><td>{escape(name)}</td><td><code>{escape(value)}</code></td></tr>" for name, value in rows)
    return f'<div class="wide left"><table>\n{cells}\n</table></div>'


def _figures(profiles: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(one['name'])}</th>" for one in profiles)
    rows = [
        f"<tr><td>{escape(label.strip())}</td>"
        + "".join(f"<td>{escape(text(one)) if one['trades'] else '-'}</td>" for one in profiles)
        + "</tr>"
        for label, text in ROWS.items()
    ]
    return f'<div class="wide"><table>\n<tr><th></th>{head}</tr>\n{"".join(rows)}\n</table></div>'


def _against(profiles: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in profiles:
        for name, versus in one.get("nulls", {}).items():
            difference = versus["difference_R"]
            numbers = (versus["mean_R"], *(difference[key] for key in ("mean", "low", "high", "p_value")), versus["p_holm"])
            cells = "".join(f"<td>{'-' if value is None else f'{value:.3f}'}</td>" for value in numbers)
            rows.append(f"<tr><td>{escape(one['name'])}, {escape(name)}</td><td>{versus['pairs']:,}</td>{cells}</tr>")
    heads = "".join(f"<th>{one}</th>" for one in ("", "pairs", "null R", "difference", "from", "to", "p", "p Holm"))
    return f'<div class="wide"><table>\n<tr>{heads}</tr>\n{"".join(rows)}\n</table></div>'


def _image(figure: Figure, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="{as_data_uri(figure)}">'


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    axes = [figure.add_subplot(1, columns, number + 1) for number in range(columns)]
    for one in axes:
        one.set_facecolor(PAPER)
        one.grid(color=GRID, linewidth=0.6)
    return figure, axes


def _date(axes: Axes) -> None:
    """Label times so that they do not cover each other."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _equity(results: Sequence[ProfileResult]) -> Figure:
    figure, (axes,) = _figure(10, 4)
    for color, one in zip(COLORS, results, strict=False):
        trades = one.trades.sort("exit_time", maintain_order=True)
        times = trades["exit_time"].dt.replace_time_zone(None).to_numpy()
        axes.plot(times, np.cumsum(trades["R"].to_numpy()), color=color, linewidth=1.2, label=one.profile.name)
    _date(axes)
    axes.set_ylabel("sum of R after costs")
    axes.legend(frameon=False)
    return figure


def _excursions(results: Sequence[ProfileResult]) -> Figure:
    figure, panels = _figure(10, 4, columns=len(results))
    for axes, one in zip(panels, results, strict=True):
        step = max(len(one.trades) // SCATTERED_MAX, 1)
        trades = one.trades.gather_every(step)
        won = (trades["R"] > 0).to_numpy()
        mae, mfe = trades["mae_R"].to_numpy(), trades["mfe_R"].to_numpy()
        for mask, color, label in ((~won, COLORS[1], "lost"), (won, COLORS[2], "won")):
            axes.scatter(mae[mask], mfe[mask], s=5, alpha=0.4, color=color, label=label)
        axes.set(xlabel="against, R", ylabel="for, R", title=one.profile.name)
        axes.legend(frameon=False)
    return figure


def _paths(result: ProfileResult, histories: Mapping[str, CandleHistory]) -> list[str]:
    by_trade: dict[int, list[dict[str, Any]]] = {}
    for row in result.paths:
        by_trade.setdefault(row["trade"], []).append(row)
    images = []
    for trade, rows in sorted(by_trade.items(), key=lambda item: float(result.trades["R"][item[0]])):
        row = result.trades.row(trade, named=True)
        figure, (axes,) = _figure(10, 3)
        history = histories[row["symbol"]]
        candles = [one["candle"] for one in rows]
        part = slice(max(candles[0] - AROUND, 0), min(candles[-1] + AROUND, len(history)))
        times = history.open_time_ms.astype("datetime64[ms]")
        axes.fill_between(
            times[part], history.low[part], history.high[part], color="#8d99a5", alpha=0.35, step="mid", linewidth=0
        )
        axes.plot(times[part], history.close[part], color=INK, linewidth=0.8)
        _date(axes)
        axes.step(times[candles], [one["stop"] for one in rows], color=LEVEL_COLORS["stop"], where="mid", label="stop")
        axes.axhline(row["entry_price"], color=LEVEL_COLORS["entry"], linestyle=":", label="entry")
        axes.plot(times[candles[-1]], row["exit_price"], "o", color=INK)
        title = f"{row['symbol']} {row['side']} {row['entry_time']:%Y-%m-%d %H:%M}: {row['R']:.2f} R, {row['reason']}"
        axes.set_title(title)
        axes.legend(frameon=False)
        images.append(_image(figure, title))
    return images
