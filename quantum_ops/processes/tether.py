"""A child that cannot outlive its parent.

Started as ``python -m quantum_ops.processes.tether PARENT [--pause SEC] [--after SOCKET] COMMAND ...``.

A supervisor that is killed outright cannot stop its children; on Linux the kernel does it for them. What a process must wait
for before it starts is waited for here, so that the supervisor goes on watching the others.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
SOCKET_WITHIN_SEC = 30


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to end this process when its parent dies; elsewhere than on Linux nothing is done.

    Parameters
    ----------
    by
        Nobody is left to insist when a process takes its time over SIGTERM, so the default takes no time.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


def wait_for_socket(path: str) -> None:
    """Wait until a server answers on a Unix socket; after SOCKET_WITHIN_SEC go on, the command then says what is missing."""
    deadline = time.monotonic() + SOCKET_WITHIN_SEC
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return
        time.sleep(0.2)


WAITS = {"--pause": lambda sec: time.sleep(float(sec)), "--after": wait_for_socket}

if __name__ == "__main__":
    die_with_parent()
    parent, *command = sys.argv[1:]
    if os.getppid() != int(parent):  # it died before the kernel was asked
        raise SystemExit(1)
    while command[0] in WAITS:
        WAITS[command[0]](command[1])
        command = command[2:]
    os.execvp(command[0], command)  # noqa: S606 - becomes the command it was asked to guard
