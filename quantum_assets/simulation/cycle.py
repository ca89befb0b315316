"""One seeded run: cycle after cycle, each of which may end at any of its writes, and what is checked after it.

Here belong the order of the steps, what each of them writes, and counting permits, which the server's script does live
(``resources/governor/lua/decide.lua``). What is computed, judged and due comes from the functions of the product.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson
import polars as pl

from quantum_assets.allocation_target import hint_rows
from quantum_assets.replay.standing import Standing, Step
from quantum_assets.simulation.memory import Memory
from quantum_assets.simulation.world import World
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ACCOUNT, ContractError, Table, stamps
from quantum_core.contracts.tables import (
    NO_SYMBOL,
    PERMIT_TTL_SEC,
    POSITION,
    PUBLISHED_TABLES,
    RISK_GUARD,
    SEEN_TTL_SEC,
)
from quantum_core.kernels.governor.limits import BURST_SEC, HOUR_SEC
from quantum_core.kernels.governor.risk_guard import GUARDS, RiskGuardTheta, assess
from quantum_core.settings import Settings
from resources.governor.account import account_row, read_account, utc_date
from resources.governor.decisions import INVALID, decided_again, rests_on_nothing
from resources.governor.guards import Enforced, guard_state
from resources.governor.judge import judge
from resources.governor.limits import QTY, USD, amount_of
from resources.governor.plan import PLAN_MAX_AGE_SEC, Decision, kind_of, parse_plan
from resources.inputs.candle_series import Candles
from resources.inputs.candles import CandleReader
from resources.inputs.foreign import read_efficiency, read_scored
from resources.inputs.position_snapshots import snapshot_row
from resources.inputs.positions import PositionReader
from resources.recorder.tape import as_read

ASSETS = (
    *("market_state", "position", "risk_proposal", "harvest_proposal", "allocation_target", "position_size"),
    *("risk_guard", "trade_intent", "governor_permit"),
)
WRITES_MAX = 40  # a cycle that is interrupted is so at one of so many writes
AWAY, DEATH = "redis away", "worker death"

Row = dict[str, Any]


class InterruptedCycleError(Exception):
    """The server is away from here on, or the worker is dead."""


@dataclass
class Made:
    """What one cycle has done.

    Attributes
    ----------
    number, now
        Which cycle, and when by the host's clock.
    whole
        Whether it came to its end.
    published
        Rows that were written, by asset and symbol, as they read back.
    evaluated
        Symbols that were evaluated with a result, by asset.
    expired
        Symbols whose rows were gone when it began, by asset.
    decided
        Events of the decisions.
    faults
        What broke its contract while it was written: (name, detail).
    """

    number: int
    now: datetime
    whole: bool = False
    published: dict[str, dict[str, Row]] = field(default_factory=lambda: defaultdict(dict))
    evaluated: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    expired: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    decided: list[dict[str, str]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


class Simulated(Standing):
    """What stands in the simulation: candles come from the reader.

    Parameters
    ----------
    settings
        In force.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, settings.own_profile)
        self.candles: Mapping[str, Reading[Candles]] = {}

    def readings(self, step: Step) -> Mapping[str, Reading[Candles]]:  # noqa: ARG002 - those of this cycle
        """Give the candles of this cycle."""
        return self.candles

    def bars(self, symbol: str) -> Candles | None:
        """Give the candles of this cycle that were made by a market."""
        candles = self.candles[symbol].value
        return candles if candles is not None and candles.source != "synthetic" else None

    def expired(self, table: Table, symbol: str, now: float) -> bool:  # noqa: ARG002 - of what it inherits
        """Say no: what has expired by the server's clock is forgotten."""
        return False

    def forget(self, asset: str, symbol: str) -> None:
        """Let a row be gone, because it has expired."""
        self.published[asset].pop(symbol, None)
        self.evaluated[asset].pop(symbol, None)


class Run:
    """A world and the product in it.

    Parameters
    ----------
    seed
        Of everything that happens.
    settings
        In force.

    Attributes
    ----------
    world, memory, standing
        What others write, where it is, and what the product has made of it.
    events
        Every decision so far, as its record.
    permits
        Plans permitted in the last minute, with their ends, epoch s.
    publications
        Rows written so far, by asset.
    """

    def __init__(self, seed: int, settings: Settings) -> None:
        self.seed, self.settings = seed, settings
        self.world = World(seed, settings)
        self.memory: Memory = self.world.memory
        self.standing = Simulated(settings)
        self.events: list[dict[str, str]] = []
        self.permits: dict[str, float] = {}
        self.publications: Counter[str] = Counter()
        self.cycles = 0
        self._remembered: dict[str, str] = {}
        self._granted: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._today: dict[tuple[str, str, str, str], float] = defaultdict(float)
        self._seen: dict[str, float] = {}
        self._writes_left: int | None = None
        self._minute = -1
        self._hash = hashlib.blake2s()

    @property
    def digest(self) -> str:
        """Fingerprint of everything published and decided so far."""
        return self._hash.hexdigest()

    def cycle(self) -> Made:
        """Let the time of one cycle pass, and run it as far as it comes."""
        self.world.advance()
        self.cycles += 1
        made = Made(self.cycles, self.memory.clock())
        for asset, symbol in self.memory.expire():
            self.standing.forget(asset, symbol)
            made.expired[asset].add(symbol)
        interruption = self._interruption()
        try:
            self._read()
            for asset in ASSETS:
                self._step(asset, made)
            made.whole = True
        except InterruptedCycleError:
            self.world.faults[interruption] += 1
        self._hash.update(repr(self.world.offset).encode())
        return made

    def _interruption(self) -> str:
        rng = self.world.rng
        kind = (AWAY, DEATH, "")[int(rng.choice(3, p=[0.02, 0.04, 0.94]))]
        self._writes_left = int(rng.integers(WRITES_MAX)) if kind else None
        if kind == AWAY and rng.random() < 0.5:
            self._writes_left = 0
        return kind

    def _write(self) -> None:
        """Note that something is about to be written.

        Raises
        ------
        InterruptedCycleError
            It never is.
        """
        if self._writes_left is None:
            return
        if not self._writes_left:
            raise InterruptedCycleError
        self._writes_left -= 1

    def _read(self) -> None:
        """Read what other programs have written."""
        symbols, now, inputs = self.settings.symbols, self.memory.clock(), self.standing.inputs
        self.standing.candles = {one.symbol: one for one in CandleReader(self.memory).read(symbols)}
        snapshots = PositionReader(self.memory).snapshots(symbols, now)
        inputs["raw_positions"] = {one.symbol: snapshot_row(one) for one in snapshots}
        inputs["position_memory"] = {one: {"memory": self._remembered.get(one, ""), "forgotten": ""} for one in symbols}
        targets = read_scored(self.memory, "base_target", "target_usd", symbols, now)
        inputs["base_targets"] = {symbol: asdict(target) for symbol, target in zip(symbols, targets, strict=True)}
        hints = hint_rows(read_efficiency(self.memory, symbols))
        inputs["efficiency_hints"] = dict(zip(symbols, hints, strict=True))
        inputs["account"] = {ACCOUNT: account_row(read_account(self.memory))}

    def _step(self, asset: str, made: Made) -> None:
        if asset == "market_state":
            minute = int(made.now.timestamp() // self.settings.marketstate_publish_interval)
            if minute == self._minute:
                return
            self._minute = minute
        if asset == "risk_guard":
            self._guard(made)
        elif asset == "governor_permit":
            self._decide(made)
        else:
            table = PUBLISHED_TABLES[asset]
            cycle_id = f"cycle-{made.number}"
            step = Step(made.number, asset, cycle_id, "", made.now, {"now": made.now.timestamp()}, {})
            frame = self.standing.frame(step, self.settings.symbols)
            if table is POSITION:
                self._let_go(made)
            self._publish(table, step, frame, made)

    # What is written.

    def _let_go(self, made: Made) -> None:
        """Write what the keys showed, and what became of rows whose position is gone."""
        rows = self.memory.rows.setdefault(POSITION.asset, {})
        for symbol in self.settings.symbols:
            kept = self.standing.published[POSITION.asset].get(symbol)
            if symbol in self.standing.released and symbol in rows:
                self._write()
                del rows[symbol]
            elif kept is not None and symbol in rows and not kept["held"]:
                self._write()
                rows[symbol] = {**rows[symbol], **kept, "last_update_epoch": int(made.now.timestamp())}
        for symbol, memory in self.standing.recalled.items():
            self._write()
            self._remembered[symbol] = orjson.dumps(memory).decode()

    def _publish(self, table: Table, step: Step, frame: pl.DataFrame, made: Made) -> None:
        """Publish what is due, row by row, and let it stand; what was written when the cycle is interrupted stands, too."""
        present = frame.filter(pl.col("state") == State.PRESENT)
        computed = as_read(table, present)
        causes = self.standing.causes(table, step, present, computed)
        profile = self.memory.profile
        written: list[Row] = []
        try:
            for row, again in zip(present.iter_rows(named=True), computed.iter_rows(named=True), strict=True):
                symbol = row["symbol"]
                read_back = self._read_back(table, row, again, step.cycle_id, made)
                if read_back is None:
                    continue
                self._write()
                made.evaluated[table.asset].add(symbol)
                self.standing.without[table.asset].pop(symbol, None)
                if (cause := causes.get(symbol)) is None:
                    self._renew(table, symbol, made)
                    continue
                stamp = {"cause": cause, "profile": profile.fingerprint_of(symbol), "profile_name": profile.name}
                written.append({**again, **stamp, "cycle_id": step.cycle_id, "at": step.at})
                if cause == "unchanged" and (last := self.memory.rows.get(table.asset, {}).get(symbol)):
                    read_back["published_at_utc"] = last["published_at_utc"]
                self.memory.put_row(table, read_back)
                made.published[table.asset][symbol] = read_back
                self.publications[table.asset] += 1
                self._hash.update(repr((table.asset, symbol, cause, sorted(table.encode(row).items()))).encode())
        finally:
            if written:
                self.standing.stand(table, written)
        rest = frame.filter(pl.col("state") != State.PRESENT).select("symbol", "state", "why")
        for symbol, state, why in rest.iter_rows():
            self.standing.without[table.asset][symbol] = (state, why or "", step.cycle_id)

    def _renew(self, table: Table, symbol: str, made: Made) -> None:
        """Note an evaluation that is no publication."""
        rows, epoch = self.memory.rows[table.asset], int(made.now.timestamp())
        self.standing.evaluated[table.asset][symbol] = epoch
        self.memory.put_row(table, {**rows[symbol], "last_update_epoch": epoch, "computed_at_utc": made.now})
        if table.asset == "trade_intent":  # whether it is actionable is renewed by every evaluation
            rows[symbol]["due"] = self.standing.published[table.asset][symbol]["due"]

    def _read_back(self, table: Table, row: Row, computed: Row, cycle_id: str, made: Made) -> Row | None:
        """Write a row as text, and read it again."""
        symbol = row["symbol"]
        try:
            encoded = table.encode(row)
            marks = stamps(table, symbol, encoded, cycle_id, made.now, self.memory.profile.stamp_of(symbol))
            read_back = table.decode({name.encode(): text.encode() for name, text in {**encoded, **marks}.items()})
        except ContractError as error:
            made.faults.append(("contract", f"{table.asset} of {symbol}: {error}"))
            return None
        for item in table.fields:
            if _bits(read_back[item.name]) != _bits(computed[item.name]):
                detail = f"{table.asset} of {symbol}: {item.name} is {computed[item.name]!r}, reads {read_back[item.name]!r}"
                made.faults.append(("round_trip", detail))
        return read_back

    def _guard(self, made: Made) -> None:
        """Judge the account; a guard lives from its first reading on, which is sooner than live."""
        account = read_account(self.memory)
        assessment = assess(account.account, self.memory.profile.theta(RiskGuardTheta))
        for one in assessment.triggered:
            self._write()
            self.memory.put_value(self.memory.keys.of("guard_active", one.guard), one.reason, one.duration_sec)
        live = tuple(guard for guard in GUARDS if self.memory.keys.of("guard_active", guard) in self.memory.values)
        row = guard_state(account, assessment, Enforced(live))
        encoded = RISK_GUARD.encode(row)
        marks = stamps(RISK_GUARD, ACCOUNT, encoded, f"cycle-{made.number}", made.now, self.memory.profile.stamp_of(ACCOUNT))
        self._write()
        self.memory.put(self.memory.keys.of(RISK_GUARD.key), {**encoded, **marks}, RISK_GUARD.ttl_sec)
        self.publications[RISK_GUARD.asset] += 1

    # Plans.

    def _decide(self, made: Made) -> None:
        """Decide the plans that wait, as ``quantum_assets.governor_permit.decide_plans`` does."""
        self.permits = {plan: end for plan, end in self.permits.items() if end > self.world.at}
        oldest = made.now.timestamp() - PLAN_MAX_AGE_SEC
        taken = [parse_plan(entry_id, fields) for entry_id, fields in self.world.plans.items()]
        plans = [plan if plan.invalid or plan.written_at >= oldest else replace(plan, invalid="timestamp") for plan in taken]
        decisions = [Decision(plan, f"{INVALID}{plan.invalid}") for plan in plans if plan.invalid]
        sound = [plan for plan in plans if not plan.invalid]
        decisions += judge(self.memory, sound, made.now) if sound else []
        for decision in decisions:
            self._write()
            self._record(decision, made)
            self._write()
            del self.world.plans[decision.plan.entry_id]

    def _record(self, decision: Decision, made: Made) -> None:
        """Count a plan and record what is decided, at once; a plan that was decided before stays as it was."""
        plan, now = decision.plan, made.now
        if self.world.at < self._seen.get(plan.plan_id, 0.0):
            return
        unit, amount = amount_of(decision)
        slot, kind = plan.symbol or NO_SYMBOL, kind_of(plan)
        times, day = self._granted[slot, kind], (slot, kind, utc_date(now), unit)
        event = {
            "plan_id": plan.plan_id, "symbol": plan.symbol, "action": plan.action, "timestamp_epoch": repr(now.timestamp()),
            "counted_as": kind, "plan_source": plan.source, "unit": unit, "reason": decision.reason,
            "notional": repr(amount) if unit == USD and amount is not None else "",
            "qty": repr(amount) if unit == QTY and amount is not None else "",
            "permits_hour": repr(self.counted(times, now, HOUR_SEC)), "permits_5min": repr(self.counted(times, now, BURST_SEC)),
            "day_total": repr(self._today[day]), **decision.facts,
        }  # fmt: skip
        reason = decision.reason if decision.reason.startswith(INVALID) or rests_on_nothing(event) else decided_again(event)
        if decision.reason and reason != decision.reason:
            made.faults.append(("decided_as_judged", f"{plan.plan_id} is refused for {reason}, was for {decision.reason}"))
        event |= {"reason": reason, "event": "BLOCK" if reason else "PERMIT", "granted": str(int(not reason))}
        if not reason:
            self._today[day] += amount or 0.0
            times.append(now.timestamp())
            self.permits[plan.plan_id] = self.world.at + PERMIT_TTL_SEC
        self._seen[plan.plan_id] = self.world.at + SEEN_TTL_SEC
        self.events.append(event)
        made.decided.append(event)
        self._hash.update(repr((plan.plan_id, reason)).encode())

    def granted(self, now: datetime) -> dict[tuple[str, str], int]:
        """Give the permits of the last hour, by symbol and kind."""
        return {one: self.counted(times, now, HOUR_SEC) for one, times in self._granted.items()}

    @staticmethod
    def counted(times: Sequence[float], now: datetime, span_sec: float) -> int:
        """Count permits within a window that ends now."""
        return sum(now.timestamp() - when < span_sec for when in times)


def _bits(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value
