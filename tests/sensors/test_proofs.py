"""When the pack runs, decided without a daemon."""

import pytest

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
        (500, 400, True),  # the loop has stopped: that is when proofs are wanted most
    ],
)
def test_the_pack_runs_after_a_cycle_and_at_its_interval(since_requested, since_cycle, runs) -> None:
    """It must not delay the loop, and must not stop with it."""
    assert (decide_proofs(Seen(since_requested, since_cycle), 60) == "") is runs
