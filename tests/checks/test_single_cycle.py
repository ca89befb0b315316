"""The proof of the single cycle says something about the product, not about one symbol's inputs or the load of the machine."""

import json
import subprocess
from collections.abc import Callable

import pytest

from quantum_assets.checks import evidence as module
from quantum_assets.checks.evidence import TIMED_OUT, Evidence
from quantum_assets.checks.proofs.risk_proposal import one_cycle
from resources.store.failures import record_failures
from resources.store.redis_store import RedisStore


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[str]]:
    """Replace the process of `quantum once`; give the symbols it was asked for."""

    def arrange(outcome: object) -> list[str]:
        symbols: list[str] = []

        def run(command: list[str], **_: object) -> object:
            symbols.append(command[-1])
            if isinstance(outcome, Exception):
                raise outcome
            return subprocess.CompletedProcess(command, int(str(outcome)), "", "Single cycle complete\n")

        monkeypatch.setattr(module.subprocess, "run", run)
        return symbols

    return arrange


def remember(store: RedisStore, *, age_sec: float, exit_code: int = 0) -> None:
    last = {"at": store.clock().timestamp() - age_sec, "exit_code": exit_code, "last_line": ""}
    store.client.set(store.keys.of("single_cycle"), json.dumps(last), ex=1200)


def test_it_is_tried_with_a_symbol_that_can_be_computed(store, tried):
    """A dead symbol has alerts of its own."""
    symbols = tried(0)
    record_failures(store, "market_state", store.settings.symbols, {"BTCUSDT": "candles_missing"}, "c1")
    assert one_cycle(Evidence(store)).failing == {}
    assert symbols == ["ETHUSDT"]


def test_a_try_that_takes_too_long_leaves_the_last_success_standing(store, tried):
    """Load is no fault; and the busy machine is not asked again in the next minute."""
    symbols = tried(subprocess.TimeoutExpired("once", 20))
    remember(store, age_sec=700)
    finding = one_cycle(Evidence(store))
    assert finding.failing == {}
    assert "did not end in time" in finding.observed
    assert one_cycle(Evidence(store)).failing == {}
    assert len(symbols) == 1
    assert 0 < store.client.ttl(store.keys.of("single_cycle")) <= 1200


def test_a_cycle_that_never_ended_in_time_is_a_warning(store, tried):
    """Without a success in twenty minutes nobody knows whether it works."""
    tried(subprocess.TimeoutExpired("once", 20))
    finding = one_cycle(Evidence(store))
    assert (list(finding.failing), finding.severity) == (["quantum once"], "WARN")
    assert f"exit code {TIMED_OUT}" in finding.failing["quantum once"]


def test_a_cycle_that_fails_is_a_failure(store, tried):
    """Also when the last one succeeded."""
    tried(1)
    remember(store, age_sec=700)
    finding = one_cycle(Evidence(store))
    assert (list(finding.failing), finding.severity) == (["quantum once"], None)
