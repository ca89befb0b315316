"""The governor's gates against the table of the specification: each alone, each pair, each boundary, and mutants of the kernel."""

import ast
import importlib.util
import inspect
import itertools
import math
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from quantum_core.kernels.governor import gates
from quantum_core.kernels.governor.gates import Evidence, decide
from quantum_core.kernels.governor.limits import GovernorTheta

OPEN: dict[str, Any] = {  # an opening plan that passes every gate
    "closing": False,
    "unreadable": False,
    "kill_switch": False,
    "disarmed": False,
    "risk_guard": "",
    "unknown_symbol": False,
    "market_state_age_sec": 5.0,
    "market_close_age_sec": 5.0,
    "harvest_proposal_age_sec": 5.0,
    "position_age_sec": 5.0,
    "flat": False,
    "position_unknown": False,
    "position_conflict": False,
    "price_collar": False,
    "position_inconsistent": False,
    "close_exceeds_position": False,
    "market_inactive": False,
    "non_live": False,
    "kill_score": 0.55,
    "permits_hour": 0.0,
    "permits_5min": 0.0,
    "day_total": 0.0,
    "amount": 100.0,
    "in_usd": True,
    "position_notional_usd": 1000.0,
    "target_usd": math.nan,
}


class Row(NamedTuple):
    """One row of the specification's table: its reason, whether closings must pass it, and what shuts it."""

    reason: str
    closings: bool
    shut: dict[str, Any]


EVERY_PLAN, OPENINGS = True, False
SPECIFIED = (  # docs/spec.md#7-trade-intents-and-the-governor, in its order
    Row("evaluation_error", EVERY_PLAN, {"unreadable": True}),
    Row("kill_switch_active", OPENINGS, {"kill_switch": True}),
    Row("disarmed", OPENINGS, {"disarmed": True}),
    Row("risk_guard_EQUITY_STALE", OPENINGS, {"risk_guard": "EQUITY_STALE"}),
    Row("risk_guard_DAILY_LOSS", OPENINGS, {"risk_guard": "DAILY_LOSS"}),
    Row("risk_guard_DRAWDOWN", OPENINGS, {"risk_guard": "DRAWDOWN"}),
    Row("risk_guard_EMERGENCY_FLATTEN", OPENINGS, {"risk_guard": "EMERGENCY_FLATTEN"}),
    Row("risk_guard_CONSEC_LOSS", OPENINGS, {"risk_guard": "CONSEC_LOSS"}),
    Row("risk_guard_MANUAL_HALT", OPENINGS, {"risk_guard": "MANUAL_HALT"}),  # any other, whoever set it
    Row("unknown_symbol", OPENINGS, {"unknown_symbol": True, "market_state_age_sec": math.nan}),
    Row("stale_market_state", OPENINGS, {"market_state_age_sec": 121.0}),
    Row("market_inactive", OPENINGS, {"market_inactive": True}),
    Row("position_unknown", OPENINGS, {"position_unknown": True}),
    Row("position_conflict", OPENINGS, {"position_conflict": True}),
    Row("close_exceeds_position", EVERY_PLAN, {"close_exceeds_position": True}),
    Row("stale_harvest_proposal", OPENINGS, {"harvest_proposal_age_sec": 121.0}),
    Row("stale_position", OPENINGS, {"position_age_sec": 121.0}),
    Row("price_collar", OPENINGS, {"price_collar": True}),
    Row("position_inconsistent", OPENINGS, {"position_inconsistent": True}),
    Row("synthetic_data", EVERY_PLAN, {"non_live": True}),
    Row("kill_score_critical_non_close", OPENINGS, {"kill_score": 0.9}),
    Row("hourly_limit_exceeded", EVERY_PLAN, {"permits_hour": 3.0}),
    Row("burst_limit_exceeded", EVERY_PLAN, {"permits_5min": 2.0}),
    Row("daily_limit_exceeded", EVERY_PLAN, {"amount": 5000.5}),
    Row("p29_allocation_cap", OPENINGS, {"target_usd": 999.0}),
)
BOUNDARIES = (  # what is exactly at a limit, and just beyond it
    ({"market_state_age_sec": 120.0}, ""),
    ({"market_state_age_sec": 120.0, "unknown_symbol": True}, ""),  # another deployment on the same server computes it
    ({"market_state_age_sec": 120.001, "unknown_symbol": True}, "unknown_symbol"),
    ({"market_state_age_sec": 120.001}, "stale_market_state"),
    ({"market_state_age_sec": -5.0}, ""),
    ({"market_state_age_sec": -5.001}, "stale_market_state"),
    ({"market_state_age_sec": math.nan}, "stale_market_state"),
    ({"market_close_age_sec": 120.0}, ""),
    ({"market_close_age_sec": 120.001}, "stale_market_state"),
    ({"market_close_age_sec": -5.001}, "stale_market_state"),
    ({"market_close_age_sec": math.nan}, "stale_market_state"),
    ({"market_state_age_sec": 5.0, "market_close_age_sec": 121.0, "unknown_symbol": True}, "stale_market_state"),
    ({"flat": True, "harvest_proposal_age_sec": math.nan, "kill_score": math.nan}, ""),  # an opening from flat
    ({"flat": True, "harvest_proposal_age_sec": 121.0}, ""),
    ({"flat": True, "kill_score": 0.8}, "kill_score_critical_non_close"),  # the plan's own
    ({"flat": True, "position_age_sec": 120.001}, "stale_position"),
    ({"flat": True, "position_age_sec": math.nan}, "stale_position"),
    ({"flat": True, "market_close_age_sec": 120.001}, "stale_market_state"),
    ({"position_unknown": True, "position_age_sec": math.nan}, "position_unknown"),
    ({"harvest_proposal_age_sec": 120.0}, ""),
    ({"harvest_proposal_age_sec": 120.001}, "stale_harvest_proposal"),
    ({"harvest_proposal_age_sec": math.nan}, "stale_harvest_proposal"),
    ({"position_age_sec": 120.0}, ""),
    ({"position_age_sec": 120.001}, "stale_position"),
    ({"position_age_sec": math.nan}, "stale_position"),
    ({"position_age_sec": math.inf}, "stale_position"),
    ({"kill_score": 0.8}, "kill_score_critical_non_close"),
    ({"kill_score": math.nextafter(0.8, 0)}, ""),
    ({"kill_score": math.nan}, "kill_score_critical_non_close"),
    ({"kill_score": 0.45}, ""),
    ({"permits_hour": 2.0}, ""),
    ({"permits_hour": 3.0}, "hourly_limit_exceeded"),
    ({"permits_hour": math.nan}, "hourly_limit_exceeded"),
    ({"permits_5min": 1.0}, ""),
    ({"permits_5min": 2.0}, "burst_limit_exceeded"),
    ({"permits_5min": math.nan}, "burst_limit_exceeded"),
    ({"day_total": 4900.0}, ""),
    ({"day_total": 4900.01}, "daily_limit_exceeded"),
    ({"amount": math.nan}, "daily_limit_exceeded"),
    ({"in_usd": False, "amount": 0.02}, ""),
    ({"in_usd": False, "amount": 0.0201}, "daily_limit_exceeded"),
    ({"in_usd": False, "amount": 0.01, "day_total": 0.01}, ""),
    ({"in_usd": False, "amount": 0.01, "day_total": 0.0101}, "daily_limit_exceeded"),
    ({"target_usd": 1000.0}, ""),
    ({"target_usd": 999.999}, "p29_allocation_cap"),
    ({"target_usd": 1000.0, "position_notional_usd": math.nan}, "p29_allocation_cap"),
    ({"position_notional_usd": math.nan}, ""),
)


def outcome(changes: dict[str, Any], *, closing: bool = False, kernel: Any = gates, **theta: Any) -> str:
    """Judge one plan that differs so from one that passes; give the reason of its block, empty for a permit."""
    values = {**OPEN, "closing": closing, **changes}
    columns = {name: np.array([value], dtype=object if name == "risk_guard" else None) for name, value in values.items()}
    return str(kernel.decide(kernel.Evidence(**columns), kernel.GovernorTheta(**theta))[0])


def test_the_table_is_the_specifications() -> None:
    """Other programs match these reasons, and which one is told when several apply is part of the contract."""
    told = [("risk_guard_MANUAL_HALT" if gate.reason == gates.GUARDED else gate.reason) for gate in gates.GATES]
    assert told == [row.reason for row in SPECIFIED]
    assert [gate.shuts_closings for gate in gates.GATES] == [row.closings for row in SPECIFIED]
    assert [gate.number for gate in gates.GATES] == [
        1,
        2,
        2,
        3,
        3,
        3,
        3,
        3,
        3,
        4,
        4,
        4,
        4,
        4,
        4,
        4,
        4,
        4,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
    ]
    assert gates.BEFORE_COUNTING + gates.COUNTED + gates.AFTER_COUNTING == gates.GATES


@pytest.mark.parametrize("closing", [False, True])
def test_a_plan_that_meets_no_gate_passes(*, closing: bool) -> None:
    """A governor that grants nothing is as useless as one that grants all."""
    assert outcome({}, closing=closing) == ""


@pytest.mark.parametrize("row", SPECIFIED, ids=lambda row: row.reason)
def test_each_gate_alone(row: Row) -> None:
    """A gate that is shut stops openings; closings pass unless the table says otherwise."""
    assert outcome(row.shut) == row.reason
    assert outcome(row.shut, closing=True) == (row.reason if row.closings else "")


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(SPECIFIED, 2)), ids=lambda row: row.reason)
def test_of_two_shut_gates_the_first_is_told(first: Row, second: Row) -> None:
    """First failure wins, as the table orders them."""
    if set(first.shut) & set(second.shut):
        return  # two risk guards at once are one column: the caller names the first
    both = {**first.shut, **second.shut}
    assert outcome(both) == first.reason
    closings = [row.reason for row in (first, second) if row.closings]
    assert outcome(both, closing=True) == (closings[0] if closings else "")


@pytest.mark.parametrize(("changes", "reason"), BOUNDARIES)
def test_exactly_at_a_limit(changes: dict[str, Any], reason: str) -> None:
    """Off by one permit, or by one second, is money."""
    assert outcome(changes) == reason


def test_a_close_meets_no_gate_that_only_opening_risk_must_pass() -> None:
    """Refusing the very closes that reduce risk is how other systems of this kind failed."""
    shut = {name: value for row in SPECIFIED if not row.closings for name, value in row.shut.items()}
    assert outcome(shut, closing=True) == ""
    assert outcome({**shut, "market_state_age_sec": math.nan, "kill_score": math.nan}, closing=True) == ""


def test_non_live_data_passes_only_where_it_is_allowed() -> None:
    """The demo says so in a banner; production has to ask for it."""
    assert outcome({"non_live": True}, allow_synthetic=True) == ""
    assert outcome({"non_live": True}, closing=True, allow_synthetic=True) == ""


@pytest.mark.parametrize(
    ("theta", "changes", "reason"),
    [
        ({"max_data_age_sec": 10.0}, {"position_age_sec": 11.0}, "stale_position"),
        ({"max_close_age_sec": 360.0}, {"market_close_age_sec": 359.0}, ""),
        ({"max_close_age_sec": 360.0}, {"market_close_age_sec": 361.0}, "stale_market_state"),
        ({"kill_score_critical": 0.5}, {}, "kill_score_critical_non_close"),
        ({"max_exec_per_hour": 0}, {}, "hourly_limit_exceeded"),
        ({"max_exec_per_5min": 0}, {}, "burst_limit_exceeded"),
        ({"max_notional_per_day_usd": 99.0}, {}, "daily_limit_exceeded"),
        ({"max_qty_per_day": 0.01}, {"in_usd": False, "amount": 0.02}, "daily_limit_exceeded"),
    ],
)
def test_every_limit_can_be_set(theta: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    """A setting without effect is a promise that is not kept."""
    assert outcome(changes, **theta) == reason


def test_many_plans_are_judged_as_each_alone() -> None:
    """No plan's gate leaks into its neighbour."""
    rows = [{**OPEN, **row.shut, "closing": closing} for row in SPECIFIED for closing in (False, True)]
    columns = {name: np.array([row[name] for row in rows], dtype=object if name == "risk_guard" else None) for name in OPEN}
    expected = [outcome(row.shut, closing=closing) for row in SPECIFIED for closing in (False, True)]
    assert list(decide(Evidence(**columns), GovernorTheta())) == expected


# --- mutants: what the tests above must notice -------------------------------------------------------------------------------


def as_specified(kernel: Any) -> bool:
    """Tell whether a kernel passes all of the above."""
    alone = all(
        outcome(row.shut, kernel=kernel) == row.reason
        and outcome(row.shut, closing=True, kernel=kernel) == (row.reason if row.closings else "")
        for row in SPECIFIED
    )
    pairs = all(
        outcome({**first.shut, **second.shut}, kernel=kernel) == first.reason
        for first, second in itertools.combinations(SPECIFIED, 2)
        if not set(first.shut) & set(second.shut)
    )
    exact = all(outcome(changes, kernel=kernel) == reason for changes, reason in BOUNDARIES)
    return alone and pairs and exact and outcome({}, kernel=kernel) == outcome({}, closing=True, kernel=kernel) == ""


def load(source: str) -> types.ModuleType:
    """Execute a changed source of the kernel as a module of its own."""
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutant", loader=None))  # type: ignore[arg-type]
    module.__dict__["__name__"] = "quantum_core.kernels.gates.gates"
    exec(compile(source, "mutant", "exec"), module.__dict__)  # noqa: S102 - our own source with one operator changed
    return module


FLIPPED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.GtE: ast.Gt, ast.Gt: ast.GtE, ast.Eq: ast.NotEq}
SWAPPED = {ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Add: ast.Sub}


def mutants() -> Iterator[tuple[str, str]]:
    """Change one comparison, logical operator or negation of the gates at a time."""
    source = inspect.getsource(gates)
    inside = {"_too_old", "_beyond_day", "_guard", "decide"}
    tree = ast.parse(source)
    nodes = [
        node
        for part in tree.body
        if (isinstance(part, ast.FunctionDef) and part.name in inside)
        or (isinstance(part, ast.Assign) and getattr(part.targets[0], "id", "") == "GATES")
        for node in ast.walk(part)
    ]
    for index, node in enumerate(nodes):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Compare) and type(node.ops[0]) in FLIPPED:
            kept, node.ops = node.ops, [FLIPPED[type(node.ops[0])]()]
            yield f"line {line} comparison {index}", ast.unparse(tree)
            node.ops = kept
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
            kept_op, node.op = node.op, SWAPPED[type(node.op)]()
            yield f"line {line} operator {index}", ast.unparse(tree)
            node.op = kept_op
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            operand, node.operand = node.operand, ast.UnaryOp(ast.Invert(), node.operand)
            yield f"line {line} negation {index}", ast.unparse(tree)
            node.operand = operand
        elif isinstance(node, ast.keyword) and node.arg == "shuts_closings" and isinstance(node.value, ast.Constant):
            node.value.value = not node.value.value
            yield f"line {node.value.lineno} {node.arg}", ast.unparse(tree)
            node.value.value = not node.value.value


@pytest.mark.parametrize("gate", gates.GATES, ids=lambda gate: gate.reason)
def test_a_kernel_without_a_gate_is_noticed(gate: gates.Gate) -> None:
    """Whoever deletes a gate must not get past the tests."""
    mutant = load(inspect.getsource(gates))
    mutant.decide = lambda evidence, theta: decide(evidence, theta, [one for one in gates.GATES if one is not gate])
    assert not as_specified(mutant)


@pytest.mark.parametrize("first", range(len(gates.GATES) - 1))
def test_a_kernel_with_two_gates_swapped_is_noticed(first: int) -> None:
    """The order is part of the contract."""
    order = list(gates.GATES)
    order[first], order[first + 1] = order[first + 1], order[first]
    if "risk_guard" in order[first].reason and "risk_guard" in order[first + 1].reason:
        return  # they read one column, which names one guard
    mutant = load(inspect.getsource(gates))
    mutant.decide = lambda evidence, theta: decide(evidence, theta, order)
    assert not as_specified(mutant)


@pytest.mark.parametrize(("title", "source"), list(mutants()), ids=lambda text: text if text.startswith("line") else "")
def test_a_kernel_with_one_operator_changed_is_noticed(title: str, source: str) -> None:  # noqa: ARG001 - names the mutant
    """A comparison flipped, an `and` for an `or`, a negation lost: each is a permit that should not be."""
    assert not as_specified(load(source))


def test_the_unchanged_source_passes() -> None:
    """Else the mutants would be noticed for nothing."""
    assert as_specified(load(inspect.getsource(gates)))
