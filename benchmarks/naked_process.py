"""The same calculation without an orchestrator: one asyncio process, Redis in, kernels, Redis out.

``python -m benchmarks.naked_process`` computes one cycle per line of standard input and answers each with a line of JSON. It
keeps in memory what it has read and published, and reads only what is new. It shares with the product the kernels, the tables of
the contract and the parser of a position: what these cost is no cost of lineage. Left out is what the product does beside: runs,
events, proofs, the lease, the governor, the guard and intents, publications that are all or nothing, values read back and checked
against their fingerprint, other layouts of candles, closed, changed, hedged or synthetic positions, and a memory that survives a
restart. Efficiency is that of another producer, as with EFFICIENCY_MODE=external. ``benchmarks/naked.py`` measures it beside the
product and compares what both publish.
"""

import asyncio
import json
import math
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import numpy as np
import orjson
import redis.asyncio

from quantum_core.contracts.schema import Table, publication_due, stamps
from quantum_core.contracts.tables import (
    ALLOCATION_TARGET,
    HARVEST_PROPOSAL,
    MARKET_STATE,
    POSITION,
    POSITION_SIZE,
    RISK_PROPOSAL,
    least_live_of,
)
from quantum_core.kernels.capital.allocation import AllocationTheta, allocation
from quantum_core.kernels.capital.efficiency_hint import EfficiencyHint, epoch_sec, parse_efficiency
from quantum_core.kernels.columns import Floats, Market, Position
from quantum_core.kernels.governor.risk_guard import Account, RiskGuardTheta, assess
from quantum_core.kernels.market.grid import Series, grids
from quantum_core.kernels.market.market_state import MarketStateTheta, closes_matrix, market_state
from quantum_core.kernels.position.consistency import contradictions
from quantum_core.kernels.position.tracking import Bars, Tracked, TrackingTheta, track
from quantum_core.kernels.proposals.harvest import HarvestTheta, harvest
from quantum_core.kernels.proposals.sizing import SizingInputs, SizingTheta, sizing
from quantum_core.kernels.proposals.stops import StopsTheta, stop_distance, stops
from quantum_core.settings import Settings, load_settings
from resources.inputs.candle_series import candles_digest, grid_theta_of
from resources.inputs.foreign import INPUT_STALE_SEC
from resources.inputs.position_parsing import parse_position
from resources.inputs.position_snapshots import RawPosition, profit_of
from resources.store.redis_store import flat, texts

TABLES = (POSITION, MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL, ALLOCATION_TARGET, POSITION_SIZE)
STATE_COLUMNS = ("sigma", "mu", "ts", "p_trend", "p_mr", "p_chop", "dp", "vr", "spike_proxy")
MARKET = ("sigma", "ts", "p_trend", "p_mr", "p_chop")
HELD = ("age_sec", "current_price", "entry_price", "peak_price", "trough_price", "current_sl", "mark_price")
CANDLE = ("open_time", "high", "low", "close", "volume")
TICK_SLACK_SEC = 2  # as the product's sensor has it: a market state is due so much before its interval is over
NEW_BARS = 8  # candles looked at when a position that is tracked moves on
DAY_SEC = 86_400
Row = dict[str, Any]


@dataclass
class Candles:
    """Closed candles of one symbol, oldest first."""

    rows: list[list[float]] = field(default_factory=list)  # CANDLE of each
    open_time_ms: Any = None
    high: Floats = field(default_factory=lambda: np.empty(0))
    low: Floats = field(default_factory=lambda: np.empty(0))
    close: Floats = field(default_factory=lambda: np.empty(0))
    volume: Floats = field(default_factory=lambda: np.empty(0))
    newest_close_ms: int = 0

    def add(self, members: Sequence[bytes], window: int) -> bool:
        """Append members, oldest first; tell whether there were any."""
        if members:
            bodies = [orjson.loads(member) for member in members]
            self.rows = [*self.rows, *([body[name] for name in CANDLE] for body in bodies)][-window:]
            self.newest_close_ms = bodies[-1]["close_time"]
            columns = np.array(self.rows, dtype=float).T
            self.open_time_ms = columns[0].astype(np.int64)
            self.high, self.low, self.close, self.volume = columns[1:]
        return bool(members)

    def newest(self, count: int) -> "Candles":
        """Give the newest ones."""
        tail = slice(-count, None)
        return Candles([], self.open_time_ms[tail], self.high[tail], self.low[tail], self.close[tail])


@dataclass
class Target:
    """Base target of one symbol, as another program wrote it."""

    usd: float
    cap: float


class Naked:
    """The process: what it has read and published so far.

    Parameters
    ----------
    settings
        Address, key names, intervals, profile.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.symbols, self.profile = settings, settings.symbols, settings.own_profile
        self.client = redis.asyncio.Redis.from_url(settings.url, protocol=2)
        self.candles = {symbol: Candles() for symbol in self.symbols}
        self.tracked: dict[str, Tracked] = {}
        self.published: dict[str, dict[str, Row]] = {table.asset: {} for table in TABLES}
        self.judged = -math.inf
        self.writes: list[asyncio.Task[Any]] = []
        self.counts: dict[str, int] = {}
        self.now, self.cycle_id = datetime.now(UTC), ""

    async def cycle(self, now: datetime, cycle_id: str, *, evaluate: bool = False) -> dict[str, int]:
        """Read, compute and publish everything once.

        Parameters
        ----------
        now
            Aware UTC; everything of the cycle is dated by it.
        cycle_id
            Written with every publication.
        evaluate
            Compute the market state also when it is not due.

        Returns
        -------
        dict
            Publications by asset; what was only refreshed does not count.
        """
        self.now, self.cycle_id, self.writes, self.counts = now, cycle_id, [], {}
        epoch = now.timestamp()
        news, raw, efficiencies, targets, equity = await self.read(epoch)
        positions = {symbol: self.track_one(symbol, fields, epoch) for symbol, fields in zip(self.symbols, raw, strict=True)}
        await self.publish(POSITION, list(positions.values()))
        interval = self.settings.marketstate_publish_interval - TICK_SLACK_SEC
        if evaluate or news or epoch - self.judged >= interval:
            self.judged = epoch
            await self.publish(MARKET_STATE, self.market_rows())
        states = [self.published["market_state"][symbol] for symbol in self.symbols]
        market = Market(**{name: np.array([one[name] for one in states]) for name in MARKET})
        held = [positions[symbol] for symbol in self.symbols]
        columns = position_of(held)
        used = [
            {
                **{name: state[name] for name in MARKET},
                **{f"position_{name}": one[name] for name in ("side", *HELD)},
                "position_source": one["position_source"],
                "data_source": least_live_of((state["source"], one["position_source"])),
            }
            for state, one in zip(states, held, strict=True)
        ]
        await self.publish(RISK_PROPOSAL, self.risk_rows(market, columns, used, held))
        await self.publish(HARVEST_PROPOSAL, self.harvest_rows(market, columns, used, held))
        scaled = self.allocation_rows(efficiencies, targets, epoch)
        await self.publish(ALLOCATION_TARGET, scaled)
        await self.publish(POSITION_SIZE, self.size_rows(market, states, scaled, targets, equity, epoch))
        await asyncio.gather(*self.writes)
        return self.counts

    async def read(self, epoch: float) -> tuple[bool, list[dict[str, str]], EfficiencyHint, list[Target], dict[str, str]]:
        """Read candles that are new, positions, efficiencies, targets and the account, in one round trip."""
        of, window = self.settings.keys.of, self.settings.marketstate_window_size
        pipe = self.client.pipeline(transaction=False)
        for symbol in self.symbols:
            rows = self.candles[symbol].rows
            if rows:
                pipe.execute_command("ZRANGEBYSCORE", of("candles_history", symbol), f"({int(rows[-1][0])}", "+inf")
            else:
                pipe.execute_command("ZRANGE", of("candles_history", symbol), -window, -1)
        for key in ("raw_position", "capital_efficiency", "base_target"):
            for symbol in self.symbols:
                pipe.execute_command("HGETALL", of(key, symbol))
        pipe.execute_command("HGETALL", of("equity"))
        replies = await pipe.execute()
        count = len(self.symbols)
        news = [self.candles[symbol].add(members, window) for symbol, members in zip(self.symbols, replies[:count], strict=True)]
        raw, scores, wanted = ([texts(one) for one in replies[start : start + count]] for start in (count, 2 * count, 3 * count))
        return any(news), raw, parse_efficiency(scores), [target_of(fields, epoch) for fields in wanted], texts(replies[-1])

    def track_one(self, symbol: str, fields: Mapping[str, str], epoch: float) -> Row:
        """Move one position on."""
        contract, theta = self.settings.contract_of(symbol), self.profile.theta(TrackingTheta, symbol)
        raw = cast("RawPosition", parse_position(symbol, fields, "redis_hash", contract=contract))
        previous, proposed = self.tracked.get(symbol), self.published["risk_proposal"].get(symbol)
        bars = self.candles[symbol]
        since = epoch if previous is None else previous.tracked_since_epoch
        last = None
        if proposed and proposed["position_side"] == raw.side and proposed["published_at_utc"].timestamp() >= since:
            last = proposed["proposed_sl"]
        recent = cast("Bars", bars if previous is None else bars.newest(NEW_BARS))
        expected = profit_of(raw.side, raw.entry_price, raw.current_price, raw.qty)
        wrong = contradictions(raw, expected, contract, recent, theta.collar_pct)
        state = track(previous, raw, recent, last_proposed_sl=last, now=epoch, theta=theta)
        carried = orjson.dumps(raw.carried).decode() if raw.carried else ""
        self.tracked[symbol] = replace(state, contracts=raw.contracts, carried=carried, inconsistent=bool(wrong))
        return {"symbol": symbol, **self.tracked[symbol].row(), "held": True}

    def market_rows(self) -> list[Row]:
        """Compute the market state of all symbols."""
        theta = grid_theta_of(self.settings, self.profile)
        candles = [self.candles[symbol] for symbol in self.symbols]
        judged = grids([Series(series.open_time_ms, series.close, series.volume) for series in candles], theta)
        kernel = self.profile.by_row(MarketStateTheta, self.symbols)
        result = market_state(*closes_matrix([grid.closes for grid in judged]), kernel)
        columns = [getattr(result, name).tolist() for name in STATE_COLUMNS]
        return [
            {
                "symbol": symbol,
                **dict(zip(STATE_COLUMNS, numbers, strict=True)),
                "regime": regime,
                "ts_timestamp": 0 if grid.gap_count is None else int(series.newest_close_ms / 1000),
                "close": float(grid.closes[-1]),
                "buffer_size": len(grid.closes),
                "source": "candles",
                "candle_key": self.settings.keys.of("candles_history", symbol),
                "candles_digest": candles_digest(grid.closes, theta.required),
                "gap_count": grid.gap_count,
                "gap_max_sec": grid.gap_max_sec,
                "filled": grid.filled,
                "market_inactive": grid.inactive,
                "tick_pct": none_if_nan(float(grid.tick_pct)),
            }
            for symbol, series, grid, regime, *numbers in zip(self.symbols, candles, judged, result.regime, *columns, strict=True)
        ]

    def risk_rows(self, market: Market, position: Position, used: Sequence[Row], held: Sequence[Row]) -> list[Row]:
        """Propose stops."""
        marks = np.array([one["mark_price"] for one in held])
        proposal = stops(market, position, self.profile.by_row(StopsTheta, self.symbols), mark_price=marks)
        names = ("proposed_sl", "proposed_tp", "stop_dist_pct", "tp_dist_pct", "trail_gap_pct", "sl_breached")
        columns = [getattr(proposal, name).tolist() for name in names]
        return [
            {"symbol": symbol, **dict(zip(names, numbers, strict=True)), "reason_codes": list(codes), **one}
            for symbol, codes, one, *numbers in zip(self.symbols, proposal.reason_codes, used, *columns, strict=True)
        ]

    def harvest_rows(self, market: Market, position: Position, used: Sequence[Row], held: Sequence[Row]) -> list[Row]:
        """Propose profit taking, from the stop distances as they are published."""
        distances = [self.published["risk_proposal"][symbol]["stop_dist_pct"] for symbol in self.symbols]
        result = harvest(market, position, np.array(distances), self.profile.by_row(HarvestTheta, self.symbols))
        kill = ("kill_score", "k_regime_flip", "k_sigma_spike", "k_ts_drop", "k_age_penalty")
        names = ("R_net", "risk_unit", "cost_est", *kill, "fallback_used")
        columns = [getattr(result, name).tolist() for name in names]
        rows = zip(
            *(self.symbols, result.harvest_action, result.reason_codes, result.new_sl_proposed.tolist(), distances, held, used),
            *columns,
            strict=True,
        )
        return [
            {
                "symbol": symbol,
                **(numbers := dict(zip(names, values, strict=True))),
                "harvest_action": action,
                "reason_codes": list(codes),
                "new_sl_proposed": none_if_nan(stop),
                "position_unrealized_pnl": one["unrealized_pnl"],
                "position_qty": one["qty"],
                "stop_dist_pct": None if numbers["fallback_used"] else distance,
                "fallback_stop": numbers["fallback_used"],
                **inputs,
            }
            for symbol, action, codes, stop, distance, one, inputs, *values in rows
        ]

    def allocation_rows(self, hint: EfficiencyHint, targets: Sequence[Target], epoch: float) -> list[Row]:
        """Scale targets."""
        base = [target.usd for target in targets]
        result = allocation(hint, np.array(base), epoch, self.profile.by_row(AllocationTheta, self.symbols))
        names = ("proposed_target", "multiplier", "eff_score", "eff_confidence", "eff_stale", "reason")
        columns = [getattr(result, name).tolist() for name in names]
        return [
            {
                "symbol": symbol,
                "ts_epoch": int(epoch),
                "base_target": usd,
                "proposed_target": proposed,
                "base_target_shortest": repr(usd),
                "proposed_target_shortest": repr(proposed),
                "multiplier": multiplier,
                "eff_score": none_if_nan(score),
                "eff_confidence": none_if_nan(confidence),
                "eff_stale": stale,
                "reason": reason,
                "mode": "shadow",
                "last_update_ts_epoch": int(epoch),
            }
            for symbol, usd, proposed, multiplier, score, confidence, stale, reason in zip(
                self.symbols, base, *columns, strict=True
            )
        ]

    def size_rows(
        self,
        market: Market,
        states: Sequence[Row],
        scaled: Sequence[Row],
        targets: Sequence[Target],
        equity: Mapping[str, str],
        epoch: float,
    ) -> list[Row]:
        """Size positions; none without a fresh equity."""
        usd, age_sec = float(equity["equity"]), epoch - float(equity["last_update_ts"])
        account = Account(usd, float(equity["peak"]), age_sec, daily_pnl=0.0, consecutive_losses=0.0)
        if not assess(account, self.profile.theta(RiskGuardTheta)).equity_fresh:
            return []
        count, per_day = len(self.symbols), DAY_SEC / self.settings.candle_interval_sec
        wire = [float(ALLOCATION_TARGET.by_name["multiplier"].codec.encode(one["multiplier"])) for one in scaled]
        trusted = [many if one["reason"] == "ok" else math.nan for one, many in zip(scaled, wire, strict=True)]
        inputs = SizingInputs(
            equity_usd=np.full(count, usd),
            price=np.array([one["close"] * self.settings.candle_scale_of(one["symbol"]) for one in states]),
            stop_dist_pct=stop_distance(market, self.profile.by_row(StopsTheta, self.symbols)),
            multiplier=np.array(trusted),
            target_usd=np.array([one.cap for one in targets]),
        )
        size = sizing(market, inputs, self.profile.by_row(SizingTheta, self.symbols), candles_per_day=per_day)
        names = ("size_usd", "size_qty", "leverage_max", "stop_dist_pct", "risk_usd", "binding")
        columns = [getattr(size, name).tolist() for name in names]
        rows = zip(
            *(states, size.reason_codes, inputs.price.tolist(), trusted, inputs.target_usd.tolist()), *columns, strict=True
        )
        return [
            {
                "symbol": state["symbol"],
                **dict(zip(names, numbers, strict=True)),
                "reason_codes": list(codes),
                "equity_usd": usd,
                "price": price,
                **{name: state[name] for name in MARKET},
                "multiplier": none_if_nan(multiplier),
                "target_usd": none_if_nan(cap),
                "candles_per_day": per_day,
                "data_source": state["source"],
            }
            for state, codes, price, multiplier, cap, *numbers in rows
        ]

    async def publish(self, table: Table, rows: Sequence[Row]) -> None:
        """Begin to write what is due, and renew the rest; remember what then stands."""
        known, settings = self.published[table.asset], self.settings
        pipe = self.client.pipeline(transaction=False)
        lifetime = table.lifetime_sec(partial(getattr, settings))
        stream = table.stream if table.stream is not None and (settings.enable_stream or not table.stream.optional) else None
        due = 0
        for row in rows:
            symbol, last = row["symbol"], known.get(row["symbol"])
            encoded = table.encode(row)
            marks = stamps(table, symbol, encoded, self.cycle_id, self.now, self.profile.stamp_of(symbol))
            new = {**row, "profile": marks["profile"], "published_at_utc": self.now}
            if table is MARKET_STATE:  # rounded on the wire, and used as it reads there
                new |= table.reread({**encoded, **marks})
            cause = publication_due(
                table,
                last,
                new,
                now=self.now,
                change_eps_pct=settings.change_eps_pct,
                max_age_sec=settings.max_publish_age_sec,
            )
            key = settings.keys.of(table.key, symbol)
            if cause is not None:
                due += 1
                known[symbol] = new | {"published_text": marks["published_at_utc"]}
                pipe.execute_command("HSET", key, *flat({**encoded, **marks}))
                for name in stream.keys if stream is not None else ():
                    entry = flat(table.stream_entry(row, encoded, marks))
                    target, cap = settings.keys.of(name, symbol), stream.maxlen if stream is not None else 0
                    pipe.execute_command("XADD", target, "MAXLEN", "~", cap, "*", *entry)
            elif table.kept_current and last is not None:
                kept = {name: last[name] for name in ("published_at_utc", "published_text")}
                known[symbol] = new | kept
                pipe.execute_command("HSET", key, *flat({**encoded, **marks, "published_at_utc": kept["published_text"]}))
            else:
                pipe.execute_command("HSET", key, *flat({name: marks[name] for name in table.renewed}))
            pipe.execute_command("EXPIRE", key, lifetime)
        self.counts[table.asset] = due
        self.writes.append(asyncio.create_task(pipe.execute()))
        await asyncio.sleep(0)  # the server works on these while the next rows are computed


def position_of(held: Sequence[Row]) -> Position:
    """Lay positions out as the kernels' columns."""
    names = ("entry_price", "current_price", "peak_price", "trough_price", "age_sec", "unrealized_pnl", "current_sl", "qty")
    columns = {name: np.array([one[name] for one in held], dtype=float) for name in names}
    return Position(is_long=np.array([one["side"] == "LONG" for one in held]), **columns)


def target_of(fields: Mapping[str, str], epoch: float) -> Target:
    """Read a base target; it caps a position where it is fresh and in force."""
    usd, fresh = float(fields["target_usd"]), epoch - epoch_sec(fields["timestamp"]) <= INPUT_STALE_SEC
    return Target(usd, usd if fresh and fields.get("mode", "").lower() == "enforce" else math.nan)


def none_if_nan(value: float) -> float | None:
    """Give ``None`` for NaN."""
    return None if math.isnan(value) else value


async def serve() -> None:
    """Compute one cycle per line read; answer with its seconds, CPU seconds and publications."""
    naked = Naked(load_settings())
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        began, used = time.time(), time.process_time()
        published = await naked.cycle(datetime.now(UTC), f"n{int(began)}-{secrets.token_hex(3)}")
        answer = {"latency_sec": time.time() - began, "cpu_sec": time.process_time() - used, "published": published}
        print(json.dumps(answer), flush=True)
    await naked.client.aclose()


if __name__ == "__main__":
    asyncio.run(serve())
