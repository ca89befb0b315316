"""The unit of price decides nothing: a coin at 1e-12 and one at 1e12 get the same regime, distances, R, reasons and action."""

import math
import os
from dataclasses import astuple, fields, replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from quantum_assets.checks import reference
from quantum_assets.checks.common import PRICES, compare
from quantum_core.contracts.schema import logged_price
from quantum_core.contracts.tables import HARVEST_PROPOSAL, POSITION, RISK_PROPOSAL
from quantum_core.display import price_text, prices_text
from quantum_core.kernels import NUMBER_MAX, NUMBER_MIN
from quantum_core.kernels.capital.efficiency import EfficiencyInputs, EfficiencyState, efficiency
from quantum_core.kernels.columns import Market, Position
from quantum_core.kernels.governor.risk_guard import Account, assess
from quantum_core.kernels.market.market_state import STATE_COLUMNS, market_state
from quantum_core.kernels.position.tracking import Tracked, TrackingTheta, track
from quantum_core.kernels.proposals.harvest import HarvestProposal, HarvestTheta, harvest
from quantum_core.kernels.proposals.intent import Proposals, intents
from quantum_core.kernels.proposals.stops import StopProposal, stops
from tests.kernels.test_tracking import NOW, Snapshot, bars

EXAMPLES = int(os.environ.get("SCALE_EXAMPLES", "0"))  # more than the fast suite has time for
RTOL = 1e-9  # of everything; rounding is near 1e-13
COLLAR = TrackingTheta(collar_pct=0.10001234567)  # no round number is drawn at it: there the last bit decides
exponents = st.integers(-12, 12)
shares, signed = st.floats(0, 1), st.floats(-0.2, 0.2)
levels = st.floats(-8, 5.3).map(lambda power: 10**power)


def examples(count: int):
    return settings(max_examples=EXAMPLES or count)


def row_of(columns, at: int = 0) -> dict:
    return {field.name: getattr(columns, field.name)[at] for field in fields(columns)}


@st.composite
def markets(draw) -> Market:
    p = np.array([draw(st.floats(0.01, 1)) for _ in range(3)])
    sigma, ts = draw(st.floats(1e-6, 0.1)), draw(st.floats(0, 2))
    tail_move = draw(st.just(math.nan) | st.floats(0, 0.3))
    return Market(*(np.array([value]) for value in (sigma, ts, *(p / p.sum()), tail_move)))


@st.composite
def positions(draw) -> Position:
    price, is_long, entry = draw(levels), draw(st.booleans()), 1 + draw(signed)
    qty = draw(st.none() | st.floats(1e-3, 1e9))
    pnl = (1 - entry) * price * (1 if is_long else -1) * (qty or 1.0)
    numbers = {
        "entry_price": entry * price,
        "current_price": price,
        "peak_price": price * (1 + draw(st.just(0.0) | st.floats(1e-6, 0.2))),
        "trough_price": price * (1 - draw(st.just(0.0) | st.floats(1e-6, 0.2))),
        "age_sec": draw(st.floats(0, 2e5)),
        "unrealized_pnl": pnl,
        "current_sl": math.nan if draw(st.booleans()) else price * (1 + draw(signed)),
        "qty": math.nan if qty is None else qty,
    }
    return Position(np.array([is_long]), *(np.array([value]) for value in numbers.values()))


def scaled(position: Position, factor: float) -> Position:
    """The same position in another unit of price: sizes the other way, so that money stays."""
    sized = np.isfinite(position.qty)
    return replace(
        position,
        **{
            name: getattr(position, name) * factor
            for name in ("entry_price", "current_price", "peak_price", "trough_price", "current_sl")
        },
        qty=position.qty / factor,
        unrealized_pnl=np.where(sized, position.unrealized_pnl, position.unrealized_pnl * factor),
    )


def wire_row(market: Market, position: Position, **more) -> dict:
    """What a proposal repeats of its inputs, as the second implementation reads it."""
    rest = {name: None if math.isnan(value) else float(value) for name, value in row_of(position).items() if name != "is_long"}
    side = {"position_side": "LONG" if position.is_long[0] else "SHORT"}
    tail_move = None if math.isnan(market.tail_move[0]) else float(market.tail_move[0])
    return row_of(market) | {"tail_move": tail_move} | side | {f"position_{name}": value for name, value in rest.items()} | more


# --- market state -----------------------------------------------------------------------------------------------------------


KINDS = ("walk", "ticks", "flat", "reverting", "jump")
markets_drawn = {
    "kind": st.sampled_from(KINDS),
    "seed": st.integers(0, 2**32),
    "power": st.floats(-3.8, -1),  # of a return; below, the rounding of a logarithm is more than 1e-9 of it
    "level": levels,
}


def closes(kind: str, seed: int, power: float, level: float) -> np.ndarray:
    """Walks, markets on a coarse tick grid, flat stretches, reversion and jumps."""
    rng, size = np.random.default_rng(seed), 10**power
    steps = size * rng.standard_t(4, 300)
    if kind == "flat":
        steps[rng.random(300) < 0.6] = 0
    if kind == "jump":
        steps[rng.integers(0, 300)] = rng.choice([-0.9, 0.9])
    path = np.exp(np.clip(steps if kind == "reverting" else np.cumsum(steps), -3, 3))
    if kind == "ticks":
        path = np.maximum(np.round(path / size), 1) * size
    return level * path


@given(exponent=exponents, **markets_drawn)
@examples(12)
def test_a_market_state_does_not_depend_on_the_unit_of_price(kind, seed, power, level, exponent):
    """Sigma bent by 49 % at 1e-12, and with it every stop and every kill score."""
    prices = closes(kind, seed, power, level)
    both = market_state(np.stack([prices, prices * 10.0**exponent]))
    one, other = (np.array([getattr(both, name)[row] for name in STATE_COLUMNS]) for row in (0, 1))
    # mu is what is left of slopes that cancel: it is exact to its noise, sigma; p and vr follow.
    whole = np.abs(one) + np.array([0, one[0], *np.ones(len(one) - 2)])
    assert np.all(np.abs(other - one) <= RTOL * whole), (one, other)
    assert both.regime[0] == both.regime[1] or min(np.diff(np.sort(one[3:6]))) < RTOL
    again = reference.market_state((prices * 10.0**exponent).tolist())
    seen = {name: float(value) for name, value in zip(STATE_COLUMNS, other, strict=True)} | {"tail_move": None}
    assert compare(seen, again, dict.fromkeys(STATE_COLUMNS, RTOL * seen["sigma"]))[0] == ""


@given(at=st.floats(1.0, 1e6), **markets_drawn)
@examples(10)
def test_prices_of_one_and_more_are_computed_to_the_bit_as_before(kind, seed, power, level, at):
    """The published vectors are such prices: eps is added to them as it always was."""
    prices = closes(kind, seed, power, level)
    dear = prices / prices.min() * at
    with_share = market_state(dear[None])
    assert_array_equal(dear + 1e-12 * np.minimum(1.0, dear), dear + 1e-12)
    assert with_share.reason == (None,)


# --- stops, harvest, intents --------------------------------------------------------------------------------------------------


def stops_are(one: StopProposal, other: StopProposal, factor: float, rtol: float = RTOL) -> None:
    for name in ("proposed_sl", "proposed_tp"):
        assert_allclose(getattr(other, name), getattr(one, name) * factor, rtol=rtol)
    for name in ("stop_dist_pct", "tp_dist_pct", "trail_gap_pct", "tp_extension_factor", "sl_breached"):
        assert_array_equal(getattr(other, name), getattr(one, name))
    assert other.reason_codes == one.reason_codes


def told_apart(market: Market, position: Position) -> bool:
    """Whether no two stops lie within 1e-8 of a price of 1 of each other, which is another share of every price."""
    free = stops(market, replace(position, current_sl=np.array([math.nan])))
    raw = position.current_price * (1 - position.direction * free.stop_dist_pct)
    extreme = np.where(position.is_long, position.peak_price, position.trough_price)
    trailing = extreme * (1 - position.direction * free.trail_gap_pct)
    gaps = np.abs([position.current_sl / free.proposed_sl - 1, trailing / raw - 1])
    return not np.any((gaps > 1e-14) & (gaps < 1e-7) & (gaps * position.current_price < 1e-7))


@given(market=markets(), position=positions(), exponent=exponents)
@examples(60)
def test_a_stop_does_not_depend_on_the_unit_of_price(market, position, exponent):
    """Stops loosened by 1 to 2.4 % at 4e-7: a tolerance of 1e-8 was a fortieth of the price."""
    factor = 10.0**exponent
    assume(told_apart(market, position) and told_apart(market, scaled(position, factor)))
    other = stops(market, scaled(position, factor))
    stops_are(stops(market, position), other, factor)
    again = reference.stops(wire_row(market, scaled(position, factor)))
    published = {name: value if name != "reason_codes" else list(value) for name, value in row_of(other).items()}
    published |= {"sl_breached": bool(other.sl_breached[0])}
    told, _ = compare({name: v.item() if isinstance(v, np.generic) else v for name, v in published.items()}, again)
    assert told == ""


@given(market=markets(), position=positions(), exponent=st.integers(-40, 0))
@examples(30)
def test_below_one_a_stop_is_the_same_to_the_bit_in_units_of_powers_of_two(market, position, exponent):
    """Nothing but the unit changes there: not the tolerance as a share, not one rounding."""
    cheap = scaled(position, 2.0 ** -math.ceil(math.log2(position.current_price[0]) + 1))
    stops_are(stops(market, cheap), stops(market, scaled(cheap, 2.0**exponent)), 2.0**exponent, rtol=0)
    stop = np.array([0.01])
    harvests_are(harvest(market, cheap, stop), harvest(market, scaled(cheap, 2.0**exponent), stop), 2.0**exponent, rtol=0)


@given(market=markets(), position=positions(), exponent=exponents, gap=st.floats(1.0001e-8, 0.05))
@examples(40)
def test_a_stop_in_force_is_not_loosened_at_any_price(market, position, exponent, gap):
    """By no more than 1e-8 of the price, at 1e-12 as at 1."""
    position = scaled(position, 10.0**exponent)
    position = replace(position, current_sl=position.current_price * (1 - position.direction * gap))
    proposal = stops(market, position)
    loosened = position.direction * (position.current_sl - proposal.proposed_sl) / position.current_price
    assert loosened[0] <= 1e-8


@pytest.mark.parametrize("price", [1e-12, 4.1e-7, 1.0, 105.0, 97_000.0, 1e9, 1e17])
@pytest.mark.parametrize("is_long", [True, False])
def test_a_stop_that_has_not_moved_says_so_at_any_price(price, is_long):
    """The stop in force comes back as a number of another unit: its last bit is no news."""
    one = Position(
        np.array([is_long]), *(np.array([value]) for value in (price, price, price, price, 60.0, 0.0, math.nan, math.nan))
    )
    market = Market(*(np.array([value]) for value in (0.01, 0.2, 0.2, 0.3, 0.5)))
    free = stops(market, one)
    for nudge in (1 - 4e-16, 1.0, 1 + 4e-16):
        again = stops(market, replace(one, current_sl=free.proposed_sl * nudge))
        assert "sl_tightening" not in again.reason_codes[0]
        assert "sl_tightened_monotonic" not in again.reason_codes[0]


def harvests_are(one: HarvestProposal, other: HarvestProposal, factor: float, rtol: float = RTOL) -> None:
    for name in ("new_sl_proposed", "risk_unit", "cost_est"):
        assert_allclose(getattr(other, name), getattr(one, name) * factor, rtol=rtol)
    assert_allclose(other.R_net, one.R_net, rtol=rtol, atol=rtol)
    for name in ("harvest_action", "kill_score", "k_regime_flip", "k_sigma_spike", "k_ts_drop", "k_age_penalty", "fallback_used"):
        assert_array_equal(getattr(other, name), getattr(one, name))
    assert other.reason_codes == one.reason_codes


@given(
    market=markets(),
    position=positions(),
    distance=st.floats(1e-4, 0.3) | st.sampled_from([0.0, math.nan]),
    exponent=exponents,
    mode=st.sampled_from(["be_plus", "lock_r"]),
)
@examples(60)
def test_r_and_action_do_not_depend_on_the_unit_of_price(market, position, distance, exponent, mode):
    """R was wrong 20 to 180 times at 1e-8: the smallest unit of risk was a multiple of the price."""
    factor, stop, theta = 10.0**exponent, np.array([distance]), HarvestTheta(lock_mode=mode)
    one, other = harvest(market, position, stop, theta), harvest(market, scaled(position, factor), stop, theta)
    assume(np.abs(one.R_net - np.array([1.5, 2, 4, 6])).min() > RTOL)
    lock = harvest(market, replace(position, current_sl=np.array([math.nan])), stop, theta).new_sl_proposed
    assume(not np.abs(position.current_sl / lock - 1) < RTOL)
    harvests_are(one, other, factor)
    if mode == "be_plus":
        row = wire_row(market, scaled(position, factor), stop_dist_pct=None if math.isnan(distance) else distance)
        again = reference.harvest(row, {"lock_mode": mode})
        seen = row_of(other) | {"reason_codes": list(other.reason_codes[0])}
        seen = {name: value.item() if isinstance(value, np.generic) else value for name, value in seen.items()}
        seen["new_sl_proposed"] = None if math.isnan(seen["new_sl_proposed"]) else seen["new_sl_proposed"]
        assert compare(seen, again)[0] == ""


@pytest.mark.parametrize("price", [1e-30, 1e-12, 1e-3, 1.0, 1e12, 1e30])
def test_without_any_distance_r_stays_finite_at_every_price(price):
    """A vanishing stop distance has a floor that is a share of the price, so that R is the same for all."""
    one = Position(
        np.array([True]), *(np.array([v]) for v in (price, price, price, price, 60.0, 0.01 * price, math.nan, math.nan))
    )
    market = Market(*(np.array([value]) for value in (0.01, 0.2, 0.5, 0.2, 0.3)))
    result = harvest(market, one, np.array([1e-300]))
    assert_allclose(result.risk_unit, 1e-9 * min(1.0, price) if price < 1 else 1e-9, rtol=RTOL)
    assert np.isfinite(result.R_net[0])


def test_a_stop_distance_of_zero_is_none():
    """A proposal that says 0 says nothing: with it one R would be nothing, and every profit a reason to sell."""
    position = Position(
        np.array([True] * 3), *(np.full(3, v) for v in (100.0, 103.0, 103.0, 98.0, 60.0, 3.0, math.nan, math.nan))
    )
    market = Market(*(np.full(3, value) for value in (0.01, 0.2, 0.5, 0.2, 0.3)))
    result = harvest(market, position, np.array([0.0, math.nan, 0.02]))
    assert result.fallback_used.tolist() == [True, True, False]
    assert_allclose(result.R_net, 1.45, rtol=1e-12)


@given(
    action=st.sampled_from(["NONE", "PARTIAL_25", "FULL_CLOSE_PROPOSED"]),
    breached=st.booleans(),
    sl=levels,
    lock=st.none() | levels,
    exponent=exponents,
)
@examples(30)
def test_an_intent_does_not_depend_on_the_unit_of_price(action, breached, sl, lock, exponent):
    """What is asked for is decided without a look at the price."""

    def of(factor: float):
        numbers = (0.7, math.nan if lock is None else lock * factor, sl * factor)
        return intents(Proposals(np.array([action], object), np.array([breached]), *(np.array([one]) for one in numbers)))

    one, other = of(1.0), of(10.0**exponent)
    assert (one.due, one.plan_action) == (other.due, other.plan_action)
    assert_allclose(other.stop_loss, one.stop_loss * 10.0**exponent, rtol=RTOL)


# --- tracking -----------------------------------------------------------------------------------------------------------------


@given(
    level=levels,
    moves=st.lists(st.tuples(st.floats(-0.3, 0.3), st.floats(0, 0.05), st.floats(0, 0.05), signed), min_size=1, max_size=12),
    exponent=exponents,
    side=st.sampled_from(["LONG", "SHORT"]),
    stop=st.none() | signed,
)
@example(
    level=1.0, moves=[(0.0, 0.0, 0.0, 0.0), (0.3, 0.0, 0.0, 0.3), (0.0, 0.0, 0.0, 0.3)], exponent=-12, side="LONG", stop=None
)
@examples(40)
def test_what_is_kept_of_a_position_does_not_depend_on_the_unit_of_price(level, moves, exponent, side, stop):
    """Peak, trough, collar and ratchet go by shares of the price."""

    def walk(factor: float) -> list[Tracked]:
        kept, made, price, rows = None, [], level, []
        for step, up, down, mark in moves:
            price *= 1 + step
            rows.append((price * (1 + up) * factor, price * (1 - down) * factor, price * factor))
            snapshot = Snapshot(
                side=side,
                entry_price=level * factor,
                current_price=price * (1 + mark) * factor,
                qty=2.0 / factor,
                current_sl=None if stop is None else level * (1 + stop) * factor,
            )
            kept = track(kept, snapshot, bars(*rows), last_proposed_sl=None, now=NOW, theta=COLLAR)
            made.append(kept)
        return made

    priced = (
        *("entry_price", "current_price", "peak_price", "trough_price", "current_sl", "last_close", "collared_price"),
        "mark_price",
    )
    for one, other in zip(walk(1.0), walk(10.0**exponent), strict=True):
        for name, value in one.row().items():
            expected = value * 10.0**exponent if name in priced and value is not None else value
            if name in ("qty", "contracts") and value is not None:
                expected = value / 10.0**exponent
            if isinstance(expected, float):
                assert other.row()[name] == pytest.approx(expected, rel=RTOL, abs=1e-8 if name == "unrealized_pnl" else 0)
            else:
                assert other.row()[name] == expected, name


# --- money: another currency, another unit ------------------------------------------------------------------------------------


@given(
    equity=st.floats(1e3, 1e6),
    drawdown=st.floats(-0.05, 0.3),
    pnl=st.floats(-0.1, 0.1),
    losses=st.integers(0, 5),
    exponent=st.integers(-9, 9),
)
@examples(30)
def test_a_guard_does_not_depend_on_the_currency_of_the_account(equity, drawdown, pnl, losses, exponent):
    """Limits are shares of the account."""
    assume(all(abs(drawdown - limit) > 1e-9 for limit in (0.08, 0.10, 0.0)) and abs(abs(pnl) - 0.025) > 1e-9)
    found = []
    for factor in (1.0, 10.0**exponent):
        account = Account(equity * factor, equity / (1 - drawdown) * factor, 10.0, pnl * equity * factor, losses)
        result = assess(account)
        row = {"equity": account.equity, "peak": account.peak, "daily_pnl": account.daily_pnl, "equity_age_sec": 10.0}
        row["net_transfers"] = account.net_transfers
        again = reference.risk_guards(row | {"consecutive_losses": losses, "errors": list(result.unusable)})
        assert [one.guard for one in result.triggered] == again["triggered"]
        found.append([one.guard for one in result.triggered])
        found[-1] += list(result.unusable)
        assert_allclose([result.drawdown, result.daily_loss], [max(drawdown, 0), max(-pnl, 0)], rtol=1e-7, atol=1e-12)
    assert found[0] == found[1]


@given(target=st.floats(1, 1e6), perf=st.floats(-1, 1), pnls=st.lists(signed, max_size=5), exponent=st.integers(0, 12))
@examples(30)
def test_an_efficiency_does_not_depend_on_the_currency_of_its_target(target, perf, pnls, exponent):
    """Profits are judged as shares of the target (of at least 1, as the specification has it)."""

    def of(factor: float):
        ok = np.array(["ok"], dtype=object)
        columns = (ok, *(np.array([one]) for one in (perf, 0.8)), ok, *(np.array([one]) for one in (target * factor, 0.8, 60.0)))
        return efficiency(EfficiencyInputs(*columns), [[one * target * factor for one in pnls]], EfficiencyState.initial(1))

    one, other = of(1.0), of(10.0**exponent)
    for name in ("efficiency_score", "efficiency_ewma", "reallocation_weight", "confidence"):
        assert_allclose(getattr(other, name), getattr(one, name), rtol=RTOL, atol=1e-12)
    assert_array_equal(other.capital_pressure, one.capital_pressure)


# --- proofs, the wire, and what people read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [1e-20, 1e-12, 4e-7, 1.0, 97_000.0, 1e17])
@pytest.mark.parametrize(
    "name", ["proposed_sl", "proposed_tp", "risk_unit", "cost_est", "new_sl_proposed", "stop_loss", "take_profit"]
)
def test_a_proof_sees_a_price_that_is_off_at_any_price(name, price):
    """A tolerance of 1e-12 let every price below pass: the proof judged nothing."""
    assert name in PRICES
    assert compare({name: price * (1 + 1e-6)}, {name: price})[0]
    assert compare({name: price * (1 + 1e-13)}, {name: price}) == ("", pytest.approx(1e-13, rel=0.1))


@given(st.floats(NUMBER_MIN, NUMBER_MAX) | exponents.map(lambda power: 10.0**power))
@example(NUMBER_MIN)
@example(NUMBER_MAX)
@examples(100)
def test_every_price_that_is_read_can_be_written_and_comes_back(price):
    """So do its shares: one R is half a per cent of it, and a stop may rest at a thousandth."""
    for table, names in (
        (POSITION, ("entry_price", "current_price", "peak_price", "current_sl", "last_close", "qty")),
        (RISK_PROPOSAL, ("proposed_sl", "proposed_tp", "position_current_price")),
        (HARVEST_PROPOSAL, ("risk_unit", "cost_est", "new_sl_proposed", "position_qty")),
    ):
        for name in names:
            codec = table.by_name[name].codec
            for value in (price, price * 1e-3, price * 1e3):
                assert codec.decode(codec.encode(value)) == value


@given(st.floats(-24, 24).map(lambda power: 10**power))
@example(106.08471)
@example(4.0795e-07)
@examples(100)
def test_a_price_that_people_read_has_its_significant_digits(price):
    """Logs read ``SL=$0.0000``, and nobody could see that a stop had moved."""
    for text in (price_text(price), *prices_text(price, price * 1.01, None)[:1], logged_price(price)):
        assert "e" not in text
        assert float(text.replace(",", "")) == pytest.approx(price, rel=1e-5)
    assert len(logged_price(price).partition(".")[2]) >= 4


def test_operators_still_find_what_they_grep_for():
    """The line of the specification, to the letter."""
    row = {"symbol": "BTCUSDT", "proposed_sl": 106.08471, "proposed_tp": 106.1004, "reason_codes": ["trail_active"]}
    assert RISK_PROPOSAL.headline_of(row) == "proposal for BTCUSDT: SL=$106.0847 TP=$106.1004 reasons=trail_active"
    cheap = RISK_PROPOSAL.headline_of(row | {"proposed_sl": 4.0795e-7, "proposed_tp": 4.2e-7})
    assert "SL=$0.000000407950 TP=$0.000000420000" in cheap


def test_the_tracked_fields_are_all_compared():
    """A new price among them must be scaled in the property test, or it fails there."""
    assert len(astuple(Tracked(*range(len(fields(Tracked)))))) == 26
