"""Benchmarks that need no whole deployment, in their short form: each has a figure for all it reports.

Those that start deployments of hundreds of symbols fill the machine for minutes, and would fail the tests beside them; they fail by
themselves when they measured nothing (``benchmarks/report.py``), and the table of all results is rendered here.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import nothing_in, spread
from benchmarks.table import page

ROOT = Path(__file__).resolve().parents[2]
ALONE = ("event_log", "governor", "kernels", "naked", "peers", "recorded_day", "recorder")


@pytest.mark.slow
@pytest.mark.timeout(600)  # the event log's takes two minutes alone: stock storages commit each event
@pytest.mark.parametrize("part", ALONE)
def test_a_short_run_has_a_figure_for_everything(part: str, tmp_path: Path) -> None:
    """`make bench` was broken for weeks: a stack did not start, and the figures were empty."""
    command = [sys.executable, "-m", f"benchmarks.{part}", "--short", "--into", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    measured = json.loads((tmp_path / f"{part}.json").read_text())
    assert measured["short"] is True
    assert "worth nothing as a measurement" in page(tmp_path)  # and the table can be made of it


def test_a_benchmark_that_measured_nothing_says_of_what() -> None:
    found = {"violations": [], "rounds": [{"cpu": 1.0}, {"cpu": math.nan}], "latency_sec": spread([]), "none": None, "word": "x"}
    assert list(nothing_in(found)) == ["rounds[1].cpu", "latency_sec", "none"]
    assert list(nothing_in({})) == ["everything"]
