"""From successive evaluations to alerts: raised once, reminded while they last, cleared once. Pure: the caller brings the time.

One fault is one incident: symbols that fall ill together are one message, and what is only a consequence (every symbol is stale
when the worker is dead) is neither raised nor cleared while its cause lasts. Reading and delivering stay out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from quantum_assets.contracts.reading import printable
from quantum_assets.contracts.schema import CLOCK_SKEW_SEC
from quantum_assets.freshness import CANDLES, EPOCH_MAX, WELL, Condition, Evaluation, Sign, StoredProof, Vital

if TYPE_CHECKING:
    from resources.settings import Settings

Event = Literal["raised", "reminded", "cleared"]
Level = Literal["failure", "warning"]
Key = tuple[str, str]  # thing and symbol, as a Vital has them

CAUSES = ("redis", "daemon", "worker", "loop")  # each of them explains whatever else is wrong
PART_ALERTS = {"worker": "worker", "daemon": "daemon", "cycle": "loop"}
PACK = "proofs"
SYMBOL, PROOF = "symbol:", "proof:"
FAMILIES = {SYMBOL: "symbols", PROOF: "failing proofs"}  # what is told of several at once
GRACE_SEC = 60.0  # a thing never seen fresh, or one that has vanished, is given so long
TOGETHER_SEC = 3.0  # symbols so close to their limit join those that cross it
SETTLED_SEC = 75.0  # after a cause is cleared: until then verdicts still tell of it, those on the last six cycles longest
OWN_EYES = ("fresh", "process_alive")  # proofs of what the watcher itself sees, sooner and without the pack
AFTERMATH_SEC = 60.0  # what has not recovered so long after its cause, or after its companions, has trouble of its own
PACK_INTERVALS = 3  # a proof pack that has not run for so many intervals has stopped
SLEPT_SEC = 30.0  # between two evaluations: the watcher itself was stopped, and knows nothing of the time between
NAMES_MAX = 50  # symbols named in one text; the count is always exact
TITLE_NAMES_MAX, TITLE_MAX = 5, 140  # a title is read on a lock screen, and is the subject of a mail

LIKELY = {
    Condition.STALE: "the symbol cannot be computed; its last run names the reason",
    Condition.MISSING: "it was never computed, or has expired because it can no longer be computed",
    Condition.UNREADABLE: "another program has overwritten or edited the key",
    Condition.AHEAD: "the clock of a host is wrong, or somebody edited the time",
}
LIKELY_CANDLES = "the program that writes the candles has stopped, or the exchange sends none"


@dataclass(frozen=True)
class Trouble:
    """What is wrong with one thing.

    Attributes
    ----------
    alert
        Identity: ``redis``, ``daemon``, ``worker``, ``loop``, ``symbol:<S>``, ``proof:<asset>/<name>`` or ``proofs``.
    level
        ``failure``, or ``warning`` where numbers are right but somebody should look.
    what, likely, look
        What is wrong, why it probably is, and the command that shows more.
    since
        When it was last well, as far as known; epoch s.
    limit
        What is accepted, as text.
    """

    alert: str
    level: Level
    what: str
    since: float
    limit: str
    likely: str
    look: str

    @property
    def family(self) -> str:
        """``symbol:`` or ``proof:``, of which many may be in the same trouble; else empty."""
        return self.alert[: self.alert.find(":") + 1]

    @property
    def name(self) -> str:
        """Name within its family: the symbol, or the proof."""
        return self.alert[len(self.family) :]


@dataclass(frozen=True)
class Incident:
    """A trouble that was told of and is not over.

    Attributes
    ----------
    trouble
        As last seen.
    raised, told
        When it was raised, and last raised or reminded of; epoch s. What was raised at one time is one group.
    well_since
        Since when it looks well again without having been cleared.
    """

    trouble: Trouble
    raised: float
    told: float
    well_since: float | None = None


@dataclass(frozen=True)
class Message:
    """One alert as it is delivered.

    Attributes
    ----------
    event, level, title, text
        What is said.
    alert
        Identity; ``symbols`` or ``failing proofs`` for several at once.
    symbols
        All symbols concerned.
    since, limit
        As in :class:`Trouble`; the earliest of several.
    at
        When it was made, epoch s.
    """

    event: Event
    alert: str
    level: Level
    title: str
    text: str
    symbols: tuple[str, ...]
    since: float
    limit: str
    at: float


@dataclass(frozen=True)
class Policy:
    """When what is told.

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
    """

    redis_sec: float = 10
    remind_sec: float = 3600
    proof_interval_sec: float = 60
    redis_address: str = "redis"

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """Take it from the settings."""
        return cls(settings.redis_max_silence_sec, settings.alert_remind_sec, settings.proof_interval_sec, settings.redis_address)


@dataclass
class _Findings:
    """What one evaluation says, by alert."""

    ill: dict[str, Trouble] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)  # not well, but not to be told of yet
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
        Now, epoch s. Whatever has not been seen fresh since gets GRACE_SEC, so that neither a fresh stack nor a new watcher
        cries wolf.
    active
        Incidents a predecessor has told of.
    """

    def __init__(self, policy: Policy, started: float, active: Iterable[Incident] = ()) -> None:
        self.policy = policy
        self.active = {incident.trouble.alert: incident for incident in active}
        self._begin(started)

    def _begin(self, now: float) -> None:
        self._observed = self._redis_answered = now
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
        return [Incident(**{**one, "trouble": Trouble(**one["trouble"])}) for one in stored]

    def observe(self, evaluation: Evaluation | None, now: float) -> list[Message]:
        """Take one evaluation in and give what is to be told because of it.

        Parameters
        ----------
        evaluation
            ``None`` when Redis did not answer.
        now
            Epoch s; evaluations come every few seconds.
        """
        if not 0 <= now - self._observed <= SLEPT_SEC:  # it slept, or the clock was set back
            self._begin(now)
        self._observed = now
        if evaluation is None:
            return self._without_redis(now)
        self._redis_answered = now
        found = self._look(evaluation, now)
        before = set(self.active)  # a cause that is cleared now has shaped what was found now
        messages = self._settle_causes(found, now)
        frozen = not (before | self.active.keys() | found.aging).isdisjoint(CAUSES)
        if not frozen:
            messages += self._settle_rest(found, now)
        return messages + self._reminders(now, CAUSES if frozen else self.active)

    # --- looking -------------------------------------------------------------------------------------------------------------

    def _look(self, evaluation: Evaluation, now: float) -> _Findings:
        found = _Findings()
        for beat in evaluation.heartbeats:
            self._look_at_part(self._remembered(beat, now), found, now)
        ill: defaultdict[str, list[Vital]] = defaultdict(list)
        near: defaultdict[str, list[Vital]] = defaultdict(list)
        for vital in evaluation.vitals:
            alert = SYMBOL + vital.symbol
            if self._is_ill(vital, alert, found, now):
                ill[alert].append(vital)
            elif vital.condition in WELL and vital.age_sec is not None and vital.age_sec > vital.limit_sec - TOGETHER_SEC:
                near[alert].append(vital)
        due = {(vital.thing, vital.symbol) for vital in (*evaluation.heartbeats, *evaluation.vitals)}
        self._seen &= due  # what becomes due again is as new
        self._waiting = {key: since for key, since in self._waiting.items() if key in due}
        found.ill |= {alert: _symbol_trouble(vitals, now) for alert, vitals in ill.items()}
        found.near = {alert: _symbol_trouble(vitals, now) for alert, vitals in near.items() if alert not in ill}
        self._look_at_proofs(evaluation.proofs, {SYMBOL + vital.symbol for vital in evaluation.vitals}, found)
        self._look_at_pack(evaluation.proofs_finished, found, now)
        return found

    def _is_ill(self, vital: Vital, alert: str, found: _Findings, now: float) -> bool:
        """Tell whether a thing's time is up; note under its alert what else there is to know."""
        key = (vital.thing, vital.symbol)
        if vital.condition is Condition.AGING:
            found.aging.add(alert)
        if vital.condition in WELL:
            self._seen.add(key)
            self._waiting.pop(key, None)
            return False
        due_since = self._waiting.setdefault(key, now)
        known = key in self._seen
        ill = (known and vital.condition is not Condition.MISSING) or now - due_since >= GRACE_SEC
        if known or ill:
            found.lingering.add(alert)
        if not ill:
            found.unsure.add(alert)
        return ill

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
        if self._is_ill(beat, alert, found, now):
            found.ill[alert] = _part_trouble(alert, beat, now)

    def _look_at_proofs(self, proofs: Sequence[StoredProof], symbols: set[str], found: _Findings) -> None:
        warned: dict[str, float] = {}
        for proof in proofs:
            if proof.passed or proof.title.rpartition("/")[2] in OWN_EYES:
                continue
            failing = {SYMBOL + symbol: what for symbol, what in proof.failing.items()}
            named = proof.per_symbol and failing and failing.keys() <= symbols
            told = failing if named else {PROOF + proof.title: _proof_text(proof)}
            first = warned[proof.title] = self._warned.get(proof.title, proof.evaluated_at)
            once = proof.severity == "WARN" and first == proof.evaluated_at  # may be the first sign of a failure, or nothing
            for alert, what in told.items():
                if once or proof.evaluated_at < self._trusted_from:
                    found.unsure.add(alert)
                else:
                    found.ill[alert] = _with_proof(found.ill.get(alert), alert, proof, what)
        self._warned = warned

    def _look_at_pack(self, finished: Sign, found: _Findings, now: float) -> None:
        limit = PACK_INTERVALS * self.policy.proof_interval_sec
        if finished.epoch is not None:
            self._proven_at = finished.epoch
            if -CLOCK_SKEW_SEC <= now - finished.epoch <= limit:
                return
        last = max(self._proven_at, self._trusted_from)
        if now - last <= limit:
            found.unsure.add(PACK)
            return
        found.ill[PACK] = Trouble(
            alert=PACK,
            level="failure",
            what=f"the proof pack has not run{f' ({finished.trouble})' if finished.trouble else ''}",
            since=self._proven_at or last,
            limit=f"{limit:g} s",
            likely="its sensor is switched off, or its runs fail; Automation in the user interface shows which",
            look="quantum prove",
        )

    # --- deciding ------------------------------------------------------------------------------------------------------------

    def _without_redis(self, now: float) -> list[Message]:
        messages = []
        if "redis" in self.active:
            self.active["redis"] = replace(self.active["redis"], well_since=None)
        elif now - self._redis_answered > self.policy.redis_sec:
            trouble = Trouble(
                alert="redis",
                level="failure",
                what=f"Redis at {self.policy.redis_address} does not answer; nothing can be computed or read",
                since=self._redis_answered,
                limit=f"{self.policy.redis_sec:g} s",
                likely="the server or the way to it is down, or REDIS_URL is wrong",
                look="quantum status",
            )
            messages = self._raise([trouble], now)
        return messages + self._reminders(now, ("redis",))

    def _settle_causes(self, found: _Findings, now: float) -> list[Message]:
        self._swallow_consequent_causes(found)
        messages = []
        for alert in CAUSES:
            incident, trouble = self.active.get(alert), found.ill.get(alert)
            if incident is None:
                messages += self._raise([trouble], now) if trouble else []
            elif trouble or alert in found.unsure:
                self.active[alert] = replace(incident, trouble=trouble or incident.trouble, well_since=None)
            else:
                back = now if incident.well_since is None else incident.well_since
                if not (found.lingering | found.aging) - self.active.keys() or now - back >= AFTERMATH_SEC:
                    messages += self._clear([incident], now)
                    self._trusted_from = max(self._trusted_from, now + SETTLED_SEC)
                else:
                    self.active[alert] = replace(incident, well_since=back)
        return messages

    def _swallow_consequent_causes(self, found: _Findings) -> None:
        """Keep silent parts to themselves that Redis, or another part, explains."""
        if "redis" in self.active:
            explained = {"worker", "daemon", "loop"}
        elif any(alert in found.ill or alert in found.aging or alert in self.active for alert in ("worker", "daemon")):
            explained = {"loop"}
        else:
            return
        for alert in explained & found.ill.keys():
            del found.ill[alert]
            found.unsure.add(alert)

    def _settle_rest(self, found: _Findings, now: float) -> list[Message]:
        fresh = {alert: trouble for alert, trouble in found.ill.items() if alert not in CAUSES and self._is_news(trouble)}
        if any(trouble.family == SYMBOL for trouble in fresh.values()):
            fresh |= {alert: trouble for alert, trouble in found.near.items() if alert not in {*fresh, *self.active}}
        for alert, incident in self.active.items():
            trouble = found.ill.get(alert)
            if trouble is not None:
                since = min(trouble.since, incident.trouble.since)
                self.active[alert] = replace(incident, trouble=replace(trouble, since=since), well_since=None)
            elif alert in found.unsure or (self._proven_at and PACK in found.unsure):  # no verdicts: nothing is known to be well
                self.active[alert] = replace(incident, well_since=None)
            elif incident.well_since is None:
                self.active[alert] = replace(incident, well_since=now)
        over = [incident for incident in self.active.values() if self._is_over(incident, now)]
        return self._raise(fresh.values(), now) + self._clear(over, now)

    def _is_news(self, trouble: Trouble) -> bool:
        """Tell whether it was not told of yet; a failure where only a warning was told is news."""
        incident = self.active.get(trouble.alert)
        return incident is None or (trouble.level == "failure" and incident.trouble.level == "warning")

    def _is_over(self, incident: Incident, now: float) -> bool:
        """Tell whether to clear; what was raised together is cleared together, unless one of them takes too long."""
        if incident.well_since is None:
            return False
        together = (incident.raised, incident.trouble.family)
        group = [one.well_since for one in self.active.values() if (one.raised, one.trouble.family) == together]
        return None not in group or now - min(since for since in group if since is not None) >= AFTERMATH_SEC

    def _raise(self, troubles: Iterable[Trouble], now: float) -> list[Message]:
        told = list(troubles)
        for trouble in told:
            self.active[trouble.alert] = Incident(trouble, raised=now, told=now)
        return messages_of("raised", told, now)

    def _clear(self, incidents: Sequence[Incident], now: float) -> list[Message]:
        for incident in incidents:
            del self.active[incident.trouble.alert]
        return messages_of("cleared", [incident.trouble for incident in incidents], now)

    def _reminders(self, now: float, alerts: Iterable[str]) -> list[Message]:
        among = [self.active[alert] for alert in alerts if alert in self.active]
        due = [incident for incident in among if now - incident.told >= self.policy.remind_sec]
        families = {incident.trouble.family for incident in due} - {""}  # one symbol's reminder takes all symbols along
        due = [incident for incident in among if incident in due or incident.trouble.family in families]
        for incident in due:
            self.active[incident.trouble.alert] = replace(incident, told=now)
        return messages_of("reminded", [incident.trouble for incident in due], now)


# --- words -------------------------------------------------------------------------------------------------------------------


def wrong_now(evaluation: Evaluation, now: float) -> list[Trouble]:
    """List everything an evaluation alone shows to be wrong: no grace, and consequences beside their causes.

    Parameters
    ----------
    evaluation
        As :func:`quantum_assets.freshness.evaluate` gives it.
    now
        The time it was made for, epoch s.
    """
    troubles = {
        PART_ALERTS[beat.thing]: _part_trouble(PART_ALERTS[beat.thing], beat, now)
        for beat in evaluation.heartbeats
        if beat.condition not in WELL
    }
    by_symbol: defaultdict[str, list[Vital]] = defaultdict(list)
    for vital in evaluation.vitals:
        if vital.condition not in WELL:
            by_symbol[SYMBOL + vital.symbol].append(vital)
    troubles |= {alert: _symbol_trouble(vitals, now) for alert, vitals in by_symbol.items()}
    for proof in evaluation.proofs:
        if not proof.passed:
            alert = PROOF + proof.title
            troubles[alert] = _with_proof(None, alert, proof, _proof_text(proof))
    return list(troubles.values())


def _part_trouble(alert: str, beat: Vital, now: float) -> Trouble:
    words = {
        "worker": ("the worker", "the worker process is dead, hangs, or has lost its broker; nothing is computed"),
        "daemon": ("the sensor daemon", "the daemon process is dead or hangs, or the sensor `cycle` is off; no cycle is started"),
        "loop": (
            "no cycle has ended although worker and daemon live: the loop",
            "its runs fail, hang or wait; Runs in the user interface shows which",
        ),
    }
    who, likely = words[alert]
    state = {Condition.MISSING: "was never heard of", Condition.STALE: "is silent"}.get(beat.condition, str(beat.condition))
    detail = f" ({beat.detail})" if beat.detail else ""
    return Trouble(
        alert=alert,
        level="failure",
        what=f"{who} {state}{detail}",
        since=_since([beat], now),
        limit=f"{beat.limit_sec:g} s",
        likely=likely,
        look="quantum status, and what `quantum up` prints of that process, or the journal of its unit",
    )


def _symbol_trouble(vitals: Sequence[Vital], now: float) -> Trouble:
    symbol = vitals[0].symbol
    by_condition: defaultdict[Condition, list[Vital]] = defaultdict(list)
    for vital in vitals:
        by_condition[vital.condition].append(vital)
    candles = any(vital.thing == CANDLES and vital.condition in (Condition.STALE, Condition.MISSING) for vital in vitals)
    worst = next((condition for condition in LIKELY if condition in by_condition), Condition.STALE)
    return Trouble(
        alert=SYMBOL + symbol,
        level="failure",
        what="; ".join(_condition_text(condition, ones) for condition, ones in by_condition.items()),
        since=_since(vitals, now),
        limit=", ".join(dict.fromkeys(f"{vital.limit_sec:g} s" for vital in vitals)),
        likely=LIKELY_CANDLES if candles else LIKELY[worst],
        look=f"quantum status --symbols {symbol}",
    )


def _condition_text(condition: Condition, vitals: Sequence[Vital]) -> str:
    ages = [vital.age_sec for vital in vitals if vital.age_sec is not None]
    details = "; ".join(dict.fromkeys(vital.detail for vital in vitals if vital.detail))
    age = f" {max(ages, key=abs):.0f} s" if ages else ""
    return f"{', '.join(vital.thing for vital in vitals)} {condition}{age}{f' ({details})' if details else ''}"


def _since(vitals: Sequence[Vital], now: float) -> float:
    return min((now - max(vital.age_sec, 0.0) for vital in vitals if vital.age_sec is not None), default=now)


def _proof_text(proof: StoredProof) -> str:
    failing = [f"{name}: {what}" for name, what in proof.failing.items()]
    return "; ".join([f"observed {proof.observed}", *failing[:NAMES_MAX]])


def _with_proof(known: Trouble | None, alert: str, proof: StoredProof, what: str) -> Trouble:
    level: Level = "failure" if proof.severity == "ERROR" else "warning"
    text = f"proof {proof.title} fails: {what}"
    if known is not None:
        worse: Level = "failure" if "failure" in (known.level, level) else "warning"
        return replace(known, level=worse, what=f"{known.what}; {text}")
    symbol = alert[len(SYMBOL) :] if alert.startswith(SYMBOL) else ""
    return Trouble(
        alert=alert,
        level=level,
        what=text,
        since=proof.evaluated_at,
        limit=proof.threshold,
        likely="a published value was edited, an input is wrong, or what was deployed computes something else",
        look=f"quantum prove --symbols {symbol}" if symbol else "quantum prove",
    )


def messages_of(event: Event, troubles: Sequence[Trouble], now: float) -> list[Message]:
    """Make one message of all symbols, one of all proofs, and one of every other trouble.

    Parameters
    ----------
    event
        What happened to them.
    troubles
        Any number.
    now
        Epoch s.
    """
    groups = [[trouble] for trouble in troubles if not trouble.family]
    groups += [[trouble for trouble in troubles if trouble.family == family] for family in FAMILIES]
    return [_message(event, group, now) for group in groups if group]


def _message(event: Event, group: Sequence[Trouble], now: float) -> Message:
    first, since, alone = group[0], min(trouble.since for trouble in group), len(group) == 1
    names = [trouble.name for trouble in group]
    limits = ", ".join(dict.fromkeys(limit for trouble in group for limit in trouble.limit.split(", ")))
    what = [f"{trouble.name}: {trouble.what}" if trouble.family == SYMBOL else trouble.what for trouble in group[:NAMES_MAX]]
    what = [printable(one) for one in what]  # what stands in Redis reaches terminals, logs and mails
    if len(group) > NAMES_MAX:
        what.append(f"... and {len(group) - NAMES_MAX} more, {len(group)} in all")
    more = " ..." if len(group) > TITLE_NAMES_MAX else ""
    headline = what[0] if alone else f"{len(group)} {FAMILIES[first.family]}: {', '.join(names[:TITLE_NAMES_MAX])}{more}"
    before = {"raised": "", "reminded": "still: ", "cleared": f"over after {_duration(now - since)}: "}[event]
    lines = [*what, f"Since: {moment_text(since)}"]
    if event == "cleared":
        lines.append(f"Over: {moment_text(now)}")
    else:
        look = first.look.replace(first.name, ",".join(names[:NAMES_MAX])) if first.family == SYMBOL else first.look
        likely = "; ".join(dict.fromkeys(trouble.likely for trouble in group))
        lines += [f"Limit: {limits}", f"Likely: {likely}", f"Look: {look}"]
    return Message(
        event=event,
        alert=first.alert if alone else FAMILIES[first.family],
        level="failure" if any(trouble.level == "failure" for trouble in group) else "warning",
        title=_one_line(printable(before + headline)),
        text="\n".join(lines),
        symbols=tuple(trouble.name for trouble in group if trouble.family == SYMBOL),
        since=since,
        limit=limits,
        at=now,
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split())  # what stands in a key may hold anything, and a subject with line ends is refused
    return line if len(line) <= TITLE_MAX else f"{line[: TITLE_MAX - 4]} ..."


def moment_text(epoch: float) -> str:
    """Write a time as alerts do; one that is none is told as it stands."""
    if not 0 <= epoch < EPOCH_MAX:
        return f"{epoch:g} s after 1970"
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
