"""What 20 dead symbols of 566 cost: two whole stacks side by side for an hour, one of them all healthy.

``python -m benchmarks.dead_symbols``: both run at the same time on a Redis server and an instance folder of their own, so
that whatever else the machine does slows both. In one of them the candles of 20 symbols are deleted after the first cycles,
and written no more. About 65 minutes.
"""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from benchmarks.cycle import figures
from benchmarks.live import Live, running
from benchmarks.report import main, say

SYMBOLS, DEAD, CYCLES, SHORT_CYCLES, LEFT_OUT = 566, 20, 360, 6, 8
LIMIT_SEC_PER_CYCLE = 30
ENOUGH_DIFFERENCE, ENOUGH_RATIO = 0.05, 1.05
COUNTED = """
    SELECT
        max(id),
        sum(dagster_event_type = 'ASSET_CHECK_EVALUATION'),
        sum(dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED' AND partition IS NOT NULL)
    FROM event_logs
"""


def measure(*, short: bool) -> dict[str, Any]:
    """Run both side by side."""
    cycles = SHORT_CYCLES if short else CYCLES
    with running("product", SYMBOLS) as healthy, running("product", SYMBOLS) as dying, ThreadPoolExecutor(2) as pool:
        first = list(pool.map(lambda live: live.look(LEFT_OUT, LEFT_OUT * LIMIT_SEC_PER_CYCLE), (healthy, dying)))
        before = [stored(live) for live in (healthy, dying)]
        dying.world.kill(dying.store.settings.symbols[:DEAD])
        say(f"{DEAD} symbols of one are dead")
        last = list(
            pool.map(lambda live, look: live.look(look.cycles + cycles, cycles * LIMIT_SEC_PER_CYCLE), (healthy, dying), first)
        )
        after = [stored(live) for live in (healthy, dying)]
        both = [
            {
                **figures(live, start, end, SYMBOLS),
                "stored_events_per_cycle": round((now[0] - then[0]) / (end.cycles - start.cycles), 1),
                "check_evaluations": now[1] - then[1],
                "failed_partitions_recorded": now[2] - then[2],
            }
            for live, start, end, then, now in zip((healthy, dying), first, last, before, after, strict=True)
        ]
    return {"symbols": SYMBOLS, "dead": DEAD, "healthy": both[0], "with_dead": both[1], **compare(*both)}


def stored(live: Live) -> tuple[int, int, int]:
    """Count the events ever stored, and of two kinds those that are kept."""
    with closing(sqlite3.connect(live.home / "history" / "event_log.db")) as conn:
        total, checks, failed = conn.execute(COUNTED).fetchone()
    return total, checks, failed


def compare(healthy: dict[str, Any], dying: dict[str, Any]) -> dict[str, Any]:
    """Compare the two."""
    events = dying["stored_events_per_cycle"] / healthy["stored_events_per_cycle"]
    latency = {name: round(dying["latency_sec"][name] / healthy["latency_sec"][name], 3) for name in ("p50", "p95")}
    return {
        "events_ratio": round(events, 3),
        "latency_ratio": latency,
        "reached": abs(events - 1) <= ENOUGH_DIFFERENCE and latency["p50"] <= ENOUGH_RATIO,
    }


if __name__ == "__main__":
    main("dead_symbols", __doc__, measure)
