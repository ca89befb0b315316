"""Whatever stands in Redis must not end the watcher: one malformed entry silenced every alert."""

import json
import logging
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantum_core.freshness import PARTS
from quantum_core.settings import load_settings
from quantum_ops.alerts.unusable import Guarded
from quantum_ops.alerts.watch_state import STATE_FILE
from quantum_ops.alerts.watcher import Watcher
from resources.governor.switches import kill
from resources.store.redis_store import RedisStore

SYMBOLS = ("BTCUSDT", "ETHUSDT")
NO_TIMES = ["inf", "-inf", "nan", "1e400", "1e308", "-1", "", "x", "9" * 400]
NUMBERS = st.one_of(st.sampled_from([*NO_TIMES, "0", "3", "1e12"]), st.integers().map(str), st.floats().map(str))
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    NUMBERS,
    st.just(10**400),
    st.lists(st.none(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
)


def as_json(names: list[str]) -> st.SearchStrategy[str]:
    """JSON objects with some of these names and any values, and texts that are no objects."""
    whole = st.fixed_dictionaries({}, optional=dict.fromkeys(names, JUNK)).map(json.dumps)
    return st.one_of(whole, st.sampled_from(["", "null", "[]", "{", "[" * 5000, "NaN"]))


THETA = as_json(["max_exec_per_hour", "max_exec_per_5min", "max_notional_per_day_usd", "max_qty_per_day"])
REASONS = ["hourly_limit_exceeded", "burst_limit_exceeded", "daily_limit_exceeded", "synthetic_data", "invalid_plan:", "x"]
GOVERNOR = st.fixed_dictionaries(
    {"event": st.sampled_from(["BLOCK", "PERMIT", "KILL", "ARMED", "AUTO_DISARM", "x"])},
    optional={
        "symbol": st.sampled_from([*SYMBOLS, "DDDUSDT", ""]),
        "plan_id": st.text(max_size=3),
        "action": st.sampled_from(["CLOSE", "x"]),
        "closing": st.sampled_from(["1", "0", "", "x"]),
        "reason": st.sampled_from(REASONS),
        "theta": THETA,
        "unit": st.sampled_from(["usd", "x"]),
        **dict.fromkeys(["permits_hour", "permits_5min", "notional", "qty", "day_total", "by", "gate"], NUMBERS),
    },
)
RISK = st.fixed_dictionaries(
    {"event": st.just("RISK_GUARD_ACTIVATED")}, optional=dict.fromkeys(["guard_type", "reason"], NUMBERS)
)
PROOF = as_json(["passed", "severity", "evaluated_at", "failing", "per_symbol", "observed", "threshold", "finished_at"])
FAILURE = as_json(["why", "since", "at", "cycle_id"])
SAID = as_json(["guard_type", "reason", "activated_at", "expires_at", "source", "cause", "at"])
OTHER_TYPES = st.dictionaries(
    st.sampled_from(
        ["proofs", "kill", "disarmed", "stream_governor_events", "stream_risk_events", "stream_plans", "alerts_active"]
    ),
    st.sampled_from(["string", "list", "hash"]),
    max_size=2,
)


@pytest.fixture
def live(valkey_url: str, tmp_path: Path) -> RedisStore:
    return RedisStore(load_settings(redis_url=valkey_url, quantum_home=tmp_path / "home", symbols=",".join(SYMBOLS)))


def put_other_types(store: RedisStore, types: dict[str, str]) -> None:
    for name, kind in types.items():
        key = store.keys.of(name)
        store.client.delete(key)
        if kind == "string":
            store.client.set(key, "x")
        elif kind == "list":
            store.client.rpush(key, "x")
        else:
            store.client.hset(key, "x", "y")


def rounds(store: RedisStore) -> Watcher:
    """Let a watcher evaluate, twice: at once, and when everything has had its time."""
    now = time.time()
    (store.settings.quantum_home / STATE_FILE).unlink(missing_ok=True)
    watcher = Watcher(store)
    watcher.state_file.path.parent.mkdir(parents=True, exist_ok=True)
    watcher.round()
    watcher.ledger.observer.trusted_from = now - 1
    watcher.ledger.observer._waiting = dict.fromkeys(watcher.ledger.observer._waiting, now - 1000)
    watcher.round()
    json.dumps(watcher.report(), allow_nan=False)
    return watcher


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    events=st.lists(GOVERNOR, max_size=4),
    risks=st.lists(RISK, max_size=2),
    proofs=st.dictionaries(st.sampled_from(["evil/x", "_run", "x", "risk_guard/fresh"]), PROOF, max_size=3),
    failures=st.dictionaries(st.sampled_from(SYMBOLS), FAILURE, max_size=2),
    guards=st.dictionaries(st.sampled_from(["EQUITY_STALE", "DAILY_LOSS"]), SAID, max_size=2),
    switches=st.dictionaries(st.sampled_from(["kill", "disarmed"]), SAID, max_size=2),
    beats=st.dictionaries(st.sampled_from(["worker", "daemon", "cycle"]), NUMBERS, max_size=3),
    types=OTHER_TYPES,
)
def test_no_content_of_redis_makes_an_evaluation_raise(live, events, risks, proofs, failures, guards, switches, beats, types):
    """Governor and risk events, proofs, failures, guards, switches, heartbeats, and keys of another type."""
    of, client = live.keys.of, live.client
    client.flushdb()
    for event in events:
        client.xadd(of("stream_governor_events"), event)
    for event in risks:
        client.xadd(of("stream_risk_events"), event)
    if proofs:
        client.hset(of("proofs"), mapping=proofs)
    if failures:
        client.hset(of("failures", "market_state"), mapping=failures)
    for guard, said in guards.items():
        client.set(of("guard_active", guard), said)
    for switch, said in switches.items():
        client.set(of(switch), said)
    for part, beat in beats.items():
        client.set(of("heartbeat", part), beat)
    put_other_types(live, types)
    assert not rounds(live)._guarded._named  # not even the last guard was needed


@pytest.mark.parametrize("theta", ['{"max_exec_per_hour":null}', '{"max_exec_per_hour":"x"}', '{"max_exec_per_hour":1e400}'])
def test_a_refusal_with_a_limit_that_is_no_number_is_told_and_the_others_too(live, theta):
    """It ended the watcher at every start, until somebody deleted the entry."""
    live.client.flushdb()
    fields = {"event": "BLOCK", "symbol": "DDDUSDT", "action": "CLOSE", "closing": "1", "reason": "hourly_limit_exceeded"}
    live.client.xadd(live.keys.of("stream_governor_events"), {**fields, "theta": theta})
    kill(live, reason="wrong prices", by="ada")
    active = rounds(live).ledger.active
    assert {"close_refused:DDDUSDT", "kill_switch"} <= active.keys()
    assert "its record does not say which" in active["close_refused:DDDUSDT"].trouble.what


@pytest.mark.parametrize("moment", ['"inf"', "NaN", "1e300", "null"])
def test_a_verdict_and_a_failure_without_a_sane_time_are_named_and_end_nothing(live, moment):
    """OverflowError, until the field was deleted."""
    live.client.flushdb()
    rest = '"passed":false,"severity":"ERROR","failing":{},"per_symbol":false,"observed":"","threshold":""'
    verdict = f'{{"evaluated_at":{moment},{rest}}}'
    for part in PARTS:
        live.client.set(live.keys.of("heartbeat", part), int(time.time()))
    live.client.hset(live.keys.of("proofs"), "evil/x", verdict)
    live.client.hset(live.keys.of("failures", "market_state"), "BTCUSDT", f'{{"why":"x","since":{moment},"at":1,"cycle_id":"c"}}')
    assert "unreadable" in rounds(live).ledger.active["proof:evil/x"].trouble.what


def test_the_last_guard_names_an_entry_once_and_goes_on(caplog):
    """Behind all validation: what nobody thought of is left out, and said so in one line."""
    guarded = Guarded(KeyError)
    with caplog.at_level(logging.WARNING, logger="quantum.watch"):
        assert [guarded.call("event 1-1", "nothing", int, "x") for _ in range(3)] == ["nothing"] * 3
        assert guarded.call("event 1-2", 0, int, "7") == 7
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["event 1-1 cannot be used"]
    with pytest.raises(KeyError):
        guarded.call("x", 0, {}.__getitem__, "gone")
