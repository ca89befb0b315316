"""With other parameters than the specification's every proof holds, and a row computed with others than it names is found."""

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import dagster as dg
import pytest

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.pack import PROOFS, run
from quantum_core.contracts.schema import ACCOUNT, Table
from quantum_core.contracts.tables import (
    CAPITAL_EFFICIENCY,
    HARVEST_PROPOSAL,
    MARKET_STATE,
    RISK_PROPOSAL,
)
from quantum_core.profiles.files import load, parse
from quantum_core.profiles.profile import Profile
from quantum_core.settings import load_settings
from resources.instance.home import open_instance
from resources.store.profiles import use
from resources.store.redis_store import RedisStore
from tests.world import run_cycle, write_efficiency, write_plan, write_world

SYMBOLS = ("BTCUSDT", "ETHUSDT")
VICTIM = "ETHUSDT"
OWN_STOP = """
name = "desk"
[symbols.ETHUSDT.stops]
sl_min_pct = 0.002
"""
MEASURED = """
name = "measured"
[market_state.vol]
tail = "student_t"
tail_horizon = 60
[market_state.trend]
horizon = 60
[market_state.regime]
measure = "significance"
[stops]
sl_min_pct = 0.0001
tail_stop = true
[symbols.ETHUSDT.market_state.vol]
tail = "historical"
tail_exceedance = 0.01
"""
OTHERS = """
name = "others"
[market_state.regime.score]
a1 = 8.0
[stops]
sl_min_pct = 0.03
[harvest]
cost_bps = 25.0
[efficiency]
hold_weight = 0.1
volatility_weight = 0.2
increase_ewma = 0.1
increase_confidence = 0.0
decrease_ewma = 0.05
[allocation]
scale = 0.5
min_confidence = 0.01
[permit_hint]
downsize_threshold = 0.95
[risk_guard]
losses_max = 1
"""
OF_PROCESSES = ("calc_only_imports", "no_trading_libraries", "imports_anywhere", "process_alive", "one_cycle", "cadence", "fresh")
RECOMPUTED = {
    "market_state/recomputed": MARKET_STATE,
    "risk_proposal/recomputed": RISK_PROPOSAL,
    "harvest_proposal/recomputed": HARVEST_PROPOSAL,
    "capital_efficiency/recomputed": CAPITAL_EFFICIENCY,
}


@pytest.fixture
def instance(_new_home: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = shutil.copytree(_new_home, tmp_path / "home")
    with open_instance(load_settings(quantum_home=home)) as opened:
        yield opened


def desk(url: str, folder: Path, instance: dg.DagsterInstance, profile: str, **settings: str) -> RedisStore:
    """Run two cycles of a desk with a profile, and a plan in between."""
    store = RedisStore(load_settings(redis_url=url, quantum_home=folder, symbols=",".join(SYMBOLS), profile=profile, **settings))
    store.client.flushdb()  # the server is that of all tests of a process: another profile may have been put in force
    write_world(store)
    run_cycle(store, instance)
    write_plan(store, "p-close", VICTIM, "CLOSE", qty=0.01)
    run_cycle(store, instance)
    return store


def file_of(folder: Path, text: str) -> tuple[str, Profile]:
    path = folder / "own.toml"
    path.write_text(text)
    return str(path), parse(text, "own.toml")


def red(store: RedisStore, instance: dg.DagsterInstance, names: Collection[str] = ()) -> dict[str, Mapping[str, str]]:
    """Name the proofs of numbers that fail; those of ages and modules have nothing to do with a profile, and take long."""
    proofs = [proof for proof in PROOFS if proof.name not in OF_PROCESSES and (not names or proof.name in names)]
    found = {one.proof.title: one for one in run(lambda: Evidence(store, instance), proofs, look_again_sec=0)}
    return {
        title: one.finding.failing if one.evaluated else {"": one.finding.observed}
        for title, one in found.items()
        if not one.passed and one.severity == "ERROR"
    }


def test_with_parameters_for_minutes_every_proof_holds(valkey_url: str, tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Constants of the specification in a proof would turn a desk red that has set its own."""
    store = desk(valkey_url, tmp_path, instance, "crypto-1m")
    assert store.read(RISK_PROPOSAL, [VICTIM])[0].value["profile_name"] == "crypto-1m"
    assert red(store, instance) == {}


def test_with_a_stop_floor_of_one_symbol_every_proof_holds(valkey_url: str, tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Each symbol is judged by its own floor."""
    path, profile = file_of(tmp_path, OWN_STOP)
    store = desk(valkey_url, tmp_path, instance, path)
    rows = {one.symbol: one.value for one in store.read(RISK_PROPOSAL, SYMBOLS)}
    assert {symbol: row["profile"] for symbol, row in rows.items()} == {one: profile.fingerprint_of(one) for one in SYMBOLS}
    assert rows[VICTIM]["stop_dist_pct"] < rows["BTCUSDT"]["stop_dist_pct"] == 0.005
    assert red(store, instance) == {}


def test_with_tails_and_significance_every_proof_holds(valkey_url: str, tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Both implementations know them, and a proposal repeats the tail move it was made of."""
    path, profile = file_of(tmp_path, MEASURED)
    store = desk(valkey_url, tmp_path, instance, path)
    states, proposals = ({one.symbol: one.value for one in store.read(table, SYMBOLS)} for table in (MARKET_STATE, RISK_PROPOSAL))
    for symbol, row in proposals.items():
        assert row["profile"] == profile.fingerprint_of(symbol)
        assert row["stop_dist_pct"] == row["tail_move"] == states[symbol]["tail_move"] > 0.0001
    assert red(store, instance) == {}
    store.client.hset(store.keys.of(MARKET_STATE.key, VICTIM), "tail_move", "")
    assert "market_state/contract" in red(store, instance, ("recomputed", "contract"))


def test_after_a_change_every_proof_holds_before_and_after_the_next_cycle(
    valkey_url: str, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Rows of the cycle before the change stand for a moment, and name what they were computed with."""
    store = desk(valkey_url, tmp_path, instance, "locked-v1")
    use(store, load("crypto-1m"), by="ada", reason="minutes")
    assert red(store, instance) == {}
    run_cycle(store, instance)
    assert store.read(RISK_PROPOSAL, [VICTIM])[0].value["profile"] == load("crypto-1m").fingerprint
    assert red(store, instance) == {}


def name_another(store: RedisStore, table: Table, profile: str, name: str) -> None:
    symbol = ACCOUNT if table.of_account else VICTIM
    store.client.hset(store.keys.of(table.key, symbol), mapping={"profile": profile, "profile_name": name})


def test_a_row_computed_with_other_parameters_than_it_names_is_found(
    valkey_url: str, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Whoever stamps one profile and computes with another is wrong by name, and so is a profile nobody knows."""
    store = desk(valkey_url, tmp_path, instance, "locked-v1", efficiency_mode="enforce")
    others = parse(OTHERS, "others.toml")
    use(store, others, by="ada", reason="a profile that is known, and was not used")
    use(store, load("locked-v1"), by="ada", reason="back")
    write_efficiency(store, VICTIM, 0.6)
    store.client.hset(store.keys.of("equity"), "consecutive_losses", 1)
    run_cycle(store, instance)
    assert "risk_proposal/recomputed" not in red(store, instance)
    for title, table in RECOMPUTED.items():
        key = store.keys.of(table.key, ACCOUNT if table.of_account else VICTIM)
        genuine = store.client.hgetall(key)
        for fingerprint, told in ((others.fingerprint, ""), ("0123456789ab", "nobody knows: desk 0123456789ab")):
            name_another(store, table, fingerprint, "desk")
            failing = red(store, instance, ("recomputed", "distances"))
            simpler = {"risk_proposal/recomputed": "risk_proposal/distances"}.get(title, title) if not told else title
            assert simpler in failing, (title, failing)
            assert told in str(failing[simpler]), title
        store.client.hset(key, mapping=genuine)
