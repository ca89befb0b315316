"""What Dagster's pages show of single symbols, as it is kept in Redis: one hash per asset or input, one entry per symbol.

Here belongs the entry and how it is written. What is to be shown is decided in ``quantum_assets/shared/shown_states.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

FRESH_FIELD, USABLE_FIELD = "_fresh", "_usable"  # what the checks of the asset show, beside its symbols
SINCE = "_since"  # added to those names: when a cycle last recorded a change that was not for the worse, epoch s
CHECK_FIELDS = frozenset({FRESH_FIELD, USABLE_FIELD, FRESH_FIELD + SINCE, USABLE_FIELD + SINCE})  # a symbol may begin with "_"


class Shown(NamedTuple):
    """What is shown of one symbol.

    Attributes
    ----------
    at
        When it was last recorded, epoch s.
    code
        Why: what makes another record when it changes.
    failed
        Whether it is shown as failed.
    storage
        Identity of the instance's storage: what another one shows says nothing of this one.
    changed
        When it last changed, epoch s; 0 as long as it is what was first seen.
    why
        The reason in full, of an input that cannot be used.
    """

    at: float
    code: str
    failed: bool
    storage: str
    changed: float = 0.0
    why: str = ""


def decoded(fields: Mapping[str, bytes]) -> dict[str, Shown]:
    """Decode the entries of symbols; one that is none of ours is left out, and replaced."""
    shown = {}
    for name, text in fields.items():
        if name in CHECK_FIELDS:
            continue
        try:
            at, code, failed, storage, *more = json.loads(text)
            changed, why = more or (0.0, "")  # entries of before have four parts
            shown[name] = Shown(float(at), str(code), failed is True, str(storage), float(changed), str(why))
        except (ValueError, TypeError):
            continue
    return shown
