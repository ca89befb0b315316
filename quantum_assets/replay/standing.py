"""What stands between two steps of a cycle, and what each asset computes from it, without Redis and Dagster.

Here belong the rows as they stand, the inputs as they were read, and the way from both through the functions of the assets.
Where inputs come from and what becomes of a result is for who inherits: a record of the past
(:mod:`quantum_assets.replay.rerun`) or a simulation (:mod:`quantum_assets.simulation`).
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from quantum_assets.allocation_target import allocation_frame
from quantum_assets.harvest_proposal import harvest_frame
from quantum_assets.market_state import market_state_frame
from quantum_assets.position import Inputs, judge_snapshots, memory_of, tracked_frame
from quantum_assets.position_size import no_equity, size_frame
from quantum_assets.risk_proposal import risk_frame
from quantum_assets.shared.rows import assemble, shared_by_legs, without_result
from quantum_assets.trade_intent import GONE, both_proposals, intent_frame
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ACCOUNT, Table, publication_due
from quantum_core.contracts.tables import POSITION, PUBLISHED_TABLES, RISK_PROPOSAL
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint
from quantum_core.kernels.governor.risk_guard import Account
from quantum_core.kernels.position.identity import Memory
from quantum_core.kernels.position.tracking import TrackingTheta
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings
from resources.governor.account import AccountReading
from resources.inputs.candle_series import Candles, grid_theta_of
from resources.inputs.foreign import Scored
from resources.inputs.position_snapshots import Flat, snapshot_of

BY_SYMBOL = (
    "raw_positions",
    "position_memory",
    "position_bars",
    "base_targets",
    "efficiency_hints",
    "account",
)  # recorded on change
UNKNOWN = ("value", "confidence")  # of a target that cannot be read, NaN
DIGESTED = ("risk_proposal", "harvest_proposal")  # an intent names the proposals it rests on


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
    tables: Mapping[str, pl.DataFrame]


class Standing(ABC):
    """What a step finds: rows as they stand and inputs as they were read.

    Attributes
    ----------
    settings, profile
        In force; None where they are not known yet.
    inputs
        Last row of each input in ``BY_SYMBOL``, by table and symbol.
    latest, published
        Rows as they stand, by asset: as one frame, and by symbol.
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
        self.latest: dict[str, pl.DataFrame] = {}
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

    # What each asset computes, from what stands.

    def frame(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        """Compute the frame of a step's asset: every symbol with ``state``, ``why`` and the fields of the table.

        Raises
        ------
        NotRecordedError
            What it rests on is not known.
        """
        computed: pl.DataFrame = getattr(self, f"_{step.asset}")(step, symbols)
        return computed

    def _market_state(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        settings, profile = self._in_force()
        readings = self.readings(step)
        grid, ticks = grid_theta_of(settings, profile), settings.ticks
        return shared_by_legs(
            symbols, lambda names: market_state_frame([readings[one] for one in names], grid, ticks, profile=profile)
        )

    def _position(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
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
            {one: memory_of(json.loads(memories[one]["memory"]), now) for one in symbols if memories[one]["memory"]},
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
        frame, _ = tracked_frame(symbols, inputs, shown, {symbol: self.bars(symbol) for symbol in shown.cases}, settings, profile)
        self._let_go(inputs, shown.doubtful)
        return frame

    def _risk_proposal(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        _, profile = self._in_force()
        return risk_frame(self.loaded("market_state", symbols, step), self.loaded("position", symbols, step), profile)

    def _harvest_proposal(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        _, profile = self._in_force()
        names = ("market_state", "position", "risk_proposal")
        market, position, risk = (self.loaded(name, symbols, step) for name in names)
        return harvest_frame(market, position, risk, profile)

    def _allocation_target(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        _, profile = self._in_force()
        now, hints = step.facts["now"], self.inputs["efficiency_hints"]

        def proposed(names: Sequence[str]) -> pl.DataFrame:
            if any(one not in hints for one in names):
                message = "its efficiencies are not recorded yet"
                raise NotRecordedError(message)
            columns = {
                one.name: np.array(
                    [hints[name][one.name] if hints[name][one.name] is not None else math.nan for name in names],
                    dtype=object if one.name == "state" else float,
                )
                for one in fields(EfficiencyHint)
            }
            return allocation_frame(names, EfficiencyHint(**columns), self._targets(names), now, profile)

        return shared_by_legs(symbols, proposed)

    def _position_size(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        settings, profile = self._in_force()
        row = self.inputs["account"].get(ACCOUNT)
        if row is None:
            message = "the account is not recorded yet"
            raise NotRecordedError(message)
        numbers = {one.name: math.nan if row[one.name] is None else row[one.name] for one in fields(Account)}
        account = AccountReading(Account(**numbers), {}, row["ts_epoch"], row["source"] or "", row["note"] or "")
        if why := no_equity(account, profile):
            return assemble(symbols, {"symbol": []}, without_result([(one, State.ABSENT, why) for one in symbols]))
        market, allocation = (self.loaded(name, symbols, step) for name in ("market_state", "allocation_target"))
        return size_frame(market, allocation, self._targets(symbols), account, profile, settings)

    def _trade_intent(self, step: Step, symbols: Sequence[str]) -> pl.DataFrame:
        settings, _ = self._in_force()
        names = ("position", "risk_proposal", "harvest_proposal")
        rows, rest = both_proposals(*(self.loaded(name, symbols, step) for name in names))
        last = self.published["trade_intent"]
        kept: list[Reading[dict[str, Any]]] = [
            Reading.present(one, last[one]) if one in last else Reading.absent(one, "missing") for one in rows["symbol"]
        ]
        frame = intent_frame(symbols, rows, rest, kept, change_eps_pct=settings.change_eps_pct)
        asked = dict(frame.filter(pl.col("state") == State.PRESENT).select("symbol", "due").iter_rows())
        asked |= dict.fromkeys(rest.filter(pl.col("why").is_in(GONE))["symbol"], False)
        for symbol in asked.keys() & last.keys():  # renewed by every evaluation, which is no publication
            last[symbol]["due"] = asked[symbol]
        return frame

    # What stands.

    def loaded(self, asset: str, symbols: Sequence[str], step: Step) -> pl.DataFrame:
        """Give the frame of an asset as a step of that moment has read it: every field, ``state`` and ``why``."""
        settings, _ = self._in_force()
        table = PUBLISHED_TABLES[asset]
        order = pl.DataFrame({"symbol": list(symbols)}, schema={"symbol": pl.String})
        latest = self.latest.get(asset)
        empty = {"symbol": pl.String, **{name: item.codec.dtype for name, item in table.by_name.items() if name != "symbol"}}
        rows = order.join(
            pl.DataFrame(schema=empty) if latest is None else latest, on="symbol", how="left", maintain_order="left"
        )
        limit = settings.marketstate_max_age_sec if asset == "market_state" else settings.proposal_max_age_sec
        now, evaluated, without = step.at.timestamp(), self.evaluated[asset], self.without[asset]
        states, reasons, stands = [], [], self.published[asset]
        held = rows[table.presence].to_list() if table.presence else [True] * len(rows)
        for symbol, present in zip(symbols, held, strict=True):
            state, why = str(State.PRESENT), ""
            if symbol in evaluated and symbol not in stands:
                message = f"the {asset} it rests on is not recorded"
                raise NotRecordedError(message)
            if symbol not in evaluated:
                state, why = str(State.ABSENT), f"{table.key}_missing"
            elif now - evaluated[symbol] > limit:
                state, why = str(State.FAILED), f"{asset}_stale: {now - evaluated[symbol]:.0f} s > {limit} s"
            elif now - evaluated[symbol] < -CLOCK_SKEW_SEC:
                state, why = str(State.FAILED), f"{asset}_in_future: {evaluated[symbol] - now:.0f} s ahead of the clock"
            elif not present:
                state, why = str(State.ABSENT), f"no_{asset}"
            if symbol in without:
                said, reason, cycle = without[symbol]
                if cycle == step.cycle_id or said == State.FAILED:
                    state, why = said, reason
            states.append(state)
            reasons.append(why)
        return rows.with_columns(state=pl.Series(states, dtype=pl.String), why=pl.Series(reasons, dtype=pl.String))

    def _in_force(self) -> tuple[Settings, Profile]:
        if self.settings is None or self.profile is None:
            message = "settings and parameters are not recorded yet"
            raise NotRecordedError(message)
        return self.settings, self.profile

    def expired(self, table: Table, symbol: str, now: float) -> bool:
        """Say whether a row has outlived its lifetime, by the clock of the host: nobody has recorded the server's."""
        settings, _ = self._in_force()
        ttl_sec = table.ttl_sec if table.ttl_intervals_of is None else 10 * int(getattr(settings, table.ttl_intervals_of))
        return now - self.evaluated[table.asset].get(symbol, 0) > ttl_sec

    def _targets(self, symbols: Sequence[str]) -> list[Scored]:
        rows = self.inputs["base_targets"]
        if any(symbol not in rows for symbol in symbols):
            message = "its targets are not recorded yet"
            raise NotRecordedError(message)
        return [Scored(**_with_nan(rows[symbol])) for symbol in symbols]

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

    def stand(self, table: Table, rows: pl.DataFrame) -> None:
        """Let published rows stand."""
        stamped = rows.rename({"at": "published_at_utc"}).drop("seq", strict=False)
        if table.asset in DIGESTED:
            digests = [table.digest(table.encode(row)) for row in stamped.iter_rows(named=True)]
            stamped = stamped.with_columns(digest=pl.Series(digests, dtype=pl.String))
        last = self.published.setdefault(table.asset, {})
        for row in stamped.iter_rows(named=True):
            symbol = row["symbol"]
            row["written_at"] = row["published_at_utc"]
            if row["cause"] == "unchanged" and symbol in last:  # kept current: it is no publication
                row["published_at_utc"] = last[symbol]["published_at_utc"]
            last[symbol] = row
            self.evaluated[table.asset][symbol] = int(row["written_at"].timestamp())
            if table is POSITION:
                self.released.discard(symbol)
        before = self.latest.get(table.asset)
        if before is None:
            self.latest[table.asset] = stamped
        else:
            kept = before.filter(~pl.col("symbol").is_in(stamped["symbol"].implode()))
            self.latest[table.asset] = pl.concat([kept, stamped], how="diagonal_relaxed")

    def causes(self, table: Table, step: Step, present: pl.DataFrame, computed: pl.DataFrame) -> dict[str, str]:
        """Say which of the computed rows are publications, and why."""
        settings, profile = self._in_force()
        if table.asset == "trade_intent":
            rows = present.select("symbol", "cause", "due", "replaces").iter_rows()
            return {
                symbol: cause or ("unchanged" if due else "nothing due")
                for symbol, cause, due, replaces in rows
                if cause is not None or replaces is None
            }
        if not table.rate_limited:
            return dict.fromkeys(computed["symbol"], "first")
        last, causes = self.published[table.asset], {}
        for row in computed.iter_rows(named=True):
            symbol = row["symbol"]
            stands = last.get(symbol)
            released = symbol in self.released and table is POSITION
            if released or (stands is not None and self.expired(table, symbol, step.at.timestamp())):
                stands = None
            row["profile"] = profile.fingerprint_of(symbol)
            cause = publication_due(
                table,
                stands,
                row,
                now=step.at,
                change_eps_pct=settings.change_eps_pct,
                max_age_sec=settings.max_publish_age_sec,
            )
            if cause is not None:
                causes[symbol] = cause
            elif table.kept_current:
                causes[symbol] = "unchanged"
        return causes


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None and name in UNKNOWN else value for name, value in row.items()}
