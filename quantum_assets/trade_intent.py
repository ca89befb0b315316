"""Asset ``trade_intent``: what should be done about a position, said once per change of its proposals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from quantum_assets.shared.partitions import OWNERS
from quantum_assets.shared.rows import assemble, least_live, nan_for_none, without_result
from quantum_core.contracts.codecs import TIME
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import publication_due
from quantum_core.contracts.tables import LAST_INTENT
from quantum_core.kernels.proposals.intent import CLOSE, Proposals, intent_id, intents
from resources.store.intents import GONE as GONE
from resources.store.intents import let_go
from resources.store.redis_store import RedisStore

BREACHED = "sl_breached"  # reason code of a crossed stop
STAMPS_USED = ("data_source", "published_at_utc", "digest")
HARVEST_USED = (
    *("symbol", "state", "why", "harvest_action", "new_sl_proposed", "kill_score", "reason_codes", "position_side"),
    *STAMPS_USED,
)
RISK_USED = ("symbol", "state", "why", "proposed_sl", "proposed_tp", "sl_breached", *STAMPS_USED)


@dg.asset(
    group_name="governor",
    kinds={"numpy", "redis"},
    owners=OWNERS,
    io_manager_key="intent_io",
    description=(
        "Intents to reduce a position: one, pending for 300 s, whenever the proposals begin to ask for something or ask for "
        "something else; never one per cycle. INTENT_MODE=plan also asks the governor for a permit. An intent is said, "
        "nothing is ever sent to an exchange."
    ),
)
def trade_intent(
    position: pl.DataFrame,
    risk_proposal: pl.DataFrame,
    harvest_proposal: pl.DataFrame,
    store: dg.ResourceParam[RedisStore],
) -> pl.DataFrame:
    """Say what is intended for every open position of the run."""
    return current_intents(position, risk_proposal, harvest_proposal, store=store)


def current_intents(
    position: pl.DataFrame, risk_proposal: pl.DataFrame, harvest_proposal: pl.DataFrame, *, store: RedisStore
) -> pl.DataFrame:
    """Say what is intended for each symbol, beside what was intended before.

    Parameters
    ----------
    position, risk_proposal, harvest_proposal
        See :func:`both_proposals`.
    store
        Where what was last intended is read from. Of a symbol that is flat it is marked as not due.

    Returns
    -------
    polars.DataFrame
        See :func:`intent_frame`.
    """
    rows, uncomputed = both_proposals(position, risk_proposal, harvest_proposal)
    refused = let_go(store, uncomputed.filter(pl.col("why").is_in(GONE))["symbol"].to_list())
    if refused:
        unmarked = without_result([(symbol, State.FAILED, why) for symbol, why in refused.items()])
        uncomputed = uncomputed.update(unmarked, on="symbol", how="left")
    last_intents = store.read(LAST_INTENT, rows["symbol"].to_list())
    return intent_frame(
        position["symbol"].to_list(), rows, uncomputed, last_intents, change_eps_pct=store.settings.change_eps_pct
    )


def both_proposals(
    position: pl.DataFrame, risk_proposal: pl.DataFrame, harvest_proposal: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split symbols into those with a position and both proposals, and the rest.

    Parameters
    ----------
    position, risk_proposal, harvest_proposal
        Frames of the same symbols, as the IO manager gives them. The position separates a symbol that is flat, which
        is no error, from one whose proposal is missing.

    Returns
    -------
    computable, uncomputed
        ``computable`` has the columns of HARVEST_USED, those of RISK_USED (the same ones end in ``_risk``), ``price``, ``qty``;
        ``uncomputed`` has ``symbol``, ``state`` and ``why``: failed where a proposal is missing, stale or unreadable.
    """
    joined = (
        position.select("symbol", "state", "why", pl.col("current_price").alias("price"), "qty")
        .join(harvest_proposal.select(HARVEST_USED), on="symbol", how="left", suffix="_harvest", maintain_order="left")
        .join(risk_proposal.select(RISK_USED), on="symbol", how="left", suffix="_risk", maintain_order="left")
    )
    held, harvested, stopped = (pl.col(name) == State.PRESENT for name in ("state", "state_harvest", "state_risk"))
    uncomputed = joined.filter(~(held & harvested & stopped)).select(
        "symbol",
        pl.when(held).then(pl.lit(State.FAILED)).otherwise(pl.col("state")).alias("state"),
        pl.when(~held)
        .then(pl.col("why"))
        .otherwise(pl.when(~harvested).then(pl.col("why_harvest")).otherwise(pl.col("why_risk")))
        .alias("why"),
    )
    return joined.filter(held & harvested & stopped), uncomputed


def intent_frame(
    symbols: Sequence[str],
    rows: pl.DataFrame,
    rest: pl.DataFrame,
    kept: Sequence[Reading[dict[str, Any]]],
    *,
    change_eps_pct: float,
) -> pl.DataFrame:
    """Say what is intended for each symbol, and which of it is new.

    Parameters
    ----------
    symbols
        Symbols, in the order of the result.
    rows, rest
        See :func:`both_proposals`.
    kept
        What was last intended, for the symbols of ``rows`` in their order. A symbol of which that cannot be read fails: to
        start anew could intend the same a second time.
    change_eps_pct
        Relative change of the new stop that makes a new intent.

    Returns
    -------
    polars.DataFrame
        ``symbol``, ``state``, ``why``, the fields of LAST_INTENT, and ``plan_action``, ``price``, ``replaces`` (id of the intent
        before it, null when nothing was ever kept) and ``cause`` (why this is a new intent, null when it is none).

    References
    ----------
    docs/spec.md#7-trade-intents-and-the-governor, docs/spec.md#9-publishing-rules
    """
    unread = without_result([(one.symbol, State.FAILED, one.reason) for one in kept if one.state is State.FAILED])
    intended = intended_rows(rows.join(unread, on="symbol", how="anti", maintain_order="left"))
    last = {one.symbol: one.value for one in kept}
    named = [identity_of(row, last[row["symbol"]], change_eps_pct) for row in intended.iter_rows(named=True)]
    return assemble(symbols, with_identity(intended, named), pl.concat([rest, unread]))


def intended_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Say what the proposals of each symbol ask for, whatever was intended before.

    Parameters
    ----------
    rows
        Those of :func:`both_proposals` that can be computed.
    """
    intended = intents(
        Proposals(
            harvest_action=rows["harvest_action"].to_numpy(),
            sl_breached=rows["sl_breached"].to_numpy().astype(bool),
            kill_score=rows["kill_score"].to_numpy(),
            new_sl_proposed=nan_for_none(rows["new_sl_proposed"]),
            proposed_sl=rows["proposed_sl"].to_numpy(),
        )
    )
    codes = zip(rows["reason_codes"], rows["sl_breached"], strict=True)
    columns = {
        "symbol": rows["symbol"],
        "due": intended.due,
        "action": [CLOSE] * len(rows),
        "harvest_action": rows["harvest_action"],
        "position_side": rows["position_side"],
        "sl_breached": rows["sl_breached"],
        "reason_codes": pl.Series([[*row, BREACHED] if hit else list(row) for row, hit in codes], dtype=pl.List(pl.String)),
        "new_sl_proposed": rows["new_sl_proposed"],
        "confidence": intended.confidence,
        "stop_loss": intended.stop_loss,
        "take_profit": rows["proposed_tp"],
        "proposal_time": rows.select(pl.max_horizontal("published_at_utc", "published_at_utc_risk")).to_series(),
        "proposals_digest": rows.select(pl.format("{}|{}", "digest", "digest_risk")).to_series(),
        "source": least_live(rows["data_source"], rows["data_source_risk"]),
        "plan_action": list(intended.plan_action),
        "price": rows["price"],
        "qty": rows["qty"],
    }
    return pl.DataFrame(columns)


def with_identity(intended: pl.DataFrame, named: Sequence[Mapping[str, str | None]]) -> Mapping[str, Any]:
    """Give the columns of what is intended, with the identity of each."""
    identity = {name: pl.Series([one[name] for one in named], dtype=pl.String) for name in ("intent_id", "replaces", "cause")}
    return {**intended.to_dict(), **identity}


def identity_of(row: Mapping[str, Any], last: Mapping[str, Any] | None, change_eps_pct: float) -> dict[str, str | None]:
    """Decide whether what a row asks for is a new intent, and name it or the one that stands."""
    standing_id = None if last is None else str(last["intent_id"])
    if row["due"]:
        proposed = TIME.encode(row["proposal_time"])
        new_id = intent_id(row["symbol"], row["harvest_action"], row["confidence"], row["new_sl_proposed"], proposed)
        since = row["proposal_time"] if last is None else last["published_at_utc"]  # age alone is no change
        cause = publication_due(LAST_INTENT, last, row, now=since, change_eps_pct=change_eps_pct, max_age_sec=math.inf)
        if cause is not None and new_id != standing_id:
            return {"intent_id": new_id, "replaces": standing_id, "cause": cause}
    return {"intent_id": standing_id or "", "replaces": standing_id, "cause": None}
