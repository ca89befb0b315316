"""What the buttons of an asset's Checks tab do: every check at once, and the summary that names the failing ones."""

from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from definitions import assemble
from quantum_assets.checks import asset_checks, pack
from quantum_assets.checks.pack import PROOFS
from quantum_assets.checks.proof import SOUND, Finding, Proof, Verdict
from quantum_assets.checks.results import description_of, severity_of, sound_of_asset, sound_of_symbol
from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.world import QUIET, run_cycle, write_world

CHECKED = sorted({proof.asset for proof in PROOFS})


@pytest.fixture
def world(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> RedisStore:
    """A world after a cycle; nothing waits for a second look, and nothing starts an interpreter."""
    monkeypatch.setattr(asset_checks, "LOOK_AGAIN_SEC", 0)
    monkeypatch.setattr(pack.run, "__kwdefaults__", {"look_again_sec": 0})
    remembered = SimpleNamespace(at=store.clock().timestamp(), exit_code=0, last_line="Single cycle complete")
    monkeypatch.setattr("quantum_assets.checks.evidence.Evidence.single_cycle", remembered)
    write_world(store)
    return store


def execute(store: RedisStore, instance: dg.DagsterInstance, asset: str, **options: Any) -> dict[tuple[str, str | None], bool]:
    """Run every check of an asset in one run, as the button does; give what it recorded."""
    job = assemble(store).resolve_implicit_global_asset_job_def()
    keys = {key for key in job.asset_layer.asset_graph.asset_check_keys if key.asset_key == dg.AssetKey(asset)}
    chosen = {"asset_selection": set(), "asset_check_selection": keys, **options.pop("selection", {})}
    result = job.get_subset(**chosen).execute_in_process(instance=instance, run_config=QUIET, **options)
    assert result.success
    found = [event.event_specific_data for event in result.all_events if event.event_type_value == "ASSET_CHECK_EVALUATION"]
    return {(one.check_name, one.partition): one.passed for one in found}


def names(asset: str) -> set[str]:
    return {proof.name for proof in PROOFS if proof.asset == asset} | ({SOUND} if asset in asset_checks.ASSETS else set())


@pytest.mark.parametrize("assets", [["market_state"], pytest.param(CHECKED, marks=pytest.mark.slow)], ids=["one", "each"])
def test_all_checks_of_an_asset_are_executed_by_one_click(world, instance, assets) -> None:
    """`sound` is a check of partitions, and the button names none: it once raised after thirteen proofs had held."""
    run_cycle(world, instance)
    for asset in assets:
        found = execute(world, instance, asset)
        assert {name for name, _ in found} - {"calc_only_process"} == names(asset), asset
        if asset in asset_checks.ASSETS:
            assert {partition for name, partition in found if name == SOUND} == {None, *world.settings.symbols}
            of_symbols = [found[proof.name, None] for proof in PROOFS if proof.asset == asset and proof.per_symbol]
            assert found[SOUND, None] == all(of_symbols)


def test_one_symbol_can_be_asked_for_alone(world, instance) -> None:
    """From the check's own partition dialog, which names the partition in a tag, as every launch of a page does."""
    run_cycle(world, instance)
    alone = {"asset_check_selection": {dg.AssetCheckKey(dg.AssetKey("risk_proposal"), SOUND)}}
    assert set(execute(world, instance, "risk_proposal", selection=alone, tags={"dagster/partition": "BTCUSDT"})) == {
        (SOUND, "BTCUSDT")
    }


def test_all_checks_run_with_a_materialization_of_one_symbol(world, instance) -> None:
    """Materialize runs the checks of the asset too, where it is not told otherwise."""
    run_cycle(world, instance)
    chosen = {"asset_selection": {dg.AssetKey("risk_proposal")}, "asset_check_selection": None}
    found = execute(world, instance, "risk_proposal", selection=chosen, partition_key="BTCUSDT")
    assert {name for name, _ in found} == names("risk_proposal")


def verdict(name: str, *, evaluated: bool = True, **failing: str) -> Verdict:
    proof = Proof("risk_proposal", name, "risk_proposal", "ERROR", "claim", "", lambda _: Finding("", "", 0))
    observed = "seen" if evaluated else "could not be evaluated: RedisUnavailableError: away"
    return Verdict(proof, Finding(observed, "accepted", len(failing), failing), evaluated=evaluated)


def test_what_could_not_be_evaluated_is_no_failure_and_says_why() -> None:
    """Redis away once turned sixty checks red, as if sixty numbers were wrong."""
    away = verdict("fresh", evaluated=False)
    assert not away.passed
    assert severity_of(away) == "WARN"
    assert description_of(away) == "not evaluated: RedisUnavailableError: away"
    assert severity_of(verdict("tightens", BTCUSDT="looser")) == "ERROR"
    assert description_of(verdict("tightens")) == "nothing to judge: seen"


def test_the_summary_links_to_each_failing_proof_failures_before_warnings() -> None:
    """The list of checks is sorted by name; who fails is found in one click."""
    found = sound_of_asset(
        "risk_proposal",
        [verdict("distances"), verdict("a", evaluated=False), verdict("tightens", BTCUSDT="looser")],
        load_settings(),
    )
    assert not found.passed
    assert found.description == "1 of 3 proofs hold; not: tightens; not evaluated: RedisUnavailableError: away (a)"
    first, second = found.metadata["failing_proofs"].value.splitlines()
    assert first == "- failed: [tightens](/assets/risk_proposal?view=checks&checkDetail=tightens): BTCUSDT"
    assert second.startswith("- not evaluated: [a]")
    assert second.endswith(": RedisUnavailableError: away")
    assert (found.metadata["failing"].value, found.metadata["not_evaluated"].value) == (1, 1)


def test_what_could_not_be_evaluated_at_all_is_a_warning_that_says_why_for_each_symbol_and_for_all() -> None:
    """Redis away: nothing is known to be wrong with any number."""
    away = verdict("fresh", evaluated=False)
    for one in (
        sound_of_asset("risk_proposal", [away], load_settings()),
        sound_of_symbol("risk_proposal", "BTCUSDT", {"t": away}, load_settings()),
    ):
        assert not one.passed
        assert one.severity is dg.AssetCheckSeverity.WARN
        assert "not evaluated: RedisUnavailableError: away" in one.description
        assert one.metadata["failing"].value == 0
