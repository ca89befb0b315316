"""`quantum calc KERNEL`: one kernel on cases from standard input, for audits and comparisons.

Here belong the shapes of the cases and their translation to rows and back. Formulas stay in the kernels.
"""

import dataclasses
import inspect
import json
import math
import sys
from typing import Annotated, Any, ClassVar, Literal

import click
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from quantum_core.exit_codes import EXIT_USAGE
from quantum_core.kernels.capital.allocation import AllocationTheta, allocation
from quantum_core.kernels.capital.efficiency import EfficiencyInputs, EfficiencyState, EfficiencyTheta, efficiency
from quantum_core.kernels.capital.efficiency_hint import parse_efficiency
from quantum_core.kernels.columns import Floats, Labels, Market, Position
from quantum_core.kernels.governor.permit_hint import PermitHintTheta, permit_hint
from quantum_core.kernels.market.market_state import STATE_COLUMNS, MarketStateTheta, closes_matrix, market_state
from quantum_core.kernels.proposals.harvest import HarvestTheta, harvest
from quantum_core.kernels.proposals.sizing import SizingInputs, SizingTheta, sizing
from quantum_core.kernels.proposals.stops import StopsTheta, stop_distance, stops

Outcome = tuple[dict[str, Any] | None, str | None]  # result and reason, one of them None
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class BadCasesError(click.ClickException):
    """A case cannot be computed as asked; the text names the case and the field."""

    exit_code = EXIT_USAGE


class _Record(BaseModel):
    # A market or position copied from a live hash has more fields than a kernel reads: they are ignored.
    model_config = ConfigDict(strict=True, extra="ignore")


class _Market(_Record):
    sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    ts: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    p_trend: Share
    p_mr: Share
    p_chop: Share
    tail_move: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    def columns(self) -> Market:
        return Market(*(_column(getattr(self, field.name)) for field in dataclasses.fields(Market)))


class _Position(_Record):
    side: Literal["LONG", "SHORT", "FLAT"]
    entry_price: Positive
    current_price: Positive
    peak_price: Positive
    trough_price: Positive
    age_sec: FiniteFloat = 0.0
    unrealized_pnl: FiniteFloat = 0.0
    current_sl: Positive | None = None
    qty: FiniteFloat | None = None

    def columns(self) -> Position:
        numbers = (_column(getattr(self, field.name)) for field in dataclasses.fields(Position)[1:])
        return Position(np.array([self.side == "LONG"]), *numbers)


class _Input(_Record):
    """One input of the efficiency kernel, with its confidence."""

    confidence: FiniteFloat


class _Attribution(_Input):
    performance_factor: FiniteFloat


class _Target(_Input):
    target_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Previous(_Record):
    volatility_ewma: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    dd_proxy: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    efficiency_ewma: Share


class _Case(BaseModel):
    # A misspelt field of a case would silently compute something else: it is refused.
    model_config = ConfigDict(strict=True, extra="forbid")

    kernel: ClassVar[str]
    example: ClassVar[str]
    name: str
    symbol: str | None = None
    theta_override: dict[str, Any] | None = None
    expected: Any = None

    def compute(self) -> Outcome:
        """Run the kernel on this one row."""
        raise NotImplementedError


class MarketStateCase(_Case):
    """Close prices, oldest first; NaN and Infinity tokens and null are read, and give a reason."""

    kernel = "market-state"
    example = """[{"name": "btc", "close_prices": [100.0, 100.5, 99.8]}]"""
    close_prices: list[float | None]

    def compute(self) -> Outcome:
        """Return the state, or the reason why there is none."""
        closes, counts = closes_matrix([[math.nan if price is None else price for price in self.close_prices]])
        state = market_state(closes, counts, MarketStateTheta().override(self.theta_override))
        if state.reason[0] is not None:
            return None, state.reason[0]
        return _row(state, " ".join((*STATE_COLUMNS, "tail_move"))), None


_STATE_EXAMPLE = '"market": {"sigma": 0.0114, "ts": 0.2454, "p_trend": 0.3719, "p_mr": 0.0758, "p_chop": 0.5523}'
_MARKET_EXAMPLE = (
    _STATE_EXAMPLE + ', "position": {"side": "LONG", "entry_price": 100.0, "current_price": 105.0, "peak_price": 107.1, '
    '"trough_price": 98.0, "age_sec": 3600.0, "unrealized_pnl": 5.0, "current_sl": 102.0}'
)


class StopsCase(_Case):
    """Market state and position; FLAT gives no proposal."""

    kernel = "stops"
    example = '[{"name": "btc", ' + _MARKET_EXAMPLE + "}]"
    market: _Market
    position: _Position

    def compute(self) -> Outcome:
        """Return the proposal, or flat_position."""
        theta = StopsTheta().override(self.theta_override)
        if self.position.side == "FLAT":
            return None, "flat_position"
        proposal = stops(self.market.columns(), self.position.columns(), theta)
        numbers = "proposed_sl proposed_tp stop_dist_pct tp_dist_pct trail_gap_pct tp_extension_factor sl_breached"
        return _row(proposal, numbers) | {"reason_codes": list(proposal.reason_codes[0])}, None


class HarvestCase(_Case):
    """Market state, position and the stop distance of the risk proposal; 0, null or none at all takes the fallback."""

    kernel = "harvest"
    example = '[{"name": "btc", ' + _MARKET_EXAMPLE + ', "stop_dist_pct": 0.02}]'
    market: _Market
    position: _Position
    stop_dist_pct: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    def compute(self) -> Outcome:
        """Return the proposal, or flat_position."""
        theta = HarvestTheta().override(self.theta_override)
        if self.position.side == "FLAT":
            return None, "flat_position"
        proposal = harvest(self.market.columns(), self.position.columns(), _column(self.stop_dist_pct), theta)
        return _row(proposal, "harvest_action new_sl_proposed R_net risk_unit cost_est kill_score") | {
            "reason_codes": list(proposal.reason_codes[0]),
            "k_components": {
                name.removeprefix("k_"): value
                for name, value in _row(proposal, "k_regime_flip k_sigma_spike k_ts_drop k_age_penalty").items()
            },
            "tranche_weights": proposal.tranche_weights[0].tolist(),
        }, None


class SizingCase(_Case):
    """Market state, equity and price; an equity that is null, 0 or negative gives no size.

    May be null or left out: stop_dist_pct (then what the stops kernel proposes), multiplier (no efficiency is fresh: 1) and
    target_usd (no target is in force). candles_per_day is 1440 when it is left out: candles of a minute.
    """

    kernel = "sizing"
    example = '[{"name": "btc", ' + _STATE_EXAMPLE + ', "equity_usd": 10000.0, "price": 105.0, "multiplier": 0.9}]'
    market: _Market
    equity_usd: FiniteFloat | None
    price: Positive
    stop_dist_pct: Positive | None = None
    multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    target_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    candles_per_day: Positive = 1440.0

    def compute(self) -> Outcome:
        """Return the proposal, or what is wrong with the equity."""
        theta = SizingTheta().override(self.theta_override)
        if self.equity_usd is None:
            return None, "equity_missing"
        if self.equity_usd <= 0:
            return None, "equity_not_positive"
        market = self.market.columns()
        given = {field.name: _column(getattr(self, field.name)) for field in dataclasses.fields(SizingInputs)}
        if self.stop_dist_pct is None:
            given["stop_dist_pct"] = stop_distance(market)
        proposal = sizing(market, SizingInputs(**given), theta, candles_per_day=self.candles_per_day)
        numbers = "size_usd size_qty leverage_max stop_dist_pct risk_usd binding"
        return _row(proposal, numbers) | {"reason_codes": list(proposal.reason_codes[0])}, None


class EfficiencyCase(_Case):
    """Attribution and target (null when missing), profits and losses in order, and the previous EWMA state."""

    kernel = "efficiency"
    example = (
        '[{"name": "btc", "attribution": {"performance_factor": 0.72, "confidence": 0.8}, "target": '
        '{"target_usd": 800.0, "confidence": 0.8}, "pnls": [12.5, -3.1, 8.7], "seconds_since_last_execution": 0.0}]'
    )
    attribution: _Attribution | None
    target: _Target | None
    pnls: list[FiniteFloat]
    seconds_since_last_execution: FiniteFloat | None
    previous: _Previous | None = None

    def compute(self) -> Outcome:
        """Return the efficiency; a missing input is flagged, never an error."""
        previous = EfficiencyState.initial(1)
        if self.previous is not None:
            given = {name: _column(value) for name, value in self.previous.model_dump().items()}
            previous = dataclasses.replace(previous, **given)
        inputs = EfficiencyInputs(
            attribution_status=_status(self.attribution),
            performance_factor=_column(self.attribution.performance_factor if self.attribution else None),
            attribution_confidence=_column(self.attribution.confidence if self.attribution else None),
            target_status=_status(self.target),
            target_usd=_column(self.target.target_usd if self.target else None),
            target_confidence=_column(self.target.confidence if self.target else None),
            seconds_since_last_execution=_column(self.seconds_since_last_execution),
        )
        result = efficiency(inputs, [self.pnls], previous, EfficiencyTheta().override(self.theta_override))
        return _row(
            result,
            "efficiency_score efficiency_raw efficiency_ewma capital_pressure reallocation_weight confidence "
            "inputs_ok stale_flags volatility_ewma dd_proxy hold_time_penalty",
        ), None


class AllocationCase(_Case):
    """Base target, efficiency hash as text (null when missing) and the time of the evaluation."""

    kernel = "allocation"
    example = (
        '[{"name": "btc", "base_target": 1000.0, "efficiency": {"efficiency_score": "0.9", "confidence": "0.9", '
        '"ts": "1769089141"}, "now": 1769089151}]'
    )
    base_target: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    efficiency: dict[str, str] | None
    now: FiniteFloat

    def compute(self) -> Outcome:
        """Return multiplier, proposed target and reason."""
        theta = AllocationTheta().override(self.theta_override)
        proposal = allocation(parse_efficiency([self.efficiency]), _column(self.base_target), self.now, theta)
        return _row(proposal, "multiplier proposed_target reason"), None


class PermitHintCase(_Case):
    """Efficiency hash as text (null when missing) and the time of the evaluation."""

    kernel = "permit-hint"
    example = (
        '[{"name": "btc", "efficiency": {"efficiency_score": "0.2", "confidence": "0.9", "ts": "1769089141"}, "now": 1769089151}]'
    )
    efficiency: dict[str, str] | None
    now: FiniteFloat

    def compute(self) -> Outcome:
        """Return the eight text fields of the permit."""
        hint = permit_hint(parse_efficiency([self.efficiency]), self.now, PermitHintTheta().override(self.theta_override))
        return dict(hint.fields()[0]), None


CASES: tuple[type[_Case], ...] = (
    MarketStateCase,
    StopsCase,
    HarvestCase,
    SizingCase,
    EfficiencyCase,
    AllocationCase,
    PermitHintCase,
)


@click.group()
def calc() -> None:
    """Run one kernel on a JSON array of cases from standard input.

    Prints a JSON array in the same order: {"name", "result", "reason"}, numbers unrounded. Exit codes: 0 every case
    was computed or has a reason, 2 a case is malformed (named on standard error, nothing on standard output).
    """


def _command(case: type[_Case]) -> click.Command:
    def run() -> None:
        click.echo(json.dumps(_answers(case, sys.stdin.read()), allow_nan=False))

    epilog = f"\b\nExample:\n  echo '{case.example}' | quantum calc {case.kernel}"
    common = "Common fields of a case: name, and optionally theta_override (merged into the defaults)."
    text = f"{inspect.cleandoc(case.__doc__ or '')}\n\n{common}"
    return click.Command(case.kernel, callback=run, help=text, epilog=epilog)


def _answers(case: type[_Case], text: str) -> list[dict[str, Any]]:
    try:
        raw = TypeAdapter(list[dict[str, Any]]).validate_python(json.loads(text))
    except (ValueError, RecursionError) as error:
        message = f"standard input is not a JSON array of cases: {error}"
        raise BadCasesError(message) from error
    return [_answer(case, number, fields) for number, fields in enumerate(raw)]


def _answer(case: type[_Case], number: int, fields: dict[str, Any]) -> dict[str, Any]:
    label = f"case {number} ({fields.get('name', 'without a name')})"
    try:
        parsed = case.model_validate(fields)
        result, reason = parsed.compute()
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        message = f"{label}: {problems}"
        raise BadCasesError(message) from error
    except (ValueError, OverflowError) as error:
        message = f"{label}: {error}"
        raise BadCasesError(message) from error
    return {"name": parsed.name, "result": result, "reason": reason}


def _column(value: float | None) -> Floats:
    return np.array([math.nan if value is None else value], dtype=np.float64)


def _status(given: _Input | None) -> Labels:
    return np.array(["missing" if given is None else "ok"], dtype=object)


def _row(columns: Any, names: str) -> dict[str, Any]:
    cells = {name: np.asarray(getattr(columns, name))[0] for name in names.split()}
    values = {name: cell.item() if isinstance(cell, np.generic) else cell for name, cell in cells.items()}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


for _case in CASES:
    calc.add_command(_command(_case))
