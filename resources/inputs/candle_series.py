"""Closed candles of one symbol, as every step takes them, wherever they come from, and what their grid must be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.market.grid import GridTheta
from quantum_core.kernels.market.synthetic import synthetic_closes
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Source = Literal["candles", "replay", "synthetic"]


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """Closed candles of one symbol, oldest first.

    Attributes
    ----------
    open_time_ms
        int64, shape (n,), epoch ms; 0 where unknown. Strictly increasing when all are known.
    high, low, close
        float64, shape (n,), quote units, finite and > 0; high and low equal close where unknown.
    source
        ``synthetic`` when any member says so or the prices are generated, ``replay`` when any member carries another label
        than those known to be live.
    key
        The Redis key they were read from.
    malformed
        Members left out.
    newest_epoch_sec
        Close time of the newest candle when known, else its open time; 0 when neither is.
    volume
        float64, shape (n,), NaN where unknown.
    left_out
        Minutes left out: how many had no price (``price_nan`` and the like), or versions that contradict each other
        (``candles_contradict``).
    members
        Members that were looked at, running updates and repeats among them.
    """

    open_time_ms: Times
    high: Floats
    low: Floats
    close: Floats
    source: Source
    key: str
    malformed: int
    newest_epoch_sec: float
    volume: Floats
    left_out: Mapping[str, int] = field(default_factory=dict)
    members: int = 0


def usual_trouble(candles: Candles) -> str:
    """Name what most minutes were left out for; empty when none was."""
    return max(candles.left_out, key=candles.left_out.__getitem__, default="")


def synthetic_candles(symbol: str, window: int, *, now: float, interval_sec: int) -> Candles:
    """Generate a symbol's newest closed candles: the same ones whoever asks at the same time.

    Parameters
    ----------
    symbol
        Determines the prices.
    window
        Number of candles.
    now
        Epoch s.
    interval_sec
        Length of a candle, s.
    """
    last_index = math.floor(now / interval_sec)
    close = synthetic_closes(symbol, window, last_index)
    # Candle i closes at i intervals, so that the newest one is closed.
    open_time_ms = np.arange(last_index - window, last_index, dtype=np.int64) * (interval_sec * 1000)
    traded = np.full(window, np.nan)
    return Candles(open_time_ms, close, close, close, "synthetic", "synthetic", 0, last_index * interval_sec, traded)


def grid_theta_of(settings: Settings, profile: Profile) -> GridTheta:
    """Take what the grid must be from the settings, and how many closes it must give from the profile."""
    return GridTheta(
        interval_sec=settings.candle_interval_sec,
        gap_max_intervals=settings.gap_max_intervals,
        fill=settings.candle_fill == "flat",
        inactive_candles=settings.market_inactive_candles,
        required=profile.candles_required,
    )


def candles_digest(closes: Floats, count: int) -> str:
    """Fingerprint the newest closes, those a state was computed from, so that a proof can find the very same ones again."""
    return hashlib.blake2s(np.ascontiguousarray(closes[-count:]).tobytes(), digest_size=8).hexdigest()
