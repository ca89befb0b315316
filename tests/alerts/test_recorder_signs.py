"""A recorder that is silent, stuck or slow is reported while nothing is lost yet; where none was ever wanted, nothing is said."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import redis
from click.testing import CliRunner, Result

from quantum_core.alert_catalogue import KINDS
from quantum_core.contracts.roles import PROPOSALS, READER, acl
from quantum_core.contracts.tables import RECORDER_STREAM_MAXLEN
from quantum_ops.alerts.recorder_signs import recorder_troubles
from quantum_ops.alerts.watcher import Watcher
from quantum_ops.alerts.words import Message
from quantum_ops.cli import cli
from quantum_ops.cli.run import recorder as command
from quantum_ops.doctor.diagnosis import _recorder
from quantum_ops.exporter.exposition import text_of
from quantum_ops.exporter.metrics import Collector
from quantum_ops.processes import recorder as module
from quantum_ops.processes.recorder import Recorder
from quantum_ops.processes.stack import processes
from resources.recorder import archive as archive_module
from resources.recorder.records import Record, append
from resources.recorder.state import SILENT_SEC, WAITING_SHARE, read_state, what_is_wrong
from resources.store.redis_store import RedisStore
from tests.conftest import START, Clock

STREAM, STATE = "quantum:stream:recorder", "quantum:recorder:state"


@pytest.fixture
def running(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setattr(module, "REPORT_SEC", 0.0)
    monkeypatch.setattr(module, "POLL_SEC", 0.0)
    monkeypatch.setattr(Recorder, "_is_time", lambda _: True)
    one = Recorder(store)
    one.round()
    one.round()
    yield one
    one._end()


def leave(store: RedisStore) -> None:
    ours = "a-process"
    rows = {"one": pl.DataFrame({"x": [1]})}
    append(store, Record("a", "s", "c", "r", store.clock().timestamp(), {}, rows, full=True), token=ours)


def wrong(store: RedisStore) -> str:
    found = recorder_troubles(store, store.clock().timestamp())
    return found["recorder"].what if found else ""


def test_where_no_recorder_has_ever_run_nothing_is_said(store: RedisStore) -> None:
    """Plain `dagster dev` has none; its records fill the stream to its cap, which is no fault."""
    for _ in range(int(RECORDER_STREAM_MAXLEN * WAITING_SHARE) + 10):
        store.client.xadd(STREAM, {"seq": "1"})
    assert wrong(store) == ""
    assert [finding.level for finding in _recorder(store)] == ["ok"]


def test_a_healthy_recorder_is_no_alert_and_says_how_it_is(store: RedisStore, running: Recorder) -> None:
    leave(store)
    running.round()
    assert wrong(store) == ""
    state = read_state(store)
    assert (state.at, state.seq, state.waiting, state.gaps, state.day) == (START.timestamp(), 1, 0, 0, "2026-01-22")
    assert state.day_bytes == running.archive.bytes_of(START.date())
    assert state.free_bytes > 0
    assert store.client.get("quantum:heartbeat:recorder")
    (finding,) = _recorder(store)
    assert (finding.level, "0 records wait, 0 gaps; 2026-01-22: 0.0 MB so far" in finding.seen) == ("ok", True)


@pytest.mark.usefixtures("running")
def test_a_recorder_that_has_died_is_an_alert_until_it_is_switched_off(
    store: RedisStore, clock: Clock, make_store: Callable[..., RedisStore]
) -> None:
    clock.advance(SILENT_SEC)
    assert wrong(store) == ""
    clock.advance(1)
    leave(store)
    assert wrong(store) == f"The recorder has not reported for 61 s; 1 of at most {RECORDER_STREAM_MAXLEN} records wait in Redis"
    clock.advance(40 * 86400)  # also when every heartbeat has lapsed
    assert wrong(store).startswith("The recorder has not reported for ")
    assert [finding.level for finding in _recorder(store)] == ["warn"]
    off = make_store(recorder=False)
    assert wrong(off) == ""
    assert [finding.seen for finding in _recorder(off)] == ["RECORDER is off: nothing is recorded"]


@pytest.mark.usefixtures("running")
def test_a_recorder_that_was_down_with_the_watcher_is_given_time_to_report(store: RedisStore, clock: Clock) -> None:
    """Whoever starts the product after lunch is not woken by its lunch."""
    clock.advance(274)
    watcher = Watcher(store)
    watcher.round()
    assert watcher.ledger.standing(store.clock().timestamp()) == []
    clock.advance(SILENT_SEC + 1)
    watcher.round()
    titles = [message.title for message in watcher.ledger.standing(store.clock().timestamp()) if message.kind == "recorder"]
    assert [title.partition(";")[0] for title in titles] == ["The recorder has not reported for 335 s"]


WRAPPED = "parquet: File out of specification: underlying IO error: No space left on device (os error 28)"


@pytest.mark.parametrize("wrapped", [WRAPPED, "[Errno 28] No space left on device"])
def test_a_recorder_whose_disk_is_full_is_an_alert_that_names_it(
    store: RedisStore, running: Recorder, monkeypatch: pytest.MonkeyPatch, wrapped: str
) -> None:
    """The cause comes first: the title of an alert is cut, and wrapped causes stand at the end."""

    def full(*_: object) -> None:
        raise OSError(wrapped)

    real = archive_module.write_parquet
    monkeypatch.setattr(archive_module, "write_parquet", full)
    leave(store)
    running.round()
    assert wrong(store).startswith("The recorder writes nothing: No space left on device: ")
    monkeypatch.setattr(archive_module, "write_parquet", real)
    running.round()
    assert wrong(store) == ""


@pytest.mark.usefixtures("running")
def test_a_recorder_that_does_not_keep_up_is_an_alert_before_anything_is_lost(store: RedisStore) -> None:
    for _ in range(int(RECORDER_STREAM_MAXLEN * WAITING_SHARE)):
        store.client.xadd(STREAM, {"seq": "1"})
    assert wrong(store) == ""
    store.client.xadd(STREAM, {"seq": "1"})
    assert wrong(store) == "The recorder does not keep up: 501 of at most 2000 records wait in Redis"


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("key", [STREAM, STATE])
def test_a_foreign_value_in_a_key_of_the_recorder_is_named(store: RedisStore, key: str) -> None:
    store.client.delete(key)
    store.client.set(key, "foreign")
    assert "WRONGTYPE" in wrong(store)


@pytest.mark.parametrize("state", [{"gaps": "1"}, {"at": "x", "gaps": "inf"}, {"at": "nan"}, {b"\xff": b"\xff"}])
def test_a_state_that_nobody_can_have_written_raises_nothing(store: RedisStore, state: dict) -> None:
    store.client.hset(STATE, mapping=state)
    assert isinstance(what_is_wrong(read_state(store), START.timestamp()), str)


def test_the_watcher_raises_and_clears_it_in_an_operators_words(store: RedisStore, running: Recorder, clock: Clock) -> None:
    told: list[Message] = []
    watcher = Watcher(store, told.append)

    def of_recorder() -> list[Message]:
        found = [message for message in told if message.alert == "recorder"]
        told.clear()
        return found

    watcher.round()
    assert of_recorder() == []
    clock.advance(SILENT_SEC + 1)
    watcher.round()
    (raised,) = of_recorder()
    assert (raised.event, raised.kind, raised.severity) == ("raised", "recorder", "warn")
    assert raised.title.startswith("The recorder has not reported for 61 s")
    assert f"For trading: {KINDS['recorder'].trading}" in raised.text
    assert "Look: quantum recorder --status" in raised.text
    running.round()
    watcher.round()
    (cleared,) = of_recorder()
    assert (cleared.event, cleared.alert) == ("cleared", "recorder")


def test_the_exporter_shows_it_once_one_has_run(store: RedisStore, clock: Clock) -> None:
    def shown() -> dict[str, float]:
        lines = text_of(Collector(store, None).look(), "governor").decode().splitlines()
        return {name: float(value) for name, value in (line.split() for line in lines if line.startswith("quantum_recorder"))}

    assert shown() == {}
    recorder = Recorder(store)
    leave(store)
    leave(store)
    store.client.xtrim(STREAM, maxlen=1, approximate=False)
    recorder.once()
    leave(store)
    clock.advance(5)
    values = shown()
    assert values["quantum_recorder_age_seconds"] == 5
    assert (values["quantum_recorder_waiting"], values["quantum_recorder_gaps_total"]) == (1, 1)
    assert values["quantum_recorder_day_bytes"] == recorder.archive.bytes_of(START.date())
    assert values["quantum_recorder_free_bytes"] > 0
    assert values["quantum_recorder_archive_bytes"] == values["quantum_recorder_day_bytes"] > 0
    assert values["quantum_recorder_archive_max_bytes"] == store.settings.recorder_max_gb * 1e9
    assert values["quantum_recorder_stuck"] == 0
    store.client.hset(STATE, "trouble", "no room")
    assert shown()["quantum_recorder_stuck"] == 1


def test_the_size_of_the_archive_counts_every_day(store: RedisStore, running: Recorder, clock: Clock) -> None:
    """RECORDER_MAX_GB is of all of them; days that nobody compacts are never removed, and would fill the disk unseen."""
    leave(store)
    running.round()
    clock.advance(86_400)
    leave(store)
    running.round()
    running.round()
    days = running.archive.days()
    assert len(days) == 2
    assert read_state(store).archive_bytes == sum(map(running.archive.bytes_of, days))
    again = Recorder(store)
    running._end()
    again.round()
    assert again.earlier_bytes + again.day_bytes == sum(map(running.archive.bytes_of, days))
    again._end()


def test_prometheus_alerts_when_the_watcher_does() -> None:
    """The same limits on both ways, or an operator hears two stories."""
    rules = (Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml").read_text()
    assert f'quantum_recorder_waiting{{job="quantum-governor"}} > {WAITING_SHARE * RECORDER_STREAM_MAXLEN:.0f}\'' in rules
    assert f'quantum_recorder_age_seconds{{job="quantum-governor"}} > {SILENT_SEC:.0f}\'' in rules


def test_the_deployment_on_one_machine_has_a_recorder_unless_it_is_off(make_store: Callable[..., RedisStore]) -> None:
    for on in (True, False):
        names = [one.name for one in processes(make_store(recorder=on).settings, port=3000)]
        assert ("recorder" in names) is on


@pytest.fixture
def quantum(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, in this process; ``log_to_stderr`` would stay for other tests."""
    monkeypatch.setenv("REDIS_URL", store.settings.url)
    monkeypatch.setenv("QUANTUM_HOME", str(store.settings.quantum_home))
    monkeypatch.setattr(command, "log_to_stderr", lambda _: None)
    return lambda *arguments: CliRunner().invoke(cli, ["recorder", *arguments])


def test_the_status_before_and_after(store: RedisStore, quantum: Callable[..., Result]) -> None:
    done = quantum("--status")
    assert (done.exit_code, done.output) == (0, "No recorder has ever run on this Redis. Start it: quantum recorder\n")
    leave(store)
    done = quantum("--once", "--json")
    assert (done.exit_code, json.loads(done.output)["seq"]) == (0, 1)
    done = quantum("--status")
    assert done.exit_code == 0
    assert done.output.startswith("Nothing is wrong.\n")
    assert "up to record 1" in done.output
    store.client.hset(STATE, "damaged", "a/date=2026-01-22/b.parquet does not belong there")
    done = quantum("--status")
    assert done.exit_code == 1
    assert done.output.startswith("In ")
    assert "recorder: a/date=2026-01-22/b.parquet does not belong there.\n" in done.output
    store.client.hset(STATE, "trouble", "a disk that is full")
    done = quantum("--status", "--json")
    assert done.exit_code == 1
    assert "a disk that is full" in json.loads(done.output)["wrong"]


def test_once_and_its_exit_codes(store: RedisStore, quantum: Callable[..., Result], monkeypatch) -> None:
    leave(store)
    assert quantum("--once").exit_code == 0
    store.client.set("quantum:recorder:lease", "another")
    done = quantum("--once")
    assert (done.exit_code, "recorder of another" in done.output) == (1, True)
    store.client.delete("quantum:recorder:lease")
    (store.settings.recorder_folder / "position.json").write_text("{")
    done = quantum("--once")
    assert (done.exit_code, "position.json is damaged" in done.output) == (1, True)
    assert quantum("--once", "--status").exit_code == 2
    monkeypatch.setenv("RECORDER", "off")
    done = quantum("--once")
    assert (done.exit_code, done.output) == (0, f"{command.OFF}\n")
    assert quantum("--status").output == f"{command.OFF}\n"


def test_a_damaged_position_ends_the_process_with_its_exit_code(store: RedisStore, quantum: Callable[..., Result]) -> None:
    store.settings.recorder_folder.mkdir(parents=True)
    (store.settings.recorder_folder / "position.json").write_text("{")
    done = quantum()
    assert (done.exit_code, "position.json is damaged" in done.output) == (1, True)
    assert "damaged" in what_is_wrong(read_state(store), store.clock().timestamp())


def test_a_user_with_the_rights_of_the_proposals_may_do_all_of_it(store: RedisStore) -> None:
    """As a unit runs it; the reader may look."""
    rights = {line.split()[1]: line.split()[5:] for line in acl(store.keys).splitlines()}
    plain, as_user = store.client, {}
    try:
        for role in (PROPOSALS, READER):
            plain.execute_command("ACL", "SETUSER", role, "on", "nopass", *_joined(rights[role]))
            client = redis.Redis.from_url(store.settings.url.replace("://", f"://{role}:any@"), protocol=2)
            as_user[role] = RedisStore(store.settings, store.clock, client)
        plain.acl_log_reset()
        leave(as_user[PROPOSALS])
        assert Recorder(as_user[PROPOSALS]).once().seq == 1
        assert read_state(as_user[READER]).seq == 1
        assert plain.acl_log() == []
    finally:
        for role, user in as_user.items():
            user.client.close()
            plain.acl_deluser(role)


def _joined(rights: list[str]) -> list[str]:
    """Put a selector, which is written with spaces, into one argument."""
    joined: list[str] = []
    for one in rights:
        if joined and joined[-1].startswith("(") and not joined[-1].endswith(")"):
            joined[-1] += f" {one}"
        else:
            joined.append(one)
    return joined
