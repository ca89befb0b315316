"""Which names in an archive are the recorder's: parts, compacted files, days and tables; everything else is a stranger's.

A stranger's file is never read, and never removed: it is named, with what to do about it. Any other program that reads
``recorder/<table>/*/*.parquet`` would read it.
"""

from __future__ import annotations

import re
from datetime import date

from quantum_core.contracts.reading import printable

DAY_FILE = "day.parquet"
PART = re.compile(r"part-([0-9]{12,})\.parquet")
FOREIGN = "does not belong there: move it out of the archive"
NO_FILE = "is no file: move it out of the archive"


def part_number(name: str) -> int | None:
    """Give the number of the flush that wrote a part; ``None`` where the recorder gives no file such a name."""
    found = PART.fullmatch(name)
    return int(found[1]) if found else None


def day_named(text: str) -> date | None:
    """Read a day as the recorder writes it, ``2026-01-22``; ``None`` where it is written otherwise, or none."""
    try:
        day = date.fromisoformat(text)
    except ValueError:  # somebody's own
        return None
    return day if str(day) == text else None


def day_of_folder(name: str) -> date | None:
    """Read the day of a folder, ``date=2026-01-22``."""
    return day_named(name.removeprefix("date=")) if name.startswith("date=") else None


def is_table(name: str) -> bool:
    """Say whether the recorder may have named a folder so."""
    return name.isascii() and name.isidentifier()


def what_is_foreign(name: str, *, is_file: bool) -> str:
    """Say what is wrong with an entry in the folder of a day; nothing where it is the recorder's, or no query reads it."""
    ours = name == DAY_FILE or part_number(name) is not None
    if ours:
        return "" if is_file else NO_FILE
    return FOREIGN if name.endswith(".parquet") or (name.startswith("part-") and not name.endswith(".tmp")) else ""


def is_foreign(what: str) -> bool:
    """Say whether a fault is that something does not belong there; else something is missing."""
    return what in (FOREIGN, NO_FILE)


def text_of(name: str) -> str:
    """Write a path so that a terminal, a file and JSON take it; bytes that are no text as ``\\xff``."""
    return printable(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
