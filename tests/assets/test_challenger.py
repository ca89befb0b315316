"""A second profile beside the one in force: computed for every symbol, under keys of its own, acted on by nobody."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from quantum_assets.challenger import TABLES
from quantum_core.comparison import difference
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, RISK_PROPOSAL
from quantum_core.profiles.files import load
from resources.store.shadow import read_comparisons, read_shadow, shadow_key
from tests.world import hash_of, real_closes, run_cycle, write_candles, write_equity, write_position

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
CHALLENGER = load("crypto-1m")


def fill(store) -> None:
    """Give each symbol candles and a position."""
    for symbol in SYMBOLS:
        closes = real_closes(symbol)
        write_candles(store, symbol, closes)
        write_position(store, symbol, entry=closes[-60], mark=closes[-1])
    write_equity(store)


def test_the_challenger_is_computed_beside_the_champion_and_labelled(make_store, instance: dg.DagsterInstance) -> None:
    """What it would propose is there under its own keys, with its own fingerprint, and the champion is as it was."""
    store = make_store(symbols=",".join(SYMBOLS), challenger="crypto-1m")
    fill(store)
    result = run_cycle(store, instance)
    assert result.success
    for table in TABLES:
        rows = read_shadow(store, table, CHALLENGER, SYMBOLS)
        assert set(rows) == set(SYMBOLS)
        assert {row["profile_name"] for row in rows.values()} == {"crypto-1m"}
        for symbol in SYMBOLS:
            key = shadow_key(store, CHALLENGER, table.asset, symbol)
            assert store.client.hget(key, "mode") == b"shadow"
            assert 0 < store.client.ttl(key) <= store.ttl_sec(table)
            assert hash_of(store, table.key, symbol)["profile_name"] == "locked-v1"
    theirs, ours = (rows["BTCUSDT"] for rows in (read_shadow(store, RISK_PROPOSAL, CHALLENGER, SYMBOLS), champion(store)))
    assert theirs["stop_dist_pct"] != ours["stop_dist_pct"]
    said = {table.asset: latest(instance, f"challenger_{table.asset}") for table in TABLES}
    assert {asset: one["computed"].value for asset, one in said.items()} == dict.fromkeys(said, 3)


def latest(instance: dg.DagsterInstance, asset: str) -> Mapping[str, Any]:
    """Give the metadata of the newest materialization."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization.metadata


def champion(store) -> dict[str, dict[str, object]]:
    """Read what is in force."""
    return {one.symbol: one.value for one in store.read(RISK_PROPOSAL, SYMBOLS)}


def test_without_a_challenger_there_is_nothing_of_it(make_store, instance: dg.DagsterInstance) -> None:
    """A desk that asks for none pays nothing and sees nothing."""
    store = make_store(symbols=",".join(SYMBOLS))
    fill(store)
    assert run_cycle(store, instance).success
    assert not store.client.keys("quantum:shadow:*")


def test_the_stop_of_the_challenger_follows_its_own_proposals(make_store, instance: dg.DagsterInstance) -> None:
    """The stop in force is what the champion proposed; the challenger's never loosens, and is not tightened by the other's."""
    store = make_store(symbols=",".join(SYMBOLS), challenger="crypto-1m")
    fill(store)
    before: dict[str, float] = {}
    for turn in range(3):
        for symbol in SYMBOLS:
            closes = real_closes(symbol)
            write_position(store, symbol, entry=closes[-60], mark=closes[-1] * (1 - 0.001 * turn))
        assert run_cycle(store, instance).success
        rows = read_shadow(store, RISK_PROPOSAL, CHALLENGER, SYMBOLS)
        for symbol, row in rows.items():
            assert row["proposed_sl"] >= before.get(symbol, 0.0)
            assert row["position_current_sl"] == before.get(symbol)
            before[symbol] = row["proposed_sl"]
        store.clock.advance(10)
    assert any(before[symbol] < champion(store)[symbol]["proposed_sl"] for symbol in SYMBOLS)


def test_what_differs_is_counted_once_per_market_state(make_store, instance: dg.DagsterInstance) -> None:
    """A comparison is one of a minute, not of a cycle; it survives a restart."""
    store = make_store(symbols=",".join(SYMBOLS), challenger="crypto-1m")
    fill(store)
    for _ in range(3):
        assert run_cycle(store, instance).success
        store.clock.advance(10)
    again = make_store(symbols=",".join(SYMBOLS), challenger="crypto-1m")
    for hours in read_comparisons(again, CHALLENGER, SYMBOLS).values():
        found = difference(hours)
        assert (found.compared, found.held) == (1, 1)
        assert found.stop_farther != 0


def test_a_challenger_that_fails_for_a_symbol_leaves_the_champion_alone(make_store, instance: dg.DagsterInstance) -> None:
    """Its key taken by something else: its row fails by name, the cycle and the champion's row do not."""
    store = make_store(symbols=",".join(SYMBOLS), challenger="crypto-1m")
    fill(store)
    store.client.set(shadow_key(store, CHALLENGER, MARKET_STATE.asset, "ETHUSDT"), "taken")
    result = run_cycle(store, instance)
    assert result.success
    said = latest(instance, "challenger_market_state")
    assert "ETHUSDT: write_refused" in str(said["failing"].value)
    assert store.read(HARVEST_PROPOSAL, ["ETHUSDT"])[0].value is not None
