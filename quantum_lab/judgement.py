"""What a profile is worth on candles it was not made from: coverage, shares, and its trades beside nulls, with a plain verdict.

Here belong the figures a profile carries as its evidence. The statistics have modules of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from quantum_core.display import number_of
from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.profiles.profile import Profile
from quantum_lab.backtest import Backtest, Plan, backtest
from quantum_lab.bands import band_multiples
from quantum_lab.calibration import CalibrationError
from quantum_lab.candles import COLUMNS, CandleHistory
from quantum_lab.coverage import coverage
from quantum_lab.entries import EntryRule
from quantum_lab.shares import shares
from quantum_lab.states import Progress, States, states_of
from quantum_lab.volatility import ahead

LEVELS = {"5pct": 0.05, "1pct": 0.01}
FIGURES = 4  # significant digits of a figure that is carried
SURE = 0.05  # p-value, adjusted for the number of nulls, below which a difference is one


def cut(histories: Sequence[CandleHistory], held_out: float) -> tuple[list[CandleHistory], list[CandleHistory]]:
    """Split each history in time: what a profile is made from, and the last part it is judged on.

    The part that is judged has its own windows: no state of it has seen a candle of the other.
    """
    edges = [round(len(history) * (1 - held_out)) for history in histories]
    return (
        [history.slice(0, edge) for history, edge in zip(histories, edges, strict=True)],
        [history.slice(edge, len(history)) for history, edge in zip(histories, edges, strict=True)],
    )


def refuse_seen(first: Sequence[CandleHistory], last: Sequence[CandleHistory]) -> None:
    """Refuse to judge by candles a profile is made from.

    Raises
    ------
    CalibrationError
        A symbol has candles of one time in both.
    """
    for judged in last:
        seen = [history.open_time_ms for history in first if history.symbol == judged.symbol]
        shared = np.intersect1d(np.concatenate([*seen, np.empty(0, dtype=np.int64)]), judged.open_time_ms)
        if len(shared):
            message = (
                f"{len(shared)} candles of {judged.symbol} to judge by, from {_text(shared[0])} on, are among those the profile "
                "would be made from: judge it by others"
            )
            raise CalibrationError(message)


def made_from(histories: Sequence[CandleHistory]) -> dict[str, dict[str, Any]]:
    """Name the candles by symbol: hash, first and last opening time, number."""
    return {
        history.symbol: {
            "sha256": _sha256(history),
            "first": _moment(history, 0),
            "last": _moment(history, -1),
            "candles": len(history),
        }
        for history in histories
    }


def coverage_of(history: CandleHistory, states: States, theta: MarketStateTheta, horizon: int) -> dict[str, float]:
    """Give the shares of moves beyond the bands of a profile: one candle ahead, and over the horizon.

    Returns
    -------
    dict
        ``one_step_5pct`` and so on, shares of all candles with a state; NaN where there is none.
    """
    found = {}
    for name, level in LEVELS.items():
        for window, steps in (("one_step", 1), ("horizon", horizon)):
            limits = band_multiples(history.close, theta, level, steps) * states.sigma * np.sqrt(steps)
            found[f"{window}_{name}"] = coverage(ahead(history.returns, steps), limits, level, steps).share
    return found


def judge(
    profile: Profile,
    histories: Sequence[CandleHistory],
    *,
    horizon: int,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a profile on candles it has not seen.

    Parameters
    ----------
    profile
        Parameters.
    histories
        Candles of its interval.
    horizon
        Candles over which a decision is meant to hold: so old are the positions that are judged, and so far apart the entries.
    cache, progress
        As :func:`quantum_lab.states.states_of` takes them.

    Returns
    -------
    dict
        ``coverage``, ``shares``, ``trades``, ``recommended`` and ``verdict``, ready to be carried by the profile.
    """
    theta, interval_sec = profile.theta(MarketStateTheta), round(histories[0].interval_sec)
    covered, said = [], []
    for history in histories:
        states = states_of(history, theta, required=profile.candles_required, cache=cache, progress=progress)
        covered.append(coverage_of(history, states, theta, horizon))
        said.append(shares(history, states, profile, held=horizon))
    plan = Plan([profile], entries=EntryRule(every_sec=horizon * interval_sec))
    tested = backtest(histories, plan, cache=cache)
    recommended, text = verdict(tested)
    return {
        "coverage": _means(covered),
        "shares": _means([{name: value for name, value in one.items() if name != "windows"} for one in said]),
        "trades": _trades(tested),
        "recommended": recommended,
        "verdict": text,
    }


def verdict(tested: Backtest) -> tuple[bool, str]:
    """Say in plain words whether the trades of a profile are better than every null, and whether they earn anything.

    Returns
    -------
    tuple of bool and str
        Recommended only where the interval of the mean trade and those of all differences lie above zero.
    """
    summary = tested.results[0].summary
    mean = summary["expectancy_R"]
    judged = {name: one for name, one in summary["nulls"].items() if one["p_holm"] is not None}
    if mean["low"] is None or not judged:
        few = "is too little" if summary["trades"] == 1 else "are too few, or too close together,"
        return False, f"Not recommended: {number_of(summary['trades'], 'trade')} {few} to say anything."
    beaten = [name for name, one in judged.items() if one["p_holm"] < SURE and one["difference_R"]["mean"] > 0]
    lost_to = [name for name, one in judged.items() if one["p_holm"] < SURE and one["difference_R"]["mean"] < 0]
    unclear = [name for name in judged if name not in (*beaten, *lost_to)]
    unjudged = [name for name in summary["nulls"] if name not in judged]
    trade = f"a trade makes {mean['mean']:+.3f} R after costs ({mean['low']:+.3f} to {mean['high']:+.3f})"
    parts = [
        *([f"better than {', '.join(beaten)}"] if beaten else []),
        *([f"worse than {', '.join(lost_to)}"] if lost_to else []),
        *([f"no better than {', '.join(unclear)}"] if unclear else []),
        *([f"too few blocks of time to compare it with {', '.join(unjudged)}"] if unjudged else []),
    ]
    good = mean["low"] > 0 and not lost_to and not unclear and not unjudged
    return good, f"{'Recommended' if good else 'Not recommended'}: on candles it has not seen {trade}; {'; '.join(parts)}."


def rounded(value: Any) -> Any:
    """Give figures their significant digits, in mappings and lists, too; NaN and None become the text "unknown"."""
    if isinstance(value, Mapping):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return float(f"{value:.{FIGURES}g}") if np.isfinite(value) else "unknown"
    return value


def _trades(tested: Backtest) -> dict[str, Any]:
    summary = tested.results[0].summary
    figures = {name: summary[name] for name in ("trades", "win_rate", "profit_factor", "max_drawdown_R", "stop_out_rate")}
    mean = summary["expectancy_R"]
    nulls = {
        name: {key: one["difference_R"][key] for key in ("mean", "low", "high") if one["difference_R"][key] is not None}
        for name, one in summary["nulls"].items()
    }
    known = {name: mean[name] for name in ("mean", "low", "high") if mean[name] is not None}
    return {**{name: value for name, value in figures.items() if value is not None}, "expectancy_R": known, "minus_null_R": nulls}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _sha256(history: CandleHistory) -> str:
    hashed = hashlib.sha256()
    for name in COLUMNS:
        hashed.update(np.ascontiguousarray(getattr(history, name)).tobytes())
    return hashed.hexdigest()


def _moment(history: CandleHistory, row: int) -> str:
    return _text(history.open_time_ms[row])


def _text(epoch_ms: np.int64) -> str:
    return f"{datetime.fromtimestamp(int(epoch_ms) / 1000, UTC):%Y-%m-%d %H:%M}"
