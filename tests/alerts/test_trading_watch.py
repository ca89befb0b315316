"""What was decided, in an operator's words: each kind is raised once, reminded of, cleared once with what ended it.

Driven through the ledger, poll by poll, with hand-written signs.
"""

import json
from dataclasses import replace

import pytest

from quantum_core.alert_catalogue import CATALOGUE, KINDS
from quantum_core.failure import Failure
from quantum_core.freshness import Evaluation, Limits, Sign, Stop, SymbolSigns, VitalSigns, evaluate
from quantum_core.settings import load_settings
from quantum_ops.alerts.findings import wrong_now
from quantum_ops.alerts.incidents import Incident, Ledger, Policy, _renewed
from quantum_ops.alerts.trading.decided import Entry, TradingSigns
from quantum_ops.alerts.trading.watch import TradingWatch
from quantum_ops.alerts.words import TITLE_MAX, Message, Trouble, messages_of, one_line

START = 1_769_083_200.0
GOVERNOR = "quantum:stream:governor.events"
THETA = json.dumps({"max_exec_per_hour": 3, "max_exec_per_5min": 2, "max_notional_per_day_usd": 5000.0, "max_qty_per_day": 0.02})


class Desk:
    """A healthy product of two symbols, of which a test changes the signs of what was decided."""

    def __init__(self, **policy: object) -> None:
        self.now = START
        self.policy = Policy(**policy)
        self.ledger = Ledger(self.policy, START)
        self.watch = TradingWatch()
        self.signs = TradingSigns(cursors={GOVERNOR: "0-0"})
        self.symbols = {name: SymbolSigns(name, {}, held=True) for name in ("BTCUSDT", "ETHUSDT")}
        self.dead: set[str] = set()
        self.said: list[Message] = []

    def poll(self, *events: dict[str, object], **signs: object) -> list[Message]:
        """Let five seconds pass, with these events and signs; give the messages."""
        self.now += 5
        entries = [
            Entry(f"{self.now * 1000:.0f}-{number}", {name: str(value) for name, value in event.items()})
            for number, event in enumerate(events)
        ]
        self.signs = replace(self.signs, **signs)
        symbols = [
            one if one.stop is None else replace(one, stop=one.stop._replace(at=self.now)) for one in self.symbols.values()
        ]
        decided = self.watch.observe(replace(self.signs, entries=entries), symbols, self.now, stop_age_sec=60)
        messages = self.ledger.observe(self._evaluation(), self.now, decided)
        self.said += messages
        return messages

    def rest(self, seconds: int) -> list[Message]:
        """Let time pass."""
        return [message for _ in range(seconds // 5) for message in self.poll()]

    def restart(self) -> None:
        """End the watcher and start another, which knows what it has left behind."""
        stored = json.loads(json.dumps({"active": self.ledger.to_json(), "trading": self.watch.to_json()}))
        self.ledger = Ledger(self.policy, self.now, Ledger.from_json(stored["active"]), self.ledger.cleared)
        self.watch = TradingWatch(stored["trading"])

    def cross(self, symbol: str = "BTCUSDT", *, breached: bool = True, price: float = 61_050.0, entry: float = 62_000.0) -> None:
        """Publish a stop of a LONG."""
        self.symbols[symbol] = SymbolSigns(symbol, {}, held=True, stop=Stop("LONG", 61_200.0, price, entry, breached, self.now))

    def _evaluation(self) -> Evaluation:
        beats = {part: Sign(self.now) for part in ("worker", "daemon", "cycle") if part not in self.dead}
        return evaluate(VitalSigns([], beats, (), Sign(self.now)), Limits(candles_due=False), self.now)


def heard(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.event, message.alert) for message in messages]


@pytest.fixture
def desk() -> Desk:
    """A desk on which nothing has happened for a while."""
    desk = Desk()
    assert desk.rest(120) == []
    return desk


KILLED = {"event": "KILL", "by": "ada", "reason": "exchange reports wrong prices"}
ARMED = {"event": "ARMED", "by": "Grace", "reason": "prices are right again"}
BLOCK = {
    "event": "BLOCK", "closing": 1, "symbol": "BTCUSDT", "plan_id": "p-17", "action": "CLOSE", "theta": THETA,
    "reason": "hourly_limit_exceeded", "gate": 7, "permits_hour": 3,
}  # fmt: skip
GUARD = {"DAILY_LOSS": {"reason": "DAILY_LOSS loss=2.6% > 2.5%", "expires_at": "2026-01-23T12:00:00+00:00"}}


def set_kill(desk: Desk) -> list[Message]:
    return desk.poll(KILLED, killed=True)


def end_kill(desk: Desk) -> list[Message]:
    return desk.poll(ARMED, killed=False)


def set_disarm(desk: Desk) -> list[Message]:
    said = {"cause": "burst_limit_exceeded: plan p-9", "at": "2026-01-22T12:02:00+00:00"}
    return desk.poll({"event": "AUTO_DISARM", "reason": said["cause"]}, disarmed=True, disarm=said)


def set_scope(desk: Desk) -> list[Message]:
    said = {"cause": "burst_limit_exceeded: plan p-9", "at": "2026-01-22T12:02:00+00:00", "plans": "998"}
    event = {"event": "AUTO_DISARM", "reason": said["cause"], "scope": "source:harvest_brain", "plans": 998}
    return desk.poll(event, scopes={"source:harvest_brain": said})


def end_disarm(desk: Desk) -> list[Message]:
    return desk.poll(ARMED, disarmed=False, disarm={})


def set_stop(desk: Desk) -> list[Message]:
    desk.cross()
    return desk.poll()


def end_stop(desk: Desk) -> list[Message]:
    desk.cross(breached=False, price=61_400.0)
    return desk.poll()


def refuse(desk: Desk) -> list[Message]:
    return desk.poll(BLOCK, granted={"BTCUSDT": [START, START - 60, START - 600]})


def permit(desk: Desk) -> list[Message]:
    return desk.poll({"event": "PERMIT", "closing": 1, "symbol": "BTCUSDT", "plan_id": "p-18"})


def set_trouble(desk: Desk) -> list[Message]:
    return (
        desk.poll(guard_trouble="risk_guard_error: equity cannot be used: quantum:equity:current: equity is 'nan'") + desk.poll()
    )


def wait(desk: Desk) -> list[Message]:
    return desk.poll(waiting=4, waiting_since=desk.now) + desk.rest(30)


def doubt(desk: Desk, trouble: str) -> None:
    """Say that something is wrong with the position of BTCUSDT."""
    desk.symbols["BTCUSDT"] = SymbolSigns("BTCUSDT", {"position": Sign(desk.now + 7200)}, held=True, trouble=trouble)


def set_doubt(desk: Desk) -> list[Message]:
    doubt(desk, "position_inconsistent: unrealized_pnl 5 is not (43250 - 43000) x 2 = 500")
    return desk.rest(20)


def end_doubt(desk: Desk) -> list[Message]:
    doubt(desk, "")
    return desk.poll()


KINDS_SEEN = {  # kind -> what begins it, what ends it, first words, what ended it
    "kill_switch": (
        set_kill,
        end_kill,
        "Kill switch set by ada: exchange reports wrong prices",
        "armed by Grace: prices are right",
    ),
    "auto_disarm": (set_disarm, end_disarm, "Governor disarmed itself: too many plans within 5 minutes", "armed by Grace"),
    "disarmed": (
        lambda desk: desk.poll(disarmed=True),
        lambda desk: desk.poll(disarmed=False),
        "Governor disarmed without a record",
        "its key is gone",
    ),
    "scope_disarmed": (
        set_scope,
        lambda desk: desk.poll({**ARMED, "scope": "source:harvest_brain"}, scopes={}),
        "Disarmed for planner harvest_brain, 998 plans too many",
        "armed by Grace",
    ),
    "guard": (
        lambda desk: desk.poll(guards=GUARD),
        lambda desk: desk.poll(guards={}),
        "Loss of the day is above its limit (loss=2.6% > 2.5%)",
        "its key was removed before its time",
    ),
    "openings_blocked": (set_trouble, lambda desk: desk.poll(guard_trouble=""), "Account cannot be judged: equity", ""),
    "stop_crossed": (set_stop, end_stop, "BTCUSDT: LONG stop 61,200 crossed: price 61,050", "stop 61,200, price 61,400"),
    "close_refused": (refuse, permit, "Close of BTCUSDT refused: 3 of 3 permits this hour", "closing plan p-18 is permitted"),
    "position_doubtful": (set_doubt, end_doubt, "BTCUSDT: position_inconsistent: unrealized_pnl 5 is not", ""),
    "plan_backlog": (wait, lambda desk: desk.poll(waiting=0, waiting_since=None), "4 plans wait for a decision", ""),
}


@pytest.mark.parametrize("kind", KINDS_SEEN)
def test_each_kind_is_raised_once_reminded_and_cleared_once(desk, kind):
    """With the cause in the first words, the consequence for trading, a command and a remedy; and at the end, what ended it."""
    begin, end, first_words, ended = KINDS_SEEN[kind]
    (raised,) = begin(desk)
    assert (raised.event, raised.kind, raised.severity) == ("raised", kind, KINDS[kind].severity)
    assert raised.title.startswith(first_words)
    assert len(first_words) <= 60
    assert f"For trading: {KINDS[kind].trading}" in raised.text
    assert "Look: quantum " in raised.text
    assert "Fix: " in raised.text
    if kind == "close_refused":  # it is over when the limit has room again
        assert heard(desk.poll()) == []
    else:
        (reminded,) = desk.rest(3600)
        assert (reminded.event, reminded.alert) == ("reminded", raised.alert)
    (cleared,) = end(desk)
    assert (cleared.event, cleared.alert, cleared.kind) == ("cleared", raised.alert, kind)
    assert ended in cleared.title
    assert "Ended: " in cleared.text
    assert desk.rest(120) == []


def test_every_kind_has_a_test():
    """The catalogue is closed: a kind nobody tests is one nobody knows to work."""
    of_incidents = {"redis", "daemon", "worker", "loop", "symbol", "proof", "proofs"}  # tests/alerts/test_incidents.py
    assert {kind.name for kind in CATALOGUE} == of_incidents | KINDS_SEEN.keys() | {
        "permit_unused",
        "undelivered",
        "clock",
        "event_log",
        "profile_unusable",  # tests/profiles/test_profile_shown.py
        "profile_waiting",
        "recorder",  # tests/alerts/test_recorder_signs.py
    }


def test_one_bad_tick_is_no_alert_and_sides_in_turn_are_one_at_once(desk):
    """A price that is held back for one cycle is what the collar is for; two positions under one key are not."""
    doubt(desk, "price_collar: 150 waits for the next candle since 102, mark 150")
    assert desk.poll() + desk.poll() == []
    doubt(desk, "")
    assert desk.rest(60) == []
    doubt(desk, "position_conflict: LONG and SHORT, or an empty row, in turn under one key until 12:10")
    assert heard(desk.poll()) == [("raised", "position_doubtful:BTCUSDT")]


def test_the_text_of_a_doubt_moves_with_the_market(desk):
    """The alert said 99.99 while the price fell to 44."""
    doubt(desk, "price_collar: 86 waits for the next candle since 99.99, mark 86")
    (raised,) = desk.rest(20)
    doubt(desk, "price_collar: 62 waits for the next candle since 73, mark 61.5")
    (reminded,) = desk.rest(3600)
    assert ("mark 86" in raised.title, "mark 61.5" in reminded.title) == (True, True)


def test_a_switch_set_and_cleared_between_two_polls_is_raised_and_cleared(desk):
    """Five seconds without openings may be why a trade was missed."""
    assert heard(desk.poll(KILLED, ARMED)) == [("raised", "kill_switch"), ("cleared", "kill_switch")]
    assert desk.rest(60) == []


def test_a_switch_without_a_record_says_so(desk):
    """Anybody may set the key."""
    (raised,) = desk.poll(killed=True)
    assert raised.title.startswith("Kill switch set without a record of who and why; no openings")
    (cleared,) = desk.poll(killed=False)
    assert "its key is gone, without a record" in cleared.title


def test_what_is_on_when_the_first_watcher_starts_is_raised_with_its_record():
    """History explains what is on, and is no news of its own."""
    desk = Desk()
    assert heard(desk.poll(KILLED, ARMED, {**KILLED, "by": "bob"}, killed=True)) == [("raised", "kill_switch")]
    assert "by bob" in desk.said[0].title


@pytest.mark.parametrize(
    ("guard", "expires", "ended"),
    [("CONSEC_LOSS", "2026-01-22T12:02:10+00:00", "its time is over"), ("EQUITY_STALE", "", "the equity is fresh again")],
)
def test_the_end_of_a_guard_says_how_it_ended(desk, guard, expires, ended):
    """By its time, or because its condition no longer holds."""
    desk.poll(guards={guard: {"expires_at": expires}})
    (cleared,) = desk.poll(guards={})
    assert ended in cleared.title


WAITING = {"reason": "EMERGENCY_FLATTEN drawdown=99.0% > 10.0%", "pending": "True", "confirm_sec": "10"}


def test_a_guard_that_waits_says_for_what_and_its_confirmation_is_news(desk):
    """Who reads it has ten seconds to look at the account."""
    (raised,) = desk.poll(guards={"EMERGENCY_FLATTEN": WAITING})
    fell = "Equity fell 99 %: confirming, executor to flatten in 10 s unless it recovers"
    assert raised.title == f"{fell}; no openings for any symbol (guard EMERGENCY_FLATTEN)"
    desk.poll()
    said = {"reason": WAITING["reason"], "expires_at": "2026-01-22T16:02:10+00:00"}
    (confirmed,) = desk.poll(guards={"EMERGENCY_FLATTEN": said})
    assert (confirmed.event, confirmed.alert) == ("raised", "guard:EMERGENCY_FLATTEN")
    assert confirmed.title.startswith("Drawdown is above the emergency limit (drawdown=99.0% > 10.0%)")


@pytest.mark.parametrize(
    ("guard", "reason", "words"),
    [
        (
            "EMERGENCY_FLATTEN",
            "EMERGENCY_FLATTEN equity=-3 <= 0",
            "Equity is 0 or less: confirming, executor to flatten in 10 s unless",
        ),
        ("DRAWDOWN", "DRAWDOWN drawdown=9.0% > 8.0%", "Drawdown is above its limit (drawdown=9.0% > 8.0%): confirming in 10 s"),
        ("EMERGENCY_FLATTEN", "by hand", "Equity is 0 or less: confirming"),
    ],
)
def test_what_waits_is_named_by_its_cause(desk, guard, reason, words):
    """Every guard that waits, whatever it says."""
    (raised,) = desk.poll(guards={guard: {**WAITING, "reason": reason}})
    assert raised.title.startswith(words)


@pytest.mark.parametrize(
    ("event", "ended"),
    [
        (
            {"event": "RISK_GUARD_RECOVERED", "reason": "a newer reading is within its limit"},
            "a newer reading is within its limit",
        ),
        ({"event": "RISK_GUARD_RELEASED", "by": "ada", "reason": "wrong equity"}, "released by ada: wrong equity"),
    ],
)
def test_the_end_of_a_guard_before_its_time_says_why(desk, event, ended):
    """By a newer reading, or by a person."""
    desk.poll(guards={"DRAWDOWN": {**WAITING, "reason": "DRAWDOWN drawdown=9.0% > 8.0%"}})
    (cleared,) = desk.poll({**event, "guard_type": "DRAWDOWN"}, guards={})
    assert cleared.event == "cleared"
    assert ended in cleared.title


def test_a_blocked_opening_is_no_alert(desk):
    """Gates refuse openings all day."""
    assert desk.poll({**BLOCK, "closing": 0}) == []


def test_refused_closes_of_one_symbol_are_one_incident_that_counts_them(desk):
    """An executor that tries every ten seconds must not page every ten seconds."""
    (raised,) = refuse(desk)
    assert "would pass after 12:50 UTC (plan p-17)" in raised.title  # an hour after the third permit
    assert desk.poll({**BLOCK, "plan_id": "p-18"}, {**BLOCK, "plan_id": "p-19"}) == []
    assert "plan p-19, 3 refused so far" in desk.ledger.standing(desk.now)[0].title


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reason": "burst_limit_exceeded", "gate": 8, "permits_5min": 2}, "2 of 2 permits in 5 minutes are used"),
        (
            {"reason": "daily_limit_exceeded", "unit": "usd", "notional": 600.0, "day_total": 4800},
            "4,800 + 600 USD exceed 5,000 USD a day; would pass after 00:00 UTC",
        ),
        (
            {"reason": "daily_limit_exceeded", "unit": "usd", "notional": 9e9, "day_total": 0},
            "0 + 9,000,000,000 USD exceed 5,000 USD a day (plan p-17)",
        ),
        ({"reason": "synthetic_data", "sources": "candles,replay"}, "its data is not live (candles,replay)"),
        ({"reason": "evaluation_error", "trouble": "position_unreadable: x"}, "an input cannot be read (position_unreadable: x)"),
        ({"reason": "invalid_plan:qty", "closing": ""}, "field qty of the plan is not valid"),
    ],
)
def test_a_refused_close_names_its_gate_and_its_count(desk, fields, words):
    """Whoever must close now needs to know what to change, or how long to wait."""
    (raised,) = desk.poll({**BLOCK, **fields})
    assert raised.title.startswith(f"Close of BTCUSDT refused: {words}"[:60])
    assert words in raised.title


def test_a_refusal_is_over_when_the_limit_has_room_again(desk):
    """Nobody may be told for an hour that a close is refused which would pass now."""
    desk.poll(BLOCK, granted={"BTCUSDT": [START, START, START + 150 - 3600]})
    messages = desk.rest(60)
    assert heard(messages) == [("cleared", "close_refused:BTCUSDT")]
    assert "the limit has room again" in messages[0].title


def test_openings_blocked_is_no_second_alert_beside_its_switch_or_guard(desk):
    """Cause before consequence: the kill switch, not what it does."""
    trouble = "risk_guard_error: equity cannot be used"
    assert heard(desk.poll(guards=GUARD, guard_trouble=trouble)) == [("raised", "guard:DAILY_LOSS")]
    assert desk.rest(60) == []


def test_a_risk_guard_that_is_starting_is_given_a_minute():
    """A fresh deployment has not judged the account yet."""
    desk = Desk()
    desk.signs = replace(desk.signs, guard_trouble="risk_guard_missing: quantum:risk:guard:state")
    assert desk.rest(55) == []
    assert heard(desk.rest(15)) == [("raised", "openings_blocked")]


def test_switches_are_raised_while_the_worker_is_dead_and_consequences_are_not(desk):
    """Somebody who stops all openings during an outage must see that it worked; the waiting plans are the worker's fault."""
    desk.dead.add("worker")
    assert heard(desk.rest(40)) == [("raised", "worker")]
    desk.signs = replace(desk.signs, waiting=9, waiting_since=desk.now - 100, guard_trouble="risk_guard_stale: 130 s > 120 s")
    desk.cross()
    assert heard(desk.poll(KILLED, killed=True)) == [("raised", "kill_switch")]
    assert heard(end_kill(desk)) == [("cleared", "kill_switch")]


def test_crossed_stops_of_many_symbols_are_one_message(desk):
    """One crash of the market is one message."""
    desk.cross("BTCUSDT")
    desk.cross("ETHUSDT")
    (raised,) = desk.poll()
    assert raised.title == "2 stops crossed: BTCUSDT, ETHUSDT"
    assert raised.symbols == ("BTCUSDT", "ETHUSDT")
    assert "BTCUSDT: LONG stop 61,200 crossed" in raised.text


def test_a_price_around_its_stop_flaps_at_most_once_in_ten_minutes(desk):
    """The third crossing is the same alert: it stays open until it was healthy for ten minutes."""
    for _ in range(20):
        set_stop(desk)
        end_stop(desk)
        desk.rest(20)
    assert heard(desk.said) == [
        ("raised", "stop_crossed:BTCUSDT"),
        ("cleared", "stop_crossed:BTCUSDT"),
        ("raised", "stop_crossed:BTCUSDT"),
    ]
    assert [message.severity for message in desk.said] == ["page", "page", "info"]  # the end goes where the beginning went
    (held,) = desk.ledger.standing(desk.now)
    assert held.title.startswith("BTCUSDT: well since 12:")
    assert held.title.endswith("if it stays so (was: stop crossed)")
    assert held.well_since is not None
    (cleared,) = desk.rest(600)
    assert (cleared.event, cleared.alert) == ("cleared", "stop_crossed:BTCUSDT")
    assert "it came 19 times" in cleared.text


def test_the_next_position_of_a_symbol_is_no_new_page_within_ten_minutes(desk):
    """The position closes and another opens: each was a page."""
    for entry in (62_000.0, 63_000.0, 64_000.0):
        desk.cross(entry=entry)
        desk.poll()
        desk.symbols["BTCUSDT"] = SymbolSigns("BTCUSDT", {}, held=False)
        desk.rest(30)
    assert [(one.event, one.severity) for one in desk.said] == [("raised", "page"), ("cleared", "page"), ("raised", "info")]


def test_a_repeated_crossing_that_lasts_is_a_page_after_all(desk):
    """A notice must not hide a position that stays beyond its stop."""
    set_stop(desk)
    end_stop(desk)
    assert [one.severity for one in set_stop(desk)] == ["info"]
    assert [(one.event, one.severity) for one in desk.rest(200)] == [("raised", "page")]


def test_an_equity_that_comes_and_goes_is_one_page(desk):
    """Fresh and stale in turns every 16 s: eight pages in two minutes."""
    for _ in range(10):
        desk.poll(guards={"EQUITY_STALE": {"reason": "EQUITY_STALE age=458s"}})
        desk.rest(15)
        desk.poll(guards={})
        desk.rest(15)
    assert [(one.event, one.severity) for one in desk.said] == [("raised", "page"), ("cleared", "page"), ("raised", "info")]


def test_nothing_is_known_of_the_stop_of_an_old_proposal(desk):
    """An old proposal clears nothing."""
    set_stop(desk)
    desk.symbols["BTCUSDT"] = SymbolSigns("BTCUSDT", {}, held=True)
    assert desk.rest(60) == []
    desk.symbols["BTCUSDT"] = SymbolSigns("BTCUSDT", {"position": Sign(desk.now)}, held=False)
    (cleared,) = desk.poll()
    assert "the position is closed" in cleared.title


def test_a_tracked_position_that_was_deleted_is_not_called_closed(desk):
    """The position was open all the time: the tracker writes it anew with the next cycle."""
    set_stop(desk)
    crossed = desk.symbols["BTCUSDT"]
    desk.symbols["BTCUSDT"] = replace(crossed, held=False)  # its hash is gone, the proposal still stands
    assert desk.poll() == []
    desk.symbols["BTCUSDT"] = crossed
    assert desk.rest(60) == []
    desk.symbols["BTCUSDT"] = SymbolSigns("BTCUSDT", {}, held=False)
    (cleared,) = desk.poll()
    assert "no position is tracked any more; whether it is closed is not known" in cleared.text
    assert "the position is closed" not in cleared.text


def test_an_unused_permit_is_a_notice_only_where_executors_mark_them(desk):
    """Where nobody marks permits, each one would look unused."""
    permit = {"event": "PERMIT", "closing": 0, "symbol": "BTCUSDT"}
    desk.poll({**permit, "plan_id": "p-1"}, permits={"p-1": "false"})
    assert desk.rest(60) == []
    assert desk.poll(permits={}) == []
    desk.poll({**permit, "plan_id": "p-2"}, permits={"p-2": "true"})
    desk.poll({**permit, "plan_id": "p-3"}, permits={"p-3": "false"})
    desk.rest(60)
    (raised,) = desk.poll(permits={})
    assert (raised.alert, raised.kind, raised.severity, raised.level) == (
        "permit_unused:BTCUSDT",
        "permit_unused",
        "info",
        "warning",
    )
    assert raised.title.startswith("Permit for BTCUSDT expired unused (plan p-3, granted at 12:0")
    assert heard(desk.rest(660)) == [("cleared", "permit_unused:BTCUSDT")]


def test_reminders_of_several_alerts_are_one_message(desk):
    """Quiet repetition: an hour later one message, not five."""
    set_kill(desk)
    desk.poll(guards=GUARD)
    desk.cross()
    desk.poll()
    (reminded,) = desk.rest(3600)
    assert reminded.title.startswith("still: 3 alerts: Kill switch set by ada")
    assert reminded.alert == "alerts"
    assert desk.rest(3500) == []


def test_severities_are_settable_and_the_end_goes_where_the_beginning_went():
    """ALERT_SEVERITIES=guard=info,plan_backlog=page."""
    desk = Desk(severities={"guard": "info", "plan_backlog": "page"})
    desk.rest(60)
    (guard,) = desk.poll(guards=GUARD)
    assert (guard.severity, guard.routes) == ("info", ("info",))
    (cleared,) = desk.poll(guards={})
    assert (cleared.severity, cleared.routes) == ("info", ("info",))
    (backlog,) = wait(desk)
    assert backlog.severity == "page"


def test_a_restart_of_the_watcher_doubles_and_forgets_nothing(desk):
    """Who set the switch, which closes were refused, and since when a stop is crossed outlive the watcher."""
    set_kill(desk)
    refuse(desk)
    set_stop(desk)
    desk.restart()
    assert desk.rest(60) == []
    (cleared,) = end_kill(desk)
    assert "by ada" in cleared.text
    assert heard(permit(desk)) == [("cleared", "close_refused:BTCUSDT")]


def test_the_end_of_a_crossing_says_over_first_and_nothing_in_the_present(desk):
    """The fault was repeated in the present tense, and cut in the middle of a word."""
    set_stop(desk)
    desk.symbols["BTCUSDT"] = SymbolSigns("BTCUSDT", {"position": Sign(desk.now)}, held=False)
    (cleared,) = desk.poll()
    assert cleared.title.startswith("OVER: BTCUSDT stop crossing, lasted ")
    assert cleared.title.endswith(" s; the position is closed")
    assert "still open" not in cleared.text


def test_a_stale_equity_says_since_when_and_until_what(desk):
    """Its end moved with each cycle, and its name stood twice."""
    said = {"reason": "EQUITY_STALE age=458s > 300s", "expires_at": "2026-01-22T12:10:38+00:00"}
    (raised,) = desk.poll(guards={"EQUITY_STALE": said})
    since = "Equity is not written since 12:02 UTC (limit 5 min)"
    assert raised.title == f"{since}; no openings for any symbol until it is written again (guard EQUITY_STALE)"


def test_a_burst_is_told_with_its_symbol_its_count_and_its_limit(desk):
    """Too many plans: of what, how many, and how many are allowed?"""
    cause = "burst_limit_exceeded: plan p-3"
    block = {**BLOCK, "plan_id": "p-3", "closing": 0, "reason": "burst_limit_exceeded", "permits_5min": 2}
    (raised,) = desk.poll({"event": "AUTO_DISARM", "reason": cause}, block, disarmed=True, disarm={"cause": cause})
    assert "BTCUSDT had 2 of 2 permits in 5 minutes, from any planner (plan p-3)" in raised.title
    assert "burst_limit_exceeded" not in raised.title


def test_a_planner_that_is_disarmed_is_told_with_its_counts(desk):
    """How many plans it sent too many, and how many were refused since: one message, not one for each."""
    block = {**BLOCK, "plan_id": "p-9", "closing": 0, "reason": "burst_limit_exceeded", "permits_5min": 2}
    said = {"cause": "burst_limit_exceeded: plan p-9", "at": "2026-01-22T12:02:00+00:00", "plans": "998"}
    event = {"event": "AUTO_DISARM", "reason": said["cause"], "scope": "source:harvest_brain", "plans": 998}
    (raised,) = desk.poll(block, event, scopes={"source:harvest_brain": said})
    assert raised.title.startswith(
        "Disarmed for planner harvest_brain, 998 plans too many: BTCUSDT had 2 of 2 permits in 5 minutes, from any planner"
    )
    refused = {**block, "reason": "disarmed", "disarm_scope": "source:harvest_brain"}
    assert desk.poll(refused, {**refused, "disarm_scope": "symbol:X"}, refused) == []
    assert "998 plans too many, 2 refused since" in desk.ledger.standing(desk.now)[0].title
    (cleared,) = desk.poll(ARMED, scopes={})
    assert "armed by Grace" in cleared.title


def test_a_burst_of_closes_disarms_nobody_and_is_a_refused_close(desk):
    """In plan mode two closes at the start made the first opening a burst."""
    messages = desk.poll({**BLOCK, "reason": "burst_limit_exceeded", "gate": 8, "permits_5min": 2})
    assert [message.kind for message in messages] == ["close_refused"]


def test_a_reduce_only_plan_that_cannot_be_read_is_a_refused_close(desk):
    """Its action alone, SELL, says nothing of it; refused, it was silent."""
    unread = {**BLOCK, "closing": "", "counted_as": "closing", "action": "SELL", "reason": "invalid_plan:qty", "gate": ""}
    assert [message.kind for message in desk.poll(unread)] == ["close_refused"]
    assert desk.poll({**unread, "symbol": "ETHUSDT", "counted_as": "opening"}) == []


def test_the_limit_that_refused_a_close_is_that_of_closes(desk):
    """Its record has both."""
    theta = json.dumps({**json.loads(THETA), "max_closes_per_hour": 7})
    (raised,) = desk.poll({**BLOCK, "theta": theta, "permits_hour": 7})
    assert "7 of 7 permits this hour are used" in raised.title


def test_a_kill_switch_set_anew_by_hand_loses_the_name_of_the_former_one(desk):
    """DEL and SET between two polls: the record is of a switch that is gone."""
    set_kill(desk)
    desk.poll(kill_recorded=False)
    assert "without a record of who and why" in desk.ledger.standing(desk.now)[0].title
    desk.poll({**KILLED, "by": "bob"}, kill_recorded=True)
    desk.poll({**KILLED, "by": "eve", "standing": 1})
    assert "by bob" in desk.ledger.standing(desk.now)[0].title


# --- causes of symbols ---------------------------------------------------------------------------------------------------


def ledger_with(failures: dict[str, dict[str, Failure]], count: int = 3) -> list[Message]:
    """Give what is raised when symbols have failed for a minute."""
    now = START
    ledger = Ledger(Policy(), now)
    said: list[Message] = []
    while now < START + 200:
        now += 5
        names = [f"S{number}" for number in range(count)]
        recent = {s: {a: replace(f, at=now) for a, f in by.items() if f.since <= now} for s, by in failures.items()}
        symbols = [SymbolSigns(name, {"market_state": Sign(now), "governor_permit": Sign(now)}) for name in names]
        beats = {part: Sign(now) for part in ("worker", "daemon", "cycle")}
        signs = VitalSigns(symbols, beats, (), Sign(now), recent)
        said += ledger.observe(evaluate(signs, Limits(candles_due=False), now), now)
    return said


def failed(why: str, since: float = START + 60) -> Failure:
    return Failure("S", why, since, since, "c1")


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        ("position_invalid: entry_price=nan", "entry price of the position is not a number"),
        ("position_invalid: mark_price=(missing)", "mark price of the position is missing"),
        ("position_invalid: side=UP", "side of the position is wrong (UP)"),
        ("position_stale: snapshot of S is 700 s old, limit 600 s", "the position is not renewed"),
        ("candles_missing", "no candles"),
        ("candles_stale: 430s (candles:S:1m)", "no candles"),
        ("too_few_candles (12 candles from candles:S:1m)", "too few candles (12 candles from candles:S:1m)"),
        ("price_nan (300 candles from candles:S:1m)", "a candle's price is not a number"),
        ("something_new: 7", "something new (7)"),
    ],
)
def test_a_symbol_is_raised_with_the_cause_its_asset_recorded(why, cause):
    """First the cause, then the consequence."""
    (raised,) = ledger_with({"S1": {"position": failed(why), "risk_proposal": failed("market_state_missing")}})
    assert raised.title.startswith(f"S1: {cause}"[:60])
    assert " since 12:01 UTC; no new stop or target, no opening once" in raised.title
    assert why in raised.text


def test_the_title_names_the_age_at_which_openings_stop():
    """They do not stop with the candles: the last numbers are good for as long as the governor's setting says."""
    limits = Limits.of(load_settings(gov_max_data_age_sec=90))
    signs = VitalSigns([SymbolSigns("S1", {"market_state": Sign(START - 600)})], {}, (), Sign(START))
    (old,) = [one for one in wrong_now(evaluate(signs, limits, START), START) if one.alert == "symbol:S1"]
    assert old.what.endswith("; no new stop or target, no opening once its state is 90 s old")


def test_a_title_that_is_too_long_loses_a_clause_and_breaks_no_word_off():
    """What is left must be read on a lock screen."""
    long = f"Disarmed for planner eyes2: {'x' * 90}; no openings by it, others pass"
    assert one_line(long) == f"Disarmed for planner eyes2: {'x' * 90} ..."
    assert len(one_line(f"A; {'b' * 200}")) == TITLE_MAX


@pytest.mark.parametrize(("alert", "kind", "subject"), [("recorder", "recorder", "Recorder"), ("guard:X", "guard", "Guard X")])
def test_what_is_well_again_names_what_it_was(alert, kind, subject):
    """A title without a subject is about nothing."""
    trouble = Trouble(alert, "warning", "It has not reported", START, "", "", "", kind)
    ledger = Ledger(Policy(), START, [Incident(trouble, START, START, well_since=START, hold_sec=600)])
    (message,) = ledger.standing(START)
    assert message.title == f"{subject}: well since 12:00 UTC, closes 12:10 UTC if it stays so"


def test_a_fault_that_came_again_gives_both_times():
    """A title "since 12:10" above "Since: 12:00" leaves the reader to guess."""
    first = Trouble("symbol:S1", "failure", "no candles since 12:00 UTC", START, "", "", "", "symbol", code="no candles")
    again = replace(first, what="no candles since 12:10 UTC", since=START + 600)
    (message,) = messages_of("raised", [_renewed(first, again)], START + 700)
    assert "Since: 2026-01-22 12:00:00 UTC, with pauses; this time since 2026-01-22 12:10:00 UTC" in message.text
    (message,) = messages_of("raised", [_renewed(first, first)], START + 700)
    assert "with pauses" not in message.text


def test_a_feed_that_stops_for_all_symbols_is_one_incident():
    """Not three symbols without a reason."""
    stopped = failed("candles_stale: 430s (candles:S:1m)")
    (raised,) = ledger_with({f"S{number}": {"market_state": stopped} for number in range(3)})
    assert (
        raised.title
        == "Candles of all 3 symbols stopped at 12:01 UTC; no new stop or target, no opening once its state is 120 s old"
    )


def test_symbols_that_fail_for_one_reason_keep_it_and_others_are_named_beside():
    """Three dead symbols lost their reason."""
    candles, entry = failed("candles_missing"), failed("position_invalid: entry_price=nan")
    (raised,) = ledger_with({"S0": {"market_state": candles}, "S1": {"market_state": candles}}, count=5)
    assert raised.title == "2 symbols: no candles since 12:01 UTC: S0, S1"
    (raised,) = ledger_with(
        {"S0": {"market_state": candles}, "S1": {"market_state": candles}, "S2": {"position": entry}}, count=5
    )
    assert raised.title == "3 symbols: no candles (S0, S1); entry price of the position is not a number (S2)"


class Failing:
    """Symbols whose market states fail, as a test says, poll by poll."""

    def __init__(self, count: int = 5) -> None:
        self.now = START
        self.names = [f"S{number}" for number in range(count)]
        self.ledger = Ledger(Policy(), self.now)
        self.failures: dict[str, Failure] = {}
        self.silent: set[str] = set()

    def fail(self, why: str, *names: str) -> None:
        self.failures |= {name: Failure(name, why, self.now, self.now, "c") for name in names}

    def run(self, seconds: int) -> list[Message]:
        said: list[Message] = []
        for _ in range(seconds // 5):
            self.now += 5
            recent = {name: {"market_state": replace(one, at=self.now)} for name, one in self.failures.items()}
            symbols = [SymbolSigns(n, {"market_state": Sign(self.now), "governor_permit": Sign(self.now)}) for n in self.names]
            beats = {part: Sign(self.now - 100 * (part in self.silent)) for part in ("worker", "daemon", "cycle")}
            signs = VitalSigns(symbols, beats, (), Sign(self.now), recent)
            said += self.ledger.observe(evaluate(signs, Limits(candles_due=False), self.now), self.now)
        return said

    def flap(self, why: str, *names: str) -> None:
        """Raise, clear and raise again, so that the alert is held."""
        for _ in range(2):
            self.fail(why, *names)
            self.run(70)
            self.failures.clear()
            self.run(10)


@pytest.fixture
def failing() -> Failing:
    """Five symbols that have been well for a while."""
    failing = Failing()
    assert failing.run(120) == []
    return failing


def test_another_cause_during_a_hold_is_told_at_once_and_the_same_is_not(failing):
    """A side of GARBAGE was not told, as the symbol had flapped for want of candles."""
    failing.flap("too_few_candles (12 candles from candles:S1:1m)", "S1")
    failing.fail("too_few_candles (13 candles from candles:S1:1m)", "S1")
    assert failing.run(100) == []
    failing.failures.clear()
    failing.run(60)
    failing.fail("position_invalid: side=GARBAGE", "S1")
    (raised,) = failing.run(100)
    assert (raised.event, raised.alert, raised.severity) == ("raised", "symbol:S1", "page")
    assert raised.title.startswith("S1: side of the position is wrong (GARBAGE)")


def test_another_cause_without_a_pause_is_told_too(failing):
    """The first one had never ended."""
    failing.fail("candles_missing", "S1")
    failing.run(100)
    failing.fail("position_invalid: side=GARBAGE", "S1")
    (raised,) = failing.run(100)
    assert raised.title.startswith("S1: side of the position is wrong (GARBAGE)")


def test_the_quiet_minutes_of_one_incident_are_not_begun_anew_by_another(failing):
    """The daemon was silent meanwhile, and the symbol stayed open for 17 minutes."""
    failing.flap("too_few_candles", "S1")
    failing.run(300)
    failing.silent.add("daemon")
    assert heard(failing.run(20)) == [("raised", "daemon")]
    failing.silent.clear()
    assert heard(failing.run(340)) == [("cleared", "daemon"), ("cleared", "symbol:S1")]


def test_what_is_held_says_so_after_what_is_wrong(failing):
    """Symbols that were well again were shown as failing, and hid those that did."""
    failing.flap("too_few_candles", "S0", "S1")
    failing.fail("candles_missing", "S2")
    failing.run(70)
    wrong, *held = failing.ledger.standing(failing.now)
    assert wrong.title.startswith("S2: no candles")
    assert [one.title.partition(" 12:")[0] for one in held] == ["S0: well since", "S1: well since"]
    assert {one.severity for one in held} == {"info"}


def test_a_symbol_that_is_not_watched_any_more_is_let_go(failing):
    """Of five symbols six were listed."""
    failing.fail("candles_missing", "S4")
    failing.run(70)
    failing.names.remove("S4")
    failing.failures.clear()
    (cleared,) = failing.run(5)
    assert (cleared.event, cleared.alert) == ("cleared", "symbol:S4")
    assert "removed from SYMBOLS" in cleared.text


def test_one_cause_is_one_whatever_key_it_names(failing):
    """The name of the key made four causes of one."""
    for name in failing.names:
        failing.fail(f"too_few_candles (12 candles from candles:{name}:1m)", name)
    (raised,) = failing.run(70)
    assert raised.title.startswith("All 5 symbols: too few candles since 12:")


def test_each_identity_that_was_raised_gets_its_own_end(failing):
    """A pager that keys on the identity kept ETHUSDT open for ever."""
    open_now: set[str] = set()
    failing.fail("candles_missing", "S0")
    said = failing.run(100)
    failing.fail("position_invalid: side=GARBAGE", "S0", "S1", "S2")
    said += failing.run(100)
    failing.failures = {"S2": failing.failures["S2"]}
    said += failing.run(100)  # what is over of several does not end the rest
    for one in said:
        (open_now.add if one.event != "cleared" else open_now.discard)(one.alert)
    assert open_now == {"symbols"}
    assert ("cleared", "symbol:S0") in heard(said)
    assert said[-1].title.startswith("still: S2: ")
    assert "Over: S0, S1" in said[-1].text
    failing.failures.clear()
    assert heard(failing.run(100)) == [("cleared", "symbols")]
