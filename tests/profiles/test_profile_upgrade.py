"""A profile that was put in force stays so when the product is upgraded: new parameters have their defaults."""

import json

from quantum_core.profiles.files import load
from resources.store.profiles import digest_of, profile_now

KEY = "quantum:profile:history"


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
