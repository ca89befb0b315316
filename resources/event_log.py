"""Moved to ``resources.instance.event_log``. Instance folders made by 0.1 name it in their dagster.yaml; goes with 0.3."""

from resources.instance.event_log import BatchedPostgresEventLogStorage, BatchedSqliteEventLogStorage

__all__ = ["BatchedPostgresEventLogStorage", "BatchedSqliteEventLogStorage"]
