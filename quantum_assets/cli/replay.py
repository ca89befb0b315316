"""``quantum replay``: recorded candles from files into Redis, labelled as what they are.

Here belongs the command: which files, how fast, what is said of them. File layouts stay in the reader, the write itself in the
example feed.
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import polars as pl
from rich.console import Console
from rich.progress import Progress

from quantum_assets.cli import EXIT_FAILED, EXIT_USAGE
from resources.candles import CandleReader
from resources.example_feed import HISTORY_CANDLES_MAX, replace_candles, shift_to
from resources.ohlcv_files import MalformedRow, OhlcvFileError, read_ohlcv
from resources.redis_store import RedisStore
from resources.settings import load_settings

REPLAY_TTL_SEC = 7 * 86400
MALFORMED_NAMED = 5  # malformed rows named per file; the count is always exact
_SYMBOL = re.compile(r"[\w-]{2,40}")
_FILE_NAME = re.compile(
    r"(?P<symbol>[A-Za-z0-9]{3,36}(USDT|USDC|BUSD|USD|BTC|ETH|EUR|PERP))([-_]\d+[smhdw]([-_].*)?)?", re.IGNORECASE
)


@dataclass(frozen=True)
class _Recording:
    path: Path
    symbol: str
    frame: pl.DataFrame
    malformed: list[MalformedRow]
    duplicates: int


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--symbol", help="Symbol of the file; default: from its name, BTCUSDT_1m.csv is BTCUSDT.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="After a first window, so many times faster than real time; 0: all at once.",
)
@click.option("--keep-time", is_flag=True, help="Keep the recorded times instead of letting the last candle end now.")
@click.option("--overwrite", is_flag=True, help="Replace candles that are not a replay's, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
def replay(files: tuple[Path, ...], symbol: str | None, speed: float, *, keep_time: bool, overwrite: bool, as_json: bool) -> None:
    """Write recorded candles (CSV or Parquet) to Redis, labelled "replay".

    \b
    quantum replay BTCUSDT_1m.csv ETHUSDT_1m.csv
    quantum replay history.parquet --symbol SOLUSDT --speed 60
    quantum replay BTCUSDT_1m.csv --keep-time --json

    Everything computed from them carries the label, and earns no permit without ALLOW_SYNTHETIC=true. The newest 1500 candles are
    kept, for 7 days.

    Exit codes: 0 ok; 1 a file has no valid row, or candles under another key are read instead; 2 wrong usage, unreadable file, or
    candles of another writer in the way; 3 Redis away.
    """
    if symbol is not None and len(files) > 1:
        message = f"--symbol names one symbol, but {len(files)} files are given"
        raise click.UsageError(message)
    recordings = [_read(path, symbol) for path in files]
    named = [one.symbol for one in recordings]
    if len(set(named)) < len(named):
        message = f"two files are of one symbol: {', '.join(named)}"
        raise click.UsageError(message)
    _report(recordings)
    if empty := [str(one.path) for one in recordings if not one.frame.height]:
        message = f"No valid row in {', '.join(empty)}; nothing was written."
        click.echo(message, err=True)
        sys.exit(EXIT_FAILED)
    store = RedisStore(load_settings())
    _refuse_other_spacing(recordings, store.settings.candle_interval_sec)
    if speed:
        _play(store, recordings, speed, keep_time=keep_time, overwrite=overwrite)
    else:
        _write(store, {one.symbol: one.frame for one in recordings}, keep_time=keep_time, overwrite=overwrite)
    _refuse_shadowed(store, named)
    outcome = [_summary(store, one) for one in recordings]
    if as_json:
        click.echo(json.dumps({"files": outcome, "speed": speed, "shifted_to_now": not keep_time}, indent=2))
    else:
        for one in outcome:
            click.echo(f"{one['symbol']}: {one['written']} candles -> {one['key']}", err=True)


def _read(path: Path, symbol: str | None) -> _Recording:
    name = symbol.upper() if symbol is not None else _symbol_in(path.stem)
    if name is None or not _SYMBOL.fullmatch(name):
        message = f"no symbol like BTCUSDT in the name of {path}: give --symbol"
        raise click.UsageError(message)
    try:
        found = read_ohlcv(path)
    except OhlcvFileError as error:
        raise click.UsageError(str(error)) from error
    return _Recording(path, name, found.frame, found.malformed, found.duplicates)


def _symbol_in(stem: str) -> str | None:
    """Read the symbol out of a file name: BTCUSDT, BTCUSDT_1m, BTCUSDT-1m-2025-08."""
    found = _FILE_NAME.fullmatch(stem)
    return found["symbol"].upper() if found is not None else None


def _refuse_other_spacing(recordings: list[_Recording], interval_sec: int) -> None:
    for one in recordings:
        spacing_ms = one.frame["open_time_ms"].diff().median()
        if isinstance(spacing_ms, float) and spacing_ms != interval_sec * 1000:
            message = f"{one.path}: rows are {spacing_ms / 1000:g} s apart, CANDLE_INTERVAL_SEC is {interval_sec}"
            raise click.UsageError(message)


def _refuse_shadowed(store: RedisStore, symbols: list[str]) -> None:
    """Say so when candles under another key win, and nothing would read what was just written."""
    won = [
        f"{one.symbol} from {one.value.key}"
        for one in CandleReader(store).read(symbols, window=1)
        if one.value is not None and one.value.key != store.keys.of("candles_history", one.symbol)
    ]
    if won:
        click.echo(f"Written, but other candles come first and are read instead: {', '.join(won)}. Delete those keys.", err=True)
        sys.exit(EXIT_FAILED)


def _report(recordings: list[_Recording]) -> None:
    for one in recordings:
        for row in one.malformed[:MALFORMED_NAMED]:
            click.echo(f"{one.path} line {row.line} left out: {row.reason}", err=True)
        if (unnamed := len(one.malformed) - MALFORMED_NAMED) > 0:
            click.echo(f"{one.path}: {unnamed} more malformed rows; --json names all", err=True)
        if one.malformed or one.duplicates:
            click.echo(f"{one.path}: left out: malformed rows {len(one.malformed)}, duplicates {one.duplicates}", err=True)


def _write(store: RedisStore, frames: dict[str, pl.DataFrame], *, keep_time: bool, overwrite: bool) -> None:
    now, interval_sec = store.clock(), store.settings.candle_interval_sec
    commands = [
        replace_candles(
            store,
            symbol,
            frame,
            shift_ms=0 if keep_time else shift_to(now, frame, interval_sec),
            ttl_sec=REPLAY_TTL_SEC,
            overwrite=overwrite,
        )
        for symbol, frame in frames.items()
    ]
    refused = [str(reply) for reply in store.run("writing candles", commands) if isinstance(reply, Exception)]
    if refused:
        text = "; ".join(reply.removeprefix("FOREIGN ") for reply in refused)
        click.echo(f"{text}. Left alone; --overwrite replaces candles of another writer.", err=True)
        sys.exit(EXIT_USAGE)


def _play(store: RedisStore, recordings: list[_Recording], speed: float, *, keep_time: bool, overwrite: bool) -> None:
    """Write a window at once, then one candle after the other; each time all of them, so that the newest candle is always now."""
    pause_sec = store.settings.candle_interval_sec / speed
    steps = max(one.frame.height for one in recordings)
    first = min(store.settings.marketstate_window_size, steps)  # with fewer there is no market state
    due = time.monotonic()
    with Progress(console=Console(stderr=True)) as progress:
        for shown in progress.track(range(first, steps + 1), description="replay"):
            frames = {one.symbol: one.frame.head(shown) for one in recordings}
            # Only the first write may find candles of another writer; after it they are ours.
            _write(store, frames, keep_time=keep_time, overwrite=overwrite and shown == first)
            due += pause_sec
            time.sleep(max(0.0, due - time.monotonic()) if shown < steps else 0.0)


def _summary(store: RedisStore, one: _Recording) -> dict[str, Any]:
    return {
        "file": str(one.path),
        "symbol": one.symbol,
        "key": store.keys.of("candles_history", one.symbol),
        "rows": one.frame.height,
        "written": min(one.frame.height, HISTORY_CANDLES_MAX),
        "malformed": [{"line": row.line, "reason": row.reason} for row in one.malformed],
        "duplicates": one.duplicates,
    }
