"""`quantum evidence`: what sigma and regimes of profiles were worth on recorded candles.

Here belong the choice of files and what is printed. What is measured is :mod:`quantum_lab.evidence`'s.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantum_core.exit_codes import EXIT_FAILED
from quantum_ops.cli.lab.given import Duration, unwritten, writable

if TYPE_CHECKING:
    from quantum_core.settings import Settings
    from quantum_lab.evidence import Sample

FORMS = (".html", ".md", ".json")
NAMED_MAX = 5  # notes on the candles of a file


@click.command(
    epilog="\b\nExamples:\n  quantum evidence BTCUSDT_1m.csv\n"
    "  quantum evidence candles/ --profile crypto-1m --out page.html\n  quantum evidence --recorded --json"
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--recorded", is_flag=True, help="Candles of the flight recorder's archive.")
@click.option("--symbol", help="Of all files; of a folder only those with it in their name.")
@click.option(
    "--profile", "names", multiple=True, help="Shipped profile or file; may be repeated. Default: those shipped for such candles."
)
@click.option("--horizon", type=Duration(), default="60m", show_default=True, help="How far ahead, beside one candle.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write FILE.html, FILE.md or FILE.json.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the document as JSON.")
def evidence(
    files: tuple[Path, ...],
    symbol: str | None,
    names: tuple[str, ...],
    horizon: int,
    out: Path | None,
    *,
    recorded: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Measure what the numbers of profiles are worth on candles.

    FILES are CSV, JSON, Parquet or Feather, also packed, or folders of such
    (`quantum replay --help`); each file is judged for itself. Of a folder, a
    file that cannot be used is named and left out.

    Coverage of sigma with Kupiec and Christoffersen; its forecasts beside
    EWMA, GARCH(1,1) and HAR; how long regimes last and what they predict,
    against chance. Equal files and libraries give equal documents, with one
    SHA-256. GARCH needs `make lab`; without it the document says so.

    Exit codes: 0 measured, also where files of a folder were left out; 1 no
    file has enough candles, or more than 1 % of the rows of one that was named
    are malformed; 2 a file that was named, a profile or an option cannot be
    used, or --out exists.
    """
    from quantum_core.profiles.files import meant_for
    from quantum_core.settings import load_settings
    from quantum_lab.evidence import canonical
    from quantum_lab.evidence import evidence as measured
    from quantum_ops.cli.lab.given import cache_of, profiles_of

    if bool(files) == recorded:
        message = "give either FILES or --recorded"
        raise click.UsageError(message)
    if out is not None and out.suffix.lower() not in FORMS:
        message = f"--out {out}: accepted are names that end in {', '.join(FORMS)}"
        raise click.UsageError(message)
    writable(out)
    if out is not None:
        unwritten("--out", out, force=force)
    settings = load_settings()
    samples = list(_recorded(settings) if recorded else _read(files, symbol, settings))
    if not samples:
        click.echo("Nothing was judged: no file has candles that say anything.", err=True)
        sys.exit(EXIT_FAILED)
    intervals = sorted({one.history.interval_sec for one in samples})
    meant = dict.fromkeys(name for interval_sec in intervals for name in meant_for(interval_sec))
    profiles = profiles_of(names or list(meant), (), intervals[0])
    try:
        document = measured(
            samples,
            profiles,
            horizon_sec=horizon,
            cache=cache_of(settings, None),
            progress=lambda what: click.echo(what, err=True),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if out is not None:
        _write(out, document)
    if as_json:
        click.echo(canonical(document))
    elif out is None:
        _print(document)
    if not any(one["states"] for one in document["content"]["results"]):
        needed = max(one.candles_required for one in profiles)
        click.echo(f"Nothing was judged: a state needs {needed} candles without a gap.", err=True)
        sys.exit(EXIT_FAILED)


def _read(files: tuple[Path, ...], wanted: str | None, settings: Settings) -> Iterator[Sample]:
    from quantum_ops.cli.history.recordings import choose, read_usable, refuse, report, say_left_out

    chosen = choose(files, symbol=wanted, known=settings.symbols)
    left_out: dict[Path, str] = {}
    for symbol, paths in chosen.items():
        for path in paths:
            recording, unusable = read_usable(symbol, [path], files)
            left_out |= unusable
            if recording is None:
                continue
            report(recording)
            refuse([recording], "nothing was judged.", EXIT_FAILED)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            if (sample := _sample(path.name, symbol, recording.candles.frame, (sha256,))) is not None:
                yield sample
    say_left_out(left_out, sum(map(len, chosen.values())))


def _recorded(settings: Settings) -> Iterator[Sample]:
    """Give the candles of each symbol of the archive."""
    from quantum_lab.evidence import Sample
    from quantum_ops.cli.lab.given import histories_of_archive
    from resources.recorder.reading import Reader, archive_of

    covered = Reader(archive_of(settings)).covered()
    if covered is None:
        message = "no candles are recorded; QUANTUM_HOME names the deployment's folder"
        raise click.ClickException(message)
    for history in histories_of_archive(*covered, settings):
        yield Sample(f"recorded {history.symbol}", history)


def _sample(name: str, symbol: str, frame: Any, sha256: tuple[str, ...]) -> Sample | None:
    """Judge the candles of a file; of one that says nothing, why is named, and the others are measured."""
    from quantum_lab.candles import CandlesError, history_of
    from quantum_lab.evidence import Sample

    try:
        history = history_of(symbol, frame)
    except CandlesError as error:
        click.echo(f"{name} left out: {error}", err=True)
        return None
    if history.close.min() == history.close.max():
        click.echo(f"{name} left out: its price never moves", err=True)
        return None
    for note in history.notes[:NAMED_MAX]:
        click.echo(f"{name}: {note}", err=True)
    return Sample(name, history, sha256)


def _write(out: Path, document: Mapping[str, Any]) -> None:
    suffix = out.suffix.lower()
    if suffix == ".json":
        from quantum_lab.evidence import canonical

        text = canonical(document)
    elif suffix == ".md":
        from quantum_lab.tables import markdown

        text = markdown(document)
    else:
        from quantum_ops.evidence_page import page

        text = page(document)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"{out} cannot be written ({error}): give another --out"
        raise click.UsageError(message) from error
    click.echo(f"{out}: {len(text) / 1000:.0f} kB, content {document['sha256']}", err=True)


def _print(document: Mapping[str, Any]) -> None:
    from quantum_lab.tables import sections_of
    from quantum_ops.cli.layout import Column, console, paragraph, records

    out = console()
    content = document["content"]
    for section in sections_of(document):
        if section.title.startswith(("What it", "Figures of")):
            out.print(paragraph(out, section.title, "bold"))
            out.print(*(paragraph(out, f"- {sentence}") for sentence in section.sentences), sep="\n")
    for profile in content["profiles"]:
        shown = [one for one in content["results"] if one["profile"] == profile["name"]]
        rows = [
            (
                one["sample"],
                *(f"{band['share']:.1%}" if band["share"] is not None else "-" for band in one["coverage"]),
            )
            for one in shown
        ]
        bands = [f"{band['nominal']:.0%} {band['span']}" for band in shown[0]["coverage"]]
        columns = (Column("file"), *(Column(name, right=True, labelled=True) for name in bands))
        out.print(records(out, columns, rows, f"{profile['name']}: share of moves beyond the band"))
    out.print(f"SHA-256 {document['sha256']}; tables: --out FILE.html", markup=False)
