"""A hedged symbol from candles and two positions to two stops, two proposals and two intents, as real Dagster runs."""

import polars as pl
import pytest

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.pack import PROOFS, run
from quantum_assets.harvest_proposal import harvest_frame
from quantum_assets.market_state import market_state_frame
from quantum_assets.position import position_frame
from quantum_assets.risk_proposal import risk_frame
from quantum_assets.shared.rows import shared_by_legs
from quantum_core.contracts.legs import underlying
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, OF_UNDERLYING, POSITION, PUBLISHED_TABLES, RISK_PROPOSAL
from quantum_core.freshness import WELL, Limits, evaluate
from quantum_core.profiles.profile import LOCKED
from resources.inputs.candles import CandleReader
from resources.inputs.positions import PositionReader
from resources.io_manager import fresh_frame
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from resources.store.vital_signs import VitalSignsReader
from tests.world import (
    hash_of,
    materialized,
    real_closes,
    run_cycle,
    with_evidence,
    write_equity,
    write_market,
    write_plan,
    write_position,
)

LONG, SHORT = LEGS = ("BTCUSDT.LONG", "BTCUSDT.SHORT")
SHARED = "quantum:state:positions:BTCUSDT"
OF_A_PROCESS = {"governor_permit/process_alive", "risk_proposal/one_cycle", "risk_proposal/cadence", "market_state/fresh"}


@pytest.fixture
def hedged(make_store, tmp_path) -> RedisStore:
    """One symbol in hedge mode beside one that is not, with everything the line reads but positions."""
    profile = with_evidence(tmp_path)
    store = make_store(symbols="BTCUSDT,ETHUSDT", hedge_symbols="BTCUSDT", intent_mode="plan", profile=profile)
    marks = {symbol: write_market(store, symbol)[-1] for symbol in store.settings.markets}
    write_position(store, "ETHUSDT", entry=marks["ETHUSDT"], mark=marks["ETHUSDT"])
    write_equity(store)
    return store


def both(store: RedisStore, mark: float) -> None:
    """Write both legs, each under its own key: a long far in profit, and a short at a loss."""
    write_position(store, LONG, side="LONG", entry=mark * 0.9, mark=mark)
    write_position(store, SHORT, side="SHORT", entry=mark * 0.99, mark=mark)


def test_one_cycle_publishes_every_asset_for_both_legs_and_what_they_share_once(hedged, instance) -> None:
    """Partitions of their own; candles, market state and targets are the symbol's, in one hash and one stream entry."""
    both(hedged, real_closes("BTCUSDT")[-1])
    assert run_cycle(hedged, instance).success
    for asset, table in PUBLISHED_TABLES.items():
        if not table.of_account and asset not in ("trade_intent", "capital_efficiency"):
            assert materialized(instance, asset) == {*LEGS, "ETHUSDT"}, asset
        for leg in LEGS if not table.of_account and asset != "capital_efficiency" else ():
            whose = underlying(leg) if table.key in OF_UNDERLYING else leg
            assert hash_of(hedged, table.key, leg)["symbol"] == whose, asset
            assert hedged.keys.of(table.key, leg).endswith(f":{whose}")
    for stream in ("quantum:stream:marketstate", "quantum:stream:allocation.target.proposed"):
        assert [fields[b"symbol"] for _, fields in hedged.client.xrange(stream)] == [b"BTCUSDT", b"ETHUSDT"]
    assert not hedged.client.exists("quantum:marketstate:BTCUSDT.LONG", "quantum:harvest:proposal:BTCUSDT")
    proposals = {leg: hash_of(hedged, "harvest_proposal", leg) for leg in LEGS}
    assert {leg: one["position_side"] for leg, one in proposals.items()} == {LONG: "LONG", SHORT: "SHORT"}
    assert float(proposals[LONG]["R_net"]) > 0 > float(proposals[SHORT]["R_net"])
    plans = [fields for _, fields in hedged.client.xrange("quantum:stream:apply.plan")]
    of_long = next(one for one in plans if one[b"symbol"] == LONG.encode())
    assert (of_long[b"positionSide"], of_long[b"side"]) == (b"LONG", b"SELL")
    assert all(b"positionSide" not in one for one in plans if one[b"symbol"] == b"ETHUSDT")
    record = hash_of(hedged, "block", of_long[b"plan_id"].decode())  # two coins are beyond what a day allows
    assert (record["symbol"], record["reason"]) == (LONG, "daily_limit_exceeded")


def evaluate_once(store: RedisStore) -> dict[str, dict[str, object]]:
    """Evaluate positions, stops and harvest of both legs and publish them, step by step as a cycle does; give the stops."""
    candles, positions = CandleReader(store), PositionReader(store)

    def published(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
        rows = [row for row in frame.to_dicts() if row["state"] == State.PRESENT]
        assert not [one.error for one in publish(store, table, rows, cycle_id="t") if one.error]
        return frame

    market = published(MARKET_STATE, shared_by_legs(LEGS, lambda symbols: market_state_frame(candles.read(symbols))))
    tracked = published(POSITION, position_frame(LEGS, store=store, candle_reader=candles, position_reader=positions))
    risk = published(RISK_PROPOSAL, risk_frame(market, tracked, LOCKED))
    stopped = fresh_frame(store, RISK_PROPOSAL, LEGS)  # with the stamps, as the next step reads it
    harvest = published(HARVEST_PROPOSAL, harvest_frame(market, tracked, stopped, LOCKED))
    both = risk.join(harvest.select("symbol", "harvest_action", "fallback_stop"), on="symbol")
    return {row["symbol"]: row for row in both.to_dicts() if row["state"] == State.PRESENT}


def test_both_legs_have_a_stop_through_twenty_updates_in_turn_under_one_key(hedged) -> None:
    """The writer shows one side after the other: no stop is lost, none starts anew, and none loosens."""
    close = real_closes("BTCUSDT")[-1]
    stops: dict[str, list[float]] = {leg: [] for leg in LEGS}
    opened: dict[str, set[str]] = {leg: set() for leg in LEGS}
    for turn in range(20):
        leg, mark = LEGS[turn % 2], close * (1 + 0.0005 * (turn % 4))
        entry = close * (0.99 if leg == LONG else 1.01)
        fields = {"symbol": "BTCUSDT", "side": leg.partition(".")[2], "quantity": 0.02, "entry_price": entry, "mark_price": mark}
        hedged.client.delete(SHARED)
        hedged.client.hset(SHARED, mapping={**fields, "ts_epoch": int(hedged.clock().timestamp())})
        proposed = evaluate_once(hedged)
        assert set(proposed) == set(LEGS[: turn + 1]), turn
        for one, row in proposed.items():
            assert (row["position_side"], row["position_current_price"]) == (one.partition(".")[2], pytest.approx(mark))
            assert not row["fallback_stop"]
            stops[one].append(row["proposed_sl"])
            opened[one].add(hash_of(hedged, "position", one)["opened_at_epoch"])
        hedged.clock.advance(10)
    assert [len(stops[leg]) for leg in LEGS] == [20, 19]
    assert stops[LONG] == sorted(stops[LONG])
    assert stops[SHORT] == sorted(stops[SHORT], reverse=True)
    assert [len(opened[leg]) for leg in LEGS] == [1, 1]


def test_entering_one_leg_anew_leaves_the_other_as_it_was(hedged) -> None:
    """Peak, stop and age are a leg's own."""
    mark = real_closes("BTCUSDT")[-1]
    both(hedged, mark)
    evaluate_once(hedged)
    before = hash_of(hedged, "position", SHORT)
    hedged.clock.advance(10)
    write_position(hedged, LONG, side="FLAT")
    assert set(evaluate_once(hedged)) == {SHORT}
    assert not hash_of(hedged, "position", LONG)
    hedged.clock.advance(10)
    write_position(hedged, LONG, side="LONG", entry=mark * 1.001, mark=mark)
    assert set(evaluate_once(hedged)) == {*LEGS}
    after = hash_of(hedged, "position", SHORT)
    same = ("entry_price", "opened_at_epoch", "peak_price", "trough_price")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert hash_of(hedged, "position", LONG)["opened_at_epoch"] != before["opened_at_epoch"]


def test_a_flat_leg_is_healthy_and_an_unreadable_one_is_named_alone(hedged, instance) -> None:
    """One side of a hedge is empty most of the time; that is no fault of the other's."""
    mark = real_closes("BTCUSDT")[-1]
    write_position(hedged, LONG, side="LONG", entry=mark * 0.99, mark=mark)
    write_position(hedged, SHORT, side="FLAT")
    assert run_cycle(hedged, instance).success
    vitals = evaluate(VitalSignsReader(hedged).read(), Limits.of(hedged.settings), hedged.clock().timestamp()).vitals
    assert {one.symbol for one in vitals if one.symbol.startswith("BTC")} == {*LEGS}
    assert all(one.condition in WELL for one in vitals if one.symbol in LEGS)
    hedged.clock.advance(10)
    hedged.client.hset(f"{SHARED}:SHORT", mapping={"side": "SHORT", "quantity": "2", "entry_price": "nan"})
    assert run_cycle(hedged, instance).success
    assert hedged.client.hkeys("quantum:failures:position") == [SHORT.encode()]
    assert hash_of(hedged, "risk_proposal", LONG)["last_update_epoch"] == str(int(hedged.clock().timestamp()))


@pytest.mark.slow
def test_the_proof_pack_holds_with_legs(hedged, instance) -> None:
    """Every proof that is about what was published, with both legs open and a plan of each decided."""
    both(hedged, real_closes("BTCUSDT")[-1])
    write_plan(hedged, "p-long", LONG, "PARTIAL_25")
    write_plan(hedged, "p-short", "BTCUSDT", "PARTIAL_25", positionSide="SHORT")
    write_plan(hedged, "p-nobody", "BTCUSDT", "PARTIAL_25")
    assert run_cycle(hedged, instance).success
    proofs = [proof for proof in PROOFS if proof.title not in OF_A_PROCESS]
    verdicts = run(lambda: Evidence(hedged, instance, hurried=True), proofs)
    failed = {one.proof.title: (one.finding.observed, dict(one.finding.failing)) for one in verdicts if not one.passed}
    assert failed == {}
    judged = {one.proof.title: one.finding.judged for one in verdicts}
    assert judged["risk_proposal/recomputed"] == judged["market_state/stream_entry"] == 3
    hedged.client.xadd("quantum:stream:marketstate", hedged.client.xrange("quantum:stream:marketstate")[0][1])
    doubled = [proof for proof in PROOFS if proof.title == "market_state/stream_entry"]
    (verdict,) = run(lambda: Evidence(hedged, instance, hurried=True), doubled)
    assert set(verdict.finding.failing) == {*LEGS}
