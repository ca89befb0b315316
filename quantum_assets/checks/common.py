"""Proofs that several assets share, as factories; what is special to one asset is in its own module."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Proof, Prover
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import ContractError, Table
from quantum_core.contracts.tables import MARKET_STATE, TABLES
from quantum_core.freshness import CANDLES, WELL, Condition, Vital

FRESH = "fresh"  # name of the check that says how old an asset is: its badge
RELATIVE_TOLERANCE = 1e-9  # two implementations round differently in the last digits, not before
ABSOLUTE_TOLERANCE = 1e-12  # of ratios, probabilities and scores, which are differences of numbers near 1
PRICES = frozenset(item.name for table in TABLES for item in table.fields if item.unit == "quote")
KERNEL_LIBRARIES = frozenset({"numpy", "scipy"})
STANDARD_IN_KERNELS = frozenset(
    {"collections", "dataclasses", "enum", "hashlib", "itertools", "math", "sys", "typing", "datetime"}
)
CLOCKS = frozenset({"now", "utcnow", "today", "time", "monotonic", "perf_counter"})  # datetime itself reads times given as text
OURS_IN_KERNELS = "quantum_core.kernels"
KERNELS_OF = {  # module or package -> the asset whose formula it is; one that is not listed is proven with the market state's
    "position": "risk_proposal",
    "proposals.stops": "risk_proposal",
    "proposals.harvest": "harvest_proposal",
    "proposals.intent": "trade_intent",
    "proposals.sizing": "position_size",
    "capital.efficiency": "capital_efficiency",
    "capital.efficiency_hint": "capital_efficiency",
    "capital.allocation": "allocation_target",
    "governor": "governor_permit",
    "governor.risk_guard": "risk_guard",
}


def due(evidence: Evidence, symbols: Sequence[str], table: Table) -> dict[str, str]:
    """Name the symbols whose hash ought to be there and is not."""
    readings = evidence.readings(table)
    return {symbol: "missing" for symbol in symbols if readings[symbol].state is State.ABSENT}


def contract(table: Table, symbols: Callable[[Evidence], Sequence[str]]) -> Proof:
    """Every hash is there for each symbol it is due for, has all its fields, each in its format, as they were written."""

    def judge(evidence: Evidence) -> Finding:
        readings = evidence.readings(table)
        failing = {symbol: one.reason for symbol, one in readings.items() if one.state is State.FAILED}
        failing |= due(evidence, symbols(evidence), table)
        for symbol, texts in evidence.raw(table).items():
            row = readings[symbol].value
            if row is not None and (odd := misformatted(table, row, texts)):
                failing[symbol] = odd
        judged = len(evidence.raw(table))
        return Finding(f"{judged} hashes", f"{len(table.by_name)} fields, each in its format", judged, failing)

    return Prover(table.asset)(
        "contract",
        "Every hash that is due is there with all its fields, each in its format, unchanged since it was published.",
        judge,
        per_symbol=not table.of_account,
    )


def misformatted(table: Table, row: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """Name the first field that is not written as its format has it; empty when there is none."""
    try:
        for item in table.fields:
            if item.before is not ... and item.name not in texts:  # published before the field existed
                continue
            if (again := item.codec.encode(row[item.name])) != texts[item.name]:
                return f"{item.name}: {texts[item.name]!r} should read {again!r}"
    except ContractError as error:
        return str(error)
    return ""


def lifetime(table: Table) -> Proof:
    """No hash outlives its publisher for longer than it may."""

    def judge(evidence: Evidence) -> Finding:
        limit_ms = evidence.store.ttl_sec(table) * 1000
        lifetimes = evidence.lifetimes_ms(table)
        failing = {
            symbol: "no lifetime: it would stay for ever" if ms < 0 else f"{ms / 1000:.0f} s"
            for symbol, ms in lifetimes.items()
            if not 0 <= ms <= limit_ms
        }
        longest = max(lifetimes.values(), default=0) / 1000
        return Finding(f"longest {longest:.0f} s", f"> 0 and <= {limit_ms / 1000:.0f} s", len(lifetimes), failing)

    return Prover(table.asset)(
        "lifetime",
        "Every hash expires by itself, so that a dead publisher's values vanish.",
        judge,
        per_symbol=not table.of_account,
    )


def asset_of_kernel(module: str) -> str:
    """Name the asset whose formula a kernel module is: its own entry counts before its package's."""
    name = module.removeprefix(f"{OURS_IN_KERNELS}.")
    return KERNELS_OF.get(name) or KERNELS_OF.get(name.partition(".")[0], "market_state")


def calc_only_imports(asset: str) -> Proof:
    """The kernels of an asset compute and do nothing else."""

    def judge(evidence: Evidence) -> Finding:
        kernels = [name for name in evidence.modules if name.startswith(OURS_IN_KERNELS) and asset_of_kernel(name) == asset]
        failing = {}
        for name in kernels:
            module = evidence.modules[name]
            if odd := sorted(imported for imported in module.imports if not _harmless(imported)):
                failing[name] = f"imports {', '.join(odd)}"
            elif clocks := CLOCKS & {named.rpartition(".")[2] for named in module.attributes}:
                failing[name] = f"looks at the clock: {', '.join(sorted(clocks))}"
        return Finding(f"{len(kernels)} kernel modules", f"only {', '.join(sorted(KERNEL_LIBRARIES))}", len(kernels), failing)

    return Prover(asset)(
        "calc_only_imports",
        "The kernels import nothing that could read, write, trade or look at a clock.",
        judge,
        per_symbol=False,
    )


def _harmless(module: str) -> bool:
    top = module.split(".")[0]
    return module.startswith(OURS_IN_KERNELS) or top in KERNEL_LIBRARIES | STANDARD_IN_KERNELS


def market_state_present(asset: str) -> Proof:
    """No proposal without the state it rests on."""

    def judge(evidence: Evidence) -> Finding:
        readings = evidence.readings(MARKET_STATE)
        failing = {s: readings[s].reason for s in evidence.open_positions if readings[s].state is not State.PRESENT}
        judged = len(evidence.open_positions)
        return Finding(f"{judged - len(failing)} of {judged}", "a readable market state per open position", judged, failing)

    return Prover(asset)("market_state_present", "Every symbol with an open position has a readable market state.", judge)


def fresh(asset: str) -> Proof:
    """No value is older than consumers may believe it to be."""

    def judge(evidence: Evidence) -> Finding:
        return freshness_finding(asset, evidence.freshness.vitals)

    return Prover(asset)(FRESH, "No value is older than its limit; a 10-second asset older than half of it is a warning.", judge)


def freshness_finding(asset: str, vitals: Iterable[Vital], judged: int | None = None) -> Finding:
    """Find what is too old of one asset.

    Parameters
    ----------
    asset
        The asset; a market state is as fresh as its candles.
    vitals
        Of everything that is due.
    judged
        How many there are, where the vitals are only those of the symbols that may be old.
    """
    things = (asset, CANDLES) if asset == MARKET_STATE.asset else (asset,)
    due = [vital for vital in vitals if vital.thing in things]
    old = {vital.symbol: _vital_text(vital) for vital in due if vital.condition is not Condition.FRESH}
    too_old = any(vital.condition not in WELL for vital in due)
    oldest = max((vital.age_sec for vital in due if vital.age_sec is not None and vital.thing == asset), default=0.0)
    limits = ", ".join(f"{thing} {limit:.0f} s" for thing, limit in sorted({(vital.thing, vital.limit_sec) for vital in due}))
    return Finding(
        f"oldest {oldest:.0f} s" if due or judged is None else "none is old",
        f"<= {limits}" if limits else "its limit" if judged is not None else "<= nothing is due",
        len(due) if judged is None else judged,
        old,
        "ERROR" if too_old else "WARN" if old else None,
    )


def _vital_text(vital: Vital) -> str:
    age = "" if vital.age_sec is None else f" {vital.age_sec:.0f} s, limit {vital.limit_sec:.0f} s"
    return f"{vital.thing} {vital.condition}{age}{f': {vital.detail}' if vital.detail else ''}"


def compare(
    published: Mapping[str, Any], computed: Mapping[str, Any], tolerance: Mapping[str, float] | None = None
) -> tuple[str, float]:
    """Compare published values with those of the second implementation.

    Parameters
    ----------
    published, computed
        Values by field; all of ``computed`` are compared.
    tolerance
        Absolute, by field: half of the last printed digit, for fields that are rounded. Without one it is 0 for prices, of which
        1e-12 may be all there is.

    Returns
    -------
    tuple
        The first difference in words (empty when there is none), and the largest relative difference of the numbers.
    """
    largest, first_difference = 0.0, ""
    for name, expected in computed.items():
        value = published[name]
        if not isinstance(expected, float) or not isinstance(value, float):
            if value != expected and not first_difference:
                first_difference = f"{name} is {_short(value)}, recomputed {_short(expected)}"
            continue
        absolute = (tolerance or {}).get(name, 0.0 if name in PRICES else ABSOLUTE_TOLERANCE)
        allowed = RELATIVE_TOLERANCE * abs(expected) + absolute
        difference = abs(value - expected)
        if not difference <= allowed and not first_difference:  # NaN differs from everything
            first_difference = f"{name} is {value!r}, recomputed {expected!r}"
        whole = max(abs(expected), min(absolute, ABSOLUTE_TOLERANCE)) or 1.0
        largest = max(largest, difference / whole if math.isfinite(difference) else math.inf)
    return first_difference, largest


def _short(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def recomputed_by_profile(
    evidence: Evidence,
    table: Table,
    judge: Callable[[str, dict[str, Any], dict[str, dict[str, Any]]], tuple[str, float]],
    elsewhere: Container[str] = (),
) -> Finding:
    """Recompute the rows of a table, each with the parameters it names.

    Parameters
    ----------
    evidence, table
        Where the rows are.
    judge
        Takes symbol, row and parameters by section; gives what :func:`compare` does.
    elsewhere
        Symbols that simpler proofs have found wrong: they are left to these.
    """
    judged = []
    for symbol, row in evidence.rows(table).items():
        if symbol in elsewhere:
            continue
        parameters = evidence.parameters_of(row, symbol)
        if parameters is None:
            judged.append((symbol, unknown_profile(row), 0.0))
        else:
            judged.append((symbol, *judge(symbol, row, parameters)))
    return recomputation(judged)


def unknown_profile(row: Mapping[str, Any]) -> str:
    """Say that a row was computed with parameters that cannot be found."""
    return f"computed with a profile nobody knows: {row['profile_name']} {row['profile']}"


def recomputation(judged: Iterable[tuple[str, str, float]]) -> Finding:
    """Build the finding of a recomputation proof out of (symbol, difference in words, largest relative difference)."""
    rows = list(judged)
    largest = max((size for _, _, size in rows), default=0.0)
    failing = {symbol: told for symbol, told, _ in rows if told}
    return Finding(f"largest relative difference {largest:.1e}", "equal as printed", len(rows), failing)
