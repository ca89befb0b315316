"""``quantum serve``: one process of the deployment in the foreground, for a service manager, a container or a second machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import Settings, load_settings

if TYPE_CHECKING:
    from quantum_ops.processes.stack import Process

LOOK_AGAIN_SEC = 2.0
ENDS_WITHIN_SEC = 10  # less than the service manager allows
PARTS = {
    "code": "the server of the code location; daemon and webserver wait for it",
    "worker": "executes runs; as many machines as there are shards, or more",
    "daemon": "asks the sensors; one, a second one waits for its end",
    "webserver": "the user interface; as many as wanted",
    "watch": "watches and alerts; one",
}
NEEDING = ("code", "worker", "daemon")  # who writes with commands that not every server has


@click.command()
@click.argument("part", type=click.Choice(list(PARTS)), required=False)
@click.option("--queues", help="worker: only these queues, comma-separated; default: all.")
@click.option("--concurrency", type=click.IntRange(1, 256), help="worker: runs at a time; default: one per queue and one more.")
@click.option("--host", default="127.0.0.1", show_default=True, help="webserver: address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="webserver: port to listen on.")
@click.option("--read-only", is_flag=True, help="webserver: for viewers; nothing can be started, stopped or deleted.")
def serve(part: str | None, queues: str | None, concurrency: int | None, host: str, port: int, *, read_only: bool) -> None:
    """Run one process of the deployment in the foreground. Without a name: list them.

    \b
    quantum serve code
    quantum serve daemon
    quantum serve worker --queues quantum-2,quantum-3
    quantum serve webserver --port 3001 --read-only

    QUANTUM_HOME must be the same for all processes of a machine; machines share REDIS_URL and, by QUANTUM_HOME/dagster.yaml, a
    PostgreSQL. SIGTERM stops it. A daemon is on standby while another host runs the cycle on the same PostgreSQL. Exit codes: the
    process's own; 2 wrong settings; 3 Redis answers, and is too old or lacks commands.
    """
    if part is None:
        for name, description in PARTS.items():
            click.echo(f"{name:<10} {description}")
        return
    settings = load_settings()
    from quantum_ops.processes import stack
    from quantum_ops.processes.tether import wait_for_socket
    from resources.instance.home import lock_home, prepare_home

    if part in NEEDING:
        from quantum_ops.doctor.server_needs import require_server
        from resources.store.redis_store import RedisStore

        require_server(RedisStore(settings))
    home = prepare_home(settings)
    chosen = _chosen(queues, settings.shards)
    build: dict[str, Callable[[], stack.Process]] = {
        "code": lambda: stack.code(home),
        "worker": lambda: stack.worker(chosen, concurrency or _concurrency(chosen)),
        "daemon": lambda: stack.daemon(home),
        "webserver": lambda: stack.webserver(home, port=port, host=host, read_only=read_only),
        "watch": stack.watch,
    }
    process = build[part]()
    storage = ""
    if part != "watch":
        prepared = subprocess.run(
            [sys.executable, "-m", "resources.instance.home"], check=False, stdout=subprocess.PIPE, text=True
        )
        if prepared.returncode:
            sys.exit(EXIT_FAILED)
        storage = prepared.stdout.strip()
    if part == "daemon":
        with lock_home(home):
            sys.exit(_run_or_stand_by(process, settings, storage))
    if process.after:
        wait_for_socket(process.after)
    os.execv(process.command[0], process.command)  # noqa: S606 - becomes the process it was asked to be


def _run_or_stand_by(process: Process, settings: Settings, storage: str) -> int:
    """Run the process while no other host of the same storage runs the cycle; give its exit code when it ends by itself."""
    from resources.store.lease import other_host
    from resources.store.redis_store import RedisStore

    store = RedisStore(settings)
    command = [sys.executable, "-m", "quantum_ops.processes.tether", str(os.getpid()), "--after", process.after, *process.command]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        announced = ""
        while holder := other_host(store, storage):
            if holder != announced:
                click.echo(f"standing by: {holder} runs the loop on the same storage, until its lease lapses", err=True)
                announced = holder
            time.sleep(LOOK_AGAIN_SEC)
        child = subprocess.Popen(command)
        try:
            while not (holder := other_host(store, storage)):
                with suppress(subprocess.TimeoutExpired):
                    return child.wait(LOOK_AGAIN_SEC)
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(ENDS_WITHIN_SEC)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _chosen(queues: str | None, shards: int) -> list[str]:
    """Read the names of queues.

    Raises
    ------
    click.BadParameter
        One does not exist with these SHARDS.
    """
    chosen = [name.strip() for name in (queues or "").split(",") if name.strip()]
    if not chosen:
        return []
    from resources.instance.launcher import queues as all_queues  # with Dagster, which the others need not keep in memory

    existing = all_queues(shards)
    if unknown := [name for name in chosen if name not in existing]:
        msg = f"no such queue: {', '.join(unknown)}. With SHARDS={shards} there are {', '.join(existing)}."
        raise click.BadParameter(msg, param_hint="--queues")
    return chosen


def _concurrency(chosen: list[str]) -> int | None:
    """Give one child per queue and a spare one: a run that hangs must not hold up the next. For all queues: the worker's own."""
    return len(chosen) + 1 if chosen else None
