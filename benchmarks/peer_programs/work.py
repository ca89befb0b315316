"""What every peer's program shares: one cycle of the plain process, and a bell that rings when a candle is written.

The peers have environments of their own: nothing may be imported here beyond what ``benchmarks/naked_process.py`` needs.
"""

import asyncio
import secrets
import time
from datetime import UTC, datetime

import redis

from benchmarks.naked_process import Naked
from quantum_core.settings import load_settings

POLL_EVERY_SEC = 5.0  # of those that look by themselves
CYCLE_EVERY_SEC = 10.0  # of those that hear of a candle at once, as the product


class Work:
    """The plain process, called from code that is not asynchronous."""

    def __init__(self) -> None:
        self.naked, self.runner = Naked(load_settings()), asyncio.Runner()

    def cycle(self) -> dict[str, int]:
        """Read, compute and publish everything once; give the publications by asset."""
        name = f"p{int(time.time())}-{secrets.token_hex(3)}"
        return self.runner.run(self.naked.cycle(datetime.now(UTC), name))


class Bell:
    """Says that a cycle is due: a candle was written, or the last cycle is long ago."""

    def __init__(self) -> None:
        client = redis.Redis.from_url(load_settings().url)
        client.config_set("notify-keyspace-events", "Ez")
        self.heard = client.pubsub(ignore_subscribe_messages=True)
        self.heard.subscribe("__keyevent@0__:zadd")
        self.next_cycle = 0.0

    def rings(self, within_sec: float = 0.0) -> bool:
        """Wait no longer than that for the next candle; candles that came together ring once."""
        rung = self.heard.get_message(timeout=within_sec) is not None
        while self.heard.get_message(timeout=0) is not None:
            rung = True
        if due := rung or time.monotonic() >= self.next_cycle:
            self.next_cycle = time.monotonic() + CYCLE_EVERY_SEC
        return due
