"""Trade intents in Redis: the pending hash, what was last intended, and in plan mode the entry that asks the governor.

The three of one symbol are one script, so that a crash leaves all of them or none, and of two runs that saw the same proposals
one makes the intent. Whether an intent is actionable, and whether it is a new one, is decided before; nothing here computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from quantum_core.contracts.codecs import EPOCH, FLAG, FLOAT, TIME
from quantum_core.contracts.labels import PLANNER
from quantum_core.contracts.legs import leg_of
from quantum_core.contracts.schema import ContractError, Table, stamps
from quantum_core.contracts.tables import INTENT_TTL_SEC, LAST_INTENT, PENDING_INTENT, PLAN_STREAM_MAXLEN
from quantum_core.kernels.proposals.intent import CLOSED_SHARE
from resources.store.publication import Publication
from resources.store.redis_store import RedisStore, flat
from resources.store.transport.scripts import Script

PLAN_MODE = "plan"
CLOSING_SIDE = {"LONG": "SELL", "SHORT": "BUY"}
WHICHEVER = "*"  # stands for any intent id
GONE = ("flat", "position_missing")  # the position is known to be closed; one that no source shows may come back

INTEND = Script(__file__, "intend")
KEEP_INTENT = Script(__file__, "keep_intent")


def record_intents(
    store: RedisStore, rows: Sequence[Mapping[str, Any]], *, cycle_id: str, now: datetime | None = None
) -> list[Publication]:
    """Make the intents that are new, and renew the evaluation time of the rest: one round trip for any number of symbols.

    In a cluster the stream of plans has another slot than the symbol's keys, so there the plan is appended first, by a command of
    its own. The other way round a crash in between would leave an intent that nobody ever decides; this way it leaves a plan
    whose id the next cycle asks for again, and the governor decides an id once.

    Parameters
    ----------
    store
        Where they are kept, and whose clock and INTENT_MODE count.
    rows
        One mapping per symbol, as :func:`quantum_assets.trade_intent.intent_frame` gives them.
    cycle_id
        Written with every intent.
    now
        When; the store's clock when not given.

    Returns
    -------
    list of Publication
        One per row, in order; published where an intent was made.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    now = now or store.clock()
    errors: dict[str, str] = {}
    commands: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        try:
            commands[row["symbol"]] = _command(store, row, cycle_id, now)
        except ContractError as error:
            errors[row["symbol"]] = f"contract_broken: {error}"
    if store.keys.cluster and store.settings.intent_mode == PLAN_MODE:
        errors |= _append_plans(store, [row for row in rows if row["cause"] is not None and row["symbol"] in commands], now)
    due = {symbol: command for symbol, command in commands.items() if symbol not in errors}
    replies = dict(zip(due, store.run("recording trade intents", due.values()) if due else (), strict=True))
    return [_outcome(row, errors.get(row["symbol"], ""), replies.get(row["symbol"])) for row in rows]


def let_go(store: RedisStore, symbols: Sequence[str]) -> dict[str, str]:
    """Note that nothing is due any more for symbols that are flat; give the reasons where that was refused.

    What was last intended is kept: it must not be intended again when the same proposals come back within their minute.
    """
    now = store.clock()
    commands = (_keep_command(store, symbol, WHICHEVER, due=False, now=now) for symbol in symbols)
    replies = store.run("letting go of intents", commands) if symbols else ()
    return {
        symbol: f"{LAST_INTENT.key}_unreadable: {store.keys.of(LAST_INTENT.key, symbol)}: {reply}"
        for symbol, reply in zip(symbols, replies, strict=True)
        if isinstance(reply, Exception)
    }


def _command(store: RedisStore, row: Mapping[str, Any], cycle_id: str, now: datetime) -> tuple[Any, ...]:
    if row["cause"] is None and row["replaces"] is not None:
        return _keep_command(store, row["symbol"], row["replaces"], due=row["due"], now=now)
    parts = list(_parts(store, row, cycle_id, now))
    intent = {
        "expected": row["replaces"] or "",
        "parts": [{"lifetime_or_cap": number, "fields": flat(fields)} for _, number, fields in parts],
    }
    return INTEND([key for key, _, _ in parts], orjson.dumps(intent))


def _parts(
    store: RedisStore, row: Mapping[str, Any], cycle_id: str, now: datetime
) -> Iterator[tuple[str, int, Mapping[str, str]]]:
    """Give each key of a script with its lifetime (or cap) and what is written there."""
    symbol, keys, mode = row["symbol"], store.keys, store.settings.intent_mode
    profile = store.profile.stamp_of(symbol)
    yield keys.of(LAST_INTENT.key, symbol), store.ttl_sec(LAST_INTENT), _stamped(LAST_INTENT, row, cycle_id, now, profile)
    if row["cause"] is None:
        return
    pending = {
        **row,
        "replaces": row["replaces"] or "",
        "created_at": now,
        "timestamp": int(now.timestamp()),
        "expires_at": now + timedelta(seconds=INTENT_TTL_SEC),
        "mode": mode,
    }
    yield (
        keys.of(PENDING_INTENT.key, row["intent_id"], symbol),
        store.ttl_sec(PENDING_INTENT),
        _stamped(PENDING_INTENT, pending, cycle_id, now, profile),
    )
    if mode == PLAN_MODE and not keys.cluster:
        yield keys.of("stream_plans"), PLAN_STREAM_MAXLEN, plan_entry(row, now)


def _stamped(table: Table, row: Mapping[str, Any], cycle_id: str, now: datetime, profile: tuple[str, str]) -> Mapping[str, str]:
    encoded = table.encode(row)
    return {**encoded, **stamps(table, row["symbol"], encoded, cycle_id, now, profile)}


def _keep_command(store: RedisStore, symbol: str, expected: str, *, due: bool, now: datetime) -> tuple[Any, ...]:
    fingerprint, name = store.profile.stamp_of(symbol)
    renewed = {
        "due": FLAG.encode(due),
        "computed_at_utc": TIME.encode(now),
        "last_update_epoch": EPOCH.encode(now.timestamp()),
        "profile": fingerprint,
        "profile_name": name,
    }
    key = store.keys.of(LAST_INTENT.key, symbol)
    return KEEP_INTENT([key], store.ttl_sec(LAST_INTENT), expected, *flat(renewed))


def _append_plans(store: RedisStore, rows: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, str]:
    stream = store.keys.of("stream_plans")
    commands = [("XADD", stream, "MAXLEN", "~", PLAN_STREAM_MAXLEN, "*", *flat(plan_entry(row, now))) for row in rows]
    replies = store.run("adding plans", commands) if commands else []
    return {
        row["symbol"]: f"write_refused: {reply}" for row, reply in zip(rows, replies, strict=True) if isinstance(reply, Exception)
    }


def plan_entry(row: Mapping[str, Any], now: datetime) -> dict[str, str]:
    """Lay out the plan of one intent.

    The size is the share of the position that is to be closed, where the position says how large it is; else the field is left
    out, and the governor, which knows the position, permits a share of it. ``source`` names the planner; what the data says of
    itself is beside it, so that the gate for data that is not live sees it.

    Parameters
    ----------
    row
        See :func:`record_intents`.
    now
        Time of the intent.

    References
    ----------
    docs/spec.md#7-trade-intents-and-the-governor
    """
    size = row.get("qty")
    qty = CLOSED_SHARE[row["plan_action"]] * abs(size) if size else None
    return {
        "plan_id": row["intent_id"],
        "symbol": row["symbol"],
        "action": row["plan_action"],
        "decision": "EXECUTE",
        "reduceOnly": "true",
        "kill_score": FLOAT.encode(row["confidence"]),
        "side": CLOSING_SIDE[row["position_side"]],
        **({} if qty is None else {"qty": FLOAT.encode(qty)}),
        "price": FLOAT.encode(row["price"]),
        "confidence": FLOAT.encode(row["confidence"]),
        "timestamp": EPOCH.encode(now.timestamp()),
        "source": PLANNER,
        "data_source": row["source"],
        **({"positionSide": leg} if (leg := leg_of(row["symbol"])) else {}),
    }


def _outcome(row: Mapping[str, Any], error: str, reply: Any) -> Publication:
    symbol, cause = str(row["symbol"]), row["cause"]
    if not error and isinstance(reply, Exception):
        error = f"write_refused: {reply}"
    if not error and reply == 0:
        error = "overwritten_meanwhile"
    if error:
        return Publication(symbol, published=False, error=error)
    why = cause or ("unchanged" if row["due"] else "nothing due")
    return Publication(symbol, published=cause is not None, cause=why, kept=cause is None and row["replaces"] is None)
