"""Runs that never finish: a killed worker tells nobody, so the loop ends its runs itself and goes on."""

import logging
from datetime import datetime

import dagster as dg

OVERDUE_SEC = 60  # a cycle takes about a second; after a minute its worker is dead or lost
NOT_STARTED_SEC = 8  # a worker takes a run at once; less than a cycle, so that the very next tick replaces a lost request
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def unfinished_runs(instance: dg.DagsterInstance, job_name: str) -> list[dg.RunRecord]:
    """List the runs of one job that have not finished, oldest first."""
    wanted = dg.RunsFilter(job_name=job_name, statuses=list(UNFINISHED))
    return list(instance.get_run_records(wanted, ascending=True))


def overdue(created: datetime, now: datetime, *, started: bool) -> str | None:
    """Say why a run must be given up; ``None`` while it need not.

    Parameters
    ----------
    created, now
        When it was requested, and the time.
    started
        Whether a worker has taken it.
    """
    age_sec = (now - created).total_seconds()
    if started and age_sec > OVERDUE_SEC:
        return f"Not finished after {OVERDUE_SEC} s: its worker is dead or lost. The loop goes on without it."
    if not started and age_sec > NOT_STARTED_SEC:
        return f"Not started after {NOT_STARTED_SEC} s: no worker took it. The loop goes on without it."
    return None


def still_running(
    instance: dg.DagsterInstance, job_name: str, now: datetime, log: logging.Logger
) -> tuple[list[dg.DagsterRun], list[dg.DagsterRun]]:
    """List the unfinished runs of one job, once the overdue ones have been failed and stopped, and those."""
    left, ended = [], []
    for record in unfinished_runs(instance, job_name):
        run = record.dagster_run
        started = run.status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
        if (why := overdue(record.create_timestamp, now, started=started)) is None:
            left.append(run)
            continue
        log.error("run %s: %s", run.run_id, why)
        _stop(instance, run, log)
        instance.report_run_failed(run, why)
        ended.append(run)
    return left, ended


def _stop(instance: dg.DagsterInstance, run: dg.DagsterRun, log: logging.Logger) -> None:
    try:
        instance.run_launcher.terminate(run.run_id)
    except (KeyError, OSError, RuntimeError) as error:  # never launched, or the broker is away: there is nothing left to stop
        log.warning("run %s: could not be stopped: %r", run.run_id, error)
