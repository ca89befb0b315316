"""``quantum up``: the whole stack, started and stopped as a user does."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest

from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_ops.processes.console import LOG_FILE
from tests.servers import free_port
from tests.waiting import wait_for
from tests.world import SAMPLE, materialized

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SYMBOLS = {"BTCUSDT", "ETHUSDT", "SOLUSDT"}
RESIDENT_MAX_MB = 1_200  # of all processes but the feed of examples, pages shared by several counted once


@contextmanager
def stack(home: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the product, and leave nothing of it behind whatever happens."""
    try:
        with stack_process(home, port, "up.log") as running:
            yield running
    finally:
        for child in family(home):
            child.kill()


@contextmanager
def stack_process(home: Path, port: int, log_name: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run `quantum up` in a process group of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "QUANTUM_HOME": str(home / "q"),
        "ALLOW_SYNTHETIC": "true",
        "WATCH_PORT": "0",  # several stacks on one machine
    }
    command = [sys.executable, "-m", "quantum_ops.cli", "up", "--replay", str(SAMPLE), "--examples", "--port", str(port)]
    output = home / log_name
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd="/", start_new_session=True
        )
    try:
        yield process, output
    finally:
        process.kill()
        process.wait(10)


def family(home: Path) -> list[psutil.Process]:
    """Find every process that belongs to this instance folder, wherever it hangs in the process tree.

    Valkey overwrites its environment with its title; it is known by its working directory.
    """
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("QUANTUM_HOME") == str(home / "q") or process.cwd() == str(home / "q" / "valkey")
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def command_of(process: psutil.Process) -> str:
    """Read a process's command line; one that ended since it was found has none."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def page(port: int, path: str = "/") -> str:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read().decode()
    except OSError:
        return ""


def all_materialized(home: Path) -> bool:
    if not (home / "q" / "history").exists():
        return False
    with dg.DagsterInstance.from_config(str(home / "q")) as instance:
        by_symbol = {asset for asset, table in PUBLISHED_TABLES.items() if not table.of_account} - {"trade_intent"}
        judged = instance.get_latest_materialization_event(dg.AssetKey("risk_guard")) is not None
        intended = bool(materialized(instance, "trade_intent"))  # of intents only those that are due are made
        return judged and intended and all(materialized(instance, asset) == SYMBOLS for asset in by_symbol)


def results_kept(home: Path) -> int:
    """Count what Celery keeps of tasks: their results are ignored."""
    import redis

    from quantum_core.settings import load_settings

    client = redis.Redis.from_url(load_settings(quantum_home=home / "q").url)
    return sum(1 for _ in client.scan_iter("*celery-task-meta-*", count=1000))


def test_the_stack_materializes_everything_serves_the_page_and_stops_without_a_trace(tmp_path: Path) -> None:
    """The first two minutes of every user."""
    port = free_port()
    with stack(tmp_path, port) as (process, output):
        wait_for("all assets of three symbols", lambda: all_materialized(tmp_path))
        wait_for("the page", lambda: 'src="/banner"' in page(port))
        wait_for("its status banner", lambda: "EXAMPLE DATA" in page(port, "/banner"))
        wait_for("its address in the output", lambda: f"User interface: http://localhost:{port}" in output.read_text())
        kept = (tmp_path / "q" / LOG_FILE).read_text()
        assert "Published proposal for BTCUSDT: SL=$" in kept
        assert "Published proposal" not in output.read_text()
        assert "\x1b" not in kept + output.read_text()
        assert results_kept(tmp_path) == 0
        lasting = [one for one in family(tmp_path) if "quantum_ops.recordings.example_feed" not in command_of(one)]
        assert sum(one.memory_full_info().pss for one in lasting) / 1e6 < RESIDENT_MAX_MB
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        assert family(tmp_path) == []
        assert not [line for line in output.read_text().splitlines() if " died (" in line or "SecurityWarning" in line]


def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    """An orphaned sensor would go on publishing beside the next stack."""
    with stack(tmp_path, free_port()) as (process, _):
        wait_for("the processes", lambda: len(family(tmp_path)) >= 7)
        process.kill()
        process.wait(10)
        wait_for("no process to be left", lambda: family(tmp_path) == [], within_sec=30)


def test_what_was_tracked_survives_a_restart(tmp_path: Path) -> None:
    """Peaks and stops of a position must not be forgotten because a machine was rebooted."""
    import redis

    from quantum_core.settings import load_settings

    settings = load_settings(quantum_home=tmp_path / "q")

    def opened_at() -> bytes | None:
        if not settings.embedded_url_file.exists():
            return None  # the default address may be another stack's
        try:
            return redis.Redis.from_url(settings.url).hget("quantum:position:tracked:BTCUSDT", "opened_at_epoch")
        except redis.ConnectionError:
            return None

    opened = []
    for _ in range(2):
        with stack(tmp_path, free_port()) as (process, _):
            wait_for("a tracked position", lambda: opened_at() is not None)
            opened.append(opened_at())
            time.sleep(2)  # appendfsync everysec
            process.send_signal(signal.SIGTERM)
            process.wait(40)
    assert opened[0] == opened[1]


def test_a_taken_port_is_said_and_nothing_is_started(tmp_path: Path) -> None:
    """Half a stack is worse than none."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with stack(tmp_path, port) as (process, output):
            assert process.wait(30) == 1
            assert f"Port {port} is taken" in output.read_text()
            assert family(tmp_path) == []


def test_a_second_stack_on_the_same_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    """It would delete the first one's sockets when it stops."""
    with stack(tmp_path, free_port()) as (_, _):
        wait_for("the processes", lambda: len(family(tmp_path)) >= 7)
        with stack_process(tmp_path, free_port(), "second.log") as (second, output):
            assert second.wait(30) == 1
            assert "used by another" in output.read_text()
        assert len(family(tmp_path)) >= 7
