"""What a cycle leaves for the recorder: everything once, and all of it again when nobody can know what was recorded last."""

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import orjson
import polars as pl
import pytest

from quantum_core.contracts.tables import PUBLISHED_TABLES
from resources.inputs.foreign import Scored
from resources.recorder import records, tape
from resources.recorder.lifetimes import INTENT_DUE
from resources.store.redis_store import pairs
from tests.recorder.recording import Desk, somebody_records
from tests.world import hash_of, real_closes, run_cycle, write_candles, write_position, write_world

SYMBOL = "BTCUSDT"


def recorded(store):
    """Give the records left since they were last asked for."""
    entries = store.client.xrange(store.keys.of("stream_recorder"))
    store.client.xtrim(store.keys.of("stream_recorder"), maxlen=0)
    return [records.read(pairs(fields)) for _, fields in entries]


def rows_of(left, table):
    frames = [one.tables[table] for one in left if table in one.tables]
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def facts_of(record):
    return orjson.loads(record.row["facts"])


def test_every_step_of_a_cycle_leaves_a_record_with_what_it_published(make_store, instance):
    store = make_store()
    write_world(store)
    somebody_records(store)
    run_cycle(store, instance)
    left = recorded(store)
    assert Counter(one.row["asset"] for one in left) == dict.fromkeys(PUBLISHED_TABLES, 1)
    assert [one.seq for one in left] == list(range(1, len(left) + 1))
    for asset in ("market_state", "risk_proposal", "harvest_proposal", "position_size"):
        table = PUBLISHED_TABLES[asset]
        row = rows_of(left, asset).row(by_predicate=pl.col("symbol") == SYMBOL, named=True)
        published = hash_of(store, table.key, SYMBOL)
        assert table.encode(row) == {name: published[name] for name in table.encode(row)}
        assert row["cycle_id"] == published["cycle_id"]
        assert row["cause"] == "first"
        assert (row["profile"], row["profile_name"]) == (published["profile"], published["profile_name"])


def test_each_candle_is_recorded_once_and_a_corrected_one_again(make_store, clock, instance):
    store = make_store()
    desk = Desk(store, clock)
    for _ in range(7):
        desk.advance()
        run_cycle(store, instance)
    candles = rows_of(recorded(store), "candles").filter(pl.col("symbol") == SYMBOL)
    held = store.client.zcard(store.keys.of("candles_history", SYMBOL))
    assert held == 301
    assert len(candles) == candles["open_time_ms"].n_unique() == held
    key = store.keys.of("candles_history", SYMBOL)
    (member,) = store.client.zrange(key, -1, -1)
    corrected = {**json.loads(member), "high": json.loads(member)["high"] * 1.0001}
    store.client.zrem(key, member)
    store.client.zadd(key, {json.dumps(corrected): corrected["open_time"]})
    desk.advance()
    run_cycle(store, instance)
    again = rows_of(recorded(store), "candles").filter(pl.col("symbol") == SYMBOL)
    assert again["open_time_ms"].to_list() == [corrected["open_time"]]
    assert again["high"].to_list() == [corrected["high"]]


def test_what_has_not_changed_is_not_recorded_again(make_store, clock, instance):
    store = make_store()
    write_world(store)
    somebody_records(store)
    run_cycle(store, instance)
    recorded(store)
    clock.advance(10)
    write_position(store, "ETHUSDT", entry=100.0, mark=101.0)
    run_cycle(store, instance)
    left = recorded(store)
    assert rows_of(left, "raw_positions")["symbol"].to_list() == ["ETHUSDT"]
    assert not any({"candles", "base_targets", "settings", "parameters"} & one.tables.keys() for one in left)


@pytest.mark.parametrize(
    "happened",
    ["another process", *(pytest.param(one, marks=pytest.mark.slow) for one in ("a new day", "Redis was emptied of it"))],
)
def test_all_is_recorded_again_when_nobody_can_know_what_was_recorded_last(make_store, clock, instance, happened):
    store = make_store()
    write_world(store)
    somebody_records(store)
    run_cycle(store, instance)
    recorded(store)
    if happened == "another process":
        store.client.hset(store.keys.of("recorder_writers"), SYMBOL, "somebody-else:2026-01-22")
    elif happened == "a new day":
        clock.advance(13 * 3600)
        write_world(store)
    else:
        store.client.delete(store.keys.of("recorder_writers"))
    run_cycle(store, instance)
    left = recorded(store)
    assert [one.row["full"] for one in left].count(True) == 1
    assert len(rows_of(left, "candles")) == 900
    assert sorted(rows_of(left, "raw_positions")["symbol"]) == sorted(store.settings.symbols)
    assert len(rows_of(left, "settings")) > 80


def test_a_record_that_cannot_be_left_costs_no_publication_and_is_counted(make_store, clock, instance, caplog):
    store = make_store()
    write_world(store)
    somebody_records(store)
    store.client.set(store.keys.of("stream_recorder"), "in the way")
    run_cycle(store, instance)
    assert hash_of(store, "harvest_proposal", SYMBOL)["harvest_action"]
    assert f"the record of market_state (t{clock().timestamp():.6f}) is missing: WRONGTYPE" in caplog.text
    store.client.delete(store.keys.of("stream_recorder"))
    clock.advance(10)
    run_cycle(store, instance)
    left = recorded(store)
    assert facts_of(left[0])["lost_before"] == len(PUBLISHED_TABLES)
    assert {facts_of(one)["lost_before"] for one in left[1:]} == {0}
    assert len(rows_of(left, "raw_positions")) == 3


def test_a_symbol_without_a_result_is_named_when_that_changes(make_store, clock, instance):
    store = make_store()
    write_world(store)
    somebody_records(store)
    store.client.delete(store.keys.of("candles_history", SYMBOL))
    run_cycle(store, instance)
    left = rows_of(recorded(store), tape.WITHOUT_RESULT)
    assert left.filter(pl.col("asset") == "market_state").select("symbol", "state", "why").rows() == [
        (SYMBOL, "failed", "candles_missing"),
        *((symbol, "present", "") for symbol in ("ETHUSDT", "SOLUSDT")),
    ]
    assert (SYMBOL, "failed") in left.filter(pl.col("asset") == "risk_proposal").select("symbol", "state").rows()
    clock.advance(10)
    run_cycle(store, instance)
    assert not len(rows_of(recorded(store), tape.WITHOUT_RESULT))
    write_world(store)
    somebody_records(store)
    run_cycle(store, instance)
    back = rows_of(recorded(store), tape.WITHOUT_RESULT).filter(pl.col("symbol") == SYMBOL)
    assert set(back.select("state", "why").rows()) == {("present", "")}


def test_nothing_is_left_where_it_is_switched_off(make_store, instance):
    store = make_store(recorder=False)
    write_world(store)
    somebody_records(store)
    run_cycle(store, instance)
    assert not store.client.exists(store.keys.of("stream_recorder"))


def test_nothing_is_left_where_no_recorder_has_ever_reported(make_store, instance):
    """Plain Dagster has none, and Redis would fill with what nobody takes out."""
    store = make_store()
    write_world(store)
    run_cycle(store, instance)
    assert not store.client.exists(store.keys.of("stream_recorder"))


def test_no_secret_is_recorded(make_store, instance, valkey_url):
    """A password in an address, and one in a setting of its own."""
    secret = "pl4nted-s3cret"  # noqa: S105 - planted
    server = valkey_url.replace("redis://", f"redis://default:{secret}@")
    store = make_store(
        redis_url=valkey_url, redis_sentinel_password=secret, celery_broker_url=server, alert_urls=f"json://{secret}"
    )
    write_world(store)
    somebody_records(store)
    run_cycle(store, instance)
    (entries,) = [store.client.xrange(store.keys.of("stream_recorder"))]
    left = [records.read(pairs(fields)) for _, fields in entries]
    assert secret not in repr([fields for _, fields in entries])
    assert all(secret not in frame.write_csv() for one in left for frame in one.tables.values() if "settings" in one.tables)
    assert not any(secret in str(row) for one in left for frame in one.tables.values() for row in frame.iter_rows())


@pytest.mark.parametrize("digits", [3, 4, 6, 8])
def test_a_number_is_rounded_as_the_wire_rounds_it(digits):
    rng = np.random.default_rng(digits)
    ties = (np.arange(-500, 500) + 0.5) / 10**digits
    numbers = np.concatenate(
        [rng.normal(0, 1, 20_000), rng.normal(0, 1e-6, 2_000), ties, np.nextafter(ties, 9), [0.0, -0.0, 1e17, 1e300]]
    )
    again = tape.rounded(pl.Series([None, *numbers]), digits)
    assert again[0] is None
    assert again[1:].to_numpy().tobytes() == np.array([float(f"{one:.{digits}f}") for one in numbers]).tobytes()


@pytest.mark.parametrize("scored", [Scored("missing"), Scored("ok", 1000.0, 0.9, "shadow", "example", 1769083200.0)])
def test_a_target_is_laid_out_with_all_its_fields(scored):
    """A rerun builds it anew from these."""
    assert repr(scored.row()) == repr(asdict(scored))


def test_the_end_of_an_intent_is_recorded_as_redis_has_it(make_store, clock, instance):
    """It is no publication: an archive of intents alone shows each of them as actionable for ever."""
    store = make_store()
    write_world(store)
    somebody_records(store)
    closes = real_closes(SYMBOL)
    said = []
    for side in ("LONG", "LONG", "FLAT", "FLAT"):
        write_position(store, SYMBOL, side=side, entry=closes[-1], mark=closes[-1])
        run_cycle(store, instance)
        rows = rows_of(recorded(store), INTENT_DUE)
        said.append(rows.filter(pl.col("symbol") == SYMBOL)["due"].to_list() if rows.width else [])
        assert hash_of(store, "trade_intent_last", SYMBOL)["due"] == str(int([one for row in said for one in row][-1]))
        clock.advance(10)
    assert said == [[True], [], [False], []]


def test_a_reason_that_counts_is_recorded_once(make_store, clock, instance):
    """`candles_stale: 430 s > 420 s` and ten seconds later `440 s` are the same outage."""
    store = make_store()
    write_world(store)
    somebody_records(store)
    write_candles(store, SYMBOL, real_closes(SYMBOL), last_age_sec=4000)
    whys = []
    for _ in range(3):
        run_cycle(store, instance)
        rows = rows_of(recorded(store), tape.WITHOUT_RESULT)
        mine = rows.filter((pl.col("symbol") == SYMBOL) & (pl.col("asset") == "market_state")) if rows.width else rows
        whys += mine["why"].to_list() if mine.width else []
        clock.advance(10)
    assert [one.partition(":")[0] for one in whys] == ["candles_stale"]
