"""Publishing and reading tables on real servers: whole or not at all, bounded, each symbol on its own."""

import os
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest

from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import COMMON
from quantum_core.contracts.tables import ALLOCATION_TARGET, MARKET_STATE, RISK_PROPOSAL
from resources.io_manager import fresh_frame
from resources.store.publication import _last_published, publish
from resources.store.redis_store import RedisStore
from resources.store.transport.connection import COMMAND_TIMEOUT_SEC
from resources.store.transport.unavailable import RedisUnavailableError
from tests.proxy import CuttingProxy
from tests.servers import valkey

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


@pytest.fixture(params=["valkey", "redis"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Run everything here on both servers."""
    return request.getfixturevalue(f"{request.param}_url")


def market_row(symbol: str, **changes: object) -> dict[str, object]:
    return {
        "symbol": symbol, "sigma": 0.0113984, "mu": 0.00279761, "ts": 0.245439, "p_trend": 0.371906, "p_mr": 0.075824,
        "p_chop": 0.55227, "dp": 0.556863, "vr": 1.007189, "spike_proxy": 0.847535, "ts_timestamp": 1769083200,
        "buffer_size": 300, "source": "candles", "candle_key": "k", "candles_digest": "d", "regime": "chop",
        "gap_count": 0, "gap_max_sec": 0, "filled": 0, "market_inactive": False, "tick_pct": 0.0001, **changes,
    }  # fmt: skip


def test_a_publication_has_all_fields_its_lifetime_and_one_stream_entry(store: RedisStore) -> None:
    """What docs/spec.md#1-wire-contracts promises to readers."""
    (outcome,) = publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    assert (outcome.published, outcome.cause) == (True, "first")
    raw = store.client.hgetall("quantum:marketstate:BTCUSDT")
    assert {name.decode() for name in raw} == {field.name for field in (*COMMON, *MARKET_STATE.fields)}
    assert raw[b"sigma"] == b"0.01139840"
    assert raw[b"computed_at_utc"].endswith(b"+00:00")
    assert store.client.ttl("quantum:marketstate:BTCUSDT") == 600
    assert store.client.xlen("quantum:stream:marketstate") == 1


def test_a_row_that_breaks_its_contract_fails_alone(store: RedisStore) -> None:
    """A NaN in one symbol must not keep the stops of the others from being renewed."""
    rows = [market_row("BTCUSDT", sigma=float("nan")), market_row("ETHUSDT")]
    bad, good = publish(store, MARKET_STATE, rows, cycle_id="c1")
    assert "sigma" in bad.error
    assert not bad.published
    assert good.published
    assert not store.client.exists("quantum:marketstate:BTCUSDT")


def test_a_stream_of_another_type_leaves_no_hash_behind(store: RedisStore) -> None:
    """A script that fails half-way is not rolled back by the server, so it must look first."""
    store.client.set("quantum:stream:marketstate", "x")
    (outcome,) = publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    assert "WRONGTYPE" in outcome.error
    assert not store.client.exists("quantum:marketstate:BTCUSDT")


def test_a_suppressed_publication_renews_age_and_lifetime(store: RedisStore) -> None:
    """Consumers judge freshness by last_update_epoch."""
    publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    store.client.expire("quantum:marketstate:BTCUSDT", 5)
    store.clock.advance(10)
    (outcome,) = publish(store, MARKET_STATE, [market_row("BTCUSDT", sigma=0.02)], cycle_id="c2")
    assert (outcome.published, outcome.cause) == (False, "unchanged")
    row = store.read(MARKET_STATE, ["BTCUSDT"])[0].value
    assert row["sigma"] == 0.0113984
    assert row["cycle_id"] == "c1"
    assert row["last_update_epoch"] == int(store.clock().timestamp())
    assert store.client.ttl("quantum:marketstate:BTCUSDT") == 600


def test_the_last_published_values_live_in_redis_not_in_the_process(make_store) -> None:
    """A restarted worker must not publish everything anew."""
    publish(make_store(), MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    (outcome,) = publish(make_store(), MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c2")
    assert not outcome.published


def test_a_hash_that_breaks_its_contract_reads_as_failed_not_as_absent(store: RedisStore) -> None:
    """A failed read must never look like "nothing there"."""
    publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    store.client.hset("quantum:marketstate:BTCUSDT", "sigma", "nan")
    store.client.set("quantum:marketstate:ETHUSDT", "x")
    states = {reading.symbol: reading.state for reading in store.read(MARKET_STATE, SYMBOLS)}
    assert states == {"BTCUSDT": State.FAILED, "ETHUSDT": State.FAILED, "SOLUSDT": State.ABSENT}


def test_an_unreadable_last_value_is_replaced_by_a_whole_publication(store: RedisStore) -> None:
    """A damaged hash heals with the next cycle."""
    publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    store.client.hdel("quantum:marketstate:BTCUSDT", "vr")
    (outcome,) = publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c2")
    assert outcome.published
    assert store.read(MARKET_STATE, ["BTCUSDT"])[0].state is State.PRESENT


@pytest.mark.parametrize(("age_sec", "state"), [(180, State.PRESENT), (181, State.FAILED)])
def test_a_value_older_than_its_limit_is_not_acted_on(store: RedisStore, age_sec: int, state: State) -> None:
    """A stop computed from an old market state looks as good as a new one."""
    publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    store.clock.advance(age_sec)
    frame = fresh_frame(store, MARKET_STATE, ["BTCUSDT"])
    assert frame["state"][0] == state


def test_optional_streams_are_written_only_when_enabled(make_store) -> None:
    """ENABLE_STREAM."""
    row = {field.name: {"Float64": 1.0, "Boolean": False}.get(str(field.codec.dtype), []) for field in RISK_PROPOSAL.fields}
    row |= {"symbol": "BTCUSDT", "position_side": "LONG", "position_source": "redis_hash", "data_source": "candles"}
    publish(make_store(), RISK_PROPOSAL, [row], cycle_id="c1")
    store = make_store(enable_stream=True)
    assert store.client.xlen("quantum:stream:risk.proposal") == 0
    store.clock.advance(61)
    publish(store, RISK_PROPOSAL, [row], cycle_id="c2")
    ((_, entry),) = store.client.xrange("quantum:stream:risk.proposal")
    assert {name.decode() for name in entry} == {"symbol", *(field.name for field in RISK_PROPOSAL.fields)}


def test_a_shadow_writes_the_stream_and_never_the_hash(store: RedisStore) -> None:
    """EFFICIENCY_MODE=shadow must be harmless."""
    publish(store, ALLOCATION_TARGET, [allocation_row()], cycle_id="c1", stream_only=True)
    assert store.client.xlen("quantum:stream:allocation.target.proposed") == 1
    assert not store.client.exists("quantum:allocation:target:proposed:BTCUSDT")


@pytest.mark.slow
def test_wherever_the_connection_breaks_no_half_written_hash_is_left(make_store, server_url: str) -> None:
    """Every command boundary and the middle of commands: readers see whole publications or none."""
    direct = make_store()
    rows = [market_row(symbol) for symbol in SYMBOLS]
    with CuttingProxy(server_url) as proxy:
        publish(make_store(redis_url=proxy.url), MARKET_STATE, rows, cycle_id="c")
        whole = proxy.seen
    outcomes = set()
    for cut_after in [*range(0, whole, 97), whole - 1]:
        direct.client.flushdb()
        with CuttingProxy(server_url, cut_after) as proxy, pytest.raises(RedisUnavailableError, match="half-written"):
            publish(make_store(redis_url=proxy.url), MARKET_STATE, rows, cycle_id="c")
        time.sleep(0.002)  # the server finishes what reached it
        readings = direct.read(MARKET_STATE, SYMBOLS)
        present = [reading.symbol for reading in readings if reading.state is State.PRESENT]
        assert all(reading.state is not State.FAILED for reading in readings)
        assert all(direct.client.ttl(f"quantum:marketstate:{symbol}") == 600 for symbol in present)
        assert direct.client.xlen("quantum:stream:marketstate") == len(present)
        outcomes.add(len(present))
    assert {0, 1, 2} <= outcomes  # the cuts really fell between symbols


def test_a_server_that_hangs_is_given_up_after_a_second(make_store, monkeypatch) -> None:
    """redis-py's defaults wait for up to a minute; a cycle has ten seconds."""
    monkeypatch.setattr("resources.store.transport.connection.COMMAND_TIMEOUT_SEC", COMMAND_TIMEOUT_SEC)  # the product's own
    with valkey() as server:
        store = make_store(redis_url=server.connection_url)
        os.kill(server._process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(RedisUnavailableError, match=str(server.port)):
                store.run("testing", [("PING",)])
            waited = time.monotonic() - began
        finally:
            os.kill(server._process.pid, signal.SIGCONT)
    assert 0.5 < waited < 4  # the bound itself is what is tested here, not the speed of the machine


def test_a_server_that_has_just_not_answered_is_not_asked_again_at_once(make_store) -> None:
    """Seven steps of a second each would outlast the cycle."""
    make_store()
    store = make_store(redis_url="redis://127.0.0.1:1")
    for expected in ("Connection refused", "a moment ago"):
        with pytest.raises(RedisUnavailableError, match=expected):
            store.run("testing", [("PING",)])


def test_a_database_that_does_not_exist_is_named_like_a_server_that_does_not(make_store, server_url: str) -> None:
    """It is the address that is wrong."""
    make_store()
    with pytest.raises(RedisUnavailableError, match="REDIS_URL"):
        make_store(redis_url=f"{server_url}/9999").run("testing", [("PING",)])


@pytest.mark.parametrize(("field", "value"), [("sigma", "0.5"), ("p_trend", "0.371907"), ("source", "replay")])
def test_a_value_edited_by_somebody_is_not_acted_on_and_healed_by_the_next_publication(store: RedisStore, field, value) -> None:
    """It has the right format and range; only the fingerprint knows."""
    publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    store.client.hset("quantum:marketstate:BTCUSDT", field, value)
    (reading,) = store.read(MARKET_STATE, ["BTCUSDT"])
    assert reading.state is State.FAILED
    assert "edited" in reading.reason
    (outcome,) = publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c2")
    assert outcome.published
    assert store.read(MARKET_STATE, ["BTCUSDT"])[0].state is State.PRESENT


def test_of_two_publishers_that_saw_the_same_hash_only_one_publishes(make_store, monkeypatch) -> None:
    """Two cycles at once must not double a stream entry."""
    first, second = make_store(), make_store()
    seen = _last_published(second, MARKET_STATE, ["BTCUSDT"])
    publish(first, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    monkeypatch.setattr("resources.store.publication._last_published", lambda *_: seen)
    (outcome,) = publish(second, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c2")
    assert outcome.error == "overwritten_meanwhile"
    assert first.client.xlen("quantum:stream:marketstate") == 1


@pytest.mark.parametrize(("ahead_sec", "state"), [(5, State.PRESENT), (6, State.FAILED)])
def test_a_time_ahead_of_the_clock_is_a_fault_not_fresh(store: RedisStore, ahead_sec: int, state: State) -> None:
    """A clock turned back, or a tampered stamp, would make old values fresh for ever."""
    publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    store.clock.advance(-ahead_sec)
    assert fresh_frame(store, MARKET_STATE, ["BTCUSDT"])["state"][0] == state


def test_publications_go_on_after_the_clock_was_turned_back(store: RedisStore) -> None:
    """They once stopped for as long as the clock had been wrong."""
    publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c1")
    store.clock.advance(-3000)
    (outcome,) = publish(store, MARKET_STATE, [market_row("BTCUSDT")], cycle_id="c2")
    assert outcome.published


def test_a_server_that_may_not_be_written_is_infrastructure_trouble(make_store) -> None:
    """Its advice must not be to delete keys."""
    with valkey() as server:
        store = make_store(redis_url=server.connection_url)
        store.client.replicaof("127.0.0.1", 1)
        with pytest.raises(RedisUnavailableError, match="read only"):
            publish(store, ALLOCATION_TARGET, [allocation_row()], cycle_id="c")


def allocation_row() -> dict[str, object]:
    return {
        "symbol": "BTCUSDT", "ts_epoch": 1, "base_target": 1.0, "proposed_target": 1.0, "multiplier": 1.0, "eff_score": None,
        "eff_confidence": None, "eff_stale": True, "reason": "missing_eff", "mode": "shadow", "last_update_ts_epoch": 1,
        "base_target_shortest": "1.0", "proposed_target_shortest": "1.0",
    }  # fmt: skip


def test_a_server_that_trickles_bytes_is_given_up(make_store, monkeypatch) -> None:
    """Each byte resets the socket's timeout; the bound is on the whole call."""
    monkeypatch.setattr("resources.store.transport.connection.CALL_BOUND_SEC", 0.5)
    make_store()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            client, _ = listener.accept()
            with client, suppress(OSError):
                while True:
                    client.sendall(b"$")
                    time.sleep(0.05)

        threading.Thread(target=trickle, daemon=True).start()
        with pytest.raises(RedisUnavailableError):
            make_store(redis_url=f"redis://127.0.0.1:{listener.getsockname()[1]}").run("testing", [("PING",)])


def test_a_server_slow_on_every_call_fails_the_cycle_instead_of_stretching_it(make_store, monkeypatch) -> None:
    """Twenty calls of 0.9 s are each within their bound."""
    monkeypatch.setattr("resources.store.transport.breaker.BUDGET_SEC", 0.3)
    store = make_store()
    store.run("waiting", [("BLPOP", "nothing", 0.4)])
    with pytest.raises(RedisUnavailableError, match="waiting for it"):
        store.run("testing", [("PING",)])
