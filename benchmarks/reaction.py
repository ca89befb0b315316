"""How soon the live product answers what happens: plans, closed candles, positions that turn. About 20 minutes.

``python -m benchmarks.reaction``. Events come at random moments, so that nothing falls into step with the daemon's grid. A plan
is answered when its permit or block can be read, a candle or position when a harvest proposal computed from it can. Then the bell
is silenced, and what idle costs is compared with ``EVENTS=off``, side by side.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import dagster as dg
import numpy as np
import psutil

from benchmarks.chaos import wait_until
from benchmarks.live import CANDLE_EVERY_SEC, Live, running
from benchmarks.report import main, say, spread
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, RISK_PROPOSAL
from quantum_ops.doctor.diagnosis import diagnose
from sensors.cycle import CYCLE_JOB_NAME, EVENT_JOB_NAME
from tests.world import write_plan

Row = Mapping[str, Any]
FEW, MANY, MANY_IF_SHORT = 3, 566, 12
PLANS, CANDLES, FLIPS, IF_SHORT = 200, 60, 40, 3
BURST, BURST_IF_SHORT = 2_000, 20
SILENT_SEC, IDLE_SEC, BESIDE_SEC, SECONDS_IF_SHORT = 60, 60, 180, 18
PAUSE_SEC, GIVEN_UP_SEC = 1.5, 30.0
EVENT_PAUSE_SEC = 3.0  # event cycles of a shard are at least 2 s apart
POLL_SEC = 0.002
LOOK_SEC = 0.05  # between two looks at all symbols: they take a core from what is measured
SETTINGS = {"enable_stream": "true", "gov_max_exec_per_hour": 100, "gov_max_exec_per_5min": 100}


def measure(*, short: bool) -> dict[str, Any]:
    """Measure all of it."""
    many = MANY_IF_SHORT if short else MANY
    count = dict.fromkeys(("plans", "candles", "flips"), IF_SHORT) if short else {}
    seconds = SECONDS_IF_SHORT if short else 0
    with running("product", FEW, **SETTINGS) as live:
        live.look(2, 180)
        of_few = {
            "plan_sec": spread(plans(live, count.get("plans", PLANS))),
            "burst": burst(live, BURST_IF_SHORT if short else BURST),
            "candle_sec": spread(candles(live, count.get("candles", CANDLES))),
            "flip_sec": spread(flips(live, count.get("flips", FLIPS))),
            "bell_silent": silent(live, seconds or SILENT_SEC),
        }
    with running("product", many, **SETTINGS) as live:
        live.look(2, 240)
        of_many = {
            "plan_sec": spread(plans(live, count.get("plans", PLANS))),
            "candle_burst": candle_burst(live),
            "cadence_beside_events": cadence(live, seconds or BESIDE_SEC),
        }
    return {"symbols": [FEW, many], "few": of_few, "many": of_many, "idle": idle(many, seconds or IDLE_SEC)}


# --- plans


def plans(live: Live, count: int) -> list[float]:
    """Give the seconds from each plan to its answer."""
    rng, took = np.random.default_rng(1), []
    symbols = live.world.symbols
    for number in range(count):
        time.sleep(rng.uniform(0, PAUSE_SEC))
        plan_id = f"reaction-{time.time_ns()}"
        began = time.monotonic()
        write_plan(live.store, plan_id, symbols[number % len(symbols)], qty=1)
        took.append(until(lambda plan_id=plan_id: answers(live, [plan_id]) == 1, f"an answer to {plan_id}", began))  # type: ignore[misc]
    say(f"{live.name}: {count} plans answered")
    return took


def burst(live: Live, count: int) -> dict[str, float]:
    """Write many plans at once, and give the seconds until all are answered."""
    ids = [f"burst-{time.time_ns()}-{number}" for number in range(count)]
    stream, began = live.store.keys.of("stream_plans"), time.monotonic()
    rows = zip(ids, (live.world.symbols * count)[:count], strict=True)
    fields = ("action", "CLOSE", "decision", "EXECUTE", "qty", "0.001")
    live.world.send(("XADD", stream, "*", "plan_id", plan_id, "symbol", symbol, *fields) for plan_id, symbol in rows)
    return {"plans": count, "seconds": round(until(lambda: answers(live, ids) == count, f"answers to {count} plans", began), 3)}


def answers(live: Live, ids: Sequence[str]) -> int:
    """Count the plans whose permit or block stands."""
    of = live.store.keys.of
    pipeline = live.store.client.pipeline(transaction=False)
    for plan_id in ids:
        pipeline.exists(of("permit", plan_id), of("block", plan_id))
    return sum(pipeline.execute())


def silent(live: Live, seconds: float) -> dict[str, Any]:
    """Silence the bell, and give the seconds to the answers meanwhile and whether the doctor names it."""
    client = live.store.client
    client.execute_command("ACL", "SETUSER", "default", "-client|tracking")  # type: ignore[no-untyped-call]
    for one in client.client_list():
        if "t" in one["flags"]:
            client.client_kill_filter(_id=one["id"])
    began, took = time.monotonic(), []
    while time.monotonic() < began + seconds:
        took += plans(live, 1)
    named = [finding.seen for finding in diagnose(live.store.settings) if finding.what == "bell" and finding.level != "ok"]
    client.execute_command("ACL", "SETUSER", "default", "+client|tracking")  # type: ignore[no-untyped-call]
    until(lambda: any("t" in one["flags"] for one in client.client_list()), "the bell to listen again", time.monotonic())
    return {"plan_sec": spread(took), "named_by_the_doctor": named[0]}


# --- candles and positions


def candles(live: Live, count: int) -> list[float]:
    """Give the seconds from each closed candle to the risk and harvest proposals that rest on its market state."""
    rng, took, world = np.random.default_rng(2), [], live.world
    for number in range(count):
        time.sleep(EVENT_PAUSE_SEC * rng.uniform(0.7, 1.7))
        row = number % len(world.symbols)
        began, now_ms = time.monotonic(), int(time.time() * 1000)
        world.backfill(row, now_ms, world.marks()[row], rng.uniform(0.0005, 0.003))  # a state that differs enough to be published
        closed = (now_ms - 1) // 1000
        took.append(until(lambda row=row, closed=closed: rests_on(live, row, closed), "proposals on a candle", began))  # type: ignore[misc]
    say(f"{live.name}: {count} candles answered")
    return took


def rests_on(live: Live, row: int, closed: int) -> bool:
    """Return whether both proposals of a symbol rest on a state that knows a candle."""
    return not without_answer(live, live.world.symbols[row : row + 1], closed)


def without_answer(live: Live, symbols: Sequence[str], closed: int, written: Mapping[str, int] | None = None) -> list[str]:
    """Name the symbols of which a proposal does not rest yet on a state that knows a candle; one read for all of them."""
    tables = [live.store.read(table, symbols) for table in (MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL)]
    rows = zip(symbols, *([reading.value for reading in readings] for readings in tables), strict=True)
    after = written or {}
    return [symbol for symbol, *values in rows if not answered_by(*values, closed, after.get(symbol, math.inf))]


def answered_by(state: Row | None, risk: Row | None, harvest: Row | None, closed: int, evaluated: float) -> bool:
    """Return whether both proposals rest on a state that knows a candle.

    It names the candle when it was published with it. A state that the candle has changed too little to be published was
    evaluated since the candle was written: in a whole second after it, as precise as a state is about that time.
    """
    if state is None or risk is None or harvest is None:
        return False
    if state["ts_timestamp"] < closed and state["last_update_epoch"] < evaluated:
        return False
    return bool(risk["sigma"] == harvest["sigma"] == state["sigma"])


def flips(live: Live, count: int) -> list[float]:
    """Give the seconds from each position that turns to the proposals of its new side."""
    rng, took, world = np.random.default_rng(3), [], live.world
    with muted(live, world.symbols[0]):
        for number in range(count):
            time.sleep(EVENT_PAUSE_SEC * rng.uniform(0.7, 1.7))
            side = ("LONG", "SHORT")[number % 2] if world.side(0) == "SHORT" else ("SHORT", "LONG")[number % 2]
            began, now = time.monotonic(), int(time.time())
            mark = world.marks()[0]
            key = live.store.keys.of("raw_position", world.symbols[0])
            fields = {"side": side, "quantity": 1, "entry_price": mark, "mark_price": mark, "ts_epoch": now}
            live.store.client.hset(key, mapping=fields)
            took.append(until(lambda side=side: of_side(live, side), f"proposals for {side}", began))  # type: ignore[misc]
    say(f"{live.name}: {count} turns of a position answered")
    return took


def of_side(live: Live, side: str) -> bool:
    """Return whether both proposals of the first symbol are for a side."""
    rows = [live.store.read(table, live.world.symbols[:1])[0].value for table in (RISK_PROPOSAL, HARVEST_PROPOSAL)]
    return all(row is not None and row["position_side"] == side for row in rows)


@contextmanager
def muted(live: Live, symbol: str) -> Iterator[None]:
    """Have nobody else write a symbol's position."""
    live.world.muted.add(symbol)
    try:
        yield
    finally:
        live.world.muted.discard(symbol)


def candle_burst(live: Live) -> dict[str, Any]:
    """Write a closed candle of every symbol within 3 s, and give the seconds from the last one to all proposals."""
    world = live.world
    until(lambda: 5 < time.time() - world.renewed < CANDLE_EVERY_SEC - 20, "a quiet minute", time.monotonic(), 60)
    before, now_ms = len(starts(live, 0)), int(time.time() * 1000)
    moved = np.random.default_rng(5).uniform(1.01, 1.03, len(world.symbols))  # enough for every state to be published
    marks, part = world.marks(), -(-len(world.symbols) // 6)
    written: dict[str, int] = {}
    for first in range(0, len(world.symbols), part):
        rows = range(first, min(first + part, len(world.symbols)))
        world.send(world.candle(world.symbols[row], now_ms, marks[row] * float(moved[row])) for row in rows)
        written |= {world.symbols[row]: math.ceil(time.time()) for row in rows}
        time.sleep(0.5)
    began, closed = time.monotonic() - 0.5, (now_ms - 1) // 1000
    waiting = list(world.symbols)

    def answered() -> bool:
        time.sleep(LOOK_SEC)
        waiting[:] = without_answer(live, waiting, closed, written)
        return not waiting

    took = until(answered, "proposals on every candle", began)
    return {"symbols": len(world.symbols), "seconds": round(took, 3), "runs": len(starts(live, 0)) - before}


def cadence(live: Live, seconds: float) -> dict[str, Any]:
    """Write candles at random moments, and give the gaps between the cycles that come every 10 s."""
    rng, world, began = np.random.default_rng(4), live.world, time.time()
    events = 0
    while time.time() < began + seconds:
        time.sleep(rng.uniform(0.1, 2.0))
        row = int(rng.integers(len(world.symbols)))
        world.send([world.candle(world.symbols[row], int(time.time() * 1000), world.marks()[row])])
        events += 1
    began_at = starts(live, began, CYCLE_JOB_NAME)
    return {
        "events": events,
        "event_cycles": len(starts(live, began)) - len(began_at),
        "cycles": len(began_at),
        "gap_sec": spread([later - earlier for earlier, later in pairwise(began_at)]),
    }


def starts(live: Live, since: float, *jobs: str) -> list[float]:
    """Give when runs of these jobs, or of all that compute proposals, have begun."""
    found = []
    for job in jobs or (CYCLE_JOB_NAME, EVENT_JOB_NAME):
        found += [run.start_time for run in live.instance.get_run_records(dg.RunsFilter(job_name=job)) if run.start_time]
    return sorted(one for one in found if one > since)


# --- idle


def idle(count: int, seconds: float) -> dict[str, Any]:
    """Compare ticks and CPU of daemon and code server while nothing happens, with and without events, side by side."""
    with running("product", count, **SETTINGS) as on, running("product", count, **SETTINGS, events="off") as off:
        for live in (on, off):
            live.look(2, 240)
            live.world.stopped.set()
        time.sleep(15)
        before = {live: (cpu_sec(live), ticks(live)) for live in (on, off)}
        time.sleep(seconds)
        spent = {live: (cpu_sec(live) - cpu, ticks(live) - ticked) for live, (cpu, ticked) in before.items()}
    return {
        "seconds": seconds,
        "cpu_sec": {"on": round(spent[on][0], 2), "off": round(spent[off][0], 2)},
        "cpu_ratio": round(spent[on][0] / spent[off][0], 3),
        "ticks": {"on": spent[on][1], "off": spent[off][1]},
    }


def cpu_sec(live: Live) -> float:
    """Give the CPU seconds so far of daemon and code server."""
    total = 0.0
    for process in live.family():
        with suppress(psutil.NoSuchProcess):
            if any(word in ("resources.instance.sensor_daemon", "grpc") for word in process.cmdline()):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def ticks(live: Live) -> int:
    """Count the ticks of both sensors that the bell wakes."""
    return sum(len(live.ticks(name)) for name in ("cycle", "plans"))


def until(holds: Callable[[], bool], what: str, began: float, within_sec: float = GIVEN_UP_SEC) -> float:
    """Wait for something, and give the seconds since a moment.

    Raises
    ------
    DidNotHappenError
        It has not come about.
    """
    wait_until(what, holds, within_sec, POLL_SEC)
    return time.monotonic() - began


if __name__ == "__main__":
    main("reaction", __doc__, measure)
