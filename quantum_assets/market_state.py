"""Asset ``market_state``: volatility, drift and regime of each symbol from its closed candles."""

import hashlib
from collections.abc import Sequence

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.contracts.reading import Reading, State
from quantum_assets.kernels.columns import Floats
from quantum_assets.kernels.market_state import MarketStateTheta, closes_matrix
from quantum_assets.kernels.market_state import market_state as market_state_kernel
from quantum_assets.rows import assemble, shared_by_legs, without_result
from quantum_assets.symbols import OWNERS
from resources.candles import CandleReader, Candles
from resources.redis_store import RedisStore

CLOSES_USED = MarketStateTheta().candles_required
COLUMNS = ("sigma", "mu", "ts", "p_trend", "p_mr", "p_chop", "dp", "vr", "spike_proxy")


@dg.asset(
    deps=["candles"],
    group_name="market",
    kinds={"numpy", "redis"},
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "Robust volatility **sigma** (winsorised EWMA blended with MAD), drift **mu** (weighted Theil-Sen slopes of log "
        "prices), trend strength **ts** = |mu|/sigma and regime probabilities = softmax of the trend, mean-reversion and "
        "chop scores, from the last 257 to 300 closed candles. Fewer candles or one bad price: no state, and the reason."
    ),
)
def market_state(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> pl.DataFrame:
    """Read candles and compute the state of every symbol of the run."""
    reader = CandleReader(store)
    return shared_by_legs(context.partition_keys, lambda symbols: market_state_frame(reader.read(symbols)))


def market_state_frame(candles: Sequence[Reading[Candles]]) -> pl.DataFrame:
    """Compute the market state of all symbols at once.

    Parameters
    ----------
    candles
        One reading per symbol.

    Returns
    -------
    polars.DataFrame
        One row per symbol with ``state``, ``why`` and the fields of the wire table.
    """
    have = [(reading.symbol, reading.value) for reading in candles if reading.value is not None]
    unread = [(reading.symbol, State.FAILED, reading.reason) for reading in candles if reading.value is None]
    closes, counts = closes_matrix([value.close for _, value in have])
    result = market_state_kernel(closes, counts)
    ok = np.flatnonzero(result.has_state)
    bad = [
        (symbol, State.FAILED, f"{reason} ({len(value.close)} candles from {value.key})")
        for (symbol, value), reason in zip(have, result.reason, strict=True)
        if reason is not None
    ]
    good = [have[row] for row in ok]
    computed = {
        "symbol": [symbol for symbol, _ in good],
        **{name: getattr(result, name)[ok] for name in COLUMNS},
        "regime": list(result.regime[ok]),
        "ts_timestamp": [int(value.newest_epoch_sec) for _, value in good],
        "buffer_size": [len(value.close) for _, value in good],
        "source": [value.source for _, value in good],
        "candle_key": [value.key for _, value in good],
        "candles_digest": [candles_digest(value.close) for _, value in good],
    }
    return assemble([reading.symbol for reading in candles], computed, without_result(unread + bad))


def candles_digest(closes: Floats) -> str:
    """Fingerprint the closes a state was computed from, so that a proof can find the very same ones again."""
    return hashlib.blake2s(np.ascontiguousarray(closes[-CLOSES_USED:]).tobytes(), digest_size=8).hexdigest()
