"""Parameters of the kernels: bounded defaults, the deep merge that overrides them, and columns of one value per row.

Here belongs how a parameter is declared, bounded, overridden and given per row. The parameters themselves stay with their kernel.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy.typing as npt


class ThetaError(ValueError):
    """A parameter is unknown, of the wrong type or out of range; the text names its path."""

    def __init__(self, path: str, seen: object, accepted: str) -> None:
        super().__init__(f"theta {path} is {seen!r}: accepted is {accepted}")
        self.path = path


def parameter(
    default: Any,
    meaning: str,
    *,
    low: float = -sys.float_info.max,
    high: float = sys.float_info.max,
    choices: tuple[str, ...] = (),
    kind: type | None = None,
    added: bool = False,
) -> Any:
    """Declare one parameter of a `Theta`.

    Parameters
    ----------
    default : int, float, bool, str, tuple or None
        Default; its type is the type an override must have (an int passes for a float, a list for a tuple).
    meaning : str
        What the number means, with its unit.
    low, high : float
        Inclusive bounds, of every element for a tuple.
    choices : tuple of str
        The closed set of a text parameter.
    kind : type
        Type of a number that is not set by default, whose default is None.
    added : bool
        Whether it came after the first specification: at its default it changes nothing, and no fingerprint.
    """
    bounds = {"low": low, "high": high, "choices": choices, "kind": kind or type(default)}
    metadata = {"meaning": meaning, "added": added, **bounds}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Theta:
    """Base of the parameter sets: frozen, checked when built, overridden by a nested mapping.

    Every parameter is a scalar, or an array of shape (n,) with one value per row of the kernel's other inputs (of dtype object
    for text and tuples).
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.metadata:
                value = _accepted(field.name, getattr(self, field.name), field.default, field.metadata)
                object.__setattr__(self, field.name, value)

    @classmethod
    def by_row(cls, thetas: Sequence[Self]) -> Self:
        """Join the parameters of single rows into one set: a scalar where all rows agree, else a column.

        Raises
        ------
        ValueError
            There is no row.
        """
        if not thetas:
            msg = "no rows: one set of parameters per row"
            raise ValueError(msg)
        if all(theta is thetas[0] for theta in thetas):
            return thetas[0]
        joined: Self = _joined(thetas)
        return joined

    def take(self, rows: "npt.NDArray[Any]") -> Self:
        """Return the parameters of the rows of a boolean mask or an index array; what is the same in all of them is a scalar."""
        changes = {}
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, Theta):
                changes[field.name] = value.take(rows)
            elif is_column(value):
                changes[field.name] = _column_or_scalar(value[rows].tolist())
        return dataclasses.replace(self, **changes) if changes else self

    def per_row(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Give the values of some parameters, row by row; once where none of them is a column."""
        values = [getattr(self, name) for name in names]
        if not any(is_column(value) for value in values):
            yield tuple(values)
            return
        n_rows = max(len(value) for value in values if is_column(value))
        columns = [value.tolist() if is_column(value) else [value] * n_rows for value in values]
        yield from zip(*columns, strict=True)

    def override(self, changes: Mapping[str, Any] | None) -> Self:
        """Return a copy with `changes` merged into it, level by level.

        Parameters
        ----------
        changes : mapping or None
            Nested mapping of parameter names to new values, e.g. ``{"vol": {"window": 128}}``. None changes nothing.

        Raises
        ------
        ThetaError
            For an unknown name, a wrong type or a value out of range; a ValueError that names the whole path.
        """
        merged: Self = _merge(self, changes or {}, "")
        return merged


def _merge(theta: Any, changes: object, prefix: str) -> Any:
    if not isinstance(changes, Mapping):
        raise ThetaError(prefix.rstrip("."), changes, "a mapping of parameter names to values")
    names = {field.name for field in dataclasses.fields(theta)}
    merged: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in names:
            raise ThetaError(path=f"{prefix}{name}", seen=value, accepted=f"one of the names {', '.join(sorted(names))}")
        current = getattr(theta, name)
        merged[name] = _merge(current, value, f"{prefix}{name}.") if isinstance(current, Theta) else value
    try:
        return dataclasses.replace(theta, **merged)
    except ThetaError as error:
        # A parameter set does not know where it hangs in the tree; the merge does.
        error.args = (error.args[0].replace("theta ", f"theta {prefix}", 1),)
        error.path = f"{prefix}{error.path}"
        raise


def accepted_value(field: dataclasses.Field[Any], value: Any) -> Any:
    """Give the value a parameter would take, whatever the others are.

    Raises
    ------
    ThetaError
        Of the wrong type, or out of range.
    """
    return _accepted(field.name, value, field.default, field.metadata)


def is_column(value: object) -> bool:
    """Whether a parameter has one value per row. No class is asked: settings need parameters, and no numpy."""
    return type(value).__name__ == "ndarray"


def _joined(thetas: Sequence[Any]) -> Any:
    first = thetas[0]
    values = {field.name: [getattr(theta, field.name) for theta in thetas] for field in dataclasses.fields(first)}
    return dataclasses.replace(
        first,
        **{name: _joined(each) if isinstance(each[0], Theta) else _column_or_scalar(each) for name, each in values.items()},
    )


def _column_or_scalar(values: list[Any]) -> Any:
    import numpy as np

    if not values or all(value == values[0] for value in values):
        return values[0] if values else np.array([])
    if isinstance(values[0], bool | int | float) and None not in values:
        return np.array(values)
    column = np.empty(len(values), dtype=object)  # a list of tuples would become a matrix
    column[:] = values
    return column


def _accepted(name: str, value: Any, default: Any, bounds: Mapping[str, Any]) -> Any:
    if is_column(value):
        import numpy as np

        if value.ndim != 1:
            raise ThetaError(name, value, "a scalar, or one value per row")
        rows = [_accepted(f"{name}[{row}]", each, default, bounds) for row, each in enumerate(value.tolist())]
        column = np.empty(len(rows), dtype=value.dtype)
        column[:] = rows
        column.flags.writeable = False
        return column
    if default is None:
        return None if value is None else _number(name, value, bounds["kind"], bounds)
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not value:
            raise ThetaError(name, value, f"a non-empty list of {type(default[0]).__name__}")
        return tuple(_accepted(f"{name}[{i}]", item, default[0], bounds) for i, item in enumerate(value))
    if isinstance(default, bool | str):
        accepted = f"one of {', '.join(bounds['choices'])}" if bounds["choices"] else type(default).__name__
        if type(value) is not type(default) or (bounds["choices"] and value not in bounds["choices"]):
            raise ThetaError(name, value, accepted)
        return value
    return _number(name, value, int if isinstance(default, int) else float, bounds)


def _number(name: str, value: Any, kind: type, bounds: Mapping[str, Any]) -> Any:
    accepted = f"{kind.__name__} from {bounds['low']:g} to {bounds['high']:g}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind is float and isinstance(value, float) and math.isfinite(value))):
        raise ThetaError(name, value, accepted)
    if not bounds["low"] <= value <= bounds["high"]:
        raise ThetaError(name, value, accepted)
    return kind(value)
