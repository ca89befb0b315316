"""What differs between two profiles, and which of it loosens a safety limit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from quantum_core.contracts.schema import ACCOUNT
from quantum_core.kernels.governor.limits import CLOSE_LIMITS, DEFAULTS
from quantum_core.profiles.profile import Profile, flat_parameters

Looser = Literal["larger", "smaller", "off"]
LOOSER: Mapping[str, Looser] = MappingProxyType(  # safety limit -> in which direction it lets more through
    {
        "governor.max_data_age_sec": "larger",
        "governor.kill_score_critical": "larger",
        "governor.max_exec_per_hour": "larger",
        "governor.max_exec_per_5min": "larger",
        "governor.max_notional_per_day_usd": "larger",
        "governor.max_qty_per_day": "larger",
        "governor.max_closes_per_hour": "larger",
        "governor.max_closes_per_5min": "larger",
        "governor.max_close_notional_per_day_usd": "larger",
        "governor.max_close_qty_per_day": "larger",
        "governor.auto_disarm": "off",
        "governor.bursts_to_disarm": "larger",
        "governor.errors_to_disarm": "larger",
        "risk_guard.equity_max_age_sec": "larger",
        "risk_guard.clock_ahead_max_sec": "larger",
        "risk_guard.daily_loss_max": "larger",
        "risk_guard.drawdown_max": "larger",
        "risk_guard.emergency_drawdown_max": "larger",
        "risk_guard.losses_max": "larger",
        "risk_guard.equity_stale_sec": "smaller",
        "risk_guard.daily_loss_sec": "smaller",
        "risk_guard.drawdown_sec": "smaller",
        "risk_guard.emergency_flatten_sec": "smaller",
        "risk_guard.consec_loss_sec": "smaller",
        "tracking.collar_pct": "larger",
    }
)
AS_OPENINGS = {f"governor.{closes}": f"governor.{opens}" for opens, closes in CLOSE_LIMITS.items()}  # where it is not set


class Difference(NamedTuple):
    """One parameter that two profiles have differently.

    Attributes
    ----------
    symbol
        Whose it is; empty for all symbols that have none of their own.
    path
        Section and name, with dots.
    before, after
        Its value; ``None`` where it is not set.
    loosened
        Whether the second lets more through than the first.
    """

    symbol: str
    path: str
    before: Any
    after: Any
    loosened: bool


def differences(before: Profile, after: Profile) -> list[Difference]:
    """List what differs: first what holds for all symbols, then for a symbol what it has otherwise than all.

    Parameters
    ----------
    before, after
        Any two profiles.
    """
    changes = _of_symbol(before, after, ACCOUNT)
    of_all = {(one.path, str(one.before), str(one.after)) for one in changes}
    for symbol in sorted({*before.symbols, *after.symbols}):
        own = _of_symbol(before, after, symbol)
        changes += [one for one in own if (one.path, str(one.before), str(one.after)) not in of_all]
    return changes


def loosened(before: Profile, after: Profile) -> list[Difference]:
    """List the safety limits that the second profile loosens, for all symbols or for one."""
    return [one for one in differences(before, after) if one.loosened]


def _of_symbol(before: Profile, after: Profile, symbol: str) -> list[Difference]:
    was, now = flat_parameters(before, symbol), flat_parameters(after, symbol)
    name = "" if symbol == ACCOUNT else symbol
    paths = [*now, *(path for path in was if path not in now)]
    changed = [path for path in paths if was.get(path) != now.get(path)]
    follow = [path for path, opens in AS_OPENINGS.items() if path not in was and path not in now and opens in changed]
    changes = [(path, was.get(path), now.get(path)) for path in changed]
    changes += [(path, _limit(was, path), _limit(now, path)) for path in follow]
    return [
        Difference(name, path, one, another, _is_looser(path, _limit(was, path), _limit(now, path)))
        for path, one, another in changes
    ]


def _limit(parameters: Mapping[str, Any], path: str) -> Any:
    """Give what a limit is in effect."""
    if path in parameters or path not in AS_OPENINGS:
        return parameters.get(path)
    opens = AS_OPENINGS[path]
    return parameters[opens] or getattr(DEFAULTS, opens.partition(".")[2])  # that nothing is opened leaves closes as they are


def _is_looser(path: str, before: Any, after: Any) -> bool:
    match LOOSER.get(path):
        case "larger":
            return bool(after > before)
        case "smaller":
            return bool(after < before)
        case "off":
            return bool(before and not after)
        case _:
            return False
