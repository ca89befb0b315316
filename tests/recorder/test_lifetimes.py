"""What stood while nobody evaluated: nothing, once its lifetime was over; and since when a result was missing."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from quantum_assets.replay.rerun import rerun
from quantum_assets.shared.charts import past_figure, rows_of_labels
from quantum_core.settings import load_settings
from quantum_ops.cli.history.look_back import past_of
from resources.recorder.archive import Archive, Position
from resources.recorder.lifetimes import code_of, ended_spans, with_endings, without_repeats
from resources.recorder.reading import Reader, archive_of
from tests.commands import run_command
from tests.recorder.recording import archived, somebody_records
from tests.world import hash_of, real_closes, run_cycle, write_position, write_world

OFF = datetime(2026, 1, 22, 12, 0, 40, tzinfo=UTC)  # the last cycle before the product was off
ON = datetime(2026, 1, 22, 12, 6, tzinfo=UTC)
CYCLES = [OFF - timedelta(seconds=10 * back) for back in (4, 3, 2, 1, 0)] + [ON, ON + timedelta(seconds=10)]
ASSETS = ("market_state", "position", "risk_proposal", "harvest_proposal", "trade_intent")
TIME = pl.Datetime("us", "UTC")


def stamped(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col("at").cast(TIME))


def row(at: datetime, seq: int, **more: object) -> dict[str, object]:
    return {"seq": seq, "cycle_id": f"c{seq}", "at": at, "symbol": "BTCUSDT", **more}


@pytest.fixture
def archive(tmp_path) -> Archive:
    """Five cycles, five minutes without any, two cycles; a stop that was published once and evaluated in each."""
    archive = archive_of(load_settings(quantum_home=tmp_path))
    steps = [
        {"seq": 10 * number + place, "at": at, "asset": asset, "slot": "BTCUSDT", "cycle_id": f"c{number}", "run_id": "r",
         "facts": json.dumps({"symbols": "BTCUSDT"}), "full": False}
        for number, at in enumerate(CYCLES)
        for place, asset in enumerate(ASSETS)
    ]  # fmt: skip
    first, back = CYCLES[0], CYCLES[-2]
    published = {
        "market_state": [row(first, 1, cause="first", p_trend=0.6, p_mr=0.2, p_chop=0.2, sigma=0.1)],
        "position": [row(at, 1, cause="unchanged", side="LONG", current_price=97.0) for at in CYCLES],
        "risk_proposal": [row(first, 1, cause="first", proposed_sl=90.0), row(back, 51, cause="changed", proposed_sl=91.0)],
        "trade_intent": [row(first, 1, cause="first", due=True, intent_id="i1", harvest_action="CLOSE")],
        "intent_due": [row(first, 1, due=True), row(CYCLES[2], 21, due=False)],
        "settings": [row(first, 1, value='["BTCUSDT"]') | {"symbol": "symbols"}],
        "without_result": [
            row(at, number, asset="harvest_proposal", state=state, why=why)
            for number, (at, state, why) in enumerate(
                [
                    (first, "present", ""),
                    *((at, "failed", f"candles_stale: {700 + number} s > 420 s") for number, at in enumerate(CYCLES[1:4])),
                    (CYCLES[4], "failed", "too_few_candles: 3"),
                    (ON, "present", ""),
                ]
            )
        ],
    }
    tables = {"records": stamped(steps)} | {name: stamped(rows) for name, rows in published.items()}
    archive.write(tables, Position(flush=1, seq=70, day="2026-01-22"))
    return archive


def quantum(archive: Archive, *arguments: str, columns: str = "200") -> "tuple[str, str]":
    environment = {"QUANTUM_HOME": str(archive.root.parent), "COLUMNS": columns}
    done = run_command(*arguments, environment=environment)
    return done.stdout, done.stderr


def test_a_stop_does_not_stand_when_its_lifetime_is_over_and_nobody_has_evaluated_it(archive) -> None:
    reader = Reader(archive)
    while_up, in_ttl, over = (reader.at(one) for one in (OFF, OFF + timedelta(seconds=99), OFF + timedelta(seconds=101)))
    assert while_up.expired == {}
    assert "risk_proposal" not in in_ttl.expired["BTCUSDT"]
    assert over.expired["BTCUSDT"]["risk_proposal"] == {"evaluated_at": OFF, "lifetime_sec": 100.0}
    assert "market_state" not in over.expired["BTCUSDT"]
    assert over.rows["BTCUSDT"]["risk_proposal"]["proposed_sl"] == 90.0  # what was published last is not taken away
    assert reader.at(ON).expired == {}


def test_values_over_time_end_with_their_lifetime(archive) -> None:
    columns = [("risk_proposal", "proposed_sl"), ("market_state", "sigma")]
    rows = Reader(archive).standing(columns, "BTCUSDT", CYCLES[0], ON).rows()
    assert (OFF + timedelta(seconds=100), None, 0.1) in rows
    assert rows[-1] == (ON, 91.0, 0.1)
    assert rows[0] == (CYCLES[0], 90.0, 0.1)


def test_days_later_nothing_of_it_stands(archive) -> None:
    """Nor when the last record is older than what is searched for evaluations."""
    later = datetime(2026, 1, 24, 23, 0, tzinfo=UTC)
    state = Reader(archive).at(later, ["BTCUSDT"])
    assert (
        set(state.rows["BTCUSDT"])
        == set(state.expired["BTCUSDT"])
        == {"market_state", "position", "risk_proposal", "trade_intent"}
    )
    assert state.silence == {"after": CYCLES[-1]}


def test_of_what_may_not_be_written_yet_nothing_is_claimed(archive) -> None:
    """A deployment that runs, looked at between two flushes, is not one that stands still."""
    last = CYCLES[-1]
    soon, late = last + timedelta(seconds=100 + 60), last + timedelta(seconds=100 + 80)
    reader = Reader(archive)
    assert "risk_proposal" not in reader.at(soon).expired["BTCUSDT"]
    assert "risk_proposal" in reader.at(late).expired["BTCUSDT"]
    assert reader.at(last + timedelta(seconds=120)).silence == {}
    assert reader.at(last + timedelta(seconds=140)).silence == {"after": last}
    ends = {
        until: reader.standing([("risk_proposal", "proposed_sl")], "BTCUSDT", ON, until).rows()[-1][1] for until in (soon, late)
    }
    assert ends == {soon: 91.0, late: None}
    assert reader.silences(ON, last + timedelta(seconds=120)) == []


def test_another_symbols_evaluations_do_not_let_a_row_live(archive) -> None:
    """A shard that stands still is not covered by the one beside it."""
    step = {"seq": 99, "at": OFF + timedelta(seconds=95), "asset": "risk_proposal", "slot": "X", "cycle_id": "x", "run_id": "r",
            "facts": json.dumps({"symbols": "ETHUSDT"}), "full": False}  # fmt: skip
    both = row(CYCLES[0], 2, value='["BTCUSDT", "ETHUSDT"]') | {"symbol": "symbols"}
    archive.write({"records": stamped([step]), "settings": stamped([both])}, Position(flush=2, seq=99, day="2026-01-22"))
    over = Reader(archive).at(OFF + timedelta(seconds=101))
    assert over.expired["BTCUSDT"]["risk_proposal"]["evaluated_at"] == OFF


def test_a_time_without_any_record_is_named_at_the_head_and_below_the_rows(archive) -> None:
    within = OFF + timedelta(seconds=120)
    assert Reader(archive).at(within).silence == {"after": OFF, "until": ON}
    assert Reader(archive).at(CYCLES[1] + timedelta(seconds=5)).silence == {}
    said = "Nothing was recorded between 2026-01-22 12:00:40 and 12:06:00 UTC"
    shown, _ = quantum(archive, "at", within.isoformat(), "--symbols", "BTCUSDT")
    assert said in shown.splitlines()[1]
    assert "no evaluation is recorded since 12:00:40 (lifetime of 100 s over)" in shown
    assert "90" not in shown
    _, notes = quantum(archive, "history", "BTCUSDT", "--from", "2026-01-22T12:00", "--to", "2026-01-22T12:06:05")
    assert said in notes
    as_json = json.loads(quantum(archive, "at", within.isoformat(), "--json")[0])
    assert as_json["silence"]["until"] == ON.isoformat()
    assert as_json["expired"]["BTCUSDT"]["risk_proposal"]["lifetime_sec"] == 100.0


def test_an_intent_that_has_ended_is_none(archive) -> None:
    reader = Reader(archive)
    assert reader.at(CYCLES[1]).rows["BTCUSDT"]["trade_intent"]["due"] is True
    ended = reader.at(CYCLES[3])
    assert ended.rows["BTCUSDT"]["trade_intent"]["due"] is False
    lost = ended.without["BTCUSDT"]["trade_intent"]
    assert (lost["state"], lost["why"], lost["at"]) == ("absent", "no_trade_intent", CYCLES[2])
    due = reader.standing([("trade_intent", "due")], "BTCUSDT", CYCLES[0], CYCLES[3])["trade_intent.due"].to_list()
    assert (due[0], due[-1]) == (True, False)
    rows = reader.intents(CYCLES[0], CYCLES[3], ["BTCUSDT"]).select("at", "cause", "due", "intent_id").rows()
    assert rows == [(CYCLES[0], "first", True, "i1"), (CYCLES[2], "nothing due", False, "i1")]


def test_what_cycles_have_recorded_says_of_each_moment_what_redis_said_and_is_computed_again(
    make_store, instance, clock, tmp_path
) -> None:
    """From the step that records, over the archive, to whom it is shown."""
    store = make_store()
    write_world(store)
    somebody_records(store)
    close = real_closes("BTCUSDT")[-1]
    held = []
    for side in ("LONG", "FLAT", "FLAT"):
        write_position(store, "BTCUSDT", side=side, entry=close, mark=close)
        run_cycle(store, instance)
        held.append((clock(), hash_of(store, "trade_intent_last", "BTCUSDT")["due"] == "1"))
        clock.advance(10)
    archive = archived(store, tmp_path)
    moments = [Reader(archive).at(at) for at, _ in held]
    assert [one.rows["BTCUSDT"]["trade_intent"]["due"] for one in moments] == [due for _, due in held] == [True, False, False]
    assert [one.without["BTCUSDT"].get("trade_intent", {}).get("at") for one in moments] == [None, held[1][0], held[1][0]]
    assert all(one.expired == {} for one in moments)
    outcome = rerun(archive, held[0][0], clock())
    assert outcome.rows
    assert outcome.differing == 0


def test_an_archive_that_does_not_say_when_intents_ended_is_read_and_says_so(archive) -> None:
    for path in archive.files("intent_due", OFF.date()):
        path.unlink()
    state = Reader(archive).at(OFF)
    assert state.rows["BTCUSDT"]["trade_intent"]["due"] is True
    assert not state.ends_known
    assert "this version did not record" in quantum(archive, "at", OFF.isoformat())[0]


def test_a_result_is_missing_since_it_is_missing_whatever_its_reason_counts(archive) -> None:
    lost = Reader(archive).at(CYCLES[3]).without["BTCUSDT"]["harvest_proposal"]
    assert (lost["at"], lost["why"]) == (CYCLES[1], "candles_stale: 702 s > 420 s")
    shown, _ = quantum(
        archive, "history", "BTCUSDT", "--asset", "without_result", "--from", "2026-01-22T12:00", "--to", ON.isoformat()
    )
    assert [shown.count(one) for one in ("candles_stale", "too_few_candles", "present")] == [1, 1, 2]


def test_more_than_the_archive_has_is_asked_for_and_that_is_said(archive) -> None:
    _, notes = quantum(archive, "history", "BTCUSDT", "--from", "2026-01-22T12:00", "--to", "2026-01-22T12:30")
    assert "The archive reaches until 2026-01-22 12:06:10 UTC; nothing later is recorded." in notes
    _, none = quantum(archive, "history", "BTCUSDT", "--from", "2026-01-22T12:00", "--to", "2026-01-22T12:06:10")
    assert "The archive reaches" not in none


def test_a_gap_is_said_in_words_of_a_time_it_touches_and_of_no_other(archive) -> None:
    gap = {
        "from_seq": 2718,
        "to_seq": 3020,
        "from_entry": "1-0",
        "to_entry": "2-0",
        "what": "taken out of Redis before they were read",
    }
    lost = stamped([{**gap, "since": CYCLES[1], "at": CYCLES[3]}]).with_columns(pl.col("since").cast(TIME))
    archive.write({"gaps": lost}, Position(flush=2, seq=70, day="2026-01-22"))
    said = "between 2026-01-22 12:00:10 and 12:00:30 UTC, 303 records, taken out of Redis before they were read"
    assert said in quantum(archive, "at", CYCLES[2].isoformat())[0]
    assert "Not recorded" not in quantum(archive, "at", OFF.isoformat())[0]
    when = ("--from", CYCLES[2].isoformat(), "--to", (CYCLES[2] + timedelta(seconds=1)).isoformat())
    shown, notes = quantum(archive, "history", "BTCUSDT", "--asset", "gaps", *when)
    assert "303" in shown
    assert said in notes
    assert (
        "No record is known to be lost"
        in quantum(archive, "history", "BTCUSDT", "--asset", "gaps", "--from", ON.isoformat(), "--to", CYCLES[-1].isoformat())[1]
    )


def candle(seq: int, at: datetime, close: float, *, opened: datetime, source: str) -> dict[str, object]:
    prices = {"high": close, "low": close, "close": close, "volume": 1.0}
    opened_ms = int(opened.timestamp() * 1000)
    return row(at, seq, open_time_ms=opened_ms, source=source, key="k", whole=source == "replay", **prices)


def test_a_replayed_price_is_drawn_when_it_was_read(archive) -> None:
    """The times of its candles are made up at each reading, a minute before it: a stop looked crossed for minutes."""
    windows = [
        candle(seq, at, 100.0 - seq + back, opened=at - timedelta(minutes=1 + back), source="replay")
        for seq, at in ((1, CYCLES[0]), (2, CYCLES[1]), (3, CYCLES[3]))
        for back in (2, 1, 0)
    ]
    archive.write({"candles": stamped(windows)}, Position(flush=2, seq=70, day="2026-01-22"))
    past = past_of(Reader(archive), "BTCUSDT", CYCLES[1] + timedelta(seconds=1), OFF)
    assert past.as_read
    assert list(zip(seconds_of(past.times), past.closes, strict=True)) == [(-29.0, 98.0), (-10.0, 97.0)]


def test_a_candle_of_a_market_is_drawn_when_it_closed(archive) -> None:
    rows = [candle(1, OFF, 99.0 + back, opened=OFF - timedelta(minutes=back), source="candles") for back in (3, 2, 1)]
    archive.write({"candles": stamped(rows)}, Position(flush=2, seq=70, day="2026-01-22"))
    past = past_of(Reader(archive), "BTCUSDT", OFF - timedelta(minutes=2), OFF)
    assert not past.as_read
    assert list(zip(seconds_of(past.times), past.closes, strict=True)) == [(-120.0, 102.0), (-60.0, 101.0), (0.0, 100.0)]


def test_the_picture_is_broken_and_grey_while_nothing_was_recorded(archive) -> None:
    past = past_of(Reader(archive), "BTCUSDT", CYCLES[0], ON + timedelta(seconds=10))
    (gap,) = past.gaps
    assert seconds_of(gap) == [0.0, (ON - OFF).total_seconds()]
    times, stops = past.levels["stop"]
    within = [(at, stop) for at, stop in zip(seconds_of(times), stops, strict=True) if 0 < at < (ON - OFF).total_seconds()]
    assert within
    assert all(stop != stop for _, stop in within)
    assert stops[-1] == 91.0
    labels = [text.get_text() for text in past_figure(past).legends[0].get_texts()]
    assert labels[-2:] == ["no market state", "not recorded"]


def test_labels_stand_beside_each_other_and_never_over() -> None:
    """OPEN_LONG a second before PARTIAL_25: the lower row, the upper one, and no room for a third."""
    assert rows_of_labels([100.0, 103.0, 106.0, 400.0], ["OPEN_LONG", "PARTIAL_25", "CLOSE", "CLOSE"]) == {0: 0, 1: 1, 3: 0}


def seconds_of(times: object) -> list[float]:
    """Give times of a picture in seconds since the last cycle before the product was off."""
    epoch_ms = OFF.timestamp() * 1000
    return [(int(one.astype("int64")) - epoch_ms) / 1000 for one in times]


def test_lines_of_an_alert_are_no_question_marks(archive) -> None:
    entry = {"entry_id": f"{int(OFF.timestamp() * 1000)}-0", "title": "stale", "text": "first line\nsecond line"}
    archive.write({"alerts": pl.DataFrame([entry])}, Position(flush=2, seq=70, day="2026-01-22"))
    when = ("--from", "2026-01-22T12:00", "--to", "2026-01-22T12:01", "--columns", "text")
    assert "first line; second line" in quantum(archive, "history", "BTCUSDT", "--asset", "alerts", *when)[0]


@pytest.mark.parametrize(
    ("why", "code"),
    [("candles_stale: 750 s > 420 s", "candles_stale"), ("too_few_candles 12 of 200", "too_few_candles"), ("flat", "flat"),
     ("", ""), (None, ""), ("429", "")],
)  # fmt: skip
def test_the_code_of_a_reason_is_what_stands_before_its_numbers(why, code) -> None:
    assert code_of(why) == code


def test_repeats_are_those_of_the_same_symbol_and_asset() -> None:
    said = [("A", "x", "failed", "old: 1"), ("B", "x", "failed", "old: 1"), ("A", "x", "failed", "old: 2"), ("A", "y", "failed", "old: 2"),
            ("A", "x", "present", ""), ("A", "x", "failed", "old: 3")]  # fmt: skip
    frame = pl.DataFrame(said, schema=["symbol", "asset", "state", "why"], orient="row")
    assert without_repeats(frame).rows() == [said[0], said[1], said[3], said[4], said[5]]


def test_a_lifetime_ends_where_no_evaluation_follows_in_time() -> None:
    at = [OFF + timedelta(seconds=one) for one in (0, 50, 300, 330)]
    spans = ended_spans(at, timedelta(seconds=100), OFF + timedelta(seconds=1000))
    assert [tuple((one - OFF).total_seconds() for one in span) for span in spans] == [(150, 300), (430, 1000)]
    assert ended_spans([], timedelta(seconds=100), OFF) == []


def test_an_intent_that_is_due_again_without_a_new_one_is_said() -> None:
    intents = stamped([row(CYCLES[0], 1, cause="first", due=True, intent_id="i1")])
    due = stamped([row(CYCLES[number], number, due=said) for number, said in ((0, True), (1, False), (2, False), (3, True))])
    assert with_endings(intents, due).select("cause", "due").rows() == [
        ("first", True),
        ("nothing due", False),
        ("due again", True),
    ]
