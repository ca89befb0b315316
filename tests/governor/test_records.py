"""Every decision says what it was judged by, and why; and from that record alone it is made again."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner

from quantum_assets import governor_permit
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, POSITION
from quantum_ops.cli.desk.explain import explain, fact_text, facts_of, limit_line
from resources.governor import judge, queue, record
from resources.governor.decisions import IncompleteRecordError, decided_again, limits_met, look_up
from resources.governor.plan import Plan
from resources.governor.switches import arm, disarm, kill
from resources.store.redis_store import RedisStore
from tests.governor.desk import Desk
from tests.world import write_target

SYMBOL = "BTCUSDT"


@pytest.fixture
def desk(store: RedisStore) -> Desk:
    """A desk where everything is in order."""
    desk = Desk(store)
    desk.ready(SYMBOL)
    return desk


def only(desk: Desk, plan_id: str) -> dict[str, str]:
    """Give the one event of a plan."""
    (event,) = look_up(desk.store, plan_id).events
    return dict(event)


def granted_ago(*ages_sec: float) -> Callable[[Desk], object]:
    """Build what leaves permits of the past."""
    return lambda desk: desk.store.client.rpush(
        "quantum:governor:exec:BTCUSDT", *(desk.store.clock().timestamp() - age for age in ages_sec)
    )


def cap(desk: Desk) -> None:
    """Put a target in force that the position exceeds."""
    write_target(desk.store, SYMBOL, 99.0)
    desk.store.client.hset("quantum:allocation:target:BTCUSDT", "mode", "enforce")


def spend(desk: Desk) -> None:
    """Use up nearly all of the day."""
    desk.store.client.set(f"quantum:governor:daily:BTCUSDT:{desk.store.clock().date()}:usd", "4999.95")


WAYS: dict[str, Callable[[Desk], object]] = {
    "": lambda desk: desk.ready(SYMBOL),
    "kill_switch_active": lambda desk: kill(desk.store, reason="test", by="test"),
    "stale_market_state": lambda desk: desk.put(MARKET_STATE, SYMBOL, age_sec=121),
    "stale_harvest_proposal": lambda desk: desk.put(HARVEST_PROPOSAL, SYMBOL, age_sec=121),
    "stale_position": lambda desk: desk.put(POSITION, SYMBOL, age_sec=121),
    "synthetic_data": lambda desk: desk.put(MARKET_STATE, SYMBOL, source="replay"),
    "kill_score_critical_non_close": lambda desk: desk.put(HARVEST_PROPOSAL, SYMBOL, kill_score=0.8),
    "hourly_limit_exceeded": granted_ago(400, 400, 400),
    "burst_limit_exceeded": granted_ago(1, 1),
    "daily_limit_exceeded": spend,
    "p29_allocation_cap": cap,
    "evaluation_error": lambda desk: desk.store.client.hset("quantum:marketstate:BTCUSDT", "sigma", "x"),
    "disarmed": lambda desk: desk.store.client.set("quantum:governor:disarmed", "{}"),
    "risk_guard_DRAWDOWN": lambda desk: desk.store.client.set("quantum:risk:guard_active:DRAWDOWN", "{}"),
}


@pytest.mark.parametrize("reason", WAYS)
def test_a_decision_is_made_again_from_its_record(desk: Desk, reason: str) -> None:
    """Whoever asks why a year later has the stream, not the Redis of that day."""
    WAYS[reason](desk)
    desk.plan("p1", SYMBOL)
    desk.decide()
    assert desk.outcome("p1") == reason
    event = only(desk, "p1")
    assert event["reason"] == reason
    assert decided_again(event) == reason
    assert bool(event["gate"]) == bool(reason)


def test_a_symbol_nobody_computes_is_named_and_its_closes_go_on(desk: Desk) -> None:
    """A misspelt symbol is no stale feed; and what reduces risk is judged as it always was."""
    for plan_id, action in (("open", "OPEN"), ("close", "CLOSE")):
        desk.plan(plan_id, "BTCUSDC", action)
    desk.decide()
    assert [desk.outcome("open"), desk.outcome("close")] == ["unknown_symbol", ""]
    event = only(desk, "open")
    assert (event["unknown_symbol"], event["gate"], decided_again(event)) == ("1", "4", "unknown_symbol")
    desk.ready("BTCUSDC")
    desk.plan("computed-elsewhere", "BTCUSDC")
    desk.decide()
    assert desk.outcome("computed-elsewhere") == ""


def test_a_record_from_before_a_gate_is_decided_again_without_it(desk: Desk) -> None:
    """An upgrade must not turn the decisions of yesterday into forgeries."""
    desk.put(MARKET_STATE, SYMBOL, age_sec=121)
    desk.plan("p1", SYMBOL)
    desk.decide()
    event = only(desk, "p1")
    del event["unknown_symbol"]
    assert decided_again(event) == "stale_market_state"


def test_the_record_tells_values_ages_cycles_and_counts(desk: Desk) -> None:
    """Inputs, the gate, and the limits before and after."""
    desk.put(MARKET_STATE, SYMBOL, age_sec=7)
    for number in range(3):
        desk.plan(f"p{number}", SYMBOL, "CLOSE", qty=2, price=10)
    desk.decide()
    first, second, third = (only(desk, f"p{number}") for number in range(3))
    assert float(first["market_state_age_sec"]) == pytest.approx(7, abs=1)
    assert first["market_state_cycle_id"] == "c0"
    assert first["cycle_id"] == "c1"
    assert (first["permits_5min"], first["permits_5min_after"]) == ("0", "1")
    assert (second["permits_5min"], second["permits_5min_after"]) == ("1", "2")
    assert (third["permits_5min"], third["permits_5min_after"], third["gate"]) == ("2", "2", "8")
    assert (float(second["day_total"]), float(second["day_total_after"])) == (200, 400)  # by the mark of 100, not the plan's 10


def test_a_changed_record_does_not_lead_to_its_outcome(desk: Desk) -> None:
    """A forged permit shows."""
    desk.plan("p1", SYMBOL)
    desk.decide()
    event = only(desk, "p1")
    assert decided_again({**event, "kill_switch": "1"}) == "kill_switch_active"
    assert decided_again({**event, "market_state_age_sec": ""}) == "stale_market_state"
    with pytest.raises(IncompleteRecordError, match="theta"):
        decided_again({**event, "theta": "[]"})
    with pytest.raises(IncompleteRecordError, match="lacks"):
        decided_again({name: text for name, text in event.items() if name != "non_live"})


def test_an_exception_anywhere_blocks_that_plan_and_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems of this kind failed open on an exception."""
    true = judge._kill_score

    def faulty(plan: Plan, reading: object) -> float:
        if plan.plan_id == "poison":
            raise ZeroDivisionError
        return true(plan, reading)

    monkeypatch.setattr(judge, "_kill_score", faulty)
    for plan_id in ("before", "poison", "after"):
        desk.plan(plan_id, SYMBOL, "CLOSE")
    desk.decide()
    assert [desk.outcome(plan_id) for plan_id in ("before", "poison", "after")] == ["", "evaluation_error", ""]
    assert only(desk, "poison")["error"] == "ZeroDivisionError"
    assert desk.pending() == 0


def test_after_a_burst_openings_are_shut_until_a_person_arms(desk: Desk) -> None:
    """And only a person with a name and a reason; the closes go on."""
    for number in range(3):
        desk.plan(f"p{number}", SYMBOL)
    desk.decide()
    assert [event["event"] for event in desk.events()].count("AUTO_DISARM") == 1
    desk.plan("open", SYMBOL)
    desk.plan("close", SYMBOL, "CLOSE")
    desk.decide()
    assert [desk.outcome("open"), desk.outcome("close")] == ["disarmed", ""]
    assert "disarm" in arm(desk.store, name="Ann", reason="burst was a test")
    desk.ready("ETHUSDT")
    desk.plan("again", "ETHUSDT")
    desk.decide()
    assert desk.outcome("again") == ""


def test_five_plans_that_cannot_be_evaluated_disarm(desk: Desk) -> None:
    """Something is very wrong then; four may be one bad symbol."""
    desk.store.client.set("quantum:marketstate:XRPUSDT", "junk")
    for number in range(4):
        desk.plan(f"p{number}", "XRPUSDT")
    desk.decide()
    assert not desk.events("AUTO_DISARM")
    desk.plan("p4", "XRPUSDT")
    desk.decide()
    assert len(desk.events("AUTO_DISARM")) == 1


def test_explain_tells_why_and_exits_by_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 decided and again the same, 1 unknown or not as recorded."""
    monkeypatch.setenv("REDIS_URL", desk.store.settings.url)
    desk.plan("p1", SYMBOL)
    desk.decide()
    told = CliRunner().invoke(explain, ["p1"])
    assert told.exit_code == 0, told.output
    assert "a permit" in told.output
    assert CliRunner().invoke(explain, ["nobody"]).exit_code == 1
    as_json = json.loads(CliRunner().invoke(explain, ["p1", "--json"]).stdout)
    assert as_json["decided_again"] == as_json["event"]["reason"] == ""
    assert len(as_json["gates"]) == 25
    stream = desk.store.keys.of("stream_governor_events")
    desk.store.client.delete(stream)
    desk.store.client.xadd(stream, {**as_json["event"], "unreadable": "1"})
    forged = CliRunner().invoke(explain, ["p1"])
    assert forged.exit_code == 1
    assert "evaluation_error" in forged.output


def test_a_recorded_fact_is_rounded_for_people() -> None:
    """6.127177000045776 s of age is noise; the record and --json have all of it."""
    assert fact_text("market_state_age_sec", "95.127177000045776") == "1 min 35 s"
    assert fact_text("notional", "113.67678000000001") == "113.677"
    event = {"kill_score": "0.75479017", "theta": '{"max_data_age_sec":120}', "cycle_id": "c"}
    assert facts_of(event) == [("kill_score", "0.75479"), ("limit max_data_age_sec", "120")]
    assert facts_of({"theta": "["}) == []
    for text in ("0", "3", "t1795947707.110058", "candles,redis_hash"):
        assert fact_text("permits_hour", text) == text


def test_explain_does_not_promise_an_opening_while_the_kill_switch_is_set(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each limit speaks of itself only; together they read as "it passes now"."""
    desk.ready(SYMBOL)
    desk.plan("p1", SYMBOL, "OPEN", qty=1, price=100)
    desk.decide()
    monkeypatch.setenv("REDIS_URL", desk.store.settings.url)
    kill(desk.store, reason="wrong prices", by="Ada")
    told = CliRunner().invoke(explain, ["p1"]).output
    assert "the next one passes" not in told
    assert "Openings are blocked now all the same: kill switch: wrong prices (set by Ada)" in told


def test_explain_shows_count_against_limit_and_when_the_next_one_passes(desk: Desk) -> None:
    """A refusal is half an answer; when the same plan would be within the limit is the other half."""
    began = desk.store.clock().timestamp()
    for number, moved in enumerate((0, 400, 0, 400)):
        desk.store.clock.advance(moved)  # type: ignore[attr-defined]
        desk.plan(f"p{number}", SYMBOL, "CLOSE", qty=1, price=1500)
        desk.decide()
    (event,) = look_up(desk.store, "p3").events
    assert event["reason"] == "hourly_limit_exceeded"
    hourly, burst, daily = limits_met(desk.store, event)
    assert (hourly.count, hourly.allowed, hourly.passes_at) == (3, 3, began + 3600)
    assert (burst.count, burst.allowed, burst.passes_at) == (0, 2, desk.store.clock().timestamp())
    assert (daily.count, daily.allowed, daily.adds) == (4500, 5000, 1500)
    assert daily.passes_at == datetime(2026, 1, 23, tzinfo=UTC).timestamp()
    now = desk.store.clock().timestamp()
    assert limit_line(asdict(hourly), now).startswith(
        "permits in 1 h: 3 of 3; the same plan is within this limit at 2026-01-22 13:00:00 UTC, in "
    )
    assert limit_line(asdict(burst), now) == "permits in 5 min: 0 of 2; the same plan is within this limit now"
    desk.plan("p4", SYMBOL, "CLOSE", qty=1, price=6000)
    desk.decide()
    (event,) = look_up(desk.store, "p4").events
    assert math.isinf(limits_met(desk.store, event)[2].passes_at)


@pytest.mark.parametrize("key", ["quantum:governor:seen:p1", "quantum:permit:p1", "quantum:governor:block:p1"])
def test_junk_under_a_key_of_a_plan_neither_grants_nor_keeps_it_waiting(desk: Desk, key: str) -> None:
    """Poison is refused and acknowledged, never retried for ever."""
    desk.store.client.rpush(key, "junk")
    desk.plan("p1", SYMBOL)
    desk.plan("p2", SYMBOL)
    desk.decide()
    assert desk.outcome("p1") == ("evaluation_error" if "seen" in key else "")
    assert desk.outcome("p2") == ""
    assert desk.pending() == 0


def test_a_plan_repeated_after_arming_does_not_disarm_again(desk: Desk) -> None:
    """It was answered before; only a decision that was cut off is finished later."""
    for number in range(3):
        desk.plan(f"p{number}", SYMBOL)
    desk.decide()
    arm(desk.store, name="Ann", reason="test")
    desk.plan("p2", SYMBOL)
    desk.decide()
    assert not desk.store.client.exists("quantum:governor:disarmed")


@pytest.mark.parametrize("total", ["0\n", " 0", "-inf", "-5", "nan", "1e3", "", "0x10"])
def test_a_total_that_is_no_plain_amount_grants_nothing(desk: Desk, total: str) -> None:
    """Lua takes some of these for numbers and INCRBYFLOAT does not: a permit was once written and never counted or recorded."""
    desk.store.client.set(f"quantum:governor:daily:BTCUSDT:{desk.store.clock().date()}:usd", total)
    desk.plan("p1", SYMBOL)
    desk.decide()
    assert desk.outcome("p1") == "evaluation_error"
    assert len(desk.events("BLOCK")) == 1
    assert desk.pending() == 0


@pytest.mark.parametrize("junk", ["nan", "-inf", "x", "OOM", "READONLY"])
def test_times_that_are_none_are_not_counted_as_no_permits(desk: Desk, junk: str) -> None:
    """And a word that looks like the server's own trouble stops nobody else's plans."""
    desk.store.client.rpush("quantum:governor:exec:BTCUSDT", junk)
    desk.ready("ETHUSDT")
    desk.plan("p1", SYMBOL)
    desk.plan("p2", "ETHUSDT")
    desk.decide()
    assert [desk.outcome("p1"), desk.outcome("p2")] == ["evaluation_error", ""]
    assert desk.pending() == 0


def test_a_marker_that_is_none_is_refused_by_name(desk: Desk) -> None:
    """Somebody's string in its place once made a plan vanish without an outcome."""
    desk.store.client.set("quantum:governor:seen:p1", "1")
    desk.plan("p1", SYMBOL)
    desk.decide()
    assert desk.outcome("p1") == "evaluation_error"


def test_a_plan_named_like_another_plans_key_changes_nothing(desk: Desk) -> None:
    """Names of plans are anybody's choice."""
    desk.plan("p1:uncounted", SYMBOL)
    desk.decide()
    desk.store.client.delete("quantum:governor:exec:BTCUSDT")
    desk.store.client.set("quantum:governor:exec:BTCUSDT", "junk")
    desk.plan("p1", SYMBOL)
    desk.decide()
    assert desk.outcome("p1") == "evaluation_error"


THROWN: dict[str, Callable[[Desk], object]] = {
    "kill_switch_active": lambda desk: kill(desk.store, reason="now", by="test"),
    "disarmed": lambda desk: disarm(desk.store, "another governor saw a burst"),
    "risk_guard_EMERGENCY_FLATTEN": lambda desk: desk.store.client.set("quantum:risk:guard_active:EMERGENCY_FLATTEN", "{}"),
}


@pytest.mark.parametrize("reason", THROWN)
def test_what_is_thrown_while_a_plan_is_judged_still_counts(desk: Desk, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """No opening is permitted after a switch is thrown, not even one that was judged before; closes go on."""
    true = record.Recorder.record

    def late(recorder: record.Recorder, *arguments: object, **named: object) -> object:
        THROWN[reason](desk)
        return true(recorder, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(record.Recorder, "record", late)
    desk.plan("open", SYMBOL)
    desk.plan("close", SYMBOL, "CLOSE")
    desk.decide()
    assert [desk.outcome("open"), desk.outcome("close")] == [reason, ""]
    assert decided_again(only(desk, "open")) == reason


@pytest.mark.parametrize("action", ["OPEN", "CLOSE"])
def test_nothing_is_granted_by_evidence_that_grew_old_while_its_host_hung(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """A machine that was suspended between judging and granting wakes with yesterday's evidence; it judges again."""
    true, hangs_sec = governor_permit.judge, [0.6, 0.0]

    def hung(*arguments: Any) -> Any:
        decisions = true(*arguments)
        time.sleep(hangs_sec.pop(0))
        return decisions

    monkeypatch.setattr(governor_permit, "judge", hung)
    monkeypatch.setattr(record, "DECIDED_WITHIN_SEC", 0.5)
    monkeypatch.setattr(queue, "RECLAIM_IDLE_MS", 0)
    desk.plan("p1", SYMBOL, action)
    desk.decide()
    assert look_up(desk.store, "p1").events == ()
    assert queue.waiting_plans(desk.store).count == 1
    desk.decide()
    assert only(desk, "p1")["granted"] == "1"


def test_a_group_of_any_name_beside_ours_hides_no_plan(desk: Desk) -> None:
    """Names in Redis are bytes; whoever may write plans may also name a group."""
    desk.plan("p1", SYMBOL)
    desk.store.client.xgroup_create(desk.store.keys.of("stream_plans"), b"\xff", "0")
    assert queue.waiting_plans(desk.store).count == 1


def test_a_guard_that_lapsed_still_stands_while_its_condition_was_last_found_to_hold(desk: Desk) -> None:
    """Between two evaluations a guard's time may end; an account without equity is no account with room for risk."""
    desk.guard(status="blocked", triggered=["EQUITY_STALE"])
    desk.plan("p1", SYMBOL)
    desk.decide()
    assert desk.outcome("p1") == "risk_guard_EQUITY_STALE"


def test_a_plan_of_yesterday_is_not_decided_today(desk: Desk) -> None:
    """Its marker may be gone: a governor that starts anew on an old stream would permit again what was done days ago."""
    hours_ago = int((desk.store.clock().timestamp() - 13 * 3600) * 1000)
    fields = {"plan_id": "old", "symbol": SYMBOL, "action": "CLOSE", "decision": "EXECUTE", "qty": "0.001", "price": "1"}
    desk.store.client.xadd(desk.store.keys.of("stream_plans"), fields, id=f"{hours_ago}-0")
    desk.plan("new", SYMBOL, "CLOSE")
    desk.decide()
    assert [desk.outcome("old"), desk.outcome("new")] == ["invalid_plan:timestamp", ""]


def test_a_reduction_that_does_not_say_by_how_much_counts_as_all_of_it(desk: Desk) -> None:
    """The position is known; to count it as nothing would leave the day without a limit."""
    desk.plan("p1", SYMBOL, "REDUCE", reduceOnly="true", qty="", price="")
    desk.decide()
    assert float(only(desk, "p1")["notional"]) == 100.0
