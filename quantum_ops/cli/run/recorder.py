"""``quantum recorder``: the command around the process that writes the flight recorder's files."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.logs import log_to_stderr
from quantum_core.settings import Settings, load_settings
from resources.recorder.state import read_state, what_is_wrong
from resources.store.redis_store import RedisStore

OFF = "RECORDER is off: nothing is recorded."

log = logging.getLogger("quantum.recorder")


@click.command()
@click.option("--once", is_flag=True, help="Write what is there, and exit.")
@click.option("--status", is_flag=True, help="Show how the recorder is, and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --once or --status: print as JSON on stdout.")
def recorder(*, once: bool, status: bool, as_json: bool) -> None:
    """Write what goes into and comes out of every cycle to Parquet files in RECORDER_URL, by default QUANTUM_HOME/recorder.

    \b
    quantum recorder                 the recorder, which quantum up starts
    quantum recorder --once          write what is there now
    quantum recorder --status        how far it is behind, gaps, room

    Only one writes; a second one is on standby. It may be killed at any moment. With RECORDER=off it waits and records nothing.

    Exit codes: 0 stopped as asked, written, or nothing wrong (--status); 1 the recorder's position.json is damaged, which it
    never passes over, the disk takes nothing or another recorder writes (--once), something is wrong, also with files of the
    archive (--status); 2 wrong
    settings; 3 Redis away (--once, --status: without them it tries again).
    """
    if once and status:
        message = "--once and --status exclude each other"
        raise click.UsageError(message)
    settings = load_settings()
    if status:
        _show(RedisStore(settings), as_json=as_json)
        return
    log_to_stderr(settings.log_level)
    if not settings.recorder and once:
        click.echo(OFF, err=True)
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not settings.recorder:  # a service manager would start it again and again
        log.warning(OFF)
        stop.wait()
        return
    _record(settings, stop, once=once, as_json=as_json)


def _record(settings: Settings, stop: threading.Event, *, once: bool, as_json: bool) -> None:
    from quantum_ops.processes.recorder import Recorder, StandbyError
    from resources.recorder.archive import DamagedPositionError
    from resources.recorder.storage import TROUBLES

    process = Recorder(RedisStore(settings))
    known: tuple[type[Exception], ...] = (StandbyError, DamagedPositionError, *TROUBLES)
    try:
        if not once:
            process.run(stop)
            return
        position = process.once()
    except known as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_FAILED)
    if as_json:
        click.echo(json.dumps({"folder": str(process.archive.root), "seq": position.seq, "day": position.day}))
    else:
        click.echo(f"Written to {process.archive.root}, up to record {position.seq}.")


def _show(store: RedisStore, *, as_json: bool) -> None:
    state, now = read_state(store), store.clock().timestamp()
    damaged = f"In {state.folder}: {state.damaged}." if state.damaged else ""
    wrong = " ".join(filter(None, (what_is_wrong(state, now), damaged))) if store.settings.recorder else ""
    if as_json:
        click.echo(json.dumps({"recorder": store.settings.recorder, "wrong": wrong, **state._asdict()}, indent=2))
    elif not store.settings.recorder:
        click.echo(OFF)
    elif state.at is None:
        click.echo("No recorder has ever run on this Redis. Start it: quantum recorder")
    else:
        from quantum_ops.cli.layout import say

        free = "" if state.free_bytes is None else f"; free: {state.free_bytes / 1e9:.1f} GB"
        say(
            wrong or "Nothing is wrong.",
            f"Written to {state.folder} by {state.owner}, up to record {state.seq}, {now - state.at:.0f} s ago.",
            f"Not written yet: {state.waiting} records. Gaps: {state.gaps}. {state.day or 'Today'}: "
            f"{state.day_bytes / 1e6:.1f} MB{free}.",
        )
    if wrong:
        sys.exit(EXIT_FAILED)
