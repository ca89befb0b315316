"""What the other programs write, from one seed: markets, positions, targets, the account and plans, and all that goes wrong.

Every fault is counted by its kind. Writers have the true time; the host that computes has a clock of its own, which may step.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import orjson

from quantum_assets.simulation.memory import Memory
from quantum_core.settings import Settings

STEP_SEC, CANDLE_SEC = 10.0, 60
BEGAN = 1_769_040_000  # 2026-01-22, midnight UTC
HISTORY = 320  # candles there are at the beginning
KEPT = 400  # candles a writer keeps
SIGMA = 0.0008  # of ten seconds, as a log return
CANDLE_FAULTS = ("late", "missing", "doubled", "reordered", "contradicting", "nan", "jump", "frozen")
POSITION_FAULTS = ("late", "missing", "two sides", "nan", "negative", "other side", "flat and back", "synthetic", "x10 mark")
PLAN_FAULTS = ("doubled", "unknown symbol", "stale", "nan size")
ELSEWHERE = "NOBODYUSDT"  # a symbol of nobody


@dataclass
class Market:
    """One symbol as its exchange has it.

    Attributes
    ----------
    price
        Quote units.
    high, low
        Since the last candle closed.
    factor
        What its candles are multiplied by, until ``factor_until``, epoch s: a jump.
    frozen_until
        When its candles go on, epoch s.
    held_back
        Candles that come late: when, score and text.
    """

    price: float
    high: float = 0.0
    low: float = math.inf
    factor: float = 1.0
    factor_until: float = 0.0
    frozen_until: float = 0.0
    held_back: list[tuple[float, float, bytes]] = field(default_factory=list)


@dataclass
class Held:
    """A position as its writer has it; ``fault`` is what its snapshots suffer from until ``fault_until``, epoch s."""

    side: str
    entry: float
    qty: float
    opened_at: float
    stop: float | None = None
    fault: str = ""
    fault_until: float = 0.0


class World:
    """Everything outside of the product.

    Parameters
    ----------
    seed
        Of all that happens.
    settings
        Whose symbols live.

    Attributes
    ----------
    at
        The true time, and the server's, epoch s.
    offset
        How far the clock of the host is ahead of it, s.
    faults
        How many there were, by kind.
    plans
        Entries of the stream of plans that are not acknowledged: id to fields.
    memory
        Where all of it is written.
    """

    def __init__(self, seed: int, settings: Settings) -> None:
        self.rng = np.random.default_rng(seed)
        self.symbols = settings.symbols
        self.at = BEGAN + float(self.rng.integers(0, 86_400)) + 0.25
        self.offset = 0.0
        self.faults: Counter[str] = Counter()
        self.memory = Memory(settings, self.clock, lambda: self.at)
        self.plans: dict[str, dict[bytes, bytes]] = {}
        self._plans_made = 0
        self._recent: list[dict[str, str]] = []
        self._quiet: dict[str, float] = {}  # writers that are silent, until when
        self.markets = {symbol: Market(float(10 ** self.rng.uniform(-2, 4.5))) for symbol in self.symbols}
        self.held = {symbol: self._opened(symbol) for symbol in self.symbols}
        for symbol in self.symbols:
            self._history(symbol)
        self._write()

    def clock(self) -> datetime:
        """Give the time as the host has it."""
        return datetime.fromtimestamp(self.at + self.offset, UTC)

    def advance(self) -> None:
        """Let the time until the next cycle pass, and write all that happens in it."""
        step = STEP_SEC
        if self._happens("cycle late", 0.01):
            step = float(self.rng.integers(60, 900))
        minute = self.at // CANDLE_SEC
        self.at += step
        for symbol, market in self.markets.items():
            market.price *= float(np.exp(self.rng.normal(0, SIGMA * math.sqrt(step / STEP_SEC))))
            market.high, market.low = max(market.high, market.price), min(market.low, market.price)
            for closed in range(int(minute), int(self.at // CANDLE_SEC)):
                self._close(symbol, closed * CANDLE_SEC)
            self._deliver(symbol)
        if self._happens("clock forward", 0.01):
            self.offset += float(self.rng.integers(1, 600))
        elif self._happens("clock back", 0.01):
            self.offset -= float(self.rng.integers(1, 600))
        elif self.offset and self.rng.random() < 0.1:
            self.offset = 0.0
        self._write()

    def _happens(self, kind: str, probability: float) -> bool:
        happens = bool(self.rng.random() < probability)
        self.faults[kind] += happens
        return happens

    def _one_of(self, what: str, kinds: tuple[str, ...]) -> str:
        kind = kinds[int(self.rng.integers(len(kinds)))]
        self.faults[f"{what} {kind}"] += 1
        return kind

    # Candles.

    def _history(self, symbol: str) -> None:
        count, old = HISTORY, 0
        if self._happens("history short", 0.05):
            count = int(self.rng.integers(100, 300))
        if self._happens("history old", 0.05):
            old = int(self.rng.integers(2, 20))
        market = self.markets[symbol]
        last = int(self.at // CANDLE_SEC) - old
        closes = market.price * np.exp(np.cumsum(self.rng.normal(0, SIGMA * math.sqrt(6), count)))
        market.price = float(closes[-1])
        for minute, close in zip(range(last - count, last), closes.tolist(), strict=True):
            self._put(
                symbol, minute * CANDLE_SEC * 1000.0, self._candle(minute * CANDLE_SEC, close, close * 1.0005, close * 0.9995)
            )

    def _candle(self, opened: int, close: float | str, high: float, low: float, **more: object) -> bytes:
        candle = {
            "open_time": opened * 1000, "open": close, "high": high, "low": low, "close": close, "volume": 1.0,
            "close_time": (opened + CANDLE_SEC) * 1000 - 1, "is_closed": True, **more,
        }  # fmt: skip
        return orjson.dumps(candle)

    def _put(self, symbol: str, score: float, text: bytes) -> None:
        members = self.memory.candles.setdefault(self.memory.keys.of("candles_history", symbol), [])
        insort(members, (score, text))
        del members[:-KEPT]

    def _close(self, symbol: str, opened: int) -> None:
        """Close one minute, and spoil some of them."""
        market = self.markets[symbol]
        close, high, low = market.price, max(market.high, market.price), min(market.low, market.price)
        market.high, market.low = market.price, market.price
        if opened < market.frozen_until:
            return
        fault = self._one_of("candle", CANDLE_FAULTS) if self.rng.random() < 0.2 else ""
        if fault == "jump":
            market.factor, market.factor_until = float(self.rng.choice([0.1, 10.0])), self.at + float(self.rng.choice([1, 180]))
        elif fault == "frozen":
            market.frozen_until = self.at + float(self.rng.integers(60, 1200))
        factor = market.factor if self.at < market.factor_until else 1.0
        self._put_spoiled(symbol, opened, (close * factor, high * factor, low * factor), fault)

    def _put_spoiled(self, symbol: str, opened: int, prices: tuple[float, float, float], fault: str) -> None:
        """Write a closed candle: close, high and low; or what a fault makes of it."""
        market, (close, high, low) = self.markets[symbol], prices
        text, score = self._candle(opened, close, high, low), opened * 1000.0
        if fault == "missing":
            return
        if fault == "nan":
            text = self._candle(opened, "NaN", high, low)
        elif fault == "late":
            market.held_back.append((self.at + float(self.rng.integers(30, 400)), score, text))
            return
        elif fault == "reordered":  # stands after the one that follows it
            score += 1.5 * CANDLE_SEC * 1000
        elif fault == "doubled":
            self._put(symbol, score, self._candle(opened, close, high, low, trades=2))
        elif fault == "contradicting":
            self._put(symbol, score, self._candle(opened, close * 1.01, high * 1.01, low))
        self._put(symbol, score, text)

    def _deliver(self, symbol: str) -> None:
        market = self.markets[symbol]
        for at, score, text in market.held_back:
            if at <= self.at:
                self._put(symbol, score, text)
        market.held_back = [one for one in market.held_back if one[0] > self.at]

    # Positions.

    def _opened(self, symbol: str) -> Held:
        price = self.markets[symbol].price
        side = str(self.rng.choice(["LONG", "SHORT", "FLAT"], p=[0.4, 0.4, 0.2]))
        entry = price * float(np.exp(self.rng.normal(0, 0.01)))
        held = Held(side, entry, float(self.rng.uniform(10, 2000)) / price, self.at - float(self.rng.integers(0, 7200)))
        if self.rng.random() < 0.3:
            held.stop = entry * (0.97 if side == "LONG" else 1.03)
        return held

    def _move(self, symbol: str) -> None:
        """Let a position live: added to, its stop moved, closed, turned; and let its writer fail."""
        held, chance = self.held[symbol], self.rng.random()
        if chance < 0.01:
            held.qty *= 1.5
            held.entry = (held.entry * 2 + self.markets[symbol].price) / 3
        elif chance < 0.03 and held.side != "FLAT":
            held.stop = self.markets[symbol].price * float(self.rng.choice([0.9, 0.98, 1.02, 1.1]))
        elif chance < 0.04:
            self.held[symbol] = held = self._opened(symbol)
        if held.fault and self.at >= held.fault_until:
            held.fault = ""
        if not held.fault and self.rng.random() < 0.03:
            held.fault = self._one_of("position", POSITION_FAULTS)
            held.fault_until = self.at + float(self.rng.choice([10, 30, 120, 700]))
            if held.fault == "other side":
                self.held[symbol] = Held(
                    {"LONG": "SHORT", "SHORT": "LONG", "FLAT": "LONG"}[held.side], self.markets[symbol].price, held.qty, self.at
                )

    def _snapshot(self, symbol: str) -> None:
        held, market, key = self.held[symbol], self.markets[symbol], self.memory.keys.of("raw_position", symbol)
        if held.fault == "late":
            return
        if held.fault == "missing":
            self.memory.delete(key)
            return
        side = held.side
        if held.fault == "two sides" and int(self.at // STEP_SEC) % 2 and side != "FLAT":
            side = {"LONG": "SHORT", "SHORT": "LONG"}[side]
        if held.fault == "flat and back":
            side = "FLAT"
        mark = market.price * (10 if held.fault == "x10 mark" else 1)
        fields: dict[str, object] = {
            "symbol": symbol, "side": side, "quantity": 0.0 if side == "FLAT" else held.qty, "entry_price": held.entry,
            "mark_price": mark, "unrealized_pnl": (mark - held.entry) * held.qty * (1 if side == "LONG" else -1), "leverage": 3,
            "ts_epoch": int(self.at), "created_at": int(held.opened_at),
        }  # fmt: skip
        if held.stop is not None and side != "FLAT":
            fields["current_sl"] = held.stop
        spoiled = str(self.rng.choice(["entry_price", "mark_price"]))
        if held.fault == "nan":
            fields[spoiled] = "nan"
        elif held.fault == "negative":
            fields[spoiled] = -1.0
        elif held.fault == "synthetic":
            fields["source"] = "synthetic"
        self.memory.put(key, fields)

    # All else.

    def _write(self) -> None:
        for symbol in self.symbols:
            self._move(symbol)
            self._snapshot(symbol)
            self._capital(symbol)
        self._account()
        self._switch()
        self._plan()

    def _silent(self, writer: str) -> bool:
        """Whether a writer is silent: then what it wrote last grows old."""
        if self._happens(f"{writer} late", 0.004):
            self._quiet[writer] = self.at + float(self.rng.integers(30, 900))
        return self.at < self._quiet.get(writer, 0.0)

    def _spoiled(self, writer: str, number: float) -> object:
        return "nan" if self._happens(f"{writer} nan", 0.004) else number

    def _capital(self, symbol: str) -> None:
        of, now = self.memory.keys.of, int(self.at)
        if not self._silent("target"):
            target = {
                "target_usd": self._spoiled("target", float(self.rng.uniform(500, 5000))),
                "confidence": 0.9,
                "timestamp": now,
            }
            self.memory.put(of("base_target", symbol), {**target, "mode": "enforce" if self.rng.random() < 0.5 else "shadow"})
        if not self._silent("efficiency"):
            score = self._spoiled("efficiency", float(self.rng.uniform(0.1, 1)))
            fields = {"efficiency_score": score, "confidence": float(self.rng.uniform(0.5, 1)), "ts": now}
            self.memory.put(of("capital_efficiency", symbol), fields)

    def _account(self) -> None:
        if not self._silent("equity"):
            lost = 0.2 if self._happens("equity drawdown", 0.003) else 0.0
            equity = 10_000.0 * (1 - lost) * float(np.exp(self.rng.normal(0, 0.003)))
            fields = {"equity": self._spoiled("equity", equity), "peak": 10_200.0, "last_update_ts": self.at}
            self.memory.put(self.memory.keys.of("equity"), fields)

    def _switch(self) -> None:
        key = self.memory.keys.of("kill")
        if self._happens("kill switch", 0.004):
            self.memory.put_value(key, "1", float(self.rng.integers(20, 200)))

    def _plan(self) -> None:
        if self.rng.random() > 0.5:
            return
        self._plans_made += 1
        symbol = self.symbols[int(self.rng.integers(len(self.symbols)))]
        price = self.markets[symbol].price
        action = str(self.rng.choice(["OPEN", "INCREASE", "CLOSE", "PARTIAL_50"]))
        plan = {
            "plan_id": f"plan-{self._plans_made}", "symbol": symbol, "action": action, "decision": "EXECUTE",
            "qty": repr(float(self.rng.uniform(1, 2500)) / price), "price": repr(price), "kill_score": "0.55",
            "timestamp": str(int(self.at)), "source": "planner",
        }  # fmt: skip
        if self.rng.random() < 0.2:
            fault = self._one_of("plan", PLAN_FAULTS)
            if fault == "doubled" and self._recent:
                plan = self._recent[int(self.rng.integers(len(self._recent)))]
            elif fault == "unknown symbol":
                plan["symbol"] = ELSEWHERE
            elif fault == "stale":
                plan["timestamp"] = str(int(self.at) - 50_000)
            elif fault == "nan size":
                plan["qty"] = "nan"
        self._recent = [*self._recent, plan][-20:]
        entry_id = f"{int(self.at * 1000)}-{self._plans_made}"
        self.plans[entry_id] = {name.encode(): text.encode() for name, text in plan.items()}
