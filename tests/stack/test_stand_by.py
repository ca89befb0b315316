"""Two core hosts on one Redis and one PostgreSQL: one daemon runs, the other stands by, whichever comes, freezes or returns."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import redis

from tests.servers import valkey
from tests.stack.test_up import command_of, family
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PROJECT = Path(__file__).resolve().parents[2]


class Host:
    """A core host: an instance folder of its own, code server and daemon."""

    def __init__(self, folder: Path, redis_url: str, postgres: str, stack: ExitStack) -> None:
        self.folder, self.home, self.said = folder, folder / "q", folder / "said.log"
        self.home.mkdir(parents=True)
        shutil.copy(PROJECT / "deploy" / "postgres" / "dagster.yaml", self.home)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "QUANTUM_HOME": str(self.home),
            "REDIS_URL": redis_url,
            "DAGSTER_POSTGRES_URL": postgres,
        }
        stack.callback(lambda: [one.kill() for one in family(folder)])
        self.processes = {part: stack.enter_context(self.serve(part)) for part in ("code", "daemon")}
        stack.callback(lambda: [one.kill() for one in self.processes.values()])

    def serve(self, part: str) -> subprocess.Popen[bytes]:
        """Start one process."""
        with self.said.open("ab") as log:
            command = [sys.executable, "-m", "quantum_ops.cli", "serve", part]
            if os.geteuid() == 0:  # as in containers, each of which has a host name of its own
                command = ["unshare", "--uts", "sh", "-c", f'hostname {part} && exec "$@"', "sh", *command]
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd="/")

    def daemons(self) -> int:
        """Count Dagster's daemons of this host."""
        return sum("resources.instance.sensor_daemon" in command_of(one) for one in family(self.folder))

    def stands_by(self) -> int:
        """Count how often it said so; the sensors of a daemon that still runs say it, too."""
        return sum(line.startswith("standing by: ") for line in self.said.read_text().splitlines())

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to all its processes: a virtual machine that is frozen, or goes on."""
        for one in family(self.folder):
            one.send_signal(what)


def test_a_stand_by_takes_over_and_the_first_host_stands_by_when_it_returns(
    tmp_path: Path,
    postgres_url: Callable[[], str],
) -> None:
    """Two daemons on one storage would take each other's ticks until somebody notices."""
    postgres = postgres_url().replace("+psycopg2", "")
    with ExitStack() as stack:
        server = stack.enter_context(valkey())
        client = stack.enter_context(redis.Redis.from_url(server.connection_url))

        def holder() -> str:
            return (client.get("quantum:lease") or b"").decode()

        first = Host(tmp_path / "first", server.connection_url, postgres, stack)
        wait_for("the first host's lease", lambda: "/first/" in holder())
        second = Host(tmp_path / "second", server.connection_url, postgres, stack)
        wait_for("the second to stand by", lambda: second.stands_by() == 1)
        assert (first.daemons(), second.daemons()) == (1, 0)
        assert first.serve("daemon").wait(30) == 1  # one more on the same folder
        assert "is used by another" in first.said.read_text()
        first.signal(signal.SIGSTOP)
        wait_for("the second to take over", lambda: "/second/" in holder())
        first.signal(signal.SIGCONT)
        wait_for("the first to stand by", lambda: first.stands_by() == 1 and first.daemons() == 0)
        assert (second.daemons(), "/second/" in holder()) == (1, True)
        supervisor = psutil.Process(second.processes["daemon"].pid)
        supervisor.kill()  # the daemon must not go on unwatched
        wait_for("its daemon to end with it", lambda: second.daemons() == 0, 10)
        wait_for("the first to take over again", lambda: "/first/" in holder() and first.daemons() == 1)
        first.processes["daemon"].terminate()
        assert first.processes["daemon"].wait(20) == 0
        assert first.daemons() == 0
