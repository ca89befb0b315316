"""Pathway: the bell is a connector, the cycle a function applied to each of its rows."""

import json
import logging
import time
from typing import Any

import pathway as pw

from benchmarks.peer_programs.work import Bell, Work

COMMIT_EVERY_MS = 10  # its default of 1500 would be most of the latency
WAIT_SEC = 1.0

work = Work()


class Due(pw.Schema):
    """One row per cycle that is due."""

    at: float


class Bells(pw.io.python.ConnectorSubject):
    """Waits for the bell."""

    def run(self) -> None:
        """Emit a row whenever a cycle is due."""
        bell = Bell()
        while True:
            if bell.rings(WAIT_SEC):
                self.next(at=time.time())


def compute(_: float) -> str:
    """Compute and publish everything once."""
    return json.dumps(work.cycle())


def log(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:  # noqa: ARG001, FBT001 - as Pathway calls it
    """Leave a line."""
    logging.info("published %s", row["published"])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    due = pw.io.python.read(Bells(), schema=Due, autocommit_duration_ms=COMMIT_EVERY_MS)
    pw.io.subscribe(due.select(published=pw.apply(compute, due.at)), on_change=log)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
