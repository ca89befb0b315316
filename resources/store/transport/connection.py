"""Connections to Redis: one round trip at a time, bounded, to whichever server is the master now.

Commands go in and replies come out; what tables and keys mean is :mod:`resources.store.redis_store`'s.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from quantum_core.contracts.reading import VALUE_BYTES_MAX
from quantum_core.settings import Sentinels, Settings
from resources.store.transport.breaker import CircuitBreaker
from resources.store.transport.scripts import ScriptCalls
from resources.store.transport.unavailable import RedisUnavailableError, raise_if_unfit

RECONNECT_SEC = 30.0  # who only reads gets no error from a server that was demoted: connections are not used for longer
CALL_BOUND_SEC = 3.0  # one round trip, however large
SEND_BYTES = 64 * 1024  # commands are sent as soon as so much has come together, and the server starts on them
SENTINEL_TIMEOUT_SEC = 0.5
COMMAND_TIMEOUT_SEC = 1.0  # redis-py's own defaults retry ten times and can block one call for a minute


class OversizedError(redis.ResponseError):
    """What stands there is larger than anything the product takes; only that key is refused."""


def connect(settings: Settings, protocol: int = 2) -> redis.Redis:
    """Open a client whose every call is bounded: one second, no hidden retries, bytes in and out.

    Where the settings name sentinels, they are asked for the master with every new connection. Protocol 3 can hear of writes.
    """
    bounded: dict[str, Any] = {
        "socket_timeout": COMMAND_TIMEOUT_SEC,
        "socket_connect_timeout": COMMAND_TIMEOUT_SEC,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": protocol,
        "decode_responses": False,
        "client_name": f"quantum@{socket.gethostname()}",
    }
    at = settings.sentinels
    if at is None:
        return redis.Redis.from_url(
            settings.url, **(settings.tls_files if settings.url.startswith("rediss://") else {}), **bounded
        )
    name, _, password = (unquote(part) or None for part in at.user.rstrip("@").partition(":"))
    tls = {"ssl": True, **settings.tls_files} if at.tls else {}
    manager = Sentinel(at.hosts, sentinel_kwargs=sentinel_options(settings, at))  # type: ignore[no-untyped-call]
    user = {"username": name, "password": password}
    client: redis.Redis = manager.master_for(at.service, db=at.db, **user, **tls, **bounded)  # type: ignore[no-untyped-call]
    return client


def sentinel_options(settings: Settings, at: Sentinels) -> dict[str, Any]:
    """Give the options of connections to the sentinels themselves: all three are asked within the bound of one call."""
    return {
        "socket_timeout": SENTINEL_TIMEOUT_SEC,
        "socket_connect_timeout": SENTINEL_TIMEOUT_SEC,
        "retry": Retry(NoBackoff(), 0),
        "password": settings.redis_sentinel_password.get_secret_value() or None,
        **({"ssl": True, **settings.tls_files} if at.tls else {}),
    }


class RedisServer:
    """One server, whose every call is one bounded round trip.

    Parameters
    ----------
    settings
        Address, passwords and certificates.
    client
        An open client, when there is one already.
    """

    def __init__(self, settings: Settings, client: redis.Redis | None = None) -> None:
        self.settings = settings
        self.client = client or connect(settings)
        self._connected = time.monotonic()
        self._breaker, self._scripts = CircuitBreaker(), ScriptCalls()

    @property
    def place(self) -> str:
        """Address of the master as the sentinels named it for the last connection; empty where none are asked."""
        address = getattr(self.client.connection_pool, "master_address", None)
        return ":".join(map(str, address)) if address else ""

    def run(self, doing: str, commands: Iterable[Sequence[Any]], *, judged: bool = True) -> list[Any]:
        """Send many commands in one round trip; a failed command is its exception, in place.

        They are executed in order, but for scripts the server has lost: those follow in a second one (see :mod:`.scripts`).

        Parameters
        ----------
        doing
            Completes "cannot be used while ...".
        commands
            Each one a command with its arguments.
        judged
            Whether an answer that says the server cannot be used is raised; else it stays in place, for who examines it.

        Raises
        ------
        RedisUnavailableError
            The server could not be reached, went away, or was too slow.
        """
        try:
            self._breaker.check()
        except TimeoutError as refused:
            raise RedisUnavailableError(self.settings.redis_address, doing, refused) from None
        count = 0
        began = time.monotonic()
        if began - self._connected > RECONNECT_SEC:
            self._resolve_anew()
            self._connected = began
        # The socket's timeout bounds one read; a server that trickles bytes would never meet it.
        watchdog = threading.Timer(CALL_BOUND_SEC, self.client.connection_pool.disconnect)
        watchdog.daemon = True
        watchdog.start()
        try:
            calls: dict[int, Sequence[Any]] = {}
            replies = _exchange(self.client.connection_pool, self._scripts.outgoing(commands, calls))
            count = len(replies)
            if again := self._scripts.refused(calls, replies):
                for row, reply in zip(again, _exchange(self.client.connection_pool, again.values()), strict=True):
                    replies[row] = reply
                count += len(again)
            if judged:
                raise_if_unfit(replies)
        except (redis.RedisError, OSError, ValueError) as error:
            # A refused database or password is no answer either; ValueError is a socket the watchdog closed under a read.
            self._breaker.open()
            self._resolve_anew()  # all connections lead to where this one did
            raise RedisUnavailableError(self.settings.redis_address, doing, error) from error
        finally:
            watchdog.cancel()
            self._breaker.record(began, count)
        return replies

    def _resolve_anew(self) -> None:
        """Let the next call connect to whatever the address leads to then, of which no script is known."""
        self._scripts.forget()
        self.client.connection_pool.disconnect(inuse_connections=False)


def _exchange(pool: Any, commands: Iterable[Sequence[Any]]) -> list[Any]:
    """Send commands while they are made, and read all replies; a failed command is its exception, in place.

    redis-py's pipeline packs everything before it sends anything, and gives each reply a shape of its own: with 15,000 commands
    per cycle the server waited for us, then we for it, and a tenth of a cycle went into replies nobody wanted reshaped.
    """
    connection: Any = pool.get_connection()
    try:
        sent, packed, size = 0, [], 0
        for command in commands:
            packed.append(pack_command(tuple(command)))
            size += len(packed[-1])
            sent += 1
            if size > SEND_BYTES:
                connection.send_packed_command([b"".join(packed)])  # a list is sent piece by piece, a system call each
                packed, size = [], 0
        connection.send_packed_command([b"".join(packed)])
        return [_reply(connection) for _ in range(sent)]
    except BaseException:
        connection.disconnect()  # replies may still be on their way
        raise
    finally:
        pool.release(connection)


def _reply(connection: Any) -> Any:
    try:
        reply = connection.read_response()
    except redis.ResponseError as error:
        return error
    return reply if _size(reply) <= VALUE_BYTES_MAX else OversizedError(f"larger than {VALUE_BYTES_MAX} bytes")


def _size(reply: Any) -> int:
    if isinstance(reply, bytes):
        return len(reply)
    if not isinstance(reply, list):
        return 0
    try:
        return sum(map(len, reply))
    except TypeError:  # numbers and nothings among them
        return sum(len(one) for one in reply if isinstance(one, bytes))
