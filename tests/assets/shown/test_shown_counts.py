"""How much is recorded of symbols that die, flap and stay dead: exact counts of events, so that no change fills the event log."""

from collections import Counter
from collections.abc import Sequence

import dagster as dg
import pytest
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from sqlalchemy import select

from definitions import assemble
from resources.instance.dagster_internals import FAILED_SYMBOLS_JOB
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME, cycle_tags
from tests.world import QUIET, random_closes, write_candles, write_equity, write_position, write_target

SYMBOLS = tuple(f"S{number:02d}USDT" for number in range(25))
EVENTS = SqlEventLogStorageTable.c


class Counted:
    """A world of 25 symbols, and what each of its cycles adds to the event log."""

    def __init__(self, store: RedisStore, instance: dg.DagsterInstance) -> None:
        self.store, self.instance, self._last = store, instance, 0
        self.job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
        for number, symbol in enumerate(SYMBOLS):
            self.revive([symbol])
            closes = random_closes(number)
            write_position(store, symbol, entry=closes[-1] * 0.99, mark=closes[-1])
            write_target(store, symbol)
        write_equity(store)
        self.cycle()
        self.cycle()

    def kill(self, symbols: Sequence[str]) -> None:
        for symbol in symbols:
            write_candles(self.store, symbol, [])

    def revive(self, symbols: Sequence[str]) -> None:
        for symbol in symbols:
            write_candles(self.store, symbol, random_closes(SYMBOLS.index(symbol)))

    def cycle(self, after_sec: float = 10) -> Counter[str]:
        """Run a cycle some seconds after the one before; count what it adds: asset events by kind and asset, others by kind."""
        self.store.clock.advance(after_sec)
        tags = cycle_tags(SYMBOLS, f"t{self.store.clock().timestamp():.0f}")
        assert self.job.execute_in_process(instance=self.instance, tags=tags, run_config=QUIET).success
        with self.instance.event_log_storage.index_connection() as conn:
            kinds = select(EVENTS.id, EVENTS.dagster_event_type, EVENTS.asset_key).where(EVENTS.id > self._last)
            rows = conn.execute(kinds).fetchall()
        self._last = max(row[0] for row in rows)
        return Counter(f"{kind or 'line of the log'} {asset or ''}".strip() for _, kind, asset in rows)

    def records(self) -> int:
        return len(self.instance.get_runs(dg.RunsFilter(job_name=FAILED_SYMBOLS_JOB)))


@pytest.fixture
def counted(make_store, instance) -> Counted:
    return Counted(make_store(symbols=",".join(SYMBOLS)), instance)


ASSETS_OF_CANDLES = ("market_state", "risk_proposal", "harvest_proposal", "trade_intent", "position_size")


def beyond(healthy: Counter[str], got: Counter[str]) -> dict[str, int]:
    """Give what a cycle added beyond a healthy one; materializations, renewed once a minute anyway, are left out."""
    kinds = {name for name in {*healthy, *got} if not name.startswith("ASSET_MATERIALIZATION [")}
    return {name: got[name] - healthy[name] for name in sorted(kinds) if got[name] != healthy[name]}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 20])
def test_what_is_recorded_of_symbols_that_die_at_once_and_nothing_of_those_that_stay_dead(counted, count) -> None:
    """One run, and per asset that needs the candles one planned materialization per symbol, one error and one line of the log."""
    healthy = counted.cycle()
    assert beyond(healthy, counted.cycle()) == {}
    counted.kill(SYMBOLS[:count])
    died = beyond(healthy, counted.cycle())
    assert died == {
        **{f'ASSET_MATERIALIZATION_PLANNED ["{asset}"]': count for asset in ASSETS_OF_CANDLES},
        'ASSET_OBSERVATION ["candles"]': count,
        "ASSET_CHECK_EVALUATION": 2,  # `usable` of the candles, `fresh` of the market state
        "STEP_FAILURE": len(ASSETS_OF_CANDLES),
        "PIPELINE_FAILURE": 1,
        "line of the log": len(ASSETS_OF_CANDLES),
    }
    assert sum(died.values()) == 6 * count + 13
    assert counted.records() == 1
    assert [beyond(healthy, counted.cycle()) for _ in range(2)] == [{}, {}]
    assert beyond(healthy, counted.cycle()) == {"ASSET_CHECK_EVALUATION": 3}  # proposals and intents are 40 s old: a warning
    assert beyond(healthy, counted.cycle(40)) == {"ASSET_CHECK_EVALUATION": 3}  # a failure
    assert [beyond(healthy, counted.cycle(30)) for _ in range(2)] == [{}, {}]
    counted.revive(SYMBOLS[:count])
    assert beyond(healthy, counted.cycle()) == {'ASSET_OBSERVATION ["candles"]': count, "ASSET_CHECK_EVALUATION": 5}
    assert beyond(healthy, counted.cycle()) == {}
    assert counted.records() == 1


@pytest.mark.slow
def test_what_is_recorded_of_twenty_symbols_that_flap(counted) -> None:
    """A writer in trouble deletes and writes its keys at each cycle: two minutes of it."""
    healthy, total = counted.cycle(), Counter()
    for _ in range(6):
        counted.kill(SYMBOLS[:20])
        total.update(beyond(healthy, counted.cycle()))
        counted.revive(SYMBOLS[:20])
        total.update(beyond(healthy, counted.cycle()))
    assert total == {
        **{f'ASSET_MATERIALIZATION_PLANNED ["{asset}"]': 2 * 20 for asset in ASSETS_OF_CANDLES},
        'ASSET_OBSERVATION ["candles"]': 2 * 20,
        "ASSET_CHECK_EVALUATION": 4 + 3,
        "STEP_FAILURE": 2 * len(ASSETS_OF_CANDLES),
        "PIPELINE_FAILURE": 2,
        "line of the log": 2 * len(ASSETS_OF_CANDLES),
    }
    assert counted.records() == 2
