"""What commands say when the product of this folder does not run, or runs already."""

import os
import socket
from pathlib import Path

import pytest

from quantum_core.exit_codes import EXIT_FAILED, EXIT_INFRASTRUCTURE
from quantum_core.settings import load_settings
from resources.instance.home import holder_of, lock_home
from tests.commands import run_command
from tests.servers import free_port

START_IT = "Start it: make run, or quantum up"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An instance folder whose embedded server has gone."""
    return tmp_path


@pytest.mark.parametrize("command", ["status", "permits"])
def test_who_reads_from_a_product_that_is_down_is_sent_to_start_it(folder: Path, command: str) -> None:
    """Nothing can be half-written by a command that reads from a server that was never reached."""
    address = f"redis://127.0.0.1:{free_port()}/0"
    load_settings(quantum_home=folder).embedded_url_file.write_text(address)
    done = run_command(command, environment={"QUANTUM_HOME": str(folder)})
    assert done.returncode == EXIT_INFRASTRUCTURE
    assert START_IT in done.stderr
    assert "half-written" not in done.stderr
    with lock_home(folder):
        assert START_IT not in run_command(command, environment={"QUANTUM_HOME": str(folder)}).stderr
    elsewhere = run_command(command, environment={"QUANTUM_HOME": str(folder), "REDIS_URL": address})
    assert START_IT not in elsewhere.stderr


def test_a_second_start_names_the_first_or_another_command_in_full(folder: Path) -> None:
    """A suggestion without --replay starts another product than the one that was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        arguments = ("up", "--replay", str(folder), "--examples", "--port", str(port))
        environment = {"QUANTUM_HOME": str(folder), "WATCH_PORT": "0"}
        done = run_command(*arguments, environment=environment)
        assert done.returncode == EXIT_FAILED
        assert f"quantum up --replay {folder} --examples --port {port + 1}" in done.stderr
        with lock_home(folder):
            assert holder_of(folder) == str(os.getpid())
            done = run_command(*arguments, environment=environment)
        assert f"This folder's own deployment runs already (process {os.getpid()})" in done.stderr
    assert holder_of(folder) == ""
