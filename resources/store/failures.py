"""What cannot be computed right now, per asset and symbol, with the reason: one hash per asset, kept by who publishes.

A run that fails for some symbols succeeds for the others: neither its status nor the old hash of a failing symbol says that
something is wrong. Status, pages and alerts read it here. It decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from quantum_core.display import epoch_or_none
from quantum_core.failure import Failure
from resources.store.redis_store import RedisStore, flat, pairs

REASON_CHARS_MAX = 500


def record_failures(
    store: RedisStore, asset: str, evaluated: Sequence[str], failures: Mapping[str, str], cycle_id: str
) -> dict[str, Failure]:
    """Replace what is recorded of the evaluated symbols; others keep what another shard recorded.

    Parameters
    ----------
    store
        Where it is kept.
    asset
        The asset that was evaluated.
    evaluated
        Symbols of this run.
    failures
        Symbol to reason, of those that failed.
    cycle_id
        Cycle of the run.

    Returns
    -------
    dict
        What is recorded of the asset now, by symbol, that of other shards included.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    key = store.keys.of("failures", asset)
    (reply,) = store.run("reading failures", [("HGETALL", key)])
    recorded = {} if isinstance(reply, Exception) else _decoded(pairs(reply))
    now = store.clock().timestamp()
    current: dict[str, Failure] = {}
    for symbol, reason in failures.items():
        failure = Failure(symbol, reason[:REASON_CHARS_MAX], now, now, cycle_id)
        previous = recorded.get(symbol)
        if previous is not None and previous.code == failure.code:
            failure = replace(failure, since=previous.since, cycle_id=previous.cycle_id)
        current[symbol] = failure
    recovered = [symbol for symbol in evaluated if symbol in recorded and symbol not in failures]
    commands: list[tuple[object, ...]] = []
    if isinstance(reply, Exception):  # not a hash of ours: nobody else writes here
        commands.append(("DEL", key))
    if current:
        texts = {symbol: json.dumps(asdict(one), separators=(",", ":")) for symbol, one in current.items()}
        commands.append(("HSET", key, *flat(texts)))
    if recovered:
        commands.append(("HDEL", key, *recovered))
    if commands:
        store.run("recording failures", commands)
    for symbol in recovered:
        del recorded[symbol]
    return {**recorded, **current}


def read_failures(store: RedisStore, assets: Sequence[str]) -> dict[str, dict[str, Failure]]:
    """Read what cannot be computed, by asset and symbol, in one round trip.

    An entry says when it was last evaluated (``at``): of a cycle that has stopped, it says no more than that.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    replies = store.run("reading failures", [("HGETALL", store.keys.of("failures", asset)) for asset in assets])
    return {
        asset: {} if isinstance(reply, Exception) else _decoded(pairs(reply))
        for asset, reply in zip(assets, replies, strict=True)
    }


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, Failure]:
    """Decode the entries; one that is none of ours is left out, and replaced by the next evaluation."""
    failures = {}
    for name, text in fields.items():
        try:
            values = json.loads(text)
            failure = Failure(
                symbol=name.decode(),
                why=str(values["why"]),
                since=_time(values["since"]),
                at=_time(values["at"]),
                cycle_id=str(values["cycle_id"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
        failures[failure.symbol] = failure
    return failures


def _time(value: object) -> float:
    """Read a time of ours, epoch s: NaN and infinity are valid for Python's JSON, and no time."""
    epoch = epoch_or_none(value)
    if epoch is None:
        msg = f"{value!r} is no time"
        raise ValueError(msg)
    return epoch
