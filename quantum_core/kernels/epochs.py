"""The unit of an epoch number: seconds, ms, us or ns, by its size alone.

Writers do not say which one they count in. Here belongs the guess, once, for candles, positions, files and hints; which times are
plausible is the business of whoever reads them.
"""

import numpy as np

from quantum_core.kernels.columns import Floats

# An epoch number below the first is seconds, below the next ms, then us, then ns. From 1973 (ms) to 5138 (s) no two overlap.
LIMITS = (1e11, 1e14, 1e17)
PER_SEC = (1.0, 1e3, 1e6, 1e9)
MS_MIN, US_MIN = LIMITS[:2]  # between them it is ms
SEC_MIN, SEC_MAX = 1e9, 4.2e9  # 2001 to 2103: whatever is outside is no time of a market


def per_sec(epoch: float) -> float:
    """Give how many units of an epoch number are a second: 1, 1e3, 1e6 or 1e9."""
    return PER_SEC[sum(epoch >= limit for limit in LIMITS)]


def per_sec_of(epochs: Floats) -> Floats:
    """Give the same of many at once, shape as given; of NaN, which is no time in any unit, one of them."""
    units: Floats = np.take(PER_SEC, np.searchsorted(LIMITS, epochs, side="right"))
    return units
