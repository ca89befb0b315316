"""Where an archive is: a local folder, or a prefix of an object store; the same few operations on both.

Everything else an archive does with a path is pathlib's, which :mod:`upath` gives object stores, too. What differs is here: how a
file appears whole or not at all (a rename here, one PUT there), how it is read, how large many are, whether a folder can be
locked, and how much room is left. Credentials come from the environment as the store's own tools read them (``AWS_*``); no
address has any.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import Any, cast

from quantum_core.settings import OBJECT_STORES, SettingsError

RETRIES, RETRY_SEC = 3, 20  # of one request; the recorder keeps what is not written, and tries again
EXTRA = "RECORDER_URL is an object store, which needs more packages: pip install 'quantum-risk-pipeline[s3]'"
LOCK_FILE = "lock"

try:
    from obstore.exceptions import BaseError
except ImportError:
    UNREACHABLE: tuple[type[Exception], ...] = ()
else:
    UNREACHABLE = (BaseError,)  # what a request of an object store raises that is no OSError
TROUBLES: tuple[type[Exception], ...] = (OSError, *UNREACHABLE)  # of a disk, or of a store


class SupersededError(RuntimeError):
    """Another recorder has written what was to be written: what is committed has to be read again."""


class LockedError(RuntimeError):
    """Another process has the folder."""


def place_of(address: Path | str) -> Path:
    """Give the path of a folder, or of an address such as ``s3://bucket/prefix``; nothing is asked yet.

    Raises
    ------
    SettingsError
        The packages for object stores are not installed.
    """
    if not isinstance(address, str) or "://" not in address:
        return Path(address) if isinstance(address, str) else address
    try:
        from obstore.fsspec import register
        from upath import UPath
    except ImportError as error:
        raise SettingsError(EXTRA) from error
    register(list(OBJECT_STORES))
    return cast("Path", UPath(address.rstrip("/"), retry_config=_retry()))


def is_remote(path: Path) -> bool:
    """Say whether a path is in an object store."""
    return not isinstance(path, Path)


def read_text(path: Path) -> str:
    """Read a small file.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    return _store(path).cat_file(_key(path)).decode() if is_remote(path) else path.read_text()


def content_of(path: Path) -> str | BytesIO:
    """Give what Polars reads a file from: of an object store its bytes, so that only what they are can be wrong.

    Raises
    ------
    OSError, UNREACHABLE
        The object store does not give them.
    """
    return BytesIO(_store(path).cat_file(_key(path))) if is_remote(path) else str(path)


def version_of(path: Path) -> str:
    """Give what an object store calls the content of a file; empty where there is none, or in a folder."""
    with suppress(FileNotFoundError):
        return str(_store(path).info(_key(path)).get("e_tag") or "") if is_remote(path) else ""
    return ""


def write_whole(path: Path, content: bytes, *, over: str | None = None) -> None:
    """Write a file so that it is there whole or not at all, also when the power fails.

    Parameters
    ----------
    path, content
        Which, and what.
    over
        In an object store, which nobody can lock: the version it must still have, empty where there must be none.

    Raises
    ------
    OSError
        It cannot be written.
    SupersededError
        It has another version.
    """
    if is_remote(path):
        _put(path, content, over)
        return
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_bytes(content)
    settle(partial, path)


def settle(partial: Path, path: Path) -> None:
    """Give a complete local file its name."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a name may be lost with the power that a later commit counts on
    finally:
        os.close(folder)


def copy(path: Path, target: Path) -> None:
    """Copy a file within an archive."""
    if is_remote(path):
        write_whole(target, _store(path).cat_file(_key(path)))
    else:
        shutil.copyfile(path, target)


def sizes(folder: Path) -> dict[str, int]:
    """Give the bytes of each Parquet file of a folder by its name, with one request for a thousand of them."""
    if is_remote(folder):
        found = _store(folder).find(_key(folder), detail=True)
        return {name.rpartition("/")[2]: int(of["size"]) for name, of in found.items() if name.endswith(".parquet")}
    return {path.name: size for path in folder.glob("*.parquet") if (size := _size(path)) is not None}


def entries(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Give what is in the folders below a folder: name of the folder, of the entry, and whether that is a file.

    Of an object store with one request for a thousand of them.
    """
    if is_remote(folder):
        for name in _store(folder).find(_key(folder)):
            *_, below, last = f"/{name}".rsplit("/", 2)
            yield below, last, True
        return
    for day in _scanned(folder):
        for entry in _scanned(day) if day.is_dir() else ():
            yield day.name, entry.name, entry.is_file()


def _scanned(folder: os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:  # removed by another process meanwhile
        return []


def lock(folder: Path) -> AbstractContextManager[Any]:
    """Lock a folder for this process alone; the lock ends with it. An object store has none: there the lease in Redis is all.

    Raises
    ------
    LockedError
        Another process has it.
    OSError
        The folder cannot be written.
    """
    if is_remote(folder):
        return nullcontext()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (folder / LOCK_FILE).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        message = f"another recorder writes to {folder}"
        raise LockedError(message) from None
    return file


def free_bytes(folder: Path) -> int | None:
    """Give the room that is left where a folder is, or would be made; ``None`` where nobody knows: an object store."""
    if is_remote(folder):
        return None
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(place).free


def _put(path: Path, content: bytes, over: str | None) -> None:
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    name, _, key = _key(path).partition("/")
    mode: Any = "overwrite" if over is None else {"e_tag": over} if over else "create"
    try:
        obstore.put(_bucket(f"{cast('Any', path).protocol}://{name}"), key, content, mode=mode)
    except (AlreadyExistsError, PreconditionError) as error:
        message = f"{path} was written by another recorder meanwhile"
        raise SupersededError(message) from error
    except BaseError as error:
        raise OSError(str(error)) from error


@cache
def _bucket(address: str) -> Any:
    from obstore.store import from_url

    return from_url(address, retry_config=_retry())


def _retry() -> Any:
    return {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SEC)}


def _store(path: Path) -> Any:
    return cast("Any", path).fs


def _key(path: Path) -> str:
    return str(cast("Any", path).path)


def _size(path: Path) -> int | None:
    """Give the bytes of a file; ``None`` where there is none, as a folder is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:  # compacted or removed by another process meanwhile
        return None
    return stat.st_size if S_ISREG(stat.st_mode) else None
