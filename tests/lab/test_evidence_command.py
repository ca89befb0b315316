"""`quantum evidence` on files, as a person types it."""

import json
import re
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from quantum_lab.evidence import sha256_of
from quantum_ops.sealed_page import verify
from resources.recorder.archive import Archive, Position
from tests.commands import run_command
from tests.conftest import START

OLD = "old.json"  # a file that exists
SAMPLE = Path(__file__).resolve().parents[2] / "quantum_assets" / "sample"


def run(folder: Path, *arguments: object) -> tuple[int, str, str]:
    done = run_command("evidence", *map(str, arguments), environment={"QUANTUM_HOME": str(folder)})
    return done.returncode, done.stdout, done.stderr


def test_a_file_gives_a_page_a_document_and_the_same_again(tmp_path: Path) -> None:
    """The bundled sample: plain words first, pictures inside, nothing fetched, one hash however it is written."""
    page, again = tmp_path / "page.html", tmp_path / "again.html"
    for out in (page, again):
        code, _, said = run(tmp_path, SAMPLE / "BTCUSDT_1m.csv", "--profile", "crypto-1m", "--out", out)
        assert code == 0, said
    text = page.read_text()
    assert text == again.read_text()
    assert verify(text)
    assert not verify(text.replace("crypto-1m", "crypto-2m"))
    assert text.index("What it says of crypto-1m") < text.index("What it cannot say") < text.index("Coverage of sigma")
    assert text.count("data:image/png") == 3
    assert re.findall(r'(?:src|href)="(?!data:image/png)', text) == []
    code, printed, _ = run(tmp_path, SAMPLE / "BTCUSDT_1m.csv", "--profile", "crypto-1m", "--json")
    document = json.loads(printed)
    assert code == 0
    assert document["sha256"] == sha256_of(document["content"])
    assert document["sha256"] in text
    assert document["content"]["samples"][0]["name"] == "BTCUSDT_1m.csv"


def test_a_terminal_shows_the_summary_within_80_columns(tmp_path: Path) -> None:
    """And how to get the rest. Progress goes to stderr."""
    code, printed, said = run(tmp_path, SAMPLE / "BTCUSDT_1m.csv", "--profile", "locked-v1")
    assert code == 0
    assert "What it says of locked-v1" in printed
    assert "--out FILE.html" in printed
    assert "BTCUSDT_1m.csv: locked-v1" in said
    assert "What it says" not in said
    code, helped, _ = run(tmp_path, "--help")
    assert code == 0
    assert max(map(len, helped.splitlines())) <= 80


def test_recorded_candles_are_judged_by_symbol(tmp_path: Path) -> None:
    """From the archive alone: no Redis, no Dagster."""
    frame = pl.read_csv(SAMPLE / "BTCUSDT_1m.csv", try_parse_dates=True)
    candles = pl.DataFrame(
        {
            "symbol": ["BTCUSDT"] * frame.height,
            "seq": [1] * frame.height,
            "at": [START] * frame.height,
            "open_time_ms": frame["Date"].dt.epoch("ms"),
            "high": frame["High"],
            "low": frame["Low"],
            "close": frame["Close"],
            "volume": frame["Volume"],
            "source": ["test"] * frame.height,
            "key": ["k"] * frame.height,
            "whole": [True] * frame.height,
        }
    )
    states = pl.DataFrame({"symbol": ["BTCUSDT"] * 2, "seq": [1, 2], "at": [frame["Date"].min(), START + timedelta(seconds=1)]})
    states = states.with_columns(pl.col("at").dt.replace_time_zone("UTC")) if states["at"].dtype.time_zone is None else states
    Archive(tmp_path / "recorder").write(
        {"candles": candles, "market_state": states}, Position(flush=1, seq=2, day=f"{START:%Y-%m-%d}")
    )
    code, printed, said = run(tmp_path, "--recorded", "--profile", "crypto-1m", "--json")
    assert code == 0, said
    (sample,) = json.loads(printed)["content"]["samples"]
    assert (sample["symbol"], sample["candles"]) == ("BTCUSDT", frame.height)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either FILES or --recorded"),
        (("x.csv", "--recorded"), "either FILES or --recorded"),
        (("x.csv", "--horizon", "an hour"), "is no length of time"),
        (("x.csv", "--out", "page.pdf"), "names that end in .html, .md, .json"),
        ((SAMPLE / "BTCUSDT_1m.csv", "--profile", "crypto-9m"), "no such file"),
        ((SAMPLE / "BTCUSDT_1m.csv", "--horizon", "90s"), "whole numbers from 2"),
        (("BTCUSDT.csv",), "cannot be read"),
        ((SAMPLE / "BTCUSDT_1m.csv", "--out", OLD), "exists: give another --out, or --force"),
    ],
)
def test_a_wrong_call_exits_with_two_and_says_what_is_accepted(tmp_path: Path, arguments: tuple, message: str) -> None:
    """Nothing is written."""
    (tmp_path / OLD).write_text("mine")
    code, _, said = run(tmp_path, *(tmp_path / OLD if one == OLD else one for one in arguments))
    assert (code, message in said) == (2, True), said
    assert (tmp_path / OLD).read_text() == "mine"


def test_a_file_of_a_folder_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """The others are measured, and --force replaces the document of before."""
    folder, out = tmp_path / "candles", tmp_path / OLD
    folder.mkdir()
    (folder / "BTCUSDT_1m.csv").write_bytes((SAMPLE / "BTCUSDT_1m.csv").read_bytes())
    (folder / "ETHUSDT_1m.parquet").write_bytes(b"PAR1 damaged")
    out.write_text("mine")
    code, _, said = run(tmp_path, folder, "--profile", "locked-v1", "--out", out, "--force")
    assert code == 0, said
    assert [one["name"] for one in json.loads(out.read_text())["content"]["samples"]] == ["BTCUSDT_1m.csv"]
    assert "ETHUSDT_1m.parquet cannot be read" in said
    assert "1 of 2 files left out" in said


def test_no_candles_at_all_exit_with_one(tmp_path: Path) -> None:
    """Nothing recorded, or too few for a state."""
    code, _, said = run(tmp_path, "--recorded")
    assert (code, "no candles are recorded" in said) == (1, True), said
    short = tmp_path / "BTCUSDT_1m.csv"
    short.write_text("\n".join((SAMPLE / "BTCUSDT_1m.csv").read_text().splitlines()[:200]))
    code, _, said = run(tmp_path, short)
    assert (code, "Nothing was judged" in said) == (1, True), said
