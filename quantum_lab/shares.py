"""What a profile says along a price history: how often each regime, how often a floor decides, how often all is to be closed.

Here belongs counting. A share near 100 % means that the number says nothing on these candles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from quantum_core.kernels.columns import REGIMES, Position
from quantum_core.kernels.proposals.harvest import HarvestTheta, harvest
from quantum_core.kernels.proposals.stops import StopsTheta, stops
from quantum_core.profiles.profile import Profile
from quantum_lab.candles import CandleHistory
from quantum_lab.states import States

AT_BOUND = 1e-9  # relative: a distance that is its floor
FULL_CLOSE = "FULL_CLOSE_PROPOSED"
SHARES = ("trend", "mr", "chop", "stop_at_floor", "target_at_floor", "full_close", "partial")


def shares(history: CandleHistory, states: States, profile: Profile, *, held: int, step: int = 1) -> dict[str, Any]:
    """Walk a history and count what a profile says.

    Parameters
    ----------
    history, states
        Candles, and the market state of the profile at each of them.
    profile
        Parameters; those of all symbols.
    held
        Age of the positions that are judged, in candles; at each state one long and one short, opened at the close then. None is
        judged whose age spans missing candles.
    step
        Only every so many states are judged.

    Returns
    -------
    dict
        ``windows``; of all windows the shares ``trend``, ``mr``, ``chop``, ``stop_at_floor`` and ``target_at_floor``, and the
        median ``stop_dist_pct``; of all positions ``full_close`` and ``partial``. Without a window: 0 windows, and NaN.
    """
    rows = _judged(history, states, held)[::step]
    if not len(rows):
        return {"windows": 0, **dict.fromkeys((*SHARES, "stop_dist_pct"), float("nan"))}
    market, theta = states.market(rows), profile.theta(StopsTheta)
    actions = []
    for is_long in (True, False):
        position = _held(history, rows, held, is_long=is_long)
        proposal = stops(market, position, theta)
        actions.append(harvest(market, position, proposal.stop_dist_pct, profile.theta(HarvestTheta)).harvest_action)
    both = np.concatenate(actions)
    regime = states.regime[rows]
    return {
        "windows": len(rows),
        **{name: float(np.mean(regime == name)) for name in REGIMES},
        "stop_at_floor": float(np.mean(proposal.stop_dist_pct <= theta.sl_min_pct * (1 + AT_BOUND))),
        "target_at_floor": float(np.mean(proposal.tp_dist_pct <= theta.tp_min_pct * (1 + AT_BOUND))),
        "full_close": float(np.mean(both == FULL_CLOSE)),
        "partial": float(np.mean((both != FULL_CLOSE) & (both != "NONE"))),
        "stop_dist_pct": float(np.median(proposal.stop_dist_pct)),
    }


def _judged(history: CandleHistory, states: States, held: int) -> npt.NDArray[np.intp]:
    missing = np.cumsum(history.missing)
    whole = np.zeros(len(history), dtype=np.bool_)
    whole[held:] = missing[held:] == missing[: len(history) - held]
    return np.flatnonzero(states.has_state & whole)


def _held(history: CandleHistory, rows: npt.NDArray[np.intp], held: int, *, is_long: bool) -> Position:
    """Give a position that was opened some candles ago, without a stop in force."""
    entry, now = history.close[rows - held], history.close[rows]
    highest = sliding_window_view(history.high, held)[rows - held + 1].max(axis=1)
    lowest = sliding_window_view(history.low, held)[rows - held + 1].min(axis=1)
    return Position(
        is_long=np.full(len(rows), is_long),
        entry_price=entry,
        current_price=now,
        peak_price=np.maximum(highest, entry),
        trough_price=np.minimum(lowest, entry),
        age_sec=np.full(len(rows), held * float(history.interval_sec)),
        unrealized_pnl=(now - entry) * (1 if is_long else -1),
        current_sl=np.full(len(rows), np.nan),
        qty=np.full(len(rows), np.nan),
    )
