"""``quantum backtest``: what profiles would have made of entries on recorded candles.

Here belongs what the command takes and where its result goes. What is computed is :mod:`quantum_lab.backtest`'s; how it is
shown, of the modules beside this one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import load_settings
from quantum_ops.cli.history.look_back import Time
from quantum_ops.cli.lab.given import Number, unwritten, writable

if TYPE_CHECKING:
    from quantum_lab.backtest import Backtest, Plan
    from quantum_lab.candles import CandleHistory

NOTHING = "no trade was computed."
WRITTEN = ("trades.parquet", "trades.csv", "paths.parquet", "figures.json")  # in the folder of --out
DEFAULT_ENTRIES = "every:15m"


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--history", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="All files of a folder.")
@click.option("--symbol", help="Whose candles the files are, whatever their names; of a folder only theirs.")
@click.option("--recorded", nargs=2, type=Time(), metavar="FROM TO", help="Candles of the archive of `quantum recorder`.")
@click.option(
    "--profile", "names", multiple=True, help="Shipped profile or file; repeatable. Default: those shipped for such candles."
)
@click.option("--set", "changes", multiple=True, metavar="PATH=VALUE", help="Each profile also with this change; repeatable.")
@click.option("--entries", help=f"every:15m (s, m, h, d) or random:500 per symbol. Default: {DEFAULT_ENTRIES}.")
@click.option("--side", type=click.Choice(("both", "long", "short")), help="Of these entries.  [default: both]")
@click.option("--trades", type=click.Path(dir_okay=False, path_type=Path), help="Trades of a desk: CSV, or freqtrade's export.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of everything random.")
@click.option("--fee-bps", type=Number(0, 1000), default=5.0, show_default=True, help="Of each fill.")
@click.option("--slippage-bps", type=Number(0, 1000), default=2.0, show_default=True, help="Of each fill.")
@click.option("--hold-max", default="1d", show_default=True, help="A position is closed after this time (90m, 4h, 1d).")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Market states; default QUANTUM_HOME/lab.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write trades (Parquet, CSV) and figures here.")
@click.option("--report", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write one HTML page with pictures.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def backtest(
    files: tuple[Path, ...],
    folder: Path | None,
    symbol: str | None,
    recorded: tuple[datetime, datetime] | None,
    names: tuple[str, ...],
    changes: tuple[str, ...],
    cache: Path | None,
    out: Path | None,
    page: Path | None,
    *,
    force: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Compute what profiles would have made of entries on the candles of FILES, beside nulls.

    FILES are CSV, JSON, Parquet or Feather, also packed, or folders of such: see `quantum replay --help`. The kernels are those
    that run live. What a close asks for acts in the next candle; stop and target in one candle are the stop; every fill pays
    fee and slippage. docs/lab.md says what is assumed, and what the figures do not show.

    \b
    quantum backtest BTCUSDT_1m.csv --hold-max 2h
    quantum backtest candles/ --profile crypto-1m --set stops.k_sl.chop=6
    quantum backtest BTCUSDT_1m.csv --entries random:500 --side long --out b
    quantum backtest --recorded 7d now --trades desk.csv --out results/

    Of a folder, a file that cannot be used is named, counted and left out, and the others are computed.

    Exit codes: 0 done, also where files of a folder were left out; 1 nothing could be computed, or more than 1 % of the rows of a
    file that was named are malformed; 2 a file that was named, a profile or the call cannot be used, or a file to write exists.
    """
    from quantum_lab.backtest import BacktestError
    from quantum_lab.backtest import backtest as computed
    from quantum_ops.cli.lab.backtest_shown import figures
    from quantum_ops.cli.lab.given import cache_of, histories_of_archive, profiles_of, progress, remarks, usable_histories

    writable(page, out)
    _refuse_to_replace(page, out, force=force)
    settings = load_settings()
    given = [*files, *([folder] if folder else [])]
    if bool(given) == (recorded is not None):
        message = "give FILES or --history, or --recorded FROM TO"
        raise click.UsageError(message)
    unusable: dict[Path, str] = {}
    if recorded is not None:
        histories = histories_of_archive(*recorded, settings)
    else:
        histories, unusable = usable_histories(given, settings, symbol=symbol, otherwise=NOTHING)
    plan, said = _plan(profiles_of(names, changes, histories[0].interval_sec), **how)
    _whole_candles(plan, histories[0].interval_sec)
    for remark in (*said, *remarks(histories, plan.profiles)):
        click.echo(remark, err=True)
    try:
        with progress() as advance:
            done = computed(histories, plan, cache=cache_of(settings, cache), report=advance)
    except BacktestError as error:
        click.echo(f"{error}; {NOTHING}", err=True)
        sys.exit(EXIT_FAILED)
    body = {**figures(done, histories, plan, changes), "files_left_out": {str(path): why for path, why in unusable.items()}}
    if (trades := how["trades"]) is not None:
        body["entries"]["file"] = {"name": trades.name, "sha256": hashlib.sha256(trades.read_bytes()).hexdigest()}
    _refuse_to_replace(page, out, force=force)  # another run may have written meanwhile
    _emit(done, histories, body, out, page, as_json=as_json)


def _refuse_to_replace(page: Path | None, out: Path | None, *, force: bool) -> None:
    unwritten("--report", *([page] if page else []), force=force)
    unwritten("--out", *(out / name for name in WRITTEN if out), force=force)


def _plan(profiles: list[Any], **how: Any) -> tuple[Plan, list[str]]:
    """Build the plan out of the options; also give what is to be said of the trades."""
    from quantum_core.display import number_of
    from quantum_lab.backtest import Plan
    from quantum_lab.entries import EntriesError, entry_rule, seconds_of
    from quantum_lab.execution import Costs
    from quantum_lab.trade_files import TradeFileError, read_trades

    if how["trades"] is not None and how["entries"] is not None:
        message = "give --entries or --trades"
        raise click.UsageError(message)
    if how["trades"] is not None and how["side"] is not None:
        message = "--side is of --entries: trades of --trades have their own"
        raise click.UsageError(message)
    said, entries, trades = [], None, None
    try:
        if how["trades"] is not None:
            read = read_trades(how["trades"])
            trades, said = read.trades, list(read.named)
            said += [f"{how['trades']}: {number_of(read.malformed, 'trade')} left out"] if read.malformed else []
            said += read.remarks
        else:
            entries = entry_rule(how["entries"] or DEFAULT_ENTRIES, side=how["side"] or "both", seed=how["seed"])
        hold_max_sec = seconds_of(how["hold_max"])
    except EntriesError as error:
        raise click.UsageError(str(error)) from None
    except TradeFileError as error:
        raise click.UsageError(str(error)) from None
    costs = Costs(how["fee_bps"], how["slippage_bps"])
    return Plan(profiles, entries, trades, costs, hold_max_sec, how["seed"]), said


def _whole_candles(plan: Plan, interval_sec: float) -> None:
    """Refuse times at which no candle closes, which would be taken for others.

    Raises
    ------
    click.UsageError
        --hold-max or --entries is no multiple of the candles.
    """
    times = {"--hold-max": plan.hold_max_sec, "--entries every": plan.entries.every_sec if plan.entries else 0}
    for option, seconds in times.items():
        if seconds % interval_sec:
            message = f"{option} is {seconds:g} s, and candles close every {interval_sec:g} s: give a multiple of that"
            raise click.UsageError(message)


def _emit(
    done: Backtest,
    histories: list[CandleHistory],
    body: dict[str, Any],
    out: Path | None,
    page: Path | None,
    *,
    as_json: bool,
) -> None:
    from quantum_ops.cli.lab.backtest_shown import show

    try:
        if out is not None:
            _write(done, body, out)
        if page is not None:
            from quantum_ops.cli.lab.backtest_page import page_of

            page.write_text(page_of(done, histories, body), encoding="utf-8")
    except OSError as error:
        message = f"the result cannot be written ({error}): give another --out or --report"
        raise click.UsageError(message) from error
    if as_json:
        click.echo(json.dumps(body, indent=2, allow_nan=False))
    else:
        show(body)
    for written in filter(None, (out, page)):
        click.echo(f"Written: {written}", err=True)


def _write(done: Backtest, body: dict[str, Any], out: Path) -> None:
    """Write the trades of all profiles, the paths of the chosen ones, and the figures."""
    import polars as pl

    out.mkdir(parents=True, exist_ok=True)
    trades = pl.concat(
        [one.trades.select(pl.lit(one.profile.name).alias("profile"), pl.all()) for one in done.results], how="diagonal_relaxed"
    )
    parquet, csv, paths_file, figures_file = (out / name for name in WRITTEN)
    trades.write_parquet(parquet)
    trades.write_csv(csv, datetime_format="%Y-%m-%dT%H:%M:%S%.3fZ")
    paths = [{"profile": one.profile.name, **row} for one in done.results for row in one.paths]
    pl.DataFrame(paths, infer_schema_length=None).write_parquet(paths_file)
    figures_file.write_text(json.dumps(body, indent=2, allow_nan=False), encoding="utf-8")
