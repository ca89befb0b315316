"""What keeps a worker well for months: children are recycled, and nothing but JSON is read."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from celery import Celery
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from quantum_core.settings import load_settings
from resources.instance.launcher import celery_arguments, keep_apart

WORKER_ALL_TOO_SMALL = """
from pathlib import Path
from kombu.transport.redis import MultiChannelPoller
from quantum_ops.processes import warm_worker
stock, stumble = MultiChannelPoller.on_readable, Path(warm_worker.load_settings().quantum_home) / "stumble"
def on_readable(self, fileno):
    if stumble.exists():
        stumble.unlink()
        raise ValueError("a fault of the link")
    return stock(self, fileno)
MultiChannelPoller.on_readable = on_readable
assert warm_worker.app.conf.worker_max_memory_per_child == warm_worker.MEMORY_PER_CHILD_KB
warm_worker.app.conf.worker_max_memory_per_child = 1
warm_worker.app.conf.update(result_backend=warm_worker.load_settings().url, task_ignore_result=False)  # for what pings return
warm_worker.app.worker_main(["--quiet", "worker", "--without-gossip", "--without-mingle"])
"""


class Worker:
    """A real worker whose children are over their memory limit from the start, and what it has said."""

    def __init__(self, process: subprocess.Popen[str], url: str, home: str) -> None:
        self.process, self.home = process, home
        self.said: list[str] = []
        arguments = celery_arguments(load_settings(redis_url=url))
        del arguments["default_queue"]
        self.sender = Celery("sender", set_as_current=False, **{**arguments, "backend": url})
        with dg.DagsterInstance.from_config(home) as instance:
            keep_apart(self.sender, instance)

    def says(self, words: str) -> bool:
        """Read on to these words."""
        for line in self.process.stderr:
            self.said.append(line)
            if words in line:
                return True
        return False

    def ping(self, serializer: str = "json") -> Any:
        """Send a task of Celery's own, which Dagster's application registers."""
        return self.sender.send_task("celery.ping", serializer=serializer)

    def children(self) -> set[psutil.Process]:
        """Give the processes of its pool."""
        return set(psutil.Process(self.process.pid).children())


def leave_behind(home: str, task_id: str, executor: str) -> None:
    """Leave a run that is under way, and the note of who executes it."""
    folder = Path(home) / "executing"
    folder.mkdir(exist_ok=True)
    (folder / task_id).write_text(executor)
    with dg.DagsterInstance.from_config(home) as instance:
        tags = {DAGSTER_CELERY_TASK_ID_TAG: task_id}
        instance.add_run(dg.DagsterRun("cycle", task_id, status=dg.DagsterRunStatus.STARTED, tags=tags))


@pytest.fixture(scope="module")
def worker(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Start it once; that takes seconds."""
    home = str(tmp_path_factory.mktemp("home"))
    (Path(home) / "dagster.yaml").touch()
    leave_behind(home, "dead", f"{2**22 + 1}@{socket.gethostname()}")
    leave_behind(home, "alive", f"{os.getpid()}@{socket.gethostname()}")
    leave_behind(home, "elsewhere", f"{2**22 + 1}@another-host")
    environment = {"REDIS_URL": valkey_url, "QUANTUM_HOME": home, "DAGSTER_HOME": home}
    command = [sys.executable, "-c", WORKER_ALL_TOO_SMALL]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        worker = Worker(process, valkey_url, home)
        assert worker.says("ready"), worker.said
        yield worker
        process.terminate()


@pytest.mark.slow
def test_a_child_over_its_memory_limit_is_replaced_aloud(worker: Worker) -> None:
    """A leak of some megabytes a day must not end in the kernel's choice of a victim."""
    before = worker.children()
    assert worker.ping().get(timeout=20) == "pong"
    assert worker.says("exceeding memory limit"), worker.said
    assert worker.ping().get(timeout=20) == "pong"
    assert worker.children() != before


@pytest.mark.slow
def test_a_worker_that_starts_fails_the_runs_of_a_dead_one_and_no_other(worker: Worker) -> None:
    """A killed worker tells nobody, and results of Celery, which knew it, are ignored."""
    assert worker.ping().get(timeout=20) == "pong"
    with dg.DagsterInstance.from_config(worker.home) as instance:
        failed = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))}
    assert failed == {"dead"}
    assert {path.name for path in (Path(worker.home) / "executing").iterdir()} == {"alive", "elsewhere"}


@pytest.mark.slow
def test_a_pickled_task_is_refused_so_that_root_needs_no_warning(worker: Worker) -> None:
    """Unpickling runs what it is sent: who reaches Redis would own the machine."""
    worker.ping(serializer="pickle")
    assert worker.says("Refusing to deserialize"), worker.said
    assert worker.ping().get(timeout=20) == "pong"
    assert "SecurityWarning" not in "".join(worker.said)


@pytest.mark.slow
def test_an_error_of_the_link_that_celery_does_not_know_ends_no_worker(worker: Worker) -> None:
    """In a failover it ended one, which cost ten seconds and the runs under way."""
    stumble = Path(worker.home) / "stumble"
    stumble.touch()
    worker.ping()
    assert worker.says("a fault of the link"), worker.said
    assert not stumble.exists()
    assert worker.ping().get(timeout=20) == "pong"
    assert worker.process.poll() is None


def test_a_run_that_is_being_handed_to_a_worker_is_no_fault(instance: dg.DagsterInstance) -> None:
    """Its task has no name yet: the daemon printed KeyError('dagster-celery/task_id')."""
    run = dg.DagsterRun("cycle", status=dg.DagsterRunStatus.STARTING)
    instance.add_run(run)
    assert not instance.run_launcher.supports_check_run_worker_health
    assert instance.run_launcher.terminate(run.run_id) is False
