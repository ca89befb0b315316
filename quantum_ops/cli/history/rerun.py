"""``quantum rerun``: what was recorded, computed again and compared with what was published."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import load_settings
from quantum_ops.cli.history.look_back import HOW_TO_RECORD, Time, unreadable_files

if TYPE_CHECKING:
    from quantum_assets.replay.rerun import Outcome

PART_MIN, PART_MAX = timedelta(minutes=15), timedelta(hours=3)  # of what one process computes at a time: each part begins anew
SHOWN_MAX = 20  # differences in the table; --json has those that were kept


@click.command(epilog="\b\nExamples:\n  quantum rerun --from 2h\n  quantum rerun c1769083220-1f2e3d --profile crypto-1m")
@click.argument("cycle_id", required=False)
@click.option("--from", "start", type=Time(), default="1h", show_default=True, help="First time.")
@click.option("--to", "end", type=Time(), default="now", show_default=True, help="Time before which it ends.")
@click.option("--profile", "profile_name", help="Compute with these parameters instead of those recorded.")
@click.option("--workers", "--jobs", "jobs", type=click.IntRange(min=1), help="Processes; default: one per core, at most 8.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rerun(
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
    was recorded without its inputs, by an older version, is counted as left out.

    Exit codes: 0 no difference; 1 some rows differ, nothing was recorded then, or a file cannot be read; 2 the call is wrong, or
    there is no archive.
    """
    from polars.exceptions import PolarsError

    from quantum_assets.replay.rerun import NotRecordedError, cycle_time
    from resources.recorder.reading import archive_of

    settings = load_settings()
    archive = archive_of(settings)
    if not archive.tables():
        message = f"there is no archive in {archive.root}. {HOW_TO_RECORD}"
        raise click.UsageError(message)
    if profile_name is not None:
        load_settings(profile=profile_name).own_profile  # noqa: B018 - says now, and once, what is wrong with it
    began = time.monotonic()
    if cycle_id is None and start >= end:
        message = f"--from {start:%Y-%m-%d %H:%M:%S} is not before --to {end:%Y-%m-%d %H:%M:%S} UTC"
        raise click.UsageError(message)
    try:
        if cycle_id is not None:
            start, end = cycle_time(archive, cycle_id)
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
    if as_json:
        click.echo(json.dumps({**asdict(outcome), "seconds": round(seconds, 1)}, default=str))
    else:
        _show(outcome, seconds)
    sys.exit(EXIT_FAILED if outcome.differing or not outcome.rows else 0)


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


def _show(outcome: Outcome, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    assert outcome.began is not None  # noqa: S101 - narrows: something was compared
    assert outcome.ended is not None  # noqa: S101
    lasted = max((outcome.ended - outcome.began).total_seconds(), 0.0)
    click.echo(
        f"{outcome.rows:,} rows of {outcome.steps:,} steps and {outcome.decisions:,} decisions, "
        f"{outcome.began:%Y-%m-%d %H:%M:%S} to {outcome.ended:%H:%M:%S} UTC, computed again in {seconds:.1f} s"
        + (f" ({lasted / seconds:.0f} times as fast)." if lasted > seconds else ".")
    )
    for reason, count in sorted(outcome.skipped.items()):
        click.echo(f"  left out {count:,} times: {reason}")
    if not outcome.differing:
        click.echo("Every one of them is equal, bit by bit.")
        return
    click.echo(f"{outcome.differing:,} differ. The first field of each that does:")
    table = Table("time", "asset", "symbol", "field", "published", "computed", box=None, pad_edge=False)
    for difference in outcome.differences[:SHOWN_MAX]:
        at = f"{difference.at.astimezone(UTC):%H:%M:%S}" if difference.at is not None else ""
        table.add_row(at, difference.asset, difference.symbol, difference.name, difference.recorded, difference.computed)
    Console().print(table)
    if outcome.differing > SHOWN_MAX:
        click.echo(f"and {outcome.differing - SHOWN_MAX:,} more; --json gives the first {len(outcome.differences)}.")
    for reason in sorted({difference.reason for difference in outcome.differences} - {""}):
        click.echo(f"Known reason: {reason}.")
