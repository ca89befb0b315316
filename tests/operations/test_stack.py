"""A process that dies is started again: at once, then after growing pauses that hold up nobody else."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from quantum_ops.processes.stack import LONGEST_PAUSE_SEC, SERVER, SOCKET_PATH_MAX, STEADY_AFTER_SEC, Process, Restarts, pause_sec
from tests.waiting import wait_for

CRASHES = Process("crashes", (sys.executable, "-c", "raise SystemExit(3)"))
STEADY = Process("steady", ("sleep", "600"))
SUPERVISOR = """
import sys
from pathlib import Path
from quantum_ops.processes import stack
{change}
stack.supervisor([stack.{crashes!r}, stack.{steady!r}], Path(sys.argv[1])).start()
"""


@contextmanager
def supervised(home: Path, change: str = "") -> Iterator[tuple[subprocess.Popen[str], Callable[[str], None]]]:
    """Run both under the real supervisor; gives it, and a function that reads its output up to some words."""
    script = SUPERVISOR.format(change=change, crashes=CRASHES, steady=STEADY)
    with subprocess.Popen([sys.executable, "-c", script, str(home)], stderr=subprocess.PIPE, text=True) as supervisor:

        def read_until(words: str) -> None:
            seen = []
            for line in supervisor.stderr:
                if words in line:
                    return
                seen.append(line)
            pytest.fail(f"it ended without {words!r}: {seen}")

        try:
            yield supervisor, read_until
        finally:
            supervisor.kill()


def test_the_pause_grows_from_none_to_the_longest() -> None:
    assert [pause_sec(restart) for restart in range(1, 8)] == [0, 1, 2, 4, 8, 8, LONGEST_PAUSE_SEC]


def test_who_lived_long_enough_starts_over_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """A crash a day is not a crash loop, and must not cost eight seconds each."""
    now = 0.0
    watcher = SimpleNamespace(args=[])
    restarts = Restarts(STEADY, clock=lambda: now)
    pauses = []
    for lived_sec in (0, 1, 1, 1, STEADY_AFTER_SEC, 1):
        now = restarts.begins + lived_sec
        restarts.before_spawn(watcher=watcher)
        restarts.after_reap(exit_code=-signal.SIGKILL)
        pauses.append(watcher.args[watcher.args.index("--pause") + 1] if "--pause" in watcher.args else "0")
    assert pauses == ["0", "0", "1", "2", "0", "1"]
    assert caplog.messages[2] == "steady died (signal 9), restart 3 in 2 s"
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 5


@pytest.mark.slow
def test_each_death_is_said_with_its_cause_and_the_pause(tmp_path: Path) -> None:
    """A restart nobody hears of hides a crash loop."""
    with supervised(tmp_path) as (_, read_until):
        for restart, pause in ((1, 0), (2, 1), (3, 2)):
            read_until(f"crashes died (exit code 3), restart {restart} in {pause} s")


@pytest.mark.slow
def test_a_pause_holds_up_no_other_process_and_no_stop(tmp_path: Path) -> None:
    """A supervisor that sleeps is itself down."""
    with supervised(tmp_path, "stack.pause_sec = lambda restart: 600 * restart") as (supervisor, read_until):
        read_until("restart 1 in 600 s")
        next(one for one in psutil.Process(supervisor.pid).children() if "sleep" in one.cmdline()).kill()
        read_until("steady died (")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(30) == 0


WRITES_TO_THE_END = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1], "ended").touch()
    raise SystemExit
signal.signal(signal.SIGTERM, end)
print("WARNING writing", flush=True)
time.sleep(600)
"""
SERVES = """
import pathlib, signal, sys, time
def end(*_):
    print("WARNING " + ("served to the end" if pathlib.Path(sys.argv[1], "ended").exists() else "left alone"), flush=True)
    raise SystemExit
signal.signal(signal.SIGTERM, end)
print("WARNING serving", flush=True)
time.sleep(600)
"""


def test_the_server_is_stopped_when_those_who_write_to_it_have_ended(tmp_path: Path) -> None:
    """Stopped all at once, the workers filled the screen of whoever pressed Ctrl-C with tracebacks."""
    writer = Process("writer", (sys.executable, "-c", WRITES_TO_THE_END, str(tmp_path)))
    server = Process(SERVER, (sys.executable, "-c", SERVES, str(tmp_path)))
    script = SUPERVISOR.format(change="", crashes=server, steady=writer)
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE, text=True) as supervisor:
        try:
            awaited, said = {"writing", "serving"}, ""
            while awaited:  # on a busy machine either may be ready long before the other
                said = next(supervisor.stderr)
                awaited -= {word for word in awaited if word in said}
            supervisor.send_signal(signal.SIGINT)
            said += supervisor.communicate(timeout=40)[1]
        finally:
            supervisor.kill()
    assert "served to the end" in said
    assert "left alone" not in said


MANY = """
import sys
from pathlib import Path
from quantum_ops.processes import stack
stack.LONGEST_PAUSE_SEC = 0
talker = "import subprocess, time\\nsubprocess.Popen(['sleep', '3'])\\nprint('here', flush=True)\\ntime.sleep(600)"
listed = [stack.Process(f"talker{number}", (sys.executable, "-c", talker)) for number in range(6)]
stack.supervisor(listed, Path(sys.argv[1])).start()
"""


@pytest.mark.slow
def test_processes_that_are_killed_together_all_come_back(tmp_path: Path) -> None:
    """One once stayed dead: a dead process's child held its pipe, whose number was listened to when another's new pipe got it."""
    rng = np.random.default_rng(3)
    with (
        (tmp_path / "log").open("w") as printed,
        subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path)], stderr=printed) as supervisor,
    ):
        root = psutil.Process(supervisor.pid)

        def talkers() -> list[psutil.Process]:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with suppress(psutil.NoSuchProcess):
                    found = [one for one in root.children() if one.status() != psutil.STATUS_ZOMBIE]
                    if len(found) == 6:
                        return found
                time.sleep(0.02)
            pytest.fail(f"not all live: {(tmp_path / 'log').read_text()[-2000:]}")

        try:
            for _ in range(10):
                for one in rng.choice(np.array(talkers(), dtype=object), size=3, replace=False):
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
                time.sleep(float(rng.uniform(0.2, 0.6)))
            talkers()
        finally:
            supervisor.kill()
    assert "added twice" not in (tmp_path / "log").read_text()


def test_the_supervisor_keeps_neither_dagster_nor_celery_in_memory() -> None:
    """It only watches; 80 MB for months would be a high price for two names."""
    modules = (
        "resources.instance.home, quantum_ops.processes.stack, quantum_ops.processes.embedded_server, quantum_ops.cli.run.up"
    )
    code = f"import sys, {modules}; sys.exit(' '.join({{'dagster', 'celery'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True).stderr == "\n"


SOCKETS = """
import sys
from pathlib import Path
from quantum_ops.processes import stack
print(stack.code(Path(sys.argv[1])).command[-1], stack.daemon(Path(sys.argv[1])).after)
"""


@pytest.mark.slow
def test_every_process_of_a_long_instance_folder_finds_the_same_socket(tmp_path: Path) -> None:
    """The folder was named by a hash that is another one in each process: code server and daemon never met."""
    home = tmp_path / ("long" * 25)
    home.mkdir()

    def sockets(seed: str, runtime: str) -> set[str]:
        variables = {**os.environ, "PYTHONHASHSEED": seed, "XDG_RUNTIME_DIR": runtime}
        command = [sys.executable, "-c", SOCKETS, str(home)]
        return set(subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.split())

    with tempfile.TemporaryDirectory() as runtime:  # tmp_path is too long itself
        (socket,) = sockets("1", runtime) | sockets("2", runtime)
        assert len(socket) <= SOCKET_PATH_MAX
        Path(socket).parent.chmod(0o755)
        with pytest.raises(subprocess.CalledProcessError):
            sockets("1", runtime)


def test_a_closed_terminal_stops_everything(tmp_path: Path) -> None:
    """Circus answers the hangup by starting every process anew, and nobody is left to press Ctrl-C."""
    with supervised(tmp_path, "stack.pause_sec = lambda restart: 600 * restart") as (supervisor, read_until):
        read_until("restart 1 in 600 s")
        children = psutil.Process(supervisor.pid).children()
        supervisor.send_signal(signal.SIGHUP)
        assert supervisor.wait(30) == 0
        assert not [one for one in children if one.is_running()]


def test_what_was_started_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    """`nohup quantum up` goes on, and its processes are not started anew either."""
    change = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with supervised(tmp_path, change) as (supervisor, read_until):
        read_until("crashes died (exit code 3), restart 1 in 0 s")
        steady = next(one for one in psutil.Process(supervisor.pid).children() if "sleep" in one.cmdline())
        supervisor.send_signal(signal.SIGHUP)
        read_until("crashes died (exit code 3), restart 3 in 2 s")
        assert steady.is_running()
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(30) == 0


def test_what_ends_make_run_ends_the_product(tmp_path: Path) -> None:
    """A shell between the two died, and twelve processes went on with their ports taken."""
    program, started = tmp_path / "quantum", tmp_path / "started"
    program.write_text(f'#!/bin/sh\necho "$$ $ALLOW_SYNTHETIC" > {started}.new && mv {started}.new {started}\nexec sleep 600\n')
    program.chmod(0o755)
    checkout = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        ["make", "-o", "setup", "run", f"BIN={tmp_path}"], cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as make:
        wait_for("the product", started.exists)
        number, synthetic = started.read_text().split()
        product = psutil.Process(int(number))
        try:
            make.terminate()
            make.wait(30)
            wait_for("its end", lambda: not product.is_running())
        finally:
            with suppress(psutil.NoSuchProcess):
                product.kill()
    assert synthetic == "true"
