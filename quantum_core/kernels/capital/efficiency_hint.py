"""Can a published efficiency be trusted? One answer for allocation targets and permits.

Here belong the reading of the efficiency hash and the four reasons not to use it. What is done with a trusted score
stays with its kernel.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum

import numpy as np

from quantum_core.kernels.columns import Columns, Floats, Labels
from quantum_core.kernels.epochs import per_sec
from quantum_core.kernels.theta import Theta, parameter

CLOCK_FIELDS = ("ts", "timestamp", "ts_utc")  # producers do not agree on a name; knowing one made all else stale

CLOCK_AHEAD_SEC = 60.0  # a clock further ahead of ours proves nothing


class Unreadable(Enum):
    """A failed read, which must never look like an absent hash."""

    UNREADABLE = "unreadable"


@dataclasses.dataclass(frozen=True)
class TrustTheta(Theta):
    """When an efficiency counts, defaults of docs/spec.md#6-efficiency-and-targets."""

    max_age_sec: float = parameter(600.0, "age above which an efficiency is stale, seconds", low=0)
    min_confidence: float = parameter(0.65, "confidence below which it does not count", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class EfficiencyHint(Columns):
    """Efficiency hashes as columns; numbers are NaN unless the state is present."""

    state: Labels  # present, missing or unreadable
    score: Floats  # in [0, 1]
    confidence: Floats  # in [0, 1]
    ts: Floats  # epoch seconds


def parse_efficiency(hashes: Sequence[Mapping[str, str] | Unreadable | None]) -> EfficiencyHint:
    """Read the text fields of efficiency hashes.

    Parameters
    ----------
    hashes : sequence of mapping, None or Unreadable
        Text fields per symbol; None for a missing hash; `Unreadable.UNREADABLE` for a failed read.

    Returns
    -------
    EfficiencyHint
        Columns of shape (n,). A hash whose score or confidence is missing, not a number, not finite or outside
        [0, 1], or whose clock is missing or unintelligible, is unreadable: it is judged before its age is.
    """
    rows = [_parse(fields) for fields in hashes]
    state, *numbers = zip(*rows, strict=True) if rows else ((), (), (), ())
    return EfficiencyHint(np.array(state, dtype=object), *(np.array(column, dtype=np.float64) for column in numbers))


def distrust(hint: EfficiencyHint, now: float | Floats, theta: TrustTheta) -> Labels:
    """Name why each efficiency is not to be used, or ok.

    Parameters
    ----------
    hint : EfficiencyHint
        Columns of shape (n,).
    now : float or float64 array, shape (n,)
        Epoch seconds the judgement is for.
    theta : TrustTheta
        Age and confidence limits; an age of exactly `max_age_sec` and a confidence of exactly `min_confidence` pass.

    Returns
    -------
    object array, shape (n,)
        missing_eff, redis_error, stale_eff, low_conf or ok; the first that holds.

    References
    ----------
    docs/spec.md#6-efficiency-and-targets, docs/spec.md#7-trade-intents-and-the-governor
    """
    conditions = [
        hint.state == "missing",
        (hint.state == "unreadable") | (hint.ts - now > CLOCK_AHEAD_SEC),
        now - hint.ts > theta.max_age_sec,
        hint.confidence < theta.min_confidence,
    ]
    return np.select(conditions, ["missing_eff", "redis_error", "stale_eff", "low_conf"], default="ok").astype(object)


def _parse(fields: Mapping[str, str] | Unreadable | None) -> tuple[str, float, float, float]:
    nothing = (math.nan, math.nan, math.nan)
    if fields is None:
        return ("missing", *nothing)
    if isinstance(fields, Unreadable):
        return ("unreadable", *nothing)
    try:
        score, confidence = float(fields["efficiency_score"]), float(fields["confidence"])
        ts = epoch_sec(next(fields[name] for name in CLOCK_FIELDS if name in fields))
    except (KeyError, ValueError, StopIteration):
        return ("unreadable", *nothing)
    if not (0 <= score <= 1 and 0 <= confidence <= 1 and math.isfinite(ts)):
        return ("unreadable", *nothing)
    return ("present", score, confidence, ts)


def epoch_sec(text: str) -> float:
    """Read a clock as producers write it: epoch s, ms, us or ns, or ISO 8601 (naive is UTC).

    Raises
    ------
    ValueError
        It is none of these.
    """
    try:
        number = float(text)
        return number / per_sec(number)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
