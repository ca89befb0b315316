"""`quantum regime`: the market state along a price history, as a table, JSON and a chart.

Here belongs the replay over a file or a synthetic path. The formula stays in the kernel, the picture in the charts, the file
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

from quantum_assets.shared.charts import REGIME_LABELS, as_png, regime_figure
from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.kernels.columns import REGIMES, Floats
from quantum_core.kernels.market import synthetic
from quantum_core.kernels.market.market_state import STATE_COLUMNS, MarketState, MarketStateTheta, market_state
from quantum_ops.cli.history.recordings import NAMED_MAX, Recording, choose, malformed_rows, read, refuse
from quantum_ops.recordings.file_names import named_file

STATES_BY_DEFAULT = 1000  # the default step gives at most about so many states: a chart shows no more, half a second
SYNTHETIC_CANDLES = 1500  # length of a synthetic path; a trend leg is longer


@click.command(epilog="\b\nExamples:\n  quantum regime BTCUSDT_1m.csv\n  quantum regime --synthetic trend --json")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--symbol", help="Whose files of a folder.")
@click.option("--synthetic", "regime_name", type=click.Choice(synthetic.REGIME_NAMES), help="Use a generated path.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the generated path.")
@click.option("--step", type=click.IntRange(min=1), help="Candles between two states; default: about 1,000 states.")
@click.option("--out", type=click.Path(path_type=Path), help="Chart; default <name>-regime.png in the current folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def regime(
    files: tuple[Path, ...],
    symbol: str | None,
    regime_name: synthetic.Regime | None,
    seed: int,
    step: int | None,
    out: Path | None,
    as_json: bool,  # noqa: FBT001 click passes options by name
) -> None:
    """Show how volatility and regime developed along the candles of FILES.

    FILES are CSV, JSON, Parquet or Feather, also packed, or a folder of such, all of one symbol: see `quantum replay --help`.
    Exit codes: 0 done, 1 no state could be computed or more than 1 % of the rows of a file are malformed, 2 a file cannot be read
    or the call is wrong.
    """
    if (not files) == (regime_name is None):
        message = "give either FILES or --synthetic trend|mean_revert|chop"
        raise click.UsageError(message)
    times: npt.NDArray[Any]
    recording: Recording | None = None
    if files:
        recording = _recording(files, symbol)
        refuse([recording], "no state was computed.", EXIT_FAILED)
        name, closes = recording.symbol, recording.candles.frame["close"].to_numpy()
        times = recording.candles.frame["open_time_ms"].to_numpy().astype("datetime64[ms]")
    else:
        assert regime_name is not None  # noqa: S101 narrows for the type checker; checked above
        name = f"synthetic-{regime_name}-{seed}"
        closes = 100 * np.exp(synthetic.log_path(regime_name, 0, SYNTHETIC_CANDLES, seed=seed))
        times = np.arange(len(closes))
    malformed = recording.candles.malformed_count if recording else 0

    theta = MarketStateTheta()
    required = theta.candles_required
    if len(closes) < required:
        message = f"{name} has {len(closes)} usable candles ({malformed} malformed): a state needs {required}"
        raise click.ClickException(message)
    windows = sliding_window_view(closes, required)
    step = step or -(-len(windows) // STATES_BY_DEFAULT)
    # Counted back from the newest candle, so that the last state is always the current one.
    ends = np.arange(len(closes) - 1, required - 2, -step)[::-1]
    state = market_state(windows[ends - required + 1], theta=theta)

    chart = out or Path(f"{name}-regime.png")
    try:
        chart.write_bytes(as_png(regime_figure(name, times, closes, ends, state)))
    except OSError as error:
        message = f"the chart cannot be written to {chart} ({error}): give another --out"
        raise click.UsageError(message) from error
    summary = _summary(name, closes, state) | {
        "step": step,
        "malformed": malformed_rows(recording) if recording else [],
        "malformed_count": malformed,
        "duplicates": recording.candles.duplicates if recording else 0,
        "chart": str(chart),
    }
    if as_json:
        click.echo(json.dumps(summary | {"states": _states(times[ends], state)}, allow_nan=False))
    else:
        _print_table(summary)


def _recording(files: tuple[Path, ...], symbol: str | None) -> Recording:
    if len(files) == 1 and not files[0].is_dir():  # its name is that of the chart, whatever it is
        return read(files[0].stem, list(files))
    chosen = choose(files, symbol=symbol)
    if len(chosen) > 1:
        message = f"files of several symbols: {', '.join(sorted(chosen)[:NAMED_MAX])}: give --symbol"
        raise click.UsageError(message)
    ((name, paths),) = chosen.items()
    intervals = {named_file(path).interval_sec for path in paths}
    if len(intervals) > 1:
        message = f"files of several intervals of {name}: give those of one"
        raise click.UsageError(message)
    return read(name, paths)


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
    for row in summary["malformed"][:NAMED_MAX]:
        console.print(f"line {row['line']} left out: {row['reason']}", markup=False)
    if summary["malformed_count"] or summary["duplicates"]:
        console.print(f"{summary['malformed_count']} malformed rows and {summary['duplicates']} duplicates left out")
    console.print(f"chart: {summary['chart']}", markup=False)
