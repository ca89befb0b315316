"""The whole pack: which proofs there are, how they are judged, where the verdicts are kept for those who do not ask Dagster."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Proof, Verdict
from quantum_assets.checks.proofs import (
    capital,
    governor_permit,
    harvest_proposal,
    history,
    informative,
    market_state,
    position_size,
    product,
    risk_guard,
    risk_proposal,
    trade_intent,
)
from resources.store.redis_store import RedisStore

PROOFS: tuple[Proof, ...] = (
    *market_state.PROOFS,
    *risk_proposal.PROOFS,
    *harvest_proposal.PROOFS,
    *capital.PROOFS,
    *position_size.PROOFS,
    *risk_guard.PROOFS,
    *trade_intent.PROOFS,
    *governor_permit.PROOFS,
    *product.PROOFS,
    *informative.PROOFS,
    *history.PROOFS,
)
GROUPS = tuple(dict.fromkeys(proof.group for proof in PROOFS))
LOOKS = 3  # at what fails
LOOK_AGAIN_SEC = 2.5  # longer than a cycle writes: what was half-way is done the next time
NAMES_STORED = 200  # of failing symbols per proof; the count is always exact
RUN_FIELD = "_run"  # of the stored verdicts: when the last run ended, and how long it took


def judge(proof: Proof, evidence: Evidence) -> Verdict:
    """Judge one proof; what cannot be judged has failed, and says why."""
    return evaluated(proof, lambda: proof.judge(evidence))


def evaluated(proof: Proof, find: Callable[[], Finding]) -> Verdict:
    """Give the verdict of a proof on whatever ``find`` looks at; when it raises, the proof has failed, and says why."""
    try:
        return Verdict(proof, find())
    except Exception as error:  # noqa: BLE001 - whatever it is: a proof that could not be evaluated is no pass
        told = f"could not be evaluated: {type(error).__name__}: {error}"
        return Verdict(proof, Finding(told, "an answer", 0), evaluated=False)


def run(
    look: Callable[[], Evidence], proofs: Sequence[Proof] = PROOFS, *, look_again_sec: float = LOOK_AGAIN_SEC
) -> list[Verdict]:
    """Judge proofs, and look again at what fails: only what is wrong each time is wrong.

    Parameters
    ----------
    look
        Takes the evidence anew.
    proofs
        Which.
    look_again_sec
        Pause before another look. A cycle in its middle has new states beside old proposals, and where candles come every few
        seconds the second look may fall into the next one.
    """
    evidence = look()
    verdicts = [judge(proof, evidence) for proof in proofs]
    for _ in range(LOOKS - 1):
        if all(verdict.passed for verdict in verdicts):
            break
        time.sleep(look_again_sec)
        evidence = look()
        verdicts = [one if one.passed else _confirmed(one, judge(one.proof, evidence)) for one in verdicts]
    return verdicts


def _confirmed(first: Verdict, second: Verdict) -> Verdict:
    if not first.evaluated or not second.evaluated:
        return second
    both = {name: why for name, why in second.finding.failing.items() if name in first.finding.failing}
    return replace(second, finding=replace(second.finding, failing=both))


def store_verdicts(store: RedisStore, verdicts: Sequence[Verdict], *, seconds: float) -> None:
    """Keep the verdicts where the watcher and other programs read them.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    now = store.clock().timestamp()
    fields: list[str] = []
    for one in verdicts:
        fields += [one.proof.title, json.dumps(told(one, now))]
    fields += [RUN_FIELD, json.dumps({"finished_at": now, "seconds": round(seconds, 3)})]
    key = store.keys.of("proofs")  # replaced as a whole: a proof that was renamed must not fail for ever
    store.run("storing verdicts", [("MULTI",), ("DEL", key), ("HSET", key, *fields), ("EXEC",)])


def told(verdict: Verdict, now: float) -> dict[str, object]:
    """Lay out one verdict for JSON."""
    finding = verdict.finding
    return {
        "passed": verdict.passed,
        "evaluated": verdict.evaluated,
        "severity": verdict.severity,
        "evaluated_at": now,
        "judged": finding.judged,
        "failing": dict(list(finding.failing.items())[:NAMES_STORED]),
        "failing_count": len(finding.failing),
        "per_symbol": verdict.proof.per_symbol,
        "observed": finding.observed,
        "threshold": finding.threshold,
    }


def by_symbol(verdicts: Sequence[Verdict], symbols: Sequence[str]) -> Mapping[str, Mapping[str, Mapping[str, Verdict]]]:
    """Sort failing per-symbol proofs by asset and symbol: asset -> symbol -> title -> verdict."""
    by_asset: dict[str, dict[str, dict[str, Verdict]]] = defaultdict(lambda: {symbol: {} for symbol in symbols})
    for verdict in verdicts:
        if not verdict.proof.per_symbol:
            continue
        failing = by_asset[verdict.proof.asset]
        for symbol in symbols if not verdict.evaluated else verdict.finding.failing:
            if symbol in failing:
                failing[symbol][verdict.proof.title] = verdict
    return by_asset
