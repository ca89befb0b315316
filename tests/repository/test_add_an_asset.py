"""The example of docs/dagster.md, "Add an asset", is executed as it stands on the page."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

import definitions
from quantum_assets.checks.evidence import PACKAGES as PROVEN
from quantum_core.contracts.tables import PUBLISHED_TABLES, Keys
from resources.store.redis_store import RedisStore
from tests.world import QUIET, assemble, hash_of, materialized, run_cycle, write_position, write_world

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "dagster.md"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


def section() -> str:
    """Give the section of the page."""
    return PAGE.read_text().split("\n## Add an asset\n")[1].split("\n## ")[0]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the code of the page, and add what its table of places says to add, as far as one asset by itself needs it."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", section(), re.DOTALL | re.MULTILINE)
    ((name, template),) = re.findall(r'`"(\w+)": "([^"]+)",`', section())
    module = ModuleType("loss_at_stop_of_the_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(PAGE), "exec"), vars(module))  # noqa: S102 - our own page
    known = Keys.templates
    monkeypatch.setattr(Keys, "templates", lambda keys: {**known(keys), name: template})
    monkeypatch.setattr(definitions, "ASSETS", (*definitions.ASSETS, module.loss_at_stop))
    monkeypatch.setitem(PUBLISHED_TABLES, module.LOSS_AT_STOP.asset, module.LOSS_AT_STOP)
    return module


@pytest.fixture
def world(example: ModuleType, make_store) -> RedisStore:  # noqa: ARG001 - the keys come first
    """One long and one short position, and one symbol that is flat."""
    store = make_store(symbols=SYMBOLS)
    write_world(store)
    write_position(store, "ETHUSDT", side="SHORT", entry=3600.0, mark=3580.0)
    write_position(store, "SOLUSDT", side="FLAT", quantity=0)
    return store


def materialize(store: RedisStore, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """Materialize the asset of the page for all symbols, as `dagster asset materialize` does."""
    job = assemble(store).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey("loss_at_stop")],
        tags={"dagster/asset_partition_range_start": SYMBOLS[0], "dagster/asset_partition_range_end": SYMBOLS[-1]},
        run_config=QUIET,
        raise_on_error=False,
    )


def test_the_asset_of_the_page_publishes_what_the_page_says(world, instance) -> None:
    """Whoever follows the page gets an asset that works, for both sides."""
    run_cycle(world, instance)
    assert materialize(world, instance).success
    for symbol, sign in (("BTCUSDT", 1), ("ETHUSDT", -1)):
        proposal, published = hash_of(world, "risk_proposal", symbol), hash_of(world, "loss_at_stop", symbol)
        loss = sign * (1 - float(proposal["proposed_sl"]) / float(proposal["position_entry_price"]))
        assert proposal["position_side"] == ("LONG" if sign > 0 else "SHORT")
        assert float(published["loss_pct"]) == pytest.approx(loss, rel=1e-12)  # the same doubles in another order
        assert published["data_source"] == proposal["data_source"]
    assert 0 < world.client.ttl("quantum:risk:loss_at_stop:BTCUSDT") <= 100


def test_a_flat_symbol_publishes_nothing_and_is_not_materialized(world, instance) -> None:
    """The page says so, and a number without a position would be made up."""
    run_cycle(world, instance)
    materialize(world, instance)
    assert materialized(instance, "loss_at_stop") == {"BTCUSDT", "ETHUSDT"}
    assert not world.client.exists("quantum:risk:loss_at_stop:SOLUSDT")


def test_a_stale_proposal_gives_no_loss(world, instance, clock) -> None:
    """An asset that follows the page inherits the rule: what is stale is not used, and the run says why."""
    run_cycle(world, instance)
    clock.advance(600)
    result = materialize(world, instance)
    assert not result.success
    assert "risk_proposal_stale" in str(result.failure_data_for_node("loss_at_stop").error)
    assert not world.client.keys("quantum:risk:loss_at_stop:*")


def test_the_example_stays_short() -> None:
    """Forty lines are read; four hundred are not."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", section(), re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


@pytest.mark.slow
def test_what_dg_scaffolds_is_loaded(tmp_path: Path) -> None:
    """`dg scaffold` writes where pyproject.toml says; what it writes must not be dead code."""
    for package in (*PROVEN, "quantum_feed"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("definitions.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    def dg_says(*words: str) -> str:
        command = [str(Path(sys.executable).parent / "dg"), *words]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "QUANTUM_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "spread_of_the_book" not in dg_says("list", "defs", "--json")
    dg_says("scaffold", "defs", "dagster.asset", "spread_of_the_book.py")
    assert (tmp_path / "quantum_assets" / "custom" / "spread_of_the_book.py").exists()
    listed = dg_says("list", "defs", "--json")
    assert "spread_of_the_book" in listed
    assert "governor_permit" in listed
