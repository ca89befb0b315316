"""Switches: each change and its record are one step, a repeat changes nothing, and only a named person ends them."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from quantum_core.settings import load_settings
from quantum_ops.desk.overview import read_openings
from resources.governor.switches import SCOPES_MAX, Switched, arm, count_faults, disarm, disarm_scope, kill, read_switches
from resources.store.redis_store import RedisStore, UnreadableKeyError

KILL, DISARMED, EVENTS = "quantum:kill", "quantum:governor:disarmed", "quantum:stream:governor.events"
TODAY = "2026-01-22"
DISARM, ERRORS = f"quantum:governor:disarm:{TODAY}", f"quantum:governor:errors:{TODAY}"


@pytest.fixture(params=["valkey_url", "redis_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Both servers the product runs on: a script that only one of them takes is none."""
    return request.getfixturevalue(request.param)


def events(store: RedisStore) -> list[dict[str, str]]:
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in store.client.xrange(EVENTS)]


def test_a_kill_that_another_program_set_has_no_author_of_ours(store) -> None:
    """Deleted by hand and set anew by another program, it went on bearing the name and the reason of the former one."""
    kill(store, reason="old reason", by="ada")
    assert "set by ada" in read_openings(store).blocked[0]
    for other in (" 0", "true", "yes"):
        store.client.set("quantum:kill", other)
        assert read_openings(store).blocked[0] == "kill switch"
        assert "without a record of who and why" in read_openings(store).details[0]
    store.client.delete("quantum:kill")
    store.client.rpush("quantum:kill", "x")
    assert read_openings(store).blocked[0] == "kill switch"


def test_a_kill_deleted_and_set_to_1_by_hand_has_no_author_of_ours(store) -> None:
    """The same value, set by somebody else: the record of the former one is none of this."""
    kill(store, reason="old reason", by="ada")
    store.client.delete("quantum:kill")
    store.client.set("quantum:kill", "1")
    assert read_switches(store).killed
    assert not read_switches(store).set_by_kill
    assert read_openings(store).blocked[0] == "kill switch"
    assert "ada" not in read_openings(store).details[0]
    assert "without a record of who and why" in read_openings(store).details[0]
    assert not kill(store, reason="really", by="bob").changed  # it stood, by hand
    assert "set by bob" in read_openings(store).blocked[0]
    kill(store, reason="me too", by="eve")
    assert "set by bob" in read_openings(store).blocked[0]


def test_a_planner_armed_ends_neither_the_kill_switch_nor_its_author(store) -> None:
    kill(store, reason="wrong prices", by="ada")
    disarm_scope(store, "source:a", "burst", plans=3)
    disarm_scope(store, "symbol:BTCUSDT", "burst", plans=1)
    assert arm(store, name="n", reason="r", scope="source:a") == ("disarm",)
    assert "set by ada" in read_openings(store).blocked[0]
    assert list(read_switches(store).scopes) == ["symbol:BTCUSDT"]
    assert events(store)[-1]["scope"] == "source:a"
    assert arm(store, name="n", reason="r") == ("kill", "disarm")
    assert read_switches(store).scopes == {}


def test_a_planner_is_disarmed_once_with_its_cause_and_its_count(store, clock) -> None:
    assert disarm_scope(store, "source:a", "burst_limit_exceeded: plan p", plans=3) == Switched(changed=True)
    assert disarm_scope(store, "source:a", "again", plans=9) == Switched(changed=False)
    said = {"cause": "burst_limit_exceeded: plan p", "at": clock.now.isoformat(), "plans": "3"}
    switches = read_switches(store)
    assert (switches.disarmed, switches.scopes) == (False, {"source:a": said})
    assert [event["event"] for event in events(store)] == ["AUTO_DISARM"]
    against = [switches.scope_against(*one) for one in (("BTCUSDT", "a"), ("BTCUSDT", "b"), ("BTCUSDT", ""))]
    assert against == ["source:a", "", ""]


@pytest.mark.parametrize("junk", [True, False])
def test_scopes_that_cannot_be_kept_disarm_all(store, junk) -> None:
    """Too many of them, or something else in their place: unknown means no."""
    if junk:
        store.client.set(store.keys.of("disarmed_scopes"), "x")
        assert read_switches(store).disarmed
        assert "disarm:scopes" in read_switches(store).trouble
    else:
        for number in range(SCOPES_MAX):
            disarm_scope(store, f"symbol:S{number}", "burst", plans=1)
        assert not read_switches(store).disarmed
    disarm_scope(store, "symbol:LAST", "burst", plans=1)
    assert store.client.exists(DISARMED)


def test_faults_are_counted_once_per_plan_and_scope(store) -> None:
    """A plan reclaimed after a crash is the same plan."""
    both = [("errors", "source:a", "p1"), ("errors", "symbol:X", "p2"), ("bursts", "source:a", "p3")]
    assert count_faults(store, both, store.clock()) == ([1, 1, 1], 2)
    assert count_faults(store, [*both, ("errors", "source:a", "p4")], store.clock()) == ([1, 1, 1, 2], 2)
    disarm_scope(store, "source:a", "errors", plans=2)
    assert arm(store, name="n", reason="r", scope="source:a") == ("disarm", "errors")
    assert count_faults(store, [("errors", "source:a", "p5")], store.clock()) == ([1], 2)
    assert arm(store, name="n", reason="r") == ("errors",)
    assert store.client.keys("quantum:governor:*") == []


def test_a_guard_whose_text_is_junk_keeps_its_name_and_no_impossible_time(store) -> None:
    guard = {"reason": {"a": 1}, "expires_at": "0001-01-01T00:00:00+14:00"}
    store.client.set(store.keys.of("guard_active", "DRAWDOWN"), json.dumps(guard))
    (line,) = [line for line in read_openings(store).details if "DRAWDOWN" in line]
    assert line == (
        "Risk guard DRAWDOWN: its reason is no text: {'a': 1}. "
        "It ends at a time that cannot be right (0001-01-01T00:00:00+14:00)."
    )


def test_the_kill_switch_is_set_with_who_and_why(store, clock) -> None:
    """Afterwards somebody will ask."""
    assert kill(store, reason="wrong prices", by="ada") == Switched(changed=True)
    assert store.client.get(KILL) == b"1"
    assert store.client.ttl(KILL) == -1
    now = clock.now.timestamp()
    assert events(store) == [
        {"event": "KILL", "reason": "wrong prices", "by": "ada", "timestamp": str(int(now)), "timestamp_epoch": repr(now)}
    ]
    assert read_switches(store).killed


@pytest.mark.parametrize(("before", "changed"), [(b"0", True), (b"", True), (b"1", False), (b"yes", False)])
def test_a_kill_replaces_whatever_stands_and_says_whether_it_was_set(store, before, changed) -> None:
    """An expiry somebody gave it must not end it."""
    store.client.set(KILL, before, ex=5)
    assert kill(store, reason="r", by="b").changed is changed
    assert (store.client.get(KILL), store.client.ttl(KILL)) == (b"1", -1)


def test_a_kill_is_set_although_its_event_cannot_be_written(store) -> None:
    """In an emergency the record is second."""
    store.client.set(EVENTS, "x")
    store.client.hset(KILL, "a", "b")
    outcome = kill(store, reason="r", by="b")
    assert "WRONGTYPE" in outcome.unrecorded
    assert store.client.get(KILL) == b"1"


@pytest.mark.parametrize("blank", ["", "  ", "\n\t"])
def test_nothing_is_switched_without_words(store, blank) -> None:
    """A blank reason is none."""
    for call in (
        lambda: kill(store, reason=blank, by="b"),
        lambda: kill(store, reason="r", by=blank),
        lambda: disarm(store, blank),
        lambda: arm(store, name=blank, reason="r"),
        lambda: arm(store, name="n", reason=blank),
    ):
        with pytest.raises(ValueError, match="blank"):
            call()
    assert store.client.dbsize() == 0


def test_words_become_one_line_that_any_reader_can_take(store) -> None:
    """They are typed in haste, and pasted from anywhere."""
    kill(store, reason="two\nlines \udcff " + "x" * 1000, by="b")
    (event,) = events(store)
    assert event["reason"].startswith("two lines ? xxx")
    assert len(event["reason"]) == 500


def test_the_governor_is_disarmed_once_a_day_with_its_cause(store, clock) -> None:
    """A second burst on the same day is no news."""
    assert disarm(store, "burst_limit_exceeded") == Switched(changed=True)
    assert disarm(store, "five errors") == Switched(changed=False)
    said = {"cause": "burst_limit_exceeded", "at": clock.now.isoformat()}
    assert json.loads(store.client.get(DISARMED)) == json.loads(store.client.get(DISARM)) == said
    assert store.client.ttl(DISARMED) == -1
    assert 0 < store.client.ttl(DISARM) <= 48 * 3600
    (event,) = events(store)
    assert (event["event"], event["reason"], event["timestamp"]) == (
        "AUTO_DISARM", "burst_limit_exceeded", str(int(clock.now.timestamp())),
    )  # fmt: skip
    switches = read_switches(store)
    assert (switches.disarmed, switches.disarm, switches.killed) == (True, said, False)


def test_it_stays_disarmed_over_midnight_and_says_since_when(store, clock) -> None:
    """Only a named person may arm again; the calendar is no person."""
    disarm(store, "first")
    clock.advance(13 * 3600)
    assert read_switches(store).disarm["cause"] == "first"
    assert disarm(store, "second").changed
    assert read_switches(store).disarm["cause"] == "first"
    assert [event["reason"] for event in events(store)] == ["first", "second"]


@pytest.mark.parametrize("gone", [DISARMED, DISARM])
def test_a_disarming_half_of_which_somebody_deleted_is_made_whole(store, gone) -> None:
    """The marker of the day alone must not keep the governor armed."""
    disarm(store, "cause")
    store.client.delete(gone)
    assert disarm(store, "cause").changed
    assert store.client.exists(DISARM, DISARMED) == 2


def test_a_named_person_ends_both_and_what_was_cleared_is_recorded(store, clock) -> None:
    """Who answers for the next opening is on record."""
    kill(store, reason="r", by="b")
    disarm(store, "five errors")
    store.client.set(ERRORS, 5)
    assert arm(store, name="Ada Lovelace", reason="mended") == ("kill", "disarm", "errors")
    assert store.client.exists(KILL, DISARMED, DISARM, ERRORS) == 0
    now = clock.now.timestamp()
    assert events(store)[-1] == {
        "event": "ARMED", "by": "Ada Lovelace", "reason": "mended", "cleared": "kill,disarm,errors",
        "timestamp": str(int(now)), "timestamp_epoch": repr(now),
    }  # fmt: skip
    assert disarm(store, "again").changed  # the day may need it a second time


def test_arming_what_is_armed_clears_nothing_and_is_recorded_too(store) -> None:
    """A kill switch at 0 is not set."""
    store.client.set(KILL, "0")
    assert arm(store, name="n", reason="r") == ()
    assert events(store)[-1]["cleared"] == ""


def test_what_cannot_be_recorded_is_not_armed(store) -> None:
    """Openings without a name on record are what re-arming is there to prevent."""
    kill(store, reason="r", by="b")
    disarm(store, "cause")
    store.client.delete(EVENTS)
    store.client.set(EVENTS, "x")
    with pytest.raises(UnreadableKeyError, match=EVENTS):
        arm(store, name="n", reason="r")
    assert (read_switches(store).killed, read_switches(store).disarmed) == (True, True)


def test_switches_that_cannot_be_read_are_on_and_named(store) -> None:
    """Unknown means no."""
    store.client.hset(KILL, "a", "b")
    store.client.hset(DISARMED, "a", "b")
    switches = read_switches(store)
    assert (switches.killed, switches.disarmed) == (True, True)
    assert KILL in switches.trouble
    assert DISARMED in switches.trouble


DISARM_MANY = """
import sys
from datetime import UTC, datetime
from resources.store.redis_store import RedisStore
from quantum_core.settings import load_settings
from resources.governor.switches import disarm
store = RedisStore(load_settings(redis_url=sys.argv[1]), lambda: datetime(2026, 1, 22, 12, tzinfo=UTC))
print(sum(disarm(store, "burst").changed for _ in range(200)))
"""


@pytest.mark.slow
def test_two_processes_that_disarm_at_once_disarm_once(store, server_url) -> None:
    """Two governors see the same burst."""
    command = [sys.executable, "-c", DISARM_MANY, server_url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate(timeout=60)[0]) for process in both]
    assert sum(counts) == 1
    assert [event["event"] for event in events(store)] == ["AUTO_DISARM"]


def test_disarming_and_arming_at_once_leave_all_or_nothing(store, server_url, clock) -> None:
    """No reader ever sees a disarmed governor without its event, or half of an arming."""
    stores = [RedisStore(load_settings(redis_url=server_url), clock) for _ in range(4)]

    def turn(number: int) -> int:
        if number % 2:
            return int("disarm" in arm(stores[number % 4], name="n", reason="r"))
        return -int(disarm(stores[number % 4], "burst").changed)

    with ThreadPoolExecutor(4) as pool:
        balance = sum(pool.map(turn, range(200)))
    assert -balance == store.client.exists(DISARMED) == store.client.exists(DISARM)
    told = [event["event"] if event["event"] != "ARMED" else event["cleared"] for event in events(store)]
    assert told.count("AUTO_DISARM") - told.count("disarm") == -balance
    for one in stores:
        one.client.close()
