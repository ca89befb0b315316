"""``quantum feed``: starts the exchange feed, a program of its own whose exchange code this one never imports.

Its options and its help are read where the exchange library is not installed, too.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from quantum_core.exit_codes import EXIT_USAGE
from quantum_core.feed_options import HELP, with_options

LIBRARY = "ccxt"


class PassedOn(click.Command):
    """Keeps its arguments as they were typed, beside what they mean."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, so that a wrong option is refused here."""
        ctx.meta[LIBRARY] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=PassedOn, help=HELP)
@with_options
def feed(**_: object) -> None:
    """Become the feed, where its library is installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        click.echo(
            f"{LIBRARY} is not installed here, and should not be where permits are given. Make an environment for the feed: "
            "`make feed`, then .venv-feed/bin/quantum feed ... (docs/feeds.md)",
            err=True,
        )
        sys.exit(EXIT_USAGE)
    os.execv(sys.executable, [sys.executable, "-m", "quantum_feed", *click.get_current_context().meta[LIBRARY]])  # noqa: S606 - becomes the feed
