"""`quantum regime`: the market state along a price history, as a table, JSON and a chart.

Here belongs the replay over a file or a synthetic path and its picture. The formula stays in the kernel, the file
layouts in the reader.
"""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from rich.console import Console
from rich.table import Table

from quantum_assets.kernels import synthetic
from quantum_assets.kernels.columns import REGIMES, Floats
from quantum_assets.kernels.market_state import STATE_COLUMNS, MarketState, MarketStateTheta, market_state
from resources.ohlcv_files import OhlcvFileError, read_ohlcv

STATES_BY_DEFAULT = 1000  # the default step gives at most about so many states: a chart shows no more, half a second
SYNTHETIC_CANDLES = 1500  # length of a synthetic path; a trend leg is longer
MALFORMED_NAMED = 5  # malformed rows named in the terminal; --json has them all
MARGIN_LABELLED = 0.12  # share of the chart without a state from which there is room to say so
REGIME_COLORS = {"trend": "#2a9d8f", "mr": "#7b6fd0", "chop": "#e9b44c"}
REGIME_LABELS = {"trend": "trend", "mr": "mean-reverting", "chop": "chop"}
INK, PAPER, GRID = "#22303c", "#fbfaf7", "#dcd8cf"


@click.command(epilog="\b\nExamples:\n  quantum regime BTCUSDT_1m.csv\n  quantum regime --synthetic trend --json")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--synthetic", "regime_name", type=click.Choice(synthetic.REGIME_NAMES), help="Use a generated path.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the generated path.")
@click.option("--step", type=click.IntRange(min=1), help="Candles between two states; default: about 1,000 states.")
@click.option("--out", type=click.Path(path_type=Path), help="Chart; default <name>-regime.png in the current folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def regime(
    file: Path | None,
    regime_name: synthetic.Regime | None,
    seed: int,
    step: int | None,
    out: Path | None,
    as_json: bool,  # noqa: FBT001 click passes options by name
) -> None:
    """Show how volatility and regime developed along the candles of FILE.

    FILE is CSV (header with time, open, high, low, close, volume; or Binance klines) or Parquet. Exit codes: 0 done,
    1 no state could be computed, 2 FILE cannot be read or the call is wrong.
    """
    if (file is None) == (regime_name is None):
        message = "give either FILE or --synthetic trend|mean_revert|chop"
        raise click.UsageError(message)
    times: npt.NDArray[Any]
    if file is not None:
        try:
            candles = read_ohlcv(file)
        except OhlcvFileError as error:
            raise click.UsageError(str(error)) from error
        name, closes = file.stem, candles.frame["close"].to_numpy()
        times = candles.frame["open_time_ms"].to_numpy().astype("datetime64[ms]")
        malformed = [{"line": row.line, "reason": row.reason} for row in candles.malformed]
        duplicates = candles.duplicates
    else:
        assert regime_name is not None  # noqa: S101 narrows for the type checker; checked above
        name = f"synthetic-{regime_name}-{seed}"
        closes = 100 * np.exp(synthetic.log_path(regime_name, 0, SYNTHETIC_CANDLES, seed=seed))
        times, malformed, duplicates = np.arange(len(closes)), [], 0

    theta = MarketStateTheta()
    required = theta.candles_required
    if len(closes) < required:
        message = f"{name} has {len(closes)} usable candles ({len(malformed)} malformed): a state needs {required}"
        raise click.ClickException(message)
    windows = sliding_window_view(closes, required)
    step = step or -(-len(windows) // STATES_BY_DEFAULT)
    # Counted back from the newest candle, so that the last state is always the current one.
    ends = np.arange(len(closes) - 1, required - 2, -step)[::-1]
    state = market_state(windows[ends - required + 1], theta=theta)

    chart = out or Path(f"{name}-regime.png")
    try:
        draw(chart, name, times, closes, ends, state)
    except OSError as error:
        message = f"the chart cannot be written to {chart} ({error}): give another --out"
        raise click.UsageError(message) from error
    summary = _summary(name, closes, state) | {
        "step": step,
        "malformed": malformed,
        "duplicates": duplicates,
        "chart": str(chart),
    }
    if as_json:
        click.echo(json.dumps(summary | {"states": _states(times[ends], state)}, allow_nan=False))
    else:
        _print_table(summary)


def _summary(name: str, closes: Floats, state: MarketState) -> dict[str, Any]:
    share = Counter(state.regime)
    return {
        "name": name,
        "candles": len(closes),
        "states_computed": len(state.sigma),
        "columns": {
            column: {
                "last": float(values[-1]),
                "min": float(values.min()),
                "median": float(np.median(values)),
                "max": float(values.max()),
            }
            for column in STATE_COLUMNS
            for values in (getattr(state, column),)
        },
        "regime_share": {regime: share[regime] / len(state.sigma) for regime in REGIMES},
        "regime_last": str(state.regime[-1]),
    }


def _states(times: npt.NDArray[Any], state: MarketState) -> list[dict[str, Any]]:
    stamps = [_stamp(time) for time in times]
    rows = zip(*(getattr(state, name).tolist() for name in STATE_COLUMNS), strict=True)
    return [
        {"time": stamp, "regime": str(label)} | dict(zip(STATE_COLUMNS, row, strict=True))
        for stamp, label, row in zip(stamps, state.regime, rows, strict=True)
    ]


def _stamp(time: Any) -> str | int:
    if isinstance(time, np.datetime64):
        return datetime.fromtimestamp(time.astype(np.int64).item() / 1000, tz=UTC).isoformat()
    return int(time)


def _print_table(summary: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"{summary['name']}: {summary['states_computed']} states over {summary['candles']} candles")
    table.add_column("column")
    for heading in ("last", "min", "median", "max"):
        table.add_column(heading, justify="right")
    for name, numbers in summary["columns"].items():
        table.add_row(name, *(f"{numbers[heading]:.6g}" for heading in ("last", "min", "median", "max")))
    console.print(table)
    shares = ", ".join(f"{REGIME_LABELS[name]} {share:.0%}" for name, share in summary["regime_share"].items())
    console.print(f"most probable regime: now {REGIME_LABELS[summary['regime_last']]}; over time {shares}")
    for row in summary["malformed"][:MALFORMED_NAMED]:
        console.print(f"line {row['line']} left out: {row['reason']}", markup=False)
    if summary["malformed"] or summary["duplicates"]:
        console.print(f"{len(summary['malformed'])} malformed rows and {summary['duplicates']} duplicates left out")
    console.print(f"chart: {summary['chart']}", markup=False)


def draw(
    chart: Path,
    name: str,
    times: npt.NDArray[Any],
    closes: Floats,
    ends: npt.NDArray[np.intp],
    state: MarketState,
) -> None:
    """Write the chart: price over its regime, sigma, and the probabilities as a stack."""
    # Imported here: matplotlib costs half a second that no other command should pay.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(12, 7.6), facecolor=PAPER)
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.12)
    canvas = FigureCanvasAgg(figure)
    price, sigma, share = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.3, 1.5))
    at = times[ends]
    for axis in (price, sigma, share):
        axis.set_facecolor(PAPER)
        axis.grid(visible=True, axis="y", color=GRID, linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(GRID)
        axis.tick_params(colors=INK, length=0, labelsize=9)

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
    price.set_title(name, loc="left", color=INK, fontsize=15, fontweight="bold", pad=14)
    price.set_title("background: most probable regime", loc="right", color=INK, fontsize=9, alpha=0.7)

    sigma_bps = state.sigma * 1e4
    sigma.plot(at, sigma_bps, color="#c8553d", linewidth=1.3)
    sigma.fill_between(at, 0, sigma_bps, color="#c8553d", alpha=0.14, linewidth=0)
    sigma.set_ylim(0, sigma_bps.max() * 1.15)
    sigma.set_ylabel("sigma, bps", color=INK)

    stack = [state.p_trend, state.p_mr, state.p_chop]
    share.stackplot(at, stack, colors=[REGIME_COLORS[label] for label in REGIMES], alpha=0.85, linewidth=0)
    share.set_ylim(0, 1)
    share.yaxis.set_major_formatter(PercentFormatter(1))
    share.set_ylabel("regime probability", color=INK)
    middles = np.cumsum([0.0] + [p[-1] for p in stack])
    for label, low, high in zip(REGIMES, middles[:-1], middles[1:], strict=True):
        share.annotate(
            f"{REGIME_LABELS[label]} {high - low:.0%}",
            (1, (low + high) / 2),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=9,
        )
    if ends[0] > len(times) * MARGIN_LABELLED:
        middle = times[0] + (at[0] - times[0]) / 2
        share.annotate("no state yet", (middle, 0.5), ha="center", va="center", color=INK, fontsize=9, alpha=0.6)
    figure.align_ylabels()
    share.set_xlim(times[0], times[-1])
    if np.issubdtype(times.dtype, np.datetime64):
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        share.xaxis.set_major_locator(locator)
        share.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        share.set_xlabel("UTC", color=INK, fontsize=9)
    else:
        share.set_xlabel("candle", color=INK, fontsize=9)
    canvas.print_png(str(chart), metadata={"Software": None})  # type: ignore[no-untyped-call]
