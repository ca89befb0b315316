"""What was decided, read from a real server: switches, guards, waiting plans, and events from a cursor."""

import subprocess
import sys

import pytest

from quantum_core.kernels.governor.risk_guard import assess
from quantum_ops.alerts.trading.decided import TradingSigns
from quantum_ops.alerts.trading.signs import TradingSignsReader
from quantum_ops.alerts.trading.watch import TradingWatch
from resources.governor.account import read_account
from resources.governor.guards import enforce
from resources.governor.queue import GROUP
from resources.governor.switches import arm, disarm, kill
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from tests.world import write_equity, write_plan


def names(signs: TradingSigns) -> list[str]:
    return [entry.fields.get("event", "") for entry in signs.entries]


def test_switches_come_with_who_set_them_and_each_event_once(store):
    """The state says that it is on, the event who and why; the cursor, that it was read."""
    reader = TradingSignsReader(store)
    first = reader.read({})
    assert (first.killed, first.disarmed, names(first)) == (False, False, [])
    kill(store, reason="wrong prices", by="ada")
    disarm(store, "burst_limit_exceeded: plan p-1")
    second = reader.read(first.cursors)
    assert (second.killed, second.disarmed, second.disarm["cause"]) == (True, True, "burst_limit_exceeded: plan p-1")
    assert names(second) == ["KILL", "AUTO_DISARM"]
    assert names(reader.read(second.cursors)) == []
    arm(store, name="Grace", reason="right again")
    third = reader.read(second.cursors)
    assert (third.killed, third.disarmed, names(third)) == (False, False, ["ARMED"])


def test_a_first_poll_reads_the_newest_events(store):
    """Who set a switch that is on is known, though the watcher is new."""
    kill(store, reason="wrong prices", by="ada")
    signs = TradingSignsReader(store).read({})
    assert names(signs) == ["KILL"]
    decided = TradingWatch().observe(signs, [], store.clock().timestamp(), stop_age_sec=60)
    assert decided.changes == []
    assert decided.troubles["kill_switch"].what.startswith("Kill switch set by ada: wrong prices")


def test_a_stream_that_was_emptied_is_read_anew(store):
    """A server that lost its data, or whose clock was set back, must not mute the watcher."""
    cursors = {store.keys.of("stream_governor_events"): "99999999999999-0"}
    kill(store, reason="wrong prices", by="ada")
    assert names(TradingSignsReader(store).read(cursors)) == ["KILL"]


def test_guards_and_their_activation(store):
    """A guard says why and until when."""
    reader = TradingSignsReader(store)
    before = reader.read({})
    write_equity(store, 9_000.0, 10_000.0)
    store.client.set(store.keys.of("consecutive_losses"), 5)
    account = read_account(store)
    enforce(store, account, assess(account.account), cycle_id="c1")
    signs = reader.read(before.cursors)
    assert "CONSEC_LOSS" in signs.guards
    assert "RISK_GUARD_ACTIVATED" in names(signs)
    assert signs.guards["CONSEC_LOSS"]["reason"] == "CONSEC_LOSS losses=5 >= 3"
    assert signs.guard_trouble.startswith("risk_guard_missing")


def test_waiting_plans_are_counted_whether_taken_or_not(store):
    """A governor that died with plans in its hands leaves them waiting, too."""
    reader = TradingSignsReader(store)
    assert (reader.read({}).waiting, reader.read({}).waiting_since) == (0, None)
    for number in range(3):
        write_plan(store, f"p-{number}", "BTCUSDT")
    first = reader.read({})
    assert first.waiting == 3
    stream = store.keys.of("stream_plans")
    store.client.xgroup_create(stream, GROUP, "0")
    taken = store.client.xreadgroup(GROUP, "dead", {stream: ">"}, count=2)
    assert (reader.read({}).waiting, reader.read({}).waiting_since) == (3, first.waiting_since)
    store.client.xack(stream, GROUP, *(entry_id for entry_id, _ in taken[0][1]))
    assert reader.read({}).waiting == 1


def test_permits_and_when_the_limits_have_room_are_read_for_whom_it_matters(store):
    """Of a refused close the times of the permits are needed, of a permit whether it was used."""
    reader = TradingSignsReader(store)
    before = reader.read({})
    store.client.xadd(store.keys.of("stream_governor_events"), {"event": "PERMIT", "plan_id": "p-1", "symbol": "BTCUSDT"})
    store.client.xadd(store.keys.of("stream_governor_events"), {"event": "BLOCK", "plan_id": "p-2", "symbol": "ETHUSDT"})
    store.client.hset(store.keys.of("permit", "p-1", "BTCUSDT"), "consumed", "false")
    store.client.lpush(store.keys.of("closes_granted", "ETHUSDT"), "100.5", "200.5")
    signs = reader.read(before.cursors, refused=["SOLUSDT"], permits={"p-0": "BTCUSDT"})
    assert signs.permits == {"p-0": "", "p-1": "false"}
    store.client.set(store.keys.of("permit", "p-0", "BTCUSDT"), '{"granted":true,"consumed":true}')  # PERMIT_FORMAT=json
    assert reader.read(before.cursors, permits={"p-0": "BTCUSDT"}).permits["p-0"] == "true"
    assert signs.granted == {"SOLUSDT": [], "ETHUSDT": [200.5, 100.5]}


@pytest.mark.parametrize("key", ["kill", "disarmed", "stream_governor_events", "stream_risk_events", "stream_plans"])
def test_a_key_of_another_type_is_that_keys_trouble(store, key):
    """A switch that cannot be read is on; whatever else can be read is read."""
    store.client.sadd(store.keys.of(key), "x")
    signs = TradingSignsReader(store).read({})
    assert (signs.killed, signs.disarmed) == (key == "kill", key == "disarmed")
    assert bool(signs.switch_trouble) == (key in ("kill", "disarmed"))


def test_a_server_that_is_away_is_an_error(make_store):
    """And no switch that is off."""
    make_store()  # the first one is of the server that is there
    with pytest.raises(RedisUnavailableError):
        TradingSignsReader(make_store(redis_url="redis://127.0.0.1:1")).read({})


def test_in_a_cluster_the_decisions_of_every_symbol_are_read(make_store):
    """There each symbol has a stream of its own."""
    store: RedisStore = make_store(key_template="cluster", symbols="BTCUSDT,ETHUSDT")
    reader = TradingSignsReader(store)
    before = reader.read({})
    store.client.xadd(store.keys.of("stream_governor_events", "ETHUSDT"), {"event": "BLOCK", "symbol": "ETHUSDT"})
    kill(store, reason="wrong prices", by="ada")
    signs = reader.read(before.cursors)
    assert sorted(names(signs)) == ["BLOCK", "KILL"]
    assert signs.killed


def test_the_reader_does_not_import_dagster():
    """The watcher lives on when Dagster does not."""
    code = "import quantum_ops.alerts.trading.signs, sys; sys.exit(any(name.startswith('dagster') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
