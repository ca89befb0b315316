"""What is a candle, what has closed, what is missing: judged without an exchange."""

import math

import pytest

from quantum_feed.ohlcv import corrections, judge, pages, stretches, wanted

MINUTE = 60_000
T = 1_700_000_040_000
GOOD = [T, 10.0, 12.0, 9.0, 11.0, 1.5]


def test_a_candle_has_closed_when_the_exchange_says_so() -> None:
    """Not when our clock does: half a candle would be a number nobody published."""
    at_close = judge([GOOD], exchange_ms=T + MINUTE, interval_ms=MINUTE)
    before = judge([GOOD], exchange_ms=T + MINUTE - 1, interval_ms=MINUTE)
    assert dict(at_close.candles) == {T: (10.0, 12.0, 9.0, 11.0, 1.5)}
    assert (dict(before.candles), before.unclosed) == ({}, 1)


BAD = [
    ([T, 10, 12, 9, 11], "not_numbers"),
    ([T, "10", 12, 9, 11, 1], "not_numbers"),
    ([T, None, 12, 9, 11, 1], "not_numbers"),
    ([T, True, 12, 9, 11, 1], "not_numbers"),
    ([T, math.nan, 12, 9, 11, 1], "not_finite"),
    ([T, 10, math.inf, 9, 11, 1], "not_finite"),
    ([T, 0, 12, 9, 11, 1], "not_positive"),
    ([T, 10, 12, -9, 11, 1], "not_positive"),
    ([T, 10, 12, 9, 11, -1], "not_positive"),
    ([T, 10, 9, 9, 11, 1], "inconsistent"),
    ([T, 10, 12, 10.5, 11, 1], "inconsistent"),
    ([T + 1, 10, 12, 9, 11, 1], "misaligned"),
    ([-MINUTE, 10, 12, 9, 11, 1], "misaligned"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_row_that_is_no_candle_is_rejected_by_name_and_the_others_are_kept(row, reason) -> None:
    judged = judge([row, GOOD], exchange_ms=T + MINUTE, interval_ms=MINUTE)
    assert (dict(judged.rejected), list(judged.candles)) == ({reason: 1}, [T])


def test_out_of_order_and_doubled_rows_are_one_candle_per_time() -> None:
    later = [T + MINUTE, *GOOD[1:]]
    judged = judge([later, GOOD, later, GOOD], exchange_ms=T + 9 * MINUTE, interval_ms=MINUTE)
    assert sorted(judged.candles) == [T, T + MINUTE]


def test_what_is_wanted_ends_with_the_last_closed_candle() -> None:
    assert list(wanted(exchange_ms=T + MINUTE + 5, interval_ms=MINUTE, count=2)) == [T - MINUTE, T]
    assert list(wanted(exchange_ms=T + MINUTE - 1, interval_ms=MINUTE, count=1)) == [T - MINUTE]


def test_gaps_that_are_close_share_a_request_and_long_ones_are_split() -> None:
    minutes = [0, 1, 2, 7, 30, 31]
    assert pages([T + one * MINUTE for one in minutes], interval_ms=MINUTE, page=10) == [(T, 8), (T + 30 * MINUTE, 2)]
    assert pages([T + one * MINUTE for one in range(25)], interval_ms=MINUTE, page=10) == [
        (T + one * MINUTE, count) for one, count in ((0, 10), (10, 10), (20, 5))
    ]
    assert pages([], interval_ms=MINUTE, page=10) == []


def test_a_correction_is_a_known_time_with_other_numbers() -> None:
    first = (1.0, 2.0, 1.0, 2.0, 1.0)
    second = (1.0, 2.0, 1.0, 1.5, 1.0)
    assert corrections({T: first, T + 1: first}, {T: second, T + 1: first, T + 2: first}) == [T]


def test_times_that_follow_each_other_are_one_gap() -> None:
    """An exchange that has nothing before a time was a line for every minute."""
    assert stretches([180, 60, 120, 300, 420, 480], interval_ms=60) == [(60, 180, 3), (300, 300, 1), (420, 480, 2)]
    assert stretches([], interval_ms=60) == []


def test_an_exchange_that_tells_no_volume_has_candles_all_the_same() -> None:
    judged = judge([[60, 1.0, 2.0, 0.5, 1.5, None]], exchange_ms=1000, interval_ms=60)
    assert (judged.candles, judged.rejected) == ({60: (1.0, 2.0, 0.5, 1.5, None)}, {})
