"""The archive is whole after every kill, and what was changed in it afterwards is found."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from resources.recorder.archive import Archive, Fault, Position, compactable, joined

DAY = date(2026, 1, 22)
DAYS = [DAY + timedelta(days=n) for n in range(4)]


class Killed(BaseException):
    """The process ends here: nothing of it runs any more."""


@contextmanager
def killed_before(operation: int) -> Iterator[list[str]]:
    """Kill before the n-th operation on files; everything after it is not done either. Gives what was done."""
    done: list[str] = []
    kinds = [(os, name) for name in ("fsync", "rmdir", "unlink", "replace", "rename", "mkdir")]
    kinds += [(Path, name) for name in ("unlink", "replace", "rename", "mkdir", "rmdir", "write_text")]
    kinds += [(pl.DataFrame, "write_parquet"), (shutil, "copyfile")]

    def stopping(name: str, real: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            if len(done) >= operation:
                raise Killed(name)
            done.append(name)
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for place, name in kinds:
            patch.setattr(place, name, stopping(name, getattr(place, name)))
        yield done


def frame(*numbers: int, **columns: object) -> pl.DataFrame:
    return pl.DataFrame({"symbol": ["B" if n % 2 else "A" for n in numbers], "seq": list(numbers)}).with_columns(**columns)


def flush(archive: Archive, day: date, *numbers: int, **tables: pl.DataFrame) -> None:
    flush_number = archive.position().flush + 1
    archive.write(
        tables or {"state": frame(*numbers), "records": frame(*numbers)},
        Position(flush_number, numbers[-1], {"s": "1-0"}, str(day)),
    )


def filled(root: Path, days: int = 3) -> Archive:
    """Days of two flushes each, all but the last one compacted."""
    archive = Archive(root)
    numbers = itertools.count(1)
    for day in DAYS[: days + 1]:
        for _ in range(2):
            flush(archive, day, next(numbers), next(numbers))
    for day in compactable(archive):
        archive.compact(day)
    return archive


def files(archive: Archive) -> dict[str, bytes]:
    return {str(path.relative_to(archive.root)): path.read_bytes() for path in archive.root.rglob("*") if path.is_file()}


def numbers_of(archive: Archive, table: str = "state") -> list[int]:
    found = archive.read(table).collect()
    return sorted(found["seq"].to_list()) if found.width else []


def faults(archive: Archive) -> list[tuple[str, str]]:
    return [(fault.file, fault.what.split(",")[0]) for fault in archive.verify()]


def test_an_archive_is_read_as_it_was_written(tmp_path: Path) -> None:
    archive = filled(tmp_path / "recorder")
    assert numbers_of(archive) == list(range(1, 17))
    assert archive.days() == DAYS
    assert archive.manifest_days() == DAYS[:3]
    assert compactable(archive) == []
    assert [len(archive.files("state", day)) for day in DAYS] == [1, 1, 1, 2]
    assert archive.read("state", DAYS[:1]).collect()["symbol"].to_list() == ["A", "A", "B", "B"]  # sorted
    assert list(archive.verify()) == []
    assert archive.read("nothing").collect().width == 0
    assert not list(archive.root.rglob("*.tmp"))


def test_a_new_archive_is_empty_and_holds_nothing_wrong(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "recorder")
    assert (archive.position(), archive.days(), archive.tables(), compactable(archive)) == (Position(), [], [], [])
    assert (list(archive.verify()), archive.prune(1, 1), archive.remove_uncommitted()) == ([], [], [])
    assert not archive.root.exists()


def test_a_flush_killed_before_any_operation_is_whole_or_not_there(tmp_path: Path) -> None:
    for operation in itertools.count():
        archive = Archive(tmp_path / f"{operation}")
        flush(archive, DAY, 1)
        with killed_before(operation) as done:
            try:
                flush(archive, DAY, 2, 3)
            except Killed:
                ended = False
            else:
                ended = True
        committed = archive.position().flush == 2
        archive.remove_uncommitted()
        assert numbers_of(archive) == numbers_of(archive, "records") == ([1, 2, 3] if committed else [1])
        assert archive.position().seq == (3 if committed else 1)
        assert not list(archive.root.rglob("*.tmp"))
        if ended:
            assert committed
            assert len(done) > 10
            return
        if not committed:
            flush(archive, DAY, 2, 3)
        assert numbers_of(archive) == [1, 2, 3]


def test_the_very_first_flush_killed_before_any_operation_leaves_an_archive_that_begins(tmp_path: Path) -> None:
    for operation in itertools.count():
        archive = Archive(tmp_path / f"{operation}")
        with killed_before(operation):
            try:
                flush(archive, DAY, 1)
            except Killed:
                ended = False
            else:
                ended = True
        if archive.position().flush == 0:
            archive.remove_uncommitted()
            assert numbers_of(archive) == []
            flush(archive, DAY, 1)
        assert numbers_of(archive) == [1]
        if ended:
            return


@pytest.mark.slow
def test_a_compaction_killed_before_any_operation_is_done_again_with_the_same_result(tmp_path: Path) -> None:
    expected = None
    for operation in itertools.chain([10**6], itertools.count()):
        archive = Archive(tmp_path / f"{operation}")
        flush(archive, DAYS[0], 2, 1)
        flush(archive, DAYS[0], 4, 3)
        (archive.files("state", DAYS[0])[1]).write_bytes(b"no parquet")
        flush(archive, DAYS[1], 5)
        with killed_before(operation) as done:
            try:
                archive.compact(DAYS[0])
            except Killed:
                ended = False
            else:
                ended = True
        assert numbers_of(archive, "records") == [1, 2, 3, 4, 5]  # at no moment is anything missing, or twice there
        assert compactable(archive) == ([] if archive.is_compacted(DAYS[0]) else [DAYS[0]])
        archive.remove_uncommitted()
        manifest = archive.compact(DAYS[0])
        assert list(archive.verify()) == []
        assert manifest["set_aside"][0]["file"] == "state/date=2026-01-22/part-000000000002.parquet"
        written = {name: content for name, content in files(archive).items() if not name.endswith(".tmp")}
        expected = expected or written
        assert written == expected
        assert numbers_of(archive) == [1, 2, 5]
        if ended and operation < 10**6:
            assert len(done) > 10
            return


def test_a_recorder_that_starts_beside_a_compaction_leaves_its_unfinished_file(tmp_path: Path) -> None:
    archive = filled(tmp_path / "recorder")
    unfinished = archive.folder("state", DAYS[2]) / "day.tmp"
    unfinished.write_text("half")
    ours = archive.folder("state", DAYS[3]) / "part-000000000099.tmp"
    ours.write_text("half")
    assert archive.remove_uncommitted() == [ours]
    assert unfinished.exists()


def test_a_damaged_part_is_set_aside_and_named(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "recorder")
    for number in range(1, 4):
        flush(archive, DAY, number)
    second = archive.files("state", DAY)[1]
    content = second.read_bytes()
    second.write_bytes(content[:20] + bytes(len(content) - 40) + content[-20:])
    with pytest.raises(ValueError, match=r"part-000000000002\.parquet cannot be read"):
        archive.read("state").collect()
    unreadable: list[Fault] = []
    assert sorted(archive.read("state", unreadable=unreadable).collect()["seq"]) == [1, 3]
    assert [fault.file for fault in unreadable] == ["state/date=2026-01-22/part-000000000002.parquet"]
    manifest = archive.compact(DAY)
    assert manifest["set_aside"][0]["file"] == "state/date=2026-01-22/part-000000000002.parquet"
    assert (manifest["tables"]["state"]["rows"], manifest["tables"]["records"]["rows"]) == (2, 3)
    assert (archive.root / "set-aside" / manifest["set_aside"][0]["file"]).exists()
    assert archive.tables() == ["records", "state"]
    assert list(archive.verify()) == []


def test_a_part_damaged_within_its_pages_does_not_stop_the_compaction(tmp_path: Path) -> None:
    """Its footer is whole, so that only reading everything shows it."""
    archive = Archive(tmp_path / "recorder")
    flush(archive, DAY, 1)
    flush(archive, DAY, 2)
    part = archive.files("state", DAY)[0]
    content = bytearray(part.read_bytes())
    content[4:40] = b"\xff" * 36
    part.write_bytes(content)
    assert [one["file"] for one in archive.compact(DAY)["set_aside"]] == [str(part.relative_to(archive.root))]
    assert numbers_of(archive) == [2]


def test_files_of_an_older_version_without_a_column_are_still_read(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "recorder")
    flush(archive, DAYS[0], 1, state=frame(1))
    flush(archive, DAYS[1], 2, state=frame(2, price=pl.lit(1.5)))
    flush(archive, DAYS[1], 3, state=frame(3, price=pl.lit(2)))
    for compacted in (False, True):
        rows = archive.read("state").collect().sort("seq")
        assert rows["price"].to_list() == [None, 1.5, 2.0]
        if not compacted:
            flush(archive, DAYS[2], 4, other=frame(4))
            for day in compactable(archive):
                archive.compact(day)


def test_rows_of_types_that_do_not_go_together_do_not_stop_a_compaction(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "recorder")
    flush(archive, DAY, 1, state=frame(1, price=pl.lit(1.5)))
    flush(archive, DAY, 2, state=pl.DataFrame({"seq": [2], "price": [["a"]]}))
    manifest = archive.compact(DAY)
    assert numbers_of(archive) == [1]
    assert [one["what"] for one in manifest["set_aside"]] == ["has columns of other types"]


def test_frames_are_joined_with_missing_columns_as_nulls() -> None:
    table, misfits = joined([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [1.5], "b": ["x"]}), pl.DataFrame({"b": [None]})])
    assert_frame_equal(table, pl.DataFrame({"a": [1.0, 1.5, None], "b": [None, "x", None]}))
    assert misfits == []
    table, misfits = joined([pl.DataFrame({"a": ["x"]}), pl.DataFrame({"a": [["y"]]}), pl.DataFrame({"a": ["z"]})])
    assert (table["a"].to_list(), misfits) == (["x", "z"], [1])
    assert joined([])[0].width == 0


def test_a_full_disk_is_an_error_of_the_disk_and_commits_nothing(tmp_path: Path) -> None:
    """Polars wraps what the disk says; /dev/full says it for real."""
    archive = Archive(tmp_path / "recorder")
    flush(archive, DAY, 1)
    (archive.folder("state", DAY) / "part-000000000002.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        flush(archive, DAY, 2)
    assert archive.position().flush == 1
    assert numbers_of(archive) == [1]


def test_the_manifest_has_rows_bytes_hashes_and_gaps(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "recorder")
    flush(archive, DAY, 1, state=frame(1, 2), gaps=pl.DataFrame({"from_seq": [3], "what": ["lost"], "other": [1.5]}))
    manifest = archive.compact(DAY)
    assert manifest["gaps"] == [{"from_seq": 3, "what": "lost"}]
    assert manifest["tables"]["state"]["rows"] == 2
    assert manifest["tables"]["state"]["bytes"] == archive.files("state", DAY)[0].stat().st_size
    assert manifest["previous"] is None


def test_one_changed_byte_anywhere_is_found(tmp_path: Path) -> None:
    archive = filled(tmp_path / "recorder")
    checked = 0
    for name in sorted(files(archive)):
        if "part-" in name or name == "position.json":
            continue
        path = archive.root / name
        content = path.read_bytes()
        if name == f"manifests/{DAYS[2]}.json":  # no later manifest has its hash: what it says of the files is compared
            changed = content.replace(b'"rows": 4', b'"rows": 4').replace(b'"sha256": "', b'"sha256": "0', 1)
        else:
            changed = bytes([content[0]]) + bytes([content[len(content) // 2] ^ 1]).join(
                [content[1 : len(content) // 2], content[len(content) // 2 + 1 :]]
            )
        assert changed != content
        path.write_bytes(changed)
        assert list(archive.verify()), name
        path.write_bytes(content)
        checked += 1
    assert checked == 9
    assert list(archive.verify()) == []


def test_a_removed_file_is_found(tmp_path: Path) -> None:
    archive = filled(tmp_path / "recorder")
    archive.files("state", DAYS[1])[0].unlink()
    assert faults(archive) == [("state/date=2026-01-23/day.parquet", "is missing")]


def removed_table(archive: Archive) -> None:
    shutil.rmtree(archive.root / "state")


def removed_day(archive: Archive) -> None:
    shutil.rmtree(archive.folder("state", DAYS[3]))


def removed_part(archive: Archive) -> None:
    archive.files("state", DAYS[3])[0].unlink()


def added_part(archive: Archive) -> None:
    shutil.copy(archive.files("state", DAYS[3])[0], archive.folder("state", DAYS[3]) / "part-000000000000.parquet")


def cut_part(archive: Archive) -> None:
    path = archive.files("state", DAYS[3])[0]
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [removed_table, removed_day, removed_part, added_part, cut_part])
def test_other_files_of_an_open_day_are_found_and_named_by_its_manifest(tmp_path: Path, change: Callable) -> None:
    """Without this nobody notices, until a day is over, that a table of it is gone; and afterwards nobody can."""
    archive = filled(tmp_path / "recorder")
    change(archive)
    (found,) = [(file, what) for file, what in faults(archive) if file == "state/date=2026-01-25"]
    assert found[1].startswith("has ")
    flush(archive, DAYS[3] + timedelta(days=1), 99)
    assert found in faults(archive)
    manifest = archive.compact(DAYS[3])
    assert len(manifest["lost"]) + len(manifest["set_aside"]) == 1  # what is set aside is named already
    flush(archive, DAYS[3] + timedelta(days=1), 100)
    assert [file for file, _ in faults(archive) if file == found[0]] == [one["file"] for one in manifest["lost"]]


def test_an_open_day_that_an_older_version_began_is_counted_from_then_on(tmp_path: Path) -> None:
    archive = filled(tmp_path / "recorder")
    path = archive.root / "position.json"
    path.write_text(json.dumps({name: one for name, one in json.loads(path.read_text()).items() if name != "files"}))
    assert faults(archive) == []
    flush(archive, DAYS[3], 99)
    assert faults(archive) == []
    archive.files("records", DAYS[3])[0].unlink()
    assert [file for file, _ in faults(archive)] == ["records/date=2026-01-25"]


def test_a_flush_that_is_not_committed_yet_is_no_fault(tmp_path: Path) -> None:
    """The recorder writes while another process verifies."""
    archive = filled(tmp_path / "recorder")
    part = archive.files("state", DAYS[3])[-1]
    shutil.copy(part, part.with_name("part-000000000999.parquet"))
    assert faults(archive) == []


def test_an_added_file_is_found(tmp_path: Path) -> None:
    archive = filled(tmp_path / "recorder")
    archive.folder("more", DAYS[1]).mkdir(parents=True)
    shutil.copy(archive.files("state", DAYS[1])[0], archive.folder("more", DAYS[1]) / "day.parquet")
    assert faults(archive) == [("more/date=2026-01-23/day.parquet", "is in no manifest")]


def test_two_swapped_days_are_found(tmp_path: Path) -> None:
    archive = filled(tmp_path / "recorder")
    for one, other in [
        (archive.manifest_path(DAYS[0]), archive.manifest_path(DAYS[1])),
        *((archive.folder(table, DAYS[0]), archive.folder(table, DAYS[1])) for table in archive.tables()),
    ]:
        aside = one.with_name("aside")
        one.rename(aside)
        other.rename(one)
        aside.rename(other)
    found = faults(archive)
    assert ("manifests/2026-01-22.json", "is of 2026-01-23") in found
    assert ("manifests/2026-01-23.json", "is of 2026-01-22") in found


@pytest.mark.parametrize("day", DAYS[:3])
def test_a_removed_manifest_is_found(tmp_path: Path, day: date) -> None:
    archive = filled(tmp_path / "recorder")
    archive.manifest_path(day).unlink()
    assert faults(archive)


@pytest.mark.parametrize("day", DAYS[:2])  # of the last compacted one only its successor would know
def test_a_removed_day_is_found(tmp_path: Path, day: date) -> None:
    archive = filled(tmp_path / "recorder")
    archive.manifest_path(day).unlink()
    for table in archive.tables():
        shutil.rmtree(archive.folder(table, day))
    assert [what for _, what in faults(archive)] == ["follows 2026-01-22" if day == DAYS[0] else "follows 2026-01-23"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"previous": {}}',
        '{"previous": null, "tables": []}',
        '{"previous": "x", "tables": {}}',
        '{"previous": null, "tables": {"a": 1}}',
    ],
)
def test_a_damaged_manifest_is_a_fault_and_no_error(tmp_path: Path, text: str) -> None:
    archive = filled(tmp_path / "recorder")
    archive.manifest_path(DAYS[0]).write_text(text)
    assert ("manifests/2026-01-22.json", "is not the one that 2026-01-23 followed") in faults(archive)


def test_retention_removes_the_oldest_compacted_days_and_is_no_fault(tmp_path: Path) -> None:
    archive = filled(tmp_path / "recorder")
    assert archive.prune(4, 1e9) == []
    assert archive.retained_since() is None
    assert archive.prune(3, 1e9) == [DAYS[0]]
    assert archive.retained_since() == DAYS[1]
    assert archive.days() == DAYS[1:]
    size = archive.bytes_of(DAYS[2]) + archive.bytes_of(DAYS[3])
    assert archive.prune(30, size) == [DAYS[1]]
    assert archive.prune(30, 0) == [DAYS[2]]  # not the day that is written
    assert archive.days() == [DAYS[3]]
    assert archive.retained_since() == DAYS[3]
    assert list(archive.verify()) == []
    flush(archive, DAYS[3] + timedelta(days=1), 99)
    assert archive.compact(DAYS[3])["previous"]["date"] == str(DAYS[2])
    assert list(archive.verify()) == []
    shutil.rmtree(archive.folder("state", DAYS[3]))
    assert faults(archive) == [("state/date=2026-01-25/day.parquet", "is missing")]


@pytest.mark.slow
def test_a_removal_killed_before_any_operation_is_finished_by_the_next(tmp_path: Path) -> None:
    for operation in itertools.count():
        archive = filled(tmp_path / f"{operation}")
        size = sum(map(archive.bytes_of, DAYS[1:]))
        with killed_before(operation):
            try:
                archive.prune(30, size)
            except Killed:
                ended = False
            else:
                ended = True
        assert list(archive.verify()) == []
        archive.prune(30, size)
        assert archive.days() == DAYS[1:]
        assert archive.retained_since() == DAYS[1]
        assert list(archive.verify()) == []
        if ended:
            return


@pytest.mark.parametrize("text", ["", "{}", '{"since": "x"}'])
def test_a_damaged_date_of_retention_is_named(tmp_path: Path, text: str) -> None:
    archive = filled(tmp_path / "recorder")
    (archive.root / "manifests" / "retained-since.json").write_text(text)
    with pytest.raises(ValueError, match=r"retained-since\.json is damaged"):
        archive.retained_since()
    assert [file for file, _ in faults(archive)] == ["manifests/retained-since.json"]


def test_the_position_is_read_as_it_was_written(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "recorder")
    position = Position(1, 7, {"quantum:stream:recorder": "5-1", "b": "0-0"}, str(DAY))
    assert archive.write({"state": frame(7)}, position) == archive.files("state", DAY)[0].stat().st_size
    assert archive.position() == position
    assert archive.write({}, replace(position, flush=2)) == 0
    assert json.loads((archive.root / "position.json").read_text())["flush"] == 2
