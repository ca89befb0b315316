"""``quantum rerun``: what it says, and how it ends."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from rich.console import Console

from quantum_assets.checks.proofs.history import day_recomputed
from quantum_core.exit_codes import EXIT_FAILED, EXIT_USAGE
from quantum_ops.cli.history.rerun import parts, rerun
from resources.recorder.archive import Archive, write_parquet
from tests.conftest import START
from tests.recorder.recording import STEP_SEC, lived

pytestmark = pytest.mark.slow

CYCLES = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory, valkey_url):
    return lived(tmp_path_factory.mktemp("lived"), valkey_url, CYCLES)


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """An instance folder with the archive of some cycles."""
    folder = tmp_path / "recorded"
    shutil.copytree(made / "recorder", folder / "recorder")
    monkeypatch.setenv("QUANTUM_HOME", str(folder))
    return folder


def ask(*words):
    return CliRunner().invoke(rerun, [*words, "--jobs", "1"], env={"COLUMNS": "80"})


def whole(*more):
    return ["--from", START.isoformat(), "--to", (START + timedelta(seconds=CYCLES * STEP_SEC + 1)).isoformat(), *more]


@pytest.mark.usefixtures("home")
def test_equal_rows_end_with_success_and_a_sentence():
    result = ask(*whole())
    assert result.exit_code == 0, result.output
    assert "equal, bit by bit" in result.output
    assert "left out" not in result.output
    assert max(map(len, result.output.splitlines())) <= 160


def rewrite(home, proposed_tp):
    """Put other rows into a file, and note its bytes as written: who changes rows without a trace is found by the comparison."""
    archive = Archive(home / "recorder")
    (path,) = archive.files("risk_proposal", START.date())
    write_parquet(pl.read_parquet(path).with_columns(proposed_tp=proposed_tp), path)
    position = json.loads((archive.root / "position.json").read_text())
    position["files"][str(START.date())]["risk_proposal"] = [1, path.stat().st_size]
    (archive.root / "position.json").write_text(json.dumps(position))


def test_a_difference_is_named_with_both_values(home):
    rewrite(home, pl.col("proposed_tp") + 1)
    result = ask(*whole())
    assert result.exit_code == EXIT_FAILED
    assert "differ" in result.output
    assert "proposed_tp" in result.output
    answer = json.loads(ask(*whole("--json")).stdout)
    assert answer["differing"] > 0
    assert answer["differences"][0]["asset"] == "risk_proposal"


def test_one_cycle_can_be_asked_for_by_its_id(home):
    records = Archive(home / "recorder").read("records").collect()
    cycle = records["cycle_id"][0]
    result = ask(cycle, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 10
    missing = ask("c0-unknown")
    assert missing.exit_code == EXIT_FAILED
    assert "no cycle c0-unknown is recorded" in missing.output


@pytest.mark.usefixtures("home")
def test_other_parameters_are_answered_with_what_they_would_have_given(monkeypatch):
    """That every row would have had another profile's name is no answer."""
    console = Console(width=80, highlight=False, soft_wrap=True, record=True, force_terminal=True, color_system=None)
    monkeypatch.setattr("quantum_ops.cli.layout.console", lambda: console)
    result = ask(*whole("--profile", "crypto-1m"))
    assert result.exit_code == EXIT_FAILED
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    answer = json.loads(ask(*whole("--profile", "crypto-1m", "--json")).stdout)
    assert f"With crypto-1m {answer['differing']} rows would have differed in more than its name" in text
    assert sum(answer["rows_of"].values()) == answer["differing"] > 0
    stops = answer["changed"]["risk_proposal"]["proposed_tp"]
    assert 0 < stops <= answer["rows_of"]["risk_proposal"]
    assert f"proposed_tp {stops}" in " ".join(text.split())
    fields = {name for counts in answer["changed"].values() for name in counts}
    assert "sigma" in fields
    assert fields.isdisjoint({"profile", "profile_name", "cause"})
    assert re.search(r"^For one: 12:00:\d\d \w+ \w+\.\w+ [\d.e-]+, then [\d.e-]+\.$", text, re.MULTILINE)
    assert answer["differences"][0]["reason"] == "computed with profile crypto-1m, published with locked-v1"


@pytest.mark.usefixtures("home")
def test_the_same_parameters_under_their_own_name_give_the_same():
    result = ask(*whole("--profile", "locked-v1"))
    assert result.exit_code == 0, result.output
    assert "but for the profile's name" in result.output


@pytest.mark.usefixtures("home")
def test_a_wrong_call_is_refused_in_one_sentence():
    unknown = ask("--profile", "nope")
    assert unknown.exit_code == EXIT_USAGE
    assert "Error: --profile: profile nope: no such file" in unknown.output
    assert "Wrong settings" not in unknown.output
    both = ask("c1", "--from", "2h")
    assert both.exit_code == EXIT_USAGE
    assert "takes neither --from nor --to" in both.output


@pytest.mark.parametrize("compacted", [False, True], ids=["open day", "compacted day"])
def test_a_missing_file_is_named_and_nothing_is_judged(home, compacted):
    """Without it rows differ for no reason of theirs."""
    archive = Archive(home / "recorder")
    if compacted:
        archive.compact(START.date())
    (path,) = archive.files("position", START.date())
    path.unlink()
    result = ask(*whole())
    assert result.exit_code == EXIT_FAILED
    named = "/day.parquet is missing" if compacted else " has 0 files of 0 bytes"
    assert f"Nothing was compared: position/date=2026-01-22{named}" in result.output
    assert "cannot be judged" in result.output
    assert "differ" not in result.output
    with pytest.raises(ValueError, match=r"position/date=2026-01-22.* is not judged"):
        day_recomputed(archive, START.date(), budget_sec=5)


def test_a_stray_file_is_named_and_everything_is_judged(home):
    (path,) = Archive(home / "recorder").files("position", START.date())
    shutil.copy(path, os.fsencode(path.parent) + b"/part-\xff.parquet")
    shutil.copy(path, path.with_name("part-000000000001 (copy).parquet"))
    result = ask(*whole())
    assert result.exit_code == EXIT_FAILED
    assert "equal, bit by bit" in result.output
    for name in (r"part-\xff.parquet", "part-000000000001 (copy).parquet"):
        assert f"Left out: position/date=2026-01-22/{name} does not belong there: move it out" in result.output


def test_a_stdout_without_room_is_named(home):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "quantum_ops.cli", "rerun", *whole("--jobs", "1")],
            env={**os.environ, "QUANTUM_HOME": str(home)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (EXIT_FAILED, "The output cannot be written: No space left on device.\n")


@pytest.mark.usefixtures("home")
def test_a_time_without_records_and_no_archive_at_all_say_what_to_do(monkeypatch, tmp_path):
    nothing = ask("--from", "2020-01-01", "--to", "2020-01-02")
    assert nothing.exit_code == EXIT_FAILED
    assert "recorded" in nothing.output
    monkeypatch.setenv("QUANTUM_HOME", str(tmp_path / "empty"))
    empty = ask()
    assert empty.exit_code == EXIT_FAILED
    assert "quantum recorder" in empty.output


def damage(path):
    content = bytearray(path.read_bytes())
    content[8:200] = bytes(192)
    path.write_bytes(content)


def test_a_damaged_file_and_one_of_another_table_are_named_and_nothing_is_called_equal(home):
    archive = Archive(home / "recorder")
    (path,) = archive.files("risk_proposal", START.date())
    kept = path.read_bytes()
    damage(path)
    result = ask(*whole())
    assert result.exit_code == EXIT_FAILED
    assert "risk_proposal/date=2026-01-22/part-000000000001.parquet cannot be read" in result.output
    path.write_bytes(kept)
    (home / "recorder" / "risk_proposal" / "date=garbage").mkdir()
    assert ask(*whole()).exit_code == 0
    (path.parent / "part-000000000009.parquet").mkdir()
    result = ask(*whole())
    assert (result.exit_code, "equal, bit by bit" in result.output) == (EXIT_FAILED, True)
    assert "part-000000000009.parquet is no file" in result.output
    stranger = pl.DataFrame({"seq": [3], "cycle_id": ["x"], "at": ["noon"], "symbol": [7], "proposed_sl": ["none"]})
    stranger.write_parquet(path.parent / "part-000000000000.parquet")
    result = ask(*whole())
    assert result.exit_code == EXIT_FAILED
    assert "does not belong there" in result.output


@pytest.mark.usefixtures("home")
def test_a_time_that_ends_before_it_begins_is_a_wrong_call():
    assert ask("--from", "2m", "--to", "5m").exit_code == EXIT_USAGE


def test_a_time_is_cut_into_parts_without_a_hole():
    end = START + timedelta(minutes=50)
    cut = list(parts(START, end, 2))
    assert len(cut) == 4
    assert (cut[0][0], cut[-1][1]) == (START, end)
    assert all(before[1] == after[0] for before, after in pairwise(cut))
