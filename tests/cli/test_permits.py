"""``quantum kill``, ``quantum arm`` and ``quantum permits`` as a person in a hurry runs them."""

import io
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console

from quantum_assets.governor_permit import decide_plans
from quantum_core.settings import load_settings
from quantum_ops.cli.layout import PIPE_WIDTH, Column, paragraph, records
from quantum_ops.exporter.metrics import counts_in, fold_decisions
from resources.governor.switches import disarm
from resources.store.redis_store import RedisStore
from tests.commands import run_command
from tests.governor.desk import Desk
from tests.world import write_plan

EVENTS = "quantum:stream:governor.events"


@pytest.fixture
def live(valkey_url: str) -> RedisStore:
    """An emptied server under the real clock, because the commands have no other."""
    store = RedisStore(load_settings(redis_url=valkey_url), lambda: datetime.now(UTC))
    store.client.flushdb()
    return store


def quantum(store: RedisStore, *arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, environment={"REDIS_URL": url or store.settings.url})


def last_event(store: RedisStore) -> dict[str, str]:
    ((_, fields),) = store.client.xrevrange(EVENTS, count=1)
    return {name.decode(): value.decode() for name, value in fields.items()}


def test_a_kill_stops_openings_and_says_how_to_undo_it(live) -> None:
    """Whoever needs it reads no manual."""
    Desk(live).ready("BTCUSDT")
    write_plan(live, "p-open", "BTCUSDT", "OPEN")
    done = quantum(live, "kill", "--reason", "wrong prices", "--name", "ada")
    assert done.returncode == 0, done.stderr
    assert "quantum:kill is set" in done.stdout
    assert "quantum arm --name" in done.stdout
    event = last_event(live)
    assert (event["event"], event["reason"], event["by"]) == ("KILL", "wrong prices", "ada")
    (decision,) = decide_plans(live, cycle_id="c1")
    assert decision.reason == "kill_switch_active"
    again = json.loads(quantum(live, "kill", "--reason", "still", "--json").stdout)
    assert again == {"kill": True, "changed": False, "key": "quantum:kill", "unrecorded": ""}


def test_arming_ends_kill_and_disarming_and_says_what_it_cleared(live) -> None:
    """A person takes it on."""
    quantum(live, "kill", "--reason", "r")
    disarm(live, "burst")
    done = quantum(live, "arm", "--name", "Ada Lovelace", "--reason", "mended")
    assert done.returncode == 0, done.stderr
    assert "Cleared: kill, disarm." in done.stdout
    assert "quantum kill --reason" in done.stdout
    assert (last_event(live)["by"], last_event(live)["cleared"]) == ("Ada Lovelace", "kill,disarm")
    told = json.loads(quantum(live, "arm", "--name", "Ada", "--reason", "again", "--json").stdout)
    assert (told["cleared"], told["guards"]) == ([], [])
    assert told["trouble"].startswith("risk_guard_missing")


@pytest.mark.parametrize(
    "arguments",
    [
        ("kill",),
        ("kill", "--reason", " "),
        ("arm",),
        ("arm", "--name", "n"),
        ("arm", "--reason", "r"),
        ("arm", "--name", "", "--reason", "r"),
        ("permits", "--count", "0"),
    ],
)
def test_without_name_or_reason_nothing_happens_and_the_exit_code_is_2(live, arguments) -> None:
    """The record is worth what is in it."""
    done = quantum(live, *arguments)
    assert done.returncode == 2
    assert done.stderr
    assert live.client.dbsize() == 0


@pytest.mark.parametrize(
    "arguments", [("kill", "--reason", "r"), ("arm", "--name", "n", "--reason", "r"), ("permits",)], ids=lambda one: one[0]
)
def test_a_dead_server_is_named_and_the_exit_code_is_3(live, arguments) -> None:
    """Somebody who believes that he has killed it must learn that he has not."""
    done = quantum(live, *arguments, url="redis://127.0.0.1:1")
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert done.stdout == ""


def test_a_record_that_cannot_be_written_is_told_by_an_exit_code_of_its_own(live) -> None:
    """The switch is set all the same; arming is refused."""
    live.client.set(EVENTS, "x")
    killed = quantum(live, "kill", "--reason", "r")
    assert (killed.returncode, live.client.get("quantum:kill")) == (1, b"1")
    assert "WRONGTYPE" in killed.stderr
    armed = quantum(live, "arm", "--name", "n", "--reason", "r")
    assert (armed.returncode, live.client.get("quantum:kill")) == (1, b"1")
    assert "Nothing was cleared" in armed.stderr
    shown = quantum(live, "permits")
    assert shown.returncode == 0
    assert "WRONGTYPE" in shown.stderr


def decide(live: RedisStore) -> None:
    for number in range(3):
        write_plan(live, f"p{number}", "ETHUSDT", "CLOSE", price=1.0)
        decide_plans(live, cycle_id="c1")
    write_plan(live, "p-btc", "BTCUSDT", "[red]CLOSE\x1b[2J", price=1.0)
    decide_plans(live, cycle_id="c1")


def test_permits_shows_the_last_decisions_newest_first_with_their_counts(live) -> None:
    """Why was my plan refused? One command."""
    decide(live)
    done = quantum(live, "permits", "--count", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = [(one["symbol"], one["plan_id"], one["outcome"], one["reason"], one["permits_5min"]) for one in told["decisions"]]
    assert rows == [
        ("BTCUSDT", "p-btc", "block", "invalid_plan:action", 0),
        ("ETHUSDT", "p2", "block", "burst_limit_exceeded", 2),
    ]
    write_plan(live, "p-last", "ETHUSDT", "CLOSE", price=1.0)
    decide_plans(live, cycle_id="c1")
    everything = json.loads(quantum(live, "permits", "--json").stdout)["decisions"]
    assert [one["plan_id"] for one in everything] == ["p-last", "p-btc", "p2", "p1", "p0"]  # by time over all symbols
    (line,) = [line for line in quantum(live, "permits").stdout.splitlines() if "p1" in line]
    assert "USD" in line
    assert all(abs(one["time"] - time.time()) < 60 for one in told["decisions"])
    only = json.loads(quantum(live, "permits", "--symbol", "BTCUSDT", "--json").stdout)["decisions"]
    assert [one["plan_id"] for one in only] == ["p-btc"]


@pytest.mark.parametrize("width", ["80", "200"])
def test_nothing_of_a_decision_is_cut_whatever_the_width(live, width: str) -> None:
    """A plan id that ends in an ellipsis cannot be explained; in a pipe a decision is one line, for grep."""
    plan_id = "example-BTCUSDT-1732870000000-with-a-long-name-of-its-planner-0001"
    write_plan(live, plan_id, "ETHUSDT", "FULL_CLOSE_PROPOSED", price=1e7)
    decide_plans(live, cycle_id="c1")
    piped = quantum(live, "permits").stdout
    (line,) = [line for line in piped.splitlines() if plan_id in line]
    assert all(word in line for word in ("ETHUSDT", "FULL_CLOSE_PROPOSED", "block", "daily_limit_exceeded"))
    out = Console(width=int(width), force_terminal=True, color_system=None, highlight=False, file=io.StringIO())
    on_a_terminal = records(
        out,
        [Column(name) for name in ("symbol", "time", "plan", "reason")],
        [("ETHUSDT", "2026-01-22 12:00:00 UTC", plan_id, "daily_limit_exceeded")],
    )
    out.print(on_a_terminal)
    shown = out.file.getvalue()
    assert all(word in shown for word in ("ETHUSDT", "2026-01-22 12:00:00 UTC", plan_id, "daily_limit_exceeded"))
    assert all(len(one) <= int(width) for one in shown.splitlines())
    assert ("│" in shown) is (width == "200")


@pytest.mark.parametrize(("written", "read"), [("json", "hash"), ("hash", "json")])
def test_either_form_of_a_permit_is_read_by_every_command(live, written: str, read: str) -> None:
    """A setting that changes while permits live, or differs between two hosts, hides none."""
    store = RedisStore(load_settings(redis_url=live.settings.url, permit_format=written), live.clock)
    Desk(store).ready("BTCUSDT")
    write_plan(store, "p", "BTCUSDT", "CLOSE", qty=0.5, price=100.0, kill_score="None")
    decide_plans(store, cycle_id="c1")
    assert live.client.type("quantum:permit:p") == {"json": b"string", "hash": b"hash"}[written]
    environment = {"REDIS_URL": live.settings.url, "PERMIT_FORMAT": read}
    explained = run_command("explain", "p", "--json", environment=environment)
    assert explained.returncode == 0, explained.stdout
    permit = json.loads(explained.stdout)["permit"]
    shown = {
        name: permit[name] for name in ("granted", "consumed", "computed_qty", "computed_notional", "eff_score", "eff_stale")
    }
    assert shown == {
        "granted": "true", "consumed": "false", "computed_qty": "0.5", "computed_notional": "50.0", "eff_score": "", "eff_stale": "1"
    }  # fmt: skip
    (decision,) = json.loads(run_command("permits", "--json", environment=environment).stdout)["decisions"]
    assert (decision["plan_id"], decision["outcome"]) == ("p", "permit")
    exporter = RedisStore(load_settings(redis_url=live.settings.url, permit_format=read), live.clock)
    fold_decisions(exporter)
    assert counts_in(exporter, "counts_decided") == {"allow:BTCUSDT": 1, "eff:NONE:missing_eff": 1}


def test_permits_shows_on_top_what_stands_against_openings(live) -> None:
    """The most frequent answer to "why is nothing opened?"."""
    decide(live)
    disarm(live, "burst_limit_exceeded: plan p2")
    quantum(live, "kill", "--reason", "wrong prices")
    quantum(live, "kill", "--reason", "so it is")
    guard = {"reason": "DRAWDOWN drawdown=9.0% > 8.0%", "expires_at": "2026-01-22T13:00:00+00:00"}
    live.client.set("quantum:risk:guard_active:DRAWDOWN", json.dumps(guard))
    shown = quantum(live, "permits").stdout
    top = shown.partition("Decisions")[0]
    assert top.startswith("Openings are BLOCKED:")
    assert re.search("Kill switch: set .* UTC by .*: wrong prices. A named person ends it: quantum arm", top)
    assert re.search("Governor: disarmed since [0-9-]+ [0-9:]+ UTC: burst_limit_exceeded", top)
    assert "burst_limit_exceeded" in top
    assert "Risk guard DRAWDOWN: drawdown=9.0% > 8.0%. It ends at 2026-01-22 13:00:00 UTC." in top
    assert "risk_guard_missing" in top
    assert "p-btc" in shown
    assert "\x1b[2J" not in shown
    told = json.loads(quantum(live, "permits", "--json").stdout)
    assert (told["kill"], told["guards"][0]["guard_type"]) == (True, "DRAWDOWN")
    assert told["killed"]["reason"] == "wrong prices"
    live.client.delete("quantum:stream:governor.events")
    assert "Kill switch: set, without a record" in quantum(live, "permits").stdout
    assert told["disarm"]["cause"] == "burst_limit_exceeded: plan p2"


@pytest.mark.parametrize("width", [80, 30])
def test_a_sentence_is_broken_between_words_and_never_cut(width: int) -> None:
    """A terminal breaks a line in the middle of a word; a pipe gets one line, for grep."""
    text = f"  Kill switch: set by Ada Lovelace: exchange reports wrong prices at {'x' * 40}."
    shown = paragraph(Console(width=width), text).plain
    assert shown.split() == text.split()
    assert all(len(line) <= width or "xxx" in line for line in shown.splitlines())
    assert paragraph(Console(width=PIPE_WIDTH), text).plain == text


def test_permits_shows_a_guard_that_lapsed_while_its_condition_holds(live) -> None:
    """It stands against openings without a key of its own, and the command that is to say so once ended in a traceback."""
    Desk(live).guard(status="blocked", triggered=["EQUITY_STALE"])
    shown = quantum(live, "permits")
    assert shown.returncode == 0, shown.stderr
    assert "Risk guard EQUITY_STALE: its condition holds. It ends with its condition." in shown.stdout
    told = json.loads(quantum(live, "permits", "--json").stdout)
    assert told["guards"] == [{"guard_type": "EQUITY_STALE"}]


def test_on_an_empty_server_permits_says_so(live) -> None:
    """No table of nothing."""
    done = quantum(live, "permits", "--symbol", "BTCUSDT")
    assert done.returncode == 0
    assert "No decision for BTCUSDT" in done.stdout
    assert "Unknown, and unknown blocks: risk_guard_missing" in done.stdout
    assert "Kill switch" not in done.stdout


def test_the_commands_start_without_dagster(live) -> None:
    """It may be what is down, and it takes seconds to import."""
    code = (
        "import sys; from quantum_ops.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: sys.exit(stop.code or int('dagster' in sys.modules) * 9)"
    )
    for arguments in (["kill", "--reason", "r"], ["arm", "--name", "n", "--reason", "r"], ["permits"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={"PATH": os.environ["PATH"], "REDIS_URL": live.settings.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
