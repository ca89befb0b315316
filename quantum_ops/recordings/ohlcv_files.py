"""Candles from files, as exchanges and programs write them: text, JSON and column files, packed or not.

Here belongs opening them by their content; layouts, row checks and names of files have modules beside this one. Live candles have
readers of their own.
"""

from __future__ import annotations

import csv
import gzip
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl

from quantum_ops.recordings.dialects import LINE_MAX, Dialect, dialect_of, positions
from quantum_ops.recordings.file_judging import judge, parse
from quantum_ops.recordings.file_names import BESIDE, SUFFIXES, named_file
from quantum_ops.recordings.file_rows import ROWS_MAX, OhlcvFile, OhlcvFileError, Rows, short
from quantum_ops.recordings.file_text import blocks_of, chained, decoded, json_lines, json_table

FRAME_ROWS = 500_000  # of Parquet and Feather files, parsed at once

Progress = Callable[[int, int], None]  # bytes of the file read so far, and all of them


def read_ohlcv(*paths: Path, progress: Progress | None = None) -> OhlcvFile:
    """Read the candles of one symbol from one file, or from several (the months of an archive).

    Parameters
    ----------
    *paths : Path
        Text (separators ``, ; | tab``, UTF-8 or UTF-16, a preamble of some lines), JSON (arrays, objects, one object a line, the
        answer of an interface), Parquet or Feather; text and JSON also as .gz or .zip. The content counts, not the suffix. A
        header has a time and open, high, low, close, volume in any case and order (SPELLINGS); without a header the columns
        are recognised by their number (HEADERLESS). Times are epoch s, ms, us or ns, also mixed, or dates with or without a time
        of day; without a zone they are UTC.
    progress
        Called after each block.

    Returns
    -------
    OhlcvFile
        Sorted candles, rows left out by line number and reason, and the number of duplicates. Rows of one time with other
        prices contradict each other: all of them are malformed. At most ROWS_MAX rows; memory about 55 bytes a row.

    Raises
    ------
    OhlcvFileError
        If a file cannot be opened, is empty, damaged or beyond the limits, or its columns are not recognised.
    """
    sink = Rows()
    for path in paths:
        sink.begin(path)
        try:
            _read_file(path, sink, progress)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error, pl.exceptions.PolarsError, ValueError) as error:
            raise _unreadable(path, error) from error
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # damaged, packed in another way, encrypted
            raise _unreadable(path, error) from error
        except pl.exceptions.PanicException as error:
            raise _unreadable(path, error) from None
        sink.end()
    return sink.merged()


def _unreadable(path: Path, error: BaseException) -> OhlcvFileError:
    cause = short(error.strerror if isinstance(error, OSError) and error.strerror else error) or type(error).__name__
    return OhlcvFileError(f"{path} cannot be read ({cause}): give an existing, undamaged file with candles")


def _read_file(path: Path, sink: Rows, progress: Progress | None) -> None:
    with path.open("rb") as raw:
        size = path.stat().st_size
        head = raw.read(8)
        raw.seek(0)

        def tell() -> None:
            if progress is not None:
                progress(min(raw.tell(), size), size)

        if not head:
            message = f"{path} is empty: give a file with candles"
            raise OhlcvFileError(message)
        if head.startswith((b"PAR1", b"ARROW1")) or path.suffix.lower() == ".parquet":
            sink.part(path.name)
            _read_frame(path, pl.scan_parquet(path) if head[:4] != b"ARRO" else pl.scan_ipc(path), sink)
        elif head.startswith(b"PK\x03\x04"):
            _read_zip(path, raw, sink, tell)
        elif head.startswith(b"\x1f\x8b"):
            sink.part(path.name)
            with gzip.GzipFile(fileobj=raw) as stream:
                _read_text(path, cast("BinaryIO", stream), sink, tell)
        else:
            sink.part(path.name)
            _read_text(path, raw, sink, tell)


def _read_zip(path: Path, raw: BinaryIO, sink: Rows, tell: Callable[[], None]) -> None:
    """Read the members one after the other, never to disk."""
    with zipfile.ZipFile(raw) as archive:
        members = [one for one in archive.infolist() if not one.is_dir() and not BESIDE.search(one.filename)]
        members = [one for one in members if Path(one.filename).suffix.lower() in (*SUFFIXES[:6], "")]
        symbols = {named_file(Path(one.filename)).symbol for one in members} - {None}
        if not members or len(symbols) > 1:
            holds = f"several symbols ({short(', '.join(sorted(map(str, symbols))))})" if members else "no CSV or JSON file"
            message = f"{path} holds {holds}: unpack it, and give a file of candles per symbol"
            raise OhlcvFileError(message)
        for member in members:
            sink.part(f"{path.name}:{short(Path(member.filename).name)}")
            with archive.open(member) as stream:
                _read_text(path, cast("BinaryIO", stream), sink, tell)


def _read_text(path: Path, stream: BinaryIO, sink: Rows, tell: Callable[[], None]) -> None:
    chunks = decoded(path, stream)
    first = next(chunks, b"")
    if not first.strip():
        message = f"{path} is empty: give a file with candles"
        raise OhlcvFileError(message)
    start = first.lstrip()[:64].replace(b" ", b"").replace(b"\n", b"")
    if start.startswith(b"[["):
        chunks = json_lines(path, chained(first, chunks))
    elif start.startswith((b"{", b"[{", b"[]")):
        chunks = iter((json_table(path, chained(first, chunks)),))
    else:
        chunks = chained(first, chunks)
    dialect: Dialect | None = None
    for number, block, too_long in blocks_of(chunks):
        if dialect is None and block:
            dialect, skipped = dialect_of(path, block)
            number, block = number + skipped[0], block[skipped[1] :]
        if block and dialect is not None:
            parse(path, block, number, dialect, sink)
        if too_long:
            sink.leave_out(1, [(too_long, f"longer than {LINE_MAX} bytes")])
        tell()


def _read_frame(path: Path, lazy: pl.LazyFrame, sink: Rows) -> None:
    schema = lazy.collect_schema()
    at = positions(path, schema.names())
    height = int(lazy.select(pl.len()).collect().item())
    if height > ROWS_MAX:
        message = f"{path} has more than {ROWS_MAX:,} rows: split it"
        raise OhlcvFileError(message)
    names = schema.names()
    wanted = [pl.col(names[index]).alias(column) for column, index in at.items()]
    dialect = Dialect("", at, len(names), header=True)
    for start in range(0, height, FRAME_ROWS):
        taken = lazy.select(wanted).slice(start, FRAME_ROWS).collect().with_row_index("line", start + 1)
        judge(path, taken, dialect, sink, None)
