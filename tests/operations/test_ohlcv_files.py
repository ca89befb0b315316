"""Candle files as houses and programs write them: each layout read, each fault named, nothing guessed."""

import gzip
import json
import struct
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ops.recordings import file_rows, file_text
from quantum_ops.recordings.file_names import files_in, named_file
from quantum_ops.recordings.file_rows import MALFORMED_KEPT, OhlcvFile, OhlcvFileError
from quantum_ops.recordings.ohlcv_files import read_ohlcv
from tests.world import FIELD_PASSES

START = 1_769_083_140  # 2026-01-22 11:59 UTC
COUNT = 40
HEADER = "time,open,high,low,close,volume"
ROWS = [(START + 60 * i, 43000 + i % 9, 43005 + i % 9, 42995 + i % 9, 43001 + i % 9, 3) for i in range(COUNT)]


def text(rows=ROWS, header=HEADER, separator=",", time=str, end="\n") -> str:
    lines = [header] * bool(header) + [separator.join([time(at), *map(str, numbers)]) for at, *numbers in rows]
    return end.join(lines) + end


def stamp(pattern):
    return lambda at: datetime.fromtimestamp(at, UTC).strftime(pattern)


def times(factor):
    return lambda at: str(at * factor)


def columns(*names):
    """Rows with more columns than ours, in another order."""
    values = dict.fromkeys(names, 7)
    listed = []
    for at, *numbers in ROWS:
        values |= dict(zip(("open", "high", "low", "close", "volume"), numbers, strict=True))
        listed.append((at, *(values[name] for name in names)))
    return listed


def arrays(*more, newest_first=False, factor=1000):
    rows = [[str(at * factor), *map(str, numbers), *more] for at, *numbers in ROWS]
    return rows[::-1] if newest_first else rows


def write(folder: Path, content: str | bytes, name: str = "BTCUSDT_1m.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def take(folder: Path, content: str | bytes, name: str = "BTCUSDT_1m.csv") -> OhlcvFile:
    return read_ohlcv(write(folder, content, name))


EXPECTED = [(at * 1000, *map(float, numbers)) for at, *numbers in ROWS]
OHLC = ("open", "high", "low", "close")
CDD = "unix,date,symbol,open,high,low,close,Volume BTC,Volume USDT,tradecount"
CDD_ROWS = [f"{at * 1000},{stamp('%Y-%m-%d %H:%M:%S')(at)},BTC/USDT,{o},{h},{lo},{c},{v},9,9" for at, o, h, lo, c, v in ROWS]
BINANCE = ("open", "high", "low", "close", "volume", "close_time", "quote", "count", "taker", "taker_quote", "ignore")
LAYOUTS = {
    "binance-futures": text(columns(*BINANCE), "open_time," + ",".join(BINANCE), time=times(1000)),
    "binance-spot-us": text(columns(*BINANCE), "", time=times(10**6)),
    "bybit-csv": text(columns(*OHLC, "volume", "turnover"), "start_at,open,high,low,close,volume,turnover"),
    "kraken-no-header": text(columns(*OHLC, "volume", "trades"), ""),
    "coinbase": text(columns("low", "high", "open", "close", "volume"), "time,low,high,open,close,volume"),
    "cryptodatadownload": "https://www.CryptoDataDownload.com\n" + "\n".join([CDD, *CDD_ROWS[::-1]]),
    "tradingview": text(header="time,open,high,low,close,Volume"),
    "kaggle": text(
        columns(*OHLC, "volume", "quote", "weighted"),
        "Timestamp,Open,High,Low,Close,Volume_(BTC),Volume_(Currency),Weighted_Price",
        time=lambda at: f"{at}.0",
    ),
    "coinapi": text(
        header="time_period_start,price_open,price_high,price_low,price_close,volume_traded",
        time=stamp("%Y-%m-%dT%H:%M:%S.0000000Z"),
    ),
    "metatrader": text(
        header="<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>", separator="\t", time=stamp("%Y.%m.%d\t%H:%M")
    ),
    "unix-ns": text(header="unix,open,high,low,close,volume", time=times(10**9)),
    "semicolon": text(header=HEADER.replace(",", ";"), separator=";", time=stamp("%d.%m.%Y %H:%M")),
    "pipe-no-header": text(header="", separator="|", time=times(1000)),
    "crlf-bom": ("\ufeff" + text(end="\r\n")).encode(),
    "utf-16": text().encode("utf-16"),
    "old-mac": text(end="\r"),
    "quoted": text().replace(",", '","').replace("\n", '"\n"')[:-1].join(['"', ""]),
    "spaces": text(separator=" , "),
    "excel": "sep=;\n" + text(header=HEADER.replace(",", ";"), separator=";"),
    "empty lines": text(end="\n\n  \n"),
    "freqtrade.json": json.dumps([[at * 1000, *numbers] for at, *numbers in ROWS]),
    "texts.json": json.dumps([[str(at * 1000), *map(str, numbers)] for at, *numbers in ROWS]),
    "dates.json": json.dumps([[stamp("%Y-%m-%d %H:%M:%S")(at), *numbers] for at, *numbers in ROWS], separators=(" , ", ":")),
    "pandas.json": json.dumps(
        {name: dict(enumerate(values)) for name, values in zip(HEADER.split(","), zip(*ROWS, strict=True), strict=True)}
    ),
    "pandas-split.json": json.dumps({"columns": HEADER.split(","), "index": [*range(COUNT)], "data": ROWS}),
    "zones": text(time=stamp("%Y-%m-%d %H:%M:%S+00:00")),
    "decimal commas": "\n".join([HEADER, *(f'{at},"{o},0","{h},0","{lo},0","{c},0","{v},0"' for at, o, h, lo, c, v in ROWS)]),
    "tab and commas": text([(at, *(f"{one},0" for one in numbers)) for at, *numbers in ROWS], HEADER.replace(",", "\t"), "\t"),
    "kraken without trades": text([(at, *numbers[:4], 0, numbers[4], 0) for at, *numbers in ROWS], ""),
    "numbered": text([*enumerate([])], "," + HEADER) + "\n".join(f"{i},{','.join(map(str, row))}" for i, row in enumerate(ROWS)),
    "indented.json": json.dumps([[at * 1000, *numbers] for at, *numbers in ROWS], indent=4),
    "objects.json": json.dumps([dict(zip(HEADER.split(","), row, strict=True)) for row in ROWS]),
    "lines.json": "\n".join(json.dumps(dict(zip(HEADER.split(","), row, strict=True))) for row in ROWS),
    "bybit.json": json.dumps({"retCode": 0, "result": {"symbol": "BTCUSDT", "list": arrays("9", newest_first=True)}}),
    "okx.json": json.dumps({"code": "0", "data": arrays("9", "9", "1", newest_first=True)}),
    "kraken.json": json.dumps(
        {"error": [], "result": {"XXBTZUSD": [[at, o, h, lo, c, (h + lo) / 2, v, 9] for at, o, h, lo, c, v in ROWS], "last": 1}}
    ),
    "columns.json": json.dumps({"s": "ok"} | dict(zip("tohlcv", map(list, zip(*ROWS, strict=True)), strict=True))),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_as_the_same_candles(tmp_path: Path, name: str) -> None:
    """Everybody has files already; nobody converts them."""
    result = take(tmp_path, LAYOUTS[name], "x.json" if name.endswith(".json") else "x.csv")
    assert result.frame.rows() == EXPECTED
    assert (result.malformed, result.duplicates) == ([], 0)


def test_packed_files_and_column_files_are_read_by_their_content(tmp_path: Path) -> None:
    """A suffix is only a name."""
    plain = text().encode()
    write(tmp_path, gzip.compress(plain), "a.csv.gz")
    write(tmp_path, gzip.compress(LAYOUTS["freqtrade.json"].encode()), "b.json.gz")
    write(tmp_path, gzip.compress(plain), "c.csv")
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../BTCUSDT-1m-2025-02.csv", text(ROWS[20:], ""))
        archive.writestr("BTCUSDT-1m-2025-01.csv", text(ROWS[:20]))
        for beside in ("__MACOSX/._BTCUSDT-1m-2025-01.csv", "data/._BTCUSDT-1m-2025-01.csv", ".DS_Store", "data/__MACOSX/x.csv"):
            archive.writestr(beside, b"\0")
        archive.writestr("data/README.txt", "Candles of one minute")
        archive.writestr("BTCUSDT-1m-2025-01.csv.CHECKSUM", "5f70bf18")
        archive.mkdir("data")
    frame = pl.DataFrame(EXPECTED, schema=file_rows.SCHEMA, orient="row").rename({"open_time_ms": "date"})
    dated = frame.with_columns(pl.from_epoch("date", "ms").dt.replace_time_zone("UTC").dt.cast_time_unit("ns"))
    dated.write_ipc(tmp_path / "e.feather", compression="lz4")
    dated.with_columns(pl.col("date").dt.replace_time_zone(None)).write_parquet(tmp_path / "f.parquet")
    frame.with_columns(pl.col("close").cast(pl.String)).write_parquet(tmp_path / "g.parquet")
    assert len(files_in(tmp_path)) == 7
    for path in files_in(tmp_path):
        assert read_ohlcv(path).frame.rows() == EXPECTED, path
    assert sorted(path.name for path in tmp_path.parent.glob("*.csv")) == []  # nothing was unpacked


TIMES = {
    "2026-01-22T11:59:00+01:00": -3600,
    "2026-01-22 11:59:00 -0530": 5.5 * 3600,
    "2026-01-22 11:59 AM": 0,
    "2026-01-22 11:59:00 UTC": 0,
    "2026-01-22 11-AM": -59 * 60,
    "2026/1/22 11:59": 0,
    "20260122 115900": 0,
    "20260122": -(11 * 3600 + 59 * 60),
    "01/22/2026 11:59": 0,
    "22/01/2026 11:59": 0,
    "1.76908314e9": 0,
    "60000": None,
    "2016-12-31T23:59:60Z": None,
    "2026-02-30 00:00:00": None,
    "2026-01-22 13:00 PM": None,
    "2026-01-22 11:59:00 EST": None,
    "99999999999999": None,
    "-1769083140": None,
    "nan": None,
}


@pytest.mark.parametrize("time", TIMES)
def test_a_time_is_what_it_says_or_malformed(tmp_path: Path, time: str) -> None:
    """A clock taken for another unit or zone moves the whole history."""
    result = take(tmp_path, f"{HEADER}\n{time},100,105,95,101,3\n")
    offset = TIMES[time]
    assert result.frame["open_time_ms"].to_list() == ([] if offset is None else [(START + offset) * 1000])
    assert [row.reason.split()[0] for row in result.malformed] == (["time"] if offset is None else [])


def test_units_may_change_within_a_file_and_headers_stand_in_its_middle(tmp_path: Path) -> None:
    """Binance's own archive changed from ms to us, and people join files."""
    whole = text(ROWS[:10], "", time=times(1000)) + text(ROWS[10:20], time=times(10**6)) + text(ROWS[20:])
    result = take(tmp_path, whole)
    assert (result.frame.rows(), result.malformed_count) == (EXPECTED, 0)


NUMBERS = {
    "43000,5;43005,25;42995;43000,5;3,1": (43000.5, 43005.25, 42995.0, 43000.5, 3.1),
    "43.000,5;43.005,25;42.995;43.000,5;3": (43000.5, 43005.25, 42995.0, 43000.5, 3.0),
    "43,000.5;43,005.25;42,995;43,000.5;3": (43000.5, 43005.25, 42995.0, 43000.5, 3.0),
    "43,000;43,005;42,995;43,000;3": None,  # which of the two?
    "43_000;43_005;42_995;43_000;3": None,
    "43000;43005;42995;inf;3": None,
}


@pytest.mark.parametrize("numbers", NUMBERS)
def test_commas_are_read_where_the_file_shows_what_they_are(tmp_path: Path, numbers: str) -> None:
    """A price a thousand times too small would be a price."""
    result = take(tmp_path, f"{HEADER.replace(',', ';')}\n{START};{numbers}\n")
    assert [row[1:] for row in result.frame.rows()] == ([NUMBERS[numbers]] if NUMBERS[numbers] else [])
    assert result.malformed_count == (NUMBERS[numbers] is None)


def damaged_gzip() -> bytes:
    return gzip.compress(text(ROWS * 200).encode())[:-9]


ERRORS = {
    "two symbols": ("symbol," + HEADER + f"\nBTC/USDT,{START},1,1,1,1,1\nETH/USDT,{START},1,1,1,1,1\n", "several symbols"),
    "day or month": (f"{HEADER}\n05/06/2026 11:59,1,1,1,1,1\n", "day or month first"),
    "closing time only": (text(header=HEADER.replace("time", "close_time")), "lacks the columns one of time"),
    "name twice": (text(header="time,open,high,low,close,close"), "lacks the columns volume"),
    "both commas": (f"{HEADER.replace(',', ';')}\n1;1,5;1;1;1;1\n1;1,000.5;1;1;1;1\n", "for decimals and for thousands"),
    "another header": (text() + text(header="time,close,high,low,open,volume"), "line 42 names the columns in another order"),
    "unknown width": (text(columns(*OHLC, "volume", *"abcd"), ""), "no header and 10 columns"),
    "no average price": (text([(*row, 1, 1) for row in ROWS], ""), "the sixth no average price"),
    "binary": (bytes(range(256)) * 40, "is no text"),
    "blank to one eye only": (b"\x1c", "lacks the columns"),
    "bzip2": (b"BZh91AY&SY" + bytes(range(1, 100)), "is no text"),
    "an answer": ('{"code":-1121,"msg":"Invalid symbol."}', "holds no array of candles"),
    "a page": ("<!DOCTYPE html><html>" + "x" * 5000, "lacks the columns"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "lacks the columns"),
    "many columns": (",".join(f"c{number}" for number in range(100_000)) + "\n1,2\n", "lacks the columns"),
    "old feather": (b"FEA1" + bytes(100), "is no text"),
    "cut gzip": (damaged_gzip(), "cannot be read .Compressed file ended"),
    "cut zip": (b"PK\x03\x04" + bytes(100), "cannot be read"),
    "no parquet": (b"PAR1" + bytes(100), "cannot be read"),
    "no arrow": (b"ARROW1\0\0" + bytes(100), "cannot be read"),
    "cut json": (LAYOUTS["freqtrade.json"][:-1], "ends in the middle"),
    "no candles": ('{"a": [1, 2]}', "holds no array of candles"),
    "deep json": ("[" * 9000, "ends in the middle"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_read_says_why_in_a_few_lines(tmp_path: Path, name: str) -> None:
    """State, expectation, remedy; never a trace, never a page."""
    content, said = ERRORS[name]
    with pytest.raises(OhlcvFileError, match=said) as caught:
        take(tmp_path, content, "x.csv")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_an_archive_of_several_symbols_is_refused(tmp_path: Path) -> None:
    """Glued together they would be one market that jumps."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("BTCUSDT-1m.csv", text())
        archive.writestr("ETHUSDT-1m.csv", text())
    with pytest.raises(OhlcvFileError, match="BTCUSDT, ETHUSDT"):
        read_ohlcv(tmp_path / "x.zip")


def test_a_small_archive_may_not_unpack_to_more_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred kilobytes may hold the whole memory of the machine."""
    monkeypatch.setattr(file_text, "UNPACKED_MAX", 1 << 20)
    with pytest.raises(OhlcvFileError, match="split it"):
        take(tmp_path, gzip.compress((HEADER + "\n" * (2 << 20)).encode()), "x.csv.gz")
    monkeypatch.setattr(file_rows, "ROWS_MAX", COUNT - 1)
    with pytest.raises(OhlcvFileError, match="more than 39 rows"):
        take(tmp_path, text())


def test_lines_that_are_none_cost_themselves_only(tmp_path: Path) -> None:
    """A quote nobody closed, a line without end, a NUL, too many or too few cells."""
    for wrong in ('"1,1,1,1,1,1', "x" * 200_000, "1\0,2", "1,2", f"{text(ROWS[:1], '').strip()},9"):
        lines = text().splitlines()
        result = take(tmp_path, "\n".join([*lines[:5], wrong, *lines[5:]]))
        assert (result.frame.height, result.malformed_count) == (COUNT, 1), wrong[:20]
        assert [row.line for row in result.malformed] == [6]
        assert len(result.malformed[0].reason) < 120


def test_rows_with_more_cells_than_names_are_malformed(tmp_path: Path) -> None:
    """Which of them has which name nobody knows; the words of a library are no answer."""
    result = take(tmp_path, text(columns(*BINANCE)))
    assert (result.frame.height, result.malformed_count, result.malformed[0].reason) == (0, COUNT, "more than 6 fields")


def test_malformed_rows_are_counted_all_and_named_up_to_a_bound(tmp_path: Path) -> None:
    """Exactly one percent is accepted, one more is not."""
    many = [(START + 60 * i, 1, 2, 1, 1, 1) for i in range(990)]
    result = take(tmp_path, text(many) + "x,1,1,1,1,1\n" * 10)
    assert (result.malformed_count, result.files[0].too_malformed) == (10, "")
    result = take(tmp_path, text(many) + "x,1,1,1,1,1\n" * 500)
    assert (result.malformed_count, len(result.malformed)) == (500, MALFORMED_KEPT)
    assert "500 of 1490 rows" in result.files[0].too_malformed


def test_another_order_without_names_is_refused_with_whose_it_is(tmp_path: Path) -> None:
    """Open and close can be told from high and low by their size, but not from each other."""
    result = take(tmp_path, text([(at, o, c, h, lo, v) for at, o, h, lo, c, v in ROWS], ""))
    assert "time, open, close, high, low (KuCoin)" in result.files[0].too_malformed


def test_a_candle_that_its_file_calls_running_is_left_out(tmp_path: Path) -> None:
    """Half a candle is a number nobody published; a flag nobody understands is no yes."""
    for flag, counts in (("0", (1, 0)), ("no", (1, 0)), ("maybe", (0, 1))):
        lines = [f"{line},{flag if i == COUNT else 1}" for i, line in enumerate(text().splitlines())]
        result = take(tmp_path, "\n".join([f"{HEADER},confirm", *lines[1:]]))
        assert (result.frame.height, result.files[0].unclosed, result.malformed_count) == (COUNT - 1, *counts)


def test_months_are_one_history_and_their_overlap_must_agree(tmp_path: Path) -> None:
    """The newer file is not the better one."""
    first, second = write(tmp_path, text(ROWS[:25]), "a.csv"), write(tmp_path, text(ROWS[15:]), "b.csv")
    result = read_ohlcv(second, first)
    assert (result.frame.rows(), result.duplicates, result.malformed_count) == (EXPECTED, 10, 0)
    write(tmp_path, text([(at, o, h, lo, c + 1, v) for at, o, h, lo, c, v in ROWS[15:]]), "b.csv")
    result = read_ohlcv(first, second)
    assert (result.frame.height, result.malformed_count) == (COUNT - 10, 20)
    assert result.malformed[0].reason.startswith("contradicts line 17 of a.csv, of the same time 2026-01-22 12:14: close")


NAMES = {
    "OPUSDT-1m-2025-01.zip": ("OPUSDT", 60),
    "WUSDT_1m.csv": ("WUSDT", 60),
    "BTC_USDT-5m.feather": ("BTCUSDT", 300),
    "BTC_USDT_USDT-1h-futures.feather": ("BTCUSDT", 3600),
    "BTCUSDT_260327-1m-2026-01.zip": ("BTCUSDT_260327", 60),
    "BTCUSDT_261225.csv": ("BTCUSDT_261225", None),
    "BTCUSDT_202501.csv": ("BTCUSDT", None),  # a month, no delivery
    "BTCUSD_PERP-1m-2024-01.zip": ("BTCUSD_PERP", 60),
    "币安人生USDT-1m-2025-10.csv": ("币安人生USDT", 60),
    "XBTUSD_1.csv": ("XBTUSD", 60),
    "SOLTRY-1m-2025-01.csv": ("SOLTRY", 60),
    "ETHFDUSD-1m.csv.gz": ("ETHFDUSD", 60),
    "Binance_BTCUSDT_2025_minute.csv": ("BTCUSDT", 60),
    "BINANCE_BTCUSDT.P, 1D_abcde.csv": ("BTCUSDT", 86_400),
    "BTCUSDT-1M-2025.csv": ("BTCUSDT", 2_592_000),
    "BTC-USDT-SWAP.json.gz": ("BTCUSDT", None),
    "kPEPEUSDT_1m.csv": ("kPEPEUSDT", 60),
    "kpepe_1m.csv": ("kPEPE", 60),
    "solusdt_1m.csv": ("SOLUSDT", 60),
    "BTC_USD_BTC-1m-futures.feather": ("BTCUSD", 60),
    "gate_BTC_USDT_1m.csv": ("BTCUSDT", 60),
    "mydata_BTC_USDT_1m.csv": (None, None),
    "BYBIT_BTCUSDT.P, 1.csv": ("BTCUSDT", 60),
    "BTC-USDT-SWAP, 5.csv": ("BTCUSDT", 300),
    "1000SHIB_USDT.csv": ("1000SHIBUSDT", None),
    "1000SHIB.csv": (None, None),
    "BTCUSDT-1m-2025-01.csv.CHECKSUM": (None, None),
    "bitstampUSD_1-min_data_2012-01-01_to_2021-03-31.csv": (None, None),
    "BTC_USDT_USDT-1h-mark.feather": (None, None),
    "BTC_USDT_USDT-8h-funding_rate.feather": (None, None),
    "history.csv": (None, None),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_symbol_and_interval_or_nothing(name: str) -> None:
    """A perpetual that gets the candles of a delivery contract has a wrong stop."""
    named = named_file(Path(name), ("kPEPE", "BTCUSDT"))
    assert (named.symbol, named.interval_sec) == NAMES[name]


@settings(max_examples=60 * FIELD_PASSES, deadline=None)
@given(
    st.binary(max_size=300) | st.text(alphabet='0123456789.,;\t\n"-:TZ[]{}ohlcvtime', max_size=300).map(str.encode),
    st.integers(0, 9),
)
def test_no_file_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: int) -> None:
    """Whatever it holds, the answer is candles that are candles, or an error of ours."""
    starts = (b"", HEADER.encode() + b"\n", text(ROWS[:2]).encode(), b"[[", b"{", b"PAR1", b"ARROW1\0\0", b"PK\x03\x04")
    folder = tmp_path_factory.mktemp("any")
    whole = gzip.compress(content) if kind == 8 else struct.pack("<H", 0xFEFF) + content if kind == 9 else starts[kind] + content
    said, frame = "", pl.DataFrame(schema=file_rows.SCHEMA)
    try:
        frame = take(folder, whole, "x.csv").frame
    except OhlcvFileError as error:
        said = str(error)
    assert len(said) < 500 + len(str(folder))
    assert frame.filter((pl.col("low") <= 0) | (pl.col("low") > pl.col("close")) | (pl.col("high") < pl.col("open"))).is_empty()
    assert frame["open_time_ms"].is_sorted()
