"""What one unit of a position's size is: a base unit, a contract of several, or one worth a fixed sum of the quote currency.

Here belongs the arithmetic between sizes, coins and worth. Which symbol is counted how is a setting.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Contract:
    """One unit of size.

    Attributes
    ----------
    size
        Base units in one; of an inverse contract quote units, > 0.
    inverse
        Whether it is worth a fixed sum of the quote currency and pays profit in base units.
    """

    size: float = 1.0
    inverse: bool = False

    def base_qty(self, contracts: float, entry_price: float) -> float:
        """Give the base units of a size; of inverse contracts those it was worth at entry.

        With these, profit in quote units is ``(price - entry) x qty`` for both: an inverse contract pays
        ``size (1/entry - 1/price)`` coins, worth ``size/entry (price - entry)`` at that price.
        """
        return contracts * self.size / (entry_price if self.inverse else 1.0)

    def notional(self, contracts: float, price: float) -> float:
        """Give the worth of a size at a price, quote units."""
        return contracts * self.size * (1.0 if self.inverse else price)


BASE_UNITS = Contract()
