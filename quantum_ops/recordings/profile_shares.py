"""What a profile says along a price history: how often each regime, how often a floor decides, how often all is to be closed.

Here belongs the walk over windows of candles. A share near 100 % means that the number says nothing on these candles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from quantum_core.kernels.columns import REGIMES, Floats, Market, Position
from quantum_core.kernels.market.market_state import MarketStateTheta, market_state
from quantum_core.kernels.proposals.harvest import HarvestTheta, harvest
from quantum_core.kernels.proposals.stops import StopsTheta, stops
from quantum_core.profiles.profile import Profile

WINDOWS_AT_ONCE = 1000
AT_BOUND = 1e-9  # relative: a distance that is its floor
FULL_CLOSE = "FULL_CLOSE_PROPOSED"
SHARES = ("trend", "mr", "chop", "stop_at_floor", "target_at_floor", "full_close", "partial")


@dataclass(frozen=True)
class Bars:
    """Candles of one symbol, oldest first, arrays of one length; or windows of them, one per row."""

    high: Floats
    low: Floats
    close: Floats

    def rows(self, which: Any) -> Bars:
        """Give some of the rows."""
        return Bars(self.high[which], self.low[which], self.close[which])


def shares(bars: Bars, profile: Profile, *, step: int, held_candles: int, interval_sec: int) -> dict[str, Any]:
    """Walk a history and count what a profile says.

    Parameters
    ----------
    bars
        Candles without gaps.
    profile
        Parameters; those of all symbols.
    step
        Candles between two windows.
    held_candles
        Age of the positions that are judged, in candles; of each window one long and one short, opened at the close then.
    interval_sec
        Length of a candle.

    Returns
    -------
    dict
        ``windows``; of all windows the shares ``trend``, ``mr``, ``chop``, ``stop_at_floor`` and ``target_at_floor``, and the
        median ``stop_dist_pct``; of all positions ``full_close`` and ``partial``. Too few candles for a
        window: 0 windows, and NaN.
    """
    theta = profile.theta(MarketStateTheta)
    width = max(theta.candles_required, held_candles + 1)
    if len(bars.close) < width:
        return {"windows": 0, **dict.fromkeys((*SHARES, "stop_dist_pct"), float("nan"))}
    windows = Bars(*(sliding_window_view(one, width)[::step] for one in (bars.high, bars.low, bars.close)))
    parts = [
        _of_windows(profile, windows.rows(slice(at, at + WINDOWS_AT_ONCE)), held_candles, interval_sec)
        for at in range(0, len(windows.close), WINDOWS_AT_ONCE)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {
        "windows": len(joined["trend"]),
        **{name: float(joined[name].mean()) for name in SHARES},
        "stop_dist_pct": float(np.median(joined["stop_dist_pct"])),
    }


def _of_windows(profile: Profile, windows: Bars, held_candles: int, interval_sec: int) -> dict[str, Any]:
    state = market_state(windows.close, theta=profile.theta(MarketStateTheta))
    well = state.has_state
    windows = windows.rows(well)
    market = Market(*(getattr(state, name)[well] for name in ("sigma", "ts", "p_trend", "p_mr", "p_chop", "tail_move")))
    regime = state.regime[well]
    found: dict[str, Any] = {name: regime == name for name in REGIMES}
    stops_theta = profile.theta(StopsTheta)
    actions = []
    for is_long in (True, False):
        position = _held(windows, held_candles, interval_sec, is_long=is_long)
        proposal = stops(market, position, stops_theta)
        actions.append(harvest(market, position, proposal.stop_dist_pct, profile.theta(HarvestTheta)).harvest_action)
    found["stop_dist_pct"] = proposal.stop_dist_pct
    found["stop_at_floor"] = proposal.stop_dist_pct <= stops_theta.sl_min_pct * (1 + AT_BOUND)
    found["target_at_floor"] = proposal.tp_dist_pct <= stops_theta.tp_min_pct * (1 + AT_BOUND)
    both = np.concatenate(actions)
    found["full_close"] = both == FULL_CLOSE
    found["partial"] = (both != FULL_CLOSE) & (both != "NONE")
    return found


def _held(windows: Bars, held_candles: int, interval_sec: int, *, is_long: bool) -> Position:
    """Give a position that was opened some candles ago, without a stop in force."""
    rows = len(windows.close)
    entry, now = windows.close[:, -1 - held_candles], windows.close[:, -1]
    return Position(
        is_long=np.full(rows, is_long),
        entry_price=entry,
        current_price=now,
        peak_price=np.maximum(windows.high[:, -held_candles:].max(axis=1), entry),
        trough_price=np.minimum(windows.low[:, -held_candles:].min(axis=1), entry),
        age_sec=np.full(rows, float(held_candles * interval_sec)),
        unrealized_pnl=(now - entry) * (1 if is_long else -1),
        current_sl=np.full(rows, np.nan),
        qty=np.full(rows, np.nan),
    )
