"""Asset ``position``: each open position with what no writer supplies, kept since entry."""

import math
from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from quantum_assets.contracts.codecs import EPOCH, TIME
from quantum_assets.contracts.reading import Reading, State
from quantum_assets.contracts.tables import POSITION, RISK_PROPOSAL
from quantum_assets.kernels.tracking import FIELDS, Tracked, TrackingTheta, same_position, track
from quantum_assets.rows import assemble, without_result
from quantum_assets.symbols import OWNERS
from resources.candles import CandleReader, Candles
from resources.positions import PositionReader, RawPosition
from resources.redis_store import RedisStore

NEW_CANDLES_MAX = 30  # a symbol that lags further behind is read in full
SPARE_CANDLES = 3  # read beyond the new ones: clocks differ, and candles come late


@dg.asset(
    deps=["raw_positions", "candles"],
    group_name="proposals",
    kinds={"numpy", "redis"},
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "Open positions with what no live writer supplies: **peak** and **trough** since entry, **age**, and "
        "the **stop in force** (SL_RATCHET). A new side or entry starts anew. A jump beyond PRICE_COLLAR_PCT moves nothing "
        "until the next candle confirms it."
    ),
)
def position(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> pl.DataFrame:
    """Track the position of every symbol of the run."""
    return position_frame(
        list(context.partition_keys),
        store=store,
        candle_reader=CandleReader(store),
        position_reader=PositionReader(store),
    )


def position_frame(
    symbols: Sequence[str], *, store: RedisStore, candle_reader: CandleReader, position_reader: PositionReader
) -> pl.DataFrame:
    """Track the positions of all symbols.

    Parameters
    ----------
    symbols
        Symbols, in the order of the result.
    store
        Where kept state and last proposals are read from, and whose clock counts. The kept state of a symbol that is flat is
        deleted: its peak and stop must not pass to the next position. That of a position no source shows any more is kept for
        its return, marked as not held.
    candle_reader, position_reader
        Sources.

    Returns
    -------
    polars.DataFrame
        ``symbol``, ``state``, ``why`` and the fields of the wire table. A position whose candles cannot be read is tracked
        from its mark; one whose kept state cannot be read fails, because starting anew would forget its peak and stop.

    References
    ----------
    Spec section 5.
    """
    now = store.clock().timestamp()
    theta = TrackingTheta(collar_pct=store.settings.price_collar_pct, sl_ratchet=store.settings.sl_ratchet)
    kept = dict(zip(symbols, store.read(POSITION, symbols), strict=True))
    raw = position_reader.read(symbols)
    _let_go(store, raw, kept)
    rest = [(one.symbol, one.state, one.reason) for one in raw if one.value is None]
    rest += [
        (one.symbol, State.FAILED, kept[one.symbol].reason)
        for one in raw
        if one.value is not None and kept[one.symbol].state is State.FAILED
    ]
    without = {symbol for symbol, _, _ in rest}
    held = {one.symbol: one.value for one in raw if one.value is not None and one.symbol not in without}
    previous = {symbol: Tracked.from_row(row) for symbol in held if (row := kept[symbol].value) is not None}
    stops = _last_stops(store, held)
    candles = _candles(candle_reader, list(held), previous, now)
    tracked = {
        symbol: track(previous.get(symbol), position, candles[symbol], last_proposed_sl=stops[symbol], now=now, theta=theta)
        for symbol, position in held.items()
    }
    return assemble(symbols, _columns(tracked), without_result(rest))


def _let_go(store: RedisStore, raw: Sequence[Reading[RawPosition]], kept: dict[str, Reading[dict[str, Any]]]) -> None:
    now = store.clock()
    gone = {one.symbol: one.reason for one in raw if one.state is State.ABSENT and kept[one.symbol].state is State.PRESENT}
    mark = ("held", "0", "computed_at_utc", TIME.encode(now), "last_update_epoch", EPOCH.encode(now.timestamp()))
    store.run(
        "letting go of closed positions",
        [
            ("DEL" if reason == "flat" else "HSET", store.keys.of(POSITION.key, symbol), *(() if reason == "flat" else mark))
            for symbol, reason in gone.items()
        ],
    )


def _last_stops(store: RedisStore, held: dict[str, RawPosition]) -> dict[str, float | None]:
    """Give the stop last proposed for each position; none when the proposal was for another one or cannot be read."""
    stops: dict[str, float | None] = dict.fromkeys(held)
    for reading in store.read(RISK_PROPOSAL, list(held)):
        row, position = reading.value, held[reading.symbol]
        if row is not None and same_position(
            position.side, position.entry_price, row["position_side"], row["position_entry_price"]
        ):
            stops[reading.symbol] = row["proposed_sl"]
    return stops


def _candles(reader: CandleReader, symbols: Sequence[str], previous: dict[str, Tracked], now: float) -> dict[str, Candles | None]:
    """Read the candles to merge: only the newest ones of symbols that were up to date a moment ago."""
    behind = {
        symbol: math.ceil((now - previous[symbol].last_candle_ms / 1000) / reader.interval_sec)
        for symbol in symbols
        if symbol in previous
    }
    current = [symbol for symbol in symbols if behind.get(symbol, math.inf) <= NEW_CANDLES_MAX]
    others = [symbol for symbol in symbols if behind.get(symbol, math.inf) > NEW_CANDLES_MAX]
    readings = reader.read(others) if others else []
    if current:
        readings += reader.read(current, window=max(max(behind[symbol] for symbol in current), 0) + SPARE_CANDLES)
    return {reading.symbol: reading.value for reading in readings}


def _columns(tracked: dict[str, Tracked]) -> dict[str, Any]:
    columns: dict[str, Any] = {"symbol": pl.Series(list(tracked), dtype=pl.String), "held": [True] * len(tracked)}
    for name in FIELDS:
        dtype = POSITION.by_name[name].codec.dtype
        columns[name] = pl.Series([getattr(one, name) for one in tracked.values()], dtype=dtype)
    return columns
