"""Inputs as the field sends them, wrong in one of many ways, through the whole line: nothing of it may open.

Every example is a market of its own: its candles, its position and its plan are right, but for one fault drawn from a kind. FIELD_PASSES
says how many passes of EACH examples are made (default 1; 10,000 examples are FIELD_PASSES=50).
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import dagster as dg
import numpy as np
import pytest

from resources.store.redis_store import RedisStore
from tests.governor.desk import Desk
from tests.world import random_closes, run_cycle, write_candles, write_efficiency, write_equity, write_position, write_target

EACH, RIGHT, WINDOW = 200, 20, 300
PASSES = int(os.environ.get("FIELD_PASSES", "1"))
Rng = np.random.Generator
Rows = list[dict[str, Any]]


def candles(store: RedisStore, symbol: str) -> Rows:
    """Read what stands there, oldest first."""
    return [json.loads(member) for member in store.client.zrange(store.keys.of("candles_history", symbol), 0, -1)]


def replace_candles(store: RedisStore, symbol: str, rows: Rows) -> None:
    key = store.keys.of("candles_history", symbol)
    store.client.delete(key)
    if rows:
        store.client.zadd(key, {json.dumps(row): row.get("open_time", number) for number, row in enumerate(rows)})


def of_candles(change: Callable[[Rng, Rows, float], Rows]) -> Callable[[Rng, RedisStore, str], None]:
    """Make a fault of a change of the rows."""

    def fault(rng: Rng, store: RedisStore, symbol: str) -> None:
        replace_candles(store, symbol, change(rng, candles(store, symbol), store.clock().timestamp() * 1000))

    fault.__name__ = change.__name__
    return fault


def updates_of_a_running_candle(rng: Rng, rows: Rows, now_ms: float) -> Rows:
    step = int(rng.integers(200, 50_000))
    return [{**row, "open_time": int(now_ms) - back * step} for back, row in zip(range(len(rows), 0, -1), rows, strict=True)]


def candles_of_another_length(rng: Rng, rows: Rows, now_ms: float) -> Rows:
    step = 60_000 * int(rng.choice([2, 3, 5, 15, 60]))
    now = int(now_ms)
    return [
        {**row, "open_time": now - back * step, "close_time": now - (back - 1) * step - 1}
        for back, row in zip(range(len(rows), 0, -1), rows, strict=True)
    ]


def minutes_without_a_candle(rng: Rng, rows: Rows, _: float) -> Rows:
    kept = rng.random(len(rows)) > rng.uniform(0.1, 0.8)
    kept[-1] = True
    return [row for row, keep in zip(rows, kept, strict=True) if keep]


def a_hole_that_leaves_too_little(rng: Rng, rows: Rows, _: float) -> Rows:
    newest = int(rng.integers(1, 50))
    hole = int(rng.integers(10, 200))
    return rows[: len(rows) - newest - hole] + rows[-newest:]


def candles_that_have_stopped(rng: Rng, rows: Rows, _: float) -> Rows:
    late = 60_000 * int(rng.integers(4, 10_000))
    return [{**row, "open_time": row["open_time"] - late, "close_time": row["close_time"] - late} for row in rows]


def candles_from_the_future(rng: Rng, rows: Rows, _: float) -> Rows:
    ahead = 60_000 * int(rng.integers(3, 10_000))
    return [{**row, "open_time": row["open_time"] + ahead, "close_time": row["close_time"] + ahead} for row in rows]


def a_market_without_trades(rng: Rng, rows: Rows, _: float) -> Rows:
    still = int(rng.integers(60, len(rows)))
    last = rows[-1]["close"]
    flat = dict.fromkeys(("open", "high", "low", "close"), last)
    return rows[:-still] + [{**row, **flat, "volume": 0} for row in rows[-still:]]


def many_minutes_that_are_no_prices(rng: Rng, rows: Rows, _: float) -> Rows:
    bad = rng.choice(len(rows), int(rng.integers(20, len(rows))), replace=False)
    junk: list[Any] = [0, -1, None, float("nan"), "n/a", "", float("inf"), [], {}]
    for number in bad:
        rows[number]["close"] = junk[rng.integers(len(junk))]
    return rows


def a_label_that_is_not_live(rng: Rng, rows: Rows, _: float) -> Rows:
    label = ("replay", "synthetic", "backtest", "paper", "DEMO", "testnet", "binance-replay")[rng.integers(7)]
    return [{**row, "source": label} for row in rows]


def a_closed_flag_nobody_understands(rng: Rng, rows: Rows, _: float) -> Rows:
    word = ("maybe", 2, "closing", {"a": 1}, [], "?", -1, 0.5)[rng.integers(8)]
    name = ("is_closed", "x", "closed", "isFinal", "is_final", "confirm", "complete", "final")[rng.integers(8)]
    return [{name: word} | {key: value for key, value in row.items() if key != "is_closed"} for row in rows]


def of_position(change: Callable[[Rng, dict[str, str], float], dict[str, Any]]) -> Callable[[Rng, RedisStore, str], None]:
    """Make a fault of a change of the fields."""

    def fault(rng: Rng, store: RedisStore, symbol: str) -> None:
        key = store.keys.of("raw_position", symbol)
        fields = {name.decode(): value.decode() for name, value in store.client.hgetall(key).items()}
        changed = change(rng, fields, store.clock().timestamp())
        store.client.delete(key)
        if changed:
            store.client.hset(key, mapping={name: str(value) for name, value in changed.items()})

    fault.__name__ = change.__name__
    return fault


def no_position_known(_: Rng, __: dict[str, str], ___: float) -> dict[str, Any]:
    return {}


def a_mark_of_another_market(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    factor = float(rng.choice([1e-6, 1e-3, 0.1, 0.5, 1.7, 10, 1e3, 1e6]))
    mark = float(fields["mark_price"]) * factor
    return {**fields, "mark_price": mark, "entry_price": mark, "unrealized_pnl": 0}


def a_profit_of_other_units(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    factor, mark = float(rng.choice([-1, 0, 1e-3, 100, 1e3, 1e4])), float(fields["mark_price"])
    entry = 0.9 * mark  # a profit of a tenth: more than a mark that is a second old explains
    return {**fields, "entry_price": entry, "unrealized_pnl": (mark - entry) * float(fields["quantity"]) * factor}


def a_notional_of_other_units(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    factor = float(rng.choice([1e-3, 0.1, 10, 1e3]))
    return {**fields, "notional": float(fields["quantity"]) * float(fields["mark_price"]) * factor}


def an_old_snapshot(rng: Rng, fields: dict[str, str], now: float) -> dict[str, Any]:
    return {**fields, "ts_epoch": now - float(rng.integers(121, 10**6))}


def a_snapshot_without_a_clock(_: Rng, fields: dict[str, str], __: float) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "ts_epoch"}


def a_snapshot_from_the_future(rng: Rng, fields: dict[str, str], now: float) -> dict[str, Any]:
    return {**fields, "ts_epoch": now + float(rng.integers(10, 10**6))}


def a_required_number_that_is_none(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    name = ("entry_price", "mark_price", "quantity")[rng.integers(3)]
    junk = ("nan", "None", "N/A", "1,250.00", "-", "inf", "0x10", "1_0")[rng.integers(8)]
    return {**fields, name: junk}


def a_position_nobody_trades_on(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    return {**fields, "source": ("example", "paper", "mock", "sim")[rng.integers(4)]}


KINDS = (
    *map(
        of_candles,
        (
            updates_of_a_running_candle, candles_of_another_length, minutes_without_a_candle, a_hole_that_leaves_too_little,
            candles_that_have_stopped, candles_from_the_future, a_market_without_trades, many_minutes_that_are_no_prices,
            a_label_that_is_not_live, a_closed_flag_nobody_understands,
        ),
    ),
    *map(
        of_position,
        (
            no_position_known, a_mark_of_another_market, a_profit_of_other_units, a_notional_of_other_units, an_old_snapshot,
            a_snapshot_without_a_clock, a_snapshot_from_the_future, a_required_number_that_is_none, a_position_nobody_trades_on,
        ),
    ),
)  # fmt: skip


@pytest.mark.parametrize("turn", range(PASSES))
def test_nothing_opens_on_what_is_wrong_and_everything_on_what_is_right(
    make_store, instance: dg.DagsterInstance, turn: int
) -> None:
    """Each kind once permitted to open, or stopped a symbol without a word."""
    rng = np.random.default_rng(turn)
    symbols = [f"M{number:03}USDT" for number in range(EACH + RIGHT)]
    store: RedisStore = make_store(symbols=",".join(symbols))
    faults: dict[str, Callable[[Rng, RedisStore, str], None]] = {}
    for number, symbol in enumerate(symbols):
        closes = random_closes(turn * 1000 + number, WINDOW)
        write_candles(store, symbol, closes)
        write_position(store, symbol, entry=closes[-1] * 0.999, mark=closes[-1])
        write_target(store, symbol)
        write_efficiency(store, symbol)
        if number >= RIGHT:
            faults[symbol] = KINDS[rng.integers(len(KINDS))]
            faults[symbol](rng, store, symbol)
    write_equity(store)
    run_cycle(store, instance)
    desk = Desk(store)
    for symbol in symbols:
        desk.plan(f"open-{symbol}", symbol)
    desk.decide()
    outcomes = {symbol: desk.outcome(f"open-{symbol}") for symbol in symbols}
    opened = Counter(faults[symbol].__name__ for symbol in faults if not outcomes[symbol])
    assert opened == {}
    assert {symbol: outcomes[symbol] for symbol in symbols[:RIGHT]} == dict.fromkeys(symbols[:RIGHT], "")
