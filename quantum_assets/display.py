"""Numbers, codes and times as people read them: rounded to what matters, with their unit, in words.

Here belongs every rounding and every word of the pages for people. Programs get the full precision, from the hash or as JSON.
Pure, and light: the pages and the commands share it.
"""

from __future__ import annotations

import math

from quantum_assets.freshness import EPOCH_MAX

SIGNIFICANT_DIGITS = 6  # of a price: finer than the tick of any market we know, and short enough for a column
CENTS_BELOW = 1000  # quote; a smaller price keeps two decimals, so that 105 and 105.5 stand in line
NONE = "–"  # stands for a value there is none of

ACTIONS = {
    "NONE": "hold",
    "PARTIAL_25": "close 25 % proposed",
    "PARTIAL_50": "close 50 % proposed",
    "PARTIAL_75": "close 75 % proposed",
    "FULL_CLOSE_PROPOSED": "close all proposed",
}
REGIMES = {"trend": "trend", "mr": "mean-reverting", "chop": "chop"}
REASONS = {
    # of the stop
    "trail_active": "the trailing stop is the tighter one",
    "sl_tightened_monotonic": "kept: the new stop would be looser than the one in force",
    "sl_tightening": "tightened since the last proposal",
    "regime_trend": "regime: trend",
    "regime_mr": "regime: mean-reverting",
    "regime_chop": "regime: chop",
    "tp_extended": "target extended by the trend",
    "sl_breached": "the price has crossed the proposed stop",
    # of the harvest
    "harvest_partial_25": "profit has reached the first target: 25 %",
    "harvest_partial_50": "profit has reached the second target: 50 %",
    "harvest_partial_75": "profit has reached the third target: 75 %",
    "profit_lock": "profit is locked by a stop beyond break-even",
    "kill_score_triggered": "the kill score is at its threshold or above",
    "regime_flip": "the trend is lost",
    "sigma_spike": "volatility has jumped",
    "ts_drop": "the trend has weakened",
    "age_penalty": "the position is old",
    # of the size hint
    "ok": "efficiency is fresh and trusted",
    "missing_eff": "no efficiency is published",
    "stale_eff": "the efficiency is too old",
    "low_conf": "the efficiency is not trusted: low confidence",
    "redis_error": "the efficiency cannot be read",
    # of the gates
    "evaluation_error": "an input cannot be read",
    "kill_switch_active": "kill switch",
    "disarmed": "governor disarmed",
    "stale_market_state": "market state or its newest candle missing or too old",
    "position_unknown": "no source shows whether there is a position",
    "stale_harvest_proposal": "harvest proposal missing or too old",
    "stale_position": "position missing or too old",
    "synthetic_data": "data is not live",
    "kill_score_critical_non_close": "kill score critical",
    "hourly_limit_exceeded": "hourly limit of permits reached",
    "burst_limit_exceeded": "5-minute limit of permits reached",
    "daily_limit_exceeded": "daily limit reached",
    "p29_allocation_cap": "allocation target reached",
    "unknown_symbol": "unknown symbol",
}
_GUARD = "risk_guard_"  # prefix of a gate's reason that names a guard of the account
_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def price_text(value: float | None) -> str:
    """Write a price or an amount: six significant digits, thousands by commas, no exponent.

    Examples
    --------
    >>> price_text(97123.4567), price_text(0.00001234), price_text(105.0)
    ('97,123.5', '0.00001234', '105.00')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    decimals = max(SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(abs(value))), 0)
    text = f"{value:,.{decimals}f}"
    if not decimals:
        return text
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if 1 <= abs(value) < CENTS_BELOW:
        fraction = fraction.ljust(2, "0")
    return f"{whole}.{fraction}" if fraction else whole


def number_text(value: float | None, decimals: int = 2, *, signed: bool = False) -> str:
    """Write a plain number with a fixed count of decimals; minus zero is zero."""
    if value is None or not math.isfinite(value):
        return NONE
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''},.{decimals}f}"


def percent_text(fraction: float | None, decimals: int = 2, *, signed: bool = False) -> str:
    """Write a fraction as per cent, e.g. ``+0.53 %``."""
    text = number_text(None if fraction is None else 100 * fraction, decimals, signed=signed)
    return text if text == NONE else f"{text} %"


def duration_text(seconds: float | None) -> str:
    """Write a duration in its two largest units, e.g. ``3 h 5 min``."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    for size, name, smaller, smaller_name in _UNITS:
        if abs(seconds) >= size:
            whole, rest = divmod(round(abs(seconds)), size)
            more = f" {rest // smaller} {smaller_name}" if rest // smaller else ""
            return f"{'-' if seconds < 0 else ''}{whole} {name}{more}"
    return f"{seconds:.0f} s"


def epoch_or_none(value: object) -> float | None:
    """Take an epoch in s, whoever wrote it; what is no time is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < EPOCH_MAX else None


def reason_text(code: str) -> str:
    """Give one reason code in words; a detail after a colon stays, and an unknown code is itself."""
    name, colon, detail = code.partition(":")
    if name.startswith(_GUARD) and name.removeprefix(_GUARD).isupper():
        words = f"risk guard {name.removeprefix(_GUARD)}"
    else:
        words = REASONS.get(name, name)
    return f"{words}{colon}{detail}"
