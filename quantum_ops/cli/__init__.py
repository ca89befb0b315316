"""The command ``quantum``: one module per command; a command parses, calls and prints.

Exit codes, everywhere: 0 ok, 1 failed, 2 usage or settings, 3 infrastructure (Redis or Dagster's database away). JSON goes to
stdout and only with ``--json``; logs and progress go to stderr.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from contextlib import suppress
from typing import Any

import click

from quantum_core.exit_codes import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_STOPPED, EXIT_USAGE

OUTPUT_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE)  # of stdout: such an error names no file
COMMANDS = {  # name -> module that defines it (imported when it is used), and what the list of commands says of it
    "up": ("run.up", "Start everything: server, workers, sensors and user interface."),
    "example": ("run.example", "Play recorded candles for plain `dagster dev`."),
    "serve": ("run.serve", "Run one process of the deployment, for a service manager."),
    "once": ("run.once", "Run one cycle as a real run; the exit code is the result."),
    "status": ("desk.status", "Show what is published, how old it is, and what is wrong."),
    "permits": ("desk.permits", "Show the governor's last decisions and what blocks openings."),
    "kill": ("desk.switches", "Set the kill switch: no more openings, at once."),
    "arm": ("desk.switches", "Clear kill switch and disarming, by a named person."),
    "guard": ("desk.guard", "List the account's guards; release one, by a named person."),
    "compare": ("desk.compare", "Show how champion and challenger differ."),
    "profile": ("desk.profile", "List, compare, check and use profiles of parameters."),
    "prove": ("audit.prove", "Judge every proof against what is published now."),
    "watch": ("run.watch", "Watch everything and alert; `quantum up` starts it."),
    "recorder": ("run.recorder", "Record every cycle to files; `quantum up` starts it."),
    "doctor": ("audit.doctor", "Name what may be wrong with this installation."),
    "exporter": ("run.exporter", "Serve metrics to Prometheus."),
    "alerts": ("desk.alerts", "Test the alert sinks, list alerts and their kinds."),
    "explain": ("desk.explain", "Say why one plan was permitted or refused."),
    "feed": ("run.feed", "Feed candles of an exchange, in an environment of its own."),
    "history": ("history.look_back", "Show what one symbol had over time, from the archive."),
    "at": ("history.look_back", "Show the whole state as it was at one moment, from the archive."),
    "export": ("history.look_back", "Pack one recorded day with what verifies it."),
    "replay": ("history.replay", "Replay recorded candles into the candle keys."),
    "rerun": ("history.rerun", "Compute recorded cycles again, and compare."),
    "calc": ("history.calc", "Run the kernels on JSON cases."),
    "regime": ("history.regime", "Compute the market state along a price history."),
    "calibrate": ("lab.calibrate", "Make a profile from recorded candles, with its evidence."),
    "backtest": ("lab.backtest", "Compute what profiles would have made of entries on history."),
    "simulate": ("history.simulate", "Run seeded cycles under faults, and check what must hold."),
    "evidence": ("lab.evidence", "Measure what the numbers of a profile are worth on history."),
    "settings": ("audit.settings", "Show the settings in force in this shell."),
    "keys": ("audit.keys", "Print the key reference, or the users of Redis."),
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is used; its own help imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's API
        """List the commands in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's API
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's API
        """List the commands without importing them, which takes seconds."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="quantum-risk-pipeline", prog_name="quantum")
def cli() -> None:
    """Live, calc-only risk pipeline: proposals and permits with lineage, freshness and proof.

    \b
    quantum up --replay DIR      the whole deployment, playing recorded candles
    quantum once                 one cycle, and an exit code that shows the truth
    quantum status               age and last value of everything published
    quantum permits              the last decisions, and why openings are blocked
    quantum kill --reason WHY    no more openings, at once
    quantum prove                every proof against what is published now

    Exit codes: 0 ok, 1 failed, 2 usage or settings, 3 infrastructure.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and map every known trouble to its exit code."""
    try:
        try:
            code = cli.main(args=arguments, prog_name="quantum", standalone_mode=False)
        finally:
            sys.stdout.flush()  # else the interpreter meets a full disk when nobody can say so any more
        if code:  # click gives that of an Exit, and raises none in this mode
            sys.exit(code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(EXIT_STOPPED)
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_LOST:
            raise
        _leave_output(error)
        sys.exit(EXIT_FAILED)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        from quantum_core.contracts.reading import printable

        lines = [str(error)] if code == EXIT_USAGE else map(printable, str(error).splitlines())
        click.echo("\n".join([*lines, *_start_it(code)]), err=True)
        sys.exit(code)


def _leave_output(error: OSError) -> None:
    """Say that stdout takes nothing, but to a reader who has gone; and let what is buffered go nowhere."""
    if error.errno != errno.EPIPE:
        click.echo(f"The output cannot be written: {error.strerror}.", err=True)
    with suppress(OSError, ValueError):  # a stream of a test has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _start_it(code: int) -> list[str]:
    """Say how to start the product where its folder is here, its server is the embedded one, and nobody runs it."""
    from quantum_core.settings import load_settings
    from resources.instance.home import holder_of

    if code != EXIT_INFRASTRUCTURE:
        return []
    settings = load_settings()
    runs = not settings.uses_embedded_server or not settings.quantum_home.is_dir() or holder_of(settings.quantum_home)
    return [] if runs else ["The product of this folder does not run. Start it: make run, or quantum up"]


def _exit_code(error: Exception) -> int | None:
    """Give the exit code of a known trouble; what raises it is imported only by the commands that can meet it."""
    from quantum_core.profiles.profile import ProfileError
    from quantum_core.settings import SettingsError
    from quantum_ops.doctor.server_needs import ServerUnfitError
    from resources.instance.home import HomeInUseError, StorageUnavailableError
    from resources.recorder.storage import UNREACHABLE
    from resources.store.transport.unavailable import RedisUnavailableError

    codes: dict[type[Exception], int] = {
        SettingsError: EXIT_USAGE,
        ProfileError: EXIT_FAILED,
        HomeInUseError: EXIT_FAILED,
        RedisUnavailableError: EXIT_INFRASTRUCTURE,
        ServerUnfitError: EXIT_INFRASTRUCTURE,
        StorageUnavailableError: EXIT_INFRASTRUCTURE,
        **dict.fromkeys(UNREACHABLE, EXIT_INFRASTRUCTURE),
    }
    return next((code for kind, code in codes.items() if isinstance(error, kind)), None)


def given(**options: Any) -> dict[str, Any]:
    """Keep the options that were given, as overrides of the settings."""
    return {name: value for name, value in options.items() if value is not None}
