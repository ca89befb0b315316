"""Coverage tests agree with what was published of them."""

import numpy as np
import pytest

from quantum_lab.coverage import conditional_coverage, coverage, independence, kupiec, transitions

JORION = {  # Jorion (2007), Value at Risk, 3rd ed., table 6-2: exceedances not rejected at 5 %, both ends inclusive
    (0.01, 255): (None, 6),  # the table has no lower end here, though the ratio of no exceedance is 5.13
    (0.01, 510): (2, 10),
    (0.01, 1000): (5, 16),
    (0.025, 255): (3, 11),
    (0.025, 510): (7, 20),
    (0.025, 1000): (16, 35),
    (0.05, 255): (7, 20),
    (0.05, 510): (17, 35),
    (0.05, 1000): (38, 64),
    (0.10, 255): (17, 35),
    (0.10, 510): (39, 64),
    (0.10, 1000): (82, 119),
}


def hits_of(n00: int, n01: int, n10: int, n11: int) -> np.ndarray:
    """A series with these numbers of transitions, which begins and ends without an exceedance."""
    assert n01 == n10
    runs = [1] * n01  # exceedances in each cluster
    runs[0] += n11
    series = [False]
    for run in runs:
        series += [True] * run + [False]
    series += [False] * n00
    return np.array(series)


def accepted_counts(windows: int, nominal: float) -> tuple[int, int]:
    """Give the smallest and the largest number of exceedances that Kupiec's test does not reject at 5 %."""
    accepted = [x for x in range(windows + 1) if kupiec(windows, x, nominal).p >= 0.05]
    return accepted[0], accepted[-1]


@pytest.mark.parametrize(("nominal", "windows"), JORION)
def test_kupiec_accepts_the_published_counts(nominal: float, windows: int) -> None:
    """Kupiec (1995), as tabulated by Jorion."""
    low, high = accepted_counts(windows, nominal)
    wanted = JORION[nominal, windows]
    assert high == wanted[1]
    assert wanted[0] is None or low == wanted[0]


def test_kupiec_has_the_published_statistic_of_a_bank() -> None:
    """J.P. Morgan in 1998: 20 exceptions on 252 days at 5 % (Jorion 2007, box 6-1): 3.91, just rejected."""
    ratio = kupiec(252, 20, 0.05)
    assert ratio.statistic == pytest.approx(3.91, abs=0.005)
    assert ratio.p < 0.05


def test_all_three_agree_with_a_published_example() -> None:
    """MathWorks, Risk Management Toolbox, varbacktest.cc: 1043 days, 57 failures, 932, 53, 53 and 4 transitions at 5 %."""
    hits = hits_of(932, 53, 53, 4)
    assert transitions(hits) == (932, 53, 53, 4)
    assert (len(hits), hits.sum()) == (1043, 57)
    found = (kupiec(1043, 57, 0.05), independence(hits), conditional_coverage(hits, 0.05))
    wanted = ((0.46147, 0.49694), (0.25866, 0.61104), (0.72013, 0.69763))
    np.testing.assert_allclose([(one.statistic, one.p) for one in found], wanted, atol=5e-6)  # they print five digits


def test_no_exceedance_at_all_is_a_finding_too() -> None:
    """A band nothing ever leaves is too wide: -2 n log(1 - p); it has no clusters."""
    none = np.zeros(500, dtype=bool)
    assert kupiec(500, 0, 0.05).statistic == pytest.approx(-1000 * np.log(0.95))
    assert independence(none).statistic == 0
    assert kupiec(500, 500, 0.05).p < 1e-9


def test_clusters_are_found_and_scattered_exceedances_are_not() -> None:
    """Twenty in a row are clustered, every twenty-fifth is not; both are 4 % of 500."""
    row, apart = np.zeros(500, dtype=bool), np.zeros(500, dtype=bool)
    row[100:120], apart[::25] = True, True
    assert independence(row).p < 1e-6
    assert independence(apart).p > 0.1


def test_independence_holds_its_level() -> None:
    """Of independent series about one in twenty is rejected at 5 %: at 1,000 series of 2,000 windows within 3 standard errors."""
    rng = np.random.default_rng(5)
    rejected = np.mean([independence(rng.random(2000) < 0.05).p < 0.05 for _ in range(1000)])
    assert abs(rejected - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 1000)


def test_windows_that_overlap_count_for_the_share_and_not_for_the_tests() -> None:
    """60 overlapping windows share one large return: one exceedance to a test, sixty to the share."""
    moves = np.zeros(600)
    moves[60:120] = 1.0
    found = coverage(moves, np.full(600, 0.5), 0.05, horizon=60)
    assert (found.windows, found.exceedances) == (10, 1)
    assert found.share == 0.1


def test_what_is_unknown_is_not_counted() -> None:
    """Neither without a band nor without a move; a gap does not shift the windows after it onto each other."""
    moves, limits = np.array([np.nan, 2.0, 0.1, 0.1, np.nan, 2.0]), np.array([1.0, 1.0, np.nan, 1.0, 1.0, 1.0])
    found = coverage(moves, limits, 0.05)
    assert (found.windows, found.exceedances, found.share) == (3, 2, 2 / 3)
    assert np.isnan(coverage(np.full(3, np.nan), np.ones(3), 0.05).share)


@pytest.mark.parametrize(("windows", "exceedances", "nominal"), [(5, 6, 0.05), (5, -1, 0.05), (5, 1, 0.0), (5, 1, 1.0)])
def test_counts_that_cannot_be_are_refused(windows: int, exceedances: int, nominal: float) -> None:
    """The text has what was seen and what is accepted."""
    with pytest.raises(ValueError, match="accepted are"):
        kupiec(windows, exceedances, nominal)
