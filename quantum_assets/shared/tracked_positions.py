"""From snapshots of positions to the state that is kept of each: what a snapshot continues, and what becomes of it. Pure.

What is read, deleted and remembered is in ``quantum_assets.position``.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from quantum_assets.shared.rows import assemble, without_result
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.tables import POSITION
from quantum_core.display import clock_text, price_text
from quantum_core.kernels.columns import Floats
from quantum_core.kernels.governor.gates import COLLARED, CONFLICT, INCONSISTENT
from quantum_core.kernels.governor.limits import GovernorLimits
from quantum_core.kernels.position.consistency import contradictions, in_other_units, newest_close
from quantum_core.kernels.position.identity import EMPTY_SEC, RETURN_SEC, Memory, empty, left, leftovers, recognized
from quantum_core.kernels.position.tracking import FIELDS, Bars, Tracked, TrackingTheta, implausible, track
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings
from resources.inputs.position_snapshots import Flat, RawPosition, profit_of

AHEAD_SEC_MAX = 60.0  # clocks differ; a snapshot further ahead would be fresh for ever
UNCHANGED = "position_unchanged"  # a writer without a clock may be dead
SYNTHETIC = "synthetic"  # such positions exist in no market
TROUBLE_SEPARATOR = " | "

log = logging.getLogger("quantum.position")


class Inputs(NamedTuple):
    """What one evaluation has read.

    Attributes
    ----------
    now
        The moment all of it is judged at, epoch s.
    raw
        Snapshots, in the order of the symbols.
    stored
        The tracked row of each symbol as it stands.
    memories, forgotten
        What the keys showed before, and why a memory cannot be read.
    proposed, unread
        Risk proposals as they stand, and why one cannot be read.
    """

    now: float
    raw: Sequence[Reading[RawPosition | Flat]]
    stored: Mapping[str, Reading[dict[str, Any]]]
    memories: Mapping[str, Memory]
    forgotten: Mapping[str, str]
    proposed: Mapping[str, dict[str, Any]]
    unread: Mapping[str, str]


class Shown(NamedTuple):
    """What the snapshots show.

    Attributes
    ----------
    cases
        Open positions that can be tracked.
    recalled
        What their keys are remembered to have shown, by symbol.
    doubtful
        No position is shown, but the state is kept yet.
    failed
        Why a snapshot must not be tracked.
    """

    cases: "dict[str, Case]"
    recalled: dict[str, Memory]
    doubtful: dict[str, Tracked]
    failed: dict[str, str]


def judge_snapshots(inputs: Inputs, settings: Settings) -> Shown:
    """Find what each snapshot shows, and what it continues. Pure."""
    now, shown = inputs.now, Shown({}, {}, {}, {})
    for reading in inputs.raw:
        symbol, kept = reading.symbol, inputs.stored[reading.symbol]
        state = None if kept.value is None else Tracked.from_row(kept.value)
        memory, proposal = inputs.memories.get(symbol, Memory()), inputs.proposed.get(symbol)
        if isinstance(reading.value, Flat):
            shown.recalled[symbol], doubt = _judge_flat(reading.value, state, memory, proposal, now)
            if doubt is not None:
                shown.doubtful[symbol] = doubt
        elif reading.value is not None:
            position, leftover = _own_fields(reading.value, state, memory)
            reason = kept.reason if kept.state is State.FAILED else ""
            reason = reason or _unfit(position, kept.value, now, settings.position_max_age_sec)
            if state is not None and state.side == position.side:
                reason = reason or inputs.unread.get(symbol, "")
            if reason:
                shown.failed[symbol] = reason
                continue
            shown.cases[symbol] = _case(position, leftover, state, memory, proposal, now)
            shown.recalled[symbol] = shown.cases[symbol].memory
    return shown


class Moved(NamedTuple):
    """What one evaluation has made of the positions: the open ones, with what is said of them; and why others have no state."""

    tracked: dict[str, tuple[Tracked, str]]
    untracked: list[tuple[str, State, str]]


def move_on(
    inputs: Inputs,
    shown: Shown,
    candles: Mapping[str, Bars | None],
    settings: Settings,
    profile: Profile,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> Moved:
    """Move every open position on. Pure.

    Parameters
    ----------
    inputs, shown
        What was read, and what it shows.
    candles
        Candles to merge, by symbol of an open position; ``None`` where there are none.
    settings, profile
        Contracts, limits and parameters.
    refused
        Why the state of a closed position could not be deleted.
    """
    tracked = {
        symbol: _judged(case, candles[symbol], settings, profile, inputs.forgotten.get(symbol, ""), inputs.now)
        for symbol, case in shown.cases.items()
    }
    failed = {**shown.failed, **refused}
    untracked = [_why_untracked(one, failed.get(one.symbol, "")) for one in inputs.raw if one.symbol not in shown.cases]
    return Moved(tracked, untracked)


def tracked_frame(symbols: Sequence[str], moved: Moved) -> tuple[pl.DataFrame, dict[str, str]]:
    """Lay out what became of every position.

    Parameters
    ----------
    symbols
        In the order of the result.
    moved
        See :func:`move_on`.

    Returns
    -------
    frame, notes
        See :func:`position_frame`, and what is said of single symbols.
    """
    columns = _columns({symbol: state for symbol, (state, _) in moved.tracked.items()})
    frame = assemble(symbols, columns, without_result(moved.untracked))
    notes = {symbol: note for symbol, (_, note) in moved.tracked.items() if note}
    if notes:
        frame = frame.with_columns(why=pl.col("symbol").replace_strict(notes, default=pl.col("why"), return_dtype=pl.String))
    return frame, notes


def _why_untracked(reading: Reading[RawPosition | Flat], reason: str) -> tuple[str, State, str]:
    """Say why a symbol has no position to track."""
    if reason:
        return reading.symbol, State.FAILED, reason
    return (
        (reading.symbol, State.ABSENT, "flat")
        if isinstance(reading.value, Flat)
        else (reading.symbol, reading.state, reading.reason)
    )


def _judge_flat(
    flat: Flat, state: Tracked | None, memory: Memory, proposal: dict[str, Any] | None, now: float
) -> tuple[Memory, Tracked | None]:
    """Remember what a flat snapshot ends; give the state that must be kept yet because it may not be closed."""
    memory, waits = empty(memory, state, flat.side, flat.carried, now)
    if state is None:
        return memory, None
    if waits:
        return memory, _in_doubt(flat.symbol, state, memory, now)
    stop = _stop_of(proposal, state.side, state.tracked_since_epoch or state.opened_at_epoch)
    return left(memory, state, stop, now), None


class Case(NamedTuple):
    """One open position on its way: as its writer gives it, and what is known of it."""

    position: RawPosition
    previous: Tracked | None
    memory: Memory
    leftover: dict[str, str]
    last_stop: float | None


def _case(
    position: RawPosition,
    leftover: dict[str, str],
    state: Tracked | None,
    memory: Memory,
    proposal: dict[str, Any] | None,
    now: float,
) -> Case:
    """Find what a position continues, and the stop last proposed for it.

    A proposal counts for the position it was made for: same side, and published since that one is tracked (or was opened).
    """
    memory, previous = recognized(memory, state, position.side, position.entry_price, now)
    if state is not None and state.side != position.side:
        memory = left(memory, state, _stop_of(proposal, state.side, state.tracked_since_epoch or state.opened_at_epoch), now)
    if position.ts_epoch is None:
        values = (position.side, position.contracts, position.entry_price, position.current_price, position.unrealized_pnl)
        digest = hashlib.blake2s(repr(values).encode(), digest_size=8).hexdigest()
        if digest != memory.digest:
            memory = dataclasses.replace(memory, digest=digest, unchanged_since=now)
    if previous is not None:
        since = previous.tracked_since_epoch or previous.opened_at_epoch
    else:
        since = now if position.opened_at_epoch is None or state is not None else position.opened_at_epoch
    return Case(position, previous, memory, leftover, _stop_of(proposal, position.side, since))


def _own_fields(position: RawPosition, state: Tracked | None, memory: Memory) -> tuple[RawPosition, dict[str, str]]:
    """Take out of a snapshot what it still says of the side before: fields that have not changed since the side has."""
    fields_before: Mapping[str, str] = memory.carried
    if state is not None:
        fields_before = _texts(state.leftover if state.side == position.side else state.carried)
    if not fields_before:
        return position, {}
    leftover = leftovers(position.carried, fields_before)
    return (position.without(leftover) if leftover else position), leftover


def _texts(stored: str) -> dict[str, str]:
    try:
        texts = orjson.loads(stored) if stored else {}
    except orjson.JSONDecodeError:  # then nothing is known to be left over
        return {}
    return {str(name): str(text) for name, text in texts.items()} if isinstance(texts, dict) else {}


def _stop_of(proposal: dict[str, Any] | None, side: str, since: float) -> float | None:
    if proposal is None or proposal["position_side"] != side or proposal["published_at_utc"].timestamp() < since:
        return None
    return float(proposal["proposed_sl"])


def _judged(
    case: Case, candles: Bars | None, settings: Settings, profile: Profile, forgotten: str, now: float
) -> tuple[Tracked, str]:
    """Move one position on, and say what was ignored of its snapshot and why nothing is opened on it."""
    position, memory, symbol = case.position, case.memory, case.position.symbol
    theta = profile.theta(TrackingTheta, symbol)
    max_age_sec = profile.theta(GovernorLimits, symbol).max_data_age_sec
    bars: Bars | None = candles if position.position_source != SYNTHETIC else None
    if bars is not None and (scale := settings.candle_scale_of(symbol)) != 1:
        bars = _Scaled(bars.open_time_ms, bars.high * scale, bars.low * scale, bars.close * scale)
    expected = profit_of(position.side, position.entry_price, position.current_price, position.qty)
    wrong = contradictions(position, expected, settings.contract_of(symbol), bars, theta.collar_pct)
    if bars is not None and "mark" in wrong and in_other_units(position, newest_close(bars)):
        bars = None  # a stop in the position's own prices is better than none, or than one in others
    if "profit" in wrong:  # R is reckoned with prices, which say the same of any size
        position = dataclasses.replace(position, unrealized_pnl=expected)
    state = track(case.previous, position, bars, last_proposed_sl=case.last_stop, now=now, theta=theta)
    trouble = _trouble(position, state, memory, [*wrong.values(), *filter(None, [forgotten])], max_age_sec, now)
    state = dataclasses.replace(
        state,
        contracts=position.contracts,
        carried=orjson.dumps(position.carried).decode() if position.carried else "",
        leftover=orjson.dumps(case.leftover).decode() if case.leftover else "",
        conflict_until_epoch=memory.conflict_until,
        inconsistent=bool(wrong or forgotten),
        trouble=trouble,
    )
    ignored = {
        "stop_ignored": implausible(position, state.current_price, theta.collar_pct),
        "fields_ignored": position.ignored,
        "left_by_the_side_before": [f"{name}={text}" for name, text in case.leftover.items()],
    }
    return state, "; ".join(
        (*(f"{name}: {' '.join(one)}" for name, one in ignored.items() if one), *filter(None, [state.trouble]))
    )


def _trouble(position: RawPosition, state: Tracked, memory: Memory, wrong: Sequence[str], max_age_sec: float, now: float) -> str:
    """Say why nothing is opened on a position."""
    reasons = []
    if now < memory.conflict_until:
        until = clock_text(memory.conflict_until)
        reasons.append(f"{CONFLICT}: LONG and SHORT, or an empty row, in turn under one key until {until}")
    if state.collared_price is not None:
        held, accepted, mark = map(price_text, (state.collared_price, state.current_price, position.current_price))
        reasons.append(f"{COLLARED}: {held} waits for the next candle since {accepted}, mark {mark}")
    if wrong:
        reasons.append(f"{INCONSISTENT}: {'; '.join(wrong)}")
    if position.ts_epoch is None and now - memory.unchanged_since > max_age_sec:
        reasons.append(f"{UNCHANGED}: no clock, and nothing has changed for {now - memory.unchanged_since:.0f} s")
    return TROUBLE_SEPARATOR.join(reasons)


class _Scaled(NamedTuple):
    """Candles in the prices of the position."""

    open_time_ms: npt.NDArray[np.int64]
    high: Floats
    low: Floats
    close: Floats


def _in_doubt(symbol: str, state: Tracked, memory: Memory, now: float) -> Tracked:
    """Give the state of a position that may not be closed: the key says so of the other side, or is in conflict."""
    until = max(memory.conflict_until, memory.since + EMPTY_SEC)
    conflict = now < memory.conflict_until
    text = f"{CONFLICT}: {state.side} and an empty row in turn under one key until {clock_text(until)}"
    if conflict and text != state.trouble:
        log.warning("%s: %s", symbol, text)
    return dataclasses.replace(state, conflict_until_epoch=until, trouble=text if conflict else "")


def memory_of(stored: dict[str, Any], now: float) -> Memory:
    """Build a memory from JSON; what is no number where one is due raises, and sides left long ago are dropped."""
    kept = {side: row for side, row in stored["kept"].items() if now - float(row["left_at"]) <= RETURN_SEC}
    for row in kept.values():
        POSITION.encode({**row, "held": False})
    return Memory(
        label=str(stored["label"]),
        since=float(stored["since"]),
        carried={str(name): str(text) for name, text in stored["carried"].items()},
        kept=kept,
        returns=tuple(map(float, stored["returns"])),
        conflict_until=float(stored["conflict_until"]),
        digest=str(stored["digest"]),
        unchanged_since=float(stored["unchanged_since"]),
    )


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


def _columns(tracked: dict[str, Tracked]) -> dict[str, Any]:
    columns: dict[str, Any] = {"symbol": pl.Series(list(tracked), dtype=pl.String), "held": [True] * len(tracked)}
    for name in FIELDS:
        dtype = POSITION.by_name[name].codec.dtype
        columns[name] = pl.Series([getattr(one, name) for one in tracked.values()], dtype=dtype)
    return columns
