"""The commands that look back: what they show is what was published, and where there is nothing they say what to do."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from quantum_core.contracts.tables import RISK_PROPOSAL
from quantum_core.profiles.profile import LOCKED
from quantum_ops.cli.history.look_back import moment_of
from quantum_ops.cli.history.look_back_shown import texts
from resources.governor.switches import kill
from resources.recorder.reading import TABLES
from tests.commands import run_command
from tests.conftest import START
from tests.recorded import Tape
from tests.world import real_closes, write_candles, write_plan, write_position, write_world

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
HOUR = ("--from", "2026-01-22T11:30", "--to", "2026-01-22T12:30")

LOST = {"symbol": "ETHUSDT", "asset": "risk_proposal", "state": "failed", "why": "candles_stale: 430 s > 420 s"}
MORE = {  # cycle to more rows by table
    1: {"switches": [{"name": "kill", "value": "set_by_kill"}]},
    2: {"without_result": [LOST]},
    3: {"without_result": [{**LOST, "state": "present", "why": ""}]},
}
PAGE = (Path(__file__).parents[2] / "docs" / "history.md").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Where the first test leaves its archive, for the others to begin with."""
    return tmp_path_factory.mktemp("made") / "recorder"


@pytest.fixture
def tape(store, instance, made) -> Tape:
    """An archive of four cycles: a plan that closes is permitted, one that opens is blocked, the price moves."""
    tape = Tape(store, instance)
    if made.exists():
        shutil.copytree(made, tape.archive.root)
        return tape
    write_world(store)
    write_plan(store, "p1", "BTCUSDT", price=real_closes("BTCUSDT")[-1])
    tape.cycle(switches=[{"name": "kill", "value": ""}])
    kill(store, reason="drill", by="ada")
    for step, price in enumerate((1.01, 1.03, 1.02), start=1):
        store.clock.advance(60)
        for symbol in SYMBOLS:
            closes = [*real_closes(symbol)[step:], *(real_closes(symbol)[-1] * one for one in (1.01, 1.03, 1.02)[:step])]
            write_candles(store, symbol, closes)
            write_position(store, symbol, entry=closes[0] * 0.9, mark=closes[-1])
        if step == 1:
            write_plan(store, "p2", "BTCUSDT", "OPEN", side="BUY", price=price)
        tape.cycle(**MORE[step])
    shutil.copytree(tape.archive.root, made)
    return tape


def quantum(tape: Tape, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command(*arguments, environment={"QUANTUM_HOME": str(tape.store.settings.quantum_home), "COLUMNS": "80"})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", START),
        ("90s", START - timedelta(seconds=90)),
        ("30m", START - timedelta(minutes=30)),
        ("2h", START - timedelta(hours=2)),
        ("7d", START - timedelta(days=7)),
        ("2026-01-22", datetime(2026, 1, 22, tzinfo=UTC)),
        ("2026-01-22T14:05", datetime(2026, 1, 22, 14, 5, tzinfo=UTC)),
        ("2026-01-22 14:05:30", datetime(2026, 1, 22, 14, 5, 30, tzinfo=UTC)),
        ("2026-01-22T14:05:30+02:00", datetime(2026, 1, 22, 12, 5, 30, tzinfo=UTC)),
        ("2026-01-22T14:05:30.250Z", datetime(2026, 1, 22, 14, 5, 30, 250_000, tzinfo=UTC)),
    ],
)
def test_a_time_is_utc_unless_it_says_otherwise(text, moment) -> None:
    assert moment_of(text, START) == moment
    assert moment_of(text, START).utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["", "yesterday", "2 h", "-1h", "2026-13-01", "1700000000000", "99999999999999d", "h"])
def test_what_is_no_time_is_refused(text) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, the command says what is accepted
        moment_of(text, START)


def test_a_table_shows_what_changed_and_files_have_every_row(tape, tmp_path) -> None:
    shown = quantum(tape, "history", "btcusdt", *HOUR)
    assert shown.returncode == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines() if "LONG" in line]
    assert len(lines) == 4
    assert "12:00:00" in lines[0]

    as_json = json.loads(quantum(tape, "history", "BTCUSDT", *HOUR, "--format", "json").stdout)
    proposed = tape.store.read(RISK_PROPOSAL, ["BTCUSDT"])[0].value["proposed_sl"]
    assert as_json[-1]["risk_proposal.proposed_sl"] == proposed
    assert as_json[0]["at"] == "2026-01-22T12:00:00+00:00"

    for form in ("csv", "json", "parquet"):
        assert quantum(tape, "history", "BTCUSDT", *HOUR, "--out", str(tmp_path / f"x.{form}")).returncode == 0
    frame = pl.read_parquet(tmp_path / "x.parquet")
    assert len(frame) == len(as_json)
    assert pl.read_csv(tmp_path / "x.csv")["risk_proposal.proposed_sl"].to_list() == frame["risk_proposal.proposed_sl"].to_list()
    assert json.loads((tmp_path / "x.json").read_text()) == as_json


def test_one_asset_is_shown_as_it_was_published(tape) -> None:
    rows = json.loads(quantum(tape, "history", "BTCUSDT", *HOUR, "--asset", "harvest_proposal", "--format", "json").stdout)
    assert list(rows[0])[:2] == ["at", "cause"]
    assert rows[0]["cause"] == "first"
    assert {"harvest_action", "reason_codes", "profile_name", "cycle_id"} <= set(rows[0])
    some = quantum(
        tape, "history", "BTCUSDT", *HOUR, "--asset", "harvest_proposal", "--columns", "reason_codes", "--format", "csv"
    )
    assert some.stdout.splitlines()[0] == "at,cause,reason_codes"


def test_the_picture_is_one_and_an_empty_hour_can_be_drawn_too(tape, tmp_path) -> None:
    for name, more in (("x.png", ()), ("y.png", ("--from", "2026-01-22T12:02:30", "--to", "2026-01-22T12:02:31"))):
        quantum(tape, "history", "BTCUSDT", *HOUR, *more, "--plot", str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_state_at_a_moment_names_switches_guards_assets_and_plans(tape) -> None:
    before = quantum(tape, "at", "2026-01-22T12:00:30")
    assert before.returncode == 0, before.stderr
    assert "Switches: none on\n" in before.stdout
    assert "Risk guard: status ok" in before.stdout
    after = quantum(tape, "at", "2026-01-22T12:01:30")
    assert "Switches: kill set_by_kill" in after.stdout
    assert "kill_switch_active" in after.stdout
    for symbol in SYMBOLS:
        assert after.stdout.count(symbol) >= 6
    everything = json.loads(quantum(tape, "at", "2026-01-22T12:00:30", "--symbols", "ETHUSDT", "--json").stdout)
    assert list(everything["rows"]) == ["ETHUSDT"]
    assert everything["rows"]["ETHUSDT"]["market_state"]["candles_digest"]
    assert everything["switches"] == {"kill": ""}
    assert [one["plan_id"] for one in everything["decisions"]] == ["p1"]


@pytest.fixture
def narrow(monkeypatch) -> Console:
    """A terminal of 80 columns, which is what an operator has at night."""
    console = Console(width=80, highlight=False, soft_wrap=True, record=True, force_terminal=True, color_system=None)
    monkeypatch.setattr("quantum_ops.cli.layout.console", lambda: console)
    return console


def test_no_symbol_is_cut_at_eighty_columns(tape, narrow) -> None:
    for arguments in (("history", "BTCUSDT", *HOUR), ("at", "2026-01-22T12:01:30")):
        assert quantum(tape, *arguments).returncode == 0
    lines = narrow.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(symbol in line for line in lines for symbol in SYMBOLS) >= 18


def test_at_eighty_columns_a_wide_row_shows_what_has_changed(tape, narrow) -> None:
    """Of thirty numbers of a proposal, twenty are those of the row before; who looks for the other ten finds them."""
    assert quantum(tape, "history", "BTCUSDT", *HOUR, "--asset", "risk_proposal").returncode == 0
    text = narrow.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("locked-v1") == text.count("trail_gap_pct") == 1
    assert text.count("sl_breached False") == text.count("sl_breached True") == 1
    assert text.count("position_age_sec") == 4
    stops = [re.search(r"stop ([\d,]+)", part) for part in re.split(r"^12:0", text, flags=re.MULTILINE)[1:]]
    assert [bool(one) for one in stops] == [True, True, True, False]  # the last one is that of the row before


def test_what_all_symbols_share_is_said_once(tape, narrow) -> None:
    assert quantum(tape, "at", "2026-01-22T12:01:30").returncode == 0
    assert "market_state\nIn all of them: since 12:01:00, source candles\n" in narrow.export_text()


@pytest.mark.parametrize(("name", "values"), [("sigma", [0.123456781, 0.123456782]), ("proposed_sl", [97123.4567, 97123.4568])])
def test_neighbours_that_differ_are_shown_to_differ(name, values) -> None:
    """Six digits are enough to read, and not enough for two rows that differ in the ninth."""
    assert len(set(texts(name, values, one_day=True))) == 2
    assert texts(name, [values[0], None], one_day=True)[0] != repr(values[0])


def test_an_entry_is_shown_although_it_says_the_same_as_the_one_before(tape) -> None:
    """A value stands until the next one; of two refusals each is one."""
    row = {"symbol": "BTCUSDT", "event": "BLOCK", "reason": "daily_limit"}
    ids = [f"{int(START.timestamp() * 1000) + 240_000}-{number}" for number in range(2)]
    tape.flush({"decisions": pl.DataFrame([{**row, "entry_id": one} for one in ids])}, START.date())
    shown = quantum(tape, "history", "BTCUSDT", *HOUR, "--asset", "decisions", "--columns", "event,reason")
    assert shown.stdout.count("daily_limit") == 2


def test_parameters_are_those_in_force_for_the_symbol_and_their_changes(tape, narrow) -> None:
    """Each process records them when it begins, under the name of the profile: that is no answer yet."""
    changed = LOCKED.changed({"stops": {"sl_min_pct": 0.007}})
    before, first, second = START - timedelta(hours=3), START + timedelta(minutes=1), START + timedelta(minutes=2)
    for one, at in ((LOCKED, before), (LOCKED, first), (changed, second)):
        row = {"symbol": one.name, "fingerprint": one.fingerprint, "text": one.text()}
        tape.flush({"parameters": tape.stamped([row], at)}, START.date())
    words = ("history", "BTCUSDT", *HOUR, "--asset", "parameters")
    rows = json.loads(quantum(tape, *words, "--columns", "fingerprint,stops.sl_min_pct", "--format", "json").stdout)
    assert [(row["at"], row["stops.sl_min_pct"]) for row in rows] == [(before.isoformat(), 0.005), (second.isoformat(), 0.007)]
    assert len({row["fingerprint"] for row in rows}) == 2
    assert quantum(tape, *words).returncode == 0
    text = narrow.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("stops.sl_min_pct") == 2
    assert text.count("stops.tp_min_pct") == 1


def test_parameters_that_cannot_be_read_today_are_named(tape) -> None:
    row = {"symbol": "old", "fingerprint": "0" * 12, "text": '{"name": "old", "kernel_that_is_gone": {"x": 1}}'}
    tape.flush({"parameters": tape.stamped([row], START)}, START.date())
    (shown,) = json.loads(quantum(tape, "history", "BTCUSDT", *HOUR, "--asset", "parameters", "--format", "json").stdout)
    assert shown["profile_name"] == "old"
    assert "kernel_that_is_gone" in shown["trouble"]


def test_versions_and_settings_are_the_deployment_s(tape) -> None:
    for seq, value in enumerate(("1.0", "1.0", "1.1")):
        at = START + timedelta(minutes=seq)
        tape.flush({"versions": tape.stamped([{"symbol": "polars", "value": value}], at)}, START.date())
    rows = json.loads(quantum(tape, "history", "BTCUSDT", *HOUR, "--asset", "versions", "--format", "json").stdout)
    assert [(row["name"], row["value"]) for row in rows] == [("polars", "1.0"), ("polars", "1.1")]


ERRORS = [  # command, exit code, and what it says
    (("history", "DOGEUSDT", *HOUR), 2, "there are BTCUSDT, ETHUSDT, SOLUSDT"),
    (("history", "BTCUSDT", "--from", "2026-01-23"), 1, "The archive covers 2026-01-22 12:00:00 to 2026-01-22 12:03:00 UTC"),
    (("history", "BTCUSDT", "--from", "tomorrow"), 2, "is no time: give 2026-01-22"),
    (("history", "BTCUSDT", *HOUR, "--columns", "market_state.beta"), 2, "no column 'market_state.beta'"),
    (("history", "BTCUSDT", *HOUR, "--asset", "orders"), 2, "no table 'orders': there are"),
    (("history", "BTCUSDT", *HOUR, "--asset", "position", "--columns", "x"), 2, "there are seq, cycle_id"),
    (("history", "BTCUSDT", "--from", "1h", "--to", "2h"), 2, "is after --to"),
    (("history", "BTCUSDT", *HOUR, "--out", "/nowhere/x.csv"), 2, "give another file"),
    (("at", "2026-01-22T11:59:59"), 1, "The archive covers"),
    (("at", "2026-01-22T12:00:30", "--symbols", "DOGEUSDT"), 2, "there are BTCUSDT"),
    (("export", "2026-01-21"), 1, "Nothing is recorded of 2026-01-21"),
]


def test_an_error_says_what_to_do(tape) -> None:
    for arguments, code, said in ERRORS:
        done = quantum(tape, *arguments)
        assert (done.returncode, said in " ".join(done.stderr.split())) == (code, True), (arguments, done.stdout + done.stderr)


@pytest.mark.parametrize("command", [("history", "BTCUSDT"), ("at", "now"), ("export", "2026-01-22")])
def test_without_an_archive_they_say_how_to_make_one(tmp_path, command) -> None:
    done = run_command(*command, environment={"QUANTUM_HOME": str(tmp_path)})
    assert done.returncode == 1
    assert "quantum recorder" in done.stderr


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(tape) -> None:
    tape.archive.files("market_state", START.date())[0].write_bytes(b"no parquet")
    done = quantum(tape, "history", "BTCUSDT", *HOUR)
    assert done.returncode == 1
    assert "LONG" in done.stdout
    assert "Left out: market_state/date=2026-01-22/part-" in done.stderr


def test_an_exported_day_is_verified_without_our_code(tape, tmp_path) -> None:
    tape.archive.compact(START.date())
    target = tmp_path / "day.tar"
    done = quantum(tape, "export", "2026-01-22", "--out", str(target))
    assert done.returncode == 0, done.stderr
    with tarfile.open(target) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True, check=True)
    assert check.stdout.count(": OK") == len(tape.archive.manifest(START.date())["tables"])
    readme = (tmp_path / "out" / "README.md").read_text()
    (polars_line,) = [line for line in readme.splitlines() if "polars" in line]
    ran = subprocess.run(
        ["bash", "-c", polars_line.replace("python ", f"{sys.executable} ")],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"shape: ({tape.archive.manifest(START.date())['tables']['market_state']['rows']}, " in ran.stdout
    assert {"quantum-risk-pipeline", "polars"} <= json.loads((tmp_path / "out" / "versions.json").read_text()).keys()


def test_a_day_that_was_changed_is_packed_and_does_not_pass(tape, tmp_path) -> None:
    """It is evidence all the same, and its hashes are those of the day it was written."""
    tape.archive.compact(START.date())
    path = tape.archive.folder("position", START.date()) / "day.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = quantum(tape, "export", "2026-01-22", "--out", str(tmp_path / "day.tar"))
    assert done.returncode == 1
    assert "position/date=2026-01-22/day.parquet is not as it was written" in done.stderr
    with tarfile.open(tmp_path / "day.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert "recorder/position/date=2026-01-22/day.parquet: FAILED" in check.stdout
    assert check.stdout.count("FAILED") == 1


def test_an_open_day_says_that_it_is_in_no_chain(tape, tmp_path) -> None:
    done = quantum(tape, "export", "2026-01-22", "--out", str(tmp_path / "day.tar"))
    assert done.returncode == 0
    assert "in no chain" in done.stderr
    with tarfile.open(tmp_path / "day.tar") as tar:
        assert "in no chain" in tar.extractfile("README.md").read().decode()


def commands_of(page: str, program: str) -> list[list[str]]:
    """Give the lines of a page's shell blocks that call a program, as a shell splits them."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines() if line.startswith(f"{program} ")]


def test_every_command_of_the_page_shows_something(tape, tmp_path) -> None:
    """The page is read by somebody who has no time to find out what it meant."""
    commands = commands_of(PAGE, "quantum")
    assert {arguments[0] for arguments in commands} == {"history", "at", "export", "rerun", "prove"}
    for arguments in commands:
        if arguments[0] in ("rerun", "prove"):  # need the inputs, too: test_rerun_command.py, test_day_report.py
            continue
        files = [name for name in arguments if name.endswith((".png", ".tar"))]
        done = quantum(tape, *(str(tmp_path / name) if name in files else name for name in arguments))
        assert done.returncode == 0, (arguments, done.stderr)
        assert files or done.stdout.count("\n") >= 4, arguments
        assert all((tmp_path / name).stat().st_size for name in files)


@pytest.mark.parametrize("compacted", [False, True], ids=["open day", "compacted day"])
def test_the_queries_of_the_page_give_what_the_command_gives(tape, compacted) -> None:
    if compacted:
        tape.archive.compact(START.date())
    columns = ("--columns", "proposed_sl", "--format", "json", "--asset", "risk_proposal")
    stops = [row["proposed_sl"] for row in json.loads(quantum(tape, "history", "BTCUSDT", *HOUR, *columns).stdout)]
    queries = commands_of(PAGE, "python")
    assert ["polars" in query[1] for query in queries] == [True, False]
    for _, query in queries if find_spec("duckdb") else queries[:1]:
        done = subprocess.run(
            [sys.executable, "-c", query], cwd=tape.store.settings.quantum_home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for stop in stops:
            assert f"{stop:.1f}"[:-2] in done.stdout.replace(",", ""), done.stdout


def test_the_page_names_every_table(tape) -> None:
    assert set(tape.archive.tables()) <= {name for name in TABLES if f"`{name}`" in PAGE} == {*TABLES}
