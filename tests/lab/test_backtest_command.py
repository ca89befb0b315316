"""`quantum backtest`, as somebody types it."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from quantum_core.settings import load_settings
from quantum_ops.recordings.ohlcv_files import read_ohlcv
from quantum_ops.sealed_page import verify
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


def on_a_terminal(home: Path, *arguments: object):
    """Run a command as on a terminal of 80 columns without colours."""
    terminal = {"QUANTUM_HOME": str(home), "FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}
    return run_command("backtest", *map(str, arguments), environment=terminal)


def test_the_figures_fit_a_terminal(home: Path) -> None:
    """More profiles than fit stand below each other, and no number is broken."""
    done = on_a_terminal(home, BTC, "--hold-max", "30m", "--set", "stops.k_sl.chop=6")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.count("expectancy, R") == 2
    assert "crypto-1m* minus null" in done.stdout
    assert "…" not in done.stdout
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


def test_a_pipe_has_no_width(home: Path) -> None:
    """All profiles in one table, each record on one line: a script cuts where it wants to."""
    sets = ("--set", "stops.k_sl.chop=6")
    done = run(home, BTC, "--hold-max", "30m", "--profile", "locked-v1", "--profile", "crypto-1m", *sets)
    lines = done.stdout.splitlines()
    (head,) = (line for line in lines if "locked-v1" in line and "crypto-1m*" in line)
    assert len(head) > 80
    (interval,) = (line for line in lines if "blocks of time" in line)
    assert interval.count(" to ") >= 2
    assert len([line for line in lines if "chandelier" in line]) == 4
    assert all(re.search(r"│\s+58 │", line) for line in lines if "random_exit" in line)  # the pairs of each difference


def test_what_both_sides_cancel_is_said_where_both_are_opened(home: Path) -> None:
    """Else a mean near minus the costs is taken for a property of the market."""
    both, long = (run(home, BTC, "--hold-max", "30m", "--side", side).stdout for side in ("both", "long"))
    assert "moves cancel" in both
    assert "moves cancel" not in long
    assert "Entries: every 15m, long; closed after 30m at the latest; fee 5 and slippage 2 bps a fill." in long


def test_another_symbol_than_the_name_says_is_named(home: Path) -> None:
    done = run(home, BTC, "--symbol", "SOLUSDT", "--hold-max", "30m", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["candles"][0]["symbol"] == "SOLUSDT"
    assert f"{BTC}: its name says BTCUSDT, taken as SOLUSDT" in done.stderr.splitlines()
    assert "its name says" not in run(home, BTC, "--symbol", "BTCUSDT", "--hold-max", "30m").stderr


def test_files_that_exist_are_replaced_only_by_force(home: Path, tmp_path: Path) -> None:
    """A second run must not destroy the first one's result, and no candles."""
    page, out = tmp_path / "page.html", tmp_path / "out"
    out.mkdir()
    page.write_text("mine")
    (out / "trades.csv").write_text("mine")
    (out / "notes.txt").write_text("mine")
    options = (BTC, "--hold-max", "30m", "--entries", "every:1h")
    for more, named in ((("--report", page), "page.html exists: give another --report"), (("--out", out), "another --out")):
        done = run(home, *options, *more)
        assert (done.returncode, named in done.stderr) == (2, True), done.stderr
    assert page.read_text() == (out / "trades.csv").read_text() == "mine"
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", "trades.csv"]
    done = run(home, *options, "--report", page, "--out", out, "--force")
    assert done.returncode == 0, done.stderr
    assert (out / "trades.csv").read_text().startswith("profile,")
    assert (out / "notes.txt").read_text() == "mine"
    assert "<title>Backtest" in page.read_text()


def folder_with_faults(folder: Path) -> Path:
    """Give a folder with one good file, and three that cannot be used for three reasons."""
    folder.mkdir()
    lines = BTC.read_text().splitlines()
    (folder / "BTCUSDT_1m.csv").write_text("\n".join(lines))
    (folder / "ETHUSDT_1m.parquet").write_bytes(b"PAR1 damaged")
    (folder / "SOLUSDT_1m.csv").write_text("\n".join([*lines[:100], *(line.replace(",", ",x", 2) for line in lines[100:150])]))
    (folder / "ADAUSDT_1m.csv").write_text("\n".join(lines[:2]))
    return folder


@pytest.mark.parametrize("option", [(), ("--history",)])
def test_a_file_of_a_folder_that_cannot_be_used_does_not_stop_the_others(home: Path, tmp_path: Path, option) -> None:
    """It is named and counted, on stderr and in the figures."""
    folder = folder_with_faults(tmp_path / "candles")
    done = run(home, *option, folder, "--hold-max", "30m", "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert [one["symbol"] for one in body["candles"]] == ["BTCUSDT"]
    assert {Path(path).name for path in body["files_left_out"]} == {"ETHUSDT_1m.parquet", "SOLUSDT_1m.csv", "ADAUSDT_1m.csv"}
    assert "3 of 4 files left out" in done.stderr
    for text in ("ETHUSDT_1m.parquet cannot be read", "rows are malformed", "ADAUSDT has 1 usable candle:"):
        assert text in done.stderr.replace("rows of " + str(folder / "SOLUSDT_1m.csv") + " are", "rows are"), text


def test_a_month_that_cannot_be_read_leaves_the_others_of_its_symbol(home: Path, tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT-1m-2025-08.csv").write_text(BTC.read_text())
    (tmp_path / "BTCUSDT-1m-2025-09.zip").write_bytes(b"PK damaged")
    done = run(home, tmp_path, "--hold-max", "30m", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["candles"][0]["count"] == 700
    assert "1 of 2 files left out" in done.stderr


def test_a_folder_without_a_usable_file_exits_with_one(home: Path, tmp_path: Path) -> None:
    folder = folder_with_faults(tmp_path / "candles")
    bad = folder / "ETHUSDT_1m.parquet"
    named = run(home, folder / "BTCUSDT_1m.csv", bad)
    assert (named.returncode, "cannot be read" in named.stderr) == (2, True)  # a file that was named must be usable
    (folder / "BTCUSDT_1m.csv").unlink()
    done = run(home, folder)
    assert (done.returncode, "No file can be used; no trade was computed." in done.stderr) == (1, True), done.stderr


def test_the_page_can_be_filed_and_read_on_a_phone(home: Path, tmp_path: Path) -> None:
    """Whoever finds it must know what it is of, and can make it again."""
    page = tmp_path / "page.html"
    done = run(home, BTC, "--hold-max", "30m", "--seed", "7", "--set", "stops.k_sl.chop=6", "--report", page, "--json")
    body, text = json.loads(done.stdout), page.read_text()
    assert verify(text)
    assert '<meta name="viewport" content="width=device-width">' in text
    assert ".wide{overflow-x:auto}" in text
    assert text.count("<table>") == text.count('<div class="wide"><table>') + text.count('<div class="wide left"><table>') == 3
    for value in (*(one["fingerprint"] for one in body["profiles"]), body["candles"][0]["digest"], *body["versions"].values()):
        assert f"<code>{value}</code>" in text
    assert "<td>seed</td><td><code>7</code></td>" in text
    assert {"quantum-risk-pipeline", "numpy", "scipy", "polars"} <= set(body["versions"])
    assert "stops.k_sl.chop=6" in text
    assert "moves cancel" in text
    assert "<th>pairs</th>" in text
    assert text.count("<td>58</td>") >= 16  # trades of four profiles, and pairs of each with four nulls


def test_the_same_call_gives_the_same_figures(home: Path) -> None:
    options = (BTC, "--entries", "random:40", "--seed", "3", "--hold-max", "30m", "--json")
    assert run(home, *options).stdout == run(home, *options).stdout


def test_the_trades_of_a_desk_are_judged_and_the_others_named(home: Path, tmp_path: Path) -> None:
    frame = read_ohlcv(BTC).frame
    entry = datetime.fromtimestamp(frame["open_time_ms"][400] / 1000, UTC)
    later = datetime.fromtimestamp(frame["open_time_ms"][420] / 1000, UTC)
    lines = [
        "symbol,side,entry_time,entry_price,qty,exit_time,exit_price",
        f"BTCUSDT,long,{entry.isoformat()},{frame['open'][400]},0.1,,",
        f"BTCUSDT,short,{entry.isoformat()},1.0,0.1,,",
        "BTCUSDT,long,2020-01-01,100,1,,",
        "DOGEUSDT,long,2025-08-06,1,1,,",
        "BTCUSDT,up,2025-08-06,1,1,,",
        "BTCUSDT,long,1e300,100,1,,",
        f"BTCUSDT,long,{entry.isoformat()},{frame['open'][400]},0.1,{later.isoformat()},{frame['open'][420]}",
    ]
    path = tmp_path / "desk.csv"
    path.write_text("\n".join(lines))
    done = run(home, BTC, "--trades", path, "--hold-max", "1h", "--json")
    body = json.loads(done.stdout)
    assert body["entries"]["left_out"] == {"no_candles": 1, "price_off": 1, "before_candles": 1}
    assert [one["trades"] for one in body["profiles"]] == [2, 2]
    assert [one["nulls"]["desk"]["pairs"] for one in body["profiles"]] == [1, 1]
    assert "side 'up'" in done.stderr
    assert "time '1e300' is neither epoch nor ISO 8601" in done.stderr
    assert "2 trades left out" in done.stderr
    assert "no candles of DOGEUSDT: 1 trade" in body["entries"]["named"]
    shown = on_a_terminal(home, BTC, "--trades", path, "--hold-max", "1h").stdout
    assert "locked-v1 minus desk: of the trades whose exit is known, 1 of 2 trades." in shown
    assert not re.search(r"\b1 (trades|exits|candles|files)\b", done.stderr + shown.replace("1 of 2 trades", ""))


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
        ((BTC, "--set", "stops.k_sl=1", "--set", "stops.k_sl.chop=2"), 2, "set the same: give one of them"),
        ((BTC, "--set", "stops.k_sl.chop=2", "--set", "stops.k_sl=1"), 2, "set the same: give one of them"),
        ((BTC, "--set", "stops.k_sl.chop=2", "--set", "stops.k_sl.chop=3"), 2, "set the same: give one of them"),
        ((BTC, SAMPLE / "ETHUSDT_1m.csv", "--symbol", "BTCUSDT"), 2, "files of BTCUSDT, ETHUSDT would become one history"),
        ((BTC, "--side", "long", "--trades", BTC), 2, "--side is of --entries"),
        ((BTC, "--entries", "hourly"), 2, "every:15m"),
        ((BTC, "--hold-max", "long"), 2, "accepted are"),
        ((BTC, "--entries", "every:15m", "--trades", BTC), 2, "--entries or --trades"),
        ((BTC, "--trades", BTC), 2, "lacks the columns"),
        ((BTC, "--entries", "every:2d"), 1, "no entry has a place"),
        ((BTC, "--hold-max", "30s"), 2, "--hold-max is 30 s, and candles close every 60 s"),
        ((BTC, "--entries", "every:90s"), 2, "--entries every is 90 s, and candles close every 60 s"),
        ((BTC, "--symbol", ""), 2, "--symbol is empty"),
        ((BTC, "--profile", ""), 2, "no profile is named"),
        ((BTC, "--profile", "crypto-1m", "--set", "stops.sl_min_pct=1"), 1, "crypto-1m* cannot be computed on BTCUSDT: "),
        (("--recorded", "now", "7d"), 2, "is not before"),
    ],
)
def test_a_call_that_cannot_be_done_says_why(home: Path, arguments, code, text) -> None:
    done = run(home, *arguments)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr


def test_a_link_that_leads_nowhere_is_a_file_left_out(home: Path, tmp_path: Path) -> None:
    (tmp_path / BTC.name).write_bytes(BTC.read_bytes())
    (tmp_path / "ETHUSDT_1m.csv").symlink_to(tmp_path / "gone.csv")
    (tmp_path / "SOLUSDT_1m.csv").symlink_to(tmp_path / "SOLUSDT_1m.csv")
    done = run(home, tmp_path, "--profile", "crypto-1m", "--hold-max", "30m", "--json")
    assert done.returncode == 0, done.stderr
    assert {Path(path).name for path in json.loads(done.stdout)["files_left_out"]} == {"ETHUSDT_1m.csv", "SOLUSDT_1m.csv"}


def test_drawn_entries_are_said_to_be_drawn(home: Path) -> None:
    done = run(home, BTC, "--profile", "crypto-1m", "--hold-max", "30m", "--entries", "random:6")
    assert "6 at random for each symbol, long or short as drawn" in done.stdout
    assert "each time" not in done.stdout


def test_a_folder_for_states_that_cannot_be_made_stops_nothing(home: Path) -> None:
    done = run(home, BTC, "--profile", "crypto-1m", "--hold-max", "30m", "--cache", "/dev/null")
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


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
