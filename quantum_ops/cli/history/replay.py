"""``quantum replay``: recorded candles from files into Redis, labelled as what they are.

Here belongs the command: which files, how fast, what is said of them. File layouts stay in the reader, the write itself in the
example feed.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import click
import polars as pl
from rich.console import Console
from rich.progress import Progress

from quantum_core.exit_codes import EXIT_FAILED, EXIT_USAGE
from quantum_core.settings import as_listed, load_settings
from quantum_ops.cli.history.recordings import Recording, choose, malformed_rows, read, refuse, report
from quantum_ops.recordings.example_feed import HISTORY_CANDLES_MAX, replace_candles, shift_to
from resources.inputs.candles import CandleReader
from resources.store.redis_store import RedisStore

REPLAY_TTL_SEC = 7 * 86400
_SYMBOL = re.compile(r"[\w-]{2,40}")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--symbol", help="Symbol of the files; default: from their names, BTCUSDT_1m.csv is BTCUSDT.")
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
    """Write recorded candles of files and folders to Redis, labelled "replay".

    \b
    quantum replay BTCUSDT_1m.csv ETHUSDT_1m.csv
    quantum replay BTCUSDT-1m-2025-*.zip
    quantum replay user_data/data/binance/futures
    quantum replay history.parquet --symbol SOLUSDT --speed 60
    quantum replay BTCUSDT_1m.csv --keep-time --json

    Files are CSV (, ; | or tab; with or without a header), JSON, Parquet or Feather; CSV and JSON also as .gz or .zip.
    Several files of one symbol are one history. Of a folder, the files with a symbol in their name and no other interval than
    CANDLE_INTERVAL_SEC are used.

    Everything computed from them carries the label, and earns no permit without ALLOW_SYNTHETIC=true. The newest 1500 candles are
    kept, for 7 days.

    Exit codes: 0 ok; 1 a file has no valid row or more than 1 % malformed ones, or candles under another key are read instead;
    2 wrong usage, unreadable file, or candles of another writer in the way; 3 Redis away.
    """
    if symbol is not None and not _SYMBOL.fullmatch(symbol := as_listed(symbol)):
        message = f"--symbol {symbol[:40]!r}: a symbol is 2 to 40 letters, digits, _ or -"
        raise click.UsageError(message)
    settings = load_settings()
    chosen = choose(files, symbol=symbol, known=settings.symbols, interval_sec=settings.candle_interval_sec)
    recordings = [read(name, paths) for name, paths in chosen.items()]
    for recording in recordings:
        report(recording, interval_sec=settings.candle_interval_sec)
    refuse(recordings, "nothing was written.", EXIT_FAILED)
    named = list(chosen)
    store = RedisStore(settings)
    _refuse_other_spacing(recordings, store.settings.candle_interval_sec)
    if speed:
        _play(store, recordings, speed, keep_time=keep_time, overwrite=overwrite)
    else:
        _write(store, {one.symbol: one.candles.frame for one in recordings}, keep_time=keep_time, overwrite=overwrite)
    _refuse_shadowed(store, named)
    outcome = [_summary(store, one) for one in recordings]
    if as_json:
        click.echo(json.dumps({"files": outcome, "speed": speed, "shifted_to_now": not keep_time}, indent=2))
    else:
        for one in outcome:
            click.echo(f"{one['symbol']}: {one['written']} candles -> {one['key']}", err=True)


def _refuse_other_spacing(recordings: list[Recording], interval_sec: int) -> None:
    for file in (file for one in recordings for file in one.candles.files):
        if file.spacing_sec not in (None, interval_sec):
            message = f"{file.path}: rows are {file.spacing_sec:g} s apart, CANDLE_INTERVAL_SEC is {interval_sec}"
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


def _play(store: RedisStore, recordings: list[Recording], speed: float, *, keep_time: bool, overwrite: bool) -> None:
    """Write a window at once, then one candle after the other; each time all of them, so that the newest candle is always now."""
    pause_sec = store.settings.candle_interval_sec / speed
    steps = max(one.candles.frame.height for one in recordings)
    first = min(store.settings.marketstate_window_size, steps)  # with fewer there is no market state
    due = time.monotonic()
    with Progress(console=Console(stderr=True)) as progress:
        for shown in progress.track(range(first, steps + 1), description="replay"):
            frames = {one.symbol: one.candles.frame.head(shown) for one in recordings}
            # Only the first write may find candles of another writer; after it they are ours.
            _write(store, frames, keep_time=keep_time, overwrite=overwrite and shown == first)
            due += pause_sec
            time.sleep(max(0.0, due - time.monotonic()) if shown < steps else 0.0)


def _summary(store: RedisStore, recording: Recording) -> dict[str, Any]:
    return {
        "file": str(recording.paths[0]),
        "files": [str(path) for path in recording.paths],
        "symbol": recording.symbol,
        "key": store.keys.of("candles_history", recording.symbol),
        "rows": recording.candles.frame.height,
        "written": min(recording.candles.frame.height, HISTORY_CANDLES_MAX),
        "malformed": malformed_rows(recording),
        "malformed_count": recording.candles.malformed_count,
        "duplicates": recording.candles.duplicates,
    }
