"""Deterministic price paths of known character, for demonstrations and for replay proofs.

Here belong generators that are functions of a seed and a candle index. They are never a stand-in for missing
candles: whoever uses them says so in every output.
"""

import hashlib
from typing import Literal, get_args

import numpy as np

from quantum_core.kernels.columns import Floats

Regime = Literal["trend", "mean_revert", "chop"]
REGIME_NAMES: tuple[Regime, ...] = get_args(Regime)

LEG_CANDLES = 4096  # length of one independent stretch of noise, and of one up or down leg of a trend
NOISE = 0.0005  # standard deviation of the noise per candle, log price; that of a one-minute BTC candle
TREND_DRIFT = 2 * NOISE / 5  # drift per candle of the trend, log price
TREND_NOISE = NOISE / 5  # the trend is cleaner than chop: its drift is two of its noises


def log_path(regime: Regime, first_index: int, n: int, *, seed: int) -> Floats:
    """Log prices of a path as a function of the candle index.

    Parameters
    ----------
    regime : {"trend", "mean_revert", "chop"}
        trend: legs of `LEG_CANDLES` up and down in turn, with little noise. mean_revert: independent noise around a
        constant level. chop: a random walk, tied to zero at the ends of each leg so that it stays bounded.
    first_index : int
        Candle index of the first value, >= 0.
    n : int
        Number of values.
    seed : int
        Seed, >= 0; equal seeds give equal paths in every process.

    Returns
    -------
    float64 array, shape (n,)
        Value k is the log price of candle ``first_index + k``, whatever the range asked for.
    """
    legs = range(first_index // LEG_CANDLES, (first_index + n - 1) // LEG_CANDLES + 1)
    path = np.concatenate([_leg(regime, leg, seed) for leg in legs] or [np.empty(0)])
    start = first_index - legs.start * LEG_CANDLES
    return path[start : start + n]


def _leg(regime: Regime, leg: int, seed: int) -> Floats:
    noise: Floats = np.random.default_rng((seed, leg)).standard_normal(LEG_CANDLES)
    if regime == "mean_revert":
        return NOISE * noise
    share: Floats = np.arange(LEG_CANDLES) / LEG_CANDLES
    walk = np.cumsum(noise)
    bridge: Floats = np.concatenate([[0.0], walk[:-1]]) - share * walk[-1]
    if regime == "chop":
        return NOISE * bridge
    climb = share if leg % 2 == 0 else 1 - share
    return TREND_DRIFT * LEG_CANDLES * climb + TREND_NOISE * bridge


def trend(n: int, *, seed: int) -> Floats:
    """Return `n` close prices that trend upwards from 100, for n up to `LEG_CANDLES`; shape (n,)."""
    return 100 * np.exp(log_path("trend", 0, n, seed=seed))


def mean_revert(n: int, *, seed: int) -> Floats:
    """Return `n` close prices that keep returning to 100; shape (n,)."""
    return 100 * np.exp(log_path("mean_revert", 0, n, seed=seed))


def chop(n: int, *, seed: int) -> Floats:
    """Return `n` close prices that wander around 100 without direction; shape (n,)."""
    return 100 * np.exp(log_path("chop", 0, n, seed=seed))


def synthetic_closes(symbol: str, n: int, last_index: int) -> Floats:
    """Close prices of a symbol that does not exist, the same in every process and after every restart.

    Parameters
    ----------
    symbol : str
        BTC in the name trends, ETH mean-reverts, all others chop.
    n : int
        Number of closes, at most ``last_index + 1``.
    last_index : int
        Index of the newest candle, e.g. epoch seconds // candle interval.

    Returns
    -------
    float64 array, shape (n,)
        Oldest first, price units. A call with a larger `last_index` continues the same path.

    Raises
    ------
    ValueError
        If the path would start before candle 0.
    """
    if not 0 <= n <= last_index + 1:
        message = f"n is {n}: expected 0 to {last_index + 1}, the candles up to last_index"
        raise ValueError(message)
    regime: Regime = "trend" if "BTC" in symbol else "mean_revert" if "ETH" in symbol else "chop"
    # The built-in hash is salted per process; a digest is not.
    seed = int.from_bytes(hashlib.sha256(symbol.encode()).digest()[:8], "big")
    level = 100.0 if "BTC" in symbol else 50.0
    return level * np.exp(log_path(regime, last_index - n + 1, n, seed=seed))
