"""``quantum prove --report FILE --day D``: the evidence of a past day, made from records alone."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from quantum_core.exit_codes import EXIT_FAILED, EXIT_USAGE
from quantum_ops.sealed_page import verify
from resources.recorder.archive import Archive, Position, sha256_of, write_parquet
from tests.commands import run_command
from tests.conftest import START
from tests.recorder.recording import lived

pytestmark = pytest.mark.slow

DAY = START.date()
PLANTED = "planted-p4ssword"
HOSTILE = f"<script>alert(1)</script> redis://user:{PLANTED}@db.example:6379/0"


@pytest.fixture(scope="module")
def made(tmp_path_factory, valkey_url) -> Path:
    """A compacted day: some cycles, a decision, an alert and a gap; and one entry of the day after."""
    folder = lived(tmp_path_factory.mktemp("lived"), valkey_url, 3)
    archive = Archive(folder / "recorder")
    stamps = {"at": START, "entry_id": f"{int(START.timestamp() * 1000)}-0", "stream": "s"}
    decision = {**stamps, "symbol": "BTCUSDT", "plan_id": "p1", "action": "OPEN", "event": "BLOCK", "reason": HOSTILE}
    alert = {**stamps, "event": "raised", "severity": "page", "kind": "asset", "title": "BTCUSDT is too old"}
    lost = {"since": START, "at": START + timedelta(seconds=5), "from_seq": 7, "to_seq": 9, "what": "a drill"}
    frames = {name: pl.DataFrame([row]) for name, row in (("decisions", decision), ("alerts", alert), ("gaps", lost))}
    archive.write(frames, Position(flush=2, seq=21, day=str(DAY)))
    archive.compact(DAY)
    archive.write({"alerts": frames["alerts"]}, Position(flush=3, seq=21, day=str(DAY + timedelta(days=1))))
    return folder


@pytest.fixture
def archive(made, tmp_path) -> Archive:
    return Archive(shutil.copytree(made / "recorder", tmp_path / "recorder"))


def report(archive: Archive, *more: str, day: object = DAY):
    """Make the page without Redis; give what the command said, and the page."""
    out = archive.root.parent / "report.html"
    environment = {"QUANTUM_HOME": str(archive.root.parent), "REDIS_URL": f"redis://user:{PLANTED}@127.0.0.1:1/0"}
    done = run_command("prove", "--report", str(out), "--day", str(day), *more, environment=environment)
    return done, out.read_text(encoding="utf-8") if out.exists() else ""


def test_a_past_day_is_proven_from_its_records_alone(archive) -> None:
    """Who files it a week later must see what was known, and that it was made later."""
    done, page = report(archive, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {one["proof"]: one for one in json.loads(done.stdout)}
    assert verdicts["history/archive_intact"]["judged"] == len(archive.manifest(DAY)["tables"])
    assert verdicts["history/recomputed"]["judged"] > 30
    assert verify(page)
    for said in (
        f"Proof pack of {DAY}, made later from records",
        "Nothing on this page was read from Redis",
        "All proofs hold</span>: 2 passed",
        "a drill",
        "BTCUSDT is too old",
        "locked-v1",
        "quantum-risk-pipeline",
        sha256_of(archive.manifest_path(DAY)),
        archive.manifest(DAY)["tables"]["position"]["sha256"],
        *("BTCUSDT", "ETHUSDT", "SOLUSDT"),
    ):
        assert said in page, said
    stop = archive.read("risk_proposal", [DAY]).filter(pl.col("symbol") == "ETHUSDT").collect()["proposed_sl"][-1]
    assert f"<td>{stop}</td>" in page
    assert "the last before: no evaluation is recorded since" in page  # hours before the day ended


def test_the_page_holds_neither_markup_nor_secrets_of_a_record(archive) -> None:
    _, page = report(archive)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert PLANTED not in page


def test_a_changed_byte_is_on_the_page_and_the_rest_of_it_stands(archive) -> None:
    """It is evidence above all when something was changed."""
    path = archive.folder("position", DAY) / "day.parquet"
    content = bytearray(path.read_bytes())
    content[100:300] = bytes(200)
    path.write_bytes(content)
    done, page = report(archive)
    assert done.returncode == EXIT_FAILED
    assert "position/date=2026-01-22/day.parquet</b> is not as it was written" in page
    assert "BTCUSDT is too old" in page
    assert verify(page)


def test_a_number_that_was_changed_together_with_its_hashes_is_found(archive) -> None:
    """A chain can be made anew by whoever can change files; what a row was computed from cannot."""
    path, manifest = archive.folder("position", DAY) / "day.parquet", archive.manifest_path(DAY)
    write_parquet(pl.read_parquet(path).with_columns(pl.col("entry_price") + 1), path)
    changed = json.loads(manifest.read_text())
    changed["tables"]["position"]["sha256"] = sha256_of(path)
    manifest.write_text(json.dumps(changed))
    done, page = report(archive)
    assert done.returncode == EXIT_FAILED
    assert "not as it was written" not in page
    assert "<b>position BTCUSDT</b>" in page


def test_a_day_without_records_is_a_wrong_call_that_names_what_there_is(archive, tmp_path) -> None:
    done, page = report(archive, day=DAY - timedelta(days=1))
    assert (done.returncode, page) == (EXIT_USAGE, "")
    assert "nothing is recorded of 2026-01-21" in done.stderr
    assert "it has 2 days, 2026-01-22 to 2026-01-23" in done.stderr
    archive.prune(0, 0)
    done, _ = report(archive)
    assert done.returncode == EXIT_USAGE
    assert "has removed the files of 2026-01-22" in done.stderr
    done, _ = report(Archive(tmp_path / "none" / "recorder"))
    assert done.returncode == EXIT_USAGE
    assert "quantum recorder" in done.stderr


def test_a_day_that_is_not_compacted_proves_nothing_of_its_files(archive) -> None:
    done, page = report(archive, day=DAY + timedelta(days=1))
    assert done.returncode == EXIT_FAILED
    assert "2 not evaluated" in page
    assert "it is in no chain" in page
    assert verify(page)


def test_a_filed_page_is_verified_by_the_command(archive) -> None:
    report(archive)
    path = archive.root.parent / "report.html"
    environment = {"QUANTUM_HOME": str(archive.root.parent)}
    assert run_command("prove", "--verify", str(path), environment=environment).returncode == 0
    path.write_bytes(path.read_bytes().replace(b"a drill", b"a dri11"))
    changed = run_command("prove", "--verify", str(path), environment=environment)
    assert changed.returncode == EXIT_FAILED
    assert "is not as it was written" in changed.stderr


@pytest.mark.parametrize("arguments", [("--day", "2026-01-22"), ("--day", "2026-01-22", "--report", "x", "--group", "position")])
def test_a_day_needs_a_page_and_takes_no_part_of_the_proofs(tmp_path, arguments) -> None:
    done = run_command("prove", *arguments, environment={"QUANTUM_HOME": str(tmp_path)})
    assert done.returncode == EXIT_USAGE
    assert "--day needs --report" in " ".join(done.stderr.split())
