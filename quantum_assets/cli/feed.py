"""``quantum feed``: starts the exchange feed, a program of its own that this one never imports.

Its options and its help stand here, so that they can be read where the exchange library is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from quantum_assets.cli import EXIT_USAGE

LIBRARY = "ccxt"
HELP = """Write closed candles of an exchange to quantum:history:ohlcv:<SYMBOL>:1m, and keep them whole.

\b
quantum feed --exchange binance --market future --symbols BTCUSDT,ETHUSDT
quantum feed --once

Public endpoints only: no key is read or accepted. Gaps are filled from the exchange; what it does not have stays a gap, by
name. Exit codes: 0 stopped as asked, or filled up; 1 some symbol could not be filled; 2 wrong usage or settings; 3 Redis
away (only with --once: without it, the feed goes on trying).
"""
OPTIONS = (
    click.option("--exchange", "name", default="binance", show_default=True, help="ccxt's name of the exchange."),
    click.option("--market", default="future", show_default=True, help="Kind of market, as ccxt calls it: future, swap, spot."),
    click.option("--symbols", help="Comma-separated; default: SYMBOLS."),
    click.option("--url", default="", help="Scheme and host of a proxy; default: the exchange itself."),
    click.option("--once", is_flag=True, help="Fill the history up, and exit."),
    click.option(
        "--take-over", is_flag=True, help="Replace candles of another writer (a replay's) instead of leaving them alone."
    ),
    click.option("--json", "as_json", is_flag=True, help="One line of JSON per round on stdout."),
)
Command = TypeVar("Command", bound=Callable[..., Any])


def with_options(command: Command) -> Command:
    """Give a command the options of the feed."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


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
    os.execv(sys.executable, [sys.executable, "-m", "feeds", *click.get_current_context().meta[LIBRARY]])  # noqa: S606 - becomes the feed
