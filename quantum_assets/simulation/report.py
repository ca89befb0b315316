"""Runs of many seeds, and what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from quantum_assets.simulation.cycle import Run
from quantum_assets.simulation.invariants import Violation, Watch, check
from quantum_core.settings import Settings


@dataclass
class Report:
    """What came of some runs.

    Attributes
    ----------
    cycles
        Of all seeds together.
    faults, published, decided
        Counts by kind, by asset, and by reason (empty for permits).
    violations
        What did not hold; a seed ends with the first cycle that has any.
    digests
        Fingerprint of all that was published and decided, by seed.
    """

    cycles: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    published: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)


def simulate(
    seeds: Iterable[int], cycles: int, settings: Settings, progress: Callable[[int, Report], None] | None = None
) -> Report:
    """Run some seeds, and check everything after each cycle.

    Parameters
    ----------
    seeds
        Each a run of its own.
    cycles
        Of each.
    settings
        Symbols and parameters.
    progress
        Is called after each seed.
    """
    report = Report()
    for seed in seeds:
        run, watch = Run(seed, settings), Watch()
        for _ in range(cycles):
            report.cycles += 1
            try:
                violations = list(check(run, run.cycle(), watch))
            except Exception as error:  # noqa: BLE001 - whatever the product raises is named with its seed
                violations = [Violation(seed, run.cycles, "raised", f"{type(error).__name__}: {error}")]
            if violations:
                report.violations += violations
                break
        report.faults += run.world.faults
        report.published += run.publications
        report.decided.update(event["reason"] for event in run.events)
        report.digests[seed] = run.digest
        if progress is not None:
            progress(seed, report)
    return report
