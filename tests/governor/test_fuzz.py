"""Ten thousand malformed plans, positions, efficiency and equity hashes: no crash, no permit, an outcome by name for each."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quantum_assets.governor_permit import decide_plans
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import RISK_GUARD
from quantum_core.kernels.governor.risk_guard import RiskGuardTheta, assess
from resources.governor.account import read_account
from resources.governor.guards import enforce, guard_state
from resources.governor.permit import hint_rows
from resources.inputs.positions import PositionReader
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from tests.governor.desk import Desk

EACH = 2500
JUNK = (
    "nan", "inf", "-inf", "1e400", "-1e400", "", " ", "0x10", "1_000", "١٢", "1,5", "--1", "1e", "null", "None", "[]", "{}", "true",
    "NaN", "1e308", "9" * 400, "-5", "\x00", "\x1b[31m", "\ud7ff", "🜂", "a\nb", "\r\n$5\r\n", "'; DROP", "<script>", "%s%n", "9" * 19,
)  # fmt: skip
RAW = (b"\xff\xfe", b"\x80", b"\xc3(", b"\x00" * 64, b"A" * 100_000)
PLAN = {
    "plan_id": "p",
    "symbol": "BTCUSDT",
    "action": "OPEN",
    "decision": "EXECUTE",
    "qty": "0.001",
    "price": "1",
    "kill_score": ".5",
}
POSITION = {"symbol": "S", "side": "LONG", "position_amt": "1", "entry_price": "100", "mark_price": "101", "ts_epoch": "1"}
EFFICIENCY = {"efficiency_score": "0.1", "confidence": "0.9", "ts": "1769083200"}
EQUITY = {"equity": "100000", "peak": "100000", "last_update_ts": "1769083200"}


def bad_value(rng: np.random.Generator) -> bytes:
    """Pick something no writer should write."""
    if rng.random() < 0.2:
        return RAW[rng.integers(len(RAW))]
    if rng.random() < 0.2:
        return bytes(rng.integers(0, 256, rng.integers(1, 30), dtype=np.uint8))
    return JUNK[rng.integers(len(JUNK))].encode("utf-8", "surrogatepass")


def spoilt(rng: np.random.Generator, fields: dict[str, str], required: tuple[str, ...]) -> dict[bytes, bytes]:
    """Spoil the first and any of the other required fields, or leave them out; add strangers now and then."""
    row = {name.encode(): value.encode() for name, value in fields.items()}
    victims = {required[0], *rng.choice(required, size=rng.integers(1, len(required) + 1), replace=False)}
    for name in sorted(victims):
        if rng.random() < 0.3 and len(row) > 1:
            row.pop(name.encode(), None)
        else:
            row[name.encode()] = bad_value(rng)
    if rng.random() < 0.2:
        row[bad_value(rng)] = bad_value(rng)
    return row


def wrong_type(store: RedisStore, key: str, number: int) -> None:
    """Put something else than a hash there."""
    client = store.client
    (
        lambda: client.set(key, "x"),
        lambda: client.rpush(key, "x"),
        lambda: client.zadd(key, {"x": 1}),
        lambda: client.xadd(key, {"x": 1}),
        lambda: client.sadd(key, "x"),
    )[number % 5]()


def test_malformed_plans_are_blocked_by_name_and_acknowledged(store: RedisStore) -> None:
    """Poison must neither be granted, nor be retried for ever, nor hold up what stands behind it."""
    rng, desk = np.random.default_rng(1), Desk(store)
    desk.ready("BTCUSDT")
    for number in range(EACH):
        row = spoilt(rng, {**PLAN, "plan_id": f"p{number}"}, ("qty", "plan_id", "symbol", "action", "decision", "price"))
        store.client.xadd(store.keys.of("stream_plans"), row)
    outcomes: Counter[str] = Counter()
    for _ in range(EACH // 1000 + 2):
        outcomes.update(one.reason for one in decide_plans(store, cycle_id="c"))
    assert not store.client.keys("quantum:permit:*")
    assert desk.pending() == 0
    assert store.client.xinfo_groups(store.keys.of("stream_plans"))[0]["lag"] == 0
    assert "" not in outcomes
    assert all(reason.startswith("invalid_plan:") or reason in NAMED for reason in outcomes)
    desk.plan("well-formed", "BTCUSDT", "CLOSE")
    desk.decide()
    assert desk.outcome("well-formed") == ""


NAMED = (
    "evaluation_error",
    "stale_market_state",
    "unknown_symbol",
    "disarmed",
    "kill_score_critical_non_close",
    "daily_limit_exceeded",
)


@pytest.mark.slow
def test_malformed_positions_open_nothing(make_store: Callable[..., RedisStore]) -> None:
    """A position nobody can read is neither none nor any."""
    rng = np.random.default_rng(2)
    symbols = [f"S{number}USDT" for number in range(EACH)]
    store = make_store(symbols=",".join(symbols))
    desk = Desk(store)
    desk.ready(*symbols)
    for number, symbol in enumerate(symbols):
        key = store.keys.of("raw_position", symbol)
        if number % 10 == 0:
            wrong_type(store, key, number // 10)
        else:
            row = spoilt(rng, {**POSITION, "symbol": symbol}, ("side", "position_amt", "entry_price", "mark_price"))
            store.client.hset(key, mapping=row)  # type: ignore[arg-type]
        desk.plan(f"p{number}", symbol)
    readings = PositionReader(store).read(symbols)
    assert all(one.reason for one in readings if one.state is State.FAILED)
    unreadable = {one.symbol for one in readings if one.state is State.FAILED}
    assert len(unreadable) > EACH / 2  # the rest is junk that happens to be a position, or none
    reasons: dict[str, set[str]] = {"unreadable": set(), "readable": set()}
    for _ in range(EACH // 1000 + 1):
        store.client.delete("quantum:governor:disarmed", *store.client.keys("quantum:governor:errors:*"), "x")
        for one in decide_plans(store, cycle_id="c"):
            reasons["unreadable" if one.plan.symbol in unreadable else "readable"].add(one.reason)
    assert reasons["unreadable"] == {"evaluation_error"}
    assert reasons["readable"] <= {""}


@pytest.mark.slow
def test_malformed_efficiency_only_makes_hints_neutral(make_store: Callable[..., RedisStore]) -> None:
    """A hint that cannot be trusted says nothing; it neither blocks nor shrinks."""
    rng = np.random.default_rng(3)
    symbols = [f"S{number}USDT" for number in range(EACH)]
    store = make_store(symbols=",".join(symbols))
    for number, symbol in enumerate(symbols):
        key = store.keys.of("capital_efficiency", symbol)
        if number % 10 == 0:
            wrong_type(store, key, number // 10)
        else:
            row = spoilt(rng, EFFICIENCY, ("efficiency_score",))
            store.client.hset(key, mapping=row)  # type: ignore[arg-type]
    rows = hint_rows(store, symbols, store.clock())
    assert {row["eff_action"] for row in rows} == {"NONE"}
    assert {row["eff_factor"] for row in rows} == {1.0}
    assert {row["eff_reason"] for row in rows} <= {"redis_error", "missing_eff"}


@pytest.mark.slow
def test_malformed_equity_opens_nothing(make_store: Callable[..., RedisStore]) -> None:
    """An account whose equity is unknown has no room for risk."""
    rng, store = np.random.default_rng(4), make_store()
    desk = Desk(store)
    desk.ready("BTCUSDT")
    key = store.keys.of("equity")
    refused: Counter[str] = Counter()
    for number in range(EACH):
        if number % 100 == 0:  # a store gives up on a server that has cost it seconds within ten, as so many calls do
            store = make_store()
            desk.store = store
        store.client.delete(key, *store.client.keys("quantum:risk:guard_active:*"), "x")
        if number % 10 == 0:
            wrong_type(store, key, number // 10)
        else:
            spoilt_row: Any = spoilt(rng, EQUITY, ("equity", "peak", "last_update_ts"))
            store.client.hset(key, mapping=spoilt_row)
        account = read_account(store)
        assessment = assess(account.account, RiskGuardTheta())
        row = guard_state(account, assessment, enforce(store, account, assessment, cycle_id="c"))
        publish(store, RISK_GUARD, [row], cycle_id="c")
        if number % 25 == 0:
            store.client.delete("quantum:governor:disarmed", *store.client.keys("quantum:governor:errors:*"), "x")
            desk.plan(f"p{number}", "BTCUSDT")
            refused.update(one.reason for one in decide_plans(store, cycle_id="c"))
    assert sum(refused.values()) == EACH // 25
    assert not store.client.keys("quantum:permit:*")
    assert all(reason == "evaluation_error" or reason.startswith("risk_guard_") for reason in refused), refused
