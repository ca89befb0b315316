"""Rows of files, judged: which are candles, and why the others are none."""

from __future__ import annotations

import contextlib
import csv
import math
from pathlib import Path
from typing import Any

import polars as pl

from quantum_ops.recordings.dialects import FIELDS_MIN, LINE_MAX, NEEDED, SPELLINGS, Dialect, key_of, positions
from quantum_ops.recordings.file_rows import COLUMNS, MALFORMED_KEPT, PRICES, OhlcvFileError, Rows, cell, short
from quantum_ops.recordings.file_times import times_of

SYMBOLS_SHOWN = 4
OTHER_ORDERS = {  # of columns without names, which only the prices show; named, never guessed
    "KuCoin": ("open", "close", "high", "low"),
    "HTX": ("open", "close", "low", "high"),
    "Coinbase": ("low", "high", "open", "close"),
}
YES, NO = ("1", "true", "yes", "y", "1.0"), ("0", "false", "no", "n", "0.0")


def parse(path: Path, block: bytes, number: int, dialect: Dialect, sink: Rows) -> None:
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
    judge(path, taken, dialect, sink, cells)


def _cells(block: bytes, dialect: Dialect) -> pl.DataFrame:
    """Split lines into cells, one row per line: a quote that nobody closed ends with its line."""
    schema = {f"c{index}": pl.String for index in range(dialect.width + 1)}
    if not block.isascii():
        block = block.decode("utf-8", "replace").encode()
    quoted = b'"' in block
    lines = block.count(b"\n")
    with contextlib.suppress(pl.exceptions.ComputeError, pl.exceptions.SchemaError):
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


def judge(path: Path, taken: pl.DataFrame, dialect: Dialect, sink: Rows, cells: pl.DataFrame | None) -> None:
    """Turn cells into candles; what is none is counted and named."""
    if "symbol" in taken.columns:
        _note_symbols(path, taken["symbol"], sink)
    numbers = _numbers(path, taken, dialect)
    judged = numbers.select("line", *NEEDED).with_columns(times_of(path, taken["time"], dialect).alias("open_time_ms"))
    dialect.settled = True
    whole = pl.all_horizontal(pl.col(name).is_finite() for name in NEEDED) & pl.col("open_time_ms").is_not_null()
    lowest, highest = pl.min_horizontal("open", "close"), pl.max_horizontal("open", "close")
    right = whole & (pl.col("low") > 0) & (pl.col("low") <= lowest) & (pl.col("high") >= highest) & (pl.col("volume") >= 0)
    valid = judged.select(right.fill_null(value=False)).to_series()
    if "more" in taken.columns:
        valid &= taken["more"].is_null()
    running = pl.Series([], dtype=pl.Boolean)
    if "closed" in taken.columns:
        closed = taken["closed"].cast(pl.String).str.strip_chars().str.to_lowercase()
        running = closed.is_in(NO).fill_null(value=False) & valid
        valid &= closed.is_in(YES).fill_null(value=False)
        sink.files[-1].unclosed += int(running.sum())
    sink.add(judged.filter(valid).select(*COLUMNS, pl.col("line").cast(pl.UInt32)))
    if valid.all():
        return
    malformed = ~valid & ~running if running.len() else ~valid
    if cells is not None:
        malformed &= ~_headers(path, cells, taken, dialect, malformed)
    if count := int(malformed.sum()):
        if not dialect.header and not sink.files[-1].hint:
            sink.files[-1].hint = _other_order(numbers.filter(malformed))
        room = max(0, MALFORMED_KEPT - len(sink.malformed))
        texts, values = taken.filter(malformed).head(room), judged.filter(malformed).head(room)
        rows = zip(texts.iter_rows(named=True), values.iter_rows(named=True), strict=True)
        sink.leave_out(count, ((text["line"], _reason(text, value, dialect)) for text, value in rows))


def _note_symbols(path: Path, named: pl.Series, sink: Rows) -> None:
    symbols = sink.files[-1].symbols
    symbols |= {str(one).strip() for one in named.drop_nulls().unique().head(SYMBOLS_SHOWN)}
    symbols -= {"", *(key for key in symbols if key_of(key) in SPELLINGS["symbol"])}  # a header in the middle
    if len(symbols) > 1:
        message = f"{path} holds several symbols ({short(', '.join(sorted(symbols)))}): give a file per symbol"
        raise OhlcvFileError(message)


def _headers(path: Path, cells: pl.DataFrame, taken: pl.DataFrame, dialect: Dialect, bad: pl.Series) -> pl.Series:
    """Find headers in the middle, left there when files were joined; one with another order is an error."""
    opens = taken["open"].cast(pl.String).str.strip_chars(' "').str.to_lowercase()
    repeated = bad & ~taken["open"].cast(pl.String).str.contains(r"\d").fill_null(value=True) & opens.str.contains("[a-z]")
    rows = cells.filter(repeated.fill_null(value=False))
    lines = []
    for row in rows.head(MALFORMED_KEPT).iter_rows():
        line, names = row[0], [str(one).strip(' "') for one in row[1:] if one is not None]
        if {"open", "high", "low", "close"} <= {key_of(name) for name in names}:
            at = positions(path, names)
            if any(at.get(name) != dialect.at[name] for name in ("time", *NEEDED) if "clock" not in dialect.at):
                message = f"{path} line {line} names the columns in another order: give the parts one by one"
                raise OhlcvFileError(message)
            lines.append(line)
    return taken["line"].is_in(lines)


def _other_order(numbers: pl.DataFrame) -> str:
    """Name the house whose order of columns fits every row that ours does not fit."""
    rows = numbers.select(NEEDED[:4]).drop_nulls()
    if rows.height < 10:  # too few to decide
        return ""
    for house, order in OTHER_ORDERS.items():
        named = rows.rename(dict(zip(NEEDED[:4], order, strict=True)))
        fits = (pl.col("high") >= pl.max_horizontal("open", "close")) & (pl.col("low") <= pl.min_horizontal("open", "close"))
        if named.select(fits.all()).item():
            return f"the columns look like time, {', '.join(order)} ({house}): name them in a first line"
    return ""


def _reason(text: dict[str, Any], value: dict[str, Any], dialect: Dialect) -> str:
    """Say why one row is no candle."""
    if len(str(text["time"])) > LINE_MAX // 2:
        return f"longer than a line of candles: {cell(text['time'])}"
    for name in NEEDED:
        if value[name] is None or not math.isfinite(value[name]):
            unclear = dialect.decimal_comma is None and "," in str(text[name] or "")
            return f"{name} is not a finite number: {cell(text[name])}{' (thousands or decimals?)' if unclear else ''}"
    shown = ", ".join(f"{name} {value[name]:g}" for name in PRICES)
    if min(value[name] for name in PRICES) <= 0:
        return f"a price is not positive: {shown}"
    if value["high"] < max(value[one] for one in PRICES) or value["low"] > min(value[one] for one in PRICES):
        return f"high and low do not enclose the candle: {shown}"
    if value["volume"] < 0:
        return f"volume is negative: {value['volume']:g}"
    if value["open_time_ms"] is None:
        return f"time is neither a date nor an epoch number of 1990 to 2100: {cell(text['time'])}"
    if text.get("more") is not None:
        return f"more than {dialect.width} fields"
    return f"closed flag is neither yes nor no: {cell(text.get('closed'))}"


def _numbers(path: Path, taken: pl.DataFrame, dialect: Dialect) -> pl.DataFrame:
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
