"""Many governors at once: every plan is decided exactly once, and no limit of openings or of closes is exceeded."""

import multiprocessing as mp
from collections import Counter
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from quantum_assets.governor_permit import decide_plans
from quantum_core.settings import load_settings
from resources.governor.queue import GROUP, waiting_plans
from resources.store.redis_store import RedisStore, pairs
from tests.governor.desk import Desk
from tests.servers import valkey

PLANS, SYMBOLS = 2000, 20
KINDS = ("CLOSE", "OPEN")
LIMITS = {
    "daily": (40, 30, 25.0),
    "burst": (40, 20, 1e6),
    "hourly": (15, 30, 1e6),
}  # whichever is tightest must hold: per hour, in 5 min, USD
SYMBOLS_ASKED = [f"S{number}USDT" for number in range(SYMBOLS)]
AT = datetime(2026, 1, 22, 12, 0, tzinfo=UTC)


def store_of(url: str, home: str, tightest: str) -> RedisStore:
    """Open a store as one of the governors."""
    hourly, burst, daily_usd = LIMITS[tightest]
    settings = load_settings(
        redis_url=url,
        quantum_home=home,
        gov_max_exec_per_hour=hourly,
        gov_max_exec_per_5min=burst,
        gov_max_reduce_notional_per_day_usd=daily_usd,
        gov_auto_disarm=False,  # else the openings end with the first burst
        symbols=",".join(SYMBOLS_ASKED),
    )
    return RedisStore(settings, lambda: AT)


def govern(url: str, home: str, tightest: str, barrier: Barrier, runs: int) -> None:
    """Decide until nothing waits, whenever all are ready."""
    store = store_of(url, home, tightest)
    for _ in range(runs):
        barrier.wait()
        while waiting_plans(store).symbols:
            decide_plans(store, cycle_id="race")
        barrier.wait()


def fill(store: RedisStore, run: int) -> None:
    """Write the plans, openings and closes in turn; a tenth of them twice, and every symbol asks for more than it may have."""
    store.client.flushdb()
    Desk(store).ready(*SYMBOLS_ASKED)
    pipe = store.client.pipeline(transaction=False)
    for number in range(PLANS):
        fields = {
            "plan_id": f"r{run}-{number}",
            "symbol": f"S{number % SYMBOLS}USDT",
            "action": KINDS[number // SYMBOLS % 2],
            "decision": "EXECUTE",
            "qty": "0.01",
            "price": "100",
        }
        for _ in range(2 if number % 10 == 0 else 1):
            pipe.xadd(store.keys.of("stream_plans"), fields)
    pipe.xgroup_create(store.keys.of("stream_plans"), GROUP, "0")
    pipe.execute()


def judge(store: RedisStore, run: int, tightest: str) -> None:
    """Count again from the records."""
    allowed = int(min(LIMITS[tightest]))
    events = [pairs(fields) for _, fields in store.client.xrange(store.keys.of("stream_governor_events"))]
    decided = Counter(event[b"plan_id"].decode() for event in events if event[b"event"] != b"AUTO_DISARM")
    assert decided == Counter({f"r{run}-{number}": 1 for number in range(PLANS)})
    granted = [event for event in events if event[b"event"] == b"PERMIT"]
    by_symbol = Counter(event[b"symbol"].decode() for event in granted)
    assert by_symbol == Counter(dict.fromkeys(SYMBOLS_ASKED, 2 * allowed))  # the tightest limit, in full, of each kind
    for symbol in SYMBOLS_ASKED:
        counts = [
            Counter(one[b"action"] for one in granted if one[b"symbol"] == symbol.encode())[kind.encode()] for kind in KINDS
        ]
        assert (
            counts == [allowed, allowed] == [store.client.llen(f"quantum:governor:exec:{symbol}{end}") for end in (":close", "")]
        )
    assert len(store.client.keys("quantum:permit:*")) == len(granted)
    assert len(store.client.keys("quantum:governor:block:*")) == PLANS - len(granted)
    assert all(float(store.client.get(key)) == allowed for key in store.client.keys("quantum:governor:daily:*"))
    assert store.client.xpending(store.keys.of("stream_plans"), GROUP)["pending"] == 0


def race(processes: int, runs: int, home: Path, tightest: str) -> None:
    """Let all governors loose on one server, again and again."""
    context = mp.get_context("spawn")
    with valkey() as server:
        barrier = context.Barrier(processes + 1)
        arguments = (server.connection_url, str(home), tightest, barrier, runs)
        governors = [context.Process(target=govern, args=arguments, daemon=True) for _ in range(processes)]
        for one in governors:
            one.start()
        store = store_of(server.connection_url, str(home), tightest)
        try:
            for run in range(runs):
                fill(store, run)
                barrier.wait(120)
                barrier.wait(120)
                judge(store, run, tightest)
        finally:
            for one in governors:
                one.join(10)
                one.kill()
            store.client.close()


@pytest.mark.slow
def test_governors_at_once_decide_every_plan_once_and_exceed_no_limit(tmp_path: Path) -> None:
    """Two governors that both see the last free permit grant one too many: that is money."""
    race(3, 1, tmp_path, "daily")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("tightest", "runs"), [("daily", 20), ("burst", 15), ("hourly", 15)])
def test_fifty_races_of_eight_governors(tmp_path: Path, tightest: str, runs: int) -> None:
    """A race that is lost once in twenty runs is lost every day."""
    race(8, runs, tmp_path, tightest)
