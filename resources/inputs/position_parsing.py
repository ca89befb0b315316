"""From the fields of a snapshot to a position: what makes it valid, whose it is, and which leg of a hedge it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from quantum_core.contracts import legs
from quantum_core.contracts.labels import is_live, label_of, not_live_by_field
from quantum_core.contracts.reading import is_plain
from quantum_core.kernels import NUMBER_MAX, NUMBER_MIN
from quantum_core.kernels.epochs import SEC_MIN, per_sec
from quantum_core.kernels.position.contract import BASE_UNITS, Contract
from resources.inputs.foreign import number_or_none
from resources.inputs.position_snapshots import (
    NOTIONAL_NAMES,
    OPENED_NAMES,
    Flat,
    InvalidPositionError,
    RawPosition,
    Side,
    profit_of,
)

Fields = Mapping[str, str]
AMOUNT_NAMES = ("position_amt", "quantity", "qty")
MARK_NAMES = ("mark_price", "current_price")
SIZES_SLACK, MARKS_SLACK = 1e-6, 0.02  # shares by which one size (text and back), or a last price, may differ from the other
CLOCK_NAMES = ("ts_epoch", "timestamp", "ts", "ts_utc")
CARRIED_NAMES = (  # what a writer that sends only what has changed leaves behind when the side changes
    *("current_sl", "current_tp", "peak_price", "trough_price", "age_sec", "unrealized_pnl"),
    *OPENED_NAMES,
    *NOTIONAL_NAMES,
)
CARRIED_CHARS = 40  # of each that are kept to compare; a longer one is no number
FLAT = "FLAT"
ONE_WAY = ("", "BOTH")  # a one-way account: the sign of the amount is the side
OWN_LABELS = ("synthetic", "example", "replay")  # what a snapshot may say of itself, worst first; then any not known as live
LABEL_NAMES = ("source", "position_source")


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
    leg_side, market = legs.leg_of(leg), legs.underlying(leg)
    side, symbol = fields.get("side", "").strip().upper(), fields.get("symbol", "")
    if symbol not in ("", market, *legs.legs_of(market)):
        raise InvalidPositionError(field="symbol", value=symbol)
    try:
        named = legs.leg_named(fields)
    except legs.LegError as error:
        raise InvalidPositionError(field=error.field, value=error.value) from None
    if named == legs.ONE_WAY and not keyed and (side == FLAT or _size(fields) == 0):
        return None
    named_legs = {
        one for one in (named, side if side in legs.LEGS else "", legs.leg_of(symbol), leg_side if keyed else "") if one
    }
    if len(named_legs) != 1 or not named_legs <= {*legs.LEGS}:
        raise InvalidPositionError(field="positionSide", value=f"{named or '(missing)'} side={side or '(missing)'}")
    if leg_side not in named_legs:
        return None
    return {**fields, "symbol": leg, "side": leg_side if side in ONE_WAY else side}


def _size(fields: Fields) -> float | None:
    name = first_given(fields, AMOUNT_NAMES)
    return _number(fields, name) if name else None


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
    amount_name = first_given(fields, AMOUNT_NAMES)
    amount = None if _says_flat(fields) or not amount_name else _number(fields, amount_name)
    if _is_flat(fields, amount_name, amount):
        return _flat(symbol, fields, source, ts_epoch)
    side = _side(fields, amount_name, amount)
    entry, mark = (
        _required_price(fields, "entry_price"),
        _required_price(fields, first_given(fields, MARK_NAMES) or MARK_NAMES[0]),
    )
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
    """Whether a snapshot says that there is no position; one that also gives a size contradicts itself.

    An update of some fields leaves the others: nobody knows whether it was opened or closed.
    """
    says_flat = _says_flat(fields)
    if not says_flat and amount != 0:
        return False
    for name in AMOUNT_NAMES:
        if number_or_none(fields.get(name)) if says_flat else _number(fields, name):
            empty = f"side={FLAT}" if says_flat else f"{amount_name}={fields[str(amount_name)]}"
            raise InvalidPositionError(field=f"{empty} {name}", value=fields[name])
    return True


def _doubled(fields: Fields) -> tuple[str, ...]:
    """Name sizes and marks that a snapshot gives under two names and not alike: nobody knows which of them is meant."""
    contradictions = []
    for names, slack in ((AMOUNT_NAMES, SIZES_SLACK), (MARK_NAMES, MARKS_SLACK)):
        numbers = {name: number_or_none(fields.get(name)) for name in names}  # the first given is read, and named, elsewhere
        given = {
            name: abs(number) for name, number in numbers.items() if number is not None and (number or names == AMOUNT_NAMES)
        }
        if given and min(given.values()) < max(given.values()) * (1 - slack):
            contradictions.append(" is not ".join(f"{name} {number:.6g}" for name, number in given.items()))
    return tuple(contradictions)


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
    if 0 < moment < SEC_MIN:  # a placeholder
        ignored.append(f"{name}={fields[name]}")
    return moment if moment >= SEC_MIN else None


def _flat(symbol: str, fields: Fields, source: str, ts_epoch: float | None) -> Flat:
    side = fields.get("side", "").upper()
    try:
        clock = _clock(fields, ts_epoch)
    except InvalidPositionError:  # it is flat all the same, only nobody knows since when
        clock = None
    return Flat(symbol, clock, _label(fields, source), side if side in ("LONG", "SHORT") else "", _carried(fields))


def _clock(fields: Fields, otherwise: float | None) -> float | None:
    clock = first_given(fields, CLOCK_NAMES)
    return _moment(fields, clock) if clock else otherwise


def _label(fields: Fields, otherwise: str) -> str:
    labels = [*(label_of(fields.get(name, "")) for name in LABEL_NAMES), not_live_by_field(fields)]
    foreign = [label for label in labels if not is_live(label)]
    return next((label for label in (*OWN_LABELS, *foreign) if label in foreign), otherwise)


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


def first_given(fields: Fields, names: Sequence[str]) -> str | None:
    """Give the first of some fields that a snapshot has; ``None`` when it has none of them."""
    return next((name for name in names if fields.get(name)), None)


def _number(fields: Fields, name: str) -> float | None:
    text = fields.get(name, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise InvalidPositionError(field=name, value=text) from None
    if not math.isfinite(number) or not is_plain(text):
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
