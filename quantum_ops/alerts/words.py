"""The words of alerts: from a fault to a title whose first words are the cause, and a text that says what to do.

Pure. What is the same in all alerts of a kind comes from ``quantum_core.alert_catalogue``; when an alert is raised or cleared
is decided in ``quantum_ops.alerts.incidents``.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from quantum_core.alert_catalogue import KINDS, SEVERITIES, Severity
from quantum_core.contracts.reading import printable
from quantum_core.display import CAUSES, NO_CANDLES, cause_of, clock_text, duration_text, moment_text
from quantum_core.freshness import CANDLES, Condition, StoredProof, Vital

if TYPE_CHECKING:
    from quantum_core.failure import Failure

Event = Literal["raised", "reminded", "cleared"]
Level = Literal["failure", "warning"]

SYMBOL, PROOF = "symbol:", "proof:"
STOP, GUARD, CLOSE, PERMIT = "stop_crossed:", "guard:", "close_refused:", "permit_unused:"
SCOPE = "scope_disarmed:"
DOUBT = "position_doubtful:"
EQUITY_GUARD = f"{GUARD}EQUITY_STALE"
FAMILIES = {  # alerts of which several are one message, and how that one is called
    SYMBOL: "symbols",
    PROOF: "failing proofs",
    STOP: "stops crossed",
    DOUBT: "positions in doubt",
    GUARD: "guards",
    CLOSE: "closing plans refused",
    PERMIT: "permits unused",
    SCOPE: "planners or symbols disarmed",
}
ENDED = {  # what is over, by kind
    "redis": "silence of Redis",
    "worker": "silence of the worker",
    "daemon": "silence of the sensor daemon",
    "loop": "time without a cycle",
    "proof": "failing proof {name}",
    "proofs": "time without proofs",
    "stop_crossed": "{name} stop crossing",
    "position_doubtful": "{name} position in doubt",
    "kill_switch": "kill switch",
    "auto_disarm": "governor disarmed",
    "disarmed": "governor disarmed",
    "scope_disarmed": "{name} disarmed",
    "guard": "guard {name}",
    "openings_blocked": "openings blocked",
    "close_refused": "close of {name} refused",
    "plan_backlog": "plans waiting",
    "permit_unused": "unused permit of {name}",
    "undelivered": "alerts that reached nobody",
    "profile_unusable": "profile that cannot be used",
    "profile_waiting": "profile that waits for a restart",
}
OF_SYMBOLS = (SYMBOL, STOP, DOUBT, CLOSE, PERMIT)  # families whose names are symbols
SUMMARY = "alerts"  # identity of a message about several alerts of different kinds
NAMES_MAX = 50  # symbols named in one text; the count is always exact
TITLE_NAMES_MAX, TITLE_MAX, TITLE_LEAST = 5, 140, 70  # a title is read on a lock screen, and is the subject of a mail
ONE_CYCLE = "risk_proposal/one_cycle"
NO_NEW = "; no new stop or target"  # what follows for a symbol; its last numbers permit openings until they are too old
OF_PROOF = "proof "  # first word of a cause that rests on a proof alone

LIKELY = {
    Condition.STALE: "the symbol cannot be computed; its last run names the reason",
    Condition.MISSING: "it was never computed, or has expired because it can no longer be computed",
    Condition.UNREADABLE: "another program has overwritten or edited the key",
    Condition.AHEAD: "the clock of a host is wrong, or somebody edited the time",
}
LIKELY_CANDLES = "the program that writes the candles has stopped, or the exchange sends none"
LIKELY_INPUT = "the program that writes this input has a fault, or somebody edited the key"
LIKELY_PROOF = "a published value was edited, an input is wrong, or what was deployed computes something else"

CONSEQUENT = ("market_state_missing", "market_state_stale")  # recorded causes that follow from others
LINEAGE = ("market_state", "position", "risk_proposal", "harvest_proposal")  # whose failures are causes, in the order they arise


@dataclass(frozen=True)
class Trouble:
    """What is wrong with one thing.

    Attributes
    ----------
    alert
        Identity: ``redis``, ``daemon``, ``worker``, ``loop``, ``proofs``, ``kill_switch``, ``disarmed``, ``openings_blocked``,
        ``plan_backlog``, or the name of a thing after one of FAMILIES.
    level
        ``failure``, or ``warning`` where numbers are right but somebody should look.
    what
        What is wrong, the cause first; within a family without the name.
    likely
        Why it probably is.
    look
        The command that shows more.
    since
        When it was last healthy, as far as known; epoch s.
    limit
        What is accepted, as text.
    kind
        Its entry in the catalogue.
    cause
        The cause alone: symbols with the same one are reported together.
    seen
        Values seen, as text.
    code
        Machine-readable cause, where one is recorded: another code is another fault.
    notice
        Whether it is a notice only: it repeats what was reported in full.
    trading
        What it means for trading, where the catalogue says too much.
    recent
        When it last began, epoch s, where that is later than ``since`` and ``what`` says so: it was well in between. Else 0.
    """

    alert: str
    level: Level
    what: str
    since: float
    limit: str
    likely: str
    look: str
    kind: str = ""
    cause: str = ""
    seen: str = ""
    code: str = ""
    notice: bool = False
    trading: str = ""
    recent: float = 0.0

    @property
    def family(self) -> str:
        """Prefix of its identity, as FAMILIES has it; else empty."""
        return self.alert[: self.alert.find(":") + 1]

    @property
    def name(self) -> str:
        """Name within its family: the symbol, the proof or the guard."""
        return self.alert[len(self.family) :]


@dataclass(frozen=True)
class Message:
    """One alert as it is delivered.

    Attributes
    ----------
    event, level, title, text
        What is reported.
    alert
        Identity; one of the values of FAMILIES for several of a family, SUMMARY for several of different kinds.
    symbols
        All symbols concerned.
    since, limit
        As in :class:`Trouble`; the earliest of several.
    at
        When it was made, epoch s.
    kind, severity
        Its entry in the catalogue, and how bad it is; the worst of several.
    routes
        Severities it was ever raised with: whoever heard of the beginning hears of the end. Empty: ``severity`` alone.
    well_since
        Since when nothing of it is wrong any more, epoch s, though it is not closed yet; else ``None``.
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
    kind: str = ""
    severity: Severity = "page"
    routes: tuple[str, ...] = ()
    well_since: float | None = None


# --- messages ----------------------------------------------------------------------------------------------------------------


def severity_of(trouble: Trouble, severities: Mapping[str, Severity]) -> Severity:
    """Give the severity of a trouble; what rests on warnings only never pages."""
    if trouble.notice:
        return "info"
    kind = KINDS.get(trouble.kind)
    severity = severities.get(trouble.kind) or (kind.severity if kind else "page")
    return "warn" if trouble.level == "warning" and severity == "page" and trouble.kind in ("symbol", "proof") else severity


def worst(severities: Sequence[Severity]) -> Severity:
    """Give the worst of some severities."""
    return min(severities, key=SEVERITIES.index)


def groups_of(troubles: Sequence[Trouble]) -> list[list[Trouble]]:
    """Put troubles of one family into one group; every other is a group of its own."""
    groups = [[trouble] for trouble in troubles if trouble.family not in FAMILIES]
    groups += [[trouble for trouble in troubles if trouble.family == family] for family in FAMILIES]
    return [group for group in groups if group]


def message_of(
    event: Event,
    group: Sequence[Trouble],
    now: float,
    *,
    severities: Mapping[str, Severity],
    universe: int = 0,
    ended: str = "",
    routes: Sequence[str] = (),
) -> Message:
    """Make one message of the troubles of one group.

    Parameters
    ----------
    event
        What happened to them.
    group
        At least one, as :func:`groups_of` gives them.
    now
        Epoch s.
    severities
        By kind, where they are not those of the catalogue.
    universe
        Symbols there are; when all are concerned the title says so.
    ended
        What ended them, for ``cleared``.
    routes
        See :class:`Message`.
    """
    first, since, alone = group[0], min(trouble.since for trouble in group), len(group) == 1
    fault_names = [trouble.name for trouble in group]
    limits = ", ".join(dict.fromkeys(limit for trouble in group for limit in trouble.limit.split(", ") if limit))
    headline = line_of(first) if alone else _headline(group, universe)
    if event == "cleared":
        headline = f"OVER: {_ended_subject(group)}, lasted {duration_text(now - since)}{f'; {ended}' if ended else ''}"
    elif event == "reminded":
        headline = f"still: {headline}"
    seen_by_alert = {trouble.alert: f" [{trouble.seen}]" for trouble in group if trouble.seen and not alone}
    lines = [printable(_fault_line(event, trouble) + seen_by_alert.get(trouble.alert, "")) for trouble in group[:NAMES_MAX]]
    if len(group) > NAMES_MAX:
        lines.append(f"... and {len(group) - NAMES_MAX} more, {len(group)} in all")
    pauses = f", with pauses; this time since {moment_text(first.recent)}" if alone and first.recent else ""
    lines.append(f"Since: {moment_text(since)}{pauses}")
    if alone and first.seen and event != "cleared":
        lines.append(printable(f"Seen: {first.seen}"))
    if event == "cleared":
        kind = KINDS.get(first.kind)
        lines += [f"Over: {moment_text(now)}", printable(f"Ended: {ended or (kind.over if kind else '')}")]
    else:
        lines += _advice(group, fault_names, limits)
    severity = worst([severity_of(trouble, severities) for trouble in group])
    return Message(
        event=event,
        alert=first.alert if alone else FAMILIES[first.family],
        level="failure" if any(trouble.level == "failure" for trouble in group) else "warning",
        title=one_line(printable(headline)),
        text="\n".join(lines),
        symbols=tuple(fault_names) if first.family in OF_SYMBOLS else (),
        since=since,
        limit=limits,
        at=now,
        kind=first.kind,
        severity=severity,
        routes=tuple(dict.fromkeys((*routes, severity))),
    )


def messages_of(
    event: Event, troubles: Sequence[Trouble], now: float, severities: Mapping[str, Severity] | None = None, universe: int = 0
) -> list[Message]:
    """Make one message of each group of troubles, see :func:`message_of`."""
    return [message_of(event, group, now, severities=severities or {}, universe=universe) for group in groups_of(troubles)]


def summary_of(messages: Sequence[Message], now: float) -> Message:
    """Make one reminder of several."""
    if len(messages) == 1:
        return messages[0]
    titles = [message.title.removeprefix("still: ") for message in messages]
    return Message(
        event="reminded",
        alert=SUMMARY,
        level="failure" if any(message.level == "failure" for message in messages) else "warning",
        title=one_line(f"still: {len(messages)} alerts: {'; '.join(titles)}"),
        text="\n\n".join(message.text for message in messages),
        symbols=tuple(dict.fromkeys(symbol for message in messages for symbol in message.symbols)),
        since=min(message.since for message in messages),
        limit=", ".join(dict.fromkeys(message.limit for message in messages if message.limit)),
        at=now,
        kind=messages[0].kind,
        severity=worst([message.severity for message in messages]),
        routes=tuple(dict.fromkeys(route for message in messages for route in message.routes)),
    )


def line_of(trouble: Trouble) -> str:
    """Say in one line what is wrong, with the name of the symbol it is wrong with."""
    return f"{trouble.name}: {trouble.what}" if trouble.family in (SYMBOL, STOP, DOUBT) else trouble.what


def _fault_line(event: Event, trouble: Trouble) -> str:
    """Give the line of one trouble; of one that is over only what it was, not what followed from it while it lasted."""
    return f"Was: {line_of(trouble).partition('; ')[0]}" if event == "cleared" else line_of(trouble)


def _ended_subject(group: Sequence[Trouble]) -> str:
    """Name what is over, without saying that it is so."""
    first, names = group[0], _names_text([trouble.name for trouble in group])
    if len(group) > 1:
        causes = {trouble.cause for trouble in group}
        cause = f" ({causes.pop()})" if first.family == SYMBOL and len(causes) == 1 else ""
        return f"{len(group)} {FAMILIES[first.family]}{cause}: {names}"
    if first.family == SYMBOL:
        return f"{first.name} {first.cause or 'trouble'}"
    return ENDED.get(first.kind, first.what.partition("; ")[0]).format(name=first.name)


def _headline(group: Sequence[Trouble], universe: int) -> str:
    first, names = group[0], [trouble.name for trouble in group]
    if first.family != SYMBOL:
        return f"{len(group)} {FAMILIES[first.family]}: {_names_text(names)}"
    by_cause: defaultdict[str, list[Trouble]] = defaultdict(list)
    for trouble in group:
        by_cause[trouble.cause or trouble.what].append(trouble)
    if len(by_cause) > 1:
        causes = sorted(by_cause.items(), key=lambda one: -len(one[1]))
        return f"{len(group)} symbols: " + "; ".join(f"{cause} ({_names_text([t.name for t in ones])})" for cause, ones in causes)
    (cause,) = by_cause
    since = clock_text(min(trouble.since for trouble in group))
    if len(group) == universe:
        who = f"Candles of all {universe} symbols stopped at" if cause == NO_CANDLES else f"All {universe} symbols: {cause} since"
        _, follows, consequence = first.what.rpartition(NO_NEW)
        return f"{who} {since}{follows}{consequence}"
    return f"{len(group)} symbols: {cause} since {since}: {_names_text(names)}"


def _names_text(names: Sequence[str]) -> str:
    return ", ".join(names[:TITLE_NAMES_MAX]) + (" ..." if len(names) > TITLE_NAMES_MAX else "")


def _advice(group: Sequence[Trouble], names: Sequence[str], limits: str) -> list[str]:
    first = group[0]
    kind = KINDS.get(first.kind)
    many = first.family in OF_SYMBOLS and len(group) > 1
    look = first.look.replace(first.name, ",".join(names[:NAMES_MAX])) if many else first.look
    likely = "; ".join(dict.fromkeys(trouble.likely for trouble in group if trouble.likely))
    return [
        *([f"Limit: {limits}"] if limits else []),
        *([f"For trading: {first.trading or kind.trading}"] if kind else []),
        *([printable(f"Likely: {likely}")] if likely else []),
        printable(f"Look: {look}"),
        *([f"Fix: {kind.fix}"] if kind else []),
    ]


def one_line(text: str) -> str:
    """Cut a text to what a title may be."""
    line = " ".join(text.split())  # what stands in a key may hold anything, and a subject with line ends is refused
    if len(line) <= TITLE_MAX:
        return line
    kept = line[: TITLE_MAX - 4]
    whole = kept.rpartition("; ")[0]  # a clause that does not fit is left out rather than broken off in a word
    return f"{whole if len(whole) >= TITLE_LEAST else kept} ..."


# --- troubles of processes, symbols and proofs -------------------------------------------------------------------------------


def clock_trouble(step_sec: float, at: float) -> Trouble:
    """Report that the clock has jumped."""
    way = "back" if step_sec < 0 else "forward"
    return Trouble(
        alert="clock",
        level="warning",
        what=f"The clock was set {way} by {abs(step_sec):.0f} s, or this machine slept; cycles go on",
        since=at,
        limit="5 s",
        likely="the clock is not synchronised, or somebody has set it",
        look=KINDS["clock"].look,
        kind="clock",
        seen=f"{step_sec:+.0f} s against the monotonic clock",
    )


def event_log_trouble(path: str, since: float, now: float) -> Trouble:
    """Report that another program holds the event log."""
    return Trouble(
        alert="event_log",
        level="failure",
        what=f"Event log {path} is locked by another program since {clock_text(since)}; no run starts or is recorded",
        since=since,
        limit="a writer waits for some milliseconds",
        likely="a copy, a scan or a shell of sqlite3 holds it",
        look=f"fuser -v {shlex.quote(path)}",
        kind="event_log",
        seen=f"locked for {now - since:.0f} s",
    )


LIKELY_CONDITIONS = {
    "a read-only replica": "the master has changed places and REDIS_URL leads to the old one, or to a replica",
}


def redis_trouble(address: str, since: float, limit_sec: float, condition: str = "") -> Trouble:
    """Report that Redis does not answer, or what it is where it says why it cannot be used."""
    state, then = (f"is {condition}", "published") if condition else ("does not answer", "read")
    likely = "the server or the way to it is down, or REDIS_URL is wrong"
    return Trouble(
        alert="redis",
        level="failure",
        what=f"Redis at {address} {state} since {clock_text(since)}; nothing can be computed or {then}",
        since=since,
        limit=f"{limit_sec:g} s",
        likely=LIKELY_CONDITIONS.get(condition, "the server says so itself") if condition else likely,
        look=KINDS["redis"].look,
        kind="redis",
    )


PARTS = {
    "worker": ("Worker", "the worker process is dead, hangs, or has lost its broker"),
    "daemon": ("Sensor daemon", "the daemon process is dead or hangs, or the sensor `cycle` is off; no cycle is started"),
    "loop": ("No cycle has ended", "its runs fail, hang or wait; Runs in the user interface shows which"),
}


def part_trouble(alert: str, beat: Vital, now: float) -> Trouble:
    """Report a silent process, or that no cycle ends."""
    part_name, likely = PARTS[alert]
    since = _since([beat], now)
    if beat.condition is Condition.MISSING:
        title = "No cycle has ever ended" if alert == "loop" else f"{part_name} has never sent a heartbeat"
    elif beat.condition in (Condition.STALE, Condition.AGING):
        title = f"{part_name} since {clock_text(since)}" if alert == "loop" else f"{part_name} silent since {clock_text(since)}"
    else:
        title = f"Heartbeat of {'the cycle' if alert == 'loop' else part_name.lower()} is {beat.condition}"
    while_alive = " although worker and daemon are alive" if alert == "loop" else ""
    return Trouble(
        alert=alert,
        level="failure",
        what=f"{title}{while_alive}{f' ({beat.detail})' if beat.detail else ''}; {KINDS[alert].trading.partition('; ')[0]}",
        since=since,
        limit=f"{beat.limit_sec:g} s",
        likely=likely,
        look=KINDS[alert].look,
        kind=alert,
        seen="" if beat.age_sec is None else f"silent for {beat.age_sec:.0f} s",
    )


def symbol_trouble(
    symbol: str, vitals: Sequence[Vital], failures: Mapping[str, Failure], now: float, opening_sec: float
) -> Trouble:
    """Report a symbol whose numbers are old or missing, or that cannot be computed: the cause first.

    Parameters
    ----------
    symbol
        The symbol.
    vitals
        Those that are not healthy.
    failures
        Asset to what its last evaluation could not compute of this symbol.
    now
        Epoch s.
    opening_sec
        Age of what is published from which no opening is permitted.
    """
    failure = next((failures[asset] for asset in LINEAGE if asset in failures), None)
    candles = next((vital for vital in vitals if vital.thing == CANDLES), None)
    code = ""
    if failure is not None:
        cause, since, code = cause_of(failure.why), failure.since, _code_of(failure.why)
        likely = LIKELY_CANDLES if cause == NO_CANDLES else LIKELY_INPUT
    else:
        cause, since = _cause_of_vitals(vitals), _since(vitals, now)
        code = NO_CANDLES if cause == NO_CANDLES else ""
        likely = LIKELY[next((one for one in LIKELY if one in {vital.condition for vital in vitals}), Condition.STALE)]
    if candles is not None and candles.condition in (Condition.STALE, Condition.MISSING):
        likely, since = LIKELY_CANDLES, since if candles.age_sec is None else now - candles.age_sec
    conditions = [*_conditions(vitals), *([failure.why] if failure is not None else [])]
    return Trouble(
        alert=SYMBOL + symbol,
        level="failure",
        what=f"{cause} since {clock_text(since)}{NO_NEW}, no opening once its state is {opening_sec:g} s old",
        since=since,
        limit=", ".join(dict.fromkeys(f"{vital.limit_sec:g} s" for vital in vitals)),
        likely=likely,
        look=f"quantum status --symbols {symbol}",
        kind="symbol",
        cause=CAUSES.get(code, cause),
        seen="; ".join(conditions),
        code=code,
    )


def _code_of(why: str) -> str:
    """Give the cause an asset recorded without its values; empty where it only follows from another."""
    name = re.match(r"\w*", why)
    code = name.group() if name else ""
    if code in CONSEQUENT:
        return ""
    if CAUSES.get(code) == NO_CANDLES:
        return NO_CANDLES
    return f"{code}:{why.partition(': ')[2].partition('=')[0]}" if code == "position_invalid" else code


def _cause_of_vitals(vitals: Sequence[Vital]) -> str:
    if any(vital.thing == CANDLES and vital.condition in (Condition.STALE, Condition.MISSING) for vital in vitals):
        return NO_CANDLES
    words = {Condition.STALE: "not renewed", Condition.AHEAD: "dated in the future", Condition.UNREADABLE: "cannot be read"}
    for condition in (Condition.UNREADABLE, Condition.AHEAD, Condition.MISSING, Condition.STALE):
        things = [vital.thing for vital in vitals if vital.condition is condition]
        if things:
            more = f" and {len(things) - 1} more" if len(things) > 1 else ""
            return f"{things[0]}{more} {words.get(condition, str(condition))}"
    return "numbers are not renewed"


def _conditions(vitals: Sequence[Vital]) -> list[str]:
    by_condition: defaultdict[Condition, list[Vital]] = defaultdict(list)
    for vital in vitals:
        by_condition[vital.condition].append(vital)
    texts = []
    for condition, ones in by_condition.items():
        ages = [vital.age_sec for vital in ones if vital.age_sec is not None]
        details = "; ".join(dict.fromkeys(vital.detail for vital in ones if vital.detail))
        age = f" {max(ages, key=abs):.0f} s" if ages else ""
        texts.append(f"{', '.join(vital.thing for vital in ones)} {condition}{age}{f' ({details})' if details else ''}")
    return texts


def _since(vitals: Sequence[Vital], now: float) -> float:
    return min((now - max(vital.age_sec, 0.0) for vital in vitals if vital.age_sec is not None), default=now)


def proof_text(proof: StoredProof) -> str:
    """Say what a proof observed, and what fails."""
    failing = [f"{name}: {what}" for name, what in proof.failing.items()]
    return "; ".join([*failing[:NAMES_MAX], f"observed {proof.observed}"])


def proof_trouble(trouble: Trouble | None, alert: str, proof: StoredProof, failure: str) -> Trouble:
    """Report a failing proof, as more evidence of a trouble that is known or as one of its own."""
    level: Level = "failure" if proof.severity == "ERROR" else "warning"
    evidence = f"proof {proof.title} fails: {failure}"
    if trouble is not None:
        worse: Level = "failure" if "failure" in (trouble.level, level) else "warning"
        return Trouble(**{**vars(trouble), "level": worse, "seen": "; ".join(filter(None, (trouble.seen, evidence)))})
    symbol = alert[len(SYMBOL) :] if alert.startswith(SYMBOL) else ""
    if proof.title == ONE_CYCLE and proof.severity == "WARN":  # a try that did not end in time: nothing was published by it
        return Trouble(
            alert=alert,
            level=level,
            what="A test cycle (`quantum once`) took too long; published numbers are unaffected",
            since=proof.evaluated_at,
            limit="20 s",
            likely="the machine is busy",
            look="quantum once",
            kind="proof",
            cause="a test cycle took too long",
            seen=evidence,
            trading="none: the test cycle publishes nothing, and published numbers are unaffected",
        )
    return Trouble(
        alert=alert,
        level=level,
        what=f"{failure} (proof {proof.title} fails)",
        since=proof.evaluated_at,
        limit=proof.threshold,
        likely=LIKELY_PROOF,
        look=f"quantum prove --symbols {symbol}" if symbol else "quantum prove",
        kind="symbol" if symbol else "proof",
        cause=f"{OF_PROOF}{proof.title} fails",
        seen=evidence,
    )


def pack_trouble(why: str, since: float, limit_sec: float, *, ahead: bool = False) -> Trouble:
    """Report that the proof pack does not run, or that this is unknown because its time is ahead of the clock."""
    not_run = f"The proof pack has not run since {clock_text(since)}{f' ({why})' if why else ''}"
    return Trouble(
        alert="proofs",
        level="failure",
        what=f"{f'Whether the proof pack runs is not known: {why}' if ahead else not_run}; nobody checks the numbers",
        since=since,
        limit=f"{limit_sec:g} s",
        likely=LIKELY[Condition.AHEAD]
        if ahead
        else "its sensor is switched off, or its runs fail; Automation in the user interface shows which",
        look=KINDS["proofs"].look,
        kind="proofs",
    )
