"""Computes an asset for many steps at once, from what each of them has taken, through the functions of the live asset.

A frame of three rows costs as much as one of three thousand, and no row depends on another one. So the rows of all steps stand in
one frame, under labels: the number of the step before the symbol. Here belongs what becomes one frame; what a step takes is
:mod:`quantum_assets.replay.standing`'s.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from quantum_assets.allocation_target import allocation_frame
from quantum_assets.capital_efficiency import Read, efficiency_frame, external_frame
from quantum_assets.governor_permit import state_row, states_frame
from quantum_assets.harvest_proposal import harvest_frame
from quantum_assets.market_state import market_state_frame
from quantum_assets.position_size import no_equity, size_frame
from quantum_assets.risk_proposal import risk_frame
from quantum_assets.shared.rows import assemble, shared_by_legs, without_result
from quantum_assets.shared.tracked_positions import Moved, tracked_frame
from quantum_assets.trade_intent import (
    GONE,
    HARVEST_USED,
    RISK_USED,
    both_proposals,
    identity_of,
    intended_rows,
    with_identity,
)
from quantum_core.contracts.legs import underlyings
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ACCOUNT, DIGEST
from quantum_core.contracts.tables import PUBLISHED_TABLES, RISK_GUARD
from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint
from quantum_core.kernels.governor.permit_hint import PermitHintTheta
from quantum_core.kernels.governor.risk_guard import RiskGuardTheta
from quantum_core.kernels.theta import Theta
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings
from resources.governor.account import AccountReading
from resources.governor.guards import guard_state_again
from resources.governor.permit import permit_hints
from resources.inputs.candle_series import Candles, grid_theta_of
from resources.inputs.foreign import Scored

MARK = "\x1f"  # between the number of a step and a symbol; no symbol has one
USED: Mapping[str, Sequence[str]] = {  # fields of what is published that another asset computes with
    "market_state": ("sigma", "ts", "p_trend", "p_mr", "p_chop", "tail_move", "source", "close"),
    "position": (
        *("side", "entry_price", "current_price", "peak_price", "trough_price", "age_sec", "unrealized_pnl", "current_sl", "qty"),
        *("mark_price", "position_source"),
    ),
    "risk_proposal": ("stop_dist_pct", *RISK_USED[3:]),
    "harvest_proposal": HARVEST_USED[3:],
    "allocation_target": ("multiplier", "reason"),
}

Row = dict[str, Any]
T = TypeVar("T", bound=Theta)


class Loaded(NamedTuple):
    """What a step has read of one asset, a row for each of its symbols: as it stands, whether it counts, and why not."""

    rows: Sequence[Row | None]
    states: Sequence[str]
    whys: Sequence[str]


@dataclass(frozen=True)
class Case:
    """What one step computes from.

    Attributes
    ----------
    number
        Of the step, in the order of time.
    symbols
        In the order of the result.
    assets
        Published rows it has read, by asset.
    readings
        Of candles, by symbol.
    moved
        Positions as they have moved on.
    targets, hints
        Base targets and efficiencies, by symbol.
    account, now
        As it was read, and the moment it counts for, epoch s.
    last
        What was last intended, by symbol: whether it is due is renewed by every evaluation.
    compared
        Symbols of which an intent was published: it names the fingerprints of what it rests on.
    reads, broken
        What efficiencies are computed from, and why some are not.
    facts
        What the step has noted beside.
    grants, decided
        When plans were permitted, and what the newest decision before and in this step was, by symbol.
    """

    number: int
    symbols: Sequence[str]
    assets: Mapping[str, Loaded] = field(default_factory=dict)
    readings: Mapping[str, Reading[Candles]] = field(default_factory=dict)
    moved: Moved | None = None
    targets: Mapping[str, Scored] = field(default_factory=dict)
    hints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    account: AccountReading | None = None
    now: float = math.nan
    last: Mapping[str, Row] = field(default_factory=dict)
    compared: Collection[str] = ()
    reads: Mapping[str, Read] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    grants: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    decided: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def label(self, symbol: str) -> str:
        """Name a symbol in this step."""
        return f"{self.number}{MARK}{symbol}"


class LabelledProfile(Profile):
    """A profile that knows the symbols behind labels."""

    def theta(self, section: type[T], symbol: str = ACCOUNT) -> T:
        """Give the parameters of one kernel for the symbol of a label."""
        return super().theta(section, symbol_of(symbol))

    def by_row(self, section: type[T], symbols: Sequence[str]) -> T:
        """Give the parameters of one kernel for the symbols of labels."""
        return super().by_row(section, list(map(symbol_of, symbols)) if self.symbols else symbols)


def symbol_of(label: str) -> str:
    """Give the symbol of a label."""
    return label.rpartition(MARK)[2]


def together(asset: str, cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:
    """Compute an asset for some steps.

    Parameters
    ----------
    asset
        Which.
    cases
        In the order of time.
    settings, profile
        In force in all of them.

    Returns
    -------
    polars.DataFrame
        What the live asset gives, for each label.
    """
    labelled = LabelledProfile(**{one.name: getattr(profile, one.name) for one in dataclasses.fields(Profile)})
    return COMPUTED[asset](cases, settings, labelled)


def _labels(cases: Sequence[Case]) -> list[str]:
    return [case.label(symbol) for case in cases for symbol in case.symbols]


def _frame(asset: str, cases: Sequence[Case]) -> pl.DataFrame:
    """Put what the steps have read of an asset below each other."""
    table = PUBLISHED_TABLES[asset]
    loaded = [case.assets[asset] for case in cases]
    rows = list(chain.from_iterable(one.rows for one in loaded))
    columns: dict[str, Any] = {
        "symbol": pl.Series(_labels(cases), dtype=pl.String),
        "state": pl.Series(list(chain.from_iterable(one.states for one in loaded)), dtype=pl.String),
        "why": pl.Series(list(chain.from_iterable(one.whys for one in loaded)), dtype=pl.String),
    }
    for name in USED[asset]:
        values = [None if row is None else "" if name == DIGEST else row.get(name) for row in rows]
        columns[name] = pl.Series(values, dtype=table.by_name[name].codec.dtype)
    return pl.DataFrame(columns)


def _market_state(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:
    readings = {
        case.label(symbol): dataclasses.replace(reading, symbol=case.label(symbol))
        for case in cases
        for symbol, reading in case.readings.items()
    }
    ticks = {label: settings.ticks[symbol] for label in readings if (symbol := symbol_of(label)) in settings.ticks}
    grid = grid_theta_of(settings, profile)
    return shared_by_legs(
        _labels(cases), lambda names: market_state_frame([readings[one] for one in names], grid, ticks, profile=profile)
    )


def _position(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:  # noqa: ARG001 - they have moved on already
    moved = [(case, case.moved) for case in cases if case.moved is not None]
    tracked = {case.label(symbol): state for case, one in moved for symbol, state in one.tracked.items()}
    untracked = [(case.label(symbol), state, why) for case, one in moved for symbol, state, why in one.untracked]
    return tracked_frame(_labels(cases), Moved(tracked, untracked))[0]


def _risk_proposal(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:  # noqa: ARG001 - as all of them
    return risk_frame(_frame("market_state", cases), _frame("position", cases), profile)


def _harvest_proposal(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:  # noqa: ARG001 - as all of them
    market, position, risk = (_frame(name, cases) for name in ("market_state", "position", "risk_proposal"))
    return harvest_frame(market, position, risk, profile)


def _allocation_target(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:  # noqa: ARG001 - as all of them
    by_label = {case.label(symbol): (case, symbol) for case in cases for symbol in underlyings(case.symbols)}

    def proposed(labels: Sequence[str]) -> pl.DataFrame:
        found = [by_label[label] for label in labels]
        hint = hint_of([case.hints[symbol] for case, symbol in found])
        targets = [case.targets[symbol] for case, symbol in found]
        return allocation_frame(labels, hint, targets, [case.now for case, _ in found], profile)

    return shared_by_legs(_labels(cases), proposed)


def hint_of(rows: Sequence[Mapping[str, Any]]) -> EfficiencyHint:
    """Build efficiencies out of their recorded rows; a number that is null is unknown."""
    return EfficiencyHint(
        **{
            one.name: np.array(
                [math.nan if row[one.name] is None else row[one.name] for row in rows],
                dtype=object if one.name == "state" else float,
            )
            for one in dataclasses.fields(EfficiencyHint)
        }
    )


def _capital_efficiency(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:
    mode = settings.efficiency_mode
    if mode == "external":
        hints = {case.label(symbol): hint for case in cases for symbol, hint in case.hints.items()}
        return shared_by_legs(_labels(cases), lambda names: external_frame(names, hint_of([hints[one] for one in names])))
    reads = {case.label(symbol): read for case in cases for symbol, read in case.reads.items()}
    broken = {case.label(symbol): why for case in cases for symbol, why in case.broken.items()}

    def computed(names: Sequence[str]) -> pl.DataFrame:
        return efficiency_frame(names, reads, broken, profile, mode)

    return shared_by_legs(_labels(cases), computed)


def _risk_guard(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:  # noqa: ARG001 - as all of them
    theta = profile.theta(RiskGuardTheta)
    rows = [
        {**guard_state_again(case.account, case.facts["guards"], theta), "symbol": case.label(ACCOUNT)}
        for case in cases
        if case.account is not None
    ]
    return RISK_GUARD.frame([{**row, "state": str(State.PRESENT), "why": ""} for row in rows])


def _governor_permit(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:  # noqa: ARG001 - as all of them
    found = [(case, symbol) for case in cases for symbol in case.symbols]
    moments = np.array([case.now for case, _ in found])
    theta = profile.by_row(PermitHintTheta, _labels(cases))
    hints = permit_hints(hint_of([case.hints[symbol] for case, symbol in found]), moments, theta)
    rows = [
        {
            "symbol": case.label(symbol),
            **state_row(hint, case.last[symbol], case.grants[symbol], case.decided.get(symbol), case.now),
        }
        for (case, symbol), hint in zip(found, hints, strict=True)
    ]
    return states_frame(_labels(cases), rows)


def _position_size(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:
    without, sized = [], []
    for case in cases:
        assert case.account is not None  # noqa: S101 - narrows: a step without one was not taken
        if why := no_equity(case.account, profile):
            without += [(case.label(one), State.ABSENT, why) for one in case.symbols]
        else:
            sized.append((case, case.account))
    frames = [assemble([label for label, _, _ in without], {"symbol": []}, without_result(without))] if without else []
    if sized:
        used = [case for case, _ in sized]
        frame = size_frame(
            _frame("market_state", used),
            _frame("allocation_target", used),
            [case.targets[one] for case in used for one in case.symbols],
            [account for case, account in sized for _ in case.symbols],
            [settings.candle_scale_of(one) for case in used for one in case.symbols],
            profile,
            candle_interval_sec=settings.candle_interval_sec,
        )
        frames.append(frame)
    return pl.concat(frames, how="diagonal_relaxed")


def _trade_intent(cases: Sequence[Case], settings: Settings, profile: Profile) -> pl.DataFrame:  # noqa: ARG001 - as all of them
    rows, rest = both_proposals(*(_frame(name, cases) for name in ("position", "risk_proposal", "harvest_proposal")))
    intended = intended_rows(rows)
    asked = {row["symbol"]: row for row in intended.iter_rows(named=True)}
    gone = {*rest.filter(pl.col("why").is_in(GONE))["symbol"]}
    named, digests = {}, {}
    for case in cases:
        for number, symbol in enumerate(case.symbols):
            label, last = case.label(symbol), case.last.get(symbol)
            row = asked.get(label)
            if row is not None:
                identity = named[label] = identity_of({**row, "symbol": symbol}, last, settings.change_eps_pct)
                if symbol in case.compared or identity["cause"] is not None:
                    digests[label] = "|".join(
                        _digest(asset, case.assets[asset].rows[number]) for asset in ("harvest_proposal", "risk_proposal")
                    )
            if last is not None and (row is not None or label in gone):  # renewed by every evaluation, which is no publication
                last["due"] = row is not None and row["due"]
    labels = intended["symbol"].to_list()
    intended = intended.with_columns(proposals_digest=pl.Series([digests.get(one, "") for one in labels], dtype=pl.String))
    return assemble(_labels(cases), with_identity(intended, [named[one] for one in labels]), rest)


def _digest(asset: str, row: Row | None) -> str:
    """Fingerprint a row that stands, once."""
    if row is None:
        return ""
    if DIGEST not in row:
        table = PUBLISHED_TABLES[asset]
        row[DIGEST] = table.digest(table.encode(row))
    return str(row[DIGEST])


COMPUTED: Mapping[str, Callable[[Sequence[Case], Settings, Profile], pl.DataFrame]] = {
    "market_state": _market_state,
    "position": _position,
    "risk_proposal": _risk_proposal,
    "harvest_proposal": _harvest_proposal,
    "allocation_target": _allocation_target,
    "capital_efficiency": _capital_efficiency,
    "position_size": _position_size,
    "risk_guard": _risk_guard,
    "governor_permit": _governor_permit,
    "trade_intent": _trade_intent,
}
