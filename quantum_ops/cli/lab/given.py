"""What a command of the lab is given: candles of files or of the archive, and profiles with changes.

Here belongs what its commands share. Layouts of files stay in the reader, and what is done with the candles in the commands.
"""

from __future__ import annotations

import math
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings
from quantum_lab import CACHE

if TYPE_CHECKING:
    from quantum_lab.candles import CandleHistory
    from quantum_ops.cli.history.recordings import Recording


class Number(click.FloatRange):
    """A finite number in a range; click lets NaN pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Understand one."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Duration(click.ParamType[int]):
    """A length of time like 60m, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Understand one."""
        from quantum_lab.entries import EntriesError, seconds_of

        if isinstance(value, int):
            return value
        try:
            return seconds_of(str(value).strip())
        except EntriesError:
            self.fail(f"{value!r} is no length of time: accepted are times like 1m, 60m, 4h, 1d", param, ctx)


def writable(*paths: Path | None) -> None:
    """Refuse files whose folder is missing before anything is computed.

    Raises
    ------
    click.UsageError
        There is no such folder.
    """
    for path in paths:
        if path is not None and not path.parent.is_dir():
            message = f"{path}: there is no folder {path.parent}; give another name"
            raise click.UsageError(message)


def unwritten(option: str, *paths: Path, force: bool) -> None:
    """Refuse to replace files that exist, before anything is computed.

    Raises
    ------
    click.UsageError
        One exists, and `force` is not set.
    """
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        message = f"{', '.join(there)} exist{'s' if len(there) == 1 else ''}: give another {option}, or --force"
        raise click.UsageError(message)


CHANGED = "*"  # behind the name of a profile with changes


def profiles_of(names: Sequence[str], changes: Sequence[str], interval_sec: float) -> list[Profile]:
    """Give the profiles (by default those that are shipped for such candles), and behind each the same one with the changes.

    Raises
    ------
    click.UsageError
        A profile or a change cannot be used.
    """
    from quantum_core.kernels.theta import ThetaError
    from quantum_core.profiles.files import ProfileFileError, load, meant_for

    try:
        given = [load(name) for name in dict.fromkeys(names or meant_for(interval_sec))]
        changed = nested(changes)
        both = [
            one
            for profile in given
            for one in (profile, *([replace(profile.changed(changed), name=f"{profile.name}{CHANGED}")] if changed else ()))
        ]
    except (ProfileFileError, ThetaError) as error:
        raise click.UsageError(str(error)) from None
    if len({one.name for one in both}) < len(both):
        message = "two profiles have one name: rename one of them"
        raise click.UsageError(message)
    return both


def nested(changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Understand ``stops.k_sl.chop=6``, once or more.

    Raises
    ------
    click.UsageError
        One is no assignment, names no section, sets what another one sets, or sets a part of it.
    """
    from quantum_core.profiles.profile import SECTIONS, nested_parameters

    flat: dict[str, Any] = {}
    for text in changes:
        path, equals, value = text.partition("=")
        section, dot, _ = path.strip().partition(".")
        if not equals or not dot or section not in SECTIONS:
            message = f"--set {text}: give section.parameter=value, sections are {', '.join(SECTIONS)}"
            raise click.UsageError(message)
        for before in flat:
            if f"{path.strip()}.".startswith(f"{before}.") or f"{before}.".startswith(f"{path.strip()}."):
                message = f"--set {before} and --set {path.strip()} set the same: give one of them"
                raise click.UsageError(message)
        flat[path.strip()] = _value(value.strip())
    return nested_parameters(flat)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:  # a word without quotes
        return text


def histories_of_files(files: Sequence[Path], settings: Settings, *, symbol: str | None, otherwise: str) -> list[CandleHistory]:
    """Read the candles of files and folders, all of which must be usable, and say on stderr which rows were left out.

    Raises
    ------
    click.UsageError
        A file cannot be used.
    """
    from quantum_ops.cli.history.recordings import choose, read

    chosen = choose(files, symbol=symbol, known=settings.symbols)
    return _alike([_history(read(name, paths), otherwise) for name, paths in chosen.items()])


def usable_histories(
    files: Sequence[Path], settings: Settings, *, symbol: str | None, otherwise: str
) -> tuple[list[CandleHistory], dict[Path, str]]:
    """Read the candles of files and folders; of a folder, a file that cannot be used is named on stderr, and the others count.

    Returns
    -------
    list of CandleHistory, dict
        Of each symbol, at least one; and why each file of a folder was left out.

    Raises
    ------
    click.UsageError
        A file that was named cannot be used, or two symbols would become one.
    """
    from quantum_ops.cli.history.recordings import choose, read_usable, say_left_out

    chosen = choose(files, symbol=symbol, known=settings.symbols)
    if symbol is not None:
        _refuse_mixture(symbol, chosen[symbol])
    histories: list[CandleHistory] = []
    left_out: dict[Path, str] = {}
    for name, paths in chosen.items():
        recording, unusable = read_usable(name, paths, files)
        left_out |= unusable
        if recording is None:
            continue
        try:
            histories.append(_history(recording, otherwise))
        except click.ClickException as error:
            if any(path in files for path in recording.paths):
                raise
            left_out |= {path: f"{path}: {error.message}" for path in recording.paths}
    say_left_out(left_out, sum(map(len, chosen.values())))
    if not histories:
        click.echo(f"No file can be used; {otherwise}", err=True)
        sys.exit(EXIT_FAILED)
    return _alike(histories), left_out


def _history(recording: Recording, otherwise: str) -> CandleHistory:
    from quantum_lab.candles import CandlesError, history_of
    from quantum_ops.cli.history.recordings import refuse, report

    report(recording)
    refuse([recording], otherwise, EXIT_FAILED)
    try:
        return history_of(recording.symbol, recording.candles.frame)
    except CandlesError as error:
        raise click.ClickException(str(error)) from None


def _refuse_mixture(symbol: str, paths: Sequence[Path]) -> None:
    """Refuse to make one history of the files of several symbols."""
    from quantum_ops.recordings.file_names import named_file

    names = sorted({name.upper() for path in paths if (name := named_file(path).symbol) is not None})
    if len(names) > 1:
        message = f"--symbol {symbol}: files of {', '.join(names)} would become one history; give those of one symbol"
        raise click.UsageError(message)


def histories_of_archive(start: datetime, end: datetime, settings: Settings) -> list[CandleHistory]:
    """Read the candles the archive keeps of a time.

    Raises
    ------
    click.ClickException
        It keeps none.
    """
    from quantum_lab.candles import CandlesError, recorded_history
    from resources.recorder.reading import Reader, archive_of

    if start >= end:
        message = f"--recorded: {start:%Y-%m-%d %H:%M} is not before {end:%Y-%m-%d %H:%M} UTC"
        raise click.UsageError(message)
    reader = Reader(archive_of(settings))
    histories, troubles = [], []
    for symbol in reader.symbols():
        frame = reader.candles(symbol, start, end)
        if not frame.width or frame.is_empty():
            continue
        try:
            histories.append(recorded_history(symbol, frame, settings.candle_interval_sec))
        except CandlesError as error:
            troubles.append(str(error))
    for trouble in troubles:
        click.echo(trouble, err=True)
    if not histories:
        message = f"the archive has no candles from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        raise click.ClickException(message)
    return histories


def _alike(histories: list[CandleHistory]) -> list[CandleHistory]:
    intervals = {history.interval_sec for history in histories}
    if len(intervals) > 1:
        listed = ", ".join(f"{one.symbol} {one.interval_sec:g} s" for one in histories)
        message = f"candles of several lengths: {listed}; give those of one"
        raise click.UsageError(message)
    return histories


def remarks(histories: Sequence[CandleHistory], profiles: Sequence[Profile]) -> list[str]:
    """Say what is unusual about candles, and which profile is meant for others."""
    interval_sec = histories[0].interval_sec
    left_out = [f"{one.symbol}: left out {_counts(one.left_out)}" for one in histories if one.left_out]
    notes = [f"{one.symbol}: {note}" for one in histories for note in one.notes]
    meant = [
        f"{one.name} is meant for candles of {one.candle_interval_sec} s, these are of {interval_sec:g} s"
        for one in profiles
        if one.candle_interval_sec not in (None, interval_sec)
    ]
    return [*left_out, *notes, *meant]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show on stderr what is being done, how far it is and how far it goes; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, whole: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=whole)
            bar.update(tasks[what], completed=done, total=whole)

        yield advance


def cache_of(settings: Settings, given: Path | None) -> Path:
    """Give the folder in which market states are kept."""
    return given if given is not None else settings.quantum_home / CACHE
