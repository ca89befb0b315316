"""What the flight recorder costs, and what it gives: the product with it beside the product without it, in turns.

Each turn is a deployment of its own on the same kind of data (``benchmarks/cycle.py``); the ratios are those of the medians over
all turns. Then what was recorded is computed again and compared, and its size is reckoned to a day: rows of the first minute, in
which every window of candles is written whole, are left out. About 15 minutes.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import polars as pl

from benchmarks.cycle import figures
from benchmarks.live import Live, running
from benchmarks.report import main, say
from quantum_assets.replay.rerun import rerun
from resources.recorder.archive import SORTED_BY, Archive

START_SEC, LIMIT_SEC_PER_CYCLE = 120, 40
LEFT_OUT = 6  # first cycles: imports, empty caches, and the minute in which all is recorded in full
DAY_SEC = 86_400
SETTLED = timedelta(seconds=60)


class Case(NamedTuple):
    """So many symbols, turns of each kind, and cycles of a turn."""

    symbols: int
    turns: int
    cycles: int


CASES, SHORT_CASES = (Case(3, 1, 18), Case(566, 2, 18)), (Case(3, 1, 3),)


def measure(*, short: bool) -> dict[str, Any]:
    """Measure all cases."""
    return {"cases": [measure_case(case) for case in (SHORT_CASES if short else CASES)]}


def measure_case(case: Case) -> dict[str, Any]:
    """Take turns without and with the recorder."""
    without, with_it = [], []
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "recorder"
        for _ in range(case.turns):
            without.append(turn(case, kept, recorded=False))
            with_it.append(turn(case, kept, recorded=True))
        archive = Archive(kept)
        before, after = middle(without), middle(with_it)
        result = {
            "symbols": case.symbols,
            "without": before,
            "with": after,
            "ratio": {name: round(after[name] / before[name], 3) for name in ("latency_p50_sec", "cpu_sec_per_cycle")},
            "archive": sizes(archive),
            "rerun": again(archive),
        }
    say(f"{case.symbols} symbols: {result}")
    return result


def turn(case: Case, kept: Path, *, recorded: bool) -> dict[str, float]:
    """Run one deployment, and read its figures; keep its archive."""
    with running("product", case.symbols, recorder=recorded, recorder_flush_sec=5) as live:
        first = live.look(LEFT_OUT, START_SEC + LEFT_OUT * LIMIT_SEC_PER_CYCLE)
        before = recorder_cpu_sec(live)
        last = live.look(first.cycles + case.cycles, case.cycles * LIMIT_SEC_PER_CYCLE)
        found = figures(live, first, last, case.symbols)
        of_recorder = (recorder_cpu_sec(live) - before) / found["cycles"]
        if recorded:
            time.sleep(10)  # what was recorded last is written
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(live.home / "recorder", kept)
    say(f"{live.name}, {'with' if recorded else 'without'} the recorder: {found}")
    return {
        "latency_p50_sec": found["latency_sec"]["p50"],
        "latency_p95_sec": found["latency_sec"]["p95"],
        "cpu_sec_per_cycle": found["cpu_sec_per_cycle"],
        "recorder_cpu_sec_per_cycle": round(of_recorder, 3),
        "peak_pss_mb": found["peak_pss_mb"],
    }


def recorder_cpu_sec(live: Live) -> float:
    """Add up the CPU of the recorder's own process."""
    times = [one.cpu_times() for one in live.family() if "recorder" in " ".join(one.cmdline())]
    return sum(one.user + one.system for one in times)


def middle(turns: list[dict[str, float]]) -> Mapping[str, float]:
    """Give the median of each figure."""
    return {name: round(median(one[name] for one in turns), 3) for name in turns[0]}


def sizes(archive: Archive) -> dict[str, Any]:
    """Reckon the rows of all but the first minute, sorted into one file per table as compaction does, to a day."""
    records = archive.read("records").collect()
    began, ended = records["at"].min() + SETTLED, records["at"].max()
    seconds = (ended - began).total_seconds()
    total, by_table = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        for table in archive.tables():
            rows = archive.read(table).collect()
            if "at" not in rows.columns or not len(rows := rows.filter(pl.col("at") > began)):
                continue
            path = Path(folder) / f"{table}.parquet"
            rows.sort([name for name in SORTED_BY if name in rows.columns], nulls_last=True).write_parquet(
                path, compression="zstd"
            )
            by_table[table] = round(path.stat().st_size * DAY_SEC / seconds / 1e6, 2)
            total += path.stat().st_size
    largest = dict(sorted(by_table.items(), key=lambda one: -one[1])[:5])
    return {"seconds": round(seconds, 1), "mb_per_day": round(total * DAY_SEC / seconds / 1e6, 1), "largest_mb_per_day": largest}


def again(archive: Archive) -> dict[str, Any]:
    """Compute everything again by one process."""
    records = archive.read("records").collect()
    began, ended = records["at"].min(), records["at"].max()
    start = time.monotonic()
    outcome = rerun(archive, began, ended + timedelta(microseconds=1))
    seconds = time.monotonic() - start
    return {
        "rows": outcome.rows,
        "differing": outcome.differing,
        "left_out": sum(outcome.skipped.values()),
        "times_as_fast_one_process": round((ended - began).total_seconds() / seconds, 1),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main("recorder", __doc__, measure)
