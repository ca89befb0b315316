"""The limits of the governor: their numbers by the profile in force, what they count, and what was counted.

The defaults stand in ``quantum_core/kernels/governor/limits.py``; the counting itself is done by ``lua/decide.lua``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

from quantum_core.kernels.governor.gates import COUNTED
from quantum_core.kernels.governor.limits import BURST_SEC, DEFAULTS, HOUR_SEC, GovernorLimits, GovernorTheta, Limits
from quantum_core.settings import Settings
from resources.governor.plan import CLOSING, OPENING, Decision
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import RedisStore

LIMITS = tuple(gate.reason for gate in COUNTED)
COUNTED_IN = {OPENING: ("permits_granted", "permitted_today"), CLOSING: ("closes_granted", "closed_today")}
GRANTED = {"permits": COUNTED_IN[OPENING][0], "closes": COUNTED_IN[CLOSING][0]}
USD, QTY = "usd", "qty"  # notional where a price is known, else size: never added up
COUNTS = ("permits_hour", "permits_5min", "day_total")  # before a decision
COUNTS_AFTER = tuple(f"{name}_after" for name in COUNTS)
CLOSE_LATE_SEC = 60  # beyond its interval, before the newest close is too old to open anything


def theta_of(settings: Settings, given: GovernorLimits) -> GovernorTheta:
    """Take the limits of the gates from a profile, and what follows from other settings.

    Closes have the limits of openings unless they are given their own; that nothing may be opened does not mean that nothing may
    be closed: then they have those that openings have by default.
    """
    return _theta_of(given, settings.candle_interval_sec, settings.allow_synthetic)


@lru_cache(maxsize=1024)  # a theta checks all of its numbers when it is built: a quarter of the time of a thousand plans
def _theta_of(given: GovernorLimits, candle_interval_sec: int, allow_synthetic: bool) -> GovernorTheta:  # noqa: FBT001
    limits = {one.name: getattr(given, one.name) for one in fields(Limits)}
    for opens, closes in (("max_exec_per_hour", "max_closes_per_hour"), ("max_exec_per_5min", "max_closes_per_5min")):
        if limits[closes] is None and not limits[opens]:
            limits[closes] = getattr(DEFAULTS, opens)
    theta = GovernorTheta(
        **limits,
        max_close_age_sec=max(given.max_data_age_sec, candle_interval_sec + CLOSE_LATE_SEC),
        allow_synthetic=allow_synthetic,
    )
    return theta.resolved()  # a record names the numbers it was judged by


def limits_of(store: RedisStore, symbol: str) -> GovernorTheta:
    """Give the limits that plans of a symbol are judged by now."""
    return theta_of(store.settings, store.profile.theta(GovernorLimits, symbol))


@lru_cache(maxsize=1024)  # written for every plan, it took a tenth of the time of a thousand
def limits_text(limits: GovernorTheta) -> str:
    """Write the limits a plan was judged by, as its record keeps them."""
    return json.dumps(asdict(limits), separators=(",", ":"))


@lru_cache(maxsize=1024)
def limits_of_closes(limits: GovernorTheta) -> GovernorTheta:
    """Give what closes of a symbol are counted against."""
    return limits.of_closes()


def amount_of(decision: Decision) -> tuple[str, float | None]:
    """Give what a plan counts for today, and in which unit.

    A size nobody knows is ``None``, which no limit allows; but a close of unknown size counts nothing, because what reduces risk
    must not be refused for want of a number.
    """
    permit = decision.permit
    if permit is None:
        return QTY, None
    if permit["computed_notional"] is not None:
        return USD, permit["computed_notional"]
    qty = permit["computed_qty"]
    return QTY, 0.0 if qty is None and decision.facts.get("closing") == "1" else qty


def counts_of(reply: Sequence[Any]) -> dict[str, str]:
    """Name what the script has counted, before and after its decision."""
    return {
        name: one.decode() if isinstance(one, bytes) else str(one)
        for name, one in zip((*COUNTS, *COUNTS_AFTER), reply, strict=True)
    }


def grants(store: RedisStore, symbols: Sequence[str]) -> list[dict[str, list[float]]]:
    """Read when openings and closes of each symbol were permitted, epoch s, as far as limits count them."""
    replies = store.run(
        "counting permits", [("LRANGE", store.keys.of(key, one), 0, -1) for one in symbols for key in GRANTED.values()]
    )
    lists = [() if isinstance(reply, Exception) else reply for reply in replies]  # what cannot be read grants nothing anyway
    times = [[when for text in one if (when := number_or_none(text)) is not None] for one in lists]
    return [dict(zip(GRANTED, both, strict=True)) for both in zip(times[::2], times[1::2], strict=True)]


def counted_in_windows(granted: Mapping[str, Sequence[float]], now: float) -> dict[str, int]:
    """Count the openings and the closes of a symbol in the windows of the limits."""
    return {
        f"{kind}_{window}": sum(now - when < span for when in times)
        for kind, times in granted.items()
        for window, span in (("hour", HOUR_SEC), ("5min", BURST_SEC))
    }
