"""A bounded search over a few named parameters, and what it owes for having looked often.

Every candidate trades the same entries, so that candidates are compared trade by trade. Here belong the candidates, the walk
forward and its figures; the trades of one are a backtest's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import polars as pl

from quantum_core.kernels.columns import Floats
from quantum_core.kernels.market.grid import Times
from quantum_core.profiles.profile import Profile, flat_parameters, nested_parameters
from quantum_lab.backtest import Plan, backtest
from quantum_lab.candles import CandleHistory
from quantum_lab.entries import EntryRule
from quantum_lab.execution import Costs, Progress
from quantum_lab.intervals import BLOCKS_MIN, block_sec_of, blocks_of
from quantum_lab.overfitting import Fold, deflated_sharpe, overfitting_probability, walk_forward

Objective = Literal["expectancy", "drawdown"]

FACTORS: Mapping[str, Sequence[float]] = (
    MappingProxyType(  # of the calibrated values; few, so that luck has little to choose from
        {"stops.k_sl": (0.7, 1.0, 1.4), "stops.k_tp": (0.7, 1.0, 1.4), "stops.k_trail": (0.7, 1.0, 1.4)}
    )
)
REGIMES = ("trend", "mr", "chop")
CANDIDATES_MAX = 200
FOLDS = 4
SURE = 0.95  # deflated Sharpe ratio from which the best candidate is believed
OVERFITTING_MAX = 0.5


class SearchError(ValueError):
    """The search cannot be done; the text says why."""


@dataclass(frozen=True)
class Candidate:
    """One set of parameters: the factor of each group, and what it changes by section."""

    factors: Mapping[str, float]
    changes: Mapping[str, Mapping[str, Any]]


@dataclass
class Search:
    """What a search found.

    Attributes
    ----------
    objective
        What was searched for.
    candidates
        All that were looked at; the first is the profile as it was calibrated.
    chosen
        The candidate that is best over all candles.
    in_sample, out_of_sample
        Mean R of the candidates chosen in each fold: where they were chosen, and afterwards. None without a fold.
    deflated_sharpe
        Probability that the chosen candidate is better than the luckiest of as many worthless ones; NaN with too few blocks.
    overfitting
        Probability that the best of one half of the time is below the median in the other.
    folds
        Of each fold the candidate chosen and its mean R in and out of sample.
    unchanged_out_of_sample
        Mean R of the unchanged profile in the same tests.
    """

    objective: Objective
    candidates: Sequence[Candidate]
    chosen: Candidate
    in_sample: float | None
    out_of_sample: float | None
    deflated_sharpe: float
    overfitting: float
    unchanged_out_of_sample: float | None = None
    folds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def refused(self) -> str:
        """Why the chosen candidate must not be taken; empty when it may."""
        if self.out_of_sample is None or self.unchanged_out_of_sample is None:
            return "there is too little time for a walk forward"
        if self.out_of_sample <= self.unchanged_out_of_sample:
            return (
                f"out of sample what was chosen made {self.out_of_sample:+.3f} R a trade, "
                f"and the unchanged profile {self.unchanged_out_of_sample:+.3f}"
            )
        if math.isnan(self.deflated_sharpe):
            return "the trades are too few, or too close together, to tell skill from luck"
        if not self.deflated_sharpe >= SURE:
            tried = len(self.candidates)
            return f"the best of {tried} candidates is no better than luck (deflated Sharpe {self.deflated_sharpe:.2f})"
        if not self.overfitting < OVERFITTING_MAX:
            return f"the best of one half of the time is below the median of the other in {self.overfitting:.0%} of cases"
        return ""

    def body(self) -> dict[str, Any]:
        """Give the figures as JSON has them; what is not known is None."""
        return {
            "objective": self.objective,
            "candidates": len(self.candidates),
            "chosen": dict(self.chosen.factors),
            "in_sample_R": self.in_sample,
            "out_of_sample_R": self.out_of_sample,
            "unchanged_out_of_sample_R": self.unchanged_out_of_sample,
            "deflated_sharpe": None if math.isnan(self.deflated_sharpe) else self.deflated_sharpe,
            "overfitting_probability": None if math.isnan(self.overfitting) else self.overfitting,
            "refused": self.refused,
        }


def candidates_of(profile: Profile, factors: Mapping[str, Sequence[float]] = FACTORS) -> list[Candidate]:
    """Make all combinations of factors, the unchanged profile first.

    Parameters
    ----------
    profile
        What the factors are of.
    factors
        By parameter (``harvest.T1_R``) or group of three regimes (``stops.k_sl``).

    Raises
    ------
    SearchError
        A name is unknown or no number, two names share a number, or there are more than CANDIDATES_MAX combinations.
    """
    values = flat_parameters(profile)
    leaves = {name: [leaf for leaf in (name, *(f"{name}.{one}" for one in REGIMES)) if leaf in values] for name in factors}
    for name, found in leaves.items():
        if not found or any(isinstance(values[leaf], bool | str | list) for leaf in found):
            message = (
                f"{name} is no number of a profile: accepted are parameters like stops.sl_min_pct and groups like stops.k_sl"
            )
            raise SearchError(message)
    all_leaves = [leaf for found in leaves.values() for leaf in found]
    if shared := sorted({leaf for leaf in all_leaves if all_leaves.count(leaf) > 1}):
        message = f"{shared[0]} would have factors of two names, of which one only would count: give one of {', '.join(factors)}"
        raise SearchError(message)
    count = int(np.prod([len(one) for one in factors.values()]))
    if count > CANDIDATES_MAX:
        message = f"{count} combinations: at most {CANDIDATES_MAX}, or luck has too much to choose from"
        raise SearchError(message)
    unchanged = dict.fromkeys(factors, 1.0)
    others = (dict(zip(factors, one, strict=True)) for one in product(*factors.values()))
    return [
        Candidate(one, nested_parameters({leaf: values[leaf] * factor for name, factor in one.items() for leaf in leaves[name]}))
        for one in (unchanged, *(one for one in others if one != unchanged))
    ]


def search(
    histories: Sequence[CandleHistory],
    profile: Profile,
    *,
    horizon: int,
    objective: Objective,
    factors: Mapping[str, Sequence[float]] = FACTORS,
    folds: int = FOLDS,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Search:
    """Look for better parameters, forward in time.

    Parameters
    ----------
    histories
        Candles to search on; what judges the result must not be among them.
    profile
        Where to begin.
    horizon
        Candles between two entries, and the embargo between training and test.
    objective
        ``expectancy``: the largest mean R; ``drawdown``: the largest mean R over the drawdown of the sequence.
    factors, folds
        See :func:`candidates_of` and :func:`quantum_lab.overfitting.walk_forward`.
    cache, progress
        As :func:`quantum_lab.backtest.backtest` takes the cache; progress is in candidates.

    Raises
    ------
    SearchError, quantum_lab.backtest.BacktestError
        It cannot be done.
    """
    candidates = candidates_of(profile, factors)
    interval_sec = round(histories[0].interval_sec)
    entries, columns = EntryRule(every_sec=horizon * interval_sec), []
    trades = pl.DataFrame()
    for number, candidate in enumerate(candidates, 1):
        tested = backtest(histories, Plan([profile.changed(candidate.changes)], entries=entries, costs=Costs()), cache=cache)
        trades = tested.results[0].trades
        columns.append(trades["R"].to_numpy())
        if progress is not None:
            progress(number, len(candidates))
    order = np.argsort(trades["entry_time"].to_numpy(), kind="stable")
    results = np.stack(columns, axis=1)[order]
    begin = trades["entry_time"].dt.epoch("ms").to_numpy()[order]
    longest_sec = float(trades["held_sec"].to_numpy().max())
    made = walk_forward(begin.astype(float), begin + 1000 * longest_sec, folds=folds, embargo=1000.0 * horizon * interval_sec)
    steps = [_step(fold, results, objective) for fold in made]
    best = _best(results, objective)

    def average(name: str) -> float | None:
        return float(np.average([one[name] for one in steps], weights=[one["trades"] for one in steps])) if steps else None

    return Search(
        objective=objective,
        candidates=candidates,
        chosen=candidates[best],
        in_sample=average("in_sample"),
        out_of_sample=average("out_of_sample"),
        unchanged_out_of_sample=average("unchanged"),
        deflated_sharpe=deflated_by_block(results, begin, longest_sec, best),
        overfitting=overfitting_probability(results),
        folds=[{**one, "factors": dict(candidates[one["candidate"]].factors)} for one in steps],
    )


def _step(fold: Fold, results: np.ndarray[Any, Any], objective: Objective) -> dict[str, Any]:
    best = _best(results[fold.train], objective)
    return {
        "candidate": best,
        "in_sample": float(results[fold.train, best].mean()),
        "out_of_sample": float(results[fold.test, best].mean()),
        "unchanged": float(results[fold.test, 0].mean()),
        "trades": len(fold.test),
    }


def deflated_by_block(results: Floats, begin: Times, longest_sec: float, best: int) -> float:
    """Judge the best candidate by what each block of time earned: trades that overlap are no independent observations."""
    block = blocks_of(begin, block_sec_of(longest_sec))
    if block.max() + 1 < BLOCKS_MIN:
        return math.nan
    return deflated_sharpe(np.stack([np.bincount(block, weights=column) for column in results.T], axis=1), best)


def _best(results: np.ndarray[Any, Any], objective: Objective) -> int:
    mean = results.mean(axis=0)
    if objective == "expectancy":
        return int(np.argmax(mean))
    equity = np.vstack([np.zeros(results.shape[1]), np.cumsum(results, axis=0)])
    fall = (np.maximum.accumulate(equity, axis=0) - equity).max(axis=0)
    return int(np.argmax(np.where(mean > 0, mean / np.maximum(fall, 1e-12), mean * fall)))
