"""A recorder that is killed again and again loses nothing and doubles nothing."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from quantum_core.settings import load_settings
from resources.recorder.archive import Archive
from resources.recorder.records import Record, append
from resources.store.redis_store import RedisStore
from tests.servers import valkey
from tests.waiting import wait_for

KILLS, WRITERS = 100, 4


@pytest.fixture
def server() -> Iterator[str]:
    """A Valkey of our own: the recorders outlive nobody's flush of it."""
    with valkey() as one:
        yield one.connection_url


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_kills_lose_and_double_nothing(server: str, tmp_path: Path) -> None:
    """Killed at random moments, so also between a file and its name, a name and its commit, a commit and its trim."""
    url = {"redis_url": server, "quantum_home": tmp_path}
    stop, left, refused = threading.Event(), [0] * WRITERS, []

    def write(writer: int) -> None:
        store, chance = RedisStore(load_settings(**url)), random.Random(writer)
        while not stop.is_set():
            if store.client.xlen("quantum:stream:recorder") > 500:  # the cap is another matter
                stop.wait(0.05)
                continue
            rows = {name: pl.DataFrame({"writer": [writer], "number": [left[writer]]}) for name in ("one", "two")}
            record = Record("a", f"slot-{writer}", str(left[writer]), "run", time.time(), {}, rows, full=True)
            if not append(store, record, token=str(writer)):
                refused.append(record)
            left[writer] += 1
            stop.wait(chance.uniform(0, 0.02))
        store.client.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for one in writers:
        one.start()
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "REDIS_URL": server,
        "QUANTUM_HOME": str(tmp_path),
        "RECORDER_FLUSH_SEC": "1",
    }
    program = (  # the same process, that polls and flushes as fast as it can
        "from quantum_ops.processes import recorder as r; from quantum_ops.cli import main\n"
        "r.POLL_SEC = 0.0; r.Recorder._is_time = lambda _: True\n"
        "main(['recorder'])"
    )
    chance, archive, deaths = random.Random(7), Archive(tmp_path / "recorder"), []
    log = tmp_path / "recorder.log"
    try:
        for _ in range(KILLS):
            before = archive.position().flush
            with log.open("ab") as said:
                process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=said, stderr=said)
            try:
                wait_for("a flush of this recorder", lambda before=before: archive.position().flush > before, 60, 0.01)
                time.sleep(chance.uniform(0, 0.2))
            finally:
                process.send_signal(signal.SIGKILL)
                deaths.append(process.wait(30))
    finally:
        stop.set()
        for one in writers:
            one.join()
    assert deaths == [-signal.SIGKILL] * KILLS
    assert refused == []
    done = subprocess.run(
        [sys.executable, "-m", "quantum_ops.cli", "recorder", "--once"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    store = RedisStore(load_settings(**url))
    assert store.client.xlen("quantum:stream:recorder") == 0
    assert int(store.client.get("quantum:recorder:seq")) == sum(left)
    store.client.close()
    assert archive.read("gaps").collect().width == 0, log.read_text()
    assert archive.read("records").collect()["seq"].sort().to_list() == list(range(1, sum(left) + 1))
    expected = sorted((writer, number) for writer in range(WRITERS) for number in range(left[writer]))
    for table in ("one", "two"):
        rows = archive.read(table).collect()
        assert sorted(rows.select("writer", "number").rows()) == expected
        assert rows["seq"].n_unique() == len(rows)
    assert list(archive.verify()) == []
    assert archive.remove_uncommitted() == []
