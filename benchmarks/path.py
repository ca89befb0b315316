"""The way of one value through the live product: candle, market state, risk proposal, harvest proposal, permit. About 4 minutes.

At random moments a closed candle with a price of its own is written for one of three symbols. The streams show when its market
state, and the proposals that carry that state's sigma, were published (the server's own time, written together with the
hash); a plan written the moment the harvest proposal appears ends in a permit. Each time is split into wait, until the sensor
tick that took the value, and work, from there to the publication.
"""

import bisect
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from dagster._core.scheduler.instigation import InstigatorTick

from benchmarks.live import Live, running
from benchmarks.report import main, say, spread
from resources.store.redis_store import RedisStore
from tests.world import write_plan

SYMBOLS = 3
VALUES, VALUES_IF_SHORT = 16, 2  # per symbol
PAUSE_SEC, GIVEN_UP_SEC = 10.0, 30.0  # before each candle a random pause of up to one cycle
MOVE = 0.03  # of the distinctive price; beyond 10 % it would be held back as a fault
SETTINGS = {  # streams to see publications in, and the largest limits there are: more than the plans of one symbol
    "enable_stream": "true",
    "gov_max_exec_per_hour": 100,
    "gov_max_exec_per_5min": 100,
    "gov_max_reduce_notional_per_day_usd": 1e12,
}
STAGES = ("market_state", "risk_proposal", "harvest_proposal", "permit")
Fields = dict[str, str]


class Value(NamedTuple):
    """One value: when its candle was written, when each stage was published, and the cycle or run that decided the plan."""

    written: float
    published: dict[str, float]
    decided_by: str = ""
    granted: bool = False


def measure(*, short: bool) -> dict[str, Any]:
    """Follow values through a running product."""
    count = VALUES_IF_SHORT if short else VALUES
    with running("product", SYMBOLS, **SETTINGS) as live:
        live.look(2, 180)
        with ThreadPoolExecutor(SYMBOLS) as pool:
            values = [value for some in pool.map(lambda row: follow(live, row, count), range(SYMBOLS)) for value in some]
        cycle_ticks, plan_ticks = ([tick for tick in live.ticks(name) if tick.run_ids] for name in ("cycle", "plans"))
    return figures(values, cycle_ticks, plan_ticks)


def follow(live: Live, row: int, count: int) -> list[Value]:
    """Send values through one symbol, one after the other."""
    rng = np.random.default_rng(row)
    symbol = live.world.symbols[row]
    values = []
    for turn in range(count):
        time.sleep(rng.uniform(0, PAUSE_SEC))
        price = live.world.marks()[row] * float(1 + rng.uniform(-MOVE, MOVE))
        values.append(follow_one(live, row, price, rng.uniform(0.0005, 0.003), f"path-{symbol}-{turn}"))
        say(f"{symbol}: value {turn + 1} of {count}")
    return values


def follow_one(live: Live, row: int, price: float, volatility: float, plan_id: str) -> Value:
    """Write one candle, and with it the ones before, so that all are a minute apart; wait for everything it leads to."""
    store, symbol, now_ms = live.store, live.world.symbols[row], int(time.time() * 1000)
    live.world.backfill(row, now_ms, price, volatility)
    seconds, microseconds = store.client.time()
    written = int(seconds) + int(microseconds) / 1e6
    closed = (now_ms - 1) // 1000  # as the market state tells the time of its newest candle
    published: dict[str, float] = {}

    def wait_for(stage: str, stream: str, wanted: Callable[[Fields], bool]) -> Fields:
        published[stage], fields = arrival(store, stream, written, lambda entry: entry.get("symbol") == symbol and wanted(entry))
        return fields

    try:
        state = wait_for("market_state", "stream_market_state", lambda entry: int(entry["timestamp"]) >= closed)
        for stage in ("risk_proposal", "harvest_proposal"):
            wait_for(stage, f"stream_{stage}", lambda entry: float(entry["sigma"]) == float(state["sigma"]))
        write_plan(store, plan_id, symbol, qty=1)
        event = wait_for("permit", "stream_governor_events", lambda entry: entry.get("plan_id") == plan_id)
    except TimeoutError as error:
        say(f"{symbol}: {error}")
        return Value(written, published)
    return Value(written, published, event["cycle_id"], event["event"] == "PERMIT")


def arrival(store: RedisStore, stream: str, since: float, wanted: Callable[[Fields], bool]) -> tuple[float, Fields]:
    """Wait for a stream entry; give the time at which the server stored it, epoch seconds, and its fields.

    Raises
    ------
    TimeoutError
        None has come.
    """
    key, after, deadline = store.keys.of(stream), f"{int(since * 1000)}-0", time.monotonic() + GIVEN_UP_SEC
    while time.monotonic() < deadline:
        reply: Any = store.client.xread({key: after}, block=500)
        for _, entries in reply:
            for entry_id, raw in entries:
                after = entry_id.decode()
                fields = {name.decode(): value.decode() for name, value in raw.items()}
                if wanted(fields):
                    return int(after.partition("-")[0]) / 1000, fields
    msg = f"nothing came in {key} within {GIVEN_UP_SEC:.0f} s"
    raise TimeoutError(msg)


def figures(values: Sequence[Value], cycles: Sequence[InstigatorTick], plans: Sequence[InstigatorTick]) -> dict[str, Any]:
    """Split the times of all values at the tick that took them."""
    begun = [tick.timestamp for tick in cycles]
    by_run = {run_id: tick.timestamp for tick in (*cycles, *plans) for run_id in tick.run_ids}
    times: dict[str, dict[str, list[float]]] = {stage: {"total": [], "wait": [], "work": []} for stage in STAGES}
    for value in values:
        waited = 0.0
        for stage, when in value.published.items():
            if stage == "market_state":  # taken by the cycle that published it
                waited = max(begun[bisect.bisect_right(begun, when) - 1] - value.written, 0.0)
            elif stage == "permit" and value.decided_by in by_run:  # by the plans' own sensor, whose tick was waited for as well
                waited += max(by_run[value.decided_by] - value.published["harvest_proposal"], 0.0)
            total = when - value.written
            for name, seconds in (("total", total), ("wait", waited), ("work", total - waited)):
                times[stage][name].append(seconds)
    decided = [value for value in values if "permit" in value.published]
    return {
        "values": len(values),
        "permits": sum(value.granted for value in decided),
        "decided_in_the_same_cycle": sum(value.decided_by not in by_run for value in decided),
        "seconds": {stage: {name: spread(seconds) for name, seconds in split.items()} for stage, split in times.items()},
    }


if __name__ == "__main__":
    main("path", __doc__, measure)
