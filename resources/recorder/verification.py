"""Verify an archive every minute without hashing gigabytes every minute.

A file of a compacted day is hashed when it is new or its size or time has changed, and again after a day: a changed byte whose
writer put the time of the file back is found within that day. What was hashed is remembered beside the archive, because the next
poll may be another process'. This finds what went wrong by itself, or by somebody who does not know of it; against one who does,
keep the hash of the newest manifest somewhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from resources.recorder import storage
from resources.recorder.archive import Archive, Fault, sha256_of
from resources.recorder.names import DAY_FILE

MEMORY_FILE = "verified.json"
REMEMBERED_SEC = 86_400
HASHED_BYTES_MAX = 1_000_000_000  # in one poll: some three seconds of the minute the proof pack has


@dataclass(frozen=True)
class Hashed:
    """A file as it was hashed: its size and time, epoch s of the hashing, and the hash."""

    size: int
    mtime_ns: int
    at: float
    sha256: str


class Verifier(Archive):
    """Verifies one archive, once.

    Parameters
    ----------
    root
        The folder ``recorder``.
    now
        Epoch s.
    bytes_max
        Hashed in this poll, but for the one file that goes beyond it.

    Attributes
    ----------
    compared, hashed, postponed
        Files of compacted days that were compared with their manifest, those of them that were hashed for it, and files that no
        poll has hashed yet, for which there was no room in this one.
    """

    def __init__(self, root: Path, now: float, bytes_max: int = HASHED_BYTES_MAX) -> None:
        super().__init__(root)
        self.compared = self.hashed = self.postponed = 0
        self._now, self._room = now, bytes_max
        self._before = _remembered(root / MEMORY_FILE)
        self._memory: dict[str, Hashed] = {}

    def verify(self) -> Iterator[Fault]:
        """Name what is not as it was written, see :meth:`resources.recorder.archive.Archive.verify`; remember what was hashed."""
        yield from super().verify()
        if self._memory != self._before:
            text = json.dumps({name: [one.size, one.mtime_ns, one.at, one.sha256] for name, one in self._memory.items()})
            with suppress(OSError):  # another process has done it, or the folder is not ours to write: then each poll hashes
                storage.write_whole(self.root / MEMORY_FILE, text.encode())

    def _verify_files(self, tables: Mapping[str, Any], day: date) -> Iterator[Fault]:
        for table, written in tables.items():
            path = self.folder(table, day) / DAY_FILE
            name = str(path.relative_to(self.root))
            try:
                digest = self._digest(path, name)
            except (FileNotFoundError, IsADirectoryError):
                yield Fault(str(day), name, "is missing")
                continue
            if digest and digest != written["sha256"]:
                yield Fault(str(day), name, "is not as it was written")
        for table in self.tables():
            if table not in tables and (self.folder(table, day) / DAY_FILE).exists():
                yield Fault(str(day), f"{table}/date={day}/{DAY_FILE}", "is in no manifest")

    def _digest(self, path: Path, name: str) -> str:
        """Give the hash of a file, remembered or made now; empty where it has to wait."""
        stat, known = path.stat(), self._before.get(name)
        if known is not None and (known.size, known.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            known = None
        old = known is None or not 0 <= self._now - known.at < REMEMBERED_SEC
        if old and self._room > 0:
            self._room -= stat.st_size
            self.hashed += 1
            known = Hashed(stat.st_size, stat.st_mtime_ns, self._now, sha256_of(path))
        if known is None:
            self.postponed += 1
            return ""
        self.compared += 1
        self._memory[name] = known
        return known.sha256


def _remembered(path: Path) -> dict[str, Hashed]:
    """Read what was hashed; what cannot be read was not."""
    try:
        return {str(name): Hashed(*fields) for name, fields in json.loads(storage.read_text(path)).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
