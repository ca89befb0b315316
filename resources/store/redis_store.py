"""Redis as the product sees it: tables in, tables out, every call bounded, every symbol on its own.

Reads are one pipelined round trip for all symbols and end in three states. A publication (fields, lifetime, stream entry)
is one server-side script, so no reader ever sees half of one; a server that goes away between two symbols leaves whole
publications and missing ones, nothing between.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from quantum_core.contracts.legs import SEPARATOR, leg_of, underlying
from quantum_core.contracts.reading import VALUE_BYTES_MAX, Reading, State, printable
from quantum_core.contracts.schema import CLOCK_SKEW_SEC, ContractError, Table, publication_due, stamps
from quantum_core.contracts.tables import OF_UNDERLYING, Keys
from quantum_core.settings import Sentinels, Settings

RECONNECT_SEC = 30.0  # who only reads gets no error from a server that was demoted: connections are not used for longer
AWAY_SEC = 2.0  # a server that has just not answered is not asked again by each of the remaining steps
CALL_BOUND_SEC = 3.0  # one round trip, however large
BUDGET_SEC, BUDGET_WINDOW_SEC = 4.0, 10.0  # lost by all round trips of one cycle, beyond what their work costs:
COMMAND_SEC = 0.0005  # generous; 566 symbols are some 15,000 commands per cycle, 0.1 ms each
ELSEWHERE: dict[type[Exception], str] = {  # what a server answers that is not, or not yet, the one to use, and what it then is
    redis.exceptions.ReadOnlyError: "a read-only replica",
    redis.exceptions.BusyLoadingError: "a server that is still loading its data",
    redis.exceptions.MasterDownError: "a replica that has lost its master",
    redis.exceptions.ClusterDownError: "part of a cluster that is down",
    redis.exceptions.AskError: "a server whose keys have moved to another",  # MOVED, too
}
REFUSES_WRITES = {  # by the first word of the answer, in a script or not; no class of redis-py's has all of them
    "READONLY": "a read-only replica",
    "OOM": "out of memory (maxmemory)",
    "MISCONF": "unable to save to its disk",
    "NOREPLICAS": "without the replicas that min-replicas-to-write demands",
}
UNFIT: tuple[type[Exception], ...] = (  # the server's trouble, not a key's
    *ELSEWHERE,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.NoPermissionError,
)
# The same, and what has no class of its own, as a script reports it. A WRONGTYPE is about one key, whatever that key is called.
_NO_RIGHT = r"NOPERM|The user executing the script can't|ACL failure in script"  # Redis 7.0 has words of its own inside a script
_UNFIT_IN_SCRIPT = re.compile(rf"^(?!WRONGTYPE).*\b(READONLY|OOM|MISCONF|NOREPLICAS|BUSY|TRYAGAIN|{_NO_RIGHT})\b", re.DOTALL)
FOREIGN_NAMED = 5  # fields of others, of one hash
SEND_BYTES = 64 * 1024  # commands are sent as soon as so much has come together, and the server starts on them
SENTINEL_TIMEOUT_SEC = 0.5
COMMAND_TIMEOUT_SEC = 1.0  # redis-py's own defaults retry ten times and can block one call for a minute

log = logging.getLogger("quantum.store")

# KEYS[1] hash, KEYS[2..] streams or absent
# ARGV[1] lifetime in s, ARGV[2] published_at_utc as the caller read it ('' for no hash, '*' for whatever is there),
# ARGV[3] count of hash values, the hash's fields and values, then (with KEYS[2]) the stream's cap, the entry's fields and values
# replaces the whole hash: a field that somebody else has written beside ours does not stay
# returns 1, or 0 when someone else has published meanwhile; raises, having written nothing, when a key is of another type
PUBLISH_LUA = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind) end
for i = 2, #KEYS do
  kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
if ARGV[2] ~= '*' and (redis.call('HGET', KEYS[1], 'published_at_utc') or '') ~= ARGV[2] then return 0 end
local last = 3 + tonumber(ARGV[3])
if ARGV[2] == '*' or redis.call('HLEN', KEYS[1]) > tonumber(ARGV[3]) / 2 then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], unpack(ARGV, 4, last))
redis.call('EXPIRE', KEYS[1], ARGV[1])
for i = 2, #KEYS do redis.call('XADD', KEYS[i], 'MAXLEN', '~', ARGV[last + 1], '*', unpack(ARGV, last + 2)) end
return 1
"""

# KEYS streams; ARGV[1] their cap, then the entry's fields and values
# returns 1; raises, having written nothing, when a key is of another type
APPEND_LUA = """
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind) end
end
for i = 1, #KEYS do redis.call('XADD', KEYS[i], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 2)) end
return 1
"""

# KEYS[1] hash; ARGV[1] lifetime in s, ARGV[2] published_at_utc the caller decided on, then fields and values to refresh
# returns 1, or 0 when the hash is gone or was published by someone else meanwhile
REFRESH_LUA = """
if redis.call('HGET', KEYS[1], 'published_at_utc') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""


class RedisUnavailableError(RuntimeError):
    """The server did not answer within its bound, or is not fit; nothing half-written is left behind.

    Attributes
    ----------
    condition
        What the server is, where it answers and says so: completes "Redis is ..."; empty where it does not.
    """

    def __init__(self, address: str, doing: str, cause: Exception) -> None:
        self.condition = condition_of(cause)
        known = f"is {self.condition} and " if self.condition else ""
        super().__init__(
            f"Redis at {address} {known}cannot be used while {doing} ({type(cause).__name__}: {cause}). "
            f"Nothing was half-written. {_remedy(address, cause)}"
        )


def condition_of(error: Exception) -> str:
    """Say what a server is that answers with this error: completes "Redis is ..."; empty where the answer does not say."""
    classes = {**ELSEWHERE, redis.exceptions.OutOfMemoryError: REFUSES_WRITES["OOM"]}
    named = next((words for kind, words in classes.items() if isinstance(error, kind)), "")
    found = _UNFIT_IN_SCRIPT.search(str(error)) if isinstance(error, redis.ResponseError) else None
    return named or (REFUSES_WRITES.get(found[1], "") if found else "")


def _remedy(address: str, cause: Exception) -> str:
    if isinstance(cause, MasterNotFoundError):
        return "Check that most sentinels run, that they know the service by that name, and REDIS_SENTINEL_PASSWORD."
    if condition_of(cause) in ELSEWHERE.values():
        return (
            "Its connections were dropped, and the address is resolved anew with the next call. If it stays so, REDIS_URL "
            "leads to the wrong server: name the master, or the sentinels."
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(cause):
        return "REDIS_CA_FILE must name the certificate that signed the server's, and REDIS_URL a host that stands in it."
    if isinstance(cause, redis.exceptions.NoPermissionError) or re.search(_NO_RIGHT, str(cause)):
        return "The user of that address may not do this: docs/security.md says which role needs which address."
    told = "Check that the server runs and that REDIS_URL points to it."
    return f"{told} If it wants certificates of its clients: REDIS_CERT_FILE, REDIS_KEY_FILE." if "rediss://" in address else told


class OversizedError(redis.ResponseError):
    """What stands there is larger than anything the product takes; only that key is refused."""


class UnreadableKeyError(RuntimeError):
    """A key that is needed as a whole (a stream) holds something else; the operator must move it away."""

    def __init__(self, key: str, expected: str, found: object) -> None:
        super().__init__(f"{key} cannot be used as {expected}: {found}. Rename or delete what is there.")


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of one symbol's new values.

    Attributes
    ----------
    symbol
        The symbol.
    published
        True when values, lifetime and stream entry were written; False when only the evaluation time was refreshed.
    cause
        Why it was published, or ``unchanged``.
    error
        Empty, or the named error that kept this symbol (and no other) from being written.
    """

    symbol: str
    published: bool
    cause: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Last:
    """What stands published: its values when readable, and its time as the server has it (see PUBLISH_LUA)."""

    values: dict[str, Any] | None
    published_at: str


def connect(settings: Settings) -> redis.Redis:
    """Open a client whose every call is bounded: one second, no hidden retries, bytes in and out.

    Where the settings name sentinels, they are asked for the master with every new connection.
    """
    bounded: dict[str, Any] = {
        "socket_timeout": COMMAND_TIMEOUT_SEC,
        "socket_connect_timeout": COMMAND_TIMEOUT_SEC,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
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


def _utc_now() -> datetime:
    return datetime.now(UTC)


class RedisStore:
    """Reads and publishes tables, for many symbols at once.

    Parameters
    ----------
    settings
        Address, key names, intervals and the rate limit.
    clock
        Source of the time, aware UTC; the only one in the product.
    client
        An open client, when there is one already.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime] = _utc_now, client: redis.Redis | None = None) -> None:
        self.settings = settings
        self.keys: Keys = settings.keys
        self.clock = clock
        self.client = client or connect(settings)
        self._away_until = 0.0
        self._connected = time.monotonic()
        self._foreign: set[str] = set()  # hashes of which it was said that somebody else writes to them
        self._spent: deque[tuple[float, float]] = deque()
        self.decoded: dict[
            tuple[str, str], tuple[Mapping[bytes, bytes], dict[str, Any]]
        ] = {}  # by key and symbol: as read, and as row
        self._known = frozenset((*settings.symbols, *settings.markets))

    @property
    def place(self) -> str:
        """Address of the master as the sentinels named it for the last connection; empty where none are asked."""
        address = getattr(self.client.connection_pool, "master_address", None)
        return ":".join(map(str, address)) if address else ""

    def as_governor(self) -> RedisStore:
        """Give the store that decides: the same server under the governor's user, or this one when it has none of its own."""
        settings = self.settings.as_governor()
        return self if settings is self.settings else RedisStore(settings, self.clock)

    def run(self, doing: str, commands: Iterable[Sequence[Any]], *, judged: bool = True) -> list[Any]:
        """Send many commands in one round trip; a failed command is its exception, in place.

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
        if time.monotonic() < self._away_until:
            raise RedisUnavailableError(self.settings.redis_address, doing, TimeoutError("it did not answer a moment ago"))
        self._refuse_beyond_budget(doing)
        count = 0
        began = time.monotonic()
        if began - self._connected > RECONNECT_SEC:
            self.client.connection_pool.disconnect(inuse_connections=False)
            self._connected = began
        # The socket's timeout bounds one read; a server that trickles bytes would never meet it.
        watchdog = threading.Timer(CALL_BOUND_SEC, self.client.connection_pool.disconnect)
        watchdog.daemon = True
        watchdog.start()
        try:
            replies = _exchange(self.client.connection_pool, commands)
            count = len(replies)
            if judged:
                _raise_if_unfit(replies)
        except (redis.RedisError, OSError, ValueError) as error:
            # A refused database or password is no answer either; ValueError is a socket the watchdog closed under a read.
            self._away_until = time.monotonic() + AWAY_SEC
            self.client.connection_pool.disconnect(
                inuse_connections=False
            )  # all of them lead to where this one did: the next call resolves anew
            raise RedisUnavailableError(self.settings.redis_address, doing, error) from error
        finally:
            watchdog.cancel()
            self._spent.append((began, max(time.monotonic() - began - count * COMMAND_SEC, 0.0)))
        return replies

    def _refuse_beyond_budget(self, doing: str) -> None:
        """Give up on a server that is slow on every call: a cycle of many calls must fail visibly, not stretch."""
        while self._spent and self._spent[0][0] < time.monotonic() - BUDGET_WINDOW_SEC:
            self._spent.popleft()
        if (spent := sum(seconds for _, seconds in self._spent)) > BUDGET_SEC:
            slow = TimeoutError(f"{spent:.1f} s lost waiting for it within {BUDGET_WINDOW_SEC:.0f} s")
            raise RedisUnavailableError(self.settings.redis_address, doing, slow)

    def read_raw(self, key: str, symbols: Sequence[str]) -> list[Reading[dict[bytes, bytes]]]:
        """Read one hash per symbol as it stands, in one round trip.

        Parameters
        ----------
        key
            Name of the key template.
        symbols
            Symbols (or plan ids), in the order of the result.
        """
        names = [self.keys.of(key, symbol) for symbol in symbols]
        replies = self.run(f"reading {key}", (("HGETALL", name) for name in names))
        readings: list[Reading[dict[bytes, bytes]]] = []
        for symbol, name, reply in zip(symbols, names, replies, strict=True):
            if isinstance(reply, Exception):
                readings.append(Reading.failed(symbol, f"{key}_unreadable: {name}: {reply}"))
            elif not reply:
                readings.append(Reading.absent(symbol, f"{key}_missing"))
            else:
                readings.append(Reading.present(symbol, pairs(reply)))
        return readings

    def read(self, table: Table, symbols: Sequence[str]) -> list[Reading[dict[str, Any]]]:
        """Read and decode one table for many symbols; a hash that breaks its contract is a named failure."""
        readings: list[Reading[dict[str, Any]]] = []
        for raw in self.read_raw(table.key, symbols):
            if raw.value is None:
                readings.append(Reading(raw.symbol, raw.state, None, raw.reason))
                continue
            try:
                readings.append(Reading.present(raw.symbol, self._decode(table, raw.symbol, raw.value)))
            except ContractError as error:
                readings.append(Reading.failed(raw.symbol, f"{table.key}_unreadable: {error}"))
        return readings

    def read_fresh(self, table: Table, symbols: Sequence[str]) -> list[dict[str, Any]]:
        """Read one table and judge its age, one row per symbol in the order asked for.

        Returns
        -------
        list of dict
            ``symbol``, ``state``, ``why`` and the table's fields, where it has any; a hash older than its limit is ``failed`` and
            keeps its fields.
        """
        now, limit = self.clock().timestamp(), self.max_age_sec(table)
        rows: list[dict[str, Any]] = []
        for reading in self.read(table, symbols):
            state, reason, values = reading.state, reading.reason, reading.value or {}
            age = now - float(values["last_update_epoch"]) if values else 0.0
            if age > limit:
                state, reason = State.FAILED, f"{table.asset}_stale: {age:.0f} s > {limit} s"
            elif age < -CLOCK_SKEW_SEC:
                state, reason = State.FAILED, f"{table.asset}_in_future: {-age:.0f} s ahead of the clock"
            elif values and table.presence is not None and not values[table.presence]:
                state, reason = State.ABSENT, f"no_{table.asset}"
            rows.append({**values, "symbol": reading.symbol, "state": str(state), "why": reason})
        return rows

    def _decode(self, table: Table, symbol: str, raw: Mapping[bytes, bytes]) -> dict[str, Any]:
        """Decode a hash; what still holds the bytes decoded last is not decoded again (five steps read each)."""
        last = self.decoded.get((table.key, symbol))
        if last is not None and last[0] == raw:
            return last[1]
        values = table.decode(raw) if last is None else table.redecode(raw, *last)
        if symbol in self._known:
            self.decoded[table.key, symbol] = (raw, values)
        return values

    def _keep(self, table: Table, symbol: str, written: Mapping[str, str]) -> dict[str, Any]:
        """Give the row as it will read back, and remember it for the steps that read it next."""
        values = table.reread(written)
        if symbol in self._known:
            self.decoded[table.key, symbol] = ({name.encode(): text.encode() for name, text in written.items()}, values)
        return values

    def publish(
        self, table: Table, rows: Sequence[Mapping[str, Any]], *, cycle_id: str, stream_only: bool = False
    ) -> list[Publication]:
        """Publish what is due and refresh the evaluation time of the rest: two round trips for any number of symbols.

        Parameters
        ----------
        table
            The contract.
        rows
            One mapping per symbol: ``symbol`` and all fields of the table (and of its stream entry).
        cycle_id
            Written with every publication.
        stream_only
            Append the stream entry of every row and leave the hash alone: a shadow.

        Returns
        -------
        list of Publication
            One per row, in order.
        """
        if not rows:
            return []
        if table.key in OF_UNDERLYING and any(SEPARATOR in row["symbol"] and leg_of(row["symbol"]) for row in rows):
            once = {underlying(row["symbol"]): row for row in rows}  # both legs computed the same, under one key
            named = [{**row, "symbol": symbol} for symbol, row in once.items()]
            shared = dict(zip(once, self.publish(table, named, cycle_id=cycle_id, stream_only=stream_only), strict=True))
            return [replace(shared[underlying(row["symbol"])], symbol=row["symbol"]) for row in rows]
        outcomes: list[Publication] = []
        now = self.clock()
        if table.rate_limited and not stream_only:
            lasts = self._last_published(table, [str(row["symbol"]) for row in rows])
        else:
            lasts = [_Last(None, "*")] * len(rows)
        commands = self._publications(table, rows, lasts, outcomes, cycle_id=cycle_id, now=now, stream_only=stream_only)
        replies = iter(self.run(f"publishing {table.asset}", commands))
        return [self._settle(outcome, replies) for outcome in outcomes]

    def _publications(
        self,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        lasts: Sequence[_Last],
        outcomes: list[Publication],
        *,
        cycle_id: str,
        now: datetime,
        stream_only: bool,
    ) -> Iterator[tuple[Any, ...]]:
        """Make one command per row that keeps its contract, while the server works on those made before; note each outcome."""
        for row, last in zip(rows, lasts, strict=True):
            symbol = str(row["symbol"])
            try:
                encoded = table.encode(row)
                marks = stamps(table, symbol, encoded, cycle_id, now)
                cause = publication_due(
                    table,
                    last.values,
                    self._keep(table, symbol, {**encoded, **marks}) if last.values else {},
                    now=now,
                    change_eps_pct=self.settings.change_eps_pct,
                    max_age_sec=self.settings.max_publish_age_sec,
                )
                if cause is None and table.kept_current:
                    current = {**marks, "published_at_utc": last.published_at}
                    command = self._publish_command(table, row, encoded, current, last.published_at)
                elif cause is None:
                    command = self._refresh_command(table, symbol, last.published_at, marks)
                elif stream_only:
                    command = self._append_command(table, row, encoded, marks)
                else:
                    command = self._publish_command(table, row, encoded, marks, last.published_at)
            except ContractError as error:
                outcomes.append(Publication(symbol, published=False, error=f"contract_broken: {error}"))
                continue
            outcomes.append(Publication(symbol, published=cause is not None, cause=cause or "unchanged"))
            yield command

    def _last_published(self, table: Table, symbols: Sequence[str]) -> list[_Last]:
        found = []
        for raw in self.read_raw(table.key, symbols):
            if raw.value is None:
                found.append(_Last(None, "" if raw.state is State.ABSENT else "*"))
                continue
            try:
                values = self._decode(table, raw.symbol, raw.value)
                if foreign := raw.value.keys() - table.wire_names:
                    self._name_foreign(self.keys.of(table.key, raw.symbol), foreign)
                    found.append(_Last(None, "*"))
                else:
                    found.append(_Last(values, raw.value[b"published_at_utc"].decode()))
            except ContractError:  # damaged, or edited by somebody: the whole publication replaces it
                found.append(_Last(None, "*"))
        return found

    def _name_foreign(self, key: str, foreign: Collection[bytes]) -> None:
        if key not in self._foreign:
            self._foreign.add(key)
            names = ", ".join(printable(name.decode(errors="replace")) for name in sorted(foreign)[:FOREIGN_NAMED])
            log.warning("%s held fields of another writer, which are removed: %s", key, names)

    @staticmethod
    def _settle(outcome: Publication, replies: Any) -> Publication:
        if outcome.error:
            return outcome
        reply = next(replies)
        if isinstance(reply, Exception):
            return Publication(outcome.symbol, published=False, error=f"write_refused: {reply}")
        if reply == 0:
            return Publication(outcome.symbol, published=False, error="overwritten_meanwhile")
        return outcome

    def max_age_sec(self, table: Table) -> int:
        """Give the age from which a table's hashes must no longer be acted on."""
        if table.asset == "market_state":
            return self.settings.marketstate_max_age_sec
        return self.settings.proposal_max_age_sec

    def ttl_sec(self, table: Table) -> int:
        """Give the lifetime of a table's hashes under these settings."""
        if table.ttl_intervals_of is None:
            return table.ttl_sec
        return 10 * int(getattr(self.settings, table.ttl_intervals_of))

    def _append_command(
        self, table: Table, row: Mapping[str, Any], encoded: Mapping[str, str], marks: Mapping[str, str]
    ) -> tuple[Any, ...]:
        if table.stream is None:
            raise ContractError(table.asset, "has no stream to shadow")
        keys = [self.keys.of(name, str(row["symbol"])) for name in table.stream.keys]
        entry = flat(table.stream_entry(row, encoded, marks))
        if len(keys) > 1:
            return ("EVAL", APPEND_LUA, len(keys), *keys, table.stream.maxlen, *entry)
        return ("XADD", *keys, "MAXLEN", "~", table.stream.maxlen, "*", *entry)

    def _publish_command(
        self, table: Table, row: Mapping[str, Any], encoded: Mapping[str, str], marks: Mapping[str, str], expected: str
    ) -> tuple[Any, ...]:
        symbol = str(row["symbol"])
        keys = [self.keys.of(table.key, symbol)]
        values = flat({**encoded, **marks})
        stream_part: list[str] = []
        if table.stream is not None and (self.settings.enable_stream or not table.stream.optional):
            keys += [self.keys.of(name, symbol) for name in table.stream.keys]
            entry = table.stream_entry(row, encoded, marks)
            stream_part = [str(table.stream.maxlen), *flat(entry)]
        return ("EVAL", PUBLISH_LUA, len(keys), *keys, self.ttl_sec(table), expected, len(values), *values, *stream_part)

    def _refresh_command(self, table: Table, symbol: str, published_at: str, marks: Mapping[str, str]) -> tuple[Any, ...]:
        refreshed = flat({name: marks[name] for name in table.renewed})
        return ("EVAL", REFRESH_LUA, 1, self.keys.of(table.key, symbol), self.ttl_sec(table), published_at, *refreshed)


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


def _raise_if_unfit(replies: Sequence[Any]) -> None:
    """Raise the first reply that says the server as a whole cannot serve (read-only, out of memory, no rights ...)."""
    for reply in replies:
        if isinstance(reply, UNFIT) or (isinstance(reply, redis.ResponseError) and _UNFIT_IN_SCRIPT.search(str(reply))):
            raise reply


def epoch_of(time_reply: Sequence[bytes]) -> float:
    """Read the answer to TIME: the server's clock, epoch s."""
    return int(time_reply[0]) + int(time_reply[1]) / 1e6


def flat(mapping: Mapping[str, str]) -> list[str]:
    """Lay fields and values out as the arguments of a command."""
    return [part for pair in mapping.items() for part in pair]


def texts(reply: Any) -> dict[str, str]:
    """Give fields and values as text; bytes that are none are replaced, never an error."""
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in pairs(reply).items()}


def pairs(reply: Any) -> dict[bytes, bytes]:
    """Accept fields and values as a flat list or as a mapping: pipelines of raw commands give either."""
    return dict(reply) if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))
