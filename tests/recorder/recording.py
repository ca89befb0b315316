"""A desk that lives for a while: moving marks, new candles, positions that turn, end and come back; and what it leaves on record."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_core.settings import load_settings
from resources.instance.home import open_instance, prepare_home
from resources.recorder import records
from resources.recorder.archive import Archive, Position
from resources.store.redis_store import RedisStore, pairs
from tests.conftest import Clock, be_patient
from tests.world import (
    real_closes,
    run_cycle,
    write_attribution,
    write_candles,
    write_efficiency,
    write_equity,
    write_plan,
    write_position,
    write_target,
)

STEP_SEC = 10


def somebody_records(store: RedisStore) -> None:
    """Let a recorder have reported."""
    store.client.hset(store.keys.of("recorder_state"), "host", "here")


class Desk:
    """Writes what the other programs write, one cycle after the other, from a seed."""

    def __init__(self, store: RedisStore, clock, seed: int = 1) -> None:
        self.store, self.clock, self.rng = store, clock, np.random.default_rng(seed)
        somebody_records(store)
        self.symbols = store.settings.symbols
        self.closes = {symbol: real_closes(symbol) for symbol in self.symbols}
        self.sides = dict.fromkeys(self.symbols, "LONG")
        self.entries = {symbol: closes[-1] * 0.99 for symbol, closes in self.closes.items()}
        self.marks = {symbol: closes[-1] for symbol, closes in self.closes.items()}
        self.cycles = 0
        for symbol in self.symbols:
            write_candles(store, symbol, self.closes[symbol])
        self.write()

    def write(self) -> None:
        """Write positions, targets, efficiencies and the account as they are now."""
        for symbol in self.symbols:
            write_position(self.store, symbol, side=self.sides[symbol], entry=self.entries[symbol], mark=self.marks[symbol])
            write_target(self.store, symbol, usd=float(self.rng.integers(500, 1500)))
            write_efficiency(self.store, symbol, score=float(self.rng.uniform(0.2, 1)))
            write_attribution(self.store, symbol, factor=float(self.rng.uniform(-0.2, 1)))
        write_equity(self.store, equity=float(self.rng.uniform(9_500, 10_500)), peak=10_500.0)

    def advance(self) -> None:
        """Let ten seconds pass."""
        self.cycles += 1
        self.clock.advance(STEP_SEC)
        for symbol in self.symbols:
            self.marks[symbol] *= float(np.exp(self.rng.normal(0, 0.0008)))
            chance = self.rng.random()
            if chance < 0.03:
                self.sides[symbol] = {"LONG": "SHORT", "SHORT": "FLAT", "FLAT": "LONG"}[self.sides[symbol]]
                self.entries[symbol] = self.marks[symbol]
        if self.cycles % 6 == 0:
            now_ms = int(self.clock().timestamp() * 1000)
            for symbol in self.symbols:
                if self.rng.random() < 0.95:  # now and then an exchange is late
                    self.add_candle(symbol, now_ms)
        if self.rng.random() < 0.2:
            symbol = str(self.rng.choice(self.symbols))
            write_plan(self.store, f"p{self.cycles}", symbol, action="CLOSE", timestamp=self.clock().timestamp())
        if self.rng.random() < 0.5:
            fill = {
                "symbol": str(self.rng.choice(self.symbols)),
                "pnl_usd": float(self.rng.normal(0, 20)),
                "trade_id": self.cycles,
            }
            self.store.client.xadd(self.store.keys.of("stream_execution"), fill)
        self.write()

    def add_candle(self, symbol: str, now_ms: int) -> None:
        """Close a minute."""
        close = self.marks[symbol]
        opened = now_ms - 60_000
        candle = {
            "open_time": opened, "open": close, "high": close * 1.001, "low": close * 0.999, "close": close, "volume": 1.0,
            "close_time": now_ms - 1, "is_closed": True,
        }  # fmt: skip
        self.store.client.zadd(self.store.keys.of("candles_history", symbol), {json.dumps(candle): opened})


def lived(folder: Path, url: str, cycles: int, **settings_given: str) -> Path:
    """Let a desk live for some cycles on an emptied server, and give the folder with its archive."""
    settings = load_settings(redis_url=url, quantum_home=folder / "home", **settings_given)
    clock = Clock()
    store = RedisStore(settings, clock)
    store.client.flushdb()
    desk = Desk(store, clock)
    prepare_home(settings)
    with pytest.MonkeyPatch.context() as monkeypatch, open_instance(settings) as instance:
        be_patient(monkeypatch)
        for _ in range(cycles):
            desk.advance()
            run_cycle(store, instance)
    archived(store, folder)
    store.client.close()
    return folder


def archived(store: RedisStore, folder: Path) -> Archive:
    """Write what the stream of records holds into an archive."""
    archive = Archive(folder / "recorder")
    tables: dict[str, list[pl.DataFrame]] = {}
    rows = []
    for _, fields in store.client.xrange(store.keys.of("stream_recorder")):
        record = records.read(pairs(fields))
        rows.append(record.row)
        for name, frame in record.tables.items():
            tables.setdefault(name, []).append(frame)
    tables["records"] = [pl.DataFrame(rows).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))]
    joined = {name: pl.concat(frames, how="diagonal_relaxed") for name, frames in tables.items()}
    day = datetime.fromtimestamp(store.clock().timestamp(), UTC).date()
    archive.write(joined, Position(flush=1, seq=len(rows), day=str(day)))
    return archive


def tables_with_rows(archive: Archive) -> set[str]:
    """Name the assets that have rows in an archive."""
    return set(archive.tables()) & set(PUBLISHED_TABLES)
