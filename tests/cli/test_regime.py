"""`quantum regime` and the candle files it reads."""

import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from quantum_core.kernels.market.synthetic import chop
from quantum_ops.cli.history.regime import regime
from quantum_ops.recordings.file_rows import OhlcvFileError
from quantum_ops.recordings.ohlcv_files import read_ohlcv

MINUTE_MS = 60_000
START_MS = 1_754_427_000_000
PNG_MAGIC = b"\x89PNG"


def candles(n=300):
    closes = chop(n, seed=3)
    times = START_MS + MINUTE_MS * np.arange(n)
    return [(int(t), c, c * 1.001, c * 0.999, c, 1.0) for t, c in zip(times, closes.tolist(), strict=True)]


def write_csv(path, rows, header="time,open,high,low,close,volume"):
    lines = [header] * bool(header) + [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def invoke(*arguments):
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        result = CliRunner().invoke(regime, list(map(str, arguments)))
        return result, {path.name: path.read_bytes()[:4] for path in Path().glob("*.png")}


@pytest.mark.parametrize(("name", "expected"), [("trend", "trend"), ("chop", "chop")])
def test_a_synthetic_path_shows_its_regime_and_leaves_a_chart(name, expected):
    """The first thing a newcomer runs, without any data at hand."""
    result, charts = invoke("--synthetic", name, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["regime_last"] == expected
    assert report["regime_share"][expected] > 0.9
    assert charts == {f"synthetic-{name}-1-regime.png": PNG_MAGIC}


def test_a_file_gives_a_table_a_chart_and_the_rows_left_out(tmp_path):
    """What was not used must be said by line number, or nobody finds it."""
    rows = candles()
    rows[10] = (rows[10][0], 1.0, 0.5, 0.9, 1.0, 1.0)
    path = write_csv(tmp_path / "btc.csv", rows)
    result, charts = invoke(path)
    assert result.exit_code == 0, result.output
    assert "line 12 left out: high and low do not enclose" in result.stdout
    assert "p_chop" in result.stdout
    assert charts == {"btc-regime.png": PNG_MAGIC}


def test_every_state_is_given_when_asked_for(tmp_path):
    """300 candles have 44 windows of 257; the last state is the newest at any step."""
    path = write_csv(tmp_path / "btc.csv", candles())
    (every, _), (some, _) = invoke(path, "--json", "--step", 1), invoke(path, "--json", "--step", 10)
    every, some = json.loads(every.stdout), json.loads(some.stdout)
    assert (len(every["states"]), len(some["states"])) == (44, 5)
    assert every["states"][-1] == some["states"][-1]
    assert every["states"][-1]["time"].endswith("+00:00")


def test_too_few_candles_exit_with_one(tmp_path):
    """Not the caller's mistake, but no answer either."""
    result, charts = invoke(write_csv(tmp_path / "short.csv", candles(256)))
    assert result.exit_code == 1
    assert "256 usable candles" in result.stderr
    assert charts == {}


@pytest.mark.parametrize("arguments", [(), ("x.csv", "--synthetic", "trend"), ("missing.csv",), ("--step", "0")])
def test_a_wrong_call_exits_with_two(arguments):
    """Usage and unreadable files are one kind of trouble: the caller can mend it."""
    assert invoke(*arguments)[0].exit_code == 2


def test_all_layouts_are_the_same_candles(tmp_path):
    """Header in any case and order, ISO times, klines in ms and us, Parquet: one reader."""
    rows = candles(5)
    plain = read_ohlcv(write_csv(tmp_path / "plain.csv", rows)).frame
    iso = [(np.datetime64(t, "ms").astype(str).replace("T", " "), v, c, low, h, o) for t, o, h, low, c, v in rows]
    shuffled = write_csv(tmp_path / "iso.csv", iso, "DATE,Volume,CLOSE,low,High,Open")
    klines = write_csv(tmp_path / "klines.csv", [(*row, row[0] + 59_999, 0, 0, 0, 0, 0) for row in rows], "")
    micro = write_csv(tmp_path / "micro.csv", [(row[0] * 1000, *row[1:]) for row in rows], "")
    seconds = write_csv(tmp_path / "seconds.csv", [(row[0] / 1000, *row[1:]) for row in rows])
    parquet = tmp_path / "candles.parquet"
    plain.rename({"open_time_ms": "Timestamp"}).with_columns(pl.from_epoch("Timestamp", "ms")).write_parquet(parquet)
    for path in (shuffled, klines, micro, seconds, parquet):
        result = read_ohlcv(path)
        assert result.frame.equals(plain), path
        assert (result.malformed, result.duplicates) == ([], 0)


def test_order_is_restored_duplicates_are_counted_and_malformed_rows_named(tmp_path):
    """Files are glued together by hand; a wrong row must not become a price."""
    good = candles(3)
    time = good[0][0]
    bad = [
        ("yesterday", 1, 1, 1, 1, 1),
        (time + 1, "x", 1, 1, 1, 1),
        (time + 1, 1, 1, 1, "nan", 1),
        (time + 1, 1, 1, 1, 0, 1),
        (time + 1, 1, 1, 1, 1, -1),
        (time + 1, 1),
    ]
    result = read_ohlcv(write_csv(tmp_path / "a.csv", [good[2], good[0], good[1], good[0], *bad]))
    assert result.frame["open_time_ms"].to_list() == [row[0] for row in good]
    assert result.duplicates == 1
    assert [row.line for row in result.malformed] == [6, 7, 8, 9, 10, 11]
    found = [row.reason.split()[0] for row in result.malformed]
    assert found == ["time", "open", "close", "a", "volume", "high"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "lacks the columns open, high, low, close, volume, one of time"),
        ("1,2,3\n", "no header and 3 columns"),
    ],
)
def test_a_file_that_is_no_candle_file_says_what_to_do(tmp_path, content, message):
    """State, expectation, remedy."""
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(OhlcvFileError, match=message):
        read_ohlcv(path)


def test_a_broken_parquet_file_is_an_error_of_ours(tmp_path):
    """No trace of the library underneath for the person at the terminal."""
    path = tmp_path / "x.parquet"
    path.write_bytes(b"no parquet at all")
    with pytest.raises(OhlcvFileError, match="cannot be read"):
        read_ohlcv(path)
