"""What the trades of a backtest say: one row per trade, and the figures of a profile beside its nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

from quantum_core.kernels.columns import REGIMES, Bools
from quantum_lab.candles import CandleHistory
from quantum_lab.entries import Chosen
from quantum_lab.execution import ACTIONS, JUMP, REASONS, STOP, Executed
from quantum_lab.intervals import block_sec_of, bootstrap_interval, holm, mean_interval
from quantum_lab.nulls import Null
from quantum_lab.policies import Seen

AFTER_STOP_CANDLES = 60  # within which a new extreme says that a stop was hit too early
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NULL = "R_"  # prefix of the columns that hold what a null made, in R of the profile
HELD = "held_"  # prefix of the columns that say for how many candles a null held
UTC_MS = pl.Datetime("ms", "UTC")


def trades_frame(history: CandleHistory, chosen: Chosen, executed: Executed, nulls: Mapping[str, Null]) -> pl.DataFrame:
    """Lay out what became of each position, one row per trade in the order of entry.

    ``R`` is the profit after costs in units of the first stop's distance from the price paid; a null's is in the same unit. An
    exit has the time at which its candle closed. ``new_extreme`` is null where the trade was not stopped, or too late to say.
    """
    entries = chosen.entries
    d, interval_ms = entries.direction, round(1000 * history.interval_sec)
    risk = d * (entries.paid - executed.first_stop)
    first, last = entries.candle, executed.exit_candle
    return pl.DataFrame(
        {
            "symbol": [history.symbol] * len(entries),
            "side": np.where(entries.is_long, "LONG", "SHORT"),
            "entry_time": pl.Series(entries.opened_at_ms, dtype=pl.Int64).cast(UTC_MS),
            "entry_price": entries.paid,
            "exit_time": pl.Series(history.open_time_ms[last] + interval_ms, dtype=pl.Int64).cast(UTC_MS),
            "exit_price": executed.exit_price,
            "reason": pl.Series(np.array(REASONS, dtype=object)[executed.reason].tolist(), dtype=pl.String),
            "R": executed.pnl / risk,
            "pnl": executed.pnl * entries.qty,
            "pnl_pct": executed.pnl / entries.paid,
            "costs_R": executed.costs / risk,
            "mae_R": executed.mae / risk,
            "mfe_R": executed.mfe / risk,
            "held_candles": last - first + 1,
            "held_sec": np.maximum(history.open_time_ms[last] + interval_ms - entries.opened_at_ms, 0) / 1000,
            "partials": executed.partials,
            "both_hit": executed.both_hit,
            "gapped": executed.gapped,
            "first_stop": executed.first_stop,
            "risk": risk,
            "new_extreme": _new_extremes(history, entries.is_long, executed),
            **{f"{NULL}{name}": pl.Series(one.profit / risk, dtype=pl.Float64).fill_nan(None) for name, one in nulls.items()},
            **{f"{HELD}{name}": one.held for name, one in nulls.items()},
        }
    )


def _new_extremes(history: CandleHistory, is_long: Bools, executed: Executed) -> pl.Series:
    """Say of stopped trades whether their best price was exceeded within the next candles."""
    last, count = executed.exit_candle, AFTER_STOP_CANDLES
    changes = np.cumsum(history.jumps)  # behind a change of unit no price says anything of those before
    known = (executed.reason == STOP) & (last + count < len(history))
    known &= changes[np.minimum(last + count, len(history) - 1)] == changes[last]
    after = np.zeros(len(last), dtype=np.bool_)
    if known.any():
        rows = last[known] + 1
        highest = sliding_window_view(history.high, count)[rows].max(axis=1)
        lowest = sliding_window_view(history.low, count)[rows].min(axis=1)
        best = executed.best[known]
        after[known] = np.where(is_long[known], highest > best, lowest < best)
    return pl.Series(after).set(pl.Series(~known), None)


def summary_of(trades: pl.DataFrame, seen: Seen, nulls: Sequence[str], *, interval_sec: float, seed: int) -> dict[str, Any]:
    """Compute the figures of one profile.

    Parameters
    ----------
    trades
        As of :func:`trades_frame`, of all symbols.
    seen
        What was counted while they were held.
    nulls
        Names of the nulls.
    interval_sec
        Length of a candle, s.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        Plain numbers for JSON; None where a figure does not exist. Trades over which the unit of a price changed are counted and
        left out of all else. Intervals are those of :mod:`quantum_lab.intervals` at 95 %; ``p_holm`` is adjusted for the nulls of
        this profile.
    """
    counted = trades.filter(pl.col("reason") != REASONS[JUMP])
    found: dict[str, Any] = {"trades": len(counted), "unit_jump": len(trades) - len(counted)}
    if not len(counted):
        return found
    r = counted["R"].to_numpy()
    at_ms = counted["entry_time"].dt.epoch("ms").to_numpy()
    block_sec = block_sec_of(float(counted["held_sec"].to_numpy().max()))
    gains, losses = float(r[r > 0].sum()), float(-r[r < 0].sum())
    stopped = counted.filter(pl.col("reason") == REASONS[STOP])
    judged = stopped["new_extreme"].drop_nulls()
    proposed = seen.closes - seen.without_state
    found |= {
        "expectancy_R": {
            **mean_interval(r, at_ms, block_sec).body(),
            "bootstrap": bootstrap_interval(r, at_ms, block_sec, seed=seed),
        },
        "before_costs_R": float((r + counted["costs_R"].to_numpy()).mean()),
        "total_R": float(r.sum()),
        "win_rate": float((r > 0).mean()),
        "profit_factor": gains / losses if losses else None,
        "max_drawdown_R": max_drawdown(counted),
        "quantiles_R": dict(zip(map(str, QUANTILES), np.quantile(r, QUANTILES).tolist(), strict=True)),
        "median_mae_R": _median(counted["mae_R"]),
        "median_mfe_R": _median(counted["mfe_R"]),
        "median_held_candles": _median(counted["held_candles"]),
        "median_risk_pct": _median(counted["risk"] / counted["entry_price"]),
        "reasons": {name: int((counted["reason"] == name).sum()) for name in REASONS if name != REASONS[JUMP]},
        "stop_out_rate": len(stopped) / len(counted),
        "stopped_then_new_extreme": float(judged.to_numpy().mean()) if len(judged) else None,
        "stop_and_target_in_one_candle": int(counted["both_hit"].sum()),
        "gapped_through_stop": int(counted["gapped"].sum()),
        "partials": int(counted["partials"].sum()),
        "closes": seen.closes,
        "closes_without_state": seen.without_state,
        "at_stop_floor": _share(seen.at_stop_floor, proposed),
        "at_target_floor": _share(seen.at_target_floor, proposed),
        "actions": {name: _share(seen.actions[name], proposed) for name in ACTIONS},
        "regimes": {name: _share(seen.regimes[name], proposed) for name in REGIMES},
        "nulls": _against(counted, nulls, interval_sec),
    }
    return found


def _against(trades: pl.DataFrame, nulls: Sequence[str], interval_sec: float) -> dict[str, dict[str, Any]]:
    """Judge the differences to the nulls, trade by trade."""
    found: dict[str, dict[str, Any]] = {}
    for name in nulls:
        pairs = trades.drop_nulls(f"{NULL}{name}")
        if not len(pairs):
            continue
        theirs = pairs[f"{NULL}{name}"].to_numpy()
        at_ms = pairs["entry_time"].dt.epoch("ms").to_numpy()
        longest = max(float(pairs["held_sec"].to_numpy().max()), interval_sec * int(pairs[f"{HELD}{name}"].to_numpy().max()))
        difference = mean_interval(pairs["R"].to_numpy() - theirs, at_ms, block_sec_of(longest))
        found[name] = {"pairs": len(pairs), "mean_R": float(theirs.mean()), "difference_R": difference.body()}
    p_values = {name: one["difference_R"]["p_value"] for name, one in found.items()}
    adjusted = holm({name: p_value for name, p_value in p_values.items() if p_value is not None})
    return {name: {**one, "p_holm": adjusted.get(name)} for name, one in found.items()}


def max_drawdown(trades: pl.DataFrame) -> float:
    """Give the largest fall of the sum of R from a peak, in the order of exits; >= 0."""
    equity = np.concatenate([[0.0], np.cumsum(trades.sort("exit_time", maintain_order=True)["R"].to_numpy())])
    return float((np.maximum.accumulate(equity) - equity).max())


def _median(column: pl.Series) -> float:
    return float(np.median(column.to_numpy()))


def _share(count: int, of: int) -> float | None:
    return count / of if of else None
