"""``quantum guard`` as the person who answers for the account runs it."""

import json
import subprocess
from datetime import UTC, datetime

import pytest

from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.commands import run_command
from tests.governor.desk import Desk
from tests.world import write_equity

KEY = "quantum:risk:guard_active:"
BY = ("--name", "ada", "--reason", "the exchange told a wrong equity")


@pytest.fixture
def live(valkey_url: str) -> RedisStore:
    """An emptied server with a sound account, under the real clock, because the commands have no other."""
    store = RedisStore(load_settings(redis_url=valkey_url), lambda: datetime.now(UTC))
    store.client.flushdb()
    Desk(store).guard()
    write_equity(store)
    return store


def quantum(store: RedisStore, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command("guard", *arguments, environment={"REDIS_URL": store.settings.url})


def stand(store: RedisStore, guard: str, **more: object) -> None:
    """Let a guard stand for its time."""
    said = {"guard_type": guard, "reason": f"{guard} drawdown=99.0% > 10.0%", "expires_at": "2026-01-22T13:00:00+00:00", **more}
    store.client.set(KEY + guard, json.dumps(said), ex=3600)


def test_the_list_says_what_stands_what_waits_and_who_released_what(live) -> None:
    """All that a person needs before the decision."""
    assert quantum(live, "list").stdout == "No risk guard is active.\n"
    stand(live, "DRAWDOWN")
    stand(live, "EMERGENCY_FLATTEN", pending=True, confirm_sec=10, source="risk_guard")
    shown = quantum(live, "list")
    assert shown.returncode == 0, shown.stderr
    assert "Risk guard DRAWDOWN: drawdown=99.0% > 10.0%. It ends at 2026-01-22 13:00:00 UTC." in shown.stdout
    waits = "It ends with a newer reading within its limit, and is confirmed by one that is not, 10 s later."
    assert f"Risk guard EMERGENCY_FLATTEN: drawdown=99.0% > 10.0%. {waits}" in shown.stdout
    assert quantum(live, "release", "DRAWDOWN", *BY).returncode == 0
    told = json.loads(quantum(live, "list", "--json").stdout)
    assert [(one["guard_type"], one["pending"]) for one in told["guards"]] == [("EMERGENCY_FLATTEN", True)]
    (released,) = told["released"]
    assert (released["guard_type"], released["by"], released["reason"]) == ("DRAWDOWN", "ada", BY[-1])
    assert f"DRAWDOWN (DRAWDOWN drawdown=99.0% > 10.0%) by ada: {BY[-1]}" in quantum(live, "list").stdout


def test_a_release_ends_the_named_guard_alone(live) -> None:
    """And says what else blocks."""
    stand(live, "EMERGENCY_FLATTEN")
    stand(live, "DRAWDOWN")
    done = quantum(live, "release", "EMERGENCY_FLATTEN", *BY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Released: EMERGENCY_FLATTEN (EMERGENCY_FLATTEN drawdown=99.0% > 10.0%)." in done.stdout
    assert "Openings stay blocked by risk guards: DRAWDOWN." in done.stdout
    assert [live.client.exists(KEY + guard) for guard in ("EMERGENCY_FLATTEN", "DRAWDOWN")] == [0, 1]
    told = json.loads(quantum(live, "release", "DRAWDOWN", *BY, "--json").stdout)
    assert (told["released"], told["guards"], told["trouble"]) == ("DRAWDOWN", [], "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("DRAWDOWN", *BY), 1, "its condition holds: DRAWDOWN drawdown=20.0% > 8.0%"),
        (("CONSEC_LOSS", *BY), 1, "no guard CONSEC_LOSS is active"),
        (("MARGIN_CALL", *BY), 2, "accepted are EQUITY_STALE, DAILY_LOSS"),
        (("DRAWDOWN", "--name", " ", "--reason", "r"), 2, "name is blank"),
        (("DRAWDOWN", "--name", "ada"), 2, "--reason"),
        (("DRAWDOWN", "--reason", "r"), 2, "--name"),
        ((), 2, "TYPE"),
    ],
)
def test_a_refusal_says_why_and_releases_nothing(live, arguments, code, words) -> None:
    """The exit code tells a script whether to stop, or to correct what it typed."""
    stand(live, "DRAWDOWN")
    write_equity(live, equity=8_000.0)
    done = quantum(live, "release", *arguments)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert live.client.exists(f"{KEY}DRAWDOWN")
    assert live.client.xlen("quantum:stream:risk.events") == 0


def test_a_guard_that_nobody_can_judge_is_listed_as_trouble_and_a_dead_server_is_exit_3(live) -> None:
    """Unknown is no empty list."""
    live.client.delete("quantum:risk:guard:state")
    shown = quantum(live, "list")
    assert (shown.returncode, "risk_guard_missing" in shown.stdout) == (1, True)
    away = {"REDIS_URL": "redis://127.0.0.1:1"}
    assert run_command("guard", "list", environment=away).returncode == 3
    assert run_command("guard", "release", "DRAWDOWN", *BY, environment=away).returncode == 3
