"""Files of recorded candles on the command line: which ones, of which symbol, and what is said about them.

Here belongs what `replay` and `regime` share. The layouts stay in the reader; what happens to the candles, in the commands.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from quantum_ops.recordings.file_names import NamedFile, files_in, named_file
from quantum_ops.recordings.file_rows import OhlcvFile, OhlcvFileError
from quantum_ops.recordings.ohlcv_files import read_ohlcv

NAMED_MAX = 3  # rows, files and holes named on the terminal; the counts are exact
LEFT_OUT_NAMED_MAX = 10  # files of a folder that cannot be used
HOLE_INTERVALS = 5  # a longer gap between candles is named
PROGRESS_FROM_BYTES = 20_000_000  # less is read before a bar would be seen


@dataclass(frozen=True)
class Recording:
    """The files of one symbol, and what they hold."""

    symbol: str
    paths: list[Path]
    candles: OhlcvFile

    @property
    def paths_shown(self) -> str:
        """The files in a message."""
        return some(map(str, self.paths))


def choose(
    given: Sequence[Path], *, symbol: str | None, known: Iterable[str] = (), interval_sec: int | None = None
) -> dict[str, list[Path]]:
    """Find the files of each symbol; folders give those whose names have a symbol, and the interval wanted or none.

    Parameters
    ----------
    given
        Files, of which each must be used, and folders.
    symbol
        Of all files; of a folder only those with it in their name are used.
    known
        Symbols of the settings, for their spelling.
    interval_sec
        Of the candles wanted; ``None``: any.

    Raises
    ------
    click.UsageError
        A file has no symbol in its name, is there twice, or a folder has nothing to use.
    """
    chosen: dict[str, list[Path]] = {}
    if symbol == "":
        message = "--symbol is empty: give one like BTCUSDT"
        raise click.UsageError(message)
    for path in given:
        try:
            is_folder = path.is_dir()
        except OSError as error:
            message = f"{path} cannot be read ({error.strerror})"
            raise click.UsageError(message) from error
        if not is_folder:
            name = symbol or named_file(path, known).symbol
            if name is None:
                message = f"no symbol like BTCUSDT in the name of {path}: give --symbol"
                raise click.UsageError(message)
            chosen.setdefault(name, []).append(path)
            continue
        for named in _choose_in(path, symbol=symbol, known=known, interval_sec=interval_sec):
            chosen.setdefault(str(named.symbol), []).append(named.path)
    for name, paths in chosen.items():
        if len(set(map(os.path.realpath, paths))) < len(paths):
            message = f"a file of {name} is given twice: {some(map(str, paths))}"
            raise click.UsageError(message)
    return chosen


def _choose_in(folder: Path, *, symbol: str | None, known: Iterable[str], interval_sec: int | None) -> list[NamedFile]:
    try:
        inside = [named_file(path, known) for path in files_in(folder)]
    except OhlcvFileError as error:
        raise click.UsageError(str(error)) from error
    used, left_out = [], []
    for file in inside:
        if file.symbol is None or symbol not in (None, file.symbol):
            left_out.append(f"{file.path.name} ({file.symbol or 'no symbol in its name'})")
        elif interval_sec is not None and file.interval_sec not in (None, interval_sec):
            left_out.append(f"{file.path.name} (candles of {file.interval_sec} s)")
        else:
            used.append(file)
    if left_out:
        click.echo(f"{folder}: files left out: {some(left_out)}", err=True)
    if not used:
        message = f"{folder} has no file of {symbol or 'a symbol'} with such candles: name it like BTCUSDT-1m-2025-01.csv"
        raise click.UsageError(message)
    return used


def read(symbol: str, paths: list[Path]) -> Recording:
    """Read the files of one symbol, with a bar on a terminal where it takes a while.

    Raises
    ------
    click.UsageError
        One cannot be read.
    """
    console = Console(stderr=True)
    size = sum(path.stat().st_size for path in paths if path.exists())
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal or size < PROGRESS_FROM_BYTES) as bar:
            return Recording(symbol, paths, read_ohlcv(*paths, progress=_advance(bar, symbol, size)))
    except OhlcvFileError as error:
        raise click.UsageError(str(error)) from error


def read_usable(symbol: str, paths: list[Path], given: Sequence[Path]) -> tuple[Recording | None, dict[Path, str]]:
    """Read the files of one symbol; of those that a folder gave, leave out what cannot be used.

    Parameters
    ----------
    symbol, paths
        As of :func:`read`.
    given
        Files and folders on the command line: a file named there must be usable, for :func:`read` and :func:`refuse` to say.

    Returns
    -------
    Recording or None, dict
        What the others hold, and why each of the rest is left out.

    Raises
    ------
    click.UsageError
        A file that was named cannot be read.
    """
    inside = [path for path in paths if path not in given]
    left_out: dict[Path, str] = {}
    try:
        recording = read(symbol, paths)
        if recording.candles.frame.height and not any(file.too_malformed for file in recording.candles.files):
            return recording, {}
        left_out = {
            file.path: file.too_malformed for file in recording.candles.files if file.path in inside and file.too_malformed
        }
    except click.UsageError:
        if not inside:
            raise
    left_out = left_out or {path: why for path in inside if (why := _unusable(path))}
    kept = [path for path in paths if path not in left_out]
    return (read(symbol, kept) if kept else None), left_out


def _unusable(path: Path) -> str:
    try:
        candles = read_ohlcv(path)
    except OhlcvFileError as error:
        return str(error)
    return candles.files[0].too_malformed or ("" if candles.frame.height else f"{path} has no valid row")


def say_left_out(left_out: Mapping[Path, str], of: int) -> None:
    """Name on stderr the files of folders that are left out, and count them."""
    for why in [*left_out.values()][:LEFT_OUT_NAMED_MAX]:
        click.echo(f"left out: {why}", err=True)
    if left_out:
        files = "1 file" if of == 1 else f"{of} files"
        click.echo(f"{len(left_out)} of {files} left out", err=True)


def _advance(bar: Progress, symbol: str, size: int) -> Callable[[int, int], None]:
    task = bar.add_task(symbol, total=size)
    before, latest = 0, (0, 0)

    def move(done: int, whole: int) -> None:
        nonlocal before, latest
        if done < latest[0]:  # the next file
            before += latest[1]
        latest = (done, whole)
        bar.update(task, completed=before + done)

    return move


def report(recording: Recording, *, interval_sec: int | None = None) -> None:
    """Say on stderr what was left out, and where candles are missing."""
    candles = recording.candles
    several = len(recording.paths) > 1
    for row in candles.malformed[:NAMED_MAX]:
        where = row.file if several or row.file != recording.paths[0].name else str(recording.paths[0])
        click.echo(f"{where} line {row.line} left out: {row.reason}", err=True)
    if (unnamed := candles.malformed_count - min(NAMED_MAX, len(candles.malformed))) > 0:
        click.echo(f"{recording.symbol}: and {unnamed} more malformed rows", err=True)
    unclosed = sum(one.unclosed for one in candles.files)
    if candles.malformed_count or candles.duplicates or unclosed:
        counts = f"malformed rows {candles.malformed_count}, duplicates {candles.duplicates}, not closed {unclosed}"
        click.echo(f"{recording.paths_shown}: left out: {counts}", err=True)
    for file in candles.files:
        for symbol in file.symbols:
            if _letters(symbol) != _letters(recording.symbol):
                click.echo(f"{file.path}: its rows name {symbol}, taken as {recording.symbol}", err=True)
        named = named_file(file.path).symbol
        if named is not None and _letters(named) != _letters(recording.symbol):
            click.echo(f"{file.path}: its name says {named}, taken as {recording.symbol}", err=True)
    if interval_sec is not None and (holes := _holes(recording, interval_sec)):
        click.echo(f"{recording.symbol}: no candles {some(holes)}", err=True)


def _holes(recording: Recording, interval_sec: int) -> list[str]:
    times = recording.candles.frame["open_time_ms"]
    wide = times.diff() > HOLE_INTERVALS * interval_sec * 1000
    before = times.shift(1).filter(wide)
    return [f"from {_moment(start)} to {_moment(end)}" for start, end in zip(before, times.filter(wide), strict=True)]


def _moment(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def refuse(recordings: Sequence[Recording], otherwise: str, code: int) -> None:
    """End the command where a symbol has no valid row, or more malformed ones in a file than are accepted."""
    if empty := [one.paths_shown for one in recordings if not one.candles.frame.height]:
        click.echo(f"No valid row in {some(empty)}; {otherwise}", err=True)
        sys.exit(code)
    if malformed := [text for one in recordings for file in one.candles.files if (text := file.too_malformed)]:
        click.echo("\n".join([*malformed[:NAMED_MAX], *_further_text(malformed), otherwise.capitalize()]), err=True)
        sys.exit(code)


def malformed_rows(recording: Recording) -> list[dict[str, Any]]:
    """Give the malformed rows that are named, for JSON."""
    return [{"file": row.file, "line": row.line, "reason": row.reason} for row in recording.candles.malformed]


def some(names: Iterable[str]) -> str:
    """Name the first few, and count the rest."""
    listed = list(names)
    return ", ".join(listed[:NAMED_MAX]) + "".join(f" {more}" for more in _further_text(listed))


def _further_text(listed: Sequence[str]) -> list[str]:
    return [f"and {len(listed) - NAMED_MAX} more"] if len(listed) > NAMED_MAX else []


def _letters(symbol: str) -> str:
    return "".join(char for char in symbol.casefold() if char.isalnum())
