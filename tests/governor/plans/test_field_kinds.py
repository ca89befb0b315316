"""Inputs as the field sends them, wrong in one of many ways, through the whole line: nothing of it may open.

Every example is a market of its own: its candles, its position and its plan are right, but for one fault drawn from a kind, or two. Beside
faulty candles half of the books are flat: then nothing but the candles stands between a plan and its permit. A plan to close must
pass beside all of them that leave something to close, and are live. FIELD_PASSES says how many passes of EACH examples are made
(default 1; 10,000 examples are FIELD_PASSES=50).
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import dagster as dg
import numpy as np
import pytest

from resources.store.redis_store import RedisStore
from tests.governor.desk import Desk
from tests.world import (
    FIELD_PASSES,
    random_closes,
    run_cycle,
    write_candles,
    write_efficiency,
    write_equity,
    write_position,
    write_target,
)

EACH, RIGHT, WINDOW = 200, 20, 300
Rng = np.random.Generator
Rows = list[dict[str, Any]]


def candles(store: RedisStore, symbol: str) -> Rows:
    """Read what stands there, oldest first."""
    return [json.loads(member) for member in store.client.zrange(store.keys.of("candles_history", symbol), 0, -1)]


def replace_candles(store: RedisStore, symbol: str, rows: Rows) -> None:
    key = store.keys.of("candles_history", symbol)
    store.client.delete(key)
    if rows:
        scores = [row.get("open_time", number) if isinstance(row, dict) else int(row[0]) for number, row in enumerate(rows)]
        store.client.zadd(key, dict(zip(map(json.dumps, rows), scores, strict=True)))


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
    labels: list[dict[str, Any]] = [
        *({"source": label} for label in ("replay", "synthetic", "backtest", "paper", "DEMO", "testnet", "binance-replay")),
        *({"testnet": True}, {"env": "testnet"}, {"mode": "paper"}, {"isSimulated": "yes"}, {"dry_run": 1}),
    ]
    return [{**row, **labels[rng.integers(len(labels))]} for row in rows]


def a_closed_flag_nobody_understands(rng: Rng, rows: Rows, _: float) -> Rows:
    word = ("maybe", 2, "closing", {"a": 1}, [], "?", -1, 0.5, "ja", "oui", "是", "true!", "2.0")[rng.integers(13)]
    name = ("is_closed", "x", "closed", "isFinal", "is_final", "confirm", "complete", "final")[rng.integers(8)]
    return [{name: word} | {key: value for key, value in row.items() if key != "is_closed"} for row in rows]


def running_updates_that_say_so_in_other_words(rng: Rng, rows: Rows, _: float) -> Rows:
    name, word = (
        ("is_closed", "false"), ("x", 0), ("closed", " No"), ("confirm", "0.0"), ("isOpen", True), ("partial", "yes"), ("status", "open"),
        ("state", "Running"), ("inProgress", 1), ("klineState", "forming"),
    )[rng.integers(10)]  # fmt: skip
    return [{name: word} | {key: value for key, value in row.items() if key != "is_closed"} for row in rows]


def closes_in_several_units(rng: Rng, rows: Rows, _: float) -> Rows:
    factor = float(rng.choice([1e-8, 1e-3, 0.01, 0.1, 10, 100, 1e3, 1e6]))
    size = int(rng.integers(2, 120))
    for number in rng.choice(np.arange(len(rows) - 250, len(rows) - 1, 2), size, replace=False):  # never two in a row
        rows[number] |= {name: rows[number][name] * factor for name in ("open", "high", "low", "close")}
    return rows


def prices_no_market_has(rng: Rng, rows: Rows, _: float) -> Rows:
    factor = float(rng.choice([1e-300, 1e-30, 1e30, 1e300]))
    return [{**row, **{name: row[name] * factor for name in ("open", "high", "low", "close")}} for row in rows]


def a_dead_market_with_computed_closes(rng: Rng, rows: Rows, _: float) -> Rows:
    last, noise = rows[-1]["close"], float(rng.choice([0, 1e-15, 1e-12, 5e-9]))
    for number in range(len(rows) - int(rng.integers(61, len(rows))), len(rows)):
        rows[number] |= dict.fromkeys(("open", "high", "low", "close"), last * (1 + noise * (number % 2)))
    return rows


def a_dead_market_in_arrays(rng: Rng, rows: Rows, _: float) -> Rows:
    """As Binance, OKX, MEXC, Gate and ccxt have it."""
    house = int(rng.integers(5))
    return [_arrays(row)[house] for row in rows]


def _arrays(row: dict[str, Any]) -> list[Any]:
    opened, ended = row["open_time"], row["close_time"]
    first, high, low, close = (str(row[name]) for name in ("open", "high", "low", "close"))
    return [
        [opened, first, high, low, close, "0", ended, "0", 0, "0", "0", "0"],
        [str(opened), first, high, low, close, "0", "0", "0", "1"],
        [opened, first, high, low, close, "0", ended, "0"],
        [str(opened // 1000), "0", close, high, low, first, "0", "true"],
        [opened, row["open"], row["high"], row["low"], row["close"], 0],
    ]


def every_minute_twice(rng: Rng, rows: Rows, _: float) -> Rows:
    factor = 1 + float(rng.choice([-1, 1])) * float(rng.uniform(1e-6, 0.5))
    return [one for row in rows for one in (row, {**row, "close": row["close"] * factor})]


def of_position(change: Callable[[Rng, dict[str, str], float], dict[str, Any]]) -> Callable[[Rng, RedisStore, str], None]:
    """Make a fault of a change of the fields."""

    def fault(rng: Rng, store: RedisStore, symbol: str) -> None:
        key = store.keys.of("raw_position", symbol)
        fields = {name.decode(): value.decode() for name, value in store.client.hgetall(key).items()}
        changed = change(rng, fields, store.clock().timestamp())
        store.client.delete(key)
        if changed:
            texts = {name: value if isinstance(value, bytes) else str(value) for name, value in changed.items()}
            store.client.hset(key, mapping=texts)

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
    said = (
        "source:example",
        "source:paper",
        "source:dry-run",
        "mode:paper",
        "env:testnet",
        "isPaper:true",
        "dry_run:1",
        "testnet:yes",
    )
    name, _, value = said[rng.integers(len(said))].partition(":")
    return {**fields, name: value}


def flat_with_a_size(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    name, side = ("position_amt", "quantity", "qty")[rng.integers(3)], ("FLAT", "flat", " Flat ")[rng.integers(3)]
    return {**fields, "side": side, name: float(rng.choice([-1, 1])) * float(rng.uniform(1e-6, 1e6))}


def sides_that_contradict_each_other(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    changes: dict[str, Any] = (
        {"positionSide": "SHORT"}, {"posSide": "short"}, {"positionIdx": 2}, {"position_amt": -2}, {"qty": -2}, {"quantity": -2},
        {"side": "SHORT", "position_side": "LONG"}, {"side": "", "positionSide": "LONG", "position_amt": "-5", "quantity": ""},
    )[rng.integers(8)]  # fmt: skip
    return {**fields, **changes}


def sizes_that_contradict_each_other(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    name, factor = ("position_amt", "qty")[rng.integers(2)], float(rng.choice([0.001, 0.1, 0.99, 1.01, 100, 1e3]))
    return {**fields, name: float(fields["quantity"]) * factor}


def marks_that_contradict_each_other(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    factor = float(rng.choice([1e-3, 0.5, 0.97, 1.03, 2, 1e3]))
    return {**fields, "current_price": float(fields["mark_price"]) * factor}


def an_entry_of_other_units(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    factor = float(rng.choice([1e-8, 1e-3, 1e3, 1e6]))
    return {**fields, "entry_price": float(fields["mark_price"]) * factor, "unrealized_pnl": ""}


def bytes_that_are_no_text(rng: Rng, fields: dict[str, str], _: float) -> dict[str, Any]:
    name = ("side", "entry_price", "mark_price", "quantity", "ts_epoch")[rng.integers(5)]
    return {**fields, name: fields[name].encode() + b"\xff"}


def a_key_of_another_type(rng: Rng, store: RedisStore, symbol: str) -> None:
    key = store.keys.of(("raw_position", "candles_history")[rng.integers(2)], symbol)
    store.client.delete(key)
    if rng.integers(2):
        store.client.set(key, "{}")
    else:
        store.client.rpush(key, "{}")


OF_CANDLES = tuple(
    map(
        of_candles,
        (
            updates_of_a_running_candle,
            candles_of_another_length,
            minutes_without_a_candle,
            a_hole_that_leaves_too_little,
            candles_that_have_stopped,
            candles_from_the_future,
            a_market_without_trades,
            many_minutes_that_are_no_prices,
            a_label_that_is_not_live,
            a_closed_flag_nobody_understands,
            running_updates_that_say_so_in_other_words,
            closes_in_several_units,
            prices_no_market_has,
            a_dead_market_with_computed_closes,
            a_dead_market_in_arrays,
            every_minute_twice,
        ),
    )
)
OF_POSITIONS = (
    a_key_of_another_type,
    *map(
        of_position,
        (
            no_position_known, a_mark_of_another_market, a_profit_of_other_units, a_notional_of_other_units, an_old_snapshot,
            a_snapshot_without_a_clock, a_snapshot_from_the_future, a_required_number_that_is_none, a_position_nobody_trades_on,
            flat_with_a_size, sides_that_contradict_each_other, sizes_that_contradict_each_other, marks_that_contradict_each_other,
            an_entry_of_other_units, bytes_that_are_no_text,
        ),
    ),
)  # fmt: skip
NOT_LIVE = {a_label_that_is_not_live.__name__, a_position_nobody_trades_on.__name__}  # shut closings, too


def spoil(rng: Rng, store: RedisStore, symbol: str) -> tuple[str, ...]:
    """Put one fault or two into a market; give their names, and ``flat`` where its book is."""
    kind = int(rng.integers(5))
    if kind == 0:
        both = (OF_CANDLES[rng.integers(len(OF_CANDLES))], OF_POSITIONS[rng.integers(1, len(OF_POSITIONS))])
    else:
        kinds = OF_CANDLES if kind < 3 else OF_POSITIONS
        both = (kinds[rng.integers(len(kinds))],)
    for fault in both:
        fault(rng, store, symbol)
    flat = kind == 1
    if flat:
        key = store.keys.of("raw_position", symbol)
        store.client.delete(key)
        store.client.hset(key, mapping={"side": "FLAT", "ts_epoch": int(store.clock().timestamp())})
    return (*(fault.__name__ for fault in both), *(["flat"] if flat else []))


@pytest.mark.parametrize("turn", range(FIELD_PASSES))
def test_nothing_opens_on_what_is_wrong_and_everything_on_what_is_right(
    make_store, instance: dg.DagsterInstance, turn: int
) -> None:
    """Each kind once permitted to open, or stopped a symbol without a word."""
    rng = np.random.default_rng(turn)
    symbols = [f"M{number:03}USDT" for number in range(EACH + RIGHT)]
    store: RedisStore = make_store(symbols=",".join(symbols))
    faults: dict[str, tuple[str, ...]] = {}
    for number, symbol in enumerate(symbols):
        closes = random_closes(turn * 1000 + number, WINDOW)
        write_candles(store, symbol, closes)
        write_position(store, symbol, entry=closes[-1] * 0.999, mark=closes[-1])
        write_target(store, symbol)
        write_efficiency(store, symbol)
        if number >= RIGHT:
            faults[symbol] = spoil(rng, store, symbol)
    write_equity(store)
    run_cycle(store, instance)
    desk = Desk(store)
    opened = ask(desk, symbols, "OPEN")
    assert Counter(faults[symbol] for symbol in faults if not opened[symbol]) == {}
    assert {symbol: opened[symbol] for symbol in symbols[:RIGHT]} == dict.fromkeys(symbols[:RIGHT], "")
    closed = ask(desk, symbols, "CLOSE")
    refused = Counter((faults.get(symbol, ()), reason) for symbol, reason in closed.items() if reason)
    assert {one: count for one, count in refused.items() if not may_be_refused(*one)} == {}


def may_be_refused(faults: tuple[str, ...], reason: str) -> bool:
    """Tell whether a close beside these faults may be: nothing is held or live, or it is worth too much by the only mark there is."""
    by_its_mark = reason == "daily_limit_exceeded" and a_mark_of_another_market.__name__ in faults
    return by_its_mark or not {"flat", *NOT_LIVE}.isdisjoint(faults)


def ask(desk: Desk, symbols: list[str], action: str) -> dict[str, str | None]:
    """Send one plan per symbol; give what each was refused for, empty for a permit."""
    for symbol in symbols:
        desk.plan(f"{action}-{symbol}", symbol, action)
    for _ in range(20):  # a machine that is busy takes too long for evidence to stay fresh: those are judged again
        desk.decide()
        outcomes = {symbol: desk.outcome(f"{action}-{symbol}") for symbol in symbols}
        if None not in outcomes.values():
            return outcomes
    message = f"undecided: {[symbol for symbol, reason in outcomes.items() if reason is None][:5]}"
    raise AssertionError(message)
