"""Columns: what the kernels share about rows that are symbols.

Here belong array types, the market and position columns every proposal reads, their row checks, and the small
array functions more than one kernel needs. A formula of one kernel stays in that kernel.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from quantum_core.kernels import HUGE, TINY

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.object_]
ReasonCodes = list[tuple[str, ...]]

REGIMES = ("trend", "mr", "chop")  # order of every score, weight and probability triple; the first wins a tie

_RULES: dict[str, Callable[[Floats], Bools]] = {
    "finite": lambda x: ~(np.isnan(x) | np.isinf(x)),
    "in [0, 1]": lambda x: (x >= 0) & (x <= 1),
    "finite and >= 0": lambda x: (x >= 0) & (x < np.inf),
    "finite and > 0": lambda x: (x > 0) & (x < np.inf),
    "finite and > 0, or NaN for none": lambda x: np.isnan(x) | ((x > 0) & (x < np.inf)),
    "finite and >= 0, or NaN for none": lambda x: np.isnan(x) | ((x >= 0) & (x < np.inf)),
    "finite, or NaN for none": lambda x: ~np.isinf(x),
    f"in [{TINY:g}, {HUGE:g}]": lambda x: (x >= TINY) & (x <= HUGE),
    f"in [{TINY:g}, {HUGE:g}], or NaN for none": lambda x: np.isnan(x) | ((x >= TINY) & (x <= HUGE)),
    f"in [-{HUGE:g}, {HUGE:g}]": lambda x: np.abs(x) <= HUGE,
}
# What every cell of a column must be: the metadata of its dataclass field.
(
    FINITE,
    SHARE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_NONE,
    NOT_NEGATIVE_OR_NONE,
    FINITE_OR_NONE,
    PRICE,
    PRICE_OR_NONE,
    AMOUNT,
) = ({"rule": rule} for rule in _RULES)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Base of the inputs: 1-d arrays of one length, one entry per symbol."""

    def __post_init__(self) -> None:
        first = dataclasses.fields(self)[0].name
        for field in dataclasses.fields(self):
            shape = np.shape(getattr(self, field.name))
            if shape != (len(self),):
                message = f"{field.name} has shape {shape}: expected ({len(self)},), one entry per symbol like {first}"
                raise ValueError(message)

    def __len__(self) -> int:
        return int(np.size(getattr(self, dataclasses.fields(self)[0].name)))

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Self:
        """Return the rows of a boolean mask or an index array."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def faults(self) -> list[str | None]:
        """Name what is wrong with each row: the first column that breaks its rule, or None.

        A caller drops faulty rows by name with `take`; a kernel that is handed one raises (see `require_sound`).
        """
        found: list[str | None] = [None] * len(self)
        for field in reversed(dataclasses.fields(self)):
            if "rule" in field.metadata:
                values = getattr(self, field.name)
                for row in np.flatnonzero(~_RULES[field.metadata["rule"]](values)):
                    found[row] = f"{field.name} is {values[row]}: must be {field.metadata['rule']}"
        return found


@dataclasses.dataclass(frozen=True)
class Market(Columns):
    """Market state per symbol, as the market-state kernel computed it."""

    sigma: Floats = dataclasses.field(metadata=NOT_NEGATIVE)  # robust volatility per candle, log return
    ts: Floats = dataclasses.field(metadata=NOT_NEGATIVE)  # trend strength |mu| / sigma
    p_trend: Floats = dataclasses.field(metadata=SHARE)  # probability of the trend regime
    p_mr: Floats = dataclasses.field(metadata=SHARE)  # probability of the mean-reverting regime
    p_chop: Floats = dataclasses.field(metadata=SHARE)  # probability of the chop regime
    tail_move: Floats = dataclasses.field(default=None, metadata=NOT_NEGATIVE_OR_NONE)  # type: ignore[arg-type]  # none: all NaN

    def __post_init__(self) -> None:
        if self.tail_move is None:
            object.__setattr__(self, "tail_move", np.full(np.shape(self.sigma), np.nan))
        super().__post_init__()

    def mix(self, trend: float, mr: float, chop: float) -> Floats:
        """Return the expectation of a per-regime number under the regime probabilities."""
        return trend * self.p_trend + mr * self.p_mr + chop * self.p_chop


@dataclasses.dataclass(frozen=True)
class Position(Columns):
    """Open position per symbol; a FLAT symbol has no row."""

    is_long: Bools  # True LONG, False SHORT
    entry_price: Floats = dataclasses.field(metadata=PRICE)  # average entry, price units
    current_price: Floats = dataclasses.field(metadata=PRICE)  # latest mark or close, price units
    peak_price: Floats = dataclasses.field(metadata=PRICE)  # highest since entry, price units
    trough_price: Floats = dataclasses.field(metadata=PRICE)  # lowest since entry, price units
    age_sec: Floats = dataclasses.field(metadata=FINITE)  # seconds since entry
    unrealized_pnl: Floats = dataclasses.field(metadata=AMOUNT)  # per unit, or a total when qty is given
    current_sl: Floats = dataclasses.field(metadata=PRICE_OR_NONE)  # stop in force, NaN when there is none
    qty: Floats = dataclasses.field(metadata=FINITE_OR_NONE)  # signed or absolute size, NaN when unknown

    @property
    def direction(self) -> Floats:
        """+1 for LONG, -1 for SHORT: the sign that lets one formula serve both sides."""
        return np.where(self.is_long, 1.0, -1.0)


def require_sound(**inputs: Columns) -> None:
    """Refuse inputs of unequal length and faulty rows.

    Raises
    ------
    ValueError
        Naming the input, the row, the column and the value.
    """
    lengths = {name: len(columns) for name, columns in inputs.items()}
    if len(set(lengths.values())) > 1:
        message = f"inputs have unequal numbers of rows: {lengths}"
        raise ValueError(message)
    for name, columns in inputs.items():
        for row, fault in enumerate(columns.faults()):
            if fault is not None:
                message = f"{name} row {row}: {fault}; drop faulty rows first (faults, take)"
                raise ValueError(message)


def across(parameter: Any) -> Any:
    """Shape a column of one value per row to meet a matrix whose rows they are; a scalar stays one."""
    return parameter[:, None] if isinstance(parameter, np.ndarray) else parameter


def most_probable(p_trend: Floats, p_mr: Floats, p_chop: Floats) -> Labels:
    """Name the most probable regime per row, lower case; a tie goes to the first of trend, mr, chop."""
    names: Labels = np.array(REGIMES, dtype=object)
    most: Labels = names[np.argmax([p_trend, p_mr, p_chop], axis=0)]
    return most


def regime_softmax(scores: Sequence[Floats], temperature: float) -> tuple[Floats, Floats, Floats]:
    """Turn three score columns into three probability columns that sum to 1."""
    from scipy.special import softmax  # a command that decides a plan again needs the columns, and no scipy

    p_trend, p_mr, p_chop = softmax(np.stack(list(scores)) / temperature, axis=0)
    return p_trend, p_mr, p_chop


def reason_codes(*flags: tuple[Bools, str | Labels]) -> ReasonCodes:
    """Collect, per row, the codes whose flag is set, in the order given; a code may differ from row to row."""
    labels = [np.broadcast_to(np.asarray(code, dtype=object), np.shape(mask)) for mask, code in flags]
    masks = np.stack([mask for mask, _ in flags], axis=1)
    return [
        tuple(str(code) for code, hit in zip(codes, row, strict=True) if hit)
        for codes, row in zip(zip(*labels, strict=True), masks, strict=True)
    ]
