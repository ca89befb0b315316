"""A backtest on the terminal and as JSON: profiles side by side, as many as fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from quantum_core.contracts.reading import printable
from quantum_core.display import number_of
from quantum_lab.backtest import Backtest, Plan
from quantum_lab.candles import CandleHistory
from quantum_lab.entries import UNIT_SEC
from quantum_lab.evidence import versions
from quantum_lab.intervals import BLOCKS_MIN, holm
from quantum_lab.nulls import NULLS
from quantum_ops.cli.layout import Column, console, fits, paragraph, records, table_of

DISTRIBUTION = "quantum-risk-pipeline"
AGAINST = "Profile minus null, R per trade, paired (95 %)"
SIGNIFICANT = 0.05
SIDE_WORDS = {"both": "a long and a short each time", "long": "long", "short": "short"}
DRAWN_WORDS = {**SIDE_WORDS, "both": "long or short as drawn"}
BOTH_SIDES = (
    "Each entry opens a long and a short at one price: what a move of the market gives the one, it takes from the other. In a "
    "mean of both, moves cancel: what is left is what exits and costs do, intervals are narrower than of one side alone, and no "
    "stop makes about minus its costs. For the moves themselves take --side long or --side short."
)


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
        "versions": {DISTRIBUTION: version(DISTRIBUTION), **versions()},
        "changes": list(changes),
        "profiles": [{"name": one.profile.name, "fingerprint": one.profile.fingerprint, **one.summary} for one in done.results],
        "p_holm_over_all": holm(p_values),
    }


def show(body: Mapping[str, Any]) -> None:
    """Print the tables: as wide as the terminal at most; in a pipe nothing is cut and no line is broken."""
    out = console()
    for candles in body["candles"]:
        out.print(paragraph(out, candles_text(candles)))
    for text in (*made_of(body), *left_out_texts(body)):
        out.print(paragraph(out, text))
    for text in body["entries"]["named"]:
        out.print(paragraph(out, f"  {text}"))
    profiles = body["profiles"]
    while profiles:
        beside = next(count for count in range(len(profiles), 0, -1) if count == 1 or fits(out, _figures(profiles[:count])))
        out.print(_figures(profiles[:beside]))
        profiles = profiles[beside:]
    for table in _against(out, body["profiles"]):
        out.print(table)
    for text in notes_of(body):
        out.print(paragraph(out, text))


def candles_text(candles: Mapping[str, Any]) -> str:
    """Say which candles were used."""
    return (
        f"{candles['symbol']}: {candles['count']:,} candles of {candles['interval_sec']:g} s, "
        f"{candles['first'][:16]} to {candles['last'][:16]} UTC"
    )


def made_of(body: Mapping[str, Any]) -> list[str]:
    """Say what was opened, what it paid, and what was changed."""
    rule, costs = body["entries"]["rule"], body["costs"]
    if rule == "trades":
        file = body["entries"]["file"]
        entries = f"trades of {file['name']} (sha256 {file['sha256'][:16]})"
    elif rule["every_sec"]:
        entries = f"every {_time(rule['every_sec'])}, {SIDE_WORDS[rule['side']]}"
    else:
        entries = f"{rule['count']:,} at random for each symbol, {DRAWN_WORDS[rule['side']]}"
    held = f"closed after {_time(body['hold_max_sec'])} at the latest"
    texts = [f"Entries: {entries}; {held}; fee {costs['fee_bps']:g} and slippage {costs['slippage_bps']:g} bps a fill."]
    return [*texts, f"Changed in profiles with a *: {', '.join(body['changes'])}."] if body["changes"] else texts


def left_out_texts(body: Mapping[str, Any]) -> list[str]:
    """Say which entries and files were left out."""
    entries, files = body["entries"]["left_out"], body.get("files_left_out", {})
    texts = [f"entries left out: {', '.join(f'{reason} {count}' for reason, count in entries.items())}"] if entries else []
    return [*texts, *([f"files left out: {len(files)} ({'; '.join(files.values())})"] if files else [])]


def notes_of(body: Mapping[str, Any]) -> list[str]:
    """Say how the figures are to be read."""
    rule, joint = body["entries"]["rule"], body["p_holm_over_all"]
    texts = [BOTH_SIDES] if rule != "trades" and rule["every_sec"] and rule["side"] == "both" else []
    for one in body["profiles"]:
        if (desk := one.get("nulls", {}).get("desk")) is not None:
            known = f"{desk['pairs']:,} of {number_of(one['trades'], 'trade')}"
            texts.append(f"{one['name']} minus desk: of the trades whose exit is known, {known}.")
    if joint:
        real = [name for name, p_value in joint.items() if p_value < SIGNIFICANT]
        compared = "1 comparison" if len(joint) == 1 else f"all {len(joint)} comparisons"
        texts.append(f"Differences that hold at 5 % over {compared} (Holm): {', '.join(real) or 'none'}")
    else:
        texts.append(
            f"No interval: the history has fewer than {BLOCKS_MIN} blocks of three holding times; "
            "shorten --hold-max or give more candles."
        )
    return [*texts, "R: first stop's distance from the price paid. Past candles, not a forecast."]


def _time(seconds: float) -> str:
    """Write a time as the options take it."""
    unit = next(name for name in ("d", "h", "m", "s") if seconds % UNIT_SEC[name] == 0)
    return f"{seconds / UNIT_SEC[unit]:g}{unit}"


def _figures(profiles: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Profiles on the same entries, after costs", title_justify="left")
    table.add_column("", no_wrap=True)
    for one in profiles:
        table.add_column(printable(one["name"]), justify="right", no_wrap=len(profiles) > 1, overflow="fold")
    for label, text in ROWS.items():
        table.add_row(label, *(text(one) if one["trades"] or label == "trades" else "-" for one in profiles))
    return table


def _against(out: Console, profiles: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Lay out the differences: of all profiles in one table where that fits, else of each in one of its own."""
    if len(profiles) > 1 and fits(out, table := table_of(_null_columns("profile"), _null_rows(profiles), AGAINST)):
        return [table] if table.row_count else []
    title = AGAINST.removeprefix("Profile")
    return [
        records(out, _null_columns(), [row[1:] for row in rows], f"{one['name']}{title}")
        for one in profiles
        if (rows := _null_rows([one]))
    ]


def _null_columns(*first: str) -> list[Column]:
    headings = ("pairs", "null R", "difference", "from", "to", "p Holm")
    return [*(Column(name) for name in (*first, "null")), *(Column(name, right=True, labelled=True) for name in headings)]


def _null_rows(profiles: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for one in profiles:
        for name in NULLS:
            if (versus := one.get("nulls", {}).get(name)) is None:
                continue
            difference = versus["difference_R"]
            cells = (versus["mean_R"], difference["mean"], difference["low"], difference["high"], versus["p_holm"])
            rows.append((one["name"], name, f"{versus['pairs']:,}", *map(_number, cells)))
    return rows


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
