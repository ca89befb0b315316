"""A file is hashed when it is new or has changed, and once a day; what it costs has a bound, and nothing is forgotten."""

import os
from datetime import date, timedelta
from pathlib import Path

import pytest

from resources.recorder.archive import Archive, sha256_of
from resources.recorder.verification import MEMORY_FILE, REMEMBERED_SEC, Verifier
from tests.recorded import days_of_rows

FIRST, NOW = date(2026, 1, 22), 1_769_500_000.0
DAYS = [FIRST + timedelta(days=number) for number in range(3)]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Three compacted days and an open one."""
    archive = Archive(tmp_path / "recorder")
    days_of_rows(archive, FIRST, 3)
    return archive


def verified(archive: Archive, now: float = NOW, **more: int) -> tuple[list[tuple[str, str]], Verifier]:
    verifier = Verifier(archive.root, now, **more)
    return [(fault.file, fault.what) for fault in verifier.verify()], verifier


def file_of(archive: Archive, day: date) -> Path:
    return archive.folder("market_state", day) / "day.parquet"


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_has_not_changed_is_hashed_once_a_day(archive) -> None:
    for now, hashed in (
        (NOW, 3),
        (NOW + 60, 0),
        (NOW + REMEMBERED_SEC - 1, 0),
        (NOW + REMEMBERED_SEC, 3),
        (NOW + REMEMBERED_SEC + 1, 0),
    ):
        faults, verifier = verified(archive, now)
        assert (faults, verifier.hashed, verifier.compared) == ([], hashed, 3), now


def test_a_clock_that_was_set_back_trusts_nothing_from_the_future(archive) -> None:
    verified(archive, NOW)
    assert verified(archive, NOW - 3600)[1].hashed == 3


@pytest.mark.parametrize(("day", "name"), [(day, f"market_state/date={day}/day.parquet") for day in DAYS])
def test_a_changed_byte_is_found_by_the_next_poll(archive, day, name) -> None:
    verified(archive)
    change_a_byte(file_of(archive, day))
    assert verified(archive, NOW + 60)[0] == [(name, "is not as it was written")]
    assert verified(archive, NOW + 120)[0] == [(name, "is not as it was written")]


def test_a_changed_byte_whose_time_was_put_back_is_found_within_a_day(archive) -> None:
    """The bound of the shortcut: whoever hides a change from the size and the time of the file hides it no longer than that."""
    verified(archive)
    path = file_of(archive, FIRST)
    before = path.stat()
    change_a_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verified(archive, NOW + 60)[0] == []
    assert [what for _, what in verified(archive, NOW + REMEMBERED_SEC)[0]] == ["is not as it was written"]


def test_a_removed_file_and_two_days_that_changed_places_are_found(archive) -> None:
    verified(archive)
    one, other = file_of(archive, DAYS[0]), file_of(archive, DAYS[1])
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert [what for _, what in verified(archive, NOW + 60)[0]] == ["is not as it was written"] * 2
    one.unlink()
    assert verified(archive, NOW + 60)[0][0] == ("market_state/date=2026-01-22/day.parquet", "is missing")


def test_a_manifest_that_was_changed_with_its_file_breaks_the_chain(archive) -> None:
    """One who knows what he does changes both; then the next manifest does not follow it any more."""
    path, manifest = file_of(archive, DAYS[0]), archive.manifest_path(DAYS[0])
    old = archive.manifest(DAYS[0])["tables"]["market_state"]["sha256"]
    change_a_byte(path)
    manifest.write_text(manifest.read_text().replace(old, sha256_of(path)))
    assert verified(archive)[0] == [("manifests/2026-01-22.json", "is not the one that 2026-01-23 followed")]


def test_one_poll_hashes_no_more_than_its_bound_and_the_next_goes_on(archive) -> None:
    """After a restart with 20 GB on record the pack still has its minute for everything else."""
    change_a_byte(file_of(archive, DAYS[2]))
    postponed = []
    for poll in range(3):
        faults, verifier = verified(archive, NOW + 60 * poll, bytes_max=1)
        postponed.append(verifier.postponed)
        assert verifier.hashed == 1
    assert postponed == [2, 1, 0]
    assert [what for _, what in faults] == ["is not as it was written"]


def test_while_files_wait_to_be_hashed_again_what_was_found_stands(archive) -> None:
    change_a_byte(file_of(archive, DAYS[2]))
    verified(archive)
    faults, verifier = verified(archive, NOW + REMEMBERED_SEC, bytes_max=0)
    assert (verifier.hashed, verifier.postponed, len(faults)) == (0, 0, 1)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": [1]}', "null"])
def test_a_memory_that_cannot_be_read_is_none(archive, text) -> None:
    (archive.root / MEMORY_FILE).write_text(text)
    assert verified(archive)[1].hashed == 3


def test_a_folder_that_is_not_ours_to_write_is_verified_all_the_same(archive) -> None:
    (archive.root / f"{MEMORY_FILE}.tmp").mkdir()  # also root cannot write a folder
    assert verified(archive)[0] == []
    assert not (archive.root / MEMORY_FILE).exists()
    assert verified(archive)[1].hashed == 3
