"""The feed against an exchange that misbehaves, and a real Redis: what is written is what was published, whole, or named."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from quantum_assets.checks.evidence import PACKAGES
from quantum_core.settings import load_settings
from resources.inputs.candles import CandleReader
from resources.store.redis_store import RedisStore
from tests.feeds.binance import MINUTE_MS, FakeExchange, exchange, prices
from tests.servers import valkey
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-feed" / "bin" / "python"
SYMBOLS = ("BTCUSDT", "ETHUSDT")
IN_FLIGHT = 4  # requests at a time, as the feed has it
COUNT = 330  # MARKETSTATE_WINDOW_SIZE and the margin


@pytest.fixture
def server() -> Iterator[FakeExchange]:
    with exchange(*SYMBOLS) as one:
        yield one


@pytest.fixture
def store() -> Iterator[RedisStore]:
    with valkey() as one:
        yield RedisStore(load_settings(redis_url=one.connection_url, symbols=",".join(SYMBOLS)))


def start(
    server: FakeExchange, store: RedisStore, *options: str, url: str = "", program: Sequence[str] = ("-m", "quantum_feed")
) -> subprocess.Popen[str]:
    if not PYTHON.exists():
        pytest.fail("the feed's environment is missing: make feed")
    environment = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": url or store.settings.url,
        "SYMBOLS": ",".join(store.settings.symbols),
    }
    command = [str(PYTHON), *program, "--url", server.url, "--json", *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@contextmanager
def feeding(server: FakeExchange, store: RedisStore, **more: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run the feed, and stop it also when the test fails."""
    process = start(server, store, **more)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def once(server: FakeExchange, store: RedisStore, *options: str, url: str = "") -> tuple[int, list[dict], str]:
    with start(server, store, "--once", *options, url=url) as process:
        out, err = process.communicate(timeout=100)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def written(store: RedisStore, symbol: str) -> dict[int, dict]:
    members = store.client.zrange(store.keys.of("candles_history", symbol), 0, -1)
    return {json.loads(member)["open_time"]: json.loads(member) for member in members}


def holes(store: RedisStore, symbol: str) -> list[int]:
    times = sorted(written(store, symbol))
    return [one for one in range(times[0], times[-1], MINUTE_MS) if one not in times]


@pytest.mark.slow
def test_the_history_is_filled_with_closed_candles_the_product_reads_as_live(server, store) -> None:
    code, rounds, err = once(server, store)
    assert code == 0, err
    assert rounds[-1]["missing"] == 0
    for reading in CandleReader(store).read(SYMBOLS):
        assert reading.value is not None, reading.reason
        assert reading.value.source == "candles"
        assert len(reading.value.close) == store.settings.marketstate_window_size
    candles = written(store, "BTCUSDT")
    assert len(candles) in (COUNT, COUNT + 1)
    assert holes(store, "BTCUSDT") == []
    assert max(candles) + MINUTE_MS <= server.now_ms()  # the one under way is not there
    for opened, body in candles.items():
        assert [f"{body[name]:.2f}" for name in ("open", "high", "low", "close", "volume")] == prices("BTCUSDT", opened)


@pytest.mark.slow
@pytest.mark.parametrize("skew_sec", [-90, 90])
def test_closed_is_what_the_exchanges_clock_says(server, store, skew_sec) -> None:
    server.skew_ms = skew_sec * 1000
    code, rounds, err = once(server, store)
    assert code == 0, err
    assert rounds[-1]["skew_sec"] == pytest.approx(-skew_sec, abs=1)
    assert "our clock is" in err
    newest = max(written(store, "BTCUSDT")) + MINUTE_MS
    assert server.now_ms() - 2 * MINUTE_MS < newest <= server.now_ms()


@pytest.mark.slow
def test_a_gap_the_exchange_has_is_named_and_never_filled(server, store) -> None:
    gone = {server.now_ms() // MINUTE_MS * MINUTE_MS - back * MINUTE_MS for back in (20, 21, 50)}
    server.missing = gone
    code, rounds, err = once(server, store)
    assert code == 0, err
    assert rounds[-1]["absent"] == dict.fromkeys(SYMBOLS, 3)
    assert set(holes(store, "BTCUSDT")) == gone
    assert err.count("a gap stays a gap") == len(SYMBOLS)
    assert " UTC (2), " in err or " UTC (2);" in err


@pytest.mark.slow
def test_rows_out_of_order_doubled_malformed_or_unclosed_harm_nobody(server, store) -> None:
    def alter(symbol: str, rows: list) -> list:
        bad = [
            [rows[0][0] + 1, "1", "2", "1", "1", "1"],
            [rows[0][0], "0", "2", "1", "1", "1"],
            [rows[0][0], "nan", "2", "1", "1", "1"],
        ]
        return [*reversed(rows), *rows, *bad] if symbol == "BTCUSDT" else rows

    server.alter = alter
    code, rounds, err = once(server, store)
    assert code == 0, err
    assert holes(store, "BTCUSDT") == []
    assert len(written(store, "BTCUSDT")) in (COUNT, COUNT + 1)
    assert sum(rounds[0]["rejected"].values()) >= 2
    opened = min(written(store, "BTCUSDT"))
    assert f"{written(store, 'BTCUSDT')[opened]['open']:.2f}" == prices("BTCUSDT", opened)[0]


@pytest.mark.slow
def test_candles_that_somebody_deletes_are_fetched_again(server, store) -> None:
    """A flushed server, or one that came back with an older copy: what the feed remembers of it is no proof."""
    with feeding(server, store) as process:
        wait_for("all candles", lambda: len(written(store, "BTCUSDT")) >= COUNT)
        asked = server.asked["/fapi/v1/klines"]
        store.client.flushall()
        wait_for("all candles of both", lambda: all(len(written(store, one)) >= COUNT for one in ("BTCUSDT", "ETHUSDT")), 90)
        assert server.asked["/fapi/v1/klines"] <= asked + 8
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert "candles have gone from Redis" in err


@pytest.mark.slow
def test_a_market_that_fails_costs_the_others_no_requests(server, store) -> None:
    """It is asked for again every few seconds; those that are whole wait for their next candle."""
    failed = Counter()

    def trouble(path: str) -> int | None:
        if "ETHUSDT" not in path:
            return None
        failed["ETHUSDT"] += 1
        return 400

    server.trouble = trouble
    with feeding(server, store) as process:
        wait_for("four failures", lambda: failed["ETHUSDT"] >= 4, 60)
        process.terminate()
        process.communicate(timeout=20)
    assert server.asked["/fapi/v1/klines"] - failed["ETHUSDT"] <= 3  # the fill, and a candle that closed meanwhile
    assert len(written(store, "BTCUSDT")) >= COUNT


@pytest.mark.slow
def test_a_candle_the_exchange_corrects_is_replaced_aloud(server, store) -> None:
    assert once(server, store)[0] == 0
    corrected = max(written(store, "BTCUSDT"))

    def alter(_: str, rows: list) -> list:
        return [[row[0], "500.00", "501.00", "499.00", "500.50", *row[5:]] if row[0] == corrected else row for row in rows]

    server.alter = alter
    code, rounds, err = once(server, store)
    assert code == 0
    assert rounds[-1]["corrected"] == 2
    assert "has corrected the candle" in err
    assert written(store, "BTCUSDT")[corrected]["close"] == 500.5


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["reset", 500, 503])
def test_answers_that_fail_are_asked_for_again(server, store, trouble) -> None:
    failures = iter([trouble] * 2)
    server.trouble = lambda path: next(failures, None) if "klines" in path else None
    code, rounds, err = once(server, store)
    assert code == 0, err
    assert rounds[0]["failed"]
    assert holes(store, "BTCUSDT") == holes(store, "ETHUSDT") == []


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["exchangeInfo", "time", "klines"])
@pytest.mark.parametrize("status", [429, 418])
def test_an_exchange_that_asks_for_fewer_requests_gets_none_for_as_long_as_it_says(server, store, status, asked) -> None:
    server.headers = {"Retry-After": "7"}
    moments = []

    def trouble(path: str) -> int | None:
        if moments or asked in path:
            moments.append(time.monotonic())
            return status if len(moments) == 1 else None
        return None

    server.trouble = trouble
    code, _, err = once(server, store)
    assert code == 0, err
    assert "none for" in err
    after_the_first = [one for one in moments[1:] if one - moments[0] > 0.5]
    assert min(after_the_first) - moments[0] >= 7


@pytest.mark.slow
def test_an_unknown_and_a_delisted_symbol_are_named_and_the_others_go_on(server, store) -> None:
    server.symbols["ETHUSDT"] = "SETTLING"
    wide = RedisStore(store.settings.model_copy(update={"symbols": ("BTCUSDT", "ETHUSDT", "BTCUSD")}))
    code, _, err = once(server, wide)
    assert code == 1
    assert "BTCUSD: the exchange has no such active market; similar: BTCUSDT" in err
    assert "ETHUSDT: the exchange has no such active market" in err
    assert holes(store, "BTCUSDT") == []


@pytest.mark.slow
def test_markets_that_come_back_from_maintenance_or_are_listed_are_fed(server, store) -> None:
    """A process that gave up would be started five times, and then no more."""
    impatient = ("-c", "import quantum_feed.__main__ as feed; feed.LISTED_AGAIN_SEC = 1.0; feed.feed()")
    server.symbols |= dict.fromkeys(SYMBOLS, "SETTLING")
    with feeding(server, store, program=impatient) as process:
        time.sleep(5)
        assert process.poll() is None
        for symbol in SYMBOLS:
            server.symbols[symbol] = "TRADING"
            wait_for(f"a candle of {symbol}", lambda symbol=symbol: written(store, symbol) != {}, 90)
            assert holes(store, symbol) == []


@pytest.mark.slow
def test_a_market_that_is_delisted_while_it_is_fed_is_named_and_the_others_go_on(server, store) -> None:
    """Without trades its candles look calm; the list of markets says that it has ended."""
    program = (
        "-c",
        "import quantum_feed.__main__ as feed; feed.LISTING_SEC = 2.0; feed._until_next_close = lambda *_: 1.0; feed.feed()",
    )
    with feeding(server, store, program=program) as process:
        wait_for("all candles of both", lambda: all(len(written(store, one)) >= COUNT for one in ("BTCUSDT", "ETHUSDT")))
        server.symbols["ETHUSDT"] = "SETTLING"
        before = server.asked["/fapi/v1/exchangeInfo"]
        wait_for("a look at the listing", lambda: server.asked["/fapi/v1/exchangeInfo"] > before)
        time.sleep(3)
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert err.count("ETHUSDT: the exchange has taken this market off its list, or paused it; its candles end") == 1
    assert "BTCUSDT: the exchange has" not in err


@pytest.mark.slow
def test_a_pause_holds_also_for_what_was_about_to_be_asked(server, store) -> None:
    """Requests during a ban make it longer."""
    names = [f"X{number}USDT" for number in range(12)]
    server.symbols = dict.fromkeys(names, "TRADING")
    server.headers = {"Retry-After": "3"}
    moments = []

    def trouble(path: str) -> int | None:
        if "klines" in path:
            moments.append(time.monotonic())
            return 429 if len(moments) == 3 else None
        return None

    server.trouble = trouble
    code, _, err = once(server, RedisStore(store.settings.model_copy(update={"symbols": tuple(names)})))
    assert code == 0, err
    since = [moment - moments[2] for moment in moments[3:]]
    assert len([sec for sec in since if sec < 3]) <= IN_FLIGHT - 1  # those were on their way
    assert all(sec < 0.5 or sec >= 3 for sec in since)


@pytest.mark.slow
def test_a_market_without_a_candle_is_no_success(server, store) -> None:
    server.alter = lambda symbol, rows: [] if symbol == "ETHUSDT" else rows
    code, _, err = once(server, store)
    assert code == 1
    assert "ETHUSDT: the exchange has not a single candle" in err
    assert holes(store, "BTCUSDT") == []


@pytest.mark.slow
def test_an_answer_that_makes_the_library_stumble_costs_only_its_symbol(server, store) -> None:
    server.alter = lambda symbol, rows: {"a": 1} if symbol == "BTCUSDT" else [rows[0], None, *rows[1:]]
    code, rounds, err = once(server, store)
    assert code == 1, err
    assert rounds[-1]["failed"].keys() == {"BTCUSDT"}
    assert holes(store, "ETHUSDT") == []


@pytest.mark.slow
def test_a_candle_that_comes_late_is_waited_for(server, store) -> None:
    newest, answers = server.now_ms() // MINUTE_MS * MINUTE_MS - MINUTE_MS, Counter()

    def alter(symbol: str, rows: list) -> list:
        answers[symbol] += 1
        return [row for row in rows if row[0] < newest] if answers[symbol] < 3 else rows

    server.alter = alter
    code, _, err = once(server, store)
    assert code == 0, err
    assert all(newest in written(store, symbol) for symbol in SYMBOLS)


@pytest.mark.slow
def test_the_spot_market_is_asked_for_when_it_is_wanted_and_the_perpetual_otherwise(server, store) -> None:
    """Both have the same ids."""
    for market, path in (("future", "/fapi/v1/klines"), ("spot", "/api/v3/klines")):
        server.asked.clear()
        code, _, err = once(server, store, "--market", market, "--take-over")
        assert code == 0, err
        assert [one for one in server.asked if one.endswith("klines")] == [path]
        assert {body["feed"] for body in written(store, "BTCUSDT").values()} == {f"binance:{market}:1m"}


@pytest.mark.slow
def test_another_writers_candles_are_left_alone_unless_told_otherwise(server, store) -> None:
    key = store.keys.of("candles_history", "BTCUSDT")
    store.client.zadd(key, {'{"open_time":60000,"source":"replay"}': 60000})
    code, rounds, _ = once(server, store)
    assert code == 1
    assert "another writer" in rounds[-1]["failed"]["BTCUSDT"]
    assert store.client.zcard(key) == 1
    assert holes(store, "ETHUSDT") == []
    assert once(server, store, "--take-over")[0] == 0
    assert 60000 not in written(store, "BTCUSDT")


@pytest.mark.slow
def test_candles_of_another_length_or_market_are_another_writers(server, store) -> None:
    """Minutes taken for five minutes, or the spot's closes for the perpetual's, would be invented prices with a live label."""
    assert once(server, store)[0] == 0
    before = written(store, "BTCUSDT")
    label = next(iter(before.values()))["feed"]
    assert label == "binance:future:1m"
    key = store.keys.of("candles_history", "BTCUSDT")
    for other in ("binance:future:5m", "binance:spot:1m"):
        store.client.delete(key)
        members = {json.dumps({**body, "feed": other}, separators=(",", ":")): opened for opened, body in before.items()}
        store.client.zadd(key, members)
        code, rounds, _ = once(server, store)
        assert code == 1
        assert "another writer, market or length" in rounds[-1]["failed"]["BTCUSDT"]
        assert {body["feed"] for body in written(store, "BTCUSDT").values()} == {other}


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_no_hole_remains(server, store) -> None:
    server.alter = lambda _, rows: time.sleep(0.3) or rows  # slow enough to be hit
    with start(server, store) as process:
        time.sleep(2.5)
        process.send_signal(signal.SIGKILL)
    server.alter = lambda _, rows: rows
    code, _, err = once(server, store)
    assert code == 0, err
    assert all(holes(store, symbol) == [] and len(written(store, symbol)) >= COUNT for symbol in SYMBOLS)


@pytest.mark.slow
def test_it_stops_when_told_and_says_when_redis_or_the_exchange_is_away(server, store) -> None:
    code, _, err = once(server, store, url="redis://127.0.0.1:1")
    assert (code, "Redis at 127.0.0.1:1" in err or "redis://127.0.0.1:1" in err) == (3, True)
    assert once(server, store, "--exchange", "binanse")[0] == 2
    with start(server, store) as process:
        assert json.loads(process.stdout.readline())["missing"] == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_without_the_library_the_command_says_how_to_get_it() -> None:
    """It has no place where permits are given."""
    done = subprocess.run([sys.executable, "-m", "quantum_ops.cli", "feed"], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 2
    assert "make feed" in done.stderr
    helped = subprocess.run(
        [sys.executable, "-m", "quantum_ops.cli", "feed", "--help"], capture_output=True, text=True, check=True, cwd="/"
    )
    assert "--take-over" in helped.stdout
    assert "quantum feed --once" in helped.stdout


def test_only_the_feed_imports_the_exchange_and_nobody_imports_the_feed() -> None:
    """Whoever did would bring an exchange library into a process that permits."""
    for folder in PACKAGES:
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            assert "import ccxt" not in text, path
            assert "import quantum_feed" not in text, path
            assert "from quantum_feed" not in text, path
    importers = {path.name for path in (ROOT / "quantum_feed").glob("*.py") if "import ccxt" in path.read_text()}
    assert importers == {"exchange.py"}
