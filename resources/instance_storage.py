"""Moved to ``resources.instance.instance_storage``. Instance folders made by 0.1 name it in their dagster.yaml; goes with 0.3."""

from resources.instance.instance_storage import (
    PooledPostgresRunStorage,
    PooledPostgresScheduleStorage,
    PooledSqliteRunStorage,
    PooledSqliteScheduleStorage,
)

__all__ = ["PooledPostgresRunStorage", "PooledPostgresScheduleStorage", "PooledSqliteRunStorage", "PooledSqliteScheduleStorage"]
