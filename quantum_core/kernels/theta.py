"""Parameters of the kernels: bounded defaults, and the deep merge that overrides them.

Here belongs how a parameter is declared, bounded and overridden. The parameters themselves stay with their kernel.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any, Self


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
) -> Any:
    """Declare one parameter of a `Theta`.

    Parameters
    ----------
    default : int, float, bool, str or tuple
        Default; its type is the type an override must have (an int passes for a float, a list for a tuple).
    meaning : str
        What the number means, with its unit.
    low, high : float
        Inclusive bounds, of every element for a tuple.
    choices : tuple of str
        The closed set of a text parameter.
    """
    metadata = {"meaning": meaning, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Theta:
    """Base of the parameter sets: frozen, checked when built, overridden by a nested mapping."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.metadata:
                value = _accepted(field.name, getattr(self, field.name), field.default, field.metadata)
                object.__setattr__(self, field.name, value)

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
    known = {field.name for field in dataclasses.fields(theta)}
    merged: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            raise ThetaError(path=f"{prefix}{name}", seen=value, accepted=f"one of the names {', '.join(sorted(known))}")
        current = getattr(theta, name)
        merged[name] = _merge(current, value, f"{prefix}{name}.") if isinstance(current, Theta) else value
    try:
        return dataclasses.replace(theta, **merged)
    except ThetaError as error:
        # A parameter set does not know where it hangs in the tree; the merge does.
        error.args = (error.args[0].replace("theta ", f"theta {prefix}", 1),)
        error.path = f"{prefix}{error.path}"
        raise


def _accepted(name: str, value: Any, default: Any, bounds: Mapping[str, Any]) -> Any:
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not value:
            raise ThetaError(name, value, f"a non-empty list of {type(default[0]).__name__}")
        return tuple(_accepted(f"{name}[{i}]", item, default[0], bounds) for i, item in enumerate(value))
    if isinstance(default, bool | str):
        accepted = f"one of {', '.join(bounds['choices'])}" if bounds["choices"] else type(default).__name__
        if type(value) is not type(default) or (bounds["choices"] and value not in bounds["choices"]):
            raise ThetaError(name, value, accepted)
        return value
    kind = int if isinstance(default, int) else float
    accepted = f"{kind.__name__} from {bounds['low']:g} to {bounds['high']:g}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind is float and isinstance(value, float) and math.isfinite(value))):
        raise ThetaError(name, value, accepted)
    if not bounds["low"] <= value <= bounds["high"]:
        raise ThetaError(name, value, accepted)
    return kind(value)
