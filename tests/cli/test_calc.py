"""`quantum calc`: the same numbers on the command line, and a bad case that is named."""

import json

import pytest
from click.testing import CliRunner

from quantum_ops.cli.history.calc import CASES, calc
from tests.kernels.golden import COMMANDS, RTOL, cases, largest_relative_error, without_ours

MARKET = {"sigma": 0.01, "ts": 0.2, "p_trend": 0.4, "p_mr": 0.1, "p_chop": 0.5}
POSITION = {"side": "LONG", "entry_price": 100.0, "current_price": 105.0, "peak_price": 107.0, "trough_price": 98.0}
STOPS = {"name": "s", "market": MARKET, "position": POSITION}
SIZING = {"name": "z", "market": MARKET, "equity_usd": 1000.0, "price": 105.0}
HINT = {"name": "h", "efficiency": None, "now": 1.0}


def run(kernel, given):
    text = given if isinstance(given, str) else json.dumps(given)
    return CliRunner().invoke(calc, [kernel], input=text)


@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_the_golden_cases_come_back_in_order(name, command):
    """An auditor pipes a file of cases in and compares what comes out."""
    golden = cases(name)
    result = run(command, golden)
    assert result.exit_code == 0, result.output
    answers = json.loads(result.stdout)
    assert [answer["name"] for answer in answers] == [case["name"] for case in golden]
    for answer, case in zip(answers, golden, strict=True):
        assert set(answer) == {"name", "result", "reason"}
        assert (answer["result"] is None) == (answer["reason"] is not None)
        assert largest_relative_error(without_ours(answer["result"]), case["expected"], case["name"]) <= RTOL


def test_parameters_added_later_are_known_to_every_case():
    """A tail and a tail stop are asked for as any other parameter is, and without them there is no tail move."""
    prices = {"name": "m", "close_prices": [100 + (at * at) % 7 for at in range(300)]}
    tail = {"theta_override": {"vol": {"tail": "historical"}, "regime": {"measure": "significance"}}}
    plain, other = (json.loads(run("market-state", [prices | more]).stdout)[0]["result"] for more in ({}, tail))
    assert plain["tail_move"] is None
    assert other["tail_move"] > 0
    assert (other["sigma"], other["vr"]) == (plain["sigma"], plain["vr"])
    asked = STOPS | {"theta_override": {"tail_stop": True}, "market": MARKET | {"tail_move": 0.03}}
    assert json.loads(run("stops", [asked]).stdout)[0]["result"]["stop_dist_pct"] == 0.03


@pytest.mark.parametrize(
    ("prices", "reason"),
    [
        ("NaN", "price_nan"),
        ("null", "price_nan"),
        ("Infinity", "price_infinite"),
        ("0", "price_zero"),
        ("-3", "price_negative"),
    ],
)
def test_a_bad_price_is_a_reason_and_no_error(prices, reason):
    """Feeds do deliver such tokens; the other cases of the array still count."""
    closes = ", ".join(["100.0"] * 256 + [prices])
    result = run("market-state", f'[{{"name": "bad", "close_prices": [{closes}]}}, {{"name": "b", "close_prices": []}}]')
    assert result.exit_code == 0, result.output
    assert [answer["reason"] for answer in json.loads(result.stdout)] == [reason, "too_few_candles"]


def test_a_flat_position_has_no_proposal_and_says_why():
    """FLAT is not an error, it is nothing to protect."""
    flat = STOPS | {"position": POSITION | {"side": "FLAT"}}
    for kernel, case in (("stops", flat), ("harvest", flat | {"stop_dist_pct": None})):
        assert json.loads(run(kernel, [case]).stdout) == [{"name": "s", "result": None, "reason": "flat_position"}]


@pytest.mark.parametrize(
    ("equity", "reason"), [(None, "equity_missing"), (0, "equity_not_positive"), (-1.5, "equity_not_positive")]
)
def test_without_an_equity_there_is_no_size_and_a_reason(equity, reason):
    """An account that nobody knows, or that is empty, is no error in the case."""
    answers = json.loads(run("sizing", [SIZING, SIZING | {"equity_usd": equity}]).stdout)
    assert [answer["reason"] for answer in answers] == [None, reason]
    assert answers[1]["result"] is None


@pytest.mark.parametrize(
    ("kernel", "case", "field"),
    [
        ("stops", STOPS | {"position": POSITION | {"side": "long"}}, "position.side"),
        ("stops", STOPS | {"position": POSITION | {"entry_price": 0.0}}, "position.entry_price"),
        ("stops", STOPS | {"position": POSITION | {"current_price": float("nan")}}, "position.current_price"),
        ("stops", STOPS | {"market": MARKET | {"sigma": "0.01"}}, "market.sigma"),
        ("stops", STOPS | {"market": MARKET | {"p_mr": 1.5}}, "market.p_mr"),
        ("stops", STOPS | {"theta_override": {"k_sl": {"sideways": 1.0}}}, "k_sl.sideways"),
        ("stops", STOPS | {"theta_overide": {}}, "theta_overide"),
        ("stops", {"name": "s", "market": MARKET}, "position"),
        ("harvest", STOPS | {"stop_dist_pct": -0.01}, "stop_dist_pct"),
        ("harvest", STOPS | {"stop_dist_pct": float("inf")}, "stop_dist_pct"),
        ("sizing", {"name": "z", "market": MARKET, "price": 105.0}, "equity_usd"),
        ("sizing", SIZING | {"equity_usd": 1e31}, "equity_usd"),
        ("sizing", SIZING | {"price": 0.0}, "price"),
        ("sizing", SIZING | {"multiplier": -1.0}, "multiplier"),
        ("sizing", SIZING | {"candles_per_day": 0.0}, "candles_per_day"),
        ("sizing", SIZING | {"theta_override": {"leverage_cap": 0.5}}, "leverage_cap"),
        ("market-state", {"name": "m", "close_prices": "100"}, "close_prices"),
        ("market-state", {"name": "m", "close_prices": [1.0, "2"]}, "close_prices.1"),
        ("market-state", {"close_prices": [1.0]}, "name"),
        ("market-state", {"name": "m", "close_prices": [], "theta_override": {"vol": {"window": 1}}}, "vol.window"),
        ("efficiency", {"name": "e", "attribution": None, "target": None, "pnls": [float("nan")]}, "pnls.0"),
        ("allocation", HINT, "base_target"),
        ("permit-hint", HINT | {"efficiency": {"ts": 1.0}}, "efficiency.ts"),
        ("permit-hint", HINT | {"now": True}, "now"),
        ("permit-hint", HINT | {"now": 10**400}, "now"),
        ("stops", STOPS | {"theta_override": {"tp_extend_gain": 10**400}}, "tp_extend_gain"),
    ],
)
def test_a_bad_case_is_named_with_its_field_and_nothing_is_printed(kernel, case, field):
    """Half an answer would be compared as if it were whole."""
    result = run(kernel, [case])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "case 0" in result.stderr
    assert field in result.stderr


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json"])
def test_what_is_no_array_of_cases_is_refused(text):
    """An empty pipe is the commonest mistake."""
    result = run("stops", text)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "JSON array" in result.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kernel)
def test_the_example_in_the_help_really_works(case):
    """An example that fails is worse than none."""
    shown = CliRunner().invoke(calc, [case.kernel, "--help"])
    assert shown.exit_code == 0
    assert case.example in shown.output
    assert run(case.kernel, case.example).exit_code == 0
