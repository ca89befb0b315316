"""How soon another profile is in force, and that no cycle mixes two: 20 changes, 566 symbols, workers killed in between.

``python -m benchmarks.profile_changes``: every change is `quantum profile use`'s; after every third one the worker is killed with
SIGKILL. A cycle is counted from the change to the first complete one with the new parameters; every second all rows are read, and
rows of one cycle that name two profiles are counted. About 10 minutes.
"""

import signal
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import dagster as dg
import psutil

from benchmarks.live import Live, running
from benchmarks.report import main, say, spread
from quantum_core.contracts.tables import (
    ALLOCATION_TARGET,
    GOVERNOR_STATE,
    HARVEST_PROPOSAL,
    MARKET_STATE,
    POSITION,
    POSITION_SIZE,
    RISK_PROPOSAL,
)
from quantum_core.profiles.files import load
from resources.io_manager import ONCE_TAG
from resources.store.profiles import PROFILE_TAG, use
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME

SYMBOLS, CHANGES, SHORT_CHANGES, LEFT_OUT = 566, 20, 3, 3
KILL_EVERY, WITHIN_SEC, LOOK_SEC = 3, 120.0, 1.0
TABLES = (POSITION, MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL, ALLOCATION_TARGET, POSITION_SIZE, GOVERNOR_STATE)


class Watch(threading.Thread):
    """Reads all rows again and again, and counts those of one cycle that name two profiles."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(daemon=True)
        self.store, self.stopped = store, threading.Event()
        self.looks, self.rows, self.mixed = 0, 0, set[tuple[str, str]]()

    def run(self) -> None:
        """Look until told to stop."""
        names = [self.store.keys.of(table.key, symbol) for table in TABLES for symbol in self.store.settings.symbols]
        while not self.stopped.wait(LOOK_SEC):
            with suppress(Exception):  # the server is away while its host is: that look is none
                pipeline = self.store.client.pipeline(transaction=True)
                for name in names:
                    pipeline.hmget(name, "cycle_id", "profile")
                profiles: dict[str, set[str]] = defaultdict(set)
                for cycle_id, profile in pipeline.execute():
                    if cycle_id and profile:
                        self.rows += 1
                        profiles[cycle_id.decode()].add(profile.decode())
                self.looks += 1
                self.mixed |= {(cycle, ",".join(sorted(both))) for cycle, both in profiles.items() if len(both) > 1}


def measure(*, short: bool) -> dict[str, Any]:
    """Change the profile again and again."""
    profiles, changes = [load("crypto-1m"), load("locked-v1")], SHORT_CHANGES if short else CHANGES
    with running("product", SYMBOLS) as live:
        live.look(LEFT_OUT, LEFT_OUT * WITHIN_SEC)
        watch = Watch(live.store)
        watch.start()
        cycles, waits, kills = [], [], 0
        for change in range(changes):
            profile = profiles[change % 2]
            at = time.time()
            use(live.store, profile, by="benchmark", reason="change")
            if change % KILL_EVERY == KILL_EVERY - 1:
                kills += kill_worker(live)
            found = first_with(live, profile.fingerprint, at)
            cycles.append(found)
            waits.append(time.time() - at)
            say(f"change {change + 1} of {changes}: {found} cycles, {waits[-1]:.1f} s")
        watch.stopped.set()
        watch.join()
    return {
        "symbols": SYMBOLS,
        "changes": changes,
        "workers_killed": kills,
        "cycles_until_in_force": cycles,
        "seconds_until_in_force": spread(waits),
        "looks": watch.looks,
        "rows_looked_at": watch.rows,
        "cycles_that_mix_two": len(watch.mixed),
    }


def kill_worker(live: Live) -> int:
    """Kill the processes that execute runs."""
    killed = 0
    for process in live.family():
        with suppress(psutil.Error):
            if "celery" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                killed += 1
    return min(killed, 1)


def first_with(live: Live, fingerprint: str, since: float) -> int:
    """Wait for the first complete cycle with these parameters; give its number among those requested since, 1 for the first."""
    deadline = time.monotonic() + WITHIN_SEC
    while time.monotonic() < deadline:
        records = [
            one
            for one in live.instance.get_run_records(dg.RunsFilter(job_name=CYCLE_JOB_NAME), limit=20, ascending=False)
            if one.create_timestamp.timestamp() > since and ONCE_TAG not in one.dagster_run.tags
        ]
        for number, one in enumerate(reversed(records), 1):
            done = one.dagster_run.status is dg.DagsterRunStatus.SUCCESS
            if done and one.dagster_run.tags.get(PROFILE_TAG) == fingerprint:
                return number
        time.sleep(0.3)
    msg = f"no complete cycle with {fingerprint} within {WITHIN_SEC:.0f} s"
    raise TimeoutError(msg)


if __name__ == "__main__":
    main("profile_changes", __doc__, measure)
