"""The stream of plans: who waits, taking what waits, and acknowledging what was decided."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantum_core.contracts.tables import NO_SYMBOL
from resources.governor.plan import Plan, parse_plan
from resources.store.redis_store import RedisStore, UnreadableKeyError, epoch_of, pairs
from resources.store.transport.scripts import Script

GROUP = "governor"
PLANS_READ_MAX = 1000  # new entries per evaluation
RECLAIM_IDLE_MS = 15_000  # an entry another governor took and left undecided for so long is taken over

ACKNOWLEDGE = Script(__file__, "acknowledge")

log = logging.getLogger("quantum.plans")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Plans nobody has decided: how many (taken and left undecided included), and for which symbols as far as they are new."""

    count: int
    symbols: frozenset[str] = frozenset()


def waiting_plans(store: RedisStore) -> Waiting:
    """Look at the stream without taking anything from it.

    Raises
    ------
    UnreadableKeyError
        Something else than a stream stands under the key.
    """
    stream = store.keys.of("stream_plans")
    (groups,) = store.run("looking for plans", [("XINFO", "GROUPS", stream)])
    if isinstance(groups, Exception) and "no such key" not in str(groups):
        raise UnreadableKeyError(stream, "a stream of plans", groups)
    group = next((row for row in map(_as_text, [] if isinstance(groups, Exception) else groups) if row["name"] == GROUP), {})
    after = group.get("last-delivered-id", "0-0")
    (new,) = store.run("looking for plans", [("XRANGE", stream, f"({after}", "+", "COUNT", PLANS_READ_MAX)])
    plans = [parse_plan(entry_id.decode(), fields, store.settings.hedge_symbols) for entry_id, fields in new]
    return Waiting(len(plans) + int(group.get("pending", 0)), frozenset(plan.symbol for plan in plans))


def _as_text(row: Any) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in pairs(row).items()}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class PlanQueue:
    """Reads plans through a consumer group.

    Parameters
    ----------
    store
        Where the stream lives.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.stream = store.keys.of("stream_plans")
        self.consumer = f"{socket.gethostname()}-{os.getpid()}"

    def take(self) -> list[Plan]:
        """Take over what a dead governor left undecided, then everything new, oldest first."""
        time, taken, new = self._ask()
        if isinstance(new, Exception) and "NOGROUP" in str(new):
            self.store.run("creating the plan group", [("XGROUP", "CREATE", self.stream, GROUP, "0", "MKSTREAM")])
            time, taken, new = self._ask()
        if isinstance(taken, Exception) and "NOGROUP" in str(taken):
            taken = (b"0-0", ())  # another governor made the group between the two questions: nobody has left anything yet
        for reply in (time, taken, new):
            if isinstance(reply, Exception):
                raise UnreadableKeyError(self.stream, "a stream of plans", reply)
        entries = [*taken[1], *(entry for _, rows in (new or ()) for entry in rows)]
        taken_at = epoch_of(time)
        hedged = self.store.settings.hedge_symbols
        return [parse_plan(entry_id.decode(), fields, hedged, taken_at=taken_at) for entry_id, fields in entries if fields]

    def _ask(self) -> list[Any]:
        return self.store.run(
            "reading plans",
            [
                ("TIME",),
                ("XAUTOCLAIM", self.stream, GROUP, self.consumer, RECLAIM_IDLE_MS, "0-0", "COUNT", PLANS_READ_MAX),
                ("XREADGROUP", "GROUP", GROUP, self.consumer, "COUNT", PLANS_READ_MAX, "STREAMS", self.stream, ">"),
            ],
        )

    def acknowledge(self, plans: Sequence[Plan]) -> None:
        """Acknowledge these entries: they need no governor any more."""
        if plans:
            self.store.run("acknowledging plans", [("XACK", self.stream, GROUP, *(plan.entry_id for plan in plans))])

    def acknowledge_decided(self, plans: Sequence[Plan]) -> None:
        """Acknowledge those plans that were decided, as far as the server still knows it."""
        keys = self.store.keys
        if not plans or keys.cluster:  # the markers are in other slots there
            self.acknowledge(plans)
            return
        markers = [keys.of("seen_plan", plan.plan_id, plan.symbol or NO_SYMBOL) for plan in plans]
        entries = [plan.entry_id for plan in plans]
        command = ACKNOWLEDGE([self.stream, *markers], GROUP, *entries)
        (undecided,) = self.store.run("acknowledging plans", [command])
        if isinstance(undecided, Exception):
            raise UnreadableKeyError(self.stream, "a stream of plans", undecided)
        if undecided:
            log.warning("%d plans stay pending: Redis has changed places since they were decided", undecided)
