"""``quantum feed``: starts the exchange feed, a program of its own that this one never imports."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from quantum_assets.cli import EXIT_USAGE

LIBRARY = "ccxt"


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def feed(arguments: tuple[str, ...]) -> None:
    """Candles of an exchange into the history keys, in a process and an environment of their own; see docs/feeds.md."""
    if importlib.util.find_spec(LIBRARY) is None:
        click.echo(
            f"{LIBRARY} is not installed here, and should not be where permits are given. Make an environment for the feed: "
            "`make feed`, then .venv-feed/bin/quantum feed ... (docs/feeds.md)",
            err=True,
        )
        sys.exit(EXIT_USAGE)
    os.execv(sys.executable, [sys.executable, "-m", "feeds", *arguments])  # noqa: S606 - becomes the feed
