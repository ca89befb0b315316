"""The wire contract: what is written reads back equal, and what does not fit is refused by name."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_core.contracts.codecs import CodecError, fixed
from quantum_core.contracts.schema import COMMON, Change, ContractError, Field, Table, publication_due, stamps
from quantum_core.contracts.tables import (
    ALLOCATION_TARGET,
    HARVEST_PROPOSAL,
    MARKET_STATE,
    RISK_PROPOSAL,
    TABLES,
    Keys,
)
from quantum_ops.cli.audit.keys import reference

NOW = datetime(2026, 1, 22, 12, 0, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]


STATE: dict[str, Any] = {
    "sigma": 0.001,
    "mu": 0.0,
    "ts": 0.1,
    "p_trend": 0.2,
    "p_mr": 0.3,
    "p_chop": 0.5,
    "dp": 0.5,
    "vr": 1.0,
    "spike_proxy": 1.0,
    "ts_timestamp": 1_769_083_200,
    "buffer_size": 300,
    "source": "candles",
    "candle_key": "k",
    "candles_digest": "d",
    "gap_count": 0,
    "gap_max_sec": 0,
    "filled": 0,
    "market_inactive": False,
    "tick_pct": 0.0001,
}


def raw_of(encoded: Mapping[str, str]) -> dict[bytes, bytes]:
    """Give a hash as the server does."""
    return {name.encode(): text.encode() for name, text in encoded.items()}


def values_for(field: Field) -> st.SearchStrategy[Any]:
    """Draw values a field can carry, rounded the way its format rounds them."""
    name = field.codec.name.removesuffix(" or empty")
    if name.startswith("."):
        digits = int(name[1:-1])
        low = -1e6 if field.codec.low is None else field.codec.low
        high = 1e6 if field.codec.high is None else field.codec.high
        drawn: st.SearchStrategy[Any] = st.floats(low, high).map(lambda x: float(f"{x:.{digits}f}"))
    elif name == "float (shortest)":
        drawn = st.floats(field.codec.low, field.codec.high, allow_nan=False, allow_infinity=False)
    elif name in ("int", "epoch-s"):
        drawn = st.integers(0, 2**40)
    elif name == "0/1":
        drawn = st.booleans()
    elif name == "comma list":
        drawn = st.lists(st.text("abcdefgh_", min_size=1), max_size=4)
    elif name.startswith("ISO"):
        drawn = st.datetimes(timezones=st.just(UTC))
    elif name == "text":
        drawn = st.text()
    elif name.startswith("ms-seq"):
        drawn = st.tuples(*[st.integers(0, 2**48)] * 4).map(lambda parts: "{}-{}|{}-{}".format(*parts))
    else:
        drawn = st.sampled_from(name.split("|"))
    return drawn | st.none() if field.codec.name.endswith(" or empty") else drawn


def rows_of(table: Table) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({field.name: values_for(field) for field in table.fields})


def reads_back(table: Table, row: dict[str, Any]) -> None:
    """Write a row and read it."""
    raw = {**table.encode(row), **stamps(table, "BTCUSDT", table.encode(row), "c1", NOW, ("", ""))}
    decoded = table.decode({name.encode(): text.encode("utf-8", "surrogatepass") for name, text in raw.items()})
    assert {name: decoded[name] for name in row} == row
    assert decoded["computed_at_utc"] == NOW
    assert decoded["last_update_epoch"] == int(NOW.timestamp())
    assert table.reread(raw) == decoded


def test_what_has_changed_reads_as_if_all_of_it_were_decoded() -> None:
    """A hash is mostly the one of the last cycle; an edited value must be found all the same."""
    encoded = MARKET_STATE.encode(STATE)
    first = raw_of({**encoded, **stamps(MARKET_STATE, "BTCUSDT", encoded, "c1", NOW, ("", ""))})
    row = MARKET_STATE.decode(first)
    moved = MARKET_STATE.encode({**STATE, "sigma": 0.002})
    for later in (
        raw_of({**encoded, **stamps(MARKET_STATE, "BTCUSDT", encoded, "c1", NOW + timedelta(seconds=10), ("", ""))}),
        raw_of({**moved, **stamps(MARKET_STATE, "BTCUSDT", moved, "c2", NOW + timedelta(seconds=20), ("", ""))}),
    ):
        assert MARKET_STATE.redecode(later, first, row) == MARKET_STATE.decode(later) != row
    edits = {"sigma": b"0.00300000", "p_chop": b"7", "mu": b"\xff", "digest": b"0"}
    gone = [{name: value for name, value in first.items() if name != lost} for lost in (b"ts", b"cycle_id")]
    for edited in (*({**first, name.encode(): value} for name, value in edits.items()), *gone):
        with pytest.raises(ContractError) as whole:
            MARKET_STATE.decode(edited)
        with pytest.raises(ContractError, match=re.escape(str(whole.value))):
            MARKET_STATE.redecode(edited, first, row)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.key)
@settings(max_examples=25)
@given(draw=st.data())
def test_every_table_reads_back_what_it_wrote(table: Table, draw: st.DataObject) -> None:
    """Other programs and our own next cycle act on what reads back, not on what was meant."""
    reads_back(table, draw.draw(rows_of(table)))


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.key)
@given(draw=st.data())
def test_every_table_reads_back_whatever_it_wrote(table: Table, draw: st.DataObject) -> None:
    """The same, with as many rows as it takes to find what twenty do not."""
    reads_back(table, draw.draw(rows_of(table)))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.key)
def test_a_missing_field_is_named(table: Table) -> None:
    """A half-written hash of an older program must not read as a whole one."""
    with pytest.raises(ContractError, match="missing"):
        table.decode({b"symbol": b"BTCUSDT"})


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "abc", ""])
def test_a_number_that_is_none_is_refused(bad: str) -> None:
    """NaN compares false with every limit, so it must stop at the border."""
    with pytest.raises(CodecError):
        fixed(8).decode(bad)
    with pytest.raises(CodecError):
        fixed(8).encode(float("nan"))


OUT_OF_RANGE = [
    (MARKET_STATE, "sigma", "-0.01"),
    (MARKET_STATE, "p_trend", "7"),
    (MARKET_STATE, "buffer_size", "9" * 30),
    (RISK_PROPOSAL, "stop_dist_pct", "-1"),
    (RISK_PROPOSAL, "proposed_sl", "0"),
    (RISK_PROPOSAL, "proposed_sl", "1_000"),
    (RISK_PROPOSAL, "proposed_sl", "１００"),
]


@pytest.mark.parametrize(("table", "name", "text"), OUT_OF_RANGE)
def test_a_number_no_kernel_accepts_stops_at_the_border(table: Table, name: str, text: str) -> None:
    """One tampered hash would otherwise fail the step of all symbols."""
    with pytest.raises(CodecError):
        table.by_name[name].codec.decode(text)


def test_the_spec_keys_have_their_spec_names() -> None:
    """These names are read by programs that are not ours."""
    keys = Keys()
    assert keys.of("market_state", "BTCUSDT") == "quantum:marketstate:BTCUSDT"
    assert keys.of("risk_proposal", "BTCUSDT") == "quantum:risk:proposal:BTCUSDT"
    assert keys.of("harvest_proposal", "BTCUSDT") == "quantum:harvest:proposal:BTCUSDT"
    assert keys.of("capital_efficiency", "BTCUSDT") == "quantum:capital:efficiency:BTCUSDT"
    assert keys.of("allocation_target", "BTCUSDT") == "quantum:allocation:target:proposed:BTCUSDT"
    assert keys.of("governor_state", "BTCUSDT") == "quantum:governor:state:BTCUSDT"
    assert keys.of("permit", "plan-1") == "quantum:permit:plan-1"
    assert keys.of("position", "BTCUSDT") == "quantum:position:tracked:BTCUSDT"
    assert keys.of("trade_intent_pending", "0123456789abcdef", "BTCUSDT") == "quantum:trade_intent:pending:0123456789abcdef"


def test_in_a_cluster_the_keys_of_one_symbol_share_a_slot() -> None:
    """MULTI and Lua work on one slot only."""
    keys = Keys(cluster=True)
    per_symbol = [name for name, template in keys.templates().items() if "{symbol}" in template]
    assert all("{BTCUSDT}" in keys.of(name, "BTCUSDT") for name in per_symbol)
    assert "{BTCUSDT}" in keys.of("stream_market_state", "BTCUSDT")


SPEC_FIELDS = {
    "market_state": "sigma mu ts p_trend p_mr p_chop dp vr spike_proxy ts_timestamp buffer_size source",
    "risk_proposal": "proposed_sl proposed_tp stop_dist_pct tp_dist_pct trail_gap_pct reason_codes ts sigma p_trend p_mr p_chop "
    "position_side position_age_sec position_current_price position_entry_price position_source sl_breached",
    "harvest_proposal": "harvest_action new_sl_proposed R_net risk_unit cost_est kill_score reason_codes k_regime_flip k_sigma_spike "
    "k_ts_drop k_age_penalty sigma ts p_trend p_mr p_chop position_side position_age_sec position_current_price "
    "position_entry_price position_source position_unrealized_pnl",
    "capital_efficiency": "efficiency_score efficiency_raw efficiency_ewma capital_pressure reallocation_weight confidence inputs_ok "
    "stale_flags p30_perf p30_conf p29_target_usd volatility_ewma dd_proxy hold_time_penalty ts mode version",
    "allocation_target": "ts_epoch base_target proposed_target multiplier eff_score eff_confidence eff_stale reason mode "
    "last_update_ts_epoch",
    "trade_intent_pending": "symbol action harvest_action confidence stop_loss take_profit reason_codes created_at expires_at source",
    "permit": "granted symbol plan_id decision computed_qty computed_notional created_at consumed eff_score eff_confidence eff_stale "
    "eff_factor eff_action eff_reason downsize_factor extra_cooldown_sec",
}


@pytest.mark.parametrize(("key", "names"), SPEC_FIELDS.items())
def test_no_listed_field_is_missing_from_its_table(key: str, names: str) -> None:
    """Fields may be added, never renamed or dropped."""
    table = next(table for table in TABLES if table.key == key)
    assert set(names.split()) <= set(table.by_name)


def test_formats_are_the_published_ones() -> None:
    """Consumers parse and compare these texts."""
    row = {
        "sigma": 0.0113984, "mu": 0.00279761, "ts": 0.245439, "p_trend": 0.371906, "p_mr": 0.075824, "p_chop": 0.55227,
        "dp": 0.556863, "vr": 1.007189, "spike_proxy": 0.847535, "ts_timestamp": 1769083200, "buffer_size": 300,
        "source": "candles", "candle_key": "quantum:history:ohlcv:BTCUSDT:1m", "candles_digest": "d",
        "gap_count": 0, "gap_max_sec": 0, "filled": 0, "market_inactive": False, "tick_pct": 0.0001,
    }  # fmt: skip
    encoded = MARKET_STATE.encode(row)
    assert encoded["sigma"] == "0.01139840"
    assert encoded["mu"] == "0.00279761"
    assert encoded["p_chop"] == "0.552270"
    assert encoded["ts_timestamp"] == "1769083200"
    entry = MARKET_STATE.stream_entry({**row, "symbol": "BTCUSDT", "regime": "chop"}, encoded, {"cycle_id": "c1"})
    assert list(entry) == ["symbol", "ts", "sigma", "mu", "regime", "timestamp", "cycle_id"]
    assert entry["timestamp"] == "1769083200"


def test_the_allocation_stream_carries_shortest_floats_beside_fixed_ones_in_the_hash() -> None:
    """Hash readers expect 1000.00, stream readers 1000.0."""
    row = {
        "symbol": "BTCUSDT", "ts_epoch": 1, "base_target": 1000.0, "proposed_target": 1400.0, "multiplier": 1.4,
        "eff_score": 0.9, "eff_confidence": None, "eff_stale": False, "reason": "ok", "mode": "shadow",
        "last_update_ts_epoch": 1, "base_target_shortest": "1000.0", "proposed_target_shortest": "1400.0",
    }  # fmt: skip
    encoded = ALLOCATION_TARGET.encode(row)
    assert (encoded["base_target"], encoded["multiplier"], encoded["eff_confidence"]) == ("1000.00", "1.4000", "")
    entry = ALLOCATION_TARGET.stream_entry(row, encoded, {"cycle_id": "c1"})
    assert (entry["base_target"], entry["proposed_target"], entry["eff_score"]) == ("1000.0", "1400.0", "0.9000")


def last_of(row: dict[str, Any], age_sec: float = 0) -> dict[str, Any]:
    return {**row, "published_at_utc": NOW - timedelta(seconds=age_sec)}


def plain_row(table: Table) -> dict[str, Any]:
    typical = {pl.Float64: 100.0, pl.Int64: 1, pl.String: "x", pl.Boolean: False}
    return {field.name: typical.get(field.codec.dtype, []) for field in table.fields}


DUE = [
    (RISK_PROPOSAL, "proposed_sl", 100.0, 100.09, False),
    (RISK_PROPOSAL, "proposed_sl", 100.0, 100.11, True),
    (RISK_PROPOSAL, "proposed_tp", 100.0, 99.89, True),
    (RISK_PROPOSAL, "p_chop", 0.5, 0.5009, False),
    (RISK_PROPOSAL, "p_chop", 0.5, 0.5011, True),
    (RISK_PROPOSAL, "position_side", "LONG", "SHORT", True),
    (RISK_PROPOSAL, "reason_codes", ["a"], ["a", "b"], True),
    (RISK_PROPOSAL, "position_age_sec", 1.0, 11.0, False),
    (HARVEST_PROPOSAL, "harvest_action", "NONE", "PARTIAL_25", True),
    (HARVEST_PROPOSAL, "kill_score", 0.6, 0.6012, True),
    (HARVEST_PROPOSAL, "new_sl_proposed", None, 100.2, True),
    (HARVEST_PROPOSAL, "new_sl_proposed", None, None, False),
    (MARKET_STATE, "sigma", 0.01, 0.02, False),
    (MARKET_STATE, "p_trend", 0.3, 0.302, True),
]


@pytest.mark.parametrize(("table", "name", "old", "new", "due"), DUE)
def test_a_publication_is_due_when_the_spec_says_so(table: Table, name: str, old: Any, new: Any, due: bool) -> None:  # noqa: FBT001
    """Too many publications drown consumers, too few leave them with old stops."""
    row = plain_row(table)
    cause = publication_due(table, last_of({**row, name: old}), {**row, name: new}, now=NOW, change_eps_pct=0.001, max_age_sec=60)
    assert cause == (f"{name} changed" if due else None)


def test_an_unchanged_value_is_published_again_at_the_age_limit() -> None:
    """A reader that starts late still finds a publication in the stream."""
    row = plain_row(RISK_PROPOSAL)
    due = {
        age: publication_due(RISK_PROPOSAL, last_of(row, age), row, now=NOW, change_eps_pct=0.001, max_age_sec=60)
        for age in (59.9, 60.0)
    }
    assert due == {59.9: None, 60.0: "max age"}


@pytest.mark.parametrize(
    ("side", "in_force", "why"),
    [
        ("LONG", 100.0001, "looser than the stop in force"),
        ("LONG", 99.9999, None),
        ("LONG", 100.0, None),
        ("LONG", None, None),
        ("SHORT", 99.9999, "looser than the stop in force"),
        ("SHORT", 100.0001, None),
    ],
)
def test_a_stop_that_stands_looser_than_the_one_in_force_is_renewed(side: str, in_force: float | None, why: str | None) -> None:
    """Somebody had moved the stop by less than a change that counts: found by the simulation, seed 143."""
    row = {**plain_row(RISK_PROPOSAL), "position_side": side, "proposed_sl": 100.0, "position_current_sl": 100.0}
    new = {**row, "position_current_sl": in_force}
    cause = publication_due(RISK_PROPOSAL, last_of(row), new, now=NOW, change_eps_pct=0.001, max_age_sec=60)
    assert cause == why
    other = {**new, "position_side": "SHORT" if side == "LONG" else "LONG"}
    assert "position_side" in str(
        publication_due(RISK_PROPOSAL, last_of(row), other, now=NOW, change_eps_pct=0.001, max_age_sec=60)
    )


def test_the_first_value_is_always_published() -> None:
    """Nothing to compare with is not "unchanged"."""
    row = plain_row(RISK_PROPOSAL)
    assert publication_due(RISK_PROPOSAL, None, row, now=NOW, change_eps_pct=0.001, max_age_sec=60) == "first"


def test_every_plotted_field_is_a_number() -> None:
    """The user interface can only draw numbers."""
    plotted = [field for table in TABLES for field in table.fields if field.plot]
    assert plotted
    assert all(field.codec.dtype in (pl.Float64, pl.Int64) for field in plotted)


def test_the_key_reference_in_docs_is_the_one_generated_from_the_contracts() -> None:
    """A reference that drifts is worse than none."""
    assert (ROOT / "docs" / "keys.md").read_text() == reference()


def test_stamps_are_on_every_hash() -> None:
    """Freshness is judged by them."""
    encoded = dict.fromkeys((field.name for field in MARKET_STATE.fields), "1")
    assert set(stamps(MARKET_STATE, "S", encoded, "c", NOW, ("", ""))) == {field.name for field in COMMON}
    assert Change.IGNORED in {field.change for field in COMMON}


def test_no_plot_mixes_prices_or_amounts_of_several_symbols() -> None:
    """Bitcoin at 97,000 and Solana at 150 in one plot say nothing; they are written as text instead."""
    of_symbols = [field for table in TABLES if not table.of_account for field in table.fields]
    assert [field.name for field in of_symbols if field.plot and field.unit in ("quote", "USD", "base")] == []
    shown = {field.name for field in of_symbols if field.show}
    assert {"proposed_sl", "proposed_tp", "entry_price", "current_price", "proposed_target"} <= shown
    assert not [field.name for field in of_symbols if field.show and field.plot]
