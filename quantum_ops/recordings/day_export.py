"""One recorded day as one file that can be verified without our code: data, manifest, hashes, versions, and how.

Here belongs what is packed. What a manifest is, the archive says.
"""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, date, datetime
from pathlib import Path

from quantum_ops.report import made_with
from resources.recorder.archive import MANIFESTS, Archive, Fault, sha256_of
from resources.recorder.names import DAY_FILE

SUMS, VERSIONS, README = "SHA256SUMS", "versions.json", "README.md"

TEXT = """# What quantum recorded on {day}

One Parquet file per table and day (zstd), `recorder/<table>/date={day}/`. `at` is when a step took its inputs, UTC; a row stands
until the next one of its symbol; `without_result` names since when an asset had no result.

## Verify

{state}

```sh
sha256sum -c {sums}
{links}```

Versions that wrote this: `{versions}`.

## Read

Files of one table may have different columns: what a file lacks is null. In place of `{table}`: {tables}.

```sh
python -c "{polars}"
duckdb -c "{duckdb}"
```
"""
READ_BY = {  # what reads a table whose files lack columns of others
    "polars": "import glob, polars as pl; files = sorted(glob.glob('{files}')); "
    "print(pl.concat(map(pl.read_parquet, files), how='diagonal_relaxed'))",
    "duckdb": "SELECT * FROM read_parquet('{files}', union_by_name=true) LIMIT 10",
}
COMPACTED = """The hashes in `{sums}` are those of `recorder/manifests/{day}.json`, written when the day was over. That
manifest names the hash of the one before it; whoever has that one, or the next, sees that the day was not exchanged."""
OPEN = """This day was not over, or not compacted yet, when it was packed: the hashes in `{sums}` were made
while packing and are in no chain. Pack it again later."""
LINK = """# prints {sha256}, if it is the manifest before this one:
sha256sum recorder/manifests/{before}.json
"""


def pack(archive: Archive, day: date, target: Path) -> None:
    """Write the files of a day with what verifies them; the same day gives the same bytes but for the versions.

    Parameters
    ----------
    archive, day
        What is packed; also what is not as it was written, which :func:`faults_of` names.
    target
        The tar; it is there whole or not at all.

    Raises
    ------
    OSError
        It cannot be written.
    """
    files = {str(path.relative_to(archive.root.parent)): path for name in archive.tables() for path in archive.files(name, day)}
    sums = {name: sha256_of(path) for name, path in files.items()}
    previous = None
    if archive.is_compacted(day):
        manifest = archive.manifest(day)
        for table, written in manifest["tables"].items():  # as it was written, whatever the file is now
            sums[f"{archive.root.name}/{table}/date={day}/{DAY_FILE}"] = written["sha256"]
        previous = manifest["previous"]
        for one in [day, *([date.fromisoformat(previous["date"])] if previous else [])]:
            if archive.manifest_path(one).exists():
                files[f"{archive.root.name}/{MANIFESTS}/{one}.json"] = archive.manifest_path(one)
    state = (COMPACTED if archive.is_compacted(day) else OPEN).format(sums=SUMS, day=day)
    tables = sorted({name.split("/")[1] for name in sums})
    table = next((name for name in tables if name == "market_state"), next(iter(tables), "market_state"))
    links = LINK.format(before=previous["date"], sha256=previous["sha256"]) if previous else ""
    queries = {program: query.format(files=f"recorder/{table}/date={day}/*.parquet") for program, query in READ_BY.items()}
    of_day = {"day": day, "table": table, "tables": ", ".join(f"`{name}`" for name in tables)}
    texts = {
        README: TEXT.format(**of_day, **queries, state=state, sums=SUMS, versions=VERSIONS, links=links),
        SUMS: "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())),
        VERSIONS: json.dumps(made_with(), indent=2),
    }
    partial = target.with_name(f"{target.name}.tmp")
    moment = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    try:
        with tarfile.open(partial, "w") as tar:
            for name, text in texts.items():
                _add(tar, name, io.BytesIO(text.encode()), len(text.encode()), moment)
            for name, path in sorted(files.items()):
                with path.open("rb") as file:
                    _add(tar, name, file, path.stat().st_size, moment)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def faults_of(archive: Archive, day: date) -> list[Fault]:
    """Name what of a day is not as it was written; the whole chain is verified, for a day is exchanged with its manifest."""
    changed = [fault for fault in archive.verify_day(day) if fault.day == str(day)]
    named = {fault.file for fault in changed}
    return changed + [fault for fault in archive.damaged([day]) if fault.file not in named]


def _add(tar: tarfile.TarFile, name: str, content: io.BufferedIOBase, size: int, moment: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, moment, 0o644
    tar.addfile(entry, content)
