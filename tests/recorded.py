"""An archive of real cycles: what they have published is read back from Redis and written as the recorder writes it."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from quantum_core.contracts.tables import CAPITAL_EFFICIENCY, POSITION, PUBLISHED
from resources.inputs.candles import CandleReader
from resources.inputs.positions import PositionReader
from resources.recorder.archive import Archive, Position
from resources.recorder.reading import archive_of
from resources.store.redis_store import RedisStore, texts
from tests.world import run_cycle

TIME = pl.Datetime("us", "UTC")
STAMPS = {"seq": pl.Int64, "cycle_id": pl.String, "at": TIME}


class Tape:
    """Runs cycles of a world and keeps what they publish.

    Parameters
    ----------
    store, instance
        The world.
    """

    def __init__(self, store: RedisStore, instance: dg.DagsterInstance) -> None:
        self.store, self.instance = store, instance
        self.archive: Archive = archive_of(store.settings)
        self.seq = 0
        self._published: dict[tuple[str, str], datetime] = {}
        self._candles: dict[str, int] = {}
        self._entries: dict[str, bytes] = {}

    def cycle(self, **more: Sequence[Mapping[str, Any]]) -> datetime:
        """Run one cycle and write one flush of what it published; more rows by table. Give the time of its inputs."""
        at = self.store.clock()
        run_cycle(self.store, self.instance)
        self.seq += 1
        tables = {table.asset: frame for table in PUBLISHED if len(frame := self._rows(table, at))}
        tables |= {"candles": self._new_candles(at), "raw_positions": self._positions(at)}
        tables |= {"decisions": self._stream("stream_governor_events"), "plans": self._stream("stream_plans")}
        tables |= {name: self.stamped(rows, at) for name, rows in more.items()}
        self.flush(tables, at.date())
        return at

    def flush(self, tables: Mapping[str, pl.DataFrame], day: date) -> None:
        """Write one flush into a day."""
        position = self.archive.position()
        self.archive.write(tables, Position(flush=position.flush + 1, seq=self.seq, day=str(day)))

    def stamped(self, rows: Sequence[Mapping[str, Any]], at: datetime) -> pl.DataFrame:
        """Build rows with what the recorder adds to each."""
        own = pl.DataFrame([dict(row) for row in rows], infer_schema_length=None)
        stamps = [pl.lit(self.seq, pl.Int64).alias("seq"), pl.lit(f"t{self.seq}").alias("cycle_id")]
        return own.select(*stamps, pl.lit(at, TIME).alias("at"), *own.columns)

    def _rows(self, table: Any, at: datetime) -> pl.DataFrame:
        rows = []
        for reading in (
            self.store.read(table, table.subjects(self.store.settings.symbols)) if table is not CAPITAL_EFFICIENCY else ()
        ):
            row = reading.value
            if row is None:
                continue
            last = self._published.get((table.asset, reading.symbol))
            if row["published_at_utc"] != last or table is POSITION:
                cause = "first" if last is None else "unchanged" if row["published_at_utc"] == last else "changed"
                rows.append({"seq": self.seq, "cycle_id": row["cycle_id"], "at": at, "cause": cause, **row})
                self._published[table.asset, reading.symbol] = row["published_at_utc"]
        fields = {name: item.codec.dtype for name, item in table.by_name.items() if name not in STAMPS}
        schema = {**STAMPS, "symbol": pl.String, "cause": pl.String, **fields}
        return pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema, orient="row")

    def _new_candles(self, at: datetime) -> pl.DataFrame:
        frames = []
        for reading in CandleReader(self.store).read(self.store.settings.symbols, window=300):
            candles = reading.value
            if candles is None:
                continue
            whose = {"symbol": reading.symbol, "source": candles.source, "key": candles.key}
            values = {name: getattr(candles, name) for name in ("open_time_ms", "high", "low", "close", "volume")}
            new = pl.DataFrame(values).filter(pl.col("open_time_ms") > self._candles.get(reading.symbol, -1))
            self._candles[reading.symbol] = int(candles.open_time_ms[-1])
            frames.append(new.with_columns(pl.lit(value).alias(name) for name, value in whose.items()))
        return self.stamped(pl.concat(frames).to_dicts(), at) if frames else pl.DataFrame()

    def _positions(self, at: datetime) -> pl.DataFrame:
        rows = []
        for reading in PositionReader(self.store).read(self.store.settings.symbols):
            values = {} if reading.value is None else dataclasses.asdict(reading.value)
            plain = {name: value for name, value in values.items() if not isinstance(value, dict | tuple)}
            rows.append({**plain, "symbol": reading.symbol, "state": str(reading.state), "why": reading.reason})
        return self.stamped(rows, at)

    def _stream(self, name: str) -> pl.DataFrame:
        """Read the new entries of a stream; their times are the server's, of a test those of its clock."""
        key = self.store.keys.of(name)
        entries = self.store.client.xrange(key, min=b"(" + self._entries.get(name, b"0-0"))
        if entries:
            self._entries[name] = entries[-1][0]
        now_ms = int(self.store.clock().timestamp() * 1000)
        rows = [{**texts(fields), "entry_id": f"{now_ms}-{number}"} for number, (_, fields) in enumerate(entries)]
        return pl.DataFrame(rows, infer_schema_length=None)


def days_of_rows(archive: Archive, first: date, count: int) -> None:
    """Write and compact days of a table of numbers, then open one more: what needs files and no meaning."""
    for number in range(count):
        day = first + timedelta(days=number)
        frame = pl.DataFrame(
            {"symbol": ["BTCUSDT"] * 3, "seq": [number * 3 + one for one in range(3)], "sigma": [0.1, 0.2, number]}
        )
        archive.write({"market_state": frame}, Position(flush=archive.position().flush + 1, seq=number, day=str(day)))
        archive.compact(day)
    later = first + timedelta(days=count)
    archive.write({}, Position(flush=archive.position().flush + 1, seq=count, day=str(later)))
