"""Stops, harvest, efficiency, allocation and permit hints: bounds, monotony and named trouble."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from quantum_core.kernels.capital.allocation import AllocationTheta, allocation
from quantum_core.kernels.capital.efficiency import EfficiencyInputs, EfficiencyState, efficiency
from quantum_core.kernels.capital.efficiency_hint import Unreadable, parse_efficiency
from quantum_core.kernels.columns import Market, Position
from quantum_core.kernels.governor.permit_hint import permit_hint
from quantum_core.kernels.proposals.harvest import HarvestTheta, harvest
from quantum_core.kernels.proposals.stops import StopsTheta, stops

ACTIONS = ["NONE", "PARTIAL_25", "PARTIAL_50", "PARTIAL_75"]
prices = st.floats(0.01, 1e5)


def column(*values):
    return np.array(values, dtype=np.float64)


def market(n=1, sigma=0.005, ts=0.3, p_trend=0.5, p_mr=0.2, p_chop=0.3):
    return Market(*(np.full(n, value) for value in (sigma, ts, p_trend, p_mr, p_chop)))


def position(n=1, *, is_long=True, **changes):
    values = {
        "entry_price": 100.0,
        "current_price": 103.0,
        "peak_price": 104.0,
        "trough_price": 99.0,
        "age_sec": 60.0,
        "unrealized_pnl": 3.0,
        "current_sl": np.nan,
        "qty": np.nan,
    } | changes
    return Position(np.full(n, is_long), *(np.broadcast_to(np.asarray(v, float), n) for v in values.values()))


@given(is_long=st.booleans(), current=prices, peak=prices, current_sl=prices, sigma=st.floats(0, 0.2))
def test_a_stop_in_force_is_never_loosened(is_long, current, peak, current_sl, sigma):
    """A stop that gives way is no stop. Differences up to eps count as none, by the specification."""
    rows = position(is_long=is_long, current_price=current, peak_price=peak, trough_price=peak, current_sl=current_sl)
    proposal = stops(market(sigma=sigma), rows)
    loosening = (current_sl - proposal.proposed_sl) * (1 if is_long else -1)
    # eps itself, and the rounding of a subtraction of prices up to 1e5.
    assert loosening[0] <= StopsTheta().eps + 1e-10


def test_without_monotony_the_formula_speaks_for_itself():
    """The switch must really switch, and then no reason speaks of tightening."""
    rows = position(current_sl=102.9)
    kept, free = (stops(market(sigma=0.05), rows, StopsTheta(monotonic_sl=on)) for on in (True, False))
    assert kept.proposed_sl[0] == 102.9
    assert "sl_tightened_monotonic" in kept.reason_codes[0]
    assert free.proposed_sl[0] < 102.9
    assert not any(code.startswith("sl_tight") for code in free.reason_codes[0])


def test_long_and_short_are_mirror_images():
    """One formula serves both sides; a sign error would put a stop on the wrong side of the market."""
    long = stops(market(), position(is_long=True, current_price=100, peak_price=101, trough_price=99))
    short = stops(market(), position(is_long=False, current_price=100, peak_price=101, trough_price=99))
    # Sums of numbers near 100, rounded to 1e-14 each.
    assert_allclose(200 - short.proposed_tp, long.proposed_tp, rtol=1e-15)
    assert short.proposed_sl[0] > 99 > 98 < long.proposed_sl[0]
    assert_array_equal(long.stop_dist_pct, short.stop_dist_pct)


@pytest.mark.parametrize(("is_long", "current_sl"), [(True, 110.0), (False, 90.0)])
def test_a_crossed_stop_is_flagged_and_published_unchanged(is_long, current_sl):
    """The number is not bent to look right; whoever acts on it must know that it has been crossed."""
    proposal = stops(market(), position(is_long=is_long, current_sl=current_sl))
    assert proposal.sl_breached.tolist() == [True]
    assert proposal.reason_codes[0][-1] == "sl_breached"
    assert proposal.proposed_sl[0] == current_sl


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20), st.booleans())
def test_more_profit_never_harvests_less(pnls, is_long):
    """The action climbs with R."""
    pnls = np.sort(pnls)
    theta = HarvestTheta(kill_threshold=1.0)
    proposal = harvest(
        market(len(pnls)), position(len(pnls), is_long=is_long, unrealized_pnl=pnls), np.full(len(pnls), 0.02), theta
    )
    tiers = [ACTIONS.index(action) for action in proposal.harvest_action]
    assert tiers == sorted(tiers)
    assert np.all(np.diff(proposal.R_net) >= 0)


@given(sigma=st.floats(0, 1), ts=st.floats(0, 3), age=st.floats(-10, 1e7), p_trend=st.floats(0, 1))
def test_the_kill_score_stays_in_its_bounds(sigma, ts, age, p_trend):
    """A sigmoid of a non-negative sum: at least one half, below one."""
    rows = market(sigma=sigma, ts=ts, p_trend=p_trend, p_mr=0.0, p_chop=1 - p_trend)
    proposal = harvest(rows, position(age_sec=age), column(0.02))
    assert 0.5 <= proposal.kill_score[0] < 1


def test_a_total_profit_is_divided_by_the_size():
    """R is a ratio of price units: a total in USD would be wrong by the factor qty, of either sign."""
    per_unit, long, short = (
        harvest(market(), position(unrealized_pnl=pnl, qty=qty), column(0.02))
        for pnl, qty in ((5.0, np.nan), (50.0, 10.0), (50.0, -10.0))
    )
    assert per_unit.R_net == long.R_net == short.R_net


def test_a_missing_stop_distance_falls_back_and_says_so():
    """The fallback is a number like any other; only the flag tells that it was one."""
    proposal = harvest(market(2), position(2), column(np.nan, 0.03))
    assert proposal.fallback_used.tolist() == [True, False]
    # 100 x .02 and 100 x .03, rounded once.
    assert_allclose(proposal.risk_unit, [2.0, 3.0], rtol=1e-15)


@pytest.mark.parametrize(("is_long", "expected"), [(True, 103.0), (False, 97.0)])
def test_lock_r_puts_the_stop_at_a_multiple_of_the_risk(is_long, expected):
    """1.5 R of a 2 % stop is 3 % beyond entry, on the side of the profit."""
    proposal = harvest(market(), position(is_long=is_long, unrealized_pnl=20.0), column(0.02), HarvestTheta(lock_mode="lock_r"))
    # One product and one sum.
    assert_allclose(proposal.new_sl_proposed, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stops(market(), position(entry_price=0.0)), "position row 0: entry_price is 0.0"),
        (lambda: stops(market(sigma=np.nan), position()), "market row 0: sigma is nan"),
        (lambda: stops(market(2), position()), "unequal numbers of rows"),
        (lambda: harvest(market(), position(unrealized_pnl=np.inf), column(0.02)), "unrealized_pnl is inf"),
        (lambda: harvest(market(), position(), column(-0.1)), "stop_dist_pct is"),
        (lambda: position(2).__class__(**{**vars(position(2)), "qty": column(1.0)}), r"qty has shape \(1,\)"),
        (lambda: HarvestTheta().override({"T1_R": 5.0}), "theta T1_R is"),
        (lambda: HarvestTheta().override({"lock_mode": "lock"}), "theta lock_mode is 'lock'"),
        (lambda: StopsTheta().override({"k_sl": {"flat": 1}}), "theta k_sl.flat is 1"),
        (lambda: StopsTheta().override({"monotonic_sl": 1}), "theta monotonic_sl is 1"),
        (lambda: AllocationTheta().override({"min_mult": 2.0}), "theta min_mult is 2.0"),
    ],
)
def test_wrong_input_is_named(make, message):
    """Row, column, value: whoever reads the message can go and look."""
    with pytest.raises(ValueError, match=message):
        make()


def test_faulty_rows_are_named_one_by_one_so_that_the_sound_ones_go_on():
    """One broken position must not cost the others their stop."""
    rows = position(3, entry_price=[100.0, 0.0, 100.0], current_sl=[np.nan, np.nan, np.inf])
    faults = rows.faults()
    assert [fault and fault.split()[0] for fault in faults] == [None, "entry_price", "current_sl"]
    sound = np.array([fault is None for fault in faults])
    assert len(stops(market(3).take(sound), rows.take(sound)).proposed_sl) == 1


def inputs(p30="ok", p29="ok", *, perf=0.72, target=800.0, idle=0.0):
    return EfficiencyInputs(
        np.array([p30], dtype=object),
        column(perf),
        column(0.8),
        np.array([p29], dtype=object),
        column(target),
        column(0.8),
        column(idle),
    )


@pytest.mark.parametrize(
    ("p30", "p29", "flags", "confidence", "inputs_ok"),
    [
        ("ok", "ok", "", 0.8, 1),
        ("stale", "ok", "P30_STALE", 0.4, 1),
        ("stale", "stale", "P30_STALE,P29_STALE", 0.4, 1),
        ("missing", "stale", "P30_MISSING,P29_STALE", 0.0, 0),
        ("error", "error", "P30_ERROR,P29_ERROR", 0.0, 0),
    ],
)
def test_each_trouble_of_an_input_has_its_flag(p30, p29, flags, confidence, inputs_ok):
    """A failed read is not an absent input, and both are not a stale one, which is used: the inputs are all there."""
    result = efficiency(inputs(p30, p29), [[]], EfficiencyState.initial(1))
    assert result.stale_flags == [flags]
    assert result.inputs_ok.tolist() == [inputs_ok]
    # Half of .8, exact in binary as a product.
    assert_allclose(result.confidence, confidence, rtol=1e-15)


def test_a_missing_input_is_replaced_by_the_last_good_one():
    """The score must not jump because one producer paused."""
    first = efficiency(inputs(), [[]], EfficiencyState.initial(1))
    second = efficiency(inputs("missing", "error", perf=np.nan, target=np.nan), [[]], first.next_state)
    assert (second.p30_perf[0], second.p29_target_usd[0]) == (0.72, 800.0)
    assert second.efficiency_score == first.efficiency_score


@given(st.lists(st.lists(st.floats(-1e4, 1e4), max_size=8), min_size=1, max_size=5))
def test_folding_symbols_together_is_folding_each_alone(pnls):
    """Symbols with different numbers of executions share one loop; each must see only its own."""
    n = len(pnls)
    together = efficiency(
        EfficiencyInputs(
            np.full(n, "missing", dtype=object),
            np.full(n, np.nan),
            np.full(n, np.nan),
            np.full(n, "missing", dtype=object),
            np.full(n, np.nan),
            np.full(n, np.nan),
            np.full(n, np.nan),
        ),
        pnls,
        EfficiencyState.initial(n),
    )
    for row, events in enumerate(pnls):
        vol = dd = 0.0
        for pnl in events:
            vol, dd = 0.2 * abs(pnl) + 0.8 * vol, 0.2 * max(-pnl, 0) + 0.8 * dd
        # The same operations in the same order; only 1 - .2 may round otherwise than .8.
        assert_allclose([together.volatility_ewma[row], together.dd_proxy[row]], [vol, dd], rtol=1e-14, atol=1e-300)
    assert np.all((together.efficiency_score >= 0) & (together.efficiency_score <= 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: efficiency(inputs("late"), [[]], EfficiencyState.initial(1)), "late"),
        (lambda: efficiency(inputs(perf=np.nan), [[]], EfficiencyState.initial(1)), "lacks its value"),
        (lambda: efficiency(inputs(), [[np.nan]], EfficiencyState.initial(1)), "finite numbers"),
        (lambda: efficiency(inputs(), [], EfficiencyState.initial(1)), "pnls has 0 rows"),
        (lambda: allocation(parse_efficiency([None]), column(-1.0), 0.0), "base_target is"),
    ],
)
def test_efficiency_and_allocation_refuse_what_they_cannot_read(call, message):
    """A value that is not there must come with the status that says so."""
    with pytest.raises(ValueError, match=message):
        call()


NOW = 1_000_000.0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 2000))
def test_multiplier_and_factor_stay_in_their_bounds(score, confidence, age):
    """Whatever an efficiency says, size is never cut below a quarter nor a target moved by more than half."""
    hash_ = {"efficiency_score": repr(score), "confidence": repr(confidence), "ts": repr(NOW - age)}
    hint = parse_efficiency([hash_])
    proposal, permit = allocation(hint, column(1000.0), NOW), permit_hint(hint, NOW)
    assert 0.5 <= proposal.multiplier[0] <= 1.5
    assert 0.25 <= permit.eff_factor[0] <= 1.0
    assert 0 <= permit.extra_cooldown_sec[0] <= 120
    assert proposal.reason.tolist() == permit.eff_reason.tolist()


GOOD = {"efficiency_score": "0.2", "confidence": "0.9", "ts": str(int(NOW))}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (GOOD, "ok"),
        (None, "missing_eff"),
        (Unreadable.UNREADABLE, "redis_error"),
        (GOOD | {"efficiency_score": "inf"}, "redis_error"),
        (GOOD | {"confidence": "nan"}, "redis_error"),
        (GOOD | {"ts": "yesterday"}, "redis_error"),
        ({"efficiency_score": "0.2", "confidence": "0.9"}, "redis_error"),
        ({"efficiency_score": "0.2", "confidence": "0.9", "timestamp": "1970-01-12T13:46:40+00:00"}, "ok"),
        ({"efficiency_score": "0.2", "confidence": "0.9", "ts_utc": "1970-01-12T13:46:40"}, "ok"),
        (GOOD | {"ts": str(NOW - 601)}, "stale_eff"),
        (GOOD | {"confidence": "0.64"}, "low_conf"),
        (GOOD | {"ts": str(NOW - 601), "efficiency_score": "abc"}, "redis_error"),
    ],
)
def test_each_reason_not_to_trust_an_efficiency_leaves_everything_as_it_is(fields, reason):
    """Hints fail open: no trouble of theirs may block a permit or move a target."""
    hint = parse_efficiency([fields])
    proposal, permit = allocation(hint, column(1000.0), NOW), permit_hint(hint, NOW).fields()[0]
    assert (proposal.reason[0], permit["eff_reason"]) == (reason, reason)
    kept = reason in ("ok", "low_conf", "stale_eff")  # what can be read is shown, trusted or not
    given = [float(fields["efficiency_score"]), float(fields["confidence"])] if kept else [np.nan, np.nan]
    assert_array_equal([proposal.eff_score[0], proposal.eff_confidence[0]], given)
    assert proposal.eff_stale[0] == (reason not in ("ok", "low_conf"))
    if reason != "ok":
        assert proposal.proposed_target[0] == 1000.0
        assert (permit["eff_factor"], permit["eff_action"], permit["extra_cooldown_sec"]) == ("1.0000", "NONE", "0")
        assert (permit["eff_score"], permit["eff_confidence"], permit["eff_stale"]) == ("", "", "1")
