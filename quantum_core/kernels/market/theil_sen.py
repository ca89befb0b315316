"""Theil-Sen slopes of many series at once, exact.

Here belongs the median of all pairwise slopes and nothing else; which windows and weights make a drift of it is the
business of the market-state kernel.
"""

from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quantum_core.kernels.columns import Floats

Integers = NDArray[np.integer]
Real = TypeVar("Real", np.float32, np.float64)

FEW_POINTS = 64  # up to here all slopes are formed and partitioned: as fast as the search, and simpler
BLOCK_BYTES = 1 << 20  # slopes held at a time there; half of a common 2 MB second-level cache, measured fastest
FEW_ROWS = 16  # nor do fewer rows repay the fixed cost of the search, some 200 numpy calls
BLOCK_ROWS = 192  # rows searched at a time: many enough to hide that cost, few enough for the cache
LAGS = 4  # of n/2 steps, those whose slopes are the sample
CENTRAL = 0.05  # part of the sample on each side of its middle, to estimate the density of slopes there
MOVES = 3  # Newton steps towards the median
HALF_WIDTHS = (32, 400)  # slopes between the last point and the end of its bracket: first try, second try
RUN = 16  # points whose inversions are counted pair by pair before the runs are merged


def theil_sen(y: Floats) -> Floats:
    """Median of all pairwise slopes of each row, against x = 0, 1, ..., n-1.

    Parameters
    ----------
    y : float64 array, shape (n_symbols, n)
        One series per row, n >= 2, any unit, finite. A NaN makes the slope of its own row meaningless, no other.

    Returns
    -------
    float64 array, shape (n_symbols,)
        Slope per step in the unit of `y`; for an even number of slopes the mean of the two middle ones. Equal to
        ``numpy.median`` over all quotients ``(y[j] - y[i]) / (j - i)``, ties included, because the quotients that
        can be the middle are formed by the same division, and the others are only counted.

    Raises
    ------
    ValueError
        If `y` is not a matrix with at least two columns.

    Notes
    -----
    Long rows are searched (`_search`), short ones and the few whose search ends beside the median, as with thousands
    of equal slopes, are partitioned (`_partition`). Both give the same bits, so a row never depends on its neighbours.

    References
    ----------
    Sen, P. K. (1968), Estimates of the regression coefficient based on Kendall's tau. JASA 63, 1379-1389.
    """
    if y.ndim != 2 or y.shape[1] < 2:
        message = f"y has shape {y.shape}: expected (n_symbols, n) with n >= 2"
        raise ValueError(message)
    n_symbols, n = y.shape
    median = np.empty(n_symbols)
    todo = np.arange(n_symbols)
    for half_width in HALF_WIDTHS:
        if n <= FEW_POINTS or len(todo) < FEW_ROWS:
            break
        proven = np.empty(len(todo), dtype=bool)
        for start in range(0, len(todo), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            median[todo[block]], proven[block] = _search(y[todo[block]], half_width)
        todo = todo[~proven]
    median[todo] = _partition(y[todo])
    return median + 0.0  # a flat row is 0.0, never -0.0


def _search(y: Floats, half_width: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Exact medians by counting slopes instead of forming them, and which of them are proven.

    Notes
    -----
    The slope of two points is below t exactly if the residuals y - t x have them in the opposite order. So the slopes
    below t are the inversions of the order of the residuals, n log n to count (`_inversions`). A few Newton steps
    bring t next to the median; starting point and density come from a sample. Then the pairs whose order differs
    between the residuals at both ends of a narrow bracket are the slopes inside: some dozens, formed and sorted.

    Rounded residuals may put a slope closer than `error` to an end on the wrong side of it. That cannot move the
    median if the median is farther inside; where it is not, or not in the bracket at all, the row is not proven.

    References
    ----------
    Matousek, J. (1991), Randomized optimal algorithm for slope selection. Information Processing Letters 39, 183-187.
    """
    n_symbols, n = y.shape
    n_slopes = n * (n - 1) // 2
    middle, even = n_slopes // 2, 1 - n_slopes % 2
    each = np.arange(n_symbols)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e300 nothing is proven, and nothing need be said
        level = y - y[:, :1]
        t, per_slope = _start(level)
        for _ in range(MOVES):
            t = t + (middle - _inversions(_order(level, t))) * per_slope
        reach = half_width * per_slope
        size = np.abs(level).max(axis=1) + n * (np.abs(t) + reach)
        error = 8 * np.finfo(np.float64).eps * size + np.finfo(np.float64).tiny
        low, high = t - reach - 2 * error, t + reach + 2 * error

        order = _order(level, low)
        row, first, second = _swapped(order, _order(level, high), 4 * half_width)
        slopes = (y.ravel()[row * n + second] - y.ravel()[row * n + first]) / (second - first)
        inside = np.bincount(row, minlength=n_symbols)
        width = max(int(inside.max()), 1)
        table = np.full((n_symbols, width), np.inf)
        table[np.arange(width) < inside[:, None]] = slopes
        table.sort(axis=1)

        place = middle - _inversions(order)
        proven = (place >= even) & (place < inside)
        place = np.clip(place, even, width - 1)
        below, upper = table[each, place - even], table[each, place]
        proven &= (below >= low + error) & (upper <= high - error)
        # (a + a) / 2 is a, so one expression serves odd and even counts without touching a tie.
        return (below + upper) / 2, proven


def _start(y: Floats) -> tuple[Floats, Floats]:
    """Guess the median slope of each row, and the distance from one slope to the next there.

    A few lags, evenly spread and each taken at all points, give a guess five times better than as many pairs of fewer points.
    """
    n_symbols, n = y.shape
    stride = n // 2 // LAGS
    some = slice(stride // 2, None, stride)
    coarse = y.astype(np.float32)  # half the time, and a guess need not be exact
    sample = _circle(coarse)[:, some] - coarse[:, None]
    sample /= _distance(n)[some].astype(np.float32)
    ordered = np.sort(sample.reshape(n_symbols, -1), axis=1)
    size = ordered.shape[1]
    aside = int(CENTRAL * size)
    left, middle, right = ordered[:, [size // 2 - aside, size // 2, size // 2 + aside]].astype(np.float64).T
    return middle, (right - left) / (n * (n - 1) / 2 * (2 * aside / size))


def _order(y: Floats, slope: Floats) -> Integers:
    """Points of each row in the order of their residuals from a line of that slope."""
    order: Integers = np.argsort(y - slope[:, None] * np.arange(y.shape[1]), axis=1)
    return order


def _inversions(order: Integers) -> Integers:
    """Count the pairs of each row of permutations that stand in falling order.

    Pairs within a run are compared one by one, for all rows at once. Then neighbouring runs are merged: with
    the left run marked in the lowest bit, the places its members take in the sorted union, minus the places they
    would take if nothing on the right were smaller, are the inversions between the two.
    """
    n_symbols, n = order.shape
    size = RUN << ((n - 1) // RUN).bit_length()  # n rounded up to a power of two of runs
    keys = np.empty((n_symbols, size), np.int32)  # narrower ones are sorted ten times slower where the CPU has AVX2 only
    keys[:, :n] = order
    keys[:, n:] = np.arange(n, size)
    points = np.ascontiguousarray(keys.reshape(-1, RUN).T)
    within = np.zeros(points.shape[1], np.uint16)
    for j in range(1, RUN):
        within += (points[:j] > points[j]).view(np.uint8).sum(axis=0, dtype=np.uint8)
    count: Integers = within.reshape(n_symbols, -1).sum(axis=1, dtype=np.int64)

    keys *= 2
    places = np.zeros_like(keys)
    for half, width in pairwise(RUN << level for level in range((size // RUN).bit_length())):
        pairs = keys.reshape(n_symbols, -1, width)
        pairs[:, :, :half] += 1
        pairs.sort(axis=2)
        marks = pairs & 1
        pairs -= marks
        places += (marks * np.arange(width, dtype=keys.dtype)).reshape(keys.shape)
        count -= size // width * (half * (half - 1) // 2)
    count += places.sum(axis=1, dtype=np.int64)
    return count


def _swapped(order: Integers, other_order: Integers, at_most: int) -> tuple[Integers, Integers, Integers]:
    """Row, earlier and later point of all pairs that stand differently in two orders, row by row.

    If the orders are close, only near neighbours can have changed places. Rows in which the points moved by more than
    ``2 * at_most`` places in all are left out: none with up to `at_most` such pairs, all with more than twice as many.
    """
    n_symbols, n = order.shape
    dtype = np.int16 if n <= 1 << 13 else np.int64
    index = np.arange(n, dtype=dtype)
    place = np.empty(order.shape, dtype)
    np.put_along_axis(place, other_order, index[None], axis=1)
    place = np.take_along_axis(place, order, axis=1)
    moved = place - index
    many = np.abs(moved).sum(axis=1, dtype=np.int64) > 2 * at_most
    place[many] = index
    moved[many] = 0
    lags = max(1, int((moved.max(axis=1) - moved.min(axis=1)).max()) - 1)
    following = np.full((n_symbols, n + lags), n, dtype)
    following[:, :n] = place
    fell = sliding_window_view(following, n, axis=1)[:, 1:] < place[:, None]
    flat = np.flatnonzero(fell)  # far faster than numpy.nonzero with three axes
    line = flat // n
    row = line // lags
    left_place = flat - line * n
    left_point = order.ravel()[row * n + left_place]
    right_point = order.ravel()[row * n + left_place + 1 + line - row * lags]
    return row, np.minimum(left_point, right_point), np.maximum(left_point, right_point)


def _partition(y: Floats) -> Floats:
    """Median of all slopes of each row, formed and partitioned.

    On a circle of n points every pair is met exactly once by stepping 1, 2, ..., (n-1)//2 from every point, plus
    half a turn of n/2 steps when n is even. So all differences are a sliding window over the doubled series minus
    the series: no index arrays, no gather. A step over the seam has a negative x distance, which the quotient
    cancels. The middle is then found by one in-place partition; the element below it is the maximum of the left part.
    """
    n_symbols, n = y.shape
    turns = n // 2
    n_slopes = n * (n - 1) // 2
    middle = n_slopes // 2
    distance = _distance(n).ravel()[:n_slopes]
    block = max(1, BLOCK_BYTES // (8 * turns * n))
    buffer = np.empty((min(block, n_symbols), turns, n))
    median = np.empty(n_symbols)
    for start in range(0, n_symbols, block):
        rows = y[start : start + block]
        differences = buffer[: len(rows)]
        np.subtract(_circle(rows), rows[:, None, :], out=differences)
        slopes = differences.reshape(len(rows), -1)[:, :n_slopes]
        np.divide(slopes, distance, out=slopes)
        slopes.partition(middle, axis=1)
        upper = slopes[:, middle]
        below = upper if n_slopes % 2 else slopes[:, :middle].max(axis=1)
        median[start : start + len(rows)] = (below + upper) / 2
    return median


def _circle(y: NDArray[Real]) -> NDArray[Real]:
    """Each row turned by 1, 2, ..., n//2 points: shape (n_symbols, n//2, n)."""
    n = y.shape[1]
    return sliding_window_view(np.concatenate([y, y], axis=1), n, axis=1)[:, 1 : n // 2 + 1]


def _distance(n: int) -> Floats:
    """From each point to the one that `_circle` brings to its place."""
    x = np.arange(n)
    return ((x + np.arange(1, n // 2 + 1)[:, None]) % n - x).astype(np.float64)
