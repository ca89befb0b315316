"""Where alerts go: every recipient of the Apprise URLs of their severity, and the stream of alerts.

Each recipient of an address is a sink of its own: Apprise answers for all of them at once, and who got a message would get it
again with every attempt for the one that did not. When a message is tried, again or no more is decided in
``quantum_ops.alerts.outbox``; what it says, in ``quantum_ops.alerts.incidents``. URLs hold credentials: none of their parts is
ever printed.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from quantum_core.alert_catalogue import SEVERITIES
from quantum_core.contracts.codecs import TIME
from quantum_core.settings import Settings
from quantum_ops.alerts.answers import Answer, Overheard, answers_meanwhile
from quantum_ops.alerts.words import Message
from resources.store.profiles import bring_up_to_date
from resources.store.redis_store import RedisStore, flat
from resources.store.transport.unavailable import RedisUnavailableError

STREAM_MAXLEN = 10_000
SECRET_CHARS_MIN = 3  # shorter parts of a URL are no secrets, and hiding them would garble every text
ERROR_CHARS_MAX = 300


class DeliveryError(RuntimeError):
    """A sink did not take a message; the text holds no credentials.

    Parameters
    ----------
    text
        Why.
    retry_after_sec
        What the service asked for before the next attempt.
    tries_max
        Attempts after which the message is given up; 0: it is tried for a day.
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
        with self._apprise() as (apprise, logged), answers_meanwhile() as answers:
            notifier = apprise.Apprise(asset=self._service.asset)
            notifier.add(self._service)
            taken = notifier.notify(
                body=message.text,
                title=f"[quantum] {message.event}: {message.title}",
                notify_type=apprise.NotifyType.SUCCESS if message.event == "cleared" else apprise.NotifyType(message.level),
                body_format=apprise.NotifyFormat.TEXT,
            )
        if not taken:
            last_answer = answers[-1] if answers else Answer()
            text = hide(" ".join(logged) or "not taken, no reason given", self._url)
            raise DeliveryError(text, retry_after_sec=last_answer.retry_after_sec, tries_max=last_answer.tries_max)

    @contextmanager
    def _apprise(self) -> Iterator[tuple[Any, list[str]]]:
        """Give Apprise, and what it logs meanwhile: it answers yes or no, and says why only there."""
        try:
            import apprise

            with Overheard() as logged:
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
