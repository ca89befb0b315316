"""Fills: each trade counts once, whoever reports it and how often, and is dated by its own time."""

import json

import polars as pl
import pytest

from quantum_assets.capital_efficiency import computed_frame
from resources.inputs.foreign import FILL_TIME_FIELDS, NO_ID, TRADE_ID_FIELDS, read_executions
from tests.conftest import START

NOW = START.timestamp()
KEPT = "quantum:efficiency:state:BTCUSDT"


@pytest.fixture
def desk(make_store):
    """A store that computes the efficiency of two symbols."""
    return make_store(symbols="BTCUSDT,ETHUSDT", efficiency_mode="shadow")


def tell(store, stream: str = "stream_execution", *, ago_sec: float = 0, **fields: object) -> None:
    """Report one fill, its entry written a while ago."""
    known = {"symbol": "BTCUSDT", "pnl_usd": "-50", **{name: str(value) for name, value in fields.items()}}
    newest = store.client.xrevrange(store.keys.of(stream), count=1)
    number = int(newest[0][0].split(b"-")[1]) + 1 if newest else 0
    store.client.xadd(store.keys.of(stream), known, id=f"{int((NOW - ago_sec) * 1000)}-{number}")


def fold(store) -> dict[str, float]:
    """Evaluate once; give what is kept of the symbol, and how many fills counted."""
    frame = computed_frame(store, ["BTCUSDT", "ETHUSDT"], cycle_id="c")
    kept = {name.decode(): value.decode() for name, value in store.client.hgetall(KEPT).items()}
    row = frame.filter(pl.col("symbol") == "BTCUSDT").to_dicts()[0]
    assert row["state"] == "present", row["why"]
    return {
        "count": row["executions_count"],
        "loss": float(kept["dd_proxy"]),
        "last": float(kept["last_exec_epoch"] or "nan"),
        "hold": row["hold_time_penalty"],
    }


@pytest.mark.parametrize("name", TRADE_ID_FIELDS)
def test_a_trade_counts_once_in_either_stream_and_in_any_later_evaluation(desk, name) -> None:
    """A loss told three times looked like three losses."""
    tell(desk, **{name: "7234f2"})
    assert fold(desk)["loss"] == pytest.approx(10.0)
    tell(desk, **{name: "7234f2"})
    tell(desk, "stream_execution_result", **{name: "7234f2"})
    tell(desk, "stream_execution_result", payload=json.dumps({"symbol": "BTCUSDT", "pnl_usd": -50.0, name: "7234f2"}))
    assert (fold(desk)["count"], fold(desk)["loss"]) == (0, pytest.approx(10.0))
    tell(desk, **{name: "7234f3"})
    assert fold(desk)["loss"] == pytest.approx(18.0)


def test_the_same_trade_twice_in_one_evaluation_counts_once(desk) -> None:
    """Both streams are read at once; a number is the id that its text is."""
    tell(desk, payload=json.dumps({"symbol": "BTCUSDT", "pnl_usd": -50, "trade_id": 991}))
    tell(desk, "stream_execution_result", trade_id=" 991 ")
    tell(desk, "stream_execution_result", trade_id="992")
    assert fold(desk) == {"count": 2, "loss": pytest.approx(18.0), "last": NOW, "hold": 0.0}


@pytest.mark.parametrize("none", [*NO_ID, "None", "NULL", None])
def test_what_is_no_id_makes_no_two_fills_one(desk, none) -> None:
    """A writer without ids must not have its losses left out."""
    for _ in range(3):
        tell(desk, **({} if none is None else {"trade_id": none}))
    assert fold(desk)["count"] == 3


@pytest.mark.parametrize(
    "none",
    ["0.0", "-1.0", "-", "N/A", "<NA>", "NaT", "nil", "unknown", "False", "[]", "'0'", "00000000-0000-0000-0000-000000000000", "0x0",
     "7.234567890123457e+18", "1e+22", 0.0, -1.0, 7.234567890123457e18, False, [], {}, "", None],
    ids=repr,
)  # fmt: skip
def test_what_stands_for_no_id_or_for_many_makes_no_two_fills_one(desk, none) -> None:
    """Two of three losses were left out: all had the same text where an id would be, or one that a float has rounded."""
    for _ in range(3):
        tell(desk, payload=json.dumps({"symbol": "BTCUSDT", "pnl_usd": -50, "exec_id": none}))
        tell(desk, exec_id=none)
    assert fold(desk)["count"] == 6


@pytest.mark.parametrize("same", [991, 991.0, "991", "991.0", " 991 ", "'991'"], ids=repr)
def test_a_number_is_one_id_in_every_spelling(desk, same) -> None:
    tell(desk, trade_id="991")
    tell(desk, "stream_execution_result", payload=json.dumps({"symbol": "BTCUSDT", "pnl_usd": -50, "trade_id": same}))
    tell(desk, "stream_execution_result", trade_id=f"{991.0}")
    assert fold(desk)["count"] == 1


@pytest.mark.parametrize("trade", ["7234e2", "1e5", "\ud800", "9" * 400, 10**400, "12345678901234567890123", 2**63 + 1])
def test_ids_that_look_odd_are_ids(desk, trade) -> None:
    """Letters of hexadecimal digits are no exponent; what cannot be written as text is replaced by its digest."""
    payload = json.dumps({"symbol": "BTCUSDT", "pnl_usd": -50, "trade_id": trade, "fee": float("nan")})
    tell(desk, payload=payload)
    tell(desk, payload=payload)
    assert fold(desk)["count"] == 1
    tell(desk, payload=payload)
    assert fold(desk)["count"] == 0


def test_a_field_nobody_needs_costs_no_loss(desk) -> None:
    """Python writes NaN into JSON: the whole report was dropped."""
    tell(desk, symbol="", payload='{"symbol": "BTCUSDT", "pnl_usd": -50, "commission": NaN, "slippage": Infinity}')
    tell(desk, symbol="", payload='{"symbol": "BTCUSDT", "pnl_usd": NaN, "realized_pnl": true, "pnl": -50}')
    tell(desk, symbol="", payload='{"symbol": "BTCUSDT", "pnl_usd": 1%s, "pnl": -50}' % ("0" * 400))
    assert fold(desk) == {"count": 3, "loss": pytest.approx(24.4), "last": NOW, "hold": 0.0}


def test_ids_are_those_of_a_symbol(desk) -> None:
    """Two markets of an exchange count their trades from 1."""
    tell(desk, trade_id="1")
    tell(desk, trade_id="1", symbol="ETHUSDT")
    assert fold(desk)["loss"] == pytest.approx(10.0)
    assert float(desk.client.hget("quantum:efficiency:state:ETHUSDT", "dd_proxy")) == pytest.approx(10.0)


def test_a_report_without_profit_does_not_keep_the_loss_that_follows_from_counting(desk) -> None:
    """An order is told when it is filled, and its profit when it is settled; a loss that is left out is worse than one more fill."""
    tell(desk, trade_id="5", pnl_usd=0)
    tell(desk, trade_id="5", pnl_usd="-0.0")
    assert fold(desk)["count"] == 1
    tell(desk, "stream_execution_result", trade_id="5")
    assert fold(desk) == {"count": 1, "loss": pytest.approx(10.0), "last": NOW, "hold": 0.0}
    tell(desk, trade_id="5", pnl_usd=0)
    assert fold(desk) == {"count": 0, "loss": pytest.approx(10.0), "last": NOW, "hold": 0.0}


@pytest.mark.parametrize("name", FILL_TIME_FIELDS)
def test_a_fill_is_dated_by_its_own_time(desk, name) -> None:
    """A fill of two days ago, told now, is no execution of now; the newest of all is the last one."""
    tell(desk, **{name: int(NOW - 2 * 86_400)})
    assert fold(desk) == {"count": 1, "loss": pytest.approx(10.0), "last": NOW - 2 * 86_400, "hold": 1.0}
    tell(desk, **{name: int((NOW - 60) * 1000)})
    assert fold(desk)["last"] == NOW - 60
    tell(desk, **{name: int(NOW - 3 * 86_400)})
    assert fold(desk)["last"] == NOW - 60


@pytest.mark.parametrize(
    ("time", "at"),
    [
        ("2026-01-20T12:00:00+00:00", NOW - 2 * 86_400),
        ("2030-01-01", NOW),
        ("soon", None),
        ("12", None),
        ("nan", None),
        ("inf", NOW),
    ],
)
def test_a_time_ahead_is_that_of_its_entry_and_what_is_no_time_dates_nothing(desk, time, at) -> None:
    """An execution nobody can date makes no symbol look busy."""
    tell(desk, trade_time=time)
    (fill,) = read_executions(desk, {"stream_execution": (0, 0)})["stream_execution"].by_symbol["BTCUSDT"]
    assert fill.at == at
    assert fold(desk)["count"] == 1


@pytest.mark.parametrize("ahead", [{}, {"trade_time": int(NOW) + 10**6}, {"trade_time": "None", "ts": int(NOW) + 5}])
def test_an_entry_with_an_id_of_the_future_is_none_of_the_future(desk, ahead) -> None:
    """Its symbol looked as if it had traded just now for as long as that future lasted; what comes after it counts."""
    tell(desk, ago_sec=-30 * 86_400, **ahead)
    assert fold(desk) == {"count": 1, "loss": pytest.approx(10.0), "last": NOW, "hold": 0.0}
    desk.client.xadd(desk.keys.of("stream_execution"), {"symbol": "BTCUSDT", "pnl_usd": "-50"})
    assert fold(desk)["count"] == 1


def test_a_time_that_is_spelled_as_none_leaves_the_next_one(desk) -> None:
    tell(desk, trade_time="None", exec_time="null", timestamp=int(NOW - 60))
    assert fold(desk)["last"] == NOW - 60


def test_fills_count_in_the_order_in_which_they_were_traded(desk) -> None:
    """The averages weigh the newest most."""
    tell(desk, trade_time=NOW - 10, pnl_usd=0)
    tell(desk, trade_time=NOW - 20, pnl_usd=-100)
    assert fold(desk)["loss"] == pytest.approx(16.0)


def test_what_was_counted_under_another_type_fails_its_symbol_alone_and_by_name(desk) -> None:
    """A loss that may have been counted is not counted again, and not forgotten."""
    desk.client.set("quantum:efficiency:fills:BTCUSDT", "x")
    tell(desk, trade_id="1")
    tell(desk, trade_id="1", symbol="ETHUSDT")
    frame = computed_frame(desk, ["BTCUSDT", "ETHUSDT"], cycle_id="c")
    states = {row["symbol"]: (row["state"], row["why"]) for row in frame.to_dicts()}
    assert states["ETHUSDT"][0] == "present"
    assert states["BTCUSDT"][0] == "failed"
    assert "quantum:efficiency:fills:BTCUSDT" in states["BTCUSDT"][1]
    assert not desk.client.exists(KEPT)
    desk.client.delete("quantum:efficiency:fills:BTCUSDT")
    assert fold(desk)["count"] == 1


def test_only_the_newest_trades_are_remembered(desk, monkeypatch) -> None:
    """A key per symbol that grows for ever is none."""
    monkeypatch.setattr("resources.inputs.foreign.FILLS_KEPT_MAX", 5)
    for number in range(1, 9):
        tell(desk, trade_id=number)
    fold(desk)
    assert desk.client.zcard("quantum:efficiency:fills:BTCUSDT") == 5
    assert desk.client.ttl("quantum:efficiency:fills:BTCUSDT") > 86_400
