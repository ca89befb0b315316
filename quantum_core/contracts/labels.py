"""What writers say of themselves in ``source``: which of it says that the data is not live.

Names of writers are free, and theirs to choose; words for data that nobody traded on are few.
"""

from __future__ import annotations

import re

from quantum_core.contracts.reading import LABEL_CHARS_MAX

NOT_LIVE_WORDS = frozenset(
    {
        *("example", "examples", "demo", "mock", "fake", "dummy", "sample", "synthetic", "invented"),
        *("replay", "replayed", "backtest", "backtesting", "historical", "recorded"),
        *("paper", "papertrading", "sim", "simulated", "simulation", "simulator", "sandbox", "test", "testing", "testnet"),
        "shadow",
    }
)
PLANNER = "quantum"  # what our own plans call themselves
CUT = "…"  # ends a label that is longer than what is repeated: nobody knows what its rest says


def label_of(text: str) -> str:
    """Bring a writer's label into the form it is compared and repeated in: stripped, lower case, at most 32 characters."""
    label = text.strip().lower()
    return label if len(label) <= LABEL_CHARS_MAX else label[: LABEL_CHARS_MAX - 1] + CUT


def is_live(text: str) -> bool:
    """Tell whether none of the words of a label says that the data is not live."""
    label = label_of(text)
    return not label.endswith(CUT) and NOT_LIVE_WORDS.isdisjoint(re.split(r"[\W_]+", label))
