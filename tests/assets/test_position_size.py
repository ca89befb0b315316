"""The size of a position: there for every symbol, open or not; none without a fresh equity; a hint that no gate reads."""

import dagster as dg
import pytest

from quantum_assets.position_size import no_equity
from quantum_core.contracts.tables import POSITION_SIZE
from resources.governor.account import read_account
from resources.governor.permit import read_permit
from resources.store.publication import publish
from tests.governor.desk import Desk
from tests.world import real_closes, run_cycle, write_candles, write_efficiency, write_equity, write_position, write_target

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


def fill(store, *, equity: float = 10_000.0, **account: float) -> None:
    """Give each symbol candles, a position to one of them, and an account."""
    for symbol in SYMBOLS:
        write_candles(store, symbol, real_closes(symbol))
        write_efficiency(store, symbol, 0.8)
        write_target(store, symbol)
        write_position(store, symbol, side="LONG" if symbol == "BTCUSDT" else "FLAT", mark=real_closes(symbol)[-1])
    write_equity(store, equity, **account)


def sizes(store) -> dict[str, dict[str, object]]:
    """Read what is published."""
    return {one.symbol: one.value for one in store.read(POSITION_SIZE, SYMBOLS) if one.value is not None}


def test_every_symbol_has_a_size_open_or_not(make_store, instance: dg.DagsterInstance) -> None:
    """A planner asks before it opens; a stop distance of .5 % would let .5 % of the equity buy all of it, volatility says less."""
    store = make_store(symbols=",".join(SYMBOLS))
    fill(store)
    assert run_cycle(store, instance).success
    found = sizes(store)
    assert set(found) == set(SYMBOLS)
    for symbol, row in found.items():
        assert row["risk_usd"] == 50.0
        assert row["price"] == pytest.approx(real_closes(symbol)[-1])
        assert 0 < row["size_usd"] <= 10_000
        assert row["size_qty"] * row["price"] == pytest.approx(row["size_usd"])
        assert row["multiplier"] == pytest.approx(1.3)
        assert row["target_usd"] is None
        assert row["data_source"] == "candles"


@pytest.mark.parametrize(
    ("account", "why"), [({"age_sec": 400}, "equity_stale: EQUITY_STALE age=400s"), ({"equity": 0.0}, "equity=0")]
)
def test_without_a_fresh_equity_there_is_no_size_by_name(
    make_store, instance: dg.DagsterInstance, account: dict[str, float], why: str
) -> None:
    """A size of an equity that was is a size of nothing."""
    store = make_store(symbols=",".join(SYMBOLS))
    fill(store, **account)
    assert run_cycle(store, instance).success
    assert sizes(store) == {}
    assert why in no_equity(read_account(store), store.profile)


def test_a_target_in_force_caps_the_size(make_store, instance: dg.DagsterInstance) -> None:
    """P2.9 in mode enforce is a limit; in mode shadow it is talk."""
    store = make_store(symbols=",".join(SYMBOLS))
    fill(store)
    key = store.keys.of("base_target", "ETHUSDT")
    store.client.hset(key, mapping={"target_usd": "150", "mode": "enforce"})
    assert run_cycle(store, instance).success
    assert (sizes(store)["ETHUSDT"]["size_usd"], sizes(store)["ETHUSDT"]["binding"]) == (150.0, "target")
    assert sizes(store)["SOLUSDT"]["binding"] != "target"


def test_own_parameters_of_one_symbol_count_for_it_alone(make_store, instance: dg.DagsterInstance, tmp_path) -> None:
    """A desk risks less on one coin."""
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\n[symbols.ETHUSDT.sizing]\nrisk_fraction = 0.001\n')
    store = make_store(symbols=",".join(SYMBOLS), profile=str(own))
    fill(store)
    assert run_cycle(store, instance).success
    found = sizes(store)
    assert [found[symbol]["risk_usd"] for symbol in SYMBOLS] == [50.0, 10.0, 50.0]
    assert found["ETHUSDT"]["profile"] != found["BTCUSDT"]["profile"] == found["SOLUSDT"]["profile"]
    assert {row["profile_name"] for row in found.values()} == {"own"}


def test_the_permit_carries_it_as_a_hint(make_store) -> None:
    """Whoever may open reads how much beside the leave to do so; without a fresh size the hint is empty, and the permit stands."""
    store = make_store(symbols=",".join(SYMBOLS))
    desk = Desk(store)
    desk.ready("BTCUSDT")
    desk.plan("p1", "BTCUSDT")
    desk.decide()
    without = read_permit(store, "BTCUSDT", "p1")
    size = {
        "size_usd": 321.5, "size_qty": 3.2, "leverage_max": 1.1, "stop_dist_pct": 0.01, "risk_usd": 50.0, "binding": "stop",
        "reason_codes": ["bound_stop"], "equity_usd": 1e4, "price": 100.0, "sigma": 0.001, "ts": 0.1, "p_trend": 0.2, "p_mr": 0.3,
        "p_chop": 0.5, "multiplier": None, "target_usd": None, "candles_per_day": 1440.0, "data_source": "candles",
    }  # fmt: skip
    (published,) = publish(store, POSITION_SIZE, [{"symbol": "BTCUSDT", **size}], cycle_id="c1")
    assert published.published, published.error
    desk.plan("p2", "BTCUSDT")
    desk.decide()
    told = read_permit(store, "BTCUSDT", "p2")
    assert without is not None
    assert told is not None
    assert (without["size_hint_usd"], told["size_hint_usd"]) == (None, 321.5)
    assert told["profile_name"] == "locked-v1"
