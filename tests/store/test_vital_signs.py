"""Vital signs: what one look at a real server shows, and that trouble with one key is that key's alone."""

import json
import subprocess
import sys

import pytest

from quantum_core.freshness import CANDLES, PARTS, Condition, Limits, Sign, StoredProof, evaluate
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from resources.store.vital_signs import VitalSignsReader
from tests.world import write_candles, write_target

SYMBOL = "BTCUSDT"
HASHES = (
    "market_state", "risk_proposal", "harvest_proposal", "capital_efficiency", "allocation_target", "trade_intent_last",
    "governor_state",
)  # fmt: skip
ASSET_OF = {"governor_state": "governor_permit", "trade_intent_last": "trade_intent"}  # the others are called like their key


@pytest.fixture
def filled(make_store) -> RedisStore:
    """One symbol of which everything was published this second."""
    store = make_store(symbols="BTCUSDT")
    now = int(store.clock().timestamp())
    for key in HASHES:
        store.client.hset(store.keys.of(key, SYMBOL), mapping={"last_update_epoch": now, "symbol": SYMBOL})
    store.client.hset(store.keys.of("position", SYMBOL), mapping={"last_update_epoch": now, "held": 1})
    for part in PARTS:
        store.client.set(store.keys.of("heartbeat", part), now)
    write_target(store, SYMBOL)
    write_candles(store, SYMBOL, [1.0, 2.0, 3.0])
    return store


def conditions(store: RedisStore) -> dict[str, Condition]:
    evaluation = evaluate(VitalSignsReader(store).read(), Limits.of(store.settings), store.clock().timestamp())
    return {vital.thing: vital.condition for vital in (*evaluation.vitals, *evaluation.heartbeats)}


def test_everything_published_this_second_is_fresh(filled):
    """All eight assets but the efficiency that is another program's, the candles and the three parts."""
    found = conditions(filled)
    assert set(found.values()) == {Condition.FRESH}
    assert len(found) == 7 + 1 + 3


@pytest.mark.usefixtures("filled")
def test_the_efficiency_is_due_when_we_write_it(make_store):
    """With EFFICIENCY_MODE=enforce consumers rely on us."""
    store = make_store(symbols="BTCUSDT", efficiency_mode="enforce")
    assert conditions(store)["capital_efficiency"] is Condition.FRESH


def test_everything_grows_old_with_the_one_clock(filled, clock):
    """No time of its own, or a test could not be trusted."""
    clock.advance(500)
    assert set(conditions(filled).values()) == {Condition.STALE}


def test_the_age_of_old_candles_is_told_not_hidden(filled, clock):
    """The reader refuses stale candles; the watcher must know how stale."""
    clock.advance(10_000)
    (signs,) = VitalSignsReader(filled).read().symbols
    assert filled.clock().timestamp() - signs.clocks[CANDLES].epoch == pytest.approx(10_000, abs=0.01)


@pytest.mark.parametrize("grouped", [True, False])
def test_a_time_is_plain_decimal_digits(filled, grouped):
    """Digit groups and digits of other scripts are numbers to Python, and to no other program that reads the key."""
    now = int(filled.clock().timestamp())
    text = f"{now:_}" if grouped else str(now).translate({ord("0") + digit: ord("\u0660") + digit for digit in range(10)})
    filled.client.hset(filled.keys.of("market_state", SYMBOL), "last_update_epoch", text)
    assert conditions(filled)["market_state"] is Condition.UNREADABLE


@pytest.mark.parametrize("key", [*HASHES[:3], *HASHES[4:], "position"])
def test_a_key_of_another_type_is_unreadable_and_only_that(filled, key):
    """One damaged key must not blind the watcher to the rest."""
    name = filled.keys.of(key, SYMBOL)
    filled.client.delete(name)
    filled.client.set(name, "x")
    found = conditions(filled)
    asset = ASSET_OF.get(key, key)
    assert [thing for thing, condition in found.items() if condition is not Condition.FRESH] == [asset]
    assert found[asset] is Condition.UNREADABLE


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"held": "1", "last_update_epoch": "soon"}, Condition.UNREADABLE),
        ({"held": "yes"}, Condition.UNREADABLE),
        ({"held": "1"}, Condition.UNREADABLE),
    ],
)
def test_a_position_that_makes_no_sense_is_unreadable(filled, fields, expected):
    """Whether anything is due depends on it, so a wrong one is never taken for flat."""
    name = filled.keys.of("position", SYMBOL)
    filled.client.delete(name)
    filled.client.hset(name, mapping=fields)
    assert conditions(filled)["position"] is expected


@pytest.mark.parametrize("held", ["0", None])
def test_a_symbol_without_a_position_has_no_proposals_due(filled, held):
    """Kept for its return, or gone: neither is acted on."""
    name = filled.keys.of("position", SYMBOL)
    filled.client.delete(name)
    if held is not None:
        filled.client.hset(name, mapping={"held": held, "last_update_epoch": 1})
    filled.client.delete(*(filled.keys.of(key, SYMBOL) for key in ("risk_proposal", "harvest_proposal", "trade_intent_last")))
    assert set(conditions(filled).values()) == {Condition.FRESH}


def test_missing_candles_are_missing_and_untimed_ones_are_not_judged(filled):
    """Nothing there is not the same as nothing to tell the time by."""
    filled.client.delete(filled.keys.of("candles_history", SYMBOL))
    assert conditions(filled)[CANDLES] is Condition.MISSING
    filled.client.rpush(filled.keys.of("candles_klines", SYMBOL), "1.5", "1.6")
    assert CANDLES not in conditions(filled)


def test_a_heartbeat_that_is_no_time_is_unreadable(filled):
    """It must not pass for a part that was never started."""
    filled.client.set(filled.keys.of("heartbeat", "worker"), "now")
    assert conditions(filled)["worker"] is Condition.UNREADABLE


def test_the_verdicts_of_the_pack_are_read_and_one_that_cannot_be_read_has_failed(filled):
    """A check that could not be evaluated counts as failed, never as absent."""
    now = filled.clock().timestamp()
    verdict = {
        "passed": False, "severity": "WARN", "evaluated_at": now - 7.5, "failing": {"BTCUSDT": "late"}, "per_symbol": True,
        "observed": "1 late", "threshold": "0",
    }  # fmt: skip
    stored = {
        "risk_proposal/cadence": json.dumps(verdict),
        "market_state/broken": "{",
        "_run": json.dumps({"finished_at": now - 7, "seconds": 1.2}),
    }
    filled.client.hset(filled.keys.of("proofs"), mapping=stored)
    signs = VitalSignsReader(filled).read()
    good, broken = sorted(signs.proofs, key=lambda proof: proof.title, reverse=True)
    failing = {"BTCUSDT": "late"}
    assert good == StoredProof(
        "risk_proposal/cadence", passed=False, severity="WARN", evaluated_at=now - 7.5, failing=failing, per_symbol=True,
        observed="1 late", threshold="0",
    )  # fmt: skip
    assert (broken.passed, broken.severity, broken.evaluated_at) == (False, "ERROR", now)
    assert signs.proofs_finished == Sign(now - 7)


def test_synthetic_prices_have_no_candles_to_wait_for(make_store):
    """They are made up on the spot."""
    store = make_store(symbols="BTCUSDT", marketstate_source="synthetic")
    assert CANDLES not in conditions(store)


def test_every_symbol_has_its_own_signs(make_store, clock):
    """Hundreds of symbols are read at once; none must get the clock of its neighbour."""
    symbols = [f"S{number:03d}USDT" for number in range(200)]
    store = make_store(symbols=",".join(symbols))
    now = int(clock.now.timestamp())
    pipeline = store.client.pipeline()
    for number, symbol in enumerate(symbols):
        for key in HASHES:
            pipeline.hset(store.keys.of(key, symbol), mapping={"last_update_epoch": now - number})
    pipeline.execute()
    read = VitalSignsReader(store).read().symbols
    assert [one.symbol for one in read] == symbols
    for number, one in enumerate(read):
        assert {sign.epoch for asset, sign in one.clocks.items() if asset not in ("position", CANDLES)} == {now - number}


def test_a_server_that_is_away_is_an_error_not_an_empty_world(make_store):
    """Everything missing and nothing known are not the same."""
    make_store()  # the fixture empties the server of the first store
    with pytest.raises(RedisUnavailableError):
        VitalSignsReader(make_store(redis_url="redis://127.0.0.1:1")).read()


def test_reading_them_does_not_import_dagster():
    """The watcher has to live on when Dagster does not, and be small."""
    code = "import resources.store.vital_signs, quantum_ops.alerts.incidents, sys; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
