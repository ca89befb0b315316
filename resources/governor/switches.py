"""What stops openings by hand or by itself: kill switch, disarming of the governor, guards; and how a person ends each.

The governor disarms itself for a scope: one planner (``source:<label>``) where its plans name it, else one symbol
(``symbol:<symbol>``); for all where neither is known, and where too many scopes would have to be disarmed.

Each change and its record are one script. Nothing here needs more than Redis: switches work while Dagster is down.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from quantum_core.contracts.tables import DISARM_TTL_SEC, EVENTS_STREAM_MAXLEN
from quantum_core.kernels.governor.risk_guard import DAILY_LOSS, EQUITY_STALE, GUARDS, Assessment, RiskGuardTheta, assess
from resources.governor.account import AccountReading, read_account, utc_date
from resources.governor.guards import NEEDS, RELEASED, guard_said, read_guards
from resources.store.redis_store import RedisStore, UnreadableKeyError, flat, pairs
from resources.store.transport.scripts import Script

TEXT_MAX = 500  # characters of a name or a reason that are kept
SCOPES_MAX = 50  # planners and symbols disarmed one by one; more is no single one's fault, and disarms all
SOURCE, SYMBOL = "source:", "symbol:"  # kinds of scopes
BY_US = b"raw"  # encoding of the value that `quantum kill` leaves: a SET by hand gives "int", and so does a restart

KILL = Script(__file__, "kill")
DISARM = Script(__file__, "disarm")
DISARM_SCOPE = Script(__file__, "disarm_scope")
COUNT_FAULTS = Script(__file__, "count_faults")
ARM = Script(__file__, "arm")
ARM_SCOPE = Script(__file__, "arm_scope")
RELEASE = Script(__file__, "release")


class NotReleasedError(RuntimeError):
    """A guard stands, and why it stays."""


@dataclass(frozen=True, slots=True)
class Switched:
    """What became of a switch.

    Attributes
    ----------
    changed
        Whether it was not set before.
    unrecorded
        Why the event could not be written; empty when it was (or none was due).
    """

    changed: bool
    unrecorded: str = ""


@dataclass(frozen=True, slots=True)
class Switches:
    """How the switches stand.

    Attributes
    ----------
    killed
        The kill switch is set; also when its key cannot be read.
    disarmed
        The governor is disarmed; also when its key cannot be read.
    set_by_kill
        The kill switch is what `quantum kill` leaves there. Anything else was set by hand or by another program, or the server
        was restarted: who it was is not known.
    disarm
        Why and since when (cause, at); empty when it is not disarmed, or the key says nothing.
    scopes
        Planners and symbols that are disarmed, ``source:<label>`` or ``symbol:<symbol>``, with what each says (cause, at, plans).
    trouble
        What cannot be read; empty when all can.
    """

    killed: bool
    disarmed: bool
    set_by_kill: bool = False
    disarm: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""
    scopes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def scope_against(self, symbol: str, source: str) -> str:
        """Name the scope that blocks an opening of a planner and symbol: ``all``, one of ``scopes``, or the empty string."""
        if self.disarmed:
            return "all"
        return next((scope for scope in scopes_of(symbol, source) if scope in self.scopes), "")


def scopes_of(symbol: str, source: str) -> list[str]:
    """Give the scopes a plan lies in: its planner, if it names one, then its symbol. The first is disarmed for its faults."""
    return [f"{kind}{name}" for kind, name in ((SOURCE, source), (SYMBOL, symbol)) if name]


def scope_text(scope: str) -> str:
    """Name a scope for people."""
    return scope.replace(SOURCE, "planner ", 1) if scope.startswith(SOURCE) else scope.replace(":", " ", 1)


def scope_option(scope: str) -> str:
    """Give the option of `quantum arm` that ends a scope."""
    kind, _, name = scope.partition(":")
    return f"--{kind} {shlex.quote(name)}"


def kill(store: RedisStore, *, reason: str, by: str) -> Switched:
    """Set the kill switch, whatever stands there, and record who did it.

    Parameters
    ----------
    reason, by
        Why, and who; neither may be blank.

    Raises
    ------
    ValueError
        One of them is blank.
    RedisUnavailableError
        The server is away.
    """
    event = {"event": "KILL", "reason": _one_line("reason", reason), "by": _one_line("by", by), **_moment(store.clock())}
    keys = (store.keys.of("kill"), store.keys.of("stream_governor_events"))
    return _switched(store.run("setting the kill switch", [KILL(keys, EVENTS_STREAM_MAXLEN, *flat(event))])[0])


def disarm(store: RedisStore, cause: str, *, now: datetime | None = None) -> Switched:
    """Disarm the governor until a person arms it again; a second time on the same UTC day nothing is written.

    On a later day, while it is still disarmed, the day gets its marker and event; since when and why it is disarmed stays.

    Parameters
    ----------
    cause
        Why, not blank.
    now
        When; the store's clock where it is no part of a decision.

    Raises
    ------
    ValueError
        The cause is blank.
    RedisUnavailableError
        The server is away.
    """
    now, cause = now or store.clock(), _one_line("cause", cause)
    keys = (store.keys.of("disarm", utc_date(now)), store.keys.of("disarmed"), store.keys.of("stream_governor_events"))
    cause_json = orjson.dumps({"cause": cause, "at": now.isoformat()})
    event = {"event": "AUTO_DISARM", "reason": cause, **_moment(now)}
    command = DISARM(keys, cause_json, DISARM_TTL_SEC, EVENTS_STREAM_MAXLEN, *flat(event))
    return _switched(store.run("disarming the governor", [command])[0])


def disarm_scope(store: RedisStore, scope: str, cause: str, *, plans: int, now: datetime | None = None) -> Switched:
    """Disarm the governor for the openings of one planner or symbol until a person arms it again; for all where that is too many.

    Parameters
    ----------
    scope
        See :func:`scopes_of`; the empty string is everything.
    cause
        Why, not blank.
    plans
        How many plans were at fault so far.
    now
        When; the store's clock where it is no part of a decision.

    Raises
    ------
    ValueError
        The cause is blank.
    RedisUnavailableError
        The server is away.
    """
    if not scope:
        return disarm(store, cause, now=now)
    now, cause = now or store.clock(), _one_line("cause", cause)
    keys = (store.keys.of("disarmed_scopes"), store.keys.of("stream_governor_events"))
    cause_json = orjson.dumps({"cause": cause, "at": now.isoformat(), "plans": str(plans)})
    event = {"event": "AUTO_DISARM", "reason": cause, "scope": scope, "plans": str(plans), **_moment(now)}
    arguments = {
        "scope": scope,
        "cause": cause_json.decode(),
        "scopes_max": SCOPES_MAX,
        "maxlen": EVENTS_STREAM_MAXLEN,
        "event": flat(event),
    }
    (reply,) = store.run("disarming a planner or symbol", [DISARM_SCOPE(keys, orjson.dumps(arguments))])
    if isinstance(reply, Exception):  # what says who is disarmed cannot be used: then all are
        return disarm(store, f"{cause}; {reply}", now=now)
    if reply[0] == 2:
        many = f"more than {SCOPES_MAX} planners and symbols had to be disarmed, the last one {scope_text(scope)}"
        return disarm(store, many, now=now)
    return _switched(reply)


def count_faults(store: RedisStore, faults: Sequence[tuple[str, str, str]], now: datetime) -> tuple[list[int], int]:
    """Count plans that were at fault today, each once.

    Parameters
    ----------
    faults
        Kind (``errors`` or ``bursts``), scope and plan_id of each.
    now
        When; names the day.

    Returns
    -------
    counts, scopes
        How many of its kind each plan's scope has had today, and how many scopes have had errors.

    Raises
    ------
    UnreadableKeyError
        They cannot be counted.
    RedisUnavailableError
        The server is away.
    """
    today = utc_date(now)
    keys = (store.keys.of("governor_faults", today), store.keys.of("governor_errors", today))
    parts = [part for one in faults for part in one]
    (reply,) = store.run("counting errors and bursts", [COUNT_FAULTS(keys, DISARM_TTL_SEC, *parts)])
    if isinstance(reply, Exception):
        raise UnreadableKeyError(keys[0], "counts of errors and bursts", reply)
    return list(reply[:-1]), int(reply[-1])


def arm(store: RedisStore, *, name: str, reason: str, scope: str = "") -> tuple[str, ...]:
    """End kill switch and disarming, forget today's errors, and record who did it; or only what is disarmed of one scope.

    Parameters
    ----------
    name, reason
        Who answers for it, and why; neither may be blank.
    scope
        A planner or symbol, see :func:`scopes_of`: kill switch, a disarming of all, and other scopes stay as they are.

    Returns
    -------
    tuple of str
        What stood, of ``kill``, ``disarm`` and ``errors``. Risk guards stay: they end with their time.

    Raises
    ------
    ValueError
        One of them is blank.
    UnreadableKeyError
        It cannot be recorded, and nothing was cleared.
    RedisUnavailableError
        The server is away.
    """
    now, of = store.clock(), store.keys.of
    event = {"event": "ARMED", "by": _one_line("name", name), "reason": _one_line("reason", reason), **_moment(now)}
    today = utc_date(now)
    stream, scopes, faults = of("stream_governor_events"), of("disarmed_scopes"), of("governor_faults", today)
    if scope:
        command = ARM_SCOPE((scopes, faults, stream), scope, EVENTS_STREAM_MAXLEN, *flat(event | {"scope": scope}))
    else:
        keys = (of("kill"), of("disarmed"), of("disarm", today), of("governor_errors", today), stream, scopes, faults)
        command = ARM(keys, EVENTS_STREAM_MAXLEN, *flat(event))
    (reply,) = store.run("arming the governor", [command])
    if isinstance(reply, Exception):
        raise UnreadableKeyError(stream, "the record of who armed the governor", reply)
    return tuple(name.decode() for name in reply)


def release(store: RedisStore, guard: str, *, name: str, reason: str) -> dict[str, str]:
    """End one guard before its time, for a named person, and record who did it. New readings may activate it again.

    Parameters
    ----------
    guard
        Its type; one of ``GUARDS``.
    name, reason
        Who answers for it, and why; neither may be blank.

    Returns
    -------
    dict
        What the guard said of itself (reason, activated_at, ...).

    Raises
    ------
    ValueError
        No such guard is known, or name or reason is blank.
    NotReleasedError
        It stays: by current readings its condition holds, or nobody knows; or it is not active, waits for a second reading, has
        changed meanwhile, or its release cannot be recorded.
    RedisUnavailableError
        The server is away.
    """
    event = {"event": RELEASED, "guard_type": guard, "by": _one_line("name", name), "reason": _one_line("reason", reason)}
    of = store.keys.of
    key = of("guard_active", guard)
    (held,) = store.run("looking at a guard", [("GET", key)])
    if guard not in GUARDS:
        if held is None:
            msg = f"guard {guard!r} is not known: accepted are {', '.join(GUARDS)}"
            raise ValueError(msg)
        msg = f"{guard} is no guard of ours, so that nobody here knows its condition: whoever set it deletes {key}"
        raise NotReleasedError(msg)
    if why := _why_it_stays(store, guard, key, held):
        raise NotReleasedError(why)
    released = guard_said(held)
    event |= {"released": released.get("reason", ""), "timestamp": str(int(store.clock().timestamp()))}
    keys = (key, of("stream_risk_events"), of("guard_readings"))
    (reply,) = store.run("releasing a guard", [RELEASE(keys, held, guard, EVENTS_STREAM_MAXLEN, *flat(event))])
    if isinstance(reply, Exception):
        msg = f"it cannot be recorded: {reply}"
        raise NotReleasedError(msg)
    if reply == 0:
        msg = f"{guard} changed at this moment: look at it again"
        raise NotReleasedError(msg)
    return released


def _why_it_stays(store: RedisStore, guard: str, key: str, held: Any) -> str:
    """Say what keeps a guard from being released; what is not known keeps it."""
    if isinstance(held, Exception):
        return f"{key} cannot be read: {held}"
    if held is None:
        return f"no guard {guard} is active"
    if guard_said(held).get("pending"):
        return f"{guard} waits for a second reading of the account: a newer one within its limit ends it by itself"
    account = read_account(store)
    if why := _why_it_holds(account, assess(account.account, store.profile.theta(RiskGuardTheta)), guard):
        return why
    if guard == DAILY_LOSS and (trouble := read_guards(store).trouble):  # a loss under another name is found by the evaluation
        return f"the losses of the day are not known: {trouble}"
    return ""


def _why_it_holds(account: AccountReading, assessment: Assessment, guard: str) -> str:
    reasons = {one.guard: one.reason for one in assessment.triggered}
    if guard in reasons:
        return f"its condition holds: {reasons[guard]}"
    if assessment.unusable:
        return f"the account cannot be judged: {'; '.join(account.seen[name] for name in assessment.unusable)}"
    if not assessment.equity_fresh:
        return f"the account is not known: {reasons.get(EQUITY_STALE, EQUITY_STALE)}"
    if NEEDS.get(guard) in account.absent:
        return f"whether its condition holds is not known: {account.seen[NEEDS[guard]]}"
    return "" if guard in assessment.judged else "whether its condition holds is not known"


def read_switches(store: RedisStore) -> Switches:
    """Read kill switch and disarming in one round trip; what cannot be read is on.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    return switches_said(store, store.run("reading the switches", switch_commands(store)))


def switch_commands(store: RedisStore) -> list[tuple[Any, ...]]:
    """Give the commands that read the switches."""
    of = store.keys.of
    return [("GET", of("kill")), ("OBJECT", "ENCODING", of("kill")), ("GET", of("disarmed")), ("HGETALL", of("disarmed_scopes"))]


def switches_said(store: RedisStore, replies: Sequence[Any]) -> Switches:
    """Read what :func:`switch_commands` brought."""
    kill_reply, encoding, disarm_reply, scopes = replies
    named = zip(("kill", "disarmed", "disarmed_scopes"), (kill_reply, disarm_reply, scopes), strict=True)
    broken = [f"{store.keys.of(name)}: {reply}" for name, reply in named if isinstance(reply, Exception)]
    unknown = isinstance(scopes, Exception)  # who is disarmed: then all are
    return Switches(
        killed=kill_reply not in (None, b"", b"0"),
        disarmed=disarm_reply is not None or unknown,
        set_by_kill=kill_reply == b"1" and encoding == BY_US,
        disarm=guard_said(disarm_reply),
        trouble="; ".join(broken),
        scopes={} if unknown else {scope.decode(errors="replace"): guard_said(one) for scope, one in pairs(scopes).items()},
    )


def _moment(now: datetime) -> dict[str, str]:
    return {"timestamp": str(int(now.timestamp())), "timestamp_epoch": repr(now.timestamp())}


def _one_line(what: str, text: str) -> str:
    """Bring what a person typed into one line that Redis takes."""
    line = " ".join(text.encode(errors="replace").decode().split())[:TEXT_MAX]
    if not line:
        msg = f"{what} is blank: say it in words"
        raise ValueError(msg)
    return line


def _switched(reply: Any) -> Switched:
    if isinstance(reply, Exception):
        raise reply
    return Switched(changed=reply[0] == 1, unrecorded=reply[1].decode(errors="replace"))
