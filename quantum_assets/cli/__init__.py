"""The command ``quantum``: one module per command; a command parses, calls and prints.

Exit codes, everywhere: 0 ok, 1 failed, 2 usage or settings, 3 infrastructure (Redis or Dagster's database away). JSON goes to
stdout and only with ``--json``; logs and progress go to stderr.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from resources.settings import SettingsError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INFRASTRUCTURE = 3

COMMANDS = {  # name -> module, attribute; imported when used, so that --help answers at once
    "up": ("quantum_assets.cli.up", "up"),
    "example": ("quantum_assets.cli.example", "example"),
    "serve": ("quantum_assets.cli.serve", "serve"),
    "once": ("quantum_assets.cli.once", "once"),
    "status": ("quantum_assets.cli.status", "status"),
    "permits": ("quantum_assets.cli.permits", "permits"),
    "kill": ("quantum_assets.cli.switches", "kill"),
    "arm": ("quantum_assets.cli.switches", "arm"),
    "prove": ("quantum_assets.cli.prove", "prove"),
    "watch": ("quantum_assets.cli.watch", "watch"),
    "doctor": ("quantum_assets.cli.doctor", "doctor"),
    "exporter": ("quantum_assets.cli.exporter", "exporter"),
    "alerts": ("quantum_assets.cli.alerts", "alerts"),
    "explain": ("quantum_assets.cli.explain", "explain"),
    "feed": ("quantum_assets.cli.feed", "feed"),
    "replay": ("quantum_assets.cli.replay", "replay"),
    "calc": ("quantum_assets.cli.calc", "calc"),
    "regime": ("quantum_assets.cli.regime", "regime"),
    "settings": ("quantum_assets.cli.settings", "settings"),
    "keys": ("quantum_assets.cli.keys", "keys"),
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's API
        """List the commands in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's API
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="quantum-risk-pipeline", prog_name="quantum")
def cli() -> None:
    """Live, calc-only risk pipeline: proposals and permits with lineage, freshness and proof.

    \b
    quantum up --replay DIR      the whole stack, playing recorded candles
    quantum once                 one cycle, and an exit code that tells the truth
    quantum status               age and last value of everything published
    quantum permits              what the governor decided last, and what stands against openings
    quantum kill --reason WHY    no more openings, at once
    quantum prove                every proof against what is published now

    Exit codes: 0 ok, 1 failed, 2 usage or settings, 3 infrastructure.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and map every known trouble to its exit code."""
    from quantum_assets.contracts.reading import printable
    from resources.home import HomeInUseError, StorageUnavailableError
    from resources.redis_store import RedisUnavailableError

    try:
        cli.main(args=arguments, prog_name="quantum", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except SettingsError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_USAGE)
    except HomeInUseError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_FAILED)
    except (RedisUnavailableError, StorageUnavailableError) as error:
        click.echo(printable(error), err=True)
        sys.exit(EXIT_INFRASTRUCTURE)


def given(**options: Any) -> dict[str, Any]:
    """Keep the options that were given, as overrides of the settings."""
    return {name: value for name, value in options.items() if value is not None}
