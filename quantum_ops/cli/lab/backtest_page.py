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
from quantum_ops.cli.lab.backtest_shown import ROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AROUND = 20  # candles shown before and after a trade
SCATTERED_MAX = 3000  # trades drawn as points
COLORS = ("#1f6fb2", "#b8432f", "#2a9d8f", "#7b6fd0", "#e9b44c", "#646e78")
STYLE = (
    f"body{{font:15px sans-serif;color:{INK};background:{PAPER};max-width:1000px;margin:2em auto;padding:0 1em}}"
    f"table{{border-collapse:collapse;margin:1em 0}}td,th{{border:1px solid {GRID};padding:.3em .6em;text-align:right}}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
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
        "<h1>Backtest</h1>",
        *(f"<p>{escape(_candles(one))}</p>" for one in body["candles"]),
        f"<p>{escape(_how(body))}</p>",
        "<p>R is the distance of the first stop from the price paid. Past candles, not a forecast.</p>",
        _figures(body["profiles"]),
        "<h2>Profile minus null, R per trade</h2>",
        _against(body["profiles"]),
        f"<ul>{''.join(f'<li>{escape(name)}: {escape(what)}</li>' for name, what in NULLS.items())}</ul>",
        "<h2>Sum of R</h2>",
        _image(_equity(done.results), "Sum of R over time"),
        "<h2>Excursions</h2>",
        _image(_excursions(done.results), "Largest move for and against each trade"),
    ]
    for result in done.results:
        parts += [f"<h2>Stop path of chosen trades, {escape(result.profile.name)}</h2>", *_paths(result, by_symbol)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Backtest</title><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _candles(one: Mapping[str, Any]) -> str:
    notes = "".join(f"; {note}" for note in one["notes"])
    return (
        f"{one['symbol']}: {one['count']:,} candles of {one['interval_sec']:g} s, {one['first']} to {one['last']}, "
        f"digest {one['digest']}{notes}"
    )


def _how(body: Mapping[str, Any]) -> str:
    costs, left_out = body["costs"], _listed(body["entries"]["left_out"])
    return (
        f"Costs per fill: fee {costs['fee_bps']:g} bps, slippage {costs['slippage_bps']:g} bps. Positions are closed after "
        f"{body['hold_max_sec'] / 3600:g} h. Entries left out: {left_out}."
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _figures(profiles: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(one['name'])}</th>" for one in profiles)
    rows = [
        f"<tr><td>{escape(label.strip())}</td>"
        + "".join(f"<td>{escape(text(one)) if one['trades'] else '-'}</td>" for one in profiles)
        + "</tr>"
        for label, text in ROWS.items()
    ]
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _against(profiles: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in profiles:
        for name, versus in one.get("nulls", {}).items():
            difference = versus["difference_R"]
            numbers = (versus["mean_R"], *(difference[key] for key in ("mean", "low", "high", "p_value")), versus["p_holm"])
            cells = "".join(f"<td>{'-' if value is None else f'{value:.3f}'}</td>" for value in numbers)
            rows.append(f"<tr><td>{escape(one['name'])}, {escape(name)}</td>{cells}</tr>")
    heads = "".join(f"<th>{one}</th>" for one in ("", "null R", "difference", "from", "to", "p", "p Holm"))
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


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
