"""Open positions as their writers give them: from the hash, else from the execution streams, else (only when allowed) invented.

Here belongs what makes a snapshot valid and where it comes from. What no writer supplies (peaks, age, stop in force over time)
is kept by the asset ``position``. A read that failed ends there: it never falls through to the next source.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from quantum_core.contracts import legs
from quantum_core.contracts.labels import is_live, label_of, not_live_by_field
from quantum_core.contracts.reading import ENTRY_BYTES_MAX, Reading, State
from quantum_core.contracts.tables import POSITION
from quantum_core.kernels import NUMBER_MAX, NUMBER_MIN
from quantum_core.kernels.contract import BASE_UNITS, Contract
from quantum_core.kernels.epochs import per_sec
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import RedisStore, pairs, texts

Side = Literal["LONG", "SHORT"]
Fields = Mapping[str, str]

STREAM_ENTRIES_READ = 100  # docs/spec.md#5-sources: newest per stream
STREAMS = ("stream_execution", "stream_execution_result")
AMOUNT_NAMES = ("position_amt", "quantity", "qty")
MARK_NAMES = ("mark_price", "current_price")
SIZES_SLACK, MARKS_SLACK = 1e-6, 0.02  # shares by which one size (text and back), or a last price, may differ from the other
CLOCK_NAMES = ("ts_epoch", "timestamp", "ts", "ts_utc")
OPENED_NAMES = ("created_at", "opened_at", "opened_at_epoch")
OPENED_EPOCH_MIN = 1e9  # no position is older than the year 2001: an earlier opening is a placeholder
NOTIONAL_NAMES = ("notional", "notional_usd", "notionalUsd", "notional_value", "position_value", "positionValue")
CARRIED_NAMES = (  # what a writer that sends only what has changed leaves behind when the side changes
    *("current_sl", "current_tp", "peak_price", "trough_price", "age_sec", "unrealized_pnl"),
    *OPENED_NAMES,
    *NOTIONAL_NAMES,
)
CARRIED_CHARS = 40  # of each that are kept to compare; a longer one is no number
FLAT = "FLAT"
ONE_WAY = ("", "BOTH")  # a one-way account: the sign of the amount is the side
OWN_LABELS = (
    "synthetic",
    "example",
    "replay",
)  # what a snapshot may say of itself, worst first; then any other not known as live
LABEL_NAMES = ("source", "position_source")

SYNTHETIC_ENTRY_BTC, SYNTHETIC_ENTRY = 100.0, 50.0  # docs/spec.md#5-sources, this line and the next
SYNTHETIC_MARK, SYNTHETIC_PEAK, SYNTHETIC_TROUGH, SYNTHETIC_SL, SYNTHETIC_TP = 1.05, 1.06, 0.98, 0.98, 1.10
SYNTHETIC_AGE_SEC = 3600.0


@dataclass(frozen=True, slots=True)
class RawPosition:
    """One open position as read.

    Attributes
    ----------
    entry_price, current_price
        Average entry and mark, quote units, > 0.
    unrealized_pnl
        As the writer gives it; else computed from side, prices and size (or 1).
    qty
        Absolute size, base units; of inverse contracts the coins they were worth at entry.
    ts_epoch
        Time of the snapshot, epoch s; of the stream entry when the snapshot does not say.
    peak_price, trough_price, current_sl, current_tp
        Quote units; ``None`` when the writer gives none, which some spell 0. A stop or target below 0 is handed on, to be
        named and ignored where the market is known.
    age_sec, opened_at_epoch
        Time since the position was opened, and when that was.
    position_source
        ``redis_hash``, ``redis_stream``, ``synthetic``, or what the snapshot says of itself when that is not known to be live:
        ``example``, ``replay``, ``paper_trading``, anything.
    contracts
        Absolute size as the writer counts it: base units, or contracts where CONTRACT_SIZES says so.
    notional
        Absolute worth as the writer gives it, quote units; ``None`` when it gives none.
    pnl_given
        Whether the profit is the writer's.
    carried
        Texts of CARRIED_NAMES as they were read.
    ignored
        Fields that cannot be read and are not needed, each as ``<field>=<value>``.
    doubled
        Numbers it gives twice and not alike, in words: one of the two is wrong.
    """

    symbol: str
    side: Side
    entry_price: float
    current_price: float
    unrealized_pnl: float
    qty: float | None = None
    leverage: float | None = None
    ts_epoch: float | None = None
    peak_price: float | None = None
    trough_price: float | None = None
    age_sec: float | None = None
    opened_at_epoch: float | None = None
    current_sl: float | None = None
    current_tp: float | None = None
    position_source: str = "redis_hash"
    contracts: float | None = None
    notional: float | None = None
    pnl_given: bool = False
    carried: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()

    def without(self, names: Collection[str]) -> RawPosition:
        """Give the position as if its writer had said nothing under some of CARRIED_NAMES."""
        unsaid: dict[str, Any] = {name: None for name in names if name not in (*OPENED_NAMES, *NOTIONAL_NAMES)}
        if not {*OPENED_NAMES}.isdisjoint(names):
            unsaid["opened_at_epoch"] = None
        if not {*NOTIONAL_NAMES}.isdisjoint(names):
            unsaid["notional"] = None
        if "unrealized_pnl" in names:
            profit = profit_of(self.side, self.entry_price, self.current_price, self.qty)
            unsaid |= {"unrealized_pnl": profit, "pnl_given": False}
        return replace(self, **unsaid)


@dataclass(frozen=True, slots=True)
class Flat:
    """No position, and somebody said so.

    Attributes
    ----------
    ts_epoch
        Time of the snapshot, epoch s; ``None`` when it has no clock: nobody knows whether it is still so.
    position_source
        As of an open position.
    side
        Which side is empty, where the snapshot names one: in a hedge it says nothing of the other.
    carried
        As of an open position.
    """

    symbol: str
    ts_epoch: float | None = None
    position_source: str = "redis_hash"
    side: str = ""
    carried: Mapping[str, str] = field(default_factory=dict)


class InvalidPositionError(ValueError):
    """A snapshot cannot be used; the text is ``<field>=<value>``."""

    def __init__(self, *, field: str, value: object) -> None:
        super().__init__(f"{field}={value}")


class PositionReader:
    """Reads positions by the settings of a store.

    Parameters
    ----------
    store
        Server, key names, clock and settings.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store

    def read(self, symbols: Sequence[str]) -> list[Reading[RawPosition]]:
        """Read one open position per symbol; a flat one is ``absent`` with ``flat``, see :meth:`snapshots`."""
        return [
            Reading.absent(one.symbol, "flat")
            if isinstance(one.value, Flat)
            else Reading(one.symbol, one.state, one.value, one.reason)
            for one in self.snapshots(symbols)
        ]

    def snapshots(self, symbols: Sequence[str]) -> list[Reading[RawPosition | Flat]]:
        """Read one snapshot per symbol, open or flat, from the sources POSITION_SOURCE allows.

        Returns
        -------
        list of Reading
            ``absent`` with ``no_position`` when no source shows the symbol, which is flat only where POSITION_ABSENT says so;
            ``failed`` with ``position_invalid: <field>=<value>`` or ``position_unreadable: <detail>``. One round trip for the
            hashes, one for the streams when they are needed.

        Raises
        ------
        RedisUnavailableError
            The server is away.

        References
        ----------
        docs/spec.md#5-sources
        """
        source = self.store.settings.position_source
        found: dict[str, Reading[RawPosition | Flat]] = {}
        others: dict[str, Fields] = {}
        if source in ("auto", "redis_hash"):
            found |= self._from_hashes(symbols)
            if hedged := [symbol for symbol in symbols if legs.leg_of(symbol) and symbol not in found]:
                shared, others = self._from_shared_hashes(hedged)
                found |= shared
        rest = [symbol for symbol in symbols if symbol not in found]
        if source in ("auto", "redis_stream") and rest:
            found |= self._from_streams(rest)
        for leg, remembered in self._from_memory(others).items():
            known = found.get(leg)
            if known is None or (known.value is not None and _is_older(known.value, remembered)):
                found[leg] = remembered
        if source == "synthetic" or (source == "auto" and self.store.settings.allow_synthetic):
            now = self.store.clock().timestamp()
            found |= {
                symbol: Reading.present(
                    symbol,
                    Flat(symbol, now, "synthetic") if legs.leg_of(symbol) == "SHORT" else synthetic_position(symbol, now),
                )
                for symbol in symbols
                if symbol not in found
            }
        if self.store.settings.position_absent == "flat":
            now = self.store.clock().timestamp()
            found |= {symbol: Reading.present(symbol, Flat(symbol, now)) for symbol in symbols if symbol not in found}
        return [found.get(symbol) or Reading.absent(symbol, "no_position") for symbol in symbols]

    def _from_hashes(self, symbols: Sequence[str]) -> dict[str, Reading[RawPosition | Flat]]:
        readings = {}
        for raw in self.store.read_raw("raw_position", symbols):
            if raw.state is State.FAILED:
                detail = raw.reason.partition(": ")[2]
                readings[raw.symbol] = Reading[RawPosition | Flat].failed(raw.symbol, f"position_unreadable: {detail}")
            elif raw.value is not None:
                readings[raw.symbol] = _parsed(
                    raw.symbol, raw.value, "redis_hash", keyed=True, contract=self.store.settings.contract_of(raw.symbol)
                )
        return readings

    def _from_shared_hashes(self, hedged: Sequence[str]) -> tuple[dict[str, Reading[RawPosition | Flat]], dict[str, Fields]]:
        """Read the one hash of a symbol for whichever of its legs it shows.

        Returns
        -------
        readings, others
            The legs that are shown, or of which nobody can know whether they are; and the hashes that show the other leg.
        """
        readings: dict[str, Reading[RawPosition | Flat]] = {}
        others: dict[str, Fields] = {}
        markets = legs.underlyings(hedged)
        raw_of = dict(zip(markets, self.store.read_raw("raw_position", markets), strict=True))
        for leg in hedged:
            raw = raw_of[legs.underlying(leg)]
            if raw.state is State.FAILED:
                detail = raw.reason.partition(": ")[2]
                readings[leg] = Reading[RawPosition | Flat].failed(leg, f"position_unreadable: {detail}")
            elif raw.value is not None:
                fields = _stripped(raw.value)
                try:
                    shown = leg_fields(leg, fields)
                except InvalidPositionError as error:
                    readings[leg] = Reading[RawPosition | Flat].failed(leg, f"position_invalid: {error}")
                    continue
                if shown is None:
                    others[leg] = fields
                else:
                    readings[leg] = _parsed(leg, raw.value, "redis_hash", contract=self.store.settings.contract_of(leg))
        return readings, others

    def _from_memory(self, others: Mapping[str, Fields]) -> dict[str, Reading[RawPosition | Flat]]:
        """Give legs as they were last shown, where the one hash of the symbol shows the other leg now.

        A writer that puts both legs under one key in turn has not closed the one it does not show at the moment. The mark is the
        other leg's, which has the same market; the clock stays that of the leg's own snapshot, which grows old as any does.
        """
        # Not from quantum:position:memory:<leg>: that remembers the key, not the position. It outlives a flat, which deletes
        # the tracked row, and keeps a state only of a side that was left, which no leg ever does. The row has what a position
        # is now, once, for the gates and the proofs, too.
        if not others:
            return {}
        now, limit_sec = self.store.clock().timestamp(), self.store.settings.position_max_age_sec
        readings = {}
        for kept in self.store.read(POSITION, list(others)):
            if kept.state is State.FAILED:
                readings[kept.symbol] = Reading[RawPosition | Flat].failed(kept.symbol, f"position_unreadable: {kept.reason}")
            elif kept.value is not None and now - kept.value["position_ts_epoch"] <= limit_sec:
                actual = self.store.settings.sl_ratchet == "actual"
                position = _remembered(kept.value, others[kept.symbol], leg=kept.symbol, with_stop=actual)
                readings[kept.symbol] = Reading[RawPosition | Flat].present(kept.symbol, position)
        return readings

    def _from_streams(self, symbols: Sequence[str]) -> dict[str, Reading[RawPosition | Flat]]:
        names = [self.store.keys.of(name) for name in STREAMS]
        replies = self.store.run(
            "reading positions from streams",
            [("XREVRANGE", name, "+", "-", "COUNT", STREAM_ENTRIES_READ) for name in names],
        )
        for name, reply in zip(names, replies, strict=True):
            if isinstance(reply, Exception):  # the newest snapshot of any symbol may be the one that cannot be read
                reason = f"position_unreadable: {name}: {reply}"
                return {symbol: Reading[RawPosition | Flat].failed(symbol, reason) for symbol in symbols}
        wanted = set(symbols)
        hedged = {legs.underlying(symbol) for symbol in symbols if legs.leg_of(symbol)}
        newest: dict[str, tuple[tuple[int, int], dict[bytes, bytes], str]] = {}
        of_nobody = ""
        for stream, entry_id, raw_fields in (
            (name, *entry) for name, reply in zip(names, replies, strict=True) for entry in reply
        ):
            fields, trouble = _unpacked(raw_fields)
            if trouble:
                trouble = f"position_unreadable: {stream} entry {entry_id.decode()}: {trouble}"
            symbol, moment = fields.get(b"symbol", b"").decode(errors="replace"), _entry_id(entry_id)
            if trouble and not symbol:
                of_nobody = of_nobody or trouble
            for name in _shown_legs(symbol, fields) if symbol in hedged else (symbol,):
                if name in wanted and (trouble or _is_snapshot(fields)) and (name not in newest or moment >= newest[name][0]):
                    newest[name] = (moment, fields, trouble)
        # A broken entry that names nobody may be the only word about any symbol that is found nowhere else.
        found = {symbol: Reading[RawPosition | Flat].failed(symbol, of_nobody) for symbol in symbols if of_nobody}
        return found | {
            symbol: Reading[RawPosition | Flat].failed(symbol, trouble)
            if trouble
            else _parsed(
                symbol,
                fields,
                "redis_stream",
                ts_epoch=moment[0] / 1000,
                contract=self.store.settings.contract_of(symbol),
            )
            for symbol, (moment, fields, trouble) in newest.items()
        }


def synthetic_position(symbol: str, now: float) -> RawPosition:
    """Build the invented position of docs/spec.md#5-sources, for demonstrations; it is labelled ``synthetic``."""
    entry = SYNTHETIC_ENTRY_BTC if "BTC" in symbol else SYNTHETIC_ENTRY
    return RawPosition(
        symbol=symbol,
        side="LONG",
        entry_price=entry,
        current_price=SYNTHETIC_MARK * entry,
        unrealized_pnl=(SYNTHETIC_MARK - 1) * entry,
        ts_epoch=now,
        peak_price=SYNTHETIC_PEAK * entry,
        trough_price=SYNTHETIC_TROUGH * entry,
        age_sec=SYNTHETIC_AGE_SEC,
        opened_at_epoch=now - SYNTHETIC_AGE_SEC,
        current_sl=SYNTHETIC_SL * entry,
        current_tp=SYNTHETIC_TP * entry,
        position_source="synthetic",
    )


def leg_fields(leg: str, fields: Fields, *, keyed: bool = False) -> Fields | None:
    """Read a snapshot of a hedged symbol as one of its legs.

    Parameters
    ----------
    leg
        Name of the leg, e.g. ``BTCUSDT.LONG``.
    fields
        Names and values as text.
    keyed
        Whether the key names the leg; else positionSide does, or ``side`` where that is LONG or SHORT.

    Returns
    -------
    Fields or None
        The fields with the leg's name and side; ``None`` when they show the other leg, or an empty row of a one-way account.

    Raises
    ------
    InvalidPositionError
        They name no leg, or two, or a position that belongs to no leg.

    References
    ----------
    docs/spec.md#5-sources
    """
    own, market = legs.leg_of(leg), legs.underlying(leg)
    side, symbol = fields.get("side", "").strip().upper(), fields.get("symbol", "")
    if symbol not in ("", market, *legs.legs_of(market)):
        raise InvalidPositionError(field="symbol", value=symbol)
    try:
        named = legs.leg_named(fields)
    except legs.LegError as error:
        raise InvalidPositionError(field=error.field, value=error.value) from None
    if named == legs.ONE_WAY and not keyed and (side == FLAT or _size(fields) == 0):
        return None
    told = {one for one in (named, side if side in legs.LEGS else "", legs.leg_of(symbol), own if keyed else "") if one}
    if len(told) != 1 or not told <= {*legs.LEGS}:
        raise InvalidPositionError(field="positionSide", value=f"{named or '(missing)'} side={side or '(missing)'}")
    if own not in told:
        return None
    return {**fields, "symbol": leg, "side": own if side in ONE_WAY else side}


def _stripped(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name: value.strip() for name, value in texts(raw).items()}


def _is_older(shown: RawPosition | Flat, remembered: Reading[RawPosition | Flat]) -> bool:
    """Tell whether a stream shows an older state of a leg than the hash did when it last showed it."""
    kept = remembered.value
    return kept is not None and kept.ts_epoch is not None and (shown.ts_epoch or 0.0) < kept.ts_epoch


def _size(fields: Fields) -> float | None:
    name = _first(fields, AMOUNT_NAMES)
    return _number(fields, name) if name else None


def _shown_legs(symbol: str, fields: Mapping[bytes, bytes]) -> Sequence[str]:
    """Name the legs a stream entry of a hedged symbol may be about: both, where it does not say which."""
    try:
        return [leg for leg in legs.legs_of(symbol) if leg_fields(leg, _stripped(fields)) is not None]
    except InvalidPositionError:
        return legs.legs_of(symbol)


def _remembered(row: Mapping[str, Any], other: Fields, *, leg: str, with_stop: bool) -> RawPosition:
    """Give a tracked leg as a snapshot, at the mark the other leg shows."""
    direction, price = 1 if row["side"] == "LONG" else -1, row["current_price"]
    name = _first(other, MARK_NAMES)
    shown = number_or_none(other[name]) if name else None
    mark = shown if shown is not None and shown > 0 else price
    return RawPosition(
        symbol=leg,
        side=row["side"],
        entry_price=row["entry_price"],
        current_price=mark,
        unrealized_pnl=row["unrealized_pnl"] + (mark - price) * direction * (row["qty"] or 1.0),
        qty=row["qty"],
        contracts=row["contracts"],
        ts_epoch=row["position_ts_epoch"],
        opened_at_epoch=row["opened_at_epoch"],
        current_sl=row["current_sl"] if with_stop else None,
        current_tp=row["current_tp"],
        position_source=row["position_source"],
    )


def parse_position(
    symbol: str, fields: Fields, source: str, *, ts_epoch: float | None = None, contract: Contract = BASE_UNITS
) -> RawPosition | Flat:
    """Read one snapshot.

    Parameters
    ----------
    symbol
        The symbol it was found under.
    fields
        Names and values as text.
    source
        ``redis_hash`` or ``redis_stream``; the snapshot's own ``source`` or ``position_source`` wins when it is not
        known to be live.
    ts_epoch
        Time of the snapshot when it does not say.
    contract
        What one unit of its size is.

    Returns
    -------
    RawPosition or Flat
        Of an inverse contract a profit that is given is turned into quote units.

    Raises
    ------
    InvalidPositionError
        A field that is needed (symbol, side, size, entry, mark) is missing, not a finite number, out of range, or contradicts
        another. Others are only ignored.
    """
    if fields.get("symbol", symbol) not in ("", symbol):
        raise InvalidPositionError(field="symbol", value=fields["symbol"])
    amount_name = _first(fields, AMOUNT_NAMES)
    amount = None if _says_flat(fields) or not amount_name else _number(fields, amount_name)
    if _is_flat(fields, amount_name, amount):
        return _flat(symbol, fields, source, ts_epoch)
    side = _side(fields, amount_name, amount)
    entry, mark = _required_price(fields, "entry_price"), _required_price(fields, _first(fields, MARK_NAMES) or MARK_NAMES[0])
    contracts = abs(amount) if amount is not None else None
    qty = contract.base_qty(contracts, entry) if contracts is not None else None
    if contracts is not None and not NUMBER_MIN <= contracts <= NUMBER_MAX:
        raise InvalidPositionError(field=str(amount_name), value=fields[str(amount_name)])
    ignored: list[str] = []
    pnl = _unneeded(fields, "unrealized_pnl", ignored)
    if pnl is not None and contract.inverse:
        pnl *= mark  # paid in coins
    opened = [moment for name in OPENED_NAMES if (moment := _opened(fields, name, ignored)) is not None]
    age_sec = _unneeded(fields, "age_sec", ignored)
    notionals = [abs(value) for name in NOTIONAL_NAMES if (value := _unneeded(fields, name, ignored))]
    try:
        clock = _clock(fields, ts_epoch)
    except InvalidPositionError as error:  # its age is unknown, which opens nothing
        clock = None
        ignored.append(str(error))
    return RawPosition(
        symbol=symbol,
        side=side,
        entry_price=entry,
        current_price=mark,
        unrealized_pnl=pnl if pnl is not None else profit_of(side, entry, mark, qty),
        qty=qty,
        leverage=_unneeded(fields, "leverage", ignored),
        ts_epoch=clock,
        peak_price=_extreme(fields, "peak_price", ignored),
        trough_price=_extreme(fields, "trough_price", ignored),
        age_sec=max(age_sec, 0.0) if age_sec is not None else None,
        opened_at_epoch=opened[0] if opened else None,
        current_sl=_unneeded(fields, "current_sl", ignored) or None,
        current_tp=_unneeded(fields, "current_tp", ignored) or None,
        position_source=_label(fields, source),
        contracts=contracts,
        notional=notionals[0] if notionals else None,
        pnl_given=pnl is not None,
        carried=_carried(fields),
        ignored=tuple(ignored),
        doubled=_doubled(fields),
    )


def _says_flat(fields: Fields) -> bool:
    return fields.get("side", "").upper() == FLAT


def _is_flat(fields: Fields, amount_name: str | None, amount: float | None) -> bool:
    """Tell whether a snapshot says that there is no position; one that also gives a size contradicts itself.

    An update of some fields leaves the others: nobody knows whether it was opened or closed.
    """
    said = _says_flat(fields)
    if not said and amount != 0:
        return False
    for name in AMOUNT_NAMES:
        if number_or_none(fields.get(name)) if said else _number(fields, name):
            empty = f"side={FLAT}" if said else f"{amount_name}={fields[str(amount_name)]}"
            raise InvalidPositionError(field=f"{empty} {name}", value=fields[name])
    return True


def _doubled(fields: Fields) -> tuple[str, ...]:
    """Name sizes and marks that a snapshot gives under two names and not alike: nobody knows which of them is meant."""
    found = []
    for names, slack in ((AMOUNT_NAMES, SIZES_SLACK), (MARK_NAMES, MARKS_SLACK)):
        numbers = {name: number_or_none(fields.get(name)) for name in names}  # the first given is read, and named, elsewhere
        given = {
            name: abs(number) for name, number in numbers.items() if number is not None and (number or names == AMOUNT_NAMES)
        }
        if given and min(given.values()) < max(given.values()) * (1 - slack):
            found.append(" is not ".join(f"{name} {number:.6g}" for name, number in given.items()))
    return tuple(found)


def profit_of(side: str, entry_price: float, price: float, qty: float | None) -> float:
    """Give the profit of a position at a price, quote units; per unit where the size is not known."""
    return (price - entry_price) * (1 if side == "LONG" else -1) * (qty or 1.0)


def _carried(fields: Fields) -> dict[str, str]:
    return {name: text[:CARRIED_CHARS] for name in CARRIED_NAMES if (text := fields.get(name))}


def _unneeded(fields: Fields, name: str, ignored: list[str]) -> float | None:
    """Read a number the stop does not need; one that cannot be read is none, and named."""
    try:
        return _number(fields, name)
    except InvalidPositionError as error:
        ignored.append(str(error))
        return None


def _extreme(fields: Fields, name: str, ignored: list[str]) -> float | None:
    price = _unneeded(fields, name, ignored)
    if price is not None and price < 0:
        ignored.append(f"{name}={fields[name]}")
        return None
    return price or None


def _opened(fields: Fields, name: str, ignored: list[str]) -> float | None:
    if not fields.get(name):
        return None
    try:
        moment = _moment(fields, name)
    except InvalidPositionError as error:
        ignored.append(str(error))
        return None
    if 0 < moment < OPENED_EPOCH_MIN:
        ignored.append(f"{name}={fields[name]}")
    return moment if moment >= OPENED_EPOCH_MIN else None


def _flat(symbol: str, fields: Fields, source: str, ts_epoch: float | None) -> Flat:
    side = fields.get("side", "").upper()
    try:
        clock = _clock(fields, ts_epoch)
    except InvalidPositionError:  # it is flat all the same, only nobody knows since when
        clock = None
    return Flat(symbol, clock, _label(fields, source), side if side in ("LONG", "SHORT") else "", _carried(fields))


def _clock(fields: Fields, otherwise: float | None) -> float | None:
    clock = _first(fields, CLOCK_NAMES)
    return _moment(fields, clock) if clock else otherwise


def _label(fields: Fields, otherwise: str) -> str:
    labels = [*(label_of(fields.get(name, "")) for name in LABEL_NAMES), not_live_by_field(fields)]
    foreign = [label for label in labels if not is_live(label)]
    return next((label for label in (*OWN_LABELS, *foreign) if label in foreign), otherwise)


def _parsed(
    symbol: str,
    raw: Mapping[bytes, bytes],
    source: str,
    *,
    ts_epoch: float | None = None,
    keyed: bool = False,
    contract: Contract = BASE_UNITS,
) -> Reading[RawPosition | Flat]:
    try:
        fields: Fields = _stripped(raw)
        if legs.leg_of(symbol):
            fields = leg_fields(symbol, fields, keyed=keyed) or fields
        position = parse_position(symbol, fields, source, ts_epoch=ts_epoch, contract=contract)
    except InvalidPositionError as error:
        return Reading.failed(symbol, f"position_invalid: {error}")
    return Reading.present(symbol, position)


def _side(fields: Fields, amount_name: str | None, amount: float | None) -> Side:
    side = fields.get("side", "").upper()
    leg = _leg_side(fields)
    side = leg if side in ONE_WAY and leg else side
    if side in legs.LEGS and leg not in ("", side):  # one of the two is wrong, and nobody knows which
        raise InvalidPositionError(field=f"side={side} positionSide", value=leg)
    if side in ONE_WAY and amount_name == AMOUNT_NAMES[0] and amount is not None:
        return "LONG" if amount > 0 else "SHORT"
    sizes = {name: number_or_none(fields.get(name)) or 0.0 for name in AMOUNT_NAMES}
    if side == "LONG" and min(sizes.values()) < 0:
        raise InvalidPositionError(field=f"side=LONG {min(sizes, key=sizes.__getitem__)}", value=min(sizes.values()))
    signed = AMOUNT_NAMES[0]
    copied = sizes[signed] in (sizes[name] for name in AMOUNT_NAMES[1:])  # some writers copy the size into the signed field
    if side == "SHORT" and not leg and amount_name == signed and sizes[signed] > 0 and not copied:
        raise InvalidPositionError(field=f"side=SHORT {amount_name}", value=amount)
    if side == "LONG":
        return "LONG"
    if side == "SHORT":
        return "SHORT"
    raise InvalidPositionError(field="side", value=side or "(missing)")


def _leg_side(fields: Fields) -> str:
    """Give the side of a hedge the snapshot is of, where a field names one: beside it an amount need not be signed."""
    try:
        named = legs.leg_named(fields)
    except legs.LegError as error:
        raise InvalidPositionError(field=error.field, value=error.value) from None
    return named if named in legs.LEGS else ""


def _first(fields: Fields, names: Sequence[str]) -> str | None:
    return next((name for name in names if fields.get(name)), None)


def _number(fields: Fields, name: str) -> float | None:
    text = fields.get(name, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise InvalidPositionError(field=name, value=text) from None
    if not math.isfinite(number) or "_" in text or not text.isascii():  # numbers to Python alone
        raise InvalidPositionError(field=name, value=text)
    return number


def _required_price(fields: Fields, name: str) -> float:
    price = _number(fields, name)
    if price is None or not NUMBER_MIN <= price <= NUMBER_MAX:
        raise InvalidPositionError(field=name, value=fields.get(name) or "(missing)")
    return price


def _moment(fields: Fields, name: str) -> float:
    """Read a time, epoch s, ms, us or ns or ISO 8601 (UTC when it has no zone), as epoch s."""
    text = fields[name]
    try:
        moment = datetime.fromisoformat(text) if "-" in text[1:] and ":" in text else None
    except ValueError:
        raise InvalidPositionError(field=name, value=text) from None
    if moment is not None:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    number = _number(fields, name)
    if number is None or number < 0:
        raise InvalidPositionError(field=name, value=text)
    return number / per_sec(number)


def _unpacked(raw_fields: Any) -> tuple[dict[bytes, bytes], str]:
    """Give the fields of a stream entry, those of its JSON ``payload`` on top, and what is wrong with the payload."""
    fields = pairs(raw_fields)
    text = fields.pop(b"payload", b"{}")
    if len(text) > ENTRY_BYTES_MAX:
        return fields, f"payload is larger than {ENTRY_BYTES_MAX} bytes"
    try:
        payload = _json(text)
        if not isinstance(payload, dict):
            return fields, "payload is not a JSON object"
        inside = {name.encode(): str(value).encode() for name, value in payload.items() if value is not None}
    except (ValueError, RecursionError) as error:  # a lone surrogate or an endless number is a ValueError too
        return fields, f"payload: {error}"
    return fields | inside, ""


def _json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)  # NaN and Infinity, which are to be named as what they are


def _is_snapshot(fields: Mapping[bytes, bytes]) -> bool:
    """Tell a position from the plain fills that share its stream."""
    return b"entry_price" in fields or fields.get(b"side", b"").upper() == FLAT.encode()


def _entry_id(raw: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = raw.decode().partition("-")
    return int(milliseconds), int(sequence or 0)
