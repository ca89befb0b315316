"""Prefect: one flow run per cycle, started by a loop (``loop``) or by the schedule of a served deployment (``serve``)."""

import sys
import time

from prefect import flow

from benchmarks.peer_programs.work import CYCLE_EVERY_SEC, POLL_EVERY_SEC, Work
from quantum_core.settings import load_settings

works: list[Work] = []  # of this process: what a served flow run knows ends with it


@flow
def cycle(symbols: list[str]) -> dict[str, int]:
    """Compute and publish everything once."""
    if not works:
        works.append(Work())
    assert list(works[0].naked.symbols) == symbols
    return works[0].cycle()


def loop() -> None:
    """Run the flow every five seconds, in this process."""
    symbols, due = list(load_settings().symbols), time.monotonic()
    while True:
        cycle(symbols)
        due += POLL_EVERY_SEC
        time.sleep(max(0.0, due - time.monotonic()))


def serve() -> None:
    """Serve a deployment with a schedule: each flow run is a process of its own, one at a time."""
    cycle.serve(
        name="cycle",
        interval=int(CYCLE_EVERY_SEC),
        parameters={"symbols": list(load_settings().symbols)},
        limit=1,
    )


if __name__ == "__main__":
    {"loop": loop, "serve": serve}[sys.argv[1]]()
