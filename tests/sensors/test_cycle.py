"""When a cycle starts, and when it does not."""

import dagster as dg
import pytest

from definitions import assemble
from sensors.cycle import CYCLE_JOB_NAME, UNFINISHED, Request, Skip, cycle_tags, decide_cycle


def test_a_cycle_is_requested_when_none_is_running() -> None:
    """The loop."""
    assert decide_cycle(now_epoch=1769083207.9, unfinished_run=None) == Request("c1769083207")


def test_nothing_is_requested_while_the_previous_cycle_runs() -> None:
    """Two cycles at once would publish out of order."""
    decision = decide_cycle(now_epoch=1.0, unfinished_run="abc")
    assert isinstance(decision, Skip)
    assert "abc" in decision.reason


def test_the_sensor_is_on_from_the_start_and_covers_all_symbols(store) -> None:
    """Nobody must remember to switch the loop on."""
    definitions = assemble(store)
    sensor = definitions.resolve_sensor_def("cycle")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 10
    with dg.instance_for_test() as instance:
        context = dg.build_sensor_context(instance=instance, definitions=definitions)
        (request,) = sensor(context).run_requests
    assert request.tags == cycle_tags(store.settings, f"c{int(store.clock().timestamp())}")
    assert (request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"]) == (
        "BTCUSDT",
        "SOLUSDT",
    )


@pytest.mark.parametrize("status", sorted(set(UNFINISHED) - {dg.DagsterRunStatus.QUEUED}, key=str))  # queued needs a remote job
def test_the_sensor_skips_for_every_state_of_an_unfinished_run(store, status) -> None:
    """A queued run is as unfinished as a started one."""
    definitions = assemble(store)
    with dg.instance_for_test() as instance:
        instance.create_run_for_job(definitions.resolve_job_def(CYCLE_JOB_NAME), status=status)
        answer = definitions.resolve_sensor_def("cycle")(dg.build_sensor_context(instance=instance, definitions=definitions))
    assert isinstance(answer, dg.SkipReason)
    assert "late" in answer.skip_message
