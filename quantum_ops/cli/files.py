"""Files that a command writes where it was asked to: each there whole, or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import click

from quantum_core.exit_codes import EXIT_FAILED

WRONG_PLACE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)  # another name helps


class NotWrittenError(click.ClickException):
    """There was no room for a file, or the disk failed: the call was right."""

    exit_code = EXIT_FAILED


def write_whole(path: Path, content: bytes, option: str = "file") -> None:
    """Write a file beside its place and give it its name; a device or a pipe is written to as it is.

    Parameters
    ----------
    path, content
        Which, and what.
    option
        What to give another of, should this one not do.

    Raises
    ------
    click.UsageError
        The file cannot be there: exit code 2.
    NotWrittenError
        There is no room: exit code 1. What was there before is as it was.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            _replace(path.resolve(), content)
    except OSError as error:
        raise unwritten(path, error, option) from error


def unwritten(path: Path, error: OSError, option: str = "file") -> click.ClickException:
    """Say that a file cannot be written, and what to do."""
    message = f"{path} cannot be written ({error}): give another {option}"
    if isinstance(error, WRONG_PLACE):
        return click.UsageError(message)
    return NotWrittenError(f"{message}, or make room")


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
