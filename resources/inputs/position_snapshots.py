"""What a snapshot of a position says, open or flat, and the synthetic one for demonstrations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import orjson

from quantum_core.contracts.reading import Reading, State

Side = Literal["LONG", "SHORT"]
OPENED_NAMES = ("created_at", "opened_at", "opened_at_epoch")
NESTED = frozenset({"carried", "ignored", "doubled"})  # fields that are no single value
NOTIONAL_NAMES = ("notional", "notional_usd", "notionalUsd", "notional_value", "position_value", "positionValue")
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


def synthetic_position(symbol: str, now: float) -> RawPosition:
    """Build the synthetic position of docs/spec.md#5-sources, for demonstrations; its label is ``synthetic``."""
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


def snapshot_row(reading: Reading[RawPosition | Flat]) -> dict[str, Any]:
    """Lay what was read of one symbol out as columns, for the recorder; see :func:`snapshot_of`."""
    row: dict[str, Any] = {"state": str(reading.state), "why": reading.reason, "flat": isinstance(reading.value, Flat)}
    for name in _COLUMNS:
        value = getattr(reading.value, name, None)
        row[name] = orjson.dumps(value).decode() if name in NESTED and value is not None else value
    return row


_COLUMNS = tuple(one.name for one in fields(RawPosition) if one.name != "symbol")


def snapshot_of(symbol: str, row: Mapping[str, Any]) -> Reading[RawPosition | Flat]:
    """Give what :func:`snapshot_row` was given."""
    state = State(row["state"])
    if state is not State.PRESENT:
        return Reading(symbol, state, None, row["why"])
    kind: type[RawPosition | Flat] = Flat if row["flat"] else RawPosition
    values = {one.name: row[one.name] for one in fields(kind) if one.name != "symbol"}
    for name in NESTED & values.keys():
        nested = orjson.loads(values[name])
        values[name] = nested if isinstance(nested, dict) else tuple(nested)
    return Reading(symbol, state, kind(symbol=symbol, **values), row["why"])


def profit_of(side: str, entry_price: float, price: float, qty: float | None) -> float:
    """Give the profit of a position at a price, quote units; per unit where the size is not known."""
    return (price - entry_price) * (1 if side == "LONG" else -1) * (qty or 1.0)
