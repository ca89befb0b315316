"""From what was decided to what an operator must know: switches, guards, refused closes, crossed stops, waiting plans, permits.

Pure. ``quantum_ops.alerts.trading.signs`` reads the signs; the ledger (``quantum_ops.alerts.incidents``) decides what is
raised and cleared. States are judged at every poll, events are folded one by one, so that a switch that was set and cleared
between two polls is reported, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from quantum_core.contracts.tables import PERMIT_TTL_SEC
from quantum_core.display import price_text
from quantum_core.freshness import NOTHING, SymbolSigns
from quantum_core.kernels.governor.gates import BURST, CONFLICT, DISARMED, is_closing
from quantum_core.kernels.governor.risk_guard import EQUITY_STALE
from quantum_ops.alerts.trading.decided import BACKLOG, BLOCKED, DISARM, KILL, Change, Decided, Entry, TradingSigns
from quantum_ops.alerts.trading.words import (
    PLAN_WAIT_SEC,
    backlog_trouble,
    blocked_trouble,
    burst_text,
    disarm_trouble,
    doubt_trouble,
    epoch_of,
    guard_changes,
    guard_trouble,
    kill_trouble,
    refusal_of,
    refused_trouble,
    scope_trouble,
    stop_trouble,
    unused_trouble,
    who_of,
)
from quantum_ops.alerts.unusable import Guarded
from quantum_ops.alerts.words import CLOSE, DOUBT, GUARD, PERMIT, SCOPE, STOP, Trouble

REFUSAL_SEC = 3600.0  # a refused close is over when none was refused for so long and nobody knows when it would pass
UNUSED_SEC = 600.0  # an unused permit is shown for so long
NO_GUARD_SEC = 60.0  # a risk guard that was never evaluated is given so long: the deployment may be starting
UNJUDGED_SEC = 5.0  # what cannot be judged must be so at two polls
DOUBT_SEC = 15.0  # one bad tick is over by then; sides in turn are reported at once
EARLY_SEC = 10.0  # a guard that ends so long before its time was removed
BURSTS_KEPT = 100  # plans that were one too many, for the words of those who are disarmed for them


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

        def part(alert: str, judge: Callable[..., None], *arguments: Any) -> None:
            """Judge one thing; of one that cannot be judged nothing is known, so that its alert is not cleared."""
            if not self._guarded.call(alert, None, _done, judge, *arguments):
                unsure.add(alert)

        part(KILL, self._kill_switch, signs, now, troubles)
        part(DISARM, self._disarmed, signs, now, troubles)
        self._keep_scopes(signs, endings)
        for scope, fields in signs.scopes.items():
            part(SCOPE + scope, self._scope, scope, fields, now, troubles)
        for guard, fields in signs.guards.items():
            part(GUARD + guard, _guard, guard, fields, now, troubles)
        part(GUARD, self._guard_endings, signs, now, endings)
        part(BLOCKED, partial(self._openings, patient=patient), signs, troubles, now, unsure)
        crossed_before, self.memory.crossed = self.memory.crossed, {}
        for position in symbols:
            part(STOP + position.symbol, self._stop, position, crossed_before, now, stop_age_sec, troubles, unsure, endings)
            if position.trouble or position.symbol in self.memory.doubts:
                part(
                    DOUBT + position.symbol, partial(self._doubt, patient=patient), position, now, stop_age_sec, troubles, unsure
                )
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
            self.memory.bursts = {**dict(list(self.memory.bursts.items())[-BURSTS_KEPT:]), plan: burst_text(fields)}
        elif fields.get("reason") == DISARMED and scope:
            self.memory.scopes[scope] = self.memory.scopes.get(scope, 0) + 1

    def _fold(self, entry: Entry, signs: TradingSigns) -> list[Change]:
        fields, event = entry.fields, entry.fields.get("event", "")
        if event == "KILL":
            self.memory.kill = (self.memory.kill if "standing" in fields else {}) or who_of(entry)
            return [Change(KILL, kill_trouble(self.memory.kill, entry.at))]
        scope = fields.get("scope", "")
        if event == "AUTO_DISARM" and scope:
            self.memory.scopes.setdefault(scope, 0)
            record = {"cause": fields.get("reason", "?"), "plans": fields.get("plans", "")}
            return [Change(SCOPE + scope, scope_trouble(scope, record, entry.at, self.memory.bursts, 0))]
        if event == "ARMED" and scope:
            self.memory.scopes.pop(scope, None)
            return [Change(SCOPE + scope, ended=f"armed by {fields.get('by', '?')}: {fields.get('reason', '?')}")]
        if event == "AUTO_DISARM":
            return [
                Change(DISARM, disarm_trouble({"cause": fields.get("reason", "?")}, entry.at, self.memory.bursts, itself=True))
            ]
        if event == "ARMED":
            self.memory.kill = {}
            ended = f"armed by {fields.get('by', '?')}: {fields.get('reason', '?')}"
            scopes, self.memory.scopes = self.memory.scopes, {}
            return [Change(KILL, ended=ended), Change(DISARM, ended=ended), *(Change(SCOPE + one, ended=ended) for one in scopes)]
        if event.startswith("RISK_GUARD_"):
            return guard_changes(entry)
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
        text, limit, until = refusal_of(entry, signs.granted.get(symbol, ()))
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
        return [Change(CLOSE + symbol, refused_trouble(symbol, refused))]

    # --- states ----------------------------------------------------------------------------------------------------------

    def _kill_switch(self, signs: TradingSigns, now: float, troubles: dict[str, Trouble]) -> None:
        if signs.killed:
            if not signs.kill_recorded:  # deleted and set anew: whoever is on record did not set this one
                self.memory.kill = {}
            troubles[KILL] = kill_trouble(self.memory.kill, now)
        else:
            self.memory.kill = {}

    def _disarmed(self, signs: TradingSigns, now: float, troubles: dict[str, Trouble]) -> None:
        if signs.disarmed:
            troubles[DISARM] = disarm_trouble(signs.disarm, now, self.memory.bursts, itself=bool(signs.disarm))

    def _keep_scopes(self, signs: TradingSigns, endings: dict[str, str]) -> None:
        for scope in self.memory.scopes.keys() - signs.scopes.keys():
            endings[SCOPE + scope] = "its entry is gone, without a record of who and why"
        self.memory.scopes = {scope: self.memory.scopes.get(scope, 0) for scope in signs.scopes}

    def _scope(self, scope: str, fields: Mapping[str, str], now: float, troubles: dict[str, Trouble]) -> None:
        troubles[SCOPE + scope] = scope_trouble(scope, fields, now, self.memory.bursts, self.memory.scopes.get(scope, 0))

    def _guard_endings(self, signs: TradingSigns, now: float, endings: dict[str, str]) -> None:
        for guard, until in self.memory.guards.items():
            early = "its key was removed before its time" if now < until - EARLY_SEC else "its time is over"
            endings[GUARD + guard] = "the equity is fresh again" if guard == EQUITY_STALE else early
        self.memory.guards = {guard: epoch_of(said.get("expires_at", "")) for guard, said in signs.guards.items()}

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
        if troubles or (patient and now - self.memory.blocked_since < patience):  # a switch or a guard is the reported cause
            unsure.add(BLOCKED)
        else:
            troubles[BLOCKED] = blocked_trouble(why, self.memory.blocked_since)

    def _stop(
        self,
        signs: SymbolSigns,
        crossed_before: Mapping[str, tuple[float, float]],
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
        elif signs.held is False and not (current and symbol in crossed_before):
            endings[alert] = "no position is tracked any more; whether it is closed is not known"
        elif signs.held is False or stop is None or now - stop.at > stop_age_sec:
            unsure.add(alert)
            if symbol in crossed_before:
                crossed[symbol] = crossed_before[symbol]
        elif stop.breached:
            since, entry = crossed_before.get(symbol, (stop.at, stop.entry))
            crossed[symbol] = (since if entry == stop.entry else stop.at, stop.entry)
            troubles[alert] = stop_trouble(signs, crossed[symbol][0])
        elif symbol in crossed_before and crossed_before[symbol][1] != stop.entry:
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
            troubles[alert] = doubt_trouble(signs, since)

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
            troubles[alert] = refused_trouble(symbol, refused)
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
                troubles[PERMIT + symbol] = unused_trouble(symbol, unused)


def _done(judge: Callable[..., None], *what: Any) -> bool | None:
    judge(*what)
    return True


def _guard(guard: str, fields: Mapping[str, str], now: float, troubles: dict[str, Trouble]) -> None:
    troubles[GUARD + guard] = guard_trouble(guard, fields, now)


def _backlog(signs: TradingSigns, now: float, troubles: dict[str, Trouble]) -> None:
    if signs.waiting_since is not None and now - signs.waiting_since > PLAN_WAIT_SEC:
        troubles[BACKLOG] = backlog_trouble(signs.waiting, signs.waiting_since, now)


def _closes(fields: Mapping[str, str]) -> bool:
    """Return whether a decided plan reduces risk; of a plan that could not be read, what it was counted as decides."""
    closing, counted = fields.get("closing", ""), fields.get("counted_as", "") == "closing"
    return closing == "1" or (closing == "" and (counted or is_closing(fields.get("action", ""), reduce_only=False)))
