"""Who waits for the end of a run: a cycle that is due, or something that has changed, while another cycle of the shard runs.

The sensor names the run, the worker that ends it rings the bell. Where the worker is killed, the sensor finds out on the grid of
5 s.
"""

from __future__ import annotations

from collections.abc import Collection

from resources.store.redis_store import RedisStore

AWAITED_TTL_SEC = 120  # longer than a run may take
RING_TTL_SEC = 60  # nobody reads it, the write is what rings


def await_end(store: RedisStore, run_ids: Collection[str]) -> None:
    """Have the bell rung when one of these runs has ended; whoever calls must look once more whether it has already.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    key = store.keys.of("runs_awaited")
    store.run("waiting for a run", [("SADD", key, *run_ids), ("EXPIRE", key, AWAITED_TTL_SEC)])


def ring_if_awaited(store: RedisStore, run_id: str) -> bool:
    """Ring the bell when somebody waits for the end of this run, which is stored as ended.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    (waited,) = store.run("ending a run", [("SREM", store.keys.of("runs_awaited"), run_id)])
    if waited == 1:
        _ring(store, "events_waiting")
    return bool(waited == 1)


def ring_later(store: RedisStore) -> None:
    """Have the sensor woken once the bell's own pause is over.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    _ring(store, "events_postponed")


def _ring(store: RedisStore, name: str) -> None:
    store.run("ringing the bell", [("SET", store.keys.of(name), store.clock().timestamp(), "EX", RING_TTL_SEC)])
