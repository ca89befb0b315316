"""`quantum simulate`: seeded cycles under faults, without Redis; what did not hold, each with the seed that repeats it."""

import json
import logging
import os
from textwrap import wrap

import click

from quantum_core.display import number_of
from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.settings import load_settings

WIDTH = 80
NOWHERE = "redis://localhost:1/0"  # nothing is ever asked there


@click.command(epilog="\b\nExamples:\n  quantum simulate\n  quantum simulate --seed 17 --cycles 200 --json")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="First seed.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many, one after the other.")
@click.option("--cycles", type=click.IntRange(min=1), default=50, show_default=True, help="Cycles of each seed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(seed: int, seeds: int, cycles: int, as_json: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Run cycles of a made-up market with faults, and check what must always hold.

    Symbols and parameters are those of the settings of this shell. The same seed, cycles and settings give the same run.
    Exit codes: 0 everything held, 1 something did not.
    """
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # frames of a few rows: more threads wait for each other
    from quantum_assets.simulation import report as simulation

    logging.getLogger("quantum").setLevel(logging.CRITICAL)  # faults are what it is about, and are counted
    settings = load_settings(redis_url=NOWHERE)

    def progress(done: int, so_far: simulation.Report) -> None:
        click.echo(
            f"seed {done}: {number_of(so_far.cycles, 'cycle')}, {number_of(len(so_far.violations), 'violation')}", err=True
        )

    report = simulation.simulate(range(seed, seed + seeds), cycles, settings, progress)
    if as_json:
        rows = {
            "seeds": seeds,
            "cycles": report.cycles,
            "faults": dict(sorted(report.faults.items())),
            "published": dict(sorted(report.published.items())),
            "decided": dict(sorted(report.decided.items())),
            "violations": [one._asdict() for one in report.violations],
            "digests": report.digests,
        }
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo(", ".join(map(number_of, (seeds, report.cycles, len(report.violations)), ("seed", "cycle", "violation"))))
        counted = (("faults", report.faults), ("published", report.published), ("decided", report.decided))
        for heading, counts in counted:
            text = ", ".join(f"{kind or 'permitted'} {count}" for kind, count in sorted(counts.items()) if count)
            click.echo("\n".join(wrap(f"{heading}: {text or 'none'}", WIDTH, subsequent_indent="  ")))
        for violation in report.violations:
            click.echo("\n".join(wrap(str(violation), WIDTH, subsequent_indent="  ", break_long_words=False)))
    if report.violations:
        raise click.exceptions.Exit(EXIT_FAILED)
