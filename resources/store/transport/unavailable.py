"""What an answer of Redis says about the whole server: that it cannot be used, what it is then, and what to do.

Here belongs the reading of errors. One key that is damaged is no trouble of the server's; who waits for it, and how long, is
:mod:`resources.store.transport.breaker`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import redis
from redis.sentinel import MasterNotFoundError

ELSEWHERE: dict[type[Exception], str] = {  # what a server answers that is not, or not yet, the one to use, and what it then is
    redis.exceptions.ReadOnlyError: "a read-only replica",
    redis.exceptions.BusyLoadingError: "a server that is still loading its data",
    redis.exceptions.MasterDownError: "a replica that has lost its master",
    redis.exceptions.ClusterDownError: "part of a cluster that is down",
    redis.exceptions.AskError: "a server whose keys have moved to another",  # MOVED, too
}
REFUSES_WRITES = {  # by the first word of the answer, in a script or not; no class of redis-py's has all of them
    "READONLY": "a read-only replica",
    "OOM": "out of memory (maxmemory)",
    "MISCONF": "unable to save to its disk",
    "NOREPLICAS": "without the replicas that min-replicas-to-write demands",
}
UNFIT: tuple[type[Exception], ...] = (  # the server's trouble, not a key's
    *ELSEWHERE,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.NoPermissionError,
)
# The same, and what has no class of its own, as a script reports it. A WRONGTYPE is about one key, whatever that key is called.
_NO_RIGHT = r"NOPERM|The user executing the script can't|ACL failure in script"  # Redis 7.0 has words of its own inside a script
_UNFIT_IN_SCRIPT = re.compile(rf"^(?!WRONGTYPE).*\b(READONLY|OOM|MISCONF|NOREPLICAS|BUSY|TRYAGAIN|{_NO_RIGHT})\b", re.DOTALL)


class RedisUnavailableError(RuntimeError):
    """The server did not answer within its bound, or is not fit; nothing half-written is left behind.

    Attributes
    ----------
    condition
        What the server is, where it answers and says so: completes "Redis is ..."; empty where it does not.
    """

    def __init__(self, address: str, doing: str, cause: Exception) -> None:
        self.condition = condition_of(cause)
        kept = "" if "refused" in str(cause).lower() else "Nothing was half-written. "  # who was never reached was not written to
        known = f"is {self.condition} and " if self.condition else ""
        super().__init__(
            f"Redis at {address} {known}cannot be used while {doing} ({type(cause).__name__}: {said_by(cause)}). "
            f"{kept}{_remedy(address, cause)}"
        )


def said_by(error: Exception) -> str:
    """Give what an error of redis-py says without every option of the clients it asked, 6,000 characters with three sentinels."""
    return str(error).partition(" : <redis.")[0]


def condition_of(error: Exception) -> str:
    """Say what a server is that answers with this error: completes "Redis is ..."; empty where the answer does not say."""
    classes = {**ELSEWHERE, redis.exceptions.OutOfMemoryError: REFUSES_WRITES["OOM"]}
    named = next((words for kind, words in classes.items() if isinstance(error, kind)), "")
    found = _UNFIT_IN_SCRIPT.search(str(error)) if isinstance(error, redis.ResponseError) else None
    return named or (REFUSES_WRITES.get(found[1], "") if found else "")


def _remedy(address: str, cause: Exception) -> str:
    if isinstance(cause, MasterNotFoundError):
        return "Check that most sentinels run, that they know the service by that name, and REDIS_SENTINEL_PASSWORD."
    if condition_of(cause) in ELSEWHERE.values():
        return (
            "Its connections were dropped, and the address is resolved anew with the next call. If it stays so, REDIS_URL "
            "leads to the wrong server: name the master, or the sentinels."
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(cause):
        return "REDIS_CA_FILE must name the certificate that signed the server's, and REDIS_URL a host that stands in it."
    if isinstance(cause, redis.exceptions.NoPermissionError) or re.search(_NO_RIGHT, str(cause)):
        return "The user of that address may not do this: docs/security.md says which role needs which address."
    advice = "Check that the server runs and that REDIS_URL points to it."
    return (
        f"{advice} If it wants certificates of its clients: REDIS_CERT_FILE, REDIS_KEY_FILE."
        if "rediss://" in address
        else advice
    )


def raise_if_unfit(replies: Sequence[Any]) -> None:
    """Raise the first reply that says the server as a whole cannot serve (read-only, out of memory, no rights ...)."""
    for reply in replies:
        if isinstance(reply, UNFIT) or (isinstance(reply, redis.ResponseError) and _UNFIT_IN_SCRIPT.search(str(reply))):
            raise reply
