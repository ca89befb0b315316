"""Candles as others write them: every layout, every kind of trouble named, one symbol never the trouble of another."""

import json

import numpy as np
import orjson
import pytest
from numpy.testing import assert_array_equal

from quantum_core.contracts.reading import State
from quantum_core.settings import load_settings
from resources.inputs.candle_columns import columns_of, uniform_columns
from resources.inputs.candles import KEY_BYTES_MAX, CandleReader
from resources.store.redis_store import RedisStore

MINUTE_MS = 60_000
SYMBOL = "BTCUSDT"


@pytest.fixture(params=["valkey_url", "redis_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Both servers: the script has to mean the same on each."""
    return request.getfixturevalue(request.param)


def members_until(now: float, count: int, *, first_close: float = 100.0, **more: object) -> list[dict[str, object]]:
    """Closed candles whose last one ends now; the closes count up from the first."""
    end = int(now * 1000)
    return [
        {
            "open_time": end - (count - row) * MINUTE_MS,
            "close": first_close + row,
            "high": first_close + row + 0.5,
            "low": 99.0,
            **more,
        }
        for row in range(count)
    ]


def write_zset(store: RedisStore, name: str, members: list[object], scores: list[float] | None = None) -> None:
    texts = [member if isinstance(member, bytes) else json.dumps(member).encode() for member in members]
    store.client.zadd(store.keys.of(name, SYMBOL), dict(zip(texts, scores or range(len(texts)), strict=True)))


def write_list(store: RedisStore, name: str, members: list[object]) -> None:
    texts = [member if isinstance(member, bytes) else json.dumps(member).encode() for member in members]
    store.client.rpush(store.keys.of(name, SYMBOL), *texts)


def read_one(store: RedisStore, **options: int):
    return CandleReader(store).read([SYMBOL], **options)[0]


@pytest.mark.parametrize("name", ["candles_zset", "candles_quantum", "candles_klines"])
@pytest.mark.parametrize("write", [write_zset, write_list])
def test_sorted_sets_and_lists_of_objects_are_read_oldest_first(store, clock, name, write):
    """Three writers, two layouts each; all of them are in use."""
    write(store, name, members_until(clock.now.timestamp(), 5))
    candles = read_one(store).value
    assert_array_equal(candles.close, [100, 101, 102, 103, 104])
    assert_array_equal(candles.high, candles.close + 0.5)
    assert (candles.key, candles.source, candles.malformed) == (store.keys.of(name, SYMBOL), "candles", 0)
    assert candles.newest_epoch_sec == clock.now.timestamp() - 60  # its open time: these writers give no close time


def test_history_gives_the_close_time_of_its_newest_candle(store, clock):
    """Freshness counts from the end of a candle, not from its beginning."""
    members = members_until(clock.now.timestamp(), 3)
    for member in members:
        member["close_time"] = member["open_time"] + MINUTE_MS - 1
    write_zset(store, "candles_history", members, [member["open_time"] for member in members])
    assert read_one(store).value.newest_epoch_sec == pytest.approx(clock.now.timestamp(), abs=0.01)


def test_a_string_with_a_json_array_is_read(store, clock):
    """The oldest of the layouts, with short field names and times in seconds."""
    rows = [{"t": member["open_time"] // 1000, "c": str(member["close"])} for member in members_until(clock.now.timestamp(), 4)]
    store.client.set(store.keys.of("candles_json", SYMBOL), json.dumps(rows))
    candles = read_one(store).value
    assert_array_equal(candles.close, [100, 101, 102, 103])
    assert_array_equal(candles.high, candles.close)
    assert np.diff(candles.open_time_ms).tolist() == [MINUTE_MS] * 3


def test_the_first_key_that_exists_wins(store, clock):
    """The order of the keys is part of the contract, and the one used is published."""
    write_list(store, "candles_klines", members_until(clock.now.timestamp(), 3, first_close=7))
    write_list(store, "candles_zset", members_until(clock.now.timestamp(), 3, first_close=9))
    assert read_one(store).value.key == store.keys.of("candles_zset", SYMBOL)


def test_bare_numbers_take_their_time_from_a_plausible_score_only(store, clock):
    """A score may be a time or a mere rank; a rank must not make candles fifty years old."""
    times = [clock.now.timestamp() - 60 * back for back in (3, 2, 1)]
    write_zset(store, "candles_zset", [b"1.5", b"2.5", b"3.5"], times)
    assert_array_equal(read_one(store).value.open_time_ms, np.array(times) * 1000)
    store.client.delete(store.keys.of("candles_zset", SYMBOL))
    write_zset(store, "candles_zset", [b"1.5", b"2.5", b"3.5"])
    ranked = read_one(store).value
    assert_array_equal(ranked.open_time_ms, [0, 0, 0])
    assert (ranked.newest_epoch_sec, ranked.close.tolist()) == (0, [1.5, 2.5, 3.5])


def test_bare_numbers_in_a_list_have_no_time(store):
    """Nothing is invented: an unknown time is 0."""
    write_list(store, "candles_zset", [b"1.5", b"2.5"])
    assert_array_equal(read_one(store).value.open_time_ms, [0, 0])


def test_order_is_restored_and_the_last_of_two_equal_candles_wins(store, clock):
    """A writer that corrects a candle appends it again."""
    members = members_until(clock.now.timestamp(), 4)
    write_list(store, "candles_zset", [members[2], members[0], members[1], members[3], {**members[1], "close": 555.0}])
    candles = read_one(store).value
    assert_array_equal(candles.close, [100, 555, 102, 103])
    assert (np.diff(candles.open_time_ms) > 0).all()


def test_a_window_full_of_duplicates_is_read_further_back(store, clock):
    """A writer that repeats each candle must not starve the kernel of its 257."""
    members = [member for member in members_until(clock.now.timestamp(), 300) for _ in range(3)]
    write_list(store, "candles_zset", members)
    assert len(read_one(store).value.close) == 300


def test_only_the_window_is_kept(store, clock):
    """The kernel's answer must not depend on how much history a key happens to hold."""
    write_list(store, "candles_zset", members_until(clock.now.timestamp(), 500))
    candles = read_one(store).value
    assert len(candles.close) == store.settings.marketstate_window_size
    assert candles.close[-1] == 599
    assert_array_equal(read_one(store, window=5).value.close, candles.close[-5:])


@pytest.mark.parametrize("flag", [{"is_closed": False}, {"x": False}, {"is_closed": "false"}, {"is_closed": "FALSE "}])
def test_an_unclosed_candle_is_ignored_when_it_says_so(store, clock, flag):
    """A price that still moves would make every evaluation different."""
    members = members_until(clock.now.timestamp() + 60, 3, is_closed=True)
    members[-1] = {name: value for name, value in members[-1].items() if name != "is_closed"} | flag
    write_list(store, "candles_zset", members)
    assert_array_equal(read_one(store).value.close, [100, 101])


@pytest.mark.parametrize(
    "member", [b"{", b"hello", b"[1, 2]", b"null", b"true", b'{"open": 1}', b'{"close": "x"}', b'{"close": true}', b"\xff"]
)
def test_one_malformed_member_in_many_is_skipped_and_counted(store, clock, member):
    """One bad write must not take a symbol down."""
    write_list(store, "candles_zset", [*members_until(clock.now.timestamp(), 150), member])
    candles = read_one(store).value
    assert (len(candles.close), candles.malformed) == (150, 1)


def test_more_than_one_percent_of_malformed_members_is_unreadable(store, clock):
    """So many bad members are not noise but another format."""
    write_list(store, "candles_zset", [*members_until(clock.now.timestamp(), 150), b"{", b"["])
    reading = read_one(store)
    assert (reading.state, reading.reason) == (
        State.FAILED,
        f"candles_unreadable: 2 of 152 members of {store.keys.of('candles_zset', SYMBOL)} are malformed: one is no JSON",
    )


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("NaN", "price_nan"), ("null", "price_nan"), ('"N/A"', "price_nan"), ('""', "price_nan"), ("Infinity", "price_infinite"),
        ("-Infinity", "price_infinite"), ("0", "price_zero"), ('"0.0"', "price_zero"), ("-3", "price_negative"),
        ("1e300", "price_out_of_range"), ("1.1e24", "price_out_of_range"), ('"9e-25"', "price_out_of_range"),
    ],
)  # fmt: skip
def test_a_minute_without_a_price_is_a_missing_minute_and_counted(store, clock, text, trouble):
    """One of them among 300 took the state away for five hours."""
    members = members_until(clock.now.timestamp(), 4)
    members[1] = f'{{"open_time": {members[1]["open_time"]}, "close": {text}}}'.encode()
    write_list(store, "candles_zset", members)
    candles = read_one(store).value
    assert_array_equal(candles.close, [100, 102, 103])
    assert (candles.malformed, candles.left_out) == (0, {trouble: 1})


def test_candles_none_of_which_has_a_price_are_refused_by_that_name(store, clock):
    """Nothing is left to compute from, and the reason must not read "no candles"."""
    write_list(store, "candles_zset", [{**member, "close": None} for member in members_until(clock.now.timestamp(), 3)])
    assert read_one(store).reason == "price_nan: 3 candles (candles:BTCUSDT:1m)"


@pytest.mark.parametrize("spoilt", [{"high": None}, {"high": 0}, {"low": -1}, {"low": float("nan")}, {"high": float("inf")}])
def test_a_high_or_low_that_is_none_is_the_close(store, clock, spoilt):
    """A peak from it would move a stop."""
    members = members_until(clock.now.timestamp(), 3)
    members[1] |= spoilt
    write_list(store, "candles_zset", members)
    candles = read_one(store).value
    assert np.isfinite(candles.high).all()
    assert (candles.low > 0).all()
    assert 101 in (candles.high[1], candles.low[1])


def test_a_key_of_the_wrong_type_is_named_and_harms_nobody_else(store, clock):
    """The first existing key decides; falling through to the next would mix two feeds."""
    store.client.hset(store.keys.of("candles_zset", SYMBOL), "a", "b")
    write_list(store, "candles_quantum", members_until(clock.now.timestamp(), 3))
    store.client.rpush(store.keys.of("candles_quantum", "ETHUSDT"), *map(json.dumps, members_until(clock.now.timestamp(), 3)))
    broken, fine = CandleReader(store).read([SYMBOL, "ETHUSDT"])
    assert (broken.state, broken.reason) == (State.FAILED, "candles_unreadable: candles:BTCUSDT:1m is a hash")
    assert fine.state is State.PRESENT


@pytest.mark.parametrize("text", ["{", "{}", "7", ""])
def test_a_string_that_is_no_array_is_unreadable(store, text):
    """Better no state than one from half a file."""
    store.client.set(store.keys.of("candles_json", SYMBOL), text)
    assert read_one(store).reason.startswith("candles_unreadable: quantum:candles:BTCUSDT:1m is not")


def test_no_key_is_absent_and_never_becomes_synthetic(store):
    """The old publisher invented prices here, in production."""
    reading = read_one(store)
    assert (reading.state, reading.value, reading.reason) == (State.ABSENT, None, "candles_missing")


def test_candles_go_stale_after_two_intervals_and_five_minutes(store, clock):
    """A feed that stopped must not look like a quiet market."""
    write_list(store, "candles_zset", members_until(clock.now.timestamp(), 3))
    clock.advance(360)  # the newest one opened a minute before
    assert read_one(store).state is State.PRESENT
    clock.advance(1)
    assert (read_one(store).state, read_one(store).reason) == (State.FAILED, "candles_stale: 421s (candles:BTCUSDT:1m)")


def test_a_candle_from_the_future_is_refused(store, clock):
    """A wrong clock at the writer would look fresh for ever."""
    write_list(store, "candles_zset", members_until(clock.now.timestamp() + 120, 3))
    assert read_one(store).state is State.PRESENT
    write_list(store, "candles_zset", members_until(clock.now.timestamp() + 121, 1))
    assert read_one(store).reason.startswith("candles_in_future")


@pytest.mark.parametrize(
    ("label", "source"),
    [
        ("replay", "replay"), ("Replay ", "replay"), ("example", "replay"), ("kline", "replay"), (7, "replay"),
        ("synthetic", "synthetic"), (" SYNTHETIC", "synthetic"), ("synthetic_v2", "synthetic"),
        ("", "candles"), (None, "candles"), ("candles", "candles"), ("Live", "candles"), ("exchange", "candles"), ("binance", "candles"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("extra", [{}, {"volume": 1}])
def test_one_labelled_member_labels_all(store, clock, label, source, extra):
    """What is computed from one replayed candle is not live; nor is what an unknown label says. An extra field in the first
    member must not hide the labels of the others.
    """
    members = members_until(clock.now.timestamp(), 3)
    members[0] |= extra
    members[1]["source"] = label
    if extra:
        members[2]["source"] = label
        members[1] |= {"n": 1}
    write_list(store, "candles_zset", members)
    assert read_one(store).value.source == source


def test_synthetic_prices_need_no_server_and_repeat_exactly(clock):
    """Explicit, labelled and deterministic, or not at all."""
    reader = CandleReader(RedisStore(load_settings(redis_url="redis://127.0.0.1:1/0", marketstate_source="synthetic"), clock))
    first, second = reader.read([SYMBOL])[0].value, reader.read([SYMBOL])[0].value
    assert (first.source, len(first.close), len(first.open_time_ms)) == ("synthetic", 300, 300)
    assert_array_equal(first.close, second.close)
    clock.advance(60)
    assert_array_equal(reader.read([SYMBOL])[0].value.close[:-1], first.close[1:])


def test_many_symbols_come_back_in_the_order_asked_for(store, clock):
    """More symbols than one batch: an answer at the wrong symbol would be a wrong price."""
    symbols = [f"S{number}" for number in range(300)]
    for number, symbol in enumerate(symbols):
        store.client.rpush(
            store.keys.of("candles_zset", symbol),
            *map(json.dumps, members_until(clock.now.timestamp(), 2, first_close=1 + number)),
        )
    readings = CandleReader(store).read(symbols)
    assert [reading.symbol for reading in readings] == symbols
    assert [reading.value.close[0] for reading in readings] == list(range(1, 301))


def test_the_fast_and_the_careful_way_agree(clock):
    """Two implementations of one format: the fast one for members that are all alike, the careful one for all others."""
    members = orjson.loads(orjson.dumps(members_until(clock.now.timestamp(), 50, source="replay", is_closed=True)))
    fast = uniform_columns(members, b"", MINUTE_MS)
    careful, malformed = columns_of([*members, 7.0], b"", MINUTE_MS)
    assert malformed == 0
    for name in ("open_time_ms", "close_time_ms", "high", "low", "close"):
        assert_array_equal(getattr(careful, name)[:-1], getattr(fast, name))
    assert careful.labels == fast.labels == {"replay"}


@pytest.mark.parametrize("member", [b'{"close": 1,\t\t ,"a": 2}', b"1\t\t ,2", b"\t\t ,", b'{"close": 1, "a": "\t\t ,"}'])
def test_a_member_with_odd_white_space_troubles_its_own_symbol_only(store, clock, member):
    """Members come joined into one text; one that contained the joint raised out of the read and took all symbols down."""
    write_list(store, "candles_zset", [*members_until(clock.now.timestamp(), 150), member])
    store.client.rpush(store.keys.of("candles_zset", "ETHUSDT"), *map(json.dumps, members_until(clock.now.timestamp(), 3)))
    odd, fine = CandleReader(store).read([SYMBOL, "ETHUSDT"])
    assert odd.reason == "candles_unreadable: a member of candles:BTCUSDT:1m contains b'\\t\\t ,', which joins members"
    assert fine.state is State.PRESENT


def test_trouble_nobody_foresaw_stays_with_its_symbol(store, clock, monkeypatch):
    """Whatever one symbol's candles do to the decoder, the others are still read."""
    for symbol in (SYMBOL, "ETHUSDT"):
        store.client.rpush(store.keys.of("candles_zset", symbol), *map(json.dumps, members_until(clock.now.timestamp(), 3)))
    decode = CandleReader._decode

    def stumbling(self, name, reply, window):
        if SYMBOL.encode() in reply[0]:
            message = "strange"
            raise AttributeError(message)
        return decode(self, name, reply, window)

    monkeypatch.setattr(CandleReader, "_decode", stumbling)
    odd, fine = CandleReader(store).read([SYMBOL, "ETHUSDT"])
    assert (odd.state, odd.reason) == (State.FAILED, "candles_unreadable: AttributeError: strange")
    assert fine.state is State.PRESENT


@pytest.mark.parametrize("layout", ["list", "zset", "string"])
def test_an_oversized_key_is_named_and_not_fetched(store, clock, layout):
    """One key of hundreds of megabytes made the whole cycle run into its time limit."""
    members = [b'"%d%s"' % (number, b"x" * 100_000) for number in range(KEY_BYTES_MAX // 100_000 + 1)]
    if layout == "string":
        key = store.keys.of("candles_json", SYMBOL)
        store.client.set(key, b"[" + b",".join(members) + b"]")
    else:
        key = store.keys.of("candles_zset", SYMBOL)
        (write_list if layout == "list" else write_zset)(store, "candles_zset", members)
    store.client.rpush(store.keys.of("candles_zset", "ETHUSDT"), *map(json.dumps, members_until(clock.now.timestamp(), 3)))
    big, fine = CandleReader(store).read([SYMBOL, "ETHUSDT"])
    assert (big.state, big.reason) == (State.FAILED, f"candles_unreadable: larger than {KEY_BYTES_MAX} bytes: {key}")
    assert fine.state is State.PRESENT


@pytest.mark.parametrize("off_ms", [-1, 2 * MINUTE_MS + 1, 10**12])
def test_a_close_time_that_does_not_belong_to_its_candle_makes_it_malformed(store, clock, off_ms):
    """Week-old candles with a close time in the future were fresh for ever."""
    members = members_until(clock.now.timestamp(), 150)
    for member in members:
        member["close_time"] = member["open_time"] + MINUTE_MS - 1
    members[-1]["close_time"] = members[-1]["open_time"] + off_ms
    write_list(store, "candles_zset", members)
    assert (len(read_one(store).value.close), read_one(store).value.malformed) == (149, 1)


def test_a_close_more_than_one_interval_ahead_is_refused(store, clock):
    """A candle that closes in the future cannot be closed."""
    members = members_until(clock.now.timestamp() + 61, 3)
    for member in members:
        member["close_time"] = member["open_time"] + MINUTE_MS
    write_list(store, "candles_zset", members)
    assert read_one(store).reason.startswith("candles_in_future: 61s")


def test_a_close_time_alone_is_judged_too(store, clock):
    """Without an open time the close time is the only clock there is."""
    write_list(store, "candles_zset", [{"close": 1.0, "close_time": int(clock.now.timestamp() * 1000) + 10**9}])
    assert read_one(store).reason.startswith("candles_in_future")


def test_an_unclosed_candle_is_ignored_when_only_it_says_so(store, clock):
    """The first member has the same number of fields, but not the same ones."""
    members = [{**member, "volume": 1} for member in members_until(clock.now.timestamp(), 3)]
    write_list(store, "candles_zset", [*members, {**members_until(clock.now.timestamp() + 60, 1)[0], "is_closed": False}])
    assert_array_equal(read_one(store).value.close, [100, 101, 102])


@pytest.mark.parametrize("opened", [0, -5, 1e300, "0", "１７６９０８３２００", "1_769_083_200", "soon-12:00"])
def test_an_open_time_that_cannot_be_makes_a_member_malformed(store, clock, opened):
    """0 would say "unknown" of a candle that claims to know."""
    members = members_until(clock.now.timestamp(), 150)
    members[7]["open_time"] = opened
    write_list(store, "candles_zset", members)
    assert read_one(store).value.malformed == 1


def test_iso_times_are_understood(store, clock):
    """Some writers spell times out; without a zone they mean UTC."""
    members = members_until(clock.now.timestamp(), 3)
    for member, spelling in zip(members, ["{}", "{}+00:00", "{}Z"], strict=True):
        member["open_time"] = spelling.format(np.datetime64(member["open_time"], "ms"))
    write_list(store, "candles_zset", members)
    assert read_one(store).value.open_time_ms[-1] == clock.now.timestamp() * 1000 - MINUTE_MS


@pytest.mark.parametrize("price", ["1_00", "１００"])
def test_a_price_no_other_reader_would_accept_is_malformed(store, clock, price):
    """Python alone reads these as 100."""
    members = members_until(clock.now.timestamp(), 150)
    members[7]["close"] = price
    write_list(store, "candles_zset", members)
    assert read_one(store).value.malformed == 1


def change(rng: np.random.Generator, texts: list[bytes], made: int) -> list[bytes]:
    """Do to a key what writers do to it: append, trim, correct, label, leave open, spoil."""
    now_ms = 1_769_083_200_000 + made * MINUTE_MS
    candle = {"open_time": now_ms, "close": float(rng.integers(1, 9)), "close_time": now_ms + 59_999, "is_closed": True}
    kind = rng.choice(["append"] * 4 + ["twice", "trim", "correct", "open", "replay", "spoil", "swap", "same", "timeless"])
    if kind in ("append", "twice"):
        later = {**candle, "open_time": now_ms + MINUTE_MS, "close_time": now_ms + MINUTE_MS + 59_999}
        return texts + [json.dumps(one).encode() for one in ([candle, later] if kind == "twice" else [candle])]
    if kind == "trim":
        return texts[int(rng.integers(0, 4)) :] or texts
    if kind == "correct":
        row = int(rng.integers(0, len(texts)))
        return [
            *texts[:row],
            json.dumps({**candle, "open_time": now_ms - 90 * MINUTE_MS, "close_time": now_ms - 89 * MINUTE_MS}).encode(),
            *texts[row + 1 :],
        ]
    if kind == "timeless":
        return [*texts, json.dumps({"close": float(rng.integers(1, 99))}).encode()]
    if kind == "swap":
        return [*texts[1:], texts[0]]
    added = {"open": {"is_closed": False}, "replay": {"source": "replay"}, "spoil": {"close": "x"}, "same": {"close_time": None}}[
        kind
    ]
    return [*texts, json.dumps({**candle, **added}).encode()]


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("layout", ["zset", "list"])
def test_what_was_parsed_before_changes_no_reading(store, clock, layout, seed):
    """A reader that remembers must see every correction a writer makes, or it computes from candles that are no more."""
    rng = np.random.default_rng(seed)
    texts, name = (
        [json.dumps(one).encode() for one in members_until(clock.now.timestamp() - 9000, 8)],
        store.keys.of("candles_zset", SYMBOL),
    )
    for made in range(12):
        texts = change(rng, texts, made)
        store.client.delete(name)
        if layout == "list":
            store.client.rpush(name, *texts)
        else:
            store.client.zadd(name, {text: 1_769_080_000 + 60 * row + made * (seed % 2) for row, text in enumerate(texts)})
        fresh = RedisStore(store.settings, clock, store.client)
        remembering, anew = (CandleReader(one).read([SYMBOL], window=6)[0] for one in (store, fresh))
        assert (remembering.state, remembering.reason) == (anew.state, anew.reason)
        if anew.value is not None:
            assert (remembering.value.source, remembering.value.malformed) == (anew.value.source, anew.value.malformed)
            for column in ("open_time_ms", "high", "low", "close"):
                assert_array_equal(getattr(remembering.value, column), getattr(anew.value, column), strict=True)


def test_candles_that_go_on_are_not_parsed_again(store, clock, monkeypatch):
    """Hundreds of symbols, three hundred candles each: parsing them anew took a third of a cycle."""
    members = members_until(clock.now.timestamp(), 12)
    write_zset(store, "candles_zset", members[:11])
    read_one(store)
    parsed = []
    for module in ("candles", "candle_replies"):
        monkeypatch.setattr(
            f"resources.inputs.{module}.decoded_members", lambda _, joined, count: parsed.append(count) or [orjson.loads(joined)]
        )
    write_zset(store, "candles_zset", members[11:], scores=[11])
    assert read_one(store).value.close.tolist() == [member["close"] for member in members]
    assert read_one(store).value.close.tolist() == [member["close"] for member in members]
    assert parsed == [1]
