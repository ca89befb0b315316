"""A profile that was put in force stays so when the product is upgraded: new parameters have their defaults."""

import json

import pytest

from quantum_core.profiles.files import load, parse
from quantum_core.profiles.profile import LOCKED, flat_parameters, from_body
from resources.store.profiles import digest_of, profile_now

KEY = "quantum:profile:history"
SINCE_ADDED = [
    *("market_state.vol.tail", "market_state.vol.tail_exceedance", "market_state.vol.tail_horizon", "market_state.vol.tail_df"),
    *(
        "market_state.vol.tail_scale",
        "market_state.vol.step_df",
        "market_state.vol.step_scale",
        "market_state.trend.horizon",
        "market_state.regime.measure",
        "stops.tail_stop",
    ),
]


@pytest.mark.parametrize(
    ("text", "fingerprint"),
    [("", "9f5b30cb56bf"), ("[market_state.regime.score]\na1 = 8.0\n[stops]\nsl_min_pct = 0.0008\n", "d94b3c3c000e")],
)
def test_a_parameter_added_later_changes_no_fingerprint_while_it_is_at_its_default(text: str, fingerprint: str) -> None:
    """Every published row and every record names one: after an upgrade they would name parameters nobody knows."""
    profile = parse(f'name = "desk"\n{text}', "desk.toml")
    assert profile.fingerprint == fingerprint
    assert set(SINCE_ADDED) <= flat_parameters(profile).keys()
    assert parse('name = "desk"\n[stops]\ntail_stop = false\n', "desk.toml").fingerprint == LOCKED.fingerprint


@pytest.mark.parametrize("path", SINCE_ADDED)
def test_a_parameter_added_later_is_in_the_fingerprint_once_it_is_set(path: str) -> None:
    """Equal fingerprints mean equal parameters, for all symbols and for a single one."""
    values = {"tail": "historical", "tail_stop": True, "measure": "significance", "tail_exceedance": 0.01}
    *groups, name = path.split(".")
    text = f"{name} = {json.dumps(values.get(name, 7))}\n"
    whole = parse(f'name = "desk"\n[{".".join(groups)}]\n{text}', "desk.toml")
    single = parse(f'name = "desk"\n[symbols.BTCUSDT.{".".join(groups)}]\n{text}', "desk.toml")
    assert whole.fingerprint != LOCKED.fingerprint
    assert single.fingerprint_of("BTCUSDT") == whole.fingerprint
    assert single.fingerprint_of("ETHUSDT") == LOCKED.fingerprint
    assert from_body(json.loads(whole.text())).fingerprint == whole.fingerprint
    assert flat_parameters(whole)[path] != flat_parameters(LOCKED)[path]


def test_a_profile_stored_by_a_version_with_fewer_parameters_stays_in_force(make_store) -> None:
    """Its fingerprint was another then: what is checked is the text, as it was stored."""
    store, profile, then = make_store(), load("crypto-1m"), "0123456789ab"
    fields = {"name": profile.name, "fingerprint": then, "profile": profile.text(), "by": "ada", "reason": "r", "at": "1"}
    store.client.xadd(KEY, {**fields, "digest": digest_of(profile.name, then, profile.text())})
    now = profile_now(store)
    assert (now.profile.fingerprint, now.trouble) == (profile.fingerprint, "")


def test_a_text_edited_with_its_fingerprint_is_still_found(make_store) -> None:
    """Whoever edits both has forgotten the digest."""
    store, profile = make_store(), load("crypto-1m")
    edited = json.loads(profile.text())
    edited["stops"]["sl_min_pct"] = 0.2
    fields = {"name": profile.name, "fingerprint": "1" * 12, "profile": json.dumps(edited), "by": "eve", "reason": "r", "at": "1"}
    store.client.xadd(KEY, {**fields, "digest": digest_of(profile.name, profile.fingerprint, profile.text())})
    now = profile_now(store)
    assert now.profile.name == "locked-v1"
    assert "edited since it was stored" in now.trouble
