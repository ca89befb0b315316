"""Delivery of alerts: one queue for each sink, each at its own pace.

A sink that is slow or away holds up nobody else, gets every message in order once it answers again, and says meanwhile what is
the matter with it. What a sink is, and how a message reaches it, is in ``quantum_ops.alerts.sinks``.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from quantum_ops.alerts.sinks import ERROR_CHARS_MAX, DeliveryError, Sink
from quantum_ops.alerts.words import Message

FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 5.0, 300.0
ATTEMPTS_IN_A_ROW = 4  # then the messages of other alerts are tried first
KEPT_SEC = 86400.0  # an alert that could not be delivered within a day is given up, and counted
RETRY_AFTER_SEC_MAX = 3600.0  # what a service may ask for

log = logging.getLogger("quantum.alerts")


@dataclass(frozen=True)
class SinkState:
    """How delivery to one sink stands.

    Attributes
    ----------
    name
        The sink.
    pending, delivered, failures, given_up
        Messages waiting, messages taken, attempts that failed, messages dropped; since the start.
    last_error
        Of the last attempt, when that failed.
    lost
        Title of the message last given up, and why; empty once another has been taken since.
    lost_at
        When the first of those that were given up since was, epoch s.
    """

    name: str
    pending: int
    delivered: int
    failures: int
    given_up: int
    last_error: str
    lost: str = ""
    lost_at: float = 0.0


class Outbox:
    """The queue of one sink, and the thread that empties it.

    Parameters
    ----------
    sink
        Where the messages go.
    clock
        Source of the time, aware UTC.
    pending
        What a predecessor left undelivered, oldest first.
    first_pause_sec
        Pause after a failed attempt; each further one doubles it, up to LONGEST_PAUSE_SEC.
    delivered
        Called after each message that has left the queue.
    """

    def __init__(
        self,
        sink: Sink,
        clock: Callable[[], datetime],
        pending: Iterable[Message] = (),
        *,
        first_pause_sec: float = FIRST_PAUSE_SEC,
        delivered: Callable[[], None] = lambda: None,
    ) -> None:
        self.sink = sink
        self.clock = clock
        self.first_pause_sec = first_pause_sec
        self._after_delivery = delivered
        self._queue = deque(pending)
        self._delivered = self._failures = self._given_up = 0
        self._tries: Counter[tuple[str, str, float]] = Counter()  # of what waits
        self._last_error = self._lost = ""
        self._lost_at = 0.0
        self._ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"alerts {sink.name}", daemon=True)

    def start(self) -> None:
        """Start delivering."""
        self._thread.start()

    def put(self, messages: Sequence[Message]) -> None:
        """Append the messages this sink takes."""
        with self._changed:
            self._queue.extend(self.taken(messages))
            self._changed.notify()

    def taken(self, messages: Iterable[Message]) -> list[Message]:
        """Select the messages this sink takes: those of its severities, and the end of what it heard the beginning of."""
        return [one for one in messages if not self.sink.severities.isdisjoint({one.severity, *one.routes})]

    def stop(self, within_sec: float) -> None:
        """Stop delivering; a delivery under way may end."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(within_sec)

    def undelivered(self) -> list[Message]:
        """Give what waits, oldest first."""
        with self._changed:
            return list(self._queue)

    def state(self) -> SinkState:
        """Give the state of the delivery."""
        with self._changed:
            counts = (len(self._queue), self._delivered, self._failures, self._given_up)
            return SinkState(self.sink.name, *counts, self._last_error, self._lost, self._lost_at)

    def _work(self) -> None:
        try:
            self.sink.prepare()
        except DeliveryError as error:
            self._failed(error)
        pause, refused = 0.0, 0
        while (message := self._next(pause)) is not None:
            if self.clock().timestamp() - message.at > KEPT_SEC:
                self._leave(given_up=f"not delivered within a day; {self._last_error}")
                continue
            try:
                self.sink.deliver(message)
            except DeliveryError as error:
                self._failed(error)
                pause, refused = min(2 * pause or self.first_pause_sec, LONGEST_PAUSE_SEC), refused + 1
                pause = max(pause, min(error.retry_after_sec, RETRY_AFTER_SEC_MAX))
                if 0 < error.tries_max <= self._tried(message):
                    self._leave(given_up=f"{error.tries_max} attempts; {error}")
                elif refused % ATTEMPTS_IN_A_ROW == 0:
                    self._let_others_pass(message)
                continue
            pause, refused = 0.0, 0
            self._leave()

    def _next(self, pause: float) -> Message | None:
        """Wait for the pause to be over and for a message; ``None`` when the work ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending, pause)
            self._changed.wait_for(lambda: self._ending or self._queue)
            return None if self._ending else self._queue[0]

    def _let_others_pass(self, message: Message) -> None:
        """Put a message behind those of other alerts: the service may refuse this one only. Its own alert stays in order."""
        with self._changed:
            same = [one for one in self._queue if one.alert == message.alert]
            self._queue = deque([*(one for one in self._queue if one.alert != message.alert), *same])

    def _tried(self, message: Message) -> int:
        """Count one more attempt to deliver a message."""
        which = (message.alert, message.event, message.at)
        self._tries[which] += 1
        return self._tries[which]

    def _failed(self, error: DeliveryError) -> None:
        log.warning("%s: %s", self.sink.name, error)
        with self._changed:
            self._failures += 1
            self._last_error = str(error)[:ERROR_CHARS_MAX]

    def _leave(self, *, given_up: str = "") -> None:
        """Take the first message out: it was delivered, or is given up for a reason."""
        with self._changed:
            message = self._queue.popleft()
            self._tries.pop((message.alert, message.event, message.at), None)
            if given_up:
                self._lost_at = self._lost_at or self.clock().timestamp()
                self._lost = f"{message.title} ({given_up})"[:ERROR_CHARS_MAX]
                self._given_up += 1
            else:
                self._delivered, self._last_error, self._lost, self._lost_at = self._delivered + 1, "", "", 0.0
        if given_up:
            log.error("%s: given up: %s: %s", self.sink.name, message.title, given_up)
        self._after_delivery()
