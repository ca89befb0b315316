"""The proof of what is on record: the days of the flight recorder are as they were written."""

from __future__ import annotations

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Prover
from resources.recorder.reading import archive_of
from resources.recorder.verification import Verifier

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


PROOFS = (
    proof(
        "archive_intact",
        "Every compacted day of the archive is as it was written, and the days are one chain.",
        archive_intact,
    ),
)
