"""The last guard of the watcher: what cannot be used is named once and left out, and all else goes on.

Everything is validated where it is read. This stands behind it: one entry nobody thought of must not silence every alert.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

NAMED_MAX = 1000  # names remembered; a flood of junk is named anew then, and takes no more memory

log = logging.getLogger("quantum.watch")
Given = TypeVar("Given")


class Guarded:
    """Calls what may fail on a single unusable entry.

    Parameters
    ----------
    passing
        Errors that are no entry's fault, and are raised on.
    """

    def __init__(self, *passing: type[Exception]) -> None:
        self.passing = passing
        self._named: set[str] = set()

    def call(self, name: str, otherwise: Given, function: Callable[..., Given], *arguments: Any, **options: Any) -> Given:
        """Call it; when it raises, name what could not be used, once, and give ``otherwise``."""
        try:
            return function(*arguments, **options)
        except self.passing:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other alerts must go on
            if name not in self._named:
                if len(self._named) >= NAMED_MAX:
                    self._named.clear()
                self._named.add(name)
                log.warning("%s cannot be used, it is left out: %s: %s", name, type(error).__name__, error)
            return otherwise
