"""The archive: one folder per table and day, written in flushes, compacted once a day, chained by hashes.

::

    recorder/<table>/date=2026-11-30/part-000000000042.parquet   of an open day, one per flush
    recorder/<table>/date=2026-11-30/day.parquet                 of a compacted day, sorted
    recorder/manifests/2026-11-30.json                           rows, bytes and SHA-256 of each file, and of the manifest before
    recorder/position.json                                       the last flush, how far each stream has been read, and how many
                                                                 files of how many bytes each table of an open day has

A flush is committed by ``position.json``: parts with a higher number are leftovers of a process that was killed, and the next one
removes them. A day is compacted when its manifest stands: until then its parts count, from then on ``day.parquet`` alone.
Here belongs what is in the folder; what is recorded is :mod:`resources.recorder.tape`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from resources.recorder import storage
from resources.recorder.names import DAY_FILE, day_named, day_of_folder, is_table, part_number, text_of, what_is_foreign

MANIFESTS, SET_ASIDE = "manifests", "set-aside"
POSITION_FILE = "position.json"
RETAINED_FILE = "retained-since.json"  # beside the manifests: of earlier days retention has removed the files
FILES = "files"  # in position.json: open day to table to number and bytes of its parts
GAPS = "gaps"  # table of what was lost before it was written
_ANSWERED = re.compile(r"(?:\(os error |\[Errno )(\d{1,5})[)\]]")  # as Polars and Python write it
SORTED_BY = ("symbol", "seq", "entry_id", "at")  # of a compacted table, those it has

WrittenFiles = dict[str, dict[str, tuple[int, int]]]
EVERY = "*"  # table
Wanted = Mapping[str, Sequence[tuple[date, date]]]  # table, or EVERY, to the days from one until another


@dataclass(frozen=True)
class Position:
    """How far the archive has come.

    Attributes
    ----------
    flush
        Number of the last committed one.
    seq
        Of the last record of a cycle that was written.
    streams
        Name of a stream to the id of its last entry that was written.
    day
        ISO date into which was last written: nothing is added to an earlier one.
    """

    flush: int = 0
    seq: int = 0
    streams: Mapping[str, str] = field(default_factory=dict)
    day: str = ""


@dataclass(frozen=True)
class Fault:
    """Something in the archive is not as it was written."""

    day: str
    file: str
    what: str


class Entry(NamedTuple):
    """What is in the folder of a table and day."""

    table: str
    day: date
    name: str
    is_file: bool


class DamagedError(ValueError):
    """What the archive says of its own files cannot be read."""


class DamagedPositionError(DamagedError):
    """What is committed cannot be known: nothing may be read anew or written over until a person has looked."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(
            f"{path} is damaged: {why}. It says which files count and what is to be read next. Restore it from a copy, or move "
            "the whole folder away: then a new archive begins, and this one stays as it is."
        )


class Archive:
    """Reads and writes the files below one folder.

    Parameters
    ----------
    root
        The folder ``recorder``, which is made by the first flush; or the address of a prefix of an object store.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = storage.place_of(root)

    def position(self) -> Position:
        """Read how far it has come; the beginning where nothing was written yet.

        Raises
        ------
        DamagedPositionError
            The file is damaged; without it nobody knows which parts count.
        """
        return self._committed()[0]

    def _committed(self) -> tuple[Position, WrittenFiles]:
        """Read how far it has come, and the files of open days that were committed with it."""
        path = self.root / POSITION_FILE
        try:
            fields = json.loads(storage.read_text(path))
            files = {
                day: {table: (int(count), int(size)) for table, (count, size) in tables.items()}
                for day, tables in fields.pop(FILES, {}).items()
                if date.fromisoformat(day)
            }
            position = Position(**fields)
            _ = position.day and date.fromisoformat(position.day)
        except FileNotFoundError:
            parts = self.root.glob("*/date=*/part-*.parquet")
            if any((part_number(part.name) or 0) > 1 for part in parts) or self.manifest_days():
                raise DamagedPositionError(path, "it is missing, though there are files") from None
            return Position(), {}
        except IsADirectoryError:
            raise DamagedPositionError(path, "it is a folder") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise DamagedPositionError(path, error) from None
        numbers = (position.flush, position.seq)
        texts = (position.day, *position.streams, *position.streams.values()) if isinstance(position.streams, dict) else (None,)
        if not all(type(one) is int and one >= 0 for one in numbers) or not all(isinstance(one, str) for one in texts):
            raise DamagedPositionError(path, f"it holds {position}"[:200])
        return position, files

    def tables(self) -> list[str]:
        """Name the tables that have any file."""
        if not self.root.is_dir():
            return []
        folders = (one for one in self.root.iterdir() if is_table(one.name) and one.name not in (MANIFESTS, SET_ASIDE))
        return sorted(one.name for one in folders if one.is_dir())

    def days(self, table: str = "") -> list[date]:
        """Give the days of which there are files, of one table or of any, oldest first."""
        tables = [table] if table else self.tables()
        found = (day_of_folder(one.name) for name in tables for one in (self.root / name).glob("date=*"))
        return sorted({day for day in found if day is not None})

    def files(self, table: str, day: date) -> list[Path]:
        """Give the files of a table and day that count, in the order in which they were written."""
        folder = self.folder(table, day)
        if self.is_compacted(day):
            return [one for one in (folder / DAY_FILE,) if _is_file(one)]
        return self._parts(table, day)

    def damaged(self, days: Sequence[date]) -> Iterator[Fault]:
        """Read every file of some days whole, and name those that cannot be read: what a query meets has a name only here."""
        for day in days:
            for table in self.tables():
                for path in self.files(table, day):
                    try:
                        pl.read_parquet(str(path))
                    except (pl.exceptions.PolarsError, OSError) as error:
                        yield self._unreadable(day, path, error)

    def is_compacted(self, day: date) -> bool:
        """Say whether the manifest of a day stands."""
        return self.manifest_path(day).exists()

    def manifest_path(self, day: date) -> Path:
        """Name the manifest of a day."""
        return self.root / MANIFESTS / f"{day}.json"

    def folder(self, table: str, day: date) -> Path:
        """Name the folder of a table and day."""
        return self.root / table / f"date={day}"

    def read(self, table: str, days: Sequence[date] | None = None, unreadable: list[Fault] | None = None) -> pl.LazyFrame:
        """Read a table, as a query that has not run yet; files of older versions lack columns, which are null then.

        Parameters
        ----------
        table
            Its name; a table without files has no rows and no columns.
        days
            Which; all of them when not given.
        unreadable
            Receives the files that are no Parquet, which are left out; without it they raise.

        Raises
        ------
        ValueError
            A file cannot be read, and ``unreadable`` is not given.
        """
        frames = []
        for day in self.days(table) if days is None else days:
            for path in self.files(table, day):
                try:
                    pl.read_parquet_schema(str(path))
                except (pl.exceptions.PolarsError, OSError) as error:
                    fault = self._unreadable(day, path, error)
                    if unreadable is None:
                        message = f"{fault.file} {fault.what}"
                        raise ValueError(message) from None
                    unreadable.append(fault)
                    continue
                frames.append(pl.scan_parquet(str(path)))
        return pl.concat(frames, how="diagonal_relaxed") if frames else pl.LazyFrame()

    def remove_uncommitted(self) -> list[Path]:
        """Remove the parts of a flush that was never committed, and unfinished files; give what was removed."""
        flush = self.position().flush
        leftovers = [
            path
            for table in self.tables()
            for path in (self.root / table).glob("date=*/*")
            if (path.name.startswith("part-") and path.suffix == ".tmp") or (part_number(path.name) or 0) > flush
            if storage.is_remote(path) or path.is_file()  # else it is a stranger's: named, and not removed
        ]  # not day.tmp: a compaction may be under way in another process
        leftovers += self.root.glob("*.tmp")
        for path in leftovers:
            path.unlink(missing_ok=True)
        return leftovers

    def write(self, tables: Mapping[str, pl.DataFrame], position: Position) -> int:
        """Write one flush, and commit it: whole or not at all; give the bytes of its files.

        Parameters
        ----------
        tables
            Rows of each table that has any.
        position
            As it stands afterwards; its number is the last one and one more.

        Raises
        ------
        OSError
            There is no room, or the folder cannot be written; nothing is committed then.
        SupersededError
            In an object store, which has no lock: another recorder has committed meanwhile.
        """
        version = storage.version_of(self.root / POSITION_FILE)  # before it is read: what another commits meanwhile is not lost
        day, (before, files) = date.fromisoformat(position.day), self._committed()
        files = {one: written for one, written in files.items() if not self.is_compacted(date.fromisoformat(one))}
        written = files.setdefault(position.day, {})
        for table in self.tables() if not written else ():  # of a day that a version began which did not count them
            if (found := self._found(table, day, before.flush))[0]:
                written[table] = found
        total = 0
        for table, frame in tables.items():
            if len(frame):
                folder = self.folder(table, day)
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"part-{position.flush:012d}.parquet"
                write_parquet(frame, path)
                count, size = written.get(table, (0, 0))
                part_size = path.stat().st_size
                written[table] = (count + 1, size + part_size)
                total += part_size
        self.root.mkdir(parents=True, exist_ok=True)
        _write_text(self.root / POSITION_FILE, json.dumps({**asdict(position), FILES: files}), version)
        return total

    def _found(self, table: str, day: date, flush: int) -> tuple[int, int]:
        """Count the committed parts of a table and day, and add up their bytes."""
        sizes = storage.sizes(self.folder(table, day))
        parts = [size for name, size in sizes.items() if (number := part_number(name)) is not None and number <= flush]
        return len(parts), sum(parts)

    def compact(self, day: date) -> dict[str, Any]:
        """Make one sorted file of each table of a day that is over, and the manifest; give it.

        Done again after it was interrupted, it gives the same. A part that cannot be read is set aside and named in the manifest.
        """
        if self.is_compacted(day):
            self._remove_parts(day)
            return self.manifest(day)
        tables: dict[str, Any] = {}
        damaged: list[Fault] = []
        gaps: list[dict[str, Any]] = []
        for table in self.tables():
            parts = self._parts(table, day)
            if not parts:
                continue
            frame = self._joined(parts, day, damaged)
            columns = [name for name in SORTED_BY if name in frame.columns]
            path = self.folder(table, day) / DAY_FILE
            if not frame.width:
                path.unlink(missing_ok=True)  # of a compaction that was interrupted before the parts were damaged
                continue
            if table == GAPS:
                gaps = frame.select(pl.col(pl.String, pl.Int64)).to_dicts()
            write_parquet(frame.sort(columns, maintain_order=True, nulls_last=True), path)
            tables[table] = {"rows": len(frame), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        before = max((one for one in self.manifest_days() if one < day), default=None)
        set_aside = {str(Path(one.file).parent) for one in damaged}  # tables whose trouble has a name
        manifest = {
            "date": str(day),
            "previous": {"date": str(before), "sha256": sha256_of(self.manifest_path(before))} if before is not None else None,
            "tables": tables,
            "gaps": gaps,
            "set_aside": [asdict(one) for one in damaged],
            "lost": [asdict(one) for one in self._verify_open(day) if one.file not in set_aside],
        }
        for fault in damaged:  # as copies: done again after an interruption, the manifest names the same
            aside = self.root / SET_ASIDE / fault.file
            aside.parent.mkdir(parents=True, exist_ok=True)
            storage.copy(self.root / fault.file, aside)
        self.manifest_path(day).parent.mkdir(parents=True, exist_ok=True)
        _write_text(self.manifest_path(day), json.dumps(manifest, indent=1, sort_keys=True))
        self._remove_parts(day)
        return manifest

    def _joined(self, parts: Sequence[Path], day: date, damaged: list[Fault]) -> pl.DataFrame:
        """Read parts into one table; those that cannot be read, or do not fit to those before them, are named and left out."""
        read: dict[Path, pl.DataFrame] = {}
        for path in parts:
            source = storage.content_of(path)  # a store that does not answer raises here: that is no damage
            try:
                read[path] = pl.read_parquet(source)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
                damaged.append(self._unreadable(day, path, error))
        table, misfits = joined(list(read.values()))
        named = list(read)
        damaged += [Fault(str(day), str(named[one].relative_to(self.root)), "has columns of other types") for one in misfits]
        return table

    def manifest_days(self) -> list[date]:
        """Give the days that have a manifest, oldest first."""
        found = (day_named(one.stem) for one in (self.root / MANIFESTS).glob("????-??-??.json"))
        return sorted(day for day in found if day is not None)

    def manifest(self, day: date) -> dict[str, Any]:
        """Read the manifest of a day.

        Raises
        ------
        DamagedError
            It is damaged.
        """
        try:
            manifest = dict(json.loads(storage.read_text(self.manifest_path(day))))
            previous, hashes = manifest["previous"], {table: written["sha256"] for table, written in manifest["tables"].items()}
            lost = [Fault(**one) for one in manifest.get("lost", ())]
            _ = previous is None or (previous["date"], previous["sha256"]), hashes, lost
        except (ValueError, TypeError, KeyError, AttributeError, IsADirectoryError) as error:
            message = f"{self.manifest_path(day)} is damaged: {type(error).__name__}: {error}"
            raise DamagedError(message) from None
        return manifest

    def retained_since(self) -> date | None:
        """Give the first day whose files retention has left; ``None`` while it has removed none.

        Raises
        ------
        DamagedError
            The file is damaged.
        """
        path = self.root / MANIFESTS / RETAINED_FILE
        try:
            return date.fromisoformat(json.loads(storage.read_text(path))["since"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, IsADirectoryError) as error:
            message = f"{path} is damaged: {error}"
            raise DamagedError(message) from None

    def verify(self) -> Iterator[Fault]:
        """Compare every compacted day with its manifest, and every manifest with the one after it; name what differs.

        A changed byte, a removed or added file, a removed day and two days that changed places are each found. What retention
        has removed is no fault. Of an open day files that were removed or added, or have another size, are found, and named by
        its manifest, too. That the newest compacted day was removed with its manifest, only a copy elsewhere would show.
        """
        yield from self._verified()

    def verify_day(self, day: date) -> Iterator[Fault]:
        """Compare the files of one day with its manifest, and every manifest with the one after it; name what differs."""
        yield from self._verified(day)

    def _verified(self, only: date | None = None) -> Iterator[Fault]:
        manifests, retained_since = self.manifest_days(), None
        try:
            retained_since = self.retained_since()
        except ValueError as error:
            yield Fault("", f"{MANIFESTS}/{RETAINED_FILE}", str(error))
        for number, day in enumerate(manifests):
            try:
                manifest = self.manifest(day)
            except ValueError as error:
                yield Fault(str(day), f"{MANIFESTS}/{day}.json", str(error))
                continue
            if manifest.get("date") != str(day):
                yield Fault(str(day), f"{MANIFESTS}/{day}.json", f"is of {manifest.get('date')}")
            yield from self._verify_link(manifest, manifests[number - 1] if number else None, day)
            if only in (None, day) and (retained_since is None or day >= retained_since):
                yield from self._verify_files(manifest.get("tables", {}), day)
                yield from (Fault(**lost) for lost in manifest.get("lost", ()))
        yield from self._without_manifest({*manifests})
        yield from self._verify_open(only)
        yield from self.strays(None if only is None else {EVERY: [(only, only)]})

    def strays(self, wanted: Wanted | None = None) -> Iterator[Fault]:
        """Name what the recorder has not named in the folders of some days, or of all: no query of ours reads it."""
        return _foreign(self._entries(wanted))

    def _entries(self, wanted: Wanted | None) -> Iterator[Entry]:
        for table in self.tables():
            if wanted is None or table in wanted or EVERY in wanted:
                for folder, name, is_file in storage.entries(self.root / table):
                    day = day_of_folder(folder)
                    if day is not None and _is_wanted(wanted, table, day):
                        yield Entry(table, day, name, is_file)

    def incomplete(self, wanted: Wanted | None = None) -> Iterator[Fault]:
        """Name what is missing of some tables and days, or does not belong there, without hashing or reading any file.

        Where there is no ``position.json``, as in an exported day, nobody says what an open day has; and of the days of which
        no file is there, none is missing.
        """
        counted = (self.root / POSITION_FILE).exists()
        if counted:
            yield from self._verify_open(wanted=wanted)
        since = None
        try:
            since = self.retained_since()
        except DamagedError as error:
            yield Fault("", f"{MANIFESTS}/{RETAINED_FILE}", str(error))
        manifests = [day for day in self.manifest_days() if day >= (since or date.min) and _is_wanted(wanted, "", day)]
        entries = list(self._entries(wanted))  # after the manifests, which are written after the files
        present = {*self.days()} if not counted else {*manifests}
        whole = {(entry.table, entry.day) for entry in entries if entry.name == DAY_FILE and entry.is_file}
        for day in manifests:
            if day in present:
                yield from self._missing(day, wanted, whole)
        yield from _foreign(entries)

    def _missing(self, day: date, wanted: Wanted | None, whole: Collection[tuple[str, date]]) -> Iterator[Fault]:
        """Name the files of a compacted day that are not there, or were lost before it was compacted."""
        try:
            manifest = self.manifest(day)
        except DamagedError as error:
            yield Fault(str(day), f"{MANIFESTS}/{day}.json", str(error))
            return
        for table in manifest["tables"]:
            if _is_wanted(wanted, table, day) and (table, day) not in whole:
                yield Fault(str(day), f"{table}/date={day}/{DAY_FILE}", "is missing")
        for lost in (Fault(**one) for one in manifest.get("lost", ())):
            if _is_wanted(wanted, lost.file.partition("/")[0], day):
                yield lost

    def _verify_open(self, only: date | None = None, wanted: Wanted | None = None) -> Iterator[Fault]:
        """Name the tables of open days, or of one, that have other files than were committed."""
        try:
            position, files = self._committed()
        except DamagedPositionError as error:
            yield Fault("", POSITION_FILE, str(error))
            return
        newest = max(self.manifest_days(), default=date.min)
        for day in [one for one in map(date.fromisoformat, files) if only in (None, one) and one > newest]:
            written = files[str(day)]
            for table in sorted(one for one in {*written, *self.tables()} if _is_wanted(wanted, one, day)):
                count, size = written.get(table, (0, 0))
                found, found_size = self._found(table, day, position.flush)
                if (found, found_size) != (count, size) and not self.is_compacted(day):  # by now
                    what = f"has {found} files of {found_size} bytes, {count} of {size} bytes were written"
                    yield Fault(str(day), f"{table}/date={day}", what)

    def _without_manifest(self, manifests: set[date]) -> Iterator[Fault]:
        """Name the days that must have had one: a later day has, or they have a compacted file whose parts are gone."""
        newest = max(manifests, default=date.min)
        for day in [one for one in self.days() if one not in manifests]:
            if day < newest:
                yield Fault(str(day), f"{MANIFESTS}/{day}.json", "is missing, though later days have theirs")
            for table in self.tables():
                if _is_file(self.folder(table, day) / DAY_FILE) and not self._parts(table, day):
                    yield Fault(str(day), f"{table}/date={day}/{DAY_FILE}", "is in no manifest")

    def _verify_link(self, manifest: Mapping[str, Any], before: date | None, day: date) -> Iterator[Fault]:
        name, previous = f"{MANIFESTS}/{day}.json", manifest.get("previous")
        if previous is None and before is not None:
            yield Fault(str(day), name, f"begins a chain, though {before} came before")
        elif previous is not None and before is None:
            yield Fault(str(day), name, f"follows {previous.get('date')}, whose manifest is missing")
        elif previous is not None and before is not None:
            if previous.get("date") != str(before):
                yield Fault(str(day), name, f"follows {previous.get('date')}, not {before}")
            elif _is_file(self.manifest_path(before)) and previous.get("sha256") != sha256_of(self.manifest_path(before)):
                yield Fault(str(before), f"{MANIFESTS}/{before}.json", f"is not the one that {day} followed")

    def _verify_files(self, tables: Mapping[str, Any], day: date) -> Iterator[Fault]:
        for table, written in tables.items():
            path = self.folder(table, day) / DAY_FILE
            name = str(path.relative_to(self.root))
            if not _is_file(path):
                yield Fault(str(day), name, "is missing")
            elif sha256_of(path) != written["sha256"]:
                yield Fault(str(day), name, "is not as it was written")
        for table in self.tables():
            if table not in tables and _is_file(self.folder(table, day) / DAY_FILE):
                yield Fault(str(day), f"{table}/date={day}/{DAY_FILE}", "is in no manifest")

    def prune(self, keep_days: int, max_bytes: float) -> list[date]:
        """Remove the files of compacted days beyond their age, and of the oldest ones beyond the size; manifests stay."""
        since = self.retained_since()
        for day in [one for one in self.days() if since is not None and one < since and self.is_compacted(one)]:
            self._remove_day(day)  # of a removal that was interrupted
        days = self.days()
        sizes = {day: self.bytes_of(day) for day in days}
        removed: list[date] = []
        for day in [one for one in days if self.is_compacted(one)]:
            too_old = (days[-1] - day).days >= keep_days
            if not too_old and sum(sizes.values()) <= max_bytes:
                break
            _write_text(self.root / MANIFESTS / RETAINED_FILE, json.dumps({"since": str(day + timedelta(days=1))}))
            self._remove_day(day)
            sizes.pop(day)
            removed.append(day)
        return removed

    def _remove_day(self, day: date) -> None:
        for table in self.tables():
            folder = self.folder(table, day)
            for path in folder.glob("*"):
                path.unlink(missing_ok=True)
            if folder.is_dir():
                folder.rmdir()

    def bytes_of(self, day: date) -> int:
        """Add up the files of a day."""
        return sum(sum(storage.sizes(self.folder(table, day)).values()) for table in self.tables())

    def _unreadable(self, day: date, path: Path, error: BaseException) -> Fault:
        return Fault(str(day), str(path.relative_to(self.root)), f"cannot be read: {first_line(error)}")

    def _parts(self, table: str, day: date) -> list[Path]:
        parts = [path for path in self.folder(table, day).glob("part-*.parquet") if part_number(path.name) is not None]
        return sorted(path for path in parts if storage.is_remote(path) or path.is_file())

    def _remove_parts(self, day: date) -> None:
        for table in self.tables():
            for path in self._parts(table, day):
                path.unlink(missing_ok=True)


def joined(frames: Sequence[pl.DataFrame]) -> tuple[pl.DataFrame, list[int]]:
    """Put frames below each other, missing columns as nulls; and give the places of those whose columns are of other types.

    Types that differ become one that holds both, where there is one. Where there is none, the first frames decide.
    """
    if not frames:
        return pl.DataFrame(), []
    try:
        return pl.concat(frames, how="diagonal_relaxed"), []
    except pl.exceptions.PolarsError:
        pass
    types: dict[str, Any] = {}
    misfits = []
    for place, frame in enumerate(frames):
        if all(types.get(name, kind) == kind for name, kind in frame.schema.items()):
            types |= frame.schema
        else:
            misfits.append(place)
    fitting = [frame for place, frame in enumerate(frames) if place not in set(misfits)]
    return pl.concat(fitting, how="diagonal"), misfits


def _foreign(entries: Iterable[Entry]) -> Iterator[Fault]:
    for table, day, name, is_file in entries:
        if what := what_is_foreign(name, is_file=is_file):
            yield Fault(str(day), text_of(f"{table}/date={day}/{name}"), what)


def _is_wanted(wanted: Wanted | None, table: str, day: date) -> bool:
    """Say whether a table, or any of them where it has no name, is asked for on a day."""
    if wanted is None:
        return True
    asked = (table, EVERY) if table else wanted
    spans = [span for name in asked for span in wanted.get(name, ())]
    return any(first <= day <= last for first, last in spans)


def _is_file(path: Path) -> bool:
    """Say whether a file is there; a folder of its name is none, and an object store has none."""
    return path.exists() if storage.is_remote(path) else path.is_file()


def day_of(moment: datetime, position: Position) -> date:
    """Say into which day something of this moment is written: never one before that of the last flush."""
    return max(moment.date(), date.fromisoformat(position.day)) if position.day else moment.date()


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a file so that it is there whole or not at all, also when the power fails."""
    partial, is_part = path.with_suffix(".tmp"), path.stem.startswith("part-")
    statistics = not is_part  # of a few rows they take more room than these, and nothing is skipped by them
    try:
        if storage.is_remote(path):
            content = BytesIO()
            frame.write_parquet(content, compression="zstd", statistics=statistics)
            storage.write_whole(path, content.getvalue(), over="" if is_part else None)
        else:
            frame.write_parquet(partial, compression="zstd", statistics=statistics)
            storage.settle(partial, path)
    except pl.exceptions.PolarsError as error:  # which wraps what the disk says
        raise OSError(str(error)) from error
    finally:
        if not storage.is_remote(path):
            partial.unlink(missing_ok=True)


def compactable(archive: Archive) -> list[date]:
    """Give the days that are over and not compacted, oldest first.

    Manifests are a chain: a day before the newest of them is too late for it, and the proof ``archive_intact`` names it.

    Raises
    ------
    DamagedPositionError
        Nobody knows which day is over.
    """
    now, compacted = archive.position().day, archive.manifest_days()
    after = compacted[-1] if compacted else date.min
    return [day for day in archive.days() if after < day and str(day) < now]


def sha256_of(path: Path) -> str:
    """Fingerprint a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str, over: str | None = None) -> None:
    storage.write_whole(path, text.encode(), over=over)


def first_line(error: BaseException) -> str:
    """Give the first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def system_answer(error: BaseException) -> str:
    """Give what the operating system answered, however deeply wrapped: ``No space left on device``; empty where it did not."""
    number = _ANSWERED.search(str(error))
    return os.strerror(int(number[1])) if number else ""
