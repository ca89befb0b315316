"""Every published formula a second time, plainly: one symbol, one number after the other, as the specification reads.

It shares no line with ``quantum_core/kernels``, is thirty times slower, and is what the recomputation proofs compare with. Only
the defaults of the specification are here; what settings may change comes in as an argument.

References
----------
docs/spec.md#2-market-state-kernel-p0, docs/spec.md#3-stops-kernel-p1, docs/spec.md#4-harvest-kernel-p2,
docs/spec.md#6-efficiency-and-targets, docs/spec.md#7-trade-intents-and-the-governor, docs/spec.md#8-risk-guard,
docs/spec.md#9-publishing-rules
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np

SAME_CLOSE_REL = 1e-8  # closes no further apart are one
CLOSES_USED = 257  # 256 returns: what a state is computed from, however many candles there are


def sigmoid(x: float) -> float:
    """Logistic function."""
    return 1 / (1 + math.exp(-x))


def clip(x: float, low: float, high: float) -> float:
    """Limit a number to a range."""
    return min(max(x, low), high)


def market_state(closes: Sequence[float]) -> dict[str, float]:
    """Compute the market state of one symbol from its last 257 closes, oldest first."""
    eps = 1e-12
    prices = [math.log(price + min(1.0, price) * eps) for price in closes[-CLOSES_USED:]]
    returns = [after - before for before, after in pairwise(prices)]

    low, high = (float(np.quantile(returns, q)) for q in (0.01, 0.99))
    winsorised = [clip(x, low, high) for x in returns]
    variance = variance_of(winsorised[:10])
    for x in winsorised:
        variance = 0.94 * variance + 0.06 * x * x
    sigma_ewma = math.sqrt(variance)
    middle = float(np.median(winsorised))
    sigma_mad = 1.4826 * float(np.median([abs(x - middle) for x in winsorised]))
    spike_proxy = clip(sigma_mad / (sigma_ewma + eps), 0, 5)
    blend = sigmoid((spike_proxy - 1.2) / 0.3)
    sigma = max(1e-6, (1 - blend) * sigma_ewma + blend * sigma_mad)

    mu = sum(weight * theil_sen(prices[-window:]) for window, weight in ((64, 0.5), (128, 0.3), (256, 0.2)))
    ts = abs(mu) / (sigma + eps)

    signs = [(x > 0) - (x < 0) for x in returns]
    dp = fmean(before == after for before, after in pairwise(signs))
    sums = [sum(returns[i : i + 5]) for i in range(len(returns) - 4)]
    vr = variance_of(sums) / (5 * variance_of(returns) + eps)
    off_walk = abs(vr - 1)
    scores = (ts + dp - off_walk, off_walk - ts - abs(dp), (1 - abs(dp)) + (1 - min(ts, 1)) - off_walk)
    powers = [math.exp(score - max(scores)) for score in scores]
    p_trend, p_mr, p_chop = (power / sum(powers) for power in powers)
    return {
        "sigma": sigma,
        "mu": mu,
        "ts": ts,
        "p_trend": p_trend,
        "p_mr": p_mr,
        "p_chop": p_chop,
        "dp": dp,
        "vr": vr,
        "spike_proxy": spike_proxy,
    }


def grid(
    times_ms: Sequence[int],
    closes: Sequence[float],
    volumes: Sequence[float],
    *,
    interval_sec: int,
    fill: bool,
    gap_max: int,
    inactive_candles: int,
) -> dict[str, Any]:
    """Walk candles minute by minute, oldest first, and give the newest 257 closes with what the market state says of them."""
    width = 1000 * interval_sec
    walked: list[tuple[float, float, int, bool]] = []  # close, volume, missing minutes before it, whether it was filled
    for place, (time, close, volume) in enumerate(zip(times_ms, closes, volumes, strict=True)):
        known = place > 0 and time > 0 and times_ms[place - 1] > 0
        missing = max(math.floor((time - times_ms[place - 1]) / width + 0.5) - 1, 0) if known else 0
        if missing > gap_max:
            walked = []
        elif fill:
            walked += [(closes[place - 1], 0.0, 0, True)] * missing
        walked.append((close, volume, missing, False))
    used = walked[-CLOSES_USED:]
    holes = [before for _, _, before, _ in used[1:] if before and not fill]
    run = 0
    for _, _, _, was_filled in [*used, (0.0, 0.0, 0, False)]:
        if not was_filled and run:
            holes.append(run)
        run = run + 1 if was_filled else 0
    traded = sum(volume > 0 for _, volume, _, _ in used)
    newest = used[-inactive_candles:]
    known = not any(math.isnan(volume) for _, volume, _, _ in used)
    steps = [after - before for before, after in pairwise(sorted({close for close, _, _, _ in used}))]
    timed = bool(times_ms) and min(times_ms[-CLOSES_USED:]) > 0
    return {
        "closes": [close for close, _, _, _ in walked],
        "gap_count": len(holes) if timed else None,
        "gap_max_sec": max(holes, default=0) * interval_sec if timed else None,
        "filled": sum(was_filled for _, _, _, was_filled in used),
        "market_inactive": all(abs(close - used[-1][0]) <= SAME_CLOSE_REL * used[-1][0] for close, _, _, _ in newest)
        or all(volume == 0 for _, volume, _, _ in newest)
        or (known and traded * inactive_candles < len(used)),
        "tick_pct": min(steps) / used[-1][0] if steps else None,
    }


def variance_of(values: Sequence[float]) -> float:
    """Give the population variance."""
    mean = fmean(values)
    return fmean([(x - mean) ** 2 for x in values])


@cache
def _pairs(n: int) -> tuple[Any, Any]:
    return np.triu_indices(n, 1)


def theil_sen(y: Sequence[float]) -> float:
    """Give the median of the slopes of all pairs of points, each slope formed."""
    values = np.array(y)
    first, second = _pairs(len(values))
    return float(np.median((values[second] - values[first]) / (second - first)))


def stops(row: Mapping[str, Any]) -> dict[str, Any]:
    """Compute stop and target from the inputs a risk proposal repeats."""
    minimum = 0.005
    p_trend, p_mr, p_chop, sigma, ts = (row[name] for name in ("p_trend", "p_mr", "p_chop", "sigma", "ts"))
    price, long = row["position_current_price"], row["position_side"] == "LONG"

    eps = max(1e-8 * min(price, 1.0), 1e-15 * price)
    stop = max(minimum, (1.5 * p_trend + 0.8 * p_mr + 1.0 * p_chop) * sigma)
    trail = max(minimum, (1.2 * p_trend + 1.5 * p_mr + 1.3 * p_chop) * sigma)
    extension = 1 + min(0.5 * clip(ts, 0, 1) * p_trend, 0.3) if p_trend > 0.3 and ts > 0.1 else 1.0
    target = max(0.01, (2.5 * p_trend + 1.2 * p_mr + 1.5 * p_chop) * sigma * extension)

    if long:
        raw, trailing, tp = price * (1 - stop), row["position_peak_price"] * (1 - trail), price * (1 + target)
        sl = max(raw, trailing)
    else:
        raw, trailing, tp = price * (1 + stop), row["position_trough_price"] * (1 + trail), price * (1 - target)
        sl = min(raw, trailing)

    def tighter(one: float, other: float) -> bool:
        return bool(one - other > eps if long else other - one > eps)

    reasons = ["trail_active"] if tighter(trailing, raw) else []
    in_force = row["position_current_sl"]
    if in_force is not None and tighter(in_force, sl):
        sl = in_force
        reasons.append("sl_tightened_monotonic")
    elif in_force is not None and tighter(sl, in_force):
        reasons.append("sl_tightening")
    reasons.append(f"regime_{most_probable(p_trend, p_mr, p_chop)}")
    if extension > 1 + 1e-8:
        reasons.append("tp_extended")
    prices = [one for one in (price, row.get("position_mark_price")) if one is not None]
    breached = sl >= min(prices) if long else sl <= max(prices)
    if breached:
        reasons.append("sl_breached")
    return {
        "proposed_sl": sl,
        "proposed_tp": tp,
        "stop_dist_pct": stop,
        "tp_dist_pct": target,
        "trail_gap_pct": trail,
        "sl_breached": breached,
        "reason_codes": reasons,
    }


def most_probable(p_trend: float, p_mr: float, p_chop: float) -> str:
    """Name the regime with the greatest probability; the first wins a tie."""
    best = max(p_trend, p_mr, p_chop)
    return "trend" if p_trend == best else "mr" if p_mr == best else "chop"


def harvest(row: Mapping[str, Any], *, fallback_stop_pct: float) -> dict[str, Any]:
    """Compute profit taking and kill score from the inputs a harvest proposal repeats."""
    entry, long = row["position_entry_price"], row["position_side"] == "LONG"
    distance = row["stop_dist_pct"] or fallback_stop_pct
    risk_unit = max(entry * distance, min(entry, 1.0) * 1e-9)
    cost = entry * 10 / 10_000
    profit = row["position_unrealized_pnl"] / abs(row["position_qty"]) if row["position_qty"] else row["position_unrealized_pnl"]
    r_net = (profit - cost) / risk_unit
    action = partial_action(r_net)
    reasons = [] if action == "NONE" else [f"harvest_{action.lower()}"]

    new_sl = None
    if r_net >= 1.5:
        candidate = entry * 1.002 if long else entry * 0.998
        in_force = row["position_current_sl"]
        if in_force is None or (candidate > in_force if long else candidate < in_force):
            new_sl = candidate
            reasons.append("profit_lock")

    flip = 1.0 if row["p_trend"] < 0.3 and row["p_chop"] + row["p_mr"] > 0.5 else 0.0
    spike = clip(row["sigma"] / 0.01 - 1, 0, 2)
    drop = clip(0.3 - row["ts"], 0, 0.5)
    age = clip(row["position_age_sec"] / 86_400, 0, 1)
    kill_score = sigmoid(flip + 0.5 * spike + 0.5 * drop + 0.3 * age)
    if kill_score >= 0.6:
        action = "FULL_CLOSE_PROPOSED"
        named = (("regime_flip", flip > 0), ("sigma_spike", spike > 0.5), ("ts_drop", drop > 0.2), ("age_penalty", age > 0.5))
        reasons += ["kill_score_triggered", *(name for name, holds in named if holds)]
    return {
        "harvest_action": action,
        "new_sl_proposed": new_sl,
        "R_net": r_net,
        "risk_unit": risk_unit,
        "cost_est": cost,
        "kill_score": kill_score,
        "k_regime_flip": flip,
        "k_sigma_spike": spike,
        "k_ts_drop": drop,
        "k_age_penalty": age,
        "reason_codes": reasons,
    }


def partial_action(r_net: float) -> str:
    """Name the tranche that is due at a profit of so many R."""
    return "PARTIAL_75" if r_net >= 6 else "PARTIAL_50" if r_net >= 4 else "PARTIAL_25" if r_net >= 2 else "NONE"


def efficiency(row: Mapping[str, Any]) -> dict[str, Any]:
    """Compute capital efficiency from the inputs it repeats, the averages included."""
    target = max(row["p29_target_usd"], 1)
    v, d = row["volatility_ewma"] / target, row["dd_proxy"] / target
    raw = clip(row["p30_perf"], 0, 1) / (1 + 0.8 * v + 1.2 * d + 0.6 * row["hold_time_penalty"])
    ewma = row["efficiency_ewma"]
    rising, falling = ewma >= 0.65 and row["p30_conf"] >= 0.5, ewma <= 0.35 or d > 0.5
    return {
        "efficiency_raw": raw,
        "efficiency_score": clip(raw, 0, 1),
        "capital_pressure": "INCREASE" if rising else "DECREASE" if falling else "HOLD",
        "reallocation_weight": clip(2 * (ewma - 0.5), -1, 1) * row["confidence"],
        "inputs_ok": not any(f.endswith(("_MISSING", "_ERROR")) for f in row["stale_flags"].split(",")),
    }


def intent(harvest_row: Mapping[str, Any], risk_row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Say what the proposals of one symbol ask for; ``None`` when that is nothing."""
    breached, action = risk_row["sl_breached"], harvest_row["harvest_action"]
    if action == "NONE" and not breached:
        return None
    lock = harvest_row["new_sl_proposed"]
    return {
        "action": "CLOSE",
        "harvest_action": action,
        "position_side": harvest_row["position_side"],
        "sl_breached": breached,
        "reason_codes": harvest_row["reason_codes"] + (["sl_breached"] if breached else []),
        "new_sl_proposed": lock,
        "confidence": harvest_row["kill_score"],
        "stop_loss": risk_row["proposed_sl"] if lock is None else lock,
        "take_profit": risk_row["proposed_tp"],
        "proposal_time": max(harvest_row["published_at_utc"], risk_row["published_at_utc"]),
        "proposals_digest": f"{harvest_row['digest']}|{risk_row['digest']}",
    }


def intent_id(symbol: str, row: Mapping[str, Any]) -> str:
    """Name an intent by what was proposed and when."""
    new_sl = "" if row["new_sl_proposed"] is None else str(row["new_sl_proposed"])
    words = [symbol, row["harvest_action"], f"{row['confidence']:.6f}", new_sl, row["proposal_time"].isoformat()]
    return hashlib.sha256("|".join(words).encode()).hexdigest()[:16]


def intent_changed(before: Mapping[str, Any], after: Mapping[str, Any], *, eps_pct: float) -> bool:
    """Tell whether two intents of one symbol ask for different things."""
    if any(before[name] != after[name] for name in ("action", "harvest_action", "position_side", "sl_breached")):
        return True
    if set(before["reason_codes"]) != set(after["reason_codes"]) or abs(before["confidence"] - after["confidence"]) > 0.001:
        return True
    old, new = before["new_sl_proposed"], after["new_sl_proposed"]
    if old is None or new is None:
        return bool(old != new)
    return bool(abs(new - old) > eps_pct * old)


def multiplier(score: float, *, base: float, scale: float, low: float, high: float) -> float:
    """Give the allocation multiplier of a trusted efficiency score."""
    return clip(base + scale * (score - 0.5), low, high)


def permit_hint(score: float | None, *, threshold: float, min_factor: float, max_cooldown_sec: float) -> dict[str, Any]:
    """Give the hints of a permit; ``None`` is a score that is not to be trusted."""
    if score is None or score >= threshold:
        return {"eff_factor": 1.0, "eff_action": "NONE", "extra_cooldown_sec": 0}
    return {
        "eff_factor": max(min_factor, score / threshold),
        "eff_action": "DOWNSIZE",
        "extra_cooldown_sec": round((1 - score) * max_cooldown_sec),  # Python rounds half to even, as the specification wants
    }


def governor(case: Mapping[str, Any], limits: Mapping[str, Any]) -> str:
    """Name the first gate a plan meets, empty when it meets none; numbers nobody knows are ``None``, and shut."""

    def too_old(age: float | None, limit: str = "max_data_age_sec") -> bool:
        return age is None or not -5 <= age <= limits[limit]

    def reached(value: float | None, limit: float) -> bool:
        return value is None or value >= limit

    def limit(name: str, of_closes: str) -> float:
        own = limits.get(of_closes)
        return float(limits[name] if opening or own is None else own)

    opening, amount, day = not case["closing"], case["amount"], case["day_total"]
    cap, size = case["target_usd"], case["position_notional_usd"]
    scored = case["kill_score"] is not None or not case["flat"]
    a_day = (
        ("max_notional_per_day_usd", "max_close_notional_per_day_usd")
        if case["in_usd"]
        else ("max_qty_per_day", "max_close_qty_per_day")
    )
    day_limit = limit(*a_day)
    shut = (
        (case["unreadable"], "evaluation_error"),
        (opening and case["kill_switch"], "kill_switch_active"),
        (opening and case["disarmed"], "disarmed"),
        (opening and case["risk_guard"], f"risk_guard_{case['risk_guard']}"),
        (opening and case["unknown_symbol"] and too_old(case["market_state_age_sec"]), "unknown_symbol"),
        (opening and too_old(case["market_state_age_sec"]), "stale_market_state"),
        (opening and too_old(case["market_close_age_sec"], "max_close_age_sec"), "stale_market_state"),
        (opening and case["market_inactive"], "market_inactive"),
        (opening and case["position_unknown"], "position_unknown"),
        (opening and case["position_conflict"], "position_conflict"),
        (case["close_exceeds_position"], "close_exceeds_position"),
        (opening and not case["flat"] and too_old(case["harvest_proposal_age_sec"]), "stale_harvest_proposal"),
        (opening and too_old(case["position_age_sec"]), "stale_position"),
        (opening and case["price_collar"], "price_collar"),
        (opening and case["position_inconsistent"], "position_inconsistent"),
        (case["non_live"] and not limits["allow_synthetic"], "synthetic_data"),
        (opening and scored and reached(case["kill_score"], limits["kill_score_critical"]), "kill_score_critical_non_close"),
        (reached(case["permits_hour"], limit("max_exec_per_hour", "max_closes_per_hour")), "hourly_limit_exceeded"),
        (reached(case["permits_5min"], limit("max_exec_per_5min", "max_closes_per_5min")), "burst_limit_exceeded"),
        (amount is None or day is None or day + amount > day_limit, "daily_limit_exceeded"),
        (opening and cap is not None and (size is None or size > cap), "p29_allocation_cap"),
    )
    return next((reason for is_shut, reason in shut if is_shut), "")


def risk_guards(row: Mapping[str, Any]) -> dict[str, Any]:
    """Compute shares and guards from the numbers the risk guard repeats.

    An input that cannot be used is left empty and named in ``errors``; an equity that is empty and not named is missing.
    """
    equity, peak, pnl = (None if row[name] is None else Fraction(row[name]) for name in ("equity", "peak", "daily_pnl"))
    if peak is not None:
        peak = None if row["net_transfers"] is None else peak + Fraction(row["net_transfers"])
    age, losses, rounding = row["equity_age_sec"], row["consecutive_losses"], Fraction(1, 10**12)
    drawdown = None if equity is None or not peak else max((peak - equity) / peak, Fraction(0))
    loss = None if equity is None or equity <= 0 or pnl is None else max(-pnl / equity, Fraction(0))

    timely = equity is not None and age is not None and -5 <= age <= 300
    fresh = timely and equity is not None and equity > 0
    found = [] if fresh or "equity" in row["errors"] else ["EQUITY_STALE"]
    for guard, share, limit in (("DAILY_LOSS", loss, 25), ("DRAWDOWN", drawdown, 80), ("EMERGENCY_FLATTEN", drawdown, 100)):
        if fresh and share is not None and share > Fraction(limit, 1000) + rounding:
            found.append(guard)
    if timely and not fresh:
        found.append("EMERGENCY_FLATTEN")  # nothing is left
    if losses is not None and losses >= 3:
        found.append("CONSEC_LOSS")
    return {
        "triggered": found,
        "drawdown": None if drawdown is None else float(drawdown),
        "daily_loss": None if loss is None else float(loss),
    }
