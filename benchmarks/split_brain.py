"""Two whole stacks on one Redis, by mistake: one runs the loop, nothing is published twice, and the other takes over.

``python -m benchmarks.split_brain``: 30 cycles of both, event cycles between them, then the one that holds the lease is killed.
What is in the streams is held against the runs of both. About seven minutes.
"""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from benchmarks.chaos import Entry, doubled, wait_until
from benchmarks.live import PROJECT, STOP_WITHIN_SEC, Live, running
from benchmarks.report import main, say, spread
from resources.instance.dagster_internals import storage_id
from resources.instance.home import prepare_home
from resources.store.lease import owner, standing_by
from sensors.cycle import CYCLE_JOB_NAME, EVENT_JOB_NAME
from tests.servers import free_port

STREAMS = ("stream_market_state", "stream_risk_proposal", "stream_harvest_proposal", "stream_allocation_target")
LOOP = (CYCLE_JOB_NAME, EVENT_JOB_NAME)
CYCLES, SHORT_CYCLES, SYMBOLS = 30, 4, 12
WAIT_SEC = 120


@contextmanager
def second_stack(live: Live, home: Path) -> Iterator[psutil.Popen]:
    """Start another `quantum up` on the same Redis, with an instance folder of its own."""
    prepare_home(live.store.settings.model_copy(update={"quantum_home": home}))
    environment = {**live.root.environ(), **dict.fromkeys(("HOME", "QUANTUM_HOME", "DAGSTER_HOME"), str(home))}
    command = [sys.executable, "-m", "quantum_ops.cli", "up", "--port", str(free_port())]
    with (home / "log").open("wb") as log:
        process = psutil.Popen(command, env=environment, stdout=log, stderr=log, cwd=PROJECT)
        family: list[psutil.Process] = []
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                family = process.children(recursive=True)
            process.send_signal(signal.SIGINT)
            _, left = psutil.wait_procs([process, *family], timeout=STOP_WITHIN_SEC)
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def published(live: Live) -> list[Entry]:
    """List what stands in the streams."""
    return [
        Entry(stream, fields[b"symbol"].decode(), int(entry.partition(b"-")[0]) / 1000)
        for stream in STREAMS
        for entry, fields in live.store.client.xrange(live.store.keys.of(stream))
    ]


def runs(instances: Sequence[dg.DagsterInstance], until: float, *jobs: str) -> list[dg.RunRecord]:
    """List the runs of some jobs that began before a time, of both stacks, in the order of their start."""
    records = [one for instance in instances for job in jobs for one in instance.get_run_records(dg.RunsFilter(job_name=job))]
    return sorted((one for one in records if (one.start_time or until) < until), key=lambda one: one.start_time or 0.0)


def measure(*, short: bool) -> dict[str, Any]:
    """Run both for some cycles, then kill the holder of the lease."""
    cycles = SHORT_CYCLES if short else CYCLES
    with running("product", SYMBOLS, enable_stream=True) as live, tempfile.TemporaryDirectory() as folder_of_second:
        home = Path(folder_of_second)
        tried = json.dumps({"at": time.time(), "exit_code": 0, "last_line": "not tried in this trial"})
        live.store.client.set(
            live.store.keys.of("single_cycle"), tried
        )  # for ten minutes: it publishes between cycles, as it should
        live.world.restless = True
        live.look(1, WAIT_SEC)
        with second_stack(live, home), dg.DagsterInstance.from_config(str(home)) as second:
            wait_until("the second stack to stand by", lambda: bool(standing_by(live.store)), WAIT_SEC)
            say("both run")
            before = live.look(1, WAIT_SEC).cycles
            live.look(before + cycles, WAIT_SEC + 12 * cycles)
            told, ours = list(standing_by(live.store)), owner(live.store.settings, storage_id(live.instance))
            entries, by_second = published(live), sum(run.job_name in LOOP for run in second.get_runs())
            killed = time.time()
            for process in live.family():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            say("the holder is dead")
            wait_until("the second stack to publish", lambda: max(one.time for one in published(live)) > killed, WAIT_SEC)
            taken_over_sec = max(one.time for one in published(live)) - killed
            both = (live.instance, second)
            began = [one.start_time or 0.0 for one in runs(both, killed, CYCLE_JOB_NAME)]
            violations = doubled(entries, runs(both, killed, *LOOP))
            event_cycles = len(runs(both, killed, EVENT_JOB_NAME))
    for what in violations:
        say(what)
    return {
        "cycles": cycles,
        "event_cycles": event_cycles,
        "entries": len(entries),
        "doubled": len(violations),
        "gap_sec": spread([later - earlier for earlier, later in pairwise(began)]),
        "runs_of_the_second_stack": by_second,
        "first_holds": told[1:] == [ours],
        "taken_over_sec": round(taken_over_sec, 1),
    }


if __name__ == "__main__":
    main("split_brain", __doc__, measure)
