"""``quantum rerun``: what it says, and how it ends."""

import json
import shutil
from datetime import timedelta
from itertools import pairwise

import polars as pl
import pytest
from click.testing import CliRunner

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


def test_a_difference_is_named_with_both_values(home):
    (path,) = Archive(home / "recorder").files("risk_proposal", START.date())
    rows = pl.read_parquet(path)
    write_parquet(rows.with_columns(proposed_tp=pl.col("proposed_tp") + 1), path)
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
def test_other_parameters_are_the_named_reason():
    result = ask(*whole("--profile", "crypto-1m"))
    assert result.exit_code == EXIT_FAILED
    assert "Known reason: computed with profile crypto-1m, published with locked-v1." in result.output


@pytest.mark.usefixtures("home")
def test_a_time_without_records_and_no_archive_at_all_say_what_to_do(monkeypatch, tmp_path):
    nothing = ask("--from", "2020-01-01", "--to", "2020-01-02")
    assert nothing.exit_code == EXIT_FAILED
    assert "recorded" in nothing.output
    monkeypatch.setenv("QUANTUM_HOME", str(tmp_path / "empty"))
    empty = ask()
    assert empty.exit_code == EXIT_USAGE
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
    (path.parent / "part-000000000009.parquet").mkdir()
    assert ask(*whole()).exit_code == 0
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
