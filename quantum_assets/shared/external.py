"""What others write and we only read, declared so that the lineage graph starts where the data starts."""

from __future__ import annotations

import dagster as dg

_KEYS = {
    "candles": (
        "Closed candles of each symbol, first hit wins: `candles:<S>:1m`, `quantum:candles:<S>`, `klines:<S>:1m`, "
        "`quantum:history:ohlcv:<S>:1m`, `quantum:candles:<S>:1m`."
    ),
    "raw_positions": "Position snapshots: `quantum:state:positions:<S>`, else the execution streams.",
    "base_targets": "Allocation targets of P2.9: `quantum:allocation:target:<S>`. Never written by us.",
    "attribution": "Performance attribution: `quantum:alpha:attribution:<S>`.",
    "executions": "Fills: `quantum:stream:execution` and `quantum:stream:execution.result`.",
    "equity": (
        "The account: `quantum:equity:current` (equity, peak), `quantum:risk:daily_pnl:<UTC date>`, "
        "`quantum:risk:consecutive_losses`. Not partitioned: there is one account."
    ),
    "plans": "Plans that ask for a permit: `quantum:stream:apply.plan`.",
}

EXTERNAL_ASSETS = [
    dg.AssetSpec(name, group_name="inputs", kinds={"redis"}, owners=["team:execution"], description=text)
    for name, text in _KEYS.items()
]
