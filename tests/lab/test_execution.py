"""Fills computed by hand: orders injected, candles of a few numbers, profits that can be checked on paper."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest

from quantum_lab.candles import COLUMNS, CandleHistory, history_of
from quantum_lab.entries import Chosen
from quantum_lab.execution import REASONS, Costs, Entries, Executed, Held, Orders, execute, last_candles
from quantum_lab.nulls import null_results
from quantum_lab.outcome import trades_frame

T0 = 1_700_000_040_000
FREE = Costs(fee_bps=0, slippage_bps=0)
CALM = (100.0, 101.0, 99.0, 100.0)  # the candle before the entry
NONE, QUARTER, HALF, THREE_QUARTERS, FULL = range(5)
Candle = tuple[float, float, float, float]


def history(*candles: Candle) -> CandleHistory:
    rows = [(T0 + 60_000 * at, *prices, 1.0) for at, prices in enumerate([CALM, *candles])]
    names = ("open_time_ms", "open", "high", "low", "close", "volume")
    return history_of("BTCUSDT", pl.DataFrame(rows, schema=names, orient="row"), interval_sec=60)


def entries(side: str = "LONG", price: float = 100.0, *, opened_after_ms: int = 0, paid: float | None = None) -> Entries:
    return Entries(
        candle=np.array([1]),
        is_long=np.array([side == "LONG"]),
        mark=np.array([price]),
        paid=np.array([price if paid is None else paid]),
        opened_at_ms=np.array([T0 + 60_000 + opened_after_ms]),
        qty=np.ones(1),
    )


@dataclass
class Scripted:
    """Orders by decision: at the entry, then at each close; the last ones stand on."""

    orders: list[tuple[float | None, float | None, int]]
    asked: list[Held] = field(default_factory=list)

    def decide(self, held: Held) -> Orders:
        stop, target, action = self.orders[min(len(self.asked), len(self.orders) - 1)]
        if len(self.asked) >= len(self.orders):
            action = NONE
        self.asked.append(held)
        prices = (np.array([np.nan if one is None else one]) for one in (stop, target))
        return Orders(*prices, np.array([action], dtype=np.int8))


def run(candles: CandleHistory, orders, *, costs: Costs = FREE, hold_max: int = 10, **entry) -> Executed:
    return execute(candles, entries(**entry), Scripted(orders), costs, hold_max=hold_max)


UP = (100.0, 102.0, 99.5, 101.5)
CASES = {
    # name: (side, orders, candles after the entry, exit price, reason, profit per unit)
    "the stop is hit within the candle": ("LONG", [(98, None, NONE)], [(100, 101, 97, 99)], 98, "stop", -2.0),
    "a gap through the stop fills at the open": ("LONG", [(98, None, NONE)], [UP, (95, 99, 94, 98)], 95, "stop", -5.0),
    "stop and target in one candle are the stop": ("LONG", [(98, 103, NONE)], [(100, 104, 97, 103)], 98, "stop", -2.0),
    "the target is filled at the target": ("LONG", [(98, 103, NONE)], [(100, 104, 99, 103)], 103, "target", 3.0),
    "a gap beyond the target is filled at the target": (
        "LONG",
        [(98, 103, NONE)],
        [UP, (105, 106, 104, 105)],
        103,
        "target",
        3.0,
    ),
    "a stop of this close acts in the next candle": (
        "LONG",
        [(98, None, NONE), (101, None, NONE)],
        [UP, (101.5, 103, 100, 102)],
        101,
        "stop",
        1.0,
    ),
    "a full close is filled at the next open": (
        "LONG",
        [(98, None, NONE), (98, None, FULL)],
        [UP, (101, 105, 90, 91)],
        101,
        "full_close",
        1.0,
    ),
    # a quarter at 101.5, the rest at the stop of 100: .25 x 1.5
    "a quarter is taken, then the stop is hit": (
        "LONG",
        [(98, None, NONE), (100, None, QUARTER)],
        [UP, (101.5, 102, 99, 100)],
        100,
        "stop",
        0.375,
    ),
    # half at 102, then three quarters of the half at 104, the last eighth at the close of 105: .5 x 2 + .375 x 4 + .125 x 5
    "each tier takes its share of what is left": (
        "LONG",
        [(98, None, NONE), (98, None, HALF), (98, None, THREE_QUARTERS)],
        [(100, 102, 99, 102), (102, 104, 101, 104), (104, 105, 103, 105)],
        105,
        "end",
        3.125,
    ),
    # half at 102; the quarter asked for at 104 is below it and not taken: .5 x 2 + .5 x 5
    "a tier below the one taken is not taken": (
        "LONG",
        [(98, None, NONE), (98, None, HALF), (98, None, QUARTER)],
        [(100, 102, 99, 102), (102, 104, 101, 104), (104, 105, 103, 105)],
        105,
        "end",
        3.5,
    ),
    "a short is stopped by the high": ("SHORT", [(102, None, NONE)], [(100, 103, 99, 100)], 102, "stop", -2.0),
    "a short gaps through its stop": ("SHORT", [(102, 95, NONE)], [(100, 101, 99, 100), (104, 105, 94, 95)], 104, "stop", -4.0),
    "a short reaches its target": ("SHORT", [(102, 97, NONE)], [(100, 101, 96, 98)], 97, "target", 3.0),
    "without orders it is closed after the last candle": (
        "LONG",
        [(None, None, NONE)],
        [UP, (101, 103, 100, 102)],
        102,
        "end",
        2.0,
    ),
    "a gap beats the full close": ("LONG", [(98, None, NONE), (98, None, FULL)], [UP, (97, 98, 96, 97)], 97, "stop", -3.0),
}


@pytest.mark.parametrize(("side", "orders", "candles", "price", "reason", "profit"), CASES.values(), ids=CASES)
def test_a_trade_computed_by_hand(side, orders, candles, price, reason, profit):
    """Every rule of execution, on numbers that fit on paper."""
    done = run(history(*candles), orders, side=side)
    assert REASONS[done.reason[0]] == reason
    assert done.exit_price[0] == pytest.approx(price, abs=1e-12)
    assert done.pnl[0] == pytest.approx(profit, abs=1e-12)


def test_fees_and_slippage_are_taken_from_every_fill():
    """Entry paid 100.02; exit at the stop of 98 fills at 97.9804. Fees of 5 bps each: .05001 and .0489902."""
    done = run(history((100, 101, 97, 99)), [(98, None, NONE)], costs=Costs(5, 2), paid=100.02)
    filled = 98 * (1 - 2e-4)
    assert done.exit_price[0] == pytest.approx(filled, rel=1e-12)
    assert done.pnl[0] == pytest.approx(filled - 100.02 - 5e-4 * 100.02 - 5e-4 * filled, rel=1e-12)
    assert done.costs[0] == pytest.approx(0.02 + 5e-4 * 100.02 + 98 * 2e-4 + 5e-4 * filled, rel=1e-12)
    assert done.pnl[0] == pytest.approx(-2 - done.costs[0], rel=1e-12)


def test_a_short_pays_as_much_as_a_long():
    """A mirrored trade costs within the same basis points."""
    done = run(history((100, 103, 99, 100)), [(102, None, NONE)], costs=Costs(5, 2), side="SHORT", paid=99.98)
    filled = 102 * (1 + 2e-4)
    assert done.pnl[0] == pytest.approx(99.98 - filled - 5e-4 * (99.98 + filled), rel=1e-12)


def test_a_position_is_closed_at_the_close_when_its_time_is_over():
    done = run(history(UP, (101, 103, 100, 102), UP), [(None, None, NONE)], hold_max=2)
    assert (REASONS[done.reason[0]], done.exit_candle[0], done.exit_price[0]) == ("time", 2, 102)


def test_time_is_over_by_the_clock_and_not_by_the_number_of_candles():
    """Of five candles' time three are missing: the first close after it ends the position, and the null without a stop alike."""
    whole = history(*[(100 + at, 101.5 + at, 99 + at, 101 + at) for at in range(12)])
    kept = np.array([0, 1, 2, 3, 7, 8, 9, 10, 11, 12])
    holed = CandleHistory("BTCUSDT", 60, *(getattr(whole, name)[kept] for name in COLUMNS))
    one = entries()
    assert last_candles(whole, one.candle, 5).tolist() == [5]
    assert last_candles(holed, one.candle, 5).tolist() == [4]
    for candles, price in ((whole, 105), (holed, 107)):
        done = execute(candles, one, Scripted([(None, None, NONE)]), FREE, hold_max=5)
        assert (REASONS[done.reason[0]], done.exit_price[0]) == ("time", price)
        chosen = Chosen(one, np.array([-1]), np.array([np.nan]))
        nulls = null_results(candles, chosen, done, np.array([0.5]), FREE, hold_max=5, seed=1)
        assert nulls["no_stop"].profit[0] == nulls["fixed_stop"].profit[0] == price - 100


@pytest.mark.parametrize(("after_ms", "held_sec"), [(0, 120.0), (45_000, 75.0)])
def test_a_trade_is_held_from_its_entry_also_within_a_candle(after_ms, held_sec):
    """Its exit has the time at which the candle closed; what came before the entry is not held."""
    candles, one = history(UP, (101, 103, 97, 102)), entries(opened_after_ms=after_ms)
    done = execute(candles, one, Scripted([(98, None, NONE)]), FREE, hold_max=5)
    frame = trades_frame(candles, Chosen(one, np.array([-1]), np.array([np.nan])), done, {})
    assert frame["held_sec"].to_list() == [held_sec]
    assert (frame["exit_time"] - frame["entry_time"]).dt.total_seconds().to_list() == [held_sec]


def test_the_extremes_are_of_candles_that_were_held_to_their_close():
    """The high of the candle in which the stop was hit may have come after it."""
    done = run(history((100, 102, 99.5, 101.5), (101, 110, 97, 98)), [(98, None, NONE)])
    assert (done.mfe[0], done.mae[0]) == (2, 2)
    assert done.best[0] == 102


def test_the_candle_of_an_entry_within_it_fills_nothing():
    """What of its range came before the entry nobody knows."""
    done = run(history((100, 110, 90, 100), (100, 101, 97, 99)), [(98, 105, NONE)], opened_after_ms=30_000)
    assert (done.exit_candle[0], REASONS[done.reason[0]], done.mfe[0]) == (2, "stop", 0)


def test_a_position_ends_before_its_price_changes_its_unit():
    done = run(history(UP, (1015, 1030, 1010, 1020), (1015, 1030, 1010, 1020)), [(98, 105, NONE)])
    assert (REASONS[done.reason[0]], done.exit_candle[0], done.exit_price[0]) == ("unit_jump", 1, 101.5)


def test_nothing_is_compared_over_a_change_of_unit():
    """A desk that leaves after it, and a high that comes after it, are in another unit: ten times the profit, and no new high."""
    jumped = [(10 * one[0], 10 * one[1], 10 * one[2], 10 * one[3]) for one in [CALM] * 70]
    candles = history(UP, (100, 101, 97, 98), *jumped)
    one = entries()
    done = execute(candles, one, Scripted([(98, None, NONE)]), FREE, hold_max=5)
    assert REASONS[done.reason[0]] == "stop"
    chosen = Chosen(one, np.array([5]), np.array([1000.0]))
    nulls = null_results(candles, chosen, done, np.array([0.02]), FREE, hold_max=5, seed=1)
    assert np.isnan(nulls["desk"].profit[0])
    assert np.isnan(nulls["no_stop"].profit[0])
    frame = trades_frame(candles, chosen, done, nulls)
    assert frame["new_extreme"].to_list() == [None]
    assert frame["R_desk"].to_list() == [None]
    in_one_unit = history(UP, (100, 101, 97, 98), *[CALM] * 70)
    same = execute(in_one_unit, one, Scripted([(98, None, NONE)]), FREE, hold_max=5)
    assert trades_frame(in_one_unit, chosen, same, {})["new_extreme"].to_list() == [False]


def test_decisions_come_at_the_entry_and_at_each_close():
    policy = Scripted([(90, None, NONE)])
    execute(history(UP, UP, UP), entries(), policy, FREE, hold_max=3)
    assert [(held.candle[0], held.entering) for held in policy.asked] == [(0, True), (1, False), (2, False)]
    assert [held.now_ms[0] - T0 for held in policy.asked] == [60_000, 120_000, 180_000]


def test_the_path_of_a_chosen_trade_is_what_stood_before_each_candle():
    policy = Scripted([(98, None, NONE), (99, 106, QUARTER)])
    done = execute(history(UP, UP, UP), entries(), policy, FREE, hold_max=5, traced=[0])
    assert [(row["candle"], row["stop"], row["action"]) for row in done.path] == [
        (1, 98, "NONE"),
        (2, 99, "PARTIAL_25"),
        (3, 99, "NONE"),
    ]
