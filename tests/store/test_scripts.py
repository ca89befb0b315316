"""The scripts as files: each has a header and an owner, refuses what it must, and is called wherever its server loses it."""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from quantum_assets.governor_permit import decide_plans
from quantum_core.contracts.roles import ADMIN, GOVERNOR, READER
from quantum_core.kernels.governor.risk_guard import assess
from quantum_core.settings import load_settings
from resources.governor.account import read_account
from resources.governor.guards import enforce
from resources.governor.permit import read_permit
from resources.inputs.candles import NEWEST
from resources.store.publication import APPEND
from resources.store.redis_store import RedisStore
from resources.store.transport import scripts
from tests.conftest import Clock
from tests.governor.desk import Desk
from tests.servers import server_of, url_of, with_passwords
from tests.world import write_equity

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("quantum_core", "resources", "quantum_assets", "sensors", "quantum_ops", "quantum_feed")
FILES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.lua"))
PARTS = ("-- KEYS\n", "-- ARGV\n", "-- Returns\n", "-- Raises")
STREAM, HASH, TEXT, MARKER = "a-stream", "a-hash", "a-text", "a-marker"
FLAT = ["field", "value"]
GUARD = {
    "guard": "DRAWDOWN", "source": "risk_guard", "holds": "yes", "ts": "1.0", "now": "1.0", "confirm_sec": 10, "forget_sec": 60,
    "waiting": {"activated_at": "t"}, "waiting_sec": 60, "active": {}, "active_sec": 60,
    "events": {"waiting": FLAT, "recovered": FLAT, "activated": [FLAT]}, "cap": 10, "kept_sec": 60,
}  # fmt: skip
PLAN: dict[str, Any] = {
    "entry_id": "1-0", "now": "1000.5", "taken_at": "0", "decided_within_sec": 1e12, "counted": True, "reason": "",
    "reason_beyond": "", "amount": "10.5", "per_hour": 3, "per_burst": 2, "per_day": "100.0", "hour_sec": 3600, "burst_sec": 300,
    "limits": ["hour", "burst", "day"], "switches": ["kill", "disarmed", "disarmed", "guard"], "scopes": ["symbol:BTCUSDT"],
    "permit": FLAT, "block": FLAT, "event": FLAT, "digests": dict.fromkeys(("hour", "burst", "day", "kill", "guard"), "d"),
    "gates": {"hour": 7}, "seen_ttl_sec": 60, "permit_ttl_sec": 60, "block_ttl_sec": 60, "events_maxlen": 10,
}  # fmt: skip


class Refusal(NamedTuple):
    """One thing a script must refuse, having written nothing; its keys are named here, and ``of`` says what stands there."""

    file: str
    keys: Sequence[str]
    arguments: Sequence[Any]
    error: str = "WRONGTYPE"


def case(**fields: Any) -> str:
    return json.dumps(fields)


REFUSALS = (
    Refusal("resources/store/lua/publish.lua", [TEXT], [60, "*", 2, *FLAT]),
    Refusal("resources/store/lua/publish.lua", ["new", TEXT], [60, "*", 2, *FLAT, 10, *FLAT]),
    Refusal("resources/store/lua/append.lua", ["new", TEXT], [10, *FLAT]),
    Refusal("resources/store/lua/refresh.lua", [TEXT], [60, "then", *FLAT]),
    Refusal("resources/store/lua/hold.lua", [HASH, "new", "newer"],
            [case(owner="a", renew=True, lease_ms=1, most_ms=1e9, rival_sec=1, cycles=[])]),
    Refusal("resources/store/lua/intend.lua", ["new", HASH, TEXT],
            [case(expected="", parts=[{"lifetime_or_cap": 60, "fields": FLAT}] * 3)]),
    Refusal("resources/store/lua/keep_intent.lua", [TEXT], [60, "*", *FLAT]),
    Refusal("resources/store/lua/use_profile.lua", [TEXT], ["", "", 10, *FLAT]),
    Refusal("resources/governor/lua/decide.lua", [TEXT, "p", "b", "g", "t", "e"], [json.dumps(PLAN)]),
    Refusal("resources/governor/lua/decide.lua", ["s", "p", "b", TEXT, "t", "e"], [json.dumps(PLAN)]),
    Refusal("resources/governor/lua/decide.lua", ["s", "p", "b", "g", TEXT, "e"], [json.dumps(PLAN)]),
    Refusal("resources/governor/lua/decide.lua", ["s", "p", "b", "g", "t", HASH], [json.dumps(PLAN)]),
    Refusal("resources/governor/lua/decide.lua", ["s", "p", "b", "g", "t", "e", HASH], [json.dumps(PLAN)]),
    Refusal("resources/governor/lua/acknowledge.lua", [TEXT, MARKER], ["governor", "1-0"]),
    Refusal("resources/governor/lua/disarm_scope.lua", [TEXT, "events"],
            [case(scope="symbol:A", cause="{}", scopes_max=5, maxlen=10, event=FLAT)]),
    Refusal("resources/governor/lua/count_faults.lua", [TEXT, "errors"], [60, "errors", "symbol:A", "p1"]),
    Refusal("resources/governor/lua/arm_scope.lua", [HASH, "faults", TEXT], ["field", 10, *FLAT]),
    Refusal("resources/governor/lua/arm.lua", [STREAM, "2", "3", "4", TEXT, "6", "7"], [10, *FLAT]),
    Refusal("resources/governor/lua/release.lua", [TEXT, HASH, "readings"], ["text", "DRAWDOWN", 10, *FLAT]),
    Refusal("resources/governor/lua/announce.lua", ["guard", TEXT], [case(guard="{}", ttl_sec=60, maxlen=10, events=[FLAT])]),
    Refusal("resources/governor/lua/confirm.lua", ["guard", TEXT, "readings"], [json.dumps(GUARD)]),
    Refusal("resources/governor/lua/confirm.lua", ["guard", "events", TEXT], [json.dumps(GUARD)]),
    Refusal("resources/governor/lua/keep_peak.lua", [TEXT],
            [case(field="peak", peak="1", rose=False, near=True, ts="1", now="1", confirm_sec=10, ttl_sec=60)]),
    Refusal("resources/recorder/lua/record.lua", [TEXT, "writers", "seq"], ["token", "slot", "1", 10, *FLAT]),
    Refusal("resources/recorder/lua/record.lua", ["new", TEXT, "seq"], ["token", "slot", "1", 10, *FLAT]),
    Refusal("resources/recorder/lua/record.lua", ["new", "writers", HASH], ["token", "slot", "1", 10, *FLAT]),
    Refusal("resources/recorder/lua/record.lua", ["new", "writers", TEXT], ["token", "slot", "1", 10, *FLAT], "BROKEN"),
    Refusal("resources/recorder/lua/tail.lua", [TEXT], ["0-0", 10, 100, 10, 100]),
    Refusal("quantum_assets/lua/let_go.lua", [TEXT], [1, *FLAT]),
    Refusal("quantum_ops/exporter/lua/fold.lua", [TEXT], ["", "1", "{}", "count", "1"]),
    Refusal("quantum_ops/recordings/lua/replace_candles.lua", [TEXT], [60, 1, 1, "{}"], "FOREIGN"),
    Refusal("quantum_ops/recordings/lua/replace_candles.lua", ["a-zset"], [60, 0, 1, "{}"], "FOREIGN"),
    Refusal("quantum_ops/recordings/lua/replace_example.lua", [HASH], [60, *FLAT], "FOREIGN"),
    Refusal("quantum_feed/lua/store_candles.lua", [TEXT],
            [case(ttl_sec=60, kept=10, take_over=True, since_ms="0", label="x"), 1, "{}"], "FOREIGN"),
    Refusal("quantum_feed/lua/store_candles.lua", ["a-zset"],
            [case(ttl_sec=60, kept=10, take_over=False, since_ms="0", label="x"), 1, "{}"], "FOREIGN"),
)  # fmt: skip
REFUSE_NOTHING = {  # by their headers; what they do is tested beside their owners
    "resources/governor/lua/kill.lua",
    "resources/governor/lua/disarm.lua",
    "resources/governor/lua/renew.lua",
    "resources/inputs/lua/newest.lua",
}


def contents(client: redis.Redis) -> dict[bytes, bytes]:
    """Give everything a server holds, as it would be moved to another one."""
    return {key: client.dump(key) for key in client.keys("*")}


@pytest.mark.parametrize("file", FILES)
def test_every_script_has_a_header_an_owner_and_the_name_its_server_gives_it(store: RedisStore, file: str) -> None:
    """A call is made by the digest of the file: were it another text that runs, nothing would be decided by what is read here."""
    text = (ROOT / file).read_text()
    header = text.split("\n\n", 1)[0] if "\n\n" in text else text
    assert [part for part in PARTS if part not in header + "\n"] == []
    owners = [
        path for path in (ROOT / file).parents[1].glob("*.py") if f'Script(__file__, "{Path(file).stem}"' in path.read_text()
    ]
    assert len(owners) == 1
    importlib.import_module(".".join(owners[0].relative_to(ROOT).with_suffix("").parts))
    sha1 = store.client.script_load(text)
    assert scripts._by_sha1[sha1].path == ROOT / file


def test_every_script_that_may_refuse_is_shown_to() -> None:
    assert {one.file for one in REFUSALS} | REFUSE_NOTHING == set(FILES)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: f"{Path(one.file).stem}-{list(one.keys)}")
def test_a_script_that_refuses_has_written_nothing(store: RedisStore, refusal: Refusal) -> None:
    """A script that fails half-way is not undone, so each one examines its keys first."""
    client = store.client
    client.set(TEXT, "text")
    client.set(MARKER, "1-0|")
    client.hset(HASH, "field", "value")
    client.xadd(STREAM, {"field": "value"})
    client.zadd("a-zset", {'{"feed":"y"}': 1})
    before = contents(client)
    with pytest.raises(redis.ResponseError, match=refusal.error):
        client.eval((ROOT / refusal.file).read_text(), len(refusal.keys), *refusal.keys, *refusal.arguments)
    assert contents(client) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"reason": "stale"}, "stale"),
        ({"reason_beyond": "cap"}, "cap"),
        ({"per_hour": 0}, "hour"),
        ({"per_burst": 0}, "burst"),
        ({"amount": ""}, "day"),
        ({"amount": "100.00000000000001"}, "day"),
        ({"amount": "100.0"}, ""),
        ({"amount": "nan"}, "day"),
    ],
)
def test_the_file_that_decides_a_plan_decides_it(store: RedisStore, changes: dict[str, Any], reason: str) -> None:
    """The table of the limits, on the script alone; what is exact comes and goes as text."""
    plan = {**PLAN, **changes}
    plan["digests"] = {**PLAN["digests"], "stale": "d", "cap": "d"}
    text = (ROOT / "resources/governor/lua/decide.lua").read_text()
    keys = ["seen", "permit", "block", "granted", "today", "events", "kill", "disarmed", "scopes", "guard"]
    reply = store.client.eval(text, len(keys), *keys, json.dumps(plan))
    assert (reply[0], reply[1].decode()) == (1, reason)
    assert store.client.exists("permit") == (not reason)
    assert store.client.exists("block") == bool(reason)
    assert store.client.get("seen").decode() == f"1-0|{reason}"
    assert store.client.lrange("granted", 0, -1) == ([] if reason else [b"1000.5"])
    assert store.client.eval(text, len(keys), *keys, json.dumps(plan)) == [0, reason.encode()]
    assert store.client.eval(text, len(keys), *keys, json.dumps({**plan, "entry_id": "2-0"})) == [0, b""]
    assert store.client.xlen("events") == 1


@pytest.mark.parametrize(("key", "reason"), [("kill", "kill"), ("disarmed", "disarmed"), ("guard", "guard")])
def test_what_was_activated_since_the_evidence_was_read_refuses(store: RedisStore, key: str, reason: str) -> None:
    text = (ROOT / "resources/governor/lua/decide.lua").read_text()
    keys = ["seen", "permit", "block", "granted", "today", "events", "kill", "disarmed", "scopes", "guard"]
    store.client.set(key, "1")
    plan = {**PLAN, "digests": {**PLAN["digests"], "disarmed": "d"}}
    assert store.client.eval(text, len(keys), *keys, json.dumps(plan))[1].decode() == reason
    ((_, event),) = store.client.xrange("events")
    assert event[b"thrown_meanwhile"].decode() == reason


def test_evidence_too_old_is_decided_again_and_leaves_no_trace(store: RedisStore) -> None:
    text = (ROOT / "resources/governor/lua/decide.lua").read_text()
    keys = ["seen", "permit", "block", "granted", "today", "events"]
    plan = {**PLAN, "taken_at": repr(store.client.time()[0] - 11.0), "decided_within_sec": 10.0}
    assert store.client.eval(text, len(keys), *keys, json.dumps(plan)) == [2]
    assert contents(store.client) == {}


def entries(store: RedisStore, stream: str) -> list[str]:
    return [fields[b"number"].decode() for _, fields in store.client.xrange(stream)]


def test_a_server_that_loses_a_script_between_two_commands_of_one_round_trip_runs_each_once(store: RedisStore) -> None:
    """SCRIPT FLUSH by an operator: every reply is in its place, and nothing is appended twice or never."""
    streams = ["one", "two"]
    assert store.run("appending", [APPEND(streams, 10, "number", 0)]) == [1]
    commands = [
        APPEND(streams, 10, "number", 1),
        ("SCRIPT", "FLUSH"),
        APPEND(streams, 10, "number", 2),
        ("SET", "plain", "3"),
        APPEND(["plain", "two"], 10, "number", 4),
        APPEND(streams, 10, "number", 5),
    ]
    replies = store.run("appending", commands)
    assert [*replies[:4], replies[5]] == [1, b"OK", 1, b"OK", 1]
    assert "WRONGTYPE plain is a string" in str(replies[4])  # the script's own refusal, which is not sent again
    assert entries(store, "one") == entries(store, "two") == ["0", "1", "2", "5"]
    assert store.client.info("commandstats")["cmdstat_evalsha"]["failed_calls"] >= 3


def test_the_first_call_carries_the_text_and_the_others_the_digest(store: RedisStore) -> None:
    """So a pipeline on a server that is new, or was promoted, is refused nothing."""
    store.client.script_flush()
    before = store.client.info("commandstats")
    assert store.run("appending", [APPEND(["s"], 10, "number", n) for n in range(5)]) == [1] * 5
    after = store.client.info("commandstats")

    def calls(name: str, which: str) -> int:
        none = {"calls": 0, "failed_calls": 0}
        return after.get(f"cmdstat_{name}", none)[which] - before.get(f"cmdstat_{name}", none)[which]

    assert (calls("eval", "calls"), calls("evalsha", "calls"), calls("evalsha", "failed_calls")) == (1, 4, 0)


def test_scripts_flushed_between_two_decisions_decide_nothing_twice_and_lose_nothing(store: RedisStore) -> None:
    desk = Desk(store)
    desk.ready("BTCUSDT")
    for number in range(3):
        desk.plan(f"p{number}", "BTCUSDT", "CLOSE")
        desk.plan(f"p{number}", "BTCUSDT", "CLOSE")  # sent twice by its planner
        desk.decide()
        store.client.script_flush()
    assert [event["plan_id"] for event in desk.events()] == ["p0", "p1", "p2"]
    assert [desk.outcome(f"p{number}") for number in range(3)] == ["", "", "burst_limit_exceeded"]
    assert desk.pending() == 0


def test_a_guard_is_seen_by_the_evaluation_that_activates_it_on_a_server_without_scripts(store: RedisStore) -> None:
    """What is read in the same round trip must not be read before the scripts are sent again."""
    write_equity(store)
    store.client.set("quantum:risk:consecutive_losses", 3)
    account = read_account(store)
    for _ in range(2):
        assert enforce(store, account, assess(account.account), cycle_id="c1").live == ("CONSEC_LOSS",)
        store.client.delete("quantum:risk:guard_active:CONSEC_LOSS")
        store.client.script_flush()


@pytest.fixture(params=["redis", "valkey"])
def older_users(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A server whose users were made before scripts were called by digest; its port."""
    users = with_passwords(tmp_path)
    users.write_text(users.read_text().replace(" +evalsha_ro", "").replace(" +evalsha", ""))
    with server_of(request.param, tmp_path, "--aclfile", str(users)) as port:
        yield port


def test_a_user_who_may_not_call_by_digest_is_sent_the_text(older_users: int, clock: Clock) -> None:
    """An operator's list of users is older than an upgrade: it costs one refusal per process, and no decision."""
    admin, governor, reader = (
        RedisStore(load_settings(redis_url=url_of(role, older_users)), clock) for role in (ADMIN, GOVERNOR, READER)
    )
    desk = Desk(admin)
    desk.ready("BTCUSDT")
    for number in range(4):
        desk.plan(f"p{number}", "BTCUSDT", "CLOSE" if number % 2 else "OPEN")
        desk.plan(f"p{number}", "BTCUSDT", "CLOSE" if number % 2 else "OPEN")
        decide_plans(governor, cycle_id="c1")
    assert [desk.outcome(f"p{number}") for number in range(4)] == [""] * 4
    assert read_permit(governor, "BTCUSDT", "p3") is not None
    assert [event["plan_id"] for event in desk.events()] == ["p0", "p1", "p2", "p3"]
    asked = json.dumps({"wanted": 1, "bytes_max": 9, "chunk": 1, "scores": False, "newest_first": False, "types": ["list"]})
    for _ in range(3):
        assert reader.run("reading candles", [NEWEST(["quantum:history:ohlcv:BTCUSDT:1m"], asked)] * 2) == [[], []]
    refused = {one["object"]: int(one["count"]) for one in admin.client.acl_log()}
    assert set(refused) == {"evalsha", "evalsha_ro"}
    assert refused["evalsha_ro"] == 1
    for one in (admin, governor, reader):
        one.client.close()
