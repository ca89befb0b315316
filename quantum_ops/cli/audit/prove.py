"""``quantum prove``: the whole proof pack against the live Redis, one line per proof, and a report to be filed."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantum_core.display import number_of
from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.freshness import ONLY_NAMED
from quantum_core.logs import log_to_stderr
from quantum_core.settings import load_settings
from quantum_ops.cli import given
from quantum_ops.cli.files import write_whole
from quantum_ops.cli.history.look_back import Day

if TYPE_CHECKING:
    from quantum_assets.checks.proof import Verdict

GROUPS = (
    "market_state",
    "position",
    "risk_proposal",
    "harvest_proposal",
    "capital_efficiency",
    "allocation_target",
    "position_size",
    "risk_guard",
    "trade_intent",
    "governor_permit",
    "all",
    "informative",
    "history",
)
OF_LIVE_DATA = frozenset({"live_source", "no_synthetic_position", "no_permit_from_bad_data"})  # ALLOW_SYNTHETIC decides these
COLOURS = {"PASS": "green", "FAIL": "red", "WARN": "yellow"}
NAMED = 5  # failing symbols named per proof; --json and --report name all


@click.command()
@click.option("--symbols", help="Comma-separated; default: SYMBOLS.")
@click.option("--group", help=f"Only one group of proofs: {', '.join(GROUPS)}.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON on stdout.")
@click.option("--list", "listed", is_flag=True, help="Print every proof as Markdown instead (docs/proofs.md).")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Also write a self-contained page to this file.")
@click.option("--day", type=Day(), help="With --report: of this past UTC day, from the archive alone.")
@click.option(
    "--verify", "filed", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Say whether a page is as written."
)
def prove(
    symbols: str | None,
    group: str | None,
    *,
    as_json: bool,
    listed: bool,
    report: Path | None,
    day: datetime | None,
    filed: Path | None,
) -> None:
    """Judge every proof against what is published now. Nothing is written to Redis.

    The shell needs the settings of the deployment it judges (REDIS_URL, SYMBOLS, QUANTUM_HOME, ALLOW_SYNTHETIC=true for the
    example).

    \b
    quantum prove
    quantum prove --symbols BTCUSDT --group risk_proposal
    quantum prove --json
    quantum prove --report evidence.html
    quantum prove --report tuesday.html --day 2026-01-20
    quantum prove --verify evidence.html

    With --day the page is made later, from the archive, without Redis: whether the files of that day are as they were written
    and what it published can be computed again (for at most a minute), what stood when it ended, decisions, alerts, profiles,
    versions and gaps.

    Exit codes: 0 every proof holds (the warning of a profile without evidence changes nothing), or the page is as it was written
    (--verify); 1 some do not (each is named with its symbols), or could not be evaluated, or the page was changed, or there is no
    room for it; 2 wrong usage or settings, a file that cannot be there, or nothing is recorded of --day; 3 Redis away.
    """
    warnings.filterwarnings("ignore", module="dagster")
    if listed:
        from quantum_ops.cli.layout import show_page

        show_page(catalogue())
    elif filed is not None:
        _verify(filed)
    elif day is not None:
        if report is None or symbols is not None or group is not None:
            message = "--day needs --report, and takes neither --symbols nor --group: the page is of everything recorded that day"
            raise click.UsageError(message)
        _prove_day(day.date(), report, as_json=as_json)
    else:
        _prove_now(symbols, group, report, as_json=as_json)


def _prove_now(symbols: str | None, group: str | None, report: Path | None, *, as_json: bool) -> None:
    """Judge what is published now."""
    settings = load_settings(**given(symbols=symbols))
    universe = load_settings().symbols
    log_to_stderr("WARNING")
    if group is not None and group not in GROUPS:
        message = f"no group {group!r}; there are {', '.join(GROUPS)}"
        raise click.UsageError(message)
    from resources.store.redis_store import RedisStore

    store = RedisStore(settings)
    store.run("starting to prove", [("PING",)])
    from quantum_assets.checks.evidence import Evidence  # takes seconds, which a wrong group or a dead server need not
    from quantum_assets.checks.pack import PROOFS, run
    from resources.instance.home import open_instance

    proofs = [proof for proof in PROOFS if group in (None, proof.group)]
    began = time.monotonic()
    with open_instance(settings) as instance:
        verdicts = run(lambda: Evidence(store, instance, hurried=True, universe=universe), proofs)
    now = store.clock().timestamp()
    seconds = time.monotonic() - began
    failed = _show(verdicts, now, f"for {number_of(len(settings.symbols), 'symbol')}, {seconds:.1f} s", as_json=as_json)
    if any(not one.evaluated for one in failed):
        RedisStore(settings).run("proving", [("PING",)])  # it may be the server that went away: that has an exit code of its own
    if report is not None:
        from quantum_ops.report import render

        _write(report, render(verdicts, store=store))
    if failed:
        click.echo(_hint(failed, allow_synthetic=settings.allow_synthetic), err=True, nl=False)
        sys.exit(EXIT_FAILED)


def _hint(failed: Sequence[Verdict], *, allow_synthetic: bool) -> str:
    """Say what may be missing in this shell where what is not live fails: the setting is the deployment's, not the data's."""
    names = sorted({one.proof.title.rpartition("/")[2] for one in failed} & OF_LIVE_DATA)
    if allow_synthetic or not names:
        return ""
    return (
        f"{', '.join(names)}: this shell has no ALLOW_SYNTHETIC. If the deployment runs with it, as `make run` does,\n"
        "give it here, too: export ALLOW_SYNTHETIC=true\n"
    )


def _prove_day(day: date, report: Path, *, as_json: bool) -> None:
    """Judge what is recorded of a past day, and write its page."""
    from resources.recorder.reading import Reader, archive_of

    settings, now = load_settings(), datetime.now(UTC)
    reader = Reader(archive_of(settings))
    days = reader.archive.days()
    if day not in days:
        covered = f"it has {len(days)} days, {days[0]} to {days[-1]}" if days else "it has no day: `quantum recorder` writes them"
        removed = f"RECORDER_DAYS or RECORDER_MAX_GB has removed the files of {day}; " if reader.archive.is_compacted(day) else ""
        message = f"nothing is recorded of {day} in {reader.archive.root}: {removed}{covered}"
        raise click.UsageError(message)
    from quantum_ops.day_report import judged, render_day

    verdicts = judged(reader.archive, day)
    failed = _show(verdicts, now.timestamp(), f"for {day}, from records", as_json=as_json)
    _write(report, render_day(verdicts, reader, day, settings=settings, now=now))
    if failed or reader.unreadable or reader.incomplete():
        sys.exit(EXIT_FAILED)


def _verify(filed: Path) -> None:
    """Say whether a page is as it was written."""
    from quantum_ops.sealed_page import verify

    if not verify(filed.read_bytes().decode("utf-8", "replace")):
        click.echo(f"{filed} is not as it was written: its content does not have the hash it ends with.", err=True)
        sys.exit(EXIT_FAILED)
    click.echo(f"{filed} is as it was written.")


def _show(verdicts: Sequence[Verdict], now: float, of_what: str, *, as_json: bool) -> list[Verdict]:
    """Print every verdict; give those of proofs that do not hold."""
    from quantum_assets.checks.pack import told

    if as_json:
        rows = [
            {"proof": verdict.proof.title, "group": verdict.proof.group, "claim": verdict.proof.claim, **told(verdict, now)}
            for verdict in verdicts
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        from quantum_ops.cli.layout import say

        for verdict in verdicts:
            state = _state(verdict)
            say(*_lines(verdict, state), style=COLOURS[state], hang=6)
    unmet = [verdict for verdict in verdicts if not verdict.passed]
    failed = [verdict for verdict in unmet if verdict.severity == "ERROR" or verdict.proof.title not in ONLY_NAMED]
    click.echo(f"{len(verdicts) - len(unmet)} of {len(verdicts)} proofs hold {of_what}", err=True)
    return failed


def _write(report: Path, page: str) -> None:
    write_whole(report, page.encode(), "--report")
    click.echo(f"Report: {report}", err=True)


CATALOGUE = """# The proof pack

Generated by `quantum prove --list > docs/proofs.md` from `quantum_assets/checks`; a test fails when the two differ. Each proof is
an asset check of the asset in front of its name. ERROR: the number must not be used. WARN: the number is right, but somebody
should look. Every proof is broken by the tampering of its name in `tests/checks/test_tampering.py`, which sees that one go red
and no other (but an unreadable market state, which rightly breaks three): `test_exactly_the_right_proof_goes_red[<name>]`.

"""


def catalogue() -> str:
    """List every proof as a Markdown table."""
    from quantum_assets.checks.pack import PROOFS

    rows = "".join(f"| {one.group} | `{one.title}` | {one.severity} | {one.claim} | `[{one.title}]` |\n" for one in PROOFS)
    return f"{CATALOGUE}{len(PROOFS)} proofs.\n\n| group | proof | severity | claim | broken by |\n|---|---|---|---|---|\n{rows}"


def _state(verdict: Verdict) -> str:
    return "PASS" if verdict.passed else "FAIL" if verdict.severity == "ERROR" else "WARN"


def _lines(verdict: Verdict, state: str) -> list[str]:
    """Say in one line what became of a proof, and in a second one what failed."""
    finding = verdict.finding
    lines = [f"{state}  {verdict.proof.title:42s} {finding.observed}  ({finding.threshold})"]
    if finding.failing:
        named = "; ".join(f"{name}: {why}" for name, why in list(finding.failing.items())[:NAMED])
        more = len(finding.failing) - NAMED
        lines.append(f"      {named}{f'; and {more} more' if more > 0 else ''}")
    return lines
