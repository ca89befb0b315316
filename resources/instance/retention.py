"""Bounded disk, for ever: old runs, events, check results, ticks and logs are deleted, the newest of each kind stays.

Every asset and partition keeps its latest materialization and observation, and every check its latest result, whatever their
age, so that the user interface never shows a live asset as never materialized. A run to which one of these belongs keeps its
record and its status events; of all others nothing stays. How rows are found and deleted is in
``resources/instance/event_log.py``; when to prune is decided by the caller.

Dagster's own event logs, which plain ``dagster dev`` uses where no dagster.yaml of ours is, delete a run as a whole only: there a
run with a latest of its kind stays as it is, and so do old check results and events without a run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from resources.instance.event_log import (
    RUN_STATUS_TYPES,
    RUNLESS,
    SUPERSEDED_BY,
    AnyEventLog,
    BatchedEventLogStorage,
    LatestChecks,
    StoredEvent,
    chunks,
    delete_shard,
    runs_with_latest,
)

FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
ROWS_PER_TRANSACTION = 500  # a writer of the cycle waits for one such delete, about 10 ms
PAUSE_SEC = 0.02  # between transactions, so that a waiting writer gets its turn
PAGES_PER_STEP = 125  # of 16 KiB, given back in one step
SPACE_STEPS = 200  # at most so many steps in one call


LEAST_KEPT = timedelta(minutes=10)


class RetentionError(RuntimeError):
    """The instance's event log cannot be pruned."""


@dataclass(frozen=True)
class PruneResult:
    """What one call of ``prune`` has deleted.

    Attributes
    ----------
    runs
        Runs of which nothing is left.
    thinned_runs
        Old runs that keep a latest materialization, observation or check result.
    events, check_results
        Rows.
    freed_bytes
        Returned to the file system.
    complete
        Whether nothing older than asked for is left to delete.
    """

    runs: int
    thinned_runs: int
    events: int
    check_results: int
    freed_bytes: int
    complete: bool

    @property
    def words(self) -> str:
        """Say it to a person."""
        deleted = f"deleted {self.runs:,} older runs, {self.events:,} events and {self.check_results:,} check results"
        return f"{deleted}, {self.freed_bytes / 1e6:,.1f} MB freed{'' if self.complete else '; the rest follows'}"


def prune(
    instance: dg.DagsterInstance,
    *,
    older_than: datetime,
    job_name: str | None = None,
    batch_runs: int = 50,
    max_runs: int | None = None,
    pause_sec: float = PAUSE_SEC,
) -> PruneResult:
    """Delete what is older than a time and is not the latest of its kind, in short transactions.

    Safe to repeat, to interrupt at any moment and to run beside the cycle. Runs that have not finished are never touched.

    Parameters
    ----------
    instance
        An instance with one of this product's event logs, or one of Dagster's own.
    older_than
        Aware UTC time; runs whose last change is before it are old.
    job_name
        Only runs of this job, and check results; by default everything.
    batch_runs
        Runs looked up at a time.
    max_runs
        Look at no more runs in this call; by default at all of them.
    pause_sec
        Rest after each transaction, in seconds.

    Raises
    ------
    RetentionError
        The instance stores its events in no SQL database.
    """
    log = instance.event_log_storage
    if not isinstance(log, AnyEventLog):
        msg = f"{type(log).__name__} cannot be pruned: configure an event log of resources.instance.event_log in dagster.yaml"
        raise RetentionError(msg)
    pruning: _Pruning | _WholeRuns
    if isinstance(log, BatchedEventLogStorage):
        pruning = _Pruning(instance, log, older_than, pause_sec, job_name)
    else:
        pruning = _WholeRuns(instance, log, older_than, pause_sec, job_name)
    pruned_count = 0
    complete = True
    for run_ids in pruning.old_runs(batch_runs):
        for run_id in run_ids:
            pruning.prune_run(run_id)
        pruned_count += len(run_ids)
        if max_runs is not None and pruned_count >= max_runs:
            complete = False
            break
    if isinstance(pruning, _Pruning):
        pruning.prune_checks()
    if job_name is None:
        if isinstance(pruning, _Pruning):
            pruning.prune_runless()
        pruning.prune_ticks()
    return PruneResult(
        runs=pruning.runs,
        thinned_runs=pruning.thinned,
        events=pruning.events,
        check_results=pruning.check_results,
        freed_bytes=pruning.give_back() if isinstance(pruning, _Pruning) else 0,
        complete=complete,
    )


def prune_to_fit(
    instance: dg.DagsterInstance, *, now: datetime, keep: timedelta, max_bytes: float
) -> tuple[timedelta, PruneResult]:
    """Prune what is older than ``keep``, and keep half as long while the event log is larger than allowed.

    Returns
    -------
    tuple
        What was really kept (LEAST_KEPT at least), and the last result.
    """
    result = prune(instance, older_than=now - keep)
    log = instance.event_log_storage
    while isinstance(log, BatchedEventLogStorage) and keep > LEAST_KEPT and log.size_bytes() > max_bytes:
        keep = max(keep / 2, LEAST_KEPT)
        result = prune(instance, older_than=now - keep)
    return keep, result


class _OldRuns:
    """What one call of ``prune`` does in any event log."""

    def __init__(self, instance: dg.DagsterInstance, older_than: datetime, pause_sec: float, job_name: str | None) -> None:
        self.instance, self.older_than = instance, older_than.astimezone(UTC)
        self.pause_sec, self.job_name = pause_sec, job_name
        self.runs = self.thinned = self.events = self.check_results = 0

    def old_runs(self, batch_runs: int) -> Iterator[list[str]]:
        """List old finished runs in batches, oldest first."""
        filters = dg.RunsFilter(statuses=list(FINISHED), updated_before=self.older_than, job_name=self.job_name)
        cursor: str | None = None
        while True:
            records = self.instance.get_run_records(filters, limit=batch_runs, ascending=True, cursor=cursor)
            batch = [record.dagster_run.run_id for record in records]
            if not batch:
                return
            yield batch
            kept = {record.dagster_run.run_id for record in self.instance.get_run_records(dg.RunsFilter(run_ids=batch))}
            cursor = next((run_id for run_id in reversed(batch) if run_id in kept), cursor)  # a deleted run is no cursor

    def delete_run(self, run_id: str) -> None:
        """Delete a run with its record."""
        self.instance.delete_run(run_id)  # last: whatever is interrupted before is found again by its run
        self.runs += 1
        time.sleep(self.pause_sec)

    def delete_files(self, run_id: str) -> None:
        """Delete what a run left beside the databases."""
        self.instance.compute_log_manager.delete_logs(prefix=[run_id])
        shutil.rmtree(Path(self.instance.storage_directory()) / run_id, ignore_errors=True)  # what an operator's run left there

    def prune_ticks(self) -> None:
        """Delete old ticks of every sensor and schedule."""
        for state in self.instance.all_instigator_state():
            self.instance.purge_ticks(state.instigator_origin_id, state.selector_id, before=self.older_than.timestamp())


class _WholeRuns(_OldRuns):
    """Prunes one of Dagster's own event logs."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        log: AnyEventLog,
        older_than: datetime,
        pause_sec: float,
        job_name: str | None,
    ) -> None:
        super().__init__(instance, older_than, pause_sec, job_name)
        self.log, self.kept = log, runs_with_latest(log)

    def prune_run(self, run_id: str) -> None:
        """Delete a run, unless something of it is the latest of its kind."""
        if run_id in self.kept:
            return
        self.delete_files(run_id)
        self.delete_run(run_id)
        delete_shard(self.log, run_id)


class _Pruning(_OldRuns):
    """Prunes one of this product's event logs."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        log: BatchedEventLogStorage,
        older_than: datetime,
        pause_sec: float,
        job_name: str | None,
    ) -> None:
        super().__init__(instance, older_than, pause_sec, job_name)
        self.log = log
        self.checks: LatestChecks = log.latest_checks()
        self.newest_id = log.get_maximum_record_id() or 0  # SQLite would give this id again, and cursors would skip it

    def prune_run(self, run_id: str) -> None:
        """Delete a run, or all of it but what is the latest of its kind."""
        events = self.log.events_of_run(run_id)
        kept = self._latest_of(events)
        if kept:
            kept |= {event.id for event in events if event.kind in RUN_STATUS_TYPES}
        self._delete_events([event.id for event in events if event.id not in kept])
        self.delete_files(run_id)
        if kept:
            self.thinned += 1
            return
        self.delete_run(run_id)

    def prune_runless(self) -> None:
        """Delete old events that belong to no run, such as reported materializations and freshness."""
        after_id = 0
        while True:
            events = self.log.events_of_run(RUNLESS, before=self.older_than, after_id=after_id, limit=ROWS_PER_TRANSACTION)
            if not events:
                return
            kept = self._latest_of(events)
            self._delete_events([event.id for event in events if event.id not in kept])
            after_id = events[-1].id

    def prune_checks(self) -> None:
        """Delete old check results."""
        after_id = 0
        while rows := self.log.check_rows(before=self.older_than, after_id=after_id, limit=ROWS_PER_TRANSACTION):
            doomed = [row for row in rows if row not in self.checks.row_ids]
            if doomed:
                self.log.delete_check_rows(doomed)
                self.check_results += len(doomed)
                time.sleep(self.pause_sec)
            after_id = rows[-1]

    def give_back(self) -> int:
        """Return free space to the file system."""
        freed = 0
        for _ in range(SPACE_STEPS):
            step = self.log.give_back_space(pages=PAGES_PER_STEP)
            if not step:
                break
            freed += step
            time.sleep(self.pause_sec)
        return freed

    def _latest_of(self, events: Sequence[StoredEvent]) -> set[int]:
        newest = {(event.kind, event.asset_key, event.partition): event.id for event in events if event.kind in SUPERSEDED_BY}
        candidates = set(newest.values())
        latest = candidates - self.log.superseded(candidates)
        checks = {event.id for event in events if event.id in self.checks.event_ids}
        return latest | checks | {event.id for event in events if event.id == self.newest_id}

    def _delete_events(self, event_ids: Sequence[int]) -> None:
        for chunk in chunks(event_ids, ROWS_PER_TRANSACTION):
            self.log.delete_event_rows(chunk)
            self.events += len(chunk)
            time.sleep(self.pause_sec)
