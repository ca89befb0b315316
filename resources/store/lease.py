"""Who runs the cycle: one deployment per Redis, and for each symbol only its newest cycle, however many were started by mistake.

A deployment holds the lease while its sensor renews it. Another one that starts on the same Redis is a standby: it says so, and
takes over when the lease expires. What a cycle may publish depends on a second mark: the newest cycle requested for each of its
symbols. A run that was superseded, because its host hung, was cut off, or had lost the lease without noticing, publishes nothing
when it wakes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import orjson
import redis

from quantum_core.contracts.reading import printable
from quantum_core.settings import Settings
from resources.instance.home import name_of
from resources.store.redis_store import RedisStore, flat
from resources.store.transport.scripts import Script
from resources.store.transport.unavailable import RedisUnavailableError

LEASE_SEC = 15  # three ticks of the sensor daemon: a dead deployment is replaced within 20 s, one that restarts keeps its lease
NO_LEASE_SEC = 60  # how long a value that is no lease, because it would never expire, may stay in its place
NO_LEASE = "the lease "  # first words of the text about such a value; no deployment has this name
RIVAL_SEC = 60  # how long a recent standby is reported; the pack reads it every minute
OWNER_PARTS = 4  # joined by colons; a path may have some of its own
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # distinguishes a copied virtual machine from its original

HOLD = Script(__file__, "hold")


class OvertakenError(RuntimeError):
    """A newer cycle of the same symbols was requested meanwhile; this one publishes nothing more."""

    def __init__(self, cycle_id: str, newest: str) -> None:
        super().__init__(
            f"Cycle {cycle_id} was overtaken by {newest} and publishes nothing more. Its worker hung or was cut off, or two "
            "stacks run on this Redis; the newer cycle goes on."
        )


@cache
def owner(settings: Settings, storage: str) -> str:
    """Name this deployment: the same name for all its processes and after a restart, another one for any other deployment.

    Also for a `dagster dev` beside it, which has the same instance folder in its settings and another storage.
    """
    boot = _BOOT_ID.read_text()[:8] if _BOOT_ID.exists() else ""
    home = settings.quantum_home.resolve()
    return f"{name_of(home)}:{home}:{boot}:{storage[:8]}"


def other_holder(store: RedisStore, storage: str, cycles: Mapping[str, str] | None = None, *, renew: bool = True) -> str:
    """Take or renew the lease, and with it announce the cycles about to be requested.

    Parameters
    ----------
    store
        Where the lease is; its server's clock counts.
    storage
        Identity of the Dagster storage whose sensors ask.
    cycles
        Symbol to the id of its new cycle. By symbol, because another deployment may have other symbols, or other shards.
    renew
        False to read only. Only who requests cycles may hold the lease: a deployment whose ``cycle`` sensor fails, or is off,
        gives up the lease, although its other sensors go on.

    Returns
    -------
    str
        The other deployment that holds the lease, or a text that the value there is no lease (:data:`NO_LEASE`); empty when this
        one holds it.

    Raises
    ------
    RedisUnavailableError
        The server is away: the holder is unknown.
    redis.ResponseError
        Something else stands where the lease should.
    """
    of, this_owner = store.keys.of, owner(store.settings, storage)
    keys = [of("lease"), of("lease_rival"), of("newest_cycles")]
    arguments = {
        "owner": this_owner,
        "renew": renew,
        "lease_ms": LEASE_SEC * 1000,
        "most_ms": NO_LEASE_SEC * 1000,
        "rival_sec": RIVAL_SEC,
        "cycles": flat(cycles or {}),
    }
    (reply,) = store.run("taking the lease", [HOLD(keys, orjson.dumps(arguments))])
    if isinstance(reply, Exception):
        raise reply
    holder: str = reply.decode(errors="replace")
    if holder.count(":") < OWNER_PARTS - 1:
        remedy = f"({printable(holder)[:40]!r}); delete it, or it lapses within a minute"
        return f"{NO_LEASE}{keys[0]} holds something that is no lease {remedy}"
    return "" if holder == this_owner else holder


def standing_by_for(other: str, does: str) -> str:
    """Say why a sensor does nothing: another deployment does it, or a value that is no lease is in its place."""
    return f"standing by: {other}" if other.startswith(NO_LEASE) else f"standing by: {other} {does}"


def seen_holder(store: RedisStore, storage: str) -> str:
    """Name the other deployment that runs the cycle, for those who only show it: nothing here asks for the lease.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    (holder,) = store.run("looking who runs the loop", [("GET", store.keys.of("lease"))])
    text = holder.decode(errors="replace") if isinstance(holder, bytes) else ""
    return "" if text == owner(store.settings, storage) else text


def other_host(store: RedisStore, storage: str) -> str:
    """Name the other host that shares our Dagster storage and runs the cycle; empty when there is none, or when it is unknown.

    Dagster keeps the time of the last tick in its storage: of two daemons on one storage each takes ticks from the other. On
    storages of their own both may tick, and the sensors are on standby.
    """
    try:
        holder = other_holder(store, storage, renew=False)
    except (RedisUnavailableError, redis.ResponseError):
        return ""  # the sensors say why, and request nothing
    return holder if holder.endswith(f":{storage[:8]}") else ""


def require_newest(store: RedisStore, symbols: Sequence[str], cycle_id: str) -> None:
    """Refuse to go on when a newer cycle of any of the symbols was requested; where none is known, this one is the newest.

    Raises
    ------
    OvertakenError
        A newer one was.
    RedisUnavailableError
        The server is away.
    """
    (newest,) = store.run("looking for the newest cycle", [("HMGET", store.keys.of("newest_cycles"), *symbols)])
    if isinstance(newest, Exception):
        raise newest
    for one in newest:
        if one is not None and one != cycle_id.encode():
            raise OvertakenError(cycle_id, one.decode(errors="replace"))


def standing_by(store: RedisStore) -> Sequence[str]:
    """Name the other deployment that recently asked for the lease, and the holder; empty when there is only one."""
    holder, rival = store.run("looking for a second stack", [("GET", store.keys.of(name)) for name in ("lease", "lease_rival")])
    if not isinstance(rival, bytes) or rival == holder:
        return ()
    return [text.decode(errors="replace") if isinstance(text, bytes) else "nobody" for text in (rival, holder)]
