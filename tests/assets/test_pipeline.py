"""The whole line, from candles and positions in Redis to permits in Redis, as real Dagster runs."""

import json
import math

import dagster as dg
import pytest

from definitions import assemble
from quantum_core.contracts.schema import COMMON
from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_core.display import price_text
from resources.store.redis_store import RedisStore
from tests.world import (
    QUIET,
    hash_of,
    materialized,
    random_closes,
    real_closes,
    recorded,
    run_cycle,
    write_candles,
    write_efficiency,
    write_plan,
    write_position,
    write_target,
    write_world,
)

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
ASSETS = tuple(PUBLISHED_TABLES)


@pytest.fixture
def world(store: RedisStore) -> RedisStore:
    """Three symbols with real closes and everything else the line reads."""
    write_world(store, short="ETHUSDT")
    return store


def failures_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, str]:
    """Read what the run itself says of the symbols that failed."""
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.HANDLED_OUTPUT and event.step_key == asset:
            table = event.event_specific_data.metadata.get("failures")
            return {record.data["symbol"]: record.data["reason"] for record in table.records} if table else {}
    return {}


def test_proposals_come_first_and_the_governor_decides_last(world, instance) -> None:
    """A closed candle is answered by its proposals; a permit must rest on all that its run has found."""
    steps = [event.step_key for event in run_cycle(world, instance).all_events if event.is_step_success]
    assert set(steps[:3]) == {"market_state", "position", "position_calc_only_process"}
    assert steps[3:5] == ["risk_proposal", "harvest_proposal"]
    assert steps[-1] == "governor_permit"
    assert steps.index("position_size") < steps.index("governor_permit")


def test_one_cycle_publishes_all_nine_assets_and_materializes_what_is_new(world, instance) -> None:
    """The main job of the product. Of intents only those that were made are new; what makes one has tests of its own."""
    write_plan(world, "plan-close", "BTCUSDT", "CLOSE", qty=0.01)
    assert run_cycle(world, instance).success
    intended = {symbol for symbol in SYMBOLS if hash_of(world, "trade_intent_last", symbol)["due"] == "1"}
    for asset, table in PUBLISHED_TABLES.items():
        whole = set() if table.of_account else set(SYMBOLS)
        assert materialized(instance, asset) == (intended if asset == "trade_intent" else whole), asset
        for symbol in table.subjects(SYMBOLS):
            if asset == "capital_efficiency":
                continue  # another producer's, see the test of its modes
            fields = hash_of(world, table.key, symbol)
            assert set(fields) == {field.name for field in (*COMMON, *table.fields)}, asset
            assert 0 < world.client.ttl(world.keys.of(table.key, symbol)) <= world.ttl_sec(table)
    permit = hash_of(world, "permit", "plan-close")
    assert (permit["granted"], permit["computed_qty"], permit["consumed"]) == ("true", "0.01", "false")
    assert 0 < world.client.ttl("quantum:permit:plan-close") <= 60


def test_all_assets_of_one_cycle_carry_its_id(world, instance) -> None:
    """Lineage across keys: a consumer can tell which market state a stop was computed from."""
    run_cycle(world, instance)
    ids = {
        hash_of(world, table.key, table.subjects(["BTCUSDT"])[0])["cycle_id"]
        for asset, table in PUBLISHED_TABLES.items()
        if asset != "capital_efficiency"
    }
    assert ids == {f"t{world.clock().timestamp():.6f}"}


def test_a_risk_proposal_is_computed_from_exactly_the_published_market_state(world, instance) -> None:
    """What is published can be recomputed from what is published."""
    run_cycle(world, instance)
    market, proposal = hash_of(world, "market_state", "BTCUSDT"), hash_of(world, "risk_proposal", "BTCUSDT")
    for name in ("sigma", "ts", "p_trend", "p_mr", "p_chop"):
        assert float(proposal[name]) == float(market[name])


def test_too_few_candles_and_a_nan_are_named_and_leave_the_healthy_symbol_alone(world, instance) -> None:
    """One bad symbol never stops the others, and is never silently skipped."""
    run_cycle(world, instance)
    before = {symbol: hash_of(world, "market_state", symbol) for symbol in SYMBOLS}
    world.client.delete("quantum:marketstate:SOLUSDT")
    known = {symbol: instance.get_latest_materialization_event(dg.AssetKey("market_state")) for symbol in SYMBOLS}
    assert known
    world.clock.advance(70)
    write_candles(world, "BTCUSDT", real_closes("BTCUSDT")[:100])
    write_candles(world, "ETHUSDT", [*real_closes("ETHUSDT")[:-50], *[math.nan] * 46, *real_closes("ETHUSDT")[-4:]])
    write_candles(world, "SOLUSDT", real_closes("SOLUSDT"))
    result = run_cycle(world, instance)
    assert result.success
    named = failures_of(result, "market_state")
    assert set(named) == {"BTCUSDT", "ETHUSDT"}
    assert "too_few_candles" in named["BTCUSDT"]
    assert "price_nan" in named["ETHUSDT"]
    assert hash_of(world, "market_state", "BTCUSDT") == before["BTCUSDT"]
    assert hash_of(world, "market_state", "ETHUSDT") == before["ETHUSDT"]
    assert hash_of(world, "market_state", "SOLUSDT")["sigma"] == before["SOLUSDT"]["sigma"]
    assert [symbol for asset, symbol in recorded(instance, result) if asset == "market_state"] == ["SOLUSDT"]


def test_an_unchanged_value_is_refreshed_but_neither_published_nor_materialized(world, instance) -> None:
    """Freshness goes on, the stream and the history stay short."""
    run_cycle(world, instance)
    world.clock.advance(10)
    run_cycle(world, instance)  # the first proposal has become the stop in force, which is news once
    first, entries = hash_of(world, "risk_proposal", "BTCUSDT"), world.client.xlen("quantum:stream:marketstate")
    world.clock.advance(10)
    result = run_cycle(world, instance)
    second = hash_of(world, "risk_proposal", "BTCUSDT")
    assert second["published_at_utc"] == first["published_at_utc"]
    assert int(second["last_update_epoch"]) == int(first["last_update_epoch"]) + 10
    assert second["computed_at_utc"] > first["computed_at_utc"]
    assert world.client.xlen("quantum:stream:marketstate") == entries
    quiet = {"market_state", "risk_proposal", "harvest_proposal"}
    assert {asset for asset, _ in recorded(instance, result)} & quiet == set()


def test_a_harvest_proposal_is_dated_by_its_publication(world, instance) -> None:
    """A planner makes its plan ids of that time: moved with every evaluation it was a new plan every ten seconds."""
    run_cycle(world, instance)
    world.clock.advance(10)
    run_cycle(world, instance)
    first = hash_of(world, "harvest_proposal", "BTCUSDT")
    world.clock.advance(10)
    run_cycle(world, instance)
    second = hash_of(world, "harvest_proposal", "BTCUSDT")
    assert second["computed_at_utc"] == first["computed_at_utc"] == second["published_at_utc"]
    assert int(second["last_update_epoch"]) == int(first["last_update_epoch"]) + 10


def test_what_somebody_else_writes_into_our_hash_is_named_once_and_gone_with_the_next_cycle(world, instance, caplog) -> None:
    """An executor read `action=PARTIAL_25` of a program long gone beside our FULL_CLOSE."""
    run_cycle(world, instance)
    key = world.keys.of("harvest_proposal", "BTCUSDT")
    for _ in range(2):
        world.client.hset(key, mapping={"action": "PARTIAL_25", "calibrated": "1"})
        world.clock.advance(10)
        run_cycle(world, instance)
        assert {"action", "calibrated"}.isdisjoint(hash_of(world, "harvest_proposal", "BTCUSDT"))
    told = [record.getMessage() for record in caplog.records if "another writer" in record.getMessage()]
    assert told == [f"{key} held fields of another writer, which are removed: action, calibrated"]


def test_an_unchanged_value_is_published_again_after_a_minute(world, instance) -> None:
    """MAX_PUBLISH_AGE_SEC."""
    run_cycle(world, instance)
    first = hash_of(world, "market_state", "BTCUSDT")
    world.clock.advance(61)
    run_cycle(world, instance)
    assert hash_of(world, "market_state", "BTCUSDT")["published_at_utc"] > first["published_at_utc"]
    assert world.client.xlen("quantum:stream:marketstate") == 6


def test_a_flat_symbol_has_no_proposal_and_is_no_error(world, instance) -> None:
    """FLAT is a state of the book, not a fault."""
    write_position(world, "ETHUSDT", side="FLAT", quantity=0)
    result = run_cycle(world, instance)
    assert result.success
    assert failures_of(result, "risk_proposal") == {}
    assert materialized(instance, "risk_proposal") == {"BTCUSDT", "SOLUSDT"}
    assert hash_of(world, "risk_proposal", "ETHUSDT") == {}


def test_a_hash_of_another_type_fails_its_own_symbol_only(world, instance) -> None:
    """Someone else's string under our key must not be overwritten, nor stop the rest."""
    world.client.set("quantum:risk:proposal:BTCUSDT", "not a hash")
    result = run_cycle(world, instance)
    assert "BTCUSDT" in failures_of(result, "risk_proposal")
    assert "WRONGTYPE" in failures_of(result, "risk_proposal")["BTCUSDT"]
    assert world.client.get("quantum:risk:proposal:BTCUSDT") == b"not a hash"
    assert materialized(instance, "risk_proposal") == {"ETHUSDT", "SOLUSDT"}


def test_without_candles_there_is_no_state_and_no_invented_price(world, instance) -> None:
    """The old publisher filled in synthetic prices, in production, without a word."""
    world.client.delete("quantum:history:ohlcv:BTCUSDT:1m")
    result = run_cycle(world, instance)
    assert failures_of(result, "market_state")["BTCUSDT"].startswith("candles_missing")
    assert hash_of(world, "market_state", "BTCUSDT") == {}
    assert failures_of(result, "risk_proposal")["BTCUSDT"] == "candles_missing"


def test_stale_candles_give_no_state(world, instance) -> None:
    """Two intervals and five minutes, not a second more."""
    write_candles(world, "BTCUSDT", real_closes("BTCUSDT"), last_age_sec=500)
    assert failures_of(run_cycle(world, instance), "market_state")["BTCUSDT"].startswith("candles_stale")


def test_a_missing_risk_proposal_is_replaced_by_the_fallback_and_flagged(world, instance) -> None:
    """R must not silently rest on an invented stop."""
    run_cycle(world, instance)
    world.client.delete("quantum:risk:proposal:BTCUSDT")
    job = assemble(world)
    result = job.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, partition_key="BTCUSDT", asset_selection=[dg.AssetKey("harvest_proposal")], run_config=QUIET
    )
    assert result.success
    harvest = hash_of(world, "harvest_proposal", "BTCUSDT")
    assert (harvest["fallback_stop"], harvest["stop_dist_pct"]) == ("1", "")


def test_one_asset_for_one_symbol_materializes_alone(world, instance) -> None:
    """What an operator does from the user interface."""
    run_cycle(world, instance)
    result = (
        assemble(world)
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(
            instance=instance, partition_key="BTCUSDT", asset_selection=[dg.AssetKey("risk_proposal")], run_config=QUIET
        )
    )
    events = [event.materialization for event in result.all_events if event.is_step_materialization]
    assert [(event.asset_key.path[-1], event.partition) for event in events] == [("risk_proposal", "BTCUSDT")]
    published = float(hash_of(world, "risk_proposal", "BTCUSDT")["proposed_sl"])
    assert events[0].metadata["proposed_sl"].value == f"{price_text(published)} quote"  # as text: no plot mixes prices


def test_one_symbol_that_cannot_be_computed_fails_its_run_by_name(world, instance) -> None:
    """A green run that published nothing would be a lie."""
    write_candles(world, "BTCUSDT", real_closes("BTCUSDT")[:100])
    result = (
        assemble(world)
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(
            instance=instance,
            partition_key="BTCUSDT",
            asset_selection=[dg.AssetKey("market_state")],
            run_config=QUIET,
            raise_on_error=False,
        )
    )
    assert not result.success
    assert "too_few_candles" in str(result.failure_data_for_node("market_state").error)
    assert materialized(instance, "market_state") == set()


@pytest.mark.parametrize(
    ("score", "age_sec", "multiplier", "reason"),
    [(0.9, 0, "1.4000", "ok"), (0.3, 0, "0.8000", "ok"), (0.9, 601, "1.0000", "stale_eff")],
)
def test_the_allocation_follows_the_efficiency_and_leaves_the_live_target_alone(
    world, instance, score, age_sec, multiplier, reason
) -> None:
    """Always a shadow."""
    write_efficiency(world, "BTCUSDT", score, age_sec=age_sec)
    before = hash_of(world, "base_target", "BTCUSDT")
    run_cycle(world, instance)
    proposed = hash_of(world, "allocation_target", "BTCUSDT")
    assert (proposed["multiplier"], proposed["reason"], proposed["mode"]) == (multiplier, reason, "shadow")
    assert hash_of(world, "base_target", "BTCUSDT") == before
    entries = [fields[b"symbol"] for _, fields in world.client.xrange("quantum:stream:allocation.target.proposed")]
    assert sorted(entries) == sorted(symbol.encode() for symbol in SYMBOLS)


def test_a_bad_plan_is_blocked_by_name_and_a_plan_is_decided_once(world, instance) -> None:
    """Poison is acknowledged, repeats change nothing."""
    write_plan(world, "p-bad", "BTCUSDT", "OPEN", qty="nan")
    write_plan(world, "p-twice", "BTCUSDT", "CLOSE")
    write_plan(world, "p-twice", "BTCUSDT", "OPEN")
    write_plan(world, "p-open", "BTCUSDT", "OPEN")
    write_plan(world, "p-ignored", "BTCUSDT", "OPEN", decision="SKIP")
    run_cycle(world, instance)
    assert hash_of(world, "block", "p-bad")["reason"] == "invalid_plan:qty"
    assert hash_of(world, "permit", "p-twice")["granted"] == "true"
    assert hash_of(world, "block", "p-twice") == {}
    assert hash_of(world, "permit", "p-open")["granted"] == "true"
    assert hash_of(world, "permit", "p-ignored") == hash_of(world, "block", "p-ignored") == {}
    assert world.client.xpending("quantum:stream:apply.plan", "governor")["pending"] == 0
    assert len(world.client.xrange("quantum:stream:governor.events")) == 3


def test_an_opening_on_missing_data_is_blocked_and_a_close_passes(world, instance) -> None:
    """Unknown means no; but what reduces risk is not held back by missing data."""
    world.client.delete("quantum:state:positions:BTCUSDT")
    write_plan(world, "p-open", "BTCUSDT", "OPEN")
    write_plan(world, "p-close", "BTCUSDT", "CLOSE")
    run_cycle(world, instance)
    assert hash_of(world, "block", "p-open")["reason"] == "position_unknown"
    assert hash_of(world, "permit", "p-close")["granted"] == "true"


def test_replayed_data_earns_no_permit_unless_allowed(world, instance) -> None:
    """A demonstration must never be able to open a position."""
    write_candles(world, "BTCUSDT", real_closes("BTCUSDT"), source="replay")
    write_plan(world, "p-close", "BTCUSDT", "CLOSE")
    run_cycle(world, instance)
    assert hash_of(world, "market_state", "BTCUSDT")["source"] == "replay"
    assert hash_of(world, "harvest_proposal", "BTCUSDT")["data_source"] == "replay"
    assert hash_of(world, "block", "p-close")["reason"] == "synthetic_data"


def test_the_kill_switch_blocks_openings_and_lets_closes_pass(world, instance) -> None:
    """It must stop risk, not the reduction of it."""
    world.client.set("quantum:kill", "1")
    write_plan(world, "p-open", "BTCUSDT", "OPEN")
    write_plan(world, "p-close", "BTCUSDT", "CLOSE")
    run_cycle(world, instance)
    assert hash_of(world, "block", "p-open")["reason"] == "kill_switch_active"
    assert hash_of(world, "permit", "p-close")["granted"] == "true"


def test_every_symbol_has_a_governor_row_without_any_plan(world, instance) -> None:
    """An empty screen must not mean "unknown"."""
    run_cycle(world, instance)
    row = hash_of(world, "governor_state", "SOLUSDT")
    assert (row["eff_factor"], row["last_decision"], row["plans_evaluated"]) == ("1.0000", "", "0")


def test_a_publication_is_logged_in_the_line_operators_grep_for(world, instance, caplog) -> None:
    """Their scripts look for these words."""
    with caplog.at_level("INFO", logger="quantum.publish"):
        run_cycle(world, instance)
    lines = [record.getMessage() for record in caplog.records]
    assert any(
        line.startswith("Published proposal for BTCUSDT: SL=$") and " TP=$" in line and " reasons=" in line for line in lines
    )
    assert any(line.startswith("Published harvest for BTCUSDT") for line in lines)
    assert any(line.startswith("Published market state for BTCUSDT") for line in lines)


def test_the_history_of_a_number_is_kept_as_metadata(world, instance) -> None:
    """The user interface draws it over time."""
    run_cycle(world, instance)
    record = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("market_state"), asset_partitions=["BTCUSDT"]), limit=1
    ).records[0]
    metadata = record.asset_materialization.metadata
    assert {"sigma", "ts", "p_trend"} <= set(metadata)
    assert metadata["sigma"].value == pytest.approx(float(hash_of(world, "market_state", "BTCUSDT")["sigma"]), rel=1e-4, abs=1e-8)
    assert json.dumps(metadata["published_because"].value) == '"first"'


def test_random_prices_of_many_symbols_go_through_in_one_run(make_store, instance) -> None:
    """Rows are symbols: nothing in the line counts on three of them."""
    store = make_store(symbols=",".join(f"S{number}USDT" for number in range(40)))
    for number, symbol in enumerate(store.settings.symbols):
        write_candles(store, symbol, random_closes(number))
        write_position(store, symbol, entry=100, mark=101)
        write_target(store, symbol)
    assert run_cycle(store, instance).success
    assert len(materialized(instance, "risk_proposal")) == 40


def test_a_position_that_vanishes_is_let_go_and_its_peak_is_kept_for_its_return(world, instance) -> None:
    """A writer that restarts must not loosen a stop, and a closed position must not be acted on."""
    write_position(world, "BTCUSDT", entry=100_000, mark=120_000, peak_price=125_000)
    run_cycle(world, instance)
    world.client.delete("quantum:state:positions:BTCUSDT")
    world.clock.advance(10)
    result = run_cycle(world, instance)
    assert failures_of(result, "risk_proposal") == {}
    assert hash_of(world, "position", "BTCUSDT")["held"] == "0"
    write_position(world, "BTCUSDT", entry=100_000, mark=120_000)
    world.clock.advance(10)
    run_cycle(world, instance)
    kept = hash_of(world, "position", "BTCUSDT")
    assert (kept["held"], float(kept["peak_price"])) == ("1", 125_000)


def test_a_snapshot_its_writer_no_longer_renews_opens_nothing(world, instance) -> None:
    """We evaluate it every cycle, which must not make it look fresh."""
    run_cycle(world, instance)
    world.clock.advance(121)
    for symbol in SYMBOLS:
        write_candles(world, symbol, real_closes(symbol))
    write_plan(world, "p-open", "BTCUSDT", "OPEN")
    run_cycle(world, instance)
    assert hash_of(world, "block", "p-open")["reason"] == "stale_position"


def test_a_position_that_cannot_be_read_is_withheld_from_the_whole_run(world, instance) -> None:
    """Yesterday's hash must not be refreshed as if it had been evaluated."""
    run_cycle(world, instance)
    before = hash_of(world, "risk_proposal", "BTCUSDT")
    world.client.hset("quantum:state:positions:BTCUSDT", "side", "UP")
    world.clock.advance(10)
    result = run_cycle(world, instance)
    for asset in ("position", "risk_proposal", "harvest_proposal", "trade_intent"):
        assert failures_of(result, asset)["BTCUSDT"].startswith("position_invalid"), asset
    assert hash_of(world, "risk_proposal", "BTCUSDT") == before


def test_a_snapshot_that_is_long_out_of_date_gives_no_proposal(world, instance) -> None:
    """Its mark is out of date, and perhaps the position is closed."""
    write_position(world, "BTCUSDT", ts_epoch=int(world.clock().timestamp()) - 601)
    result = run_cycle(world, instance)
    assert failures_of(result, "risk_proposal")["BTCUSDT"].startswith("position_stale")
    assert hash_of(world, "risk_proposal", "BTCUSDT") == {}


def test_an_invented_position_never_replaces_a_tracked_real_one(make_store, instance) -> None:
    """Its peak and stop would be lost."""
    store = make_store()
    write_candles(store, "BTCUSDT", real_closes("BTCUSDT"))
    write_position(store, "BTCUSDT", entry=100_000, mark=113_000)
    run_cycle(store, instance)
    before = hash_of(store, "position", "BTCUSDT")
    result = run_cycle(make_store(position_source="synthetic"), instance)
    assert failures_of(result, "position")["BTCUSDT"].startswith("position_synthetic")
    assert hash_of(store, "position", "BTCUSDT") == before


def test_a_plan_of_a_symbol_outside_the_run_is_decided_and_shown_in_its_row(make_store, instance) -> None:
    """Plans of all symbols wait in one stream."""
    store = make_store(symbols="SOLUSDT")
    write_plan(store, "p-close", "BTCUSDT", "CLOSE")
    run_cycle(store, instance)
    row = hash_of(store, "governor_state", "BTCUSDT")
    assert (row["last_plan_id"], row["last_decision"]) == ("p-close", "PERMIT")
    assert materialized(instance, "governor_permit") == {"SOLUSDT"}


HUGE = {"qty": "1e308", "price": "1e10"}


def test_a_plan_with_absurd_numbers_is_blocked_and_stops_no_other(world, instance) -> None:
    """One such plan once wedged the governor for ever, closings included."""
    write_plan(world, "p-huge", "BTCUSDT", "CLOSE", **HUGE)
    write_plan(world, "p-ok", "ETHUSDT", "CLOSE", qty=1)
    run_cycle(world, instance)
    assert hash_of(world, "block", "p-huge")["reason"] == "invalid_plan:qty"
    assert hash_of(world, "permit", "p-ok")["granted"] == "true"


@pytest.mark.parametrize("text", ["1_000", "１", "0x10", "nan", "-1", "1e25"])
def test_a_plan_number_that_is_none_is_named(world, instance, text) -> None:
    """What a person would not accept as a size, the governor does not either."""
    write_plan(world, "p-odd", "BTCUSDT", "CLOSE", qty=text)
    run_cycle(world, instance)
    assert hash_of(world, "block", "p-odd")["reason"] == "invalid_plan:qty"


def test_an_unreadable_position_opens_nothing_although_it_was_tracked_a_moment_ago(world, instance) -> None:
    """Gate 1: a failed read is not the last good value."""
    run_cycle(world, instance)
    world.client.hset("quantum:state:positions:BTCUSDT", "side", "banana")
    world.clock.advance(10)
    write_plan(world, "p-open", "BTCUSDT", "OPEN")
    run_cycle(world, instance)
    assert hash_of(world, "block", "p-open")["reason"] == "evaluation_error"


def test_a_tampered_market_state_opens_nothing(world, instance) -> None:
    """Right format, right range, wrong number."""
    run_cycle(world, instance)
    write_candles(world, "BTCUSDT", [])
    world.client.hset("quantum:marketstate:BTCUSDT", "sigma", "0.5")
    world.clock.advance(10)
    write_plan(world, "p-open", "BTCUSDT", "OPEN")
    run_cycle(world, instance)
    assert hash_of(world, "block", "p-open")["reason"] == "evaluation_error"


def test_a_record_that_cannot_be_written_leaves_no_permit(world, instance) -> None:
    """A permit without its event has no audit trail."""
    world.client.set("quantum:stream:governor.events", "x")
    write_plan(world, "p-close", "BTCUSDT", "CLOSE")
    assert not run_cycle(world, instance, raise_on_error=False).success
    assert hash_of(world, "permit", "p-close") == {}


@pytest.mark.parametrize("mode", ["shadow", "enforce"])
def test_a_broken_execution_stream_fails_efficiency_by_name_and_holds_up_no_close(make_store, instance, mode) -> None:
    """Hints fail open."""
    store = make_store(efficiency_mode=mode)
    store.client.set("quantum:stream:execution", "x")
    write_plan(store, "p-close", "ETHUSDT", "CLOSE")
    result = run_cycle(store, instance)
    assert "quantum:stream:execution" in failures_of(result, "capital_efficiency")["BTCUSDT"]
    assert hash_of(store, "permit", "p-close")["eff_reason"] == "missing_eff"


def test_efficiency_folds_every_fill_once_also_when_other_symbols_have_none(make_store, instance) -> None:
    """A symbol without fills once held back the reading for all."""
    store = make_store(efficiency_mode="enforce")
    pipeline = store.client.pipeline()
    for _ in range(1500):
        pipeline.xadd("quantum:stream:execution", {"symbol": "BTCUSDT", "pnl_usd": "10"})
    pipeline.xadd("quantum:stream:execution", {"symbol": "BTCUSDT", "pnl_usd": "-1000"})
    pipeline.execute()
    for _ in range(3):
        run_cycle(store, instance)
        store.clock.advance(10)
    assert float(hash_of(store, "capital_efficiency", "BTCUSDT")["dd_proxy"]) == pytest.approx(200)  # .2 x 1000


def write_performance(store, factor: str) -> int:
    """Write how BTCUSDT performs and what it may hold; give the writer's clock, epoch s."""
    now = int(store.clock().timestamp())
    store.client.hset(
        "quantum:alpha:attribution:BTCUSDT", mapping={"performance_factor": factor, "confidence": ".8", "ts": str(now)}
    )
    store.client.hset(
        "quantum:allocation:target:BTCUSDT", mapping={"target_usd": "800", "confidence": ".8", "timestamp": str(now)}
    )
    return now


def test_the_published_efficiency_vector_comes_out_of_the_whole_line(make_store, instance) -> None:
    """docs/spec.md#6-efficiency-and-targets: perf .72, target 800, pnls +12.5 -3.1 +8.7."""
    store = make_store(efficiency_mode="enforce")
    now = write_performance(store, ".72")
    for number, pnl in enumerate(("12.5", "-3.1", "8.7"), start=1):
        store.client.xadd("quantum:stream:execution", {"symbol": "BTCUSDT", "pnl_usd": pnl}, id=f"{now * 1000}-{number}")
    run_cycle(store, instance)
    fields = hash_of(store, "capital_efficiency", "BTCUSDT")
    got = [float(fields[name]) for name in ("volatility_ewma", "dd_proxy", "efficiency_score", "efficiency_ewma")]
    assert got == pytest.approx([3.836, 0.496, 0.716717, 0.554179], abs=1e-6)
    assert (fields["mode"], fields["version"]) == ("enforce", "p31_v1")
    ours, older = (store.client.xrange(f"quantum:stream:capital.efficiency{end}") for end in ("", ".decision"))
    assert [one for _, one in ours] == [one for _, one in older]
    (mine,) = [one for _, one in ours if one[b"symbol"] == b"BTCUSDT"]
    assert mine[b"efficiency_score"].decode() == fields["efficiency_score"]


def test_a_losing_symbol_scores_0_and_not_as_one_nobody_knows(make_store, instance) -> None:
    """Writers give -1 to 1: counted as an error, the worst symbols were scored by their last good value, or as neutral."""
    store = make_store(efficiency_mode="enforce")
    write_performance(store, "-0.6")
    run_cycle(store, instance)
    fields = hash_of(store, "capital_efficiency", "BTCUSDT")
    assert (float(fields["efficiency_score"]), float(fields["p30_perf"]), fields["stale_flags"]) == (0, -0.6, "")


def test_a_decision_is_told_with_the_materialization_of_its_symbol(world, instance) -> None:
    """Who looks at the governor in the user interface sees why, and by what, without a shell."""
    write_plan(world, "plan-close", "BTCUSDT", "CLOSE", qty=0.01)
    run_cycle(world, instance)
    records = instance.fetch_materializations(dg.AssetKey("governor_permit"), limit=10).records
    told = next(one.asset_materialization.metadata for one in records if one.asset_materialization.partition == "BTCUSDT")
    assert (told["last_plan_id"].value, told["last_decision"].value) == ("plan-close", "PERMIT")
    evidence = json.loads(told["last_evidence"].value)
    assert (evidence["permits_hour"], evidence["permits_hour_after"], evidence["closing"]) == ("0", "1", "1")
    assert float(evidence["market_state_age_sec"]) >= 0
