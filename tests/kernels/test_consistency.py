"""Numbers of a position that belong together: what writers count differently is named, what merely lags is not."""

from typing import Any

import numpy as np
import pytest

from quantum_assets.shared.tracked_positions import _Scaled
from quantum_core.kernels.position.consistency import contradictions, in_other_units, newest_close
from quantum_core.kernels.position.contract import BASE_UNITS, Contract
from resources.inputs.position_parsing import parse_position
from resources.inputs.position_snapshots import RawPosition, profit_of

COLLAR = 0.10
FIELDS = {"side": "LONG", "quantity": "0.02", "entry_price": "43000", "mark_price": "43250", "unrealized_pnl": "5"}


def bars(*closes: float) -> Any:
    times = np.arange(len(closes), dtype=np.int64)
    return _Scaled(times, *(np.array(closes, dtype=np.float64),) * 3)


def found(changes: dict[str, str], contract: Contract = BASE_UNITS, candles: Any = None) -> dict[str, str]:
    position = parse_position("BTCUSDT", {**FIELDS, **changes}, "redis_hash", contract=contract)
    assert isinstance(position, RawPosition)
    expected = profit_of(position.side, position.entry_price, position.current_price, position.qty)
    return contradictions(position, expected, contract, bars(43240, 43250) if candles is None else candles, COLLAR)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"quantity": "2"}, ["profit"]),  # contracts of .01
        ({"unrealized_pnl": "100"}, ["profit"]),  # times the leverage
        ({"unrealized_pnl": "0.0058"}, ["profit"]),  # a fraction
        ({"unrealized_pnl": "0.58"}, ["profit"]),  # per cent
        ({"unrealized_pnl": "0"}, ["profit"]),
        ({"unrealized_pnl": "-5"}, ["profit"]),
        ({"side": "SHORT", "position_amt": "-0.02", "quantity": ""}, ["profit"]),  # signed for the other side
        ({"quantity": "", "unrealized_pnl": "5000"}, ["profit"]),  # of a size nobody knows
        ({"notional": "865"}, []),
        ({"notional": "-865"}, []),  # signed, as some do
        ({"positionValue": "860"}, []),  # at entry, as others do
        ({"notional": "86500"}, ["notional"]),
        ({"notional": "8.65"}, ["notional"]),
        ({"mark_price": "43.25", "entry_price": "43"}, ["mark", "profit"]),
        ({"mark_price": "48000", "unrealized_pnl": "100"}, ["mark"]),
        ({"unrealized_pnl": ""}, []),
        ({"position_amt": "0.02"}, []),
        ({"position_amt": "20"}, ["doubled", "profit"]),
        ({"qty": "0.021", "unrealized_pnl": ""}, ["doubled"]),
        ({"side": "SHORT", "position_amt": "-0.02", "unrealized_pnl": "-5"}, []),
        ({"current_price": "43300"}, []),  # the last trade
        ({"current_price": "0"}, []),  # none yet
        ({"current_price": "45000"}, ["doubled"]),
        ({"entry_price": "43000000", "unrealized_pnl": ""}, ["entry"]),  # of 1000 coins
        ({"entry_price": "43", "unrealized_pnl": ""}, ["entry"]),
        ({"entry_price": "430000", "unrealized_pnl": ""}, []),  # a market may have lost nine tenths since
    ],
)
def test_what_contradicts_is_named(changes: dict[str, str], wrong: list[str]) -> None:
    """R was -200, and closes counted as 0.53 USD instead of 530."""
    assert sorted(found(changes)) == wrong


@pytest.mark.parametrize("lag", [-0.002, -0.0005, 0.0005, 0.002])
@pytest.mark.parametrize("side", ["LONG", "SHORT"])
def test_a_profit_of_a_moment_ago_is_no_contradiction(side: str, lag: float) -> None:
    """Profit and mark are taken seconds apart, and some writers take two fees off."""
    pnl = 0.02 * (43250 * (1 + lag) - 43000) * (1 if side == "LONG" else -1)
    assert found({"side": side, "unrealized_pnl": str(pnl)}) == {}


def test_in_a_fast_market_profit_may_lag_further() -> None:
    """What the market has moved within the last candles is allowed for, up to the collar."""
    stale = {"unrealized_pnl": str(0.02 * (43250 * 1.02 - 43000))}
    assert list(found(stale)) == ["profit"]
    assert found(stale, candles=bars(44200, 43250)) == {}


def test_contracts_are_understood_where_settings_say_so() -> None:
    """Two contracts of .01 are .02 coins."""
    assert found({"quantity": "2", "notional": "865"}, Contract(0.01)) == {}


@pytest.mark.parametrize(("side", "direction"), [("LONG", 1), ("SHORT", -1)])
def test_inverse_contracts_pay_in_coins(side: str, direction: int) -> None:
    """Ten contracts of 100 USD; the exchange tells profit and worth in coins."""
    coins = 1000 * (1 / 43000 - 1 / 43250) * direction
    inverse = Contract(100, inverse=True)
    changes = {"side": side, "quantity": "10", "unrealized_pnl": repr(coins)}
    assert found({**changes, "notional": repr(1000 / 43250)}, inverse) == {}
    assert found({**changes, "notional": "1000"}, inverse) == {}
    assert sorted(found({**changes, "notional": "43250000"}, inverse)) == ["notional"]
    position = parse_position("BTCUSD", {**FIELDS, **changes}, "redis_hash", contract=inverse)
    assert isinstance(position, RawPosition)
    assert position.qty is not None
    assert position.unrealized_pnl / position.qty == pytest.approx(250 * direction, rel=1e-9)  # R needs the profit per coin
    assert inverse.notional(10, 43250) == 1000


def test_other_units_are_told_from_a_crash() -> None:
    """Entry and mark of another market agree with each other; a crash takes the mark alone."""

    def position(entry: float, mark: float) -> Any:
        return parse_position("PEPEUSDT", {"side": "LONG", "entry_price": str(entry), "mark_price": str(mark)}, "redis_hash")

    assert in_other_units(position(0.0105, 0.0106), 0.0000105)
    assert in_other_units(position(0.0000105, 0.0000106), 0.0105)
    assert not in_other_units(position(100, 10), 100)
    assert not in_other_units(position(100, 10), 10)
    assert np.isnan(newest_close(None))
