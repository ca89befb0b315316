"""What one step leaves for the recorder: the rows it has published, and what it has read that nobody else keeps.

Here belongs which tables a record has, and that each thing is recorded once: when it changes, and whenever nobody can know
any more what was recorded last (another process has recorded since, an entry was lost, a day has begun). A step that cannot be
recorded is computed and published as ever.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import orjson
import polars as pl
from pydantic import SecretStr

from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.schema import Table
from quantum_core.settings import Settings
from resources.inputs.candle_series import Candles
from resources.instance.range_tags import symbol_ranges
from resources.recorder.lifetimes import code_of
from resources.recorder.records import Record, append
from resources.recorder.series import COLUMNS, Series, columns_of
from resources.store.publication import Publication
from resources.store.redis_store import RedisStore

WITHOUT_RESULT = "without_result"
CANDLES, CANDLE_READINGS = "candles", "candle_readings"
SAID = ("symbol", "source", "key", "whole")  # of each recorded candle; whole: its window begins the series anew
TIE, EXACT_BELOW = 1e-4, 2.0**40  # within so much of half a unit, and above so much, text itself is asked
_DECIMALS = re.compile(r"\.(\d+)f")  # codecs of a fixed number of decimals, by name
ROOT, SOURCES = Path(__file__).resolve().parents[2], ("quantum_core", "quantum_assets", "resources")
PACKAGES = ("quantum-risk-pipeline", "dagster", "numpy", "polars", "scipy", "redis")

ASK_AGAIN_SEC = 15.0  # whether anybody records now
NOTHING = pl.DataFrame()

Row = Mapping[str, Any]
log = logging.getLogger("quantum.recorder")


@dataclass(frozen=True)
class _Taken:
    """Readings of candles that a step has made, and how."""

    readings: Sequence[Reading[Candles]]
    judged: bool  # with what else is said of them, for the market state


class Tape:
    """Collects what a step reads, and records it with what it publishes. One step at a time uses it.

    Parameters
    ----------
    store
        Where records go.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._me = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._rows: dict[str, Mapping[str, Row]] = {}
        self._candles: list[_Taken] = []
        self._facts: dict[str, Any] = {}
        self._lost, self._recorded, self._ask_at = 0, False, 0.0
        self._known: dict[tuple[str, str], Any] = {}
        self._series: dict[str, Series] = {}
        self._same: dict[tuple[str, bool], Candles] = {}
        self._rest: dict[str, dict[str, tuple[str, str]]] = {}

    def take(self, table: str, rows: Mapping[str, Row]) -> None:
        """Note what was read for some symbols; a row is recorded when it differs from the last one of its symbol."""
        self._rows[table] = rows

    def take_candles(self, readings: Sequence[Reading[Candles]], *, judged: bool = False) -> None:
        """Note candles that were read; where the market state is judged by them, all that was said of them, too."""
        self._candles.append(_Taken(readings, judged))

    def note(self, **facts: Any) -> None:
        """Note what else the step needs to be computed again: the moment it took for now."""
        self._facts |= facts

    def record(
        self,
        table: Table,
        frame: pl.DataFrame,
        outcomes: Sequence[Publication],
        *,
        slot: str,
        cycle_id: str,
        run_id: str,
        now: datetime,
    ) -> None:
        """Leave the record of one step.

        Parameters
        ----------
        table
            The contract of what it computed.
        frame
            All rows it computed, with ``state`` and ``why``.
        outcomes
            What became of those in state ``present``.
        slot
            Whose memory the record continues: who records in it after another process records everything.
        cycle_id, run_id
            Whose step it is.
        now
            When it published.
        """
        rows, candles, facts = self._rows, self._candles, self._facts
        self._rows, self._candles, self._facts = {}, [], {}
        facts = {
            "evaluated": len(frame),
            "symbols": symbol_ranges(self._store.settings.symbols, set(frame["symbol"])),
            "schema": table.schema,
            "lost_before": self._lost,
            **facts,
        }
        token = f"{self._me}:{now:%Y-%m-%d}"
        try:
            if not self._somebody_records():
                self._forget()
                return
            for full in (False, True):
                if full:
                    self._forget()
                made = {
                    table.asset: published_rows(self._store, table, frame, outcomes),
                    WITHOUT_RESULT: self._without_result(table.asset, frame, outcomes),
                    **{name: self._changed(name, found) for name, found in {**rows, **self._ran_with()}.items()},
                    **self._candle_tables(candles),
                }
                tables = {name: rows for name, rows in made.items() if len(rows)}
                record = Record(table.asset, slot, cycle_id, run_id, now.timestamp(), facts, tables, full)
                if append(self._store, record, token=token):
                    self._lost = 0
                    return
            log.warning("the record of %s (%s) was refused", table.asset, cycle_id)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here, what was published stands
            log.warning("the record of %s (%s) is missing: %s", table.asset, cycle_id, error)
        self._lost += 1  # its number was never given, so that nobody else misses it
        self._forget()

    def _somebody_records(self) -> bool:
        """Whether a recorder has reported within the last day: else records would lie in Redis for nobody."""
        if time.monotonic() >= self._ask_at:
            (found,) = self._store.run("looking for a recorder", [("EXISTS", self._store.keys.of("recorder_state"))])
            self._recorded, self._ask_at = found == 1, time.monotonic() + ASK_AGAIN_SEC
        return self._recorded

    def _forget(self) -> None:
        """Record everything again, because nobody can know what was recorded last."""
        for known in (self._known, self._series, self._same, self._rest):
            known.clear()

    def _ran_with(self) -> dict[str, Mapping[str, Row]]:
        """Give what every step computes with: packages, settings without secrets, parameters in force."""
        profile = self._store.profile
        if self._known.get(("parameters", "")) is profile:
            return {}
        self._known["parameters", ""] = profile
        return {
            "versions": {name: {"value": value} for name, value in packages().items()},
            "settings": {name: {"value": value} for name, value in open_settings(self._store.settings).items()},
            "parameters": {profile.name: {"fingerprint": profile.fingerprint, "text": profile.text()}},
        }

    def _changed(self, table: str, rows: Mapping[str, Row]) -> pl.DataFrame:
        known, news = self._known, {}
        for symbol, row in rows.items():
            before = known.get((table, symbol))
            if before != row:  # the usual row is as before; one with a NaN never is
                clean = {name: None if one != one else one for name, one in row.items()}
                if before != clean:
                    news[symbol] = clean
        if not news:
            return NOTHING
        known.update({(table, symbol): row for symbol, row in news.items()})
        return pl.DataFrame([{"symbol": symbol, **row} for symbol, row in news.items()], infer_schema_length=None)

    def _without_result(self, asset: str, frame: pl.DataFrame, outcomes: Sequence[Publication]) -> pl.DataFrame:
        rows_said = zip(*(frame[name].to_list() for name in ("symbol", "state", "why")), strict=True)
        found = {symbol: (state, why or "") for symbol, state, why in rows_said if state != State.PRESENT}
        found |= {one.symbol: (str(State.FAILED), one.error) for one in outcomes if one.error}
        known, fine = self._rest.setdefault(asset, {}), (str(State.PRESENT), "")
        symbols = frame["symbol"].to_list()
        unlike = {symbol for symbol, said in known.items() if said != fine}
        asked = found.keys() | (unlike.intersection(symbols)) | (set(symbols) - known.keys())
        rows = []
        for symbol in [one for one in symbols if one in asked]:
            state, why = found.get(symbol, fine)
            said = state, code_of(why)  # a reason that counts seconds is no other reason every time
            if known.get(symbol) != said:
                rows.append((symbol, asset, state, why))
                known[symbol] = said
        if not rows:
            return NOTHING
        schema = {"symbol": pl.String, "asset": pl.String, "state": pl.String, "why": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _candle_tables(self, taken: Sequence[_Taken]) -> dict[str, pl.DataFrame]:
        rows: dict[str, list[Any]] = {name: [] for name in (*SAID, *COLUMNS)}
        lengths: list[int] = []
        readings = []
        for one in taken:
            for reading in one.readings:
                if reading.value is not None and self._same.get((reading.symbol, one.judged)) is not reading.value:
                    self._same[reading.symbol, one.judged] = reading.value
                    news, whole = self._news(reading.symbol, reading.value)
                    if len(news[0]):
                        lengths.append(len(news[0]))
                        said = (reading.symbol, reading.value.source, reading.value.key, whole)
                        for name, value in zip(rows, (*said, *news), strict=True):
                            rows[name].append(value)
                if one.judged:
                    readings.append(_reading_row(reading))
        tables = {}
        if lengths:
            said_of_each = {name: np.repeat(np.array(rows[name], dtype=object), lengths) for name in SAID}
            columns: dict[str, Any] = {
                name: pl.Series(values.tolist(), dtype=pl.Boolean if name == "whole" else pl.String)
                for name, values in said_of_each.items()
            }
            tables[CANDLES] = pl.DataFrame(columns | {name: np.concatenate(rows[name]) for name in COLUMNS})
        if readings:
            tables[CANDLE_READINGS] = pl.DataFrame(readings, infer_schema_length=None)
        return tables

    def _news(self, symbol: str, candles: Candles) -> tuple[tuple[Any, ...], bool]:
        """Give the candles of a window that are not recorded yet, and whether they are the whole window."""
        series, window = self._series.setdefault(symbol, Series()), columns_of(candles)
        series.longest = max(series.longest, len(window[0]))
        of_another = (series.source, series.key) != (candles.source, candles.key)
        series.source, series.key = candles.source, candles.key
        if not of_another and series.holds(window):
            return tuple(column[:0] for column in window), False
        news = None if of_another else series.news(window)
        if news is None:
            series.replace(window)
            return window, True
        series.add(news)
        return news, False


_TAPES: WeakKeyDictionary[RedisStore, Tape] = WeakKeyDictionary()


def tape_of(store: RedisStore) -> Tape | None:
    """Give the tape of a store; ``None`` where nothing is recorded (RECORDER=off)."""
    if not store.settings.recorder:
        return None
    return _TAPES.setdefault(store, Tape(store)) if store not in _TAPES else _TAPES[store]


@cache
def packages() -> dict[str, str]:
    """Give the versions of what computes; ``code`` is a fingerprint of the product's own sources, whatever their version says."""
    sources = hashlib.blake2s(digest_size=8)
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            sources.update(path.read_bytes())
    return {"python": python_version(), **{name: version(name) for name in PACKAGES}, "code": sources.hexdigest()}


def published_rows(store: RedisStore, table: Table, frame: pl.DataFrame, outcomes: Sequence[Publication]) -> pl.DataFrame:
    """Give the rows a step has written, as a reader of Redis has them, each with why it was published."""
    written = {one.symbol: one.cause for one in outcomes if not one.error and (one.published or one.kept)}
    if not written:
        return NOTHING
    every = len(written) == len(frame)
    rows = frame if every else frame.filter((pl.col("state") == State.PRESENT) & pl.col("symbol").is_in(list(written)))
    symbols, profile = rows["symbol"].to_list(), store.profile
    own = profile.symbols  # those with parameters of their own: without any, all have one fingerprint
    prints = [profile.fingerprint_of(one) for one in symbols] if own else [profile.fingerprint] * len(symbols)
    return as_read(
        table,
        rows,
        cause=pl.Series([written[symbol] for symbol in symbols], dtype=pl.String),
        profile=pl.Series(prints, dtype=pl.String),
        profile_name=pl.Series([profile.name] * len(symbols), dtype=pl.String),
    )


def as_read(table: Table, rows: pl.DataFrame, **more: pl.Series) -> pl.DataFrame:
    """Give computed rows as they read back from the wire: symbol and the fields of the table, rounded as written; and more."""
    columns: dict[str, Any] = {"symbol": rows["symbol"]}
    for item in table.fields:
        values = rows[item.name] if item.name in rows.columns else pl.Series([item.before] * len(rows))
        if (digits := _DECIMALS.match(item.codec.name)) and values.dtype.is_float():
            values = rounded(values, int(digits[1]))
        if values.dtype == pl.Object:
            values = pl.Series(values.to_list(), dtype=item.codec.dtype, strict=False)
        columns[item.name] = values.cast(item.codec.dtype)
    return pl.DataFrame(columns | more)


def rounded(values: pl.Series, digits: int) -> pl.Series:
    """Round numbers exactly as writing them with so many decimals, and reading that, does."""
    numbers = values.cast(pl.Float64).to_numpy()
    scaled = numbers * 10.0**digits
    whole = np.rint(scaled)
    result = np.copysign(whole / 10.0**digits, numbers)  # of whole numbers: the double nearest to the decimal
    doubtful = ~((np.abs(scaled - np.trunc(scaled)) - 0.5 < -TIE) | (np.abs(scaled - np.trunc(scaled)) - 0.5 > TIE))
    doubtful |= ~(np.abs(whole) < EXACT_BELOW)
    for row in np.flatnonzero(doubtful & ~np.isnan(numbers)):
        result[row] = float(f"{numbers[row]:.{digits}f}")
    return pl.Series(result).set(values.is_null(), None) if values.null_count() else pl.Series(result)


def open_settings(settings: Settings) -> dict[str, str]:
    """Give the settings that are no secret, as JSON texts."""
    return {
        name: orjson.dumps(value, default=str).decode()
        for name in type(settings).model_fields
        if not isinstance(value := getattr(settings, name), SecretStr) and "url" not in name
    }


def _reading_row(reading: Reading[Candles]) -> dict[str, Any]:
    candles = reading.value
    row = {"symbol": reading.symbol, "state": str(reading.state), "why": reading.reason}
    if candles is None:
        return {**row, "count": 0, "malformed": 0, "newest_epoch_sec": 0.0, "left_out": "", "members": 0}
    left_out = orjson.dumps(dict(candles.left_out)).decode() if candles.left_out else ""
    return {
        **row,
        "count": len(candles.close),
        "malformed": candles.malformed,
        "newest_epoch_sec": float(candles.newest_epoch_sec),
        "left_out": left_out,
        "members": candles.members,
    }
