"""The console of ``quantum up``: one format, no escapes in a pipe, and what every cycle repeats only in the log file."""

import logging
import re
from pathlib import Path

import pytest

from quantum_ops.processes.console import NamedStream, OwnLines, parse

PUBLISHED = "INFO quantum.publish Published proposal for BTCUSDT: SL=$106.0847 TP=$106.1004 reasons=trail_active"
TICK = (
    "\x1b[32m2026-11-29 07:17:52 +0000\x1b[0m - dagster.daemon.SensorDaemon - \x1b[34mINFO\x1b[0m - Checking for new runs for "
    "sensor: plans"
)
FAILED = "\x1b[32m2026-11-29 07:17:52 +0000\x1b[0m - dagster.daemon.SensorDaemon - \x1b[31mERROR\x1b[0m - Sensor failed"


@pytest.mark.parametrize(
    ("printed", "read"),
    [
        (TICK, ("INFO", "dagster.daemon.SensorDaemon", "Checking for new runs for sensor: plans")),
        (PUBLISHED, ("INFO", "quantum.publish", PUBLISHED.removeprefix("INFO quantum.publish "))),
        (
            "2026-11-29 07:17:13,079 INFO quantum.example_feed Playing BTCUSDT",
            ("INFO", "quantum.example_feed", "Playing BTCUSDT"),
        ),
        ("INFO:     Started server process [1]", ("INFO", "", "Started server process [1]")),
        ("4696:M 29 Nov 2026 07:17:08.217 # WARNING Memory", ("WARNING", "", "Memory")),
        ("4696:M 29 Nov 2026 07:17:08.217 * Ready", ("INFO", "", "Ready")),
        ('  File "a.py", line 1, in <module>', ("", "", '  File "a.py", line 1, in <module>')),
    ],
)
def test_every_layout_of_our_processes_is_read(printed: str, read: tuple[str, str, str]) -> None:
    """One format for all: who reads five formats reads none."""
    assert tuple(parse(printed)) == read


def shown(stream: NamedStream, capsys: pytest.CaptureFixture[str], *lines: str) -> list[str]:
    stream({"data": "".join(f"{line}\n" for line in lines).encode()})
    return [line.partition(" | ")[2] for line in capsys.readouterr().err.splitlines()]


def test_what_every_cycle_repeats_is_in_the_file_and_a_fault_is_on_the_console(tmp_path, capsys) -> None:
    """205 lines a minute hide the one that matters; operators grep the publications in the file."""
    path = tmp_path / "logs" / "quantum.log"
    stream = NamedStream("worker", str(path))
    lines = (TICK, PUBLISHED, FAILED, "Traceback (most recent call last):", "ValueError: x", TICK, "goes with the tick")
    said = shown(stream, capsys, *lines)
    assert said == [
        "ERROR dagster.daemon.SensorDaemon Sensor failed",
        "Traceback (most recent call last):",
        "ValueError: x",
    ]
    kept = path.read_text()
    assert f"    worker | {PUBLISHED}\n" in kept
    assert len(kept.splitlines()) == len(lines)
    assert "\x1b" not in kept + "".join(said)


def test_a_warning_that_goes_on_is_printed_once_and_kept_in_full(tmp_path, capsys) -> None:
    """A symbol that fails is four lines in every cycle."""
    path = tmp_path / "quantum.log"
    stream = NamedStream("worker", str(path))
    warnings = [
        f"WARNING quantum.publish market_state: 1 of 3 symbols failed: X: candles_stale: {age} s > 420 s" for age in (430, 440)
    ]
    other = "WARNING quantum.publish position: 1 of 3 symbols failed: X: position_stale: 1 s > 2 s"
    assert shown(stream, capsys, *warnings, other, *warnings) == [warnings[0], other]
    assert len(path.read_text().splitlines()) == 5
    raised = [f"WARNING quantum.watch raised stop_crossed:X: price {price} is below" for price in (99, 98)]
    assert shown(stream, capsys, *raised) == raised  # each is news


def test_a_verbose_console_shows_the_routine_too_and_a_line_in_pieces_is_one(capsys) -> None:
    """LOG_LEVEL=DEBUG, for whoever wants to see the product publish."""
    stream = NamedStream("worker", verbose=True)
    stream({"data": PUBLISHED[:30].encode()})
    assert shown(stream, capsys, PUBLISHED[30:]) == [PUBLISHED]


def test_what_the_supervisor_logs_has_its_time_and_stands_in_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A death without its time cannot be found in the log of the process that died."""
    OwnLines(str(tmp_path / "quantum.log")).emit(
        logging.LogRecord("quantum.stack", logging.ERROR, "", 0, "%s died (%s)", ("recorder", "signal 9"), None)
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:]{8} +stack \| ERROR quantum.stack recorder died \(signal 9\)", line)
    assert (tmp_path / "quantum.log").read_text().splitlines() == [line]
