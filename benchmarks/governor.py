"""The governor: decisions per second of one process on a real server, and how soon a plan has its permit. About 5 minutes.

Throughput: batches of plans for many symbols, half of them opening risk, taken, judged on everything the gates want to know, and
recorded one script each. Latency: plans written at random moments into a running product; split into wait, until the tick of the
sensor (or the cycle) that took the plan, and work, from there until the permit can be read.
"""

import bisect
import tempfile
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np

from benchmarks.live import Live, running
from benchmarks.report import main, say, spread
from quantum_assets.governor_permit import decide_plans
from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.governor.desk import Desk
from tests.servers import valkey
from tests.world import write_plan

PLANS, SYMBOLS = 1000, 100  # a batch is what one evaluation takes at most
ROUNDS, ROUNDS_IF_SHORT = 10, 3
LIVE_SYMBOLS, ASKED, ASKED_IF_SHORT = 3, 40, 4
PAUSE_SEC, GIVEN_UP_SEC = 6.0, 30.0
UNLIMITED = {
    "gov_max_exec_per_hour": 100,
    "gov_max_exec_per_5min": 100,
    "gov_max_reduce_notional_per_day_usd": 1e12,
    "gov_max_reduce_qty_per_day": 1e12,
}


def measure(*, short: bool) -> dict[str, Any]:
    """Measure both."""
    return {
        "throughput": throughput(ROUNDS_IF_SHORT if short else ROUNDS),
        "latency": latency(ASKED_IF_SHORT if short else ASKED),
    }


def throughput(rounds: int) -> dict[str, Any]:
    """Decide batch after batch."""
    rates, granted = [], 0
    symbols = [f"S{number:03d}USDT" for number in range(SYMBOLS)]
    with valkey() as server, tempfile.TemporaryDirectory() as home:
        settings = load_settings(redis_url=server.connection_url, quantum_home=home, symbols=",".join(symbols), **UNLIMITED)
        store = RedisStore(settings, lambda: datetime.now(UTC))
        desk = Desk(store)
        for turn in range(rounds):
            store.client.flushdb()
            desk.ready(*symbols)
            pipe = store.client.pipeline(transaction=False)
            for number in range(PLANS):
                fields = {
                    "plan_id": f"{turn}-{number}",
                    "symbol": symbols[number % SYMBOLS],
                    "action": "OPEN" if number % 2 else "CLOSE",
                    "decision": "EXECUTE",
                    "qty": "0.001",
                    "price": "1",
                }
                pipe.xadd(store.keys.of("stream_plans"), fields)
            pipe.execute()
            began = time.perf_counter()
            decided = decide_plans(store, cycle_id=f"b{turn}")
            rates.append(len(decided) / (time.perf_counter() - began))
            granted = sum(one.granted for one in decided)
            say(f"batch {turn + 1}: {len(decided)} decisions, {rates[-1]:.0f} per s")
        store.client.close()
    return {"plans_per_batch": PLANS, "symbols": SYMBOLS, "granted_per_batch": granted, "plans_per_sec": spread(rates[1:], 0)}


def latency(count: int) -> dict[str, Any]:
    """Ask at random moments, and wait for each permit."""
    rng = np.random.default_rng(0)
    with running("product", LIVE_SYMBOLS, **UNLIMITED) as live:
        live.look(2, 180)
        asked = [ask(live, number, float(rng.uniform(0, PAUSE_SEC))) for number in range(count)]
        ticks = sorted(tick.timestamp for name in ("cycle", "plans") for tick in live.ticks(name) if tick.run_ids)
    waits, works = [], []
    for written, readable in asked:
        took = ticks[max(bisect.bisect_right(ticks, readable) - 1, 0)]
        waits.append(max(took - written, 0.0))
        works.append(readable - written - waits[-1])
    return {
        "plans": count,
        "symbols": LIVE_SYMBOLS,
        "seconds": {
            "total": spread(readable - written for written, readable in asked),
            "wait": spread(waits),
            "work": spread(works),
        },
    }


def ask(live: Live, number: int, pause_sec: float) -> tuple[float, float]:
    """Write one plan; give when that was, and when its permit could be read, epoch s.

    Raises
    ------
    TimeoutError
        There was none in half a minute.
    """
    time.sleep(pause_sec)
    plan_id, symbol = f"latency-{number}", live.world.symbols[number % LIVE_SYMBOLS]
    write_plan(live.store, plan_id, symbol, "CLOSE", qty=0.001, price=1.0)
    written, deadline = time.time(), time.monotonic() + GIVEN_UP_SEC
    while not live.store.client.exists(live.store.keys.of("permit", plan_id, symbol)):
        if time.monotonic() > deadline:
            msg = f"no permit for {plan_id} within {GIVEN_UP_SEC:.0f} s"
            raise TimeoutError(msg)
        time.sleep(0.005)
    return written, time.time()


if __name__ == "__main__":
    main("governor", __doc__, measure)
