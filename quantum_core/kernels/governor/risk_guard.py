"""The account's risk guards: which limit is broken, in what words, and for how long nothing may be opened.

Here belong the five conditions, their order and their reasons. Reading the account, keeping guards alive and announcing them
stay out. There is one account: a function of a few numbers, not of columns.
"""

import dataclasses
import math

from quantum_core.kernels.theta import Theta, parameter

EQUITY_STALE, DAILY_LOSS, DRAWDOWN = "EQUITY_STALE", "DAILY_LOSS", "DRAWDOWN"
EMERGENCY_FLATTEN, CONSEC_LOSS = "EMERGENCY_FLATTEN", "CONSEC_LOSS"
GUARDS = (EQUITY_STALE, DAILY_LOSS, DRAWDOWN, EMERGENCY_FLATTEN, CONSEC_LOSS)  # in the order of docs/spec.md#8-risk-guard
CONFIRMED = (DAILY_LOSS, DRAWDOWN, EMERGENCY_FLATTEN)  # judged by the equity: for their time only after a second reading of it
EQUITY, PEAK, NET_TRANSFERS = "equity", "peak", "net_transfers"  # the inputs, with the next line
DAILY_PNL, CONSECUTIVE_LOSSES = "daily_pnl", "consecutive_losses"
ROUNDING = 1e-12  # fraction: what floats may add to a share that is exactly its limit, and less than any account can lose
PEAK_BEHIND_MAX = 0.1  # fraction: by how much a peak may be below the equity: writers renew it later, some once a day
PEAK_RISE_MAX = 0.1  # fraction: by how much a peak may rise in one reading; beyond it two readings of the equity must bear it out
MISSING_AGE_SEC = math.inf  # age of an equity nobody has written


@dataclasses.dataclass(frozen=True)
class RiskGuardTheta(Theta):
    """Limits and durations of the guards, defaults of docs/spec.md#8-risk-guard."""

    equity_max_age_sec: float = parameter(300.0, "age above which the equity is stale, seconds", low=0)
    clock_ahead_max_sec: float = parameter(5.0, "how far ahead of ours its clock may be; more is no freshness, seconds", low=0)
    daily_loss_max: float = parameter(0.025, "loss of the UTC day above which DAILY_LOSS stands, fraction of equity", low=0)
    drawdown_max: float = parameter(0.08, "drawdown above which DRAWDOWN stands, fraction of the peak", low=0)
    emergency_drawdown_max: float = parameter(0.10, "the same of EMERGENCY_FLATTEN, fraction of the peak", low=0)
    losses_max: int = parameter(3, "losses in a row from which CONSEC_LOSS stands, count", low=1)
    equity_stale_sec: int = parameter(60, "lifetime of EQUITY_STALE, renewed by each evaluation that finds it, seconds", low=1)
    daily_loss_sec: int = parameter(86_400, "lifetime of DAILY_LOSS, seconds", low=1)
    drawdown_sec: int = parameter(3600, "lifetime of DRAWDOWN, seconds", low=1)
    emergency_flatten_sec: int = parameter(14_400, "lifetime of EMERGENCY_FLATTEN, seconds", low=1)
    consec_loss_sec: int = parameter(3600, "lifetime of CONSEC_LOSS, seconds", low=1)

    @property
    def duration_sec(self) -> dict[str, int]:
        """Lifetime of each guard, seconds."""
        return {guard: getattr(self, f"{guard.lower()}_sec") for guard in GUARDS}


@dataclasses.dataclass(frozen=True)
class Account:
    """What is known of the account; NaN is a number that is missing or cannot be used.

    Attributes
    ----------
    equity
        Worth of the account, USD.
    peak
        Its highest worth so far, USD.
    age_sec
        Age of both, seconds; ``MISSING_AGE_SEC`` where nobody has written any.
    daily_pnl
        Profit of this UTC day, USD, negative for a loss.
    consecutive_losses
        Losing trades in a row, a whole number.
    net_transfers
        Deposits minus withdrawals since the peak was set, USD; 0 where the writer gives none.
    peak_known
        The highest peak that is no jump, or whose jump a second reading has confirmed, USD; NaN before the first.
    """

    equity: float
    peak: float
    age_sec: float
    daily_pnl: float
    consecutive_losses: float
    net_transfers: float = 0.0
    peak_known: float = math.nan


@dataclasses.dataclass(frozen=True)
class Triggered:
    """One guard whose condition holds: its type, why, and for how long it is to stand, seconds."""

    guard: str
    reason: str
    duration_sec: int


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What follows from the account.

    Attributes
    ----------
    triggered
        Guards whose condition holds, in the order of ``GUARDS``.
    unusable
        Names of the inputs that cannot be used. Whatever needs one of them is not judged, which is an error and never "no guard".
    equity_fresh
        Whether the equity is there, positive and fresh; False also where that cannot be known.
    drawdown
        Fraction of the peak, >= 0; NaN where it cannot be computed.
    daily_loss
        Fraction of the equity, >= 0; NaN where it cannot be computed.
    judged
        Guards whose condition is known to hold or not to hold, in the order of ``GUARDS``.
    """

    triggered: tuple[Triggered, ...]
    unusable: tuple[str, ...]
    equity_fresh: bool
    drawdown: float
    daily_loss: float
    judged: tuple[str, ...]


def assess(account: Account, theta: RiskGuardTheta = RiskGuardTheta()) -> Assessment:
    """Judge the account.

    Parameters
    ----------
    account : Account
        What was read, of now.
    theta : RiskGuardTheta
        Limits; a share of exactly its limit and an age of exactly ``equity_max_age_sec`` pass, ``losses_max`` losses do not.

    Returns
    -------
    Assessment
        Nothing is ever filled in: a missing peak, one below the equity by more than 10 %, or one that rose by more than 10 % and
        that no two readings of the equity bear out, leaves the drawdown unjudged and is named, and so on for every input. From a
        stale equity neither drawdown nor daily loss is judged: EQUITY_STALE blocks already, and an EMERGENCY_FLATTEN from old
        numbers would ask for something nobody may want any more. A fresh equity of 0 or less is an EMERGENCY_FLATTEN whatever
        the peak.

    Notes
    -----
    The drawdown is the share lost of ``peak + net_transfers``: what was paid in or out since the peak was set is no profit and
    no loss.

    References
    ----------
    docs/spec.md#8-risk-guard
    """
    unusable = _unusable(account)
    stale = "" if EQUITY in unusable else _stale(account, theta)
    timely = EQUITY not in unusable and not _untimely(account, theta)
    fresh = timely and not stale
    peak_usable = not {PEAK, NET_TRANSFERS} & set(unusable)
    highest = account.peak + account.net_transfers if peak_usable else math.nan
    drawdown = _share(highest - account.equity, highest)
    daily_loss = _share(-account.daily_pnl, account.equity)
    reasons = {EQUITY_STALE: stale}
    if fresh:
        reasons[DAILY_LOSS] = _exceeds("loss", daily_loss, theta.daily_loss_max)
        reasons[DRAWDOWN] = _exceeds("drawdown", drawdown, theta.drawdown_max)
        reasons[EMERGENCY_FLATTEN] = _exceeds("drawdown", drawdown, theta.emergency_drawdown_max)
    elif timely:
        reasons[EMERGENCY_FLATTEN] = stale  # nothing is left
    if account.consecutive_losses >= theta.losses_max and CONSECUTIVE_LOSSES not in unusable:
        reasons[CONSEC_LOSS] = f"losses={account.consecutive_losses:.0f} >= {theta.losses_max}"
    durations = theta.duration_sec
    triggered = [Triggered(one, f"{one} {reasons[one]}", durations[one]) for one in GUARDS if reasons.get(one)]
    judged = {
        EQUITY_STALE: EQUITY not in unusable,
        DAILY_LOSS: fresh and not math.isnan(daily_loss),
        DRAWDOWN: fresh and not math.isnan(drawdown),
        EMERGENCY_FLATTEN: timely and (not fresh or not math.isnan(drawdown)),
        CONSEC_LOSS: CONSECUTIVE_LOSSES not in unusable,
    }
    return Assessment(tuple(triggered), unusable, fresh, drawdown, daily_loss, tuple(one for one in GUARDS if judged[one]))


def peak_rose(account: Account) -> bool:
    """Whether the peak is further above the known one than a single reading may raise it."""
    return account.peak > account.peak_known * (1 + PEAK_RISE_MAX)


def near_peak(account: Account) -> bool:
    """Whether the equity is near enough to its peak to confirm it."""
    return account.equity >= (account.peak + account.net_transfers) * (1 - PEAK_RISE_MAX)


def _unusable(account: Account) -> tuple[str, ...]:
    missing = account.age_sec == MISSING_AGE_SEC
    losses = account.consecutive_losses
    highest = account.peak + account.net_transfers
    beyond = account.equity * (1 - PEAK_BEHIND_MAX) > highest > 0  # the highest so far, and yet it is not
    doubtful = peak_rose(account) and not near_peak(account)  # a writer keeps the peak of one wrong equity for ever
    usable = {
        EQUITY: missing or (math.isfinite(account.equity) and math.isfinite(account.age_sec)),
        PEAK: missing or (math.isfinite(account.peak) and account.peak > 0 and not beyond and not doubtful),
        NET_TRANSFERS: missing or (math.isfinite(account.net_transfers) and not (account.peak > 0 >= highest)),
        DAILY_PNL: math.isfinite(account.daily_pnl),
        CONSECUTIVE_LOSSES: math.isfinite(losses) and losses >= 0 and losses == math.floor(losses),
    }
    return tuple(name for name, well in usable.items() if not well)


def _stale(account: Account, theta: RiskGuardTheta) -> str:
    return _untimely(account, theta) or (f"equity={account.equity:g} <= 0" if account.equity <= 0 else "")


def _untimely(account: Account, theta: RiskGuardTheta) -> str:
    if account.age_sec == MISSING_AGE_SEC:
        return "no equity"
    if account.age_sec > theta.equity_max_age_sec:
        return f"age={account.age_sec:.0f}s > {theta.equity_max_age_sec:.0f}s"
    if account.age_sec < -theta.clock_ahead_max_sec:
        return f"ahead={-account.age_sec:.0f}s > {theta.clock_ahead_max_sec:.0f}s"
    return ""


def _share(loss: float, whole: float) -> float:
    if math.isnan(loss) or not whole > 0:
        return math.nan
    return loss / whole if loss > 0 else 0.0


def _exceeds(what: str, share: float, limit: float) -> str:
    """Say that a share is above its limit; NaN, one that is not known, says nothing: its input is named as unusable."""
    return f"{what}={share:.1%} > {limit:.1%}" if share - limit > ROUNDING else ""
