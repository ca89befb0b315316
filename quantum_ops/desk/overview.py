"""What the desk sees: whether anything may be opened, which alerts are active, and one row per symbol with what is wrong first.

Here belongs what the state of a symbol is and what blocks it, read in a few round trips for any number of symbols. How it looks
is the pages' (``quantum_ops/desk/pages.py``). Nothing here writes, and nothing is computed while nobody looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import orjson

from quantum_core.contracts.reading import Reading, State, printable
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import (
    GOVERNOR_STATE,
    HARVEST_PROPOSAL,
    LIVENESS,
    MARKET_STATE,
    POSITION,
    PUBLISHED,
    RISK_PROPOSAL,
    least_live_of,
)
from quantum_core.display import clock_text, duration_text, epoch_or_none, failure_text, moment_text, name_text, stamp_text
from quantum_core.failure import Failure
from quantum_core.freshness import CANDLES, EPOCH_MAX, WELL, Condition, Limits, Vital, evaluate
from quantum_core.kernels.columns import REGIMES
from quantum_core.kernels.governor import BURST
from resources.governor.events import last_decisions, last_kill, newest_events
from resources.governor.guards import GuardReading, read_guards
from resources.governor.switches import Switches, read_switches, scope_option, scope_text
from resources.store.failures import read_failures
from resources.store.redis_store import RedisStore
from resources.store.vital_signs import VitalSignsReader

T = TypeVar("T")
Health = Literal["failed", "stale", "stop crossed", "warning", "ok"]

HEALTHS: tuple[Health, ...] = ("failed", "stale", "stop crossed", "warning", "ok")  # the worst first
UNHEALTHY = HEALTHS[:3]
FAILING_ASSETS = tuple(table.asset for table in PUBLISHED if not table.of_account)
READ = (POSITION, MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL, GOVERNOR_STATE)
RECENT_SEC = 4.0  # what was read is shown again for so long: ten open pages cost as much as one
EVENTS_READ = 2000  # newest events of the governor in which decisions and a kill are looked for
DECISIONS_SHOWN = 8
TEXT_MAX = 300  # characters of what comes from Redis
NOTICE_MAX = 4000  # characters of what a feed says of its data
ALERTS_MAX = 200
NAMES_TOLD = 3  # symbols named in a sentence
MARK_OLD_SEC = 60  # an older mark is shown grey, with a warning
FEED_SILENT_SEC = 120  # a replay or an example renews its data every few seconds, a market state every minute
LIVE, INVENTED = "candles", "synthetic"  # sources: an exchange's candles, numbers of our own
WATCHER_SILENT = "the watcher has not been heard of for 30 s: nothing is alerted"
ALERTS_UNREADABLE = "the list of active alerts cannot be read"


@dataclass(frozen=True)
class Alert:
    """One active alert, as the watcher left it.

    Attributes
    ----------
    title
        What is wrong, in one line.
    severity
        ``page``, ``warn`` or ``info``; an alert that does not say is ``page``.
    kind
        Identity of the alert, or of its kind.
    since
        Epoch s; ``None`` when unknown.
    symbols
        Those concerned.
    well_since
        Since when nothing of it is wrong any more, epoch s, though the watcher has not closed it yet; else ``None``.
    """

    title: str
    severity: str = "page"
    kind: str = ""
    since: float | None = None
    symbols: tuple[str, ...] = ()
    well_since: float | None = None


@dataclass(frozen=True)
class Openings:
    """Whether positions may be opened, as far as switches and guards decide it.

    Attributes
    ----------
    blocked
        Why not, in words, the first reason first; empty when armed.
    details
        What stands, since when, by whom, and how it ends; one line each.
    """

    blocked: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """What the status banner says.

    Attributes
    ----------
    at
        When it was read, epoch s.
    openings
        See :class:`Openings`.
    fresh, symbols
        Symbols of which nothing is too old and nothing fails, of how many.
    unfresh
        The other ones.
    old_prices
        Symbols whose price nobody has renewed for a minute: computed from anew, and not current.
    alerts
        Active alerts, in the watcher's order.
    notice
        What the data is, when any of it is not live: by what a feed says of it, and by the labels of the data itself.
    """

    at: float
    openings: Openings
    fresh: int
    symbols: int
    unfresh: tuple[str, ...] = ()
    old_prices: int = 0
    alerts: tuple[Alert, ...] = ()
    notice: str = ""


@dataclass(frozen=True)
class Faults:
    """What is known to be wrong with one symbol.

    Attributes
    ----------
    failures
        By asset, what the last cycle could not compute.
    vitals
        Age of everything of it that is due.
    """

    failures: Mapping[str, Failure] = field(default_factory=dict)
    vitals: tuple[Vital, ...] = ()

    @property
    def old(self) -> list[Vital]:
        """What is not fresh; candles first, because the rest follows from them."""
        return sorted((vital for vital in self.vitals if vital.condition not in WELL), key=lambda vital: vital.thing != CANDLES)


@dataclass(frozen=True)
class Row:
    """One symbol as the desk sees it. Prices in quote units, distances as fractions of the price, positive when not crossed.

    Attributes
    ----------
    symbol, health, why, since
        ``why`` is empty when the health is ``ok``; ``since`` is known of failures only, epoch s.
    held
        Whether a position is held; ``None`` when that is not known.
    side, qty, entry, price, unrealized_pnl, age_sec
        The position; ``None`` without one.
    mark_at
        Time of the position's snapshot, which carries the price, epoch s; ``None`` when its writer gives none.
    R, stop, stop_distance, stop_published, target, target_distance, stop_reasons
        The proposals, as published last.
    stop_last
        When the stop is the last one there was and none is proposed now: since when, in words; else empty.
    regime, p_trend, p_mr, p_chop, sigma
        The market state.
    action, action_reasons, kill_score, new_stop
        The harvest proposal; ``new_stop`` is the profit lock.
    size_factor, size_reason
        The efficiency hint of a permit.
    last_decision, last_decision_reason, last_plan_id, last_decision_epoch
        Of the governor.
    permits_hour, permits_5min
        Granted within the windows of the limits.
    blocked_by
        First gate an opening would fail now, in the governor's code; empty when none, the daily limit aside.
    source
        Least live of everything that is shown, by its own labels.
    fed_at
        When a replay or an example last renewed what is shown, epoch s; ``None`` where neither does, or without a clock.
    updated
        When the market state was last evaluated, epoch s.
    """

    symbol: str
    health: Health = "ok"
    why: str = ""
    since: float | None = None
    held: bool | None = None
    side: str | None = None
    qty: float | None = None
    entry: float | None = None
    price: float | None = None
    unrealized_pnl: float | None = None
    mark_at: float | None = None
    age_sec: float | None = None
    R: float | None = None
    stop: float | None = None
    stop_distance: float | None = None
    stop_published: float | None = None
    stop_last: str = ""
    target: float | None = None
    target_distance: float | None = None
    stop_reasons: tuple[str, ...] = ()
    regime: str | None = None
    p_trend: float | None = None
    p_mr: float | None = None
    p_chop: float | None = None
    sigma: float | None = None
    action: str | None = None
    action_reasons: tuple[str, ...] = ()
    kill_score: float | None = None
    new_stop: float | None = None
    size_factor: float | None = None
    size_reason: str | None = None
    last_decision: str | None = None
    last_decision_reason: str | None = None
    last_plan_id: str | None = None
    last_decision_epoch: float | None = None
    permits_hour: int | None = None
    permits_5min: int | None = None
    blocked_by: str = ""
    source: str | None = None
    fed_at: float | None = None
    updated: float | None = None

    @property
    def fresh(self) -> bool:
        """Whether nothing of it fails and nothing is too old: what banner, page and `quantum status` count."""
        return self.health not in ("failed", "stale")

    def mark_age(self, now: float) -> float | None:
        """Tell how old the price is, in s; ``None`` when its writer gives no time."""
        return None if self.mark_at is None else now - self.mark_at

    def mark_old(self, now: float) -> bool:
        """Tell whether the price is too old to be relied on, as far as its age is known."""
        age = self.mark_age(now)
        return age is not None and age > MARK_OLD_SEC


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
        self.decoded = store.decoded  # what has not changed since the last page is not decoded again
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
            tuple(found),
        )
        for symbol, found in vitals.items()
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
    return Standing(
        at=store.clock().timestamp(),
        openings=read_openings(store),
        fresh=len(rows) - len(unfresh),
        symbols=len(rows),
        unfresh=unfresh,
        old_prices=sum(row.mark_old(store.clock().timestamp()) for row in rows),
        alerts=tuple(active_alerts(alerts)),
        notice=data_notice(_text(notice, NOTICE_MAX) if isinstance(notice, bytes) else "", rows, store.clock().timestamp()),
    )


def data_notice(said: str, rows: Sequence[Row], now: float) -> str:
    """Say what the data is when it is not live, also when the feed that says so of itself is gone.

    Parameters
    ----------
    said
        What a feed says of its data; it stops saying so when it stops.
    rows
        What is shown, with the labels it carries.
    now
        Epoch s.
    """
    labelled = {row.symbol: row.source for row in rows if row.source not in (None, LIVE)}
    fed = [row.fed_at for row in rows if row.fed_at is not None]
    silent = bool(fed) and (not said or now - max(fed) > FEED_SILENT_SEC)
    if not labelled or (said and not silent):
        return said
    sources = sorted({str(source) for source in labelled.values()})
    first, _, rest = said.partition(". ")
    first = first or f"{'SYNTHETIC' if sources == [INVENTED] else 'EXAMPLE'} DATA, not live"
    if silent:
        first += f"; its feed has been silent for {duration_text(now - max(fed))}, since {clock_text(max(fed))}"
    rest = rest or f"What is shown of {_few(sorted(labelled))} is labelled {' or '.join(sources)}."
    return f"{first}. {rest}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else ""
    return f"{', '.join(names[:NAMES_TOLD])}{more}"


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


def openings(switches: Switches, guards: GuardReading, killed: Mapping[str, str]) -> Openings:
    """Say whether positions may be opened; what is not known blocks.

    Parameters
    ----------
    switches, guards
        As they were read.
    killed
        Who set the kill switch, why and when (by, reason, at); empty without a record of it.
    """
    blocked, details = [], []
    if switches.killed:
        blocked.append(f"kill switch: {killed['reason']} (set by {killed['by']})" if killed else "kill switch")
        who = (
            f"set {killed['at']} by {killed['by']}: {killed['reason']}"
            if killed
            else "set, without a record of who and why (by hand?)"
        )
        details.append(f"Kill switch: {who}. A named person ends it: quantum arm.")
    if switches.disarmed:
        cause = switches.disarm.get("cause", "")
        blocked.append(": ".join(filter(None, ("governor disarmed", cause))))
        details.append(
            f"Governor: disarmed since {stamp_text(switches.disarm.get('at', 'an unknown time'))}: {cause or 'cause unknown'}. "
            "A named person ends it: quantum arm."
        )
    details += [
        f"Governor: {scope_text(scope)} disarmed since {stamp_text(said.get('at', 'an unknown time'))}: "
        f"{said.get('cause', 'cause unknown')} ({said.get('plans', '?')} plans). Others may open. "
        f"A named person ends it: quantum arm {scope_option(scope)}."
        for scope, said in sorted(switches.scopes.items())
    ]
    for guard in guards.live:
        told = guards.said.get(guard, {})
        reason = told.get("reason", "its condition holds").removeprefix(guard).strip(" :")
        if reason[:1] in ("{", "["):
            reason = f"its reason is no text: {reason}"
        blocked.append(f"risk guard {guard}: {reason}")
        until = _until(told["expires_at"]) if "expires_at" in told else "with its condition"
        if told.get("pending") == "True":
            until = (
                f"with a newer reading within its limit, and is confirmed by one that is not, {told.get('confirm_sec')} s later"
            )
        details.append(f"Risk guard {guard}: {reason}. It ends {until}.")
    for trouble in filter(None, (switches.trouble, guards.trouble)):
        blocked.append(f"unknown: {trouble}")
        details.append(f"Unknown, and unknown blocks: {trouble}.")
    return Openings(tuple(_text(one) for one in blocked), tuple(_text(one) for one in details))


def _until(stamp: str) -> str:
    """Say when a guard ends; what is no time of now is not repeated as one."""
    try:
        epoch = datetime.fromisoformat(stamp).timestamp()
    except (ValueError, OverflowError):
        return f"at a time that cannot be read ({stamp})"
    return f"at {moment_text(epoch)}" if 0 <= epoch < EPOCH_MAX else f"at a time that cannot be right ({stamp})"


def active_alerts(stored: object) -> list[Alert]:
    """Read the list of active alerts; that there is none to be read is an alert."""
    if not isinstance(stored, bytes):
        return [Alert(WATCHER_SILENT)]
    try:
        return [_alert(entry) for entry in orjson.loads(stored)[:ALERTS_MAX]]
    except (ValueError, TypeError, KeyError, AttributeError):
        return [Alert(ALERTS_UNREADABLE)]


def _alert(entry: Mapping[str, Any]) -> Alert:
    severity = entry.get("severity")
    return Alert(
        title=_text(entry["title"]),
        severity=severity if severity in ("page", "warn", "info") else "page",
        kind=_text(entry.get("kind") or entry.get("alert") or ""),
        since=epoch_or_none(entry.get("since")),
        symbols=tuple(_text(symbol) for symbol in entry.get("symbols") or ()),
        well_since=epoch_or_none(entry.get("well_since")),
    )


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
    store, symbols = _ReadOnce(store), sorted(symbols)  # in the order of the governor
    readings = {table.asset: store.read(table, symbols) for table in READ}
    granted = {reading.symbol: reading.value or {} for reading in readings[GOVERNOR_STATE.asset]}
    blocks = opening_blocks(store, symbols, granted) if gates else dict.fromkeys(symbols, "")
    rows = [
        symbol_row(
            symbol,
            {asset: found[index] for asset, found in readings.items()},
            faults[symbol],
            store.clock().timestamp(),
            blocks[symbol],
        )
        for index, symbol in enumerate(symbols)
    ]
    return sorted(rows, key=_worst_first)


def _worst_first(row: Row) -> tuple[int, bool, str]:
    return HEALTHS.index(row.health), row.side is None, row.symbol


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
    from quantum_assets.governor_permit import judge  # brings Dagster along
    from resources.governor.plans import Plan

    asked = [Plan("0-0", f"desk-{symbol}", symbol, action="OPEN", decision="EXECUTE") for symbol in symbols]
    limits, blocks = store.settings, {}
    for decision in judge(store, asked, recorded=False):
        counts = granted.get(decision.plan.symbol, {})
        reason = decision.reason
        if not reason and counts.get("permits_hour", 0) >= limits.gov_max_exec_per_hour:
            reason = "hourly_limit_exceeded"
        elif not reason and counts.get("permits_5min", 0) >= limits.gov_max_exec_per_5min:
            reason = BURST
        blocks[decision.plan.symbol] = reason or decision.reason_beyond
    return blocks


def symbol_row(
    symbol: str,
    readings: Mapping[str, Reading[dict[str, Any]]],
    faults: Faults,
    now: float,
    blocked_by: str = "",
) -> Row:
    """Combine what is known of one symbol.

    Parameters
    ----------
    symbol
        The symbol.
    readings
        By asset, of all :data:`READ`.
    faults
        See :class:`Faults`.
    now
        Epoch s.
    blocked_by
        See :class:`Row`.
    """
    position, market, risk, harvest, governor = (readings[table.asset].value or {} for table in READ)
    held = _held(readings[POSITION.asset])
    mark_at = (position.get("position_ts_epoch") or None) if held else None
    health, why, since = _health(readings, faults, mark_at, now)
    shares = {name: market[f"p_{name}"] for name in REGIMES if market}
    open_position = position if held else {}
    if held is False:
        risk, harvest = {}, {}  # what is left of a position that is gone
    price, stop, target = open_position.get("current_price"), risk.get("proposed_sl"), risk.get("proposed_tp")
    stop_last = _stop_last(risk, faults, position_known=held is not None)
    if stop is None and (stop := open_position.get("current_sl")) is not None:  # tracked with the position, and never forgotten
        stop_last = _stop_last(risk, faults, position_known=True) or "last"
    invented = open_position.get("position_source") in LIVENESS
    sources = [
        *(row.get("data_source") for row in (risk, harvest)),
        *(market.get("source"), open_position.get("position_source")),
    ]
    fed = [mark_at if invented else None, market.get("ts_timestamp") if market.get("source") == "replay" else None]
    direction = -1.0 if open_position.get("side") == "SHORT" else 1.0
    return Row(
        symbol=symbol,
        health=health,
        why=why,
        since=since,
        held=held,
        side=open_position.get("side"),
        qty=open_position.get("qty"),
        entry=open_position.get("entry_price"),
        price=price,
        mark_at=mark_at,
        unrealized_pnl=open_position.get("unrealized_pnl"),
        age_sec=open_position.get("age_sec"),
        R=harvest.get("R_net"),
        stop=stop,
        stop_distance=direction * (1 - stop / price) if stop and price else None,
        stop_published=risk["published_at_utc"].timestamp() if "published_at_utc" in risk else None,
        stop_last=stop_last,
        target=target,
        target_distance=direction * (target / price - 1) if target and price else None,
        stop_reasons=tuple(risk.get("reason_codes", ())),
        regime=max(shares, key=shares.__getitem__) if shares else None,
        p_trend=market.get("p_trend"),
        p_mr=market.get("p_mr"),
        p_chop=market.get("p_chop"),
        sigma=market.get("sigma"),
        action=harvest.get("harvest_action"),
        action_reasons=tuple(harvest.get("reason_codes", ())),
        kill_score=harvest.get("kill_score"),
        new_stop=harvest.get("new_sl_proposed"),
        size_factor=governor.get("eff_factor"),
        size_reason=governor.get("eff_reason"),
        last_decision=governor.get("last_decision") or None,
        last_decision_reason=governor.get("last_reason") or None,
        last_plan_id=governor.get("last_plan_id") or None,
        last_decision_epoch=governor.get("last_decision_epoch"),
        permits_hour=governor.get("permits_hour"),
        permits_5min=governor.get("permits_5min"),
        blocked_by=blocked_by,
        source=least_live_of(sources) if any(sources) else None,
        fed_at=max((float(one) for one in fed if one), default=None),
        updated=market.get("last_update_epoch"),
    )


def _held(reading: Reading[dict[str, Any]]) -> bool | None:
    if reading.state is State.FAILED:
        return None
    return bool(reading.value["held"]) if reading.value else False


def _stop_last(risk: Mapping[str, Any], faults: Faults, *, position_known: bool) -> str:
    """Say since when no stop is proposed any more; empty while one is."""
    asset = RISK_PROPOSAL.asset
    failure = faults.failures.get(asset) or faults.failures.get(POSITION.asset)
    if risk and position_known and failure is None and all(vital.thing != asset for vital in faults.old):
        return ""
    if "published_at_utc" in risk:
        return f"last, published {clock_text(risk['published_at_utc'].timestamp())}"
    return "" if failure is None else f"last, published before {clock_text(failure.since)}"


def _health(
    readings: Mapping[str, Reading[dict[str, Any]]], faults: Faults, mark_at: float | None, now: float
) -> tuple[Health, str, float | None]:
    """Name the worst that is known of a symbol: the cause, its consequences only counted."""
    failed = [(asset, faults.failures[asset]) for asset in FAILING_ASSETS if asset in faults.failures]
    if failed:
        asset, failure = failed[0]
        return "failed", _text(f"{name_text(asset)}: {failure_text(failure.why)}"), failure.since
    unreadable = next((reading.reason for reading in readings.values() if reading.state is State.FAILED), "")
    if unreadable:
        return "failed", _text(failure_text(unreadable)), None
    if faults.old:
        more = f"; and {len(faults.old) - 1} more" if len(faults.old) > 1 else ""
        return "stale", _text(f"{vital_text(faults.old[0])}{more}"), None
    position, risk = readings[POSITION.asset].value, readings[RISK_PROPOSAL.asset].value
    old = f"the price is {duration_text(now - mark_at)} old" if mark_at is not None and now - mark_at > MARK_OLD_SEC else ""
    if position and position["held"] and risk and risk["sl_breached"]:
        return "stop crossed", "; ".join(filter(None, ("the price has crossed the proposed stop", old))), None
    if old:
        return "warning", f"{old}: its source has not renewed it", None
    if position and position["held"] and position["collared"]:
        return "warning", "a price waits for the next candle to confirm it", None
    if position and position["held"] and position["trouble"]:
        return "warning", _text(position["trouble"]), None
    aging = [vital for vital in faults.vitals if vital.condition is Condition.AGING]
    return ("warning", _text("; ".join(map(vital_text, aging))), None) if aging else ("ok", "", None)


def vital_text(vital: Vital) -> str:
    """Say how one thing stands, with its age and limit where they are known."""
    thing, limit = name_text(vital.thing), duration_text(vital.limit_sec)
    if vital.age_sec is None:
        return f"{thing} {vital.condition}{f': {vital.detail}' if vital.detail else ''}"
    return f"{thing} {vital.condition}: {duration_text(vital.age_sec)} old, limit {limit}"


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
    return RedisStore(store.settings.model_copy(update={"symbols": tuple(symbols)}), store.clock, store.client)


def _text(value: object, limit: int = TEXT_MAX) -> str:
    """Take text of others: one line, nothing a terminal or a browser would act on, no longer than the page has room for."""
    text = printable(value.decode(errors="replace") if isinstance(value, bytes) else value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
