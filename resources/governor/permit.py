"""What a permit says: its fields for a plan, its two forms in Redis, and how whoever acts on one must read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from quantum_core.contracts.codecs import CodecError
from quantum_core.contracts.schema import ContractError
from quantum_core.contracts.tables import HINT_FIELDS, PERMIT, PERMIT_TTL_SEC
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint
from quantum_core.kernels.columns import Floats
from quantum_core.kernels.governor.gates import is_closing
from quantum_core.kernels.governor.permit_hint import PermitHintTheta, permit_hint
from quantum_core.kernels.proposals.intent import CLOSED_SHARE
from resources.governor.plan import Plan, booked_id
from resources.inputs.foreign import number_or_none, read_efficiency
from resources.store.redis_store import RedisStore, pairs


def read_permit(store: RedisStore, symbol: str, plan_id: str) -> dict[str, Any] | None:
    """Read a permit as whoever acts on it must: anything but a whole, unused permit of this plan and minute is none.

    A server that failed over to an older copy of the data may hold a permit that was used or has run out, or none at all.

    Returns
    -------
    dict or None
        The decoded permit.
    """
    plan_id = booked_id(plan_id)
    key = store.keys.of(PERMIT.key, plan_id, symbol)
    raw = permit_fields(*store.run("reading a permit", [("HGETALL", key), ("GET", key)]))
    if not raw:
        return None
    try:
        row = PERMIT.decode(raw)
    except ContractError:
        return None
    age = (store.clock() - row["created_at"]).total_seconds()
    is_of_plan = row["plan_id"] == plan_id and row["symbol"] == symbol
    return row if is_of_plan and row["consumed"] == "false" and -CLOCK_SKEW_SEC <= age < PERMIT_TTL_SEC else None


def permit_text(fields: Mapping[str, str]) -> str:
    """Write a permit as one JSON string (PERMIT_FORMAT=json): the fields of the hash, with the types JSON has.

    true and false for ``granted`` and ``consumed``, numbers for numbers, null for what is empty.
    """
    typed: dict[str, Any] = dict(fields)
    for name, text in fields.items():
        item = PERMIT.by_name.get(name)
        if name in ("granted", "consumed"):
            typed[name] = text == "true"
        elif item is not None and item.codec.kind in (int, float, bool):
            typed[name] = number_or_none(text) if item.codec.kind is float else int(text)
    return orjson.dumps(typed).decode()


def permit_fields(as_hash: Any, as_string: Any) -> dict[bytes, bytes]:
    """Give the fields of a permit, whichever of its two forms stands there; empty when neither does.

    Parameters
    ----------
    as_hash, as_string
        Replies to HGETALL and GET of its key.
    """
    if not isinstance(as_hash, Exception):
        return pairs(as_hash)
    if not isinstance(as_string, bytes):
        return {}
    try:
        typed = orjson.loads(as_string)
        return {name.encode(): _permit_value(name, value).encode() for name, value in typed.items()}
    except (orjson.JSONDecodeError, CodecError, AttributeError, TypeError, ValueError):
        return {}


def _permit_value(name: str, value: Any) -> str:
    """Write one JSON value of a permit as the hash has it, which is what its digest was made of."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        codec = PERMIT.by_name[name].codec if name in PERMIT.by_name else None
        return "" if value is None else str(value).lower() if codec is None or codec.kind is str else codec.encode(value)
    return PERMIT.by_name[name].codec.encode(value) if name in PERMIT.by_name else str(value)


def hint_rows(store: RedisStore, symbols: Sequence[str], now: datetime) -> list[dict[str, Any]]:
    """Compute the eight efficiency hints per symbol at this moment, as the wire table decodes them."""
    return permit_hints(read_efficiency(store, symbols), now.timestamp(), store.profile.by_row(PermitHintTheta, symbols))


def permit_hints(efficiency: EfficiencyHint, now: float | Floats, theta: PermitHintTheta) -> list[dict[str, Any]]:
    """Compute the hints of efficiencies at a moment, or at one for each."""
    hint = permit_hint(efficiency, now, theta)
    codecs = {name: PERMIT.by_name[name].codec for name in HINT_FIELDS}
    return [{name: codecs[name].decode(text) for name, text in fields.items()} for fields in hint.fields()]


def permit_row(
    store: RedisStore,
    plan: Plan,
    position: Mapping[str, Any] | None,
    hint: Mapping[str, Any],
    now: datetime,
    size_hint_usd: float | None = None,
) -> dict[str, Any]:
    """Lay out the permit of one plan, if it comes to that.

    Parameters
    ----------
    store
        Whose settings know the symbol's contract.
    plan
        The plan; a close that names no size gets the share of the position that its action closes.
    position
        The position as tracked; ``None`` when it is not known.
    hint
        Row of :func:`hint_rows`.
    now
        When it is created.
    size_hint_usd
        What the symbol's fresh size proposal says; ``None`` without one.
    """
    prices = [price for price in (plan.price, position["current_price"] if position is not None else None) if price]
    price = max(prices, default=None)  # a plan cannot talk its size down
    qty = plan.qty or None
    contract = store.settings.contract_of(plan.symbol)
    if qty is None and position is not None and position["qty"] and is_closing(plan.action, reduce_only=plan.reduce_only):
        # of unknown share: perhaps all of it; kept before sizes were kept as written, it is in base units
        held = position["contracts"] if position["contracts"] is not None else position["qty"]
        qty = CLOSED_SHARE.get(plan.action, 1.0) * abs(held)
    return {
        "granted": "true",
        "plan_id": plan.plan_id,
        "decision": "EXECUTE",
        "computed_qty": qty,
        "computed_notional": contract.notional(qty, price) if qty is not None and price is not None else None,
        "created_at": now,
        "consumed": "false",
        "size_hint_usd": size_hint_usd,
        **hint,
    }
