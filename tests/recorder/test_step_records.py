"""A record keeps every value and type, has a number of its own, and continues nothing of another process."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from quantum_core.contracts.tables import KILL, RECORDER_STREAM_MAXLEN
from resources.recorder.records import Record, UnreadableRecordError, append, at_column, read
from resources.store.redis_store import RedisStore

STREAM, WRITERS, SEQ = "quantum:stream:recorder", "quantum:recorder:writers", "quantum:recorder:seq"
ROWS = pl.DataFrame(
    {
        "symbol": ["BTCUSDT", "ETHUSDT"],
        "price": [0.1 + 0.2, -0.0],
        "at": ["as the table has it", "and is replaced"],
        "codes": [["a", "b"], None],
        "raw": [b"\x00\xff", b""],
        "none": pl.Series([None, None], dtype=pl.Float64),
        "when": [datetime(2026, 1, 22, 12, 0, 0, 123456, tzinfo=UTC), None],
    }
)
OURS, THEIRS = "4711-2026-01-22", "815-2026-01-22"


def record(number: int = 0, *, full: bool = True, slot: str = "market_state:BTCUSDT", **changes: object) -> Record:
    fields = {"facts": {"version": "1.0"}, "tables": {"market_state": ROWS.with_columns(number=number)}, **changes}
    return Record("market_state", slot, f"cycle-{number}", "run-1", 1769083200.123456, full=full, **fields)


def stream(store: RedisStore) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in store.client.xrange(STREAM)]


def test_a_record_is_read_as_it_was_appended(store: RedisStore) -> None:
    """What is computed again from it must be the same to the last bit."""
    assert append(store, record(7), token=OURS)
    found = read(stream(store)[0])
    assert (found.seq, found.row["asset"], found.row["slot"]) == (1, "market_state", "market_state:BTCUSDT")
    assert (found.row["cycle_id"], found.row["facts"], found.row["full"]) == ("cycle-7", '{"version":"1.0"}', True)
    at = datetime(2026, 1, 22, 12, 0, 0, 123456, tzinfo=UTC)
    assert found.at == at
    expected = ROWS.with_columns(
        at=pl.lit(at).cast(pl.Datetime("us", "UTC")), number=7, seq=pl.lit(1, pl.Int64), cycle_id=pl.lit("cycle-7")
    )
    table = found.tables["market_state"]
    assert_frame_equal(table, expected, check_column_order=False, check_dtypes=False)
    assert table.schema["at"] == pl.Datetime("us", "UTC")
    assert str(table["price"][1]) == "-0.0"


def test_a_process_continues_only_what_it_has_recorded_itself(store: RedisStore) -> None:
    assert not append(store, record(full=False), token=OURS)  # nothing was recorded yet
    assert stream(store) == []
    assert store.client.get(SEQ) is None
    assert append(store, record(1), token=OURS)
    assert append(store, record(2, full=False), token=OURS)
    assert not append(store, record(3, full=False), token=THEIRS)
    assert append(store, record(4), token=THEIRS)
    assert not append(store, record(5, full=False), token=OURS)
    assert append(store, record(6, full=False, slot="market_state:ETHUSDT"), token=OURS) is False
    store.client.delete(WRITERS)  # as the recorder does after a gap
    assert not append(store, record(7, full=False), token=THEIRS)
    assert [read(fields).row["cycle_id"] for fields in stream(store)] == ["cycle-1", "cycle-2", "cycle-4"]
    assert [read(fields).seq for fields in stream(store)] == [1, 2, 3]


def test_records_of_many_processes_have_the_numbers_of_their_places(store: RedisStore) -> None:
    """The order of the stream is that of the numbers: else a recorder would find gaps that are none."""
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda n: append(store, record(n, slot=str(n % 8)), token=str(n)), range(200)))
    assert done == [True] * 200
    assert [read(fields).seq for fields in stream(store)] == list(range(1, 201))


@pytest.mark.slow
def test_a_stream_nobody_reads_is_bounded(store: RedisStore) -> None:
    for number in range(RECORDER_STREAM_MAXLEN + 300):
        append(store, record(number, tables={}), token=OURS)
    assert store.client.xlen(STREAM) <= RECORDER_STREAM_MAXLEN + 100
    assert read(stream(store)[-1]).seq == RECORDER_STREAM_MAXLEN + 300


def test_in_a_cluster_the_keys_of_the_script_share_a_slot(make_store) -> None:
    keys = make_store(key_template="cluster").keys
    names = ["stream_recorder", "recorder_writers", "recorder_seq", "recorder_lease", "recorder_state"]
    assert [keys.of(name).endswith(f":{{{KILL}}}") for name in names] == [True] * 5


@pytest.mark.parametrize("name", ["records", "gaps", "decisions", "manifests", "../up", "Upper", "", "a b", "a" * 65])
def test_a_table_whose_name_cannot_be_kept_is_refused(store: RedisStore, name: str) -> None:
    """A table's name is a folder's."""
    with pytest.raises(ValueError, match="cannot be recorded"):
        append(store, record(tables={name: ROWS}), token=OURS)
    append(store, record(tables={}), token=OURS)
    with pytest.raises(UnreadableRecordError, match="no table is called"):
        read({**stream(store)[0], b"t:" + name.encode(): b""})


@pytest.mark.parametrize(
    "changes",
    [
        {b"seq": b"x"}, {b"seq": b"-1"}, {b"seq": b""}, {b"at": b"nan"}, {b"at": b"1e99"}, {b"at": b""}, {b"asset": b"\xff"},
        {b"t:market_state": b""}, {b"t:market_state": b"garbage" * 100}, {b"t:\xff": b""},
    ],
)  # fmt: skip
def test_what_is_no_record_is_named_so(store: RedisStore, changes: dict[bytes, bytes]) -> None:
    append(store, record(), token=OURS)
    with pytest.raises(UnreadableRecordError):
        read({**stream(store)[0], **changes})
    for missing in (b"seq", b"at", b"asset", b"facts"):
        with pytest.raises(UnreadableRecordError):
            read({name: value for name, value in stream(store)[0].items() if name != missing})


def test_a_table_of_types_that_files_cannot_have_is_refused_each_time(store: RedisStore) -> None:
    """What could be written is remembered by its types; what could not must not slip through beside it."""
    unwritable = ROWS.with_columns(nothing=pl.Series([{}, {}]))
    assert append(store, record(1), token=OURS)
    assert append(store, record(2, tables={"market_state": unwritable}), token=OURS)
    assert append(store, record(3, tables={"market_state": unwritable}), token=OURS)
    assert append(store, record(4), token=OURS)
    first, second, third, fourth = stream(store)
    assert read(first).seq == 1
    for entry in (second, third):
        with pytest.raises(UnreadableRecordError):
            read(entry)
    assert read(fourth).seq == 4


@pytest.mark.parametrize("seconds", [0.0, 1769083200.123456, 1769083200.999999, -0.000001, 4102444799.000001])
def test_a_moment_is_recorded_to_the_microsecond(seconds: float) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    assert pl.select(at_column(at))["at"].to_list() == [at]
