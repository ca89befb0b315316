"""Positions as others write them: every source in turn, every kind of nonsense named, and a failed read never "no position"."""

import json
from datetime import UTC, datetime

import pytest

from quantum_assets.position import position_frame
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import POSITION
from resources.inputs.candles import CandleReader
from resources.inputs.positions import PositionReader
from resources.store.publication import publish
from tests.world import write_candles, write_position

SYMBOL = "BTCUSDT"
FILL = {"symbol": SYMBOL, "side": "LONG", "quantity": "2", "entry_price": "100", "mark_price": "105"}


@pytest.fixture(params=["valkey_url", "redis_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Both servers."""
    return request.getfixturevalue(request.param)


def read_one(store):
    return PositionReader(store).read([SYMBOL])[0]


def write_hash(store, **fields: object) -> None:
    key = store.keys.of("raw_position", SYMBOL)
    store.client.delete(key)
    store.client.hset(key, mapping={name: str(value) for name, value in fields.items()})


def append(store, fields, stream: str = "stream_execution") -> None:
    store.client.xadd(store.keys.of(stream), fields)


def test_a_complete_hash_is_read_as_it_stands(store, clock):
    """The writer everybody has."""
    write_position(store, SYMBOL, peak_price=107.1, current_sl=98, age_sec=60, created_at="2026-01-22T11:00:00Z")
    found = read_one(store).value
    assert (found.side, found.entry_price, found.current_price, found.unrealized_pnl, found.qty) == ("LONG", 100, 105, 10, 2)
    assert (found.peak_price, found.trough_price, found.current_sl, found.leverage, found.age_sec) == (107.1, None, 98, 3, 60)
    assert found.opened_at_epoch == datetime(2026, 1, 22, 11, tzinfo=UTC).timestamp()
    assert (found.ts_epoch, found.position_source) == (clock.now.timestamp(), "redis_hash")


@pytest.mark.parametrize("side", ["", "BOTH", None])
@pytest.mark.parametrize(("amount", "expected", "pnl"), [("0.5", "LONG", 2.5), ("-0.5", "SHORT", -2.5)])
def test_in_one_way_mode_the_sign_of_the_amount_is_the_side(store, side, amount, expected, pnl):
    """Exchanges in one-way mode say BOTH and sign the amount; a profit that is not given is computed."""
    write_hash(store, entry_price=100, mark_price=105, position_amt=amount, **({} if side is None else {"side": side}))
    found = read_one(store).value
    assert (found.side, found.qty, found.unrealized_pnl) == (expected, 0.5, pnl)


@pytest.mark.parametrize(
    ("field", "value"), [("created_at", 1769080000), ("created_at", 1769080000000), ("opened_at", "2026-01-22T11:06:40")]
)
def test_opening_times_are_read_in_every_spelling(store, field, value):
    """Seconds, milliseconds and ISO 8601 without a zone are all in use."""
    write_position(store, SYMBOL, **{field: value})
    assert read_one(store).value.opened_at_epoch == 1769080000


@pytest.mark.parametrize(
    "fields",
    [{"side": "FLAT"}, {"side": "flat", "entry_price": "nan"}, {"side": "LONG", "position_amt": "0"}, {"quantity": "0.0"}],
)
def test_flat_is_no_position_and_no_error(store, fields):
    """The normal state of most symbols."""
    write_hash(store, **fields)
    append(store, FILL)  # an old fill must not bring a closed position back
    assert (read_one(store).state, read_one(store).reason) == (State.ABSENT, "flat")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"side": "SIDEWAYS"}, "side=SIDEWAYS"),
        ({"entry_price": "0"}, "entry_price=0"),
        ({"entry_price": "-1"}, "entry_price=-1"),
        ({"entry_price": ""}, "entry_price=(missing)"),
        ({"mark_price": "0"}, "mark_price=0"),
        ({"mark_price": "nan"}, "mark_price=nan"),
        ({"mark_price": "inf"}, "mark_price=inf"),
        ({"quantity": "many"}, "quantity=many"),
        ({"position_amt": "-2"}, "side=LONG position_amt=-2.0"),
        ({"symbol": "ETHUSDT"}, "symbol=ETHUSDT"),
        ({"position_amt": "0"}, "position_amt=0 quantity=2.0"),
        ({"side": "SHORT", "position_amt": "3"}, "side=SHORT position_amt=3.0"),
        ({"side": "FLAT"}, "side=FLAT quantity=2.0"),  # an update of the side alone, or of all the others
        ({"side": "flat", "quantity": "", "position_amt": "-3"}, "side=FLAT position_amt=-3"),
        ({"position_amt": "2", "quantity": "-2"}, "side=LONG quantity=-2.0"),
        ({"positionSide": "SHORT"}, "side=LONG positionSide=SHORT"),
        ({"posSide": "long", "side": "SHORT"}, "side=SHORT positionSide=LONG"),
        ({"positionSide": "up"}, "positionSide=up"),
        ({"entry_price": "1_00"}, "entry_price=1_00"),
        ({"entry_price": "\uff11\uff10\uff10"}, "entry_price=\uff11\uff10\uff10"),
    ],
)
def test_nonsense_is_refused_by_field_and_value(store, change, reason):
    """No proposal is better than one from a number nobody meant; the operator needs the field, not a stack trace."""
    write_position(store, SYMBOL)
    store.client.hset(store.keys.of("raw_position", SYMBOL), mapping=change)
    append(store, FILL)
    assert (read_one(store).state, read_one(store).reason) == (State.FAILED, f"position_invalid: {reason}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in ("leverage", "current_sl", "unrealized_pnl") for value in ("None", "N/A", "1,250.00", "nan")),
        *(("leverage", "20x"), ("leverage", "cross"), ("leverage", '{"type":"cross","value":20}'), ("age_sec", "00:12:00")),
        *(("peak_price", "-5"), ("created_at", "yesterday"), ("created_at", "12"), ("ts_epoch", "soon"), ("notional", "?")),
    ],
)
def test_what_no_stop_needs_is_ignored_and_named(store, field, value):
    """A leverage of `20x` cost the position its stop for hours."""
    write_position(store, SYMBOL, **{field: value})
    reading = read_one(store)
    assert (reading.state, reading.value.ignored) == (State.PRESENT, (f"{field}={value}",))
    assert reading.value.unrealized_pnl == 10
    assert (reading.value.ts_epoch is None) == (field == "ts_epoch")  # an unknown age opens nothing


@pytest.mark.parametrize("name", ["leverage", "note", "current_sl", "x\udcff"])
def test_bytes_that_are_no_text_cost_nothing_where_nobody_needs_them(store, name):
    """A note in Latin-1 took the stop away; what is needed is still refused by name."""
    write_position(store, SYMBOL)
    key = store.keys.of("raw_position", SYMBOL)
    store.client.hset(key, name.encode(errors="surrogateescape"), b"caf\xe9")
    reading = read_one(store)
    assert (reading.state, reading.value.current_sl) == (State.PRESENT, None)
    assert reading.value.ignored == ((f"{name}=caf\N{REPLACEMENT CHARACTER}",) if name in ("leverage", "current_sl") else ())
    store.client.hset(key, "side", b"LON\xc7")
    assert read_one(store).reason == "position_invalid: side=LON\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("fields", [{"side": "FLAT", "quantity": "None"}, {"side": "FLAT", "position_amt": "0", "qty": "-0.0"}])
def test_a_flat_row_without_a_size_is_flat(store, fields):
    """What is no size contradicts nothing."""
    write_hash(store, **fields)
    assert (read_one(store).state, read_one(store).reason) == (State.ABSENT, "flat")


@pytest.mark.parametrize(
    ("fields", "side"),
    [
        ({"positionSide": "SHORT", "position_amt": "2"}, "SHORT"),
        ({"positionSide": "SHORT", "position_amt": "-2"}, "SHORT"),
        ({"position_side": "long", "quantity": "2"}, "LONG"),
        ({"posSide": "net", "position_amt": "-2"}, "SHORT"),
        ({"side": "BOTH", "positionIdx": "2", "quantity": "2"}, "SHORT"),
    ],
)
def test_a_row_of_one_side_of_a_hedge_is_of_that_side(store, fields, side):
    """Its amount is not signed everywhere: a short read as a long has its stop on the wrong side."""
    write_hash(store, entry_price="100", mark_price="105", **fields)
    assert (read_one(store).value.side, read_one(store).value.qty) == (side, 2)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"testnet": "1"}, "testnet"), ({"isPaper": "true"}, "paper"), ({"dry_run": "yes"}, "dryrun"), ({"mode": "paper"}, "paper"),
        ({"env": "Sandbox"}, "sandbox"), ({"environment": "binance-demo"}, "binance-demo"), ({"source": "dry-run"}, "dry-run"),
        ({"testnet": "false"}, "redis_hash"), ({"paper": "0"}, "redis_hash"), ({"mode": "isolated"}, "redis_hash"),
        ({"env": "production"}, "redis_hash"), ({"test_id": "1"}, "redis_hash"),
    ],
)  # fmt: skip
def test_a_snapshot_that_says_in_other_fields_that_it_is_not_live_is_not(store, fields, label):
    """Paper trading has a field of its own with some writers; it opened on a live book."""
    write_position(store, SYMBOL, **fields)
    assert read_one(store).value.position_source == label


def test_zero_stops_and_peaks_mean_none(store):
    """Several writers spell "none" as 0."""
    write_position(store, SYMBOL, current_sl=0, current_tp="0.0", peak_price="", trough_price=0)
    found = read_one(store).value
    assert (found.current_sl, found.current_tp, found.peak_price, found.trough_price) == (None, None, None, None)


def test_a_hash_that_cannot_be_read_never_falls_through(make_store):
    """The incident this reader exists for: a broken read that looked like a flat book, then like an invented position."""
    store = make_store(allow_synthetic=True)
    store.client.set(store.keys.of("raw_position", SYMBOL), "x")
    append(store, FILL)
    reading = read_one(store)
    assert reading.state is State.FAILED
    assert reading.reason.startswith("position_unreadable: quantum:state:positions:BTCUSDT: WRONGTYPE")


def test_a_stream_that_cannot_be_read_fails_only_those_who_need_it(store):
    """Its newest snapshot might be of any of them."""
    store.client.set(store.keys.of("stream_execution_result"), "x")
    write_position(store, SYMBOL)
    held, unknown = PositionReader(store).read([SYMBOL, "ETHUSDT"])
    assert held.state is State.PRESENT
    assert (unknown.state, unknown.reason[:20]) == (State.FAILED, "position_unreadable:")


def test_without_a_hash_the_newest_snapshot_of_both_streams_counts(store):
    """Flat fields or a JSON payload; plain fills and other symbols in between are passed over."""
    append(store, FILL)
    append(
        store,
        {"payload": json.dumps({"symbol": SYMBOL, "side": "SHORT", "entry_price": 90, "mark_price": 95})},
        "stream_execution_result",
    )
    append(store, {"symbol": SYMBOL, "pnl_usd": "12.5", "side": "SELL"})
    append(store, {**FILL, "symbol": "ETHUSDT"})
    found = read_one(store).value
    assert (found.side, found.entry_price, found.position_source) == ("SHORT", 90, "redis_stream")
    assert found.ts_epoch is not None


def test_nothing_anywhere_is_no_position(store):
    """And certainly not an invented one."""
    assert (read_one(store).state, read_one(store).reason) == (State.ABSENT, "no_position")


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        ({"position_source": "auto", "allow_synthetic": True}, "synthetic"),
        ({"position_source": "auto"}, None),
        ({"position_source": "synthetic"}, "synthetic"),
        ({"position_source": "redis_hash", "allow_synthetic": True}, None),
        ({"position_source": "redis_stream", "allow_synthetic": True}, None),
    ],
)
def test_a_position_is_invented_only_when_asked_for_and_says_so(make_store, settings, source):
    """The old publisher invented positions in production."""
    reading = read_one(make_store(**settings))
    assert (reading.value.position_source if reading.value else None) == source


def test_the_synthetic_position_is_the_published_one(make_store):
    """Proofs and documents quote its numbers."""
    btc, sol = (one.value for one in PositionReader(make_store(position_source="synthetic")).read([SYMBOL, "SOLUSDT"]))
    assert (btc.side, btc.entry_price, sol.entry_price, btc.age_sec) == ("LONG", 100, 50, 3600)
    numbers = (btc.current_price, btc.peak_price, btc.trough_price, btc.unrealized_pnl, btc.current_sl, btc.current_tp)
    assert numbers == pytest.approx((105, 106, 98, 5, 98, 110), rel=1e-12)


@pytest.mark.parametrize(("position_source", "expected"), [("redis_hash", 100), ("redis_stream", 90)])
def test_a_named_source_is_the_only_one(make_store, position_source, expected):
    """An operator who names a source wants no other."""
    store = make_store(position_source=position_source)
    write_position(store, SYMBOL)
    append(store, {**FILL, "entry_price": "90"})
    assert read_one(store).value.entry_price == expected


@pytest.mark.parametrize("field", ["source", "position_source"])
@pytest.mark.parametrize("label", ["example", "synthetic", "replay", "Replay ", "paper_trading"])
def test_a_snapshot_that_says_it_is_not_live_keeps_its_label(store, field, label):
    """No permit may come of it unnoticed."""
    write_position(store, SYMBOL, **{"source": "exchange", "position_source": "exchange", field: label})
    assert read_one(store).value.position_source == label.strip().lower()


def test_a_short_with_a_positive_amount_is_believed_when_it_is_the_quantity(store):
    """Some writers copy the size into the signed field."""
    write_position(store, SYMBOL, side="SHORT", position_amt=2)
    assert (read_one(store).value.side, read_one(store).value.qty) == ("SHORT", 2)


@pytest.mark.parametrize("factor", [1, 1_000, 1_000_000])
def test_the_clock_of_a_snapshot_is_read_in_every_unit(store, clock, factor):
    """Microseconds taken for milliseconds lie in the far future."""
    write_position(store, SYMBOL, ts_epoch=int(clock.now.timestamp()) * factor)
    assert read_one(store).value.ts_epoch == clock.now.timestamp()


@pytest.mark.parametrize("payload", ["{", "[1]", '{"side": "\\ud800", "symbol": "BTCUSDT"}', "[" * 100_000])
def test_a_broken_newest_stream_entry_fails_its_symbol(store, payload):
    """It may have been the close of the position; the older snapshot must not stand in for it."""
    append(store, FILL)
    append(store, {**FILL, "symbol": "ETHUSDT"})
    append(store, {"symbol": SYMBOL, "payload": payload})
    broken, fine = PositionReader(store).read([SYMBOL, "ETHUSDT"])
    assert broken.state is State.FAILED
    assert broken.reason.startswith("position_unreadable: quantum:stream:execution entry ")
    assert fine.state is State.PRESENT
    append(store, FILL)
    assert read_one(store).state is State.PRESENT


@pytest.mark.parametrize("settings", [{}, {"allow_synthetic": True}])
def test_a_broken_entry_of_nobody_fails_those_of_whom_nothing_else_is_known(make_store, settings):
    """It may have been anybody's position: neither "no position" nor an invented one may take its place."""
    store = make_store(**settings)
    append(store, {"payload": "{"})
    append(store, {**FILL, "symbol": "ETHUSDT"})
    write_position(store, "SOLUSDT")
    unknown, streamed, hashed = PositionReader(store).read([SYMBOL, "ETHUSDT", "SOLUSDT"])
    assert unknown.state is State.FAILED
    assert "quantum:stream:execution entry " in unknown.reason
    assert (streamed.state, hashed.state) == (State.PRESENT, State.PRESENT)


def test_numbers_json_does_not_know_are_named(store):
    """Python writers print NaN into their payloads."""
    append(store, {"payload": json.dumps({**FILL, "mark_price": float("nan")})})
    assert read_one(store).reason == "position_invalid: mark_price=nan"


def tracked(store):
    """Evaluate the asset once and keep its rows, as the IO manager does."""
    frame = position_frame([SYMBOL], store=store, candle_reader=CandleReader(store), position_reader=PositionReader(store))
    publish(store, POSITION, [row for row in frame.to_dicts() if row["state"] == State.PRESENT], cycle_id="t")
    return frame.to_dicts()[0]


def test_a_closed_position_leaves_nothing_to_the_next_one(store):
    """Same side, same entry, another position: an inherited peak would stop it out at once."""
    write_position(store, SYMBOL, peak_price=140)
    assert tracked(store)["peak_price"] == 140
    write_hash(store, side="FLAT")
    assert (tracked(store)["state"], tracked(store)["why"]) == (State.ABSENT, "flat")
    assert not store.client.exists(store.keys.of("position", SYMBOL))
    write_position(store, SYMBOL)
    assert tracked(store)["peak_price"] == 105


def test_kept_state_that_cannot_be_read_is_never_started_anew(store):
    """Starting anew would forget the peak and loosen the stop."""
    store.client.set(store.keys.of("position", SYMBOL), "x")
    write_position(store, SYMBOL)
    row = tracked(store)
    assert row["state"] == State.FAILED
    assert row["why"].startswith("position_unreadable: quantum:position:tracked:BTCUSDT")


def test_a_position_is_tracked_from_its_mark_while_candles_cannot_be_read(store):
    """The candle feed being down is no reason to lose a peak."""
    store.client.set(store.keys.of("candles_zset", SYMBOL), "x")
    for mark in (105.0, 108.0, 104.0):
        write_position(store, SYMBOL, mark=mark)
        row = tracked(store)
    assert (row["peak_price"], row["current_price"], row["trough_price"]) == (108, 104, 104)


def test_candles_between_two_evaluations_move_the_peak(store, clock):
    """What happened between two marks is in the candles."""
    write_candles(store, SYMBOL, [104.0] * 5)
    write_position(store, SYMBOL, created_at=clock.now.timestamp() - 3600)
    assert tracked(store)["peak_price"] == 105
    clock.advance(120)
    write_candles(store, SYMBOL, [104.0] * 5 + [109.0, 104.0])
    assert tracked(store)["peak_price"] == 109
