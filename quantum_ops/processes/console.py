"""What ``quantum up`` shows of its processes: one format for all of them, and routine lines only in the log file.

The file keeps every line. The console leaves out what each cycle repeats (publications, sensor ticks, tasks received), unless
LOG_LEVEL is DEBUG; warnings and errors are always shown. Units print to the journal themselves and know nothing of this.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from circus.stream import StdoutStream

from quantum_core.contracts.reading import printable

LOG_FILE = "quantum.log"  # in the instance folder; Dagster's telemetry empties the folder logs
LOG_BYTES_MAX, LOGS_KEPT = 20_000_000, 5  # three symbols write about 50 MB a day
ROUTINE = (  # loggers of what every cycle repeats
    "quantum.publish",
    "celery.worker.strategy",
    "celery.app.trace",
    "dagster.daemon.SensorDaemon",
    "dagster.code_server",
)
WATCHER = "quantum.watch"  # each of its lines is news: an alert raised, reminded of or cleared
GOES_ON_SEC = 120.0  # a warning that comes again within this time is the same one: several cycles, also slow ones
_NUMBER = re.compile(r"\d+(\.\d+)?")
_RUN = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\bcycle - \S+ - ")  # which run it was is no news
QUIET = ("DEBUG", "INFO")
COLOURS = {"WARNING": "33", "ERROR": "31", "CRITICAL": "31"}
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_LEVEL = r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)"
_LAYOUTS = (
    re.compile(rf"\d{{4}}-\d\d-\d\d [\d:]{{8}} [+-]\d{{4}} - (?P<logger>\S+) - {_LEVEL} - (?P<text>.*)"),  # Dagster
    re.compile(rf"(?:\d{{4}}-\d\d-\d\d [\d:,]+ )?{_LEVEL} (?P<logger>\S+) (?P<text>.*)"),  # quantum_core.logs
    re.compile(rf"{_LEVEL}: +(?P<logger>)(?P<text>.*)"),  # uvicorn
    re.compile(r"\d+:[A-Z] \d+ \w+ \d{4} [\d:.]+ (?P<mark>[.*#-]) (?P<logger>)(?P<text>.*)"),  # Valkey
)


class Line(NamedTuple):
    """One printed line; without a level it continues the one before: a traceback."""

    level: str
    logger: str
    text: str

    @property
    def routine(self) -> bool:
        """Whether every cycle prints its like."""
        return self.level in QUIET and self.logger.startswith(ROUTINE)


def parse(printed: str) -> Line:
    """Read a line in any of the layouts of our processes; terminal escapes are dropped."""
    plain = printable(_ESCAPE.sub("", printed).rstrip())
    for layout in _LAYOUTS:
        if found := layout.fullmatch(plain):
            fields = found.groupdict()
            level = fields.get("level") or ("WARNING" if fields["mark"] == "#" else "INFO")
            return Line(level, fields["logger"] or "", fields["text"].removeprefix(f"{level} "))
    return Line("", "", plain)


@cache
def _log_file(path: str) -> logging.Handler:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=LOGS_KEPT, encoding="utf-8")


class NamedStream(StdoutStream):  # type: ignore[misc]
    """Prints each line of a process behind its name.

    Parameters
    ----------
    name
        Of the process.
    log_file
        Keeps every line; none when empty.
    verbose
        Whether routine lines are shown, too.
    """

    WIDTH: ClassVar[int] = 10

    def __init__(self, name: str, log_file: str = "", *, verbose: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self.log_file, self.verbose = log_file, verbose
        self.unfinished = ""
        self._shown = True
        self._warned: dict[str, float] = {}  # warnings, without their numbers, and when each was last printed by the process

    def __call__(self, chunk: dict[str, Any]) -> None:
        """Print one chunk of output."""
        text = chunk["data"]
        *lines, self.unfinished = (self.unfinished + (text.decode(errors="replace") if isinstance(text, bytes) else text)).split(
            "\n"
        )
        for line in lines:
            self._print(parse(line))
        with suppress(OSError):  # the terminal is gone
            sys.stderr.flush()

    def _print(self, line: Line) -> None:
        moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        words = " ".join(filter(None, (line.level, line.logger, line.text))) if line.level else line.text
        if self.log_file:
            kept = logging.makeLogRecord({"msg": f"{moment} {self.name:>{self.WIDTH}} | {words}"})
            _log_file(self.log_file).emit(kept)
        if line.level:
            self._shown = self.verbose or not (line.routine or self._repeated(line))
        if not self._shown:
            return
        colour = COLOURS.get(line.level, "")
        painted = f"\x1b[{colour}m{words}\x1b[0m" if colour and sys.stderr.isatty() else words
        with suppress(OSError):  # the terminal is gone, and the processes are to be stopped in order
            sys.stderr.write(f"{moment} {self.name:>{self.WIDTH}} | {painted}\n")

    def own(self, record: logging.LogRecord) -> None:
        """Print what the supervisor itself logs, as a line among those of its processes."""
        self._print(Line(record.levelname, record.name, printable(record.getMessage())))

    def _repeated(self, line: Line) -> bool:
        """Return whether a warning was printed a moment ago, the same but for its numbers: each cycle prints it anew."""
        if line.level != "WARNING" or line.logger == WATCHER:
            return False
        now, what = time.monotonic(), _NUMBER.sub("#", f"{line.logger} {_RUN.sub('', line.text)}")
        self._warned = {known: at for known, at in self._warned.items() if now - at < GOES_ON_SEC}
        repeated = what in self._warned
        self._warned[what] = now
        return repeated


class OwnLines(logging.Handler):
    """Prints what the supervisor logs with its time, like the lines of its processes, and keeps it in the log file."""

    def __init__(self, log_file: str = "") -> None:
        super().__init__()
        self.stream = NamedStream("stack", log_file)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        self.stream.own(record)
