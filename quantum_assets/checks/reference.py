"""Every published formula a second time, plainly: one symbol, one number after the other, as the specification reads.

It shares no line with ``quantum_core/kernels``, is thirty times slower, and is what the recomputation proofs compare with. The
literals are those of the specification; parameters that differ from them come in as an argument, nested as a profile has them.

References
----------
docs/spec.md#2-market-state-kernel-p0, docs/spec.md#3-stops-kernel-p1, docs/spec.md#4-harvest-kernel-p2,
docs/spec.md#6-efficiency-and-targets, docs/spec.md#7-trade-intents-and-the-governor, docs/spec.md#8-risk-guard,
docs/spec.md#9-publishing-rules, docs/spec.md#15-position-size
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from statistics import fmean, median
from types import MappingProxyType
from typing import Any

import numpy as np

SAME_CLOSE_REL = 1e-8  # closes no further apart are one
CLOSES_USED = 257  # 256 returns: what a state is computed from by the specification, however many candles there are
MAD_TO_SIGMA = 1.4826
HUBER_K, HUBER_STEPS, HUBER_TOLERANCE = 1.345, 200, 1e-10
CHOP_LEVEL, WALK_SLOPE = 5.0, {"ols": 1.0, "theil_sen": 1.01, "huber": 1.01}

Parameters = Mapping[str, Any]

MARKET_STATE: Parameters = MappingProxyType(
    {
        "eps": 1e-12,
        "vol": {
            "window": 256,
            "winsor_q_low": 0.01,
            "winsor_q_high": 0.99,
            "ewma_lambda": 0.94,
            "sigma_floor": 1e-6,
            "spike_proxy_cap": 5,
            "spike_center": 1.2,
            "spike_scale": 0.3,
            "tail": "none",
            "tail_exceedance": 0.05,
            "tail_horizon": 1,
            "tail_df": 5,
            "tail_scale": 1,
            "step_df": 5,  # what coverage is judged by: no published number has them
            "step_scale": 1,
        },
        "trend": {"windows": (64, 128, 256), "weights": (0.5, 0.3, 0.2), "method": "theil_sen", "horizon": 1},
        "regime": {
            "window": 256,
            "vr_k": 5,
            "softmax_temp": 1,
            "score": dict.fromkeys(("a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "c3"), 1),
            "measure": "scale",
        },
    }
)
STOPS: Parameters = MappingProxyType(
    {
        "sl_min_pct": 0.005,
        "tp_min_pct": 0.01,
        "k_sl": {"trend": 1.5, "mr": 0.8, "chop": 1.0},
        "k_tp": {"trend": 2.5, "mr": 1.2, "chop": 1.5},
        "k_trail": {"trend": 1.2, "mr": 1.5, "chop": 1.3},
        "tp_extend_gain": 0.5,
        "tp_extend_max": 0.3,
        "monotonic_sl": True,
        "tail_stop": False,
        "eps": 1e-8,
    }
)
HARVEST: Parameters = MappingProxyType(
    {
        "fallback_stop_pct": 0.02,
        "cost_bps": 10,
        "T1_R": 2,
        "T2_R": 4,
        "T3_R": 6,
        "lock_R": 1.5,
        "lock_mode": "be_plus",
        "be_plus_pct": 0.002,
        "trend_min": 0.3,
        "sigma_ref": 0.01,
        "sigma_spike_cap": 2,
        "ts_ref": 0.3,
        "ts_drop_cap": 0.5,
        "max_age_sec": 86_400,
        "k_regime_flip": 1.0,
        "k_sigma_spike": 0.5,
        "k_ts_drop": 0.5,
        "k_age_penalty": 0.3,
        "kill_threshold": 0.6,
    }
)
EFFICIENCY: Parameters = MappingProxyType(
    {
        "volatility_weight": 0.8,
        "drawdown_weight": 1.2,
        "hold_weight": 0.6,
        "increase_ewma": 0.65,
        "increase_confidence": 0.5,
        "decrease_ewma": 0.35,
        "decrease_drawdown": 0.5,
        "flagged_confidence": 0.5,
    }
)
ALLOCATION: Parameters = MappingProxyType({"base": 1, "scale": 1, "min_mult": 0.5, "max_mult": 1.5, "min_confidence": 0.65})
PERMIT_HINT: Parameters = MappingProxyType({"downsize_threshold": 0.45, "min_factor": 0.25, "max_extra_cooldown_sec": 120})
RISK_GUARD: Parameters = MappingProxyType(
    {
        "equity_max_age_sec": 300,
        "clock_ahead_max_sec": 5,
        "daily_loss_max": 0.025,
        "drawdown_max": 0.08,
        "emergency_drawdown_max": 0.1,
        "losses_max": 3,
    }
)


def merged(defaults: Parameters, given: Parameters | None) -> dict[str, Any]:
    """Put given parameters in the place of the defaults, level by level; what is not used here may be among them."""
    whole = {**defaults, **(given or {})}
    return {
        name: merged(defaults[name], value) if isinstance(value, Mapping) and name in defaults else value
        for name, value in whole.items()
    }


def closes_used(parameters: Parameters | None = None) -> int:
    """Count the closes that the longest window of a market state needs."""
    p = merged(MARKET_STATE, parameters)
    return int(1 + max(p["vol"]["window"], p["regime"]["window"], *p["trend"]["windows"]))


def sigmoid(x: float) -> float:
    """Logistic function."""
    return 1 / (1 + math.exp(-x))


def clip(x: float, low: float, high: float) -> float:
    """Limit a number to a range."""
    return min(max(x, low), high)


def market_state(closes: Sequence[float], parameters: Parameters | None = None) -> dict[str, float | None]:
    """Compute the market state of one symbol from as many of its last closes as it takes, oldest first.

    Raises
    ------
    KeyError
        The slope estimator is none of ``SLOPES``.
    """
    p = merged(MARKET_STATE, parameters)
    eps, vol, trend, regime = p["eps"], p["vol"], p["trend"], p["regime"]
    prices = [math.log(price + min(1.0, price) * eps) for price in closes[-closes_used(parameters) :]]
    returns = [after - before for before, after in pairwise(prices)]

    of_vol = returns[-vol["window"] :]
    low, high = (float(np.quantile(of_vol, q)) for q in (vol["winsor_q_low"], vol["winsor_q_high"]))
    winsorised = [clip(x, low, high) for x in of_vol]
    variance, known = variance_of(winsorised[:10]), []
    for x in winsorised:
        known.append(math.sqrt(variance))
        variance = vol["ewma_lambda"] * variance + (1 - vol["ewma_lambda"]) * x * x
    sigma_ewma = math.sqrt(variance)
    moves = [abs(x) / (max(vol["sigma_floor"], before) + eps) for x, before in zip(of_vol, known, strict=True)]
    sigma_mad = MAD_TO_SIGMA * deviation(winsorised)
    spike_proxy = clip(sigma_mad / (sigma_ewma + eps), 0, vol["spike_proxy_cap"])
    blend = sigmoid((spike_proxy - vol["spike_center"]) / vol["spike_scale"])
    sigma = max(vol["sigma_floor"], (1 - blend) * sigma_ewma + blend * sigma_mad)

    slope, whole = SLOPES[trend["method"]], sum(trend["weights"])
    both = zip(trend["windows"], trend["weights"], strict=True)
    mu = sum(weight / whole * slope(prices[-window:], eps) for window, weight in both)
    ts = abs(mu) * math.sqrt(trend["horizon"]) / (sigma + eps)

    of_regime, k = returns[-regime["window"] :], regime["vr_k"]
    signs = [(x > 0) - (x < 0) for x in of_regime]
    dp = fmean(before == after for before, after in pairwise(signs))
    sums = [sum(of_regime[i : i + k]) for i in range(len(of_regime) - k + 1)]
    vr = variance_of(sums) / (k * variance_of(of_regime) + eps)
    scores = significance(of_regime, mu, dp, p) if regime["measure"] == "significance" else scale(ts, dp, vr, regime["score"])
    powers = [math.exp((one - max(scores)) / regime["softmax_temp"]) for one in scores]
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
        "tail_move": tail_move(sigma, moves, vol),
    }


def tail_move(sigma: float, moves: Sequence[float], vol: Mapping[str, Any]) -> float | None:
    """Give the move beyond which only the asked share lies; ``moves`` are returns over the sigma known before each."""
    from scipy.special import betaincinv

    asked, df = vol["tail_exceedance"], vol["tail_df"]
    if vol["tail"] == "none":
        return None
    if vol["tail"] == "student_t":  # |t| > x exactly where df / (df + x^2), which has a beta distribution, is less
        share = float(betaincinv(df / 2, 0.5, asked))
        multiple = math.sqrt(df * (1 / share - 1)) * math.sqrt((df - 2) / df)
    else:
        multiple = float(np.quantile(moves[10:], 1 - asked))
    return float(vol["tail_scale"] * multiple * sigma * math.sqrt(vol["tail_horizon"]))


def scale(ts: float, dp: float, vr: float, score: Mapping[str, float]) -> tuple[float, float, float]:
    """Score trend, mean reversion and chop by the size of the numbers themselves."""
    off_walk = abs(vr - 1)
    return (
        score["a1"] * ts + score["a2"] * dp - score["a3"] * off_walk,
        score["b1"] * off_walk - score["b2"] * ts - score["b3"] * abs(dp),
        score["c1"] * (1 - abs(dp)) + score["c2"] * (1 - min(ts, 1)) - score["c3"] * off_walk,
    )


def significance(returns: Sequence[float], mu: float, dp: float, p: Mapping[str, Any]) -> tuple[float, float, float]:
    """Score trend, mean reversion and chop by what a random walk hardly ever shows."""
    n, k, score, trend = len(returns), p["regime"]["vr_k"], p["regime"]["score"], p["trend"]
    walk = WALK_SLOPE[trend["method"]] * slope_of_walks(tuple(trend["windows"]), tuple(trend["weights"]))
    z_ts = abs(mu) / (max(p["vol"]["sigma_floor"], math.sqrt(variance_of(returns))) * walk + p["eps"])

    signs = [(x > 0) - (x < 0) for x in returns]
    alike = Fraction(sum(signs.count(one) * (signs.count(one) - 1) for one in (-1, 0, 1)), n * (n - 1))
    z_dp = (dp - float(alike)) / (math.sqrt(alike * (1 - alike) / (n - 1)) + p["eps"])

    mean = fmean(returns)
    d = [x - mean for x in returns]
    whole = math.fsum(x * x for x in d)
    above, spread, least = 0.0, 0.0, 0.0
    for lag in range(1, k):
        products = [x * y for x, y in zip(d[lag:], d[:-lag], strict=True)]
        above += 2 * (1 - lag / k) * (math.fsum(products) + whole * (n - lag) / (n * (n - 1)))
        spread += (2 * (1 - lag / k)) ** 2 * math.fsum(one * one for one in products)
        least += (2 * (1 - lag / k)) ** 2 * (n - lag) * (whole / n) ** 2
    z_vr = above / math.sqrt(max(spread, least)) if least > 0 else 0.0
    return (
        score["a1"] * z_ts + score["a2"] * z_dp + score["a3"] * max(z_vr, 0.0),
        score["b1"] * max(-z_vr, 0.0) - score["b2"] * z_ts - score["b3"] * z_dp,
        score["c1"] * CHOP_LEVEL,
    )


@cache
def slope_of_walks(windows: tuple[int, ...], weights: tuple[float, ...]) -> float:
    """Give the standard deviation of the mean least-squares slope of a random walk, from what each of its steps moves it by."""
    steps = [0.0] * (max(windows) - 1)
    for window, weight in zip(windows, weights, strict=True):
        middle, moved = (window - 1) / 2, 0.0
        along = math.fsum((x - middle) ** 2 for x in range(window))
        for x in range(window - 1, 0, -1):  # a step before point x lifts it and all points after it
            moved += (x - middle) / along
            steps[len(steps) - window + x] += weight / sum(weights) * moved
    return math.sqrt(math.fsum(one * one for one in steps))


def grid(
    times_ms: Sequence[int],
    closes: Sequence[float],
    volumes: Sequence[float],
    *,
    interval_sec: int,
    fill: bool,
    gap_max: int,
    inactive_candles: int,
    closes_used: int = CLOSES_USED,
) -> dict[str, Any]:
    """Walk candles minute by minute, oldest first, and give their closes with what the market state says of the newest ones."""
    width = 1000 * interval_sec
    walked: list[tuple[float, float, int, bool]] = []  # close, volume, missing minutes before it, whether it was filled
    for place, (time, close, volume) in enumerate(zip(times_ms, closes, volumes, strict=True)):
        both_timed = place > 0 and time > 0 and times_ms[place - 1] > 0
        missing = max(math.floor((time - times_ms[place - 1]) / width + 0.5) - 1, 0) if both_timed else 0
        if missing > gap_max:
            walked = []
        elif fill:
            walked += [(closes[place - 1], 0.0, 0, True)] * missing
        walked.append((close, volume, missing, False))
    used = walked[-closes_used:]
    holes = [before for _, _, before, _ in used[1:] if before and not fill]
    run = 0
    for _, _, _, was_filled in [*used, (0.0, 0.0, 0, False)]:
        if not was_filled and run:
            holes.append(run)
        run = run + 1 if was_filled else 0
    traded = sum(volume > 0 for _, volume, _, _ in used)
    newest = used[-inactive_candles:]
    volumes_known = not any(math.isnan(volume) for _, volume, _, _ in used)
    steps = [after - before for before, after in pairwise(sorted({close for close, _, _, _ in used}))]
    timed = bool(times_ms) and min(times_ms[-closes_used:]) > 0
    return {
        "closes": [close for close, _, _, _ in walked],
        "gap_count": len(holes) if timed else None,
        "gap_max_sec": max(holes, default=0) * interval_sec if timed else None,
        "filled": sum(was_filled for _, _, _, was_filled in used),
        "market_inactive": all(abs(close - used[-1][0]) <= SAME_CLOSE_REL * used[-1][0] for close, _, _, _ in newest)
        or all(volume == 0 for _, volume, _, _ in newest)
        or (volumes_known and traded * inactive_candles < len(used)),
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


def deviation(values: Sequence[float]) -> float:
    """Give the median distance from the median."""
    middle = median(values)
    return median(abs(x - middle) for x in values)


def line(y: Sequence[float], weights: Sequence[float]) -> tuple[float, float]:
    """Fit a line through points at 0, 1, ... by weighted least squares; give its slope, and its height at 0."""
    total = sum(weights)
    x_mean = sum(weight * x for x, weight in enumerate(weights)) / total
    y_mean = sum(weight * one for one, weight in zip(y, weights, strict=True)) / total
    along = sum(weight * (x - x_mean) * one for x, (one, weight) in enumerate(zip(y, weights, strict=True)))
    slope = along / sum(weight * (x - x_mean) ** 2 for x, weight in enumerate(weights))
    return slope, y_mean - slope * x_mean


def huber(y: Sequence[float], scale_min: float) -> float:
    """Give Huber's slope: least squares again and again, in which a point far off the last line weighs less."""
    slope, height = line(y, [1.0] * len(y))
    middle = (len(y) - 1) / 2
    for _ in range(HUBER_STEPS):
        off = [one - height - slope * x for x, one in enumerate(y)]
        scale = max(MAD_TO_SIGMA * deviation(off), scale_min)
        new_slope, new_height = line(y, [min(1.0, HUBER_K * scale / abs(one)) if one else 1.0 for one in off])
        moved = abs(new_slope - slope) * len(y) + abs(new_height - height + (new_slope - slope) * middle)
        slope, height = new_slope, new_height
        if moved <= HUBER_TOLERANCE * scale:
            break
    return slope


SLOPES: Mapping[str, Callable[[Sequence[float], float], float]] = {
    "theil_sen": lambda y, _: theil_sen(y),
    "ols": lambda y, _: line(y, [1.0] * len(y))[0],
    "huber": huber,
}


def stops(row: Mapping[str, Any], parameters: Parameters | None = None) -> dict[str, Any]:
    """Compute stop and target from the inputs a risk proposal repeats."""
    p = merged(STOPS, parameters)
    p_trend, p_mr, p_chop, sigma, ts = (row[name] for name in ("p_trend", "p_mr", "p_chop", "sigma", "ts"))
    price, long = row["position_current_price"], row["position_side"] == "LONG"

    def mix(k: Mapping[str, float]) -> float:
        return float(k["trend"] * p_trend + k["mr"] * p_mr + k["chop"] * p_chop)

    eps = max(p["eps"] * min(price, 1.0), 1e-15 * price)
    tail = row.get("tail_move") if p["tail_stop"] else None
    stop = max(p["sl_min_pct"], mix(p["k_sl"]) * sigma if tail is None else tail)
    trail = max(p["sl_min_pct"], mix(p["k_trail"]) * sigma)
    stretch = min(p["tp_extend_gain"] * clip(ts, 0, 1) * p_trend, p["tp_extend_max"])
    extension = 1 + stretch if p_trend > 0.3 and ts > 0.1 else 1.0
    target = max(p["tp_min_pct"], mix(p["k_tp"]) * sigma * extension)

    if long:
        raw, trailing, tp = price * (1 - stop), row["position_peak_price"] * (1 - trail), price * (1 + target)
        sl = max(raw, trailing)
    else:
        raw, trailing, tp = price * (1 + stop), row["position_trough_price"] * (1 + trail), price * (1 - target)
        sl = min(raw, trailing)

    def tighter(one: float, other: float) -> bool:
        return bool(one - other > eps if long else other - one > eps)

    reasons = ["trail_active"] if tighter(trailing, raw) else []
    in_force = row["position_current_sl"] if p["monotonic_sl"] else None
    if in_force is not None and tighter(in_force, sl):
        sl = in_force
        reasons.append("sl_tightened_monotonic")
    elif in_force is not None and tighter(sl, in_force):
        reasons.append("sl_tightening")
    reasons.append(f"regime_{most_probable(p_trend, p_mr, p_chop)}")
    if extension > 1 + p["eps"]:
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


def harvest(row: Mapping[str, Any], parameters: Parameters | None = None) -> dict[str, Any]:
    """Compute profit taking and kill score from the inputs a harvest proposal repeats."""
    p = merged(HARVEST, parameters)
    entry, long = row["position_entry_price"], row["position_side"] == "LONG"
    distance = row["stop_dist_pct"] or p["fallback_stop_pct"]
    risk_unit = max(entry * distance, min(entry, 1.0) * 1e-9)
    cost = entry * p["cost_bps"] / 10_000
    profit = row["position_unrealized_pnl"] / abs(row["position_qty"]) if row["position_qty"] else row["position_unrealized_pnl"]
    r_net = (profit - cost) / risk_unit
    action = partial_action(r_net, p)
    reasons = [] if action == "NONE" else [f"harvest_{action.lower()}"]

    new_sl = None
    if r_net >= p["lock_R"]:
        beyond = p["lock_R"] * distance if p["lock_mode"] == "lock_r" else p["be_plus_pct"]
        candidate = entry * (1 + beyond) if long else entry * (1 - beyond)
        in_force = row["position_current_sl"]
        if in_force is None or (candidate > in_force if long else candidate < in_force):
            new_sl = candidate
            reasons.append("profit_lock")

    flip = 1.0 if row["p_trend"] < p["trend_min"] and row["p_chop"] + row["p_mr"] > 0.5 else 0.0
    spike = clip(row["sigma"] / p["sigma_ref"] - 1, 0, p["sigma_spike_cap"])
    drop = clip(p["ts_ref"] - row["ts"], 0, p["ts_drop_cap"])
    age = clip(row["position_age_sec"] / p["max_age_sec"], 0, 1)
    weighted = ((flip, "k_regime_flip"), (spike, "k_sigma_spike"), (drop, "k_ts_drop"), (age, "k_age_penalty"))
    kill_score = sigmoid(sum(p[weight] * part for part, weight in weighted))
    if kill_score >= p["kill_threshold"]:
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


def partial_action(r_net: float, parameters: Parameters | None = None) -> str:
    """Name the tranche that is due at a profit of so many R."""
    p = merged(HARVEST, parameters)
    tranches = (("T3_R", "PARTIAL_75"), ("T2_R", "PARTIAL_50"), ("T1_R", "PARTIAL_25"))
    return next((action for name, action in tranches if r_net >= p[name]), "NONE")


def position_size(
    row: Mapping[str, Any], *, candles_per_day: float, parameters: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Compute the size of a position from the inputs a proposal repeats; ``parameters`` are those that are not the default."""
    defaults = {
        "risk_fraction": 0.005,
        "target_vol_daily": 0.02,
        "equity_cap": 1.0,
        "w_trend": 1.0,
        "w_mr": 0.75,
        "w_chop": 0.5,
        "leverage_base": 1.0,
        "leverage_gain": 2.0,
        "leverage_cap": 3.0,
    }
    of = defaults | dict(parameters or {})
    equity, p_trend, p_mr, p_chop = (row[name] for name in ("equity_usd", "p_trend", "p_mr", "p_chop"))
    sigma_daily = row["sigma"] * math.sqrt(candles_per_day)
    risk = equity * of["risk_fraction"]

    size, binding = risk / row["stop_dist_pct"], "stop"
    if sigma_daily > 0 and equity * of["target_vol_daily"] / sigma_daily < size:
        size, binding = equity * of["target_vol_daily"] / sigma_daily, "volatility"
    size *= of["w_trend"] * p_trend + of["w_mr"] * p_mr + of["w_chop"] * p_chop
    if row["multiplier"] is not None:
        size *= row["multiplier"]
    for name, limit in (("equity_cap", equity * of["equity_cap"]), ("target", row["target_usd"])):
        if limit is not None and size > limit:
            size, binding = limit, name

    leverage = of["leverage_base"] * (1 + of["leverage_gain"] * (row["ts"] * p_trend))
    reasons = [f"bound_{binding}", f"regime_{most_probable(p_trend, p_mr, p_chop)}"]
    reasons += ["no_fresh_efficiency"] if row["multiplier"] is None else []
    reasons += ["leverage_capped"] if leverage > of["leverage_cap"] else []
    reasons += ["size_zero"] if size == 0 else []
    return {
        "size_usd": size,
        "size_qty": size / row["price"],
        "leverage_max": clip(leverage, 1.0, of["leverage_cap"]),
        "stop_dist_pct": row["stop_dist_pct"],
        "risk_usd": risk,
        "binding": binding,
        "reason_codes": reasons,
    }


def efficiency(row: Mapping[str, Any], parameters: Parameters | None = None) -> dict[str, Any]:
    """Compute capital efficiency from the inputs it repeats, the averages included."""
    p = merged(EFFICIENCY, parameters)
    target = max(row["p29_target_usd"], 1)
    v, d = row["volatility_ewma"] / target, row["dd_proxy"] / target
    cost = p["volatility_weight"] * v + p["drawdown_weight"] * d + p["hold_weight"] * row["hold_time_penalty"]
    raw = clip(row["p30_perf"], 0, 1) / (1 + cost)
    ewma = row["efficiency_ewma"]
    rising = ewma >= p["increase_ewma"] and row["p30_conf"] >= p["increase_confidence"]
    falling = ewma <= p["decrease_ewma"] or d > p["decrease_drawdown"]
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
    """Return whether two intents of one symbol ask for different things."""
    if any(before[name] != after[name] for name in ("action", "harvest_action", "position_side", "sl_breached")):
        return True
    if set(before["reason_codes"]) != set(after["reason_codes"]) or abs(before["confidence"] - after["confidence"]) > 0.001:
        return True
    old, new = before["new_sl_proposed"], after["new_sl_proposed"]
    if old is None or new is None:
        return bool(old != new)
    return bool(abs(new - old) > eps_pct * old)


def multiplier(score: float, parameters: Parameters | None = None) -> float:
    """Give the allocation multiplier of a trusted efficiency score."""
    p = merged(ALLOCATION, parameters)
    return clip(p["base"] + p["scale"] * (score - 0.5), p["min_mult"], p["max_mult"])


def permit_hint(score: float | None, parameters: Parameters | None = None) -> dict[str, Any]:
    """Give the hints of a permit; ``None`` is a score that is not to be trusted."""
    p = merged(PERMIT_HINT, parameters)
    if score is None or score >= p["downsize_threshold"]:
        return {"eff_factor": 1.0, "eff_action": "NONE", "extra_cooldown_sec": 0}
    return {
        "eff_factor": max(p["min_factor"], score / p["downsize_threshold"]),
        "eff_action": "DOWNSIZE",
        # Python rounds half to even, as the specification wants.
        "extra_cooldown_sec": round((1 - score) * p["max_extra_cooldown_sec"]),
    }


def governor(case: Mapping[str, Any], limits: Mapping[str, Any]) -> str:
    """Name the first gate a plan fails, empty when it passes all; an unknown number is ``None``, and fails its gate."""

    def too_old(age: float | None, limit: str = "max_data_age_sec") -> bool:
        return age is None or not -5 <= age <= limits[limit]

    def reached(value: float | None, limit: float) -> bool:
        return value is None or value >= limit

    def limit(name: str, of_closes: str) -> float:
        close_limit = limits.get(of_closes)
        return float(limits[name] if opening or close_limit is None else close_limit)

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


def risk_guards(row: Mapping[str, Any], parameters: Parameters | None = None) -> dict[str, Any]:
    """Compute shares and guards from the numbers the risk guard repeats.

    An input that cannot be used is left empty and named in ``errors``; an equity that is empty and not named is missing.
    """
    p = merged(RISK_GUARD, parameters)
    equity, peak, pnl = (None if row[name] is None else Fraction(row[name]) for name in ("equity", "peak", "daily_pnl"))
    if peak is not None:
        peak = None if row["net_transfers"] is None else peak + Fraction(row["net_transfers"])
    age, losses, rounding = row["equity_age_sec"], row["consecutive_losses"], Fraction(1, 10**12)
    drawdown = None if equity is None or not peak else max((peak - equity) / peak, Fraction(0))
    loss = None if equity is None or equity <= 0 or pnl is None else max(-pnl / equity, Fraction(0))

    timely = equity is not None and age is not None and -p["clock_ahead_max_sec"] <= age <= p["equity_max_age_sec"]
    fresh = timely and equity is not None and equity > 0
    triggered = [] if fresh or "equity" in row["errors"] else ["EQUITY_STALE"]
    shares = (
        ("DAILY_LOSS", loss, "daily_loss_max"),
        ("DRAWDOWN", drawdown, "drawdown_max"),
        ("EMERGENCY_FLATTEN", drawdown, "emergency_drawdown_max"),
    )
    for guard, share, limit in shares:
        if fresh and share is not None and share > Fraction(str(p[limit])) + rounding:
            triggered.append(guard)
    if timely and not fresh:
        triggered.append("EMERGENCY_FLATTEN")  # nothing is left
    if losses is not None and losses >= p["losses_max"]:
        triggered.append("CONSEC_LOSS")
    return {
        "triggered": triggered,
        "drawdown": None if drawdown is None else float(drawdown),
        "daily_loss": None if loss is None else float(loss),
    }
