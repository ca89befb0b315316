"""What a watcher leaves to its successor: what was raised and read, and what is not delivered yet."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantum_ops.alerts.incidents import Ledger
from quantum_ops.alerts.sinks import from_json
from quantum_ops.alerts.trading.watch import TradingWatch

STATE_FILE = "watch.json"

log = logging.getLogger("quantum.watch")


class StateFile:
    """The file in which a watcher keeps its state; it is replaced as a whole.

    Attributes
    ----------
    unsaved
        Why the last state could not be written; empty when it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unsaved = ""

    def read(self) -> dict[str, Any]:
        """Read what a predecessor left; what cannot be read is named, and forgotten."""
        nothing: dict[str, Any] = {"active": [], "queues": {}, "cleared": {}, "trading": {}}
        try:
            stored = {**nothing, **json.loads(self.path.read_text())}  # older versions know less
            Ledger.from_json(stored["active"])
            TradingWatch(stored["trading"])
            for queue in stored["queues"].values():
                list(map(from_json, queue))
            stored["cleared"] = {str(alert): float(at) for alert, at in stored["cleared"].items()}
        except FileNotFoundError:
            return nothing
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s cannot be read (%s: %s); alerts that last are raised again", self.path, type(error).__name__, error)
            return nothing
        return {name: stored[name] for name in nothing}

    def write(self, state: Mapping[str, Any]) -> None:
        """Write what a successor must know; a failure is named once and kept in ``unsaved``."""
        written = self.path.with_suffix(".new")
        try:
            written.write_text(json.dumps(state))
            written.chmod(0o600)
            written.replace(self.path)
        except OSError as error:  # a full disk is when alerts are needed most; all a restart then costs is a repeated alert
            if not self.unsaved:
                log.warning("cannot save %s: %s", self.path, error)
            self.unsaved = str(error)
        else:
            self.unsaved = ""
