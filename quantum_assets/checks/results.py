"""Verdicts as Dagster check results: what a page shows of one. Judging and deciding when to record stay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from quantum_assets.checks.proof import SOUND, Finding, Severity, Verdict
from quantum_core.settings import Settings
from resources.instance.dagster_internals import check_evaluation

SHOWN = 50  # rows of the table of failing symbols; the count is always exact
SEVERITIES = {"ERROR": dg.AssetCheckSeverity.ERROR, "WARN": dg.AssetCheckSeverity.WARN}


def severity_of(verdict: Verdict) -> Severity:
    """How a failure is shown: what could not be evaluated has not failed, and is a warning that says why.

    The stored verdict, which alerts and `quantum prove` act on, stays an error.
    """
    return verdict.severity if verdict.evaluated else "WARN"


def description_of(verdict: Verdict) -> str:
    """Say what was observed; that nothing was judged comes first."""
    observed = verdict.finding.observed
    if not verdict.evaluated:
        return f"not evaluated: {observed.removeprefix('could not be evaluated: ')}"
    return observed if verdict.finding.judged else f"nothing to judge: {observed}"


def result_of(verdict: Verdict, settings: Settings) -> dg.AssetCheckResult:
    """Build the result of one proof over all symbols, for the step that checks it."""
    proof = verdict.proof
    return dg.AssetCheckResult(asset_key=settings.asset_path(proof.asset), check_name=proof.name, **_verdict_fields(verdict))


def evaluation_of(verdict: Verdict, settings: Settings) -> dg.AssetCheckEvaluation:
    """Build the same result for a step that is no check."""
    return check_evaluation(settings.asset_path(verdict.proof.asset), verdict.proof.name, **_verdict_fields(verdict))


def _verdict_fields(verdict: Verdict) -> dict[str, Any]:
    proof = verdict.proof
    return {
        "passed": verdict.passed,
        "severity": SEVERITIES[severity_of(verdict)],
        "description": description_of(verdict),
        "metadata": {
            **evidence_of(verdict.finding, "symbol" if proof.per_symbol else "what"),
            "claim": proof.claim,
            "group": proof.group,
        },
    }


def evidence_of(finding: Finding, what: str = "symbol") -> dict[str, Any]:
    """Lay out a finding as metadata: value seen, threshold, counts, and who fails."""
    metadata: dict[str, Any] = {
        "observed": finding.observed,
        "threshold": finding.threshold,
        "judged": finding.judged,
        "failing": len(finding.failing),
    }
    if finding.failing:
        records = [dg.TableRecord({what: name, "why": why}) for name, why in list(finding.failing.items())[:SHOWN]]
        schema = dg.TableSchema(columns=[dg.TableColumn(what), dg.TableColumn("why")])
        metadata["failing_table"] = dg.MetadataValue.table(records, schema=schema)
    return metadata


def sound_of_symbol(asset: str, symbol: str, failing: Mapping[str, Verdict], settings: Settings) -> dg.AssetCheckEvaluation:
    """Build the result of the check ``sound`` for one symbol: the proofs that do not hold, each with the reason."""
    whys = {title: one.finding.failing.get(symbol, description_of(one)) for title, one in failing.items()}
    unjudged = [one for one in failing.values() if not one.evaluated]
    return check_evaluation(
        settings.asset_path(asset),
        SOUND,
        partition=symbol,
        passed=not failing,
        severity=SEVERITIES[_worst(failing.values())],
        description=description_of(unjudged[0]) if unjudged and len(unjudged) == len(failing) else None,
        metadata={"symbol": symbol, "failing": len(failing) - len(unjudged), "not_evaluated": len(unjudged), **whys},
    )


def sound_of_asset(asset: str, verdicts: Sequence[Verdict], settings: Settings) -> dg.AssetCheckEvaluation:
    """Build the summary of the check ``sound``: the failing proofs of an asset with a link to each, the worst first.

    What could not be judged has not failed: it is named apart, with the reason.
    """
    failing = sorted(
        (verdict for verdict in verdicts if not verdict.passed), key=lambda verdict: (severity_of(verdict), verdict.proof.name)
    )
    page = "/".join(settings.asset_path(asset))
    lines = [
        f"- {_state(verdict)}: [{verdict.proof.name}](/assets/{page}?view=checks&checkDetail={verdict.proof.name}): "
        f"{_failing_names(verdict)}"
        for verdict in failing
    ]
    failed = [verdict.proof.name for verdict in failing if verdict.evaluated]
    unjudged = [verdict for verdict in failing if not verdict.evaluated]
    sentences = [f"{len(verdicts) - len(failing)} of {len(verdicts)} proofs hold"]
    sentences += [f"not: {', '.join(failed)}"] if failed else []
    sentences += [f"{description_of(unjudged[0])} ({', '.join(verdict.proof.name for verdict in unjudged)})"] if unjudged else []
    return check_evaluation(
        settings.asset_path(asset),
        SOUND,
        passed=not failing,
        severity=SEVERITIES[_worst(failing)],
        description="; ".join(sentences),
        metadata={
            "proofs": len(verdicts),
            "failing": len(failed),
            "not_evaluated": len(unjudged),
            **({"failing_proofs": dg.MetadataValue.md("\n".join(lines))} if lines else {}),
        },
    )


def _state(verdict: Verdict) -> str:
    if not verdict.evaluated:
        return "not evaluated"
    return "warning" if severity_of(verdict) == "WARN" else "failed"


def _worst(verdicts: Any) -> Severity:
    shown = [severity_of(one) for one in verdicts]
    return "WARN" if shown and "ERROR" not in shown else "ERROR"


def _failing_names(verdict: Verdict) -> str:
    names = list(verdict.finding.failing)
    if not names:
        return description_of(verdict).removeprefix("not evaluated: ")
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
