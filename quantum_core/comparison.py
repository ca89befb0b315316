"""How two profiles differ: counters by hour of what champion and challenger proposed of the same symbol at the same moment.

Here belongs what is counted, and how it reads as shares. Where the counters are kept stays out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quantum_core.informative import Hours, counted, regime_of

COMPARED = "compared"  # stands for the asset in the counters
UNIT = 1e-6  # distances are counted as whole millionths of the price
HEADINGS = ("symbol", "compared", "other regime", "held", "other action", "stop farther", "champion hit", "challenger hit")


@dataclass(frozen=True)
class Difference:
    """What a day of comparisons says of one symbol.

    Attributes
    ----------
    compared
        Evaluations of the market state by both.
    regimes
        Share of them in which the most probable regime differs.
    held
        Evaluations of an open position by both; the shares below are of these.
    actions
        Share in which the harvest action differs.
    stop_farther
        Mean of the challenger's stop distance minus the champion's, fraction of price.
    champion_first, challenger_first
        How often only the champion's, or only the challenger's, stop was beyond the price: would have been hit first.
    """

    compared: int
    regimes: float
    held: int
    actions: float
    stop_farther: float
    champion_first: int
    challenger_first: int


def facts_of(
    champion: Mapping[str, Mapping[str, Any] | None], challenger: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, int]:
    """Compare one symbol.

    Parameters
    ----------
    champion, challenger
        Rows of market_state, risk_proposal and harvest_proposal by asset; ``None`` where there is none.

    Returns
    -------
    dict
        Counters to add; empty where one of them has no market state.
    """
    states = champion["market_state"], challenger["market_state"]
    if states[0] is None or states[1] is None:
        return {}
    facts = {"n": 1, "regime": int(regime_of(states[0]) != regime_of(states[1]))}
    risks = champion["risk_proposal"], challenger["risk_proposal"]
    takes = champion["harvest_proposal"], challenger["harvest_proposal"]
    if risks[0] is None or risks[1] is None or takes[0] is None or takes[1] is None:
        return facts
    farther = (risks[1]["stop_dist_pct"] - risks[0]["stop_dist_pct"]) / UNIT
    return {
        **facts,
        "held": 1,
        "action": int(takes[0]["harvest_action"] != takes[1]["harvest_action"]),
        "farther": round(farther),
        "champion_first": int(risks[0]["sl_breached"] and not risks[1]["sl_breached"]),
        "challenger_first": int(risks[1]["sl_breached"] and not risks[0]["sl_breached"]),
    }


def difference(hours: Hours) -> Difference:
    """Sum up what was counted of one symbol."""
    total = counted(hours, COMPARED)
    compared, held = total["n"], total["held"]
    return Difference(
        compared=compared,
        regimes=total["regime"] / compared if compared else 0.0,
        held=held,
        actions=total["action"] / held if held else 0.0,
        stop_farther=total["farther"] * UNIT / held if held else 0.0,
        champion_first=total["champion_first"],
        challenger_first=total["challenger_first"],
    )


def comparison_cells(one: Difference) -> tuple[str, ...]:
    """Write a difference for a table, under HEADINGS after the first."""
    of_held = f"{one.actions:.1%}", f"{one.stop_farther:+.2%}", f"{one.champion_first}", f"{one.challenger_first}"
    return (f"{one.compared}", f"{one.regimes:.1%}", f"{one.held}", *(of_held if one.held else ("", "", "", "")))


def summed(of_symbols: Iterable[Hours]) -> Hours:
    """Add up the counters of several symbols."""
    found: Hours = {}
    for hours in of_symbols:
        for hour, counts in hours.items():
            found.setdefault(hour, {}).setdefault(COMPARED, Counter()).update(counts.get(COMPARED, {}))
    return found
