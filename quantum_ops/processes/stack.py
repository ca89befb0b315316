"""The processes of ``quantum up``: what is started, in which order, and how it is watched over. Circus does the watching."""

from __future__ import annotations

import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import Any

import yaml
from circus.arbiter import Arbiter
from circus.exc import ConflictError
from circus.stream.redirector import Redirector
from circus.watcher import Watcher
from tornado import gen

from quantum_core.settings import Settings
from quantum_ops.processes.console import LOG_FILE, NamedStream
from resources.instance.home import prepare_home

STOP_GRACE_SEC = 8  # then a process is killed
ASK_AGAIN_SEC = 0.1
SERVER = "valkey"  # name of the process that all others write to
SOCKET_PATH_MAX = 100  # the kernel refuses longer socket names
LONGEST_PAUSE_SEC = 8  # so that the cycle resumes within 15 s of its part being able to live again
STEADY_AFTER_SEC = 60  # who lived this long was healthy: its next death is a new trouble, and costs no pause
UNSEEN = "nobody saw how"  # circus calls no hook for a death that falls into its own round

log = logging.getLogger("quantum.stack")


@dataclass(frozen=True)
class Process:
    """One process of the deployment.

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


class OwnedRedirector(Redirector):  # type: ignore[misc]
    """Reads what processes print through descriptors of its own, until they have all been closed.

    Circus closes the pipe of a process it finds dead, and goes on listening to its number. Another process's pipe then gets that
    number, and the dead one can never be started again: "fd 23 added twice" (seen when the watcher was killed).
    """

    def add_redirections(self, process: Any) -> None:
        """Listen to a process that was started."""
        for name, pipe in self.get_process_pipes(process):
            fd = os.dup(pipe.fileno())
            self.pipes[fd] = name, process, pipe
            if self.running:
                self._start_one(fd, name, process, pipe)
        process.redirected = True

    def remove_redirections(self, process: Any) -> None:
        """Listen to a process no more."""
        for fd in [fd for fd, (_, owner, _) in self.pipes.items() if owner is process]:
            self.remove_fd(fd)
        process.redirected = False

    def remove_fd(self, fd: int) -> None:
        """Give one descriptor back; one that was given back already is another's."""
        if fd in self.pipes:
            super().remove_fd(fd)
            os.close(fd)

    def stop(self) -> int:
        """Give all of them back."""
        count = len(self.pipes)
        for fd in list(self.pipes):
            self.remove_fd(fd)
        self.running = False
        return count


class OwningWatcher(Watcher):  # type: ignore[misc]
    """A watcher whose output goes through :class:`OwnedRedirector`."""

    @property
    def _redirector_class(self) -> type[Redirector]:
        return OwnedRedirector


def processes(settings: Settings, *, port: int, feed: Sequence[str] = (), redis_port: int | None = None) -> list[Process]:
    """List the processes of the deployment on one machine, in the order of their start.

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
    listed = [code(home), worker(), daemon(home), webserver(home, port=port), watch()]
    if settings.recorder:
        listed.append(recorder())
    if redis_port is not None:
        listed.insert(0, valkey(redis_port))
    if feed:
        listed.append(example_feed(*feed))
    return listed


def valkey(port: int) -> Process:
    """Give the embedded server."""
    return _python(SERVER, f"-m quantum_ops.processes.embedded_server {port}")


def example_feed(*arguments: str) -> Process:
    """Give the feed of examples."""
    return _python("feed", "-m quantum_ops.recordings.example_feed", *arguments)


def code(home: Path) -> Process:
    """Give the server of the code location, which sensors and user interface ask."""
    return _python("code", "-m dagster api grpc -m definitions --location-name quantum --socket", _socket(home))


def worker(queues: Sequence[str] = (), concurrency: int | None = None) -> Process:
    """Give the process that executes runs, of some queues or of all, with its own or another number of children."""
    named = [*(["-Q", ",".join(queues)] if queues else []), *(["-c", str(concurrency)] if concurrency else [])]
    options = "worker --without-gossip --without-mingle --hostname"
    return _python(
        "worker", f"-m celery --quiet -A quantum_ops.processes.warm_worker {options}", f"quantum-{os.getpid()}@%h", *named
    )


def daemon(home: Path) -> Process:
    """Give the process that asks the sensors."""
    return _python("daemon", "-m resources.instance.sensor_daemon run -w", _workspace(home), after=_socket(home))


def webserver(home: Path, *, port: int, host: str = "127.0.0.1", read_only: bool = False) -> Process:
    """Give the user interface; one that is read-only starts, stops and deletes nothing."""
    page = ["--read-only"] if read_only else []
    return _python(
        "webserver", f"-m quantum_ops.desk.webserver -h {host} -p {port} -w", _workspace(home), *page, after=_socket(home)
    )


def watch() -> Process:
    """Give the watcher."""
    return _python("watch", "-m quantum_ops.cli watch")


def recorder() -> Process:
    """Give the recorder."""
    return _python("recorder", "-m quantum_ops.cli recorder")


def _python(name: str, words: str, *paths: str, after: str = "") -> Process:
    return Process(name, (sys.executable, *words.split(), *paths), after)


def pause_sec(restart: int) -> int:
    """Give the pause before the n-th restart in a row of one process: none, then 1, 2, 4, 8, 8 ... s."""
    return min(2 ** (restart - 2), LONGEST_PAUSE_SEC) if restart > 1 else 0


class Restarts:
    """Says that a process died and how long it pauses before it starts again; circus calls it around each start.

    Parameters
    ----------
    process
        The process.
    clock
        Monotonic seconds.
    """

    def __init__(self, process: Process, clock: Callable[[], float] = time.monotonic) -> None:
        self.process = process
        self.clock = clock
        self.restart = -1  # the first start is none
        self.begins = 0.0
        self.cause = UNSEEN

    def after_reap(self, *, exit_code: int | None, **_: Any) -> None:
        """Remember how the process ended."""
        self.cause = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"

    def before_spawn(self, *, watcher: Any, **_: Any) -> bool:
        """Let the process that is about to start wait for its turn, and go on at once."""
        now = self.clock()
        self.restart = 1 if self.restart > 0 and now - self.begins >= STEADY_AFTER_SEC else self.restart + 1
        pause = pause_sec(self.restart)
        if self.restart:
            log.error("%s died (%s), restart %d in %d s", self.process.name, self.cause, self.restart, pause)
        self.begins, self.cause = now + pause, UNSEEN
        watcher.args = _tethered(self.process, pause)
        return True


def _tethered(process: Process, pause: int = 0) -> list[str]:
    """Give the interpreter's arguments for a process that waits for what it must and cannot outlive its parent."""
    waits = [*(("--pause", str(pause)) if pause else ()), *(("--after", process.after) if process.after else ())]
    return ["-m", "quantum_ops.processes.tether", str(os.getpid()), *waits, *process.command]


def _not_a_conflict(record: logging.LogRecord) -> bool:
    """Drop circus' complaint that its periodic look falls into its own stop."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConflictError))


class Supervisor(Arbiter):  # type: ignore[misc]
    """Starts, restarts and stops the processes of a deployment."""

    def stop(self) -> Any:
        """Stop all of them; circus refuses that in the middle of a round of its own, and a Ctrl-C would be lost."""
        try:
            return super().stop()
        except ConflictError:
            if not self._stopping:
                self.loop.call_later(ASK_AGAIN_SEC, self.stop)

    @gen.coroutine
    def _stop_watchers(self, close_output_streams: bool = False, watcher_iter_func: Any = None) -> Any:  # noqa: FBT001, FBT002
        """Stop the server when those who write to it have ended; circus stops all at once, and each would complain of it."""
        watchers = (watcher_iter_func or self.iter_watchers)(reverse=False)
        for servers in (False, True):
            group = [one for one in watchers if (one.name == SERVER) is servers]
            yield gen.multi([watcher._stop(close_output_streams) for watcher in group])  # noqa: SLF001 - as the method it replaces


def supervisor(listed: Sequence[Process], home: Path, *, verbose: bool = False) -> Supervisor:
    """Build the supervisor of some processes; ``start`` returns when SIGINT, SIGTERM or SIGHUP has stopped them all.

    Parameters
    ----------
    listed
        In the order of their start.
    home
        Instance folder, with the log file of all of them.
    verbose
        Whether routine lines are shown on the console, too.
    """
    logging.getLogger("tornado.application").addFilter(_not_a_conflict)
    watchers = []
    for order, process in enumerate(listed):
        printed: dict[str, Any] = {"class": f"{NamedStream.__module__}.{NamedStream.__qualname__}", "name": process.name}
        printed |= {"log_file": str(home / LOG_FILE), "verbose": verbose}
        restarts = Restarts(process)
        hooks: dict[str, tuple[Callable[..., Any], bool]] = {
            "before_spawn": (restarts.before_spawn, False),
            "after_reap": (restarts.after_reap, False),
        }
        watchers.append(
            OwningWatcher(
                process.name,
                sys.executable,
                copy_env=True,
                max_retry=-1,
                hooks=hooks,
                graceful_timeout=STOP_GRACE_SEC,
                stop_children=False,
                priority=len(listed) - order,
                stdout_stream=dict(printed),
                stderr_stream=dict(printed),
            )
        )
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    built = Supervisor(watchers, f"ipc://{_short(home, 'circus.sock')}", f"ipc://{_short(home, 'circus-events.sock')}")
    _stop_with_terminal(built, ignored=ignored)
    return built


def _stop_with_terminal(built: Supervisor, *, ignored: bool) -> None:
    """Let SIGHUP, which a closed terminal sends, stop everything: circus would start all processes anew. nohup's wish stays."""
    if ignored:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    else:
        signals = built.ctrl.sys_hdl
        signals.handle_hup = signals.quit


def _workspace(home: Path) -> str:
    target = home / "workspace.yaml"
    target.write_text(yaml.safe_dump({"load_from": [{"grpc_server": {"socket": _socket(home), "location_name": "quantum"}}]}))
    return str(target)


def _socket(home: Path) -> str:
    return _short(home, "code.sock")


def _short(home: Path, name: str) -> str:
    """Give a socket's path, in a folder elsewhere when the instance folder's own is too long: the same one to every process."""
    path = str(home / name)
    if len(path) <= SOCKET_PATH_MAX:
        return path
    runtime, digest = os.environ.get("XDG_RUNTIME_DIR") or "/tmp", blake2s(str(home).encode(), digest_size=6).hexdigest()  # noqa: S108
    folder = Path(runtime) / f"quantum-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not stat.S_ISDIR(found.st_mode):
        msg = f"{folder} is not a folder of this user alone: remove it, or set QUANTUM_HOME to a path of at most 80 characters"
        raise PermissionError(msg)
    return str(folder / name)
