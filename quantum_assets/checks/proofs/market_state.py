"""Proofs of the asset ``market_state``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from quantum_assets.checks import reference
from quantum_assets.checks.common import calc_only_imports, compare, contract, fresh, lifetime, recomputed_by_profile
from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_core.contracts.legs import by_underlying, underlying
from quantum_core.contracts.tables import MARKET_STATE, RISK_PROPOSAL
from quantum_core.kernels.market import synthetic
from quantum_core.kernels.market.market_state import STATE_COLUMNS, MarketStateTheta, closes_matrix
from quantum_core.kernels.market.market_state import market_state as kernel
from quantum_core.kernels.theta import ThetaError
from quantum_core.settings import Settings
from resources.inputs.candle_series import Candles, candles_digest

SUM_TOLERANCE = 3e-6  # three probabilities of six decimals each
PRINTED = dict.fromkeys(("sigma", "mu", "tail_move"), 0.51e-8) | dict.fromkeys(
    ("ts", "p_trend", "p_mr", "p_chop", "dp", "vr", "spike_proxy"), 0.51e-6
)
GRID = ("gap_count", "gap_max_sec", "filled", "market_inactive", "tick_pct")
SELF_TEST_CLOSES = 320
OVERRIDES = {  # parameter -> the column that must move, and nothing before it
    ("vol", "ewma_lambda"): (0.5, "sigma"),
    ("trend", "method"): ("ols", "mu"),
    ("trend", "horizon"): (60, "ts"),
    ("regime", "vr_k"): (10, "vr"),
    ("regime", "softmax_temp"): (2.0, "p_trend"),
    ("regime", "measure"): ("significance", "p_trend"),
    ("vol", "tail"): ("historical", "tail_move"),
}


proof = Prover(MARKET_STATE.asset)


def probabilities(evidence: Evidence) -> Finding:
    """Three probabilities in [0, 1] with sum 1."""
    failing, farthest = {}, 0.0
    rows = evidence.rows(MARKET_STATE)
    for symbol, row in rows.items():
        three = [row[name] for name in ("p_trend", "p_mr", "p_chop")]
        farthest = max(farthest, abs(sum(three) - 1))
        if abs(sum(three) - 1) > SUM_TOLERANCE or not all(0 <= one <= 1 for one in three):
            failing[symbol] = f"{three} add up to {sum(three)}"
    return Finding(f"sum at most {farthest:.1e} off", f"in [0, 1], sum 1 within {SUM_TOLERANCE:.0e}", len(rows), failing)


def sigma_floor(evidence: Evidence) -> Finding:
    """No volatility below the floor, which would give stops of no distance."""
    rows, failing, floors = evidence.rows(MARKET_STATE), {}, set()
    for symbol, row in rows.items():
        if (parameters := evidence.parameters_of(row, symbol)) is None:
            continue  # ``recomputed`` says so
        floors.add(floor := parameters["market_state"]["vol"]["sigma_floor"])
        if not row["sigma"] >= floor - PRINTED["sigma"]:
            failing[symbol] = f"sigma {row['sigma']}"
    smallest = min((row["sigma"] for row in rows.values()), default=0.0)
    allowed = " or ".join(f"{floor:.0e}" for floor in sorted(floors)) or "its floor"
    return Finding(f"smallest {smallest:.2e}", f">= {allowed}", len(rows), failing)


def tick_fits(evidence: Evidence) -> Finding:
    """No market's price moves in steps coarser than the stop distance, the least one where no position is open."""
    rows, proposals, failing = evidence.rows(MARKET_STATE), evidence.rows(RISK_PROPOSAL), {}
    ticks = {symbol: row["tick_pct"] for symbol, row in rows.items() if row["tick_pct"] is not None}
    for symbol, tick in ticks.items():
        if symbol in proposals:
            stop = proposals[symbol]["stop_dist_pct"]
        elif (parameters := evidence.parameters_of(rows[symbol], symbol)) is not None:
            stop = parameters["stops"]["sl_min_pct"]
        else:
            continue  # ``recomputed`` says so
        if tick > stop:
            failing[symbol] = f"tick {tick:.2%} of the price, stop distance {stop:.2%}"
    coarsest = max(ticks.values(), default=0.0)
    return Finding(f"coarsest tick {coarsest:.4%}", "<= the stop distance", len(ticks), failing)


def recomputed(evidence: Evidence) -> Finding:
    """The published state follows from the very candles it names; what a simpler proof has found is left to that."""
    simpler = (probabilities, sigma_floor, enough_candles, tick_fits)
    elsewhere = {symbol for proof_of in simpler for symbol in proof_of(evidence).failing}

    def judge(symbol: str, row: dict[str, Any], parameters: Mapping[str, Any]) -> tuple[str, float]:
        used = used_by(evidence, symbol, row)
        if used is None:
            return "the candles it was computed from are no longer those under its key", 0.0
        wrong = [f"{name} {row[name]}, recomputed {used[name]}" for name in GRID if not _alike(row[name], used[name])]
        differs, largest = compare(row, reference.market_state(used["closes"], parameters["market_state"]), PRINTED)
        return differs or ", ".join(wrong), largest

    return recomputed_by_profile(evidence, MARKET_STATE, judge, elsewhere)


def _alike(published: float | None, recomputed: float | None) -> bool:
    if published is None or recomputed is None:
        return published is recomputed
    return math.isclose(published, recomputed, rel_tol=1e-9)


def used_by(evidence: Evidence, symbol: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Find the candles a state was computed from among those that are there now, by their fingerprint."""
    candles, settings, digest = evidence.candles[symbol].value, evidence.settings, row["candles_digest"]
    if candles is None:
        return None
    fill = settings.candle_fill == "flat"
    # All symbols of a profile have a grid as long as its longest window needs.
    for count in {profile.candles_required for profile in evidence.profiles_of(row, symbol)}:
        for until in range(len(candles.close), 0 if fill else count - 1, -1):
            if fill or candles_digest(candles.close[:until], count) == digest:
                found = _grid_of(candles, settings, until, count)
                if symbol in settings.ticks:
                    found["tick_pct"] = settings.ticks[symbol] / found["closes"][-1]
                if candles_digest(np.array(found["closes"]), count) == digest:
                    return found
    return None


def enough_candles(evidence: Evidence) -> Finding:
    """A state rests on as many candles as its windows need (257 by the specification), and there are as many now."""
    rows, failing, fewest, needs = evidence.rows(MARKET_STATE), {}, 10**9, set()
    for symbol in evidence.symbols:
        reading, row = evidence.candles[symbol], rows.get(symbol)
        profile = (evidence.profile_of(row, symbol) if row is not None else None) or evidence.in_force.profile
        needs.add(required := profile.candles_required)
        there = _closes_there(reading.value, evidence.settings, required) if reading.value is not None else 0
        used = row["buffer_size"] if row is not None else there
        fewest = min(fewest, there, used)
        if min(there, used) < required:
            failing[symbol] = reading.reason or f"{there} candles, the state used {used}"
    return Finding(f"fewest {fewest}", f">= {' or '.join(map(str, sorted(needs)))}", len(evidence.symbols), failing)


def _closes_there(candles: Candles, settings: Settings, required: int) -> int:
    if settings.candle_fill == "none":
        return len(candles.close)
    return len(_grid_of(candles, settings, len(candles.close), required)["closes"])


def _grid_of(candles: Candles, settings: Settings, until: int, required: int) -> dict[str, Any]:
    times, closes, volumes = (one[:until].tolist() for one in (candles.open_time_ms, candles.close, candles.volume))
    return reference.grid(
        times,
        closes,
        volumes,
        interval_sec=settings.candle_interval_sec,
        fill=settings.candle_fill == "flat",
        gap_max=settings.gap_max_intervals,
        inactive_candles=settings.market_inactive_candles,
        closes_used=required,
    )


def live_source(evidence: Evidence) -> Finding:
    """Prices are the market's, or what the settings say aloud."""
    settings = evidence.settings
    accepted = {"candles"} if settings.marketstate_source == "candles" else {"synthetic"}
    if settings.allow_synthetic and settings.marketstate_source == "candles":
        accepted |= {"replay"}
    rows = evidence.rows(MARKET_STATE)
    failing = {symbol: f"source {row['source']}" for symbol, row in rows.items() if row["source"] not in accepted}
    seen = Counter(row["source"] for row in rows.values())
    return Finding(
        ", ".join(f"{name} {count}" for name, count in seen.items()), " or ".join(sorted(accepted)), len(rows), failing
    )


def stream_entry(evidence: Evidence) -> Finding:
    """Each publication is in the stream, once."""
    rows, texts = evidence.rows(MARKET_STATE), evidence.raw(MARKET_STATE)
    failing: dict[str, str] = {}
    newest: dict[str, dict[str, str]] = {}
    named = by_underlying(rows)
    for fields in (entry.fields for entry in evidence.stream("stream_market_state")):
        symbol = fields.get("symbol", "")
        if symbol in newest and newest[symbol].get("cycle_id") == fields.get("cycle_id") is not None:
            failing |= dict.fromkeys(named.get(symbol, ()), f"two entries of cycle {fields['cycle_id']}")
        newest[symbol] = fields
    for symbol in rows:
        entry = newest.get(underlying(symbol), {})
        wanted = {name: texts[symbol][name] for name in ("sigma", "mu", "ts")} | {"timestamp": texts[symbol]["ts_timestamp"]}
        if symbol not in failing and {name: entry.get(name) for name in wanted} != wanted:
            failing[symbol] = "the newest entry is not what the hash says" if entry else "no entry"
    return Finding(
        f"{len(rows) - len(failing)} of {len(rows)}", "the newest entry equals the hash, none doubled", len(rows), failing
    )


def _self_test_closes() -> list[np.ndarray]:
    return [
        synthetic.trend(SELF_TEST_CLOSES, seed=1),
        synthetic.mean_revert(SELF_TEST_CLOSES, seed=2),
        synthetic.chop(SELF_TEST_CLOSES, seed=3),
    ]


def theta_override(evidence: Evidence) -> Finding:  # noqa: ARG001 - a proof about the kernel as it is loaded
    """A parameter that is overridden moves its column; one that does not exist is refused."""
    closes, counts = closes_matrix(_self_test_closes())
    plain, failing = kernel(closes, counts), {}
    for (group, name), (value, column) in OVERRIDES.items():
        moved = kernel(closes, counts, MarketStateTheta().override({group: {name: value}}))
        if np.array_equal(getattr(plain, column), getattr(moved, column)):
            failing[f"{group}.{name}"] = f"{column} did not move"
    try:
        MarketStateTheta().override({"vol": {"windwo": 1}})
        failing["vol.windwo"] = "an unknown parameter was accepted"
    except ThetaError:
        pass
    return Finding(f"{len(OVERRIDES)} overrides", "each moves its column", len(OVERRIDES) + 1, failing)


def deterministic(evidence: Evidence) -> Finding:  # noqa: ARG001
    """The same closes give the same bits, alone or among others, now or again."""
    series = _self_test_closes()
    together = kernel(*closes_matrix(series))
    failing = {}
    for row, closes in enumerate(series):
        alone = kernel(*closes_matrix([closes]))
        if any(getattr(alone, name)[0] != getattr(together, name)[row] for name in STATE_COLUMNS):
            failing[f"series {row}"] = "alone it gives other numbers than among others"
    again = kernel(*closes_matrix(series))
    if any(not np.array_equal(getattr(again, name), getattr(together, name)) for name in STATE_COLUMNS):
        failing["all"] = "a second run gives other numbers"
    return Finding(f"{len(series)} series, alone, together and again", "equal bits", len(series), failing)


def regimes(evidence: Evidence) -> Finding:  # noqa: ARG001
    """A trend raises the trend's probability, mean reversion its own."""
    state = kernel(*closes_matrix(_self_test_closes()))
    trend, mean_revert, chop = range(3)
    failing = {}
    if not state.p_trend[trend] > max(state.p_trend[mean_revert], state.p_trend[chop]):
        failing["TREND"] = f"p_trend {state.p_trend}"
    if not state.p_mr[mean_revert] > max(state.p_mr[trend], state.p_mr[chop]):
        failing["MEAN_REVERT"] = f"p_mr {state.p_mr}"
    if not state.p_chop[chop] > max(state.p_chop[trend], state.p_trend[chop], state.p_mr[chop]):
        failing["CHOP"] = f"p_chop {state.p_chop}"
    return Finding(
        f"p_trend {state.p_trend[trend]:.3f}, p_mr {state.p_mr[mean_revert]:.3f}, p_chop {state.p_chop[chop]:.3f}",
        "each path raises its own regime most",
        3,
        failing,
    )


PROOFS = (
    calc_only_imports(MARKET_STATE.asset),
    contract(MARKET_STATE, lambda evidence: evidence.symbols),
    proof("probabilities", "Regime probabilities are in [0, 1] and add up to 1.", probabilities),
    proof("sigma_floor", "No sigma is below the floor.", sigma_floor),
    proof("recomputed", "Recomputed plainly from the same candles, every number comes out as published.", recomputed),
    proof("tick_fits", "No price moves in steps coarser than the stop distance.", tick_fits, "WARN"),
    proof("enough_candles", "Every state rests on as many candles as its windows need, and they are there.", enough_candles),
    proof("live_source", "Prices are the market's own, unless the settings allow a replay.", live_source),
    lifetime(MARKET_STATE),
    fresh(MARKET_STATE.asset),
    proof("stream_entry", "Every publication is in the stream, exactly once.", stream_entry),
    proof(
        "theta_override",
        "Overriding a parameter moves what it should; an unknown one is refused.",
        theta_override,
        per_symbol=False,
    ),
    proof("deterministic", "The same closes give the same bits.", deterministic, per_symbol=False),
    proof("regimes", "Replayed trend, mean reversion and chop are recognised.", regimes, per_symbol=False),
)
