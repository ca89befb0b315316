"""A file that a command was asked for is there whole or as it was before, and the exit code shows why."""

from pathlib import Path

import click
import pytest

from quantum_core.exit_codes import EXIT_FAILED, EXIT_USAGE
from quantum_ops.cli.files import write_whole
from tests.room import little_room


@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    """A table cut in half looks like a short one."""
    path = tmp_path / "x.csv"
    if before is not None:
        path.write_bytes(before)
    with little_room(4096), pytest.raises(click.ClickException, match=r"x\.csv cannot be written .* make room") as refused:
        write_whole(path, b"x" * 100_000, "--out")
    assert refused.value.exit_code == EXIT_FAILED
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == ([] if before is None else [("x.csv", before)])


def test_a_file_that_cannot_be_there_is_a_wrong_call(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no folder" / "x.csv", tmp_path / "file" / "x.csv", tmp_path):
        with pytest.raises(click.UsageError, match="give another --out") as refused:
            write_whole(path, b"x", "--out")
        assert refused.value.exit_code == EXIT_USAGE


def test_a_file_is_written_over_with_its_rights_and_through_its_link(tmp_path: Path) -> None:
    path, link = tmp_path / "x.csv", tmp_path / "link.csv"
    path.write_bytes(b"old and longer")
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777, link.is_symlink()) == (b"new", 0o640, True)
    assert len([*tmp_path.iterdir()]) == 2


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_whole(Path("/dev/null"), b"x")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(click.ClickException, match="No space left") as refused:
        write_whole(Path("/dev/full"), b"x")
    assert refused.value.exit_code == EXIT_FAILED
