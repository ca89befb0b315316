"""Closes have limits of their own, and one planner's faults are one planner's: what opens risk starves nothing that reduces it."""

import json
from collections.abc import Callable
from dataclasses import asdict

import orjson
import pytest
from click.testing import CliRunner

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proofs.governor_permit import every_plan_decided, limits_hold, permit_as_decided
from quantum_assets.governor_permit import decide_plans
from quantum_core.kernels.governor.limits import GovernorLimits, GovernorTheta
from quantum_core.settings import Settings, load_settings
from quantum_ops.cli.desk.permits import permits, standing_lines
from quantum_ops.cli.desk.switches import arm as arm_command
from quantum_ops.desk.standing import Openings
from quantum_ops.exporter.metrics import fold_decisions
from resources.governor import queue, record
from resources.governor.decisions import decided_again, limits_met, look_up
from resources.governor.limits import theta_of
from resources.governor.permit import read_permit
from resources.governor.plan import booked_id, parse_plan
from resources.governor.switches import arm, disarm_scope, read_switches
from resources.store.redis_store import RedisStore
from tests.governor.desk import Desk

SYMBOL, OTHER = "BTCUSDT", "ETHUSDT"
Make = Callable[..., RedisStore]


def desk_of(make_store: Make, **settings: object) -> Desk:
    """Make a desk where everything is in order, under these settings."""
    desk = Desk(make_store(**settings))
    desk.ready(SYMBOL, OTHER)
    return desk


def ask(desk: Desk, *actions: str, symbol: str = SYMBOL, **more: object) -> list[str | None]:
    """Ask for plans, all at once, and give their outcomes."""
    first = desk.store.client.xlen(desk.store.keys.of("stream_plans"))
    names = [f"p{first + number}" for number in range(len(actions))]
    for name, action in zip(names, actions, strict=True):
        desk.plan(name, symbol, action, **more)
    while queue.waiting_plans(desk.store).symbols:
        desk.decide()
    for event in [one for one in desk.events() if one.get("plan_id") in names]:
        assert decided_again(event) == event["reason"]
    return [desk.outcome(name) for name in names]


LIMITED = {  # limit -> settings that make it the first one reached, and a plan that reaches it
    "hourly_limit_exceeded": ({"gov_max_exec_per_hour": 2, "gov_max_exec_per_5min": 9}, {}),
    "burst_limit_exceeded": ({"gov_max_exec_per_hour": 9}, {}),
    "daily_limit_exceeded": ({"gov_max_exec_per_hour": 9, "gov_max_exec_per_5min": 9}, {"qty": 20, "price": 100}),
}


@pytest.mark.parametrize("reason", LIMITED)
@pytest.mark.parametrize(("first", "then"), [("OPEN", "FULL_CLOSE_PROPOSED"), ("FULL_CLOSE_PROPOSED", "OPEN")])
def test_neither_kind_uses_up_what_the_other_may_have(make_store: Make, reason: str, first: str, then: str) -> None:
    """Openings used up the hour, and the close that should have ended the position was refused, silently."""
    settings, size = LIMITED[reason]
    desk = desk_of(make_store, gov_auto_disarm=False, **settings)
    assert ask(desk, first, first, first, **size) == ["", "", reason]
    assert ask(desk, then, then, then, **size) == ["", "", reason]
    kinds = {one["action"]: one["counted_as"] for one in desk.events()}
    assert kinds == {"OPEN": "opening", "FULL_CLOSE_PROPOSED": "closing"}


def test_closes_may_be_given_limits_of_their_own(make_store: Make) -> None:
    desk = desk_of(make_store, gov_max_closes_per_hour=4, gov_max_closes_per_5min=3, gov_max_close_notional_per_day_usd=1)
    assert ask(desk, "CLOSE", "CLOSE", "CLOSE", "CLOSE", qty=0.001) == ["", "", "", "burst_limit_exceeded"]
    (event,) = look_up(desk.store, "p3").events
    assert [one.allowed for one in limits_met(desk.store, event)] == [4, 3, 1]
    assert ask(desk, "OPEN", "OPEN", "OPEN")[2] == "burst_limit_exceeded"
    assert ask(desk, "CLOSE", symbol=OTHER, qty=1, price=100) == ["daily_limit_exceeded"]


def limits_under(settings: Settings) -> GovernorTheta:
    """Give the limits these settings stand for."""
    return theta_of(settings, settings.own_profile.theta(GovernorLimits))


def test_a_limit_of_closes_is_that_of_openings_unless_it_is_set() -> None:
    """Who had raised a limit for the sake of closes still has it; who opens nothing still closes."""
    raised = limits_under(load_settings(gov_max_exec_per_hour=20, gov_max_reduce_notional_per_day_usd=9e5)).of_closes()
    assert (raised.max_exec_per_hour, raised.max_notional_per_day_usd) == (20, 9e5)
    none = limits_under(load_settings(gov_max_exec_per_hour=0, gov_max_exec_per_5min=0)).of_closes()
    assert (none.max_exec_per_hour, none.max_exec_per_5min) == (3, 2)
    assert limits_under(load_settings(gov_max_closes_per_hour=0)).of_closes().max_exec_per_hour == 0


def test_a_burst_of_closes_disarms_nobody(make_store: Make) -> None:
    """Two closes at the start made the first opening a burst, and that disarmed the governor for all."""
    desk = desk_of(make_store)
    assert ask(desk, *["CLOSE"] * 9, source="quantum").count("burst_limit_exceeded") == 7
    assert ask(desk, "OPEN", "OPEN") == ["", ""]
    assert read_switches(desk.store).scopes == {}
    assert [one["event"] for one in desk.events()].count("AUTO_DISARM") == 0


def test_counts_of_before_the_upgrade_still_count_for_openings(make_store: Make) -> None:
    """A restart gives no fresh room to open; what was counted together then does not starve closes now."""
    desk = desk_of(make_store)
    now = desk.store.clock().timestamp()
    desk.store.client.rpush("quantum:governor:exec:BTCUSDT", now - 400, now - 500, now - 600)
    desk.store.client.set(f"quantum:governor:daily:ETHUSDT:{desk.store.clock().date()}:usd", "5000")
    assert ask(desk, "OPEN", "CLOSE") == ["hourly_limit_exceeded", ""]
    assert ask(desk, "OPEN", "CLOSE", symbol=OTHER) == ["daily_limit_exceeded", ""]


def test_a_record_of_before_closes_had_limits_of_their_own_is_decided_again_by_those_of_all(make_store: Make) -> None:
    desk = desk_of(make_store)
    ask(desk, "CLOSE", "CLOSE", "CLOSE")
    (event,) = look_up(desk.store, "p2").events
    theta = {name: value for name, value in json.loads(event["theta"]).items() if "close" not in name}
    old = {name: text for name, text in event.items() if name != "counted_as"}
    assert decided_again({**old, "theta": json.dumps({**theta, "max_close_age_sec": 120})}) == "burst_limit_exceeded"


@pytest.mark.parametrize(("action", "counted", "key"), [("OPEN", "opening", ""), ("CLOSE", "closing", ":close")])
def test_the_recount_of_the_proofs_knows_both_kinds(make_store: Make, action: str, counted: str, key: str) -> None:
    """Each kind is counted again from the records, whatever a record says it was counted as."""
    desk = desk_of(make_store, gov_auto_disarm=False)
    stream = desk.store.keys.of("stream_governor_events")
    assert ask(desk, "OPEN", "OPEN", "CLOSE", "CLOSE") == [""] * 4
    assert limits_hold(Evidence(desk.store, None)).failing == {}
    genuine = next(one for one in desk.events("PERMIT") if one["action"] == action)
    for claimed in (counted, "closing" if action == "OPEN" else "opening"):
        entry = desk.store.client.xadd(stream, {**genuine, "plan_id": "forged", "counted_as": claimed})
        assert f"3 permits ({counted}) within 300 s, limit 2" in limits_hold(Evidence(desk.store, None)).failing[SYMBOL]
        desk.store.client.xdel(stream, entry)
    old = {name: text for name, text in genuine.items() if name != "counted_as"}  # of before: counted with the openings
    entry = desk.store.client.xadd(stream, {**old, "plan_id": "old"})
    assert "3 permits (opening)" in limits_hold(Evidence(desk.store, None)).failing[SYMBOL]
    desk.store.client.xdel(stream, entry)
    desk.store.client.lpush(f"quantum:governor:exec:BTCUSDT{key}", desk.store.clock().timestamp())
    assert f"3 permits ({counted}) were counted" in limits_hold(Evidence(desk.store, None)).failing[SYMBOL]


def test_the_proofs_read_a_json_permit_and_leave_other_gates_permits_alone(make_store: Make) -> None:
    desk = desk_of(make_store, permit_format="json")
    desk.store.client.set("quantum:permit:p33:p0", "{}")
    assert ask(desk, "CLOSE") == [""]
    evidence = Evidence(desk.store, None)
    assert list(evidence.permits) == ["p0"]
    assert every_plan_decided(evidence).failing == permit_as_decided(evidence).failing == {}


def test_a_hash_that_its_executor_has_marked_is_no_fault(make_store: Make) -> None:
    """It was called edited; any other edit is one."""
    desk = desk_of(make_store)
    assert ask(desk, "CLOSE") == [""]
    desk.store.client.hset("quantum:permit:p0", "consumed", "true")
    assert permit_as_decided(Evidence(desk.store, None)).failing == {}
    desk.store.client.hset("quantum:permit:p0", "computed_qty", "9")
    assert "edited" in permit_as_decided(Evidence(desk.store, None)).failing["p0"]


@pytest.mark.parametrize("consume", ["DEL", "GETDEL"])
def test_a_permit_that_its_executor_has_deleted_is_no_fault(make_store: Make, consume: str) -> None:
    """Each one it used made the proof red: with GET, the older system takes a permit away."""
    desk = desk_of(make_store, permit_format="json")
    assert ask(desk, "CLOSE", "CLOSE") == ["", ""]
    desk.store.client.execute_command(consume, "quantum:permit:p0")
    desk.store.client.set(
        "quantum:permit:p1", json.dumps({**orjson.loads(desk.store.client.get("quantum:permit:p1")), "consumed": True})
    )
    evidence = Evidence(desk.store, None)
    evidence.now = max(entry.time for entry in evidence.decisions) + 1  # the server's clock dates them
    assert every_plan_decided(evidence).failing == permit_as_decided(evidence).failing == {}


def test_a_decision_in_small_letters_is_among_the_plans_that_must_be_decided(make_store: Make) -> None:
    desk = desk_of(make_store)
    desk.plan("p", SYMBOL, "CLOSE", decision=" execute")
    assert every_plan_decided(Evidence(desk.store, None)).observed == "1 plans, 0 permits"


@pytest.mark.parametrize("permit_format", ["hash", "json"])
@pytest.mark.parametrize("stands", ["string", "hash", "list", "used"])
def test_what_stands_in_the_place_of_a_permit_is_replaced(make_store: Make, stands: str, permit_format: str) -> None:
    """Somebody who got there first grants nothing, and hinders nothing."""
    desk = desk_of(make_store, permit_format=permit_format)
    client, key = desk.store.client, "quantum:permit:p0"
    put = {
        "string": lambda: client.setnx(key, '{"granted":true}'),
        "hash": lambda: client.hset(key, "granted", "true"),
        "list": lambda: client.rpush(key, "x"),
        "used": lambda: client.hset(key, mapping={"granted": "true", "consumed": "true", "symbol": SYMBOL}),
    }
    put[stands]()
    assert read_permit(desk.store, SYMBOL, "p0") is None
    assert ask(desk, "CLOSE") == [""]
    assert client.type(key) == (b"hash" if permit_format == "hash" else b"string")
    assert 0 < client.ttl(key) <= 60
    permit = read_permit(desk.store, SYMBOL, "p0")
    assert permit is not None
    assert permit["consumed"] == "false"


def test_permits_of_both_formats_are_read_while_the_setting_changes(make_store: Make) -> None:
    """Those of before live on for a minute, by either setting."""
    first = desk_of(make_store, permit_format="hash")
    assert ask(first, "CLOSE") == [""]
    second = Desk(make_store(permit_format="json"))
    assert ask(second, "CLOSE") == [""]
    for desk in (first, second):
        evidence = Evidence(desk.store, None)
        assert sorted(evidence.permits) == ["p0", "p1"]
        assert every_plan_decided(evidence).failing == permit_as_decided(evidence).failing == {}
        assert all(read_permit(desk.store, SYMBOL, plan_id) for plan_id in ("p0", "p1"))


@pytest.mark.parametrize(
    ("plan_id", "booked"),
    [
        ('q"uote', "q%22uote"),
        ("a\\b", "a%5Cb"),
        ("a%20b", "a%2520b"),
        ("x:{y}", "x:%7By%7D"),
        ("..", ".."),
        ("p\u0301", "p%CC%81"),
    ],
)
def test_a_json_permit_of_an_unusual_plan_is_found_under_its_escaped_id(make_store: Make, plan_id: str, booked: str) -> None:
    desk = desk_of(make_store, permit_format="json")
    desk.plan(plan_id, SYMBOL, "CLOSE")
    desk.decide()
    assert orjson.loads(desk.store.client.get(f"quantum:permit:{booked}"))["plan_id"] == booked
    assert read_permit(desk.store, SYMBOL, plan_id) is not None


# --- disarming by planner and symbol ---------------------------------------------------------------------------------------------


def test_a_planner_that_sends_too_many_is_disarmed_alone(make_store: Make) -> None:
    """2,000 plans of one planner disarmed the governor for all."""
    desk = desk_of(make_store)
    for number in range(64):
        desk.plan(f"x{number}", SYMBOL, source="harvest_brain")
        if number == 59:
            desk.decide()
    desk.decide()
    assert read_switches(desk.store).scopes.keys() == {"source:harvest_brain"}
    assert not desk.store.client.exists("quantum:governor:disarmed")
    (event,) = desk.events("AUTO_DISARM")
    assert (event["scope"], event["plans"]) == ("source:harvest_brain", "58")  # of those taken at once
    assert ask(desk, "OPEN", symbol=OTHER, source="Harvest_Brain ") == ["disarmed"]
    assert ask(desk, "OPEN", symbol=OTHER, source="another") == [""]
    assert ask(desk, "CLOSE", "CLOSE", source="harvest_brain") == ["", ""]
    (event,) = look_up(desk.store, "x63").events
    assert (event["disarm_scope"], event["gate"]) == ("source:harvest_brain", "2")
    arm(desk.store, name="Ann", reason="its loop is fixed", scope="source:harvest_brain")
    assert ask(desk, "OPEN", symbol=OTHER, source="harvest_brain") == [""]


def test_plans_that_name_no_planner_disarm_their_symbol(make_store: Make) -> None:
    """Whose they are is not known; which market they are of is."""
    desk = desk_of(make_store)
    assert ask(desk, *["OPEN"] * 3)[2] == "burst_limit_exceeded"
    assert ask(desk, "OPEN", source="anybody") == ["disarmed"]
    assert ask(desk, "OPEN", symbol=OTHER) == [""]


def test_plans_of_many_planners_that_cannot_be_evaluated_disarm_all(make_store: Make) -> None:
    """Five errors of five planners are no single planner's fault; five of one are."""
    desk = desk_of(make_store)
    desk.store.client.set("quantum:marketstate:BTCUSDT", "junk")
    ask(desk, *["OPEN"] * 5, source="a")
    assert read_switches(desk.store).scopes.keys() == {"source:a"}
    for number in range(3):
        ask(desk, "OPEN", source=f"b{number}")
    assert ask(desk, "OPEN", symbol=OTHER, source="c") == [""]
    ask(desk, "OPEN", source="d")
    assert ask(desk, "OPEN", symbol=OTHER, source="c") == ["disarmed"]


def test_a_planner_that_changes_its_name_all_the_time_disarms_all(make_store: Make) -> None:
    desk = desk_of(make_store)
    for number in range(60):
        desk.plan(f"x{number}", SYMBOL, source=f"planner-{number}")
    desk.decide()
    assert ask(desk, "OPEN", symbol=OTHER, source="c") == ["disarmed"]


@pytest.mark.parametrize(
    ("settings", "scopes"),
    [({"gov_auto_disarm": False}, 0), ({"gov_bursts_to_disarm": 4}, 0), ({"gov_bursts_to_disarm": 3}, 1)],
)
def test_disarming_is_a_setting_and_so_are_its_counts(make_store: Make, settings: dict[str, object], scopes: int) -> None:
    desk = desk_of(make_store, **settings)
    assert ask(desk, *["OPEN"] * 5, source="a")[2:] == ["burst_limit_exceeded"] * 3
    assert len(read_switches(desk.store).scopes) == scopes
    assert ask(desk, "OPEN", source="a") == ["disarmed" if scopes else "burst_limit_exceeded"]


def test_errors_to_disarm_are_a_setting(make_store: Make) -> None:
    desk = desk_of(make_store, gov_errors_to_disarm=2)
    desk.store.client.set("quantum:marketstate:BTCUSDT", "junk")
    ask(desk, "OPEN", source="a")
    assert read_switches(desk.store).scopes == {}
    ask(desk, "OPEN", source="a")
    assert read_switches(desk.store).scopes["source:a"]["plans"] == "2"


def test_a_planner_disarmed_while_its_plan_is_judged_opens_nothing(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that records the decision looks again, as it does at the kill switch."""
    desk = desk_of(make_store)
    true = record.Recorder.record

    def late(recorder: record.Recorder, *arguments: object, **named: object) -> object:
        desk.store.client.hset("quantum:governor:disarm:scopes", "source:a", "{}")
        return true(recorder, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(record.Recorder, "record", late)
    desk.plan("mine", SYMBOL, source="a")
    desk.plan("close", SYMBOL, "CLOSE", source="a")
    desk.plan("another", SYMBOL, source="b")
    desk.decide()
    assert [desk.outcome(name) for name in ("mine", "close", "another")] == ["disarmed", "", ""]
    (event,) = look_up(desk.store, "mine").events
    assert (event["thrown_meanwhile"], decided_again(event)) == ("disarmed", "disarmed")


def test_scopes_nobody_can_read_open_nothing(make_store: Make) -> None:
    desk = desk_of(make_store)
    desk.store.client.set("quantum:governor:disarm:scopes", "x")
    assert ask(desk, "OPEN", "CLOSE", source="a") == ["evaluation_error", ""]


def test_a_named_person_arms_one_planner_and_sees_who_else_is_disarmed(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill switch stays, and so does what is disarmed of others."""
    store = make_store()
    monkeypatch.setenv("REDIS_URL", store.settings.url)
    for scope in ("source:harvest_brain", "symbol:BTCUSDT"):
        disarm_scope(store, scope, "burst_limit_exceeded: plan p", plans=998)
    assert "planner harvest_brain disarmed since" in CliRunner().invoke(permits, []).output
    assert standing_lines(Openings((), ("x",))) == ["Openings are armed, but not all of them:", "  x"]
    person = ["--name", "Ann", "--reason", "fixed"]
    done = CliRunner().invoke(arm_command, [*person, "--source", "Harvest_Brain"])
    assert "Armed (source:harvest_brain). Cleared: disarm." in done.output
    told = json.loads(CliRunner().invoke(permits, ["--json"]).stdout)
    assert told["scopes"] == {"symbol:BTCUSDT": told["scopes"]["symbol:BTCUSDT"]}
    assert told["scopes"]["symbol:BTCUSDT"]["plans"] == "998"
    assert CliRunner().invoke(arm_command, [*person, "--source", "a", "--symbol", "b"]).exit_code == 2


# --- what planners and executors write and read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "booked"),
    [
        ("p-1:a.b_c", "p-1:a.b_c"),
        ("计划-1", "%E8%AE%A1%E5%88%92-1"),
        ("é", "%C3%A9"),
        ("e\u0301", "e%CC%81"),
        ("a b", "a%20b"),
        ("%41", "%2541"),
        ("p33:A", "p33%3AA"),  # the permit of another program's gate
        ("p26:é", "p26%3A%C3%A9"),
        ("p" * 128, "p" * 128),
        *((wrong, "") for wrong in ("", "p" * 129, "a\nb", "\x1b[31m", "\u202ea", "\ufffd", "a\x00")),
    ],
)
def test_a_plan_id_is_booked_under_its_own_escaped_id(make_store: Make, given: str, booked: str) -> None:
    """Letters are no fault; two ids never share a permit, and none is another program's."""
    assert booked_id(given) == booked
    if not given:
        return
    desk = desk_of(make_store)
    desk.plan(given, SYMBOL, "CLOSE")
    desk.decide()
    if booked:
        assert desk.outcome(booked) == ""
        assert desk.store.client.keys("quantum:permit:*") == [f"quantum:permit:{booked}".encode()]
        assert read_permit(desk.store, SYMBOL, given) is not None
        assert [one["plan_id"] for one in look_up(desk.store, given).events] == [booked]
        desk.plan(given, SYMBOL, "CLOSE")
        desk.decide()
        assert len(desk.events("PERMIT")) == 1
    else:
        assert [one["reason"] for one in desk.events()] == ["invalid_plan:plan_id"]


@pytest.mark.parametrize("said", ["true", "True", "1"])
def test_a_plan_that_only_says_reduce_only_is_a_close(make_store: Make, said: str) -> None:
    desk = desk_of(make_store)
    desk.plan("p", SYMBOL, "", reduceOnly=said)
    desk.plan("q", SYMBOL, "", reduceOnly="false")
    desk.decide()
    assert [desk.outcome("p"), desk.outcome("q")] == ["", "invalid_plan:action"]
    assert (desk.events()[-1]["action"], desk.events()[-1]["counted_as"]) == ("CLOSE", "closing")


def test_a_permit_may_be_one_json_string_for_executors_that_get(make_store: Make) -> None:
    """With the types JSON has: the text "false" would be true."""
    desk = desk_of(make_store, permit_format="json")
    assert ask(desk, "CLOSE", qty=0.5, price=100) == [""]
    key = "quantum:permit:p0"
    told = orjson.loads(desk.store.client.get(key))
    assert (told["granted"], told["consumed"], told["computed_qty"], told["computed_notional"]) == (True, False, 0.5, 50.0)
    assert (told["plan_id"], told["symbol"], told["eff_score"], told["eff_stale"]) == ("p0", SYMBOL, None, 1)
    assert 0 < desk.store.client.ttl(key) <= 60
    read = read_permit(desk.store, SYMBOL, "p0")
    assert read is not None
    as_hash = desk_of(make_store)
    as_hash.store.client.flushdb()
    as_hash.ready(SYMBOL)
    assert ask(as_hash, "CLOSE", qty=0.5, price=100) == [""]
    assert read == read_permit(as_hash.store, SYMBOL, "p0")


@pytest.mark.parametrize(
    "edit",
    [
        {"consumed": True},
        {"computed_qty": 9.0},
        {"symbol": OTHER},
        {"granted": "yes"},
        {"eff_factor": float("inf")},
        {"schema": []},
    ],
)
def test_a_json_permit_that_was_used_or_edited_is_none(make_store: Make, edit: dict[str, object]) -> None:
    desk = desk_of(make_store, permit_format="json")
    desk.plan("p0", SYMBOL, "CLOSE")
    desk.decide()
    told = orjson.loads(desk.store.client.get("quantum:permit:p0"))
    assert read_permit(desk.store, SYMBOL, "p0") is not None
    desk.store.client.set("quantum:permit:p0", json.dumps({**told, **edit}))
    assert read_permit(desk.store, SYMBOL, "p0") is None
    for junk in ("", "[]", "null", "{", "1"):
        desk.store.client.set("quantum:permit:p0", junk)
        assert read_permit(desk.store, SYMBOL, "p0") is None


def test_counters_ignore_events_of_other_programs(make_store: Make) -> None:
    """Another governor's events on the same stream were counted as blocks of ours."""
    desk = desk_of(make_store)
    stream = desk.store.keys.of("stream_governor_events")
    for event in ({"event": "TESTNET_ALLOW"}, {"event": "BLOCK", "reason": "x"}, {"event": "EXPOSURE", "granted": "1"}):
        desk.store.client.xadd(stream, {"plan_id": "p", "symbol": SYMBOL, **event})
    assert fold_decisions(desk.store) == 0
    ask(desk, "CLOSE")
    assert fold_decisions(desk.store) == 2  # allowed, and its hint


def test_a_plan_that_rests_on_data_that_is_not_live_says_so_beside_its_planner() -> None:
    """Our own plans are the planner `quantum`; what their data is stands beside it."""
    fields = {
        "plan_id": "p",
        "symbol": SYMBOL,
        "action": "CLOSE",
        "decision": "EXECUTE",
        "source": "quantum",
        "data_source": "Replay",
    }
    plan = parse_plan("1-1", {name.encode(): text.encode() for name, text in fields.items()})
    assert (plan.source, plan.data_source) == ("quantum", "replay")
    assert asdict(plan)["invalid"] == ""


@pytest.mark.parametrize(("label", "reason"), [("candles", ""), ("replay", "synthetic_data")])
def test_the_label_of_a_plans_data_counts(make_store: Make, label: str, reason: str) -> None:
    desk = desk_of(make_store)
    desk.plan("p", SYMBOL, "CLOSE", source="quantum", data_source=label)
    decide_plans(desk.store, cycle_id="c")
    assert desk.outcome("p") == reason
