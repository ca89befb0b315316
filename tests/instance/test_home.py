"""The instance whose database comes up later than we do, as after a power cut."""

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.proxy import CuttingProxy
from tests.servers import free_port, valkey

PROJECT = Path(__file__).resolve().parents[2]


def health(port: int) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.slow
def test_whoever_starts_before_its_database_waits_for_it_and_says_so(tmp_path: Path, postgres_url: Callable[[], str]) -> None:
    """A service manager gives up what ends five times: the product would stay away when the database is back."""
    shutil.copy(PROJECT / "deploy" / "postgres" / "dagster.yaml", tmp_path / "dagster.yaml")
    url = postgres_url().replace("+psycopg2", "")
    with CuttingProxy(url, cut_after=0) as proxy, valkey() as server:
        address = proxy.url.removeprefix("redis://")
        port = free_port()
        environment = {
            "QUANTUM_HOME": str(tmp_path),
            "REDIS_URL": server.connection_url,
            "DAGSTER_POSTGRES_URL": f"postgresql://quantum@{address}/{url.rpartition('/')[2]}",
            "EXPORTER_ALLOCATION_PORT": str(free_port()),
            "EXPORTER_GOVERNOR_PORT": str(port),
        }
        python = {"env": environment, "cwd": PROJECT, "stderr": subprocess.PIPE, "text": True}
        with (
            subprocess.Popen([sys.executable, "-m", "resources.instance.home"], **python) as home,
            subprocess.Popen([sys.executable, "-m", "quantum_ops.cli", "exporter"], **python) as exporter,
        ):
            waiting = "Dagster's storage does not answer"
            assert any(waiting in line for line in home.stderr)
            assert any(waiting in line for line in exporter.stderr)
            status, told = health(port)
            assert (status, told["redis_up"], told["dagster_up"]) == (HTTPStatus.SERVICE_UNAVAILABLE, True, False)
            command = [sys.executable, "-m", "quantum_ops.cli", "prove"]
            asked = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
            assert (asked.returncode, waiting in asked.stderr, "Traceback" in asked.stderr) == (3, True, False)
            proxy.cut_after = None
            assert home.wait(60) == 0
            deadline = time.monotonic() + 60
            while health(port)[0] != HTTPStatus.OK:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            exporter.terminate()
            assert exporter.wait(10) == 0
