"""A governor's desk for tests: every input written as the real publishers write it, at any age, and every decision read back."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from quantum_assets.governor_permit import decide_plans
from quantum_core.contracts.schema import ACCOUNT, Table, stamps
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, POSITION, RISK_GUARD
from resources.governor.permit import permit_fields
from resources.governor.queue import GROUP
from resources.store.redis_store import RedisStore, pairs
from tests.world import hash_of, write_plan

POSITION_INPUTS: dict[str, Any] = {
    "position_side": "LONG",
    "position_age_sec": 3600.0,
    "position_current_price": 100.0,
    "position_entry_price": 99.0,
    "position_source": "redis_hash",
    "position_peak_price": 101.0,
    "position_trough_price": 98.0,
    "position_current_sl": None,
    "data_source": "candles",
}
REGIME: dict[str, Any] = {"sigma": 0.002, "ts": 0.2, "p_trend": 0.4, "p_mr": 0.1, "p_chop": 0.5}
ROWS: dict[str, dict[str, Any]] = {
    MARKET_STATE.asset: {
        **REGIME, "mu": 0.0004, "dp": 0.5, "vr": 1.0, "spike_proxy": 0.8, "buffer_size": 300,
        "source": "candles", "candle_key": "quantum:history:ohlcv", "candles_digest": "x", "regime": "chop",
        "gap_count": 0, "gap_max_sec": 0, "filled": 0, "market_inactive": False, "tick_pct": 0.0001,
    },
    HARVEST_PROPOSAL.asset: {
        **REGIME, **POSITION_INPUTS, "harvest_action": "NONE", "new_sl_proposed": None, "R_net": 0.5, "risk_unit": 0.7,
        "cost_est": 0.1, "kill_score": 0.55, "reason_codes": [], "k_regime_flip": 0.0, "k_sigma_spike": 0.0, "k_ts_drop": 0.1,
        "k_age_penalty": 0.04, "position_unrealized_pnl": 1.0, "position_qty": 1.0, "stop_dist_pct": 0.007,
        "fallback_stop": False,
    },
    RISK_GUARD.asset: {
        "status": "ok", "guards": [], "pending": [], "triggered": [], "errors": [], "reason": "", "equity": 1e5, "peak": 1e5,
        "net_transfers": 0.0, "drawdown": 0.0,
        "daily_pnl": 0.0, "daily_loss": 0.0, "consecutive_losses": 0, "equity_ts_epoch": 1.0, "equity_age_sec": 1.0,
        "equity_source": "",
    },
    POSITION.asset: {
        "side": "LONG", "entry_price": 99.0, "current_price": 100.0, "peak_price": 101.0, "trough_price": 98.0,
        "age_sec": 3600.0, "unrealized_pnl": 1.0, "qty": 1.0, "current_sl": None, "current_tp": None, "opened_at_epoch": 1.0,
        "position_source": "redis_hash", "held": True, "last_candle_ms": 0, "last_close": None, "collared": False,
        "collared_price": None, "collared_candle_ms": 0,
    },
}  # fmt: skip


class Desk:
    """One store with everything a governor looks at."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store

    def put(self, table: Table, symbol: str, *, age_sec: float = 0, **changes: Any) -> None:
        """Write one hash as if it had been published ``age_sec`` ago, whatever stood there."""
        then = self.store.clock() - timedelta(seconds=age_sec)
        row = {**ROWS[table.asset], **changes}
        if table is POSITION:
            row.setdefault("position_ts_epoch", then.timestamp())
        if table is MARKET_STATE:
            row.setdefault("ts_timestamp", int(then.timestamp()))
        encoded = table.encode(row)
        key = self.store.keys.of(table.key, symbol)
        both = self.store.client.pipeline(transaction=False)
        both.delete(key)
        both.hset(key, mapping={**encoded, **stamps(table, symbol, encoded, "c0", then, ("", ""))})
        both.execute()

    def ready(self, *symbols: str) -> None:
        """Put everything in order, so that an opening passes."""
        for symbol in symbols:
            for table in (MARKET_STATE, HARVEST_PROPOSAL, POSITION):
                self.put(table, symbol)
        self.guard()

    def guard(self, *, age_sec: float = 0, **changes: Any) -> None:
        """Leave the sign of a risk guard that was evaluated and found nothing."""
        self.put(RISK_GUARD, ACCOUNT, age_sec=age_sec, **changes)

    def plan(self, plan_id: str, symbol: str, action: str = "OPEN", **more: Any) -> None:
        """Let the planner ask."""
        write_plan(self.store, plan_id, symbol, action, **{"qty": 0.001, "price": 1.0, **more})

    def decide(self) -> None:
        """Decide what waits."""
        decide_plans(self.store, cycle_id="c1")

    def outcome(self, plan_id: str) -> str | None:
        """Give the reason a plan was refused for, empty for a permit, ``None`` while it is undecided."""
        key = self.store.keys.of("permit", plan_id)
        permit = permit_fields(*self.store.run("reading a permit", [("HGETALL", key), ("GET", key)]))
        block = hash_of(self.store, "block", plan_id)
        assert not (permit and block), "a permit and a block"
        return "" if permit else block["reason"] if block else None

    def events(self, kind: str = "") -> list[Mapping[str, str]]:
        """List what is on record, oldest first."""
        raw = self.store.client.xrange(self.store.keys.of("stream_governor_events"))
        rows = [{k.decode(): v.decode() for k, v in pairs(fields).items()} for _, fields in raw]
        return [row for row in rows if not kind or row["event"] == kind]

    def pending(self) -> int:
        """Count entries taken and left undecided."""
        return int(self.store.client.xpending(self.store.keys.of("stream_plans"), GROUP)["pending"])
