"""Bytewax: the bell is the source, the cycle a stateful step; what it knows is kept in the recovery store at each epoch."""

from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition

from benchmarks.peer_programs.work import Bell, Work

AWAKE_EVERY = timedelta(milliseconds=20)  # a source is asked, it cannot push
KEPT = ("tracked", "published", "judged")  # what the plain process knows and cannot read again

work = Work()


class Bells(StatelessSourcePartition[tuple[str, float]]):
    """Asks the bell again and again."""

    def __init__(self) -> None:
        self.bell = Bell()

    def next_batch(self) -> list[tuple[str, float]]:
        """Give one item when a cycle is due."""
        return [("cycle", datetime.now(UTC).timestamp())] if self.bell.rings() else []

    def next_awake(self) -> datetime:
        """Say when to ask again."""
        return datetime.now(UTC) + AWAKE_EVERY


class Source(DynamicSource[tuple[str, float]]):
    """One partition per worker; there is one worker."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Bells:  # noqa: ARG002 - as Bytewax calls it
        """Start listening."""
        return Bells()


def compute(known: dict[str, Any] | None, _: float) -> tuple[dict[str, Any], dict[str, int]]:
    """Compute and publish everything once; after a restart, with what the recovery store knows."""
    if known is not None:
        vars(work.naked).update(known)
    published = work.cycle()
    return {name: getattr(work.naked, name) for name in KEPT}, published


flow = Dataflow("cycle")
bells = op.input("bell", flow, Source())
op.output("log", op.map("text", op.stateful_map("cycle", bells, compute), lambda item: f"published {item[1]}"), StdOutSink())
