"""The table of layouts: what files of candles call their columns, where they have them without names, and what parts them.

Names and positions only; what is in the rows is :mod:`quantum_ops.recordings.file_judging`'s.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantum_ops.recordings.file_rows import OhlcvFileError, short

LINE_MAX = 1 << 16  # bytes; a longer line is no candle
PREAMBLE_MAX = 5  # lines of text before the table, like the address of who made it

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
SEPARATORS = (";", "\t", "|", ",")  # the comma last: it may be that of decimals
FIELDS_MIN = 5  # time and prices: a line with fewer is no line of the table


@dataclass
class Dialect:
    """How one file writes its rows."""

    separator: str
    at: dict[str, int]  # position of each column; "clock" when the time of day has a column of its own
    width: int
    header: bool
    decimal_comma: bool | None = None  # None: no number has a comma; True: of decimals; False: of thousands
    day_first: bool | None = None
    settled: bool = False  # the first block has decided


def key_of(name: str) -> str:
    """Give a name as it is compared: letters and digits only, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def positions(path: Path, names: Sequence[str], *, sample: Sequence[str] = ()) -> dict[str, int]:
    """Find the columns in a header.

    Raises
    ------
    OhlcvFileError
        One is missing, or there twice.
    """
    keys = [key_of(name) for name in names]
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
    header = short(", ".join(" ".join(name.split()) for name in names))
    if missing:
        message = f"{path} lacks the columns {', '.join(missing)}: name them in the first line (found {header})"
        raise OhlcvFileError(message)
    if doubled := [column for column in ("time", *NEEDED) if keys.count(keys[at[column]]) > 1]:
        message = f"{path} names {', '.join(doubled)} more than once: name each column once (found {header})"
        raise OhlcvFileError(message)
    if {"date", "time"} <= set(keys) and {keys[at["time"]]} <= {"date", "time"} and sample:  # MetaTrader
        clock = keys.index("time")
        if clock < len(sample) and re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", sample[clock].strip()):
            at |= {"time": keys.index("date"), "clock": clock}
    return at


def dialect_of(path: Path, block: bytes) -> tuple[Dialect, tuple[int, int]]:
    """Find separator and columns in the first lines; returns also lines and bytes before the table."""
    lines = block[: 4 * LINE_MAX].split(b"\n")
    texts = [line[:LINE_MAX].decode("utf-8", "replace") for line in lines[: 2 * PREAMBLE_MAX]]
    passed = [0, 0]
    for index, text in enumerate(texts):
        separator = next((candidate for candidate in SEPARATORS if len(_fields(text, candidate)) >= FIELDS_MIN), "")
        if separator:
            cells = _fields(text, separator)
            following = _fields(texts[index + 1], separator) if index + 1 < len(texts) else []
            if not _is_number(cells[0]) and not re.match(r"\W*\d", cells[0]):
                dialect = Dialect(separator, positions(path, cells, sample=following), len(cells), header=True)
                passed = [index + 1, passed[1] + len(lines[index]) + 1]
            else:
                dialect = Dialect(separator, _headerless(path, block, separator, cells), len(cells), header=False)
            return dialect, (passed[0], passed[1])
        if text.strip() and index >= PREAMBLE_MAX:
            break
        passed = [index + 1, passed[1] + len(lines[index]) + 1]
    first = next((text for text in texts if text.strip()), "")
    cells = max((_fields(first, candidate) for candidate in SEPARATORS), key=len) or [""]
    if _is_number(cells[0]):
        message = f"{path} has no header and {len(cells)} columns: {_known_widths()}"
        raise OhlcvFileError(message)
    positions(path, cells)
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
