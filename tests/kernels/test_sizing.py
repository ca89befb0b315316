"""Position size: the vectors worked out by hand, a second implementation, bounds and monotony, and no term that could be left out."""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from quantum_assets.checks import reference
from quantum_core.kernels.columns import Market, Position
from quantum_core.kernels.market.market_state import market_state
from quantum_core.kernels.proposals import sizing as module
from quantum_core.kernels.proposals.sizing import SizeProposal, SizingInputs, SizingTheta, sizing
from quantum_core.kernels.proposals.stops import StopsTheta, stop_distance, stops
from tests.kernels.golden import FOLDER, cases

RTOL = 1e-12  # of every number; rounding is near 1e-16
MINUTES = 1440.0  # candles a day
OUTPUTS = ("size_usd", "size_qty", "leverage_max", "stop_dist_pct", "risk_usd")
PARAMETERS = tuple(field.name for field in fields(SizingTheta))
Kernel = Callable[..., SizeProposal]


def column(*values) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def market_of(case: dict) -> Market:
    return Market(*(column(case["market"].get(field.name)) for field in fields(Market)))


def inputs_of(case: dict) -> SizingInputs:
    inputs = {field.name: column(case.get(field.name)) for field in fields(SizingInputs)}
    if "stop_dist_pct" not in case:
        inputs["stop_dist_pct"] = stop_distance(market_of(case))
    return SizingInputs(**inputs)


def sized_cases() -> list[dict]:
    return [case for case in cases("sizing") if case["expected"] is not None]


def published(proposal: SizeProposal, at: int = 0) -> dict:
    """What one row says, as a consumer reads it."""
    numbers = {name: float(getattr(proposal, name)[at]) for name in OUTPUTS}
    return numbers | {"binding": proposal.binding[at], "reason_codes": list(proposal.reason_codes[at])}


def answer(case: dict, kernel: Kernel = sizing) -> dict:
    theta = SizingTheta().override(case.get("theta_override"))
    return published(kernel(market_of(case), inputs_of(case), theta, candles_per_day=case.get("candles_per_day", MINUTES)))


def same(one: dict, other: dict) -> bool:
    numbers = [math.isclose(one[name], other[name], rel_tol=RTOL, abs_tol=0) for name in OUTPUTS]
    return all(numbers) and all(one[name] == other[name] for name in ("binding", "reason_codes"))


# --- by hand ------------------------------------------------------------------------------------------------------------------


def by_hand() -> dict[str, list[tuple[str, str, float]]]:
    """Lines of the calculations, by case: name, expression, value."""
    sections = re.split(r"^## ", (FOLDER / "sizing.md").read_text(), flags=re.MULTILINE)[1:]
    line = re.compile(r"^    (\w+) = (.+) = (\S+)$", re.MULTILINE)
    return {
        section.partition("\n")[0]: [(name, text, float(value)) for name, text, value in line.findall(section)]
        for section in sections
    }


def test_every_case_was_worked_out_by_hand() -> None:
    """A vector that the kernel itself has written proves nothing."""
    assert [case["name"] for case in cases("sizing")] == list(by_hand())
    for case in sized_cases():
        values = {}
        for name, expression, value in by_hand()[case["name"]]:
            known = {"__builtins__": {}, "min": min, "max": max, "sqrt": math.sqrt, **values}
            assert eval(expression, known) == pytest.approx(value, rel=RTOL), (case["name"], name)  # noqa: S307 our own file
            values[name] = value
        assert {name: values[name] for name in OUTPUTS} == {name: case["expected"][name] for name in OUTPUTS}, case["name"]


@pytest.mark.parametrize("case", sized_cases(), ids=lambda case: case["name"])
def test_both_implementations_meet_the_calculation_by_hand(case) -> None:
    """To 1e-12 each: they cannot be wrong in the same way without the hand being wrong, too."""
    row = case["market"] | {"multiplier": None, "target_usd": None} | case
    row["stop_dist_pct"] = case["expected"]["stop_dist_pct"]
    overrides = case.get("theta_override")
    again = reference.position_size(row, candles_per_day=case.get("candles_per_day", MINUTES), parameters=overrides)
    assert same(again, case["expected"])
    assert same(answer(case), case["expected"])


@pytest.mark.parametrize("seed", range(5))
def test_a_second_implementation_agrees_on_random_rows(seed) -> None:
    """Every row by itself, and all of them in one call."""
    rng, n = np.random.default_rng(seed), 400
    p = rng.dirichlet(np.ones(3), n)
    market = Market(10 ** rng.uniform(-5, -1, n), 10 ** rng.uniform(-3, 1, n), *p.T.copy())
    multiplier, target = rng.uniform(0, 2, n), 10 ** rng.uniform(0, 6, n)
    multiplier[rng.random(n) < 0.3], target[rng.random(n) < 0.5] = math.nan, math.nan
    inputs = SizingInputs(
        10 ** rng.uniform(1, 7, n), 10 ** rng.uniform(-8, 6, n), 10 ** rng.uniform(-4, -0.5, n), multiplier, target
    )
    own = {name: float(getattr(SizingTheta(), name) * rng.uniform(0.3, 3)) for name in PARAMETERS if name != "leverage_cap"}
    candles = 86_400 / float(rng.choice([1, 60, 300, 3600, 86_400]))
    seen = set()
    for parameters in ({}, own):
        proposal = sizing(market, inputs, SizingTheta().override(parameters), candles_per_day=candles)
        for at in range(n):
            row = {field.name: float(getattr(part, field.name)[at]) for part in (market, inputs) for field in fields(part)}
            row = {name: None if math.isnan(value) else value for name, value in row.items()}
            again = reference.position_size(row, candles_per_day=candles, parameters=parameters)
            assert same(published(proposal, at), again), (row, published(proposal, at), again)
        seen |= set(proposal.binding)
    assert seen >= {"stop", "volatility", "target"}


# --- properties ---------------------------------------------------------------------------------------------------------------


money = st.floats(0, 9).map(lambda power: 10**power)
prices = st.floats(-12, 8).map(lambda power: 10**power)
multipliers = st.none() | st.just(0.0) | st.floats(1e-6, 3)  # below, a product may have fewer digits than others


@st.composite
def markets(draw) -> Market:
    p = np.array([draw(st.floats(0.01, 1)) for _ in range(3)])
    return Market(*(column(value) for value in (draw(st.floats(0, 0.2)), draw(st.floats(0, 20)), *(p / p.sum()))))


@st.composite
def inputs_drawn(draw) -> SizingInputs:
    numbers = (draw(money), draw(prices), draw(st.floats(1e-5, 0.5)))
    return SizingInputs(*(column(value) for value in (*numbers, draw(multipliers), draw(st.none() | money))))


@st.composite
def thetas(draw) -> SizingTheta:
    """Parameters that somebody may set, most of them not the default."""
    theta = SizingTheta()
    return theta.override({name: getattr(theta, name) * draw(st.sampled_from([1.0, 0.5, 2.0, 3.0])) for name in PARAMETERS})


drawn = {"market": markets(), "inputs": inputs_drawn(), "theta": thetas()}


@given(**drawn, more=st.floats(1, 1e3), candles=st.sampled_from([1.0, 24.0, MINUTES]))
@settings(max_examples=150)
def test_more_sigma_never_gives_more_size(market, inputs, theta, more, candles) -> None:
    """Whether the stop goes with sigma, as it does, or stays."""
    wilder = replace(market, sigma=market.sigma * more)
    calm = sizing(market, inputs, theta, candles_per_day=candles)
    assert sizing(wilder, inputs, theta, candles_per_day=candles).size_usd <= calm.size_usd
    near, far = (replace(inputs, stop_dist_pct=stop_distance(one)) for one in (market, wilder))
    calm = sizing(market, near, theta, candles_per_day=candles)
    assert sizing(wilder, far, theta, candles_per_day=candles).size_usd <= calm.size_usd


@given(**drawn, exponent=st.floats(-6, 6))
@settings(max_examples=100)
def test_a_size_does_not_depend_on_the_unit_of_price(market, inputs, theta, exponent) -> None:
    """Not by one bit: only the quantity knows the price."""
    factor = 10**exponent
    one = sizing(market, inputs, theta, candles_per_day=MINUTES)
    other = sizing(market, replace(inputs, price=inputs.price * factor), theta, candles_per_day=MINUTES)
    for name in ("size_usd", "leverage_max", "stop_dist_pct", "risk_usd", "binding"):
        assert_array_equal(getattr(other, name), getattr(one, name))
    assert other.reason_codes == one.reason_codes
    assert_allclose(other.size_qty * factor, one.size_qty, rtol=RTOL)


@given(seed=st.integers(0, 2**32), exponent=st.integers(-6, 6), level=prices)
@settings(max_examples=12)
def test_nor_does_one_that_rests_on_closes_in_another_unit(seed, exponent, level) -> None:
    """The whole way, from closes over sigma and stop distance."""
    closes = level * np.exp(np.cumsum(1e-3 * np.random.default_rng(seed).standard_t(4, 300)))
    state = market_state(np.stack([closes, closes * 10.0**exponent]))
    market = Market(*(getattr(state, field.name) for field in fields(Market)))
    prices_now = column(closes[-1], closes[-1] * 10.0**exponent)
    inputs = SizingInputs(column(1e4, 1e4), prices_now, stop_distance(market), column(None, None), column(None, None))
    one, other = sizing(market, inputs, candles_per_day=MINUTES).size_usd
    assert other == pytest.approx(one, rel=1e-9)  # sigma itself is exact to that, see test_scales


@given(**drawn, exponent=st.integers(-6, 6))
@settings(max_examples=60)
def test_a_size_does_not_depend_on_the_currency_of_the_account(market, inputs, theta, exponent) -> None:
    """Limits are shares of the equity. Powers of two, so that no rounding decides a tie."""
    factor = 8.0**exponent
    one = sizing(market, inputs, theta, candles_per_day=MINUTES)
    richer = replace(inputs, equity_usd=inputs.equity_usd * factor, target_usd=inputs.target_usd * factor)
    other = sizing(market, richer, theta, candles_per_day=MINUTES)
    for name in ("size_usd", "size_qty", "risk_usd"):
        assert_array_equal(getattr(other, name), getattr(one, name) * factor)
    assert other.reason_codes == one.reason_codes


@given(**drawn)
@example(  # numbers that overflow on the way
    market=Market(column(5e-324), column(1.7e308), column(1.0), column(0.0), column(0.0)),
    inputs=SizingInputs(column(1e30), column(1e-30), column(1e-30), column(1.7e308), column(None)),
    theta=SizingTheta(leverage_gain=1e300, leverage_base=1000.0, equity_cap=1000.0),
)
@example(  # nothing that moves, nothing that counts
    market=Market(column(0.0), column(0.0), column(0.0), column(0.0), column(0.0)),
    inputs=SizingInputs(column(1e-30), column(1e30), column(1e30), column(1.7e308), column(0.0)),
    theta=SizingTheta(risk_fraction=0.0, equity_cap=0.0, target_vol_daily=1e-12),
)
@settings(max_examples=150)
def test_size_and_leverage_stay_in_their_bounds(market, inputs, theta) -> None:
    """Never above equity x cap or the target, never below nothing, and always a number."""
    proposal = sizing(market, inputs, theta, candles_per_day=MINUTES)
    assert 0 <= proposal.size_usd <= inputs.equity_usd * theta.equity_cap
    assert not proposal.size_usd > inputs.target_usd
    assert 1 <= proposal.leverage_max <= theta.leverage_cap
    assert all(np.isfinite(getattr(proposal, name)).all() for name in OUTPUTS)
    assert ("size_zero" in proposal.reason_codes[0]) == (proposal.size_usd == 0)


@given(**drawn, distance=st.floats(1e-5, 0.5), multiplier=st.floats(0, 1))
@settings(max_examples=60)
def test_what_is_lost_at_the_stop_is_at_most_the_risk(market, inputs, theta, distance, multiplier) -> None:
    """As long as neither weights nor multiplier enlarge the size."""
    plain = theta.override({name: min(getattr(theta, name), 1.0) for name in ("w_trend", "w_mr", "w_chop")})
    inputs = replace(inputs, stop_dist_pct=column(distance), multiplier=column(multiplier))
    proposal = sizing(market, inputs, plain, candles_per_day=MINUTES)
    assert proposal.size_usd * distance <= proposal.risk_usd * (1 + RTOL)


@pytest.mark.parametrize("field", ["multiplier", "equity_usd", "target_usd"])
@given(**drawn, more=st.floats(1, 100))
@settings(max_examples=30)
def test_more_of_what_allows_size_never_gives_less(field, market, inputs, theta, more) -> None:
    """A richer account, a better efficiency, a larger target."""
    larger = replace(inputs, **{field: getattr(inputs, field) * more})
    small, large = (sizing(market, one, theta, candles_per_day=MINUTES) for one in (inputs, larger))
    assert large.size_usd >= small.size_usd


# --- parameters ---------------------------------------------------------------------------------------------------------------


def test_a_parameter_may_be_a_column_of_one_value_per_row() -> None:
    """Symbols with parameters of their own are still one call; each row is what it would be alone."""
    rows = sized_cases()
    market = Market(*(np.concatenate(parts) for parts in zip(*(vars(market_of(case)).values() for case in rows), strict=True)))
    columns = zip(*(vars(inputs_of(case)).values() for case in rows), strict=True)
    inputs = SizingInputs(*(np.concatenate(parts) for parts in columns))
    each = [SizingTheta().override(case.get("theta_override")) for case in rows]
    theta = SizingTheta()
    for name in PARAMETERS:
        object.__setattr__(theta, name, column(*(getattr(one, name) for one in each)))
    together = sizing(market, inputs, theta, candles_per_day=MINUTES)
    for at, one in enumerate(each):
        row = np.array([at])
        alone = sizing(market.take(row), inputs.take(row), one, candles_per_day=MINUTES)
        assert published(together, at) == published(alone)


def test_the_stop_distance_is_that_of_the_stops_kernel() -> None:
    """To the bit, with parameters of one's own, too: what is sized for is what will be proposed."""
    rng, n = np.random.default_rng(7), 200
    market = Market(10 ** rng.uniform(-5, -1, n), rng.uniform(0, 2, n), *rng.dirichlet(np.ones(3), n).T.copy())
    price = 10 ** rng.uniform(-8, 5, n)
    position = Position(rng.random(n) < 0.5, *(price for _ in range(4)), np.zeros(n), np.zeros(n), *np.full((2, n), math.nan))
    for theta in (StopsTheta(), StopsTheta().override({"sl_min_pct": 0.001, "k_sl": {"trend": 9, "mr": 5, "chop": 7}})):
        assert_array_equal(stop_distance(market, theta), stops(market, position, theta).stop_dist_pct)
    assert_array_equal(stop_distance(market), stops(market, position).stop_dist_pct)


# --- wrong input --------------------------------------------------------------------------------------------------------------

SOUND = sized_cases()[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"equity_usd": None}, "inputs row 0: equity_usd is nan"),
        ({"equity_usd": 0.0}, "inputs row 0: equity_usd is 0.0"),
        ({"equity_usd": -5.0}, "inputs row 0: equity_usd is -5.0"),
        ({"price": None}, "price is nan"),
        ({"stop_dist_pct": 0.0}, "stop_dist_pct is 0.0"),
        ({"stop_dist_pct": None}, "stop_dist_pct is nan"),
        ({"multiplier": -0.1}, "multiplier is -0.1"),
        ({"target_usd": math.inf}, "target_usd is inf"),
        ({"market": SOUND["market"] | {"sigma": math.nan}}, "market row 0: sigma is nan"),
        ({"market": SOUND["market"] | {"p_trend": 1.1}}, "market row 0: p_trend is 1.1"),
        ({"candles_per_day": 0.0}, "candles_per_day is 0.0"),
        ({"candles_per_day": math.nan}, "candles_per_day is nan"),
        ({"theta_override": {"risk_fraction": 5}}, "theta risk_fraction is 5"),
        ({"theta_override": {"leverage_cap": 0.5}}, "theta leverage_cap is 0.5"),
        ({"theta_override": {"w_flat": 1}}, "theta w_flat is 1"),
    ],
)
def test_wrong_input_is_named(changes, message) -> None:
    """Without an equity there is no size; that a row has none is the caller's to know."""
    with pytest.raises(ValueError, match=re.escape(message)):
        answer(SOUND | changes)


def test_rows_must_belong_together() -> None:
    """A market of two symbols and an account of one would be sized with each other's numbers."""
    with pytest.raises(ValueError, match="unequal numbers of rows"):
        sizing(market_of(SOUND).take(np.array([0, 0])), inputs_of(SOUND), candles_per_day=MINUTES)


# --- no term can be left out --------------------------------------------------------------------------------------------------


def caught_by(kernel: Kernel) -> list[str]:
    """Name the cases whose answer is no longer what was worked out by hand."""
    with np.errstate(all="ignore"):
        return [case["name"] for case in sized_cases() if not same(answer(case, kernel), case["expected"])]


def rewritten(old: str, new: str) -> Kernel:
    """Build the kernel with one place of its text replaced."""
    text = inspect.getsource(sizing)
    assert text.count(old) == 1, old
    names = dict(vars(module))
    exec(compile(text.replace(old, new), "mutated", "exec"), names)  # noqa: S102 the kernel's own text
    return names["sizing"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" * theta.risk_fraction", ""),
        (" / inputs.stop_dist_pct", ""),
        ("/ inputs.stop_dist_pct", "* inputs.stop_dist_pct"),
        (" * theta.target_vol_daily", ""),
        ("(market.sigma * np", "(np"),
        ("np.sqrt(candles_per_day)", "candles_per_day"),
        (" * np.sqrt(candles_per_day)", ""),
        ("np.minimum(by_stop, by_volatility)", "np.maximum(by_stop, by_volatility)"),
        ("np.minimum(by_stop, by_volatility)", "by_stop"),
        ("np.minimum(by_stop, by_volatility)", "by_volatility"),
        ("np.minimum(by_stop, by_volatility)", "risk_usd"),
        (" * weight", ""),
        ("theta.w_trend", "0.0"),
        ("theta.w_trend", "theta.w_mr"),
        ("theta.w_mr", "0.0"),
        ("theta.w_mr", "theta.w_chop"),
        ("theta.w_chop", "0.0"),
        ("theta.w_chop", "theta.w_trend"),
        (" * np.where(has_multiplier, inputs.multiplier, 1.0)", ""),
        ("inputs.multiplier, 1.0", "inputs.multiplier, 0.0"),
        (" * theta.equity_cap", ""),
        ("np.where(over_cap, by_cap, scaled)", "scaled"),
        ("scaled > by_cap", "scaled < by_cap"),
        ("np.where(over_target, inputs.target_usd, capped)", "capped"),
        ("inputs.target_usd < capped", "inputs.target_usd > capped"),
        ("inputs.target_usd < capped", "inputs.target_usd < scaled"),
        ("theta.leverage_base * ", ""),
        ("1 + theta.leverage_gain", "theta.leverage_gain"),
        ("theta.leverage_gain * (", "("),
        ("market.ts * market.p_trend", "market.p_trend"),
        ("market.ts * market.p_trend", "market.ts"),
        ("market.ts * market.p_trend", "market.ts + market.p_trend"),
        ("np.clip(leverage, 1.0, theta.leverage_cap)", "np.maximum(leverage, 1.0)"),
        ("np.clip(leverage, 1.0, theta.leverage_cap)", "np.minimum(leverage, theta.leverage_cap)"),
        ("size_usd / inputs.price", "size_usd * inputs.price"),
        ("size_usd / inputs.price", "scaled / inputs.price"),
        ("risk_usd=risk_usd", "risk_usd=size_usd * inputs.stop_dist_pct"),
        ("by_volatility < by_stop", "by_volatility <= by_stop"),
        ("by_volatility < by_stop", "by_volatility > by_stop"),
        ('np.where(over_cap, "equity_cap", by_risk)', "by_risk"),
        (
            'np.where(over_target, "target", np.where(over_cap, "equity_cap", by_risk))',
            'np.where(over_cap, "equity_cap", by_risk)',
        ),
        ("(~has_multiplier,", "(has_multiplier,"),
        ("(leverage > theta.leverage_cap,", "(leverage < theta.leverage_cap,"),
        ("(size_usd == 0,", "(size_usd != 0,"),
        ('"bound_" + binding', '"bound_" + by_risk.astype(object)'),
        (
            "most_probable(market.p_trend, market.p_mr, market.p_chop)",
            "most_probable(market.p_chop, market.p_mr, market.p_trend)",
        ),
    ],
)
def test_a_formula_with_another_term_is_caught(old, new) -> None:
    """Vectors that a wrong formula meets as well would prove nothing."""
    assert caught_by(rewritten(old, new)) != []


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_with_another_value_is_caught(name) -> None:
    """One per cent off: each default, and each parameter's place in the formula."""

    def off(market: Market, inputs: SizingInputs, theta: SizingTheta, *, candles_per_day: float) -> SizeProposal:
        return sizing(market, inputs, replace(theta, **{name: getattr(theta, name) * 1.01}), candles_per_day=candles_per_day)

    assert caught_by(off) != []


READ = [field.name for part in (Market, SizingInputs) for field in fields(part) if field.name != "tail_move"]  # it makes the stop


@pytest.mark.parametrize("name", [*READ, "candles_per_day"])
def test_an_input_with_another_value_is_caught(name) -> None:
    """No input is read and then not used."""

    def off(market: Market, inputs: SizingInputs, theta: SizingTheta, *, candles_per_day: float) -> SizeProposal:
        parts = [
            replace(part, **{name: getattr(part, name) * 0.99}) if hasattr(part, name) else part for part in (market, inputs)
        ]
        return sizing(*parts, theta, candles_per_day=candles_per_day * (0.99 if name == "candles_per_day" else 1.0))

    assert caught_by(off) != []


def test_the_formula_as_it_is_is_not_caught() -> None:
    """Or the tests above would be green for any vectors."""
    assert caught_by(sizing) == []
    assert caught_by(rewritten("by_stop = ", "by_stop = 1.0 * ")) == []
