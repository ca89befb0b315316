"""Candles from files, as exchanges and programs write them: text, JSON and column files, packed or not.

Here belong the names of files, the layouts and the row checks. A malformed row is named and left out, never repaired; what
share of them is too many says :data:`MALFORMED_SHARE_MAX`, and the caller refuses. Live candles have readers of their own.
"""

import contextlib
import csv
import gzip
import io
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import polars as pl

from quantum_core.kernels.epochs import per_sec_of
from quantum_core.settings import as_listed

COLUMNS = ("open_time_ms", "open", "high", "low", "close", "volume")
PRICES = COLUMNS[1:5]
SCHEMA = {name: pl.Int64 if name == "open_time_ms" else pl.Float64 for name in COLUMNS}
MALFORMED_SHARE_MAX = 0.01  # of the rows of one file; beyond it the file is not what it seems
MALFORMED_KEPT = 100  # malformed rows named; the count is always exact
ROWS_MAX = 20_000_000  # of one symbol: 38 years of minutes, about 2 GB
UNPACKED_MAX = 2 << 30  # bytes out of one file: a small archive may hold more than the machine
BLOCK_BYTES = 4 << 20  # read and parsed at once
LINE_MAX = 1 << 16  # bytes; a longer line is no candle
JSON_MAX = 64 << 20  # bytes of JSON that must be read whole: objects, answers of an interface
FRAME_ROWS = 500_000  # of Parquet and Feather files, parsed at once
CELL_SHOWN = 40  # characters of a cell, a name or a cause in a message
SYMBOLS_SHOWN = 4
PREAMBLE_MAX = 5  # lines of text before the table, like the address of who made it

# --- the table of layouts -------------------------------------------------------------------------------------------------------

# Spellings of the columns, letters and digits only, in the order of preference. An event's time or a closing time is none.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "time": (
        *("opentimems", "opentime", "starttime", "start", "startat", "timeperiodstart", "candlebegintime"),
        *("unix", "unixtimestamp", "timestamp", "timestampms", "time", "datetime", "date", "ts", "t"),
    ),
    "open": ("open", "o", "priceopen"),
    "high": ("high", "h", "pricehigh"),
    "low": ("low", "l", "pricelow"),
    "close": ("close", "c", "priceclose"),
    "volume": ("volume", "v", "vol", "basevolume", "volumetraded", "tickvol", "tickvolume"),
    "closed": ("confirm", "closed", "isclosed", "isfinal", "final", "complete", "x"),
    "symbol": ("symbol", "pair", "ticker", "tic", "instrument", "instid"),
}
VOLUME_OF = re.compile(r"vol(ume)?[a-z0-9]+")  # CryptoDataDownload: Volume BTC, then Volume USDT; the first is that of the coin
NEEDED = ("open", "high", "low", "close", "volume")
# Without a header: number of columns -> position of each column. The order is the houses' own.
HEADERLESS: dict[int, dict[str, int]] = {
    6: dict(zip(("time", *NEEDED), range(6), strict=True)),  # ccxt, freqtrade (ms)
    7: dict(zip(("time", *NEEDED), range(6), strict=True)),  # Kraken (s, then trades), Bybit (ms, then turnover)
    8: dict(zip(("time", *NEEDED), (0, 1, 2, 3, 4, 6), strict=True)),  # Kraken's interface (s, vwap before the volume)
    9: dict(zip(("time", *NEEDED, "closed"), (*range(6), 8), strict=True)),  # OKX (ms)
    11: dict(zip(("time", *NEEDED), range(6), strict=True)),  # Binance without the last, unused column
    12: dict(zip(("time", *NEEDED), range(6), strict=True)),  # Binance (ms; spot us from 2025 on)
}
VWAP = 5  # its place in the one with 8
OTHER_ORDERS = {  # of columns without names, which nothing but the prices tells; named, never guessed
    "KuCoin": ("open", "close", "high", "low"),
    "HTX": ("open", "close", "low", "high"),
    "Coinbase": ("low", "high", "open", "close"),
}
SEPARATORS = (";", "\t", "|", ",")  # the comma last: it may be that of decimals
FIELDS_MIN = 5  # time and prices: a line with fewer is no line of the table
YES, NO = ("1", "true", "yes", "y", "1.0"), ("0", "false", "no", "n", "0.0")
EPOCH_SEC_MIN, EPOCH_SEC_MAX = 631_152_000, 4_102_444_800  # 1990 to 2100: no unit passes for another

LEAP = ":60"  # a leap second opens no candle
_TAIL = (
    r"(?:[T ,]+(?<H>\d{1,2})(?::(?<M>\d{2}))?(?::(?<S>\d{2})(?:[.,]\d{1,9})?)?(?:[ -]*(?<half>[AaPp])[Mm])?)?"
    r" ?(?<zone>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$"
)
_YEAR_FIRST = r"^(?<y>\d{4})[-./](?<m>\d{1,2})[-./](?<d>\d{1,2})" + _TAIL
_COMPACT = r"^(?<y>\d{4})(?<m>\d{2})(?<d>\d{2})(?:[T ]?(?<H>\d{2}):?(?<M>\d{2}):?(?<S>\d{2})?(?<half>X)?(?<zone>Z)?)?$"
_YEAR_LAST = r"^(?<m>\d{1,2})[-/](?<d>\d{1,2})[-/](?<y>\d{4})" + _TAIL
_DAY_FIRST = r"^(?<d>\d{1,2})[-/](?<m>\d{1,2})[-/](?<y>\d{4})" + _TAIL
_DOTTED = r"^(?<d>\d{1,2})\.(?<m>\d{1,2})\.(?<y>\d{4})" + _TAIL

# --- names of files -------------------------------------------------------------------------------------------------------------

SUFFIXES = (".csv", ".txt", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".feather", ".arrow", ".ipc", ".gz", ".zip")
_HOUSES = (
    "binance|binanceus|bitfinex|bitflyer|bitget|bitmex|bitstamp|bybit|bitvavo|cexio|coinbase|deribit|ftx|gateio|gemini|hitbtc"
    "|htx|huobi|hyperliquid|kraken|kucoin|mexc|okcoin|okex|okx|poloniex|upbit"
)
_QUOTES = (
    "FDUSD|USDT|USDC|BUSD|TUSD|USDP|USD1|USDE|DAI|USD|EUR|GBP|TRY|BRL|JPY|KRW|AUD|CHF|PLN|ARS|ZAR|MXN|IDR|BTC|XBT|ETH|BNB|PERP"
)
_DELIVERY = r"\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_REST = (
    r"(?:[-_ ,.:]+(?:\d+(?:s|m|min|h|d|w|mo)?|min|minute(?:ly)?|hour(?:ly)?|day|daily|spot|swap|perp|p|futures|linear|inverse"
    r"|um|cm|ohlcv?t?|klines?|candles?|candlesticks?|data|history|to|(?-i:[0-9a-f]{5})|\(\d+\)))*"
)
_STEM = re.compile(
    rf"(?:(?:{_HOUSES})[-_ .:]+)?(?P<base>[^\W_]{{1,30}}?)[-_]?(?P<quote>{_QUOTES})(?P<kind>_(?:PERP|{_DELIVERY}))?"
    rf"(?:[-_:](?:{_QUOTES}))?(?P<rest>{_REST})",
    re.IGNORECASE,
)
_REST_ONLY = re.compile(_REST, re.IGNORECASE)
_INTERVAL = re.compile(r"(\d+)(s|m|min|h|H|d|D|w|W|mo|M)")  # a capital M is a month
_UNIT_SEC = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_WORD_SEC = {"minute": 60, "minutely": 60, "hour": 3600, "hourly": 3600, "day": 86_400, "daily": 86_400}
_BARE_MINUTES = (1, 3, 5, 15, 30, 60, 120, 240, 360, 720, 1440, 10080)  # Kraken, Bybit and TradingView write no unit

Progress = Callable[[int, int], None]  # bytes of the file read so far, and all of them


class OhlcvFileError(Exception):
    """A file cannot be read as candles; the text says what to do."""


@dataclass(frozen=True)
class MalformedRow:
    """One row left out."""

    line: int  # line of the file, 1-based; for column files and JSON the row
    reason: str
    file: str = ""  # name of the file, and of the member of an archive


@dataclass
class FileRows:
    """What one file gave."""

    path: Path
    rows: int = 0  # with candles or malformed
    malformed: int = 0
    unclosed: int = 0  # left out because the file says that the candle was still running
    spacing_sec: float | None = None  # median of the times between its candles; unknown below two
    symbols: set[str] = field(default_factory=set)  # that its rows name, if they do
    hint: str = ""  # which other order of columns would fit

    @property
    def too_malformed(self) -> str:
        """Why the file is not to be used, or nothing."""
        if self.malformed <= MALFORMED_SHARE_MAX * self.rows:
            return ""
        share = f"{self.malformed} of {self.rows} rows of {self.path} are malformed, accepted: {MALFORMED_SHARE_MAX:.0%}"
        return f"{share}; {self.hint}" if self.hint else share


@dataclass(frozen=True)
class OhlcvFile:
    """Candles of one symbol, from one file or several."""

    frame: pl.DataFrame  # COLUMNS; times UTC epoch ms, sorted and unique
    malformed: list[MalformedRow]  # the first MALFORMED_KEPT
    duplicates: int  # rows left out because their open time had been seen, with the same prices
    malformed_count: int
    files: list[FileRows]


@dataclass(frozen=True)
class NamedFile:
    """What the name of a file says."""

    path: Path
    symbol: str | None
    interval_sec: int | None


def named_file(path: Path, known: Iterable[str] = ()) -> NamedFile:
    """Read symbol and interval out of the name of a file.

    Parameters
    ----------
    path
        Names as the houses give them: ``BTCUSDT-1m-2025-08.zip``, ``BTC_USDT_USDT-5m-futures.feather``, ``XBTUSD_1.csv``,
        ``Binance_BTCUSDT_2025_minute.csv``. Where the symbol has lower-case letters only, it is taken in upper case.
    known
        Symbols of the settings; where the name has one of them in another case, or none of the usual quotes, theirs counts.
    """
    stem = path.name
    while (suffix := Path(stem).suffix.lower()) in SUFFIXES:
        stem = stem[: -len(suffix)]
    by_fold = {one.casefold(): one for one in (*known,)[::-1]}
    match = _STEM.fullmatch(stem)
    if match is not None and not re.fullmatch(_HOUSES, match["base"], re.IGNORECASE):
        named = f"{match['base']}{match['quote']}{match['kind'] or ''}"
        symbol = named if named in known else by_fold.get(named.casefold(), as_listed(named))
        return NamedFile(path, symbol, _interval(match["rest"]))
    for fold in sorted(by_fold, key=len, reverse=True):
        if stem.casefold().startswith(fold) and _REST_ONLY.fullmatch(stem[len(fold) :]):
            return NamedFile(path, by_fold[fold], _interval(stem[len(fold) :]))
    return NamedFile(path, None, None)


def _interval(rest: str) -> int | None:
    tokens = [token for token in re.split(r"[-_ ,.:]+", rest) if token]
    if tokens and tokens[0].isdecimal() and int(tokens[0]) in _BARE_MINUTES:
        return int(tokens[0]) * 60
    for token in tokens:
        if match := _INTERVAL.fullmatch(token):
            return int(match[1]) * (_UNIT_SEC["mo"] if match[2] == "M" else _UNIT_SEC[match[2].lower()])
        if token.lower() in _WORD_SEC:
            return _WORD_SEC[token.lower()]
    return None


def files_in(folder: Path) -> list[Path]:
    """Give the files of a folder that may hold candles, by name; not those of folders inside.

    Raises
    ------
    OhlcvFileError
        The folder cannot be read or holds none.
    """
    try:
        found = sorted(
            path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES and path.name[0] != "."
        )
    except OSError as error:
        message = f"{folder} cannot be read ({_short(error.strerror)}): give a folder with files of candles"
        raise OhlcvFileError(message) from error
    if not found:
        message = f"{folder} has no files of candles ({', '.join(SUFFIXES)})"
        raise OhlcvFileError(message)
    return found


# --- reading --------------------------------------------------------------------------------------------------------------------


def read_ohlcv(*paths: Path, progress: Progress | None = None) -> OhlcvFile:
    """Read the candles of one symbol from one file, or from several (the months of an archive).

    Parameters
    ----------
    *paths : Path
        Text (separators ``, ; | tab``, UTF-8 or UTF-16, a preamble of some lines), JSON (arrays, objects, one object a line, the
        answer of an interface), Parquet or Feather; text and JSON also as .gz or .zip. The content counts, not the suffix. A
        header has a time and open, high, low, close, volume in any case and order (SPELLINGS); without a header the columns
        are told by their number (HEADERLESS). Times are epoch s, ms, us or ns, also mixed, or dates with or without a time
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
    sink = _Rows()
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
    cause = _short(error.strerror if isinstance(error, OSError) and error.strerror else error) or type(error).__name__
    return OhlcvFileError(f"{path} cannot be read ({cause}): give an existing, undamaged file with candles")


def _short(text: object) -> str:
    first = str(text).partition("\n")[0]
    shown = "".join(char if char.isprintable() else "?" for char in first[: 3 * CELL_SHOWN + 1])
    return shown if len(shown) <= 3 * CELL_SHOWN else shown[: 3 * CELL_SHOWN] + "..."


def _cell(value: object) -> str:
    shown = repr("" if value is None else value)
    return shown if len(shown) <= CELL_SHOWN else shown[:CELL_SHOWN] + "..."


class _Rows:
    """Candles and malformed rows of one symbol, while they are read."""

    def __init__(self) -> None:
        self.files: list[FileRows] = []
        self.labels: list[str] = []  # by part: the file, and the member of an archive
        self.frames: list[pl.DataFrame] = []  # COLUMNS, line, part
        self.malformed: list[MalformedRow] = []
        self.first_frame = 0  # of the file being read
        self.parts: list[int] = []  # by part: index of its file

    def begin(self, path: Path) -> None:
        self.files.append(FileRows(path))
        self.first_frame = len(self.frames)

    def part(self, label: str) -> None:
        self.labels.append(label)
        self.parts.append(len(self.files) - 1)

    def add(self, good: pl.DataFrame) -> None:
        self.files[-1].rows += good.height
        if good.height:
            self.frames.append(good.with_columns(pl.lit(len(self.labels) - 1, pl.UInt32).alias("part")))
        if sum(one.rows for one in self.files) > ROWS_MAX:
            message = f"{self.files[-1].path} brings more than {ROWS_MAX:,} rows: split them"
            raise OhlcvFileError(message)

    def leave_out(self, count: int, named: Iterable[tuple[int, str]]) -> None:
        self.files[-1].rows += count
        self.files[-1].malformed += count
        for line, reason in named:
            if len(self.malformed) >= MALFORMED_KEPT:
                return
            self.malformed.append(MalformedRow(line, reason, self.labels[-1]))

    def end(self) -> None:
        if self.frames[self.first_frame :]:
            times = pl.concat([frame["open_time_ms"] for frame in self.frames[self.first_frame :]])
            spacing = times.diff().abs().median()
            self.files[-1].spacing_sec = spacing / 1000 if isinstance(spacing, float) else None

    def merged(self) -> OhlcvFile:
        frame = pl.concat(self.frames) if self.frames else pl.DataFrame(schema={**SCHEMA, "line": pl.UInt32, "part": pl.UInt32})
        self.frames.clear()
        duplicates, steps = 0, frame["open_time_ms"].diff().drop_nulls()
        if not (steps > 0).all():
            frame = frame.reverse() if (steps < 0).all() else frame.sort("open_time_ms", maintain_order=True)
            same = frame["open_time_ms"].diff() == 0
            if same.any():
                times = frame.filter(same).select("open_time_ms").unique()
                twice = frame.join(times, on="open_time_ms", how="semi")
                against = self._contradictions(twice)
                frame = frame.unique("open_time_ms", keep="first", maintain_order=True).join(
                    against, on="open_time_ms", how="anti"
                )
                duplicates = twice.join(against, on="open_time_ms", how="anti").height
                duplicates -= times.join(against, on="open_time_ms", how="anti").height
        return OhlcvFile(frame.select(COLUMNS), self.malformed, duplicates, sum(one.malformed for one in self.files), self.files)

    def _contradictions(self, twice: pl.DataFrame) -> pl.DataFrame:
        """Name the rows of one time that have other prices; returns these times."""
        against = (
            twice.group_by("open_time_ms").agg(pl.struct(PRICES).n_unique().alias("versions")).filter(pl.col("versions") > 1)
        )
        against = against.select("open_time_ms")
        rows = twice.join(against, on="open_time_ms", how="semi")
        for part, count in rows.group_by("part").len().iter_rows():
            self.files[self.parts[part]].malformed += count
        seen: dict[int, dict[str, Any]] = {}
        for row in rows.head(20 * MALFORMED_KEPT).iter_rows(named=True):
            first = seen.setdefault(row["open_time_ms"], row)
            name = next((one for one in PRICES if row[one] != first[one]), None)
            if name is None or len(self.malformed) >= MALFORMED_KEPT:
                continue
            there = f"line {first['line']}" + (f" of {self.labels[first['part']]}" if first["part"] != row["part"] else "")
            at = datetime.fromtimestamp(row["open_time_ms"] / 1000, UTC)
            reason = f"contradicts {there}, of the same time {at:%Y-%m-%d %H:%M}: {name} {row[name]:g}, there {first[name]:g}"
            self.malformed.append(MalformedRow(row["line"], reason, self.labels[row["part"]]))
        return against


def _read_file(path: Path, sink: _Rows, progress: Progress | None) -> None:
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


def _read_zip(path: Path, raw: BinaryIO, sink: _Rows, tell: Callable[[], None]) -> None:
    """Read the members one after the other, never to disk."""
    with zipfile.ZipFile(raw) as archive:
        members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
        members = [one for one in members if Path(one.filename).suffix.lower() in (*SUFFIXES[:6], "")]
        symbols = {named_file(Path(one.filename)).symbol for one in members} - {None}
        if not members or len(symbols) > 1:
            holds = f"several symbols ({_short(', '.join(sorted(map(str, symbols))))})" if members else "no CSV or JSON file"
            message = f"{path} holds {holds}: unpack it, and give a file of candles per symbol"
            raise OhlcvFileError(message)
        for member in members:
            sink.part(f"{path.name}:{_short(Path(member.filename).name)}")
            with archive.open(member) as stream:
                _read_text(path, cast("BinaryIO", stream), sink, tell)


# --- text -----------------------------------------------------------------------------------------------------------------------


def _read_text(path: Path, stream: BinaryIO, sink: _Rows, tell: Callable[[], None]) -> None:
    chunks = _decoded(path, stream)
    first = next(chunks, b"")
    if not first.strip():
        message = f"{path} is empty: give a file with candles"
        raise OhlcvFileError(message)
    start = first.lstrip()[:64].replace(b" ", b"").replace(b"\n", b"")
    if start.startswith(b"[["):
        chunks = _json_lines(path, _chain(first, chunks))
    elif start.startswith((b"{", b"[{", b"[]")):
        chunks = iter((_json_table(path, _chain(first, chunks)),))
    else:
        chunks = _chain(first, chunks)
    dialect: _Dialect | None = None
    for number, block, too_long in _blocks(chunks):
        if dialect is None and block:
            dialect, skipped = _dialect(path, block)
            number, block = number + skipped[0], block[skipped[1] :]
        if block and dialect is not None:
            _parse(path, block, number, dialect, sink)
        if too_long:
            sink.leave_out(1, [(too_long, f"longer than {LINE_MAX} bytes")])
        tell()


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _decoded(path: Path, stream: BinaryIO) -> Iterator[bytes]:
    """Give UTF-8 with line feeds, whatever the file has."""
    total = 0
    head = stream.read(1 << 12)
    source: Iterator[bytes]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = io.TextIOWrapper(io.BufferedReader(cast("Any", _Rejoined(head, stream))), "utf-16", errors="replace")
        source = iter(lambda: text.read(BLOCK_BYTES).encode(), b"")
    else:
        if b"\0" in head.partition(b"\n")[0]:
            message = f"{path} is no text, JSON, Parquet, Feather, gz or zip file: convert it to one of these"
            raise OhlcvFileError(message)
        head = head.removeprefix(b"\xef\xbb\xbf")
        source = _chain(head, iter(lambda: stream.read(BLOCK_BYTES), b""))
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


def _blocks(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes, int]]:
    """Cut into whole lines.

    Yields
    ------
    tuple
        Number of the first line, the lines with a line feed at the end, and the number of a line after them that was too long.
    """
    number, kept, skipping = 1, b"", 0
    for chunk in chunks:
        if skipping:
            _, found, chunk = chunk.partition(b"\n")
            if not found:
                continue
            skipping, number = 0, number + 1
        kept += chunk
        block, found, rest = kept.rpartition(b"\n")
        if len(rest) > LINE_MAX:
            lines = block.count(b"\n") + 1 if found else 0
            yield number, block + found, number + lines
            number, kept, skipping = number + lines, b"", 1
        elif found and len(kept) >= BLOCK_BYTES // 2:
            yield number, block + found, 0
            number, kept = number + block.count(b"\n") + 1, rest
    if kept:
        yield number, kept if kept.endswith(b"\n") else kept + b"\n", 0


def _json_lines(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turn an array of arrays, as freqtrade and ccxt write it, into lines of text while it is read."""
    kept, opened = b"", False
    for chunk in chunks:
        kept += chunk.translate(None, b"\n\r\t")
        if not opened:
            kept, opened = re.sub(rb"^\s*\[\s*\[", b"", kept), True
        end = re.search(rb"\]\s*(\]\s*)?$", kept[-LINE_MAX:])
        cut = len(kept) - len(end[0]) if end else kept.rfind(b"]")
        if cut > 0:
            yield re.sub(rb"\]\s*,\s*\[", b"\n", kept[:cut])
            kept = kept[cut:]
    if not re.fullmatch(rb"\]\s*\]\s*", kept):
        message = f"{path} ends in the middle of its JSON: get it again"
        raise OhlcvFileError(message)


def _json_table(path: Path, chunks: Iterator[bytes]) -> bytes:
    """Turn objects, or the answer of an interface, into text."""
    whole = bytearray()
    for chunk in chunks:
        whole += chunk
        if len(whole) > JSON_MAX:
            message = f"{path}: such JSON is read up to {JSON_MAX >> 20} MB: convert it to CSV or Parquet"
            raise OhlcvFileError(message)
    try:
        found: Any = orjson.loads(bytes(whole))
    except orjson.JSONDecodeError:
        found = [orjson.loads(line) for line in bytes(whole).splitlines() if line.strip()]  # one object a line
    rows = _rows_in(found, 0)
    if rows is None:
        message = f"{path} holds no array of candles: give arrays [time, open, high, low, close, volume] or objects"
        raise OhlcvFileError(message)
    text = io.StringIO()
    names = list(rows[0]) if isinstance(rows[0], dict) else None
    writer = csv.writer(text, lineterminator="\n")
    if names is not None:
        writer.writerow(names)
    writer.writerows([row.get(name) for name in names] if names is not None else row for row in rows)
    return text.getvalue().encode()


def _rows_in(found: Any, depth: int) -> list[Any] | None:
    """Find the one list of candles: lists, objects, or lists by column."""
    if isinstance(found, list) and found:
        for kind, size in ((list, FIELDS_MIN), (dict, 1)):
            if all(isinstance(row, kind) and len(row) >= size for row in found):
                return found
    if isinstance(found, dict) and depth < 4:  # Bybit: result, list
        columns = {name: values for name, values in found.items() if isinstance(values, list)}
        if len(columns) > FIELDS_MIN and len({len(values) for values in columns.values()}) == 1:
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        inner = [rows for rows in (_rows_in(one, depth + 1) for one in found.values()) if rows]
        return inner[0] if len(inner) == 1 else None
    return None


# --- the table ------------------------------------------------------------------------------------------------------------------


@dataclass
class _Dialect:
    """How one file writes its rows."""

    separator: str
    at: dict[str, int]  # position of each column; "clock" when the time of day has a column of its own
    width: int
    header: bool
    decimal_comma: bool | None = None  # None: no number has a comma; True: of decimals; False: of thousands
    day_first: bool | None = None
    settled: bool = False  # the first block has told


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _positions(path: Path, names: Sequence[str], *, sample: Sequence[str] = ()) -> dict[str, int]:
    """Find the columns in a header.

    Raises
    ------
    OhlcvFileError
        One is missing, or there twice.
    """
    keys = [_key(name) for name in names]
    at = {
        column: keys.index(spelling)
        for column, spellings in reversed(SPELLINGS.items())
        for spelling in reversed(spellings)
        if spelling in keys
    }
    if "volume" not in at and (volume := next((i for i, key in enumerate(keys) if VOLUME_OF.fullmatch(key)), None)) is not None:
        at["volume"] = volume
    times = "one of time, timestamp, date, datetime, open_time, unix, start"
    missing = [name for name in NEEDED if name not in at] + ([] if "time" in at else [times])
    found = _short(", ".join(" ".join(name.split()) for name in names))
    if missing:
        message = f"{path} lacks the columns {', '.join(missing)}: name them in the first line (found {found})"
        raise OhlcvFileError(message)
    if doubled := [column for column in ("time", *NEEDED) if keys.count(keys[at[column]]) > 1]:
        message = f"{path} names {', '.join(doubled)} more than once: name each column once (found {found})"
        raise OhlcvFileError(message)
    if {"date", "time"} <= set(keys) and {keys[at["time"]]} <= {"date", "time"} and sample:  # MetaTrader
        clock = keys.index("time")
        if clock < len(sample) and re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", sample[clock].strip()):
            at |= {"time": keys.index("date"), "clock": clock}
    return at


def _dialect(path: Path, block: bytes) -> tuple[_Dialect, tuple[int, int]]:
    """Find separator and columns in the first lines; returns also lines and bytes before the table."""
    lines = block[: 4 * LINE_MAX].split(b"\n")
    texts = [line[:LINE_MAX].decode("utf-8", "replace") for line in lines[: 2 * PREAMBLE_MAX]]
    passed = [0, 0]
    for index, text in enumerate(texts):
        separator = next((one for one in SEPARATORS if len(_fields(text, one)) >= FIELDS_MIN), "")
        if separator:
            names = _fields(text, separator)
            following = _fields(texts[index + 1], separator) if index + 1 < len(texts) else []
            if not _is_number(names[0]) and not re.match(r"\W*\d", names[0]):
                dialect = _Dialect(separator, _positions(path, names, sample=following), len(names), header=True)
                passed = [index + 1, passed[1] + len(lines[index]) + 1]
            else:
                dialect = _Dialect(separator, _headerless(path, block, separator, names), len(names), header=False)
            return dialect, (passed[0], passed[1])
        if text.strip() and index >= PREAMBLE_MAX:
            break
        passed = [index + 1, passed[1] + len(lines[index]) + 1]
    first = next((text for text in texts if text.strip()), "")
    names = max((_fields(first, one) for one in SEPARATORS), key=len) or [""]
    if _is_number(names[0]):
        message = f"{path} has no header and {len(names)} columns: {_known_widths()}"
        raise OhlcvFileError(message)
    _positions(path, names)
    message = f"{path} has no table of candles: name its columns in the first line"
    raise OhlcvFileError(message)


def _known_widths() -> str:
    *most, last = map(str, sorted(HEADERLESS))
    return f"known without one are {', '.join(most)} and {last}; else name the columns in the first line"


def _fields(text: str, separator: str) -> list[str]:
    try:
        fields = next(csv.reader([text.strip(" \r\n\0").rstrip(separator)], delimiter=separator), [])
    except csv.Error:
        return []
    return [one.strip() for one in fields]


def _headerless(path: Path, block: bytes, separator: str, names: Sequence[str]) -> dict[str, int]:
    at = HEADERLESS.get(len(names))
    if at is None:
        message = f"{path} has no header and {len(names)} columns: {_known_widths()}"
        raise OhlcvFileError(message)
    if len(names) == 8:  # Kraken's, if the one before the volume is an average price
        sample = [_fields(line.decode("utf-8", "replace"), separator) for line in block.split(b"\n")[:200]]
        rows = [[float(one) for one in row] for row in sample if len(row) == len(names) and all(map(_is_number, row))]
        if not rows or not all(row[VWAP] == 0 or row[3] <= row[VWAP] <= row[2] for row in rows):
            message = f"{path} has no header and 8 columns, the sixth no average price: name the columns in the first line"
            raise OhlcvFileError(message)
    return at


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _parse(path: Path, block: bytes, number: int, dialect: _Dialect, sink: _Rows) -> None:
    """Parse whole lines: judge all of them at once, and those that fail one by one for their reason."""
    cells = _cells(block, dialect)
    cells = cells.with_row_index("line", number)
    filled = ~pl.all_horizontal(pl.col(f"c{index}").is_null() for index in range(1, FIELDS_MIN))
    filled |= pl.col("c0").str.strip_chars() != ""
    cells = cells.filter(filled.fill_null(value=False))
    if "clock" in dialect.at:
        clock = pl.concat_str(f"c{dialect.at['time']}", f"c{dialect.at['clock']}", separator=" ")
    else:
        clock = pl.col(f"c{dialect.at['time']}")
    taken = cells.select(
        "line",
        clock.alias("time"),
        *(pl.col(f"c{dialect.at[name]}").alias(name) for name in NEEDED),
        *(pl.col(f"c{dialect.at[name]}").alias(name) for name in ("closed", "symbol") if name in dialect.at),
        pl.col(f"c{dialect.width}").alias("more"),
    )
    _judge(path, taken, dialect, sink, cells)


def _cells(block: bytes, dialect: _Dialect) -> pl.DataFrame:
    """Split lines into cells, one row per line: a quote that nobody closed ends with its line."""
    schema = {f"c{index}": pl.String for index in range(dialect.width + 1)}
    if not block.isascii():
        block = block.decode("utf-8", "replace").encode()
    quoted = b'"' in block
    lines = block.count(b"\n")
    with contextlib.suppress(pl.exceptions.ComputeError):
        frame = pl.read_csv(
            block,
            has_header=False,
            separator=dialect.separator,
            quote_char='"' if quoted else None,
            infer_schema=False,
            schema=schema,
            truncate_ragged_lines=True,
            missing_columns="insert",
        )
        if frame.height == lines:
            return frame
    rows = []
    for line in block.decode("utf-8", "replace").split("\n")[:lines]:
        try:
            row = next(csv.reader([line], delimiter=dialect.separator), [])
        except csv.Error:
            row = [line[:LINE_MAX]]
        rows.append([row[i] or None if i < len(row) else None for i in range(dialect.width + 1)])
    return pl.DataFrame(rows, schema=schema, orient="row")


def _judge(path: Path, taken: pl.DataFrame, dialect: _Dialect, sink: _Rows, cells: pl.DataFrame | None) -> None:
    """Turn cells into candles; what is none is counted and named."""
    if "symbol" in taken.columns:
        _note_symbols(path, taken["symbol"], sink)
    numbers = _numbers(path, taken, dialect)
    judged = numbers.select("line", *NEEDED).with_columns(_times(path, taken["time"], dialect).alias("open_time_ms"))
    dialect.settled = True
    whole = pl.all_horizontal(pl.col(name).is_finite() for name in NEEDED) & pl.col("open_time_ms").is_not_null()
    lowest, highest = pl.min_horizontal("open", "close"), pl.max_horizontal("open", "close")
    right = whole & (pl.col("low") > 0) & (pl.col("low") <= lowest) & (pl.col("high") >= highest) & (pl.col("volume") >= 0)
    good = judged.select(right.fill_null(value=False)).to_series()
    if "more" in taken.columns:
        good &= taken["more"].is_null()
    running = pl.Series([], dtype=pl.Boolean)
    if "closed" in taken.columns:
        said = taken["closed"].cast(pl.String).str.strip_chars().str.to_lowercase()
        running = said.is_in(NO).fill_null(value=False) & good
        good &= said.is_in(YES).fill_null(value=False)
        sink.files[-1].unclosed += int(running.sum())
    sink.add(judged.filter(good).select(*COLUMNS, pl.col("line").cast(pl.UInt32)))
    if good.all():
        return
    bad = ~good & ~running if running.len() else ~good
    if cells is not None:
        bad &= ~_headers(path, cells, taken, dialect, bad)
    if count := int(bad.sum()):
        if not dialect.header and not sink.files[-1].hint:
            sink.files[-1].hint = _other_order(numbers.filter(bad))
        room = max(0, MALFORMED_KEPT - len(sink.malformed))
        texts, values = taken.filter(bad).head(room), judged.filter(bad).head(room)
        rows = zip(texts.iter_rows(named=True), values.iter_rows(named=True), strict=True)
        sink.leave_out(count, ((text["line"], _reason(text, value, dialect)) for text, value in rows))


def _note_symbols(path: Path, named: pl.Series, sink: _Rows) -> None:
    symbols = sink.files[-1].symbols
    symbols |= {str(one).strip() for one in named.drop_nulls().unique().head(SYMBOLS_SHOWN)}
    symbols -= {"", *(key for key in symbols if _key(key) in SPELLINGS["symbol"])}  # a header in the middle
    if len(symbols) > 1:
        message = f"{path} holds several symbols ({_short(', '.join(sorted(symbols)))}): give a file per symbol"
        raise OhlcvFileError(message)


def _headers(path: Path, cells: pl.DataFrame, taken: pl.DataFrame, dialect: _Dialect, bad: pl.Series) -> pl.Series:
    """Find headers in the middle, left there when files were joined; one with another order is an error."""
    said = taken["open"].cast(pl.String).str.strip_chars(' "').str.to_lowercase()
    repeated = bad & ~taken["open"].cast(pl.String).str.contains(r"\d").fill_null(value=True) & said.str.contains("[a-z]")
    rows = cells.filter(repeated.fill_null(value=False))
    found = []
    for row in rows.head(MALFORMED_KEPT).iter_rows():
        line, names = row[0], [str(one).strip(' "') for one in row[1:] if one is not None]
        if {"open", "high", "low", "close"} <= {_key(name) for name in names}:
            at = _positions(path, names)
            if any(at.get(name) != dialect.at[name] for name in ("time", *NEEDED) if "clock" not in dialect.at):
                message = f"{path} line {line} names the columns in another order: give the parts one by one"
                raise OhlcvFileError(message)
            found.append(line)
    return taken["line"].is_in(found)


def _other_order(numbers: pl.DataFrame) -> str:
    """Name the house whose order of columns fits every row that ours does not fit."""
    rows = numbers.select(NEEDED[:4]).drop_nulls()
    if rows.height < 10:  # too few to tell
        return ""
    for house, order in OTHER_ORDERS.items():
        named = rows.rename(dict(zip(NEEDED[:4], order, strict=True)))
        fits = (pl.col("high") >= pl.max_horizontal("open", "close")) & (pl.col("low") <= pl.min_horizontal("open", "close"))
        if named.select(fits.all()).item():
            return f"the columns look like time, {', '.join(order)} ({house}): name them in a first line"
    return ""


def _reason(text: dict[str, Any], value: dict[str, Any], dialect: _Dialect) -> str:
    """Say why one row is no candle."""
    if len(str(text["time"])) > LINE_MAX // 2:
        return f"longer than a line of candles: {_cell(text['time'])}"
    for name in NEEDED:
        if value[name] is None or not math.isfinite(value[name]):
            unclear = dialect.decimal_comma is None and "," in str(text[name] or "")
            return f"{name} is not a finite number: {_cell(text[name])}{' (thousands or decimals?)' if unclear else ''}"
    shown = ", ".join(f"{name} {value[name]:g}" for name in PRICES)
    if min(value[name] for name in PRICES) <= 0:
        return f"a price is not positive: {shown}"
    if value["high"] < max(value[one] for one in PRICES) or value["low"] > min(value[one] for one in PRICES):
        return f"high and low do not enclose the candle: {shown}"
    if value["volume"] < 0:
        return f"volume is negative: {value['volume']:g}"
    if value["open_time_ms"] is None:
        return f"time is neither a date nor an epoch number of 1990 to 2100: {_cell(text['time'])}"
    if text.get("more") is not None:
        return f"more than {dialect.width} fields"
    return f"closed flag is neither yes nor no: {_cell(text.get('closed'))}"


def _numbers(path: Path, taken: pl.DataFrame, dialect: _Dialect) -> pl.DataFrame:
    """Cast prices and volume; commas by the style that the first block shows."""
    numbers = taken.with_columns(pl.col(name).cast(pl.Float64, strict=False) for name in NEEDED)
    text = [name for name in NEEDED if taken.schema[name] == pl.String]
    failed = [name for name in text if numbers[name].null_count() > taken[name].null_count()]
    if not failed and dialect.decimal_comma is None:
        return numbers
    stripped = taken.with_columns(pl.col(name).str.strip_chars() for name in text)
    if not dialect.settled:
        cells = pl.concat([stripped[name].filter(stripped[name].str.contains(",", literal=True)) for name in text])
        decimals = cells.str.contains(r"^-?\d+,(?:\d{1,2}|\d{4,})$|^-?\d{4,},\d+$|^-?0,\d+$|\.\d{3},\d*$").any()
        thousands = cells.str.contains(r"^-?\d{1,3}(?:,\d{3})+\.\d*$|^-?\d{1,3}(?:,\d{3}){2,}$").any()
        if decimals and thousands:
            message = f"{path} has commas for decimals and for thousands: write numbers like 1250.5"
            raise OhlcvFileError(message)
        dialect.decimal_comma = True if decimals else False if thousands else None
    if dialect.decimal_comma is None:
        plain = [pl.col(name) for name in text]
    elif dialect.decimal_comma:  # a point is one of thousands then, or nothing that can be read
        grouped = r"^-?\d{1,3}(?:\.\d{3})+(?:,\d*)?$"
        plain = [
            pl.when(pl.col(name).str.contains(grouped))
            .then(pl.col(name).str.replace_all(".", "", literal=True))
            .when(~pl.col(name).str.contains(".", literal=True))
            .then(pl.col(name))
            .str.replace(",", ".", literal=True)
            for name in text
        ]
    else:
        grouped = r"^-?\d{1,3}(?:,\d{3})+(?:\.\d*)?$"
        plain = [
            pl.when(pl.col(name).str.contains(grouped)).then(pl.col(name).str.replace_all(",", "", literal=True)).otherwise(name)
            for name in text
        ]
    return stripped.with_columns(one.cast(pl.Float64, strict=False).alias(name) for one, name in zip(plain, text, strict=True))


def _times(path: Path, times: pl.Series, dialect: _Dialect) -> pl.Series:
    """Read epoch numbers of four units, dates and times; what is neither is null."""
    if times.dtype in (pl.Datetime, pl.Date):
        return times.cast(pl.Datetime("ms")).cast(pl.Int64)
    frame = times.alias("time").to_frame()
    numbers = times.cast(pl.Float64, strict=False)
    number, units = pl.col("number"), pl.col("per_sec")
    plausible = (number >= EPOCH_SEC_MIN * units) & (number < EPOCH_SEC_MAX * units)
    epoch = pl.DataFrame({"number": numbers, "per_sec": per_sec_of(numbers.to_numpy())}).select(
        pl.when(plausible).then((number * (1e3 / units)).round()).cast(pl.Int64)
    )
    found = epoch.to_series()
    if times.dtype != pl.String or not found.null_count():
        return found
    rows = frame.with_row_index("row").filter(found.is_null() & frame["time"].is_not_null())
    stripped = rows["time"].str.strip_chars()
    if (stripped != rows["time"]).any():
        return _times(path, times.str.strip_chars(), dialect)
    plain = (pl.col("time").str.len_bytes() == len("2026-01-22 11:59:00")) & ~pl.col("time").str.ends_with(LEAP)
    usual = pl.when(plain).then(pl.col("time").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False).cast(pl.Int64))
    read = [_plausible(rows.select("row", usual.alias("ms")))]  # ten times as fast as the patterns
    rows = rows.join(read[0], on="row", how="anti") if read[0].height < rows.height else rows.clear()
    for pattern in (_YEAR_FIRST, _COMPACT, _DOTTED):
        read.append(_dated(rows, pattern))
        rows = rows.join(read[-1], on="row", how="anti") if read[-1].height else rows
    if rows.height:
        read.append(_dated(rows, _year_last(path, rows["time"], dialect)))
    known = pl.concat(read)
    result = pl.DataFrame({"row": pl.arange(len(times), eager=True, dtype=pl.UInt32), "epoch": found})
    return result.join(known, on="row", how="left", maintain_order="left").select(pl.coalesce("epoch", "ms")).to_series()


def _year_last(path: Path, times: pl.Series, dialect: _Dialect) -> str:
    """Tell 01/22/2026 from 22/01/2026 by the first block that has one of them; never guess."""
    if dialect.day_first is None:
        parts = times.str.extract_groups(r"^(?<a>\d{1,2})[-/](?<b>\d{1,2})[-/]\d{4}").struct.unnest().cast(pl.Int32).drop_nulls()
        if not parts.height:
            return _YEAR_LAST
        first, second = int(cast("int", parts["a"].max())) > 12, int(cast("int", parts["b"].max())) > 12  # months
        if first == second:
            message = f"{path} has dates like {_cell(times[0])}: day or month first? Write them like 2026-01-22"
            raise OhlcvFileError(message)
        dialect.day_first = first
    return _DAY_FIRST if dialect.day_first else _YEAR_LAST


def _dated(rows: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Read the rows that fit a pattern; columns row and ms."""
    parts = rows.select("row", pl.col("time").str.extract_groups(pattern).struct.unnest()).drop_nulls("y")
    whole = pl.col("H").cast(pl.Int32).fill_null(0)
    half = pl.col("half").str.to_lowercase()
    hour = (
        pl.when(half.is_null())
        .then(whole)
        .when(whole.is_between(1, 12))
        .then(whole % 12 + pl.when(half == "p").then(12).otherwise(0))
    )
    zone = pl.col("zone").str.replace(":", "", literal=True)
    offset = pl.when(zone.str.contains(r"^[+-]")).then(
        zone.str.slice(1, 2).cast(pl.Int32, strict=False) * 60 + zone.str.slice(3, 2).cast(pl.Int32, strict=False).fill_null(0)
    )
    minutes = pl.when(zone.str.starts_with("-")).then(-offset).otherwise(offset).fill_null(0)
    stamp = pl.format(
        "{}-{}-{} {}:{}:{}",
        "y",
        pl.col("m").str.zfill(2),
        pl.col("d").str.zfill(2),
        hour.cast(pl.String).str.zfill(2),
        pl.col("M").fill_null("00"),
        pl.when(pl.col("S").is_null() | (pl.col("S") < LEAP[1:])).then(pl.col("S").fill_null("00")),
    )
    read = parts.select(
        "row",
        (
            stamp.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False).cast(pl.Int64)
            - minutes.cast(pl.Int64) * 60_000
        ).alias("ms"),
    )
    return _plausible(read)


def _plausible(read: pl.DataFrame) -> pl.DataFrame:
    return read.filter(pl.col("ms").is_between(EPOCH_SEC_MIN * 1000, EPOCH_SEC_MAX * 1000))


# --- column files ---------------------------------------------------------------------------------------------------------------


def _read_frame(path: Path, lazy: pl.LazyFrame, sink: _Rows) -> None:
    schema = lazy.collect_schema()
    at = _positions(path, schema.names())
    height = int(lazy.select(pl.len()).collect().item())
    if height > ROWS_MAX:
        message = f"{path} has more than {ROWS_MAX:,} rows: split it"
        raise OhlcvFileError(message)
    names = schema.names()
    wanted = [pl.col(names[index]).alias(column) for column, index in at.items()]
    dialect = _Dialect("", at, len(names), header=True)
    for start in range(0, height, FRAME_ROWS):
        taken = lazy.select(wanted).slice(start, FRAME_ROWS).collect().with_row_index("line", start + 1)
        _judge(path, taken, dialect, sink, None)
