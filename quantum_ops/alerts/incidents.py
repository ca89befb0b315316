"""From successive findings to alerts: raised once, reminded while they last, cleared once. Pure: the caller brings the time.

One fault is one incident: symbols that become unhealthy together are one message, and what is only a consequence (every symbol is
stale when the worker is dead) is neither raised nor cleared while its cause lasts. What one evaluation shows is in
``quantum_ops.alerts.findings``, the words are in ``quantum_ops.alerts.words``; reading and delivering stay out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from quantum_core.alert_catalogue import KINDS, SEVERITIES, Severity
from quantum_core.display import NO_CANDLES, clock_text
from quantum_core.freshness import Evaluation
from quantum_ops.alerts.findings import PACK, Findings, Observer
from quantum_ops.alerts.trading.decided import NOTHING_DECIDED, Change, Decided
from quantum_ops.alerts.words import (
    EQUITY_GUARD,
    FAMILIES,
    NAMES_MAX,
    OF_PROOF,
    PROOF,
    STOP,
    SYMBOL,
    Event,
    Message,
    Trouble,
    groups_of,
    line_of,
    message_of,
    redis_trouble,
    severity_of,
    summary_of,
)

if TYPE_CHECKING:
    from quantum_core.settings import Settings


CAUSES = ("redis", "event_log", "daemon", "worker", "loop")  # each of them explains whatever else is wrong
SETTLED_SEC = 75.0  # after a cause is cleared: until then verdicts still report it, those on the last six cycles longest
AFTERMATH_SEC = 60.0  # what has not recovered so long after its cause, or after its companions, has trouble of its own
SLEPT_SEC = 30.0  # between two evaluations: the watcher itself was stopped, and knows nothing of the time between
DAY_SEC = 86_400.0
OF_A_DAY = ("informative", "coverage")  # proofs that judge what was counted within a day
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
    `raised`, `told`
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
        Causes that were reported while it is open; another one is news.
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
        """Identity under which it was reported."""
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


class Ledger:
    """The incidents that are not over.

    Parameters
    ----------
    policy
        When what is reported.
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
        self._observed = self._redis_answered = started
        self.observer = Observer(failing_sec=policy.failing_sec, proof_interval_sec=policy.proof_interval_sec, started=started)

    def _begin(self, now: float) -> None:
        self._observed = self._redis_answered = now
        self.observer.begin(now)

    @property
    def redis_limit_at(self) -> float:
        """When the silence of Redis becomes an alert, epoch s."""
        return self._redis_answered + self.policy.redis_sec

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
        findings = self.observer.look(evaluation, decided, self.active, now)
        active_before = set(self.active)  # a cause that is cleared now has shaped what was found now
        messages = self._let_go(symbols, now) + self._apply(decided.changes, now) + self._settle_causes(findings, now)
        frozen = not (active_before | self.active.keys() | findings.aging).isdisjoint(CAUSES)
        messages += self._settle_rest(findings, decided, now, frozen=frozen)
        remindable = [
            alert for alert, incident in self.active.items() if alert in CAUSES or not frozen or _independent(incident.trouble)
        ]
        return messages + self._reminders(now, remindable)

    def standing(self, now: float) -> list[Message]:
        """Give what is not over, as it would be raised now, the worst first."""
        wrong = [one for one in self.active.values() if one.well_since is None or one.trouble.alert in CAUSES]
        messages = self._messages("raised", [incident.trouble for incident in wrong], now)
        messages = sorted(messages, key=lambda message: SEVERITIES.index(message.severity))
        return messages + [self._held(incident, now) for incident in self.active.values() if incident not in wrong]

    def _held(self, incident: Incident, now: float) -> Message:
        """Report that the fault of an incident is over, and the incident not closed yet."""
        well = incident.well_since or now
        closes = f", closes {clock_text(well + incident.hold_sec)} if it stays so" if incident.hold_sec else ""
        was = _short(incident.trouble)
        what = f"well since {clock_text(well)}{closes} (was: {was})"
        if line_of(incident.trouble) == incident.trouble.what:  # whose line does not begin with its name
            subject = f"{was} {incident.trouble.name}" if incident.trouble.family else was
            what = f"{subject[:1].upper()}{subject[1:]}: well since {clock_text(well)}{closes}"
        (message,) = self._messages("raised", [replace(incident.trouble, what=what, notice=True)], now)
        return replace(message, well_since=well)

    def _let_go(self, symbols: set[str], now: float) -> list[Message]:
        """End what concerns symbols that are not watched any more."""
        families = (SYMBOL, STOP)
        gone = [one for one in self.active.values() if one.trouble.family in families and one.trouble.name not in symbols]
        ended = "the symbol was removed from SYMBOLS"
        return self._clear(gone, {one.trouble.alert: ended for one in gone}, now) if symbols else []

    def _without_redis(self, now: float, condition: str) -> list[Message]:
        messages = []
        incident = self.active.get("redis")
        since = incident.trouble.since if incident else self._redis_answered
        trouble = redis_trouble(self.policy.redis_address, since, self.policy.redis_sec, condition)
        if incident:
            self.active["redis"] = replace(incident, trouble=trouble, well_since=None)
        elif now - self._redis_answered > self.policy.redis_sec:
            messages = self._raise([trouble], now)
        return messages + self._reminders(now, ("redis",))

    def _settle_causes(self, findings: Findings, now: float) -> list[Message]:
        self._swallow_consequent_causes(findings)
        messages = []
        for alert in CAUSES:
            incident, trouble = self.active.get(alert), findings.unhealthy.get(alert)
            if incident is None:
                messages += self._raise([trouble], now) if trouble else []
            elif trouble or alert in findings.unsure:
                self.active[alert] = replace(incident, trouble=trouble or incident.trouble, well_since=None)
            else:
                back = now if incident.well_since is None else incident.well_since
                if not (findings.lingering | findings.aging) - self.active.keys() or now - back >= AFTERMATH_SEC:
                    messages += self._clear([incident], {}, now)
                    self.observer.distrust_until(now + SETTLED_SEC)
                else:
                    self.active[alert] = replace(incident, well_since=back)
        return messages

    def _swallow_consequent_causes(self, findings: Findings) -> None:
        """Keep silent parts to themselves that Redis, or another part, explains."""
        if {"redis", "event_log"} & {*self.active, *findings.unhealthy}:
            explained = {"worker", "daemon", "loop"}
        elif any(
            alert in findings.unhealthy or alert in findings.aging or alert in self.active for alert in ("worker", "daemon")
        ):
            explained = {"loop"}
        else:
            return
        for alert in explained & findings.unhealthy.keys():
            del findings.unhealthy[alert]
            findings.unsure.add(alert)

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

    def _settle_rest(self, findings: Findings, decided: Decided, now: float, *, frozen: bool) -> list[Message]:
        """Settle all but the causes; ``frozen``, while one of those lasts, only what is no consequence of it."""
        new = {
            alert: trouble
            for alert, trouble in findings.unhealthy.items()
            if alert not in CAUSES and (not frozen or _independent(trouble)) and self._is_news(trouble, now)
        }
        if any(trouble.family == SYMBOL for trouble in new.values()):
            candles = any(trouble.cause == NO_CANDLES for trouble in new.values())
            joining = {alert: trouble for alert, trouble in findings.near.items() if candles or trouble.cause != NO_CANDLES}
            new |= {alert: trouble for alert, trouble in joining.items() if alert not in {*new, *self.active}}
        unsure: set[str] = set()
        for alert, incident in list(self.active.items()):
            independent = _independent(incident.trouble)
            if alert in CAUSES or (frozen and not independent):
                continue
            trouble = findings.unhealthy.get(alert)
            unknown = alert in findings.unsure or (not independent and self.observer.proven_at and PACK in findings.unsure)
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
        """Return whether it is not reported yet: new, a failure after a warning, another cause, or a notice that lasts."""
        incident = self.active.get(trouble.alert)
        if incident is None or (trouble.level == "failure" and incident.trouble.level == "warning"):
            return True
        if incident.trouble.notice and incident.well_since is None and now - incident.bad_since >= LASTING_SEC:
            return True
        another = bool(trouble.code) and trouble.code not in incident.codes
        may_follow = incident.well_since is not None or bool(incident.codes)  # else it is why the values are old
        return another and may_follow and now - trouble.since >= self.policy.failing_sec

    def _is_over(self, incident: Incident, now: float) -> bool:
        """Return whether to clear; symbols raised together are cleared together, unless one of them takes too long."""
        if incident.well_since is None or now - incident.well_since < incident.hold_sec:
            return False
        family = incident.trouble.family
        if family not in (SYMBOL, PROOF):
            return True
        together = (incident.raised, family)
        group = [one.well_since for one in self.active.values() if (one.raised, one.trouble.family) == together]
        return None not in group or now - min(since for since in group if since is not None) >= AFTERMATH_SEC

    def _raise(self, troubles: Iterable[Trouble], now: float) -> list[Message]:
        self.cleared = {fault: at for fault, at in self.cleared.items() if now - at < (DAY_SEC if _is_daily(fault) else FLAP_SEC)}
        raised = []
        for trouble in troubles:
            again = self._was_cleared(trouble)
            if again and _is_daily(trouble.alert) and trouble.alert not in self.active:
                continue
            quiet = again and trouble.alert not in self.active and trouble.alert.startswith(QUIET)
            raised.append(replace(trouble, notice=quiet))
        merged: dict[str, str] = {}
        for group in groups_of(raised):
            told_as = group[0].alert if len(group) == 1 else FAMILIES[group[0].family]
            for trouble in group:
                incident = self.active.get(trouble.alert)
                if incident is not None and incident.identity != told_as:
                    merged[incident.identity] = told_as
                hold = incident.hold_sec if incident else FLAP_SEC if self._was_cleared(trouble) else 0.0
                severity = severity_of(trouble, self.policy.severities)
                self.active[trouble.alert] = Incident(
                    trouble,
                    raised=now,
                    told=now,
                    hold_sec=hold,
                    routes=tuple(dict.fromkeys((*(incident.routes if incident else ()), severity))),
                    told_as=told_as,
                    codes=tuple(
                        dict.fromkeys((*(incident.codes if incident else ()), *([trouble.code] if trouble.code else ())))
                    ),
                    bad_since=now,
                    times=incident.times if incident else 1,
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
        """Return whether the same fault was cleared within FLAP_SEC; an old value alone may be any of the faults before."""
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
            remaining = [
                one.trouble for one in self.active.values() if one.identity == identity and one.trouble.alert not in over
            ]
            if remaining:
                ended_names = ", ".join(one.trouble.name or one.trouble.alert for one in ended[:NAMES_MAX])
                reminders = self._messages("reminded", remaining, now)
                messages += [replace(one, alert=identity, text=f"Over: {ended_names}\n{one.text}") for one in reminders]
            else:
                texts = {one.trouble.alert: _with_count(one, endings.get(one.trouble.alert, "")) for one in ended}
                closings = self._messages("cleared", [one.trouble for one in ended], now, texts)
                messages += [replace(one, alert=identity) for one in closings]
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
            incidents = [self.active[trouble.alert] for trouble in group if trouble.alert in self.active]
            messages.append(
                message_of(
                    event,
                    group,
                    now,
                    severities=self.policy.severities,
                    universe=self._universe,
                    ended=ended.pop() if len(ended) == 1 else "",
                    routes=[route for incident in incidents for route in incident.routes],
                )
            )
        return messages

    def _reminders(self, now: float, alerts: Iterable[str]) -> list[Message]:
        """Repeat what lasts: when one is due all are, in one message per severity."""
        lasting = [self.active[alert] for alert in alerts if alert in self.active and self.active[alert].well_since is None]
        among = [one for one in lasting if not _is_daily(one.trouble.alert) or now - one.told >= DAY_SEC]
        if not any(now - incident.told >= self.policy.remind_sec for incident in among):
            return []
        for incident in among:
            self.active[incident.trouble.alert] = replace(incident, told=now)
        messages = self._messages("reminded", [incident.trouble for incident in among], now)
        by_severity = {severity: [one for one in messages if one.severity == severity] for severity in SEVERITIES}
        return [summary_of(some, now) for some in by_severity.values() if some]


def _is_daily(fault: str) -> bool:
    """Whether an alert is worth one message a day: what a day of numbers says of them is no news an hour later."""
    return fault.startswith(PROOF) and fault.partition(" ")[0].rpartition("/")[2] in OF_A_DAY


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
    recent = now.since if clock_text(now.since) != clock_text(since) and clock_text(now.since) in now.what else 0.0
    return replace(now, since=since, recent=recent)
