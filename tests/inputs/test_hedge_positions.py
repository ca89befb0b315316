"""Positions of a hedged symbol: each leg from its own key, from the one hash of the symbol, or from the streams."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_assets.position import position_frame
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import POSITION
from resources.inputs.candles import CandleReader
from resources.inputs.position_parsing import leg_fields, parse_position
from resources.inputs.position_snapshots import Flat, InvalidPositionError, RawPosition
from resources.inputs.positions import PositionReader
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from tests.world import FIELD_PASSES, write_position

LONG, SHORT = LEGS = ("BTCUSDT.LONG", "BTCUSDT.SHORT")
SHARED = "quantum:state:positions:BTCUSDT"
ROW = {"symbol": "BTCUSDT", "entry_price": "100", "mark_price": "105"}


@pytest.fixture
def hedged(make_store) -> RedisStore:
    """One symbol in hedge mode beside one that is not."""
    return make_store(symbols="BTCUSDT,ETHUSDT", hedge_symbols="BTCUSDT")


def show(store: RedisStore, **fields: object) -> None:
    """Replace the one hash of the symbol."""
    store.client.delete(SHARED)
    store.client.hset(SHARED, mapping={"ts_epoch": store.clock().timestamp(), **ROW, **fields})


def told(store: RedisStore) -> dict[str, str]:
    """Say in a word what is known of each leg: its side and size, flat, or why nothing is."""
    words = {}
    for one in PositionReader(store).snapshots(LEGS):
        value = one.value
        words[one.symbol] = (
            "FLAT" if isinstance(value, Flat) else f"{value.side} {value.qty}" if value is not None else one.reason
        )
    return words


def track(store: RedisStore) -> dict[str, dict[str, object]]:
    """Evaluate the asset once and keep its rows, as the IO manager does."""
    frame = position_frame(LEGS, store=store, candle_reader=CandleReader(store), position_reader=PositionReader(store))
    rows = {row["symbol"]: row for row in frame.to_dicts()}
    publish(store, POSITION, [row for row in rows.values() if row["state"] == State.PRESENT], cycle_id="t")
    return rows


def test_each_leg_has_a_key_of_its_own(hedged) -> None:
    """The layout of a writer that knows hedge mode; its symbol is the exchange's, or the leg's name."""
    write_position(hedged, LONG, side="LONG")
    hedged.client.hset(f"{SHARED}:LONG", "symbol", "BTCUSDT")
    write_position(hedged, SHORT, side="BOTH", quantity=3, positionSide="SHORT")
    assert hedged.client.exists(f"{SHARED}:LONG", f"{SHARED}:SHORT") == 2
    assert told(hedged) == {LONG: "LONG 2.0", SHORT: "SHORT 3.0"}
    hedged.client.hset(f"{SHARED}:LONG", mapping={"side": "SHORT"})
    assert told(hedged)[LONG] == "position_invalid: positionSide=(missing) side=SHORT"
    hedged.client.hset(f"{SHARED}:LONG", mapping={"side": "FLAT", "quantity": 0})
    assert told(hedged) == {LONG: "FLAT", SHORT: "SHORT 3.0"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"positionSide": "LONG", "position_amt": 0.5}, {LONG: "LONG 0.5", SHORT: "no_position"}),
        ({"positionSide": "SHORT", "position_amt": -0.5}, {LONG: "no_position", SHORT: "SHORT 0.5"}),
        ({"side": "SHORT", "quantity": 0.5}, {LONG: "no_position", SHORT: "SHORT 0.5"}),
        ({"positionSide": "SHORT", "side": "FLAT"}, {LONG: "no_position", SHORT: "FLAT"}),
        ({"positionSide": "LONG", "position_amt": 0, "entry_price": 0}, {LONG: "FLAT", SHORT: "no_position"}),
        ({"positionSide": "BOTH", "position_amt": 0}, dict.fromkeys(LEGS, "no_position")),
        ({"positionSide": "BOTH", "position_amt": 1}, dict.fromkeys(LEGS, "position_invalid: positionSide=BOTH side=(missing)")),
        ({"position_amt": 1}, dict.fromkeys(LEGS, "position_invalid: positionSide=(missing) side=(missing)")),
        ({"side": "FLAT"}, dict.fromkeys(LEGS, "position_invalid: positionSide=(missing) side=FLAT")),
        ({"positionSide": "LONG", "side": "SHORT"}, dict.fromkeys(LEGS, "position_invalid: positionSide=LONG side=SHORT")),
        ({"positionSide": "UP", "quantity": 1}, dict.fromkeys(LEGS, "position_invalid: positionSide=UP")),
        ({"symbol": "ETHUSDT", "side": "LONG"}, dict.fromkeys(LEGS, "position_invalid: symbol=ETHUSDT")),
    ],
)
def test_the_one_hash_of_a_symbol_belongs_to_the_leg_it_names(hedged, fields, expected) -> None:
    """Where it names none, both legs are unreadable: neither may pass for flat."""
    show(hedged, **fields)
    assert told(hedged) == expected


def test_a_hash_that_cannot_be_read_fails_both_legs_unless_they_have_keys_of_their_own(hedged) -> None:
    hedged.client.set(SHARED, "x")
    write_position(hedged, SHORT, side="SHORT")
    found = told(hedged)
    assert found[LONG].startswith("position_unreadable: ")
    assert found[SHORT] == "SHORT 2.0"


def test_stream_entries_belong_to_the_leg_they_name(hedged) -> None:
    """The newest of each leg; an entry that names none may be about either."""
    append = hedged.client.xadd
    append("quantum:stream:execution", {**ROW, "positionSide": "LONG", "quantity": "1"})
    append("quantum:stream:execution", {"payload": json.dumps({**ROW, "positionSide": "SHORT", "quantity": 2})})
    append("quantum:stream:execution", {**ROW, "symbol": LONG, "quantity": "3"})
    append("quantum:stream:execution", {**ROW, "positionSide": "BOTH", "position_amt": "0"})
    append("quantum:stream:execution", {"symbol": "BTCUSDT", "side": "BUY", "pnl": "3"})  # a fill, and no position
    assert told(hedged) == {LONG: "LONG 3.0", SHORT: "SHORT 2.0"}
    append("quantum:stream:execution", {**ROW, "quantity": "9"})
    assert set(told(hedged).values()) == {"position_invalid: positionSide=(missing) side=(missing)"}


def test_one_way_symbols_are_read_as_ever(hedged) -> None:
    """A setting for one symbol changes nothing for another; a side beside another side is a contradiction with either."""
    write_position(hedged, "ETHUSDT", side="SHORT", positionSide="BOTH")
    assert PositionReader(hedged).read(["ETHUSDT"])[0].value.side == "SHORT"
    write_position(hedged, "ETHUSDT", side="SHORT", positionSide="LONG")
    assert PositionReader(hedged).read(["ETHUSDT"])[0].reason == "position_invalid: side=SHORT positionSide=LONG"
    hedged.client.hset("quantum:state:positions:ETHUSDT", "symbol", "ETHUSDT.LONG")
    assert PositionReader(hedged).read(["ETHUSDT"])[0].reason == "position_invalid: symbol=ETHUSDT.LONG"


def test_a_leg_the_hash_does_not_show_at_the_moment_is_the_one_it_showed_last(hedged, clock) -> None:
    """Both legs in turn under one key: the mark is that of the market, the clock grows old."""
    show(hedged, side="LONG", quantity=2, unrealized_pnl=10)
    track(hedged)
    clock.advance(10)
    show(hedged, side="SHORT", quantity=1, mark_price=103)
    row = track(hedged)[LONG]
    assert (row["state"], row["current_price"], row["unrealized_pnl"], row["qty"]) == (State.PRESENT, 103, 6, 2)
    assert row["position_ts_epoch"] == clock().timestamp() - 10
    clock.advance(hedged.settings.position_max_age_sec)
    show(hedged, side="SHORT", quantity=1, mark_price=103)
    assert told(hedged) == {LONG: "no_position", SHORT: "SHORT 1.0"}


def test_a_leg_that_is_flat_is_not_remembered(hedged, clock) -> None:
    """The row that closes it is believed, and so is a newer one in the stream."""
    for closing in ("hash", "stream"):
        show(hedged, side="LONG", quantity=2)
        track(hedged)
        clock.advance(10)
        if closing == "hash":
            show(hedged, side="LONG", position_amt=0, entry_price=0)
            track(hedged)
        show(hedged, side="SHORT", quantity=1)
        if closing == "stream":
            hedged.client.xadd("quantum:stream:execution", {"symbol": LONG, "side": "FLAT"})  # dated by the server: later
        assert told(hedged)[LONG] == ("no_position" if closing == "hash" else "FLAT"), closing
        clock.advance(10)


def test_an_older_entry_of_the_stream_does_not_undo_what_the_hash_showed(hedged, clock) -> None:
    """The stream may hold the end of the position before."""
    hedged.client.xadd("quantum:stream:execution", {"symbol": LONG, "side": "FLAT"}, id=f"{int(clock().timestamp() * 1000)}-0")
    clock.advance(5)
    show(hedged, side="LONG", quantity=2)
    track(hedged)
    show(hedged, side="SHORT", quantity=1)
    assert told(hedged)[LONG] == "LONG 2.0"


def test_legs_that_nobody_shows_are_flat_only_where_the_setting_says_so(make_store) -> None:
    """And also then not while the hash merely shows the other leg at the moment."""
    store = make_store(symbols="BTCUSDT", hedge_symbols="BTCUSDT", position_absent="flat")
    show(store, side="LONG", quantity=2)
    assert told(store) == {LONG: "LONG 2.0", SHORT: "FLAT"}
    track(store)
    show(store, side="SHORT", quantity=1)
    assert told(store) == {LONG: "LONG 2.0", SHORT: "SHORT 1.0"}


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "symbol": st.sampled_from(["BTCUSDT", LONG, SHORT, "ETHUSDT", ""]),
        "side": st.sampled_from(["LONG", "SHORT", "FLAT", "BOTH", "", "BUY", "short"]),
        "positionSide": st.sampled_from(["LONG", "SHORT", "BOTH", "", "UP"]),
        "positionIdx": st.sampled_from(["0", "1", "2", "3"]),
        "position_amt": st.sampled_from(["1", "-1", "0", "nan"]),
        "quantity": st.sampled_from(["1", "0", "x"]),
        "entry_price": st.sampled_from(["100", "0"]),
        "mark_price": st.sampled_from(["105", ""]),
    },
)


@settings(max_examples=300 * FIELD_PASSES)
@given(FIELDS, st.booleans())
def test_no_row_is_ever_a_position_of_both_legs_or_of_the_wrong_side(fields, keyed):
    """Whatever a writer puts into a row: a leg is its own side, flat, or refused by name; one hash shows one leg at most."""
    shown = []
    for leg in LEGS:
        try:
            mine = leg_fields(leg, fields, keyed=keyed)
            position = parse_position(leg, mine, "redis_hash") if mine is not None else None
        except InvalidPositionError:
            continue
        if position is not None:
            shown.append(leg)
            assert position.symbol == leg
            assert not isinstance(position, RawPosition) or position.side == leg.partition(".")[2]
    assert keyed or len(shown) <= 1
