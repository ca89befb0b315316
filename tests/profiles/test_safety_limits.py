"""Which change of a parameter loosens a safety limit, and what a difference between two profiles says."""

import dataclasses

import pytest

from quantum_core.profiles.files import load, parse
from quantum_core.profiles.profile import LOCKED, SECTIONS, flat_parameters, leaves
from quantum_core.profiles.safety import LOOSER, differences, loosened

HEAD = 'name = "desk"\n'


def test_every_limit_of_governor_and_guards_has_a_direction() -> None:
    """A limit that was added without one could be loosened unnoticed."""
    limits = {f"{section}.{leaf}" for section in ("governor", "risk_guard") for leaf in leaves(SECTIONS[section])}
    assert LOOSER.keys() == limits | {"tracking.collar_pct"}


@pytest.mark.parametrize("path", LOOSER)
def test_a_limit_is_loosened_in_one_direction_only(path: str) -> None:
    """The other way round the same change tightens it."""
    section, _, name = path.partition(".")
    field = next(one for one in dataclasses.fields(SECTIONS[section]) if one.name == name)
    effective = getattr(SECTIONS[section], name)
    if effective is None:
        effective = flat_parameters(LOCKED)[f"{section}.{name.replace('closes', 'exec').replace('close_', '')}"]
    if LOOSER[path] == "off":
        looser = False
    elif LOOSER[path] == "smaller":
        looser = max(type(effective)(effective / 2), field.metadata["low"])
    else:
        looser = min(effective * 2, field.metadata["high"])
    changed = LOCKED.changed({section: {name: looser}})
    assert path in {one.path for one in loosened(LOCKED, changed)}
    assert path not in {one.path for one in loosened(changed, LOCKED)}


def test_closes_without_limits_of_their_own_follow_those_of_openings() -> None:
    """They are loosened with them, and that nothing may be opened leaves them as they are."""
    more = LOCKED.changed({"governor": {"max_exec_per_hour": 6}})
    found = {one.path: (one.before, one.after) for one in loosened(LOCKED, more)}
    assert found == {"governor.max_exec_per_hour": (3, 6), "governor.max_closes_per_hour": (3, 6)}
    none = LOCKED.changed({"governor": {"max_exec_per_hour": 0}})
    assert next((one.path, one.loosened) for one in differences(LOCKED, none)) == ("governor.max_exec_per_hour", False)
    assert [one.path for one in loosened(none, LOCKED)] == ["governor.max_exec_per_hour"]


def test_a_symbol_is_named_where_it_differs_otherwise_than_all() -> None:
    """A looser limit of one symbol must not hide behind those of all."""
    desk = parse(f"{HEAD}[stops]\nsl_min_pct = 0.001\n[symbols.BTCUSDT.governor]\nmax_exec_per_hour = 9\n", "desk.toml")
    found = [(one.symbol, one.path, one.before, one.after, one.loosened) for one in differences(LOCKED, desk)]
    assert found == [
        ("", "stops.sl_min_pct", 0.005, 0.001, False),
        ("BTCUSDT", "governor.max_exec_per_hour", 3, 9, True),
        ("BTCUSDT", "governor.max_closes_per_hour", 3, 9, True),
    ]
    assert differences(desk, desk) == []


def test_the_shipped_profiles_loosen_no_limit() -> None:
    assert loosened(LOCKED, load("crypto-1m")) == []
