"""A profile without evidence for the candles it runs on is named: nobody has measured what its numbers are worth."""

import pytest

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding
from quantum_assets.checks.proofs.product import profile_evidence
from quantum_core.profiles.files import load
from resources.store.profiles import use
from tests.world import with_evidence


def test_a_profile_measured_on_these_candles_holds(make_store, tmp_path) -> None:
    """What is said of it is shown."""
    finding = profile_evidence(Evidence(make_store(profile=with_evidence(tmp_path, verdict="no better than chance"))))
    assert finding.failing == {}
    assert finding.observed.endswith(": no better than chance")


def failing(finding: Finding, name: str) -> str:
    assert set(finding.failing) == {name}
    return finding.failing[name]


@pytest.mark.parametrize(
    ("evidence", "settings", "why"),
    [
        ({"interval_sec": 300}, {}, "its evidence is of candles of 300 s, CANDLE_INTERVAL_SEC is 60"),
        ({}, {"candle_interval_sec": 300}, "its evidence is of candles of 60 s, CANDLE_INTERVAL_SEC is 300"),
        ({"interval_sec": "60"}, {}, "its evidence is of candles of 60 s"),
        ({"fingerprint": "0123456789ab"}, {}, "its evidence is of the parameters 0123456789ab, and they are "),
        ({}, {"fallback_stop_pct": 0.03}, "settings of the environment have changed its harvest"),
    ],
    ids=["candles", "deployment", "text", "parameters", "settings"],
)
def test_evidence_of_something_else_is_none(make_store, tmp_path, evidence, settings, why) -> None:
    store = make_store(profile=with_evidence(tmp_path, **evidence), **settings)
    assert failing(profile_evidence(Evidence(store)), "measured").startswith(why)


def test_limits_of_the_governor_that_a_desk_sets_leave_the_evidence_as_it_is(make_store, tmp_path) -> None:
    """Evidence says what sigma, regimes, stops and harvest are worth, and nothing of permits per hour."""
    store = make_store(profile=with_evidence(tmp_path), gov_max_exec_per_hour=3)
    assert profile_evidence(Evidence(store)).failing == {}


def test_what_is_put_in_force_counts_and_not_what_was_started_with(make_store, tmp_path) -> None:
    measured = with_evidence(tmp_path)
    store = make_store()
    assert failing(profile_evidence(Evidence(store)), "locked-v1").startswith("it has no evidence")
    use(store, load(measured), by="ada", reason="measured")
    assert profile_evidence(Evidence(store)).failing == {}
    use(store, load("locked-v1"), by="ada", reason="back")
    assert set(profile_evidence(Evidence(store)).failing) == {"locked-v1"}
