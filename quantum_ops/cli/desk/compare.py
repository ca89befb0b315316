"""`quantum compare`: how champion and challenger differed over the last day.

Here belongs the table. What is counted is :mod:`quantum_core.comparison`'s.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from quantum_core.settings import load_settings
from quantum_ops.cli.layout import Column, console, records

ALL = "all"


@click.command()
@click.option("--symbols", help="Comma-separated; default: SYMBOLS.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def compare(symbols: str | None, *, as_json: bool) -> None:
    """Show how often champion and challenger differed over the last 24 hours, and by how much.

    The challenger is the profile that CHALLENGER names; it is computed beside the one in force, the champion. Nothing acts on it.
    Regimes are of all evaluations; actions and stops of those with an open position. "stop farther" is how much farther from the
    price the challenger's stop is. The last two columns count where only the stop of one of them was beyond the price.

    \b
    quantum compare
    quantum compare --symbols BTCUSDT --json

    Exit codes: 0 compared; 1 nothing was compared yet; 2 no challenger, or wrong settings; 3 Redis away.
    """
    from quantum_core.comparison import HEADINGS, comparison_cells, difference, summed
    from resources.store.profiles import profile_now
    from resources.store.redis_store import RedisStore
    from resources.store.shadow import read_comparisons, running_challenger

    settings = load_settings(**({"symbols": symbols} if symbols else {}))
    store = RedisStore(settings)
    champion = profile_now(store).profile
    challenger = settings.challenger_profile or running_challenger(store)
    if challenger is None:
        msg = "no challenger is computed: set CHALLENGER to a shipped profile or a file for all processes"
        raise click.UsageError(msg)
    counted = read_comparisons(store, challenger, settings.symbols)
    differences = {symbol: difference(hours) for symbol, hours in counted.items()}
    if not any(one.compared for one in differences.values()):
        msg = f"nothing was compared yet with {challenger.name}: the first comparison comes with the next market state"
        raise click.ClickException(msg)
    every = difference(summed(counted.values()))
    if as_json:
        profiles = {"champion": champion, "challenger": challenger}
        heads = {role: {"name": one.name, "fingerprint": one.fingerprint} for role, one in profiles.items()}
        click.echo(
            json.dumps({**heads, ALL: asdict(every), "symbols": {one: asdict(of) for one, of in differences.items()}}, indent=2)
        )
        return

    columns = (Column(HEADINGS[0]), *(Column(heading, right=True, labelled=True) for heading in HEADINGS[1:]))
    out = console()
    title = f"Challenger {challenger.name} {challenger.fingerprint} beside {champion.name} {champion.fingerprint}, last 24 h"
    out.print(
        records(out, columns, [(name, *comparison_cells(one)) for name, one in [*differences.items(), (ALL, every)]], title)
    )
