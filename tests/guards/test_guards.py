"""Guards as the governor reads them: what lives, and whether the risk guard can be relied on."""

import json
import subprocess
import sys

import pytest

from quantum_core.contracts.labels import is_live
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.contracts.tables import RISK_GUARD, Keys
from quantum_core.kernels.governor.risk_guard import GUARDS, assess
from resources.governor.account import read_account
from resources.governor.guard_search import FOUND_MAX, SEARCHED, look_for_more
from resources.governor.guards import enforce, guard_state, read_guards
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from tests.world import write_equity

STATE = "quantum:risk:guard:state"


@pytest.fixture(params=["valkey_url", "redis_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Both servers the product runs on: a script that only one of them takes is none."""
    return request.getfixturevalue(request.param)


def evaluate(store: RedisStore) -> dict[str, object]:
    """Do what the asset does in a cycle; give the row it publishes."""
    account = read_account(store)
    assessment = assess(account.account)
    row = guard_state(account, assessment, enforce(store, account, assessment, cycle_id="c1"), look_for_more(store))
    (outcome,) = publish(store, RISK_GUARD, [row], cycle_id="c1")
    assert not outcome.error
    return row


def test_a_healthy_account_stands_in_nobodys_way(store) -> None:
    """The usual answer: nothing lives, nothing is wrong."""
    write_equity(store)
    evaluate(store)
    reading = read_guards(store)
    assert (reading.live, reading.trouble) == ((), "")


def test_live_guards_come_in_the_order_of_the_specification_with_what_they_say(store) -> None:
    """The first one is the reason of the block."""
    write_equity(store, equity=8_000.0)
    store.client.set("quantum:risk:consecutive_losses", 3)
    evaluate(store)
    reading = read_guards(store)
    assert reading.live == ("DRAWDOWN", "EMERGENCY_FLATTEN", "CONSEC_LOSS")
    assert reading.trouble == ""
    assert reading.said["EMERGENCY_FLATTEN"]["reason"] == "EMERGENCY_FLATTEN drawdown=20.0% > 10.0%"


def test_a_guard_somebody_else_has_set_lives_whatever_it_holds(store) -> None:
    """The key blocks, not what is in it."""
    write_equity(store)
    store.client.set("quantum:risk:guard_active:DAILY_LOSS", "")
    evaluate(store)
    reading = read_guards(store)
    assert (reading.live, reading.trouble) == (("DAILY_LOSS",), "")
    assert reading.said == {"DAILY_LOSS": {}}


def test_a_guard_of_another_type_is_live_and_named(store) -> None:
    """What cannot be read is no leave."""
    write_equity(store)
    evaluate(store)
    store.client.hset("quantum:risk:guard_active:DRAWDOWN", "a", "b")
    reading = read_guards(store)
    assert reading.live == ("DRAWDOWN",)
    assert "quantum:risk:guard_active:DRAWDOWN" in reading.trouble
    assert "WRONGTYPE" in reading.trouble
    row = evaluate(store)
    assert (row["status"], row["errors"], row["guards"]) == ("error", ["guard:DRAWDOWN"], ["DRAWDOWN"])


@pytest.mark.parametrize(("age_sec", "trouble"), [(120, ""), (121, "risk_guard_stale"), (-5, ""), (-6, "risk_guard_in_future")])
def test_a_risk_guard_that_was_not_evaluated_lately_is_trouble(store, clock, age_sec, trouble) -> None:
    """No live guard proves nothing when nobody has looked."""
    write_equity(store)
    evaluate(store)
    clock.advance(age_sec)
    reading = read_guards(store)
    assert reading.trouble.partition(":")[0] == trouble
    assert reading.live == ()


def spoil_type(store: RedisStore) -> None:
    store.client.delete(STATE)
    store.client.set(STATE, "x")


@pytest.mark.parametrize(
    ("spoil", "trouble"),
    [
        (lambda store: store.client.delete(STATE), "risk_guard_missing"),
        (spoil_type, "risk_guard_unreadable"),
        (lambda store: store.client.hset(STATE, "status", "ok!"), "risk_guard_unreadable"),
        (lambda store: store.client.hset(STATE, "equity", "20000.0"), "risk_guard_unreadable"),
    ],
    ids=["missing", "another type", "no such status", "edited"],
)
def test_a_state_that_cannot_be_read_is_trouble(store, spoil, trouble) -> None:
    """A failed read is not a healthy account."""
    write_equity(store)
    evaluate(store)
    spoil(store)
    assert read_guards(store).trouble.startswith(trouble)


UNUSABLE = [
    ("equity", lambda store: store.client.hset("quantum:equity:current", "equity", "nan")),
    ("equity", lambda store: store.client.hset("quantum:equity:current", "equity", "1_000")),
    ("equity", lambda store: store.client.hset("quantum:equity:current", "equity", "1e16")),
    ("equity", lambda store: store.client.hdel("quantum:equity:current", "equity")),
    ("equity", lambda store: store.client.hset("quantum:equity:current", "last_update_ts", "yesterday")),
    ("equity", lambda store: store.client.hdel("quantum:equity:current", "last_update_ts")),
    ("peak", lambda store: store.client.hdel("quantum:equity:current", "peak")),
    ("peak", lambda store: store.client.hset("quantum:equity:current", "peak", "0")),
    ("peak", lambda store: store.client.hset("quantum:equity:current", "peak", "inf")),
    ("peak", lambda store: store.client.hset("quantum:equity:current", "peak", "8989")),
    ("net_transfers", lambda store: store.client.hset("quantum:equity:current", "net_transfers", "")),
    ("net_transfers", lambda store: store.client.hset("quantum:equity:current", "net_transfers", "nan")),
    ("net_transfers", lambda store: store.client.hset("quantum:equity:current", "net_transfers", "-10000")),
    ("daily_pnl", lambda store: store.client.hset("quantum:risk:daily_pnl:2026-01-22", "pnl", "much")),
    ("daily_pnl", lambda store: store.client.hset("quantum:risk:daily_pnl:2026-01-22", "profit", "1")),
    ("daily_pnl", lambda store: store.client.set("quantum:risk:daily_pnl:2026-01-22", "-100")),
    ("consecutive_losses", lambda store: store.client.set("quantum:risk:consecutive_losses", "")),
    ("consecutive_losses", lambda store: store.client.set("quantum:risk:consecutive_losses", "-1")),
    ("consecutive_losses", lambda store: store.client.rpush("quantum:risk:consecutive_losses", "1")),
]


@pytest.mark.parametrize(("name", "spoil"), UNUSABLE)
def test_an_input_that_cannot_be_used_is_an_error_by_name_and_brings_no_guard_to_life(store, name, spoil) -> None:
    """Neither a default that hides a drawdown, nor a guard nobody can explain: the governor sees trouble."""
    write_equity(store)
    spoil(store)
    row = evaluate(store)
    assert (row["status"], row["errors"], row["guards"], row[name]) == ("error", [name], [], None)
    assert read_guards(store).live == ()
    assert read_guards(store).trouble.startswith(f"risk_guard_error: {name} cannot be used: quantum:")


def test_a_peak_just_below_the_equity_is_one_its_writer_has_not_renewed_yet(store) -> None:
    """Its writers do not write both at once; the row says what was read."""
    write_equity(store, equity=10_000.0, peak=9_100.0)
    row = evaluate(store)
    assert (row["status"], row["peak"], row["drawdown"]) == ("ok", 9_100.0, 0.0)


def test_an_equity_hash_of_another_type_is_an_error_and_not_a_missing_one(store) -> None:
    """A failed read must never look like "nobody writes it"."""
    store.client.set("quantum:equity:current", "10000")
    row = evaluate(store)
    assert (row["status"], row["errors"], row["triggered"]) == ("error", ["equity", "peak"], [])
    assert "WRONGTYPE" in row["reason"]


def test_no_profit_and_no_losses_yet_are_noughts(store) -> None:
    """On a new day nobody has written them before the first trade."""
    write_equity(store)
    row = evaluate(store)
    assert (row["status"], row["daily_pnl"], row["consecutive_losses"]) == ("ok", 0.0, 0)
    assert row["reason"] == "quantum:risk:daily_pnl:2026-01-22 is missing: the profit of today counts as 0"


def test_the_loss_of_yesterday_is_not_the_loss_of_today(store, clock) -> None:
    """The day is the UTC day; yesterday's guard lives on for its own time."""
    write_equity(store)
    store.client.hset("quantum:risk:daily_pnl:2026-01-22", "pnl", "-300")
    assert evaluate(store)["triggered"] == ["DAILY_LOSS"]
    clock.advance(10)
    write_equity(store)
    assert evaluate(store)["pending"] == []
    clock.advance(12 * 3600)
    write_equity(store)
    row = evaluate(store)
    assert (row["triggered"], row["guards"], row["status"]) == ([], ["DAILY_LOSS"], "blocked")


def test_a_clock_in_iso_is_a_clock(store, clock) -> None:
    """Writers do not agree on how to write a time."""
    write_equity(store, last_update_ts=clock.now.isoformat())
    assert evaluate(store)["status"] == "ok"


def test_all_of_it_is_one_round_trip_and_a_dead_server_is_no_answer(store, make_store, monkeypatch) -> None:
    """The governor reads guards for every batch of plans."""
    calls = []
    real = store.run
    monkeypatch.setattr(store, "run", lambda doing, commands: calls.append(doing) or real(doing, commands))
    read_guards(store)
    assert calls == ["reading guards"]
    with pytest.raises(RedisUnavailableError):
        read_guards(make_store(redis_url="redis://127.0.0.1:1"))


def test_the_event_stream_of_another_type_is_an_error_and_leaves_no_guard_unannounced(store) -> None:
    """It is announced as soon as the stream is mended; until then the error blocks."""
    write_equity(store, equity=9_100.0)
    store.client.set("quantum:stream:risk.events", "x")
    row = evaluate(store)
    assert (row["status"], row["errors"], row["guards"], row["triggered"]) == ("error", ["events"], [], ["DRAWDOWN"])
    store.client.delete("quantum:stream:risk.events")
    row = evaluate(store)
    assert (row["guards"], row["pending"]) == (["DRAWDOWN"], ["DRAWDOWN"])
    assert store.client.xlen("quantum:stream:risk.events") == 1


def test_in_a_cluster_what_one_script_touches_shares_a_slot() -> None:
    """Else the server refuses the script; and the switch people type keeps its name."""
    keys = Keys(cluster=True)
    assert keys.of("kill") == "quantum:kill"
    together = [keys.of("guard_active", guard) for guard in GUARDS]
    together += [keys.of(name) for name in ("disarmed", "stream_governor_events", "stream_risk_events", "guard_readings")]
    together += [keys.of(name, "2026-01-22") for name in ("disarm", "governor_errors")]
    assert all(name.count("{") == 1 and name.endswith("{quantum:kill}") for name in together)
    assert Keys().of("guard_active", "DRAWDOWN") == "quantum:risk:guard_active:DRAWDOWN"
    assert Keys().of("disarm", "2026-01-22") == "quantum:governor:disarm:2026-01-22"


def test_the_state_carries_the_stamps_of_every_hash(store) -> None:
    """Freshness is judged by them."""
    write_equity(store, source="example")
    evaluate(store)
    (reading,) = store.read(RISK_GUARD, [ACCOUNT])
    assert (reading.value["symbol"], reading.value["cycle_id"], reading.value["equity_source"]) == ("account", "c1", "example")
    assert 0 < store.client.ttl(STATE) <= 600


def test_reading_guards_does_not_import_dagster() -> None:
    """The commands read them while Dagster is down, and start fast."""
    code = "import resources.governor.guards, resources.governor.switches, sys; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_equity_stale_of_somebody_else_is_left_alone(store) -> None:
    """Whoever set it may know more."""
    foreign = json.dumps({"guard_type": "EQUITY_STALE", "source": "desk"})
    store.client.set("quantum:risk:guard_active:EQUITY_STALE", foreign)
    write_equity(store)
    assert evaluate(store)["guards"] == ["EQUITY_STALE"]
    assert store.client.get("quantum:risk:guard_active:EQUITY_STALE").decode() == foreign


@pytest.mark.parametrize(("value", "kind"), [('{"reason": "by hand"}', "set"), ("", "set"), ("x", "rpush")])
def test_a_guard_nobody_knows_lives_while_its_key_stands(store, value, kind) -> None:
    """Somebody wanted openings to stop; that we do not know why is no reason to open."""
    write_equity(store)
    evaluate(store)
    key = "quantum:risk:guard_active:MANUAL_HALT"
    getattr(store.client, kind)(key, value)
    row = evaluate(store)
    assert (row["status"], row["guards"], row["errors"]) == ("blocked", ["MANUAL_HALT"], [])
    reading = read_guards(store)
    assert (reading.live, reading.trouble) == (("MANUAL_HALT",), "")
    assert reading.said["MANUAL_HALT"] == ({"reason": "by hand"} if "hand" in value else {})
    store.client.delete(key)
    assert read_guards(store).live == ()
    assert evaluate(store)["status"] == "ok"


@pytest.mark.parametrize(
    "name", ["quantum:risk:guard_active", "quantum:risk:guard_active:", b"quantum:risk:guard_active:\xff\x00"]
)
def test_a_guard_with_a_name_that_is_none_lives_too(store, name) -> None:
    """Whatever stands under the prefix."""
    write_equity(store)
    store.client.set(name, "1")
    assert evaluate(store)["status"] == "blocked"
    assert len(read_guards(store).live) == 1


def test_a_guard_that_is_announced_in_the_settings_is_seen_without_a_search(store, make_store) -> None:
    """The search of a large server takes a while; this does not."""
    write_equity(store)
    evaluate(store)
    store.client.set("quantum:risk:guard_active:MANUAL_HALT", "{}")
    assert read_guards(make_store(risk_guards_extra="MANUAL_HALT")).live == ("MANUAL_HALT",)


def crowd(store) -> None:
    """Write many keys of others."""
    store.client.mset({f"other:{number}": 1 for number in range(500)})


def test_the_search_goes_on_where_it_was_and_keeps_what_it_found(store, monkeypatch) -> None:
    """A large server is not searched as a whole in one evaluation."""
    write_equity(store)
    evaluate(store)
    monkeypatch.setattr("resources.governor.guard_search.SCAN_COUNT", 50)
    monkeypatch.setattr("resources.governor.guard_search.SCANS", 1)
    crowd(store)
    store.client.set("quantum:risk:guard_active:MANUAL_HALT", "{}")
    seen = [evaluate(store)["guards"] == ["MANUAL_HALT"] for _ in range(30)]
    assert sum(seen) > 0
    assert all(seen[seen.index(True) :])


def test_before_the_first_search_is_complete_nothing_is_known(store, monkeypatch) -> None:
    """Not yet found is not known to be absent."""
    write_equity(store)
    monkeypatch.setattr("resources.governor.guard_search.SCAN_COUNT", 1)
    monkeypatch.setattr("resources.governor.guard_search.SCANS_FIRST", 1)
    crowd(store)
    row = evaluate(store)
    assert (row["status"], row["errors"]) == ("error", ["search"])
    assert read_guards(store).trouble.startswith("risk_guard_error: search")


def test_a_search_that_cannot_be_kept_is_trouble(store) -> None:
    """What was found must not be forgotten."""
    write_equity(store)
    store.client.set("quantum:risk:guard:found", "x")
    assert evaluate(store)["errors"] == ["search"]
    assert "quantum:risk:guard:found" in read_guards(store).trouble


def test_more_keys_than_are_kept_are_trouble(store) -> None:
    """Nothing that was found is dropped in silence."""
    write_equity(store)
    with store.client.pipeline(transaction=False) as many:
        for number in range(FOUND_MAX + 1):
            many.set(f"quantum:risk:guard_active:G{number}", 1)
        many.execute()
    assert evaluate(store)["errors"] == ["search"]


@pytest.mark.parametrize("kind", ["string", "hash", "list"])
@pytest.mark.parametrize(
    "name", ["guard-active:DRAWDOWN", "GUARD_ACTIVE:DRAWDOWN", "guardActive:X", "guard:active:X", "guard_active"]
)
def test_a_guard_under_another_spelling_blocks(store, name, kind) -> None:
    """Whoever sets one means no openings."""
    write_equity(store)
    fill = {"string": store.client.set, "hash": lambda key, one: store.client.hset(key, "a", one), "list": store.client.rpush}[
        kind
    ]
    fill(f"quantum:risk:{name}", 1)
    evaluate(store)
    reading = read_guards(store)
    assert len(reading.live) == 1
    assert store.client.exists("quantum:risk:guard:readings", "quantum:risk:guard:found", STATE) >= 2  # ours are none
    store.client.delete(f"quantum:risk:{name}")
    evaluate(store)
    assert read_guards(store).live == ()


@pytest.mark.parametrize("fields", [{"env": "testnet"}, {"paper": "true"}, {"source": "dry-run"}])
def test_an_account_that_says_in_other_fields_that_it_is_not_live_is_not(store, fields) -> None:
    """Openings rest on its guards."""
    write_equity(store, **fields)
    evaluate(store)
    assert not is_live(read_guards(store).account)


@pytest.mark.parametrize(
    "name",
    ["quantum:risk:daily_pnl:2026-01-23", "quantum:risk:daily_pnl:20260122", "quantum:risk:daily_pnl:2026/01/22",
     "quantum:risk:daily_pnl", "quantum:risk:daily_pnl_usd:2026-01-22", "quantum:risk:daily_pnl:2026-01-32",
     "quantum:risk:daily_pnl:2026-W04-4", "quantum:risk:DAILY_PNL:2026-01-22", "quantum:risk:dailyPnl:2026-01-22",
     "quantum:risk:daily-pnl:2026-01-22", "quantum:risk:daily:pnl:2026-01-22", "quantum:risk:daily_loss:2026-01-22",
     "quantum:risk:pnl:daily", "quantum:daily_pnl", "quantum:daily_pnl:2026-01-21", "quantum:risk:pnl:2026-01-22", "quantum:pnl:2026-01-22",
     "quantum:pnl:daily:2026-01-22", "quantum:risk:dailypnl", "quantum:risk:day_pnl", "quantum:risk:pnl_today", "quantum:risk:pnl:24h",
     "quantum:risk:pnl:1769083200", "quantum:risk:realized_pnl:20260122", "quantum:portfolio:daily-profit", "quantum:account:pnl:daily:usdt",
     "quantum:risk:loss:2026-01-22", "Quantum:Risk:DailyPnL", "QUANTUM:RISK:DAILY_PNL:2026-01-22", "quantum.risk.daily_pnl.2026-01-22",
     "quantum/risk/daily_pnl", "quantum::risk::daily_pnl", "quantum:risk:pnl:2026-01-22T00:00:00Z",
     "quantum:equity:daily_pnl", "quantum:risk:intraday_loss", "quantum:profit_and_loss:2026-01-22"],
)  # fmt: skip
def test_the_loss_of_a_day_under_another_name_is_trouble(store, name) -> None:
    """A writer that spells the day otherwise, or lives in another one, had its loss ignored."""
    write_equity(store)
    store.client.hset(name, "pnl", "-5000")
    row = evaluate(store)
    assert (row["status"], row["errors"]) == ("error", ["daily_pnl_names"])
    assert name in read_guards(store).trouble
    store.client.delete(name)
    assert evaluate(store)["status"] == "ok"


@pytest.mark.parametrize(
    "name",
    ["quantum:pnl:daily:BTCUSDT", "quantum:rl:daily_pnl", "quantum:risk:pnl", "quantum:risk:max_daily_drawdown", "quantum:trade:pnl:17",
     "otherbot:daily_pnl", "quantum:stream:pnl.daily", "quantum:governor:daily:BTCUSDT:2026-01-22:usd", "quantum:risk:pnl:limit:daily",
     "quantum:risk:consecutive_losses", "quantum:alpha:profit_factor", "quantum:daily:report:2026-01-22"],
)  # fmt: skip
def test_a_profit_that_is_not_of_the_accounts_day_may_stand(store, name) -> None:
    """Statistics of a symbol, a strategy or another program are no fault of the bookkeeper's: openings would be blocked for ever."""
    write_equity(store)
    store.client.set(name, "0")
    row = evaluate(store)
    assert (row["status"], row["errors"]) == ("ok", [])


def test_few_of_our_own_keys_are_among_those_searched(store) -> None:
    """Each of them is sent with every search: none may be one of a symbol, or of a plan."""
    keys = Keys()
    ours = {name: keys.of(name, "BTCUSDT") for name in keys.templates() if name not in ("daily_pnl", "guard_active")}
    store.client.mset(dict.fromkeys(ours.values(), "0"))
    _, answers = store.client.scan(match=SEARCHED, count=10_000)
    assert not [name for name in answers if b"BTCUSDT" in name]
    assert len(answers) < 10


def test_the_hashes_of_today_and_of_days_past_may_stand(store) -> None:
    """Shortly after midnight yesterday's is all there is."""
    write_equity(store)
    for day in ("2025-01-22", "2026-01-01", "2026-01-21", "2026-01-22"):
        store.client.hset(f"quantum:risk:daily_pnl:{day}", "pnl", "-1")
    assert evaluate(store)["status"] == "ok"


def test_a_missing_hash_of_today_blocks_where_it_is_required(store, make_store) -> None:
    """Whoever's bookkeeper always writes one knows that none is a fault."""
    write_equity(store)
    strict = make_store(daily_pnl_required=True)
    row = evaluate(strict)
    assert (row["status"], row["errors"]) == ("error", ["daily_pnl"])
    store.client.hset(f"quantum:risk:daily_pnl:{store.clock().date()}", "pnl", "0")
    assert evaluate(strict)["status"] == "ok"
