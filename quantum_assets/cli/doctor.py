"""``quantum doctor``: what may be wrong with this installation, and what to do about it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from quantum_assets.cli import EXIT_FAILED, EXIT_INFRASTRUCTURE
from quantum_assets.contracts.reading import printable
from resources.diagnosis import diagnose
from resources.settings import load_settings

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def doctor(*, as_json: bool) -> None:
    """Examine settings, versions, disk, ports, Redis (rights, persistence, clock), broker, storage, keys of other writers.

    \b
    quantum doctor
    quantum doctor --json

    It changes nothing. Exit codes: 0 all well, or warnings only; 1 something must be mended; 2 wrong settings; 3 Redis away.
    """
    settings = load_settings()
    found = []
    for one in diagnose(settings):
        found.append(one)
        if not as_json:
            click.echo(f"{click.style(f'{one.level:<4}', fg=COLOURS[one.level])} {one.what}: {printable(one.seen)}")
            if one.remedy:
                click.echo(f"     {one.remedy}")
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
    failed = {one.what for one in found if one.level == "fail"}
    if "redis" in failed:
        sys.exit(EXIT_INFRASTRUCTURE)
    if failed:
        sys.exit(EXIT_FAILED)
