"""The Celery application of the warm workers: ``celery -A quantum_ops.processes.warm_worker worker``.

Everything a run needs is imported here, before the pool forks, so that a run starts computing at once. A worker that dies says
so: a lost child fails its run at once, a worker that starts fails the runs its predecessor on this host left behind.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from celery.platforms import SecurityWarning
from celery.signals import (
    celeryd_init,
    setup_logging,
    task_failure,
    task_postrun,
    task_prerun,
    worker_init,
    worker_process_init,
    worker_ready,
)
from celery.utils.log import get_multiprocessing_logger
from celery.worker.consumer import Consumer
from dagster_celery.config import TASK_EXECUTE_JOB_NAME, TASK_RESUME_JOB_NAME
from dagster_celery.make_app import make_app
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

import definitions  # noqa: F401 - imported for its cost: the forked children find it warm
from quantum_core.logs import log_to_stderr
from quantum_core.settings import load_settings
from quantum_ops.processes.tether import die_with_parent
from resources.instance.engines import DATABASES
from resources.instance.launcher import QUEUE, SPARE_WORKERS, celery_arguments, keep_apart, queues, run_id_of
from resources.store.awaited import ring_if_awaited
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError, said_by

RUNS_PER_CHILD = 2_000  # then a child is forked anew from its warm parent, about every 6 hours: what leaks is bounded
MEMORY_PER_CHILD_KB = 600_000  # resident; bounds a greedy run, too. A warm child has 200,000 with 3 symbols, 242,000 with 566
GARBAGE_LOOKED_FOR_EVERY = 50_000  # allocations; Python's own 700 cost a twentieth of a cycle, whose garbage has no cycles
HEARTBEAT_SEC = 5
RUNS = (TASK_EXECUTE_JOB_NAME, TASK_RESUME_JOB_NAME)
RECONNECT_SEC = 1  # Celery's own pause grows to 30 s, three cycles after the broker is back

log = logging.getLogger("quantum.worker")


class EagerConsumer(Consumer):  # type: ignore[misc]
    """Looks for a lost broker every second, and takes every error of its link for a lost one.

    Celery ends the worker for an error that it does not know, and the runs of all its children with it. Whatever fails between
    the broker and the pool, a new link costs a second; a worker that consumes nothing is alerted as a loop that stands still.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.connection_errors = (*self.conninfo.connection_errors, Exception)

    def on_close(self) -> None:
        """Forget what the lost link had brought; called where an error is handled, one of its own would end the worker."""
        try:
            super().on_close()
        except Exception:
            log.exception("what a lost link to the broker had brought was not given back whole")

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes."""

        def said(error: Exception, pause_sec: float) -> None:
            log.warning("broker does not answer (%s), next try in %s s", said_by(error), pause_sec)

        return conn.ensure_connection(said, interval_start=RECONNECT_SEC, interval_step=0, interval_max=RECONNECT_SEC)


def _application() -> Any:
    settings = load_settings()
    arguments = celery_arguments(settings)
    app = make_app(  # type: ignore[no-untyped-call]
        {**arguments, "task_default_queue": arguments.pop("default_queue")}
    )
    app.conf.update(
        accept_content=["json"],
        worker_consumer=EagerConsumer,
        worker_concurrency=settings.shards + SPARE_WORKERS,
        worker_max_tasks_per_child=RUNS_PER_CHILD,
        worker_max_memory_per_child=MEMORY_PER_CHILD_KB,
    )
    app.select_queues(queues(settings.shards))
    create_execute_job_task(app)
    create_resume_job_task(app)
    with dg.DagsterInstance.get() as instance:
        keep_apart(app, instance)
    return app


@celeryd_init.connect  # type: ignore[untyped-decorator]
def _need_no_warning_of_root(conf: Any, **_: Any) -> None:
    if conf.accept_content == ["json"]:  # the risk is pickle, which runs what it reads; with it Celery refuses to run as root
        warnings.filterwarnings("ignore", category=SecurityWarning)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log_plainly(**_: Any) -> None:
    log_to_stderr(load_settings().log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # every instance opened by a run says hello
    pool_log = get_multiprocessing_logger()  # says when a child is replaced for its memory, but to nobody unless it is asked to
    pool_log.propagate = True
    pool_log.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="dagster")  # its notices about beta parameters, once per run, drown the rest


@worker_init.connect  # type: ignore[untyped-decorator]
def _spare_the_imported(**_: Any) -> None:
    """Keep the garbage collector off what is there for good: its sweeps took a tenth of a cycle and unshared 40 MB per child."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_LOOKED_FOR_EVERY, 20, 20)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _live_aloud(sender: Any, **_: Any) -> None:
    """Renew a heartbeat of the worker, and one of each queue: the watcher knows nothing of Celery."""
    parts = ["worker", *(name for name in sender.app.amqp.queues.consume_from if name != QUEUE)]

    def beat() -> None:
        store = RedisStore(load_settings())
        while True:
            with suppress(RedisUnavailableError):
                now = store.clock().timestamp()
                store.run("leaving a sign of life", [("SET", store.keys.of("heartbeat", part), now) for part in parts])
            time.sleep(HEARTBEAT_SEC)

    threading.Thread(target=beat, daemon=True, name="heartbeat").start()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _tie_to_parent(**_: Any) -> None:
    die_with_parent()


@cache
def _executing() -> Path:
    """Folder with a file for each run under way; on disk, because Redis may change places meanwhile."""
    folder = load_settings().quantum_home / "executing"
    folder.mkdir(exist_ok=True, mode=0o700, parents=True)
    return folder


@task_prerun.connect  # type: ignore[untyped-decorator]
def _name_the_executor(sender: Any, task_id: str, **_: Any) -> None:
    """Note which process executes a run, which is how a dead one is found."""
    if sender.name in RUNS:
        (_executing() / task_id).write_text(f"{os.getpid()}@{socket.gethostname()}")  # containers may share a folder


@task_postrun.connect  # type: ignore[untyped-decorator]
def _tidy_up_after_a_run(sender: Any, task_id: str, kwargs: Mapping[str, Any], **_: Any) -> None:
    if sender.name in RUNS:
        _ring_the_bell(run_id_of(kwargs))
    DATABASES.checkpoint()
    (_executing() / task_id).unlink(missing_ok=True)


@cache
def _store() -> RedisStore:
    return RedisStore(load_settings())


def _ring_the_bell(run_id: str) -> None:
    """Wake whoever waits for the end of this run."""
    try:
        ring_if_awaited(_store(), run_id)
    except RedisUnavailableError as error:  # the sensor looks again within 5 s
        log.warning("the bell was not rung: %s", error)


@task_failure.connect  # type: ignore[untyped-decorator]
def _fail_run_of_lost_child(task_id: str, exception: BaseException, **_: Any) -> None:
    with dg.DagsterInstance.get() as instance:
        _fail(instance, {task_id}, f"Its worker process was lost: {exception}")


@worker_ready.connect  # type: ignore[untyped-decorator]
def _fail_runs_of_predecessor(**_: Any) -> None:
    dead = {path.name for path in _executing().iterdir() if _is_dead(path.read_text())}
    with dg.DagsterInstance.get() as instance:
        _fail(instance, dead, "Its worker was killed.")
    for task_id in dead:
        (_executing() / task_id).unlink(missing_ok=True)


def _is_dead(executor: str) -> bool:
    """Return whether a process of this host is gone; of other hosts nothing is known."""
    pid, _, host = executor.partition("@")
    return pid.isdecimal() and host == socket.gethostname() and not psutil.pid_exists(int(pid))


def _fail(instance: dg.DagsterInstance, task_ids: set[str], why: str) -> None:
    for task_id in task_ids:
        for run in instance.get_runs(dg.RunsFilter(tags={DAGSTER_CELERY_TASK_ID_TAG: task_id})):
            if not run.is_finished:
                log.error("run %s: %s", run.run_id, why)
                instance.report_run_failed(run, why)


app = _application()
