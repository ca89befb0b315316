"""What the chaos trial says of the archive: it must find a row that is lost or doubled, and forgive only what Valkey may lose."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from benchmarks.chaos import EVERY_CYCLE, RESUMES_WITHIN_SEC, misrecorded
from quantum_ops.processes.recorder import GAP_SCHEMA, gap
from resources.recorder.archive import Archive, Position

BEGAN = datetime(2026, 1, 22, 12, tzinfo=UTC)
CYCLES = [(f"c{number}", BEGAN.timestamp() + 10 * number, BEGAN.timestamp() + 10 * number + 4) for number in range(1, 9)]


@pytest.fixture
def archive(tmp_path) -> Archive:
    """Eight cycles on record, each with every asset."""
    archive, rows = Archive(tmp_path / "recorder"), []
    for number, (name, begin, _) in enumerate(CYCLES):
        for place, asset in enumerate(EVERY_CYCLE):
            seq = number * len(EVERY_CYCLE) + place + 1
            rows.append({"seq": seq, "cycle_id": name, "asset": asset, "at": datetime.fromtimestamp(begin + 1, UTC)})
    records = pl.DataFrame(rows)
    published = records.filter(pl.col("asset") == "position").with_columns(symbol=pl.lit("BTCUSDT"))
    write(archive, records=records, position=published)
    return archive


def write(archive: Archive, **tables: pl.DataFrame) -> None:
    flush = archive.position().flush + 1
    archive.write(tables, Position(flush=flush, seq=len(CYCLES) * len(EVERY_CYCLE), day=str(BEGAN.date())))


def test_a_whole_archive_has_nothing_lost_or_doubled(archive) -> None:
    assert misrecorded(archive, CYCLES, []) == []


def test_a_cycle_that_is_not_on_record_is_lost_unless_valkey_was_killed_with_it(archive) -> None:
    missing = ("c9", CYCLES[-1][2] + 30, CYCLES[-1][2] + 34)
    (said,) = misrecorded(archive, [*CYCLES, missing], [CYCLES[0][1]])
    assert said.startswith("archive: lost: position")
    assert misrecorded(archive, [*CYCLES, missing], [missing[1] + 1]) == []


def test_a_record_and_a_row_written_twice_are_named(archive) -> None:
    again = {name: archive.read(name).collect().head(1) for name in ("records", "position")}
    write(archive, **again)
    assert {said.split(": (")[0] for said in misrecorded(archive, CYCLES, [])} == {
        "archive: records twice",
        "archive: position twice",
    }


def test_a_gap_is_a_loss_unless_valkey_was_killed_before_it(archive) -> None:
    at = BEGAN + timedelta(seconds=60)
    row = gap(5, 6, "", "", at=at, what="taken out of Redis before they were read")
    write(archive, gaps=pl.DataFrame([row], schema=GAP_SCHEMA))
    (said,) = misrecorded(archive, CYCLES, [at.timestamp() - 3 * RESUMES_WITHIN_SEC])
    assert said.startswith("archive: gap 5 to 6 at 12:01:00")
    assert misrecorded(archive, CYCLES, [at.timestamp() - 1]) == []


def test_a_damaged_file_is_named(archive) -> None:
    archive.files("position", BEGAN.date())[0].write_bytes(b"no parquet")
    said = misrecorded(archive, CYCLES, [])
    assert any(line.startswith("archive: position/date=2026-01-22/part-000000000001.parquet cannot be read") for line in said)
    assert any(line.startswith("archive: position/date=2026-01-22 has 1 files") for line in said)
