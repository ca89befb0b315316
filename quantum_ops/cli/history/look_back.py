"""``quantum history``, ``quantum at`` and ``quantum export``: what the flight recorder's archive says of the past.

They need the folder of the archive and nothing else: no Redis, no Dagster. What they print is in ``look_back_shown``. What a row
means is :mod:`resources.recorder.reading`'s; what a packed day contains is :mod:`quantum_ops.recordings.day_export`'s.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import as_listed, load_settings
from quantum_ops.cli.files import unwritten, write_whole
from quantum_ops.cli.history.look_back_shown import (
    between_text,
    emit,
    gap_table,
    gap_text,
    plain,
    print_state,
    range_text,
    time_text,
)

if TYPE_CHECKING:
    import polars as pl

    from quantum_assets.shared.charts import Past
    from resources.recorder.archive import Archive
    from resources.recorder.reading import Reader

SHOWN = (  # of one symbol, where nobody says what
    "position.side",
    "position.current_price",
    "risk_proposal.proposed_sl",
    "risk_proposal.proposed_tp",
    "harvest_proposal.harvest_action",
    "harvest_proposal.R_net",
)
GLANCE = {  # of one table whose entries have dozens of fields
    "decisions": ("at", "plan_id", "action", "event", "reason"),
    "plans": ("at", "plan_id", "action", "side", "qty", "decision"),
    "alerts": ("at", "event", "severity", "kind", "title"),
}
STAMPS = ("at", "cause")  # in front of the columns of one asset
PLOTTED = {  # level of the picture to the column it is
    "target": ("risk_proposal", "proposed_tp"),
    "peak": ("position", "peak_price"),
    "entry": ("position", "entry_price"),
    "stop": ("risk_proposal", "proposed_sl"),
}
REGIME_COLUMNS = {"trend": ("market_state", "p_trend"), "mr": ("market_state", "p_mr"), "chop": ("market_state", "p_chop")}
OF_SYMBOLS_BACK_DAYS = 7  # of the archive, searched for the symbols there are
UNITS_SEC = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
RELATIVE = re.compile(r"(\d+)([smhd])")
NAMED_MAX = 5  # damaged files
REPLAY = "replay"  # source of candles whose times are those of their reading, not of a market
NOT_WRITTEN_YET = timedelta(seconds=1200)  # twice the longest RECORDER_FLUSH_SEC
MOVE_OUT = "Move what is damaged or does not belong there out of the archive, put back what is missing, and ask again."
FORMATS = ("table", "csv", "json", "parquet")
FIRST_YEAR, LAST_YEAR = 1970, 9000  # of a time that can be asked for: a day before or after either is one, too
DAY_TEXT = "YYYY-MM-DD"
HOW_TO_RECORD = "`quantum up` records while it runs, or start `quantum recorder`; QUANTUM_HOME names the deployment's folder."


class Time(click.ParamType[datetime]):
    """A time as ISO 8601, in UTC unless it says otherwise, or so long before now (30m, 2h, 7d), or now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read one."""
        if isinstance(value, datetime):
            return value
        try:
            return moment_of(value, datetime.now(UTC))
        except ValueError:
            self.fail(
                f"{value!r} is no time: give 2026-01-22, 2026-01-22T14:05, 2026-01-22T14:05:30+02:00, 30m, 2h or now; "
                f"years are {FIRST_YEAR} to {LAST_YEAR}",
                param,
                ctx,
            )


class Day(click.DateTime):
    """A day, which the usage and the errors name as it is written."""

    name = "day"

    def __init__(self) -> None:
        super().__init__(["%Y-%m-%d"])

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002 - click's API
        """Name it in the usage."""
        return DAY_TEXT

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read one."""
        try:
            day: datetime = super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is no day: give {DAY_TEXT}, as 2026-01-22", param, ctx)
        return day


@click.command()
@click.argument("symbol")
@click.option("--asset", help="Only the rows of this table, each as it was published; default: several side by side.")
@click.option("--from", "start", type=Time(), default="1h", show_default=True, help="First time.")
@click.option("--to", "end", type=Time(), default="now", show_default=True, help="Last time.")
@click.option("--columns", help="Comma-separated; without --asset as asset.column.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: as --out ends, else table.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of stdout.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw a PNG: prices, stop, regimes, decisions."
)
def history(
    symbol: str,
    asset: str | None,
    start: datetime,
    end: datetime,
    columns: str | None,
    form: str | None,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Show what SYMBOL had over time, from the archive. A value stands until the next row.

    Times are ISO 8601, in UTC unless they say otherwise (2026-01-22, 2026-01-22T14:05, 2026-01-22T14:05:30+02:00), or so long
    before now: 30m, 2h, 7d. The table leaves out rows in which nothing shown has changed; files have all of them. Where it does
    not fit, a row shows what differs from the one before. --asset parameters shows those in force for SYMBOL, and their
    changes; versions and settings are those of the deployment.

    \b
    quantum history BTCUSDT
    quantum history BTCUSDT --from 2026-01-22T14:00 --to 10m --plot btc.png
    quantum history BTCUSDT --columns market_state.sigma,position.side
    quantum history BTCUSDT --asset harvest_proposal --from 1d --out btc.csv

    Exit codes: 0 shown; 1 nothing is recorded of that time, or there is no archive, or files of it are damaged or missing (each
    is named, and what could be read is shown), or there is no room for --out or --plot; 2 wrong usage, unknown symbol or column,
    a file that cannot be there, or wrong settings.
    """
    from resources.recorder.archive import GAPS
    from resources.recorder.reading import STANDING

    form = _form(form, out)
    if plot is not None and plot.suffix.lower() not in ("", ".png"):
        message = f"--plot {plot}: the picture is a PNG, name it {plot.with_suffix('.png').name}"
        raise click.UsageError(message)
    if start > end:
        message = f"--from {time_text(start)} is after --to {time_text(end)}"
        raise click.UsageError(message)
    with _reader() as reader:
        symbol = _known(reader, as_listed(symbol), start, end)
        frame = (
            _rows_of(reader, asset, symbol, start, end, columns) if asset else _side_by_side(reader, symbol, start, end, columns)
        )
        if plot is not None:
            from quantum_assets.shared.charts import as_png, past_figure

            write_whole(plot, as_png(past_figure(past_of(reader, symbol, start, end))), "--plot")
            click.echo(f"Picture: {plot}", err=True)
        if frame.is_empty() and asset == GAPS:
            click.echo(f"No record is known to be lost {range_text(start, end)}.", err=True)
            _say_what_is_missing(reader, start, end)
            return
        if frame.is_empty():
            hint = f"`quantum at {start:%Y-%m-%dT%H:%M:%S}` shows what stood then. " if _is_covered(reader, start) else ""
            click.echo(f"Nothing is recorded of {asset or symbol} {range_text(start, end)}. {hint}{_covers(reader)}", err=True)
            sys.exit(EXIT_FAILED)
        if form == "table" and not columns:
            frame = _readable(asset, frame)
        successive = asset is None or asset in STANDING
        emit(frame, form, out, title=f"{symbol} {range_text(start, end)}", successive=successive)
        _say_what_is_missing(reader, start, end)


@click.command()
@click.argument("moment", metavar="TIME", type=Time())
@click.option("--symbols", help="Comma-separated; default: all that had a row that day or the day before.")
@click.option("--json", "as_json", is_flag=True, help="Print every field as JSON on stdout.")
def at(moment: datetime, symbols: str | None, *, as_json: bool) -> None:
    """Show the whole state as it was at TIME, from the archive: switches, guards, every asset, plans that waited.

    TIME is ISO 8601, in UTC unless it says otherwise, or so long before now: 30m, 2h, 7d. Beside each row stands when its inputs
    were taken. An asset that had no result is named with the reason; what it published before did not stand any more, nor did
    what had outlived its lifetime. Where nothing at all was recorded, that stands first.

    \b
    quantum at 2026-01-22T14:05
    quantum at 2026-01-22T14:05:30+02:00 --symbols BTCUSDT,ETHUSDT
    quantum at 15m --json

    Exit codes: 0 shown; 1 nothing is recorded of that time, or there is no archive, or files of it are damaged or missing (each
    is named, and what could be read is shown); 2 wrong usage, unknown symbol, or wrong settings.
    """
    with _reader() as reader:
        wanted = [_known(reader, as_listed(one.strip()), moment, moment) for one in symbols.split(",")] if symbols else []
        state = reader.at(moment, wanted)
        covered = reader.covered()
        if covered is None or moment < covered[0] or not (any(state.rows.values()) or any(state.without.values())):
            click.echo(f"Nothing is recorded of {time_text(moment)}. {_covers(reader)}", err=True)
            sys.exit(EXIT_FAILED)
        if as_json:
            click.echo(json.dumps(asdict(state), indent=2, default=plain))
        else:
            print_state(state)
        _say_how_far(state.archive_until, moment)


@click.command()
@click.argument("day", metavar="DAY", type=Day())
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: quantum-<day>.tar in the current folder.")
def export(day: datetime, out: Path | None) -> None:
    """Pack one recorded DAY (YYYY-MM-DD, UTC) into one file: data, manifest, versions, and a README that says how to verify it.

    \b
    quantum export 2026-01-22
    quantum export 2026-01-22 --out incident.tar

    Exit codes: 0 packed; 1 nothing is recorded of that day, or its files are not as they were written (packed all the same, and
    named), or there is no room for the tar; 2 wrong usage or settings, or a file that cannot be there.
    """
    from quantum_ops.recordings.day_export import faults_of, pack

    with _reader() as reader:
        wanted, target = day.date(), out or Path(f"quantum-{day:%Y-%m-%d}.tar")
        if wanted not in reader.archive.days():
            click.echo(f"Nothing is recorded of {wanted}. {_covers(reader)}", err=True)
            sys.exit(EXIT_FAILED)
        try:
            pack(reader.archive, wanted, target)
        except OSError as error:
            raise unwritten(target, error, "--out") from error
        click.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB", err=True)
        if not reader.archive.is_compacted(wanted):
            click.echo(f"{wanted} is not compacted yet: its files carry hashes of this moment and are in no chain.", err=True)
        if faults := faults_of(reader.archive, wanted):
            for fault in faults:
                click.echo(f"{fault.file} {fault.what}", err=True)
            click.echo(MOVE_OUT, err=True)
            sys.exit(EXIT_FAILED)


def moment_of(text: str, now: datetime) -> datetime:
    """Read a time as people write it.

    Parameters
    ----------
    text
        ISO 8601, in UTC unless it says otherwise; or ``30m``, ``2h``, ``7d`` before now; or ``now``; of FIRST_YEAR to LAST_YEAR.
    now
        Aware UTC.

    Raises
    ------
    ValueError
        It is none of these.
    """
    if text == "now":
        return now
    if (back := RELATIVE.fullmatch(text)) is not None:
        try:
            moment = now - timedelta(seconds=int(back[1]) * UNITS_SEC[back[2]])
        except OverflowError as error:
            raise ValueError(text) from error
    else:
        moment = datetime.fromisoformat(text)
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def past_of(reader: Reader, symbol: str, start: datetime, end: datetime) -> Past:
    """Collect what the picture of a symbol shows."""
    import numpy as np

    from quantum_assets.shared.charts import Past

    def stamp(moment: datetime) -> Any:
        return np.datetime64(int(moment.timestamp() * 1000), "ms")

    silences = reader.silences(start, end)
    standing = _broken(reader.standing([*PLOTTED.values(), *REGIME_COLUMNS.values()], symbol, start, end), silences, end)
    prices, as_read = _prices(reader, symbol, start, end)
    prices = _broken(prices, silences, end) if as_read else prices
    times = standing["at"].dt.replace_time_zone(None).to_numpy().astype("datetime64[ms]")
    series = {name: standing[".".join(of)].cast(float).fill_null(float("nan")).to_numpy() for name, of in PLOTTED.items()}
    shares = np.array([standing[".".join(of)].cast(float).fill_null(-1.0).to_numpy() for of in REGIME_COLUMNS.values()])
    regimes = [[*REGIME_COLUMNS][column.argmax()] if column.max() >= 0 else "" for column in shares.T]
    actions = reader.standing([("harvest_proposal", "harvest_action")], symbol, start, end).drop_nulls()
    changed = actions.filter(
        actions["harvest_proposal.harvest_action"].ne_missing(actions["harvest_proposal.harvest_action"].shift())
    )
    marks = {"harvest": ([row[0] for row in changed.rows()], [row[1] for row in changed.rows()])}
    rows = reader.between("decisions", start, end, [symbol]).collect()
    for lane, event in (("permit", "PERMIT"), ("block", "BLOCK")):
        chosen = [row for row in rows.iter_rows(named=True) if row.get("event") == event]
        marks[lane] = ([row["at"] for row in chosen], [row.get("reason") or row.get("action") or "" for row in chosen])
    return Past(
        symbol=symbol,
        start=stamp(start),
        end=stamp(end),
        times=prices["at"].dt.replace_time_zone(None).to_numpy().astype("datetime64[ms]"),
        closes=prices["close"].fill_null(float("nan")).to_numpy(),
        as_read=as_read,
        levels={name: (times, values) for name, values in series.items() if len(times)},
        regimes=(times, regimes),
        gaps=[(stamp(first), stamp(last)) for first, last in [*reader.gap_spans(start, end), *silences]],
        marks={lane: (np.array([stamp(one) for one in at], "datetime64[ms]"), texts) for lane, (at, texts) in marks.items()},
    )


def _prices(reader: Reader, symbol: str, start: datetime, end: datetime) -> tuple[pl.DataFrame, bool]:
    """Give the prices of the picture (``at``, ``close``), and whether they are drawn by the time of their reading.

    The times of replayed candles are made up at every reading: by them, a stop looks crossed before it was.
    """
    import polars as pl

    from resources.recorder.reading import TIME

    read = reader.prices_read(symbol, start, end)
    if read.width and (read["source"] == REPLAY).any():
        return read.select(pl.max_horizontal("at", pl.lit(start, TIME)).alias("at"), "close"), True
    lasts = reader.rules(end).candle
    candles = reader.candles(symbol, start - lasts, end - lasts)
    if not candles.width:
        return pl.DataFrame(schema={"at": TIME, "close": pl.Float64}), False
    closed = pl.from_epoch("open_time_ms", "ms").dt.replace_time_zone("UTC").cast(TIME) + lasts
    return candles.select(closed.alias("at"), "close"), False


def _broken(frame: pl.DataFrame, silences: Sequence[tuple[datetime, datetime]], end: datetime) -> pl.DataFrame:
    """Take the values away while nothing was recorded, and give back after it what stood until then."""
    import polars as pl

    if not len(frame):
        return frame
    ends = [one for after, until in silences for one in (after + timedelta(milliseconds=1), until)]
    extra = pl.DataFrame({"at": ends}, schema={"at": frame.schema["at"]}).filter(
        pl.col("at") >= frame["at"].min(), pl.col("at") < end
    )
    grid = (
        pl.concat([frame.select("at"), extra]).unique().sort("at").join_asof(frame.unique("at", keep="last").sort("at"), on="at")
    )
    for after, until in silences:
        silent = (pl.col("at") > after) & (pl.col("at") < until)
        grid = grid.with_columns(pl.when(~silent).then(pl.exclude("at")))
    return grid


@contextmanager
def _reader() -> Iterator[Reader]:
    """Open the archive; say what to do where there is none, and name what cannot be read of it."""
    from polars.exceptions import PolarsError

    from resources.recorder.archive import DamagedError
    from resources.recorder.reading import Reader, archive_of

    archive = archive_of(load_settings())
    if not archive.days():
        message = f"There is no archive in {archive.root}. {HOW_TO_RECORD}"
        raise click.ClickException(message)
    reader = Reader(archive)
    try:
        yield reader
    except PolarsError as error:
        raise click.ClickException(unreadable_files(archive, error)) from error
    except DamagedError as error:
        raise click.ClickException(str(error)) from error
    finally:
        damaged = _name_damaged(reader)  # also where nothing is left to show
    if damaged:
        sys.exit(EXIT_FAILED)


def _name_damaged(reader: Reader) -> bool:
    """Name the files that an answer lacks, and what to do; give whether there are any."""
    lines = [f"Left out: {fault.file} {fault.what}" for fault in reader.unreadable]
    lines += [f"Not as it was written: {fault.file} {fault.what}" for fault in reader.incomplete()]
    for line in lines:
        click.echo(line, err=True)
    if lines:
        click.echo(MOVE_OUT, err=True)
    return bool(lines)


def unreadable_files(archive: Archive, error: Exception) -> str:
    """Name the files that a query has failed on, and what to do with them."""
    found = [f"{fault.file} {fault.what}" for fault in (*archive.damaged(archive.days()), *archive.incomplete())]
    found = found or [str(error).splitlines()[0]]
    named = "; ".join(found[:NAMED_MAX])
    more = f"; and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    return f"{archive.root}: {named}{more}. {MOVE_OUT}"


def _known(reader: Reader, symbol: str, start: datetime, end: datetime) -> str:
    """Give a symbol as it is, if the archive has it."""
    from quantum_core.contracts.legs import underlying

    days = set(reader.archive.days()[-OF_SYMBOLS_BACK_DAYS:])
    days |= {day for day in reader.archive.days() if start.date() - timedelta(days=1) <= day <= end.date() + timedelta(days=1)}
    names = reader.symbols(days)
    if symbol not in names and underlying(symbol) not in names:
        message = f"nothing is recorded of {symbol!r}: there are {', '.join(names) or 'no symbols'}"
        raise click.UsageError(message)
    return symbol


def _side_by_side(reader: Reader, symbol: str, start: datetime, end: datetime, columns: str | None) -> pl.DataFrame:
    """Give columns of several assets at every time one of them was published."""
    from resources.recorder.reading import ASSETS

    pairs = []
    for name in _listed(columns) or SHOWN:
        asset, dot, column = name.rpartition(".")
        known = [one for one in ([asset] if dot else ASSETS) if one in ASSETS and column in _columns_of(reader, one, start, end)]
        if not known:
            message = f"no column {name!r}: give asset.column, assets are {', '.join(ASSETS)}"
            raise click.UsageError(message)
        pairs.append((known[0], column))
    return reader.standing(pairs, symbol, start, end)


def _rows_of(reader: Reader, asset: str, symbol: str, start: datetime, end: datetime, columns: str | None) -> pl.DataFrame:
    """Give the rows of one table as they were published."""
    import polars as pl

    from resources.recorder.archive import GAPS
    from resources.recorder.reading import COMPUTED_WITH, INTENTS, PARAMETERS, TABLES

    known = sorted({*TABLES, *reader.archive.tables()})
    if asset not in known:
        message = f"no table {asset!r}: there are {', '.join(known)}"
        raise click.UsageError(message)
    if asset == PARAMETERS:
        frame = reader.parameters(symbol, start, end)
    elif asset in COMPUTED_WITH:
        frame = reader.computed_with(asset, start, end)
    elif asset == INTENTS:
        frame = reader.intents(start, end, [symbol])
    elif asset == GAPS:
        frame = pl.DataFrame(reader.gaps(start, end), infer_schema_length=None)
    else:
        frame = reader.between(asset, start, end, [symbol]).collect()
    if not frame.width:
        return frame
    wanted = _listed(columns)
    if unknown := [name for name in wanted if name not in frame.columns]:
        message = f"{asset} has no column {', '.join(unknown)}: there are {', '.join(frame.columns)}"
        raise click.UsageError(message)
    stamps = [name for name in STAMPS if name in frame.columns and name not in wanted]
    return frame.select(*stamps, *(wanted or [name for name in frame.columns if name not in stamps]))


def _readable(asset: str | None, frame: pl.DataFrame) -> pl.DataFrame:
    """Give the rows of one table as people read them."""
    from resources.recorder.archive import GAPS
    from resources.recorder.lifetimes import without_repeats
    from resources.recorder.reading import PARAMETERS, WITHOUT_RESULT

    if asset == PARAMETERS:
        return _one_by_one(frame)
    if asset == WITHOUT_RESULT:
        return without_repeats(frame)
    return gap_table(frame) if asset == GAPS else _glance(asset, frame)


def _say_what_is_missing(reader: Reader, start: datetime, end: datetime) -> None:
    """Say when nothing was recorded within a time, what was lost of it, and how far the archive reaches."""
    reaches = reader.reaches()
    for after, until in reader.silences(start, min(end, reaches or end)):
        click.echo(f"Nothing was recorded {between_text(after, until)}.", err=True)
    for gap in reader.gaps(start, end):
        click.echo(f"Not recorded: {gap_text(gap)}", err=True)
    _say_how_far(reaches, end)


def _say_how_far(reaches: datetime | None, end: datetime) -> None:
    """Say where the archive ends when more was asked for."""
    if reaches is None or end <= reaches:
        return
    is_open = datetime.now(UTC) - reaches <= NOT_WRITTEN_YET
    later = "later records are not written yet" if is_open else "nothing later is recorded"
    click.echo(f"The archive reaches until {time_text(reaches)}; {later}.", err=True)


def _glance(asset: str | None, frame: pl.DataFrame) -> pl.DataFrame:
    """Choose the columns of a wide table that name what happened; say that there are more."""
    chosen = [name for name in GLANCE.get(asset or "", ()) if name in frame.columns]
    if not chosen:
        return frame
    click.echo(f"{len(frame.columns) - len(chosen)} more columns: --columns, or --format json.", err=True)
    return frame.select(chosen)


def _one_by_one(frame: pl.DataFrame) -> pl.DataFrame:
    """Give parameters one per row, and again when they have changed: a table of all of them side by side is not read."""
    import polars as pl

    from quantum_ops.cli.desk.profile import value_text

    before, rows = dict[str, Any](), []
    for row in frame.drop("fingerprint").iter_rows(named=True):
        head = {"at": row.pop("at"), "profile_name": row.pop("profile_name")}
        changed = {name: value for name, value in row.items() if before.get(name) != value}
        rows += [{"parameter": name, "value": value_text(value), **head} for name, value in changed.items()]
        before = row
    return pl.DataFrame(rows)


def _columns_of(reader: Reader, asset: str, start: datetime, end: datetime) -> set[str]:
    """Name the columns of an asset: those of its contract, and those that were recorded beside them."""
    from quantum_core.contracts.tables import PUBLISHED_TABLES

    return {*PUBLISHED_TABLES[asset].by_name, *reader.columns(asset, start, end)}


def _listed(columns: str | None) -> list[str]:
    return [one.strip() for one in (columns or "").split(",") if one.strip()]


def _form(form: str | None, out: Path | None) -> str:
    """Decide the format, which the name of the file may say."""
    ending = out.suffix.removeprefix(".") if out is not None else ""
    form = form or (ending if ending in FORMATS else "table")
    if form == "parquet" and out is None and sys.stdout.isatty():
        message = "--format parquet needs --out or a redirect: it is no text"
        raise click.UsageError(message)
    return form


def _covers(reader: Reader) -> str:
    covered = reader.covered()
    if covered is None:
        return f"The archive has no row of any asset. {HOW_TO_RECORD}"
    return f"The archive covers {range_text(*covered).removeprefix('from ')}; give a time within."


def _is_covered(reader: Reader, moment: datetime) -> bool:
    covered = reader.covered()
    return covered is not None and covered[0] <= moment <= covered[1]
