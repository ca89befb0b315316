"""``quantum prove``: its exit code is what a scheduled job acts on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantum_assets.checks.proof import Finding, Proof, Verdict
from quantum_ops.cli.audit.prove import _show
from quantum_ops.sealed_page import verify
from resources.store.redis_store import RedisStore
from tests.commands import run_command


def settings_of(store: RedisStore) -> dict[str, str]:
    return {"REDIS_URL": store.settings.url, "QUANTUM_HOME": str(store.settings.quantum_home)}


def prove(store: RedisStore, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with the settings of a store."""
    return run_command("prove", *arguments, environment=settings_of(store) | environment)


def test_a_dead_redis_has_an_exit_code_of_its_own(store: RedisStore) -> None:
    """Nothing is proven, and nothing is disproven either."""
    done = prove(store, REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert done.stdout == ""


def test_an_unknown_group_is_a_usage_error_that_names_the_known_ones(store: RedisStore) -> None:
    done = prove(store, "--group", "stops")
    assert done.returncode == 2
    assert "risk_proposal" in done.stderr


@pytest.mark.slow
def test_on_an_empty_server_what_is_missing_is_named_and_nothing_is_written(store: RedisStore, tmp_path: Path) -> None:
    """A reader must not become a writer: a cycle of its own would decide plans under whatever settings its shell has."""
    report = tmp_path / "evidence.html"
    arguments = ["--symbols", "BTCUSDT", "--json", "--report", str(report)]
    command = [sys.executable, "-m", "quantum_ops.cli", "prove", *arguments]  # as a user does, in a process of its own
    environment = {"PATH": os.environ["PATH"], **settings_of(store)}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    verdicts = {one["proof"]: one for one in json.loads(done.stdout)}
    assert verdicts["market_state/contract"]["failing"] == {"BTCUSDT": "missing"}
    assert verdicts["market_state/regimes"]["passed"]
    assert not verdicts["risk_proposal/one_cycle"]["evaluated"]
    assert verify(report.read_text())
    assert store.client.dbsize() == 0


@pytest.mark.slow
def test_some_symbols_are_judged_by_the_cycles_of_their_own_shard(store: RedisStore) -> None:
    """The loop keeps its times under the first symbol of a shard, which need not be among those asked for."""
    now = time.time()
    store.client.rpush(store.keys.of("cycles", "BTCUSDT"), *(now - 10 * ago for ago in range(6)))
    done = prove(store, "--symbols", "ETHUSDT", "--group", "risk_proposal", "--json", SYMBOLS="BTCUSDT,ETHUSDT,SOLUSDT")
    verdicts = {one["proof"]: one for one in json.loads(done.stdout)}
    assert verdicts["risk_proposal/cadence"]["passed"], verdicts["risk_proposal/cadence"]
    strange = prove(store, "--symbols", "XRPUSDT", "--group", "risk_proposal", "--json", SYMBOLS="BTCUSDT,ETHUSDT,SOLUSDT")
    (cadence,) = [one for one in json.loads(strange.stdout) if one["proof"] == "risk_proposal/cadence"]
    assert not cadence["passed"]


@pytest.mark.slow
@pytest.mark.parametrize(("tampered", "code"), [(False, 0), (True, 1)])
def test_one_group_of_a_product_that_needs_no_server_holds_until_it_does_not(store: RedisStore, tampered, code) -> None:
    """The way a script asks: exit code first, one line per proof for the reader."""
    if tampered:
        store.client.hset(store.keys.of("capital_efficiency", "BTCUSDT"), "efficiency_score", "nan")
    done = prove(store, "--group", "capital_efficiency")
    assert done.returncode == code, done.stdout + done.stderr
    assert ("BTCUSDT" in done.stdout) is tampered
    assert done.stdout.count("capital_efficiency/readable") == 1


def verdict_of(title: str, severity: str, *, evaluated: bool = True) -> Verdict:
    asset, name = title.split("/")
    proof = Proof(asset, name, "all", severity, "claim", lambda _: None)
    return Verdict(proof, Finding("0 of 1", "all", 1, {"": "why"}), evaluated)


@pytest.mark.parametrize(
    ("verdict", "counts"),
    [
        (verdict_of("governor_permit/profile_evidence", "WARN"), False),
        (verdict_of("governor_permit/profile_evidence", "WARN", evaluated=False), True),
        (verdict_of("market_state/coverage", "WARN"), True),
        (verdict_of("market_state/recomputed", "ERROR"), True),
    ],
)
def test_a_warning_that_is_no_event_fails_no_scheduled_job(verdict: Verdict, counts, capsys) -> None:
    """It would be true from the first minute of locked-v1 on, and hide every later failure behind it."""
    assert bool(_show([verdict], 0.0, "now", as_json=False)) is counts
    said = capsys.readouterr()
    assert "0 of 1 proofs hold" in said.err
    assert verdict.proof.title in said.out
