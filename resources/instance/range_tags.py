"""The tags of a run that covers many symbols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resources.instance.dagster_internals import RANGE_TAGS


def range_tags(symbols: Sequence[str]) -> dict[str, str]:
    """Tag a run so that it covers the symbols from the first to the last."""
    return dict(zip(RANGE_TAGS, (symbols[0], symbols[-1]), strict=True))


def symbols_of(tags: Mapping[str, str], symbols: Sequence[str]) -> Sequence[str]:
    """Give the symbols a run with such tags covers."""
    first, last = (symbols.index(tags[name]) for name in RANGE_TAGS)
    return symbols[first : last + 1]
