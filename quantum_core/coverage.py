"""Live coverage of sigma: how often the next close was farther away than it says, and whether that share can be chance.

Here belong what is counted of one forecast, and the test of the counts of a day. Which candles and rows there are, where counters
are kept, and what is done about a finding stays out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, xlogy

from quantum_core.informative import Hours, N, counted
from quantum_core.kernels.columns import Floats
from quantum_core.kernels.market.grid import Times
from quantum_core.kernels.market.market_state import VolTheta
from quantum_core.kernels.market.tails import step_multiple

COVERAGE = "coverage"  # stands for the asset in the counters
BEYOND = "beyond"  # name of the counter of returns beyond the quantile
EXCEEDANCE = 0.05  # share of returns that is to be beyond the quantile of a profile without a tail of its own
BEYOND_MIN = 12  # expected returns beyond it before a share says anything: at 5 % of 240 returns, four hours of minutes
P_MIN = 0.01  # p-value, corrected for the number of symbols, below which the share is no chance


@dataclass(frozen=True)
class Forecast:
    """What a market state says of the close of the next candle.

    Attributes
    ----------
    open_time_ms
        When the newest candle it rests on opened, epoch ms.
    close
        Its close, quote units.
    limit
        Log return that is exceeded with the probability :func:`exceedance_of`, > 0.
    """

    open_time_ms: int
    close: float
    limit: float

    @property
    def text(self) -> str:
        """Write it as a field beside the counters."""
        return f"{self.open_time_ms} {self.close!r} {self.limit!r}"


def forecast_of(text: str | None) -> Forecast | None:
    """Read :attr:`Forecast.text`; ``None`` where there is none, or somebody else wrote there."""
    try:
        opened, close, limit = (text or "").split()
        found = Forecast(int(opened), float(close), float(limit))
    except ValueError:
        return None
    return found if min(found.close, found.limit) > 0 and math.isfinite(found.close) else None


def exceedance_of(vol: VolTheta) -> float:
    """Give the probability, up or down, with which a profile says that its quantile is exceeded."""
    return EXCEEDANCE if vol.tail == "none" else vol.tail_exceedance


def limit_of(row: Mapping[str, Any], vol: VolTheta) -> float:
    """Give the absolute log return of the next candle that is exceeded with the probability of :func:`exceedance_of`.

    Parameters
    ----------
    row
        A published market state, decoded: ``sigma`` per candle, and ``tail_move`` over the tail's horizon, where there is one.
    vol
        Parameters it was computed with: a Student t has one of its own for the next candle; a historical tail is that of single
        returns, at the scale of its horizon.
    """
    if vol.tail == "historical" and row.get("tail_move") is not None:
        return float(row["tail_move"]) / math.sqrt(vol.tail_horizon)
    return step_multiple(exceedance_of(vol), vol) * float(row["sigma"])


def forecast_by(row: Mapping[str, Any], vol: VolTheta, open_time_ms: Times, close: Floats) -> Forecast | None:
    """Give the forecast of a market state.

    Parameters
    ----------
    row
        A published market state, decoded.
    vol
        Parameters it was computed with.
    open_time_ms, close
        int64 and float64, shape (n,): candles there are now, strictly increasing.

    Returns
    -------
    Forecast or None
        ``None`` where prices are synthetic, the market is inactive, or the newest candle the state rests on is not there (any
        more) with the close it used.
    """
    if row["source"] == "synthetic" or row["market_inactive"] or not row["ts_timestamp"] or not (limit := limit_of(row, vol)) > 0:
        return None
    # Its time, in whole s, is when the candle closed: the one before the next opens. Where that is unknown it is when it opened.
    after = int(np.searchsorted(open_time_ms, (row["ts_timestamp"] + 1) * 1000))
    for at in (after - 1, after - 2):
        if at >= 0 and close[at] == row["close"]:
            return Forecast(int(open_time_ms[at]), float(close[at]), limit)
    return None


def facts_of(forecast: Forecast, open_time_ms: Times, close: Floats, interval_ms: int) -> list[str]:
    """Name what is to be counted of a forecast: nothing where the candle after its own is not there.

    Parameters
    ----------
    forecast
        To be judged.
    open_time_ms, close
        int64 and float64, shape (n,): candles there are now, strictly increasing.
    interval_ms
        Length of a candle. A return over a gap is one of a longer time, and is not counted.
    """
    following = int(np.searchsorted(open_time_ms, forecast.open_time_ms, side="right"))
    if following == len(close) or open_time_ms[following] != forecast.open_time_ms + interval_ms:
        return []
    moved = abs(math.log(close[following] / forecast.close))
    return [N, BEYOND] if moved > forecast.limit else [N]


@dataclass(frozen=True)
class Share:
    """How many returns of a symbol were judged in the hours kept, how many were beyond the quantile, and what share is to be."""

    judged: int
    beyond: int
    exceedance: float = EXCEEDANCE

    @property
    def value(self) -> float:
        """Give the share."""
        return self.beyond / self.judged

    @property
    def enough(self) -> bool:
        """Whether there are returns enough to say anything."""
        return self.judged * self.exceedance >= BEYOND_MIN


def share_of(hours: Hours, vol: VolTheta) -> Share:
    """Sum up what was counted of a symbol with these parameters."""
    total = counted(hours, COVERAGE)
    return Share(total[N], total[BEYOND], exceedance_of(vol))


def kupiec(judged: npt.ArrayLike, beyond: npt.ArrayLike, exceedance: npt.ArrayLike) -> Floats:
    """Test unconditional coverage: whether so many exceedances can come of independent returns with the right quantile.

    Parameters
    ----------
    judged, beyond : array_like of int, shape (n,)
        Returns, > 0, and exceedances among them.
    exceedance : array_like of float, shape (n,) or ()
        Expected share, in (0, 1).

    Returns
    -------
    float64 array, shape (n,)
        p-values of the likelihood ratio, chi-squared with one degree of freedom; small for too many and for too few.

    References
    ----------
    Kupiec, P. (1995), Techniques for verifying the accuracy of risk measurement models. J. of Derivatives 3(2), 73-84.
    """
    return np.asarray(chdtrc(1, kupiec_ratio(judged, beyond, exceedance)))


def kupiec_ratio(judged: npt.ArrayLike, beyond: npt.ArrayLike, exceedance: npt.ArrayLike) -> Floats:
    """Give the likelihood ratio :func:`kupiec` tests, >= 0."""
    count, hits = np.asarray(judged, dtype=float), np.asarray(beyond, dtype=float)
    misses, expected = count - hits, count * np.asarray(exceedance)
    ratio = xlogy(hits, hits / expected) + xlogy(misses, misses / (count - expected))
    return np.asarray(np.maximum(2 * ratio, 0))  # rounding may leave it a little below 0


def holm(p_values: npt.ArrayLike) -> Floats:
    """Correct p-values for how many there are: the chance of any below a level is that level, whatever depends on what.

    Symbols of one market move together, so that a correction which needs independence would promise too much.

    References
    ----------
    Holm, S. (1979), A simple sequentially rejective multiple test procedure. Scandinavian J. of Statistics 6, 65-70.
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return corrected


def corrected_p(shares: Sequence[Share]) -> Floats:
    """Give the p-value of each share among all that are judged at the same time."""
    columns = zip(*((one.judged, one.beyond, one.exceedance) for one in shares), strict=True)
    return holm(kupiec(*columns))
