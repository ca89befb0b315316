"""``quantum status``: age and last value of everything published, per asset and symbol."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from quantum_assets.cli import EXIT_FAILED, given
from quantum_assets.contracts.reading import printable
from resources.foreign import number_or_none
from resources.settings import load_settings

SHOWN = {  # asset -> fields worth a glance
    "position": ("side", "entry_price", "current_price", "position_source"),
    "market_state": ("sigma", "ts", "p_trend", "p_mr", "p_chop", "source"),
    "risk_proposal": ("proposed_sl", "proposed_tp", "sl_breached"),
    "harvest_proposal": ("harvest_action", "R_net", "kill_score"),
    "capital_efficiency": ("efficiency_score", "confidence"),
    "allocation_target": ("multiplier", "proposed_target", "reason"),
    "risk_guard": ("status", "guards", "equity", "drawdown", "daily_loss", "consecutive_losses", "reason"),
    "trade_intent": ("due", "harvest_action", "stop_loss", "intent_id"),
    "governor_permit": ("eff_factor", "last_decision", "last_reason"),
}
ALWAYS_DUE = ("market_state", "risk_guard")  # whatever the book holds


@click.command()
@click.option("--symbols", help="Comma-separated; default: SYMBOLS.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def status(symbols: str | None, *, as_json: bool) -> None:
    """Show what is published, how old it is, and what is wrong with it.

    \b
    quantum status
    quantum status --symbols BTCUSDT --json

    Exit codes: 0 all fresh; 1 something is missing, stale or unreadable; 2 wrong settings; 3 Redis away.
    """
    from definitions import PUBLISHED_TABLES
    from resources.foreign import epoch_of
    from resources.io_manager import fresh_frame
    from resources.redis_store import RedisStore

    store = RedisStore(load_settings(**given(symbols=symbols)))
    names = store.settings.symbols
    now = store.clock().timestamp()
    rows: list[dict[str, Any]] = []
    for asset, table in PUBLISHED_TABLES.items():
        if asset == "capital_efficiency":  # whoever writes it, it is read as others read it
            for reading in store.read_raw(table.key, names):
                fields = {name.decode(): value.decode(errors="replace") for name, value in (reading.value or {}).items()}
                epoch = epoch_of(fields)
                age = None if epoch is None else now - epoch
                stale = age is not None and age > store.settings.p31_stale_sec
                rows.append(_row(asset, reading.symbol, "failed" if stale else str(reading.state), reading.reason, age, fields))
            continue
        for values in fresh_frame(store, table, table.subjects(names)).iter_rows(named=True):
            epoch = values["last_update_epoch"]
            age = None if epoch is None else now - epoch
            rows.append(_row(asset, values["symbol"], values["state"], values["why"], age, values))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print(rows, store.settings.redis_address)
    held = {row["symbol"] for row in rows if row["asset"] == "position" and row["state"] == "present"}
    wrong = [
        row
        for row in rows
        if row["state"] == "failed"
        or (row["state"] == "absent" and row["age_sec"] is None and (row["asset"] in ALWAYS_DUE or row["symbol"] in held))
    ]
    if wrong:
        sys.exit(EXIT_FAILED)


def _row(asset: str, symbol: str, state: str, why: str, age: float | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "asset": asset,
        "symbol": symbol,
        "state": state,
        "why": why,
        "age_sec": None if age is None else round(age, 1),
        "values": {name: _plain(fields[name]) for name in SHOWN[asset] if fields.get(name) not in (None, "", [])},
    }


def _print(rows: list[dict[str, Any]], address: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Published on {address}", title_justify="left")
    for heading in ("asset", "symbol", "state", "age", "last value"):
        table.add_column(heading, justify="right" if heading == "age" else "left")
    colour = {"present": "green", "absent": "yellow", "failed": "red"}
    asset = ""
    for row in rows:
        if asset and row["asset"] != asset:
            table.add_section()
        values = "  ".join(f"{name} {_short(value)}" for name, value in row["values"].items())
        age = "" if row["age_sec"] is None else f"{row['age_sec']:.0f} s"
        state = f"[{colour[row['state']]}]{row['state']}[/]"
        table.add_row(
            "" if row["asset"] == asset else row["asset"],
            escape(row["symbol"]),
            state,
            age,
            escape(printable(values or row["why"])),
        )
        asset = row["asset"]
    Console().print(table)


def _plain(value: Any) -> Any:
    """Give numbers as numbers, also those another producer wrote as text, and lists in one word."""
    if isinstance(value, list):
        return ",".join(value)
    number = None if isinstance(value, bool) else number_or_none(value)
    return value if number is None else number


def _short(value: Any) -> str:
    try:
        return f"{float(value):.6g}" if not isinstance(value, bool) else str(value)
    except (TypeError, ValueError):
        return str(value)
