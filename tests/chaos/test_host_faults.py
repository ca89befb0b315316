"""Faults of the host, on the whole deployment: its clock is set, its event log is locked. Nothing is restarted by hand."""

import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest
import redis

from benchmarks.chaos import family
from quantum_core.settings import load_settings
from resources.store.redis_store import texts
from tests.servers import free_port
from tests.stepped_clock import SteppedClock
from tests.world import SAMPLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOCKED_SEC = 40

log = logging.getLogger(__name__)


class Deployment:
    """One ``quantum up`` with examples, under a clock of the test's."""

    def __init__(self, folder: Path) -> None:
        self.clock = SteppedClock(folder)
        self.home = folder / "q"
        self.log = folder / "up.log"
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "QUANTUM_HOME": str(self.home), "ALLOW_SYNTHETIC": "true"}
        command = [
            sys.executable,
            "-m",
            "quantum_ops.cli",
            "up",
            "--replay",
            str(SAMPLE),
            "--examples",
            "--port",
            str(free_port()),
        ]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env={**environment, "WATCH_PORT": "0", **self.clock.environment}, stdout=output, stderr=output, cwd="/"
            )
        self.settings = load_settings(quantum_home=self.home)
        self.wait("the server", self.settings.embedded_url_file.exists)
        self.client = redis.Redis.from_url(self.settings.url)
        self.wait("the first cycle", lambda: self.beat() > 0)

    def beat(self) -> float:
        """Give the end of the last cycle, by the deployment's clock."""
        with suppress(redis.RedisError):
            return float(self.client.get("quantum:heartbeat:cycle") or 0)
        return 0.0

    def told(self) -> list[tuple[str, str]]:
        """Give the alerts so far: event and alert."""
        entries = [texts(fields) for _, fields in self.client.xrange("quantum:stream:alerts")]
        return [(entry["event"], entry["alert"]) for entry in entries]

    def wait(self, what: str, check: Callable[[], bool], within_sec: float = 400) -> float:
        """Wait, and give how long it took."""
        began = time.monotonic()
        while not check():
            assert time.monotonic() - began < within_sec, f"waited for {what}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)
        return time.monotonic() - began

    def cycles_from_now(self) -> float:
        """Wait for two cycles that end by the clock as it is now, and give how long the first took."""
        began, took = self.now(), 0.0
        for _ in range(2):
            last = self.beat()
            took = took or self.wait("a cycle", lambda last=last: self.beat() != last and abs(self.beat() - self.now()) < 60)
        assert self.now() >= began
        return took

    def now(self) -> float:
        """Give the deployment's time."""
        return time.time() + self.offset

    offset = 0.0

    def set_clock(self, seconds: float) -> None:
        """Set it."""
        self.offset = seconds
        self.clock.set(seconds)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    running = None
    try:
        running = Deployment(tmp_path)
        yield running
    finally:
        for pid in family(tmp_path / "q"):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        if running is not None:
            running.process.wait(20)


def test_a_clock_that_is_set_back_and_forward_stops_nothing(deployment: Deployment) -> None:
    """Dagster's sensors waited for the old time: no cycle for an hour, and nothing said why."""
    for times, offset in enumerate((-3600.0, 0.0), 1):
        deployment.set_clock(offset)
        log.warning("clock set to %+.0f s: a cycle after %.1f s", offset, deployment.cycles_from_now())
        for event in ("raised", "cleared"):
            deployment.wait(f"{event} clock", lambda event=event, times=times: deployment.told().count((event, "clock")) == times)
    assert deployment.told().count(("raised", "daemon")) == 0
    assert deployment.log.read_text().count("the clock was set back: the last tick lies") == 1


def test_a_locked_event_log_is_one_alert_and_leaves_no_run_behind(deployment: Deployment) -> None:
    """Runs were created and failed to launch; nobody was told why, and some stayed in STARTING."""
    before = deployment.told()
    with closing(sqlite3.connect(deployment.home / "history" / "event_log.db", isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCKED_SEC)
        other.execute("ROLLBACK")
    log.warning("event log free again: a cycle after %.1f s", deployment.cycles_from_now())
    deployment.wait("the end of the alert", lambda: ("cleared", "event_log") in deployment.told())
    raised = [alert for event, alert in deployment.told()[len(before) :] if event == "raised"]
    assert [alert for alert in raised if not alert.startswith("stop_crossed")] == ["event_log"]  # the examples cross stops
    began = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        then = max(record.create_timestamp for record in instance.get_run_records(limit=1))

        def left() -> list[str]:
            return [run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=list(began), created_before=then))]

        deployment.wait("every run of before to end", lambda: not left())
