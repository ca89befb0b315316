"""Every layout of candles people have: one row of the table, one test each, and what looks like one and is not."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_core.contracts.reading import State
from resources.inputs.candle_columns import columns_of
from resources.inputs.candle_layouts import FlagError, Row, row_of, says_closed, unwrapped
from resources.inputs.candles import CandleReader
from resources.store.redis_store import RedisStore
from tests.world import FIELD_PASSES

MINUTE_MS = 60_000
SYMBOL = "BTCUSDT"

_T = 1769083200000  # 22 January 2026, 12:00 UTC
LAYOUTS = (  # name, one closed candle of it
    ("ours", {"open_time": _T, "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": 9, "close_time": _T + 59_999, "is_closed": True}),
    ("binance_rest", [_T, "1", "3", "0.5", "2", "9", _T + 59_999, "18", 4, "5", "10", "0"]),
    ("binance_stream", {"e": "kline", "E": _T + 60_001, "s": "BTCUSDT", "k": {"t": _T, "T": _T + 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 4, "o": "1", "c": "2", "h": "3", "l": "0.5", "v": "9", "n": 4, "x": True, "q": "18", "V": "5", "Q": "10", "B": "0"}}),
    ("binance_k", {"t": _T, "T": _T + 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 4, "o": "1", "c": "2", "h": "3", "l": "0.5", "v": "9", "n": 4, "x": True, "q": "18", "V": "5", "Q": "10", "B": "0"}),
    ("bybit_rest", [str(_T), "1", "3", "0.5", "2", "9", "18"]),
    ("bybit_stream", {"topic": "kline.1.BTCUSDT", "type": "snapshot", "ts": _T + 60_003, "data": [{"start": _T, "end": _T + 59_999, "interval": "1", "open": "1", "close": "2", "high": "3", "low": "0.5", "volume": "9", "turnover": "18", "confirm": True, "timestamp": _T + 60_001}]}),
    ("bybit_row", {"start": _T, "end": _T + 59_999, "interval": "1", "open": "1", "close": "2", "high": "3", "low": "0.5", "volume": "9", "turnover": "18", "confirm": True, "timestamp": _T + 60_001}),
    ("okx", [str(_T), "1", "3", "0.5", "2", "9", "0.07", "18", "1"]),
    ("okx_stream", {"arg": {"channel": "candle1m", "instId": "BTC-USDT"}, "data": [[str(_T), "1", "3", "0.5", "2", "9", "0.07", "18", "1"]]}),
    ("cryptofeed", {"exchange": "BINANCE", "symbol": "BTC-USDT", "start": _T / 1000, "stop": _T / 1000 + 59.999, "interval": "1m", "trades": 4, "open": 1.0, "close": 2.0, "high": 3.0, "low": 0.5, "volume": 9.0, "closed": True, "timestamp": _T / 1000 + 60.1, "receipt_timestamp": _T / 1000 + 60.2}),
    ("ccxt", [_T, 1.0, 3.0, 0.5, 2.0, 9.0]),
    ("kraken_rest", [_T // 1000, "1", "3", "0.5", "2", "1.9", "9", 4]),
    ("kraken_stream", {"channel": "ohlc", "type": "update", "timestamp": "2026-01-22T12:01:00.3Z", "data": [{"symbol": "BTC/USD", "open": 1, "high": 3, "low": 0.5, "close": 2, "trades": 4, "volume": 9, "vwap": 1.9, "interval_begin": "2026-01-22T12:00:00.000000000Z", "interval": 1, "timestamp": "2026-01-22T12:01:00.000000Z"}]}),
    ("coinbase_rest", [_T // 1000, 0.5, 3, 1, 2, 9]),
    ("coinbase_advanced", {"start": str(_T // 1000), "low": "0.5", "high": "3", "open": "1", "close": "2", "volume": "9"}),
    ("gate", {"t": str(_T // 1000), "o": "1", "h": "3", "l": "0.5", "c": "2", "v": 9, "n": "1m_BTC_USDT", "a": "18", "w": True}),
    ("gate_rest", [str(_T // 1000), "18", "2", "3", "0.5", "1", "9", "true"]),
    ("gate_thin", [_T // 1000, 0.1, 2, 3, 0.5, 1, 9, True]),
    ("mexc", [_T, "1", "3", "0.5", "2", "9", _T + 60_000, "18"]),
    ("mexc_numbers", [_T, 1, 3, 0.5, 2, 9, _T + 60_000, 18]),
    ("kraken_numbers", [_T // 1000, 1, 3, 0.5, 2, 1.9, 9, 4]),
    ("status", {"time": _T, "open": "1", "high": "3", "low": "0.5", "close": "2", "volume": "9", "status": "closed"}),
    ("freqtrade", {"date": _T, "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": 9}),
    ("hyperliquid", {"t": _T, "T": _T + 59_999, "s": "BTC", "i": "1m", "o": "1", "c": "2", "h": "3", "l": "0.5", "v": "9", "n": 4}),
    ("dydx", {"startedAt": "2026-01-22T12:00:00.000Z", "ticker": "BTC-USD", "resolution": "1MIN", "low": "0.5", "high": "3", "open": "1", "close": "2", "baseTokenVolume": "9", "usdVolume": "18", "trades": 4}),
    ("alpaca", {"t": "2026-01-22T12:00:00Z", "o": 1, "h": 3, "l": 0.5, "c": 2, "v": 9, "n": 4, "vw": 1.9}),
    ("woo", {"start_timestamp": _T, "end_timestamp": _T + 60_000, "type": "1m", "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": 9}),
    ("time_open", {"time_open": "2026-01-22T12:00:00Z", "time_close": "2026-01-22T12:00:59.999Z", "timestamp": "2026-01-22T12:00:59.999Z", "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": 9}),
    ("timescale", {"bucket": "2026-01-22 12:00:00+00:00", "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": 9}),
    ("camel_case", {"openTime": _T, "closeTime": _T + 59_999, "open": "1", "high": "3", "low": "0.5", "close": "2", "volume": "9", "isFinal": True}),
)  # fmt: skip


def read(member: Any, score_ms: int = 0) -> Row | None:
    inner, _, runs = unwrapped(json.loads(json.dumps(member)))
    return None if runs else row_of(inner, score_ms, MINUTE_MS)


@pytest.mark.parametrize(("name", "member"), LAYOUTS, ids=[name for name, _ in LAYOUTS])
def test_a_layout_is_read(name: str, member: Any) -> None:
    """The same candle in every house's words."""
    row = read(member)
    assert row is not None, name
    assert (row.opened_ms, row.high, row.low, row.close, row.volume) == (_T, 3, 0.5, 2, 9)
    assert row.closed_ms == 0 or MINUTE_MS - 1 <= row.closed_ms - _T <= MINUTE_MS


@pytest.mark.parametrize(("name", "member"), LAYOUTS, ids=[name for name, _ in LAYOUTS])
def test_many_members_of_a_layout_read_as_each_alone(name: str, member: Any) -> None:
    """Two ways to read one format: the fast one for members that are alike, the careful one for others."""
    together, malformed = columns_of([json.loads(json.dumps(member))] * 3, b"", MINUTE_MS)
    row = read(member)
    assert row is not None, name
    assert malformed == 0
    assert [together.open_time_ms[0], together.high[0], together.low[0], together.close[0], together.volume[0]] == [
        row.opened_ms, row.high, row.low, row.close, row.volume,
    ]  # fmt: skip
    assert together.flagged == row.flagged


@pytest.mark.parametrize("flag", [False, 0, "false", "0", "0.0", "No", " open ", "n", 0.0, "running"])
@pytest.mark.parametrize(
    "name",
    ["is_closed", "isClosed", "closed", "x", "w", "confirm", "confirmed", "isFinal", "is_final", "final", "complete", "isComplete",
     "Completed", "finished", "candle_closed"],
)  # fmt: skip
def test_a_running_candle_is_left_out_whatever_it_calls_its_flag(name: str, flag: Any) -> None:
    """Every update of a running candle counted as a closed minute: sigma came out four times too small."""
    candle = {"open_time": _T, "close": 2}
    assert read({**candle, name: flag}) is None
    row = read({**candle, name: "yes" if isinstance(flag, str) else 1 - int(flag)})
    assert row is not None
    assert row.flagged


@pytest.mark.parametrize("name", ["is_open", "running", "partial", "inProgress", "incomplete", "unclosed"])
def test_a_flag_that_says_running_is_turned_round(name: str) -> None:
    """`partial: true` is a running candle, and `partial: false` a closed one."""
    assert read({"t": _T, "c": 2, name: True}) is None
    row = read({"t": _T, "c": 2, name: False})
    assert row is not None
    assert row.flagged


@pytest.mark.parametrize(
    ("field", "value"),
    [("candleDone", False), ("bar_finalised", 1), ("is_last_closed", False), ("barIsFinal", "no"), ("klineComplete", False)],
)
def test_what_looks_like_a_closed_flag_and_is_unknown_is_named(field: str, value: Any) -> None:
    """Passing it over would count running candles as closed."""
    with pytest.raises(FlagError, match=field):
        read({"t": _T, "c": 2, field: value})


@pytest.mark.parametrize("value", ["maybe", 2, -1, "", "2", [], {}, 0.5])
def test_a_flag_that_is_neither_yes_nor_no_is_named(value: Any) -> None:
    """Unknown is not closed."""
    with pytest.raises(FlagError, match="closed-flag x="):
        read({"t": _T, "c": 2, "x": value})


@pytest.mark.parametrize("word", ["open", " Running", "partial", "FORMING", "unconfirmed"])
@pytest.mark.parametrize("name", ["status", "state", "candle_status", "klineState"])
def test_a_state_in_words_says_whether_a_candle_has_closed(name: str, word: str) -> None:
    """`status: open` was passed over, and updates of a running candle counted; other states are those of the market."""
    assert read({"t": _T, "c": 2, name: word}) is None
    for market in ("TRADING", "ok", 1, None):
        row = read({"t": _T, "c": 2, name: market})
        assert row is not None
        assert not row.flagged


def test_one_flag_in_two_spellings_says_two_things() -> None:
    """Whoever merges two writers has `is_closed` of the one and `isClosed` of the other: the second was lost."""
    for fields in (
        {"is_closed": True, "isClosed": False},
        {"status": "closed", "Status": "open"},
        {"isOpen": False, "is_open": True},
    ):
        assert read({"t": _T, "c": 2, **fields}) is None


@pytest.mark.parametrize("last", ["false", "FALSE", False, "no"])
def test_a_running_row_of_gate_is_left_out(last: Any) -> None:
    """Read as Kraken's, its flag was the count of trades, its low the close, and its volume the VWAP."""
    assert read([str(_T // 1000), "18", "2", "3", "0.5", "1", "9", last]) is None


@pytest.mark.parametrize("candle", [{"t": _T, "c": 2}, [[_T, 1, 3, 0.5, 2, 9]]], ids=["object", "array"])
@pytest.mark.parametrize(
    ("around", "runs"),
    [
        ({"confirm": False}, True), ({"isFinal": "no"}, True), ({"partial": 1}, True), ({"candleState": "open"}, True),
        ({"confirm": True}, False), ({"confirm": None}, False), ({"state": "open"}, False), ({"x": False}, False),
    ],
)  # fmt: skip
def test_a_message_may_say_of_its_candle_that_it_runs(candle: Any, around: dict[str, Any], *, runs: bool) -> None:
    """Updates of a running candle counted where the flag stood beside `data`; a state there is that of the market."""
    columns, malformed = columns_of([{**around, "data": candle}] * 2, b"", MINUTE_MS)
    assert (len(columns.close), malformed) == (0 if runs else 2, 0)


def test_a_flag_of_a_message_that_is_neither_yes_nor_no_is_named() -> None:
    with pytest.raises(FlagError, match="closed-flag closed="):
        read({"closed": "perhaps", "data": {"t": _T, "c": 2}})


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ({"testnet": True}, "replay"), ({"env": "testnet"}, "replay"), ({"mode": "Paper"}, "replay"), ({"is_simulated": "yes"}, "replay"),
        ({"backtest": 1}, "replay"), ({"synthetic": "true"}, "synthetic"), ({"environment": "sandbox", "source": "binance"}, "replay"),
        ({"testnet": False, "env": "production", "mode": None}, "candles"), ({"paper": "no", "source": "live"}, "candles"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("around", [False, True])
def test_candles_that_say_in_other_fields_that_they_are_not_live_are_not(store, clock, said, source, around) -> None:
    """Candles of a testnet were live for whoever writes `testnet: true` beside them, and openings were permitted by them."""
    members = [{"t": one, "c": 2} for one in minutes(clock.now.timestamp(), 3)]
    write(store, [{**said, "data": one} if around else {**one, **said} for one in members])
    assert candles_of(store).source == source


def test_a_flag_left_empty_says_nothing() -> None:
    """Cryptofeed writes null where an exchange does not tell."""
    assert says_closed("closed", None) is None
    row = read({"start": _T, "close": 2, "closed": None})
    assert row is not None
    assert not row.flagged


@pytest.mark.parametrize(
    "field", ["closeTime", "close_time", "previousClose", "finalPrice", "closedAt", "quote_volume", "complexity"]
)
def test_fields_that_merely_sound_like_a_flag_are_none(field: str) -> None:
    """A candle must not be lost to a field nobody needs."""
    value = _T + 59_999 if field.endswith(("Time", "_time")) else 7
    assert read({"open_time": _T, "close": 2, field: value}) is not None


def test_an_event_time_is_no_opening_time() -> None:
    """Members by the time of their event were candles four seconds apart."""
    row = read({"start": _T, "close": 2, "timestamp": _T + 4321})
    assert row is not None
    assert (row.opened_ms, row.version) == (_T, _T + 4321)
    alone = read({"timestamp": _T, "close": 2})
    assert alone is not None
    assert alone.opened_ms == _T


@pytest.mark.parametrize("unit", [0.001, 1, 1000, 1_000_000])
def test_clocks_in_s_ms_us_and_ns_are_one(unit: float) -> None:
    """Spot archives changed to microseconds in 2025."""
    row = read({"t": int(_T * unit), "T": int(_T * unit + 59_999 * unit), "c": 2})
    assert row is not None
    assert (row.opened_ms, row.closed_ms // 1000) == (_T, (_T + 59_999) // 1000)


@pytest.mark.parametrize(
    "member", [[_T, 1, 2, 3, 0.5, 9], [_T, 1, 2], [_T] * 10, [[1, 2]], ["x", 1, 3, 0.5, 2, 9], [_T, 1, 0.5, 3, 2, 9], []]
)
def test_arrays_in_another_order_or_length_are_malformed(member: Any) -> None:
    """Open, close, high, low (KuCoin, Bitfinex) read as open, high, low, close would be invented prices."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        read(member)


def test_a_close_a_little_beyond_the_high_is_still_that_order() -> None:
    """Writers that round, or take their high from another source, are read as they stand."""
    row = read([str(_T), "43001", "43010", "42999", "43013.5", "3.1", "0.07", "3010", "1"])
    assert row is not None
    assert (row.close, row.high, row.low) == (43013.5, 43010, 42999)


def test_a_candle_of_another_length_is_named() -> None:
    """Five-minute candles under a one-minute key gave a sigma of five minutes."""
    with pytest.raises(FlagError, match="candles of '5m', want 60 s"):
        read({"start": _T, "close": 2, "interval": "5m"})
    assert read({"start": _T, "close": 2, "interval": "60s"}) is not None


def test_a_replay_in_an_envelope_stays_a_replay() -> None:
    """The label of the message is the label of the candle in it."""
    columns, _ = columns_of([{"source": "replay", "data": [[_T, 1, 3, 0.5, 2, 9]]}], b"", MINUTE_MS)
    assert "replay" in columns.labels


@settings(max_examples=200 * FIELD_PASSES, deadline=None)
@given(
    member=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=12)
            | st.dictionaries(
                st.sampled_from(["open_time", "t", "T", "k", "data", "c", "close", "x", "closed", "volume", "interval"]), inner
            )
        ),
        max_leaves=15,
    )
)
def test_whatever_a_member_is_reading_it_ends_in_a_row_or_a_fault(member: Any) -> None:
    """Nothing one member holds stops the others."""
    columns, malformed = columns_of([member, member], b"", MINUTE_MS)
    assert malformed in (0, 2)
    assert len(columns.close) in (0, 2)


def write(store: RedisStore, members: list[Any], scores: list[float] | None = None) -> None:
    key = store.keys.of("candles_quantum", SYMBOL)
    if scores is None:
        store.client.rpush(key, *map(json.dumps, members))
    else:
        store.client.zadd(key, dict(zip(map(json.dumps, members), scores, strict=True)))


def candles_of(store: RedisStore, **options: int) -> Any:
    (reading,) = CandleReader(store).read([SYMBOL], **options)
    assert reading.state is State.PRESENT, reading.reason
    return reading.value


def minutes(now: float, count: int) -> list[int]:
    """Opening times of closed candles, the last of which ends now, in ms."""
    return [int(now * 1000) - (count - row) * MINUTE_MS for row in range(count)]


def test_running_updates_beside_closed_ones_are_no_candles(store, clock):
    """Fifteen updates a minute, each by its own event time: the closed one counts, and enough members are read to find 300."""
    members, scores = [], []
    for row, opened in enumerate(minutes(clock.now.timestamp(), 310)):
        for update in range(15):
            event = opened + 4000 * update + 1300
            members.append(
                {"start": opened / 1000, "close": 100 + row, "closed": update == 14, "timestamp": event / 1000, "u": update}
            )
            scores.append(event / 1000)
    write(store, members, scores)
    candles = candles_of(store)
    assert len(candles.close) == 300
    assert set(np.diff(candles.open_time_ms)) == {MINUTE_MS}


@pytest.mark.parametrize("window", [1, 5])
def test_a_key_full_of_updates_of_the_running_candle_is_read_further_back(store, clock, window):
    """The newest closed candle stands behind hundreds of updates; "no candles" would be wrong."""
    *closed, running = minutes(clock.now.timestamp() + 60, 8)
    updates = [{"t": running, "c": 9, "x": False, "u": one} for one in range(400)]
    write(store, [*({"t": one, "c": 1 + row, "x": True} for row, one in enumerate(closed)), *updates])
    assert candles_of(store, window=window).close.tolist() == [1.0, 2, 3, 4, 5, 6, 7][-window:]


def test_two_versions_under_one_score_contradict_each_other(store, clock):
    """A sorted set has them in the order of their bytes: nobody can tell which was written last, so that minute is missing."""
    opened = minutes(clock.now.timestamp(), 4)
    write(store, [{"t": one, "c": 100} for one in opened] + [{"t": opened[2], "c": 99.5}], [*opened, opened[2]])
    candles = candles_of(store)
    assert candles.open_time_ms.tolist() == [opened[0], opened[1], opened[3]]
    assert candles.left_out == {"candles_contradict": 1}


@pytest.mark.parametrize("newer", [{"timestamp": 9}, {"closed": True}])
def test_of_two_versions_under_one_score_the_newer_or_closed_one_wins(store, clock, newer):
    """Where a version says its time, or that it is closed, the order of bytes does not matter."""
    opened = minutes(clock.now.timestamp(), 3)
    older = {"timestamp": (opened[1] + 60_000) / 1000} if "timestamp" in newer else {}
    final = {"timestamp": (opened[1] + 60_500) / 1000} if "timestamp" in newer else newer
    write(
        store,
        [{"open_time": one, "close": 100, **older} for one in opened] + [{"open_time": opened[1], "close": 103.2, **final}],
        [*opened, opened[1]],
    )
    assert candles_of(store).close.tolist() == [100, 103.2, 100]
    assert candles_of(store).close.tolist() == [100, 103.2, 100]  # as remembered


def test_a_version_under_a_later_score_wins_also_when_it_comes_later(store, clock):
    """What was parsed without scores is read again when a second version of a candle appears."""
    opened = minutes(clock.now.timestamp(), 3)
    write(store, [{"t": one, "c": 100 + row} for row, one in enumerate(opened)], opened)
    assert candles_of(store).close.tolist() == [100, 101, 102]
    write(store, [{"t": opened[2], "c": 7}], [opened[2] + 1])
    assert candles_of(store).close.tolist() == [100, 101, 7]


@pytest.mark.parametrize("count", [50, 1000])
def test_a_list_with_the_newest_first_is_read_from_its_head(store, clock, count):
    """LPUSH and LTRIM is how many keep the newest: its tail is a day old."""
    members = [{"open_time": one, "close": 1 + row} for row, one in enumerate(minutes(clock.now.timestamp(), count))]
    write(store, members[::-1])
    for _ in range(2):
        assert candles_of(store).close[-1] == count
        assert candles_of(store, window=1).close.tolist() == [count]
    store.client.delete(store.keys.of("candles_quantum", SYMBOL))
    write(store, members)
    assert candles_of(store).close[-1] == count


def test_the_first_of_two_versions_wins_in_a_list_with_the_newest_first(store, clock):
    """There the last written stands before the others."""
    opened = minutes(clock.now.timestamp(), 4)
    write(store, [{"t": opened[3], "c": 7}, *({"t": one, "c": 100} for one in opened[::-1])])
    assert candles_of(store).close.tolist() == [100, 100, 100, 7]


def test_a_candle_that_runs_by_the_clock_and_says_nothing_is_left_out_until_it_ends(store, clock):
    """Answers of exchanges end with the candle that runs, and arrays have no flag."""
    opened = minutes(clock.now.timestamp() + 60, 4)
    write(store, [[one, 1, 3, 0.5, 2, 9] for one in opened])
    assert len(candles_of(store).close) == 3
    assert candles_of(store).newest_epoch_sec == clock.now.timestamp()
    clock.advance(60)
    assert len(candles_of(store).close) == 4


def test_a_flag_nobody_understands_is_unreadable_by_name(store, clock):
    """The reason names the field, not a count of malformed members alone."""
    write(store, [{"t": one, "c": 1, "candleDone": True} for one in minutes(clock.now.timestamp(), 5)])
    (reading,) = CandleReader(store).read([SYMBOL])
    assert reading.reason == (
        "candles_unreadable: 5 of 5 members of quantum:candles:BTCUSDT are malformed: "
        "'candleDone' looks like a closed-flag and is not understood"
    )


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ({"t": "22.01.2026 12:00", "c": 2}, "one is {'t': '22.01.2026 12:00', 'c': 2}"),
        ([1, 2], "one is [1, 2]"),
        ({"t": 1, "c": "2,5"}, "one is {'t': 1, 'c': '2,5'}"),
        ({"x": "\x1b[31m" + "y" * 500}, "one is {'x': '\\x1b[31m"),
    ],
)
def test_malformed_members_are_shown(store, member, words):
    """A count alone told nobody what the writer does wrong."""
    write(store, [member])
    (reading,) = CandleReader(store).read([SYMBOL])
    assert reading.reason.startswith(f"candles_unreadable: 1 of 1 members of quantum:candles:BTCUSDT are malformed: {words}")
    assert len(reading.reason) < 250


def test_members_none_of_which_has_closed_are_not_called_missing_alone(store, clock):
    """The writer writes: only what it writes has not closed, or every minute has two versions."""
    opened = minutes(clock.now.timestamp(), 3)
    write(store, [{"t": one, "c": 2, "x": False} for one in opened])
    assert CandleReader(store).read([SYMBOL])[0].reason == "candles_missing: none of 3 has closed"
    store.client.flushdb()
    write(store, [{"t": one, "c": close} for one in opened for close in (2, 3)], [one for one in opened for _ in range(2)])
    assert CandleReader(store).read([SYMBOL])[0].reason == "candles_contradict: 3 candles (quantum:candles:BTCUSDT)"


def test_bytes_that_are_no_text_cost_nothing_where_nobody_needs_them(store, clock):
    """A note in Latin-1 is no price; a label in it is none known to be live, a flag in it none that is understood."""
    opened = minutes(clock.now.timestamp(), 3)
    key = store.keys.of("candles_quantum", SYMBOL)
    for field, reason in (("note", ""), ("source", ""), ("closed", "candles_unreadable")):
        store.client.delete(key)
        store.client.rpush(key, *(b'{"t": %d, "c": 2, "%b": "caf\xe9"}' % (one, field.encode()) for one in opened))
        (reading,) = CandleReader(store).read([SYMBOL])
        assert reading.reason.startswith(reason)
        assert reading.value is None or (len(reading.value.close), reading.value.source) == (
            3,
            "candles" if field == "note" else "replay",
        )


def test_a_window_of_bad_minutes_only_leaves_nothing(store, clock):
    """Volumes nobody can read are unknown, and trouble nobody."""
    write(store, [{"t": one, "c": 2, "v": "many"} for one in minutes(clock.now.timestamp(), 3)])
    assert all(map(math.isnan, candles_of(store).volume))
