"""Commands somebody runs in a hurry import what they need and nothing else: that is what makes them fast."""

import importlib
import json
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from quantum_ops.cli import COMMANDS, cli
from quantum_ops.cli.run.example import OTHER_SHELL
from resources.store.redis_store import RedisStore

HEAVY = frozenset({"dagster", "polars", "scipy", "matplotlib", "celery", "sqlalchemy", "circus"})
OURS = frozenset({"definitions"})
PROGRAM = (
    "import json, sys; from quantum_ops.cli import main\n"
    "try: main(sys.argv[1:])\n"
    "except SystemExit: pass\n"
    "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
)


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        (("--help",), HEAVY | OURS | {"redis", "pydantic", "numpy", "rich"}),
        (("status",), HEAVY | OURS),
        (("permits",), HEAVY | OURS),
        (("explain", "p1"), HEAVY | OURS),
        (("kill", "--reason", "r"), HEAVY | OURS),
        (("arm", "--name", "n", "--reason", "r"), HEAVY | OURS),
        (("guard", "list"), HEAVY | OURS),
        (("guard", "release", "DRAWDOWN", "--name", "n", "--reason", "r"), HEAVY | OURS),
        (("profile", "show", "crypto-1m"), HEAVY | OURS | {"redis"}),
        (("profile", "use", "crypto-1m", "--name", "n", "--reason", "r"), HEAVY | OURS),
        (("profile", "history"), HEAVY | OURS),
        (("history", "BTCUSDT"), (HEAVY - {"polars"}) | OURS),
        (("at", "now"), (HEAVY - {"polars"}) | OURS),
        (("settings",), HEAVY | OURS | {"redis"}),
        (("keys",), HEAVY | OURS | {"redis"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_imports_only_what_it_needs(store: RedisStore, command: tuple[str, ...], unneeded: frozenset[str]) -> None:
    """The whole code location is three seconds of imports; a person who wants to stop openings has none to give."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        env={"PATH": os.environ["PATH"], "REDIS_URL": store.settings.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = set(json.loads(done.stderr.splitlines()[-1]))
    assert "click" in imported
    assert not imported & unneeded, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_the_list_exists_and_has_a_help_of_its_own(name: str) -> None:
    """The list is written by hand so that it imports nothing."""
    module, what = COMMANDS[name]
    command = getattr(importlib.import_module(f"quantum_ops.cli.{module}"), name)
    assert isinstance(command, click.Command)
    assert command.help
    assert what.endswith(".")
    assert f"{name} " in cli.get_help(click.Context(cli))


def test_the_example_names_a_command_that_permits_something() -> None:
    """Without ALLOW_SYNTHETIC=true no plan of the example is ever permitted, and nothing says why."""
    told = CliRunner().invoke(cli, ["example", "--help"]).output
    assert "ALLOW_SYNTHETIC=true dagster dev" in told
    assert OTHER_SHELL.startswith("ALLOW_SYNTHETIC=true ")
