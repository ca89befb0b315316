"""The governor's gates: may this plan be executed? First failure wins; unknown means no.

Here belong the order of the gates and their reasons, in one table. Reading the inputs and recording the decision stay out,
and so does counting: permits are counted by the script that records the decision (``resources/governor/lua/decide.lua``), in
the order of this table.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.columns import Bools, Floats, Labels
from quantum_core.kernels.governor.limits import DEFAULTS, GovernorTheta
from quantum_core.kernels.governor.risk_guard import GUARDS

# These, or reduceOnly, reduce risk; everything else opens.
CLOSING_ACTIONS = ("FULL_CLOSE_PROPOSED", "PARTIAL_75", "PARTIAL_50", "PARTIAL_25", "CLOSE")
ERROR, KILLED, DISARMED, GUARDED = "evaluation_error", "kill_switch_active", "disarmed", "risk_guard_"  # reasons others act on
BURST = "burst_limit_exceeded"
CONFLICT, COLLARED, INCONSISTENT = "position_conflict", "price_collar", "position_inconsistent"
EXCEEDS = "close_exceeds_position"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known for each plan, one entry per plan; ages in seconds, NaN where the input is missing."""

    closing: Bools
    unreadable: Bools  # an input this plan needs could not be read
    kill_switch: Bools
    disarmed: Bools  # the governor has disarmed itself: for all openings, or for those of this planner or symbol
    risk_guard: Labels  # type of the active guard: the first in the order of GUARDS, then unknown ones; or empty
    market_state_age_sec: Floats  # since it was evaluated
    market_close_age_sec: Floats  # of the newest close it was computed from
    market_inactive: Bools  # no volume or one close for long: a price nobody trades at
    harvest_proposal_age_sec: Floats
    position_age_sec: Floats
    flat: Bools  # a source says that there is no position: no harvest proposal is due
    position_unknown: Bools  # no source shows the symbol
    unknown_symbol: Bools  # the symbol is none of SYMBOLS
    position_conflict: Bools  # two positions seem to share the symbol's key
    price_collar: Bools  # a price of the position waits for a candle to confirm it
    position_inconsistent: Bools  # numbers of the position contradict each other
    close_exceeds_position: Bools  # a closing plan of more than is held, or of what nobody holds
    non_live: Bools  # a label of any input, or (for openings) of the account, is none of those known to be live
    kill_score: Floats  # the larger of the plan's and, where a position is open, its harvest proposal's; NaN: neither
    permits_hour: Floats  # permits of the symbol in the last 3600 s, of the plan's kind: openings or closes
    permits_5min: Floats  # the same in the last 300 s
    day_total: Floats  # permitted today, of the plan's kind and in the unit of amount
    amount: Floats  # what the plan adds, in USD or base units, NaN where nobody knows
    in_usd: Bools  # unit of day_total and amount
    position_notional_usd: Floats  # of the position as it stands
    target_usd: Floats  # P2.9 target in force (mode enforce, fresh), NaN where there is none


def _too_old(age: Floats, limit_sec: float) -> Bools:
    return ~((age >= -CLOCK_SKEW_SEC) & (age <= limit_sec))  # NaN, a missing input, is too old


def _stale_market(e: Evidence, theta: GovernorTheta) -> Bools:
    return _too_old(e.market_state_age_sec, theta.max_data_age_sec) | _too_old(e.market_close_age_sec, theta.max_close_age_sec)


def _unknown_symbol(e: Evidence, theta: GovernorTheta) -> Bools:
    # another deployment may serve this symbol: a fresh market state proves it
    return e.unknown_symbol & _too_old(e.market_state_age_sec, theta.max_data_age_sec)


def _kill_score_critical(e: Evidence, theta: GovernorTheta) -> Bools:
    unscored = e.flat & np.isnan(e.kill_score)  # there is nothing that could be scored
    return ~unscored & ~(e.kill_score < theta.kill_score_critical)


def _beyond_day(e: Evidence, theta: GovernorTheta) -> Bools:
    limit = np.where(e.in_usd, _limit(e, theta, "max_notional_per_day_usd"), _limit(e, theta, "max_qty_per_day"))
    return ~(e.day_total + e.amount <= limit)  # an amount nobody knows is too much


def _limit(e: Evidence, theta: GovernorTheta, name: str) -> Floats:
    limits: Floats = np.where(e.closing, getattr(theta.of_closes(), name), getattr(theta, name))
    return limits


def _guard(name: str) -> "Gate":
    return Gate(3, f"{GUARDED}{name}", shuts_closings=False, shuts=lambda e, _: e.risk_guard == name)


@dataclasses.dataclass(frozen=True)
class Gate:
    """One gate: its number, its reason, whether closing plans must pass it, and when it fails.

    Numbers are those of docs/spec.md#7-trade-intents-and-the-governor.
    """

    number: int
    reason: str
    shuts_closings: bool
    shuts: Callable[[Evidence, GovernorTheta], Bools]


GATES = (
    Gate(1, ERROR, shuts_closings=True, shuts=lambda e, _: e.unreadable),
    Gate(2, KILLED, shuts_closings=False, shuts=lambda e, _: e.kill_switch),
    Gate(2, DISARMED, shuts_closings=False, shuts=lambda e, _: e.disarmed),  # the governor's own block
    *map(_guard, GUARDS),
    Gate(3, GUARDED, shuts_closings=False, shuts=lambda e, _: (e.risk_guard != "") & ~np.isin(e.risk_guard, GUARDS)),  # unknown
    Gate(4, "unknown_symbol", shuts_closings=False, shuts=_unknown_symbol),
    Gate(4, "stale_market_state", shuts_closings=False, shuts=_stale_market),
    Gate(4, "market_inactive", shuts_closings=False, shuts=lambda e, _: e.market_inactive),
    Gate(4, "position_unknown", shuts_closings=False, shuts=lambda e, _: e.position_unknown),
    Gate(4, CONFLICT, shuts_closings=False, shuts=lambda e, _: e.position_conflict),
    Gate(4, EXCEEDS, shuts_closings=True, shuts=lambda e, _: e.close_exceeds_position),
    Gate(
        4,
        "stale_harvest_proposal",
        shuts_closings=False,
        shuts=lambda e, t: ~e.flat & _too_old(e.harvest_proposal_age_sec, t.max_data_age_sec),
    ),
    Gate(4, "stale_position", shuts_closings=False, shuts=lambda e, t: _too_old(e.position_age_sec, t.max_data_age_sec)),
    Gate(4, COLLARED, shuts_closings=False, shuts=lambda e, _: e.price_collar),
    Gate(4, INCONSISTENT, shuts_closings=False, shuts=lambda e, _: e.position_inconsistent),
    Gate(5, "synthetic_data", shuts_closings=True, shuts=lambda e, t: e.non_live & (not t.allow_synthetic)),
    Gate(6, "kill_score_critical_non_close", shuts_closings=False, shuts=_kill_score_critical),
    Gate(
        7,
        "hourly_limit_exceeded",
        shuts_closings=True,
        shuts=lambda e, t: ~(e.permits_hour < _limit(e, t, "max_exec_per_hour")),
    ),
    Gate(
        8,
        BURST,
        shuts_closings=True,
        shuts=lambda e, t: ~(e.permits_5min < _limit(e, t, "max_exec_per_5min")),
    ),
    Gate(9, "daily_limit_exceeded", shuts_closings=True, shuts=_beyond_day),
    Gate(
        10,
        "p29_allocation_cap",
        shuts_closings=False,
        shuts=lambda e, _: ~np.isnan(e.target_usd) & ~(e.position_notional_usd <= e.target_usd),  # no target in force: no cap
    ),
)
COUNTED_NUMBERS = range(7, 10)  # judged by the script that records the decision, so that two governors never both see room
SWITCHES = tuple(gate for gate in GATES if gate.number in (2, 3))  # activated at any moment, so read again by the script
BEFORE_COUNTING = tuple(gate for gate in GATES if gate.number < COUNTED_NUMBERS.start)
COUNTED = tuple(gate for gate in GATES if gate.number in COUNTED_NUMBERS)
AFTER_COUNTING = tuple(gate for gate in GATES if gate.number >= COUNTED_NUMBERS.stop)
GATE_OF = {gate.reason: gate.number for gate in GATES}


def gate_reason(reason: str) -> str:
    """Give the reason of the gate that refused for a reason: guards nobody knows share one."""
    return GUARDED if reason.startswith(GUARDED) and reason not in GATE_OF else reason


def is_closing(action: str, *, reduce_only: bool) -> bool:
    """Whether a plan reduces risk (docs/spec.md#7-trade-intents-and-the-governor)."""
    return reduce_only or action in CLOSING_ACTIONS


def decide(evidence: Evidence, theta: GovernorTheta = DEFAULTS, gates: Sequence[Gate] = GATES) -> Labels:
    """Name the first failed gate of each plan; empty where all pass.

    Parameters
    ----------
    evidence : Evidence
        Columns of shape (n,).
    theta : GovernorTheta
        Limits; an age of exactly ``max_data_age_sec`` and an amount that just fills a day pass, a kill score of exactly
        ``kill_score_critical`` and a count that has reached its limit do not.
    gates : sequence of Gate
        Those to be judged, in order.

    Returns
    -------
    object array, shape (n,)
        Reason of the block, or the empty string.

    References
    ----------
    docs/spec.md#7-trade-intents-and-the-governor
    """
    shut = [gate.shuts(evidence, theta) & (gate.shuts_closings | ~evidence.closing) for gate in gates]
    first = np.select(shut, [gate.reason for gate in gates], default="").astype(object)
    named = np.array([f"{GUARDED}{guard}" for guard in evidence.risk_guard], dtype=object)
    return np.where(first == GUARDED, named, first)
