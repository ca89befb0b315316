"""Waiting for what another process does: until it has happened, never for a time."""

import time
from collections.abc import Callable
from typing import Any

import pytest


def wait_for(what: str, check: Callable[[], Any], within_sec: float = 120, poll_sec: float = 0.05) -> Any:
    """Ask until the answer is true, and give it; fail naming what did not happen."""
    deadline = time.monotonic() + within_sec
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_sec} s for: {what}")
        time.sleep(poll_sec)
    return answer
