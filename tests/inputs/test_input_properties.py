"""Properties of inputs over generated siblings: spellings and clocks of candles, hashes that are half of one state and half of another."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quantum_assets.shared.tracked_positions import _Scaled
from quantum_core.kernels.position.consistency import contradictions
from quantum_core.kernels.position.contract import BASE_UNITS
from resources.governor.plan import parse_plan
from resources.inputs.candle_columns import columns_of
from resources.inputs.candle_layouts import (
    CLOSE,
    CLOSED_AT,
    CLOSED_WORDS,
    HIGH,
    LOW,
    NO,
    OPENED,
    RUNNING_WORDS,
    SAYS_CLOSED,
    SAYS_RUNNING,
    STATE,
    VOLUME,
    YES,
    row_of,
)
from resources.inputs.position_parsing import parse_position
from resources.inputs.position_snapshots import InvalidPositionError, RawPosition, profit_of
from tests.world import FIELD_PASSES

MINUTE_MS = 60_000
OPENED_MS = 1_769_083_200_000
SYMBOL = "BTCUSDT"
UNITS = (0.001, 1, 1000, 1_000_000)  # s, ms, us, ns, in a ms


@st.composite
def spellings(draw: st.DrawFn, names: tuple[str, ...]) -> str:
    """Spell a name as somebody might: capitals, underscores and hyphens; single letters have one spelling."""
    name = draw(st.sampled_from(sorted(names)))
    if len(name) == 1:
        return name
    breaks = draw(st.lists(st.sampled_from(["", "", "", "_", "-"]), min_size=len(name), max_size=len(name)))
    capitals = draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    return "".join(b + (c.upper() if big else c) for b, c, big in zip(["", *breaks[1:]], name, capitals, strict=True))


@st.composite
def words(draw: st.DrawFn, accepted: frozenset[str]) -> str:
    """Spell a word as somebody might."""
    word = draw(st.sampled_from(sorted(accepted)))
    return draw(st.sampled_from(["", " ", "\t"])) + draw(st.sampled_from([word, word.upper(), word.capitalize()]))


CLOSED = st.one_of(
    st.tuples(spellings(tuple(SAYS_CLOSED)), words(YES)),
    st.tuples(spellings(tuple(SAYS_RUNNING)), words(NO)),
    st.tuples(spellings(STATE), words(CLOSED_WORDS)),
)
RUNNING = st.one_of(
    st.tuples(spellings(tuple(SAYS_CLOSED)), words(NO)),
    st.tuples(spellings(tuple(SAYS_RUNNING)), words(YES)),
    st.tuples(spellings(STATE), words(RUNNING_WORDS)),
)


@settings(max_examples=200 * FIELD_PASSES)
@given(
    names=st.tuples(*(spellings(names) for names in (OPENED, CLOSED_AT, CLOSE, HIGH, LOW, VOLUME))),
    units=st.tuples(st.sampled_from(UNITS), st.sampled_from(UNITS)),
    text=st.tuples(*[st.booleans()] * 6),
    flag=st.one_of(st.none(), CLOSED),
    running=st.one_of(st.none(), RUNNING),
)
def test_a_candle_is_the_same_in_every_spelling_and_clock(names, units, text, flag, running) -> None:
    """The same minute whatever its fields are called; one word that it runs, and it is none."""
    assume(len(set(names)) == len(names))
    values = (OPENED_MS * units[0], (OPENED_MS + MINUTE_MS) * units[1], 2.0, 3.0, 0.5, 9.0)
    given_as = (
        str(int(value) if place < 2 else value) if as_text else value
        for place, (value, as_text) in enumerate(zip(values, text, strict=True))
    )
    member: dict[str, Any] = dict(zip(names, given_as, strict=True))
    for said in (flag, running):
        if said is not None:
            assume(said[0] not in member)
            member[said[0]] = said[1]
    row, (columns, malformed) = row_of(member, 0, MINUTE_MS), columns_of([member, member], b"", MINUTE_MS)
    assert malformed == 0
    if running is not None:
        assert row is None
        assert len(columns.close) == 0
        return
    assert row is not None
    assert (row.opened_ms, row.closed_ms, row.close, row.high, row.low, row.volume) == (
        OPENED_MS,
        OPENED_MS + MINUTE_MS,
        2,
        3,
        0.5,
        9,
    )
    assert row.flagged == (flag is not None)
    assert (columns.open_time_ms[0], columns.close_time_ms[0], columns.close[0]) == (OPENED_MS, OPENED_MS + MINUTE_MS, 2)


@st.composite
def states(draw: st.DrawFn) -> dict[str, str]:
    """Write one state of a position, all of it: flat, or of a side and size.

    Its entry is away from its mark: a position without profit, whose amount need not be signed beside a positionSide, is told
    from one of the other side by nothing in one snapshot. What a flip leaves behind is the memory's to find (test_position_sequences).
    """
    side = draw(st.sampled_from(["LONG", "SHORT", "FLAT"]))
    sign = {"LONG": 1, "SHORT": -1, "FLAT": 0}[side]
    size, mark = draw(st.floats(0.01, 100)), draw(st.floats(99, 101))
    entry = draw(st.floats(90, 97) | st.floats(103, 110))
    return {
        "side": side,
        "positionSide": side if side != "FLAT" else "BOTH",
        "position_amt": repr(sign * size),
        "quantity": repr(abs(sign) * size),
        "entry_price": repr(entry if sign else 0.0),
        "mark_price": repr(mark),
        "unrealized_pnl": repr(sign * size * (mark - entry)),
        "notional": repr(sign * size * mark),
    }


def read(fields: dict[str, str]) -> tuple[str, float] | None:
    """Give the side and size that openings may rest on; ``None`` where they rest on nothing."""
    try:
        position = parse_position(SYMBOL, fields, "redis_hash")
    except InvalidPositionError:
        return None
    if not isinstance(position, RawPosition):
        return "FLAT", 0.0
    expected = profit_of(position.side, position.entry_price, position.current_price, position.qty)
    bars = _Scaled(np.arange(2, dtype=np.int64), *(np.array([100.0, 100.0]),) * 3)
    return None if contradictions(position, expected, BASE_UNITS, bars, 0.1) else (position.side, position.qty or 0.0)


@settings(max_examples=300 * FIELD_PASSES)
@given(
    before=states(),
    after=states(),
    changed=st.sets(st.sampled_from(["side", "positionSide", "position_amt", "quantity", "entry_price", "mark_price", "unrealized_pnl", "notional"])),
)  # fmt: skip
def test_half_of_an_update_is_no_position_that_never_was(before, after, changed) -> None:
    """A hash of which some fields have changed and some have not is one of the two states, or none that opens anything."""
    assert read(before) is not None
    mixed = read({name: after[name] if name in changed else text for name, text in before.items()})
    assert mixed in (None, read(before), read(after))


@settings(max_examples=300 * FIELD_PASSES)
@given(
    names=st.tuples(*[st.sampled_from(["", " ", "\n"])] * 4),
    decision=st.sampled_from(["EXECUTE", "execute", "Execute"]),
    action=st.sampled_from(["CLOSE", "close", "Full_Close_Proposed", "partial_25", ""]),
    said=st.sampled_from(["true", "TRUE", " True", "1"]),
    sizes=st.dictionaries(st.sampled_from(["qty", "close_qty", "quantity", "size"]), st.floats(1e-6, 1e6), min_size=1),
)
def test_a_plan_is_the_same_in_every_spelling(names, decision, action, said, sizes) -> None:
    """A close is one however it is written, and no size it names is lost."""
    space = iter(names)
    fields = {
        "symbol": SYMBOL + next(space),
        "action": action + next(space),
        "decision": next(space) + decision,
        "reduceOnly": said,
    }
    fields |= {name: next(space, "") + repr(size) for name, size in sizes.items()}
    closing = parse_plan("1-0", {name.encode(): text.encode() for name, text in {**fields, "plan_id": "p"}.items()})
    assert (closing.invalid, closing.symbol, closing.decision, closing.reduce_only) == ("", SYMBOL, "EXECUTE", True)
    assert closing.action == (action.upper() or "CLOSE")
    assert closing.most == max(sizes.values())
    opening = parse_plan(
        "1-0", {**{k.encode(): v.encode() for k, v in fields.items()}, b"plan_id": b"p", b"action": b"OPEN", b"reduceOnly": b""}
    )
    assert (opening.invalid, opening.qty) == ("", max(sizes.values()))


@pytest.mark.parametrize("names", [OPENED, CLOSED_AT, CLOSE, HIGH, LOW, VOLUME, STATE, tuple(SAYS_CLOSED), tuple(SAYS_RUNNING)])
def test_no_name_has_two_meanings(names: tuple[str, ...]) -> None:
    """Else one of them would be lost in silence."""
    others = [{*OPENED}, {*CLOSED_AT}, {*CLOSE}, {*HIGH}, {*LOW}, {*VOLUME}, {*STATE}, {*SAYS_CLOSED}, {*SAYS_RUNNING}]
    assert sum(bool({*names} & other) for other in others) == 1
