"""When the pack runs, decided without a daemon."""

import dagster as dg
import pytest

from definitions import assemble
from sensors.proofs import Seen, decide_proofs

NEVER = None


@pytest.mark.parametrize(
    ("since_requested", "since_cycle", "runs"),
    [
        (NEVER, NEVER, False),  # nothing has been published: everything would be red
        (NEVER, 1, True),
        (NEVER, 120, False),  # what stands is of another day, and would be judged as if it were of this one
        (30, 1, False),
        (57, 1, False),
        (58, 1, True),
        (60, 9, False),  # a cycle is about to begin
        (68, 9, True),  # but it is not waited for for ever
        (-3600, 1, True),  # the clock was set back
        (-3600, -3595, False),  # and no cycle has ended since: the first one needs the cores
        (68, -3595, True),
        (500, 400, True),  # the loop has stopped: that is when proofs are wanted most
    ],
)
def test_the_pack_runs_after_a_cycle_and_at_its_interval(since_requested, since_cycle, runs) -> None:
    """It must not delay the loop, and must not stop with it."""
    assert (decide_proofs(Seen(since_requested, since_cycle), 60) == "") is runs


def test_after_a_clock_that_was_set_back_the_pack_waits_for_a_cycle_but_not_for_an_hour(store, instance) -> None:
    """It took the cores from the first cycle; what waits for a cycle that never ends would wait until the old time."""
    definitions, ahead = assemble(store), store.clock().timestamp() + 3600
    store.client.set(store.keys.of("heartbeat", "cycle"), ahead)
    cursor, requested = repr(ahead), []
    for _ in range(4):
        context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
        result = definitions.resolve_sensor_def("proofs")(context)
        cursor = result.cursor
        requested.append(len(result.run_requests or ()))
        store.clock.advance(5)
    assert requested == [0, 0, 1, 0]
