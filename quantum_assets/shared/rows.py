"""Frames to kernel columns and back: which symbols can be computed, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from quantum_core.contracts.legs import underlying, underlyings
from quantum_core.contracts.reading import State
from quantum_core.contracts.tables import least_live_of
from quantum_core.kernels.columns import Floats, Market, Position

WITHOUT_RESULT = pl.Schema({"symbol": pl.String, "state": pl.String, "why": pl.String})


def sort_out(position: pl.DataFrame, market_state: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split symbols into those that can be computed and those that cannot.

    Parameters
    ----------
    position, market_state
        Frames of the same symbols, as the IO manager gives them.

    Returns
    -------
    computable, uncomputed
        ``computable`` joins both frames (market-state columns end in ``_market``); ``uncomputed`` has ``symbol``, ``state`` and
        ``why``: absent where there is no position, failed where an input is missing, stale or unreadable.
    """
    joined = position.join(market_state, on="symbol", how="left", suffix="_market", maintain_order="left")
    held = pl.col("state") == State.PRESENT
    known = pl.col("state_market") == State.PRESENT
    uncomputed = joined.filter(~(held & known)).select(
        "symbol",
        pl.when(held).then(pl.lit(State.FAILED)).otherwise(pl.col("state")).alias("state"),
        pl.when(held).then(pl.col("why_market")).otherwise(pl.col("why")).alias("why"),
    )
    return joined.filter(held & known), uncomputed


def assemble(symbols: Sequence[str], computed: Mapping[str, Any], rest: pl.DataFrame) -> pl.DataFrame:
    """Put computed columns and the symbols without a result into one frame, in the order asked for."""
    present = pl.DataFrame(computed, strict=False).with_columns(
        state=pl.lit(State.PRESENT, dtype=pl.String), why=pl.lit("", dtype=pl.String)
    )
    order = pl.DataFrame({"symbol": list(symbols)}, schema={"symbol": pl.String})
    everything = pl.concat([present, rest], how="diagonal_relaxed")
    return order.join(everything, on="symbol", how="left", maintain_order="left")


def shared_by_legs(symbols: Sequence[str], frame_of: Callable[[Sequence[str]], pl.DataFrame]) -> pl.DataFrame:
    """Compute what the legs of a symbol share once, and give each leg a row of it; other symbols have their own as ever.

    Parameters
    ----------
    symbols
        Symbols and legs, in the order of the result.
    frame_of
        Computes the frame of symbols, one row for each.
    """
    markets = underlyings(symbols)
    if markets == list(symbols):
        return frame_of(symbols)
    order = pl.DataFrame({"leg": list(symbols), "symbol": list(map(underlying, symbols))})
    rows = order.join(frame_of(markets), on="symbol", how="left", maintain_order="left")
    return rows.drop("symbol").rename({"leg": "symbol"})


def without_result(rows: Sequence[tuple[str, State, str]]) -> pl.DataFrame:
    """Build the frame of symbols without a result: symbol, state, why."""
    return pl.DataFrame([(symbol, str(state), why) for symbol, state, why in rows], schema=WITHOUT_RESULT, orient="row")


def market_columns(frame: pl.DataFrame, suffix: str = "") -> Market:
    """Take the kernels' market columns out of a frame; no tail becomes NaN."""
    names = ("sigma", "ts", "p_trend", "p_mr", "p_chop")
    given = {name: frame[f"{name}{suffix}"].to_numpy() for name in names}
    return Market(**given, tail_move=nan_for_none(frame[f"tail_move{suffix}"]))


def position_columns(frame: pl.DataFrame) -> Position:
    """Take the kernels' position columns out of a frame; no stop and no size become NaN."""
    return Position(
        is_long=(frame["side"] == "LONG").to_numpy(),
        entry_price=frame["entry_price"].to_numpy(),
        current_price=frame["current_price"].to_numpy(),
        peak_price=frame["peak_price"].to_numpy(),
        trough_price=frame["trough_price"].to_numpy(),
        age_sec=frame["age_sec"].to_numpy(),
        unrealized_pnl=frame["unrealized_pnl"].to_numpy(),
        current_sl=nan_for_none(frame["current_sl"]),
        qty=nan_for_none(frame["qty"]),
    )


def inputs_used(frame: pl.DataFrame) -> dict[str, pl.Series]:
    """Give the wire fields in which a proposal repeats the inputs it was computed from."""
    market = {name: frame[name] for name in ("sigma", "ts", "p_trend", "p_mr", "p_chop")}
    position = {
        f"position_{name}": frame[name]
        for name in ("side", "age_sec", "current_price", "entry_price", "peak_price", "trough_price", "current_sl", "mark_price")
    }
    return {
        **market,
        **position,
        "position_source": frame["position_source"],
        "data_source": least_live(frame["source"], frame["position_source"]),
    }


def least_live(first: pl.Series, second: pl.Series) -> pl.Series:
    """Label each row by the less live of two sources."""
    return pl.Series([least_live_of(pair) for pair in zip(first, second, strict=True)], dtype=pl.String)


def nan_for_none(series: pl.Series) -> Floats:
    """Turn an optional number column into floats with NaN for none."""
    return series.cast(pl.Float64).fill_null(np.nan).to_numpy()


def none_for_nan(values: Floats) -> pl.Series:
    """Turn floats with NaN for none into an optional number column."""
    return pl.Series(values, dtype=pl.Float64).fill_nan(None)
