"""Plans as planners write them: other spellings of what we know, and numbers, sides and times that contradict what is held."""

import pytest

from quantum_core.contracts.tables import MARKET_STATE, POSITION
from resources.governor.decisions import decided_again
from resources.governor.plan import parse_plan
from tests.governor.desk import Desk
from tests.world import write_position

SYMBOL = "BTCUSDT"
NOW_MS = 1_769_083_200_000


@pytest.fixture
def desk(store) -> Desk:
    """A long position of 2, as its writer tells it and as it is tracked."""
    desk = Desk(store)
    desk.ready(SYMBOL)
    write_position(store, SYMBOL, entry=99.0, mark=100.0)
    desk.put(POSITION, SYMBOL, qty=2.0)
    return desk


def plan(**more: object):
    fields = {"plan_id": "p", "symbol": SYMBOL, "action": "OPEN", "decision": "EXECUTE", "qty": "0.001", **more}
    return parse_plan(f"{NOW_MS}-0", {name.encode(): str(value).encode() for name, value in fields.items()})


def asked(desk: Desk, action: str, **more: object) -> str | None:
    """Ask, and again where the machine was so busy that the evidence had grown old."""
    desk.plan("p", str(more.pop("symbol", SYMBOL)), action, **more)
    for _ in range(5):
        desk.decide()
        if desk.outcome("p") is not None:
            break
    (event,) = desk.events()[-1:]
    assert decided_again(event) == event["reason"]
    return desk.outcome("p")


@pytest.mark.parametrize(
    "spelling",
    [{"decision": "execute"}, {"decision": " EXECUTE\n"}, {"action": "close "}, {"symbol": f" {SYMBOL} "}, {"qty": " 0.001"},
     {"action": "", "reduceOnly": " True "}, {"action": "", "reduce_only": "true"}, {"action": "", "closePosition": "TRUE"},
     {"action": "", "reduceOnly": "yes"}, {"action": "", "ReduceOnly": "1.0"}, {"action": "", "is_reduce_only": "on"},
     {"action": "", "reduce-only": '"true"'}],
)  # fmt: skip
def test_a_close_in_another_spelling_is_decided(desk: Desk, spelling: dict[str, str]) -> None:
    """A decision in small letters was dropped without a word, a close with a space behind it was an opening."""
    desk.store.client.set("quantum:kill", "1")
    assert asked(desk, **{"action": "CLOSE", **spelling}) == ""


@pytest.mark.parametrize("spelling", [{"decision": "SKIP"}, {"decision": "hold"}, {"decision": "EXECUTED"}])
def test_another_decision_is_none_of_ours(desk: Desk, spelling: dict[str, str]) -> None:
    assert asked_of_others(desk, **spelling) == (None, [])


def asked_of_others(desk: Desk, **more: str) -> tuple[str | None, list[object]]:
    desk.plan("p", SYMBOL, "CLOSE", **more)
    desk.decide()
    return desk.outcome("p"), list(desk.events())


@pytest.mark.parametrize(
    ("fields", "invalid"), [({"reduceOnly": "yes"}, "reduceOnly"), ({"ReduceOnly": "yes"}, ""), ({"REDUCE_ONLY": "1"}, "")]
)
def test_in_other_spellings_reduce_only_makes_no_close_of_an_opening(fields: dict[str, str], invalid: str) -> None:
    """Only the one that every executor knows does."""
    read = plan(**fields)
    assert (read.action, read.reduce_only, read.invalid) == ("OPEN", False, invalid)


NO_VALUE = ("None", "null", "NULL", " nil ", "undefined", "<NA>", "")


@pytest.mark.parametrize("word", NO_VALUE)
@pytest.mark.parametrize(
    "name", ["qty", "close_qty", "quantity", "price", "kill_score", "confidence", "reduceOnly", "positionSide", "side", "ts"]
)
def test_a_close_that_has_a_word_where_it_has_no_value_is_decided(desk: Desk, name: str, word: str) -> None:
    """Python writes None into fields of a market order: the position stayed open for `invalid_plan:price`."""
    desk.store.client.set("quantum:kill", "1")
    assert asked(desk, "CLOSE", **{name: word}) == ""


@pytest.mark.parametrize("name", ["price", "kill_score", "confidence", "reduceOnly"])
def test_a_close_may_leave_out_what_pandas_spells_nan(desk: Desk, name: str) -> None:
    assert asked(desk, "CLOSE", **{name: "NaN"}) == ""


@pytest.mark.parametrize("name", ["qty", "close_qty"])
def test_a_size_that_was_computed_and_is_no_number_is_a_fault(name: str) -> None:
    assert plan(action="CLOSE", **{name: "nan"}).invalid == name


@pytest.mark.parametrize("word", [*NO_VALUE[:-1], "NaN"])
@pytest.mark.parametrize("name", ["qty", "close_qty", "price", "kill_score", "reduceOnly", "action", "symbol"])
def test_an_opening_that_has_a_word_where_it_has_no_value_is_refused(desk: Desk, name: str, word: str) -> None:
    """An action of None is none: it was an opening; a score of None is not one of 0."""
    assert asked(desk, **{"action": "OPEN", name: word}) in (f"invalid_plan:{name}", "unknown_symbol")


@pytest.mark.parametrize("word", NO_VALUE)
def test_an_action_that_is_none_beside_reduce_only_is_a_close(desk: Desk, word: str) -> None:
    assert asked(desk, word, reduceOnly="true") == ""
    assert plan(action=word, reduce_only="yes").action == "CLOSE"


@pytest.mark.parametrize("said", ["no", "false", "0", "off", "", "null", "perhaps"])
def test_a_plan_without_an_action_that_does_not_say_so_is_none(said: str) -> None:
    assert plan(action="", ReduceOnly=said).invalid == "action"


def test_an_opening_is_none_for_a_reduce_only_of_another_spelling(desk: Desk) -> None:
    """Who executes it may not know the word: it is judged as an opening."""
    desk.store.client.set("quantum:kill", "1")
    assert asked(desk, "OPEN", reduce_only="true") == "kill_switch_active"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"side": "SELL"}, ""), ({"side": "sell", "positionSide": "LONG"}, ""), ({"positionSide": "BOTH"}, ""), ({"side": "LONG"}, ""),
        ({"positionSide": "sideways"}, ""),  # not needed to close what is held
        ({"side": "BUY"}, "close_exceeds_position"), ({"side": "Buy", "reduceOnly": "false"}, "close_exceeds_position"),
        ({"positionSide": "SHORT"}, "close_exceeds_position"), ({"posSide": "short", "side": "SELL"}, "close_exceeds_position"),
        ({"positionIdx": "2"}, "close_exceeds_position"),
        ({"qty": "0.001", "close_qty": "500"}, "close_exceeds_position"), ({"quantity": "500"}, "close_exceeds_position"),
        ({"qty": "", "size": "-500"}, "close_exceeds_position"), ({"qty": "", "size": "2"}, ""),
        ({"qty": "2", "close_qty": "0.5"}, ""),  # what is held, and what of it is closed
    ],
)  # fmt: skip
def test_a_close_of_what_nobody_holds_would_open_it(desk: Desk, fields: dict[str, str], reason: str) -> None:
    """An order to buy "closes" a short one: beside a long one it doubles it, even under the kill switch."""
    desk.store.client.set("quantum:kill", "1")
    assert asked(desk, "CLOSE", **fields) == reason


def test_nothing_that_is_not_known_refuses_a_close(desk: Desk) -> None:
    """Without a fresh snapshot nobody knows which side is held."""
    desk.store.client.delete(desk.store.keys.of("raw_position", SYMBOL))
    assert asked(desk, "CLOSE", side="BUY") == ""


@pytest.mark.parametrize(
    "sizes", [{"qty": "0.001", "close_qty": "500"}, {"quantity": "500"}, {"size": "500"}, {"qty": "", "quantity": "500"}]
)
def test_an_opening_cannot_talk_its_size_down(desk: Desk, sizes: dict[str, str]) -> None:
    """Its executor may read the other name."""
    assert asked(desk, "OPEN", **sizes) == "daily_limit_exceeded"


@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"timestamp": NOW_MS // 1000 - 13 * 3600}, "timestamp"), ({"ts": NOW_MS - 86_400_000}, "ts"),
        ({"created_at": "2026-01-20T12:00:00Z"}, "created_at"), ({"timestamp": "2026-01-20 12:00:00"}, "timestamp"),
        ({"timestamp": (NOW_MS - 13 * 3_600_000) * 1000}, "timestamp"), ({"timestamp": (NOW_MS - 13 * 3_600_000) * 10**6}, "timestamp"),
        ({"timestamp": "20260121T100000Z"}, "timestamp"), ({"timestamp": "2026-01-21"}, "timestamp"),
        ({"timestamp": "2026-01-22T23:30:00+14:00"}, ""), ({"timestamp": "2026-01-21T22:00:00-02:00"}, ""),
        ({"timestamp": NOW_MS // 1000 - 11 * 3600}, ""), ({"timestamp": NOW_MS}, ""), ({"timestamp": "soon"}, ""), ({"timestamp": "7"}, ""),
        ({"timestamp": "nan"}, ""), ({"timestamp": "-inf"}, ""), ({"ts": "1e400"}, ""),
        ({"timestamp": NOW_MS // 1000 - 86_400, "action": "CLOSE"}, ""),  # what is held is known now
    ],
)  # fmt: skip
def test_an_opening_that_was_planned_long_ago_is_outdated(fields: dict[str, object], invalid: str) -> None:
    """A stream that is copied has new entries of old plans, and what was decided a day ago is forgotten."""
    assert plan(**fields).invalid == invalid


@pytest.mark.parametrize(
    "fields", [{"paper": "true"}, {"dry_run": "1"}, {"mode": "shadow"}, {"source": "dry-run"}, {"env": "testnet"}]
)
@pytest.mark.parametrize("action", ["OPEN", "CLOSE"])
def test_a_plan_that_says_it_is_not_live_is_not(desk: Desk, fields: dict[str, str], action: str) -> None:
    """Whatever it calls it: the executor behind the permit is."""
    desk.put(MARKET_STATE, SYMBOL)
    assert asked(desk, action, **fields) == "synthetic_data"
