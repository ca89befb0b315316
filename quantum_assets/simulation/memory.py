"""A store whose server is a dictionary: it answers what the readers of the product ask, and refuses every write.

Writes are the simulation's own, so that each of them can be the last one of a process. A command that is not known here raises:
a reader that asks something new is noticed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from quantum_core.contracts.reading import Reading
from quantum_core.contracts.schema import Table
from quantum_core.settings import Settings
from resources.inputs.candles import NEWEST
from resources.store.redis_store import RedisStore

Row = dict[str, Any]
Member = tuple[float, bytes]  # score and text


class Memory(RedisStore):
    """What Redis holds.

    Parameters
    ----------
    settings
        Key names, intervals and parameters.
    clock
        The host's clock, which faults may move.
    server_clock
        The server's, epoch s, by which lifetimes end.

    Attributes
    ----------
    hashes, values
        By key.
    candles
        Members of the sorted sets of candles, in the order of the server.
    ends
        When keys and rows expire by the server's clock, by key or (asset, symbol).
    rows
        Published rows as they decode, by asset and symbol.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime], server_clock: Callable[[], float]) -> None:
        super().__init__(settings, clock)
        self._server_clock = server_clock
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.values: dict[str, bytes] = {}
        self.candles: dict[str, list[Member]] = {}
        self.ends: dict[str | tuple[str, str], float] = {}
        self.rows: dict[str, dict[str, Row]] = {}

    def put(self, key: str, fields: Mapping[str, object], lives_sec: float | None = None) -> None:
        """Write a hash, whole."""
        self.hashes[key] = {name.encode(): str(value).encode() for name, value in fields.items()}
        self._live(key, lives_sec)

    def put_value(self, key: str, text: str, lives_sec: float | None = None) -> None:
        """Write a string."""
        self.values[key] = text.encode()
        self._live(key, lives_sec)

    def put_row(self, table: Table, row: Row) -> None:
        """Let a row stand for the lifetime of its table."""
        self.rows.setdefault(table.asset, {})[row["symbol"]] = row
        self.ends[table.asset, row["symbol"]] = self._server_clock() + self.ttl_sec(table)

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.hashes.pop(key, None)
        self.values.pop(key, None)

    def expire(self) -> list[tuple[str, str]]:
        """Remove what has expired; give the rows among it."""
        now = self._server_clock()
        ended = [name for name, at in self.ends.items() if at <= now]
        for name in ended:
            del self.ends[name]
            if isinstance(name, str):
                self.delete(name)
            else:
                self.rows[name[0]].pop(name[1], None)
        return [name for name in ended if isinstance(name, tuple)]

    def read(self, table: Table, symbols: Sequence[str]) -> list[Reading[Row]]:
        """Give published rows as they stand."""
        rows = self.rows.get(table.asset, {})
        return [
            Reading.present(one, rows[one]) if one in rows else Reading[Row].absent(one, f"{table.key}_missing")
            for one in symbols
        ]

    def run(self, doing: str, commands: Iterable[Sequence[Any]], *, judged: bool = True) -> list[Any]:  # noqa: ARG002 - the store's
        """Answer reads.

        Raises
        ------
        NotImplementedError
            The command is none of those the readers use.
        """
        return [self._reply(command) for command in commands]

    def _reply(self, command: Sequence[Any]) -> Any:
        name, key = command[0], command[1]
        if name == "HGETALL":
            return self.hashes.get(key, {})
        if name == "HGET":
            return self.hashes.get(key, {}).get(command[2].encode())
        if name == "GET":
            return self.values.get(key)
        if name in ("HKEYS", "XREVRANGE"):  # guards of others and positions in streams: there are none
            return []
        if name == "OBJECT":
            return None
        if name == "EVALSHA_RO" and key == NEWEST.sha1:
            return self._newest(command[3 : 3 + command[2]], orjson.loads(command[3 + command[2]]))
        message = f"{name} {key} is no read that the simulation knows"
        raise NotImplementedError(message)

    def _newest(self, keys: Sequence[str], asked: Mapping[str, Any]) -> list[Any]:
        """Do what ``resources/inputs/lua/newest.lua`` does for sorted sets."""
        for key in keys:
            if members := self.candles.get(key):
                newest = members[-asked["wanted"] :]
                scores = ",".join(f"{score:.17g}" for score, _ in newest) if asked["scores"] else ""
                return [key.encode(), b"zset", [[text for _, text in newest]], len(newest), scores.encode(), len(members)]
        return []

    def _live(self, key: str, lives_sec: float | None) -> None:
        if lives_sec is None:
            self.ends.pop(key, None)
        else:
            self.ends[key] = self._server_clock() + lives_sec
