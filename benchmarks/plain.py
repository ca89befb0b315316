"""Ten minutes of plain Dagster, each way its users start it: how soon the first cycle is green, how long a click takes, red runs.

``python -m benchmarks.plain``: the ways of the browser test, one after the other, driven through Chromium. About an hour.
"""

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from benchmarks.report import main, say, spread
from tests.stack.test_dagster_dev import WAYS, Page, plain_dagster

LASTS_SEC, SHORT_SEC, BETWEEN_CLICKS_SEC = 600, 60, 90
FIRST_CYCLE_SEC, CLICK_SEC = 90.0, 30.0
RED = ("FAILURE", "CANCELED")
CLICKED = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


def measure(*, short: bool) -> dict[str, Any]:
    """Try each way."""
    lasts_sec = SHORT_SEC if short else LASTS_SEC
    ways = {way: try_way(way, lasts_sec) for way in WAYS}
    reached = all(
        not found["red"] and found["first_cycle_sec"] <= FIRST_CYCLE_SEC and found["click_sec"]["max"] <= CLICK_SEC
        for found in ways.values()
    )
    return {"lasts_sec": lasts_sec, "ways": ways, "reached": reached}


def try_way(way: str, lasts_sec: float) -> dict[str, Any]:
    """Start Dagster this way, click on Materialize now and then, and count the runs and how they ended."""
    clicks: list[float] = []
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="plain-") as folder, plain_dagster(Path(folder), way) as dagster:
        dagster.open("/runs?q[0]=job:cycle")
        expect(dagster.page.get_by_text("Success", exact=True).first).to_be_visible()
        cycles = [run for run in dagster.runs() if run["jobName"] == "cycle" and run["status"] == "SUCCESS"]
        first_cycle_sec = min(run["endTime"] for run in cycles) - began
        while time.time() - began < lasts_sec or not clicks:
            clicks.append(click(dagster, CLICKED[len(clicks) % len(CLICKED)]))
            time.sleep(min(BETWEEN_CLICKS_SEC, lasts_sec / 2))
        runs = dagster.runs()
    ended = Counter((run["jobName"], run["status"]) for run in runs)
    figures = {
        "first_cycle_sec": round(first_cycle_sec, 1),
        "click_sec": spread(clicks, 1),
        "runs": {f"{job} {status}": count for (job, status), count in sorted(ended.items())},
        "red": sum(count for (_, status), count in ended.items() if status in RED),
    }
    say(f"{way}: first cycle {figures['first_cycle_sec']} s, clicks {figures['click_sec']}, red runs {figures['red']}")
    return figures


def click(dagster: Page, symbol: str) -> float:
    """Materialize one asset for one symbol as a person does; give the seconds from the click to the end of its run."""
    dagster.find("risk_proposal")
    dagster.materialize(symbol)
    return dagster.seconds_of_the_run_on_view()


if __name__ == "__main__":
    main("plain", __doc__, measure)
