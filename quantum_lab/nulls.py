"""What the same entries would have made without a profile: the nulls that its stops and harvests have to beat.

Each null opens the same positions at the same prices and costs, and differs in the exit only, so that a difference of profits is
one of exits. Here belongs what each of them is; whether a difference is one, :mod:`quantum_lab.intervals` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from quantum_core.kernels.columns import Floats
from quantum_lab.candles import CandleHistory
from quantum_lab.entries import Chosen
from quantum_lab.execution import BPS, JUMP, Costs, Entries, Executed, Rows, execute, last_candles
from quantum_lab.policies import Chandelier, FixedStop, average_true_range

NULLS: Mapping[str, str] = MappingProxyType(
    {
        "fixed_stop": "a stop at the same median distance from the entry, never moved",
        "chandelier": "a stop that trails the best price by average true ranges, at first at the same median distance",
        "no_stop": "no stop: closed when the time is over",
        "random_exit": "closed after the holding times of the profile, dealt out at random",
        "desk": "closed when and where the desk did",
    }
)


class Null(NamedTuple):
    """What a null made: profits per unit after costs, NaN where there is none, and candles held; shape (n,)."""

    profit: Floats
    held: Rows


def null_results(
    history: CandleHistory,
    chosen: Chosen,
    executed: Executed,
    first_distance: Floats,
    costs: Costs,
    *,
    hold_max: int,
    seed: int,
) -> dict[str, Null]:
    """Compute what each null makes of the entries.

    Parameters
    ----------
    history, chosen
        Candles and positions.
    executed
        What the profile made of them.
    first_distance
        Of the profile's first stops, share of price, shape (n,).
    costs, hold_max
        As of the profile.
    seed
        Of the random exits.

    Returns
    -------
    dict
        By name of NULLS; no profit where the unit of the price changed or the desk did not close. ``desk`` is there only if it
        closed any.
    """
    entries = chosen.entries
    if not len(entries):
        return {}
    fixed = entries.mark * (1 - entries.direction * float(np.median(first_distance)))
    ranges = average_true_range(history)[entries.candle - 1]
    moving = ranges > 0
    multiple = float(np.median((first_distance * entries.mark)[moving] / ranges[moving])) if moving.any() else 0.0
    made: dict[str, Null] = {}
    for name, policy in (
        ("fixed_stop", FixedStop(fixed)),
        ("chandelier", Chandelier(history, entries, multiple)),
    ):
        done = execute(history, entries, policy, costs, hold_max=hold_max)
        made[name] = Null(np.where(done.reason == JUMP, np.nan, done.pnl), done.exit_candle - entries.candle + 1)
    held = executed.exit_candle - entries.candle
    dealt = np.random.default_rng(seed).permutation(held)
    for name, after in (("no_stop", last_candles(history, entries.candle, hold_max) - entries.candle), ("random_exit", dealt)):
        made[name] = Null(closed_at(history, entries, after, costs), after + 1)
    if (chosen.own_exit_candle >= 0).any():
        own = chosen.own_exit_price
        fees, changes = costs.fee_bps * BPS * (entries.paid + own), np.cumsum(history.jumps)
        unknown = (chosen.own_exit_candle < 0) | (changes[chosen.own_exit_candle] > changes[entries.candle - 1])
        profit = np.where(unknown, np.nan, entries.direction * (own - entries.paid) - fees)
        made["desk"] = Null(profit, np.maximum(chosen.own_exit_candle - entries.candle, 0) + 1)
    return made


def closed_at(history: CandleHistory, entries: Entries, held: Rows, costs: Costs) -> Floats:
    """Close each position at the close of a candle so many after its first, at the latest of the last; profits per unit."""
    candle = np.minimum(entries.candle + np.maximum(held, 0), len(history) - 1)
    d, changes = entries.direction, np.cumsum(history.jumps)
    filled = history.close[candle] * (1 - d * costs.slippage_bps * BPS)
    profit = d * (filled - entries.paid) - costs.fee_bps * BPS * (entries.paid + filled)
    within: Floats = np.where(changes[candle] > changes[entries.candle - 1], np.nan, profit)
    return within
