"""What somebody has taken out of an archive, or put into it, is named with what to do; the rest is read."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import polars as pl
import pytest

from quantum_assets.checks.proofs.history import archive_intact
from quantum_core.settings import load_settings
from quantum_ops.cli.audit import prove
from quantum_ops.cli.files import NotWrittenError
from quantum_ops.cli.history.look_back import _form
from resources.recorder.archive import Archive, DamagedPositionError, Position
from resources.recorder.names import FOREIGN, NO_FILE, day_named, is_table, part_number, text_of
from resources.recorder.reading import Reader
from tests.commands import run_command
from tests.room import little_room

DAY = date(2026, 1, 22)
NOON = datetime(2026, 1, 22, 12, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
HOUR = ("--from", "2026-01-22T11:30", "--to", "2026-01-22T12:30")
ASKED = (("history", "BTCUSDT", *HOUR), ("at", "2026-01-22T12:02:30"))


def rows(number: int, **columns: object) -> pl.DataFrame:
    """One row of a table, of one flush."""
    stamps = {"seq": [number], "cycle_id": [f"c{number}"], "at": [NOON + timedelta(minutes=number)]}
    frame = pl.DataFrame({**stamps, "symbol": ["BTCUSDT"], **{name: [value] for name, value in columns.items()}})
    return frame.with_columns(pl.col("at").cast(TIME))


def entries(number: int, **columns: object) -> pl.DataFrame:
    """One entry of a stream, whose fields differ from one to the next."""
    entered = int((NOON + timedelta(minutes=number)).timestamp() * 1000)
    return pl.DataFrame(
        {"entry_id": [f"{entered}-0"], "symbol": ["BTCUSDT"], **{name: [value] for name, value in columns.items()}}
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An instance folder with an archive of three flushes of an open day."""
    archive = Archive(tmp_path / "recorder")
    for number in range(1, 4):
        tables = {
            "market_state": rows(number, sigma=0.1 * number),
            "position": rows(number, side="LONG", current_price=100.0 + number),
            "risk_proposal": rows(number, proposed_sl=90.0 + number),
            "decisions": entries(number, **({"event": "PERMIT"} if number == 1 else {"reason": "limit", f"g{number}": "x"})),
            "plans": entries(number, plan_id=f"p{number}", **({} if number == 1 else {"price": "7"})),
        }
        archive.write(tables, Position(flush=number, seq=number, day=str(DAY)))
    return tmp_path


def archive_in(home: Path) -> Archive:
    return Archive(home / "recorder")


def parts_of(home: Path, table: str = "position") -> list[Path]:
    return archive_in(home).files(table, DAY)


def quantum(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command(*arguments, environment={"QUANTUM_HOME": str(home), "COLUMNS": "80"})


def removed(home: Path) -> str:
    parts_of(home)[1].unlink()
    return "position/date=2026-01-22 has 2 files"


def replaced_by_a_folder(home: Path) -> str:
    part = parts_of(home)[1]
    part.unlink()
    part.mkdir()
    return "position/date=2026-01-22/part-000000000002.parquet is no file"


def removed_with_its_folder(home: Path) -> str:
    shutil.rmtree(parts_of(home)[0].parent)
    return "position/date=2026-01-22 has 0 files"


def removed_table(home: Path) -> str:
    shutil.rmtree(home / "recorder" / "position")
    return "position/date=2026-01-22 has 0 files"


def compacted_and_removed(home: Path) -> str:
    archive_in(home).compact(DAY)
    parts_of(home)[0].unlink()
    return "position/date=2026-01-22/day.parquet is missing"


def copied(home: Path) -> str:
    part = parts_of(home)[0]
    shutil.copy(part, part.with_name("part-000000000001 (copy).parquet"))
    return f"position/date=2026-01-22/part-000000000001 (copy).parquet {FOREIGN}"


def of_no_text(home: Path) -> str:
    part = parts_of(home)[0]
    shutil.copy(os.fsencode(part), os.fsencode(part.parent) + b"/part-\xff.parquet")
    return f"position/date=2026-01-22/part-\\xff.parquet {FOREIGN}"


CHANGES = (removed, replaced_by_a_folder, removed_with_its_folder, removed_table, compacted_and_removed, copied, of_no_text)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("arguments", ASKED, ids=["history", "at"])
def test_what_is_missing_or_does_not_belong_there_is_named_and_the_rest_is_shown(
    home: Path, arguments: tuple[str, ...], change: Callable[[Path], str]
) -> None:
    """An answer that lacks a part looks as whole as one that does not."""
    assert quantum(home, *arguments).returncode == 0
    named = change(home)
    done = quantum(home, *arguments)
    assert done.returncode == 1
    assert named in done.stderr
    assert "out of the archive" in done.stderr
    assert "Traceback" not in done.stderr
    assert "BTCUSDT" in done.stdout
    assert "92" in done.stdout  # the stop of another table


@pytest.mark.parametrize("change", [removed, copied])
def test_what_was_not_asked_for_is_not_named(home: Path, change: Callable[[Path], str]) -> None:
    """Of a table or a day that an answer does not rest on, its own query says so, and the proof."""
    change(home)
    done = quantum(home, "history", "BTCUSDT", *HOUR, "--asset", "decisions")
    assert (done.returncode, "position" in done.stderr) == (0, False)


def test_what_a_day_lost_before_it_was_compacted_is_named_for_as_long_as_it_is_kept(home: Path) -> None:
    named = removed(home)
    archive_in(home).compact(DAY)
    done = quantum(home, *ASKED[0])
    assert done.returncode == 1
    assert named in done.stderr


def test_a_missing_part_is_named_where_nothing_is_left_to_show(home: Path) -> None:
    for table in ("market_state", "position", "risk_proposal"):
        for part in parts_of(home, table)[1:]:
            part.unlink()
    done = quantum(home, "history", "BTCUSDT", "--from", "2026-01-22T12:02:30", "--to", "2026-01-22T12:03")
    assert done.returncode == 1
    assert "position/date=2026-01-22 has 1 files" in done.stderr


def test_an_exported_day_is_an_archive_of_its_own(home: Path, tmp_path: Path) -> None:
    """It has no position, and of the day before the manifest alone: nothing of it is missing."""
    archive = archive_in(home)
    for number in (4, 5):
        day = DAY + timedelta(days=number - 3)
        later = rows(number, side="SHORT").with_columns(pl.col("at") + timedelta(days=number - 3))
        archive.write({"position": later, "switches": later}, Position(flush=number, seq=number, day=str(day)))
        archive.compact(day - timedelta(days=1))
    assert quantum(home, "export", "2026-01-23", "--out", str(tmp_path / "day.tar")).returncode == 0
    with tarfile.open(tmp_path / "day.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    done = quantum(tmp_path / "out", "at", "2026-01-23T12:04:00")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("change", CHANGES)
def test_an_export_and_the_proof_name_it_too(home: Path, tmp_path: Path, change: Callable[[Path], str]) -> None:
    named = change(home)
    done = quantum(home, "export", "2026-01-22", "--out", str(tmp_path / "day.tar"))
    assert done.returncode == 1
    assert named in done.stderr
    assert any(f"{fault.file} {fault.what}".startswith(named) for fault in archive_in(home).verify())


@pytest.mark.parametrize("change", [removed, replaced_by_a_folder, copied, of_no_text])
def test_the_proof_of_the_archive_names_the_file_and_can_be_judged(home: Path, change: Callable[[Path], str]) -> None:
    """It was red with the name of an exception, and neither a file nor what to do."""
    evidence: Any = SimpleNamespace(settings=load_settings(quantum_home=home), now=NOON.timestamp())
    assert archive_intact(evidence).failing == {}
    named = change(home)
    found = archive_intact(evidence).failing
    assert any(f"{file} {what}".startswith(named) for file, what in found.items())
    json.dumps(found).encode()


@pytest.mark.parametrize("change", [copied, of_no_text, replaced_by_a_folder])
def test_the_next_recorder_goes_on_beside_it_and_removes_nothing(home: Path, change: Callable[[Path], str]) -> None:
    change(home)
    archive = archive_in(home)
    folder = archive.folder("position", DAY)
    before = sorted(folder.iterdir())
    assert archive.remove_uncommitted() == []
    assert sorted(folder.iterdir()) == before
    archive.write({"position": rows(4, side="LONG")}, Position(flush=4, seq=4, day=str(DAY)))
    assert archive.position().flush == 4


def test_a_folder_of_the_name_of_a_leftover_is_left_where_it_is(home: Path) -> None:
    folder = parts_of(home)[0].with_name("part-000000000099.parquet")
    folder.mkdir()
    assert archive_in(home).remove_uncommitted() == []
    assert [(fault.file.rpartition("/")[2], fault.what) for fault in archive_in(home).strays()] == [(folder.name, NO_FILE)]


def test_a_position_that_is_a_folder_is_damaged_and_no_traceback(home: Path, tmp_path: Path) -> None:
    path = home / "recorder" / "position.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedPositionError, match="it is a folder"):
        archive_in(home).position()
    for arguments in (*ASKED, ("export", "2026-01-22", "--out", str(tmp_path / "day.tar"))):
        done = quantum(home, *arguments)
        assert (done.returncode, "position.json is damaged: it is a folder" in done.stderr) == (1, True), arguments


@pytest.mark.parametrize("damage", [Path.mkdir, lambda path: path.write_text("{")], ids=["a folder", "no JSON"])
def test_a_damaged_manifest_is_named_and_no_traceback(home: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    archive = archive_in(home)
    archive.compact(DAY)
    path = archive.manifest_path(DAY)
    path.unlink()
    damage(path)
    (path.parent / "9999-99-99.json").write_text("{}")
    for arguments in (*ASKED, ("export", "2026-01-22", "--out", str(tmp_path / "day.tar"))):
        done = quantum(home, *arguments)
        assert (done.returncode, "2026-01-22.json is damaged" in done.stderr) == (1, True), arguments
    assert {fault.file for fault in archive.verify()} == {"manifests/2026-01-22.json"}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("part-000000000042.parquet", 42),
        ("part-1000000000000.parquet", 10**12),
        ("part-42.parquet", None),
        ("part-000000000042.tmp", None),
        ("part-00000000004².parquet", None),
        ("day.parquet", None),
    ],
)
def test_a_part_has_the_name_the_recorder_gives_it(name: str, number: int | None) -> None:
    assert part_number(name) == number


def test_days_and_tables_have_the_names_the_recorder_gives_them() -> None:
    """Python reads 20260122 and 2026-W04-4 as days, too."""
    assert [day_named(text) for text in ("2026-01-22", "20260122", "2026-W04-4", "", "x")] == [DAY, None, None, None, None]
    assert [is_table(name) for name in ("position", ".ipynb", "my notes", "notes\udcff", "é")] == [True, *[False] * 4]
    assert text_of("a\udcff\n") == "a\\xff?"


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31", "1969-12-31", "0001-01-01T00:00+14:00", "99999d"])
@pytest.mark.parametrize(
    "words", [("at",), ("history", "BTCUSDT", "--from"), ("history", "BTCUSDT", "--to"), ("rerun", "--from")]
)
def test_a_time_that_nobody_can_count_from_is_refused(home: Path, words: tuple[str, ...], text: str) -> None:
    done = quantum(home, *words, text)
    assert done.returncode == 2
    assert "years are 1970 to 9000" in " ".join(done.stderr.split())


@pytest.mark.parametrize("text", ["tuesday", "2026-13-01", "22.01.2026", "20260122"])
def test_a_day_is_asked_for_in_words_and_not_in_a_pattern(home: Path, text: str) -> None:
    done = quantum(home, "export", text)
    assert done.returncode == 2
    assert "is no day: give YYYY-MM-DD" in " ".join(done.stderr.split())
    usage = quantum(home, "export", "--help").stdout
    assert "%Y" not in usage
    assert " DAY\n" in usage


LOUD = [(*ASKED[0], "--format", "csv"), *ASKED]


@pytest.mark.parametrize("arguments", LOUD, ids=["csv", "history", "at"])
def test_a_stdout_without_room_is_named_and_no_traceback(home: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "quantum_ops.cli", *arguments],
            env={**os.environ, "QUANTUM_HOME": str(home)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "The output cannot be written: No space left on device."
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.parquet", "x.txt"])
@pytest.mark.parametrize("before", [None, "what was there"])
def test_a_full_disk_leaves_no_half_table(home: Path, tmp_path: Path, name: str, before: str | None) -> None:
    target = tmp_path / "files" / name
    target.parent.mkdir()
    if before is not None:
        target.write_text(before)
    with little_room(50):
        done = quantum(home, *ASKED[0], "--out", str(target))
    assert (done.returncode, "cannot be written" in done.stderr) == (1, True)
    assert [one.read_text() for one in target.parent.iterdir()] == [one for one in [before] if one is not None]


def test_a_full_disk_leaves_no_half_picture_tar_or_report(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    with little_room(50):
        assert quantum(home, *ASKED[0], "--plot", str(folder / "x.png")).returncode == 1
        assert quantum(home, "export", "2026-01-22", "--out", str(folder / "x.tar")).returncode == 1
        with pytest.raises(NotWrittenError, match="give another --report, or make room"):
            prove._write(folder / "x.html", "x" * 10_000)
    assert list(folder.iterdir()) == []


def test_parquet_goes_into_a_redirect(home: Path, tmp_path: Path) -> None:
    with (tmp_path / "x.parquet").open("wb") as file:
        subprocess.run(
            [sys.executable, "-m", "quantum_ops.cli", *ASKED[0], "--format", "parquet"],
            env={**os.environ, "QUANTUM_HOME": str(home)},
            stdout=file,
            check=True,
        )
    assert len(pl.read_parquet(tmp_path / "x.parquet")) == 3


def test_parquet_is_refused_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(click.UsageError, match="needs --out or a redirect"):
        _form("parquet", None)


def test_a_picture_is_named_as_what_it_is(home: Path, tmp_path: Path) -> None:
    done = quantum(home, *ASKED[0], "--plot", str(tmp_path / "x.jpg"))
    assert done.returncode == 2
    assert "name it x.png" in " ".join(done.stderr.split())
    assert not (tmp_path / "x.jpg").exists()


def test_the_page_of_an_exported_open_day_reads_every_table(home: Path, tmp_path: Path) -> None:
    """Flushes of one day have different columns: an entry of a stream has the fields it has."""
    assert quantum(home, "export", "2026-01-22", "--out", str(tmp_path / "day.tar")).returncode == 0
    with tarfile.open(tmp_path / "day.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    page = (tmp_path / "out" / "README.md").read_text()
    (query,) = re.findall(r'^python -c "(.*)"$', page, re.MULTILINE)
    (sql,) = re.findall(r'^duckdb -c "(.*)"$', page, re.MULTILINE)
    for table in archive_in(home).tables():
        assert f"`{table}`" in page
        done = subprocess.run(
            [sys.executable, "-c", query.replace("market_state", table)],
            cwd=tmp_path / "out",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        expected = archive_in(home).read(table, [DAY]).collect()
        assert f"shape: {expected.shape}" in done.stdout
        if find_spec("duckdb"):
            import duckdb

            columns = duckdb.sql(sql.replace("market_state", table).replace("'recorder", f"'{tmp_path}/out/recorder")).columns
            assert {*columns} >= {*expected.columns}


def test_a_reader_names_what_is_missing_once(home: Path) -> None:
    removed(home)
    reader = Reader(archive_in(home))
    assert reader.incomplete() == ()  # nothing was asked yet
    for _ in range(2):
        reader.last("position", NOON + timedelta(minutes=5))
    assert [fault.file for fault in reader.incomplete()] == ["position/date=2026-01-22"]
