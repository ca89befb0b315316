"""The band in which a profile says that a move stays, at every candle of a history.

The tail is the profile's (`market_state.vol.tail`): of a normal variable where it has none, else by the kernel that runs live.
"""

from __future__ import annotations

import numpy as np

from quantum_core.kernels.columns import Floats
from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.kernels.market.tails import step_multiple, tail_multiple
from quantum_lab.states import BLOCK, return_windows


def band_multiples(closes: Floats, theta: MarketStateTheta, exceedance: float, steps: int) -> Floats:
    """Give the half width of the band at each candle, in sigmas.

    Parameters
    ----------
    closes : float64 array, shape (n,)
        Close prices, oldest first.
    theta : MarketStateTheta
        Parameters of one symbol. Its own exceedance and horizon are not read: any band can be asked for.
    exceedance : float
        Probability that a move is beyond the band, up or down, in (0, 1).
    steps : int
        Candles of the move. Student's t has parameters of its own for the next candle; the others of the horizon serve any move.

    Returns
    -------
    float64 array, shape (n,)
        Row t: multiple known at the close of candle t, in sigmas of the move: those of a candle times the root of `steps`;
        NaN before the window is full.
    """
    window = theta.vol.window
    multiples = np.full(len(closes), np.nan)
    if len(closes) <= window:
        return multiples
    if theta.vol.tail == "none" or (theta.vol.tail == "student_t" and steps == 1):
        multiples[window:] = step_multiple(exceedance, theta.vol)
        return multiples
    windows = return_windows(closes, window, theta.eps)
    for start in range(0, len(windows), BLOCK):
        rows = windows[start : start + BLOCK]
        multiples[window + start : window + start + len(rows)] = tail_multiple(exceedance, rows, theta.vol, eps=theta.eps)
    return multiples
