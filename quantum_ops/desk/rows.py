"""One row per symbol: what is known of it, and the worst of that first. Pure; reading is ``quantum_ops/desk/overview.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from quantum_core.contracts.reading import Reading, State, printable
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
from quantum_core.display import clock_text, duration_text, failure_text, name_text
from quantum_core.failure import Failure
from quantum_core.freshness import CANDLES, WELL, Condition, Vital
from quantum_core.kernels.columns import REGIMES

Health = Literal["failed", "stale", "stop crossed", "warning", "ok"]
HEALTHS: tuple[Health, ...] = ("failed", "stale", "stop crossed", "warning", "ok")  # the worst first
UNHEALTHY = HEALTHS[:3]
FAILING_ASSETS = tuple(table.asset for table in PUBLISHED if not table.of_account)
READ = (POSITION, MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL, GOVERNOR_STATE)
TEXT_MAX = 300  # characters of what comes from Redis
MARK_OLD_SEC = 60  # an older mark is shown grey, with a warning


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
        """Give the age of the price, s; ``None`` when its writer gives no time."""
        return None if self.mark_at is None else now - self.mark_at

    def mark_old(self, now: float) -> bool:
        """Return whether the price is too old to be relied on, as far as its age is known."""
        age = self.mark_age(now)
        return age is not None and age > MARK_OLD_SEC


def worst_first(row: Row) -> tuple[int, bool, str]:
    """Give the sort key: the unhealthy first, then those with a position, then by name."""
    return HEALTHS.index(row.health), row.side is None, row.symbol


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
    return "" if failure is None else f"last, published before {clock_text(failure.since + 59)}"  # not a minute too early


def _health(
    readings: Mapping[str, Reading[dict[str, Any]]], faults: Faults, mark_at: float | None, now: float
) -> tuple[Health, str, float | None]:
    """Name the worst that is known of a symbol: the cause, its consequences only counted."""
    failed = [(asset, faults.failures[asset]) for asset in FAILING_ASSETS if asset in faults.failures]
    if failed:
        asset, failure = failed[0]
        return "failed", shown_text(f"{name_text(asset)}: {failure_text(failure.why)}"), failure.since
    unreadable = next((reading.reason for reading in readings.values() if reading.state is State.FAILED), "")
    if unreadable:
        return "failed", shown_text(failure_text(unreadable)), None
    if faults.old:
        further = f"; and {len(faults.old) - 1} more" if len(faults.old) > 1 else ""
        return "stale", shown_text(f"{vital_text(faults.old[0])}{further}"), None
    position, risk = readings[POSITION.asset].value, readings[RISK_PROPOSAL.asset].value
    old = f"the price is {duration_text(now - mark_at)} old" if mark_at is not None and now - mark_at > MARK_OLD_SEC else ""
    if position and position["held"] and risk and risk["sl_breached"]:
        return "stop crossed", "; ".join(filter(None, ("the price has crossed the proposed stop", old))), None
    if old:
        return "warning", f"{old}: its source has not renewed it", None
    if position and position["held"] and position["collared"]:
        return "warning", "a price waits for the next candle to confirm it", None
    if position and position["held"] and position["trouble"]:
        return "warning", shown_text(position["trouble"]), None
    aging = [vital for vital in faults.vitals if vital.condition is Condition.AGING]
    return ("warning", shown_text("; ".join(map(vital_text, aging))), None) if aging else ("ok", "", None)


def vital_text(vital: Vital) -> str:
    """Say how one thing stands, with its age and limit where they are known."""
    thing, limit = name_text(vital.thing), duration_text(vital.limit_sec)
    if vital.age_sec is None:
        return f"{thing} {vital.condition}{f': {vital.detail}' if vital.detail else ''}"
    return f"{thing} {vital.condition}: {duration_text(vital.age_sec)} old, limit {limit}"


def shown_text(value: object, limit: int = TEXT_MAX) -> str:
    """Take text of others: one line, nothing a terminal or a browser would act on, no longer than the page has room for."""
    text = printable(value.decode(errors="replace") if isinstance(value, bytes) else value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
