"""Trade intents: whether the proposals of a position ask for something to be done, for what, and under which id.

Here belong the rule and the id. What was intended before, and whether that makes this a new intent, stays out.
"""

import dataclasses
import hashlib

import numpy as np

from quantum_core.kernels.columns import POSITIVE, POSITIVE_OR_NONE, SHARE, Bools, Columns, Floats, Labels, require_sound

CLOSE = "CLOSE"  # the only thing an intent ever asks for (docs/spec.md#7-trade-intents-and-the-governor)
CLOSED_SHARE = {"FULL_CLOSE_PROPOSED": 1.0, "CLOSE": 1.0, "PARTIAL_75": 0.75, "PARTIAL_50": 0.5, "PARTIAL_25": 0.25}  # by action
NOTHING = "NONE"  # harvest action that asks for nothing
ID_DIGITS = 16  # hex digits of the hash that are the id (docs/spec.md#7-trade-intents-and-the-governor)


@dataclasses.dataclass(frozen=True)
class Proposals(Columns):
    """What was proposed per symbol: the harvest proposal with the risk proposal beside it."""

    harvest_action: Labels
    sl_breached: Bools  # the proposed stop has already been crossed
    kill_score: Floats = dataclasses.field(metadata=SHARE)
    new_sl_proposed: Floats = dataclasses.field(metadata=POSITIVE_OR_NONE)  # profit-lock stop, NaN when none
    proposed_sl: Floats = dataclasses.field(metadata=POSITIVE)


@dataclasses.dataclass(frozen=True)
class Intents:
    """Intents per symbol; where none is due, the rest says what it would be."""

    due: Bools
    plan_action: Labels  # harvest action, or CLOSE where the stop has been crossed
    confidence: Floats  # the kill score, in [0, 1]
    stop_loss: Floats  # price units


def intents(proposals: Proposals) -> Intents:
    """Decide which symbols are due an intent, and for what.

    Parameters
    ----------
    proposals : Proposals
        Columns of shape (n,).

    Returns
    -------
    Intents
        Due where the harvest action is not ``NONE`` or the stop has been crossed. The stop is the newly proposed one of the
        profit lock, else the proposed stop.

    Raises
    ------
    ValueError
        If a row breaks the rules of `Proposals`.

    References
    ----------
    docs/spec.md#7-trade-intents-and-the-governor
    """
    require_sound(proposals=proposals)
    acts = np.asarray(proposals.harvest_action != NOTHING, dtype=bool)
    no_lock = np.isnan(proposals.new_sl_proposed)
    return Intents(
        due=acts | proposals.sl_breached,
        plan_action=np.where(proposals.sl_breached, CLOSE, proposals.harvest_action).astype(object),
        confidence=proposals.kill_score,
        stop_loss=np.where(no_lock, proposals.proposed_sl, proposals.new_sl_proposed),
    )


def intent_id(symbol: str, harvest_action: str, kill_score: float, new_sl_proposed: float | None, proposed_at: str) -> str:
    """Name an intent by what was proposed and when: the same proposal gives the same id, whoever computes it.

    Parameters
    ----------
    symbol, harvest_action : str
        As published.
    kill_score : float
        Hashed with six decimals.
    new_sl_proposed : float or None
        Profit-lock stop, hashed as its shortest text; the empty text when there is none.
    proposed_at : str
        Later publication of the two proposals, ISO 8601 in UTC.

    Returns
    -------
    str
        First 16 hex digits of the SHA-256 of the five texts, joined by ``|``.

    References
    ----------
    docs/spec.md#7-trade-intents-and-the-governor
    """
    new_sl = "" if new_sl_proposed is None else repr(float(new_sl_proposed))
    text = f"{symbol}|{harvest_action}|{kill_score:.6f}|{new_sl}|{proposed_at}"
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]
