"""Which position a snapshot is of: whatever its writer does between two cycles, no stop loosens without a flat or another side."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_assets.shared import tracked_positions as asset
from quantum_core.contracts.tables import POSITION
from quantum_core.kernels.columns import Market, Position
from quantum_core.kernels.position.identity import Memory
from quantum_core.kernels.position.tracking import Tracked
from quantum_core.kernels.proposals.stops import stops
from quantum_core.profiles.profile import LOCKED
from quantum_core.settings import load_settings
from resources.inputs.position_parsing import parse_position
from resources.inputs.position_snapshots import Flat
from tests.world import FIELD_PASSES

SYMBOL, NOW, CYCLE_SEC, MINUTE_MS = "BTCUSDT", 1_769_083_200.0, 10.0, 60_000
MARKET = Market(*(np.array([value]) for value in (0.001, 0.2, 0.3, 0.2, 0.5)))
SETTINGS = load_settings()
ROUNDING = 1e-9  # prices go through text


class Book:
    """One key of a writer, and what the asset keeps of it: each cycle goes through text, as after a restart."""

    def __init__(self) -> None:
        self.now, self.price = NOW, 100.0
        self.fields: dict[str, str] = {}
        self.closes = [100.0] * 5
        self.state: Tracked | None = None
        self.memory = Memory()
        self.proposal: dict[str, Any] | None = None
        self.note = ""

    def write(self, **fields: object) -> None:
        """Set fields, as HSET does."""
        self.fields |= {name: str(value) for name, value in {"ts_epoch": int(self.now), **fields}.items()}

    def open(self, side: str = "LONG", **more: object) -> None:
        """Replace the whole hash."""
        self.fields = {}
        self.write(**{"side": side, "quantity": 2, "entry_price": self.price, "mark_price": self.price, **more})

    def move(self, price: float, *, candle: bool = False) -> None:
        """Let the market go somewhere."""
        self.price = price
        self.closes = [*self.closes[1:], price] if candle else self.closes
        self.fields |= {"mark_price": str(price)} if self.fields else {}

    def cycle(self) -> Tracked | None:
        """Evaluate the asset and the proposal once."""
        self.now += CYCLE_SEC
        times = (int(self.now // 60) - np.arange(len(self.closes), 0, -1)) * MINUTE_MS
        candles: Any = asset._Scaled(times.astype(np.int64), *(np.array(self.closes),) * 3)
        told = parse_position(SYMBOL, self.fields, "redis_hash")
        if isinstance(told, Flat):
            self.memory, self.state = asset._judge_flat(told, self.state, self.memory, self.proposal, self.now)
        else:
            own, leftover = asset._own_fields(told, self.state, self.memory)
            case = asset._case(own, leftover, self.state, self.memory, self.proposal, self.now)
            state, self.note = asset._judged(case, candles, SETTINGS, LOCKED, "", self.now)
            encoded = POSITION.encode({**state.row(), "held": True})
            self.state = Tracked.from_row({field.name: field.codec.decode(encoded[field.name]) for field in POSITION.fields})
            self.memory = case.memory
            self.proposal = self.propose(self.state)
        stored = json.loads(json.dumps(asdict(self.memory)))
        self.memory = Memory(**{**stored, "returns": tuple(stored["returns"])})
        return None if isinstance(told, Flat) else self.state

    def propose(self, state: Tracked) -> dict[str, Any]:
        numbers = (state.entry_price, state.current_price, state.peak_price, state.trough_price, state.age_sec)
        rest = (state.unrealized_pnl, np.nan if state.current_sl is None else state.current_sl, state.qty)
        columns = Position(np.array([state.side == "LONG"]), *(np.array([value]) for value in (*numbers, *rest)))
        (stop,) = stops(MARKET, columns, mark_price=np.array([state.mark_price])).proposed_sl
        return {
            "position_side": state.side,
            "proposed_sl": float(stop),
            "published_at_utc": datetime.fromtimestamp(self.now, UTC),
        }


@pytest.fixture
def book() -> Book:
    """A key nobody has written to yet."""
    return Book()


@pytest.mark.parametrize(
    "update",
    [
        {"quantity": 2.1, "entry_price": 100.25},
        {"entry_price": 100.00001},
        {"created_at": NOW + 30},
        {"age_sec": 0},
        {"current_sl": 90},
        {"peak_price": 100, "trough_price": 100},
        {"leverage": "20x", "current_sl": "None"},
    ],
)
def test_an_update_of_the_same_side_never_loosens_the_stop(book: Book, update: dict[str, object]) -> None:
    """Each began a new position, and the proof of it had nothing to compare."""
    book.open(created_at=NOW - 1800)
    book.cycle()
    book.move(104.0)
    book.cycle()
    before = book.proposal
    book.move(103.8)
    book.write(**update)
    after = book.cycle()
    assert (after.peak_price, after.current_sl) == (104, before["proposed_sl"])
    assert (after.opened_at_epoch, book.proposal["proposed_sl"]) == (NOW - 1800, before["proposed_sl"])


OTHERS_WORDS = {"current_sl": 98.5, "current_tp": 110, "peak_price": 103.5, "trough_price": 99, "unrealized_pnl": 6}


@pytest.mark.parametrize("through_flat", [False, True])
@pytest.mark.parametrize("side", ["LONG", "SHORT"])
def test_a_flip_by_the_changed_fields_takes_nothing_of_the_other_side_over(book: Book, side: str, *, through_flat: bool) -> None:
    """The new SHORT had the LONG's stop below the price, was breached at once, and closed."""
    other = "SHORT" if side == "LONG" else "LONG"
    words = {**OTHERS_WORDS, "created_at": NOW - 7200}
    book.open(side, **words)
    book.move(103.0)
    book.cycle()
    if through_flat:
        book.write(side="FLAT", quantity=0)
        book.cycle()
    book.write(side=other, quantity=1, entry_price=103)
    for _ in range(2):
        state = book.cycle()
        assert (state.side, state.current_sl is None or abs(state.current_sl / 103 - 1) < 0.02) == (other, True)
        assert (state.peak_price, state.trough_price, state.current_tp) == (103, 103, None)
        assert state.opened_at_epoch > NOW
        assert json.loads(state.leftover) == {name: str(value) for name, value in words.items()}
        assert "left_by_the_side_before: current_sl=98.5" in book.note
        assert state.unrealized_pnl == 0
    own = 105.0 if other == "SHORT" else 101.0
    book.write(current_sl=own)
    state = book.cycle()
    assert "current_sl" not in json.loads(state.leftover)
    assert state.current_sl is not None


def test_a_flat_in_between_starts_anew(book: Book) -> None:
    """Peak and stop of the last position have nothing to say about the next one."""
    book.open()
    book.move(108.0)
    book.cycle()
    book.open("FLAT", quantity=0)
    assert book.cycle() is None
    book.move(100.5)
    book.open()
    state = book.cycle()
    assert (state.current_sl, state.peak_price, state.conflict_until_epoch) == (None, 100.5, 0)


def test_sides_in_turn_under_one_key_are_a_conflict_and_keep_both_stops(book: Book) -> None:
    """Each flip made a new position; one side had no stop for 200 s."""
    tightest: dict[str, float] = {}
    for turn in range(3):
        for side, entry in (("LONG", 99.0), ("SHORT", 101.0)):
            book.move(100.0 - 0.1 * turn if side == "LONG" else 100.0 + 0.1 * turn)
            book.open(side, entry_price=entry)
            state = book.cycle()
            if turn:
                assert state.current_sl == tightest[side]
                assert state.trouble.startswith("position_conflict: ")
            tightest[side] = book.proposal["proposed_sl"]


@pytest.mark.parametrize(
    "row", [{"side": "SHORT", "position_amt": 0, "entry_price": 0}, {"side": "SHORT", "quantity": 0}, {"side": "FLAT"}]
)
def test_an_empty_row_in_turn_is_a_conflict_and_keeps_the_stop(book: Book, row: dict[str, object]) -> None:
    """The empty row of the other leg says nothing of this one; FLAT does, unless the very same position comes back and back."""
    best = 0.0
    for turn in range(4):
        book.move(100.0 - 0.2 * turn)
        book.open(entry_price=98.0)
        state = book.cycle()
        if turn > (1 if row["side"] == "FLAT" else 0):
            assert state.current_sl is not None
            assert state.current_sl >= best
            assert "position_conflict" in state.trouble
        best = max(best, book.proposal["proposed_sl"])
        book.fields = {}
        book.write(mark_price=100, **row)
        book.cycle()


def test_an_empty_row_of_the_other_side_that_lasts_is_flat(book: Book) -> None:
    """Many writers name a side although there is no position."""
    book.open()
    book.cycle()
    book.fields = {}
    book.write(side="SHORT", position_amt=0, mark_price=100)
    seen = []
    for _ in range(8):
        book.cycle()
        seen.append(book.state is None)
    assert seen == [False] * 6 + [True] * 2


def test_a_quick_reversal_is_no_conflict(book: Book) -> None:
    """A trader may change his mind within minutes; only what alternates is two positions."""
    for side, price in (("LONG", 100.0), ("SHORT", 100.5), ("LONG", 99.7)):
        book.move(price)
        book.open(side)
        state = book.cycle()
    assert (state.conflict_until_epoch, state.current_sl) == (0, None)


def test_a_snapshot_without_a_clock_says_how_long_nothing_has_changed(book: Book) -> None:
    """Its writer may be dead, and nobody would know."""
    book.open(ts_epoch="")
    for _ in range(14):
        state = book.cycle()
    assert state.trouble == "position_unchanged: no clock, and nothing has changed for 130 s"
    book.move(100.1)
    assert book.cycle().trouble == ""


def test_a_kept_state_of_before_goes_on(book: Book) -> None:
    """An update of the product must not forget a stop."""
    book.open()
    book.move(104.0)
    state = book.cycle()
    encoded = POSITION.encode({**state.row(), "held": True})
    added = (
        "mark_price",
        "contracts",
        "tracked_since_epoch",
        "carried",
        "leftover",
        "conflict_until_epoch",
        "inconsistent",
        "trouble",
    )
    old = {name: text for name, text in encoded.items() if name not in added}
    stamps = {"symbol": SYMBOL, "cycle_id": "c", "schema": "1", "computed_at_utc": "2026-01-22T12:00:00+00:00"}
    stamps |= {"last_update_epoch": "1", "published_at_utc": "2026-01-22T12:00:00+00:00", "digest": POSITION.digest(old)}
    row = POSITION.decode({name.encode(): text.encode() for name, text in {**old, **stamps}.items()})
    book.state, book.memory = Tracked.from_row(row), Memory()
    book.move(103.0)
    assert book.cycle().peak_price == 104


STEP = st.one_of(
    st.tuples(st.just("move"), st.floats(0.98, 1.02)),
    st.tuples(st.just("candle"), st.floats(0.98, 1.02)),
    st.tuples(st.just("crash"), st.floats(0.80, 1.25)),
    st.tuples(st.just("bad tick"), st.floats(0.3, 3.0)),
    st.tuples(st.just("add"), st.floats(0.9, 1.1)),
    st.tuples(st.just("fill"), st.floats(1.0, 1.00001)),
    st.tuples(st.just("created_at"), st.floats(-86400, 0)),
    st.tuples(st.just("stop"), st.floats(0.9, 1.1)),
    st.tuples(st.just("junk"), st.sampled_from(["None", "N/A", "1,250.00", "00:12:00", "", "0"])),
    st.tuples(st.just("gone"), st.just(0.0)),
    st.tuples(st.just("flip"), st.just(0.0)),
    st.tuples(st.just("flip by the changed fields"), st.just(0.0)),
    st.tuples(st.just("flat"), st.just(0.0)),
    st.tuples(st.just("empty row"), st.just(0.0)),
)


def happen(book: Book, what: str, value: Any) -> None:  # noqa: C901 - one branch per thing that may happen
    """Let a writer or the market do one thing."""
    side = book.fields.get("side", "LONG")
    side = side if side in ("LONG", "SHORT") and book.fields.get("quantity") != "0" else "LONG"
    other = "SHORT" if side == "LONG" else "LONG"
    if what in ("move", "candle", "crash"):
        book.move(book.price * value, candle=what != "move")
    elif what == "bad tick":
        book.fields |= {"mark_price": str(book.price * value)}
    elif what in ("add", "fill"):
        book.write(side=side, quantity=3, entry_price=float(book.fields["entry_price"]) * value)
    elif what == "created_at":
        book.write(created_at=book.now + value)
    elif what == "stop":
        book.write(current_sl=book.price * value)
    elif what == "junk":
        book.write(**dict.fromkeys(("current_sl", "leverage", "age_sec", "peak_price", "created_at"), value))
    elif what == "gone":
        return
    elif what == "flip":
        book.open(other)
    elif what == "flip by the changed fields":
        book.write(side=other, quantity=1, entry_price=book.price)
    elif what == "flat":
        book.write(side="FLAT", quantity=0)
    else:
        book.write(side=other, quantity=0)


@settings(max_examples=60 * FIELD_PASSES, deadline=None)
@given(steps=st.lists(STEP, min_size=2, max_size=25))
def test_no_order_of_updates_loosens_a_stop(steps: list[tuple[str, Any]]) -> None:
    """The promise: the proposed stop of a side never loosens, but after a flat or a change of side."""
    book = Book()
    book.open()
    book.cycle()
    side, stop = "LONG", book.proposal["proposed_sl"]
    for what, value in steps:
        happen(book, what, value)
        if what == "gone":  # nobody shows it: nothing is evaluated, and what is kept stays
            book.now += CYCLE_SEC
            continue
        state = book.cycle()
        if state is None:
            side = side if book.state is not None else ""  # an empty row of the other side ends nothing yet
            continue
        direction = 1 if state.side == "LONG" else -1
        assert state.trough_price <= state.current_price <= state.peak_price
        if state.side == side:
            assert direction * (book.proposal["proposed_sl"] - stop) >= -ROUNDING * stop
        side, stop = state.side, book.proposal["proposed_sl"]


@pytest.mark.slow
def test_without_what_was_kept_the_property_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A property that holds of a broken product proves nothing."""
    monkeypatch.setattr(
        asset, "recognized", lambda memory, _state, side, _entry, now: (replace(memory, label=side, since=now), None)
    )
    with pytest.raises(AssertionError):
        test_no_order_of_updates_loosens_a_stop()
