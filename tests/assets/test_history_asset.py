"""Asset ``history``: a day is compacted once it is over and in its turn, verified, and removed when it is too old."""

import shutil
from datetime import date, timedelta

import dagster as dg
import polars as pl
import pytest

from definitions import assemble
from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Verdict
from quantum_assets.checks.proofs.history import PROOFS, archive_intact
from quantum_assets.checks.results import description_of
from quantum_assets.recorded.history import why_not
from resources.recorder.archive import Position, compactable, sha256_of
from resources.recorder.reading import archive_of
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME, EVENT_JOB_NAME
from sensors.history import COMPACTION_JOB_NAME
from tests.recorded import days_of_rows
from tests.world import QUIET

FIRST = date(2026, 1, 22)
KEY = dg.AssetKey("history")


def record(store: RedisStore, *days: date) -> None:
    """Write one flush into each day, the last of which is open."""
    archive = archive_of(store.settings)
    for day in days:
        rows = pl.DataFrame({"symbol": ["BTCUSDT", "ETHUSDT"], "seq": [2, 1], "sigma": [0.1, 0.2]})
        archive.write({"market_state": rows, "position": rows}, Position(flush=archive.position().flush + 1, day=str(day)))


def compact(
    store: RedisStore, instance: dg.DagsterInstance, day: date, *, raise_on_error: bool = True
) -> dg.ExecuteInProcessResult:
    job = assemble(store).resolve_job_def(COMPACTION_JOB_NAME)
    return job.execute_in_process(instance=instance, partition_key=str(day), run_config=QUIET, raise_on_error=raise_on_error)


def days(count: int) -> list[date]:
    return [FIRST + timedelta(days=number) for number in range(count)]


def evaluated(result, name):
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == name]
    return check


def test_a_day_that_is_over_is_compacted_shown_and_verified(store, instance) -> None:
    record(store, *days(2))
    result = compact(store, instance, FIRST)
    archive = archive_of(store.settings)
    assert archive.is_compacted(FIRST)
    shown = instance.get_latest_materialization_event(KEY).asset_materialization
    assert shown.partition == str(FIRST)
    metadata = {name: one.value for name, one in shown.metadata.items()}
    assert (metadata["rows"], metadata["gaps"], metadata["set_aside"]) == (4, 0, 0)
    assert metadata["sha256"] == sha256_of(archive.manifest_path(FIRST))
    assert [row.data["table"] for row in metadata["tables"].records] == ["market_state", "position"]
    check = evaluated(result, "archive_intact")
    assert check.passed
    assert check.metadata["judged"].value == 1


@pytest.mark.parametrize(
    ("day", "said"),
    [
        (FIRST + timedelta(days=1), "Compact 2026-01-22 first"),
        (FIRST + timedelta(days=3), "is not over: the recorder still writes to 2026-01-25"),
    ],
)
def test_a_day_out_of_its_turn_is_refused_with_the_reason(store, instance, day, said) -> None:
    """A manifest made before its predecessor would begin a chain of its own, for ever a fault."""
    record(store, *days(4))
    store.clock.advance(4 * 86_400)
    result = compact(store, instance, day, raise_on_error=False)
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure and "history" in event.step_key]
    assert said in failure.user_failure_data.description
    assert archive_of(store.settings).manifest_days() == []


def test_days_are_due_oldest_first_and_never_the_open_one(store) -> None:
    archive = archive_of(store.settings)
    assert compactable(archive) == []
    assert "Start the recorder here" in why_not(archive, FIRST)
    record(store, *days(4))
    assert compactable(archive) == days(3)
    archive.compact(FIRST)
    assert compactable(archive) == days(3)[1:]
    assert why_not(archive, FIRST) == ""
    assert why_not(archive, FIRST - timedelta(days=9)) == "Nothing is recorded of 2026-01-13."


def test_a_day_that_comes_too_late_for_the_chain_is_left_alone_and_named(store) -> None:
    record(store, FIRST, FIRST + timedelta(days=1), FIRST + timedelta(days=2))
    archive = archive_of(store.settings)
    archive.compact(FIRST + timedelta(days=1))
    assert compactable(archive) == []
    assert "too late for the chain" in why_not(archive, FIRST)


def test_what_is_too_old_is_removed_and_its_manifest_stays(make_store, instance) -> None:
    store = make_store(recorder_days=2)
    record(store, *days(4))
    for day in days(3):
        compact(store, instance, day)
    archive = archive_of(store.settings)
    assert archive.days() == days(4)[2:]
    assert archive.manifest_days() == days(3)
    assert archive_intact(Evidence(store)).failing == {}


def test_without_a_compacted_day_the_proof_says_that_it_judged_nothing(store) -> None:
    finding = archive_intact(Evidence(store))
    assert (finding.judged, finding.failing) == (0, {})
    assert description_of(Verdict(PROOFS[0], finding)) == "nothing to judge: no recorded day has been compacted yet"


def test_a_table_that_is_removed_from_the_day_that_is_written_makes_the_proof_red(store) -> None:
    record(store, FIRST)
    archive = archive_of(store.settings)
    assert archive_intact(Evidence(store)).failing == {}
    shutil.rmtree(archive.root / "position")
    finding = archive_intact(Evidence(store))
    assert [*finding.failing] == [f"position/date={FIRST}"]
    assert Verdict(PROOFS[1], finding).passed is False


def test_a_damaged_day_makes_the_compaction_of_the_next_one_red(store, instance) -> None:
    days_of_rows(archive_of(store.settings), FIRST, 2)
    later = FIRST + timedelta(days=3)
    archive_of(store.settings).write({}, Position(flush=9, day=str(later)))
    path = archive_of(store.settings).folder("market_state", FIRST) / "day.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    record(store, later - timedelta(days=1), later)
    check = evaluated(compact(store, instance, later - timedelta(days=1)), "archive_intact")
    assert not check.passed
    assert check.metadata["failing_table"].value.records[0].data["what"].endswith("2026-01-22/day.parquet")


def test_its_partitions_are_days_and_no_cycle_contains_it(store, make_store) -> None:
    """Nothing of the cycle may change because the past is kept."""
    definitions = assemble(store)
    graph = definitions.resolve_asset_graph()
    assert isinstance(graph.get(KEY).partitions_def, dg.DailyPartitionsDefinition)
    assert graph.get(KEY).partitions_def.start == store.clock().replace(hour=0)
    assert not graph.get(KEY).parent_keys
    for job in (CYCLE_JOB_NAME, EVENT_JOB_NAME):
        assert KEY not in definitions.resolve_job_def(job).asset_layer.executable_asset_keys
    record(store, FIRST - timedelta(days=5), FIRST)
    first = assemble(make_store()).resolve_asset_graph().get(KEY).partitions_def.start
    assert first.date() == FIRST - timedelta(days=5)


def test_a_prefix_is_before_it_too(make_store, instance) -> None:
    store = make_store(asset_prefix="desk")
    record(store, *days(2))
    result = compact(store, instance, FIRST)
    assert [event.asset_key.path for event in result.get_asset_materialization_events()] == [["desk", "history"]]
