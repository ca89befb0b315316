"""`quantum calibrate`: a profile from recorded candles, with its evidence and a plain verdict.

Here belong the call, the file that is written and what is printed. Rules, search and judgement are :mod:`quantum_lab`'s.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_ops.cli.lab.given import Duration, Number, progress, unwritten, writable

if TYPE_CHECKING:
    from quantum_core.profiles.profile import Profile
    from quantum_lab.calibration import Rules
    from quantum_lab.candles import CandleHistory
    from quantum_lab.search import Search

HELD_OUT_MIN, HELD_OUT_MAX = 0.05, 0.5


class Factors(click.ParamType[tuple[str, tuple[float, ...]]]):
    """A parameter and its factors, like stops.k_sl=0.7,1,1.4."""

    name = "NAME=FACTORS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, tuple[float, ...]]:
        """Understand one."""
        name, _, text = str(value).partition("=")
        try:
            factors = tuple(float(part) for part in text.split(","))
        except ValueError:
            factors = ()
        if not name or not factors or not all(0 < factor < 100 for factor in factors):
            self.fail(f"{value!r}: accepted is a parameter with factors above 0, like stops.k_sl=0.7,1,1.4", param, ctx)
        return name, factors


@click.command(
    epilog="\b\nExamples:\n  quantum calibrate BTCUSDT_1m.csv --interval 1m --horizon 60m --out desk.toml"
    "\n  quantum calibrate candles/ --interval 5m --horizon 2h --out desk.toml \\\n    --optimise expectancy"
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--interval", "interval_sec", type=Duration(), required=True, help="Length of the candles, like 1m.")
@click.option("--horizon", "horizon_sec", type=Duration(), required=True, help="Time a decision is meant to hold, like 60m.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Profile to write, NAME.toml.")
@click.option("--cost-bps", type=Number(0, 1000), default=8.0, show_default=True, help="Cost of a round trip, bps.")
@click.option("--trend-share", type=Number(0.01, 0.6), default=0.15, show_default=True, help="Share of time in trend.")
@click.option("--mr-share", type=Number(0.01, 0.6), default=0.15, show_default=True, help="Share in mean reversion.")
@click.option(
    "--held-out",
    type=Number(HELD_OUT_MIN, HELD_OUT_MAX),
    default=0.2,
    show_default=True,
    help="Last part, to judge by.",
)
@click.option(
    "--judge-on", type=click.Path(path_type=Path), multiple=True, help="Files or folders to judge by, instead of the last part."
)
@click.option("--optimise", type=click.Choice(["expectancy", "drawdown"]), help="Search for better multiples, forward in time.")
@click.option("--search", "searched", type=Factors(), multiple=True, help="Searched parameter; default: the stop multiples.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print evidence and verdict as JSON on stdout.")
def calibrate(
    files: tuple[Path, ...],
    interval_sec: int,
    horizon_sec: int,
    out: Path,
    *,
    cost_bps: float,
    trend_share: float,
    mr_share: float,
    held_out: float,
    judge_on: tuple[Path, ...],
    optimise: Any,
    searched: Sequence[tuple[str, tuple[float, ...]]],
    force: bool,
    as_json: bool,
) -> None:
    """Make a profile from the candles in FILES by documented rules, and judge it on the last part of them.

    FILES are CSV, JSON, Parquet or Feather, also packed, or folders of such: see `quantum replay --help`. Scales of volatility,
    its tails, floors, regime weights and references come from the first part; multiples are those of locked-v1 at the scale of
    the horizon. What is written carries its evidence: hashes and dates of the candles, figures, and a verdict. A profile is only
    recommended where its trades beat every null on candles it has not seen. docs/lab.md has the rules.

    Exit codes: 0 written, whatever the verdict; 1 no profile can be made of these candles; 2 a file cannot be read, or the call
    is wrong.
    """
    from quantum_lab.backtest import BacktestError
    from quantum_lab.calibration import CalibrationError, Rules
    from quantum_lab.candles import CandlesError
    from quantum_lab.judgement import cut, refuse_seen
    from quantum_lab.search import SearchError

    if horizon_sec % interval_sec or horizon_sec < interval_sec:
        msg = f"--horizon {horizon_sec} s is no multiple of --interval {interval_sec} s"
        raise click.UsageError(msg)
    if searched and not optimise:
        msg = "--search needs --optimise expectancy or drawdown"
        raise click.UsageError(msg)
    factors = dict(searched)
    if len(factors) < len(searched):
        msg = "--search names a parameter twice: give all its factors at once, like stops.k_sl=0.7,1,1.4"
        raise click.UsageError(msg)
    writable(out)
    unwritten("--out", out, force=force)
    rules, name = Rules(horizon_sec // interval_sec, cost_bps, trend_share, mr_share), _name_of(out)
    try:
        first = _histories(files, interval_sec)
        first, last = (first, _histories(judge_on, interval_sec)) if judge_on else cut(first, held_out)
        refuse_seen(first, last)
        profile, found = _make(first, last, rules, name, optimise, factors)
    except (BacktestError, CalibrationError, CandlesError, SearchError) as error:
        click.echo(f"No profile was made: {error}", err=True)
        sys.exit(EXIT_FAILED)
    try:
        out.write_text(text_of(profile), encoding="utf-8")
    except OSError as error:
        msg = f"{out} cannot be written ({error}): give another --out"
        raise click.UsageError(msg) from error
    if as_json:
        report = {"profile": str(out), "fingerprint": profile.fingerprint, "evidence": dict(profile.evidence)}
        click.echo(json.dumps({**report, "search": found.body() if found else None}, indent=2, allow_nan=False))
        return
    _print(profile, found, out)


def _histories(files: Sequence[Path], interval_sec: int) -> list[CandleHistory]:
    from quantum_core.settings import load_settings
    from quantum_lab.candles import CandlesError
    from quantum_ops.cli.lab.given import histories_of_files

    histories = histories_of_files(files, load_settings(), symbol=None, otherwise="no profile was made.")
    for history in histories:
        if round(history.interval_sec) != interval_sec:
            message = f"candles of {history.symbol} are {history.interval_sec:g} s apart, and --interval is {interval_sec} s"
            raise CandlesError(message)
    return histories


def _make(
    first: Sequence[CandleHistory],
    last: Sequence[CandleHistory],
    rules: Rules,
    name: str,
    optimise: Any,
    factors: Mapping[str, Sequence[float]],
) -> tuple[Profile, Search | None]:
    from quantum_core.settings import load_settings
    from quantum_lab.calibration import calibrated
    from quantum_lab.judgement import judge, made_from, rounded
    from quantum_lab.search import FACTORS, search
    from quantum_ops.cli.lab.given import cache_of

    cache = cache_of(load_settings(), None)
    found = None
    with progress() as advance:
        profile = calibrated(first, rules, name, cache=cache, progress=partial(advance, "estimators of sigma"))
        if optimise:
            found = search(
                first,
                profile,
                horizon=rules.horizon,
                objective=optimise,
                factors=factors or FACTORS,
                cache=cache,
                progress=partial(advance, "candidates"),
            )
            if not found.refused:
                profile = profile.changed(found.chosen.changes)
        judged = judge(profile, last, horizon=rules.horizon, cache=cache, progress=partial(advance, "candles it has not seen"))
    interval_sec = round(first[0].interval_sec)
    evidence = {
        "interval_sec": interval_sec,
        "horizon_sec": rules.horizon * interval_sec,
        "fingerprint": profile.fingerprint,
        "rules": {field.name: getattr(rules, field.name) for field in dataclasses.fields(rules)},
        "made_from": made_from(first),
        "judged_on": made_from(last),
        **rounded(judged),
        **({"search": rounded(found.body())} if found else {}),
    }
    return dataclasses.replace(profile, note=judged["verdict"], evidence=evidence), found


def _name_of(out: Path) -> str:
    from quantum_core.profiles.files import shipped

    name = out.stem
    if not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII):
        msg = f"--out {out}: the name of a profile has letters, digits, _ . and -"
        raise click.UsageError(msg)
    if name in shipped():
        msg = f"--out {out}: {name} is a shipped profile; give yours a name of its own"
        raise click.UsageError(msg)
    return name


def text_of(profile: Profile) -> str:
    """Write a profile as a file has it: heads, what differs from locked-v1, then its evidence."""
    import tomlkit

    body = profile.body()
    evidence = body.pop("evidence", {})
    del body["symbols"]
    document = tomlkit.document()
    document.add(
        tomlkit.comment("Made by `quantum calibrate`; docs/lab.md has the rules. Only what differs from locked-v1 is written.")
    )
    for name, value in body.items():
        document.add(name, value)
    document.add("evidence", evidence)
    return tomlkit.dumps(document)


def _print(profile: Profile, found: Search | None, out: Path) -> None:
    from quantum_ops.cli.layout import Column, console, paragraph, records

    evidence, printed = profile.evidence, console()
    rows = [
        *((f"beyond the {name.replace('_', ' ')} quantile", _share(value)) for name, value in evidence["coverage"].items()),
        *((name.replace("_", " "), _share(value)) for name, value in evidence["shares"].items()),
    ]
    printed.print(records(printed, (Column("on candles it has not seen"), Column("share", right=True)), rows))
    if found:
        kept = f"Kept as calibrated: {found.refused}." if found.refused else "The best candidate was taken."
        printed.print(paragraph(printed, f"{len(found.candidates)} candidates. {kept}"))
    printed.print(paragraph(printed, evidence["verdict"], "bold"))
    printed.print(
        paragraph(printed, f"Written to {out}, fingerprint {profile.fingerprint}. Look at it: quantum profile show {out}")
    )


def _share(value: float | str) -> str:
    return f"{value:.2%}" if isinstance(value, float) else str(value)
