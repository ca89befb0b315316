"""The instance folder (QUANTUM_HOME): Dagster's storage and configuration, the embedded server's data and address.

``python -m resources.instance.home`` creates the storage, waiting for the database where it is one, and prints its identity:
before several processes race to do it, and without keeping Dagster in the memory of the one that only watches them.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from quantum_core.settings import Settings, load_settings

if TYPE_CHECKING:
    import dagster as dg

EVENT_BATCH_SIZE = 1000  # Dagster reads it in every process; without it each materialization is a transaction of its own
STORAGE_AGAIN_SEC = 2
_TEMPLATE = Path(__file__).resolve().parents[2] / "dagster.yaml"
WARM_LAUNCHER = """
run_launcher:  # persistent, pre-imported workers: a fresh interpreter per run costs several seconds
  module: resources.instance.launcher
  class: WarmRunLauncher
"""


def prepare_home(settings: Settings) -> Path:
    """Create the instance folder with the product's dagster.yaml and the launcher of the warm workers.

    A file that is there is the operator's and stays.

    Returns
    -------
    pathlib.Path
        The folder, also exported as DAGSTER_HOME for this process and its children.
    """
    home = settings.quantum_home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = home / "dagster.yaml"
    if not target.exists():
        target.write_text(_TEMPLATE.read_text() + WARM_LAUNCHER)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(EVENT_BATCH_SIZE))
    return home


def name_of(home: Path) -> str:
    """Name an instance folder for good: whoever asks first gives it a name, every process that has the folder knows it by that.

    Not by its host's name: of two containers that share the folder each has a name of its own.
    """
    path = home / "name"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = home / f"name.{secrets.token_hex(4)}"  # not by the process: in containers all of them are number 1
        try:
            draft.write_text(f"{socket.gethostname()}-{secrets.token_hex(4)}")
            with suppress(FileExistsError):
                os.link(draft, path)  # whole, or not at all
        finally:
            draft.unlink(missing_ok=True)
    return f"{path.read_text()}-{path.stat().st_ino}"  # a copy of the folder is another one


class HomeInUseError(RuntimeError):
    """Another loop runs on the same instance folder; two would delete each other's sockets and share a lease."""


def lock_home(home: Path) -> IO[str]:
    """Take the instance folder for this process; the lock goes with the process, however it ends.

    Raises
    ------
    HomeInUseError
        Another process holds it.
    """
    lock = (home / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        by = f"another `quantum up`, `quantum serve daemon` or `quantum example` (process {holder})"
        msg = f"{home} is used by {by}. Stop it, or set QUANTUM_HOME to another folder."
        raise HomeInUseError(msg) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def holder_of(home: Path) -> str:
    """Give the number of the process that holds an instance folder; empty where none does."""
    try:
        with (home / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return ""
    except BlockingIOError:
        return (home / "lock").read_text().strip()
    except OSError:
        return ""


class StorageUnavailableError(RuntimeError):
    """The database that keeps Dagster's storage does not answer."""


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Open the product's Dagster instance, creating its storage on first use.

    Raises
    ------
    StorageUnavailableError
        Its database does not answer, after some ten seconds of tries, each with its reason in the log.
    """
    import dagster as dg
    from dagster_postgres.utils import DagsterPostgresException

    home = prepare_home(settings)
    with (home / "storage.lock").open("a") as lock:  # two processes creating the storage at once would stamp its version twice
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return dg.DagsterInstance.from_config(str(home))
        except DagsterPostgresException as error:
            msg = f"Dagster's storage does not answer ({error}). Start PostgreSQL, or mend DAGSTER_POSTGRES_URL."
            raise StorageUnavailableError(msg) from error


def wait_for_instance(settings: Settings, say: Callable[[str], object]) -> dg.DagsterInstance:
    """Open the instance as soon as its database answers; say so as long as it does not.

    A service manager gives up a process that ends time and again, and would not start it when the database is back.
    """
    while True:
        try:
            return open_instance(settings)
        except StorageUnavailableError as error:
            say(f"{error} Asked again.")
            time.sleep(STORAGE_AGAIN_SEC)


if __name__ == "__main__":
    from resources.instance.dagster_internals import storage_id

    with wait_for_instance(load_settings(), partial(print, file=sys.stderr, flush=True)) as opened:
        print(storage_id(opened))  # noqa: T201 - for who started this
