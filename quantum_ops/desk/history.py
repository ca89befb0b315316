"""The last hours of one symbol, for its picture: prices from its candles, stops and regimes from Dagster's event log.

Nothing is recorded for it: every publication is a materialization already, with its stop and its probabilities. It is read while
somebody looks, and only then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from quantum_core.contracts.tables import MARKET_STATE, RISK_PROPOSAL
from quantum_ops.desk.chart import Level, Mix, Point, price_chart
from quantum_ops.desk.rows import Row
from resources.inputs.candle_series import Candles
from resources.inputs.candles import CandleReader
from resources.store.redis_store import RedisStore

CANDLES_SHOWN = 240
RECORDS_MAX = 400  # newest publications read: at one a minute, the usual pace, more than the hours shown
SHORTEST_SEC = 180.0  # shown at least, however young the recording is
SAME_STOP = 1e-5  # relative; prices beside a materialization are rounded
_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?")


@dataclass(frozen=True)
class History:
    """The last hours of one symbol.

    Attributes
    ----------
    prices
        Epoch s and price, oldest first: closes; of replayed candles, whose times are shifted with each one, the prices at which
        the proposals were made.
    proposals, mixes
        What was published, oldest first.
    since
        From when on it is shown, epoch s.
    note
        What it shows, or why it shows nothing.
    """

    prices: Sequence[tuple[float, float]] = ()
    proposals: Sequence[Point] = ()
    mixes: Sequence[Mix] = ()
    since: float = 0.0
    note: str = ""

    def chart(self, row: Row, now: float) -> str:
        """Draw it with the levels that hold now."""
        named = (
            ("target", row.target),
            ("price", row.price),
            ("entry", row.entry),
            ("stop", row.stop),
            ("profit lock", row.new_stop),
        )
        levels = [Level(name, value) for name, value in named if value is not None]
        return price_chart(self.prices, self.proposals, self.mixes, levels, since=self.since, until=now)

    def stop_since(self, row: Row) -> float | None:
        """Give the time since which the stop is where it is, epoch s; ``None`` without a stop."""
        since = row.stop_published
        if row.stop is None:
            return None
        for point in reversed(self.proposals):
            if point.stop is None or abs(point.stop / row.stop - 1) > SAME_STOP:
                break
            since = point.epoch if since is None else min(since, point.epoch)
        return since


def read_history(store: RedisStore, instance: dg.DagsterInstance, symbol: str) -> History:
    """Read it; what cannot be read is left out, and named.

    Raises
    ------
    RedisUnavailableError
        Redis is away.
    """
    (reading,) = CandleReader(store).read([symbol], window=CANDLES_SHOWN)
    try:
        stops, states = (
            _published(instance, store.settings.asset_path(table.asset), symbol) for table in (RISK_PROPOSAL, MARKET_STATE)
        )
        proposals = [_point(*record) for record in stops]
        mixes = [mix for record in states if (mix := _mix(*record)) is not None]
        missing = ""
    except (SQLAlchemyError, dg.DagsterError, OSError) as error:
        proposals, mixes = [], []
        missing = f"; without the path of the stop: Dagster's event log cannot be read ({type(error).__name__})"
    now = store.clock().timestamp()
    recorded = [(point.epoch, point.price) for point in proposals if point.price is not None]
    candles = reading.value
    if candles is None:
        return History(
            recorded, proposals, mixes, _since(recorded, now), f"Price at each proposal; no candles: {reading.reason}{missing}"
        )
    if candles.source == "replay" and len(recorded) > 1:
        note = "Price at each proposal, with the path of stop and target (replayed candles have no times of their own)"
        return History(recorded, proposals, mixes, _since(recorded, now), note)
    closes = _closes(candles, store.settings.candle_interval_sec)
    if not closes:
        return History((), proposals, mixes, now, f"The candles carry no times: no picture{missing}")
    return History(closes, proposals, mixes, closes[0][0], f"Closes, with the path of stop and target{missing}")


def _since(recorded: Sequence[tuple[float, float]], now: float) -> float:
    return min(recorded[0][0] if recorded else now, now - SHORTEST_SEC)


def _closes(candles: Candles, interval_sec: float) -> list[tuple[float, float]]:
    if not (candles.open_time_ms > 0).all():
        return []
    usable = np.isfinite(candles.close) & (candles.close > 0)
    times = candles.open_time_ms[usable] / 1000 + interval_sec
    return list(zip(times.tolist(), candles.close[usable].tolist(), strict=True))


def _published(instance: dg.DagsterInstance, asset: Sequence[str], symbol: str) -> list[tuple[float, Mapping[str, Any]]]:
    """Give time and metadata of the newest materializations of one symbol, oldest first."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[symbol])
    records = instance.fetch_materializations(wanted, limit=RECORDS_MAX).records
    return [
        (record.timestamp, {name: value.value for name, value in record.asset_materialization.metadata.items()})
        for record in reversed(records)
        if record.asset_materialization is not None
    ]


def _point(epoch: float, metadata: Mapping[str, Any]) -> Point:
    return Point(epoch, *_numbers(metadata, ("position_current_price", "proposed_sl", "proposed_tp")))


def _mix(epoch: float, metadata: Mapping[str, Any]) -> Mix | None:
    trend, mr, chop = _numbers(metadata, ("p_trend", "p_mr", "p_chop"))
    return None if trend is None or mr is None or chop is None else Mix(epoch, trend, mr, chop)


def _numbers(metadata: Mapping[str, Any], names: Iterable[str]) -> list[float | None]:
    """Read numbers, also those that are written for people, with thousands and a unit."""
    found: list[float | None] = []
    for name in names:
        value = metadata.get(name)
        match = _NUMBER.match(value) if isinstance(value, str) else None
        found.append(float(match.group().replace(",", "")) if match else value if isinstance(value, float) else None)
    return found
