"""Whether the numbers of a position belong together: profit and prices, worth and size, mark and candles.

Pure. A contradiction is named, never repaired: nobody knows which of the numbers is wrong.
"""

import math
from typing import Protocol

from quantum_core.kernels.position.contract import Contract
from quantum_core.kernels.position.tracking import Bars, Snapshot

# Profit and mark are taken seconds apart, and some writers take costs off the profit: two taker fees are .1 % of the worth, and
# what the market has moved within the last candles is added. A wrong size, unit or factor of leverage is off by far more.
PROFIT_SLACK = 0.002  # share of the worth
PROFIT_SLACK_REL = 0.05  # share of the profit itself: a rate of exchange between two dollars
NOTIONAL_SLACK = 0.02  # share of the worth: a mark of another moment, or a last price
SWING_CANDLES = 2
ENTRY_FACTOR = 100.0  # entry and mark so many times each other are in different units; no position outlives such a market
UNITS_FACTOR = 5.0  # entry and mark so many times the newest close are in other units; no market moves so within one candle


class Told(Snapshot, Protocol):
    """A snapshot with what its writer reckoned itself."""

    @property
    def pnl_given(self) -> bool: ...  # noqa: D102 - the fields are those of the position reader
    @property
    def contracts(self) -> float | None: ...  # noqa: D102
    @property
    def notional(self) -> float | None: ...  # noqa: D102
    @property
    def doubled(self) -> tuple[str, ...]: ...  # noqa: D102


def newest_close(bars: Bars | None) -> float:
    """Give the newest close that is a price; NaN without one."""
    if bars is None:
        return math.nan
    closes = bars.close[-SWING_CANDLES:].tolist()  # two numbers: arrays would cost ten times as much
    return next((close for close in reversed(closes) if 0 < close < math.inf), math.nan)


def in_other_units(position: Snapshot, close: float) -> bool:
    """Whether entry and mark agree with each other and both are far from the candles."""
    ratios = (position.entry_price / close, position.current_price / close, position.current_price / position.entry_price)
    far = all(ratio > UNITS_FACTOR for ratio in ratios[:2]) or all(ratio < 1 / UNITS_FACTOR for ratio in ratios[:2])
    return far and 1 / UNITS_FACTOR < ratios[2] < UNITS_FACTOR


def contradictions(
    position: Told, expected_pnl: float, contract: Contract, bars: Bars | None, collar_pct: float
) -> dict[str, str]:
    """Name the numbers that contradict each other.

    Parameters
    ----------
    position : Snapshot
        The snapshot.
    expected_pnl : float
        Profit that follows from entry, mark and size, quote units.
    contract : Contract
        What one unit of its size is.
    bars : Bars or None
        Closed candles in the prices of the position; None when there are none to compare with.
    collar_pct : float
        Share by which the mark may be away from the newest close.

    Returns
    -------
    dict
        ``profit``, ``notional``, ``mark``, ``entry`` and ``doubled`` to what is wrong with it, in words; empty when all belong
        together.
    """
    faults = {}
    close, mark, qty = newest_close(bars), position.current_price, position.qty
    swing = min(_swing(bars), collar_pct)
    worth = max(mark, position.entry_price) * (qty or 1.0)
    if position.pnl_given and not (
        abs(position.unrealized_pnl - expected_pnl) <= (PROFIT_SLACK + swing) * worth + PROFIT_SLACK_REL * abs(expected_pnl)
    ):
        size = f" x {qty:.6g}" if qty is not None else ", per unit,"
        prices = f"({mark:.6g} - {position.entry_price:.6g})"
        faults["profit"] = f"unrealized_pnl {position.unrealized_pnl:.6g} is not {prices}{size} = {expected_pnl:.6g}"
    if position.notional is not None and position.contracts is not None:
        worths = {contract.notional(position.contracts, price) for price in (mark, position.entry_price)}
        if contract.inverse:  # some give it in coins
            worths |= {contract.base_qty(position.contracts, price) for price in (mark, position.entry_price)}
        if not any(abs(position.notional - one) <= (NOTIONAL_SLACK + swing) * one for one in worths):
            worth_text = f"{contract.notional(position.contracts, mark):.6g}"
            faults["notional"] = (
                f"notional {position.notional:.6g} is not size {position.contracts:.6g} at {mark:.6g} = {worth_text}"
            )
    if not math.isnan(close) and not abs(mark / close - 1) <= collar_pct:
        units = "; other units? See PRICE_SCALES and CANDLES_FROM" if in_other_units(position, close) else ""
        faults["mark"] = f"mark {mark:.6g} is {mark / close:.6g} times the newest close {close:.6g}{units}"
    if not 1 / ENTRY_FACTOR < position.entry_price / mark < ENTRY_FACTOR:
        faults["entry"] = f"entry_price {position.entry_price:.6g} is {position.entry_price / mark:.6g} times the mark {mark:.6g}"
    if position.doubled:
        faults["doubled"] = "; ".join(position.doubled)
    return faults


def _swing(bars: Bars | None) -> float:
    """Give how far the market went within the last candles, as a share of the price."""
    if bars is None or not len(bars.close):
        return 0.0
    highs, lows = bars.high[-SWING_CANDLES:].tolist(), bars.low[-SWING_CANDLES:].tolist()
    fit = [(high, low) for high, low in zip(highs, lows, strict=True) if 0 < low <= high < math.inf]
    return max(high for high, _ in fit) / min(low for _, low in fit) - 1 if fit else 0.0
