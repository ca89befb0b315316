"""The proofs of what is on record: the days of the flight recorder are as they were written, and can be computed again."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_assets.rerun import NotRecordedError, Outcome, rerun
from resources.recorder.archive import Archive, sha256_of
from resources.recorder.reading import archive_of
from resources.recorder.verification import Verifier

HOUR = timedelta(hours=1)
BUDGET_SEC = 5.0  # of a worker of proofs, beside the cycles
_computed: dict[str, Outcome | None] = {}  # by the hash of a manifest: what came of its day

proof = Prover("history", per_symbol=False)


def archive_intact(evidence: Evidence) -> Finding:
    """Every compacted day has the files its manifest names, each with its hash, and follows the day before it."""
    archive = Verifier(archive_of(evidence.settings).root, evidence.now)
    days = archive.manifest_days()
    failing = {fault.file: fault.what for fault in archive.verify()}
    observed = f"{len(days)} days, {archive.compared} files" if days else "no recorded day has been compacted yet"
    if archive.postponed:
        observed += f"; {archive.postponed} more are hashed in the next runs"
    return Finding(observed, "each as its manifest has it, each manifest followed by the next", len(days), failing)


def recomputed(evidence: Evidence) -> Finding:
    """An hour of the newest compacted day, picked by the hash of its manifest, gives again what was published then.

    Once per day and process, for at most BUDGET_SEC: what a day of records gives does not change from one minute to the next.
    """
    archive, expected = archive_of(evidence.settings), "each row and each decision as it was published, bit by bit"
    days = archive.manifest_days()
    if not days:
        return Finding("no recorded day has been compacted yet", expected, 0, {})
    digest = sha256_of(archive.manifest_path(days[-1]))
    if digest not in _computed:
        _computed.clear()
        _computed[digest] = _an_hour_of(archive, days[-1], digest)
    outcome = _computed[digest]
    if outcome is None or outcome.began is None or outcome.ended is None:
        return Finding(f"no step is recorded in the hour picked of {days[-1]}", expected, 0, {})
    failing = {
        f"{one.asset} {one.symbol}": f"{one.cycle_id} {one.name}: published {one.recorded}, computed {one.computed}"
        + (f" ({one.reason})" if one.reason else "")
        for one in outcome.differences
    }
    observed = f"{outcome.rows} rows and {outcome.decisions} decisions, {outcome.began:%Y-%m-%d %H:%M} to {outcome.ended:%H:%M}"
    return Finding(observed, expected, outcome.rows + outcome.decisions, failing)


def _an_hour_of(archive: Archive, day: date, digest: str) -> Outcome | None:
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
