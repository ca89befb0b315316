"""Trade intents: one per change of the proposals, whole or not at all, and in plan mode the way to a permit."""

import multiprocessing
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest
from redis.crc import key_slot

from definitions import assemble
from quantum_assets.checks.evidence import Evidence
from quantum_assets.governor_permit import decide_plans
from quantum_assets.trade_intent import current_intents
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import COMMON
from quantum_core.contracts.tables import HARVEST_PROPOSAL, PENDING_INTENT, POSITION, RISK_PROPOSAL
from quantum_core.settings import load_settings
from resources.governor.plan import parse_plan
from resources.io_manager import fresh_frame
from resources.store.intents import _append_plans, record_intents
from resources.store.publication import Publication, publish
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from tests.proxy import CuttingProxy
from tests.world import QUIET, hash_of, real_closes, run_cycle, write_candles, write_position

SYMBOL = "BTCUSDT"
OTHER = "ETHUSDT"
LAST = f"quantum:trade_intent:last:{SYMBOL}"
PLANS = "quantum:stream:apply.plan"

MARKET = {"ts": 0.2, "sigma": 0.001, "p_trend": 0.4, "p_mr": 0.1, "p_chop": 0.5}
HELD = {
    "position_side": "LONG", "position_age_sec": 60.0, "position_current_price": 105.0, "position_entry_price": 100.0,
    "position_source": "redis_hash", "position_peak_price": 106.0, "position_trough_price": 99.0, "position_current_sl": 99.0,
    "data_source": "candles",
}  # fmt: skip
RISK = {
    "proposed_sl": 104.0, "proposed_tp": 110.0, "stop_dist_pct": 0.005, "tp_dist_pct": 0.01, "trail_gap_pct": 0.005,
    "reason_codes": ["trail_active"], "sl_breached": False, **MARKET, **HELD,
}  # fmt: skip
HARVEST = {
    "harvest_action": "PARTIAL_25", "new_sl_proposed": 100.2, "R_net": 2.5, "risk_unit": 2.0, "cost_est": 0.1, "kill_score": 0.55,
    "reason_codes": ["harvest_partial_25", "profit_lock"], "k_regime_flip": 0.0, "k_sigma_spike": 0.0, "k_ts_drop": 0.1,
    "k_age_penalty": 0.0, "position_unrealized_pnl": 10.0, "position_qty": 2.0, "stop_dist_pct": 0.005, "fallback_stop": False,
    **MARKET, **HELD,
}  # fmt: skip
TRACKED = {
    "side": "LONG", "entry_price": 100.0, "current_price": 105.0, "peak_price": 106.0, "trough_price": 99.0, "age_sec": 60.0,
    "unrealized_pnl": 10.0, "qty": 2.0, "current_sl": 99.0, "current_tp": None, "opened_at_epoch": 1.0,
    "position_source": "redis_hash", "position_ts_epoch": 1.0, "held": True, "last_candle_ms": 1, "last_close": 105.0,
    "collared": False, "collared_price": None, "collared_candle_ms": 0,
}  # fmt: skip
NOTHING = {"harvest_action": "NONE", "reason_codes": []}


def propose(store: RedisStore, symbol: str = SYMBOL, *, risk: dict[str, Any] | None = None, **harvest: Any) -> None:
    """Publish position and proposals of one symbol as the assets do, under the rate limit."""
    publish(store, POSITION, [{**TRACKED, "symbol": symbol}], cycle_id="c1")
    publish(store, RISK_PROPOSAL, [{**RISK, "symbol": symbol, **(risk or {})}], cycle_id="c1")
    publish(store, HARVEST_PROPOSAL, [{**HARVEST, "symbol": symbol, **harvest}], cycle_id="c1")


def look(store: RedisStore, *symbols: str) -> pl.DataFrame:
    """Compute the asset from what stands published."""
    frames = {t.asset: fresh_frame(store, t, symbols or (SYMBOL,)) for t in (POSITION, RISK_PROPOSAL, HARVEST_PROPOSAL)}
    return current_intents(**frames, store=store)


def record(store: RedisStore, frame: pl.DataFrame) -> list[Publication]:
    """Write it as the IO manager does."""
    return record_intents(store, list(frame.filter(pl.col("state") == State.PRESENT).iter_rows(named=True)), cycle_id="c1")


def evaluate(store: RedisStore) -> Publication:
    """Do both for one symbol, ten seconds after the last time."""
    (outcome,) = record(store, look(store))
    store.clock.advance(10)
    return outcome


def pending(store: RedisStore) -> dict[str, dict[str, str]]:
    """Give all pending intents, by id."""
    names = sorted(name.decode() for name in store.client.scan_iter("quantum:trade_intent:pending:*"))
    return {name.rpartition(":")[2]: {k.decode(): v.decode() for k, v in store.client.hgetall(name).items()} for name in names}


def plans(store: RedisStore) -> list[dict[str, str]]:
    """Give the stream of plans."""
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in store.client.xrange(PLANS)]


def failures(frame: pl.DataFrame) -> dict[str, str]:
    return dict(frame.filter(pl.col("state") == State.FAILED).select("symbol", "why").iter_rows())


# --- what an intent says -----------------------------------------------------------------------------------------------------


def test_an_intent_has_all_fields_its_lifetime_and_its_spec_name(store) -> None:
    """Consumers read it under exactly this name."""
    propose(store)
    now = store.clock()
    assert evaluate(store) == Publication(SYMBOL, published=True, cause="first")
    ((intent_id, fields),) = pending(store).items()
    key = f"quantum:trade_intent:pending:{intent_id}"
    assert store.client.ttl(key) == 300
    assert set(fields) == {field.name for field in (*COMMON, *PENDING_INTENT.fields)}
    expected = {
        "symbol": SYMBOL, "action": "CLOSE", "harvest_action": "PARTIAL_25", "confidence": "0.55", "stop_loss": "100.2",
        "take_profit": "110.0", "reason_codes": "harvest_partial_25,profit_lock", "created_at": now.isoformat(),
        "timestamp": str(int(now.timestamp())),
        "expires_at": "2026-01-22T12:05:00+00:00", "source": "candles", "cause": "first", "replaces": "", "mode": "shadow",
    }  # fmt: skip
    assert {name: fields[name] for name in expected} == expected
    assert store.client.exists(PLANS) == 0


@pytest.mark.parametrize(
    ("risk", "harvest", "reasons", "stop_loss"),
    [
        ({"sl_breached": True}, {**NOTHING, "new_sl_proposed": None}, "sl_breached", "104.0"),
        ({"sl_breached": True}, {}, "harvest_partial_25,profit_lock,sl_breached", "100.2"),
        (
            {},
            {"harvest_action": "FULL_CLOSE_PROPOSED", "reason_codes": ["kill_score_triggered"]},
            "kill_score_triggered",
            "100.2",
        ),
    ],
)
def test_a_crossed_stop_or_an_action_is_due_an_intent_that_says_why(store, risk, harvest, reasons, stop_loss) -> None:
    """Both ways, and both at once."""
    propose(store, risk=risk, **harvest)
    evaluate(store)
    (fields,) = pending(store).values()
    assert (fields["reason_codes"], fields["stop_loss"]) == (reasons, stop_loss)


def test_nothing_is_intended_when_nothing_is_proposed(store) -> None:
    """The usual state of the book."""
    propose(store, **NOTHING)
    assert evaluate(store) == Publication(SYMBOL, published=False, cause="nothing due", kept=True)
    assert pending(store) == {}
    assert store.client.hget(LAST, "due") == b"0"


@pytest.mark.parametrize(
    ("risk_source", "harvest_source", "told"), [("candles", "replay", "replay"), ("example", "replay", "example")]
)
def test_an_intent_is_as_live_as_the_least_live_of_its_inputs(store, risk_source, harvest_source, told) -> None:
    """A stop of a replay must not pass for one of the market."""
    propose(store, risk={"data_source": risk_source}, data_source=harvest_source)
    evaluate(store)
    (fields,) = pending(store).values()
    assert fields["source"] == told


# --- one per change ----------------------------------------------------------------------------------------------------------


def test_an_unchanged_proposal_makes_one_intent_however_often_it_is_evaluated_or_renewed(store) -> None:
    """Never one per cycle: forty cycles, six renewals for age, one intent, which is gone after its five minutes."""
    causes = []
    for _ in range(40):
        propose(store)
        causes.append(evaluate(store).cause)
    assert causes == ["first", *["unchanged"] * 39]
    assert hash_of(store, "harvest_proposal", SYMBOL)["published_at_utc"] > "2026-01-22T12:06"
    assert len(pending(store)) == 1
    assert int(hash_of(store, "trade_intent_last", SYMBOL)["last_update_epoch"]) == int(store.clock().timestamp()) - 10
    assert store.client.ttl(LAST) == 30 * 86400


CHANGES = [
    ({"harvest_action": "PARTIAL_50"}, {}, "harvest_action changed"),
    ({"reason_codes": ["harvest_partial_25"]}, {}, "reason_codes changed"),
    ({"kill_score": 0.5515}, {}, "confidence changed"),
    ({"new_sl_proposed": 100.4}, {}, "new_sl_proposed changed"),
    ({"new_sl_proposed": None}, {}, "new_sl_proposed changed"),
    ({"position_side": "SHORT"}, {"position_side": "SHORT"}, "position_side changed"),
    ({}, {"sl_breached": True}, "sl_breached changed"),
]


@pytest.mark.parametrize(("harvest", "risk", "cause"), CHANGES, ids=[row[2] for row in CHANGES])
def test_a_change_makes_exactly_one_more_intent_that_names_what_changed(store, harvest, risk, cause) -> None:
    """And what it replaces, so that a reader can drop the old one."""
    propose(store)
    evaluate(store)
    (first,) = pending(store)
    for _ in range(3):
        propose(store, risk=risk, **harvest)
        evaluate(store)
    found = pending(store)
    (second,) = set(found) - {first}
    assert (found[second]["cause"], found[second]["replaces"]) == (cause, first)


@pytest.mark.parametrize(
    ("harvest", "risk"),
    [({"kill_score": 0.5509}, {}), ({"new_sl_proposed": 100.25}, {}), ({"R_net": 3.0}, {}), ({}, {"proposed_sl": 104.5}),
     ({}, {"proposed_tp": 111.0})],
)  # fmt: skip
def test_what_is_no_change_makes_no_intent(store, harvest, risk) -> None:
    """A trailing stop moves every minute; what is to be done stays the same."""
    propose(store)
    evaluate(store)
    propose(store, risk=risk, **harvest)
    assert evaluate(store).cause == "unchanged"
    assert len(pending(store)) == 1


def test_small_changes_add_up_to_one(store) -> None:
    """They are measured from what was last intended, not from the cycle before."""
    causes = []
    for step in range(5):
        propose(store, kill_score=0.55 + step * 0.0006)
        causes.append(evaluate(store).cause)
    assert causes == ["first", "unchanged", "confidence changed", "unchanged", "confidence changed"]


def test_nothing_in_between_makes_the_same_proposal_a_second_intent(store) -> None:
    """What was withdrawn and is proposed again has to be said again."""
    causes = []
    for harvest in ({}, {}, NOTHING, NOTHING, {}, {}):
        propose(store, **harvest)
        causes.append(evaluate(store).cause)
    assert causes == ["first", "unchanged", "nothing due", "nothing due", "due changed", "unchanged"]
    assert len(pending(store)) == 2


def test_a_position_that_was_flat_in_between_is_due_again(store) -> None:
    """A new position is not covered by what was intended for the old one."""
    propose(store)
    evaluate(store)
    store.client.delete(store.keys.of("position", SYMBOL))
    assert failures(look(store)) == {}
    assert hash_of(store, "trade_intent_last", SYMBOL)["due"] == "0"
    store.clock.advance(61)
    propose(store)
    assert evaluate(store).cause == "due changed"


def test_the_very_same_proposals_are_intended_once_also_when_the_position_was_gone_for_a_moment(store) -> None:
    """One id is one plan: nothing was published in between."""
    propose(store)
    evaluate(store)
    store.client.delete(store.keys.of("position", SYMBOL))
    look(store)
    propose(store)
    assert evaluate(store).cause == "unchanged"
    assert hash_of(store, "trade_intent_last", SYMBOL)["due"] == "1"
    assert len(pending(store)) == 1


def test_a_position_nobody_shows_for_a_while_is_not_intended_again_on_its_return(store) -> None:
    """A position writer that restarts must not double a close."""
    propose(store)
    evaluate(store)
    publish(store, POSITION, [{**TRACKED, "symbol": SYMBOL, "held": False}], cycle_id="c1")
    assert failures(look(store)) == {}
    store.clock.advance(61)
    propose(store)
    assert evaluate(store).cause == "unchanged"


def test_a_clock_turned_back_makes_no_intent(store) -> None:
    """Age is no change, not even a negative one."""
    propose(store)
    evaluate(store)
    store.clock.advance(-3000)
    propose(store)
    assert evaluate(store).cause == "unchanged"


# --- trouble -----------------------------------------------------------------------------------------------------------------


def gone(store: RedisStore, key: str) -> None:
    store.client.delete(store.keys.of(key, SYMBOL))


def of_another_type(store: RedisStore, key: str) -> None:
    gone(store, key)
    store.client.set(store.keys.of(key, SYMBOL), "x")


def edited(store: RedisStore, key: str) -> None:
    store.client.hset(store.keys.of(key, SYMBOL), "harvest_action" if key != "risk_proposal" else "proposed_sl", "9")


TROUBLE = [
    (gone, "harvest_proposal", "harvest_proposal_missing"),
    (of_another_type, "harvest_proposal", "harvest_proposal_unreadable"),
    (edited, "harvest_proposal", "harvest_proposal_unreadable"),
    (gone, "risk_proposal", "risk_proposal_missing"),
    (edited, "risk_proposal", "risk_proposal_unreadable"),
    (of_another_type, "trade_intent_last", "trade_intent_last_unreadable"),
    (edited, "trade_intent_last", "trade_intent_last_unreadable"),
]


@pytest.mark.parametrize(("spoil", "key", "why"), TROUBLE, ids=[f"{row[2]}, {row[0].__name__}" for row in TROUBLE])
def test_a_proposal_or_memory_that_cannot_be_used_is_named_and_leaves_the_others_alone(
    store, spoil: Callable[..., None], key, why
) -> None:
    """No intent on what is not known, and none a second time because it was forgotten."""
    for symbol in (SYMBOL, OTHER):
        propose(store, symbol)
    record(store, look(store, SYMBOL, OTHER))
    spoil(store, key)
    propose(store, OTHER, harvest_action="PARTIAL_50")
    frame = look(store, SYMBOL, OTHER)
    assert failures(frame)[SYMBOL].startswith(why)
    assert [outcome.symbol for outcome in record(store, frame)] == [OTHER]
    assert sorted(fields["symbol"] for fields in pending(store).values()) == [SYMBOL, OTHER, OTHER]


def test_a_stale_harvest_proposal_makes_no_intent(store) -> None:
    """It may long be out of date."""
    propose(store)
    store.clock.advance(61)
    publish(store, POSITION, [{**TRACKED, "symbol": SYMBOL}], cycle_id="c1")
    publish(store, RISK_PROPOSAL, [{**RISK, "symbol": SYMBOL}], cycle_id="c1")
    frame = look(store)
    assert failures(frame) == {SYMBOL: "harvest_proposal_stale: 61 s > 60 s"}
    assert record(store, frame) == []
    assert pending(store) == {}


def test_a_memory_of_another_type_is_named_for_a_flat_symbol_too(store) -> None:
    """It would stand in the way of the next position."""
    store.client.set(LAST, "x")
    assert failures(look(store))[SYMBOL].startswith("trade_intent_last_unreadable")


@pytest.mark.parametrize("key", ["trade_intent_pending", "stream_plans"])
def test_a_key_of_another_type_leaves_nothing_half_written(make_store, key) -> None:
    """A script that fails half-way is not rolled back by the server, so it must look first."""
    store = make_store(intent_mode="plan")
    propose(store)
    frame = look(store)
    store.client.set(store.keys.of(key, frame["intent_id"][0]), "x")
    (outcome,) = record(store, frame)
    assert outcome.error.startswith("write_refused")
    assert not store.client.exists(LAST)


# --- crashes and company -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_connection_cut_anywhere_leaves_whole_intents_and_the_next_cycle_makes_up_the_rest(make_store) -> None:
    """Hash, memory and plan are there together or not at all, and in the end each symbol has one."""
    direct = make_store(intent_mode="plan")
    symbols = direct.settings.symbols

    def attempt(cut_after: int | None) -> int:
        direct.client.flushdb()
        for symbol in symbols:
            propose(direct, symbol)
        with CuttingProxy(direct.settings.url) as proxy:
            store = make_store(redis_url=proxy.url, intent_mode="plan")
            frame = look(store, *symbols)
            read = proxy.seen
            if cut_after is None:
                record(store, frame)
                return proxy.seen - read
            proxy.cut_after = read + cut_after
            with pytest.raises(RedisUnavailableError):
                record(store, frame)
        time.sleep(0.002)  # the server finishes what reached it
        return 0

    whole, seen = attempt(None), set()
    for cut_after in [*range(0, whole, 499), whole - 1]:
        attempt(cut_after)
        ids = set(pending(direct))
        lasts = {hash_of(direct, "trade_intent_last", symbol).get("intent_id") for symbol in symbols} - {None}
        assert ids == lasts == {plan["plan_id"] for plan in plans(direct)}
        seen.add(len(ids))
        record(direct, look(direct, *symbols))
        assert len(pending(direct)) == len(plans(direct)) == len(symbols)
    assert {0, 1, 2} <= seen  # the cuts really fell between symbols


def intend(url: str, now: datetime, barrier: Any, told: Any) -> None:
    """Evaluate in a process of its own; both have read before either writes."""
    store = RedisStore(load_settings(redis_url=url, intent_mode="plan"), lambda: now)
    frame = look(store)
    barrier.wait(60)
    (outcome,) = record(store, frame)
    told.put((outcome.published, outcome.error))


@pytest.mark.slow
def test_two_processes_that_saw_the_same_proposals_make_one_intent(make_store) -> None:
    """The loop and somebody in the user interface, at once."""
    store = make_store(intent_mode="plan")
    propose(store)
    spawn = multiprocessing.get_context("spawn")
    barrier, told = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=intend, args=(store.settings.url, store.clock(), barrier, told)) for _ in range(2)]
    for process in processes:
        process.start()
    outcomes = sorted(told.get(timeout=100) for _ in processes)
    for process in processes:
        process.join(30)
    assert outcomes == [(False, "overwritten_meanwhile"), (True, "")]
    assert len(pending(store)) == len(plans(store)) == 1


# --- plan mode ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("risk", "harvest", "action"),
    [({}, {}, "PARTIAL_25"), ({"sl_breached": True}, {}, "CLOSE"), ({"sl_breached": True}, NOTHING, "CLOSE")],
)
@pytest.mark.parametrize("qty", [2.0, -2.0, None])
def test_a_plan_says_what_the_governor_needs(make_store, risk, harvest, action, qty) -> None:
    """And how much of the position, where that is known; else the governor takes it from the position."""
    store = make_store(intent_mode="plan")
    propose(store, risk=risk, **harvest)
    publish(store, POSITION, [{**TRACKED, "symbol": SYMBOL, "qty": qty}], cycle_id="c1")
    evaluate(store)
    (intent_id,) = pending(store)
    ((entry_id, fields),) = store.client.xrange(PLANS)
    plan = parse_plan(entry_id.decode(), fields)
    assert plan.invalid == ""
    assert (plan.plan_id, plan.symbol, plan.action, plan.decision) == (intent_id, SYMBOL, action, "EXECUTE")
    assert (plan.reduce_only, plan.kill_score, plan.price) == (True, 0.55, 105.0)
    assert plan.qty == (None if qty is None else abs(qty) * (1.0 if action == "CLOSE" else 0.25))
    assert (plan.source, plan.data_source) == ("quantum", "candles")
    assert plans(store)[0]["side"] == "SELL"


def live_world(store: RedisStore, **labels: str) -> RedisStore:
    """Real closes of a trend, and one position far enough in profit for a quarter of it to be taken."""
    closes = real_closes("SOLUSDT", 400)
    mark, stop = closes[-1], closes[-1] * 0.994  # tighter than any profit lock
    write_candles(store, SYMBOL, closes, **labels)
    write_position(store, SYMBOL, entry=mark * 0.98, mark=mark, unrealized_pnl=mark * 0.04, current_sl=stop)
    return store


def test_from_harvest_to_intent_to_plan_to_permit_in_one_cycle(make_store, instance) -> None:
    """No plan waits for the next cycle."""
    store = live_world(make_store(symbols=SYMBOL, intent_mode="plan"))
    assert run_cycle(store, instance).success
    harvest = hash_of(store, "harvest_proposal", SYMBOL)
    assert harvest["harvest_action"] == "PARTIAL_25"
    ((intent_id, fields),) = pending(store).items()
    permit = hash_of(store, "permit", intent_id)
    assert (permit["granted"], permit["plan_id"], float(permit["computed_qty"])) == ("true", intent_id, 0.5)
    assert fields["cycle_id"] == permit["cycle_id"] == harvest["cycle_id"]
    store.clock.advance(10)
    run_cycle(store, instance)
    assert len(plans(store)) == len(pending(store)) == 1


@pytest.mark.parametrize(("allowed", "key"), [(False, "block"), (True, "permit")])
def test_a_plan_from_replayed_data_is_refused_unless_allowed(make_store, instance, allowed, key) -> None:
    """A demonstration in plan mode must not close anybody's position."""
    store = live_world(make_store(symbols=SYMBOL, intent_mode="plan", allow_synthetic=allowed), source="replay")
    run_cycle(store, instance)
    (intent_id,) = pending(store)
    assert (plans(store)[0]["source"], plans(store)[0]["data_source"]) == ("quantum", "replay")
    record_of_plan = hash_of(store, key, intent_id)
    assert record_of_plan.get("reason", "") == ("" if allowed else "synthetic_data")
    assert record_of_plan["symbol"] == SYMBOL


# --- in a cluster ------------------------------------------------------------------------------------------------------------


def test_in_a_cluster_an_intent_shares_the_slot_of_its_symbol(make_store) -> None:
    """One script writes both keys."""
    keys = make_store(key_template="cluster").keys
    names = [keys.of("trade_intent_last", SYMBOL), keys.of("trade_intent_pending", "0123456789abcdef", SYMBOL)]
    assert names == [
        "quantum:trade_intent:last:{BTCUSDT}",
        "quantum:trade_intent:pending:{BTCUSDT}:0123456789abcdef",
    ]
    assert len({key_slot(name.encode()) for name in names}) == 1


def test_in_a_cluster_a_plan_that_was_appended_before_a_crash_is_decided_once(make_store) -> None:
    """The stream has another slot, so that it cannot be part of the script."""
    store = make_store(key_template="cluster", intent_mode="plan")
    propose(store)
    rows = list(look(store).iter_rows(named=True))
    assert _append_plans(store, rows, store.clock()) == {}  # and then the process died
    assert evaluate(store).published
    assert [plan["plan_id"] for plan in plans(store)] == [rows[0]["intent_id"]] * 2
    assert list(pending(store)) == list(Evidence(store).intents) == [rows[0]["intent_id"]]
    assert [one.granted for one in decide_plans(store, cycle_id="c1")] == [True]


def test_in_a_cluster_no_intent_is_made_whose_plan_was_refused(make_store) -> None:
    """It would say that a permit was asked for."""
    store = make_store(key_template="cluster", intent_mode="plan")
    propose(store)
    store.client.set(PLANS, "x")
    assert evaluate(store).error.startswith("write_refused")
    assert pending(store) == {}


# --- as a Dagster asset ------------------------------------------------------------------------------------------------------


def materializations(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    records = instance.fetch_materializations(dg.AssetKey("trade_intent"), limit=10).records
    return [{name: value.value for name, value in one.asset_materialization.metadata.items()} for one in records]


def test_a_materialization_is_one_new_intent_with_what_it_says(make_store, instance) -> None:
    """The history of the asset is the history of its intents."""
    store = live_world(make_store(symbols=SYMBOL))
    for _ in range(3):
        run_cycle(store, instance)
        store.clock.advance(10)
    ((intent_id, fields),) = pending(store).items()
    (metadata,) = materializations(instance)
    expected = {
        "intent_id": intent_id, "harvest_action": "PARTIAL_25", "reason_codes": fields["reason_codes"],
        "confidence": float(fields["confidence"]), "stop_loss": f"{float(fields['stop_loss']):.3f} quote", "cycle_id": fields["cycle_id"],
        "published_because": "first",
    }  # fmt: skip
    assert {name: metadata[name] for name in expected} == expected


def test_who_asks_for_one_symbol_sees_what_stands_and_makes_nothing_new(make_store, instance) -> None:
    """The same proposals, from the user interface."""
    store = live_world(make_store(symbols=SYMBOL))
    run_cycle(store, instance)
    store.clock.advance(10)
    job = assemble(store).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, partition_key=SYMBOL, asset_selection=[dg.AssetKey("trade_intent")], run_config=QUIET
    )
    assert result.success
    (intent_id,) = pending(store)
    asked, made = materializations(instance)
    assert (asked["published_because"], asked["intent_id"]) == ("unchanged", intent_id)
    assert made["published_because"] == "first"
