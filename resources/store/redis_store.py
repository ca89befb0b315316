"""Redis as the product sees it: tables out, every call bounded, every symbol on its own.

Reads are one pipelined round trip for all symbols and end in three states. Writing tables is
:mod:`resources.store.publication`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import redis

from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ContractError, Table
from quantum_core.contracts.tables import Keys
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings
from resources.store.published import Published
from resources.store.transport.connection import RedisServer


class UnreadableKeyError(RuntimeError):
    """A key that is needed as a whole (a stream) holds something else; the operator must move it away."""

    def __init__(self, key: str, expected: str, found: object) -> None:
        super().__init__(f"{key} cannot be used as {expected}: {found}. Rename or delete what is there.")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class RedisStore(RedisServer):
    """Reads tables, for many symbols at once.

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
        super().__init__(settings, client)
        self.keys: Keys = settings.keys
        self.clock = clock
        self.published = Published((*settings.symbols, *settings.markets))
        self._profile: Profile | None = None

    @property
    def profile(self) -> Profile:
        """Parameters in force as this process knows them; see :mod:`resources.store.profiles`, which brings them up to date."""
        return self._profile or self.settings.own_profile

    @profile.setter
    def profile(self, profile: Profile) -> None:
        self._profile = profile

    def as_governor(self) -> RedisStore:
        """Give the store that decides: the same server under the governor's user, or this one when it has none of its own."""
        settings = self.settings.as_governor()
        return self if settings is self.settings else RedisStore(settings, self.clock)

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
                readings.append(Reading.present(raw.symbol, self.published.decode(table, raw.symbol, raw.value)))
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

    def max_age_sec(self, table: Table) -> int:
        """Give the age from which a table's hashes must no longer be acted on."""
        if table.asset == "market_state":
            return self.settings.marketstate_max_age_sec
        return self.settings.proposal_max_age_sec

    def ttl_sec(self, table: Table) -> int:
        """Give the lifetime of a table's hashes under these settings."""
        return table.lifetime_sec(partial(getattr, self.settings))


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
