"""Asset ``allocation_target``: the base target of each symbol scaled by its efficiency. Always shadow."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from quantum_assets.shared.partitions import OWNERS, symbols_of_run
from quantum_assets.shared.rows import assemble, none_for_nan, shared_by_legs, without_result
from quantum_core.contracts.reading import State
from quantum_core.kernels.capital.allocation import AllocationTheta, allocation
from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint
from quantum_core.profiles.profile import Profile
from resources.inputs.foreign import Scored, read_efficiency, read_scored
from resources.recorder.tape import tape_of
from resources.store.profiles import take_profile
from resources.store.redis_store import RedisStore


@dg.asset(
    deps=["base_targets", "capital_efficiency"],
    group_name="capital",
    kinds={"numpy", "redis"},
    owners=OWNERS,
    io_manager_key="redis_io",
    description=(
        "Base target x **multiplier**, multiplier = clip(1 + (score - .5), .5, 1.5); 1.0 when the efficiency "
        "is missing, stale, not confident or unreadable, and the reason says which. Always a shadow: the live target key is "
        "read-only for this product."
    ),
)
def allocation_target(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> pl.DataFrame:
    """Propose a target for every symbol of the run."""
    profile, now = take_profile(store, context.run.tags), store.clock().timestamp()

    def proposed(symbols: Sequence[str]) -> pl.DataFrame:
        targets, hint = read_scored(store, "base_target", "target_usd", symbols), read_efficiency(store, symbols)
        if (tape := tape_of(store)) is not None:
            tape.note(now=now)
            tape.take("base_targets", dict(zip(symbols, (one.row() for one in targets), strict=True)))
            tape.take("efficiency_hints", dict(zip(symbols, hint_rows(hint), strict=True)))
        return allocation_frame(symbols, hint, targets, [now] * len(symbols), profile)

    return shared_by_legs(symbols_of_run(context, store.settings), proposed)


def hint_rows(hint: EfficiencyHint) -> list[dict[str, Any]]:
    """Lay efficiencies out, a row each, for the recorder."""
    columns = {one.name: getattr(hint, one.name).tolist() for one in fields(hint)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def allocation_frame(
    symbols: Sequence[str], hint: EfficiencyHint, targets: Sequence[Scored], moments: Sequence[float], profile: Profile
) -> pl.DataFrame:
    """Compute the proposals of all symbols at once.

    Parameters
    ----------
    symbols
        Rows of everything that follows.
    hint
        Efficiency per symbol.
    targets
        Base target per symbol; one that is missing or unreadable fails the symbol by name.
    moments
        Epoch seconds of the evaluation of each of them.
    profile
        Parameters of the kernel.
    """
    readable = np.array([target.status in ("ok", "stale") for target in targets], dtype=bool)
    base = np.array([target.value for target in targets], dtype=float)[readable]
    with_target = [symbol for symbol, has in zip(symbols, readable, strict=True) if has]
    now = np.array(moments, dtype=float)[readable]
    epochs = now.astype(np.int64)
    result = allocation(hint.take(readable), base, now, profile.by_row(AllocationTheta, with_target))
    used = [target for target, has in zip(targets, readable, strict=True) if has]
    computed = {
        "symbol": with_target,
        "ts_epoch": epochs,
        "base_target": base,
        "proposed_target": result.proposed_target,
        "base_target_shortest": [repr(float(value)) for value in base],
        "proposed_target_shortest": [repr(float(value)) for value in result.proposed_target],
        "multiplier": result.multiplier,
        "eff_score": none_for_nan(result.eff_score),
        "eff_confidence": none_for_nan(result.eff_confidence),
        "eff_stale": result.eff_stale,
        "reason": list(result.reason),
        "mode": ["shadow"] * len(with_target),
        "last_update_ts_epoch": epochs,
        "base_target_epoch": [target.epoch for target in used],
        "base_target_source": [target.source or None for target in used],
    }
    missing, unreadable = (State.ABSENT, "base_target_missing"), (State.FAILED, "base_target_unreadable")
    without_target = without_result(
        [
            (symbol, *(missing if target.status == "missing" else unreadable))
            for symbol, target, has in zip(symbols, targets, readable, strict=True)
            if not has
        ]
    )
    return assemble(symbols, computed, without_target)
