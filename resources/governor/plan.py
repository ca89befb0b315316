"""One plan: how an entry of the stream is read, and what its decision holds. A field that is missing or malformed is named."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from quantum_core.contracts.labels import is_live, label_of, not_live_by_field
from quantum_core.contracts.legs import LEGS, ONE_WAY, SEPARATOR, LegError, leg_named, leg_of, underlying
from quantum_core.contracts.tables import SEEN_TTL_SEC
from quantum_core.kernels import NUMBER_MAX
from quantum_core.kernels.capital.efficiency_hint import epoch_sec
from quantum_core.kernels.epochs import SEC_MIN
from quantum_core.kernels.governor.gates import is_closing
from resources.governor.account import USD_MAX
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import texts

REQUIRED = ("plan_id", "symbol", "action", "decision")
NUMBERS = ("kill_score", "qty", "close_qty", "price")
OTHER_SIZES = ("quantity", "size")  # names of a size that planners give beside, or in the place of, ours
SIZES = ("qty", "close_qty", *OTHER_SIZES)
REDUCE_ONLY = ("reduceonly", "isreduceonly", "closeposition")  # letters of a field that makes a plan without an action a CLOSE
YES = ("true", "t", "yes", "y", "on", "1", "1.0")
EMPTY = ("", "none", "null", "nil", "undefined", "<na>")  # how planners spell a field without a value
NAN = "nan"  # so does pandas, but a size that is NaN was computed
CLOSED_BY = {"BUY": "SHORT", "SELL": "LONG"}  # side of an order -> the side of the position it closes
CLOCKS = ("timestamp", "ts", "created_at")
PLAN_ID_MAX = 128  # characters
_PLAN_ID = re.compile(r"[\w.:-]+", re.ASCII)
OTHER_PERMITS = ("p26:", "p33:")  # begin the permits of other programs beside the governor's, under quantum:permit:
_SYMBOL = re.compile(r"[\w-]{2,40}")
_ACTION = re.compile(r"[\w -]{1,64}", re.ASCII)  # it is shown on terminals
PLAN_MAX_AGE_SEC = SEEN_TTL_SEC / 2  # an older plan may have been decided, and its marker be gone
OPENING, CLOSING = "opening", "closing"  # kinds of plans, each with counts of its own


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan as read from the stream.

    Attributes
    ----------
    entry_id
        Stream entry.
    invalid
        Name of the first field that is missing or malformed; empty when the plan can be evaluated.
    qty, price
        Size in base units (absolute) and price in quote units, ``None`` when not given.
    source
        What the plan says of itself: who planned it, or e.g. ``example``.
    taken_at
        When it was taken from the stream to be judged, epoch s, by the server's clock.
    data_source
        What it says of the data it rests on; ours do, whose source is ``quantum``.
    most
        The largest size it names, whatever it calls it.
    closes
        Sides of a position that it would close, by its order and by the leg it names; only of closing plans.
    """

    entry_id: str
    plan_id: str
    symbol: str
    action: str = ""
    decision: str = ""
    reduce_only: bool = False
    kill_score: float | None = None
    qty: float | None = None
    price: float | None = None
    invalid: str = ""
    source: str = ""
    taken_at: float = 0.0
    data_source: str = ""
    most: float | None = None
    closes: frozenset[str] = frozenset()

    @property
    def written_at(self) -> float:
        """When it was written, epoch s, by the server's clock."""
        return int(self.entry_id.partition("-")[0]) / 1000


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one plan: granted with the permit's fields, or refused with a reason.

    Attributes
    ----------
    plan
        The plan.
    reason
        First failed gate; empty when all before the limits pass. The limits themselves are counted when it is recorded.
    permit
        Fields of the permit, if it comes to that.
    facts
        What it was judged by, for the record, as text.
    reason_beyond
        First failed gate among those after the limits.
    counts
        What the limits were counted to, before and after, see COUNTS; empty until it is recorded.
    """

    plan: Plan
    reason: str
    permit: Mapping[str, Any] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    reason_beyond: str = ""
    counts: Mapping[str, str] = field(default_factory=dict)

    @property
    def granted(self) -> bool:
        """Whether all gates pass."""
        return not self.reason


def kind_of(plan: Plan) -> str:
    """Name the counts that limit a plan: those of openings or those of closes."""
    return CLOSING if is_closing(plan.action, reduce_only=plan.reduce_only) else OPENING


def parse_plan(entry_id: str, raw: Any, hedged: Collection[str] = (), *, taken_at: float = 0.0) -> Plan:
    """Read one stream entry; the first field that is missing or malformed is named in ``invalid``.

    Parameters
    ----------
    hedged
        HEDGE_SYMBOLS: a plan for one of them names a leg, which is the plan's symbol then.
    taken_at
        When it was taken from the stream, epoch s, by the server's clock; 0 where it is only looked at.
    """
    fields, reduce_only_text = _fields_of(raw)
    reduce_only = reduce_only_text in ("true", "1")
    of_leg, misnamed = "", ""
    if hedged and underlying(fields.get("symbol", "")) in hedged:
        of_leg, misnamed = _leg_of_plan(fields, reduce_only=reduce_only)
        fields["symbol"] = of_leg or underlying(fields["symbol"])
    invalid = next((name for name in REQUIRED if not fields.get(name)), "")
    plan_id, symbol = fields.get("plan_id", ""), fields.get("symbol", "")
    booked = booked_id(plan_id)
    if not invalid and not booked:
        invalid = "plan_id"
    if not invalid and not (of_leg or _SYMBOL.fullmatch(symbol)):
        invalid = "symbol"
    if not invalid and not _ACTION.fullmatch(fields["action"]):
        invalid = "action"
    numbers = {name: number_or_none(fields[name]) for name in NUMBERS if fields.get(name)}
    if not invalid:
        invalid = next((name for name, number in numbers.items() if number is None or not 0 <= number <= NUMBER_MAX), "")
    qty, price = numbers.get("qty") or numbers.get("close_qty"), numbers.get("price") or None
    if not invalid and qty is not None and price is not None and qty * price > USD_MAX:  # trillions only of what is cheap
        invalid = "qty" if numbers.get("qty") else "close_qty"
    if not invalid and reduce_only_text not in ("true", "false", "1", "0", ""):
        invalid = "reduceOnly"
    invalid = invalid or misnamed
    action = fields.get("action", "").upper() if _ACTION.fullmatch(fields.get("action", "")) else ""
    closing = is_closing(action, reduce_only=reduce_only)
    sizes = [number for name in OTHER_SIZES if (number := number_or_none(fields.get(name)))]
    most = max((abs(number) for number in (*sizes, qty, numbers.get("close_qty")) if number), default=None)
    if not closing:  # a plan cannot talk its size down
        qty = most
        invalid = invalid or _outdated(fields, entry_id)
    label = label_of(fields.get("data_source", ""))
    return Plan(
        entry_id=entry_id,
        plan_id=booked or f"entry-{entry_id}",
        symbol=symbol if of_leg or _SYMBOL.fullmatch(symbol) else "",
        action=action,
        decision=fields.get("decision", "").upper()[:32],
        reduce_only=reduce_only,
        kill_score=numbers.get("kill_score"),
        qty=qty,
        price=price,
        invalid=invalid,
        source=label_of(fields.get("source", "")),
        taken_at=taken_at,
        data_source=label if not is_live(label) else not_live_by_field(fields) or label,
        most=most,
        closes=_closed_by(fields) if closing else frozenset(),
    )


def booked_id(plan_id: str) -> str:
    """Give the id under which a plan is decided: its own, with what is no letter of ASCII, digit or ``_.:-`` escaped as in a URL.

    Two ids never share one, and none is that of another program's permit. Empty for an id that is empty, longer than PLAN_ID_MAX
    characters, has characters that cannot be seen, or is no text.
    """
    if not 0 < len(plan_id) <= PLAN_ID_MAX or not plan_id.isprintable() or "\N{REPLACEMENT CHARACTER}" in plan_id:
        return ""
    escaped = plan_id if _PLAN_ID.fullmatch(plan_id) else quote(plan_id, safe=":")
    return escaped.replace(":", "%3A", 1) if escaped.startswith(OTHER_PERMITS) else escaped


def _fields_of(raw: Any) -> tuple[dict[str, str], str]:
    """Give the fields of a plan with their values, and what ``reduceOnly`` says, in small letters.

    A closing plan needs no value for what is not required; an opening with a word in the place of a number is to be refused.
    """
    fields = {name: text.strip() if name != "plan_id" else text for name, text in texts(raw).items()}
    if _is_empty("action", fields.get("action", "")):
        fields["action"] = ""
    reduce_only_text = fields.get("reduceOnly", "false").lower()
    reduce_only = reduce_only_text in ("true", "1")
    if not fields["action"] and any(map(_reduces, fields, fields.values())):
        fields["action"] = "CLOSE"  # planners leave out what it says already
        reduce_only_text = reduce_only_text if reduce_only else ""
    if is_closing(fields["action"].upper(), reduce_only=reduce_only):
        fields = {name: text for name, text in fields.items() if name in REQUIRED or not _is_empty(name, text)}
        reduce_only_text = reduce_only_text if "reduceOnly" in fields else ""
    return fields, reduce_only_text


def _is_empty(name: str, text: str) -> bool:
    """Whether a field has a word where it has no value."""
    return text.lower() in EMPTY or (text.lower() == NAN and name not in SIZES)


def _reduces(name: str, text: str) -> bool:
    """Whether a field says, in any spelling, that its plan only reduces a position."""
    return re.sub("[^a-z]", "", name.lower()) in REDUCE_ONLY and text.strip("'\" ").lower() in YES


def _closed_by(fields: Mapping[str, str]) -> frozenset[str]:
    """Name the sides of a position a closing plan would close: an order to buy closes a short one."""
    try:
        named = leg_named(fields)
    except LegError:
        named = ""
    sides = (named, CLOSED_BY.get(fields.get("side", "").upper(), ""))
    return frozenset(side for side in sides if side in LEGS)


def _outdated(fields: Mapping[str, str], entry_id: str) -> str:
    """Name the clock of a plan that was made long before it came: sent again, it may have been decided, and be forgotten."""
    for name in CLOCKS:
        try:
            made_at = epoch_sec(fields.get(name, ""))
        except (ValueError, OverflowError):
            continue
        if SEC_MIN <= made_at < int(entry_id.partition("-")[0]) / 1000 - PLAN_MAX_AGE_SEC:
            return name
    return ""


def _leg_of_plan(fields: Mapping[str, str], *, reduce_only: bool) -> tuple[str, str]:
    """Give the name of the leg a plan for a hedged symbol is for, and the field by which nobody can know it (else empty).

    The leg stands in the symbol or in positionSide. In hedge mode it is the side of the order that opens or closes a leg: an
    order of the other side would do the opposite of what the plan is judged by.
    """
    symbol = fields["symbol"]
    market = underlying(symbol)
    try:
        named = leg_named(fields)
    except LegError as error:
        return "", error.field
    named_legs = {one for one in (named, leg_of(symbol)) if one}
    if len(named_legs) != 1 or ONE_WAY in named_legs:
        return "", "positionSide"
    (leg,) = named_legs
    action, side = fields.get("action", "").upper(), fields.get("side", "").strip().upper()
    other_leg = LEGS[1 - LEGS.index(leg)]
    closing = is_closing(action, reduce_only=reduce_only)
    order = "BUY" if (leg == "LONG") != closing else "SELL"
    wrong = "action" if other_leg in re.split(r"[^A-Z]+", action) else "side" if side not in ("", leg, order) else ""
    return f"{market}{SEPARATOR}{leg}", wrong
