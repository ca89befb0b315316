"""Two whole stacks on one Redis, by mistake: one runs the loop, nothing is published twice, and the other takes over.

``python -m benchmarks.split_brain``: 30 cycles of both, then the one that holds the lease is killed. About seven minutes.
"""

import json
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import psutil

from benchmarks.chaos import wait_until
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
LIVELY_SEC = 15  # the gap of what changes in every cycle; unchanged values are published once a minute
TWICE_SEC = 5.0  # half a cycle: closer entries of one symbol were published by two


class Entry(NamedTuple):
    """One entry of a stream, and when it was written."""

    stream: str
    symbol: str
    epoch: float


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


def gaps(entries: list[Entry]) -> list[float]:
    """Give the seconds between entries of one symbol in one stream; those of two stacks would fall in between."""
    by_symbol: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in entries:
        by_symbol[entry.stream, entry.symbol].append(entry.epoch)
    return [later - earlier for times in by_symbol.values() for earlier, later in pairwise(sorted(times))]


def measure(*, short: bool) -> dict[str, Any]:
    """Run both for some cycles, then kill the holder of the lease."""
    cycles = SHORT_CYCLES if short else CYCLES
    # Event cycles publish in between, as they should; two stacks are told apart by the spacing of the cadence.
    with running("product", SYMBOLS, enable_stream=True, events="off") as live, tempfile.TemporaryDirectory() as folder_of_second:
        home = Path(folder_of_second)
        tried = json.dumps({"at": time.time(), "exit_code": 0, "last_line": "not tried in this trial"})
        live.store.client.set(
            live.store.keys.of("single_cycle"), tried
        )  # for ten minutes: it publishes between cycles, as it should
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
            wait_until("the second stack to publish", lambda: max(one.epoch for one in published(live)) > killed, WAIT_SEC)
            taken_over_sec = max(one.epoch for one in published(live)) - killed
    per_symbol = gaps(entries)
    return {
        "cycles": cycles,
        "entries": len(entries),
        "doubled": sum(gap < TWICE_SEC for gap in per_symbol),
        "gap_sec": spread(gap for gap in per_symbol if gap < LIVELY_SEC),
        "runs_of_the_second_stack": by_second,
        "first_holds": told[1:] == [ours],
        "taken_over_sec": round(taken_over_sec, 1),
    }


if __name__ == "__main__":
    main("split_brain", __doc__, measure)
