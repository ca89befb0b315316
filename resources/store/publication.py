"""What is published, and when: which rows are due, which are only refreshed, and what is written for each.

A publication (fields, lifetime, stream entry) is one server-side script, so no reader ever sees half of one; a server that
goes away between two symbols leaves whole publications and missing ones, nothing between.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from quantum_core.contracts.legs import SEPARATOR, leg_of, underlying
from quantum_core.contracts.reading import State, printable
from quantum_core.contracts.schema import ContractError, Table, publication_due, stamps
from quantum_core.contracts.tables import OF_UNDERLYING
from resources.store.redis_store import RedisStore, flat
from resources.store.transport.scripts import Script

FOREIGN_NAMED = 5  # fields of others, of one hash

log = logging.getLogger("quantum.store")

_FOREIGN: WeakKeyDictionary[RedisStore, set[str]] = WeakKeyDictionary()  # hashes whose foreign fields were named already

PUBLISH = Script(__file__, "publish")
APPEND = Script(__file__, "append")
REFRESH = Script(__file__, "refresh")


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of one symbol's new values.

    Attributes
    ----------
    symbol
        The symbol.
    published
        True when values, lifetime and stream entry were written; False when only the evaluation time was refreshed.
    cause
        Why it was published, or ``unchanged``.
    kept
        True when the values were written although this is no publication: they are kept current.
    error
        Empty, or the named error that kept this symbol (and no other) from being written.
    """

    symbol: str
    published: bool
    cause: str = ""
    error: str = ""
    kept: bool = False


@dataclass(frozen=True, slots=True)
class _Last:
    """What stands published: its values when readable, and its time as the server has it (see lua/publish.lua)."""

    values: dict[str, Any] | None
    published_at: str


def publish(
    store: RedisStore,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    cycle_id: str,
    stream_only: bool = False,
    now: datetime | None = None,
) -> list[Publication]:
    """Publish what is due and refresh the evaluation time of the rest: two round trips for any number of symbols.

    Parameters
    ----------
    store
        Where to, and whose clock, settings and profile count.
    table
        The contract.
    rows
        One mapping per symbol: ``symbol`` and all fields of the table (and of its stream entry).
    cycle_id
        Written with every publication.
    stream_only
        Append the stream entry of every row and leave the hash alone: a shadow.
    now
        Time of the publication; the store's clock when not given.

    Returns
    -------
    list of Publication
        One per row, in order.
    """
    if not rows:
        return []
    if table.key in OF_UNDERLYING and any(SEPARATOR in row["symbol"] and leg_of(row["symbol"]) for row in rows):
        once = {underlying(row["symbol"]): row for row in rows}  # both legs computed the same, under one key
        named = [{**row, "symbol": symbol} for symbol, row in once.items()]
        publications = publish(store, table, named, cycle_id=cycle_id, stream_only=stream_only, now=now)
        shared = dict(zip(once, publications, strict=True))
        return [replace(shared[underlying(row["symbol"])], symbol=row["symbol"]) for row in rows]
    outcomes: list[Publication] = []
    now = now or store.clock()
    if table.rate_limited and not stream_only:
        lasts = _last_published(store, table, [str(row["symbol"]) for row in rows])
    else:
        lasts = [_Last(None, "*")] * len(rows)
    commands = _publications(
        store,
        table,
        rows,
        lasts,
        outcomes,
        cycle_id=cycle_id,
        now=now,
        stream_only=stream_only,
    )
    replies = iter(store.run(f"publishing {table.asset}", commands))
    return [_settle(outcome, replies) for outcome in outcomes]


def _publications(
    store: RedisStore,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    lasts: Sequence[_Last],
    outcomes: list[Publication],
    *,
    cycle_id: str,
    now: datetime,
    stream_only: bool,
) -> Iterator[tuple[Any, ...]]:
    """Make one command per row that keeps its contract, while the server works on those made before; note each outcome."""
    for row, last in zip(rows, lasts, strict=True):
        symbol = str(row["symbol"])
        try:
            encoded = table.encode(row)
            marks = stamps(table, symbol, encoded, cycle_id, now, store.profile.stamp_of(symbol))
            cause = publication_due(
                table,
                last.values,
                store.published.keep(table, symbol, {**encoded, **marks}) if last.values else {},
                now=now,
                change_eps_pct=store.settings.change_eps_pct,
                max_age_sec=store.settings.max_publish_age_sec,
            )
            if cause is None and table.kept_current:
                current = {**marks, "published_at_utc": last.published_at}
                command = _publish_command(store, table, row, encoded, current, last.published_at)
            elif cause is None:
                command = _refresh_command(store, table, symbol, last.published_at, marks)
            elif stream_only:
                command = _append_command(store, table, row, encoded, marks)
            else:
                command = _publish_command(store, table, row, encoded, marks, last.published_at)
        except ContractError as error:
            outcomes.append(Publication(symbol, published=False, error=f"contract_broken: {error}"))
            continue
        kept = cause is None and table.kept_current
        outcomes.append(Publication(symbol, published=cause is not None, cause=cause or "unchanged", kept=kept))
        yield command


def _last_published(store: RedisStore, table: Table, symbols: Sequence[str]) -> list[_Last]:
    published = []
    for raw in store.read_raw(table.key, symbols):
        if raw.value is None:
            published.append(_Last(None, "" if raw.state is State.ABSENT else "*"))
            continue
        try:
            values = store.published.decode(table, raw.symbol, raw.value)
            if foreign := raw.value.keys() - table.wire_names:
                _name_foreign(store, store.keys.of(table.key, raw.symbol), foreign)
                published.append(_Last(None, "*"))
            else:
                published.append(_Last(values, raw.value[b"published_at_utc"].decode()))
        except ContractError:  # damaged, or edited by somebody: the whole publication replaces it
            published.append(_Last(None, "*"))
    return published


def _name_foreign(store: RedisStore, key: str, foreign: Collection[bytes]) -> None:
    named = _FOREIGN.setdefault(store, set())
    if key not in named:
        named.add(key)
        names = ", ".join(printable(name.decode(errors="replace")) for name in sorted(foreign)[:FOREIGN_NAMED])
        log.warning("%s held fields of another writer, which are removed: %s", key, names)


def _settle(outcome: Publication, replies: Any) -> Publication:
    if outcome.error:
        return outcome
    reply = next(replies)
    if isinstance(reply, Exception):
        return Publication(outcome.symbol, published=False, error=f"write_refused: {reply}")
    if reply == 0:
        return Publication(outcome.symbol, published=False, error="overwritten_meanwhile")
    return outcome


def _append_command(
    store: RedisStore, table: Table, row: Mapping[str, Any], encoded: Mapping[str, str], marks: Mapping[str, str]
) -> tuple[Any, ...]:
    if table.stream is None:
        raise ContractError(table.asset, "has no stream to shadow")
    keys = [store.keys.of(name, str(row["symbol"])) for name in table.stream.keys]
    entry = flat(table.stream_entry(row, encoded, marks))
    if len(keys) > 1:
        return APPEND(keys, table.stream.maxlen, *entry)
    return ("XADD", *keys, "MAXLEN", "~", table.stream.maxlen, "*", *entry)


def _publish_command(
    store: RedisStore, table: Table, row: Mapping[str, Any], encoded: Mapping[str, str], marks: Mapping[str, str], expected: str
) -> tuple[Any, ...]:
    symbol = str(row["symbol"])
    keys = [store.keys.of(table.key, symbol)]
    values = flat({**encoded, **marks})
    stream_part: list[str] = []
    if table.stream is not None and (store.settings.enable_stream or not table.stream.optional):
        keys += [store.keys.of(name, symbol) for name in table.stream.keys]
        entry = table.stream_entry(row, encoded, marks)
        stream_part = [str(table.stream.maxlen), *flat(entry)]
    return PUBLISH(keys, store.ttl_sec(table), expected, len(values), *values, *stream_part)


def _refresh_command(
    store: RedisStore, table: Table, symbol: str, published_at: str, marks: Mapping[str, str]
) -> tuple[Any, ...]:
    refreshed = flat({name: marks[name] for name in table.renewed})
    return REFRESH([store.keys.of(table.key, symbol)], store.ttl_sec(table), published_at, *refreshed)
