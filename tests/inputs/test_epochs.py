"""Which unit an epoch number is in, for everybody who reads one."""

import numpy as np
import polars as pl
import pytest

from quantum_core.kernels.capital.efficiency_hint import epoch_sec
from quantum_core.kernels.epochs import per_sec, per_sec_of
from quantum_ops.recordings.dialects import Dialect
from quantum_ops.recordings.file_times import times_of
from resources.inputs.candle_columns import score_times
from resources.inputs.candle_layouts import one_epoch_ms
from resources.inputs.position_parsing import parse_position

MOMENT_SEC = 1_769_083_200
UNITS = (1, 1_000, 1_000_000, 1_000_000_000)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("moment", [631_152_000, 1_000_000_000, MOMENT_SEC, 4_102_444_799])
def test_any_time_of_1990_to_2100_tells_its_unit(moment, unit):
    assert per_sec(moment * unit) == unit
    assert per_sec_of(np.array([moment * unit, moment], dtype=float)).tolist() == [unit, 1]


@pytest.mark.parametrize(("below", "unit"), [(1e11, 1), (1e14, 1e3), (1e17, 1e6)])
def test_one_and_many_agree_at_the_limits(below, unit):
    edges = np.array([np.nextafter(below, 0), below])
    assert per_sec_of(edges).tolist() == [per_sec(one) for one in edges.tolist()] == [unit, unit * 1e3]


@pytest.mark.parametrize("unit", UNITS)
def test_every_reader_of_a_clock_takes_it_for_the_same_moment(unit, tmp_path):
    """Each of them guessed by limits of its own, and those of positions knew no nanoseconds."""
    stamp = MOMENT_SEC * unit
    fields = {"side": "LONG", "position_amt": "1", "entry_price": "100", "mark_price": "101", "ts_epoch": str(stamp)}
    position = parse_position("BTCUSDT", fields, "redis_hash")
    assert position.ts_epoch == MOMENT_SEC
    assert epoch_sec(str(stamp)) == MOMENT_SEC
    assert one_epoch_ms(stamp) == one_epoch_ms(str(stamp)) == MOMENT_SEC * 1000
    assert score_times(str(stamp).encode(), 1).tolist() == [MOMENT_SEC * 1000]
    assert times_of(tmp_path, pl.Series([stamp]), Dialect(",", {}, 6, header=True)).to_list() == [MOMENT_SEC * 1000]


def test_a_score_that_is_a_rank_is_no_time():
    assert score_times(b"1,300,99999999999,nan,inf,-1", 6).tolist() == [0] * 6
