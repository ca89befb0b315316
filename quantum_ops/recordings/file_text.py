"""The bytes of text and JSON files as blocks of whole lines, in UTF-8, whatever the file has."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from quantum_ops.recordings.dialects import FIELDS_MIN, LINE_MAX
from quantum_ops.recordings.file_rows import OhlcvFileError

UNPACKED_MAX = 2 << 30  # bytes out of one file: a small archive may hold more than the machine
BLOCK_BYTES = 4 << 20  # read and parsed at once
JSON_MAX = 64 << 20  # bytes of JSON that must be read whole: objects, answers of an interface


def chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Put what was read ahead before the rest."""
    yield first
    yield from rest


def decoded(path: Path, stream: BinaryIO) -> Iterator[bytes]:
    """Give UTF-8 with line feeds, whatever the file has."""
    total = 0
    head = stream.read(1 << 12)
    source: Iterator[bytes]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = io.TextIOWrapper(io.BufferedReader(cast("Any", _Rejoined(head, stream))), "utf-16", errors="replace")
        source = iter(lambda: text.read(BLOCK_BYTES).encode(), b"")
    else:
        if b"\0" in head.partition(b"\n")[0] or head.startswith(b"BZh"):
            message = f"{path} is no text, JSON, Parquet, Feather, gz or zip file: convert it to one of these"
            raise OhlcvFileError(message)
        head = head.removeprefix(b"\xef\xbb\xbf")
        source = chained(head, iter(lambda: stream.read(BLOCK_BYTES), b""))
    bare = b"\r" in head and b"\n" not in head  # line ends of old Macintoshes
    for chunk in source:
        total += len(chunk)
        if total > UNPACKED_MAX:
            message = f"{path} holds more than {UNPACKED_MAX >> 30} GB: split it"
            raise OhlcvFileError(message)
        yield chunk.replace(b"\r", b"\n") if bare else chunk.replace(b"\r\n", b"\n") if b"\r" in chunk else chunk


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        super().__init__()
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        if not self._head:
            self._head = self._stream.read(len(into))
        count = min(len(into), len(self._head))
        into[:count], self._head = self._head[:count], self._head[count:]
        return count


def blocks_of(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes, int]]:
    """Cut into whole lines.

    Yields
    ------
    tuple
        Number of the first line, the lines with a line feed at the end, and the number of a line after them that was too long.
    """
    number, pending, skipping = 1, b"", 0
    for chunk in chunks:
        if skipping:
            _, line_feed, chunk = chunk.partition(b"\n")
            if not line_feed:
                continue
            skipping, number = 0, number + 1
        pending += chunk
        block, line_feed, unfinished = pending.rpartition(b"\n")
        if len(unfinished) > LINE_MAX:
            lines = block.count(b"\n") + 1 if line_feed else 0
            yield number, block + line_feed, number + lines
            number, pending, skipping = number + lines, b"", 1
        elif line_feed and len(pending) >= BLOCK_BYTES // 2:
            yield number, block + line_feed, 0
            number, pending = number + block.count(b"\n") + 1, unfinished
    if pending:
        yield number, pending if pending.endswith(b"\n") else pending + b"\n", 0


def json_lines(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turn an array of arrays, as freqtrade and ccxt write it, into lines of text while it is read."""
    kept, opened = b"", False
    for chunk in chunks:
        kept += chunk.translate(None, b"\n\r\t")
        if not opened:
            kept, opened = re.sub(rb"^\s*\[\s*\[", b"", kept), True
        end = re.search(rb"\]\s*(\]\s*)?$", kept[-LINE_MAX:])
        cut = len(kept) - len(end[0]) if end else kept.rfind(b"]")
        if cut > 0:
            yield re.sub(rb",\s+", b",", re.sub(rb"\]\s*,\s*\[\s*", b"\n", kept[:cut]))
            kept = kept[cut:]
    if not re.fullmatch(rb"\]\s*\]\s*", kept):
        message = f"{path} ends in the middle of its JSON: get it again"
        raise OhlcvFileError(message)


def json_table(path: Path, chunks: Iterator[bytes]) -> bytes:
    """Turn objects, or the answer of an interface, into text."""
    whole = bytearray()
    for chunk in chunks:
        whole += chunk
        if len(whole) > JSON_MAX:
            message = f"{path}: such JSON is read up to {JSON_MAX >> 20} MB: convert it to CSV or Parquet"
            raise OhlcvFileError(message)
    try:
        parsed: Any = orjson.loads(bytes(whole))
    except orjson.JSONDecodeError:
        parsed = [orjson.loads(line) for line in bytes(whole).splitlines() if line.strip()]  # one object a line
    rows = _rows_in(parsed, 0)
    if rows is None:
        message = f"{path} holds no array of candles: give arrays [time, open, high, low, close, volume] or objects"
        raise OhlcvFileError(message)
    text = io.StringIO()
    header = list(rows[0]) if isinstance(rows[0], dict) else None
    writer = csv.writer(text, lineterminator="\n")
    if header is not None:
        writer.writerow(header)
    writer.writerows([row.get(name) for name in header] if header is not None else row for row in rows)
    return text.getvalue().encode()


def _rows_in(parsed: Any, depth: int) -> list[Any] | None:
    """Find the one list of candles: lists, objects, or lists by column."""
    if isinstance(parsed, list) and parsed:
        for kind, size in ((list, FIELDS_MIN), (dict, 1)):
            if all(isinstance(row, kind) and len(row) >= size for row in parsed):
                return parsed
    if isinstance(parsed, dict) and depth < 4:  # Bybit: result, list
        by_name = {name: list(one.values()) if isinstance(one, dict) else one for name, one in parsed.items()}  # pandas: by index
        columns = {name: values for name, values in by_name.items() if isinstance(values, list)}
        if len(columns) > FIELDS_MIN and len({len(values) for values in columns.values()}) == 1:
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        inner = [rows for rows in (_rows_in(one, depth + 1) for one in parsed.values()) if rows]
        return inner[0] if len(inner) == 1 else None
    return None
