"""Two stacks on one Redis: a short ``python -m benchmarks.split_brain``, judged."""

import pytest

from benchmarks.split_brain import SHORT_CYCLES, measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_of_two_stacks_on_one_redis_one_publishes_and_the_other_takes_over() -> None:
    """Started by mistake on two hosts, the old daemons published everything twice."""
    result = measure(short=True)
    assert result["doubled"] == 0
    assert result["runs_of_the_second_stack"] == 0
    assert result["first_holds"]
    assert result["cycles"] >= SHORT_CYCLES
    assert result["event_cycles"] > 0
    assert result["gap_sec"]["min"] >= 8  # as one stack alone: a cycle requested by a second one would fall in between
