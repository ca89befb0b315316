"""The inputs as documented are what the readers take: every name, every example, every field that is said to be required."""

import json
import math

import pytest

from quantum_core.contracts.inputs import (
    ATTRIBUTION,
    CANDLE,
    DAILY_PNL,
    EQUITY,
    FILL,
    INPUTS,
    LOSSES,
    PLAN,
    POSITION,
    TARGET,
    Input,
)
from quantum_core.contracts.tables import CANDLE_KEYS
from quantum_core.kernels.capital.efficiency_hint import CLOCK_FIELDS
from resources.governor import plan
from resources.governor.account import read_account, utc_date
from resources.inputs import candle_layouts, foreign, position_parsing, position_snapshots
from resources.inputs.candles import CandleReader
from resources.inputs.positions import PositionReader
from resources.store.redis_store import RedisStore

SYMBOL = "BTCUSDT"
ENTRY = "1769083199000-0"


def takes(store: RedisStore, one: Input, fields: dict[str, str]) -> bool:
    """Write an input as another program does, and tell whether its reader can use it."""
    client, of = store.client, store.keys.of
    key = of(one.keys[0], utc_date(store.clock()) if one is DAILY_PNL else SYMBOL)
    client.delete(key)
    if one is CANDLE:
        return _takes_candles(store, fields)
    if one in (FILL, PLAN):
        client.xadd(key, fields, id=ENTRY)
    else:
        client.hset(key, mapping={"of_no_interest": "1", **fields})
    if one is POSITION:
        return PositionReader(store).read([SYMBOL])[0].value is not None
    if one is FILL:
        return bool(foreign.read_executions(store, {one.keys[0]: (0, 0)})[one.keys[0]].by_symbol)
    if one is PLAN:
        return not plan.parse_plan(ENTRY, client.xrange(key)[0][1]).invalid and fields.get("decision") == "EXECUTE"
    if one in (ATTRIBUTION, TARGET):
        return foreign.read_scored(store, one.keys[0], one.fields[0].names[0], [SYMBOL])[0].status == "ok"
    account = read_account(store).account
    numbers = (account.equity, account.peak, account.age_sec, account.daily_pnl, account.consecutive_losses)
    return all(map(math.isfinite, numbers))


def _takes_candles(store: RedisStore, fields: dict[str, str]) -> bool:
    key = store.keys.of("candles_history", SYMBOL)
    store.client.delete(key)
    times = (*CANDLE.fields[0].names, *next(field.names for field in CANDLE.fields if "close_time" in field.names))
    for back in range(300):
        member = {name: value if name == "source" else json.loads(value) for name, value in fields.items()}
        member |= {name: member[name] - back * 60_000 for name in times if name in member}
        store.client.zadd(key, {json.dumps({**member, "n": back}): 1769083140000 - back * 60_000})
    reading = CandleReader(store).read([SYMBOL])[0]
    return reading.value is not None and len(reading.value.close) == 300


@pytest.fixture
def one_symbol(make_store) -> RedisStore:
    store = make_store(symbols=SYMBOL)
    equity = {field.names[0]: field.example for field in EQUITY.fields}
    store.client.hset(store.keys.of("equity"), mapping=equity)
    return store


@pytest.mark.parametrize("one", INPUTS, ids=lambda one: one.keys[0])
def test_the_examples_are_taken_by_each_of_their_names_and_what_is_required_is_needed(one_symbol, one) -> None:
    first = {field.names[0]: field.example for field in one.fields}
    if not one.fields:
        assert one is LOSSES
        return
    assert takes(one_symbol, one, first)
    for field in one.fields:
        others = {name: value for name, value in first.items() if name != field.names[0]}
        if field.names == ("action",):  # a plan that says reduceOnly needs none
            others.pop("reduceOnly")
        assert takes(one_symbol, one, others) is not field.required, field.names
        for name in field.names:
            assert takes(one_symbol, one, {**others, name: field.example}), name


def vars_of(shape: candle_layouts.Names) -> list[str]:
    """Give every field a layout uses."""
    found = [getattr(shape, name) for name in shape.__slots__]
    return [one for part in found for one in (part if isinstance(part, tuple) else (part,))]


def test_losses_are_a_number(one_symbol) -> None:
    for text, usable in (("3", True), ("many", False)):
        one_symbol.client.set(one_symbol.keys.of("consecutive_losses"), text)
        assert takes(one_symbol, EQUITY, {field.names[0]: field.example for field in EQUITY.fields}) is usable


def test_every_name_a_reader_knows_is_documented() -> None:
    names = {one.keys[0]: {field.names for field in one.fields} for one in INPUTS}
    assert CANDLE.keys == CANDLE_KEYS
    for documented in names["candles_zset"]:  # the table of layouts has more spellings of each
        shape = candle_layouts.names_of(tuple(dict.fromkeys(("close", *documented))))
        assert documented[0] in ("source", *vars_of(shape)), documented
    parsed = (
        position_parsing.AMOUNT_NAMES,
        position_parsing.MARK_NAMES,
        position_parsing.CLOCK_NAMES,
        position_parsing.LABEL_NAMES,
    )
    assert {*parsed, position_snapshots.OPENED_NAMES} <= names["raw_position"]
    assert {foreign.PNL_FIELDS, foreign.TRADE_ID_FIELDS, foreign.FILL_TIME_FIELDS} <= names["stream_execution"]
    assert tuple(CLOCK_FIELDS) in names["attribution"] & names["base_target"]
    assert {field.names[0] for field in PLAN.fields if field.required} == set(plan.REQUIRED)
    assert {name for field in PLAN.fields for name in field.names} >= set(plan.NUMBERS)
