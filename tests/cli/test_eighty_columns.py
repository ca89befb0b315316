"""What a command prints fits a terminal of 80 columns, broken between words; a pipe gets each sentence as one line."""

import io
import json
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from quantum_assets.checks.proof import Finding, Proof, Verdict
from quantum_assets.replay.rerun import Difference, Outcome
from quantum_core.alert_catalogue import page
from quantum_core.profiles.files import load
from quantum_ops.cli.audit.keys import reference as keys
from quantum_ops.cli.audit.prove import _show, catalogue
from quantum_ops.cli.audit.settings import reference as settings
from quantum_ops.cli.history.rerun import _show as show_rerun
from quantum_ops.cli.history.rerun import as_text as rerun_as_text
from quantum_ops.cli.layout import Column, page_of, records
from resources.store.redis_store import RedisStore
from tests.commands import run_command

WIDTH = 80
TERMINAL = {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": str(WIDTH)}
SYMBOL = "1000000LONGNAMEDCOINUSDT"
REASON = f"the exchange reports wrong prices of {SYMBOL} since the maintenance of its matching engine, and of no other symbol"
COLUMNS = [Column("symbol"), Column("n", labelled=True), Column("reason", colours={REASON: "red"}), Column("last")]


def assert_fits(shown: str, width: int = WIDTH) -> None:
    """No line is longer than the terminal, but for a single word that is."""
    assert "…" not in shown
    assert [line for line in shown.splitlines() if len(line) > width and " " in line.strip()] == []


@pytest.fixture
def troubled(store: RedisStore, tmp_path: Path) -> dict[str, str]:
    """Give the environment of a server on which much is wrong, with long names and long reasons."""
    alert = {"severity": "page", "level": "page", "since": 1769083200.0, "title": f"{SYMBOL}: {REASON}"}
    store.client.set("quantum:alerts:active", json.dumps([alert]))
    guard = {"reason": f"DRAWDOWN {REASON}", "expires_at": "2026-01-22T13:00:00+00:00"}
    store.client.set("quantum:risk:guard_active:DRAWDOWN", json.dumps(guard))
    state = {
        "at": str(time.time()),
        "owner": "host:recordings",
        "folder": "recordings",
        "trouble": REASON,
        "seq": "7",
        "gaps": "0",
    }
    store.client.hset("quantum:recorder:state", mapping=state)
    (tmp_path / "desk.toml").write_text(
        'name = "desk"\nversion = "1"\n[stops]\nsl_min_percentage = 0.1\nanother_name_that_is_none = 2\n'
    )
    (tmp_path / "old.env").write_text("LOOP_INTERVAL_SEC=10\nMETRICS_PORT=1\nGOV_ENABLE_AUTO_DISARM=true\n")
    return {"REDIS_URL": store.settings.url, "QUANTUM_HOME": str(store.settings.quantum_home), "FOLDER": str(tmp_path)}


@pytest.mark.parametrize(
    "command",
    [
        "alerts list",
        "alerts test",
        "guard list",
        "permits",
        "recorder --status",
        "profile check {FOLDER}/desk.toml",
        "doctor --env {FOLDER}/old.env",
    ],
)
def test_sentences_are_broken_on_a_terminal_and_whole_in_a_pipe(troubled: dict[str, str], command: str) -> None:
    """Other programs read the pipe line by line; a person reads a reason to its end."""
    arguments = command.format_map(troubled).split()
    shown = run_command(*arguments, environment=troubled | TERMINAL).stdout
    piped = run_command(*arguments, environment=troubled).stdout
    assert_fits(shown)
    assert shown.split()[:5] == piped.split()[:5]  # then come ages, which go on
    assert len(shown.split()) == len(piped.split())
    assert len(piped.splitlines()) < len(shown.splitlines()) or max(map(len, piped.splitlines())) <= WIDTH
    if command in ("alerts list", "guard list", "permits", "recorder --status"):
        assert REASON in piped
        assert REASON in " ".join(shown.split())


@pytest.mark.parametrize("command", ["profile list", "profile show crypto-1m", "profile diff locked-v1 crypto-1m"])
def test_profiles_are_shown_whole(command: str) -> None:
    """The note says why a profile is not recommended."""
    shown = run_command(*command.split(), environment=TERMINAL).stdout
    assert_fits(shown)
    assert load("crypto-1m").fingerprint in shown
    assert "diff" in command or load("crypto-1m").note in " ".join(shown.split())


def test_a_verdict_is_shown_with_everything_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Symbol and reason are what somebody acts on."""
    proof = Proof("market_state", "recomputed", "all", "ERROR", "claim", lambda _: None)
    verdict = Verdict(proof, Finding("largest relative difference 2.0e-04", "equal as printed", 1, {SYMBOL: REASON}))
    _show([verdict], 0.0, "for 1 symbol", as_json=False)
    line = f"FAIL  {proof.title:42s} largest relative difference 2.0e-04  (equal as printed)\n      {SYMBOL}: {REASON}\n"
    assert capsys.readouterr().out == line
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    _show([verdict], 0.0, "for 1 symbol", as_json=False)
    shown = capsys.readouterr().out
    assert_fits(shown)
    assert shown.split() == line.split()


def test_a_difference_is_shown_with_symbol_field_and_both_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe gets its row as one line, whatever the length of the names."""
    at = datetime(2026, 1, 22, 12, tzinfo=UTC)
    outcome = Outcome(rows=3, steps=2, began=at, ended=at, skipped={REASON: 2})
    outcome.add(
        Difference(7, "c1", "harvest_proposal", SYMBOL, "risk_proposal_cycle_id", "121359.7745", "114554.5535", REASON, at)
    )
    show_rerun(outcome, 1.0, None)
    cells = f"12:00:00  harvest_proposal  {SYMBOL}  risk_proposal_cycle_id"
    assert f"{cells}  121359.7745  114554.5535\n" in capsys.readouterr().out
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    show_rerun(outcome, 1.0, None)
    shown = capsys.readouterr().out
    assert_fits(shown)
    assert f"{cells}\n    published 121359.7745  computed 114554.5535\n" in shown
    assert " ".join(shown.split()).count(REASON) == 2


def test_a_difference_is_the_same_as_json() -> None:
    """Counted by asset and field; every value is one that JSON has."""
    outcome = Outcome(rows=2, steps=1)
    for name in ("stop", "sigma"):
        outcome.add(Difference(1, "cycle", "risk_proposal", SYMBOL, name, "1.0", "2.0", at=datetime(2026, 1, 1, tzinfo=UTC)))
    answer = json.loads(rerun_as_text(outcome, 1.04))
    assert answer["rows_of"] == {"risk_proposal": 2}
    assert answer["changed"] == {"risk_proposal": {"stop": 1, "sigma": 1}}
    assert [one["name"] for one in answer["differences"]] == ["stop", "sigma"]
    assert answer["seconds"] == 1.0


@pytest.mark.parametrize("width", [WIDTH, 200])
@pytest.mark.parametrize("text", [keys(), settings(), catalogue(), page()], ids=["keys", "settings", "proofs", "alerts"])
def test_a_reference_page_keeps_every_cell_on_a_terminal(text: str, width: int) -> None:
    """Markdown is for files; nobody reads a table whose lines are three lines of the terminal."""
    shown = printed(page_of(terminal(width), text), width)
    assert_fits(shown, width)
    words = " ".join(shown.split())
    rows = [line for before, line in pairwise(text.splitlines()) if line.startswith("| ") and before.startswith("|")]
    assert len(rows) > 9
    for row in rows:
        cells = [cell.strip().replace("&#124;", "|").replace(r"\|", "|") for cell in row.strip("|").split("| ")]
        assert all(" ".join(cell.split()) in words for cell in cells)


@pytest.mark.parametrize("width", [30, WIDTH, 200])
def test_a_field_longer_than_the_terminal_is_broken_between_words(width: int) -> None:
    """A terminal breaks it in the middle of a symbol."""
    out = terminal(width)
    shown = printed(records(out, COLUMNS, [(SYMBOL, "1", REASON, "end")], title=f"Title: {REASON}"), width)
    assert_fits(shown, width)
    words = " ".join(shown.replace("│", " ").split())
    assert REASON in words.partition("Title: ")[2]
    assert f"{SYMBOL} {'' if '│' in shown else 'n '}1 {REASON} end" in words
    assert ("│" in shown) is (width == 200)


def terminal(width: int) -> Console:
    return Console(width=width, force_terminal=True, color_system=None, highlight=False, soft_wrap=True, file=io.StringIO())


def printed(what: object, width: int) -> str:
    out = terminal(width)
    out.print(what)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()
