"""Runs are started on warm Celery workers over the product's own Redis (or CELERY_BROKER_URL)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Self

import dagster as dg
import dagster_celery.launcher
from celery import Celery
from celery.exceptions import DuplicateTaskNameWarning
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClassData, unpack_value
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG, DAGSTER_CELERY_TASK_ID_TAG
from dagster_celery.tasks import create_execute_job_task

from quantum_core.freshness import PARTS
from quantum_core.settings import Settings, load_settings
from resources.instance.broker import broker_arguments
from resources.instance.dagster_internals import storage_id

QUEUE = "quantum"  # for the cycle with one shard, and for everything else
QUEUE_TAG = DAGSTER_CELERY_QUEUE_TAG
KEY_PREFIX = "quantum:celery:"  # the broker's own keys stay apart from the published ones, and those of each Dagster instance
SPARE_WORKERS = 2  # beside one for each shard's loop: one for proofs, plans and retention, one for the user interface


def queue_of(shard: int, shards: int) -> str | None:
    """Name the queue of one shard; none when there is only one, the default queue then does."""
    return f"{QUEUE}-{shard}" if shards > 1 else None


def shard_queues(shards: int) -> list[str]:
    """Name the queues of the cycle's shards; none when there is only one."""
    return [name for shard in range(shards) if (name := queue_of(shard, shards)) is not None]


def heartbeat_parts(shards: int) -> list[str]:
    """Name every part that writes a heartbeat; with several shards also the workers of each queue."""
    return [*PARTS, "watch", *shard_queues(shards)]


def queues(shards: int) -> list[str]:
    """Name every queue the workers of one machine listen to."""
    return [QUEUE, *shard_queues(shards)]


def celery_arguments(settings: Settings) -> dict[str, Any]:
    """Give the Celery application's arguments, the same for the launcher and the workers."""
    bounded = {"global_keyprefix": KEY_PREFIX, "socket_timeout": 5, "socket_connect_timeout": 1, "socket_keepalive": True}
    broker = broker_arguments(settings, bounded)
    return {
        "broker": broker.pop("broker_url"),
        "backend": "disabled://",  # Dagster knows how a run ended; what nobody reads can neither fail nor be lost in a failover
        "default_queue": QUEUE,
        "config_source": {
            "task_default_queue": QUEUE,
            "task_ignore_result": True,
            "worker_prefetch_multiplier": 1,
            "broker_connection_retry_on_startup": True,
            "worker_hijack_root_logger": False,
            "worker_redirect_stdouts": False,
            "task_publish_retry": False,
            **broker,
        },
    }


warnings.filterwarnings("ignore", category=DuplicateTaskNameWarning)  # each instance's launcher registers the task
# It makes the task anew for each run, and Celery keeps each one for ever: 1 KB per run.
vars(dagster_celery.launcher)["create_execute_job_task"] = cache(create_execute_job_task)


def keep_apart(app: Celery, instance: dg.DagsterInstance) -> None:
    """Use queues of this instance only: a worker of another one would take its runs and not find them.

    Otherwise two deployments on one Redis, each with its own storage, lose half of their runs to each other.
    """
    options = app.conf.broker_transport_options
    app.conf.broker_transport_options = {**options, "global_keyprefix": f"{KEY_PREFIX}{storage_id(instance)[:8]}:"}


def has_warm_workers(instance: dg.DagsterInstance) -> bool:
    """Whether runs go to warm workers; with another launcher, as plain ``dagster dev`` has, each run starts an interpreter."""
    if not instance.is_persistent:
        return isinstance(instance.run_launcher, WarmRunLauncher)
    return _is_warm(instance.get_ref().run_launcher_data)


@cache
def _is_warm(configured: ConfigurableClassData | None) -> bool:
    """Answer for a persistent instance without building its launcher: each tick of a sensor has an instance of its own."""
    if configured is None:
        return False
    launcher = getattr(import_module(configured.module_name), configured.class_name)
    return issubclass(launcher, WarmRunLauncher)


def run_id_of(task_arguments: Mapping[str, Any]) -> str:
    """Give the id of the run that a task of Dagster's executes or resumes, from the task's arguments."""
    (packed,) = task_arguments.values()
    return str(unpack_value(packed, as_type=(ExecuteRunArgs, ResumeRunArgs)).run_id)


class WarmRunLauncher(CeleryRunLauncher):
    """Dagster's Celery run launcher, configured by the product's settings instead of a second copy of them."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(**celery_arguments(load_settings()), inst_data=inst_data)

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Learn which instance it launches runs of."""
        super().register_instance(instance)
        keep_apart(self.celery, instance)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Say no: Celery's results are ignored. Workers fail runs of a dead one, and the sensors those that take too long."""
        return False

    def get_run_worker_debug_info(
        self,
        run: dg.DagsterRun,  # noqa: ARG002 - Dagster's API
        include_container_logs: bool | None = True,  # noqa: ARG002, FBT001, FBT002
    ) -> str | None:
        """Give nothing, for the same reason."""
        return None

    def terminate(self, run_id: str) -> bool:
        """Stop a run; one that has not been handed over cannot be stopped yet."""
        run = self._instance.get_run_by_id(run_id)
        return run is not None and DAGSTER_CELERY_TASK_ID_TAG in run.tags and super().terminate(run_id)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Accept no configuration: settings have one home."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> Self:  # noqa: ARG003 - Dagster's API
        """Build the launcher for an instance."""
        return cls(inst_data=inst_data)
