"""A parameter may differ from row to row: a column gives, to the bit, what scalars give row by row; and the plain formulas agree."""

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from quantum_assets.checks import reference
from quantum_assets.checks.common import compare
from quantum_core.kernels.capital.allocation import AllocationTheta, allocation
from quantum_core.kernels.capital.efficiency import EfficiencyInputs, EfficiencyState, EfficiencyTheta, efficiency
from quantum_core.kernels.capital.efficiency_hint import parse_efficiency
from quantum_core.kernels.columns import Market, Position
from quantum_core.kernels.governor import gates
from quantum_core.kernels.governor.limits import GovernorTheta
from quantum_core.kernels.governor.permit_hint import PermitHintTheta, permit_hint
from quantum_core.kernels.governor.risk_guard import Account, assess
from quantum_core.kernels.market.market_state import STATE_COLUMNS, MarketStateTheta, market_state
from quantum_core.kernels.proposals.harvest import HarvestTheta, harvest
from quantum_core.kernels.proposals.stops import StopsTheta, stops
from quantum_core.kernels.theta import Theta, ThetaError
from quantum_core.profiles.profile import SECTIONS, leaves
from tests.kernels.test_governor import OPEN
from tests.kernels.test_scales import markets, positions, row_of, wire_row

ROWS = 6
RNG = np.random.default_rng(17)
CLOSES = 100 * np.exp(np.cumsum(RNG.standard_t(4, (ROWS, 300)) * 0.003, axis=1))


def some(low: float, high: float) -> np.ndarray:
    return RNG.uniform(low, high, ROWS)


P = RNG.dirichlet([1, 1, 1], ROWS).T
MARKET = Market(some(1e-4, 0.03), some(0, 1), *P, np.where(np.arange(ROWS) % 4 == 1, np.nan, some(0.001, 0.05)))
ENTRY = some(90, 110)
POSITION = Position(
    np.arange(ROWS) % 2 == 0, ENTRY, ENTRY * some(0.97, 1.1), ENTRY * some(1.1, 1.2), ENTRY * some(0.9, 0.97),
    some(0, 2e5), some(-5, 20), np.where(np.arange(ROWS) % 3 == 0, np.nan, ENTRY * some(0.95, 1.05)), np.full(ROWS, np.nan),
)  # fmt: skip
DISTANCES = np.where(np.arange(ROWS) % 2 == 0, np.nan, some(0.001, 0.03))
HINT = parse_efficiency(
    [{"efficiency_score": str(score), "confidence": str(sure), "ts": str(age)} for score, sure, age in zip(some(0, 0.5), some(0.5, 1), some(300, 999), strict=True)]
)  # fmt: skip
STATUS = np.array(["ok", "stale", "ok", "missing", "ok", "ok"], dtype=object)
INPUTS = EfficiencyInputs(STATUS, some(0, 1), some(0.3, 1), STATUS, some(50, 200), some(0.3, 1), some(0, 5000))
STATE = EfficiencyState(some(0, 50), some(0, 80), some(0.2, 0.8), some(0, 1), some(50, 200))
PNLS = [RNG.normal(0, 10, count) for count in range(ROWS)]
PLANS = gates.Evidence(
    **{name: np.array([value] * ROWS, dtype=object if isinstance(value, str) else None) for name, value in OPEN.items()}
    | {"kill_score": some(0.5, 1), "amount": some(4000, 7000), "permits_hour": np.arange(ROWS) * 1.0, "in_usd": np.arange(ROWS) % 2 == 0,
       "market_state_age_sec": some(0, 200), "closing": np.arange(ROWS) % 3 == 0, "permits_5min": np.zeros(ROWS)}
)  # fmt: skip


def plans(rows: np.ndarray) -> gates.Evidence:
    return gates.Evidence(**{field.name: getattr(PLANS, field.name)[rows] for field in fields(PLANS)})


MEASURED = MarketStateTheta().override({"vol": {"tail": "historical"}, "regime": {"measure": "significance"}})
Run = Callable[[np.ndarray, Any], Any]  # rows, parameters -> columns
KERNELS: dict[str, tuple[Theta, Run]] = {
    "market_state": (MarketStateTheta(), lambda rows, theta: market_state(CLOSES[rows], theta=theta)),
    "market_state, measured": (MEASURED, lambda rows, theta: market_state(CLOSES[rows], theta=theta)),
    "market_state, student": (
        MEASURED.override({"vol": {"tail": "student_t"}}),
        lambda rows, theta: market_state(CLOSES[rows], theta=theta),
    ),
    "stops": (StopsTheta(), lambda rows, theta: stops(MARKET.take(rows), POSITION.take(rows), theta)),
    "harvest": (HarvestTheta(), lambda rows, theta: harvest(MARKET.take(rows), POSITION.take(rows), DISTANCES[rows], theta)),
    "efficiency": (
        EfficiencyTheta(),
        lambda rows, theta: efficiency(INPUTS.take(rows), [PNLS[row] for row in rows], STATE.take(rows), theta),
    ),
    "allocation": (AllocationTheta(), lambda rows, theta: allocation(HINT.take(rows), np.full(len(rows), 1000.0), 1000.0, theta)),
    "permit_hint": (PermitHintTheta(), lambda rows, theta: permit_hint(HINT.take(rows), 1000.0, theta)),
    "governor": (GovernorTheta().resolved(), lambda rows, theta: gates.decide(plans(rows), theta)),
}
OTHER_TUPLES = {"trend.windows": [(32, 64, 128), (16, 200, 250)], "trend.weights": [(1.0, 0.0, 2.0), (0.2, 0.2, 0.6)]}


def own(theta: Theta) -> dict[str, Any]:
    """List the parameters that a row may have for itself: whether data need not be live is said of a deployment."""
    return {path: field for path, field in leaves(theta).items() if path != "allow_synthetic"}


def values_of(theta: Theta, path: str) -> list[Any]:
    """Give the default of a parameter and two others that fit the rest."""
    field = leaves(theta)[path]
    default: Any = theta
    for name in path.split("."):
        default = getattr(default, name)
    low, high = field.metadata["low"], field.metadata["high"]
    if path in OTHER_TUPLES:
        return [default, *OTHER_TUPLES[path]]
    if isinstance(default, bool):
        return [default, not default, default]
    if isinstance(default, str):
        return [default, *(one for one in field.metadata["choices"] if one != default), default][:3]
    if path in ("vol.window", "regime.window"):
        return [default, 128, 64]
    if isinstance(default, int):
        return [default, min(default + 1, int(high)), max(default - 1, int(low))]
    step = 0.25 * abs(default) or 0.1
    return [default, min(default + step, high), max(default - step / 2, low)]


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def columns_of(result: Any) -> Iterator[tuple[str, list[Any]]]:
    """Lay a result out as one value per row and column."""
    if isinstance(result, np.ndarray):
        yield "reason", result.tolist()
        return
    for field in fields(result):
        value = getattr(result, field.name)
        if is_dataclass(value):
            yield from ((f"{field.name}.{name}", column) for name, column in columns_of(value))
        else:
            yield field.name, value.tolist() if isinstance(value, np.ndarray) else list(value)


def row_by_row(run: Run, thetas: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row, theta in enumerate(thetas):
        for name, values in columns_of(run(np.array([row]), theta)):
            found.setdefault(name, []).extend(values)
    return found


def equal_bits(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> None:
    """Compare as shortest texts, which tell any two floats apart and let NaN be NaN."""
    assert {name: list(map(repr, values)) for name, values in one.items()} == {
        name: list(map(repr, values)) for name, values in other.items()
    }


EVERY = [(kernel, path) for kernel, (theta, _) in KERNELS.items() for path in own(theta)]


@pytest.mark.parametrize(("kernel", "path"), EVERY, ids=lambda one: str(one))
def test_a_column_is_what_scalars_are_row_by_row(kernel: str, path: str) -> None:
    """One call for all symbols must not move the numbers of any of them by a bit."""
    default, run = KERNELS[kernel]
    values = values_of(default, path)
    thetas = [default.override(nested(path, values[row % 3])) for row in range(ROWS)]
    joined = type(default).by_row(thetas)
    equal_bits(dict(columns_of(run(np.arange(ROWS), joined))), row_by_row(run, thetas))


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_parameters_of_all_rows_at_once(kernel: str) -> None:
    """Rows whose windows, quantiles and methods differ in every way are still computed as if each were alone."""
    default, run = KERNELS[kernel]
    thetas = []
    for row in range(ROWS):
        theta = default
        for path in own(default):
            theta = theta.override(nested(path, values_of(default, path)[(row + len(path)) % 3 if row else 0]))
        thetas.append(theta)
    equal_bits(dict(columns_of(run(np.arange(ROWS), type(default).by_row(thetas)))), row_by_row(run, thetas))


@pytest.mark.parametrize("kernel", KERNELS)
def test_some_parameter_of_each_kernel_moves_something(kernel: str) -> None:
    """Else the comparison above would compare nothing."""
    default, run = KERNELS[kernel]
    plain, moved = dict(columns_of(run(np.arange(ROWS), default))), set()
    for path in own(default):
        for value in values_of(default, path)[1:]:
            other = dict(columns_of(run(np.arange(ROWS), default.override(nested(path, value)))))
            if any(str(other[name]) != str(values) for name, values in plain.items()):
                moved.add(path)
    silent = set(own(default)) - moved
    assert len(moved) >= len(own(default)) / 3, silent


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_column_of_one_value_is_the_scalar(kernel: str) -> None:
    """Equal rows join to a scalar; written out as a column they give the same bits."""
    default, run = KERNELS[kernel]
    plain = dict(columns_of(run(np.arange(ROWS), default)))
    assert type(default).by_row([default] * ROWS) == default
    for path, field in own(default).items():
        value = values_of(default, path)[0]
        column = np.empty(ROWS, dtype=object) if isinstance(field.default, str | tuple) else np.zeros(ROWS, dtype=type(value))
        column[:] = [value] * ROWS
        equal_bits(dict(columns_of(run(np.arange(ROWS), default.override(nested(path, column))))), plain)


@pytest.mark.parametrize(
    ("theta", "column", "named"),
    [
        (StopsTheta(), {"sl_min_pct": np.array([0.1, 2.0])}, r"sl_min_pct\[1\]"),
        (HarvestTheta(), {"cost_bps": np.array([-1.0, 2.0])}, r"cost_bps\[0\]"),
        (MarketStateTheta(), {"vol": {"ewma_lambda": np.array([0.9, np.nan])}}, r"vol.ewma_lambda\[1\]"),
        (MarketStateTheta(), {"trend": {"method": np.array(["ols", "median"], dtype=object)}}, r"trend.method\[1\]"),
    ],
)
def test_an_error_of_a_column_names_its_row(theta: Theta, column: dict[str, Any], named: str) -> None:
    """Of 566 values one is wrong: which?"""
    with pytest.raises(ThetaError, match=named):
        theta.override(column)


# --- the plain formulas -------------------------------------------------------------------------------------------------------


def drawn(section: str, **own: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw all numbers of a section within their bounds, near their defaults; ``own`` in the place of some."""
    theta = SECTIONS[section]
    parts = {}
    for path, field in leaves(theta).items():
        default, metadata = values_of(theta, path)[0], field.metadata
        if path in own:
            parts[path] = own[path]
        elif isinstance(default, bool):
            parts[path] = st.booleans()
        elif isinstance(default, str):
            parts[path] = st.sampled_from(metadata["choices"])
        elif isinstance(default, int):
            parts[path] = st.integers(max(metadata["low"], 1), int(min(metadata["high"], 3 * default)))
        elif isinstance(default, float):
            most = min(metadata["high"], 3 * abs(default) + 0.01)
            parts[path] = st.floats(max(metadata["low"], default / 3), most)
    return st.fixed_dictionaries(parts).map(unflat)


def unflat(by_path: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for path, value in by_path.items():
        *groups, name = path.split(".")
        inner = whole
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    return whole


def valid(section: str, given_: dict[str, Any]) -> Any:
    """Build the parameters; those that do not fit each other are not what is tested here."""
    try:
        return SECTIONS[section].override(given_)
    except ThetaError:
        reject()


def plain_values(row: dict[str, Any]) -> dict[str, Any]:
    seen = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    seen["reason_codes"] = list(seen["reason_codes"])
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in seen.items()}


@given(market=markets(), position=positions(), p=drawn("stops", eps=st.just(1e-8)))
@settings(max_examples=150, deadline=None)
def test_stops_agree_with_the_plain_formula(market, position, p):
    theta = valid("stops", p)
    seen = plain_values(row_of(stops(market, position, theta)))
    again = reference.stops(wire_row(market, position), p)
    told, _ = compare(seen, {name: value for name, value in again.items() if name != "reason_codes"})
    assert told == ""
    assert again["reason_codes"] == seen["reason_codes"]


@given(market=markets(), position=positions(), distance=st.floats(1e-4, 0.3) | st.just(math.nan), p=drawn("harvest"))
@settings(max_examples=150, deadline=None)
def test_harvests_agree_with_the_plain_formula(market, position, distance, p):
    theta = valid("harvest", p)
    result = harvest(market, position, np.array([distance]), theta)
    assume(np.abs(result.R_net[0] - np.array([p["T1_R"], p["T2_R"], p["T3_R"], p["lock_R"]])).min() > 1e-9)
    assume(abs(result.kill_score[0] - p["kill_threshold"]) > 1e-9)
    row = wire_row(market, position, stop_dist_pct=None if math.isnan(distance) else distance)
    assert compare(plain_values(row_of(result)), reference.harvest(row, p))[0] == ""


WINDOWS = st.lists(st.integers(2, 280), min_size=1, max_size=4)


@given(
    seed=st.integers(0, 2**16),
    p=drawn(
        "market_state",
        **{
            "eps": st.just(1e-12),
            "vol.window": st.integers(11, 280),
            "regime.window": st.integers(12, 280),
            "regime.vr_k": st.integers(1, 11),
            "vol.winsor_q_low": st.floats(0, 0.3),
            "vol.winsor_q_high": st.floats(0.6, 1),
            "trend.windows": WINDOWS,
            "vol.tail_df": st.floats(2.01, 30),
        },
    ),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_market_states_agree_with_the_plain_formula(seed, p, data):
    count = len(p["trend"]["windows"])
    p["trend"]["weights"] = data.draw(st.lists(st.floats(0.1, 1), min_size=count, max_size=count))
    theta = valid("market_state", p)
    closes = 100 * np.exp(np.cumsum(np.random.default_rng(seed).standard_t(4, 300) * 0.003))
    state = market_state(closes[None], theta=theta)
    assert theta.candles_required == reference.closes_used(p)
    seen = {name: float(getattr(state, name)[0]) for name in STATE_COLUMNS}
    seen["tail_move"] = None if np.isnan(state.tail_move[0]) else float(state.tail_move[0])
    again = reference.market_state(closes.tolist(), p)
    assert compare(seen, again, dict.fromkeys(seen, 1e-9))[0] == ""


@given(p=drawn("efficiency"))
@settings(max_examples=60, deadline=None)
def test_efficiencies_agree_with_the_plain_formula(p):
    result = efficiency(INPUTS, PNLS, STATE, valid("efficiency", p))
    for row in range(ROWS):
        seen = {name: values[row] for name, values in columns_of(result) if name != "next_state"}
        seen["inputs_ok"] = bool(seen["inputs_ok"])
        assert compare(seen, reference.efficiency(seen, p))[0] == ""


@given(score=st.floats(0, 1), p=drawn("allocation"), hint_p=drawn("permit_hint"))
@settings(max_examples=100, deadline=None)
def test_multipliers_and_hints_agree_with_the_plain_formula(score, p, hint_p):
    trusted = {"min_confidence": 0.0, "max_age_sec": 600.0}
    hint = parse_efficiency([{"efficiency_score": repr(score), "confidence": "0.9", "ts": "1000"}])
    target = allocation(hint, np.array([1.0]), 1000.0, valid("allocation", p | trusted))
    assert target.multiplier[0] == pytest.approx(reference.multiplier(score, p), rel=1e-12)
    found = permit_hint(hint, 1000.0, valid("permit_hint", hint_p | trusted))
    wanted = reference.permit_hint(score, hint_p)
    assert found.eff_factor[0] == pytest.approx(wanted["eff_factor"], rel=1e-12)
    assert (found.eff_action[0], found.extra_cooldown_sec[0]) == (wanted["eff_action"], wanted["extra_cooldown_sec"])


@given(
    equity=st.integers(0, 10_000), pnl=st.integers(-900, 900), age=st.integers(-10, 900), losses=st.integers(0, 9),
    p=drawn("risk_guard", daily_loss_max=st.integers(0, 90).map(lambda x: x / 1000), drawdown_max=st.integers(0, 300).map(lambda x: x / 1000)),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_guards_agree_with_the_plain_formula(equity, pnl, age, losses, p):
    account = Account(float(equity), 10_000.0, float(age), float(pnl), losses)
    found = assess(account, valid("risk_guard", p))
    row = {"equity": account.equity, "peak": 10_000.0, "daily_pnl": account.daily_pnl, "equity_age_sec": account.age_sec}
    row |= {"net_transfers": 0.0, "consecutive_losses": losses, "errors": list(found.unusable)}
    assert [one.guard for one in found.triggered] == reference.risk_guards(row, p)["triggered"]


def test_the_literals_of_the_plain_formulas_are_the_defaults_of_the_kernels() -> None:
    """Both are the specification's; a parameter that one of them lacks would never be compared."""
    sections = ("MARKET_STATE", "STOPS", "HARVEST", "EFFICIENCY", "ALLOCATION", "PERMIT_HINT", "RISK_GUARD")
    for name in sections:
        plain, theta = getattr(reference, name), SECTIONS[name.lower()]
        assert theta.override(reference.merged(plain, None)) == theta
