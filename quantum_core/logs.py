"""Logging of the product's own processes: to stderr, one event is one line, whatever the values in it try."""

from __future__ import annotations

import logging
import sys

from quantum_core.contracts.reading import printable

PLAIN = "%(levelname)s %(name)s %(message)s"
DATED = "%(asctime)s %(levelname)s %(name)s %(message)s"


class OneLine(logging.Formatter):
    """Keeps line breaks and terminal escapes of a message out of the log; a traceback keeps its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        """Lay out one event."""
        record.message = printable(record.message)
        return super().formatMessage(record)


def log_to_stderr(level: str, layout: str = PLAIN) -> None:
    """Send the log of this process to stderr, unless it goes somewhere already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(layout))
    logging.basicConfig(level=level, handlers=[handler])
