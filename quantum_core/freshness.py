"""How old everything published is, and whether that is too old. Pure: signs and a time in, vitals out.

Reading the signs is the work of ``resources.store.vital_signs``; when an old value becomes an alert is decided in
``quantum_ops.alerts.incidents``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from quantum_core.kernels import CLOCK_SKEW_SEC

if TYPE_CHECKING:
    from quantum_core.failure import Failure
    from quantum_core.settings import Settings

CANDLES = "candles"
HELD_ASSETS = ("position", "risk_proposal", "harvest_proposal", "trade_intent")  # due while a position is held
ASSETS = ("market_state", *HELD_ASSETS, "capital_efficiency", "allocation_target", "governor_permit")
PARTS = ("worker", "daemon", "cycle")  # they leave a heartbeat
BELL, BELL_SILENT_SEC = "bell", 15.0  # so does the bell, three times as often as this; nothing but promptness hangs on it
EPOCH_MAX = 2**33  # the year 2242: more are milliseconds, or junk
STALE_INTERVALS = 2  # docs/spec.md#5-sources: candles may be this many intervals and CANDLE_STALE_MARGIN_SEC old
WARN_SHARE = 0.5  # of its limit: a part silent for longer is suspected of being what makes the rest old
ONLY_NAMED = ("governor_permit/profile_evidence",)  # proofs whose warning is no event: true for as long as the desk leaves it so
FUTURE_CANDLES = "candles_in_future"  # as the candle reader names them


class Condition(enum.StrEnum):
    """What is known of the age of one thing."""

    FRESH = "fresh"
    AGING = "aging"  # worth a warning, not an alert
    STALE = "stale"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    AHEAD = "ahead"  # dated in the future: it would look fresh for as long as that lasts


WELL = frozenset({Condition.FRESH, Condition.AGING})


class Sign(NamedTuple):
    """One clock as it was read; neither epoch nor trouble means that nothing is there.

    Attributes
    ----------
    epoch
        When the thing was last renewed, epoch s.
    trouble
        Why that cannot be read.
    """

    epoch: float | None = None
    trouble: str = ""


NOTHING = Sign()


class Stop(NamedTuple):
    """The stop of a risk proposal, and whether the price was beyond it when it was evaluated (``at``, epoch s)."""

    side: str
    stop: float
    price: float
    entry: float
    breached: bool
    at: float


@dataclass(frozen=True, slots=True)
class SymbolSigns:
    """The clocks of one symbol.

    Attributes
    ----------
    symbol
        The symbol.
    clocks
        Asset (or ``candles``) to its clock. Candles that carry no time are left out: nothing can be said of their age.
    held
        Whether its tracked position is held; ``None`` when that cannot be read.
    has_base_target
        Whether P2.9 has written a target for it.
    numbers
        Asset to the numbers that were read beside its clock.
    stop
        Its proposed stop; ``None`` where there is none that can be read.
    trouble
        Why nothing is opened on its position, as the wire table has it; empty when nothing is wrong with it.
    """

    symbol: str
    clocks: dict[str, Sign]
    held: bool | None = False
    has_base_target: bool = False
    numbers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stop: Stop | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class StoredProof:
    """One verdict of the proof pack, as it stands in Redis.

    Attributes
    ----------
    title
        ``asset/name``.
    passed, severity, evaluated_at, failing, per_symbol, observed, threshold
        As :class:`quantum_assets.checks.proof.Verdict` has them; the time in epoch s.
    """

    title: str
    passed: bool
    severity: Literal["ERROR", "WARN"] = "ERROR"
    evaluated_at: float = 0.0
    failing: Mapping[str, str] = field(default_factory=dict)
    per_symbol: bool = False
    observed: str = ""
    threshold: str = ""


@dataclass(frozen=True)
class VitalSigns:
    """Everything that one poll of Redis shows.

    Attributes
    ----------
    symbols
        One entry per symbol.
    heartbeats
        Part to its clock.
    proofs
        All verdicts.
    proofs_finished
        When the last run of the pack ended.
    failures
        Symbol to asset to what its last evaluation could not compute.
    """

    symbols: Sequence[SymbolSigns]
    heartbeats: Mapping[str, Sign]
    proofs: Sequence[StoredProof] = ()
    proofs_finished: Sign = NOTHING
    failures: Mapping[str, Mapping[str, Failure]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """From which age on what is too old, in s, and what is due at all.

    Attributes
    ----------
    market_state_sec, candles_sec, worker_sec, daemon_sec
        Age that is still fresh.
    proposal_warn_sec, proposal_sec
        The same of positions, proposals, targets, permits and of the cycle; the first is worth a warning.
    candle_ahead_sec
        A candle may be dated this far ahead: until its end.
    efficiency_due, candles_due
        Whether we write capital efficiency, and whether prices come from candles.
    opening_sec
        Age of the last market state, or of a position, from which the governor permits no opening.
    """

    market_state_sec: float = 180
    candles_sec: float = 420
    worker_sec: float = 20
    daemon_sec: float = 30
    proposal_warn_sec: float = 30
    proposal_sec: float = 60
    candle_ahead_sec: float = 60
    efficiency_due: bool = False
    candles_due: bool = True
    opening_sec: float = 120

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Take them from the settings."""
        return cls(
            market_state_sec=settings.marketstate_max_age_sec,
            candles_sec=STALE_INTERVALS * settings.candle_interval_sec + settings.candle_stale_margin_sec,
            worker_sec=settings.worker_max_silence_sec,
            daemon_sec=settings.daemon_max_silence_sec,
            proposal_warn_sec=settings.proposal_warn_age_sec,
            proposal_sec=settings.proposal_max_age_sec,
            candle_ahead_sec=settings.candle_interval_sec,
            efficiency_due=settings.efficiency_mode == "enforce",
            candles_due=settings.marketstate_source != "synthetic",
            opening_sec=settings.gov_max_data_age_sec,
        )


class Vital(NamedTuple):
    """How one thing that is due stands.

    Attributes
    ----------
    thing
        Asset, ``candles``, or the part whose heartbeat it is.
    symbol
        The symbol; empty for a part.
    condition
        See :class:`Condition`.
    limit_sec
        Age that is still fresh.
    age_sec
        Its age; ``None`` when it has no readable clock.
    detail
        Why it cannot be read.
    """

    thing: str
    symbol: str
    condition: Condition
    limit_sec: float
    age_sec: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Evaluation:
    """How everything that is due stands at one moment.

    Attributes
    ----------
    vitals
        Of every symbol.
    heartbeats
        Of every part.
    proofs, proofs_finished
        As they were read.
    failures
        The same, without those of a cycle that has stopped.
    opening_sec
        See :class:`Limits`.
    """

    vitals: Sequence[Vital]
    heartbeats: Sequence[Vital]
    proofs: Sequence[StoredProof] = ()
    proofs_finished: Sign = NOTHING
    failures: Mapping[str, Mapping[str, Failure]] = field(default_factory=dict)
    opening_sec: float = 120


def evaluate(signs: VitalSigns, limits: Limits, now: float) -> Evaluation:
    """Judge the age of everything that is due.

    Parameters
    ----------
    signs
        What was read.
    limits
        What is too old.
    now
        Epoch s.

    Returns
    -------
    Evaluation
        A thing exactly as old as its limit is fresh. What is not due is left out.

    References
    ----------
    docs/spec.md#10-proofs-freshness-alerts
    """
    silences = {"worker": limits.worker_sec, "daemon": limits.daemon_sec, "cycle": limits.proposal_sec}
    heartbeats = [
        judge(part, "", signs.heartbeats.get(part, NOTHING), now, limit_sec=limit, warn_sec=WARN_SHARE * limit)
        for part, limit in silences.items()
    ]
    vitals = [vital for one in signs.symbols for vital in _symbol_vitals(one, limits, now)]
    failures = {
        symbol: {asset: one for asset, one in by_asset.items() if now - one.at <= limits.market_state_sec}
        for symbol, by_asset in signs.failures.items()
    }
    return Evaluation(vitals, heartbeats, signs.proofs, signs.proofs_finished, failures, limits.opening_sec)


def next_crossing(evaluation: Evaluation, now: float, failing_sec: float) -> float:
    """Give when the next thing that is within its limit crosses it if nothing renews it, epoch s; infinity where nothing can.

    Parameters
    ----------
    evaluation
        As :func:`evaluate` gave it.
    now
        The time it was made for, epoch s.
    failing_sec
        A symbol that could not be computed for so long counts like one that is too old.
    """
    ages = (
        one.limit_sec - one.age_sec
        for one in (*evaluation.heartbeats, *evaluation.vitals)
        if one.condition in WELL and one.age_sec is not None
    )
    failing = (failing_sec - (now - one.since) for by_asset in evaluation.failures.values() for one in by_asset.values())
    return now + min((sec for sec in (*ages, *failing) if sec >= 0), default=math.inf)


def judge(
    thing: str, symbol: str, sign: Sign, now: float, *, limit_sec: float, warn_sec: float, ahead_sec: float = CLOCK_SKEW_SEC
) -> Vital:
    """Judge one clock; ages equal to a limit are within it."""
    if sign.trouble:
        future = sign.trouble.partition(":")[0] == FUTURE_CANDLES
        return Vital(thing, symbol, Condition.AHEAD if future else Condition.UNREADABLE, limit_sec, None, sign.trouble)
    if sign.epoch is None:
        return Vital(thing, symbol, Condition.MISSING, limit_sec)
    age = now - sign.epoch
    if age < -ahead_sec:
        condition = Condition.AHEAD
    elif age > limit_sec:
        condition = Condition.STALE
    else:
        condition = Condition.AGING if age > warn_sec else Condition.FRESH
    return Vital(thing, symbol, condition, limit_sec, age)


def _symbol_vitals(signs: SymbolSigns, limits: Limits, now: float) -> list[Vital]:
    vitals = []
    for asset in ASSETS:
        if _due(asset, signs, limits):
            state = asset == "market_state"
            limit = limits.market_state_sec if state else limits.proposal_sec
            warn = limit if state else min(limits.proposal_warn_sec, limit)
            sign = signs.clocks.get(asset, NOTHING)
            vitals.append(judge(asset, signs.symbol, sign, now, limit_sec=limit, warn_sec=warn))
    if limits.candles_due and CANDLES in signs.clocks:
        limit, ahead = limits.candles_sec, limits.candle_ahead_sec
        candles = signs.clocks[CANDLES]
        vitals.append(judge(CANDLES, signs.symbol, candles, now, limit_sec=limit, warn_sec=limit, ahead_sec=ahead))
    return vitals


def _due(asset: str, signs: SymbolSigns, limits: Limits) -> bool:
    """Whether a hash should exist."""
    if asset == "position":
        return signs.held is not False  # one that cannot be read is a fault of the position's own
    if asset in HELD_ASSETS:
        return signs.held is True
    if asset == "capital_efficiency":
        return limits.efficiency_due
    return asset != "allocation_target" or signs.has_base_target
