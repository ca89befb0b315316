"""From candles to figures: no look-ahead, what is left out, and what the figures say."""

import re
import zipfile
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from scipy.stats import ttest_1samp

from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.profiles.files import load
from quantum_core.profiles.profile import LOCKED, Profile
from quantum_lab.backtest import BacktestError, Plan, backtest
from quantum_lab.candles import CandleHistory, CandlesError, history_of
from quantum_lab.entries import TRADES, EntriesError, entry_rule, place
from quantum_lab.execution import Costs
from quantum_lab.intervals import holm, mean_interval
from quantum_lab.outcome import max_drawdown
from quantum_lab.states import states_of
from quantum_lab.trade_files import TradeFileError, read_trades
from tests.lab.test_states import walk

HOUR = 3600
SHORT_WINDOWS = {"vol": {"window": 96}, "regime": {"window": 96}, "trend": {"windows": [24, 48, 96]}}


def profiles() -> list[Profile]:
    """Both shipped profiles, with windows short enough for short histories."""
    return [profile.changed({"market_state": SHORT_WINDOWS}) for profile in (LOCKED, load("crypto-1m"))]


def plan(**more) -> Plan:
    return Plan(**({"profiles": profiles(), "entries": entry_rule("every:15m"), "hold_max_sec": 2 * HOUR} | more))


def test_another_future_changes_nothing_that_is_over():
    """Look-ahead would make every figure a lie: trades closed before the cut, and orders that stood, are the same to the last bit."""
    cut = 900
    past = walk(cut)
    futures = [walk(400, seed=seed).with_columns(pl.col("open_time_ms") + cut * 60_000) for seed in (7, 8)]
    scaled = [
        one.with_columns((pl.col(name) * (past["close"][-1] / 100)) for name in ("open", "high", "low", "close"))
        for one in futures
    ]
    done = [backtest([history_of("BTCUSDT", pl.concat([past, one]))], plan()) for one in scaled]
    end = pl.lit(int(past["open_time_ms"][-1]) + 60_000).cast(pl.Datetime("ms", "UTC"))
    for first, second in zip(done[0].results, done[1].results, strict=True):
        columns = ["side", "entry_time", "entry_price", "exit_time", "exit_price", "reason", "R", "mae_R", "mfe_R", "first_stop"]
        before, again = (one.trades.filter(pl.col("exit_time") <= end).select(columns) for one in (first, second))
        assert len(before) > 50
        assert before.equals(again)
        assert not first.trades.select(columns).equals(second.trades.select(columns))


def test_the_profiles_have_the_same_entries_and_each_null_its_pairs():
    done = backtest([history_of("BTCUSDT", walk(900))], plan())
    locked, crypto = done.results
    assert locked.trades.select("side", "entry_time", "entry_price").equals(
        crypto.trades.select("side", "entry_time", "entry_price")
    )
    assert set(crypto.summary["nulls"]) == {"fixed_stop", "chandelier", "no_stop", "random_exit"}
    assert all(one["pairs"] == len(crypto.trades) for one in crypto.summary["nulls"].values())
    assert sum(crypto.summary["reasons"].values()) == crypto.summary["trades"]
    assert sum(crypto.summary["regimes"].values()) == pytest.approx(1)


def test_the_figures_are_those_of_the_trades():
    """A second way to each of them."""
    (result, _) = backtest([history_of("BTCUSDT", walk(900))], plan()).results
    trades, summary = result.trades, result.summary
    r = trades["R"].to_list()
    assert summary["expectancy_R"]["mean"] == pytest.approx(sum(r) / len(r))
    assert summary["win_rate"] == pytest.approx(sum(one > 0 for one in r) / len(r))
    assert summary["profit_factor"] == pytest.approx(sum(one for one in r if one > 0) / -sum(one for one in r if one < 0))
    assert trades["R"].to_numpy() == pytest.approx((trades["pnl_pct"] * trades["entry_price"] / trades["risk"]).to_numpy())
    assert (trades["mae_R"] >= 0).all()
    peak = fall = total = 0.0
    for one in trades.sort("exit_time", maintain_order=True)["R"]:
        total += one
        peak = max(peak, total)
        fall = max(fall, peak - total)
    assert max_drawdown(trades) == pytest.approx(fall)


def test_a_stop_followed_by_a_new_high_is_counted():
    trades = backtest([history_of("BTCUSDT", walk(1500))], plan()).results[1].trades
    judged = trades.filter(pl.col("new_extreme").is_not_null())
    assert len(judged) > 20
    assert 0 < judged["new_extreme"].mean() < 1
    assert (judged["reason"] == "stop").all()


def test_trades_over_a_change_of_unit_are_counted_and_left_out():
    frame = walk(900)
    after = pl.int_range(pl.len()) >= 700
    frame = frame.with_columns(
        (pl.col(name) * pl.when(after).then(10).otherwise(1)).alias(name) for name in ("open", "high", "low", "close")
    )
    (_, result) = backtest([history_of("BTCUSDT", frame)], plan()).results
    assert result.summary["unit_jump"] == (result.trades["reason"] == "unit_jump").sum() > 0
    assert result.summary["trades"] == len(result.trades) - result.summary["unit_jump"]
    assert result.trades["R"].abs().max() < 100


def test_two_symbols_are_one_result():
    histories = [history_of("BTCUSDT", walk(600)), history_of("ETHUSDT", walk(600, seed=2))]
    done = backtest(histories, plan())
    alone = [backtest([one], plan()) for one in histories]
    assert done.results[1].summary["trades"] == sum(one.results[1].summary["trades"] for one in alone)
    assert done.results[1].summary["closes"] == sum(one.results[1].summary["closes"] for one in alone)
    last = [row for row in done.results[1].paths if row["symbol"] == "ETHUSDT"]
    assert last
    assert all(done.results[1].trades["symbol"][row["trade"]] == "ETHUSDT" for row in last)


def test_a_stop_without_distance_is_refused():
    """R would be a division by nothing."""
    none = LOCKED.changed(
        {"market_state": SHORT_WINDOWS, "stops": {"sl_min_pct": 0.0, "k_sl": {"trend": 0.0, "mr": 0.0, "chop": 0.0}}}
    )
    with pytest.raises(BacktestError, match="no risk"):
        backtest([history_of("BTCUSDT", walk(300))], plan(profiles=[none], costs=Costs(5, 0)))


class TestEntries:
    """Made-up entries and those of a desk; what has no place in the candles is named."""

    def test_random_entries_are_those_of_their_seed(self):
        history = history_of("BTCUSDT", walk(900))
        first, again, other = (
            backtest([history], plan(entries=entry_rule("random:40", seed=seed))).results[0].trades["entry_time"]
            for seed in (1, 1, 2)
        )
        assert len(first) == 40
        assert first.equals(again)
        assert not first.equals(other)

    def test_a_side_is_a_side(self):
        trades = (
            backtest([history_of("BTCUSDT", walk(600))], plan(entries=entry_rule("every:30m", side="short"))).results[0].trades
        )
        assert set(trades["side"]) == {"SHORT"}

    @pytest.mark.parametrize("text", ["every:0m", "every:15", "random:0", "random:x", "all"])
    def test_what_is_not_understood_is_refused(self, text: str):
        with pytest.raises(EntriesError, match="accepted are"):
            entry_rule(text)

    def test_trades_without_a_place_are_named_by_reason(self):
        frame = walk(600)
        history = history_of("BTCUSDT", pl.concat([frame[:300], frame[320:]]))
        times = frame["open_time_ms"]
        rows = [
            ("BTCUSDT", "LONG", times[500], frame["open"][500], 1.0, None, None),
            ("BTCUSDT", "LONG", times[0] - 60_000, 100.0, 1.0, None, None),
            ("BTCUSDT", "SHORT", times[-1] + 60_000, 100.0, 1.0, None, None),
            ("BTCUSDT", "LONG", times[310], 100.0, 1.0, None, None),
            ("BTCUSDT", "LONG", times[500], frame["open"][500] * 2, 1.0, None, None),
            ("BTCUSDT", "LONG", times[50], frame["open"][50], 1.0, None, None),
        ]
        theta = profiles()[0]
        usable = states_of(history, theta.theta(MarketStateTheta)).has_state
        chosen = place(pl.DataFrame(rows, schema=TRADES, orient="row"), history, usable)
        assert chosen.left_out == {"before_candles": 1, "after_candles": 1, "in_hole": 1, "price_off": 1, "no_state": 1}
        assert len(chosen.entries) == 1
        assert len(chosen.named) == 5

    def test_without_any_entry_there_is_no_result(self):
        with pytest.raises(BacktestError, match="no entry"):
            backtest([history_of("BTCUSDT", walk(90))], plan())

    def test_the_exits_of_the_desk_are_a_null(self, tmp_path: Path):
        frame = walk(900)
        lines = ["Symbol,Side,Entry Time,Entry Price,Qty,Exit Time,Exit Price"]
        for at in range(300, 700, 20):
            when, later = (pl.from_epoch(pl.Series([frame["open_time_ms"][row]]), "ms")[0].isoformat() for row in (at, at + 30))
            lines.append(f"BTC/USDT,buy,{when},{frame['open'][at]},0.5,{later},{frame['open'][at + 30]}")
        lines.append("BTC/USDT,sideways,2024-01-01,1,1,,")
        lines.append("BTC/USDT,buy,2024-01-02,1,1,2024-01-01,1")
        path = tmp_path / "desk.csv"
        path.write_text("\n".join(lines))
        read = read_trades(path)
        assert (len(read.trades), read.malformed) == (20, 2)
        assert "sideways" in read.named[0]
        assert "before the entry" in read.named[1]
        result = backtest([history_of("BTCUSDT", frame)], plan(entries=None, trades=read.trades)).results[1]
        desk = result.trades["R_desk"].to_numpy() * result.trades["risk"].to_numpy()
        moved = frame["open"].to_numpy()[330:730:20] - frame["open"].to_numpy()[300:700:20]
        fees = 5e-4 * (frame["open"].to_numpy()[330:730:20] + frame["open"].to_numpy()[300:700:20])
        np.testing.assert_allclose(desk, moved - fees, atol=1e-9)

    @pytest.mark.parametrize("name", ["result.json", "result.zip"])
    def test_what_freqtrade_exports_is_read(self, name: str, tmp_path: Path):
        trade = {"pair": "BTC/USDT:USDT", "is_short": True, "open_timestamp": 1_700_000_040_000, "open_rate": 100.0, "amount": 2.0,
                 "close_timestamp": 1_700_000_940_000, "close_rate": 99.0}  # fmt: skip
        body = orjson.dumps({"strategy": {"S": {"trades": [trade]}}, "strategy_comparison": []})
        path = tmp_path / name
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("result_config.json", b'{"dry_run": true}')
                archive.writestr("result.json", body)
        else:
            path.write_bytes(body)
        (row,) = read_trades(path).trades.to_dicts()
        assert row == {"symbol": "BTCUSDT", "side": "SHORT", "entry_ms": 1_700_000_040_000, "entry_price": 100.0, "qty": 2.0,
                       "exit_ms": 1_700_000_940_000, "exit_price": 99.0}  # fmt: skip

    def test_strategies_of_an_export_are_named_and_a_trade_counts_once(self, tmp_path: Path):
        trades = [{"pair": "BTC/USDT", "open_timestamp": 1_700_000_040_000 + at, "open_rate": 100.0} for at in (0, 60_000)]
        path = tmp_path / "result.json"
        path.write_bytes(orjson.dumps({"strategy": {"S1": {"trades": trades}, "S2": {"trades": trades[:1]}, "S3": 1, "S4": []}}))
        read = read_trades(path)
        assert len(read.trades) == 2
        strategies, twice = read.remarks
        assert strategies.endswith("has trades of S1 2, S2 1: all are taken")
        assert twice.endswith("1 trade there twice, taken once")

    @pytest.mark.parametrize("damage", ["flipped", "encrypted", "method"])
    def test_a_zip_that_cannot_be_unpacked_is_named(self, damage: str, tmp_path: Path):
        path = tmp_path / "result.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("result.json", orjson.dumps({"strategy": {"S": {"trades": [{"pair": "BTC/USDT"}] * 50}}}))
        content = bytearray(path.read_bytes())
        of_file, of_directory = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
        if damage == "flipped":
            content[of_file + 41 : of_file + 60] = b"\xff" * 19
        elif damage == "encrypted":
            content[of_file + 6] |= 1
            content[of_directory + 8] |= 1
        else:
            content[of_file + 8] = content[of_directory + 10] = 99
        path.write_bytes(content)
        with pytest.raises(TradeFileError, match=r"result\.zip cannot be read as trades"):
            read_trades(path)

    @pytest.mark.parametrize(
        ("header", "row", "words"),
        [
            (
                "symbol,side,entry_time,entry price 1,entry price 2",
                "BTCUSDT,long,2024-01-01,1,2",
                "lacks the columns entry price:",
            ),
            (
                "symbol,side,entry_time,entry price,entry_price",
                "BTCUSDT,long,2024-01-01,1,2",
                "names the column entry price more",
            ),
            (
                "symbol,side,entry_time,entry_price,entry_price",
                "BTCUSDT,long,2024-01-01,1,2",
                "names the column entry_price more",
            ),
            ("symbol,side,entry_time,entry_price", "BTCUSDT,long,20250806,1", "neither epoch nor ISO"),
            ("symbol,side,entry_time,entry_price", "BTCUSDT,long,1_754_445_600,1", "neither epoch nor ISO"),
            ("symbol,side,entry_time,entry_price", "BTCUSDT,long,2024-01-01,１１３", "is no number"),
            ("symbol,side,entry_time,entry_price", ",long,2024-01-01,1", "no symbol"),
        ],
    )
    def test_what_could_be_read_in_two_ways_is_refused_by_name(self, header: str, row: str, words: str, tmp_path: Path):
        path = tmp_path / "desk.csv"
        path.write_text(f"{header}\n{row}\n")
        with pytest.raises(TradeFileError, match=re.escape(words)):
            read_trades(path)

    def test_a_table_of_utf_16_is_named(self, tmp_path: Path):
        path = tmp_path / "desk.csv"
        path.write_text("symbol,side,entry_time,entry_price\nBTCUSDT,long,2024-01-01,1\n", encoding="utf-16")
        with pytest.raises(TradeFileError, match="is UTF-16: save it as UTF-8"):
            read_trades(path)

    def test_half_an_exit_is_none_and_named(self, tmp_path: Path):
        path = tmp_path / "desk.csv"
        path.write_text(
            "symbol;side;entry_time;entry_price;exit_time;exit_price\n"
            "BTCUSDT;long;2024-01-01;1;2024-01-02;\nBTCUSDT;short;2024-01-01;1;2024-01-02;2\n"
        )
        read = read_trades(path)
        assert read.trades["exit_price"].to_list() == [None, 2.0]
        assert read.remarks == [f"{path}: 1 trade with the time or the price of an exit only: its exit is unknown"]

    @pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "{}", "symbol,side,entry_time,entry_price\nBTCUSDT,long,never,1\n"])
    def test_a_file_that_holds_no_trades_is_refused(self, content: str, tmp_path: Path):
        path = tmp_path / "bad.csv"
        path.write_text(content)
        with pytest.raises(TradeFileError, match=r"bad\.csv"):
            read_trades(path)


class TestIntervals:
    """Overlapping trades are no independent draws."""

    def test_trades_of_one_block_are_one_draw(self):
        """Twenty copies of each draw must not narrow the interval."""
        rng = np.random.default_rng(1)
        values, times = rng.standard_normal(40), np.arange(40) * 1_000_000
        once, often = (mean_interval(np.repeat(values, n), np.repeat(times, n), 1000) for n in (1, 20))
        assert often.low == pytest.approx(once.low)
        assert often.p_value == pytest.approx(once.p_value)

    def test_independent_blocks_give_the_interval_of_student(self):
        values = np.array([1.0, -1, 1, -1, 1, -1, 1, -1, 1, -0.5])  # neighbours that differ widen nothing
        found, expected = mean_interval(values, np.arange(10) * 1_000_000, 1000), ttest_1samp(values, 0)
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
        assert found.p_value == pytest.approx(expected.pvalue)

    def test_with_few_blocks_nothing_is_said(self):
        found = mean_interval(np.ones(50), np.arange(50), 3600)
        assert (found.mean, found.low, found.p_value) == (1, None, None)

    def test_holm_adjusts_as_published(self):
        """The example of Holm's procedure with three p-values."""
        assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def random_walk(candles: int, seed: int) -> CandleHistory:
    """A price without drift whose highs and lows are those of a continuous path: no rule of exit can win or lose on it."""
    rng = np.random.default_rng(seed)
    sigma = 0.0008
    step = sigma * rng.standard_normal(candles) - sigma**2 / 2
    above, below = ((np.sqrt(step**2 - 2 * sigma**2 * np.log(rng.random(candles)))) for _ in range(2))
    opened = 30_000 * np.exp(np.concatenate([[0.0], np.cumsum(step)[:-1]]))
    frame = pl.DataFrame(
        {
            "open_time_ms": 1_700_000_100_000 + 60_000 * np.arange(candles),
            "open": opened,
            "high": opened * np.exp(np.maximum((step + above) / 2, np.maximum(step, 0))),
            "low": opened * np.exp(np.minimum((step - below) / 2, np.minimum(step, 0))),
            "close": opened * np.exp(step),
            "volume": np.ones(candles),
        }
    )
    close = frame["close"].to_numpy()
    return history_of("BTCUSDT", frame.with_columns(open=pl.Series(np.concatenate([[30_000.0], close[:-1]]))).with_columns(
        high=pl.max_horizontal("open", "high", "close"), low=pl.min_horizontal("open", "low", "close")))  # fmt: skip


def rejections(walks: int, candles: int, seed: int, *, hold_max_sec: int = 2 * HOUR) -> tuple[dict[tuple[str, str], int], int]:
    """Count differences that are found on random walks: at 5 % by pair, and walks on which one is found among all by Holm."""
    found: dict[tuple[str, str], int] = {}
    joint = 0
    for number in range(walks):
        done = backtest(
            [random_walk(candles, seed + number)],
            Plan([LOCKED, load("crypto-1m")], entry_rule("every:15m"), hold_max_sec=hold_max_sec, seed=number),
        )
        p_values = {
            (result.profile.name, null): one["difference_R"]["p_value"]
            for result in done.results
            for null, one in result.summary["nulls"].items()
        }
        for pair, p_value in p_values.items():
            found[pair] = found.get(pair, 0) + (p_value < 0.05)
        joint += min(holm({str(pair): p_value for pair, p_value in p_values.items()}).values()) < 0.05
    return found, joint


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_random_walks_no_profile_differs_from_its_nulls():
    """Twelve walks, all pairs together, for those of one walk are found together; docs/lab.md has 200 walks, pair by pair."""
    found, joint = rejections(12, 5_000, seed=1000)
    assert len(found) == 8
    assert sum(found.values()) <= 0.15 * 8 * 12, found
    assert joint <= 3


def desk(*rows):
    """Give trades of a desk."""
    names = ("symbol", "side", "entry_ms", "entry_price", "qty", "exit_ms", "exit_price")
    return pl.DataFrame([dict(zip(names, row, strict=True)) for row in rows], schema=TRADES)


class TestWhatADeskGives:
    """A time zone that is wrong earns half an R a trade, and a wrong exit a hundred."""

    def test_prices_outside_their_candle_are_counted(self):
        history = random_walk(400, 1)
        at, high = int(history.open_time_ms[300]), float(history.high[300])
        inside, outside = ("BTCUSDT", "LONG", at, high, 1.0, None, None), ("BTCUSDT", "LONG", at, high * 1.01, 1.0, None, None)
        chosen = place(desk(inside, outside), history, np.ones(400, dtype=np.bool_))
        assert len(chosen.entries) == 2
        assert chosen.named[0].startswith("BTCUSDT: 1 of 2 entry prices is outside its candle: is the time zone right?")
        assert place(desk(inside), history, np.ones(400, dtype=np.bool_)).named == []

    def test_an_exit_that_cannot_be_is_unknown(self):
        history = random_walk(400, 1)
        at, price = int(history.open_time_ms[300]), float(history.close[300])
        later, close = int(history.open_time_ms[350]), float(history.close[350])
        rows = [
            ("BTCUSDT", "LONG", at, price, 1.0, when, what)
            for when, what in ((later, close), (later, 3 * close), (at * 2, close))
        ]
        chosen = place(desk(*rows), history, np.ones(400, dtype=np.bool_))
        assert chosen.own_exit_candle.tolist() == [350, -1, -1]
        assert np.isnan(chosen.own_exit_price).tolist() == [False, True, True]
        assert chosen.named[0] == "BTCUSDT: 2 exits are after the candles or far from their prices: taken as unknown"


def test_candles_of_two_lengths_in_one_file_are_refused():
    one, other = (random_walk(60, seed) for seed in (1, 2))
    times = np.concatenate([one.open_time_ms, one.open_time_ms[-1] + 300_000 * np.arange(1, 61)])
    frame = pl.DataFrame({"open_time_ms": times, **{
        name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("open", "high", "low", "close", "volume")
    }})  # fmt: skip
    with pytest.raises(CandlesError, match="apart: give those of one length"):
        history_of("BTCUSDT", frame)


def test_prices_no_kernel_takes_are_no_candles():
    frame = pl.DataFrame({"open_time_ms": [60_000 * row for row in range(1, 4)], "volume": [1.0] * 3, **{
        name: [100.0, 1e100, 101.0] for name in ("open", "high", "low", "close")
    }})  # fmt: skip
    history = history_of("BTCUSDT", frame)
    assert (len(history), history.left_out) == (2, {"no_price": 1})
