"""What freshness is judged by, of all symbols, in one pipelined read: clocks, heartbeats, verdicts of the proof pack, candles.

It must not import Dagster: the watcher that reads it lives on when Dagster does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from quantum_core.contracts.reading import Reading
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import (
    ALLOCATION_TARGET,
    CAPITAL_EFFICIENCY,
    GOVERNOR_STATE,
    HARVEST_PROPOSAL,
    LAST_INTENT,
    MARKET_STATE,
    POSITION,
    RISK_PROPOSAL,
)
from quantum_core.failure import Failure
from quantum_core.freshness import CANDLES, EPOCH_MAX, PARTS, Limits, Sign, Stop, StoredProof, SymbolSigns, VitalSigns
from resources.inputs.candle_series import Candles
from resources.inputs.candles import CandleReader
from resources.inputs.foreign import number_or_none
from resources.store.failures import read_failures
from resources.store.redis_store import RedisStore, pairs

CLOCK = "last_update_epoch"
NEWEST_CANDLE = "ts_timestamp"  # of a market state: close of the newest candle it was computed from
CLOCKED = (MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL, CAPITAL_EFFICIENCY, ALLOCATION_TARGET, LAST_INTENT, GOVERNOR_STATE)
STOP_FIELDS = ("position_side", "proposed_sl", "position_current_price", "position_entry_price", "sl_breached")
POSITION_FIELDS = ("mark_price", "conflict_until_epoch", "trouble")
FAILING = (MARKET_STATE.asset, POSITION.asset, RISK_PROPOSAL.asset, HARVEST_PROPOSAL.asset)  # whose failures are causes of alerts
PROOF_RUN = b"_run"  # field of the proofs that describes the last run, not a proof
ANY_AGE_SEC = 10**12  # the candle reader must report the age of old candles, not refuse them

Reply = Any  # what the server answers to one command, or its exception


class VitalSignsReader:
    """Reads the vital signs of all symbols of the settings.

    Parameters
    ----------
    store
        Where from, and whose clock counts.
    shown
        Asset to fields that are read beside its clock, for who wants to show them.
    by_state
        Whether candles count as being as new as the newest one a market state was computed from, as long as that one is fresh
        itself: they were there. Only the candles of other symbols are read, which costs as much as everything else together.
    """

    def __init__(self, store: RedisStore, shown: Mapping[str, Sequence[str]] | None = None, *, by_state: bool = False) -> None:
        self.store, self.shown, self.by_state = store, dict(shown or {}), by_state
        if by_state:
            self.shown[MARKET_STATE.asset] = (*self.shown.get(MARKET_STATE.asset, ()), NEWEST_CANDLE)
        patient = store.settings.model_copy(update={"candle_stale_margin_sec": ANY_AGE_SEC})
        self.candles = CandleReader(RedisStore(patient, store.clock, store.client))
        self._commands = self._one_read()

    def read(self, *, with_failures: bool = True) -> VitalSigns:
        """Read them once.

        Parameters
        ----------
        with_failures
            Whether what could not be computed is read, too; ages alone are judged without it.

        Raises
        ------
        RedisUnavailableError
            The server is away.
        """
        symbols = self.store.settings.symbols
        replies = self.store.run("reading vital signs", self._commands)
        first, per_symbol = len(PARTS) + 1, 2 + len(CLOCKED)
        heartbeats = {part: sign_of(reply) for part, reply in zip(PARTS, replies[: len(PARTS)], strict=True)}
        now = self.store.clock().timestamp()
        proofs, finished = _proofs(replies[len(PARTS)], now)
        signs = [
            _symbol_signs(symbol, replies[begin : begin + per_symbol], self.shown, now)
            for symbol, begin in zip(symbols, range(first, len(replies), per_symbol), strict=True)
        ]
        self._add_candles(signs)
        return VitalSigns(signs, heartbeats, proofs, finished, self._failures() if with_failures else {})

    def _failures(self) -> dict[str, dict[str, Failure]]:
        """Give what cannot be computed, by symbol and asset."""
        by_symbol: dict[str, dict[str, Failure]] = {}
        for asset, failures in read_failures(self.store, FAILING).items():
            for symbol, failure in failures.items():
                by_symbol.setdefault(symbol, {})[asset] = failure
        known = set(self.store.settings.symbols)
        return {symbol: failures for symbol, failures in by_symbol.items() if symbol in known}

    def _one_read(self) -> list[tuple[Any, ...]]:
        of = self.store.keys.of
        commands: list[tuple[Any, ...]] = [("GET", of("heartbeat", part)) for part in PARTS]
        commands.append(("HGETALL", of("proofs")))
        for symbol in self.store.settings.symbols:
            commands.append(("HMGET", of(POSITION.key, symbol), "held", CLOCK, *POSITION_FIELDS))
            commands.append(("EXISTS", of("base_target", symbol)))
            commands += [("HMGET", of(table.key, symbol), CLOCK, *self._fields_beside(table)) for table in CLOCKED]
        return commands

    def _fields_beside(self, table: Table) -> tuple[str, ...]:
        return (*self.shown.get(table.asset, ()), *(STOP_FIELDS if table is RISK_PROPOSAL else ()))

    def _add_candles(self, signs: Sequence[SymbolSigns]) -> None:
        """Add when the newest candle of each symbol closed; symbols whose candles carry no time are left out."""
        if self.store.settings.marketstate_source == "synthetic":
            return
        limits, now = Limits.of(self.store.settings), self.store.clock().timestamp()
        unread = []
        for symbol_signs in signs:
            newest = symbol_signs.numbers.get(MARKET_STATE.asset, {}).get(NEWEST_CANDLE, 0.0)
            if self.by_state and -limits.candle_ahead_sec <= now - newest <= limits.candles_sec:
                symbol_signs.clocks[CANDLES] = Sign(newest)
            else:
                unread.append(symbol_signs)
        readings = self.candles.read([symbol_signs.symbol for symbol_signs in unread], window=1) if unread else []
        for symbol_signs, reading in zip(unread, readings, strict=True):
            if (sign := _candle_sign(reading)) is not None:
                symbol_signs.clocks[CANDLES] = sign


def _symbol_signs(symbol: str, replies: Sequence[Reply], shown: Mapping[str, Sequence[str]], now: float) -> SymbolSigns:
    position, target, *clocked = replies
    clocks = {
        table.asset: sign_of(reply if isinstance(reply, Exception) else reply[0])
        for table, reply in zip(CLOCKED, clocked, strict=True)
    }
    held, clocks["position"] = _position(position)
    mark, trouble = _doubt(position, now)
    numbers = {
        table.asset: _numbers(shown[table.asset], reply)
        for table, reply in zip(CLOCKED, clocked, strict=True)
        if table.asset in shown
    }
    stop = _stop(clocked[CLOCKED.index(RISK_PROPOSAL)], clocks[RISK_PROPOSAL.asset].epoch)
    if stop is not None and mark is not None:
        stop = stop._replace(price=mark)  # of now, also while it is held back and nothing is published
    return SymbolSigns(symbol, clocks, held, target == 1, numbers, stop, trouble)


def _doubt(reply: Reply, now: float) -> tuple[float | None, str]:
    """Read the mark of a held position, and why nothing is opened on it; of one that is not held only a conflict counts."""
    if isinstance(reply, Exception):
        return None, ""
    held, _, mark, until, trouble = reply
    if held == b"1":
        return number_or_none(mark) if mark else None, (trouble or b"").decode(errors="replace")
    conflict = (number_or_none(until) if until else None) or 0.0
    return None, (trouble or b"").decode(errors="replace") if now < conflict else ""


def _stop(reply: Reply, evaluated_at: float | None) -> Stop | None:
    """Read the stop of a risk proposal; one that is not whole says nothing."""
    if isinstance(reply, Exception) or evaluated_at is None:
        return None
    side, *prices, breached = reply[-len(STOP_FIELDS) :]
    numbers = [number for text in prices if text is not None and (number := number_or_none(text)) is not None]
    if side not in (b"LONG", b"SHORT") or breached not in (b"0", b"1") or len(numbers) < len(prices):
        return None
    stop, price, entry = numbers
    return Stop(side.decode(), stop, price, entry, breached == b"1", evaluated_at)


def _numbers(names: Sequence[str], reply: Reply) -> dict[str, float]:
    """Read numbers; what is missing or no number is left out."""
    found = zip(names, () if isinstance(reply, Exception) else reply[1:], strict=False)
    return {name: number for name, text in found if text is not None and (number := number_or_none(text)) is not None}


def _position(reply: Reply) -> tuple[bool | None, Sign]:
    if isinstance(reply, Exception):
        return None, Sign(trouble=str(reply))
    held, clock = reply[:2]
    if held is None and clock is None:
        return False, Sign()
    if held not in (b"0", b"1"):
        return None, Sign(trouble=f"held is {_value_text(held)}, accepted: 0 or 1")
    return held == b"1", sign_of(clock) if clock is not None else Sign(trouble=f"{CLOCK} is missing")


def sign_of(reply: Reply) -> Sign:
    """Read a clock, epoch s."""
    if reply is None:
        return Sign()
    if isinstance(reply, Exception):
        return Sign(trouble=str(reply))
    epoch = number_or_none(reply)
    if epoch is not None and not 0 <= epoch < EPOCH_MAX:
        epoch = None
    return Sign(trouble=f"{_value_text(reply)} is no time") if epoch is None else Sign(epoch)


def _value_text(value: bytes | None) -> str:
    return "missing" if value is None else repr(value.decode(errors="replace"))


def _candle_sign(reading: Reading[Candles]) -> Sign | None:
    if reading.value is None:
        return Sign() if reading.reason == "candles_missing" else Sign(trouble=reading.reason)
    return Sign(reading.value.newest_epoch_sec) if reading.value.newest_epoch_sec else None


def _proofs(reply: Reply, now: float) -> tuple[list[StoredProof], Sign]:
    if isinstance(reply, Exception):
        return [], Sign(trouble=str(reply))
    fields = pairs(reply)
    run = fields.pop(PROOF_RUN, None)
    proofs = [_proof(title.decode(errors="replace"), text, now) for title, text in fields.items()]
    if run is None:
        return proofs, Sign()
    try:
        return proofs, Sign(_time(orjson.loads(run)["finished_at"]))
    except (ValueError, TypeError, KeyError) as error:
        return proofs, Sign(trouble=f"{PROOF_RUN.decode()}: {type(error).__name__}: {error}")


def _time(value: object) -> float:
    """Read a time, epoch s."""
    epoch = number_or_none(value)
    if epoch is None or not 0 <= epoch < EPOCH_MAX:
        msg = f"{value!r} is no time"
        raise ValueError(msg)
    return epoch


def _proof(title: str, text: bytes, now: float) -> StoredProof:
    """Read one verdict; one that cannot be read has failed, like a proof that could not be evaluated."""
    try:
        verdict = orjson.loads(text)
        return StoredProof(
            title,
            passed=verdict["passed"] is True,
            severity="WARN" if verdict["severity"] == "WARN" else "ERROR",
            evaluated_at=_time(verdict["evaluated_at"]),
            failing={str(name): str(what) for name, what in verdict["failing"].items()},
            per_symbol=verdict["per_symbol"] is True,
            observed=str(verdict["observed"]),
            threshold=str(verdict["threshold"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return StoredProof(title, passed=False, evaluated_at=now, observed=f"unreadable: {type(error).__name__}: {error}")
