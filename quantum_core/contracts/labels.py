"""What writers say of themselves in ``source``: which of it says that the data is not live.

Names of writers are free, and theirs to choose; words for data that nobody traded on are few.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from quantum_core.contracts.reading import LABEL_CHARS_MAX

NOT_LIVE_WORDS = frozenset(
    {
        *("example", "examples", "demo", "mock", "fake", "dummy", "sample", "synthetic", "invented"),
        *("replay", "replayed", "backtest", "backtesting", "historical", "recorded"),
        *("paper", "papertrading", "papertrade", "sim", "simulated", "simulation", "simulator"),
        *("sandbox", "test", "testing", "testnet"),
        *("shadow", "dry", "dryrun", "virtual", "practice", "stub", "fixture"),
    }
)
NOT_LIVE_FLAGS = frozenset(  # fields that say it with yes, by their letters
    {
        *("paper", "papertrading", "papertrade", "testnet", "demo", "sandbox", "simulated", "simulation", "dryrun"),
        *("backtest", "mock", "virtual", "shadow", "synthetic", "replay"),
    }
)
LABEL_FIELDS = ("mode", "env", "environment")  # fields that name it beside ``source``
YES = ("true", "1", "yes", "y", "on")
PLANNER = "quantum"  # what our own plans call themselves
CUT = "…"  # ends a label that is longer than what is repeated: nobody knows what its rest says


def label_of(text: str) -> str:
    """Bring a writer's label into the form it is compared and repeated in: stripped, lower case, at most 32 characters."""
    label = text.strip().lower()
    return label if len(label) <= LABEL_CHARS_MAX else label[: LABEL_CHARS_MAX - 1] + CUT


def not_live_by_field(fields: Mapping[str, str]) -> str:
    """Give what a writer says under another name than ``source`` of data that is not live; empty when it says nothing."""
    for name, value in fields.items():
        letters = _letters(name)
        if (flag := letters.removeprefix("is")) in NOT_LIVE_FLAGS and value.strip().lower() in YES:
            return flag
        if letters in LABEL_FIELDS and not is_live(value):
            return label_of(value)
    return ""


def may_say_not_live(name: str) -> bool:
    """Whether :func:`not_live_by_field` looks at a field of this name."""
    letters = _letters(name)
    return letters in LABEL_FIELDS or letters.removeprefix("is") in NOT_LIVE_FLAGS


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def is_live(text: str) -> bool:
    """Whether no word of a label marks the data as non-live."""
    label = label_of(text)
    return not label.endswith(CUT) and NOT_LIVE_WORDS.isdisjoint(re.split(r"[\W_]+", label))
