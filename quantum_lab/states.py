"""The market state at every candle of a history, by the kernel that runs live, computed once and kept.

Here belong sliding the window, the rules by which live there would be no state, the two processes and the files that keep the
result. The formula stays in the kernel.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import multiprocessing
import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

from quantum_core.kernels.columns import Bools, Floats, Labels, Market, most_probable, regime_softmax
from quantum_core.kernels.market.grid import DEFAULTS, Grid, GridTheta, Series, Times, grids
from quantum_core.kernels.market.market_state import COMPUTED, MarketStateTheta, log_prices, market_state
from quantum_core.kernels.market.significance import significance_scores
from quantum_lab.candles import CandleHistory

BLOCK = 4096  # windows computed at once: 8 MB of closes
LOCKED_STATE = MarketStateTheta()
PARALLEL_FROM = 4 * BLOCK  # windows from which a second process is worth its start
SOURCES = (  # modules whose text decides what a state is
    *("quantum_core.kernels.columns", "quantum_core.kernels.theta", "quantum_core.kernels.market.grid"),
    *("quantum_core.kernels.market.market_state", "quantum_core.kernels.market.theil_sen", "quantum_core.kernels.market.tails"),
    *("quantum_core.kernels.market.significance", "quantum_lab.states"),
)

Progress = Callable[[int, int], None]  # windows computed so far, and all of them

log = logging.getLogger("quantum.lab")


@dataclass(frozen=True, eq=False)
class States:
    """Market state at the close of every candle, columns of shape (n,); NaN where live there would be none.

    Attributes
    ----------
    sigma, mu, ts, p_trend, p_mr, p_chop, dp, vr, spike_proxy, tail_move
        As :class:`quantum_core.kernels.market.market_state.MarketState` has them.
    """

    sigma: Floats
    mu: Floats
    ts: Floats
    p_trend: Floats
    p_mr: Floats
    p_chop: Floats
    dp: Floats
    vr: Floats
    spike_proxy: Floats
    tail_move: Floats

    def __len__(self) -> int:
        return len(self.sigma)

    @property
    def has_state(self) -> Bools:
        """Candles that carry a state, shape (n,)."""
        known: Bools = ~np.isnan(self.sigma)
        return known

    @property
    def regime(self) -> Labels:
        """Most probable regime per candle, lower case; ``None`` where there is no state."""
        names = most_probable(self.p_trend, self.p_mr, self.p_chop)
        names[~self.has_state] = None
        return names

    def market(self, rows: npt.NDArray[np.intp]) -> Market:
        """Give the kernels' market columns at some candles, which must have a state."""
        return Market(*(getattr(self, one.name)[rows] for one in fields(Market)))


def states_of(
    history: CandleHistory,
    theta: MarketStateTheta = LOCKED_STATE,
    *,
    required: int | None = None,
    cache: Path | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> States:
    """Compute the market state at the close of every candle.

    Parameters
    ----------
    history
        Candles, oldest first.
    theta
        Parameters of the kernel, scalars.
    required
        Closes without which there is no state: live, as many as the most demanding symbol of a profile needs. Default: what
        `theta` needs.
    cache
        Folder in which states are kept, made when it is missing; ``None``: nothing is kept. A file that cannot be used is
        computed again, and named in the log.
    workers
        Processes for long histories.
    progress
        Called after each block.

    Returns
    -------
    States
        The state of candle t comes from the closes up to and including t. There is none before the window is full, and none where
        the grid rules refuse the window live (:func:`quantum_core.kernels.market.grid.grids`; nothing is filled).

    References
    ----------
    docs/spec.md#2-market-state-kernel-p0, docs/spec.md#5-sources
    """
    required = max(required or 0, theta.candles_required)
    path = _path(history, theta, required, cache)
    if path is not None and path.exists():
        kept = _kept(path, len(history))
        if kept is not None:
            return kept
    columns = np.full((len(COMPUTED), len(history)), np.nan)
    rows = usable_rows(history, required)
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    for block, computed in zip(blocks, _computed(history.close, blocks, required, theta, workers), strict=True):
        columns[:, block] = computed
        if progress is not None:
            progress(int(np.searchsorted(rows, block[-1])) + 1, len(rows))
    states = States(*columns)
    if path is not None:
        _keep(path, states)
    return states


def weighed_again(history: CandleHistory, states: States, theta: MarketStateTheta, *, cache: Path | None = None) -> States:
    """Give states whose regime scores have other weights: only the probabilities are computed again, the slow slopes are not.

    Parameters
    ----------
    history
        Candles of the states.
    states
        What :func:`states_of` gives of them by parameters that differ from `theta` in ``regime.score`` only.
    theta
        Parameters, of which ``regime.measure`` is ``significance``.
    cache
        As :func:`states_of` takes it.

    Returns
    -------
    States
        Those of ``states_of(history, theta)``, to the last bit.

    Raises
    ------
    ValueError
        The regimes are not by significance: other scores read what states do not keep.
    """
    if theta.regime.measure != "significance":
        message = f"regime.measure is {theta.regime.measure}: only scores by significance can be weighed again"
        raise ValueError(message)
    rows = np.flatnonzero(states.has_state)
    probabilities = np.full((3, len(history)), np.nan)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        returns = return_windows(history.close, theta.regime.window, theta.eps)[block - theta.regime.window]
        scores = significance_scores(returns, states.mu[block], states.dp[block], theta)
        probabilities[:, block] = regime_softmax(scores, theta.regime.softmax_temp)
    p_trend, p_mr, p_chop = probabilities
    weighed = replace(states, p_trend=p_trend, p_mr=p_mr, p_chop=p_chop)
    path = _path(history, theta, theta.candles_required, cache)
    if path is not None:
        _keep(path, weighed)
    return weighed


def usable_rows(history: CandleHistory, required: int) -> npt.NDArray[np.intp]:
    """Give the candles at whose close live there are enough candles for a state, and none of the grid rules refuses them."""
    ends: npt.NDArray[np.intp] = np.arange(required - 1, len(history))
    if not len(ends):
        return ends
    even = np.diff(history.open_time_ms) == round(1000 * history.interval_sec)
    doubtful = history.jumps
    doubtful[1:] |= ~even  # an even window without a jump is what the rules accept; the others are for them to judge
    before = np.concatenate([[0], np.cumsum(doubtful)])
    asked = before[ends + 1] - before[ends - required + 2] > 0
    theta = GridTheta(history.interval_sec, DEFAULTS.gap_max_intervals, required=required)
    accepted = ~asked
    for start in range(0, int(asked.sum()), BLOCK):
        block = np.flatnonzero(asked)[start : start + BLOCK]
        judged = grids([_window(history, end, required) for end in ends[block]], theta)
        accepted[block] = [_is_whole(grid, required) for grid in judged]
    usable: npt.NDArray[np.intp] = ends[accepted]
    return usable


def return_windows(closes: Floats, window: int, eps: float) -> Floats:
    """Give the last returns known at each close, oldest first: row k is of candle `window` + k, to the bit as the kernel has it.

    Returns
    -------
    float64 array, shape (n - window, window)
        A view; there must be more than `window` closes.
    """
    return sliding_window_view(np.diff(log_prices(closes, eps)), window)


def _window(history: CandleHistory, end: int, required: int) -> Series:
    part = slice(end - required + 1, end + 1)
    return Series(history.open_time_ms[part], history.close[part], history.volume[part])


def _is_whole(grid: Grid, required: int) -> bool:
    return not grid.reason and len(grid.closes) >= required


def _computed(
    closes: Floats, blocks: list[npt.NDArray[np.intp]], required: int, theta: MarketStateTheta, workers: int
) -> Iterable[Floats]:
    if sum(map(len, blocks)) < PARALLEL_FROM or workers < 2:
        return (block_states(closes, block, required, theta) for block in blocks)
    return _in_processes(closes, blocks, required, theta, workers)


def _in_processes(
    closes: Floats, blocks: list[npt.NDArray[np.intp]], required: int, theta: MarketStateTheta, workers: int
) -> Iterable[Floats]:
    # Spawned, not forked: the threads of polars do not survive a fork.
    with ProcessPoolExecutor(min(workers, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        jobs = []
        for block in blocks:
            first = block[0] - required + 1
            jobs.append(pool.submit(block_states, closes[first : block[-1] + 1], block - first, required, theta))
        for job in jobs:
            yield job.result()


def block_states(closes: Floats, ends: npt.NDArray[np.intp], required: int, theta: MarketStateTheta) -> Floats:
    """Compute the states of the windows that end at some rows, shape (columns, ends)."""
    windows = sliding_window_view(closes, required)[ends - required + 1]
    state = market_state(windows, theta=theta)
    return np.stack([getattr(state, name) for name in COMPUTED])


def _path(history: CandleHistory, theta: MarketStateTheta, required: int, cache: Path | None) -> Path | None:
    return None if cache is None else cache / f"states-{_key(history, theta, required)}.parquet"


def _key(history: CandleHistory, theta: MarketStateTheta, required: int) -> str:
    """Name the states by everything they are computed from: candles, parameters and the text of the formulas."""
    hashed = hashlib.blake2b(digest_size=16)
    times: Times = history.open_time_ms
    for part in (times, history.close, history.volume):
        hashed.update(np.ascontiguousarray(part).tobytes())
    hashed.update(repr((history.interval_sec, required, _plain(theta), _source_digest())).encode())
    return hashed.hexdigest()


def _plain(theta: Any) -> Any:
    return {one.name: _plain(getattr(theta, one.name)) for one in fields(theta)} if is_dataclass(theta) else theta


@once
def _source_digest() -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for name in SOURCES:
        hashed.update(inspect.getsource(importlib.import_module(name)).encode())
    hashed.update(np.__version__.encode())
    return hashed.hexdigest()


def _digest(frame: pl.DataFrame) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for column in frame.iter_columns():
        hashed.update(column.to_numpy().tobytes())
    return hashed.hexdigest()


def _labels(path: Path, frame: pl.DataFrame) -> dict[str, str]:
    """Give what a file of states carries: what they are, so that it counts under no other name, and what they were."""
    return {"states": path.stem, "digest": _digest(frame)}


def _kept(path: Path, length: int) -> States | None:
    """Read kept states; a file that is not as it was written is named, and gives nothing."""
    try:
        frame = pl.read_parquet(path)
        written = pl.read_parquet_metadata(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        log.warning("%s cannot be read, its states are computed again: %s", path, str(error).partition("\n")[0])
        return None
    if frame.columns != list(COMPUTED) or len(frame) != length or not _labels(path, frame).items() <= written.items():
        log.warning("%s is not as it was written, its states are computed again", path)
        return None
    return States(*(frame[name].to_numpy() for name in COMPUTED))


def _keep(path: Path, states: States) -> None:
    """Write states; the file is there whole or not at all, and nothing is lost when it cannot be written."""
    frame = pl.DataFrame({name: getattr(states, name) for name in COMPUTED})
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(partial, metadata=_labels(path, frame))
        partial.replace(path)
    except OSError as error:
        log.warning("%s cannot be written, its states are computed again next time: %s", path, error)
    finally:
        with suppress(OSError):  # said above
            partial.unlink(missing_ok=True)
