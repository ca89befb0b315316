"""The dead-man watcher as a service: evaluates every few seconds, alerts, and reports how it is itself.

What counts as wrong is decided in ``quantum_ops.alerts.incidents`` and ``trading.watch``, who hears of it in ``sinks``.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from quantum_core.alert_catalogue import KINDS
from quantum_core.freshness import Evaluation, Limits, SymbolSigns, VitalSigns, evaluate, next_crossing
from quantum_ops.alerts.host_signs import HostSigns
from quantum_ops.alerts.incidents import Ledger, Policy
from quantum_ops.alerts.outbox import Outbox, SinkState
from quantum_ops.alerts.profile_signs import ALERTS as OF_PROFILE
from quantum_ops.alerts.profile_signs import profile_troubles
from quantum_ops.alerts.recorder_signs import ALERTS as OF_RECORDER
from quantum_ops.alerts.recorder_signs import recorder_troubles
from quantum_ops.alerts.sinks import from_json, sinks, to_json
from quantum_ops.alerts.trading.decided import NOTHING_DECIDED, Decided
from quantum_ops.alerts.trading.signs import TradingSignsReader
from quantum_ops.alerts.trading.watch import TradingWatch
from quantum_ops.alerts.unusable import Guarded
from quantum_ops.alerts.watch_state import STATE_FILE, StateFile
from quantum_ops.alerts.words import Message, Trouble
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from resources.store.vital_signs import VitalSignsReader

EVERY_SEC = 5.0
LOOK_SEC = 1.0  # as soon after a cycle or a decision it evaluates before its time, and no sooner after the last time
CROSSED_SEC = 0.1  # so long after the next thing crosses its limit, too: what is exactly as old as its limit is fresh
ALIVE_SEC = 15.0  # an evaluation older than three intervals means that the watcher hangs
ACTIVE_TTL_SEC = 30  # what a dead watcher left behind must not pass for the present
HEARTBEAT_TTL_SEC = 86400
STOP_WITHIN_SEC = 4.0  # for deliveries under way; the supervisor kills after 8
UNDELIVERED = "undelivered"

log = logging.getLogger("quantum.watch")


class Watcher:
    """Evaluates, alerts, and remembers what it has reported.

    Parameters
    ----------
    store
        Where the signs are read from, whose clock and settings count.
    say
        Called with each message, beside the sinks.
    """

    def __init__(self, store: RedisStore, say: Callable[[Message], None] = lambda _: None) -> None:
        self.store = store
        self.say = say
        self.reader, self.trading_reader = VitalSignsReader(store), TradingSignsReader(store)
        self.limits = Limits.of(store.settings)
        self.state_file = StateFile(store.settings.quantum_home / STATE_FILE)
        self._guarded = Guarded(RedisUnavailableError)
        stored = self.state_file.read()
        policy, active = Policy.of(store.settings), Ledger.from_json(stored["active"])
        self._began = store.clock().timestamp()
        self.ledger = Ledger(policy, self._began, active, stored["cleared"])
        self.trading = TradingWatch(stored["trading"])
        queues = stored["queues"]
        self.outboxes = [
            Outbox(sink, store.clock, map(from_json, queues.get(sink.identity, ())), delivered=self._save)
            for sink in sinks(store.settings, store.clock)
        ]
        self._counted: Counter[str] = Counter()  # of what was delivered and given up
        self._saving = threading.Lock()
        self._remembered = self._state()
        self._newest: list[str] = []
        self._crosses_at = math.inf  # when the next thing crosses its limit if nothing renews it, epoch s
        self._host = HostSigns(store.settings.quantum_home)
        self._condition = ""  # what Redis is, since it answered that it cannot be used
        self._round: dict[str, Any] = {"status": "blind", "evaluated_at": None, "incidents": []}

    def run(self, stop: threading.Event) -> None:
        """Watch until the event is set."""
        self.state_file.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for outbox in self.outboxes:
            outbox.start()
        due = time.monotonic()
        while not stop.is_set():
            self._host.look(self.store.clock().timestamp(), time.monotonic())
            self._guarded.call("what this round has read", None, self.round)  # the next one tries again; healthz shows it
            now = time.monotonic()
            due = max(min(due + EVERY_SEC, now + max(self.crossing_in_sec(), LOOK_SEC)), now)
            while not stop.wait(min(LOOK_SEC, max(due - time.monotonic(), 0))) and time.monotonic() < due:
                if self._something_new():
                    due = time.monotonic()
        deadline = time.monotonic() + STOP_WITHIN_SEC
        for outbox in self.outboxes:
            outbox.stop(max(deadline - time.monotonic(), 0))
        self._save()

    def round(self) -> None:
        """Evaluate once and alert."""
        now = self.store.clock().timestamp()
        evaluation, decided = self._poll(now)
        beside = {**self._host.troubles(now), **undelivered([outbox.state() for outbox in self.outboxes])}
        decided = replace(decided, troubles={**decided.troubles, **beside})
        readable = evaluation is not None
        if self._condition:  # it can be read, and what it holds stands still
            evaluation, decided = None, NOTHING_DECIDED
        messages = self.ledger.observe(evaluation, now, decided, condition=self._condition)
        self._remembered = self._state()
        with self._saving:
            self._write(messages)  # before they are delivered, with the cursors of the streams: what is lost then was not read
            for outbox in self.outboxes:
                outbox.put(messages)
        for message in messages:
            log.warning("%s %s: %s", message.event, message.alert, message.title)
            self.say(message)
        incidents = _summary(self.ledger, now)
        status = "blind" if evaluation is None else "alerting" if incidents else "ok"
        if readable:
            self._leave_word(now, incidents)
        self._round = {"status": status, "evaluated_at": now, "incidents": incidents}

    def crossing_in_sec(self) -> float:
        """Give the seconds until something will be too old that was not when it evaluated; infinity where nothing will."""
        return max(self._crosses_at + CROSSED_SEC - self.store.clock().timestamp(), 0.0)

    def _something_new(self) -> bool:
        """Return whether a cycle has ended, or something was decided or switched, since the last poll."""
        of = self.store.keys.of
        streams = (of("stream_governor_events"), of("stream_risk_events"))
        commands = [
            ("GET", of("heartbeat", "cycle")),
            ("GET", of("kill")),
            *(("XREVRANGE", name, "+", "-", "COUNT", 1) for name in streams),
        ]
        try:
            newest = [str(reply) for reply in self.store.run("looking for news", commands)]
        except RedisUnavailableError:  # the next round handles it
            return False
        changed, self._newest = newest != self._newest, newest
        return changed

    def _poll(self, now: float) -> tuple[Evaluation | None, Decided]:
        """Read and judge; what cannot be used of one half leaves the other half as it is."""
        self._crosses_at = math.inf
        try:
            signs = self._guarded.call("what freshness is judged by", None, self._vital_signs)
            symbols = signs.symbols if signs else ()
            decided = self._guarded.call("what was decided", None, self._decided, symbols, now)
            profile = self._guarded.call("the profile in force", None, profile_troubles, self.store, now)
            recorder = self._guarded.call("the recorder", None, recorder_troubles, self.store, now, self._began)
        except RedisUnavailableError as error:
            log.debug("%s", error)
            self._condition = error.condition
            self._crosses_at = self.ledger.redis_limit_at if self.ledger.redis_limit_at >= now else math.inf
            return None, NOTHING_DECIDED
        if decided is None:  # nothing is known of it, so that nothing of it is over
            decided = Decided(unsure=frozenset(self.ledger.active))
        if profile is None:
            decided = replace(decided, unsure=decided.unsure | OF_PROFILE)
        if recorder is None:
            decided = replace(decided, unsure=decided.unsure | OF_RECORDER)
        decided = replace(decided, troubles={**decided.troubles, **(profile or {}), **(recorder or {})})
        if signs is None:
            return Evaluation((), ()), replace(decided, unsure=decided.unsure | self.ledger.active.keys())
        evaluation = evaluate(signs, self.limits, now)
        self._crosses_at = next_crossing(evaluation, now, self.ledger.policy.failing_sec)
        return evaluation, decided

    def _vital_signs(self) -> VitalSigns | None:
        return self.reader.read()

    def _decided(self, symbols: Sequence[SymbolSigns], now: float) -> Decided | None:
        memory = self.trading.memory
        permits = {plan_id: str(permit["symbol"]) for plan_id, permit in memory.permits.items()}
        trading = self.trading_reader.read(memory.cursors, refused=memory.refused, permits=permits)
        return self.trading.observe(trading, symbols, now, stop_age_sec=self.limits.proposal_sec)

    def _state(self) -> dict[str, Any]:
        """Give what a successor must know of what was raised and read."""
        return {"active": self.ledger.to_json(), "cleared": self.ledger.cleared, "trading": self.trading.to_json()}

    def report(self) -> tuple[dict[str, Any], bool]:
        """Report how the watcher is, and whether it is alive."""
        evaluated_at = self._round["evaluated_at"]
        age = None if evaluated_at is None else self.store.clock().timestamp() - evaluated_at
        states = [asdict(outbox.state()) for outbox in self.outboxes]
        report = {
            **self._round,
            "not_saved": self.state_file.unsaved,
            "age_sec": None if age is None else round(age, 1),
            "sinks": states,
        }
        return report, age is not None and age < ALIVE_SEC

    def _leave_word(self, now: float, incidents: list[dict[str, Any]]) -> None:
        of = self.store.keys.of
        commands: list[tuple[Any, ...]] = [
            ("SET", of("heartbeat", "watch"), f"{now:.0f}", "EX", HEARTBEAT_TTL_SEC),
            ("SET", of("alerts_active"), json.dumps(incidents), "EX", ACTIVE_TTL_SEC),
        ]
        counts = self._deliveries()
        commands += [("HINCRBY", of("counts_alerts"), name, times) for name, times in (counts - self._counted).items()]
        self._condition = ""
        try:
            self.store.run("leaving word of the watcher", commands)
        except RedisUnavailableError as error:  # the next round reports it
            self._condition = error.condition
            log.debug("%s", error)
        else:
            self._counted = counts

    def _deliveries(self) -> Counter[str]:
        """Count what became of messages since the start, by recipient."""
        counts: Counter[str] = Counter()
        for state in (outbox.state() for outbox in self.outboxes):
            name = state.name.replace(":", " ")  # a colon parts the names of counts
            counts[f"delivered:{name}"] += state.delivered
            counts[f"attempt_failed:{name}"] += state.failures
            counts[f"given_up:{name}"] += state.given_up
        return counts

    def _save(self) -> None:
        with self._saving:
            self._write()

    def _write(self, coming: Sequence[Message] = ()) -> None:
        """Write what a successor must know: what was raised and read, and what is not delivered yet."""
        queues = {
            outbox.sink.identity: [to_json(message) for message in (*outbox.undelivered(), *outbox.taken(coming))]
            for outbox in self.outboxes
        }
        self.state_file.write({**self._remembered, "queues": queues})


def undelivered(states: Sequence[SinkState]) -> dict[str, Trouble]:
    """Name the recipients that alerts have not reached, as an alert of its own."""
    lost = [state for state in states if state.lost]
    if not lost:
        return {}
    who = ", ".join(state.name for state in lost)
    what = f"Alerts do not reach {who}: {lost[0].lost}"
    kind = KINDS[UNDELIVERED]
    since = min(state.lost_at for state in lost)
    return {UNDELIVERED: Trouble(UNDELIVERED, "warning", what, since, "", "", kind.look, UNDELIVERED, "alerts do not reach all")}


def _summary(ledger: Ledger, now: float) -> list[dict[str, Any]]:
    """Give the active alerts, the worst first, as ``quantum:alerts:active`` and ``/healthz`` have them."""
    messages = ledger.standing(now)
    names = ("alert", "kind", "severity", "level", "title", "since", "symbols", "well_since")
    return [{name: getattr(message, name) for name in names} for message in messages]
