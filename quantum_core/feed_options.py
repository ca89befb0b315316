"""Options and help of ``quantum feed``: of the command that starts the exchange feed, and of the feed, which never meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

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
