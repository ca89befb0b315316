"""The bell: wakes the sensor daemon when a key that its sensors read was written. It only wakes, it decides nothing.

One connection asks the server to name every write to these keys (``CLIENT TRACKING ON BCAST``: streams, sorted sets, lists and
strings alike; Redis 6 and later, Valkey). What a ring may start is decided by the sensor that it wakes, which reads for itself;
a lost ring costs at most the 5 s of the daemon's own grid. Marks move every second: writes to raw data that bring nothing a
cycle is started for wake nobody, see :class:`resources.inputs.news.NewsFilter`. Here is who is woken, and when; how the daemon is
made to listen is in ``resources/instance/sensor_daemon.py``.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, cast

import redis
from redis.connection import Connection

from quantum_core.contracts.roles import pattern
from quantum_core.contracts.tables import CANDLE_KEYS, Keys
from quantum_core.freshness import BELL
from quantum_core.settings import Settings
from resources.governor.queue import GROUP
from resources.inputs.foreign import parse_entry_id
from resources.store.transport.connection import connect
from resources.store.transport.unavailable import RedisUnavailableError

GRID_SEC = 5.0  # between two turns of the daemon's own grid
PROBE_SEC = 5.0  # how often it writes its heartbeat: the time when it last heard of a write to that very key
DEAF_SEC = 2.0  # after such a write without hearing of it, the connection is given up
AGAIN_SEC = 1.0  # between two attempts to connect
FORGOTTEN_SEC = 3.0  # a ring that its sensor has not taken by then: the sensor is stopped, or its tick hangs
WAITING_SEC = 0.2  # between two checks whether plans wait that the running decision has not taken


class DeafError(redis.ConnectionError):
    """The connection answers, but names no writes."""

    def __init__(self) -> None:
        super().__init__(f"the server names no writes: not told of one of its own within {DEAF_SEC:.0f} s")


class Wake(NamedTuple):
    """When a sensor is woken: so long after the first ring, in s, and not sooner after it was woken last."""

    debounce_sec: float
    gap_sec: float


WAKES: Mapping[str, Wake] = {"plans": Wake(0.003, 0.05), "cycle": Wake(0.15, 0.25)}
GAP_SEC_PER_SYMBOL = 0.001  # more between two ticks of the cycle: each reads what is new of all symbols
RAW = (*CANDLE_KEYS, "raw_position")
RINGS: Mapping[str, str] = {  # key template to the sensor it wakes
    "stream_plans": "plans",
    **dict.fromkeys(("kill", "disarmed", "disarm", "disarmed_scopes", "guard_active"), "plans"),
    **dict.fromkeys((*RAW, "events_waiting"), "cycle"),
}

log = logging.getLogger("quantum.bell")


def prefixes(keys: Keys) -> dict[bytes, str]:
    """Give the beginnings of keys and the sensor each of them wakes; none is the beginning of another, as the server demands."""
    every = {_prefix(keys, name): sensor for name, sensor in RINGS.items()}
    return {
        prefix.encode(): sensor
        for prefix, sensor in every.items()
        if prefix and not any(prefix != shorter and prefix.startswith(shorter) for shorter in every if shorter)
    }


def _prefix(keys: Keys, name: str) -> str:
    return pattern(keys, name).partition("*")[0].partition("[")[0]


class Bell:
    """Who is to be woken, and when. One thread listens, the ticks' threads take.

    Parameters
    ----------
    settings
        Address of the server, and key names.
    is_news
        Asked with the keys of raw data that were written whether somebody is to be woken for them; without it, always.
    monotonic, now
        Clocks: of waiting, and of the heartbeat in epoch s.
    """

    def __init__(
        self,
        settings: Settings,
        is_news: Callable[[Collection[bytes]], bool] = bool,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._is_news, self._monotonic, self._now = is_news, monotonic, now
        self._keys = settings.keys
        self._prefixes = prefixes(settings.keys)
        self._raw = tuple(_prefix(settings.keys, name).encode() for name in RAW)
        self._heartbeat = settings.keys.of("heartbeat", BELL).encode()
        self._ended = settings.keys.of("events_waiting").encode()  # what a cycle has waited for: neither debounce nor pause
        self._client = connect(settings, protocol=3)
        self._connection: Connection | None = None
        self._gap_sec = {sensor: wake.gap_sec for sensor, wake in WAKES.items()}
        self._gap_sec["cycle"] += GAP_SEC_PER_SYMBOL * len(settings.symbols)
        self._lock = threading.Lock()  # ticks take from threads of their own
        self._due: dict[str, float] = {}  # sensor to when it is to be woken
        self._rung: dict[str, float] = {}  # since when it is to be
        self._woken: dict[str, float] = {}
        self._written: set[bytes] = set()  # keys of raw data, since somebody was last asked about them
        self._doubted: set[str] = set()  # sensors that are to be woken for those alone
        self._heard_epoch, self._hears = 0.0, False  # when it last heard of a write of its own; whether on this connection
        self._probed: float | None = None  # since when it waits to hear of one
        self._probe_at = self._connect_at = -math.inf
        self._look_at = math.inf  # whether plans still wait
        self._trouble = ""

    # --- who is to be woken

    def ring(self, sensor: str, *, at_once: bool = False, written: bytes = b"") -> None:
        """Have a sensor woken; for a key of raw data only if that brings news."""
        wake = WAKES.get(sensor, Wake(0, 0))
        with self._lock:
            if not written:
                self._doubted.discard(sensor)
            elif sensor not in self._due:
                self._doubted.add(sensor)
            self._written |= {written} - {b""}
            now = self._monotonic()
            again = self._woken.get(sensor, -math.inf) + self._gap_sec.get(sensor, 0.0)
            when = now if at_once else max(now + wake.debounce_sec, again)
            self._due[sensor] = min(when, self._due.get(sensor, math.inf))
            self._rung.setdefault(sensor, now)

    def postpone(self, sec: float) -> None:
        """Wake those whose turn it is a little later: the last tick of theirs still runs. One that never takes is forgotten."""
        with self._lock:
            now = self._monotonic()
            for sensor in [sensor for sensor, when in self._due.items() if when <= now]:
                if now - self._rung[sensor] > FORGOTTEN_SEC:
                    del self._due[sensor], self._rung[sensor]
                    self._doubted.discard(sensor)
                else:
                    self._due[sensor] = now + sec

    def is_due(self, sensor: str) -> bool:
        """Return whether it is time to wake a sensor."""
        return sensor not in self._doubted and self._due.get(sensor, math.inf) <= self._monotonic()

    def take(self, sensor: str) -> bool:
        """Note that a sensor is asked, and return whether it was to be woken."""
        with self._lock:
            if self._due.pop(sensor, None) is None:
                return False
            del self._rung[sensor]
            self._doubted.discard(sensor)
            self._woken[sensor] = now = self._monotonic()
            if sensor == "plans":
                self._look_at = now + WAITING_SEC
            return True

    def _next(self) -> float:
        with self._lock:
            return min(self._due.values(), default=math.inf)

    def _dismiss(self) -> bool:
        """Let go of a ring that has brought no news, and return whether now nobody is to be woken."""
        with self._lock:
            now = self._monotonic()
            doubted = [sensor for sensor in self._doubted if self._due[sensor] <= now]
            if doubted:
                written, self._written = self._written, set()
        if doubted:
            try:
                news = self._is_news(written)
            except (RedisUnavailableError, redis.RedisError, OSError):
                news = True  # the sensor says what is wrong
            with self._lock:
                for sensor in doubted:
                    if sensor in self._doubted and not news:
                        del self._due[sensor], self._rung[sensor]
                    self._doubted.discard(sensor)
        return self._next() > self._monotonic()

    # --- listening

    def listen(self, until: float) -> bool:
        """Listen until a sensor is to be woken, and no longer than until then by the monotonic clock; return whether one is."""
        while not self._listen(until):
            if self._monotonic() >= until:
                return False
        return True

    def _listen(self, until: float) -> bool:
        while (now := self._monotonic()) < min(until, self._next()):
            try:
                self._serve(now)
                self._hear(min(until, self._next(), self._look_at, self._probe_at) - now)
            except (redis.RedisError, OSError) as error:
                self._give_up(str(error))
                time.sleep(max(0.0, min(until, self._next(), self._connect_at) - self._monotonic()))
        return not self._dismiss()

    def _serve(self, now: float) -> None:
        if self._connection is None:
            self._open(now)
        if self._probed is not None and now - self._probed > DEAF_SEC:
            raise DeafError
        if now >= self._probe_at:
            self._probe(now)
        if now >= self._look_at:
            self._look_at = math.inf
            if self._plans_wait():
                self.ring("plans")

    def _open(self, now: float) -> None:
        if now < self._connect_at:
            raise redis.ConnectionError(self._trouble)
        self._connect_at = now + AGAIN_SEC
        connection = self._client.connection_pool.get_connection()
        self._connection, self._hears = connection, False
        connection._parser.set_invalidation_push_handler(self._told)  # noqa: SLF001 - redis-py has no public way
        tracked = [word for prefix in (*self._prefixes, self._heartbeat) for word in (b"PREFIX", prefix)]
        self._ask("CLIENT", "TRACKING", "ON", "BCAST", *tracked)
        self._probe(now)
        for sensor in WAKES:  # nobody has listened until now
            self.ring(sensor)

    def _probe(self, now: float) -> None:
        self._probe_at = now + PROBE_SEC
        self._probed = now if self._probed is None else self._probed
        self._ask("SET", self._heartbeat, repr(self._heard_epoch))

    def _told(self, push: Any) -> None:
        names: Iterable[bytes] | None = push[1]
        emptied = names is None  # the whole database
        for name in (self._heartbeat, *self._prefixes) if names is None else names:
            if name == self._heartbeat:
                if not self._hears:
                    self._probe_at = -math.inf  # so that the key says so at once
                    self._recovered()
                self._heard_epoch, self._hears, self._probed = self._now(), True, None
                continue
            sensor = next((sensor for prefix, sensor in self._prefixes.items() if name.startswith(prefix)), None)
            if sensor is not None:
                raw = name.startswith(self._raw) and not emptied
                self.ring(sensor, at_once=name == self._ended, written=name if raw else b"")

    def _hear(self, sec: float) -> None:
        connection = cast("Connection", self._connection)
        if connection.can_read(max(sec, 0)):
            connection.read_response(push_request=True, disable_decoding=True)

    def _ask(self, *command: Any) -> Any:
        connection = cast("Connection", self._connection)
        connection.send_command(*command)  # type: ignore[no-untyped-call]
        return connection.read_response(disable_decoding=True)

    def _plans_wait(self) -> bool:
        """Return whether entries of the stream of plans have been given to no governor yet."""
        stream = self._keys.of("stream_plans")
        try:
            newest = self._ask("XREVRANGE", stream, "+", "-", "COUNT", 1)
            groups = self._ask("XINFO", "GROUPS", stream) if newest else []
        except redis.ResponseError:
            return False  # no stream; the sensor says what stands there
        taken = next((row[b"last-delivered-id"] for row in groups if row[b"name"] == GROUP.encode()), b"0-0")
        return bool(newest) and parse_entry_id(newest[0][0].decode()) > parse_entry_id(taken.decode())

    # --- trouble

    def _give_up(self, why: str) -> None:
        if self._connection is not None:
            with suppress(redis.RedisError, OSError):
                self._connection.disconnect()  # type: ignore[no-untyped-call]
            self._client.connection_pool.release(self._connection)
            self._connection = None
        self._probed = None
        if not self._trouble:
            log.warning("the bell is silent: %s; plans and candles are answered every 5 s until it is back", why)
        self._trouble = why

    def _recovered(self) -> None:
        if self._trouble:
            log.warning("the bell rings again")
            self._trouble = ""
