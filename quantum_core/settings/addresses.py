"""Addresses of Redis servers: which forms there are, and what those that name Sentinels ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

REDIS_PORT = 6379
REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")
SENTINEL_PORT = 26379
SENTINEL_FORM = "redis+sentinel://[user:password@]host:port,host:port/service/db"
_SENTINEL = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Sentinels:
    """Where the address of a master is asked for.

    Attributes
    ----------
    hosts
        Names and ports of the sentinels.
    service
        Name under which they know the master.
    db
        Database of the master.
    user
        ``user:password@`` for the master, percent-encoded as in the address; empty when it needs none.
    tls
        Whether sentinels and master are spoken to in TLS.
    """

    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int
    user: str
    tls: bool


def sentinels_of(url: str) -> Sentinels | None:
    """Read an address that names sentinels; ``None`` for an address of another kind.

    Raises
    ------
    ValueError
        It is not of the form SENTINEL_FORM.
    """
    scheme, _, rest = url.partition("://")
    if not scheme.endswith("+sentinel"):
        return None
    authority, _, path = rest.partition("/")
    user, at, listed = authority.rpartition("@")
    service, _, db = path.partition("/")
    matches = [_SENTINEL.fullmatch(one.strip()) for one in listed.split(",")]
    hosts = tuple((one["host"].strip("[]"), int(one["port"] or SENTINEL_PORT)) for one in matches if one)
    if len(hosts) < len(matches) or not all(0 < port <= 65535 for _, port in hosts) or not re.fullmatch(r"[\w.-]+", service):
        raise ValueError(SENTINEL_FORM)
    if not re.fullmatch(r"\d{0,5}", db, re.ASCII):
        raise ValueError(SENTINEL_FORM)
    return Sentinels(hosts, service, int(db or 0), user + at, scheme.startswith("rediss"))


def server_of(url: str) -> tuple[object, ...]:
    """Give what makes two addresses those of one server and database."""
    if (at := sentinels_of(url)) is not None:
        return frozenset(at.hosts), at.service, at.db
    parts = urlsplit(url)
    return parts.hostname, parts.port or REDIS_PORT, parts.path.strip("/") or "0"
