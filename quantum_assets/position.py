"""Asset ``position``: each open position with what no writer supplies, kept since entry."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from quantum_assets.contracts.codecs import EPOCH, TIME
from quantum_assets.contracts.reading import Reading, State
from quantum_assets.contracts.tables import POSITION, RISK_PROPOSAL
from quantum_assets.kernels.tracking import FIELDS, Tracked, TrackingTheta, continues, implausible, same_position, track
from quantum_assets.rows import assemble, without_result
from quantum_assets.symbols import OWNERS
from resources.candles import CandleReader, Candles
from resources.positions import PositionReader, RawPosition
from resources.redis_store import RedisStore

NEW_CANDLES_MAX = 30  # a symbol that lags further behind is read in full
SPARE_CANDLES = 3  # read beyond the new ones: clocks differ, and candles come late
AHEAD_SEC_MAX = 60.0  # clocks differ; a snapshot further ahead would be fresh for ever

# KEYS[1] kept state of one symbol; ARGV[1] 1 to delete it, 0 to mark it; ARGV[2..] fields and values of the mark
# returns 1, or 0 when there is none (it may have expired since it was read: a mark alone would be half a hash);
#         raises, having done nothing, on another type
LET_GO_LUA = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return 0 end
if kind ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind) end
if ARGV[1] == '1' then return redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""

log = logging.getLogger("quantum.position")


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
        from its mark; one whose kept state, or the proposal made for it, cannot be read fails, because starting anew would
        forget its peak and stop. A stop or target of the snapshot that was ignored is named in ``why``.

    References
    ----------
    Spec section 5.
    """
    now = store.clock().timestamp()
    theta = TrackingTheta(collar_pct=store.settings.price_collar_pct, sl_ratchet=store.settings.sl_ratchet)
    kept = dict(zip(symbols, store.read(POSITION, symbols), strict=True))
    raw = position_reader.read(symbols)
    refused = _let_go(store, raw, kept)
    rest = [
        (one.symbol, State.FAILED, refused[one.symbol]) if one.symbol in refused else (one.symbol, one.state, one.reason)
        for one in raw
        if one.value is None
    ]
    rest += [
        (one.symbol, State.FAILED, kept[one.symbol].reason)
        for one in raw
        if one.value is not None and kept[one.symbol].state is State.FAILED
    ]
    rest += [
        (one.symbol, State.FAILED, trouble)
        for one in raw
        if one.value is not None
        and kept[one.symbol].state is not State.FAILED
        and (trouble := _unfit(one.value, kept[one.symbol].value, now, store.settings.position_max_age_sec))
    ]
    without = {symbol for symbol, _, _ in rest}
    held = {one.symbol: one.value for one in raw if one.value is not None and one.symbol not in without}
    previous = {symbol: Tracked.from_row(row) for symbol in held if (row := kept[symbol].value) is not None}
    stops, unread = _last_stops(store, held, previous, now) if store.settings.sl_ratchet == "proposed" else ({}, {})
    rest += [(symbol, State.FAILED, reason) for symbol, reason in unread.items()]
    held = {symbol: one for symbol, one in held.items() if symbol not in unread}
    candles = _candles(candle_reader, list(held), previous, now)
    tracked = {
        symbol: track(previous.get(symbol), position, candles[symbol], last_proposed_sl=stops.get(symbol), now=now, theta=theta)
        for symbol, position in held.items()
    }
    frame = assemble(symbols, _columns(tracked), without_result(rest))
    ignored = {
        symbol: f"stop_ignored: {' '.join(odd)}"
        for symbol, position in held.items()
        if (odd := implausible(position, tracked[symbol].current_price, theta.collar_pct))
    }
    for symbol, what in ignored.items():
        log.warning("%s: %s", symbol, what)
    if not ignored:
        return frame
    return frame.with_columns(why=pl.col("symbol").replace_strict(ignored, default=pl.col("why"), return_dtype=pl.String))


def _unfit(position: RawPosition, kept: dict[str, Any] | None, now: float, max_age_sec: int) -> str:
    """Say why a snapshot must not be tracked; empty when it may."""
    if position.ts_epoch is not None and now - position.ts_epoch > max_age_sec:
        return f"position_stale: snapshot of {position.symbol} is {now - position.ts_epoch:.0f} s old, limit {max_age_sec} s"
    for what, moment in (("snapshot", position.ts_epoch), ("opening", position.opened_at_epoch)):
        if moment is not None and moment - now > AHEAD_SEC_MAX:
            return f"position_in_future: {what} of {position.symbol} is dated {moment - now:.0f} s ahead"
    if position.position_source == "synthetic" and kept is not None and kept["held"] and kept["position_source"] != "synthetic":
        return "position_synthetic: a real position is tracked, an invented one must not replace it"
    return ""


def _let_go(store: RedisStore, raw: Sequence[Reading[RawPosition]], kept: dict[str, Reading[dict[str, Any]]]) -> dict[str, str]:
    """Delete the kept state of flat symbols, mark that of symbols nobody shows; give the reasons where that was refused."""
    now = store.clock()
    mark = ("held", "0", "computed_at_utc", TIME.encode(now), "last_update_epoch", EPOCH.encode(now.timestamp()))
    gone = {
        one.symbol: one.reason == "flat"
        for one in raw
        if one.state is State.ABSENT
        and (kept[one.symbol].state is State.PRESENT or (one.reason == "flat" and kept[one.symbol].state is State.FAILED))
    }
    if not gone:
        return {}
    keys = [store.keys.of(POSITION.key, symbol) for symbol in gone]
    replies = store.run(
        "letting go of closed positions",
        [("EVAL", LET_GO_LUA, 1, key, int(flat), *mark) for key, flat in zip(keys, gone.values(), strict=True)],
    )
    return {
        symbol: f"position_not_let_go: {key}: {reply}"
        for symbol, key, reply in zip(gone, keys, replies, strict=True)
        if isinstance(reply, Exception)
    }


def _last_stops(
    store: RedisStore, held: dict[str, RawPosition], previous: dict[str, Tracked], now: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Give the stop last proposed for each position, and why it is not known where a tracked position may have one.

    A proposal counts for the position it was made for: same side, same entry, and published after that one was opened (or
    first seen).
    """
    stops: dict[str, float] = {}
    unread: dict[str, str] = {}
    for reading in store.read(RISK_PROPOSAL, list(held)):
        row, position, kept = reading.value, held[reading.symbol], previous.get(reading.symbol)
        goes_on = kept is not None and continues(kept, position)
        if reading.state is State.FAILED and goes_on:
            unread[reading.symbol] = reading.reason
        if row is None or (kept is not None and not goes_on):
            continue
        opened = kept.opened_at_epoch if kept is not None else position.opened_at_epoch
        opened = opened if opened is not None else now
        if row["published_at_utc"].timestamp() >= opened and same_position(
            position.side, position.entry_price, row["position_side"], row["position_entry_price"]
        ):
            stops[reading.symbol] = row["proposed_sl"]
    return stops, unread


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
    # Invented candles live at a price level of their own: they can neither confirm nor refute a real mark.
    return {
        reading.symbol: reading.value if reading.value and reading.value.source != "synthetic" else None for reading in readings
    }


def _columns(tracked: dict[str, Tracked]) -> dict[str, Any]:
    columns: dict[str, Any] = {"symbol": pl.Series(list(tracked), dtype=pl.String), "held": [True] * len(tracked)}
    for name in FIELDS:
        dtype = POSITION.by_name[name].codec.dtype
        columns[name] = pl.Series([getattr(one, name) for one in tracked.values()], dtype=dtype)
    return columns
