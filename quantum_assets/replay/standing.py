"""What stands between two steps of a cycle, and what each asset computes from it, without Redis and Dagster.

Here belong the rows as they stand, the inputs as they were read, and the way from both through the functions of the assets.
Where inputs come from and what becomes of a result is for who inherits: a record of the past
(:mod:`quantum_assets.replay.rerun`) or a simulation (:mod:`quantum_assets.simulation`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import orjson
import polars as pl

from quantum_assets.capital_efficiency import Read
from quantum_assets.position_size import no_equity
from quantum_assets.replay.together import Case, Loaded, symbol_of, together
from quantum_assets.shared.tracked_positions import Inputs, judge_snapshots, memory_of, move_on
from quantum_core.contracts.legs import underlyings
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ACCOUNT, Change, Table, publication_due
from quantum_core.contracts.tables import CAPITAL_EFFICIENCY, POSITION, PUBLISHED_TABLES, RISK_PROPOSAL
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.position.identity import Memory
from quantum_core.kernels.position.tracking import TrackingTheta
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings
from resources.governor.account import account_of
from resources.inputs.candle_series import Candles
from resources.inputs.foreign import Scored
from resources.inputs.position_snapshots import Flat, snapshot_of

BY_SYMBOL = (
    "raw_positions",
    "position_memory",
    "position_bars",
    "base_targets",
    "efficiency_hints",
    "account",
    "efficiency_state",
    "attribution",
    "grants",
    "last_decisions",
)  # recorded on change
UNKNOWN = ("value", "confidence")  # of a target that cannot be read, NaN


class NotRecordedError(LookupError):
    """An input of a step is not in the archive."""


@dataclass(frozen=True)
class Step:
    """One record."""

    seq: int
    asset: str
    cycle_id: str
    run_id: str
    at: datetime
    facts: Mapping[str, Any]
    tables: Mapping[str, Any]  # of a record: rows by table
    slot: str = ""  # whose records it continues
    full: bool = True  # whether it has everything there is, not what changed since the record before


class Standing(ABC):
    """What a step finds: rows as they stand and inputs as they were read.

    Attributes
    ----------
    settings, profile
        In force; None where they are not known yet.
    inputs
        Last row of each input in ``BY_SYMBOL``, by table and symbol.
    published
        Rows as they stand, by asset and symbol.
    without
        State, reason and cycle of symbols whose last evaluation gave no row, by asset.
    evaluated
        When each row was last evaluated, epoch s, by asset.
    released
        Symbols whose position is closed.
    recalled
        What the keys of positions are remembered to have shown, as of the last evaluation.
    """

    def __init__(self, settings: Settings | None = None, profile: Profile | None = None) -> None:
        self.settings: Settings | None = settings
        self.profile: Profile | None = profile
        self.inputs: dict[str, dict[str, dict[str, Any]]] = {table: {} for table in BY_SYMBOL}
        self.published: dict[str, dict[str, dict[str, Any]]] = {asset: {} for asset in PUBLISHED_TABLES}
        self.without: dict[str, dict[str, tuple[str, str, str]]] = {asset: {} for asset in PUBLISHED_TABLES}
        self.evaluated: dict[str, dict[str, int]] = {asset: {} for asset in PUBLISHED_TABLES}
        self.released: set[str] = set()
        self.recalled: dict[str, Memory] = {}

    @abstractmethod
    def readings(self, step: Step) -> Mapping[str, Reading[Candles]]:
        """Give the candles a step has read, by symbol."""

    @abstractmethod
    def bars(self, symbol: str) -> Any:
        """Give the candles a position is judged by; None where there are none."""

    # What each asset takes of what stands, and computes from it.

    def frame(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        """Compute the frame of a step's asset: every symbol with ``state``, ``why`` and the fields of the table.

        Raises
        ------
        NotRecordedError
            What it rests on is not known.
        """
        settings, profile = self._in_force()
        frame = together(step.asset, [self.case(step, symbols)], settings, profile)
        return frame.with_columns(symbol=pl.Series(list(map(symbol_of, frame["symbol"])), dtype=pl.String))

    def case(self, step: Step, symbols: Sequence[str]) -> Case:
        """Take what a step's asset computes from, as it stands; what moves positions on has done so then.

        Raises
        ------
        NotRecordedError
            What it rests on is not known.
        """
        taken: Mapping[str, Any] = getattr(self, f"_{step.asset}")(step, symbols)
        return Case(step.seq, symbols, **taken)

    def _market_state(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        readings = self.readings(step)
        return {"readings": {one: readings[one] for one in underlyings(symbols)}}

    def _position(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        settings, profile = self._in_force()
        raw, memories = self.inputs["raw_positions"], self.inputs["position_memory"]
        missing = [symbol for symbol in symbols if symbol not in raw or symbol not in memories]
        if missing:
            message = "its snapshots are not recorded yet"
            raise NotRecordedError(message)
        now = step.facts["now"]
        rows = {symbol: self._tracked(symbol) for symbol in symbols}
        proposals = self.published["risk_proposal"]
        inputs = Inputs(
            now,
            [snapshot_of(symbol, raw[symbol]) for symbol in symbols],
            rows,
            {one: memory_of(orjson.loads(memories[one]["memory"]), now) for one in symbols if memories[one]["memory"]},
            {one: memories[one]["forgotten"] for one in symbols if memories[one]["forgotten"]},
            {
                one: proposals[one]
                for one in symbols
                if one in proposals
                and profile.theta(TrackingTheta, one).sl_ratchet == "proposed"
                and not self.expired(RISK_PROPOSAL, one, now)
            },
            {},
        )
        shown = judge_snapshots(inputs, settings)
        self.recalled = shown.recalled
        moved = move_on(inputs, shown, {symbol: self.bars(symbol) for symbol in shown.cases}, settings, profile)
        self._let_go(inputs, shown.doubtful)
        return {"moved": moved}

    def _risk_proposal(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        return {"assets": self.loaded(("market_state", "position"), symbols, step)}

    def _harvest_proposal(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        return {"assets": self.loaded(("market_state", "position", "risk_proposal"), symbols, step)}

    def _allocation_target(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        names = underlyings(symbols)
        return {"now": step.facts["now"], "hints": self._input("efficiency_hints", names), "targets": self._targets(names)}

    def _capital_efficiency(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        names, noted = underlyings(symbols), _noted(step, "mode")
        if noted["mode"] == "external":
            return {"hints": self._input("efficiency_hints", names)}
        names = [one for one in names if one not in noted["broken"]]
        kept, attribution = self._input("efficiency_state", names), self._input("attribution", names)
        targets = self._targets(names)
        reads = {}
        for one in names:
            pnls, last_exec = noted["fills"].get(one, ((), kept[one]["last_exec_epoch"]))
            scored, before = Scored(**_with_nan(attribution[one])), kept[one] if kept[one]["known"] else None
            reads[one] = Read(step.facts["now"], before, pnls, last_exec, scored, targets[one])
        return {"reads": reads, "broken": noted["broken"]}

    def _risk_guard(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:  # noqa: ARG002 - there is one account
        noted = _noted(step, "guards")
        return {"account": account_of(self._input("account", [ACCOUNT])[ACCOUNT]), "facts": noted}

    def _governor_permit(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        noted = _noted(step, "decided", "now")
        times = {one: orjson.loads(row["times"]) for one, row in self._input("grants", symbols).items()}
        return {
            "now": noted["now"],
            "decided": noted["decided"],
            "grants": times,
            "hints": self._input("efficiency_hints", symbols),
            "last": self._input("last_decisions", symbols),
        }

    def _position_size(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        _, profile = self._in_force()
        account = account_of(self._input("account", [ACCOUNT])[ACCOUNT])
        if no_equity(account, profile):
            return {"account": account}
        assets = self.loaded(("market_state", "allocation_target"), symbols, step)
        return {"account": account, "assets": assets, "targets": self._targets(symbols)}

    def _trade_intent(self, step: Step, symbols: Sequence[str]) -> Mapping[str, Any]:
        last = self.published["trade_intent"]
        return {
            "assets": self.loaded(("position", "risk_proposal", "harvest_proposal"), symbols, step),
            "last": {one: last[one] for one in symbols if one in last},
            "compared": step.tables[step.asset].symbols if step.asset in step.tables else (),
        }

    # What stands.

    def loaded(self, assets: Sequence[str], symbols: Sequence[str], step: Step) -> dict[str, Loaded]:
        """Give the rows of some assets as a step of that moment has read them."""
        return {asset: self._loaded(asset, symbols, step) for asset in assets}

    def _loaded(self, asset: str, symbols: Sequence[str], step: Step) -> Loaded:
        settings, _ = self._in_force()
        table = PUBLISHED_TABLES[asset]
        limit = settings.marketstate_max_age_sec if asset == "market_state" else settings.proposal_max_age_sec
        now, evaluated, without, stands = step.at.timestamp(), self.evaluated[asset], self.without[asset], self.published[asset]
        rows, states, reasons = [], [], []
        for symbol in symbols:
            state, why = State.PRESENT.value, ""
            row, at = stands.get(symbol), evaluated.get(symbol)
            if at is None:
                state, why = State.ABSENT.value, f"{table.key}_missing"
            elif row is None:
                message = f"the {asset} it rests on is not recorded"
                raise NotRecordedError(message)
            elif now - at > limit:
                state, why = State.FAILED.value, f"{asset}_stale: {now - at:.0f} s > {limit} s"
            elif now - at < -CLOCK_SKEW_SEC:
                state, why = State.FAILED.value, f"{asset}_in_future: {at - now:.0f} s ahead of the clock"
            elif table.presence and not row[table.presence]:
                state, why = State.ABSENT.value, f"no_{asset}"
            if symbol in without:
                said, reason, cycle = without[symbol]
                if cycle == step.cycle_id or said == State.FAILED:
                    state, why = said, reason
            rows.append(row)
            states.append(state)
            reasons.append(why)
        return Loaded(rows, states, reasons)

    def _in_force(self) -> tuple[Settings, Profile]:
        if self.settings is None or self.profile is None:
            message = "settings and parameters are not recorded yet"
            raise NotRecordedError(message)
        return self.settings, self.profile

    def expired(self, table: Table, symbol: str, now: float) -> bool:
        """Say whether a row has outlived its lifetime, by the clock of the host: nobody has recorded the server's."""
        return now - self.evaluated[table.asset].get(symbol, 0) > self.lifetime_sec(table)

    def lifetime_sec(self, table: Table) -> int:
        """Give how long a row lives under these settings when nothing renews it."""
        settings, _ = self._in_force()
        return table.lifetime_sec(partial(getattr, settings))

    def _targets(self, symbols: Sequence[str]) -> dict[str, Scored]:
        return {symbol: Scored(**_with_nan(row)) for symbol, row in self._input("base_targets", symbols).items()}

    def _input(self, table: str, symbols: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Give the rows of an input as they were read last."""
        rows = self.inputs[table]
        if any(symbol not in rows for symbol in symbols):
            message = f"{table} is not recorded yet"
            raise NotRecordedError(message)
        return {symbol: rows[symbol] for symbol in symbols}

    def _tracked(self, symbol: str) -> Reading[dict[str, Any]]:
        row = self.published["position"].get(symbol)
        if row is None or symbol in self.released:
            return Reading.absent(symbol, "position_missing")
        return Reading.present(symbol, row)

    def _let_go(self, inputs: Inputs, doubtful: Mapping[str, Any]) -> None:
        """Do what the live asset does to the kept rows of symbols that show no position."""
        rows = self.published["position"]
        for reading in inputs.raw:
            symbol = reading.symbol
            if symbol not in rows:
                continue
            if isinstance(reading.value, Flat) and symbol not in doubtful:
                self.released.add(symbol)
            elif reading.state is State.ABSENT or symbol in doubtful:
                kept = {**rows[symbol], **(doubtful[symbol].row() if symbol in doubtful else {}), "held": False}
                rows[symbol] = kept

    def stand(self, table: Table, rows: Iterable[dict[str, Any]]) -> None:
        """Let published rows stand; they are kept, and belong to nobody else then."""
        last, evaluated = self.published.setdefault(table.asset, {}), self.evaluated[table.asset]
        for row in rows:
            symbol = row["symbol"]
            written_at = row["written_at"] = row["published_at_utc"] = row.pop("at")
            if row["cause"] == "unchanged" and symbol in last:  # kept current: it is no publication
                row["published_at_utc"] = last[symbol]["published_at_utc"]
            last[symbol] = row
            evaluated[symbol] = int(written_at.timestamp())
            if table is POSITION:
                self.released.discard(symbol)

    def standing_of(self, table: Table, step: Step, symbols: Iterable[str]) -> dict[str, dict[str, Any] | None]:
        """Give the rows that a publication of a step is judged by; ``None`` where none stands."""
        last, now = self.published[table.asset], step.at.timestamp()
        return {
            one: None
            if (table is POSITION and one in self.released) or one not in last or self.expired(table, one, now)
            else last[one]
            for one in symbols
        }

    def causes(self, table: Table, step: Step, present: pl.DataFrame, computed: pl.DataFrame) -> dict[str, str]:
        """Say which of the computed rows are publications, and why."""
        settings, profile = self._in_force()
        moments = dict.fromkeys(computed["symbol"], step.at)
        return causes_of(table, present, computed, moments, self.standing_of(table, step, moments), settings, profile)


def causes_of(
    table: Table,
    present: pl.DataFrame,
    computed: pl.DataFrame,
    moments: Mapping[str, datetime],
    stands: Mapping[str, Mapping[str, Any] | None],
    settings: Settings,
    profile: Profile,
) -> dict[str, str]:
    """Say which computed rows are publications, and why.

    Parameters
    ----------
    table
        Their contract.
    present, computed
        Rows as they were computed, and as they read back, by label.
    moments, stands
        When each was published, and what it is judged by, by label.
    settings, profile
        In force.
    """
    if table.asset == "trade_intent":
        rows = present.select("symbol", "cause", "due", "replaces").iter_rows()
        return {
            symbol: cause or ("unchanged" if due else "nothing due")
            for symbol, cause, due, replaces in rows
            if cause is not None or replaces is None
        }
    if not table.rate_limited:
        of_another = table is CAPITAL_EFFICIENCY and settings.efficiency_mode == "external"  # which is read, not published
        return dict.fromkeys(computed["symbol"], "read" if of_another else "first")
    names = [one.name for one in table.fields if one.change is not Change.IGNORED or table.outdated is not None]
    causes = {}
    for row in computed.select("symbol", *names).iter_rows(named=True):
        label = row["symbol"]
        row["profile"] = profile.fingerprint_of(symbol_of(label))
        cause = publication_due(
            table,
            stands[label],
            row,
            now=moments[label],
            change_eps_pct=settings.change_eps_pct,
            max_age_sec=settings.max_publish_age_sec,
        )
        if cause is not None:
            causes[label] = cause
        elif table.kept_current:
            causes[label] = "unchanged"
    return causes


def _noted(step: Step, *names: str) -> Mapping[str, Any]:
    """Give what a step has noted of itself; steps of older versions have not."""
    if any(name not in step.facts for name in names):
        message = "recorded by a version that did not keep its inputs"
        raise NotRecordedError(message)
    return step.facts


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None and name in UNKNOWN else value for name, value in row.items()}
