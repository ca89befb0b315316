"""`quantum profile try`: what profiles say along recorded candles, side by side.

Here belongs the table. What is counted is :mod:`quantum_lab.shares`; the file layouts are the reader's.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from quantum_core.exit_codes import EXIT_FAILED


@click.command(
    "try", epilog="\b\nExamples:\n  quantum profile try BTCUSDT_1m.csv\n  quantum profile try candles/ --profile desk.toml"
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--profile", "names", multiple=True, help="Shipped profile or file; may be repeated. Default: those shipped for such candles."
)
@click.option("--step", type=click.IntRange(min=1), default=7, show_default=True, help="Candles between two windows.")
@click.option(
    "--held", type=click.IntRange(min=1), default=60, show_default=True, help="Age of the positions judged, in candles."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def try_profiles(files: tuple[Path, ...], names: tuple[str, ...], step: int, held: int, *, as_json: bool) -> None:
    """Count what profiles say along the candles of FILES: regimes, distances at their floor, positions all to be closed.

    FILES are CSV, JSON, Parquet or Feather, also packed, or folders of such: see `quantum replay --help`. Of each window one long
    and one short are judged, opened --held candles ago. A share near 100 % says nothing.

    Exit codes: 0 counted; 1 nothing could be counted, or more than 1 % of the rows of a file are malformed; 2 a file or profile
    cannot be used.
    """
    from quantum_core.kernels.market.market_state import MarketStateTheta
    from quantum_core.profiles.files import ProfileFileError, load, meant_for
    from quantum_core.settings import load_settings
    from quantum_lab.candles import CandlesError, history_of
    from quantum_lab.shares import SHARES, shares
    from quantum_lab.states import states_of
    from quantum_ops.cli.history.recordings import choose, read, refuse, report
    from quantum_ops.cli.lab.given import cache_of
    from quantum_ops.cli.layout import Column, console, records

    settings = load_settings()
    try:
        chosen = [load(name) for name in names]
    except ProfileFileError as error:
        raise click.UsageError(str(error)) from None
    results: list[dict[str, Any]] = []
    for symbol, paths in choose(files, symbol=None, known=settings.symbols).items():
        recording = read(symbol, paths)
        report(recording)
        refuse([recording], "nothing was counted.", EXIT_FAILED)
        began = time.monotonic()
        try:
            candles = history_of(symbol, recording.candles.frame)
        except CandlesError as error:
            raise click.ClickException(str(error)) from None
        profiles = chosen or [load(name) for name in meant_for(candles.interval_sec)]
        for profile in profiles:
            states = states_of(candles, profile.theta(MarketStateTheta), cache=cache_of(settings, None))
            counted = shares(candles, states, profile, held=held, step=step)
            results.append({"symbol": symbol, "profile": profile.name, "fingerprint": profile.fingerprint, **counted})
            if not as_json:
                click.echo(f"{symbol} {profile.name}: {counted['windows']} windows, {time.monotonic() - began:.0f} s", err=True)
    if not any(result["windows"] for result in results):
        msg = f"nothing was counted: a window needs {max(profile.candles_required for profile in profiles)} candles"
        raise click.ClickException(msg)
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    numbers = ("windows", *SHARES, "stop")
    columns = (Column("symbol"), Column("profile"), *(Column(name, right=True, labelled=True) for name in numbers))
    rows = [
        (
            result["symbol"],
            result["profile"],
            f"{result['windows']}",
            *(f"{result[name]:.1%}" for name in SHARES),
            f"{result['stop_dist_pct']:.2%}",
        )
        for result in results
    ]
    out = console()
    out.print(records(out, columns, rows, "Shares of windows and positions; stop: median distance"))
