"""What writers say of themselves in ``source``: which of it is known to be live. All else is not known to be, so it is not."""

from __future__ import annotations

from quantum_assets.contracts.reading import LABEL_CHARS_MAX

LIVE_LABELS = frozenset(
    {
        "",  # most writers say nothing
        *("candles", "redis_hash", "redis_stream"),  # where we have read live data ourselves
        *("live", "exchange"),
        *("binance", "bybit", "okx", "kraken", "coinbase"),  # the exchanges of spec section 14; their test nets have other names
        *("quantum", "planner", "executor"),  # our own plans, and the two roles of docs/security.md that write for us to read
    }
)
CUT = "…"  # ends a label that is longer than what is repeated, so that what is left of it is never taken for another one


def label_of(text: str) -> str:
    """Bring a writer's label into the form it is compared and repeated in: stripped, lower case, at most 32 characters."""
    label = text.strip().lower()
    return label if len(label) <= LABEL_CHARS_MAX else label[: LABEL_CHARS_MAX - 1] + CUT


def is_live(text: str) -> bool:
    """Tell whether a label is one of those known to be live."""
    return label_of(text) in LIVE_LABELS
