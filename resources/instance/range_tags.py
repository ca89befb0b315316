"""The tags of a run that covers many symbols: a range, and of an event cycle those in it that have changed.

Dagster's ranges are contiguous, and what changes is not. A run that covers single symbols therefore has the range of its shard
and names them in a tag of ours; only those are computed, published, materialized, counted and failed. Of a run with
``dagster/defer_asset_events`` Dagster records no planned materialization, so that nothing is shown of the rest of the range.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")  # a run's first and last partition
EVENT_TAG = "quantum/event"  # of an event cycle: its symbols
TAG_CHARS_MAX = 1_000  # PostgreSQL's index of tags takes no value beyond 2,700 bytes
UNTIL = ".."  # between the first and the last of neighbours


def range_tags(symbols: Sequence[str]) -> dict[str, str]:
    """Tag a run so that it covers the symbols from the first to the last."""
    return dict(zip(RANGE_TAGS, (symbols[0], symbols[-1]), strict=True))


def event_tags(shard: Sequence[str], changed: Collection[str]) -> dict[str, str]:
    """Tag a run so that it covers some symbols of a shard; more than a tag can name are the whole shard."""
    named = symbol_ranges(shard, changed)
    return {**range_tags(shard), EVENT_TAG: named if len(named) <= TAG_CHARS_MAX else symbol_ranges(shard, shard)}


def symbols_of(tags: Mapping[str, str], symbols: Sequence[str]) -> Sequence[str]:
    """Give the symbols a run with such tags covers."""
    first, last = (symbols.index(tags[name]) for name in RANGE_TAGS)
    return covered(symbols[first : last + 1], tags, symbols)


def covered(partitions: Sequence[str], tags: Mapping[str, str], symbols: Sequence[str]) -> Sequence[str]:
    """Give those of a run's partitions that it computes: all of them, or the symbols of an event.

    Parameters
    ----------
    partitions
        As Dagster gives them, in any order.
    tags
        Of the run.
    symbols
        All symbols, in the order in which neighbours were named.

    Raises
    ------
    ValueError
        The run is of an event, and its tag names a symbol that there is not.
    """
    if EVENT_TAG not in tags:
        return partitions
    named: set[str] = set()
    for part in tags[EVENT_TAG].split(","):
        first, _, last = part.partition(UNTIL)
        named.update(symbols[symbols.index(first) : symbols.index(last or first) + 1])
    return [symbol for symbol in partitions if symbol in named]


def symbol_ranges(shard: Sequence[str], changed: Collection[str]) -> str:
    """Name symbols in the order of their shard, neighbours by the first and the last: ``BTCUSDT..SOLUSDT,XRPUSDT``."""
    groups: list[list[str]] = []
    before = False
    for symbol in shard:
        if symbol in changed and before:
            groups[-1].append(symbol)
        elif symbol in changed:
            groups.append([symbol])
        before = symbol in changed
    return ",".join(one[0] if len(one) == 1 else f"{one[0]}{UNTIL}{one[-1]}" for one in groups)
