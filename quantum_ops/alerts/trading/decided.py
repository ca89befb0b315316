"""What one poll shows of what was decided, and what follows from it: values that the reader, the watch and the ledger share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quantum_ops.alerts.words import Trouble

KILL, DISARM, BLOCKED, BACKLOG = "kill_switch", "disarmed", "openings_blocked", "plan_backlog"


@dataclass(frozen=True)
class Entry:
    """One event: id in its stream, and its fields as text."""

    id: str
    fields: Mapping[str, str]

    @property
    def at(self) -> float:
        """When it was written, epoch s, by the server's clock."""
        return int(self.id.partition("-")[0]) / 1000


@dataclass(frozen=True)
class TradingSigns:
    """What one poll shows of what was decided.

    Attributes
    ----------
    killed, disarmed
        The switches; also on when they cannot be read.
    disarm
        Why and since when it is disarmed (cause, at), where its key says so.
    scopes
        Planners and symbols that are disarmed one by one, with what each says (cause, at, plans).
    kill_recorded
        The kill switch is as `quantum kill` left it, so that the record of that is a record of it.
    switch_trouble, guard_trouble
        What cannot be read or judged; empty when all can.
    guards
        Live guards with what each says of itself.
    entries
        Events since the last poll, oldest first.
    cursors
        Stream to the last entry read.
    waiting, waiting_since
        Plans nobody has decided, and when the oldest of them was written, epoch s.
    permits
        Watched plan to what its permit's ``consumed`` says; empty when the permit is gone.
    granted
        Symbol with a refused close to when closes of it were permitted, epoch s, newest first.
    """

    killed: bool = False
    disarmed: bool = False
    disarm: Mapping[str, str] = field(default_factory=dict)
    scopes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kill_recorded: bool = True
    switch_trouble: str = ""
    guards: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    guard_trouble: str = ""
    entries: Sequence[Entry] = ()
    cursors: Mapping[str, str] = field(default_factory=dict)
    waiting: int = 0
    waiting_since: float | None = None
    permits: Mapping[str, str] = field(default_factory=dict)
    granted: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Something began, or (``trouble`` is None) ended; ``ended`` says by what."""

    alert: str
    trouble: Trouble | None = None
    ended: str = ""


@dataclass(frozen=True)
class Decided:
    """What follows from one poll.

    Attributes
    ----------
    changes
        What events show to have begun and ended, in their order.
    troubles
        What is wrong now, by alert.
    unsure
        Alerts of which nothing is known now.
    endings
        What ended an alert that is not in ``troubles`` any more, where that is known.
    """

    changes: Sequence[Change] = ()
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()
    endings: Mapping[str, str] = field(default_factory=dict)


NOTHING_DECIDED = Decided()
