"""`quantum replay`: recorded candles arrive whole, labelled and bounded, and every refusal has its exit code."""

import json

import pytest

from quantum_ops.cli import main
from quantum_ops.cli.history import replay as replay_command
from resources.inputs.candles import CandleReader
from resources.store.redis_store import RedisStore
from tests.world import SAMPLE, write_candles

HEADER = "Date,Open,High,Low,Close,Volume"
BTC = SAMPLE / "BTCUSDT_1m.csv"


@pytest.fixture
def live(make_store, monkeypatch, server_url) -> RedisStore:
    """The store as the command sees it: settings from the environment, time from the clock on the wall."""
    make_store()  # empties the server
    monkeypatch.setenv("REDIS_URL", server_url)
    store = make_store()
    return RedisStore(store.settings, client=store.client)


def run(*arguments: object) -> int:
    try:
        main(["replay", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def rows(count: int) -> str:
    lines = [f"2025-08-05 {minute // 60:02d}:{minute % 60:02d}:00,100,101,99,{100 + minute / 1000},1" for minute in range(count)]
    return "\n".join([HEADER, *lines, ""])


def test_a_file_becomes_fresh_labelled_candles(live, capsys):
    """The first thing a newcomer does with a recording."""
    assert run(BTC, "--json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["files"][0] | {"file": ""} == {
        "file": "", "symbol": "BTCUSDT", "key": "quantum:history:ohlcv:BTCUSDT:1m",
        "files": [str(BTC)], "rows": 700, "written": 700, "malformed": [], "malformed_count": 0, "duplicates": 0,
    }  # fmt: skip
    candles = CandleReader(live).read(["BTCUSDT"])[0].value
    assert (candles.source, len(candles.close)) == ("replay", 300)
    assert live.clock().timestamp() - candles.newest_epoch_sec == pytest.approx(0, abs=5)  # the test itself takes a moment
    assert 0 < live.client.ttl("quantum:history:ohlcv:BTCUSDT:1m") <= 7 * 86400


def test_members_carry_every_field_and_their_open_time_as_score(live, tmp_path):
    """Other readers of the history key expect the published layout."""
    path = tmp_path / "solusdt_1m.csv"
    path.write_text(rows(2))
    assert run(path, "--keep-time") == 0
    (first, score), _ = live.client.zrange("quantum:history:ohlcv:SOLUSDT:1m", 0, -1, withscores=True)
    assert json.loads(first) == {
        "open_time": 1754352000000, "open": 100.0, "high": 101.0, "low": 99.0, "close": 100.0, "volume": 1.0,
        "close_time": 1754352059999, "is_closed": True, "source": "replay",
    }  # fmt: skip
    assert score == 1754352000000


def test_history_is_bounded(live, tmp_path):
    """A year of minutes must not fill the server."""
    path = tmp_path / "x.csv"
    lines = [f"{1754352000 + 60 * minute},100,101,99,100,1" for minute in range(1600)]
    path.write_text("\n".join([HEADER.replace("Date", "Time"), *lines]))
    assert run(path, "--symbol", "ADAUSDT") == 0
    assert live.client.zcard("quantum:history:ohlcv:ADAUSDT:1m") == 1500


def test_malformed_rows_are_named_by_line_and_counted(live, tmp_path, capsys):
    """The owner of the file can mend it."""
    path = tmp_path / "BTCUSDT_1m.csv"
    wrong = "2025-08-05 01:39:00,100,101,99,nan,1\n"
    path.write_text(rows(99) + wrong)
    assert run(path) == 0
    said = capsys.readouterr().err
    assert "line 101 left out: close is not a finite number" in said
    assert "malformed rows 1" in said
    assert live.client.zcard("quantum:history:ohlcv:BTCUSDT:1m") == 99
    path.write_text(rows(99) + wrong * 2)
    assert run(path) == 1
    assert "2 of 101 rows" in capsys.readouterr().err


@pytest.mark.usefixtures("live")
def test_no_message_is_longer_than_a_screen(tmp_path, capsys):
    """One was a megabyte: what matters is scrolled away."""
    path = tmp_path / "BTCUSDT_1m.csv"
    path.write_text(rows(5) + f"{'x' * 9000},1,1,1,1,1\n" * 500)
    assert run(path) == 1
    said = capsys.readouterr().err
    assert "500 of 505 rows" in said
    assert "and 497 more malformed rows" in said
    assert len(said) < 80 * 24
    path.write_text("x," * 9000)
    assert run(path) == 2
    assert len(capsys.readouterr().err) < 80 * 24


def test_months_of_a_folder_are_one_history(live, tmp_path, capsys):
    """As they are downloaded; what is none, and what has another interval, is named and left."""
    lines = rows(60).splitlines()
    (tmp_path / "BTCUSDT-1m-2025-09.csv").write_text("\n".join([HEADER, *lines[31:]]))
    (tmp_path / "BTCUSDT-1m-2025-08.csv").write_text("\n".join(lines[:31]))
    (tmp_path / "BTCUSDT-5m-2025-08.csv").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "kPEPEUSDT_1m.csv").write_text(rows(3))
    assert run(tmp_path, "--json") == 0
    said = capsys.readouterr()
    assert {one["symbol"]: one["rows"] for one in json.loads(said.out)["files"]} == {"BTCUSDT": 60, "kPEPEUSDT": 3}
    assert "BTCUSDT-5m-2025-08.csv (candles of 300 s)" in said.err
    assert "notes.txt (no symbol in its name)" in said.err
    assert run(tmp_path / "BTCUSDT-1m-2025-09.csv", tmp_path / "BTCUSDT-1m-2025-08.csv") == 0
    assert live.client.zcard("quantum:history:ohlcv:BTCUSDT:1m") == 60


@pytest.mark.usefixtures("live")
def test_rows_that_contradict_each_other_are_named_and_refused(tmp_path, capsys):
    """Two sources in one file: neither is known to be right."""
    path = tmp_path / "BTCUSDT_1m.csv"
    path.write_text(rows(100) + rows(3).replace(",100,", ",100.5,").partition("\n")[2])
    assert run(path) == 1
    assert (
        "line 102 left out: contradicts line 2, of the same time 2025-08-05 00:00: open 100.5, there 100"
        in capsys.readouterr().err
    )


def test_played_candle_by_candle_the_newest_is_always_now(live, tmp_path, monkeypatch):
    """A consumer that checks freshness must be satisfied at every moment of the replay, and have a window from the first."""
    path, window = tmp_path / "BTCUSDT_1m.csv", live.settings.marketstate_window_size
    path.write_text(rows(window + 12))
    written, true = [], replay_command._write

    def write(store, frames, **how):
        true(store, frames, **how)
        written.append(store.client.zcard("quantum:history:ohlcv:BTCUSDT:1m"))

    monkeypatch.setattr(replay_command, "_write", write)
    assert run(path, "--speed", 6000) == 0  # 10 ms a candle
    assert written == list(range(window, window + 13))
    candles = CandleReader(live).read(["BTCUSDT"])[0].value
    assert live.clock().timestamp() - candles.newest_epoch_sec == pytest.approx(0, abs=2)


def test_live_candles_are_not_replaced_unasked(live, capsys):
    """A recording over the live feed would be traded on."""
    write_candles(live, "BTCUSDT", [1.0, 2.0, 3.0])
    assert run(BTC) == 2
    assert "quantum:history:ohlcv:BTCUSDT:1m holds candles without the label" in capsys.readouterr().err
    assert live.client.zcard("quantum:history:ohlcv:BTCUSDT:1m") == 3
    assert run(BTC, "--overwrite") == 0
    assert run(BTC) == 0  # a replay over a replay is nobody's loss


@pytest.mark.parametrize(
    "arguments",
    [("missing_1m.csv",), (BTC, BTC), (BTC, BTC, "--symbol", "X"), (BTC, "--speed", -1), (BTC, "--symbol", "a b"), ()],
)
def test_wrong_usage_is_two(live, arguments):
    """A script must be able to tell its own mistakes from the data's."""
    assert run(*arguments) == 2
    assert live.client.dbsize() == 0


def test_a_file_without_a_valid_row_is_one_and_nothing_is_written(live, tmp_path, capsys):
    """Half a replay would be worse than none."""
    path = tmp_path / "ETHUSDT_1m.csv"
    path.write_text(f"{HEADER}\n2025-08-05 00:00:00,0,0,0,0,1\n")
    assert run(BTC, path) == 1
    assert f"No valid row in {path}" in capsys.readouterr().err
    assert live.client.dbsize() == 0


def test_an_absent_server_is_three_and_the_message_names_its_address(monkeypatch, capsys):
    """The most frequent trouble of a first try."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert run(BTC) == 3
    assert "redis://127.0.0.1:1/0" in capsys.readouterr().err
