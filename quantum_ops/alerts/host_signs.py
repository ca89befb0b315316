"""What the watcher sees of its own host: jumps of the clock, and a lock on Dagster's event log. Nothing here needs Dagster."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from quantum_ops.alerts.words import Trouble, clock_trouble, event_log_trouble

STEP_SEC = 5.0  # as much as clocks of hosts may differ; corrections of a synchronised clock are far below
STEP_TOLD_SEC = 60.0  # so long a jump stays an alert
LOCKED_SEC = 12.0  # two polls; a writer of ours holds the lock for milliseconds, maintenance for less than a second


class HostSigns:
    """Looks at the host with every poll.

    Parameters
    ----------
    home
        Instance folder; an event log that is kept elsewhere (PostgreSQL) is none of the host's.
    """

    def __init__(self, home: Path) -> None:
        self.event_log = home.resolve() / "history" / "event_log.db"
        self._offset: float | None = None
        self._step = 0.0
        self._stepped_at = self._stepped_mono = 0.0
        self._mono = 0.0
        self._locked_since: float | None = None

    def look(self, wall: float, mono: float) -> None:
        """Look once.

        Parameters
        ----------
        wall
            Epoch s.
        mono
            Monotonic s.
        """
        offset = wall - mono
        if self._offset is not None and abs(offset - self._offset) > STEP_SEC:
            self._step, self._stepped_at, self._stepped_mono = offset - self._offset, wall, mono
            if self._locked_since is not None:
                self._locked_since += self._step
        self._offset, self._mono = offset, mono
        if not self._is_locked():
            self._locked_since = None
        elif self._locked_since is None:
            self._locked_since = wall

    def troubles(self, now: float) -> dict[str, Trouble]:
        """Give what was seen, by alert."""
        found = {}
        if self._step and self._mono - self._stepped_mono < STEP_TOLD_SEC:
            found["clock"] = clock_trouble(self._step, self._stepped_at)
        if self._locked_since is not None and now - self._locked_since >= LOCKED_SEC:
            found["event_log"] = event_log_trouble(str(self.event_log), self._locked_since, now)
        return found

    def _is_locked(self) -> bool:
        """Take the write lock, and give it back: nothing else shows whether somebody holds it."""
        if not self.event_log.exists():
            return False
        try:
            with closing(
                sqlite3.connect(f"{self.event_log.as_uri()}?mode=rw", uri=True, timeout=0.2, isolation_level=None)
            ) as conn:
                conn.execute("BEGIN IMMEDIATE")
                conn.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            return "locked" in str(error) or "busy" in str(error)
        return False
