"""``quantum rerun``: what was recorded, computed again and compared with what was published."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from quantum_core.display import number_of
from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import load_settings
from quantum_ops.cli.history.look_back import HOW_TO_RECORD, MOVE_OUT, Time, unreadable_files

if TYPE_CHECKING:
    from quantum_assets.replay.rerun import Difference, Outcome
    from resources.recorder.archive import Archive, Fault

PART_MIN, PART_MAX = timedelta(minutes=15), timedelta(hours=3)  # of what one process computes at a time: each part begins anew
SHOWN_MAX = 20  # differences in the table; --json has those that were kept


@click.command(epilog="\b\nExamples:\n  quantum rerun --from 2h\n  quantum rerun c1769083220-1f2e3d --profile crypto-1m")
@click.argument("cycle_id", required=False)
@click.option("--from", "start", type=Time(), default="1h", show_default=True, help="First time.")
@click.option("--to", "end", type=Time(), default="now", show_default=True, help="Time before which it ends.")
@click.option("--profile", "profile_name", help="Compute with these parameters instead of those recorded.")
@click.option("--workers", "--jobs", "jobs", type=click.IntRange(min=1), help="Processes; default: one per core, at most 8.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def rerun(
    context: click.Context,
    cycle_id: str | None,
    start: datetime,
    end: datetime,
    profile_name: str | None,
    jobs: int | None,
    *,
    as_json: bool,
) -> None:
    """Compute recorded cycles again, without Redis and Dagster, and compare them bit by bit with what was published.

    CYCLE_ID computes one cycle; else every cycle from --from until before --to. The first difference of each row is named. What
    was recorded without its inputs, by an older version, is counted as left out. With --profile the answer is what other
    parameters would have given: per asset how many rows would have differed, and in which fields.

    Exit codes: 0 no difference; 1 some rows differ, nothing was recorded then, there is no archive, a file cannot be read or is
    missing (then nothing is judged), or one does not belong there; 2 the call is wrong.
    """
    from polars.exceptions import PolarsError

    from quantum_assets.replay.rerun import NotRecordedError, cycle_time
    from resources.recorder.reading import archive_of

    settings = load_settings()
    archive = archive_of(settings)
    if not archive.tables():
        message = f"There is no archive in {archive.root}. {HOW_TO_RECORD}"
        raise click.ClickException(message)
    if cycle_id is not None and any(
        context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("start", "end")
    ):
        message = "CYCLE_ID is the time of one cycle: it takes neither --from nor --to"
        raise click.UsageError(message)
    if profile_name is not None:
        _check_profile(profile_name, settings.symbols)
    began = time.monotonic()
    if cycle_id is None and start >= end:
        message = f"--from {start:%Y-%m-%d %H:%M:%S} is not before --to {end:%Y-%m-%d %H:%M:%S} UTC"
        raise click.UsageError(message)
    try:
        if cycle_id is not None:
            start, end = cycle_time(archive, cycle_id)
        faults = _damaged(archive, start, end)
        outcome = _computed(
            settings.recorder_address, start, end, profile_name, jobs or min(os.cpu_count() or 1, 8), quiet=as_json
        )
    except NotRecordedError as error:
        click.echo(f"Nothing was compared: {error}. `quantum history` says what the archive covers.", err=True)
        sys.exit(EXIT_FAILED)
    except (ValueError, PolarsError) as error:
        click.echo(f"Nothing was compared: {unreadable_files(archive, error)}", err=True)
        sys.exit(EXIT_FAILED)
    seconds = time.monotonic() - began
    for fault in faults:
        click.echo(f"Left out: {fault.file} {fault.what}", err=True)
    if as_json:
        click.echo(as_text(outcome, seconds))
    else:
        _show(outcome, seconds, profile_name)
    sys.exit(EXIT_FAILED if outcome.differing or not outcome.rows or faults else 0)


def as_text(outcome: Outcome, seconds: float) -> str:
    """Write what came of a rerun, and how long it took, as JSON."""
    differences = [asdict(one) for one in outcome.differences]
    return json.dumps({**vars(outcome), "differences": differences, "seconds": round(seconds, 1)}, default=str)


def _check_profile(name: str, symbols: Sequence[str]) -> None:
    """Say now, and once, what is wrong with a profile."""
    from quantum_core.profiles.files import ProfileFileError, load_once

    try:
        load_once(name, symbols)
    except ProfileFileError as error:
        mistakes = "; ".join(f"line {line}: {text}" if line else text for line, text in error.mistakes)
        message = f"--profile: {mistakes}"
        raise click.UsageError(message) from None
    load_settings(profile=name).own_profile  # noqa: B018 - does it go with the other settings?


def _damaged(archive: Archive, start: datetime, end: datetime) -> list[Fault]:
    """Give what does not belong into the archive; name what is missing and end, for then rows only seem to differ."""
    from resources.recorder.archive import EVERY
    from resources.recorder.names import is_foreign

    days = (start.date() - timedelta(days=1), end.date() + timedelta(days=1))  # what stood before; what was written later
    faults = list(dict.fromkeys(archive.incomplete({EVERY: [days]})))
    missing = [f"{fault.file} {fault.what}" for fault in faults if not is_foreign(fault.what)]
    if missing:
        click.echo(f"Nothing was compared: {'; '.join(missing)}. What rests on that cannot be judged. {MOVE_OUT}", err=True)
        sys.exit(EXIT_FAILED)
    return faults


def parts(start: datetime, end: datetime, jobs: int = 1) -> Iterator[tuple[datetime, datetime]]:
    """Cut a time into what one process computes at a time: as few parts as keep all of them busy."""
    length = min(max((end - start) / (2 * jobs), PART_MIN), PART_MAX)
    while start < end:
        until = min(start + length, end)
        yield start, until
        start = until


def _computed(
    address: Path | str, start: datetime, end: datetime, profile_name: str | None, jobs: int, *, quiet: bool
) -> Outcome:
    from quantum_assets.replay.rerun import NotRecordedError, Outcome

    total, cut = Outcome(), list(parts(start, end, jobs))
    work = partial(_part, address, profile_name)
    if jobs == 1 or len(cut) == 1:
        _add(total, map(work, cut), cut, quiet=quiet)
    else:
        for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")  # the processes share the cores already
        with ProcessPoolExecutor(min(jobs, len(cut)), mp_context=multiprocessing.get_context("spawn")) as pool:
            _add(total, pool.map(work, cut), cut, quiet=quiet)
    if total.began is None:
        message = f"no cycle is recorded from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        raise NotRecordedError(message)
    return total


def _add(total: Outcome, found: Iterator[Outcome | None], cut: list[Any], *, quiet: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty()) as progress:
        for outcome in progress.track(found, total=len(cut), description="Computing again"):
            if outcome is not None:
                total.include(outcome)


def _part(address: Path | str, profile_name: str | None, times: tuple[datetime, datetime]) -> Outcome | None:
    from quantum_assets.replay.rerun import NotRecordedError
    from quantum_assets.replay.rerun import rerun as compute
    from resources.recorder.archive import Archive

    profile = load_settings(profile=profile_name).own_profile if profile_name is not None else None
    try:
        return compute(Archive(address), *times, profile=profile)
    except NotRecordedError:
        return None


def _show_answer(outcome: Outcome, profile_name: str) -> None:
    """Say what other parameters would have given."""
    from quantum_ops.cli.layout import console, paragraph

    out = console()
    out.print(paragraph(out, f"With {profile_name} {outcome.differing:,} rows would have differed in more than its name:"))
    for asset, count in outcome.rows_of.items():
        fields = ", ".join(f"{name} {times:,}" for name, times in outcome.changed[asset].most_common())
        out.print(paragraph(out, f"{asset}, {count:,} rows: {fields}"))
    out.print(paragraph(out, _example(outcome.differences)))


def _example(differences: Sequence[Difference]) -> str:
    """Write one difference, of a number where there is one, as people read it."""
    shown = next((one for one in differences if _number(one.recorded) and _number(one.computed)), differences[0])
    at = f"{shown.at.astimezone(UTC):%H:%M:%S} " if shown.at is not None else ""
    return f"For one: {at}{shown.symbol} {shown.asset}.{shown.name} {_short(shown.recorded)}, then {_short(shown.computed)}."


def _number(text: str) -> float | None:
    with suppress(ValueError):
        return float(text)
    return None


def _short(text: str) -> str:
    number = _number(text)
    return f"{number:.6g}" if number is not None else text or "nothing"


def _show(outcome: Outcome, seconds: float, profile_name: str | None) -> None:
    from quantum_ops.cli.layout import Column, console, fits, records, say, table_of

    assert outcome.began is not None  # noqa: S101 - narrows: something was compared
    assert outcome.ended is not None  # noqa: S101
    lasted = max((outcome.ended - outcome.began).total_seconds(), 0.0)
    say(
        f"{outcome.rows:,} rows of {outcome.steps:,} steps and {outcome.decisions:,} decisions, "
        f"{outcome.began:%Y-%m-%d %H:%M:%S} to {outcome.ended:%H:%M:%S} UTC, computed again in {seconds:.1f} s"
        + (f" ({lasted / seconds:.0f} times as fast)." if lasted > seconds else ".")
    )
    for reason, count in sorted(outcome.skipped.items()):
        say(f"  left out {number_of(count, 'time')}: {reason}")
    if not outcome.differing:
        say("Every one of them is equal, bit by bit" + (", but for the profile's name." if profile_name else "."))
        return
    if profile_name is not None:
        _show_answer(outcome, profile_name)
        return
    say(f"{outcome.differing:,} differ. The first field of each that does:")
    columns = [Column(heading) for heading in ("time", "asset", "symbol", "field")]
    columns += [Column(heading, labelled=True) for heading in ("published", "computed")]
    rows = []
    for difference in outcome.differences[:SHOWN_MAX]:
        at = f"{difference.at.astimezone(UTC):%H:%M:%S}" if difference.at is not None else ""
        rows.append((at, difference.asset, difference.symbol, difference.name, difference.recorded, difference.computed))
    out = console()
    table = table_of(columns, rows)
    table.box, table.pad_edge = None, False
    out.print(table if fits(out, table) else records(out, columns, rows))
    if outcome.differing > SHOWN_MAX:
        say(f"and {outcome.differing - SHOWN_MAX:,} more; --json gives the first {len(outcome.differences)}.")
    for reason in sorted({difference.reason for difference in outcome.differences} - {""}):
        say(f"Known reason: {reason}.")
