"""Proofs of the asset ``position_size``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantum_assets.checks import reference
from quantum_assets.checks.common import FRESH, calc_only_imports, compare, contract, lifetime, recomputed_by_profile
from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_assets.position_size import no_equity
from quantum_core.contracts.tables import MARKET_STATE, POSITION_SIZE
from resources.governor.account import read_account

proof = Prover(POSITION_SIZE.asset)


def recomputed(evidence: Evidence) -> Finding:
    """Size and leverage follow from the inputs the proposal repeats, and no size is above its caps."""

    def judge(_: str, row: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[str, float]:
        expected = reference.position_size(row, candles_per_day=row["candles_per_day"], parameters=parameters["sizing"])
        return compare(row, expected)

    return recomputed_by_profile(evidence, POSITION_SIZE, judge, {})


def sized(evidence: Evidence) -> list[str]:
    """Symbols a size is due for: those with a market state, as long as there is a fresh equity."""
    if no_equity(read_account(evidence.store), evidence.in_force.profile):
        return []
    return [symbol for symbol, row in evidence.rows(MARKET_STATE).items() if row["close"] is not None]


def fresh(evidence: Evidence) -> Finding:
    """No size is older than proposals may be, as long as there is a fresh equity."""
    limit, rows, due = evidence.store.max_age_sec(POSITION_SIZE), evidence.rows(POSITION_SIZE), set(sized(evidence))
    ages = {symbol: evidence.now - row["last_update_epoch"] for symbol, row in rows.items() if symbol in due}
    failing = {symbol: f"position_size stale {age:.0f} s, limit {limit} s" for symbol, age in ages.items() if age > limit}
    return Finding(f"oldest {max(ages.values(), default=0):.0f} s", f"<= {limit} s", len(ages), failing)


PROOFS = (
    calc_only_imports(POSITION_SIZE.asset),
    contract(POSITION_SIZE, sized),
    lifetime(POSITION_SIZE),
    proof(FRESH, "No size is older than its limit while there is a fresh equity.", fresh),
    proof("recomputed", "Recomputed plainly from the inputs it repeats, every size comes out as published.", recomputed),
)
