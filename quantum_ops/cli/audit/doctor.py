"""``quantum doctor``: what may be wrong with this installation, and what to do about it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import starmap
from pathlib import Path

import click

from quantum_core.exit_codes import EXIT_FAILED, EXIT_INFRASTRUCTURE
from quantum_core.settings import load_settings
from quantum_ops.doctor.diagnosis import Finding, diagnose
from quantum_ops.doctor.env_files import examine_files

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--env", "env_files", multiple=True, type=click.Path(path_type=Path), help="Examine old environment files instead.")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def doctor(env_files: tuple[Path, ...], more: tuple[Path, ...], *, as_json: bool) -> None:
    """Examine settings, versions, disk, ports, Redis (rights, persistence, clock), broker, storage, keys of other writers.

    \b
    quantum doctor
    quantum doctor --json
    quantum doctor --env old/marketstate.env old/governor.env

    With --env it reads the environment files of older services, whatever the settings are, and says of each variable whether it
    is taken over or obsolete, and which values conflict.

    It changes nothing. Exit codes: 0 healthy, or warnings only; 1 something must be fixed; 2 wrong settings or an unreadable
    file; 3 Redis away.
    """
    if more and not env_files:
        message = "files are given with --env"
        raise click.UsageError(message)
    from quantum_ops.cli.layout import console, paragraph

    out, findings = console(), []
    for finding in starmap(Finding, examine_files([*env_files, *more])) if env_files else diagnose(load_settings()):
        findings.append(finding)
        if not as_json:
            shown = paragraph(out, f"{finding.level:<4} {finding.what}: {finding.seen}", hang=7)
            shown.stylize(COLOURS[finding.level], 0, len(finding.level))
            out.print(shown)
            if finding.remedy:
                out.print(paragraph(out, f"     {finding.remedy}"))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in findings], indent=2))
    failed = {one.what for one in findings if one.level == "fail"}
    if "redis" in failed:
        sys.exit(EXIT_INFRASTRUCTURE)
    if failed:
        sys.exit(EXIT_FAILED)
