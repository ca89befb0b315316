"""Delivery of alerts: to every recipient of the Apprise URLs of their severity and to the stream of alerts, each at its own pace.

A sink that is slow or away holds up nobody else, gets every message in order once it answers again, and says meanwhile what is
the matter with it. Each recipient of an address is a sink of its own: Apprise answers for all of them at once, and who got a
message would get it again with every attempt for the one that did not. What an alert says is decided in
``quantum_ops.alerts.incidents``. URLs hold credentials: none of their parts is ever printed.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import logging
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from quantum_core.alert_catalogue import SEVERITIES
from quantum_core.contracts.codecs import TIME
from quantum_core.settings import Settings
from quantum_ops.alerts.words import Message
from resources.store.profiles import bring_up_to_date
from resources.store.redis_store import RedisStore, flat
from resources.store.transport.unavailable import RedisUnavailableError

STREAM_MAXLEN = 10_000
FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 5.0, 300.0
ATTEMPTS_IN_A_ROW = 4  # then the messages of other alerts are tried first
KEPT_SEC = 86400.0  # an alert that could not be delivered within a day is given up, and counted
REFUSED_TRIES = 12  # half an hour: a service that says no to a message is asked no longer
UNANSWERED_TRIES = 4  # a service that took the request and did not answer may have delivered it every time
RETRY_AFTER_SEC_MAX = 3600.0  # what a service may ask for
NOT_NOW = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)  # of the 400s: later it may be yes
SECRET_CHARS_MIN = 3  # shorter parts of a URL are no secrets, and hiding them would garble every text
ERROR_CHARS_MAX = 300

log = logging.getLogger("quantum.alerts")


class DeliveryError(RuntimeError):
    """A sink did not take a message; the text holds no credentials.

    Parameters
    ----------
    text
        Why.
    retry_after_sec
        What the service asked for before the next attempt.
    tries_max
        Attempts after which the message is given up; 0: it is tried for KEPT_SEC.
    """

    def __init__(self, text: str, *, retry_after_sec: float = 0.0, tries_max: int = 0) -> None:
        super().__init__(text)
        self.retry_after_sec, self.tries_max = retry_after_sec, tries_max


class WrongAlertUrlError(DeliveryError):
    """An entry of the lists of addresses is no URL Apprise can use."""


class Sink(Protocol):
    """Somewhere alerts go."""

    name: str
    identity: str  # the same after a restart
    severities: frozenset[str]  # of the messages it takes

    def prepare(self) -> None:
        """Do beforehand what would delay the first message; raises :class:`DeliveryError`."""

    def deliver(self, message: Message) -> None:
        """Deliver one message; raises :class:`DeliveryError`."""


class AppriseSink:
    """One entry of ALERT_URLS, ALERT_URLS_WARN or ALERT_URLS_INFO, or one recipient of it (:meth:`recipients`).

    Parameters
    ----------
    url
        Apprise URL.
    position
        Its place in the list, from 1: with the scheme it is the only name that contains no secret.
    variable
        The list.
    severities
        Of the messages it takes.
    """

    def __init__(
        self, url: SecretStr, position: int, variable: str = "ALERT_URLS", severities: Iterable[str] = SEVERITIES
    ) -> None:
        self._url = url.get_secret_value()
        self.variable, self.severities = variable, frozenset(severities)
        scheme = self._url.partition("://")[0] if "://" in self._url else "?"
        of_list = variable.removeprefix("ALERT_URLS").strip("_").lower()
        self.name = f"{f'{of_list} ' if of_list else ''}{position}:{scheme}"
        self.identity = hashlib.blake2s(self._url.encode(), digest_size=8).hexdigest()
        self._service: Any = None

    def prepare(self) -> None:
        """Load Apprise, which takes most of a second, and let it understand the URL.

        Raises
        ------
        WrongAlertUrlError
            It does not.
        """
        if self._service is not None:
            return
        with self._apprise() as (apprise, lines):
            # In this thread and to its end: a delivery Apprise gave up waiting for may still arrive, beside the one tried again.
            asset = apprise.AppriseAsset(async_mode=False, service_timeout=0)
            service = apprise.Apprise.instantiate(self._url, asset=asset)
        if service is None:
            msg = f"entry {self.name} of {self.variable} is no Apprise URL: {hide(' '.join(lines), self._url)}"
            raise WrongAlertUrlError(msg)
        self._service = service

    def recipients(self) -> list[AppriseSink]:
        """Give one sink for each recipient of the address; itself where it has one, or cannot be understood."""
        try:
            self.prepare()
        except DeliveryError:  # named when it is tried
            return [self]
        parts = _one_each(self._service)
        if len(parts) < 2:
            return [self]
        copies = []
        for number, (target, service) in enumerate(parts, start=1):
            sink = copy.copy(self)
            sink.name, sink._service = f"{self.name}/{number}", service  # noqa: SLF001 - its own class
            sink.identity = hashlib.blake2s(f"{self._url}\0{target!r}".encode(), digest_size=8).hexdigest()
            copies.append(sink)
        return copies

    def deliver(self, message: Message) -> None:
        """Send one message.

        Raises
        ------
        DeliveryError
            The service refused it or did not answer.
        """
        self.prepare()
        with self._apprise() as (apprise, logged), _answers() as answers:
            notifier = apprise.Apprise(asset=self._service.asset)
            notifier.add(self._service)
            taken = notifier.notify(
                body=message.text,
                title=f"[quantum] {message.event}: {message.title}",
                notify_type=apprise.NotifyType.SUCCESS if message.event == "cleared" else apprise.NotifyType(message.level),
                body_format=apprise.NotifyFormat.TEXT,
            )
        if not taken:
            last_answer = answers[-1] if answers else _Answer()
            text = hide(" ".join(logged) or "not taken, no reason given", self._url)
            raise DeliveryError(text, retry_after_sec=last_answer.retry_after_sec, tries_max=last_answer.tries_max)

    @contextmanager
    def _apprise(self) -> Iterator[tuple[Any, list[str]]]:
        """Give Apprise, and what it logs meanwhile: it answers yes or no, and says why only there."""
        try:
            import apprise

            with _Overheard() as logged:
                yield apprise, logged
        except Exception as error:  # noqa: BLE001 - a hundred plugins of others: whatever one raises must not end the thread
            raise DeliveryError(hide(f"{type(error).__name__}: {error}", self._url)) from None


class StreamSink:
    """The stream of alerts in Redis.

    Parameters
    ----------
    store
        A store of its own: it is used from another thread.
    """

    name = "redis stream"
    identity = "stream"
    severities: frozenset[str] = frozenset(SEVERITIES)

    def __init__(self, store: RedisStore) -> None:
        self.store = store

    def prepare(self) -> None:
        """Do nothing: there is nothing to load."""

    def deliver(self, message: Message) -> None:
        """Append one entry.

        Raises
        ------
        DeliveryError
            Redis is away, or the key is no stream.
        """
        fields = {
            "event": message.event,
            "alert": message.alert,
            "kind": message.kind,
            "severity": message.severity,
            "level": message.level,
            "title": message.title,
            "text": message.text,
            "symbols": ",".join(message.symbols),
            "since": f"{message.since:.0f}",
            "limit": message.limit,
            "timestamp": f"{message.at:.0f}",
        }
        key = self.store.keys.of("stream_alerts")
        try:
            bring_up_to_date(self.store)
            fields["profile"] = self.store.profile.fingerprint
            (reply,) = self.store.run("sending an alert", [("XADD", key, "MAXLEN", "~", STREAM_MAXLEN, "*", *flat(fields))])
        except RedisUnavailableError as error:
            raise DeliveryError(str(error)) from error
        if isinstance(reply, Exception):
            msg = f"{key} cannot be used as a stream: {reply}"
            raise DeliveryError(msg)


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


def sinks(settings: Settings, clock: Callable[[], datetime]) -> list[Sink]:
    """List the sinks of the settings: the stream first, then the recipients of the addresses in their order.

    A recipient that stands in several lists is one sink, under the first of them.
    """
    lists = {
        "ALERT_URLS": settings.alert_urls,
        "ALERT_URLS_WARN": settings.alert_urls_warn,
        "ALERT_URLS_INFO": settings.alert_urls_info,
    }
    takes: dict[str, set[str]] = {"ALERT_URLS": {"page"}, "ALERT_URLS_WARN": {"warn"}, "ALERT_URLS_INFO": {"info"}}
    if not settings.alert_urls_warn:
        takes["ALERT_URLS"].add("warn")
    by_identity: dict[str, AppriseSink] = {}
    for variable, urls in lists.items():
        for position, url in enumerate(urls, start=1):
            for sink in AppriseSink(url, position, variable, takes[variable]).recipients():
                known = by_identity.setdefault(sink.identity, sink)
                known.severities |= sink.severities
    return [StreamSink(RedisStore(settings, clock)), *by_identity.values()]


def to_json(message: Message) -> dict[str, Any]:
    """Give a message as plain values."""
    return asdict(message)


def from_json(stored: Mapping[str, Any]) -> Message:
    """Read what :func:`to_json` gave."""
    return Message(**{**stored, "symbols": tuple(stored["symbols"]), "routes": tuple(stored.get("routes", ()))})


def trial_message(now: datetime) -> Message:
    """Build the message of ``quantum alerts test``."""
    moment = now.timestamp()
    text = f"A test sent by `quantum alerts test` at {TIME.encode(now)}. Nothing is wrong."
    return Message("raised", "test", "warning", "test of the alerts", text, (), moment, "", moment)


def hide(text: str, url: str) -> str:
    """Take every part of a URL out of a text; most services put their token somewhere in it."""
    split = urlsplit(url)
    values = [value for _, value in parse_qsl(split.query)]
    parts = {url, *values, *re.split(r"[/:@,\s]+", "/".join((split.netloc, split.path, *values)))}
    parts |= {unquote(part) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SECRET_CHARS_MIN:
            text = text.replace(part, "***")
    return text[:ERROR_CHARS_MAX]


def _one_each(service: Any) -> list[tuple[object, Any]]:
    """Take a service of Apprise apart: each recipient, and the service with this one alone."""
    count = len(service)
    lists = {
        name: value for name, value in vars(service).items() if isinstance(value, list | tuple | set) and len(value) == count
    }
    name = "targets" if "targets" in lists else next(iter(lists), "") if len(lists) == 1 else ""
    singles: list[tuple[object, Any]] = []
    for target in sorted(lists[name], key=repr) if name else ():
        single = copy.copy(service)
        setattr(single, name, type(lists[name])([target]))
        for copies in ("cc", "bcc"):  # of a mail: they go with the first
            if singles and isinstance(getattr(single, copies, None), set):
                setattr(single, copies, set())
        singles.append((target, single))
    return singles if all(len(single) == 1 for _, single in singles) else []


@dataclass(frozen=True)
class _Answer:
    """What became of one HTTP request: what the service asked for, and how often it may be asked."""

    retry_after_sec: float = 0.0
    tries_max: int = 0

    @classmethod
    def of(cls, status: int, retry_after: str | None) -> _Answer:
        refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in NOT_NOW
        return cls(_seconds(retry_after), REFUSED_TRIES if refused else 0)


_heard = threading.local()


@contextmanager
def _answers() -> Iterator[list[_Answer]]:
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
                answers.append(_Answer(tries_max=UNANSWERED_TRIES))
            raise
        if answers is not None:
            answers.append(_Answer.of(answer.status_code, answer.headers.get("Retry-After")))
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


class _Overheard(logging.Handler):
    """Collects what Apprise logs in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()
        self.said: list[str] = []

        self.log = logging.getLogger("apprise")
        for name in ("urllib3", "requests"):  # at DEBUG they print addresses, tokens included
            logging.getLogger(name).setLevel(logging.INFO)

    def __enter__(self) -> list[str]:
        self.log.propagate = False  # it may name the URL; what is passed on from here has that taken out
        self.log.addHandler(self)
        return self.said

    def __exit__(self, *_: object) -> None:
        self.log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what was logged by this thread."""
        if record.thread == self.thread:
            self.said.append(record.getMessage())
