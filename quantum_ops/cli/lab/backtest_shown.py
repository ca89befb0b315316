"""A backtest on the terminal and as JSON: profiles side by side, within 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from quantum_lab.backtest import Backtest, Plan
from quantum_lab.candles import CandleHistory
from quantum_lab.intervals import holm
from quantum_lab.nulls import NULLS

BESIDE = 3  # profiles in one table: more do not fit 80 columns
SIGNIFICANT = 0.05
WIDTH = 80


def figures(done: Backtest, histories: Sequence[CandleHistory], plan: Plan, changes: Sequence[str]) -> dict[str, Any]:
    """Give everything that is said of a backtest as JSON has it."""
    p_values = {
        f"{one.profile.name} {null}": versus["difference_R"]["p_value"]
        for one in done.results
        for null, versus in one.summary.get("nulls", {}).items()
        if versus["difference_R"]["p_value"] is not None
    }
    return {
        "candles": [
            {
                "symbol": one.symbol,
                "interval_sec": one.interval_sec,
                "count": len(one),
                "first": _moment(int(one.open_time_ms[0])),
                "last": _moment(int(one.open_time_ms[-1])),
                "digest": one.digest,
                "left_out": dict(one.left_out),
                "notes": list(one.notes),
            }
            for one in histories
        ],
        "entries": {
            "rule": "trades" if plan.entries is None else vars(plan.entries),
            "left_out": done.left_out,
            "named": done.named,
        },
        "costs": vars(plan.costs),
        "hold_max_sec": plan.hold_max_sec,
        "seed": plan.seed,
        "changes": list(changes),
        "profiles": [{"name": one.profile.name, "fingerprint": one.profile.fingerprint, **one.summary} for one in done.results],
        "p_holm_over_all": holm(p_values),
    }


def show(body: Mapping[str, Any]) -> None:
    """Print the tables."""
    console = Console(highlight=False)
    out = console if console.is_terminal else Console(highlight=False, width=WIDTH)
    for candles in body["candles"]:
        out.print(
            f"{candles['symbol']}: {candles['count']:,} candles of {candles['interval_sec']:g} s, "
            f"{candles['first'][:16]} to {candles['last'][:16]} UTC",
            markup=False,
        )
    if body["entries"]["left_out"]:
        left_out = ", ".join(f"{reason} {count}" for reason, count in body["entries"]["left_out"].items())
        out.print(f"entries left out: {left_out}", markup=False)
    for text in body["entries"]["named"]:
        out.print(f"  {text}", markup=False)
    profiles = body["profiles"]
    for start in range(0, len(profiles), BESIDE):
        out.print(_figures(profiles[start : start + BESIDE]))
    out.print(_against(profiles))
    joint = body["p_holm_over_all"]
    if not joint:
        out.print("No interval: the history has fewer than 8 blocks of three holding times; shorten --hold-max or give more.")
    else:
        real = [name for name, p_value in joint.items() if p_value < SIGNIFICANT]
        out.print(
            f"Differences that hold at 5 % over all {len(joint)} comparisons (Holm): {', '.join(real) or 'none'}", markup=False
        )
    out.print("R: first stop's distance from the price paid. Past candles, not a forecast.", markup=False)


def _figures(profiles: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Profiles on the same entries, after costs", title_justify="left")
    table.add_column("", no_wrap=True)
    for one in profiles:
        table.add_column(one["name"], justify="right", overflow="fold")
    for label, text in ROWS.items():
        table.add_row(label, *(text(one) if one["trades"] or label == "trades" else "-" for one in profiles))
    return table


def _against(profiles: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Profile minus null, R per trade, paired (95 %)", title_justify="left")
    table.add_column("profile", overflow="fold")
    table.add_column("null", no_wrap=True)
    for heading in ("null R", "difference", "from", "to", "p Holm"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in profiles:
        for name in NULLS:
            if (versus := one.get("nulls", {}).get(name)) is None:
                continue
            difference = versus["difference_R"]
            cells = (versus["mean_R"], difference["mean"], difference["low"], difference["high"], versus["p_holm"])
            table.add_row(one["name"], name, *map(_number, cells))
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(one: Mapping[str, Any]) -> str:
    low, high = one["expectancy_R"]["low"], one["expectancy_R"]["high"]
    return "-" if low is None else f"{low:.3f} to {high:.3f}"


def _quantiles(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{one['quantiles_R'][name]:.1f}" for name in ("0.05", "0.5", "0.95"))


def _bootstrap(one: Mapping[str, Any]) -> str:
    ends = one["expectancy_R"]["bootstrap"]
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


ROWS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "trades": lambda one: f"{one['trades']:,}" + (f" (+{one['unit_jump']})" if one["unit_jump"] else ""),
    "expectancy, R": lambda one: _number(one["expectancy_R"]["mean"]),
    "  95 %, blocks of time": _interval,
    "  95 %, block bootstrap": _bootstrap,
    "  before costs": lambda one: _number(one["before_costs_R"]),
    "win rate": lambda one: _share(one["win_rate"]),
    "profit factor": lambda one: _number(one["profit_factor"], 2),
    "R at 5, 50, 95 %": _quantiles,
    "max drawdown, R": lambda one: _number(one["max_drawdown_R"], 1),
    "median risk, % of price": lambda one: f"{one['median_risk_pct']:.2%}",
    "median MAE, MFE, R": lambda one: f"{one['median_mae_R']:.2f}, {one['median_mfe_R']:.2f}",
    "median held, candles": lambda one: f"{one['median_held_candles']:.0f}",
    "stopped out": lambda one: _share(one["stop_out_rate"]),
    "  new extreme within 60": lambda one: _share(one["stopped_then_new_extreme"]),
    "full close": lambda one: _share(one["reasons"]["full_close"] / one["trades"]),
    "target": lambda one: _share(one["reasons"]["target"] / one["trades"]),
    "time, end of candles": lambda one: _share((one["reasons"]["time"] + one["reasons"]["end"]) / one["trades"]),
    "partial closes": lambda one: f"{one['partials']:,}",
    "stop at its floor, of closes": lambda one: _share(one["at_stop_floor"]),
    "target at its floor": lambda one: _share(one["at_target_floor"]),
    "FULL_CLOSE proposed": lambda one: _share(one["actions"]["FULL_CLOSE_PROPOSED"]),
    "trend, mr, chop": lambda one: ", ".join("-" if share is None else f"{share:.0%}" for share in one["regimes"].values()),
}


def _moment(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat()
