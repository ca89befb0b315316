"""kill -9 of every part while the loop runs: it comes back by itself, and nothing published is torn, doubled or orphaned."""

import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import redis

from definitions import PUBLISHED_TABLES
from quantum_assets.contracts.reading import State
from resources.redis_store import RedisStore
from resources.settings import load_settings
from tests.servers import free_port
from tests.stack.test_up import family, stack, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
PARTS = {
    "worker": ("resources.warm_worker", 0),
    "worker child": ("resources.warm_worker", 1),
    "daemon": ("dagster._daemon", 0),
    "code server": ("dagster api grpc", 0),
    "webserver": ("resources.webserver", 0),
    "feed": ("resources.example_feed", 0),
    "valkey": ("valkey-server", 0),
}
RESUMES_WITHIN_SEC = 60  # only so that a hanging stack ends the test; the measured times stand in benchmarks/README.md


def part(home: Path, words: str, place: int) -> psutil.Process | None:
    found = [one for one in family(home) if words in " ".join(one.cmdline()) and one.is_running()]
    found.sort(key=lambda one: one.create_time())
    return found[place] if len(found) > place else None


def test_every_part_may_be_killed_and_the_loop_resumes(tmp_path: Path) -> None:
    """What operators had before stayed dead for 17 hours."""
    settings = load_settings(quantum_home=tmp_path / "q")

    def last_cycle() -> int:
        try:
            with redis.Redis.from_url(settings.url, socket_timeout=1) as client:
                value = client.hget("quantum:governor:state:BTCUSDT", "last_update_epoch")
        except redis.RedisError:
            return 0
        return int(value or 0)

    with stack(tmp_path, free_port()) as _:
        wait_for("the first cycle", lambda: last_cycle() > 0)
        for name, (words, place) in PARTS.items():
            wait_for(f"the {name} to run", lambda words=words, place=place: part(tmp_path, words, place) is not None)
            victim = part(tmp_path, words, place)
            assert victim is not None
            killed = time.time()
            victim.kill()
            wait_for(f"a cycle after the {name} was killed", lambda killed=killed: last_cycle() > killed, RESUMES_WITHIN_SEC)
        store = RedisStore(settings)
        torn = [
            reading
            for asset, table in PUBLISHED_TABLES.items()
            if asset != "capital_efficiency"
            for reading in store.read(table, SYMBOLS)
            if reading.state is not State.PRESENT
        ]
        assert torn == []
        entries = store.client.xrange("quantum:stream:allocation.target.proposed")
        per_evaluation = Counter((fields[b"symbol"], fields[b"ts_epoch"]) for _, fields in entries)
        assert len(entries) >= len(PARTS)
        assert [key for key, count in per_evaluation.items() if count > 1] == []
        names = Counter(" ".join(one.cmdline()[:4]) for one in family(tmp_path))
        assert sum("dagster._daemon" in name for name in names.elements()) == 1  # restarted, not doubled
