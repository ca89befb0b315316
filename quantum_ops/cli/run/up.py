"""``quantum up``: the whole deployment in the foreground."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import Settings, load_settings
from quantum_ops.cli import given

ANSWER_WITHIN_SEC = 120


@click.command()
@click.option(
    "--replay",
    "replay_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Play recorded candles (*.csv) from this folder.",
)
@click.option(
    "--examples", is_flag=True, help="With --replay: also seed example positions, equity, targets, efficiency and plans."
)
@click.option("--symbols", help="Comma-separated; default: SYMBOLS.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the user interface.")
def up(replay_dir: Path | None, symbols: str | None, port: int, *, examples: bool) -> None:
    """Start everything: embedded Valkey (unless REDIS_URL is set), workers, sensors and the user interface.

    \b
    quantum up                                   real data from REDIS_URL
    quantum up --replay candles/ --examples      a moving example, no exchange
    quantum up --symbols BTCUSDT --port 8080

    Ctrl-C stops everything and leaves no process behind. Exit codes: 0 stopped as asked; 1 something else uses the port or
    the instance folder; 2 wrong settings; 3 REDIS_URL does not answer,
    takes no writes, is too old or lacks commands.
    """
    settings = load_settings(**given(symbols=symbols))
    if _in_use(port):
        from resources.instance.home import holder_of

        given_options = [*(["--replay", str(replay_dir)] if replay_dir else []), *(["--examples"] if examples else [])]
        given_options += ["--symbols", symbols] if symbols is not None else []
        if holder := holder_of(settings.quantum_home):
            what = f"This folder's own deployment runs already (process {holder}): stop that one"
        else:
            what = (
                f"Stop what uses it, or choose another: {shlex.join(['quantum', 'up', *given_options, '--port', str(port + 1)])}"
            )
        click.echo(f"Port {port} is taken. {what}", err=True)
        sys.exit(EXIT_FAILED)
    if settings.watch_port and _in_use(settings.watch_port):
        click.echo(
            f"WATCH_PORT {settings.watch_port} is taken, by another stack's watcher perhaps. Choose another, or 0.", err=True
        )
        sys.exit(EXIT_FAILED)
    if symbols is not None:
        os.environ["SYMBOLS"] = ",".join(settings.symbols)
    from quantum_ops.processes.console import LOG_FILE, OwnLines
    from quantum_ops.processes.stack import processes, supervisor
    from resources.instance.home import lock_home, prepare_home

    if not settings.uses_embedded_server:
        from quantum_ops.doctor.server_needs import require_usable

        require_usable(settings)
    lock = lock_home(prepare_home(settings))
    redis_port = embedded_port(settings)
    if subprocess.run([sys.executable, "-m", "resources.instance.home"], check=False, stdout=subprocess.DEVNULL).returncode:
        sys.exit(EXIT_FAILED)
    _announce_later(port)
    feed = ("--dir", str(replay_dir.resolve()), *(("--examples",) if examples else ())) if replay_dir is not None else ()
    listed, home = processes(settings, port=port, feed=feed, redis_port=redis_port), settings.quantum_home.resolve()
    watcher = supervisor(listed, home, verbose=settings.log_level == "DEBUG")
    click.echo(f"Starting: {', '.join(one.name for one in watcher.watchers)}. Ctrl-C stops everything.", err=True)
    click.echo(f"Every line, also the publications of each cycle: {home / LOG_FILE} (LOG_LEVEL=DEBUG shows them here)", err=True)
    own = logging.getLogger("quantum.stack")
    own.addHandler(OwnLines(str(home / LOG_FILE)))
    own.propagate = False
    try:
        watcher.start()  # returns when SIGINT, SIGTERM or SIGHUP has stopped every process
    finally:
        if redis_port is not None:
            settings.embedded_url_file.unlink(missing_ok=True)
        lock.close()
    with suppress(OSError):  # the terminal is gone
        click.echo("Stopped.", err=True)


def embedded_port(settings: Settings) -> int | None:
    """Choose and announce the port of the embedded server; ``None`` when an address was given."""
    if not settings.uses_embedded_server:
        return None
    from quantum_ops.processes.embedded_server import choose_port

    port = choose_port()
    settings.embedded_url_file.write_text(f"redis://127.0.0.1:{port}/0\n")
    click.echo(f"Embedded Valkey: redis://127.0.0.1:{port}/0", err=True)
    return port


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _announce_later(port: int) -> None:
    def wait() -> None:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + ANSWER_WITHIN_SEC
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{address}/server_info", timeout=2):  # noqa: S310 - our own address
                    click.echo(f"\n  User interface: http://localhost:{port}\n", err=True)
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        click.echo(f"The user interface does not answer on {address}; look at the lines of `webserver` above.", err=True)

    threading.Thread(target=wait, daemon=True, name="announce").start()
