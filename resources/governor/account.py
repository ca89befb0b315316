"""The account as others write it: equity, profit of the day, consecutive losses, and what of it cannot be used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from quantum_core.contracts.labels import is_live, label_of, not_live_by_field
from quantum_core.freshness import EPOCH_MAX
from quantum_core.kernels.capital.efficiency_hint import epoch_sec
from quantum_core.kernels.governor.risk_guard import (
    CONSECUTIVE_LOSSES,
    DAILY_PNL,
    EQUITY,
    MISSING_AGE_SEC,
    NET_TRANSFERS,
    PEAK,
    Account,
    near_peak,
    peak_rose,
)
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import RedisStore, texts

CLOCK = "last_update_ts"
USD_MAX = 1e15  # a larger account is a fault, and what is computed from it must stay finite
CURRENT_PEAK = "current_peak"  # field of what is kept between readings
SHOWN_MAX = 80  # characters of what stands in the place of a number


@dataclass(frozen=True, slots=True)
class AccountReading:
    """The account as others wrote it.

    Attributes
    ----------
    account
        Its numbers, NaN where one is missing or no number.
    seen
        What stands where each input ought to be, in words, for the input that turns out to be unusable.
    ts_epoch
        The writer's clock, epoch s; ``None`` where there is none.
    source
        The writer's own label, e.g. ``example``.
    note
        What is worth a warning, in words, and blocks nothing; empty when there is nothing.
    absent
        Inputs that nobody has written, and that count as 0.
    """

    account: Account
    seen: Mapping[str, str]
    ts_epoch: float | None = None
    source: str = ""
    note: str = ""
    absent: frozenset[str] = frozenset()


def read_account(store: RedisStore) -> AccountReading:
    """Read equity, profit of this UTC day and consecutive losses, in one round trip.

    No hash of the day's profit, or no count of losses, means that there were none yet today: both writers begin with the first
    trade. A hash without its field is a writer's fault, and its number is not usable.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    now, of = store.clock(), store.keys.of
    keys = (of("equity"), of("daily_pnl", utc_date(now)), of("consecutive_losses"), of("guard_readings"))
    commands = [("HGETALL", keys[0]), ("HGETALL", keys[1]), ("GET", keys[2]), ("HGET", keys[3], CURRENT_PEAK)]
    equity, pnl, losses, stored_peak = store.run("reading the account", commands)
    worth, profit = _fields(equity), _fields(pnl)
    epoch = _epoch(worth.get(CLOCK))
    missing = not isinstance(equity, Exception) and not worth
    account = Account(
        equity=_usd(worth.get("equity")),
        peak=_usd(worth.get("peak")),
        age_sec=MISSING_AGE_SEC if missing else now.timestamp() - epoch,
        daily_pnl=_usd(profit.get("pnl")) if profit or isinstance(pnl, Exception) or store.settings.daily_pnl_required else 0.0,
        consecutive_losses=0.0 if losses is None else _usd(_text(losses)),
        net_transfers=_usd(worth[NET_TRANSFERS]) if NET_TRANSFERS in worth else 0.0,
        peak_known=_usd((_text(stored_peak) or "").partition(" ")[0]),
    )
    note = "" if profit or isinstance(pnl, Exception) else f"{keys[1]} is missing: the profit of today counts as 0"
    shown = {
        EQUITY: f"{keys[0]}: {_fields_text(equity, worth, 'equity', CLOCK)}",
        PEAK: f"{keys[0]}: {_peak_shown(equity, worth, account)}",
        NET_TRANSFERS: f"{keys[0]}: {_fields_text(equity, worth, NET_TRANSFERS, 'peak')}",
        DAILY_PNL: f"{keys[1]}: {_fields_text(pnl, profit, 'pnl')}",
        CONSECUTIVE_LOSSES: f"{keys[2]}: {losses if isinstance(losses, Exception) else repr(_text(losses))}",
    }
    absent = frozenset(
        name for name, reply in ((DAILY_PNL, profit or pnl), (CONSECUTIVE_LOSSES, losses)) if not reply and reply != b""
    )
    label = label_of(worth.get("source", ""))
    label = label if not is_live(label) else not_live_by_field(worth) or label
    return AccountReading(account, shown, epoch if math.isfinite(epoch) else None, label, note, absent)


def account_row(reading: AccountReading) -> dict[str, Any]:
    """Lay the account out as columns, for the recorder."""
    origin = {
        "ts_epoch": reading.ts_epoch,
        "source": reading.source,
        "note": reading.note,
        "absent": ",".join(sorted(reading.absent)),
    }
    return {**asdict(reading.account), **origin}


def account_of(row: Mapping[str, Any]) -> AccountReading:
    """Give what :func:`account_row` was given, without the texts of its inputs; a number that is null is unknown."""
    numbers = {one.name: math.nan if row[one.name] is None else row[one.name] for one in fields(Account)}
    absent = frozenset(filter(None, (row.get("absent") or "").split(",")))
    return AccountReading(Account(**numbers), {}, row["ts_epoch"], row["source"] or "", row["note"] or "", absent)


def utc_date(now: datetime) -> str:
    """Give the day that keys of a day are named after."""
    return now.astimezone(UTC).date().isoformat()


def _fields(reply: Any) -> dict[str, str]:
    return {} if isinstance(reply, Exception) else texts(reply)


def _text(reply: Any) -> str | None:
    return reply.decode(errors="replace")[:SHOWN_MAX] if isinstance(reply, bytes) else None


def _usd(text: str | None) -> float:
    number = number_or_none(text)
    return math.nan if number is None or abs(number) > USD_MAX else number


def _epoch(text: str | None) -> float:
    if text is None or not text.isascii():
        return math.nan
    try:
        epoch = epoch_sec(text)
    except ValueError:
        return math.nan
    return epoch if 0 <= epoch < EPOCH_MAX else math.nan


def _peak_shown(reply: Any, fields: Mapping[str, str], account: Account) -> str:
    beside = [name for name in ("equity", NET_TRANSFERS) if "peak" in fields and name in fields]
    words = _fields_text(reply, fields, "peak", *beside)
    if not peak_rose(account) or near_peak(account):
        return words
    return f"{words}: it was {account.peak_known:.10g}, and no two readings of the equity bear the rise out"


def _fields_text(reply: Any, fields: Mapping[str, str], *names: str) -> str:
    if isinstance(reply, Exception):
        return str(reply)
    return ", ".join(f"{name} is {repr(fields[name][:SHOWN_MAX]) if name in fields else 'missing'}" for name in names)
