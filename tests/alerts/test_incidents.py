"""Incidents: one fault is told once and cleared once, whatever it drags along.

The faults happen to a small model of the running product, second by second, so that consequences come when they really would.
"""

import itertools
import json
from collections.abc import Sequence

import pytest

from quantum_core.freshness import Limits, Sign, StoredProof, SymbolSigns, VitalSigns, evaluate
from quantum_ops.alerts.findings import wrong_now
from quantum_ops.alerts.incidents import Ledger, Policy
from quantum_ops.alerts.words import Message

START = 1_769_083_200
PROPOSALS = ("position", "risk_proposal", "harvest_proposal", "trade_intent", "allocation_target", "governor_permit")
LIFETIME = {"market_state": 600, "position": 10**9, "trade_intent": 10**9, "candles": 10**9}  # the others live 100 s
LIMITS = Limits()


class Product:
    """What the watcher sees of a running product: cycles, heartbeats, candles, proofs.

    ``dead`` names what has stopped: ``worker``, ``daemon``, ``redis``, ``loop``, ``candles``, ``pack``, or a symbol.
    """

    def __init__(self, count: int = 3, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.now = START
        self.symbols = [f"S{number:03d}" for number in range(count)]
        self.held = set(self.symbols)
        self.dead: set[str] = set()
        self.clocks: dict[str, dict[str, float]] = {symbol: {"candles": START} for symbol in self.symbols}
        self.heartbeats: dict[str, float] = {}
        self.proofs: dict[str, StoredProof] = {}
        self.finished: float | None = None
        self.cycling = False
        self.cycles: list[float] = []
        self.false_claims: dict[str, StoredProof] = {}
        self.ledger = Ledger(self.policy, START)
        self.told: list[Message] = []

    def run(self, seconds: int) -> list[Message]:
        """Let time pass; give what was told meanwhile."""
        before = len(self.told)
        for _ in range(seconds):
            self.now += 1
            if "redis" not in self.dead:
                self._second()
            if self.now % 5 == 0:
                self.told += self.ledger.observe(self.evaluation(), self.now)
        return self.told[before:]

    def restart_watcher(self) -> None:
        """End the watcher and start another, which knows what it has left behind."""
        stored = json.loads(json.dumps(self.ledger.to_json()))
        self.ledger = Ledger(self.policy, self.now, Ledger.from_json(stored))

    def _second(self) -> None:
        if self.now % 4 == 0 and "worker" not in self.dead:
            self.heartbeats["worker"] = self.now
        if self.now % 5 == 0 and "daemon" not in self.dead:
            self.heartbeats["daemon"] = self.now
        if self.now % 60 == 0 and "candles" not in self.dead:
            for symbol in self.symbols:
                self.clocks[symbol]["candles"] = self.now
        works = not self.dead & {"worker", "daemon", "loop"}
        if self.now % 10 == 1 and works:
            self._cycle()
        if self.now % 10 == 4 and works and self.cycling:
            self.cycling = False
            self.heartbeats["cycle"] = self.now
            self.cycles = [self.now, *self.cycles[:5]]
        if self.now % 60 == 30 and not self.dead & {"worker", "daemon", "pack"}:
            self._prove()

    def _cycle(self) -> None:
        self.cycling = True
        for symbol in self.symbols:
            clocks = self.clocks[symbol]
            if symbol in self.dead:
                continue
            if self.now - clocks["candles"] <= LIMITS.candles_sec and self.now - clocks.get("market_state", 0) >= 60:
                clocks["market_state"] = self.now
            if self.now - clocks.get("market_state", 0) <= LIMITS.market_state_sec:
                clocks |= dict.fromkeys(PROPOSALS, self.now)

    def _prove(self) -> None:
        """Judge as the real pack does: some proofs see a fault before the watcher may tell of it, some long after."""
        ages = {symbol: self.now - self.clocks[symbol].get("governor_permit", 0) for symbol in self.symbols}
        old = {symbol: f"{age:.0f} s" for symbol, age in ages.items() if age > 30}
        gone = {symbol: "missing" for symbol, age in ages.items() if age > 100}
        ends = [self.now, *self.cycles]
        gaps = {str(before): "late" for after, before in itertools.pairwise(ends) if after - before > 21}
        severity = "ERROR" if any(age > 60 for age in ages.values()) else "WARN"
        verdicts = [
            StoredProof("governor_permit/fresh", not old, severity, self.now, old, per_symbol=True),
            StoredProof("governor_permit/contract", not gone, "ERROR", self.now, gone, per_symbol=True),
            StoredProof("risk_proposal/cadence", not gaps, "WARN", self.now, gaps),
        ]
        self.proofs = {verdict.title: verdict for verdict in verdicts} | self.false_claims
        self.finished = self.now

    def evaluation(self):
        if "redis" in self.dead:
            return None
        symbols = [
            SymbolSigns(symbol, self._signs(symbol), held=symbol in self.held, has_base_target=True) for symbol in self.symbols
        ]
        heartbeats = {part: Sign(at) for part, at in self.heartbeats.items()}
        signs = VitalSigns(symbols, heartbeats, list(self.proofs.values()), Sign(self.finished))
        return evaluate(signs, LIMITS, self.now)

    def _signs(self, symbol: str) -> dict[str, Sign]:
        kept = {name: at for name, at in self.clocks[symbol].items() if self.now - at <= LIFETIME.get(name, 100)}
        return {name: Sign(at) for name, at in kept.items()} | ({} if "candles" in kept else {"candles": Sign()})


def events(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.event, message.alert) for message in messages]


@pytest.fixture
def product() -> Product:
    """A product that has been well for a while."""
    product = Product()
    assert product.run(240) == []
    return product


FAULTS = {  # what stops -> the one alert, and the silence after which it is one
    "worker": ("worker", 20),
    "daemon": ("daemon", 30),
    "redis": ("redis", 10),
    "loop": ("loop", 60),
    "S001": ("symbol:S001", 60),
    "candles": ("symbols", 420),
}


@pytest.mark.parametrize("phase", [0, 3, 7])
@pytest.mark.parametrize("lasts", [90, 700])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_one_raise_and_one_clear(product, fault, lasts, phase):
    """A dead worker makes every symbol stale, the loop silent and proofs fail: operators want to hear of the worker."""
    alert, limit = FAULTS[fault]
    product.run(phase)
    product.dead.add(fault)
    began = product.now
    during = product.run(lasts + (420 if fault == "candles" else 0))
    product.dead.clear()
    after = product.run(400)
    assert events(during + after) == [("raised", alert), ("cleared", alert)]
    assert during[0].event == "raised"
    assert during[0].at - began <= limit + 10
    assert after[0].at - product.now + 400 <= 130  # a minute for the aftermath, another for the next proofs


@pytest.mark.parametrize("lasts", range(5, 100, 6))
@pytest.mark.parametrize("fault", ["worker", "daemon", "redis", "loop"])
def test_an_outage_of_any_length_is_told_at_most_once(product, fault, lasts):
    """An outage that ends just before its limit must not turn up as stale symbols just after; a missed cycle is a warning."""
    product.dead.add(fault)
    product.run(lasts)
    product.dead.clear()
    product.run(300)
    told = {message.alert for message in product.told}
    assert told in (set(), {fault}, {"proof:risk_proposal/cadence"})
    assert [message.event for message in product.told] == ["raised", "cleared"][: 2 * len(told)]


def test_a_hundred_symbols_are_one_message_with_a_list_and_the_exact_count():
    """A hundred messages are none: nobody reads them."""
    product = Product(count=110)
    product.run(240)
    product.dead |= set(product.symbols[:100])
    (raised,) = product.run(120)
    assert (raised.event, raised.alert, len(raised.symbols)) == ("raised", "symbols", 100)
    assert raised.title.startswith("100 symbols: position and 5 more not renewed since 12:03 UTC: S000, S001")
    assert "... and 50 more, 100 in all" in raised.text
    assert "S049" in raised.text
    assert "S050" not in raised.text
    product.dead.clear()
    (cleared,) = product.run(200)
    assert (cleared.event, len(cleared.symbols)) == ("cleared", 100)


def test_a_message_says_what_since_when_which_limit_why_and_where_to_look(product):
    """Whoever is woken by it has nothing else in hand."""
    product.dead.add("S001")
    (raised,) = product.run(90)
    first, *rest = raised.text.splitlines()
    assert (
        first
        == "S001: position and 5 more not renewed since 12:03 UTC; no new stop or target, no opening once its state is 120 s old"
    )
    assert [line.partition(":")[0] for line in rest] == ["Since", "Seen", "Limit", "For trading", "Likely", "Look", "Fix"]
    assert "position, risk_proposal, harvest_proposal, trade_intent, allocation_target, governor_permit stale 6" in raised.text
    assert "Since: 2026-01-22 12:0" in raised.text
    assert "UTC" in raised.text
    assert "Limit: 60 s" in raised.text
    assert "Look: quantum status --symbols S001" in raised.text
    assert raised.level == "failure"


def test_a_symbol_about_to_cross_its_limit_joins_those_that_cross():
    """Symbols stopped by one fault are written within a few seconds of each other."""
    product = Product(count=4)
    product.run(240)
    product.dead |= {"S000", "S001"}
    product.clocks["S001"] |= {name: at + 2 for name, at in product.clocks["S001"].items()}
    (raised,) = product.run(120)
    assert raised.symbols == ("S000", "S001")


def test_a_restart_of_the_watcher_neither_raises_again_nor_forgets_to_clear(product):
    """The watcher is restarted by its supervisor, too."""
    product.dead |= {"S001"}
    assert events(product.run(120)) == [("raised", "symbol:S001")]
    product.restart_watcher()
    assert product.run(200) == []
    product.dead.clear()
    assert events(product.run(200)) == [("cleared", "symbol:S001")]


def test_a_dead_worker_survives_the_restart_of_the_watcher(product):
    """Its consequences are still consequences."""
    product.dead |= {"worker"}
    product.run(60)
    product.restart_watcher()
    product.run(200)
    product.dead.clear()
    product.run(200)
    assert events(product.told) == [("raised", "worker"), ("cleared", "worker")]


@pytest.mark.parametrize("part", ["worker", "daemon", "loop"])
def test_a_title_is_short_and_the_text_says_what_it_means_for_open_positions(product, part):
    """A lock screen shows the title; the text has room for what becomes of stops and closing plans."""
    product.dead |= {part}
    (raised,) = product.run(120)
    assert raised.title.endswith("; no new numbers and no permits for any symbol")
    (trading,) = [line for line in raised.text.splitlines() if line.startswith("For trading: ")]
    assert trading.startswith("For trading: no new numbers and no permits for any symbol; open positions get no new stop")


def test_a_fresh_stack_is_given_a_minute():
    """Nothing has been published yet, and that is not an alert."""
    product = Product()
    product.dead |= {"daemon", "worker"}
    assert product.run(40) == []
    product.dead.clear()
    assert product.run(600) == []


def test_a_stack_that_never_comes_up_is_told_of_after_a_minute():
    """Grace is not blindness."""
    product = Product()
    product.dead |= {"worker"}
    (raised,) = product.run(120)
    assert (raised.alert, raised.at - START) == ("worker", pytest.approx(65, abs=5))


def test_a_server_that_was_never_there_has_no_grace():
    """Without Redis nothing can come up, so waiting tells nothing."""
    product = Product()
    product.dead |= {"redis"}
    (raised,) = product.run(60)
    assert (raised.alert, raised.at - START) == ("redis", 15)


def test_a_position_just_opened_is_no_alert(product):
    """Its proposals follow within the cycle, and the look may fall in between."""
    product.held.discard("S001")
    product.run(200)
    proposals = ("risk_proposal", "harvest_proposal", "trade_intent")
    old = {name: at - 300 for name, at in product.clocks["S001"].items() if name in proposals}
    del product.clocks["S001"]["position"]
    product.dead.add("S001")  # for a moment, so that the look falls in between
    product.clocks["S001"] |= old
    product.held.add("S001")
    assert product.run(15) == []
    product.dead.clear()
    assert product.run(200) == []


def test_a_server_that_lost_its_data_and_came_back_at_once_is_no_alert(product):
    """A restart without persistence takes a second, and everything is written anew within a cycle."""
    for clocks in product.clocks.values():
        clocks.clear()
        clocks["candles"] = product.now
    product.heartbeats.clear()
    product.proofs, product.finished = {}, None
    assert product.run(300) == []


def test_what_is_left_when_the_cause_is_gone_is_raised_then(product):
    """A symbol that stopped while the worker was dead must not hide behind it for ever."""
    product.dead |= {"worker", "S002"}
    assert events(product.run(120)) == [("raised", "worker")]
    product.dead.remove("worker")
    assert events(product.run(200)) == [("cleared", "worker"), ("raised", "symbol:S002")]


def test_two_faults_are_two_alerts(product):
    """Worker and daemon die of different causes, even at the same time."""
    product.dead |= {"worker", "daemon"}
    product.run(120)
    product.dead.clear()
    product.run(200)
    assert sorted(events(product.told)) == [
        ("cleared", "daemon"),
        ("cleared", "worker"),
        ("raised", "daemon"),
        ("raised", "worker"),
    ]


def test_what_lasts_is_repeated_every_hour(product):
    """An alert that scrolled away is an alert nobody sees."""
    product.dead |= {"S000", "S002"}
    product.run(2 * 3600 + 200)
    assert events(product.told) == [("raised", "symbols"), ("reminded", "symbols"), ("reminded", "symbols")]
    assert product.told[1].at - product.told[0].at == 3600
    assert product.told[1].title.startswith("still: 2 symbols")


def claim(title: str, *, severity: str = "ERROR", passed: bool = False, per_symbol: bool = True, **failing: str):
    return lambda at: StoredProof(title, passed, severity, at, failing, per_symbol, observed="2 differ", threshold="0")


def set_claims(product: Product, *claims) -> None:
    product.false_claims = {made.title: made for made in (build(product.now + 60) for build in claims)}


def test_failing_proofs_of_one_symbol_are_one_alert_of_that_symbol(product):
    """An edited field fails several proofs."""
    set_claims(product, claim("risk_proposal/recomputed", S001="sl differs"), claim("risk_proposal/digest", S001="edited"))
    (raised,) = product.run(70)
    assert (raised.alert, raised.level) == ("symbol:S001", "failure")
    assert "proof risk_proposal/recomputed fails: sl differs" in raised.text
    assert "proof risk_proposal/digest fails: edited" in raised.text
    assert "quantum prove --symbols S001" in raised.text
    set_claims(product)
    assert events(product.run(70)) == [("cleared", "symbol:S001")]


def test_a_proof_that_names_no_symbols_is_an_alert_of_its_own(product):
    """A broker library in the process is nobody's symbol."""
    set_claims(product, claim("market_state/imports", per_symbol=False, ccxt="imported"))
    (raised,) = product.run(70)
    assert raised.alert == "proof:market_state/imports"
    assert "ccxt: imported" in raised.text
    set_claims(product)
    assert events(product.run(70)) == [("cleared", "proof:market_state/imports")]


@pytest.mark.parametrize("title", ["risk_proposal/informative", "market_state/coverage"])
def test_what_a_day_of_numbers_says_is_told_once_a_day(product, title):
    """It is no news an hour later, nor when it says something for a while in between."""
    nothing = claim(title, severity="WARN", per_symbol=False, S001="the stop distance is its floor")
    for _ in range(2):  # a warning waits for the next pack to say the same
        set_claims(product, nothing)
        product.run(60)
    assert events(product.told) == [("raised", f"proof:{title}")]
    for _ in range(140):
        set_claims(product, nothing)
        product.run(60)
    assert len(product.told) == 1
    set_claims(product)
    assert events(product.run(70)) == [("cleared", f"proof:{title}")]
    product.run(1200)
    for _ in range(4):
        set_claims(product, nothing)
        product.run(60)
    assert len(product.told) == 2


def test_a_profile_without_evidence_is_named_by_its_proof_and_wakes_nobody(product):
    """It is so from the first minute on, for as long as the desk leaves it; that it cannot be judged is another matter."""
    title = "governor_permit/profile_evidence"
    for _ in range(3):
        set_claims(product, claim(title, severity="WARN", per_symbol=False, **{"locked-v1": "it has no evidence"}))
        product.run(60)
    assert product.told == []
    assert wrong_now(product.evaluation(), product.now) == []  # nor does `quantum watch --once` name it
    set_claims(product, claim(title, per_symbol=False))
    assert events(product.run(70)) == [("raised", f"proof:{title}")]


def test_proofs_that_fail_together_are_one_message(product):
    """When the evidence cannot be read, no proof can be evaluated, and forty messages say no more than one."""
    set_claims(product, *(claim(f"market_state/proof_{number}", per_symbol=False) for number in range(40)))
    (raised,) = product.run(70)
    assert raised.title.startswith("40 failing proofs: market_state/proof_0, ")
    assert (raised.alert, raised.symbols) == ("failing proofs", ())
    set_claims(product)
    assert events(product.run(70)) == [("cleared", "failing proofs")]


def test_a_proof_of_symbols_already_in_trouble_raises_nothing(product):
    """They were told of."""
    product.dead |= {"S001"}
    product.run(120)
    set_claims(product, claim("harvest_proposal/fresh", S001="stale"))
    product.run(180)
    assert events(product.told) == [("raised", "symbol:S001")]


def test_a_warning_that_becomes_a_failure_is_told_again(product):
    """A stop on the wrong side may last for days, and the symbol die meanwhile."""
    set_claims(product, claim("risk_proposal/side", severity="WARN", S001="stop is above the mark"))
    assert product.run(60) == []  # a warning can wait for the next pack to say the same
    set_claims(product, claim("risk_proposal/side", severity="WARN", S001="stop is above the mark"))
    (warned,) = product.run(60)
    assert (warned.alert, warned.level) == ("symbol:S001", "warning")
    product.dead |= {"S001"}
    (raised,) = product.run(120)
    assert (raised.event, raised.alert, raised.level) == ("raised", "symbol:S001", "failure")
    set_claims(product)
    product.dead.clear()
    assert events(product.run(200)) == [("cleared", "symbol:S001")]


def test_a_pack_that_has_stopped_is_told_of(product):
    """Proofs that are not made look like proofs that pass."""
    product.dead |= {"pack"}
    (raised,) = product.run(300)
    assert raised.alert == "proofs"
    assert 180 < raised.at - raised.since <= 190
    product.dead.clear()
    assert events(product.run(100)) == [("cleared", "proofs")]


def test_a_watcher_that_was_suspended_does_not_blame_the_others(product):
    """A laptop that slept an hour finds every heartbeat an hour old."""
    product.now += 3600
    assert product.run(300) == []


def test_a_cleared_alert_says_how_long_it_lasted(product):
    """The first question of the morning after."""
    product.dead |= {"worker"}
    product.run(125)
    product.dead.clear()
    product.run(200)
    assert product.told[-1].title.startswith("OVER: silence of the worker, lasted 2 min ")
    assert "Over: 2026-01-22 12:" in product.told[-1].text


def test_a_title_is_one_short_line(product):
    """It is the subject of a mail; a key may hold anything."""
    set_claims(product, claim("risk_proposal/recomputed", S001="x\r\nBcc: all@example.com " + "y" * 500))
    (raised,) = product.run(70)
    assert "\n" not in raised.title
    assert len(raised.title) <= 140


def test_a_symbol_near_its_limit_flaps_at_most_once_in_ten_minutes(product):
    """Raised, cleared, and raised again: then it stays open until it was healthy for ten minutes."""
    for _ in range(4):
        product.dead.add("S001")
        product.run(75)
        product.dead.clear()
        product.run(60)
    assert events(product.told) == [("raised", "symbol:S001"), ("cleared", "symbol:S001"), ("raised", "symbol:S001")]
    assert events(product.run(660)) == [("cleared", "symbol:S001")]


def test_the_proof_of_the_single_cycle_is_no_second_alert_beside_a_dead_symbol(product):
    """It fails because the symbol cannot be computed."""
    product.dead.add("S001")
    product.run(65)
    set_claims(product, claim("risk_proposal/one_cycle", per_symbol=False, once="exit code 1: Single cycle failed"))
    product.run(120)
    assert events(product.told) == [("raised", "symbol:S001")]


def test_proofs_of_what_the_watcher_sees_itself_are_no_alerts(product):
    """A crossed stop is an alert of its own, in other words than a proof's."""
    set_claims(product, claim("risk_proposal/right_side", severity="WARN", S001="61200 >= 61050"))
    assert product.run(200) == []


def test_an_account_not_judged_for_a_minute_is_an_alert_of_the_proof(product):
    """The watcher itself sees it only from the age on from which nothing is opened, twice as late."""
    set_claims(product, claim("risk_guard/fresh", per_symbol=False, account="stale, 70 s"))
    (raised,) = product.run(70)
    assert raised.alert == "proof:risk_guard/fresh"


def test_a_cause_outlives_the_proofs_that_fail_a_little_longer(product):
    """The message that it is over names what it was."""
    product.dead.add("S001")
    product.run(90)
    set_claims(product, claim("market_state/enough_candles", S001="12 candles"))
    product.run(60)
    product.dead.clear()
    product.run(20)
    set_claims(product)
    product.run(90)
    assert events(product.told) == [("raised", "symbol:S001"), ("cleared", "symbol:S001")]
    assert "missing since 12:03 UTC" in product.told[-1].text
    assert "no new stop" not in product.told[-1].text  # it is over


@pytest.mark.parametrize("ahead", [86_400, 60])
def test_a_pack_dated_ahead_of_the_clock_is_named(product, ahead):
    """Dated a day ahead it silenced the alert for a day."""
    product.dead |= {"pack"}
    product.finished = product.now + ahead
    (raised,) = product.run(10)
    assert raised.alert == "proofs"
    assert "ahead of the clock" in raised.title
    product.finished = product.now
    assert events(product.run(10)) == [("cleared", "proofs")]


@pytest.mark.parametrize("pause", [0, 10, 30])
@pytest.mark.parametrize("dead", [{"worker", "daemon", "loop"}, {"daemon"}, {"loop"}])
def test_what_died_with_the_predecessor_is_given_a_minute(product, pause, dead):
    """Stopping the stack and starting it half a minute later said that no cycle has ended; a kill, that the daemon is silent."""
    product.now += pause
    product.restart_watcher()
    product.dead |= dead
    assert product.run(45) == []
    product.dead.clear()
    assert [message for message in product.run(300) if message.severity == "page"] == []  # a late cycle is a warning


def test_what_stays_dead_after_a_restart_is_told_after_the_minute(product):
    """Grace is not blindness."""
    product.dead |= {"daemon"}
    product.now += 10
    product.restart_watcher()
    (raised,) = product.run(120)
    assert raised.alert == "daemon"


def test_a_test_cycle_that_took_too_long_is_said_to_be_that(product):
    """Exit code -1, and "a published value was edited", sent people looking for a forger."""
    slow = {"once": "exit code -1: did not end within 20 s"}
    set_claims(product, claim("risk_proposal/one_cycle", severity="WARN", per_symbol=False, **slow))
    product.run(60)
    set_claims(product, claim("risk_proposal/one_cycle", severity="WARN", per_symbol=False, **slow))
    (raised,) = product.run(60)
    assert raised.title == "A test cycle (`quantum once`) took too long; published numbers are unaffected"
    assert "numbers may be wrong" not in raised.text
    assert "edited" not in raised.text.partition("Fix:")[0]
