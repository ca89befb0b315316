"""A child that cannot outlive its parent: ``python -m resources.tether COMMAND ...``.

A supervisor that is killed outright cannot stop its children; on Linux the kernel does it for them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask the kernel to stop this process when its parent dies; elsewhere than on Linux nothing is done."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:  # it died before the kernel was asked
        raise SystemExit(1)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - becomes the command it was asked to guard
