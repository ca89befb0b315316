"""The governor's gates: may this plan be executed? First failure wins; unknown means no.

Here belong the order of the gates and their reasons, in one table. Reading the inputs, counting permits already granted and
recording the decision stay out.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from quantum_assets.kernels.columns import Bools, Floats, Labels

CLOSING_ACTIONS = ("FULL_CLOSE_PROPOSED", "PARTIAL_75", "PARTIAL_50", "PARTIAL_25", "CLOSE")  # all else opens risk
CLOCK_SKEW_SEC = 5.0  # s, how far ahead of our clock a writer's may be; more is no proof of freshness
NON_LIVE = ("replay", "synthetic", "example")


@dataclasses.dataclass(frozen=True)
class GovernorTheta:
    """Limits of the gates, defaults of spec section 7."""

    max_data_age_sec: float = 120.0  # s, age from which data opens nothing
    kill_score_critical: float = 0.8  # kill score from which nothing is opened
    allow_synthetic: bool = False  # whether non-live data may earn permits


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known for each plan, one entry per plan; ages in seconds, NaN where the input is missing."""

    closing: Bools
    unreadable: Bools  # an input this plan needs could not be read
    kill_switch: Bools
    market_state_age_sec: Floats
    harvest_proposal_age_sec: Floats
    position_age_sec: Floats
    non_live: Bools  # any input is labelled replay, example or synthetic
    kill_score: Floats  # larger of the plan's and the harvest proposal's, NaN where neither has one


def _too_old(age: Floats, theta: GovernorTheta) -> Bools:
    return ~((age >= -CLOCK_SKEW_SEC) & (age <= theta.max_data_age_sec))  # NaN, a missing input, is too old


@dataclasses.dataclass(frozen=True)
class Gate:
    """One gate: its reason, whether closing plans must pass it, and when it shuts."""

    reason: str
    shuts_closings: bool
    shuts: Callable[[Evidence, GovernorTheta], Bools]


GATES = (
    Gate("evaluation_error", shuts_closings=True, shuts=lambda e, _: e.unreadable),
    Gate("kill_switch_active", shuts_closings=False, shuts=lambda e, _: e.kill_switch),
    Gate("stale_market_state", shuts_closings=False, shuts=lambda e, t: _too_old(e.market_state_age_sec, t)),
    Gate("stale_harvest_proposal", shuts_closings=False, shuts=lambda e, t: _too_old(e.harvest_proposal_age_sec, t)),
    Gate("stale_position", shuts_closings=False, shuts=lambda e, t: _too_old(e.position_age_sec, t)),
    Gate("synthetic_data", shuts_closings=True, shuts=lambda e, t: e.non_live & (not t.allow_synthetic)),
    Gate("kill_score_critical_non_close", shuts_closings=False, shuts=lambda e, t: ~(e.kill_score < t.kill_score_critical)),
)


def is_closing(action: str, *, reduce_only: bool) -> bool:
    """Tell whether a plan reduces risk (spec section 7)."""
    return reduce_only or action in CLOSING_ACTIONS


def decide(evidence: Evidence, theta: GovernorTheta = GovernorTheta()) -> Labels:
    """Name the first gate that is shut for each plan; empty where all are open.

    Parameters
    ----------
    evidence : Evidence
        Columns of shape (n,).
    theta : GovernorTheta
        Limits; an age of exactly ``max_data_age_sec`` passes, a kill score of exactly ``kill_score_critical`` does not.

    Returns
    -------
    object array, shape (n,)
        Reason of the block, or the empty string.

    References
    ----------
    Spec section 7.
    """
    shut = [gate.shuts(evidence, theta) & (gate.shuts_closings | ~evidence.closing) for gate in GATES]
    return np.select(shut, [gate.reason for gate in GATES], default="").astype(object)
