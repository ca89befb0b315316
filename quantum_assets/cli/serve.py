"""``quantum serve``: one process of the stack in the foreground, for a service manager, a container or a second machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import click

from quantum_assets.cli import EXIT_FAILED
from resources.settings import Settings, load_settings

PARTS = {
    "code": "the server of the code location; daemon and webserver wait for it",
    "worker": "executes runs; as many machines as there are shards, or more",
    "daemon": "asks the sensors; one, a second one waits for its end",
    "webserver": "the user interface; as many as wanted",
    "watch": "watches and alerts; one",
}


@click.command()
@click.argument("part", type=click.Choice(list(PARTS)), required=False)
@click.option("--queues", help="worker: only these queues, comma-separated; default: all.")
@click.option("--concurrency", type=click.IntRange(1, 256), help="worker: runs at a time; default: one per queue and one more.")
@click.option("--host", default="127.0.0.1", show_default=True, help="webserver: address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="webserver: port to listen on.")
@click.option("--read-only", is_flag=True, help="webserver: for viewers; nothing can be started, stopped or deleted.")
def serve(part: str | None, queues: str | None, concurrency: int | None, host: str, port: int, *, read_only: bool) -> None:
    """Run one process of the stack in the foreground. Without a name: list them.

    \b
    quantum serve code
    quantum serve daemon
    quantum serve worker --queues quantum-2,quantum-3
    quantum serve webserver --port 3001 --read-only

    QUANTUM_HOME must be the same for all processes of a machine; machines share REDIS_URL and, by QUANTUM_HOME/dagster.yaml, a
    PostgreSQL. The process takes the place of this command: SIGTERM stops it. Exit codes: its own; 2 wrong settings.
    """
    if part is None:
        for name, what in PARTS.items():
            click.echo(f"{name:<10} {what}")
        return
    settings = load_settings()
    from resources import stack
    from resources.home import prepare_home
    from resources.tether import wait_for_socket

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
    if part != "watch" and subprocess.run([sys.executable, "-m", "resources.home"], check=False).returncode:
        sys.exit(EXIT_FAILED)
    if part == "daemon":
        _stand_by(settings)
    if process.after:
        wait_for_socket(process.after)
    os.execv(process.command[0], process.command)  # noqa: S606 - becomes the process it was asked to be


def _stand_by(settings: Settings) -> None:
    from resources.dagster_internals import storage_id
    from resources.home import open_instance
    from resources.lease import wait_while_another_host_holds_it
    from resources.redis_store import RedisStore

    with open_instance(settings) as instance:
        storage = storage_id(instance)
    store = RedisStore(settings)
    wait_while_another_host_holds_it(store, storage, partial(click.echo, err=True))
    store.client.close()


def _chosen(queues: str | None, shards: int) -> list[str]:
    """Read the names of queues.

    Raises
    ------
    click.BadParameter
        One does not exist with these SHARDS.
    """
    from resources.launcher import queues as all_queues

    chosen = [name.strip() for name in (queues or "").split(",") if name.strip()]
    known = all_queues(shards)
    if unknown := [name for name in chosen if name not in known]:
        msg = f"no such queue: {', '.join(unknown)}. With SHARDS={shards} there are {', '.join(known)}."
        raise click.BadParameter(msg, param_hint="--queues")
    return chosen


def _concurrency(chosen: list[str]) -> int | None:
    """Give one child per queue and a spare one: a run that hangs must not hold up the next. For all queues: the worker's own."""
    return len(chosen) + 1 if chosen else None
