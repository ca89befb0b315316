"""Asset ``position_size``: how large a position of each symbol may be, also where none is open. A hint: no gate reads it."""

from collections.abc import Sequence

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.shared.partitions import OWNERS
from quantum_assets.shared.rows import assemble, least_live, market_columns, nan_for_none, none_for_nan, without_result
from quantum_core.contracts.labels import is_live
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.kernels.governor.risk_guard import EQUITY, RiskGuardTheta, assess
from quantum_core.kernels.proposals.sizing import SizingInputs, SizingTheta, sizing
from quantum_core.kernels.proposals.stops import StopsTheta, stop_distance
from quantum_core.profiles.profile import Profile
from resources.governor.account import AccountReading, account_row, read_account
from resources.inputs.foreign import Scored, read_scored
from resources.recorder.tape import tape_of
from resources.store.profiles import take_profile
from resources.store.redis_store import RedisStore

DAY_SEC = 86_400


@dg.asset(
    deps=["equity", "base_targets"],
    group_name="proposals",
    kinds={"numpy", "redis"},
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "How large a position may be: the smaller of **risk_usd** / stop distance and equity x target volatility / daily sigma, "
        "weighted by regime and efficiency, never above the equity nor above a target in force. Missing or stale equity: no "
        "size. A hint: the governor's permit carries it, and no gate reads it."
    ),
)
def position_size(
    context: dg.AssetExecutionContext,
    market_state: pl.DataFrame,
    allocation_target: pl.DataFrame,
    store: dg.ResourceParam[RedisStore],
) -> pl.DataFrame:
    """Size every symbol of the run."""
    return sized_frame(store, market_state, allocation_target, take_profile(store, context.run.tags))


def sized_frame(store: RedisStore, market_state: pl.DataFrame, allocation_target: pl.DataFrame, profile: Profile) -> pl.DataFrame:
    """Read account and targets, and compute the sizes; none for any symbol without a fresh equity, and why.

    Parameters
    ----------
    store
        Where account and targets are read.
    market_state, allocation_target
        Frames of the same symbols.
    profile
        Parameters of the kernels.
    """
    symbols = market_state["symbol"].to_list()  # the keys of a run come in any order
    account = read_account(store)
    tape = tape_of(store)
    if tape is not None:
        tape.take("account", {ACCOUNT: account_row(account)})
    if why := no_equity(account, profile):
        return assemble(symbols, {"symbol": []}, without_result([(symbol, State.ABSENT, why) for symbol in symbols]))
    targets = read_scored(store, "base_target", "target_usd", symbols)
    if tape is not None:
        tape.take("base_targets", dict(zip(symbols, (one.row() for one in targets), strict=True)))
    scales = [store.settings.candle_scale_of(symbol) for symbol in symbols]
    accounts = [account] * len(symbols)
    interval_sec = store.settings.candle_interval_sec
    return size_frame(market_state, allocation_target, targets, accounts, scales, profile, candle_interval_sec=interval_sec)


def no_equity(account: AccountReading, profile: Profile) -> str:
    """Say why there is no size for any symbol; empty when the equity is there, fresh and positive."""
    assessment = assess(account.account, profile.theta(RiskGuardTheta))
    if EQUITY in assessment.unusable:
        return "equity_unusable: neither its amount nor its age may be missing"
    if not assessment.equity_fresh:
        return f"equity_stale: {next((one.reason for one in assessment.triggered), 'not fresh')}"
    return ""


def size_frame(
    market_state: pl.DataFrame,
    allocation_target: pl.DataFrame,
    targets: Sequence[Scored],
    accounts: Sequence[AccountReading],
    scales: Sequence[float],
    profile: Profile,
    *,
    candle_interval_sec: float,
) -> pl.DataFrame:
    """Compute the sizes of all symbols at once.

    Parameters
    ----------
    market_state, allocation_target
        Frames of the same symbols. A multiplier counts only where its efficiency was trusted.
    targets
        P2.9 target per symbol, in the order of the frame; one caps only where it is fresh and in mode ``enforce``.
    accounts
        As it was for each of them, with an equity that is there and fresh.
    scales
        Factor from the prices of the candles to those of a position, for each of them.
    profile
        Parameters of the kernels.
    candle_interval_sec
        Length of the candles, s.

    References
    ----------
    docs/spec.md#15-position-size
    """
    of_trusted = (pl.col("state") == State.PRESENT) & (pl.col("reason") == "ok")
    trusted = allocation_target.filter(of_trusted).select("symbol", "multiplier")
    capped = market_state.with_columns(
        target_usd=pl.Series([one.cap for one in targets], dtype=pl.Float64),
        equity=pl.Series([one.account.equity for one in accounts], dtype=pl.Float64),
        of_account=pl.Series(["candles" if is_live(one.source) else "example" for one in accounts], dtype=pl.String),
        scale=pl.Series(scales, dtype=pl.Float64),
    )
    joined = capped.join(trusted, on="symbol", how="left", maintain_order="left")
    known = (pl.col("state") == State.PRESENT) & pl.col("close").is_not_null()
    rows = joined.filter(known)
    uncomputed = joined.filter(~known).select(
        "symbol",
        state=pl.lit(str(State.FAILED)),
        why=pl.when(pl.col("state") == State.PRESENT).then(pl.lit("market_state_close_missing")).otherwise(pl.col("why")),
    )
    symbols, count = rows["symbol"].to_list(), len(rows)
    market = market_columns(rows)
    price = rows["close"].to_numpy() * rows["scale"].to_numpy()
    equity, per_day = rows["equity"].to_numpy(), DAY_SEC / candle_interval_sec
    distance = stop_distance(market, profile.by_row(StopsTheta, symbols))
    inputs = SizingInputs(
        equity_usd=equity,
        price=price,
        stop_dist_pct=distance,
        multiplier=nan_for_none(rows["multiplier"]),
        target_usd=rows["target_usd"].to_numpy(),
    )
    size = sizing(market, inputs, profile.by_row(SizingTheta, symbols), candles_per_day=per_day)
    computed = {
        "symbol": symbols,
        "size_usd": size.size_usd,
        "size_qty": size.size_qty,
        "leverage_max": size.leverage_max,
        "stop_dist_pct": size.stop_dist_pct,
        "risk_usd": size.risk_usd,
        "binding": list(size.binding),
        "reason_codes": pl.Series([list(codes) for codes in size.reason_codes], dtype=pl.List(pl.String)),
        "equity_usd": equity,
        "price": price,
        **{name: rows[name] for name in ("sigma", "ts", "p_trend", "p_mr", "p_chop")},
        "multiplier": none_for_nan(inputs.multiplier),
        "target_usd": none_for_nan(inputs.target_usd),
        "candles_per_day": np.full(count, per_day),
        "data_source": least_live(rows["source"], rows["of_account"]),
    }
    return assemble(market_state["symbol"].to_list(), computed, uncomputed)
