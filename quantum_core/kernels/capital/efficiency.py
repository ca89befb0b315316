"""Capital efficiency: how well the capital of each symbol has worked recently.

Here belongs the efficiency formula and the state it carries from one evaluation to the next. Where attribution,
targets and executions are read, and where the state is kept, stays out.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quantum_core.kernels.columns import (
    FINITE,
    FINITE_OR_NONE,
    NOT_NEGATIVE,
    NOT_NEGATIVE_OR_NONE,
    SHARE,
    Bools,
    Columns,
    Floats,
    Labels,
    reason_codes,
    require_sound,
)
from quantum_core.kernels.theta import Theta, parameter

STATUSES = ("ok", "missing", "stale", "error")  # of an input: error is a failed read, never the same as missing


@dataclasses.dataclass(frozen=True)
class EfficiencyTheta(Theta):
    """Parameters of the efficiency kernel, defaults of docs/spec.md#6-efficiency-and-targets."""

    pnl_alpha: float = parameter(0.2, "weight of the newest execution in volatility and drawdown", low=0, high=1)
    score_alpha: float = parameter(0.25, "weight of the newest score in its EWMA", low=0, high=1)
    hold_full_sec: float = parameter(3600.0, "idle time at which the hold penalty is full, seconds", low=1)
    volatility_weight: float = parameter(0.8, "cost of volatility", low=0)
    drawdown_weight: float = parameter(1.2, "cost of drawdown", low=0)
    hold_weight: float = parameter(0.6, "cost of idle time", low=0)
    increase_ewma: float = parameter(0.65, "score EWMA from which more capital is due", low=0, high=1)
    increase_confidence: float = parameter(0.5, "attribution confidence needed for it", low=0, high=1)
    decrease_ewma: float = parameter(0.35, "score EWMA up to which less capital is due", low=0, high=1)
    decrease_drawdown: float = parameter(0.5, "drawdown per target above which less capital is due", low=0)
    flagged_confidence: float = parameter(0.5, "factor on the confidence when an input is flagged", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class EfficiencyState(Columns):
    """What one evaluation hands to the next."""

    volatility_ewma: Floats = dataclasses.field(metadata=NOT_NEGATIVE)  # EWMA of |pnl|, USD
    dd_proxy: Floats = dataclasses.field(metadata=NOT_NEGATIVE)  # EWMA of losses, USD
    efficiency_ewma: Floats = dataclasses.field(metadata=SHARE)  # EWMA of the score
    last_performance_factor: Floats = dataclasses.field(metadata=FINITE)  # last known good
    last_target_usd: Floats = dataclasses.field(metadata=NOT_NEGATIVE)  # last known good

    @classmethod
    def initial(cls, n_symbols: int) -> "EfficiencyState":
        """State of symbols never evaluated: no volatility, score .5, performance .5, target 100 USD."""
        defaults = (0.0, 0.0, 0.5, 0.5, 100.0)
        return cls(*(np.full(n_symbols, value) for value in defaults))


@dataclasses.dataclass(frozen=True)
class EfficiencyInputs(Columns):
    """Attribution (P3.0) and target (P2.9) per symbol; numbers are only read where the status is ok or stale."""

    attribution_status: Labels  # one of STATUSES
    performance_factor: Floats = dataclasses.field(metadata=FINITE_OR_NONE)  # dimensionless, clipped to [0, 1]
    attribution_confidence: Floats = dataclasses.field(metadata=FINITE_OR_NONE)
    target_status: Labels  # one of STATUSES
    target_usd: Floats = dataclasses.field(metadata=NOT_NEGATIVE_OR_NONE)
    target_confidence: Floats = dataclasses.field(metadata=FINITE_OR_NONE)
    seconds_since_last_execution: Floats = dataclasses.field(metadata=FINITE_OR_NONE)  # NaN for never


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """Efficiency per symbol, and the state for the next evaluation."""

    efficiency_score: Floats  # in [0, 1]
    efficiency_raw: Floats  # in [0, 1]
    efficiency_ewma: Floats  # in [0, 1]
    capital_pressure: Labels  # INCREASE, DECREASE or HOLD
    reallocation_weight: Floats  # in [-1, 1] x confidence
    confidence: Floats
    inputs_ok: npt.NDArray[np.int64]  # 1 when no input is missing or unreadable; a stale one is used, and flagged
    stale_flags: list[str]  # comma list of P30_ and P29_ with MISSING, STALE or ERROR; empty when inputs are ok
    p30_perf: Floats  # performance factor used
    p30_conf: Floats  # 0 when missing
    p29_target_usd: Floats  # target used
    volatility_ewma: Floats  # USD
    dd_proxy: Floats  # USD
    hold_time_penalty: Floats  # in [0, 1]
    next_state: EfficiencyState


def efficiency(
    inputs: EfficiencyInputs,
    pnls: Sequence[npt.ArrayLike],
    previous: EfficiencyState,
    theta: EfficiencyTheta = EfficiencyTheta(),
) -> Efficiency:
    """Score the capital efficiency of each symbol.

    Parameters
    ----------
    inputs : EfficiencyInputs
        Columns of shape (n,) at time t.
    pnls : sequence of n 1-d arrays
        Profit and loss in USD of the executions since `previous`, oldest first, finite; may be empty.
    previous : EfficiencyState
        State after the previous evaluation; `EfficiencyState.initial` for the first one.
    theta : EfficiencyTheta
        Parameters.

    Returns
    -------
    Efficiency
        A missing or unreadable input is replaced by its last known good value with confidence 0; a stale one is
        used. All three are flagged and scale the confidence down. No NaN.

    Raises
    ------
    ValueError
        For an unknown status, a non-finite pnl, or a row whose status is ok or stale without its numbers.

    References
    ----------
    docs/spec.md#6-efficiency-and-targets
    """
    require_sound(inputs=inputs, previous=previous)
    p30_good = _readable(inputs.attribution_status, inputs.performance_factor, inputs.attribution_confidence)
    p29_good = _readable(inputs.target_status, inputs.target_usd, inputs.target_confidence)
    performance = np.where(p30_good, inputs.performance_factor, previous.last_performance_factor)
    target_usd = np.where(p29_good, inputs.target_usd, previous.last_target_usd)
    conf_attr = np.where(p30_good, inputs.attribution_confidence, 0.0)
    conf_target = np.where(p29_good, inputs.target_confidence, 0.0)

    vol, dd = _fold(pnls, previous, theta.pnl_alpha)
    capital = np.maximum(target_usd, 1.0)
    pf, v, d = np.clip(performance, 0, 1), vol / capital, dd / capital
    idle = np.where(np.isnan(inputs.seconds_since_last_execution), 0.0, inputs.seconds_since_last_execution)
    hold = np.clip(idle / theta.hold_full_sec, 0, 1)
    raw = pf / (1 + theta.volatility_weight * v + theta.drawdown_weight * d + theta.hold_weight * hold)
    score = np.clip(raw, 0, 1)
    ewma = theta.score_alpha * score + (1 - theta.score_alpha) * previous.efficiency_ewma

    flags = [
        ",".join(codes)
        for codes in reason_codes(
            (inputs.attribution_status != "ok", "P30_" + _upper(inputs.attribution_status)),
            (inputs.target_status != "ok", "P29_" + _upper(inputs.target_status)),
        )
    ]
    flagged = (inputs.attribution_status != "ok") | (inputs.target_status != "ok")
    confidence = np.minimum(conf_attr, conf_target) * np.where(flagged, theta.flagged_confidence, 1.0)
    increase = (ewma >= theta.increase_ewma) & (conf_attr >= theta.increase_confidence)
    decrease = (ewma <= theta.decrease_ewma) | (d > theta.decrease_drawdown)
    return Efficiency(
        efficiency_score=score,
        efficiency_raw=raw,
        efficiency_ewma=ewma,
        capital_pressure=np.where(increase, "INCREASE", np.where(decrease, "DECREASE", "HOLD")).astype(object),
        reallocation_weight=np.clip(2 * (ewma - 0.5), -1, 1) * confidence,
        confidence=confidence,
        inputs_ok=(p30_good & p29_good).astype(np.int64),
        stale_flags=flags,
        p30_perf=performance,
        p30_conf=conf_attr,
        p29_target_usd=target_usd,
        volatility_ewma=vol,
        dd_proxy=dd,
        hold_time_penalty=hold,
        next_state=EfficiencyState(vol, dd, ewma, performance, target_usd),
    )


def _readable(status: Labels, value: Floats, confidence: Floats) -> Bools:
    unknown = set(status) - set(STATUSES)
    if unknown:
        message = f"status is {sorted(map(str, unknown))}: accepted are {', '.join(STATUSES)}"
        raise ValueError(message)
    good: Bools = (status == "ok") | (status == "stale")
    if np.any(good & (np.isnan(value) | np.isnan(confidence))):
        message = "a row with status ok or stale lacks its value or confidence: give it the status missing or error"
        raise ValueError(message)
    return good


def _upper(status: Labels) -> Labels:
    return np.array([str(text).upper() for text in status], dtype=object)


def _fold(pnls: Sequence[npt.ArrayLike], previous: EfficiencyState, alpha: float) -> tuple[Floats, Floats]:
    events = [np.asarray(row, dtype=np.float64) for row in pnls]
    if len(events) != len(previous) or not all(np.isfinite(row).all() for row in events):
        message = f"pnls has {len(events)} rows: expected {len(previous)}, each of finite numbers"
        raise ValueError(message)
    vol, dd = previous.volatility_ewma, previous.dd_proxy
    counts = np.array([len(row) for row in events], dtype=np.intp)
    for i in range(max(counts, default=0)):
        due = counts > i
        pnl = np.array([row[i] if i < len(row) else 0.0 for row in events])
        vol = np.where(due, alpha * np.abs(pnl) + (1 - alpha) * vol, vol)
        dd = np.where(due, alpha * np.maximum(-pnl, 0.0) + (1 - alpha) * dd, dd)
    return vol, dd
