"""Asset ``risk_proposal``: stop and target of each open position."""

import dagster as dg
import polars as pl

from quantum_assets.partitions import OWNERS
from quantum_assets.rows import assemble, inputs_used, market_columns, nan_for_none, position_columns, sort_out
from quantum_core.kernels.stops import stops


@dg.asset(
    group_name="proposals",
    kinds={"numpy", "redis"},
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "Proposed stop and target. LONG: **SL** = max(current (1 - stop), peak (1 - trail)), never looser than the stop in "
        "force; **TP** = current (1 + tp); SHORT mirrored. stop, trail and tp are sigma times regime-weighted multiples, with "
        "minima of 0.5 % and 1 %. A proposal only: nothing is ever sent to an exchange."
    ),
)
def risk_proposal(market_state: pl.DataFrame, position: pl.DataFrame) -> pl.DataFrame:
    """Propose stops for every open position of the run."""
    rows, rest = sort_out(position, market_state)
    proposal = stops(market_columns(rows), position_columns(rows), mark_price=nan_for_none(rows["mark_price"]))
    computed = {
        "symbol": rows["symbol"],
        "proposed_sl": proposal.proposed_sl,
        "proposed_tp": proposal.proposed_tp,
        "stop_dist_pct": proposal.stop_dist_pct,
        "tp_dist_pct": proposal.tp_dist_pct,
        "trail_gap_pct": proposal.trail_gap_pct,
        "reason_codes": pl.Series([list(codes) for codes in proposal.reason_codes], dtype=pl.List(pl.String)),
        "sl_breached": proposal.sl_breached,
        **inputs_used(rows),
    }
    return assemble(position["symbol"].to_list(), computed, rest)
