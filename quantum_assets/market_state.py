"""Asset ``market_state``: volatility, drift and regime of each symbol from its closed candles."""

from collections.abc import Mapping, Sequence

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.shared.order import PROPOSALS_FIRST
from quantum_assets.shared.partitions import OWNERS, symbols_of_run
from quantum_assets.shared.rows import assemble, none_for_nan, shared_by_legs, without_result
from quantum_core.contracts.reading import Reading, State
from quantum_core.kernels.market.grid import DEFAULTS, Grid, GridTheta, Series, grids
from quantum_core.kernels.market.market_state import MarketStateTheta, closes_matrix
from quantum_core.kernels.market.market_state import market_state as market_state_kernel
from quantum_core.profiles.profile import LOCKED, Profile
from resources.inputs.candle_memory import without_unchanged
from resources.inputs.candle_series import Candles, candles_digest, grid_theta_of, usual_trouble
from resources.inputs.candles import CandlesOfRun
from resources.recorder.tape import tape_of
from resources.store.profiles import take_profile
from resources.store.redis_store import RedisStore

COLUMNS = ("sigma", "mu", "ts", "p_trend", "p_mr", "p_chop", "dp", "vr", "spike_proxy")


@dg.asset(
    deps=["candles"],
    group_name="market",
    kinds={"numpy", "redis"},
    op_tags=PROPOSALS_FIRST,
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "Robust volatility **sigma** (winsorised EWMA blended with MAD), drift **mu** (weighted Theil-Sen slopes of log "
        "prices), trend strength **ts** = |mu|/sigma and regime probabilities = softmax of the trend, mean-reversion and "
        "chop scores, from the last 257 to 300 closed candles. Too few of them, or not on the grid of CANDLE_INTERVAL_SEC: no "
        "state, and the reason."
    ),
)
def market_state(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> pl.DataFrame:
    """Read candles and compute the state of every symbol of the run."""
    profile = take_profile(store, context.run.tags)
    reader, grid, ticks = CandlesOfRun(store, context.run.run_id), grid_theta_of(store.settings, profile), store.settings.ticks
    tape = tape_of(store)

    def read(symbols: Sequence[str]) -> list[Reading[Candles]]:
        readings = without_unchanged(store, reader.read(symbols))
        if tape is not None:
            tape.take_candles(readings, judged=True)
        return readings

    symbols = symbols_of_run(context, store.settings)
    return shared_by_legs(symbols, lambda symbols: market_state_frame(read(symbols), grid, ticks, profile=profile))


def market_state_frame(
    candles: Sequence[Reading[Candles]],
    grid_theta: GridTheta = DEFAULTS,
    ticks: Mapping[str, float] | None = None,
    *,
    profile: Profile = LOCKED,
) -> pl.DataFrame:
    """Compute the market state of all symbols at once.

    Parameters
    ----------
    candles
        One reading per symbol.
    grid_theta
        What their grid must be.
    ticks
        Tick size by symbol, quote units, where it need not be inferred from closes.
    profile
        Parameters of the kernel.

    Returns
    -------
    polars.DataFrame
        One row per symbol with ``state``, ``why`` and the fields of the wire table.
    """
    readable = [(reading.symbol, reading.value) for reading in candles if reading.value is not None]
    unread = [(reading.symbol, State.FAILED, reading.reason) for reading in candles if reading.value is None]
    judged = grids([Series(value.open_time_ms, value.close, value.volume) for _, value in readable], grid_theta)
    on_grid = [(symbol, value, grid) for (symbol, value), grid in zip(readable, judged, strict=True) if not grid.reason]
    off_grid = [
        (symbol, State.FAILED, _refused(grid.reason, value, grid, grid_theta.required))
        for (symbol, value), grid in zip(readable, judged, strict=True)
        if grid.reason
    ]
    theta = profile.by_row(MarketStateTheta, [symbol for symbol, _, _ in on_grid])
    result = market_state_kernel(*closes_matrix([grid.closes for _, _, grid in on_grid]), theta)
    without_state = [
        (symbol, State.FAILED, _refused(reason, value, grid, grid_theta.required))
        for (symbol, value, grid), reason in zip(on_grid, result.reason, strict=True)
        if reason is not None
    ]
    ok = np.flatnonzero(result.has_state)
    with_state = [on_grid[row] for row in ok]
    computed = {
        "symbol": [symbol for symbol, _, _ in with_state],
        **{name: getattr(result, name)[ok] for name in COLUMNS},
        "regime": list(result.regime[ok]),
        # candles of a grid that nobody can judge have no age that could be trusted: nothing is opened on them
        "ts_timestamp": [0 if grid.gap_count is None else int(value.newest_epoch_sec) for _, value, grid in with_state],
        "close": [float(grid.closes[-1]) for _, _, grid in with_state],
        "buffer_size": [len(grid.closes) for _, _, grid in with_state],
        "source": [value.source for _, value, _ in with_state],
        "candle_key": [value.key for _, value, _ in with_state],
        "candles_digest": [candles_digest(grid.closes, grid_theta.required) for _, _, grid in with_state],
        "gap_count": pl.Series([grid.gap_count for _, _, grid in with_state], dtype=pl.Int64),
        "gap_max_sec": pl.Series([grid.gap_max_sec for _, _, grid in with_state], dtype=pl.Int64),
        "filled": [grid.filled for _, _, grid in with_state],
        "market_inactive": [grid.inactive for _, _, grid in with_state],
        "tick_pct": none_for_nan(
            np.array(
                [(ticks or {})[one] / grid.closes[-1] if one in (ticks or {}) else grid.tick_pct for one, _, grid in with_state],
                dtype=float,
            )
        ),
        "tail_move": none_for_nan(result.tail_move[ok]),
    }
    return assemble([reading.symbol for reading in candles], computed, without_result([*unread, *off_grid, *without_state]))


def _refused(reason: str, candles: Candles, grid: Grid, required: int) -> str:
    """Name why there is no state: what most minutes were left out for, where they are what is missing."""
    left_out = sum(candles.left_out.values())
    if (
        left_out
        and not reason.startswith(("candles_spacing", "candles_units"))
        and 2 * left_out >= max(grid.lost, required - len(candles.close))
    ):
        return f"{usual_trouble(candles)}: {left_out} of {left_out + len(candles.close)} candles from {candles.key}"
    beside = f" in {candles.members} members" if candles.members > 2 * len(candles.close) else ""
    return f"{reason} ({len(candles.close)} candles{beside} from {candles.key})"
