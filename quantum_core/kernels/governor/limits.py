"""The limits of the governor's gates: their defaults, here and nowhere else, and what closes are limited by."""

import dataclasses
import sys

from quantum_core.kernels.theta import Theta, parameter

LEAST = sys.float_info.min  # more than nothing


@dataclasses.dataclass(frozen=True)
class Limits(Theta):
    """What a profile says of the gates, defaults of docs/spec.md#7-trade-intents-and-the-governor."""

    max_data_age_sec: float = parameter(120.0, "age beyond which data opens nothing, seconds", low=1, high=604_800)
    kill_score_critical: float = parameter(0.8, "kill score from which nothing is opened", low=0, high=1)
    max_exec_per_hour: int = parameter(3, "openings per symbol in 3600 s", low=0, high=100)
    max_exec_per_5min: int = parameter(2, "openings per symbol in 300 s", low=0, high=100)
    max_notional_per_day_usd: float = parameter(5000.0, "USD of openings per symbol and UTC day", low=LEAST)
    max_qty_per_day: float = parameter(0.02, "base units of openings per symbol and UTC day, without a known price", low=LEAST)
    max_closes_per_hour: int | None = parameter(None, "closes per symbol in 3600 s; as for openings", low=0, high=100, kind=int)
    max_closes_per_5min: int | None = parameter(None, "closes per symbol in 300 s; as for openings", low=0, high=100, kind=int)
    max_close_notional_per_day_usd: float | None = parameter(
        None, "USD of closes per symbol and UTC day; as for openings", low=LEAST, kind=float
    )
    max_close_qty_per_day: float | None = parameter(
        None, "base units of closes per symbol and UTC day, without a known price; as for openings", low=LEAST, kind=float
    )


@dataclasses.dataclass(frozen=True)
class GovernorLimits(Limits):
    """Limits of the gates, and when the governor disarms by itself."""

    auto_disarm: bool = parameter(default=True, meaning="bursts of openings and errors disarm a planner, a symbol or all")
    bursts_to_disarm: int = parameter(1, "openings of a planner beyond the burst limit in a UTC day", low=1, high=10_000)
    errors_to_disarm: int = parameter(5, "plans of a planner in a UTC day that could not be evaluated", low=1, high=10_000)


@dataclasses.dataclass(frozen=True)
class GovernorTheta(Limits):
    """What the gates judge by: the limits, and what follows from other settings."""

    max_close_age_sec: float = parameter(120.0, "age of the newest close beyond which nothing is opened, seconds", low=0)
    allow_synthetic: bool = parameter(default=False, meaning="whether non-live data may earn permits")

    def resolved(self) -> "GovernorTheta":
        """Give the same with a number for every limit of closes: where none is set, that of openings.

        Settings need not name them, and records from before closes had limits of their own lack them.
        """
        unset = {own: getattr(self, name) for name, own in CLOSE_LIMITS.items() if getattr(self, own) is None}
        return dataclasses.replace(self, **unset)

    def of_closes(self) -> "GovernorTheta":
        """Give the limits that closes are counted against, in the place of those of openings."""
        all_set = self.resolved()
        return dataclasses.replace(all_set, **{name: getattr(all_set, own) for name, own in CLOSE_LIMITS.items()})


CLOSE_LIMITS = {  # limit of openings -> the same of closes
    "max_exec_per_hour": "max_closes_per_hour",
    "max_exec_per_5min": "max_closes_per_5min",
    "max_notional_per_day_usd": "max_close_notional_per_day_usd",
    "max_qty_per_day": "max_close_qty_per_day",
}
DEFAULTS = GovernorTheta()
HOUR_SEC, BURST_SEC = 3600, 300  # windows in which permits are counted
