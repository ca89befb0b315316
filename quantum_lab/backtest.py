"""A backtest: the same positions under several profiles, by the kernels that run live, beside nulls.

Here belongs the way from candles to figures. What each step does has a module of its own: entries, states, policies, execution,
nulls, outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from quantum_core.contracts.legs import underlying
from quantum_core.display import number_of
from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.kernels.position.tracking import TrackingTheta
from quantum_core.kernels.proposals.harvest import HarvestTheta
from quantum_core.kernels.proposals.stops import StopsTheta
from quantum_core.profiles.profile import Profile
from quantum_lab.candles import CandleHistory
from quantum_lab.entries import NAMED_MAX, Chosen, EntryRule, place
from quantum_lab.execution import Costs, Entries, Executed, execute
from quantum_lab.nulls import NULLS, null_results
from quantum_lab.outcome import summary_of, trades_frame
from quantum_lab.policies import ProfilePolicy, Seen
from quantum_lab.states import States, states_of

DAY_SEC = 86_400
TRACED = 4  # trades per profile and symbol whose stop path is kept: best, worst and evenly between

Report = Callable[[str, int, int], None]  # what is being done, how far it is, and how far it goes


class BacktestError(ValueError):
    """Nothing can be computed; the text says why."""


@dataclass(frozen=True)
class Plan:
    """What is computed.

    Attributes
    ----------
    profiles
        Parameters, side by side on the same entries; names differ.
    entries
        Made-up entries; or none, and the trades of a desk.
    trades
        Columns of :data:`quantum_lab.entries.TRADES`.
    costs
        Of each fill.
    hold_max_sec
        Time after which a position is closed, s.
    seed
        Of random exits and the bootstrap.
    """

    profiles: Sequence[Profile]
    entries: EntryRule | None = None
    trades: pl.DataFrame | None = None
    costs: Costs = field(default_factory=Costs)
    hold_max_sec: float = DAY_SEC
    seed: int = 1


@dataclass
class ProfileResult:
    """What one profile made of the entries.

    Attributes
    ----------
    profile
        Its parameters.
    trades
        See :func:`quantum_lab.outcome.trades_frame`.
    summary
        See :func:`quantum_lab.outcome.summary_of`.
    paths
        What stood before each candle of the chosen trades; ``trade`` is a row of ``trades``, ``symbol`` and ``candle`` say where.
    """

    profile: Profile
    trades: pl.DataFrame
    summary: dict[str, Any]
    paths: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Backtest:
    """The result.

    Attributes
    ----------
    results
        By profile, in the order of the plan.
    left_out
        Entries that have no place in the candles, by reason.
    named
        The first of them, in words.
    """

    results: list[ProfileResult]
    left_out: dict[str, int] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)


def backtest(
    histories: Sequence[CandleHistory], plan: Plan, *, cache: Path | None = None, workers: int = 2, report: Report | None = None
) -> Backtest:
    """Compute what profiles would have made of entries.

    Parameters
    ----------
    histories
        Candles by symbol, each symbol once, of one interval.
    plan
        What is computed.
    cache, workers
        See :func:`quantum_lab.states.states_of`.
    report
        Called as it goes on.

    Returns
    -------
    Backtest
        All profiles have the same entries: those at which each of them can propose a first stop.

    Raises
    ------
    BacktestError
        No entry has a place in the candles, or a profile's first stop has no distance.

    References
    ----------
    docs/lab.md
    """
    frames: list[list[pl.DataFrame]] = [[] for _ in plan.profiles]
    paths: list[list[dict[str, Any]]] = [[] for _ in plan.profiles]
    seen = [Seen() for _ in plan.profiles]
    made = Backtest([])
    if plan.trades is not None:
        _count_foreign(made, plan.trades, histories)
    for history in histories:
        states = [_states(history, profile, cache, workers, report) for profile in plan.profiles]
        chosen = _choose(history, states, plan)
        for reason, count in chosen.left_out.items():
            made.left_out[reason] = made.left_out.get(reason, 0) + count
        made.named = [*made.named, *chosen.named][:NAMED_MAX]
        if not len(chosen.entries):
            continue
        for at, (profile, of_profile) in enumerate(zip(plan.profiles, states, strict=True)):
            frame, path = _of_profile(history, of_profile, profile, chosen, plan, seen[at], report)
            paths[at] += [{**row, "trade": row["trade"] + sum(map(len, frames[at])), "symbol": history.symbol} for row in path]
            frames[at].append(frame)
    if not any(frames):
        left_out = ", ".join(f"{reason} {count}" for reason, count in made.left_out.items()) or "there is none"
        message = f"no entry has a place in the candles: {left_out}"
        raise BacktestError(message)
    for at, profile in enumerate(plan.profiles):
        trades = pl.concat(frames[at], how="diagonal_relaxed")
        names = [name for name in NULLS if f"R_{name}" in trades.columns]
        summary = summary_of(trades, seen[at], names, interval_sec=histories[0].interval_sec, seed=plan.seed)
        made.results.append(ProfileResult(profile, trades, summary, paths[at]))
    return made


def policy_of(history: CandleHistory, states: States, profile: Profile, entries: Entries) -> ProfilePolicy:
    """Give the policy of a profile for the positions of one symbol."""
    return ProfilePolicy(
        history,
        states,
        entries,
        stops_theta=profile.theta(StopsTheta, history.symbol),
        harvest_theta=profile.theta(HarvestTheta, history.symbol),
        tracking_theta=profile.theta(TrackingTheta, history.symbol),
    )


def _states(history: CandleHistory, profile: Profile, cache: Path | None, workers: int, report: Report | None) -> States:
    def advance(done: int, whole: int) -> None:
        if report is not None:
            report(f"states of {history.symbol}, {profile.name}", done, whole)

    theta = profile.theta(MarketStateTheta, history.symbol)
    return states_of(history, theta, required=profile.candles_required, cache=cache, workers=workers, progress=advance)


def _choose(history: CandleHistory, states: Sequence[States], plan: Plan) -> Chosen:
    usable = np.logical_and.reduce([one.has_state for one in states])
    if plan.trades is not None:
        return place(plan.trades.filter(pl.col("symbol") == underlying(history.symbol)), history, usable)
    if plan.entries is None:
        message = "a plan has entries or trades"
        raise BacktestError(message)
    return plan.entries.choose(history, usable, plan.costs)


def _of_profile(
    history: CandleHistory, states: States, profile: Profile, chosen: Chosen, plan: Plan, seen: Seen, report: Report | None
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    def advance(done: int, whole: int) -> None:
        if report is not None:
            report(f"trades of {history.symbol}, {profile.name}", done, whole)

    entries, hold_max = chosen.entries, max(round(plan.hold_max_sec / history.interval_sec), 1)
    policy = policy_of(history, states, profile, entries)
    try:
        done = execute(history, entries, policy, plan.costs, hold_max=hold_max, progress=advance)
    except ValueError as error:  # a kernel refuses what came of the parameters, like a stop at 0
        message = f"{profile.name} cannot be computed on {history.symbol}: {error}"
        raise BacktestError(message) from error
    if not (entries.direction * (entries.paid - done.first_stop) > 0).all():
        message = f"{profile.name} puts a first stop at the price paid: there is no risk to measure profits by; raise sl_min_pct"
        raise BacktestError(message)
    seen.add(policy.seen)
    nulls = null_results(history, chosen, done, policy.first_distance, plan.costs, hold_max=hold_max, seed=plan.seed)
    frame = trades_frame(history, chosen, done, nulls)
    return frame, _paths(history, states, profile, entries, done, plan, hold_max)


def _paths(
    history: CandleHistory,
    states: States,
    profile: Profile,
    entries: Entries,
    done: Executed,
    plan: Plan,
    hold_max: int,
) -> list[dict[str, Any]]:
    """Compute some trades again, from the worst to the best, and keep what stood before each candle."""
    order = np.argsort(done.pnl / entries.paid, kind="stable")
    rows = np.unique(order[np.linspace(0, len(order) - 1, TRACED).round().astype(int)])
    some = entries.take(rows)
    policy = policy_of(history, states, profile, some)
    again = execute(history, some, policy, plan.costs, hold_max=hold_max, traced=range(len(some)))
    times = history.open_time_ms
    return [{**row, "trade": int(rows[row["trade"]]), "open_time_ms": int(times[row["candle"]])} for row in again.path]


def _count_foreign(made: Backtest, trades: pl.DataFrame, histories: Sequence[CandleHistory]) -> None:
    """Name the trades of symbols without candles."""
    known = [underlying(history.symbol) for history in histories]
    foreign = trades.filter(~pl.col("symbol").is_in(known))
    if len(foreign):
        made.left_out["no_candles"] = len(foreign)
        names = sorted(set(foreign["symbol"]))
        made.named.append(f"no candles of {', '.join(names[:NAMED_MAX])}: {number_of(len(foreign), 'trade')}")
