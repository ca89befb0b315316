"""What ``quantum history`` and ``quantum at`` print and write: tables of rows, the state of one moment, files.

Which rows, and when nothing is there to show, is decided in ``look_back``.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantum_core.display import number_of
from quantum_ops.cli.files import write_whole

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from resources.recorder.reading import Moment

HEADINGS = {"current_price": "price", "proposed_sl": "stop", "proposed_tp": "target", "harvest_action": "harvest", "R_net": "R"}
UNSHOWN = ("seq", "cycle_id", "symbol", "schema", "digest", "profile", "computed_at_utc", "last_update_epoch", "published_at_utc")


def emit(frame: pl.DataFrame, form: str, out: Path | None, title: str, *, successive: bool) -> None:
    """Print rows, or write them to a file, which is there whole or not at all."""
    import polars as pl
    from polars import selectors

    target = io.BytesIO()
    if form == "parquet":
        frame.write_parquet(target)
    elif form == "csv":
        frame.with_columns(selectors.list().list.join("|")).write_csv(target, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
    elif form == "json":
        target.write(f"{json.dumps(frame.to_dicts(), indent=2, default=plain)}\n".encode())
    else:
        shown = [name for name in frame.columns if name not in UNSHOWN]
        values = [name for name in shown if name != "at"] if successive else []
        news = [pl.col(name).ne_missing(pl.col(name).shift()) for name in values] or [pl.lit(value=True)]
        first = pl.int_range(pl.len()) == 0
        _print_table(frame.select(shown).filter(first | pl.any_horizontal(news)), title, out, successive=successive)
        return
    if out is not None:
        write_whole(out, target.getvalue())
    elif form == "parquet":
        sys.stdout.buffer.write(target.getvalue())
    else:
        sys.stdout.write(target.getvalue().decode())


def _print_table(frame: pl.DataFrame, title: str, out: Path | None, *, successive: bool) -> None:
    from rich.console import Console

    from quantum_ops.cli.layout import PIPE_WIDTH, Column, console, records

    days = {row.date() for row in frame["at"]} if "at" in frame.columns else set()
    short = [name.rpartition(".")[2] for name in frame.columns]
    headings = [
        (name, name if short.count(last) > 1 else HEADINGS.get(last, last))
        for name, last in zip(frame.columns, short, strict=True)
    ]
    columns = [
        Column(heading, right=frame[name].dtype.is_numeric(), labelled=name not in ("at", "parameter"))
        for name, heading in headings
    ]
    cells = [texts(name, frame[name].to_list(), one_day=len(days) == 1) for name in frame.columns]
    rows = list(zip(*cells, strict=True))
    if out is None:
        shown = console()
        shown.print(records(shown, columns, rows, title=title, together=True, successive=successive))
        return
    text = io.StringIO()
    target = Console(file=text, width=PIPE_WIDTH, highlight=False)
    target.print(records(target, columns, rows, title=title))
    write_whole(out, text.getvalue().encode())


def texts(name: str, values: Sequence[Any], *, one_day: bool) -> list[str]:
    """Write the values of a column; where rounding hides that two neighbours differ, with all their digits."""
    cells = [_cell(name, value, one_day=one_day) for value in values]
    hidden = any(
        isinstance(value, float) and value != was and text == text_was
        for (was, text_was), (value, text) in pairwise(zip(values, cells, strict=True))
    )
    return ["" if value is None else repr(value) for value in values] if hidden else cells


def print_state(state: Moment) -> None:
    """Lay the state out: what blocked openings first, then one block per asset, one record per symbol."""
    from quantum_ops.cli.desk.status import SHOWN as OF_ASSET
    from quantum_ops.cli.layout import Column, console, paragraph, records
    from resources.recorder.lifetimes import expired_text
    from resources.recorder.reading import INTENTS

    out = console()
    out.print(paragraph(out, f"{time_text(state.at)}, {number_of(len(state.rows), 'symbol')}"))
    if state.silence:
        after, until = state.silence["after"], state.silence.get("until")
        nothing = f"Nothing was recorded {between_text(after, until) if until else f'after {time_text(after)}'}"
        out.print(paragraph(out, f"{nothing}: switches and values below are the last ones before.", "yellow"))
    switches = [f"{name} {value}" for name, value in state.switches.items() if value not in (None, "", "0", "[]", "{}")]
    out.print(paragraph(out, f"Switches: {', '.join(switches) or 'none on'}" if state.switches else "Switches: none on record"))
    if state.guard is not None:
        values = [
            f"{name} {_cell(name, state.guard.get(name))}"
            for name in OF_ASSET["risk_guard"]
            if state.guard.get(name) not in (None, "", [])
        ]
        over = state.expired.get(str(state.guard["symbol"]), {}).get("risk_guard")
        said = ", ".join(values) if over is None else expired_text(over, _clock_text(over["evaluated_at"], state.at))
        out.print(paragraph(out, f"Risk guard: {said}"))
    for gap in state.gaps:
        if _touches(gap, state.at):
            out.print(paragraph(out, f"Not recorded: {gap_text(gap)}", "yellow"))
    for asset, fields in OF_ASSET.items():
        rows = _rows_of(state, asset, fields)
        if not rows:
            continue
        columns = [
            Column("symbol"),
            Column("since", labelled=True),
            Column("no result", labelled=True),
            *(Column(name, labelled=True) for name in fields),
        ]
        used = [number for number in range(len(columns)) if number == 0 or any(row[number] for row in rows)]
        shown = [[row[number] for number in used] for row in rows]
        blind = asset == INTENTS and not state.ends_known
        title = f"{asset} (whether an intent was still due, this version did not record)" if blind else asset
        out.print(records(out, [columns[number] for number in used], shown, title=title, together=True))
    _print_plans(out, state)


def _rows_of(state: Moment, asset: str, fields: Sequence[str]) -> list[list[str]]:
    """Give the rows of one asset: symbol, since when, why it has no result, and its values."""
    from resources.recorder.lifetimes import expired_text

    rows = []
    for symbol, of_symbol in state.rows.items():
        row, lost = of_symbol.get(asset), state.without.get(symbol, {}).get(asset)
        over = state.expired.get(symbol, {}).get(asset)
        if over is not None:
            before = f"; before: {lost['state']}: {lost['why']}" if lost is not None else ""
            rows.append(
                [symbol, "", f"{expired_text(over, _clock_text(over['evaluated_at'], state.at))}{before}", *("" for _ in fields)]
            )
        elif lost is not None:
            why = ": ".join(one for one in (lost["state"], lost["why"]) if one)
            rows.append([symbol, _clock_text(lost["at"], state.at), why, *("" for _ in fields)])
        elif row is not None:
            rows.append([symbol, _clock_text(row["at"], state.at), "", *(_cell(name, row.get(name)) for name in fields)])
    return rows


def _touches(gap: Mapping[str, Any], moment: datetime) -> bool:
    """Say whether a moment is within a gap; of one that has no time nobody knows."""
    until, since = gap.get("at"), gap.get("since")
    return until is None or (since or until) <= moment <= until


def _print_plans(out: Console, state: Moment) -> None:
    from quantum_ops.cli.layout import Column, records

    names = ("symbol", "plan_id", "action", "event", "reason")
    for title, entries in (("Plans that waited", state.plans), ("Decisions of the hour before, newest first", state.decisions)):
        rows = [[_clock_text(one["at"], state.at), *(str(one.get(name) or "") for name in names)] for one in entries]
        columns = [Column("time"), *(Column(name.replace("_", " ")) for name in names)]
        if rows:
            out.print(records(out, columns, rows, title=title))


def _cell(name: str, value: Any, *, one_day: bool = False) -> str:
    from quantum_core.display import ACTIONS, price_text

    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%H:%M:%S}" if one_day else f"{value:%Y-%m-%d %H:%M:%S}"
    if name.endswith("harvest_action"):
        return ACTIONS.get(str(value), str(value))
    if isinstance(value, float) and "epoch" in name:
        return f"{value:.15g}"
    if isinstance(value, float):
        return (
            price_text(value)
            if any(word in name for word in ("price", "_sl", "_tp", "usd", "close", "equity"))
            else f"{value:.6g}"
        )
    return ",".join(map(str, value)) if isinstance(value, list) else "; ".join(str(value).split("\n"))


def _clock_text(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def time_text(moment: datetime) -> str:
    """Write a time as people read it, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def range_text(start: datetime, end: datetime) -> str:
    """Write a span of time."""
    return f"from {time_text(start).removesuffix(' UTC')} to {time_text(end)}"


def between_text(after: datetime, until: datetime) -> str:
    """Write a span of which only the ends are recorded."""
    days = after.date() == until.date()
    return f"between {after:%Y-%m-%d %H:%M:%S} and {until:{'%H:%M:%S' if days else '%Y-%m-%d %H:%M:%S'}} UTC"


def gap_text(gap: Mapping[str, Any]) -> str:
    """Write what is known of records that were lost: when, how many, and why."""
    since, until, count, what = _gap_parts(gap)
    span = until and (between_text(since, until) if since else f"until {time_text(until)}")
    return ", ".join(one for one in (span or "at a time nobody knows", f"{count} records" if count else "", what) if one)


def gap_table(gaps: pl.DataFrame) -> pl.DataFrame:
    """Give gaps as people read them: from when to when, how many records, and why."""
    import polars as pl

    names = ("since", "until", "records", "what")
    return pl.DataFrame([dict(zip(names, _gap_parts(gap), strict=True)) for gap in gaps.to_dicts()], infer_schema_length=None)


def _gap_parts(gap: Mapping[str, Any]) -> tuple[datetime | None, datetime | None, int, str]:
    since, until, first, last = (gap.get(name) for name in ("since", "at", "from_seq", "to_seq"))
    since = None if since is None or since.timestamp() <= 0 else since  # of what was before the first entry
    count = max(0, last - first + 1) if first is not None and last is not None else 0
    return since, until, count, str(gap.get("what") or "")


def plain(value: Any) -> Any:
    """Give a value that JSON lacks as text."""
    return value.isoformat() if isinstance(value, date) else str(value)
