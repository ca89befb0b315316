"""What the desk sees, read in a few round trips for any number of symbols, and shown again while it is recent.

What the state of a symbol is, is in ``quantum_ops/desk/rows.py``, what the banner says in ``quantum_ops/desk/standing.py``; how
it looks is the pages' (``quantum_ops/desk/pages.py``). Nothing here writes, and nothing is computed while nobody looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from quantum_core.contracts.reading import Reading
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import GOVERNOR_STATE
from quantum_core.freshness import Limits, Vital, evaluate
from quantum_core.kernels.governor.gates import BURST
from quantum_ops.desk.rows import FAILING_ASSETS, READ, Faults, Row, shown_text, symbol_row, worst_first
from quantum_ops.desk.standing import Openings, Standing, active_alerts, data_notice, openings
from resources.governor.events import last_decisions, last_kill, newest_events
from resources.governor.guards import read_guards
from resources.governor.judge import judge
from resources.governor.limits import limits_of
from resources.governor.plan import Plan
from resources.governor.switches import read_switches
from resources.store.failures import read_failures
from resources.store.profiles import bring_up_to_date
from resources.store.redis_store import RedisStore
from resources.store.vital_signs import VitalSignsReader

T = TypeVar("T")
RECENT_SEC = 4.0  # what was read is shown again for so long: ten open pages cost as much as one
EVENTS_READ = 2000  # newest events of the governor in which decisions and a kill are looked for
DECISIONS_SHOWN = 8
NOTICE_MAX = 4000  # characters of what a feed says of its data


@dataclass(frozen=True)
class Symbol:
    """What the page of one symbol shows beside its row.

    Attributes
    ----------
    row
        See :class:`Row`.
    faults
        What could not be computed, and how old everything is.
    decisions
        The governor's last ones, newest first.
    """

    row: Row
    faults: Faults
    decisions: tuple[Mapping[str, Any], ...] = ()


class Recent(Generic[T]):
    """Keeps what was read for RECENT_SEC; who asks meanwhile, or at the same time, is given the same.

    Parameters
    ----------
    read
        Reads it anew; what it raises is not kept.
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self._read, self._lock, self._until = read, threading.Lock(), 0.0
        self._value: T | None = None

    def get(self) -> T:
        """Give it, at most RECENT_SEC old."""
        with self._lock:
            if self._value is None or time.monotonic() >= self._until:
                self._value = self._read()
                self._until = time.monotonic() + RECENT_SEC
            return self._value


class _ReadOnce(RedisStore):
    """The same server, each table read once: the gates judge what the rows show, and nothing is read twice."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store.settings, store.clock, store.client)
        self.profile = store.profile
        self.published = store.published  # what has not changed since the last page is not decoded again
        self._read: dict[tuple[str, tuple[str, ...]], list[Reading[dict[str, Any]]]] = {}

    def read(self, table: Table, symbols: Sequence[str]) -> list[Reading[dict[str, Any]]]:
        key = table.key, tuple(symbols)
        if key not in self._read:
            self._read[key] = super().read(table, symbols)
        return self._read[key]


class DeskReader:
    """Reads what the pages show; each of them at most once in RECENT_SEC.

    Parameters
    ----------
    store
        Where from, and whose clock, symbols and settings count.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self._standing = Recent(lambda: read_standing(store, self._rows.get()))
        self._rows = Recent(lambda: read_rows(store, store.settings.symbols, read_faults(store, store.settings.symbols)))
        self._symbols: dict[str, Recent[Symbol]] = {}
        self.last: Standing | None = None  # what was known when Redis last answered

    def standing(self) -> Standing:
        """Give what the banner says.

        Raises
        ------
        RedisUnavailableError
            The server is away.
        """
        self.last = self._standing.get()
        return self.last

    def rows(self) -> list[Row]:
        """Give one row per symbol, the unhealthy first.

        Raises
        ------
        RedisUnavailableError
            The server is away.
        """
        return self._rows.get()

    def symbol(self, name: str) -> Symbol | None:
        """Give one symbol of the settings; ``None`` for another one.

        Raises
        ------
        RedisUnavailableError
            The server is away.
        """
        if name not in self.store.settings.symbols:
            return None
        return self._symbols.setdefault(name, Recent(lambda: read_symbol(self.store, name))).get()


def read_faults(store: RedisStore, symbols: Sequence[str]) -> dict[str, Faults]:
    """Read, of every symbol, what could not be computed and how old everything is.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    failures, limits, now = read_failures(store, FAILING_ASSETS), Limits.of(store.settings), store.clock().timestamp()
    vitals: dict[str, list[Vital]] = {symbol: [] for symbol in symbols}
    signs = VitalSignsReader(_only(store, symbols), by_state=True).read()
    for vital in evaluate(signs, limits, now).vitals:
        vitals[vital.symbol].append(vital)
    return {
        symbol: Faults(
            {
                asset: failed[symbol]
                for asset, failed in failures.items()
                if symbol in failed
                and now - failed[symbol].at <= limits.market_state_sec  # of a cycle that stopped it says nothing
            },
            tuple(symbol_vitals),
        )
        for symbol, symbol_vitals in vitals.items()
    }


def read_standing(store: RedisStore, rows: Sequence[Row]) -> Standing:
    """Read what the status banner says; of the symbols it is given the rows.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    alerts, notice = store.run("reading alerts", [("GET", store.keys.of(name)) for name in ("alerts_active", "banner")])
    unfresh = tuple(row.symbol for row in rows if not row.fresh)
    profile, profile_trouble = bring_up_to_date(store)
    return Standing(
        at=store.clock().timestamp(),
        openings=read_openings(store),
        fresh=len(rows) - len(unfresh),
        symbols=len(rows),
        unfresh=unfresh,
        old_prices=sum(row.mark_old(store.clock().timestamp()) for row in rows),
        alerts=tuple(active_alerts(alerts)),
        notice=data_notice(shown_text(notice, NOTICE_MAX) if isinstance(notice, bytes) else "", rows, store.clock().timestamp()),
        profile=profile,
        profile_trouble=profile_trouble,
    )


def read_openings(store: RedisStore) -> Openings:
    """Read switches and guards: what `quantum permits` shows.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    switches, guards = read_switches(store), read_guards(store)
    killed = last_kill(newest_events(store, EVENTS_READ)[0]) if switches.set_by_kill else {}
    return openings(switches, guards, killed)


def read_rows(store: RedisStore, symbols: Sequence[str], faults: Mapping[str, Faults], *, gates: bool = True) -> list[Row]:
    """Read one row per symbol, the unhealthy first, then those with a position, then by name.

    Parameters
    ----------
    store
        Where from.
    symbols
        Any of the settings.
    faults
        See :func:`read_faults`.
    gates
        Whether to ask the governor's gates what would block an opening; they bring Dagster along.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    if gates:
        bring_up_to_date(store)
    store, symbols = _ReadOnce(store), sorted(symbols)  # in the order of the governor
    readings = {table.asset: store.read(table, symbols) for table in READ}
    granted = {reading.symbol: reading.value or {} for reading in readings[GOVERNOR_STATE.asset]}
    blocks = opening_blocks(store, symbols, granted) if gates else dict.fromkeys(symbols, "")
    rows = [
        symbol_row(
            symbol,
            {asset: asset_readings[index] for asset, asset_readings in readings.items()},
            faults[symbol],
            store.clock().timestamp(),
            blocks[symbol],
        )
        for index, symbol in enumerate(symbols)
    ]
    return sorted(rows, key=worst_first)


def opening_blocks(store: RedisStore, symbols: Sequence[str], granted: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Ask the governor's own gates what would block an opening of each symbol now; nothing is decided or recorded.

    Parameters
    ----------
    store, symbols
        Where, and of what.
    granted
        Symbol to the governor's state, which counts the permits of the last hour and five minutes.

    Returns
    -------
    dict
        Symbol to the first failed gate, empty when none fails. The daily limit depends on the size of a plan and is left out.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    plans = [Plan("0-0", f"desk-{symbol}", symbol, action="OPEN", decision="EXECUTE") for symbol in symbols]
    blocks = {}
    for decision in judge(store, plans, store.clock(), recorded=False):
        counts, limits = granted.get(decision.plan.symbol, {}), limits_of(store, decision.plan.symbol)
        reason = decision.reason
        if not reason and counts.get("permits_hour", 0) >= limits.max_exec_per_hour:
            reason = "hourly_limit_exceeded"
        elif not reason and counts.get("permits_5min", 0) >= limits.max_exec_per_5min:
            reason = BURST
        blocks[decision.plan.symbol] = reason or decision.reason_beyond
    return blocks


def read_symbol(store: RedisStore, symbol: str) -> Symbol:
    """Read one symbol for its page.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    faults = read_faults(store, [symbol])
    (row,) = read_rows(store, [symbol], faults)
    decisions = last_decisions(newest_events(store, EVENTS_READ)[0], symbol=symbol, count=DECISIONS_SHOWN)
    return Symbol(row, faults[symbol], tuple(decisions))


def _only(store: RedisStore, symbols: Sequence[str]) -> RedisStore:
    """Give the same server for some symbols."""
    if tuple(symbols) == tuple(store.settings.symbols):
        return store
    only = RedisStore(store.settings.model_copy(update={"symbols": tuple(symbols)}), store.clock, store.client)
    only.profile = store.profile
    return only
