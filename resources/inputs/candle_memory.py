"""Since when candles without a time of their own have not changed: nothing else shows that their writer is dead.

Here belong the fingerprint in Redis and the refusal. Bare closes in lists or arrays are still read; their age is unknown, so that
nothing is opened on them. Candles that say their time are judged by it, in :mod:`resources.inputs.candles`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from quantum_core.contracts.reading import Reading
from quantum_core.freshness import Limits
from resources.inputs.candle_series import Candles
from resources.store.redis_store import RedisStore

MEMORY_TTL_SEC = 86400  # renewed with each evaluation
DOING = "remembering candles"

log = logging.getLogger("quantum.candles")


def without_unchanged(
    store: RedisStore, readings: Sequence[Reading[Candles]], *, remember: bool = True
) -> list[Reading[Candles]]:
    """Refuse candles without a time that have not changed for as long as those with one may be old.

    Parameters
    ----------
    store
        Where the fingerprints are, and whose clock counts.
    readings
        One per symbol, of one length of the window.
    remember
        Whether a fingerprint that has changed is noted; whoever only looks must not.

    Returns
    -------
    list of Reading
        As given, but ``failed`` with ``candles_unchanged`` where nothing has changed for too long. Without such candles Redis is
        not asked. A memory that cannot be read knows of no time before now.

    Raises
    ------
    RedisUnavailableError
        The server is away.

    References
    ----------
    docs/spec.md#5-sources
    """
    undated = [
        (reading.symbol, reading.value)
        for reading in readings
        if reading.value is not None and not reading.value.newest_epoch_sec
    ]
    if not undated:
        return list(readings)
    now, limit_sec = store.clock().timestamp(), Limits.of(store.settings).candles_sec
    keys = [store.keys.of("candle_memory", symbol) for symbol, _ in undated]
    replies = store.run(DOING, [("GET", key) for key in keys])
    refused: dict[str, Reading[Candles]] = {}
    commands = []
    for (symbol, candles), key, reply in zip(undated, keys, replies, strict=True):
        digest = _digest(candles)
        since = _unchanged_since(reply, digest, now)
        commands.append(("SET", key, orjson.dumps({"digest": digest, "unchanged_since": since}), "EX", MEMORY_TTL_SEC))
        if now - since > limit_sec:
            why = f"candles_unchanged: no time, and nothing has changed for {now - since:.0f} s ({candles.key})"
            refused[symbol] = Reading.failed(symbol, why)
    for key, reply in zip(keys, store.run(DOING, commands) if remember else (), strict=False):
        if isinstance(reply, Exception):  # the time for which nothing changes is then known no more than that of the candles
            log.warning("%s: since when candles have not changed is not remembered: %s", key, reply)
    return [refused.get(reading.symbol, reading) for reading in readings]


def _digest(candles: Candles) -> str:
    columns = np.ascontiguousarray([candles.high, candles.low, candles.close, candles.volume])
    return hashlib.blake2s(columns.tobytes(), digest_size=8).hexdigest()


def _unchanged_since(reply: Any, digest: str, now: float) -> float:
    """Read since when the fingerprint has been this one; now where it is new, cannot be read, or is of a time to come."""
    if reply is None or isinstance(reply, Exception):
        return now
    try:
        stored = orjson.loads(reply)
        since = float(stored["unchanged_since"]) if stored["digest"] == digest else now
    except (ValueError, TypeError, KeyError):
        return now
    return since if 0 <= since <= now else now
