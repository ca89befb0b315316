"""Asset ``risk_proposal``: stop and target of each open position."""

import dagster as dg
import polars as pl

from quantum_assets.shared.order import PROPOSALS_FIRST
from quantum_assets.shared.partitions import OWNERS
from quantum_assets.shared.rows import assemble, inputs_used, market_columns, nan_for_none, position_columns, sort_out
from quantum_core.kernels.proposals.stops import StopsTheta, stops
from quantum_core.profiles.profile import Profile
from resources.store.profiles import take_profile
from resources.store.redis_store import RedisStore


@dg.asset(
    group_name="proposals",
    kinds={"numpy", "redis"},
    op_tags=PROPOSALS_FIRST,
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "Proposed stop and target. LONG: **SL** = max(current (1 - stop), peak (1 - trail)), never looser than the stop in "
        "force; **TP** = current (1 + tp); SHORT mirrored. stop, trail and tp are sigma times regime-weighted multiples, with "
        "minima (0.5 % and 1 % in locked-v1). A proposal only: nothing is ever sent to an exchange."
    ),
)
def risk_proposal(
    context: dg.AssetExecutionContext, market_state: pl.DataFrame, position: pl.DataFrame, store: dg.ResourceParam[RedisStore]
) -> pl.DataFrame:
    """Propose stops for every open position of the run."""
    return risk_frame(market_state, position, take_profile(store, context.run.tags))


def risk_frame(market_state: pl.DataFrame, position: pl.DataFrame, profile: Profile) -> pl.DataFrame:
    """Compute the stops of all symbols at once.

    Parameters
    ----------
    market_state, position
        Frames of the same symbols.
    profile
        Parameters of the kernel.
    """
    rows, uncomputed = sort_out(position, market_state)
    theta = profile.by_row(StopsTheta, rows["symbol"].to_list())
    proposal = stops(market_columns(rows), position_columns(rows), theta, mark_price=nan_for_none(rows["mark_price"]))
    computed = {
        "symbol": rows["symbol"],
        "proposed_sl": proposal.proposed_sl,
        "proposed_tp": proposal.proposed_tp,
        "stop_dist_pct": proposal.stop_dist_pct,
        "tp_dist_pct": proposal.tp_dist_pct,
        "trail_gap_pct": proposal.trail_gap_pct,
        "reason_codes": pl.Series([list(codes) for codes in proposal.reason_codes], dtype=pl.List(pl.String)),
        "sl_breached": proposal.sl_breached,
        "tail_move": rows["tail_move"],
        **inputs_used(rows),
    }
    return assemble(position["symbol"].to_list(), computed, uncomputed)
