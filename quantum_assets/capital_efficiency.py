"""Asset ``capital_efficiency``: how well each symbol's capital has worked recently, ours or another producer's."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.allocation_target import hint_rows
from quantum_assets.shared.partitions import OWNERS, symbols_of_run
from quantum_assets.shared.rows import assemble, shared_by_legs, without_result
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.tables import EFFICIENCY_STATE
from quantum_core.kernels.capital.efficiency import EfficiencyInputs, EfficiencyState, EfficiencyTheta, efficiency
from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint
from quantum_core.profiles.profile import Profile
from resources.inputs.foreign import (
    WITH_PROFIT,
    WITHOUT_PROFIT,
    Execution,
    Fills,
    Scored,
    fills_counted,
    fills_unreadable,
    keep_fills,
    parse_entry_id,
    read_efficiency,
    read_executions,
    read_scored,
)
from resources.io_manager import cycle_id_of
from resources.recorder.tape import tape_of
from resources.store.profiles import take_profile
from resources.store.publication import publish
from resources.store.redis_store import RedisStore, UnreadableKeyError

VERSION = "p31_v1"
STREAMS = ("stream_execution", "stream_execution_result")
NEVER = (0, 0)  # entry id before the first one
STATE_FIELDS = {  # of the kernel's state, and their names in what is kept
    "volatility_ewma": "volatility_ewma",
    "dd_proxy": "dd_proxy",
    "efficiency_ewma": "efficiency_ewma",
    "last_performance_factor": "last_perf",
    "last_target_usd": "last_target_usd",
}
KEPT = {  # names in what is kept, and of the columns it is taken from
    "volatility_ewma": "volatility_ewma",
    "dd_proxy": "dd_proxy",
    "efficiency_ewma": "efficiency_ewma",
    "last_perf": "p30_perf",
    "last_target_usd": "p29_target_usd",
}


@dg.asset(
    deps=["attribution", "base_targets", "executions"],
    group_name="capital",
    kinds={"numpy", "redis"},
    owners=OWNERS,
    io_manager_key="efficiency_io",
    description=(
        "Capital efficiency. **raw** = pf / (1 + .8 v + 1.2 d + .6 hold), with v and d the smoothed |pnl| and losses per unit of "
        "target; **score** = clip(raw, 0, 1), smoothed by .25. EFFICIENCY_MODE says who writes it: *external* records what "
        "another producer wrote, *shadow* computes to the stream only, *enforce* writes the hash."
    ),
)
def capital_efficiency(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> pl.DataFrame:
    """Record or compute the efficiency of every symbol of the run."""
    take_profile(store, context.run.tags)
    symbols = symbols_of_run(context, store.settings)
    if store.settings.efficiency_mode == "external":
        return shared_by_legs(symbols, partial(recorded_frame, store))
    return shared_by_legs(symbols, partial(computed_frame, store, cycle_id=cycle_id_of(context.run)))


def recorded_frame(store: RedisStore, symbols: Sequence[str]) -> pl.DataFrame:
    """Read what another producer wrote."""
    hint = read_efficiency(store, symbols)
    if (tape := tape_of(store)) is not None:
        tape.note(mode="external")
        tape.take("efficiency_hints", dict(zip(symbols, hint_rows(hint), strict=True)))
    return external_frame(symbols, hint)


def external_frame(symbols: Sequence[str], hint: EfficiencyHint) -> pl.DataFrame:
    """Lay out another producer's efficiencies: one that cannot be used is a failure, a missing one is the producer's matter."""
    states = {"present": State.PRESENT, "missing": State.ABSENT, "unreadable": State.FAILED}
    reasons = {"present": "", "missing": "capital_efficiency_missing", "unreadable": "capital_efficiency_unreadable"}
    return pl.DataFrame(
        {
            "symbol": list(symbols),
            "state": [str(states[state]) for state in hint.state],
            "why": [reasons[state] for state in hint.state],
            "efficiency_score": hint.score,
            "confidence": hint.confidence,
        },
        schema_overrides={"symbol": pl.String},
    )


class Read(NamedTuple):
    """What the efficiency of one symbol is computed from.

    Attributes
    ----------
    now
        Moment of the evaluation, epoch s.
    kept
        Averages and last known inputs, as the evaluation before has left them; ``None`` before the first.
    pnls
        Profit of the fills since then, USD, oldest first.
    last_exec
        When the newest fill was traded, epoch s; ``None`` before the first.
    attribution, target
        Performance factor and base target.
    """

    now: float
    kept: Mapping[str, Any] | None
    pnls: Sequence[float]
    last_exec: float | None
    attribution: Scored
    target: Scored


def computed_frame(store: RedisStore, symbols: Sequence[str], *, cycle_id: str) -> pl.DataFrame:
    """Compute efficiency from attribution, base targets and executions, and keep the averages for the next evaluation.

    A symbol whose kept averages cannot be read is left alone: starting them anew would forget its losses.
    """
    now = store.clock().timestamp()
    stored = store.read(EFFICIENCY_STATE, symbols)
    broken = {reading.symbol: reading.reason for reading in stored if reading.state is State.FAILED}
    broken |= fills_unreadable(store, symbols)  # nor is a symbol whose counted fills are not known: it would count some twice
    usable = [reading for reading in stored if reading.symbol not in broken]
    usable_symbols = [reading.symbol for reading in usable]
    if not usable_symbols:
        return _noted(store, symbols, {}, broken, now)
    folded = [_counted_up_to(reading) for reading in usable]
    try:
        fills = read_executions(store, {name: min(ids[name] for ids in folded) for name in STREAMS})
    except UnreadableKeyError as error:
        return _noted(store, symbols, {}, dict.fromkeys(symbols, str(error)), now).with_columns(executions_why=pl.lit(str(error)))
    news = {symbol: _new_fills(fills, symbol, ids) for symbol, ids in zip(usable_symbols, folded, strict=True)}
    counted = fills_counted(store, {symbol: sorted(_trades(row)) for symbol, row in news.items()})
    executions = [_without_repeats(news[symbol], counted.get(symbol, frozenset())) for symbol in usable_symbols]
    read_to = max(fills[name].read_to for name in STREAMS)
    attribution = read_scored(store, "attribution", "performance_factor", usable_symbols)
    target = read_scored(store, "base_target", "target_usd", usable_symbols)
    read = {
        one.symbol: Read(now, one.value, [fill.pnl_usd for fill in row], _last_execution(one, row), scored, base)
        for one, row, scored, base in zip(usable, executions, attribution, target, strict=True)
    }
    frame = _noted(store, symbols, read, broken, now)
    for ids in folded:  # also of a symbol without fills: it must not hold back the reading for all
        for name in STREAMS:
            ids[name] = max(ids[name], fills[name].read_to)
    by_symbol = {row["symbol"]: row for row in frame.iter_rows(named=True)}
    publish(
        store,
        EFFICIENCY_STATE,
        [
            {
                "symbol": symbol,
                **{kept: by_symbol[symbol][name] for kept, name in KEPT.items()},
                "last_exec_epoch": read[symbol].last_exec,
                "last_event_id": "|".join(f"{ms}-{seq}" for ms, seq in (ids[name] for name in STREAMS)),
            }
            for symbol, ids in zip(usable_symbols, folded, strict=True)
        ],
        cycle_id=cycle_id,
    )
    # Afterwards: lost in between, a trade that is reported again counts twice; before, it would not count at all.
    keep_fills(
        store, {symbol: [one.trade for one in row if one.trade] for symbol, row in zip(usable_symbols, executions, strict=True)}
    )
    return frame.with_columns(
        attribution_status=_by_symbol(frame, {one: row.attribution.status for one, row in read.items()}, pl.String),
        attribution_epoch=_by_symbol(frame, {one: row.attribution.epoch for one, row in read.items()}, pl.Float64),
        attribution_source=_by_symbol(frame, {one: row.attribution.source for one, row in read.items()}, pl.String),
        executions_why=_by_symbol(frame, dict.fromkeys(read, ""), pl.String),
        executions_epoch=_by_symbol(frame, dict.fromkeys(read, None if read_to == NEVER else read_to[0] / 1000), pl.Float64),
        executions_count=_by_symbol(frame, dict.fromkeys(read, sum(map(len, executions))), pl.Int64),
    )


def _by_symbol(frame: pl.DataFrame, values: Mapping[str, Any], dtype: type[pl.DataType]) -> pl.Series:
    return pl.Series([values.get(symbol) for symbol in frame["symbol"]], dtype=dtype)


def _noted(
    store: RedisStore, symbols: Sequence[str], read: Mapping[str, Read], broken: Mapping[str, str], now: float
) -> pl.DataFrame:
    """Compute from what was read, and leave it for the recorder."""
    if (tape := tape_of(store)) is not None:
        fills = {symbol: [one.pnls, one.last_exec] for symbol, one in read.items() if one.pnls}
        tape.note(mode="computed", now=now, broken=dict(broken), fills=fills)
        tape.take("efficiency_state", {symbol: kept_row(one.kept) for symbol, one in read.items()})
        tape.take("attribution", {symbol: one.attribution.row() for symbol, one in read.items()})
        tape.take("base_targets", {symbol: one.target.row() for symbol, one in read.items()})
    return efficiency_frame(symbols, read, broken, store.profile, store.settings.efficiency_mode)


def kept_row(kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """Lay out what an evaluation has left, for the recorder."""
    return {"known": kept is not None, **{name: None if kept is None else kept[name] for name in (*KEPT, "last_exec_epoch")}}


def efficiency_frame(
    symbols: Sequence[str], read: Mapping[str, Read], broken: Mapping[str, str], profile: Profile, mode: str
) -> pl.DataFrame:
    """Compute the efficiencies of all symbols at once. Pure.

    Parameters
    ----------
    symbols
        In the order of the result.
    read
        What each is computed from.
    broken
        Why the others are not.
    profile
        Parameters of the kernel.
    mode
        EFFICIENCY_MODE.
    """
    failed = without_result([(symbol, State.FAILED, why) for symbol, why in broken.items()])
    if not read:
        return assemble(symbols, {"symbol": []}, failed)
    rows = list(read.values())
    idle = [math.nan if row.last_exec is None else row.now - row.last_exec for row in rows]
    result = efficiency(
        EfficiencyInputs(
            attribution_status=np.array([row.attribution.status for row in rows], dtype=object),
            performance_factor=np.array([row.attribution.value for row in rows], dtype=float),
            attribution_confidence=np.array([row.attribution.confidence for row in rows], dtype=float),
            target_status=np.array([row.target.status for row in rows], dtype=object),
            target_usd=np.array([row.target.value for row in rows], dtype=float),
            target_confidence=np.array([row.target.confidence for row in rows], dtype=float),
            seconds_since_last_execution=np.array(idle),
        ),
        [row.pnls for row in rows],
        _previous([row.kept for row in rows]),
        profile.by_row(EfficiencyTheta, list(read)),
    )
    computed: dict[str, Any] = {
        "symbol": list(read),
        "efficiency_score": result.efficiency_score,
        "efficiency_raw": result.efficiency_raw,
        "efficiency_ewma": result.efficiency_ewma,
        "capital_pressure": list(result.capital_pressure),
        "reallocation_weight": result.reallocation_weight,
        "confidence": result.confidence,
        "inputs_ok": result.inputs_ok.astype(bool),
        "stale_flags": result.stale_flags,
        "p30_perf": result.p30_perf,
        "p30_conf": result.p30_conf,
        "p29_target_usd": result.p29_target_usd,
        "volatility_ewma": result.volatility_ewma,
        "dd_proxy": result.dd_proxy,
        "hold_time_penalty": result.hold_time_penalty,
        "ts": [int(row.now) for row in rows],
        "mode": [mode] * len(rows),
        "version": [VERSION] * len(rows),
    }
    return assemble(symbols, computed, failed)


def _counted_up_to(stored: Reading[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    if stored.value is None:
        return dict.fromkeys(STREAMS, NEVER)
    return dict(zip(STREAMS, map(parse_entry_id, stored.value["last_event_id"].split("|")), strict=True))


def _new_fills(fills: Mapping[str, Fills], symbol: str, counted_up_to: Mapping[str, tuple[int, int]]) -> list[Execution]:
    """Give the fills of a symbol that came after some entries, in the order in which they were traded."""
    traded = [
        (execution.entry_id[0] / 1000 if execution.at is None else execution.at, execution.entry_id, name, execution)
        for name in STREAMS
        for execution in fills[name].by_symbol.get(symbol, [])
        if execution.entry_id > counted_up_to[name]
    ]
    return [execution for *_, execution in sorted(traded, key=lambda entry: entry[:3])]


def _without_repeats(news: Sequence[Execution], counted: frozenset[str]) -> list[Execution]:
    """Leave out second reports of a trade; one without profit is none where the profit was counted."""
    reported = set(counted)
    trades = {fill.trade for fill in news} | reported
    executions = []
    for fill in news:
        superseded = fill.trade.startswith(WITHOUT_PROFIT) and WITH_PROFIT + fill.trade[1:] in trades
        if not fill.trade or not (superseded or fill.trade in reported):
            executions.append(fill)
            reported.add(fill.trade)
    return executions


def _trades(news: Sequence[Execution]) -> set[str]:
    """Name the trades of some fills as they may have been counted before: with profit, or as they are."""
    return {name for one in news if one.trade for name in (one.trade, WITH_PROFIT + one.trade[1:])}


def _last_execution(kept: Reading[dict[str, Any]], executions: Sequence[Execution]) -> float | None:
    before = kept.value["last_exec_epoch"] if kept.value is not None else None
    return max((at for at in (before, *(one.at for one in executions)) if at is not None), default=None)


def _previous(kept: Sequence[Mapping[str, Any] | None]) -> EfficiencyState:
    initial = EfficiencyState.initial(len(kept))
    return EfficiencyState(
        **{
            column: np.array([getattr(initial, column)[row] if one is None else one[name] for row, one in enumerate(kept)])
            for column, name in STATE_FIELDS.items()
        }
    )
