"""Asset ``capital_efficiency``: how well each symbol's capital has worked recently, ours or another producer's."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.shared.partitions import OWNERS, symbols_of_run
from quantum_assets.shared.rows import assemble, shared_by_legs, without_result
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.tables import EFFICIENCY_STATE
from quantum_core.kernels.capital.efficiency import EfficiencyInputs, EfficiencyState, EfficiencyTheta, efficiency
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
from resources.store.profiles import take_profile
from resources.store.publication import publish
from resources.store.redis_store import RedisStore, UnreadableKeyError

VERSION = "p31_v1"
STREAMS = ("stream_execution", "stream_execution_result")
NEVER = (0, 0)  # entry id before the first one


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
    """Read what another producer wrote; a hash that cannot be used is a failure, a missing one is the producer's matter."""
    hint = read_efficiency(store, symbols)
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


def computed_frame(store: RedisStore, symbols: Sequence[str], *, cycle_id: str) -> pl.DataFrame:
    """Compute efficiency from attribution, base targets and executions, and keep the averages for the next evaluation.

    A symbol whose kept averages cannot be read is left alone: starting them anew would forget its losses.
    """
    now = store.clock().timestamp()
    stored = store.read(EFFICIENCY_STATE, symbols)
    broken = {reading.symbol: reading.reason for reading in stored if reading.state is State.FAILED}
    broken |= fills_unreadable(store, symbols)  # nor is a symbol whose counted fills are not known: it would count some twice
    usable = [reading for reading in stored if reading.symbol not in broken]
    unusable = without_result([(symbol, State.FAILED, why) for symbol, why in broken.items()])
    usable_symbols = [reading.symbol for reading in usable]
    if not usable_symbols:
        return assemble(symbols, {"symbol": []}, unusable)
    folded = [_counted_up_to(reading) for reading in usable]
    try:
        fills = read_executions(store, {name: min(ids[name] for ids in folded) for name in STREAMS})
    except UnreadableKeyError as error:
        failed = without_result([(symbol, State.FAILED, str(error)) for symbol in symbols])
        return assemble(symbols, {"symbol": []}, failed).with_columns(executions_why=pl.lit(str(error)))
    news = {symbol: _new_fills(fills, symbol, ids) for symbol, ids in zip(usable_symbols, folded, strict=True)}
    counted = fills_counted(store, {symbol: sorted(_trades(row)) for symbol, row in news.items()})
    executions = [_without_repeats(news[symbol], counted.get(symbol, frozenset())) for symbol in usable_symbols]
    last_exec = [_last_execution(reading, row) for reading, row in zip(usable, executions, strict=True)]
    read_to = max(fills[name].read_to for name in STREAMS)
    attribution = read_scored(store, "attribution", "performance_factor", usable_symbols)
    target = read_scored(store, "base_target", "target_usd", usable_symbols)
    result = efficiency(
        EfficiencyInputs(
            attribution_status=_column(attribution, "status", object),
            performance_factor=_column(attribution, "value"),
            attribution_confidence=_column(attribution, "confidence"),
            target_status=_column(target, "status", object),
            target_usd=_column(target, "value"),
            target_confidence=_column(target, "confidence"),
            seconds_since_last_execution=np.array([now - moment if moment is not None else np.nan for moment in last_exec]),
        ),
        [[execution.pnl_usd for execution in row] for row in executions],
        _previous(usable),
        store.profile.by_row(EfficiencyTheta, usable_symbols),
    )
    next_state = result.next_state
    for ids in folded:  # also of a symbol without fills: it must not hold back the reading for all
        for name in STREAMS:
            ids[name] = max(ids[name], fills[name].read_to)
    publish(
        store,
        EFFICIENCY_STATE,
        [
            {
                "symbol": symbol,
                "volatility_ewma": next_state.volatility_ewma[row],
                "dd_proxy": next_state.dd_proxy[row],
                "efficiency_ewma": next_state.efficiency_ewma[row],
                "last_perf": next_state.last_performance_factor[row],
                "last_target_usd": next_state.last_target_usd[row],
                "last_exec_epoch": last_exec[row],
                "last_event_id": "|".join(f"{ms}-{seq}" for ms, seq in (folded[row][name] for name in STREAMS)),
            }
            for row, symbol in enumerate(usable_symbols)
        ],
        cycle_id=cycle_id,
    )
    # Afterwards: lost in between, a trade that is reported again counts twice; before, it would not count at all.
    keep_fills(
        store, {symbol: [one.trade for one in row if one.trade] for symbol, row in zip(usable_symbols, executions, strict=True)}
    )
    computed: dict[str, Any] = {
        "symbol": usable_symbols,
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
        "ts": [int(now)] * len(usable_symbols),
        "mode": [store.settings.efficiency_mode] * len(usable_symbols),
        "version": [VERSION] * len(usable_symbols),
        "attribution_status": [one.status for one in attribution],
        "attribution_epoch": pl.Series([one.epoch for one in attribution], dtype=pl.Float64),
        "attribution_source": [one.source for one in attribution],
        "executions_why": [""] * len(usable_symbols),
        "executions_epoch": pl.Series([None if read_to == NEVER else read_to[0] / 1000] * len(usable_symbols), dtype=pl.Float64),
        "executions_count": [sum(map(len, executions))] * len(usable_symbols),
    }
    return assemble(symbols, computed, unusable)


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


def _previous(kept: Sequence[Reading[dict[str, Any]]]) -> EfficiencyState:
    initial = EfficiencyState.initial(len(kept))
    names = {
        "volatility_ewma": "volatility_ewma",
        "dd_proxy": "dd_proxy",
        "efficiency_ewma": "efficiency_ewma",
        "last_performance_factor": "last_perf",
        "last_target_usd": "last_target_usd",
    }
    return EfficiencyState(
        **{
            column: np.array(
                [
                    reading.value[field] if reading.value is not None else getattr(initial, column)[row]
                    for row, reading in enumerate(kept)
                ]
            )
            for column, field in names.items()
        }
    )


def _column(scored: Sequence[Scored], name: str, dtype: type = float) -> Any:
    return np.array([getattr(one, name) for one in scored], dtype=dtype)
