"""What services answer to Apprise, overheard: it says yes or no, and passes on neither status, Retry-After nor reason.

Only what the calling thread's own requests were answered, and what was logged in it. What follows from an answer is decided in
``quantum_ops.alerts.outbox``.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

REFUSED_TRIES = 12  # half an hour: a service that says no to a message is asked no longer
UNANSWERED_TRIES = 4  # a service that took the request and did not answer may have delivered it every time
NOT_NOW = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)  # of the 400s: later it may be yes


@dataclass(frozen=True)
class Answer:
    """What became of one HTTP request: what the service asked for, and how often it may be asked."""

    retry_after_sec: float = 0.0
    tries_max: int = 0

    @classmethod
    def of(cls, status: int, retry_after: str | None) -> Answer:
        """Judge a response by its status and its Retry-After."""
        refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in NOT_NOW
        return cls(_seconds(retry_after), REFUSED_TRIES if refused else 0)


_heard = threading.local()


@contextmanager
def answers_meanwhile() -> Iterator[list[Answer]]:
    """Give what this thread's HTTP requests are answered meanwhile: Apprise passes on neither status nor Retry-After."""
    _listen()
    _heard.answers = []
    try:
        yield _heard.answers
    finally:
        _heard.answers = None


@functools.cache
def _listen() -> None:
    import requests

    send = requests.Session.send

    @functools.wraps(send)
    def noted(self: Any, request: Any, **options: Any) -> Any:
        answers = getattr(_heard, "answers", None)
        try:
            answer = send(self, request, **options)
        except requests.ReadTimeout:
            if answers is not None:
                answers.append(Answer(tries_max=UNANSWERED_TRIES))
            raise
        if answers is not None:
            answers.append(Answer.of(answer.status_code, answer.headers.get("Retry-After")))
        return answer

    requests.Session.send = noted  # type: ignore[method-assign]


def _seconds(retry_after: str | None) -> float:
    """Read a Retry-After: seconds, or a date (RFC 9110, section 10.2.3); 0 where it is neither."""
    text = (retry_after or "").strip()
    if text.isdecimal() and text.isascii():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    return max((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp(), 0.0)


class Overheard(logging.Handler):
    """Collects what Apprise logs in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()
        self.lines: list[str] = []

        self.log = logging.getLogger("apprise")
        for name in ("urllib3", "requests"):  # at DEBUG they print addresses, tokens included
            logging.getLogger(name).setLevel(logging.INFO)

    def __enter__(self) -> list[str]:
        self.log.propagate = False  # it may name the URL; what is passed on from here has that taken out
        self.log.addHandler(self)
        return self.lines

    def __exit__(self, *_: object) -> None:
        self.log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what was logged by this thread."""
        if record.thread == self.thread:
            self.lines.append(record.getMessage())
