"""Asset ``position``: each open position with what no writer supplies, kept since entry."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
import orjson
import polars as pl
from redis.exceptions import ResponseError

from quantum_assets.shared.order import PROPOSALS_FIRST
from quantum_assets.shared.partitions import OWNERS, symbols_of_run
from quantum_assets.shared.tracked_positions import Case, Inputs, judge_snapshots, memory_of, move_on, tracked_frame
from quantum_core.contracts.codecs import EPOCH, TIME
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import ContractError
from quantum_core.contracts.tables import POSITION, RISK_PROPOSAL
from quantum_core.kernels.position.identity import Memory
from quantum_core.kernels.position.tracking import Tracked, TrackingTheta
from resources.inputs.candle_series import Candles
from resources.inputs.candles import CandleReader, CandlesOfRun
from resources.inputs.position_snapshots import Flat, RawPosition, snapshot_row
from resources.inputs.positions import PositionReader
from resources.recorder.tape import tape_of
from resources.store.profiles import take_profile
from resources.store.redis_store import RedisStore
from resources.store.transport.scripts import Script

NEW_CANDLES_MAX = 30  # a symbol that lags further behind is read in full
SPARE_CANDLES = 3  # read beyond the new ones: clocks differ, and candles come late
MEMORY_TTL_SEC = 86400  # longer than a side is remembered

LET_GO = Script(__file__, "let_go")

log = logging.getLogger("quantum.position")
_named: dict[str, str] = {}  # what was last named of each symbol, by this process


@dg.asset(
    deps=["raw_positions", "candles"],
    group_name="proposals",
    kinds={"numpy", "redis"},
    op_tags=PROPOSALS_FIRST,
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "Open positions with what no live writer supplies: **peak** and **trough** since entry, **age**, and "
        "the **stop in force** (SL_RATCHET), which never loosens: only flat or another side starts anew. A jump beyond "
        "PRICE_COLLAR_PCT moves nothing until the next candle confirms it."
    ),
)
def position(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> pl.DataFrame:
    """Track the position of every symbol of the run."""
    take_profile(store, context.run.tags)
    return position_frame(
        symbols_of_run(context, store.settings),
        store=store,
        candle_reader=CandlesOfRun(store, context.run.run_id),
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
        forget its peak and stop. What was ignored of a snapshot, and why nothing is opened on it, is named in ``why``.

    References
    ----------
    docs/spec.md#5-sources
    """
    moment = store.clock()
    now = moment.timestamp()
    stored = dict(zip(symbols, store.read(POSITION, symbols), strict=True))
    memories, forgotten = _memories(store, symbols, now)
    raw = position_reader.snapshots(symbols, moment)
    readable = [one.symbol for one in raw if one.value is not None]
    ratcheted = [one for one in readable if store.profile.theta(TrackingTheta, one).sl_ratchet == "proposed"]
    proposed, unread = _proposed(store, ratcheted) if ratcheted else ({}, {})
    inputs = Inputs(now, raw, stored, memories, forgotten, proposed, unread)
    shown = judge_snapshots(inputs, store.settings)
    refused = _let_go(store, raw, stored, shown.doubtful, moment)
    behind = _behind(shown.cases, now, candle_reader.interval_sec)
    candles = _candles(candle_reader, behind)
    frame, notes = tracked_frame(symbols, move_on(inputs, shown, candles, store.settings, store.profile, refused))
    recalled = {symbol: one for symbol, one in shown.recalled.items() if one != memories.get(symbol)}
    _remember(store, recalled)
    _record(store, inputs, candles)
    for symbol, note in notes.items():
        if _named.get(symbol) != note:  # a field that is never readable would fill the log
            log.warning("%s: %s", symbol, note)
    for symbol in symbols:
        _named.pop(symbol, None)
    _named.update(notes)
    return frame


def _record(store: RedisStore, inputs: Inputs, candles: Mapping[str, Candles | None]) -> None:
    """Leave for the recorder what nobody else keeps."""
    if (tape := tape_of(store)) is None:
        return
    tape.note(now=inputs.now)
    tape.take("raw_positions", {one.symbol: snapshot_row(one) for one in inputs.raw})
    tape.take("position_memory", {one.symbol: _memory_row(inputs, one.symbol) for one in inputs.raw})
    tape.take("position_bars", {symbol: {"count": 0 if one is None else len(one.close)} for symbol, one in candles.items()})
    tape.take_candles([Reading.present(symbol, one) for symbol, one in candles.items() if one is not None])


def _memory_row(inputs: Inputs, symbol: str) -> dict[str, str]:
    memory = inputs.memories.get(symbol)
    return {"memory": "" if memory is None else orjson.dumps(memory).decode(), "forgotten": inputs.forgotten.get(symbol, "")}


def _memories(store: RedisStore, symbols: Sequence[str], now: float) -> tuple[dict[str, Memory], dict[str, str]]:
    """Read what the keys showed before, and name the memories that cannot be read: then nobody knows whether sides alternate."""
    keys = [store.keys.of("position_memory", symbol) for symbol in symbols]
    replies = store.run("remembering positions", [("GET", key) for key in keys]) if symbols else []
    memories, forgotten = {}, {}
    for symbol, key, reply in zip(symbols, keys, replies, strict=True):
        if reply is None:
            continue
        try:
            if isinstance(reply, Exception):
                raise reply
            memories[symbol] = memory_of(orjson.loads(reply), now)
        except (ResponseError, ContractError, ValueError, TypeError, KeyError, AttributeError) as error:
            forgotten[symbol] = f"{key} cannot be read: {error}"
    return memories, forgotten


def _remember(store: RedisStore, memories: Mapping[str, Memory]) -> None:
    commands = [
        ("SET", store.keys.of("position_memory", symbol), orjson.dumps(dataclasses.asdict(memory)), "EX", MEMORY_TTL_SEC)
        for symbol, memory in memories.items()
    ]
    for symbol, reply in zip(memories, store.run("remembering positions", commands) if commands else (), strict=True):
        if isinstance(reply, Exception):
            log.warning("%s: what its key showed is not remembered: %s", symbol, reply)


def _let_go(
    store: RedisStore,
    raw: Sequence[Reading[RawPosition | Flat]],
    stored: dict[str, Reading[dict[str, Any]]],
    doubtful: Mapping[str, Tracked],
    now: datetime,
) -> dict[str, str]:
    """Delete the kept state of flat symbols, mark that of symbols nobody shows or that may be open yet; name what was refused."""
    mark = {"held": "0", "computed_at_utc": TIME.encode(now), "last_update_epoch": EPOCH.encode(now.timestamp())}
    flat = {reading.symbol: isinstance(reading.value, Flat) and reading.symbol not in doubtful for reading in raw}
    released = [
        reading.symbol
        for reading in raw
        if (reading.state is State.ABSENT or isinstance(reading.value, Flat))
        and (
            stored[reading.symbol].state is State.PRESENT
            or (flat[reading.symbol] and stored[reading.symbol].state is State.FAILED)
        )
    ]
    if not released:
        return {}
    marks = {symbol: {**mark, **_doubtful_row(doubtful[symbol])} if symbol in doubtful else mark for symbol in released}
    keys = [store.keys.of(POSITION.key, symbol) for symbol in released]
    replies = store.run(
        "letting go of closed positions",
        [
            LET_GO([key], int(flat[symbol]), *(part for pair in marks[symbol].items() for part in pair))
            for symbol, key in zip(released, keys, strict=True)
        ],
    )
    return {
        symbol: f"position_not_let_go: {key}: {reply}"
        for symbol, key, reply in zip(released, keys, replies, strict=True)
        if isinstance(reply, Exception)
    }


def _doubtful_row(state: Tracked) -> dict[str, str]:
    encoded = POSITION.encode({**state.row(), "held": False})
    return {**encoded, "digest": POSITION.digest(encoded)}


def _proposed(store: RedisStore, symbols: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Give the risk proposals as they stand, and why one cannot be read."""
    readings = store.read(RISK_PROPOSAL, symbols)
    rows = {one.symbol: one.value for one in readings if one.value is not None}
    return rows, {one.symbol: one.reason for one in readings if one.state is State.FAILED}


def _behind(cases: Mapping[str, Case], now: float, interval_sec: int) -> dict[str, float]:
    """Give how many candles each symbol has not merged yet; infinite where it has merged none."""
    return {
        symbol: math.inf if case.previous is None else math.ceil((now - case.previous.last_candle_ms / 1000) / interval_sec)
        for symbol, case in cases.items()
    }


def _candles(reader: CandleReader, behind: Mapping[str, float]) -> dict[str, Candles | None]:
    """Read the candles to merge: only the newest ones of symbols that were up to date a moment ago."""
    current = [symbol for symbol, count in behind.items() if count <= NEW_CANDLES_MAX]
    others = [symbol for symbol, count in behind.items() if count > NEW_CANDLES_MAX]
    readings = reader.read(others) if others else []
    if current:
        readings += reader.read(current, window=int(max(max(behind[symbol] for symbol in current), 0)) + SPARE_CANDLES)
    # Synthetic candles have a price level of their own: they can neither confirm nor refute a real mark.
    return {
        reading.symbol: reading.value if reading.value and reading.value.source != "synthetic" else None for reading in readings
    }
