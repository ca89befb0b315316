"""Runs that never finish: a killed worker reports nothing, so this sensor ends its runs and the cycle goes on.

How long a run may take depends on the launcher: a warm worker takes it at once; with plain ``dagster dev`` each run starts an
interpreter of its own, 7 to 12 s on two idle cores.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from resources.instance.launcher import has_warm_workers
from resources.instance.range_tags import RANGE_TAGS
from resources.io_manager import ONCE_TAG
from resources.store.redis_store import RedisStore

TICK_INTERVAL_SEC = 3  # of every sensor: less than the daemon's own 5 s, so that no tick is missed
SLOWER = "each run starts an interpreter of its own; `quantum up` keeps warm workers and is faster"


@dataclass(frozen=True)
class Limits:
    """When a run is given up, in seconds since it was requested.

    Attributes
    ----------
    not_started_sec
        As long as nothing executes it.
    not_finished_sec
        When something does.
    lost
        What is wrong with one that was not finished.
    untaken
        What is wrong with one that was not started.
    """

    not_started_sec: int
    not_finished_sec: int
    lost: str
    untaken: str


# A worker takes a run at once (less than a cycle: the very next tick replaces a lost request), and a cycle takes about a second.
WARM = Limits(8, 60, "its worker is dead or lost", "no worker took it")
# The code server itself fails a run whose process died; these limits are for what it cannot see, its own end.
COLD = Limits(120, 180, "its process is dead or hangs", "its interpreter never came up")
PLACE_TAG = "quantum/place"  # of the server that held the queue when the run was requested
UNTAKEN_SEC = 600  # from which a run of any job that nobody has begun is given up: it would stay so for ever
LATE_RUNS = 4  # of a shard that are looked at to know what the next one will take
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def unfinished_runs(instance: dg.DagsterInstance, job_names: Sequence[str]) -> list[dg.RunRecord]:
    """List the runs of some jobs that have not finished, oldest first."""
    only = job_names[0] if len(job_names) == 1 else None
    records = instance.get_run_records(dg.RunsFilter(job_name=only, statuses=list(UNFINISHED)), ascending=True)
    return [record for record in records if record.dagster_run.job_name in job_names]


def goes_first(instance: dg.DagsterInstance, job_name: str, now: datetime) -> str:
    """Name an unfinished run of another job; empty when there is none.

    Interpreters that start at the same time on two cores take minutes: without warm workers our own runs wait for each other,
    and for what somebody has clicked.
    """
    since = now - timedelta(seconds=COLD.not_finished_sec)  # an older one may be a leftover of a stopped ``dagster dev``
    for run in instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED), created_after=since)):
        if run.job_name != job_name:
            return f"run {run.run_id} goes first: {SLOWER}"
    return ""


def place_tags(store: RedisStore) -> dict[str, str]:
    """Give the tags by which a run is known as lost when sentinels name another server: none where the queue is elsewhere."""
    known = store.place if store.settings.broker_url == store.settings.url else ""
    return {PLACE_TAG: known} if known else {}


def failed_once(instance: dg.DagsterInstance, job_name: str, shards: int) -> set[str | None]:
    """Name the shards, by their first symbol, whose newest run failed and the one before it did not.

    That is how a run ends whose server went away: the next one need not wait for its turn. Those of a shard that goes on failing
    must.
    """
    newest: dict[str | None, list[bool]] = {}
    for run in instance.get_runs(dg.RunsFilter(job_name=job_name), limit=4 * shards):
        if ONCE_TAG not in run.tags:
            newest.setdefault(run.tags.get(RANGE_TAGS[0]), []).append(run.status is dg.DagsterRunStatus.FAILURE)
    return {shard for shard, failed in newest.items() if failed[0] and not any(failed[1:2])}


def longest_of_late(instance: dg.DagsterInstance, job_name: str, shards: int) -> dict[str | None, float]:
    """Give the longest of the last runs of each shard that have ended, in s since they were requested, by its first symbol."""
    longest: dict[str | None, float] = {}
    for record in instance.get_run_records(dg.RunsFilter(job_name=job_name), limit=LATE_RUNS * shards):
        if record.end_time is not None:
            shard, took = record.dagster_run.tags.get(RANGE_TAGS[0]), record.end_time - record.create_timestamp.timestamp()
            longest[shard] = max(took, longest.get(shard, 0.0))
    return longest


def overdue(created: datetime, now: datetime, *, started: bool, limits: Limits = WARM, moved: bool = False) -> str | None:
    """Say why a run must be given up; ``None`` while it need not.

    Parameters
    ----------
    created, now
        When it was requested, and the time.
    started
        Whether a worker has taken it.
    limits
        Of the instance's launcher.
    moved
        Whether the server that held the queue is the master no more: what nobody has begun is lost with it.
    """
    age_sec = (now - created).total_seconds()
    if age_sec < -limits.not_finished_sec:
        return f"Requested {-age_sec:.0f} s in the future: the clock was set back. The loop goes on without it."
    if started and age_sec > limits.not_finished_sec:
        return f"Not finished after {limits.not_finished_sec} s: {limits.lost}. The loop goes on without it."
    if not started and moved:
        return "Not started, and Redis has changed places: lost with its queue. The loop goes on without it."
    if not started and age_sec > limits.not_started_sec:
        return f"Not started after {limits.not_started_sec} s: {limits.untaken}. The loop goes on without it."
    return None


def still_running(
    instance: dg.DagsterInstance, job_names: Sequence[str], store: RedisStore, log: logging.Logger
) -> tuple[list[dg.DagsterRun], list[dg.DagsterRun]]:
    """List the unfinished runs of some jobs, once the overdue ones have been failed and stopped, and those."""
    running, ended = [], []
    limits = WARM if has_warm_workers(instance) else COLD
    now, place = store.clock(), place_tags(store).get(PLACE_TAG)
    for record in unfinished_runs(instance, job_names):
        run = record.dagster_run
        started = run.status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
        moved = place is not None and run.tags.get(PLACE_TAG, place) != place
        if (why := overdue(record.create_timestamp, now, started=started, limits=limits, moved=moved)) is None:
            running.append(run)
            continue
        log.error("run %s: %s", run.run_id, why)
        _stop(instance, run, log)
        instance.report_run_failed(run, why)
        ended.append(run)
    return running, ended


def end_untaken(instance: dg.DagsterInstance, now: datetime, log: logging.Logger) -> None:
    """Fail the runs of all jobs that were never begun: their launch failed half-way, or the broker has lost them."""
    waiting = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
    for run in instance.get_runs(dg.RunsFilter(statuses=waiting, created_before=now - timedelta(seconds=UNTAKEN_SEC))):
        why = f"Not started after {UNTAKEN_SEC} s: its launch failed, or the broker has lost it."
        log.error("run %s: %s", run.run_id, why)
        _stop(instance, run, log)
        instance.report_run_failed(run, why)


def _stop(instance: dg.DagsterInstance, run: dg.DagsterRun, log: logging.Logger) -> None:
    try:
        instance.run_launcher.terminate(run.run_id)
    except (KeyError, OSError, RuntimeError) as error:  # never launched, or the broker is away: there is nothing left to stop
        log.warning("run %s: could not be stopped: %r", run.run_id, error)
