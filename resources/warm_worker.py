"""The Celery application of the warm workers: ``celery -A resources.warm_worker worker``.

Everything a run needs is imported here, before the pool forks, so that a run starts computing at once.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from celery.signals import setup_logging, worker_process_init
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

import definitions  # noqa: F401 - imported for its cost: the forked children find it warm
from resources.launcher import celery_arguments
from resources.settings import load_settings
from resources.tether import die_with_parent


def _application() -> Any:
    arguments = celery_arguments(load_settings())
    app = make_app(  # type: ignore[no-untyped-call]
        {**arguments, "task_default_queue": arguments.pop("default_queue")}
    )
    create_execute_job_task(app)
    create_resume_job_task(app)
    return app


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log_plainly(**_: Any) -> None:
    logging.basicConfig(level=load_settings().log_level, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # every instance opened by a run says hello
    warnings.filterwarnings("ignore", module="dagster")  # its notices about beta parameters, once per run, drown the rest


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _tie_to_parent(**_: Any) -> None:
    die_with_parent()


app = _application()
