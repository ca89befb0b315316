"""What is read back of the archive is what was published, at the time it stood, and nothing else."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from quantum_core.contracts.tables import MARKET_STATE, RISK_PROPOSAL
from quantum_core.settings import load_settings
from resources.recorder.archive import Position
from resources.recorder.reading import Reader, archive_of, superseded
from tests.recorded import Tape
from tests.world import real_closes, write_candles, write_plan, write_position, write_world

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
MIDNIGHT = datetime(2026, 1, 23, tzinfo=UTC)


@pytest.fixture
def tape(store, instance) -> Tape:
    """A world about to run, a minute before midnight."""
    store.clock.now = MIDNIGHT - timedelta(seconds=60)
    write_world(store)
    return Tape(store, instance)


def go_on(tape: Tape, seconds: float, price: float) -> None:
    """Let time pass: a new candle, and every mark moved."""
    tape.store.clock.advance(seconds)
    for symbol in SYMBOLS:
        closes = [*real_closes(symbol)[1:], real_closes(symbol)[-1] * price]
        write_candles(tape.store, symbol, closes)
        write_position(tape.store, symbol, entry=closes[0] * 0.9, mark=closes[-1])


def test_a_value_stands_from_its_row_until_the_next_also_over_midnight(tape) -> None:
    first = tape.cycle()
    proposed = tape.store.read(RISK_PROPOSAL, ["BTCUSDT"])[0].value["proposed_sl"]
    go_on(tape, 90, 1.01)
    second = tape.cycle()
    later = tape.store.read(RISK_PROPOSAL, ["BTCUSDT"])[0].value["proposed_sl"]
    assert proposed != later

    reader = Reader(tape.archive)
    columns = [("risk_proposal", "proposed_sl"), ("position", "side")]
    whole = reader.standing(columns, "BTCUSDT", first, second)
    assert whole.rows() == [(first, proposed, "LONG"), (second, later, "LONG")]
    from_midnight = reader.standing(columns, "BTCUSDT", MIDNIGHT, second)
    assert from_midnight.rows() == [(MIDNIGHT, proposed, "LONG"), (second, later, "LONG")]
    assert reader.at(MIDNIGHT).rows["BTCUSDT"]["risk_proposal"]["proposed_sl"] == proposed
    assert reader.at(second).rows["BTCUSDT"]["risk_proposal"]["proposed_sl"] == later
    assert reader.at(first - timedelta(microseconds=1)).rows == {}


def test_the_state_at_a_moment_is_what_redis_held_then(tape) -> None:
    """Row for row, every symbol and every published field."""
    first = tape.cycle()
    held = {one.symbol: one.value for one in tape.store.read(MARKET_STATE, SYMBOLS)}
    go_on(tape, 90, 1.02)
    tape.cycle()
    moment = Reader(tape.archive).at(first + timedelta(seconds=10))
    fields = [name for name in MARKET_STATE.by_name if name != "cycle_id"]
    assert {
        symbol: {name: rows["market_state"][name] for name in fields} for symbol, rows in moment.rows.items()
    } == {symbol: {name: row[name] for name in fields} for symbol, row in held.items()}  # fmt: skip
    assert set(moment.rows) == {*SYMBOLS}
    assert moment.guard["symbol"] == "account"
    assert {symbol: row["close"] for symbol, row in moment.candles.items()} == {
        symbol: held[symbol]["close"] for symbol in SYMBOLS
    }
    assert {row["state"] for row in moment.positions.values()} == {"present"}


def test_a_window_that_was_read_whole_takes_the_place_of_what_was_read_before() -> None:
    """A replay gives all of its candles other times: drawn together they were a saw."""
    rows = [(1, 60, False), (1, 120, False), (2, 70, True), (2, 130, True), (3, 190, False)]
    frame = pl.DataFrame(rows, schema=["seq", "open_time_ms", "whole"], orient="row")
    assert superseded(frame).to_list() == [False, True, False, False, False]


def test_while_an_asset_has_no_result_nothing_stands(tape) -> None:
    """The last stop of a symbol whose candles went away an hour ago is no stop."""
    first = tape.cycle()
    lost = {"symbol": "BTCUSDT", "asset": "risk_proposal", "state": "failed", "why": "candles_stale: 430 s > 420 s"}
    tape.store.clock.advance(10)
    second = tape.cycle(without_result=[lost])
    tape.store.clock.advance(10)
    third = tape.cycle(without_result=[{**lost, "state": "present", "why": ""}])

    reader = Reader(tape.archive)
    stops = reader.standing([("risk_proposal", "proposed_sl")], "BTCUSDT", first, third)["risk_proposal.proposed_sl"].to_list()
    assert [stop is None for stop in stops] == [False, True, False]
    assert (
        reader.standing([("risk_proposal", "proposed_sl")], "ETHUSDT", first, third)["risk_proposal.proposed_sl"].null_count()
        == 0
    )
    assert reader.at(second).without["BTCUSDT"]["risk_proposal"]["why"].startswith("candles_stale")
    assert reader.at(third).without == {symbol: {} for symbol in SYMBOLS}
    assert reader.at(second).without["ETHUSDT"] == {}


def test_a_plan_is_open_until_it_is_decided_and_no_longer_than_it_may_be(tape) -> None:
    write_plan(tape.store, "p1", "BTCUSDT")
    decided = tape.cycle()
    reader = Reader(tape.archive)
    assert reader.open_plans(decided) == []
    assert [one["plan_id"] for one in reader.at(decided).decisions] == ["p1"]

    waits = {"plan_id": "p2", "symbol": "BTCUSDT", "action": "CLOSE", "entry_id": f"{int(decided.timestamp() * 1000)}-7"}
    tape.flush({"plans": pl.DataFrame([waits])}, decided.date())
    assert [one["plan_id"] for one in reader.at(decided).plans] == ["p2"]
    assert reader.open_plans(decided - timedelta(seconds=1)) == []
    assert reader.open_plans(decided + timedelta(hours=13)) == []


def test_a_switch_stands_however_long_ago_it_was_set(tape) -> None:
    """A kill switch of last month still blocks; a hash of last month is gone."""
    at = tape.cycle(switches=[{"name": "kill", "value": "set"}, {"name": "disarmed", "value": ""}])
    later = at + timedelta(days=40)
    tape.flush({"market_state": tape.stamped([{"symbol": "BTCUSDT", "sigma": 0.1}], later)}, later.date())
    moment = Reader(tape.archive).at(later)
    assert moment.switches == {"kill": "set", "disarmed": ""}
    assert list(moment.rows) == ["BTCUSDT"]
    assert set(moment.rows["BTCUSDT"]) == {"market_state"}
    assert moment.guard is None


def test_what_is_lost_is_named_near_the_moment_and_nowhere_else(tape) -> None:
    at = tape.cycle(gaps=[{"from_seq": 7, "to_seq": 9}])
    reader = Reader(tape.archive)
    assert [(gap["from_seq"], gap["to_seq"]) for gap in reader.at(at + timedelta(minutes=20)).gaps] == [(7, 9)]
    assert reader.at(at + timedelta(hours=2)).gaps == []


def test_a_gap_lasts_from_the_row_before_it_to_the_row_after_it(tape) -> None:
    """Within it what stands may not have stood: the picture shades it."""
    first = tape.cycle()
    tape.seq += 3
    tape.store.clock.advance(50)
    second = tape.cycle(gaps=[{"from_seq": 2, "to_seq": 4, "since": first}])
    assert Reader(tape.archive).gap_spans(first, second) == [(first, second)]
    within = first + timedelta(seconds=10)
    assert Reader(tape.archive).gap_spans(within, within) == [(first, second)]
    assert Reader(tape.archive).gap_spans(first - timedelta(hours=3), first - timedelta(hours=2)) == []


@pytest.mark.slow
def test_a_compacted_day_says_the_same_as_its_parts(tape) -> None:
    first = tape.cycle()
    go_on(tape, 90, 1.01)
    second = tape.cycle()
    columns = [("risk_proposal", "proposed_sl"), ("market_state", "sigma"), ("governor_permit", "eff_action")]
    before = Reader(tape.archive).standing(columns, "SOLUSDT", first, second)
    candles = Reader(tape.archive).candles("SOLUSDT", first - timedelta(hours=1), second)
    tape.archive.compact(first.date())
    assert Reader(tape.archive).standing(columns, "SOLUSDT", first, second).equals(before)
    assert Reader(tape.archive).candles("SOLUSDT", first - timedelta(hours=1), second).equals(candles)
    assert candles["close"][-1] == real_closes("SOLUSDT")[-1] * 1.01
    assert candles["open_time_ms"].is_sorted()


def test_a_damaged_file_is_left_out_and_named(tape) -> None:
    at = tape.cycle()
    (part,) = tape.archive.files("market_state", at.date())
    part.write_bytes(b"no parquet")
    reader = Reader(tape.archive)
    assert "market_state" not in reader.at(at).rows["BTCUSDT"]
    assert "risk_proposal" in reader.at(at).rows["BTCUSDT"]
    assert [one.file for one in reader.unreadable] == [str(part.relative_to(tape.archive.root))]


def test_an_archive_that_is_not_there_holds_nothing(tmp_path) -> None:
    reader = Reader(archive_of(load_settings(quantum_home=tmp_path)))
    assert reader.covered() is None
    assert reader.symbols() == []
    assert reader.standing([("position", "side")], "BTCUSDT", MIDNIGHT, MIDNIGHT).is_empty()
    assert reader.candles("BTCUSDT", MIDNIGHT, MIDNIGHT).is_empty()
    assert reader.at(MIDNIGHT).rows == {}


def test_what_was_taken_before_midnight_and_written_after_it_counts(tape) -> None:
    """A flush is written into the day it happens in, and the last one of a day into the next."""
    at = tape.cycle()
    late = tape.stamped([{"symbol": "BTCUSDT", "sigma": 0.25}], at + timedelta(seconds=59))
    tape.flush({"market_state": late}, at.date() + timedelta(days=1))
    reader = Reader(tape.archive)
    end = at + timedelta(seconds=59)
    assert reader.standing([("market_state", "sigma")], "BTCUSDT", at, end)["market_state.sigma"][-1] == 0.25
    assert reader.at(end).rows["BTCUSDT"]["market_state"]["sigma"] == 0.25
    assert reader.at(at + timedelta(seconds=58)).rows["BTCUSDT"]["market_state"]["sigma"] != 0.25


@pytest.mark.slow
def test_it_covers_the_time_from_the_first_row_to_the_last(tape) -> None:
    first = tape.cycle()
    go_on(tape, 90, 1.0)
    second = tape.cycle()
    assert Reader(tape.archive).covered() == (first, second)


def test_a_leg_shares_what_its_symbol_publishes(tmp_path) -> None:
    """The market state is under the symbol's own name; a stop is of the leg alone."""
    archive = archive_of(load_settings(quantum_home=tmp_path))
    stamps = {"seq": [1], "cycle_id": ["c"], "at": pl.Series([MIDNIGHT], dtype=pl.Datetime("us", "UTC"))}
    tables = {
        "market_state": pl.DataFrame({**stamps, "symbol": ["BTCUSDT"], "sigma": [0.1]}),
        "risk_proposal": pl.DataFrame({**stamps, "symbol": ["BTCUSDT.LONG"], "proposed_sl": [90.0]}),
    }
    archive.write(tables, Position(flush=1, seq=1, day="2026-01-23"))
    reader = Reader(archive)
    columns = [("market_state", "sigma"), ("risk_proposal", "proposed_sl")]
    assert reader.standing(columns, "BTCUSDT.LONG", MIDNIGHT, MIDNIGHT).rows() == [(MIDNIGHT, 0.1, 90.0)]
    assert reader.standing(columns, "BTCUSDT.SHORT", MIDNIGHT, MIDNIGHT).rows() == [(MIDNIGHT, 0.1, None)]
    assert set(reader.at(MIDNIGHT, ["BTCUSDT.LONG"]).rows["BTCUSDT.LONG"]) == {"market_state", "risk_proposal"}
