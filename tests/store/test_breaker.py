"""What one store remembers of its calls, though sensors ask beside each other."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from resources.store.transport.breaker import CircuitBreaker


def test_calls_of_several_threads_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensors tick in threads; one of them failed with `deque mutated during iteration`, and its cycle was 6 s late."""
    monkeypatch.setattr("resources.store.transport.breaker.BUDGET_WINDOW_SEC", 0.01)
    breaker, interval_sec = CircuitBreaker(), sys.getswitchinterval()

    def call(_: int) -> None:
        for _ in range(10_000):
            breaker.check()
            breaker.record(0.0, 10**12)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(call, range(4))) == [None] * 4
    finally:
        sys.setswitchinterval(interval_sec)
