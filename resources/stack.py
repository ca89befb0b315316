"""The processes of ``quantum up``: what is started, in which order, and how it is watched over. Circus does the watching."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from circus import get_arbiter
from circus.exc import ConflictError
from circus.stream import StdoutStream

from resources.home import prepare_home
from resources.launcher import queues
from resources.settings import Settings

STOP_GRACE_SEC = 8  # then a process is killed
SOCKET_PATH_MAX = 100  # the kernel refuses longer socket names
SPARE_WORKERS = 1  # beside one for each shard's loop, so that a run from the user interface never waits for them
RUNS_PER_CHILD = 2_000  # then a worker is forked anew from its warm parent: what leaks is bounded


@dataclass(frozen=True)
class Process:
    """One process of the stack.

    Attributes
    ----------
    name
        Shown in front of each line it prints.
    command
        Program and arguments.
    after
        Unix socket of the server it needs; it is started when that answers.
    """

    name: str
    command: tuple[str, ...]
    after: str = ""


class NamedStream(StdoutStream):  # type: ignore[misc]
    """Prints each line of a process behind its name."""

    WIDTH: ClassVar[int] = 10

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self.unfinished = ""

    def __call__(self, chunk: dict[str, Any]) -> None:
        """Print one chunk of output."""
        text = chunk["data"]
        *lines, self.unfinished = (self.unfinished + (text.decode(errors="replace") if isinstance(text, bytes) else text)).split(
            "\n"
        )
        sys.stderr.writelines(f"{self.name:>{self.WIDTH}} | {line}\n" for line in lines)
        sys.stderr.flush()


def processes(settings: Settings, *, port: int, feed: Sequence[str] = (), redis_port: int | None = None) -> list[Process]:
    """List the processes of the stack, in the order of their start.

    Parameters
    ----------
    settings
        The product's settings.
    port
        TCP port of the user interface.
    feed
        Arguments of the example feed; empty for none.
    redis_port
        Port of the embedded server; ``None`` when REDIS_URL names another.
    """
    home = prepare_home(settings)
    workspace, page = _workspace(home), f"-h 127.0.0.1 -p {port}"
    pool = f"--concurrency {settings.shards + SPARE_WORKERS} --max-tasks-per-child {RUNS_PER_CHILD}"
    listed = [
        _python("code", "-m dagster api grpc -m definitions --location-name quantum --socket", _socket(home)),
        _python(
            "worker",
            f"-m celery -A resources.warm_worker worker --queues {','.join(queues(settings.shards))} {pool} --without-gossip"
            f" --without-mingle --loglevel {settings.log_level} --hostname",
            f"quantum-{os.getpid()}@%h",
        ),
        _python("daemon", "-m dagster._daemon run -w", workspace, after=_socket(home)),
        _python("webserver", f"-m resources.webserver {page} -w", workspace, after=_socket(home)),
    ]
    if redis_port is not None:
        listed.insert(0, _python("valkey", f"-m resources.embedded_server {redis_port}"))
    if feed:
        listed.append(_python("feed", "-m resources.example_feed", *feed))
    return listed


def _python(name: str, words: str, *paths: str, after: str = "") -> Process:
    return Process(name, (sys.executable, *words.split(), *paths), after)


def _not_a_conflict(record: logging.LogRecord) -> bool:
    """Drop circus' complaint that its periodic look falls into its own stop."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConflictError))


def arbiter(listed: Sequence[Process], home: Path) -> Any:
    """Build the circus arbiter that starts, restarts and stops the processes."""
    logging.getLogger("tornado.application").addFilter(_not_a_conflict)
    return get_arbiter(
        [
            {
                "name": process.name,
                "cmd": sys.executable,
                "args": ["-m", "resources.tether", *(("--after", process.after) if process.after else ()), *process.command],
                "copy_env": True,
                "max_retry": -1,
                "graceful_timeout": STOP_GRACE_SEC,
                "stop_children": False,
                "priority": len(listed) - order,
                "stdout_stream": {"class": f"{NamedStream.__module__}.{NamedStream.__qualname__}", "name": process.name},
                "stderr_stream": {"class": f"{NamedStream.__module__}.{NamedStream.__qualname__}", "name": process.name},
            }
            for order, process in enumerate(listed)
        ],
        controller=f"ipc://{_short(home, 'circus.sock')}",
        pubsub_endpoint=f"ipc://{_short(home, 'circus-events.sock')}",
        debug=False,
    )


def _workspace(home: Path) -> str:
    target = home / "workspace.yaml"
    target.write_text(yaml.safe_dump({"load_from": [{"grpc_server": {"socket": _socket(home), "location_name": "quantum"}}]}))
    return str(target)


def _socket(home: Path) -> str:
    return _short(home, "code.sock")


def _short(home: Path, name: str) -> str:
    path = str(home / name)
    if len(path) <= SOCKET_PATH_MAX:
        return path
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"quantum-{os.getuid()}-{abs(hash(str(home))) % 10**8}"  # noqa: S108 - private below
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder / name)
