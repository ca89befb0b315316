"""What opens risk and what does not: a book that is known to be flat, one that nobody shows, and a market that has stopped."""

import pytest

from quantum_core.contracts.labels import label_of
from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, POSITION, RISK_GUARD
from quantum_core.kernels.governor.risk_guard import assess
from quantum_core.settings import load_settings
from resources.governor.account import read_account
from resources.governor.decisions import decided_again, gates_judged
from resources.governor.guard_search import look_for_more
from resources.governor.guards import enforce, guard_state
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from tests.governor.desk import Desk
from tests.world import write_equity

SYMBOL = "BTCUSDT"


@pytest.fixture
def desk(store: RedisStore) -> Desk:
    """A market that is fresh, and no word of any position."""
    desk = Desk(store)
    desk.put(MARKET_STATE, SYMBOL)
    desk.guard()
    return desk


def tell(desk: Desk, **fields: object) -> None:
    """Write what a writer of positions says of the symbol."""
    key = desk.store.keys.of("raw_position", SYMBOL)
    desk.store.client.delete(key)
    desk.store.client.hset(key, mapping={name: str(value) for name, value in fields.items()})


def asked(desk: Desk, action: str = "OPEN", **more: object) -> str | None:
    """Ask for one plan, and give the reason it was refused for, empty for a permit."""
    desk.plan("p", SYMBOL, action, **more)
    desk.decide()
    (event,) = desk.events()[-1:]
    assert decided_again(event) == event["reason"]
    return desk.outcome("p")


@pytest.mark.parametrize("flat", [{"side": "FLAT"}, {"position_amt": "0"}, {"side": "LONG", "quantity": "0.0"}])
def test_a_book_that_is_freshly_told_to_be_flat_opens(desk: Desk, flat: dict[str, str]) -> None:
    """No position needs no harvest proposal; asking for one refused every new entry there ever was."""
    tell(desk, **flat, ts_epoch=desk.store.clock().timestamp() - 3)
    assert asked(desk) == ""
    (event,) = desk.events()
    assert (event["flat"], event["harvest_proposal_age_sec"], event["kill_score"]) == ("1", "", "")


def test_what_the_last_position_left_says_nothing_of_the_next(desk: Desk) -> None:
    """An old proposal of a position that is closed, however bad, and even one that cannot be read."""
    tell(desk, side="FLAT", ts_epoch=desk.store.clock().timestamp())
    desk.put(HARVEST_PROPOSAL, SYMBOL, age_sec=500, kill_score=0.95, data_source="synthetic")
    assert asked(desk) == ""
    desk.store.client.delete(desk.store.keys.of(HARVEST_PROPOSAL.key, SYMBOL))
    desk.store.client.set(desk.store.keys.of(HARVEST_PROPOSAL.key, SYMBOL), "no hash")
    desk.plan("q", SYMBOL)
    desk.decide()
    assert desk.outcome("q") == ""


def test_the_plans_own_kill_score_counts_from_flat_too(desk: Desk) -> None:
    """Whoever asks may know better than that nothing is known."""
    tell(desk, side="FLAT", ts_epoch=desk.store.clock().timestamp())
    assert asked(desk, kill_score=0.8) == "kill_score_critical_non_close"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ts_epoch": -121}, "stale_position"),
        ({}, "stale_position"),
        ({"ts_epoch": "yesterday"}, "stale_position"),
        ({"ts_epoch": 60}, "stale_position"),
        ({"ts_epoch": -1, "source": "example"}, "synthetic_data"),
        ({"ts_epoch": -1, "position_amt": "nan"}, "evaluation_error"),
        ({"ts_epoch": -1, "symbol": "ETHUSDT"}, "evaluation_error"),
    ],
)
def test_a_flat_that_is_not_known_to_be_so_now_opens_nothing(desk: Desk, fields: dict[str, object], reason: str) -> None:
    """A writer that died with a flat book left it flat for ever."""
    now = desk.store.clock().timestamp()
    told = {name: now + value if isinstance(value, int) else value for name, value in fields.items()}
    tell(desk, **({} if "position_amt" in told else {"side": "FLAT"}), **told)
    assert asked(desk) == reason


def test_a_symbol_no_source_shows_is_unknown_and_not_flat(desk: Desk) -> None:
    """A hash that has expired, or was never written, looks the same."""
    assert asked(desk) == "position_unknown"
    desk.plan("c", SYMBOL, "CLOSE")
    desk.decide()
    assert desk.outcome("c") == ""  # a writer that is down keeps nobody in a position


def test_whoever_says_that_absent_is_flat_opens(store: RedisStore) -> None:
    """Some writers delete the hash with the position."""
    desk = Desk(
        RedisStore(load_settings(**{**store.settings.model_dump(exclude_unset=True), "position_absent": "flat"}), store.clock)
    )
    desk.put(MARKET_STATE, SYMBOL)
    desk.guard()
    assert asked(desk) == ""


def test_a_position_that_is_open_still_needs_its_proposal(desk: Desk) -> None:
    """What is open is judged whole before more is opened."""
    now = desk.store.clock().timestamp()
    tell(desk, side="LONG", quantity=1, entry_price=99, mark_price=100, ts_epoch=now)
    desk.put(POSITION, SYMBOL)
    assert asked(desk) == "stale_harvest_proposal"


@pytest.mark.parametrize(("age_sec", "reason"), [(119, ""), (122, "stale_market_state"), (-60, "stale_market_state")])
def test_a_state_just_computed_from_old_candles_is_old(desk: Desk, age_sec: int, reason: str) -> None:
    """With candles stopped, an evaluation every minute kept openings permitted for nine minutes."""
    now = desk.store.clock().timestamp()
    tell(desk, side="FLAT", ts_epoch=now)
    desk.put(MARKET_STATE, SYMBOL, ts_timestamp=int(now - age_sec))
    assert asked(desk) == reason


def test_a_market_nobody_trades_in_opens_nothing_and_closes_all_the_same(desk: Desk) -> None:
    """A delisted market looked calm, and earned permits."""
    tell(desk, side="FLAT", ts_epoch=desk.store.clock().timestamp())
    desk.put(MARKET_STATE, SYMBOL, market_inactive=True)
    assert asked(desk) == "market_inactive"
    tell(desk, side="LONG", quantity=1, entry_price=99, mark_price=100, ts_epoch=desk.store.clock().timestamp())
    desk.put(POSITION, SYMBOL)
    desk.plan("c", SYMBOL, "CLOSE")
    desk.decide()
    assert desk.outcome("c") == ""


def test_candles_of_five_minutes_may_be_that_old(store: RedisStore) -> None:
    """Between two closes there is nothing newer to be had."""
    settings = load_settings(**{**store.settings.model_dump(exclude_unset=True), "candle_interval_sec": 300})
    desk = Desk(RedisStore(settings, store.clock))
    now = store.clock().timestamp()
    tell(desk, side="FLAT", ts_epoch=now)
    desk.guard()
    desk.put(MARKET_STATE, SYMBOL, ts_timestamp=int(now - 355))
    assert asked(desk) == ""
    desk.put(MARKET_STATE, SYMBOL, ts_timestamp=int(now - 362))
    desk.plan("late", SYMBOL)
    desk.decide()
    assert desk.outcome("late") == "stale_market_state"


def test_a_close_needs_no_harvest_proposal_that_can_be_read(desk: Desk) -> None:
    """Another program's field in that hash refused even closes that only reduce."""
    now = desk.store.clock().timestamp()
    tell(desk, side="LONG", quantity=1, entry_price=99, mark_price=100, ts_epoch=now)
    desk.put(POSITION, SYMBOL)
    desk.store.client.set(desk.store.keys.of(HARVEST_PROPOSAL.key, SYMBOL), "no hash")
    assert asked(desk, "CLOSE") == ""


def held(desk: Desk) -> None:
    """Let there be something to close."""
    desk.store.client.delete(desk.store.keys.of("raw_position", SYMBOL))
    desk.put(POSITION, SYMBOL)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(
    ("fields", "qty", "reason"),
    [
        ({"side": "FLAT"}, 1, "close_exceeds_position"),
        ({"side": "LONG", "quantity": 0}, 1, "close_exceeds_position"),
        ({"side": "FLAT"}, 0, "close_exceeds_position"),  # 0: no size is given
        ({"side": "LONG", "quantity": 2, "entry_price": 99, "mark_price": 100}, 2.01, "close_exceeds_position"),
        ({"side": "LONG", "quantity": 2, "entry_price": 99, "mark_price": 100}, 2, ""),
        ({"side": "SHORT", "position_amt": -2, "entry_price": 99, "mark_price": 100}, 2.01, "close_exceeds_position"),
        ({"side": "LONG", "entry_price": 99, "mark_price": 100}, 5, ""),  # of unknown size
        ({"side": "LONG", "quantity": 2, "entry_price": 99, "mark_price": 100, "ts_epoch": 1}, 5, ""),  # of long ago
        ({}, 1, ""),  # nobody shows one: it may be there
    ],
)
def test_a_close_beyond_what_is_held_would_open_the_other_side(
    desk: Desk, fields: dict[str, object], qty: float, reason: str, *, killed: bool
) -> None:
    """It was permitted even under the kill switch; what is not known refuses no close."""
    if fields:
        tell(desk, **{"ts_epoch": desk.store.clock().timestamp(), **fields})
    if killed:
        desk.store.client.set("quantum:kill", "1")
    assert asked(desk, "CLOSE", qty=qty) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"collared": True, "collared_price": 80.0}, "price_collar"),
        ({"inconsistent": True}, "position_inconsistent"),
        ({"conflict_until_epoch": 4e9}, "position_conflict"),
        ({"conflict_until_epoch": 1e9}, ""),
    ],
)
def test_a_doubtful_position_opens_nothing_and_may_be_closed(desk: Desk, changes: dict[str, object], reason: str) -> None:
    """The price stood at 99.99 while the market fell to 44, and openings were permitted."""
    desk.ready(SYMBOL)
    desk.put(POSITION, SYMBOL, **changes)
    assert asked(desk) == reason
    assert decided_again(desk.events()[-1]) == reason
    desk.plan("c", SYMBOL, "CLOSE")
    desk.decide()
    assert desk.outcome("c") == ""


LABELS = [
    *[(label, "") for label in ("", "live", "Live ", "binance", "redis_hash", "quantum", " harvest_brain", "latest", "contest")],
    *[
        (label, "synthetic_data")
        for label in ("paper_trading", "Example-feed", "example ", "replayed", "BINANCE-TESTNET", "quantum" + " " * 30 + "x")
    ],
]


@pytest.mark.parametrize(("label", "reason"), LABELS)
@pytest.mark.parametrize("action", ["OPEN", "CLOSE"])
def test_a_position_with_a_label_not_known_to_be_live_is_not_live(desk: Desk, label: str, reason: str, action: str) -> None:
    """Three exact words were refused, and paper trading passed for the book."""
    if action == "OPEN":
        tell(desk, side="FLAT", ts_epoch=desk.store.clock().timestamp(), source=label)
    else:
        desk.put(POSITION, SYMBOL, position_source=label_of(label) or "redis_hash")
    assert asked(desk, action) == reason


@pytest.mark.parametrize(("label", "reason"), LABELS)
@pytest.mark.parametrize("action", ["OPEN", "CLOSE"])
def test_a_plan_with_a_label_not_known_to_be_live_is_not_live(desk: Desk, label: str, reason: str, action: str) -> None:
    """A space behind the word was enough to pass."""
    if action == "OPEN":
        tell(desk, side="FLAT", ts_epoch=desk.store.clock().timestamp())
    else:
        desk.put(POSITION, SYMBOL)
    assert asked(desk, action, source=label) == reason


@pytest.mark.parametrize(("label", "reason"), LABELS)
def test_the_accounts_label_counts_for_openings_alone(desk: Desk, label: str, reason: str) -> None:
    """Guards judged by an account of examples protect nothing; but what reduces risk needs no guard."""
    tell(desk, side="FLAT", ts_epoch=desk.store.clock().timestamp())
    write_equity(desk.store, source=label)
    account = read_account(desk.store)
    assessment = assess(account.account)
    enforced = enforce(desk.store, account, assessment, cycle_id="c0")
    publish(desk.store, RISK_GUARD, [guard_state(account, assessment, enforced)], cycle_id="c0")
    assert asked(desk) == reason
    held(desk)
    desk.plan("c", SYMBOL, "CLOSE")
    desk.decide()
    assert desk.outcome("c") == ""
    (opened, closed) = desk.events()
    assert (opened["sources"] == closed["sources"]) == (label_of(label) in ("", "redis_hash"))


@pytest.mark.parametrize("declared", [True, False])
def test_a_guard_nobody_knows_blocks_openings_by_its_name(store: RedisStore, declared: bool) -> None:  # noqa: FBT001
    """It stood there, readable, and openings were permitted."""
    extra = {"risk_guards_extra": "MANUAL_HALT"} if declared else {}
    desk = Desk(RedisStore(load_settings(**{**store.settings.model_dump(exclude_unset=True), **extra}), store.clock))
    desk.put(MARKET_STATE, SYMBOL)
    desk.guard()
    tell(desk, side="FLAT", ts_epoch=desk.store.clock().timestamp())
    store.client.set("quantum:risk:guard_active:MANUAL_HALT", "{}")
    if not declared:
        look_for_more(desk.store)
    assert asked(desk) == "risk_guard_MANUAL_HALT"
    assert (desk.events()[-1]["gate"], desk.events()[-1]["risk_guard"]) == ("3", "MANUAL_HALT")
    assert gates_judged(desk.events()[-1])[-1] == (3, "risk_guard_MANUAL_HALT", "SHUT")
    held(desk)
    desk.plan("c", SYMBOL, "CLOSE")
    desk.decide()
    assert desk.outcome("c") == ""


@pytest.mark.parametrize(("action", "reason"), [("OPEN", "synthetic_data"), ("CLOSE", "")])
def test_a_snapshot_that_turns_synthetic_opens_nothing_on_the_row_of_before(desk: Desk, action: str, reason: str) -> None:
    """The tracked row stays as it was, and is fresh enough for two minutes; a close is judged by it, as ever."""
    desk.ready(SYMBOL)
    now = desk.store.clock().timestamp()
    tell(desk, side="LONG", quantity=2, entry_price=100, mark_price=105, ts_epoch=now, source="synthetic")
    assert asked(desk, action) == reason
