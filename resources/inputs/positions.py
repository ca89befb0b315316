"""Open positions as their writers give them: from the hash, else from the execution streams, else (only when allowed) synthetic.

Here belongs where a snapshot comes from; what makes one valid is in :mod:`resources.inputs.position_parsing`. What no writer
supplies (peaks, age, stop in force over time) is kept by the asset ``position``. A read that failed ends there: it never falls
through to the next source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from quantum_core.contracts import legs
from quantum_core.contracts.reading import ENTRY_BYTES_MAX, Reading, State
from quantum_core.contracts.tables import POSITION
from quantum_core.kernels.position.contract import BASE_UNITS, Contract
from quantum_core.kernels.position.tracking import TrackingTheta
from resources.inputs.foreign import json_of, number_or_none, parse_entry_id
from resources.inputs.position_parsing import FLAT, MARK_NAMES, Fields, first_given, leg_fields, parse_position
from resources.inputs.position_snapshots import Flat, InvalidPositionError, RawPosition, synthetic_position
from resources.store.redis_store import RedisStore, pairs, texts

STREAM_ENTRIES_READ = 100  # docs/spec.md#5-sources: newest per stream
STREAMS = ("stream_execution", "stream_execution_result")


class PositionReader:
    """Reads positions by the settings of a store.

    Parameters
    ----------
    store
        Server, key names, clock and settings.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store

    def read(self, symbols: Sequence[str]) -> list[Reading[RawPosition]]:
        """Read one open position per symbol; a flat one is ``absent`` with ``flat``, see :meth:`snapshots`."""
        return [
            Reading.absent(one.symbol, "flat")
            if isinstance(one.value, Flat)
            else Reading(one.symbol, one.state, one.value, one.reason)
            for one in self.snapshots(symbols)
        ]

    def snapshots(self, symbols: Sequence[str], now: datetime | None = None) -> list[Reading[RawPosition | Flat]]:
        """Read one snapshot per symbol, open or flat, from the sources POSITION_SOURCE allows.

        Parameters
        ----------
        symbols
            In the order of the result.
        now
            When; the store's clock unless a decision has a moment of its own.

        Returns
        -------
        list of Reading
            ``absent`` with ``no_position`` when no source shows the symbol, which is flat only where POSITION_ABSENT says so;
            ``failed`` with ``position_invalid: <field>=<value>`` or ``position_unreadable: <detail>``. One round trip for the
            hashes, one for the streams when they are needed.

        Raises
        ------
        RedisUnavailableError
            The server is away.

        References
        ----------
        docs/spec.md#5-sources
        """
        source, at = self.store.settings.position_source, (now or self.store.clock()).timestamp()
        readings: dict[str, Reading[RawPosition | Flat]] = {}
        showing_other_leg: dict[str, Fields] = {}
        if source in ("auto", "redis_hash"):
            readings |= self._from_hashes(symbols)
            if hedged := [symbol for symbol in symbols if legs.leg_of(symbol) and symbol not in readings]:
                shared, showing_other_leg = self._from_shared_hashes(hedged)
                readings |= shared
        unread = [symbol for symbol in symbols if symbol not in readings]
        if source in ("auto", "redis_stream") and unread:
            readings |= self._from_streams(unread)
        for leg, remembered in self._from_memory(showing_other_leg, at).items():
            reading = readings.get(leg)
            if reading is None or (reading.value is not None and _is_older(reading.value, remembered)):
                readings[leg] = remembered
        if source == "synthetic" or (source == "auto" and self.store.settings.allow_synthetic):
            readings |= {
                symbol: Reading.present(
                    symbol,
                    Flat(symbol, at, "synthetic") if legs.leg_of(symbol) == "SHORT" else synthetic_position(symbol, at),
                )
                for symbol in symbols
                if symbol not in readings
            }
        if self.store.settings.position_absent == "flat":
            readings |= {symbol: Reading.present(symbol, Flat(symbol, at)) for symbol in symbols if symbol not in readings}
        return [readings.get(symbol) or Reading.absent(symbol, "no_position") for symbol in symbols]

    def _from_hashes(self, symbols: Sequence[str]) -> dict[str, Reading[RawPosition | Flat]]:
        readings = {}
        for raw in self.store.read_raw("raw_position", symbols):
            if raw.state is State.FAILED:
                detail = raw.reason.partition(": ")[2]
                readings[raw.symbol] = Reading[RawPosition | Flat].failed(raw.symbol, f"position_unreadable: {detail}")
            elif raw.value is not None:
                readings[raw.symbol] = _parsed(
                    raw.symbol, raw.value, "redis_hash", keyed=True, contract=self.store.settings.contract_of(raw.symbol)
                )
        return readings

    def _from_shared_hashes(self, hedged: Sequence[str]) -> tuple[dict[str, Reading[RawPosition | Flat]], dict[str, Fields]]:
        """Read the one hash of a symbol for whichever of its legs it shows.

        Returns
        -------
        readings, showing_other_leg
            The legs that are shown, or of which nobody can know whether they are; and the hashes that show the other leg.
        """
        readings: dict[str, Reading[RawPosition | Flat]] = {}
        showing_other_leg: dict[str, Fields] = {}
        markets = legs.underlyings(hedged)
        raw_of = dict(zip(markets, self.store.read_raw("raw_position", markets), strict=True))
        for leg in hedged:
            raw = raw_of[legs.underlying(leg)]
            if raw.state is State.FAILED:
                detail = raw.reason.partition(": ")[2]
                readings[leg] = Reading[RawPosition | Flat].failed(leg, f"position_unreadable: {detail}")
            elif raw.value is not None:
                fields = _stripped(raw.value)
                try:
                    shown = leg_fields(leg, fields)
                except InvalidPositionError as error:
                    readings[leg] = Reading[RawPosition | Flat].failed(leg, f"position_invalid: {error}")
                    continue
                if shown is None:
                    showing_other_leg[leg] = fields
                else:
                    readings[leg] = _parsed(leg, raw.value, "redis_hash", contract=self.store.settings.contract_of(leg))
        return readings, showing_other_leg

    def _from_memory(self, showing_other_leg: Mapping[str, Fields], now: float) -> dict[str, Reading[RawPosition | Flat]]:
        """Give legs as they were last shown, where the one hash of the symbol shows the other leg now.

        A writer that puts both legs under one key in turn has not closed the one it does not show at the moment. The mark is the
        other leg's, which has the same market; the clock stays that of the leg's own snapshot, which grows old as any does.
        """
        # Not from quantum:position:memory:<leg>: that remembers the key, not the position. It outlives a flat, which deletes
        # the tracked row, and keeps a state only of a side that was left, which no leg ever does. The row has what a position
        # is now, once, for the gates and the proofs, too.
        if not showing_other_leg:
            return {}
        limit_sec = self.store.settings.position_max_age_sec
        readings = {}
        for tracked in self.store.read(POSITION, list(showing_other_leg)):
            if tracked.state is State.FAILED:
                readings[tracked.symbol] = Reading[RawPosition | Flat].failed(
                    tracked.symbol, f"position_unreadable: {tracked.reason}"
                )
            elif tracked.value is not None and now - tracked.value["position_ts_epoch"] <= limit_sec:
                actual = self.store.profile.theta(TrackingTheta, tracked.symbol).sl_ratchet == "actual"
                position = _remembered(tracked.value, showing_other_leg[tracked.symbol], leg=tracked.symbol, with_stop=actual)
                readings[tracked.symbol] = Reading[RawPosition | Flat].present(tracked.symbol, position)
        return readings

    def _from_streams(self, symbols: Sequence[str]) -> dict[str, Reading[RawPosition | Flat]]:
        stream_keys = [self.store.keys.of(name) for name in STREAMS]
        replies = self.store.run(
            "reading positions from streams",
            [("XREVRANGE", name, "+", "-", "COUNT", STREAM_ENTRIES_READ) for name in stream_keys],
        )
        for name, reply in zip(stream_keys, replies, strict=True):
            if isinstance(reply, Exception):  # the newest snapshot of any symbol may be the one that cannot be read
                reason = f"position_unreadable: {name}: {reply}"
                return {symbol: Reading[RawPosition | Flat].failed(symbol, reason) for symbol in symbols}
        requested = set(symbols)
        hedged = {legs.underlying(symbol) for symbol in symbols if legs.leg_of(symbol)}
        newest: dict[str, tuple[tuple[int, int], dict[bytes, bytes], str]] = {}
        of_nobody = ""
        for stream, entry_id, raw_fields in (
            (name, *entry) for name, reply in zip(stream_keys, replies, strict=True) for entry in reply
        ):
            fields, trouble = _unpacked(raw_fields)
            if trouble:
                trouble = f"position_unreadable: {stream} entry {entry_id.decode()}: {trouble}"
            symbol, moment = fields.get(b"symbol", b"").decode(errors="replace"), parse_entry_id(entry_id.decode())
            if trouble and not symbol:
                of_nobody = of_nobody or trouble
            for name in _shown_legs(symbol, fields) if symbol in hedged else (symbol,):
                if name in requested and (trouble or _is_snapshot(fields)) and (name not in newest or moment >= newest[name][0]):
                    newest[name] = (moment, fields, trouble)
        # A broken entry that names nobody may be the only word about any symbol that is found nowhere else.
        failed = {symbol: Reading[RawPosition | Flat].failed(symbol, of_nobody) for symbol in symbols if of_nobody}
        return failed | {
            symbol: Reading[RawPosition | Flat].failed(symbol, trouble)
            if trouble
            else _parsed(
                symbol,
                fields,
                "redis_stream",
                ts_epoch=moment[0] / 1000,
                contract=self.store.settings.contract_of(symbol),
            )
            for symbol, (moment, fields, trouble) in newest.items()
        }


def _stripped(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name: value.strip() for name, value in texts(raw).items()}


def _is_older(shown: RawPosition | Flat, remembered: Reading[RawPosition | Flat]) -> bool:
    """Whether a stream shows an older state of a leg than the hash did when it last showed it."""
    kept = remembered.value
    return kept is not None and kept.ts_epoch is not None and (shown.ts_epoch or 0.0) < kept.ts_epoch


def _shown_legs(symbol: str, fields: Mapping[bytes, bytes]) -> Sequence[str]:
    """Name the legs a stream entry of a hedged symbol may be about: both, where it does not say which."""
    try:
        return [leg for leg in legs.legs_of(symbol) if leg_fields(leg, _stripped(fields)) is not None]
    except InvalidPositionError:
        return legs.legs_of(symbol)


def _remembered(row: Mapping[str, Any], other: Fields, *, leg: str, with_stop: bool) -> RawPosition:
    """Give a tracked leg as a snapshot, at the mark the other leg shows."""
    direction, price = 1 if row["side"] == "LONG" else -1, row["current_price"]
    name = first_given(other, MARK_NAMES)
    shown = number_or_none(other[name]) if name else None
    mark = shown if shown is not None and shown > 0 else price
    return RawPosition(
        symbol=leg,
        side=row["side"],
        entry_price=row["entry_price"],
        current_price=mark,
        unrealized_pnl=row["unrealized_pnl"] + (mark - price) * direction * (row["qty"] or 1.0),
        qty=row["qty"],
        contracts=row["contracts"],
        ts_epoch=row["position_ts_epoch"],
        opened_at_epoch=row["opened_at_epoch"],
        current_sl=row["current_sl"] if with_stop else None,
        current_tp=row["current_tp"],
        position_source=row["position_source"],
    )


def _parsed(
    symbol: str,
    raw: Mapping[bytes, bytes],
    source: str,
    *,
    ts_epoch: float | None = None,
    keyed: bool = False,
    contract: Contract = BASE_UNITS,
) -> Reading[RawPosition | Flat]:
    try:
        fields: Fields = _stripped(raw)
        if legs.leg_of(symbol):
            fields = leg_fields(symbol, fields, keyed=keyed) or fields
        position = parse_position(symbol, fields, source, ts_epoch=ts_epoch, contract=contract)
    except InvalidPositionError as error:
        return Reading.failed(symbol, f"position_invalid: {error}")
    return Reading.present(symbol, position)


def _unpacked(raw_fields: Any) -> tuple[dict[bytes, bytes], str]:
    """Give the fields of a stream entry, those of its JSON ``payload`` on top, and what is wrong with the payload."""
    fields = pairs(raw_fields)
    text = fields.pop(b"payload", b"{}")
    if len(text) > ENTRY_BYTES_MAX:
        return fields, f"payload is larger than {ENTRY_BYTES_MAX} bytes"
    try:
        payload = json_of(text)
        if not isinstance(payload, dict):
            return fields, "payload is not a JSON object"
        inside = {name.encode(): str(value).encode() for name, value in payload.items() if value is not None}
    except (ValueError, RecursionError) as error:  # a lone surrogate or an endless number is a ValueError too
        return fields, f"payload: {error}"
    return fields | inside, ""


def _is_snapshot(fields: Mapping[bytes, bytes]) -> bool:
    """Whether an entry is a position, not one of the plain fills that share its stream."""
    return b"entry_price" in fields or fields.get(b"side", b"").upper() == FLAT.encode()
