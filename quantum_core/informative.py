"""Numbers that say nothing: small counters of what each evaluation gave, and what follows when it was nearly always the same.

Here belong what is counted of a row, and when a share is a finding. Where counters are kept, and what is done about a finding,
stays out. A harvest action NONE is what most evaluations of a healthy position should say, and is never a finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantum_core.kernels.columns import REGIMES
from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.kernels.proposals.harvest import HarvestTheta
from quantum_core.kernels.proposals.stops import StopsTheta
from quantum_core.profiles.profile import Profile

HOUR_SEC, KEPT_HOURS = 3600, 24
SHARE_MAX = 0.95  # of evaluations that may be the same
EVALUATIONS_MIN = 120  # before a share says anything: two hours, one a minute
REGIME_HOURS = 24  # so long a regime may stay the same
AT_BOUND = 1e-6  # relative: what is printed with six digits is its bound
N = "n"  # name of the counter of all evaluations

Counts = dict[str, Counter[str]]  # by asset: how often each fact was seen
Hours = dict[int, Counts]  # by hour since 1970


@dataclass(frozen=True)
class Nothing:
    """One number that says nothing.

    Attributes
    ----------
    asset
        Whose number it is.
    fact
        What is nearly always so, in words.
    share, evaluations
        Of how many evaluations.
    since_hour
        First hour, counted from 1970, from which on it was so.
    parameter
        The parameter that decides, by its dotted path.
    remedy
        What to do.
    """

    asset: str
    fact: str
    share: float
    evaluations: int
    since_hour: int
    parameter: str
    remedy: str


@dataclass(frozen=True)
class _Fact:
    words: str
    parameter: str
    remedy: str


FIT = "take a profile that fits these candles (`quantum profile try` compares them on a file)"
FACTS: Mapping[str, _Fact] = {
    "stop_at_floor": _Fact("the stop distance is its floor", "stops.sl_min_pct", f"lower it, raise stops.k_sl, or {FIT}"),
    "target_at_floor": _Fact("the target distance is its floor", "stops.tp_min_pct", f"lower it, raise stops.k_tp, or {FIT}"),
    "tail_stop_at_floor": _Fact(
        "the stop distance is its floor", "stops.sl_min_pct", f"lower it, raise market_state.vol.tail_horizon, or {FIT}"
    ),
    "trail_at_floor": _Fact("the trailing gap is its floor", "stops.sl_min_pct", f"lower it, raise stops.k_trail, or {FIT}"),
    "sigma_at_floor": _Fact("sigma is its floor", "market_state.vol.sigma_floor", "look whether the candles move at all"),
    "spike_at_cap": _Fact("the spike proxy is its cap", "market_state.vol.spike_proxy_cap", "look at the candles; then raise it"),
    "ts_at_0": _Fact("trend strength is 0", "market_state.trend.windows", "look whether the candles move at all"),
    "ts_from_1": _Fact("trend strength is 1 or more, and counts as 1", "market_state.trend.windows", "lengthen the windows"),
    "regime": _Fact("the regime is {value}", "market_state.regime.score", f"raise market_state.regime.score.a1 and b1, or {FIT}"),
    "action": _Fact("the harvest action is {value}", "harvest.kill_threshold", f"raise it, or {FIT}"),
    "kill": _Fact("the kill score names {value}", "harvest.k_{value}", f"lower its weight or its reference, or {FIT}"),
    "multiplier": _Fact("the multiplier is {value}", "allocation.scale", "raise it, or widen min_mult and max_mult"),
}
ASSETS = ("market_state", "risk_proposal", "harvest_proposal", "allocation_target")


def facts_of(asset: str, row: Mapping[str, Any], profile: Profile) -> list[str]:
    """Name what is to be counted of one evaluation.

    Parameters
    ----------
    asset
        One of ASSETS.
    row
        Its row, decoded.
    profile
        What it was computed with.

    Returns
    -------
    list of str
        Names of FACTS, with ``:value`` where a value belongs to one; empty when the evaluation is not counted.
    """
    return _OF[asset](row, profile)


def regime_of(row: Mapping[str, Any]) -> str:
    """Name the most probable regime of a row; a tie goes to the first of trend, mr, chop."""
    return max(REGIMES, key=lambda name: float(row[f"p_{name}"]))


def _market_state(row: Mapping[str, Any], profile: Profile) -> list[str]:
    vol = profile.theta(MarketStateTheta, row["symbol"]).vol
    at_bounds = {
        "sigma_at_floor": row["sigma"] <= vol.sigma_floor * (1 + AT_BOUND),
        "spike_at_cap": row["spike_proxy"] >= vol.spike_proxy_cap * (1 - AT_BOUND),
        "ts_at_0": row["ts"] == 0,
        "ts_from_1": row["ts"] >= 1,
    }
    return [N, f"regime:{regime_of(row)}", *(name for name, is_so in at_bounds.items() if is_so)]


def _risk_proposal(row: Mapping[str, Any], profile: Profile) -> list[str]:
    theta = profile.theta(StopsTheta, row["symbol"])
    stop = "tail_stop_at_floor" if theta.tail_stop and row.get("tail_move") is not None else "stop_at_floor"
    floors = {
        stop: (row["stop_dist_pct"], theta.sl_min_pct),
        "target_at_floor": (row["tp_dist_pct"], theta.tp_min_pct),
        "trail_at_floor": (row["trail_gap_pct"], theta.sl_min_pct),
    }
    return [N, *(name for name, (value, floor) in floors.items() if value <= floor * (1 + AT_BOUND))]


def _harvest_proposal(row: Mapping[str, Any], profile: Profile) -> list[str]:
    action, killed = row["harvest_action"], row["kill_score"] >= profile.theta(HarvestTheta, row["symbol"]).kill_threshold
    parts = {name: row[f"k_{name}"] for name in ("regime_flip", "sigma_spike", "ts_drop", "age_penalty")}
    named = [f"kill:{max(parts, key=lambda name: parts[name])}"] if killed else []
    return [N, *([f"action:{action}"] if action != "NONE" else []), *named]


def _allocation_target(row: Mapping[str, Any], profile: Profile) -> list[str]:  # noqa: ARG001 - as the others
    return [N, f"multiplier:{row['multiplier']:.4f}"] if row["reason"] == "ok" else []


_OF: Mapping[str, Callable[[Mapping[str, Any], Profile], list[str]]] = {
    "market_state": _market_state,
    "risk_proposal": _risk_proposal,
    "harvest_proposal": _harvest_proposal,
    "allocation_target": _allocation_target,
}


def add(hours: Hours, asset: str, facts: list[str], at: float) -> None:
    """Count one evaluation, and forget what is older than KEPT_HOURS."""
    hour = int(at // HOUR_SEC)
    hours.setdefault(hour, {}).setdefault(asset, Counter()).update(facts)
    for old in [one for one in hours if one <= hour - KEPT_HOURS or one > hour]:  # of a clock that was set back, too
        del hours[old]


def counted(hours: Hours, asset: str) -> Counter[str]:
    """Sum up what was counted of an asset in all hours."""
    total: Counter[str] = Counter()
    for counts in hours.values():
        total.update(counts.get(asset, {}))
    return total


def says_nothing(hours: Hours, asset: str) -> list[Nothing]:
    """Find what was nearly always the same in the hours that are kept.

    Returns
    -------
    list of Nothing
        Largest share first; empty also where there are fewer than EVALUATIONS_MIN evaluations.
    """
    total = counted(hours, asset)
    evaluations = total[N]
    if evaluations < EVALUATIONS_MIN:
        return []
    span = max(hours) - min(hours) + 1
    uninformative = []
    for fact, count in total.items():
        name, _, value = fact.partition(":")
        share = count / evaluations
        if fact == N or share <= SHARE_MAX or (name == "regime" and (count < evaluations or span < REGIME_HOURS)):
            continue
        wording = FACTS[name]
        uninformative.append(
            Nothing(
                asset=asset,
                fact=wording.words.format(value=value),
                share=share,
                evaluations=evaluations,
                since_hour=_since(hours, asset, fact),
                parameter=wording.parameter.format(value=value),
                remedy=wording.remedy,
            )
        )
    return sorted(uninformative, key=lambda one: -one.share)


def _since(hours: Hours, asset: str, fact: str) -> int:
    since = max(hours)
    for hour in sorted(hours, reverse=True):
        counts = hours[hour].get(asset, Counter())
        if counts[N] and counts[fact] <= SHARE_MAX * counts[N]:
            break
        since = hour
    return since


def judged(hours: Hours, asset: str) -> bool:
    """Whether there are evaluations enough to say anything."""
    return counted(hours, asset)[N] >= EVALUATIONS_MIN
