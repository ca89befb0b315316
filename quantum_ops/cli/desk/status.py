"""``quantum status``: whether openings are blocked, how fresh every symbol is, and the first cause of what is not."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from quantum_core.contracts.reading import printable
from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import load_settings
from quantum_ops.cli import given

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from quantum_ops.desk.rows import Faults, Row
    from resources.store.redis_store import RedisStore

SHOWN = {  # asset -> fields worth a glance
    "position": ("side", "entry_price", "current_price", "position_source"),
    "market_state": ("sigma", "ts", "p_trend", "p_mr", "p_chop", "source"),
    "risk_proposal": ("proposed_sl", "proposed_tp", "sl_breached"),
    "harvest_proposal": ("harvest_action", "R_net", "kill_score"),
    "capital_efficiency": ("efficiency_score", "confidence"),
    "allocation_target": ("multiplier", "proposed_target", "reason"),
    "position_size": ("size_usd", "binding", "leverage_max"),
    "risk_guard": ("status", "guards", "equity", "drawdown", "daily_loss", "consecutive_losses", "reason"),
    "trade_intent": ("due", "harvest_action", "stop_loss", "intent_id"),
    "governor_permit": ("eff_factor", "last_decision", "last_reason"),
}
WATCH_EVERY_SEC = 3.0
ALERTS_LISTED = 10


@dataclass(frozen=True)
class Report:
    """Everything one reading shows.

    Attributes
    ----------
    blocked
        Why openings are blocked, first cause first; empty when the governor is armed.
    rows
        One per asset and symbol, as ``--json`` prints them.
    wrong
        Those of them that are missing, stale, unreadable or cannot be computed.
    alerts
        Active alerts; ``None`` when no watcher has reported.
    symbols
        As the desk has them, those that are not fresh first.
    notice
        What the data is, when any of it is not live.
    profile, profile_trouble
        Name and fingerprint of the profile in force, and why a newer one is not.
    at
        When it was read, epoch s.
    """

    blocked: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    wrong: Sequence[Mapping[str, Any]]
    alerts: Sequence[Mapping[str, Any]] | None
    symbols: Sequence[Row]
    notice: str = ""
    at: float = 0.0
    profile: str = ""
    profile_trouble: str = ""

    @property
    def fresh(self) -> bool:
        """Whether nothing is missing, stale, unreadable or cannot be computed."""
        return not self.wrong and all(row.fresh for row in self.symbols)


@click.command()
@click.option("--symbols", help="Comma-separated; default: SYMBOLS.")
@click.option("--assets", "by_asset", is_flag=True, help="One line per asset and symbol.")
@click.option("--watch", is_flag=True, help=f"Renew every {WATCH_EVERY_SEC:g} s until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one row per asset and symbol as JSON on stdout.")
def status(symbols: str | None, *, by_asset: bool, watch: bool, as_json: bool) -> None:
    """Show whether openings are blocked and why, then one line per symbol: how fresh it is and the first cause of what is not.

    \b
    quantum status
    quantum status --watch
    quantum status --symbols BTCUSDT --assets
    quantum status --json

    Exit codes: 0 all fresh; 1 something is missing, stale, unreadable or cannot be computed; 2 wrong settings; 3 Redis away.
    """
    if watch and as_json:
        message = "--watch and --json exclude each other"
        raise click.UsageError(message)
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings(**given(symbols=symbols)))
    if watch:
        _watch(store, by_asset=by_asset)
        return
    report = read_report(store)
    if as_json:
        click.echo(json.dumps(report.rows, indent=2))
    else:
        from quantum_ops.cli.layout import console

        out = console()
        out.print(_page(out, report, by_asset=by_asset))
    if not report.fresh:
        sys.exit(EXIT_FAILED)


def read_report(store: RedisStore) -> Report:
    """Read everything that is published, what cannot be computed, and what blocks openings.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    from quantum_core.contracts.tables import PUBLISHED
    from quantum_ops.desk.overview import read_faults, read_openings, read_rows
    from quantum_ops.desk.standing import data_notice
    from resources.inputs.foreign import epoch_of
    from resources.store.profiles import bring_up_to_date

    symbols, now = store.settings.symbols, store.clock().timestamp()
    profile = bring_up_to_date(store)
    faults = read_faults(store, symbols)
    rows: list[dict[str, Any]] = []
    for table in PUBLISHED:
        asset = table.asset
        if asset == "capital_efficiency":  # whoever writes it, it is read as others read it
            for reading in store.read_raw(table.key, symbols):
                fields = {name.decode(): value.decode(errors="replace") for name, value in (reading.value or {}).items()}
                epoch = epoch_of(fields)
                age = None if epoch is None else now - epoch
                stale = age is not None and age > store.settings.p31_stale_sec
                rows.append(_row(asset, reading.symbol, "failed" if stale else str(reading.state), reading.reason, age, fields))
            continue
        for values in store.read_fresh(table, table.subjects(symbols)):
            epoch = values.get("last_update_epoch")
            state, why = values["state"], values["why"]
            if fault := _fault(faults.get(values["symbol"]), asset, now):
                state, why = "failed", fault
            rows.append(_row(asset, values["symbol"], state, why, None if epoch is None else now - epoch, values))
    wrong = [row for row in rows if row["state"] == "failed" or (row["symbol"] not in faults and row["age_sec"] is None)]
    desk_rows = read_rows(store, symbols, faults, gates=False)
    (reply,) = store.run("reading the banner", [("GET", store.keys.of("banner"))])
    notice = data_notice(printable(reply.decode(errors="replace")) if isinstance(reply, bytes) else "", desk_rows, now)
    return Report(read_openings(store).blocked, rows, wrong, _alerts(store), desk_rows, notice, now, *profile)


def _fault(faults: Faults | None, asset: str, now: float) -> str:
    """Say what is wrong with one asset of a symbol, as the desk found it."""
    from quantum_core.display import duration_text, failure_text
    from quantum_ops.desk.rows import vital_text

    if faults is None:
        return ""
    if (failure := faults.failures.get(asset)) is not None:
        return f"{failure_text(failure.why)}; cannot be computed for {duration_text(now - failure.since)}"
    return next((vital_text(vital) for vital in faults.old if vital.thing == asset), "")


def _alerts(store: RedisStore) -> list[dict[str, Any]] | None:
    (reply,) = store.run("reading alerts", [("GET", store.keys.of("alerts_active"))])
    try:
        active = json.loads(reply)
    except (TypeError, ValueError):  # no watcher, another type of key, or something else in it
        return None
    if not isinstance(active, list):
        return None
    return [one for one in active if isinstance(one, dict) and one.get("well_since") is None]  # the others are ending


def verdict(report: Report) -> str:
    """Say in one line whether openings are blocked and why, how many symbols are fresh, and how many alerts are active."""
    fresh = sum(row.fresh for row in report.symbols)
    armed = f"blocked: {'; '.join(report.blocked)}" if report.blocked else "armed"
    count = "alerts unknown: no watcher has reported" if report.alerts is None else _counted(len(report.alerts), "alert")
    return printable(f"{armed} | {fresh} of {_counted(len(report.symbols), 'symbol')} fresh | {count}")


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _page(out: Console, report: Report, *, by_asset: bool) -> RenderableType:
    from rich.console import Group

    from quantum_ops.cli.layout import paragraph

    healthy = (
        not report.profile_trouble and not report.blocked and report.fresh and not report.alerts and report.alerts is not None
    )
    lines = [paragraph(out, verdict(report), "bold green" if healthy else "bold red")]
    if report.profile_trouble:
        lines.append(paragraph(out, f"  profile {report.profile} is in force: {report.profile_trouble}", "red"))
    else:
        lines.append(paragraph(out, f"  profile {report.profile}"))
    if report.notice:
        lines.append(paragraph(out, f"  {report.notice.partition('. ')[0]}", "yellow"))
    titles = [str(alert.get("title", "?")) for alert in (report.alerts or ())[:ALERTS_LISTED]]
    lines += [paragraph(out, f"  alert: {title}", "red") for title in titles]
    return Group(*lines, _by_asset(out, report) if by_asset else _by_symbol(out, report))


def _by_symbol(out: Console, report: Report) -> RenderableType:
    """Lay out one record per symbol, those that are not fresh first."""
    from quantum_core.display import ACTIONS, duration_text, price_text
    from quantum_ops.cli.layout import Column, records

    ages: dict[str, float] = {}
    for row in report.rows:
        if row["age_sec"] is not None and row["asset"] != "capital_efficiency":
            ages[row["symbol"]] = max(ages.get(row["symbol"], 0.0), row["age_sec"])
    columns = (
        Column("symbol"),
        Column("state", colours={"ok": "green", "warning": "yellow", "failed": "red", "stale": "red", "stop crossed": "red"}),
        Column("oldest", right=True, labelled=True),
        Column("position"),
        Column("price", right=True, labelled=True),
        Column("price age", right=True, labelled=True),
        Column("stop", right=True, labelled=True),
        Column("harvest"),
        Column("why"),
    )
    rows = [
        (
            row.symbol,
            row.health,
            duration_text(max(ages[row.symbol], 0.0)) if row.symbol in ages else "",
            row.side or ("unknown" if row.held is None else "no position"),
            "" if row.price is None else price_text(row.price),
            "" if row.price is None else "unknown" if (old := row.mark_age(report.at)) is None else duration_text(max(old, 0.0)),
            "" if row.stop is None else f"{price_text(row.stop)}{f' ({row.stop_last})' if row.stop_last else ''}",
            ACTIONS.get(row.action or "", row.action or ""),
            row.why,
        )
        for row in report.symbols
    ]
    return records(out, columns, rows)


def _by_asset(out: Console, report: Report) -> RenderableType:
    from quantum_ops.cli.layout import Column, records

    columns = (
        Column("asset"),
        Column("symbol"),
        Column("state", colours={"present": "green", "absent": "yellow", "failed": "red"}),
        Column("age", right=True),
        Column("last value"),
        Column("why"),
    )
    rows = [
        (
            row["asset"],
            row["symbol"],
            row["state"],
            "" if row["age_sec"] is None else f"{row['age_sec']:.0f} s",
            "  ".join(f"{name} {_short(value)}" for name, value in row["values"].items()),
            row["why"],
        )
        for row in report.rows
    ]
    return records(out, columns, rows)


def _watch(store: RedisStore, *, by_asset: bool) -> None:
    """Show the report anew every few seconds; a server that is away is named, and asked again."""
    from rich.live import Live
    from rich.text import Text

    from quantum_ops.cli.layout import console
    from resources.store.transport.unavailable import RedisUnavailableError

    out = console()

    def page() -> RenderableType:
        try:
            return _page(out, read_report(store), by_asset=by_asset)
        except RedisUnavailableError as error:
            return Text(printable(error), style="bold red")

    try:
        with Live(page(), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_EVERY_SEC)
                live.update(page(), refresh=True)
    except KeyboardInterrupt:
        return


def _row(asset: str, symbol: str, state: str, why: str, age: float | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "asset": asset,
        "symbol": symbol,
        "state": state,
        "why": why,
        "age_sec": None if age is None else round(age, 1),
        "values": {name: _plain(fields[name]) for name in SHOWN[asset] if fields.get(name) not in (None, "", [])},
    }


def _plain(value: Any) -> Any:
    """Give numbers as numbers, also those another producer wrote as text, and lists in one word."""
    if isinstance(value, list):
        return ",".join(value)
    from resources.inputs.foreign import number_or_none

    number = None if isinstance(value, bool) else number_or_none(value)
    return value if number is None else number


def _short(value: Any) -> str:
    try:
        return f"{float(value):.6g}" if not isinstance(value, bool) else str(value)
    except (TypeError, ValueError):
        return str(value)
