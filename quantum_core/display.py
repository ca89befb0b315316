"""Numbers, codes and times as people read them: rounded to what matters, with their unit, in words.

Here belongs every rounding and every word of the pages for people. Programs get the full precision, from the hash or as JSON.
Pure, and light: the pages and the commands share it.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from quantum_core.freshness import EPOCH_MAX

SIGNIFICANT_DIGITS = 6  # of a price: finer than the tick of any market we know, and short enough for a column
CENTS_BELOW = 1000  # quote; a smaller price that is not whole has two decimals: 105.50
NO_CANDLES = "no candles"
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
    "market_inactive": "the market is inactive: no volume, or the same close, for long",
    "position_unknown": "no source shows whether there is a position",
    "position_conflict": "two positions seem to share one key",
    "close_exceeds_position": "more than is held would be closed",
    "price_collar": "a price waits for the next candle to confirm it",
    "position_inconsistent": "numbers of the position contradict each other",
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
CAUSES = {  # reason codes of the assets in words; without one the code itself is used
    "candles_missing": NO_CANDLES,
    "candles_stale": NO_CANDLES,
    "candles_unchanged": NO_CANDLES,  # they have no time that could be too old
    "candles_unreadable": "candles cannot be read",
    "candles_in_future": "candles are dated in the future",
    "candles_spacing": "candles are not as far apart as CANDLE_INTERVAL_SEC says",
    "candles_gap": "a hole in the candles",
    "candles_sparse": "too many candles are missing",
    "candles_units": "closes of one market in several units",
    "candles_contradict": "versions of one candle contradict each other",
    "too_few_candles": "too few candles",
    "price_nan": "a candle's price is not a number",
    "price_infinite": "a candle's price is infinite",
    "price_zero": "a candle's price is zero",
    "price_negative": "a candle's price is negative",
    "price_out_of_range": "a candle's price is none a market has",
    "market_inactive": "the market is inactive",
    "position_unreadable": "the position cannot be read",
    "position_stale": "the position is not renewed",
    "position_in_future": "the position is dated in the future",
    "position_synthetic": "an invented position would replace a real one",
    "position_not_let_go": "the closed position cannot be forgotten",
    "market_state_missing": "no market state",
    "market_state_stale": "the market state is not renewed",
    "market_state_unreadable": "the market state cannot be read",
    "risk_proposal_unreadable": "the risk proposal cannot be read",
}
SHOWN_INSIDE = (
    "too_few_candles",
    "candles_spacing",
    "candles_gap",
    "candles_sparse",
    "position_unreadable",
    "candles_unreadable",
    "market_state_unreadable",
)  # with their detail
_GUARD = "risk_guard_"  # prefix of a gate's reason that names a guard of the account
_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def price_text(value: float | None) -> str:
    """Write a price or an amount: six significant digits, thousands by commas, no exponent.

    Examples
    --------
    >>> price_text(97123.4567), price_text(0.00001234), price_text(105.5)
    ('97,123.5', '0.00001234', '105.50')
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
    if fraction and 1 <= abs(value) < CENTS_BELOW:
        fraction = fraction.ljust(2, "0")
    return f"{whole}.{fraction}" if fraction else whole


def number_of(count: object, thing: str) -> str:
    """Write how many of a thing there are.

    Examples
    --------
    >>> number_of(1, "symbol"), number_of(3, "symbol"), number_of("?", "plan"), number_of(3212, "trade")
    ('1 symbol', '3 symbols', '? plans', '3,212 trades')
    """
    written = f"{count:,}" if isinstance(count, int) else str(count)
    return f"{written} {thing}{'' if written == '1' else 's'}"


def prices_text(*values: float | None) -> list[str]:
    """Write prices of one market with the decimals of the finest of them: what stands side by side can be compared.

    Examples
    --------
    >>> prices_text(162.16, 161.3493, None)
    ['162.160', '161.349', '–']
    """
    decimals = max((len(price_text(value).partition(".")[2]) for value in values), default=0)
    return [number_text(value, decimals) for value in values]


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


def moment_text(epoch: float) -> str:
    """Write a time of any day; one that is none is written as it stands."""
    if not 0 <= epoch < EPOCH_MAX:
        return f"{epoch:g} s after 1970"
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock_text(epoch: float) -> str:
    """Write a time of about now for a title: hours and minutes."""
    return f"{datetime.fromtimestamp(epoch, UTC):%H:%M} UTC" if 0 <= epoch < EPOCH_MAX else moment_text(epoch)


def until_text(epoch: float, now: float) -> str:
    """Write when something ends for a title: hours and minutes, with the day where it is not today."""
    if not (0 <= epoch < EPOCH_MAX and 0 <= now < EPOCH_MAX):
        return clock_text(epoch)
    end, today = (datetime.fromtimestamp(one, UTC) for one in (epoch, now))
    return clock_text(epoch) if end.date() == today.date() else f"{end.day} {end:%b %H:%M} UTC"


def stamp_text(stamp: str) -> str:
    """Write a time that is given as ISO 8601; what is none stays as it is."""
    try:
        return moment_text(datetime.fromisoformat(stamp).timestamp())
    except ValueError:
        return stamp


def epoch_or_none(value: object) -> float | None:
    """Take an epoch in s, whoever wrote it; what is no time is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < EPOCH_MAX else None


def reason_text(code: str) -> str:
    """Give one reason code in words; a detail after a colon stays, and an unknown code is itself."""
    name, colon, detail = code.partition(":")
    guard = f"risk guard {name.removeprefix(_GUARD)}".rstrip()  # named as whoever set it has chosen
    return f"{guard if name.startswith(_GUARD) else REASONS.get(name, name)}{colon}{detail}"


def name_text(name: str) -> str:
    """Write the name of an asset as words."""
    return name.replace("_", " ")


def failure_text(why: str) -> str:
    """Give the reason an asset recorded in words, with all of its detail.

    Examples
    --------
    >>> failure_text("candles_stale: 430 s > 420 s")
    'no new candles (7 min 10 s old, limit 7 min)'
    """
    cause, detail = cause_of(why), why.partition(": ")[2]
    if not detail or detail in cause or why.startswith("position_invalid"):
        return cause
    if (age := re.fullmatch(r"(\d+) s > (\d+) s", detail)) is not None:
        detail = f"{duration_text(float(age[1]))} old, limit {duration_text(float(age[2]))}"
        cause = "no new candles" if cause == NO_CANDLES else cause
    return f"{cause} ({detail})"


def cause_of(why: str) -> str:
    """Give the reason an asset recorded in an operator's words."""
    code, _, detail = why.partition(": ")
    name = re.match(r"\w*", code)
    code = name.group() if name else code
    if code == "position_invalid":
        return _wrong_field(detail)
    words = CAUSES.get(code, "")
    if code in SHOWN_INSIDE or not words:
        detail = why[len(code) :].strip(":() ")
        return f"{words or code.replace('_', ' ')}{f' ({detail})' if detail else ''}"
    return words


def _wrong_field(detail: str) -> str:
    field, _, value = detail.rpartition("=")
    field = field.replace("_", " ")
    if value.strip().lower() in ("nan", "+nan", "-nan"):
        return f"{field} of the position is not a number"
    if value in ("", "(missing)", "None"):
        return f"{field} of the position is missing"
    return f"{field} of the position is wrong ({value})"
