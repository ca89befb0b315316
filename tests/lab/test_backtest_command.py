"""`quantum backtest`, as somebody types it."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from quantum_core.settings import load_settings
from quantum_ops.recordings.ohlcv_files import read_ohlcv
from resources.recorder.archive import Position
from resources.recorder.reading import archive_of
from tests.commands import run_command

SAMPLE = Path(__file__).resolve().parents[2] / "quantum_assets" / "sample"
BTC = SAMPLE / "BTCUSDT_1m.csv"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "lab.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance folder for all of them: states are computed once."""
    return tmp_path_factory.mktemp("home")


def run(home: Path, *arguments: object):
    return run_command("backtest", *map(str, arguments), environment={"QUANTUM_HOME": str(home)})


def test_the_figures_fit_a_terminal(home: Path) -> None:
    done = run(home, BTC, "--hold-max", "30m")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for text in ("BTCUSDT: 700 candles of 60 s", "expectancy, R", "chandelier", "not a forecast"):
        assert text in done.stdout
    assert list((home / "lab").glob("states-*.parquet"))


def test_a_change_is_shown_beside_the_profile(home: Path, tmp_path: Path) -> None:
    """A what-if is a comparison, on the same entries."""
    options = ("--profile", "crypto-1m", "--set", "stops.k_sl.chop=6", "--hold-max", "1h", "--json")
    done = run(home, BTC, *options, "--out", tmp_path / "out", "--report", tmp_path / "page.html")
    body = json.loads(done.stdout)
    first, changed = body["profiles"]
    assert (first["name"], changed["name"]) == ("crypto-1m", "crypto-1m*")
    assert first["fingerprint"] != changed["fingerprint"]
    assert first["trades"] == changed["trades"] > 20
    assert changed["median_risk_pct"] < first["median_risk_pct"]
    assert len(body["p_holm_over_all"]) in (0, 8)
    trades = pl.read_parquet(tmp_path / "out" / "trades.parquet")
    assert dict(trades.group_by("profile").len().iter_rows()) == {"crypto-1m": first["trades"], "crypto-1m*": changed["trades"]}
    assert len(pl.read_csv(tmp_path / "out" / "trades.csv")) == len(trades)
    assert json.loads((tmp_path / "out" / "figures.json").read_text()) == body
    paths = pl.read_parquet(tmp_path / "out" / "paths.parquet")
    for (trade,), rows in paths.filter(pl.col("profile") == "crypto-1m").group_by("trade"):
        row = trades.filter(pl.col("profile") == "crypto-1m").row(trade, named=True)
        assert len(rows) == row["held_candles"]
        stops = rows.sort("candle")["stop"].to_list()
        assert stops == sorted(stops, reverse=row["side"] == "SHORT")  # it never loosens
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_same_call_gives_the_same_figures(home: Path) -> None:
    options = (BTC, "--entries", "random:40", "--seed", "3", "--hold-max", "30m", "--json")
    assert run(home, *options).stdout == run(home, *options).stdout


def test_the_trades_of_a_desk_are_judged_and_the_others_named(home: Path, tmp_path: Path) -> None:
    frame = read_ohlcv(BTC).frame
    entry = datetime.fromtimestamp(frame["open_time_ms"][400] / 1000, UTC)
    lines = [
        "symbol,side,entry_time,entry_price,qty,exit_time,exit_price",
        f"BTCUSDT,long,{entry.isoformat()},{frame['open'][400]},0.1,,",
        f"BTCUSDT,short,{entry.isoformat()},1.0,0.1,,",
        "BTCUSDT,long,2020-01-01,100,1,,",
        "DOGEUSDT,long,2025-08-06,1,1,,",
        "BTCUSDT,up,2025-08-06,1,1,,",
    ]
    path = tmp_path / "desk.csv"
    path.write_text("\n".join(lines))
    done = run(home, BTC, "--trades", path, "--hold-max", "1h", "--json")
    body = json.loads(done.stdout)
    assert body["entries"]["left_out"] == {"no_candles": 1, "price_off": 1, "before_candles": 1}
    assert [one["trades"] for one in body["profiles"]] == [1, 1]
    assert "side 'up'" in done.stderr


def test_the_candles_of_the_archive_are_used(home: Path) -> None:
    """What was recorded can be asked what another profile had made of it."""
    frame = read_ohlcv(BTC).frame
    archive = archive_of(load_settings(quantum_home=home))
    rows = frame.drop("open").with_columns(
        pl.lit("BTCUSDT").alias("symbol"), pl.lit("candles").alias("source"), pl.lit("k").alias("key"),
        pl.lit(1, pl.Int64).alias("seq"), pl.from_epoch(pl.col("open_time_ms") + 60_000, "ms").dt.replace_time_zone("UTC").cast(pl.Datetime("us", "UTC")).alias("at"),
    )  # fmt: skip
    state = rows.select("seq", "at", "symbol", pl.lit(0.001).alias("sigma")).head(1)
    archive.write({"candles": rows, "market_state": state}, Position(flush=1, seq=1, day="2025-08-06"))
    done = run(home, "--recorded", "2025-08-05T20:49", "2025-08-06T09:00", "--hold-max", "30m", "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert (body["candles"][0]["symbol"], body["candles"][0]["count"]) == ("BTCUSDT", 700)
    assert body["profiles"][0]["trades"] > 20
    nothing = run(home, "--recorded", "2020-01-01", "2020-01-02")
    assert (nothing.returncode, "no candles from 2020-01-01" in nothing.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "give FILES"),
        (("nowhere.csv",), 2, "give --symbol"),
        (("nowhere.csv", "--symbol", "BTCUSDT"), 2, "cannot be read"),
        ((BTC, "--profile", "nosuch"), 2, "no such file"),
        ((BTC, "--set", "stops.k_sl.chop"), 2, "section.parameter=value"),
        ((BTC, "--set", "stops.k_sl.chop=many"), 2, "k_sl.chop"),
        ((BTC, "--entries", "hourly"), 2, "every:15m"),
        ((BTC, "--hold-max", "long"), 2, "accepted are"),
        ((BTC, "--entries", "every:15m", "--trades", BTC), 2, "--entries or --trades"),
        ((BTC, "--trades", BTC), 2, "lacks the columns"),
        ((BTC, "--entries", "every:2d"), 1, "no entry has a place"),
    ],
)
def test_a_call_that_cannot_be_done_says_why(home: Path, arguments, code, text) -> None:
    done = run(home, *arguments)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_page_run_as_they_stand(home: Path, tmp_path: Path) -> None:
    """A page whose commands do not run is worse than none."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("quantum backtest")]
    assert len(commands) >= 3
    for line in commands:
        words = line.split("#")[0].split()[2:]
        given = [str(SAMPLE.parents[1] / word) if word.startswith("quantum_assets/") else word for word in words]
        paths = [str(tmp_path / word) if word.endswith((".html", "results/")) else word for word in given]
        done = run(home, *paths)
        assert done.returncode == 0, (line, done.stderr)
