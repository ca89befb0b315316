"""What the sensors do where each run starts an interpreter of its own: with plain ``dagster dev``."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from definitions import assemble
from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proofs.product import process_alive
from quantum_assets.checks.proofs.risk_proposal import cadence
from resources.instance.launcher import has_warm_workers
from resources.store.redis_store import UnreadableKeyError
from sensors.cycle import CYCLE_JOB_NAME, cycle_tags
from sensors.overdue import COLD, SLOWER, overdue
from tests.conftest import START
from tests.world import write_plan

PROJECT = Path(__file__).resolve().parents[2]
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


@pytest.fixture
def plain(_new_home: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """The instance that `dagster dev` in the checkout has."""
    home = shutil.copytree(_new_home, tmp_path / "plain")
    shutil.copy(PROJECT / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


def tick(store, instance, sensor="cycle", cursor=None):
    definitions = assemble(store)
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
    return definitions.resolve_sensor_def(sensor)(context)


def begun(store, instance, job=CYCLE_JOB_NAME, tags=None):
    """Let a run have begun just now."""
    run = instance.create_run_for_job(
        assemble(store).resolve_job_def(job), status=dg.DagsterRunStatus.STARTED, tags=tags or cycle_tags(SYMBOLS, "c1")
    )
    store.clock.now = instance.get_run_record_by_id(run.run_id).create_timestamp
    return run


def test_the_checkout_has_no_warm_workers_and_what_quantum_up_installs_has_them(plain, instance) -> None:
    """The other way round every run of one of them waits for a worker that is not there."""
    assert not has_warm_workers(plain)
    assert has_warm_workers(instance)


@pytest.mark.parametrize(
    ("age_sec", "started", "late"), [(120, False, False), (121, False, True), (180, True, False), (181, True, True)]
)
def test_an_interpreter_has_two_minutes_to_come_up(age_sec, started, late) -> None:
    """Several at once on two busy cores need most of one."""
    assert (overdue(START - timedelta(seconds=age_sec), START, started=started, limits=COLD) is not None) is late


def test_a_cycle_follows_when_the_previous_one_has_ended_and_none_is_failed_meanwhile(store, plain) -> None:
    """Requests that pile up on two cores make each other late for ever."""
    run = begun(store, plain)
    store.clock.advance(61)
    result = tick(store, plain)
    assert result.skip_reason.skip_message == f"the previous cycle still runs: {SLOWER}"
    assert '"late": 0' in result.cursor
    plain.report_run_failed(run)
    assert len(tick(store, plain, cursor=result.cursor).run_requests) == 1


def test_other_runs_go_first_until_proposals_get_old(store, plain) -> None:
    """Somebody who has clicked waits for the answer; proposals must be renewed all the same."""
    cursor = tick(store, plain).cursor
    store.clock.now = START
    run = begun(store, plain, "plans")
    cursor = cursor.replace(str(START.timestamp()), str(store.clock.now.timestamp() - 10))
    assert run.run_id in tick(store, plain, cursor=cursor).skip_reason.skip_message
    store.clock.advance(20)
    assert len(tick(store, plain, cursor=cursor).run_requests) == 1


def test_what_a_stopped_dagster_dev_left_behind_holds_nothing_back(store, plain) -> None:
    """Nobody fails the run of a person, and it would slow down every cycle from then on."""
    begun(store, plain, "plans")
    store.clock.advance(COLD.not_finished_sec + 1)
    assert len(tick(store, plain).run_requests) == 1


def test_plans_are_left_to_the_cycle(store, plain) -> None:
    """An interpreter for each plan would take the time from the cycle, which decides it anyway."""
    write_plan(store, "p1", "BTCUSDT")
    assert "decided in each cycle" in tick(store, plain, "plans").skip_reason.skip_message


def test_the_pack_runs_every_five_minutes_and_alone(store, plain) -> None:
    """It takes as long as two cycles."""
    now = store.clock.now.timestamp()
    store.client.set(store.keys.of("heartbeat", "cycle"), now)
    assert "due in" in tick(store, plain, "proofs", repr(now - 100)).skip_reason.skip_message
    assert len(tick(store, plain, "proofs", repr(now - 300)).run_requests) == 1
    run = begun(store, plain)
    now = store.clock.now.timestamp()
    store.client.set(store.keys.of("heartbeat", "cycle"), now)
    assert run.run_id in tick(store, plain, "proofs", repr(now - 300)).skip_reason.skip_message


def test_retention_leaves_the_start_to_the_first_cycle(store, plain, instance) -> None:
    """Three interpreters at once make the first minute red."""
    first = tick(store, plain, "retention")
    assert not first.run_requests
    assert len(tick(store, plain, "retention", first.cursor).run_requests) == 1
    assert len(tick(store, instance, "retention").run_requests) == 1


def test_who_ticks_also_executes_and_no_watcher_is_missed(store, plain, instance) -> None:
    """Dagster brings no watcher; one that was started and stopped is missed, and with warm workers it always is."""
    tick(store, plain)
    now = store.clock.now.timestamp()
    store.client.set(store.keys.of("heartbeat", "cycle"), now)
    assert not process_alive(Evidence(store, plain)).failing
    assert set(process_alive(Evidence(store, instance)).failing) == {"watch"}
    store.client.set(store.keys.of("heartbeat", "watch"), now - 60)
    assert set(process_alive(Evidence(store, plain)).failing) == {"watch"}
    store.client.delete(store.keys.of("heartbeat", "watch"))
    store.client.rpush(store.keys.of("heartbeat", "watch"), now)  # what cannot be read is not "never started"
    with pytest.raises(UnreadableKeyError, match="watch"):
        process_alive(Evidence(store, plain))


def test_cycles_are_late_when_proposals_get_old(store, plain, instance) -> None:
    """Without warm workers two intervals are no lost cycle."""
    now = store.clock.now.timestamp()
    store.client.rpush(store.keys.of("cycles", SYMBOLS[0]), now, now - 25, now - 50)
    assert not cadence(Evidence(store, plain)).failing
    assert cadence(Evidence(store, instance)).failing
