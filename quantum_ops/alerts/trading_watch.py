"""From what was decided to what an operator must know: switches, guards, refused closes, crossed stops, waiting plans, permits.

Pure. ``quantum_ops.alerts.trading_signs`` reads the signs; the ledger (``quantum_ops.alerts.incidents``) decides what is
raised and cleared. States are judged at every poll, events are folded one by one, so that a switch that was set and cleared
between two polls is reported, too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from quantum_core.alert_catalogue import KINDS
from quantum_core.contracts.tables import PERMIT_TTL_SEC
from quantum_core.display import clock_text, duration_text, price_text
from quantum_core.freshness import EPOCH_MAX, NOTHING, SymbolSigns
from quantum_core.kernels.governor import BURST, CLOSE_LIMITS, CONFLICT, DISARMED, EXCEEDS, is_closing
from quantum_core.kernels.risk_guard import CONSEC_LOSS, DAILY_LOSS, DRAWDOWN, EMERGENCY_FLATTEN, EQUITY_STALE, RiskGuardTheta
from quantum_ops.alerts.unusable import Guarded
from quantum_ops.alerts.words import CLOSE, DOUBT, GUARD, PERMIT, SCOPE, STOP, Level, Trouble

KILL, DISARM, BLOCKED, BACKLOG = "kill_switch", "disarmed", "openings_blocked", "plan_backlog"
PLAN_WAIT_SEC = 30.0  # a plan that has waited for longer is a backlog; they are decided within seconds otherwise
REFUSAL_SEC = 3600.0  # a refused close is over when none was refused for so long and nobody knows when it would pass
UNUSED_SEC = 600.0  # an unused permit is shown for so long
NO_GUARD_SEC = 60.0  # a risk guard that was never evaluated is given so long: the deployment may be starting
UNJUDGED_SEC = 5.0  # what cannot be judged must be so at two polls
DOUBT_SEC = 15.0  # one bad tick is over by then; sides in turn are told at once
EARLY_SEC = 10.0  # a guard that ends so long before its time was removed
HOUR_SEC, BURST_SEC, DAY_SEC = 3600, 300, 86400
EQUITY_STALE_SEC = RiskGuardTheta().equity_stale_sec
BURSTS_KEPT = 100  # plans that were one too many, for the words of those who are disarmed for them
LIMIT_MAX = 1e15  # a larger limit is junk

GUARD_WORDS = {
    EQUITY_STALE: "Equity is not renewed",
    DAILY_LOSS: "Loss of the day is above its limit",
    DRAWDOWN: "Drawdown is above its limit",
    EMERGENCY_FLATTEN: "Drawdown is above the emergency limit",
    CONSEC_LOSS: "Too many losses in a row",
}
BLOCK_WORDS = {
    "risk_guard_error": "Account cannot be judged",
    "risk_guard_stale": "Risk guard is not evaluated",
    "risk_guard_missing": "Risk guard was never evaluated",
    "risk_guard_unreadable": "State of the risk guard cannot be read",
    "risk_guard_in_future": "Risk guard is dated in the future",
    "guard_unreadable": "A guard cannot be read",
}


@dataclass(frozen=True)
class Entry:
    """One event: id in its stream, and its fields as text."""

    id: str
    fields: Mapping[str, str]

    @property
    def at(self) -> float:
        """When it was written, epoch s, by the server's clock."""
        return int(self.id.partition("-")[0]) / 1000


@dataclass(frozen=True)
class TradingSigns:
    """What one poll shows of what was decided.

    Attributes
    ----------
    killed, disarmed
        The switches; also on when they cannot be read.
    disarm
        Why and since when it is disarmed (cause, at), where its key says so.
    scopes
        Planners and symbols that are disarmed one by one, with what each says (cause, at, plans).
    kill_recorded
        The kill switch is as `quantum kill` left it, so that the record of that is a record of it.
    switch_trouble, guard_trouble
        What cannot be read or judged; empty when all can.
    guards
        Live guards with what each says of itself.
    entries
        Events since the last poll, oldest first.
    cursors
        Stream to the last entry read.
    waiting, waiting_since
        Plans nobody has decided, and when the oldest of them was written, epoch s.
    permits
        Watched plan to what its permit's ``consumed`` says; empty when the permit is gone.
    granted
        Symbol with a refused close to when closes of it were permitted, epoch s, newest first.
    """

    killed: bool = False
    disarmed: bool = False
    disarm: Mapping[str, str] = field(default_factory=dict)
    scopes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kill_recorded: bool = True
    switch_trouble: str = ""
    guards: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    guard_trouble: str = ""
    entries: Sequence[Entry] = ()
    cursors: Mapping[str, str] = field(default_factory=dict)
    waiting: int = 0
    waiting_since: float | None = None
    permits: Mapping[str, str] = field(default_factory=dict)
    granted: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Something began, or (``trouble`` is None) ended; ``ended`` says by what."""

    alert: str
    trouble: Trouble | None = None
    ended: str = ""


@dataclass(frozen=True)
class Decided:
    """What follows from one poll.

    Attributes
    ----------
    changes
        What events show to have begun and ended, in their order.
    troubles
        What is wrong now, by alert.
    unsure
        Alerts of which nothing is known now.
    endings
        What ended an alert that is not in ``troubles`` any more, where that is known.
    """

    changes: Sequence[Change] = ()
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()
    endings: Mapping[str, str] = field(default_factory=dict)


NOTHING_DECIDED = Decided()


@dataclass
class Memory:
    """What is remembered between polls, and across a restart of the watcher.

    Attributes
    ----------
    cursors
        Stream to the last entry folded in; empty before the first poll.
    kill
        Who set the kill switch, why and when (by, reason, at); empty while it is not set, and without a record.
    refused
        Symbol to its refused closes: plan_id, action, reason, text, count, at (of the first), last, until (0: unknown).
    permits
        Plan to its permit that nobody has used yet: symbol, at, seen.
    unused
        Symbol to the permit that nobody used: plan_id, at.
    executors_mark
        Whether an executor has ever marked a permit as consumed.
    blocked_since
        Since when openings cannot be judged; 0 when they can.
    crossed
        Symbol to when its stop was first seen crossed, epoch s, and the entry price of that position.
    guards
        Live guard to when it expires, epoch s; 0 where it does not say.
    bursts
        The last opening of each planner or symbol that was one too many within five minutes, in words.
    scopes
        Disarmed planner or symbol to how many of its openings were refused for that.
    doubts
        Symbol to since when something is wrong with its position, epoch s.
    """

    cursors: dict[str, str] = field(default_factory=dict)
    kill: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)
    permits: dict[str, dict[str, Any]] = field(default_factory=dict)
    unused: dict[str, dict[str, Any]] = field(default_factory=dict)
    executors_mark: bool = False
    blocked_since: float = 0.0
    crossed: dict[str, tuple[float, float]] = field(default_factory=dict)
    guards: dict[str, float] = field(default_factory=dict)
    bursts: dict[str, str] = field(default_factory=dict)
    scopes: dict[str, int] = field(default_factory=dict)
    doubts: dict[str, float] = field(default_factory=dict)


class TradingWatch:
    """Folds what was decided into troubles.

    Parameters
    ----------
    stored
        What a predecessor left, as :meth:`to_json` gave it.
    """

    def __init__(self, stored: Mapping[str, Any] | None = None) -> None:
        self.memory = Memory(**(stored or {}))
        self._guarded = Guarded()

    def to_json(self) -> dict[str, Any]:
        """Give the memory as plain values."""
        return asdict(self.memory)

    def observe(
        self, signs: TradingSigns, symbols: Iterable[SymbolSigns], now: float, *, stop_age_sec: float, patient: bool = True
    ) -> Decided:
        """Take one poll in.

        Parameters
        ----------
        signs
            What was read.
        symbols
            Positions and stops of every symbol.
        now
            Epoch s.
        stop_age_sec
            Age from which a proposal says nothing about its stop.
        patient
            Wait for a second poll, or a minute after the start, before openings count as blocked for what cannot be judged.
        """
        first = not self.memory.cursors  # history explains what is on, but is no news
        changes: list[Change] = []
        endings = dict.fromkeys((KILL, DISARM), "its key is gone, without a record of who and why")
        for entry in signs.entries:  # first: the governor disarms itself before it records the plan
            self._refused_opening(entry.fields)
        for entry in signs.entries:
            changes += self._guarded.call(f"event {entry.id}", [], self._fold, entry, signs)
        self.memory.cursors = dict(signs.cursors)
        troubles: dict[str, Trouble] = {}
        unsure: set[str] = set()
        symbols = list(symbols)

        def part(alert: str, judge: Callable[..., None], *what: Any) -> None:
            """Judge one thing; of one that cannot be judged nothing is known, so that its alert is not cleared."""
            if not self._guarded.call(alert, None, _done, judge, *what):
                unsure.add(alert)

        part(KILL, self._kill_switch, signs, now, troubles)
        part(DISARM, self._disarmed, signs, now, troubles)
        self._keep_scopes(signs, endings)
        for scope, said in signs.scopes.items():
            part(SCOPE + scope, self._scope, scope, said, now, troubles)
        for guard, said in signs.guards.items():
            part(GUARD + guard, _guard, guard, said, now, troubles)
        part(GUARD, self._guard_endings, signs, now, endings)
        part(BLOCKED, partial(self._openings, patient=patient), signs, troubles, now, unsure)
        before, self.memory.crossed = self.memory.crossed, {}
        for one in symbols:
            part(STOP + one.symbol, self._stop, one, before, now, stop_age_sec, troubles, unsure, endings)
            if one.trouble or one.symbol in self.memory.doubts:
                part(DOUBT + one.symbol, partial(self._doubt, patient=patient), one, now, stop_age_sec, troubles, unsure)
        flat = {one.symbol for one in symbols if one.held is False}
        for symbol, refused in list(self.memory.refused.items()):
            part(CLOSE + symbol, self._refusal, symbol, refused, flat, now, troubles, endings)
        part(PERMIT, self._permits, signs, now, troubles, endings)
        part(BACKLOG, _backlog, signs, now, troubles)
        return Decided([] if first else changes, troubles, frozenset(unsure), endings)

    # --- events ----------------------------------------------------------------------------------------------------------

    def _refused_opening(self, fields: Mapping[str, str]) -> None:
        scope = fields.get("disarm_scope", "")
        if fields.get("event") != "BLOCK" or _closes(fields):
            return
        if fields.get("reason") == BURST:
            plan = fields.get("plan_id", "")
            self.memory.bursts = {**dict(list(self.memory.bursts.items())[-BURSTS_KEPT:]), plan: _burst_text(fields)}
        elif fields.get("reason") == DISARMED and scope:
            self.memory.scopes[scope] = self.memory.scopes.get(scope, 0) + 1

    def _fold(self, entry: Entry, signs: TradingSigns) -> list[Change]:
        fields, event = entry.fields, entry.fields.get("event", "")
        if event == "KILL":
            self.memory.kill = (self.memory.kill if "standing" in fields else {}) or _who(entry)
            return [Change(KILL, _kill_trouble(self.memory.kill, entry.at))]
        scope = fields.get("scope", "")
        if event == "AUTO_DISARM" and scope:
            self.memory.scopes.setdefault(scope, 0)
            said = {"cause": fields.get("reason", "?"), "plans": fields.get("plans", "")}
            return [Change(SCOPE + scope, _scope_trouble(scope, said, entry.at, self.memory.bursts, 0))]
        if event == "ARMED" and scope:
            self.memory.scopes.pop(scope, None)
            return [Change(SCOPE + scope, ended=f"armed by {fields.get('by', '?')}: {fields.get('reason', '?')}")]
        if event == "AUTO_DISARM":
            return [
                Change(DISARM, _disarm_trouble({"cause": fields.get("reason", "?")}, entry.at, self.memory.bursts, itself=True))
            ]
        if event == "ARMED":
            self.memory.kill = {}
            ended = f"armed by {fields.get('by', '?')}: {fields.get('reason', '?')}"
            scopes, self.memory.scopes = self.memory.scopes, {}
            return [Change(KILL, ended=ended), Change(DISARM, ended=ended), *(Change(SCOPE + one, ended=ended) for one in scopes)]
        if event.startswith("RISK_GUARD_"):
            return _guard_changes(entry)
        if event == "PERMIT":
            return self._permitted(entry)
        return self._blocked(entry, signs) if event == "BLOCK" and _closes(fields) else []

    def _permitted(self, entry: Entry) -> list[Change]:
        symbol, plan_id = entry.fields.get("symbol", ""), entry.fields.get("plan_id", "")
        self.memory.permits[plan_id] = {"symbol": symbol, "at": entry.at, "seen": ""}
        if not _closes(entry.fields) or self.memory.refused.pop(symbol, None) is None:
            return []
        return [Change(CLOSE + symbol, ended=f"closing plan {plan_id} is permitted")]

    def _blocked(self, entry: Entry, signs: TradingSigns) -> list[Change]:
        symbol = entry.fields.get("symbol", "") or "(no symbol)"
        before = self.memory.refused.get(symbol, {"count": 0, "at": entry.at})
        text, limit, until = _refusal(entry, signs.granted.get(symbol, ()))
        refused = {
            "plan_id": entry.fields.get("plan_id", "?"),
            "action": entry.fields.get("action", ""),
            "gate": entry.fields.get("gate", ""),
            "reason": entry.fields.get("reason", ""),
            "text": text,
            "limit": limit,
            "until": until,
            "count": before["count"] + 1,
            "at": before["at"],
            "last": entry.at,
        }
        self.memory.refused[symbol] = refused
        return [Change(CLOSE + symbol, _refused_trouble(symbol, refused))]

    # --- states ----------------------------------------------------------------------------------------------------------

    def _kill_switch(self, signs: TradingSigns, now: float, troubles: dict[str, Trouble]) -> None:
        if signs.killed:
            if not signs.kill_recorded:  # deleted and set anew: whoever is on record did not set this one
                self.memory.kill = {}
            troubles[KILL] = _kill_trouble(self.memory.kill, now)
        else:
            self.memory.kill = {}

    def _disarmed(self, signs: TradingSigns, now: float, troubles: dict[str, Trouble]) -> None:
        if signs.disarmed:
            troubles[DISARM] = _disarm_trouble(signs.disarm, now, self.memory.bursts, itself=bool(signs.disarm))

    def _keep_scopes(self, signs: TradingSigns, endings: dict[str, str]) -> None:
        for scope in self.memory.scopes.keys() - signs.scopes.keys():
            endings[SCOPE + scope] = "its entry is gone, without a record of who and why"
        self.memory.scopes = {scope: self.memory.scopes.get(scope, 0) for scope in signs.scopes}

    def _scope(self, scope: str, said: Mapping[str, str], now: float, troubles: dict[str, Trouble]) -> None:
        troubles[SCOPE + scope] = _scope_trouble(scope, said, now, self.memory.bursts, self.memory.scopes.get(scope, 0))

    def _guard_endings(self, signs: TradingSigns, now: float, endings: dict[str, str]) -> None:
        for guard, until in self.memory.guards.items():
            early = "its key was removed before its time" if now < until - EARLY_SEC else "its time is over"
            endings[GUARD + guard] = "the equity is fresh again" if guard == EQUITY_STALE else early
        self.memory.guards = {guard: _epoch(said.get("expires_at", "")) for guard, said in signs.guards.items()}

    def _openings(
        self, signs: TradingSigns, troubles: dict[str, Trouble], now: float, unsure: set[str], *, patient: bool
    ) -> None:
        """Report why openings are blocked altogether where neither a switch nor a guard says so."""
        why = "; ".join(filter(None, (signs.switch_trouble, signs.guard_trouble)))
        if not why:
            self.memory.blocked_since = 0.0
            return
        self.memory.blocked_since = self.memory.blocked_since or now
        patience = NO_GUARD_SEC if why.startswith("risk_guard_missing") else UNJUDGED_SEC
        if troubles or (patient and now - self.memory.blocked_since < patience):  # a switch or a guard is the cause that is told
            unsure.add(BLOCKED)
        else:
            troubles[BLOCKED] = _blocked_trouble(why, self.memory.blocked_since)

    def _stop(
        self,
        signs: SymbolSigns,
        before: Mapping[str, tuple[float, float]],
        now: float,
        stop_age_sec: float,
        troubles: dict[str, Trouble],
        unsure: set[str],
        endings: dict[str, str],
    ) -> None:
        """Report a crossed stop, or how it ended."""
        stop, alert, symbol = signs.stop, STOP + signs.symbol, signs.symbol
        crossed = self.memory.crossed
        current = stop is not None and now - stop.at <= stop_age_sec
        if signs.held is False and signs.clocks.get("position", NOTHING).epoch is not None:
            endings[alert] = "the position is closed"
        elif signs.held is False and not (current and symbol in before):
            endings[alert] = "no position is tracked any more; whether it is closed is not known"
        elif signs.held is False or stop is None or now - stop.at > stop_age_sec:
            unsure.add(alert)
            if symbol in before:
                crossed[symbol] = before[symbol]
        elif stop.breached:
            since, entry = before.get(symbol, (stop.at, stop.entry))
            crossed[symbol] = (since if entry == stop.entry else stop.at, stop.entry)
            troubles[alert] = _stop_trouble(signs, crossed[symbol][0])
        elif symbol in before and before[symbol][1] != stop.entry:
            endings[alert] = "the position was closed, another is open"
        else:
            endings[alert] = f"stop {price_text(stop.stop)}, price {price_text(stop.price)}"

    def _doubt(
        self,
        signs: SymbolSigns,
        now: float,
        stop_age_sec: float,
        troubles: dict[str, Trouble],
        unsure: set[str],
        *,
        patient: bool,
    ) -> None:
        """Report what is wrong with a position, with the numbers of now."""
        alert, evaluated = DOUBT + signs.symbol, signs.clocks.get("position", NOTHING).epoch
        if not signs.trouble:
            del self.memory.doubts[signs.symbol]
            return
        since = self.memory.doubts.setdefault(signs.symbol, now)
        waits = patient and now - since < DOUBT_SEC and not signs.trouble.startswith(CONFLICT)
        if waits or evaluated is None or now - evaluated > stop_age_sec:
            unsure.add(alert)
        else:
            troubles[alert] = _doubt_trouble(signs, since)

    def _refusal(
        self,
        symbol: str,
        refused: Mapping[str, Any],
        flat: set[str],
        now: float,
        troubles: dict[str, Trouble],
        endings: dict[str, str],
    ) -> None:
        alert = CLOSE + symbol
        if refused["until"] and now >= refused["until"]:
            endings[alert] = "the limit has room again: the plan may be sent again"
        elif symbol in flat and now - refused["last"] > PLAN_WAIT_SEC:  # a close of a flat symbol is refused, too
            endings[alert] = "the position is closed"
        elif now - refused["last"] > REFUSAL_SEC:
            endings[alert] = "no closing plan was refused for an hour"
        else:
            troubles[alert] = _refused_trouble(symbol, refused)
            return
        del self.memory.refused[symbol]

    def _permits(self, signs: TradingSigns, now: float, troubles: dict[str, Trouble], endings: dict[str, str]) -> None:
        for plan_id, permit in list(self.memory.permits.items()):
            consumed = signs.permits.get(plan_id)
            if consumed == "true":
                self.memory.executors_mark = True
                del self.memory.permits[plan_id]
                if self.memory.unused.pop(permit["symbol"], None):
                    endings[PERMIT + permit["symbol"]] = f"permit of plan {plan_id} was used"
            elif consumed == "false":
                permit["seen"] = consumed
            elif now - permit["at"] > PERMIT_TTL_SEC:
                if permit["seen"] and self.memory.executors_mark:
                    self.memory.unused[permit["symbol"]] = {"plan_id": plan_id, "at": permit["at"]}
                del self.memory.permits[plan_id]
        for symbol, unused in list(self.memory.unused.items()):
            if now - unused["at"] > UNUSED_SEC:
                del self.memory.unused[symbol]
                endings.setdefault(PERMIT + symbol, "ten minutes have passed")
            else:
                troubles[PERMIT + symbol] = _unused_trouble(symbol, unused)


def _done(judge: Callable[..., None], *what: Any) -> bool | None:
    judge(*what)
    return True


def _guard(guard: str, said: Mapping[str, str], now: float, troubles: dict[str, Trouble]) -> None:
    troubles[GUARD + guard] = _guard_trouble(guard, said, now)


def _backlog(signs: TradingSigns, now: float, troubles: dict[str, Trouble]) -> None:
    if signs.waiting_since is not None and now - signs.waiting_since > PLAN_WAIT_SEC:
        troubles[BACKLOG] = _backlog_trouble(signs.waiting, signs.waiting_since, now)


# --- words -------------------------------------------------------------------------------------------------------------------


def _guard_changes(entry: Entry) -> list[Change]:
    fields, event = entry.fields, entry.fields.get("event", "")
    guard = fields.get("guard_type", "?")
    said = {"reason": fields.get("reason", "")}
    if event == "RISK_GUARD_ACTIVATED":
        return [Change(GUARD + guard, _guard_trouble(guard, said, entry.at))]
    if event == "RISK_GUARD_PENDING":
        said |= {"pending": "True", "confirm_sec": fields.get("confirm_sec", "")}
        return [Change(GUARD + guard, _guard_trouble(guard, said, entry.at))]
    if event == "RISK_GUARD_RECOVERED":
        return [Change(GUARD + guard, ended=fields.get("reason", "?"))]
    if event == "RISK_GUARD_RELEASED":
        return [Change(GUARD + guard, ended=f"released by {fields.get('by', '?')}: {fields.get('reason', '?')}")]
    return []


def _trouble(
    alert: str, kind: str, what: str, since: float, *, limit: str = "", likely: str = "", look: str = "", seen: str = ""
) -> Trouble:
    level: Level = "failure" if KINDS[kind].severity == "page" else "warning"
    return Trouble(alert, level, what, since, limit, likely, look or KINDS[kind].look, kind, what, seen)


def _who(entry: Entry) -> dict[str, Any]:
    return {"by": entry.fields.get("by", "?"), "reason": entry.fields.get("reason", "?"), "at": entry.at}


def _kill_trouble(kill: Mapping[str, Any], now: float) -> Trouble:
    who = f"by {kill['by']}: {kill['reason']}" if kill else "without a record of who and why"
    return _trouble(KILL, KILL, f"Kill switch set {who}; no openings for any symbol", kill.get("at", now))


def _burst_text(fields: Mapping[str, str]) -> str:
    """Say which plan was one too many: how many were permitted, of which symbol, and the limit."""
    limit, used = _limits(fields).get("max_exec_per_5min"), _number(fields.get("permits_5min"))
    if limit is None or used is None:
        return f"too many plans of {fields.get('symbol', '?')} within 5 minutes"
    return f"another plan of {fields.get('symbol', '?')} after {used:g} permits within 5 minutes, limit {limit:g}"


def _disarm_trouble(disarm: Mapping[str, str], now: float, bursts: Mapping[str, str], *, itself: bool) -> Trouble:
    since = _epoch(disarm.get("at", "")) or now
    if not itself:
        return _trouble(DISARM, "disarmed", "Governor disarmed without a record of why; no openings for any symbol", since)
    return _trouble(
        DISARM, "auto_disarm", f"Governor disarmed itself: {_cause(disarm, bursts)}; no openings for any symbol", since
    )


def _cause(disarm: Mapping[str, str], bursts: Mapping[str, str]) -> str:
    code, _, plan = disarm.get("cause", "?").partition(": plan ")
    if code == BURST:
        return f"{bursts.get(plan, 'too many plans within 5 minutes')} (plan {plan})"
    return disarm.get("cause", "?")


def _scope_trouble(scope: str, said: Mapping[str, str], now: float, bursts: Mapping[str, str], refused: int) -> Trouble:
    """Say which planner or symbol is disarmed, for how many plans, and how many were refused for it since."""
    source = scope.startswith("source:")
    whose = f"{'planner' if source else 'symbol'} {scope.partition(':')[2]}"
    count, cause = _number(said.get("plans")), _cause(said, bursts)
    plans = "" if not count or "plans of today" in cause else f", {count:,.0f} {'plan' if count == 1 else 'plans'} too many"
    since = f", {refused:,} refused since" if refused else ""
    what = f"Disarmed for {whose}{plans}{since}: {cause}; no openings {'by' if source else 'of'} it, others pass"
    look = "quantum permits" if source else f"quantum permits --symbol {scope.partition(':')[2]}"
    return _trouble(SCOPE + scope, "scope_disarmed", what, _epoch(said.get("at", "")) or now, look=look)


def _guard_trouble(guard: str, said: Mapping[str, str], now: float) -> Trouble:
    reason = said.get("reason", "").removeprefix(guard).strip()
    words, until = GUARD_WORDS.get(guard, f"Guard {guard} is active"), _epoch(said.get("expires_at", ""))
    ends = f" until {clock_text(until)}" if until and guard != EQUITY_STALE else ""
    if guard == EQUITY_STALE and (age := re.fullmatch(r"age=(\d{1,9})s(?: > (\d{1,9})s)?", reason)) and until:
        last = until - EQUITY_STALE_SEC - float(age[1])  # it is renewed for so long by each evaluation
        words, reason = (
            f"Equity is not written since {clock_text(last)}",
            f"limit {duration_text(float(age[2]))}" if age[2] else "",
        )
        ends = " until it is written again"
    level: Level = "failure"
    if said.get("pending") == "True":
        level, after = "warning", f"{said.get('confirm_sec') or '?'} s"  # so that its confirmation is news
        ends = f": confirming in {after} unless it recovers"
        if guard == EMERGENCY_FLATTEN:
            share = re.match(r"drawdown=(\d+(?:\.\d+)?)%", reason)
            words, reason = f"Equity fell {float(share[1]):.3g} %" if share else "Equity is 0 or less", ""
            ends = f": confirming, flatten request in {after} unless it recovers"
        words, reason, ends = f"{words}{f' ({reason})' if reason else ''}{ends}", "", ""
    what = f"{words}{f' ({reason})' if reason else ''}; no openings for any symbol{ends} (guard {guard})"
    seen = f"set by {said['source']}" if said.get("source") else ""
    since = _epoch(said.get("activated_at", "")) or now
    return replace(_trouble(GUARD + guard, "guard", what, since, seen=seen), level=level)


def _blocked_trouble(why: str, since: float) -> Trouble:
    code, _, detail = why.partition(": ")
    words = BLOCK_WORDS.get(code)
    cause = (
        f"{words}{f': {detail}' if detail and code != 'risk_guard_missing' else ''}"
        if words
        else f"A switch cannot be read: {why}"
    )
    return _trouble(BLOCKED, BLOCKED, f"{cause}; no openings for any symbol", since)


def _stop_trouble(signs: SymbolSigns, since: float) -> Trouble:
    stop = signs.stop
    assert stop is not None  # noqa: S101 - the caller has looked
    beyond = "above" if stop.side == "SHORT" else "below"
    price, limit = price_text(stop.price), price_text(stop.stop)
    where = "at" if price == limit else beyond
    what = f"{stop.side} stop {limit} crossed: price {price} is {where} it since {clock_text(since)}; the position is still open"
    likely = "the executor has not closed it, or the mark is wrong"
    look = f"quantum status --symbols {signs.symbol}"
    return _trouble(STOP + signs.symbol, "stop_crossed", what, since, limit=f"stop {limit}", likely=likely, look=look)


def _doubt_trouble(signs: SymbolSigns, since: float) -> Trouble:
    what = f"{signs.trouble}; no openings"
    look = f"quantum status --symbols {signs.symbol}"
    return _trouble(DOUBT + signs.symbol, "position_doubtful", what, since, look=look)


def _refused_trouble(symbol: str, refused: Mapping[str, Any]) -> Trouble:
    count = f", {refused['count']} refused so far" if refused["count"] > 1 else ""
    until = refused["until"]
    passes = f"; would pass after {clock_text(until + 59)}" if until else ""  # not a minute too early
    what = f"Close of {symbol} refused: {refused['text']}{passes} (plan {refused['plan_id']}{count})"
    seen = ", ".join(filter(None, (refused["action"], f"gate {refused['gate']} {refused['reason']}".replace("gate  ", ""))))
    look = f"quantum explain {refused['plan_id']}"
    return _trouble(CLOSE + symbol, "close_refused", what, refused["at"], limit=refused["limit"], look=look, seen=seen)


def _refusal(entry: Entry, granted: Sequence[float]) -> tuple[str, str, float]:
    """Say why a close was refused, against which limit, and when it would pass (0: nobody knows)."""
    fields, reason, at = entry.fields, entry.fields.get("reason", ""), entry.at
    limits = _limits(fields)
    own = {name: limits[mine] for name, mine in CLOSE_LIMITS.items() if mine in limits}  # closes have limits of their own
    limits = {**limits, **own}
    if reason == "hourly_limit_exceeded":
        return _count_refusal(fields.get("permits_hour"), limits.get("max_exec_per_hour"), "an hour", granted, HOUR_SEC)
    if reason == BURST:
        return _count_refusal(fields.get("permits_5min"), limits.get("max_exec_per_5min"), "5 minutes", granted, BURST_SEC)
    if reason == "daily_limit_exceeded":
        return _daily_refusal(fields, limits, at)
    if reason == EXCEEDS:
        return "it is larger than the position, or there is none", "the size that is held", 0.0
    if reason == "synthetic_data":
        return f"its data is not live ({fields.get('sources', '?')})", "live data", 0.0
    if reason.startswith("invalid_plan:"):
        return f"field {reason.partition(':')[2]} of the plan is not valid", "a valid plan", 0.0
    if reason == "evaluation_error":
        why = fields.get("trouble") or fields.get("error") or "see its record"
        return f"an input cannot be read ({why})", "readable inputs", 0.0
    return reason.replace("_", " "), "", 0.0


def _count_refusal(
    used: str | None, limit: float | None, window: str, granted: Sequence[float], window_sec: float
) -> tuple[str, str, float]:
    if limit is None:
        return f"the limit of permits in {window} is reached, its record does not say which", "", 0.0
    during = "this hour" if window == "an hour" else f"in {window}"
    limited = f"{limit:g} permits in {window}"
    return f"{used or '?'} of {limit:g} permits {during} are used", limited, _room_at(granted, int(limit), window_sec)


def _daily_refusal(fields: Mapping[str, str], limits: Mapping[str, float], at: float) -> tuple[str, str, float]:
    usd = fields.get("unit") == "usd"
    limit = limits.get("max_notional_per_day_usd" if usd else "max_qty_per_day")
    unit = "USD" if usd else "units"
    if limit is None:
        return "the limit of a day is reached, its record does not say which", "", 0.0
    amount, total = _number(fields.get("notional" if usd else "qty")), _number(fields.get("day_total"))
    limited = f"{price_text(limit)} {unit} a day"
    if amount is None or total is None:
        return f"its size is not known, limit {limited}", limited, 0.0
    text = f"{price_text(total)} + {price_text(amount)} {unit} exceed {limited}"
    return text, limited, 0.0 if amount > limit else (at // DAY_SEC + 1) * DAY_SEC


def _limits(fields: Mapping[str, str]) -> Mapping[str, float]:
    """Read the limits of a decision; what is no number of a limit is left out."""
    try:
        limits = json.loads(fields.get("theta", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(limits, dict):
        return {}
    numbers = {name: _number(str(value)) for name, value in limits.items() if isinstance(value, int | float)}
    return {name: number for name, number in numbers.items() if number is not None and 0 <= number < LIMIT_MAX}


def _room_at(granted: Sequence[float], limit: int, window_sec: float) -> float:
    """Tell when the window has room for one more; 0 when that is not known."""
    return granted[limit - 1] + window_sec if 0 < limit <= len(granted) else 0.0


def _backlog_trouble(waiting: int, since: float, now: float) -> Trouble:
    plans = "1 plan waits" if waiting == 1 else f"{waiting} plans wait"
    what = f"{plans} for a decision, the oldest for {now - since:.0f} s; no permits meanwhile"
    likely = "the job `plans` does not run, or the governor cannot read its inputs"
    return _trouble(BACKLOG, BACKLOG, what, since, limit=f"{PLAN_WAIT_SEC:g} s", likely=likely)


def _unused_trouble(symbol: str, unused: Mapping[str, Any]) -> Trouble:
    what = f"Permit for {symbol} expired unused (plan {unused['plan_id']}, granted at {clock_text(unused['at'])})"
    likely = "the executor was down or too slow, or decided against the plan"
    look = f"quantum explain {unused['plan_id']}"
    limit = f"{PERMIT_TTL_SEC} s"
    return _trouble(PERMIT + symbol, "permit_unused", what, unused["at"], limit=limit, likely=likely, look=look)


def _closes(fields: Mapping[str, str]) -> bool:
    """Tell whether a decision is about a plan that reduces risk; one that could not be read by what it was counted as."""
    closing, counted = fields.get("closing", ""), fields.get("counted_as", "") == "closing"
    return closing == "1" or (closing == "" and (counted or is_closing(fields.get("action", ""), reduce_only=False)))


def _epoch(moment: object) -> float:
    """Read a time; 0 where it is none."""
    try:
        epoch = datetime.fromisoformat(str(moment)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return epoch if 0 <= epoch < EPOCH_MAX else 0.0


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
