"""The systemd units: they cover the stack, say what our commands understand, and are shut."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from quantum_core.settings import Settings
from quantum_ops.cli import cli
from quantum_ops.cli.run.serve import PARTS
from resources.instance.launcher import queues as all_queues
from tests.servers import ACL_FILE

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
EXPOSURE_MAX = 2.0  # of 10, as `systemd-analyze security` counts


def unit(path: Path) -> configparser.RawConfigParser:
    """Read one; keys may be repeated."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(path)
    return parser


def test_there_is_a_unit_for_each_process_and_the_target_wants_them_all() -> None:
    names = {path.stem.removeprefix("quantum-") for path in SERVICES}
    assert names >= PARTS.keys()
    wanted = unit(UNITS / "quantum.target")["Unit"]["Wants"].split()
    assert set(wanted) >= {f"quantum-{part}.service" for part in (*PARTS, "exporter", "recorder")}


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_unit_starts_a_command_there_is_restarts_and_is_bounded(path: Path) -> None:
    """A unit with a typo is found at the worst moment."""
    section = unit(path)["Service"]
    program, command, *arguments = section["ExecStart"].split()
    assert program == f"/opt/quantum{'-feed' if path.stem == 'quantum-feed' else ''}/bin/quantum"
    known = cli.get_command(None, command)
    assert known is not None
    assert all(not argument.startswith("--") or any(argument in option.opts for option in known.params) for argument in arguments)
    assert (section["Restart"], section["RestartSec"]) == ("always", "10")
    limits = unit(path)["Unit"]
    assert (limits["StartLimitIntervalSec"], limits["StartLimitBurst"]) == ("300", "5")
    assert re.fullmatch(r"512M|2G", section["MemoryMax"])
    feed = path.stem == "quantum-feed"  # an exchange library shares neither user, folder nor secrets with what permits
    assert section["User"] == section["StateDirectory"] == ("quantum-feed" if feed else "quantum")
    assert section["EnvironmentFile"] == f"/etc/quantum/{'feed' if feed else 'quantum'}.env"


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_unit_can_be_given_the_addresses_it_needs_and_no_others(path: Path) -> None:
    """That these are enough is shown by the whole stack under them, in tests/security/test_planted_secrets.py."""
    told = (UNITS / "users" / f"{path.name}.d" / "redis-user.conf").read_text()
    given = dict(re.findall(r"^LoadCredential=(\w+):/etc/quantum/secrets/(\w+)\.url$", told, re.MULTILINE))
    assert given.keys() <= Settings.model_fields.keys()
    assert {f"quantum-{role}" for role in given.values()} <= set(re.findall(r"^user (\S+)", ACL_FILE.read_text(), re.MULTILINE))
    assert ("governor_redis_url" in given) is (path.stem == "quantum-worker")


@pytest.mark.parametrize(
    ("command", "addresses"),
    [
        (["kill", "--reason", "two words"], {"redis_url": "operator.url"}),
        (["arm"], {"redis_url": "operator.url"}),
        (["alerts", "test"], {"redis_url": "watch.url", "alert_urls": "alert.urls"}),
        (["replay", "a.csv"], {"redis_url": "feed.url"}),
        ([], {"redis_url": "proposals.url", "governor_redis_url": "governor.url", "celery_broker_url": "broker.url"}),
    ],
)
def test_a_command_on_a_host_of_units_gets_the_addresses_it_needs_and_no_others(
    tmp_path: Path, command: list[str], addresses: dict[str, str]
) -> None:
    """What it asks of systemd."""
    secrets, asked = tmp_path / "secrets", tmp_path / "systemd-run"
    asked.write_text('#!/bin/sh\nfor one in "$@"; do echo "$one"; done\n')
    asked.chmod(0o755)
    script = (UNITS / "quantum").read_text().replace("/etc/quantum/secrets", str(secrets))

    def run() -> list[str]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-c", script, "quantum", *command], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    def given(told: list[str]) -> dict[str, str]:
        return dict(re.findall(rf"^--property=LoadCredential=(\w+):{secrets}/(\S+)$", "\n".join(told), re.MULTILINE))

    assert given(run()) == {}  # a Redis without users
    secrets.mkdir()
    for name in (*re.findall(r"^user quantum-(\S+)", ACL_FILE.read_text(), re.MULTILINE), "alert"):
        (secrets / f"{name}.url{'s' if name == 'alert' else ''}").touch()
    told = run()
    assert given(told) == addresses
    assert given(told).keys() <= Settings.model_fields.keys()
    assert told[-1 - len(command) :] == ["/opt/quantum/bin/quantum", *command]


@pytest.mark.slow
@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_systemd_itself_finds_no_fault_and_no_open_door(path: Path, tmp_path: Path) -> None:
    """Its own judgement, and its own measure of exposure."""
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is not installed: apt-get install systemd")
    shutil.copytree(UNITS / "users", tmp_path, dirs_exist_ok=True)
    for one in UNITS.glob("quantum*.*"):
        text = (
            one.read_text()
            .replace("/opt/quantum/bin/quantum", "/usr/bin/env")
            .replace("/opt/quantum-feed/bin/quantum", "/usr/bin/env")
        )  # verify wants the program to be there
        (tmp_path / one.name).write_text(text)
    verified = subprocess.run(["systemd-analyze", "verify", tmp_path / path.name], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", tmp_path / path.name],
        capture_output=True,
        text=True,
        check=True,
    )
    exposure = float(re.search(r"exposure level for \S+: ([\d.]+)", judged.stdout).group(1))
    assert exposure <= EXPOSURE_MAX, judged.stdout


def test_the_compose_file_runs_every_process_with_commands_there_are() -> None:
    """What can be known without an engine for containers: that it parses and asks for what exists."""
    compose = yaml.safe_load((UNITS.parent / "compose" / "compose.yml").read_text())
    ours = {name: one for name, one in compose["services"].items() if one["image"] == "quantum"}
    served = set()
    for name, service in ours.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        command, *arguments = service["command"]
        known = cli.get_command(None, command)
        assert known is not None, name
        context = known.make_context(command, arguments)
        served.add(context.params.get("part") or command)
        if queues := context.params.get("queues"):
            assert queues in all_queues(int(service["environment"]["SHARDS"])), name
    assert served == {*PARTS, "exporter", "recorder"}
    listening = {queue for one in ours.values() if "--queues" in one["command"] for queue in one["command"][-1].split(",")}
    assert listening == set(all_queues(int(ours["daemon"]["environment"]["SHARDS"])))
    published = [port for one in compose["services"].values() for port in one.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
