"""What a proof is, and what becomes of it. Judging and reading stay out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from quantum_assets.checks.evidence import Evidence

SOUND = "sound"  # name of the check of one symbol: all per-symbol proofs of an asset
RENEWED_AFTER_SEC = 3600  # that check is recorded again this often although nothing has changed
Severity = Literal["ERROR", "WARN"]
Judge: TypeAlias = "Callable[[Evidence], Finding]"


@dataclass(frozen=True)
class Finding:
    """What one proof found.

    Attributes
    ----------
    observed
        The value that decides, as text (``largest difference 0``).
    threshold
        What is accepted, as text.
    judged
        Symbols (or plans, or modules) that were looked at.
    failing
        What is wrong, by symbol (or plan, or module); empty when the proof holds.
    severity
        How bad that is, where it depends on what was found; else the proof says it.
    """

    observed: str
    threshold: str
    judged: int
    failing: Mapping[str, str] = field(default_factory=dict)
    severity: Severity | None = None


@dataclass(frozen=True)
class Proof:
    """One claim.

    Attributes
    ----------
    asset
        The asset it is a check of.
    name
        Name of the check.
    group
        The asset, or ``all`` for claims about the product as a whole.
    severity
        ERROR: the number must not be used. WARN: the number is right, but somebody should look.
    claim
        What is proven, as a sentence.
    judge
        Finds what contradicts the claim; what it raises is a proof that could not be evaluated, and has failed.
    per_symbol
        Whether ``failing`` names symbols.
    """

    asset: str
    name: str
    group: str
    severity: Severity
    claim: str
    judge: Judge
    per_symbol: bool = True

    @property
    def title(self) -> str:
        """Name it across assets; the tampering in ``tests/checks/test_tampering.py`` that it alone detects has the same name."""
        return f"{self.asset}/{self.name}"


class Prover:
    """Builds the proofs of one asset.

    Parameters
    ----------
    asset
        The asset.
    group
        Another group than the asset's own.
    per_symbol
        Whether ``failing`` of its proofs names symbols, where a proof does not say otherwise.
    """

    def __init__(self, asset: str, *, group: str = "", per_symbol: bool = True) -> None:
        self.asset, self.group, self.per_symbol = asset, group or asset, per_symbol

    def __call__(
        self, name: str, claim: str, judge: Judge, severity: Severity = "ERROR", *, per_symbol: bool | None = None
    ) -> Proof:
        """Build one; see :class:`Proof`."""
        by_symbol = self.per_symbol if per_symbol is None else per_symbol
        return Proof(self.asset, name, self.group, severity, claim, judge, by_symbol)


@dataclass(frozen=True)
class Verdict:
    """A proof with what it found.

    Attributes
    ----------
    proof
        The claim.
    finding
        What was found; when it could not be evaluated, ``observed`` says why and ``evaluated`` is False.
    evaluated
        Whether it could be judged at all. What could not has failed.
    """

    proof: Proof
    finding: Finding
    evaluated: bool = True

    @property
    def severity(self) -> Severity:
        """How bad a failure is; what could not be judged may be as bad as can be."""
        return (self.finding.severity or self.proof.severity) if self.evaluated else "ERROR"

    @property
    def passed(self) -> bool:
        """Whether the claim holds."""
        return self.evaluated and not self.finding.failing
