"""What the tests put into Redis on behalf of the programs that are not ours."""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from definitions import assemble
from quantum_core.profiles.profile import LOCKED
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME, cycle_tags

FIELD_PASSES = int(os.environ.get("FIELD_PASSES", "1"))  # of the properties of inputs: so many times the examples
SAMPLE = Path(__file__).resolve().parents[1] / "quantum_assets" / "sample"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def real_closes(symbol: str, count: int = 300) -> list[float]:
    """Give recorded closes, oldest first."""
    frame = pl.read_csv(SAMPLE / f"{symbol}_1m.csv")
    return frame["Close"].head(count).to_list()


def random_closes(seed: int, count: int = 300) -> list[float]:
    """Give a random walk of prices, oldest first."""
    steps = np.random.default_rng(seed).normal(0, 0.001, count)
    return [float(price) for price in 100 * np.exp(np.cumsum(steps))]


def with_evidence(folder: Path, **changes: object) -> str:
    """Write a profile with the parameters of locked-v1 and evidence on minutes, changed or not; give its path."""
    evidence = {"interval_sec": 60, "horizon_sec": 3600, "fingerprint": LOCKED.fingerprint, "recommended": True, **changes}
    lines = [f"{name} = {json.dumps(value)}" for name, value in evidence.items()]
    path = folder / "measured.toml"
    path.write_text("\n".join(['name = "measured"', "[evidence]", *lines]))
    return str(path)


def write_candles(store: RedisStore, symbol: str, closes: Sequence[float], *, last_age_sec: float = 0, **labels: str) -> None:
    """Write closed one-minute candles whose last one closed ``last_age_sec`` ago."""
    now_ms = int((store.clock().timestamp() - last_age_sec) * 1000)
    key = store.keys.of("candles_history", symbol)
    store.client.delete(key)
    members = {}
    for back, close in enumerate(reversed(closes), start=1):
        opened = now_ms - back * 60_000
        candle = {
            "open_time": opened, "open": close, "high": close, "low": close, "close": close, "volume": 1.0,
            "close_time": opened + 59_999, "is_closed": True, **labels,
        }  # fmt: skip
        members[json.dumps(candle)] = opened
    if members:
        store.client.zadd(key, members)


def write_position(
    store: RedisStore, symbol: str, *, side: str = "LONG", entry: float = 100.0, mark: float = 105.0, **more: object
) -> None:
    """Write a position snapshot as the execution side does."""
    fields = {
        "symbol": symbol, "side": side, "quantity": 0.0 if side == "FLAT" else 2.0, "entry_price": entry, "mark_price": mark,
        "unrealized_pnl": (mark - entry) * 2 * (1 if side == "LONG" else -1), "leverage": 3,
        "ts_epoch": int(store.clock().timestamp()), **more,
    }  # fmt: skip
    store.client.hset(store.keys.of("raw_position", symbol), mapping={name: str(value) for name, value in fields.items()})


def write_target(store: RedisStore, symbol: str, usd: float = 1000.0) -> None:
    """Write a base target as P2.9 does."""
    fields = {"target_usd": usd, "confidence": 0.9, "timestamp": int(store.clock().timestamp()), "mode": "shadow"}
    store.client.hset(store.keys.of("base_target", symbol), mapping={name: str(value) for name, value in fields.items()})


def write_attribution(store: RedisStore, symbol: str, factor: float = 0.6) -> None:
    """Write an attribution as P3.0 does."""
    fields = {"performance_factor": factor, "confidence": 0.8, "timestamp": int(store.clock().timestamp())}
    store.client.hset(store.keys.of("attribution", symbol), mapping={name: str(value) for name, value in fields.items()})


def write_efficiency(store: RedisStore, symbol: str, score: float = 0.8, confidence: float = 0.9, *, age_sec: float = 0) -> None:
    """Write an efficiency hash as another producer does."""
    fields = {"efficiency_score": score, "confidence": confidence, "ts": int(store.clock().timestamp() - age_sec)}
    store.client.hset(store.keys.of("capital_efficiency", symbol), mapping={name: str(value) for name, value in fields.items()})


def write_equity(
    store: RedisStore, equity: float = 10_000.0, peak: float = 10_000.0, *, age_sec: float = 0, **more: object
) -> None:
    """Write the account as its bookkeeper does."""
    fields = {"equity": equity, "peak": peak, "last_update_ts": store.clock().timestamp() - age_sec, **more}
    store.client.hset(store.keys.of("equity"), mapping={name: str(value) for name, value in fields.items()})


def write_plan(store: RedisStore, plan_id: str, symbol: str, action: str = "CLOSE", **more: object) -> None:
    """Append one plan as the planner does."""
    fields = {"plan_id": plan_id, "symbol": symbol, "action": action, "decision": "EXECUTE", "qty": 0.001, **more}
    store.client.xadd(store.keys.of("stream_plans"), {name: str(value) for name, value in fields.items()})


def write_market(store: RedisStore, symbol: str, count: int = 300) -> list[float]:
    """Write recorded candles, a base target and an efficiency of a symbol; give the closes."""
    closes = real_closes(symbol, count)
    write_candles(store, symbol, closes)
    write_target(store, symbol)
    write_efficiency(store, symbol)
    return closes


def write_world(store: RedisStore, short: str = "") -> None:
    """Write everything the symbols of a store and the account need, as the other programs do; one of them is held short."""
    for symbol in store.settings.symbols:
        mark = write_market(store, symbol)[-1]
        write_position(store, symbol, entry=mark * 0.99, mark=mark, side="SHORT" if symbol == short else "LONG")
    write_equity(store)


@lru_cache(maxsize=1)
def job_of(store: RedisStore, name: str) -> dg.JobDefinition:
    """Build a job of the product around a store, once for all its runs one after the other."""
    return assemble(store).resolve_job_def(name)


def run_cycle(
    store: RedisStore, instance: dg.DagsterInstance, *, assets: Sequence[str] | None = None, raise_on_error: bool = True
) -> dg.ExecuteInProcessResult:
    """Run one cycle of the product for all symbols of the settings; of these assets only, if any are named."""
    job = job_of(store, CYCLE_JOB_NAME)
    if assets is not None:  # the check of each cycle is left out with the others: it judges the process, not the assets
        job = job.get_subset(asset_selection={dg.AssetKey(asset) for asset in assets}, asset_check_selection=set())
    return job.execute_in_process(
        instance=instance,
        tags=cycle_tags(store.settings.symbols, f"t{store.clock().timestamp():.6f}"),
        run_config=QUIET,
        raise_on_error=raise_on_error,
    )


def recorded(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> list[tuple[str, str | None]]:
    """Name what a run recorded as materialized, asset and symbol: in the instance, whichever way it took there."""
    events = [one.event_log_entry.dagster_event for one in instance.get_records_for_run(result.run_id).records]
    return [(one.asset_key.path[-1], one.partition) for one in events if one is not None and one.is_step_materialization]


def materialized(instance: dg.DagsterInstance, asset: str) -> set[str]:
    """Name the symbols of which the instance knows a materialization."""
    return set(instance.get_materialized_partitions(dg.AssetKey(asset)))


def hash_of(store: RedisStore, key: str, symbol: str) -> dict[str, str]:
    """Read one hash as text."""
    return {name.decode(): value.decode() for name, value in store.client.hgetall(store.keys.of(key, symbol)).items()}
