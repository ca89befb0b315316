"""An archive in an object store, on a real S3 server: `pipx install 'moto[server]'` and the extra ``s3``."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from quantum_assets.recorded.history import first_day
from quantum_core.exit_codes import EXIT_INFRASTRUCTURE, EXIT_USAGE
from quantum_core.settings import SettingsError, load_settings
from quantum_ops.processes.recorder import Recorder
from quantum_ops.sealed_page import verify
from resources.recorder import archive as archive_module
from resources.recorder import storage
from resources.recorder.archive import Archive, Position
from resources.recorder.records import Record, append
from resources.recorder.state import read_state, what_is_wrong
from resources.recorder.verification import Verifier
from resources.store.redis_store import RedisStore
from tests.commands import run_command
from tests.conftest import START
from tests.recorder.recording import lived
from tests.servers import free_port, need, valkey
from tests.waiting import wait_for

ADDRESS, SECRET = "s3://bucket/desk/recorder", "planted-object-secret"
DAY, KILLS, WRITER = START.date(), 15, "a-process"


class Bucket:
    """A server with one empty bucket."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self) -> None:
        command = [need("moto_server"), "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("the S3 server", self.makes_bucket, 60, 0.05)

    def makes_bucket(self) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/bucket", method="PUT")
        with suppress(OSError):
            return urllib.request.urlopen(request).status == 200  # noqa: S310 - our own server
        return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "a-user",
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    if find_spec("obstore") is None or find_spec("upath") is None:
        (pytest.fail if "ALL_PROGRAMS" in os.environ else pytest.skip)("the extra s3 is not installed")
    one = Bucket()
    storage._bucket.cache_clear()  # of another test's server
    for name, value in one.environment.items():
        monkeypatch.setenv(name, value)
    yield one
    one.stop()


def rows(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame({"symbol": ["BTCUSDT"] * len(numbers), "seq": numbers, "sigma": [0.1 * one for one in numbers]})


@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_an_archive_does_there_what_it_does_in_a_folder() -> None:
    """Flush, commit, leftovers, compaction, chain, tampering, retention: nothing of it may need a rename."""
    archive = Archive(ADDRESS)
    assert archive.position() == Position()
    for flush, day in enumerate((DAY, DAY, DAY + timedelta(days=1), DAY + timedelta(days=2)), start=1):
        size = archive.write({"market_state": rows(2 * flush, 2 * flush - 1)}, Position(flush, 2 * flush, {"s": "1-1"}, str(day)))
        assert size > 0
    assert archive.position().flush == 4
    left = archive.folder("market_state", DAY + timedelta(days=2)) / "part-000000000005.parquet"
    storage.write_whole(left, b"of a killed recorder")
    assert archive.remove_uncommitted() == [left]
    assert archive.days() == [DAY + timedelta(days=number) for number in range(3)]
    for number in range(2):
        archive.compact(DAY + timedelta(days=number))
    assert archive.read("market_state", [DAY]).collect()["seq"].to_list() == [1, 2, 3, 4]
    assert [path.name for path in archive.files("market_state", DAY)] == ["day.parquet"]
    assert list(archive.verify()) == []
    verifier = Verifier(archive.root, time.time())
    assert (list(verifier.verify()), verifier.compared, verifier.hashed) == ([], 2, 2)
    again = Verifier(archive.root, time.time())
    assert (list(again.verify()), again.compared, again.hashed) == ([], 2, 0)
    path = archive.files("market_state", DAY)[0]
    storage.write_whole(path, path.read_bytes()[:-1] + b"?")
    assert [fault.what for fault in archive.verify()] == ["is not as it was written"]
    assert archive.bytes_of(DAY) == path.stat().st_size
    assert archive.prune(keep_days=2, max_bytes=1e9) == [DAY]
    assert archive.days() == [DAY + timedelta(days=number) for number in (1, 2)]
    assert list(archive.verify()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_a_part_that_cannot_be_read_is_set_aside() -> None:
    archive = Archive(ADDRESS)
    archive.write({"market_state": rows(1)}, Position(1, 1, {}, str(DAY)))
    archive.write({"market_state": rows(2)}, Position(2, 2, {}, str(DAY)))
    storage.write_whole(archive.files("market_state", DAY)[0], b"no parquet")
    manifest = archive.compact(DAY)
    assert [one["file"] for one in manifest["set_aside"]] == [f"market_state/date={DAY}/part-000000000001.parquet"]
    aside = archive.root / "set-aside" / manifest["set_aside"][0]["file"]
    assert aside.read_bytes() == b"no parquet"
    assert archive.read("market_state").collect()["seq"].to_list() == [2]


@pytest.mark.slow
def test_a_store_that_is_away_is_no_damage(bucket: Bucket) -> None:
    """What cannot be reached must not be set aside, and its part then removed."""
    archive = Archive(ADDRESS)
    archive.write({"market_state": rows(1)}, Position(1, 1, {}, str(DAY)))
    parts = archive.files("market_state", DAY)
    bucket.stop()
    with pytest.raises((OSError, *storage.UNREACHABLE)):
        archive._joined(parts, DAY, damaged := [])
    assert damaged == []
    assert first_day(archive, date(2026, 2, 1)) == date(2026, 2, 1)  # the pipeline is loaded all the same
    bucket.start()


@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("table", ["market_state", "another"])
def test_of_two_recorders_without_a_lock_one_commits(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """The lease may lapse while a slow store takes a flush; whoever is late must neither roll back nor write over."""
    slow, quick, real = Archive(ADDRESS), Archive(ADDRESS), archive_module.write_parquet

    def late(frame: pl.DataFrame, path: Path) -> None:
        monkeypatch.setattr(archive_module, "write_parquet", real)
        quick.write({"market_state": rows(1, 2)}, Position(1, 2, {}, str(DAY)))
        real(frame, path)

    monkeypatch.setattr(archive_module, "write_parquet", late)
    with pytest.raises(storage.SupersededError):
        slow.write({table: rows(1)}, Position(1, 1, {}, str(DAY)))
    assert quick.position().seq == 2
    assert quick.read("market_state").collect()["seq"].to_list() == [1, 2]


PROGRAM = """
from quantum_ops.processes import recorder as r
from quantum_ops.cli import main
r.POLL_SEC = 0.0; r.Recorder._is_time = lambda _: True
main(['recorder'])
"""
BEFORE_COMMIT = """
import os, signal
from resources.recorder import storage
real = storage.write_whole
def dies(path, content, **more):
    if path.name == "position.json":
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, content, **more)
storage.write_whole = dies
from quantum_ops.cli import main
main(['recorder', '--once'])
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_lose_and_double_nothing(bucket: Bucket, tmp_path: Path) -> None:
    """Also one between the upload of every part and the commit: the next recorder removes them and reads the same again."""
    with valkey() as server:
        store = RedisStore(load_settings(redis_url=server.connection_url, quantum_home=tmp_path, recorder_url=ADDRESS))
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ},
            **bucket.environment,
            "REDIS_URL": server.connection_url,
            "QUANTUM_HOME": str(tmp_path),
            "RECORDER_URL": ADDRESS,
        }
        stop, left = threading.Event(), [0]

        def write() -> None:
            chance = random.Random(1)
            while not stop.is_set():
                if store.client.xlen("quantum:stream:recorder") < 500:
                    tables = {name: pl.DataFrame({"number": [left[0]]}) for name in ("one", "two")}
                    append(store, Record("a", "s", str(left[0]), "run", time.time(), {}, tables, full=True), token=WRITER)
                    left[0] += 1
                stop.wait(chance.uniform(0, 0.02))

        def run(program: str, *, kill: bool) -> int:
            process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
            try:
                if kill:
                    before = archive.position().flush
                    wait_for("a flush of this recorder", lambda: archive.position().flush > before, 60, 0.02)
                    time.sleep(chance.uniform(0, 0.3))
                    process.send_signal(signal.SIGKILL)
                return process.wait(60)
            finally:
                process.kill()

        writer, archive, chance = threading.Thread(target=write), Archive(ADDRESS), random.Random(7)
        writer.start()
        try:
            deaths = [run(PROGRAM, kill=True) for _ in range(KILLS)]
            deaths.append(run(BEFORE_COMMIT, kill=False))
        finally:
            stop.set()
            writer.join()
        assert deaths == [-signal.SIGKILL] * (KILLS + 1)
        flush = archive.position().flush
        parts = archive.root.glob(f"*/date=*/part-{flush + 1:012d}.parquet")
        assert {path.parent.parent.name for path in parts} >= {"records", "one", "two"}  # uploaded, not committed
        assert run("from quantum_ops.cli import main; main(['recorder', '--once'])", kill=False) == 0
        assert store.client.xlen("quantum:stream:recorder") == 0
        assert archive.read("gaps").collect().width == 0
        assert archive.read("records").collect()["seq"].sort().to_list() == list(range(1, left[0] + 1))
        for table in ("one", "two"):
            assert archive.read(table).collect()["number"].sort().to_list() == list(range(left[0]))
        assert archive.remove_uncommitted() == []
        store.client.close()


@pytest.mark.slow
def test_a_store_that_is_away_is_named_and_what_is_not_written_waits(bucket: Bucket, make_store, monkeypatch) -> None:
    monkeypatch.setattr(storage, "RETRIES", 0)
    monkeypatch.setattr(Recorder, "_is_time", lambda _: True)
    monkeypatch.setattr("quantum_ops.processes.recorder.REPORT_SEC", 0.0)
    store = make_store(recorder_url=ADDRESS)
    recorder = Recorder(store)
    recorder.round()
    append(store, Record("a", "s", "c", "r", START.timestamp(), {}, {"one": pl.DataFrame({"x": [1]})}, full=True), token=WRITER)
    bucket.stop()
    recorder.round()
    state = read_state(store)
    assert "The recorder writes nothing: s3://bucket/desk/recorder cannot be written" in what_is_wrong(state, START.timestamp())
    assert (state.seq, state.waiting, state.free_bytes) == (0, 1, None)
    bucket.start()
    recorder.round()
    assert what_is_wrong(read_state(store), START.timestamp()) == ""
    assert recorder.archive.read("one").collect()["x"].to_list() == [1]
    said = str(store.client.hgetall("quantum:recorder:state"))
    assert SECRET not in said
    recorder._end()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_commands_read_it_and_no_secret_is_shown_or_recorded(bucket: Bucket, tmp_path: Path, valkey_url: str) -> None:
    folder = lived(tmp_path / "lived", valkey_url, 3)
    root = Archive(ADDRESS).root
    for path in (folder / "recorder").rglob("*.*"):
        if path.is_file():
            storage.write_whole(root / str(path.relative_to(folder / "recorder")), path.read_bytes())
    environment = {"RECORDER_URL": ADDRESS, "QUANTUM_HOME": str(tmp_path), **bucket.environment}
    page, tar = tmp_path / "report.html", tmp_path / "day.tar"
    hour = ("--from", "2026-01-22T11:30", "--to", "2026-01-22T12:30")
    Archive(ADDRESS).compact(DAY)
    shown = []
    for command in (
        ("at", "2026-01-22T12:00:30"),
        ("history", "BTCUSDT", *hour),
        ("history", "BTCUSDT", *hour, "--asset", "settings", "--format", "json"),
        ("export", str(DAY), "--out", str(tar)),
        ("rerun", "--from", "2026-01-22T11:50", "--to", "2026-01-22T12:30", "--jobs", "2"),  # processes of their own
        ("prove", "--report", str(page), "--day", str(DAY)),
    ):
        done = run_command(*command, environment=environment)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        shown.append(done.stdout + done.stderr)
    assert verify(page.read_text(encoding="utf-8"))
    assert SECRET not in "".join(shown) + page.read_text(encoding="utf-8")
    assert SECRET.encode() not in tar.read_bytes()
    bucket.stop()
    away = run_command("at", "2026-01-22T12:00:30", environment=environment)
    assert away.returncode == EXIT_INFRASTRUCTURE, away.stderr
    assert "127.0.0.1" in away.stderr
    assert SECRET not in away.stderr
    bucket.start()


@pytest.mark.parametrize(
    "address", ["s3://user:planted@bucket/x", "s3://bucket/x?key=planted", "ftp://planted/x", "s3://", "s3:///"]
)
def test_an_address_with_a_secret_or_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(recorder_url=address)
    assert "planted" not in str(refused.value)
    assert "s3://bucket/prefix" in str(refused.value)


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore.fsspec", None)
    done = run_command("at", "now", environment={"RECORDER_URL": ADDRESS, "QUANTUM_HOME": str(tmp_path)})
    assert done.returncode == EXIT_USAGE
    assert "pip install 'quantum-risk-pipeline[s3]'" in done.stderr
