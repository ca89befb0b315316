"""What keeps a worker well for months: children are recycled, and nothing but JSON is read."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from celery import Celery

from resources.launcher import celery_arguments, keep_apart
from resources.settings import load_settings

WORKER_ALL_TOO_SMALL = """
from resources import warm_worker
assert warm_worker.app.conf.worker_max_memory_per_child == warm_worker.MEMORY_PER_CHILD_KB
warm_worker.app.conf.worker_max_memory_per_child = 1
warm_worker.app.conf.update(result_backend=warm_worker.load_settings().url, task_ignore_result=False)  # for what pings return
warm_worker.app.worker_main(["--quiet", "worker", "--without-gossip", "--without-mingle"])
"""


class Worker:
    """A real worker whose children are over their memory limit from the start, and what it has said."""

    def __init__(self, process: subprocess.Popen[str], url: str, home: str) -> None:
        self.process = process
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


@pytest.fixture(scope="module")
def worker(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Start it once; that takes seconds."""
    home = str(tmp_path_factory.mktemp("home"))
    (Path(home) / "dagster.yaml").touch()
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


def test_a_pickled_task_is_refused_so_that_root_needs_no_warning(worker: Worker) -> None:
    """Unpickling runs what it is sent: who reaches Redis would own the machine."""
    worker.ping(serializer="pickle")
    assert worker.says("Refusing to deserialize"), worker.said
    assert worker.ping().get(timeout=20) == "pong"
    assert "SecurityWarning" not in "".join(worker.said)


def test_a_run_that_is_being_handed_to_a_worker_is_no_fault(instance: dg.DagsterInstance) -> None:
    """Its task has no name yet: the daemon printed KeyError('dagster-celery/task_id')."""
    run = dg.DagsterRun("cycle", status=dg.DagsterRunStatus.STARTING)
    instance.add_run(run)
    assert not instance.run_launcher.supports_check_run_worker_health
    assert instance.run_launcher.terminate(run.run_id) is False
