"""Speed of the kernels for 566 symbols, beside one symbol at a time.

The reference for the Theil-Sen part is a plain loop over scipy.stats.theilslopes in the same process, alternating with ours, so
that a noisy machine disturbs both alike. Less than a minute.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from benchmarks.report import main, say
from quantum_core.kernels.capital.allocation import allocation
from quantum_core.kernels.capital.efficiency import EfficiencyInputs, EfficiencyState, efficiency
from quantum_core.kernels.capital.efficiency_hint import parse_efficiency
from quantum_core.kernels.columns import Floats, Market, Position
from quantum_core.kernels.governor.permit_hint import permit_hint
from quantum_core.kernels.market.market_state import MarketStateTheta, market_state
from quantum_core.kernels.market.theil_sen import theil_sen
from quantum_core.kernels.proposals.harvest import harvest
from quantum_core.kernels.proposals.stops import stops

SYMBOLS = 566  # perpetual futures the product is sized for
WINDOW = 300  # closes per symbol in live operation
REPETITIONS = 5
OURS, REFERENCE = "theil_sen, all symbols", "scipy.stats.theilslopes, symbol by symbol"


def walks(rng: np.random.Generator) -> Floats:
    """Random walks with fat tails, volatility clusters, and prices on a tick grid of about a basis point."""
    volatility = 0.0008 * np.exp(np.cumsum(rng.normal(0, 0.05, (SYMBOLS, WINDOW)), axis=1))
    path = np.exp(np.cumsum(volatility * rng.standard_t(4, (SYMBOLS, WINDOW)), axis=1))
    level = 10 ** rng.uniform(-3, 5, (SYMBOLS, 1))
    tick = 10.0 ** np.floor(np.log10(level) - 4)
    prices: Floats = np.round(level * path / tick) * tick
    return prices


def tasks() -> dict[str, Callable[[], Any]]:
    """Everything that is timed, by name."""
    rng = np.random.default_rng(566)
    closes = walks(rng)
    log_price = np.log(closes)
    windows = MarketStateTheta().trend.windows
    state = market_state(closes)
    market = Market(state.sigma, state.ts, state.p_trend, state.p_mr, state.p_chop)
    last = closes[:, -1]
    position = Position(
        is_long=rng.random(SYMBOLS) < 0.5,
        entry_price=closes[:, -60],
        current_price=last,
        peak_price=closes[:, -60:].max(axis=1),
        trough_price=closes[:, -60:].min(axis=1),
        age_sec=np.full(SYMBOLS, 3600.0),
        unrealized_pnl=last - closes[:, -60],
        current_sl=np.where(rng.random(SYMBOLS) < 0.5, np.nan, last * 0.98),
        qty=np.full(SYMBOLS, np.nan),
    )
    stop_dist_pct = stops(market, position).stop_dist_pct
    ok = np.full(SYMBOLS, "ok", dtype=object)
    share = rng.random(SYMBOLS)
    inputs = EfficiencyInputs(ok, share, share, ok, np.full(SYMBOLS, 800.0), share, share * 3600)
    pnls = [rng.normal(0, 20, rng.integers(0, 5)) for _ in range(SYMBOLS)]
    hashes = [{"efficiency_score": repr(s), "confidence": "0.9", "ts": "1000"} for s in share.tolist()]
    single = {
        "market_state": lambda: market_state(closes),
        "stops": lambda: stops(market, position),
        "harvest": lambda: harvest(market, position, stop_dist_pct),
        "efficiency": lambda: efficiency(inputs, pnls, EfficiencyState.initial(SYMBOLS)),
        "allocation": lambda: allocation(parse_efficiency(hashes), np.full(SYMBOLS, 1000.0), 1000.0),
        "permit_hint": lambda: permit_hint(parse_efficiency(hashes), 1000.0).fields(),
    }
    return {
        OURS: lambda: np.stack([theil_sen(log_price[:, -w:]) for w in windows], axis=1),
        REFERENCE: lambda: np.array([[theilslopes(row[-w:])[0] for w in windows] for row in log_price]),
        **single,
        "all kernels": lambda: [task() for task in single.values()],  # type: ignore[no-untyped-call]
    }


def measure(*, short: bool) -> dict[str, Any]:
    """Time all tasks in turn, several times over; check that ours and the reference agree."""
    timed = tasks()
    difference = float(np.abs(timed[OURS]() - timed[REFERENCE]()).max())
    assert difference <= 1e-12, difference
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(1 if short else REPETITIONS):
        say(f"kernels: repetition {turn + 1}")
        for name, task in timed.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    ratios = [slow / fast for slow, fast in zip(seconds[REFERENCE], seconds[OURS], strict=True)]
    return {
        "symbols": SYMBOLS,
        "window": WINDOW,
        "repetitions": len(ratios),
        "seconds": {name: {"min": min(values), "median": statistics.median(values)} for name, values in seconds.items()},
        "theil_sen_speedup": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
        "theil_sen_largest_difference": difference,
    }


if __name__ == "__main__":
    main("kernels", __doc__, measure)
