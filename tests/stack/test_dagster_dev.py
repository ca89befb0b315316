"""Plain Dagster, the four ways its users start it, driven as a person does: no warm workers, no `quantum up`."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.test_ui import ARGUMENTS, CHROMIUM, Desk
from tests.servers import free_port
from tests.stack.test_up import family, page
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
ANSWER_MS = 180_000  # of the page: each run starts an interpreter, on two cores that the browser uses, too
STOPPED_SEC = 60

log = logging.getLogger("tests.plain_dagster")


def bare_home(folder: Path) -> dict[str, str]:
    """A DAGSTER_HOME of one's own, as `mkdir` leaves it."""
    (folder / "own").mkdir()
    return {"DAGSTER_HOME": str(folder / "own")}


def shipped_home(folder: Path) -> dict[str, str]:
    """A DAGSTER_HOME of one's own with the product's dagster.yaml."""
    variables = bare_home(folder)
    shutil.copy(PROJECT / "dagster.yaml", folder / "own")
    return variables


def no_home(_: Path) -> dict[str, str]:
    """Dagster makes a temporary one."""
    return {}


WAYS: dict[str, tuple[tuple[str, ...], bool, Callable[[Path], dict[str, str]]]] = {  # command, in the checkout, variables
    "dagster dev": (("dagster", "dev"), True, no_home),
    "dg dev": (("dg", "dev"), True, no_home),
    "workspace from any folder": (("dagster", "dev", "-w", str(PROJECT / "workspace.yaml")), False, no_home),
    "a home of one's own": (("dagster", "dev", "-w", str(PROJECT / "workspace.yaml")), False, bare_home),
    "a home with the shipped dagster.yaml": (("dagster", "dev"), True, shipped_home),
}


class Page(Desk):
    """Plain Dagster's user interface."""

    def ask(self, query: str, **variables: Any) -> Any:
        """Ask what the page itself asks."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        url = f"http://127.0.0.1:{self.port}/graphql"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - our own address
            return json.loads(answer.read())["data"]

    def runs(self) -> list[dict[str, Any]]:
        """List all runs, newest first."""
        query = "{runsOrError(limit:500){... on Runs{results{runId jobName status creationTime endTime}}}}"
        return self.ask(query)["runsOrError"]["results"]

    def seconds_of_the_run_on_view(self) -> float:
        """Give the seconds from the click to the end of the run whose page is open."""
        run_id = self.page.url.rpartition("/")[2].partition("?")[0]
        (run,) = [run for run in self.runs() if run["runId"] == run_id]
        assert run["status"] == "SUCCESS"
        return run["endTime"] - run["creationTime"]

    def execute_check(self, asset: str, check: str) -> None:
        """Execute one check from its own page, and wait on the run's page until it has succeeded."""
        self.open(f"/assets/{asset}?view=checks&checkDetail={check}")
        self.page.get_by_role("button").filter(has_text=re.compile("^Execute$")).click()  # its name has the icon in it, too
        self.follow_message()
        expect(self.page.get_by_text("Success", exact=True).first).to_be_visible()

    def run_job(self, name: str) -> str:
        """Launch a job without partitions, and give its run's status at the end."""
        selector = f'{{repositoryName:"__repository__",repositoryLocationName:"quantum",jobName:"{name}"}}'
        mutation = f"mutation{{launchRun(executionParams:{{selector:{selector}}}){{... on LaunchRunSuccess{{run{{runId}}}}}}}}"
        run_id = self.ask(mutation)["launchRun"]["run"]["runId"]

        def status() -> str:
            return next(run["status"] for run in self.runs() if run["runId"] == run_id)

        wait_for(f"the run of {name}", lambda: status() in ("SUCCESS", "FAILURE", "CANCELED"))
        return status()


@contextmanager
def started(folder: Path, command: tuple[str, ...], cwd: Path, log_name: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of the environment as a shell does, and end it as Ctrl-C does."""
    variables = {
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(folder), "QUANTUM_HOME": str(folder / "q"),
        "ALLOW_SYNTHETIC": "true", "WATCH_PORT": "0", "DAGSTER_DISABLE_TELEMETRY": "1", **more,
    }  # fmt: skip
    with (folder / log_name).open("wb") as log:
        process = subprocess.Popen(command, env=variables, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(STOPPED_SEC)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextmanager
def plain_dagster(folder: Path, way: str) -> Iterator[Page]:
    """Start the examples, Dagster and a browser; nothing of them is left."""
    command, in_checkout, home = WAYS[way]
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    cwd, port = PROJECT if in_checkout else elsewhere, free_port()
    try:
        with (
            started(folder, ("quantum", "example"), elsewhere, "example.log"),
            started(folder, (*command, "-p", str(port)), cwd, "dagster.log", **home(folder)),
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            view = browser.new_page(viewport={"width": 1600, "height": 900})
            view.set_default_timeout(ANSWER_MS)
            expect.set_options(timeout=ANSWER_MS)
            wait_for("the page", lambda: bool(page(port)))
            yield Page(folder, port, view)
            browser.close()
    finally:
        for left in family(folder):
            left.kill()


def changes() -> str:
    """Ask git what it would add."""
    return subprocess.run(["git", "status", "--porcelain"], cwd=PROJECT, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("way", WAYS)
def test_a_cycle_a_symbol_and_a_check_succeed(tmp_path: Path, way: str) -> None:
    """What a person does first; with the launcher of the warm workers each of these was red or stayed "Starting"."""
    began, before = time.time(), changes()
    with plain_dagster(tmp_path, way) as dagster:
        dagster.open("/runs?q[0]=job:cycle")
        expect(dagster.page.get_by_text("Success", exact=True).first).to_be_visible()
        first = min(run["endTime"] for run in dagster.runs() if run["status"] == "SUCCESS") - began
        assert dagster.ask("{shouldShowNux}") == {"shouldShowNux": False}
        assert changes() == before
        dagster.find("risk_proposal")
        dagster.materialize("BTCUSDT")
        clicked = dagster.seconds_of_the_run_on_view()
        dagster.execute_check("risk_proposal", "distances")
        log.info("%s: first cycle %.0f s, clicked run %.0f s", way, first, clicked)
        assert dagster.run_job("retention") == "SUCCESS"
        wait_for("the proof pack", lambda: ("proofs", "SUCCESS") in [(run["jobName"], run["status"]) for run in dagster.runs()])
        assert not {run["status"] for run in dagster.runs()} & {"FAILURE", "CANCELING", "CANCELED"}
    assert changes() == before
