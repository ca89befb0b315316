"""A master of Redis is killed under three Sentinels, with cycles and plans under way: the trial of ``benchmarks.failover``, shorter."""

import pytest

from benchmarks.failover import measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_killed_master_stops_nothing_and_doubles_nothing() -> None:
    """After a failover the product stayed blind until it was restarted by hand."""
    result = measure(kills=2)
    assert result["violations"] == []
    assert result["undecided"] == 0
    assert result["deaths of our processes"] == []
    assert result["permits"] > 0
