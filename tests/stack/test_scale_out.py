"""Five hosts, one cut off: a short ``python -m benchmarks.scale_out``, judged."""

import pytest

from benchmarks.scale_out import SHARDS, SHORT_SYMBOLS, measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_host_that_is_cut_off_is_alerted_stops_nobody_else_and_catches_up() -> None:
    """Its symbols must not look alive, and those of the others must not notice."""
    result = measure(short=True)
    cut = result["cut"]
    assert cut["symbols_alerted"] == cut["symbols"] == SHORT_SYMBOLS // SHARDS
    assert cut["symbols_of_others_alerted"] == 0
    assert [set(other["runs"]) - {"STARTED", "STARTING"} for other in cut["others"]] == [{"SUCCESS"}] * 3
    assert all(other["gap_sec"]["max"] < 16 for other in cut["others"])  # a lost cycle would be a gap of 20 s
    published = result["publications"]
    assert published["market_states_twice_in_a_cycle"] == 0
    assert published["entries"] > 0
    # Between a publication and its record lies one step; the cut falls into one of them at most, for one asset of the shard.
    assert published["entries_without_materialization"] <= cut["symbols"], published["not_recorded"]
    assert published["materializations_without_entry"] == 0
