"""When plans are decided."""

import dagster as dg
import pytest

from definitions import assemble
from resources.governor.queue import PlanQueue, Waiting, waiting_plans
from resources.store.redis_store import UnreadableKeyError
from sensors.plans import Decide, decide_plans_due
from tests.world import write_plan

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


def test_no_plan_no_run() -> None:
    """The usual tick."""
    assert decide_plans_due(Waiting(0), SYMBOLS, unfinished=None) == "no plan waits"


def test_waiting_plans_are_decided_for_their_symbols_in_order() -> None:
    """A run covers the symbols whose plans wait."""
    waiting = Waiting(2, frozenset({"SOLUSDT", "ETHUSDT"}))
    assert decide_plans_due(waiting, SYMBOLS, unfinished=None) == Decide(("ETHUSDT", "SOLUSDT"))


def test_a_plan_for_an_unknown_symbol_is_decided_too() -> None:
    """It is refused; a plan that is never answered is worse."""
    assert decide_plans_due(Waiting(1, frozenset({"XUSDT"})), SYMBOLS, unfinished=None) == Decide(("BTCUSDT",))


def test_nothing_is_requested_while_a_run_is_deciding() -> None:
    """It takes them anyway."""
    assert "r1" in str(decide_plans_due(Waiting(3, frozenset()), SYMBOLS, unfinished="r1"))


def test_looking_takes_nothing_from_the_stream(store) -> None:
    """A look must not make a plan pending for somebody who never decides it."""
    assert waiting_plans(store) == Waiting(0)
    write_plan(store, "p1", "BTCUSDT")
    assert waiting_plans(store) == waiting_plans(store) == Waiting(1, frozenset({"BTCUSDT"}))
    assert [plan.plan_id for plan in PlanQueue(store).take()] == ["p1"]
    assert waiting_plans(store).count == 1  # taken, not decided


def test_a_key_of_another_type_is_an_error_not_an_empty_stream(store) -> None:
    """A failed read must never look like "no plan waits"."""
    store.client.set("quantum:stream:apply.plan", "x")
    with pytest.raises(UnreadableKeyError, match="apply"):
        waiting_plans(store)


def test_the_sensor_requests_a_run_for_a_waiting_plan(store, instance) -> None:
    """From the stream to a run request."""
    write_plan(store, "p1", "ETHUSDT")
    definitions = assemble(store)
    (request,) = definitions.resolve_sensor_def("plans")(
        dg.build_sensor_context(instance=instance, definitions=definitions)
    ).run_requests
    assert request.tags["dagster/asset_partition_range_start"] == "ETHUSDT"
