"""From successive evaluations to alerts: raised once, reminded while they last, cleared once. Pure: the caller brings the time.

One fault is one incident: symbols that become unhealthy together are one message, and what is only a consequence (every symbol is
stale when the worker is dead) is neither raised nor cleared while its cause lasts. Reading and delivering stay out; the words are
those of ``quantum_ops.alerts.words``, the kinds those of ``quantum_core.alert_catalogue``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from quantum_core.alert_catalogue import KINDS, SEVERITIES, Severity
from quantum_core.contracts.schema import CLOCK_SKEW_SEC
from quantum_core.display import NO_CANDLES, clock_text, moment_text
from quantum_core.freshness import CANDLES, WELL, Condition, Evaluation, Sign, StoredProof, Vital
from quantum_ops.alerts.trading_watch import BACKLOG, BLOCKED, NOTHING_DECIDED, Change, Decided
from quantum_ops.alerts.unusable import Guarded
from quantum_ops.alerts.words import (
    EQUITY_GUARD,
    FAMILIES,
    NAMES_MAX,
    OF_PROOF,
    PROOF,
    STOP,
    SYMBOL,
    Event,
    Level,
    Message,
    Trouble,
    groups_of,
    message_of,
    pack_trouble,
    part_trouble,
    proof_text,
    proof_trouble,
    redis_trouble,
    severity_of,
    summary_of,
    symbol_trouble,
)

if TYPE_CHECKING:
    from quantum_core.settings import Settings

__all__ = [
    "CAUSES",
    "FAMILIES",
    "NAMES_MAX",
    "PACK",
    "PACK_INTERVALS",
    "Event",
    "Incident",
    "Ledger",
    "Level",
    "Message",
    "Policy",
    "Trouble",
    "messages_of",
    "wrong_now",
]

Key = tuple[str, str]  # thing and symbol, as a Vital has them

CAUSES = ("redis", "event_log", "daemon", "worker", "loop")  # each of them explains whatever else is wrong
PART_ALERTS = {"worker": "worker", "daemon": "daemon", "cycle": "loop"}
PACK = "proofs"
GRACE_SEC = 60.0  # a thing never seen fresh, or one that has vanished, is given so long
TOGETHER_SEC = 3.0  # symbols so close to their limit join those that cross it
CANDLES_TOGETHER = 0.85  # the same for candles, as a share of their limit: feeds of many symbols do not stop in one second
SETTLED_SEC = 75.0  # after a cause is cleared: until then verdicts still report it, those on the last six cycles longest
OWN_EYES = ("fresh", "process_alive", "right_side")  # proofs of what the watcher itself sees, sooner and without the pack,
ONLY_PROVEN = ("risk_guard/fresh",)  # but for this one: the watcher sees the age from which nothing is opened, which is later
EXPLAINED = {  # proofs that only repeat what an alert says already
    "risk_guard/readable": (BLOCKED, "guard:"),
    "risk_guard/fresh": (BLOCKED, "guard:"),
    "risk_proposal/one_cycle": (SYMBOL,),
}
AFTERMATH_SEC = 60.0  # what has not recovered so long after its cause, or after its companions, has trouble of its own
PACK_INTERVALS = 3  # a proof pack that has not run for so many intervals has stopped
SLEPT_SEC = 30.0  # between two evaluations: the watcher itself was stopped, and knows nothing of the time between
FLAP_SEC = 600.0  # what is raised again so soon after it was cleared stays open until it was healthy for so long
LASTING_SEC = 120.0  # a repeat that was only a notice and lasts for so long is a page after all
QUIET = (STOP, EQUITY_GUARD)  # whose repeats within FLAP_SEC are a notice: prices and positions come and go all day


@dataclass(frozen=True)
class Incident:
    """A trouble that was raised and is not over.

    Attributes
    ----------
    trouble
        As last seen.
    raised, told
        When it was raised, and last raised or reminded of; epoch s. What was raised at one time is one group.
    well_since
        Since when it looks healthy again without having been cleared.
    hold_sec
        How long it must look healthy before it is cleared.
    routes
        Severities it was raised with.
    told_as
        Identity of the message it was raised with: its own, or that of several. Whoever keeps it open must hear of its end.
    codes
        Causes that were told while it is open; another one is news.
    bad_since
        Since when it is unhealthy without a break, epoch s.
    times
        How often it became unhealthy while it is open.
    """

    trouble: Trouble
    raised: float
    told: float
    well_since: float | None = None
    hold_sec: float = 0.0
    routes: tuple[str, ...] = ()
    told_as: str = ""
    codes: tuple[str, ...] = ()
    bad_since: float = 0.0
    times: int = 1

    @property
    def identity(self) -> str:
        """Identity it is known by to whoever was told."""
        return self.told_as or self.trouble.alert  # a predecessor may not have noted it


@dataclass(frozen=True)
class Policy:
    """When what is raised, and how bad it is.

    Attributes
    ----------
    redis_sec
        Silence of Redis that is an alert.
    remind_sec
        What lasts is repeated this often.
    proof_interval_sec
        The proof pack runs this often.
    redis_address
        For the text; without credentials.
    failing_sec
        A symbol that could not be computed for so long is an alert, also when nothing of it is due.
    severities
        By kind, where they are not those of the catalogue.
    """

    redis_sec: float = 10
    remind_sec: float = 3600
    proof_interval_sec: float = 60
    redis_address: str = "redis"
    failing_sec: float = 60
    severities: Mapping[str, Severity] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """Take it from the settings."""
        return cls(
            redis_sec=settings.redis_max_silence_sec,
            remind_sec=settings.alert_remind_sec,
            proof_interval_sec=settings.proof_interval_sec,
            redis_address=settings.redis_address,
            failing_sec=settings.proposal_max_age_sec,
            severities=settings.severities,
        )


@dataclass
class _Findings:
    """What one evaluation says, by alert."""

    unhealthy: dict[str, Trouble] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)  # not healthy, but not to be raised yet
    lingering: set[str] = field(default_factory=set)  # has not recovered, although it was fresh once or has had its time
    near: dict[str, Trouble] = field(default_factory=dict)  # about to cross the limit
    aging: set[str] = field(default_factory=set)  # worth a warning


class Ledger:
    """The incidents that are not over.

    Parameters
    ----------
    policy
        When what is told.
    started
        Now, epoch s. Whatever has not been seen fresh since gets GRACE_SEC, so that neither a fresh deployment nor a new watcher
        raises a false alarm.
    active
        Incidents a predecessor has raised.
    cleared
        Alerts a predecessor has cleared, and when, epoch s.
    """

    def __init__(
        self, policy: Policy, started: float, active: Iterable[Incident] = (), cleared: Mapping[str, float] | None = None
    ) -> None:
        self.policy = policy
        self.active = {incident.trouble.alert: incident for incident in active}
        self.cleared = dict(cleared or {})
        self._universe = 0
        self._guarded = Guarded()
        self._begin(started)

    def _begin(self, now: float) -> None:
        self._begun = self._observed = self._redis_answered = now
        self._trusted_from = now + GRACE_SEC  # verdicts made before say more about the start than about the numbers
        self._seen: set[Key] = set()
        self._waiting: dict[Key, float] = {}
        self._heard: dict[str, float] = {}
        self._warned: dict[str, float] = {}  # failing proof -> when its first verdict was made
        self._proven_at = 0.0

    def to_json(self) -> list[dict[str, Any]]:
        """Give the active incidents as plain values."""
        return [asdict(incident) for incident in self.active.values()]

    @staticmethod
    def from_json(stored: Iterable[Mapping[str, Any]]) -> list[Incident]:
        """Read what :meth:`to_json` gave."""
        return [
            Incident(
                **{
                    **one,
                    "trouble": Trouble(**one["trouble"]),
                    "routes": tuple(one.get("routes", ())),
                    "codes": tuple(one.get("codes", ())),
                }
            )
            for one in stored
        ]

    def observe(
        self, evaluation: Evaluation | None, now: float, decided: Decided = NOTHING_DECIDED, *, condition: str = ""
    ) -> list[Message]:
        """Take one evaluation in and give the messages that follow from it.

        Parameters
        ----------
        evaluation
            ``None`` when Redis did not answer, or cannot be used.
        now
            Epoch s; evaluations come every few seconds.
        decided
            What follows from the switches, guards, plans and stops at the same time.
        condition
            What Redis is, when it answers that it cannot be used: completes "Redis is ...".
        """
        if not 0 <= now - self._observed <= SLEPT_SEC:  # it slept, or the clock was set back
            self._begin(now)
        self._observed = now
        if evaluation is None:
            return self._without_redis(now, condition)
        self._redis_answered = now
        symbols = {vital.symbol for vital in evaluation.vitals}
        self._universe = len(symbols)
        found = self._look(evaluation, decided, now)
        before = set(self.active)  # a cause that is cleared now has shaped what was found now
        messages = self._let_go(symbols, now) + self._apply(decided.changes, now) + self._settle_causes(found, now)
        frozen = not (before | self.active.keys() | found.aging).isdisjoint(CAUSES)
        messages += self._settle_rest(found, decided, now, frozen=frozen)
        among = [
            alert for alert, incident in self.active.items() if alert in CAUSES or not frozen or _independent(incident.trouble)
        ]
        return messages + self._reminders(now, among)

    def standing(self, now: float) -> list[Message]:
        """Give what is not over, as it would be raised now, the worst first."""
        wrong = [one for one in self.active.values() if one.well_since is None or one.trouble.alert in CAUSES]
        messages = self._messages("raised", [incident.trouble for incident in wrong], now)
        messages = sorted(messages, key=lambda message: SEVERITIES.index(message.severity))
        return messages + [self._held(incident, now) for incident in self.active.values() if incident not in wrong]

    def _held(self, incident: Incident, now: float) -> Message:
        """Say of what is well again, and not closed yet, just that."""
        well = incident.well_since or now
        closes = f", closes {clock_text(well + incident.hold_sec)} if it stays so" if incident.hold_sec else ""
        what = f"well since {clock_text(well)}{closes} (was: {_short(incident.trouble)})"
        (message,) = self._messages("raised", [replace(incident.trouble, what=what, notice=True)], now)
        return replace(message, well_since=well)

    def _let_go(self, symbols: set[str], now: float) -> list[Message]:
        """End what concerns symbols that are not watched any more."""
        families = (SYMBOL, STOP)
        gone = [one for one in self.active.values() if one.trouble.family in families and one.trouble.name not in symbols]
        ended = "the symbol was removed from SYMBOLS"
        return self._clear(gone, {one.trouble.alert: ended for one in gone}, now) if symbols else []

    # --- looking -------------------------------------------------------------------------------------------------------------

    def _look(self, evaluation: Evaluation, decided: Decided, now: float) -> _Findings:
        found = _Findings()
        for beat in evaluation.heartbeats:
            self._look_at_part(self._remembered(beat, now), found, now)
        self._look_at_symbols(evaluation, found, now)
        found.unhealthy |= decided.troubles
        found.unsure |= decided.unsure
        found.lingering |= {BLOCKED, BACKLOG} & decided.troubles.keys()
        self._look_at_proofs(evaluation, found, now)
        self._look_at_pack(evaluation.proofs_finished, found, now)
        return found

    def _look_at_symbols(self, evaluation: Evaluation, found: _Findings, now: float) -> None:
        unhealthy: defaultdict[str, list[Vital]] = defaultdict(list)
        near: defaultdict[str, list[Vital]] = defaultdict(list)
        for vital in evaluation.vitals:
            if self._is_unhealthy(vital, SYMBOL + vital.symbol, found, now):
                unhealthy[vital.symbol].append(vital)
            elif vital.condition in WELL and vital.age_sec is not None and vital.age_sec > _near_sec(vital):
                near[vital.symbol].append(vital)
        due = {(vital.thing, vital.symbol) for vital in (*evaluation.heartbeats, *evaluation.vitals)}
        self._seen &= due  # what becomes due again is as new
        self._waiting = {key: since for key, since in self._waiting.items() if key in due}
        for symbol, failures in evaluation.failures.items():
            if any(now - failure.since >= self.policy.failing_sec for failure in failures.values()):
                unhealthy.setdefault(symbol, [])
            elif failures:
                found.unsure.add(SYMBOL + symbol)
        for symbol, vitals in {**near, **unhealthy}.items():
            alert, failures = SYMBOL + symbol, evaluation.failures.get(symbol, {})
            trouble: Trouble | None = self._guarded.call(alert, None, symbol_trouble, symbol, vitals, failures, now)
            if trouble is None:
                found.unsure.add(alert)
            else:
                (found.unhealthy if symbol in unhealthy else found.near)[alert] = trouble

    def _is_unhealthy(self, vital: Vital, alert: str, found: _Findings, now: float) -> bool:
        """Tell whether a thing's time is up; note under its alert what else there is to know."""
        key = (vital.thing, vital.symbol)
        if vital.condition is Condition.AGING:
            found.aging.add(alert)
        if vital.condition in WELL:
            if vital.age_sec is None or now - vital.age_sec > self._begun:
                self._seen.add(key)
                self._waiting.pop(key, None)
            else:  # left by a predecessor, which may have died with it: given the same grace as what was never seen
                self._waiting.setdefault(key, now)
            return False
        due_since = self._waiting.setdefault(key, now)
        known = key in self._seen
        unhealthy = (known and vital.condition is not Condition.MISSING) or now - due_since >= GRACE_SEC
        if known or unhealthy:
            found.lingering.add(alert)
        if not unhealthy:
            found.unsure.add(alert)
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

    def _look_at_part(self, beat: Vital, found: _Findings, now: float) -> None:
        alert = PART_ALERTS[beat.thing]
        if self._is_unhealthy(beat, alert, found, now):
            found.unhealthy[alert] = part_trouble(alert, beat, now)

    def _look_at_proofs(self, evaluation: Evaluation, found: _Findings, now: float) -> None:
        symbols = {SYMBOL + vital.symbol for vital in evaluation.vitals}
        warned: dict[str, float] = {}
        for proof in evaluation.proofs:
            self._guarded.call(f"proof {proof.title}", None, self._look_at_proof, proof, evaluation, symbols, warned, found, now)
        self._warned = warned

    def _look_at_proof(
        self,
        proof: StoredProof,
        evaluation: Evaluation,
        symbols: set[str],
        warned: dict[str, float],
        found: _Findings,
        now: float,
    ) -> None:
        own = proof.title.rpartition("/")[2] in OWN_EYES and proof.title not in ONLY_PROVEN
        if proof.passed or own:
            return
        if self._is_explained(proof.title, found):
            found.unsure.add(PROOF + proof.title)
            return
        failing = {SYMBOL + symbol: what for symbol, what in proof.failing.items()}
        named = proof.per_symbol and failing and failing.keys() <= symbols
        reported = failing if named else {PROOF + proof.title: proof_text(proof)}
        first = warned[proof.title] = self._warned.get(proof.title, proof.evaluated_at)
        once = proof.severity == "WARN" and first == proof.evaluated_at  # may be the first sign of a failure, or nothing
        for alert, what in reported.items():
            if once or proof.evaluated_at < self._trusted_from:
                found.unsure.add(alert)
            else:
                known = found.unhealthy.get(alert) or _known_cause(alert, evaluation, now)
                found.unhealthy[alert] = proof_trouble(known, alert, proof, what)

    def _is_explained(self, title: str, found: _Findings) -> bool:
        causes = EXPLAINED.get(title, ())
        return bool(causes) and any(alert.startswith(causes) for alert in (*found.unhealthy, *found.unsure, *self.active))

    def _look_at_pack(self, finished: Sign, found: _Findings, now: float) -> None:
        limit = PACK_INTERVALS * self.policy.proof_interval_sec
        why = finished.trouble
        if finished.epoch is not None and finished.epoch - now > CLOCK_SKEW_SEC:  # it would look fresh for as long as that lasts
            ahead = f"its last run is dated {moment_text(finished.epoch)}, ahead of the clock"
            if now >= self._trusted_from:
                found.unhealthy[PACK] = pack_trouble(ahead, self._proven_at or now, limit, ahead=True)
            else:
                found.unsure.add(PACK)
            return
        if finished.epoch is not None:
            self._proven_at = finished.epoch
            if now - finished.epoch <= limit:
                return
        last = max(self._proven_at, self._trusted_from)
        if now - last <= limit:
            found.unsure.add(PACK)
            return
        found.unhealthy[PACK] = pack_trouble(why, self._proven_at or last, limit)

    # --- deciding ------------------------------------------------------------------------------------------------------------

    def _without_redis(self, now: float, condition: str) -> list[Message]:
        messages = []
        known = self.active.get("redis")
        since = known.trouble.since if known else self._redis_answered
        trouble = redis_trouble(self.policy.redis_address, since, self.policy.redis_sec, condition)
        if known:
            self.active["redis"] = replace(known, trouble=trouble, well_since=None)
        elif now - self._redis_answered > self.policy.redis_sec:
            messages = self._raise([trouble], now)
        return messages + self._reminders(now, ("redis",))

    def _settle_causes(self, found: _Findings, now: float) -> list[Message]:
        self._swallow_consequent_causes(found)
        messages = []
        for alert in CAUSES:
            incident, trouble = self.active.get(alert), found.unhealthy.get(alert)
            if incident is None:
                messages += self._raise([trouble], now) if trouble else []
            elif trouble or alert in found.unsure:
                self.active[alert] = replace(incident, trouble=trouble or incident.trouble, well_since=None)
            else:
                back = now if incident.well_since is None else incident.well_since
                if not (found.lingering | found.aging) - self.active.keys() or now - back >= AFTERMATH_SEC:
                    messages += self._clear([incident], {}, now)
                    self._trusted_from = max(self._trusted_from, now + SETTLED_SEC)
                else:
                    self.active[alert] = replace(incident, well_since=back)
        return messages

    def _swallow_consequent_causes(self, found: _Findings) -> None:
        """Keep silent parts to themselves that Redis, or another part, explains."""
        if {"redis", "event_log"} & {*self.active, *found.unhealthy}:
            explained = {"worker", "daemon", "loop"}
        elif any(alert in found.unhealthy or alert in found.aging or alert in self.active for alert in ("worker", "daemon")):
            explained = {"loop"}
        else:
            return
        for alert in explained & found.unhealthy.keys():
            del found.unhealthy[alert]
            found.unsure.add(alert)

    def _apply(self, changes: Iterable[Change], now: float) -> list[Message]:
        """Follow what began and ended between two polls, in its order; what is still so is settled afterwards."""
        messages: list[Message] = []
        begun: dict[str, Trouble] = {}
        for change in changes:
            if change.trouble is not None and change.alert not in self.active:
                begun[change.alert] = change.trouble
                continue
            if change.trouble is None and change.alert in {*begun, *self.active}:
                messages += self._raise(begun.values(), now)
                begun = {}
                messages += self._clear([self.active[change.alert]], {change.alert: change.ended}, now)
        return messages + self._raise(begun.values(), now)

    def _settle_rest(self, found: _Findings, decided: Decided, now: float, *, frozen: bool) -> list[Message]:
        """Settle all but the causes; ``frozen``, while one of those lasts, only what is no consequence of it."""
        new = {
            alert: trouble
            for alert, trouble in found.unhealthy.items()
            if alert not in CAUSES and (not frozen or _independent(trouble)) and self._is_news(trouble, now)
        }
        if any(trouble.family == SYMBOL for trouble in new.values()):
            candles = any(trouble.cause == NO_CANDLES for trouble in new.values())
            joining = {alert: trouble for alert, trouble in found.near.items() if candles or trouble.cause != NO_CANDLES}
            new |= {alert: trouble for alert, trouble in joining.items() if alert not in {*new, *self.active}}
        unsure: set[str] = set()
        for alert, incident in list(self.active.items()):
            independent = _independent(incident.trouble)
            if alert in CAUSES or (frozen and not independent):
                continue
            trouble = found.unhealthy.get(alert)
            unknown = alert in found.unsure or (not independent and self._proven_at and PACK in found.unsure)
            held = incident.well_since is not None and incident.hold_sec > 0
            if trouble is not None:
                again = incident.well_since is not None
                self.active[alert] = replace(
                    incident,
                    trouble=_renewed(incident.trouble, trouble),
                    well_since=None,
                    bad_since=now if again else incident.bad_since,
                    times=incident.times + again,
                )
            elif unknown:  # no verdicts: nothing is known to be healthy; but what was quiet so long is not to begin anew
                unsure.add(alert)
                self.active[alert] = incident if held else replace(incident, well_since=None)
            elif incident.well_since is None:
                self.active[alert] = replace(incident, well_since=now)
        over = [
            incident
            for alert, incident in self.active.items()
            if alert not in unsure and (not frozen or _independent(incident.trouble)) and self._is_over(incident, now)
        ]
        return self._raise(new.values(), now) + self._clear(over, decided.endings, now)

    def _is_news(self, trouble: Trouble, now: float) -> bool:
        """Tell whether it was not told yet: new, a failure where a warning was told, another cause, or a notice that lasts."""
        incident = self.active.get(trouble.alert)
        if incident is None or (trouble.level == "failure" and incident.trouble.level == "warning"):
            return True
        if incident.trouble.notice and incident.well_since is None and now - incident.bad_since >= LASTING_SEC:
            return True
        another = bool(trouble.code) and trouble.code not in incident.codes
        may_follow = incident.well_since is not None or bool(incident.codes)  # else it is why the values are old
        return another and may_follow and now - trouble.since >= self.policy.failing_sec

    def _is_over(self, incident: Incident, now: float) -> bool:
        """Tell whether to clear; symbols raised together are cleared together, unless one of them takes too long."""
        if incident.well_since is None or now - incident.well_since < incident.hold_sec:
            return False
        family = incident.trouble.family
        if family not in (SYMBOL, PROOF):
            return True
        together = (incident.raised, family)
        group = [one.well_since for one in self.active.values() if (one.raised, one.trouble.family) == together]
        return None not in group or now - min(since for since in group if since is not None) >= AFTERMATH_SEC

    def _raise(self, troubles: Iterable[Trouble], now: float) -> list[Message]:
        self.cleared = {fault: at for fault, at in self.cleared.items() if now - at < FLAP_SEC}
        raised = []
        for trouble in troubles:
            again = self._was_cleared(trouble)
            quiet = again and trouble.alert not in self.active and trouble.alert.startswith(QUIET)
            raised.append(replace(trouble, notice=quiet))
        merged: dict[str, str] = {}
        for group in groups_of(raised):
            told_as = group[0].alert if len(group) == 1 else FAMILIES[group[0].family]
            for trouble in group:
                known = self.active.get(trouble.alert)
                if known is not None and known.identity != told_as:
                    merged[known.identity] = told_as
                hold = known.hold_sec if known else FLAP_SEC if self._was_cleared(trouble) else 0.0
                severity = severity_of(trouble, self.policy.severities)
                self.active[trouble.alert] = Incident(
                    trouble,
                    raised=now,
                    told=now,
                    hold_sec=hold,
                    routes=tuple(dict.fromkeys((*(known.routes if known else ()), severity))),
                    told_as=told_as,
                    codes=tuple(dict.fromkeys((*(known.codes if known else ()), *([trouble.code] if trouble.code else ())))),
                    bad_since=now,
                    times=known.times if known else 1,
                )
        return self._messages("raised", raised, now) + self._merged(merged, now)

    def _merged(self, merged: Mapping[str, str], now: float) -> list[Message]:
        """End each identity under which nothing is open any more, because it goes on under another."""
        messages = []
        open_now = {incident.identity for incident in self.active.values()}
        for before, after in merged.items():
            if before not in open_now:
                troubles = [one.trouble for one in self.active.values() if one.identity == after]
                ended = dict.fromkeys((trouble.alert for trouble in troubles), f"goes on as {after}")
                (message,) = self._messages("cleared", troubles, now, ended)
                messages.append(replace(message, alert=before, title=f"{before}: not over, merged into {after}"))
        return messages

    def _was_cleared(self, trouble: Trouble) -> bool:
        """Tell whether the same fault was cleared within FLAP_SEC; an old value alone may be any of the faults before."""
        alone = trouble.alert in self.cleared
        if trouble.code:
            return alone or _fault(trouble) in self.cleared
        return alone or any(fault.startswith(f"{trouble.alert} ") for fault in self.cleared)

    def _clear(self, incidents: Sequence[Incident], endings: Mapping[str, str], now: float) -> list[Message]:
        """End incidents; each identity ends with the last that is open under it, and until then says what is left."""
        messages = []
        over = {incident.trouble.alert for incident in incidents}
        for identity in dict.fromkeys(incident.identity for incident in incidents):
            ended = [incident for incident in incidents if incident.identity == identity]
            left = [one.trouble for one in self.active.values() if one.identity == identity and one.trouble.alert not in over]
            if left:
                names = ", ".join(one.trouble.name or one.trouble.alert for one in ended[:NAMES_MAX])
                told = self._messages("reminded", left, now)
                messages += [replace(one, alert=identity, text=f"Over: {names}\n{one.text}") for one in told]
            else:
                said = {one.trouble.alert: _with_count(one, endings.get(one.trouble.alert, "")) for one in ended}
                told = self._messages("cleared", [one.trouble for one in ended], now, said)
                messages += [replace(one, alert=identity) for one in told]
        for incident in incidents:
            if _may_flap(incident.trouble):
                self.cleared[_fault(incident.trouble)] = now
            del self.active[incident.trouble.alert]
        return messages

    def _messages(
        self, event: Event, troubles: Sequence[Trouble], now: float, endings: Mapping[str, str] | None = None
    ) -> list[Message]:
        messages = []
        for group in groups_of(troubles):
            ended = {(endings or {}).get(trouble.alert, "") for trouble in group}
            known = [self.active[trouble.alert] for trouble in group if trouble.alert in self.active]
            messages.append(
                message_of(
                    event,
                    group,
                    now,
                    severities=self.policy.severities,
                    universe=self._universe,
                    ended=ended.pop() if len(ended) == 1 else "",
                    routes=[route for incident in known for route in incident.routes],
                )
            )
        return messages

    def _reminders(self, now: float, alerts: Iterable[str]) -> list[Message]:
        """Repeat what lasts: when one is due all are, in one message per severity."""
        among = [self.active[alert] for alert in alerts if alert in self.active and self.active[alert].well_since is None]
        if not any(now - incident.told >= self.policy.remind_sec for incident in among):
            return []
        for incident in among:
            self.active[incident.trouble.alert] = replace(incident, told=now)
        messages = self._messages("reminded", [incident.trouble for incident in among], now)
        by_severity = {severity: [one for one in messages if one.severity == severity] for severity in SEVERITIES}
        return [summary_of(some, now) for some in by_severity.values() if some]


def _independent(trouble: Trouble) -> bool:
    kind = KINDS.get(trouble.kind)
    return kind is not None and kind.independent


def _short(trouble: Trouble) -> str:
    return trouble.cause if trouble.family in (SYMBOL, PROOF) and trouble.cause else trouble.kind.replace("_", " ")


def _may_flap(trouble: Trouble) -> bool:
    kind = KINDS.get(trouble.kind)
    return (kind is not None and kind.may_flap) or trouble.alert.startswith(QUIET)


def _fault(trouble: Trouble) -> str:
    """Name one fault of one thing: hysteresis holds for the same thing with the same cause."""
    return f"{trouble.alert} {trouble.code}" if trouble.code else trouble.alert


def _with_count(incident: Incident, ended: str) -> str:
    return f"{ended}; it came {incident.times} times".removeprefix("; ") if incident.times > 1 else ended


def _renewed(before: Trouble, now: Trouble) -> Trouble:
    """Follow a trouble that lasts; proofs that fail a little longer than their cause lasted do not replace it."""
    another = bool(before.code and now.code and before.code != now.code)
    now = replace(now, notice=before.notice)
    since = now.since if another else min(before.since, now.since)
    if now.cause.startswith(OF_PROOF) and before.cause and not before.cause.startswith(OF_PROOF):
        return replace(before, since=since, level=now.level, seen=now.seen)
    return replace(now, since=since)


def _near_sec(vital: Vital) -> float:
    """Give the age from which a thing joins others that have crossed their limit."""
    return CANDLES_TOGETHER * vital.limit_sec if vital.thing == CANDLES else vital.limit_sec - TOGETHER_SEC


def _known_cause(alert: str, evaluation: Evaluation, now: float) -> Trouble | None:
    """Say why a symbol fails a proof where that is known before its limits are crossed."""
    symbol = alert.removeprefix(SYMBOL)
    failures = evaluation.failures.get(symbol, {})
    vitals = [vital for vital in evaluation.vitals if vital.symbol == symbol and vital.condition not in WELL]
    return symbol_trouble(symbol, vitals, failures, now) if alert.startswith(SYMBOL) and (failures or vitals) else None


# --- everything at once ------------------------------------------------------------------------------------------------------


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
        troubles[SYMBOL + symbol] = symbol_trouble(symbol, by_symbol[symbol], evaluation.failures.get(symbol, {}), now)
    for proof in evaluation.proofs:
        if not proof.passed:
            alert = PROOF + proof.title
            troubles[alert] = proof_trouble(None, alert, proof, proof_text(proof))
    return list(troubles.values())


def messages_of(
    event: Event, troubles: Sequence[Trouble], now: float, severities: Mapping[str, Severity] | None = None, universe: int = 0
) -> list[Message]:
    """Make one message of each group of troubles, see :func:`quantum_ops.alerts.words.message_of`."""
    return [message_of(event, group, now, severities=severities or {}, universe=universe) for group in groups_of(troubles)]
