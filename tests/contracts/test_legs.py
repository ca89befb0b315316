"""Names of legs, the keys they have of their own, and the keys both legs of a symbol share."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_core.contracts.legs import WORDS, LegError, leg_named, leg_of, legs_of, underlying
from quantum_core.contracts.tables import OF_UNDERLYING, PUBLISHED, Keys
from quantum_core.settings import SettingsError, load_settings
from quantum_core.universe import shards

SYMBOL = st.from_regex(r"[\w-]{2,40}", fullmatch=True)


@settings(max_examples=100)
@given(SYMBOL)
def test_a_leg_leads_back_to_its_symbol_and_a_symbol_is_no_leg(symbol: str) -> None:
    """No name of a symbol can pass for a leg: the separator is not allowed in one."""
    assert (underlying(symbol), leg_of(symbol)) == (symbol, "")
    assert [(underlying(leg), leg_of(leg)) for leg in legs_of(symbol)] == [(symbol, "LONG"), (symbol, "SHORT")]
    assert legs_of(legs_of(symbol)[0]) == legs_of(symbol)


@settings(max_examples=100)
@given(SYMBOL, st.booleans())
def test_the_keys_of_a_symbol_in_one_way_mode_are_what_they_were(symbol, cluster):
    """A prefix, the symbol, a suffix: nothing else, whatever the symbol is called."""
    keys = Keys(cluster=cluster)
    for name, template in keys.templates().items():
        if "{symbol}" in template:
            assert keys.of(name, symbol) == template.replace("{symbol}", f"{{{symbol}}}" if cluster else symbol)


@pytest.mark.parametrize("cluster", [False, True])
def test_legs_share_market_and_capital_and_nothing_else(cluster):
    """Candles, market state and targets are those of BTCUSDT; positions, proposals, permits and counts are a leg's own."""
    keys = Keys(cluster=cluster)
    for name, template in keys.templates().items():
        if "{symbol}" in template:
            long, short = (keys.of(name, leg) for leg in legs_of("BTCUSDT"))
            assert (long == short == keys.of(name, "BTCUSDT")) == (name in OF_UNDERLYING), name
    assert {table.asset for table in PUBLISHED if table.key in OF_UNDERLYING} == {
        *("market_state", "capital_efficiency", "allocation_target")
    }


def test_the_keys_of_a_leg_are_those_of_the_contract() -> None:
    """What an execution side writes, and what an executor reads."""
    keys = Keys()
    assert keys.of("raw_position", "BTCUSDT.LONG") == "quantum:state:positions:BTCUSDT:LONG"
    assert keys.of("harvest_proposal", "BTCUSDT.SHORT") == "quantum:harvest:proposal:BTCUSDT.SHORT"
    assert keys.of("market_state", "BTCUSDT.SHORT") == "quantum:marketstate:BTCUSDT"
    assert keys.of("candles_history", "BTCUSDT.LONG") == "quantum:history:ohlcv:BTCUSDT:1m"
    assert Keys(cluster=True).of("raw_position", "BTCUSDT.LONG") == "quantum:state:positions:{BTCUSDT}:LONG"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""),
        ({"positionSide": ""}, ""),
        ({"positionSide": "LONG"}, "LONG"),
        ({"position_side": " short "}, "SHORT"),
        ({"posSide": "long"}, "LONG"),
        ({"posSide": "net"}, "BOTH"),
        ({"positionSide": "Both"}, "BOTH"),
        ({"positionIdx": "2"}, "SHORT"),
        ({"positionIdx": "0"}, "BOTH"),
        ({"positionSide": "LONG", "positionIdx": "1"}, "LONG"),
    ],
)
def test_every_spelling_of_a_side_is_read(fields: dict[str, str], expected: str) -> None:
    """Binance, OKX and Bybit name the side of a position each in its own way."""
    assert leg_named(fields) == expected


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(sorted(WORDS)), st.sampled_from(["LONG", "SHORT", "BOTH", "BUY", "1", "2", "0", "3", "", "x"])
    )
)
def test_a_side_nobody_knows_or_two_of_them_name_no_leg(fields: dict[str, str]) -> None:
    """Either all fields that say something say the same known side, or the first that does not is named."""
    told = {WORDS[name].get(value, "unknown") for name, value in fields.items() if value}
    if len(told) <= 1 and "unknown" not in told:
        assert leg_named(fields) == next(iter(told), "")
    else:
        with pytest.raises(LegError) as error:
            leg_named(fields)
        assert fields[error.value.field] == error.value.value


def test_hedged_symbols_become_their_legs_in_the_place_they_had() -> None:
    """Other symbols are partitions as ever, and both legs stay in one shard, whose cycle publishes what they share."""
    chosen = load_settings(symbols="ETHUSDT,BTCUSDT,SOLUSDT", hedge_symbols="btcusdt,XRPUSDT")
    assert chosen.symbols == ("ETHUSDT", "BTCUSDT.LONG", "BTCUSDT.SHORT", "SOLUSDT")
    assert chosen.markets == ["ETHUSDT", "BTCUSDT", "SOLUSDT"]
    assert shards(chosen.symbols, 2) == [("ETHUSDT", "BTCUSDT.LONG", "BTCUSDT.SHORT"), ("SOLUSDT",)]
    assert load_settings(hedge_symbols="BTCUSDT").symbols == ("BTCUSDT.LONG", "BTCUSDT.SHORT", "ETHUSDT", "SOLUSDT")
    assert load_settings(symbols="BTCUSDT.SHORT", hedge_symbols="BTCUSDT").symbols == ("BTCUSDT.SHORT",)
    assert load_settings(symbols="ETHUSDT").symbols == ("ETHUSDT",)


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"symbols": "BTCUSDT.LONG"}, "HEDGE_SYMBOLS does not name"),
        ({"symbols": "BTCUSDT.BOTH", "hedge_symbols": "BTCUSDT"}, "'BTCUSDT.BOTH'"),
        ({"symbols": "BTCUSDT,BTCUSDT.LONG", "hedge_symbols": "BTCUSDT"}, "listed twice"),
        ({"hedge_symbols": "BTCUSDT.LONG"}, "HEDGE_SYMBOLS"),
    ],
)
def test_a_leg_that_cannot_be_one_is_refused(chosen: dict[str, str], named: str) -> None:
    """A partition nobody computes, or one computed twice, would go unnoticed for long."""
    with pytest.raises(SettingsError, match=named):
        load_settings(**chosen)
