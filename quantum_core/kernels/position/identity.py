"""Which position a snapshot is of: what the side before has left behind, and when two positions seem to share one key.

Pure: what a key showed before comes in as a :class:`Memory`, and goes out as another. Prices, stops and the collar are moved by
``quantum_core.kernels.position.tracking``; reading and keeping the memory is the work of the asset ``position``.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from quantum_core.kernels.position.tracking import Tracked

FLAT, EMPTY = "FLAT", "EMPTY"  # what a key shows beside LONG and SHORT: no position, or an empty row of the side not tracked
EMPTY_SEC = 60.0  # an empty row of the other side must last for so long before it means that the tracked side is closed
RETURN_SEC = 3600.0  # a position that comes back at the very same entry after so long is another one
ALTERNATE_SEC = 300.0  # sides that return twice within this alternate; and so long after the last return it is a conflict
RETURNS = 2  # changes back that are a conflict although the entry has moved, or the key said FLAT in between
SAME_ENTRY_REL = 1e-9  # text and back, no more


@dataclasses.dataclass(frozen=True)
class Memory:
    """What one key showed before its snapshot of now.

    Attributes
    ----------
    label, since
        LONG, SHORT, FLAT or EMPTY, and since when, epoch s; empty when nothing is known.
    carried
        Optional fields of the snapshot as texts, while there was no position.
    kept
        Side to its kept state (the fields of :class:`Tracked`) when it was last left, with ``left_at``, epoch s.
    returns
        When a side came back, epoch s.
    conflict_until
        Until when two positions are taken to share the key, epoch s.
    digest, unchanged_since
        Fingerprint of a snapshot without a clock, and since when it has been the same, epoch s.
    """

    label: str = ""
    since: float = 0.0
    carried: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kept: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    returns: tuple[float, ...] = ()
    conflict_until: float = 0.0
    digest: str = ""
    unchanged_since: float = 0.0


def tighter(side: str, *stops: float | None) -> float | None:
    """Give the tightest of some stops."""
    known = [stop for stop in stops if stop is not None and math.isfinite(stop)]
    return max(known, key=lambda stop: stop if side == "LONG" else -stop, default=None)


def left(memory: Memory, kept: Tracked, last_proposed_sl: float | None, now: float) -> Memory:
    """Remember a position whose key shows something else now, should it come back."""
    row: dict[str, Any] = {**kept.row(), "current_sl": tighter(kept.side, kept.current_sl, last_proposed_sl), "left_at": now}
    before = memory.kept.get(kept.side)
    if before is not None and now - before["left_at"] <= ALTERNATE_SEC:
        row["current_sl"] = tighter(kept.side, row["current_sl"], before["current_sl"])
        row["peak_price"] = max(row["peak_price"], before["peak_price"])
        row["trough_price"] = min(row["trough_price"], before["trough_price"])
    return dataclasses.replace(memory, kept={**memory.kept, kept.side: row})


def empty(memory: Memory, kept: Tracked | None, side: str, carried: Mapping[str, str], now: float) -> tuple[Memory, bool]:
    """Judge a snapshot without a position.

    Parameters
    ----------
    memory, kept
        What is known; ``kept`` None when nothing is tracked.
    side
        The side it says is empty; empty text when it names none.
    carried
        Its optional fields.
    now
        Epoch s.

    Returns
    -------
    memory, waits
        ``waits``: what is tracked must be kept yet, because only the other side is known to be empty, or the key is in conflict.
    """
    other_side = kept is not None and side != "" and side != kept.side
    label = EMPTY if other_side else FLAT
    if memory.label == EMPTY and label == EMPTY and now - memory.since >= EMPTY_SEC:
        label = FLAT
    since = memory.since if label == memory.label else now
    memory = dataclasses.replace(memory, label=label, since=since, carried=dict(carried))
    return memory, kept is not None and (label == EMPTY or now < memory.conflict_until)


def recognized(memory: Memory, kept: Tracked | None, side: str, entry_price: float, now: float) -> tuple[Memory, Tracked | None]:
    """Find the kept state an open position continues.

    Parameters
    ----------
    memory, kept
        What is known; ``kept`` is the state tracked last, of whichever side, None when nothing is tracked.
    side, entry_price
        Of the snapshot.
    now
        Epoch s.

    Returns
    -------
    memory, previous
        ``previous`` is None for a new position. A side that comes back is the position it was, and the key in conflict, when it
        has the very same entry and nobody said FLAT in between; or else when this happens for the second time within
        ALTERNATE_SEC.
    """
    previous: Tracked | None
    turned = memory.label not in ("", side)
    said_flat = memory.label == FLAT
    if kept is not None and kept.side == side:
        came_back, same, previous = turned, True, kept
    else:
        row = memory.kept.get(side)
        if row is not None and now - row["left_at"] > RETURN_SEC:
            row = None
        same = row is not None and math.isclose(entry_price, row["entry_price"], rel_tol=SAME_ENTRY_REL)
        came_back = row is not None and (same or (not said_flat and now - row["left_at"] <= ALTERNATE_SEC))
        previous = Tracked.from_row(row) if row is not None else None
    returns = tuple(at for at in memory.returns if now - at <= ALTERNATE_SEC)
    if came_back and turned:
        returns = (*returns, now)[-RETURNS:]
    conflict = came_back and ((same and not said_flat) or len(returns) >= RETURNS)
    memory = dataclasses.replace(
        memory,
        label=side,
        since=now if turned or not memory.label else memory.since,
        carried={},
        returns=returns,
        conflict_until=now + ALTERNATE_SEC if conflict else memory.conflict_until,
    )
    goes_on = (kept is not None and kept.side == side) or conflict
    return memory, previous if goes_on else None


def leftovers(now: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Give the optional fields that are as they were before: what does not change with the side belongs to the one before."""
    return {name: text for name, text in now.items() if before.get(name) == text and text.strip("0.") not in ("", "-")}
