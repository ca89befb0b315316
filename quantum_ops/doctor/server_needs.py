"""What the server must be, and the commands it must know and permit: examined before anything starts, and by ``quantum doctor``.

The commands are queued in a transaction that is discarded: the server checks each one as if it were to be executed, its name,
the user's right to it and whether it may write at all, and executes none. ``COMMAND INFO`` would not know the user.
"""

from __future__ import annotations

import re

import redis
from pydantic import SecretStr

from quantum_core.settings import REDIS_SCHEMES, SENTINEL_FORM, Settings
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError, condition_of

OLDEST = {"Redis": 7, "Valkey": 7}  # major versions; before, scripts and streams lack what we use
# Kinds of the keys they are tried on, which each user may write: what is refused for its key stands in the server's ACL LOG.
PROBE, GOVERNOR_PROBE = "lease", "guards_found"
A_SENTINEL = "a Sentinel, which only names servers"
_SCRIPT = ("return 1", "0")  # not EVALSHA: where that is missing, the text is sent (resources/store/transport/scripts.py)
COMMANDS: dict[str, tuple[str, ...]] = {  # arguments that would do no harm even if they were executed; KEY stands for the key
    "GET": ("KEY",),
    "SET": ("KEY", "", "XX"),
    "APPEND": ("KEY", ""),
    "OBJECT": ("ENCODING", "KEY"),
    "DEL": ("KEY",),
    "EXISTS": ("KEY",),
    "EXPIRE": ("KEY", "60"),
    "PTTL": ("KEY",),
    "TYPE": ("KEY",),
    "SCAN": ("0", "COUNT", "1"),
    "HGET": ("KEY", "f"),
    "HMGET": ("KEY", "f"),
    "HGETALL": ("KEY",),
    "HKEYS": ("KEY",),
    "HEXISTS": ("KEY", "f"),
    "HLEN": ("KEY",),
    "HSET": ("KEY", "f", ""),
    "HSETNX": ("KEY", "f", ""),
    "HDEL": ("KEY", "f"),
    "HINCRBY": ("KEY", "f", "0"),
    "HINCRBYFLOAT": ("KEY", "f", "0"),
    "INCRBYFLOAT": ("KEY", "0"),
    "LPUSH": ("KEY", ""),
    "LRANGE": ("KEY", "0", "0"),
    "LTRIM": ("KEY", "0", "-1"),
    "SADD": ("KEY", ""),
    "SCARD": ("KEY",),
    "SISMEMBER": ("KEY", ""),
    "SREM": ("KEY", ""),
    "ZADD": ("KEY", "XX", "0", ""),
    "ZRANGE": ("KEY", "0", "0"),
    "ZMSCORE": ("KEY", ""),
    "ZREM": ("KEY", ""),
    "XADD": ("KEY", "NOMKSTREAM", "*", "f", ""),
    "XDEL": ("KEY", "0-1"),
    "XLEN": ("KEY",),
    "XTRIM": ("KEY", "MINID", "0-0"),
    "XRANGE": ("KEY", "-", "+", "COUNT", "1"),
    "XREVRANGE": ("KEY", "+", "-", "COUNT", "1"),
    "XINFO": ("GROUPS", "KEY"),
    "XGROUP": ("CREATE", "KEY", "g", "0"),
    "XREADGROUP": ("GROUP", "g", "c", "STREAMS", "KEY", ">"),
    "XAUTOCLAIM": ("KEY", "g", "c", "1", "0-0"),
    "XPENDING": ("KEY", "g"),
    "XACK": ("KEY", "g", "0-1"),
    "EVAL": _SCRIPT,
    "EVAL_RO": _SCRIPT,
    "TIME": (),
}
BROKER_COMMANDS: dict[str, tuple[str, ...]] = {
    "BRPOP": ("KEY", "1"),
    "LPUSH": ("KEY", ""),
    "RPUSH": ("KEY", ""),
    "LLEN": ("KEY",),
    "HSET": ("KEY", "f", ""),
    "HGET": ("KEY", "f"),
    "HDEL": ("KEY", "f"),
    "SADD": ("KEY", ""),
    "SMEMBERS": ("KEY",),
    "ZADD": ("KEY", "0", ""),
    "ZREM": ("KEY", ""),
    "ZREVRANGEBYSCORE": ("KEY", "0", "0"),
    "PUBLISH": ("KEY", ""),
    "EVAL": _SCRIPT,
}
_UNKNOWN = re.compile(r"unknown command", re.IGNORECASE)
_DENIED = re.compile(r"no permissions to run the '[^']*' command", re.IGNORECASE)  # a key that is refused is another matter


class ServerUnfitError(RuntimeError):
    """The server is too old, or lacks commands; nothing may be started on it."""


def name_and_age(info: bytes) -> tuple[str, bool]:
    """Name the server by its answer to INFO, and say whether it is too old; one that says no version is."""
    fields = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    product = "Valkey" if "valkey_version" in fields else "Redis"
    version = fields.get("valkey_version") or fields.get("redis_version", "?")
    major = version.partition(".")[0]
    return f"{product} {version}", not (major.isdecimal() and int(major) >= OLDEST[product])


def lacking(store: RedisStore, commands: dict[str, tuple[str, ...]], key: str) -> list[str]:
    """List the commands that the server does not know, or does not permit to this user, each with its reason.

    Raises
    ------
    RedisUnavailableError
        It does not answer.
    """
    tried = [(name, *(key if one == "KEY" else one for one in arguments)) for name, arguments in commands.items()]
    multi, *replies, _ = store.run("being examined", [("MULTI",), *tried, ("DISCARD",)], judged=False)
    if isinstance(multi, Exception):  # without it the commands would be executed one by one: they do no harm
        return [f"MULTI: {multi}"]
    refused = []
    for name, reply in zip(commands, replies, strict=True):
        if isinstance(reply, redis.ResponseError) and _UNKNOWN.search(str(reply)):
            refused.append(f"{name}: unknown command")
        elif isinstance(reply, redis.ResponseError) and _DENIED.search(str(reply)):
            refused.append(f"{name}: not permitted to this user")
    return refused


def broker_of(settings: Settings) -> RedisStore | None:
    """Give the broker where it is another server or user than the store's, and a Redis."""
    url = settings.broker_url
    if url == settings.url or not url.startswith(REDIS_SCHEMES):
        return None
    return RedisStore(settings.model_copy(update={"redis_url": SecretStr(url), "redis_sentinels": ()}))


def require_server(store: RedisStore) -> None:
    """Refuse a server that is too old or lacks what we need; one that does not answer, or may not be examined, is no matter here.

    Raises
    ------
    ServerUnfitError
        With everything that is missing.
    """
    broker = broker_of(store.settings)
    of = store.keys.of(PROBE)
    examined = [
        ("", store, COMMANDS, of),
        ("the governor's user: ", store.as_governor(), COMMANDS, store.keys.of(GOVERNOR_PROBE)),
    ]
    examined += [("the broker: ", broker, BROKER_COMMANDS, "quantum:celery:probe")] if broker is not None else []
    missing = []
    for whose, server, commands, key in examined:
        if whose and server is store:
            continue
        try:
            (info,) = server.run("being examined", [("INFO", "server")], judged=False)
            lacks = lacking(server, commands, key)
        except RedisUnavailableError:
            continue
        name, old = name_and_age(info) if isinstance(info, bytes) else ("", False)
        missing += [f"  {whose}{A_SENTINEL}: {SENTINEL_FORM}"] if name and b"redis_mode:sentinel" in info else []
        missing += [f"  {whose}{name} is too old: Redis {OLDEST['Redis']} or Valkey is needed"] if old else []
        missing += [f"  {whose}{one}" for one in lacks]
    if missing:
        msg = f"Redis at {store.settings.redis_address} lacks what is needed; nothing was started:\n"
        raise ServerUnfitError(msg + "\n".join(missing))


def require_usable(settings: Settings) -> None:
    """Refuse a server that does not answer, takes no writes, is too old or lacks commands, before anything is started on it.

    Raises
    ------
    RedisUnavailableError
        It does not answer, or is a replica, full, or without the replicas it demands.
    ServerUnfitError
        With everything that is missing.
    """
    store = RedisStore(settings)
    replies = store.run("starting", [("MULTI",), ("SET", store.keys.of(PROBE), "", "XX"), ("DISCARD",)], judged=False)
    for reply in replies:
        if isinstance(reply, Exception) and condition_of(reply):
            raise RedisUnavailableError(settings.redis_address, "starting", reply)
    require_server(store)
