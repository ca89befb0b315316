"""Asset ``harvest_proposal``: profit taking and kill score of each open position."""

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.shared.order import PROPOSALS_FIRST
from quantum_assets.shared.partitions import OWNERS
from quantum_assets.shared.rows import (
    assemble,
    inputs_used,
    market_columns,
    nan_for_none,
    none_for_nan,
    position_columns,
    sort_out,
)
from quantum_core.contracts.reading import State
from quantum_core.kernels.proposals.harvest import HarvestTheta, harvest
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
        "Proposed profit taking. **R_net** = (profit per unit - cost) / risk unit picks PARTIAL_25, _50 or _75 at 2, 4 and 6 R; "
        "from 1.5 R the stop is proposed just beyond break-even. **Kill score** K = sigmoid of regime flip, sigma spike, loss "
        "of trend strength and age; from 0.6 the whole position is proposed closed."
    ),
)
def harvest_proposal(
    context: dg.AssetExecutionContext,
    market_state: pl.DataFrame,
    position: pl.DataFrame,
    risk_proposal: pl.DataFrame,
    store: dg.ResourceParam[RedisStore],
) -> pl.DataFrame:
    """Propose profit taking for every open position of the run."""
    frame = harvest_frame(market_state, position, risk_proposal, take_profile(store, context.run.tags))
    if fallbacks := frame.filter(pl.col("fallback_stop") == True)["symbol"].to_list():  # noqa: E712 - null is not False
        context.log.warning(f"no usable risk proposal, FALLBACK_STOP_PCT used: {', '.join(fallbacks)}")
    return frame


def harvest_frame(
    market_state: pl.DataFrame, position: pl.DataFrame, risk_proposal: pl.DataFrame, profile: Profile
) -> pl.DataFrame:
    """Compute the harvest proposals of all symbols at once.

    Parameters
    ----------
    market_state, position, risk_proposal
        Frames of the same symbols. Without a risk proposal, or with a stale one, the fallback distance is used and flagged;
        one that cannot be read fails the symbol, because a failed read must not look like "none".
    profile
        Parameters of the kernel.
    """
    rows, uncomputed = sort_out(position, market_state)
    unreadable = risk_proposal.filter(pl.col("why").str.starts_with("risk_proposal_unreadable")).select(uncomputed.columns)
    uncomputed = pl.concat([uncomputed, unreadable.join(rows, on="symbol", how="semi")])
    rows = rows.join(unreadable, on="symbol", how="anti", maintain_order="left")
    distance = risk_proposal.filter(pl.col("state") == State.PRESENT).select("symbol", "stop_dist_pct")
    rows = rows.join(distance, on="symbol", how="left", maintain_order="left")
    distances = nan_for_none(rows["stop_dist_pct"])
    result = harvest(
        market_columns(rows),
        position_columns(rows),
        distances,
        profile.by_row(HarvestTheta, rows["symbol"].to_list()),
    )
    computed = {
        "symbol": rows["symbol"],
        "harvest_action": list(result.harvest_action),
        "new_sl_proposed": none_for_nan(result.new_sl_proposed),
        "R_net": result.R_net,
        "risk_unit": result.risk_unit,
        "cost_est": result.cost_est,
        "kill_score": result.kill_score,
        "reason_codes": pl.Series([list(codes) for codes in result.reason_codes], dtype=pl.List(pl.String)),
        "k_regime_flip": result.k_regime_flip,
        "k_sigma_spike": result.k_sigma_spike,
        "k_ts_drop": result.k_ts_drop,
        "k_age_penalty": result.k_age_penalty,
        "position_unrealized_pnl": rows["unrealized_pnl"],
        "position_qty": rows["qty"],
        "stop_dist_pct": none_for_nan(np.where(result.fallback_used, np.nan, distances)),
        "fallback_stop": result.fallback_used,
        **inputs_used(rows),
    }
    return assemble(position["symbol"].to_list(), computed, uncomputed)
