"""When a server is not asked at all: it has just not answered, or has cost a cycle too much waiting.

Decides by a monotonic clock and sends nothing itself; the calls are :mod:`resources.store.transport.connection`'s.
"""

from __future__ import annotations

import threading
import time
from collections import deque

AWAY_SEC = 2.0  # a server that has just not answered is not asked again by each of the remaining steps
BUDGET_SEC, BUDGET_WINDOW_SEC = 4.0, 10.0  # lost by all round trips of one cycle, beyond what their work costs:
COMMAND_SEC = 0.0005  # generous; 566 symbols are some 15,000 commands per cycle, 0.1 ms each


class CircuitBreaker:
    """Remembers what calls to one server have cost, and refuses the next one."""

    def __init__(self) -> None:
        self._away_until = 0.0
        self._spent: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()  # sensors tick beside each other on one store

    def check(self) -> None:
        """Give up on a server that is slow on every call: a cycle of many calls must fail visibly, not stretch.

        Raises
        ------
        TimeoutError
            It has not answered within the last AWAY_SEC, or too much was lost waiting for it.
        """
        if time.monotonic() < self._away_until:
            message = "it did not answer a moment ago"
            raise TimeoutError(message)
        with self._lock:
            while self._spent and self._spent[0][0] < time.monotonic() - BUDGET_WINDOW_SEC:
                self._spent.popleft()
            spent = sum(seconds for _, seconds in self._spent)
        if spent > BUDGET_SEC:
            message = f"{spent:.1f} s lost waiting for it within {BUDGET_WINDOW_SEC:.0f} s"
            raise TimeoutError(message)

    def open(self) -> None:
        """Refuse all calls of the next AWAY_SEC."""
        self._away_until = time.monotonic() + AWAY_SEC

    def record(self, began: float, commands: int) -> None:
        """Note what a call that began then, by the monotonic clock, has cost beyond the work of its commands."""
        with self._lock:
            self._spent.append((began, max(time.monotonic() - began - commands * COMMAND_SEC, 0.0)))
