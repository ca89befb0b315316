"""Commands as a script runs them, in this process: starting Python and importing Dagster takes longer than most commands.

What only a process of its own shows (imports, signals, that a command stands alone) is tested with one, beside these.
"""

import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

from quantum_ops.cli import main


def run_command(*arguments: str, environment: Mapping[str, str]) -> "CompletedProcess[str]":
    """Run ``quantum`` with this environment and no other; give its exit code and what it printed, as a process does."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with _alone(environment), redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return CompletedProcess(["quantum", *arguments], code, out.getvalue(), err.getvalue())


@contextmanager
def _alone(environment: Mapping[str, str]) -> Iterator[None]:
    """Give what a new process has of its own, and put back what a command leaves behind: environment, folder, logging, warnings."""
    kept, root = dict(os.environ), logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("root", "alembic", "quantum")}
    os.environ.clear()
    os.environ.update({"PATH": kept["PATH"], "HOME": kept.get("HOME", "/"), **environment})
    root.handlers.clear()
    root.setLevel(logging.WARNING)
    try:
        with chdir("/"), warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
