"""What writers do to the hash of a position, one thing after the other at random, through the real assets and a real server.

Every market is an example of its own: a program of STEPS updates, of which each is followed by a cycle. Some have one side, some are
hedged, with a hash per leg or one in turns. What must hold is said by :class:`Model`, which knows what was written and nothing of the
product. FIELD_PASSES says how many passes of EXAMPLES sequences are made (default 1; 10,000 sequences are FIELD_PASSES=200).
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from quantum_assets.market_state import market_state_frame
from quantum_assets.position import position_frame
from quantum_assets.risk_proposal import risk_frame
from quantum_assets.shared import tracked_positions
from quantum_assets.shared.rows import shared_by_legs
from quantum_core.contracts.legs import SEPARATOR, underlying
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import MARKET_STATE, POSITION, RISK_PROPOSAL
from quantum_core.profiles.profile import LOCKED
from resources.inputs.candles import CandleReader
from resources.inputs.positions import PositionReader
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from tests.world import FIELD_PASSES, random_closes, write_candles

ONE_WAY, HEDGED, STEPS, CYCLE_SEC = 30, 10, 20, 10
EXAMPLES = ONE_WAY + 2 * HEDGED  # sequences of one pass
EMPTY_ROW_SEC = 60  # an empty row of the other side is flat when it has lasted so long
ROUNDING = 1e-9  # prices go through text
OTHER = {"LONG": "SHORT", "SHORT": "LONG"}
Rng = np.random.Generator


class Writer:
    """The program that writes the hash of one market, or of one leg, as some do: all at once, in parts, wrongly, or not at all."""

    def __init__(self, rng: Rng, store: RedisStore, key: str, price: float, side: str = "") -> None:
        self.rng, self.store, self.key, self.price, self.leg = rng, store, key, price, side
        self.signed = bool(rng.integers(2))  # position_amt with a sign, or side and quantity
        self.side, self.entry, self.size = side or ("LONG", "SHORT")[rng.integers(2)], price, 2.0
        self.flat, self.empty_since, self.turned_at, self.shared = False, 0.0, 0.0, False
        self.log: list[str] = []

    @property
    def now(self) -> float:
        return self.store.clock().timestamp()

    def state(self) -> dict[str, Any]:
        """Give the fields of what is held now."""
        sign = 0 if self.flat else 1 if self.side == "LONG" else -1
        size = {"position_amt": sign * self.size} if self.signed else {"side": self.side, "quantity": abs(sign) * self.size}
        return {**size, "entry_price": self.entry if sign else 0, "mark_price": self.price}

    def put(self, **fields: object) -> None:
        """Set these fields and the clock, as HSET does."""
        self.empty_since = 0.0 if any(fields.get(name) for name in ("quantity", "position_amt")) else self.empty_since
        texts = {name: str(value) for name, value in {**fields, "ts_epoch": int(self.now)}.items()}
        self.store.client.hset(self.key, mapping=texts)

    def open(self, side: str, **more: object) -> None:
        """Replace the hash by a whole new position."""
        self.turned_at = self.now if self.flat or side != self.side else self.turned_at
        self.side, self.entry, self.flat, self.empty_since = side, self.price, False, 0.0
        self.store.client.delete(self.key)
        self.put(**self.state(), **more)

    def step(self) -> None:
        """Let the market move, and the writer do one thing."""
        self.price *= float(self.rng.uniform(0.985, 1.015))
        do = (self.move, self.move, self.add, self.reduce, self.rounded, self.funding, self.created_at, self.own_stop, self.own_extremes,
              self.junk, self.lost_field, self.lost_key, self.bad_tick, self.flip, self.flip_by_changed_fields, self.flip_in_parts,
              self.go_flat, self.empty_row, self.reopen)[self.rng.integers(19)]  # fmt: skip
        self.log.append(do.__name__)
        if self.empty_since and do in (self.lost_field, self.flip_in_parts):
            do = self.move  # a part of an empty row may say flat
        if self.flat and do not in (self.reopen, self.flip, self.go_flat):
            do = self.move
        do()

    def move(self) -> None:
        self.put(mark_price=self.price)

    def add(self) -> None:
        self.entry = (self.entry + self.price) / 2
        self.size *= 1.05
        self.put(**self.state())

    def reduce(self) -> None:
        self.size *= 0.5
        self.put(**self.state())

    def rounded(self) -> None:
        self.put(mark_price=self.price, entry_price=f"{self.entry:.{self.rng.integers(1, 6)}f}")

    def funding(self) -> None:
        self.entry *= 1 + float(self.rng.choice([-1, 1])) * 1e-4
        self.put(**self.state())

    def created_at(self) -> None:
        self.put(**self.state(), created_at=max(self.turned_at, self.now - float(self.rng.integers(0, 100_000))))

    def own_stop(self) -> None:
        away = float(self.rng.uniform(0.01, 0.05))
        self.put(**self.state(), current_sl=self.price * (1 - away if self.side == "LONG" else 1 + away))

    def own_extremes(self) -> None:
        self.put(**self.state(), peak_price=self.price, trough_price=self.price, age_sec=0)

    def junk(self) -> None:
        word = ("None", "N/A", "1,250.00", "00:12:00", "", "0", "nan")[self.rng.integers(7)]
        self.put(**self.state(), **dict.fromkeys(("current_sl", "leverage", "age_sec", "peak_price", "unrealized_pnl"), word))

    def lost_field(self) -> None:
        names = ("entry_price", "mark_price", "side", "ts_epoch", "position_amt", "quantity", "current_sl")
        self.store.client.hdel(self.key, names[self.rng.integers(len(names))])

    def lost_key(self) -> None:
        self.store.client.delete(self.key)

    def bad_tick(self) -> None:
        self.put(mark_price=self.price * float(self.rng.choice([0.3, 0.7, 1.4, 3.0])))

    def flip(self) -> None:
        self.open(self.leg or OTHER[self.side], **({"created_at": self.now} if self.rng.integers(2) else {}))

    def turn(self) -> None:
        side = self.leg or OTHER[self.side]
        self.turned_at = self.now if side != self.side else self.turned_at
        self.side, self.entry, self.size = side, self.price, 1.0

    def flip_by_changed_fields(self) -> None:
        """Leave what the side before has written: its stop, peak, profit."""
        self.turn()
        self.put(**self.state())

    def flip_in_parts(self) -> None:
        """Write a part of the new state only; the rest comes with what is done next."""
        if self.shared:  # a row of the other leg with this one's name would be of neither
            self.flip_by_changed_fields()
            return
        self.turn()
        whole = self.state()
        self.put(**{name: value for name, value in whole.items() if self.rng.integers(2)})

    def go_flat(self) -> None:
        self.flat, self.empty_since = True, 0.0
        self.put(position_amt=0) if self.signed else self.put(side=self.leg or "FLAT", quantity=0)

    def empty_row(self) -> None:
        """Write the other side without a size, as exchanges list the leg that is not held."""
        shown = (self.store.client.hget(self.key, "side") or b"").decode()
        if self.leg or self.empty_since or shown not in OTHER:
            self.move()
            return
        self.empty_since = self.now
        self.store.client.delete(self.key)
        self.put(side=OTHER[shown], quantity=0, mark_price=self.price)

    def reopen(self) -> None:
        self.open(self.side if self.rng.integers(2) else self.leg or OTHER[self.side])


class Model:
    """What may never happen to one position, whatever is written."""

    def __init__(self) -> None:
        self.side, self.stop, self.peak, self.trough = "", 0.0, 0.0, 0.0

    def flat(self) -> None:
        """Forget: the writer has said that nothing is held."""
        self.side = ""

    def faults(self, risk: dict[str, Any], tracked: dict[str, Any]) -> list[str]:
        """Compare one cycle with the one before, and give what went wrong by name."""
        side, stop, peak, trough = tracked["side"], risk["proposed_sl"], tracked["peak_price"], tracked["trough_price"]
        up = 1 if side == "LONG" else -1
        found = []
        if side == self.side:
            found = [
                *(["the stop loosens"] if up * (stop - self.stop) < -ROUNDING * self.stop else []),
                *(["the peak starts anew"] if peak < self.peak * (1 - ROUNDING) else []),
                *(["the trough starts anew"] if trough > self.trough * (1 + ROUNDING) else []),
            ]
        elif self.side and not tracked["conflict_until_epoch"] and up * (tracked["current_price"] - stop) <= 0:
            found = ["the new side has the stop of the other one"]
        unsettled = tracked["collared"] and peak == trough  # no mark was accepted yet: the extremes begin with the first
        self.side, self.stop, self.peak, self.trough = side, stop, *((0.0, np.inf) if unsettled else (peak, trough))
        return found


def published(store: RedisStore, table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Publish what is there, as a cycle does."""
    rows = [row for row in frame.to_dicts() if row["state"] == State.PRESENT]
    assert not [one.error for one in publish(store, table, rows, cycle_id="t") if one.error]
    return frame


def by_symbol(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["symbol"]: row for row in frame.to_dicts() if row["state"] == State.PRESENT}


def writers(rng: Rng, store: RedisStore, closes: dict[str, float]) -> dict[str, Writer]:
    """Give the writer of each partition: one for a market, and for a hedged one one per leg, with a key of its own or a shared one."""
    found = {}
    for number, symbol in enumerate(store.settings.symbols):
        market, leg = underlying(symbol), symbol.partition(SEPARATOR)[2]
        shared = leg and number // 2 % 2
        key = store.keys.of("raw_position", market if shared else symbol)
        found[symbol] = Writer(rng, store, key, closes[market], leg)
        found[symbol].signed &= not leg
        found[symbol].shared = bool(shared)
    return found


def sequences(make_store: Callable[..., RedisStore], turn: int) -> tuple[Counter[str], int, int]:
    """Play one pass; give what went wrong, the rows judged and the changes of side among them."""
    rng = np.random.default_rng(turn)
    one_way = [f"M{number:02}USDT" for number in range(ONE_WAY)]
    hedged = [f"H{number:02}USDT" for number in range(HEDGED)]
    store = make_store(symbols=",".join([*one_way, *hedged]), hedge_symbols=",".join(hedged))
    closes = {market: random_closes(turn * 1000 + number) for number, market in enumerate(store.settings.markets)}
    for market, prices in closes.items():
        write_candles(store, market, prices)
    candles, positions, symbols = CandleReader(store), PositionReader(store), store.settings.symbols
    market = published(store, MARKET_STATE, shared_by_legs(symbols, lambda some: market_state_frame(candles.read(some))))
    programs = writers(rng, store, {market: prices[-1] for market, prices in closes.items()})
    models = {symbol: Model() for symbol in symbols}
    for writer in programs.values():
        writer.open(writer.side)
    faults: Counter[str] = Counter()
    judged = turned = 0
    for _ in range(STEPS):
        tracked = published(
            store, POSITION, position_frame(symbols, store=store, candle_reader=candles, position_reader=positions)
        )
        risk = by_symbol(published(store, RISK_PROPOSAL, risk_frame(market, tracked, LOCKED)))
        for symbol, row in by_symbol(tracked).items():
            model, before = models[symbol], models[symbol].side
            found = model.faults(risk[symbol], row)
            faults.update(f"{what}: {symbol} after {' '.join(programs[symbol].log[-6:])}" for what in found)
            judged += 1
            turned += bool(before) and before != model.side
        store.clock.advance(CYCLE_SEC)
        for symbol, writer in programs.items():
            if writer.leg and rng.integers(2):  # the other leg's turn
                continue
            writer.step()
            if writer.flat or (writer.empty_since and writer.now - writer.empty_since >= EMPTY_ROW_SEC - CYCLE_SEC):
                models[symbol].flat()
    return faults, judged, turned


@pytest.mark.parametrize("turn", range(FIELD_PASSES))
def test_no_sequence_of_updates_loosens_a_stop_or_passes_it_on(make_store: Callable[..., RedisStore], turn: int) -> None:
    """A stop never loosens while its side stays without a flat; peak and trough never start anew; no side has the other's stop."""
    faults, judged, turned = sequences(make_store, turn)
    assert faults == {}
    assert judged > EXAMPLES * STEPS / 3
    assert turned > EXAMPLES / 10


def test_without_the_memory_of_a_flip_the_property_fails(
    make_store: Callable[..., RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A property that holds of a broken product proves nothing."""
    monkeypatch.setattr(tracked_positions, "_own_fields", lambda told, _state, _memory: (told, {}))
    faults, *_ = sequences(make_store, 0)
    assert "the new side has the stop of the other one" in " ".join(faults)
