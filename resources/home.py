"""The instance folder (QUANTUM_HOME): Dagster's storage and configuration, the embedded server's data and address."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from resources.settings import Settings

_TEMPLATE = Path(__file__).resolve().parent.parent / "dagster.yaml"


def prepare_home(settings: Settings) -> Path:
    """Create the instance folder, keep its dagster.yaml equal to the product's unless an operator has edited it.

    Returns
    -------
    pathlib.Path
        The folder, also exported as DAGSTER_HOME for this process and its children.
    """
    home = settings.quantum_home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = home / "dagster.yaml"
    if not target.exists():
        target.write_text(_TEMPLATE.read_text())
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Open the product's Dagster instance, creating its storage on first use."""
    return dg.DagsterInstance.from_config(str(prepare_home(settings)))
