"""What one evaluation shows, by alert: unhealthy, not sure yet, or about to be.

Pure. A thing never seen fresh is given its time, a heartbeat that has vanished is silent from when it was last heard, and
verdicts are not trusted before the product has settled. What is raised and cleared is decided in
``quantum_ops.alerts.incidents``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from quantum_core.display import moment_text
from quantum_core.freshness import CANDLES, ONLY_NAMED, WELL, Condition, Evaluation, Sign, StoredProof, Vital
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_ops.alerts.trading.decided import BACKLOG, BLOCKED, NOTHING_DECIDED, Decided
from quantum_ops.alerts.unusable import Guarded
from quantum_ops.alerts.words import PROOF, SYMBOL, Trouble, pack_trouble, part_trouble, proof_text, proof_trouble, symbol_trouble

Key = tuple[str, str]  # thing and symbol, as a Vital has them

PART_ALERTS = {"worker": "worker", "daemon": "daemon", "cycle": "loop"}
PACK = "proofs"
GRACE_SEC = 60.0  # a thing never seen fresh, or one that has vanished, is given so long
TOGETHER_SEC = 3.0  # symbols so close to their limit join those that cross it
CANDLES_TOGETHER = 0.85  # the same for candles, as a share of their limit: feeds of many symbols do not stop in one second
OWN_EYES = ("fresh", "process_alive", "right_side")  # proofs of what the watcher itself sees, sooner and without the pack,
ONLY_PROVEN = ("risk_guard/fresh",)  # but for this one: the watcher sees the age from which nothing is opened, which is later
EXPLAINED = {  # proofs that only repeat what an alert says already
    "risk_guard/readable": (BLOCKED, "guard:"),
    "risk_guard/fresh": (BLOCKED, "guard:"),
    "risk_proposal/one_cycle": (SYMBOL,),
}
PACK_INTERVALS = 3  # a proof pack that has not run for so many intervals has stopped


@dataclass
class Findings:
    """What one evaluation says, by alert."""

    unhealthy: dict[str, Trouble] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)  # not healthy, but not to be raised yet
    lingering: set[str] = field(default_factory=set)  # has not recovered, although it was fresh once or has had its time
    near: dict[str, Trouble] = field(default_factory=dict)  # about to cross the limit
    aging: set[str] = field(default_factory=set)  # worth a warning


class Observer:
    """Remembers of earlier evaluations what patience needs.

    Parameters
    ----------
    failing_sec
        A symbol that could not be computed for so long is unhealthy.
    proof_interval_sec
        The proof pack runs this often.
    started
        Now, epoch s.

    Attributes
    ----------
    trusted_from
        From when verdicts are believed, epoch s: after a start, and after a cause that shaped them.
    proven_at
        When the proof pack last ran, epoch s; 0 when that is not known.
    """

    def __init__(self, *, failing_sec: float, proof_interval_sec: float, started: float) -> None:
        self.failing_sec, self.proof_interval_sec = failing_sec, proof_interval_sec
        self._guarded = Guarded()
        self.begin(started)

    def begin(self, now: float) -> None:
        """Forget everything: nothing is known of the time before."""
        self._begun = now
        self.trusted_from = now + GRACE_SEC  # verdicts made before say more about the start than about the numbers
        self._seen: set[Key] = set()
        self._waiting: dict[Key, float] = {}
        self._heard: dict[str, float] = {}
        self._warned: dict[str, float] = {}  # failing proof -> when its first verdict was made
        self.proven_at = 0.0

    def distrust_until(self, moment: float) -> None:
        """Believe no verdict made before then, epoch s: a cause that lasted has shaped them."""
        self.trusted_from = max(self.trusted_from, moment)

    def look(self, evaluation: Evaluation, decided: Decided, active: Collection[str], now: float) -> Findings:
        """Take one evaluation in.

        Parameters
        ----------
        evaluation, decided
            See :meth:`quantum_ops.alerts.incidents.Ledger.observe`.
        active
            Alerts that are raised and not over.
        now
            Epoch s.
        """
        findings = Findings()
        for beat in evaluation.heartbeats:
            self._look_at_part(self._remembered(beat, now), findings, now)
        self._look_at_symbols(evaluation, findings, now)
        findings.unhealthy |= decided.troubles
        findings.unsure |= decided.unsure
        findings.lingering |= {BLOCKED, BACKLOG} & decided.troubles.keys()
        self._look_at_proofs(evaluation, findings, active, now)
        self._look_at_pack(evaluation.proofs_finished, findings, now)
        return findings

    def _look_at_symbols(self, evaluation: Evaluation, findings: Findings, now: float) -> None:
        unhealthy: defaultdict[str, list[Vital]] = defaultdict(list)
        near: defaultdict[str, list[Vital]] = defaultdict(list)
        for vital in evaluation.vitals:
            if self._is_unhealthy(vital, SYMBOL + vital.symbol, findings, now):
                unhealthy[vital.symbol].append(vital)
            elif vital.condition in WELL and vital.age_sec is not None and vital.age_sec > _near_sec(vital):
                near[vital.symbol].append(vital)
        due = {(vital.thing, vital.symbol) for vital in (*evaluation.heartbeats, *evaluation.vitals)}
        self._seen &= due  # what becomes due again is as new
        self._waiting = {key: since for key, since in self._waiting.items() if key in due}
        for symbol, failures in evaluation.failures.items():
            if any(now - failure.since >= self.failing_sec for failure in failures.values()):
                unhealthy.setdefault(symbol, [])
            elif failures:
                findings.unsure.add(SYMBOL + symbol)
        for symbol, vitals in {**near, **unhealthy}.items():
            alert, failures = SYMBOL + symbol, evaluation.failures.get(symbol, {})
            trouble: Trouble | None = self._guarded.call(
                alert, None, symbol_trouble, symbol, vitals, failures, now, evaluation.opening_sec
            )
            if trouble is None:
                findings.unsure.add(alert)
            else:
                (findings.unhealthy if symbol in unhealthy else findings.near)[alert] = trouble

    def _is_unhealthy(self, vital: Vital, alert: str, findings: Findings, now: float) -> bool:
        """Return whether a thing's time is up; note under its alert what else there is to know."""
        key = (vital.thing, vital.symbol)
        if vital.condition is Condition.AGING:
            findings.aging.add(alert)
        if vital.condition in WELL:
            if vital.age_sec is None or now - vital.age_sec > self._begun:
                self._seen.add(key)
                self._waiting.pop(key, None)
            else:  # left by a predecessor, which may have died with it: given the same grace as what was never seen
                self._waiting.setdefault(key, now)
            return False
        due_since = self._waiting.setdefault(key, now)
        was_healthy = key in self._seen
        unhealthy = (was_healthy and vital.condition is not Condition.MISSING) or now - due_since >= GRACE_SEC
        if was_healthy or unhealthy:
            findings.lingering.add(alert)
        if not unhealthy:
            findings.unsure.add(alert)
        return unhealthy

    def _remembered(self, beat: Vital, now: float) -> Vital:
        """Count the silence of a part whose heartbeat has vanished from when it was last heard."""
        if beat.age_sec is not None:
            self._heard[beat.thing] = now - beat.age_sec
        heard = self._heard.get(beat.thing)
        if beat.condition is not Condition.MISSING or heard is None:
            return beat
        silence = now - heard
        return beat._replace(condition=Condition.STALE if silence > beat.limit_sec else Condition.AGING, age_sec=silence)

    def _look_at_part(self, beat: Vital, findings: Findings, now: float) -> None:
        alert = PART_ALERTS[beat.thing]
        if self._is_unhealthy(beat, alert, findings, now):
            findings.unhealthy[alert] = part_trouble(alert, beat, now)

    def _look_at_proofs(self, evaluation: Evaluation, findings: Findings, active: Collection[str], now: float) -> None:
        symbols = {SYMBOL + vital.symbol for vital in evaluation.vitals}
        warned: dict[str, float] = {}
        for proof in evaluation.proofs:
            self._guarded.call(
                f"proof {proof.title}", None, self._look_at_proof, proof, evaluation, symbols, warned, findings, active, now
            )
        self._warned = warned

    def _look_at_proof(
        self,
        proof: StoredProof,
        evaluation: Evaluation,
        symbols: set[str],
        warned: dict[str, float],
        findings: Findings,
        active: Collection[str],
        now: float,
    ) -> None:
        judged_by_watcher = proof.title.rpartition("/")[2] in OWN_EYES and proof.title not in ONLY_PROVEN
        if proof.passed or judged_by_watcher or _is_only_named(proof):
            return
        if _is_explained(proof.title, findings, active):
            findings.unsure.add(PROOF + proof.title)
            return
        failing = {SYMBOL + symbol: failure for symbol, failure in proof.failing.items()}
        named = proof.per_symbol and failing and failing.keys() <= symbols
        reported = failing if named else {PROOF + proof.title: proof_text(proof)}
        first_warned_at = warned[proof.title] = self._warned.get(proof.title, proof.evaluated_at)
        # A first warning may be the first sign of a failure, or nothing.
        warned_once = proof.severity == "WARN" and first_warned_at == proof.evaluated_at
        for alert, failure in reported.items():
            if warned_once or proof.evaluated_at < self.trusted_from:
                findings.unsure.add(alert)
            else:
                trouble = findings.unhealthy.get(alert) or _known_cause(alert, evaluation, now)
                findings.unhealthy[alert] = proof_trouble(trouble, alert, proof, failure)

    def _look_at_pack(self, finished: Sign, findings: Findings, now: float) -> None:
        limit = PACK_INTERVALS * self.proof_interval_sec
        why = finished.trouble
        if finished.epoch is not None and finished.epoch - now > CLOCK_SKEW_SEC:  # it would look fresh for as long as that lasts
            ahead = f"its last run is dated {moment_text(finished.epoch)}, ahead of the clock"
            if now >= self.trusted_from:
                findings.unhealthy[PACK] = pack_trouble(ahead, self.proven_at or now, limit, ahead=True)
            else:
                findings.unsure.add(PACK)
            return
        if finished.epoch is not None:
            self.proven_at = finished.epoch
            if now - finished.epoch <= limit:
                return
        last = max(self.proven_at, self.trusted_from)
        if now - last <= limit:
            findings.unsure.add(PACK)
            return
        findings.unhealthy[PACK] = pack_trouble(why, self.proven_at or last, limit)


def _is_only_named(proof: StoredProof) -> bool:
    return proof.title in ONLY_NAMED and proof.severity == "WARN"  # an error is a proof that could not be judged


def _is_explained(title: str, findings: Findings, active: Collection[str]) -> bool:
    causes = EXPLAINED.get(title, ())
    return bool(causes) and any(alert.startswith(causes) for alert in (*findings.unhealthy, *findings.unsure, *active))


def _near_sec(vital: Vital) -> float:
    """Give the age from which a thing joins others that have crossed their limit."""
    return CANDLES_TOGETHER * vital.limit_sec if vital.thing == CANDLES else vital.limit_sec - TOGETHER_SEC


def _known_cause(alert: str, evaluation: Evaluation, now: float) -> Trouble | None:
    """Say why a symbol fails a proof where that is known before its limits are crossed."""
    symbol = alert.removeprefix(SYMBOL)
    failures = evaluation.failures.get(symbol, {})
    vitals = [vital for vital in evaluation.vitals if vital.symbol == symbol and vital.condition not in WELL]
    if not alert.startswith(SYMBOL) or not (failures or vitals):
        return None
    return symbol_trouble(symbol, vitals, failures, now, evaluation.opening_sec)


def wrong_now(evaluation: Evaluation, now: float, decided: Decided = NOTHING_DECIDED) -> list[Trouble]:
    """List everything an evaluation alone shows to be wrong: no grace, and consequences beside their causes.

    Parameters
    ----------
    evaluation
        As :func:`quantum_core.freshness.evaluate` gives it.
    now
        The time it was made for, epoch s.
    decided
        What follows from the switches, guards, plans and stops.
    """
    troubles = {
        PART_ALERTS[beat.thing]: part_trouble(PART_ALERTS[beat.thing], beat, now)
        for beat in evaluation.heartbeats
        if beat.condition not in WELL
    }
    troubles |= decided.troubles
    by_symbol: defaultdict[str, list[Vital]] = defaultdict(list)
    for vital in evaluation.vitals:
        if vital.condition not in WELL:
            by_symbol[vital.symbol].append(vital)
    for symbol in sorted({*by_symbol, *(name for name, failures in evaluation.failures.items() if failures)}):
        failures = evaluation.failures.get(symbol, {})
        troubles[SYMBOL + symbol] = symbol_trouble(symbol, by_symbol[symbol], failures, now, evaluation.opening_sec)
    for proof in evaluation.proofs:
        if not proof.passed and not _is_only_named(proof):
            alert = PROOF + proof.title
            troubles[alert] = proof_trouble(None, alert, proof, proof_text(proof))
    return list(troubles.values())
