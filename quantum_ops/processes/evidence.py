"""Measures evidence on recorded candles, in a process of its own that gives way to everything else on the machine.

Started as ``python -m quantum_ops.processes.evidence`` by the asset ``evidence``, with a request as JSON on stdin: archive, days
(first, last), symbols, profile (body), interval_sec, horizon_sec, cache, and report: a path to which ``.json`` and ``.html`` are
added. Exit codes: 0 written, 1 no symbol has candles enough.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.profiles.profile import from_body
from resources.recorder.archive import Archive
from resources.recorder.reading import Reader

if TYPE_CHECKING:
    from quantum_lab.evidence import Sample

LOWEST_PRIORITY = 19


def write_report(request: Mapping[str, Any]) -> int:
    """Measure, and write the report: the page first, so that whoever finds the JSON finds both."""
    from quantum_lab.evidence import canonical, evidence
    from quantum_ops.evidence_page import page

    samples = list(recorded(request))
    if not samples:
        print(f"no candles of {', '.join(request['symbols'])} from {' to '.join(request['days'])}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    profile, cache = from_body(request["profile"]), Path(request["cache"])
    document = evidence(samples, [profile], horizon_sec=request["horizon_sec"], cache=cache)
    for suffix, text in ((".html", page(document)), (".json", canonical(document))):
        whole = Path(f"{request['report']}{suffix}")
        partial = whole.with_name(f".{whole.name}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(whole)
    return 0


def recorded(request: Mapping[str, Any]) -> Iterator[Sample]:
    """Give the candles of each symbol on the days asked for."""
    from quantum_lab.candles import CandlesError, recorded_history
    from quantum_lab.evidence import Sample

    first, last = map(date.fromisoformat, request["days"])
    reader = Reader(Archive(request["archive"]))
    for symbol in request["symbols"]:
        frame = reader.candles(symbol, datetime.combine(first, time.min, UTC), datetime.combine(last, time.max, UTC))
        if not frame.width or frame.height < 2:
            continue
        try:
            history = recorded_history(symbol, frame, request["interval_sec"])
        except CandlesError as error:
            print(f"{symbol}: {error}", file=sys.stderr)  # noqa: T201
            continue
        yield Sample(symbol, history)


if __name__ == "__main__":
    os.nice(LOWEST_PRIORITY)
    sys.exit(write_report(json.load(sys.stdin)))
