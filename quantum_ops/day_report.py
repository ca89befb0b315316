"""The evidence report of a past day: what the archive has of it, and whether that is what was published then.

The page is made later, from records alone, and says so: neither Redis nor Dagster is asked, and what a day did not record is not
on it. It is sealed as the report of now is, see :mod:`quantum_ops.report`. Here belongs what of a day is shown; what a row means
is :mod:`resources.recorder.reading`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from polars.exceptions import PolarsError

from quantum_assets.checks.pack import evaluated
from quantum_assets.checks.proof import Verdict
from quantum_assets.checks.proofs.history import PROOFS, day_intact, day_recomputed
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.settings import Settings
from quantum_ops.cli.desk.status import SHOWN
from quantum_ops.report import laid_out, made_with, pairs, proofs_table, rows_table, sanitizer, summary
from resources.recorder.archive import Archive, first_line, sha256_of
from resources.recorder.lifetimes import expired_text
from resources.recorder.reading import DECISIONS, TIME, Reader

BUDGET_SEC = 60.0  # of computing again: the whole day of three symbols, an hour of 566
LISTED_MAX = 1000  # decisions and alerts on the page, the last ones; all are counted
OF_DECISION = ("symbol", "plan_id", "action", "event", "reason", "profile")
OF_ALERT = ("event", "severity", "kind", "title", "symbols", "text")
OF_ROW = ("profile_name", "profile", "cycle_id")  # beside what an asset says
CLAIMS = {
    "archive_intact": "The files of the day are as they were written, and the days are one chain.",
    "recomputed": "Hours of the day, picked by the hash of its manifest and computed again, give what was published.",
}

Safe = Callable[[object], str]
Span = tuple[datetime, datetime]


def judged(archive: Archive, day: date, budget_sec: float = BUDGET_SEC) -> list[Verdict]:
    """Judge the proofs of ``history`` on one day.

    Parameters
    ----------
    archive, day
        Of which something is recorded.
    budget_sec
        After which nothing more is computed again.
    """
    finds = {
        "archive_intact": lambda: day_intact(archive, day),
        "recomputed": lambda: day_recomputed(archive, day, budget_sec),
    }
    return [evaluated(replace(proof, claim=CLAIMS[proof.name]), finds[proof.name]) for proof in PROOFS]


def render_day(verdicts: Sequence[Verdict], reader: Reader, day: date, *, settings: Settings, now: datetime) -> str:
    """Write the page.

    Parameters
    ----------
    verdicts
        Of :func:`judged`.
    reader, day
        Of which something is recorded; what cannot be read is left out, and named on the page.
    settings
        Whose secrets are hidden, should a record quote one.
    now
        When the page is made, aware UTC.
    """
    safe, archive = sanitizer(settings), reader.archive
    start = datetime.combine(day, datetime.min.time(), UTC)
    end = min(start + timedelta(days=1, microseconds=-1), now)
    span = (start, end)
    sections: dict[str, Callable[[], str]] = {
        "Proofs": lambda: proofs_table(verdicts, safe),
        "Not recorded": lambda: _gaps(reader, span, safe),
        f"What stood at {end:%H:%M:%S}": lambda: _standing(reader, end, safe),
        "Decisions of the day": lambda: _entries(reader, DECISIONS, OF_DECISION, ("event", "reason"), span, safe),
        "Alerts of the day": lambda: _entries(reader, "alerts", OF_ALERT, ("event", "severity"), span, safe),
        "Profiles in force": lambda: _profiles(reader, span, safe),
        "Computed then with": lambda: pairs(_values(reader, "versions", span), safe),
        "Settings then": lambda: pairs(_values(reader, "settings", span), safe),
        "Files": lambda: _files(archive, day, safe),
        "This page made with": lambda: pairs(made_with(), safe),
    }
    body = "\n".join(f"<h2>{safe(title)}</h2>\n{_readable(make, safe)}" for title, make in sections.items())
    if reader.unreadable:
        left_out = rows_table(("file", "why"), ((fault.file, fault.what) for fault in reader.unreadable), safe)
        body = f"<h2>Left out, because it cannot be read</h2>\n{left_out}\n{body}"
    if incomplete := reader.incomplete():
        missing = rows_table(("file", "what"), ((fault.file, fault.what) for fault in incomplete), safe)
        body = f"<h2>Not as it was written</h2>\n{missing}\n{body}"
    stamp = (
        f"Made later, from the records of {day}, at {now:%Y-%m-%d %H:%M:%S} UTC. Nothing on this page was read from Redis or "
        "Dagster. Times are UTC."
    )
    heading = f"Proof pack of {day}, made later from records"
    covers = _readable(lambda: safe(_covers(reader, span)), safe)
    return laid_out(heading, heading, f"{safe(stamp)} {covers}", summary(verdicts), body)


def _readable(make: Callable[[], str], safe: Safe) -> str:
    """Make a part of the page; a damaged file costs the parts that need it and no others."""
    try:
        return make()
    except PolarsError as error:
        return f'<span class="failed">Cannot be read: {safe(first_line(error))}</span>'


def _covers(reader: Reader, span: Span) -> str:
    rows = _of_day(reader, "records", span)
    if not rows:
        return "No step is recorded."
    times = [row["at"] for row in rows]
    cycles = len({row["cycle_id"] for row in rows})
    return f"Recorded: {len(rows)} steps of {cycles} cycles, {min(times):%H:%M:%S} to {max(times):%H:%M:%S}."


def _gaps(reader: Reader, span: Span, safe: Safe) -> str:
    names = ("since", "at", "from_seq", "to_seq", "what")
    gaps = reader.gaps(*span)
    if not gaps:
        return "<p>No record of the day was lost.</p>"
    return rows_table(
        ("since", "until", "from record", "to record", "why"), ([_text(one.get(name)) for name in names] for one in gaps), safe
    )


def _standing(reader: Reader, end: datetime, safe: Safe) -> str:
    """Lay out what stood when the day ended, or stands now: switches, and each asset with every symbol."""
    state = reader.at(end)
    on = {name: str(value) for name, value in state.switches.items() if value not in (None, "", "0", "[]", "{}")}
    parts = [("switches and guards", pairs(on, safe) if on else "<p>None was on.</p>")]
    guard = {ACCOUNT: {"risk_guard": state.guard}} if state.guard is not None else {}
    for asset, fields in SHOWN.items():
        names = (*fields, *OF_ROW)
        rows = []
        for symbol, of_symbol in (guard if asset == "risk_guard" else state.rows).items():
            lost = state.without.get(symbol, {}).get(asset)
            row: Mapping[str, Any] | None = of_symbol.get(asset)
            over = state.expired.get(symbol, {}).get(asset)
            said = "" if over is None else f"the last before: {expired_text(over, _text(over['evaluated_at']))}"
            if lost is not None:
                why = "; ".join(one for one in (f"{lost['state']}: {lost['why']}", said) if one)
                rows.append([symbol, _text(lost["at"]), why, *("" for _ in names)])
            elif row is not None:
                rows.append([symbol, _text(row["at"]), said, *(_text(row.get(name)) for name in names)])
        if rows:
            headings = ("symbol", "since", "no result", *names)
            used = [place for place in range(len(headings)) if any(row[place] for row in rows)]
            table = rows_table([headings[place] for place in used], ([row[place] for place in used] for row in rows), safe)
            parts.append((asset, table))
    return "\n".join(f"<h3>{title}</h3>\n{table}" for title, table in parts)


def _entries(reader: Reader, table: str, names: Sequence[str], counted: Sequence[str], span: Span, safe: Safe) -> str:
    """Lay out the entries of a stream: how many of each kind, and the last ones, newest first."""
    rows = _of_day(reader, table, span)
    if not rows:
        return "<p>None is recorded.</p>"
    counts = Counter(tuple(_text(row.get(name)) for name in counted) for row in rows)
    totals = rows_table((*counted, "count"), ((*kind, count) for kind, count in sorted(counts.items())), safe)
    rest = f"<p>The last {LISTED_MAX} of {len(rows)}; `quantum export` gives all.</p>" if len(rows) > LISTED_MAX else ""
    last = ([_text(row.get(name)) for name in ("at", *names)] for row in rows[::-1][:LISTED_MAX])
    return totals + rest + rows_table(("time", *names), last, safe)


def _profiles(reader: Reader, span: Span, safe: Safe) -> str:
    """List each profile from when it was first recorded that day, with all its parameters."""
    first = {(row["symbol"], row["fingerprint"]): row for row in _of_day(reader, "parameters", span)[::-1]}
    if not first:
        return "<p>No step of the day has recorded its parameters.</p>"
    rows = sorted(first.values(), key=lambda row: row["at"])
    return rows_table(
        ("since", "profile", "fingerprint", "parameters"),
        ([_text(row["at"]), row["symbol"], row["fingerprint"], row["text"]] for row in rows),
        safe,
    )


def _values(reader: Reader, table: str, span: Span) -> dict[str, str]:
    """Give each name with every value it had, in their order."""
    values: dict[str, dict[str, None]] = {}
    for row in _of_day(reader, table, span):
        values.setdefault(row["symbol"], {})[str(row["value"])] = None
    return {name: ", then ".join(found) for name, found in sorted(values.items())} or {
        "none": "no step of the day has recorded any"
    }


def _files(archive: Archive, day: date, safe: Safe) -> str:
    """List the files with their hashes: those of the manifest, or where there is none those of now."""
    headings: tuple[str, ...]
    rows: Iterable[Sequence[object]]
    if not archive.is_compacted(day):
        files = [path for table in archive.tables() for path in archive.files(table, day)]
        headings = ("file", "bytes", "SHA-256")
        rows = [(path.relative_to(archive.root), path.stat().st_size, sha256_of(path)) for path in files]
        note = "The day is not compacted yet: it is in no chain, and these are the hashes of now."
    else:
        try:
            manifest = archive.manifest(day)
        except ValueError as error:
            return f"<p>{safe(error)}</p>"
        headings = ("table", "rows", "bytes", "SHA-256")
        rows = [(table, of["rows"], of["bytes"], of["sha256"]) for table, of in manifest["tables"].items()]
        previous = manifest["previous"]
        after = (
            f"follows {previous['date']}, whose manifest has {previous['sha256']}" if previous else "is the first of its chain"
        )
        note = f"SHA-256 of the manifest: {sha256_of(archive.manifest_path(day))}. It {after}."
    return f"<p>{safe(note)}</p>\n{rows_table(headings, rows, safe)}"


def _of_day(reader: Reader, table: str, span: Span) -> list[dict[str, Any]]:
    frame = reader.between(table, *span)
    return frame.collect().to_dicts() if frame.collect_schema().get("at") == TIME else []


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
