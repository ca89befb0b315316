"""The recorder writes every record once, whatever the disk, Redis, a second recorder or other programs do."""

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import date, timedelta

import polars as pl
import pytest
import redis

from quantum_core.contracts.tables import NO_SYMBOL
from quantum_ops.processes import recorder as module
from quantum_ops.processes.recorder import NotWrittenError, Recorder, StandbyError
from resources.governor.switches import disarm, kill
from resources.recorder import archive as archive_module
from resources.recorder.archive import Archive, DamagedPositionError
from resources.recorder.records import Record, append
from resources.recorder.state import read_state
from resources.recorder.tails import COLUMNS_MAX
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from tests.conftest import START, Clock

STREAM, STATE, WRITERS = "quantum:stream:recorder", "quantum:recorder:state", "quantum:recorder:writers"
OURS = "a-process"
DAY = START.date()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round polls, reports and writes."""
    for name in ("POLL_SEC", "REPORT_SEC"):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(Recorder, "_is_time", lambda _: True)


@pytest.fixture
def recorder(store: RedisStore) -> Iterator[Recorder]:
    one = Recorder(store)
    yield one
    one._end()


def leave(store: RedisStore, number: int, *, tables: dict[str, pl.DataFrame] | None = None, slot: str = "s") -> None:
    rows = {"market_state": pl.DataFrame({"symbol": ["BTCUSDT"], "number": [number]})} if tables is None else tables
    at = store.clock().timestamp()
    assert append(store, Record("market_state", slot, f"cycle-{number}", "run", at, {}, rows, full=True), token=OURS)


def until_read(recorder: Recorder) -> None:
    while recorder.round():
        pass


def table(recorder: Recorder, name: str, days: list[date] | None = None) -> pl.DataFrame:
    return recorder.archive.read(name, days).collect()


def numbers(recorder: Recorder, days: list[date] | None = None) -> list[int]:
    frame = table(recorder, "market_state", days)
    return sorted(frame["number"].to_list()) if frame.width else []


def gaps(recorder: Recorder) -> list[tuple[int, int]]:
    frame = table(recorder, "gaps")
    return list(frame.select("from_seq", "to_seq").iter_rows()) if frame.width else []


def test_records_are_written_once_and_only_then_taken_out_of_redis(store: RedisStore, recorder: Recorder) -> None:
    for number in range(5):
        leave(store, number)
    recorder._take()
    while recorder._read():
        pass
    assert store.client.xlen(STREAM) == 5  # read, and not written yet
    recorder.flush()
    assert store.client.xlen(STREAM) == 0
    leave(store, 5)
    until_read(recorder)
    assert numbers(recorder) == list(range(6))
    rows = table(recorder, "market_state").sort("number")
    assert rows["seq"].to_list() == [1, 2, 3, 4, 5, 6]
    assert rows["cycle_id"].to_list() == [f"cycle-{n}" for n in range(6)]
    assert rows["at"].to_list() == [START] * 6
    records = table(recorder, "records")
    assert (records["seq"].to_list(), records["full"].to_list()) == ([1, 2, 3, 4, 5, 6], [True] * 6)
    assert gaps(recorder) == []


def test_a_recorder_that_starts_anew_goes_on_where_the_archive_ends(store: RedisStore, recorder: Recorder) -> None:
    leave(store, 1)
    until_read(recorder)
    recorder._end()
    leave(store, 2)
    another = Recorder(store)
    until_read(another)
    assert numbers(another) == [1, 2]
    another._end()


def test_a_recorder_killed_between_commit_and_trim_writes_nothing_twice(store: RedisStore, monkeypatch) -> None:
    first = Recorder(store)
    leave(store, 1)
    first._take()
    first._read()
    monkeypatch.setattr(first, "_trim", lambda *_: None)
    first.flush()
    first._lock.close()  # as the kernel does
    assert store.client.xlen(STREAM) == 1
    leave(store, 2)
    second = Recorder(store)
    until_read(second)
    assert numbers(second) == [1, 2]
    assert store.client.xlen(STREAM) == 0
    second._end()


def test_a_number_that_is_missing_is_a_gap_and_everything_is_recorded_anew(store: RedisStore, recorder: Recorder) -> None:
    leave(store, 1)
    until_read(recorder)
    leave(store, 2)
    leave(store, 3)
    store.client.xtrim(STREAM, maxlen=0, approximate=False)  # as a full stream does
    leave(store, 4)
    assert store.client.exists(WRITERS)
    until_read(recorder)
    assert gaps(recorder) == [(2, 3)]
    assert "before they were read" in table(recorder, "gaps")["what"][0]
    assert not store.client.exists(WRITERS)
    assert store.client.hget(STATE, "gaps") == b"1"
    assert numbers(recorder) == [1, 4]


def test_a_redis_that_was_emptied_is_a_gap_and_recording_goes_on(store: RedisStore, recorder: Recorder) -> None:
    for number in range(3):
        leave(store, number)
    until_read(recorder)
    store.client.flushdb()
    leave(store, 10)
    leave(store, 11)
    until_read(recorder)
    assert numbers(recorder) == [0, 1, 2, 10, 11]
    assert gaps(recorder) == [(4, 0)]
    assert "emptied" in table(recorder, "gaps")["what"][0]


def test_a_stream_begun_anew_with_older_ids_is_read_from_its_beginning(store: RedisStore, recorder: Recorder) -> None:
    """A Redis restored on a host whose clock is behind would else never be read again."""
    leave(store, 1)
    until_read(recorder)
    (kept,) = [fields for _, fields in _left(store, 2)]
    store.client.delete(STREAM)
    store.client.xadd(STREAM, kept, id="5-0")
    until_read(recorder)
    assert numbers(recorder) == [1, 2]
    assert "begun anew" in table(recorder, "gaps")["what"][0]


def _left(store: RedisStore, number: int) -> list:
    leave(store, number)
    return store.client.xrange(STREAM)


@pytest.mark.parametrize(
    "entry", [{"x": "y"}, {"seq": "2"}, {"seq": "999999", "at": "x"}, {"seq": "1"}, {b"\xff": b"\x00" * 1000}, {"t:gaps": "x"}]
)
def test_an_entry_that_is_no_record_stops_nothing(store: RedisStore, recorder: Recorder, entry: dict) -> None:
    leave(store, 1)
    store.client.xadd(STREAM, entry)
    leave(store, 3)
    until_read(recorder)
    assert numbers(recorder) == [1, 3]
    (what, *more) = table(recorder, "gaps")["what"].to_list()
    assert "no record" in what
    assert len(more) == (1 if entry == {"seq": "2"} else 0)  # the next one has that number, too: which was right, nobody knows
    assert recorder.trouble == ""


def test_rows_of_another_type_are_a_gap_and_stop_nothing(store: RedisStore, recorder: Recorder) -> None:
    leave(store, 1)
    leave(store, 2, tables={"market_state": pl.DataFrame({"symbol": [["a"]], "number": [2]})})
    leave(store, 3)
    until_read(recorder)
    assert numbers(recorder) == [1, 3]
    assert gaps(recorder) == [(2, 2)]


def test_other_streams_become_rows_of_text(store: RedisStore, recorder: Recorder) -> None:
    kill(store, reason="because", by="me")
    store.client.xadd("quantum:stream:apply.plan", {"plan_id": "p1", "symbol": "BTCUSDT"}, id="1769083200123-0")
    store.client.xadd("quantum:stream:risk.events", {"event": "RISK_GUARD_ACTIVATED"})
    store.client.xadd("quantum:stream:alerts", {"alert": "loop"})
    store.client.xadd("quantum:profile:history", {"name": "locked-v1", "at": "1769083200"})
    until_read(recorder)
    until_read(recorder)
    assert table(recorder, "decisions")["event"].to_list() == ["KILL"]
    (plan,) = table(recorder, "plans").to_dicts()
    assert (plan["plan_id"], plan["entry_id"], plan["cut"]) == ("p1", "1769083200123-0", False)
    assert plan["at"] == START + timedelta(milliseconds=123)
    assert table(recorder, "risk_events")["event"].to_list() == ["RISK_GUARD_ACTIVATED"]
    assert table(recorder, "alerts")["alert"].to_list() == ["loop"]
    assert table(recorder, "profiles").select("name", "at_").rows() == [("locked-v1", "1769083200")]
    assert store.client.xlen("quantum:stream:apply.plan") == 1  # others read it, too


def test_in_a_cluster_the_streams_of_each_symbol_are_read(make_store: Callable[..., RedisStore]) -> None:
    store = make_store(key_template="cluster")
    recorder = Recorder(store)
    for symbol in ("BTCUSDT", NO_SYMBOL):
        store.client.xadd(store.keys.of("stream_governor_events", symbol), {"symbol": symbol})
    until_read(recorder)
    rows = table(recorder, "decisions")
    assert sorted(rows["symbol"].to_list()) == [NO_SYMBOL, "BTCUSDT"]
    assert rows["stream"].n_unique() == 2
    recorder._end()


def test_a_hostile_entry_is_cut_and_stops_nothing(store: RedisStore, recorder: Recorder) -> None:
    """Whoever may write a plan could else fill the disk with columns, or the memory with one value."""
    plans = "quantum:stream:apply.plan"
    store.client.xadd(
        plans, {b"\xff\x00": b"\x00\xff", "seq": "1", "at": "x", "entry_id": "e", "rest": "r", "at_": "y", "": "empty"}
    )
    store.client.xadd(plans, {f"field{n}": "v" for n in range(5000)})
    store.client.xadd(plans, {"huge": "x" * 3_000_000, "plan_id": "p"})
    for number in range(20):
        store.client.xadd(plans, {f"new{number}_{n}": "v" for n in range(60)})
    store.client.xadd(plans, {"plan_id": "last"})
    store.client.set("quantum:stream:alerts", "no stream")
    leave(store, 1)
    until_read(recorder)
    number = pl.col("entry_id").str.split("-").list.eval(pl.element().cast(pl.Int64))  # as text, 10 comes before 2
    rows = table(recorder, "plans").sort(number.list.get(0), number.list.get(1))
    assert (len(rows), numbers(recorder), recorder.trouble) == (24, [1], "")
    assert rows.width <= COLUMNS_MAX + 5
    assert rows["cut"].to_list() == [False, True, True, *[False] * 21]
    assert rows["huge"].drop_nulls().str.len_bytes().to_list() == [64 << 10]
    assert rows["plan_id"].drop_nulls().to_list() == ["p", "last"]
    assert (rows["seq_"][0], rows["entry_id_"][0]) == ("1", "e")
    assert json.loads(rows["rest"][0]) == {"\ufffd\x00": "\x00\ufffd", "at_": "y", "": "empty"}
    assert json.loads(rows["rest"][-2])["new19_59"] == "v"


def test_switches_and_guards_are_rows_when_they_change_and_all_of_them_at_the_start_of_a_day(
    store: RedisStore, recorder: Recorder, clock: Clock
) -> None:
    def rows() -> list[tuple[str, str]]:
        return table(recorder, "switches", [store.clock().date()]).select("name", "value").rows()

    until_read(recorder)
    assert rows()[:2] == [("kill", ""), ("disarmed", "")]
    before = len(rows())
    until_read(recorder)
    assert len(rows()) == before
    kill(store, reason="because", by="me")
    disarm(store, "too much")
    store.client.set("quantum:risk:guard_active:DRAWDOWN", b'{"reason": "deep\xff"}')
    store.client.set("quantum:risk:guard_active:DAILY_LOSS", '{"reason": "deep"}')
    until_read(recorder)
    changed = dict(rows()[before:])
    assert changed["kill"] == "set_by_kill"
    assert json.loads(changed["disarmed"])["cause"] == "too much"
    assert {"guard:DRAWDOWN": "{}", "guard:DAILY_LOSS": '{"reason":"deep"}'}.items() <= changed.items()
    store.client.delete("quantum:risk:guard_active:DRAWDOWN")
    until_read(recorder)
    assert rows()[-1] == ("guard:DRAWDOWN", "")
    clock.advance(86400)
    until_read(recorder)
    assert {"kill": "set_by_kill", "guard:DAILY_LOSS": '{"reason":"deep"}'}.items() <= dict(rows()).items()


def test_a_new_day_begins_with_its_first_record_and_nothing_is_added_to_the_one_before(
    store: RedisStore, recorder: Recorder, clock: Clock
) -> None:
    clock.now = START.replace(hour=23, minute=59, second=58)
    leave(store, 1)
    until_read(recorder)
    clock.advance(10)
    late = Record(
        "market_state", "s", "c", "r", clock().timestamp() - 9, {}, {"market_state": pl.DataFrame({"number": [2]})}, full=True
    )
    append(store, late, token=OURS)
    until_read(recorder)
    assert numbers(recorder, [DAY]) == [1, 2]  # a step of yesterday that ended today
    leave(store, 3)
    append(store, late._replace(tables={"market_state": pl.DataFrame({"number": [4]})}), token=OURS)
    until_read(recorder)
    tomorrow = DAY + timedelta(days=1)
    assert (numbers(recorder, [DAY]), numbers(recorder, [tomorrow])) == ([1, 2], [3, 4])
    assert recorder.archive.position().day == str(tomorrow)
    assert archive_module.compactable(recorder.archive) == [DAY]
    recorder.archive.compact(DAY)
    assert numbers(recorder) == [1, 2, 3, 4]


def test_a_day_without_a_record_begins_a_minute_late(store: RedisStore, recorder: Recorder, clock: Clock) -> None:
    """Steps that began before midnight belong to the day before; what is no record must not end it."""
    clock.now = START.replace(hour=23, minute=59, second=59)
    leave(store, 1)
    until_read(recorder)
    began = clock().timestamp()
    clock.advance(50)
    kill(store, reason="because", by="me")
    until_read(recorder)
    rows = {"market_state": pl.DataFrame({"number": [2]})}
    append(store, Record("market_state", "s", "c", "r", began, {}, rows, full=True), token=OURS)
    until_read(recorder)
    assert numbers(recorder, [DAY]) == [1, 2]
    assert recorder.archive.days() == [DAY]
    clock.advance(11)
    until_read(recorder)
    assert recorder.archive.days() == [DAY, DAY + timedelta(days=1)]


def test_a_clock_ahead_of_ours_begins_no_day(store: RedisStore, recorder: Recorder) -> None:
    ahead = Record("a", "s", "c", "r", START.timestamp() + 10 * 86400, {}, {}, full=True)
    append(store, ahead, token=OURS)
    until_read(recorder)
    assert recorder.archive.position().day == str(DAY)


def test_a_backlog_of_days_is_written_into_its_days(store: RedisStore, recorder: Recorder, clock: Clock) -> None:
    leave(store, 1)
    clock.advance(86400)
    leave(store, 2)
    clock.advance(86400)
    until_read(recorder)
    assert [numbers(recorder, [DAY + timedelta(days=n)]) for n in range(2)] == [[1], [2]]
    assert recorder.archive.position().day == str(DAY + timedelta(days=2))  # its switches


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> Callable[[], None]:
    """Let the disk take so many more files, tables or position, then none; give what frees it."""
    taken = []

    def guarded(real: Callable) -> Callable:
        def write(content: object, *more: object) -> None:
            if len(taken) >= after:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken.append(content)
            real(content, *more)

        return write

    real = {name: getattr(archive_module, name) for name in ("write_parquet", "_write_text")}
    for name, function in real.items():
        monkeypatch.setattr(archive_module, name, guarded(function))

    def free() -> None:
        for name, function in real.items():
            monkeypatch.setattr(archive_module, name, function)

    return free


@pytest.mark.parametrize("after", [0, 1, 2])  # records, market_state, position
def test_a_full_disk_loses_nothing_and_doubles_nothing(
    store: RedisStore, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    leave(store, 1)
    until_read(recorder)
    free = full_disk(monkeypatch, after)
    for number in (2, 3):
        leave(store, number)
        until_read(recorder)
        assert "No space left" in recorder.trouble
    assert "No space left" in store.client.hget(STATE, "trouble").decode()
    assert store.client.xlen(STREAM) == 2
    assert recorder.archive.position().seq == 1
    free()
    until_read(recorder)
    assert (recorder.trouble, numbers(recorder), gaps(recorder)) == ("", [1, 2, 3], [])
    assert store.client.hget(STATE, "trouble") == b""
    assert table(recorder, "records")["seq"].sort().to_list() == [1, 2, 3]


def test_a_full_disk_that_had_taken_some_files_leaves_none_that_count_to_a_successor(
    store: RedisStore, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(store, 1)
    free = full_disk(monkeypatch, 2)
    until_read(recorder)
    assert list(recorder.archive.root.glob("*/*/part-*.parquet"))
    free()
    recorder._lock.close()  # as the kernel does when it is killed
    successor = Recorder(store)
    leave(store, 2)
    until_read(successor)
    assert numbers(successor) == [1, 2]
    successor._end()


def test_files_of_a_flush_that_was_not_committed_never_count(store: RedisStore, recorder: Recorder, monkeypatch) -> None:
    """The next flush has the same number, and perhaps other tables."""
    leave(store, 1)
    full_disk(monkeypatch, 2)
    until_read(recorder)
    assert list(recorder.archive.root.glob("market_state/*/part-*.parquet"))
    monkeypatch.undo()
    recorder._lock.close()  # as the kernel does when it is killed
    store.client.flushdb()
    successor = Recorder(store)
    successor.once()
    assert successor.archive.position().flush == 1
    assert numbers(successor) == []


def test_a_full_disk_at_midnight_keeps_both_days(store: RedisStore, recorder: Recorder, clock: Clock, monkeypatch) -> None:
    leave(store, 1)
    until_read(recorder)
    free = full_disk(monkeypatch)
    leave(store, 2)
    until_read(recorder)
    clock.advance(86400)
    leave(store, 3)
    until_read(recorder)
    free()
    until_read(recorder)
    tomorrow = DAY + timedelta(days=1)
    assert (numbers(recorder, [DAY]), numbers(recorder, [tomorrow]), gaps(recorder)) == ([1, 2], [3], [])


def test_while_the_disk_takes_nothing_no_more_is_read_than_fits_into_the_bound(
    store: RedisStore, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_BYTES", 100_000)
    monkeypatch.setattr(module, "BUFFER_BYTES_MAX", 200_000)
    monkeypatch.setattr(module, "RECORDS_AT_ONCE", 1)
    free = full_disk(monkeypatch)
    for number in range(50):
        leave(store, number, tables={"market_state": pl.DataFrame({"number": [number], "text": [os.urandom(10_000).hex()]})})
    for _ in range(60):
        recorder.round()
    assert recorder.buffer.size < 230_000
    free()
    for _ in range(60):
        recorder.round()
    assert (numbers(recorder), gaps(recorder), store.client.xlen(STREAM)) == (list(range(50)), [], 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(store: RedisStore, recorder: Recorder) -> None:
    root = recorder.archive.root
    root.parent.mkdir(parents=True, exist_ok=True)
    root.parent.chmod(0o500)
    leave(store, 1)
    recorder.round()
    assert str(root) in recorder.trouble
    root.parent.chmod(0o700)
    until_read(recorder)
    assert (numbers(recorder), recorder.trouble) == ([1], "")


def test_a_folder_in_whose_place_is_a_file_is_named_and_recording_goes_on_without_it(
    store: RedisStore, recorder: Recorder
) -> None:
    root = recorder.archive.root
    root.parent.mkdir(parents=True, exist_ok=True)
    root.write_text("a file")
    leave(store, 1)
    recorder.round()
    assert str(root) in store.client.hget(STATE, "trouble").decode()
    root.unlink()
    until_read(recorder)
    assert (numbers(recorder), recorder.trouble) == ([1], "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"flush": "1"}', '{"flush": 1, "day": "x"}', '{"unknown": 1}', '{"streams": [1]}', '{"seq": -1}']
)
def test_a_damaged_position_ends_the_recorder_and_nothing_is_read_anew(store: RedisStore, recorder: Recorder, text: str) -> None:
    leave(store, 1)
    until_read(recorder)
    recorder._end()
    (recorder.archive.root / "position.json").write_text(text)
    leave(store, 2)
    another = Recorder(store)
    with pytest.raises(DamagedPositionError, match=r"position\.json is damaged"):
        another.run(threading.Event())
    assert store.client.xlen(STREAM) == 1
    assert "damaged" in store.client.hget(STATE, "trouble").decode()
    assert another._lock is None


def test_a_position_that_is_missing_beside_files_is_damaged(store: RedisStore, recorder: Recorder) -> None:
    for number in range(2):
        leave(store, number)
        until_read(recorder)
    (recorder.archive.root / "position.json").unlink()
    with pytest.raises(DamagedPositionError, match="missing"):
        Recorder(store).archive.position()


def test_a_second_recorder_on_the_folder_is_on_standby_and_goes_on_when_the_first_has_ended(
    store: RedisStore, recorder: Recorder, caplog
) -> None:
    leave(store, 1)
    until_read(recorder)
    second = Recorder(store)
    with caplog.at_level(logging.WARNING):
        assert not second.round()
        assert not second.round()
    assert sum("standby: another recorder writes" in record.message for record in caplog.records) == 1
    with pytest.raises(StandbyError):
        Recorder(store).once()
    leave(store, 2)
    until_read(recorder)
    recorder._end()
    leave(store, 3)
    until_read(second)
    assert numbers(second) == [1, 2, 3]
    second._end()


def test_a_second_recorder_elsewhere_is_kept_out_by_the_lease(
    store: RedisStore, recorder: Recorder, make_store, tmp_path
) -> None:
    leave(store, 1)
    until_read(recorder)
    elsewhere = Recorder(make_store(recorder_url=str(tmp_path / "elsewhere")))
    leave(store, 2)
    assert not elsewhere.round()
    assert elsewhere.trouble.startswith("on standby: the recorder of ")
    assert not elsewhere.archive.root.exists()
    recorder._end()
    until_read(elsewhere)
    assert elsewhere.archive.position().seq == 2
    elsewhere._end()


def test_a_recorder_that_lost_the_lease_commits_nothing(store: RedisStore, recorder: Recorder) -> None:
    """It slept: another one reads the same entries now."""
    leave(store, 1)
    recorder._take()
    recorder._read()
    store.client.set("quantum:recorder:lease", "another")
    with pytest.raises(StandbyError):
        recorder.flush()
    assert recorder.archive.position().flush == 0
    recorder.round()
    assert recorder.trouble == "on standby: the recorder of another has quantum:recorder:lease"
    store.client.delete("quantum:recorder:lease")
    until_read(recorder)
    assert numbers(recorder) == [1]


def test_a_lease_that_had_lapsed_makes_the_recorder_read_the_archive_anew(store: RedisStore, recorder: Recorder) -> None:
    """Meanwhile a recorder on another host may have written to the same folder."""
    leave(store, 1)
    recorder._take()
    recorder._read()
    position = recorder.buffer.position
    recorder.archive.write({}, module.replace(position, flush=1))  # the other one's
    store.client.delete("quantum:recorder:lease")
    until_read(recorder)
    assert (numbers(recorder), table(recorder, "records").width) == ([], 0)
    assert recorder.archive.position().seq == 1


def test_while_redis_is_away_the_recorder_tries_again(store: RedisStore, recorder: Recorder, monkeypatch) -> None:
    leave(store, 1)
    recorder.round()
    real = store.run

    def away(doing: str, *_: object, **__: object) -> None:
        refused = redis.ConnectionError("refused")
        raise RedisUnavailableError(store.settings.redis_address, doing, refused)

    monkeypatch.setattr(store, "run", away)
    assert not recorder.round()
    assert "cannot be used" in recorder.trouble
    monkeypatch.setattr(store, "run", real)
    leave(store, 2)
    until_read(recorder)
    assert (numbers(recorder), recorder.trouble) == ([1, 2], "")


def test_a_foreign_value_in_place_of_the_stream_is_named(store: RedisStore, recorder: Recorder) -> None:
    store.client.set(STREAM, "text")
    recorder.round()
    assert "WRONGTYPE" in recorder.trouble
    store.client.delete(STREAM)
    leave(store, 1)
    until_read(recorder)
    assert (numbers(recorder), recorder.trouble) == ([1], "")


def test_what_is_beyond_its_age_is_removed_once_it_is_compacted(make_store, clock: Clock, monkeypatch) -> None:
    monkeypatch.setattr(module, "PRUNE_SEC", 0.0)
    store = make_store(recorder_days=2)
    recorder = Recorder(store)
    for number in range(4):
        leave(store, number)
        until_read(recorder)
        clock.advance(86400)
    assert len(recorder.archive.days()) == 5 - 1
    for day in archive_module.compactable(recorder.archive):
        recorder.archive.compact(day)
    until_read(recorder)
    assert numbers(recorder) == [3]
    assert recorder.archive.retained_since() == DAY + timedelta(days=3)
    assert list(recorder.archive.verify()) == []
    recorder._end()


def test_no_secret_is_written_or_reported(make_store, server_url: str, caplog) -> None:
    """Addresses have passwords in them; the archive is copied to places where nobody may know them."""
    planted = "planted-5ec7-recorder"
    plain = make_store()
    plain.client.acl_setuser("recording", enabled=True, passwords=[f"+{planted}"], keys=["*"], commands=["+@all"])
    store = make_store(redis_url=server_url.replace("://", f"://recording:{planted}@"))
    with caplog.at_level(logging.DEBUG):
        recorder = Recorder(store)
        leave(store, 1)
        kill(store, reason="because", by="me")
        until_read(recorder)
        plain.client.acl_deluser("recording")
        store.client.connection_pool.disconnect()
        recorder.round()
        assert recorder.trouble
    written = b"".join(path.read_bytes() for path in recorder.archive.root.rglob("*") if path.is_file())
    said = caplog.text + recorder.trouble + repr(plain.client.hgetall(STATE)) + repr(table(recorder, "switches").rows())
    assert numbers(recorder) == [1]
    assert planted.encode() not in written
    assert planted not in said
    recorder._lock.close()


def test_once_writes_what_is_there_and_lets_the_next_one_begin_at_once(store: RedisStore) -> None:
    for number in range(450):
        leave(store, number, tables={})
    for number in range(1200):
        store.client.xadd("quantum:stream:apply.plan", {"plan_id": str(number)})
    one = Recorder(store)
    assert one.once().seq == 450
    assert len(table(one, "plans")) == 1200
    assert not store.client.exists("quantum:recorder:lease")
    assert Recorder(store).once().seq == 450
    assert Archive(one.archive.root).position().seq == 450


def test_once_says_when_the_disk_takes_nothing(store: RedisStore, monkeypatch) -> None:
    full_disk(monkeypatch)
    leave(store, 1)
    with pytest.raises(NotWrittenError, match="No space left"):
        Recorder(store).once()
    assert store.client.xlen(STREAM) == 1


def test_what_does_not_belong_into_the_archive_is_reported_and_recording_goes_on(
    store: RedisStore, recorder: Recorder, monkeypatch
) -> None:
    """A copy that somebody has left beside a part ended every recorder that started after it."""
    monkeypatch.setattr(module, "CHECK_SEC", 0.0)
    leave(store, 1)
    until_read(recorder)
    assert read_state(store).damaged == ""
    recorder._end()
    (part,) = recorder.archive.files("market_state", DAY)
    copies = [part.with_name(f"{part.stem} (copy).parquet"), part.with_name("part-\udcff.parquet")]
    for copy in copies:
        shutil.copy(part, copy)
    another = Recorder(store)
    leave(store, 2)
    until_read(another)
    another._end()
    assert (numbers(another), another.trouble) == ([1, 2], "")
    for name in ("part-000000000001 (copy).parquet", r"part-\xff.parquet"):
        assert f"market_state/date={DAY}/{name} does not belong there: move it out of the archive" in read_state(store).damaged
    assert all(copy.exists() for copy in copies)
    for copy in copies:
        copy.unlink()
    part.unlink()
    until_read(another)
    assert read_state(store).damaged.startswith(f"market_state/date={DAY} has 1 files of ")
    another._end()
