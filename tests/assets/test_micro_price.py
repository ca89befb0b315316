"""The same market a thousand million times cheaper, side by side, through the whole line: only the unit differs, for machines and people."""

import logging
import re

import pytest

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.pack import PROOFS, judge
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, POSITION, RISK_PROPOSAL
from quantum_core.display import price_text
from quantum_ops.desk import pages as desk_pages
from quantum_ops.desk.history import History
from quantum_ops.desk.overview import DeskReader, read_symbol
from tests.commands import run_command
from tests.world import (
    real_closes,
    run_cycle,
    write_candles,
    write_efficiency,
    write_equity,
    write_position,
    write_target,
)

DEAR, CHEAP, FACTOR = "UNITUSDT", "MICROUSDT", 1e-9
UNITS = {DEAR: 1.0, CHEAP: FACTOR}
COINS = 32_000.0  # of the dear one; 3.2e13 of the cheap one
PRICED = ("market_state", "position", "risk_proposal", "harvest_proposal", "trade_intent", "allocation_target")
OF_THE_LOOP = ("cadence", "one_cycle", "process_alive")  # nobody runs one here


@pytest.fixture
def store(make_store):
    return make_store(symbols=[DEAR, CHEAP], position_source="redis_hash")


def write(store, mark: float = 1.0) -> float:
    """Give both symbols one market, in their units; return the last close."""
    closes = [price / real_closes("BTCUSDT")[0] for price in real_closes("BTCUSDT")]
    for symbol, unit in UNITS.items():
        last = closes[-1] * unit
        write_candles(store, symbol, [price * unit for price in closes])
        entry, now = last * 0.97, last * mark
        pnl, size = (now - entry) * COINS / unit, COINS / unit
        write_position(store, symbol, entry=entry, mark=now, quantity=size, unrealized_pnl=pnl, created_at=1769079600)
        write_target(store, symbol, usd=1e6)
        write_efficiency(store, symbol)
    write_equity(store, 1e6, 1e6)
    return closes[-1]


def rows(store, table):
    read = {symbol: table.decode(store.client.hgetall(store.keys.of(table.key, symbol))) for symbol in UNITS}
    return read[DEAR], read[CHEAP]


def test_one_market_in_two_units_gives_one_answer_and_every_proof_holds(store, instance, clock) -> None:
    """At 1e-9 stops loosened, R was wrong twenty times, and the proofs passed whatever they saw."""
    for mark in (1.0, 1.001):  # the second has a stop in force, and one that tightens
        write(store, mark)
        assert run_cycle(store, instance).success
        for table in (MARKET_STATE, POSITION, RISK_PROPOSAL, HARVEST_PROPOSAL):
            dear, cheap = rows(store, table)
            for field in table.fields:
                expected = dear[field.name]
                if expected is not None and field.unit == "quote" and "pnl" not in field.name:
                    expected *= FACTOR
                if field.unit in ("base", "contracts"):
                    expected /= FACTOR
                if field.name in ("candles_digest", "candle_key", "carried"):
                    continue
                if isinstance(expected, float):
                    expected = pytest.approx(expected, rel=1e-8, abs=1e-7 if "pnl" in field.name else 1e-12 * FACTOR)
                assert cheap[field.name] == expected, (mark, field.name)
        clock.advance(10)
    assert rows(store, HARVEST_PROPOSAL)[1]["R_net"] > 2
    evidence = Evidence(store, instance, hurried=True)
    judged = [judge(proof, evidence) for proof in PROOFS if proof.asset in PRICED and proof.name not in OF_THE_LOOP]
    assert {one.proof.title: one.finding.failing for one in judged if not one.passed} == {}


def test_a_proof_at_a_billionth_sees_a_stop_that_was_moved(store, instance) -> None:
    """The tolerance was larger than the price."""
    write(store)
    assert run_cycle(store, instance).success
    row = rows(store, RISK_PROPOSAL)[1]
    texts = RISK_PROPOSAL.encode({**row, "proposed_sl": row["proposed_sl"] * (1 - 1e-6)})
    store.client.hset(store.keys.of("risk_proposal", CHEAP), mapping={**texts, "digest": RISK_PROPOSAL.digest(texts)})
    (recomputed,) = [one for one in PROOFS if one.title == "risk_proposal/recomputed"]
    assert set(judge(recomputed, Evidence(store, instance, hurried=True)).finding.failing) == {CHEAP}


def test_what_people_read_of_a_micro_price_has_its_digits(store, instance, caplog, tmp_path) -> None:
    """``SL=$0.0000`` tells nobody whether the stop has moved."""
    write(store)
    with caplog.at_level(logging.INFO):
        assert run_cycle(store, instance).success
    stop = rows(store, RISK_PROPOSAL)[1]["proposed_sl"]
    (logged,) = [line for line in caplog.messages if f"proposal for {CHEAP}: SL" in line]
    assert float(re.search(r"SL=\$([\d.]+) ", logged)[1]) == pytest.approx(stop, rel=1e-5)
    environment = {"REDIS_URL": store.settings.url, "SYMBOLS": f"{DEAR},{CHEAP}", "QUANTUM_HOME": str(tmp_path), "COLUMNS": "200"}
    shown = price_text(stop)
    assert float(shown) == pytest.approx(stop, rel=1e-5)
    assert shown in run_command("status", environment=environment).stdout
    reader = DeskReader(store)
    standing, (row,) = reader.standing(), [one for one in reader.rows() if one.symbol == CHEAP]
    assert row.stop == stop
    assert shown in desk_pages.overview(standing, [row], "", "n")
    assert shown in desk_pages.symbol_page(read_symbol(store, CHEAP), History(), standing, "", "n")
