"""The proofs of what is on record: the days of the flight recorder are as they were written, and can be computed again."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock

import polars as pl

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_assets.replay.rerun import NotRecordedError, Outcome, rerun
from resources.recorder.archive import EVERY, Archive, sha256_of
from resources.recorder.names import is_foreign
from resources.recorder.reading import archive_of
from resources.recorder.verification import Verifier

HOUR = timedelta(hours=1)
BUDGET_SEC = 5.0  # of a worker of proofs, beside the cycles
INTACT = "each as its manifest has it, each manifest followed by the next"
EQUAL = "each row and each decision as it was published, bit by bit"
_computed: dict[str, Outcome | None] = {}  # by the hash of a manifest: what came of its day

proof = Prover("history", per_symbol=False)


def archive_intact(evidence: Evidence) -> Finding:
    """Every compacted day has the files of its manifest, each with its hash, and follows the one before; an open day its own."""
    archive = Verifier(archive_of(evidence.settings).root, evidence.now)
    days = archive.manifest_days()
    failing = {fault.file: fault.what for fault in archive.verify()}
    observed = f"{len(days)} days, {archive.compared} files" if days else "no recorded day has been compacted yet"
    if archive.postponed:
        observed += f"; {archive.postponed} more are hashed in the next runs"
    return Finding(observed, INTACT, len(days), failing)


def recomputed(evidence: Evidence) -> Finding:
    """An hour of the newest compacted day, picked by the hash of its manifest, gives again what was published then.

    Once per day and process, for at most BUDGET_SEC: what a day of records gives does not change from one minute to the next.
    """
    archive = archive_of(evidence.settings)
    days = archive.manifest_days()
    if not days:
        return Finding("no recorded day has been compacted yet", EQUAL, 0, {})
    digest = sha256_of(archive.manifest_path(days[-1]))
    if digest not in _computed:
        _computed.clear()
        _computed[digest] = _an_hour_of(archive, days[-1], digest)
    outcome = _computed[digest]
    if outcome is None or outcome.began is None or outcome.ended is None:
        return Finding(f"no step is recorded in the hour picked of {days[-1]}", EQUAL, 0, {})
    observed = f"{outcome.rows} rows and {outcome.decisions} decisions, {outcome.began:%Y-%m-%d %H:%M} to {outcome.ended:%H:%M}"
    return Finding(observed, EQUAL, outcome.rows + outcome.decisions, _failing(outcome))


def day_intact(archive: Archive, day: date) -> Finding:
    """Judge the files of one day by its manifest, and the chain of all manifests; each file is hashed now.

    Raises
    ------
    NotRecordedError
        The day is not compacted: there is nothing to compare its files with.
    """
    if not archive.is_compacted(day):
        message = f"{day} is not compacted yet: its files are in no manifest"
        raise NotRecordedError(message)
    failing = {fault.file: fault.what for fault in archive.verify_day(day)}
    count = sum(len(archive.files(table, day)) for table in archive.tables())
    observed = f"{count} files of the day, a chain of {len(archive.manifest_days())} manifests"
    return Finding(observed, INTACT, count, failing)


def day_recomputed(archive: Archive, day: date, budget_sec: float) -> Finding:
    """Compute hours of one day again, in an order given by the hash of its manifest, until the budget is spent.

    Raises
    ------
    NotRecordedError
        No step of the day could be compared.
    ValueError
        A file cannot be read, or is missing.
    """
    if missing := _missing(archive, day):
        message = f"{'; '.join(missing)}: what rests on that is not judged; put it back"
        raise ValueError(message)
    seed = sha256_of(archive.manifest_path(day)) if archive.is_compacted(day) else str(day)
    begins = [datetime.combine(day, clock(hour), UTC) for hour in range(24)]
    last_moment, total, hours = time.monotonic() + budget_sec, Outcome(), 0
    for start in sorted(begins, key=lambda begin: hashlib.sha256(f"{seed}{begin.hour}".encode()).digest()):
        left_sec = last_moment - time.monotonic()
        if left_sec <= 0:
            break
        with suppress(NotRecordedError):
            total.include(rerun(archive, start, start + HOUR, budget_sec=left_sec))
            hours += 1
    judged = total.rows + total.decisions
    if not judged:
        message = f"no step of {day} could be computed again: {', '.join(sorted(total.skipped)) or 'none is recorded'}"
        raise NotRecordedError(message)
    observed = f"{total.rows} rows and {total.decisions} decisions in {hours} of the hours on record, {total.differing} differ"
    return Finding(observed, EQUAL, judged, _failing(total))


def _failing(outcome: Outcome) -> dict[str, str]:
    """Say of each asset and symbol what differs."""
    return {
        f"{one.asset} {one.symbol}": f"{one.cycle_id} {one.name}: published {one.recorded}, computed {one.computed}"
        + (f" ({one.reason})" if one.reason else "")
        for one in outcome.differences
    }


def _missing(archive: Archive, day: date) -> list[str]:
    """Name the files of a day that are missing, without which what is computed again differs for no reason of its own."""
    found = archive.incomplete({EVERY: [(day, day)]})
    return [f"{fault.file} {fault.what}" for fault in found if not is_foreign(fault.what)]


def _an_hour_of(archive: Archive, day: date, digest: str) -> Outcome | None:
    if _missing(archive, day):  # as a file that cannot be read
        return None
    try:
        records = archive.read("records", [day])
        if "at" not in records.collect_schema():
            return None
        moments = records.select(pl.col("at").min().alias("first"), pl.col("at").max().alias("last")).collect()
        first, last = moments["first"][0], moments["last"][0]
        latest = max((last - first - HOUR) / timedelta(minutes=1), 0)  # minute at which a whole hour may still begin
        start = first + timedelta(minutes=int(digest[:8], 16) % (int(latest) + 1))
        return rerun(archive, start, min(start + HOUR, last + timedelta(microseconds=1)), budget_sec=BUDGET_SEC)
    except (NotRecordedError, ValueError):  # a file that cannot be read is the other proof's
        return None


PROOFS = (
    proof(
        "recomputed",
        "An hour of the last recorded day, computed again from its inputs, gives what was published.",
        recomputed,
    ),
    proof(
        "archive_intact",
        "Every compacted day of the archive is as it was written, and the days are one chain.",
        archive_intact,
    ),
)
