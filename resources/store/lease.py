"""Who runs the loop: one stack per Redis, and for each symbol only its newest cycle, however many were started by mistake.

A stack holds the lease while its sensor renews it; another one that starts on the same Redis stands by, says so, and takes over
when the lease has lapsed. What a cycle may publish depends on a second mark: the newest cycle requested for each of its symbols.
A run that was overtaken, because its host hung, was cut off, or had lost the lease without noticing, publishes nothing when it
wakes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import redis

from quantum_core.contracts.reading import printable
from quantum_core.settings import Settings
from resources.instance.home import name_of
from resources.store.redis_store import RedisStore, RedisUnavailableError

LEASE_SEC = 15  # three ticks of the sensor daemon: a stack that dies is replaced within 20 s, one that restarts keeps its lease
NO_LEASE_SEC = 60  # so long something that is no lease, because it would never lapse, may stand in its place
NO_LEASE = "the lease "  # begins what is told of it; no stack is named so
RIVAL_SEC = 60  # so long a stack that stood by is told of; the pack looks every minute
OWNER_PARTS = 4  # joined by colons; a path may have some of its own
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # tells a copied virtual machine from its original

# KEYS[1] lease, KEYS[2] who stands by, KEYS[3] newest cycle of each symbol
# ARGV[1] owner, ARGV[2] lease in ms, ARGV[3] lifetime of KEYS[2] in s, ARGV[4] 1 to renew it, ARGV[5] the longest lifetime
#         of a lease, in ms, then symbols and their new cycles; what has none or a longer one is no lease, and is given that one
# returns the holder, or the owner when there is none; only then the lease was taken or renewed, and the cycles were noted
HOLD_LUA = """
local lives = redis.call('PTTL', KEYS[1])
if lives == -1 or lives > tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[3])
  return holder
end
if ARGV[4] == '1' then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
return ARGV[1]
"""


class OvertakenError(RuntimeError):
    """A newer cycle of the same symbols was requested meanwhile; this one publishes nothing more."""

    def __init__(self, cycle_id: str, newest: str) -> None:
        super().__init__(
            f"Cycle {cycle_id} was overtaken by {newest} and publishes nothing more. Its worker hung or was cut off, or two "
            "stacks run on this Redis; the newer cycle goes on."
        )


@cache
def owner(settings: Settings, storage: str) -> str:
    """Name this stack: the same for all its processes and after a restart, another one for any other stack.

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
        Symbol to the id of its new cycle. By symbol, because another stack may have other symbols, or other shards.
    renew
        False to look only. Only who requests cycles may hold the lease: a stack whose ``cycle`` sensor fails, or is off, gives
        the loop up, although its other sensors go on.

    Returns
    -------
    str
        The other stack that holds the lease, or that what stands there is no lease (:data:`NO_LEASE`); empty when this one does.

    Raises
    ------
    RedisUnavailableError
        The server is away: nobody can tell who holds it.
    redis.ResponseError
        Something else stands where the lease should.
    """
    of, ours = store.keys.of, owner(store.settings, storage)
    names = [of("lease"), of("lease_rival"), of("newest_cycles")]
    announced = [text for pair in (cycles or {}).items() for text in pair]
    (reply,) = store.run(
        "taking the lease",
        [("EVAL", HOLD_LUA, 3, *names, ours, LEASE_SEC * 1000, RIVAL_SEC, int(renew), NO_LEASE_SEC * 1000, *announced)],
    )
    if isinstance(reply, Exception):
        raise reply
    holder: str = reply.decode(errors="replace")
    if holder.count(":") < OWNER_PARTS - 1:
        what = f"({printable(holder)[:40]!r}); delete it, or it lapses within a minute"
        return f"{NO_LEASE}{names[0]} holds something that is no lease {what}"
    return "" if holder == ours else holder


def standing_by_for(other: str, does: str) -> str:
    """Say why a sensor does nothing: another stack does it, or something that is no lease stands in its place."""
    return f"standing by: {other}" if other.startswith(NO_LEASE) else f"standing by: {other} {does}"


def other_host(store: RedisStore, storage: str) -> str:
    """Name the other host that shares our Dagster storage and runs the loop; empty when there is none, or nobody can tell.

    Dagster keeps the time of the last tick in its storage: of two daemons on one storage each takes ticks from the other. On
    storages of their own both may tick, and the sensors stand by.
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
    """Name the other stack that asked for the lease of late, and the holder; empty when there is only one."""
    holder, rival = store.run("looking for a second stack", [("GET", store.keys.of(name)) for name in ("lease", "lease_rival")])
    if not isinstance(rival, bytes) or rival == holder:
        return ()
    return [text.decode(errors="replace") if isinstance(text, bytes) else "nobody" for text in (rival, holder)]
