"""Which settings of the environment win over a profile, and what is in force when they have."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quantum_core.kernels.theta import ThetaError
from quantum_core.profiles.profile import Profile

if TYPE_CHECKING:
    from quantum_core.settings import Settings

WINS_OVER: Mapping[str, tuple[str, ...]] = MappingProxyType(  # setting -> parameters it stands for
    {
        "price_collar_pct": ("tracking.collar_pct",),
        "sl_ratchet": ("tracking.sl_ratchet",),
        "fallback_stop_pct": ("harvest.fallback_stop_pct",),
        "p31_min_conf": ("allocation.min_confidence", "permit_hint.min_confidence"),
        "p31_stale_sec": ("allocation.max_age_sec",),
        "p31_min_mult": ("allocation.min_mult",),
        "p31_max_mult": ("allocation.max_mult",),
        "p31_scale": ("allocation.scale",),
        "p31_base": ("allocation.base",),
        "p31_downsize_threshold": ("permit_hint.downsize_threshold",),
        "p31_min_factor": ("permit_hint.min_factor",),
        "p31_max_extra_cooldown_sec": ("permit_hint.max_extra_cooldown_sec",),
        "p31_eff_ttl_sec": ("permit_hint.max_age_sec",),
        "gov_max_exec_per_hour": ("governor.max_exec_per_hour",),
        "gov_max_exec_per_5min": ("governor.max_exec_per_5min",),
        "gov_max_reduce_notional_per_day_usd": ("governor.max_notional_per_day_usd",),
        "gov_max_reduce_qty_per_day": ("governor.max_qty_per_day",),
        "gov_max_closes_per_hour": ("governor.max_closes_per_hour",),
        "gov_max_closes_per_5min": ("governor.max_closes_per_5min",),
        "gov_max_close_notional_per_day_usd": ("governor.max_close_notional_per_day_usd",),
        "gov_max_close_qty_per_day": ("governor.max_close_qty_per_day",),
        "gov_auto_disarm": ("governor.auto_disarm",),
        "gov_bursts_to_disarm": ("governor.bursts_to_disarm",),
        "gov_errors_to_disarm": ("governor.errors_to_disarm",),
        "gov_kill_score_critical": ("governor.kill_score_critical",),
        "gov_max_data_age_sec": ("governor.max_data_age_sec",),
    }
)


class DoesNotFitError(ValueError):
    """Profile and settings contradict each other; the text names both."""


def set_by_environment(settings: Settings) -> dict[str, Any]:
    """Give the parameters that settings stand for, by dotted path, where the environment (or a caller) has set one."""
    given = settings.model_fields_set
    return {
        path: getattr(settings, name)
        for name, paths in WINS_OVER.items()
        if name in given and getattr(settings, name) is not None
        for path in paths
    }


def in_force(profile: Profile, settings: Settings) -> Profile:
    """Give a profile as it is in force: settings that are set win over it, for every symbol.

    Raises
    ------
    DoesNotFitError
        The two contradict each other.
    """
    by_section: dict[str, dict[str, Any]] = {}
    for path, value in set_by_environment(settings).items():
        section, _, name = path.partition(".")
        by_section.setdefault(section, {})[name] = value
    try:
        profile = profile.changed(by_section) if by_section else profile
    except ThetaError as error:
        msg = f"profile {profile.name} with the settings of the environment: {error}"
        raise DoesNotFitError(msg) from None
    if profile.candles_required > settings.marketstate_window_size:
        msg = (
            f"profile {profile.name} needs {profile.candles_required} candles, and MARKETSTATE_WINDOW_SIZE reads "
            f"{settings.marketstate_window_size}; set it to {profile.candles_required} or more"
        )
        raise DoesNotFitError(msg)
    return profile


def warnings_of(profile: Profile, settings: Settings) -> list[str]:
    """Say what is unusual about a profile under these settings."""
    meant = profile.candle_interval_sec
    if meant is None or meant == settings.candle_interval_sec:
        return []
    return [
        f"profile {profile.name} is meant for candles of {meant} s, and CANDLE_INTERVAL_SEC is {settings.candle_interval_sec}"
    ]
